//! Reads and writes files in its volumes over streams. wasi:filesystem 0.3, which the standard library does not speak yet.
//!
//! | request              | answer                                                                            |
//! |----------------------|-----------------------------------------------------------------------------------|
//! | `GET /PATH`          | the file                                                                          |
//! | `POST /PATH`         | the request's query is appended to the file: its length                           |
//! | `PUT /PATH`          | the request's query is written to its beginning: its length                       |
//! | `GET /-/fill?DIR`    | bytes that could be written to one file until it was refused, and why             |
//!
//! What fails is answered as 507, with the error code as text.

use wasip3::exports::http::handler::Guest;
use wasip3::filesystem::preopens;
use wasip3::filesystem::types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags};
use wasip3::http::types::{ErrorCode as HttpError, Fields, Method, Request, Response};
use wasip3::wit_bindgen::StreamResult;
use wasip3::{spawn_local, wit_future, wit_stream};

wasip3::http::service::export!(Files);

struct Files;

const CHUNK: usize = 64 << 10;
/// Where it gives up because nothing stops it.
const ENOUGH: u64 = 1 << 30;

impl Guest for Files {
    async fn handle(request: Request) -> Result<Response, HttpError> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let (status, body) = match answer(&request.get_method(), path, query).await {
            Ok(body) => (200, body),
            Err(error) => (507, format!("{error}\n").into_bytes()),
        };
        let (mut writer, reader) = wit_stream::new();
        spawn_local(async move {
            writer.write_all(body).await;
        });
        let (_writer, trailers) = wit_future::new(|| Ok(None));
        let (answer, _sent) = Response::new(Fields::new(), Some(reader), trailers);
        let _ = answer.set_status_code(status);
        Ok(answer)
    }
}

async fn answer(method: &Method, path: &str, query: &str) -> Result<Vec<u8>, String> {
    if path == "/-/fill" {
        let file = open(&format!("{query}/full"), true).await?;
        let (mut writer, reader) = wit_stream::new();
        let end = file.append_via_stream(reader);
        // A write into a stream that its reader has dropped comes back with what is left.
        while file.stat().await.map_err(text)?.size < ENOUGH && writer.write_all(vec![7; CHUNK]).await.is_empty() {}
        drop(writer);
        let end = end.await;
        let size = file.stat().await.map_err(text)?.size;
        return Ok(match end {
            Ok(()) => format!("{size}\n"),
            Err(error) => format!("{size} {error:?}\n"),
        }
        .into_bytes());
    }
    match method {
        Method::Post | Method::Put => {
            let file = open(path, true).await?;
            let (mut writer, reader) = wit_stream::new();
            let end = if matches!(method, Method::Put) {
                file.write_via_stream(reader, 0)
            } else {
                file.append_via_stream(reader)
            };
            writer.write_all(query.as_bytes().to_vec()).await;
            drop(writer);
            end.await.map_err(text)?;
            Ok(format!("{}\n", file.stat().await.map_err(text)?.size).into_bytes())
        }
        _ => {
            let file = open(path, false).await?;
            let (mut reader, end) = file.read_via_stream(0);
            let mut bytes = Vec::new();
            loop {
                let (result, read) = reader.read(Vec::with_capacity(CHUNK)).await;
                bytes.extend(read);
                if !matches!(result, StreamResult::Complete(_)) {
                    break;
                }
            }
            end.await.map_err(text)?;
            Ok(bytes)
        }
    }
}

/// A file in the directory that its path begins with.
async fn open(path: &str, writes: bool) -> Result<Descriptor, String> {
    for (directory, mount) in preopens::get_directories() {
        let Some(inside) = path.strip_prefix(mount.as_str()) else { continue };
        let (open, flags) = if writes {
            (OpenFlags::CREATE, DescriptorFlags::READ | DescriptorFlags::WRITE)
        } else {
            (OpenFlags::empty(), DescriptorFlags::READ)
        };
        let inside = inside.trim_start_matches('/').to_owned();
        return directory.open_at(PathFlags::empty(), inside, open, flags).await.map_err(text);
    }
    Err("no such directory".to_owned())
}

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}
