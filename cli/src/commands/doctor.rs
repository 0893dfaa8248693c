//! `lattice doctor`: one check after the other, from the options to the nodes, each with what to do about it. A check
//! that the ones behind it depend on ends the list where it fails. Changes nothing.

mod permissions;
mod telemetry;
mod times;

use super::node::{DEFAULT_ADMIN, DEFAULT_HTTP, default_data_dir};
use crate::{
    Context,
    client::Client,
    connection::{self, Surroundings},
    error::{Exit, exit_of},
    lists,
    output::{Paint, size},
};
use bytes::Bytes;
use lattice::{
    frame::FRAME_BYTES_MIN,
    limits::CTL_TIMEOUT,
    store::{Bucket, Headers},
    subject,
};
use lattice_nats::ConnectError;
use serde::Serialize;
use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

/// Check NATS, the lattice and this machine, and say what to do
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice doctor
  lattice doctor --nats tls://nats.example.org --creds me.creds
  lattice doctor -o json")]
pub struct Args {
    /// Data directory that a node on this machine would use
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Grade {
    Good,
    /// Works, but look at it.
    Doubtful,
    Bad,
}

/// What was looked at, and what was seen.
#[derive(Debug, Clone, Serialize)]
struct Check {
    what: &'static str,
    grade: Grade,
    seen: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Check {
    fn good(what: &'static str, seen: impl Into<String>) -> Self {
        Self { what, grade: Grade::Good, seen: seen.into(), remedy: None }
    }
    fn doubtful(what: &'static str, seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what, grade: Grade::Doubtful, seen: seen.into(), remedy: Some(remedy.into()) }
    }
    fn bad(what: &'static str, seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what, grade: Grade::Bad, seen: seen.into(), remedy: Some(remedy.into()) }
    }
}

/// Prints each check when it is done: some take seconds.
struct Report<'a> {
    context: &'a Context,
    worst: Grade,
}

impl Report<'_> {
    fn add(&mut self, check: Check) -> anyhow::Result<()> {
        if check.grade == Grade::Bad || self.worst == Grade::Good {
            self.worst = check.grade;
        }
        self.context.out.show_item(&check, |paint| render(&check, paint), || check.what.to_owned())
    }
}

fn render(check: &Check, paint: Paint) -> String {
    let mark = match check.grade {
        Grade::Good => paint.good("✓"),
        Grade::Doubtful => paint.warn("!"),
        Grade::Bad => paint.bad("✗"),
    };
    let mut line = format!("{mark} {:<12} {}", check.what, check.seen);
    if let Some(remedy) = &check.remedy {
        line.push_str(&format!("\n  {:<12} {}", "", paint.strong(format!("→ {remedy}"))));
    }
    line
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let mut report = Report { context, worst: Grade::Good };
    remote(context, &mut report).await?;
    let data = args.data.or_else(|| default_data_dir(&context.lattice));
    for check in [port("port http", DEFAULT_HTTP, "--http"), port("port admin", DEFAULT_ADMIN, "--admin")] {
        report.add(check)?;
    }
    report.add(disk(data.as_deref()))?;
    if let Some(check) = telemetry::check(lattice_telemetry::Settings::of_process()).await {
        report.add(check)?;
    }
    Ok(if report.worst == Grade::Bad { Exit::Failed } else { Exit::Ok })
}

/// The checks that need the network; those behind a failed one are left out.
async fn remote(context: &Context, report: &mut Report<'_>) -> anyhow::Result<()> {
    let settings = match connection::resolve(&context.nats, &Surroundings::of_process()) {
        Ok(settings) => settings,
        Err(error) => return report.add(Check::bad("options", format!("{error:#}"), "correct the options named here")),
    };
    report.add(Check::good("options", settings.summary()))?;
    let options = match settings.into_options("lattice doctor") {
        Ok(options) => options,
        Err(error) => return report.add(Check::bad("options", format!("{error:#}"), "correct the options named here")),
    };
    let servers = options.servers.join(", ");
    let nats = match lattice_nats::connect(options).await {
        Ok(nats) => nats,
        Err(error) => return report.add(connect_failure(&error, &servers)),
    };
    let server = nats.server();
    let cluster = server.cluster.as_ref().map_or_else(String::new, |name| format!(", cluster {name}"));
    report.add(Check::good("connection", format!("{} at {}:{}{cluster}", server.name, server.host, server.port)))?;
    report.add(version(&server.version))?;
    report.add(payload(server.payload_bytes_max))?;
    report.add(match nats.round_trip().await {
        Ok(time) if time > Duration::from_millis(100) => Check::doubtful(
            "round trip",
            format!("{:.1} ms", time.as_secs_f64() * 1e3),
            "claims and renewals wait for it: use a server nearby, or a leaf node here",
        ),
        Ok(time) => Check::good("round trip", format!("{:.1} ms", time.as_secs_f64() * 1e3)),
        Err(error) => Check::bad("round trip", error.to_string(), "the connection broke: look at the server's log"),
    })?;
    match nats.api_level().await {
        Ok(Some(level)) if level >= lattice_nats::API_LEVEL_LEAST => {
            report.add(Check::good("jetstream", format!("API level {level}")))?;
        }
        Ok(level) => {
            let level = level.map_or_else(|| "none".to_owned(), |level| level.to_string());
            let remedy = "use nats-server 2.12.8 or newer (2.11 is the least)";
            return report.add(Check::bad("jetstream", format!("API level {level}"), remedy));
        }
        Err(error) => {
            let remedy =
                "start the server with `nats-server -js`, enable JetStream for this account, or allow $JS.API.>";
            return report.add(Check::bad("jetstream", error.to_string(), remedy));
        }
    }
    let client = Client::over(nats, context.lattice.clone());
    report.add(permissions::check(&client).await)?;
    match client.nats.open(&context.lattice, false).await {
        Ok(_) => report.add(buckets(&client).await)?,
        Err(error) => {
            let remedy = format!(
                "the first node makes what is missing: `lattice node --lattice {}`, or `lattice up`",
                context.lattice
            );
            return report.add(Check::bad("buckets", error.to_string(), remedy));
        }
    }
    report.add(nodes(&client).await)?;
    report.add(times::check(&client).await)
}

fn connect_failure(error: &ConnectError, servers: &str) -> Check {
    let remedy = match error {
        ConnectError::Unauthorised { .. } => {
            "check --creds, --nkey, --user or --token: the first line says which is used"
        }
        ConnectError::Unreachable { .. } => {
            "is a server there, and its port open to this machine? `lattice up` starts one here; for TLS give --tlsca"
        }
        _ => "correct the options named here",
    };
    Check::bad("connection", format!("{servers}: {error}"), remedy)
}

fn version(text: &str) -> Check {
    match super::up::server::parse_version(text) {
        None => Check::doubtful("version", format!("{text:?}"), "not a version that this program knows"),
        Some(version) if version < (2, 11, 0) => {
            Check::bad("version", text, "use nats-server 2.12.8 or newer: compare-and-set is not safe before 2.11")
        }
        Some(version) if version < (2, 12, 8) => Check::doubtful("version", text, "2.12.8 or newer is recommended"),
        Some(_) => Check::good("version", text),
    }
}

/// What one message may carry.
fn payload(bytes: usize) -> Check {
    let seen = size(bytes as u64);
    let remedy = "set max_payload to 1MB, which is nats-server's own default";
    if bytes < FRAME_BYTES_MIN {
        Check::bad("max payload", format!("{seen}: nodes can't hand requests to each other"), remedy)
    } else if bytes < PAYLOAD_BYTES_ENOUGH {
        let what = "heads of requests and responses that are larger, less about 1 KiB, are refused, and bodies take more messages";
        Check::doubtful("max payload", format!("{seen}: {what}"), remedy)
    } else {
        Check::good("max payload", seen)
    }
}

/// Ask JetStream for something in JSON.
async fn jetstream(client: &Client, subject: String, body: &str) -> anyhow::Result<serde_json::Value> {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let reply = client.bus().request(subject, Headers::new(), body, CTL_TIMEOUT).await?;
    let value: serde_json::Value = serde_json::from_slice(&reply.payload)?;
    if let Some(error) = value.pointer("/error/description").and_then(|text| text.as_str()) {
        anyhow::bail!("{error}");
    }
    Ok(value)
}

/// Sizes and copies. What must hold of them was checked when they were opened.
async fn buckets(client: &Client) -> Check {
    let lattice = &client.lattice;
    let mut names: Vec<String> =
        Bucket::ALL.into_iter().map(|bucket| format!("KV_{}", subject::bucket_name(lattice, bucket))).collect();
    names.push(format!("OBJ_{}", subject::artifacts_name(lattice)));
    names.push(format!("KV_{}", subject::secrets_name(lattice)));
    names.push(subject::events_stream(lattice));
    let mut seen = Vec::new();
    let mut copies_least = u64::MAX;
    for name in names {
        let info = match jetstream(client, format!("$JS.API.STREAM.INFO.{name}"), "").await {
            Ok(info) => info,
            Err(error) => {
                return Check::bad("buckets", format!("stream {name}: {error:#}"), "start a node: it makes it");
            }
        };
        let number = |path: &str| info.pointer(path).and_then(serde_json::Value::as_u64).unwrap_or_default();
        copies_least = copies_least.min(number("/config/num_replicas"));
        let short = name.rsplit('-').next().unwrap_or(&name).to_owned();
        seen.push(format!("{short} {}", size(number("/state/bytes"))));
    }
    let seen = format!("{}; copies: {copies_least}", seen.join(", "));
    match client.nats.server().cluster {
        Some(_) if copies_least < 3 => Check::doubtful(
            "buckets",
            seen,
            "on a cluster keep three copies: `nats stream edit NAME --replicas 3` for each stream of the lattice",
        ),
        _ => Check::good("buckets", seen),
    }
}

async fn nodes(client: &Client) -> Check {
    let lattice = &client.lattice;
    match lists::nodes(client).await {
        Ok(nodes) if nodes.is_empty() => {
            Check::bad("nodes", "none", format!("start one: `lattice node --lattice {lattice}`"))
        }
        Ok(nodes) => {
            let draining = nodes.iter().filter(|node| node.session.draining).count();
            let mut versions: Vec<&str> = nodes.iter().map(|node| node.session.version.as_str()).collect();
            versions.sort_unstable();
            versions.dedup();
            let seen = format!("{} alive, {draining} draining; version {}", nodes.len(), versions.join(", "));
            if versions.len() > 2 {
                Check::doubtful("nodes", seen, "nodes read each other's records one version back: upgrade the oldest")
            } else {
                Check::good("nodes", seen)
            }
        }
        Err(error) if exit_of(&error) == Exit::NotAuthorised => {
            Check::bad("nodes", format!("{error:#}"), "this user may not use the control interface")
        }
        Err(error) => Check::bad(
            "nodes",
            format!("{error:#}"),
            format!("start a node: `lattice node --lattice {lattice}`; `curl http://ADMIN/readyz` asks a running one"),
        ),
    }
}

fn port(what: &'static str, address: SocketAddr, option: &str) -> Check {
    match TcpListener::bind(address) {
        Ok(_) => Check::good(what, format!("{address} is free")),
        Err(error) => {
            let remedy = format!("only a new node here would mind: give it another with {option}");
            Check::doubtful(what, format!("{address}: {error}"), remedy)
        }
    }
}

/// A chunk of a body and its frame; a head is never larger.
const PAYLOAD_BYTES_ENOUGH: usize = 64 * 1024;
/// Room for a cache of compiled components.
const DISK_FREE_LEAST: u64 = 1 << 30;

fn disk(dir: Option<&Path>) -> Check {
    let Some(dir) = dir else {
        return Check::doubtful("data", "no home directory", "nodes need --data DIR");
    };
    // The directory itself is made by the node.
    let existing = dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
    let shown = dir.display();
    if let Err(error) = tempfile::tempfile_in(existing) {
        let remedy = "give the user of the node the right to write there, or another directory with --data";
        return Check::doubtful("data", format!("{shown} can't be written: {error}"), remedy);
    }
    match rustix::fs::statvfs(existing) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let seen = format!("{shown}: {} free", size(free));
            if free < DISK_FREE_LEAST {
                Check::doubtful(
                    "data",
                    seen,
                    "compiled components are kept there: make room, or name another with --data",
                )
            } else {
                Check::good("data", seen)
            }
        }
        Err(error) => Check::doubtful("data", format!("{shown}: {error}"), "name another directory with --data"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_a_least_and_a_recommended_one() {
        for (text, grade) in [
            ("2.9.10", Grade::Bad),
            ("2.10.27", Grade::Bad),
            ("2.11.0", Grade::Doubtful),
            ("2.12.7", Grade::Doubtful),
            ("2.12.8", Grade::Good),
            ("2.15.1-beta", Grade::Good),
            ("x", Grade::Doubtful),
        ] {
            assert_eq!(version(text).grade, grade, "{text}");
        }
    }

    #[test]
    fn small_messages_are_told() {
        for (bytes, grade) in
            [(1 << 20, Grade::Good), (64 << 10, Grade::Good), (16 << 10, Grade::Doubtful), (4096, Grade::Bad)]
        {
            assert_eq!(payload(bytes).grade, grade, "{bytes}");
        }
    }

    #[test]
    fn a_taken_port_and_a_closed_directory_are_seen() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        assert_eq!(port("p", address, "--http").grade, Grade::Doubtful);
        drop(taken);
        assert_eq!(port("p", address, "--http").grade, Grade::Good);
        let dir = tempfile::tempdir().unwrap();
        assert!(disk(Some(&dir.path().join("not/yet"))).seen.contains("free"));
        assert_eq!(disk(None).grade, Grade::Doubtful);
    }

    #[test]
    fn a_check_is_one_line_and_its_remedy_another() {
        assert_eq!(render(&Check::good("version", "2.12.8"), Paint::off()), "✓ version      2.12.8");
        let bad = Check::bad("jetstream", "off", "turn it on");
        assert_eq!(render(&bad, Paint::off()), "✗ jetstream    off\n               → turn it on");
    }
}
