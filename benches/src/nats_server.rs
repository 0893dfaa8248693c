//! A nats-server of the bench's own, on a free port of the loopback interface.

use std::{
    io::{BufRead as _, BufReader},
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
