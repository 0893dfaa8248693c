//! Three servers that keep three copies of everything, and real nodes: each server is killed in turn while what runs is
//! changed under load.

use crate::harness::{
    Api, Lattice, PATIENCE, Server,
    api::{connect, spec},
    eventually, free_port,
    load::Load,
};
use lattice::id::LatticeId;
use serde_json::json;
use std::time::{Duration, Instant};

/// A cluster of three. The first of them is the lattice's own.
async fn cluster() -> [Server; 3] {
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let routes: Vec<String> = ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
    let member = async |index: usize| {
        let (port, routes) = (ports[index], routes.join(", "));
        let cluster = format!("cluster {{ name: test, listen: '127.0.0.1:{port}', routes: [{routes}] }}");
        Server::start_configured(&format!("server_name: s{index}\n{cluster}\n")).await
    };
    let servers = [member(0).await, member(1).await, member(2).await];
    let urls = urls(&servers);
    eventually("three copies can be made", PATIENCE, async || {
        let nats = connect(&urls).await;
        let opened = nats.open(&LatticeId::new("default").unwrap(), true).await;
        opened.map(drop).map_err(|error| error.to_string())
    })
    .await;
    servers
}

fn urls(servers: &[Server]) -> String {
    servers.iter().map(Server::url).collect::<Vec<_>>().join(",")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_in_the_midst_of_a_change_costs_no_request() {
    let servers = cluster().await;
    let urls = urls(&servers);
    let [first, mut second, mut third] = servers;
    let mut lattice = Lattice::start_on(first, "default", 0).await;
    for id in ["n1", "n2", "n3"] {
        lattice.launch_node_by(&urls, id, &[]);
    }
    for node in &lattice.nodes {
        node.ready().await;
    }
    let api = Api::connect(&urls, "default").await;
    let mut asked = spec("web", api.upload("hello-http02").await, 3);
    asked["components"][0]["env"] = json!({ "VERSION": "0" });
    api.put(&asked).await.unwrap();
    api.ready("web").await;
    lattice.serving("web.test", "/").await;
    let load = Load::start(lattice.nodes.iter().map(|node| node.http()), "web.test", "/quiet");
    let mut healed = Vec::new();
    for (version, server) in [&mut lattice.server, &mut second, &mut third].into_iter().enumerate() {
        let version = (version + 1).to_string();
        asked["components"][0]["env"] = json!({ "VERSION": version });
        // What was lost with the server before may be without a leader for a moment still. A put once more is harmless.
        eventually("the change is taken", PATIENCE, async || {
            api.put(&asked).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
        let killed = Instant::now();
        server.kill9().await;
        let status = api.ready("web").await;
        healed.push(killed.elapsed());
        assert_eq!(status.aborted, None, "{status:?}");
        server.start_again().await;
        // The next one is killed when this one has caught up.
        eventually("all copies are there again", PATIENCE, async || {
            let scaled = api.scale("web", if version == "2" { 2 } else { 3 }).await;
            scaled.map(drop).map_err(|error| error.to_string())
        })
        .await;
        tokio::time::timeout(PATIENCE, api.ready("web")).await.unwrap();
    }
    let samples = load.stop().await;
    let healed: Vec<u128> = healed.iter().map(Duration::as_millis).collect();
    println!("3 servers killed during 3 changes: {}; the changes were over after {healed:?} ms", samples.report());
    samples.assert_none_failed();
}
