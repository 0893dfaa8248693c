//! The API of [wgpu] for components: a backend of wgpu over `wasi:webgpu@0.3.0-rc.2`.
//!
//! Code that is written against `wgpu` compiles to a component as it is. What differs is where the instance comes from:
//!
//! ```ignore
//! #[cfg(target_family = "wasm")]
//! let instance = wasi_wgpu::instance();
//! #[cfg(not(target_family = "wasm"))]
//! let instance = wgpu::Instance::default();
//! ```
//!
//! In the component's Cargo.toml `wgpu` has `default-features = false` and the features `std`, `custom` and `wgsl`: the
//! shaders travel as text, and the host compiles them.
//!
//! # Waiting
//!
//! Callbacks (`map_async`, `on_submitted_work_done`, uncaptured errors, a lost device) come, as with every wgpu backend,
//! while the guest is in [`wgpu::Device::poll`]. They also come while it awaits something: then `poll` is not needed, as in
//! browsers. `poll` with `PollType::Wait` waits in the host until the GPU is done, and with `PollType::Poll` for a
//! millisecond at most. Futures of wgpu are awaited, or given to [`block_on`]; `pollster` and its like can't wait in a
//! component.
//!
//! `poll` and [`block_on`] run what `spawn_local` of the `wasip3` crate was given just before, and wait for it: spawn what
//! needs somebody else to go on, such as the body of a response, after them. A device may be kept for later calls of the
//! component; who serves several calls at the same time with one device should await callbacks, for `poll` makes the others
//! wait.
//!
//! # Errors
//!
//! They go to error scopes and handlers, in the same order as elsewhere. Who sets no handler finds them on the component's
//! standard error, instead of wgpu's panic. What wgpu has and WebGPU does not (ray tracing, mesh shaders, arrays of
//! bindings, …) is a validation error, and a surface can't be created.

#![cfg(target_family = "wasm")]

mod absent;
mod adapter;
mod bindings;
mod buffer;
mod bundle;
mod compute;
mod convert;
mod device;
mod encoder;
mod errors;
mod held;
mod queue;
mod render;
mod shader;
mod shared;
mod texture;

pub use wasip3::wit_bindgen::block_on;

/// An instance whose adapters are those of the component's host.
pub fn instance() -> wgpu::Instance {
    wgpu::Instance::from_custom(adapter::Instance)
}
