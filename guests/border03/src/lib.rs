//! Calls `border` and `greeter` in every way that there is. wasi:http 0.3.
//!
//! | path       | answer                                                              |
//! |------------|---------------------------------------------------------------------|
//! | `/`        | a line for each way, with what came back                            |
//! | `/upper`   | the request's body in capitals, streamed through the other component |

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response, Trailers};
use wasip3::wit_bindgen::{FutureReader, StreamReader};
use wasip3::{spawn_local, wit_future, wit_stream};

use crate::bindings::example::border::{concurrent, plain};
use crate::bindings::example::greeter::greet;

wasip3::http::service::export!(Border03);

mod bindings {
    wasip3::wit_bindgen::generate!({
        path: ["../border/wit", "../greeter/wit"],
        inline: "package lattice:guests;
            world border03 {
                include example:border/caller@0.1.0;
                include example:greeter/caller@0.1.0;
            }",
        world: "lattice:guests/border03",
        runtime_path: "wasip3::wit_bindgen::rt",
        generate_all,
    });
}

struct Border03;

impl Guest for Border03 {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        if target == "/upper" {
            let (_sent, result) = wit_future::new(|| Ok(()));
            let (body, trailers) = Request::consume_body(request, result);
            return Ok(response(concurrent::transform(body).await, trailers));
        }
        let answer = every_way().await.into_bytes();
        let (mut writer, reader) = wit_stream::new();
        spawn_local(async move {
            writer.write_all(answer).await;
        });
        let (_none, trailers) = wit_future::new(|| Ok(None));
        Ok(response(reader, trailers))
    }
}

async fn every_way() -> String {
    let page = plain::Page::new("one");
    page.append(" two");
    let text = page.text();
    let length = plain::close(page);
    let read = concurrent::read(plain::Page::new("three")).await.collect().await;
    let (mut writer, reader) = wit_stream::new();
    spawn_local(async move {
        writer.write_all(b"a stream of bytes".to_vec()).await;
    });
    let transformed = concurrent::transform(reader).await.collect().await;
    let later = concurrent::later(21).await.await;
    format!(
        "sum {}\npage {text}, {length} bytes\nread {}\nupper {}\nstream {}\nfuture {later}\ngreeting {}\n",
        plain::add(2, 3),
        String::from_utf8_lossy(&read),
        concurrent::upper("async".to_owned()).await,
        String::from_utf8_lossy(&transformed),
        greet::greet("border"),
    )
}

fn response(body: StreamReader<u8>, trailers: FutureReader<Result<Option<Trailers>, ErrorCode>>) -> Response {
    // The future tells when the response was sent, or why not. Nothing here depends on it.
    let (response, _sent) = Response::new(Fields::new(), Some(body), trailers);
    response
}
