//! A program that is written against [`wgpu`], as a component: `wasi-wgpu` brings what is missing. wasi:http 0.3.
//!
//! | path                | answer                                                                          |
//! |---------------------|---------------------------------------------------------------------------------|
//! | `/64`               | whether the GPU's product of two matrices of 64 × 64 is the processor's          |
//! | `/check/NAME`       | something else that wgpu can do, in `checks.rs`: what came of it                 |
//! | `/speed/WHAT/TIMES` | how many nanoseconds something takes so many times, in `speed.rs`                |

mod checks;
mod matmul;
mod mistakes;
mod pictures;
mod speed;

use speed::Speed;
use std::cell::RefCell;
use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{spawn_local, wit_future, wit_stream};

wasip3::http::service::export!(Matmul);

struct Matmul;

/// More would take long on a driver that computes on the processor.
const N_MAX: u32 = 1024;

impl Guest for Matmul {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default().trim_start_matches('/');
        let answer = match path.split_once('/') {
            Some(("check", name)) => checks::run(name).await,
            Some(("speed", how)) => time(how).await,
            _ => compare(path).await,
        };
        let (status, text) = match answer {
            Ok(text) => (200, text),
            Err(text) => (500, text),
        };
        let (mut writer, body) = wit_stream::new();
        spawn_local(async move {
            writer.write_all(format!("{text}\n").into_bytes()).await;
        });
        let (_none, trailers) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(Fields::new(), Some(body), trailers);
        // Every status below 1000 is one.
        let _ = response.set_status_code(status);
        Ok(response)
    }
}

async fn time(how: &str) -> Result<String, String> {
    thread_local! {
        static KEPT: RefCell<Option<Speed>> = const { RefCell::new(None) };
    }
    let (what, times) = how.split_once('/').ok_or("write what, and how many times: /speed/submit/100")?;
    let times = times.parse().map_err(|_| format!("{times:?} is no number of times"))?;
    let speed = match KEPT.take() {
        Some(speed) => speed,
        None => {
            let adapter = wasi_wgpu::instance().request_adapter(&wgpu::RequestAdapterOptions::default()).await;
            Speed::open(&adapter.map_err(|error| error.to_string())?).await?
        }
    };
    let took = speed.time(what, times)?;
    KEPT.set(Some(speed));
    Ok(took.as_nanos().to_string())
}

async fn compare(n: &str) -> Result<String, String> {
    let n = n.parse().ok().filter(|n| (1..=N_MAX).contains(n));
    let n: u32 = n.ok_or_else(|| format!("write how large the matrices are, /1 to /{N_MAX}"))?;
    let (a, b) = (matmul::example(n, 1), matmul::example(n, 5));
    let product = matmul::on_gpu(&wasi_wgpu::instance(), n, &a, &b).await?;
    let is_right = product == matmul::on_cpu(n, &a, &b);
    if is_right { Ok(format!("{n} by {n}: right")) } else { Err(format!("{n} by {n}: wrong")) }
}
