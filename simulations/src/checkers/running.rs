//! What nodes run, whatever the records say.

use super::Verdict;
use crate::node::SimNode;
use lattice::{
    gpu::GpuUse,
    id::{GpuId, NodeId, SlotId, WorkloadName},
    spec::Class,
};
use std::collections::BTreeMap;

/// Invariant 2: of a strict replica at most one instance runs, on nodes that are not suspended.
pub(crate) fn strict_runs_once(nodes: &[SimNode]) -> Verdict {
    let mut running: BTreeMap<(SlotId, uuid::Uuid), &NodeId> = BTreeMap::new();
    for node in nodes.iter().filter(|node| node.is_awake()) {
        for (slot, run) in node.host().map(|host| host.running()).unwrap_or_default() {
            if run.class != Class::Strict {
                continue;
            }
            if let Some(other) = running.insert((slot.clone(), run.uid), &node.id) {
                return Err(format!("strict: {slot} runs on {other} and on {}", node.id));
            }
        }
    }
    Ok(())
}

/// Invariant 4, of GPUs, whatever the records say: what runs on a node uses no more of an offer than there is of it.
pub(crate) fn gpus_are_shared(nodes: &[SimNode]) -> Verdict {
    for node in nodes {
        let mut used: BTreeMap<GpuId, GpuUse> = BTreeMap::new();
        for run in node.host().map(|host| host.running()).unwrap_or_default().into_values() {
            if let Some(grant) = run.gpu {
                let all = used.entry(grant.offer.clone()).or_default();
                *all = all.plus(&grant);
            }
        }
        for (id, all) in used {
            if !node.gpus.iter().any(|offer| offer.id == id && all.fits(offer)) {
                return Err(format!("gpu: replicas on {} use {all:?} of {id}", node.id));
            }
        }
    }
    Ok(())
}

/// How many replicas of a workload answer, on nodes that are not suspended. One that is held twice counts once.
pub(crate) fn answering(nodes: &[SimNode], workload: &WorkloadName) -> usize {
    let running = nodes.iter().filter(|node| !node.is_paused()).filter_map(|node| Some(node.host()?.running()));
    let ready = running.flatten().filter(|(slot, run)| slot.workload == *workload && run.is_ready);
    ready.map(|(slot, _)| slot).collect::<std::collections::BTreeSet<_>>().len()
}

/// Numbers of replicas below which workloads must not fall, and the least that was seen.
#[derive(Default)]
pub(crate) struct Floors(BTreeMap<WorkloadName, Floor>);

struct Floor {
    at_least: usize,
    seen: usize,
}

impl Floors {
    pub(crate) fn set(&mut self, workload: WorkloadName, at_least: usize) {
        self.0.insert(workload, Floor { at_least, seen: usize::MAX });
    }

    /// Answers with the least number that was seen.
    pub(crate) fn lift(&mut self, workload: &WorkloadName) -> Option<usize> {
        self.0.remove(workload).map(|floor| floor.seen)
    }

    /// Invariants 8 and 13: what answers goes on answering.
    pub(crate) fn are_kept(&mut self, nodes: &[SimNode]) -> Verdict {
        for (workload, floor) in &mut self.0 {
            let answering = answering(nodes, workload);
            floor.seen = floor.seen.min(answering);
            if answering < floor.at_least {
                return Err(format!("{answering} replicas of {workload} answer, {} should", floor.at_least));
            }
        }
        Ok(())
    }
}
