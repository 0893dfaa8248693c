//! What does one workload's flood do to another one of the same node? The *victim* is asked at a steady, low rate, by a
//! schedule that does not wait for answers; beside it another workload is flooded in one of several ways. What counts is how
//! much later the victim answers than it does alone, at the 99th percentile; the bench fails where that is more than
//! [`BOUND`] in any case, or where a request of the victim fails.
//!
//! The peer is the same victim in a `wasmtime serve` of its own, beside another `wasmtime serve` that has the flood: two
//! processes, which the system schedules.
//!
//! Start at [`measure`]. `client.rs` asks.

#![allow(clippy::expect_used, clippy::panic, reason = "a bench that can't be set up has nothing to measure")]

mod client;

use clap::Parser;
use client::{Flood, Latencies, Probe, Server};
use lattice_benches::processes::{self, Node, Program, answers, free_address, guest, median};
use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

/// How much later than alone the victim may answer at the 99th percentile. Two ticks of the epoch and what the system's
/// scheduler takes to change between threads.
const BOUND: Duration = Duration::from_millis(25);

/// The harm that a flooded workload does to another one.
#[derive(Debug, Parser)]
#[command(name = "noisy-neighbour")]
struct Args {
    /// Length of one measurement
    #[arg(long, default_value_t = 4, value_name = "SECONDS")]
    seconds: u32,
    /// Measurements of each case. The figures are medians over them
    #[arg(long, default_value_t = 3, value_name = "N")]
    rounds: u32,
    /// Requests a second of the victim
    #[arg(long, default_value_t = 200, value_name = "N")]
    rate: u32,
    /// Without `wasmtime serve`
    #[arg(long)]
    no_peer: bool,
    /// Only floods whose name contains one of these
    floods: Vec<String>,
    /// Run everything once, to see that it works
    #[arg(long)]
    test: bool,
    /// What cargo passes
    #[arg(long, hide = true)]
    bench: bool,
}

struct Case {
    name: &'static str,
    what: &'static str,
    path: &'static str,
    connections: u32,
}

#[rustfmt::skip]
const FLOODS: [Case; 6] = [
    Case { name: "none", what: "the victim alone", path: "/", connections: 0 },
    Case { name: "cheap", what: "requests that are answered at once", path: "/", connections: 64 },
    Case { name: "short", what: "requests that compute for one or two ms", path: "/compute/1", connections: 64 },
    Case { name: "long", what: "requests that compute for some tens of ms", path: "/compute/20", connections: 64 },
    Case { name: "memory", what: "requests that take memory until they are stopped", path: "/memory", connections: 64 },
    Case { name: "parked", what: "requests that wait for 5 s", path: "/sleep/5000", connections: 1000 },
];

fn main() -> ExitCode {
    let mut args = Args::parse();
    if args.test {
        (args.seconds, args.rounds) = (1, 1);
    }
    let is_wanted = |case: &&Case| {
        case.connections == 0 || args.floods.is_empty() || args.floods.iter().any(|part| case.name.contains(part))
    };
    let cases: Vec<&Case> = FLOODS.iter().filter(is_wanted).collect();
    let node = Node::start();
    // Nothing here is set to protect the one from the other.
    for (name, wasm) in [("victim", VICTIM), ("flooded", FLOODED)] {
        node.deploy(name, &guest(wasm), "");
        answers(node.address, &format!("{name}.test"), "/");
    }
    let on_node = |host: &str| Server { address: node.address, host: host.to_owned() };
    let ours = measure("lattice", &(on_node("victim.test"), on_node("flooded.test")), &cases, &args);
    drop(node);
    if let Some(wasmtime) = processes::wasmtime().filter(|_| !args.no_peer) {
        let (victim, flooded) = (Serve::start(&wasmtime, VICTIM), Serve::start(&wasmtime, FLOODED));
        measure("wasmtime serve, two processes", &(victim.server, flooded.server), &cases, &args);
    }
    match ours {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Guests of `guests/`.
const VICTIM: &str = "hello-http02";
const FLOODED: &str = "faults";

/// All floods in turns, as often as there are rounds. Prints a line for each; answers whether the bound holds.
fn measure(who: &str, (victim, flooded): &(Server, Server), cases: &[&Case], args: &Args) -> bool {
    let seconds = Duration::from_secs(u64::from(args.seconds));
    let mut runs = BTreeMap::<&str, Vec<(Latencies, f64)>>::new();
    for _ in 0..args.rounds.max(1) {
        for case in cases {
            let flood = Flood::start(flooded, case.path, case.connections);
            // What follows is about a flood that lasts, not about its first moments.
            std::thread::sleep(Duration::from_millis(500));
            let before = flood.answers();
            let began = Instant::now();
            let latencies = Probe { path: "/quiet", rate: args.rate, duration: seconds }.run(victim);
            let rate = (flood.answers() - before) as f64 / began.elapsed().as_secs_f64();
            drop(flood);
            runs.entry(case.name).or_default().push((latencies, rate));
        }
    }
    println!("\n{who}: a victim with {} requests a second", args.rate);
    println!(
        "{:<8} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9} {:>7}",
        "flood", "p50 ms", "p99 ms", "max ms", "failed", "later ms", "p99 ratio", "flood/s"
    );
    let p99 = |name: &str| median(runs.get(name).into_iter().flatten().map(|(run, _)| run.percentile(0.99)));
    let alone = p99("none");
    let mut holds = true;
    for case in cases {
        let Some(runs) = runs.get(case.name) else { continue };
        let median_of = |part: f64| median(runs.iter().map(|(run, _)| run.percentile(part)));
        let failed: u64 = runs.iter().map(|(run, _)| run.failed).sum();
        let later = p99(case.name) - alone;
        holds &= failed == 0 && later <= BOUND.as_secs_f64() * 1e3;
        println!(
            "{:<8} {:>8.2} {:>8.2} {:>8.2} {:>8} {:>9.2} {:>9.1} {:>7.0}  {}",
            case.name,
            median_of(0.5),
            p99(case.name),
            median_of(1.0),
            failed,
            later,
            p99(case.name) / alone,
            median(runs.iter().map(|(_, rate)| *rate)),
            case.what
        );
    }
    println!("at most {} ms later, none failed: {}", BOUND.as_millis(), if holds { "holds" } else { "does not hold" });
    holds
}

/// One `wasmtime serve`. Ends when it is dropped.
struct Serve {
    server: Server,
    _program: Program,
}

impl Serve {
    fn start(wasmtime: &Path, wasm: &str) -> Self {
        let address = free_address();
        let mut command = Command::new(wasmtime);
        command.args(["serve", "-Scli", "--addr", &address.to_string(), "--max-instance-reuse-count", "1000000"]);
        // As in a node: 128 MiB an instance. Its limit of processor time has no counterpart.
        command.args(["-Opooling-allocator=y", "-Opooling-pagemap-scan=auto", "-Wmax-memory-size=134217728"]);
        let program = Program::start(command.arg(guest(wasm)).stderr(Stdio::null()));
        answers(address, "localhost", "/");
        Self { server: Server { address, host: "localhost".to_owned() }, _program: program }
    }
}
