//! Keeps the number of replicas of workloads that scale themselves. What is to be is decided by [`lattice_planner::Scaler`],
//! from what nodes report; here it is written, compare-and-set. One node decides about a workload, two stand in for it: should
//! several decide at once, one write lands and the others look again.
//!
//! A workload that has none is brought back by whichever node hears of a request first: none of the three is waited for.

use crate::{backlogs::Backlogs, demand::Awaited, reports::Reports, this_node::ThisNode};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use lattice::{
    Fut,
    event::EventKind,
    id::{NodeId, Revision, WorkloadName},
    messaging::Messaging,
    record::{DecodeError, Key, Record as _, Scale, SpecRecord},
    store::{Bucket, Precondition, StoreError},
    view::{LatticeView, Versioned},
};
use lattice_planner::{Decision, FOLLOWERS, Reported, Scaler, Seen, awaited, heard_of, scale_rank};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Between two looks at what is reported.
const LOOK: Duration = Duration::from_secs(1);
/// How much longer each next node waits for the one before it to do what it should.
const STAND_IN: Duration = Duration::from_secs(5);
/// Writes that one node has under way at a time.
const WRITES_AT_ONCE: usize = 32;
/// Workloads that one node brings back in a second: strangers who ask for all that rest do not start everything at once.
const WAKES_A_SECOND: u32 = 16;

pub(crate) struct Autoscaler {
    node: ThisNode,
    reports: Reports,
    awaited: Awaited,
    /// How many more may be brought back until the next look.
    wakes: u32,
    /// The last one that was brought back; the next turn is that of the one after it.
    woken: Option<WorkloadName>,
    followed: BTreeMap<WorkloadName, Followed>,
    backlogs: Backlogs,
    /// This node's place for each workload, as long as the members are the same.
    ranks: BTreeMap<WorkloadName, Option<u32>>,
    members: Vec<NodeId>,
    under_way: FuturesUnordered<Fut<'static, Done>>,
    writing: BTreeSet<WorkloadName>,
    /// What this node wrote and the view does not show yet.
    wrote: BTreeMap<WorkloadName, Revision>,
}

struct Followed {
    scaler: Scaler,
    /// Since when something else should hold than what does.
    overdue: Option<Duration>,
}

struct Done {
    workload: WorkloadName,
    event: Option<String>,
    result: Result<Revision, StoreError>,
}

impl Autoscaler {
    pub(crate) fn new(node: ThisNode, reports: Reports, awaited: Awaited, messaging: Arc<dyn Messaging>) -> Self {
        let backlogs = Backlogs::new(node.platform.clone(), messaging);
        Self {
            node,
            reports,
            awaited,
            wakes: 0,
            woken: None,
            followed: BTreeMap::new(),
            backlogs,
            ranks: BTreeMap::new(),
            members: Vec::new(),
            under_way: FuturesUnordered::new(),
            writing: BTreeSet::new(),
            wrote: BTreeMap::new(),
        }
    }

    /// Decide until `stop`. What is being written then may land; the next node goes by what did.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut due = self.node.platform.clock.now() + LOOK;
        while !stop.is_cancelled() {
            let now = self.node.platform.clock.now();
            if now >= due {
                due = now + LOOK;
                self.wakes = WAKES_A_SECOND;
                self.look(now);
            }
            self.wake();
            let clock = self.node.platform.clock.clone();
            let wait = clock.sleep(due.saturating_sub(now));
            tokio::select! { // cancel-safe: `next` of a set of futures, and what hears of backlogs, lose nothing
                biased;
                () = stop.cancelled() => {}
                Some(done) = self.under_way.next() => self.settle(done).await,
                Some(()) = self.backlogs.hear(|| clock.now()) => {}
                () = self.awaited.news() => {}
                () = wait => {}
            }
        }
    }

    /// Whether this node may decide anything now.
    fn can_write(&self, view: &LatticeView, now: Duration) -> bool {
        self.node.may_write(view, now) && !self.node.member.is_draining()
    }

    /// Bring back what requests of this node wait for and what rests.
    fn wake(&mut self) {
        let awaited = self.awaited.now();
        let view = self.node.view.borrow().clone();
        if awaited.is_empty() || !self.can_write(&view, self.node.platform.clock.now()) {
            return;
        }
        self.forget_seen(&view);
        // No name is always before another one.
        let last = self.woken.clone();
        for name in in_turn(&awaited, last.as_ref()) {
            let Some(spec) = view.specs.get(name).map(|spec| &spec.record) else { continue };
            let Standing::Decided(expect) = Standing::of(&view, spec) else { continue };
            if view.replicas(spec) == 0 && self.wakes > 0 && self.may_write(name) {
                self.wakes -= 1;
                self.woken = Some(name.clone());
                self.write(spec, 0, Decision { replicas: 1, why: "a request waits for it".into() }, expect);
            }
        }
    }

    fn look(&mut self, now: Duration) {
        let view = self.node.view.borrow_and_update().clone();
        self.forget_seen(&view);
        if !self.can_write(&view, now) {
            // What happens meanwhile is not seen here.
            self.followed.clear();
            self.backlogs.keep_only(|_| false);
            return;
        }
        let members = || view.sessions.iter().filter(|(_, session)| !session.record.draining).map(|(node, _)| node);
        if !self.members.iter().eq(members()) {
            self.members = members().cloned().collect();
            self.ranks.clear();
        }
        self.ranks.retain(|name, _| view.specs.contains_key(name) || view.scales.contains_key(name));
        self.followed.retain(|name, _| view.specs.contains_key(name));
        self.backlogs.keep_only(|name| self.followed.contains_key(name));
        let reported = self.reports.now();
        let own = self.awaited.now();
        let mut awaited = awaited(&reported);
        awaited.extend(&own);
        for (name, spec) in view.specs.iter().filter(|(_, spec)| spec.record.spec.autoscale.is_some()) {
            match self.rank(&view, name) {
                Some(rank) if rank < FOLLOWERS => {
                    self.decide(&view, &spec.record, rank, (&reported, awaited.contains(name)), now);
                }
                _ => {
                    self.followed.remove(name);
                    self.backlogs.forget(name);
                }
            }
        }
        for (name, scale) in &view.scales {
            let is_needed = view.specs.get(name).is_some_and(|spec| spec.record.spec.autoscale.is_some());
            let is_corrupt = || view.corrupt.contains_key(&Key::Spec(name.clone()).to_string());
            if !is_needed && !is_corrupt() && self.rank(&view, name) == Some(0) && self.may_write(name) {
                self.delete(name.clone(), scale.revision);
            }
        }
    }

    /// Forget what was written and the view shows.
    fn forget_seen(&mut self, view: &LatticeView) {
        let seen = view.seen.get(&Bucket::State).map_or(0, |seen| seen.head);
        self.wrote.retain(|_, revision| revision.0 > seen);
    }

    fn rank(&mut self, view: &LatticeView, name: &WorkloadName) -> Option<u32> {
        if let Some(rank) = self.ranks.get(name) {
            return *rank;
        }
        let rank = scale_rank(view, name, &self.node.member.me());
        self.ranks.insert(name.clone(), rank);
        rank
    }

    fn may_write(&self, name: &WorkloadName) -> bool {
        !self.writing.contains(name) && !self.wrote.contains_key(name) && self.under_way.len() < WRITES_AT_ONCE
    }

    fn decide(
        &mut self,
        view: &LatticeView,
        spec: &SpecRecord,
        rank: u32,
        (reported, awaited): (&Reported, bool),
        now: Duration,
    ) {
        let name = &spec.spec.name;
        let current = view.replicas(spec);
        let replicas = heard_of(view, spec, reported, now);
        let followed = self
            .followed
            .entry(name.clone())
            .or_insert_with(|| Followed { scaler: Scaler::new(spec, now), overdue: None });
        let autoscale = spec.spec.autoscale.as_ref();
        let asked = autoscale.map(|autoscale| (autoscale, &spec.spec.grants));
        let pending = asked.and_then(|asked| self.backlogs.look(now, name, asked, rank));
        let seen = Seen { replicas: &replicas, awaited, pending };
        let decision = followed.scaler.look(now, spec, current, seen);
        let decision = match Standing::of(view, spec) {
            Standing::Decided(expect) => decision.map(|decision| (decision, expect)),
            Standing::Nothing(expect) => {
                let why = "nothing was decided before: as many as there are".to_owned();
                Some((Decision { replicas: current, why }, expect))
            }
            // Not ours to touch: a newer version wrote it.
            Standing::Unreadable => None,
        };
        let Some((decision, expect)) = decision else {
            followed.overdue = None;
            return;
        };
        let overdue = *followed.overdue.get_or_insert(now);
        if now.saturating_sub(overdue) >= STAND_IN * rank && self.may_write(name) {
            self.write(spec, current, decision, expect);
        }
    }

    fn write(&mut self, spec: &SpecRecord, current: u32, decision: Decision, expect: Precondition) {
        let Decision { replicas, why } = decision;
        let workload = spec.spec.name.clone();
        let since = self.node.platform.clock.unix_ms();
        let record = Scale::new(spec.uid, (current, replicas), since, &why);
        let event = (replicas != current).then(|| format!("{current} → {replicas} replicas: {why}"));
        let store = self.node.platform.store.clone();
        let key = Key::Scale(workload.clone()).to_string();
        self.writing.insert(workload.clone());
        self.under_way.push(Box::pin(async move {
            let result = store.write(Bucket::State, &key, record.encode(), expect).await;
            Done { workload, event, result }
        }));
    }

    fn delete(&mut self, workload: WorkloadName, expect: Revision) {
        let store = self.node.platform.store.clone();
        let key = Key::Scale(workload.clone()).to_string();
        self.writing.insert(workload.clone());
        self.under_way.push(Box::pin(async move {
            let result = store.delete(Bucket::State, &key, expect).await;
            Done { workload, event: None, result }
        }));
    }

    async fn settle(&mut self, Done { workload, event, result }: Done) {
        self.writing.remove(&workload);
        match result {
            Ok(revision) => {
                self.wrote.insert(workload.clone(), revision);
                if let Some(followed) = self.followed.get_mut(&workload) {
                    followed.overdue = None;
                }
                if let Some(event) = event {
                    self.node.events.send(EventKind::WorkloadScaled, &workload, event).await;
                }
            }
            Err(StoreError::Conflict { .. }) => tracing::debug!(%workload, "another node decided first"),
            // It may have landed: the next look begins with what the view shows.
            Err(error) => {
                tracing::debug!(node = %self.node.options.node, %workload, %error, "replicas were not decided")
            }
        }
    }
}

/// All names, beginning after the one that was served last.
fn in_turn<'a>(
    names: &'a BTreeSet<WorkloadName>,
    last: Option<&'a WorkloadName>,
) -> impl Iterator<Item = &'a WorkloadName> {
    let from = last.map_or(Unbounded, Excluded);
    let until = last.into_iter().flat_map(|last| names.range(..=last));
    names.range::<WorkloadName, _>((from, Unbounded)).chain(until)
}

/// What the store says of a workload's replicas, and what a write to it must expect.
enum Standing {
    Decided(Precondition),
    /// No record of this life of the workload that can be read.
    Nothing(Precondition),
    Unreadable,
}

impl Standing {
    fn of(view: &LatticeView, spec: &SpecRecord) -> Self {
        let name = &spec.spec.name;
        if let Some(corrupt) = view.corrupt.get(&Key::Scale(name.clone()).to_string()) {
            return match corrupt.error {
                DecodeError::Malformed(_) => Standing::Nothing(Precondition::At(corrupt.revision)),
                DecodeError::Newer(_) => Standing::Unreadable,
            };
        }
        match view.scales.get(name) {
            None => Standing::Nothing(Precondition::Absent),
            Some(Versioned { record, revision }) if record.uid == spec.uid => {
                Standing::Decided(Precondition::At(*revision))
            }
            Some(Versioned { revision, .. }) => Standing::Nothing(Precondition::At(*revision)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_turn() {
        let names: BTreeSet<WorkloadName> = ["a", "b", "c", "d"].map(|name| name.parse().unwrap()).into();
        let (mut last, mut served) = (None::<WorkloadName>, Vec::new());
        for _ in 0..3 {
            let turn: Vec<WorkloadName> = in_turn(&names, last.as_ref()).cloned().collect();
            assert_eq!(turn.iter().collect::<BTreeSet<_>>().len(), names.len(), "each is offered once");
            served.extend(turn.into_iter().take(3));
            last = served.last().cloned();
        }
        let served: Vec<&str> = served.iter().map(WorkloadName::as_str).collect();
        assert_eq!(served.join(""), "abcdabcda");
        // One that is not asked for any more has its place yet.
        let gone = "bb".parse().unwrap();
        assert_eq!(in_turn(&names, Some(&gone)).map(WorkloadName::as_str).collect::<String>(), "cdab");
    }
}
