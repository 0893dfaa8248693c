//! Says how it does by functions that probes call, and answers HTTP. wasi:http 0.2. Its environment variable `READY` decides
//! what `ready` says: it is not while that is `no`.
//!
//! | function of `example:checkup/health` | says                                       |
//! |--------------------------------------|--------------------------------------------|
//! | `ready`                              | ok, or the error `the pool is cold`        |
//! | `alive`                              | true                                       |
//! | `sick`                               | false, and prints why                      |
//! | `stuck`                              | nothing: it computes for ever              |
//! | `broken`                             | nothing: it traps                          |
//!
//! Every path answers `well`.

use std::io::Write as _;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

use crate::exports::example::checkup::health::Guest as Health;

wit_bindgen::generate!({
    inline: "
        package example:checkup@0.1.0;
        interface health {
            ready: func() -> result<_, string>;
            alive: func() -> bool;
            sick: func() -> bool;
            stuck: func() -> bool;
            broken: func() -> result;
        }
        world asked { export health; }
    ",
});
export!(Checkup);
wasip2::http::proxy::export!(Checkup);

struct Checkup;

impl Health for Checkup {
    fn ready() -> Result<(), String> {
        match std::env::var("READY") {
            Ok(word) if word == "no" => Err("the pool is cold".to_owned()),
            _ => Ok(()),
        }
    }

    fn alive() -> bool {
        true
    }

    fn sick() -> bool {
        eprintln!("asked, and not well");
        false
    }

    fn stuck() -> bool {
        loop {
            std::hint::spin_loop();
        }
    }

    fn broken() -> Result<(), ()> {
        panic!("asked, and broken");
    }
}

impl Guest for Checkup {
    fn handle(_: IncomingRequest, response_out: ResponseOutparam) {
        let response = OutgoingResponse::new(Fields::new());
        let Ok(outgoing) = response.body() else { return };
        ResponseOutparam::set(response_out, Ok(response));
        // An error here means that the caller is gone, and then there is nobody to tell.
        if let Ok(mut stream) = outgoing.write() {
            let _ = stream.write_all(b"well");
        }
        let _ = OutgoingBody::finish(outgoing, None);
    }
}
