//! Runs ONNX models that are in an object store, on a GPU through `wasi:webgpu`, or on the processor. wasi:http 0.3. What it answers:
//! [`onnx_service`]; what computes it is in [`Chosen`].

mod gpu;

use std::cell::RefCell;

use gpu::Gpu;
use onnx_engine::{Error, Executor, Program, cpu::Cpu};
use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Request, Response};

wasip3::http::service::export!(Onnx);

struct Onnx;

impl Guest for Onnx {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        onnx_service::handle(request, async |on| match on {
            Some("cpu") => Ok(Chosen { on: On::Cpu, name: "cpu" }),
            Some("gpu") => Ok(Chosen { on: On::Gpu, name: "gpu" }),
            None => Ok(Chosen { on: On::Either, name: "cpu" }),
            Some(other) => Err(format!("there is no executor {other:?} here: gpu or cpu")),
        })
        .await
    }
}

thread_local! {
    /// Stays between requests, with its shaders and the last model's weights. A request that comes meanwhile opens another one.
    static GPU: RefCell<Option<Gpu>> = const { RefCell::new(None) };
}

/// Which executor computes a request.
struct Chosen {
    on: On,
    /// Which one did.
    name: &'static str,
}

enum On {
    Cpu,
    /// Whatever kind of adapter there is.
    Gpu,
    /// The GPU. The processor where it fails, and where the only adapter is a driver that computes with the processor: without a
    /// driver between them that is quicker.
    Either,
}

impl Executor for Chosen {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn run(&mut self, program: &Program, inputs: &[&[f32]]) -> Result<Vec<Vec<f32>>, Error> {
        let on_gpu = match self.on {
            On::Cpu => None,
            On::Gpu => return on_gpu(true, program, inputs).await.map(Option::unwrap_or_default),
            On::Either => match on_gpu(false, program, inputs).await {
                Ok(outputs) => outputs,
                Err(error) => {
                    eprintln!("the processor computes what the GPU does not: {error}");
                    None
                }
            },
        };
        if let Some(outputs) = on_gpu {
            self.name = "gpu";
            return Ok(outputs);
        }
        Cpu.run(program, inputs).await
    }
}

/// `None` where the adapter is the processor, unless `any` will do.
async fn on_gpu(any: bool, program: &Program, inputs: &[&[f32]]) -> Result<Option<Vec<Vec<f32>>>, Error> {
    let mut gpu = match GPU.take() {
        Some(gpu) => gpu,
        None => open().await.map_err(|error| Error::Executor(format!("no GPU: {error}")))?,
    };
    // One that fails is not kept: its device may be lost.
    let outputs = if any || !gpu.is_processor() { Some(gpu.run(program, inputs).await?) } else { None };
    GPU.set(Some(gpu));
    Ok(outputs)
}

async fn open() -> Result<Gpu, String> {
    let adapter = wasi_wgpu::instance().request_adapter(&wgpu::RequestAdapterOptions::default()).await;
    Gpu::open(&adapter.map_err(|error| error.to_string())?).await
}
