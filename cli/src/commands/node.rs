//! `lattice node`: one node of a lattice. Joins the control plane, the host and the router of this process; decides
//! nothing itself.

mod admin;
mod data_dir;
mod machine;

use crate::{
    Context,
    connection::{self, Surroundings, env},
    error::{Exit, Failure},
};
use anyhow::Context as _;
use data_dir::DataDir;
pub use machine::memory;
use lattice::{
    id::{LatticeId, NodeId},
    limits::LABELS_MAX,
    spec::{is_label_key, is_label_value},
    units::{Bytes, Millis},
};
use lattice_control_plane::Timing;
use std::{
    collections::BTreeMap,
    io::IsTerminal as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};
use tokio_util::sync::CancellationToken;

pub const DEFAULT_HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000);
pub const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9000);

/// Run a node: it joins by connecting to NATS and leaves by draining on SIGTERM or Ctrl-C
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice node                            on this machine's NATS, HTTP on 127.0.0.1:8000
  lattice node --nats tls://a.example.org,tls://b.example.org --creds node.creds \\
      --http 0.0.0.0:80 --label zone=eu-1 --label disk=nvme
  curl http://127.0.0.1:9000/readyz       200 once it is connected and knows the lattice
  lattice node --data /tmp/second --http 127.0.0.1:8001 --admin 127.0.0.1:9001")]
pub struct Args {
    /// Id of the node [default: the one kept in the data directory, made up the first time]
    #[arg(long, env = "LATTICE_NODE_ID")]
    id: Option<NodeId>,
    /// A label for placement; arch, os and hostname are set already. Repeat it for more
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Where to take HTTP
    #[arg(long, env = "LATTICE_HTTP", default_value_t = DEFAULT_HTTP, value_name = "ADDR")]
    http: SocketAddr,
    /// Where /livez, /readyz and /metrics are; keep it private
    #[arg(long, env = "LATTICE_ADMIN", default_value_t = DEFAULT_ADMIN, value_name = "ADDR")]
    admin: SocketAddr,
    /// What the node keeps over restarts [default: $XDG_DATA_HOME/lattice/LATTICE]
    #[arg(long, env = "LATTICE_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Memory that replicas may reserve, such as 4GiB [default: three quarters of the machine's]
    #[arg(long, value_name = "SIZE")]
    memory: Option<Bytes>,
    /// Replicas that it takes at a time
    #[arg(long, default_value_t = 256, value_name = "N")]
    slots: u32,
    /// How fast failures are noticed; the same on all nodes of a lattice
    #[arg(long, value_enum, default_value_t, value_name = "PRESET")]
    timing: TimingPreset,
    /// How long leaving may take: requests that run are finished, replicas handed over
    #[arg(long, default_value = "25s", value_name = "DURATION")]
    drain_timeout: Millis,
    /// What to log, such as warn or info,lattice_router=debug [env: RUST_LOG] [default: info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// How to log
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum TimingPreset {
    /// One NATS server nearby: a dead node's replicas are elsewhere after about 6 s
    Dev,
    /// A cluster of NATS servers, whose leader may change: after about 16 s
    #[default]
    Production,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum LogFormat {
    /// For people
    #[default]
    Human,
    /// One JSON object a line
    Json,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is KEY=VALUE, such as zone=eu-1")?;
    if !is_label_key(key) {
        return Err(format!("{key:?} is not a label's key"));
    }
    if !is_label_value(value) {
        return Err(format!("{value:?} is not a label's value"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// `$XDG_DATA_HOME/lattice/LATTICE`, usually `~/.local/share/lattice/LATTICE`.
pub fn default_data_dir(lattice: &LatticeId) -> Option<PathBuf> {
    let home = || env("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    let base = env("XDG_DATA_HOME").map(PathBuf::from).or_else(home)?;
    Some(base.join("lattice").join(lattice.as_str()))
}

/// What was given, over what this machine is.
fn labels(given: &[(String, String)]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut labels = machine::labels();
    for (key, value) in given {
        labels.insert(key.clone(), value.clone());
    }
    if labels.len() > LABELS_MAX {
        return Err(Failure::usage(format!("{} labels; at most {LABELS_MAX} are allowed", labels.len())).into());
    }
    Ok(labels)
}

fn start_logging(args: &Args) -> anyhow::Result<()> {
    use tracing_subscriber::EnvFilter;
    let filter = args.log.clone().or_else(|| env("RUST_LOG")).unwrap_or_else(|| "info".into());
    let filter = EnvFilter::try_new(&filter)
        .with_context(|| Failure::usage(format!("{filter:?} is not a log filter")).hint("write info, or warn,lattice_router=debug"))?;
    let colours = crate::output::Paint::stderr().is_on();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    let started = match args.log_format {
        LogFormat::Json => builder.json().try_init(),
        // A supervisor that collects lines stamps them itself; people at a terminal need no date.
        LogFormat::Human if std::io::stderr().is_terminal() => builder.with_target(false).try_init(),
        LogFormat::Human => builder.try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("can't start logging: {error}"))
}

pub fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    start_logging(&args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("can't start the async runtime")?;
    let exit = runtime.block_on(Box::pin(serve(args, context)));
    // Compilation of a component can't be interrupted; nobody waits for it now.
    runtime.shutdown_background();
    exit
}

async fn serve(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let dir = args.data.clone().or_else(|| default_data_dir(&context.lattice));
    let dir = dir.ok_or_else(|| Failure::usage("there is no home directory for the node's data").hint("name a directory: --data DIR"))?;
    let data = DataDir::open(&dir, args.id.clone())?;
    let labels = labels(&args.labels)?;
    let _ = (data.node(), labels, args.memory, args.slots, args.timing, args.drain_timeout, Timing::DEV);
    let _ = connection::resolve(&context.nats, &Surroundings::of_process())?;
    let _ = CancellationToken::new();
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_key_and_value() {
        assert_eq!(label("zone=eu-1").unwrap(), ("zone".into(), "eu-1".into()));
        for bad in ["zone", "=x", "a b=c"] {
            assert!(label(bad).is_err(), "{bad}");
        }
        let labels = labels(&[("arch".into(), "mine".into()), ("zone".into(), "z".into())]).unwrap();
        assert_eq!(labels.get("arch").map(String::as_str), Some("mine"));
        assert_eq!(labels.get("os").map(String::as_str), Some(std::env::consts::OS));
    }
}
