//! What all nodes would do with one view.

use super::Verdict;
use lattice::{
    id::{NodeId, SlotId},
    store::Precondition,
    view::LatticeView,
};
use lattice_planner::{Action, Me, Planner, Situation, plan};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Invariant 7: on the same view all nodes agree who is first for a slot, nobody claims twice what is one, and it does not
/// matter which views were seen before.
pub(crate) fn plans_agree(view: &LatticeView, planner: &mut Planner) -> Verdict {
    let shared = Arc::new(view.clone());
    let mut claims: BTreeMap<SlotId, Vec<(u32, NodeId, Precondition)>> = BTreeMap::new();
    for session in view.sessions.values() {
        let me = Me { node: session.record.node.clone(), incarnation: session.record.incarnation };
        let first = plan(view, &me, Situation::default());
        if first != planner.plan(&shared, &me, Situation::default()) {
            return Err(format!("plan: {} plans the same view differently after others", me.node));
        }
        for action in first.actions {
            if let Action::Claim { slot, expect, rank, .. } = action {
                claims.entry(slot).or_default().push((rank, me.node.clone(), expect));
            }
        }
    }
    for (slot, mut claims) in claims {
        claims.sort_by_key(|(rank, ..)| *rank);
        let ranks: BTreeSet<u32> = claims.iter().map(|(rank, ..)| *rank).collect();
        if ranks.len() != claims.len() {
            return Err(format!("plan: two nodes have the same rank for {slot}: {claims:?}"));
        }
        if !ranks.contains(&0) {
            return Err(format!("plan: nobody is first for {slot}: {claims:?}"));
        }
        if claims.iter().any(|(.., expect)| claims.first().is_none_or(|(.., first)| first != expect)) {
            return Err(format!("plan: {slot} is claimed at different revisions: {claims:?}"));
        }
    }
    Ok(())
}
