//! A lattice in one process: real routers over a bus in memory whose frames can be counted, held back and dropped, and
//! instances that are closures.

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use lattice::{
    Fut,
    http::{Body, BodyError, CallError, Instances, Request, Response, full},
    id::{Generation, LatticeId, NodeId, Revision, SlotId, WorkloadName},
    record::{Holder, Phase, Slot, SpecRecord},
    store::{Bus, BusError, Clock, Connection, Handler, Headers, Items, Message, MicroService, Rng},
    testing::MemoryLattice,
    view::{LatticeView, Versioned},
};
use lattice_router::{Router, RouterOptions, Tls};
use prometheus_client::registry::Registry;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

pub(crate) const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 9)), 4711);

/// Longest wait for what must happen: a bound for broken code, not a delay. Below the idle limit of exchanges, which would
/// hide a message that was not sent.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// The wall clock is set anew at each look: nothing may depend on it.
pub(crate) struct RealClock {
    start: Instant,
    /// Its seconds in one real one.
    speed: u32,
    looks: AtomicUsize,
}
impl Clock for RealClock {
    fn now(&self) -> Duration {
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.start.elapsed() * self.speed
    }
    fn unix_ms(&self) -> u64 {
        static LOOKS: AtomicU64 = AtomicU64::new(1);
        LOOKS.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 21
    }
    fn sleep(&self, duration: Duration) -> Fut<'static, ()> {
        Box::pin(tokio::time::sleep(duration / self.speed))
    }
}

pub(crate) struct Seeded(AtomicU64);
impl Rng for Seeded {
    fn u64(&self) -> u64 {
        let mut x = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x ^ (x >> 31)
    }
}

/// Which messages a node publishes may be counted or lost.
#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) messages: AtomicUsize,
    pub(crate) bytes: AtomicUsize,
    /// Lose the messages from this one on, counted over all that this node publishes.
    pub(crate) lose_after: Mutex<Option<usize>>,
    /// Lose only one.
    pub(crate) lose_one: AtomicBool,
    pub(crate) down: AtomicBool,
    /// Bytes of a message that the server takes, as it says; 0 for the usual limit.
    pub(crate) payload_bytes_max: AtomicUsize,
}

impl Faults {
    /// Lose all that this node publishes from now on, as where its connection is gone.
    pub(crate) fn lose_all(&self) {
        *self.lose_after.lock().unwrap() = Some(0);
    }
}

struct FaultyBus {
    inner: Arc<dyn Bus>,
    faults: Arc<Faults>,
}

impl Bus for FaultyBus {
    fn publish(&self, message: Message) -> Fut<'_, Result<(), BusError>> {
        if message.subject.ends_with(".echo") {
            // Nobody's message: not counted, and lost where everything is.
            let is_lost = |first| self.faults.messages.load(Ordering::SeqCst) >= first;
            let loses_all = !self.faults.lose_one.load(Ordering::SeqCst);
            return match self.faults.lose_after.lock().unwrap().is_some_and(|first| loses_all && is_lost(first)) {
                true => Box::pin(async { Ok(()) }),
                false => self.inner.publish(message),
            };
        }
        let number = self.faults.messages.fetch_add(1, Ordering::SeqCst);
        self.faults.bytes.fetch_add(message.payload.len(), Ordering::SeqCst);
        let lose_after = *self.faults.lose_after.lock().unwrap();
        let lost = lose_after
            .is_some_and(|first| number == first || (number > first && !self.faults.lose_one.load(Ordering::SeqCst)));
        if lost {
            return Box::pin(async { Ok(()) });
        }
        self.inner.publish(message)
    }
    fn request(
        &self,
        subject: String,
        headers: Headers,
        payload: Bytes,
        timeout: Duration,
    ) -> Fut<'_, Result<Message, BusError>> {
        self.inner.request(subject, headers, payload, timeout)
    }
    fn subscribe(&self, subject: String, queue: Option<String>) -> Fut<'_, Result<Items<Message>, BusError>> {
        self.inner.subscribe(subject, queue)
    }
    fn serve(&self, service: MicroService, handler: Handler) -> Fut<'_, Result<(), BusError>> {
        self.inner.serve(service, handler)
    }
    fn inbox(&self) -> String {
        self.inner.inbox()
    }
    fn payload_bytes_max(&self) -> usize {
        match self.faults.payload_bytes_max.load(Ordering::SeqCst) {
            0 => self.inner.payload_bytes_max(),
            limit => limit,
        }
    }
    fn connection(&self) -> Connection {
        if self.faults.down.load(Ordering::SeqCst) { Connection::Down } else { self.inner.connection() }
    }
    fn flush(&self) -> Fut<'_, Result<(), BusError>> {
        self.inner.flush()
    }
}

type Guest = Arc<dyn Fn(Request) -> Fut<'static, Result<Response, CallError>> + Send + Sync>;

/// The instances of one node.
#[derive(Default)]
pub(crate) struct Guests {
    ready: Mutex<BTreeMap<WorkloadName, Guest>>,
    full: Mutex<BTreeSet<WorkloadName>>,
    pub(crate) calls: AtomicUsize,
}

impl Guests {
    pub(crate) fn run<F, A>(&self, workload: &str, guest: F)
    where
        F: Fn(Request) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Response, CallError>> + Send + 'static,
    {
        let guest: Guest = Arc::new(move |request| Box::pin(guest(request)));
        self.ready.lock().unwrap().insert(name(workload), guest);
    }

    pub(crate) fn stop(&self, workload: &str) {
        self.ready.lock().unwrap().remove(&name(workload));
    }

    /// Whether a request would wait in line from now on.
    pub(crate) fn fill(&self, workload: &str, is_full: bool) {
        let mut full = self.full.lock().unwrap();
        if is_full {
            full.insert(name(workload));
        } else {
            full.remove(&name(workload));
        }
    }
}

impl Instances for Guests {
    fn is_ready(&self, workload: &WorkloadName) -> bool {
        self.ready.lock().unwrap().contains_key(workload)
    }
    fn has_room(&self, workload: &WorkloadName) -> bool {
        self.is_ready(workload) && !self.full.lock().unwrap().contains(workload)
    }
    fn call(&self, workload: &WorkloadName, request: Request) -> Fut<'static, Result<Response, CallError>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        match self.ready.lock().unwrap().get(workload) {
            Some(guest) => guest(request),
            None => Box::pin(async { Err(CallError::NotHere) }),
        }
    }
}

pub(crate) struct Node {
    pub(crate) router: Router,
    pub(crate) guests: Arc<Guests>,
    pub(crate) faults: Arc<Faults>,
    metrics: Registry,
    /// Stops answering other nodes.
    pub(crate) stop: CancellationToken,
    peers: Option<JoinHandle<Result<(), BusError>>>,
}

impl Node {
    /// Leave at once, as a node that is killed does.
    pub(crate) async fn kill(&mut self) {
        let peers = self.peers.take().unwrap();
        peers.abort();
        let _ = peers.await;
    }

    /// Leave in order.
    pub(crate) async fn leave(&mut self) {
        self.stop.cancel();
        tokio::time::timeout(SOON, self.peers.take().unwrap()).await.unwrap().unwrap().unwrap();
    }

    /// What the router counts, as Prometheus reads it.
    pub(crate) fn metrics(&self) -> String {
        let mut metrics = String::new();
        prometheus_client::encoding::text::encode(&mut metrics, &self.metrics).unwrap();
        metrics
    }

    pub(crate) async fn get(&self, url: &str) -> Response {
        self.send(request("GET", url, lattice::http::empty())).await
    }

    pub(crate) async fn send(&self, request: Request) -> Response {
        tokio::time::timeout(SOON, self.router.handle(request, PEER)).await.unwrap()
    }
}

pub(crate) struct World {
    lattice: MemoryLattice,
    clock: Arc<RealClock>,
    view: watch::Sender<Arc<LatticeView>>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::hurried(1)
    }

    /// Where time goes so many times faster, for limits that are long. What is slow is so slow there.
    pub(crate) fn hurried(speed: u32) -> Self {
        let clock = Arc::new(RealClock { start: Instant::now(), speed, looks: AtomicUsize::new(0) });
        Self { lattice: MemoryLattice::new(), clock, view: watch::channel(Arc::default()).0 }
    }

    /// The same NATS, as nodes see it that have heard of nothing yet.
    pub(crate) fn beside(world: &World) -> Self {
        Self { lattice: world.lattice.clone(), clock: world.clock.clone(), view: watch::channel(Arc::default()).0 }
    }

    /// On the clock of all nodes.
    pub(crate) fn now(&self) -> Duration {
        self.clock.now()
    }

    /// How often somebody looked at the clock.
    pub(crate) fn looks_at_clock(&self) -> usize {
        self.clock.looks.load(Ordering::Relaxed)
    }

    /// A connection of nobody in particular.
    pub(crate) fn bus(&self) -> Arc<dyn Bus> {
        self.lattice.platform(self.clock.clone(), Arc::new(Seeded(AtomicU64::new(1)))).bus
    }

    pub(crate) async fn node(&self, node: &str) -> Node {
        self.node_with(node, |_| {}).await
    }

    pub(crate) async fn node_with(&self, node: &str, change: impl FnOnce(&mut RouterOptions)) -> Node {
        let rng = Arc::new(Seeded(AtomicU64::new(7)));
        let platform = self.lattice.platform(self.clock.clone(), rng.clone());
        let faults = Arc::new(Faults::default());
        let bus = Arc::new(FaultyBus { inner: platform.bus, faults: faults.clone() });
        let guests = Arc::new(Guests::default());
        let mut options = RouterOptions::new(NodeId::new(node).unwrap(), LatticeId::new("default").unwrap());
        change(&mut options);
        let (clock, view): (Arc<dyn Clock>, _) = (self.clock.clone(), self.view.subscribe());
        let mut metrics = Registry::default();
        let router = Router::new(options, bus, clock, rng, guests.clone(), view, &mut metrics);
        let stop = CancellationToken::new();
        let (serving, token) = (router.clone(), stop.clone());
        let peers = tokio::spawn(async move { serving.serve_peers(token, Duration::from_secs(5)).await });
        tokio::task::yield_now().await; // subscribes
        Node { router, guests, faults, metrics, stop, peers: Some(peers) }
    }

    /// A workload with the route `{name}.test`, ready on these nodes. `more` is appended to the spec.
    pub(crate) fn workload(&self, workload: &str, ready_on: &[&str], route: &str, limits: &str) {
        let http = format!("routes: [{{host: {workload}.test{route}}}]");
        self.workload_with(workload, ready_on, &http, limits);
    }

    /// The same with all that its spec says about HTTP.
    pub(crate) fn workload_with(&self, workload: &str, ready_on: &[&str], http: &str, limits: &str) {
        let digest = "0".repeat(64);
        let yaml = format!(
            "name: {workload}\ncomponents: [{{name: c, source: 'sha256:{digest}'}}]\n\
             http: {{{http}}}\nlimits: {{{limits}}}\n"
        );
        let spec = lattice::spec::parse(yaml.as_bytes()).unwrap();
        let uid = uuid::Uuid::from_u128(1);
        let generation = Generation::FIRST;
        self.view.send_modify(|view| {
            let view = Arc::make_mut(view);
            let record = SpecRecord::new(spec, uid, generation);
            view.specs.insert(name(workload), Arc::new(Versioned { record, revision: Revision(1) }));
            view.slots.retain(|slot, _| slot.workload != name(workload));
            for (index, node) in ready_on.iter().enumerate() {
                let node = NodeId::new(*node).unwrap();
                let incarnation = uuid::Uuid::from_u128(2);
                let session = lattice::testing::session(node.clone(), incarnation);
                let slot = Slot {
                    holder: Holder { node: node.clone(), incarnation },
                    uid,
                    generation,
                    phase: Phase::Ready,
                    message: None,
                    failures: None,
                    handover_from: None,
                    gpu: None,
                    handover_gpu: None,
                    nonce: uuid::Uuid::nil(),
                    claimed_at: 0,
                    since: 0,
                };
                view.sessions.insert(node, Versioned { record: session, revision: Revision(1) });
                let id = SlotId::new(name(workload), index as u32);
                view.slots.insert(id, Versioned { record: slot, revision: Revision(1) });
            }
        });
    }

    pub(crate) fn remove(&self, workload: &str) {
        self.view.send_modify(|view| {
            let view = Arc::make_mut(view);
            view.specs.remove(&name(workload));
            view.slots.retain(|slot, _| slot.workload != name(workload));
        });
    }

    /// As [`World::workload`] with defaults.
    pub(crate) fn ready(&self, workload: &str, ready_on: &[&str]) {
        self.workload(workload, ready_on, "", "");
    }
}

pub(crate) fn name(workload: &str) -> WorkloadName {
    WorkloadName::new(workload).unwrap()
}

pub(crate) fn request(method: &str, url: &str, body: Body) -> Request {
    http::Request::builder().method(method).uri(url).body(body).unwrap()
}

pub(crate) fn ok(text: impl Into<Bytes>) -> Result<Response, CallError> {
    Ok(Response::new(full(text)))
}

pub(crate) async fn text(response: Response) -> String {
    let body = tokio::time::timeout(SOON, response.into_body().collect()).await.unwrap().unwrap();
    String::from_utf8(body.to_bytes().to_vec()).unwrap()
}

pub(crate) fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

/// A body that is written by hand. Dropping the sender cuts nothing: the stream just ends.
pub(crate) fn written() -> (mpsc::Sender<Result<Frame<Bytes>, BodyError>>, Body) {
    let (sender, mut frames) = mpsc::channel::<Result<Frame<Bytes>, BodyError>>(1);
    let frames = futures_util::stream::poll_fn(move |cx| frames.poll_recv(cx));
    (sender, StreamBody::new(frames).boxed_unsync())
}

/// Bytes `0..len` of one endless text that never repeats.
pub(crate) fn pattern(len: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(len + 4);
    for word in 0..=(len as u32 / 4) {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    Bytes::from(bytes).slice(..len)
}

/// Resolves when `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(SOON, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what} did not happen");
}

/// Tells when it is dropped.
pub(crate) struct Dropped(pub(crate) Arc<AtomicBool>);
impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A router's HTTP port.
pub(crate) struct Port {
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) serving: JoinHandle<()>,
}

impl Port {
    pub(crate) async fn open(node: &Node, drain: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let (router, token) = (node.router.clone(), stop.clone());
        let serving = tokio::spawn(async move { router.serve(listener, token, drain).await });
        Self { address, stop, serving }
    }

    pub(crate) async fn open_tls(node: &Node, tls: Tls) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let (router, token) = (node.router.clone(), stop.clone());
        let serving =
            tokio::spawn(async move { router.serve_tls(listener, Arc::new(tls), token, Duration::ZERO).await });
        Self { address, stop, serving }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}
