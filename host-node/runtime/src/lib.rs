//! Runs HTTP components: compiles them, caches the code, keeps instances, and passes requests through, within limits.
//! With `lattice-gpu` the only crate that names wasmtime. It knows nothing of slots, routes or NATS.
//!
//! Start at [`Runtime`] (engines and compiled code, one a process), then [`Unit`] (the running instances of one
//! replica). One request goes through `admission.rs`, `pool.rs` and `exchange.rs`, in that order.
//!
//! ```text
//! bytes ─ Runtime::load ─► Component ─ Runtime::assemble ─► Assembly ─ Unit::start ─► Unit
//! Unit ─ call(request) ─► admission ─► pool ─► exchange ─► response
//! ```
//!
//! A unit may have parts: components with stores and lives of their own, which its main component calls through the host
//! (`parts/`, what is alive; `bridge/`, how a call crosses).
//!
//! Guests run on the caller's tokio workers. One that computes for longer than about 10 ms goes on beside them, in slices
//! that workloads take in turns (`computing.rs`); that takes a runtime of several threads. By default tokio looks at
//! sockets and timers once in 61 turns of a worker: build its runtime with an `event_interval` of 8 or less, so that a node
//! keeps time while many guests compute for nearly so long.

mod admission;
mod blobstore;
mod body;
mod bridge;
mod cache;
mod capability;
mod computing;
mod engine;
mod evict;
mod exchange;
mod failure;
mod gpu;
mod host;
mod identity;
mod increment;
mod inherited;
mod inspect;
mod keyvalue;
mod lane;
mod ledger;
mod limits;
mod linker;
mod load;
mod logging;
mod logs;
mod messaging;
mod nats;
mod network;
mod operations;
mod parts;
mod pool;
mod probe;
mod prune;
mod secrets;
mod signature;
mod spans;
mod standing;
mod tally;
mod terms;
mod unit;
mod volumes;
mod waits;
mod warm;
mod workers;

pub use bridge::crossing::{CannotCross, Uncrossable, crossing};
pub use capability::{Capability, Source, capability};
pub use engine::{RuntimeError, RuntimeOptions};
pub use failure::NoRoom;
#[cfg(feature = "webgpu")]
pub use gpu::{GpuAdapter, GpuClass};
pub use gpu::{GpuQuota, GpuSelector, GpuStats, Gpus, GpusError};
pub use inspect::{Inspection, Kind, inspect};
pub use limits::Limits;
pub use linker::offers;
pub use load::{Component, LoadError, LoadStats, Runtime, admissible};
pub use logs::{LogSink, LogStream, Logged};
pub use network::{Lookup, LookupError, NetworkOptions, NetworkStats, Resolver, SystemResolver};
pub use operations::{OPERATION_BUCKETS, OperationStats};
pub use parts::{Assembly, Edge, EdgeError, Part, PartRole, PartState, PartStats, Restart};
pub use pool::{Retirement, Reuse};
pub use probe::{Probed, Prober};
pub use prune::prune;
pub use signature::{Interface, Signatures, signatures};
pub use tally::{FailureKind, LastFailure, Limit, Tallied};
pub use unit::{StartError, Unit, UnitConfig, UnitStats};
pub use volumes::{Volume, VolumeContent, VolumeError, VolumeOptions};
pub use waits::{WAIT_BUCKETS, WaitStats};

/// A lock whose holder panicked is taken all the same: what these locks guard is whole between any two statements.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
