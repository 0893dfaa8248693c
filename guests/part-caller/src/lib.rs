//! Calls the functions of its part, `part`, and answers with what they returned. wasi:http 0.2.
//!
//! | path                | calls                                                                        |
//! |---------------------|------------------------------------------------------------------------------|
//! | `/add/N`            | `counter.add`                                                                |
//! | `/upper/TEXT`       | `text.upper`                                                                 |
//! | `/flip/TEXT`        | `text.flip`                                                                  |
//! | `/variable/NAME`    | `text.variable`, and says which case of the result came back                 |
//! | `/values`           | `values.turn` with a value of every type, and says whether it came back whole |
//! | `/trap`, `/spin`, `/devour`, `/sleep/N` | `faults`                                                 |
//! | `/loop/WHAT/SIZE/N` | N times `add`, `same`, `flip` or `count`, with SIZE bytes, for benchmarks    |
//! | `/post/HOST/SIZE/N` | the same by HTTP: N POSTs of SIZE bytes to HOST; answers how many came back  |

use std::io::{Read as _, Write as _};

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam, Scheme,
};

use crate::example::parts::values::{self, Color, Everything, Rights, Shape};
use crate::example::parts::{counter, faults, text};

wit_bindgen::generate!({ path: "../part/wit", world: "caller", additional_derives: [PartialEq] });
wasip2::http::proxy::export!(Caller);

struct Caller;

impl Guest for Caller {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let path: Vec<&str> = target.trim_start_matches('/').split('/').collect();
        let number = |text: &str| text.parse().unwrap_or(0);
        let answer = match *path.as_slice() {
            ["add", by] => counter::add(number(by)).to_string(),
            ["upper", text] => text::upper(text),
            ["flip", text] => String::from_utf8_lossy(&text::flip(text.as_bytes())).into_owned(),
            ["variable", name] => match text::variable(name) {
                Ok(value) => format!("ok {value}"),
                Err(error) => format!("err {error}"),
            },
            ["values"] => check_values(),
            ["trap"] => did(faults::trap()),
            ["spin"] => did(faults::spin()),
            ["devour"] => did(faults::devour()),
            ["sleep", millis] => faults::sleep(number(millis)).to_string(),
            ["loop", what, size, times] => repeat(what, number(size) as usize, number(times)),
            ["post", host, size, times] => {
                let body = vec![7; number(size) as usize];
                let echoed = (0..number(times)).map(|_| post(host, &body).unwrap_or(0));
                echoed.sum::<usize>().to_string()
            }
            _ => "ok".into(),
        };
        let response = OutgoingResponse::new(Fields::new());
        let Ok(outgoing) = response.body() else { return };
        ResponseOutparam::set(response_out, Ok(response));
        // An error here means that the caller is gone, and then there is nobody to tell.
        if let Ok(mut stream) = outgoing.write() {
            let _ = stream.write_all(answer.as_bytes());
        }
        let _ = OutgoingBody::finish(outgoing, None);
    }
}

fn did((): ()) -> String {
    "done".into()
}

fn check_values() -> String {
    let sent = Everything {
        yes: true,
        small: (i8::MIN, u8::MAX, i16::MIN, u16::MAX),
        large: (i32::MIN, u32::MAX, i64::MIN, u64::MAX),
        real: (0.5, f64::MIN_POSITIVE),
        letter: '\u{1f980}',
        text: "Grüße\0".into(),
        bytes: (0..=255).collect(),
        color: Color::Green,
        rights: Rights::READ | Rights::RUN,
        shapes: vec![Shape::Nothing, Shape::Circle(2.5), Shape::Polygon(vec![(1, -1), (2, -2)])],
        maybe: Some(None),
        outcome: Err(Shape::Polygon(Vec::new())),
        unit: Err(()),
    };
    let mut turned = values::turn(&sent);
    turned.shapes.rotate_right(1);
    if turned == sent { "whole".into() } else { format!("{turned:?}") }
}

fn repeat(what: &str, size: usize, times: u32) -> String {
    let (text, bytes) = ("x".repeat(size), vec![7; size]);
    let mut sum = 0_usize;
    for turn in 0..times {
        sum = sum.wrapping_add(match what {
            "add" => counter::add(turn & 1) as usize,
            "same" => text::same(&text).len(),
            "flip" => text::flip(&bytes).len(),
            "count" => text::count(&bytes) as usize,
            _ => 0,
        });
    }
    sum.to_string()
}

/// Bytes of the answer; nothing where there is none.
fn post(host: &str, body: &[u8]) -> Option<usize> {
    let fields = Fields::new();
    fields.set("content-length", &[body.len().to_string().into_bytes()]).ok()?;
    let request = OutgoingRequest::new(fields);
    request.set_method(&Method::Post).ok()?;
    request.set_scheme(Some(&Scheme::Http)).ok()?;
    request.set_authority(Some(host)).ok()?;
    request.set_path_with_query(Some("/")).ok()?;
    let outgoing = request.body().ok()?;
    let response = outgoing_handler::handle(request, None).ok()?;
    outgoing.write().ok()?.write_all(body).ok()?;
    OutgoingBody::finish(outgoing, None).ok()?;
    response.subscribe().block();
    let incoming = response.get()?.ok()?.ok()?.consume().ok()?;
    let mut echoed = Vec::new();
    incoming.stream().ok()?.read_to_end(&mut echoed).ok()?;
    Some(echoed.len())
}
