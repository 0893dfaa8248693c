//! The exchanges that a node has open, by their reply subject: who gets a message that comes in. A router has one such
//! table for what it asks, a node one for what it answers. Delivering never waits: one slow exchange must not hold up
//! the others that share the subscription.

use crate::body::lock;
use bytes::Bytes;
use lattice::{
    exchange::HTTP_WINDOW_BYTES,
    frame::{FRAME_BYTES_MAX, FRAME_BYTES_MIN},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};
use tokio::sync::mpsc;

/// Messages that wait for one exchange: twice the window in the smallest chunks that a full sender makes, which leaves room
/// for small ones. Beyond it the exchange fails, since a dropped frame is a gap.
const INBOUND_MAX: usize = 2 * HTTP_WINDOW_BYTES as usize / FRAME_BYTES_MIN;

/// What comes in for an exchange.
#[derive(Debug)]
pub(crate) enum Inbound {
    Frame(Bytes),
    /// The server found no subscriber for a frame that was sent.
    NoResponders,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Exchanges(Arc<Mutex<BTreeMap<String, mpsc::Sender<Inbound>>>>);

/// An open exchange: dropped, the table forgets it.
#[derive(Debug)]
pub(crate) struct Open {
    exchanges: Exchanges,
    pub(crate) reply: String,
    /// Closed from the other side when messages had to be dropped, or the subscription ended.
    pub(crate) inbound: mpsc::Receiver<Inbound>,
}

impl Exchanges {
    /// Open an exchange under a reply subject that has none.
    pub(crate) fn open(&self, reply: String) -> Open {
        let (sender, inbound) = mpsc::channel(INBOUND_MAX);
        lock(&self.0).insert(reply.clone(), sender);
        Open { exchanges: self.clone(), reply, inbound }
    }

    /// Pass a message on. Gives it back if there is no such exchange. One that is larger than any frame ends the exchange:
    /// it is not worth keeping until it is read.
    pub(crate) fn deliver(&self, reply: &str, message: Inbound) -> Result<(), Inbound> {
        let mut table = lock(&self.0);
        let Some(sender) = table.get(reply) else { return Err(message) };
        let too_large = matches!(&message, Inbound::Frame(payload) if payload.len() > FRAME_BYTES_MAX);
        if too_large || sender.try_send(message).is_err() {
            table.remove(reply);
        }
        Ok(())
    }

    /// Close all: nothing more will come.
    pub(crate) fn close(&self) {
        lock(&self.0).clear();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // After an overflow the name may be in use again only if the peer reused it, which the protocol forbids.
        lock(&self.exchanges.0).remove(&self.reply);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exchange_that_can_not_keep_up_is_closed_alone() {
        let exchanges = Exchanges::default();
        let mut slow = exchanges.open("a".into());
        let mut other = exchanges.open("b".into());
        for _ in 0..=INBOUND_MAX {
            exchanges.deliver("a", Inbound::NoResponders).unwrap();
        }
        exchanges.deliver("a", Inbound::NoResponders).unwrap_err();
        exchanges.deliver("b", Inbound::NoResponders).unwrap();
        for _ in 0..INBOUND_MAX {
            slow.inbound.try_recv().unwrap();
        }
        assert_eq!(slow.inbound.try_recv().unwrap_err(), mpsc::error::TryRecvError::Disconnected);
        other.inbound.try_recv().unwrap();
        drop(other);
        exchanges.deliver("b", Inbound::NoResponders).unwrap_err();
    }

    #[test]
    fn what_is_larger_than_a_frame_ends_the_exchange() {
        let exchanges = Exchanges::default();
        let mut open = exchanges.open("a".into());
        let frame = |bytes| Inbound::Frame(vec![0; bytes].into());
        exchanges.deliver("a", frame(FRAME_BYTES_MAX)).unwrap();
        exchanges.deliver("a", frame(FRAME_BYTES_MAX + 1)).unwrap();
        exchanges.deliver("a", frame(1)).unwrap_err();
        assert!(matches!(open.inbound.try_recv(), Ok(Inbound::Frame(payload)) if payload.len() == FRAME_BYTES_MAX));
        assert_eq!(open.inbound.try_recv().unwrap_err(), mpsc::error::TryRecvError::Disconnected);
    }
}
