//! `lattice up`: NATS and a few nodes on this machine, as processes of their own, in one terminal. What it starts, it
//! stops; what it makes, it removes.

mod children;
mod http;
pub mod server;

use super::{deploy, node::https::HttpsArgs, rollout, source};
use crate::{
    Context,
    client::Client,
    connection::NatsArgs,
    error::{Exit, Failure},
    output::{Cell, Table, Tone},
};
use anyhow::Context as _;
use children::{Child, Children};
use lattice::{
    id::LatticeId,
    spec::{HostPattern, WorkloadSpec},
    store::Headers,
    units::{Bytes, Millicores},
};
use lattice_host_node::GpuSelector;
use serde::Serialize;
use server::NatsServer;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::signal::unix::{Signal, SignalKind, signal};

const HTTP_PORT: u16 = 8001;
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const READY_EVERY: Duration = Duration::from_millis(50);
const DEPLOY_TIMEOUT: Duration = Duration::from_secs(120);
/// All nodes stop at once, so nobody is there to hand over to; this is for requests that are being answered.
const NODE_DRAIN: &str = "3s";
/// A little more.
const STOP_TIMEOUT: Duration = Duration::from_secs(6);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Start NATS and some nodes on this machine, to try things out
///
/// Ctrl-C stops and removes everything. Nodes are processes of their own: kill one and see what happens.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice up                              three nodes; then follow what it prints
  lattice up --deploy hello.yaml --deploy shop.yaml
  lattice up --nodes 5 --http-port 9001 --data ./lattice-data
  lattice up --https 127.0.0.1:8443 --https-cert site.pem --https-key site.key
  lattice up -o json                      one JSON document when everything runs")]
pub struct Args {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: u16,
    /// The nats-server to start [env: LATTICE_NATS_SERVER] [default: beside this program, or from PATH]
    #[arg(long, value_name = "PATH")]
    nats_server: Option<PathBuf>,
    /// HTTP port of the first node; the others take the next ones [default: 8001, or free ones where taken]
    #[arg(long, value_name = "PORT")]
    http_port: Option<u16>,
    #[command(flatten)]
    https: HttpsArgs,
    /// GPUs that guests on the first node may use, as `lattice node --gpu` has it: off, auto, cpu, or a part of a name. The other
    /// nodes give none, for they have the same ones
    #[arg(long, env = "LATTICE_GPU", default_value_t, value_name = "SELECTOR")]
    gpu: GpuSelector,
    /// A spec or component to deploy once the nodes are ready. Repeat it for more
    #[arg(long, value_name = "SPEC")]
    deploy: Vec<String>,
    /// Keep everything in this directory, also after the end [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Leave the temporary directory behind
    #[arg(long)]
    keep: bool,
    /// What the nodes log to this terminal
    #[arg(long, default_value = "warn", value_name = "FILTER")]
    log: String,
}

/// Ctrl-C, SIGTERM, and the terminal's end.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Stop {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("can't listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Where everything is kept: a directory of the user's, or one of ours.
enum Home {
    Given(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Home {
    fn new(args: &Args) -> anyhow::Result<Self> {
        let Some(dir) = &args.data else {
            let mut builder = tempfile::Builder::new();
            builder.prefix("lattice-up-").disable_cleanup(args.keep);
            return Ok(Home::Temporary(builder.tempdir().context("can't make a temporary directory")?));
        };
        std::fs::create_dir_all(dir).with_context(|| format!("can't make {}", dir.display()))?;
        Ok(Home::Given(std::path::absolute(dir)?))
    }

    fn path(&self) -> &std::path::Path {
        match self {
            Home::Given(path) => path,
            Home::Temporary(dir) => dir.path(),
        }
    }
}

/// One node as it was started.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
struct NodeInfo {
    node: String,
    pid: u32,
    http: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    https: Option<String>,
    admin: String,
}

/// One request through one node.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Probe {
    workload: String,
    host: String,
    path: String,
    via: String,
    status: Option<u16>,
    answered_by: Option<String>,
    first_line: String,
    milliseconds: f64,
}

/// What runs, and where.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Summary {
    lattice: LatticeId,
    nats: String,
    nats_server: String,
    nats_pid: u32,
    data: PathBuf,
    nodes: Vec<NodeInfo>,
    probes: Vec<Probe>,
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let mut stop = Stop::new()?;
    let specs = args.deploy.iter().map(|file| source::read_all(file, &source::Overrides::default()));
    let specs = specs.collect::<anyhow::Result<Vec<Vec<source::Prepared>>>>()?.into_iter().flatten().collect();
    // Each node reads them itself; what is wrong with them is better said once.
    args.https.load()?;
    let found = server::find(args.nats_server.as_deref())?;
    let home = Home::new(&args)?;
    let mut children = Children::default();
    let started = tokio::select! {
        biased;
        () = stop.asked() => None,
        started = start(&args, context, &found, &home, specs, &mut children) => Some(started),
    };
    let outcome = match started {
        None => Ok(Exit::Interrupted),
        Some(Err(error)) => Err(error),
        Some(Ok(summary)) => match context.out.show(&summary, |_| next_steps(&summary), || names(&summary)) {
            Ok(()) => watch(&mut children, &mut stop, context).await,
            Err(error) => Err(error),
        },
    };
    context.out.note("stopping");
    tokio::select! {
        () = children.stop(STOP_TIMEOUT) => {}
        () = stop.asked() => {
            context.out.note("stopping at once");
            children.kill().await;
        }
    }
    if args.keep || args.data.is_some() {
        context.out.note(format!("kept: {}", home.path().display()));
    }
    outcome
}

/// Stay until asked to stop. A child that ends is reported and not started again: `kill -9` is there to be tried.
async fn watch(children: &mut Children, stop: &mut Stop, context: &Context) -> anyhow::Result<Exit> {
    loop {
        tokio::select! {
            biased;
            () = stop.asked() => return Ok(Exit::Ok),
            (name, status) = children.next_exit() => {
                context.out.note(format!("{} ended: {status}", context.out.note_paint.strong(&name)));
                if children.is_empty() {
                    return Err(Failure::failed("everything that was started has ended").into());
                }
            }
        }
    }
}

async fn start(
    args: &Args,
    context: &Context,
    found: &server::Found,
    home: &Home,
    specs: Vec<source::Prepared>,
    children: &mut Children,
) -> anyhow::Result<Summary> {
    let begin = Instant::now();
    context.out.note(format!("starting {} ({})", found.path.display(), found.version));
    let nats = NatsServer::start(found, &home.path().join("nats"), children).await?;
    let nodes = start_nodes(args, context, home, &nats, children)?;
    wait_ready(&nodes, children, context).await?;
    context.out.note(format!("{} nodes are ready after {:.1} s", nodes.len(), begin.elapsed().as_secs_f32()));

    let mut probes = Vec::new();
    if !specs.is_empty() {
        // Not what the user's own environment or nats contexts say: the server that was started here.
        let nats = NatsArgs { url: Some(nats.url.clone()), token: Some(nats.token.clone()), ..NatsArgs::default() };
        let client = Client::connect(&nats, &context.lattice).await?;
        for prepared in &specs {
            context.out.note(format!("deploying {}", prepared.spec.name));
            let put = deploy::submit(&client, context, prepared, Headers::new()).await?;
            rollout::arrive(&client, context, &put, Some(DEPLOY_TIMEOUT)).await?;
        }
        for prepared in &specs {
            probes.extend(probe(&prepared.spec, &nodes).await);
        }
    }
    Ok(Summary {
        lattice: context.lattice.clone(),
        nats: nats.url_with_token(),
        nats_server: format!("{} ({})", found.path.display(), found.version),
        nats_pid: nats.pid,
        data: home.path().to_owned(),
        nodes,
        probes,
    })
}

fn start_nodes(
    args: &Args,
    context: &Context,
    home: &Home,
    nats: &NatsServer,
    children: &mut Children,
) -> anyhow::Result<Vec<NodeInfo>> {
    let own = std::env::current_exe().context("can't find this program's own file")?;
    let Ports { http, https, admin: admins } = ports(args)?;
    let memory = Bytes(super::node::memory() / u64::from(args.nodes));
    let cpus = Millicores(super::node::cpus().0 / u64::from(args.nodes));
    let mut nodes = Vec::new();
    for (index, (http, admin)) in http.into_iter().zip(admins).enumerate() {
        let number = index + 1;
        let name = format!("n{number}");
        let mut command = children::command(&own);
        command.args(["node", "--timing", "dev", "--log", &args.log, "--drain-timeout", NODE_DRAIN]);
        command.args(["--lattice", context.lattice.as_str(), "--id", &name, "--label", &format!("zone=z{number}")]);
        command.args(["--http", &http.to_string(), "--admin", &admin.to_string(), "--memory", &memory.to_string()]);
        command.args(["--cpus", &cpus.to_string()]);
        command.arg("--data").arg(home.path().join(&name));
        command.args(["--gpu", &if index == 0 { args.gpu.to_string() } else { "off".to_owned() }]);
        let https = https.get(index).copied();
        command.args(https.into_iter().flat_map(|address| args.https.arguments(address)));
        // The command line of a process is there for all users to see, its environment is not.
        nats.put_in_environment(&mut command);
        let child = Child::spawn(&name, command, Some((index, context.out.note_paint)))?;
        let (http, admin) = (http.to_string(), admin.to_string());
        let https = https.map(|address| address.to_string());
        nodes.push(NodeInfo { node: name, pid: child.pid, http, https, admin });
        children.add(child);
    }
    Ok(nodes)
}

/// Addresses of the nodes, in their order. `https` is empty where nobody asks for it.
struct Ports {
    http: Vec<SocketAddr>,
    https: Vec<SocketAddr>,
    admin: Vec<SocketAddr>,
}

/// The listeners are held until all are chosen, so that none is chosen twice.
fn ports(args: &Args) -> anyhow::Result<Ports> {
    let mut held = Vec::new();
    let mut take_at = |ip: IpAddr, port: u16| -> std::io::Result<SocketAddr> {
        let listener = TcpListener::bind((ip, port))?;
        let address = listener.local_addr()?;
        held.push(listener);
        Ok(address)
    };
    let mut https = Vec::new();
    for index in (0..args.nodes).filter(|_| args.https.address.is_some()) {
        let Some(first) = args.https.address else { break };
        // Port 0 is a free one for each.
        let port = if first.port() == 0 { Some(0) } else { first.port().checked_add(index) };
        let port = port.ok_or_else(|| Failure::usage("the port of --https is too high for so many nodes"))?;
        https.push(take_at(first.ip(), port).with_context(|| {
            let message = format!("{}:{port} can't be used for HTTPS", first.ip());
            Failure::failed(message).hint("choose another with --https; the nodes take its port and the next ones")
        })?);
    }
    let mut take = |port: u16| take_at(Ipv4Addr::LOCALHOST.into(), port);
    let mut http = Vec::new();
    for index in 0..args.nodes {
        let wanted = args.http_port.unwrap_or(HTTP_PORT).checked_add(index);
        let taken = match wanted.map(&mut take) {
            Some(Ok(address)) => address,
            Some(Err(error)) if args.http_port.is_some() => {
                let message = format!("port {} can't be used for HTTP", wanted.unwrap_or_default());
                let hint = "choose another with --http-port, or leave it out to get free ones";
                return Err(anyhow::Error::new(error).context(Failure::failed(message).hint(hint)));
            }
            Some(Err(_)) => take(0).context("no free port")?,
            None => return Err(Failure::usage("--http-port is too high for so many nodes").into()),
        };
        http.push(taken);
    }
    let admin = (0..args.nodes).map(|_| take(0)).collect::<Result<_, _>>().context("no free port")?;
    Ok(Ports { http, https, admin })
}

async fn wait_ready(nodes: &[NodeInfo], children: &mut Children, context: &Context) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + READY_TIMEOUT;
    let all = async {
        for node in nodes {
            let mut missing = String::new();
            loop {
                match http::get(&node.admin, "localhost", "/readyz", Duration::from_secs(1)).await {
                    Ok(answer) if answer.status == 200 => break,
                    Ok(answer) => missing = answer.text().lines().skip(1).collect::<Vec<_>>().join(", "),
                    Err(error) if missing.is_empty() => missing = format!("{error:#}"),
                    Err(_) => {}
                }
                if tokio::time::Instant::now() >= deadline {
                    let message =
                        format!("node {} is not ready after {} s: {missing}", node.node, READY_TIMEOUT.as_secs());
                    return Err(Failure::failed(message).hint("see what it logs with --log info").into());
                }
                tokio::time::sleep(READY_EVERY).await;
            }
            context.out.note(format!("  {} is ready: http://{}", node.node, node.http));
        }
        Ok(())
    };
    tokio::select! {
        ready = all => ready,
        (name, status) = children.next_exit() => {
            Err(Failure::failed(format!("{name} ended while starting: {status}")).hint("its last lines are above").into())
        }
    }
}

/// Ask for the workload's first route that asks for no more than host and path through every node.
async fn probe(spec: &WorkloadSpec, nodes: &[NodeInfo]) -> Vec<Probe> {
    let Some(route) = spec.http.routes.iter().find(|route| !route.has_conditions()) else { return Vec::new() };
    let host = match &route.host {
        HostPattern::Any => "any.test".to_owned(),
        HostPattern::Under(name) => format!("any.{name}"),
        HostPattern::Exact(name) => name.clone(),
    };
    let mut probes = Vec::new();
    for node in nodes {
        let begin = Instant::now();
        let answer = http::get(&node.http, &host, route.path.as_str(), REQUEST_TIMEOUT).await;
        let milliseconds = (begin.elapsed().as_secs_f64() * 1e4).round() / 10.0;
        let (status, answered_by, first_line) = match answer {
            Ok(answer) => {
                let line = answer.text().lines().next().unwrap_or_default().to_owned();
                (Some(answer.status), answer.header(lattice_router::HEADER_NODE), line)
            }
            Err(error) => (None, None, format!("{error:#}")),
        };
        probes.push(Probe {
            workload: spec.name.to_string(),
            host: host.clone(),
            path: route.path.as_str().to_owned(),
            via: node.node.clone(),
            status,
            answered_by,
            first_line: first_line.chars().filter(|c| !c.is_control()).take(60).collect(),
            milliseconds,
        });
    }
    probes
}

fn names(summary: &Summary) -> Vec<String> {
    summary.nodes.iter().map(|node| format!("http://{}", node.http)).collect()
}

/// What people see when everything runs.
fn next_steps(summary: &Summary) -> String {
    let paint = crate::output::Paint::stdout();
    let mut text = String::new();
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    if !summary.probes.is_empty() {
        let mut table = Table::new(&["REQUEST", "VIA", "STATUS", "ANSWERED BY", "TIME", "BODY"]);
        for probe in &summary.probes {
            let tone = if probe.status.is_some_and(|status| status < 400) { Tone::Good } else { Tone::Bad };
            table.row([
                format!("GET http://{}{}", probe.host, probe.path).into(),
                probe.via.as_str().into(),
                Cell::new(probe.status.map_or_else(|| "-".to_owned(), |status| status.to_string()), tone),
                probe.answered_by.as_deref().unwrap_or("-").into(),
                format!("{:.1} ms", probe.milliseconds).into(),
                probe.first_line.as_str().into(),
            ]);
        }
        line(String::new());
        line(table.render(paint));
    }
    let mut table = Table::new(&["NODE", "HTTP", "HTTPS", "ADMIN", "PID"]);
    for node in &summary.nodes {
        let url = |address: &str| Cell::from(format!("http://{address}"));
        let https = node.https.as_ref().map_or_else(|| "-".to_owned(), |address| format!("https://{address}"));
        table.row([node.node.as_str().into(), url(&node.http), https.into(), url(&node.admin), node.pid.into()]);
    }
    line(table.render(paint));
    let nats = &summary.nats;
    line(paint.strong("Try next, in another terminal:"));
    line(format!("  export NATS_URL={nats}"));
    let lattice = summary.lattice.as_str();
    if lattice != "default" {
        line(format!("  export LATTICE={lattice}"));
    }
    match summary.probes.first() {
        Some(probe) => {
            for node in &summary.nodes {
                line(format!("  curl -i -H 'host: {}' http://{}{}", probe.host, node.http, probe.path));
            }
            // The certificate is for the name: it has to be the one that is asked for.
            if let Some(https) = summary.nodes.first().and_then(|node| node.https.as_ref()) {
                let (host, path) = (&probe.host, &probe.path);
                let port = https.rsplit(':').next().unwrap_or_default();
                line(format!("  curl -i --connect-to {host}:{port}:{https} https://{host}:{port}{path}"));
            }
        }
        None => line("  lattice deploy hello.wasm".into()),
    }
    line("  lattice list".into());
    let killed = summary.probes.iter().find_map(|probe| probe.answered_by.as_deref());
    let victim = summary.nodes.iter().find(|node| Some(node.node.as_str()) == killed).or(summary.nodes.last());
    if let Some(node) = victim {
        line(format!(
            "  kill -9 {:<8}                 # {} is gone: curl the others, then `lattice events`",
            node.pid, node.node
        ));
    }
    line(format!("  nats req lattice.{lattice}.ctl.workload.list ''     # the same interface, with any NATS client"));
    line(String::new());
    line(paint.dim("Ctrl-C stops and removes everything."));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(http_port: Option<u16>) -> Args {
        let https = HttpsArgs::at("127.0.0.1:0".parse().unwrap());
        let log = "warn".into();
        Args {
            nodes: 3,
            nats_server: None,
            http_port,
            https,
            deploy: vec![],
            data: None,
            keep: false,
            log,
            gpu: GpuSelector::default(),
        }
    }

    #[test]
    fn ports_are_distinct_and_a_taken_one_is_an_error_only_if_asked_for() {
        let Ports { http, https, admin } = ports(&args(None)).unwrap();
        let mut all: Vec<_> = http.iter().chain(&https).chain(&admin).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 9);
        assert!(ports(&Args { https: HttpsArgs::default(), ..args(None) }).unwrap().https.is_empty());
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        assert!(ports(&args(Some(port))).is_err());
        assert!(ports(&args(Some(u16::MAX))).is_err());
        let https = HttpsArgs::at(taken.local_addr().unwrap());
        let error = ports(&Args { https, ..args(None) }).err().map(|error| format!("{error:#}"));
        assert!(error.is_some_and(|error| error.contains("HTTPS")));
    }

    #[test]
    fn the_next_steps_can_be_pasted() {
        let node = NodeInfo {
            node: "n1".into(),
            pid: 42,
            http: "127.0.0.1:8001".into(),
            https: Some("127.0.0.1:8443".into()),
            admin: "127.0.0.1:9".into(),
        };
        let probe = Probe {
            workload: "hello".into(),
            host: "hello.test".into(),
            path: "/".into(),
            via: "n1".into(),
            status: Some(200),
            answered_by: Some("n1".into()),
            first_line: "Hello".into(),
            milliseconds: 1.5,
        };
        let text = next_steps(&Summary {
            lattice: LatticeId::new("default").unwrap(),
            nats: "nats://t@127.0.0.1:1".into(),
            nats_server: "nats-server".into(),
            nats_pid: 1,
            data: "data".into(),
            nodes: vec![node],
            probes: vec![probe],
        });
        for line in [
            "  export NATS_URL=nats://t@127.0.0.1:1\n",
            "  curl -i -H 'host: hello.test' http://127.0.0.1:8001/\n",
            "  curl -i --connect-to hello.test:8443:127.0.0.1:8443 https://hello.test:8443/\n",
            "  kill -9 42 ",
            "nats req lattice.default.ctl.workload.list",
        ] {
            assert!(text.contains(line), "{line:?} is not in {text}");
        }
    }
}
