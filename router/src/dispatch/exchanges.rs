//! The exchanges that a node has open, by their reply subject: who gets a message that comes in. A router has one such
//! table for what it asks, a node one for what it answers. Delivering never waits: one slow exchange must not hold up
//! the others that share the subscription.

use crate::body::lock;
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};
use tokio::sync::mpsc;

/// Messages that wait for one exchange. An honest peer keeps within the window, which is 16 chunks; what is left is room
/// for small ones. Beyond it the exchange fails, since a dropped frame is a gap.
const INBOUND_MAX: usize = 1024;

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

    /// Pass a message on. Gives it back if there is no such exchange.
    pub(crate) fn deliver(&self, reply: &str, message: Inbound) -> Result<(), Inbound> {
        let mut table = lock(&self.0);
        let Some(sender) = table.get(reply) else { return Err(message) };
        if sender.try_send(message).is_err() {
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
}
