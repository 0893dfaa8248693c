//! All that the protocol of sessions and claims can do within small bounds; and that each of its protections is needed.

// Helpers of tests are tests, whatever clippy takes them for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod lease;

use lease::{
    ENDED_STAYS_ENDED, FORGETFUL_IS_WRITTEN, FORGOTTEN_RUNS_ON, HAS_ROOM, HELD_IS_NOT_TAKEN, Lease, Protocol,
    RUNS_ONCE, SECOND_LIFE_HOLDS, THIRD_TAKES_OVER,
};
use stateright::{Checker, HasDiscoveries, Model, Path};
use std::{collections::BTreeMap, time::Instant};

/// What was found in a model, with the way to each: what does not hold, or what is to be seen.
type Found = BTreeMap<&'static str, Vec<lease::Action>>;

/// Visit all states, or those up to `until`, nearest first.
fn look(name: &str, lease: Lease, until: HasDiscoveries) -> Found {
    let begin = Instant::now();
    let checker = lease.checker().finish_when(until).spawn_bfs().join();
    let found: Found = checker.discoveries().into_iter().map(|(what, way)| (what, Path::into_actions(way))).collect();
    println!("{name}: {} states in {:.1} s; {found:?}", checker.unique_state_count(), begin.elapsed().as_secs_f64());
    found
}

const STEADY: Lease = Lease { protocol: Protocol::WHOLE, deaths: 1, forgets: None };
const FORGETFUL: Lease = Lease { protocol: Protocol::WHOLE, deaths: 0, forgets: Some(2) };

#[test]
fn the_whole_protocol_holds() {
    let found = look("a store that keeps what it has", STEADY, HasDiscoveries::All);
    assert_eq!(found.into_keys().collect::<Vec<_>>(), [SECOND_LIFE_HOLDS, THIRD_TAKES_OVER]);
    let mut found = look("a store that forgets", FORGETFUL, HasDiscoveries::All);
    assert!(found.remove(FORGETFUL_IS_WRITTEN).is_some(), "nothing happens");
    for seen in [SECOND_LIFE_HOLDS, THIRD_TAKES_OVER] {
        found.remove(seen);
    }
    assert_eq!(found, Found::new());
}

#[test]
fn each_protection_is_needed() {
    let whole = Protocol::WHOLE;
    let steady = |protocol| Lease { protocol, ..STEADY };
    let forgetful = |protocol| Lease { protocol, ..FORGETFUL };
    for (name, lease, broken) in [
        ("renewals over anything", steady(Protocol { renews_what_it_knows: false, ..whole }), ENDED_STAYS_ENDED),
        ("claims over anything", steady(Protocol { claims_what_it_knows: false, ..whole }), HELD_IS_NOT_TAKEN),
        ("removal of whatever is there", steady(Protocol { removes_what_it_saw: false, ..whole }), RUNS_ONCE),
        ("no fence", steady(Protocol { fences: false, ..whole }), RUNS_ONCE),
        ("a fence from the answer on", steady(Protocol { counts_from_sending: false, ..whole }), RUNS_ONCE),
        ("a fence after the kill", steady(Protocol { fences_before_kill: false, ..whole }), RUNS_ONCE),
        ("one life", steady(Protocol { begins_new_lives: false, ..whole }), HELD_IS_NOT_TAKEN),
        ("claims without an answer forgotten", steady(Protocol { counts_unsettled: false, ..whole }), HAS_ROOM),
        ("no look at the store's history", forgetful(Protocol { compares_history: false, ..whole }), FORGOTTEN_RUNS_ON),
    ] {
        let found = look(name, lease, HasDiscoveries::AnyFailures);
        assert!(found.contains_key(broken), "{name}: {found:?}");
    }
}
