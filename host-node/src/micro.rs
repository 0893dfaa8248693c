//! A replica as an instance of a micro service (ADR-32): it counts what becomes of the requests of its endpoints, and answers who asks what it
//! is. What it says is in [`lattice::micro`]. It must not keep a message from its handler: who counts waits for nobody.

use lattice::{
    account::Login,
    event::rfc3339,
    id::{LatticeId, SlotId},
    messaging::{Messaging, Subscription},
    micro::{EndpointStats, Instance},
    spec::{WorkloadSpec, is_answerable},
    store::{Bus, BusError, Clock, Message},
};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Until the next try to listen.
const AGAIN: Duration = Duration::from_secs(1);

pub(crate) struct Micro {
    instance: Instance,
    endpoints: Vec<Arc<EndpointCounts>>,
}

/// What became of the requests of one endpoint.
#[derive(Default)]
pub(crate) struct EndpointCounts {
    requests: AtomicU64,
    errors: AtomicU64,
    nanos: AtomicU64,
    last_error: Mutex<String>,
}

impl EndpointCounts {
    /// `error`: what its caller was told.
    pub(crate) fn observe(&self, took: Duration, error: Option<&str>) {
        self.requests.fetch_add(1, Relaxed);
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        if let Some(error) = error {
            self.errors.fetch_add(1, Relaxed);
            error.clone_into(&mut self.last_error.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn stats(&self) -> EndpointStats {
        EndpointStats {
            requests: self.requests.load(Relaxed),
            errors: self.errors.load(Relaxed),
            last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            processing: self.nanos.load(Relaxed),
        }
    }
}

impl Micro {
    /// Of one replica, if its workload is a micro service.
    pub(crate) fn of(of: (&LatticeId, &SlotId), spec: &WorkloadSpec, clock: &Arc<dyn Clock>) -> Option<Self> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let instance = Instance::of(of, spec, (id, rfc3339(clock.unix_ms())))?;
        let endpoints = spec.messages.iter().filter(|of| of.endpoint.is_some()).map(|_| Arc::default()).collect();
        Some(Self { instance, endpoints })
    }

    /// Of each endpoint, in the order of the spec's subscriptions.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = Arc<EndpointCounts>> {
        self.endpoints.iter().cloned()
    }

    /// Answer until `stop`.
    pub(crate) async fn serve(
        self,
        messaging: Arc<dyn Messaging>,
        login: Login,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
    ) {
        let serve = async {
            loop {
                // Why it cannot listen its subscriptions of messages have told.
                if let Ok((bus, subscriptions)) = self.listen(&messaging, &login).await {
                    self.answer_all(&bus, subscriptions).await;
                }
                clock.sleep(AGAIN).await;
            }
        };
        stop.run_until_cancelled(serve).await;
    }

    async fn listen(
        &self,
        messaging: &Arc<dyn Messaging>,
        login: &Login,
    ) -> Result<(Arc<dyn Bus>, [Box<dyn Subscription>; 3]), BusError> {
        let bus = messaging.open(login).await?;
        let [all, named, own] = self.instance.subjects();
        // A group of its own: everybody answers.
        let group = self.instance.id.as_str();
        let subscriptions = [
            messaging.subscribe(login, &all, group).await?,
            messaging.subscribe(login, &named, group).await?,
            messaging.subscribe(login, &own, group).await?,
        ];
        Ok((bus, subscriptions))
    }

    /// Until one of them ends.
    async fn answer_all(&self, bus: &Arc<dyn Bus>, [mut all, mut named, mut own]: [Box<dyn Subscription>; 3]) {
        loop {
            let asked = tokio::select! { // cancel-safe: each arm takes one message whole, or nothing
                biased;
                asked = own.next() => asked,
                asked = named.next() => asked,
                asked = all.next() => asked,
            };
            let Some(asked) = asked else { return };
            let Some(subject) = asked.reply.filter(|reply| is_answerable(reply)) else { continue };
            let Some(verb) = Instance::asked(&asked.subject) else { continue };
            let stats: Vec<EndpointStats> = self.endpoints.iter().map(|counts| counts.stats()).collect();
            let payload = self.instance.answer(verb, &stats).into();
            // Who waits gives up in time.
            let _ = bus.publish(Message { subject, payload, ..Message::default() }).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_counted_among_all() {
        let counts = EndpointCounts::default();
        assert_eq!(counts.stats(), EndpointStats::default());
        counts.observe(Duration::from_nanos(7), None);
        counts.observe(Duration::from_nanos(3), Some("500: first"));
        counts.observe(Duration::from_nanos(2), Some("503: second"));
        let expect = EndpointStats { requests: 3, errors: 2, last_error: "503: second".into(), processing: 12 };
        assert_eq!(counts.stats(), expect);
    }
}
