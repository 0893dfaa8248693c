//! Whether an adapter still computes what it is told. Pure: it is told what happened and when, and answers when to test
//! again.
//!
//! Only a test decides. Lost devices are a reason for one at once, and no more: a guest can lose as many as it likes by
//! shaders that take too long, and must not be able to take a GPU away from others.

use std::time::Duration;

/// Tests in a row that must fail: what is busy may fail one.
const FAILED_MAX: u32 = 2;
/// Devices that were lost since the last test and make another one due.
const LOSSES_MAX: u64 = 3;
/// Between two tests in any case, unless they come more often anyway.
const PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(crate) struct Health {
    failed: u32,
    why: Option<String>,
    tested: Duration,
    losses: u64,
}

/// What a test changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turned {
    Failing(String),
    Well,
}

impl Health {
    /// Of one that failed before anybody used it.
    pub(crate) fn failing(why: String) -> Self {
        Self { failed: FAILED_MAX, why: Some(why), ..Self::default() }
    }

    /// Why nothing new may come to it, if so.
    pub(crate) fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// Whether it should be tested, where `losses` devices on it were lost in all. `every` is the time between two tests.
    pub(crate) fn is_due(&self, now: Duration, losses: u64, every: Duration) -> bool {
        let is_suspect = losses.saturating_sub(self.losses) >= LOSSES_MAX || (self.failed > 0 && self.why.is_none());
        let wait = if is_suspect { PAUSE.min(every) } else { every };
        now.saturating_sub(self.tested) >= wait
    }

    /// What came of a test that has just ended.
    pub(crate) fn tested(&mut self, result: Result<(), String>, now: Duration, losses: u64) -> Option<Turned> {
        (self.tested, self.losses) = (now, losses);
        match result {
            Ok(()) => {
                self.failed = 0;
                self.why.take().map(|_| Turned::Well)
            }
            Err(why) => {
                self.failed = self.failed.saturating_add(1);
                if self.failed < FAILED_MAX {
                    return None;
                }
                let is_new = self.why.replace(why.clone()).is_none();
                is_new.then_some(Turned::Failing(why))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(60);

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn two_failed_tests_are_needed_and_one_that_passes() {
        let mut health = Health::default();
        assert!(!health.is_due(secs(59), 0, EVERY) && health.is_due(secs(60), 0, EVERY));
        assert_eq!(health.tested(Err("wrong".into()), secs(60), 0), None);
        assert_eq!(health.why(), None);
        assert!(!health.is_due(secs(64), 0, EVERY) && health.is_due(secs(65), 0, EVERY), "soon again");
        assert_eq!(health.tested(Err("wrong".into()), secs(65), 0), Some(Turned::Failing("wrong".into())));
        assert_eq!(health.tested(Err("gone".into()), secs(125), 0), None, "nothing new");
        assert_eq!(health.why(), Some("gone"));
        assert!(!health.is_due(secs(130), 0, EVERY));
        assert_eq!(health.tested(Ok(()), secs(185), 0), Some(Turned::Well));
        assert_eq!(health.why(), None);
        // One bad test between good ones is nothing.
        assert_eq!(health.tested(Err("busy".into()), secs(245), 0), None);
        assert_eq!(health.tested(Ok(()), secs(250), 0), None);
        assert_eq!(health.tested(Err("busy".into()), secs(310), 0), None);
    }

    #[test]
    fn lost_devices_are_a_reason_to_test_and_no_verdict() {
        let mut health = Health::default();
        assert_eq!(health.tested(Ok(()), secs(10), 4), None);
        assert!(!health.is_due(secs(20), 6, EVERY) && health.is_due(secs(20), 7, EVERY));
        assert!(!health.is_due(secs(14), 1_000, EVERY), "not all the time, whatever guests do");
        assert_eq!(health.tested(Ok(()), secs(20), 1_000), None);
        assert_eq!(health.why(), None);
        assert!(!health.is_due(secs(30), 1_002, EVERY));
    }

    #[test]
    fn what_failed_at_the_start_comes_back_when_it_passes() {
        let mut health = Health::failing("it adds wrongly".into());
        assert!(health.is_due(secs(60), 0, EVERY));
        assert_eq!(health.tested(Err("it adds wrongly".into()), secs(60), 0), None);
        assert_eq!(health.tested(Ok(()), secs(120), 0), Some(Turned::Well));
    }
}
