//! Who may join, and what those are told who may not.

use crate::harness::{
    Lattice, PATIENCE, Server, cluster::lattice_program, free_port, process::Process, server::named_or_installed,
};
use std::process::ExitStatus;

/// The newest server without a JetStream API level.
const TOO_OLD: &str = "2.10.26";
const TOO_OLD_VARIABLE: &str = "LATTICE_NATS_SERVER_TOO_OLD";

/// Runs a node that is expected to end by itself; answers with its exit and what it wrote.
async fn refused(url: &str, id: &str, data: &std::path::Path) -> (ExitStatus, String) {
    let address = || format!("127.0.0.1:{}", free_port());
    let (http, admin) = (address(), address());
    let arguments =
        ["node", "--timing", "dev", "--nats", url, "--id", id, "--http", &http, "--admin", &admin, "--data"];
    let node = Process::start(id, lattice_program(), arguments.into_iter().chain(data.to_str()));
    let status = node.wait_exit(PATIENCE).await;
    (status, node.log())
}

#[tokio::test]
async fn a_server_that_is_too_old_is_refused_with_the_remedy() {
    let server = Server::start_program(named_or_installed(TOO_OLD_VARIABLE, TOO_OLD)).await;
    let data = tempfile::tempdir().unwrap();
    let (status, log) = refused(&server.url(), "n1", data.path()).await;
    assert_eq!(status.code(), Some(1), "{log}");
    for part in [TOO_OLD, "too old", "API level is absent", "2.11", "2.12.8 or newer"] {
        assert!(log.contains(part), "{part:?} is not in {log}");
    }
}

#[tokio::test]
async fn a_second_process_with_the_same_data_or_the_same_id_is_refused() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    api.deploy("stays", "hello-http02", 1).await;
    let data = tempfile::tempdir().unwrap();

    // With the same directory, at once, whatever it is called.
    let url = lattice.server.url();
    let first = refused(&url, "n1", &lattice.data_of("n1")).await;
    assert_eq!(first.0.code(), Some(1), "{}", first.1);
    assert!(first.1.contains("another node uses the data directory"), "{}", first.1);

    // With the same id from elsewhere: one of the two has to stop, and says why; the lattice keeps a node n1 that serves.
    let address = || format!("127.0.0.1:{}", free_port());
    let (http, admin) = (address(), address());
    let arguments =
        ["node", "--timing", "dev", "--nats", &url, "--id", "n1", "--http", &http, "--admin", &admin, "--data"];
    let second = Process::start("n1 again", lattice_program(), arguments.into_iter().chain(data.path().to_str()));
    let old = lattice.node("n1");
    let told = "another process joined lattice default as node n1";
    tokio::select! {
        _ = old.process().wait_line(told, PATIENCE) => assert_eq!(old.wait_exit().await.code(), Some(4)),
        _ = second.wait_line(told, PATIENCE) => assert_eq!(second.wait_exit(PATIENCE).await.code(), Some(4)),
    }
    lattice.listed(1).await;
}
