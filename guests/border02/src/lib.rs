//! Calls the plain functions of `border`, which is of WASI 0.3, and answers with what came back. wasi:http 0.2.

use std::io::Write as _;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

use crate::example::border::plain;

wit_bindgen::generate!({ path: "../border/wit", world: "plain-caller" });
wasip2::http::proxy::export!(Border02);

struct Border02;

impl Guest for Border02 {
    fn handle(_: IncomingRequest, response_out: ResponseOutparam) {
        let page = plain::Page::new("one");
        page.append(" two");
        let text = page.text();
        let length = plain::close(page);
        let response = OutgoingResponse::new(Fields::new());
        let Ok(outgoing) = response.body() else { return };
        ResponseOutparam::set(response_out, Ok(response));
        // An error here means that the caller is gone, and then there is nobody to tell.
        if let Ok(mut stream) = outgoing.write() {
            let _ = writeln!(stream, "sum {}\npage {text}, {length} bytes", plain::add(2, 3));
        }
        let _ = OutgoingBody::finish(outgoing, None);
    }
}
