//! What an instance does from its first request until its guest has no work left. One entry into the store's loop: inside
//! it, requests enter the guest one after the other, each when the one before it waits or is done. Time is watched from
//! outside of the loop, since a guest that computes keeps the loop from turning.

use super::{
    Ticket, Worker,
    cpu::{Accounts, TICKS_BEFORE_SAMPLE},
};
use crate::{
    body::{RequestBody, poll_unbudgeted},
    computing::Claim,
    exchange::{GRACE_POLLS, p3},
    failure::Failure,
    host::Host,
    limits::CpuMeter,
    pool::{Guest, Instance, Retirement},
    unit::Inner,
};
use futures_util::{FutureExt as _, Stream as _, stream::FuturesUnordered};
use http_body_util::BodyExt as _;
use std::{
    future::poll_fn,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Poll, ready},
};
use tokio::time::{Instant, sleep_until};
use wasmtime::{AsContextMut as _, component::Accessor};
use wasmtime_wasi_http::p3::bindings::Service;

/// Runs the worker's requests, those that join it too, with this instance or a fresh one. Dropped before its end, it ends
/// them.
pub(super) async fn run(unit: Arc<Inner>, worker: Arc<Worker>, kept: Option<Instance>) {
    // Dropped last: what the end of an instance closes reads differently once the end of an exchange is on record.
    let mut place = None;
    let session = Session { unit: &unit, worker: &worker };
    let instance = match kept {
        Some(instance) => instance,
        None => match session.instantiate().await {
            Ok(instance) => instance,
            Err(failure) => return session.did_not_start(&failure),
        },
    };
    let instance = place.insert(instance);
    let accounts =
        Accounts::open(&mut instance.store, unit.blueprint.tally.clone(), unit.blueprint.node.processors.clone());
    match drive(&unit, &worker, instance, &accounts).await {
        Ok(()) => {
            let instance = place.take();
            session.ended(instance);
        }
        Err(failure) => session.failed(&failure, accounts.guilty()),
    }
}

struct Session<'a> {
    unit: &'a Arc<Inner>,
    worker: &'a Arc<Worker>,
}

impl Session<'_> {
    async fn instantiate(&self) -> Result<Instance, Failure> {
        let unit = self.unit;
        let wall = unit.blueprint.limits.wall;
        let meter = Arc::<CpuMeter>::default();
        let start = tokio::time::timeout_at(
            self.worker.alarm(wall),
            meter.clone().measure(&unit.blueprint.node.processors, unit.instantiate(meter)),
        );
        match unit.stop.run_until_cancelled(start).await {
            Some(Ok(started)) => started,
            Some(Err(_)) => Err(Failure::Wall { limit: wall }),
            None => Err(Failure::Stopped),
        }
    }

    /// Nobody has entered, and everybody learns why.
    fn did_not_start(self, failure: &Failure) {
        self.unit.note_failure(failure);
        let line = std::mem::take(&mut crate::lock(&self.worker.state).line);
        for (ticket, _) in line {
            let _ = ticket.exchange.conclude(Err(failure.clone()));
        }
    }

    /// The guest has no work left.
    fn ended(self, instance: Option<Instance>) {
        let (entered, retiring) = {
            let state = crate::lock(&self.worker.state);
            (state.entered, state.retiring)
        };
        match (instance, retiring) {
            (Some(mut instance), None | Some(Retirement::Idle)) => {
                instance.uses += entered;
                let _ = self.unit.pool.keep(instance);
            }
            (_, Some(reason)) => self.unit.pool.retire(reason),
            (None, None) => {}
        }
        // Last: whoever waits for a place is to find the instance, or it gone.
        self.unit.workers.remove(self.worker);
    }

    fn failed(self, failure: &Failure, guilty: Option<Arc<crate::exchange::Shared>>) {
        self.worker.all_failed(self.unit, failure, guilty.as_ref());
        self.unit.pool.retire(failure.retirement());
    }
}

impl Drop for Session<'_> {
    /// However it ends: who is inside hears of it, who is not goes elsewhere.
    fn drop(&mut self) {
        self.unit.workers.remove(self.worker);
        let is_inside = !crate::lock(&self.worker.state).inside.is_empty();
        if is_inside {
            self.worker.all_failed(self.unit, &Failure::Cancelled, None);
            self.unit.pool.retire(Retirement::Cancelled);
        }
        self.worker.retire(Retirement::Cancelled);
    }
}

/// Until the guest has no work left, or the instance is of no more use.
async fn drive(
    unit: &Arc<Inner>,
    worker: &Arc<Worker>,
    instance: &mut Instance,
    accounts: &Arc<Accounts>,
) -> Result<(), Failure> {
    let Instance { store, guest, .. } = instance;
    let Guest::Http03(guest) = &*guest else { return Err(Failure::NoResponse) }; // no worker has another
    let wall = unit.blueprint.limits.wall;
    let ended = {
        let inside = async |accessor: &Accessor<Host>| inside(unit, worker, guest, accounts, accessor).await;
        let mut call = pin!(AssertUnwindSafe(store.run_concurrent(inside)).catch_unwind());
        let mut stopped = pin!(unit.stop.cancelled());
        let mut alarm = None; // armed at the first wait only: most sessions never wait
        let mut claim = Claim::default();
        poll_fn(|cx| {
            if let Some(failure) = worker.runs(cx.waker()) {
                return Poll::Ready(Err(failure));
            }
            let mut grace = GRACE_POLLS;
            loop {
                let polled = claim.poll(&unit.blueprint.node.processors, cx, |cx| {
                    accounts.enter();
                    poll_unbudgeted(cx, |cx| call.as_mut().poll(cx))
                });
                if let Poll::Ready(ended) = polled {
                    return Poll::Ready(Ok(ended));
                }
                if grace == 0 || accounts.is_interrupted() || claim.is_waiting() || !worker.has_answered() {
                    break;
                }
                grace -= 1;
            }
            match claim.is_waiting() && !accounts.is_interrupted() {
                true => worker.waits_for_its_turn(),
                false => worker.waits(accounts.is_interrupted()),
            }
            if stopped.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Failure::Stopped));
            }
            if worker.has_timed_out() {
                return Poll::Ready(Err(Failure::Wall { limit: wall }));
            }
            if worker.is_retiring() && unit.workers.is_retiring_too_many() {
                return Poll::Ready(Err(Failure::Neighbour("was to be replaced, like too many others".into())));
            }
            loop {
                let at = worker.alarm(wall);
                let alarm = alarm.get_or_insert_with(|| Box::pin(sleep_until(at)));
                if at < alarm.deadline() {
                    alarm.as_mut().reset(at);
                }
                ready!(alarm.as_mut().poll(cx));
                worker.expire(unit, Instant::now());
                if worker.has_timed_out() {
                    return Poll::Ready(Err(Failure::Wall { limit: wall }));
                }
                alarm.as_mut().reset(worker.alarm(wall));
            }
        })
        .await
    };
    match ended? {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(error)) | Err(error)) => Err(Failure::of(&error, store.data())),
        Err(_) => Err(Failure::Panic),
    }
}

/// In the store's loop.
async fn inside(
    unit: &Arc<Inner>,
    worker: &Arc<Worker>,
    guest: &Service,
    accounts: &Arc<Accounts>,
    accessor: &Accessor<Host>,
) -> wasmtime::Result<()> {
    let handle = *guest.wasi_http_handler().func_handle().func();
    let mut under_way = pin!(FuturesUnordered::new());
    poll_fn(|cx| {
        accounts.at_loop();
        let is_full = accessor.with(|mut store| {
            store.as_context_mut().set_epoch_deadline(TICKS_BEFORE_SAMPLE);
            let memory = &store.data_mut().memory;
            memory.is_nearly_used() || memory.refused().is_some()
        });
        if is_full && !worker.is_retiring() {
            worker.retire(Retirement::Memory);
        }
        while let Poll::Ready(Some(ended)) = under_way.as_mut().poll_next(cx) {
            let ended: wasmtime::Result<()> = ended;
            ended?;
        }
        if accessor.poll_ready_for_concurrent_call(handle, cx).is_ready()
            && let Some((ticket, request)) = worker.enter(unit.pool.standing().is_proved())
        {
            unit.blueprint.node.processors.count_request();
            if ticket.reused.load(Relaxed) {
                unit.counters.reuse_hits.fetch_add(1, Relaxed);
            }
            let one = one(unit, worker, guest, accounts, accessor, ticket, request);
            // Boxed: there are few, and they are large.
            under_way.push(Box::pin(one) as Pin<Box<dyn Future<Output = wasmtime::Result<()>> + Send + '_>>);
            while let Poll::Ready(Some(ended)) = under_way.as_mut().poll_next(cx) {
                ended?;
            }
            return Poll::Pending; // the loop has a call to make now, and comes back here
        }
        if under_way.is_empty() && accessor.poll_no_interesting_tasks(cx).is_ready() && worker.close() {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    })
    .await
}

/// One request, from its entry until its caller has the answer.
async fn one(
    unit: &Arc<Inner>,
    worker: &Arc<Worker>,
    guest: &Service,
    accounts: &Arc<Accounts>,
    accessor: &Accessor<Host>,
    ticket: Arc<Ticket>,
    request: http::Request<RequestBody>,
) -> wasmtime::Result<()> {
    let exchange = &ticket.exchange;
    let (inherited, _at) = accessor.with(|mut store| {
        let host = store.data_mut();
        (host.inherited(request.headers(), exchange), host.at_beside(request.headers()))
    });
    let (request, sent) = p3::take_in(accessor, request)?;
    let handle = guest.wasi_http_handler().func_handle();
    let call = accessor.with(|store| handle.start_call_concurrent(store, (request,)))?;
    accessor.with(|mut store| store.data_mut().answering_beside(call.task(), inherited));
    accounts.begin(call.task(), exchange);
    let answer = {
        let mut answer = pin!(handle.finish_call_concurrent(accessor, call));
        poll_fn(|cx| match exchange.poll_over(cx) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => answer.as_mut().poll(cx).map(Some),
        })
        .await
    };
    let Some(answer) = answer else { return Ok(()) }; // too late, and the instance is on its way out
    match p3::take_out(accessor, answer?.0, sent)? {
        Ok(response) if ticket.has_no_body(response.status()) => {
            let (head, mut body) = response.into_parts();
            exchange.answer_bodiless(head);
            worker.answered(&ticket);
            // The guest may still want to write what nobody reads.
            let mut read = pin!(async { while let Some(Ok(_)) = body.frame().await {} });
            poll_fn(|cx| match exchange.poll_over(cx) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => read.as_mut().poll(cx),
            })
            .await;
        }
        answer => {
            exchange.answer(answer);
            worker.answered(&ticket);
            poll_fn(|cx| exchange.poll_body_is_read(cx)).await;
        }
    }
    if !worker.left(&ticket) {
        return Ok(()); // its end is on record
    }
    let verdict = exchange.verdict();
    // Before its caller hears of it: what that caller sends next is not to meet this instance.
    if let (Err(failure), None) = (&verdict, exchange.request_error()) {
        worker.retire(failure.retirement());
    }
    match exchange.conclude(verdict) {
        Ok(()) => {
            worker.give_back_turn(&ticket);
            if ticket.reused.load(Relaxed) {
                unit.pool.standing().reused();
            }
        }
        Err(failure) => unit.note_failure(&failure),
    }
    Ok(())
}
