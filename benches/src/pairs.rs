//! Our time and a peer's. Criterion reports each routine by itself and sets it against the run before, which says little
//! on a machine that does other things too; here both run in turns, so that what disturbs one disturbs the other.

use criterion::Bencher;
use std::{
    hint::black_box,
    time::{Duration, Instant},
};

/// Fewer samples than criterion's least make no figure: `--test` runs each routine once.
const SAMPLES_MIN: usize = 10;

/// Times of one iteration, ours and the peer's beside it.
#[derive(Debug, Default)]
pub struct Pairs(Vec<(Duration, Duration)>);

impl Pairs {
    /// Measure ours with criterion, and after each sample as many iterations of the peer. A routine does as many
    /// iterations as it is told, and says how long they took.
    pub fn measure(
        &mut self,
        bencher: &mut Bencher<'_>,
        mut ours: impl FnMut(u64) -> Duration,
        mut peer: impl FnMut(u64) -> Duration,
    ) {
        bencher.iter_custom(|iterations| {
            let took = ours(iterations);
            let of_one = |took: Duration| took.div_f64(iterations as f64);
            self.0.push((of_one(took), of_one(peer(iterations))));
            took
        });
    }

    /// Print both rates and the ratio of the times: 2.00 means that ours takes twice as long. Medians, so that single
    /// disturbances do not count. Nothing is printed if too little ran, because of a filter or of `--test`. One
    /// iteration does `units`.
    pub fn print(&self, ours: &str, peer: &str, units: f64, unit: &str) {
        if self.0.len() < SAMPLES_MIN {
            return;
        }
        let seconds = |time: &Duration| time.as_secs_f64();
        let our_rate = units / median(self.0.iter().map(|(ours, _)| seconds(ours)));
        let peer_rate = units / median(self.0.iter().map(|(_, peer)| seconds(peer)));
        let ratio = median(self.0.iter().map(|(ours, peer)| seconds(ours) / seconds(peer)));
        println!("{ours}: {our_rate:.0} {unit}/s; {peer}: {peer_rate:.0} {unit}/s; ratio of times: {ratio:.2}\n");
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

/// The upper one of two in the middle; not a number where there is none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_does_not_follow_a_single_disturbance() {
        assert_eq!(median([1.0, 100.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 3.0].into_iter()), 4.0);
        assert!(median([].into_iter()).is_nan());
    }

    #[test]
    fn repeats_as_often_as_told() {
        let mut calls = 0;
        repeat(3, || calls += 1);
        assert_eq!(calls, 3);
    }
}
