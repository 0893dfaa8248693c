//! Log records: the node's own events, and what guests print. A field `traceparent` of an event becomes the record's trace.

use crate::{
    client::Client,
    counts::{Counts, Room},
    settings::Logs,
};
use lattice::{
    ctl::{LogLevel, LogLine, LogStream},
    host::GuestLines,
    trace::TraceContext,
};
use opentelemetry::{
    SpanId, TraceFlags, TraceId,
    logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _, Severity},
};
use opentelemetry_otlp::{ExporterBuildError, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    logs::{BatchConfigBuilder, BatchLogProcessor, LogBatch, LogExporter, SdkLogRecord, SdkLogger, SdkLoggerProvider},
};
use std::{
    fmt::{self, Write as _},
    time::{Duration, SystemTime},
};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

/// What those who send log records write themselves would feed itself.
const NOT_EXPORTED: [&str; 6] = ["hyper", "h2", "rustls", "tokio_rustls", "opentelemetry", GUEST];
/// What guests print comes here by a way of its own.
const GUEST: &str = "guest";

pub(crate) struct Records {
    provider: SdkLoggerProvider,
    writer: Writer,
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Writer {
    logger: SdkLogger,
    room: Room,
}

impl Records {
    pub(crate) fn start(
        settings: &Logs,
        client: Client,
        resource: &Resource,
        counts: &Counts,
    ) -> Result<Self, ExporterBuildError> {
        let exporter = opentelemetry_otlp::LogExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(settings.exporter.endpoint.to_string())
            .with_timeout(settings.exporter.timeout)
            .build()?;
        let room = Room::new(settings.batches.queue, "logs", counts);
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(settings.batches.queue)
            .with_max_export_batch_size(settings.batches.batch)
            .with_scheduled_delay(settings.batches.delay)
            .build();
        let exporter = Counted { exporter, room: room.clone() };
        let processor = BatchLogProcessor::builder(exporter).with_batch_config(batches).build();
        let provider =
            SdkLoggerProvider::builder().with_resource(resource.clone()).with_log_processor(processor).build();
        let logger = provider.logger_with_scope(crate::scope());
        Ok(Self { provider, writer: Writer { logger, room } })
    }

    pub(crate) fn writer(&self) -> Writer {
        self.writer.clone()
    }

    /// Send what waits, and no more after that. Blocks for `limit` at most.
    pub(crate) fn stop(&self, limit: Duration) {
        let _ = self.provider.shutdown_with_timeout(limit);
    }
}

impl Writer {
    fn write(&self, fill: impl FnOnce(&mut SdkLogRecord)) {
        if !self.room.enter() {
            return;
        }
        let mut record = self.logger.create_log_record();
        fill(&mut record);
        self.logger.emit(record);
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writer")
    }
}

/// The node's own events.
pub(crate) struct Events(pub(crate) Writer);

impl<S: Subscriber> Layer<S> for Events {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if NOT_EXPORTED.iter().any(|target| metadata.target().starts_with(target)) {
            return;
        }
        self.0.write(|record| {
            let (number, text) = match *metadata.level() {
                Level::ERROR => (Severity::Error, "ERROR"),
                Level::WARN => (Severity::Warn, "WARN"),
                Level::INFO => (Severity::Info, "INFO"),
                Level::DEBUG => (Severity::Debug, "DEBUG"),
                Level::TRACE => (Severity::Trace, "TRACE"),
            };
            record.set_severity_number(number);
            record.set_severity_text(text);
            record.set_timestamp(SystemTime::now());
            record.set_target(metadata.target());
            event.record(&mut Fields(record));
        });
    }
}

struct Fields<'a>(&'a mut SdkLogRecord);

impl Fields<'_> {
    fn add(&mut self, field: &Field, value: AnyValue) {
        match field.name() {
            "message" => self.0.set_body(value),
            name => self.0.add_attribute(name, value),
        }
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        let _ = write!(text, "{value:?}");
        self.add(field, text.into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        match TraceContext::parse(value.as_bytes()).filter(|_| field.name() == "traceparent") {
            Some(TraceContext { trace, span, sampled }) => {
                let (trace, span) = (TraceId::from_bytes(trace.to_be_bytes()), SpanId::from_bytes(span.to_be_bytes()));
                self.0.set_trace_context(trace, span, Some(TraceFlags::default().with_sampled(sampled)));
            }
            None => self.add(field, value.to_owned().into()),
        }
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, i64::try_from(value).map_or_else(|_| value.to_string().into(), AnyValue::Int));
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }
}

impl GuestLines for Writer {
    fn line(&self, line: &LogLine) {
        self.write(|record| {
            record.set_timestamp(SystemTime::now());
            record.set_target(GUEST);
            record.set_body(line.line.clone().into());
            match (line.level, line.stream) {
                (Some(level), _) => {
                    record.set_severity_number(severity(level));
                    record.set_severity_text(level.as_str());
                }
                // What a guest means by a line that it prints only its people know.
                (None, LogStream::Stdout) => printed(record, "stdout"),
                (None, LogStream::Stderr) => printed(record, "stderr"),
            }
            if let Some(context) = &line.context {
                record.add_attribute("lattice.log.context", context.clone());
            }
            record.add_attribute("lattice.workload", line.workload.to_string());
            record.add_attribute("lattice.replica", i64::from(line.replica));
            let trace = line.trace_id.as_deref().and_then(|id| TraceId::from_hex(id).ok());
            let span = line.span_id.as_deref().and_then(|id| SpanId::from_hex(id).ok());
            if let Some(trace) = trace {
                let flags = TraceFlags::default().with_sampled(span.is_some());
                record.set_trace_context(trace, span.unwrap_or(SpanId::INVALID), Some(flags));
            }
            if let Some(instance) = line.instance {
                record.add_attribute("lattice.instance", i64::try_from(instance).unwrap_or(i64::MAX));
            }
        });
    }
}

fn printed(record: &mut SdkLogRecord, stream: &'static str) {
    record.set_severity_number(Severity::Info);
    record.add_attribute("log.iostream", stream);
}

fn severity(level: LogLevel) -> Severity {
    match level {
        LogLevel::Trace => Severity::Trace,
        LogLevel::Debug => Severity::Debug,
        LogLevel::Info => Severity::Info,
        LogLevel::Warn => Severity::Warn,
        LogLevel::Error => Severity::Error,
        LogLevel::Critical => Severity::Fatal,
    }
}

#[derive(Debug)]
struct Counted<E> {
    exporter: E,
    room: Room,
}

impl<E: LogExporter> LogExporter for Counted<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let items = batch.iter().count();
        let result = self.exporter.export(batch).await;
        self.room.left(items, result.is_ok());
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
