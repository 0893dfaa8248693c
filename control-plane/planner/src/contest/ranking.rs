//! The order of the nodes that compete for one slot, by their scores.

use super::{Contest, Cost, Extremes, Group, OwnRule};
use crate::{
    gpus::{self, Attempts, GpuFit, GpuScore, NodeGpus},
    hash::meet,
    ledger::{Ledger, Load, Need},
    nodes::Place,
    rules::{self, Reason},
};
use lattice::{id::WorkloadName, units::Millicores};
use std::{cell::OnceCell, cmp::Ordering};

/// What decides among the nodes of a group, less is better: it failed there, which of the claims it is, replicas there, what
/// its GPU is worth, how full the node is, whether it has to compile.
type Standing = (bool, u8, u32, GpuFit, u8, bool);

/// Ranks up to this one are exact. All that matters further behind is that each node has one of its own.
pub(crate) const EXACT_RANKS: u32 = 32;

/// What decides between two nodes: smaller is better, and what comes first decides first. Ties are broken by the ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score {
    /// By how many replicas the values of labels that the workload is spread over would be too full.
    pub spread: u64,
    /// The weights of the preferences and relations that it misses.
    pub missed: u64,
    /// A replica of the workload failed there.
    pub failed: bool,
    /// Of claims on a GPU: how many better ones it does not fulfil.
    pub choice: u8,
    /// Replicas of the workload that it has.
    pub replicas: u32,
    /// Of claims on a GPU: what the offer is worth.
    pub gpu: GpuFit,
    /// In eighths of what it has least of.
    pub fullness: u8,
    /// What is to run has to be fetched and compiled there.
    pub cold: bool,
    /// The rendezvous hash.
    pub chance: u64,
}

/// The order of the nodes for one slot. Nothing is computed before it is asked for: who comes first is found without
/// looking at most of the nodes, the whole order is only for people.
pub(crate) struct Ranking<'l, 'n, 'a> {
    ledger: &'l Ledger,
    contest: &'l Contest<'n, 'a>,
    slot: u64,
    /// First, before all others.
    incumbent: Option<Place>,
    /// The only one that may take it.
    pinned: Option<Place>,
    /// One that may not.
    barred: Option<Place>,
    extremes: OnceCell<Vec<Extremes>>,
    /// Of each group.
    costs: OnceCell<Vec<Option<Cost>>>,
}

impl<'l, 'n, 'a> Ranking<'l, 'n, 'a> {
    pub(crate) fn new(
        ledger: &'l Ledger,
        contest: &'l Contest<'n, 'a>,
        slot: u64,
        incumbent: Option<Place>,
        pinned: Option<Place>,
    ) -> Self {
        let (extremes, costs) = (OnceCell::new(), OnceCell::new());
        Ranking { ledger, contest, slot, incumbent, pinned, barred: None, extremes, costs }
    }

    /// The same without one of the nodes.
    pub(crate) fn without(self, barred: Option<Place>) -> Self {
        Ranking { barred, ..self }
    }

    fn extremes(&self) -> &[Extremes] {
        self.extremes.get_or_init(|| self.contest.extremes())
    }

    fn costs(&self) -> &[Option<Cost>] {
        let cost = |group| self.contest.cost(group, self.extremes()).ok();
        self.costs.get_or_init(|| self.contest.grouping.groups.iter().map(cost).collect())
    }

    /// The best node.
    pub(crate) fn first(&self) -> Option<Place> {
        if self.incumbent.is_some() {
            return self.incumbent;
        }
        if let Some(pinned) = self.pinned {
            return self.score(pinned).map(|_| pinned);
        }
        if self.contest.over.get() {
            return None;
        }
        if self.is_plain() { self.first_of_all() } else { self.first_of_groups() }
    }

    fn is_plain(&self) -> bool {
        self.contest.grouping.group_of.is_empty()
    }

    /// Where nothing but fullness and chance decides, nodes that are equally full are looked at together, and most of
    /// them not further than to their hash.
    fn first_of_all(&self) -> Option<Place> {
        let contest = self.contest;
        for failed in [false, true] {
            if failed && contest.failed.is_empty() {
                break;
            }
            let least = if failed { 0 } else { contest.least.get() };
            for replicas in least..=contest.most {
                for level in self.ledger.levels() {
                    let (mut least, mut best) = ((true, u64::MAX), None);
                    for seat in level {
                        let hash = (contest.is_cold(seat.place), meet(self.slot, seat.weight));
                        if hash <= least
                            && Some(seat.place) != self.barred
                            && contest.entrants.is_in.get(seat.place) == Some(&true)
                            && contest.replicas.get(seat.place) == Some(&replicas)
                            && contest.failed.contains(&seat.place) == failed
                            && self.ledger.has_room(seat.place, contest.needed)
                            && best.is_none_or(|best| hash < least || contest.is_before(seat.place, best))
                        {
                            (least, best) = (hash, Some(seat.place));
                        }
                    }
                    if best.is_some() {
                        return best;
                    }
                }
                // Where one was left out, nothing follows for others.
                if !failed && self.barred.is_none() {
                    contest.least.set(replicas + 1);
                }
            }
            contest.least.set(contest.least.get().min(contest.most));
        }
        contest.over.set(self.barred.is_none());
        None
    }

    fn first_of_groups(&self) -> Option<Place> {
        let mut groups: Vec<(Cost, &Group)> = self
            .costs()
            .iter()
            .zip(&self.contest.grouping.groups)
            .filter_map(|(cost, group)| Some(((*cost)?, group)))
            .collect();
        groups.sort_by_key(|(cost, _)| *cost);
        let contest = self.contest;
        for equal in groups.chunk_by(|one, two| one.0 == two.0) {
            // Most members are out before their hash is needed.
            let mut best: Option<(Standing, u64, Place)> = None;
            for place in equal.iter().flat_map(|(_, group)| &group.members) {
                let load = self.ledger.load(*place);
                let Some(gpu) = self.room(*place, load).filter(|_| Some(*place) != self.barred) else { continue };
                let replicas = contest.replicas.get(*place).copied().unwrap_or(0);
                let (failed, cold) = (contest.failed.contains(place), contest.is_cold(*place));
                let so_far: Standing = (failed, gpu.choice, replicas, gpu.fit, load.fullness(), cold);
                if best.is_some_and(|best| best.0 < so_far) {
                    continue;
                }
                let hash = meet(self.slot, load.weight);
                let is_better = |(other, least, best): (_, u64, Place)| {
                    (so_far, hash) < (other, least)
                        || (so_far, hash) == (other, least) && contest.is_before(*place, best)
                };
                if best.is_none_or(is_better) {
                    best = Some((so_far, hash, *place));
                }
            }
            if let Some((.., place)) = best {
                return Some(place);
            }
        }
        contest.over.set(self.barred.is_none());
        None
    }

    /// Whether a node has room for the slot, and what its GPU is worth for it: nothing where none is asked for.
    fn room(&self, place: Place, load: Load) -> Option<GpuScore> {
        load.has_room(self.contest.needed).then_some(())?;
        if self.contest.attempts.is_empty() {
            return Some(GpuScore::default());
        }
        self.contest.fit(self.ledger, place).map(|fit| fit.score)
    }

    fn compare(&self, (one, place): (Score, Place), (two, other): (Score, Place)) -> Ordering {
        one.cmp(&two).then_with(|| self.contest.nodes.id(place).cmp(&self.contest.nodes.id(other)))
    }

    /// What a node that can take the slot is worth.
    pub(crate) fn score(&self, place: Place) -> Option<Score> {
        let load = self.ledger.load(place);
        let gpu = self.room(place, load)?;
        self.score_if_there_were_room(place, load, gpu)
    }

    fn score_if_there_were_room(&self, place: Place, load: Load, gpu: GpuScore) -> Option<Score> {
        let contest = self.contest;
        let is_another = self.pinned.is_some_and(|pinned| pinned != place) || self.barred == Some(place);
        if contest.entrants.is_in.get(place) != Some(&true) || is_another {
            return None;
        }
        let (spread, missed) = match contest.grouping.group_of.get(place) {
            None if self.is_plain() => (0, 0),
            group => self.costs().get(*group?).copied().flatten()?,
        };
        Some(Score {
            spread,
            missed,
            failed: contest.failed.contains(&place),
            choice: gpu.choice,
            replicas: contest.replicas.get(place).copied().unwrap_or(0),
            gpu: gpu.fit,
            fullness: load.fullness(),
            cold: contest.is_cold(place),
            chance: meet(self.slot, load.weight),
        })
    }

    /// How many nodes come before this one, if it can take the slot: exact up to [`EXACT_RANKS`], and one of its own
    /// further behind. `position` says which of `nodes` it is, in any order that all agree on.
    pub(crate) fn of(&self, place: Place, (position, nodes): (usize, usize)) -> Option<u32> {
        if self.incumbent == Some(place) {
            return Some(0);
        }
        let mine = (self.score(place)?, place);
        if self.pinned.is_some() {
            return Some(0);
        }
        let mut better = u32::from(self.incumbent.is_some());
        for other in self.contest.entrants.list.iter().filter(|other| Some(**other) != self.incumbent) {
            if self.score(*other).is_some_and(|score| self.compare((score, *other), mine).is_lt()) {
                better += 1;
                if better >= EXACT_RANKS {
                    let turned = (position as u64).wrapping_add(self.slot) % (nodes.max(1) as u64);
                    return Some(EXACT_RANKS.saturating_add(u32::try_from(turned).unwrap_or(u32::MAX)));
                }
            }
        }
        Some(better)
    }

    /// The nodes that can take the slot, best first. An incumbent has no score: it just comes first.
    pub(crate) fn all(&self) -> Vec<(Place, Option<Score>)> {
        let others = self.contest.entrants.list.iter().filter(|place| Some(**place) != self.incumbent);
        let mut scored: Vec<(Score, Place)> = others.filter_map(|place| Some((self.score(*place)?, *place))).collect();
        scored.sort_by(|one, two| self.compare(*one, *two));
        let others = scored.into_iter().map(|(score, place)| (place, Some(score)));
        self.incumbent.into_iter().map(|place| (place, None)).chain(others).collect()
    }

    /// The nodes that would do but for their room.
    pub(crate) fn without_room(&self) -> impl Iterator<Item = (Place, Score)> + '_ {
        let full = |place: &Place| {
            let load = self.ledger.load(*place);
            if self.room(*place, load).is_some() {
                return None;
            }
            Some((*place, self.score_if_there_were_room(*place, load, GpuScore::default())?))
        };
        self.contest.entrants.list.iter().filter_map(full)
    }

    pub(crate) fn load(&self, place: Place) -> Load {
        self.ledger.load(place)
    }

    /// What is taken of a node's GPUs, and what is asked of them; nothing where nothing is.
    pub(crate) fn gpus(&self, place: Place) -> Option<(&NodeGpus, &Attempts)> {
        let attempts = self.contest.attempts();
        (!attempts.is_empty()).then_some(())?;
        Some((self.ledger.gpus.of(place)?, attempts))
    }

    /// Whether the slot may only be where a replica of this other workload is close.
    pub(crate) fn must_be_near(&self, workload: &WorkloadName) -> bool {
        self.contest.relations.iter().any(|other| other.near && other.hard && other.workload == *workload)
    }

    /// Why a node can't take the slot, if it can't.
    pub(crate) fn refusal(&self, place: Place) -> Option<Reason> {
        let contest = self.contest;
        let account = contest.nodes.get(place)?;
        let session = account.session.as_ref()?;
        if self.incumbent == Some(place) {
            return None;
        }
        if let Some(reason) = rules::refuses(account, session, contest.record).or_else(|| contest.estranged(place)) {
            return Some(reason);
        }
        if self.barred == Some(place) {
            return Some(Reason::Moves);
        }
        if let Some(pinned) = self.pinned.filter(|pinned| *pinned != place) {
            return Some(Reason::Pinned { node: contest.nodes.id(pinned)?.clone() });
        }
        let grouping = &contest.grouping;
        let group = grouping.group_of.get(place).and_then(|group| grouping.groups.get(*group));
        if let Some(Err(barred)) = group.map(|group| contest.cost(group, self.extremes())) {
            let moving = contest.moving.get(barred.moving)?;
            let (over, workload) = (moving.over.clone(), contest.spec().name.clone());
            let value = session.label(&over).map(str::to_owned);
            return Some(match moving.rule {
                OwnRule::Spread { .. } => {
                    let (count, most) = (barred.count, barred.most);
                    let is_share = moving.quotas.is_some();
                    Reason::Spread { over, value: value.unwrap_or_default(), count, most, is_share }
                }
                OwnRule::Near { .. } => Reason::Near { workload, over, value },
                OwnRule::Apart { .. } => Reason::Apart { workload, over, value: value.unwrap_or_default() },
            });
        }
        let of_gpus = || match contest.attempts.as_slice() {
            [] => None,
            attempts => gpus::refusal(self.ledger.gpus.of(place), attempts),
        };
        full(&self.ledger.load(place), contest.needed).or_else(of_gpus)
    }
}

/// What there is too little of, if anything.
pub(crate) fn full(load: &Load, needed: Need) -> Option<Reason> {
    let room = load.capacity?;
    if load.has_room(needed) {
        None
    } else if load.slots >= room.slots {
        Some(Reason::Slots { capacity: room.slots })
    } else if load.reserved.memory.saturating_add(needed.memory) > room.most.memory {
        let (reserved, capacity) = (load.reserved.memory, room.most.memory);
        Some(Reason::Memory { needed: needed.memory, reserved, capacity })
    } else if needed.cpu > 0 && load.reserved.cpu.saturating_add(needed.cpu) > room.most.cpu {
        let [needed, reserved, capacity] = [needed.cpu, load.reserved.cpu, room.most.cpu].map(Millicores);
        Some(Reason::Cpu { needed, reserved, capacity })
    } else {
        Some(Reason::Disk { needed: needed.disk, reserved: load.reserved.disk, capacity: room.most.disk })
    }
}
