//! Misbehaves on request, over wasi:http 0.3: what a host must survive, one path each. For tests only.
//!
//! | path              | what happens                                                                             |
//! |-------------------|------------------------------------------------------------------------------------------|
//! | `/trap`           | executes `unreachable` before anything is answered                                       |
//! | `/trap-later/MS`  | answers, and traps so long after the whole answer was given                              |
//! | `/panic`          | panics: a message on stderr, then a trap                                                 |
//! | `/loop`           | computes without end, never calls the host                                               |
//! | `/compute/N`      | computes for N million turns of a loop, about N ms or less, then answers                 |
//! | `/loop-later`     | answers, then computes without end                                                       |
//! | `/memory`         | allocates and touches memory without end; traps when the host gives no more              |
//! | `/exit`           | ends the program, as an error                                                            |
//! | `/no-response`    | never answers                                                                            |
//! | `/refuse`         | answers with an error code instead of a response                                         |
//! | `/sleep/MS`       | waits MS milliseconds, then answers; other requests go on meanwhile                      |
//! | `/partial`        | promises 16 bytes, sends 8, traps                                                        |
//! | `/short`          | promises 16 bytes, sends 8, ends the body as if it were whole                            |
//! | `/stall`          | promises 16 bytes, sends 8, waits for ever                                               |
//! | `/log/N`          | prints N numbered lines on stdout and as many on stderr, then answers                    |
//! | `/fields`         | keeps headers of 32 KiB each in the host, without end                                    |
//! | `/tasks`          | starts calls of the host without end, and waits for none                                 |
//! | `/streams`        | makes streams without end, and uses none                                                 |
//! | any other         | answers `ok`                                                                             |
//!
//! One instance may hold several requests at a time: a fault here hits those of its neighbours that are unanswered, too.

use wasip3::clocks::monotonic_clock;
use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{spawn_local, wit_future, wit_stream};

wasip3::http::service::export!(Faults);

struct Faults;

const NANOS_PER_MILLI: u64 = 1_000_000;
/// Some 30 years. (`std::future::pending` will not do: the bindings panic when a task waits for nothing of the host's.)
const FOREVER_MILLIS: u64 = 1 << 40;

impl Guest for Faults {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let mut parts = target.split(['/', '?']).skip(1);
        let fault = parts.next().unwrap_or_default();
        let argument: u64 = parts.next().and_then(|argument| argument.parse().ok()).unwrap_or_default();

        match fault {
            "trap" => core::arch::wasm32::unreachable(),
            "trap-later" => {
                spawn_local(async move {
                    sleep(argument).await;
                    core::arch::wasm32::unreachable()
                });
            }
            "panic" => panic!("asked to panic"),
            "loop" => spin(),
            "compute" => compute(argument),
            "loop-later" => {
                spawn_local(async {
                    sleep(1).await;
                    spin()
                });
            }
            "memory" => eat_memory(),
            "fields" => keep_fields(),
            "tasks" => loop {
                spawn_local(sleep(FOREVER_MILLIS));
                wasip3::wit_bindgen::yield_async().await;
            },
            "streams" => loop {
                std::mem::forget(wit_stream::new::<u8>());
            },
            "exit" => std::process::exit(1),
            "no-response" => sleep(FOREVER_MILLIS).await,
            "refuse" => return Err(ErrorCode::InternalError(Some("asked to refuse".to_owned()))),
            "partial" => return respond(Some(16), "01234567", Then::Trap),
            "short" => return respond(Some(16), "01234567", Then::End),
            "stall" => return respond(Some(16), "01234567", Then::Stall),
            "sleep" => sleep(argument).await,
            "log" => print_lines(argument),
            _ => {}
        }
        respond(None, "ok\n", Then::End)
    }
}

/// What follows when the bytes of a body are out.
enum Then {
    End,
    Stall,
    Trap,
}

fn respond(content_length: Option<u32>, body: &'static str, then: Then) -> Result<Response, ErrorCode> {
    let fields = Fields::new();
    let _ = fields.set("content-type", &[b"text/plain; charset=utf-8".to_vec()]);
    if let Some(length) = content_length {
        let _ = fields.set("content-length", &[length.to_string().into_bytes()]);
    }
    let (mut writer, reader) = wit_stream::new();
    let (_trailers, no_trailers) = wit_future::new(|| Ok(None)); // a dropped writer delivers this default
    spawn_local(async move {
        writer.write_all(body.as_bytes().to_vec()).await;
        match then {
            Then::End => {}
            Then::Stall => sleep(FOREVER_MILLIS).await,
            Then::Trap => {
                sleep(50).await; // so that the host has sent what it took
                core::arch::wasm32::unreachable()
            }
        }
    });
    let (response, _sent) = Response::new(fields, Some(reader), no_trailers);
    Ok(response)
}

async fn sleep(milliseconds: u64) {
    monotonic_clock::wait_for(milliseconds.saturating_mul(NANOS_PER_MILLI)).await;
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

fn print_lines(count: u64) {
    for line in 1..=count {
        println!("stdout line {line}");
        eprintln!("stderr line {line}");
    }
}
