//! [`lattice::messaging`] over core NATS, on the connection that a workload's guests have for all they do.

use crate::{bus::NatsBus, guests::GuestBuckets};
use lattice::{
    Fut,
    id::WorkloadName,
    messaging::Messaging,
    store::{Bus, BusError},
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
}
