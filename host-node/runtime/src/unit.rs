//! The running instances of one replica of a workload, behind one door.

use crate::{
    admission::Admission,
    evict::HasIdle,
    exchange,
    failure::{Failure, NoRoom},
    gpu::{GpuStats, is_gpu},
    host,
    ledger::NodeShare,
    limits::{CpuMeter, Limits},
    load::{Component, Pre, Runtime},
    logs::{LogGate, LogSink},
    messaging::{self, Incoming},
    network::{Network, NetworkStats},
    operations::OperationStats,
    parts::{Assembly, PartStats, Parts, StopNotice},
    pool::{Guest, Instance, Pool, Retirement, Reuse},
    probe::PROBES_AT_ONCE,
    spans,
    tally::{Tallied, Tally},
    terms::Terms,
    volumes::{Volume, VolumeError, Volumes},
    waits::WaitStats,
    warm,
    workers::{self, Workers},
};
use http::HeaderValue;
use http_body::Body as _;
use lattice::{
    account::Account,
    http::{BodyError, CallError, Request, Response},
    id::{ComponentName, Digest, Generation, WorkloadName},
    secret::Secrets,
    served::{HEADER_SERVED, Served},
    spec::Grants,
    store::Message,
    trace::Tracer,
};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// What one unit runs and within which limits.
#[derive(Clone)]
pub struct UnitConfig {
    pub workload: WorkloadName,
    pub replica: u32,
    /// Of the spec that it runs.
    pub generation: Generation,
    /// The guest's environment variables; it sees no others.
    pub env: BTreeMap<String, String>,
    /// What the guest reads through `wasi:config/store`.
    pub config: BTreeMap<String, String>,
    /// What the guest reads through `wasmcloud:secrets/store`, and the keys that there are for it.
    pub secrets: Arc<Secrets>,
    pub reuse: Reuse,
    pub limits: Limits,
    /// What the guest may reach outside. Default nothing.
    pub grants: Grants,
    /// The NATS account that the grants name. Default the node's.
    pub account: Option<Arc<Account>>,
    /// Directories that the guest sees, and those parts that name them. Default none.
    pub volumes: Vec<Volume>,
    /// Probes call functions of the component ([`Prober::call`](crate::Prober::call)), beside what answers requests. Default no.
    pub by_function: bool,
    /// Where the guest's stdout and stderr go.
    pub logs: Arc<dyn LogSink>,
}

/// Why a unit does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The component could not be instantiated, or its own start failed.
    #[error("{workload}.{replica} does not start: the component {message}")]
    Failed { workload: WorkloadName, replica: u32, message: String },
    /// The node has no room for one more instance, and no idle one could go.
    #[error("{workload}.{replica} does not start: no room for one more instance: {what}")]
    NoRoom { workload: WorkloadName, replica: u32, what: NoRoom },
    /// This node has no GPU for guests.
    #[error(
        "{workload}.{replica} does not start: {component} imports {import}, and this node gives guests no GPU: start it with \
         --gpu auto on a machine that has one, or with --gpu cpu where a driver such as Mesa's lavapipe is installed"
    )]
    NoGpu { workload: WorkloadName, replica: u32, component: String, import: String },
    /// A directory that the guest is to see is not there.
    #[error("{workload}.{replica} does not start: {error}")]
    Volume { workload: WorkloadName, replica: u32, error: VolumeError },
}

/// Counters of one unit. Sums count from its start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitStats {
    /// Calls, refused ones too.
    pub requests: u64,
    /// Calls that were refused at the door: overloaded, draining, or a body too large by its own account.
    pub refused: u64,
    /// Exchanges that failed once a guest had the request, before or after the head. Callers that went away do not count.
    pub failures: u64,
    /// Requests that were sent a second time, to a fresh instance.
    pub retries: u64,
    /// Requests that a kept instance got.
    pub reuse_hits: u64,
    /// Requests whose guest is at work, until the end of the body.
    pub in_flight: u32,
    /// Requests that wait for their turn.
    pub queued: u32,
    /// Messages that were handed to it, those that were not handled, and those dropped before. The first two are among the
    /// requests as well.
    pub messages: u64,
    pub messages_failed: u64,
    pub messages_dropped: u64,
    /// How long those that waited did so.
    pub waits: WaitStats,
    pub instances_live: u32,
    /// Of those alive, those that wait for a request.
    pub instances_idle: u32,
    pub instances_created: u64,
    /// Dropped instances by reason.
    pub instances_retired: BTreeMap<Retirement, u64>,
    /// Requests that were under way in an instance which ended through another one's doing, or through one of them and
    /// nobody knows which. They failed or were repeated.
    pub collateral: u64,
    /// Failures that were held against keeping instances.
    pub strikes: u64,
    /// Why instances are no longer kept, though the configuration says so: a finding of this unit, or of another of the
    /// same workload and component.
    pub reuse_disabled: Option<String>,
    /// What guests did outside.
    pub network: NetworkStats,
    /// What they did with NATS.
    pub operations: Vec<OperationStats>,
    /// Its parts, in the order in which they were given.
    pub parts: Vec<PartStats>,
    /// When that was found, by the system's clock.
    pub reuse_disabled_at: Option<SystemTime>,
    /// What guests did with the GPU, where they import `wasi:webgpu`.
    pub gpu: Option<GpuStats>,
    /// Failures by kind, limits that were reached, peaks.
    pub tally: Tallied,
}

/// Running instances of a component. Dropping it ends them and what they are doing.
pub struct Unit(pub(crate) Arc<Inner>);

impl Unit {
    /// Start the services, then make the first instances, so that a component that cannot start fails here. At least one
    /// is made, which shows that it can; more than [`Reuse::min_warm`] are dropped again when they are idle.
    pub async fn start(runtime: &Runtime, assembly: Assembly, config: UnitConfig) -> Result<Self, StartError> {
        let memory_bytes = config.limits.memory_bytes.min(runtime.max_memory_bytes());
        let limits = Arc::new(Limits { memory_bytes, ..config.limits.clone() });
        let network = runtime.network(&config);
        let uses_gpu = assembly.uses(is_gpu);
        if let Some((component, import)) = uses_gpu.clone().filter(|_| !runtime.has_gpu()) {
            let (workload, replica) = (config.workload.clone(), config.replica);
            return Err(StartError::NoGpu { workload, replica, component, import });
        }
        let node = runtime.node_share(&config, uses_gpu.is_some());
        let unit = format!("{}.{}", config.workload, config.replica);
        let volumes = Volumes::prepare(runtime.volumes(), unit, config.volumes.clone()).await;
        let volumes = volumes.map_err(|error| {
            let (workload, replica) = (config.workload.clone(), config.replica);
            StartError::Volume { workload, replica, error }
        })?;
        let parts = Parts::start(&assembly, &config, &node, &network, &volumes, runtime).await;
        let parts = parts.map_err(|(part, failure)| {
            let (workload, replica) = (config.workload.clone(), config.replica);
            match failure {
                Failure::NoRoom(what) => StartError::NoRoom { workload, replica, what },
                failure => {
                    let message = format!("needs {part}, which failed: {}", failure.message());
                    StartError::Failed { workload, replica, message }
                }
            }
        })?;
        let component = assembly.main().clone();
        let tally = Arc::<Tally>::default();
        let logs = LogGate::new(config.logs.clone(), tally.clone());
        let seats = if component.is_http03() && config.reuse.enabled { config.reuse.concurrency.max(1) } else { 1 };
        let turns = config.limits.concurrency.min(config.reuse.max_instances.saturating_mul(seats));
        let generation = config.generation;
        let served = [false, true].map(|reused| Served { generation, reused }.to_value());
        let inner = Arc::new(Inner {
            admission: Admission::new(turns, config.limits.queue),
            pool: Pool::new(config.reuse.clone(), runtime.standing(&config.workload, component.digest())),
            workers: Workers::new(seats, config.reuse.max_instances),
            stop: CancellationToken::new(),
            probes: Arc::new(Semaphore::new(PROBES_AT_ONCE)),
            counters: Counters::default(),
            blueprint: Blueprint {
                component,
                limits,
                logs,
                network,
                volumes,
                parts: Arc::downgrade(&parts),
                node,
                config,
                tally,
                ordinals: AtomicU64::new(0),
                stdin: None,
            },
            served,
            assembly,
            parts,
            runtime: runtime.clone(),
        });
        for _ in 0..inner.pool.cold().max(1) {
            inner.warm().await.map_err(|failure| inner.start_error(&failure))?;
        }
        // Only now: its own first instances do not make room for each other.
        let idle: Weak<dyn HasIdle> = Arc::<Inner>::downgrade(&inner);
        runtime.register(idle);
        tokio::spawn(keep_house(inner.clone()));
        if inner.blueprint.config.reuse.min_warm > 0 {
            tokio::spawn(warm::keep_enough(inner.clone()));
        }
        Ok(Self(inner))
    }

    /// Send a request to an instance and wait for the head of its response. The guest runs on the caller's task.
    /// Dropping the future, or the response's body before its end, stops the guest. Needs a tokio runtime.
    pub fn call(&self, request: Request) -> impl Future<Output = Result<Response, CallError>> + Send + 'static {
        let inner = self.0.clone();
        async move { inner.call(Terms::of(&request), request).await }
    }

    /// Give a message to an instance and wait until it is handled: like [`Unit::call`], through the same door, within the
    /// same limits. While it is, the guest may publish to the message's subject for replies. Never tried a second time.
    pub fn handle(&self, message: Message) -> impl Future<Output = Result<(), CallError>> + Send + 'static {
        let inner = self.0.clone();
        async move {
            inner.counters.messages.fetch_add(1, Relaxed);
            let limit = inner.blueprint.limits.body_bytes;
            let handled = match message.payload.len() as u64 > limit {
                true => Err(CallError::Body(BodyError::TooLarge { limit })),
                false => inner.clone().call(Terms::MESSAGE, Incoming::request(message)).await.map(drop),
            };
            if handled.is_err() {
                inner.counters.messages_failed.fetch_add(1, Relaxed);
            }
            handled
        }
    }

    /// A message for it was dropped before it could be handed over.
    pub fn note_dropped_message(&self) {
        self.0.counters.messages_dropped.fetch_add(1, Relaxed);
    }

    /// Resolves when the unit can't go on as it should: a service of it ended too often, and is not started again. The
    /// text says which and why. Does not keep the unit alive.
    pub fn broken(&self) -> impl Future<Output = String> + Send + 'static {
        self.0.parts.given_up()
    }

    /// True until the unit is drained: it takes requests.
    pub fn is_ready(&self) -> bool {
        !self.0.admission.is_closed()
    }

    /// True if a call would begin at once: there is a turn, and nobody waits for one.
    pub fn has_room(&self) -> bool {
        self.0.admission.has_room()
    }

    /// Calls inside and in line: what a choice between units of one workload goes by.
    pub fn load(&self) -> u32 {
        let admission = &self.0.admission;
        admission.inside().saturating_add(admission.waiting())
    }

    /// Calls in line.
    pub fn waiting(&self) -> u32 {
        self.0.admission.waiting()
    }

    /// How often the guests of its workload on this node were found computing, of how many looks since the node started. Two
    /// that compute at once count twice.
    pub fn computing(&self) -> (u64, u64) {
        self.0.blueprint.node.processors.ticks()
    }

    /// What it runs.
    pub fn digest(&self) -> Digest {
        self.0.blueprint.component.digest()
    }

    /// The limits that are in force: what was asked for, within what the runtime gives.
    pub fn limits(&self) -> &Limits {
        &self.0.blueprint.limits
    }

    pub fn stats(&self) -> UnitStats {
        let Inner { admission, pool, counters, blueprint, parts, .. } = &*self.0;
        let (reuse_disabled, reuse_disabled_at) = pool.standing().off().map(|off| (off.reason, off.at)).unzip();
        UnitStats {
            requests: counters.requests.load(Relaxed),
            refused: counters.refused.load(Relaxed),
            failures: counters.failures.load(Relaxed),
            retries: counters.retries.load(Relaxed),
            reuse_hits: counters.reuse_hits.load(Relaxed),
            in_flight: admission.inside(),
            queued: admission.waiting(),
            messages: counters.messages.load(Relaxed),
            messages_failed: counters.messages_failed.load(Relaxed),
            messages_dropped: counters.messages_dropped.load(Relaxed),
            waits: admission.waits(),
            instances_live: pool.live(),
            instances_idle: pool.idle(),
            instances_created: pool.created_so_far(),
            instances_retired: pool.retired(),
            collateral: counters.collateral.load(Relaxed),
            strikes: counters.strikes.load(Relaxed),
            reuse_disabled,
            network: self.0.blueprint.network.stats(),
            operations: self.0.blueprint.network.operations(),
            parts: parts.stats(),
            reuse_disabled_at,
            gpu: blueprint.node.gpu.as_ref().map(|gpu| gpu.stats()),
            tally: blueprint.tally.read(),
        }
    }

    /// Waits until a service of the unit is given up, for ever if none is. Answers its name, and why it failed last. The
    /// unit goes on; whether it is of use without the service is the caller's to say.
    pub fn until_service_given_up(&self) -> impl Future<Output = (ComponentName, String)> + Send + 'static {
        let parts = self.0.parts.clone();
        async move { parts.until_given_up().await }
    }

    /// Refuse new requests, wait up to `limit` for those under way (those in line as well), let services end, then stop.
    /// Answers whether all requests were done.
    pub async fn drain(&self, limit: Duration) -> bool {
        let until = tokio::time::Instant::now() + limit;
        self.0.admission.close();
        let empty = async {
            self.0.admission.until_empty().await;
            self.0.parts.until_idle().await;
        };
        let all_done = tokio::time::timeout_at(until, empty).await.is_ok();
        self.0.parts.end_services(until).await;
        self.0.stop();
        all_done
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl fmt::Debug for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UnitConfig { workload, replica, .. } = &self.0.blueprint.config;
        write!(f, "Unit({workload}.{replica})")
    }
}

/// What each new instance is made from.
pub(crate) struct Blueprint {
    pub(crate) component: Component,
    pub(crate) config: UnitConfig,
    pub(crate) limits: Arc<Limits>,
    pub(crate) logs: Arc<LogGate>,
    pub(crate) network: Arc<Network>,
    /// What it may call in other stores.
    pub(crate) parts: Weak<Parts>,
    pub(crate) node: Arc<NodeShare>,
    pub(crate) tally: Arc<Tally>,
    /// Instances so far, those that could not be made included: names them in the log.
    pub(crate) ordinals: AtomicU64,
    pub(crate) volumes: Volumes,
    /// What its instances have as stdin. Without, an empty one.
    pub(crate) stdin: Option<StopNotice>,
}

pub(crate) struct Inner {
    pub(crate) blueprint: Blueprint,
    pub(crate) pool: Pool,
    /// Instances at work that serve several requests at a time.
    pub(crate) workers: Workers,
    /// Ends everything that is under way.
    pub(crate) stop: CancellationToken,
    pub(crate) counters: Counters,
    /// Turns of probes, which stand in no line.
    pub(crate) probes: Arc<Semaphore>,
    admission: Admission,
    /// What answers say of who gave them: a fresh instance, a kept one.
    served: [HeaderValue; 2],
    assembly: Assembly,
    pub(crate) parts: Arc<Parts>,
    /// Its ticker must go on for as long as there are guests to interrupt.
    runtime: Runtime,
}

impl HasIdle for Inner {
    fn blueprint(&self) -> &Blueprint {
        &self.blueprint
    }

    fn oldest(&self) -> Option<(bool, Instant)> {
        self.pool.oldest()
    }

    fn evict(&self) -> bool {
        self.pool.evict()
    }
}

#[derive(Default)]
pub(crate) struct Counters {
    requests: AtomicU64,
    refused: AtomicU64,
    failures: AtomicU64,
    /// Heads of answers to clients' requests, and parts of bodies that passed in either direction.
    pub(crate) progress: Arc<AtomicU64>,
    pub(crate) retries: AtomicU64,
    messages: AtomicU64,
    messages_failed: AtomicU64,
    messages_dropped: AtomicU64,
    strikes: AtomicU64,
    pub(crate) reuse_hits: AtomicU64,
    pub(crate) collateral: AtomicU64,
}

impl Inner {
    async fn call(self: Arc<Self>, terms: Terms, request: Request) -> Result<Response, CallError> {
        self.counters.requests.fetch_add(1, Relaxed);
        let deadline = tokio::time::Instant::now() + self.blueprint.limits.wall;
        let limit = self.blueprint.limits.body_bytes;
        let queue = spans::queue(&self, request.headers());
        let turn = match request.body().size_hint().lower() > limit {
            true => Err(CallError::Body(BodyError::TooLarge { limit })),
            false => self.admission.enter(deadline).await,
        };
        let turn = match turn {
            Ok(turn) => {
                drop(queue);
                turn
            }
            Err(refusal) => {
                if let Some(mut queue) = queue {
                    queue.fail("refused");
                }
                self.counters.refused.fetch_add(1, Relaxed);
                self.blueprint.tally.refused(&refusal);
                return Err(refusal);
            }
        };
        let (request, again) = match terms.copies && self.may_copy(&request) {
            true => exchange::twice(request, deadline, &self.blueprint.limits).await?,
            false => (request, None),
        };
        let terms = Terms { tries: terms.tries || again.is_some(), ..terms };
        if terms.shares && self.workers.share() && self.pool.is_on() {
            return workers::call(&self, terms, turn, request, again, deadline).await;
        }
        let instance = self.pool.take(terms.tries);
        // Only a kept instance's failure can be the fault of reuse, so only then a copy may be needed.
        let replay = match &instance {
            Some(instance) if instance.uses > 0 => again.or_else(|| exchange::replay(terms, &request)),
            _ => None,
        };
        let reused = instance.as_ref().is_some_and(|instance| instance.uses > 0);
        let failed = match exchange::begin(&self, terms, turn, instance, request, deadline).await {
            Ok(response) => return Ok(self.served(response, reused)),
            Err(failed) => failed,
        };
        let (Some(request), Some(turn), true) = (replay, failed.turn, failed.failure.may_retry()) else {
            if failed.may_be_reuse {
                self.strike(&failed.failure);
            }
            return Err(failed.failure.call_error());
        };
        self.counters.retries.fetch_add(1, Relaxed);
        let again = exchange::begin(&self, terms, turn, None, request, deadline).await;
        // A fresh instance that fails as well says that it is the request, not reuse.
        if again.is_ok() && failed.may_be_reuse {
            self.strike(&failed.failure);
        }
        again.map(|response| self.served(response, false)).map_err(|failed| failed.failure.call_error())
    }

    /// An answer, with who gave it.
    pub(crate) fn served(&self, mut response: Response, reused: bool) -> Response {
        let [fresh, kept] = &self.served;
        response.headers_mut().insert(HEADER_SERVED, if reused { kept } else { fresh }.clone());
        response
    }

    /// Whether a kept instance can be tried with this request before a second use has succeeded, though its method says that
    /// it is not to be repeated: the guest reaches nothing outside, so nobody can tell that it was asked twice. Else a
    /// workload that is only ever asked to POST would have a fresh instance for each request, for ever.
    pub(crate) fn may_copy(&self, request: &Request) -> bool {
        /// It is read before the guest sees the request.
        const BODY_BYTES_MAX: u64 = 64 << 10;
        let standing = self.pool.standing();
        if standing.is_proved() || standing.is_off() {
            return false;
        }
        let UnitConfig { grants, volumes, .. } = &self.blueprint.config;
        let reaches_nothing = grants.is_empty() && volumes.is_empty() && self.parts.is_empty();
        reaches_nothing
            && self.pool.idle() > 0
            && request.body().size_hint().exact().is_some_and(|bytes| bytes <= BODY_BYTES_MAX)
    }

    pub(crate) fn tracer(&self) -> &Tracer {
        self.runtime.tracer()
    }

    /// An instance for a request. Where the node has no room, idle ones of any unit go.
    pub(crate) async fn instantiate(&self, meter: Arc<CpuMeter>) -> Result<Instance, Failure> {
        loop {
            match self.try_instantiate(meter.clone()).await {
                Err(Failure::NoRoom(lacks)) if self.runtime.evict(&lacks, &self.blueprint) => {}
                result => return result,
            }
        }
    }

    pub(crate) async fn try_instantiate(&self, meter: Arc<CpuMeter>) -> Result<Instance, Failure> {
        let place = self.runtime.place(&self.blueprint).map_err(Failure::NoRoom)?;
        let store = host::store(&self.blueprint, meter);
        let mut store = store.map_err(|error| Failure::Trap(format!("has lost a volume: {error:#}")))?;
        let handles_messages = self.blueprint.component.inspection().handles_messages();
        let guest = match self.assembly.pre() {
            pre if handles_messages || self.blueprint.config.by_function => {
                messaging::instantiate(pre, &mut store, handles_messages).await
            }
            Pre::Http02(pre) => pre.instantiate_async(&mut store).await.map(|guest| (Guest::Http02(guest), None, None)),
            Pre::Http03(pre) => pre.instantiate_async(&mut store).await.map(|guest| (Guest::Http03(guest), None, None)),
            Pre::Messages(pre) => pre.instantiate_async(&mut store).await.map(|_| (Guest::NoHttp, None, None)),
        };
        let (guest, handler, whole) = guest.map_err(|error| match Failure::of(&error, store.data()) {
            Failure::NodeMemory => Failure::NoRoom(NoRoom::Memory), // no request had begun
            failure => failure,
        })?;
        store.data_mut().memory.started();
        let alive = self.pool.created();
        let (uses, warmed, idle_since) = (0, false, Instant::now());
        Ok(Instance { store, guest, handler, whole, uses, warmed, idle_since, _alive: alive, _place: place })
    }

    fn start_error(&self, failure: &Failure) -> StartError {
        let UnitConfig { workload, replica, .. } = &self.blueprint.config;
        let (workload, replica) = (workload.clone(), *replica);
        match failure {
            Failure::NoRoom(what) => StartError::NoRoom { workload, replica, what: what.clone() },
            failure => StartError::Failed { workload, replica, message: failure.message() },
        }
    }

    pub(crate) fn note_failure(&self, failure: &Failure) {
        if !self.blueprint.tally.failed(failure) {
            return;
        }
        self.counters.failures.fetch_add(1, Relaxed);
        let UnitConfig { workload, replica, .. } = &self.blueprint.config;
        tracing::debug!(%workload, replica, failure = failure.message(), "an exchange failed");
    }

    pub(crate) fn strike(&self, failure: &Failure) {
        self.counters.strikes.fetch_add(1, Relaxed);
        if let Some(reason) = self.pool.standing().strike(&failure.message()) {
            let UnitConfig { workload, replica, .. } = &self.blueprint.config;
            let digest = self.blueprint.component.digest();
            tracing::warn!(%workload, replica, %digest, reason, "instances are no longer reused");
            self.pool.drop_used();
            self.workers.retire_all(Retirement::Spent);
        }
    }

    fn stop(&self) {
        self.admission.stop();
        self.stop.cancel();
        self.pool.clear();
        self.parts.stop();
    }
}

/// Drops instances that nobody needs, tells what was not logged.
async fn keep_house(unit: Arc<Inner>) {
    let mut ticks = unit.pool.ticks();
    while unit.stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let now = Instant::now();
        unit.blueprint.logs.tell_dropped(now);
        unit.pool.expire(now);
    }
    unit.pool.clear();
}
