//! How long does a node take to decide its part of the plan? Every node runs this on every pass, so it is what bounds the
//! size of a lattice. With nothing placed yet, after another node's loss, and at rest, which is what most passes find.
//!
//! There is no peer: no other scheduler decides without its own servers around it.

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use lattice::view::LatticeView;
use lattice_benches::world;
use lattice_planner::{Me, Plan, Situation};

/// Nodes, replicas. Ten replicas a workload.
const SIZES: [(u32, u32); 3] = [(100, 1_000), (1_000, 10_000), (1_000, 100_000)];
const REPLICAS: u32 = 10;

fn plan(view: &LatticeView) -> Plan {
    let me = world::holder(0);
    lattice_planner::plan(view, &Me { node: me.node, incarnation: me.incarnation }, Situation { settling: false })
}

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    // One plan for an empty lattice may take seconds.
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for (nodes, replicas) in SIZES {
        let size = format!("{nodes}x{replicas}");
        let mut view = world::nodes(nodes);
        for number in 0..replicas / REPLICAS {
            world::ask_for(&mut view, number, REPLICAS, Vec::new());
        }
        // Elements are placements: all of them are decided, whoever carries them out.
        group.throughput(Throughput::Elements(replicas.into()));
        group.bench_function(BenchmarkId::new("nothing-placed", &size), |bencher| bencher.iter(|| plan(&view)));

        world::place_all(&mut view, 0, nodes);
        group.bench_function(BenchmarkId::new("at-rest", &size), |bencher| bencher.iter(|| plan(&view)));

        let lost = world::node_id(nodes - 1);
        view.sessions.remove(&lost);
        let vacant = view.slots.values().filter(|slot| slot.record.holder.node == lost).count();
        group.throughput(Throughput::Elements(vacant as u64));
        group.bench_function(BenchmarkId::new("one-node-lost", &size), |bencher| bencher.iter(|| plan(&view)));
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
