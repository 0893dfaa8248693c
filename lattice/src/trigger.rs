//! What the control plane says to the router of its own node: send this workload a request now.

use crate::{Fut, id::WorkloadName, spec::ScheduleSpec};

/// The schedule that a request of the lattice's own comes from. The router takes it from every client's request.
pub const HEADER_SCHEDULE: &str = "lattice-schedule";
/// The tick that it stands for, RFC 3339 in UTC. The same tick never comes twice.
pub const HEADER_TICK: &str = "lattice-tick";

/// One tick of a schedule, to be delivered to a ready replica anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tick {
    pub workload: WorkloadName,
    /// The life of the workload.
    pub uid: uuid::Uuid,
    pub schedule: ScheduleSpec,
    /// Milliseconds since 1970.
    pub at: u64,
}

/// Delivers ticks.
pub trait Trigger: Send + Sync + 'static {
    /// Send the request of a tick; answers with the status, or with why there is none. Never sends it to a second replica
    /// once a guest may have seen it.
    fn fire(&self, tick: Tick) -> Fut<'static, Result<u16, String>>;
}
