//! What is looked at once in a while, so that no request has to: whether NATS is there, what other nodes report of their
//! load, and which nodes no route leads to any more; and who is told that requests wait.

use crate::{Inner, headers::DISCONNECTED};
use http::{HeaderMap, HeaderValue};
use lattice::{
    demand::Demand,
    id::{NodeId, WorkloadName},
    report::{NodeReport, Reports},
    store::Connection,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(500);
/// Every so many of them, what is not needed any more is forgotten.
const FORGET_EVERY: u64 = 20;

#[derive(Default)]
pub(crate) struct Surroundings {
    reports: OnceLock<Arc<dyn Reports>>,
    demand: OnceLock<Arc<dyn Demand>>,
    /// Milliseconds on the router's clock at which NATS was first missed, and one; 0 while it is there.
    lost_at: AtomicU64,
}

impl Surroundings {
    pub(crate) fn heed(&self, reports: Arc<dyn Reports>) {
        let _ = self.reports.set(reports);
    }

    pub(crate) fn tell(&self, demand: Arc<dyn Demand>) {
        let _ = self.demand.set(demand);
    }

    /// A request found nobody who would take it.
    pub(crate) fn awaited(&self, workload: &WorkloadName) {
        if let Some(demand) = self.demand.get() {
            demand.awaited(workload);
        }
    }

    /// Tell whoever asked that this node is on its own, if it is.
    pub(crate) fn say(&self, headers: &mut HeaderMap, now: impl FnOnce() -> Duration) {
        let lost_at = self.lost_at.load(Relaxed);
        if lost_at > 0 {
            let since = now().saturating_sub(Duration::from_millis(lost_at - 1));
            headers.insert(DISCONNECTED, HeaderValue::from(since.as_secs()));
        }
    }

    pub(crate) fn look(&self, connection: Connection, now: Duration) {
        match connection {
            Connection::Up => self.lost_at.store(0, Relaxed),
            Connection::Down => {
                let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
                let _ = self.lost_at.compare_exchange(0, now, Relaxed, Relaxed);
            }
        }
    }
}

/// Ends with the router.
pub(crate) async fn watch(router: Weak<Inner>) {
    let mut known = BTreeMap::<NodeId, Arc<NodeReport>>::new();
    for look in 1_u64.. {
        let Some(sleep) = router.upgrade().map(|router| router.clock.sleep(EVERY)) else { return };
        sleep.await;
        let Some(router) = router.upgrade() else { return };
        let now = router.clock.now();
        router.surroundings.look(router.remote.connection(), now);
        if let Some(reports) = router.surroundings.reports.get() {
            let latest = reports.latest().into_iter().map(|report| (report.node.clone(), report));
            let latest: BTreeMap<_, _> = latest.filter(|(node, _)| *node != router.options.node).collect();
            let is_known = |node, report| known.get(node).is_some_and(|known| Arc::ptr_eq(known, report));
            let news = latest.iter().filter(|(node, report)| !is_known(node, report));
            news.for_each(|(_, report)| router.peers.hear(report, now));
            known = latest;
        }
        if look % FORGET_EVERY == 0 {
            router.peers.retain(&router.table.load());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_since_when_nats_is_missed() {
        let surroundings = Surroundings::default();
        let said = |at: u64| {
            let mut headers = HeaderMap::new();
            surroundings.say(&mut headers, || Duration::from_secs(at));
            headers.get(DISCONNECTED).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(said(0), None);
        for at in [0, 5] {
            surroundings.look(Connection::Down, Duration::from_secs(at));
        }
        assert_eq!((said(0).as_deref(), said(12).as_deref()), (Some("0"), Some("12")));
        surroundings.look(Connection::Up, Duration::from_secs(20));
        assert_eq!(said(20), None);
    }
}
