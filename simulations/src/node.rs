//! One simulated node: the real control plane over a faulty wire and a stub of a host, as one task that can be paused
//! and killed.

use crate::{
    chance::{SimClock, SimRng},
    host::StubHost,
    messages::{Letters, Life, Receivers, SpiedBus, StubMessaging},
    network::{Link, Sky, Wire},
    ticks::{Fired, StubTrigger},
    traffic::Traffic,
};
use lattice::{
    demand::Demand,
    gpu::{GpuClass, GpuSpeed, Offer, OfferMemory},
    id::{GpuId, NodeId, WorkloadName},
    record::Capacity,
    spec::Taint,
    store::{Clock, Platform},
    testing::MemoryLattice,
    view::LatticeView,
};
use lattice_control_plane::{ControlPlane, ControlPlaneError, NodeOptions, Timing};
use std::{
    collections::BTreeMap,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

/// What tells a node from the others.
pub(crate) struct NodeSetup {
    pub(crate) id: NodeId,
    pub(crate) capacity: Capacity,
    pub(crate) zone: String,
    pub(crate) taints: Vec<Taint>,
    pub(crate) gpus: Vec<Offer>,
    /// It is started again when it was asked to leave and has left.
    pub(crate) comes_back: bool,
}

/// A GPU that computes nothing.
pub(crate) fn gpu(number: usize, class: GpuClass, memory: u64, slots: u32) -> Offer {
    Offer {
        id: GpuId::new(format!("gpu-{number}")).expect("it is a name"),
        name: "a simulated one".into(),
        class,
        backend: "none".into(),
        driver: String::new(),
        pci: None,
        memory: OfferMemory { total: memory, free: None },
        slots,
        features: ["shader-f16".to_owned()].into(),
        limits: BTreeMap::new(),
        quirks: Default::default(),
        speed: GpuSpeed { gemm_gflops: if class == GpuClass::Discrete { 1_000 } else { 10 }, ..GpuSpeed::default() },
        failing: None,
        losses: 0,
    }
}

pub(crate) struct SimNode {
    pub(crate) id: NodeId,
    pub(crate) wire: Wire,
    pub(crate) clock: Arc<SimClock>,
    pub(crate) comes_back: bool,
    pub(crate) gpus: Vec<Offer>,
    options: NodeOptions,
    lattice: MemoryLattice,
    gate: Arc<Gate>,
    fired: Fired,
    traffic: Traffic,
    letters: Letters,
    seed: u64,
    number: u64,
    /// Counts starts of the process.
    lives: u64,
    life: Option<Process>,
    resumed: Option<Instant>,
}

/// What a process does in its first moments after it was suspended it decided before.
const WAKING_UP: Duration = Duration::from_millis(200);

/// One process.
struct Process {
    host: Arc<StubHost>,
    stop: CancellationToken,
    demand: Arc<dyn Demand>,
    view: watch::Receiver<Arc<LatticeView>>,
    task: JoinHandle<Result<(), ControlPlaneError>>,
}

impl SimNode {
    pub(crate) fn new(
        seed: u64,
        number: u64,
        setup: NodeSetup,
        sky: Sky,
        lattice: &MemoryLattice,
        fired: Fired,
    ) -> SimNode {
        let rng = SimRng::new(seed, 1000 * number);
        let NodeSetup { id, capacity, zone, taints, gpus, comes_back } = setup;
        let options = NodeOptions {
            lattice: crate::lattice_id(),
            node: id.clone(),
            labels: BTreeMap::from([("zone".to_owned(), zone)]),
            version: "0.0.0".into(),
            capacity,
            volumes: Default::default(),
            taints,
            offers: None,
            http: None,
            timing: Timing::DEV,
            drain: Duration::from_secs(10),
            data_dir: None,
        };
        SimNode {
            id,
            wire: Wire::new(sky, SimRng::new(seed, 1000 * number + 1)),
            clock: Arc::new(SimClock::new(&rng)),
            comes_back,
            gpus,
            options,
            lattice: lattice.clone(),
            gate: Arc::default(),
            fired,
            traffic: Traffic::default(),
            letters: Letters::default(),
            seed,
            number,
            lives: 0,
            life: None,
            resumed: None,
        }
    }

    /// What its replicas have to do, from its next start on.
    pub(crate) fn carry(&mut self, traffic: Traffic) {
        self.traffic = traffic;
    }

    /// Where what becomes of messages is written down, from its next start on.
    pub(crate) fn read(&mut self, letters: Letters) {
        self.letters = letters;
    }

    /// The process that runs, or that ran last.
    fn this_life(&self) -> Life {
        Life { node: self.id.clone(), number: self.lives }
    }

    /// All of its GPUs fail their self-test from now on, or pass it again.
    pub(crate) fn fail_gpus(&mut self, why: Option<&str>) {
        self.gpus.iter_mut().for_each(|offer| offer.failing = why.map(str::to_owned));
        if let Some(life) = &self.life {
            life.host.offer(self.gpus.clone());
        }
    }

    /// A request at this node finds no replica of the workload.
    pub(crate) fn awaits(&self, workload: &WorkloadName) {
        if let Some(life) = self.life.as_ref().filter(|_| !self.is_paused()) {
            life.demand.awaited(workload);
        }
    }

    pub(crate) fn start(&mut self, fair: bool) {
        self.lives += 1;
        let stream = 1_000_000 * self.number + 10 * self.lives;
        let rng = Arc::new(SimRng::new(self.seed, stream));
        let host = Arc::new(StubHost::new(SimRng::new(self.seed, stream + 1), self.traffic.clone(), self.gpus.clone()));
        if fair {
            host.be_fair();
        }
        let clock: Arc<dyn Clock> = self.clock.clone();
        let near = self.lattice.platform(clock.clone(), rng.clone()).bus;
        let far = self.wire.platform(&self.lattice, clock, rng);
        let (gate, letters, life) = (self.gate.clone(), self.letters.clone(), self.this_life());
        let bus = Arc::new(SpiedBus { inner: far.bus, gate, letters: letters.clone() });
        let platform = Platform { bus: bus.clone(), ..far };
        let messaging = StubMessaging {
            wire: self.wire.clone(),
            bus,
            near,
            gate: self.gate.clone(),
            traffic: self.traffic.clone(),
            keeper: Some((letters.clone(), life.clone())),
        };
        let receivers = Receivers {
            host: host.clone(),
            messaging: StubMessaging { keeper: None, ..messaging.clone() },
            letters,
            life,
            traffic: self.traffic.clone(),
        };
        let control =
            ControlPlane::new(self.options.clone(), platform, host.clone(), Arc::new(|_, _, _| Ok(Vec::new())))
                .with_messaging(Arc::new(messaging));
        let (view, demand) = (control.view(), control.demand());
        self.wire.watch(view.clone());
        let rng = SimRng::new(self.seed, stream + 2);
        let trigger = Arc::new(StubTrigger { node: self.id.clone(), fired: self.fired.clone(), rng });
        let stop = CancellationToken::new();
        self.gate.open();
        let process = {
            let (host, stop) = (host.clone(), stop.clone());
            async move {
                tokio::select! { // the host and the receivers never end
                    biased;
                    ended = control.run(trigger, stop) => ended,
                    () = host.run() => Ok(()),
                    () = receivers.run() => Ok(()),
                }
            }
        };
        let task = tokio::spawn(Pausable { inner: Box::pin(process), gate: self.gate.clone() });
        self.life = Some(Process { host, stop, demand, view, task });
    }

    /// kill -9.
    pub(crate) fn crash(&mut self) {
        if let Some(life) = self.life.take() {
            life.task.abort();
            self.letters.gone(&self.this_life(), true);
        }
    }

    /// SIGTERM: it hands over and leaves.
    pub(crate) fn drain(&self) {
        if let Some(life) = &self.life {
            life.stop.cancel();
        }
    }

    /// SIGSTOP.
    pub(crate) fn pause(&self) {
        self.gate.close();
        self.letters.suspended(&self.this_life(), true);
    }

    /// SIGCONT.
    pub(crate) fn resume(&mut self) {
        self.resumed = Some(Instant::now());
        self.letters.suspended(&self.this_life(), false);
        self.gate.open();
    }

    /// Neither suspended nor just back.
    pub(crate) fn is_awake(&self) -> bool {
        !self.is_paused() && self.resumed.is_none_or(|resumed| resumed.elapsed() > WAKING_UP)
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.gate.closed.load(Ordering::Relaxed)
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.life.is_some()
    }

    /// Asked to leave, and not gone.
    pub(crate) fn is_leaving(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.stop.is_cancelled())
    }

    /// Running and reachable.
    pub(crate) fn takes_part(&self) -> bool {
        self.is_alive() && !self.is_paused() && self.wire.link() == Link::Up
    }

    /// The same, and not on its way out.
    pub(crate) fn is_well(&self) -> bool {
        self.takes_part() && !self.is_leaving()
    }

    pub(crate) fn host(&self) -> Option<&StubHost> {
        Some(&self.life.as_ref()?.host)
    }

    pub(crate) fn view(&self) -> Option<Arc<LatticeView>> {
        Some(self.life.as_ref()?.view.borrow().clone())
    }

    pub(crate) fn capacity(&self) -> Capacity {
        self.options.capacity
    }

    /// If the process ended by itself: how.
    pub(crate) async fn ended(&mut self) -> Option<Result<(), String>> {
        if !self.life.as_ref()?.task.is_finished() {
            return None;
        }
        let life = self.life.take()?;
        self.letters.gone(&self.this_life(), false);
        Some(match life.task.await {
            Ok(ended) => ended.map_err(|error| error.to_string()),
            Err(panic) => Err(panic.to_string()),
        })
    }
}

/// Stops a process without its knowing.
#[derive(Default)]
pub(crate) struct Gate {
    closed: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
}

impl Gate {
    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    fn open(&self) {
        self.closed.store(false, Ordering::Relaxed);
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_iter().for_each(Waker::wake);
    }

    fn poll_opened(&self, context: &mut Context<'_>) -> Poll<()> {
        if !self.closed.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(context.waker().clone());
        Poll::Pending
    }

    /// What a task of the process that is not its main one waits for before it does anything.
    pub(crate) async fn opened(&self) {
        poll_fn(|context| self.poll_opened(context)).await;
    }
}

struct Pausable<F> {
    inner: Pin<Box<F>>,
    gate: Arc<Gate>,
}

impl<F: Future> Future for Pausable<F> {
    type Output = F::Output;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if self.gate.poll_opened(context).is_pending() {
            return Poll::Pending;
        }
        self.inner.as_mut().poll(context)
    }
}
