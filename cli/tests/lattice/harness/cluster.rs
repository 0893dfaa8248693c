//! Nodes as processes, and lattices made of them.

use super::{Api, PATIENCE, Server, eventually, free_port, http, process::Process};
use rustix::process::Signal;
use std::{
    ops::Deref,
    path::{Path, PathBuf},
    process::{ExitStatus, Output},
    sync::{Arc, Weak},
};
use tokio::sync::Mutex;

pub fn lattice_program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_lattice"))
}

/// One `lattice node`. Its data directory and ports stay over restarts.
pub struct Node {
    pub id: String,
    process: Option<Process>,
    http: u16,
    admin: u16,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Node {
    fn new(url: &str, lattice: &str, id: &str, data: PathBuf, more: &[&str]) -> Self {
        let (http, admin) = (free_port(), free_port());
        let room = [("--slots", "64"), ("--memory", "4GiB")];
        let mut arguments: Vec<String> = ["node", "--timing", "dev", "--drain-timeout", "15s", "--nats", url]
            .into_iter()
            .chain(["--lattice", lattice, "--id", id])
            .chain(
                room.into_iter().filter(|(option, _)| !more.contains(option)).flat_map(|(option, size)| [option, size]),
            )
            .map(str::to_owned)
            .collect();
        arguments.extend(["--data".into(), data.to_str().unwrap().into()]);
        arguments.extend(["--http".into(), format!("127.0.0.1:{http}")]);
        arguments.extend(["--admin".into(), format!("127.0.0.1:{admin}")]);
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        Self { id: id.to_owned(), process: None, http, admin, arguments, environment: Vec::new() }
    }

    /// Start the process without waiting for it.
    pub fn launch(&mut self) {
        let environment = |command: &mut std::process::Command| {
            command.envs(self.environment.iter().cloned());
        };
        self.process = Some(Process::start_with(&self.id, lattice_program(), &self.arguments, environment));
    }

    /// Wait until it says that it is ready.
    pub async fn ready(&self) {
        eventually(&format!("{} is ready", self.id), PATIENCE, async || match self.is_ready().await {
            Ok((true, _)) => Ok(()),
            Ok((false, text)) => Err(text),
            Err(error) if self.process().is_running() => Err(error.to_string()),
            Err(_) => panic!("{} ended:\n{}", self.id, self.process().log()),
        })
        .await;
    }

    /// Whether `/readyz` answers 200, and its text.
    pub async fn is_ready(&self) -> Result<(bool, String), http::Error> {
        let answer = http::try_get(&self.admin(), "localhost", "/readyz").await?;
        Ok((answer.status == 200, answer.text()))
    }

    pub fn process(&self) -> &Process {
        self.process.as_ref().unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.process().pid()
    }

    /// Where it takes HTTP.
    pub fn http(&self) -> String {
        format!("127.0.0.1:{}", self.http)
    }

    pub fn admin(&self) -> String {
        format!("127.0.0.1:{}", self.admin)
    }

    pub async fn get(&self, host: &str, path: &str) -> http::Answer {
        http::get(&self.http(), host, path).await
    }

    /// Wait until a GET is answered with this status and `lattice-error`.
    pub async fn answers(&self, host: &str, path: &str, expected: (u16, &str)) {
        eventually(&format!("{host}{path} through {} is {expected:?}", self.id), PATIENCE, async || {
            let answer = http::try_get(&self.http(), host, path).await.map_err(|error| error.to_string())?;
            if (answer.status, answer.error()) == expected { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
    }

    pub async fn kill9(&self) {
        self.process().kill9().await;
    }

    pub fn sigterm(&self) {
        self.process().signal(Signal::TERM);
    }

    pub async fn wait_exit(&self) -> ExitStatus {
        self.process().wait_exit(PATIENCE).await
    }
}

/// A server and nodes `n1`, `n2`, … of one lattice.
pub struct Lattice {
    pub name: String,
    pub nodes: Vec<Node>,
    pub server: Server,
    data: tempfile::TempDir,
}

impl Lattice {
    pub async fn start(nodes: usize) -> Self {
        Self::start_on(Server::start().await, "default", nodes).await
    }

    pub async fn start_on(server: Server, name: &str, count: usize) -> Self {
        let data = tempfile::Builder::new().prefix("lattice-test-nodes-").tempdir().unwrap();
        let mut lattice = Self { name: name.to_owned(), nodes: Vec::new(), server, data };
        for index in 1..=count {
            lattice.launch_node(name, &format!("n{index}"), &[]);
        }
        if count > 0 {
            lattice.all_ready().await;
        }
        lattice
    }

    /// Start one more node without waiting for it, perhaps of another lattice.
    pub fn launch_node(&mut self, lattice: &str, id: &str, more: &[&str]) -> &Node {
        let data = self.data.path().join(format!("{lattice}-{id}"));
        let mut node = Node::new(&self.server.url(), lattice, id, data, more);
        node.launch();
        self.nodes.push(node);
        self.nodes.last().unwrap()
    }

    /// The same, with another address for the server.
    pub fn launch_node_by(&mut self, url: &str, id: &str, more: &[&str]) -> &Node {
        let mut node = Node::new(url, &self.name, id, self.data_of(id), more);
        node.launch();
        self.nodes.push(node);
        self.nodes.last().unwrap()
    }

    /// The same with variables of its own.
    pub fn launch_node_with(&mut self, id: &str, more: &[&str], environment: &[(&str, &str)]) -> &Node {
        let (name, data) = (self.name.clone(), self.data_of(id));
        let mut node = Node::new(&self.server.url(), &name, id, data, more);
        node.environment = environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        node.launch();
        self.nodes.push(node);
        self.nodes.last().unwrap()
    }

    /// Every node is ready and sees all the others of its lattice.
    pub async fn all_ready(&self) {
        for node in &self.nodes {
            node.ready().await;
        }
        let expected = self.nodes.iter().filter(|node| node.arguments.contains(&self.name)).count();
        self.listed(expected).await;
    }

    /// Wait until so many nodes are listed.
    pub async fn listed(&self, expected: usize) {
        let api = self.api().await;
        eventually(&format!("{expected} nodes are listed"), PATIENCE, async || {
            // Any node answers: agreement several times in a row is no proof that all agree, but close to it.
            for _ in 0..2 * expected {
                let seen = api.try_nodes().await.map_err(|error| error.to_string())?.len();
                if seen != expected {
                    return Err(format!("{seen} of {expected}"));
                }
            }
            Ok(())
        })
        .await;
    }

    pub async fn api(&self) -> Api {
        Api::connect(&self.server.url(), &self.name).await
    }

    /// The data directory of a node of this lattice.
    pub fn data_of(&self, id: &str) -> PathBuf {
        self.data.path().join(format!("{}-{id}", self.name))
    }

    pub fn node(&self, id: &str) -> &Node {
        self.nodes.iter().find(|node| node.id == id).unwrap_or_else(|| panic!("there is no node {id}"))
    }

    pub fn node_mut(&mut self, id: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.id == id).unwrap_or_else(|| panic!("there is no node {id}"))
    }

    /// Some node that is not this one.
    pub fn other_than(&self, id: &str) -> &Node {
        self.nodes.iter().find(|node| node.id != id).unwrap()
    }

    /// Wait until a GET through every node that runs is answered by the component.
    pub async fn serving(&self, host: &str, path: &str) {
        for node in self.nodes.iter().filter(|node| node.process().is_running()) {
            node.answers(host, path, (200, "")).await;
        }
    }

    /// Run the binary against this lattice.
    pub async fn cli(&self, arguments: &[&str]) -> Output {
        self.cli_of(&self.name, arguments).await
    }

    pub async fn cli_of(&self, lattice: &str, arguments: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(lattice_program());
        command.args(arguments).env_clear().env("HOME", self.data.path()).kill_on_drop(true);
        command.env("NATS_URL", self.server.url()).env("LATTICE", lattice);
        let output = tokio::time::timeout(PATIENCE, command.stdin(std::process::Stdio::null()).output()).await;
        output.unwrap_or_else(|_| panic!("lattice {arguments:?} did not end")).unwrap()
    }

    /// Standard output of a command that must succeed.
    pub async fn cli_ok(&self, arguments: &[&str]) -> String {
        let output = self.cli(arguments).await;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "lattice {arguments:?}: {}\n{out}\n{err}", output.status);
        out.into_owned()
    }

    pub fn show(&self) {
        for node in &self.nodes {
            node.process().show();
        }
        self.server.show();
    }
}

/// The lattice that tests share which disturb nothing of others. It lives as long as some test holds it.
pub struct SharedLattice(Arc<Lattice>);

/// `default`, with three nodes.
pub async fn shared() -> SharedLattice {
    static SHARED: Mutex<Weak<Lattice>> = Mutex::const_new(Weak::new());
    let mut slot = SHARED.lock().await;
    if let Some(lattice) = slot.upgrade() {
        return SharedLattice(lattice);
    }
    let lattice = Arc::new(Lattice::start(3).await);
    *slot = Arc::downgrade(&lattice);
    SharedLattice(lattice)
}

impl Deref for SharedLattice {
    type Target = Lattice;
    fn deref(&self) -> &Lattice {
        &self.0
    }
}

impl Drop for SharedLattice {
    fn drop(&mut self) {
        // Another test may hold it and end later, without this one's logs.
        if std::thread::panicking() {
            self.0.show();
        }
    }
}
