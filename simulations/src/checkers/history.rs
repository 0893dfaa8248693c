//! The store, revision by revision, without any fault in between.

use super::{
    Verdict,
    claims::{self, Reserved, SlotWrite},
    rollouts::rollout_goes_on,
};
use crate::{network::Sky, trace::Trace};
use futures_util::{FutureExt as _, StreamExt as _};
use lattice::{
    id::{NodeId, Revision, SlotId, WorkloadName},
    record::{Key, Move, Rollout, Slot},
    spec::{GpuSpec, Requirement},
    store::{Bucket, Change, FeedItem, Items, Store as _},
    testing::{MemoryLattice, MemoryStore},
    view::{Applied, LatticeView},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::Instant;

/// After the store went back in time, for so long what it says is not what nodes decided on: one that was out of reach
/// then puts back what it knows when it is back.
const UNSETTLED: Duration = Duration::from_secs(60);

pub(crate) struct History {
    store: MemoryStore,
    feed: Items<FeedItem>,
    sky: Sky,
    pub(crate) view: LatticeView,
    /// The least that a replica of each workload ever reserved: the order of writes to two buckets is not known.
    reserved: BTreeMap<WorkloadName, Reserved>,
    /// What each workload ever asked of nodes: a claim can be made on a view of specs that is older than the claim.
    requirements: BTreeMap<WorkloadName, Vec<Requirement>>,
    /// The same of GPUs.
    gpus: BTreeMap<WorkloadName, Vec<GpuSpec>>,
    /// Replicas that were ever to be moved away from a node: a claim can land when that is over.
    moved: BTreeSet<(SlotId, NodeId)>,
    /// When the store went back in time.
    regressed: Option<Instant>,
    /// Writes to slots so far, deletions included.
    pub(crate) slot_writes: u64,
    pub(crate) claims: u64,
}

impl History {
    pub(crate) async fn new(lattice: &MemoryLattice, sky: Sky) -> Self {
        let store = lattice.store().clone();
        let feed = store.feed().await.expect("a store in memory always answers");
        let mut history = Self {
            store,
            feed,
            sky,
            view: LatticeView::default(),
            reserved: BTreeMap::new(),
            requirements: BTreeMap::new(),
            gpus: BTreeMap::new(),
            moved: BTreeSet::new(),
            regressed: None,
            slot_writes: 0,
            claims: 0,
        };
        history.reload();
        history
    }

    /// The store was changed by other means than writes.
    pub(crate) fn went_back(&mut self) {
        while self.feed.next().now_or_never().is_some() {}
        self.regressed = Some(Instant::now());
        self.reload();
    }

    fn reload(&mut self) {
        for bucket in Bucket::ALL {
            let snapshot = self.store.snapshot(bucket).now_or_never().and_then(Result::ok);
            self.view.apply_snapshot(bucket, snapshot.expect("a store in memory answers at once"));
        }
    }

    /// Whether the store ever went back in time.
    pub(crate) fn went_back_once(&self) -> bool {
        self.regressed.is_some()
    }

    fn is_settled(&self) -> bool {
        self.regressed.is_none_or(|at| at.elapsed() > UNSETTLED)
    }

    /// Follow what was written since the last call, and check each revision.
    pub(crate) fn follow(&mut self, trace: &mut Trace) -> Verdict {
        while let Some(Some(item)) = self.feed.next().now_or_never() {
            let FeedItem::Change(bucket, change) = item else { return Err("the store's own feed has a gap".into()) };
            self.step(bucket, &change, trace)?;
        }
        Ok(())
    }

    fn step(&mut self, bucket: Bucket, change: &Change, trace: &mut Trace) -> Verdict {
        let key = Key::parse(bucket, &change.key);
        let was = self.view.clone();
        if self.view.apply_change(bucket, change) != Applied::Yes {
            return Err(format!("revision {} of {bucket} does not follow the one before", change.revision));
        }
        if !self.view.corrupt.is_empty() {
            return Err(format!("a node wrote a record that does not parse: {:?}", self.view.corrupt));
        }
        match key {
            Some(Key::Slot(slot)) => self.slot_written(&was, &slot, change, trace)?,
            Some(Key::Session(node)) => {
                let life = |view: &LatticeView| view.sessions.get(&node).map(|session| session.record.incarnation);
                if life(&was) != life(&self.view) {
                    let life = life(&self.view).as_ref().map(short);
                    trace.note(format!("#{} session {node} is {life:?}", change.revision));
                }
            }
            Some(Key::Spec(name)) => {
                trace.note(spec_line(&self.view, change));
                if let Some(spec) = self.view.specs.get(&name).map(|spec| &spec.record.spec) {
                    let reserved = Reserved::by(spec);
                    let least = self.reserved.entry(name.clone()).or_insert(reserved);
                    *least = least.or_less(reserved);
                    self.gpus.entry(name.clone()).or_default().extend(spec.gpu.clone());
                    let asked = self.requirements.entry(name).or_default();
                    asked.extend(spec.placement.require.iter().cloned());
                }
            }
            Some(Key::Config(name)) => trace.note(format!("#{} config {name}", change.revision)),
            Some(Key::Node(node)) => {
                let cordoned = self.view.is_cordoned(&node);
                trace.note(format!("{node} is {}cordoned", if cordoned { "" } else { "not " }));
            }
            Some(Key::Cron(name)) => {
                trace.note(ticks_line(&self.view, &name, change.revision));
                let ticks = |view: &LatticeView| view.ticks.get(&name).map(|ticks| ticks.record.clone());
                if ticks(&was).is_some() && ticks(&was) == ticks(&self.view) {
                    return Err(format!("schedule: revision {} of {name} says what was there", change.revision));
                }
            }
            Some(Key::Rollout(name)) => {
                trace.note(rollout_line(&self.view, &name, change.revision));
                if self.is_settled() {
                    rollout_goes_on(was.rollout(&name), self.view.rollout(&name))?;
                }
            }
            Some(Key::Rebalance) => {
                let moving = self.view.rebalance.iter().flat_map(|rebalance| rebalance.record.moving.clone());
                let moving: Vec<Move> = moving.collect();
                trace.note(format!("#{} moving {moving:?}", change.revision));
                self.moved.extend(moving.into_iter().map(|Move { slot, from }| (slot, from)));
            }
            Some(Key::Scale(name)) => trace.note(scale_line(&self.view, &name, change.revision)),
            None => return Err(format!("a node wrote to {}", change.key)),
        }
        if !self.is_settled() {
            return Ok(());
        }
        claims::capacity_is_kept(&self.view, &self.reserved)?;
        claims::gpus_are_kept(&self.view)
    }

    fn slot_written(&mut self, was: &LatticeView, slot: &SlotId, change: &Change, trace: &mut Trace) -> Verdict {
        let before = was.slots.get(slot).map(|slot| &slot.record);
        let after = change.value.as_ref().and_then(|_| Some(&self.view.slots.get(slot)?.record));
        trace.note(slot_line(slot, change.revision, after));
        let write = SlotWrite { slot, before, after, was, now: &self.view };
        self.slot_writes += 1;
        if let Some(claim) = write.claimed() {
            self.claims += 1;
            if let Some(decided) = self.sky.decided_on(&claim.nonce) {
                claims::rules_are_kept(&write, claim, &decided)?;
            }
        }
        if self.is_settled() {
            let asked = self.requirements.get(&slot.workload).map_or(&[][..], Vec::as_slice);
            let is_moved = |from: &NodeId| self.moved.contains(&(slot.clone(), from.clone()));
            let gpus = self.gpus.get(&slot.workload).map_or(&[][..], Vec::as_slice);
            claims::owner_is_respected(&write, (asked, gpus), is_moved)?;
        }
        claims::taints_are_respected(&write)
    }
}

fn short(id: &uuid::Uuid) -> String {
    id.to_string().chars().take(4).collect()
}

fn slot_line(slot: &SlotId, revision: Revision, record: Option<&Slot>) -> String {
    let Some(Slot { holder, generation, phase, handover_from, .. }) = record else {
        return format!("#{revision} slot {slot} is free");
    };
    let from = handover_from.as_ref().map(|from| format!(" from {}", from.node)).unwrap_or_default();
    let life = short(&holder.incarnation);
    format!("#{revision} slot {slot} {}:{life} g{generation} {phase:?}{from}", holder.node)
}

fn ticks_line(view: &LatticeView, workload: &WorkloadName, revision: Revision) -> String {
    let Some(ticks) = view.ticks.get(workload).map(|ticks| &ticks.record) else {
        return format!("#{revision} ticks of {workload} are gone");
    };
    let settled = ticks.schedules.iter().map(|(key, settled)| {
        let last = settled.last.as_ref().map(|last| format!(" {} {:?}", last.holder.node, last.outcome));
        format!("{key} until {}{}", settled.until % 1_000_000, last.unwrap_or_default())
    });
    format!("#{revision} ticks of {workload} g{}: {}", ticks.generation, settled.collect::<Vec<_>>().join(", "))
}

fn rollout_line(view: &LatticeView, workload: &WorkloadName, revision: Revision) -> String {
    let Some(rollout) = view.rollout(workload) else { return format!("#{revision} rollout of {workload} is gone") };
    let Rollout { template, state, below, stop_first, weight, .. } = rollout;
    let share = weight.map_or_else(String::new, |weight| format!(", {weight} % of the requests"));
    format!(
        "#{revision} rollout of {workload} g{template} {state:?} below {below}, first stopped {stop_first:?}{share}"
    )
}

fn scale_line(view: &LatticeView, workload: &WorkloadName, revision: Revision) -> String {
    let Some(scale) = view.scales.get(workload).map(|scale| &scale.record) else {
        return format!("#{revision} scale of {workload} is gone");
    };
    format!("#{revision} {workload} has {} replicas after {}: {}", scale.replicas, scale.before, scale.why)
}

fn spec_line(view: &LatticeView, change: &Change) -> String {
    let specs = view.specs.iter().find(|(name, _)| change.key == format!("spec.{name}"));
    let text = specs.map(|(_, spec)| format!("g{} × {}", spec.record.generation, view.replicas(&spec.record)));
    format!("{} is {}", change.key, text.unwrap_or_else(|| "gone".into()))
}
