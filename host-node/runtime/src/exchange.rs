//! One request on one instance. The guest runs on its caller's own task, usually in a single poll: no queue, no wake-up.
//! Only when the head of the response is out and the guest still writes its body does the rest go to a task of its own.
//!
//! A wake that comes while the guest is polled is not passed on at once ([`Bell`]): as a rule the guest is done when the
//! poll is, and who polls would be scheduled once more for nothing, after another thread was woken to take that over.
//!
//! Hazard: the response has its place in [`Shared`], one for each request, never one for each instance; what is late
//! for its own request must not reach the next one.

mod again;
mod p2;
pub(crate) mod p3;
mod run;
mod shared;

pub(crate) use again::{replay, twice};
pub(crate) use run::{Outcome, serve};
pub(crate) use shared::{Progress, Shared, has_no_body_by_status};

use crate::{body::ResponseBody, failure::Failure, pool::Instance, terms::Terms, unit::Inner};
use http::Method;
use http_body_util::BodyExt as _;
use lattice::http::{Body, Request, Response};
use run::GuestRun;
use shared::Answer;
use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

/// Further polls of a 0.3 guest that has given the head: its loop yields between callbacks, and a short body is mostly
/// done a few turns later. 34 µs become 23 for a small answer. Each poll runs the store's loop, so they are few.
pub(crate) const GRACE_POLLS: u32 = 4;

/// A 0.3 guest that was interrupted between its head and its end is waited for as if it had not been, unless it computes
/// for longer than this: by processor time, since on a busy machine epochs come however little it got of that.
const SHORT: Duration = Duration::from_millis(5);

/// What an exchange leaves where there is no response.
pub(crate) struct Failed {
    pub(crate) failure: Failure,
    pub(crate) turn: Option<OwnedSemaphorePermit>,
    /// The instance was a kept one, and that may be why.
    pub(crate) may_be_reuse: bool,
    /// The guest was let compute: false where others had all processors until the end.
    pub(crate) begun: bool,
}

/// Send `request` to `instance`, or to a fresh one, and wait for the head of the response.
pub(crate) async fn begin(
    unit: &Arc<Inner>,
    terms: Terms,
    turn: OwnedSemaphorePermit,
    instance: Option<Instance>,
    request: Request,
    deadline: Instant,
) -> Result<Response, Failed> {
    let has_no_body = request.method() == Method::HEAD;
    let grace = if unit.blueprint.component.is_http03() { GRACE_POLLS } else { 0 };
    let mut run = GuestRun::new(unit, terms, turn, instance, request);
    let shared = run.shared.clone();
    let ended = head(&mut run, grace, deadline).await;
    // The place is emptied before anything else may run the guest.
    let response = shared.take_answer();
    let failed = |failure: Failure, run: &mut GuestRun| Failed {
        may_be_reuse: run.may_be_reuse(&failure),
        begun: run.begun,
        failure,
        turn: run.turn.take(),
    };
    let Some(result) = ended else {
        let Some(answer) = response else { return Err(failed(Failure::NoResponse, &mut run)) };
        let has_no_body = has_no_body || has_no_body_by_status(answer.head.status);
        return Ok(hand_over(run, answer, has_no_body, deadline));
    };
    match (result, response) {
        (Ok(()), Some(Answer { head, body })) => {
            let has_no_body = has_no_body || has_no_body_by_status(head.status);
            let body = if has_no_body { lattice::http::empty() } else { body.into_sized() };
            Ok(Response::from_parts(head, body))
        }
        (Ok(()), None) => Err(failed(Failure::NoResponse, &mut run)),
        (Err(failure), _) => Err(failed(failure, &mut run)),
    }
}

/// Runs the guest until it ends (`Some`), or until the head is there and the guest goes on (`None`).
async fn head(run: &mut GuestRun, mut grace: u32, deadline: Instant) -> Option<Result<(), Failure>> {
    let mut alarm = None; // armed at the first wait only: most requests never wait
    let shared = run.shared.clone();
    let waker = Waker::from(shared.clone());
    let ended = poll_fn(|cx| {
        loop {
            shared.bell.hold();
            if let Poll::Ready(result) = Pin::new(&mut *run).poll(&mut Context::from_waker(&waker)) {
                return Poll::Ready(Ok(Some(result)));
            }
            match run.shared.progress() {
                // An epoch came in between, as it does by chance: what is left may be as short as ever.
                Progress::Head if run.claim.is_short_of_time() && run.meter.spent() < SHORT => {}
                Progress::Head if grace == 0 => return Poll::Ready(Ok(None)),
                Progress::Head => {
                    grace -= 1;
                    continue;
                }
                Progress::RequestFailed(error) => return Poll::Ready(Err(Failure::RequestBody(error))),
                Progress::Nothing => {}
            }
            let alarm = alarm.get_or_insert_with(|| Box::pin(ended_from_outside(run.unit.clone(), deadline)));
            let polled = alarm.as_mut().poll(cx).map(Err);
            shared.bell.pass_on(cx.waker());
            return polled;
        }
    })
    .await;
    match ended {
        Ok(ended) => ended,
        Err(failure) => {
            run.fail(failure.clone());
            Some(Err(failure))
        }
    }
}

async fn ended_from_outside(unit: Arc<Inner>, deadline: Instant) -> Failure {
    tokio::select! {
        biased;
        () = unit.stop.cancelled() => Failure::Stopped,
        () = tokio::time::sleep_until(deadline) => Failure::Wall { limit: unit.blueprint.limits.wall },
    }
}

/// After the head: ends with a silence in both bodies. One flag instead of a time for each frame, so a silence may last up
/// to twice the limit before it is noticed.
async fn silent(unit: Arc<Inner>, shared: Arc<Shared>, mut deadline: Instant) -> Failure {
    loop {
        let failure = ended_from_outside(unit.clone(), deadline).await;
        if !matches!(failure, Failure::Wall { .. }) || !shared.moved.swap(false, Relaxed) {
            return failure;
        }
        deadline = Instant::now() + unit.blueprint.limits.wall;
    }
}

/// Gives the rest of the guest's work a task of its own, which ends with the guest, a silence or the reader.
fn hand_over(mut run: GuestRun, Answer { head, body }: Answer, has_no_body: bool, deadline: Instant) -> Response {
    let body = ResponseBody::new(body, run.shared.clone());
    let (body, unread) = if has_no_body { (None, Some(body)) } else { (Some(body), None) };
    let rest = tokio::spawn(async move {
        // Nobody reads the body of an answer to HEAD; the guest may still want to write it.
        let read = async {
            let Some(mut body) = unread else { return std::future::pending().await };
            while let Some(Ok(_)) = body.frame().await {}
            std::future::pending().await
        };
        let limits = silent(run.unit.clone(), run.shared.clone(), deadline);
        let failure = tokio::select! {
            biased;
            failure = limits => failure,
            never = read => match never {},
            ended = &mut run => {
                if let Err(failure) = ended && run.may_be_reuse(&failure) {
                    run.unit.strike(&failure);
                }
                return;
            }
        };
        run.fail(failure);
    });
    let body = match body {
        None => lattice::http::empty(),
        Some(body) => {
            let guest = rest.abort_handle();
            Body::new(body.or_when_cut(move || guest.abort()))
        }
    };
    Response::from_parts(head, body)
}
