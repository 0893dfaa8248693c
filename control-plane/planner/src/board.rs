//! Everything that a plan needs to know, drawn from a view: what each node holds, which slots are vacant, which records are
//! nobody's. It is kept from one view to the next, and only what changed between them is drawn again; what comes out is the
//! same as from the view alone. How a workload's own records are read is in `board/read.rs`.

mod read;

use crate::{
    ledger::{Ledger, Need, Room},
    nodes::{Nodes, Place},
    placement::Vacancy,
    rebalance::moving,
    retreat::Way,
    rules,
};
use lattice::{
    gpu::GpuGrant,
    id::{NodeId, Revision, SlotId, WorkloadName},
    record::{DecodeError, Holder, Key, Rollout, Session, SpecRecord},
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
    /// Workloads that claim something of a GPU, or hold it.
    claiming: BTreeSet<WorkloadName>,
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
    /// What its replicas hold of GPUs.
    pub(crate) gpus: Vec<GpuBooking>,
    pub(crate) vacancies: Vec<Vacancy>,
    /// How replicas that serve what is given up come back, by index.
    pub(crate) ways: BTreeMap<u32, Way>,
    /// Nodes that its records name.
    mentions: BTreeSet<Place>,
    has_strays: bool,
    /// Its spec asks for something of a GPU.
    claims: bool,
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

/// What a replica holds of a GPU.
#[derive(Debug, Clone)]
pub(crate) struct GpuBooking {
    pub(crate) place: Place,
    pub(crate) index: u32,
    pub(crate) grant: GpuGrant,
    /// As in [`Booking`].
    pub(crate) is_holder: bool,
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
    let Session {
        node: _,
        incarnation,
        labels,
        version: _,
        capacity,
        volumes,
        http: _,
        draining,
        taints,
        gpus,
        offers,
        compiled,
        ..
    } = one;
    *incarnation == two.incarnation
        && *labels == two.labels
        && *capacity == two.capacity
        && *volumes == two.volumes
        && *draining == two.draining
        && *taints == two.taints
        && *offers == two.offers
        && *compiled == two.compiled
        && gpus.len() == two.gpus.len()
        && gpus.iter().zip(&two.gpus).all(|(one, two)| one.plans_like(two))
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

    pub(crate) fn claiming(&self) -> impl Iterator<Item = &WorkloadName> {
        self.claiming.iter()
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
            let offers = session.as_ref().map_or(&[][..], |session| session.gpus.as_slice());
            self.ledger.gpus.declare(place, offers);
            account.cordoned = view.is_cordoned(node);
            account.drained_since = drained_since;
        }
        self.nodes.seat(place, session);
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
        set(&mut self.claiming, name, after.claims || !after.gpus.is_empty());
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
        for GpuBooking { place, grant, .. } in &entry.gpus {
            if is_there {
                self.ledger.gpus.book(*place, grant);
            } else {
                self.ledger.gpus.unbook(*place, grant);
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
        session.and_then(|session| rules::expels(session, spec)).is_some()
    }

    /// Since which order a living holder is to leave, where that order is the only reason: it stays until there is a place
    /// for what it has.
    pub(crate) fn leaves_in_time(&self, holder: &Holder, spec: &SpecRecord) -> Option<Revision> {
        let account = self.nodes.get(self.nodes.find(&holder.node)?)?;
        let (since, session) = (account.drained_since?, account.session.clone()?);
        let stays = rules::expels(&Session { draining: false, ..session }, spec).is_none();
        stays.then_some(since)
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
