//! Generated from `wit/deps/webgpu`.
//!
//! `pop-error-scope` is called synchronously: wgpu says that a scope ends with the call, whether or not its future is awaited.

wasip3::wit_bindgen::generate!({
    path: "../../wit/deps/webgpu",
    world: "wasi:webgpu/imports",
    runtime_path: "wasip3::wit_bindgen::rt",
    sync: ["import:wasi:webgpu/webgpu@0.3.0-rc.2#[method]gpu-device.pop-error-scope"],
    generate_all,
});

pub(crate) use wasi::webgpu::webgpu::*;
