//! What a router knows of other nodes by itself and from their reports: what it has under way there, how they answered,
//! and which of them were not there when last asked. It serves picking only; nothing is decided by it that could not be
//! decided without.

use crate::{body::lock, error::RouteError, retry::Unanswered};
use lattice::{
    id::{NodeId, WorkloadName},
    report::NodeReport,
};
use lattice_route_table::{Ask, Balancer, Outcome, Picked, RouteEntry, RouteTable};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

/// How long a node that was not there is asked last. The table follows within the time in which sessions expire.
const SUSPECT_FOR: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Default)]
pub(crate) struct Peers(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    suspects: BTreeMap<NodeId, Duration>,
    workloads: BTreeMap<WorkloadName, Balancer>,
}

impl State {
    /// Empty as a rule, and then allocates nothing.
    fn suspects(&self, now: Duration) -> Vec<NodeId> {
        self.suspects.iter().filter(|(_, until)| **until > now).map(|(node, _)| node.clone()).collect()
    }
}

/// A request under way at a node.
#[derive(Debug)]
pub(crate) struct InFlight {
    peers: Peers,
    workload: WorkloadName,
    node: NodeId,
    began: Duration,
    is_trial: bool,
}

impl Peers {
    /// The node that is best asked next.
    pub(crate) fn pick<'a>(
        &self,
        route: &'a RouteEntry,
        tried: &[NodeId],
        now: Duration,
        random: u64,
    ) -> Option<Picked<'a>> {
        let mut state = lock(&self.0);
        let suspects = state.suspects(now);
        let ask = Ask { now, random, tried, suspects: &suspects };
        match state.workloads.get_mut(&route.workload) {
            Some(balancer) => balancer.pick(route, ask),
            None => state.workloads.entry(route.workload.clone()).or_default().pick(route, ask),
        }
    }

    /// The node that a client is bound to by this key.
    pub(crate) fn pick_bound<'a>(
        &self,
        route: &'a RouteEntry,
        tried: &[NodeId],
        now: Duration,
        key: u64,
        me: Option<(&'a NodeId, u32)>,
    ) -> Option<&'a NodeId> {
        let mut state = lock(&self.0);
        let suspects = state.suspects(now);
        let ask = Ask { now, random: 0, tried, suspects: &suspects };
        state.workloads.entry(route.workload.clone()).or_default().pick_bound(route, ask, key, me)
    }

    pub(crate) fn begin(&self, workload: &WorkloadName, node: &NodeId, now: Duration) -> InFlight {
        let is_trial = lock(&self.0).workloads.entry(workload.clone()).or_default().begin(node, now);
        InFlight { peers: self.clone(), workload: workload.clone(), node: node.clone(), began: now, is_trial }
    }

    pub(crate) fn suspect(&self, node: &NodeId, now: Duration) {
        let suspects = &mut lock(&self.0).suspects;
        // Nodes that came and went are forgotten here, so that the map is bounded by the lattice's size.
        suspects.retain(|_, until| *until > now);
        suspects.insert(node.clone(), now.saturating_add(SUSPECT_FOR));
    }

    /// Whoever answers is there.
    pub(crate) fn answered(&self, node: &NodeId) {
        let suspects = &mut lock(&self.0).suspects;
        if !suspects.is_empty() {
            suspects.remove(node);
        }
    }

    /// What a node says of its replicas.
    pub(crate) fn hear(&self, report: &NodeReport, now: Duration) {
        let mut busy = BTreeMap::<&WorkloadName, u64>::new();
        for (slot, report) in &report.host.slots {
            *busy.entry(&slot.workload).or_default() += report.in_flight.saturating_add(report.waiting);
        }
        let mut state = lock(&self.0);
        for (workload, busy) in busy {
            // One that nobody here asks for is of no interest.
            if let Some(balancer) = state.workloads.get_mut(workload) {
                balancer.report(&report.node, u32::try_from(busy).unwrap_or(u32::MAX), now);
            }
        }
    }

    /// Forget what no route leads to any more.
    pub(crate) fn retain(&self, table: &RouteTable) {
        lock(&self.0).workloads.retain(|workload, balancer| {
            balancer.retain(table.workload(workload).map_or(&[], |entry| &entry.endpoints));
            !balancer.is_empty()
        });
    }
}

impl InFlight {
    /// What came of it until the head of the response.
    pub(crate) fn learn<T>(&self, now: Duration, answer: &Result<T, Unanswered>) {
        let took = now.saturating_sub(self.began);
        let outcome = match answer {
            Ok(_) => Outcome::Answered(took),
            Err(Unanswered { error: RouteError::Overloaded { .. }, .. }) => Outcome::Full,
            Err(Unanswered { error: RouteError::Failed | RouteError::PeerLost | RouteError::Timeout, .. }) => {
                Outcome::Failed(took)
            }
            // Not there, which is what suspicion is for; or not its doing.
            Err(_) => return,
        };
        if let Some(balancer) = lock(&self.peers.0).workloads.get_mut(&self.workload) {
            balancer.learn(&self.node, now, outcome);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(balancer) = lock(&self.peers.0).workloads.get_mut(&self.workload) {
            balancer.end(&self.node, self.is_trial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspicion_passes_and_counts_return_to_nothing() {
        let peers = Peers::default();
        let (node, workload) = (NodeId::new("n1").unwrap(), WorkloadName::new("w").unwrap());
        let suspects = |now| lock(&peers.0).suspects.values().filter(|until| **until > now).count();
        let first = peers.begin(&workload, &node, Duration::ZERO);
        let second = peers.begin(&workload, &node, Duration::ZERO);
        peers.suspect(&node, Duration::ZERO);
        assert_eq!((suspects(SUSPECT_FOR / 2), suspects(SUSPECT_FOR)), (1, 0));
        peers.answered(&node);
        assert_eq!(suspects(Duration::ZERO), 0);
        peers.retain(&RouteTable::default());
        assert_eq!(lock(&peers.0).workloads.len(), 1, "two are under way");
        drop((first, second));
        peers.retain(&RouteTable::default());
        assert!(lock(&peers.0).workloads.is_empty());
    }
}
