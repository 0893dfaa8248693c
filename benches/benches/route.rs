//! How long does a router take to find a route, and to build the table that it looks in? The peer is a look-up of the
//! host alone in a hash map: the least that any router by host pays.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lattice::spec::Route;
use lattice_benches::{Samples, compare, repeat, world};
use lattice_route_table::RouteTable;
use std::collections::HashMap;

const ROUTES: [u32; 3] = [10, 1_000, 100_000];
/// Routes of one workload.
const ROUTES_EACH: u32 = 10;
const NODES: u32 = 100;
/// More than fit a processor's first cache, so that a large table costs what it costs.
const LOOK_UPS: u32 = 4_096;

/// Five prefixes on a host of the workload's own, five on all hosts below it.
fn routes(workload: u32) -> Vec<Route> {
    let hosts = [format!("shop-{workload}.example.org"), format!("*.shop-{workload}.example.org")];
    let paths = ["/", "/api", "/api/v1", "/static", "/admin/users"];
    hosts.iter().flat_map(|host| paths.map(|path| world::route(host, path))).collect()
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

fn bench(criterion: &mut Criterion) {
    for count in ROUTES {
        let workloads = count / ROUTES_EACH;
        let mut view = world::nodes(NODES);
        for number in 0..workloads {
            world::ask_for(&mut view, number, 2, routes(number));
        }
        world::place_all(&mut view, 0, NODES);
        let me = world::node_id(0);

        let mut group = criterion.benchmark_group("route");
        group.throughput(Throughput::Elements(count.into()));
        group.sample_size(10).bench_function(BenchmarkId::new("build", count), |bencher| {
            bencher.iter(|| RouteTable::build(&view, &me));
        });

        let table = RouteTable::build(&view, &me);
        let requests = requests(workloads);
        assert!(requests.iter().all(|(host, path)| table.find(host, path).is_some()), "every request has a route");
        let (mut ours, mut peer) = (Samples::default(), Samples::default());
        group.throughput(Throughput::Elements(LOOK_UPS.into()));
        group.bench_function(BenchmarkId::new("find", count), |bencher| {
            ours.measure(bencher, |iterations| {
                repeat(iterations, || requests.iter().filter(|(host, path)| table.find(host, path).is_some()).count())
            });
        });
        let by_host: HashMap<&str, u32> = requests.iter().map(|(host, _)| (host.as_str(), 0)).collect();
        group.bench_function(BenchmarkId::new("hash-map", count), |bencher| {
            peer.measure(bencher, |iterations| {
                repeat(iterations, || requests.iter().filter(|(host, _)| by_host.contains_key(host.as_str())).count())
            });
        });
        group.finish();
        let what = format!("find, {count} routes");
        compare(&what, "look-ups", LOOK_UPS.into(), ("route table", &ours), ("hash map of hosts", &peer));
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
