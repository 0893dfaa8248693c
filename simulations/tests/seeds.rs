//! Hundreds of seeds, quickly, on each run of the tests; `cargo run -p lattice-simulations -- --minutes 10` plays more.

// Helpers of tests are tests, whatever clippy takes them for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use lattice_simulations::{Facts, Options, Outcome, run};
use std::{sync::Mutex, thread, time::Duration};

/// Shorter than the default, so that more seeds fit.
const QUICK: Options =
    Options { faults: Duration::from_secs(40), bound: Duration::from_secs(90), rest: Duration::from_secs(10) };

const SEEDS: u64 = 200;

fn play(seeds: impl IntoIterator<Item = u64>) -> Vec<Outcome> {
    let seeds = Mutex::new(seeds.into_iter().collect::<Vec<_>>());
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some(seed) = seeds.lock().unwrap().pop() else { return };
                    let outcome = run(seed, QUICK);
                    outcomes.lock().unwrap().push(outcome);
                }
            });
        }
    });
    outcomes.into_inner().unwrap()
}

#[test]
fn many_seeds_hold_the_invariants() {
    let outcomes = play(0..SEEDS);
    for outcome in outcomes.iter().filter(|outcome| outcome.violation.is_some()) {
        for line in outcome.trace.lines() {
            eprintln!("{line}");
        }
        eprintln!("seed {}: {}\n", outcome.seed, outcome.violation.as_deref().unwrap_or_default());
    }
    let failed: Vec<u64> = outcomes.iter().filter(|o| o.violation.is_some()).map(|o| o.seed).collect();
    assert!(failed.is_empty(), "play them with --seed N --faults {}: {failed:?}", QUICK.faults.as_secs());
    let claims: u64 = outcomes.iter().map(|outcome| outcome.facts.claims).sum();
    let fired: u64 = outcomes.iter().map(|outcome| outcome.facts.fired).sum();
    assert!(claims > 10 * SEEDS && fired > 15 * SEEDS, "these seeds test little: {claims} claims, {fired} ticks");
    for kind in Facts::FAULTS {
        let befell = outcomes.iter().filter_map(|outcome| outcome.facts.faults.get(kind)).sum::<u64>();
        assert!(befell > SEEDS / 40, "{kind} befell only {befell} times");
    }
}

#[test]
fn a_seed_replays() {
    for seed in [3, 1004] {
        let [first, second] = [(); 2].map(|()| run(seed, QUICK));
        let mut lines = first.trace.lines().zip(second.trace.lines());
        assert_eq!(lines.find(|(first, second)| first != second), None, "where seed {seed} begins to differ");
        assert_eq!((first.trace.hash(), &first.facts), (second.trace.hash(), &second.facts));
    }
    let [one, other] = [5, 6].map(|seed| run(seed, QUICK).trace.hash());
    assert_ne!(one, other, "another seed is another run");
}
