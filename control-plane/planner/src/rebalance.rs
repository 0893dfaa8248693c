//! Which replicas would be in a better place elsewhere, by the same rules and scores by which they are placed, and how a
//! request to move them goes on. Nothing moves unless somebody asks for it.
//!
//! Start at [`better_places`]; [`rebalance_step`] says what is next.

use crate::{
    board::{Board, Occupancy},
    contest::{Ranking, Score},
    drain,
    hash::SlotWeights,
    nodes::Place,
    placement::Walk,
    rules::Reason,
};
use lattice::{
    gpu::GpuGrant,
    id::{NodeId, Revision, SlotId, WorkloadName},
    record::{Holder, MOVES_MAX, Move, Phase, Rebalance, Slot, SpecRecord},
    spec::Class,
    view::{LatticeView, Versioned},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// A node must be emptier by so many eighths to be better for that alone: less would be moved for nothing.
const EMPTIER: u8 = 2;
/// A move that brings nothing forward for so long ends the request: what keeps one may keep all.
const MOVE_MAX: Duration = Duration::from_secs(120);

/// A replica that would be in a better place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Better {
    pub slot: SlotId,
    pub from: NodeId,
    /// The node that comes first for it, once those before it have moved.
    pub to: NodeId,
    /// What it would hold of a GPU there.
    pub gpu: Option<GpuGrant>,
    /// The score by which the other node is better, by the name that `docs/placement.md` has for it; or the rule that its
    /// node breaks.
    pub by: &'static str,
}

/// What is next.
#[derive(Debug, Clone, PartialEq)]
pub enum RebalanceStep {
    Put {
        record: Rebalance,
        expect: Revision,
    },
    /// Delete it: it is over. `why` says so in a sentence.
    End {
        expect: Revision,
        why: String,
    },
}

/// Replicas that would be better off elsewhere, of all workloads or of one, in the order in which they are to move. Each is
/// found as if those before it had moved.
pub fn better_places(view: &LatticeView, only: Option<&WorkloadName>) -> Vec<Better> {
    let mut found = Vec::new();
    let candidates: Vec<SlotId> =
        view.slots.keys().filter(|slot| only.is_none_or(|only| slot.workload == *only)).cloned().collect();
    let mut candidates = candidates.iter();
    let mut after = view.clone();
    let mut board = Board::of(&after);
    while found.len() < MOVES_MAX {
        let next = {
            let mut scale = Scale::new(&after, &board);
            candidates.by_ref().find_map(|slot| scale.better(slot))
        };
        let Some(better) = next else { break };
        let before = after.clone();
        let to = after.sessions.get(&better.to).map(|session| session.record.incarnation);
        if let (Some(held), Some(incarnation)) = (after.slots.get_mut(&better.slot), to) {
            held.record.holder = Holder { node: better.to.clone(), incarnation };
            held.record.gpu = better.gpu.clone();
        }
        board.follow(&before, &after);
        found.push(better);
    }
    found
}

/// Weighs places of replicas, with everything that is vacant where it is about to be.
struct Scale<'b> {
    view: &'b LatticeView,
    board: &'b Board,
    walk: Walk<'b>,
}

impl<'b> Scale<'b> {
    fn new(view: &'b LatticeView, board: &'b Board) -> Self {
        let mut walk = Walk::new(view, board);
        walk.run(|_| {});
        Self { view, board, walk }
    }

    /// Where a replica would be better off, if it can be moved now.
    fn better(&mut self, slot: &SlotId) -> Option<Better> {
        let (spec, held) = movable(self.view, self.board, slot)?;
        let from = self.board.node(&held.holder.node)?;
        let entry = self.board.entry(&slot.workload)?;
        let here = |booking: &&crate::board::Booking| booking.index == slot.index && booking.is_holder;
        let needed = entry.bookings.iter().find(here)?.needed;
        let gpu = entry.gpus.iter().find(|booking| booking.index == slot.index && booking.is_holder);
        self.walk.ledger.unbook(from, needed);
        gpu.into_iter().for_each(|booking| self.walk.ledger.gpus.unbook(from, &booking.grant));
        let contest = self.walk.contest(spec, Some(slot.index));
        let weight = SlotWeights::of(&slot.workload).weight(slot.index);
        let found = {
            let ranking = Ranking::new(&self.walk.ledger, &contest, weight, None, None);
            ranking.first().and_then(|to| Some((to, by(&ranking, from, to)?)))
        };
        let grant = found.and_then(|(to, _)| contest.fit(&self.walk.ledger, to)).map(|fit| fit.grant);
        self.walk.ledger.book(from, needed);
        gpu.into_iter().for_each(|booking| self.walk.ledger.gpus.book(from, &booking.grant));
        let (to, by) = found?;
        let (from, to) = (held.holder.node.clone(), self.board.nodes.id(to)?.clone());
        Some(Better { slot: slot.clone(), from, to, gpu: grant, by })
    }
}

/// What makes a place better than the one that a replica has, if it is. Chance does not.
fn by(ranking: &Ranking<'_, '_, '_>, from: Place, to: Place) -> Option<&'static str> {
    if from == to {
        return None;
    }
    let there = ranking.score(to)?;
    let Some(here) = ranking.score(from) else {
        // What it may not take is not what it may not keep.
        return match ranking.refusal(from)? {
            Reason::Cordoned | Reason::Tainted { .. } | Reason::Draining | Reason::Slots { .. } => None,
            reason => Some(reason.rule()),
        };
    };
    let decisive = |score: &Score| {
        [score.spread, score.missed, u64::from(score.failed), score.choice.into(), score.replicas.into()]
    };
    let names = ["spread", "missed", "failed", "gpu", "replicas"];
    for ((here, there), name) in decisive(&here).into_iter().zip(decisive(&there)).zip(names) {
        if here != there {
            return (there < here).then_some(name);
        }
    }
    (there.fullness.saturating_add(EMPTIER) <= here.fullness).then_some("full")
}

/// A replica at rest, which nothing else moves or changes.
fn movable<'b>(view: &'b LatticeView, board: &Board, slot: &SlotId) -> Option<(&'b SpecRecord, &'b Slot)> {
    let held = &view.slots.get(slot)?.record;
    let spec = &view.specs.get(&slot.workload)?.record;
    let is_at_rest = spec.uid == held.uid
        && spec.is_settled(view.rollout(&slot.workload))
        && held.phase == Phase::Ready
        && held.generation == spec.template()
        && held.handover_from.is_none()
        && !spec.spec.placement.daemon
        && board.wants(slot)
        && !board.is_corrupt(slot)
        && board.occupancy(&held.holder) == Occupancy::Live
        && !board.is_leaving(&held.holder, spec);
    is_at_rest.then_some((spec, held))
}

/// The next step of what somebody asked for, if one is due. `lasted` is how long its record has been as it is.
pub fn rebalance_step(view: &LatticeView, lasted: Duration) -> Option<RebalanceStep> {
    let Versioned { record, revision: expect } = view.rebalance.as_ref()?;
    let expect = *expect;
    let board = Board::of(view);
    let mut next = record.clone();
    next.moving.clear();
    let places = who_can(view, &board, &record.moving);
    for moving in &record.moving {
        match whereabouts(view, &board, moving, &places) {
            Whereabouts::UnderWay => next.moving.push(moving.clone()),
            Whereabouts::There => next.moved = next.moved.saturating_add(1),
            Whereabouts::Over => next.skipped = next.skipped.saturating_add(1),
            Whereabouts::Failing(why) => {
                let why = format!("ended: {} does not come up elsewhere: {why}", moving.slot);
                return Some(RebalanceStep::End { expect, why });
            }
        }
    }
    let at_once = record.at_once as usize;
    if next.moving.len() < at_once && !next.left.is_empty() {
        let mut scale = Scale::new(view, &board);
        let mut waiting = Vec::new();
        for candidate in std::mem::take(&mut next.left) {
            if next.moving.len() >= at_once {
                waiting.push(candidate);
                continue;
            }
            match scale.better(&candidate.slot).filter(|better| better.from == candidate.from) {
                None => next.skipped = next.skipped.saturating_add(1),
                Some(_) if !may_stop(view, &board, &candidate.slot, &next.moving) => waiting.push(candidate),
                Some(_) => next.moving.push(candidate),
            }
        }
        next.left = waiting;
    }
    if next.moving.is_empty() && next.left.is_empty() {
        let (moved, skipped) = (next.moved, next.skipped);
        let but = if skipped == 0 { String::new() } else { format!(", {skipped} were not to be moved any more") };
        return Some(RebalanceStep::End { expect, why: format!("over: {moved} moved{but}") });
    }
    if next != *record {
        return Some(RebalanceStep::Put { record: next, expect });
    }
    let why = match (next.moving.first(), next.left.first()) {
        _ if lasted < MOVE_MAX => return None,
        (Some(late), _) => format!("ended: {} did not come up elsewhere within {} s", late.slot, MOVE_MAX.as_secs()),
        (None, Some(left)) => format!("ended: {} can't be spared by its workload", left.slot),
        (None, None) => return None,
    };
    Some(RebalanceStep::End { expect, why })
}

/// What has become of a move.
enum Whereabouts {
    UnderWay,
    There,
    /// Nothing comes of it any more.
    Over,
    Failing(String),
}

fn whereabouts(view: &LatticeView, board: &Board, moving: &Move, places: &BTreeSet<SlotId>) -> Whereabouts {
    let slot = &moving.slot;
    if !board.wants(slot) {
        return Whereabouts::Over;
    }
    let Some(held) = view.slots.get(slot).map(|held| &held.record) else {
        return if places.contains(slot) { Whereabouts::UnderWay } else { Whereabouts::Over };
    };
    let is_live = board.occupancy(&held.holder) == Occupancy::Live;
    if held.holder.node == moving.from {
        return match is_live && places.contains(slot) {
            true => Whereabouts::UnderWay,
            false => Whereabouts::Over,
        };
    }
    match held.phase {
        _ if !is_live => Whereabouts::Over,
        Phase::Ready => Whereabouts::There,
        Phase::Failed if !held.is_tried_again() => {
            Whereabouts::Failing(held.message.clone().unwrap_or_else(|| "no reason is known".into()))
        }
        Phase::Starting | Phase::Failed => Whereabouts::UnderWay,
    }
}

/// Of the replicas that are moved, those that another node can take now, or that are about to be vacant.
fn who_can(view: &LatticeView, board: &Board, moving: &[Move]) -> BTreeSet<SlotId> {
    let moved: BTreeSet<&SlotId> = moving.iter().map(|moving| &moving.slot).collect();
    // One of class strict is vacant when it has stopped, and was looked at before it was told to.
    let is_strict = |slot: &SlotId| view.wanted(slot).is_some_and(|spec| spec.spec.class == Class::Strict);
    let mut able: BTreeSet<SlotId> = moved
        .iter()
        .filter(|slot| is_strict(slot) && view.slots.contains_key(slot))
        .map(|slot| (*slot).clone())
        .collect();
    let mut walk = Walk::new(view, board);
    walk.run(|turn| {
        let slot = turn.slot();
        if moved.contains(&slot) && turn.first.is_some() {
            able.insert(slot);
        }
    });
    able
}

/// Whether one more replica may be moved now: one that stops first is out of service until it is elsewhere.
fn may_stop(view: &LatticeView, board: &Board, slot: &SlotId, moving: &[Move]) -> bool {
    let Some(spec) = view.specs.get(&slot.workload).map(|spec| &spec.record) else { return false };
    if spec.spec.class != Class::Strict {
        return true;
    }
    let is_moving = |index: u32| moving.iter().any(|other| other.slot == SlotId::new(slot.workload.clone(), index));
    let replicas = view.replicas(spec);
    let out = (0..replicas).filter(|index| is_moving(*index) || !drain::serves(view, board, spec, *index)).count();
    u32::try_from(out).unwrap_or(u32::MAX) < spec.spec.disruption.most(replicas)
}

/// What is moved away, by slot.
pub(crate) fn moving(view: &LatticeView) -> BTreeMap<SlotId, NodeId> {
    let moving = view.rebalance.iter().flat_map(|rebalance| &rebalance.record.moving);
    moving.map(|moving| (moving.slot.clone(), moving.from.clone())).collect()
}
