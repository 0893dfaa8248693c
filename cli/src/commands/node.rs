//! `lattice node`: one node of a lattice. Joins the control plane, the host and the router of this process; decides
//! nothing itself.

mod admin;
mod data_dir;
mod drivers;
pub mod https;
mod join;
mod machine;
mod telemetry;
mod trigger;

use crate::{
    Context,
    connection::{self, Surroundings, env},
    error::{Exit, Failure},
};
use admin::{Admin, Parts};
use anyhow::Context as _;
use data_dir::DataDir;
use https::HttpsArgs;
use lattice::{
    address::{AddressPolicy, Cidr},
    id::{LatticeId, NodeId},
    limits::{LABELS_MAX, TAINTS_MAX},
    record::{Capacity, VolumeOffer},
    spec::{MountPath, Taint, is_label_key, is_label_value},
    units::{Bytes, Millicores, Millis},
};
use lattice_control_plane::{ControlPlane, ControlPlaneError, NodeOptions, Timing};
use lattice_host_node::{GpuSelector, Gpus, HostNode, HostOptions, NetworkOptions, VolumeOptions};
use lattice_nats::GuestBuckets;
use lattice_router::{Network, Router, RouterOptions, Tls};
use lattice_telemetry::Telemetry;
pub use machine::{cpus, memory};
use prometheus_client::registry::Registry;
use std::{
    collections::BTreeMap,
    io::IsTerminal as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use telemetry::{AccessLogArgs, Observing};
use tokio::{
    net::TcpListener,
    runtime::Handle,
    signal::unix::{Signal, SignalKind, signal},
    task::JoinError,
};
use tokio_util::sync::CancellationToken;
use trigger::RouterTrigger;

pub const DEFAULT_HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000);
pub const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9000);

/// What the NATS client says of its connection, `lattice-nats` says once more and better.
const LOG_DEFAULT: &str = "info,async_nats=warn";
/// How long the end of a node may take for the last telemetry.
const TELEMETRY_STOP: Duration = Duration::from_secs(2);

/// Run a node of a lattice
///
/// It joins by connecting to NATS. On SIGTERM or Ctrl-C it leaves: it hands over what it runs, finishes the requests
/// that it has, and ends.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice node                            on this machine's NATS, HTTP on 127.0.0.1:8000
  lattice node --nats tls://a.example.org,tls://b.example.org --creds node.creds \\
      --http 0.0.0.0:80 --label zone=eu-1 --label disk=nvme
  lattice node --https 0.0.0.0:443 --https-cert site.pem --https-key site.key
  curl http://127.0.0.1:9000/readyz       200 once it is connected and knows the lattice
  lattice node --data ./second --http 127.0.0.1:8001 --admin 127.0.0.1:9001")]
pub struct Args {
    /// Id of the node [default: the one kept in the data directory, made up the first time]
    #[arg(long, env = "LATTICE_NODE_ID")]
    id: Option<NodeId>,
    /// A label for placement; arch, os and hostname are set already. Repeat it for more
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Keep away workloads that do not tolerate it: KEY=VALUE:no-place for new replicas, KEY=VALUE:no-run for all. Repeat it
    /// for more
    #[arg(long = "taint", value_name = "TAINT")]
    taints: Vec<Taint>,
    /// Where to take HTTP
    #[arg(long, env = "LATTICE_HTTP", default_value_t = DEFAULT_HTTP, value_name = "ADDR")]
    http: SocketAddr,
    #[command(flatten)]
    https: HttpsArgs,
    /// A proxy in front of this node, or a block of them such as 10.0.0.0/8, that is believed what it says about clients
    /// in x-forwarded-*, forwarded and x-real-ip. Repeat it for more
    #[arg(long = "trusted-proxy", env = "LATTICE_TRUSTED_PROXY", value_delimiter = ',', value_name = "CIDR")]
    trusted_proxies: Vec<Network>,
    /// Where /livez, /readyz and /metrics are; keep it private
    #[arg(long, env = "LATTICE_ADMIN", default_value_t = DEFAULT_ADMIN, value_name = "ADDR")]
    admin: SocketAddr,
    /// What the node keeps over restarts [default: $XDG_DATA_HOME/lattice/LATTICE]
    #[arg(long, env = "LATTICE_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Memory that replicas may reserve, such as 4GiB [default: three quarters of the machine's]
    #[arg(long, value_name = "SIZE")]
    memory: Option<Bytes>,
    /// Processors that replicas may reserve, such as 4, 0.5 or 500m [default: those that this process may use]
    #[arg(long, value_name = "N")]
    cpus: Option<Millicores>,
    /// Replicas that it takes at a time
    #[arg(long, default_value_t = 256, value_name = "N")]
    slots: u32,
    /// Addresses beyond the public internet that guests with a grant may reach, such as 10.1.0.0/16. Repeat it for more
    #[arg(long, env = "LATTICE_ALLOW_EGRESS", value_delimiter = ',', value_name = "CIDR")]
    allow_egress: Vec<Cidr>,
    /// Certificate authorities that guests' requests trust beside the system's, in PEM
    #[arg(long, env = "LATTICE_EGRESS_CA", value_name = "FILE")]
    egress_ca: Option<PathBuf>,
    /// A directory that guests may be given by a volume of theirs, with all that is below. Repeat it for more
    #[arg(long = "allow-host-path", env = "LATTICE_ALLOW_HOST_PATH", value_delimiter = ',', value_name = "DIR")]
    allow_host_paths: Vec<MountPath>,
    /// Room on the disk, below --data, for all empty volumes of guests together
    #[arg(long, default_value = "10GiB", value_name = "SIZE")]
    volume_space: Bytes,
    /// GPUs that guests may use: off, auto for all real ones, cpu for drivers that compute on the processor, or a part of an
    /// adapter's name, or its PCI address
    #[arg(long, env = "LATTICE_GPU", default_value_t, value_name = "SELECTOR")]
    gpu: GpuSelector,
    /// How often each GPU is tested while the node runs; one that fails gets nothing new until it passes again
    #[arg(long, default_value = "60s", value_name = "DURATION")]
    gpu_check: Millis,
    /// How fast failures are noticed; the same on all nodes of a lattice
    #[arg(long, value_enum, default_value_t, value_name = "PRESET")]
    timing: TimingPreset,
    /// How long leaving may take: requests that run are finished, replicas handed over
    #[arg(long, default_value = "25s", value_name = "DURATION")]
    drain_timeout: Millis,
    /// What to log, such as warn or info,lattice_router=debug [env: RUST_LOG] [default: info,async_nats=warn]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// How to log
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
    #[command(flatten)]
    access_log: AccessLogArgs,
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

/// What this node's guests may reach beyond what their grants say.
fn network(args: &Args) -> anyhow::Result<NetworkOptions> {
    let mut network = NetworkOptions { addresses: AddressPolicy::new(args.allow_egress.clone()), ..Default::default() };
    if let Some(file) = &args.egress_ca {
        let read = std::fs::read(file);
        network.authorities_pem = read.with_context(|| Failure::usage(format!("can't read {}", file.display())))?;
    }
    Ok(network)
}

fn start_logging(args: &Args, telemetry: &Telemetry) -> anyhow::Result<()> {
    use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, registry, util::SubscriberInitExt as _};
    let filter = args.log.clone().or_else(|| env("RUST_LOG")).unwrap_or_else(|| LOG_DEFAULT.into());
    let filter = EnvFilter::try_new(&filter).with_context(|| {
        Failure::usage(format!("{filter:?} is not a log filter")).hint("write info, or warn,lattice_router=debug")
    })?;
    let colours = crate::output::Paint::stderr().is_on();
    let registry = registry().with(filter).with(telemetry.events());
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    let started = match args.log_format {
        LogFormat::Json => registry.with(lines.json()).try_init(),
        // A supervisor that collects lines stamps them itself; people at a terminal need no date.
        LogFormat::Human if std::io::stderr().is_terminal() => registry.with(lines.with_target(false)).try_init(),
        LogFormat::Human => registry.with(lines).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("can't start logging: {error}"))
}

pub fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    if !args.gpu.is_off() {
        drivers::prepare();
    }
    let settings = telemetry::settings()?;
    let data = data_dir(&args, context)?;
    // Guests that compute give way every 10 ms, and tokio looks at sockets and timers once in so many turns: with its
    // default of 61 a node full of such guests would answer nobody for half a second.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().event_interval(8).build();
    let runtime = runtime.context("can't start the async runtime")?;
    let telemetry = telemetry::start(settings, &context.lattice, data.node(), runtime.handle())?;
    start_logging(&args, &telemetry)?;
    let telemetry = Arc::new(telemetry);
    // A thread of its own: however many guests compute, this node renews its session and is not taken for dead.
    let mut control = tokio::runtime::Builder::new_multi_thread();
    let control = control
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
        .context("can't start the control plane's async runtime")?;
    let exit = runtime.block_on(Box::pin(serve(args, context, data, telemetry.clone(), control.handle())));
    telemetry.stop(runtime.handle(), TELEMETRY_STOP);
    // Compilation of a component can't be interrupted; nobody waits for it now.
    runtime.shutdown_background();
    control.shutdown_background();
    exit
}

/// The end of a node, asked for or not.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("can't listen for signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Cancel-safe.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// How the time for leaving is divided: most of it is for handing over and for requests on this node's replicas, the
/// rest for answers that are still on their way through its router.
fn divide(drain: Duration) -> (Duration, Duration) {
    let router = (drain / 5).min(Duration::from_secs(5));
    (drain.saturating_sub(router), router)
}

async fn listen(address: SocketAddr, option: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        Failure::failed(format!("can't listen on {address}")).hint(format!("choose another address with {option}"))
    })
}

/// What the node keeps, and who it is.
fn data_dir(args: &Args, context: &Context) -> anyhow::Result<DataDir> {
    let dir = args.data.clone().or_else(|| default_data_dir(&context.lattice)).ok_or_else(|| {
        Failure::usage("there is no home directory for the node's data").hint("name a directory: --data DIR")
    })?;
    DataDir::open(&dir, args.id.clone())
}

async fn serve(
    args: Args,
    context: &Context,
    data: DataDir,
    telemetry: Arc<Telemetry>,
    control_thread: &Handle,
) -> anyhow::Result<Exit> {
    // What can be wrong here is found before anything is joined.
    let settings = connection::resolve(&context.nats, &Surroundings::of_process())?;
    let labels = labels(&args.labels)?;
    if args.taints.len() > TAINTS_MAX {
        return Err(Failure::usage(format!("{} taints; at most {TAINTS_MAX} are allowed", args.taints.len())).into());
    }
    let mut network = network(&args)?;
    let tls = args.https.load()?;
    let http = listen(args.http, "--http").await?;
    let https = match args.https.address.zip(tls) {
        Some((address, tls)) => Some((listen(address, "--https").await?, tls)),
        None => None,
    };
    let admin_listener = listen(args.admin, "--admin").await?;
    let mut signals = Signals::new()?;

    let node = data.node().clone();
    let admin = Arc::new(Admin::new(node.clone(), context.lattice.clone()));
    let ended = CancellationToken::new();
    let _end_with_us = ended.clone().drop_guard();

    let http_address = http.local_addr().context("can't tell the HTTP address")?;
    let admin_address = admin_listener.local_addr().context("can't tell the admin address")?;
    if let Some((https, _)) = &https {
        let address = https.local_addr().context("can't tell the HTTPS address")?;
        tracing::info!(https = %address, "takes HTTPS");
    }
    tokio::spawn(admin::serve(admin_listener, admin.clone(), ended.clone()));
    tracing::info!(%node, lattice = %context.lattice, http = %http_address, admin = %admin_address, data = %data.path().display(), "starting");
    let name = format!("lattice {} node {node}", context.lattice);
    let guests = GuestBuckets::reaching(settings.clone().into_options(&name)?, network.addresses.clone());
    (network.buckets, network.messaging) = (Arc::new(guests.clone()), Arc::new(guests.clone()));
    network.nats = Arc::new(guests.clone());
    // Two connections: a slow reader of bulk bytes may be cut off by the server, and must not take the session with it.
    let joining = async {
        let lattice = context.lattice.clone();
        let control = control_thread.spawn(join::join(
            settings.clone(),
            lattice.clone(),
            format!("{name} control"),
            guests.clone(),
        ));
        let control = control.await.context("joining was broken off")??;
        let data = join::join(settings, lattice, format!("{name} data"), guests.clone()).await?;
        anyhow::Ok((control, data))
    };
    // Drivers take their time to say what there is.
    let detecting = gpus(&args.gpu);
    let (connections, gpus) = tokio::select! {
        biased;
        () = signals.next() => return Ok(Exit::Ok),
        both = async { tokio::try_join!(joining, detecting) } => both?,
    };
    let ((_control_connection, platform), (_data_connection, data_platform)) = connections;

    let (leave, drain) = divide(args.drain_timeout.into());
    let options = NodeOptions {
        lattice: context.lattice.clone(),
        node: node.clone(),
        labels,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        capacity: Capacity {
            memory: args.memory.map_or_else(memory, |memory| memory.0),
            slots: args.slots,
            millicores: args.cpus.unwrap_or_else(cpus).0,
        },
        volumes: VolumeOffer {
            bytes: args.volume_space.0,
            host_paths: args.allow_host_paths.iter().map(MountPath::to_string).collect(),
        },
        taints: args.taints.clone(),
        offers: Some(lattice_runtime::offers()),
        http: Some(http_address.to_string()),
        timing: args.timing.into(),
        drain: leave,
        data_dir: Some(data.part("specs")),
    };
    let mut metrics = Registry::default();
    let observing = Observing::start(&args.access_log, &telemetry, &mut metrics)?;
    let mut host = HostOptions::new(context.lattice.clone(), node.clone(), data.part("code"));
    host.drain = host.drain.min(leave);
    host.memory_bytes_total = options.capacity.memory;
    host.network = network;
    host.gpus = gpus;
    host.gpu_check = Duration::from(args.gpu_check).max(Duration::from_secs(1));
    host.tracer = telemetry.tracer();
    host.guest_lines = telemetry.guest_lines();
    host.volumes = VolumeOptions {
        dir: Some(data.part("volumes")),
        bytes_total: options.volumes.bytes,
        host_paths: options.volumes.host_paths.iter().map(PathBuf::from).collect(),
    };
    let timing = Timing::from(args.timing);
    host.strict_drain = (timing.kill - timing.fence) / 2;
    let host = HostNode::new(host, data_platform.clone(), &mut metrics).context("can't start the host")?;
    let control = ControlPlane::new(options, platform, host.clone(), Arc::new(lattice_host_node::inspect))
        .with_messaging(Arc::new(guests));
    let mut router = RouterOptions::new(node.clone(), context.lattice.clone());
    router.trusted_proxies = args.trusted_proxies;
    router.tracer = telemetry.tracer();
    router.access_log = observing.access_log();
    router.conventions = telemetry.exports_metrics();
    let router = Router::new(
        router,
        data_platform.bus,
        data_platform.clock,
        data_platform.rng,
        host.clone(),
        control.view(),
        &mut metrics,
    );
    host.join(router.mesh());
    router.heed(control.reports());
    router.tell(control.demand());
    admin.joined(Parts { health: control.health(), reach: router.reach(), view: control.view(), metrics });
    telemetry.export_metrics(admin.clone().source());

    let limit = Duration::from(args.drain_timeout) + Duration::from_secs(2);
    let ended = run_parts((control, control_thread), host, router, (http, https), (drain, limit), &mut signals).await;
    observing.stop();
    ended?;
    tracing::info!(%node, "left");
    Ok(Exit::Ok)
}

/// The GPUs of this machine, once their drivers are known not to take this process with them.
async fn gpus(selector: &GpuSelector) -> anyhow::Result<Arc<Gpus>> {
    let failed = |error: String| {
        anyhow::Error::from(Failure::failed(error).hint("name another one with --gpu, or write --gpu off"))
    };
    match drivers::try_out(selector).await {
        Err(why) if selector.is_auto() => {
            tracing::error!("a GPU driver {why} when it was tried: this node offers no GPU; --gpu names those to use");
            Ok(Gpus::none())
        }
        Err(why) => Err(failed(format!("a GPU driver {why} when it was tried"))),
        Ok(()) => Gpus::detect(selector.clone()).await.map_err(|error| failed(error.to_string())),
    }
}

/// Run until a signal, then leave in order: the control plane hands over while everything still answers, then the router
/// ends (within `drain`), then the host. A second signal ends the process as it is; so does `limit`, after a first part
/// has ended.
async fn run_parts(
    (control, control_thread): (ControlPlane, &Handle),
    host: Arc<HostNode>,
    router: Router,
    (http, https): (TcpListener, Option<(TcpListener, Arc<Tls>)>),
    (drain, limit): (Duration, Duration),
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let (leave, stop_router, stop_host) =
        (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let trigger = Arc::new(RouterTrigger { router: router.clone(), runtime: Handle::current() });
    let mut controlling = control_thread.spawn(control.run(trigger, leave.clone()));
    let mut hosting = tokio::spawn({
        let stop = stop_host.clone();
        async move { host.run(stop).await }
    });
    let mut routing = tokio::spawn({
        let (router, stop) = (router, stop_router.clone());
        async move {
            let tls_clients = async {
                if let Some((https, tls)) = https {
                    router.serve_tls(https, tls, stop.clone(), drain).await;
                }
            };
            let clients = async {
                tokio::join!(router.serve(http, stop.clone(), drain), tls_clients);
                Ok(())
            };
            // Where one can't go on, the other must not pretend to.
            tokio::try_join!(clients, router.serve_peers(stop.clone(), drain)).map(drop)
        }
    });
    let outcome = tokio::select! {
        biased;
        () = signals.next() => {
            tracing::info!("leaving: handing over what runs here; a second signal ends it at once");
            leave.cancel();
            tokio::select! {
                biased;
                () = signals.next() => return Err(interrupted()),
                outcome = tokio::time::timeout(limit, &mut controlling) => match outcome {
                    Ok(outcome) => ended_with(outcome, "the control plane"),
                    Err(_) => Err(anyhow::anyhow!("handing over took too long")),
                },
            }
        }
        outcome = &mut controlling => ended_with(outcome, "the control plane"),
        outcome = &mut hosting => ended_with(outcome.map(|()| Err::<(), _>(unasked())), "the host"),
        outcome = &mut routing => {
            ended_with(outcome.map(|result| result.map_err(anyhow::Error::new).and(Err(unasked()))), "the router")
        }
    };
    leave.cancel();
    let rest = async {
        // Where another part ended first, what the lattice knows of this node is still to be withdrawn.
        if !controlling.is_finished() {
            let _ = controlling.await;
        }
        stop_router.cancel();
        if !routing.is_finished() {
            let _ = routing.await;
        }
        stop_host.cancel();
        if !hosting.is_finished() {
            let _ = hosting.await;
        }
    };
    // The parts keep to their own limits; this is for one that does not.
    tokio::select! {
        biased;
        () = signals.next() => return Err(interrupted()),
        _ = tokio::time::timeout(limit, rest) => {}
    }
    outcome
}

fn interrupted() -> anyhow::Error {
    Failure::new(Exit::Interrupted, "ended before what ran here was handed over").into()
}

fn unasked() -> anyhow::Error {
    anyhow::anyhow!("it ended without being asked to")
}

/// What a part's task came to.
fn ended_with<E: Into<anyhow::Error>>(outcome: Result<Result<(), E>, JoinError>, what: &str) -> anyhow::Result<()> {
    let failed = || Failure::failed(format!("{what} failed"));
    match outcome {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            let error: anyhow::Error = error.into();
            match error.downcast_ref::<ControlPlaneError>() {
                Some(ControlPlaneError::Displaced { .. }) => {
                    let message = error.to_string();
                    Err(error.context(Failure::new(Exit::Conflict, message)))
                }
                _ => Err(error.context(failed())),
            }
        }
        Err(panicked) => Err(anyhow::Error::new(panicked).context(failed())),
    }
}

impl From<TimingPreset> for Timing {
    fn from(preset: TimingPreset) -> Self {
        match preset {
            TimingPreset::Dev => Timing::DEV,
            TimingPreset::Production => Timing::PRODUCTION,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_leaving_fit_its_limit() {
        for seconds in [0, 1, 5, 25, 600] {
            let whole = Duration::from_secs(seconds);
            let (leave, router) = divide(whole);
            assert_eq!(leave + router, whole);
            assert!(router <= leave || seconds == 0);
        }
    }

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
