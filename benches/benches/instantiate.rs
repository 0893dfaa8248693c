//! What does a fresh instance cost? A request to a unit that makes an instance for each (`reuse: off`), from the pool and
//! allocated on demand; the peer of both is the same request to a unit that keeps its instance, so the difference is the
//! instance. How `wasmtime serve` compares with fresh instances is a question of `http`.
//!
//! Needs `cargo xtask guests`, or with `--rust-only` those in Rust alone.

#![allow(clippy::expect_used, clippy::panic, reason = "a bench that fails has nothing to measure")]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http_body_util::BodyExt as _;
use lattice::{
    http::Request,
    id::{Digest, WorkloadName},
    trace::TraceContext,
};
use lattice_benches::{Pairs, processes::workspace};
use lattice_runtime::{Limits, LogSink, LogStream, Reuse, Runtime, RuntimeOptions, Unit, UnitConfig};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// Those of other languages are slow to build: they are left out where they are not there.
const GUESTS: [&str; 5] = ["hello-http02", "hello-http03", "hello-c", "hello-js", "hello-python"];

struct Silent;

impl LogSink for Silent {
    fn line(&self, _: Option<u64>, _: LogStream, _: Option<TraceContext>, _: &str) {}
}

struct Bench {
    tokio: tokio::runtime::Runtime,
    pooled: Runtime,
    on_demand: Runtime,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().event_interval(8).build();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let options = |name: &str| RuntimeOptions::new(dir.path().join(name));
        // Larger than a place in a pool can be, so there is none.
        let without_pool = RuntimeOptions { max_memory_bytes: 1 << 40, ..options("on-demand") };
        Self {
            tokio: tokio.expect("a tokio runtime"),
            pooled: Runtime::new(options("pooled")).expect("a runtime"),
            on_demand: Runtime::new(without_pool).expect("a runtime"),
            _dir: dir,
        }
    }

    fn unit(&self, runtime: &Runtime, guest: &Path, is_kept: bool) -> Unit {
        let bytes: bytes::Bytes = std::fs::read(guest).expect("the guest is readable").into();
        let component = self.tokio.block_on(runtime.load(Digest::of(&bytes), bytes)).expect("a component");
        let assembly = runtime.assemble(component, Vec::new(), Vec::new()).expect("an assembly");
        let config = UnitConfig {
            workload: WorkloadName::new("bench").expect("a name"),
            replica: 0,
            generation: lattice::id::Generation::FIRST,
            env: [].into(),
            config: [].into(),
            // None waits for its request: it would be made beside the measurement.
            reuse: Reuse { enabled: is_kept, min_warm: 0, requests: u32::MAX, ..Reuse::default() },
            limits: Limits::default(),
            grants: Default::default(),
            volumes: Vec::new(),
            by_function: false,
            secrets: Default::default(),
            account: None,
            logs: Arc::new(Silent),
        };
        self.tokio.block_on(Unit::start(runtime, assembly, config)).expect("a unit")
    }

    fn time(&self, unit: &Unit, times: u64) -> Duration {
        self.tokio.block_on(async {
            let began = Instant::now();
            for _ in 0..times {
                let request = http::Request::builder().uri("/quiet").header("host", "bench.test");
                let request: Request = request.body(lattice::http::empty()).expect("a request");
                let response = unit.call(request).await.expect("a response");
                response.into_body().collect().await.expect("a body");
            }
            began.elapsed()
        })
    }
}

fn bench(criterion: &mut Criterion) {
    let bench = Bench::new();
    let mut group = criterion.benchmark_group("instantiate");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for name in GUESTS {
        let guest = workspace().join("target/guests").join(format!("{name}.wasm"));
        if !guest.is_file() {
            println!("{name} is left out: run `cargo xtask guests`");
            continue;
        }
        let kept = bench.unit(&bench.pooled, &guest, true);
        for (what, runtime) in [("from the pool", &bench.pooled), ("on demand", &bench.on_demand)] {
            let fresh = bench.unit(runtime, &guest, false);
            let mut pairs = Pairs::default();
            group.bench_function(BenchmarkId::new(name, what), |bencher| {
                pairs.measure(bencher, |times| bench.time(&fresh, times), |times| bench.time(&kept, times));
            });
            pairs.print(&format!("{name}, a fresh instance {what}"), "a kept one", 1.0, "requests");
        }
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
