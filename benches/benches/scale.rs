//! What do many nodes say to one nats-server? The control planes of all of them in this process, each with a connection of its
//! own and a host that has everything ready at once: time to join, to deploy, and to come back from a restart of all nodes at
//! the same moment; messages and bytes at the server meanwhile, and at rest.
//!
//! `cargo bench -p lattice-benches --bench scale -- --nodes 100 --workloads 1000`

#![allow(clippy::expect_used, clippy::panic, reason = "a bench that fails has nothing to measure")]

use bytes::Bytes;
use clap::Parser;
use futures_util::{StreamExt as _, stream};
use lattice::{
    Fut,
    ctl::{PutReply, Reply},
    host::{Assignment, Host, Observed},
    id::{Digest, LatticeId, NodeId, SlotId},
    record::{Capacity, Phase},
    store::{Headers, Platform},
    subject::Topic,
    trigger::{Tick, Trigger},
    view::LatticeView,
};
use lattice_benches::{
    nats_server::{Monitored, NatsServer, Traffic},
    processes::{free_address, resident_here},
};
use lattice_control_plane::{ControlPlane, NodeOptions, Timing};
use lattice_nats::{ConnectOptions, Nats};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(600);
/// Puts that one client has under way at a time.
const PUTS_AT_ONCE: usize = 32;
const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Parser)]
struct Args {
    #[arg(long, default_value_t = 100)]
    nodes: u32,
    #[arg(long, default_value_t = 1000)]
    workloads: u32,
    #[arg(long, default_value_t = 3)]
    replicas: u32,
    /// Seconds at rest
    #[arg(long, default_value_t = 30)]
    rest: u64,
    /// As one server for development has it, else as three in production
    #[arg(long)]
    dev: bool,
    /// What cargo passes
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let args = Args::parse();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = NatsServer::start_with_monitoring(dir.path(), free_address());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure(&args, &server));
}

async fn measure(args: &Args, server: &Monitored) {
    let timing = if args.dev { Timing::DEV } else { Timing::PRODUCTION };
    println!("{} nodes, {} workloads of {} replicas, {timing:?}", args.nodes, args.workloads, args.replicas);
    println!("load average before: {}", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
    let mut report = Report::new(server);
    let nodes = start(args, timing, &server.url).await;
    all_see(&nodes, "each other", |view| view.sessions.len() == args.nodes as usize).await;
    report.row("all nodes have joined");

    let client = connect(&server.url).await;
    let platform = open(&client).await;
    let component = platform.artifacts.put(Bytes::from_static(b"a component")).await.expect("it is stored");
    let puts = stream::iter(0..args.workloads).map(|number| put(&platform, args, component, number));
    puts.buffer_unordered(PUTS_AT_ONCE).collect::<()>().await;
    let accepted = report.since.elapsed();
    let wanted = (args.workloads * args.replicas) as usize;
    let are_ready = |view: &LatticeView| {
        let is_ready = |slot: &lattice::view::Versioned<lattice::record::Slot>| {
            slot.record.phase == Phase::Ready && view.live(&slot.record.holder).is_some()
        };
        view.slots.values().filter(|slot| is_ready(slot)).count() == wanted
    };
    all_see(&nodes, "all replicas ready", are_ready).await;
    report.row(&format!("all workloads are ready (accepted after {:.1} s)", accepted.as_secs_f64()));

    // What was just written is still told.
    tokio::time::sleep(Duration::from_secs(5)).await;
    report.begin();
    tokio::time::sleep(Duration::from_secs(args.rest)).await;
    report.row("at rest");

    let before = holders(&nodes);
    for node in nodes {
        node.task.abort();
        drop(node.task.await);
    }
    report.begin();
    let nodes = start(args, timing, &server.url).await;
    let is_back = |view: &LatticeView| {
        let is_new = |slot: &lattice::view::Versioned<lattice::record::Slot>| !before.contains_key(&slot.revision.0);
        are_ready(view) && view.slots.values().all(is_new)
    };
    all_see(&nodes, "all replicas ready again", is_back).await;
    report.row("all nodes were killed and are back");
    report.begin();
    tokio::time::sleep(Duration::from_secs(args.rest)).await;
    report.row("after that");

    let place: BTreeMap<_, _> = before.into_values().collect();
    let view = nodes.first().expect("there is one").view.borrow().clone();
    let moved = view.slots.iter().filter(|(slot, held)| place.get(*slot) != Some(&held.record.holder.node)).count();
    println!("{moved} of {wanted} replicas are on another node than before");
    println!("{:.1} MiB for each control plane", resident_here() as f64 / f64::from(args.nodes) / 1024.0 / 1024.0);
    println!("load average after: {}", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
    for node in nodes {
        node.task.abort();
    }
}

/// Slots and their nodes, by the revisions of their records.
fn holders(nodes: &[Node]) -> BTreeMap<u64, (SlotId, NodeId)> {
    let view = nodes.first().expect("there is one").view.borrow().clone();
    view.slots.iter().map(|(slot, held)| (held.revision.0, (slot.clone(), held.record.holder.node.clone()))).collect()
}

async fn put(platform: &Platform, args: &Args, component: Digest, number: u32) {
    let spec = format!(
        "name: w{number}\nreplicas: {}\ncomponents: [{{name: main, source: '{component}'}}]\n\
         http: {{routes: [{{host: w{number}.test}}]}}\n",
        args.replicas
    );
    let subject = Topic::WorkloadPut.subject(&lattice_id());
    let reply = platform.bus.request(subject, Headers::new(), spec.into(), TIMEOUT).await.expect("an answer");
    let reply: Reply<PutReply> = serde_json::from_slice(&reply.payload).expect("it is one");
    assert!(matches!(reply, Reply::Ok(_)), "{reply:?}");
}

/// One control plane.
struct Node {
    view: watch::Receiver<Arc<LatticeView>>,
    task: JoinHandle<()>,
}

async fn start(args: &Args, timing: Timing, url: &str) -> Vec<Node> {
    // The first one makes the buckets.
    let first = node(args, timing, url, 0).await;
    let others = (1..args.nodes).map(|number| node(args, timing, url, number));
    let mut nodes: Vec<Node> = stream::iter(others).buffer_unordered(args.nodes as usize).collect().await;
    nodes.push(first);
    nodes
}

async fn node(args: &Args, timing: Timing, url: &str, number: u32) -> Node {
    let nats = connect(url).await;
    let platform = open(&nats).await;
    let zone = if number.is_multiple_of(2) { "a" } else { "b" };
    let options = NodeOptions {
        lattice: lattice_id(),
        node: NodeId::new(format!("n{number}")).expect("it is an id"),
        labels: BTreeMap::from([("zone".to_owned(), zone.to_owned())]),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        capacity: Capacity { memory: 1 << 42, slots: args.workloads * args.replicas },
        volumes: Default::default(),
        taints: Vec::new(),
        offers: None,
        http: None,
        timing,
        drain: Duration::from_secs(30),
        data_dir: None,
    };
    let host = Arc::new(StubHost::default());
    let control = ControlPlane::new(options, platform, host, Arc::new(|_, _, _| Ok(Vec::new())));
    let view = control.view();
    let task = tokio::spawn(async move {
        let _connection = nats;
        if let Err(error) = control.run(Arc::new(StubTrigger), CancellationToken::new()).await {
            panic!("a control plane ended: {error}");
        }
    });
    Node { view, task }
}

async fn connect(url: &str) -> Nats {
    let options = ConnectOptions { servers: vec![url.to_owned()], name: "scale".into(), ..Default::default() };
    lattice_nats::connect(options).await.expect("a connection")
}

async fn open(nats: &Nats) -> Platform {
    nats.open(&lattice_id(), true).await.expect("the buckets")
}

fn lattice_id() -> LatticeId {
    LatticeId::new("scale").expect("it is an id")
}

/// Until it is so in the view of every node.
async fn all_see(nodes: &[Node], what: &str, is_so: impl Fn(&LatticeView) -> bool) {
    for node in nodes {
        let mut view = node.view.clone();
        let seen = tokio::time::timeout(PATIENCE, view.wait_for(|view| is_so(view))).await;
        assert!(matches!(seen, Ok(Ok(_))), "a node does not see {what}");
    }
}

/// Has everything ready as soon as it is asked for.
#[derive(Default)]
struct StubHost {
    wanted: Mutex<BTreeMap<SlotId, Assignment>>,
    changed: Notify,
}

impl Host for StubHost {
    fn apply(&self, wanted: BTreeMap<SlotId, Assignment>) {
        let mut there = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if *there != wanted {
            *there = wanted;
            self.changed.notify_one();
        }
    }

    fn observed(&self) -> BTreeMap<SlotId, Observed> {
        let observed = |wanted: &Assignment| Observed {
            uid: wanted.uid,
            generation: wanted.generation,
            phase: Phase::Ready,
            message: None,
            failures: 0,
            configs: wanted.configs.clone(),
        };
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.iter().map(|(slot, wanted)| (slot.clone(), observed(wanted))).collect()
    }

    fn changed(&self) -> Fut<'_, ()> {
        Box::pin(self.changed.notified())
    }
}

struct StubTrigger;

impl Trigger for StubTrigger {
    fn fire(&self, _: Tick) -> Fut<'static, Result<u16, String>> {
        Box::pin(std::future::ready(Ok(200)))
    }
}

/// What the server saw from one moment to the next.
struct Report<'a> {
    server: &'a Monitored,
    since: Instant,
    before: Traffic,
}

impl<'a> Report<'a> {
    fn new(server: &'a Monitored) -> Self {
        println!("| until | s | messages in/s | out/s | KiB in/s | out/s | server's memory, MiB |");
        println!("|---|---|---|---|---|---|---|");
        Self { server, since: Instant::now(), before: server.traffic() }
    }

    fn begin(&mut self) {
        (self.since, self.before) = (Instant::now(), self.server.traffic());
    }

    fn row(&mut self, what: &str) {
        let (seconds, now) = (self.since.elapsed().as_secs_f64(), self.server.traffic());
        let rate = |of: fn(&Traffic) -> u64| of(&now).saturating_sub(of(&self.before)) as f64 / seconds;
        println!(
            "| {what} | {seconds:.1} | {:.0} | {:.0} | {:.0} | {:.0} | {} |",
            rate(|traffic| traffic.in_msgs),
            rate(|traffic| traffic.out_msgs),
            rate(|traffic| traffic.in_bytes) / 1024.0,
            rate(|traffic| traffic.out_bytes) / 1024.0,
            now.mem >> 20,
        );
        self.begin();
    }
}
