//! What a write to a slot may do.

use super::Verdict;
use lattice::{
    gpu::GpuUse,
    id::{GpuId, NodeId, SlotId, WorkloadName},
    record::{Capacity, Phase, Session, Slot},
    spec::{Class, GpuSpec, Requirement, WorkloadSpec},
    view::LatticeView,
};
use lattice_planner::{Standing, explain_vacant};
use std::collections::BTreeMap;

/// One write to a slot, and the store around it.
pub(super) struct SlotWrite<'h> {
    pub(super) slot: &'h SlotId,
    pub(super) before: Option<&'h Slot>,
    pub(super) after: Option<&'h Slot>,
    /// The store before it.
    pub(super) was: &'h LatticeView,
    /// The store with it.
    pub(super) now: &'h LatticeView,
}

impl<'h> SlotWrite<'h> {
    /// The record, if it has another holder than the one before.
    pub(super) fn claimed(&self) -> Option<&'h Slot> {
        self.after.filter(|after| self.before.is_none_or(|before| before.holder != after.holder))
    }
}

/// Invariant 1: who holds a slot keeps it. Another node writes over it only when the holder's session is gone, or when the
/// holder is leaving, or somebody wants the replica in a better place, and it may run twice. `asked` is what the workload ever asked of
/// nodes.
pub(super) fn owner_is_respected(
    write: &SlotWrite<'_>,
    (asked, claims): (&[Requirement], &[GpuSpec]),
    is_moved: impl Fn(&NodeId) -> bool,
) -> Verdict {
    let SlotWrite { slot, was, .. } = write;
    let (Some(before), Some(after)) = (write.before, write.after) else { return Ok(()) };
    if before.holder.node == after.holder.node {
        return Ok(());
    }
    let Some(session) = was.live(&before.holder) else { return Ok(()) };
    let class = was.specs.get(&slot.workload).map(|spec| spec.record.spec.class);
    let is_able = |gpu: &GpuSpec| {
        let mut attempts = gpu.attempts().into_iter();
        attempts.any(|(claim, on_cpu)| session.gpus.iter().any(|offer| claim.lacks(offer, on_cpu).is_none()))
    };
    let is_leaving = session.draining
        || asked.iter().any(|requirement| !requirement.holds(&session.labels))
        || !claims.iter().all(is_able);
    if class != Some(Class::Strict) && (is_leaving || is_moved(&before.holder.node)) {
        return Ok(());
    }
    Err(format!("{} took {slot} from {}, which lives and is not leaving", after.holder.node, before.holder.node))
}

/// Taints of the simulated nodes never change, nor what a workload tolerates: a claim against one is never right.
pub(super) fn taints_are_respected(write: &SlotWrite<'_>) -> Verdict {
    let SlotWrite { slot, now, .. } = write;
    let Some(holder) = write.after.map(|after| &after.holder) else { return Ok(()) };
    let Some(session) = now.live(holder) else { return Ok(()) };
    let Some(spec) = now.specs.get(&slot.workload).map(|spec| &spec.record.spec) else { return Ok(()) };
    let is_new = write.before.is_none_or(|before| before.holder.node != holder.node);
    let tolerated = |taint| spec.placement.tolerate.iter().any(|toleration| toleration.covers(taint));
    match session.taints.iter().find(|taint| !tolerated(taint)).filter(|_| is_new) {
        Some(taint) => Err(format!("taint: {} took {slot} in spite of {taint}", holder.node)),
        None => Ok(()),
    }
}

/// A claim breaks no rule on the view that it was decided on. What that view could not show may break one all the same.
pub(super) fn rules_are_kept(write: &SlotWrite<'_>, claim: &Slot, decided: &LatticeView) -> Verdict {
    let node = &claim.holder.node;
    // The view may have moved on between the plan and the write; then the slot may not be vacant in it any more.
    let Some(explained) = explain_vacant(decided, &write.slot.workload).remove(write.slot) else { return Ok(()) };
    if let Some(Standing::Refused(reason)) = explained.nodes.get(node) {
        return Err(format!("rules: {node} took {}, and knew better: {reason}", write.slot));
    }
    apart_is_kept(write.slot, node, decided)
}

/// Hard relations, spelled out: no replica of a workload that keeps away, or is kept away, lives that close.
fn apart_is_kept(slot: &SlotId, node: &NodeId, view: &LatticeView) -> Verdict {
    let (Some(spec), Some(session)) = (view.specs.get(&slot.workload), view.sessions.get(node)) else { return Ok(()) };
    let label = |session: &Session, over: &str| session.label(over).map(str::to_owned);
    let close = |other: &WorkloadName, over: &str| {
        let mut held = view.slots_of(other).filter(|(held, _)| *held != slot);
        held.find(|(_, held)| {
            let there = view.live(&held.record.holder).and_then(|there| label(there, over));
            there.is_some() && there == label(&session.record, over)
        })
        .map(|(held, _)| held.clone())
    };
    // While a change is rolled out, each replica goes by what it is to run.
    let held = view.slots.get(slot).map(|held| &held.record);
    let wanted = spec.record.wanted(view.rollout(&slot.workload), slot.index, held);
    for (name, other) in &view.specs {
        let hard = |from: &WorkloadSpec, to: &WorkloadName| {
            let hard = from.placement.apart.iter().filter(|apart| apart.hard && apart.workload == *to);
            hard.map(|apart| apart.over.clone()).collect::<Vec<_>>()
        };
        let theirs = hard(&other.record.spec, &slot.workload);
        for over in hard(&wanted.spec, name).into_iter().chain(theirs) {
            if let Some(close) = close(name, &over) {
                return Err(format!("apart: {node} took {slot}, though {close} is as close as {over}"));
            }
        }
    }
    Ok(())
}

/// What a replica reserves of its node, beside a slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reserved {
    pub(super) memory: u64,
    pub(super) millicores: u64,
}

impl Reserved {
    pub(super) fn by(spec: &WorkloadSpec) -> Self {
        Self { memory: spec.memory_reserved(), millicores: spec.reserve.cpu.0 }
    }

    pub(super) fn or_less(self, other: Self) -> Self {
        Self { memory: self.memory.min(other.memory), millicores: self.millicores.min(other.millicores) }
    }
}

/// Invariant 4: at no revision does a node hold more than it declared. `each` is what a replica of each workload reserves.
pub(super) fn capacity_is_kept(view: &LatticeView, each: &BTreeMap<WorkloadName, Reserved>) -> Verdict {
    let mut held: BTreeMap<&NodeId, Capacity> = BTreeMap::new();
    for (slot, record) in &view.slots {
        let holder = &record.record.holder;
        if view.live(holder).is_some() {
            let all = held.entry(&holder.node).or_insert(Capacity { slots: 0, memory: 0, millicores: 0 });
            all.slots += 1;
            if let Some(Reserved { memory, millicores }) = each.get(&slot.workload) {
                all.memory += memory;
                all.millicores += millicores;
            }
        }
    }
    for (node, all) in held {
        let Some(most) = view.sessions.get(node).map(|session| session.record.capacity) else { continue };
        if all.slots > most.slots || all.memory > most.memory || all.millicores > most.millicores {
            return Err(format!("capacity: {node} holds {all:?} of {most:?}"));
        }
    }
    Ok(())
}

/// Invariant 4, of GPUs: at no revision do holders hold more of an offer than there is of it, those included that go on until
/// another is ready. What each holds is in its record, so no spec is asked.
pub(super) fn gpus_are_kept(view: &LatticeView) -> Verdict {
    let mut held: BTreeMap<(&NodeId, &GpuId), GpuUse> = BTreeMap::new();
    for record in view.slots.values().map(|slot| &slot.record) {
        let old =
            record.handover_from.as_ref().filter(|old| record.phase != Phase::Ready && old.node != record.holder.node);
        let both = [(Some(&record.holder), &record.gpu), (old, &record.handover_gpu)];
        for (holder, grant) in both.into_iter().filter_map(|(holder, grant)| Some((holder?, grant.as_ref()?))) {
            if view.live(holder).is_some() {
                let all = held.entry((&holder.node, &grant.offer)).or_default();
                *all = all.plus(grant);
            }
        }
    }
    for ((node, id), all) in held {
        let offers = view.sessions.get(node).map_or(&[][..], |session| session.record.gpus.as_slice());
        if !offers.iter().any(|offer| offer.id == *id && all.fits(offer)) {
            return Err(format!("gpu: {all:?} of {id} on {node} are held, and it has {offers:?}"));
        }
    }
    Ok(())
}
