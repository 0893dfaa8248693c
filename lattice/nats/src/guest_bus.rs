//! [`lattice::messaging`] over core NATS, on the connection that a workload's guests have for all they do.

use crate::{
    bus::{NatsBus, disconnected, from_nats},
    guests::{GuestBuckets, Line},
};
use async_nats::jetstream::{self, ErrorCode, response::Response};
use futures_util::StreamExt as _;
use lattice::{
    Fut,
    account::Login,
    messaging::{BacklogError, Messaging, Subscription},
    spec::PendingTarget,
    store::{Bus, BusError, Message},
};
use std::{sync::Arc, time::Duration};

/// For an answer about a consumer.
const INFO_TIMEOUT: Duration = Duration::from_secs(5);

impl Messaging for GuestBuckets {
    fn open(&self, login: &Login) -> Fut<'_, Result<Arc<dyn Bus>, BusError>> {
        let (line, login) = (self.line(login), login.clone());
        Box::pin(async move {
            let nats = self.connected(&line, &login).await;
            let nats = nats.map_err(|error| BusError::Disconnected(error.to_string()))?;
            let bus: Arc<dyn Bus> = Arc::new(NatsBus::of_guests(nats, line));
            Ok(bus)
        })
    }

    fn subscribe(&self, login: &Login, subject: &str, group: &str) -> Fut<'_, Result<Box<dyn Subscription>, BusError>> {
        let (line, login) = (self.line(login), login.clone());
        let (subject, group) = (subject.to_owned(), group.to_owned());
        Box::pin(async move {
            let nats = self.connected(&line, &login).await;
            let nats = nats.map_err(|error| BusError::Disconnected(error.to_string()))?;
            let messages = nats.client.queue_subscribe(subject, group).await.map_err(disconnected)?;
            let subscription: Box<dyn Subscription> = Box::new(NatsSubscription { messages, _line: line });
            Ok(subscription)
        })
    }

    fn pending(&self, login: &Login, of: &PendingTarget) -> Fut<'_, Result<u64, BacklogError>> {
        let (line, login) = (self.line(login), login.clone());
        let PendingTarget { stream, consumer, .. } = of.clone();
        Box::pin(async move {
            let unknown =
                |why: String| BacklogError::Unknown { stream: stream.clone(), consumer: consumer.clone(), why };
            let nats = self.connected(&line, &login).await.map_err(|error| unknown(error.to_string()))?;
            // The server takes no other payload than nothing, or this.
            let nothing = serde_json::json!({});
            let asked = nats.jetstream.request(format!("CONSUMER.INFO.{stream}.{consumer}"), &nothing);
            // A permission that is missing looks like no answer.
            let answer = tokio::time::timeout(INFO_TIMEOUT, asked).await;
            let answer: Response<jetstream::consumer::Info> =
                answer.map_err(|_| unknown("no answer in time".into()))?.map_err(|error| unknown(error.to_string()))?;
            match answer {
                Response::Ok(info) => Ok(info.num_pending.saturating_add(info.num_ack_pending as u64)),
                Response::Err { error } => match error.error_code() {
                    ErrorCode::CONSUMER_NOT_FOUND | ErrorCode::STREAM_NOT_FOUND => {
                        Err(BacklogError::Missing { stream, consumer })
                    }
                    _ => Err(unknown(error.to_string())),
                },
            }
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
