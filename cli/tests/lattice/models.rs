//! Models that guests run behind real nodes: in an object store, by `onnx` and `onnx-gpu`, and built into `watermark`. What ONNX
//! Runtime computes of the former: `guests/onnx/engine/tests/golden.py`; what comes back of pictures:
//! `guests/watermark/engine/tests/golden.rs`.
#![cfg(target_os = "linux")] // as the module that makes object stores

use crate::blobs::make_store;
#[cfg(feature = "webgpu")]
use crate::harness::Server;
use crate::harness::{
    Api, Lattice,
    api::{holders, spec},
    http::{self, Answer},
};
use hyper::Method;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Of the sum of 1 and an output.
const TOLERANCE: f32 = 1e-4;
/// The same where a driver's exponentials are in it.
#[cfg(feature = "webgpu")]
const TOLERANCE_GPU: f32 = 1e-3;

fn golden(file: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests/onnx/engine/tests").join(file);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

async fn send(address: &str, method: Method, host: &str, path: &str, kind: &str, body: Vec<u8>) -> Answer {
    let headers = [("content-type", kind)];
    http::whole(http::send(address, method, host, path, &headers, http::full(body)).await.unwrap()).await.unwrap()
}

/// A store with models, which `shelf` writes and a guest that runs them reads.
async fn deploy(lattice: &Lattice, api: &Api, guest: &str, models: &[(&str, Vec<u8>)]) -> String {
    make_store(api, "onnx-models", -1).await;
    let mut shelf = spec("shelf", api.upload("shelf").await, 1);
    shelf["grants"] = json!({ "blobstore": { "models": { "bucket": "onnx-models" } } });
    let mut onnx = spec(guest, api.upload(guest).await, 1);
    onnx["grants"] = json!({ "blobstore": { "models": { "bucket": "onnx-models", "access": "read-only" } } });
    // Of a debug build, beside other tests.
    onnx["limits"] = json!({ "memory": "1GiB", "cpu": "1m", "wall": "2m" });
    // Each may open a GPU device of its own, and a workload may have 4.
    onnx["reuse"] = json!({ "max-instances": 4 });
    for workload in [&shelf, &onnx] {
        api.put(workload).await.unwrap();
    }
    api.ready("shelf").await;
    api.ready(guest).await;
    let address = lattice.node("n1").http();
    for (name, bytes) in models {
        let put = send(&address, Method::PUT, "shelf.test", &format!("/models/{name}"), "", bytes.clone()).await;
        assert_eq!(put.status, 201, "{}", put.text());
    }
    address
}

/// The floats of a `.npy` file, whose header is 128 bytes where there is one shape of a few dimensions.
fn floats(npy: &[u8]) -> Vec<f32> {
    let header = 10 + usize::from(u16::from_le_bytes([npy[8], npy[9]]));
    npy[header..].chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn assert_near(actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len());
    let far = actual.iter().zip(expected).position(|(a, b)| (a - b).abs() > tolerance * (1.0 + b.abs()));
    assert_eq!(far.map(|at| (at, actual[at], expected[at])), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_in_an_object_store_is_run_and_bad_ones_are_refused() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    let unet = golden("unet.onnx");
    let models = [("unet", unet.clone()), ("cut", unet[..1_000].to_vec()), ("text", b"no model".to_vec())];
    let address = deploy(&lattice, &api, "onnx", &models).await;
    let post = async |path: &str, body: Vec<u8>| send(&address, Method::POST, "onnx.test", path, "", body).await;

    let answer = post("/unet", golden("unet.inputs.npy")).await.ok();
    assert_near(&floats(&answer.body), &floats(&golden("unet.output.npy")), TOLERANCE);
    assert_eq!(answer.header("x-executor"), "cpu");

    let described = http::get(&address, "onnx.test", "/unet").await.ok();
    let described: Value = serde_json::from_str(&described.text()).unwrap();
    assert_eq!(described["inputs"][1], json!({ "name": "secret", "shape": [1, 100] }));
    assert_eq!((&described["operators"]["Conv"], &described["not-supported"]), (&json!(16), &json!([])));

    for (path, status, says) in [
        ("/unet?on=gpu", 500, "there is no executor"),
        ("/other", 404, "there is no model \"other\""),
        ("/cut", 422, "no ONNX model: a cut field"),
        ("/text", 422, "no ONNX model"),
    ] {
        let answer = post(path, golden("unet.inputs.npy")).await;
        assert_eq!((answer.status, answer.text().contains(says)), (status, true), "{path}: {}", answer.text());
    }
    for (body, says) in [
        (golden("unet.output.npy"), "the model has 2 inputs (cover, secret), not 1"),
        (b"{}".to_vec(), "no .npy file"),
        (
            [golden("unet.output.npy"), golden("unet.output.npy")].concat(),
            "value \"secret\": its shape is [1, 3, 32, 32]",
        ),
    ] {
        let answer = post("/unet", body).await;
        assert_eq!((answer.status, answer.text().contains(says)), (400, true), "{}", answer.text());
    }

    // What replaces a model is run from then on.
    let put = send(&address, Method::PUT, "shelf.test", "/models/unet", "", b"no model".to_vec()).await;
    assert_eq!(put.status, 201);
    assert_eq!(post("/unet", golden("unet.inputs.npy")).await.status, 422);
}

/// A node whose GPU is a driver that computes on the processor, or nothing where these tests are not wanted.
#[cfg(feature = "webgpu")]
async fn lattice_with_gpu() -> Option<Lattice> {
    if std::env::var_os("LATTICE_WITHOUT_GPU").is_some() {
        eprintln!("SKIPPED: LATTICE_WITHOUT_GPU is set, so nothing is known of GPUs");
        return None;
    }
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    lattice.launch_node("default", "n1", &["--gpu", "cpu"]);
    lattice.all_ready().await;
    Some(lattice)
}

/// Each operator is compared natively, in `host-node/gpu/src/models.rs`: with the same code, and without a node between.
#[cfg(feature = "webgpu")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gpu_computes_what_onnx_runtime_and_the_processor_do() {
    let Some(lattice) = lattice_with_gpu().await else { return };
    let api = lattice.api().await;
    let unet = golden("unet.onnx");
    let mut models = vec![("unet", unet.clone()), ("cut", unet[..1_000].to_vec())];
    models.extend(model("ch_ppocr_mobile_v2.0_cls_infer.onnx").map(|model| ("classifier", model)));
    let has_classifier = models.len() == 3;
    let address = deploy(&lattice, &api, "onnx-gpu", &models).await;
    let post = async |path: &str, body: Vec<u8>| send(&address, Method::POST, "onnx-gpu.test", path, "", body).await;

    // Twice on the GPU, which then has the weights; and where the GPU is the processor, it is asked itself.
    for (path, executor) in
        [("/unet?on=gpu", "gpu"), ("/unet?on=cpu", "cpu"), ("/unet?on=gpu", "gpu"), ("/unet", "cpu")]
    {
        let answer = post(path, golden("unet.inputs.npy")).await.ok();
        assert_eq!(answer.header("x-executor"), executor, "{path}");
        assert_near(&floats(&answer.body), &floats(&golden("unet.output.npy")), TOLERANCE_GPU);
        eprintln!("{path}: {} ms", answer.header("x-milliseconds"));
    }
    // Another model in between, and pictures.
    for file in ["text.png", "text-upside-down.jpg"].into_iter().filter(|_| has_classifier) {
        let kind = if file.ends_with("png") { "image/png" } else { "image/jpeg" };
        let mut values = Vec::new();
        for executor in ["gpu", "cpu", "gpu"] {
            let path = format!("/classifier?size=192x48&fit=left&order=bgr&on={executor}");
            let answer = send(&address, Method::POST, "onnx-gpu.test", &path, kind, golden(file)).await.ok();
            assert_eq!(answer.header("x-executor"), executor);
            eprintln!("{path}: {} ms", answer.header("x-milliseconds"));
            let answer: Value = serde_json::from_str(&answer.text()).unwrap();
            let floats = answer["outputs"][0]["values"].as_array().unwrap().iter();
            values.push(floats.map(|value| value.as_f64().unwrap() as f32).collect::<Vec<_>>());
        }
        assert_near(&values[0], &values[1], TOLERANCE_GPU);
        assert_near(&values[2], &values[1], TOLERANCE_GPU);
    }
    assert_eq!(post("/unet?on=gpu", golden("unet.inputs.npy")).await.status, 200);

    for (path, status, says) in
        [("/unet?on=tpu", 500, "there is no executor \"tpu\" here"), ("/cut?on=gpu", 422, "no ONNX model: a cut field")]
    {
        let answer = post(path, golden("unet.inputs.npy")).await;
        assert_eq!((answer.status, answer.text().contains(says)), (status, true), "{path}: {}", answer.text());
    }
}

/// A model of `cargo xtask models`.
fn model(file: &str) -> Option<Vec<u8>> {
    let folder = std::env::var_os("LATTICE_MODELS").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/models"));
    let read = std::fs::read(folder.join(file));
    if read.is_err() {
        eprintln!("SKIPPED: {file} is not in {}: run `cargo xtask models`", folder.display());
    }
    read.ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_classifier_sees_which_way_up_a_line_of_text_is() {
    let Some(model) = model("ch_ppocr_mobile_v2.0_cls_infer.onnx") else { return };
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    let address = deploy(&lattice, &api, "onnx", &[("upside-down", model)]).await;
    for (file, expected) in [("text.png", 0), ("text-upside-down.jpg", 1)] {
        let path = "/upside-down?size=192x48&fit=left&order=bgr";
        let kind = if file.ends_with("png") { "image/png" } else { "image/jpeg" };
        let answer = send(&address, Method::POST, "onnx.test", path, kind, golden(file)).await.ok();
        let answer: Value = serde_json::from_str(&answer.text()).unwrap();
        assert_eq!(answer["outputs"][0]["best"], expected, "{file}: {answer}");
        assert!(answer["outputs"][0]["values"][expected].as_f64().unwrap() > 0.9, "{file}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watermark_survives_jpeg_by_way_of_a_node_that_does_not_run_it() {
    let lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    let mut watermark = spec("watermark", api.upload("watermark").await, 1);
    // Of a debug build, beside other tests.
    watermark["limits"] = json!({ "memory": "512MiB", "cpu": "1m", "wall": "2m", "body": "8MiB" });
    api.put(&watermark).await.unwrap();
    let status = api.ready("watermark").await;
    let other = lattice.other_than(holders(&status)[0].as_str());
    other.answers("watermark.test", "/", (200, "")).await;
    let address = other.http();
    let post = async |path: &str, body: Vec<u8>| send(&address, Method::POST, "watermark.test", path, "", body).await;
    let read = async |picture: &[u8]| {
        let answer = post("/read", picture.to_vec()).await.ok();
        serde_json::from_str::<Value>(&answer.text()).unwrap()
    };

    let picture = http::get(&address, "watermark.test", "/sample").await.ok();
    assert_ne!(picture.node(), other.id, "another node answers");
    assert_eq!(picture.header("content-type"), "image/png");
    assert_eq!(read(&picture.body).await["found"], false);
    for (path, kind, bits) in [
        ("/mark?bits=4c415454&format=jpeg&quality=75", "image/jpeg", "4c415454"),
        ("/mark?bits=00C0FFEE", "image/png", "00c0ffee"),
    ] {
        let marked = post(path, picture.body.to_vec()).await.ok();
        assert_eq!(marked.header("content-type"), kind);
        assert!(marked.header("x-psnr").parse::<f64>().unwrap() >= 36.0, "{:?}", marked.headers);
        let found = read(&marked.body).await;
        assert_eq!((&found["found"], &found["bits"]), (&json!(true), &json!(bits)), "{path}: {found}");
        assert!(found["confidence"].as_f64().unwrap() > 0.5, "{found}");
    }

    let page = http::get(&address, "watermark.test", "/").await.ok();
    assert!(page.header("content-type").starts_with("text/html"), "{:?}", page.headers);
    assert!(page.header("content-security-policy").contains("default-src 'none'"), "{:?}", page.headers);
    for outside in ["http://", "https://", " src=", "@import"] {
        assert!(!page.text().contains(outside), "the page is whole by itself: {outside}");
    }

    for (path, body, status, says) in [
        ("/mark", &picture.body[..], 400, "bits: they are missing"),
        ("/mark?bits=LATT", &picture.body, 400, "8 hexadecimal digits"),
        ("/mark?bits=00000000&size=9", &picture.body, 400, "there are the parameters"),
        ("/read?bits=00000000", &picture.body, 400, "no parameters"),
        ("/read", b"GIF89a", 415, "neither a PNG nor a JPEG"),
        ("/read", &picture.body[..1_000], 422, "the picture can't be read"),
        ("/other", &picture.body, 404, "/mark"),
        ("/sample", &picture.body, 405, "GET /sample"),
    ] {
        let answer = post(path, body.to_vec()).await;
        assert_eq!((answer.status, answer.text().contains(says)), (status, true), "{path}: {}", answer.text());
    }
    let small = post("/mark?bits=00000000", golden("text.png")).await;
    assert_eq!((small.status, small.text().contains("at least 128 by 128")), (422, true), "{}", small.text());
}
