//! Preemption: a vacancy that fits nowhere takes the room of replicas of a lower priority, as few and as unimportant ones
//! as it can. Their holders give them up; the vacancy is claimed when the room is there.

use crate::{
    board::{Board, Booking, Entry, GpuBooking},
    contest::Ranking,
    gpus::{Attempts, NodeGpus},
    ledger::Need,
    nodes::Place,
};
use lattice::{
    id::{SlotId, WorkloadName},
    view::LatticeView,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

/// Vacancies that displace something in one plan; those that find nothing do not count. More have to wait for the next one: a plan stays cheap, and what is
/// wrong in one is seen before it is done a thousand times.
const AT_ONCE: usize = 16;

/// Who makes room for whom.
#[derive(Debug, Default)]
pub(crate) struct Displacer {
    /// Slots that are to be given up, and the slot that needs their room.
    pub(crate) victims: BTreeMap<SlotId, SlotId>,
    /// Nodes on which something is displaced. One vacancy a node and plan.
    nodes: BTreeSet<Place>,
    found: usize,
    /// How many replicas of a workload may go before more are out of service than its disruption limit lets be.
    spare: BTreeMap<WorkloadName, u32>,
}

/// A replica that may be displaced, in the order in which they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Victim<'b> {
    priority: i32,
    /// Its workload has as many out of service as it allows, or more.
    is_beyond: bool,
    /// One large one rather than several small ones.
    needed: Reverse<Need>,
    workload: &'b WorkloadName,
    index: Reverse<u32>,
}

impl Displacer {
    /// The node where the least is displaced for a slot that fits nowhere, if any. It is noted who has to go. Disruption limits
    /// are kept where it can be done, which comes before all else.
    pub(crate) fn find(
        &mut self,
        board: &Board,
        view: &LatticeView,
        ranking: &Ranking<'_, '_, '_>,
        needed: Need,
        entry: &Entry,
        slot: impl Fn() -> SlotId,
    ) -> Option<Place> {
        if board.lowest_priority().is_none_or(|lowest| lowest >= entry.priority) || self.found >= AT_ONCE {
            return None;
        }
        let Self { nodes, spare, .. } = self;
        let candidates = ranking.without_room().filter(|(place, _)| !nodes.contains(place));
        let costs = candidates.filter_map(|(place, score)| {
            let victims = victims(board, view, ranking, place, needed, entry.priority, spare)?;
            let highest = victims.iter().map(|victim| victim.priority).max()?;
            let cost = (beyond(&victims, spare), highest, victims.len(), score, board.nodes.id(place));
            Some((cost, place, victims))
        });
        let (_, place, victims) = costs.min_by(|(one, ..), (two, ..)| one.cmp(two))?;
        self.found += 1;
        self.nodes.insert(place);
        for Victim { workload, index, .. } in victims {
            self.spare.entry(workload.clone()).and_modify(|spare| *spare = spare.saturating_sub(1));
            self.victims.insert(SlotId::new(workload.clone(), index.0), slot());
        }
        Some(place)
    }
}

/// How many of them are more than their workloads let be out of service.
fn beyond(victims: &[Victim<'_>], spare: &BTreeMap<WorkloadName, u32>) -> u32 {
    let mut of: BTreeMap<&WorkloadName, u32> = BTreeMap::new();
    victims.iter().for_each(|victim| *of.entry(victim.workload).or_default() += 1);
    of.iter().map(|(name, count)| count.saturating_sub(spare.get(*name).copied().unwrap_or_default())).sum()
}

/// How many more replicas of a workload may be out of service.
fn spare_of(view: &LatticeView, name: &WorkloadName, entry: &Entry) -> u32 {
    let Some(spec) = view.specs.get(name).map(|spec| &spec.record) else { return 0 };
    let wanted = entry.wanted.indexes();
    let serves = |index: &&u32| {
        let held = view.slots.get(&SlotId::new(name.clone(), **index)).map(|held| &held.record);
        held.and_then(|held| held.serving()).is_some_and(|holder| view.live(holder).is_some())
    };
    let out = wanted.len().saturating_sub(wanted.iter().filter(serves).count());
    let most = spec.spec.disruption.most(u32::try_from(wanted.len()).unwrap_or(u32::MAX));
    most.saturating_sub(u32::try_from(out).unwrap_or(u32::MAX))
}

/// The least important replicas on a node without which there is room; none where all of them are not enough. What the
/// slot must be near is not among them: without it there might be no place for the slot at all, and it would wait for it
/// to come back, and displace it again.
fn victims<'b>(
    board: &'b Board,
    view: &'b LatticeView,
    ranking: &Ranking<'_, '_, '_>,
    place: Place,
    needed: Need,
    priority: i32,
    spare: &mut BTreeMap<WorkloadName, u32>,
) -> Option<Vec<Victim<'b>>> {
    let load = ranking.load(place);
    let room = load.capacity?;
    let mut all: Vec<Victim<'b>> = Vec::new();
    for (workload, entry) in board.workloads_of(place).filter_map(|name| Some((name, board.entry(name)?))) {
        // What is unwanted goes by itself, and of a spec that does not parse the priority is not known.
        if entry.priority >= priority || !view.specs.contains_key(workload) || ranking.must_be_near(workload) {
            continue;
        }
        if !spare.contains_key(workload) {
            spare.insert(workload.clone(), spare_of(view, workload, entry));
        }
        let is_beyond = spare.get(workload) == Some(&0);
        let here = |booking: &&Booking| booking.place == place && booking.is_holder;
        for Booking { needed, index, .. } in entry.bookings.iter().filter(here) {
            if entry.wanted.contains(*index) {
                let (needed, index) = (Reverse(*needed), Reverse(*index));
                all.push(Victim { priority: entry.priority, is_beyond, needed, workload, index });
            }
        }
    }
    all.sort_unstable();
    // Only where a GPU is asked for does it matter what victims hold of one.
    let mut gpus = ranking.gpus(place).map(|(gpus, attempts)| (gpus.clone(), attempts));
    let fits = |slots: u32, freed: Need, gpus: &Option<(NodeGpus, &Attempts)>| {
        room.fits(load.slots.saturating_sub(slots), load.reserved.minus(freed), needed)
            && gpus.as_ref().is_none_or(|(gpus, attempts)| gpus.fit(attempts).is_some())
    };
    let grant = |victim: &Victim<'b>| {
        let entry = board.entry(victim.workload)?;
        let of_victim =
            |booking: &&GpuBooking| booking.place == place && booking.is_holder && booking.index == victim.index.0;
        entry.gpus.iter().find(of_victim).map(|booking| &booking.grant)
    };
    let (mut slots, mut freed) = (0, Need::default());
    let mut chosen = Vec::new();
    for victim in all {
        if fits(slots, freed, &gpus) {
            break;
        }
        (slots, freed) = (slots + 1, freed.plus(victim.needed.0));
        if let (Some((gpus, _)), Some(grant)) = (&mut gpus, grant(&victim)) {
            gpus.unbook(grant);
        }
        chosen.push(victim);
    }
    if !fits(slots, freed, &gpus) || chosen.is_empty() {
        return None;
    }
    // The last ones may have made earlier ones unnecessary: the most important of those stay.
    for i in (0..chosen.len()).rev() {
        let Some(victim) = chosen.get(i) else { continue };
        let held = grant(victim);
        if let (Some((gpus, _)), Some(grant)) = (&mut gpus, held) {
            gpus.book(grant);
        }
        if fits(slots - 1, freed.minus(victim.needed.0), &gpus) {
            (slots, freed) = (slots - 1, freed.minus(victim.needed.0));
            chosen.remove(i);
        } else if let (Some((gpus, _)), Some(grant)) = (&mut gpus, held) {
            gpus.unbook(grant);
        }
    }
    Some(chosen)
}
