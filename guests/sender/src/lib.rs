//! Sends messages over NATS: `wasmcloud:messaging` with its published WIT, and nothing of the lattice. wasi:http 0.2.
//!
//! | request                            | answers                                                       |
//! |------------------------------------|---------------------------------------------------------------|
//! | `POST /publish/SUBJECT`            | 202; the body was published there, with the header `reply-to` as the subject for replies |
//! | `POST /request/SUBJECT`, `?ms=N`   | the first reply to the body, waited for 2 s or N milliseconds |
//! | any other                          | `hello`                                                       |
//!
//! What was not carried is 502, with the reason.

use std::io::{Read as _, Write as _};

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

use crate::wasmcloud::messaging::{consumer, types::BrokerMessage};

wit_bindgen::generate!({
    path: "../../wit/deps/messaging",
    inline: "package example:sender; world sender { import wasmcloud:messaging/consumer@0.2.0; }",
    world: "example:sender/sender",
    generate_all,
});
wasip2::http::proxy::export!(Sender);

struct Sender;

impl Guest for Sender {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let (status, body) = match answer(&request) {
            Ok(answer) => answer,
            Err(why) => (502, format!("{why}\n").into_bytes()),
        };
        let response = OutgoingResponse::new(Fields::new());
        let _ = response.set_status_code(status);
        let Ok(outgoing) = response.body() else { return };
        ResponseOutparam::set(response_out, Ok(response));
        // An error here means that the caller is gone, and then there is nobody to tell.
        if let Ok(mut stream) = outgoing.write() {
            let _ = stream.write_all(&body);
        }
        let _ = OutgoingBody::finish(outgoing, None);
    }
}

fn answer(request: &IncomingRequest) -> Result<(u16, Vec<u8>), String> {
    let target = request.path_with_query().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    if !matches!(request.method(), Method::Post) {
        return Ok((200, b"hello\n".to_vec()));
    }
    let mut body = Vec::new();
    if let Ok(incoming) = request.consume() {
        if let Ok(mut stream) = incoming.stream() {
            stream.read_to_end(&mut body).map_err(|error| error.to_string())?;
        }
        drop(IncomingBody::finish(incoming));
    }
    match path.trim_start_matches('/').split_once('/') {
        Some(("publish", subject)) => {
            let reply_to = request.headers().get("reply-to").pop();
            let reply_to = reply_to.map(|subject| String::from_utf8_lossy(&subject).into_owned());
            consumer::publish(&BrokerMessage { subject: subject.into(), body, reply_to })?;
            Ok((202, Vec::new()))
        }
        Some(("request", subject)) => {
            let millis = query.strip_prefix("ms=").and_then(|millis| millis.parse().ok()).unwrap_or(2_000);
            Ok((200, consumer::request(subject, &body, millis)?.body))
        }
        _ => Ok((200, b"hello\n".to_vec())),
    }
}
