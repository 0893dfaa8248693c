//! Streams bodies in every direction, in bounded memory however long they are. wasi:http 0.3.
//!
//! | path       | answer                                                                                          |
//! |------------|-------------------------------------------------------------------------------------------------|
//! | `/bytes/N` | N bytes; byte i is `i % 251`                                                                    |
//! | `/count`   | reads the whole body, then one line `length sum`: its length and the sum of its bytes mod 2^32  |
//! | `/headers` | the request's headers, one `name: value` a line                                                 |
//! | `/pipe`    | the request's body and trailers, handed to the response without passing through this component  |
//! | any other  | the request's body and trailers, copied chunk by chunk                                          |
//!
//! Every answer names the request in `x-method` and `x-path`. The paths, and every answer, are those of `echo02`.

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, Response, Trailers};
use wasip3::wit_bindgen::{FutureReader, StreamReader, StreamResult, StreamWriter};
use wasip3::{spawn_local, wit_future, wit_stream};

wasip3::http::service::export!(Echo);

struct Echo;

/// What one read asks for, and so what one copy holds in memory.
const CHUNK_BYTES: usize = 64 * 1024;
/// The pattern of `/bytes` repeats after so many bytes: a prime, so that no chunk size of the transport hides a fault.
const PATTERN_BYTES: u64 = 251;
/// Headers of the request that describe its body, and so describe the echo.
const BODY_HEADERS: [&str; 3] = ["content-type", "content-length", "trailer"];

type TrailersResult = Result<Option<Trailers>, ErrorCode>;

impl Guest for Echo {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default();
        let fields = Fields::new();
        set(&fields, "x-method", method_name(&request.get_method()).as_bytes())?;
        set(&fields, "x-path", target.as_bytes())?;

        if let Some(count) = path.strip_prefix("/bytes/") {
            return match count.parse() {
                Ok(count) => bytes(fields, count),
                Err(_) => text(fields, 400, format!("{count} is not a number of bytes\n")),
            };
        }
        match path {
            "/headers" => text(fields, 200, headers_as_text(&request)),
            "/count" => {
                let (length, sum) = count(request).await?;
                text(fields, 200, format!("{length} {sum}\n"))
            }
            _ => {
                let headers = request.get_headers();
                for name in BODY_HEADERS {
                    fields.set(name, &headers.get(name)).map_err(internal)?;
                }
                let (body, trailers) = consume(request);
                let body = if path == "/pipe" { body } else { copied(body) };
                Ok(response(fields, 200, body, trailers))
            }
        }
    }
}

/// The same bytes, read and written here. The copy goes on after the head of the response is out: a component lives on
/// until its spawned tasks end.
fn copied(mut body: StreamReader<u8>) -> StreamReader<u8> {
    let (mut writer, reader) = wit_stream::new();
    spawn_local(async move {
        // A write waits until the other side has taken the bytes, so the caller's pace is the pace of the reads.
        while let Some(chunk) = next_chunk(&mut body).await {
            if !writer.write_all(chunk).await.is_empty() {
                return; // nobody reads any more
            }
        }
    });
    reader
}

/// Answers the length of the body and the sum of its bytes.
async fn count(request: Request) -> Result<(u64, u32), ErrorCode> {
    let (mut body, trailers) = consume(request);
    let (mut length, mut sum) = (0u64, 0u32);
    while let Some(chunk) = next_chunk(&mut body).await {
        length += chunk.len() as u64;
        sum = chunk.iter().fold(sum, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    }
    trailers.await?; // a body that was cut short ends like a whole one: the error is here
    Ok((length, sum))
}

fn bytes(fields: Fields, count: u64) -> Result<Response, ErrorCode> {
    set(&fields, "content-type", b"application/octet-stream")?;
    set(&fields, "content-length", count.to_string().as_bytes())?;
    let (writer, reader) = wit_stream::new();
    spawn_local(write_pattern(writer, count));
    Ok(response(fields, 200, reader, no_trailers()))
}

async fn write_pattern(mut writer: StreamWriter<u8>, count: u64) {
    // Whole repeats of the pattern, so that every chunk begins at its start.
    let repeats = CHUNK_BYTES as u64 / PATTERN_BYTES;
    let chunk: Vec<u8> = (0..repeats * PATTERN_BYTES).map(|i| (i % PATTERN_BYTES) as u8).collect();
    let mut left = count;
    while left > 0 {
        let size = left.min(chunk.len() as u64);
        let part = chunk.iter().copied().take(size as usize).collect();
        if !writer.write_all(part).await.is_empty() {
            return;
        }
        left -= size;
    }
}

fn headers_as_text(request: &Request) -> String {
    let lines = request.get_headers().copy_all().into_iter();
    lines.map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(&value))).collect()
}

fn text(fields: Fields, status: u16, text: String) -> Result<Response, ErrorCode> {
    set(&fields, "content-type", b"text/plain; charset=utf-8")?;
    set(&fields, "content-length", text.len().to_string().as_bytes())?;
    let (mut writer, reader) = wit_stream::new();
    spawn_local(async move { writer.write_all(text.into_bytes()).await });
    Ok(response(fields, status, reader, no_trailers()))
}

fn response(fields: Fields, status: u16, body: StreamReader<u8>, trailers: FutureReader<TrailersResult>) -> Response {
    // The future tells when the response was sent, or why not. Nothing here depends on it.
    let (response, _sent) = Response::new(fields, Some(body), trailers);
    let _ = response.set_status_code(status);
    response
}

fn no_trailers() -> FutureReader<TrailersResult> {
    let (_writer, reader) = wit_future::new(|| Ok(None)); // a dropped writer delivers this default
    reader
}

fn consume(request: Request) -> (StreamReader<u8>, FutureReader<TrailersResult>) {
    let (_writer, processed) = wit_future::new(|| Ok(()));
    Request::consume_body(request, processed)
}

/// The next bytes of a body, or `None` at its end.
async fn next_chunk(body: &mut StreamReader<u8>) -> Option<Vec<u8>> {
    match body.read(Vec::with_capacity(CHUNK_BYTES)).await {
        (StreamResult::Complete(_), chunk) => Some(chunk),
        (StreamResult::Dropped | StreamResult::Cancelled, _) => None,
    }
}

fn set(fields: &Fields, name: &str, value: &[u8]) -> Result<(), ErrorCode> {
    fields.set(name, &[value.to_vec()]).map_err(internal)
}

fn internal(error: impl std::fmt::Debug) -> ErrorCode {
    ErrorCode::InternalError(Some(format!("{error:?}")))
}

fn method_name(method: &Method) -> &str {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
        Method::Other(name) => name,
    }
}
