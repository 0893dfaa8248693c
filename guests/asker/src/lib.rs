//! A part that asks another workload: `counter.add(N)` sends `GET http://asked.lattice/N` over wasi:http 0.2, and answers
//! with the status of the response, or with 0 where there was none.

use wasip2::http::outgoing_handler;
use wasip2::http::types::{ErrorCode, Fields, OutgoingRequest, Scheme};

use crate::exports::example::parts::counter::Guest;

wit_bindgen::generate!({ path: "../part/wit", world: "asker" });
export!(Asker);

struct Asker;

impl Guest for Asker {
    fn add(by: u32) -> u32 {
        ask(&format!("/{by}")).map_or(0, u32::from)
    }
}

fn ask(path: &str) -> Result<u16, ErrorCode> {
    let request = OutgoingRequest::new(Fields::new());
    let set = request
        .set_scheme(Some(&Scheme::Http))
        .and_then(|()| request.set_authority(Some("asked.lattice")))
        .and_then(|()| request.set_path_with_query(Some(path)));
    set.map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    let response = outgoing_handler::handle(request, None)?;
    response.subscribe().block();
    match response.get() {
        Some(Ok(response)) => response.map(|response| response.status()),
        _ => Err(ErrorCode::InternalError(None)),
    }
}
