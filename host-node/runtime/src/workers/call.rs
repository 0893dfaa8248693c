//! The way of one request through an instance that others share. Whoever is first in an instance runs it, on the
//! connection's own task, until the answer is there; if it has others or more to do then, it gets a task of its own.

use super::{Place, Ticket, Worker, session};
use crate::{
    body::{RequestBody, ResponseBody},
    exchange::{self, Failed, Progress, Shared},
    failure::{Failure, NoRoom},
    lock, spans,
    terms::Terms,
    unit::Inner,
};
use http::Method;
use lattice::http::{Body, CallError, Request, Response};
use std::{
    pin::{Pin, pin},
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    task::{Context, Poll},
};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

/// Send `request` to an instance that may have others, and wait for the head of the response. `again` is the same request
/// once more, where a copy was made of it.
pub(crate) async fn call(
    unit: &Arc<Inner>,
    terms: Terms,
    turn: OwnedSemaphorePermit,
    mut request: Request,
    again: Option<Request>,
    deadline: Instant,
) -> Result<Response, CallError> {
    let replay = again.or_else(|| exchange::replay(terms, &request));
    let exchange = Shared::of_client(unit);
    if let Some(span) = spans::guest(unit, &mut request) {
        exchange.tell(span);
    }
    let ticket = Arc::new(Ticket {
        terms,
        is_head: request.method() == Method::HEAD,
        deadline,
        request: {
            let limit = unit.blueprint.limits.body_bytes;
            let request = request.map(|body| RequestBody::new(body, limit, exchange.clone()));
            Mutex::new(Some(request))
        },
        exchange,
        turn: Mutex::new(Some(turn)),
        bounced: false.into(),
        reused: false.into(),
        abandoned: false.into(),
    });
    let failure = match serve(unit, &ticket).await {
        Ok(response) => return Ok(unit.served(response, ticket.reused.load(Relaxed))),
        Err(failure) => failure,
    };
    let may_be_reuse = ticket.may_be_reuse(&failure);
    let turn = lock(&ticket.turn).take();
    let (Some(request), Some(turn), true) = (replay, turn, failure.may_retry()) else {
        if may_be_reuse {
            unit.strike(&failure);
        }
        return Err(failure.call_error());
    };
    // An instance of its own, so that one who ends instances ends no third one's request.
    unit.counters.retries.fetch_add(1, Relaxed);
    let again = exchange::begin(unit, terms, turn, None, request, deadline).await;
    if again.is_ok() && may_be_reuse {
        unit.strike(&failure);
    }
    again.map(|response| unit.served(response, false)).map_err(|Failed { failure, .. }| failure.call_error())
}

/// Instances that one request begins without a way into one of them. A guest that lets nobody in makes each of them turn
/// the request away, and each costs an instantiation.
const BEGUN_MAX: u32 = 8;

async fn serve(unit: &Arc<Inner>, ticket: &Arc<Ticket>) -> Result<Response, Failure> {
    let mut begun = 0;
    loop {
        let (worker, session) = match place(unit, ticket).await? {
            Place::Joined(worker) => (worker, None),
            Place::Begun(worker, instance) => {
                begun += 1;
                let session: Session = Box::pin(session::run(unit.clone(), worker.clone(), instance));
                (worker, Some(session))
            }
        };
        let mut waiting = Waiting { worker, ticket: ticket.clone(), session, is_over: false };
        let progress = (&mut waiting).await;
        match progress {
            None => {
                drop(waiting); // it did not enter
                if begun >= BEGUN_MAX || Instant::now() >= ticket.deadline {
                    return Err(Failure::NoRoom(NoRoom::Unit));
                }
                // None of this need have waited for anything, and others have a right to the thread.
                tokio::task::yield_now().await;
            }
            Some(Progress::Head) => return waiting.response(),
            Some(Progress::RequestFailed(error)) => {
                let failure = Failure::RequestBody(error);
                if waiting.worker.left(ticket) {
                    waiting.worker.failed(unit, ticket, failure.clone());
                }
                return Err(failure);
            }
            Some(Progress::Nothing) => {
                return Err(ticket.exchange.end().and_then(Result::err).unwrap_or(Failure::NoResponse));
            }
        }
    }
}

/// A place in an instance. Where there are as many as may be and none takes the request, it waits until one is gone, or
/// until it is known that instances can be used again, if that is why; there are never more who wait than the unit has
/// turns.
async fn place(unit: &Arc<Inner>, ticket: &Arc<Ticket>) -> Result<Place, Failure> {
    loop {
        if let Some(place) = unit.workers.place(&unit.pool, ticket) {
            return Ok(place);
        }
        let mut freed = pin!(unit.workers.freed.notified());
        freed.as_mut().enable();
        let mut proved = pin!(unit.pool.standing().until_proved());
        proved.as_mut().enable();
        // Once more: one may have gone before it was listened for.
        if let Some(place) = unit.workers.place(&unit.pool, ticket) {
            return Ok(place);
        }
        tokio::select! {
            biased;
            () = unit.stop.cancelled() => return Err(Failure::Stopped),
            () = freed => {}
            () = proved => {}
            () = tokio::time::sleep_until(ticket.deadline) => return Err(Failure::NoRoom(NoRoom::Unit)),
        }
    }
}

type Session = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A future that ends with progress, or with nothing if the request did not enter the guest.
struct Waiting {
    worker: Arc<Worker>,
    ticket: Arc<Ticket>,
    /// What this request began.
    session: Option<Session>,
    is_over: bool,
}

impl Waiting {
    fn response(self) -> Result<Response, Failure> {
        let exchange = &self.ticket.exchange;
        let ended = exchange.end();
        let Some(answer) = exchange.take_answer() else { return Err(Failure::NoResponse) };
        if self.ticket.has_no_body(answer.head.status) {
            return Ok(Response::from_parts(answer.head, lattice::http::empty()));
        }
        if matches!(ended, Some(Ok(()))) {
            return Ok(Response::from_parts(answer.head, answer.body.into_sized()));
        }
        let (worker, ticket) = (self.worker.clone(), self.ticket.clone());
        let body = ResponseBody::new(answer.body, exchange.clone()).or_when_cut(move || worker.abandon(&ticket));
        Ok(Response::from_parts(answer.head, Body::new(body)))
    }
}

impl Future for Waiting {
    type Output = Option<Progress>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(session) = &mut self.session
            && session.as_mut().poll(cx).is_ready()
        {
            self.session = None;
        }
        let progress = match self.ticket.exchange.poll_progress(cx) {
            Poll::Ready(progress) => Some(progress),
            Poll::Pending if self.ticket.bounced.load(Relaxed) => None,
            Poll::Pending => return Poll::Pending,
        };
        self.is_over = true;
        Poll::Ready(progress)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.is_over {
            self.worker.abandon(&self.ticket);
        }
        if let Some(session) = self.session.take()
            && !self.worker.is_cut()
        {
            tokio::spawn(session);
        }
    }
}
