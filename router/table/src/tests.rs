//! The table against a matcher that looks at every route, and the rules one by one.

use crate::{Ask, Asked, Balancer, Conflict, Endpoint, NO_ROUTE, RouteEntry, RouteState, RouteTable, reads_alike};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use lattice::{
    id::{Digest, Generation, NodeId, Revision, SlotId, WorkloadName},
    record::{Holder, Phase, Slot, SpecRecord},
    spec::{ComponentSpec, HostPattern, HttpSpec, PathMatch, PathPrefix, Route, Source, WorkloadSpec},
    units::Millis,
    view::{LatticeView, Versioned},
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

mod weights;

fn id(text: &str) -> NodeId {
    text.parse().unwrap()
}
fn name(text: &str) -> WorkloadName {
    text.parse().unwrap()
}
fn life(number: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(number)
}

/// `h.test/api`.
fn route(text: &str) -> Route {
    let (host, path) = text.split_at(text.find('/').unwrap());
    Route::new(host.parse().unwrap(), path.parse::<PathPrefix>().unwrap())
}

/// Put a workload with routes such as `h.test/api` at a revision.
fn put(view: &mut LatticeView, workload: &str, revision: u64, routes: &[&str]) {
    put_routes(view, workload, revision, routes.iter().map(|text| route(text)).collect());
}

/// Routes as in a spec.
fn routes(yaml: &str) -> Vec<Route> {
    let text = format!("name: a\ncomponents: [{{name: a, source: 'file:a'}}]\nhttp: {{routes: [{yaml}]}}\n");
    lattice::spec::parse(text.as_bytes()).unwrap().http.routes
}

fn put_routes(view: &mut LatticeView, workload: &str, revision: u64, routes: Vec<Route>) {
    let source = Source::Stored(Digest::of(b""));
    let main = ComponentSpec::new("main".parse().unwrap(), source);
    let http = HttpSpec { routes, ..HttpSpec::default() };
    let spec = WorkloadSpec { http, ..WorkloadSpec::new(name(workload), main) };
    let record = SpecRecord::new(spec, life(7), Generation::FIRST);
    view.specs.insert(name(workload), Arc::new(Versioned { record, revision: Revision(revision) }));
}

fn session(view: &mut LatticeView, node: &str, incarnation: u128) {
    let record = lattice::testing::session(id(node), life(incarnation));
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
        failures: None,
        handover_from: None,
        gpu: None,
        handover_gpu: None,
        nonce: life(0),
        claimed_at: 0,
        since: 0,
    };
    view.slots.insert(slot.clone(), Versioned { record, revision: Revision(1) });
    &mut view.slots.get_mut(&slot).unwrap().record
}

fn find<'a>(table: &'a RouteTable, host: &str, path: &str) -> Option<&'a Arc<RouteEntry>> {
    table.find(&Asked { host, path, query: None, method: &Method::GET, headers: &HeaderMap::new() })
}
fn found<'a>(table: &'a RouteTable, host: &str, path: &str) -> Option<&'a str> {
    find(table, host, path).map(|entry| entry.workload.as_str())
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
    let conflict =
        Conflict { host: "h.test".parse().unwrap(), path: PathMatch::default(), holder: name("b"), refused: name("a") };
    assert_eq!(table.conflicts(), [conflict]);
}

fn entry(view: &LatticeView) -> RouteEntry {
    RouteEntry::clone(find(&RouteTable::build(view, &id("me")), "h.test", "/").unwrap())
}

fn endpoint(node: &str, slots: u32, suspect: bool) -> Endpoint {
    Endpoint { node: id(node), slots, suspect, near: false }
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

/// One that leads nowhere.
pub(crate) fn bare_entry() -> RouteEntry {
    let mut view = LatticeView::default();
    put(&mut view, "w", 1, &["h.test/"]);
    entry(&view)
}

/// The node that is picked for each of some numbers.
fn picked(balancer: &mut Balancer, entry: &RouteEntry, tried: &[&str], suspects: &[&str]) -> BTreeSet<String> {
    let (tried, suspects) = (tried.iter().map(|node| id(node)), suspects.iter().map(|node| id(node)));
    let (tried, suspects): (Vec<_>, Vec<_>) = (tried.collect(), suspects.collect());
    let ask = |random| Ask { now: Duration::ZERO, random, tried: &tried, suspects: &suspects };
    let numbers = [0, 1, u64::MAX, 1 << 24, 0x1234_5678_9abc_def0, 3 << 24, 2 << 24];
    let picks = numbers.into_iter().filter_map(|random| balancer.pick(entry, ask(random)));
    picks.map(|picked| picked.node.to_string()).collect()
}

#[test]
fn pick_prefers_less_work_for_each_replica_and_trusts_before_it_suspects() {
    let mut entry = bare_entry();
    let mut balancer = Balancer::default();
    assert_eq!(picked(&mut balancer, &entry, &[], &[]), BTreeSet::new());
    let nodes = |nodes: &[&str]| nodes.iter().map(|node| (*node).to_owned()).collect::<BTreeSet<_>>();

    entry.endpoints = [endpoint("n1", 1, false), endpoint("n2", 3, false), endpoint("n3", 1, true)].into();
    assert_eq!(picked(&mut balancer, &entry, &["n1", "n2"], &[]), nodes(&["n3"]));
    assert_eq!(picked(&mut balancer, &entry, &["n1", "n2", "n3"], &[]), BTreeSet::new());
    assert_eq!(picked(&mut balancer, &entry, &[], &["n2"]), nodes(&["n1"]), "it was not there a moment ago");
    assert_eq!(picked(&mut balancer, &entry, &["n1"], &["n2"]), nodes(&["n2"]), "nor is anybody else");
    for _ in 0..2 {
        balancer.begin(&id("n1"), Duration::ZERO);
        balancer.begin(&id("n2"), Duration::ZERO);
        balancer.begin(&id("n2"), Duration::ZERO);
    }
    // (2 + 1) / 1 against (4 + 1) / 3, as long as both are drawn: two trusted nodes always are.
    assert_eq!(picked(&mut balancer, &entry, &[], &[]), nodes(&["n2"]));
    balancer.end(&id("n1"), false);
    balancer.end(&id("n1"), false);
    assert_eq!(picked(&mut balancer, &entry, &[], &[]), nodes(&["n1"]));
    assert_eq!(picked(&mut balancer, &entry, &["n1"], &[]), nodes(&["n2"]));
}

#[test]
fn a_zone_carries_its_share() {
    let share = |mine: &[u32], others: &[u32], routers: (usize, usize)| {
        let mut view = LatticeView::default();
        put(&mut view, "w", 1, &["h.test/"]);
        let in_zone = |view: &mut LatticeView, node: &str, zone: &str| {
            session(view, node, 1);
            let labels = &mut view.sessions.get_mut(&id(node)).unwrap().record.labels;
            labels.insert("zone".into(), zone.into());
        };
        in_zone(&mut view, "me", "a");
        (1..routers.0).for_each(|n| in_zone(&mut view, &format!("a{n}"), "a"));
        (0..routers.1).for_each(|n| in_zone(&mut view, &format!("b{n}"), "b"));
        let mut slot = 0;
        for (zone, slots) in [("a", mine), ("b", others)] {
            for (n, slots) in slots.iter().enumerate() {
                let node = if zone == "a" && n == 0 { "me".to_owned() } else { format!("{zone}{n}") };
                for _ in 0..*slots {
                    hold(&mut view, &format!("w.{slot}"), &node, 1, Phase::Ready);
                    slot += 1;
                }
            }
        }
        let entry = entry(&view);
        assert!(entry.endpoints.iter().all(|endpoint| endpoint.near == endpoint.node.as_str().starts_with('a')));
        entry.spread.near_permille
    };
    assert_eq!(share(&[1, 1], &[1, 1], (2, 2)), 1000);
    assert_eq!(share(&[0, 2], &[1, 1], (2, 2)), 1000);
    assert_eq!(share(&[0, 1], &[2, 1], (2, 2)), 500, "a quarter of the replicas for half of the nodes");
    assert_eq!(share(&[0, 0], &[2, 1], (2, 2)), 0);
    assert_eq!(share(&[3, 0], &[1, 0], (2, 2)), 1000);
    assert_eq!(bare_entry().spread.near_permille, 0, "no zones, and nobody there");
}

#[test]
fn of_one_path_the_most_telling_route_wins() {
    let mut view = LatticeView::default();
    let telling = "{host: h.test, path: /a, methods: [GET], headers: {x-a: '1'}}, \
                   {host: h.test, path: /a, headers: {x-a: '1', x-b: {present: true}}, query: {q: '1'}}";
    put_routes(&mut view, "telling", 1, routes(telling));
    put_routes(&mut view, "gets", 2, routes("{host: h.test, path: /a, methods: [GET, HEAD]}"));
    put_routes(&mut view, "headers", 3, routes("{host: h.test, path: /a, headers: {x-a: {prefix: '1'}}}"));
    put_routes(&mut view, "queries", 4, routes("{host: h.test, path: /a, query: {q: {present: true}}}"));
    put_routes(&mut view, "exact", 5, routes("{host: h.test, path: {exact: /a}, methods: [PUT]}"));
    put_routes(&mut view, "rest", 6, routes("{host: h.test}"));
    put_routes(&mut view, "longer", 7, routes("{host: h.test, path: /a/b, methods: [POST]}"));
    put_routes(&mut view, "wild", 8, routes("{host: '*.test', path: /only, methods: [GET]}, {host: '*', path: /a/b}"));
    let table = RouteTable::build(&view, &id("me"));
    assert_eq!(table.conflicts(), []);
    let (one, both) = (&[("x-a", "1")][..], &[("x-a", "1"), ("x-b", "")][..]);
    for (method, path, headers, workload) in [
        ("GET", "/a", &[][..], "gets"),
        ("HEAD", "/a", one, "gets"),
        ("GET", "/a", one, "telling"),
        ("POST", "/a", one, "headers"),
        ("POST", "/a", &[("x-a", "17")], "headers"),
        ("POST", "/a", &[("x-a", "2")], "rest"),
        ("POST", "/a?q=1", both, "telling"),
        ("POST", "/a?q=2", both, "headers"),
        ("POST", "/a?p&q", &[], "queries"),
        ("GET", "/a?q=1", both, "telling"),
        ("PUT", "/a", both, "exact"),
        ("PUT", "/a/", both, "headers"),
        ("PUT", "/a/", &[], "rest"),
        ("POST", "/a/b/c", one, "longer"),
        ("GET", "/a/b/c", one, "telling"),
        ("DELETE", "/a/b/c", &[], "rest"),
        ("GET", "/only", &[], "rest"),
    ] {
        assert_eq!(asked(&table, method, path, headers), Some(workload), "{method} {path} {headers:?}");
    }
}

fn asked<'a>(table: &'a RouteTable, method: &str, path: &str, headers: &[(&'static str, &str)]) -> Option<&'a str> {
    let header =
        |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    let headers: HeaderMap = headers.iter().map(header).collect();
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let entry = table.find(&Asked { host: "h.test", path, query, method: &method, headers: &headers });
    entry.map(|entry| entry.workload.as_str())
}

#[test]
fn a_route_that_is_as_telling_as_an_earlier_one_is_refused() {
    let mut view = LatticeView::default();
    put_routes(&mut view, "a", 1, routes("{host: h.test, path: /a, headers: {x-a: '1'}}"));
    put_routes(&mut view, "b", 2, routes("{host: h.test, path: /a, headers: {x-b: '1'}}, {host: h.test, path: /b}"));
    put_routes(&mut view, "c", 3, routes("{host: h.test, path: /a, headers: {x-a: '2'}}"));
    let table = RouteTable::build(&view, &id("me"));
    let refused: Vec<String> = table
        .conflicts()
        .iter()
        .map(|Conflict { path, holder, refused, .. }| format!("{path} {holder} {refused}"))
        .collect();
    assert_eq!(refused, ["/a a b"]);
    assert_eq!(asked(&table, "GET", "/a", &[("x-b", "1")]), None);
    assert_eq!(asked(&table, "GET", "/b", &[]), Some("b"));
    assert_eq!(asked(&table, "GET", "/a", &[("x-a", "2")]), Some("c"));
}

#[test]
fn of_one_spec_the_first_of_two_that_are_as_telling_is_taken() {
    let mut view = LatticeView::default();
    let two = "{host: h.test, headers: {x-a: '1'}, timeout: 1s}, {host: h.test, headers: {x-b: '1'}, timeout: 2s}";
    put_routes(&mut view, "a", 1, routes(two));
    let table = RouteTable::build(&view, &id("me"));
    let headers: HeaderMap = [HeaderName::from_static("x-a"), HeaderName::from_static("x-b")]
        .map(|name| (name, HeaderValue::from_static("1")))
        .into_iter()
        .collect();
    let entry = table.find(&Asked { host: "h.test", path: "/", query: None, method: &Method::GET, headers: &headers });
    assert_eq!(entry.unwrap().timeout, Some(Duration::from_secs(1)));
}

#[test]
fn routes_of_a_workload_share_its_endpoints() {
    let mut view = LatticeView::default();
    put(&mut view, "a", 1, &["h.test/", "h.test/a", "*/b"]);
    let table = RouteTable::build(&view, &id("me"));
    let (one, other) = (find(&table, "h.test", "/").unwrap(), find(&table, "x.test", "/b").unwrap());
    assert!(Arc::ptr_eq(&one.endpoints, &other.endpoints));
    assert_eq!((&*one.label, &*other.label), ("h.test/", "*/b"));
    assert_eq!((one.path(), other.path(), table.workload(&name("a")).unwrap().path()), ("/", "/b", NO_ROUTE));
}

#[test]
fn no_two_routes_of_a_workload_have_one_label() {
    let long = "x".repeat(crate::LABEL_BYTES_MAX);
    let written = [
        "{host: h.test}".to_owned(),
        "{host: h.test, path: {exact: /}}".to_owned(),
        "{host: h.test, headers: {x-tenant: a}}".to_owned(),
        "{host: h.test, headers: {x-tenant: b}}".to_owned(),
        "{host: h.test, methods: [GET], path: '/a{b}'}".to_owned(),
        format!("{{host: h.test, headers: {{x-tenant: {long}}}}}"),
        format!("{{host: h.test, headers: {{x-tenant: {long}y}}}}"),
    ];
    let mut view = LatticeView::default();
    put_routes(&mut view, "a", 1, routes(&written.join(", ")));
    let table = RouteTable::build(&view, &id("me"));
    let labels: Vec<&str> = table.routes().into_iter().map(|(_, label)| label).collect();
    assert_eq!(
        labels,
        [
            NO_ROUTE,
            "h.test/",
            "h.test/a{b}{GET}",
            "h.test/{exact}",
            "h.test/{routes[5]}",
            "h.test/{routes[6]}",
            "h.test/{x-tenant=a}",
            "h.test/{x-tenant=b}",
        ]
    );
    let asked =
        Asked { host: "h.test", path: "/a{b}/c", query: None, method: &Method::GET, headers: &HeaderMap::new() };
    assert_eq!(table.find(&asked).unwrap().path(), "/a{b}");
}

#[test]
fn a_share_gets_its_part_while_it_is_ready() {
    let mut view = LatticeView::default();
    let split = "{host: h.test, body-limit: 1KiB, timeout: 5s, \
                 split: [{workload: next, percent: 10}, {workload: gone, percent: 5}]}";
    put_routes(&mut view, "now", 1, routes(split));
    put(&mut view, "next", 2, &[]);
    for node in ["n1", "n2"] {
        session(&mut view, node, 1);
    }
    hold(&mut view, "now.0", "n1", 1, Phase::Ready);
    hold(&mut view, "next.0", "n2", 1, Phase::Ready);
    let parts = |view: &LatticeView, tried: &[WorkloadName]| {
        let entry = Arc::new(entry(view));
        let mut parts = BTreeMap::<String, u32>::new();
        // A thousand numbers: a request's number modulo a hundred, and the rest of it for what a share leaves.
        for roll in (0..1000).map(|number| number * 7919) {
            *parts.entry(entry.share(roll, tried).workload.to_string()).or_default() += 1;
        }
        parts.into_iter().collect::<Vec<_>>()
    };
    let named =
        |parts: &[(&str, u32)]| parts.iter().map(|(name, part)| ((*name).to_owned(), *part)).collect::<Vec<_>>();
    let all = parts(&view, &[]);
    let next = all.iter().find(|(name, _)| name == "next").unwrap().1;
    assert!((100..115).contains(&next), "its ten percent, and its part of what is left: {all:?}");
    assert_eq!(all.len(), 2, "nobody is sent to who is not there: {all:?}");
    assert_eq!(parts(&view, &[name("next")]), named(&[("now", 1000)]), "who was tried in vain gets no more");

    let entry_of = |view: &LatticeView, roll| entry(view).into_share(roll);
    let of_next = entry_of(&view, 85);
    assert_eq!(
        (of_next.workload.as_str(), of_next.body_limit, of_next.timeout),
        ("next", 1024, Some(Duration::from_secs(5)))
    );
    assert_eq!(of_next.endpoints[..], [endpoint("n2", 1, false)]);

    let let_call = |view: &mut LatticeView, callers: &[&str]| {
        let spec = Arc::make_mut(view.specs.get_mut(&name("next")).unwrap());
        spec.record.spec.http.callers = Some(callers.iter().map(|caller| name(caller)).collect());
    };
    let_call(&mut view, &["other"]);
    assert_eq!(parts(&view, &[]), named(&[("now", 1000)]), "who says who may call it is not reached by others");
    assert_eq!(parts(&view, &[name("now")]), named(&[("gone", 50), ("now", 950)]), "nor when nobody else is there");
    let_call(&mut view, &["other", "now"]);
    assert_eq!(parts(&view, &[]), all);

    view.slots.remove(&"next.0".parse().unwrap());
    assert_eq!(parts(&view, &[]), named(&[("now", 1000)]));
    view.slots.clear();
    assert_eq!(parts(&view, &[]), named(&[("gone", 50), ("next", 100), ("now", 850)]), "they wait where they belong");
    let table = RouteTable::build(&view, &id("me"));
    let known: Vec<(&str, &str)> = table.routes().into_iter().map(|(name, label)| (name.as_str(), label)).collect();
    let (route, direct) = ("h.test/", NO_ROUTE);
    assert_eq!(
        known,
        [("gone", route), ("next", direct), ("next", route), ("now", direct), ("now", route)],
        "whoever answers, it is one route"
    );
}

impl RouteEntry {
    fn into_share(self, roll: u64) -> Arc<RouteEntry> {
        Arc::new(self).share(roll, &[]).clone()
    }
}

#[test]
fn a_renewed_session_changes_no_table_and_all_that_a_table_shows_does() {
    let mut view = LatticeView::default();
    put(&mut view, "w", 1, &["h.test/"]);
    put(&mut view, "w2", 2, &["h2.test/"]);
    session(&mut view, "me", 1);
    session(&mut view, "n1", 1);
    hold(&mut view, "w.0", "n1", 1, Phase::Ready);
    let table = |view: &LatticeView| RouteTable::build(view, &id("me"));
    let mut renewed = view.clone();
    let session_of = renewed.sessions.get_mut(&id("n1")).unwrap();
    session_of.revision = Revision(2);
    session_of.record.capacity.slots += 1;
    assert!(reads_alike(&view, &renewed) && table(&view) == table(&renewed));

    type Change = &'static dyn Fn(&mut LatticeView);
    let changes: [(&str, Change); 8] = [
        ("a route", &|view| put(view, "w", 3, &["h.test/", "h.test/a"])),
        ("a workload less", &|view| drop(view.specs.remove(&name("w2")))),
        ("a replica", &|view| {
            hold(view, "w.1", "me", 1, Phase::Ready);
        }),
        ("a replica that fails", &|view| {
            hold(view, "w.0", "n1", 1, Phase::Failed);
        }),
        ("a node's end", &|view| drop(view.sessions.remove(&id("n1")))),
        ("a node's next life", &|view| session(view, "n1", 2)),
        ("a zone", &|view| {
            for node in ["me", "n1"] {
                let labels = &mut view.sessions.get_mut(&id(node)).unwrap().record.labels;
                labels.insert("zone".into(), "a".into());
            }
        }),
        ("nodes beside it in its zone", &|view| {
            for node in ["me", "n2", "n3"] {
                session(view, node, 1);
                let labels = &mut view.sessions.get_mut(&id(node)).unwrap().record.labels;
                labels.insert("zone".into(), "a".into());
            }
            let labels = &mut view.sessions.get_mut(&id("n1")).unwrap().record.labels;
            labels.insert("zone".into(), "b".into());
            hold(view, "w.1", "me", 1, Phase::Ready);
        }),
    ];
    for (what, change) in changes {
        let mut after = view.clone();
        change(&mut after);
        assert!(table(&view) != table(&after), "{what}");
        assert!(!reads_alike(&view, &after), "{what}");
    }
}

/// One of them often, so that it has many paths.
fn host() -> impl Strategy<Value = String> {
    prop_oneof![1 => Just("a".to_owned()), 2 => "[ab](\\.[ab]){0,3}"]
}
fn path() -> impl Strategy<Value = String> {
    "(/[ab]{1,2}){0,4}/?".prop_map(|path| if path.starts_with('/') { path } else { format!("/{path}") })
}

/// What a request is, and what a route asks for, of few values, so that they meet.
const METHODS: [&str; 3] = ["GET", "PUT", "POST"];
fn value() -> impl Strategy<Value = String> {
    "[ab]{0,2}"
}
fn condition() -> impl Strategy<Value = String> {
    prop_oneof![
        value().prop_map(|value| format!("'{value}'")),
        value().prop_map(|value| format!("{{prefix: '{value}'}}")),
        Just("{present: true}".to_owned()),
    ]
}
fn conditions() -> impl Strategy<Value = String> {
    let of = |names: [&'static str; 2]| {
        proptest::collection::btree_map(proptest::sample::select(names.to_vec()), condition(), 0..=2).prop_map(|map| {
            map.iter().map(|(name, condition)| format!("{name}: {condition}")).collect::<Vec<_>>().join(", ")
        })
    };
    (proptest::sample::subsequence(METHODS.to_vec(), 0..=2), of(["x-a", "x-b"]), of(["p", "q"])).prop_map(
        |(methods, headers, query)| {
            format!("methods: [{}], headers: {{{headers}}}, query: {{{query}}}", methods.join(", "))
        },
    )
}
fn any_route() -> impl Strategy<Value = Route> {
    let host = prop_oneof![3 => host(), 3 => host().prop_map(|host| format!("*.{host}")), 1 => Just("*".to_owned())];
    let path = prop_oneof![3 => path(), 1 => path().prop_map(|path| format!("{{exact: {path}}}"))];
    let conditions = prop_oneof![2 => Just(String::new()), 3 => conditions()];
    (host, path, conditions).prop_map(|(host, path, conditions)| {
        let mut routes = routes(&format!("{{host: '{host}', path: {path}, {conditions}}}"));
        routes.remove(0)
    })
}

#[derive(Debug, Clone)]
struct Sent {
    host: String,
    path: String,
    method: &'static str,
    headers: BTreeMap<&'static str, String>,
    query: Option<BTreeMap<&'static str, String>>,
}

fn sent() -> impl Strategy<Value = Sent> {
    let of = |names: [&'static str; 2]| {
        proptest::collection::btree_map(proptest::sample::select(names.to_vec()), value(), 0..=2)
    };
    let query = proptest::option::of(of(["p", "q"]));
    (host(), path(), proptest::sample::select(METHODS.to_vec()), of(["x-a", "x-b"]), query)
        .prop_map(|(host, path, method, headers, query)| Sent { host, path, method, headers, query })
}

/// The definition: look at every route that was not refused.
fn naive<'a>(view: &'a LatticeView, sent: &Sent) -> Option<&'a str> {
    let mut specs: Vec<_> = view.specs.values().collect();
    specs.sort_by_key(|spec| spec.revision);
    let mut kept: Vec<(&'a str, &'a Route)> = Vec::new();
    for spec in specs {
        let name = spec.record.spec.name.as_str();
        for route in &spec.record.spec.http.routes {
            let is_twice = |route: &Route, other: &Route| !route.has_conditions() && !other.has_conditions();
            let refuses =
                |(holder, held): &(&str, &Route)| held.clashes(route) && (*holder != name || is_twice(route, held));
            if !kept.iter().any(refuses) {
                kept.push((name, route));
            }
        }
    }
    let mut best = None;
    for (number, (name, route)) in kept.into_iter().enumerate() {
        let (kind, labels) = match &route.host {
            HostPattern::Exact(name) if *name == sent.host => (2, 0),
            HostPattern::Under(name)
                if sent.host.strip_suffix(name.as_str()).is_some_and(|head| head.ends_with('.')) =>
            {
                (1, name.len())
            }
            HostPattern::Any => (0, 0),
            _ => continue,
        };
        let methods = route.methods.is_empty() || route.methods.iter().any(|method| method.to_string() == sent.method);
        let headers = route.headers.iter().all(|(name, value)| {
            sent.headers.get(name.name().as_str()).is_some_and(|sent| value.holds(sent.as_bytes()))
        });
        let query = route.query.iter().all(|(name, value)| {
            sent.query
                .as_ref()
                .and_then(|query| query.get(name.as_str()))
                .is_some_and(|sent| value.holds(sent.as_bytes()))
        });
        if route.path.covers(&sent.path) && methods && headers && query {
            let is_exact = matches!(route.path, PathMatch::Exact(_));
            let length = route.path.as_str().len();
            let key = (kind, labels, is_exact, length, route.rank(), std::cmp::Reverse(number));
            best = best.max(Some((key, name)));
        }
    }
    best.map(|(_, workload)| workload)
}

proptest! {
    #[test]
    fn find_agrees_with_the_definition(
        workloads in proptest::collection::vec(proptest::collection::vec(any_route(), 0..12), 0..8),
        requests in proptest::collection::vec(sent(), 1..30),
    ) {
        let mut view = LatticeView::default();
        for (number, routes) in workloads.into_iter().enumerate() {
            put_routes(&mut view, &format!("w{number}"), 100 - number as u64, routes);
        }
        let table = RouteTable::build(&view, &id("me"));
        for sent in requests {
            let headers: HeaderMap = sent.headers.iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect();
            let pairs = sent.query.as_ref().map(|query| query.iter().map(|(name, value)| format!("{name}={value}")));
            let query = pairs.map(|pairs| pairs.collect::<Vec<_>>().join("&"));
            let method = Method::from_bytes(sent.method.as_bytes()).unwrap();
            let asked = Asked {
                host: &sent.host, path: &sent.path, query: query.as_deref(), method: &method, headers: &headers
            };
            let found = table.find(&asked).map(|entry| entry.workload.as_str());
            prop_assert_eq!(found, naive(&view, &sent), "{:?}", sent);
        }
    }

    /// Two routes that do not clash are never both the most telling ones for a request.
    #[test]
    fn no_request_is_taken_by_chance(one in conditions(), other in conditions(), requests in proptest::collection::vec(sent(), 1..50)) {
        let route = |conditions: &str| routes(&format!("{{host: '*', {conditions}}}")).remove(0);
        let (one, other) = (route(&one), route(&other));
        if one.rank() == other.rank() && !one.clashes(&other) {
            let takes = |route: &Route, sent: &Sent| {
                let mut view = LatticeView::default();
                put_routes(&mut view, "w", 1, vec![route.clone()]);
                naive(&view, sent).is_some()
            };
            for sent in requests {
                prop_assert!(!(takes(&one, &sent) && takes(&other, &sent)), "{} {} {:?}", one, other, sent);
            }
        }
    }

    #[test]
    fn any_text_is_looked_up(host in ".{0,40}", path in ".{0,40}") {
        let mut view = LatticeView::default();
        put(&mut view, "w", 1, &["*/a/b", "*.a/", "a.b/aaa"]);
        let _ = find(&RouteTable::build(&view, &id("me")), &host, &path);
    }

    #[test]
    fn pick_takes_any_number(random in any::<u64>(), slots in proptest::collection::vec(0u32..4, 0..6)) {
        let mut view = LatticeView::default();
        put(&mut view, "w", 1, &["h.test/"]);
        let mut entry = entry(&view);
        entry.endpoints = slots.iter().enumerate().map(|(n, slots)| endpoint(&format!("n{n}"), *slots, n % 2 == 0)).collect();
        let ask = Ask { now: Duration::ZERO, random, tried: &[], suspects: &[] };
        let mut balancer = Balancer::default();
        let picked = balancer.pick(&entry, ask).map(|picked| picked.node.clone());
        prop_assert_eq!(picked.is_some(), slots.iter().any(|slots| *slots > 0));
    }
}
