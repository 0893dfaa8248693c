//! The smallest useful HTTP component for wasi:http 0.2: one function that takes a request and a place to put the answer.
//!
//! | path        | answer                                                  |
//! |-------------|---------------------------------------------------------|
//! | `/env/NAME` | the environment variable NAME, or 404                   |
//! | `/quiet`    | the greeting, without a line in the log (for benchmarks) |
//! | any other   | the greeting                                            |
//!
//! An instance answers one request after the other, so statics live on between requests. The counter shows how many
//! this instance has answered. Do not keep what matters in a static: an instance may go away after any request.

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

wasip2::http::proxy::export!(Hello);

struct Hello;

static REQUESTS: AtomicU64 = AtomicU64::new(0);

impl Guest for Hello {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let count = REQUESTS.fetch_add(1, Ordering::Relaxed) + 1;
        let target = request.path_with_query().unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default();
        if path != "/quiet" {
            // What a component prints is its log: `lattice logs hello`.
            println!("request {count}: {path}");
        }
        let (status, body) = answer(path, count);
        respond(response_out, status, &body);
    }
}

fn answer(path: &str, count: u64) -> (u16, String) {
    match path.strip_prefix("/env/") {
        Some(name) => match std::env::var(name) {
            Ok(value) => (200, format!("{value}\n")),
            Err(_) => (404, format!("no environment variable {name}\n")),
        },
        None => (200, format!("Hello from lattice, request {count} on this instance\n")),
    }
}

/// Errors are dropped here: they mean that the caller is gone, and then there is nobody to tell.
fn respond(response_out: ResponseOutparam, status: u16, body: &str) {
    let fields = Fields::new();
    let _ = fields.set("content-type", &[b"text/plain; charset=utf-8".to_vec()]);
    let _ = fields.set("content-length", &[body.len().to_string().into_bytes()]);
    let response = OutgoingResponse::new(fields);
    let _ = response.set_status_code(status);
    let Ok(outgoing) = response.body() else { return };

    // The head goes out first; the body may follow for as long as it takes.
    ResponseOutparam::set(response_out, Ok(response));
    if let Ok(mut stream) = outgoing.write() {
        let _ = stream.write_all(body.as_bytes());
    } // the stream is a child of the body and must be dropped before the body is finished
    let _ = OutgoingBody::finish(outgoing, None);
}
