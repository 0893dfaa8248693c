//! What a node tells of itself and of requests: by OTLP, as the environment asks for it, and in an access log.

use crate::error::Failure;
use anyhow::Context as _;
use lattice::{
    access::AccessLog,
    id::{LatticeId, NodeId},
};
use lattice_telemetry::{AccessWriter, Destination, Format, Settings, Telemetry};
use prometheus_client::registry::Registry;
use std::{path::PathBuf, sync::Arc};
use tokio::runtime::Handle;

#[derive(Debug, clap::Args)]
pub(super) struct AccessLogArgs {
    /// Write a line for each request of a client [default: json where there is an --access-log-file, else off]
    #[arg(long, env = "LATTICE_ACCESS_LOG", value_enum, value_name = "FORMAT")]
    access_log: Option<AccessLogFormat>,
    /// Where to write them [default: standard output]
    #[arg(long, env = "LATTICE_ACCESS_LOG_FILE", value_name = "FILE")]
    access_log_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum AccessLogFormat {
    /// Nothing is written
    Off,
    /// One JSON object a line
    Json,
    /// For people
    Text,
}

impl AccessLogArgs {
    /// Who names a file wants it written.
    fn format(&self) -> Option<Format> {
        match (self.access_log, &self.access_log_file) {
            (Some(AccessLogFormat::Off), _) | (None, None) => None,
            (Some(AccessLogFormat::Json), _) | (None, Some(_)) => Some(Format::Json),
            (Some(AccessLogFormat::Text), _) => Some(Format::Text),
        }
    }
}

/// What the environment asks for.
pub(super) fn settings() -> anyhow::Result<Option<Settings>> {
    Settings::of_process().map_err(|error| Failure::usage(error.to_string()).into())
}

/// Within no runtime: `runtime` is where messages are sent.
pub(super) fn start(
    settings: Option<Settings>,
    lattice: &LatticeId,
    node: &NodeId,
    runtime: &Handle,
) -> anyhow::Result<Telemetry> {
    Telemetry::start(settings, lattice, node, runtime).context("can't start telemetry")
}

/// What is open for writing.
pub(super) struct Observing {
    access_log: Option<Arc<AccessWriter>>,
}

impl Observing {
    pub(super) fn start(args: &AccessLogArgs, telemetry: &Telemetry, metrics: &mut Registry) -> anyhow::Result<Self> {
        telemetry.register(metrics);
        let Some(format) = args.format() else { return Ok(Self { access_log: None }) };
        let to = args.access_log_file.clone().map_or(Destination::Stdout, Destination::File);
        let name = args.access_log_file.as_ref().map_or("standard output".into(), |file| file.display().to_string());
        let writer = AccessWriter::start(format, to, metrics)
            .with_context(|| Failure::usage(format!("can't write the access log to {name}")))?;
        Ok(Self { access_log: Some(Arc::new(writer)) })
    }

    pub(super) fn access_log(&self) -> Option<Arc<dyn AccessLog>> {
        self.access_log.clone().map(|log| log as Arc<dyn AccessLog>)
    }

    /// Write what waits, and no more after that.
    pub(super) fn stop(&self) {
        if let Some(log) = &self.access_log {
            log.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_unless_it_is_said_otherwise() {
        for (access_log, file, format) in [
            (None, None, None),
            (None, Some("a.log"), Some(Format::Json)),
            (Some(AccessLogFormat::Text), Some("a.log"), Some(Format::Text)),
            (Some(AccessLogFormat::Off), Some("a.log"), None),
            (Some(AccessLogFormat::Json), None, Some(Format::Json)),
        ] {
            let args = AccessLogArgs { access_log, access_log_file: file.map(PathBuf::from) };
            assert_eq!(args.format(), format, "{args:?}");
        }
    }
}
