//! New generations for workloads that want changes of their configuration rolled out (`config-update: roll`). Which ones
//! is decided from the view; one node writes, by compare-and-set, and if it is gone another one does.

use crate::{
    given::{outdated, stamps, versions},
    stored,
    this_node::ThisNode,
};
use lattice::{
    event::EventKind,
    record::{Key, Record as _, SpecRecord},
    store::{Bucket, Precondition, StoreError},
    view::{LatticeView, Versioned},
};
use std::time::Duration;

/// How long a write is waited for in the view before it is tried again.
const AGAIN: Duration = Duration::from_secs(1);

pub(crate) struct Roller {
    node: ThisNode,
}

impl Roller {
    pub(crate) fn new(node: ThisNode) -> Self {
        Self { node }
    }

    /// Never returns.
    pub(crate) async fn run(mut self) {
        loop {
            let view = self.node.view.borrow_and_update().clone();
            if self.node.may_write(&view, self.node.platform.clock.now()) {
                for spec in outdated(&view, &self.node.options.node) {
                    self.roll(&view, spec).await;
                }
            }
            let again = self.node.platform.clock.sleep(AGAIN);
            tokio::select! { // cancel-safe: both only wait
                biased;
                changed = self.node.view.changed() => {
                    if changed.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
                () = again => {}
            }
        }
    }

    async fn roll(&self, view: &LatticeView, spec: &Versioned<SpecRecord>) {
        let before = &spec.record;
        let name = &before.spec.name;
        let (configs, now) = (stamps(view, &before.spec), self.node.platform.clock.unix_ms());
        // What is stable from now on follows from it.
        let rollout = match stored::rollout(&self.node.platform, name).await {
            Ok(rollout) => rollout.map(|(rollout, _)| rollout),
            Err(error) => {
                tracing::warn!(workload = %name, %error, "new configuration was not rolled out; trying again");
                return;
            }
        };
        let record = before.next(rollout.as_ref(), before.spec.clone(), before.recipe.clone(), configs, now);
        let key = Key::Spec(name.clone()).to_string();
        match self
            .node
            .platform
            .store
            .write(Bucket::Specs, &key, record.encode(), Precondition::At(spec.revision))
            .await
        {
            Ok(_) => {
                let text = format!("generation {}, for config {}", record.generation, versions(&record.configs));
                self.node.events.send(EventKind::WorkloadAdmitted, name, text).await;
            }
            // The next view shows what is so.
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => {
                tracing::warn!(workload = %name, %error, "new configuration was not rolled out; trying again")
            }
        }
    }
}
