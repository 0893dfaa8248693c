//! What does it cost to answer from another node? One request in at one router and out at another over a nats-server. The
//! peer is a NATS request and reply of nearly the same size over the same two connections, so that NATS's share of the
//! time is visible; the same request answered without a hop shows the share of the router. Who answers is a stand-in for
//! the instance, which costs nothing, or a component in the runtime of a node (`component.rs`).
//!
//! Needs `cargo xtask nats`; the component needs `cargo xtask guests --rust-only` and is left out without.

#![allow(clippy::expect_used, reason = "a bench that fails has nothing to measure")]

mod component;
mod world;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderValue, StatusCode, Uri, header::HOST};
use http_body_util::BodyExt as _;
use lattice::{
    http::{Request, empty},
    store::{Bus, Headers},
};
use lattice_benches::{Pairs, nats_server::NatsServer, small};
use lattice_router::Router;
use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{runtime::Runtime, task::JoinSet};
use world::World;

const IN_FLIGHT: [u64; 3] = [1, 32, 256];
static CASES: [Case; 3] = [
    Case {
        name: "200-bytes",
        path: small::PATH,
        answer: Answer::Page(small::BODY),
        subject: "bench.peer.small",
        asks: 3_000,
    },
    Case {
        name: "64-kib",
        path: "/large",
        answer: Answer::Page(Bytes::from_static(&[b'x'; 64 * 1024])),
        subject: "bench.peer.large",
        asks: 1_000,
    },
    Case { name: "component", path: "/quiet", answer: Answer::Component, subject: "bench.peer.component", asks: 3_000 },
];
const CLIENT: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 40_000));
const TIMEOUT: Duration = Duration::from_secs(10);

/// What is asked, and what the answer is.
#[derive(Debug)]
struct Case {
    name: &'static str,
    path: &'static str,
    answer: Answer,
    /// Where the peer answers with the same.
    subject: &'static str,
    /// Requests of each kind that latency is told of.
    asks: usize,
}

#[derive(Debug)]
enum Answer {
    Page(Bytes),
    /// Its greeting.
    Component,
}

fn bench(criterion: &mut Criterion) {
    let server = NatsServer::start();
    // As in a node.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().event_interval(8).build();
    let runtime = runtime.expect("a runtime");
    let world = runtime.block_on(World::start(&server.url));
    let cases: Vec<&'static Case> = CASES.iter().filter(|case| world.answers(case)).collect();
    // `--test` runs each routine once.
    if !std::env::args().any(|argument| argument == "--test") {
        cases.iter().for_each(|case| runtime.block_on(print_latency(&world, case)));
    }
    for (case, in_flight) in cases.iter().flat_map(|case| IN_FLIGHT.map(|in_flight| (*case, in_flight))) {
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

/// How long single requests take, one after the other. The three kinds take turns, so that what disturbs one disturbs all.
async fn print_latency(world: &World, case: &'static Case) {
    let (near, far) = (world.near.clone(), world.far.clone());
    let (bus, frame) = (world.near_bus.clone(), world.request_frame.clone());
    // On a worker's thread, as the requests of clients are.
    let asked = tokio::spawn(async move {
        let (mut there, mut here, mut raw) = (Latency::default(), Latency::default(), Latency::default());
        for _ in 0..case.asks {
            there.of(get_page(near.clone(), case)).await;
            here.of(get_page(far.clone(), case)).await;
            raw.of(ask_peer(bus.clone(), case.subject, frame.clone())).await;
        }
        (there, here, raw)
    });
    let (there, here, raw) = asked.await.expect("every request is answered");
    let (there_p50, here_p50, raw_p50) = (there.percentile(50), here.percentile(50), raw.percentile(50));
    let added = there_p50.saturating_sub(here_p50);
    println!(
        "{} at one connection, p50 and p99: another node {there_p50:.0?} {:.0?}; this node {here_p50:.0?} {:.0?}; NATS round trip \
         {raw_p50:.0?} {:.0?}; the hop adds {added:.0?} at p50, {:.2} round trips\n",
        case.name,
        there.percentile(99),
        here.percentile(99),
        raw.percentile(99),
        added.as_secs_f64() / raw_p50.as_secs_f64(),
    );
}

#[derive(Default)]
struct Latency(Vec<Duration>);

impl Latency {
    async fn of(&mut self, request: impl Future<Output = ()>) {
        let start = Instant::now();
        request.await;
        self.0.push(start.elapsed());
    }

    fn percentile(&self, part: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        sorted.get(sorted.len() * part / 100).copied().unwrap_or_default()
    }
}

async fn ask_peer(bus: Arc<dyn Bus>, subject: &'static str, payload: Bytes) {
    bus.request(subject.to_owned(), Headers::new(), payload, TIMEOUT).await.expect("the peer answers");
}

async fn get_page(router: Router, case: &'static Case) {
    let response = router.handle(page_request(case), CLIENT).await;
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.expect("the body is whole").to_bytes();
    match &case.answer {
        Answer::Page(page) => assert_eq!(body.len(), page.len()),
        Answer::Component => assert!(!body.is_empty()),
    }
}

fn page_request(case: &Case) -> Request {
    let mut request = Request::new(empty());
    *request.uri_mut() = Uri::from_static(case.path);
    *request.headers_mut() = small::request_headers();
    request.headers_mut().insert(HOST, HeaderValue::from_static(small::HOST));
    request
}

criterion_group!(benches, bench);
criterion_main!(benches);
