//! What a table is built from. Most changes of a view are renewals of sessions, from which nothing follows for routes.

use crate::zone;
use lattice::{
    record::Session,
    view::{LatticeView, Versioned, changed},
};
use std::sync::Arc;

/// Whether two views have the same table. True is certain; what was written and written back may answer false. Compares
/// addresses for the most part, so that it costs little beside a build.
pub fn reads_alike(before: &LatticeView, after: &LatticeView) -> bool {
    let is_same_life = |one: &Versioned<Session>, other: &Versioned<Session>| {
        let (one, other) = (&one.record, &other.record);
        one.incarnation == other.incarnation && zone::of_session(one) == zone::of_session(other)
    };
    changed(&before.specs, &after.specs, Arc::ptr_eq).is_empty()
        && before.slots.changed(&after.slots).is_empty()
        && changed(&before.sessions, &after.sessions, is_same_life).is_empty()
        && changed(&before.rollouts, &after.rollouts, |one, other| one.record == other.record).is_empty()
}
