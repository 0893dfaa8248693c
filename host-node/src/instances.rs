//! The units that take requests now, by workload. Read on each request, replaced on each change.

use arc_swap::ArcSwap;
use lattice::{
    id::{Generation, SlotId, WorkloadName},
    record::Among,
};
use lattice_runtime::Unit;
use std::{collections::BTreeMap, sync::Arc};

type ByWorkload = BTreeMap<WorkloadName, Vec<Ready>>;

#[derive(Clone)]
struct Ready {
    slot: SlotId,
    /// What it runs.
    template: Generation,
    unit: Arc<Unit>,
}

#[derive(Default)]
pub(crate) struct ReadyUnits {
    units: ArcSwap<ByWorkload>,
}

impl ReadyUnits {
    /// The least busy ready unit of a workload, or of those of its units that may answer.
    pub(crate) fn pick(&self, workload: &WorkloadName, among: Option<Among>) -> Option<Arc<Unit>> {
        let units = self.units.load();
        let may_answer = |of: &&Ready| of.unit.is_ready() && among.is_none_or(|among| among.has(of.template));
        let mut ready = units.get(workload)?.iter().filter(may_answer).map(|of| &of.unit);
        match ready.clone().nth(1) {
            None => ready.next().cloned(),
            Some(_) => ready.min_by_key(|unit| unit.load()).cloned(),
        }
    }

    /// From now on the slot is served by this unit, which runs this template, or by none.
    pub(crate) fn set(&self, slot: &SlotId, unit: Option<(Generation, &Arc<Unit>)>) {
        self.units.rcu(|before| {
            let mut units = ByWorkload::clone(before);
            let of_workload = units.entry(slot.workload.clone()).or_default();
            of_workload.retain(|other| other.slot != *slot);
            let ready =
                |(template, unit): (Generation, &Arc<Unit>)| Ready { slot: slot.clone(), template, unit: unit.clone() };
            of_workload.extend(unit.map(ready));
            if of_workload.is_empty() {
                units.remove(&slot.workload);
            }
            units
        });
    }

    pub(crate) fn all(&self) -> Vec<(SlotId, Arc<Unit>)> {
        self.units.load().values().flatten().map(|of| (of.slot.clone(), of.unit.clone())).collect()
    }
}
