//! Hot paths to count instructions of: `counts PATH ITERATIONS` walks one so many times, `counts` names them. Meant to be
//! run under callgrind by `cargo xtask count`, which counts what happens below [`measured`] and nothing else. One thread,
//! and no sockets: the same input gives the same number of instructions, but for what timers do.

#![allow(clippy::expect_used, clippy::panic, reason = "a path that can't be walked has nothing to count")]

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, Method, Uri, header::HOST};
use http_body_util::BodyExt as _;
use lattice::{
    Fut,
    access::{Access, AccessLog},
    frame::Frame,
    http::{Body, CallError, Instances, Request, Response, empty, full},
    id::{LatticeId, WorkloadName},
    limits::NATS_PAYLOAD_BYTES_DEFAULT,
    store::{Clock, Rng},
    trace::{Recorder, Span, Tracer},
    view::LatticeView,
};
use lattice_benches::{small, wires::Wires, world};
use lattice_route_table::{Asked, RouteTable};
use lattice_router::{Router, RouterOptions};
use prometheus_client::registry::Registry;
use std::{
    hint::black_box,
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

type Walk = fn(u64);

const PATHS: &[(&str, Walk)] = &[
    ("route/find", |iterations| find_route(iterations, 500)),
    // The same among ten routes and among twenty thousand: it must not grow with them.
    ("route/find-10", |iterations| find_route(iterations, 5)),
    ("route/find-20000", |iterations| find_route(iterations, 10_000)),
    ("frame/request-and-reply", carry_in_frames),
    ("router/remote-request", route_remotely),
    ("router/local-request", |iterations| route_locally(iterations, |_| {})),
    // Telemetry is exported, and this trace is not: what everybody pays for the few that are.
    ("router/local-sampling-off", |iterations| route_locally(iterations, |options| options.tracer = unsampled())),
    // Metrics are exported: each request is counted once more, as the semantic conventions have it.
    ("router/local-conventions", |iterations| route_locally(iterations, |options| options.conventions = true)),
    ("router/local-access-log", |iterations| {
        route_locally(iterations, |options| options.access_log = Some(Arc::new(Nobody)))
    }),
    #[cfg(feature = "runtime")]
    ("runtime/0.2-reused", |iterations| runtime::call("hello-http02", iterations, Tracer::default())),
    #[cfg(feature = "runtime")]
    ("runtime/0.2-sampling-off", |iterations| runtime::call("hello-http02", iterations, unsampled())),
    #[cfg(feature = "runtime")]
    ("runtime/0.3-reused", |iterations| runtime::call("hello-http03", iterations, Tracer::default())),
    // A request that makes a hundred calls of a part: little else is in it.
    #[cfg(feature = "runtime")]
    ("parts/0.2-service-100", |iterations| {
        runtime::call_service(("part-caller", "part"), "/loop/add/0/100", iterations)
    }),
    #[cfg(feature = "runtime")]
    ("parts/0.3-service-100", |iterations| {
        runtime::call_service(("part-caller03", "part03"), "/loop/add/100", iterations)
    }),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, iterations] = arguments.as_slice() else {
        PATHS.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    };
    let walk = PATHS.iter().find(|(known, _)| known == name).map(|(_, walk)| walk);
    let (Some(walk), Ok(iterations)) = (walk, iterations.parse()) else {
        eprintln!("usage: counts [PATH ITERATIONS]");
        return ExitCode::from(2);
    };
    walk(iterations);
    ExitCode::SUCCESS
}

/// Walks that are not counted: what is allocated or filled once.
const WARM_UP: u64 = 20;

/// Callgrind knows it by its name.
#[inline(never)]
fn measured<T>(walk: impl FnOnce() -> T) -> T {
    walk()
}

fn repeat<T>(iterations: u64, mut walk: impl FnMut() -> T) {
    (0..WARM_UP).for_each(|_| drop(walk()));
    (0..iterations).for_each(|_| drop(measured(&mut walk)));
}

/// A look-up among two routes of each workload.
fn find_route(iterations: u64, workloads: u32) {
    let mut view = world::nodes(1);
    for number in 0..workloads {
        let hosts = [format!("shop-{number}.example.org"), format!("*.shop-{number}.example.org")];
        world::ask_for(&mut view, number, 1, hosts.map(|host| world::route(&host, "/api")).into());
    }
    let table = RouteTable::build(&view, &world::node_id(0));
    let headers = HeaderMap::new();
    let host = format!("eu.shop-{}.example.org", workloads / 4);
    repeat(iterations, || {
        let (host, path) = (black_box(&*host), black_box("/api/v1/orders/17"));
        let found = table.find(&Asked { host, path, query: None, method: &Method::GET, headers: &headers });
        assert!(black_box(found).is_some());
    });
}

/// A small request and its reply of 200 bytes, encoded and decoded.
fn carry_in_frames(iterations: u64) {
    let frames =
        [small::request_frame(small::request_head()), small::response_frame(small::response_head(), small::BODY)];
    repeat(iterations, || {
        for frame in &frames {
            let message = black_box(frame).encode(0, NATS_PAYLOAD_BYTES_DEFAULT).expect("it fits");
            black_box(Frame::decode(message).expect("what was encoded decodes"));
        }
    });
}

/// A request through the router of a node to an instance of its own, which answers at once.
fn route_locally(iterations: u64, observe: impl FnOnce(&mut RouterOptions)) {
    let client = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 9), 4711));
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio.block_on(async {
        let mut view = world::nodes(1);
        world::ask_for(&mut view, 0, 1, vec![world::route(small::HOST, "/")]);
        world::place_all(&mut view, 0, 1);
        let router = router(0, view, Arc::default(), observe);
        repeat(iterations, || {
            let response = router.handle(page_request(), client).now_or_never().expect("it does not wait");
            assert!(response.status().is_success());
            assert_eq!(read(response.into_body()), small::BODY);
        });
    });
}

/// A request through the routers of two nodes, over a bus that carries each message at once. What NATS and its client cost
/// comes on top.
fn route_remotely(iterations: u64) {
    let client = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 9), 4711));
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut view = world::nodes(2);
    world::ask_for(&mut view, 0, 1, vec![world::route(small::HOST, "/")]);
    world::place_all(&mut view, 1, 1);
    let bus = Arc::new(Wires::default());
    let near = tokio.block_on(async {
        let far = router(1, view.clone(), bus.clone(), |_| {});
        tokio::spawn(async move { far.serve_peers(CancellationToken::new(), Duration::ZERO).await });
        let near = router(0, view, bus.clone(), |_| {});
        // Two inboxes, and where the far node is asked.
        bus.has_subscriptions(3).await;
        near
    });
    repeat(iterations, || {
        tokio.block_on(async {
            let response = near.handle(page_request(), client).await;
            assert!(response.status().is_success());
            assert_eq!(response.into_body().collect().await.expect("it is whole").to_bytes(), small::BODY);
        });
    });
}

fn page_request() -> Request {
    let mut request = Request::new(empty());
    *request.uri_mut() = Uri::from_static(small::PATH);
    *request.headers_mut() = small::request_headers();
    request.headers_mut().insert(HOST, HeaderValue::from_static(small::HOST));
    request
}

fn read(body: Body) -> Bytes {
    body.collect().now_or_never().expect("it is here").expect("it is whole").to_bytes()
}

/// Only node 1 has an instance where there are two.
fn router(node: u32, view: LatticeView, bus: Arc<Wires>, observe: impl FnOnce(&mut RouterOptions)) -> Router {
    let page = Page { is_ready: view.sessions.len() == 1 || node == 1 };
    let lattice = LatticeId::new("bench").expect("a good name");
    let mut options = RouterOptions::new(world::node_id(node), lattice);
    observe(&mut options);
    // A view that never changes: the table of the first one stays in force.
    let (_, view) = watch::channel(Arc::new(view));
    Router::new(
        options,
        bus,
        Arc::new(RealClock(Instant::now())),
        Arc::new(Seven),
        Arc::new(page),
        view,
        &mut Registry::default(),
    )
}

/// Takes nothing.
#[derive(Debug)]
struct Nobody;

fn unsampled() -> Tracer {
    Tracer::new(Arc::new(Nobody))
}

impl Recorder for Nobody {
    fn records(&self, _: u128, _: Option<bool>) -> bool {
        false
    }
    fn span_id(&self) -> u64 {
        1
    }
    fn now(&self) -> u64 {
        0
    }
    fn record(&self, _: Span) {}
}

impl AccessLog for Nobody {
    fn log(&self, access: Access) {
        black_box(access);
    }
}

/// Instances that answer the same page to everything.
struct Page {
    is_ready: bool,
}

impl Instances for Page {
    fn is_ready(&self, _: &WorkloadName) -> bool {
        self.is_ready
    }

    fn call(&self, _: &WorkloadName, _: Request) -> Fut<'static, Result<Response, CallError>> {
        let mut response = Response::new(full(small::BODY));
        *response.headers_mut() = small::response_headers();
        Box::pin(std::future::ready(Ok(response)))
    }
}

struct RealClock(Instant);

impl Clock for RealClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
    fn unix_ms(&self) -> u64 {
        0
    }
    fn sleep(&self, duration: Duration) -> Fut<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

struct Seven;

impl Rng for Seven {
    fn u64(&self) -> u64 {
        7
    }
}

#[cfg(feature = "runtime")]
mod runtime {
    //! A request through a unit whose instance is kept.

    use super::{page_request, read, repeat};
    use futures_util::FutureExt as _;
    use http_body_util::BodyExt as _;
    use lattice::{
        id::{ComponentName, Digest},
        spec::Grants,
        trace::{TraceContext, Tracer},
    };
    use lattice_runtime::{
        Assembly, Component, Edge, Limits, LogSink, LogStream, Part, PartRole, Restart, Reuse, Runtime, RuntimeOptions,
        Unit, UnitConfig,
    };
    use std::{collections::BTreeMap, path::Path, sync::Arc};

    pub(crate) fn call(guest: &str, iterations: u64, tracer: Tracer) {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let cache = tempfile::tempdir().expect("a temporary directory");
        tokio.block_on(async {
            let options = RuntimeOptions { tracer, ..RuntimeOptions::new(cache.path().join("code")) };
            let runtime = Runtime::new(options).expect("a runtime");
            let component = load(&runtime, guest).await;
            let assembly = runtime.assemble(component, Vec::new(), Vec::new()).expect("it needs nothing");
            let unit = start(&runtime, assembly).await;
            repeat(iterations, || {
                let mut request = page_request();
                *request.uri_mut() = http::Uri::from_static("/quiet");
                TraceContext { trace: 7, span: 7, sampled: false }.inject(request.headers_mut());
                let response = unit.call(request).now_or_never().expect("it does not wait").expect("it answers");
                assert!(!read(response.into_body()).is_empty());
            });
        });
    }

    pub(crate) fn call_service((caller, part): (&str, &str), path: &'static str, iterations: u64) {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let cache = tempfile::tempdir().expect("a temporary directory");
        let unit = tokio.block_on(async {
            let runtime = Runtime::new(RuntimeOptions::new(cache.path().join("code"))).expect("a runtime");
            let (caller, callee) = (load(&runtime, caller).await, load(&runtime, part).await);
            let name = ComponentName::new(part).expect("a good name");
            let edge =
                |import: &String| Edge { from: None, import: import.clone(), to: name.clone(), export: import.clone() };
            let edges = callee.inspection().exports.iter().map(edge).collect();
            let role = PartRole::Service { restart: Restart::default() };
            let parts = vec![Part::new(name.clone(), callee, role)];
            start(&runtime, runtime.assemble(caller, parts, edges).expect("they fit")).await
        });
        repeat(iterations, || {
            let mut request = page_request();
            *request.uri_mut() = http::Uri::from_static(path);
            tokio.block_on(async {
                let response = unit.call(request).await.expect("it answers");
                assert!(response.status().is_success());
                assert!(!response.into_body().collect().await.expect("it is whole").to_bytes().is_empty());
            });
        });
    }

    async fn load(runtime: &Runtime, guest: &str) -> Component {
        let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests");
        let bytes = std::fs::read(guests.join(format!("{guest}.wasm"))).expect("run `cargo xtask guests --rust-only`");
        runtime.load(Digest::of(&bytes), bytes.into()).await.expect("a good component")
    }

    async fn start(runtime: &Runtime, assembly: Assembly) -> Unit {
        let config = UnitConfig {
            workload: "bench".parse().expect("a good name"),
            replica: 0,
            generation: lattice::id::Generation::FIRST,
            env: BTreeMap::new(),
            config: BTreeMap::new(),
            reuse: Reuse { requests: u32::MAX, ..Reuse::default() },
            limits: Limits::default(),
            grants: Grants::default(),
            volumes: Vec::new(),
            by_function: false,
            account: None,
            secrets: Arc::default(),
            logs: Arc::new(NoLogs),
        };
        Unit::start(runtime, assembly, config).await.expect("the guest starts")
    }

    struct NoLogs;

    impl LogSink for NoLogs {
        fn line(&self, _: Option<u64>, _: LogStream, _: Option<lattice::trace::TraceContext>, _: &str) {}
    }
}
