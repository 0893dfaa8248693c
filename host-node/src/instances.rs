//! The units that take requests now, by workload. Read on each request, replaced on each change.

use crate::answers::Answers;
use arc_swap::ArcSwap;
use lattice::{
    id::{Generation, SlotId, WorkloadName},
    record::Among,
    report::AnswersReport,
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
    /// Where its answers are counted.
    answers: Option<Arc<Answers>>,
}

/// A unit, and where its answers are counted.
pub(crate) type Picked = (Arc<Unit>, Option<Arc<Answers>>);

#[derive(Default)]
pub(crate) struct ReadyUnits {
    units: ArcSwap<ByWorkload>,
}

impl ReadyUnits {
    /// The least busy ready unit of a workload, or of those of its units that may answer.
    pub(crate) fn pick(&self, workload: &WorkloadName, among: Option<Among>) -> Option<Picked> {
        let units = self.units.load();
        let may_answer = |of: &&Ready| of.unit.is_ready() && among.is_none_or(|among| among.has(of.template));
        let mut ready = units.get(workload)?.iter().filter(may_answer);
        let picked = match ready.clone().nth(1) {
            None => ready.next(),
            Some(_) => ready.min_by_key(|of| of.unit.load()),
        };
        picked.map(|of| (of.unit.clone(), of.answers.clone()))
    }

    /// From now on the slot is served by this unit, which runs this template, or by none.
    pub(crate) fn set(&self, slot: &SlotId, unit: Option<(Generation, Picked)>) {
        self.units.rcu(|before| {
            let mut units = ByWorkload::clone(before);
            let of_workload = units.entry(slot.workload.clone()).or_default();
            of_workload.retain(|other| other.slot != *slot);
            let ready = |(template, (unit, answers)): (Generation, Picked)| Ready {
                slot: slot.clone(),
                template,
                unit,
                answers,
            };
            of_workload.extend(unit.clone().map(ready));
            if of_workload.is_empty() {
                units.remove(&slot.workload);
            }
            units
        });
    }

    /// What was answered, by those that count it.
    pub(crate) fn answers(&self) -> BTreeMap<SlotId, (Generation, AnswersReport)> {
        let units = self.units.load();
        let counted = |of: &Ready| Some((of.slot.clone(), (of.template, of.answers.as_ref()?.report())));
        units.values().flatten().filter_map(counted).collect()
    }

    pub(crate) fn all(&self) -> Vec<(SlotId, Arc<Unit>)> {
        self.units.load().values().flatten().map(|of| (of.slot.clone(), of.unit.clone())).collect()
    }
}
