//! What a node is told of messages for workloads: how many wait at consumers, as long as it is connected.

use crate::{
    network::{Link, Wire},
    traffic::Traffic,
};
use lattice::{
    Fut,
    account::Login,
    messaging::{BacklogError, Messaging, NoMessaging, Subscription},
    spec::PendingTarget,
    store::{Bus, BusError},
};
use std::{fmt, sync::Arc, time::Duration};
use tokio::time::sleep;

const ROUND_TRIP: Duration = Duration::from_millis(2);
/// For an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct StubMessaging {
    pub(crate) wire: Wire,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) traffic: Traffic,
}

impl fmt::Debug for StubMessaging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StubMessaging").finish_non_exhaustive()
    }
}

impl Messaging for StubMessaging {
    fn open(&self, _: &Login) -> Fut<'_, Result<Arc<dyn Bus>, BusError>> {
        Box::pin(std::future::ready(Ok(self.bus.clone())))
    }

    /// Nobody handles messages here.
    fn subscribe(&self, login: &Login, subject: &str, group: &str) -> Fut<'_, Result<Box<dyn Subscription>, BusError>> {
        NoMessaging.subscribe(login, subject, group)
    }

    fn pending(&self, login: &Login, consumer: &PendingTarget) -> Fut<'_, Result<u64, BacklogError>> {
        let (workload, PendingTarget { stream, consumer, .. }) = (login.workload.clone(), consumer.clone());
        Box::pin(async move {
            sleep(ROUND_TRIP).await;
            if self.wire.link() != Link::Up {
                sleep(TIMEOUT).await;
                return Err(BacklogError::Unknown { stream, consumer, why: "no answer in time".into() });
            }
            Ok(self.traffic.pending(&workload))
        })
    }
}
