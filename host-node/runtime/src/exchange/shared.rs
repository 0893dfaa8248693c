//! What the two sides of one exchange share: the answer, how far both bodies are, how it ended, and who waits for that.

use crate::{body::GuestBody, failure::Failure, lock, tally::FailureKind, unit::Inner};
use futures_util::task::AtomicWaker;
use http::{StatusCode, header};
use http_body_util::BodyExt as _;
use lattice::{
    http::{Body, BodyError},
    trace::OpenSpan,
};
use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed, Ordering::Release},
    },
    task::{Context, Poll, Wake, Waker},
};
use wasmtime_wasi_http::WasiBody;

/// Takes the wakes of a guest, and passes them on while its caller waits.
#[derive(Default)]
pub(super) struct Bell {
    rung: AtomicBool,
    caller: AtomicWaker,
}

impl Bell {
    /// The guest is polled from here on.
    pub(super) fn hold(&self) {
        drop(self.caller.take());
        // What was done before a wake that is dropped here is seen by the poll.
        self.rung.swap(false, AcqRel);
    }

    /// It was polled, and the caller waits: also for what came meanwhile.
    pub(super) fn pass_on(&self, caller: &Waker) {
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
    pub(super) bell: Bell,
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

    pub(super) fn progress(&self) -> Progress {
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

    pub(super) fn set_end(&self, result: Result<(), Failure>) {
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
