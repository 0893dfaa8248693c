//! What does it cost to answer from another node? One request in at one router and out at another over a nats-server. The
//! peer is a NATS request and reply of nearly the same size over the same two connections, so that NATS's share of the
//! time is visible; the same request answered without a hop shows the share of the router.

#![allow(clippy::expect_used, reason = "a bench that fails has nothing to measure")]

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::{FutureExt as _, StreamExt as _};
use http::{HeaderValue, StatusCode, Uri, header::HOST};
use http_body_util::BodyExt as _;
use lattice::{
    Fut,
    frame::Frame,
    http::{CallError, Instances, Request, Response, empty, full},
    id::{LatticeId, WorkloadName},
    limits::NATS_PAYLOAD_BYTES_DEFAULT,
    store::{Bus, Headers, Items, Message},
    view::LatticeView,
};
use lattice_benches::{Pairs, nats_server::NatsServer, small, world};
use lattice_nats::{ConnectOptions, SystemClock, SystemRng};
use lattice_router::{Router, RouterOptions};
use prometheus_client::registry::Registry;
use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{runtime::Runtime, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

const IN_FLIGHT: [u64; 3] = [1, 32, 256];
static CASES: [Case; 2] = [
    Case { name: "200-bytes", path: small::PATH, body: small::BODY, subject: "bench.peer.small" },
    Case { name: "64-kib", path: "/large", body: Bytes::from_static(&[b'x'; 64 * 1024]), subject: "bench.peer.large" },
];
const NEAR: u32 = 0;
const FAR: u32 = 1;
const CLIENT: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 40_000));
const TIMEOUT: Duration = Duration::from_secs(10);
/// The far router's subscription takes a moment. An attempt before it is given up after this.
const ATTEMPT: Duration = Duration::from_millis(50);
const ATTEMPTS_MAX: u32 = 100;

/// What is asked, and what the answer is.
#[derive(Debug, Clone)]
struct Case {
    name: &'static str,
    path: &'static str,
    body: Bytes,
    /// Where the peer answers with the same.
    subject: &'static str,
}

fn bench(criterion: &mut Criterion) {
    let server = NatsServer::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let world = runtime.block_on(World::start(&server.url));
    for (case, in_flight) in CASES.iter().flat_map(|case| IN_FLIGHT.map(|in_flight| (case, in_flight))) {
        let ask_nats = {
            let (bus, frame) = (world.near_bus.clone(), world.request_frame.clone());
            move || ask_peer(bus.clone(), case.subject, frame.clone())
        };
        for (name, router) in [("another-node", &world.near), ("this-node", &world.far)] {
            let mut pairs = Pairs::default();
            let mut group = criterion.benchmark_group("hop");
            group.throughput(Throughput::Elements(1));
            group.bench_function(BenchmarkId::new(format!("{name}/{}", case.name), in_flight), |bencher| {
                let router = router.clone();
                let ask_router = move || get_page(router.clone(), case);
                pairs.measure(
                    bencher,
                    |iterations| drive(&runtime, in_flight, iterations, &ask_router),
                    |iterations| drive(&runtime, in_flight, iterations, &ask_nats),
                );
            });
            group.finish();
            let what = format!("{} answered on {name}, {in_flight} in flight", case.name);
            pairs.print(&what, "NATS request", 1.0, "requests");
        }
    }
    runtime.block_on(world.stop());
}

/// Do so many requests, at most `in_flight` at a time.
fn drive<F: Future<Output = ()> + Send + 'static>(
    runtime: &Runtime,
    in_flight: u64,
    requests: u64,
    request: &(impl Fn() -> F + Clone + Send + 'static),
) -> Duration {
    let start = Instant::now();
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for task in 0..in_flight {
            let share = requests / in_flight + u64::from(task < requests % in_flight);
            let request = request.clone();
            tasks.spawn(async move {
                for _ in 0..share {
                    request().await;
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.expect("every request is answered");
        }
    });
    start.elapsed()
}

async fn ask_peer(bus: Arc<dyn Bus>, subject: &'static str, payload: Bytes) {
    bus.request(subject.to_owned(), Headers::new(), payload, TIMEOUT).await.expect("the peer answers");
}

async fn get_page(router: Router, case: &'static Case) {
    let response = router.handle(page_request(case), CLIENT).await;
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.expect("the body is whole").to_bytes();
    assert_eq!(body.len(), case.body.len());
}

fn page_request(case: &Case) -> Request {
    let mut request = Request::new(empty());
    *request.uri_mut() = Uri::from_static(case.path);
    *request.headers_mut() = small::request_headers();
    request.headers_mut().insert(HOST, HeaderValue::from_static(small::HOST));
    request
}

/// Two nodes' routers on connections of their own, and the peer's two ends on the same ones.
struct World {
    near: Router,
    far: Router,
    near_bus: Arc<dyn Bus>,
    request_frame: Bytes,
    stop: CancellationToken,
    /// Serves the far router's peers; answers as the peer.
    tasks: JoinSet<()>,
}

impl World {
    async fn start(url: &str) -> Self {
        let mut view = world::nodes(FAR + 1);
        world::ask_for(&mut view, 0, 1, vec![world::route(small::HOST, "/")]);
        world::place_all(&mut view, FAR, 1);
        let view = Arc::new(view);

        let (near_bus, far_bus) = (connect(url).await, connect(url).await);
        let near = router(NEAR, near_bus.clone(), view.clone(), Page { ready: false });
        let far = router(FAR, far_bus.clone(), view, Page { ready: true });
        let encode = |frame: Frame| frame.encode(0, NATS_PAYLOAD_BYTES_DEFAULT).expect("it fits");

        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for case in &CASES {
            let questions = far_bus.subscribe(case.subject.to_owned(), None).await.expect("connected");
            let reply = encode(small::response_frame(small::response_head(), case.body.clone()));
            let answers = answer_as_peer(far_bus.clone(), questions, reply);
            tasks.spawn(stop.clone().run_until_cancelled_owned(answers).map(drop));
        }
        let (served, until) = (far.clone(), stop.clone());
        tasks.spawn(async move { served.serve_peers(until, Duration::ZERO).await.expect("connected") });

        let mut attempts = 0;
        while near.handle(page_request(&CASES[0]), CLIENT).await.status() != StatusCode::OK {
            attempts += 1;
            assert!(attempts < ATTEMPTS_MAX, "the far router answers");
        }
        let request_frame = encode(small::request_frame(small::request_head()));
        Self { near, far, near_bus, request_frame, stop, tasks }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tasks.join_all().await;
    }
}

async fn connect(url: &str) -> Arc<dyn Bus> {
    let options = ConnectOptions { servers: vec![url.to_owned()], ..ConnectOptions::default() };
    lattice_nats::connect(options).await.expect("the server listens").bus()
}

fn router(node: u32, bus: Arc<dyn Bus>, view: Arc<LatticeView>, page: Page) -> Router {
    let lattice = LatticeId::new("bench").expect("a good name");
    let options = RouterOptions { start_wait: ATTEMPT, ..RouterOptions::new(world::node_id(node), lattice) };
    let (clock, rng) = (Arc::new(SystemClock::default()), Arc::new(SystemRng));
    // A view that never changes: the table of the first one stays in force.
    let (_, view) = watch::channel(view);
    Router::new(options, bus, clock, rng, Arc::new(page), view, &mut Registry::default())
}

async fn answer_as_peer(bus: Arc<dyn Bus>, mut questions: Items<Message>, payload: Bytes) {
    while let Some(question) = questions.next().await {
        let Some(subject) = question.reply else { continue };
        let answer = Message { subject, payload: payload.clone(), ..Message::default() };
        bus.publish(answer).await.expect("connected");
    }
}

/// Instances that answer the same page to everything.
struct Page {
    ready: bool,
}

impl Instances for Page {
    fn is_ready(&self, _: &WorkloadName) -> bool {
        self.ready
    }

    fn call(&self, _: &WorkloadName, request: Request) -> Fut<'static, Result<Response, CallError>> {
        let ready = self.ready;
        Box::pin(async move {
            let case = CASES.iter().find(|case| case.path.starts_with(request.uri().path()));
            let Some(case) = case.filter(|_| ready) else { return Err(CallError::NotHere) };
            let mut response = Response::new(full(case.body.clone()));
            *response.headers_mut() = small::response_headers();
            Ok(response)
        })
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
