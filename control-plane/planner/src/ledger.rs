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
    Label { requirement: Requirement, value: Option<String> },
    Slots { capacity: u32 },
    Memory { needed: u64, reserved: u64, capacity: u64 },
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
    nodes: BTreeMap<&'a NodeId, Account<'a>>,
}

struct Account<'a> {
    session: &'a Session,
    slots: u32,
    memory: u64,
    replicas: BTreeMap<&'a WorkloadName, u32>,
}

/// Smaller is better.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Score<'a> {
    /// Replicas of the same workload: an even spread comes first.
    replicas: u32,
    /// How full the node is, in eighths, so that small differences do not decide.
    fullness: u64,
    hash: u64,
    node: &'a NodeId,
}

const FULLNESS_STEPS: u128 = 8;

impl<'a> Ledger<'a> {
    pub(crate) fn of(view: &'a LatticeView) -> Self {
        let account = |session| Account { session, slots: 0, memory: 0, replicas: BTreeMap::new() };
        let nodes = view.sessions.iter().map(|(node, session)| (node, account(&session.record))).collect();
        let mut ledger = Ledger { nodes };
        for (slot, versioned) in &view.slots {
            let record = &versioned.record;
            let spec = view.specs.get(&slot.workload).map(|spec| &spec.record).filter(|spec| spec.uid == record.uid);
            // How much a workload that is gone had reserved is not known any more: until the holder has given it up,
            // which it does at once, nothing more fits there.
            let memory = |node: &NodeId| match spec {
                Some(spec) => spec.spec.limits.memory.0,
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
        let Some(account) = self.nodes.get(node) else { return Some(Reason::Slots { capacity: 0 }) };
        let Session { labels, capacity, draining, .. } = account.session;
        if *draining {
            return Some(Reason::Draining);
        }
        if let Some(requirement) = spec.placement.require.iter().find(|requirement| !requirement.holds(labels)) {
            let value = labels.get(requirement.key()).cloned();
            return Some(Reason::Label { requirement: requirement.clone(), value });
        }
        if account.slots >= capacity.slots {
            return Some(Reason::Slots { capacity: capacity.slots });
        }
        let needed = spec.limits.memory.0;
        if account.memory.saturating_add(needed) > capacity.memory {
            return Some(Reason::Memory { needed, reserved: account.memory, capacity: capacity.memory });
        }
        None
    }

    /// The nodes that can take the slot, best first.
    pub(crate) fn rank(&self, slot: &SlotId, spec: &WorkloadSpec) -> Vec<&'a NodeId> {
        let fitting = self.nodes.iter().filter(|(node, _)| self.refusal(node, spec).is_none());
        let mut scores: Vec<Score<'a>> = fitting
            .map(|(node, account)| Score {
                replicas: account.replicas.get(&slot.workload).copied().unwrap_or(0),
                fullness: account.fullness(),
                hash: rendezvous(slot, node),
                node,
            })
            .collect();
        scores.sort();
        scores.into_iter().map(|score| score.node).collect()
    }

    /// Book a replica on a node.
    pub(crate) fn take(&mut self, node: &NodeId, spec: &'a WorkloadSpec) {
        self.book(node, &spec.name, spec.limits.memory.0);
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &'a NodeId> + '_ {
        self.nodes.keys().copied()
    }

    fn book(&mut self, node: &NodeId, workload: &'a WorkloadName, memory: u64) {
        if let Some(account) = self.nodes.get_mut(node) {
            account.slots = account.slots.saturating_add(1);
            account.memory = account.memory.saturating_add(memory);
            *account.replicas.entry(workload).or_default() += 1;
        }
    }
}

impl Account<'_> {
    fn fullness(&self) -> u64 {
        let step = |used: u64, capacity: u64| match capacity {
            0 => FULLNESS_STEPS,
            _ => FULLNESS_STEPS * u128::from(used) / u128::from(capacity),
        };
        let capacity = &self.session.capacity;
        let fullest = step(self.slots.into(), capacity.slots.into()).max(step(self.memory, capacity.memory));
        u64::try_from(fullest).unwrap_or(u64::MAX)
    }
}

/// Weight of a node for a slot in rendezvous hashing: the least wins. FNV-1a (64 bits) over `WORKLOAD.INDEX/NODE`, then
/// the finaliser of SplitMix64, since the last bytes alone hardly move FNV's upper bits. All nodes must compute the same
/// value whatever their version: changing this is a change of protocol.
pub(crate) fn rendezvous(slot: &SlotId, node: &NodeId) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let text = format!("{slot}/{node}");
    let hash = text.bytes().fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
