//! Metrics: what `/metrics` shows, as OTLP. One definition, both exports: the text that a scraper would get is read and
//! written down as messages of OTLP, under the same names, or those of the semantic conventions. Pure but for [`export`],
//! which sends it every so often.

use crate::{client::Client, conventions::Convention, settings::Metrics};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
        ScopeMetrics, Sum, metric, number_data_point,
    },
    resource::v1::Resource,
};
use prost::Message as _;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::MissedTickBehavior;

/// Gives the text of `/metrics`, in the format of OpenMetrics.
pub type Source = Arc<dyn Fn() -> String + Send + Sync>;

/// Sends metrics, now and then.
#[derive(Clone)]
pub(crate) struct Exports {
    client: Client,
    interval: Duration,
    resource: Resource,
    /// Since when sums count, in nanoseconds since 1970.
    start: u64,
}

impl Exports {
    pub(crate) fn new(settings: &Metrics, client: Client, resource: Resource) -> Self {
        Self { client, interval: settings.interval, resource, start: unix_nanos() }
    }

    /// Never returns.
    pub(crate) async fn run(self, source: Source) {
        let mut period = tokio::time::interval(self.interval);
        period.set_missed_tick_behavior(MissedTickBehavior::Delay);
        period.tick().await; // at once: there is nothing to tell yet
        loop {
            period.tick().await;
            self.send(&source).await;
        }
    }

    /// A failure is told by the client; the next message has all that this one had.
    pub(crate) async fn send(&self, source: &Source) {
        let request = request(&source(), self.start, unix_nanos(), self.resource.clone());
        let _ = self.client.post(request.encode_to_vec()).await;
    }
}

fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn request(text: &str, start: u64, now: u64, resource: Resource) -> ExportMetricsServiceRequest {
    let scope = crate::scope();
    let scope = InstrumentationScope {
        name: scope.name().to_owned(),
        version: scope.version().unwrap_or_default().to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_metrics =
        vec![ScopeMetrics { scope: Some(scope), metrics: read(text, start, now), ..Default::default() }];
    let resource_metrics =
        vec![ResourceMetrics { resource: Some(resource), scope_metrics, ..ResourceMetrics::default() }];
    ExportMetricsServiceRequest { resource_metrics }
}

/// A family of the text: what it is, and its samples.
#[derive(Default)]
struct Family<'a> {
    name: &'a str,
    help: String,
    kind: &'a str,
    unit: &'a str,
    numbers: Vec<NumberDataPoint>,
    /// By their labels, which stand as one text in each line.
    histograms: BTreeMap<Vec<(String, String)>, Buckets>,
}

#[derive(Default)]
struct Buckets {
    /// Upper bounds, and how many values are not above; in the order of the text, which is theirs.
    bounds: Vec<(f64, u64)>,
    sum: Option<f64>,
    count: u64,
}

struct Sample<'a> {
    name: &'a str,
    labels: Vec<(String, String)>,
    value: &'a str,
}

/// The metrics of a text. What can't be read is left out.
fn read(text: &str, start: u64, now: u64) -> Vec<Metric> {
    let mut metrics = Vec::new();
    let mut family = Family::default();
    for line in text.lines() {
        if let Some(about) = line.strip_prefix("# ") {
            let mut words = about.splitn(3, ' ');
            let (Some(what), Some(name)) = (words.next(), words.next()) else { continue };
            if name != family.name {
                metrics.extend(std::mem::take(&mut family).into_metric(start, now));
                family.name = name;
            }
            let rest = words.next().unwrap_or_default();
            match what {
                "HELP" => family.help = unescape(rest),
                "TYPE" => family.kind = rest,
                "UNIT" => family.unit = rest,
                _ => {}
            }
        } else if let Some(sample) = Sample::read(line) {
            family.add(sample, start, now);
        }
    }
    metrics.extend(family.into_metric(start, now));
    metrics
}

impl<'a> Sample<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let end = line.find(['{', ' '])?;
        let (name, mut rest) = line.split_at_checked(end)?;
        let mut labels = Vec::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            while !rest.starts_with('}') {
                let (key, value) = rest.split_once("=\"")?;
                let end = end_of_value(value)?;
                labels.push((key.to_owned(), unescape(value.get(..end)?)));
                rest = value.get(end + 1..)?;
                rest = rest.strip_prefix(',').unwrap_or(rest);
            }
            rest = rest.get(1..)?;
        }
        // A time or an exemplar may follow.
        Some(Self { name, labels, value: rest.split_whitespace().next()? })
    }
}

/// Where the quote is that ends a value.
fn end_of_value(value: &str) -> Option<usize> {
    let mut is_escaped = false;
    value.bytes().position(|byte| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    })
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, character == '\\') {
            (_, true) => match characters.next() {
                Some('n') => plain.push('\n'),
                Some(other) => plain.push(other),
                None => {}
            },
            (other, false) => plain.push(other),
        }
    }
    plain
}

impl Family<'_> {
    fn add(&mut self, sample: Sample<'_>, start: u64, now: u64) {
        let Some(part) = sample.name.strip_prefix(self.name) else { return };
        match (self.kind, part) {
            ("histogram", "_bucket" | "_sum" | "_count") => self.add_to_histogram(sample, part),
            ("counter", "_total") | ("gauge" | "unknown", "") | ("info", "_info") => {
                let value = match sample.value.parse::<i64>() {
                    Ok(number) => number_data_point::Value::AsInt(number),
                    Err(_) => match sample.value.parse() {
                        Ok(number) => number_data_point::Value::AsDouble(number),
                        Err(_) => return,
                    },
                };
                self.numbers.push(NumberDataPoint {
                    attributes: self.attributes(sample.labels),
                    start_time_unix_nano: start,
                    time_unix_nano: now,
                    value: Some(value),
                    ..NumberDataPoint::default()
                });
            }
            _ => {}
        }
    }

    fn attributes(&self, labels: Vec<(String, String)>) -> Vec<KeyValue> {
        match Convention::of(self.name) {
            Some(_) => Convention::attributes(labels),
            None => attributes(labels),
        }
    }

    fn add_to_histogram(&mut self, mut sample: Sample<'_>, part: &str) {
        let bound = sample.labels.iter().position(|(key, _)| key == "le").map(|at| sample.labels.remove(at).1);
        let buckets = self.histograms.entry(sample.labels).or_default();
        match (part, bound) {
            ("_bucket", Some(bound)) => {
                if let (Ok(bound), Ok(count)) = (bound.parse(), sample.value.parse()) {
                    buckets.bounds.push((bound, count));
                }
            }
            ("_sum", _) => buckets.sum = sample.value.parse().ok(),
            ("_count", _) => buckets.count = sample.value.parse().unwrap_or_default(),
            _ => {}
        }
    }

    fn into_metric(mut self, start: u64, now: u64) -> Option<Metric> {
        let convention = Convention::of(self.name);
        let cumulative = AggregationTemporality::Cumulative.into();
        let data = match self.kind {
            "histogram" if !self.histograms.is_empty() => metric::Data::Histogram(Histogram {
                data_points: std::mem::take(&mut self.histograms)
                    .into_iter()
                    .map(|(labels, buckets)| buckets.into_point(self.attributes(labels), start, now))
                    .collect(),
                aggregation_temporality: cumulative,
            }),
            _ if self.numbers.is_empty() => return None,
            "counter" => metric::Data::Sum(Sum {
                data_points: self.numbers,
                aggregation_temporality: cumulative,
                is_monotonic: true,
            }),
            _ if convention.is_some_and(|convention| convention.is_sum) => metric::Data::Sum(Sum {
                data_points: self.numbers,
                aggregation_temporality: cumulative,
                is_monotonic: false,
            }),
            _ => metric::Data::Gauge(Gauge { data_points: self.numbers }),
        };
        let unit = match self.unit {
            "" if self.name.ends_with("_seconds") => "s",
            "" if self.name.ends_with("_bytes") => "By",
            "seconds" => "s",
            "bytes" => "By",
            other => other,
        };
        Some(Metric {
            name: convention.map_or(self.name, |convention| convention.name).to_owned(),
            description: self.help,
            unit: convention.map_or(unit, |convention| convention.unit).to_owned(),
            data: Some(data),
            ..Metric::default()
        })
    }
}

impl Buckets {
    /// There each bucket has all values that are not above its bound; here its own alone, and the last one has no bound.
    fn into_point(self, attributes: Vec<KeyValue>, start: u64, now: u64) -> HistogramDataPoint {
        let mut below = 0;
        let mut bucket_counts = Vec::with_capacity(self.bounds.len());
        let mut explicit_bounds = Vec::with_capacity(self.bounds.len());
        for (bound, count) in self.bounds {
            bucket_counts.push(count.saturating_sub(below));
            below = count;
            // The registry has the largest number for what has no bound.
            if bound < f64::MAX {
                explicit_bounds.push(bound);
            }
        }
        HistogramDataPoint {
            attributes,
            start_time_unix_nano: start,
            time_unix_nano: now,
            count: self.count,
            sum: self.sum,
            bucket_counts,
            explicit_bounds,
            ..HistogramDataPoint::default()
        }
    }
}

fn attributes(labels: Vec<(String, String)>) -> Vec<KeyValue> {
    let value = |value| Some(AnyValue { value: Some(any_value::Value::StringValue(value)) });
    labels.into_iter().map(|(key, text)| KeyValue { key, value: value(text), ..KeyValue::default() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::{
        encoding::text::encode,
        metrics::{counter::Counter, family::Family as Of, gauge::Gauge as Level, histogram, info::Info},
        registry::{Registry, Unit},
    };
    use std::sync::atomic::AtomicU64;

    fn find<'a>(metrics: &'a [Metric], name: &str) -> &'a Metric {
        metrics.iter().find(|metric| metric.name == name).unwrap_or_else(|| panic!("{name} is not in {metrics:?}"))
    }

    fn labels(attributes: &[KeyValue]) -> Vec<(&str, String)> {
        let text = |attribute: &KeyValue| match &attribute.value.as_ref().unwrap().value {
            Some(any_value::Value::StringValue(text)) => text.clone(),
            other => panic!("{other:?}"),
        };
        attributes.iter().map(|attribute| (attribute.key.as_str(), text(attribute))).collect()
    }

    /// What the registry writes is what is read: whatever it may be, nothing is defined a second time.
    #[test]
    fn what_a_scraper_gets_is_what_is_sent() {
        let mut registry = Registry::default();
        let requests = Of::<Vec<(String, String)>, Counter>::default();
        let odd = "a \"b\", c=\\ {d}\ne";
        requests.get_or_create(&vec![("workload".into(), odd.into()), ("status".into(), "2xx".into())]).inc_by(7);
        registry.register("requests", "Requests, of \"all\"", requests);
        let level = Level::<f64, AtomicU64>::default();
        level.set(0.5);
        registry.register("load", "Load", level);
        let memory: Level = Level::default();
        memory.set(-3);
        registry.register_with_unit("memory", "Memory", Unit::Bytes, memory);
        registry.register("build", "What runs", Info::new(vec![("version", "1")]));
        let durations = histogram::Histogram::new([0.1, 1.0]);
        [0.05, 0.5, 0.6, 7.0].into_iter().for_each(|value| durations.observe(value));
        registry.register("duration_seconds", "Time", durations);
        registry.register("empty", "Nothing", Of::<Vec<(String, String)>, Counter>::default());
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();

        let metrics = read(&text, 1, 2);
        let names: Vec<&str> = metrics.iter().map(|metric| metric.name.as_str()).collect();
        assert_eq!(names, ["requests", "load", "memory_bytes", "build", "duration_seconds"], "{text}");
        let Some(metric::Data::Sum(sum)) = &find(&metrics, "requests").data else { panic!("{metrics:?}") };
        assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
        let point = &sum.data_points[0];
        assert_eq!(point.value, Some(number_data_point::Value::AsInt(7)));
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (1, 2));
        assert_eq!(labels(&point.attributes), [("workload", odd.to_owned()), ("status", "2xx".to_owned())]);
        let gauge = |name: &str| match &find(&metrics, name).data {
            Some(metric::Data::Gauge(gauge)) => gauge.data_points[0].value.unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!(gauge("load"), number_data_point::Value::AsDouble(0.5));
        assert_eq!(gauge("memory_bytes"), number_data_point::Value::AsInt(-3));
        assert_eq!(gauge("build"), number_data_point::Value::AsInt(1));
        assert_eq!(find(&metrics, "memory_bytes").unit, "By");
        assert_eq!(find(&metrics, "requests").description, "Requests, of \"all\".");
        let durations = find(&metrics, "duration_seconds");
        let Some(metric::Data::Histogram(histogram)) = &durations.data else { panic!("{metrics:?}") };
        let point = &histogram.data_points[0];
        assert_eq!(
            (point.explicit_bounds.as_slice(), point.bucket_counts.as_slice()),
            (&[0.1, 1.0][..], &[1, 2, 1][..])
        );
        assert_eq!((point.count, point.sum, durations.unit.as_str()), (4, Some(8.15), "s"));
    }

    #[test]
    fn the_conventions_names_and_types_are_theirs() {
        let text = concat!(
            "# HELP http_server_active_requests Now.\n# TYPE http_server_active_requests gauge\n",
            "http_server_active_requests{http_request_method=\"GET\",url_scheme=\"http\"} 2\n",
            "# TYPE http_server_request_duration_seconds histogram\n",
            "http_server_request_duration_seconds_sum{http_route=\"/\",http_response_status_code=\"200\",error_type=\"\"} 0.5\n",
            "http_server_request_duration_seconds_count{http_route=\"/\",http_response_status_code=\"200\",error_type=\"\"} 1\n",
            "http_server_request_duration_seconds_bucket{le=\"+Inf\",http_route=\"/\",http_response_status_code=\"200\",error_type=\"\"} 1\n",
        );
        let metrics = read(text, 1, 2);
        let active = find(&metrics, "http.server.active_requests");
        let Some(metric::Data::Sum(sum)) = &active.data else { panic!("{metrics:?}") };
        assert!(!sum.is_monotonic && sum.aggregation_temporality == 2 && active.unit == "{request}");
        let expect = [("http.request.method", "GET".to_owned()), ("url.scheme", "http".to_owned())];
        assert_eq!(labels(&sum.data_points[0].attributes), expect);
        let durations = find(&metrics, "http.server.request.duration");
        let Some(metric::Data::Histogram(histogram)) = &durations.data else { panic!("{metrics:?}") };
        let point = &histogram.data_points[0];
        let attributes: Vec<_> = point
            .attributes
            .iter()
            .map(|pair| (pair.key.as_str(), pair.value.clone().unwrap().value.unwrap()))
            .collect();
        let route = any_value::Value::StringValue("/".to_owned());
        let expect = [("http.route", route), ("http.response.status_code", any_value::Value::IntValue(200))];
        assert_eq!(attributes, expect, "what is empty is absent, and a status is a number");
        assert_eq!((point.count, point.sum, &*durations.unit), (1, Some(0.5), "s"));
    }

    #[test]
    fn what_can_not_be_read_is_left_out() {
        let text =
            "# TYPE a counter\na_total{x=\"unended 1\na_total 2\nb_total 3\na_total{x=\"y\"} 4 # {t=\"1\"} 9\n# EOF\n";
        let metrics = read(text, 0, 0);
        let Some(metric::Data::Sum(sum)) = &metrics[0].data else { panic!("{metrics:?}") };
        let values: Vec<_> = sum.data_points.iter().map(|point| point.value).collect();
        assert_eq!(values, [2, 4].map(|value| Some(number_data_point::Value::AsInt(value))));
    }
}
