//! Answers who it is: the workload's name and the replica's index, as `hello.0`. wasi:http 0.2 and lattice:node 0.1.

use std::io::Write as _;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

use crate::lattice::node::identity;

wit_bindgen::generate!({ path: ["../../wit/node", "wit"], world: "guests:whoami/whoami", generate_all });
wasip2::http::proxy::export!(Whoami);

struct Whoami;

impl Guest for Whoami {
    fn handle(_: IncomingRequest, response_out: ResponseOutparam) {
        let response = OutgoingResponse::new(Fields::new());
        let Ok(outgoing) = response.body() else { return };
        ResponseOutparam::set(response_out, Ok(response));
        // An error here means that the caller is gone, and then there is nobody to tell.
        if let Ok(mut stream) = outgoing.write() {
            let _ = writeln!(stream, "{}.{}", identity::workload(), identity::replica());
        }
        let _ = OutgoingBody::finish(outgoing, None);
    }
}
