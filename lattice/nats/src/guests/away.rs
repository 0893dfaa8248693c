//! That there is no connection, remembered for a moment and said seldom: guests ask as often as they get requests, and each
//! try takes as long as a server takes not to answer.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Nobody tries again before.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Between two warnings.
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct Away(Mutex<State>);

#[derive(Default)]
struct State {
    failed: Option<Instant>,
    said: Option<Instant>,
    unsaid: u64,
}

impl Away {
    /// A try would come to nothing, like the one a moment ago.
    pub(super) fn is_known(&self, now: Instant) -> bool {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.failed.is_some_and(|failed| now.saturating_duration_since(failed) < TRY_AGAIN_AFTER)
    }

    /// There is something to remember: a try that failed, or a warning after which no other is due.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        let said = self.0.lock().unwrap_or_else(PoisonError::into_inner).said;
        self.is_known(now) || said.is_some_and(|said| now.saturating_duration_since(said) < SAY_AGAIN_AFTER)
    }

    /// A try came to nothing. Where that is to be said now, how many before were not.
    pub(super) fn note(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.failed = Some(now);
        if state.said.is_some_and(|said| now.saturating_duration_since(said) < SAY_AGAIN_AFTER) {
            state.unsaid += 1;
            return None;
        }
        state.said = Some(now);
        Some(std::mem::take(&mut state.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_remembered_for_a_moment_and_said_once() {
        let (away, start) = (Away::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        assert!(!away.is_known(at(0)));
        assert_eq!(away.note(at(0)), Some(0));
        assert!(away.is_known(at(999)) && !away.is_known(at(1_000)));
        assert_eq!((away.note(at(1_000)), away.note(at(29_999))), (None, None));
        assert!(away.is_known(at(30_000)));
        assert_eq!(away.note(at(30_000)), Some(2));
        assert!(away.is_fresh(at(59_999)) && !away.is_fresh(at(60_000)));
    }
}
