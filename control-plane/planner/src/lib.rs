//! Who should hold which slot. No clock, no network, no randomness: the same view gives the same answer on every node,
//! and each node carries out the part that concerns itself.
//!
//! Start at [`plan`], which says what a plan is; [`Planner`] makes the same ones faster, view after view. What a view says is
//! drawn up in `board.rs`; the walk over vacant slots that all answers share is in `placement.rs`; the rules are in `rules.rs`
//! (a node alone) and `contest.rs` (a node among others); what replicas hold of GPUs is in `gpus.rs`. [`Observer`] decides when a session counts as dead, [`conflict`]
//! which routes clash, [`turn`] who takes which tick of a schedule, [`advance`] how a change of what replicas run goes on,
//! [`Scaler`] how many replicas there are to be, [`better_places`] what would be better off elsewhere.

mod analysis;
mod autoscale;
mod beside;
mod board;
mod contest;
mod displace;
mod drain;
mod explain;
mod gpus;
mod hash;
mod ledger;
mod liveness;
mod nodes;
mod placement;
mod rebalance;
mod retreat;
mod rollout;
mod routes;
mod rules;
mod schedule;
mod templates;
#[cfg(test)]
mod tests;
mod weights;

pub use analysis::AnalysisObserver;
pub use autoscale::{Decision, FOLLOWERS, Heard, Replica, Reported, Scaler, Seen, awaited, heard_of, scale_rank};
pub use contest::Score;
pub use explain::{Explanation, Outlook, Standing, claimable, explain, explain_vacant, outlook, preview, wanted};
pub use gpus::GpuFit;
pub use liveness::Observer;
pub use rebalance::{Better, RebalanceStep, better_places, rebalance_step};
pub use rollout::{Elapsed, RolloutObserver, Step, advance, is_at_rest, open_rollouts, rollout_rank};
pub use routes::{conflict, leave_taken};
pub use rules::Reason;
pub use schedule::{LATE_MS, MISSED_COUNTED_MAX, Missed, TicksWrite, Turn, turn};
pub use weights::{replicas_of as step_replicas, told as step_told};

use board::{Board, Occupancy};
use gpus::Regrant;
use lattice::{
    gpu::GpuGrant,
    host::Assignment,
    id::{Incarnation, NodeId, Revision, SlotId, WorkloadName},
    record::{Holder, Phase, Slot, SpecRecord},
    spec::Class,
    store::Precondition,
    view::{LatticeView, Versioned},
};
use ledger::Need;
use placement::Walk;
use retreat::Way;
use std::{cell::LazyCell, collections::BTreeMap, sync::Arc};

/// The node that does for a workload what only one need do: one of those that live and stay, the same for each view. It
/// is no lock: two nodes with different views may both be it for a moment.
pub fn deputy<'a>(view: &'a LatticeView, workload: &WorkloadName) -> Option<&'a NodeId> {
    let first = SlotId::new(workload.clone(), 0);
    let staying = view.sessions.iter().filter(|(_, session)| !session.record.draining).map(|(node, _)| node);
    staying.min_by_key(|node| (hash::rendezvous(&first, node), *node))
}

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
    ///
    /// Nor does it displace anything: the room that seems to be missing comes back with them.
    pub settling: bool,
    /// True once this node is to be emptied and the time for that is up: what is still here is given up, though nobody may
    /// take it.
    pub drain_is_over: bool,
}

/// The part of the plan that one node carries out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// Writes to attempt, in the order of slots. All claims and regrants together fit this node's capacity.
    pub actions: Vec<Action>,
    /// What this node's host should run now, apart from what [`Action::Release`] says to stop.
    pub assignments: BTreeMap<SlotId, Assignment>,
    /// Bytes of memory of this node that are reserved neither for what it holds nor for what the plan claims. Nothing
    /// while it is no member.
    pub spare_memory: u64,
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
        /// What it holds of a GPU of this node; goes into the record.
        gpu: Option<GpuGrant>,
    },
    /// This node holds the slot, and is to hold something else of a GPU for it, or nothing any more: write it into the record.
    Regrant { slot: SlotId, expect: Revision, gpu: Option<GpuGrant> },
    /// This node holds the slot and must give it up: delete the record.
    Release {
        slot: SlotId,
        expect: Revision,
        /// False: delete first, so that routers turn away before the replica drains. True: delete only when nothing of it
        /// runs any more, since another node may start it as soon as the record is gone.
        /// One that makes room is assigned until it does: whoever carries the release out then stops it.
        stop_first: bool,
        /// The slot that needs the room, where nothing else is wrong with this one.
        displaced_by: Option<SlotId>,
    },
    /// Delete the record that a dead holder left for a slot that nobody wants.
    Collect { slot: SlotId, expect: Revision, rank: u32 },
}

impl Action {
    pub fn slot(&self) -> &SlotId {
        match self {
            Action::Claim { slot, .. }
            | Action::Regrant { slot, .. }
            | Action::Release { slot, .. }
            | Action::Collect { slot, .. } => slot,
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
    decide(view, &Board::of(view), me, situation)
}

/// Makes plans from view to view: the same as [`plan`], for the price of what changed since the view before.
#[derive(Debug, Default)]
pub struct Planner {
    board: Board,
    drawn: Option<Arc<LatticeView>>,
}

impl Planner {
    pub fn plan(&mut self, view: &Arc<LatticeView>, me: &Me, situation: Situation) -> Plan {
        if !view.is_loaded() {
            return Plan::default();
        }
        match self.drawn.replace(view.clone()) {
            Some(before) if Arc::ptr_eq(&before, view) => {}
            Some(before) => self.board.follow(&before, view),
            None => self.board = Board::of(view),
        }
        decide(view, &self.board, me, situation)
    }
}

fn decide(view: &LatticeView, board: &Board, me: &Me, situation: Situation) -> Plan {
    let of_this_node = of_node(view, board, me);
    let regrants = gpus::regrants(view, board, &mut board.ledger.gpus.clone());
    let assignments = assignments(view, board, me, situation, &of_this_node, &regrants);
    let mut plan = Plan { actions: Vec::new(), assignments, spare_memory: 0 };
    // Without a session of its own a node is no member: it keeps what it may keep, and writes nothing.
    if view.live(&me.holder()).is_some() {
        let (claims, displaced, spare) = claims(view, board, me, situation);
        plan.spare_memory = spare.memory;
        plan.actions.extend(releases(view, board, me, situation, &of_this_node, (&displaced, &regrants)));
        plan.actions.extend(collections(view, board, me, situation));
        plan.actions.extend(claims);
        plan.actions.sort_by(|a, b| a.slot().cmp(b.slot()));
    }
    plan
}

type Held<'v> = (&'v SlotId, &'v Versioned<Slot>);

/// The slots whose records name this node.
fn of_node<'v>(view: &'v LatticeView, board: &Board, me: &Me) -> Vec<Held<'v>> {
    let workloads = board.node(&me.node).map(|place| board.workloads_of(place)).into_iter().flatten();
    workloads.flat_map(|name| view.slots_of(name)).collect()
}

/// What runs here: what this node holds, and what it hands over until the new holder is ready.
fn assignments(
    view: &LatticeView,
    board: &Board,
    me: &Me,
    situation: Situation,
    held: &[Held<'_>],
    regrants: &BTreeMap<SlotId, Regrant>,
) -> BTreeMap<SlotId, Assignment> {
    let life = me.holder();
    let is_member = view.live(&life).is_some();
    let mut assignments: BTreeMap<SlotId, Assignment> = BTreeMap::new();
    let mut shared: Option<Assignment> = None;
    let without_room = without_room(view, board, me, held);
    for (slot, Versioned { record, .. }) in held {
        let hands_over = record.phase != Phase::Ready && record.handover_from.as_ref() == Some(&life);
        if record.holder != life && (!hands_over || situation.drain_is_over) {
            continue;
        }
        let Some(spec) = view.specs.get(&slot.workload).map(|spec| &spec.record) else { continue };
        // What a daemon wants of a node that is no member is not known, and a node keeps what it may keep.
        let is_wanted = board.wants(slot) || spec.spec.placement.daemon && !is_member;
        if spec.uid != record.uid || !is_wanted {
            continue;
        }
        let rollout = view.rollout(&slot.workload);
        let mut wanted = spec.wanted(rollout, slot.index, Some(record));
        // One that leaves in time goes on until it is released.
        let leaves_now = || board.is_leaving(&life, wanted) && board.leaves_in_time(&life, wanted).is_none();
        if wanted.spec.class == Class::Strict && (!is_member || leaves_now()) {
            continue;
        }
        let way =
            board.entry(&slot.workload).and_then(|entry| entry.ways.get(&slot.index)).filter(|_| record.holder == life);
        let waits = way == Some(&Way::Waits);
        let is_newest = || wanted.template() == spec.template();
        let stop_first = match way {
            Some(way) => *way == Way::StopFirst,
            None => is_newest() && templates::stops_first(spec, rollout, slot.index),
        };
        if let Some(stable) = without_room.get(slot) {
            wanted = stable;
        }
        let is_mine = record.holder == life;
        // What it is to run starts with what that asks for: until the record has it, what serves goes on.
        let is_ungranted = is_mine && regrants.contains_key(slot);
        if is_ungranted && record.phase != Phase::Ready {
            continue;
        }
        let (waits, gpu) =
            (waits || is_ungranted, if is_mine { record.gpu.clone() } else { record.handover_gpu.clone() });
        // The slots of a workload come together.
        let is_it = |shared: &Assignment| shared.spec.name == slot.workload && shared.generation == wanted.template();
        let assignment = shared.take().filter(is_it).unwrap_or_else(|| Assignment::new(wanted));
        assignments.insert((*slot).clone(), Assignment { stop_first, waits, gpu, ..assignment.clone() });
        shared = Some(assignment);
    }
    assignments
}

/// Replicas here that go on with what is stable, since this node has no room for that and for the newest template. The last
/// ones wait.
fn without_room<'v>(
    view: &'v LatticeView,
    board: &Board,
    me: &Me,
    held: &[Held<'v>],
) -> BTreeMap<&'v SlotId, &'v SpecRecord> {
    let life = me.holder();
    let mut over = board.overdraft(&me.node);
    let mut waiting = BTreeMap::new();
    for (slot, Versioned { record, .. }) in held.iter().rev().filter(|(_, held)| held.record.holder == life) {
        if over == Need::default() {
            break;
        }
        // One that frees nothing of what is short would wait for nothing.
        if let Some((stable, freed)) = templates::can_wait(view, slot, record)
            && over.minus(freed) != over
        {
            over = over.minus(freed);
            waiting.insert(*slot, stable);
        }
    }
    waiting
}

fn releases(
    view: &LatticeView,
    board: &Board,
    me: &Me,
    situation: Situation,
    held: &[Held<'_>],
    (displaced, regrants): (&BTreeMap<SlotId, SlotId>, &BTreeMap<SlotId, Regrant>),
) -> Vec<Action> {
    let life = me.holder();
    let mine = held.iter().filter(|(slot, held)| held.record.holder == life && !board.is_corrupt(slot));
    // Looked for once, and only where something strict is to leave.
    let movers = LazyCell::new(|| drain::movers(view, board));
    let may_go = |slot: &SlotId| situation.drain_is_over || movers.contains(slot);
    mine.filter_map(|(slot, Versioned { record, revision })| {
        let (stop_first, displaced_by) = match must_release(view, board, slot, record, situation, may_go) {
            Some(stop_first) => (stop_first, None),
            None if !displaced.contains_key(slot) => match regrants.get(slot)? {
                Regrant::To(gpu) => {
                    let (slot, gpu) = ((*slot).clone(), gpu.clone());
                    return Some(Action::Regrant { slot, expect: *revision, gpu });
                }
                // It stops in any case, and nothing comes of it here.
                Regrant::Nowhere { goes_on } if !goes_on || record.phase != Phase::Ready => (true, None),
                Regrant::Nowhere { .. } => return None,
            },
            None => {
                let displaced_by = displaced.get(slot)?.clone();
                let class = view.wanted(slot)?.spec.class;
                (class == Class::Strict, Some(displaced_by))
            }
        };
        Some(Action::Release { slot: (*slot).clone(), expect: *revision, stop_first, displaced_by })
    })
    .collect()
}

/// Whether the living holder of a slot must give it up, and if so whether it must stop it before.
fn must_release(
    view: &LatticeView,
    board: &Board,
    slot: &SlotId,
    record: &Slot,
    situation: Situation,
    may_go: impl Fn(&SlotId) -> bool,
) -> Option<bool> {
    let spec = view.wanted(slot);
    if !board.wants(slot) {
        let of_this_life = spec.is_some_and(|spec| spec.uid == record.uid && spec.spec.class == Class::Available);
        return Some(!of_this_life);
    }
    let spec = spec?;
    if spec.uid != record.uid {
        return Some(true);
    }
    let is_strict = spec.spec.class == Class::Strict;
    match board.leaves_in_time(&record.holder, spec) {
        // It belongs to the node, and ends with it.
        Some(_) if spec.spec.placement.daemon => None,
        Some(_) if is_strict => may_go(slot).then_some(true),
        Some(_) => situation.drain_is_over.then_some(false),
        None => {
            let leaves = board.is_leaving(&record.holder, spec) || board.is_moved(slot, &record.holder.node);
            (is_strict && leaves).then_some(true)
        }
    }
}

fn collections(view: &LatticeView, board: &Board, me: &Me, situation: Situation) -> Vec<Action> {
    let left_behind = board.stray().flat_map(|name| view.slots_of(name)).filter(|(slot, versioned)| {
        !board.wants(slot)
            && !board.is_corrupt(slot)
            && board.occupancy(&versioned.record.holder) == Occupancy::Dead
            && (!situation.settling || versioned.record.holder.node == me.node)
    });
    left_behind
        .filter_map(|(slot, Versioned { record, revision })| {
            let order = |node: &NodeId| (*node != record.holder.node, hash::rendezvous(slot, node));
            let mine = (order(&me.node), &me.node);
            let before_me = view.sessions.keys().filter(|node| (order(node), *node) < mine).count();
            let rank = u32::try_from(before_me).ok()?;
            Some(Action::Collect { slot: slot.clone(), expect: *revision, rank })
        })
        .collect()
}

/// What this node claims, who has to make room for whom, and what that leaves of this node.
fn claims(
    view: &LatticeView,
    board: &Board,
    me: &Me,
    situation: Situation,
) -> (Vec<Action>, BTreeMap<SlotId, SlotId>, Need) {
    let mut claims = Vec::new();
    let Some(place) = board.node(&me.node).filter(|_| board.has_vacancies()) else {
        return (claims, BTreeMap::new(), board.headroom(&me.node)); // at rest: nothing is given away
    };
    let may_touch = |slot: &SlotId| {
        let left_by_another =
            |slot: &Versioned<Slot>| slot.record.holder.node != me.node && view.live(&slot.record.holder).is_none();
        !(situation.settling && view.slots.get(slot).is_some_and(left_by_another))
    };
    let position = view.sessions.range(..&me.node).count();
    let mut reserves = Reserves::new(board.nodes.session(place).map_or(0, |session| session.capacity.slots));
    let mut walk = Walk::new(view, board);
    walk.run(|turn| {
        let rank = match turn.first {
            Some(first) if first == place => Some(0),
            // It is not here, so who is first there is of no interest.
            Some(_) => turn.ranking.of(place, (position, view.sessions.len())),
            None => None,
        };
        let Some(rank) = rank else { return };
        let slot = turn.slot();
        if !may_touch(&slot) {
            return;
        }
        match rank {
            0 => claims.push(claim(view, board, slot, turn.spec, 0, turn.gpu.clone())),
            _ => reserves.push(rank, slot, turn.spec),
        }
    });
    // What this node is first for has its room by now. Where it only stands in for others, it offers what is left.
    for (rank, slot, spec) in reserves.best() {
        let needed = Need::of(&spec.spec);
        if walk.ledger.has_room(place, needed)
            && let Some(gpu) = walk.ledger.gpus.grant(place, &spec.spec)
        {
            walk.ledger.book(place, needed);
            gpu.iter().for_each(|grant| walk.ledger.gpus.book(place, grant));
            claims.push(claim(view, board, slot, spec, rank, gpu));
        }
    }
    // The room of what displaces stays closed, as on the nodes that are settled.
    let victims = if situation.settling { BTreeMap::new() } else { walk.displacer.victims };
    (claims, victims, walk.ledger.load(place).headroom())
}

/// The slots that a node stands in for, as many as it could ever take and some more, those where it comes soonest.
struct Reserves<'a> {
    most: usize,
    reserves: Vec<(u32, SlotId, &'a SpecRecord)>,
}

impl<'a> Reserves<'a> {
    fn new(slots: u32) -> Self {
        Self { most: 4 * slots as usize, reserves: Vec::new() }
    }

    fn push(&mut self, rank: u32, slot: SlotId, spec: &'a SpecRecord) {
        self.reserves.push((rank, slot, spec));
        if self.reserves.len() > 2 * self.most {
            self.keep_the_best();
        }
    }

    fn keep_the_best(&mut self) {
        self.reserves.sort_by_key(|(rank, ..)| *rank);
        self.reserves.truncate(self.most);
    }

    fn best(mut self) -> Vec<(u32, SlotId, &'a SpecRecord)> {
        self.keep_the_best();
        self.reserves
    }
}

fn claim(
    view: &LatticeView,
    board: &Board,
    slot: SlotId,
    spec: &SpecRecord,
    rank: u32,
    gpu: Option<GpuGrant>,
) -> Action {
    let record = view.slots.get(&slot);
    let expect = record.map_or(Precondition::Absent, |slot| Precondition::At(slot.revision));
    let of_this_life = record.filter(|slot| slot.record.uid == spec.uid);
    let handover_from = of_this_life
        .filter(|_| spec.spec.class == Class::Available)
        .and_then(|slot| slot.record.serving())
        .filter(|serving| board.occupancy(serving) == Occupancy::Live)
        .cloned();
    Action::Claim { slot, expect, rank, handover_from, gpu }
}
