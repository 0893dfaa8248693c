//! The runtime against real guests. Build them first: `cargo xtask guests`. They are taken from `target/guests`, or from
//! the directory that the environment variable `LATTICE_GUESTS` names.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests are tests as well")]

mod cache;
mod concurrency;
mod exchange;
mod fairness;
mod faults;
#[cfg(feature = "webgpu")]
mod gpu;
mod held_open;
mod load;
mod mesh;
mod network;
mod optimize;
mod part_faults;
mod parts;
mod probes;
mod reuse;
mod room;
mod sockets;
mod streams;
mod volumes;
mod warm;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use lattice::{
    http::{Body, CallError, Request},
    id::{Digest, WorkloadName},
    spec::Grants,
    trace::TraceContext,
};
use lattice_runtime::{
    Assembly, Component, Limits, LogSink, LogStream, Reuse, Runtime, RuntimeOptions, Unit, UnitConfig,
};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

/// One for all tests, with a cache that outlives them: compiling is slow in a debug build.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("runtime-code");
    Runtime::new(RuntimeOptions::new(cache)).unwrap()
});

const BOTH: [&str; 2] = ["02", "03"];

fn guest(name: &str) -> Bytes {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests");
    let dir = std::env::var_os("LATTICE_GUESTS").map_or_else(default, PathBuf::from);
    let path = dir.join(format!("{name}.wasm"));
    match std::fs::read(&path) {
        Ok(bytes) => bytes.into(),
        Err(error) => panic!("{}: {error}; run `cargo xtask guests`", path.display()),
    }
}

async fn component(name: &str) -> Component {
    let bytes = guest(name);
    RUNTIME.load(Digest::of(&bytes), bytes).await.unwrap()
}

/// The guests of both versions of wasi:http that answer alike.
fn hello(version: &str) -> String {
    format!("hello-http{version}")
}
fn echo(version: &str) -> &'static str {
    if version == "02" { "echo02" } else { "echo" }
}
fn faults(version: &str) -> &'static str {
    if version == "02" { "faults" } else { "faults03" }
}

#[derive(Default)]
struct Kept(Mutex<Vec<(Option<u64>, LogStream, String)>>);

impl LogSink for Kept {
    fn line(&self, instance: Option<u64>, stream: LogStream, _: Option<TraceContext>, line: &str) {
        self.0.lock().unwrap().push((instance, stream, line.to_owned()));
    }
}

/// Of a workload of its own: what the runtime finds out about a component, it remembers for the workload.
fn config() -> UnitConfig {
    static WORKLOADS: AtomicU32 = AtomicU32::new(0);
    let workload = format!("shop-{}", WORKLOADS.fetch_add(1, Relaxed));
    UnitConfig {
        workload: WorkloadName::new(workload).unwrap(),
        replica: 0,
        generation: lattice::id::Generation::FIRST,
        env: [("GREETING".to_owned(), "moin".to_owned())].into(),
        config: [("currency".to_owned(), "eur".to_owned())].into(),
        secrets: Arc::default(),
        reuse: Reuse::default(),
        limits: Limits { wall: Duration::from_secs(60), cpu: Duration::from_secs(30), ..Limits::default() },
        grants: Grants::default(),
        account: None,
        volumes: Vec::new(),
        by_function: false,
        logs: Arc::new(Kept::default()),
    }
}

/// A component with what the node offers, and no parts.
fn alone(runtime: &Runtime, component: Component) -> Assembly {
    runtime.assemble(component, Vec::new(), Vec::new()).unwrap()
}

async fn start(name: &str, change: impl FnOnce(&mut UnitConfig)) -> Unit {
    let mut config = config();
    change(&mut config);
    Unit::start(&RUNTIME, alone(&RUNTIME, component(name).await), config).await.unwrap()
}

fn request(method: &str, path: &str, body: Body) -> Request {
    http::Request::builder().method(method).uri(path).header("host", "shop.test").body(body).unwrap()
}

fn get(path: &str) -> Request {
    request("GET", path, lattice::http::empty())
}

/// Status and body as text.
async fn text(unit: &Unit, request: Request) -> Result<(u16, String), CallError> {
    let response = unit.call(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8(body.into()).unwrap()))
}

/// Waits until something is so. For what has no event to wait for, like a guest that is being dropped.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..3000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not so after 30 s: {what}");
}
