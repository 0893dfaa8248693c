//! What a router knows of other nodes by itself: how many requests it has under way there, and which of them were not
//! there when last asked. It serves picking only; nothing is decided by it that could not be decided without.

use crate::body::lock;
use lattice::id::NodeId;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

/// How long a node that was not there is asked last. The table follows within the time in which sessions expire.
const SUSPECT_FOR: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Default)]
pub(crate) struct Peers(Arc<Mutex<BTreeMap<NodeId, Peer>>>);

#[derive(Debug, Default)]
struct Peer {
    in_flight: u32,
    suspect_until: Option<Duration>,
}

/// A request under way at a node.
#[derive(Debug)]
pub(crate) struct InFlight {
    peers: Peers,
    node: NodeId,
}

impl Peers {
    pub(crate) fn begin(&self, node: &NodeId) -> InFlight {
        lock(&self.0).entry(node.clone()).or_default().in_flight += 1;
        InFlight { peers: self.clone(), node: node.clone() }
    }

    pub(crate) fn in_flight(&self, node: &NodeId) -> u32 {
        lock(&self.0).get(node).map_or(0, |peer| peer.in_flight)
    }

    pub(crate) fn suspect(&self, node: &NodeId, now: Duration) {
        let mut peers = lock(&self.0);
        // Nodes that came and went are forgotten here, so that the map is bounded by the lattice's size.
        peers.retain(|_, peer| peer.in_flight > 0 || peer.suspect_until.is_some_and(|until| until > now));
        peers.entry(node.clone()).or_default().suspect_until = Some(now.saturating_add(SUSPECT_FOR));
    }

    /// Nodes that were not there when last asked. Empty as a rule, and then allocates nothing.
    pub(crate) fn suspects(&self, now: Duration) -> Vec<NodeId> {
        let is_suspect = |peer: &Peer| peer.suspect_until.is_some_and(|until| until > now);
        lock(&self.0).iter().filter(|(_, peer)| is_suspect(peer)).map(|(node, _)| node.clone()).collect()
    }

    /// Whoever answers is there.
    pub(crate) fn answered(&self, node: &NodeId) {
        if let Some(peer) = lock(&self.0).get_mut(node) {
            peer.suspect_until = None;
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut peers = lock(&self.peers.0);
        if let Some(peer) = peers.get_mut(&self.node) {
            peer.in_flight = peer.in_flight.saturating_sub(1);
            if peer.in_flight == 0 && peer.suspect_until.is_none() {
                peers.remove(&self.node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspicion_passes_and_counts_return_to_nothing() {
        let peers = Peers::default();
        let node = NodeId::new("n1").unwrap();
        let (first, second) = (peers.begin(&node), peers.begin(&node));
        assert_eq!(peers.in_flight(&node), 2);
        peers.suspect(&node, Duration::ZERO);
        assert_eq!(peers.suspects(SUSPECT_FOR / 2), vec![node.clone()]);
        assert!(peers.suspects(SUSPECT_FOR).is_empty());
        peers.answered(&node);
        assert!(peers.suspects(Duration::ZERO).is_empty());
        drop((first, second));
        assert!(lock(&peers.0).is_empty());
    }
}
