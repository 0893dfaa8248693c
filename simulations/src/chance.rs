//! Time and chance of a simulated node: a clock that runs at its own rate, and numbers that a seed repeats.

use lattice::{
    Fut,
    store::{Clock, Rng},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Numbers from a seed.
pub struct SimRng(Mutex<StdRng>);

impl SimRng {
    /// `stream` keeps the numbers of one part of a simulation apart from those of the others, so that one more draw here
    /// does not change what happens there.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed ^ stream.wrapping_mul(0x9E37_79B9_7F4A_7C15))))
    }

    /// Uniform in `low..=high`.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        low + self.u64() % (high.saturating_sub(low) + 1)
    }

    pub fn millis(&self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }

    /// True in `per_mille` of a thousand cases.
    pub fn happens(&self, per_mille: u64) -> bool {
        self.between(1, 1000) <= per_mille
    }

    pub fn pick<'a, T>(&self, items: &'a [T]) -> Option<&'a T> {
        let last = u64::try_from(items.len().checked_sub(1)?).ok()?;
        items.get(usize::try_from(self.between(0, last)).ok()?)
    }
}

impl Rng for SimRng {
    fn u64(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }
}

/// A monotonic clock that runs at its own rate from its own start.
pub struct SimClock {
    born: Instant,
    offset: Duration,
    rate: f64,
    /// How far ahead of the others its wall clock is.
    skew: Duration,
    /// Milliseconds by which somebody has set the wall clock wrong.
    set_wrong: AtomicI64,
}

impl SimClock {
    /// At most 5 % fast or slow, and up to a day ahead. The wall clock is kept right by somebody, within two seconds.
    pub fn new(rng: &SimRng) -> Self {
        let born = Instant::now();
        let rate = rng.between(950, 1050) as f64 / 1000.0;
        let offset = rng.millis(0, 24 * 3600 * 1000);
        Self { born, offset, rate, skew: rng.millis(0, 2_000), set_wrong: AtomicI64::new(0) }
    }

    /// Set the wall clock so many milliseconds ahead of where it should be, or behind.
    pub fn set_wrong(&self, millis: i64) {
        self.set_wrong.store(millis, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Duration {
        self.offset + self.born.elapsed().mul_f64(self.rate)
    }
    fn unix_ms(&self) -> u64 {
        const BEGIN: Duration = Duration::from_secs(1_795_345_200);
        let right = u64::try_from((BEGIN + self.born.elapsed() + self.skew).as_millis()).unwrap_or(u64::MAX);
        right.saturating_add_signed(self.set_wrong.load(Ordering::Relaxed))
    }
    fn sleep(&self, duration: Duration) -> Fut<'static, ()> {
        Box::pin(tokio::time::sleep(duration.div_f64(self.rate)))
    }
}
