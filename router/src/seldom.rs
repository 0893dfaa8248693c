//! Warnings that a stranger can cause with each request must not fill a log: at most one a second of each kind is
//! written, with the number of those that were not.

use crate::body::lock;
use std::{sync::Mutex, time::Duration};

const PAUSE: Duration = Duration::from_secs(1);

/// One kind of warning.
#[derive(Debug, Default)]
pub(crate) struct Seldom(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<Duration>,
    suppressed: u64,
}

impl Seldom {
    /// Whether to write one now; if so, how many were suppressed since the one before.
    pub(crate) fn pass(&self, now: Duration) -> Option<u64> {
        let mut state = lock(&self.0);
        if state.last.is_some_and(|last| now < last.saturating_add(PAUSE)) {
            state.suppressed += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_a_second_and_the_rest_is_counted() {
        let seldom = Seldom::default();
        let passes: Vec<_> =
            [0, 1, 999, 1000, 1001, 5000, 6000].map(|ms| seldom.pass(Duration::from_millis(ms))).into();
        assert_eq!(passes, [Some(0), None, None, Some(2), None, Some(1), Some(0)]);
    }
}
