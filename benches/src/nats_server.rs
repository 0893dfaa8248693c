//! A nats-server of the bench's own, on a free port of the loopback interface.

use serde::Deserialize;
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
};

/// Ends the server when it is dropped.
pub struct NatsServer {
    pub url: String,
    child: Child,
    /// Held open: a server whose log can't be written dies.
    log: BufReader<ChildStderr>,
}

impl NatsServer {
    /// Returns when it listens.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With JetStream, in that directory.
    pub fn start_with_storage(dir: &Path) -> Self {
        Self::start_with(&["-js", "-sd", &dir.display().to_string()])
    }

    /// The same, and it tells at that address what it sees.
    pub fn start_with_monitoring(dir: &Path, address: SocketAddr) -> Monitored {
        let (dir, port) = (dir.display().to_string(), address.port().to_string());
        let server = Self::start_with(&["-js", "-sd", &dir, "-m", &port]);
        Monitored { url: server.url.clone(), address, _server: server }
    }

    fn start_with(more: &[&str]) -> Self {
        let program = program();
        let mut command = Command::new(&program);
        command.args(["--addr", "127.0.0.1", "--port", "-1"]).args(more).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot run {}: {error}", program.display()));
        let log = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let mut server = Self { url: String::new(), child, log };
        server.url = server.announced_url();
        server
    }

    fn announced_url(&mut self) -> String {
        let mut line = String::new();
        while self.log.read_line(&mut line).unwrap_or(0) > 0 {
            if let Some((_, address)) = line.split_once("Listening for client connections on ") {
                return format!("nats://{}", address.trim());
            }
            line.clear();
        }
        panic!("nats-server ended while starting")
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server that tells what it sees.
pub struct Monitored {
    pub url: String,
    address: SocketAddr,
    _server: NatsServer,
}

/// What a server saw since it began, of all clients together; and its memory now, in bytes.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Traffic {
    pub in_msgs: u64,
    pub out_msgs: u64,
    pub in_bytes: u64,
    pub out_bytes: u64,
    pub mem: u64,
}

impl Monitored {
    pub fn traffic(&self) -> Traffic {
        let mut stream = TcpStream::connect(self.address).expect("the server's monitoring port");
        stream.write_all(b"GET /varz HTTP/1.0\r\n\r\n").expect("it is asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let (_, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        serde_json::from_str(body).expect("figures")
    }
}

/// The one that `LATTICE_NATS_SERVER` names, else the newest that `cargo xtask nats` installed.
pub fn program() -> PathBuf {
    let program = std::env::var_os("LATTICE_NATS_SERVER").map(PathBuf::from).or_else(newest_installed);
    program.expect("no nats-server: run `cargo xtask nats`, or name one in LATTICE_NATS_SERVER")
}

fn newest_installed() -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/nats-server");
    let versions = std::fs::read_dir(tools).ok()?.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let numbers = name.split('.').map(str::parse).collect::<Result<Vec<u32>, _>>().ok()?;
        Some((numbers, entry.path().join("nats-server")))
    });
    versions.max().map(|(_, path)| path)
}
