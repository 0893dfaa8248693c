//! Brings changes of what replicas run forward. What the next step is is decided by [`lattice_planner::advance`]; every node
//! would take it, one after the other, and compare-and-set lets one of them. Giving up is two writes: one to the record of the
//! rollout, so that it loses to whoever ends it or steers it at the same moment, and then one to the spec, so that it loses to
//! a person who puts another one.

use crate::{abort, reports::Reports, this_node::ThisNode};
use futures_util::{StreamExt as _, stream};
use lattice::{
    event::EventKind,
    id::{Revision, WorkloadName},
    record::{Key, Record as _, Rollout, RolloutState, SpecRecord},
    report::Reports as _,
    store::{Bucket, StoreError},
    view::{LatticeView, Versioned},
};
use lattice_planner::{
    AnalysisObserver, Elapsed, RolloutObserver, Step, advance, is_at_rest, open_rollouts, rollout_rank,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Between two looks while something is being changed, though no record changed: times pass by themselves.
const LOOK: Duration = Duration::from_millis(100);
/// The same while nothing is, or waits for people.
const IDLE: Duration = Duration::from_secs(1);
/// Writes under way at a time.
const WRITES_AT_ONCE: usize = 16;
/// How long the view may take to show what became of a write before it is tried again.
const ECHO: Duration = Duration::from_secs(1);

pub(crate) struct Rollouts {
    node: ThisNode,
    observer: RolloutObserver,
    analysis: AnalysisObserver,
    reports: Reports,
    due: BTreeMap<WorkloadName, Due>,
}

/// A step that this node would take.
struct Due {
    /// Revisions of spec and rollout.
    on: (Option<Revision>, Option<Revision>),
    since: Duration,
    tried: Option<Duration>,
}

impl Rollouts {
    pub(crate) fn new(node: ThisNode, reports: Reports) -> Self {
        let (observer, analysis) = (RolloutObserver::default(), AnalysisObserver::default());
        Self { node, observer, analysis, reports, due: BTreeMap::new() }
    }

    /// Take steps until `stop`: a node that leaves begins nothing.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let wait = self.pass().await;
            let wait = self.node.platform.clock.sleep(wait);
            tokio::select! { // cancel-safe: each arm only waits
                biased;
                () = stop.cancelled() => {}
                changed = self.node.view.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = wait => {}
            }
        }
    }

    async fn pass(&mut self) -> Duration {
        let view = self.node.view.borrow_and_update().clone();
        let now = self.node.platform.clock.now();
        if !self.node.may_write(&view, now) || self.node.member.is_draining() {
            self.observer.reset();
            self.analysis.reset();
            self.due.clear();
            return IDLE;
        }
        let open = open_rollouts(&view);
        self.due.retain(|name, _| open.contains(name));
        let elapsed = self.observer.observe(now, &view, &open);
        let mut beyond = self.analyse(now, &view, &open);
        let mut steps = Vec::new();
        for name in &open {
            let elapsed = Elapsed { beyond: beyond.remove(name), ..elapsed.get(name).cloned().unwrap_or_default() };
            match advance(&view, name, &elapsed) {
                Some(step) if self.is_my_turn(&view, name, now) => {
                    steps.push((name.clone(), step, view.specs.get(name).cloned()));
                }
                Some(_) => {}
                None => drop(self.due.remove(name)),
            }
        }
        let this = &*self;
        let writes = stream::iter(steps).map(|(name, step, spec)| this.take(name, step, spec));
        writes.buffer_unordered(WRITES_AT_ONCE).collect::<()>().await;
        // What is due is this node's turn, or to be tried again, after a while.
        let is_soon = |name: &WorkloadName| self.due.contains_key(name) || !is_at_rest(&view, name);
        if open.iter().any(is_soon) { LOOK } else { IDLE }
    }

    /// Workloads whose newest template is beyond a bound that it must keep, and what was found.
    fn analyse(
        &mut self,
        now: Duration,
        view: &LatticeView,
        open: &BTreeSet<WorkloadName>,
    ) -> BTreeMap<WorkloadName, String> {
        let has_bounds = |name: &&WorkloadName| {
            view.specs.get(*name).is_some_and(|spec| spec.record.spec.rollout.analysis.is_some())
        };
        let bounded: BTreeSet<WorkloadName> = open.iter().filter(has_bounds).cloned().collect();
        // Nobody looks at what all nodes said as long as nothing depends on it.
        let reports = if bounded.is_empty() { Vec::new() } else { self.reports.latest() };
        self.analysis.observe(now, view, &bounded, &reports)
    }

    /// Whether those who come first had their time, and this node has not just tried.
    fn is_my_turn(&mut self, view: &LatticeView, name: &WorkloadName, now: Duration) -> bool {
        let Some(rank) = rollout_rank(view, name, &self.node.member.me()) else { return false };
        let on =
            (view.specs.get(name).map(|spec| spec.revision), view.rollouts.get(name).map(|rollout| rollout.revision));
        let new = || Due { on, since: now, tried: None };
        let due = self.due.entry(name.clone()).or_insert_with(new);
        if due.on != on {
            *due = new();
        }
        let is_time = now >= due.since + self.node.options.timing.claim_delay * rank;
        let is_open = due.tried.is_some_and(|tried| now.saturating_sub(tried) < ECHO);
        if is_time && !is_open {
            due.tried = Some(now);
        }
        is_time && !is_open
    }

    async fn take(&self, name: WorkloadName, step: Step, spec: Option<Arc<Versioned<SpecRecord>>>) {
        let store = &self.node.platform.store;
        let key = Key::Rollout(name.clone()).to_string();
        let now = self.node.platform.clock.unix_ms();
        let (result, event) = match step {
            Step::Put { record, expect } => {
                let record = Rollout { changed_at: now, ..record };
                let written = store.write(Bucket::State, &key, record.encode(), expect).await;
                (written, told(&record))
            }
            Step::Abort { expect, reason } => {
                let view = self.node.view.borrow().clone();
                let Some(back) = spec.and_then(|spec| abort::back(&view, &spec.record, &reason, now)) else { return };
                match abort::write(&self.node.platform, self.node.view.clone(), back, expect).await {
                    Ok((back, revision)) => {
                        (Ok(revision), abort::told(&back).map(|text| (EventKind::RolloutAborted, text)))
                    }
                    Err(error) => (Err(error), None),
                }
            }
            Step::Forget { expect } => (store.delete(Bucket::State, &key, expect).await, None),
        };
        match (result, event) {
            (Ok(_), Some((kind, text))) => self.node.events.send(kind, &name, text).await,
            (Ok(_), None) => {}
            (Err(StoreError::Conflict { .. }), _) => tracing::debug!(workload = %name, "another node was first"),
            (Err(error), _) => tracing::warn!(workload = %name, %error, "a step of a rollout was not written"),
        }
    }
}

fn told(rollout: &Rollout) -> Option<(EventKind, String)> {
    let Rollout { template, below, beside, weight, message, .. } = rollout;
    Some(match rollout.state {
        RolloutState::Done if beside.is_some() => {
            let text = format!("generation {template} has all requests; the replicas before it start again with it");
            (EventKind::RolloutProgressed, text)
        }
        RolloutState::Done => (EventKind::RolloutDone, format!("every replica runs generation {template}")),
        RolloutState::Stalled => {
            let why = message.as_deref().unwrap_or("no reason is known");
            (EventKind::RolloutStalled, format!("generation {template} does not go on: {why}"))
        }
        RolloutState::Progressing | RolloutState::Paused => {
            let share = weight.map_or_else(String::new, |weight| format!(", and it gets {weight} % of the requests"));
            let which = match beside {
                Some(first) => format!("replicas {first} to {} run", first.saturating_mul(2).saturating_sub(1)),
                None => format!("replicas below {below} may run"),
            };
            (EventKind::RolloutProgressed, format!("{which} generation {template}{share}"))
        }
        // That the spec was put back is told when it is.
        RolloutState::GivingUp => return None,
    })
}
