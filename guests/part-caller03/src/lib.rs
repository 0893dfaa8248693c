//! Calls the functions of its part, `part03`, and answers with what they returned. wasi:http 0.3.
//!
//! | path          | calls                                     |
//! |---------------|-------------------------------------------|
//! | `/add/N`      | `counter.add`                             |
//! | `/sleep/N`    | `slow.sleep` (async)                      |
//! | `/both/N`     | `slow.sleep` twice at the same time       |
//! | `/block/N`    | `faults.sleep`                            |
//! | `/loop/WHAT/N` | N times `add` or `sleep`, for benchmarks |
//! | `/trap`       | `faults.trap`                             |

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{spawn_local, wit_future, wit_stream};

use crate::example::parts::{counter, faults, slow};

wit_bindgen::generate!({ path: "../part/wit", world: "caller03" });
wasip3::http::service::export!(Caller);

struct Caller;

impl Guest for Caller {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let path: Vec<&str> = target.trim_start_matches('/').split('/').collect();
        let number = |text: &str| text.parse().unwrap_or(0);
        let answer = match *path.as_slice() {
            ["add", by] => counter::add(number(by)),
            ["sleep", millis] => slow::sleep(number(millis)).await,
            ["both", millis] => {
                let (one, other) = join(slow::sleep(number(millis)), slow::sleep(number(millis))).await;
                one + other
            }
            ["block", millis] => faults::sleep(number(millis)),
            ["loop", "add", times] => (0..number(times)).map(|_| counter::add(0)).fold(0, u32::wrapping_add),
            ["loop", "sleep", times] => {
                for _ in 0..number(times) {
                    slow::sleep(0).await;
                }
                0
            }
            ["trap"] => {
                faults::trap();
                0
            }
            _ => 0,
        };
        let (mut writer, body) = wit_stream::new();
        let (trailers_writer, trailers) = wit_future::new(|| Ok(None));
        drop(trailers_writer); // that writes the default
        let (response, _sent) = Response::new(Fields::new(), Some(body), trailers);
        spawn_local(async move {
            let _unsent = writer.write_all(answer.to_string().into_bytes()).await;
        });
        Ok(response)
    }
}

/// Waits for both.
async fn join<A: Future, B: Future>(a: A, b: B) -> (A::Output, B::Output) {
    use std::{future::poll_fn, pin::pin, task::Poll};
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut first, mut second) = (None, None);
    poll_fn(|cx| {
        if first.is_none()
            && let Poll::Ready(value) = a.as_mut().poll(cx)
        {
            first = Some(value);
        }
        if second.is_none()
            && let Poll::Ready(value) = b.as_mut().poll(cx)
        {
            second = Some(value);
        }
        match (first.take(), second.take()) {
            (Some(a), Some(b)) => Poll::Ready((a, b)),
            (a, b) => {
                (first, second) = (a, b);
                Poll::Pending
            }
        }
    })
    .await
}
