//! Workloads that rest until a message comes, for twenty seeds; `cargo run -p lattice-simulations -- --waking --minutes 10` plays
//! more.

// Helpers of tests are tests, whatever clippy takes them for.
#![allow(clippy::panic)]

use lattice_simulations::waking::{OPTIONS, run};
use std::collections::BTreeMap;

#[test]
fn messages_wake_what_rests_and_none_is_handled_twice_or_forgotten() {
    let mut became = BTreeMap::<&str, u64>::new();
    for seed in 0..20 {
        let outcome = run(seed, OPTIONS);
        for (name, number) in &outcome.facts.messages {
            *became.entry(name).or_default() += number;
        }
        if let Some(violation) = outcome.violation {
            outcome.trace.lines().for_each(|line| eprintln!("{line}"));
            panic!("play it with --waking --seed {seed}: {violation}");
        }
    }
    eprintln!("{became:?}");
    for (name, least) in [
        ("handled", 2_000),
        ("handed over", 200),
        ("refused", 50),
        ("not confirmed", 5),
        ("lost with a node", 5),
        ("not heard", 5),
    ] {
        assert!(became.get(name).is_some_and(|number| *number >= least), "these seeds test little: {became:?}");
    }
}

#[test]
fn a_seed_replays() {
    let [first, second] = [(); 2].map(|()| run(3, OPTIONS));
    assert_eq!((first.trace.hash(), &first.facts), (second.trace.hash(), &second.facts));
}
