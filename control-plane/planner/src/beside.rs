//! A second set of replicas beside the first: what is new comes up whole while what was there before answers, all requests go
//! over, and back at once if it is given up. What it shares with changes replica by replica is in `rollout.rs`; here is how it
//! begins and ends.
//!
//! The set that stays is the first one: once the time for a way back is over, its replicas, which get no requests by then, stop
//! and start again with what is new, and when they are ready the second set goes.

use crate::rollout::{Elapsed, HOMELESS_MAX, Step, is_ready, slot};
use lattice::{
    limits::REPLICAS_MAX,
    record::{Rollout, RolloutState, SpecRecord},
    spec::Strategy,
    store::Precondition,
    view::LatticeView,
};
use std::time::Duration;

/// The record that a change begins with which is to have a second set. Nothing where there is none to be: no replica is wanted,
/// or one of the first set runs what is new already, since the store lost how far the change was.
pub(crate) fn begin(view: &LatticeView, spec: &SpecRecord) -> Option<Rollout> {
    let first = spec.spec.replicas;
    if spec.spec.rollout.strategy != Strategy::BlueGreen || first == 0 || first > REPLICAS_MAX / 2 {
        return None;
    }
    let is_new = |index| slot(view, spec, index).is_some_and(|slot| slot.generation == spec.template());
    (!(0..first).any(is_new)).then(|| Rollout { beside: Some(first), weight: Some(0), ..Rollout::new(spec) })
}

/// The second set answers all requests from now on, so that the first one has nothing to lose: each of its replicas stops
/// before the new one starts, and needs no room for both.
pub(crate) fn take_over(done: &mut Rollout) {
    let Some(first) = done.beside else { return };
    done.stop_first = (0..first).collect();
}

/// Whether a change before this one still has its second set: then it ends first.
pub(crate) fn is_of_the_one_before(spec: &SpecRecord, there: &Rollout) -> bool {
    !there.is_of(spec) && spec.beside(Some(there)).is_some()
}

/// The second set goes once the first one runs what was rolled out, as far as its replicas have a node. `spec` is the record
/// that says what that is.
pub(crate) fn end(
    view: &LatticeView,
    spec: &SpecRecord,
    done: &Rollout,
    elapsed: &Elapsed,
    expect: Precondition,
) -> Option<Step> {
    let first = done.beside?;
    let deadline: Duration = spec.spec.rollout.deadline.into();
    let (mut arrived, mut homeless) = (0_usize, 0_usize);
    // Fewer may be asked for by now.
    for index in 0..first.min(spec.spec.replicas) {
        let Some(held) = slot(view, spec, index).filter(|held| view.live(&held.holder).is_some()) else {
            homeless += 1;
            continue;
        };
        if !is_ready(view, held, Some(spec.template())) {
            return None;
        }
        arrived += 1;
    }
    let is_waited = elapsed.without_progress >= HOMELESS_MAX.min(deadline / 2);
    let is_over = match (arrived, homeless) {
        (0, 0) => true, // none is wanted
        (0, _) => false,
        (_, 0) => true,
        _ => is_waited,
    };
    let record = Rollout { beside: None, stop_first: Default::default(), state: RolloutState::Done, ..done.clone() };
    is_over.then_some(Step::Put { record, expect })
}
