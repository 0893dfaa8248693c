//! Which of the workloads that share a route answers a request. The holder of the route says who they are, so that no
//! workload takes requests from another; and a workload that says who may call it is sent none by others.

use crate::{RouteEntry, RouteState};
use lattice::{
    id::{NodeId, WorkloadName},
    spec::{self, Route},
    view::LatticeView,
};
use std::{sync::Arc, time::Duration};

/// A part of a route's requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// Of a hundred requests. All shares of a route are a hundred together.
    pub percent: u32,
    pub entry: Arc<RouteEntry>,
}

impl RouteEntry {
    /// Where a request goes that took this route. `roll` is a uniform number, the same for requests that are to go the same
    /// way. A share whose workload is not ready, or among those that were tried in vain, leaves its requests to the others; all
    /// other requests go where they went before.
    pub fn share(self: &Arc<Self>, roll: u64, tried: &[WorkloadName]) -> &Arc<RouteEntry> {
        let Some(drawn) = draw(&self.shares, roll % 100, |_| true) else { return self };
        let is_ready = |entry: &RouteEntry| entry.state() == RouteState::Ready && !tried.contains(&entry.workload);
        if is_ready(drawn) {
            return drawn;
        }
        let ready: u32 = self.shares.iter().filter(|share| is_ready(&share.entry)).map(|share| share.percent).sum();
        let instead = (roll / 100).checked_rem(ready.into());
        instead.and_then(|at| draw(&self.shares, at, is_ready)).unwrap_or(drawn)
    }
}

fn draw(shares: &[Share], at: u64, allowed: impl Fn(&RouteEntry) -> bool) -> Option<&Arc<RouteEntry>> {
    let mut left = at;
    let mut allowed = shares.iter().filter(|share| allowed(&share.entry));
    let found = allowed.find(|share| match left.checked_sub(share.percent.into()) {
        Some(rest) => {
            left = rest;
            false
        }
        None => true,
    });
    found.map(|share| &share.entry)
}

/// `holder` is the route's entry without shares.
pub(crate) fn shares(view: &LatticeView, me: &NodeId, route: &Route, holder: &RouteEntry) -> Arc<[Share]> {
    if route.split.is_empty() {
        return Arc::default();
    }
    let others = route.split.iter().filter_map(|spec::Share { workload, percent }| {
        let entry = match view.specs.get(workload) {
            Some(spec) => RouteEntry::of_workload(view, &spec.record, me),
            // Not there: nobody is ready.
            None => {
                let nobody = RouteEntry { local_slots: 0, endpoints: Arc::default(), weights: None, ..holder.clone() };
                RouteEntry { workload: workload.clone(), ..nobody }
            }
        };
        // Not for this one to call: it has no share that any request could take, ready or not.
        if !entry.lets_call(&holder.workload) {
            return None;
        }
        // What the route says holds whoever answers.
        let timeout: Option<Duration> = holder.timeout;
        let body_limit = entry.body_limit.min(holder.body_limit);
        let label = holder.label.clone();
        let entry = RouteEntry { label, timeout, body_limit, rule: holder.rule.clone(), ..entry };
        Some(Share { percent: *percent, entry: Arc::new(entry.with_own_weights()) })
    });
    let others: Vec<Share> = others.collect();
    let given: u32 = others.iter().fold(0, |sum, share| sum.saturating_add(share.percent));
    let own = Share { percent: 100_u32.saturating_sub(given), entry: Arc::new(holder.clone()) };
    [own].into_iter().chain(others).collect()
}
