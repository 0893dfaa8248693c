//! Records spans: to the batches of OpenTelemetry's SDK, which a thread of its own exports. A request never waits for it.

use crate::{
    client::Client,
    counts::{Counts, Room},
    settings::{Sampler, Traces},
};
use lattice::trace::{Recorder, Span, SpanKind, Value};
use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, Status, TraceState},
};
use opentelemetry_otlp::{ExporterBuildError, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanEvents, SpanExporter, SpanLinks, SpanProcessor},
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Debug)]
pub(crate) struct Spans {
    sampler: Sampler,
    processor: BatchSpanProcessor,
    room: Room,
    scope: InstrumentationScope,
    attributes_max: usize,
    text_bytes_max: usize,
}

impl Spans {
    pub(crate) fn start(
        settings: &Traces,
        client: Client,
        resource: &Resource,
        counts: &Counts,
    ) -> Result<Self, ExporterBuildError> {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(settings.exporter.endpoint.to_string())
            .with_timeout(settings.exporter.timeout)
            .build()?;
        let room = Room::new(settings.batches.queue, "traces", counts);
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(settings.batches.queue)
            .with_max_export_batch_size(settings.batches.batch)
            .with_scheduled_delay(settings.batches.delay)
            .build();
        let exporter = Counted { exporter, room: room.clone() };
        let mut processor = BatchSpanProcessor::new(exporter, batches);
        processor.set_resource(resource);
        Ok(Self {
            sampler: settings.sampler,
            processor,
            room,
            scope: crate::scope(),
            attributes_max: settings.attributes_max,
            text_bytes_max: settings.text_bytes_max,
        })
    }

    /// Send what waits, and no more after that. Blocks for `limit` at most.
    pub(crate) fn stop(&self, limit: Duration) {
        let _ = self.processor.shutdown_with_timeout(limit);
    }

    fn attributes(&self, span: &mut Span) -> (Vec<KeyValue>, u32) {
        let mut attributes: Vec<KeyValue> =
            span.attributes.drain(..).map(|(key, value)| KeyValue::new(key, self.value(value))).collect();
        if let Some(error) = &span.error {
            attributes.push(KeyValue::new("error.type", error.clone()));
        }
        let dropped = attributes.len().saturating_sub(self.attributes_max);
        attributes.truncate(self.attributes_max);
        (attributes, dropped as u32)
    }

    fn value(&self, value: Value) -> opentelemetry::Value {
        match value {
            Value::Text(text) if text.len() > self.text_bytes_max => {
                let end = text.floor_char_boundary(self.text_bytes_max);
                text.get(..end).unwrap_or_default().to_owned().into()
            }
            Value::Text(text) => text.into(),
            Value::Int(number) => number.into(),
            Value::Float(number) => number.into(),
            Value::Bool(truth) => truth.into(),
        }
    }
}

impl Recorder for Spans {
    fn records(&self, trace: u128, parent: Option<bool>) -> bool {
        self.sampler.records(trace, parent)
    }

    fn span_id(&self) -> u64 {
        rand::random::<u64>().max(1)
    }

    fn now(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    fn record(&self, mut span: Span) {
        if !self.room.enter() {
            return;
        }
        let (attributes, dropped_attributes_count) = self.attributes(&mut span);
        self.processor.on_end(SpanData {
            span_context: SpanContext::new(
                TraceId::from_bytes(span.context.trace.to_be_bytes()),
                SpanId::from_bytes(span.context.span.to_be_bytes()),
                TraceFlags::SAMPLED,
                false,
                TraceState::default(),
            ),
            parent_span_id: span.parent.map_or(SpanId::INVALID, |parent| SpanId::from_bytes(parent.to_be_bytes())),
            parent_span_is_remote: span.parent_is_remote,
            span_kind: match span.kind {
                SpanKind::Server => opentelemetry::trace::SpanKind::Server,
                SpanKind::Client => opentelemetry::trace::SpanKind::Client,
                SpanKind::Producer => opentelemetry::trace::SpanKind::Producer,
                SpanKind::Internal => opentelemetry::trace::SpanKind::Internal,
            },
            name: span.name,
            start_time: UNIX_EPOCH + Duration::from_nanos(span.start),
            end_time: UNIX_EPOCH + Duration::from_nanos(span.end),
            attributes,
            dropped_attributes_count,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: span.error.map_or(Status::Unset, Status::error),
            instrumentation_scope: self.scope.clone(),
        });
    }
}

#[derive(Debug)]
struct Counted<E> {
    exporter: E,
    room: Room,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let items = batch.len();
        let result = self.exporter.export(batch).await;
        self.room.left(items, result.is_ok());
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
