//! A service of a workload: it lives as long as the replica does, so what it counts outlives every request and every
//! instance of the component that calls it. See `visits`, which does.
//!
//! One instance answers all calls, one after the other, so nothing here needs to be shared between threads. What is
//! counted lives in memory: it is gone when the service or the replica is started again.

use std::{cell::RefCell, collections::BTreeMap};

use crate::exports::example::tally::tally::Guest;

wit_bindgen::generate!({ path: "wit", world: "service" });
export!(Tally);

struct Tally;

/// Names that are counted; more are counted together, as the empty name.
const NAMES_MAX: usize = 10_000;

thread_local! {
    static COUNTS: RefCell<BTreeMap<String, u64>> = const { RefCell::new(BTreeMap::new()) };
}

impl Guest for Tally {
    fn count(name: String) -> u64 {
        COUNTS.with_borrow_mut(|counts| {
            let name = if counts.len() < NAMES_MAX || counts.contains_key(&name) { name } else { String::new() };
            let count = counts.entry(name).or_default();
            *count += 1;
            *count
        })
    }

    fn names() -> u32 {
        COUNTS.with_borrow(|counts| u32::try_from(counts.len()).unwrap_or(u32::MAX))
    }

    fn reset() {
        panic!("asked to forget everything");
    }
}
