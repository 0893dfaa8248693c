//! Keeps the route table in step with the lattice. Readers take what is current and never wait.

use crate::metrics::Metrics;
use arc_swap::ArcSwap;
use lattice::{id::NodeId, store::Clock, view::LatticeView};
use lattice_route_table::{RouteTable, reads_alike};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// Least time between two looks at the view. Each session's renewal is a change of it: a large lattice has many in a second,
/// and what they change for routes is almost always nothing.
const REBUILD_PAUSE: Duration = Duration::from_millis(20);
/// Tables of more workloads are built on a thread of their own: building them, and dropping the one before, takes longer
/// than requests of the same thread should wait (a tenth of a second for 10,000 workloads with ten routes each: bench `route`).
const BUILT_AT_ONCE_MAX: usize = 256;

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
        let seen = view.borrow_and_update().clone();
        let current = Arc::new(ArcSwap::from_pointee(RouteTable::build(&seen, &node)));
        let (tell, changed) = watch::channel(());
        let builder = Builder { node, metrics, current: current.clone() };
        let builder = tokio::spawn(rebuild(builder, seen, view, clock, tell));
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
    builder: Builder,
    mut built: Arc<LatticeView>,
    mut view: watch::Receiver<Arc<LatticeView>>,
    clock: Arc<dyn Clock>,
    tell: watch::Sender<()>,
) {
    // Ends when the view's owner is gone; the last table stays in force.
    while view.changed().await.is_ok() {
        let seen = view.borrow_and_update().clone();
        let before = std::mem::replace(&mut built, seen.clone());
        if !reads_alike(&before, &seen) && builder.renew(seen).await {
            tell.send_replace(());
        }
        clock.sleep(REBUILD_PAUSE).await;
    }
}

#[derive(Clone)]
struct Builder {
    node: NodeId,
    metrics: Metrics,
    current: Arc<ArcSwap<RouteTable>>,
}

impl Builder {
    /// Put the table of a view in force. False if it says what the one before said.
    async fn renew(&self, seen: Arc<LatticeView>) -> bool {
        if seen.specs.len() <= BUILT_AT_ONCE_MAX {
            return self.build(&seen);
        }
        let builder = self.clone();
        // It fails where the runtime ends.
        tokio::task::spawn_blocking(move || builder.build(&seen)).await.unwrap_or(false)
    }

    fn build(&self, seen: &LatticeView) -> bool {
        let table = RouteTable::build(seen, &self.node);
        if table == **self.current.load() {
            return false;
        }
        for conflict in table.conflicts() {
            let lattice_route_table::Conflict { host, path, holder, refused } = conflict;
            tracing::warn!(%host, %path, %holder, %refused, "two workloads have the same route");
        }
        self.metrics.retain_routes(&table.routes());
        self.current.store(Arc::new(table));
        true
    }
}
