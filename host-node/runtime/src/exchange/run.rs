//! The guest at work on one request.

use super::{Shared, p2, p3};
use crate::{
    body::{RequestBody, poll_unbudgeted},
    computing::Claim,
    failure::Failure,
    limits::{self, CpuMeter},
    messaging::{self, Incoming},
    pool::{Guest, Instance},
    probe::Asked,
    spans,
    terms::Terms,
    unit::Inner,
};
use futures_util::FutureExt as _;
use lattice::http::Request;
use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};
use tokio::sync::OwnedSemaphorePermit;

/// A future that ends with the guest; dropped before, it ends the guest.
pub(super) struct GuestRun {
    call: Pin<Box<dyn Future<Output = Outcome> + Send>>,
    pub(super) shared: Arc<Shared>,
    pub(super) meter: Arc<CpuMeter>,
    pub(super) unit: Arc<Inner>,
    terms: Terms,
    /// The place in the unit; given back when this is dropped.
    pub(super) turn: Option<OwnedSemaphorePermit>,
    pub(super) claim: Claim,
    reused: bool,
    /// The guest was let compute.
    pub(super) begun: bool,
    finished: bool,
}

pub(crate) struct Outcome {
    pub(crate) instance: Option<Instance>,
    pub(crate) result: Result<(), Failure>,
}

impl GuestRun {
    pub(super) fn new(
        unit: &Arc<Inner>,
        terms: Terms,
        turn: OwnedSemaphorePermit,
        instance: Option<Instance>,
        mut request: Request,
    ) -> Self {
        let shared = if terms.counts { Shared::of_client(unit) } else { Arc::default() };
        let reused = instance.as_ref().is_some_and(|instance| instance.uses > 0);
        if let Some(mut span) = spans::guest(unit, &mut request) {
            span.set("lattice.instance.reused", reused);
            shared.tell(span);
        }
        let meter = instance.as_ref().map_or_else(Arc::default, |instance| instance.store.data().meter.clone());
        let limit = unit.blueprint.limits.body_bytes;
        let request = request.map(|body| RequestBody::new(body, limit, shared.clone()));
        let call = Box::pin(serve(unit.clone(), instance, meter.clone(), request, shared.clone()));
        unit.blueprint.node.processors.count_request();
        let (unit, turn, claim) = (unit.clone(), Some(turn), Claim::default());
        Self { call, shared, meter, unit, terms, turn, claim, reused, begun: false, finished: false }
    }

    /// End the guest for a reason from outside. The reader of the body learns it.
    pub(super) fn fail(&mut self, failure: Failure) {
        let _ = self.finish(None, Err(failure));
    }

    pub(super) fn may_be_reuse(&self, failure: &Failure) -> bool {
        self.reused && failure.may_be_reuse(self.shared.request_is_read())
    }

    /// Exactly once, before the instance can be dropped: what its end closes reads differently after a failure.
    fn finish(&mut self, instance: Option<Instance>, mut result: Result<(), Failure>) -> Result<(), Failure> {
        if std::mem::replace(&mut self.finished, true) {
            return result;
        }
        self.unit.blueprint.tally.cpu(self.meter.spent());
        if result.is_ok() {
            result = self.shared.verdict();
        }
        let mut instance = instance;
        self.shared.describe(|span| {
            if let Some(instance) = &instance {
                span.set("lattice.memory.bytes", instance.store.data().memory.used());
            }
            // Not measured where it is short.
            let spent = self.meter.spent();
            if !spent.is_zero() {
                span.set("lattice.cpu.seconds", spent.as_secs_f64());
            }
        });
        if let (Ok(()), Some(kept)) = (&result, &mut instance)
            && kept.holds_body()
        {
            result = Err(Failure::Unfinished);
        }
        let result = self.shared.conclude(result);
        match (&result, instance) {
            (Ok(()), Some(instance)) => self.unit.pool.give_back(instance),
            (Ok(()), None) => {}
            (Err(failure), _instance) => {
                if self.terms.counts {
                    self.unit.note_failure(failure);
                }
                self.unit.pool.retire(failure.retirement());
            }
        }
        result
    }
}

impl Future for GuestRun {
    type Output = Result<(), Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let polled = this.claim.poll(&this.unit.blueprint.node.processors, cx, |cx| {
            this.begun = true;
            this.meter.enter();
            // The epoch sees to it that others get their turn. Tokio's budget on top of it would break short calls in two.
            let polled = poll_unbudgeted(cx, |cx| this.call.as_mut().poll(cx));
            this.meter.leave();
            polled
        });
        let Outcome { instance, result } = ready!(polled);
        Poll::Ready(this.finish(instance, result))
    }
}

impl Drop for GuestRun {
    fn drop(&mut self) {
        if !self.finished {
            self.fail(Failure::Cancelled);
        }
    }
}

/// The guest's side of one exchange. What it comes to is the caller's to settle.
pub(crate) async fn serve(
    unit: Arc<Inner>,
    instance: Option<Instance>,
    meter: Arc<CpuMeter>,
    request: http::Request<RequestBody>,
    shared: Arc<Shared>,
) -> Outcome {
    let mut instance = match instance {
        Some(instance) => instance,
        None => match unit.instantiate(meter).await {
            Ok(instance) => instance,
            Err(failure) => return Outcome { instance: None, result: Err(failure) },
        },
    };
    limits::begin_request(&mut instance.store);
    if instance.uses > 0 {
        unit.counters.reuse_hits.fetch_add(1, Relaxed);
    }
    let Instance { store, guest, handler, whole, .. } = &mut instance;
    let call = async {
        if let Some(asked) = Asked::of(&request) {
            return asked.answer(&unit, store, *whole, request.headers(), &shared).await;
        }
        match (Incoming::of(&request), handler, guest) {
            (Some(message), Some(handler), _) => {
                messaging::handle(store, handler, message, request.headers(), shared).await
            }
            (None, _, Guest::Http02(guest)) => p2::run(store, guest, request, shared).await,
            (None, _, Guest::Http03(guest)) => p3::run(store, guest, request, shared).await,
            (Some(_), None, _) | (None, _, Guest::NoHttp) => {
                shared.answer(Err("it has no handler for that".into()));
                Ok(())
            }
        }
    };
    // A panic of a host function costs this exchange, not the connection's other streams.
    let result = match AssertUnwindSafe(call).catch_unwind().await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failure::of(&error, instance.store.data())),
        Err(_) => Err(Failure::Panic),
    };
    Outcome { instance: Some(instance), result }
}
