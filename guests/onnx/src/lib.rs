//! Runs ONNX models that are in an object store, on the processor. wasi:http 0.3. What it answers: [`onnx_service`].

use onnx_engine::cpu::Cpu;
use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Request, Response};

wasip3::http::service::export!(Onnx);

struct Onnx;

impl Guest for Onnx {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        onnx_service::handle(request, async |on| match on {
            None | Some("cpu") => Ok(Cpu),
            Some(other) => Err(format!("there is no executor {other:?} here: only cpu")),
        })
        .await
    }
}
