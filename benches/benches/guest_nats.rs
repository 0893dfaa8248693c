//! What do NATS's operations cost a guest? Publishing, requests, KV gets and puts, and the deliveries of a durable consumer, 32 at a time
//! in one instance; the peer is async-nats in the same process, as many at a time, on the same server, in turns.
//!
//! Needs `cargo xtask guests --rust-only` and `cargo xtask nats`.

#![allow(clippy::expect_used, clippy::panic, reason = "a bench that fails has nothing to measure")]

use async_nats::jetstream::{
    self,
    consumer::{PullConsumer, pull},
    kv, stream,
};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use futures_util::{StreamExt as _, future::try_join_all};
use http_body_util::BodyExt as _;
use lattice::{
    http::Request,
    id::{Digest, WorkloadName},
    spec::Grants,
    trace::TraceContext,
};
use lattice_benches::{Pairs, nats_server::NatsServer, processes::workspace};
use lattice_nats::{ConnectOptions, GuestBuckets};
use lattice_runtime::{Limits, LogSink, LogStream, Reuse, Runtime, RuntimeOptions, Unit, UnitConfig};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Operations under way at a time. One iteration is one of each.
const AT_ONCE: u64 = 32;
const OPERATIONS: [&str; 5] = ["publish", "request", "get", "put", "consume"];
const PAYLOAD: &str = "a payload of 64 bytes, as an event of an order might well have..";
const GRANTS: &str = r#"{"nats": {
    "publish": ["bench.>"],
    "buckets": {"bench": {"bucket": "bench"}},
    "streams": {"bench": {"stream": "BENCH", "consumers": ["guest"]}}
}}"#;

struct Silent;

impl LogSink for Silent {
    fn line(&self, _: Option<u64>, _: LogStream, _: Option<TraceContext>, _: &str) {}
}

struct Bench {
    tokio: tokio::runtime::Runtime,
    unit: Unit,
    peer: Peer,
    _runtime: Runtime,
    _server: NatsServer,
    _dir: tempfile::TempDir,
}

struct Peer {
    client: async_nats::Client,
    jetstream: jetstream::Context,
    bucket: kv::Store,
    consumer: PullConsumer,
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

impl Bench {
    fn new() -> Self {
        let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().event_interval(8).build();
        let tokio = tokio.expect("a tokio runtime");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let server = NatsServer::start_with_storage(&dir.path().join("nats"));
        let peer = tokio.block_on(Peer::new(&server.url)).expect("the server works");
        let mut options = RuntimeOptions::new(dir.path().join("code"));
        let connect = ConnectOptions { servers: vec![server.url.clone()], ..ConnectOptions::default() };
        options.network.nats = Arc::new(GuestBuckets::new(connect));
        let runtime = Runtime::new(options).expect("a runtime");
        let guest = workspace().join("target/guests/courier.wasm");
        let bytes: bytes::Bytes = std::fs::read(guest).expect("run `cargo xtask guests --rust-only`").into();
        let hour = Duration::from_secs(3600);
        let config = UnitConfig {
            workload: WorkloadName::new("bench").expect("a name"),
            replica: 0,
            generation: lattice::id::Generation::FIRST,
            env: [].into(),
            config: [].into(),
            reuse: Reuse { concurrency: AT_ONCE as u32, requests: u32::MAX, max_instances: 1, ..Reuse::default() },
            limits: Limits { wall: hour, cpu: hour, ..Limits::default() },
            grants: serde_json::from_str::<Grants>(GRANTS).expect("good grants"),
            volumes: Vec::new(),
            by_function: false,
            secrets: Default::default(),
            account: None,
            logs: Arc::new(Silent),
        };
        let unit = tokio.block_on(async {
            let component = runtime.load(Digest::of(&bytes), bytes).await.expect("a component");
            let assembly = runtime.assemble(component, Vec::new(), Vec::new()).expect("an assembly");
            Unit::start(&runtime, assembly, config).await.expect("a unit")
        });
        Self { tokio, unit, peer, _runtime: runtime, _server: server, _dir: dir }
    }

    /// That many rounds by the guest.
    fn guest(&self, what: &str, times: u64) -> Duration {
        self.tokio.block_on(async {
            if what == "consume" {
                self.peer.fill("guest", times * AT_ONCE).await.expect("messages are stored");
            }
            let began = Instant::now();
            let calls = (0..AT_ONCE).map(|_| self.load(what, times));
            try_join_all(calls).await.expect("the guest does what it is asked to");
            began.elapsed()
        })
    }

    async fn load(&self, what: &str, times: u64) -> Result<(), Failed> {
        let request = http::Request::post("/load").header("host", "bench.test").header("what", what);
        let request = request.header("times", times).header("subject", subject(what)).header("consumer", "guest");
        let request = request.header("bucket", "bench").header("key", "k").header("stream", "bench");
        let request: Request = request.body(lattice::http::full(PAYLOAD))?;
        let response = self.unit.call(request).await.map_err(|error| format!("{error:?}"))?;
        let status = response.status();
        let text = response.into_body().collect().await.map_err(|error| format!("{error:?}"))?.to_bytes();
        if status == 200 { Ok(()) } else { Err(String::from_utf8_lossy(&text).into()) }
    }

    /// The same by async-nats.
    fn native(&self, what: &str, times: u64) -> Duration {
        self.tokio.block_on(async {
            if what == "consume" {
                self.peer.fill("peer", times * AT_ONCE).await.expect("messages are stored");
            }
            let began = Instant::now();
            try_join_all((0..AT_ONCE).map(|_| self.peer.load(what, times))).await.expect("it works");
            began.elapsed()
        })
    }
}

fn subject(what: &str) -> &'static str {
    if what == "request" { "bench.ask" } else { "bench.tell" }
}

impl Peer {
    async fn new(url: &str) -> Result<Self, Failed> {
        let client = async_nats::connect(url).await?;
        let jetstream = jetstream::new(client.clone());
        let bucket = jetstream.create_key_value(kv::Config { bucket: "bench".into(), ..Default::default() }).await?;
        bucket.put("k", PAYLOAD.into()).await?;
        let config = stream::Config {
            name: "BENCH".into(),
            subjects: vec!["stored.*".into()],
            retention: stream::RetentionPolicy::WorkQueue,
            ..Default::default()
        };
        let stream = jetstream.create_stream(config).await?;
        let durable = |name: &str| pull::Config {
            durable_name: Some(name.to_owned()),
            filter_subject: format!("stored.{name}"),
            max_ack_pending: -1,
            ..Default::default()
        };
        stream.create_consumer(durable("guest")).await?;
        let consumer = stream.create_consumer(durable("peer")).await?;
        let answering = async_nats::connect(url).await?;
        let mut asked = answering.subscribe("bench.ask").await?;
        answering.flush().await?;
        tokio::spawn(async move {
            while let Some(message) = asked.next().await {
                if let Some(reply) = message.reply {
                    let _ = answering.publish(reply, message.payload).await;
                }
            }
        });
        Ok(Self { client, jetstream, bucket, consumer })
    }

    /// What is consumed then.
    async fn fill(&self, who: &str, count: u64) -> Result<(), Failed> {
        let mut left = count;
        while left > 0 {
            let now = left.min(1_000);
            left -= now;
            let some = (0..now).map(|_| async {
                self.jetstream.publish(format!("stored.{who}"), PAYLOAD.into()).await?.await.map(drop)
            });
            try_join_all(some).await?;
        }
        Ok(())
    }

    async fn load(&self, what: &str, times: u64) -> Result<(), Failed> {
        match what {
            "publish" => {
                for _ in 0..times {
                    self.client.publish("bench.tell", PAYLOAD.into()).await?;
                }
                self.client.flush().await?;
            }
            "request" => {
                for _ in 0..times {
                    self.client.request("bench.ask", PAYLOAD.into()).await?;
                }
            }
            "get" => {
                for _ in 0..times {
                    self.bucket.get("k").await?;
                }
            }
            "put" => {
                for _ in 0..times {
                    self.bucket.put("k", PAYLOAD.into()).await?;
                }
            }
            _ => {
                let mut left = times;
                while left > 0 {
                    let most = usize::try_from(left.min(64))?;
                    let mut fetched =
                        self.consumer.fetch().max_messages(most).expires(Duration::from_secs(5)).messages().await?;
                    while let Some(message) = fetched.next().await {
                        message?.ack().await?;
                        left = left.saturating_sub(1);
                    }
                }
            }
        }
        Ok(())
    }
}

fn bench(criterion: &mut Criterion) {
    let bench = Bench::new();
    let mut group = criterion.benchmark_group("guest_nats");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for what in OPERATIONS {
        let mut pairs = Pairs::default();
        group.bench_function(BenchmarkId::from_parameter(what), |bencher| {
            pairs.measure(bencher, |times| bench.guest(what, times), |times| bench.native(what, times));
        });
        pairs.print(&format!("{what}, by a guest"), "by async-nats", AT_ONCE as f64, "operations");
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
