//! Whether the nodes that owe this router an answer are still there. A node that was killed says nothing, and who waits for
//! it has nothing to send that the server could refuse. So a node that was silent for a moment is sent a ping which belongs
//! to no exchange: a living one answers with a reset, and for one that is gone the server says at once that nobody listens.
//! One ping a node, however many exchanges wait for it.
//!
//! It ends exchanges of nodes that are gone, and nothing else: a node that hangs is found by the idle limit of each exchange.

use super::{
    exchanges::{Exchanges, Inbound},
    peers::Peers,
    remote::Inbox,
    until,
    way::Reach,
};
use futures_util::future::join_all;
use lattice::{
    exchange::{Requester, probe},
    id::{LatticeId, NodeId},
    store::{Bus, Clock, Connection, Message},
    subject,
};
use std::{sync::Arc, time::Duration};

/// A node is asked after if it was silent between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Whoever does not answer within this hangs, or is far busier than others.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// A node that nobody hears is asked a second time: it may just be connecting anew.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// When this router's own connection was away, that of others was too, and they may take as long to be back.
const RECONNECT_GRACE: Duration = Duration::from_secs(5);

pub(crate) struct Pulse {
    pub(crate) lattice: LatticeId,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) exchanges: Exchanges<Requester>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) peers: Peers,
    pub(crate) reach: Reach,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// It answered.
    Life,
    /// The server knows of no such node.
    Gone,
    /// Nothing came.
    None,
}

impl Pulse {
    /// Runs as long as the router.
    pub(crate) async fn watch(self) {
        let mut give_up_from = Duration::ZERO;
        loop {
            self.clock.sleep(LOOK_EVERY).await;
            if self.reach.connection(&*self.bus) == Connection::Down {
                give_up_from = self.clock.now().saturating_add(RECONNECT_GRACE);
                continue;
            }
            let silent = self.exchanges.silent_peers();
            if self.clock.now() >= give_up_from {
                join_all(silent.iter().map(|node| self.look_after(node))).await;
            }
        }
    }

    async fn look_after(&self, node: &NodeId) {
        match self.ask(node).await {
            Sign::Life => return,
            // Those who wait go on waiting; new requests are better sent elsewhere.
            Sign::None => return self.peers.suspect(node, self.clock.now()),
            Sign::Gone => self.clock.sleep(ASK_AGAIN_AFTER).await,
        }
        if self.ask(node).await == Sign::Gone && self.reach.connection(&*self.bus) == Connection::Up {
            tracing::warn!(%node, "a node that owes answers is gone");
            self.exchanges.give_up(node);
        }
    }

    async fn ask(&self, node: &NodeId) -> Sign {
        let name = self.inbox.next();
        let mut open = self.exchanges.open(name, node.clone());
        let message = Message {
            subject: subject::http(&self.lattice, node),
            reply: Some(self.inbox.subject(name)),
            payload: probe(),
            ..Message::default()
        };
        let answer = async {
            self.bus.publish(message).await.ok()?;
            open.receive().await
        };
        match until(&*self.clock, self.clock.now().saturating_add(ANSWER_WITHIN), answer).await {
            Ok(Some(Inbound::Frame(_))) => Sign::Life,
            Ok(Some(Inbound::NoResponders)) => Sign::Gone,
            Ok(Some(Inbound::PeerGone | Inbound::CutOff(_)) | None) | Err(_) => Sign::None,
        }
    }
}
