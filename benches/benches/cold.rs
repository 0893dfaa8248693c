//! How long does it take from a deployment to its first answer, and from an idle workload to its next one? A whole node, and
//! `lattice deploy` as a person runs it: the program's start, the upload, the put, the claim, compiling or mapping, linking,
//! an instance, the route. The peer is `wasmtime serve`, from its start to its first answer, which does the last three.
//!
//! Needs `cargo xtask nats` and `cargo xtask guests --rust-only`.

#![allow(clippy::expect_used, clippy::panic, reason = "a bench that can't be set up has nothing to measure")]

use lattice_benches::processes::{Node, Wasmtime, answers, get, guest, median, unique, wasmtime};
use std::{
    path::Path,
    time::{Duration, Instant},
};

const ROUNDS: usize = 9;
const GUESTS: [(&str, bool); 2] = [("hello-http02", false), ("hello-http03", true)];
const PATH: &str = "/quiet";

fn main() {
    let is_test = std::env::args().any(|argument| argument == "--test");
    let rounds = if is_test { 1 } else { ROUNDS };
    let node = Node::start();
    let peer = wasmtime();
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (name, is_http03) in GUESTS {
        let bytes = std::fs::read(guest(name)).expect("the guest is readable");
        let component = dir.path().join(format!("{name}.wasm"));
        let mut rows = [Row::new("deployed, to be compiled"), Row::new("deployed, compiled before")];
        for round in 0..rounds {
            std::fs::write(&component, unique(&bytes)).expect("the guest is written");
            let workload = format!("cold-{round}");
            // The first deployment of these bytes compiles them, the second finds them in the cache.
            for row in &mut rows {
                row.ours.push(deployed(&node, &workload, &component));
                node.delete(&workload);
            }
            if let Some(program) = &peer {
                let [to_compile, compiled] = &mut rows;
                to_compile.peer.push(served(program, &component, is_http03));
                let code = Wasmtime::compile(program, &component, is_http03);
                compiled.peer.push(served(program, &code, is_http03));
            }
        }
        println!("\n{name}: milliseconds to the first answer, medians of {rounds}");
        rows.iter().for_each(Row::print);
        from_idle(&node, &component, rounds);
    }
}

struct Row {
    what: &'static str,
    ours: Vec<Duration>,
    peer: Vec<Duration>,
}

impl Row {
    fn new(what: &'static str) -> Self {
        Self { what, ours: Vec::new(), peer: Vec::new() }
    }

    fn print(&self) {
        let (ours, peer) = (millis(&self.ours), millis(&self.peer));
        let ratio =
            median(self.ours.iter().zip(&self.peer).map(|(ours, peer)| ours.as_secs_f64() / peer.as_secs_f64()));
        println!(
            "{:<28} {ours:>8.1}; wasmtime serve from its start {peer:>8.1}; ratio of times: {ratio:.2}",
            self.what
        );
    }
}

fn millis(times: &[Duration]) -> f64 {
    median(times.iter().map(Duration::as_secs_f64)) * 1e3
}

/// From the start of `lattice deploy` to the answer.
fn deployed(node: &Node, workload: &str, component: &Path) -> Duration {
    let began = Instant::now();
    node.deploy(workload, component, "");
    answers(node.address, &format!("{workload}.test"), PATH);
    began.elapsed()
}

fn served(program: &Path, component: &Path, is_http03: bool) -> Duration {
    let began = Instant::now();
    let served = Wasmtime::start(program, component, is_http03);
    answers(served.address, "localhost", PATH);
    began.elapsed()
}

/// A workload that keeps no instance: its next request makes one. The peer is the request after that.
fn from_idle(node: &Node, component: &Path, rounds: usize) {
    const IDLE: Duration = Duration::from_millis(100);
    let (name, host) = ("idle", "idle.test");
    node.deploy(name, component, &format!("reuse: {{min-warm: 0, idle: {}ms}}", IDLE.as_millis()));
    answers(node.address, host, PATH);
    let ask = || {
        let began = Instant::now();
        assert_eq!(get(node.address, host, PATH).expect("an answer"), 200);
        began.elapsed()
    };
    let times = |_| {
        std::thread::sleep(4 * IDLE); // its instance goes
        (ask(), ask())
    };
    let (fresh, kept): (Vec<_>, Vec<_>) = (0..3 * rounds).map(times).unzip();
    let ratio = median(fresh.iter().zip(&kept).map(|(fresh, kept)| fresh.as_secs_f64() / kept.as_secs_f64()));
    let (fresh, kept) = (millis(&fresh), millis(&kept));
    println!(
        "{:<28} {fresh:>8.2}; with an instance that is there {kept:>8.2}; ratio of times: {ratio:.2}",
        "idle, no instance"
    );
    node.delete(name);
}
