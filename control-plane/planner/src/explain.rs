//! Why a slot is where it is, and where a spec's replicas would go. For people: status and dry runs.

use crate::{
    ledger::{Ledger, Reason},
    placement,
};
use lattice::{
    ctl::{PlannedSlot, Refusal},
    id::{Generation, NodeId, Revision, SlotId, WorkloadName},
    record::SpecRecord,
    spec::WorkloadSpec,
    view::{LatticeView, Versioned},
};
use std::{collections::BTreeMap, sync::Arc};

/// How the nodes stand to one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub slot: SlotId,
    /// The living node that holds it, if any.
    pub holder: Option<NodeId>,
    /// Why nobody may touch the slot, if so.
    pub blocked: Option<String>,
    pub nodes: BTreeMap<NodeId, Standing>,
}

/// How one node stands to a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    Holds,
    /// 0 is first.
    Rank(u32),
    Refused(Reason),
}

impl Explanation {
    /// Nodes that can't take the slot, with the reason in words.
    pub fn refused(&self) -> Vec<Refusal> {
        let refused = self.nodes.iter().filter_map(|(node, standing)| match standing {
            Standing::Refused(reason) => Some(Refusal { node: node.clone(), reason: reason.to_string() }),
            Standing::Holds | Standing::Rank(_) => None,
        });
        refused.collect()
    }

    /// The node that takes the slot next, where it is vacant.
    pub fn first(&self) -> Option<&NodeId> {
        self.nodes.iter().find(|(_, standing)| **standing == Standing::Rank(0)).map(|(node, _)| node)
    }
}

/// How every node stands to a slot. Empty for a slot that no spec wants.
pub fn explain(view: &LatticeView, slot: &SlotId) -> Explanation {
    let mut all = explain_workload(view, &slot.workload);
    all.remove(slot).unwrap_or_else(|| Explanation {
        slot: slot.clone(),
        holder: None,
        blocked: None,
        nodes: BTreeMap::new(),
    })
}

/// How every node stands to each wanted slot of a workload: one walk for all of them.
pub fn explain_workload(view: &LatticeView, workload: &WorkloadName) -> BTreeMap<SlotId, Explanation> {
    let Some(spec) = view.specs.get(workload).map(|spec| &spec.record.spec) else { return BTreeMap::new() };
    let mut explanations = BTreeMap::new();
    let ledger = placement::walk(view, placement::vacancies(view), |vacancy, ranking, ledger| {
        if vacancy.slot.workload == *workload {
            explanations.insert(vacancy.slot.clone(), explain_one(view, &vacancy.slot, spec, &ranking.all(), ledger));
        }
    });
    for index in 0..spec.replicas {
        let slot = SlotId::new(workload.clone(), index);
        let not_vacant = || explain_one(view, &slot, spec, &[], &ledger);
        explanations.entry(slot.clone()).or_insert_with(not_vacant);
    }
    explanations
}

/// Where each replica would run if the spec were put now. What runs stays; what other workloads wait for is counted.
pub fn preview(view: &LatticeView, spec: &WorkloadSpec) -> Vec<PlannedSlot> {
    let mut after = view.clone();
    let before = view.specs.get(&spec.name);
    let uid = before.map_or(uuid::Uuid::nil(), |before| before.record.uid);
    let generation = before.map_or(Generation::FIRST, |before| before.record.generation.next());
    let record = SpecRecord::new(spec.clone(), uid, generation);
    after.specs.insert(spec.name.clone(), Arc::new(Versioned { record, revision: Revision(0) }));
    let planned = explain_workload(&after, &spec.name).into_iter().map(|(slot, explanation)| {
        // A holder that is leaving counts as one that stays where nobody else can take the slot.
        let node = explanation.first().or(explanation.holder.as_ref()).cloned();
        PlannedSlot {
            replica: slot.index,
            stays: node.is_some() && node == explanation.holder,
            refused: if node.is_none() { explanation.refused() } else { Vec::new() },
            node,
        }
    });
    planned.collect()
}

fn explain_one<'a>(
    view: &'a LatticeView,
    slot: &SlotId,
    spec: &WorkloadSpec,
    ranking: &[&'a NodeId],
    ledger: &Ledger<'a>,
) -> Explanation {
    let holder = view.slots.get(slot).map(|slot| &slot.record.holder);
    let blocked = if placement::is_slot_corrupt(view, slot) {
        Some(format!("the record slot.{slot} does not parse"))
    } else {
        let unknown = holder.filter(|holder| placement::occupancy(view, holder) == placement::Occupancy::Unknown);
        unknown.map(|holder| format!("the record session.{} does not parse", holder.node))
    };
    let holder = holder.filter(|holder| view.live(holder).is_some()).map(|holder| holder.node.clone());
    let ranks = ranking.iter().zip(0..).map(|(node, rank)| ((*node).clone(), Standing::Rank(rank)));
    let mut nodes: BTreeMap<NodeId, Standing> = ranks.collect();
    for node in ledger.nodes() {
        if nodes.contains_key(node) {
            continue;
        }
        if holder.as_ref() == Some(node) {
            nodes.insert(node.clone(), Standing::Holds);
        } else if let Some(reason) = ledger.refusal(node, spec) {
            nodes.insert(node.clone(), Standing::Refused(reason));
        }
    }
    Explanation { slot: slot.clone(), holder, blocked, nodes }
}
