//! Workloads that scale themselves, for twenty seeds; `cargo run -p lattice-simulations -- --scaling --minutes 10` plays more.

use lattice_simulations::scaling::{OPTIONS, run};

#[test]
fn what_scales_itself_ends_where_the_load_asks() {
    let mut decisions = 0;
    for seed in 0..20 {
        let outcome = run(seed, OPTIONS);
        decisions += outcome.facts.decisions;
        if let Some(violation) = outcome.violation {
            outcome.trace.lines().for_each(|line| eprintln!("{line}"));
            panic!("play it with --scaling --seed {seed}: {violation}");
        }
    }
    assert!(decisions > 200, "these seeds test little: {decisions} decisions");
}
