//! Whether all that was asked for is there, and nothing else.

use super::Verdict;
use crate::node::SimNode;
use lattice::{
    id::{Generation, SlotId},
    record::{Holder, Phase, Slot},
    view::LatticeView,
};
use lattice_planner::{claimable, explain_vacant, wanted};
use std::collections::{BTreeMap, BTreeSet};

/// Life and generation of the workload, by who runs which slot of it.
type Replicas = BTreeMap<(Holder, SlotId), (uuid::Uuid, Generation)>;

/// Invariant 5: what was asked for runs, and nothing else.
pub(crate) fn is_converged(view: &LatticeView, nodes: &[SimNode]) -> Verdict {
    let claimable = claimable(view);
    let mut ready = Replicas::new();
    for (name, spec) in &view.specs {
        let spec = &spec.record;
        for index in wanted(view, name) {
            let slot = SlotId::new(name.clone(), index);
            let Some(record) = view.slots.get(&slot).map(|slot| &slot.record) else {
                if claimable.contains(&slot) {
                    return Err(format!("{slot} is vacant, and could be taken"));
                }
                continue;
            };
            if view.live(&record.holder).is_none() {
                if claimable.contains(&slot) {
                    return Err(format!("the holder of {slot} is dead, and it could be taken"));
                }
                continue;
            }
            let is_new = (record.uid, record.generation) == (spec.uid, spec.template());
            if !is_new || record.phase != Phase::Ready || record.handover_from.is_some() {
                let Slot { holder, generation, phase, .. } = record;
                return Err(format!("{slot} is {phase:?} at generation {generation} on {}", holder.node));
            }
            ready.insert((record.holder.clone(), slot), (spec.uid, spec.template()));
        }
    }
    if let Some(rebalance) = &view.rebalance {
        return Err(format!("replicas are being moved: {:?}", rebalance.record));
    }
    for name in view.specs.keys() {
        let vacant = explain_vacant(view, name);
        if let Some(explained) = vacant.values().find(|explained| !explained.displaces.is_empty()) {
            return Err(format!("{} waits for the room of {:?}", explained.slot, explained.displaces));
        }
    }
    if let Some(slot) = view.slots.keys().find(|slot| !wanted(view, &slot.workload).contains(&slot.index)) {
        return Err(format!("{slot} is recorded and not wanted"));
    }
    for (name, _) in view.specs.iter().filter(|(_, spec)| spec.record.spec.placement.daemon) {
        let mut nodes = BTreeSet::new();
        if let Some((slot, held)) = view.slots_of(name).find(|(_, held)| !nodes.insert(&held.record.holder.node)) {
            return Err(format!("{slot} is the second one of a daemon on {}", held.record.holder.node));
        }
    }
    // Who is not there any more must be known to be gone.
    if let Some(node) = nodes.iter().find(|node| !node.takes_part() && view.sessions.contains_key(&node.id)) {
        return Err(format!("{} is gone and has a session", node.id));
    }
    let mut running = Replicas::new();
    for node in nodes.iter().filter(|node| node.takes_part()) {
        let Some(session) = view.sessions.get(&node.id) else { return Err(format!("{} has no session", node.id)) };
        let holder = Holder { node: node.id.clone(), incarnation: session.record.incarnation };
        for (slot, run) in node.host().map(|host| host.running()).unwrap_or_default() {
            if !run.is_ready {
                return Err(format!("{slot} is not ready on {}", node.id));
            }
            running.insert((holder.clone(), slot), (run.uid, run.generation));
        }
    }
    if running != ready {
        let only = |these: &Replicas, those: &Replicas| -> Vec<String> {
            let only = these.iter().filter(|(key, value)| those.get(key) != Some(value));
            only.map(|((holder, slot), _)| format!("{slot} on {}", holder.node)).collect()
        };
        return Err(format!(
            "runs and is not recorded: {:?}; the other way: {:?}",
            only(&running, &ready),
            only(&ready, &running)
        ));
    }
    Ok(())
}

/// At rest every node sees the store as it is, apart from renewals that are on their way.
pub(crate) fn views_agree(view: &LatticeView, nodes: &[SimNode]) -> Verdict {
    for node in nodes.iter().filter(|node| node.takes_part()) {
        let Some(seen) = node.view() else { return Err(format!("{} is not running", node.id)) };
        if seen.slots != view.slots || seen.specs != view.specs || !seen.sessions.keys().eq(view.sessions.keys()) {
            return Err(format!("{} sees another lattice than the store holds", node.id));
        }
    }
    Ok(())
}
