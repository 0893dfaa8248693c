//! HTTP clients that are not ours, through a node that does not run the replica: with TLS and without.

use crate::{
    clients::{python_with, run, script},
    harness::{
        Lattice, Node, Server,
        api::{holders, spec},
        free_port, workspace,
    },
};
use serde_json::json;
use std::path::PathBuf;

fn certificate(name: &str) -> String {
    workspace().join("cli/tests/lattice/certificates").join(name).to_str().unwrap().to_owned()
}

/// Two nodes that take HTTPS as well, and where they do.
async fn lattice(more: &[&str]) -> (Lattice, Vec<String>) {
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    let mut addresses = Vec::new();
    for id in ["n1", "n2"] {
        let address = format!("127.0.0.1:{}", free_port());
        let (chain, key) = (certificate("server.pem"), certificate("server.key"));
        let https = ["--https", &address, "--https-cert", &chain, "--https-key", &key];
        lattice.launch_node("default", id, &[&https, more].concat());
        addresses.push(address);
    }
    lattice.all_ready().await;
    (lattice, addresses)
}

/// Deploys one replica of a guest for `localhost`, which answers a GET like this. Returns a node that does not run it, and
/// where that takes HTTPS.
async fn far_from<'a>(
    lattice: &'a Lattice,
    addresses: &'a [String],
    guest: &str,
    status: u16,
) -> (&'a Node, &'a String) {
    let api = lattice.api().await;
    let mut asked = spec(guest, api.upload(guest).await, 1);
    asked["http"] = json!({ "routes": [{ "host": "localhost" }] });
    api.put(&asked).await.unwrap();
    let holder = holders(&api.ready(guest).await)[0].to_string();
    let index = lattice.nodes.iter().position(|node| node.id != holder).unwrap();
    lattice.nodes[index].answers("localhost", "/", (status, "")).await;
    (&lattice.nodes[index], &addresses[index])
}

async fn passes(python: PathBuf, arguments: &[&str]) {
    let output = run(python, arguments).await;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {out}{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpcio_makes_calls_of_all_kinds_through_any_node() {
    let python = python_with("http-clients");
    let (lattice, addresses) = lattice(&[]).await;
    let (far, https) = far_from(&lattice, &addresses, "grpc-echo", 415).await;
    let client = script("grpc_client.py");
    passes(python.clone(), &[&client, &far.http(), "localhost"]).await;
    passes(python, &[&client, https, "localhost", &certificate("authority.pem")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_httpx_and_websockets_are_answered_as_they_expect() {
    let python = python_with("http-clients");
    let (lattice, addresses) = lattice(&[]).await;
    let (far, https) = far_from(&lattice, &addresses, "echo", 200).await;
    passes(python, &[&script("http_clients.py"), &far.http(), https, &certificate("authority.pem")]).await;
}
