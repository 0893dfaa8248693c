//! What the router counts. Labels take values from specs and from closed sets only, never from a request, so that a
//! client can't make new series. What is counted of each route is in `routes.rs`.

pub(crate) mod conventions;
mod ejections;
mod routes;

pub(crate) use ejections::Where;
pub(crate) use routes::UnderWay;

use conventions::Conventions;
use ejections::Ejections;
use http::StatusCode;
use lattice::{frame::ResetCode, id::WorkloadName};
use lattice_route_table::Change;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use routes::{RouteCounts, Routes};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

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

    pub(crate) fn label(self) -> &'static str {
        match self {
            Path::Local => "local",
            Path::Remote => "remote",
            Path::None => "none",
        }
    }
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
    routes: Routes,
    /// Where that is asked for.
    pub(crate) conventions: Option<Conventions>,
    ejections: Ejections,
    resets: Family<CodeLabels, Counter>,
    pub(crate) in_flight: Gauge,
    pub(crate) connections: Gauge,
    handshakes: Family<OutcomeLabels, Counter>,
    reloads: Family<OutcomeLabels, Counter>,
    pub(crate) certificates_expire: Gauge,
    pub(crate) slow_readers: Counter,
    pub(crate) slow_writers: Counter,
    pub(crate) peer_exchanges: Gauge,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("lattice_router");
        let metrics = Self {
            routes: Routes::register(registry),
            conventions: None,
            ejections: Ejections::register(registry),
            resets: Family::default(),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            handshakes: Family::default(),
            reloads: Family::default(),
            certificates_expire: Gauge::default(),
            slow_readers: Counter::default(),
            slow_writers: Counter::default(),
            peer_exchanges: Gauge::default(),
        };
        registry.register("peer_resets", "Exchanges with other nodes that failed, by code", metrics.resets.clone());
        registry.register("in_flight", "Requests taken and not yet answered in full", metrics.in_flight.clone());
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

    /// Count requests of clients as the semantic conventions want it, too.
    pub(crate) fn with_conventions(self, registry: &mut Registry) -> Self {
        Self { conventions: Some(Conventions::register(&self.routes, registry)), ..self }
    }

    /// One more request of a route, and where it is counted.
    pub(crate) fn under_way(&self, workload: &WorkloadName, route: &Arc<str>) -> UnderWay {
        UnderWay::new(self.routes.counts(workload, route))
    }

    /// `counts` is that of the route, if there was one.
    pub(crate) fn count_request(
        &self,
        counts: Option<&Arc<RouteCounts>>,
        status: StatusCode,
        path: Path,
        duration: Duration,
    ) {
        self.routes.count_request(counts, status, path, duration);
    }

    /// Forget the series of all other routes. A request that is answered after its route is gone is counted nowhere.
    pub(crate) fn retain_routes(&self, routes: &BTreeSet<(&WorkloadName, &str)>) {
        self.routes.retain(routes);
    }

    /// A node is left out, or back. `ejected`: how many are now.
    pub(crate) fn note_ejection(&self, workload: &WorkloadName, place: Where, change: Change, ejected: usize) {
        self.ejections.note(workload, place, change, ejected);
    }

    /// How many are left out, here and elsewhere.
    pub(crate) fn set_ejected(&self, workload: &WorkloadName, ejected: [usize; 2]) {
        self.ejections.set(workload, ejected);
    }

    pub(crate) fn retain_ejections(&self, stays: impl Fn(&WorkloadName) -> bool) {
        self.ejections.retain(stays);
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
