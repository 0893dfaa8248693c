//! Telemetry of a node: traces, metrics and logs over OTLP, as the `OTEL_*` environment asks for them, and the access log.
//! The only crate that names OpenTelemetry: what is recorded is decided by those who do it, in the words of
//! [`lattice::trace`]; here it is sent.
//!
//! Start at [`Telemetry::start`]. Nothing here holds up a request: what there is no room for is dropped and counted.

mod access;
mod client;
mod conventions;
mod counts;
mod logs;
mod metrics;
mod settings;
mod spans;

pub use access::{AccessWriter, Destination, Format};
pub use client::CertificateError;
pub use metrics::Source;
pub use settings::{Settings, SettingsError};

use client::Client;
use counts::Counts;
use lattice::{
    host::GuestLines,
    id::{LatticeId, NodeId},
    trace::Tracer,
};
use logs::{Events, Records};
use metrics::Exports;
use opentelemetry::{InstrumentationScope, Key, KeyValue};
use opentelemetry_otlp::ExporterBuildError;
use opentelemetry_proto::{tonic::resource::v1, transform::common::tonic::ResourceAttributesWithSchema};
use opentelemetry_sdk::Resource;
use prometheus_client::registry::Registry;
use spans::Spans;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::runtime::Handle;
use tracing::Subscriber;
use tracing_subscriber::layer::Layer;

/// Why telemetry does not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error(transparent)]
    Exporter(#[from] ExporterBuildError),
}

/// What a node exports, if anything.
#[derive(Default)]
pub struct Telemetry {
    spans: Option<Arc<Spans>>,
    records: Option<Records>,
    exports: Option<Exports>,
    source: Mutex<Option<Source>>,
    counts: Arc<Counts>,
}

impl Telemetry {
    /// Start what the environment asks for. Messages are sent on `runtime`.
    pub fn start(
        settings: Option<Settings>,
        lattice: &LatticeId,
        node: &NodeId,
        runtime: &Handle,
    ) -> Result<Self, TelemetryError> {
        let Some(settings) = settings else { return Ok(Self::default()) };
        let resource = resource(lattice, node);
        let counts = Arc::<Counts>::default();
        let client = |exporter: &settings::Exporter| Client::new(exporter.clone(), runtime.clone(), counts.clone());
        let mut telemetry = Self { counts: counts.clone(), ..Self::default() };
        if let Some(traces) = &settings.traces {
            let spans = Spans::start(traces, client(&traces.exporter)?, &resource, &counts)?;
            telemetry.spans = Some(Arc::new(spans));
        }
        if let Some(logs) = &settings.logs {
            telemetry.records = Some(Records::start(logs, client(&logs.exporter)?, &resource, &counts)?);
        }
        if let Some(metrics) = &settings.metrics {
            let attributes = ResourceAttributesWithSchema::from(&resource).attributes.0;
            let resource = v1::Resource { attributes, ..v1::Resource::default() };
            telemetry.exports = Some(Exports::new(metrics, client(&metrics.exporter)?, resource));
        }
        Ok(telemetry)
    }

    /// Begins spans; none where traces are not exported.
    pub fn tracer(&self) -> Tracer {
        self.spans.as_ref().map_or_else(Tracer::default, |spans| Tracer::new(spans.clone()))
    }

    pub fn exports_metrics(&self) -> bool {
        self.exports.is_some()
    }

    /// Takes the node's own events, where logs are exported.
    pub fn events<S: Subscriber>(&self) -> Option<impl Layer<S> + use<S>> {
        self.records.as_ref().map(|records| Events(records.writer()))
    }

    /// Takes what guests print, where logs are exported.
    pub fn guest_lines(&self) -> Option<Arc<dyn GuestLines>> {
        self.records.as_ref().map(|records| Arc::new(records.writer()) as Arc<dyn GuestLines>)
    }

    /// What telemetry counts of itself.
    pub fn register(&self, registry: &mut Registry) {
        if self.spans.is_some() || self.records.is_some() || self.exports.is_some() {
            self.counts.register(registry);
        }
    }

    /// Export what `source` gives from now on. Within a tokio runtime; ends with it.
    pub fn export_metrics(&self, source: Source) {
        if let Some(exports) = self.exports.clone() {
            *self.source.lock().unwrap_or_else(PoisonError::into_inner) = Some(source.clone());
            tokio::spawn(exports.run(source));
        }
    }

    /// Send what waits, then nothing more. Blocks for about `limit` at most: not within a tokio runtime, which must go on
    /// meanwhile.
    pub fn stop(&self, runtime: &Handle, limit: Duration) {
        std::thread::scope(|scope| {
            if let Some(spans) = &self.spans {
                scope.spawn(|| spans.stop(limit));
            }
            if let Some(records) = &self.records {
                scope.spawn(|| records.stop(limit));
            }
            let source = self.source.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let (Some(exports), Some(source)) = (&self.exports, source) {
                let _ = runtime.block_on(async { tokio::time::timeout(limit, exports.send(&source)).await });
            }
        });
    }
}

/// Who it is that tells.
fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("lattice").with_version(env!("CARGO_PKG_VERSION")).build()
}

/// What describes this process; the environment has the last word.
fn resource(lattice: &LatticeId, node: &NodeId) -> Resource {
    let detected = Resource::builder().build();
    let own = [
        KeyValue::new("service.name", "lattice"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.namespace", lattice.to_string()),
        KeyValue::new("service.instance.id", node.to_string()),
    ];
    let is_named = detected
        .get_ref(&Key::from_static_str("service.name"))
        .is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let detected = detected
        .iter()
        .filter(|(key, _)| is_named || key.as_str() != "service.name")
        .map(|(key, value)| KeyValue::new(key.clone(), value.clone()))
        .collect::<Vec<_>>();
    Resource::builder_empty().with_attributes(own).with_attributes(detected).build()
}
