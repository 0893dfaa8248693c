//! Everything that a plan needs to know, drawn from a view: what each node holds, which slots are vacant, which records are
//! nobody's. It is kept from one view to the next, and only what changed between them is drawn again; what comes out is the
//! same as from the view alone.

use crate::{
    ledger::{Ledger, Need, Room},
    nodes::{Nodes, Place},
    placement::Vacancy,
    rebalance::moving,
    retreat::{Retreat, Way},
    rules,
    templates::reserved,
};
use lattice::{
    id::{NodeId, Revision, SlotId, WorkloadName},
    limits::REPLICAS_MAX,
    record::{DecodeError, Holder, Key, Phase, Rollout, Session, Slot, SpecRecord},
    spec::Class,
    view::{Corrupt, LatticeView, Versioned, changed},
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Nodes that are gone for good are forgotten when there are so many of them, and as many as living ones.
const GONE_MAX: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Board {
    pub(crate) nodes: Nodes,
    pub(crate) ledger: Ledger,
    entries: BTreeMap<WorkloadName, Entry>,
    /// Workloads whose slots name a node, by its place.
    of_node: Vec<BTreeSet<Arc<WorkloadName>>>,
    /// Workloads with vacancies, in the order in which they are served.
    vacant: BTreeSet<(Reverse<i32>, WorkloadName)>,
    /// Workloads with records that nobody wants.
    stray: BTreeSet<WorkloadName>,
    daemons: BTreeSet<WorkloadName>,
    /// Who keeps a workload away, and what is close to it.
    repelled: BTreeMap<WorkloadName, BTreeSet<(WorkloadName, String)>>,
    /// How many workloads that hold something have a priority.
    priorities: BTreeMap<i32, usize>,
    corrupt: BTreeMap<String, Corrupt>,
    /// Replicas that are moved away from a node.
    moving: BTreeMap<SlotId, NodeId>,
}

/// One workload.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    pub(crate) priority: i32,
    pub(crate) wanted: Wanted,
    pub(crate) bookings: Vec<Booking>,
    pub(crate) vacancies: Vec<Vacancy>,
    /// How replicas that serve what is given up come back, by index.
    pub(crate) ways: BTreeMap<u32, Way>,
    /// Nodes that its records name.
    mentions: BTreeSet<Place>,
    has_strays: bool,
    repels: Vec<(WorkloadName, String)>,
}

/// What a workload takes of a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Booking {
    pub(crate) place: Place,
    pub(crate) needed: Need,
    pub(crate) index: u32,
    /// Not one that only serves until another is ready.
    pub(crate) is_holder: bool,
    /// Its holder failed to start it.
    pub(crate) has_failed: bool,
}

/// Which slots a spec wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// So many, from the first one.
    First(u32),
    /// One for each node of a daemon: those that are kept, and those that are vacant.
    Each(BTreeSet<u32>),
    /// The spec does not parse.
    Unknown,
}

impl Default for Wanted {
    fn default() -> Self {
        Wanted::First(0)
    }
}

impl Wanted {
    pub(crate) fn contains(&self, index: u32) -> bool {
        match self {
            Wanted::First(count) => index < *count,
            Wanted::Each(indexes) => indexes.contains(&index),
            Wanted::Unknown => true,
        }
    }

    pub(crate) fn indexes(&self) -> Vec<u32> {
        match self {
            Wanted::First(count) => (0..*count).collect(),
            Wanted::Each(indexes) => indexes.iter().copied().collect(),
            Wanted::Unknown => Vec::new(),
        }
    }
}

/// Whether a holder still stands behind its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occupancy {
    Live,
    Dead,
    /// Its session does not parse and was never seen whole. Corrupt is not absent: nobody may take its slots.
    Unknown,
}

/// What of a session a plan depends on: not how often it was renewed.
fn says_the_same(one: &Session, two: &Session) -> bool {
    let Session { node: _, incarnation, labels, version: _, capacity, volumes, http: _, draining, taints, .. } = one;
    *incarnation == two.incarnation
        && *labels == two.labels
        && *capacity == two.capacity
        && *volumes == two.volumes
        && *draining == two.draining
        && *taints == two.taints
}

impl Board {
    pub(crate) fn of(view: &LatticeView) -> Self {
        let mut board = Board { corrupt: view.corrupt.clone(), moving: moving(view), ..Board::default() };
        for node in view.sessions.keys() {
            board.draw_node(view, node);
        }
        let names: BTreeSet<&WorkloadName> = view.specs.keys().chain(view.slots.workloads()).collect();
        for name in names {
            board.draw_workload(view, name);
        }
        board
    }

    /// Draw again what differs between two views, `before` being the one that was drawn.
    pub(crate) fn follow(&mut self, before: &LatticeView, view: &LatticeView) {
        let gone = self.nodes.len().saturating_sub(view.sessions.len());
        if self.corrupt != view.corrupt || gone > GONE_MAX.max(view.sessions.len()) {
            *self = Board::of(view);
            return;
        }
        let same_session = |one: &Versioned<Session>, two: &Versioned<Session>| {
            one.revision == two.revision || says_the_same(&one.record, &two.record)
        };
        let mut nodes: BTreeSet<&NodeId> =
            changed(&view.sessions, &before.sessions, same_session).into_iter().collect();
        nodes.extend(changed(&view.orders, &before.orders, |one, two| one.record == two.record));
        let mut names: BTreeSet<WorkloadName> = BTreeSet::new();
        for node in &nodes {
            let place = self.draw_node(view, node);
            names.extend(self.of_node.get(place).into_iter().flatten().map(|name| WorkloadName::clone(name)));
        }
        if !nodes.is_empty() {
            names.extend(self.daemons.iter().cloned());
        }
        names.extend(changed(&view.specs, &before.specs, Arc::ptr_eq).into_iter().cloned());
        names.extend(
            changed(&view.scales, &before.scales, |one, two| one.revision == two.revision).into_iter().cloned(),
        );
        names.extend(view.slots.changed(&before.slots).into_iter().cloned());
        let same_rollout = |one: &Versioned<Rollout>, two: &Versioned<Rollout>| one.revision == two.revision;
        names.extend(changed(&view.rollouts, &before.rollouts, same_rollout).into_iter().cloned());
        let revision = |view: &LatticeView| view.rebalance.as_ref().map(|rebalance| rebalance.revision);
        if revision(before) != revision(view) {
            let moved = std::mem::replace(&mut self.moving, moving(view));
            names.extend(moved.keys().chain(self.moving.keys()).map(|slot| slot.workload.clone()));
        }
        for name in &names {
            self.draw_workload(view, name);
        }
    }

    /// The workloads that some record says a node holds, held, or hands over.
    pub(crate) fn workloads_of(&self, place: Place) -> impl Iterator<Item = &WorkloadName> {
        self.of_node.get(place).into_iter().flatten().map(|name| &**name)
    }

    pub(crate) fn node(&self, node: &NodeId) -> Option<Place> {
        self.nodes.find(node)
    }

    pub(crate) fn entry(&self, name: &WorkloadName) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// The workloads with vacancies, in the order in which they are served.
    pub(crate) fn vacant(&self) -> impl Iterator<Item = (&WorkloadName, &Entry)> {
        self.vacant.iter().filter_map(|(_, name)| Some((name, self.entries.get(name)?)))
    }

    pub(crate) fn has_vacancies(&self) -> bool {
        !self.vacant.is_empty()
    }

    pub(crate) fn stray(&self) -> impl Iterator<Item = &WorkloadName> {
        self.stray.iter()
    }

    pub(crate) fn repelled(&self, name: &WorkloadName) -> impl Iterator<Item = &(WorkloadName, String)> {
        self.repelled.get(name).into_iter().flatten()
    }

    /// The lowest priority of those that hold something.
    pub(crate) fn lowest_priority(&self) -> Option<i32> {
        self.priorities.keys().next().copied()
    }

    pub(crate) fn wants(&self, slot: &SlotId) -> bool {
        self.entries.get(&slot.workload).is_some_and(|entry| entry.wanted.contains(slot.index))
    }

    pub(crate) fn occupancy(&self, holder: &Holder) -> Occupancy {
        let session = self.nodes.find(&holder.node).and_then(|place| self.nodes.session(place));
        match session {
            Some(session) if session.incarnation == holder.incarnation => Occupancy::Live,
            None if !self.corrupt.is_empty()
                && self.corrupt.contains_key(&Key::Session(holder.node.clone()).to_string()) =>
            {
                Occupancy::Unknown
            }
            Some(_) | None => Occupancy::Dead,
        }
    }

    /// Whether somebody wants a replica away from a node, to a better place.
    pub(crate) fn is_moved(&self, slot: &SlotId, from: &NodeId) -> bool {
        self.moving.get(slot) == Some(from)
    }

    pub(crate) fn is_corrupt(&self, slot: &SlotId) -> bool {
        !self.corrupt.is_empty() && self.corrupt.contains_key(&Key::Slot(slot.clone()).to_string())
    }

    fn draw_node(&mut self, view: &LatticeView, node: &NodeId) -> Place {
        let place = self.nodes.place(node);
        let mut session = view.sessions.get(node).map(|session| session.record.clone());
        let ordered = view.drain(node).map(|(_, revision)| revision);
        let drained_since = ordered.filter(|_| session.as_ref().is_some_and(|session| !session.draining));
        if let Some(session) = &mut session {
            session.draining |= ordered.is_some();
        }
        if let Some(account) = self.nodes.get_mut(place) {
            self.ledger.declare(place, account.weight, session.as_ref().map(Room::of));
            account.session = session;
            account.cordoned = view.is_cordoned(node);
            account.drained_since = drained_since;
        }
        place
    }

    fn draw_workload(&mut self, view: &LatticeView, name: &WorkloadName) {
        let before = self.entries.remove(name).unwrap_or_default();
        let after = self.read(view, name);
        self.book(&before, false);
        for place in before.mentions.difference(&after.mentions) {
            self.of_node.get_mut(*place).map(|names| names.remove(name));
        }
        let shared = Arc::new(name.clone());
        for place in after.mentions.difference(&before.mentions) {
            if self.of_node.len() <= *place {
                self.of_node.resize_with(place + 1, BTreeSet::new);
            }
            self.of_node.get_mut(*place).map(|names| names.insert(shared.clone()));
        }
        self.book(&after, true);

        self.vacant.remove(&(Reverse(before.priority), name.clone()));
        if !after.vacancies.is_empty() {
            self.vacant.insert((Reverse(after.priority), name.clone()));
        }
        set(&mut self.stray, name, after.has_strays);
        set(&mut self.daemons, name, matches!(after.wanted, Wanted::Each(_)));
        for (other, over) in &before.repels {
            if let Some(repelled) = self.repelled.get_mut(other) {
                repelled.remove(&(name.clone(), over.clone()));
                if repelled.is_empty() {
                    self.repelled.remove(other);
                }
            }
        }
        for (other, over) in &after.repels {
            self.repelled.entry(other.clone()).or_default().insert((name.clone(), over.clone()));
        }
        if view.specs.contains_key(name) || !after.mentions.is_empty() {
            self.entries.insert(name.clone(), after);
        }
    }

    fn book(&mut self, entry: &Entry, is_there: bool) {
        for Booking { place, needed, .. } in &entry.bookings {
            if is_there {
                self.ledger.book(*place, *needed);
            } else {
                self.ledger.unbook(*place, *needed);
            }
        }
        if !entry.bookings.is_empty() {
            let count = self.priorities.entry(entry.priority).or_default();
            *count = if is_there { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                self.priorities.remove(&entry.priority);
            }
        }
    }

    fn read(&mut self, view: &LatticeView, name: &WorkloadName) -> Entry {
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

    /// What is reserved on a node beyond what it declared.
    pub(crate) fn overdraft(&self, node: &NodeId) -> Need {
        let load = self.nodes.find(node).map(|place| self.ledger.load(place)).unwrap_or_default();
        load.capacity.map_or(Need::default(), |room| load.reserved.minus(room.most))
    }

    /// What may still be reserved there.
    pub(crate) fn headroom(&self, node: &NodeId) -> Need {
        self.nodes.find(node).map(|place| self.ledger.load(place)).unwrap_or_default().headroom()
    }

    /// Whether what its node says makes a living holder leave.
    pub(crate) fn is_leaving(&self, holder: &Holder, spec: &SpecRecord) -> bool {
        let session = self.nodes.find(&holder.node).and_then(|place| self.nodes.session(place));
        session.and_then(|session| rules::expels(session, &spec.spec)).is_some()
    }

    /// Since which order a living holder is to leave, where that order is the only reason: it stays until there is a place
    /// for what it has.
    pub(crate) fn leaves_in_time(&self, holder: &Holder, spec: &SpecRecord) -> Option<Revision> {
        let account = self.nodes.get(self.nodes.find(&holder.node)?)?;
        let (since, session) = (account.drained_since?, account.session.clone()?);
        let stays = rules::expels(&Session { draining: false, ..session }, &spec.spec).is_none();
        stays.then_some(since)
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
                        rules::expels(&Session { draining: false, ..session.clone() }, &spec.spec).is_some()
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
                && self.nodes.session(place).is_some_and(|session| rules::expels(session, &spec.spec).is_none())
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
            if served.contains(&place) || rules::refuses(account, session, &spec.spec).is_some() {
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

/// Whether the newest spec of a workload is one that only later versions read. What runs goes on; all else is theirs.
pub(crate) fn is_unread(corrupt: &BTreeMap<String, Corrupt>, workload: &WorkloadName) -> bool {
    let found = if corrupt.is_empty() { None } else { corrupt.get(&Key::Spec(workload.clone()).to_string()) };
    found.is_some_and(|corrupt| matches!(corrupt.error, DecodeError::Newer(_)))
}

fn set(names: &mut BTreeSet<WorkloadName>, name: &WorkloadName, is_in: bool) {
    if !is_in {
        names.remove(name);
    } else if !names.contains(name) {
        names.insert(name.clone());
    }
}
