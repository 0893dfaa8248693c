//! The servers that this program is when it is started with `--serve`: hyper with a static answer, a router in front of
//! the same answer, and the runtime behind nothing but hyper.

use crate::servers::INSTANCES_MAX;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Collected, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use lattice::{
    Fut,
    http::{BodyError, CallError, Instances, Request, Response, full},
    id::{Digest, LatticeId, WorkloadName},
    spec::Grants,
    trace::TraceContext,
};
use lattice_benches::{wires::Wires, world};
use lattice_nats::{SystemClock, SystemRng};
use lattice_router::{Router, RouterOptions};
use lattice_runtime::{Limits, LogSink, LogStream, Reuse, Runtime, RuntimeOptions, Unit, UnitConfig};
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap, convert::Infallible, error::Error, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration,
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Task {
    Hyper { sleep_ms: u64, address: SocketAddr },
    Router { sleep_ms: u64, address: SocketAddr, host: String },
    Runtime { wasm: PathBuf, address: SocketAddr },
}

impl Task {
    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Task::Hyper { address, .. } | Task::Router { address, .. } | Task::Runtime { address, .. } => *address,
        }
    }
}

pub(crate) fn serve(task: &str) {
    let task: Task = serde_json::from_str(task).expect("a task");
    // As in a node.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().event_interval(8).build();
    runtime.expect("a runtime").block_on(async move {
        match task {
            Task::Hyper { sleep_ms, address } => hyper(address, sleep_ms).await,
            Task::Router { sleep_ms, address, host } => router(address, &host, sleep_ms).await,
            Task::Runtime { wasm, address } => runtime_alone(address, wasm).await,
        }
    });
}

/// A connection at a time, each with a task of its own.
async fn accept<F, R, B>(address: SocketAddr, answer: F)
where
    F: Fn(http::Request<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = http::Response<B>> + Send,
    B: http_body::Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let listener = TcpListener::bind(address).await.expect("the address is free");
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let answer = answer.clone();
        let service = service_fn(move |request| {
            let answer = answer(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// A body with itself, and what has none with a line that never changes.
async fn answer<B: http_body::Body>(request: http::Request<B>, sleep_ms: u64) -> http::Response<Bytes> {
    if sleep_ms > 0 {
        tokio::time::sleep(Duration::from_millis(sleep_ms)).await;
    }
    let body = match request.body().is_end_stream() {
        true => Bytes::from_static(b"Hello from hyper, the same for each request\n"),
        false => request.into_body().collect().await.map(Collected::to_bytes).unwrap_or_default(),
    };
    let mut response = http::Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

async fn hyper(address: SocketAddr, sleep_ms: u64) {
    accept(
        address,
        move |request: http::Request<Incoming>| async move { answer(request, sleep_ms).await.map(Full::new) },
    )
    .await;
}

/// All that a node does with a request but the guest: nobody else is in its lattice.
async fn router(address: SocketAddr, host: &str, sleep_ms: u64) {
    let mut view = world::nodes(1);
    world::ask_for(&mut view, 0, 1, vec![world::route(host, "/")]);
    world::place_all(&mut view, 0, 1);
    // A view that never changes: the table of the first one stays in force.
    let (_, view) = watch::channel(Arc::new(view));
    let lattice = LatticeId::new("bench").expect("a good name");
    let (clock, rng) = (Arc::new(SystemClock::default()), Arc::new(SystemRng));
    let options = RouterOptions::new(world::node_id(0), lattice);
    let mut metrics = Registry::default();
    let router = Router::new(
        options,
        Arc::new(Wires::default()),
        clock,
        rng,
        Arc::new(Instant { sleep_ms }),
        view,
        &mut metrics,
    );
    let listener = TcpListener::bind(address).await.expect("the address is free");
    router.serve(listener, CancellationToken::new(), Duration::ZERO).await;
}

struct Instant {
    sleep_ms: u64,
}

impl Instances for Instant {
    fn is_ready(&self, _: &WorkloadName) -> bool {
        true
    }

    fn call(&self, _: &WorkloadName, request: Request) -> Fut<'static, Result<Response, CallError>> {
        let sleep_ms = self.sleep_ms;
        Box::pin(async move { Ok(answer(request, sleep_ms).await.map(full)) })
    }
}

async fn runtime_alone(address: SocketAddr, wasm: PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let runtime = Runtime::new(RuntimeOptions::new(dir.path().join("code"))).expect("a runtime");
    let bytes = std::fs::read(&wasm).expect("the guest is readable");
    let component = runtime.load(Digest::of(&bytes), bytes.into()).await.expect("a good component");
    let config = UnitConfig {
        workload: "bench".parse().expect("a good name"),
        replica: 0,
        generation: lattice::id::Generation::FIRST,
        env: BTreeMap::new(),
        config: BTreeMap::new(),
        reuse: Reuse { max_instances: INSTANCES_MAX, ..Reuse::default() },
        limits: Limits::default(),
        grants: Grants::default(),
        volumes: Vec::new(),
        by_function: false,
        secrets: Default::default(),
        account: None,
        logs: Arc::new(NoLogs),
    };
    let assembly = runtime.assemble(component, Vec::new(), Vec::new()).expect("it needs nothing");
    let unit = Arc::new(Unit::start(&runtime, assembly, config).await.expect("the guest starts"));
    let answer = move |request: http::Request<Incoming>| {
        let body = |body: Incoming| body.map_err(|error| BodyError::Aborted(error.to_string())).boxed_unsync();
        let (unit, request) = (unit.clone(), request.map(body));
        async move {
            unit.call(request).await.unwrap_or_else(|error| {
                let mut response = http::Response::new(lattice::http::full(error.to_string()));
                *response.status_mut() = StatusCode::BAD_GATEWAY;
                response
            })
        }
    };
    accept(address, answer).await;
}

struct NoLogs;

impl LogSink for NoLogs {
    fn line(&self, _: Option<u64>, _: LogStream, _: Option<TraceContext>, _: &str) {}
}
