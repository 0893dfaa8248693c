//! A workload that calls another one, which runs on another node: two routers on connections of their own to a nats-server,
//! and the callee's instances behind the far one. Each call is a POST whose body comes back.

use crate::{Bench, guest};
use lattice::{
    Fut,
    http::{CallError, Instances, Request, Response},
    id::{LatticeId, WorkloadName},
    spec::Grants,
    store::Bus,
    view::LatticeView,
};
use lattice_benches::{nats_server::NatsServer, world};
use lattice_nats::{ConnectOptions, SystemClock, SystemRng};
use lattice_router::{Router, RouterOptions};
use lattice_runtime::Unit;
use prometheus_client::registry::Registry;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

const NEAR: u32 = 0;
const FAR: u32 = 1;
/// The far router's subscription takes a moment. An attempt before it is given up after this.
const ATTEMPT: Duration = Duration::from_millis(50);
const ATTEMPTS_MAX: u32 = 100;

pub(crate) struct World {
    bench: Bench,
    caller: Unit,
    callee: WorkloadName,
    /// Its mesh does not keep it alive.
    _near: Router,
    stop: CancellationToken,
    serves: JoinHandle<()>,
    _server: NatsServer,
}

impl World {
    pub(crate) fn start() -> Self {
        let server = NatsServer::start();
        let bench = Bench::new(tokio::runtime::Builder::new_multi_thread());
        let mut view = world::nodes(FAR + 1);
        let callee = world::ask_for(&mut view, 0, 1, Vec::new());
        world::place_all(&mut view, FAR, 1);
        let view = Arc::new(view);
        let grant = format!("http://{callee}.lattice").parse().expect("a good grant");
        let caller = bench.composed(Grants { http_out: vec![grant], ..Grants::default() });
        let echo = Arc::new(bench.alone(guest("echo02"), Grants::default()));

        let stop = CancellationToken::new();
        let (near, serves) = bench.tokio.block_on(async {
            let near = router(NEAR, connect(&server.url).await, view.clone(), Callee(None));
            let far = router(FAR, connect(&server.url).await, view, Callee(Some(echo)));
            let until = stop.clone();
            let serves = tokio::spawn(async move { far.serve_peers(until, Duration::ZERO).await.expect("connected") });
            (near, serves)
        });
        bench.runtime.join(near.mesh());
        let world = Self { bench, caller, callee, _near: near, stop, serves, _server: server };
        let mut attempts = 0;
        while world.echoed(1, 1) != 1 {
            attempts += 1;
            assert!(attempts < ATTEMPTS_MAX, "the far router answers");
        }
        world
    }

    /// That many calls with that many bytes.
    pub(crate) fn time(&self, size: u64, times: u64) -> Duration {
        let began = Instant::now();
        assert_eq!(self.echoed(size, times), size * times, "every call is answered");
        began.elapsed()
    }

    /// Bytes that came back.
    fn echoed(&self, size: u64, times: u64) -> u64 {
        let answer = self.bench.answer(&self.caller, &format!("/post/{}.lattice/{size}", self.callee), times);
        String::from_utf8_lossy(&answer).parse().expect("a number")
    }

    pub(crate) fn stop(self) {
        self.stop.cancel();
        self.bench.tokio.block_on(self.serves).expect("it ends when it is told to");
    }
}

async fn connect(url: &str) -> Arc<dyn Bus> {
    let options = ConnectOptions { servers: vec![url.to_owned()], ..ConnectOptions::default() };
    lattice_nats::connect(options).await.expect("the server listens").bus()
}

fn router(node: u32, bus: Arc<dyn Bus>, view: Arc<LatticeView>, callee: Callee) -> Router {
    let lattice = LatticeId::new("bench").expect("a good name");
    let options = RouterOptions { start_wait: ATTEMPT, ..RouterOptions::new(world::node_id(node), lattice) };
    let (clock, rng) = (Arc::new(SystemClock::default()), Arc::new(SystemRng));
    // A view that never changes: the table of the first one stays in force.
    let (_, view) = watch::channel(view);
    Router::new(options, bus, clock, rng, Arc::new(callee), view, &mut Registry::default())
}

/// What its node runs, if it does.
struct Callee(Option<Arc<Unit>>);

impl Instances for Callee {
    fn is_ready(&self, _: &WorkloadName) -> bool {
        self.0.is_some()
    }

    fn call(&self, _: &WorkloadName, request: Request) -> Fut<'static, Result<Response, CallError>> {
        match &self.0 {
            Some(unit) => Box::pin(unit.call(request)),
            None => Box::pin(std::future::ready(Err(CallError::NotHere))),
        }
    }
}
