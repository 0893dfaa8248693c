//! How long does a router take to find a route, and to build the table that it looks in, and what memory does that take?
//! The peer is a look-up of the host alone in a hash set: the least that any router by host pays.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, Method};
use lattice::{id::NodeId, spec::Route, view::LatticeView};
use lattice_benches::{Pairs, processes::resident_here, repeat, world};
use lattice_route_table::{Asked, RouteTable, reads_alike};
use std::{
    collections::HashSet,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

const ROUTES: [u32; 3] = [10, 1_000, 100_000];
/// Routes of one workload.
const ROUTES_EACH: u32 = 10;
const NODES: u32 = 100;
/// More than fit a processor's first cache, so that a large table costs what it costs.
const LOOK_UPS: u32 = 4_096;
/// Routes that memory is measured of, in as many tables as that takes: what the allocator keeps does not count then.
const ROUTES_WEIGHED: u32 = 200_000;
/// Builds, and comparisons of views, of which the median is told.
const ROUNDS: usize = 15;

/// Five prefixes on a host of the workload's own, five on all hosts below it.
fn routes(workload: u32) -> Vec<Route> {
    let hosts = hosts_of(workload);
    let paths = ["/", "/api", "/api/v1", "/static", "/admin/users"];
    hosts.iter().flat_map(|host| paths.map(|path| world::route(host, path))).collect()
}

fn hosts_of(workload: u32) -> [String; 2] {
    [format!("shop-{workload}.example.org"), format!("*.shop-{workload}.example.org")]
}

/// Exact hosts and hosts under a wildcard, in turns; paths of a few segments.
fn requests(workloads: u32) -> Vec<(String, &'static str)> {
    let request = |number: u32| {
        // A prime step visits the whole table in an order that is not the table's own.
        let workload = number.wrapping_mul(7_919) % workloads;
        match number % 2 {
            0 => (format!("shop-{workload}.example.org"), "/api/v1/orders/17"),
            _ => (format!("eu.shop-{workload}.example.org"), "/static/app.css"),
        }
    };
    (0..LOOK_UPS).map(request).collect()
}

/// Every workload has a replica on each of two nodes.
fn view(routes_wanted: u32) -> LatticeView {
    let mut view = world::nodes(NODES);
    for number in 0..routes_wanted / ROUTES_EACH {
        world::ask_for(&mut view, number, 2, routes(number));
    }
    world::place_all(&mut view, 0, NODES);
    view
}

/// Bytes for each route, label and endpoints included. The first table is not counted: what it needs while it is built is
/// used by the next ones.
fn weigh(count: u32, view: &LatticeView, me: &NodeId) -> f64 {
    let copies = (ROUTES_WEIGHED / count).max(2);
    let first = RouteTable::build(view, me);
    let before = resident_here();
    let tables: Vec<RouteTable> = (0..copies).map(|_| RouteTable::build(view, me)).collect();
    let grown = resident_here().saturating_sub(before);
    black_box((first, tables));
    grown as f64 / f64::from(copies) / f64::from(count)
}

fn median_of<T>(mut routine: impl FnMut() -> T) -> Duration {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            let made = black_box(routine());
            let took = start.elapsed();
            drop(made);
            took
        })
        .collect();
    times.sort();
    times.get(ROUNDS / 2).copied().unwrap_or_default()
}

/// What a build costs, and what it costs to see that none is needed: a renewed session.
fn weigh_and_time_builds(me: &NodeId) {
    for count in ROUTES {
        let view = Arc::new(view(count));
        // First, while the process has taken no memory that it gave back.
        let bytes = weigh(count, &view, me);
        let build = median_of(|| RouteTable::build(&view, me));
        let mut renewed = LatticeView::clone(&view);
        renewed.sessions.values_mut().for_each(|session| session.revision.0 += 1);
        let look = median_of(|| assert!(reads_alike(&view, &renewed)));
        println!(
            "table of {count} routes: {bytes:.0} bytes a route; built in {build:.1?}; a change that needs no build is seen in {look:.1?}"
        );
    }
}

fn bench(criterion: &mut Criterion) {
    let me = world::node_id(0);
    // `--test` runs each routine once.
    if !std::env::args().any(|argument| argument == "--test") {
        weigh_and_time_builds(&me);
    }
    for count in ROUTES {
        let workloads = count / ROUTES_EACH;
        let view = view(count);

        let mut group = criterion.benchmark_group("route");
        group.throughput(Throughput::Elements(count.into()));
        group.sample_size(10).bench_function(BenchmarkId::new("build", count), |bencher| {
            bencher.iter(|| RouteTable::build(&view, &me));
        });

        let table = RouteTable::build(&view, &me);
        let requests = requests(workloads);
        let headers = HeaderMap::new();
        let has_route = |(host, path): &&(String, &'static str)| {
            table.find(&Asked { host, path, query: None, method: &Method::GET, headers: &headers }).is_some()
        };
        assert!(requests.iter().all(|request| has_route(&request)), "every request has a route");
        let mut pairs = Pairs::default();
        let mut hosts: HashSet<String> = requests.iter().map(|(host, _)| host.clone()).collect();
        hosts.extend((0..workloads).flat_map(hosts_of));
        group.sample_size(50).throughput(Throughput::Elements(LOOK_UPS.into()));
        group.bench_function(BenchmarkId::new("find", count), |bencher| {
            let found = || requests.iter().filter(has_route).count();
            let known = || requests.iter().filter(|(host, _)| hosts.contains(host)).count();
            pairs.measure(bencher, |iterations| repeat(iterations, found), |iterations| repeat(iterations, known));
        });
        group.finish();
        let what = format!("find among {count} routes");
        pairs.print(&what, "look up the host in a hash set", LOOK_UPS.into(), "look-ups");
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
