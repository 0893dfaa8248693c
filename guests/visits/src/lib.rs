//! Says how often it was visited. It counts nothing itself: a service of the workload, `tally`, does, and all instances
//! of this component call the same one. wasi:http 0.2.
//!
//! | path        | answers                                                                     |
//! |-------------|-----------------------------------------------------------------------------|
//! | `/NAME`     | `NAME: N`, where N counts the visits of NAME                                 |
//! | `/`         | how many names were counted                                                 |
//! | `/-/reset`  | nothing: the service traps, which the node answers, and is started again     |

use std::io::Write as _;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

use crate::example::tally::tally;

wit_bindgen::generate!({ path: "../tally/wit", world: "caller" });
wasip2::http::proxy::export!(Visits);

struct Visits;

impl Guest for Visits {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let name = target.split('?').next().unwrap_or_default().trim_start_matches('/');
        let answer = match name {
            "" => format!("{} names", tally::names()),
            "-/reset" => {
                tally::reset();
                "it did not trap".to_owned()
            }
            name => format!("{name}: {}", tally::count(name)),
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
