//! A service of a workload: it lives as long as the replica does, so what it counts outlives every request and every
//! instance of the component that calls it. See `visits`, which does.
//!
//! One instance answers all calls, one after the other, so nothing here needs to be shared between threads. What is
//! counted lives in memory: it is gone when the service or the replica is started again. Where the environment variable
//! `COUNTS` names a file in a volume it is kept there as well, and then outlives the service.

use std::{cell::RefCell, collections::BTreeMap, fmt::Write as _, fs};

use crate::exports::example::tally::{health::Guest as Health, tally::Guest};

wit_bindgen::generate!({ path: "wit", world: "service" });
export!(Tally);

struct Tally;

/// Names that are counted; more are counted together, as the empty name.
const NAMES_MAX: usize = 10_000;

thread_local! {
    static COUNTS: RefCell<BTreeMap<String, u64>> = RefCell::new(kept());
}

fn file() -> Option<String> {
    std::env::var("COUNTS").ok()
}

/// What an earlier life of the service left: a line for each name.
fn kept() -> BTreeMap<String, u64> {
    let text = file().and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
    let line = |line: &str| line.split_once(' ').and_then(|(count, name)| Some((name.to_owned(), count.parse().ok()?)));
    text.lines().filter_map(line).collect()
}

/// A file of its own first, so that one who traps in between leaves the old one.
fn keep(counts: &BTreeMap<String, u64>) {
    let Some(file) = file() else { return };
    let mut text = String::new();
    for (name, count) in counts {
        let _ = writeln!(text, "{count} {name}");
    }
    let new = format!("{file}.new");
    if let Err(error) = fs::write(&new, text).and_then(|()| fs::rename(&new, &file)) {
        eprintln!("the counts are not kept: {error}");
    }
}

impl Guest for Tally {
    fn count(name: String) -> u64 {
        COUNTS.with_borrow_mut(|counts| {
            let name = if counts.len() < NAMES_MAX || counts.contains_key(&name) { name } else { String::new() };
            let count = counts.entry(name).or_default();
            *count += 1;
            let now = *count;
            keep(counts);
            now
        })
    }

    fn names() -> u32 {
        COUNTS.with_borrow(|counts| u32::try_from(counts.len()).unwrap_or(u32::MAX))
    }

    fn reset() {
        panic!("asked to forget everything");
    }
}

impl Health for Tally {
    fn alive() -> bool {
        let is_poisoned = COUNTS.with_borrow(|counts| counts.contains_key("poison"));
        if is_poisoned {
            eprintln!("poison was counted");
        }
        !is_poisoned
    }

    fn ready() -> Result<(), String> {
        let names = COUNTS.with_borrow(BTreeMap::len);
        if names < NAMES_MAX { Ok(()) } else { Err(format!("{names} names are too many")) }
    }
}
