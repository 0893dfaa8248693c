//! Runs by the clock: the lattice sends it a request at each tick of its schedules, and it prints which one it is.
//!
//! | request                    | answer                                        |
//! |----------------------------|-----------------------------------------------|
//! | of a schedule              | a line in the log: `tick TIME of SCHEDULE: PATH` |
//! | of a schedule, path `/fail` | the same, and status 500                      |
//! | any other                  | 403: only the lattice can set these headers   |
//!
//! A tick is sent once. What must not get lost is to be found by what is there, not by which ticks came: the node that
//! took a tick may be lost before the guest has run.

use std::io::Write as _;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

wasip2::http::proxy::export!(Ticker);

struct Ticker;

impl Guest for Ticker {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let headers = request.headers();
        let header = |name: &str| headers.get(name).pop().map(|value| String::from_utf8_lossy(&value).into_owned());
        let path = request.path_with_query().unwrap_or_default();
        let (status, body) = match (header("lattice-tick"), header("lattice-schedule")) {
            (Some(tick), Some(schedule)) => {
                println!("tick {tick} of {schedule}: {path}");
                (if path == "/fail" { 500 } else { 200 }, "done\n")
            }
            _ => (403, "only the clock may\n"),
        };
        let response = OutgoingResponse::new(Fields::new());
        let _ = response.set_status_code(status);
        let Ok(outgoing) = response.body() else { return };
        ResponseOutparam::set(response_out, Ok(response));
        // An error here means that the caller is gone, and then there is nobody to tell.
        if let Ok(mut stream) = outgoing.write() {
            let _ = stream.write_all(body.as_bytes());
        }
        let _ = OutgoingBody::finish(outgoing, None);
    }
}
