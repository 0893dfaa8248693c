//! A receiver of OTLP over HTTP. What it takes is decoded with the messages that OpenTelemetry generates of its own
//! definitions, and flattened into what tests ask about.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{AnyValue, KeyValue, any_value},
    metrics::v1::{AggregationTemporality, Metric, metric, number_data_point},
    resource::v1::Resource,
};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};
use tokio::{net::TcpListener, task::JoinHandle};

pub type Attributes = BTreeMap<String, String>;

#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Of the process that told.
    pub resource: Attributes,
    /// Hexadecimal, as are all ids.
    pub trace: String,
    pub id: String,
    /// Empty for the first of a trace.
    pub parent: String,
    pub name: String,
    /// 1 internal, 2 server, 3 client, 4 producer.
    pub kind: i32,
    pub start: u64,
    pub end: u64,
    pub attributes: Attributes,
    /// 2 is an error.
    pub status: i32,
}

/// A point of a sum or a gauge, or the count of a histogram.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub resource: Attributes,
    pub name: String,
    pub unit: String,
    pub attributes: Attributes,
    pub value: f64,
    /// Of a histogram: of all its values together.
    pub sum: f64,
    /// Of a histogram: each bucket's own, and the bounds between them.
    pub buckets: Vec<u64>,
    pub bounds: Vec<f64>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub resource: Attributes,
    pub severity: i32,
    pub body: String,
    pub attributes: Attributes,
    pub trace: String,
    pub span: String,
}

#[derive(Debug, Default)]
struct Received {
    spans: Vec<Span>,
    points: Vec<Point>,
    records: Vec<Record>,
    /// What was wrong with what came.
    faults: Vec<String>,
    headers: Vec<hyper::HeaderMap>,
}

pub struct Receiver {
    port: u16,
    received: Arc<Mutex<Received>>,
    task: JoinHandle<()>,
}

impl Receiver {
    pub async fn start() -> Self {
        let port = super::free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let received = Arc::<Mutex<Received>>::default();
        let task = tokio::spawn(serve(listener, received.clone()));
        Self { port, received, task }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn spans(&self, trace: &str) -> Vec<Span> {
        self.all_good().spans.iter().filter(|span| span.trace == trace).cloned().collect()
    }

    /// Of all traces.
    pub fn spans_named(&self, name: &str) -> Vec<Span> {
        self.all_good().spans.iter().filter(|span| span.name == name).cloned().collect()
    }

    /// The latest ones of each series come last.
    pub fn points(&self, name: &str) -> Vec<Point> {
        self.all_good().points.iter().filter(|point| point.name == name).cloned().collect()
    }

    pub fn records(&self) -> Vec<Record> {
        self.all_good().records.clone()
    }

    pub fn headers(&self) -> Vec<hyper::HeaderMap> {
        self.all_good().headers.clone()
    }

    fn all_good(&self) -> std::sync::MutexGuard<'_, Received> {
        let received = self.received.lock().unwrap();
        assert!(received.faults.is_empty(), "{:?}", received.faults);
        received
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, received: Arc<Mutex<Received>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let received = received.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| take(request, received.clone()));
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
        });
    }
}

async fn take(request: Request<Incoming>, received: Arc<Mutex<Received>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes());
    let mut received = received.lock().unwrap();
    let kind = head.headers.get("content-type").and_then(|kind| kind.to_str().ok());
    let outcome = match (body, kind, head.uri.path()) {
        (Ok(body), Some("application/x-protobuf"), "/v1/traces") => received.take_traces(&body),
        (Ok(body), Some("application/x-protobuf"), "/v1/metrics") => received.take_metrics(&body),
        (Ok(body), Some("application/x-protobuf"), "/v1/logs") => received.take_logs(&body),
        (body, kind, path) => Err(format!("{kind:?} to {path}: {body:?}")),
    };
    received.headers.push(head.headers);
    let mut response = Response::new(Full::new(Bytes::new()));
    if let Err(fault) = outcome {
        received.faults.push(fault);
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    Ok(response)
}

impl Received {
    fn take_traces(&mut self, body: &[u8]) -> Result<(), String> {
        for of_resource in decode::<ExportTraceServiceRequest>(body)?.resource_spans {
            let resource = resource(of_resource.resource)?;
            for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                self.spans.push(Span {
                    resource: resource.clone(),
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    name: span.name,
                    kind: span.kind,
                    start: span.start_time_unix_nano,
                    end: span.end_time_unix_nano,
                    attributes: attributes(span.attributes)?,
                    status: span.status.map_or(0, |status| status.code),
                });
            }
        }
        Ok(())
    }

    fn take_metrics(&mut self, body: &[u8]) -> Result<(), String> {
        for of_resource in decode::<ExportMetricsServiceRequest>(body)?.resource_metrics {
            let resource = resource(of_resource.resource)?;
            for metric in of_resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
                self.points.extend(points(metric, &resource)?);
            }
        }
        Ok(())
    }

    fn take_logs(&mut self, body: &[u8]) -> Result<(), String> {
        for of_resource in decode::<ExportLogsServiceRequest>(body)?.resource_logs {
            let resource = resource(of_resource.resource)?;
            for record in of_resource.scope_logs.into_iter().flat_map(|scope| scope.log_records) {
                self.records.push(Record {
                    resource: resource.clone(),
                    severity: record.severity_number,
                    body: text(record.body),
                    attributes: attributes(record.attributes)?,
                    trace: hex(&record.trace_id),
                    span: hex(&record.span_id),
                });
            }
        }
        Ok(())
    }
}

fn decode<M: prost::Message + Default>(body: &[u8]) -> Result<M, String> {
    M::decode(body).map_err(|error| error.to_string())
}

/// Sums and histograms must be cumulative.
fn points(metric: Metric, resource: &Attributes) -> Result<Vec<Point>, String> {
    let (name, unit) = (metric.name, metric.unit);
    let point = |attributes, value| Point {
        resource: resource.clone(),
        name: name.clone(),
        unit: unit.clone(),
        attributes,
        value,
        sum: 0.0,
        buckets: Vec::new(),
        bounds: Vec::new(),
    };
    let cumulative = AggregationTemporality::Cumulative as i32;
    let (numbers, temporality) = match metric.data {
        Some(metric::Data::Gauge(gauge)) => (gauge.data_points, cumulative),
        Some(metric::Data::Sum(sum)) => (sum.data_points, sum.aggregation_temporality),
        Some(metric::Data::Histogram(histogram)) if histogram.aggregation_temporality == cumulative => {
            let each = histogram.data_points.into_iter().map(|data| {
                let (buckets, bounds) = (data.bucket_counts, data.explicit_bounds);
                if buckets.iter().sum::<u64>() != data.count || buckets.len() != bounds.len() + 1 {
                    return Err(format!("{name} miscounts"));
                }
                let sum = data.sum.ok_or_else(|| format!("{name} has no sum"))?;
                Ok(Point { sum, buckets, bounds, ..point(attributes(data.attributes)?, data.count as f64) })
            });
            return each.collect();
        }
        other => return Err(format!("{name} is {other:?}")),
    };
    if temporality != cumulative {
        return Err(format!("{name} is not cumulative"));
    }
    let each = numbers.into_iter().map(|data| {
        let value = match data.value {
            Some(number_data_point::Value::AsInt(number)) => number as f64,
            Some(number_data_point::Value::AsDouble(number)) => number,
            None => return Err(format!("{name} has no value")),
        };
        Ok(point(attributes(data.attributes)?, value))
    });
    each.collect()
}

fn resource(resource: Option<Resource>) -> Result<Attributes, String> {
    attributes(resource.unwrap_or_default().attributes)
}

fn attributes(pairs: Vec<KeyValue>) -> Result<Attributes, String> {
    let mut attributes = Attributes::new();
    for KeyValue { key, value, .. } in pairs {
        if attributes.insert(key.clone(), text(value)).is_some() {
            return Err(format!("two attributes {key}"));
        }
    }
    Ok(attributes)
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::BoolValue(truth)) => truth.to_string(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::DoubleValue(number)) => number.to_string(),
        _ => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
