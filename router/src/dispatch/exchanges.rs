//! The exchanges that a node has open: who gets a message that comes in. A router has one such table for what it asks, a
//! node one for what it answers. Delivering never waits: one slow exchange must not hold up the others that share the
//! subscription.

use super::drive::Side;
use crate::body::lock;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use lattice::{
    exchange::{HTTP_WINDOW_BYTES, Requester},
    frame::{FRAME_BYTES_MAX, FRAME_BYTES_MIN},
    id::NodeId,
};
use std::{
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

/// Messages that wait for one exchange: twice the window in the smallest chunks that a full sender makes, which leaves room
/// for small ones. Beyond it the exchange fails, since a dropped frame is a gap.
const INBOUND_MAX: usize = 2 * HTTP_WINDOW_BYTES as usize / FRAME_BYTES_MIN;

/// What comes in for an exchange.
#[derive(Debug)]
pub(crate) enum Inbound {
    Frame(Bytes),
    /// The server found no subscriber for a frame that was sent.
    NoResponders,
    /// The node that answers is gone. It may have seen all that was sent.
    PeerGone,
    /// Nothing that this node sends gets through. What was sent before this moment on the router's clock is known to have left.
    CutOff(Option<Duration>),
}

pub(crate) struct Exchanges<S: Side>(Arc<Mutex<Table<S>>>);

type Table<S> = BTreeMap<<S as Side>::Name, Entry<S>>;

struct Entry<S: Side> {
    peer: S::Peer,
    to: Arc<Queue>,
    /// Something came in.
    is_answered: bool,
    /// Since the last [`Exchanges::silent_peers`]: something came in; it was open then.
    heard: bool,
    looked_at: bool,
}

/// An open exchange: dropped, the table forgets it.
pub(crate) struct Open<S: Side> {
    exchanges: Exchanges<S>,
    name: S::Name,
    inbound: Arc<Queue>,
}

/// What came in and was not taken yet. Made for each exchange, most of which get one message: a channel of tokio's
/// has room for 32 from the start.
#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    reader: AtomicWaker,
}

#[derive(Default)]
struct QueueState {
    messages: VecDeque<Inbound>,
    /// Nothing more will come: messages had to be dropped, or the subscription ended.
    closed: bool,
}

impl Queue {
    /// False if it is full.
    fn push(&self, message: Inbound) -> bool {
        let mut state = lock(&self.state);
        if state.messages.len() >= INBOUND_MAX {
            return false;
        }
        state.messages.push_back(message);
        drop(state);
        self.reader.wake();
        true
    }

    fn close(&self) {
        lock(&self.state).closed = true;
        self.reader.wake();
    }
}

impl<S: Side> Exchanges<S> {
    /// Open an exchange under a name that none has.
    pub(crate) fn open(&self, name: S::Name, peer: S::Peer) -> Open<S> {
        let inbound = Arc::new(Queue::default());
        let entry = Entry { peer, to: inbound.clone(), is_answered: false, heard: false, looked_at: false };
        lock(&self.0).insert(name.clone(), entry);
        Open { exchanges: self.clone(), name, inbound }
    }

    /// Pass a message on. Gives it back if there is no such exchange. One that is larger than any frame ends the exchange:
    /// it is not worth keeping until it is read.
    pub(crate) fn deliver(&self, name: &S::Name, message: Inbound) -> Result<(), Inbound> {
        let mut table = lock(&self.0);
        let Some(entry) = table.get_mut(name) else { return Err(message) };
        (entry.is_answered, entry.heard) = (true, true);
        let too_large = matches!(&message, Inbound::Frame(payload) if payload.len() > FRAME_BYTES_MAX);
        if too_large || !entry.to.push(message) {
            entry.to.close();
            table.remove(name);
        }
        Ok(())
    }

    /// Close all: nothing more will come.
    pub(crate) fn close(&self) {
        for entry in std::mem::take(&mut *lock(&self.0)).into_values() {
            entry.to.close();
        }
    }
}

impl Exchanges<Requester> {
    /// The nodes that an exchange has been open with since the last call, and of which nothing came in any exchange.
    pub(crate) fn silent_peers(&self) -> Vec<NodeId> {
        let mut table = lock(&self.0);
        let mut peers: BTreeMap<&NodeId, (bool, bool)> = BTreeMap::new();
        for entry in table.values() {
            let (heard, looked_at) = peers.entry(&entry.peer).or_default();
            *heard |= entry.heard;
            *looked_at |= entry.looked_at;
        }
        let is_silent = |(heard, looked_at): (bool, bool)| looked_at && !heard;
        let silent = peers.into_iter().filter(|(_, seen)| is_silent(*seen)).map(|(node, _)| node.clone()).collect();
        for entry in table.values_mut() {
            (entry.heard, entry.looked_at) = (false, true);
        }
        silent
    }

    /// Whether nothing is waited for.
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }

    /// Tell all exchanges of which nothing came in that nothing gets through. `came_back`: what was sent before has left.
    pub(crate) fn cut_off(&self, came_back: Option<Duration>) {
        for entry in lock(&self.0).values().filter(|entry| !entry.is_answered) {
            entry.to.push(Inbound::CutOff(came_back));
        }
    }

    /// End all exchanges with a node that is gone.
    pub(crate) fn give_up(&self, node: &NodeId) {
        for entry in lock(&self.0).values().filter(|entry| entry.peer == *node) {
            // One that is full has more to hear than this, and hears of it by its own pings.
            entry.to.push(Inbound::PeerGone);
        }
    }
}

impl<S: Side> Default for Exchanges<S> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<S: Side> Clone for Exchanges<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Side> Open<S> {
    /// The next message. `None` when messages had to be dropped, or the subscription ended. Cancel-safe.
    pub(crate) async fn receive(&mut self) -> Option<Inbound> {
        poll_fn(|context| {
            // Before the look, so that what comes after it wakes this task.
            self.inbound.reader.register(context.waker());
            let mut state = lock(&self.inbound.state);
            match state.messages.pop_front() {
                None if !state.closed => Poll::Pending,
                message => Poll::Ready(message),
            }
        })
        .await
    }
}

impl<S: Side> Drop for Open<S> {
    fn drop(&mut self) {
        // After an overflow the name may be in use again only if the peer reused it, which the protocol forbids.
        lock(&self.exchanges.0).remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use lattice::exchange::Responder;

    fn node(id: &str) -> NodeId {
        NodeId::new(id).unwrap()
    }

    #[test]
    fn an_exchange_that_can_not_keep_up_is_closed_alone() {
        let exchanges = Exchanges::<Requester>::default();
        let mut slow = exchanges.open(1, node("n"));
        let mut other = exchanges.open(2, node("n"));
        for _ in 0..=INBOUND_MAX {
            exchanges.deliver(&1, Inbound::NoResponders).unwrap();
        }
        exchanges.deliver(&1, Inbound::NoResponders).unwrap_err();
        exchanges.deliver(&2, Inbound::NoResponders).unwrap();
        for _ in 0..INBOUND_MAX {
            slow.receive().now_or_never().unwrap().unwrap();
        }
        assert!(slow.receive().now_or_never().unwrap().is_none());
        other.receive().now_or_never().unwrap().unwrap();
        drop(other);
        exchanges.deliver(&2, Inbound::NoResponders).unwrap_err();
    }

    #[test]
    fn what_is_larger_than_a_frame_ends_the_exchange() {
        let exchanges = Exchanges::<Responder>::default();
        let name = "a".to_owned();
        let mut open = exchanges.open(name.clone(), ());
        let frame = |bytes| Inbound::Frame(vec![0; bytes].into());
        exchanges.deliver(&name, frame(FRAME_BYTES_MAX)).unwrap();
        exchanges.deliver(&name, frame(FRAME_BYTES_MAX + 1)).unwrap();
        exchanges.deliver(&name, frame(1)).unwrap_err();
        let first = open.receive().now_or_never().unwrap();
        assert!(matches!(first, Some(Inbound::Frame(payload)) if payload.len() == FRAME_BYTES_MAX));
        assert!(open.receive().now_or_never().unwrap().is_none());
    }

    #[test]
    fn a_node_is_silent_when_nothing_came_of_it_since_the_last_look() {
        let exchanges = Exchanges::<Requester>::default();
        let _held = (exchanges.open(1, node("a")), exchanges.open(2, node("a")), exchanges.open(3, node("b")));
        assert_eq!(exchanges.silent_peers(), [], "they have just begun");
        exchanges.deliver(&2, Inbound::Frame(Bytes::new())).unwrap();
        let _later = exchanges.open(4, node("c"));
        assert_eq!(exchanges.silent_peers(), [node("b")]);
        assert_eq!(exchanges.silent_peers(), ["a", "b", "c"].map(node));
    }

    #[test]
    fn what_was_answered_is_not_told_that_nothing_gets_through() {
        let exchanges = Exchanges::<Requester>::default();
        assert!(exchanges.is_empty());
        let (mut answered, mut other) = (exchanges.open(1, node("a")), exchanges.open(2, node("a")));
        assert!(!exchanges.is_empty());
        exchanges.deliver(&1, Inbound::Frame(Bytes::new())).unwrap();
        answered.receive().now_or_never().unwrap().unwrap();
        exchanges.silent_peers();
        exchanges.cut_off(Some(Duration::from_secs(1)));
        assert!(answered.receive().now_or_never().is_none());
        let told = other.receive().now_or_never();
        assert!(matches!(told, Some(Some(Inbound::CutOff(Some(at)))) if at == Duration::from_secs(1)));
    }

    #[test]
    fn a_node_that_is_gone_ends_its_exchanges_and_no_other() {
        let exchanges = Exchanges::<Requester>::default();
        let (mut gone, mut other) = (exchanges.open(1, node("a")), exchanges.open(2, node("b")));
        exchanges.give_up(&node("a"));
        assert!(matches!(gone.receive().now_or_never(), Some(Some(Inbound::PeerGone))));
        assert!(other.receive().now_or_never().is_none());
    }
}
