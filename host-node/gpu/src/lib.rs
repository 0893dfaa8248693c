//! `wasi:webgpu@0.3.0-rc.2` for guests, on the GPUs of this machine. It knows wasmtime and wgpu, and nothing of workloads,
//! specs or NATS.
//!
//! A guest is a stranger, and a GPU driver is not made for strangers. So no call into a driver happens where a guest or
//! the node's own tasks run: each device has a thread of its own with a large stack (`device/`), which is given jobs
//! through a bounded queue. Whoever waits for an answer waits no longer than the device lives, and a watchdog ends a
//! device whose work takes too long. A fault in wgpu or a driver costs the guest its device, as WebGPU has it (`lost`),
//! and nobody else anything. What a guest may make the GPU's memory, the queue and the shader compiler do is bounded
//! by quotas (`account.rs`) and by a look at each shader before the compiler sees it (`guard/`). Replicas that share a GPU
//! submit by turns (`turns/`), so that each has its part of the GPU's time.
//!
//! ```text
//! Gpus (a node's) ─ workspace ─► Workspace (a replica's: wgpu instance, quota, meter)
//! guest ─ WIT ─► host/ (handles, records of commands) ─ jobs ─► device/ (one thread a device) ─► wgpu ─► driver
//! ```
//!
//! Start at [`Gpus`], then `host/mod.rs` for what a guest calls.

mod account;
mod bindings;
mod convert;
mod device;
mod guard;
mod health;
mod host;
mod inventory;
/// What runs in a guest, natively: that it is the same code.
#[cfg(test)]
#[path = "../../../guests/gpu-matmul/src/matmul.rs"]
#[expect(unreachable_pub, reason = "it is written for a guest")]
mod matmul;
#[cfg(test)]
mod models;
mod selftest;
#[cfg(test)]
mod sequences;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod turns;
mod workspace;

pub use account::{GpuStats, Quota};
pub use guard::{Refused as ShaderRefused, check_source};
pub use host::{GpuCtx, GpuView, HasGpu, add_to_linker};
pub use inventory::{Adapter, Class, Gpus, GpusError, Selector};
pub use selftest::Findings;
pub use workspace::Workspace;

/// The interface that [`add_to_linker`] defines, and its version.
pub const INTERFACE: (&str, &str) = ("wasi:webgpu/webgpu", "0.3.0-rc.2");

/// A lock whose holder panicked is taken all the same: what these locks guard is whole between any two statements.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
