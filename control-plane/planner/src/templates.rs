//! What a replica reserves while it changes from one template to the next, and when it has to wait for room.

use crate::{ledger::Need, retreat::Way};
use lattice::{
    id::SlotId,
    record::{Left, Phase, Rollout, Slot, SpecRecord},
    spec::Class,
    view::LatticeView,
};

/// What a replica reserves on its node: while one template serves and the next comes up beside it, what both do. `way` is how
/// it comes back, where it serves what is given up.
pub(crate) fn reserved(
    spec: &SpecRecord,
    rollout: Option<&Rollout>,
    index: u32,
    record: &Slot,
    way: Option<Way>,
) -> Need {
    let wanted = spec.wanted(rollout, index, Some(record));
    let needed = Need::of(&wanted.spec);
    let runs = match spec.of_template(record.generation) {
        Some(runs) => Some(Need::of(&runs.spec)).filter(|_| runs.template() != wanted.template()),
        None => spec.left(record.generation).map(|left| {
            let Left { template: _, memory, volumes, millicores } = *left;
            Need { memory, disk: volumes, cpu: millicores }
        }),
    };
    match runs {
        Some(runs) if matches!(way, Some(Way::Waits | Way::StopFirst)) => needed.or_more(runs),
        Some(runs) if doubles(spec, rollout, index, record) => needed.plus(runs),
        Some(runs) => needed.or_more(runs),
        None => needed,
    }
}

/// Whether a replica that serves one template is to bring up another one beside it.
fn doubles(spec: &SpecRecord, rollout: Option<&Rollout>, index: u32, record: &Slot) -> bool {
    let wanted = spec.wanted(rollout, index, Some(record));
    record.phase == Phase::Ready
        && record.generation != wanted.template()
        && wanted.spec.class == Class::Available
        && !stops_first(spec, rollout, index)
}

/// Whether one of the templates claims something of a GPU. A GPU need not have room for two of a replica, so one stops before
/// the other starts.
pub(crate) fn claims_gpu(spec: &SpecRecord) -> bool {
    spec.spec.gpu.is_some() || spec.stable.as_deref().is_some_and(|stable| stable.spec.gpu.is_some())
}

/// Whether what serves in a slot stops before the newest template starts there.
pub(crate) fn stops_first(spec: &SpecRecord, rollout: Option<&Rollout>, index: u32) -> bool {
    claims_gpu(spec) || rollout.is_some_and(|rollout| rollout.is_of(spec) && rollout.stop_first.contains(&index))
}

/// What a replica goes on with, and what this leaves free, where the newest template has to wait until there is
/// room for both. The way back to what is stable waits for its turn, and not for room.
pub(crate) fn can_wait<'v>(view: &'v LatticeView, slot: &SlotId, record: &Slot) -> Option<(&'v SpecRecord, Need)> {
    let spec = view.specs.get(&slot.workload).map(|spec| &spec.record).filter(|spec| spec.uid == record.uid)?;
    let stable = spec.stable.as_deref().filter(|stable| stable.template() == record.generation)?;
    let rollout = view.rollout(&slot.workload);
    let wanted = spec.wanted(rollout, slot.index, Some(record));
    let waits = wanted.template() == spec.template() && doubles(spec, rollout, slot.index, record);
    waits.then(|| (stable, Need::of(&wanted.spec)))
}
