//! What must hold. Each checker answers with the sentence that says what did not.
//!
//! [`History`] follows every write to the store; the others compare it with what the nodes run.

use crate::{node::SimNode, trace::Trace};
use futures_util::{FutureExt as _, StreamExt as _};
use lattice::{
    id::{Generation, NodeId, Revision, SlotId, WorkloadName},
    record::{Holder, Key, Phase, Rollout, RolloutState, Slot},
    spec::{Class, Requirement},
    store::{Bucket, Change, FeedItem, Items, Precondition, Store as _},
    testing::MemoryLattice,
    view::{Applied, LatticeView},
};
use lattice_planner::{Action, Me, Planner, Situation, claimable, explain_vacant, plan, wanted};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub(crate) type Verdict = Result<(), String>;

/// The store, revision by revision, without any fault in between.
pub(crate) struct History {
    feed: Items<FeedItem>,
    pub(crate) view: LatticeView,
    /// Memory that a replica of each workload reserves. Constant, so that the order of writes to two buckets does not
    /// matter.
    memory: BTreeMap<WorkloadName, u64>,
    /// What each workload ever asked of nodes: a claim can be made on a view of specs that is older than the claim.
    requirements: BTreeMap<WorkloadName, Vec<Requirement>>,
    /// Writes to slots so far, deletions included.
    pub(crate) slot_writes: u64,
    pub(crate) claims: u64,
}

impl History {
    pub(crate) async fn new(lattice: &MemoryLattice, memory: BTreeMap<WorkloadName, u64>) -> Result<Self, String> {
        let store = lattice.store();
        let feed = store.feed().await.map_err(|error| error.to_string())?;
        let mut view = LatticeView::default();
        for bucket in Bucket::ALL {
            view.apply_snapshot(bucket, store.snapshot(bucket).await.map_err(|error| error.to_string())?);
        }
        Ok(Self { feed, view, memory, requirements: BTreeMap::new(), slot_writes: 0, claims: 0 })
    }

    /// Follow what was written since the last call, and check each revision.
    pub(crate) fn follow(&mut self, trace: &mut Trace) -> Verdict {
        while let Some(Some(item)) = self.feed.next().now_or_never() {
            let FeedItem::Change(bucket, change) = item else { return Err("the store's own feed has a gap".into()) };
            let key = Key::parse(bucket, &change.key);
            let before = match &key {
                Some(Key::Slot(slot)) => self.view.slots.get(slot).map(|slot| slot.record.clone()),
                _ => None,
            };
            let was = self.view.clone();
            if self.view.apply_change(bucket, &change) != Applied::Yes {
                return Err(format!("revision {} of {bucket} does not follow the one before", change.revision));
            }
            if !self.view.corrupt.is_empty() {
                return Err(format!("a node wrote a record that does not parse: {:?}", self.view.corrupt));
            }
            match key {
                Some(Key::Slot(slot)) => {
                    let after = change.value.as_ref().and_then(|_| Some(&self.view.slots.get(&slot)?.record));
                    trace.note(slot_line(&slot, change.revision, after));
                    self.slot_writes += 1;
                    if after.is_some_and(|after| before.as_ref().is_none_or(|before| before.holder != after.holder)) {
                        self.claims += 1;
                    }
                    self.owner_is_respected(&was, &slot, before.as_ref(), after)?;
                    self.taints_are_respected(&slot, before.as_ref(), after)?;
                }
                Some(Key::Session(node)) => {
                    let renewed = was.sessions.get(&node).map(|session| session.record.incarnation)
                        == self.view.sessions.get(&node).map(|session| session.record.incarnation);
                    if !renewed {
                        let life = self.view.sessions.get(&node).map(|session| short(&session.record.incarnation));
                        trace.note(format!("#{} session {node} is {life:?}", change.revision));
                    }
                }
                Some(Key::Spec(name)) => {
                    trace.note(spec_line(&self.view, &change));
                    if let Some(spec) = self.view.specs.get(&name) {
                        let asked = self.requirements.entry(name).or_default();
                        asked.extend(spec.record.spec.placement.require.iter().cloned());
                    }
                }
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
                    let rollout = |view: &LatticeView| view.rollout(&name).cloned();
                    rollout_goes_on(rollout(&was).as_ref(), rollout(&self.view).as_ref())?;
                }
                None => return Err(format!("a node wrote to {}", change.key)),
            }
            self.capacity_is_kept()?;
        }
        Ok(())
    }

    /// Invariant 1: who holds a slot keeps it. Another node writes over it only when the holder's session is gone, or
    /// when the holder is leaving and its replica may run twice.
    fn owner_is_respected(
        &self,
        view: &LatticeView,
        slot: &SlotId,
        before: Option<&Slot>,
        after: Option<&Slot>,
    ) -> Verdict {
        let (Some(before), Some(after)) = (before, after) else { return Ok(()) };
        if before.holder.node == after.holder.node {
            return Ok(());
        }
        let Some(session) = view.live(&before.holder) else { return Ok(()) };
        let class = view.specs.get(&slot.workload).map(|spec| spec.record.spec.class);
        let mut asked = self.requirements.get(&slot.workload).into_iter().flatten();
        let is_leaving = session.draining || asked.any(|requirement| !requirement.holds(&session.labels));
        if class != Some(Class::Strict) && is_leaving {
            return Ok(());
        }
        Err(format!("{} took {slot} from {}, which lives and is not leaving", after.holder.node, before.holder.node))
    }

    /// Taints of the simulated nodes never change, nor what a workload tolerates: a claim against one is never right.
    fn taints_are_respected(&self, slot: &SlotId, before: Option<&Slot>, after: Option<&Slot>) -> Verdict {
        let Some(holder) = after.map(|after| &after.holder) else { return Ok(()) };
        let Some(session) = self.view.live(holder) else { return Ok(()) };
        let Some(spec) = self.view.specs.get(&slot.workload).map(|spec| &spec.record.spec) else { return Ok(()) };
        let is_new = before.is_none_or(|before| before.holder.node != holder.node);
        let tolerated = |taint| spec.placement.tolerate.iter().any(|toleration| toleration.covers(taint));
        match session.taints.iter().find(|taint| !tolerated(taint)).filter(|_| is_new) {
            Some(taint) => Err(format!("taint: {} took {slot} in spite of {taint}", holder.node)),
            None => Ok(()),
        }
    }

    /// Invariant 4: at no revision does a node hold more than it declared.
    fn capacity_is_kept(&self) -> Verdict {
        let mut held: BTreeMap<&NodeId, (u32, u64)> = BTreeMap::new();
        for (slot, record) in &self.view.slots {
            let holder = &record.record.holder;
            if self.view.live(holder).is_some() {
                let (slots, memory) = held.entry(&holder.node).or_default();
                *slots += 1;
                *memory += self.memory.get(&slot.workload).copied().unwrap_or_default();
            }
        }
        for (node, (slots, memory)) in held {
            let Some(capacity) = self.view.sessions.get(node).map(|session| session.record.capacity) else { continue };
            if slots > capacity.slots || memory > capacity.memory {
                return Err(format!(
                    "capacity: {node} holds {slots} slots of {} and {memory} bytes of {}",
                    capacity.slots, capacity.memory
                ));
            }
        }
        Ok(())
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
    let Rollout { template, state, below, stop_first, .. } = rollout;
    format!("#{revision} rollout of {workload} g{template} {state:?} below {below}, first stopped {stop_first:?}")
}

/// What a rollout let happen it does not take back, and it goes to newer templates only.
fn rollout_goes_on(before: Option<&Rollout>, after: Option<&Rollout>) -> Verdict {
    let (Some(before), Some(after)) = (before, after) else { return Ok(()) };
    let is_back = before.uid == after.uid
        && (after.template < before.template || after.template == before.template && after.below < before.below);
    let is_redone = before.is_ahead_of(after) && before.state == RolloutState::Done;
    if is_back || is_redone { Err(format!("rollout: {after:?} after {before:?}")) } else { Ok(()) }
}

fn spec_line(view: &LatticeView, change: &Change) -> String {
    let specs = view.specs.iter().find(|(name, _)| change.key == format!("spec.{name}"));
    let text = specs.map(|(_, spec)| format!("g{} × {}", spec.record.generation, spec.record.spec.replicas));
    format!("{} is {}", change.key, text.unwrap_or_else(|| "gone".into()))
}

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

/// Invariant 7: on the same view all nodes agree who is first for a slot, nobody claims twice what is one, and it does not
/// matter which views were seen before.
pub(crate) fn plans_agree(view: &LatticeView, planner: &mut Planner) -> Verdict {
    let shared = Arc::new(view.clone());
    let mut claims: BTreeMap<SlotId, Vec<(u32, NodeId, Precondition)>> = BTreeMap::new();
    for session in view.sessions.values() {
        let me = Me { node: session.record.node.clone(), incarnation: session.record.incarnation };
        let first = plan(view, &me, Situation { settling: false });
        if first != planner.plan(&shared, &me, Situation { settling: false }) {
            return Err(format!("plan: {} plans the same view differently after others", me.node));
        }
        for action in first.actions {
            if let Action::Claim { slot, expect, rank, .. } = action {
                claims.entry(slot).or_default().push((rank, me.node.clone(), expect));
            }
        }
    }
    for (slot, mut claims) in claims {
        claims.sort_by_key(|(rank, ..)| *rank);
        let ranks: BTreeSet<u32> = claims.iter().map(|(rank, ..)| *rank).collect();
        if ranks.len() != claims.len() {
            return Err(format!("plan: two nodes have the same rank for {slot}: {claims:?}"));
        }
        if !ranks.contains(&0) {
            return Err(format!("plan: nobody is first for {slot}: {claims:?}"));
        }
        if claims.iter().any(|(.., expect)| claims.first().is_none_or(|(.., first)| first != expect)) {
            return Err(format!("plan: {slot} is claimed at different revisions: {claims:?}"));
        }
    }
    Ok(())
}

/// Life and generation of the workload, by who runs which slot of it.
type Replicas = BTreeMap<(Holder, SlotId), (uuid::Uuid, Generation)>;

/// Invariant 5: what was asked for runs, and nothing else.
pub(crate) fn is_converged(view: &LatticeView, nodes: &[SimNode]) -> Verdict {
    let claimable = claimable(view);
    let mut ready = Replicas::new();
    for (name, spec) in &view.specs {
        let spec = &spec.record;
        for index in wanted(view, name) {
            let slot = SlotId::new(name.clone(), index);
            let Some(record) = view.slots.get(&slot).map(|slot| &slot.record) else {
                if claimable.contains(&slot) {
                    return Err(format!("{slot} is vacant, and could be taken"));
                }
                continue;
            };
            if view.live(&record.holder).is_none() {
                if claimable.contains(&slot) {
                    return Err(format!("the holder of {slot} is dead, and it could be taken"));
                }
                continue;
            }
            let is_new = (record.uid, record.generation) == (spec.uid, spec.template());
            if !is_new || record.phase != Phase::Ready || record.handover_from.is_some() {
                let Slot { holder, generation, phase, .. } = record;
                return Err(format!("{slot} is {phase:?} at generation {generation} on {}", holder.node));
            }
            ready.insert((record.holder.clone(), slot), (spec.uid, spec.template()));
        }
    }
    for name in view.specs.keys() {
        let vacant = explain_vacant(view, name);
        if let Some(explained) = vacant.values().find(|explained| !explained.displaces.is_empty()) {
            return Err(format!("{} waits for the room of {:?}", explained.slot, explained.displaces));
        }
    }
    if let Some(slot) = view.slots.keys().find(|slot| !wanted(view, &slot.workload).contains(&slot.index)) {
        return Err(format!("{slot} is recorded and not wanted"));
    }
    for (name, _) in view.specs.iter().filter(|(_, spec)| spec.record.spec.placement.daemon) {
        let mut nodes = BTreeSet::new();
        if let Some((slot, held)) = view.slots_of(name).find(|(_, held)| !nodes.insert(&held.record.holder.node)) {
            return Err(format!("{slot} is the second one of a daemon on {}", held.record.holder.node));
        }
    }
    let mut running = Replicas::new();
    for node in nodes {
        let Some(session) = view.sessions.get(&node.id) else { return Err(format!("{} has no session", node.id)) };
        let holder = Holder { node: node.id.clone(), incarnation: session.record.incarnation };
        for (slot, run) in node.host().map(|host| host.running()).unwrap_or_default() {
            if !run.is_ready {
                return Err(format!("{slot} is not ready on {}", node.id));
            }
            running.insert((holder.clone(), slot), (run.uid, run.generation));
        }
    }
    if running != ready {
        let only = |these: &Replicas, those: &Replicas| -> Vec<String> {
            let only = these.iter().filter(|(key, value)| those.get(key) != Some(value));
            only.map(|((holder, slot), _)| format!("{slot} on {}", holder.node)).collect()
        };
        return Err(format!(
            "runs and is not recorded: {:?}; the other way: {:?}",
            only(&running, &ready),
            only(&ready, &running)
        ));
    }
    Ok(())
}

/// At rest every node sees the store as it is, apart from renewals that are on their way.
pub(crate) fn views_agree(view: &LatticeView, nodes: &[SimNode]) -> Verdict {
    for node in nodes {
        let Some(seen) = node.view() else { return Err(format!("{} is not running", node.id)) };
        if seen.slots != view.slots || seen.specs != view.specs || !seen.sessions.keys().eq(view.sessions.keys()) {
            return Err(format!("{} sees another lattice than the store holds", node.id));
        }
    }
    Ok(())
}
