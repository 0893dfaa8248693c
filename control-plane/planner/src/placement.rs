//! The walk over vacant slots that [`crate::plan`], [`crate::explain`] and [`crate::preview`] share. Every node walks in
//! the same order and books each slot on the node that ranks first, so all of them expect the same outcome.

use crate::{
    board::{Board, Entry},
    contest::{Contest, Neighbours, Ranking, Shared},
    displace::Displacer,
    gpus::regrants,
    hash::SlotWeights,
    ledger::{Ledger, Need},
    nodes::Place,
    rules,
};
use lattice::{
    gpu::GpuGrant,
    id::{SlotId, WorkloadName},
    record::SpecRecord,
    spec::WorkloadSpec,
    view::LatticeView,
};
use std::collections::{BTreeMap, BTreeSet};

/// A wanted slot that may be claimed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vacancy {
    pub(crate) index: u32,
    /// The node whose former life held the slot.
    pub(crate) incumbent: Option<Place>,
    /// The only node that may take it.
    pub(crate) pinned: Option<Place>,
    /// It is to run the stable template, not the newest.
    pub(crate) is_stable: bool,
    /// The node that it is moved away from.
    pub(crate) barred: Option<Place>,
}

/// What a walk books.
pub(crate) struct Walk<'b> {
    pub(crate) view: &'b LatticeView,
    pub(crate) board: &'b Board,
    pub(crate) ledger: Ledger,
    /// What was booked on the way, for the rules of others.
    placed: BTreeMap<&'b WorkloadName, Vec<Place>>,
    pub(crate) displacer: Displacer,
    shared: Shared<'b>,
}

/// A vacancy at its turn.
pub(crate) struct Visit<'w, 'b> {
    pub(crate) spec: &'b SpecRecord,
    pub(crate) vacancy: Vacancy,
    pub(crate) ranking: Ranking<'w, 'b, 'b>,
    pub(crate) first: Option<Place>,
    /// What it holds of a GPU there.
    pub(crate) gpu: Option<GpuGrant>,
}

impl Visit<'_, '_> {
    pub(crate) fn slot(&self) -> SlotId {
        SlotId::new(self.spec.spec.name.clone(), self.vacancy.index)
    }
}

impl<'b> Walk<'b> {
    pub(crate) fn new(view: &'b LatticeView, board: &'b Board) -> Self {
        let mut ledger = board.ledger.clone();
        // What is to be held in place of something else of a GPU is as good as held.
        regrants(view, board, &mut ledger.gpus);
        let (placed, displacer, shared) = (BTreeMap::new(), Displacer::default(), Shared::default());
        Walk { view, board, ledger, placed, displacer, shared }
    }

    /// Visit all vacancies: those of higher priority first, then in the order of slots.
    pub(crate) fn run(&mut self, mut visit: impl FnMut(&Visit<'_, 'b>)) {
        // Incumbents are booked before anything else, so that nothing takes the room that they come back to.
        let (view, board) = (self.view, self.board);
        let mut incumbents: BTreeMap<&WorkloadName, BTreeMap<u32, Option<GpuGrant>>> = BTreeMap::new();
        for (name, entry) in board.vacant() {
            let Some(spec) = view.specs.get(name) else { continue };
            for Vacancy { index, incumbent, is_stable, .. } in &entry.vacancies {
                let Some(place) = *incumbent else { continue };
                let Some(wanted) = template(&spec.record, *is_stable) else { continue };
                let needed = Need::of(&wanted.spec);
                let may_come = board.nodes.session(place).is_some_and(|s| rules::expels(s, wanted).is_none());
                if may_come
                    && self.ledger.has_room(place, needed)
                    && let Some(gpu) = self.again(name, *index, place, &wanted.spec)
                {
                    self.take(name, place, needed, gpu.as_ref());
                    incumbents.entry(name).or_default().insert(*index, gpu);
                }
            }
        }
        for (name, entry) in board.vacant() {
            let Some(spec) = view.specs.get(name) else { continue };
            let come_back = incumbents.remove(name).unwrap_or_default();
            // Nodes compete for the replicas of each template by what it says.
            for is_stable in [true, false] {
                let is_due = entry.vacancies.iter().any(|vacancy| vacancy.is_stable == is_stable);
                if let Some(wanted) = template(&spec.record, is_stable).filter(|_| is_due) {
                    self.serve(wanted, is_stable, entry, &come_back, &mut visit);
                }
            }
        }
    }

    fn serve(
        &mut self,
        spec: &'b SpecRecord,
        is_stable: bool,
        entry: &'b Entry,
        come_back: &BTreeMap<u32, Option<GpuGrant>>,
        visit: &mut impl FnMut(&Visit<'_, 'b>),
    ) {
        let mut contest = self.contest(spec, None);
        let weights = SlotWeights::of(&spec.spec.name);
        // Where one of them finds nobody to make room, the next one asks the same; only a daemon's asks another node.
        let mut is_hopeless = false;
        for vacancy in entry.vacancies.iter().filter(|vacancy| vacancy.is_stable == is_stable) {
            let incumbent = vacancy.incumbent.filter(|_| come_back.contains_key(&vacancy.index));
            let vacancy = Vacancy { incumbent, ..*vacancy };
            let weight = weights.weight(vacancy.index);
            let ranking = Ranking::new(&self.ledger, &contest, weight, incumbent, vacancy.pinned);
            let ranking = ranking.without(vacancy.barred);
            let first = ranking.first();
            let gpu = match first {
                _ if spec.spec.gpu.is_none() => None,
                Some(place) if incumbent.is_none() => contest.fit(&self.ledger, place).map(|fit| fit.grant),
                _ => come_back.get(&vacancy.index).cloned().flatten(),
            };
            let visited = Visit { spec, vacancy, ranking, first, gpu };
            visit(&visited);
            let place = match first {
                Some(place) if incumbent.is_none() => Some((place, false)),
                Some(_) => None, // booked already
                // It has a place, if not the best one.
                None if is_hopeless || vacancy.barred.is_some() => None,
                None => {
                    let slot = || SlotId::new(spec.spec.name.clone(), vacancy.index);
                    let found =
                        self.displacer.find(self.board, self.view, &visited.ranking, contest.needed(), entry, slot);
                    is_hopeless = found.is_none() && vacancy.pinned.is_none();
                    found.map(|place| (place, true))
                }
            };
            let gpu = visited.gpu;
            let Some((place, is_displacing)) = place else { continue };
            // Its rules may let one more in where another one came.
            is_hopeless = false;
            contest.take(place);
            self.take(&spec.spec.name, place, contest.needed(), gpu.as_ref());
            if is_displacing {
                // What becomes free is for this slot, and nothing else is placed there before it is.
                self.ledger.close(place);
            }
        }
    }

    /// What a replica that comes back holds of a GPU, where it asks for one.
    fn again(&self, name: &WorkloadName, index: u32, place: Place, spec: &WorkloadSpec) -> Option<Option<GpuGrant>> {
        if spec.gpu.is_none() {
            return Some(None);
        }
        let held = self.view.slots.get(&SlotId::new(name.clone(), index));
        self.ledger.gpus.again(place, spec, held.and_then(|held| held.record.gpu.as_ref()))
    }

    pub(crate) fn take(&mut self, name: &'b WorkloadName, place: Place, needed: Need, gpu: Option<&GpuGrant>) {
        self.ledger.book(place, needed);
        gpu.into_iter().for_each(|grant| self.ledger.gpus.book(place, grant));
        self.placed.entry(name).or_default().push(place);
    }

    /// The nodes that compete for a workload's slots, as things are; as if one of its replicas were not there, if asked.
    pub(crate) fn contest(&mut self, record: &'b SpecRecord, without: Option<u32>) -> Contest<'b, 'b> {
        let mut neighbours = Neighbours { wanted: self.view.replicas(record), ..Neighbours::default() };
        let spec = &record.spec;
        let entry = self.board.entry(&spec.name);
        for booking in entry.into_iter().flat_map(|entry| &entry.bookings) {
            if Some(booking.index) == without {
                continue;
            }
            neighbours.own.push(booking.place);
            if booking.has_failed {
                neighbours.failed.insert(booking.place);
            }
        }
        neighbours.own.extend(self.placed.get(&spec.name).into_iter().flatten());
        let repelled = self.board.repelled(&spec.name).map(|(name, over)| (name, over.as_str()));
        neighbours.repelled = repelled.collect();
        let relations = spec.placement.near.iter().chain(&spec.placement.apart).map(|relation| &relation.workload);
        let named: BTreeSet<&WorkloadName> =
            relations.chain(neighbours.repelled.iter().map(|(name, _)| *name)).collect();
        for name in named {
            let held = self.board.entry(name).into_iter().flat_map(|entry| &entry.bookings);
            let mut places: Vec<Place> = held.map(|booking| booking.place).collect();
            places.extend(self.placed.get(name).into_iter().flatten());
            neighbours.named.insert(name, places);
        }
        Contest::new(&self.board.nodes, record, &neighbours, &mut self.shared)
    }
}

/// What a vacancy is to run.
fn template(spec: &SpecRecord, is_stable: bool) -> Option<&SpecRecord> {
    if is_stable { spec.stable.as_deref() } else { Some(spec) }
}
