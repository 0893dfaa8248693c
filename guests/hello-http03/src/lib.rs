//! The same hello as `hello-http02` for wasi:http 0.3: an async function from a request to a response.
//!
//! | path        | answer                                                  |
//! |-------------|---------------------------------------------------------|
//! | `/env/NAME` | the environment variable NAME, or 404                   |
//! | `/quiet`    | the greeting, without a line in the log (for benchmarks) |
//! | any other   | the greeting                                            |
//!
//! `http_compat` translates to the types of the `http` crate, which most Rust web code speaks already. An instance may
//! answer several requests at a time (they take turns at each `.await`), so the counter is an atomic.

use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderValue, Response, StatusCode, header};
use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{self, ErrorCode};
use wasip3::http_compat::http_into_wasi_response;

wasip3::http::service::export!(Hello);

struct Hello;

static REQUESTS: AtomicU64 = AtomicU64::new(0);

impl Guest for Hello {
    async fn handle(request: types::Request) -> Result<types::Response, ErrorCode> {
        let count = REQUESTS.fetch_add(1, Ordering::Relaxed) + 1;
        let target = request.get_path_with_query().unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default();
        if path != "/quiet" {
            // What a component prints is its log: `lattice logs hello`.
            println!("request {count}: {path}");
        }
        let (status, body) = answer(path, count);

        let length = HeaderValue::from(body.len());
        let mut response = Response::new(body);
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response.headers_mut().insert(header::CONTENT_LENGTH, length);
        http_into_wasi_response(response)
    }
}

fn answer(path: &str, count: u64) -> (StatusCode, String) {
    match path.strip_prefix("/env/") {
        Some(name) => match std::env::var(name) {
            Ok(value) => (StatusCode::OK, format!("{value}\n")),
            Err(_) => (StatusCode::NOT_FOUND, format!("no environment variable {name}\n")),
        },
        None => (StatusCode::OK, format!("Hello from lattice, request {count} on this instance\n")),
    }
}
