//! Which strict replicas of nodes that are being emptied may stop now. They can't be handed over, so each is out of service
//! from its end here to its start elsewhere: one stops only where another node has room for it, and only as many of a
//! workload at a time as it allows.
//!
//! Every node decides for its own replicas, from a view that may be late, and together they keep the limit all the same:
//! the node that was asked to drain first goes first, and whoever sees a later order sees all earlier ones. Who has an
//! earlier one is counted as gone until it is seen to serve elsewhere. (An order that is taken back is no such order: for a
//! moment its node may act on it, and others as if it had never been.)

use crate::{
    board::{Board, Occupancy},
    contest::Ranking,
    hash::SlotWeights,
    placement::Walk,
};
use lattice::{
    id::{Revision, SlotId, WorkloadName},
    record::{Phase, SpecRecord},
    spec::Class,
    view::LatticeView,
};
use std::collections::{BTreeMap, BTreeSet};

/// The strict replicas that may stop now, on whichever node.
pub(crate) fn movers(view: &LatticeView, board: &Board) -> BTreeSet<SlotId> {
    let mut movers = BTreeSet::new();
    let mut leaving: BTreeMap<&WorkloadName, Vec<(Revision, &SlotId)>> = BTreeMap::new();
    for (slot, held) in view.slots.iter() {
        let Some(spec) = strict(view, slot).filter(|spec| spec.uid == held.record.uid) else { continue };
        let is_held = board.wants(slot) && board.occupancy(&held.record.holder) == Occupancy::Live;
        if let Some(since) = board.leaves_in_time(&held.record.holder, spec).filter(|_| is_held) {
            leaving.entry(&slot.workload).or_default().push((since, slot));
        }
    }
    if leaving.is_empty() {
        return movers;
    }
    // What is vacant already comes before what would become so.
    let mut walk = Walk::new(view, board);
    walk.run(|_| {});
    for (name, mut slots) in leaving {
        let Some(spec) = view.specs.get(name).map(|spec| &spec.record) else { continue };
        slots.sort_unstable();
        let weights = SlotWeights::of(name);
        let replicas = view.replicas(spec);
        let most = spec.spec.disruption.most(replicas);
        let out_of_service = (0..replicas).filter(|index| !serves(view, board, spec, *index)).count();
        let mut left = most.saturating_sub(u32::try_from(out_of_service).unwrap_or(u32::MAX));
        for (_, slot) in slots {
            if serves(view, board, spec, slot.index) {
                // One without a place counts too: it may find one at any time, seen by its node first.
                let Some(less) = left.checked_sub(1) else { break };
                left = less;
            }
            let Some(wanted) = strict(view, slot) else { continue };
            let contest = walk.contest(wanted, Some(slot.index));
            let first = Ranking::new(&walk.ledger, &contest, weights.weight(slot.index), None, None).first();
            let Some(place) = first else { continue };
            let gpu = contest.fit(&walk.ledger, place).map(|fit| fit.grant);
            walk.take(&wanted.spec.name, place, contest.needed(), gpu.as_ref());
            movers.insert(slot.clone());
        }
    }
    movers
}

/// What a slot is to run, where it can't be handed over. A daemon's replicas belong to their nodes.
fn strict<'v>(view: &'v LatticeView, slot: &SlotId) -> Option<&'v SpecRecord> {
    let spec = view.wanted(slot)?;
    (spec.spec.class == Class::Strict && !spec.spec.placement.daemon).then_some(spec)
}

pub(crate) fn serves(view: &LatticeView, board: &Board, spec: &SpecRecord, index: u32) -> bool {
    let held = view.slots.get(&SlotId::new(spec.spec.name.clone(), index)).map(|slot| &slot.record);
    held.is_some_and(|held| {
        held.uid == spec.uid && held.phase == Phase::Ready && board.occupancy(&held.holder) == Occupancy::Live
    })
}
