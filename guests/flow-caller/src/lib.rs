//! Exchanges streams of bytes and futures with its service, `flow`. wasi:http 0.3.
//!
//! | path               | answer                                                                                     |
//! |--------------------|--------------------------------------------------------------------------------------------|
//! | `/make/COUNT/GOOD` | how many of COUNT bytes came; the service traps after GOOD of them                         |
//! | `/slow/COUNT/MS`   | reads one byte, waits, and answers how many were made meanwhile; then it drops the stream  |
//! | `/through/COUNT`   | the body is COUNT bytes, straight from the service                                         |
//! | `/made`            | how many bytes the service made                                                            |
//! | `/abandoned`       | of how many of its streams the reader went away                                            |
//! | `/sum/COUNT`       | sends COUNT ones, and answers with the sum                                                 |
//! | `/hoard/COUNT/MS`  | has the service make so many streams, and keeps them for so long; answers how many          |
//! | `/push/COUNT/MS`   | the same with streams that the service reads                                               |
//! | `/upper/TEXT`      | sends the text letter by letter; the body is what comes back, as it comes                  |
//! | `/later/N/TURNS`   | N, which the service has after so many turns                                               |
//! | `/unread/N`        | the same, which is dropped unread                                                          |
//! | `/settled`         | of how many of them the service knows that they were read or dropped                       |
//! | `/never/TURNS`     | has a value promised; the service traps first                                              |
//! | `/parcel/SIZE`     | how many bytes there are in a future of so many, which is in a record                       |
//! | `/hear/N`          | gives a future of N, and answers what the service heard                                    |
//! | `/default`         | the same of one whose writer is dropped                                                    |
//! | `/desert/MS`       | the same of one that is not written for so long                                            |
//! | `/heard`           | what the service heard last                                                                |
//! | `/pass/WORD`       | gives a future of the word, and reads the one that the service makes of it                 |

use wasip3::clocks::monotonic_clock::wait_for;
use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::wit_bindgen::{StreamReader, StreamResult};
use wasip3::{spawn_local, wit_future, wit_stream};

use crate::bindings::example::flow::{futures, streams};

mod bindings {
    wasip3::wit_bindgen::generate!({
        path: "../flow/wit",
        world: "caller",
        runtime_path: "wasip3::wit_bindgen::rt",
    });
}

wasip3::http::service::export!(Caller);

struct Caller;

const MILLI: u64 = 1_000_000;
const CHUNK: usize = 16 << 10;

impl Guest for Caller {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let path: Vec<&str> = target.trim_start_matches('/').split('/').collect();
        let number = |text: &str| text.parse().unwrap_or(0);
        let text = match *path.as_slice() {
            ["make", count, good] => {
                let mut data = streams::make(number(count), number(good)).await;
                let mut came = 0;
                loop {
                    let (result, bytes) = data.read(Vec::with_capacity(CHUNK)).await;
                    came += bytes.len();
                    if !matches!(result, StreamResult::Complete(_)) {
                        break;
                    }
                }
                came.to_string()
            }
            ["slow", count, millis] => {
                let before = streams::made();
                let mut data = streams::make(number(count), number(count)).await;
                let first = data.next().await;
                wait_for(u64::from(number(millis)) * MILLI).await;
                format!("{first:?} {}", streams::made() - before)
            }
            ["through", count] => return Ok(answer(streams::make(number(count), number(count)).await)),
            ["made"] => streams::made().to_string(),
            ["abandoned"] => streams::abandoned().to_string(),
            ["sum", count] => {
                let (mut writer, reader) = wit_stream::new();
                let mut left = number(count) as usize;
                spawn_local(async move {
                    while left > 0 {
                        let size = left.min(CHUNK);
                        writer.write_all(vec![1; size]).await;
                        left -= size;
                    }
                });
                streams::sum(reader).await.to_string()
            }
            ["hoard", count, millis] => {
                let mut kept = Vec::new();
                for _ in 0..number(count) {
                    kept.push(streams::make(CHUNK as u32, CHUNK as u32).await);
                }
                wait_for(u64::from(number(millis)) * MILLI).await;
                kept.len().to_string()
            }
            ["push", count, millis] => {
                let mut kept = Vec::new();
                for _ in 0..number(count) {
                    let (mut writer, reader) = wit_stream::new();
                    spawn_local(async move {
                        streams::sum(reader).await;
                    });
                    writer.write_all(vec![1; CHUNK]).await;
                    kept.push(writer);
                }
                wait_for(u64::from(number(millis)) * MILLI).await;
                kept.len().to_string()
            }
            ["upper", text] => {
                let (mut writer, reader) = wit_stream::new();
                let text = text.to_owned();
                spawn_local(async move {
                    for byte in text.bytes() {
                        writer.write_all(vec![byte]).await;
                    }
                });
                match streams::upper(reader).await {
                    Ok(data) => return Ok(answer(data)),
                    Err(error) => error,
                }
            }
            ["later", value, turns] => futures::later(number(value), number(turns)).await.await.to_string(),
            ["unread", value] => {
                drop(futures::later(number(value), 0).await);
                "dropped".to_owned()
            }
            ["settled"] => futures::settled().to_string(),
            ["never", turns] => futures::never(number(turns)).await.await,
            ["parcel", size] => match futures::pack(7, number(size)).await {
                None => "none".to_owned(),
                Some(parcel) => match parcel.content.await {
                    Ok(content) => format!("{}: {} bytes", parcel.id, content.len()),
                    Err(error) => error,
                },
            },
            ["hear", value] => {
                let (writer, reader) = bindings::wit_future::new(|| Err("nothing".to_owned()));
                let value = number(value);
                spawn_local(async move {
                    let _ = writer.write(Ok(value)).await;
                });
                futures::hear(reader).await
            }
            ["default"] => {
                let (writer, reader) = bindings::wit_future::new(|| Err("the default".to_owned()));
                drop(writer); // that writes the default
                futures::hear(reader).await
            }
            ["desert", millis] => {
                let (writer, reader) = bindings::wit_future::new(|| Err("nothing".to_owned()));
                let millis = u64::from(number(millis));
                spawn_local(async move {
                    wait_for(millis * MILLI).await;
                    drop(writer);
                });
                futures::hear(reader).await
            }
            ["heard"] => futures::heard(),
            ["pass", word] => {
                let (writer, reader) = bindings::wit_future::new(|| Err("nothing".to_owned()));
                let word = word.to_owned();
                spawn_local(async move {
                    let _ = writer.write(Ok(word)).await;
                });
                futures::pass(reader).await.await.unwrap_or_else(|error| error)
            }
            _ => "see the source".to_owned(),
        };
        let (mut writer, body) = wit_stream::new();
        spawn_local(async move {
            writer.write_all(text.into_bytes()).await;
        });
        Ok(answer(body))
    }
}

fn answer(body: StreamReader<u8>) -> Response {
    let (none, trailers) = wit_future::new(|| Ok(None));
    drop(none); // that writes the default
    let (response, _sent) = Response::new(Fields::new(), Some(body), trailers);
    response
}
