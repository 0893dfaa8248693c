//! What is counted of each route. A request finds its series without labels, locks or hashing; they are made when they are
//! first needed, and go with their route.

use super::{
    Path,
    conventions::{self, DurationLabels, Series},
};
use crate::body::lock;
use arc_swap::ArcSwap;
use http::StatusCode;
use lattice::id::WorkloadName;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

const STATUSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// Seconds: from an instance that is warm and here to the longest default limit.
const BUCKETS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Empty where no route was found.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    workload: String,
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PathLabels {
    workload: String,
    route: String,
    /// Of a [`Path`].
    path: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    workload: String,
    route: String,
    /// One of [`STATUSES`].
    status: &'static str,
    path: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;
type ByRoute = BTreeMap<WorkloadName, BTreeMap<Arc<str>, Arc<RouteCounts>>>;

#[derive(Debug, Clone)]
pub(crate) struct Routes {
    families: Families,
    counts: Arc<ArcSwap<ByRoute>>,
    /// Of requests that found no route.
    unrouted: Arc<RouteCounts>,
    /// Held while series are made or removed, so that none is left behind.
    changing: Arc<Mutex<()>>,
}

#[derive(Debug, Clone)]
struct Families {
    requests: Family<RequestLabels, Counter>,
    durations: Histograms<PathLabels>,
    waits: Histograms<RouteLabels>,
    in_flight: Family<RouteLabels, Gauge>,
    retries: Family<RouteLabels, Counter>,
    request_bytes: Family<RouteLabels, Counter>,
    response_bytes: Family<RouteLabels, Counter>,
    conventional: Histograms<DurationLabels>,
}

/// The series of one route.
#[derive(Debug)]
pub(crate) struct RouteCounts {
    labels: RouteLabels,
    requests: [[OnceLock<Counter>; Path::ALL.len()]; STATUSES.len()],
    durations: [OnceLock<Histogram>; Path::ALL.len()],
    /// Of requests that waited for an instance to be ready.
    pub(crate) waits: Histogram,
    pub(crate) in_flight: Gauge,
    /// The same of all routes of the workload. No series, but what its requests are bounded by.
    pub(crate) of_workload: Gauge,
    pub(crate) retries: Counter,
    pub(crate) request_bytes: Counter,
    pub(crate) response_bytes: Counter,
    /// Durations as the semantic conventions have them. Locked before [`Routes::changing`].
    conventional: Mutex<BTreeMap<Series, (DurationLabels, Histogram)>>,
}

/// A request of a route. Among those under way until it is ended or dropped.
#[derive(Debug)]
pub(crate) struct UnderWay {
    counts: Arc<RouteCounts>,
    has_ended: bool,
}

impl UnderWay {
    pub(super) fn new(counts: Arc<RouteCounts>) -> Self {
        counts.in_flight.inc();
        counts.of_workload.inc();
        Self { counts, has_ended: false }
    }

    pub(crate) fn end(&mut self) {
        if !std::mem::replace(&mut self.has_ended, true) {
            self.counts.in_flight.dec();
            self.counts.of_workload.dec();
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.end();
    }
}

impl Deref for UnderWay {
    type Target = Arc<RouteCounts>;

    fn deref(&self) -> &Arc<RouteCounts> {
        &self.counts
    }
}

impl Routes {
    /// In a registry whose prefix is the router's.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(BUCKETS);
        let conventional: fn() -> Histogram = || Histogram::new(conventions::BUCKETS);
        let families = Families {
            requests: Family::default(),
            durations: Family::new_with_constructor(histogram),
            waits: Family::new_with_constructor(histogram),
            in_flight: Family::default(),
            retries: Family::default(),
            request_bytes: Family::default(),
            response_bytes: Family::default(),
            conventional: Family::new_with_constructor(conventional),
        };
        let Families { requests, durations, waits, in_flight, retries, request_bytes, response_bytes, .. } =
            families.clone();
        registry.register("requests", "Requests answered", requests);
        registry.register("duration_seconds", "Time from a request's head to its response's head", durations);
        registry.register(
            "wait_seconds",
            "Time that requests waited for an instance to be ready, where there was none",
            waits,
        );
        registry.register("route_in_flight", "Requests of a route that are not yet answered in full", in_flight);
        registry.register("retries", "Requests sent to another node after a first one", retries);
        registry.register("request_bytes", "Bytes of request bodies", request_bytes);
        registry.register("response_bytes", "Bytes of response bodies", response_bytes);
        let none = RouteLabels { workload: String::new(), route: String::new() };
        let unrouted = Arc::new(RouteCounts::unregistered(none));
        Self { families, counts: Arc::default(), unrouted, changing: Arc::default() }
    }

    /// In a registry without a prefix.
    pub(super) fn register_conventions(&self, registry: &mut Registry) {
        registry.register(
            "http_server_request_duration_seconds",
            "Time from a request's head to the end of its response",
            self.families.conventional.clone(),
        );
    }

    pub(super) fn counts(&self, workload: &WorkloadName, route: &Arc<str>) -> Arc<RouteCounts> {
        let find = |known: &ByRoute| known.get(workload)?.get(route).cloned();
        if let Some(counts) = find(&self.counts.load()) {
            return counts;
        }
        let _changing = lock(&self.changing);
        let mut counts = ByRoute::clone(&self.counts.load());
        let of_workload = counts.entry(workload.clone()).or_default();
        let in_flight = of_workload.values().next().map(|known| known.of_workload.clone()).unwrap_or_default();
        let new = || Arc::new(self.families.counts(workload, route, in_flight));
        let found = of_workload.entry(route.clone()).or_insert_with(new).clone();
        self.counts.store(Arc::new(counts));
        found
    }

    pub(super) fn count_request(
        &self,
        counts: Option<&Arc<RouteCounts>>,
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
            let labels = || {
                let RouteLabels { workload, route } = counts.labels.clone();
                let status = STATUSES.get(class).copied().unwrap_or_default();
                RequestLabels { workload, route, status, path: path.label() }
            };
            counter.get_or_init(|| self.series(counts, &self.families.requests, labels)).inc();
        }
        if let Some(histogram) = counts.durations.get(path as usize) {
            let labels = || counts.labels.with_path(path);
            let histogram = histogram.get_or_init(|| self.series(counts, &self.families.durations, labels));
            histogram.observe(duration.as_secs_f64());
        }
    }

    /// A request is over. `path` is that of the route.
    pub(super) fn observe(&self, counts: Option<&Arc<RouteCounts>>, series: Series, path: &str, duration: Duration) {
        let counts = counts.unwrap_or(&self.unrouted);
        let mut known = lock(&counts.conventional);
        let has_room = known.len() < conventions::SERIES_MAX || known.contains_key(&series);
        let series = if has_room { series } else { Series::overflow() };
        let (_, histogram) = known.entry(series).or_insert_with(|| {
            let RouteLabels { workload, route } = counts.labels.clone();
            let labels = DurationLabels {
                lattice_workload: workload,
                lattice_route: route,
                http_route: path.to_owned(),
                series,
            };
            let histogram = self.series(counts, &self.families.conventional, || labels.clone());
            (labels, histogram)
        });
        histogram.observe(duration.as_secs_f64());
    }

    /// A series of a route; one that nobody sees where the route went meanwhile.
    fn series<L, M, C>(&self, counts: &Arc<RouteCounts>, family: &Family<L, M, C>, labels: impl FnOnce() -> L) -> M
    where
        L: Clone + std::hash::Hash + Eq,
        M: Clone,
        C: prometheus_client::metrics::family::MetricConstructor<M>,
    {
        let _changing = lock(&self.changing);
        let known = self.counts.load();
        let is_known = known.values().flat_map(BTreeMap::values).any(|known| Arc::ptr_eq(known, counts));
        let labels = labels();
        let series = family.get_or_create_owned(&labels);
        if !is_known && !Arc::ptr_eq(counts, &self.unrouted) {
            family.remove(&labels);
        }
        series
    }

    pub(super) fn retain(&self, routes: &BTreeSet<(&WorkloadName, &str)>) {
        let changing = lock(&self.changing);
        let mut counts = ByRoute::clone(&self.counts.load());
        let mut gone = Vec::new();
        for (workload, of_workload) in &mut counts {
            of_workload.retain(|route, counts| {
                let stays = routes.contains(&(workload, route));
                if !stays {
                    gone.push(counts.clone());
                }
                stays
            });
        }
        if gone.is_empty() {
            return;
        }
        counts.retain(|_, of_workload| !of_workload.is_empty());
        self.counts.store(Arc::new(counts));
        for counts in &gone {
            self.families.remove(&counts.labels);
        }
        drop(changing);
        for (labels, _) in gone.iter().flat_map(|counts| std::mem::take(&mut *lock(&counts.conventional)).into_values())
        {
            self.families.conventional.remove(&labels);
        }
    }
}

impl Families {
    fn counts(&self, workload: &WorkloadName, route: &Arc<str>, of_workload: Gauge) -> RouteCounts {
        let labels = RouteLabels { workload: workload.to_string(), route: route.to_string() };
        RouteCounts {
            requests: Default::default(),
            durations: Default::default(),
            waits: self.waits.get_or_create_owned(&labels),
            in_flight: self.in_flight.get_or_create_owned(&labels),
            of_workload,
            retries: self.retries.get_or_create_owned(&labels),
            request_bytes: self.request_bytes.get_or_create_owned(&labels),
            response_bytes: self.response_bytes.get_or_create_owned(&labels),
            conventional: Mutex::default(),
            labels,
        }
    }

    fn remove(&self, labels: &RouteLabels) {
        for path in Path::ALL {
            let RouteLabels { workload, route } = labels.clone();
            self.durations.remove(&labels.with_path(path));
            for status in STATUSES {
                let (workload, route) = (workload.clone(), route.clone());
                self.requests.remove(&RequestLabels { workload, route, status, path: path.label() });
            }
        }
        self.waits.remove(labels);
        self.in_flight.remove(labels);
        for family in [&self.retries, &self.request_bytes, &self.response_bytes] {
            family.remove(labels);
        }
    }
}

impl RouteLabels {
    fn with_path(&self, path: Path) -> PathLabels {
        PathLabels { workload: self.workload.clone(), route: self.route.clone(), path: path.label() }
    }
}

impl RouteCounts {
    fn unregistered(labels: RouteLabels) -> Self {
        Self {
            labels,
            requests: Default::default(),
            durations: Default::default(),
            waits: Histogram::new(BUCKETS),
            in_flight: Gauge::default(),
            of_workload: Gauge::default(),
            retries: Counter::default(),
            request_bytes: Counter::default(),
            response_bytes: Counter::default(),
            conventional: Mutex::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;

    #[test]
    fn series_go_with_their_route() {
        let mut registry = Registry::default();
        let routes = Routes::register(&mut registry);
        let shop: WorkloadName = "shop".parse().unwrap();
        let (stays, goes): (Arc<str>, Arc<str>) = ("a.test/".into(), "b.test/".into());
        let text = || {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text
        };
        let count = |counts: Option<&Arc<RouteCounts>>| {
            routes.count_request(counts, StatusCode::OK, Path::Local, Duration::from_millis(3));
        };
        let (kept, gone) = (routes.counts(&shop, &stays), routes.counts(&shop, &goes));
        gone.retries.inc();
        count(Some(&kept));
        count(Some(&gone));
        count(None);
        let line = |route: &str| {
            format!("requests_total{{workload=\"shop\",route=\"{route}\",status=\"2xx\",path=\"local\"}} 1")
        };
        assert!(text().contains(&line("a.test/")) && text().contains(&line("b.test/")), "{}", text());
        assert!(text().contains("duration_seconds_count{workload=\"\",route=\"\",path=\"local\"} 1"), "{}", text());

        routes.retain(&[(&shop, &*stays)].into());
        // One that was on its way.
        routes.count_request(Some(&gone), StatusCode::NOT_FOUND, Path::Local, Duration::ZERO);
        assert!(text().contains(&line("a.test/")) && !text().contains("b.test/"), "{}", text());
        assert!(Arc::ptr_eq(&kept, &routes.counts(&shop, &stays)));
    }

    #[test]
    fn series_of_the_conventions_are_bounded_and_go_with_their_route() {
        let mut registry = Registry::default();
        let metrics = super::super::Metrics::register(&mut registry).with_conventions(&mut registry);
        let conventions = metrics.conventions.clone().unwrap();
        let shop: WorkloadName = "shop".parse().unwrap();
        let route: Arc<str> = "a.test/x".into();
        let text = || {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text
        };
        let get = || conventions.begin(&http::Method::GET, "http", http::Version::HTTP_11);
        let under_way = metrics.under_way(&shop, &route);
        for status in 200..300 {
            let mut request = get();
            request.routed("/x");
            request.end(Some(&*under_way), Some(status), None, Duration::from_millis(30));
        }
        get().end(None, Some(404), Some("no-route"), Duration::ZERO);
        let known = text();
        let of_route: Vec<&str> = known
            .lines()
            .filter(|line| line.starts_with("http_server_request_duration_seconds_count{lattice_workload=\"shop\""))
            .collect();
        assert_eq!(of_route.len(), conventions::SERIES_MAX + 1, "{known}");
        let overflow = of_route.iter().find(|line| line.contains("otel_metric_overflow=\"true\"")).unwrap();
        assert!(overflow.ends_with("} 36") && overflow.contains("http_request_method=\"\""), "{overflow}");
        let one = "lattice_route=\"a.test/x\",http_route=\"/x\",http_request_method=\"GET\",url_scheme=\"http\",network_protocol_version=\"1.1\",http_response_status_code=\"200\",error_type=\"\",otel_metric_overflow=\"\"} 1";
        assert!(known.contains(one), "{known}");
        let active = "http_server_active_requests{http_request_method=\"GET\",url_scheme=\"http\"}";
        assert!(known.contains(&format!("{active} 0")), "{known}");
        let open = get();
        assert!(text().contains(&format!("{active} 1")), "{}", text());

        metrics.retain_routes(&BTreeSet::new());
        // One that was on its way.
        open.end(Some(&*under_way), Some(200), None, Duration::ZERO);
        let left = text();
        assert!(
            !left.contains("shop") && left.contains("error_type=\"no-route\",otel_metric_overflow=\"\"} 1"),
            "{left}"
        );
    }
}
