//! nats-server processes for tests: each with a store of its own, on a port of its own, gone when the test ends.

// Helpers of tests are tests, whatever clippy takes them for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub(crate) mod cluster;

use lattice::{id::LatticeId, store::Platform};
use lattice_nats::{ConnectOptions, Nats, connect};
use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

/// Longest wait for a server to start, or for something that it must do.
pub(crate) const SOON: Duration = Duration::from_secs(20);

const NEWEST: (&str, &str) = ("LATTICE_NATS_SERVER", "2.15.1");
const RECOMMENDED: (&str, &str) = ("LATTICE_NATS_SERVER_RECOMMENDED", "2.12.8");
const LEAST: (&str, &str) = ("LATTICE_NATS_SERVER_LEAST", "2.11.11");

/// The binary that the variable names, or the one that `cargo xtask nats` installs.
fn binary((variable, version): (&str, &str)) -> PathBuf {
    if let Some(named) = std::env::var_os(variable) {
        return named.into();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let installed = root.join("target/tools/nats-server").join(version).join("nats-server");
    assert!(
        installed.exists(),
        "there is no nats-server {version}: run `cargo xtask nats --version {version}`, or name one with {variable}"
    );
    installed
}

pub(crate) fn newest() -> PathBuf {
    binary(NEWEST)
}

pub(crate) fn all_supported() -> [PathBuf; 3] {
    [binary(NEWEST), binary(RECOMMENDED), binary(LEAST)]
}

pub(crate) struct Server {
    binary: PathBuf,
    arguments: Vec<String>,
    port: u16,
    dir: tempfile::TempDir,
    process: Child,
}

impl Server {
    /// With JetStream.
    pub(crate) async fn start(binary: &Path) -> Server {
        Self::start_with(binary, &["-js"]).await
    }

    pub(crate) async fn start_with(binary: &Path, arguments: &[&str]) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        // Between here and the server's start another process may take the port: then the next one is tried.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if let Some(process) = launch(binary, &arguments, dir.path(), port).await {
                return Server { binary: binary.to_owned(), arguments, port, dir, process };
            }
        }
        panic!("{} did not start", binary.display());
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// kill -9.
    pub(crate) async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }

    /// Where it keeps what it stores. Only to be touched while it is stopped.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Start it again after [`Server::kill`], on the same port with the same store.
    pub(crate) async fn restart(&mut self) {
        let process = launch(&self.binary, &self.arguments, self.dir.path(), self.port).await;
        self.process = process.expect("the server did not start again");
    }

    pub(crate) async fn connect(&self) -> Nats {
        connect(options(self.url())).await.unwrap()
    }

    /// A connection of its own to a lattice on this server.
    pub(crate) async fn open(&self, lattice: &str) -> Platform {
        self.connect().await.open(&id(lattice), true).await.unwrap()
    }
}

/// Answers when the server says that it is ready; `None` if it ends before.
async fn launch(binary: &Path, arguments: &[String], dir: &Path, port: u16) -> Option<Child> {
    let mut process = Command::new(binary)
        .args(arguments)
        .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-sd"])
        .arg(dir)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let ready = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("Server is ready") {
                return true;
            }
        }
        false
    };
    let is_ready = tokio::time::timeout(SOON, ready).await.expect("the server is neither ready nor gone");
    // Its log must be read to the end, or it would block on a full pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    is_ready.then_some(process)
}

pub(crate) fn options(url: String) -> ConnectOptions {
    ConnectOptions { servers: vec![url], name: "conformance".into(), ..Default::default() }
}

pub(crate) fn id(lattice: &str) -> LatticeId {
    LatticeId::new(lattice).unwrap()
}

/// The output of a future that must not take long.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}
