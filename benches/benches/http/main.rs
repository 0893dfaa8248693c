//! How many HTTP requests does a node answer, and what does each cost? A closed loop over one machine's loopback: `wrk`
//! against a whole node (router, host, metrics, everything), with instances kept and with fresh ones; against the router
//! alone, and the runtime alone; against `wasmtime serve` with its best flags; and against plain hyper with a static answer, which is as fast as
//! HTTP gets here. All of a case run in turns, so that what disturbs one disturbs the others.
//!
//! It must not measure anything but whole processes: what a part costs is for the other benches.
//!
//! Start at [`measure`]. `cases.rs` says what is asked, `servers.rs` who answers, `peer.rs` is the small servers of
//! this program's own, `load.rs` runs wrk.

#![allow(clippy::expect_used, clippy::panic, reason = "a bench that can't be set up has nothing to measure")]

mod cases;
mod load;
mod peer;
mod servers;

use cases::{CASES, Case};
use clap::Parser;
use load::{Load, Run};
use servers::{Kind, Node, Server};
use std::{collections::BTreeMap, time::Duration};

/// HTTP requests per second of a node and of its peers, and the ratios between them.
#[derive(Debug, Parser)]
#[command(name = "http")]
struct Args {
    /// Connections, each with one request at a time
    #[arg(long, value_delimiter = ',', default_value = "1,32,256", value_name = "N,…")]
    connections: Vec<u32>,
    /// Length of one measurement
    #[arg(long, default_value_t = 2, value_name = "SECONDS")]
    seconds: u32,
    /// Measurements of each server. The figures are medians over them
    #[arg(long, default_value_t = 5, value_name = "N")]
    rounds: u32,
    /// Only these servers
    #[arg(long, value_delimiter = ',', value_enum, value_name = "SERVER,…")]
    servers: Vec<Kind>,
    /// Only cases whose name contains one of these
    cases: Vec<String>,
    /// Run everything once, to see that it works
    #[arg(long)]
    test: bool,
    /// What cargo passes
    #[arg(long, hide = true)]
    bench: bool,
    /// Be one of the servers
    #[arg(long, hide = true, value_name = "JSON")]
    serve: Option<String>,
}

fn main() {
    let mut args = Args::parse();
    if let Some(task) = &args.serve {
        return peer::serve(task);
    }
    if args.test {
        (args.connections, args.rounds, args.seconds) = (vec![1], 1, 1);
    }
    if args.servers.is_empty() {
        args.servers = Kind::ALL.to_vec();
    }
    let is_wanted = |case: &&Case| args.cases.is_empty() || args.cases.iter().any(|part| case.name.contains(part));
    let cases: Vec<&Case> = CASES.iter().filter(is_wanted).collect();
    let is_node = |kind: &Kind| matches!(kind, Kind::Lattice | Kind::LatticeFresh);
    let node = args.servers.iter().any(is_node).then(|| Node::start(&cases));
    for case in cases {
        let asked = Kind::ALL.into_iter().filter(|kind| args.servers.contains(kind));
        let servers: Vec<Server> = asked.map(|kind| Server::start(kind, case, node.as_ref())).collect();
        for connections in &args.connections {
            let load = Load { connections: *connections, duration: Duration::from_secs(u64::from(args.seconds)) };
            print(case, &load, &measure(case, &servers, &load, args.rounds));
        }
    }
}

/// All rounds of all servers. Each round asks every server once.
fn measure(case: &Case, servers: &[Server], load: &Load, rounds: u32) -> BTreeMap<Kind, Vec<Run>> {
    let mut runs = BTreeMap::<Kind, Vec<Run>>::new();
    for server in servers {
        load.warm_up(case, server);
    }
    for _ in 0..rounds {
        for server in servers {
            runs.entry(server.kind).or_default().push(load.run(case, server));
        }
    }
    runs
}

/// Who each kind is set against. The ratio is that of rates, round by round.
const RATIOS: [(Kind, Kind); 6] = [
    (Kind::Lattice, Kind::WasmtimeReuse),
    (Kind::Lattice, Kind::Hyper),
    (Kind::Lattice, Kind::LatticeFresh),
    (Kind::LatticeFresh, Kind::WasmtimeFresh),
    (Kind::Lattice, Kind::Runtime),
    (Kind::Router, Kind::Hyper),
];

fn print(case: &Case, load: &Load, runs: &BTreeMap<Kind, Vec<Run>>) {
    println!("\n{}, {} connections: {}", case.name, load.connections, case.what);
    println!("{:<16} {:>10} {:>9} {:>9} {:>12} {:>7}", "", "requests/s", "p50 ms", "p99 ms", "cpu µs each", "errors");
    for (kind, runs) in runs {
        let median_of = |value: fn(&Run) -> f64| median(runs.iter().map(value));
        println!(
            "{:<16} {:>10.0} {:>9.2} {:>9.2} {:>12.1} {:>7}",
            kind.label(),
            median_of(Run::rate),
            median_of(|run| run.p50.as_secs_f64() * 1e3),
            median_of(|run| run.p99.as_secs_f64() * 1e3),
            // The least: whatever else runs on the machine only adds to it.
            runs.iter().map(Run::cpu_micros).fold(f64::INFINITY, f64::min),
            runs.iter().map(|run| run.errors).sum::<u64>(),
        );
    }
    for (one, other) in RATIOS {
        let (Some(ours), Some(theirs)) = (runs.get(&one), runs.get(&other)) else { continue };
        let ratio = median(ours.iter().zip(theirs).map(|(ours, theirs)| ours.rate() / theirs.rate()));
        let least = |runs: &[Run]| runs.iter().map(Run::cpu_micros).fold(f64::INFINITY, f64::min);
        let by_cpu = least(theirs) / least(ours);
        println!("{} / {}: {ratio:.2} (by processor time {by_cpu:.2})", one.label(), other.label());
    }
}

/// The upper one of two in the middle; not a number where there is none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
