//! Answers the configuration that the workload's spec gives its component, read over wasi:config. wasi:http 0.2.
//!
//! | path    | answer                                            |
//! |---------|---------------------------------------------------|
//! | `/`     | all of it, one `key=value` a line, sorted by key  |
//! | `/KEY`  | the value of KEY, or 404                          |
//!
//! It shows how to import an interface that no crate has bindings for: put its WIT into `wit/` and let `generate!` write
//! them. The exports come from `wasip2` as elsewhere; the linker joins both worlds.

use std::io::Write as _;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

use crate::wasi::config::store;

wit_bindgen::generate!({ path: "wit", generate_all });
wasip2::http::proxy::export!(Config);

struct Config;

impl Guest for Config {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let key = target.split('?').next().unwrap_or_default().trim_start_matches('/');
        let (status, body) = match answer(key) {
            Ok(Some(body)) => (200, body),
            Ok(None) => (404, format!("no configuration {key}\n")),
            Err(store::Error::Upstream(error) | store::Error::Io(error)) => (500, format!("{error}\n")),
        };
        respond(response_out, status, &body);
    }
}

fn answer(key: &str) -> Result<Option<String>, store::Error> {
    if !key.is_empty() {
        return Ok(store::get(key)?.map(|value| format!("{value}\n")));
    }
    let mut entries = store::get_all()?;
    entries.sort();
    Ok(Some(entries.iter().map(|(key, value)| format!("{key}={value}\n")).collect()))
}

/// Errors are dropped here: they mean that the caller is gone, and then there is nobody to tell.
fn respond(response_out: ResponseOutparam, status: u16, body: &str) {
    let fields = Fields::new();
    let _ = fields.set("content-type", &[b"text/plain; charset=utf-8".to_vec()]);
    let _ = fields.set("content-length", &[body.len().to_string().into_bytes()]);
    let response = OutgoingResponse::new(fields);
    let _ = response.set_status_code(status);
    let Ok(outgoing) = response.body() else { return };
    ResponseOutparam::set(response_out, Ok(response));
    if let Ok(mut stream) = outgoing.write() {
        let _ = stream.write_all(body.as_bytes());
    }
    let _ = OutgoingBody::finish(outgoing, None);
}
