//! When a node does next what all nodes do: renews its session, or asks once more for all that the store holds. Nodes that were started at the same moment, or that an election held up together, would
//! go on renewing at the same moment: each renewal goes to all nodes, so all of them at once are a square of messages at once.

use lattice::store::Rng;
use std::time::Duration;

pub(crate) struct Pace {
    renew: Duration,
    /// The last renewal was at a moment of this node's own.
    is_own: bool,
}

impl Pace {
    /// `renew`: between two renewals, at most.
    pub(crate) fn new(renew: Duration) -> Self {
        Self { renew, is_own: false }
    }

    /// For how long to wait after a write.
    pub(crate) fn after(&mut self, is_written: bool, rng: &dyn Rng) -> Duration {
        match (is_written, self.is_own) {
            // What held this one up may have held up all.
            (false, _) => {
                self.is_own = false;
                self.renew / 8 + rng.up_to(self.renew / 4)
            }
            (true, false) => {
                self.is_own = true;
                rng.up_to(self.renew)
            }
            (true, true) => self.renew,
        }
    }
}

/// Waits between tries that get longer, each by chance: a store that can't answer all at once is not asked by all again at once.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failed: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_secs(8);

    pub(crate) fn succeeded(&mut self) {
        self.failed = 0;
    }

    /// For how long to wait after one more failure: from half of the limit to all of it.
    pub(crate) fn after_failure(&mut self, rng: &dyn Rng) -> Duration {
        let limit = Self::FIRST.saturating_mul(1 << self.failed.min(8)).min(Self::LONGEST);
        self.failed = self.failed.saturating_add(1);
        limit / 2 + rng.up_to(limit / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Numbers(AtomicU64);

    impl Rng for Numbers {
        fn u64(&self) -> u64 {
            // Knuth's: the upper bits are good enough to spread by.
            let step = |n: u64| Some(n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).unwrap_or_default() >> 16
        }
    }

    /// How many of a thousand nodes renew in the busiest tenth of a period, in the minute after all of them wrote (or failed to)
    /// at the same moment.
    fn busiest(rng: &Numbers, first_is_written: bool) -> usize {
        const RENEW: Duration = Duration::from_secs(3);
        let mut at = vec![0; 60_000 / 300 + 1];
        for _ in 0..1000 {
            let mut pace = Pace::new(RENEW);
            let mut now = pace.after(first_is_written, rng);
            while now < Duration::from_secs(60) {
                if now > Duration::from_secs(6) {
                    at[usize::try_from(now.as_millis() / 300).unwrap()] += 1;
                }
                let wait = pace.after(true, rng);
                assert!(wait <= RENEW, "a node is alive as long as it renews");
                now += wait;
            }
        }
        at.into_iter().max().unwrap()
    }

    #[test]
    fn nodes_that_begin_together_do_not_renew_together() {
        let rng = Numbers(AtomicU64::new(7));
        for first_is_written in [true, false] {
            let busiest = busiest(&rng, first_is_written);
            assert!(busiest < 200, "{busiest} of 1000 renew in a tenth of the period; evenly it would be 100");
        }
    }

    #[test]
    fn tries_that_fail_become_rare_and_one_that_succeeds_begins_anew() {
        let (mut backoff, rng) = (Backoff::default(), Numbers(AtomicU64::new(7)));
        for limit in [500, 1000, 2000, 4000, 8000, 8000, 8000] {
            let wait = backoff.after_failure(&rng).as_millis();
            assert!((limit / 2..=limit).contains(&wait), "{wait} ms, at most {limit}");
        }
        backoff.succeeded();
        assert!(backoff.after_failure(&rng).as_millis() <= 500);
    }
}
