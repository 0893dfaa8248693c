//! Core NATS as guests use it: a [`Bus`] for each workload, over its guests' own connection. Not the lattice's own bus,
//! which is in [`crate::store`].

use crate::{
    Fut,
    id::WorkloadName,
    store::{Bus, BusError, Message},
};
use std::{fmt, sync::Arc};

/// Connections to NATS for guests.
pub trait Messaging: fmt::Debug + Send + Sync + 'static {
    /// The bus of a workload's guests. Fails where NATS is out of reach. Who holds it keeps the connection.
    fn open(&self, workload: &WorkloadName) -> Fut<'_, Result<Arc<dyn Bus>, BusError>>;
    /// Messages on a subject (wildcards allowed) for one of a queue group, over the same connection.
    fn subscribe(
        &self,
        workload: &WorkloadName,
        subject: &str,
        group: &str,
    ) -> Fut<'_, Result<Box<dyn Subscription>, BusError>>;
}

/// A subscription. Dropping it unsubscribes, and drops what has come.
pub trait Subscription: Send {
    /// The next message; none after the last one. May be dropped and called again without a loss.
    fn next(&mut self) -> Fut<'_, Option<Message>>;
    /// Unsubscribe: what the server has sent by then still comes, then nothing more.
    fn drain(&mut self) -> Fut<'_, ()>;
}

/// Where there is no NATS for guests.
#[derive(Debug, Clone, Copy)]
pub struct NoMessaging;

impl Messaging for NoMessaging {
    fn open(&self, _: &WorkloadName) -> Fut<'_, Result<Arc<dyn Bus>, BusError>> {
        Box::pin(std::future::ready(Err(nowhere())))
    }

    fn subscribe(&self, _: &WorkloadName, _: &str, _: &str) -> Fut<'_, Result<Box<dyn Subscription>, BusError>> {
        Box::pin(std::future::ready(Err(nowhere())))
    }
}

fn nowhere() -> BusError {
    BusError::Disconnected("this node has none for guests".into())
}
