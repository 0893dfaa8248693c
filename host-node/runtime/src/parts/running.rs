//! The parts of one unit while it runs, and one call of one of them.
//!
//! A call runs on its caller's task wherever it can, store within store: no queue, no wake-up, and a caller that goes
//! away takes its call along. Services differ: see `service.rs`.

use super::{
    Part, PartRole, PartState, PartStats,
    assemble::{AssembledPart, Assembly, Target},
    pool::{Idle, Maker},
    service::{self, Service},
};
use crate::{
    admission::{Admission, QUEUE_WAIT_MAX},
    bridge::Values,
    evict::HasIdle,
    failure::Failure,
    host::{Host, handed_on},
    inherited::Inherited,
    ledger::NodeShare,
    limits::{CpuMeter, CpuSpent, PIPES_MAX},
    load::Runtime,
    lock,
    network::Network,
    spans,
    tally::FailureKind,
    unit::{Blueprint, UnitConfig},
    volumes::Volumes,
};
use futures_util::future::{join_all, select_all};
use lattice::{http::CallError, id::ComponentName, spec::FunctionName};
use std::{
    collections::BTreeMap,
    fmt,
    future::pending,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use wasmtime::{AsContextMut, component::Accessor};

/// A service that was told to end has this time for it.
const SERVICE_GRACE: Duration = Duration::from_secs(10);

/// A call of a part failed. Travels through the caller's store as the error of a host function, which ends the caller.
#[derive(Debug, Clone)]
pub(crate) struct PartError {
    part: ComponentName,
    pub(crate) fault: PartFault,
}

#[derive(Debug, Clone)]
pub(crate) enum PartFault {
    /// It was called, or was being made for the call.
    Failed(Box<Failure>),
    /// Its queue is full, or moved too slowly.
    Busy,
    /// The unit has as many streams and futures to and from services open as it may.
    Streams,
    /// A service that is not there now.
    Down { state: PartState, last_error: Option<String> },
}

impl PartFault {
    /// A word of a closed set.
    fn kind(&self) -> &'static str {
        match self {
            PartFault::Failed(failure) => FailureKind::of(failure).map_or("cancelled", FailureKind::as_str),
            PartFault::Busy => "busy",
            PartFault::Streams => "streams",
            PartFault::Down { .. } => "down",
        }
    }
}

impl PartError {
    /// For people; one line.
    pub(crate) fn message(&self) -> String {
        let part = &self.part;
        match &self.fault {
            PartFault::Failed(failure) => format!("its part {part} failed: {}", failure.message()),
            PartFault::Busy => format!("its part {part} is busy: too many calls wait for it"),
            PartFault::Streams => {
                format!(
                    "got no stream or future to or from its part {part}: this replica has {PIPES_MAX} open, and may have no more"
                )
            }
            PartFault::Down { state, last_error } => {
                let state = match state {
                    PartState::GivenUp => "ended too often and is not started again",
                    PartState::Done => "has ended",
                    PartState::Stopped => "was stopped",
                    PartState::Starting | PartState::Ready | PartState::Restarting => "is being started again",
                };
                let why = last_error.as_ref().map(|why| format!("; it failed last: {why}")).unwrap_or_default();
                format!("its part {part} {state}{why}")
            }
        }
    }
}

impl fmt::Display for PartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for PartError {}

/// All parts of one unit. Dropping it ends them.
pub(crate) struct Parts {
    parts: Vec<Arc<Running>>,
    stop: CancellationToken,
    given_up: watch::Sender<Option<ComponentName>>,
    /// Places for streams and futures between their stores and that of the main component.
    pipes: Arc<Semaphore>,
}

impl Parts {
    /// Nothing but the main component.
    pub(crate) fn none() -> Arc<Self> {
        let (stop, given_up) = (CancellationToken::new(), watch::Sender::default());
        Arc::new(Self { parts: Vec::new(), stop, given_up, pipes: Arc::new(Semaphore::new(0)) })
    }

    /// Starts those that are to be there before the first request: services and isolated parts.
    pub(crate) async fn start(
        assembly: &Assembly,
        unit: &UnitConfig,
        node: &Arc<NodeShare>,
        network: &Arc<Network>,
        volumes: &Volumes,
        runtime: &Runtime,
    ) -> Result<Arc<Self>, (ComponentName, Failure)> {
        if assembly.parts().is_empty() {
            return Ok(Self::none());
        }
        let (stop, given_up) = (CancellationToken::new(), watch::Sender::default());
        let parts = Arc::new_cyclic(|parts: &Weak<Self>| Self {
            parts: (0..assembly.parts().len())
                .filter_map(|at| {
                    let maker = Maker::new(assembly, at, (unit, node, network, volumes), runtime, parts.clone())?;
                    Some(Arc::new(Running::new(assembly.parts().get(at)?, maker, stop.clone(), given_up.clone())))
                })
                .collect(),
            stop: stop.clone(),
            given_up,
            pipes: Arc::new(Semaphore::new(PIPES_MAX)),
        });
        for part in assembly.start_order().iter().filter_map(|at| parts.parts.get(*at)) {
            let started = match (&part.kind, &part.role) {
                (Kind::Service(service), _) => service.start(part).await,
                (Kind::ByCall(idle), PartRole::Isolated) => part.maker.warm().await.map(|instance| idle.give(instance)),
                (Kind::ByCall(_), _) => Ok(()),
            };
            started.map_err(|failure| (part.name.clone(), failure))?;
        }
        // Only now: the first instances do not make room for each other.
        for part in &parts.parts {
            let idle: Weak<dyn HasIdle> = Arc::<Running>::downgrade(part);
            runtime.register(idle);
        }
        tokio::spawn(keep_house(parts.parts.clone(), stop));
        Ok(parts)
    }

    /// Waits until a service is given up, for ever if none is. Answers its name, and why it failed last.
    pub(crate) async fn until_given_up(&self) -> (ComponentName, String) {
        let mut given_up = self.given_up.subscribe();
        let name = given_up.wait_for(Option::is_some).await.ok().and_then(|name| name.clone());
        let Some(name) = name else { return std::future::pending().await };
        let part = self.parts.iter().find(|part| part.name == name);
        let why = part.and_then(|part| part.last_error()).unwrap_or_else(|| "it ended".into());
        (name, why)
    }

    /// A call of the host's own: nobody's request pays for it.
    pub(crate) fn call(&self, part: &ComponentName, function: &FunctionName) -> Option<PartCall> {
        let part = self.parts.iter().find(|running| running.name == *part)?;
        let function = *part.probes.get(function)?;
        Some(PartCall { part: part.clone(), function, meter: None, inherited: Inherited::default(), may_drive: false })
    }

    /// A place for one more stream or future between two stores, if there is one.
    pub(crate) fn pipe(&self) -> Option<OwnedSemaphorePermit> {
        self.pipes.clone().try_acquire_owned().ok()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub(crate) fn stats(&self) -> Vec<PartStats> {
        self.parts.iter().map(|part| part.stats()).collect()
    }

    /// Resolves when a service is given up, with what is to be said of it. Does not keep the parts alive.
    pub(crate) fn given_up(&self) -> impl Future<Output = String> + Send + 'static {
        let services = self.parts.iter().filter_map(|part| {
            let (given_up, part) = (part.service()?.given_up(), Arc::downgrade(part));
            Some(Box::pin(async move {
                given_up.await;
                let Some(part) = part.upgrade() else { return pending().await };
                let restarts = part.service().map_or(0, Service::restarts);
                let why = part.last_error().map(|why| format!(": {why}")).unwrap_or_default();
                format!("the service {} was started {restarts} times again, and ended each time{why}", part.name)
            }))
        });
        let services: Vec<_> = services.collect();
        async move {
            match services.is_empty() {
                true => pending().await,
                false => select_all(services).await.0,
            }
        }
    }

    /// Waits until nobody calls a part. Only of use once no request can begin.
    pub(crate) async fn until_idle(&self) {
        for part in &self.parts {
            part.door.until_empty().await;
        }
    }

    /// Tells services that they are to end, and waits for those that listen: for [`SERVICE_GRACE`], and not beyond `until`.
    /// Nobody may call them any more.
    pub(crate) async fn end_services(&self, until: tokio::time::Instant) {
        let until = until.min(tokio::time::Instant::now() + SERVICE_GRACE);
        let told = self.parts.iter().filter_map(|part| {
            let (service, notice) = (part.service()?, part.maker.blueprint.stdin.as_ref()?);
            notice.tell();
            (notice.has_listener() && service.state() == PartState::Ready).then(|| service.ended())
        });
        let _ = tokio::time::timeout_at(until, join_all(told.collect::<Vec<_>>())).await;
    }

    /// Ends all parts; whoever waits for one is turned away.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
        for part in &self.parts {
            part.door.stop();
            if let Kind::ByCall(idle) = &part.kind {
                idle.clear();
            }
        }
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Drops instances that nobody needs, tells what was not logged.
async fn keep_house(parts: Vec<Arc<Running>>, stop: CancellationToken) {
    let periods = parts.iter().filter_map(|part| match &part.kind {
        Kind::ByCall(idle) => Some(idle.period()),
        Kind::Service(_) => None,
    });
    let mut period = tokio::time::interval(periods.min().unwrap_or(Duration::from_secs(1)));
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(period.tick()).await.is_some() {
        let now = Instant::now();
        for part in &parts {
            part.maker.blueprint.logs.tell_dropped(now);
            if let Kind::ByCall(idle) = &part.kind {
                idle.expire(now);
            }
        }
    }
}

/// One part while its unit runs.
pub(crate) struct Running {
    pub(crate) name: ComponentName,
    pub(crate) role: PartRole,
    pub(crate) maker: Maker,
    pub(crate) stop: CancellationToken,
    given_up: watch::Sender<Option<ComponentName>>,
    door: Admission,
    kind: Kind,
    /// Functions that probes call.
    probes: BTreeMap<FunctionName, usize>,
    calls: AtomicU64,
    /// Calls that ended well.
    answered: AtomicU64,
    failures: AtomicU64,
    refused: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl HasIdle for Running {
    fn blueprint(&self) -> &Blueprint {
        &self.maker.blueprint
    }

    fn oldest(&self) -> Option<(bool, Instant)> {
        match &self.kind {
            Kind::ByCall(idle) => idle.oldest(),
            Kind::Service(_) => None,
        }
    }

    fn evict(&self) -> bool {
        match &self.kind {
            Kind::ByCall(idle) => idle.evict(),
            Kind::Service(_) => false,
        }
    }
}

enum Kind {
    /// Instances are made when they are called.
    ByCall(Idle),
    Service(Box<Service>),
}

impl Running {
    fn new(
        assembled: &AssembledPart,
        maker: Maker,
        stop: CancellationToken,
        given_up: watch::Sender<Option<ComponentName>>,
    ) -> Self {
        let Part { name, role, instances_max, queue_max, .. } = &assembled.part;
        let (kind, turns) = match role {
            PartRole::Service { restart } => {
                let service = Service::new(assembled, restart.clone());
                let turns = service.calls_max();
                (Kind::Service(Box::new(service)), turns)
            }
            PartRole::Lazy { .. } | PartRole::Isolated => (Kind::ByCall(Idle::new(role)), *instances_max),
        };
        Self {
            name: name.clone(),
            role: role.clone(),
            maker,
            stop,
            given_up,
            door: Admission::new(turns, *queue_max),
            kind,
            probes: assembled.probes.clone(),
            calls: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            last_error: Mutex::default(),
        }
    }

    pub(crate) fn note_failure(&self, failure: &Failure) {
        let message = failure.message();
        let config = &self.maker.blueprint.config;
        tracing::debug!(workload = %config.workload, replica = config.replica, part = %self.name, message, "a part failed");
        *lock(&self.last_error) = Some(message);
    }

    /// It is a service that is not started again.
    pub(crate) fn give_up(&self) {
        let config = &self.maker.blueprint.config;
        let why = self.last_error().unwrap_or_default();
        tracing::warn!(workload = %config.workload, replica = config.replica, service = %self.name, why,
            "a service ended too often and is not started again");
        self.given_up.send_replace(Some(self.name.clone()));
    }

    pub(crate) fn service(&self) -> Option<&Service> {
        match &self.kind {
            Kind::Service(service) => Some(service),
            Kind::ByCall(_) => None,
        }
    }

    pub(crate) fn last_error(&self) -> Option<String> {
        lock(&self.last_error).clone()
    }

    fn stats(&self) -> PartStats {
        let (state, restarts) = match &self.kind {
            Kind::ByCall(_) if self.stop.is_cancelled() => (PartState::Stopped, 0),
            Kind::ByCall(_) => (PartState::Ready, 0),
            Kind::Service(service) => (service.state(), service.restarts()),
        };
        PartStats {
            name: self.name.clone(),
            role: self.role.clone(),
            state,
            instances_live: self.maker.live(),
            instances_created: self.maker.created_so_far(),
            calls: self.calls.load(Relaxed),
            failures: self.failures.load(Relaxed),
            refused: self.refused.load(Relaxed),
            in_flight: self.door.inside(),
            queued: self.door.waiting(),
            restarts,
            last_error: self.last_error(),
        }
    }
}

/// One call of one function.
pub(crate) struct PartCall {
    part: Arc<Running>,
    function: usize,
    /// The caller's, where the call costs the caller's processor time. Without, it has a budget of its own.
    meter: Option<Arc<CpuMeter>>,
    /// Of the request that the caller answers.
    inherited: Inherited,
    /// The caller waits outside of the loop of its store, so that of a service may run meanwhile.
    may_drive: bool,
}

impl PartCall {
    /// A call by the guest of this store, within a function that it has just called.
    pub(crate) fn of(mut store: impl AsContextMut<Data = Host>, target: Target) -> wasmtime::Result<Self> {
        let inherited = handed_on(store.as_context_mut())?;
        let store = store.as_context();
        let host = store.data();
        let parts = host.parts.upgrade();
        let Some(part) = parts.as_ref().and_then(|parts| parts.parts.get(target.part)) else {
            return Err(wasmtime::Error::msg("the unit has ended"));
        };
        let meter = host.lends_meter.then(|| host.meter.clone());
        // What waits for its calls meets no epoch that would ask.
        if meter.as_ref().is_some_and(|meter| meter.spent() > host.limits.cpu) {
            return Err(CpuSpent.into());
        }
        Ok(Self { part: part.clone(), function: target.function, meter, inherited, may_drive: true })
    }

    pub(crate) fn new(accessor: &Accessor<Host>, target: Target) -> wasmtime::Result<Self> {
        accessor.with(|store| Self::of(store, target))
    }

    /// For the streams and futures that it is given and answers with.
    pub(crate) fn counterpart(&self) -> Counterpart {
        Counterpart(self.part.clone())
    }

    /// On the caller's own task, which waits for it. Answers with the values, now those of the results.
    pub(crate) async fn run(mut self, values: Box<dyn Values>) -> wasmtime::Result<Box<dyn Values>> {
        let part = self.part.clone();
        let span = spans::call(&part, &mut self.inherited);
        let result = match &part.kind {
            Kind::ByCall(idle) => self.by_call(idle, values).await,
            Kind::Service(service) => {
                part.calls.fetch_add(1, Relaxed);
                let payer = (self.meter, self.may_drive);
                service::call(&part, service, (self.function, values), self.inherited, payer).await
            }
        };
        if let (Some(mut span), Err(fault)) = (span, &result) {
            span.fail(fault.kind());
        }
        if result.is_ok() {
            part.answered.fetch_add(1, Relaxed);
        }
        part.outcome(result)
    }

    /// Counts the calls of its part that ended well.
    pub(crate) fn answered(&self) -> impl Fn() -> u64 + use<> {
        let part = self.part.clone();
        move || part.answered.load(Relaxed)
    }

    /// The same from a caller that goes on meanwhile: the callee's loop must not run within the caller's.
    pub(crate) async fn run_apart(mut self, values: Box<dyn Values>) -> wasmtime::Result<Box<dyn Values>> {
        if let Kind::Service(_) = &self.part.kind {
            self.may_drive = false;
            return self.run(values).await; // it has a task of its own
        }
        // Moved into the task: what it spends counts however it ends.
        let branch = self.meter.take().unwrap_or_default().branch();
        self.meter = Some(branch.meter.clone());
        let part = self.part.clone();
        let work =
            async move { branch.meter.clone().measure(&part.maker.blueprint.node.processors, self.run(values)).await };
        let task = tokio::spawn(work);
        AbortOnDropHandle::new(task).await?
    }

    async fn by_call(mut self, idle: &Idle, values: Box<dyn Values>) -> Result<Box<dyn Values>, PartFault> {
        let part = self.part.clone();
        let _turn = part.enter().await?;
        part.calls.fetch_add(1, Relaxed);
        let limit = part.maker.blueprint.limits.wall;
        let lent = self.meter.take();
        let inherited = std::mem::take(&mut self.inherited);
        let work = async {
            match lent {
                // Whoever polls the caller measures already; a second time within it would lose the caller's part.
                Some(meter) => self.work(idle, values, meter, inherited).await,
                None => {
                    let meter = Arc::<CpuMeter>::default();
                    meter
                        .clone()
                        .measure(&part.maker.blueprint.node.processors, self.work(idle, values, meter, inherited))
                        .await
                }
            }
        };
        // A caller that is a request has its own deadline, which comes first. A service has none.
        let in_time = tokio::time::timeout(limit, work).await;
        in_time.unwrap_or_else(|_| Err(PartFault::Failed(Box::new(Failure::Wall { limit }))))
    }

    async fn work(
        &self,
        idle: &Idle,
        mut values: Box<dyn Values>,
        meter: Arc<CpuMeter>,
        inherited: Inherited,
    ) -> Result<Box<dyn Values>, PartFault> {
        let part = &self.part;
        let failed = |failure| PartFault::Failed(Box::new(failure));
        let mut instance = match idle.take() {
            Some(instance) => instance,
            None => part.maker.make(meter.clone(), &inherited).await.map_err(failed)?,
        };
        instance.begin_call(meter, inherited);
        let Some(function) = instance.functions().get(self.function).copied() else {
            return Err(failed(Failure::Trap("a function that it exported is not there".into())));
        };
        if let Err(error) = values.call(&mut instance.store, function).await {
            return Err(failed(Failure::of(&error, instance.store.data())));
        }
        idle.give(instance);
        if part.stop.is_cancelled() {
            idle.clear(); // it was cleared before this one came back
        }
        Ok(values)
    }
}

/// With whom a caller exchanges streams and futures.
#[derive(Clone)]
pub(crate) struct Counterpart(Arc<Running>);

impl Counterpart {
    /// There is no place for one more.
    pub(crate) fn refuse(&self) -> PartError {
        self.0.refused.fetch_add(1, Relaxed);
        PartError { part: self.0.name.clone(), fault: PartFault::Streams }
    }

    /// It ended in the middle of one.
    pub(crate) fn cut_short(&self) -> PartError {
        let part = &self.0;
        part.failures.fetch_add(1, Relaxed);
        let state = part.service().map_or(PartState::Stopped, Service::state);
        PartError { part: part.name.clone(), fault: PartFault::Down { state, last_error: part.last_error() } }
    }
}

impl Running {
    /// A turn to call it, kept until the call's end.
    pub(crate) async fn enter(&self) -> Result<OwnedSemaphorePermit, PartFault> {
        // The caller has a deadline of its own, which ends it wherever it waits.
        match self.door.enter(tokio::time::Instant::now() + QUEUE_WAIT_MAX).await {
            Ok(turn) => Ok(turn),
            Err(CallError::NotHere) => Err(PartFault::Down { state: PartState::Stopped, last_error: None }),
            Err(_) => Err(PartFault::Busy),
        }
    }

    fn outcome<T>(&self, result: Result<T, PartFault>) -> wasmtime::Result<T> {
        result.map_err(|fault| {
            match &fault {
                PartFault::Busy | PartFault::Streams => self.refused.fetch_add(1, Relaxed),
                PartFault::Failed(_) | PartFault::Down { .. } => self.failures.fetch_add(1, Relaxed),
            };
            // A service's own errors are noted where it ends.
            if let (PartFault::Failed(failure), Kind::ByCall(_)) = (&fault, &self.kind) {
                self.note_failure(failure);
            }
            PartError { part: self.name.clone(), fault }.into()
        })
    }
}
