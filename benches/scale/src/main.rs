//! What do many nodes say to one nats-server, and how long do they take? Each node is a process of its own: a real control plane
//! with a connection of its own, over a host that has everything ready at once. Measured are joining, deploying, rest, and two
//! storms: all nodes are killed and started again at the same moment, and the same with the server.
//!
//! `cargo run -p lattice-scale -- --nodes 100 --workloads 1000`
//!
//! Start at [`measure`]. What comes of it is in `docs/scale.md`.

mod fleet;
mod node;
mod report;
mod server;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clap::{Parser, Subcommand};
use fleet::Fleet;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use lattice::{
    ctl::{ErrorCode, PutReply, Reply},
    id::{Digest, LatticeId},
    store::{Headers, Platform},
    subject::Topic,
};
use lattice_nats::{ConnectOptions, Nats};
use report::Report;
use server::Server;
use std::time::Duration;

/// Puts that one client has under way at a time.
const PUTS_AT_ONCE: usize = 32;
const TRIES: u32 = 8;
const TIMEOUT: Duration = Duration::from_secs(30);
/// What was just written is still told for so long.
const SETTLING: Duration = Duration::from_secs(6);

/// Measures what many control planes cost one nats-server.
#[derive(Debug, Clone, Parser)]
struct Args {
    #[arg(long, default_value_t = 10)]
    nodes: u32,
    #[arg(long, default_value_t = 50)]
    workloads: u32,
    #[arg(long, default_value_t = 3)]
    replicas: u32,
    /// Seconds at rest
    #[arg(long, default_value_t = 10)]
    rest: u64,
    /// Timing as one server for development has it, else as three in production
    #[arg(long)]
    dev: bool,
    /// Fail where a storm brings more than a look at everything by each node, and a few writes for each record
    #[arg(long)]
    check: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// One node, until its standard input ends
    #[command(hide = true)]
    Node(node::NodeArgs),
}

fn main() -> Result<()> {
    let args = Args::parse();
    // A node computes on one thread: there are many of them here.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build()?;
    match &args.command {
        Some(Command::Node(node)) => runtime.block_on(node::run(node)),
        None => runtime.block_on(measure(&args)),
    }
}

async fn measure(args: &Args) -> Result<()> {
    let (nodes, replicas) = (args.nodes as usize, (args.workloads * args.replicas) as usize);
    println!("{nodes} nodes, {} workloads of {} replicas", args.workloads, args.replicas);
    println!("{} processors; load average {}", std::thread::available_parallelism()?, load_average());
    let dir = tempfile::tempdir()?;
    let mut server = Server::start(dir.path())?;
    let mut report = Report::new(&server);

    let mut fleet = Fleet::start(args, &server.url, dir.path())?;
    fleet.until("each node sees all others", |seen| seen.sessions == nodes).await?;
    report.row("all nodes have joined")?;

    let client = connect(&server.url).await?;
    let platform = client.open(&lattice_id()?, true).await?;
    let component = platform.artifacts.put(Bytes::from_static(b"a component")).await?;
    let puts = stream::iter(0..args.workloads).map(|number| put(&platform, args, component, number));
    let again = puts.buffer_unordered(PUTS_AT_ONCE).try_fold(0, |sum, again| async move { Ok(sum + again) }).await?;
    let accepted = report.since().as_secs_f64();
    println!("({again} puts were sent again, since the store or a node did not answer in time)");
    fleet.until("each node sees all replicas ready", |seen| seen.ready == replicas).await?;
    report.row(&format!("all workloads are ready (accepted after {accepted:.1} s)"))?;

    at_rest(args, &mut report, &fleet, "at rest").await?;
    drop((platform, client));

    let before = fleet.head();
    fleet.kill().await;
    report.begin()?;
    fleet = Fleet::start(args, &server.url, dir.path())?;
    let is_back = move |seen: &node::Seen| seen.sessions == nodes && seen.ready == replicas && seen.oldest > before;
    fleet.until("each node sees all replicas ready again", is_back).await?;
    let storm = report.row("all nodes were killed, and are back")?;
    at_rest(args, &mut report, &fleet, "at rest after that").await?;

    let before = fleet.head();
    fleet.kill().await;
    server.kill();
    server.start_again()?;
    report.begin()?;
    fleet = Fleet::start(args, &server.url, dir.path())?;
    let is_back = move |seen: &node::Seen| seen.sessions == nodes && seen.ready == replicas && seen.oldest > before;
    fleet.until("each node sees all replicas ready once more", is_back).await?;
    let whole = report.row("all nodes and the server were killed, and are back")?;
    at_rest(args, &mut report, &fleet, "at rest after that").await?;

    println!("{:.1} MiB for each node's process", fleet.resident() as f64 / f64::from(args.nodes) / 1024.0 / 1024.0);
    println!("load average {}", load_average());
    for (what, storm) in [("nodes", storm), ("all", whole)] {
        let most = most_in_a_storm(args);
        println!("storm of {what}: {} messages to the server, of which {most} are explained", storm.in_msgs);
        ensure!(!args.check || storm.in_msgs <= most, "the restart of {what} is a herd: see above");
    }
    Ok(())
}

/// Messages to the server that the return of all nodes takes, each with its acknowledgements and requests: a session is looked
/// up, written, and renewed for a while; each bucket is looked at whole, a few times; each replica is claimed, and written once
/// more when it is ready. Nothing in it grows with nodes times replicas: that is what a herd would be.
fn most_in_a_storm(args: &Args) -> u64 {
    let (nodes, replicas) = (u64::from(args.nodes), u64::from(args.workloads * args.replicas));
    nodes * 150 + replicas * 8
}

async fn at_rest(args: &Args, report: &mut Report, fleet: &Fleet, what: &str) -> Result<()> {
    tokio::time::sleep(SETTLING).await;
    report.begin()?;
    let used = fleet.processor_time();
    tokio::time::sleep(Duration::from_secs(args.rest)).await;
    report.row(what)?;
    let used = fleet.processor_time().saturating_sub(used).as_secs_f64() / args.rest as f64 / f64::from(args.nodes);
    println!("(each node's process computes for {:.1} ms in a second)", used * 1e3);
    Ok(())
}

/// How often it had to be sent again: a put is idempotent, and what is unavailable for a moment on a machine that is full is
/// no refusal.
async fn put(platform: &Platform, args: &Args, component: Digest, number: u32) -> Result<u32> {
    let spec = format!(
        "name: w{number}\nreplicas: {}\ncomponents: [{{name: main, source: '{component}'}}]\n\
         http: {{routes: [{{host: w{number}.test}}]}}\n",
        args.replicas
    );
    let subject = Topic::WorkloadPut.subject(&lattice_id()?);
    for again in 0..TRIES {
        tokio::time::sleep(Duration::from_millis(500) * again).await;
        let request = platform.bus.request(subject.clone(), Headers::new(), spec.clone().into(), TIMEOUT);
        let Ok(reply) = request.await else { continue };
        match serde_json::from_slice::<Reply<PutReply>>(&reply.payload)? {
            Reply::Ok(_) => return Ok(again),
            Reply::Error(error) if error.code == ErrorCode::Unavailable => {}
            Reply::Error(error) => anyhow::bail!("w{number} was refused: {error}"),
        }
    }
    anyhow::bail!("w{number} was put {TRIES} times, and nobody could take it")
}

async fn connect(url: &str) -> Result<Nats> {
    let options = ConnectOptions { servers: vec![url.to_owned()], name: "scale".into(), ..Default::default() };
    lattice_nats::connect(options).await.with_context(|| format!("{url} does not answer"))
}

fn lattice_id() -> Result<LatticeId> {
    Ok(LatticeId::new("scale")?)
}

fn load_average() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}
