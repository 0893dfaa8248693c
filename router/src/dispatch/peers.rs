//! What a router knows of other nodes by itself and from their reports: what it has under way there, how they answered,
//! and which of them were not there when last asked. It serves picking only; nothing is decided by it that could not be
//! decided without.

use crate::{
    body::lock,
    callee::Callee,
    error::RouteError,
    metrics::{Metrics, Where},
    retry::Unanswered,
};
use lattice::{
    id::{NodeId, WorkloadName},
    record::Among,
    report::NodeReport,
};
use lattice_route_table::{Ask, Balancer, Change, Here, Outcome, RouteEntry, RouteTable};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

/// How long a node that was not there is asked last. The table follows within the time in which sessions expire.
const SUSPECT_FOR: Duration = Duration::from_secs(3);

#[derive(Debug, Clone)]
pub(crate) struct Peers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Workloads whose instances on this node failed last, or are left out. None as a rule, and then a request that is
    /// answered here takes no lock. Written with the state locked.
    failing_here: AtomicUsize,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct State {
    suspects: BTreeMap<NodeId, Duration>,
    workloads: BTreeMap<WorkloadName, Parts>,
}

/// What is known of a workload's nodes, for each part of its replicas that requests are shared out to: while they are, a
/// node may do well with what it had and badly with what is new. One as a rule; what no share leads to is forgotten with
/// the next table.
#[derive(Debug, Default)]
struct Parts(BTreeMap<Option<Among>, Balancer>);

impl Parts {
    /// Times that instances are left out: of this node, of others.
    fn ejected(&self) -> [usize; 2] {
        let here = self.0.values().filter(|balancer| balancer.is_ejected_here()).count();
        [here, self.0.values().map(Balancer::ejected).sum()]
    }

    /// Parts whose instances on this node failed last, or are left out.
    fn failing_here(&self) -> usize {
        self.0.values().filter(|balancer| !balancer.is_well_here()).count()
    }
}

impl State {
    fn get_mut(&mut self, callee: Callee<'_>) -> Option<&mut Balancer> {
        self.workloads.get_mut(callee.workload)?.0.get_mut(&callee.among)
    }

    fn get_or_default(&mut self, callee: Callee<'_>) -> &mut Balancer {
        self.workloads.entry(callee.workload.clone()).or_default().0.entry(callee.among).or_default()
    }

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
    among: Option<Among>,
    node: NodeId,
    began: Duration,
    is_trial: bool,
}

/// A request under way at an instance here, after those were left out.
#[derive(Debug)]
pub(crate) struct Trial {
    peers: Peers,
    workload: WorkloadName,
    among: Option<Among>,
}

impl Peers {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), failing_here: AtomicUsize::new(0), metrics }))
    }

    /// The node that is best asked next, this one among them.
    pub(crate) fn choose<'a>(
        &self,
        route: &'a RouteEntry,
        tried: &[NodeId],
        now: Duration,
        random: u64,
        here: Option<Here<'a>>,
    ) -> Option<&'a NodeId> {
        let mut state = lock(&self.0.state);
        let suspects = state.suspects(now);
        let ask = Ask { now, random, tried, suspects: &suspects };
        state.get_or_default(Callee::of(route)).choose(route, ask, here)
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
        let mut state = lock(&self.0.state);
        let suspects = state.suspects(now);
        let ask = Ask { now, random: 0, tried, suspects: &suspects };
        state.get_or_default(Callee::of(route)).pick_bound(route, ask, key, me)
    }

    /// Whether instances of some workload failed here lately. While none did, nothing speaks against those of this node.
    pub(crate) fn know_of_failures_here(&self) -> bool {
        self.0.failing_here.load(Relaxed) > 0
    }

    /// A request is given to an instance here. Something where it tries them after they were left out.
    pub(crate) fn begin_here(&self, callee: Callee<'_>, now: impl FnOnce() -> Duration) -> Option<Trial> {
        if !self.know_of_failures_here() {
            return None;
        }
        let is_trial = lock(&self.0.state).get_mut(callee)?.begin_here(now());
        is_trial.then(|| Trial { peers: self.clone(), workload: callee.workload.clone(), among: callee.among })
    }

    /// What came of a request to an instance here until the head of the response.
    pub(crate) fn learn_here<T>(
        &self,
        callee: Callee<'_>,
        now: impl FnOnce() -> Duration,
        answer: &Result<T, Unanswered>,
    ) {
        let is_answered = match answer {
            Ok(_) if !self.know_of_failures_here() => return,
            Ok(_) => true,
            Err(Unanswered { error: RouteError::Failed | RouteError::Timeout, .. }) => false,
            Err(_) => return,
        };
        let mut state = lock(&self.0.state);
        if is_answered && state.get_mut(callee).is_none() {
            return;
        }
        let balancer = state.get_or_default(callee);
        let was_well = balancer.is_well_here();
        let change = balancer.learn_here(now(), is_answered);
        let failing = &self.0.failing_here;
        match (was_well, balancer.is_well_here()) {
            (true, false) => failing.store(failing.load(Relaxed) + 1, Relaxed),
            (false, true) => failing.store(failing.load(Relaxed).saturating_sub(1), Relaxed),
            _ => {}
        }
        let Some(change) = change else { return };
        let Callee { workload, among } = callee;
        let [ejected, _] = state.workloads.get(workload).map_or([0, 0], Parts::ejected);
        self.0.metrics.note_ejection(workload, Where::Here, change, ejected);
        let among = among.map(tracing::field::display);
        match change {
            Change::Ejected => {
                tracing::warn!(%workload, among, "instances of this node only fail: others are asked first")
            }
            Change::Returned => tracing::info!(%workload, among, "instances of this node answer again"),
        }
    }

    pub(crate) fn begin(&self, callee: Callee<'_>, node: &NodeId, now: Duration) -> InFlight {
        let is_trial = lock(&self.0.state).get_or_default(callee).begin(node, now);
        let Callee { workload, among } = callee;
        InFlight { peers: self.clone(), workload: workload.clone(), among, node: node.clone(), began: now, is_trial }
    }

    pub(crate) fn suspect(&self, node: &NodeId, now: Duration) {
        let suspects = &mut lock(&self.0.state).suspects;
        // Nodes that came and went are forgotten here, so that the map is bounded by the lattice's size.
        suspects.retain(|_, until| *until > now);
        suspects.insert(node.clone(), now.saturating_add(SUSPECT_FOR));
    }

    /// Whoever answers is there.
    pub(crate) fn answered(&self, node: &NodeId) {
        let suspects = &mut lock(&self.0.state).suspects;
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
        let mut state = lock(&self.0.state);
        for (workload, busy) in busy {
            // One that nobody here asks for is of no interest. How busy a node is counts for whatever it runs of it.
            for balancer in state.workloads.get_mut(workload).into_iter().flat_map(|parts| parts.0.values_mut()) {
                balancer.report(&report.node, u32::try_from(busy).unwrap_or(u32::MAX), now);
            }
        }
    }

    /// Forget what no route leads to any more.
    pub(crate) fn retain(&self, table: &RouteTable) {
        let mut state = lock(&self.0.state);
        let mut failing_here = 0;
        state.workloads.retain(|workload, parts| {
            let entry = table.workload(workload);
            parts.0.retain(|among, balancer| {
                let part = entry.and_then(|entry| entry.part(*among));
                let (endpoints, is_here) =
                    part.map_or((&[][..], false), |part| (&*part.endpoints, part.local_slots > 0));
                balancer.retain(endpoints, is_here);
                !balancer.is_empty()
            });
            failing_here += parts.failing_here();
            self.0.metrics.set_ejected(workload, parts.ejected());
            !parts.0.is_empty()
        });
        self.0.failing_here.store(failing_here, Relaxed);
        self.0.metrics.retain_ejections(|workload| table.workload(workload).is_some());
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
        let shared = &*self.peers.0;
        let mut state = lock(&shared.state);
        let Some(change) = state.get_mut(self.callee()).and_then(|known| known.learn(&self.node, now, outcome)) else {
            return;
        };
        let [_, ejected] = state.workloads.get(&self.workload).map_or([0, 0], Parts::ejected);
        shared.metrics.note_ejection(&self.workload, Where::Elsewhere, change, ejected);
        let Self { node, workload, .. } = self;
        let among = self.among.map(tracing::field::display);
        match change {
            Change::Ejected => tracing::warn!(%node, %workload, among, "a node is left out: its answers only fail"),
            Change::Returned => tracing::info!(%node, %workload, among, "a node that was left out answers again"),
        }
    }

    fn callee(&self) -> Callee<'_> {
        Callee { workload: &self.workload, among: self.among }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(balancer) = lock(&self.peers.0.state).get_mut(self.callee()) {
            balancer.end(&self.node, self.is_trial);
        }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let callee = Callee { workload: &self.workload, among: self.among };
        if let Some(balancer) = lock(&self.peers.0.state).get_mut(callee) {
            balancer.end_here();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::id::Generation;

    #[test]
    fn suspicion_passes_and_counts_return_to_nothing() {
        let peers = Peers::new(Metrics::register(&mut prometheus_client::registry::Registry::default()));
        let (node, workload) = (NodeId::new("n1").unwrap(), WorkloadName::new("w").unwrap());
        let callee = Callee { workload: &workload, among: None };
        let suspects = |now| lock(&peers.0.state).suspects.values().filter(|until| **until > now).count();
        let first = peers.begin(callee, &node, Duration::ZERO);
        let second = peers.begin(callee, &node, Duration::ZERO);
        peers.suspect(&node, Duration::ZERO);
        assert_eq!((suspects(SUSPECT_FOR / 2), suspects(SUSPECT_FOR)), (1, 0));
        peers.answered(&node);
        assert_eq!(suspects(Duration::ZERO), 0);
        peers.retain(&RouteTable::default());
        assert_eq!(lock(&peers.0.state).workloads.len(), 1, "two are under way");
        drop((first, second));
        peers.retain(&RouteTable::default());
        assert!(lock(&peers.0.state).workloads.is_empty());
    }
    #[test]
    fn what_is_new_may_fail_at_a_node_that_does_well_with_what_it_had() {
        let peers = Peers::new(Metrics::register(&mut prometheus_client::registry::Registry::default()));
        let workload = WorkloadName::new("w").unwrap();
        let of = |among| Callee { workload: &workload, among };
        let (new, old) = (of(Some(Among::With(Generation(2)))), of(Some(Among::Without(Generation(2)))));
        let failed: Result<(), _> = Err(Unanswered::maybe_ran(RouteError::Failed));
        for seconds in 0..20 {
            let now = Duration::from_secs(seconds);
            peers.learn_here(new, || now, &failed);
            peers.learn_here(old, || now, &Ok::<_, Unanswered>(()));
        }
        let mut state = lock(&peers.0.state);
        let mut is_ejected = |callee| state.get_mut(callee).is_some_and(|balancer| balancer.is_ejected_here());
        assert_eq!((is_ejected(new), is_ejected(old)), (true, false));
        assert_eq!(state.workloads.get(&workload).unwrap().ejected(), [1, 0]);
        assert_eq!(state.workloads.get(&workload).unwrap().failing_here(), 1);
        drop(state);
        peers.retain(&RouteTable::default());
        assert!(lock(&peers.0.state).workloads.is_empty());
    }
}
