//! One request on one instance. The guest runs on its caller's own task, usually in a single poll: no queue, no wake-up.
//! Only when the head of the response is out and the guest still writes its body does the rest go to a task of its own.
//!
//! A wake that comes while the guest is polled is not passed on at once ([`Bell`]): as a rule the guest is done when the
//! poll is, and who polls would be scheduled once more for nothing, after another thread was woken to take that over.
//!
//! Hazard: the response has its place in [`Shared`], one for each request, never one for each instance; what is late
//! for its own request must not reach the next one.

use crate::{
    body::{GuestBody, RequestBody, ResponseBody, poll_unbudgeted},
    computing::Claim,
    exchange02, exchange03,
    failure::Failure,
    limits::{self, CpuMeter, Limits},
    lock,
    messaging::{self, Incoming},
    pool::{Guest, Instance},
    probe::Asked,
    spans,
    tally::FailureKind,
    terms::Terms,
    unit::Inner,
};
use futures_util::{FutureExt as _, task::AtomicWaker};
use http::{Method, StatusCode, header};
use http_body_util::BodyExt as _;
use lattice::{
    http::{Body, BodyError, CallError, Request, Response},
    trace::OpenSpan,
};
use std::{
    future::poll_fn,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed, Ordering::Release},
    },
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use wasmtime_wasi_http::WasiBody;

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

pub(crate) fn has_no_body_by_status(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// RFC 9110, 8.6: no length with 1xx and 204. With 304 it is that of the 200 that would have been sent, and the zero that
/// libraries put to an empty body is not that.
fn must_have_no_length(status: StatusCode, length: Option<u64>) -> bool {
    status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED && matches!(length, None | Some(0))
}

/// The length that the head tells of. It is taken out of a head that must not tell one.
fn settle_length(head: &mut http::response::Parts) -> Option<u64> {
    let length = head.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    if must_have_no_length(head.status, length) {
        head.headers.remove(header::CONTENT_LENGTH);
    }
    length
}

/// The guest at work on one request. A future that ends with the guest; dropped before, it ends the guest.
struct GuestRun {
    call: Pin<Box<dyn Future<Output = Outcome> + Send>>,
    shared: Arc<Shared>,
    meter: Arc<CpuMeter>,
    unit: Arc<Inner>,
    terms: Terms,
    /// The place in the unit; given back when this is dropped.
    turn: Option<OwnedSemaphorePermit>,
    claim: Claim,
    reused: bool,
    /// The guest was let compute.
    begun: bool,
    finished: bool,
}

pub(crate) struct Outcome {
    pub(crate) instance: Option<Instance>,
    pub(crate) result: Result<(), Failure>,
}

impl GuestRun {
    fn new(
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
    fn fail(&mut self, failure: Failure) {
        let _ = self.finish(None, Err(failure));
    }

    fn may_be_reuse(&self, failure: &Failure) -> bool {
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
            (None, _, Guest::Http02(guest)) => exchange02::run(store, guest, request, shared).await,
            (None, _, Guest::Http03(guest)) => exchange03::run(store, guest, request, shared).await,
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

/// Takes the wakes of a guest, and passes them on while its caller waits.
#[derive(Default)]
struct Bell {
    rung: AtomicBool,
    caller: AtomicWaker,
}

impl Bell {
    /// The guest is polled from here on.
    fn hold(&self) {
        drop(self.caller.take());
        // What was done before a wake that is dropped here is seen by the poll.
        self.rung.swap(false, AcqRel);
    }

    /// It was polled, and the caller waits: also for what came meanwhile.
    fn pass_on(&self, caller: &Waker) {
        self.caller.register(caller);
        if self.rung.load(Acquire) {
            self.caller.wake();
        }
    }
}

/// Of the bell. Here, since this is shared anyway.
impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.bell.rung.store(true, Release);
        self.bell.caller.wake();
    }
}

/// What the guest's side and the caller's side of one exchange tell each other.
#[derive(Default)]
pub(crate) struct Shared {
    bell: Bell,
    state: Mutex<State>,
    /// Part of a body passed in either direction since this was last looked at.
    pub(crate) moved: AtomicBool,
    /// The unit's count of heads and parts of bodies, where this is the request of a client.
    progress: Option<Arc<AtomicU64>>,
    /// What the guest has not read yet. Gone at the exchange's end, whatever the guest still holds.
    request_body: Mutex<Option<Body>>,
}

#[derive(Default)]
struct State {
    answer: Option<Answer>,
    answered: Answered,
    /// The caller may take the answer now: no more of it comes without a wait.
    announced: bool,
    /// The caller has the body and has read all of it that it wants.
    body_is_read: bool,
    guest: Option<Waker>,
    request_error: Option<BodyError>,
    request_is_read: bool,
    end: Option<Result<(), Failure>>,
    reader: Option<Waker>,
    /// What is told of the guest's work, where somebody records it.
    span: Option<OpenSpan>,
}

/// What the guest answered.
pub(crate) struct Answer {
    pub(crate) head: http::response::Parts,
    pub(crate) body: GuestBody,
}

#[derive(Default, Clone)]
enum Answered {
    #[default]
    No,
    Yes,
    Refused(String),
}

pub(crate) enum Progress {
    Nothing,
    Head,
    RequestFailed(BodyError),
}

impl Shared {
    /// For the request of a client, whose progress is counted.
    pub(crate) fn of_client(unit: &Inner) -> Arc<Self> {
        Arc::new(Self { progress: Some(unit.counters.progress.clone()), ..Self::default() })
    }

    fn count(&self) {
        if let Some(progress) = &self.progress {
            progress.fetch_add(1, Relaxed);
        }
    }

    /// Part of a body passed.
    pub(crate) fn moved(&self) {
        self.moved.store(true, Relaxed);
        self.count();
    }

    /// The guest's answer. Only the first one counts, and only before the exchange's end.
    pub(crate) fn answer(&self, answer: Result<http::Response<WasiBody>, String>) {
        let mut state = lock(&self.state);
        if state.end.is_some() || !matches!(state.answered, Answered::No) {
            return;
        }
        match answer {
            Ok(response) => {
                let (mut head, body) = response.into_parts();
                let length = settle_length(&mut head);
                state.answer = Some(Answer { head, body: GuestBody::new(body, length) });
                state.answered = Answered::Yes;
                self.count();
            }
            Err(code) => state.answered = Answered::Refused(code),
        }
    }

    /// The same for an answer that has no body, whatever length its head tells of.
    pub(crate) fn answer_bodiless(&self, mut head: http::response::Parts) {
        let mut state = lock(&self.state);
        if state.end.is_some() || !matches!(state.answered, Answered::No) {
            return;
        }
        settle_length(&mut head);
        let none = http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync();
        state.answer = Some(Answer { head, body: GuestBody::new(none, None) });
        state.answered = Answered::Yes;
        self.count();
    }

    pub(crate) fn take_answer(&self) -> Option<Answer> {
        lock(&self.state).answer.take()
    }

    /// From the guest's side: reads ahead until the caller takes the answer, then waits until it has read the body, or
    /// has gone away.
    pub(crate) fn poll_body_is_read(&self, cx: &mut Context<'_>) -> Poll<()> {
        if lock(&self.state).body_is_read {
            drop(self.take_answer());
            return Poll::Ready(());
        }
        if let Some(read) = self.with_answer(|answer| answer.body.poll_ahead(cx)) {
            return read;
        }
        let mut state = lock(&self.state);
        match state.body_is_read || state.end.is_some() || !matches!(state.answered, Answered::Yes) {
            true => Poll::Ready(()),
            false => {
                state.guest = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// At the guest's end: is the answer whole? Once the caller has taken it, its reader finds out.
    fn settle_body(&self) -> Result<(), Failure> {
        self.with_answer(|answer| answer.body.settle()).unwrap_or(Ok(()))
    }

    /// Works on the answer, if it is here, without the lock: its body may be the request's, which takes the lock too.
    /// Only from within the guest's poll, so that nobody can miss it meanwhile.
    fn with_answer<T>(&self, work: impl FnOnce(&mut Answer) -> T) -> Option<T> {
        let mut answer = self.take_answer()?;
        let result = work(&mut answer);
        lock(&self.state).answer = Some(answer);
        Some(result)
    }

    /// From the caller's side: it wants no more of the body.
    pub(crate) fn body_was_read(&self) {
        let mut state = lock(&self.state);
        state.body_is_read = true;
        if let Some(guest) = state.guest.take() {
            guest.wake();
        }
    }

    /// What the guest's side of the exchange comes to, now that it is done.
    pub(crate) fn verdict(&self) -> Result<(), Failure> {
        let answered = lock(&self.state).answered.clone();
        match answered {
            Answered::No => Err(Failure::NoResponse),
            Answered::Refused(code) => Err(Failure::Refused(code)),
            Answered::Yes => self.settle_body(),
        }
    }

    /// Puts the exchange's end on record and answers what it is: what the guest does about a broken request is no news,
    /// the request's error is. Nothing that comes later counts.
    pub(crate) fn conclude(&self, mut result: Result<(), Failure>) -> Result<(), Failure> {
        if let (Err(_), Some(error)) = (&result, self.request_error()) {
            result = Err(Failure::RequestBody(error));
        }
        self.set_end(result.clone());
        result
    }

    pub(crate) fn has_head(&self) -> bool {
        matches!(lock(&self.state).answered, Answered::Yes)
    }

    /// From the guest's side: ready once the exchange is over for other reasons than the guest.
    pub(crate) fn poll_over(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        if state.end.is_some() {
            return Poll::Ready(());
        }
        state.guest = Some(cx.waker().clone());
        Poll::Pending
    }

    /// From the guest's side: the caller need not wait any longer for more of the answer.
    pub(crate) fn announce(&self) {
        lock(&self.state).announced = true;
        self.wake_caller();
    }

    /// The caller is to look again.
    pub(crate) fn wake_caller(&self) {
        if let Some(reader) = lock(&self.state).reader.take() {
            reader.wake();
        }
    }

    /// From the caller's side: ready with the head, a broken request, or the exchange's end (in that order).
    pub(crate) fn poll_progress(&self, cx: &mut Context<'_>) -> Poll<Progress> {
        let mut state = lock(&self.state);
        let is_over = state.end.is_some();
        if state.answer.is_some() && (state.announced || matches!(state.end, Some(Ok(())))) {
            return Poll::Ready(Progress::Head);
        }
        if let (false, Some(error)) = (is_over, &state.request_error) {
            return Poll::Ready(Progress::RequestFailed(error.clone()));
        }
        if is_over {
            return Poll::Ready(Progress::Nothing);
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn progress(&self) -> Progress {
        let state = lock(&self.state);
        match (&state.answer, &state.request_error) {
            (Some(_), _) => Progress::Head,
            (None, Some(error)) => Progress::RequestFailed(error.clone()),
            (None, None) => Progress::Nothing,
        }
    }

    pub(crate) fn request_failed(&self, error: BodyError) {
        lock(&self.state).request_error = Some(error);
        self.wake_caller();
    }

    pub(crate) fn request_error(&self) -> Option<BodyError> {
        lock(&self.state).request_error.clone()
    }

    pub(crate) fn request_was_read(&self) {
        lock(&self.state).request_is_read = true;
    }

    pub(crate) fn request_is_read(&self) -> bool {
        lock(&self.state).request_is_read
    }

    /// This span ends with the guest.
    pub(crate) fn tell(&self, span: OpenSpan) {
        lock(&self.state).span = Some(span);
    }

    pub(crate) fn describe(&self, describe: impl FnOnce(&mut OpenSpan)) {
        if let Some(span) = &mut lock(&self.state).span {
            describe(span);
        }
    }

    fn set_end(&self, result: Result<(), Failure>) {
        let mut state = lock(&self.state);
        if let Some(mut span) = state.span.take()
            && let Err(failure) = &result
        {
            span.fail(FailureKind::of(failure).map_or("cancelled", FailureKind::as_str));
        }
        state.end = Some(result);
        for waker in [state.reader.take(), state.guest.take()].into_iter().flatten() {
            waker.wake();
        }
        drop(state);
        *self.request_body() = None;
    }

    pub(crate) fn request_body(&self) -> MutexGuard<'_, Option<Body>> {
        lock(&self.request_body)
    }

    pub(crate) fn end(&self) -> Option<Result<(), Failure>> {
        lock(&self.state).end.clone()
    }

    /// How the guest ended; if it has not, `reader` is woken when it does.
    pub(crate) fn end_or_wake(&self, reader: &Waker) -> Option<Result<(), Failure>> {
        let mut state = lock(&self.state);
        if state.end.is_none() {
            state.reader = Some(reader.clone());
        }
        state.end.clone()
    }
}

/// The same request once more, where that can do no harm: it has nothing to read, and may be repeated.
pub(crate) fn replay(terms: Terms, request: &Request) -> Option<Request> {
    use http_body::Body as _;
    if !terms.repeats || !request.body().is_end_stream() {
        return None;
    }
    Some(with_head_of(request, lattice::http::empty()))
}

fn with_head_of(request: &http::Request<impl Sized>, body: Body) -> Request {
    let mut again = http::Request::new(body);
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.headers_mut() = request.headers().clone();
    *again.version_mut() = request.version();
    again
}

/// The request, and the same once more. Its body is read to its end first, so this is for short ones.
pub(crate) async fn twice(
    request: Request,
    deadline: Instant,
    limits: &Limits,
) -> Result<(Request, Option<Request>), CallError> {
    let (head, body) = request.into_parts();
    let body = match tokio::time::timeout_at(deadline, body.collect()).await {
        Ok(Ok(body)) => body,
        Ok(Err(error)) => return Err(CallError::Body(error)),
        Err(_) => return Err(CallError::Timeout { limit: limits.wall }),
    };
    if body.trailers().is_some() {
        let body = Body::new(body.map_err(|never| match never {}));
        return Ok((http::Request::from_parts(head, body), None));
    }
    let bytes = body.to_bytes();
    let request = http::Request::from_parts(head, lattice::http::full(bytes.clone()));
    let again = with_head_of(&request, lattice::http::full(bytes));
    Ok((request, Some(again)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_a_body_has_no_length() {
        for (status, length, expect) in [
            (200, "0", Some("0")),
            (204, "0", None),
            (204, "7", None),
            (304, "0", None),
            (304, "nonsense", None),
            (304, "1234", Some("1234")),
        ] {
            let body = http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync();
            let response = http::Response::builder().status(status).header(header::CONTENT_LENGTH, length).body(body);
            let shared = Shared::default();
            shared.answer(Ok(response.unwrap()));
            let head = shared.take_answer().unwrap().head;
            let kept = head.headers.get(header::CONTENT_LENGTH).map(|length| length.to_str().unwrap());
            assert_eq!(kept, expect, "{status} {length}");
        }
    }
}
