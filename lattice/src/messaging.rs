//! Core NATS as guests use it: a [`Bus`] for each workload, over its guests' own connection. Not the lattice's own bus,
//! which is in [`crate::store`].

use crate::{
    Fut,
    id::WorkloadName,
    store::{Bus, BusError},
};
use std::{fmt, sync::Arc};

/// Connections to NATS for guests.
pub trait Messaging: fmt::Debug + Send + Sync + 'static {
    /// The bus of a workload's guests. Fails where NATS is out of reach. Who holds it keeps the connection.
    fn open(&self, workload: &WorkloadName) -> Fut<'_, Result<Arc<dyn Bus>, BusError>>;
}

/// Where there is no NATS for guests.
#[derive(Debug, Clone, Copy)]
pub struct NoMessaging;

impl Messaging for NoMessaging {
    fn open(&self, _: &WorkloadName) -> Fut<'_, Result<Arc<dyn Bus>, BusError>> {
        Box::pin(std::future::ready(Err(BusError::Disconnected("this node has none for guests".into()))))
    }
}
