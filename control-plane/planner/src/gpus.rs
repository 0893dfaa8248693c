//! What is taken of the nodes' GPUs, which of them is best for a claim, and what becomes of a replica whose claim has changed.
//! Only workloads with a claim come here: all others are placed without a look at any offer.
//!
//! What a replica holds is in its record, so what is taken follows from the records of living holders and nothing else.

use crate::{
    board::{Board, Occupancy},
    nodes::Place,
    rules::Reason,
};
use lattice::{
    gpu::{GpuGrant, GpuUse, Offer},
    id::{GpuId, SlotId},
    record::{RolloutState, Slot},
    spec::{GpuClaim, GpuMiss, GpuSpec, WorkloadSpec},
    view::LatticeView,
};
use std::{collections::BTreeMap, sync::Arc};

/// What all nodes have, and what is taken of it. A walk over vacancies works on a copy.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gpus(BTreeMap<Place, NodeGpus>);

#[derive(Debug, Clone, Default)]
pub(crate) struct NodeGpus {
    offers: Arc<[Offer]>,
    /// Of offers that are gone as well: what holds something of them goes by itself.
    taken: BTreeMap<GpuId, GpuUse>,
}

/// A workload's claims in the order in which they are tried, and whether each is one on a processor.
pub(crate) type Attempts = [(GpuClaim, bool)];

/// What a replica would have on a node.
pub(crate) struct Fit {
    pub(crate) grant: GpuGrant,
    pub(crate) score: GpuScore,
}

/// What decides between two nodes' GPUs: less is better.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GpuScore {
    /// How many better claims it does not fulfil.
    pub(crate) choice: u8,
    pub(crate) fit: GpuFit,
}

/// What an offer is worth for a claim: less is better.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GpuFit {
    /// By how many powers of two it is slower than any could be, so that small differences do not decide.
    pub slowness: u32,
    /// Bytes of its memory that would be left: large holes are kept for large claims.
    pub left: u64,
}

impl Gpus {
    /// A node came, went, or offers something else.
    pub(crate) fn declare(&mut self, place: Place, offers: &[Offer]) {
        if let Some(node) = self.0.get_mut(&place) {
            node.offers = offers.into();
            if node.is_empty() {
                self.0.remove(&place);
            }
        } else if !offers.is_empty() {
            self.0.insert(place, NodeGpus { offers: offers.into(), taken: BTreeMap::new() });
        }
    }

    pub(crate) fn book(&mut self, place: Place, grant: &GpuGrant) {
        self.0.entry(place).or_default().book(grant);
    }

    pub(crate) fn unbook(&mut self, place: Place, grant: &GpuGrant) {
        let Some(node) = self.0.get_mut(&place) else { return };
        node.unbook(grant);
        if node.is_empty() {
            self.0.remove(&place);
        }
    }

    pub(crate) fn of(&self, place: Place) -> Option<&NodeGpus> {
        self.0.get(&place)
    }

    pub(crate) fn fit(&self, place: Place, attempts: &Attempts) -> Option<Fit> {
        self.of(place)?.fit(attempts)
    }

    /// The same of one that comes back to what it held, if that can be: it may still run with it.
    pub(crate) fn again(&self, place: Place, spec: &WorkloadSpec, held: Option<&GpuGrant>) -> Option<Option<GpuGrant>> {
        let is_free = |held: &&GpuGrant| {
            let (Some(gpu), Some(node)) = (&spec.gpu, self.of(place)) else { return false };
            let mut offers = node.offers.iter().filter(|offer| offer.id == held.offer);
            offers.any(|offer| gpu.is_granted(held, offer) && node.taken(offer).plus(held).fits(offer))
        };
        held.filter(is_free).map(|held| Some(held.clone())).or_else(|| self.grant(place, spec))
    }

    /// What a replica would hold on a node, if it claims something; nothing where there is no room for it.
    pub(crate) fn grant(&self, place: Place, spec: &WorkloadSpec) -> Option<Option<GpuGrant>> {
        match &spec.gpu {
            None => Some(None),
            Some(gpu) => self.fit(place, &gpu.attempts()).map(|fit| Some(fit.grant)),
        }
    }
}

impl NodeGpus {
    fn is_empty(&self) -> bool {
        self.offers.is_empty() && self.taken.is_empty()
    }

    pub(crate) fn book(&mut self, grant: &GpuGrant) {
        let taken = self.taken.entry(grant.offer.clone()).or_default();
        *taken = taken.plus(grant);
    }

    pub(crate) fn unbook(&mut self, grant: &GpuGrant) {
        let Some(taken) = self.taken.get_mut(&grant.offer) else { return };
        *taken = taken.minus(grant);
        if *taken == GpuUse::default() {
            self.taken.remove(&grant.offer);
        }
    }

    fn taken(&self, offer: &Offer) -> GpuUse {
        self.taken.get(&offer.id).copied().unwrap_or_default()
    }

    /// The best of the offers that have room for the first claim that any of them has room for.
    pub(crate) fn fit(&self, attempts: &Attempts) -> Option<Fit> {
        attempts.iter().zip(0_u8..).find_map(|((claim, on_cpu), choice)| {
            let able = self.offers.iter().filter(|offer| {
                claim.lacks(offer, *on_cpu).is_none() && claim.short_of(offer, self.taken(offer)).is_none()
            });
            let best = able.map(|offer| (self.worth(claim, offer), offer)).min_by_key(|(fit, offer)| (*fit, &offer.id));
            best.map(|(fit, offer)| Fit { grant: claim.on(offer), score: GpuScore { choice, fit } })
        })
    }

    fn worth(&self, claim: &GpuClaim, offer: &Offer) -> GpuFit {
        let left = offer.memory.total.saturating_sub(self.taken(offer).memory).saturating_sub(claim.memory.0);
        GpuFit { slowness: offer.speed.gemm_gflops.leading_zeros(), left }
    }

    /// What keeps the claims from each offer: of several claims, what keeps the last one, which asks for the least.
    fn misses(&self, attempts: &Attempts) -> Vec<(GpuId, GpuMiss)> {
        let miss = |offer: &Offer| {
            let tried = attempts.iter().rev().find(|(claim, on_cpu)| claim.lacks(offer, *on_cpu) != Some(GpuMiss::Cpu));
            match tried {
                None => Some(GpuMiss::Cpu),
                Some((claim, on_cpu)) => {
                    claim.lacks(offer, *on_cpu).or_else(|| claim.short_of(offer, self.taken(offer)))
                }
            }
        };
        self.offers.iter().filter_map(|offer| Some((offer.id.clone(), miss(offer)?))).collect()
    }
}

/// Why a node's GPUs can't take a replica, if they can't.
pub(crate) fn refusal(node: Option<&NodeGpus>, attempts: &Attempts) -> Option<Reason> {
    let Some(node) = node else { return Some(Reason::Gpu { misses: Vec::new() }) };
    if node.fit(attempts).is_some() {
        return None;
    }
    Some(Reason::Gpu { misses: node.misses(attempts) })
}

/// The same of offers on which nobody is: what no replica that goes makes right.
pub(crate) fn lacks(offers: &[Offer], gpu: &GpuSpec) -> Option<Reason> {
    let attempts = gpu.attempts();
    let is_able = |offer: &Offer| {
        offer.failing.is_none() && attempts.iter().any(|(claim, on_cpu)| claim.lacks(offer, *on_cpu).is_none())
    };
    if offers.iter().any(is_able) {
        return None;
    }
    let free = NodeGpus { offers: offers.into(), taken: BTreeMap::new() };
    Some(Reason::Gpu { misses: free.misses(&attempts) })
}

/// What a holder is to hold in place of what its record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Regrant {
    To(Option<GpuGrant>),
    /// Its node has no room for what is asked for now. It goes on with what it has, as long as that may be what is wanted
    /// again; else its slot is given up.
    Nowhere {
        goes_on: bool,
    },
}

/// The replicas of living holders that do not hold what their templates ask for, of an offer that is well: the claim has
/// changed, or the offer is failing or gone.
/// What they are to hold is booked beside what they have, for what serves there goes on until it is told to stop.
pub(crate) fn regrants(view: &LatticeView, board: &Board, gpus: &mut Gpus) -> BTreeMap<SlotId, Regrant> {
    let mut found = BTreeMap::new();
    for name in board.claiming() {
        let Some(spec) = view.specs.get(name).map(|spec| &spec.record) else { continue };
        let rollout = view.rollout(name);
        for (slot, held) in view.slots_of(name) {
            let record = &held.record;
            let is_held = record.uid == spec.uid && board.occupancy(&record.holder) == Occupancy::Live;
            let Some(place) = board.node(&record.holder.node).filter(|_| is_held && board.wants(slot)) else {
                continue;
            };
            let wanted = spec.wanted(rollout, slot.index, Some(record));
            let is_done = rollout.is_some_and(|rollout| rollout.is_of(spec) && rollout.state == RolloutState::Done);
            let is_tried = spec.stable.is_some() && wanted.template() == spec.template() && !is_done;
            if board.is_leaving(&record.holder, wanted) {
                continue;
            }
            let Some(regrant) = regrant(gpus, place, record, &wanted.spec, is_tried) else { continue };
            if let Regrant::To(Some(grant)) = &regrant {
                gpus.book(place, grant);
            }
            found.insert(slot.clone(), regrant);
        }
    }
    found
}

fn regrant(gpus: &Gpus, place: Place, record: &Slot, wanted: &WorkloadSpec, is_tried: bool) -> Option<Regrant> {
    let Some(gpu) = &wanted.gpu else {
        return record.gpu.is_some().then_some(Regrant::To(None));
    };
    let node = gpus.of(place).cloned().unwrap_or_default();
    let granting = record.gpu.iter().find_map(|grant| node.offers.iter().find(|offer| gpu.is_granted(grant, offer)));
    let is_failing = match granting {
        Some(offer) if offer.failing.is_none() => return None,
        offer => offer.is_some(),
    };
    let mut without = node;
    record.gpu.iter().for_each(|grant| without.unbook(grant));
    if is_failing {
        // It goes on there until another one has room for it.
        return without.fit(&gpu.attempts()).map(|fit| Regrant::To(Some(fit.grant)));
    }
    Some(match without.fit(&gpu.attempts()) {
        Some(fit) => Regrant::To(Some(fit.grant)),
        None => Regrant::Nowhere { goes_on: is_tried },
    })
}
