//! Who should hold which slot. No clock, no network, no randomness: the same view gives the same answer on every node,
//! and each node carries out the part that concerns itself.
//!
//! Start at [`plan`]. The walk over vacant slots that all answers share is in `placement.rs`; what fits where, and what
//! is better, is in `ledger.rs`. [`Observer`] decides when a session counts as dead, [`conflict`] which routes clash,
//! [`turn`] who takes which tick of a schedule.

mod explain;
mod ledger;
mod liveness;
mod placement;
mod routes;
mod schedule;
#[cfg(test)]
mod tests;

pub use explain::{Explanation, Standing, explain, explain_workload, preview};
pub use ledger::Reason;
pub use liveness::Observer;
pub use routes::conflict;
pub use schedule::{LATE_MS, MISSED_COUNTED_MAX, Missed, TicksWrite, Turn, turn};

use lattice::{
    host::Assignment,
    id::{Incarnation, NodeId, Revision, SlotId, WorkloadName},
    recipe::Recipe,
    record::{Holder, Phase, Slot},
    spec::{Class, WorkloadSpec},
    store::Precondition,
    view::{LatticeView, Versioned},
};
use placement::{Occupancy, Vacancy};
use std::{collections::BTreeMap, sync::Arc};

/// The node that plans, in its present life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Me {
    pub node: NodeId,
    pub incarnation: Incarnation,
}

impl Me {
    pub fn holder(&self) -> Holder {
        Holder { node: self.node.clone(), incarnation: self.incarnation }
    }
}

/// What the view can't tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Situation {
    /// True for the kill time after each (re)connect. Sessions that are missing then may belong to nodes that are coming
    /// back themselves, so what a dead holder left behind is touched by its own node only: a mass expiry is followed by
    /// re-adoption, not by moves. What nobody holds, and what a living holder hands over, may be claimed.
    pub settling: bool,
}

/// The part of the plan that one node carries out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// Writes to attempt, in the order of slots. All claims together fit this node's capacity.
    pub actions: Vec<Action>,
    /// What this node's host should run now.
    pub assignments: BTreeMap<SlotId, Assignment>,
}

/// A write. It carries the revision that it was decided on, so no choice is left to the doer, and one that was decided on
/// a stale view fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Take the slot for this node.
    Claim {
        slot: SlotId,
        expect: Precondition,
        /// How many short delays to wait before trying. Drop the claim if a later plan no longer has it.
        rank: u32,
        /// Who goes on serving until the claimer is ready; goes into the record.
        handover_from: Option<Holder>,
    },
    /// This node holds the slot and must give it up: delete the record.
    Release {
        slot: SlotId,
        expect: Revision,
        /// False: delete first, so that routers turn away before the replica drains. True: delete only when nothing of it
        /// runs any more, since another node may start it as soon as the record is gone.
        stop_first: bool,
    },
    /// Delete the record that a dead holder left for a slot that nobody wants.
    Collect { slot: SlotId, expect: Revision, rank: u32 },
}

impl Action {
    pub fn slot(&self) -> &SlotId {
        match self {
            Action::Claim { slot, .. } | Action::Release { slot, .. } | Action::Collect { slot, .. } => slot,
        }
    }
}

/// Decide what this node does.
///
/// The view must contain this node's own acknowledged writes: a plan made without a claim that landed could claim beyond
/// the node's capacity. A view in which a bucket was never seen plans nothing and assigns nothing; do not apply it.
pub fn plan(view: &LatticeView, me: &Me, situation: Situation) -> Plan {
    if !view.is_loaded() {
        return Plan::default();
    }
    let mut plan = Plan { actions: Vec::new(), assignments: assignments(view, me) };
    // Without a session of its own a node is no member: it keeps what it may keep, and writes nothing.
    if view.live(&me.holder()).is_some() {
        plan.actions.extend(releases(view, me));
        plan.actions.extend(collections(view, me, situation));
        plan.actions.extend(claims(view, me, situation));
        plan.actions.sort_by(|a, b| a.slot().cmp(b.slot()));
    }
    plan
}

/// What runs here: what this node holds, and what it hands over until the new holder is ready.
fn assignments(view: &LatticeView, me: &Me) -> BTreeMap<SlotId, Assignment> {
    let life = me.holder();
    let mut shared = BTreeMap::<&WorkloadName, (Arc<WorkloadSpec>, Arc<Recipe>)>::new();
    let mut assignments = BTreeMap::new();
    for (slot, Versioned { record, .. }) in &view.slots {
        let hands_over = record.phase != Phase::Ready && record.handover_from.as_ref() == Some(&life);
        if record.holder != life && !hands_over {
            continue;
        }
        let Some(spec) = view.specs.get(&slot.workload).map(|spec| &spec.record) else { continue };
        if spec.uid != record.uid || slot.index >= spec.spec.replicas {
            continue;
        }
        if spec.spec.class == Class::Strict
            && view.live(&life).is_none_or(|session| placement::is_leaving(session, &spec.spec))
        {
            continue;
        }
        let share = || (Arc::new(spec.spec.clone()), Arc::new(spec.runs()));
        let (asked, recipe) = shared.entry(&slot.workload).or_insert_with(share).clone();
        let assignment = Assignment { spec: asked, recipe, uid: spec.uid, generation: spec.generation };
        assignments.insert(slot.clone(), assignment);
    }
    assignments
}

fn releases(view: &LatticeView, me: &Me) -> Vec<Action> {
    let life = me.holder();
    let mine = view
        .slots
        .iter()
        .filter(|(slot, slot_record)| slot_record.record.holder == life && !placement::is_slot_corrupt(view, slot));
    mine.filter_map(|(slot, Versioned { record, revision })| {
        let stop_first = must_release(view, slot, record)?;
        Some(Action::Release { slot: slot.clone(), expect: *revision, stop_first })
    })
    .collect()
}

/// Whether the living holder of a slot must give it up, and if so whether it must stop it before.
fn must_release(view: &LatticeView, slot: &SlotId, record: &Slot) -> Option<bool> {
    if placement::is_unwanted(view, slot) {
        let spec = view.specs.get(&slot.workload).map(|spec| &spec.record);
        let only_scaled_down = spec.is_some_and(|spec| spec.uid == record.uid && spec.spec.class == Class::Available);
        return Some(!only_scaled_down);
    }
    let spec = &view.specs.get(&slot.workload)?.record;
    let of_another_life = spec.uid != record.uid;
    let strict_and_leaving = spec.spec.class == Class::Strict
        && view.live(&record.holder).is_some_and(|session| placement::is_leaving(session, &spec.spec));
    (of_another_life || strict_and_leaving).then_some(true)
}

fn collections(view: &LatticeView, me: &Me, situation: Situation) -> Vec<Action> {
    let left_behind = view.slots.iter().filter(|(slot, slot_record)| {
        placement::is_unwanted(view, slot)
            && !placement::is_slot_corrupt(view, slot)
            && placement::occupancy(view, &slot_record.record.holder) == Occupancy::Dead
            && (!situation.settling || slot_record.record.holder.node == me.node)
    });
    left_behind
        .filter_map(|(slot, Versioned { record, revision })| {
            let order = |node: &NodeId| (*node != record.holder.node, ledger::rendezvous(slot, node));
            let mine = (order(&me.node), &me.node);
            let before_me = view.sessions.keys().filter(|node| (order(node), *node) < mine).count();
            let rank = u32::try_from(before_me).ok()?;
            Some(Action::Collect { slot: slot.clone(), expect: *revision, rank })
        })
        .collect()
}

fn claims(view: &LatticeView, me: &Me, situation: Situation) -> Vec<Action> {
    let vacancies = placement::vacancies(view);
    if vacancies.is_empty() {
        return Vec::new(); // at rest: what everybody holds need not be added up
    }
    let mut claims = Vec::new();
    let mut reserves: Vec<(u32, Vacancy<'_>)> = Vec::new();
    let may_touch = |vacancy: &Vacancy<'_>| {
        let left_by_another =
            |slot: &Versioned<Slot>| slot.record.holder.node != me.node && view.live(&slot.record.holder).is_none();
        !(situation.settling && vacancy.record.is_some_and(left_by_another))
    };
    let mut ledger = placement::walk(view, vacancies, |vacancy, ranking, _| {
        let Some(rank) = may_touch(vacancy).then(|| ranking.of(&me.node)).flatten() else { return };
        match rank {
            0 => claims.push(claim(view, vacancy, 0)),
            _ => reserves.push((rank, vacancy.clone())),
        }
    });
    // What this node is first for has its room by now. Where it only stands in for others, it offers what is left.
    reserves.sort_by_key(|(rank, _)| *rank);
    for (rank, vacancy) in reserves {
        if ledger.refusal(&me.node, &vacancy.spec.spec).is_none() {
            ledger.take(&me.node, &vacancy.spec.spec);
            claims.push(claim(view, &vacancy, rank));
        }
    }
    claims
}

fn claim(view: &LatticeView, vacancy: &Vacancy<'_>, rank: u32) -> Action {
    let expect = vacancy.record.map_or(Precondition::Absent, |slot| Precondition::At(slot.revision));
    let of_this_life = vacancy.record.filter(|slot| slot.record.uid == vacancy.spec.uid);
    let handover_from = of_this_life
        .filter(|_| vacancy.spec.spec.class == Class::Available)
        .and_then(|slot| slot.record.serving())
        .filter(|serving| view.live(serving).is_some())
        .cloned();
    Action::Claim { slot: vacancy.slot.clone(), expect, rank, handover_from }
}
