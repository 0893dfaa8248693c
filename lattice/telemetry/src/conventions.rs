//! Metrics that bear the names of the semantic conventions: the text format can't spell them, and knows no types of
//! attributes. Pure.

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};

/// A metric of theirs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Convention {
    text: &'static str,
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    /// A level that is the sum of what goes up and down, and can be added up over nodes.
    pub(crate) is_sum: bool,
}

static METRICS: [Convention; 2] = [
    Convention {
        text: "http_server_request_duration_seconds",
        name: "http.server.request.duration",
        unit: "s",
        is_sum: false,
    },
    Convention {
        text: "http_server_active_requests",
        name: "http.server.active_requests",
        unit: "{request}",
        is_sum: true,
    },
];

#[derive(Clone, Copy)]
enum Type {
    Text,
    Int,
    Bool,
}

const ATTRIBUTES: [(&str, &str, Type); 9] = [
    ("error_type", "error.type", Type::Text),
    ("http_request_method", "http.request.method", Type::Text),
    ("http_response_status_code", "http.response.status_code", Type::Int),
    ("http_route", "http.route", Type::Text),
    ("lattice_route", "lattice.route", Type::Text),
    ("lattice_workload", "lattice.workload", Type::Text),
    ("network_protocol_version", "network.protocol.version", Type::Text),
    ("otel_metric_overflow", "otel.metric.overflow", Type::Bool),
    ("url_scheme", "url.scheme", Type::Text),
];

impl Convention {
    /// Of a metric by its name in the text.
    pub(crate) fn of(text: &str) -> Option<&'static Self> {
        METRICS.iter().find(|metric| metric.text == text)
    }

    /// Its attributes: an empty label says that there is none.
    pub(crate) fn attributes(labels: Vec<(String, String)>) -> Vec<KeyValue> {
        labels.into_iter().filter_map(|(key, text)| attribute(&key, text)).collect()
    }
}

fn attribute(label: &str, text: String) -> Option<KeyValue> {
    let (_, key, kind) = ATTRIBUTES.into_iter().find(|(known, ..)| *known == label).filter(|_| !text.is_empty())?;
    let value = match kind {
        Type::Text => any_value::Value::StringValue(text),
        Type::Int => any_value::Value::IntValue(text.parse().ok()?),
        Type::Bool => any_value::Value::BoolValue(text.parse().ok()?),
    };
    let value = Some(AnyValue { value: Some(value) });
    Some(KeyValue { key: key.to_owned(), value, ..KeyValue::default() })
}
