//! Sends a request to where it is told, and passes the response through. wasi:http 0.2.
//!
//! | header of the request   | meaning                                                                          |
//! |-------------------------|----------------------------------------------------------------------------------|
//! | `x-target`              | the URL; required                                                                |
//! | `x-pass`                | names of headers that are passed on, with spaces between them; may be itself     |
//! | `x-connect-ms`          | longest time until there is a connection                                         |
//! | `x-first-byte-ms`       | longest time until the head of the response                                      |
//! | `x-between-bytes-ms`    | longest time between two parts of its body                                       |
//!
//! The method is that of the request, and so is the body. The answer is the response: its status, body and `content-type`,
//! or 502 with the error code as text. Where the response breaks off, the answer does, too.

use std::io::{Error, Read as _, Result, Write as _};

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingRequest, IncomingResponse, Method, OutgoingBody, OutgoingRequest, OutgoingResponse,
    RequestOptions, ResponseOutparam, Scheme,
};

wasip2::http::proxy::export!(Fetcher);

struct Fetcher;

const CHUNK_BYTES: usize = 64 * 1024;
const NANOS_PER_MILLI: u64 = 1_000_000;

impl Guest for Fetcher {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        match fetch(request) {
            Ok(response) => {
                let _ = pass(response, response_out);
            }
            Err(code) => {
                let _ = refuse(response_out, &format!("{code:?}\n"));
            }
        }
    }
}

fn fetch(request: IncomingRequest) -> std::result::Result<IncomingResponse, ErrorCode> {
    let headers = request.headers();
    let header = |name: &str| headers.get(name).first().map(|value| String::from_utf8_lossy(value).into_owned());
    let target = header("x-target").ok_or(ErrorCode::HttpRequestUriInvalid)?;
    let (scheme, rest) = target.split_once("://").ok_or(ErrorCode::HttpRequestUriInvalid)?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };

    let fields = Fields::new();
    let passed = header("x-pass").unwrap_or_default();
    for name in ["content-length", "content-type", "x-cargo"].into_iter().chain(passed.split_whitespace()) {
        let _ = fields.set(name, &headers.get(name));
    }
    let outgoing = OutgoingRequest::new(fields);
    let set = outgoing
        .set_method(&request.method())
        .and_then(|()| outgoing.set_scheme(Some(&scheme)))
        .and_then(|()| outgoing.set_authority(Some(authority)))
        .and_then(|()| outgoing.set_path_with_query(Some(if path.is_empty() { "/" } else { path })));
    set.map_err(|()| ErrorCode::HttpRequestUriInvalid)?;

    let options = RequestOptions::new();
    let time =
        |name: &str| header(name).and_then(|text| text.parse::<u64>().ok()).map(|millis| millis * NANOS_PER_MILLI);
    let _ = options.set_connect_timeout(time("x-connect-ms"));
    let _ = options.set_first_byte_timeout(time("x-first-byte-ms"));
    let _ = options.set_between_bytes_timeout(time("x-between-bytes-ms"));
    let has_body = matches!(request.method(), Method::Post | Method::Put | Method::Patch);
    drop(headers); // a child of the request, whose body is taken below

    let internal = |error: Error| ErrorCode::InternalError(Some(error.to_string()));
    let body = if has_body { Some(outgoing.body().map_err(|()| ErrorCode::ConfigurationError)?) } else { None };
    let response = outgoing_handler::handle(outgoing, Some(options))?;
    if let Some(body) = body {
        // Where the target does not want the body, its answer says why.
        let _ = send_body(request, body).map_err(internal);
    }
    response.subscribe().block();
    match response.get() {
        Some(Ok(response)) => response,
        _ => Err(ErrorCode::InternalError(Some("no response".to_owned()))),
    }
}

fn send_body(request: IncomingRequest, body: OutgoingBody) -> Result<()> {
    let incoming = request.consume().map_err(|()| Error::other("the body was taken"))?;
    let mut from = incoming.stream().map_err(|()| Error::other("the body was taken"))?;
    let mut to = body.write().map_err(|()| Error::other("the body was taken"))?;
    copy(&mut from, &mut to)?;
    drop(to); // a child of the body, which `finish` consumes
    OutgoingBody::finish(body, None).map_err(|code| Error::other(format!("{code:?}")))
}

fn pass(response: IncomingResponse, response_out: ResponseOutparam) -> Result<()> {
    let fields = Fields::new();
    let _ = fields.set("content-type", &response.headers().get("content-type"));
    let _ = fields.set("x-seen", &[response.headers().entries().len().to_string().into_bytes()]);
    let answer = OutgoingResponse::new(fields);
    let _ = answer.set_status_code(response.status());
    let body = answer.body().map_err(|()| Error::other("the body was taken"))?;
    ResponseOutparam::set(response_out, Ok(answer));
    let incoming = response.consume().map_err(|()| Error::other("the body was taken"))?;
    let mut from = incoming.stream().map_err(|()| Error::other("the body was taken"))?;
    let mut to = body.write().map_err(|()| Error::other("the body was taken"))?;
    copy(&mut from, &mut to)?; // without `finish` the body of the answer is cut short
    drop(to);
    OutgoingBody::finish(body, None).map_err(|code| Error::other(format!("{code:?}")))
}

fn refuse(response_out: ResponseOutparam, text: &str) -> Result<()> {
    let answer = OutgoingResponse::new(Fields::new());
    let _ = answer.set_status_code(502);
    let body = answer.body().map_err(|()| Error::other("the body was taken"))?;
    ResponseOutparam::set(response_out, Ok(answer));
    let mut to = body.write().map_err(|()| Error::other("the body was taken"))?;
    to.write_all(text.as_bytes())?;
    drop(to);
    OutgoingBody::finish(body, None).map_err(|code| Error::other(format!("{code:?}")))
}

fn copy(from: &mut impl std::io::Read, to: &mut impl std::io::Write) -> Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let length = from.read(&mut buffer)?;
        let chunk = buffer.get(..length).unwrap_or_default();
        if chunk.is_empty() {
            return Ok(());
        }
        to.write_all(chunk)?;
    }
}
