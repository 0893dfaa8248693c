//! [`lattice::messaging`] over core NATS, on the connection that a workload's guests have for all they do.

use crate::{
    bus::{NatsBus, disconnected, from_nats},
    guests::{GuestBuckets, Line},
};
use futures_util::StreamExt as _;
use lattice::{
    Fut,
    id::WorkloadName,
    messaging::{Messaging, Subscription},
    store::{Bus, BusError, Message},
};
use std::sync::Arc;

impl Messaging for GuestBuckets {
    fn open(&self, workload: &WorkloadName) -> Fut<'_, Result<Arc<dyn Bus>, BusError>> {
        let (line, workload) = (self.line(workload), workload.clone());
        Box::pin(async move {
            let nats = self.connected(&line, &workload).await;
            let nats = nats.map_err(|error| BusError::Disconnected(error.to_string()))?;
            let bus: Arc<dyn Bus> = Arc::new(NatsBus::of_guests(nats, line));
            Ok(bus)
        })
    }

    fn subscribe(
        &self,
        workload: &WorkloadName,
        subject: &str,
        group: &str,
    ) -> Fut<'_, Result<Box<dyn Subscription>, BusError>> {
        let (line, workload) = (self.line(workload), workload.clone());
        let (subject, group) = (subject.to_owned(), group.to_owned());
        Box::pin(async move {
            let nats = self.connected(&line, &workload).await;
            let nats = nats.map_err(|error| BusError::Disconnected(error.to_string()))?;
            let messages = nats.client.queue_subscribe(subject, group).await.map_err(disconnected)?;
            let subscription: Box<dyn Subscription> = Box::new(NatsSubscription { messages, _line: line });
            Ok(subscription)
        })
    }
}

/// Made again by the client library with each new connection.
struct NatsSubscription {
    messages: async_nats::Subscriber,
    /// Keeps the connection.
    _line: Arc<Line>,
}

impl Subscription for NatsSubscription {
    fn next(&mut self) -> Fut<'_, Option<Message>> {
        Box::pin(async { self.messages.next().await.map(from_nats) })
    }

    fn drain(&mut self) -> Fut<'_, ()> {
        Box::pin(async {
            // Fails where the connection is closed: nothing comes then.
            let _ = self.messages.drain().await;
        })
    }
}
