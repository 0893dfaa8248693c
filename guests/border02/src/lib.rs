//! Calls the plain functions of `border`, which is of WASI 0.3, and answers with what came back. wasi:http 0.2.
//!
//! | path       | answer                                          |
//! |------------|-------------------------------------------------|
//! | `/sum/N`   | the sum of all numbers below N, by as many calls |
//! | any other  | a line for each function                        |

use std::io::Write as _;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

use crate::example::border::plain;

wit_bindgen::generate!({ path: "../border/wit", world: "plain-caller" });
wasip2::http::proxy::export!(Border02);

struct Border02;

impl Guest for Border02 {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let answer = match target.strip_prefix("/sum/").and_then(|count| count.parse().ok()) {
            Some(count) => (0..count).fold(0, plain::add).to_string(),
            None => each_function(),
        };
        let response = OutgoingResponse::new(Fields::new());
        let Ok(outgoing) = response.body() else { return };
        ResponseOutparam::set(response_out, Ok(response));
        // An error here means that the caller is gone, and then there is nobody to tell.
        if let Ok(mut stream) = outgoing.write() {
            let _ = writeln!(stream, "{answer}");
        }
        let _ = OutgoingBody::finish(outgoing, None);
    }
}

fn each_function() -> String {
    let page = plain::Page::new("one");
    page.append(" two");
    let text = page.text();
    let length = plain::close(page);
    format!("sum {}\npage {text}, {length} bytes", plain::add(2, 3))
}
