//! Turns of the replicas at one GPU: who submits something waits here until it may. What is fair is decided in `fair.rs`; here
//! are the clock, and who waits.

mod fair;

use crate::lock;
use fair::{Client, Fair, Ticket};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// How long somebody waits until the decision is made again: with time alone, what others have used changes.
const AGAIN: Duration = Duration::from_millis(10);

/// Of one adapter.
pub(crate) struct Turns {
    since: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    fair: Fair,
    waiting: BTreeMap<Ticket, oneshot::Sender<()>>,
}

/// A replica's place among those that use the adapter, until it is dropped.
pub(crate) struct Seat {
    turns: Arc<Turns>,
    client: Client,
}

/// What one submit has: until it is dropped, which is when the submit is done or will never be.
pub(crate) struct Turn {
    turns: Arc<Turns>,
    client: Client,
    ticket: Ticket,
}

impl Default for Turns {
    fn default() -> Self {
        Self { since: Instant::now(), state: Mutex::default() }
    }
}

impl Turns {
    pub(crate) fn join(self: &Arc<Self>, weight: u32) -> Seat {
        let client = lock(&self.state).fair.join(weight);
        Seat { turns: self.clone(), client }
    }

    fn now(&self) -> Duration {
        self.since.elapsed()
    }

    /// Something happened, and whoever may begin is told.
    fn change<R>(&self, change: impl FnOnce(&mut State, Duration) -> R) -> R {
        let now = self.now();
        let mut state = lock(&self.state);
        let result = change(&mut state, now);
        while let Some(ticket) = state.fair.next(now) {
            // Whoever it is has a turn even if it does not listen any more, and gives it back.
            if let Some(waiting) = state.waiting.remove(&ticket) {
                let _ = waiting.send(());
            }
        }
        result
    }
}

impl Seat {
    /// Waits until the replica may submit something.
    pub(crate) async fn turn(&self) -> Turn {
        let (sender, mut granted) = oneshot::channel();
        let client = self.client;
        let ticket = self.turns.change(|state, now| {
            let ticket = state.fair.ask(client, now);
            state.waiting.insert(ticket, sender);
            ticket
        });
        let turn = Turn { turns: self.turns.clone(), client, ticket };
        while tokio::time::timeout(AGAIN, &mut granted).await.is_err() {
            self.turns.change(|_, _| ());
        }
        turn
    }

    /// Whether others want to submit something.
    pub(crate) fn is_contended(&self) -> bool {
        lock(&self.turns.state).fair.is_contended(self.client)
    }

    /// One of its devices has something at the GPU, and had nothing there before.
    pub(crate) fn busy(&self) {
        self.turns.change(|state, now| state.fair.busy(self.client, now));
    }

    /// One of its devices has nothing at the GPU any more.
    pub(crate) fn idle(&self) {
        self.turns.change(|state, now| state.fair.idle(self.client, now));
    }

    /// The GPU's time that it had.
    pub(crate) fn used(&self) -> Duration {
        let now = self.turns.now();
        lock(&self.turns.state).fair.used(self.client, now)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.turns.change(|state, now| state.fair.leave(self.client, now));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.change(|state, now| match state.waiting.remove(&self.ticket) {
            Some(_) => state.fair.cancel(self.client, self.ticket, now),
            None => state.fair.done(self.client, now),
        });
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seat({:?})", self.client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        pin::Pin,
        task::{Context, Poll, Waker},
    };

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_wait_any_more_leaves_its_turn_to_others() {
        let turns = Arc::new(Turns::default());
        let seats: Vec<_> = (0..3).map(|_| turns.join(1)).collect();
        let (one, other) = (seats[0].turn().await, seats[1].turn().await);
        assert!(seats[2].is_contended());
        // Two are at the GPU: the third waits.
        let mut third = Box::pin(seats[2].turn());
        assert!(poll(third.as_mut()).is_pending());
        drop(third);
        let mut third = Box::pin(seats[2].turn());
        assert!(poll(third.as_mut()).is_pending());
        drop(one);
        let third = third.await;
        drop((third, other));
        assert!(lock(&turns.state).waiting.is_empty());
        assert!(!seats[0].is_contended());
        drop(seats);
    }
}
