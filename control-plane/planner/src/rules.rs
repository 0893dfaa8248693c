//! The filters that look at one node alone, and the words in which a node is refused. Those that look at where other
//! replicas are, are in `contest.rs`.

use crate::{gpus, nodes::Account};
use lattice::{
    id::{GpuId, NodeId, WorkloadName},
    record::{Session, SpecRecord},
    spec::{Effect, GpuMiss, LABEL_NODE, Requirement, Taint, WorkloadSpec},
    units::{Bytes, Millicores},
};
use std::fmt;

/// Why a node can't take a replica. Its text completes "`node`: …".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    Draining,
    /// Only what was there comes back.
    Cordoned,
    /// It has the replica, which is to move to a better place.
    Moves,
    Tainted {
        taint: Taint,
    },
    Label {
        requirement: Requirement,
        value: Option<String>,
    },
    /// It is not the node that the spec names.
    Pinned {
        node: NodeId,
    },
    /// It does not offer what is imported; of the same package it has these.
    Import {
        needed: String,
        offered: Vec<String>,
    },
    /// It can't have a volume, by name.
    Volume {
        name: String,
    },
    /// No replica of another workload is close.
    Near {
        workload: WorkloadName,
        over: String,
        value: Option<String>,
    },
    /// A replica of another workload, or of the same one, is close.
    Apart {
        workload: WorkloadName,
        over: String,
        value: String,
    },
    /// It lacks the label that replicas must be spread over.
    Unspread {
        over: String,
    },
    /// Where it is there are `count` replicas, and more than `most` would be too many.
    Spread {
        over: String,
        value: String,
        count: u32,
        most: u32,
        /// By its share, rather than for an even spread.
        is_share: bool,
    },
    Slots {
        capacity: u32,
    },
    Memory {
        needed: u64,
        reserved: u64,
        capacity: u64,
    },
    /// Its processors are given away.
    Cpu {
        needed: Millicores,
        reserved: Millicores,
        capacity: Millicores,
    },
    /// It offers no GPU, or none that fulfils the claim as things are: what keeps the claim from each.
    Gpu {
        misses: Vec<(GpuId, GpuMiss)>,
    },
    /// Its room for empty volumes is given away.
    Disk {
        needed: u64,
        reserved: u64,
        capacity: u64,
    },
}

impl Reason {
    /// The rule that refuses, by the name that `docs/placement.md` explains it under.
    pub fn rule(&self) -> &'static str {
        match self {
            Reason::Draining => "drain",
            Reason::Cordoned => "cordon",
            Reason::Moves => "rebalance",
            Reason::Tainted { .. } => "taint",
            Reason::Label { .. } => "require",
            Reason::Pinned { .. } => "node",
            Reason::Import { .. } => "imports",
            Reason::Volume { .. } | Reason::Disk { .. } => "volume",
            Reason::Near { .. } => "near",
            Reason::Apart { .. } => "apart",
            Reason::Unspread { .. } | Reason::Spread { .. } => "spread",
            Reason::Slots { .. } => "slots",
            Reason::Memory { .. } => "memory",
            Reason::Cpu { .. } => "cpu",
            Reason::Gpu { misses } => nearest(misses).map_or("gpu", |(_, miss)| miss.rule()),
        }
    }
}

/// What came closest: the predicates are tried in the order of the variants.
fn nearest(misses: &[(GpuId, GpuMiss)]) -> Option<&(GpuId, GpuMiss)> {
    misses.iter().max_by_key(|(_, miss)| miss.stage())
}

/// `on this node`, `in zone eu-1`.
fn where_(over: &str, value: &str) -> String {
    if over == LABEL_NODE { "on this node".into() } else { format!("in {over} {value}") }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Draining => f.write_str("is draining"),
            Reason::Cordoned => f.write_str("is cordoned"),
            Reason::Moves => f.write_str("is what it moves away from"),
            Reason::Tainted { taint } => write!(f, "has the taint {taint}, which is not tolerated"),
            Reason::Label { requirement, value: Some(value) } => {
                write!(f, "its label {} is {value:?}; required: {requirement}", requirement.key())
            }
            Reason::Label { requirement, value: None } => {
                write!(f, "has no label {}; required: {requirement}", requirement.key())
            }
            Reason::Pinned { node } => write!(f, "is not {node}, the node that is asked for"),
            Reason::Import { needed, offered } => {
                write!(f, "does not offer {needed}, which is imported; ")?;
                match offered.as_slice() {
                    [] => f.write_str("it offers nothing of that package"),
                    offered => write!(f, "it offers {}", offered.join(", ")),
                }
            }
            Reason::Volume { name } => {
                write!(f, "can't have volume {name}: its operator did not allow the directory, or so much room")
            }
            Reason::Near { workload, over, value: Some(value) } => {
                write!(f, "no replica of {workload} is {}", where_(over, value))
            }
            Reason::Near { over, value: None, .. } | Reason::Unspread { over } => write!(f, "has no label {over}"),
            Reason::Apart { workload, over, value } => {
                write!(f, "a replica of {workload} is {}", where_(over, value))
            }
            Reason::Spread { over, value, most: 0, is_share: true, .. } => {
                write!(f, "no replica is to be {}: the spread over {over} gives it no share", where_(over, value))
            }
            Reason::Spread { over, value, count, most, is_share } => {
                let (place, be) = (where_(over, value), if *count == 1 { "is" } else { "are" });
                match is_share {
                    true => write!(f, "{count} {be} {place} already; its share of the spread over {over} is {most}"),
                    false => write!(f, "{count} {be} {place} already; at most {most} for an even spread over {over}"),
                }
            }
            Reason::Slots { capacity } => write!(f, "has no slot left of its {capacity}"),
            Reason::Memory { needed, reserved, capacity } => {
                // Rounded down: a machine's memory seldom is a whole number of anything.
                let mib = |bytes: &u64| Bytes::mib(bytes >> 20);
                let (needed, reserved, capacity) = (mib(needed), mib(reserved), mib(capacity));
                write!(f, "has too little memory left: {reserved} of {capacity} are reserved, {needed} are needed")
            }
            Reason::Cpu { needed, reserved: _, capacity: Millicores(0) } => {
                write!(
                    f,
                    "offers no processors to reserve: {needed} are needed; it is of an older version, or has --cpus 0"
                )
            }
            Reason::Cpu { needed, reserved, capacity } => {
                write!(f, "has too few processors left: {reserved} of {capacity} are reserved, {needed} are needed")
            }
            Reason::Gpu { misses } if misses.is_empty() => f.write_str("offers no GPU"),
            Reason::Gpu { misses } => {
                let mut misses: Vec<&(GpuId, GpuMiss)> = misses.iter().collect();
                misses.sort_by_key(|(_, miss)| std::cmp::Reverse(miss.stage()));
                let told = misses.iter().map(|(offer, miss)| format!("{miss} on {offer}"));
                f.write_str(&told.collect::<Vec<_>>().join("; "))
            }
            Reason::Disk { needed, reserved, capacity } => {
                let (needed, reserved, capacity) = (Bytes(*needed), Bytes(*reserved), Bytes(*capacity));
                write!(
                    f,
                    "has too little room for volumes left: {reserved} of {capacity} are reserved, {needed} are needed"
                )
            }
        }
    }
}

/// What makes a replica leave a node, or never come: nothing that changes with where other replicas are.
pub(crate) fn expels(session: &Session, record: &SpecRecord) -> Option<Reason> {
    let spec = &record.spec;
    drains(session)
        .or_else(|| lacks_label(session, spec))
        .or_else(|| is_not_pinned(session, spec))
        .or_else(|| is_tainted(session, spec, &[Effect::NoRun]))
        .or_else(|| lacks_import(session, record))
        .or_else(|| lacks_volume(session, spec))
        .or_else(|| gpus::lacks(&session.gpus, spec.gpu.as_ref()?))
}

/// What keeps new replicas away from a node, though those that are there may stay.
pub(crate) fn refuses(account: &Account, session: &Session, record: &SpecRecord) -> Option<Reason> {
    expels(session, record)
        .or_else(|| account.cordoned.then_some(Reason::Cordoned))
        .or_else(|| is_tainted(session, &record.spec, &[Effect::NoPlace]))
}

fn drains(session: &Session) -> Option<Reason> {
    session.draining.then_some(Reason::Draining)
}

fn lacks_label(session: &Session, spec: &WorkloadSpec) -> Option<Reason> {
    let requirement = spec.placement.require.iter().find(|requirement| !requirement.holds(&session.labels))?;
    let value = session.labels.get(requirement.key()).cloned();
    Some(Reason::Label { requirement: requirement.clone(), value })
}

fn is_not_pinned(session: &Session, spec: &WorkloadSpec) -> Option<Reason> {
    let node = spec.placement.node.as_ref().filter(|node| **node != session.node)?;
    Some(Reason::Pinned { node: node.clone() })
}

fn is_tainted(session: &Session, spec: &WorkloadSpec, effects: &[Effect]) -> Option<Reason> {
    let is_tolerated = |taint: &&Taint| spec.placement.tolerate.iter().any(|toleration| toleration.covers(taint));
    let mut taints = session.taints.iter().filter(|taint| effects.contains(&taint.effect));
    let taint = taints.find(|taint| !is_tolerated(taint))?;
    Some(Reason::Tainted { taint: taint.clone() })
}

/// A node that does not say what it offers is not doubted, and neither is a workload that does not say what it needs.
fn lacks_import(session: &Session, record: &SpecRecord) -> Option<Reason> {
    let offers = session.offers.as_ref()?;
    let needed = offers.lack(&record.recipe.needs)?;
    let offered = offers.near(needed).into_iter().map(str::to_owned).collect();
    Some(Reason::Import { needed: needed.to_owned(), offered })
}

fn lacks_volume(session: &Session, spec: &WorkloadSpec) -> Option<Reason> {
    session.volumes.lacks(spec).map(|volume| Reason::Volume { name: volume.name.to_string() })
}
