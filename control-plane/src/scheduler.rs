//! Fires the ticks of schedules that this node takes. Who takes which tick is decided by [`lattice_planner::turn`]; a
//! tick fires only after the write that takes it has landed, and only by the life of the node that wrote it.

use crate::{demand::Awaited, this_node::ThisNode};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use lattice::{
    Fut,
    demand::Demand as _,
    event::{EventKind, rfc3339},
    id::{Revision, WorkloadName},
    record::{Firing, Key, Outcome, Record as _, Ticks},
    store::{Bucket, Connection, Platform, Precondition, StoreError},
    trigger::{Tick, Trigger},
    view::{LatticeView, Versioned},
};
use lattice_planner::{LATE_MS, MISSED_COUNTED_MAX, Missed, TicksWrite, turn};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Firings of one node that are under way at a time. A node that has so many takes no more ticks.
const FIRINGS_MAX: usize = 256;
/// Longest pause between two looks at the clock, which may be set.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// After a write that failed, before the next one of the same workload.
const RETRY: Duration = Duration::from_millis(100);

pub(crate) struct Scheduler {
    node: ThisNode,
    trigger: Arc<dyn Trigger>,
    awaited: Awaited,
    /// Writes, one a workload, and firings.
    under_way: FuturesUnordered<Fut<'static, Done>>,
    writing: BTreeSet<WorkloadName>,
    /// What this node wrote and the view does not show yet.
    wrote: BTreeMap<WorkloadName, Versioned<Ticks>>,
    /// Firings that this process began, until the record has moved on.
    began: BTreeMap<FiringId, Option<Outcome>>,
    /// What the last look at a workload was made on, and when the next one is due.
    looked: BTreeMap<WorkloadName, Look>,
}

/// A tick of one life of a workload.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct FiringId {
    workload: WorkloadName,
    uid: uuid::Uuid,
    schedule: String,
    tick: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    spec: Option<Revision>,
    record: Option<Revision>,
    due: u64,
}

enum Done {
    Wrote { workload: WorkloadName, record: Option<Ticks>, missed: Vec<Missed>, result: Result<Revision, StoreError> },
    Fired { firing: FiringId, outcome: Outcome },
}

impl Scheduler {
    pub(crate) fn new(node: ThisNode, trigger: Arc<dyn Trigger>, awaited: Awaited) -> Self {
        Self {
            node,
            trigger,
            awaited,
            under_way: FuturesUnordered::new(),
            writing: BTreeSet::new(),
            wrote: BTreeMap::new(),
            began: BTreeMap::new(),
            looked: BTreeMap::new(),
        }
    }

    /// Fire until `stop`; then take nothing more, and return when what is under way is over or the time for leaving is.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let wait = self.pass();
            let wait = self.node.platform.clock.sleep(wait);
            tokio::select! { // cancel-safe: `next` of a set of futures loses nothing
                biased;
                () = stop.cancelled() => {}
                Some(done) = self.under_way.next() => self.settle(done).await,
                changed = self.node.view.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = wait => {}
            }
        }
        let timeout = self.node.platform.clock.sleep(self.node.options.drain);
        tokio::pin!(timeout);
        loop {
            self.finish();
            tokio::select! { // cancel-safe: see above
                biased;
                done = self.under_way.next() => match done {
                    Some(done) => self.settle(done).await,
                    None => return,
                },
                () = &mut timeout => return,
            }
        }
    }

    /// Look at every workload that is due. Answers how long to wait at most.
    fn pass(&mut self) -> Duration {
        let view = self.node.view.borrow_and_update().clone();
        let now = self.node.platform.clock.now();
        if !view.is_loaded() {
            return PAUSE_MAX;
        }
        let seen = view.seen.get(&Bucket::State).map_or(0, |seen| seen.head);
        self.wrote.retain(|_, wrote| wrote.revision.0 > seen);
        if !self.node.may_write(&view, now) || self.node.member.is_draining() {
            return PAUSE_MAX;
        }
        let now_ms = self.node.platform.clock.unix_ms();
        let scheduled = view.specs.iter().filter(|(_, spec)| !spec.record.spec.schedule.is_empty());
        let workloads: BTreeSet<&WorkloadName> =
            scheduled.map(|(name, _)| name).chain(view.ticks.keys()).chain(self.wrote.keys()).collect();
        let workloads: Vec<WorkloadName> = workloads.into_iter().cloned().collect();
        self.looked.retain(|name, _| workloads.contains(name));
        let mut due = now_ms + u64::try_from(PAUSE_MAX.as_millis()).unwrap_or_default();
        for workload in &workloads {
            due = due.min(self.look(&view, workload, now_ms));
        }
        self.forget(&view);
        Duration::from_millis(due.saturating_sub(now_ms)).max(Duration::from_millis(1))
    }

    /// The newest record that this node knows of.
    fn record<'a>(&'a self, view: &'a LatticeView, workload: &WorkloadName) -> Option<&'a Versioned<Ticks>> {
        self.wrote.get(workload).or_else(|| view.ticks.get(workload))
    }

    fn look(&mut self, view: &LatticeView, workload: &WorkloadName, now_ms: u64) -> u64 {
        self.begin(view, workload, now_ms);
        if self.writing.contains(workload) {
            return u64::MAX;
        }
        let known = self.record(view, workload);
        let has_news = known.is_some_and(|known| self.has_news(workload, &known.record));
        let is_open = has_news || known.is_some_and(|known| has_lost(view, &known.record));
        let spec = view.specs.get(workload).map(|spec| spec.revision);
        let record = known.map(|known| known.revision);
        if let Some(look) = self.looked.get(workload).filter(|_| !is_open)
            && (look.spec, look.record) == (spec, record)
            && look.due > now_ms
        {
            return look.due;
        }
        let known = known.map(|known| self.with_outcomes(workload, known));
        let delay = u64::try_from(self.node.options.timing.claim_delay.as_millis()).unwrap_or(u64::MAX);
        let room = FIRINGS_MAX.saturating_sub(self.under_way.len());
        let turn = turn(view, workload, known.as_ref(), &self.node.member.me(), (now_ms, delay), room);
        self.looked.insert(workload.clone(), Look { spec, record, due: turn.wake });
        if turn.is_awaited {
            self.awaited.awaited(workload);
        }
        match (turn.write, known) {
            (Some(write), _) => self.write(workload.clone(), write, turn.missed),
            // What is lost is given up by the turn of whoever ranks first; for all others there is nothing to write.
            (None, Some(known)) if has_news => self.write_outcomes(workload.clone(), known),
            (None, _) => {}
        }
        turn.wake
    }

    /// Begin what this life of the node has taken and not begun. It wrote the record itself, so nobody else does.
    fn begin(&mut self, view: &LatticeView, workload: &WorkloadName, now_ms: u64) {
        let Some(spec) = view.specs.get(workload).map(|spec| &spec.record) else { return };
        let me = self.node.member.me().holder();
        let is_open = |firing: &Firing| firing.outcome.is_none() && firing.holder == me;
        let Some(record) = self.record(view, workload).map(|known| &known.record) else { return };
        let mut firings = record.schedules.values().filter_map(|settled| settled.last.as_ref());
        if record.uid != spec.uid || !firings.any(is_open) {
            return;
        }
        let record = record.clone();
        for schedule in &spec.spec.schedule {
            let key = schedule.key();
            let last = record.schedules.get(&key).and_then(|settled| settled.last.as_ref());
            let Some(tick) = last.filter(|firing| is_open(firing)).map(|firing| firing.tick) else { continue };
            let firing = FiringId { workload: workload.clone(), uid: record.uid, schedule: key, tick };
            if self.newest(&firing).is_some_and(|newest| newest.tick >= tick) {
                continue;
            }
            if now_ms > tick.saturating_add(LATE_MS) {
                // The answer to the write, or this process, was late.
                self.began.insert(firing, Some(Outcome::failed("the node could not fire it in time")));
                continue;
            }
            self.began.insert(firing.clone(), None);
            let (workload, schedule, uid) = (workload.clone(), schedule.clone(), record.uid);
            let fired = self.trigger.fire(Tick { workload, uid, schedule, at: tick });
            self.under_way.push(Box::pin(async move {
                let outcome = fired.await.map_or_else(|why| Outcome::failed(&why), Outcome::Answered);
                Done::Fired { firing, outcome }
            }));
        }
    }

    /// The last firing of the same schedule that this process began.
    fn newest(&self, firing: &FiringId) -> Option<&FiringId> {
        let at = |tick| FiringId { tick, ..firing.clone() };
        self.began.range(at(0)..=at(u64::MAX)).next_back().map(|(newest, _)| newest)
    }

    /// What is known of a firing that the record calls open.
    fn outcome_of(&self, workload: &WorkloadName, record: &Ticks, schedule: &str, firing: &Firing) -> Option<&Outcome> {
        let (workload, schedule) = (workload.clone(), schedule.to_owned());
        let id = FiringId { workload, uid: record.uid, schedule, tick: firing.tick };
        self.began.get(&id).filter(|_| firing.outcome.is_none())?.as_ref()
    }

    /// Whether the record lacks an outcome that is known here.
    fn has_news(&self, workload: &WorkloadName, record: &Ticks) -> bool {
        let firings = record.schedules.iter().filter_map(|(key, settled)| Some((key, settled.last.as_ref()?)));
        !self.began.is_empty()
            && firings.into_iter().any(|(key, firing)| self.outcome_of(workload, record, key, firing).is_some())
    }

    /// The record with the outcomes that are known here.
    fn with_outcomes(&self, workload: &WorkloadName, known: &Versioned<Ticks>) -> Versioned<Ticks> {
        let mut with = known.clone();
        for (key, settled) in &mut with.record.schedules {
            if let Some(firing) = &mut settled.last
                && let Some(outcome) = self.outcome_of(workload, &known.record, key, firing)
            {
                firing.outcome = Some(outcome.clone());
            }
        }
        with
    }

    /// On the way out: begin what was taken just before, and say what became of the last firings.
    fn finish(&mut self) {
        let view = self.node.view.borrow().clone();
        let now_ms = self.node.platform.clock.unix_ms();
        let taken: Vec<WorkloadName> = self.wrote.keys().cloned().collect();
        for workload in &taken {
            self.begin(&view, workload, now_ms);
        }
        let fired: BTreeSet<WorkloadName> = self.began.keys().map(|firing| firing.workload.clone()).collect();
        for workload in fired {
            let known = self.record(&view, &workload).filter(|known| self.has_news(&workload, &known.record));
            if let Some(known) = known.map(|known| self.with_outcomes(&workload, known))
                && !self.writing.contains(&workload)
                && self.node.platform.bus.connection() == Connection::Up
            {
                self.write_outcomes(workload, known);
            }
        }
    }

    fn write_outcomes(&mut self, workload: WorkloadName, known: Versioned<Ticks>) {
        let expect = Precondition::At(known.revision);
        self.write(workload, TicksWrite::Put { record: known.record, expect }, Vec::new());
    }

    fn write(&mut self, workload: WorkloadName, write: TicksWrite, missed: Vec<Missed>) {
        self.writing.insert(workload.clone());
        let Platform { store, clock, .. } = self.node.platform.clone();
        let key = Key::Cron(workload.clone()).to_string();
        self.under_way.push(Box::pin(async move {
            let (record, result) = match write {
                TicksWrite::Put { record, expect } => {
                    let result = store.write(Bucket::State, &key, record.encode(), expect).await;
                    (Some(record), result)
                }
                TicksWrite::Delete { expect } => (None, store.delete(Bucket::State, &key, expect).await),
            };
            if result.is_err() {
                clock.sleep(RETRY).await;
            }
            Done::Wrote { workload, record, missed, result }
        }));
    }

    async fn settle(&mut self, done: Done) {
        match done {
            Done::Wrote { workload, record, missed, result } => {
                self.writing.remove(&workload);
                self.wrote.remove(&workload);
                match (result, record) {
                    (Ok(revision), Some(record)) => {
                        self.wrote.insert(workload.clone(), Versioned { record, revision });
                    }
                    (Ok(_), None) => {}
                    // If it landed, the feed will show it, and what was taken is fired then.
                    (Err(error), _) => return tracing::debug!(%workload, %error, "ticks were not taken"),
                }
                for missed in missed {
                    self.node.events.send(EventKind::ScheduleMissed, &workload, sentence(missed)).await;
                }
            }
            Done::Fired { firing, outcome } => {
                let kind = if outcome.is_good() { EventKind::ScheduleFired } else { EventKind::ScheduleFailed };
                let text = format!("{} at {}: {outcome}", firing.schedule, rfc3339(firing.tick));
                self.node.events.send(kind, &firing.workload, text).await;
                self.began.insert(firing, Some(outcome));
            }
        }
    }

    /// Drop the firings that are over, but for the last of each schedule that there is: a store that loses writes may show
    /// it once more.
    fn forget(&mut self, view: &LatticeView) {
        let is_there = |firing: &FiringId| {
            let spec = view.specs.get(&firing.workload).map(|spec| &spec.record).filter(|spec| spec.uid == firing.uid);
            let record = self.record(view, &firing.workload).map(|known| &known.record);
            // The record may speak of a schedule that the spec has no more, and will have again.
            spec.is_some_and(|spec| spec.spec.schedule.iter().any(|schedule| schedule.key() == firing.schedule))
                || record
                    .is_some_and(|record| record.uid == firing.uid && record.schedules.contains_key(&firing.schedule))
        };
        let over = self.began.iter().filter(|(_, outcome)| outcome.is_some()).map(|(firing, _)| firing);
        let forgotten: Vec<FiringId> =
            over.filter(|firing| self.newest(firing) != Some(*firing) || !is_there(firing)).cloned().collect();
        for firing in forgotten {
            self.began.remove(&firing);
        }
    }
}

/// Whether the record speaks of a firing whose node is gone.
fn has_lost(view: &LatticeView, record: &Ticks) -> bool {
    let firings = record.schedules.values().filter_map(|settled| settled.last.as_ref());
    firings.filter(|firing| firing.outcome.is_none()).any(|firing| view.live(&firing.holder).is_none())
}

fn sentence(missed: Missed) -> String {
    match missed {
        Missed::Skipped { schedule, count, first } => {
            let more = if count >= MISSED_COUNTED_MAX { " or more" } else { "" };
            format!("{schedule}: {count}{more} ticks from {} on were not fired", rfc3339(first))
        }
        Missed::Lost { schedule, tick, node } => {
            format!("{schedule} at {}: {node} took it and was lost; it may have run", rfc3339(tick))
        }
    }
}
