//! A nats-server of a test's own: JetStream, own directory, same port and data after a restart.

use super::{PATIENCE, free_port, process::Process, workspace};
use std::{env, io::Write as _, path::PathBuf};

const VARIABLE: &str = "LATTICE_NATS_SERVER";
const VERSION: &str = "2.15.1";

pub struct Server {
    process: Option<Process>,
    program: PathBuf,
    port: u16,
    dir: tempfile::TempDir,
    /// A configuration file beside what the command line says.
    config: Option<tempfile::NamedTempFile>,
}

/// The server that `cargo xtask test` names, or the one that `cargo xtask nats` installed.
pub fn program() -> PathBuf {
    named_or_installed(VARIABLE, VERSION)
}

/// The server that an environment variable names, or a version that `cargo xtask nats --version` installed.
pub fn named_or_installed(variable: &str, version: &str) -> PathBuf {
    let installed = || workspace().join(format!("target/tools/nats-server/{version}/nats-server"));
    let path = env::var_os(variable).map_or_else(installed, PathBuf::from);
    let remedy = format!("run `cargo xtask nats --version {version}`, or name a server with {variable}");
    assert!(path.is_file(), "{} is missing: {remedy}", path.display());
    path
}

impl Server {
    pub async fn start() -> Self {
        Self::start_program(program()).await
    }

    pub async fn start_program(program: PathBuf) -> Self {
        Self::start_with(program, None).await
    }

    /// With more than a port and a directory, as nats-server's configuration has it.
    pub async fn start_configured(config: &str) -> Self {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(config.as_bytes()).unwrap();
        Self::start_with(program(), Some(file)).await
    }

    async fn start_with(program: PathBuf, config: Option<tempfile::NamedTempFile>) -> Self {
        let dir = tempfile::Builder::new().prefix("lattice-test-nats-").tempdir().unwrap();
        let mut server = Self { process: None, program, port: free_port(), dir, config };
        server.start_again().await;
        server
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub async fn kill9(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill9().await;
        }
    }

    /// Lose all that it stored. Only while it is stopped.
    pub fn wipe(&self) {
        assert!(self.process.is_none());
        for entry in std::fs::read_dir(self.dir.path()).unwrap() {
            std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
    }

    /// Have another configuration from the next start on.
    pub fn configure(&mut self, config: &str) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(config.as_bytes()).unwrap();
        self.config = Some(file);
    }

    /// On the same port, with the same data.
    pub async fn start_again(&mut self) {
        let port = self.port.to_string();
        let dir = self.dir.path().to_str().unwrap();
        let config = self.config.as_ref().map(|file| ["-c", file.path().to_str().unwrap()]);
        let arguments =
            ["-a", "127.0.0.1", "-p", &port, "-js", "-sd", dir].into_iter().chain(config.into_iter().flatten());
        let process = Process::start("nats-server", &self.program, arguments);
        process.wait_line("Server is ready", PATIENCE).await;
        self.process = Some(process);
    }

    /// The running process.
    pub fn process(&self) -> &Process {
        self.process.as_ref().unwrap()
    }

    pub fn show(&self) {
        if let Some(process) = &self.process {
            process.show();
        }
    }
}
