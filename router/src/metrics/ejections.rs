//! What is counted of nodes that are left out because their answers fail. A workload of which none ever was has no series.

use crate::body::lock;
use lattice::id::WorkloadName;
use lattice_route_table::Change;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

/// Whose instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Where {
    /// Of this node.
    Here,
    /// Of another one.
    Elsewhere,
}

impl Where {
    const ALL: [Where; 2] = [Where::Here, Where::Elsewhere];

    fn label(self) -> &'static str {
        match self {
            Where::Here => "here",
            Where::Elsewhere => "elsewhere",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    workload: String,
    place: &'static str,
}

#[derive(Debug, Clone)]
pub(super) struct Ejections {
    count: Family<Labels, Counter>,
    now: Family<Labels, Gauge>,
    /// Those that have series.
    known: Arc<Mutex<BTreeSet<WorkloadName>>>,
}

impl Ejections {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let ejections = Self { count: Family::default(), now: Family::default(), known: Arc::default() };
        registry.register(
            "ejections",
            "Times that a node was left out, since its answers failed",
            ejections.count.clone(),
        );
        registry.register("ejected", "Nodes that are left out", ejections.now.clone());
        ejections
    }

    pub(super) fn note(&self, workload: &WorkloadName, place: Where, change: Change, ejected: usize) {
        lock(&self.known).insert(workload.clone());
        let labels = Labels { workload: workload.to_string(), place: place.label() };
        if change == Change::Ejected {
            self.count.get_or_create(&labels).inc();
        }
        self.now.get_or_create(&labels).set(i64::try_from(ejected).unwrap_or(i64::MAX));
    }

    pub(super) fn set(&self, workload: &WorkloadName, ejected: [usize; 2]) {
        if !lock(&self.known).contains(workload) {
            return;
        }
        for (place, ejected) in Where::ALL.into_iter().zip(ejected) {
            let labels = Labels { workload: workload.to_string(), place: place.label() };
            self.now.get_or_create(&labels).set(i64::try_from(ejected).unwrap_or(i64::MAX));
        }
    }

    pub(super) fn retain(&self, stays: impl Fn(&WorkloadName) -> bool) {
        lock(&self.known).retain(|workload| {
            let stays = stays(workload);
            for place in Where::ALL.into_iter().filter(|_| !stays) {
                let labels = Labels { workload: workload.to_string(), place: place.label() };
                self.count.remove(&labels);
                self.now.remove(&labels);
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;

    #[test]
    fn series_are_those_of_workloads_that_had_one() {
        let mut registry = Registry::default();
        let ejections = Ejections::register(&mut registry);
        let text = || {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text
        };
        let shop: WorkloadName = "shop".parse().unwrap();
        ejections.set(&shop, [0, 0]);
        assert!(!text().contains("shop"), "{}", text());
        ejections.note(&shop, Where::Elsewhere, Change::Ejected, 2);
        ejections.note(&shop, Where::Elsewhere, Change::Returned, 1);
        assert!(text().contains("ejections_total{workload=\"shop\",place=\"elsewhere\"} 1"), "{}", text());
        assert!(text().contains("ejected{workload=\"shop\",place=\"elsewhere\"} 1"), "{}", text());
        ejections.set(&shop, [1, 0]);
        assert!(text().contains("ejected{workload=\"shop\",place=\"here\"} 1"), "{}", text());
        ejections.retain(|_| false);
        assert!(!text().contains("shop"), "{}", text());
    }
}
