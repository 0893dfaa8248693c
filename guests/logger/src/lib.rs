//! Logs what it is sent: `wasi:logging` with its published WIT. wasi:http 0.2.
//!
//! | request                 | what it logs                                                                                  |
//! |-------------------------|-----------------------------------------------------------------------------------------------|
//! | `/LEVEL/CONTEXT?TEXT`   | the text, with `~` for a new line; `LEVEL` is `trace`, `debug`, `info`, `warn`, `error` or `critical` |
//! | `/flood?N`              | `N` lines                                                                                     |

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

use crate::wasi::logging::logging::{Level, log};

wit_bindgen::generate!({ path: "../../wit/deps/logging", world: "wasi:logging/imports", generate_all });
wasip2::http::proxy::export!(Logger);

struct Logger;

impl Guest for Logger {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, text) = target.split_once('?').unwrap_or((&target, ""));
        let (level, context) =
            path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
        let level = match level {
            "trace" => Some(Level::Trace),
            "debug" => Some(Level::Debug),
            "info" => Some(Level::Info),
            "warn" => Some(Level::Warn),
            "error" => Some(Level::Error),
            "critical" => Some(Level::Critical),
            _ => None,
        };
        match level {
            Some(level) => log(level, context, &text.replace('~', "\n")),
            None => (0..text.parse().unwrap_or(0)).for_each(|n: u32| log(Level::Info, "flood", &n.to_string())),
        }
        let response = OutgoingResponse::new(Fields::new());
        let Ok(body) = response.body() else { return };
        ResponseOutparam::set(response_out, Ok(response));
        let _ = OutgoingBody::finish(body, None); // the caller may be gone
    }
}
