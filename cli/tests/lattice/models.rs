//! Models in an object store, run by the guest `onnx` behind a real node. What ONNX Runtime computes of them:
//! `guests/onnx/engine/tests/golden.py`.
#![cfg(target_os = "linux")] // as the module that makes object stores

use crate::blobs::make_store;
use crate::harness::{
    Api, Lattice,
    api::spec,
    http::{self, Answer},
};
use hyper::Method;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Of the sum of 1 and an output.
const TOLERANCE: f32 = 1e-4;

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

fn assert_near(actual: &[f32], expected: &[f32]) {
    assert_eq!(actual.len(), expected.len());
    let far = actual.iter().zip(expected).position(|(a, b)| (a - b).abs() > TOLERANCE * (1.0 + b.abs()));
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
    assert_near(&floats(&answer.body), &floats(&golden("unet.output.npy")));
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
