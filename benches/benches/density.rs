//! How much memory does an idle workload take? A whole node that runs 1, 100 and 1,000 of them, each ready, with one warm
//! instance that has answered once; of one component, whose code they share, and each of a component of its own. The peer is
//! a process of `wasmtime serve` for each.
//!
//! Memory is what is in RAM and in no file (`RssAnon`): code is mapped from the cache and can be dropped at any time, in
//! both. Needs `cargo xtask nats` and `cargo xtask guests --rust-only`.

#![allow(clippy::expect_used, clippy::panic, reason = "a bench that can't be set up has nothing to measure")]

use lattice_benches::processes::{Node, Wasmtime, answers, guest, unique, wasmtime};
use std::time::Duration;

const GUEST: &str = "hello-http02";
const PATH: &str = "/quiet";
/// Until what was allocated for a start is given back.
const REST: Duration = Duration::from_secs(3);

fn main() {
    let is_test = std::env::args().any(|argument| argument == "--test");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let peer = wasmtime().map(|program| {
        let code = dir.path().join("peer.wasm");
        std::fs::copy(guest(GUEST), &code).expect("the guest is copied");
        let served = Wasmtime::start(&program, &Wasmtime::compile(&program, &code, false), false);
        answers(served.address, "localhost", PATH);
        std::thread::sleep(REST);
        served.program.resident()
    });
    if let Some(peer) = peer {
        println!("wasmtime serve: {:.1} MiB", mib(peer));
    }
    let bytes = std::fs::read(guest(GUEST)).expect("the guest is readable");
    let counts: (&[u32], &[u32]) = if is_test { (&[1], &[1]) } else { (&[1, 100, 1000], &[1, 100]) };
    for (what, counts, is_distinct) in [("one component", counts.0, false), ("each its own", counts.1, true)] {
        let node = Node::start();
        std::thread::sleep(REST);
        let empty = node.program.resident();
        println!("\n{what}: a node without workloads {:.1} MiB", mib(empty));
        let mut running = 0;
        for count in counts {
            for number in running..*count {
                let component = dir.path().join("one.wasm");
                let bytes = if is_distinct { unique(&bytes) } else { bytes.clone() };
                std::fs::write(&component, bytes).expect("the guest is written");
                node.deploy(&format!("idle-{number}"), &component, "limits: {memory: 16MiB}");
            }
            for number in running..*count {
                answers(node.address, &format!("idle-{number}.test"), PATH);
            }
            running = *count;
            std::thread::sleep(REST);
            let all = node.program.resident();
            let each = all.saturating_sub(empty) / u64::from(running);
            let ratio = peer.map_or(f64::NAN, |peer| peer as f64 * f64::from(running) / all as f64);
            println!(
                "{running:>5} workloads: {:>7.1} MiB, {:>7.1} KiB more for each; as many wasmtime serve / node: {ratio:.1}",
                mib(all),
                each as f64 / 1024.0
            );
        }
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
