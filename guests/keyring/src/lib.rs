//! Tells whether a client knows a secret that the workload's spec gives to its component, read over wasmcloud:secrets. wasi:http 0.2.
//!
//! | path             | answer                                                         |
//! |------------------|----------------------------------------------------------------|
//! | `/KEY`           | how many bytes the secret under KEY has, or 404                |
//! | `/KEY/GUESS`     | `yes` if it is GUESS, or 403                                   |
//!
//! It shows how a secret is kept out of sight: the handle goes through the program, and the value is revealed where it is
//! compared. The comparison looks at every byte, so that its duration tells nothing.

use std::io::Write as _;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

use crate::wasmcloud::secrets::{
    reveal::reveal,
    store::{self, SecretValue, SecretsError},
};

wit_bindgen::generate!({ path: "wit", generate_all });
wasip2::http::proxy::export!(Keyring);

struct Keyring;

impl Guest for Keyring {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (key, guess) = match target.trim_start_matches('/').split_once('/') {
            Some((key, guess)) => (key, Some(guess)),
            None => (target.trim_start_matches('/'), None),
        };
        let (status, body) = match (store::get(key), guess) {
            (Ok(secret), None) => (200, format!("{} bytes\n", bytes(reveal(&secret)).len())),
            (Ok(secret), Some(guess)) if is_same(&bytes(reveal(&secret)), guess.as_bytes()) => {
                (200, "yes\n".to_owned())
            }
            (Ok(_), Some(_)) => (403, "no\n".to_owned()),
            (Err(SecretsError::NotFound), _) => (404, format!("no secret {key}\n")),
            (Err(SecretsError::Upstream(error) | SecretsError::Io(error)), _) => (500, format!("{error}\n")),
        };
        respond(response_out, status, &body);
    }
}

fn bytes(value: SecretValue) -> Vec<u8> {
    match value {
        SecretValue::String(text) => text.into_bytes(),
        SecretValue::Bytes(bytes) => bytes,
    }
}

fn is_same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differs, (one, other)| differs | (one ^ other)) == 0
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
