//! Telling the lattice what happened. An event that can't be sent is logged and dropped: nothing waits for it.

use crate::NodeOptions;
use lattice::{
    event::{Event, EventKind},
    id::{LatticeId, NodeId},
    store::{Message, Platform},
    subject::Topic,
};

#[derive(Clone)]
pub(crate) struct Events {
    lattice: LatticeId,
    node: NodeId,
    platform: Platform,
}

impl Events {
    pub(crate) fn new(options: &NodeOptions, platform: &Platform) -> Self {
        Self { lattice: options.lattice.clone(), node: options.node.clone(), platform: platform.clone() }
    }

    pub(crate) async fn send(&self, kind: EventKind, about: impl ToString, message: impl Into<String>) {
        self.tell(Event::new(kind, about, message)).await;
    }

    pub(crate) async fn tell(&self, event: Event) {
        let kind = event.kind;
        tracing::info!(event = kind.as_str(), about = event.about, "{}", event.message);
        let id = self.platform.rng.uuid();
        let event = event.into_cloud_event(&self.lattice, &self.node, id, self.platform.clock.unix_ms());
        let message = Message {
            subject: Topic::Event(kind).subject(&self.lattice),
            payload: serde_json::to_vec(&event).unwrap_or_default().into(),
            ..Default::default()
        };
        if let Err(error) = self.platform.bus.publish(message).await {
            tracing::debug!(%error, event = kind.as_str(), "an event was not sent");
        }
    }
}
