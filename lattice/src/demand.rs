//! What the router says to the control plane of its own node: requests wait for a workload of which no replica is ready.

use crate::id::WorkloadName;

/// Hears of requests that wait.
pub trait Demand: Send + Sync + 'static {
    /// A request found no replica of a workload that would take it. Said again about every second as long as it waits.
    /// Never waits itself.
    fn awaited(&self, workload: &WorkloadName);
}
