//! What does the way through the node cost a guest that uses a GPU? Submits of a small dispatch, several in flight and one at a time,
//! and bytes to the GPU and back. The peer is the same code, `guests/gpu-matmul/src/speed.rs`, on wgpu itself in this process: on the
//! same adapter, in turns. In the guest there are wasi-wgpu, the component's boundary and the host between.
//!
//! Needs `cargo xtask guests --rust-only`, and a driver for a GPU; `apt-get install mesa-vulkan-drivers libvulkan1` brings one that
//! computes with the processor, and is used where there is no GPU.

#![allow(clippy::expect_used, clippy::panic, reason = "a bench that fails has nothing to measure")]

#[path = "../../guests/gpu-matmul/src/speed.rs"]
#[expect(unreachable_pub, reason = "it is written for a guest")]
mod speed;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http_body_util::BodyExt as _;
use lattice::{
    http::Request,
    id::{Digest, Generation, WorkloadName},
    trace::TraceContext,
};
use lattice_benches::{Pairs, processes::workspace};
use lattice_runtime::{
    GpuSelector, Gpus, Limits, LogSink, LogStream, Reuse, Runtime, RuntimeOptions, Unit, UnitConfig,
};
use speed::Speed;
use std::{sync::Arc, time::Duration};

const MIB: f64 = speed::BYTES as f64 / (1 << 20) as f64;
/// What is measured, how much of what one of it is.
const CASES: [(&str, f64, &str); 4] =
    [("submit", 1.0, "submits"), ("round-trip", 1.0, "submits"), ("upload", MIB, "MiB"), ("readback", MIB, "MiB")];

/// Of a request that measures.
const DEADLINE: Duration = Duration::from_secs(600);

struct Stderr;

impl LogSink for Stderr {
    fn line(&self, _: Option<u64>, _: LogStream, _: Option<TraceContext>, line: &str) {
        eprintln!("{line}");
    }
}

/// What the node gives a guest: GPUs, or else what computes with the processor. `None` where there is neither.
async fn gpus() -> Option<Arc<Gpus>> {
    for selector in [GpuSelector::Auto, GpuSelector::Cpu] {
        match Gpus::detect(selector).await {
            Ok(gpus) if !gpus.is_empty() => return Some(gpus),
            Ok(_) => {}
            Err(error) => println!("{error}"),
        }
    }
    None
}

async fn unit(runtime: &Runtime, guest: Bytes) -> Unit {
    let component = runtime.load(Digest::of(&guest), guest).await.expect("a component");
    let assembly = runtime.assemble(component, Vec::new(), Vec::new()).expect("an assembly");
    let config = UnitConfig {
        workload: WorkloadName::new("bench").expect("a name"),
        replica: 0,
        generation: Generation::FIRST,
        env: [].into(),
        config: [].into(),
        reuse: Reuse { enabled: true, min_warm: 0, requests: u32::MAX, ..Reuse::default() },
        limits: Limits { wall: DEADLINE, cpu: DEADLINE, ..Limits::default() },
        grants: Default::default(),
        volumes: Vec::new(),
        by_function: false,
        secrets: Default::default(),
        account: None,
        logs: Arc::new(Stderr),
    };
    Unit::start(runtime, assembly, config).await.expect("a unit")
}

/// What the guest says that it took.
async fn ask(unit: &Unit, what: &str, times: u64) -> Duration {
    let request = http::Request::builder().uri(format!("/speed/{what}/{times}")).header("host", "bench.test");
    let request: Request = request.body(lattice::http::empty()).expect("a request");
    let response = unit.call(request).await.expect("a response");
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    let text = String::from_utf8_lossy(&body);
    Duration::from_nanos(text.trim().parse().unwrap_or_else(|_| panic!("the guest says: {text}")))
}

/// The adapter of this name, opened as a node does it.
async fn peer(name: &str) -> Speed {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    descriptor.flags = wgpu::InstanceFlags::VALIDATION_INDIRECT_CALL | wgpu::InstanceFlags::DISCARD_HAL_LABELS;
    let adapters = wgpu::Instance::new(descriptor).enumerate_adapters(wgpu::Backends::all()).await;
    let adapter = adapters.into_iter().find(|adapter| adapter.get_info().name == name).expect("the same adapter");
    Speed::open(&adapter).await.expect("a device")
}

fn bench(criterion: &mut Criterion) {
    let Ok(guest) = std::fs::read(workspace().join("target/guests/gpu-matmul.wasm")) else {
        return println!("left out: run `cargo xtask guests --rust-only`");
    };
    // As in a node.
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().event_interval(8).build();
    let tokio = tokio.expect("a runtime");
    let Some(gpus) = tokio.block_on(gpus()) else {
        return println!("left out: there is no driver, such as that of mesa-vulkan-drivers");
    };
    let name = gpus.adapters().next().map(|adapter| adapter.name.clone()).expect("an adapter");
    println!("on {name}");
    let native = tokio.block_on(peer(&name));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let runtime = Runtime::new(RuntimeOptions { gpus, ..RuntimeOptions::new(dir.path().join("code")) });
    let runtime = runtime.expect("a runtime");
    let unit = tokio.block_on(unit(&runtime, guest.into()));
    let mut group = criterion.benchmark_group("gpu");
    group.sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    for (what, units, unit_name) in CASES {
        let is_bytes = unit_name == "MiB";
        group.throughput(if is_bytes { Throughput::Bytes(speed::BYTES) } else { Throughput::Elements(1) });
        let mut pairs = Pairs::default();
        group.bench_function(what, |bencher| {
            pairs.measure(
                bencher,
                |times| tokio.block_on(ask(&unit, what, times)),
                |times| native.time(what, times).expect("the driver works"),
            );
        });
        pairs.print(&format!("{what} of a guest"), "of wgpu itself", units, unit_name);
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
