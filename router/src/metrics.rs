//! What the router counts. Labels take values from specs and from closed sets only, never from a request, so that a
//! client can't make new series.

use crate::body::lock;
use arc_swap::ArcSwap;
use http::StatusCode;
use lattice::{frame::ResetCode, id::WorkloadName};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, OnceLock},
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
    const ALL: [Path; 3] = [Path::Local, Path::Remote, Path::None];

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

/// How a TLS handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handshake {
    Done,
    Failed,
    /// Not within the time for a first head.
    Late,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    requests: Family<RequestLabels, Counter>,
    durations: [Histogram; Path::ALL.len()],
    resets: Family<CodeLabels, Counter>,
    /// Series of workloads: a request finds its own without labels, locks or hashing.
    counts: Arc<ArcSwap<BTreeMap<WorkloadName, Arc<Counts>>>>,
    /// Of requests that found no route.
    unrouted: Arc<Counts>,
    /// Held while series are made or removed, so that none is left behind.
    changing: Arc<Mutex<()>>,
    pub(crate) in_flight: Gauge,
    pub(crate) retries: Counter,
    pub(crate) connections: Gauge,
    handshakes: Family<OutcomeLabels, Counter>,
    reloads: Family<OutcomeLabels, Counter>,
    pub(crate) certificates_expire: Gauge,
    pub(crate) slow_readers: Counter,
    pub(crate) slow_writers: Counter,
    pub(crate) peer_exchanges: Gauge,
}

/// The series of one workload, each made when it is first needed.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Empty where no route was found.
    workload: String,
    requests: [[OnceLock<Counter>; Path::ALL.len()]; STATUSES.len()],
}

/// Seconds: from an instance that is warm and here to the longest default limit.
const BUCKETS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("lattice_router");
        let duration: Family<PathLabels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(BUCKETS));
        let metrics = Self {
            requests: Family::default(),
            durations: Path::ALL.map(|path| duration.get_or_create_owned(&PathLabels { path: path.label() })),
            resets: Family::default(),
            counts: Arc::default(),
            unrouted: Arc::default(),
            changing: Arc::default(),
            in_flight: Gauge::default(),
            retries: Counter::default(),
            connections: Gauge::default(),
            handshakes: Family::default(),
            reloads: Family::default(),
            certificates_expire: Gauge::default(),
            slow_readers: Counter::default(),
            slow_writers: Counter::default(),
            peer_exchanges: Gauge::default(),
        };
        registry.register("requests", "Requests answered", metrics.requests.clone());
        registry.register("duration_seconds", "Time from a request's head to its response's head", duration);
        registry.register("peer_resets", "Exchanges with other nodes that failed, by code", metrics.resets.clone());
        registry.register("in_flight", "Requests taken and not yet answered in full", metrics.in_flight.clone());
        registry.register("retries", "Requests sent to another node after a first one", metrics.retries.clone());
        registry.register("connections", "Open client connections", metrics.connections.clone());
        registry.register("tls_handshakes", "TLS handshakes with clients, by outcome", metrics.handshakes.clone());
        registry.register("certificate_reloads", "Certificates that changed, by outcome", metrics.reloads.clone());
        registry.register(
            "certificates_expire_seconds",
            "When the first of the certificates expires, in Unix time; 0 without TLS",
            metrics.certificates_expire.clone(),
        );
        registry.register(
            "slow_readers",
            "Responses that were given up because their client took nothing of them",
            metrics.slow_readers.clone(),
        );
        registry.register(
            "slow_writers",
            "Requests whose body was given up because it came too slowly",
            metrics.slow_writers.clone(),
        );
        registry.register(
            "peer_exchanges",
            "Requests of other nodes that instances here are answering",
            metrics.peer_exchanges.clone(),
        );
        metrics
    }

    /// Where the requests of a workload are counted.
    pub(crate) fn counts(&self, workload: &WorkloadName) -> Arc<Counts> {
        if let Some(counts) = self.counts.load().get(workload) {
            return counts.clone();
        }
        let _changing = lock(&self.changing);
        let mut counts = BTreeMap::clone(&self.counts.load());
        let new = || Arc::new(Counts { workload: workload.to_string(), ..Counts::default() });
        let found = counts.entry(workload.clone()).or_insert_with(new).clone();
        self.counts.store(Arc::new(counts));
        found
    }

    /// `counts` is that of the workload, if there was a route to one.
    pub(crate) fn count_request(
        &self,
        counts: Option<&Arc<Counts>>,
        status: StatusCode,
        path: Path,
        duration: Duration,
    ) {
        let class = match status.as_u16() / 100 {
            class @ 1..=4 => usize::from(class) - 1,
            _ => STATUSES.len() - 1,
        };
        let counts = counts.unwrap_or(&self.unrouted);
        if let Some(counter) = counts.requests.get(class).and_then(|paths| paths.get(path as usize)) {
            counter.get_or_init(|| self.series(counts, class, path)).inc();
        }
        if let Some(histogram) = self.durations.get(path as usize) {
            histogram.observe(duration.as_secs_f64());
        }
    }

    fn series(&self, counts: &Arc<Counts>, class: usize, path: Path) -> Counter {
        let _changing = lock(&self.changing);
        let is_known = |known: &BTreeMap<_, _>| known.values().any(|known| Arc::ptr_eq(known, counts));
        if !counts.workload.is_empty() && !is_known(&self.counts.load()) {
            return Counter::default(); // its workload went meanwhile
        }
        let Some(labels) = counts.labels(class, path) else { return Counter::default() };
        self.requests.get_or_create_owned(&labels)
    }

    /// Forget the series of all other workloads. A request that is answered after its workload is gone is counted nowhere.
    pub(crate) fn retain_workloads(&self, workloads: &BTreeSet<&WorkloadName>) {
        let _changing = lock(&self.changing);
        let (stay, go): (BTreeMap<_, _>, BTreeMap<_, _>) =
            BTreeMap::clone(&self.counts.load()).into_iter().partition(|(workload, _)| workloads.contains(workload));
        if go.is_empty() {
            return;
        }
        self.counts.store(Arc::new(stay));
        for counts in go.values() {
            for class in 0..STATUSES.len() {
                for labels in Path::ALL.iter().filter_map(|path| counts.labels(class, *path)) {
                    self.requests.remove(&labels);
                }
            }
        }
    }

    pub(crate) fn count_handshake(&self, handshake: Handshake) {
        let outcome = match handshake {
            Handshake::Done => "done",
            Handshake::Failed => "failed",
            Handshake::Late => "late",
        };
        self.handshakes.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    pub(crate) fn count_reload(&self, taken: bool) {
        let outcome = if taken { "taken" } else { "refused" };
        self.reloads.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    pub(crate) fn count_reset(&self, code: ResetCode) {
        self.resets.get_or_create(&CodeLabels { code: code.to_string() }).inc();
    }
}

impl Counts {
    fn labels(&self, class: usize, path: Path) -> Option<RequestLabels> {
        let status = STATUSES.get(class)?;
        Some(RequestLabels { workload: self.workload.clone(), status, path: path.label() })
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
