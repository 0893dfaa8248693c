//! Who is to move next in a client connection, and since when. hyper sets no limit of time on writing, and does not poll
//! a body whose reader is blocked, so that only from outside it shows that a client stopped reading.
//!
//! Start at [`Activity::lapse`].

use crate::body::lock;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use lattice::{http::BodyError, store::Clock};
use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::Notify;

/// Least time between two looks.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(1);

/// What a client has let pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lapse {
    /// It takes nothing of a response that is there.
    Stalled,
    /// It has asked for nothing.
    Idle,
}

/// The requests of one connection.
#[derive(Clone)]
pub(crate) struct Activity(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// The first request's head is here.
    first: Notify,
}

struct State {
    /// Requests that are not answered in full: when the client last took something, or `None` while it is for the router
    /// to go on. One with HTTP/1, else few: bounded by what hyper takes of one connection at a time.
    open: Vec<(u64, Option<Duration>)>,
    /// Requests so far.
    begun: u64,
    /// When the last of them ended, or the connection began.
    idle_since: Duration,
}

impl Activity {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let state = State { open: Vec::with_capacity(1), begun: 0, idle_since: clock.now() };
        Self(Arc::new(Inner { clock, state: Mutex::new(state), first: Notify::new() }))
    }

    /// A request came. It is for the router to go on.
    pub(crate) fn begin(&self) -> Open {
        let mut state = lock(&self.0.state);
        let id = state.begun;
        state.begun += 1;
        state.open.push((id, None));
        if id == 0 {
            self.0.first.notify_one();
        }
        Open { activity: self.clone(), id }
    }

    /// Resolves with the first request's head. For one waiter.
    pub(crate) async fn begun(&self) {
        self.0.first.notified().await;
    }

    /// Resolves when the client has let pass `stall` with a response to take, or `idle` with no request at all.
    pub(crate) async fn lapse(&self, stall: Duration, idle: Duration) -> Lapse {
        loop {
            let now = self.0.clock.now();
            let (due, lapse) = lock(&self.0.state).due(stall, idle);
            if due.is_some_and(|due| due <= now) {
                return lapse;
            }
            // What begins meanwhile lapses after one of the limits, so that no wake-up is needed for it.
            let pause = due.map_or(Duration::MAX, |due| due.saturating_sub(now)).min(stall).min(idle);
            self.0.clock.sleep(pause.max(LOOK_AGAIN_AFTER)).await;
        }
    }
}

impl State {
    fn due(&self, stall: Duration, idle: Duration) -> (Option<Duration>, Lapse) {
        if self.open.is_empty() {
            return (Some(self.idle_since.saturating_add(idle)), Lapse::Idle);
        }
        let longest = self.open.iter().filter_map(|(_, since)| *since).min();
        (longest.map(|since| since.saturating_add(stall)), Lapse::Stalled)
    }
}

/// A request that is not answered in full, until it is dropped.
pub(crate) struct Open {
    activity: Activity,
    id: u64,
}

impl Open {
    /// From now on it is for the client to take something, or for the router to go on.
    fn turn(&self, is_clients: bool) {
        let Inner { clock, state, .. } = &*self.activity.0;
        let since = is_clients.then(|| clock.now());
        if let Some(open) = lock(state).open.iter_mut().find(|(id, _)| *id == self.id) {
            open.1 = since;
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Inner { clock, state, .. } = &*self.activity.0;
        let mut state = lock(state);
        state.open.retain(|(id, _)| *id != self.id);
        state.idle_since = clock.now();
    }
}

/// A response's body that notes who is to move next: while it has nothing, the router; else whoever reads it.
pub(crate) struct Watched<B> {
    body: B,
    open: Option<Open>,
}

impl<B: http_body::Body> Watched<B> {
    pub(crate) fn new(body: B, open: Open) -> Self {
        let open = (!body.is_end_stream()).then_some(open);
        if let Some(open) = &open {
            open.turn(true);
        }
        Self { body, open }
    }
}

impl<B: http_body::Body<Data = Bytes, Error = BodyError> + Unpin> http_body::Body for Watched<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Some(open) = &self.open {
            open.turn(polled.is_ready());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use http_body_util::{BodyExt as _, StreamBody};
    use lattice::{Fut, http::empty};

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

    const STALL: Duration = Duration::from_secs(60);
    const IDLE: Duration = Duration::from_secs(7);

    #[tokio::test]
    async fn a_lapse_is_told_when_it_is_due() {
        let clock = Arc::new(Jumping::default());
        let activity = Activity::new(clock.clone());
        let lapse = || activity.lapse(STALL, IDLE).now_or_never().map(|lapse| (lapse, clock.now()));
        assert_eq!(lapse(), Some((Lapse::Idle, IDLE)));

        let (pieces, mut receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, BodyError>>(2);
        let stream = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
        let piece = || pieces.try_send(Ok(Frame::data(Bytes::from_static(b"x")))).unwrap();
        let mut body = Watched::new(StreamBody::new(stream).boxed_unsync(), activity.begin());
        assert_eq!(lapse(), Some((Lapse::Stalled, IDLE + STALL)), "nobody has read");
        piece();
        assert!(body.frame().now_or_never().is_some());
        assert_eq!(lapse(), Some((Lapse::Stalled, IDLE + 2 * STALL)), "nobody has read on");

        // As long as the router has nothing to give, nobody is late. Told by another body that comes in meanwhile.
        assert!(body.frame().now_or_never().is_none());
        assert_eq!(lock(&activity.0.state).due(STALL, IDLE).0, None);
        let second = Watched::new(lattice::http::full("x"), activity.begin());
        assert_eq!(lapse(), Some((Lapse::Stalled, IDLE + 3 * STALL)));
        drop(second);
        let asked = activity.begin();
        drop(body);
        assert_eq!(lock(&activity.0.state).due(STALL, IDLE).0, None, "the router owes a head");
        drop(Watched::new(empty(), asked));
        assert_eq!(lapse(), Some((Lapse::Idle, 2 * IDLE + 3 * STALL)));
    }
}
