//! Runs ONNX models that are in an object store, on a GPU through `wasi:webgpu`; with `?on=cpu` on the processor. wasi:http 0.3.
//! What it answers: [`onnx_service`].

mod gpu;

use onnx_engine::{Error, Executor, Program, cpu::Cpu};
use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Request, Response};

wasip3::http::service::export!(Onnx);

mod bindings {
    wasip3::wit_bindgen::generate!({
        path: "../../wit/deps/webgpu",
        world: "wasi:webgpu/imports",
        runtime_path: "wasip3::wit_bindgen::rt",
        generate_all,
    });
}

struct Onnx;

impl Guest for Onnx {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        onnx_service::handle(request, async |on| match on {
            Some("cpu") => Ok(Either::Cpu(Cpu)),
            None | Some("gpu") => Ok(Either::Gpu(gpu::Gpu)),
            Some(other) => Err(format!("there is no executor {other:?} here: gpu or cpu")),
        })
        .await
    }
}

enum Either {
    Cpu(Cpu),
    Gpu(gpu::Gpu),
}

impl Executor for Either {
    fn name(&self) -> &'static str {
        match self {
            Self::Cpu(cpu) => cpu.name(),
            Self::Gpu(gpu) => gpu.name(),
        }
    }

    async fn run(&mut self, program: &Program, inputs: &[&[f32]]) -> Result<Vec<Vec<f32>>, Error> {
        match self {
            Self::Cpu(cpu) => cpu.run(program, inputs).await,
            Self::Gpu(gpu) => gpu.run(program, inputs).await,
        }
    }
}
