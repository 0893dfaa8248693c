//! Answers `/NAME` with a greeting that another component makes: the two are composed into one when they are deployed, and
//! the call between them stays within one instance. wasi:http 0.2.
//!
//! The WIT of the interface is `greeter/wit`; whoever exports it can take the greeter's place.

use std::io::Write as _;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

use crate::example::greeter::greet;

wit_bindgen::generate!({ path: "../greeter/wit", world: "caller" });
wasip2::http::proxy::export!(Hello);

struct Hello;

impl Guest for Hello {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let name = target.split('?').next().unwrap_or_default().trim_start_matches('/');
        let greeting = greet::greet(if name.is_empty() { "world" } else { name });
        let response = OutgoingResponse::new(Fields::new());
        let Ok(outgoing) = response.body() else { return };
        ResponseOutparam::set(response_out, Ok(response));
        // An error here means that the caller is gone, and then there is nobody to tell.
        if let Ok(mut stream) = outgoing.write() {
            let _ = writeln!(stream, "{greeting}");
        }
        let _ = OutgoingBody::finish(outgoing, None);
    }
}
