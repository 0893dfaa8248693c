//! Core NATS as guests use it: a [`Bus`] for each workload, over its guests' own connection. Not the lattice's own bus,
//! which is in [`crate::store`].

use crate::{
    Fut,
    account::Login,
    spec::{JetStreamName, PendingTarget},
    store::{Bus, BusError, Headers, Message},
};
use std::{fmt, sync::Arc};

/// Connections to NATS for guests.
pub trait Messaging: fmt::Debug + Send + Sync + 'static {
    /// The bus of a workload's guests. Fails where NATS is out of reach. Who holds it keeps the connection.
    fn open(&self, login: &Login) -> Fut<'_, Result<Arc<dyn Bus>, BusError>>;
    /// Messages on a subject (wildcards allowed) for one of a queue group, over the same connection.
    fn subscribe(&self, login: &Login, subject: &str, group: &str) -> Fut<'_, Result<Box<dyn Subscription>, BusError>>;
    /// Messages of a durable consumer that are not settled yet: those that wait for their delivery, and those that were delivered.
    /// Over the same connection; answers within some seconds.
    fn pending(&self, login: &Login, consumer: &PendingTarget) -> Fut<'_, Result<u64, BacklogError>>;
}

/// Why nothing is known of what a consumer has before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BacklogError {
    #[error("there is no consumer {consumer} of a stream {stream}")]
    Missing { stream: JetStreamName, consumer: JetStreamName },
    /// Not allowed, not in time, or out of reach.
    #[error("consumer {consumer} of stream {stream} can't be asked for: {why}")]
    Unknown { stream: JetStreamName, consumer: JetStreamName, why: String },
}

/// A subscription. Dropping it unsubscribes, and drops what has come.
pub trait Subscription: Send {
    /// The next message; none after the last one. May be dropped and called again without a loss.
    fn next(&mut self) -> Fut<'_, Option<Message>>;
    /// Unsubscribe: what the server has sent by then still comes, then nothing more.
    fn drain(&mut self) -> Fut<'_, ()>;
}

/// What micro services say where there is no answer (ADR-32).
pub const SERVICE_ERROR: &str = "Nats-Service-Error";
pub const SERVICE_ERROR_CODE: &str = "Nats-Service-Error-Code";

/// Headers of an answer that says that there is none, as NATS micro services have them.
pub fn refusal(code: &str, text: &str) -> Headers {
    [(SERVICE_ERROR, text), (SERVICE_ERROR_CODE, code)].map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// Where there is no NATS for guests.
#[derive(Debug, Clone, Copy)]
pub struct NoMessaging;

impl Messaging for NoMessaging {
    fn open(&self, _: &Login) -> Fut<'_, Result<Arc<dyn Bus>, BusError>> {
        Box::pin(std::future::ready(Err(nowhere())))
    }

    fn subscribe(&self, _: &Login, _: &str, _: &str) -> Fut<'_, Result<Box<dyn Subscription>, BusError>> {
        Box::pin(std::future::ready(Err(nowhere())))
    }

    fn pending(&self, _: &Login, consumer: &PendingTarget) -> Fut<'_, Result<u64, BacklogError>> {
        let PendingTarget { stream, consumer, .. } = consumer.clone();
        let why = nowhere().to_string();
        Box::pin(std::future::ready(Err(BacklogError::Unknown { stream, consumer, why })))
    }
}

fn nowhere() -> BusError {
    BusError::Disconnected("this node has none for guests".into())
}
