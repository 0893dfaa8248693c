//! The units that take requests now, by workload. Read on each request, replaced on each change.

use arc_swap::ArcSwap;
use lattice::id::{SlotId, WorkloadName};
use lattice_runtime::Unit;
use std::{collections::BTreeMap, sync::Arc};

type ByWorkload = BTreeMap<WorkloadName, Vec<(SlotId, Arc<Unit>)>>;

#[derive(Default)]
pub(crate) struct ReadyUnits {
    units: ArcSwap<ByWorkload>,
}

impl ReadyUnits {
    /// The least busy ready unit of a workload.
    pub(crate) fn pick(&self, workload: &WorkloadName) -> Option<Arc<Unit>> {
        let units = self.units.load();
        let ready = units.get(workload)?.iter().filter(|(_, unit)| unit.is_ready());
        match ready.clone().nth(1) {
            None => ready.map(|(_, unit)| unit.clone()).next(),
            Some(_) => ready.min_by_key(|(_, unit)| unit.load()).map(|(_, unit)| unit.clone()),
        }
    }

    /// From now on the slot is served by this unit, or by none.
    pub(crate) fn set(&self, slot: &SlotId, unit: Option<&Arc<Unit>>) {
        self.units.rcu(|before| {
            let mut units = ByWorkload::clone(before);
            let of_workload = units.entry(slot.workload.clone()).or_default();
            of_workload.retain(|(other, _)| other != slot);
            of_workload.extend(unit.map(|unit| (slot.clone(), unit.clone())));
            if of_workload.is_empty() {
                units.remove(&slot.workload);
            }
            units
        });
    }

    pub(crate) fn all(&self) -> Vec<(SlotId, Arc<Unit>)> {
        self.units.load().values().flatten().cloned().collect()
    }
}
