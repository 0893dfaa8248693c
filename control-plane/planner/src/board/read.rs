//! What one workload's records say of it: which slots it wants, which of them are vacant, and what it takes of which node.

use super::{Board, Booking, Entry, GpuBooking, Occupancy, Wanted, is_unread};
use crate::{
    ledger::Room,
    nodes::Place,
    placement::Vacancy,
    retreat::Retreat,
    rules,
    templates::{claims_gpu, reserved},
};
use lattice::{
    id::{SlotId, WorkloadName},
    limits::REPLICAS_MAX,
    record::{Key, Phase, Rollout, Session, Slot, SpecRecord},
    spec::Class,
    view::{LatticeView, Versioned},
};
use std::collections::BTreeSet;

impl Board {
    pub(super) fn read(&mut self, view: &LatticeView, name: &WorkloadName) -> Entry {
        let spec = view.specs.get(name).map(|spec| &spec.record);
        let mut entry = Entry { priority: spec.map_or(0, |spec| spec.spec.placement.priority), ..Entry::default() };
        let rollout = view.rollout(name);
        entry.ways = spec.map(|spec| Retreat::of(view, spec, rollout).ways).unwrap_or_default();
        for (slot, versioned) in view.slots.of(name) {
            self.read_slot(&mut entry, spec, rollout, slot, &versioned.record);
        }
        entry.wanted = match spec {
            Some(spec) if spec.spec.placement.daemon => self.read_daemon(view, spec, &mut entry.vacancies),
            Some(spec) => {
                let replicas = view.replicas(spec);
                self.read_vacancies(view, spec, replicas, &mut entry.vacancies);
                Wanted::First(replicas)
            }
            None if self.corrupt.contains_key(&Key::Spec(name.clone()).to_string()) => Wanted::Unknown,
            None => Wanted::First(0),
        };
        // Who can't read the newest spec does not know what new replicas are to run. Those who can take them.
        if is_unread(&self.corrupt, name) {
            entry.vacancies.clear();
        }
        entry.has_strays = view.slots.of(name).any(|(slot, _)| !entry.wanted.contains(slot.index));
        if let Some(spec) = spec {
            let hard = spec.spec.placement.apart.iter().filter(|apart| apart.hard && apart.workload != *name);
            entry.repels = hard.map(|apart| (apart.workload.clone(), apart.over.clone())).collect();
            entry.claims = claims_gpu(spec);
        }
        entry
    }

    fn read_slot(
        &mut self,
        entry: &mut Entry,
        spec: Option<&SpecRecord>,
        rollout: Option<&Rollout>,
        slot: &SlotId,
        record: &Slot,
    ) {
        let spec = spec.filter(|spec| spec.uid == record.uid);
        let old_holder = record.handover_from.as_ref();
        let old_holder = old_holder.filter(|old| record.phase != Phase::Ready && old.node != record.holder.node);
        for (holder, is_holder) in std::iter::once((&record.holder, true)).chain(old_holder.map(|old| (old, false))) {
            let place = self.nodes.place(&holder.node);
            entry.mentions.insert(place);
            let Some(session) = self.nodes.session(place).filter(|at| at.incarnation == holder.incarnation) else {
                continue;
            };
            // How much a workload that is gone had reserved is not known any more: until the holder has given it up,
            // which it does at once, nothing more fits there.
            let way = entry.ways.get(&slot.index).copied();
            let needed = spec.map_or(Room::of(session).most, |spec| reserved(spec, rollout, slot.index, record, way));
            let wanted = spec.map(|spec| spec.wanted(rollout, slot.index, Some(record)).template());
            let is_new = wanted == Some(record.generation);
            let has_failed = is_holder && is_new && record.phase == Phase::Failed;
            entry.bookings.push(Booking { place, needed, index: slot.index, is_holder, has_failed });
            let grant = if is_holder { &record.gpu } else { &record.handover_gpu };
            if let Some(grant) = grant.clone() {
                entry.gpus.push(GpuBooking { place, index: slot.index, grant, is_holder });
            }
        }
        // Not bookings: nodes that a handover names and that hold nothing any more.
        if let Some(old) = &record.handover_from {
            let place = self.nodes.place(&old.node);
            entry.mentions.insert(place);
        }
    }

    fn read_vacancies(&self, view: &LatticeView, spec: &SpecRecord, replicas: u32, vacancies: &mut Vec<Vacancy>) {
        let mut slots = view.slots.of(&spec.spec.name).peekable();
        let rollout = view.rollout(&spec.spec.name);
        for index in 0..replicas {
            while slots.next_if(|(slot, _)| slot.index < index).is_some() {}
            let kept = slots.next_if(|(slot, _)| slot.index == index).map(|(_, slot)| &slot.record);
            let wanted = spec.wanted(rollout, index, kept);
            let barred = match self.moving.is_empty() {
                true => None,
                false => self.moving.get(&SlotId::new(spec.spec.name.clone(), index)),
            };
            let moves = |kept: &Slot| barred == Some(&kept.holder.node) && self.may_be_taken(wanted, kept);
            let is_vacant = kept.is_none_or(|kept| self.is_vacant(wanted, kept) || moves(kept));
            if !is_vacant || !self.corrupt.is_empty() && self.is_corrupt(&SlotId::new(spec.spec.name.clone(), index)) {
                continue;
            }
            let incumbent = kept.and_then(|kept| self.incumbent(spec, kept));
            let is_stable = wanted.template() != spec.template();
            let barred = barred.filter(|_| incumbent.is_none()).and_then(|node| self.nodes.find(node));
            vacancies.push(Vacancy { index, incumbent, pinned: None, is_stable, barred });
        }
    }

    /// Whether a slot with this record may be claimed.
    fn is_vacant(&self, spec: &SpecRecord, record: &Slot) -> bool {
        match self.occupancy(&record.holder) {
            Occupancy::Unknown => false,
            Occupancy::Dead => true,
            // A strict slot, or one of a deleted workload, is free only when its holder has withdrawn the record. One that
            // speaks of a generation to come was claimed by rules that this view does not have yet.
            Occupancy::Live => {
                record.uid == spec.uid
                    && record.generation <= spec.generation
                    && spec.spec.class == Class::Available
                    && self.is_leaving(&record.holder, spec)
            }
        }
    }

    /// Whether another node may take what a living holder serves, which goes on until then.
    fn may_be_taken(&self, spec: &SpecRecord, record: &Slot) -> bool {
        self.occupancy(&record.holder) == Occupancy::Live
            && record.uid == spec.uid
            && record.generation <= spec.generation
            && record.phase == Phase::Ready
            && spec.spec.class == Class::Available
    }

    /// The living node whose former life held the slot.
    fn incumbent(&self, spec: &SpecRecord, record: &Slot) -> Option<Place> {
        let is_of_another_life = record.uid != spec.uid || self.occupancy(&record.holder) == Occupancy::Live;
        let place = self.nodes.find(&record.holder.node).filter(|_| !is_of_another_life)?;
        self.nodes.session(place).map(|_| place)
    }

    /// A daemon has one slot for each node that it may run on. Who holds one keeps it, who held one takes it back; the
    /// others get what is free, in the order of their ids.
    fn read_daemon(&self, view: &LatticeView, spec: &SpecRecord, vacancies: &mut Vec<Vacancy>) -> Wanted {
        let name = &spec.spec.name;
        let mut wanted = BTreeSet::new();
        let mut served: BTreeSet<Place> = BTreeSet::new();
        let records = || view.slots.of(name).filter(|(_, slot)| slot.record.uid == spec.uid);
        let rollout = view.rollout(name);
        let is_stable =
            |index: u32, kept: Option<&Slot>| spec.wanted(rollout, index, kept).template() != spec.template();
        for (slot, Versioned { record, .. }) in records() {
            let Some(place) = self.nodes.find(&record.holder.node) else { continue };
            match self.occupancy(&record.holder) {
                Occupancy::Live => {
                    // A node that drains keeps its replica as long as it is there.
                    let expelled = self.nodes.session(place).is_some_and(|session| {
                        rules::expels(&Session { draining: false, ..session.clone() }, spec).is_some()
                    });
                    if !expelled && served.insert(place) {
                        wanted.insert(slot.index);
                    }
                }
                Occupancy::Unknown => {
                    wanted.insert(slot.index);
                }
                Occupancy::Dead => {}
            }
        }
        for (slot, Versioned { record, .. }) in records().filter(|(slot, _)| !self.is_corrupt(slot)) {
            if let Some(place) = self.incumbent(spec, record)
                && self.nodes.session(place).is_some_and(|session| rules::expels(session, spec).is_none())
                && served.insert(place)
            {
                wanted.insert(slot.index);
                let is_stable = is_stable(slot.index, Some(record));
                vacancies.push(Vacancy {
                    index: slot.index,
                    incumbent: Some(place),
                    pinned: Some(place),
                    is_stable,
                    barred: None,
                });
            }
        }
        let is_taken = |index: &u32| {
            let slot = SlotId::new(name.clone(), *index);
            view.slots.contains_key(&slot) || self.is_corrupt(&slot)
        };
        let mut free = (0..REPLICAS_MAX).filter(|index| !is_taken(index));
        for (place, account, session) in self.nodes.live() {
            if served.contains(&place) || rules::refuses(account, session, spec).is_some() {
                continue;
            }
            let Some(index) = free.next() else { break };
            wanted.insert(index);
            let is_stable = is_stable(index, None);
            vacancies.push(Vacancy { index, incumbent: None, pinned: Some(place), is_stable, barred: None });
        }
        vacancies.sort_by_key(|vacancy| vacancy.index);
        Wanted::Each(wanted)
    }
}
