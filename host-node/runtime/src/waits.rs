//! How long calls waited for their turn: a histogram of fixed buckets. Calls that did not wait are not in it.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Upper bounds in seconds; one more bucket has no bound. Up to the longest wait that there is, and a bit beyond.
pub const WAIT_BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// What was counted so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WaitStats {
    /// Calls, each in the first bucket that has room for its wait.
    pub buckets: [u64; WAIT_BUCKETS.len() + 1],
    /// Of all waits together.
    pub sum: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Waits {
    buckets: [AtomicU64; WAIT_BUCKETS.len() + 1],
    nanos: AtomicU64,
}

impl Waits {
    pub(crate) fn observe(&self, wait: Duration) {
        let seconds = wait.as_secs_f64();
        let bucket = WAIT_BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(WAIT_BUCKETS.len());
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Relaxed);
        }
        self.nanos.fetch_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(crate) fn read(&self) -> WaitStats {
        let mut stats = WaitStats { sum: Duration::from_nanos(self.nanos.load(Relaxed)), ..WaitStats::default() };
        for (read, bucket) in stats.buckets.iter_mut().zip(&self.buckets) {
            *read = bucket.load(Relaxed);
        }
        stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_in_the_first_bucket_that_has_room() {
        let waits = Waits::default();
        for millis in [1, 2, 5000, 5001] {
            waits.observe(Duration::from_millis(millis));
        }
        let stats = waits.read();
        assert_eq!(stats.buckets, [1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(stats.sum, Duration::from_millis(10_004));
    }
}
