//! Sends this router's echoes, hears them, and tells the exchanges that wait when nothing gets through. What that means is
//! decided in `round_trip.rs`.

use super::{exchanges::Exchanges, remote::Inbox};
use crate::{
    body::lock,
    round_trip::{LOOK_EVERY, RoundTrip},
};
use lattice::{
    Fut,
    exchange::Requester,
    store::{Bus, BusError, Clock, Connection, Message},
};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering::Relaxed},
};
use tokio::sync::watch;

/// Whether what this node sends comes to NATS and back. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Reach(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    trip: Mutex<RoundTrip>,
    /// Beside the lock: every request that goes to another node asks.
    is_closed: AtomicBool,
}

impl Reach {
    /// False where a connection is there and nothing came back over it for about a second. True while that is not known.
    pub fn is_open(&self) -> bool {
        !self.0.is_closed.load(Relaxed)
    }

    /// Whether requests can be sent to other nodes: up is what has a connection, and one that carries something.
    pub(crate) fn connection(&self, bus: &dyn Bus) -> Connection {
        if self.is_open() { bus.connection() } else { Connection::Down }
    }

    /// What came to the subject of echoes.
    pub(crate) fn heard(&self, payload: &[u8]) {
        let number = std::str::from_utf8(payload).ok().and_then(|text| text.parse().ok());
        if let Some(number) = number {
            self.change(|trip| trip.heard(number));
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut RoundTrip) -> T) -> T {
        let mut trip = lock(&self.0.trip);
        let result = change(&mut trip);
        let is_closed = !trip.is_open();
        drop(trip);
        if self.0.is_closed.swap(is_closed, Relaxed) != is_closed {
            match is_closed {
                true => tracing::warn!("nothing that is sent to NATS comes back: other nodes are out of reach"),
                false => tracing::info!("what is sent to NATS comes back again"),
            }
        }
        result
    }
}

pub(crate) struct Echoes {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) exchanges: Exchanges<Requester>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) reach: Reach,
    /// The inbox is subscribed.
    pub(crate) listening: watch::Receiver<bool>,
}

impl Echoes {
    /// Runs as long as the router.
    pub(crate) async fn watch(self) {
        // One that the bus has not taken yet. A bus that is busy takes it in its turn, and no second one is sent before.
        let mut leaving: Option<Fut<'_, Result<(), BusError>>> = None;
        loop {
            let mut look = self.clock.sleep(LOOK_EVERY);
            tokio::select! { // cancel-safe: what is still leaving is kept
                biased;
                () = left(&mut leaving) => look.await,
                () = &mut look => {}
            }
            if self.bus.connection() == Connection::Down || !*self.listening.borrow() {
                leaving = None;
                self.reach.change(RoundTrip::interrupt);
                continue;
            }
            let now = self.clock.now();
            let waits = !self.exchanges.is_empty();
            let echo = self.reach.change(|trip| trip.look(now, waits));
            if let Some(number) = echo
                && leaving.is_none()
            {
                leaving = Some(self.send(number));
            }
            if !self.reach.is_open() {
                self.exchanges.cut_off(lock(&self.reach.0.trip).came_back());
            }
        }
    }

    fn send(&self, number: u64) -> Fut<'_, Result<(), BusError>> {
        let payload = number.to_string().into();
        self.bus.publish(Message { subject: self.inbox.echo(), payload, ..Message::default() })
    }
}

/// Resolves when what is leaving has left. What does not leave is found missing like all else.
async fn left(leaving: &mut Option<Fut<'_, Result<(), BusError>>>) {
    match leaving {
        Some(publish) => {
            let _ = publish.await;
            *leaving = None;
        }
        None => std::future::pending().await,
    }
}
