//! Computes on a GPU through `wasi:webgpu`. wasi:http 0.3.
//!
//! | path          | answer                                                                              |
//! |---------------|-------------------------------------------------------------------------------------|
//! | `/1,2,3,4`    | the numbers doubled by a shader: `[2, 4, 6, 8]`                                      |
//! | `/adapter`    | what the GPU is                                                                      |
//! | `/check/NAME` | something else that a GPU can do, in `checks.rs`: what came of it                    |
//! | `/flood/N`   | how many submits of some milliseconds each are done, one after the other without a wait      |
//! | `/probe/NAME` | something that a guest should not do, in `probes.rs`: what it was told, in one line  |

mod checks;
mod probes;
mod work;

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{spawn_local, wit_future, wit_stream};

use work::Work;

wasip3::http::service::export!(Double);

mod bindings {
    wasip3::wit_bindgen::generate!({
        path: "../../wit/deps/webgpu",
        world: "wasi:webgpu/imports",
        runtime_path: "wasip3::wit_bindgen::rt",
        generate_all,
    });
}

struct Double;

impl Guest for Double {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default().trim_start_matches('/');
        let answer = match path.split_once('/') {
            Some(("check", name)) => checks::run(name).await,
            Some(("flood", times)) => checks::flood(times).await,
            Some(("probe", name)) => probes::run(name).await,
            _ if path == "adapter" => adapter().await,
            _ => double(path).await,
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

async fn adapter() -> Result<String, String> {
    let adapter = work::adapter().await?;
    let info = adapter.info();
    Ok(format!("{} {} fallback={}", info.vendor(), info.description(), info.is_fallback_adapter()))
}

const SHADER: &str = "
@group(0) @binding(0) var<storage, read_write> data: array<f32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
    if id.x < arrayLength(&data) { data[id.x] *= 2.0; }
}";

async fn double(path: &str) -> Result<String, String> {
    let numbers: Result<Vec<f32>, _> = path.split(',').map(|number| number.trim().parse::<f32>()).collect();
    let numbers = numbers.map_err(|_| format!("{path:?} is not a list of numbers: write /1,2,3,4"))?;
    let work = Work::open().await?;
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let doubled = work.compute(SHADER, &bytes, (u32::try_from(numbers.len()).unwrap_or(0).div_ceil(64), 1, 1)).await?;
    Ok(format!("{:?}", work::floats(&doubled)))
}
