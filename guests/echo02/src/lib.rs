//! Streams bodies in every direction, in bounded memory however long they are. wasi:http 0.2.
//!
//! | path       | answer                                                                                          |
//! |------------|-------------------------------------------------------------------------------------------------|
//! | `/bytes/N` | N bytes; byte i is `i % 251`                                                                    |
//! | `/count`   | reads the whole body, then one line `length sum`: its length and the sum of its bytes mod 2^32  |
//! | `/headers` | the request's headers, one `name: value` a line                                                 |
//! | `/pipe`    | the request's body and trailers; the host moves the bytes, they do not pass through here        |
//! | any other  | the request's body and trailers, copied chunk by chunk                                          |
//!
//! Every answer names the request in `x-method` and `x-path`. The paths, and every answer, are those of `echo`.

use std::io::{Error, Read as _, Result, Write as _};

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
    Trailers,
};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

wasip2::http::proxy::export!(Echo);

struct Echo;

/// What one read asks for, and so what one copy holds in memory.
const CHUNK_BYTES: usize = 64 * 1024;
/// The pattern of `/bytes` repeats after so many bytes: a prime, so that no chunk size of the transport hides a fault.
const PATTERN_BYTES: u64 = 251;
/// Headers of the request that describe its body, and so describe the echo.
const BODY_HEADERS: [&str; 3] = ["content-type", "content-length", "trailer"];

impl Guest for Echo {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        // Before the head is out an error can still become an answer; after that the body can only be cut short, which
        // dropping it unfinished does.
        let mut exchange = Exchange { response_out: Some(response_out) };
        let outcome = serve(request, &mut exchange);
        if let (Err(error), Some(response_out)) = (outcome, exchange.response_out.take()) {
            ResponseOutparam::set(response_out, Err(ErrorCode::InternalError(Some(error.to_string()))));
        }
    }
}

/// The response, before its head is out.
struct Exchange {
    response_out: Option<ResponseOutparam>,
}

impl Exchange {
    /// Sends the head and passes on where the body goes.
    fn start(&mut self, fields: Fields, status: u16) -> Result<OutgoingBody> {
        let response = OutgoingResponse::new(fields);
        let _ = response.set_status_code(status);
        let body = response.body().map_err(|()| Error::other("the body was taken"))?;
        let response_out = self.response_out.take().ok_or_else(|| Error::other("the head is out already"))?;
        ResponseOutparam::set(response_out, Ok(response));
        Ok(body)
    }

    fn text(&mut self, fields: Fields, status: u16, text: &str) -> Result<()> {
        set(&fields, "content-type", b"text/plain; charset=utf-8")?;
        set(&fields, "content-length", text.len().to_string().as_bytes())?;
        let body = self.start(fields, status)?;
        write(body, |stream| stream.write_all(text.as_bytes()).map(|()| None))
    }
}

fn serve(request: IncomingRequest, exchange: &mut Exchange) -> Result<()> {
    let target = request.path_with_query().unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    let fields = Fields::new();
    set(&fields, "x-method", method_name(&request.method()).as_bytes())?;
    set(&fields, "x-path", target.as_bytes())?;

    if let Some(count) = path.strip_prefix("/bytes/") {
        let Ok(count) = count.parse::<u64>() else {
            return exchange.text(fields, 400, &format!("{count} is not a number of bytes\n"));
        };
        set(&fields, "content-type", b"application/octet-stream")?;
        set(&fields, "content-length", count.to_string().as_bytes())?;
        let body = exchange.start(fields, 200)?;
        return write(body, |stream| write_pattern(stream, count).map(|()| None));
    }
    match path {
        "/headers" => exchange.text(fields, 200, &headers_as_text(&request)),
        "/count" => {
            let (mut length, mut sum) = (0u64, 0u32);
            read(request, |stream| {
                let mut buffer = vec![0; CHUNK_BYTES];
                loop {
                    let length_read = stream.read(&mut buffer)?;
                    let chunk = buffer.get(..length_read).unwrap_or_default();
                    if chunk.is_empty() {
                        return Ok(());
                    }
                    length += chunk.len() as u64;
                    sum = chunk.iter().fold(sum, |sum, byte| sum.wrapping_add(u32::from(*byte)));
                }
            })?;
            exchange.text(fields, 200, &format!("{length} {sum}\n"))
        }
        _ => {
            let headers = request.headers();
            for name in BODY_HEADERS {
                fields.set(name, &headers.get(name)).map_err(as_error)?;
            }
            drop(headers); // a child of the request, which `read` consumes
            let copy = if path == "/pipe" { splice } else { copy };
            let body = exchange.start(fields, 200)?;
            write(body, |out| read(request, |stream| copy(stream, out)))
        }
    }
}

/// Lets `take` read the body, then answers its trailers.
fn read(request: IncomingRequest, take: impl FnOnce(&mut InputStream) -> Result<()>) -> Result<Option<Trailers>> {
    let body = request.consume().map_err(|()| Error::other("the body was taken"))?;
    let mut stream = body.stream().map_err(|()| Error::other("the body was taken"))?;
    take(&mut stream)?;
    drop(stream); // a child of the body, which `finish` consumes
    let trailers = IncomingBody::finish(body);
    trailers.subscribe().block();
    match trailers.get() {
        Some(Ok(Ok(trailers))) => Ok(trailers),
        other => Err(Error::other(format!("the body did not end: {other:?}"))),
    }
}

/// Lets `fill` write the body, then ends it with the trailers that `fill` answers.
fn write(body: OutgoingBody, fill: impl FnOnce(&mut OutputStream) -> Result<Option<Trailers>>) -> Result<()> {
    let mut stream = body.write().map_err(|()| Error::other("the body was taken"))?;
    let trailers = fill(&mut stream)?;
    drop(stream); // a child of the body, which `finish` consumes
    OutgoingBody::finish(body, trailers).map_err(as_error)
}

fn copy(from: &mut InputStream, to: &mut OutputStream) -> Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let length_read = from.read(&mut buffer)?;
        let chunk = buffer.get(..length_read).unwrap_or_default();
        if chunk.is_empty() {
            return Ok(());
        }
        to.write_all(chunk)?;
    }
}

fn splice(from: &mut InputStream, to: &mut OutputStream) -> Result<()> {
    loop {
        match to.blocking_splice(from, CHUNK_BYTES as u64) {
            Ok(_) => {}
            Err(StreamError::Closed) => return Ok(()),
            Err(StreamError::LastOperationFailed(error)) => return Err(Error::other(error.to_debug_string())),
        }
    }
}

fn write_pattern(stream: &mut OutputStream, count: u64) -> Result<()> {
    // Whole repeats of the pattern, so that every chunk begins at its start.
    let repeats = CHUNK_BYTES as u64 / PATTERN_BYTES;
    let chunk: Vec<u8> = (0..repeats * PATTERN_BYTES).map(|i| (i % PATTERN_BYTES) as u8).collect();
    let mut left = count;
    while left > 0 {
        let size = left.min(chunk.len() as u64);
        stream.write_all(chunk.get(..size as usize).unwrap_or_default())?;
        left -= size;
    }
    Ok(())
}

fn headers_as_text(request: &IncomingRequest) -> String {
    let lines = request.headers().entries().into_iter();
    lines.map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(&value))).collect()
}

fn set(fields: &Fields, name: &str, value: &[u8]) -> Result<()> {
    fields.set(name, &[value.to_vec()]).map_err(as_error)
}

fn as_error(error: impl std::fmt::Debug) -> Error {
    Error::other(format!("{error:?}"))
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
