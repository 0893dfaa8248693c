//! What does a call from one component to another cost: composed into one; linked by the host as an isolated part, a
//! service, or a lazy part that is made for each call; and as a workload on another node, over NATS (`over_nats.rs`)? The
//! peer of each is the composed call.
//!
//! The guest calls in a loop, so that a request is one of very many calls. Needs `cargo xtask guests --rust-only`, and
//! `cargo xtask nats` for the last.

#![allow(clippy::expect_used, clippy::panic, reason = "a bench that fails has nothing to measure")]

mod over_nats;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http_body_util::BodyExt as _;
use lattice::{
    http::Request,
    id::{ComponentName, Digest, WorkloadName},
    spec::Grants,
    trace::TraceContext,
};
use lattice_benches::Pairs;
use lattice_runtime::{
    Assembly, Edge, Limits, LogSink, LogStream, Part, PartRole, Restart, Reuse, Runtime, RuntimeOptions, Unit,
    UnitConfig,
};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// What is called, and with how many bytes.
const CALLS: [(&str, u32); 10] = [
    ("add", 0),
    ("same", 64),
    ("same", 1 << 10),
    ("same", 4 << 10),
    ("same", 64 << 10),
    ("flip", 64),
    ("flip", 1 << 10),
    ("flip", 4 << 10),
    ("flip", 64 << 10),
    ("count", 64 << 10),
];

struct Silent;

impl LogSink for Silent {
    fn line(&self, _: Option<u64>, _: LogStream, _: Option<TraceContext>, _: &str) {}
}

struct Bench {
    tokio: tokio::runtime::Runtime,
    runtime: Runtime,
    _cache: tempfile::TempDir,
}

impl Bench {
    /// As in a node, but for the one thread: the callee never wakes another one.
    fn on_one_thread() -> Self {
        Self::new(tokio::runtime::Builder::new_current_thread())
    }

    fn new(mut tokio: tokio::runtime::Builder) -> Self {
        let tokio = tokio.enable_all().event_interval(8).build();
        let cache = tempfile::tempdir().expect("a directory for compiled code");
        let runtime = Runtime::new(RuntimeOptions::new(cache.path().join("code"))).expect("a runtime");
        Self { tokio: tokio.expect("a tokio runtime"), runtime, _cache: cache }
    }

    fn load(&self, bytes: Bytes) -> lattice_runtime::Component {
        self.tokio.block_on(self.runtime.load(Digest::of(&bytes), bytes)).expect("a component")
    }

    fn start(&self, assembly: Assembly, grants: Grants) -> Unit {
        let limits = Limits { wall: Duration::from_secs(3600), cpu: Duration::from_secs(3600), ..Limits::default() };
        let config = UnitConfig {
            workload: WorkloadName::new("bench").expect("a name"),
            replica: 0,
            generation: lattice::id::Generation::FIRST,
            env: [].into(),
            config: [].into(),
            reuse: Reuse::default(),
            limits,
            grants,
            volumes: Vec::new(),
            by_function: false,
            secrets: Default::default(),
            account: None,
            logs: Arc::new(Silent),
        };
        self.tokio.block_on(Unit::start(&self.runtime, assembly, config)).expect("a unit")
    }

    fn composed(&self, grants: Grants) -> Unit {
        let part = |name| lattice_composer::Part { name: component_name(name), bytes: guest(name), role: None };
        let whole = lattice_composer::compose(&[part("part-caller"), part("part")], &[]).expect("a composition");
        self.alone(whole.bytes, grants)
    }

    /// Without parts.
    fn alone(&self, component: Bytes, grants: Grants) -> Unit {
        let main = self.load(component);
        self.start(self.runtime.assemble(main, Vec::new(), Vec::new()).expect("an assembly"), grants)
    }

    fn linked(&self, caller: &str, part: &str, interfaces: &[&str], role: PartRole) -> Unit {
        let edge = |interface: &&str| {
            let interface = format!("example:parts/{interface}@0.1.0");
            Edge { from: None, import: interface.clone(), to: component_name(part), export: interface }
        };
        let parts = vec![Part::new(component_name(part), self.load(guest(part)), role)];
        let edges = interfaces.iter().map(edge).collect();
        let assembly = self.runtime.assemble(self.load(guest(caller)), parts, edges).expect("an assembly");
        self.start(assembly, Grants::default())
    }

    /// That many calls.
    fn time(&self, unit: &Unit, path: &str, times: u64) -> Duration {
        let began = Instant::now();
        self.answer(unit, path, times);
        began.elapsed()
    }

    /// What came of that many calls, as the guest sums it up.
    fn answer(&self, unit: &Unit, path: &str, times: u64) -> Bytes {
        let request = http::Request::builder().uri(format!("{path}/{times}")).header("host", "bench.test");
        let request: Request = request.body(lattice::http::empty()).expect("a request");
        self.tokio.block_on(async {
            let response = unit.call(request).await.expect("a response");
            assert_eq!(response.status(), 200);
            response.into_body().collect().await.expect("it is whole").to_bytes()
        })
    }
}

fn component_name(name: &str) -> ComponentName {
    ComponentName::new(name).expect("a name")
}

fn guest(name: &str) -> Bytes {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../target/guests/{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask guests`", path.display())).into()
}

fn bench(criterion: &mut Criterion) {
    let bench = Bench::on_one_thread();
    let composed = bench.composed(Grants::default());
    let linked = |role| bench.linked("part-caller", "part", &["counter", "text", "values", "faults"], role);
    let service = || PartRole::Service { restart: Restart::default() };
    let modes = [
        ("isolated", linked(PartRole::Isolated)),
        ("service", linked(service())),
        ("lazy, a fresh one for each call", linked(PartRole::Lazy { idle: Duration::ZERO })),
    ];
    let mut group = criterion.benchmark_group("compose");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for (what, size) in CALLS {
        for (mode, unit) in &modes {
            let name = format!("{what} {size} B, {mode}");
            let path = format!("/loop/{what}/{size}");
            let mut pairs = Pairs::default();
            group.bench_function(BenchmarkId::from_parameter(&name), |bencher| {
                let time = |unit, times| bench.time(unit, &path, times);
                pairs.measure(bencher, |times| time(unit, times), |times| time(&composed, times));
            });
            pairs.print(&name, "composed", 1.0, "calls");
        }
    }
    // A service of 0.3 has a task of its own. Its peer is the service of 0.2.
    let peer = &modes[1].1;
    let service03 = bench.linked("part-caller03", "part03", &["counter", "faults", "slow"], service());
    for what in ["add", "sleep"] {
        let name = format!("{what}, service of 0.3");
        let mut pairs = Pairs::default();
        group.bench_function(BenchmarkId::from_parameter(&name), |bencher| {
            let ours = |times| bench.time(&service03, &format!("/loop/{what}"), times);
            pairs.measure(bencher, ours, |times| bench.time(peer, "/loop/add/0", times));
        });
        pairs.print(&name, "add, service of 0.2", 1.0, "calls");
    }
    let over_nats = over_nats::World::start();
    for size in [64, 1 << 10, 64 << 10] {
        let name = format!("echo {size} B, over NATS");
        let mut pairs = Pairs::default();
        group.bench_function(BenchmarkId::from_parameter(&name), |bencher| {
            let composed = |times| bench.time(&composed, &format!("/loop/same/{size}"), times);
            pairs.measure(bencher, |times| over_nats.time(size, times), composed);
        });
        pairs.print(&name, "same, composed", 1.0, "calls");
    }
    over_nats.stop();
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
