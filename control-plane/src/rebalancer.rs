//! Brings forward what somebody asked to be moved to better places. What the next step is, is decided by
//! [`lattice_planner::rebalance_step`]; one node writes, by compare-and-set, and if it is gone another one does.

use crate::this_node::ThisNode;
use lattice::{
    event::EventKind,
    id::{Revision, WorkloadName},
    record::{Key, Rebalance, Record as _},
    store::{Bucket, Precondition, StoreError},
};
use lattice_planner::{RebalanceStep, deputy, rebalance_step};
use std::time::Duration;

/// Between two looks while something is moved.
const LOOK: Duration = Duration::from_millis(250);
const IDLE: Duration = Duration::from_millis(500);

pub(crate) struct Rebalancer {
    node: ThisNode,
    /// Since when the record has been as it is, as far as this node saw.
    seen: Option<(Revision, Duration)>,
    /// What this node wrote last: it decides nothing before its view shows that.
    wrote: Option<Revision>,
}

impl Rebalancer {
    pub(crate) fn new(node: ThisNode) -> Self {
        Self { node, seen: None, wrote: None }
    }

    /// Never returns.
    pub(crate) async fn run(mut self) {
        loop {
            let wait = self.pass().await;
            self.node.platform.clock.sleep(wait).await;
        }
    }

    async fn pass(&mut self) -> Duration {
        let view = self.node.view.borrow().clone();
        let now = self.node.platform.clock.now();
        let Some(there) = &view.rebalance else {
            self.seen = None;
            return IDLE;
        };
        if self.seen.is_none_or(|(revision, _)| revision != there.revision) {
            self.seen = Some((there.revision, now));
        }
        let lasted = self.seen.map_or(Duration::ZERO, |(_, since)| now.saturating_sub(since));
        let may_write = self.node.may_write(&view, now)
            && self.wrote.is_none_or(|wrote| there.revision >= wrote)
            && WorkloadName::new("rebalance").is_ok_and(|name| deputy(&view, &name) == Some(&self.node.options.node));
        if may_write && let Some(step) = rebalance_step(&view, lasted) {
            self.take(step).await;
        }
        LOOK
    }

    async fn take(&mut self, step: RebalanceStep) {
        let (store, key) = (&self.node.platform.store, Key::Rebalance.to_string());
        let (written, told) = match step {
            RebalanceStep::Put { record, expect } => {
                let record = Rebalance { changed_at: self.node.platform.clock.unix_ms(), ..record };
                (store.write(Bucket::State, &key, record.encode(), Precondition::At(expect)).await, None)
            }
            RebalanceStep::End { expect, why } => (store.delete(Bucket::State, &key, expect).await, Some(why)),
        };
        match written {
            Ok(revision) => {
                self.wrote = Some(revision);
                if let Some(why) = told {
                    self.node.events.send(EventKind::RebalanceEnded, &self.node.options.lattice, why).await;
                }
            }
            Err(StoreError::Conflict { .. }) => tracing::debug!("another node was first, or it was cancelled"),
            Err(error) => tracing::warn!(%error, "a step of a rebalance was not written"),
        }
    }
}
