//! Sends a request to where it is told, and passes the response through. wasi:http 0.3.
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
//! or 502 with the error code as text. Where the response breaks off, the answer does, too: the host moves the bytes, and
//! its end travels in the trailers.

use wasip3::exports::http::handler::Guest;
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, RequestOptions, Response, Scheme};
use wasip3::{spawn_local, wit_future, wit_stream};

wasip3::http::service::export!(Fetcher);

struct Fetcher;

const NANOS_PER_MILLI: u64 = 1_000_000;

impl Guest for Fetcher {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        Ok(match fetch(request).await {
            Ok(response) => pass(response),
            Err(code) => refuse(format!("{code:?}\n")),
        })
    }
}

async fn fetch(request: Request) -> Result<Response, ErrorCode> {
    let headers = request.get_headers();
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
    let options = RequestOptions::new();
    let time =
        |name: &str| header(name).and_then(|text| text.parse::<u64>().ok()).map(|millis| millis * NANOS_PER_MILLI);
    let _ = options.set_connect_timeout(time("x-connect-ms"));
    let _ = options.set_first_byte_timeout(time("x-first-byte-ms"));
    let _ = options.set_between_bytes_timeout(time("x-between-bytes-ms"));

    let method = request.get_method();
    let (contents, trailers) = if matches!(method, Method::Post | Method::Put | Method::Patch) {
        let (_writer, processed) = wit_future::new(|| Ok(()));
        let (body, trailers) = Request::consume_body(request, processed);
        (Some(body), trailers)
    } else {
        let (_writer, trailers) = wit_future::new(|| Ok(None)); // a dropped writer delivers this default
        (None, trailers)
    };
    let (outgoing, _sent) = Request::new(fields, contents, trailers, Some(options));
    let set = outgoing
        .set_method(&method)
        .and_then(|()| outgoing.set_scheme(Some(&scheme)))
        .and_then(|()| outgoing.set_authority(Some(authority)))
        .and_then(|()| outgoing.set_path_with_query(Some(if path.is_empty() { "/" } else { path })));
    set.map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    client::send(outgoing).await
}

fn pass(response: Response) -> Response {
    let fields = Fields::new();
    let headers = response.get_headers();
    let _ = fields.set("content-type", &headers.get("content-type"));
    let _ = fields.set("x-seen", &[headers.copy_all().len().to_string().into_bytes()]);
    let status = response.get_status_code();
    let (_writer, processed) = wit_future::new(|| Ok(()));
    let (body, trailers) = Response::consume_body(response, processed);
    let (answer, _sent) = Response::new(fields, Some(body), trailers);
    let _ = answer.set_status_code(status);
    answer
}

fn refuse(text: String) -> Response {
    let (mut writer, reader) = wit_stream::new();
    spawn_local(async move {
        writer.write_all(text.into_bytes()).await;
    });
    let (_writer, trailers) = wit_future::new(|| Ok(None));
    let (answer, _sent) = Response::new(Fields::new(), Some(reader), trailers);
    let _ = answer.set_status_code(502);
    answer
}
