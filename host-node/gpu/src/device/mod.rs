//! A device and its thread. Everything that wgpu is told about a device is told it on that thread, in the order in which
//! the guest called: what the WebGPU standard calls the device timeline.
//!
//! [`Lane`] is the end that everybody else has. `thread.rs` is the thread, `errors.rs` where its errors go, `object.rs`
//! what a guest's handles refer to, `recording.rs` and `replay.rs` command encoders.

pub(crate) mod errors;
pub(crate) mod lane;
pub(crate) mod object;
pub(crate) mod recording;
pub(crate) mod replay;
mod replay_render;
pub(crate) mod shared;
pub(crate) mod thread;
pub(crate) mod watchdog;

pub(crate) use errors::{Fault, FaultKind};
pub(crate) use lane::Lane;
pub(crate) use object::Object;
pub(crate) use replay_render::bundle as replay_bundle;
pub(crate) use shared::{Lost, Shared};
pub(crate) use thread::Gpu;
