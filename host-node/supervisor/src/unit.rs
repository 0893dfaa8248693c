//! The table of transitions of one unit.

use std::time::Duration;

/// Delay before the first retry. It doubles with each failure.
pub const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Longest delay before a retry.
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// What was ready for so long failed for a new reason: its earlier failures are forgotten.
pub const STABLE_AFTER: Duration = Duration::from_secs(60);
const _: () = assert!(STABLE_AFTER.as_secs() >= 2 * BACKOFF_MAX.as_secs(), "a crash loop must not look stable");

/// How far a unit has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Fetching,
    Compiling,
    /// Compiled; must be alone, and is not yet.
    Waiting,
    Warming,
    /// Its instances are made; its readiness probe has not passed yet.
    Probing,
    Ready,
    /// It was ready, and its readiness probe fails.
    Unready,
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
            Phase::Fetching
            | Phase::Compiling
            | Phase::Waiting
            | Phase::Warming
            | Phase::Probing
            | Phase::Backoff { .. } => true,
            Phase::Ready | Phase::Unready | Phase::Draining | Phase::Gone => false,
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
    /// Its readiness probe passes.
    Passed,
    /// Its readiness probe fails.
    NotReady,
    Failed {
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
    Watch,
    Serve,
    Withdraw,
    Drain,
    Retry(Duration),
    /// Drain it, and let another one for the same target begin after the delay.
    Replace(Duration),
    Discard,
}

/// What the table depends on besides phase and input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Traits {
    /// How often it failed in a row before this.
    pub(crate) failures: u32,
    /// It must be alone.
    pub(crate) exclusive: bool,
    /// It has a readiness probe.
    pub(crate) gated: bool,
}

/// The next phase and what to do, or nothing where the input comes too late for the phase.
pub(crate) fn next(
    phase: Phase,
    input: &Input,
    Traits { failures, exclusive, gated }: Traits,
) -> Option<(Phase, Action)> {
    Some(match (phase, input) {
        (Phase::Fetching, Input::Fetched) => (Phase::Compiling, Action::Compile),
        (Phase::Compiling, Input::Compiled) if exclusive => (Phase::Waiting, Action::None),
        (Phase::Compiling, Input::Compiled) => (Phase::Warming, Action::Warm),
        (Phase::Waiting, Input::Alone) => (Phase::Warming, Action::Warm),
        (Phase::Warming, Input::Warmed) if gated => (Phase::Probing, Action::Watch),
        (Phase::Warming, Input::Warmed) => (Phase::Ready, Action::Serve),
        (Phase::Probing | Phase::Unready, Input::Passed) => (Phase::Ready, Action::Serve),
        (Phase::Probing, Input::NotReady) => (Phase::Probing, Action::None),
        (Phase::Ready, Input::NotReady) => (Phase::Unready, Action::Withdraw),
        (Phase::Fetching | Phase::Compiling | Phase::Warming | Phase::Probing, Input::Failed { random }) => {
            (Phase::Backoff { attempt: failures.saturating_add(1) }, Action::Retry(backoff(failures, *random)))
        }
        // It may have requests yet, so it is not the one that tries again.
        (Phase::Ready | Phase::Unready, Input::Failed { random }) => {
            (Phase::Draining, Action::Replace(backoff(failures, *random)))
        }
        // From the start: what is in the caches is found there.
        (Phase::Backoff { .. }, Input::RetryDue) => (Phase::Fetching, Action::Fetch),
        (Phase::Ready | Phase::Unready, Input::Retired) => (Phase::Draining, Action::Drain),
        (phase, Input::Retired) if phase.is_coming() => (Phase::Gone, Action::Discard),
        (Phase::Draining, Input::Drained) => (Phase::Gone, Action::Discard),
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
