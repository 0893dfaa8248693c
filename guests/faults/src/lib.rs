//! Misbehaves on request, over wasi:http 0.2: what a host must survive, one path each. For tests only.
//!
//! | path              | what happens                                                                             |
//! |-------------------|------------------------------------------------------------------------------------------|
//! | `/trap`           | executes `unreachable` before anything is answered                                       |
//! | `/panic`          | panics: a message on stderr, then a trap                                                 |
//! | `/loop`           | computes without end, never calls the host                                               |
//! | `/compute/N`      | computes for N million turns of a loop, about N ms or less, then answers                 |
//! | `/memory`         | allocates and touches memory without end; traps when the host gives no more              |
//! | `/stack`          | recurses without end                                                                     |
//! | `/exit`           | ends the program, as an error                                                            |
//! | `/no-response`    | returns without an answer                                                                |
//! | `/refuse`         | answers with an error code instead of a response                                         |
//! | `/sleep/MS`       | waits MS milliseconds, then answers                                                      |
//! | `/partial`        | promises 16 bytes, sends 8, traps                                                        |
//! | `/short`          | promises 16 bytes, sends 8, ends the body as if it were whole                            |
//! | `/stall`          | promises 16 bytes, sends 8, waits for ever                                               |
//! | `/log/N`          | prints N numbered lines on stdout and as many on stderr, then answers                    |
//! | `/big-headers/KB` | answers with so many KiB of headers; 500 or a trap where the host refuses to hold them    |
//! | `/flaky/CODE`     | answers with that status, and the next request of the same instance with 200             |
//! | `/handles`        | takes handles of the host without end, and gives none back                               |
//! | `/fields`         | keeps headers of 32 KiB each in the host, without end                                    |
//! | any other         | answers `ok`                                                                             |

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use wasip2::clocks::monotonic_clock;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{ErrorCode, Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

wasip2::http::proxy::export!(Faults);

struct Faults;

const NANOS_PER_MILLI: u64 = 1_000_000;

/// Requests of this instance for `/flaky`.
static FLAKY: AtomicU64 = AtomicU64::new(0);

impl Guest for Faults {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let mut parts = target.split(['/', '?']).skip(1);
        let fault = parts.next().unwrap_or_default();
        let argument: u64 = parts.next().and_then(|argument| argument.parse().ok()).unwrap_or_default();

        match fault {
            "trap" => core::arch::wasm32::unreachable(),
            "panic" => panic!("asked to panic"),
            "loop" => spin(),
            "compute" => compute(argument),
            "memory" => eat_memory(),
            "stack" => println!("{}", recurse(argument)),
            "exit" => std::process::exit(1),
            "no-response" => return,
            "refuse" => {
                let error = ErrorCode::InternalError(Some("asked to refuse".to_owned()));
                return ResponseOutparam::set(response_out, Err(error));
            }
            "partial" | "short" | "stall" => return half_a_body(response_out, fault),
            "sleep" => monotonic_clock::subscribe_duration(argument.saturating_mul(NANOS_PER_MILLI)).block(),
            "log" => print_lines(argument),
            "handles" => loop {
                std::mem::forget(monotonic_clock::subscribe_duration(u64::MAX / 2));
            },
            "fields" => keep_fields(),
            "flaky" if FLAKY.fetch_add(1, Ordering::Relaxed) % 2 == 0 => {
                let status = u16::try_from(argument).unwrap_or(500);
                return respond(response_out, Fields::new(), status, "not this time\n");
            }
            "big-headers" => return big_headers(response_out, argument),
            _ => {}
        }
        respond(response_out, Fields::new(), 200, "ok\n");
    }
}

fn spin() -> ! {
    loop {
        compute(u64::MAX);
    }
}

fn compute(millions: u64) {
    for turn in 0..millions.saturating_mul(1_000_000) {
        // Keeps the compiler from finding out that nothing happens here.
        std::hint::black_box(turn);
    }
}

fn eat_memory() -> ! {
    let mut eaten = Vec::new();
    loop {
        eaten.push(std::hint::black_box(vec![1u8; 1024 * 1024]));
    }
}

fn keep_fields() -> ! {
    let value = vec![b'x'; 32 * 1024];
    loop {
        let fields = Fields::new();
        if fields.set("x-kept", &[value.clone()]).is_err() {
            core::arch::wasm32::unreachable();
        }
        std::mem::forget(fields);
    }
}

#[expect(unconditional_recursion, reason = "this is the fault")]
fn recurse(depth: u64) -> u64 {
    recurse(std::hint::black_box(depth) + 1) + std::hint::black_box(1)
}

fn half_a_body(response_out: ResponseOutparam, then: &str) {
    let fields = Fields::new();
    let _ = fields.set("content-length", &[b"16".to_vec()]);
    let response = OutgoingResponse::new(fields);
    let Ok(body) = response.body() else { return };
    ResponseOutparam::set(response_out, Ok(response));
    let Ok(mut stream) = body.write() else { return };
    let _ = stream.write_all(b"01234567");
    let _ = stream.flush(); // waits until the host has taken the bytes
    match then {
        "partial" => core::arch::wasm32::unreachable(),
        "stall" => monotonic_clock::subscribe_duration(u64::MAX / 2).block(),
        _ => {}
    }
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}

fn print_lines(count: u64) {
    for line in 1..=count {
        println!("stdout line {line}");
        eprintln!("stderr line {line}");
    }
}

fn big_headers(response_out: ResponseOutparam, kibibytes: u64) {
    let fields = Fields::new();
    for index in 0..kibibytes {
        let value = vec![b'x'; 1024];
        if let Err(error) = fields.append(&format!("x-big-{index}"), &value) {
            let text = format!("the host refused after {index} KiB: {error:?}\n");
            return respond(response_out, Fields::new(), 500, &text);
        }
    }
    respond(response_out, fields, 200, "ok\n");
}

fn respond(response_out: ResponseOutparam, fields: Fields, status: u16, body: &str) {
    let _ = fields.set("content-type", &[b"text/plain; charset=utf-8".to_vec()]);
    let response = OutgoingResponse::new(fields);
    let _ = response.set_status_code(status);
    let Ok(outgoing) = response.body() else { return };
    ResponseOutparam::set(response_out, Ok(response));
    if let Ok(mut stream) = outgoing.write() {
        let _ = stream.write_all(body.as_bytes());
    }
    let _ = OutgoingBody::finish(outgoing, None);
}
