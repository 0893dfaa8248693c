//! Our time and a peer's, from the same run. Criterion reports each by itself and compares a run with the one before,
//! which on a machine that does other things too says little; the ratio of two neighbours says more.

use criterion::Bencher;
use std::{
    hint::black_box,
    time::{Duration, Instant},
};

/// Fewer samples than criterion's least make no figure: `--test` runs each routine once.
const SAMPLES_MIN: usize = 10;

/// Times of one routine, beside those that criterion keeps to itself.
#[derive(Debug, Default)]
pub struct Samples {
    /// Seconds of one iteration.
    seconds: Vec<f64>,
}

impl Samples {
    /// Measure with criterion. `routine` does as many iterations as it is told, and says how long they took.
    pub fn measure(&mut self, bencher: &mut Bencher<'_>, mut routine: impl FnMut(u64) -> Duration) {
        bencher.iter_custom(|iterations| {
            let took = routine(iterations);
            self.seconds.push(took.as_secs_f64() / iterations as f64);
            took
        });
    }

    /// Seconds of one iteration. The median, so that samples taken while the machine was busy elsewhere do not count.
    fn median(&self) -> Option<f64> {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        (sorted.len() >= SAMPLES_MIN).then(|| sorted.get(sorted.len() / 2).copied())?
    }
}

/// Time some iterations of what does not wait.
pub fn repeat<T>(iterations: u64, mut routine: impl FnMut() -> T) -> Duration {
    let start = Instant::now();
    for _ in 0..iterations {
        black_box(routine());
    }
    start.elapsed()
}

/// Print both rates and the ratio of the times: 2.00 means that ours takes twice as long. Prints nothing when one of
/// them did not run, because of a filter or of `--test`. `units` are done in one iteration.
pub fn compare(
    what: &str,
    unit: &str,
    units: f64,
    (ours, our_samples): (&str, &Samples),
    (peer, peer_samples): (&str, &Samples),
) {
    let (Some(our_time), Some(peer_time)) = (our_samples.median(), peer_samples.median()) else { return };
    let (our_rate, peer_rate) = (units / our_time, units / peer_time);
    let ratio = our_time / peer_time;
    println!("{what}: {ours} {our_rate:.0} {unit}/s, {peer} {peer_rate:.0} {unit}/s, ratio of times {ratio:.2}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_needs_enough_samples_and_ignores_a_slow_one() {
        let few = Samples { seconds: vec![1.0; SAMPLES_MIN - 1] };
        assert_eq!(few.median(), None);
        let mut enough = few;
        enough.seconds.push(100.0);
        assert_eq!(enough.median(), Some(1.0));
    }

    #[test]
    fn repeats_as_often_as_told() {
        let mut calls = 0;
        repeat(3, || calls += 1);
        assert_eq!(calls, 3);
    }
}
