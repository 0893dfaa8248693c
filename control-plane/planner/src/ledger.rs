//! What each node has given away already, what still fits, and which node is better.

use crate::placement::{Occupancy, occupancy};
use lattice::{
    id::{NodeId, SlotId, WorkloadName},
    record::{Phase, Session},
    spec::{Requirement, WorkloadSpec},
    units::Bytes,
    view::LatticeView,
};
use std::{collections::BTreeMap, fmt};

/// Why a node can't take a replica. Its text completes "`node`: …".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    Draining,
    Label {
        requirement: Requirement,
        value: Option<String>,
    },
    /// It can't have a volume, by name.
    Volume {
        name: String,
    },
    Slots {
        capacity: u32,
    },
    Memory {
        needed: u64,
        reserved: u64,
        capacity: u64,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Draining => f.write_str("is draining"),
            Reason::Label { requirement, value: Some(value) } => {
                write!(f, "its label {} is {value:?}; required: {requirement}", requirement.key())
            }
            Reason::Label { requirement, value: None } => {
                write!(f, "has no label {}; required: {requirement}", requirement.key())
            }
            Reason::Volume { name } => {
                write!(f, "can't have volume {name}: its operator did not allow the directory, or so much room")
            }
            Reason::Slots { capacity } => write!(f, "has no slot left of its {capacity}"),
            Reason::Memory { needed, reserved, capacity } => {
                // Rounded down: a machine's memory seldom is a whole number of anything.
                let mib = |bytes: &u64| Bytes::mib(bytes >> 20);
                let (needed, reserved, capacity) = (mib(needed), mib(reserved), mib(capacity));
                write!(f, "has too little memory left: {reserved} of {capacity} are reserved, {needed} are needed")
            }
        }
    }
}

/// What the nodes hold, with what this plan gives them.
pub(crate) struct Ledger<'a> {
    /// In the order of their ids, so that a place in this list compares like an id.
    accounts: Vec<Account<'a>>,
    places: BTreeMap<&'a NodeId, usize>,
    /// How many replicas of each workload each node has, by its place. Nodes with none are absent.
    replicas: BTreeMap<&'a WorkloadName, BTreeMap<usize, u32>>,
}

struct Account<'a> {
    node: &'a NodeId,
    session: &'a Session,
    weight: u64,
    slots: u32,
    memory: u64,
    /// How full the node is, in eighths, so that small differences do not decide.
    fullness: u64,
}

const FULLNESS_STEPS: u128 = 8;

impl<'a> Ledger<'a> {
    pub(crate) fn of(view: &'a LatticeView) -> Self {
        let mut accounts: Vec<Account<'a>> =
            view.sessions.iter().map(|(node, at)| Account::new(node, &at.record)).collect();
        accounts.iter_mut().for_each(Account::update);
        let places = accounts.iter().enumerate().map(|(place, account)| (account.node, place)).collect();
        let mut ledger = Ledger { accounts, places, replicas: BTreeMap::new() };
        // Slots come in the order of workloads, so each spec is looked up once.
        let mut looked_up = None;
        for (slot, versioned) in &view.slots {
            let record = &versioned.record;
            let spec = match looked_up {
                Some((workload, spec)) if workload == &slot.workload => spec,
                _ => {
                    let spec = view.specs.get(&slot.workload).map(|spec| &spec.record);
                    looked_up = Some((&slot.workload, spec));
                    spec
                }
            };
            let spec = spec.filter(|spec| spec.uid == record.uid);
            // How much a workload that is gone had reserved is not known any more: until the holder has given it up,
            // which it does at once, nothing more fits there.
            let memory = |node: &NodeId| match spec {
                Some(spec) => spec.spec.memory_reserved(),
                None => view.sessions.get(node).map_or(0, |session| session.record.capacity.memory),
            };
            let old_holder = record.handover_from.as_ref();
            let old_holder = old_holder.filter(|old| record.phase != Phase::Ready && old.node != record.holder.node);
            for holder in std::iter::once(&record.holder).chain(old_holder) {
                if occupancy(view, holder) == Occupancy::Live {
                    ledger.book(&holder.node, &slot.workload, memory(&holder.node));
                }
            }
        }
        ledger
    }

    /// Why the node can't take one more replica, if it can't.
    pub(crate) fn refusal(&self, node: &NodeId, spec: &WorkloadSpec) -> Option<Reason> {
        let Some(account) = self.account(node) else { return Some(Reason::Slots { capacity: 0 }) };
        account.rules_out(spec).or_else(|| account.is_full_for(spec.memory_reserved()))
    }

    /// Book a replica on a node.
    pub(crate) fn take(&mut self, node: &NodeId, spec: &'a WorkloadSpec) {
        self.book(node, &spec.name, spec.memory_reserved());
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &'a NodeId> + '_ {
        self.accounts.iter().map(|account| account.node)
    }

    fn account(&self, node: &NodeId) -> Option<&Account<'a>> {
        self.accounts.get(*self.places.get(node)?)
    }

    fn book(&mut self, node: &NodeId, workload: &'a WorkloadName, memory: u64) {
        let Some(&place) = self.places.get(node) else { return };
        if let Some(account) = self.accounts.get_mut(place) {
            account.slots = account.slots.saturating_add(1);
            account.memory = account.memory.saturating_add(memory);
            account.update();
            *self.replicas.entry(workload).or_default().entry(place).or_default() += 1;
        }
    }
}

impl<'a> Account<'a> {
    fn new(node: &'a NodeId, session: &'a Session) -> Self {
        Account { node, session, weight: weight(node), slots: 0, memory: 0, fullness: 0 }
    }

    fn update(&mut self) {
        let step = |used: u64, capacity: u64| match capacity {
            0 => FULLNESS_STEPS,
            _ => FULLNESS_STEPS * u128::from(used) / u128::from(capacity),
        };
        let capacity = &self.session.capacity;
        let fullest = step(self.slots.into(), capacity.slots.into()).max(step(self.memory, capacity.memory));
        self.fullness = u64::try_from(fullest).unwrap_or(u64::MAX);
    }

    /// What rules the node out for all replicas of a workload, however much room it has.
    fn rules_out(&self, spec: &WorkloadSpec) -> Option<Reason> {
        let Session { labels, volumes, draining, .. } = self.session;
        if *draining {
            return Some(Reason::Draining);
        }
        if let Some(requirement) = spec.placement.require.iter().find(|requirement| !requirement.holds(labels)) {
            let value = labels.get(requirement.key()).cloned();
            return Some(Reason::Label { requirement: requirement.clone(), value });
        }
        let volume = volumes.lacks(spec)?;
        Some(Reason::Volume { name: volume.name.to_string() })
    }

    fn has_room(&self, needed: u64) -> bool {
        let capacity = &self.session.capacity;
        self.slots < capacity.slots && self.memory.saturating_add(needed) <= capacity.memory
    }

    fn is_full_for(&self, needed: u64) -> Option<Reason> {
        let capacity = &self.session.capacity;
        if self.has_room(needed) {
            None
        } else if self.slots >= capacity.slots {
            Some(Reason::Slots { capacity: capacity.slots })
        } else {
            Some(Reason::Memory { needed, reserved: self.memory, capacity: capacity.memory })
        }
    }
}

/// The nodes that may run one workload. Made once for all its vacancies: what does not change between two of them is not
/// asked again, which is most of the work where both are many.
pub(crate) struct Contest<'a> {
    spec: &'a WorkloadSpec,
    /// Places of the nodes that nothing rules out.
    entrants: Vec<usize>,
    /// Replicas of this workload, by place.
    replicas: Vec<u32>,
}

impl<'a> Contest<'a> {
    pub(crate) fn new(ledger: &Ledger<'a>, spec: &'a WorkloadSpec) -> Self {
        let entrants = ledger.accounts.iter().enumerate().filter(|(_, account)| account.rules_out(spec).is_none());
        let entrants = entrants.map(|(place, _)| place).collect();
        let mut replicas = vec![0; ledger.accounts.len()];
        for (place, count) in ledger.replicas.get(&spec.name).into_iter().flatten() {
            if let Some(replicas) = replicas.get_mut(*place) {
                *replicas = *count;
            }
        }
        Contest { spec, entrants, replicas }
    }

    pub(crate) fn is_of(&self, spec: &WorkloadSpec) -> bool {
        std::ptr::eq(self.spec, spec)
    }

    /// Book a replica on a node.
    pub(crate) fn take(&mut self, ledger: &mut Ledger<'a>, node: &NodeId) {
        ledger.take(node, self.spec);
        if let Some(replicas) = ledger.places.get(node).and_then(|place| self.replicas.get_mut(*place)) {
            *replicas += 1;
        }
    }
}

/// The order of the nodes for one slot. Nothing is computed before it is asked for: who comes first is found in one pass
/// over the nodes, the whole order is only for people.
pub(crate) struct Ranking<'l, 'a> {
    ledger: &'l Ledger<'a>,
    contest: &'l Contest<'a>,
    slot: u64,
    /// First, before all others.
    incumbent: Option<&'a NodeId>,
}

/// Smaller is better: replicas of the same workload, since an even spread comes first; how full the node is; the rendezvous
/// hash; the place, which compares like the id.
type Score = (u32, u64, u64, usize);

impl<'l, 'a> Ranking<'l, 'a> {
    pub(crate) fn new(
        ledger: &'l Ledger<'a>,
        contest: &'l Contest<'a>,
        slot: &SlotId,
        incumbent: Option<&'a NodeId>,
    ) -> Self {
        Ranking { ledger, contest, slot: weight(slot), incumbent }
    }

    /// The best node.
    pub(crate) fn first(&self) -> Option<&'a NodeId> {
        if self.incumbent.is_some() {
            return self.incumbent;
        }
        // Most nodes are out before their hash is needed.
        let mut best: Option<Score> = None;
        for (place, account) in self.fitting() {
            let replicas = self.replicas(place);
            if best.is_none_or(|best| (replicas, account.fullness) <= (best.0, best.1)) {
                let score = (replicas, account.fullness, meet(self.slot, account.weight), place);
                best = Some(best.map_or(score, |best| best.min(score)));
            }
        }
        best.and_then(|(.., place)| self.node(place))
    }

    /// How many nodes come before this one, if it can take the slot.
    pub(crate) fn of(&self, node: &NodeId) -> Option<u32> {
        if self.incumbent == Some(node) {
            return Some(0);
        }
        let &place = self.ledger.places.get(node)?;
        self.contest.entrants.binary_search(&place).ok()?;
        let account = self.ledger.accounts.get(place)?;
        if !account.has_room(self.contest.spec.memory_reserved()) {
            return None;
        }
        let mine = self.score(place, account);
        let is_better = |(place, account): &(usize, &Account<'a>)| {
            let so_far = (self.replicas(*place), account.fullness);
            Some(account.node) != self.incumbent
                && (so_far < (mine.0, mine.1) || so_far == (mine.0, mine.1) && self.score(*place, account) < mine)
        };
        let better = self.fitting().filter(is_better).count() + usize::from(self.incumbent.is_some());
        u32::try_from(better).ok()
    }

    /// The nodes that can take the slot, best first.
    pub(crate) fn all(&self) -> Vec<&'a NodeId> {
        let others = self.fitting().filter(|(_, account)| Some(account.node) != self.incumbent);
        let mut scores: Vec<Score> = others.map(|(place, account)| self.score(place, account)).collect();
        scores.sort_unstable();
        let others = scores.into_iter().filter_map(|(.., place)| self.node(place));
        self.incumbent.into_iter().chain(others).collect()
    }

    fn fitting(&self) -> impl Iterator<Item = (usize, &'l Account<'a>)> + '_ {
        let needed = self.contest.spec.memory_reserved();
        let entrants = self.contest.entrants.iter();
        let entrants = entrants.filter_map(|place| Some((*place, self.ledger.accounts.get(*place)?)));
        entrants.filter(move |(_, account)| account.has_room(needed))
    }

    fn score(&self, place: usize, account: &Account<'a>) -> Score {
        (self.replicas(place), account.fullness, meet(self.slot, account.weight), place)
    }

    fn replicas(&self, place: usize) -> u32 {
        self.contest.replicas.get(place).copied().unwrap_or(0)
    }

    fn node(&self, place: usize) -> Option<&'a NodeId> {
        self.ledger.accounts.get(place).map(|account| account.node)
    }
}

/// Weight of a node for a slot in rendezvous hashing: the least wins. Each name has a weight of its own, and two of them
/// meet in one mix, so that a plan for many slots and nodes hashes each name once. All nodes must compute the same value
/// whatever their version: changing this is a change of protocol.
pub(crate) fn rendezvous(slot: &SlotId, node: &NodeId) -> u64 {
    meet(weight(slot), weight(node))
}

fn meet(slot: u64, node: u64) -> u64 {
    mix(slot ^ node)
}

/// FNV-1a (64 bits) over the text, then [`mix`], since the last bytes alone hardly move FNV's upper bits.
fn weight(name: &impl fmt::Display) -> u64 {
    struct Fnv(u64);
    impl fmt::Write for Fnv {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            const PRIME: u64 = 0x0000_0100_0000_01b3;
            self.0 = text.bytes().fold(self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
            Ok(())
        }
    }
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    // Hashing cannot fail.
    let _ = fmt::write(&mut hash, format_args!("{name}"));
    mix(hash.0)
}

/// The finaliser of SplitMix64.
fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
