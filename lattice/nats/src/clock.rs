//! Time and chance of a real machine.

use lattice::{
    Fut,
    store::{Clock, Rng},
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// tokio's clock, so that tests with paused time work.
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: tokio::time::Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: tokio::time::Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }
    fn unix_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
    fn sleep(&self, duration: Duration) -> Fut<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// A generator in each thread, seeded by the operating system: a request asks for numbers too often for a system call each.
#[derive(Debug, Clone, Default)]
pub struct SystemRng;

impl Rng for SystemRng {
    fn u64(&self) -> u64 {
        rand::random()
    }
    fn uuid(&self) -> uuid::Uuid {
        uuid::Uuid::new_v4()
    }
}
