//! Three servers that keep three copies of everything, for tests of what happens when one of them goes away.

use super::{SOON, launch, options, soon};
use lattice::store::Platform;
use lattice_nats::{ConnectOptions, Nats, connect};
use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::process::Child;

const SERVERS: usize = 3;

pub(crate) struct Cluster {
    pub(crate) members: Vec<Member>,
}

pub(crate) struct Member {
    pub(crate) name: String,
    binary: PathBuf,
    arguments: Vec<String>,
    port: u16,
    dir: tempfile::TempDir,
    process: Option<Child>,
}

impl Cluster {
    /// Answers when streams with three copies can be made.
    pub(crate) async fn start(binary: &Path) -> Cluster {
        let ports: Vec<(u16, u16)> = free_ports(2 * SERVERS).chunks(2).map(|pair| (pair[0], pair[1])).collect();
        let routes: Vec<String> = ports.iter().map(|(_, route)| format!("nats://127.0.0.1:{route}")).collect();
        let mut members = Vec::new();
        for (i, (port, route)) in ports.iter().enumerate() {
            let name = format!("s{}", i + 1);
            let arguments = ["-js", "--server_name", &name, "--cluster_name", "test", "--cluster"].map(str::to_owned);
            let mut arguments = arguments.to_vec();
            arguments.extend([format!("nats://127.0.0.1:{route}"), "--routes".into(), routes.join(",")]);
            let dir = tempfile::tempdir().unwrap();
            let process = launch(binary, &arguments, dir.path(), *port).await;
            assert!(process.is_some(), "{name} did not start");
            members.push(Member { name, binary: binary.to_owned(), arguments, port: *port, dir, process });
        }
        let cluster = Cluster { members };
        soon("three copies can be made", cluster.takes_copies()).await;
        cluster
    }

    /// Until a leader for streams is elected and knows all servers, it refuses some copies.
    async fn takes_copies(&self) {
        let client = async_nats::connect(self.urls()).await.unwrap();
        let jetstream = async_nats::jetstream::new(client);
        let config = || async_nats::jetstream::stream::Config {
            name: "probe".into(),
            subjects: vec!["probe".into()],
            num_replicas: SERVERS,
            ..Default::default()
        };
        while jetstream.create_stream(config()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        jetstream.delete_stream("probe").await.unwrap();
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.members.iter().map(Member::url).collect()
    }

    pub(crate) async fn connect(&self) -> Nats {
        connect(ConnectOptions { servers: self.urls(), ..options(String::new()) }).await.unwrap()
    }

    pub(crate) async fn open(&self, lattice: &str) -> Platform {
        self.connect().await.open(&super::id(lattice), true).await.unwrap()
    }

    pub(crate) fn member(&mut self, name: &str) -> &mut Member {
        self.members
            .iter_mut()
            .find(|member| member.name == name)
            .unwrap_or_else(|| panic!("there is no server {name}"))
    }
}

impl Member {
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// SIGSTOP, or SIGCONT.
    pub(crate) fn suspend(&self, is_suspended: bool) {
        let signal = if is_suspended { "-STOP" } else { "-CONT" };
        let pid = self.process.as_ref().and_then(Child::id).unwrap().to_string();
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// kill -9.
    pub(crate) async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await.unwrap();
        }
    }

    /// Start it again after [`Member::kill`], on the same port with the same store.
    pub(crate) async fn restart(&mut self) {
        let launched = tokio::time::timeout(SOON, launch(&self.binary, &self.arguments, self.dir.path(), self.port));
        self.process = launched.await.expect("the server did not start again");
    }
}

/// All of them are taken at the same time, so that none is given twice.
fn free_ports(number: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> = (0..number).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}
