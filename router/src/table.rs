//! Keeps the route table in step with the lattice. Readers take what is current and never wait.

use crate::metrics::Metrics;
use arc_swap::ArcSwap;
use lattice::{id::NodeId, store::Clock, view::LatticeView};
use lattice_route_table::RouteTable;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// Least time between two builds. Each session's renewal is a change of the view: a large lattice has many in a second,
/// and what they change for routes is almost always nothing.
const REBUILD_PAUSE: Duration = Duration::from_millis(20);

pub(crate) struct Table {
    current: Arc<ArcSwap<RouteTable>>,
    changed: watch::Receiver<()>,
    _builder: AbortOnDropHandle<()>,
}

impl Table {
    pub(crate) fn follow(
        node: NodeId,
        view: watch::Receiver<Arc<LatticeView>>,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Self {
        let mut view = view;
        let first = RouteTable::build(&view.borrow_and_update(), &node);
        let current = Arc::new(ArcSwap::from_pointee(first));
        let (tell, changed) = watch::channel(());
        let builder = tokio::spawn(rebuild(node, view, clock, metrics, current.clone(), tell));
        Self { current, changed, _builder: AbortOnDropHandle::new(builder) }
    }

    pub(crate) fn load(&self) -> Arc<RouteTable> {
        self.current.load_full()
    }

    /// Told of every table that came after the first one, so that none is missed between a look and this call.
    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.changed.clone()
    }
}

async fn rebuild(
    node: NodeId,
    mut view: watch::Receiver<Arc<LatticeView>>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    current: Arc<ArcSwap<RouteTable>>,
    tell: watch::Sender<()>,
) {
    // Ends when the view's owner is gone; the last table stays in force.
    while view.changed().await.is_ok() {
        let seen = view.borrow_and_update().clone();
        let table = RouteTable::build(&seen, &node);
        if table != **current.load() {
            for conflict in table.conflicts() {
                let lattice_route_table::Conflict { host, path, holder, refused } = conflict;
                tracing::warn!(%host, %path, %holder, %refused, "two workloads have the same route");
            }
            metrics.retain_routes(&table.routes());
            current.store(Arc::new(table));
            tell.send_replace(());
        }
        clock.sleep(REBUILD_PAUSE).await;
    }
}
