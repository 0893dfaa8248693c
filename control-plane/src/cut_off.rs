//! What a node goes on running although it may hear that others hold it: decided from the view alone, without clock or IO.
//!
//! Where the network swallows only what a node sends, the node still hears all news: that its session was removed, and that other
//! nodes took its replicas over. It can send nobody a request either, so to stop them would leave its own clients without an answer
//! that is there. Of class `available` one replica too many does no harm, and a node that hears nothing runs it on as well. What is
//! strict has stopped at the fence, before others could take it.
//!
//! Once its session is written again, the node can reach those who hold them, and stops its own.

use lattice::{
    host::{Assignment, Observed},
    id::SlotId,
    record::{Holder, Phase},
    spec::Class,
    view::LatticeView,
};
use std::collections::BTreeMap;

/// What `applied` to the host last has beside what the plan wants. `is_current`: the session was renewed within the fence time.
/// Each goes on as it was: to be given something else it would have to be held.
pub(crate) fn kept<'a>(
    view: &'a LatticeView,
    me: &'a Holder,
    is_current: bool,
    applied: &'a BTreeMap<SlotId, Assignment>,
    observed: &'a BTreeMap<SlotId, Observed>,
) -> impl Iterator<Item = (&'a SlotId, &'a Assignment)> {
    let is_cut_off = !is_current && view.live(me).is_none();
    applied.iter().filter(move |(slot, assignment)| {
        let answers = observed.get(slot).is_some_and(|now| now.uid == assignment.uid && now.phase == Phase::Ready);
        is_cut_off && answers && is_wanted(view, slot, assignment)
    })
}

/// Whether the workload is still the one that it was made for, and has so many replicas.
fn is_wanted(view: &LatticeView, slot: &SlotId, assignment: &Assignment) -> bool {
    let Some(spec) = view.specs.get(&slot.workload).map(|spec| &spec.record) else { return false };
    let Some(template) = view.wanted(slot) else { return false };
    let is_available = |class: Class| class == Class::Available;
    spec.uid == assignment.uid
        && (slot.index < view.replicas(spec) || spec.spec.placement.daemon)
        && is_available(template.spec.class)
        && is_available(assignment.spec.class)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::{
        id::{Generation, NodeId, Revision, WorkloadName},
        record::{Slot, SpecRecord},
        view::Versioned,
    };
    use std::sync::Arc;

    const UID: u128 = 7;

    fn holder(node: &str) -> Holder {
        Holder { node: NodeId::new(node).unwrap(), incarnation: uuid::Uuid::from_u128(1) }
    }

    fn put(view: &mut LatticeView, yaml: &str, uid: u128) -> SpecRecord {
        let yaml = format!("name: w\ncomponents: [{{name: w, source: 'sha256:{}'}}]\n{yaml}", "0".repeat(64));
        let spec = lattice::spec::parse(yaml.as_bytes()).unwrap();
        let record = SpecRecord::new(spec, uuid::Uuid::from_u128(uid), Generation::FIRST);
        let name = WorkloadName::new("w").unwrap();
        view.specs.insert(name, Arc::new(Versioned { record: record.clone(), revision: Revision(1) }));
        record
    }

    fn hold(view: &mut LatticeView, slot: &SlotId, holder: Holder) {
        let record = Slot {
            holder,
            uid: uuid::Uuid::from_u128(UID),
            generation: Generation::FIRST,
            phase: Phase::Starting,
            message: None,
            failures: None,
            handover_from: None,
            gpu: None,
            handover_gpu: None,
            nonce: uuid::Uuid::nil(),
            claimed_at: 0,
            since: 0,
        };
        view.slots.insert(slot.clone(), Versioned { record, revision: Revision(2) });
    }

    /// The second replica of `w` ran here with `then`; another node took it over; `now` is what the lattice wants. Whether it
    /// goes on here.
    fn goes_on(then: &str, now: Option<(&str, u128)>, change: impl FnOnce(&mut Case)) -> bool {
        let slot = SlotId::new(WorkloadName::new("w").unwrap(), 1);
        let assignment = Assignment::new(&put(&mut LatticeView::default(), then, UID));
        let mut view = LatticeView::default();
        if let Some((now, uid)) = now {
            put(&mut view, now, uid);
        }
        hold(&mut view, &slot, holder("n2"));
        let (uid, generation, phase) = (assignment.uid, assignment.generation, Phase::Ready);
        let runs = Observed { uid, generation, phase, message: None, failures: 0, configs: Arc::default() };
        let mut case = Case { view, is_current: false, slot: slot.clone(), runs: Some(runs) };
        change(&mut case);
        let applied = BTreeMap::from([(slot.clone(), assignment)]);
        let runs = case.runs.into_iter().map(|runs| (slot.clone(), runs)).collect();
        let me = holder("n1");
        kept(&case.view, &me, case.is_current, &applied, &runs).count() == 1
    }

    struct Case {
        view: LatticeView,
        is_current: bool,
        slot: SlotId,
        runs: Option<Observed>,
    }

    #[test]
    fn what_is_available_and_wanted_goes_on_while_the_node_is_cut_off() {
        let (two, strict) = ("replicas: 2\n", "replicas: 2\nclass: strict\n");
        let daemon = "placement: {daemon: true}\n";
        for (what, then, now, expect) in [
            ("as it was", two, Some((two, UID)), true),
            ("another version of it", two, Some(("replicas: 3\n", UID)), true),
            ("fewer replicas", two, Some(("replicas: 1\n", UID)), false),
            ("deleted", two, None, false),
            ("deleted, and put again", two, Some((two, 8)), false),
            ("strict", strict, Some((strict, UID)), false),
            ("made strict", two, Some((strict, UID)), false),
            ("made available, which what runs is not", strict, Some((two, UID)), false),
            ("one on each node", daemon, Some((daemon, UID)), true),
        ] {
            assert_eq!(goes_on(then, now, |_| {}), expect, "{what}");
        }
    }

    #[test]
    fn a_member_runs_what_the_plan_says_and_nothing_else_is_started() {
        let two = "replicas: 2\n";
        let goes_on = |change: fn(&mut Case)| goes_on(two, Some((two, UID)), change);
        assert!(!goes_on(|case| case.is_current = true), "its session is written again");
        assert!(!goes_on(|case| {
            let me = holder("n1");
            let session = lattice::testing::session(me.node.clone(), me.incarnation);
            case.view.sessions.insert(me.node, Versioned { record: session, revision: Revision(3) });
        }));
        assert!(!goes_on(|case| case.runs = None), "it does not run");
        assert!(!goes_on(|case| case.runs.as_mut().unwrap().phase = Phase::Failed));
        assert!(!goes_on(|case| case.runs.as_mut().unwrap().uid = uuid::Uuid::nil()));
        assert!(goes_on(|case| drop(case.view.slots.remove(&case.slot))), "nobody holds it yet");
    }
}
