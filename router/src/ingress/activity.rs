//! Who is to move next in a client connection, and since when. hyper sets no limit of time on reading a body or writing
//! one, and does not poll a body whose reader is blocked, so that only from outside it shows that a client stopped
//! reading.
//!
//! Start at [`Activity::lapse`].

use crate::{RouterOptions, body::lock, metrics::Metrics};
use lattice::store::Clock;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
    time::Duration,
};
use tokio::{sync::Notify, task::AbortHandle};

/// Least time between two looks.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(1);

/// What a client has let pass, by which its connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lapse {
    /// It takes nothing of a response that is there.
    Stalled,
    /// It has asked for nothing.
    Idle,
}

/// How long a client may let something pass.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// With a response to take.
    pub(crate) stall: Duration,
    /// With no request at all.
    pub(crate) idle: Duration,
    /// With a request's body to send, beyond what it takes at `body_rate`.
    pub(crate) body_grace: Duration,
    /// Bytes in a second.
    pub(crate) body_rate: u32,
}

impl Patience {
    pub(crate) fn new(options: &RouterOptions) -> Self {
        Self {
            stall: options.stall_timeout,
            idle: options.idle_timeout,
            body_grace: options.body_grace,
            body_rate: options.body_rate_min,
        }
    }

    /// How long so many bytes of a body may be waited for.
    fn for_body(&self, bytes: u64) -> Duration {
        let seconds = bytes.checked_div(self.body_rate.into()).unwrap_or(u64::MAX);
        self.body_grace.saturating_add(Duration::from_secs(seconds))
    }
}

/// The requests of one connection.
#[derive(Clone)]
pub(crate) struct Activity(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    patience: Patience,
    metrics: Metrics,
    state: Mutex<State>,
    /// The first request's head is here.
    first: Notify,
    /// Something lapses before the next look.
    sooner: Notify,
    /// Requests so far, and those that ended. Written with the state locked.
    begun: AtomicU64,
    ended: AtomicU64,
}

struct State {
    /// Requests that are not answered in full. One with HTTP/1, else few: bounded by what hyper takes of one connection
    /// at a time.
    open: Vec<Exchange>,
    /// When the last of them ended, or the connection began.
    idle_since: Duration,
    next_look: Duration,
}

/// A request that is not answered in full.
struct Exchange {
    number: u64,
    /// When the client last took something of the response, or `None` while it is for the router to go on.
    takes: Option<Duration>,
    gives: Gives,
    /// What runs it, where it has a task of its own: an HTTP/2 stream.
    task: Option<AbortHandle>,
}

/// The client's part of sending a request's body.
#[derive(Default)]
struct Gives {
    /// Since when somebody waits for the next piece.
    since: Option<Duration>,
    /// Such times before.
    waited: Duration,
    /// Received so far.
    bytes: u64,
    is_late: bool,
    /// The response has begun: the two talk, and how fast is theirs to say.
    is_free: bool,
    reader: Option<Waker>,
}

impl Exchange {
    fn due(&self, patience: &Patience) -> Option<Duration> {
        let takes = self.takes.map(|since| since.saturating_add(patience.stall));
        let gives = self.gives.due(patience);
        takes.into_iter().chain(gives).min()
    }
}

impl Gives {
    fn due(&self, patience: &Patience) -> Option<Duration> {
        let since = self.since.filter(|_| !self.is_late && !self.is_free)?;
        Some(since.saturating_add(patience.for_body(self.bytes).saturating_sub(self.waited)))
    }
}

impl Activity {
    pub(crate) fn new(clock: Arc<dyn Clock>, patience: Patience, metrics: Metrics) -> Self {
        let now = clock.now();
        let state = State { open: Vec::with_capacity(1), idle_since: now, next_look: Duration::MAX };
        let (first, sooner) = (Notify::new(), Notify::new());
        let (begun, ended) = (AtomicU64::new(0), AtomicU64::new(0));
        Self(Arc::new(Inner { clock, patience, metrics, state: Mutex::new(state), first, sooner, begun, ended }))
    }

    /// A request came. It is for the router to go on.
    pub(crate) fn begin(&self) -> Open {
        let mut state = lock(&self.0.state);
        let number = self.0.begun.load(Relaxed);
        self.0.begun.store(number + 1, Relaxed);
        state.open.push(Exchange { number, takes: None, gives: Gives::default(), task: None });
        if number == 0 {
            self.0.first.notify_one();
        }
        Open { activity: self.clone(), number }
    }

    /// Requests so far, and those of them that hyper needs nothing more for.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.0.begun.load(Relaxed), self.0.ended.load(Relaxed))
    }

    /// The request that began last runs in a task, which can be ended alone.
    fn runs(&self, task: AbortHandle) {
        // It may have ended already.
        if let Some(last) = lock(&self.0.state).open.last_mut().filter(|last| last.task.is_none()) {
            last.task = Some(task);
        }
    }

    /// Resolves with the first request's head. For one waiter.
    pub(crate) async fn begun(&self) {
        self.0.first.notified().await;
    }

    /// Resolves when the client has let something pass by which the connection ends. What concerns one stream of
    /// several, or a body, ends these.
    pub(crate) async fn lapse(&self) -> Lapse {
        self.lapse_within(self.0.patience).await
    }

    /// The same of a connection that takes no more requests.
    pub(crate) async fn lapse_ending(&self) -> Lapse {
        let Patience { idle, stall, .. } = self.0.patience;
        self.lapse_within(Patience { idle: idle.saturating_add(stall), ..self.0.patience }).await
    }

    async fn lapse_within(&self, patience: Patience) -> Lapse {
        loop {
            let now = self.0.clock.now();
            let pause = {
                let mut state = lock(&self.0.state);
                let due = match state.end_late(now, &patience, &self.0.metrics) {
                    Ok(due) => due,
                    Err(lapse) => return lapse,
                };
                // What begins to wait meanwhile lapses after one of the limits; what lapses sooner says so.
                let pause = due.map_or(Duration::MAX, |due| due.saturating_sub(now));
                let pause = pause.min(patience.stall).min(patience.idle).max(LOOK_AGAIN_AFTER);
                state.next_look = now.saturating_add(pause);
                pause
            };
            tokio::select! {
                biased;
                () = self.0.sooner.notified() => {}
                () = self.0.clock.sleep(pause) => {}
            }
        }
    }
}

impl State {
    /// End what lapsed and can be ended alone. Returns when something else does, or by what the connection ends.
    fn end_late(&mut self, now: Duration, patience: &Patience, metrics: &Metrics) -> Result<Option<Duration>, Lapse> {
        if self.open.is_empty() {
            let due = self.idle_since.saturating_add(patience.idle);
            return if due <= now { Err(Lapse::Idle) } else { Ok(Some(due)) };
        }
        for exchange in &mut self.open {
            if exchange.takes.is_some_and(|since| since.saturating_add(patience.stall) <= now) {
                metrics.slow_readers.inc();
                let Some(task) = exchange.task.take() else { return Err(Lapse::Stalled) };
                // What it holds goes with it, and its stream is reset. The others go on.
                exchange.takes = None;
                task.abort();
            }
            if exchange.gives.due(patience).is_some_and(|due| due <= now) {
                metrics.slow_writers.inc();
                exchange.gives.is_late = true;
                if let Some(reader) = exchange.gives.reader.take() {
                    reader.wake();
                }
            }
        }
        Ok(self.open.iter().filter_map(|exchange| exchange.due(patience)).min())
    }

    fn of(&mut self, number: u64) -> Option<&mut Exchange> {
        self.open.iter_mut().find(|exchange| exchange.number == number)
    }
}

/// Runs the streams of an HTTP/2 connection, each in a task that can be ended alone.
#[derive(Clone)]
pub(crate) struct Streams(pub(crate) Activity);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    /// hyper calls this right after the service, with what the service returned for one request.
    fn execute(&self, stream: F) {
        let task = tokio::spawn(stream);
        self.0.runs(task.abort_handle());
    }
}

/// A request that is not answered in full, until it is dropped.
pub(crate) struct Open {
    activity: Activity,
    number: u64,
}

impl Open {
    /// Of the connection's requests, from 0.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// From now on it is for the client to take something, or for the router to go on.
    pub(super) fn turn(&self, is_clients: bool) {
        let Inner { clock, state, .. } = &*self.activity.0;
        let since = is_clients.then(|| clock.now());
        if let Some(exchange) = lock(state).of(self.number) {
            exchange.takes = since;
        }
    }

    /// The response begins: from now on the pace of the request's body is the client's own.
    pub(super) fn free(&self) {
        if let Some(exchange) = lock(&self.activity.0.state).of(self.number) {
            exchange.gives.is_free = true;
        }
    }

    /// Who reads the request's body.
    pub(super) fn reader(&self) -> Reader {
        Reader { activity: self.activity.clone(), number: self.number, is_waiting: false }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Inner { clock, state, ended, .. } = &*self.activity.0;
        let mut state = lock(state);
        state.open.retain(|exchange| exchange.number != self.number);
        ended.store(ended.load(Relaxed) + 1, Relaxed);
        state.idle_since = clock.now();
    }
}

/// Who reads the body of one request, and what it waits for.
pub(super) struct Reader {
    activity: Activity,
    number: u64,
    is_waiting: bool,
}

impl Reader {
    /// It has so many bytes and waits for the next one. Returns whether the client is too late; if it gets too late, the
    /// waker is woken.
    pub(super) fn waits(&mut self, bytes: u64, waker: &Waker) -> bool {
        let Inner { clock, patience, state, sooner, .. } = &*self.activity.0;
        let mut state = lock(state);
        let next_look = state.next_look;
        let Some(Exchange { gives, .. }) = state.of(self.number) else { return false };
        if gives.is_free {
            return false;
        }
        if !gives.reader.as_ref().is_some_and(|reader| reader.will_wake(waker)) {
            gives.reader = Some(waker.clone());
        }
        if !self.is_waiting {
            self.is_waiting = true;
            gives.bytes = bytes;
            gives.since = Some(clock.now());
            if gives.due(patience).is_some_and(|due| due < next_look) {
                sooner.notify_one();
            }
        }
        gives.is_late
    }

    /// It waits no more.
    pub(super) fn goes_on(&mut self) {
        if std::mem::take(&mut self.is_waiting) {
            let Inner { clock, state, .. } = &*self.activity.0;
            if let Some(Exchange { gives, .. }) = lock(state).of(self.number)
                && let Some(since) = gives.since.take()
            {
                gives.waited = gives.waited.saturating_add(clock.now().saturating_sub(since));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::bodies::{Paced, Watched};
    use bytes::Bytes;
    use futures_util::FutureExt as _;
    use http_body::Frame;
    use http_body_util::{BodyExt as _, StreamBody};
    use lattice::{
        Fut,
        http::{BodyError, empty},
    };

    /// Time stands still but for a sleep, which takes its time at once.
    #[derive(Default)]
    struct Jumping(Mutex<Duration>);

    impl Clock for Jumping {
        fn now(&self) -> Duration {
            *lock(&self.0)
        }
        fn unix_ms(&self) -> u64 {
            0
        }
        fn sleep(&self, duration: Duration) -> Fut<'static, ()> {
            *lock(&self.0) += duration;
            Box::pin(std::future::ready(()))
        }
    }

    const PATIENCE: Patience = Patience {
        stall: Duration::from_secs(60),
        idle: Duration::from_secs(7),
        body_grace: Duration::from_secs(5),
        body_rate: 100,
    };
    const STALL: Duration = PATIENCE.stall;
    const IDLE: Duration = PATIENCE.idle;

    fn activity() -> (Arc<Jumping>, Activity) {
        let clock = Arc::new(Jumping::default());
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        (clock.clone(), Activity::new(clock, PATIENCE, metrics))
    }

    type Pieces = tokio::sync::mpsc::Sender<Result<Frame<Bytes>, BodyError>>;

    fn written() -> (Pieces, lattice::http::Body) {
        let (pieces, mut receiver) = tokio::sync::mpsc::channel(2);
        let stream = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
        (pieces, StreamBody::new(stream).boxed_unsync())
    }

    fn due(activity: &Activity) -> Option<Duration> {
        lock(&activity.0.state).open.iter().filter_map(|exchange| exchange.due(&PATIENCE)).min()
    }

    #[tokio::test]
    async fn a_lapse_is_told_when_it_is_due() {
        let (clock, activity) = activity();
        let lapse = || activity.lapse().now_or_never().map(|lapse| (lapse, clock.now()));
        assert_eq!(lapse(), Some((Lapse::Idle, IDLE)));

        let (pieces, body) = written();
        let piece = || pieces.try_send(Ok(Frame::data(Bytes::from_static(b"x")))).unwrap();
        let mut body = Watched::new(body, activity.begin());
        assert_eq!(lapse(), Some((Lapse::Stalled, IDLE + STALL)), "nobody has read");
        piece();
        assert!(body.frame().now_or_never().is_some());
        assert_eq!(lapse(), Some((Lapse::Stalled, IDLE + 2 * STALL)), "nobody has read on");

        // As long as the router has nothing to give, nobody is late. Told by another body that comes in meanwhile.
        assert!(body.frame().now_or_never().is_none());
        assert_eq!(due(&activity), None);
        let second = Watched::new(lattice::http::full("x"), activity.begin());
        assert_eq!(lapse(), Some((Lapse::Stalled, IDLE + 3 * STALL)));
        drop(second);
        let asked = activity.begin();
        drop(body);
        assert_eq!(due(&activity), None, "the router owes a head");
        drop(Watched::new(empty(), asked));
        assert_eq!(lapse(), Some((Lapse::Idle, 2 * IDLE + 3 * STALL)));
    }

    #[tokio::test]
    async fn a_stream_that_stalls_ends_alone() {
        let (clock, activity) = activity();
        let stalled = Watched::new(lattice::http::full("x"), activity.begin());
        let task = tokio::spawn(async move {
            let _stalled = stalled;
            std::future::pending::<()>().await;
        });
        activity.runs(task.abort_handle());
        let ended = |now| lock(&activity.0.state).end_late(now, &PATIENCE, &activity.0.metrics);
        assert_eq!(ended(STALL / 2), Ok(Some(STALL)));
        assert_eq!(ended(STALL), Ok(None), "by this the connection does not end");
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!(ended(STALL), Err(Lapse::Idle));
        assert_eq!(clock.now(), Duration::ZERO);
        assert_eq!(activity.0.metrics.slow_readers.get(), 1);
    }

    #[tokio::test]
    async fn a_body_that_comes_too_slowly_breaks() {
        let (clock, activity) = activity();
        let open = activity.begin();
        let (pieces, body) = written();
        let mut body = Paced::new(body, &open, None);
        let piece = |bytes: usize| pieces.try_send(Ok(Frame::data(Bytes::from(vec![0; bytes])))).unwrap();
        let second = Duration::from_secs(1);
        // Nobody waits: nobody is late.
        assert_eq!(due(&activity), None);
        assert!(body.frame().now_or_never().is_none());
        assert_eq!(due(&activity), Some(5 * second));
        *lock(&clock.0) += 2 * second;
        piece(300);
        assert!(body.frame().now_or_never().unwrap().unwrap().is_ok());
        assert_eq!(due(&activity), None);
        *lock(&clock.0) += 100 * second;
        // Two seconds were waited for, and the bytes are good for three.
        assert!(body.frame().now_or_never().is_none());
        assert_eq!(due(&activity), Some(clock.now() + 6 * second));
        // What is there counts before the time.
        *lock(&clock.0) += 6 * second;
        let _ = lock(&activity.0.state).end_late(clock.now(), &PATIENCE, &activity.0.metrics);
        piece(1);
        assert!(body.frame().now_or_never().unwrap().unwrap().is_ok());
        assert_eq!(body.frame().now_or_never().unwrap().unwrap().unwrap_err(), BodyError::Timeout);
        assert_eq!(activity.0.metrics.slow_writers.get(), 1);
    }

    #[tokio::test]
    async fn who_has_an_answer_may_be_slow() {
        let (_, activity) = activity();
        let open = activity.begin();
        let (_pieces, body) = written();
        let mut body = Paced::new(body, &open, None);
        assert!(body.frame().now_or_never().is_none());
        assert!(due(&activity).is_some());
        let (_answers, answer) = written();
        let mut answer = Watched::new(answer, open);
        assert!(answer.frame().now_or_never().is_none());
        assert!(body.frame().now_or_never().is_none());
        assert_eq!(due(&activity), None);
    }
}
