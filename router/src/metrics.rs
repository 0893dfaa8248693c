//! What the router counts. Labels take values from specs and from closed sets only, never from a request, so that a
//! client can't make new series.

use crate::body::lock;
use http::StatusCode;
use lattice::{frame::ResetCode, id::WorkloadName};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

/// Where a request was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    Local,
    Remote,
    /// By the router itself.
    None,
}

impl Path {
    fn label(self) -> &'static str {
        match self {
            Path::Local => "local",
            Path::Remote => "remote",
            Path::None => "none",
        }
    }
}

const STATUSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    /// Empty where no route was found.
    workload: String,
    /// One of [`STATUSES`].
    status: &'static str,
    /// Of a [`Path`].
    path: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PathLabels {
    path: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    code: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    requests: Family<RequestLabels, Counter>,
    duration: Family<PathLabels, Histogram, fn() -> Histogram>,
    resets: Family<CodeLabels, Counter>,
    /// Workloads that have series. Held while a series is made or removed, so that none is left behind.
    counted: Arc<Mutex<BTreeSet<WorkloadName>>>,
    pub(crate) in_flight: Gauge,
    pub(crate) retries: Counter,
    pub(crate) connections: Gauge,
    pub(crate) peer_exchanges: Gauge,
}

/// Seconds: from an instance that is warm and here to the longest default limit.
const BUCKETS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("lattice_router");
        let metrics = Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            resets: Family::default(),
            counted: Arc::default(),
            in_flight: Gauge::default(),
            retries: Counter::default(),
            connections: Gauge::default(),
            peer_exchanges: Gauge::default(),
        };
        registry.register("requests", "Requests answered", metrics.requests.clone());
        registry.register(
            "duration_seconds",
            "Time from a request's head to its response's head",
            metrics.duration.clone(),
        );
        registry.register("peer_resets", "Exchanges with other nodes that failed, by code", metrics.resets.clone());
        registry.register("in_flight", "Requests taken and not yet answered in full", metrics.in_flight.clone());
        registry.register("retries", "Requests sent to another node after a first one", metrics.retries.clone());
        registry.register("connections", "Open client connections", metrics.connections.clone());
        registry.register(
            "peer_exchanges",
            "Requests of other nodes that instances here are answering",
            metrics.peer_exchanges.clone(),
        );
        metrics
    }

    pub(crate) fn count_request(
        &self,
        workload: Option<&WorkloadName>,
        status: StatusCode,
        path: Path,
        duration: Duration,
    ) {
        let path = path.label();
        let [first, second, third, fourth, other] = STATUSES;
        let status = match status.as_u16() / 100 {
            1 => first,
            2 => second,
            3 => third,
            4 => fourth,
            _ => other,
        };
        let labels = RequestLabels { workload: workload.map(ToString::to_string).unwrap_or_default(), status, path };
        let mut counted = lock(&self.counted);
        if let Some(workload) = workload
            && !counted.contains(workload)
        {
            counted.insert(workload.clone());
        }
        self.requests.get_or_create(&labels).inc();
        drop(counted);
        self.duration.get_or_create(&PathLabels { path }).observe(duration.as_secs_f64());
    }

    /// Forget the series of all other workloads. A request that is answered after its workload is gone makes one again,
    /// until the next call.
    pub(crate) fn retain_workloads(&self, workloads: &BTreeSet<&WorkloadName>) {
        lock(&self.counted).retain(|workload| {
            let stays = workloads.contains(workload);
            if !stays {
                for status in STATUSES {
                    for path in [Path::Local, Path::Remote, Path::None] {
                        let (workload, path) = (workload.to_string(), path.label());
                        self.requests.remove(&RequestLabels { workload, status, path });
                    }
                }
            }
            stays
        });
    }

    pub(crate) fn count_reset(&self, code: ResetCode) {
        self.resets.get_or_create(&CodeLabels { code: code.to_string() }).inc();
    }
}

/// A gauge that is one higher while this lives.
#[derive(Debug)]
pub(crate) struct Up(Gauge);

impl Up {
    pub(crate) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.0.dec();
    }
}
