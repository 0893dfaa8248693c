//! All that the protocol of sessions and claims can do within small bounds; and that each of its protections is needed.

// Helpers of tests are tests, whatever clippy takes them for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use lattice_simulations::model::{
    Lease, Protocol,
    search::{Search, search},
};

fn look(name: &str, lease: Lease) -> Search<lattice_simulations::model::Action> {
    let begin = std::time::Instant::now();
    let found = search(&lease);
    let seconds = begin.elapsed().as_secs_f64();
    println!("{name}: {} states in {seconds:.1} s; {:?}", found.states, found.counterexample);
    found
}

const STEADY: Lease = Lease { protocol: Protocol::WHOLE, deaths: 1, forgets: None };
const FORGETFUL: Lease = Lease { protocol: Protocol::WHOLE, deaths: 0, forgets: Some(2) };

#[test]
fn the_whole_protocol_holds() {
    let steady = look("a store that keeps what it has", STEADY);
    assert_eq!(steady.counterexample, None);
    for witness in ["the third node takes over", "a second life holds a slot"] {
        assert!(steady.witnessed.contains(&witness), "nothing happens: {:?}", steady.witnessed);
    }
    let forgetful = look("a store that forgets", FORGETFUL);
    assert_eq!(forgetful.counterexample, None);
    assert!(forgetful.witnessed.contains(&"a store that forgot is written to"), "{:?}", forgetful.witnessed);
}

#[test]
fn each_protection_is_needed() {
    let whole = Protocol::WHOLE;
    let steady = |protocol| Lease { protocol, ..STEADY };
    let forgetful = |protocol| Lease { protocol, ..FORGETFUL };
    let (comes_back, is_taken) = ("a life that ended does not come back", "nobody takes what a living node holds");
    let (runs_once, has_room) = ("what is strict runs once", "no node holds more than it has room for");
    let is_stopped = "what runs is not stopped because the store forgot it";
    for (name, lease, broken) in [
        ("renewals over anything", steady(Protocol { renews_what_it_knows: false, ..whole }), comes_back),
        ("claims over anything", steady(Protocol { claims_what_it_knows: false, ..whole }), is_taken),
        ("removal of whatever is there", steady(Protocol { removes_what_it_saw: false, ..whole }), runs_once),
        ("no fence", steady(Protocol { fences: false, ..whole }), runs_once),
        ("a fence from the answer on", steady(Protocol { counts_from_sending: false, ..whole }), runs_once),
        ("a fence after the kill", steady(Protocol { fences_before_kill: false, ..whole }), runs_once),
        ("one life", steady(Protocol { begins_new_lives: false, ..whole }), is_taken),
        ("claims without an answer forgotten", steady(Protocol { counts_unsettled: false, ..whole }), has_room),
        ("no look at the store's history", forgetful(Protocol { compares_history: false, ..whole }), is_stopped),
    ] {
        let found = look(name, lease);
        assert_eq!(found.counterexample.map(|(what, _)| what), Some(broken), "{name}");
    }
}
