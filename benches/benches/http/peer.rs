//! The servers that this program is when it is started with `--serve`: hyper with a static answer, and the runtime behind
//! nothing but hyper.

use crate::servers::INSTANCES_MAX;
use http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Collected, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use lattice::{http::BodyError, id::Digest, spec::Grants};
use lattice_runtime::{Limits, LogSink, LogStream, Reuse, Runtime, RuntimeOptions, Unit, UnitConfig};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap, convert::Infallible, error::Error, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration,
};
use tokio::net::TcpListener;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Task {
    Hyper { sleep_ms: u64, address: SocketAddr },
    Runtime { wasm: PathBuf, address: SocketAddr },
}

impl Task {
    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Task::Hyper { address, .. } | Task::Runtime { address, .. } => *address,
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

/// Answers a body with itself, and what has none with a line that never changes.
async fn hyper(address: SocketAddr, sleep_ms: u64) {
    let answer = move |request: http::Request<Incoming>| async move {
        if sleep_ms > 0 {
            tokio::time::sleep(Duration::from_millis(sleep_ms)).await;
        }
        let body = match request.body().is_end_stream() {
            true => "Hello from hyper, the same for each request\n".into(),
            false => request.into_body().collect().await.map(Collected::to_bytes).unwrap_or_default(),
        };
        let mut response = http::Response::new(Full::new(body));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    };
    accept(address, answer).await;
}

async fn runtime_alone(address: SocketAddr, wasm: PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let runtime = Runtime::new(RuntimeOptions::new(dir.path().join("code"))).expect("a runtime");
    let bytes = std::fs::read(&wasm).expect("the guest is readable");
    let component = runtime.load(Digest::of(&bytes), bytes.into()).await.expect("a good component");
    let config = UnitConfig {
        workload: "bench".parse().expect("a good name"),
        replica: 0,
        env: BTreeMap::new(),
        config: BTreeMap::new(),
        reuse: Reuse { max_instances: INSTANCES_MAX, ..Reuse::default() },
        limits: Limits::default(),
        grants: Grants::default(),
        volumes: Vec::new(),
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
    fn line(&self, _: Option<u64>, _: LogStream, _: &str) {}
}
