//! One service while its unit runs: its life, again and again, and calls of it in between.
//!
//! How it takes calls depends on what it is made of. A component of WASI 0.2 does one thing at a time: calls take turns
//! and run on their callers' tasks, without a wake-up ([`Serial`]); where it has a `run`, it does nothing else
//! ([`Kind::Program`]). A component of WASI 0.3 has a task of its own, which runs its `run` and many calls at a time
//! ([`Concurrent`]); who calls it drives it for a moment (`driven.rs`), so that a call need not wait for that task.
//!
//! Hazard: a service has state, which a caller that goes away must not destroy. A call that has entered the guest is
//! finished, by somebody else if need be. It has the wall limit from its entry on; beyond it the service is started again.

use super::{
    PartState, Restart, StopNotice,
    assemble::AssembledPart,
    driven::Driven,
    pool::PartInstance,
    running::{PartFault, Running},
    supervision::{Action, Input, Phase, Supervision},
};
use crate::{
    bridge::Values, computing::in_slices, failure::Failure, host::Host, inherited::Inherited, limits::CpuMeter, lock,
};
use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use std::{
    future::{pending, poll_fn},
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::sync::{
    Notify, mpsc,
    oneshot::{self, error::TryRecvError},
    watch,
};
use tokio_util::sync::CancellationToken;
use wasmtime::component::{Accessor, Func};

/// Calls that one service of WASI 0.3 has under way at a time.
const CALLS_MAX: u32 = 64;

pub(crate) struct Service {
    restart: Restart,
    kind: Kind,
    status: watch::Sender<Status>,
    restarts: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct Status {
    state: PartState,
    /// Lives that are over.
    lives: u64,
}

enum Kind {
    Program,
    Serial(Serial),
    Concurrent(Concurrent),
}

/// Calls take turns on the one instance.
#[derive(Default)]
struct Serial {
    /// While nobody calls it; nothing while it is not there.
    instance: Mutex<Option<PartInstance>>,
    failure: Mutex<Option<Failure>>,
    ended: Notify,
}

/// Calls are sent to the loop of the instance.
struct Concurrent {
    jobs: mpsc::Sender<Job>,
    /// For that loop, in each life.
    received: Received,
    work: Driven<Result<(), Failure>>,
}

type Received = Arc<Mutex<mpsc::Receiver<Job>>>;

type Job = Box<dyn for<'a> FnOnce(&'a Accessor<Host>, &'a [Func]) -> Working<'a> + Send>;
/// Ends with an error if the instance cannot go on.
type Working<'a> = Pin<Box<dyn Future<Output = wasmtime::Result<()>> + Send + 'a>>;

impl Service {
    pub(crate) fn new(assembled: &AssembledPart, restart: Restart) -> Self {
        let kind = if assembled.part.component.inspection().needs_concurrency {
            let (jobs, received) = mpsc::channel(CALLS_MAX as usize);
            Kind::Concurrent(Concurrent { jobs, received: Arc::new(Mutex::new(received)), work: Driven::default() })
        } else if assembled.run.is_some() {
            Kind::Program
        } else {
            Kind::Serial(Serial::default())
        };
        let status = watch::Sender::new(Status { state: PartState::Starting, lives: 0 });
        Self { restart, kind, status, restarts: AtomicU64::new(0) }
    }

    /// Calls at a time.
    pub(crate) fn calls_max(&self) -> u32 {
        match self.kind {
            Kind::Concurrent(_) => CALLS_MAX,
            Kind::Serial(_) | Kind::Program => 1,
        }
    }

    pub(crate) fn state(&self) -> PartState {
        self.status.borrow().state
    }

    /// Resolves when it is given up: it is not started again.
    pub(crate) fn given_up(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut status = self.status.subscribe();
        async move {
            if status.wait_for(|status| status.state == PartState::GivenUp).await.is_err() {
                pending().await // its unit has ended
            }
        }
    }

    /// Resolves when its life is over.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut status = self.status.subscribe();
        let lives = status.borrow().lives;
        async move {
            let _ = status.wait_for(|status| status.lives > lives).await; // an error: its unit has ended
        }
    }

    pub(crate) fn restarts(&self) -> u64 {
        self.restarts.load(Relaxed)
    }

    /// Starts it, and waits until its instance is there. If that fails, nobody tries again.
    pub(crate) async fn start(&self, part: &Arc<Running>) -> Result<(), Failure> {
        let (started, result) = oneshot::channel();
        tokio::spawn(supervise(part.clone(), started));
        result.await.unwrap_or(Err(Failure::Stopped))
    }

    fn set(&self, state: PartState) {
        self.status.send_modify(|status| status.state = state);
    }

    /// A life is over: nobody may wait for what was in it.
    fn end_life(&self, state: PartState) {
        self.status.send_modify(|status| *status = Status { state, lives: status.lives + 1 });
        match &self.kind {
            Kind::Concurrent(concurrent) => while lock(&concurrent.received).try_recv().is_ok() {},
            Kind::Serial(serial) => drop(lock(&serial.instance).take()),
            Kind::Program => {}
        }
    }
}

/// Lives of the service, one after the other, until it is given up or its unit ends.
async fn supervise(part: Arc<Running>, started: oneshot::Sender<Result<(), Failure>>) {
    let Some(service) = part.service() else { return };
    let mut table = Supervision::new(service.restart.clone());
    let mut started = Some(started);
    let began = Instant::now();
    loop {
        let has_started = || {
            table.on(Input::Started);
            service.set(PartState::Ready);
            if let Some(started) = started.take() {
                let _ = started.send(Ok(()));
            }
        };
        let life = AssertUnwindSafe(live(&part, service, has_started)).catch_unwind();
        let Some(ended) = part.stop.run_until_cancelled(life).await else { break };
        let ended = ended.unwrap_or(Err(Failure::Panic));
        if part.maker.blueprint.stdin.as_ref().is_some_and(StopNotice::is_told) {
            break; // as it was told to
        }
        if let Err(failure) = &ended {
            part.note_failure(failure);
            if let Some(started) = started.take() {
                service.end_life(PartState::GivenUp);
                let _ = started.send(Err(failure.clone()));
                return;
            }
        }
        let action = table.on(Input::Ended { well: ended.is_ok(), at: began.elapsed(), random: rand::random() });
        service.end_life(state_in(table.phase()));
        let Action::Wait(delay) = action else {
            if table.phase() == Phase::GivenUp {
                part.give_up();
            }
            return;
        };
        if part.stop.run_until_cancelled(tokio::time::sleep(delay)).await.is_none() {
            break;
        }
        table.on(Input::Due);
        service.restarts.fetch_add(1, Relaxed);
    }
    table.on(Input::Stop);
    service.end_life(state_in(table.phase()));
}

fn state_in(phase: Phase) -> PartState {
    match phase {
        Phase::Starting => PartState::Starting,
        Phase::Running => PartState::Ready,
        Phase::Waiting => PartState::Restarting,
        Phase::GivenUp => PartState::GivenUp,
        Phase::Done => PartState::Done,
        Phase::Stopped => PartState::Stopped,
    }
}

/// One life, from the instance's start to its end. `Ok` is an end as it should be.
async fn live(part: &Running, service: &Service, started: impl FnOnce()) -> Result<(), Failure> {
    let mut instance = part.maker.warm().await?;
    // What it does from here on by itself is no request. A call that it answers alone brings a meter.
    instance.store.data_mut().lends_meter = false;
    let share = &part.maker.blueprint.node.processors;
    match &service.kind {
        Kind::Serial(serial) => {
            *lock(&serial.instance) = Some(instance);
            started();
            serial.ended.notified().await;
            Err(lock(&serial.failure).take().unwrap_or(Failure::Panic))
        }
        Kind::Program => {
            started();
            let result = in_slices(share, run_alone(&mut instance)).await;
            end_of_life(result, &instance)
        }
        Kind::Concurrent(concurrent) => {
            let blueprint = &part.maker.blueprint;
            let (wall, notice) = (blueprint.limits.wall, blueprint.stdin.clone());
            let jobs = concurrent.received.clone();
            let life = async move {
                let result = run_with_calls(&mut instance, &jobs, wall, notice).await;
                end_of_life(result, &instance)
            };
            // Caught within, since it may be a caller that polls it.
            let life = AssertUnwindSafe(life).catch_unwind().map(|ended| ended.unwrap_or(Err(Failure::Panic)));
            started();
            in_slices(share, concurrent.work.at_home(life)).await
        }
    }
}

fn end_of_life(result: wasmtime::Result<Result<(), Failure>>, instance: &PartInstance) -> Result<(), Failure> {
    match result {
        Ok(end) => end,
        Err(error) => match Failure::of(&error, instance.store.data()) {
            Failure::Exit(0) => Ok(()),
            failure => Err(failure),
        },
    }
}

type Run = (Result<(), ()>,);

fn end_of_run(result: Run) -> Result<(), Failure> {
    result.0.map_err(|()| Failure::Trap("its run returned an error".into()))
}

async fn run_alone(instance: &mut PartInstance) -> wasmtime::Result<Result<(), Failure>> {
    let Some(run) = instance.run else { return pending().await };
    let run = run.typed::<(), Run>(&mut instance.store)?;
    Ok(end_of_run(run.call_async(&mut instance.store, ()).await?))
}

/// The service's `run`, if it has one, and calls of it. One that is called goes on when its `run` has returned, until it
/// is told to end.
async fn run_with_calls(
    instance: &mut PartInstance,
    jobs: &Mutex<mpsc::Receiver<Job>>,
    wall: Duration,
    notice: Option<StopNotice>,
) -> wasmtime::Result<Result<(), Failure>> {
    let (run, functions) = (instance.run, instance.functions().clone());
    let serve = async |accessor: &Accessor<Host>| -> wasmtime::Result<Result<(), Failure>> {
        let mut run = pin!(async {
            let Some(run) = run else { return pending().await };
            let run = accessor.with(|store| run.typed::<(), Run>(store))?;
            match end_of_run(run.call_concurrent(accessor, ()).await?) {
                Ok(()) if !functions.is_empty() => match &notice {
                    Some(notice) => {
                        notice.told().await;
                        Ok(Ok(()))
                    }
                    None => pending().await,
                },
                end => wasmtime::error::Ok(end),
            }
        });
        let mut calls = FuturesUnordered::new();
        loop {
            let is_full = calls.len() >= CALLS_MAX as usize;
            // Callers leave at their own deadlines, their calls stay. Where none of so many ends for so long, none will.
            let wedged = async {
                match is_full {
                    true => tokio::time::sleep(wall).await,
                    false => pending().await,
                }
            };
            tokio::select! {
                end = &mut run => return end,
                Some(ended) = calls.next(), if !calls.is_empty() => ended?,
                Some(job) = poll_fn(|cx| lock(jobs).poll_recv(cx)), if !is_full => calls.push(job(accessor, &functions)),
                () = wedged => return Ok(Err(Failure::Wall { limit: wall })),
            }
        }
    };
    instance.store.run_concurrent(serve).await?
}

/// One call, from its turn to its answer. Where it is measured, `payer` is charged for it, the request that calls. Where
/// many calls share a store, nobody's request is: what they compute is the workload's. `may_drive` must be false within
/// another store's loop: what the service calls in turn could not have a loop of its own there.
pub(crate) async fn call(
    part: &Arc<Running>,
    service: &Service,
    (function, mut values): (usize, Box<dyn Values>),
    inherited: Inherited,
    (payer, may_drive): (Option<Arc<CpuMeter>>, bool),
) -> Result<Box<dyn Values>, PartFault> {
    let status = *service.status.borrow();
    if status.state != PartState::Ready {
        return Err(down(part, service));
    }
    let turn = part.enter().await?;
    match &service.kind {
        Kind::Program => Err(down(part, service)),
        Kind::Serial(serial) => {
            let Some(instance) = lock(&serial.instance).take() else { return Err(down(part, service)) };
            let held = Held { part: part.clone(), instance: Some(instance) };
            let (limit, stop) = (part.maker.blueprint.limits.wall, part.stop.clone());
            let call = async move {
                let _turn = turn; // dropped after the instance is back
                let in_time = tokio::time::timeout(limit, held.call(function, values, inherited, payer)).await;
                in_time.unwrap_or_else(|_| Err(PartFault::Failed(Box::new(Failure::Wall { limit }))))
            };
            Finished { call: Some(Box::pin(call)), stop }.await
        }
        Kind::Concurrent(concurrent) => {
            let (reply, mut answer) = oneshot::channel();
            let job: Job = Box::new(move |accessor, functions| {
                let function = functions.get(function).copied();
                Box::pin(async move {
                    let _turn = turn;
                    let Some(function) = function.filter(|_| !reply.is_closed()) else { return Ok(()) };
                    values.call_concurrent(accessor, function, inherited).await?;
                    let _ = reply.send(values); // nobody waits for it any more, perhaps
                    Ok(())
                })
            });
            // Its turn is its place in the channel.
            let send = || concurrent.jobs.try_send(job).is_ok();
            let is_sent = match payer {
                // What is computed in there may be others' work. Where a caller is not measured apart from others, that could
                // not be told from its own.
                Some(payer) if may_drive => payer.pause(|| concurrent.work.drive(send)),
                _ => send(),
            };
            if !is_sent {
                return Err(down(part, service));
            }
            match answer.try_recv() {
                Ok(values) => return Ok(values),
                Err(TryRecvError::Closed) => {}
                Err(TryRecvError::Empty) => {
                    // Who calls may have no deadline: a service.
                    let limit = part.maker.blueprint.limits.wall;
                    match tokio::time::timeout(limit, answer).await {
                        Ok(Ok(values)) => return Ok(values),
                        Ok(Err(_)) => {}
                        Err(_) => return Err(PartFault::Failed(Box::new(Failure::Wall { limit }))),
                    }
                }
            }
            // The life that the call was in is over. Why is known in a moment.
            let _ = service.status.subscribe().wait_for(|now| now.lives > status.lives).await;
            Err(down(part, service))
        }
    }
}

fn down(part: &Running, service: &Service) -> PartFault {
    PartFault::Down { state: service.state(), last_error: part.last_error() }
}

/// The instance of a serial service while it is called. Unless it comes back, the service has ended.
struct Held {
    part: Arc<Running>,
    instance: Option<PartInstance>,
}

impl Held {
    async fn call(
        mut self,
        function: usize,
        mut values: Box<dyn Values>,
        inherited: Inherited,
        payer: Option<Arc<CpuMeter>>,
    ) -> Result<Box<dyn Values>, PartFault> {
        let Some(instance) = &mut self.instance else { return Err(PartFault::Busy) };
        // Its own, not the caller's: the call goes on without the caller.
        let meter = instance.store.data().meter.clone();
        meter.reset();
        let _bill = payer.map(|payer| Bill { meter: meter.clone(), payer });
        instance.begin_call(meter.clone(), inherited);
        let Some(function) = instance.functions().get(function).copied() else { return Err(PartFault::Busy) };
        let share = &self.part.maker.blueprint.node.processors;
        let result = meter.clone().measure(share, values.call(&mut instance.store, function)).await;
        match result {
            Ok(()) => {
                if let Some(serial) = self.part.service().and_then(Service::serial) {
                    *lock(&serial.instance) = self.instance.take();
                }
                Ok(values)
            }
            Err(error) => {
                let failure = Failure::of(&error, instance.store.data());
                self.end(failure.clone());
                Err(PartFault::Failed(Box::new(failure)))
            }
        }
    }

    fn end(&mut self, failure: Failure) {
        drop(self.instance.take());
        let Some(service) = self.part.service() else { return };
        // Said here already, so that those who wait for their turn read it.
        self.part.note_failure(&failure);
        service.set(PartState::Restarting);
        if let Some(serial) = service.serial() {
            *lock(&serial.failure) = Some(failure);
            serial.ended.notify_one();
        }
    }
}

/// Paid when the call is over, however it ends: one that is cut short by the time was not free.
struct Bill {
    meter: Arc<CpuMeter>,
    payer: Arc<CpuMeter>,
}

impl Drop for Bill {
    fn drop(&mut self) {
        self.payer.pay(self.meter.spent());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.instance.is_none() || self.part.stop.is_cancelled() {
            return;
        }
        let limit = self.part.maker.blueprint.limits.wall;
        let cut_short = if std::thread::panicking() { Failure::Panic } else { Failure::Wall { limit } };
        self.end(cut_short);
    }
}

impl Service {
    fn serial(&self) -> Option<&Serial> {
        match &self.kind {
            Kind::Serial(serial) => Some(serial),
            Kind::Program | Kind::Concurrent(_) => None,
        }
    }
}

/// A future that, once polled, goes on by itself when it is dropped. What it is of must have an end.
struct Finished {
    call: Option<Pin<Box<dyn Future<Output = <Self as Future>::Output> + Send>>>,
    stop: CancellationToken,
}

impl Future for Finished {
    type Output = Result<Box<dyn Values>, PartFault>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(call) = &mut self.call else { return Poll::Pending };
        let polled = call.as_mut().poll(cx);
        if polled.is_ready() {
            self.call = None;
        }
        polled
    }
}

impl Drop for Finished {
    fn drop(&mut self) {
        let (Some(call), Ok(runtime)) = (self.call.take(), tokio::runtime::Handle::try_current()) else { return };
        if std::thread::panicking() {
            return; // perhaps in the middle of that call
        }
        let stop = self.stop.clone();
        runtime.spawn(async move { stop.run_until_cancelled(AssertUnwindSafe(call).catch_unwind()).await.map(drop) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_call_that_is_cut_short_is_paid_for() {
        let (meter, payer) = (Arc::<CpuMeter>::default(), Arc::<CpuMeter>::default());
        let call = async {
            let _bill = Bill { meter: meter.clone(), payer: payer.clone() };
            meter.pay(Duration::from_millis(7));
            pending::<()>().await;
        };
        assert!(tokio::time::timeout(Duration::from_millis(1), call).await.is_err());
        assert_eq!(payer.spent(), Duration::from_millis(7));
    }
}
