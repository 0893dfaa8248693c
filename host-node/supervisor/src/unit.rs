//! The table of transitions of one unit.

use std::time::Duration;

/// Delay before the first retry. It doubles with each failure.
pub const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Longest delay before a retry.
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How far a unit has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Fetching,
    Compiling,
    /// Compiled; must be alone, and is not yet.
    Waiting,
    Warming,
    Ready,
    Draining,
    /// Failed that many times; tries again.
    Backoff {
        attempt: u32,
    },
    Gone,
}

impl Phase {
    /// True on the way to ready.
    pub fn is_coming(self) -> bool {
        match self {
            Phase::Fetching | Phase::Compiling | Phase::Waiting | Phase::Warming | Phase::Backoff { .. } => true,
            Phase::Ready | Phase::Draining | Phase::Gone => false,
        }
    }
}

/// What happens to a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    Fetched,
    Compiled,
    /// All other units of the slot are gone.
    Alone,
    Warmed,
    Failed {
        why: String,
        random: u64,
    },
    RetryDue,
    /// No longer wanted, or replaced by a newer one.
    Retired,
    Drained,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    None,
    Fetch,
    Compile,
    Warm,
    Serve,
    Drain,
    Retry(Duration),
    Discard,
}

/// The next phase and what to do, or nothing where the input comes too late for the phase.
pub(crate) fn next(phase: Phase, input: &Input, failures: u32, exclusive: bool) -> Option<(Phase, Action)> {
    Some(match (phase, input) {
        (Phase::Fetching, Input::Fetched) => (Phase::Compiling, Action::Compile),
        (Phase::Compiling, Input::Compiled) if exclusive => (Phase::Waiting, Action::None),
        (Phase::Compiling, Input::Compiled) => (Phase::Warming, Action::Warm),
        (Phase::Waiting, Input::Alone) => (Phase::Warming, Action::Warm),
        (Phase::Warming, Input::Warmed) => (Phase::Ready, Action::Serve),
        (Phase::Fetching | Phase::Compiling | Phase::Warming | Phase::Ready, Input::Failed { random, .. }) => {
            (Phase::Backoff { attempt: failures.saturating_add(1) }, Action::Retry(backoff(failures, *random)))
        }
        // From the start: what is in the caches is found there.
        (Phase::Backoff { .. }, Input::RetryDue) => (Phase::Fetching, Action::Fetch),
        (Phase::Ready, Input::Retired) => (Phase::Draining, Action::Drain),
        (phase, Input::Retired) if phase.is_coming() => (Phase::Gone, Action::Discard),
        // One that breaks while it drains has nothing left to finish.
        (Phase::Draining, Input::Drained | Input::Failed { .. }) => (Phase::Gone, Action::Discard),
        _ => return None,
    })
}

/// Between half of the doubled delay and all of it, so that nodes that failed together don't retry together.
fn backoff(failures: u32, random: u64) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(2_u32.saturating_pow(failures.saturating_add(1))).min(BACKOFF_MAX);
    let half = doubled / 2;
    let spread = u64::try_from(half.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
    half + Duration::from_millis(random % spread)
}
