//! A nats-server of the bench's own, with JetStream on disk, that tells what it sees and can be killed.

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Server {
    pub(crate) url: String,
    port: u16,
    monitoring: SocketAddr,
    dir: PathBuf,
    process: Child,
}

/// What a server saw since it began, of all clients together; and its memory now, in bytes.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(crate) struct Traffic {
    pub(crate) in_msgs: u64,
    pub(crate) out_msgs: u64,
    pub(crate) in_bytes: u64,
    pub(crate) out_bytes: u64,
    pub(crate) mem: u64,
}

impl Server {
    /// Returns when it answers.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        let (port, monitoring) = (free_address()?.port(), free_address()?);
        let process = launch(dir, port, monitoring)?;
        let url = format!("nats://127.0.0.1:{port}");
        let server = Self { url, port, monitoring, dir: dir.to_owned(), process };
        server.answers()?;
        Ok(server)
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// With what it has on disk, and the same addresses.
    pub(crate) fn start_again(&mut self) -> Result<()> {
        self.process = launch(&self.dir, self.port, self.monitoring)?;
        self.answers()
    }

    fn answers(&self) -> Result<()> {
        let begin = Instant::now();
        while traffic(self.monitoring).is_err() {
            ensure!(begin.elapsed() < PATIENCE, "nats-server does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    pub(crate) fn monitoring(&self) -> SocketAddr {
        self.monitoring
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn launch(dir: &Path, port: u16, monitoring: SocketAddr) -> Result<Child> {
    let program = program()?;
    let mut command = Command::new(&program);
    command.args(["--addr", "127.0.0.1", "--port", &port.to_string(), "-m", &monitoring.port().to_string()]);
    command.args(["-js", "-sd"]).arg(dir).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().with_context(|| format!("cannot run {}", program.display()))
}

pub(crate) fn traffic(monitoring: SocketAddr) -> Result<Traffic> {
    let mut stream = TcpStream::connect(monitoring)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /varz HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("it is no HTTP answer")?;
    Ok(serde_json::from_str(body)?)
}

/// The one that `LATTICE_NATS_SERVER` names, else the newest that `cargo xtask nats` installed.
fn program() -> Result<PathBuf> {
    if let Some(program) = std::env::var_os("LATTICE_NATS_SERVER") {
        return Ok(program.into());
    }
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/nats-server");
    let versions = std::fs::read_dir(tools).into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let numbers = name.split('.').map(str::parse).collect::<Result<Vec<u32>, _>>().ok()?;
        Some((numbers, entry.path().join("nats-server")))
    });
    match versions.max() {
        Some((_, program)) => Ok(program),
        None => bail!("no nats-server: run `cargo xtask nats`, or name one in LATTICE_NATS_SERVER"),
    }
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
