//! How a change of what replicas run goes on.

use super::Verdict;
use lattice::record::{Rollout, RolloutState};

/// What a rollout let happen it does not take back, and it goes to newer templates only.
pub(super) fn rollout_goes_on(before: Option<&Rollout>, after: Option<&Rollout>) -> Verdict {
    let (Some(before), Some(after)) = (before, after) else { return Ok(()) };
    let is_back = before.uid == after.uid
        && (after.template < before.template || after.template == before.template && after.below < before.below);
    let is_redone = before.is_ahead_of(after) && before.state == RolloutState::Done;
    if is_back || is_redone { Err(format!("rollout: {after:?} after {before:?}")) } else { Ok(()) }
}
