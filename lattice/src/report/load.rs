//! What a replica had to do, as sums that only grow: the averages between two reports follow from them, however many reports
//! were lost in between.

use super::SlotReport;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Of replicas whose number follows from their load, since they began to take requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
pub struct LoadReport {
    /// Milliseconds for which it was watched.
    pub watched: u64,
    /// Requests at work, times the milliseconds for which they were: two for a second are 2000.
    pub busy: u64,
    /// The same of requests that waited for their turn.
    pub queued: u64,
    /// Milliseconds of processor time of its guests, of all cores together: an estimate, from where each hundredth of a second
    /// finds them. What replicas of one workload use on one node is divided evenly among them.
    pub cpu: u64,
}

impl LoadReport {
    /// What was added since an earlier report of the same replica; none if this is not a later one.
    pub fn since(&self, earlier: &Self) -> Option<Self> {
        Some(Self {
            watched: self.watched.checked_sub(earlier.watched).filter(|watched| *watched > 0)?,
            busy: self.busy.checked_sub(earlier.busy)?,
            queued: self.queued.checked_sub(earlier.queued)?,
            cpu: self.cpu.checked_sub(earlier.cpu)?,
        })
    }
}

impl SlotReport {
    /// Requests that are at work or wait there now.
    pub fn present(&self) -> u64 {
        self.in_flight.saturating_add(self.waiting)
    }
}
