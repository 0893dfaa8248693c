//! The walk over vacant slots that [`crate::plan`], [`crate::explain`] and [`crate::preview`] share. Every node walks in
//! the same order and books each slot on the node that ranks first, so all of them expect the same outcome.

use crate::ledger::{Contest, Ledger, Ranking};
use lattice::{
    id::{NodeId, SlotId, WorkloadName},
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

/// A holder is leaving a slot when its node drains, or when a newer spec asks for labels or volumes that the
/// node lacks.
pub(crate) fn is_leaving(session: &Session, spec: &WorkloadSpec) -> bool {
    session.draining
        || spec.placement.require.iter().any(|requirement| !requirement.holds(&session.labels))
        || session.volumes.lacks(spec).is_some()
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

/// Visit all [`vacancies`] in the order of slots, each with the nodes that can take it and the ledger that they are ranked by.
/// Returns the ledger with all first choices booked.
pub(crate) fn walk<'a>(
    view: &'a LatticeView,
    mut vacancies: Vec<Vacancy<'a>>,
    mut visit: impl FnMut(&Vacancy<'a>, &Ranking<'_, 'a>, &Ledger<'a>),
) -> Ledger<'a> {
    let mut ledger = Ledger::of(view);
    // Incumbents are booked before anything else, so that nothing takes the room that they come back to.
    for vacancy in &mut vacancies {
        vacancy.incumbent = vacancy.incumbent.filter(|node| ledger.refusal(node, &vacancy.spec.spec).is_none());
        if let Some(node) = vacancy.incumbent {
            ledger.take(node, &vacancy.spec.spec);
        }
    }
    let mut current: Option<Contest<'a>> = None;
    for vacancy in &vacancies {
        let spec = &vacancy.spec.spec;
        let contest = match &mut current {
            Some(contest) if contest.is_of(spec) => contest,
            other => other.insert(Contest::new(&ledger, spec)),
        };
        let ranking = Ranking::new(&ledger, contest, &vacancy.slot, vacancy.incumbent);
        visit(vacancy, &ranking, &ledger);
        if let (None, Some(first)) = (vacancy.incumbent, ranking.first()) {
            contest.take(&mut ledger, first);
        }
    }
    ledger
}

/// The wanted slots that may be claimed, in order.
pub(crate) fn vacancies(view: &LatticeView) -> Vec<Vacancy<'_>> {
    let mut vacancies = Vec::new();
    for (name, spec) in &view.specs {
        let mut slots = view.slots_of(name).peekable();
        for index in 0..spec.record.spec.replicas {
            while slots.next_if(|(slot, _)| slot.index < index).is_some() {}
            let kept = slots.next_if(|(slot, _)| slot.index == index).map(|(_, slot)| slot);
            vacancies.extend(vacancy(view, name, index, &spec.record, kept));
        }
    }
    vacancies
}

fn vacancy<'a>(
    view: &'a LatticeView,
    workload: &WorkloadName,
    index: u32,
    spec: &'a SpecRecord,
    record: Option<&'a Versioned<Slot>>,
) -> Option<Vacancy<'a>> {
    let slot = || SlotId::new(workload.clone(), index);
    if !view.corrupt.is_empty() && is_slot_corrupt(view, &slot()) {
        return None;
    }
    let Some(versioned) = record else {
        return Some(Vacancy { slot: slot(), spec, record, incumbent: None });
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
    vacant.then(|| Vacancy { slot: slot(), spec, record, incumbent })
}
