//! The table against a matcher that looks at every route, and the rules one by one.

use crate::{Conflict, Endpoint, RouteEntry, RouteState, RouteTable};
use lattice::{
    id::{Digest, Generation, NodeId, Revision, SlotId, WorkloadName},
    record::{Capacity, Holder, Phase, Session, Slot, SpecRecord},
    spec::{ComponentSpec, HostPattern, HttpSpec, PathPrefix, Route, Source, WorkloadSpec},
    units::Millis,
    view::{LatticeView, Versioned},
};
use proptest::prelude::*;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

fn id(text: &str) -> NodeId {
    text.parse().unwrap()
}
fn name(text: &str) -> WorkloadName {
    text.parse().unwrap()
}
fn life(number: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(number)
}

/// Put a workload with routes such as `h.test/api` at a revision.
fn put(view: &mut LatticeView, workload: &str, revision: u64, routes: &[&str]) {
    let route = |text: &&str| {
        let (host, path) = text.split_at(text.find('/').unwrap());
        Route { host: host.parse().unwrap(), path: path.parse().unwrap(), timeout: None }
    };
    let source = Source::Stored(Digest::of(b""));
    let main = ComponentSpec::new("main".parse().unwrap(), source);
    let http = HttpSpec { routes: routes.iter().map(route).collect() };
    let spec = WorkloadSpec { http, ..WorkloadSpec::new(name(workload), main) };
    let record = SpecRecord::new(spec, life(7), Generation::FIRST);
    view.specs.insert(name(workload), Arc::new(Versioned { record, revision: Revision(revision) }));
}

fn session(view: &mut LatticeView, node: &str, incarnation: u128) {
    let record = Session {
        node: id(node),
        incarnation: life(incarnation),
        labels: BTreeMap::new(),
        version: String::new(),
        capacity: Capacity { memory: 0, slots: 0 },
        volumes: Default::default(),
        http: None,
        draining: false,
        started_at: 0,
        renewals: 0,
    };
    view.sessions.insert(id(node), Versioned { record, revision: Revision(1) });
}

fn hold<'a>(view: &'a mut LatticeView, slot: &str, node: &str, incarnation: u128, phase: Phase) -> &'a mut Slot {
    let slot: SlotId = slot.parse().unwrap();
    let record = Slot {
        holder: Holder { node: id(node), incarnation: life(incarnation) },
        uid: life(7),
        generation: Generation::FIRST,
        phase,
        message: None,
        handover_from: None,
        nonce: life(0),
    };
    view.slots.insert(slot.clone(), Versioned { record, revision: Revision(1) });
    &mut view.slots.get_mut(&slot).unwrap().record
}

fn found<'a>(table: &'a RouteTable, host: &str, path: &str) -> Option<&'a str> {
    table.find(host, path).map(|entry| entry.workload.as_str())
}

#[test]
fn the_most_telling_host_wins_then_the_longest_path() {
    let mut view = LatticeView::default();
    put(&mut view, "exact", 1, &["a.h.test/", "a.h.test/api"]);
    put(&mut view, "deep", 2, &["a.h.test/api/v1", "b.h.test/only"]);
    put(&mut view, "under", 3, &["*.h.test/", "*.h.test/very/long/path/indeed"]);
    put(&mut view, "deeper", 4, &["*.x.h.test/"]);
    put(&mut view, "any", 5, &["*/any"]);
    let table = RouteTable::build(&view, &id("me"));
    for (host, path, workload) in [
        ("a.h.test", "/", Some("exact")),
        ("a.h.test", "/very/long/path/indeed", Some("exact")),
        ("a.h.test", "/api", Some("exact")),
        ("a.h.test", "/api/v1", Some("deep")),
        ("a.h.test", "/api/v1/", Some("deep")),
        ("a.h.test", "/api/v12", Some("exact")),
        ("b.h.test", "/only/x", Some("deep")),
        ("b.h.test", "/onlyx", Some("under")),
        ("c.h.test", "/", Some("under")),
        ("y.x.h.test", "/", Some("deeper")),
        ("z.y.x.h.test", "/", Some("deeper")),
        ("x.h.test", "/", Some("under")),
        ("h.test", "/", None),
        ("h.test", "/any/x", Some("any")),
        ("[::1]", "/any", Some("any")),
        ("other.test", "/", None),
        ("other.test", "", None),
        ("other.test", "*", None),
    ] {
        assert_eq!(found(&table, host, path), workload, "{host}{path}");
    }
}

#[test]
fn the_lower_revision_has_a_route_that_two_want() {
    let mut view = LatticeView::default();
    put(&mut view, "a", 9, &["h.test/", "h.test/a"]);
    put(&mut view, "b", 3, &["h.test/"]);
    let table = RouteTable::build(&view, &id("me"));
    assert_eq!(found(&table, "h.test", "/"), Some("b"));
    assert_eq!(found(&table, "h.test", "/a"), Some("a"));
    let conflict = Conflict {
        host: "h.test".parse().unwrap(),
        path: PathPrefix::default(),
        holder: name("b"),
        refused: name("a"),
    };
    assert_eq!(table.conflicts(), [conflict]);
}

fn entry(view: &LatticeView) -> RouteEntry {
    RouteTable::build(view, &id("me")).find("h.test", "/").unwrap().clone()
}

fn endpoint(node: &str, slots: u32, suspect: bool) -> Endpoint {
    Endpoint { node: id(node), slots, suspect }
}

#[test]
fn endpoints_are_the_nodes_that_serve() {
    let mut view = LatticeView::default();
    put(&mut view, "w", 1, &["h.test/"]);
    put(&mut view, "w2", 2, &["h2.test/"]);
    for (node, incarnation) in [("me", 1), ("n1", 1), ("n2", 1), ("n3", 2)] {
        session(&mut view, node, incarnation);
    }
    assert_eq!(entry(&view).state(), RouteState::Waiting, "a value, not a missing route");
    hold(&mut view, "w.0", "n1", 1, Phase::Starting);
    hold(&mut view, "w.1", "n1", 1, Phase::Failed);
    hold(&mut view, "w2.0", "n1", 1, Phase::Ready);
    assert_eq!(entry(&view).state(), RouteState::Waiting);
    hold(&mut view, "w.2", "me", 1, Phase::Ready);
    assert_eq!((entry(&view).local_slots, entry(&view).state()), (1, RouteState::Ready));
    hold(&mut view, "w.0", "n1", 1, Phase::Ready);
    hold(&mut view, "w.1", "n1", 1, Phase::Ready);
    hold(&mut view, "w.3", "n2", 1, Phase::Starting).handover_from =
        Some(Holder { node: id("n3"), incarnation: life(2) });
    hold(&mut view, "w.4", "n3", 1, Phase::Ready);
    hold(&mut view, "w.5", "n4", 1, Phase::Ready);
    hold(&mut view, "w.6", "n5", 1, Phase::Ready).uid = life(8);
    let expected = [endpoint("n1", 2, false), endpoint("n3", 1, false), endpoint("n4", 1, true)];
    assert_eq!(entry(&view).endpoints[..], expected);
    view.sessions.remove(&id("n3"));
    assert_eq!(entry(&view).endpoints[1], endpoint("n3", 2, true));
}

#[test]
fn a_route_has_its_limits() {
    let mut view = LatticeView::default();
    put(&mut view, "w", 1, &["h.test/"]);
    assert_eq!(entry(&view).time_limit(), entry(&view).wall);
    let spec = Arc::make_mut(view.specs.get_mut(&name("w")).unwrap());
    spec.record.spec.http.routes[0].timeout = Some(Millis(1500));
    assert_eq!(entry(&view).time_limit(), Duration::from_millis(1500));
    assert_eq!(entry(&view).body_limit, 1 << 30);
}

#[test]
fn pick_prefers_less_load_for_each_replica_and_trusts_before_it_suspects() {
    let mut view = LatticeView::default();
    put(&mut view, "w", 1, &["h.test/"]);
    let mut entry = entry(&view);
    let no_load = |_: &NodeId| 0;
    assert_eq!(entry.pick(no_load, 0, &[]), None);

    entry.endpoints = [endpoint("n1", 1, false), endpoint("n2", 3, false), endpoint("n3", 1, true)].into();
    let load = |n1: u32, n2: u32| move |node: &NodeId| if *node == id("n1") { n1 } else { n2 };
    // Any random number: two trusted nodes are always both drawn.
    for random in [0, 1, u64::MAX, 1 << 32, 0x1234_5678_9abc_def0] {
        assert_eq!(entry.pick(load(2, 5), random, &[]), Some(&id("n2")));
        assert_eq!(entry.pick(load(1, 4), random, &[]), Some(&id("n1")));
        assert_eq!(entry.pick(load(9, 0), random, &[id("n2")]), Some(&id("n1")));
        assert_eq!(entry.pick(no_load, random, &[id("n1"), id("n2")]), Some(&id("n3")));
        assert_eq!(entry.pick(no_load, random, &[id("n1"), id("n2"), id("n3")]), None);
    }

    entry.endpoints = [endpoint("n1", 1, false), endpoint("n2", 3, false)].into();
    let first = |quarter: u64| entry.pick(no_load, quarter << 32, &[]).unwrap().to_string();
    assert_eq!([first(0), first(1), first(2), first(3)], ["n1", "n2", "n2", "n2"], "drawn by weight");
}

fn host() -> impl Strategy<Value = String> {
    "[ab](\\.[ab]){0,3}"
}
fn path() -> impl Strategy<Value = String> {
    "(/[ab]{1,2}){0,4}/?".prop_map(|path| if path.starts_with('/') { path } else { format!("/{path}") })
}
fn route() -> impl Strategy<Value = String> {
    let pattern = prop_oneof![3 => host(), 3 => host().prop_map(|host| format!("*.{host}")), 1 => Just("*".to_owned())];
    (pattern, path()).prop_map(|(host, path)| host + &path)
}

/// The definition: look at every route.
fn naive<'a>(view: &'a LatticeView, host: &str, path: &str) -> Option<&'a str> {
    let mut best = None;
    for spec in view.specs.values() {
        for route in &spec.record.spec.http.routes {
            let (kind, labels) = match &route.host {
                HostPattern::Exact(name) if name == host => (2, 0),
                HostPattern::Under(name)
                    if host.strip_suffix(name.as_str()).is_some_and(|head| head.ends_with('.')) =>
                {
                    (1, name.len())
                }
                HostPattern::Any => (0, 0),
                _ => continue,
            };
            if route.path.covers(path) {
                let key = (kind, labels, route.path.as_str().len(), std::cmp::Reverse(spec.revision));
                best = best.max(Some((key, spec.record.spec.name.as_str())));
            }
        }
    }
    best.map(|(_, workload)| workload)
}

proptest! {
    #[test]
    fn find_agrees_with_the_definition(
        workloads in proptest::collection::vec(proptest::collection::vec(route(), 0..6), 0..8),
        requests in proptest::collection::vec((host(), path()), 1..30),
    ) {
        let mut view = LatticeView::default();
        for (number, routes) in workloads.iter().enumerate() {
            let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
            put(&mut view, &format!("w{number}"), 100 - number as u64, &routes);
        }
        let table = RouteTable::build(&view, &id("me"));
        for (host, path) in requests {
            prop_assert_eq!(found(&table, &host, &path), naive(&view, &host, &path), "{}{}", host, path);
        }
    }

    #[test]
    fn any_text_is_looked_up(host in ".{0,40}", path in ".{0,40}") {
        let mut view = LatticeView::default();
        put(&mut view, "w", 1, &["*/a/b", "*.a/", "a.b/aaa"]);
        let _ = RouteTable::build(&view, &id("me")).find(&host, &path);
    }

    #[test]
    fn pick_takes_any_number(random in any::<u64>(), slots in proptest::collection::vec(0u32..4, 0..6)) {
        let mut view = LatticeView::default();
        put(&mut view, "w", 1, &["h.test/"]);
        let mut entry = entry(&view);
        entry.endpoints = slots.iter().enumerate().map(|(n, slots)| endpoint(&format!("n{n}"), *slots, n % 2 == 0)).collect();
        let picked = entry.pick(|_| 1, random, &[]);
        prop_assert_eq!(picked.is_some(), slots.iter().any(|slots| *slots > 0));
    }
}
