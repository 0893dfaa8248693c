//! How long does a node take to decide its part of the plan? Every node runs this on every pass, so it is what bounds the
//! size of a lattice. `alone` from the view alone, with nothing placed yet and at rest; `kept` by a planner that has seen
//! the view before: after a renewal, which is what most passes find, and after another node's loss.
//!
//! There is no peer: no other scheduler decides without its own servers around it.

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use lattice::{spec::Spread, view::LatticeView};
use lattice_benches::world;
use lattice_planner::{Me, Plan, Planner, Situation};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Nodes, replicas. Ten replicas a workload.
const SIZES: [(u32, u32); 4] = [(100, 1_000), (1_000, 10_000), (1_000, 100_000), (10_000, 1_000_000)];
const REPLICAS: u32 = 10;
const SETTLED: Situation = Situation { settling: false, drain_is_over: false };

fn me() -> Me {
    let me = world::holder(0);
    Me { node: me.node, incarnation: me.incarnation }
}

fn plan(view: &LatticeView) -> Plan {
    lattice_planner::plan(view, &me(), SETTLED)
}

/// The time of the second plan, after one of another view.
fn after(planner: &mut Planner, before: &Arc<LatticeView>, view: &Arc<LatticeView>) -> Duration {
    planner.plan(before, &me(), SETTLED);
    let start = Instant::now();
    std::hint::black_box(planner.plan(view, &me(), SETTLED));
    start.elapsed()
}

/// A view with specs and nothing placed; spread over zones, if asked.
fn asked(nodes: u32, replicas: u32, over_zones: bool) -> LatticeView {
    let mut view = world::nodes(nodes);
    for number in 0..replicas / REPLICAS {
        let name = world::ask_for(&mut view, number, REPLICAS, Vec::new());
        if let Some(spec) = view.specs.get_mut(&name).filter(|_| over_zones) {
            let zones = Spread { over: "zone".into(), max_skew: 1, hard: false, shares: Default::default() };
            Arc::make_mut(spec).record.spec.placement.spread = vec![zones];
        }
    }
    view
}

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    // One plan for an empty lattice may take seconds.
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for (nodes, replicas) in SIZES {
        let size = format!("{nodes}x{replicas}");
        // Elements are placements: all of them are decided, whoever carries them out.
        group.throughput(Throughput::Elements(replicas.into()));
        if replicas <= 100_000 {
            let zones = asked(nodes, replicas, true);
            group.bench_function(BenchmarkId::new("zones-alone", &size), |bencher| bencher.iter(|| plan(&zones)));
        }
        let mut view = asked(nodes, replicas, false);
        group.bench_function(BenchmarkId::new("nothing-placed-alone", &size), |bencher| bencher.iter(|| plan(&view)));

        world::place_all(&mut view, 0, nodes);
        group.bench_function(BenchmarkId::new("at-rest-alone", &size), |bencher| bencher.iter(|| plan(&view)));

        let last = world::node_id(nodes - 1);
        let mut renewed = view.clone();
        if let Some(session) = renewed.sessions.get_mut(&last) {
            session.record.renewals += 1;
            session.revision.0 += 1;
        }
        let (view, renewed) = (Arc::new(view), Arc::new(renewed));
        let mut planner = Planner::default();
        let mut kept = |name: &str, elements: u64, before: &Arc<LatticeView>, view: &Arc<LatticeView>| {
            group.throughput(Throughput::Elements(elements));
            group.bench_function(BenchmarkId::new(name, &size), |bencher| {
                bencher.iter_custom(|times| (0..times).map(|_| after(&mut planner, before, view)).sum());
            });
        };
        kept("at-rest-kept", replicas.into(), &renewed, &view);
        let mut without = LatticeView::clone(&view);
        without.sessions.remove(&last);
        let vacant = without.slots.values().filter(|slot| slot.record.holder.node == last).count();
        kept("one-node-lost-kept", vacant as u64, &view, &Arc::new(without));
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
