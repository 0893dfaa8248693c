//! The workloads' side of schedules: what is asked of them is written down, and no tick may be asked twice.

use crate::{chance::SimRng, checkers::Verdict};
use lattice::{
    Fut,
    id::NodeId,
    trigger::{Tick, Trigger},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::time::sleep;

/// All ticks that any node ever fired. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Fired(Arc<Mutex<Log>>);

#[derive(Default)]
struct Log {
    /// Who fired a tick of a life of a workload.
    ticks: BTreeMap<(uuid::Uuid, String, u64), NodeId>,
    violation: Option<String>,
}

impl Fired {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self) -> u64 {
        self.log().ticks.len() as u64
    }

    /// No tick fires twice, and nothing fires that is no tick.
    pub(crate) fn check(&self) -> Verdict {
        self.log().violation.clone().map_or(Ok(()), Err)
    }

    fn note(&self, node: &NodeId, tick: &Tick) {
        let mut log = self.log();
        let key = tick.schedule.key();
        if tick.schedule.next_after(tick.at - 1) != Some(tick.at) {
            log.violation = Some(format!("schedule: {} of {} is no tick of {key}", tick.at, tick.workload));
        }
        if let Some(other) = log.ticks.insert((tick.uid, key.clone(), tick.at), node.clone()) {
            let Tick { workload, at, .. } = tick;
            log.violation = Some(format!("schedule: {at} of {workload} ({key}) fired on {other} and on {node}"));
        }
    }
}

/// The router of one node: guests answer after a while, or fail.
pub(crate) struct StubTrigger {
    pub(crate) node: NodeId,
    pub(crate) fired: Fired,
    pub(crate) rng: SimRng,
}

impl Trigger for StubTrigger {
    fn fire(&self, tick: Tick) -> Fut<'static, Result<u16, String>> {
        self.fired.note(&self.node, &tick);
        let takes = self.rng.millis(1, 4_000);
        let fails = self.rng.happens(200);
        Box::pin(async move {
            sleep(takes).await;
            if fails { Err("out of luck".into()) } else { Ok(200) }
        })
    }
}
