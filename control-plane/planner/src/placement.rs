//! The walk over vacant slots that [`crate::plan`], [`crate::explain`] and [`crate::preview`] share. Every node walks in
//! the same order and books each slot on the node that ranks first, so all of them expect the same outcome.

use crate::ledger::Ledger;
use lattice::{
    id::{NodeId, SlotId},
    record::{Holder, Key, Session, Slot, SpecRecord},
    spec::{Class, WorkloadSpec},
    view::{LatticeView, Versioned},
};

/// A wanted slot that may be claimed.
#[derive(Clone)]
pub(crate) struct Vacancy<'a> {
    pub(crate) slot: SlotId,
    pub(crate) spec: &'a SpecRecord,
    /// What is in the store under the slot's key: the record of a dead holder, or of one that is leaving.
    pub(crate) record: Option<&'a Versioned<Slot>>,
    /// The node whose former life held the slot.
    pub(crate) incumbent: Option<&'a NodeId>,
}

/// Whether a holder still stands behind its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occupancy {
    Live,
    Dead,
    /// Its session does not parse and was never seen whole. Corrupt is not absent: nobody may take its slots.
    Unknown,
}

pub(crate) fn occupancy(view: &LatticeView, holder: &Holder) -> Occupancy {
    let session_is_corrupt = || view.corrupt.contains_key(&Key::Session(holder.node.clone()).to_string());
    match view.sessions.get(&holder.node) {
        Some(session) if session.record.incarnation == holder.incarnation => Occupancy::Live,
        None if !view.corrupt.is_empty() && session_is_corrupt() => Occupancy::Unknown,
        Some(_) | None => Occupancy::Dead,
    }
}

/// A holder is leaving a slot when its node drains, or when a newer spec asks for labels that the node lacks.
pub(crate) fn is_leaving(session: &Session, spec: &WorkloadSpec) -> bool {
    session.draining || spec.placement.require.iter().any(|requirement| !requirement.holds(&session.labels))
}

pub(crate) fn is_slot_corrupt(view: &LatticeView, slot: &SlotId) -> bool {
    !view.corrupt.is_empty() && view.corrupt.contains_key(&Key::Slot(slot.clone()).to_string())
}

/// True where no spec wants the slot: its workload is gone, or has fewer replicas. A spec that does not parse may want it.
pub(crate) fn is_unwanted(view: &LatticeView, slot: &SlotId) -> bool {
    match view.specs.get(&slot.workload) {
        Some(spec) => slot.index >= spec.record.spec.replicas,
        None => !view.corrupt.contains_key(&Key::Spec(slot.workload.clone()).to_string()),
    }
}

/// Visit each vacancy in the order of slots, with the nodes that can take it, best first, and the ledger that they were
/// ranked by. Returns the ledger with all first choices booked.
pub(crate) fn walk<'a>(
    view: &'a LatticeView,
    mut visit: impl FnMut(&Vacancy<'a>, &[&'a NodeId], &Ledger<'a>),
) -> Ledger<'a> {
    let mut ledger = Ledger::of(view);
    let mut vacancies = vacancies(view);
    // Incumbents are booked before anything else, so that nothing takes the room that they come back to.
    for vacancy in &mut vacancies {
        vacancy.incumbent = vacancy.incumbent.filter(|node| ledger.refusal(node, &vacancy.spec.spec).is_none());
        if let Some(node) = vacancy.incumbent {
            ledger.take(node, &vacancy.spec.spec);
        }
    }
    for vacancy in &vacancies {
        let mut ranking = ledger.rank(&vacancy.slot, &vacancy.spec.spec);
        if let Some(incumbent) = vacancy.incumbent {
            ranking.retain(|node| *node != incumbent);
            ranking.insert(0, incumbent);
        }
        visit(vacancy, &ranking, &ledger);
        if let (None, Some(first)) = (vacancy.incumbent, ranking.first()) {
            ledger.take(first, &vacancy.spec.spec);
        }
    }
    ledger
}

fn vacancies(view: &LatticeView) -> Vec<Vacancy<'_>> {
    let wanted = view.specs.iter().flat_map(|(name, spec)| {
        (0..spec.record.spec.replicas).map(move |index| (SlotId::new(name.clone(), index), &spec.record))
    });
    wanted.filter_map(|(slot, spec)| vacancy(view, slot, spec)).collect()
}

fn vacancy<'a>(view: &'a LatticeView, slot: SlotId, spec: &'a SpecRecord) -> Option<Vacancy<'a>> {
    if is_slot_corrupt(view, &slot) {
        return None;
    }
    let Some(versioned) = view.slots.get(&slot) else {
        return Some(Vacancy { slot, spec, record: None, incumbent: None });
    };
    let of_this_life = versioned.record.uid == spec.uid;
    let holder = &versioned.record.holder;
    let vacant = match occupancy(view, holder) {
        Occupancy::Unknown => false,
        Occupancy::Dead => true,
        // A strict slot, or one of a deleted workload, is free only when its holder has withdrawn the record.
        Occupancy::Live => {
            of_this_life
                && spec.spec.class == Class::Available
                && view.live(holder).is_some_and(|session| is_leaving(session, &spec.spec))
        }
    };
    let incumbent = Some(&holder.node).filter(|_| of_this_life && view.live(holder).is_none());
    vacant.then_some(Vacancy { slot, spec, record: Some(versioned), incumbent })
}
