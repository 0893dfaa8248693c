//! Requests of clients as OpenTelemetry's semantic conventions for HTTP have them counted: under their names and with
//! their attributes, as the text format spells them. Beside our own metrics, for who looks at all servers in the same
//! way, and only where that is asked for. Start at [`Conventions::begin`].

use super::{Up, routes::RouteCounts, routes::Routes};
use http::{Method, Version};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use std::{fmt, sync::Arc, time::Duration};

/// Seconds, as the conventions advise.
pub(super) const BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Of one route: clients choose among methods, and guests answer any status. What is beyond has one series in common.
pub(super) const SERIES_MAX: usize = 64;

/// The methods that the conventions know. Others are a client's words, and as many as it likes.
const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "QUERY"];

/// The method as the conventions name it; none for what they call `_OTHER`.
pub(crate) fn known_method(method: &Method) -> Option<&'static str> {
    METHODS.into_iter().find(|known| *known == method.as_str())
}

/// The version of HTTP as the conventions write it.
pub(crate) fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum ErrorType {
    /// A code of `lattice-error`, `cancelled` or `broken`.
    Code(&'static str),
    /// What a guest answered.
    Status(u16),
}

impl EncodeLabelValue for ErrorType {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        match self {
            ErrorType::Code(code) => EncodeLabelValue::encode(code, encoder),
            ErrorType::Status(status) => EncodeLabelValue::encode(status, encoder),
        }
    }
}

/// What tells the series of one route from each other. Empty is absent.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub(super) struct Series {
    http_request_method: &'static str,
    url_scheme: &'static str,
    network_protocol_version: &'static str,
    http_response_status_code: Option<u16>,
    error_type: Option<ErrorType>,
    otel_metric_overflow: Option<bool>,
}

impl Series {
    /// Stands for all that there is no room for.
    pub(super) fn overflow() -> Self {
        Self { otel_metric_overflow: Some(true), ..Self::default() }
    }
}

/// Of a request's duration. The first two tell routes with the same path from each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DurationLabels {
    pub(super) lattice_workload: String,
    pub(super) lattice_route: String,
    /// The path of the route.
    pub(super) http_route: String,
    #[prometheus(flatten)]
    pub(super) series: Series,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ActiveLabels {
    http_request_method: &'static str,
    url_scheme: &'static str,
}

#[derive(Debug, Clone)]
pub(crate) struct Conventions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    active: Family<ActiveLabels, Gauge>,
    routes: Routes,
}

impl Conventions {
    /// Under names that are not the router's own.
    pub(super) fn register(routes: &Routes, registry: &mut Registry) -> Self {
        routes.register_conventions(registry);
        let active = Family::<ActiveLabels, Gauge>::default();
        registry.register(
            "http_server_active_requests",
            "Requests of clients that are not yet answered in full",
            active.clone(),
        );
        Self(Arc::new(Inner { active, routes: routes.clone() }))
    }

    /// A request of a client, whose head is known.
    pub(crate) fn begin(&self, method: &Method, scheme: &'static str, asked: Version) -> Conventional {
        let method = known_method(method).unwrap_or("_OTHER");
        let active = ActiveLabels { http_request_method: method, url_scheme: scheme };
        let series = Series {
            http_request_method: method,
            url_scheme: scheme,
            network_protocol_version: version(asked),
            ..Series::default()
        };
        let _active = Up::new(&self.0.active.get_or_create_owned(&active));
        Conventional { conventions: self.clone(), series, path: String::new(), _active }
    }
}

/// One request, as long as it is under way.
pub(crate) struct Conventional {
    conventions: Conventions,
    series: Series,
    /// Of its route.
    path: String,
    _active: Up,
}

impl Conventional {
    pub(crate) fn routed(&mut self, path: &str) {
        if self.path != path {
            path.clone_into(&mut self.path);
        }
    }

    /// Its answer is over. `counts` is that of the route, if there was one.
    pub(crate) fn end(
        mut self,
        counts: Option<&Arc<RouteCounts>>,
        status: Option<u16>,
        error: Option<&'static str>,
        duration: Duration,
    ) {
        self.series.http_response_status_code = status;
        self.series.error_type = match (error, status) {
            (Some(code), _) => Some(ErrorType::Code(code)),
            (None, Some(status @ 500..)) => Some(ErrorType::Status(status)),
            (None, _) => None,
        };
        self.conventions.0.routes.observe(counts, self.series, &self.path, duration);
    }
}
