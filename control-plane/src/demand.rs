//! Workloads that requests of this node wait for. Many requests are one entry: what follows from them is the same.

use lattice::{
    demand::Demand,
    id::WorkloadName,
    store::{Clock, Platform},
    view::LatticeView,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{Notify, watch};

/// After so long without a word nobody waits any more. The router says it about every second.
const FORGOTTEN: Duration = Duration::from_secs(3);

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Awaited {
    clock: Arc<dyn Clock>,
    view: watch::Receiver<Arc<LatticeView>>,
    /// When it was said last. Workloads of the view that scale themselves only, so there are never more.
    said: Arc<Mutex<BTreeMap<WorkloadName, Duration>>>,
    news: Arc<Notify>,
}

impl Awaited {
    pub(crate) fn new(platform: &Platform, view: watch::Receiver<Arc<LatticeView>>) -> Self {
        Self { clock: platform.clock.clone(), view, said: Arc::default(), news: Arc::default() }
    }

    fn said(&self) -> MutexGuard<'_, BTreeMap<WorkloadName, Duration>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that requests wait for now.
    pub(crate) fn now(&self) -> BTreeSet<WorkloadName> {
        let now = self.clock.now();
        let mut said = self.said();
        said.retain(|_, at| now.saturating_sub(*at) < FORGOTTEN);
        said.keys().cloned().collect()
    }

    /// Resolves when another workload is waited for than at the last call.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }
}

impl Demand for Awaited {
    fn awaited(&self, workload: &WorkloadName) {
        let scales =
            |view: &LatticeView| view.specs.get(workload).is_some_and(|spec| spec.record.spec.autoscale.is_some());
        if scales(&self.view.borrow()) && self.said().insert(workload.clone(), self.clock.now()).is_none() {
            self.news.notify_one();
        }
    }
}
