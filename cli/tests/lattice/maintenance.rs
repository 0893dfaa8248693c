//! Nodes that are emptied: nothing is lost on the way, and it holds over restarts.

use crate::harness::{
    Api, Lattice, PATIENCE, Server,
    api::{holders, spec},
    eventually,
    load::Load,
};
use lattice::{
    ctl::{DrainStatus, NodeReply},
    id::NodeId,
    record::Phase,
    store::Headers,
    subject::Topic,
};
use serde_json::json;

async fn node(api: &Api, id: &str) -> NodeReply {
    api.ask(Topic::NodeGet(NodeId::new(id).unwrap()), Headers::new(), b"").await.unwrap()
}

/// Wait until a node's drain is so.
async fn drain(api: &Api, id: &str, what: &str, is_so: impl Fn(&DrainStatus) -> bool) {
    eventually(what, PATIENCE, async || {
        let drain = node(api, id).await.drain;
        if drain.as_ref().is_some_and(&is_so) { Ok(()) } else { Err(format!("{drain:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_emptied_under_load_without_a_failed_request_and_stays_empty_over_a_restart() {
    let mut lattice = Lattice::start(3).await;
    let api = lattice.api().await;
    api.deploy("web", "hello-http02", 6).await;
    lattice.serving("web.test", "/").await;
    let mut alone = spec("alone", api.upload("hello-http02").await, 2);
    alone["class"] = json!("strict");
    api.put(&alone).await.unwrap();
    let status = api.ready("alone").await;
    assert!(holders(&api.status("web").await.unwrap()).iter().any(|node| node.as_str() == "n1"));

    let load = Load::start([lattice.node("n2").http(), lattice.node("n3").http()], "web.test", "/");
    let out = lattice.cli(&["drain", "n1", "--wait", "--timeout", "60s"]).await;
    let (text, notes) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && text.contains("n1 is drained"), "{text}\n{notes}");
    assert!(notes.contains("n1 is being drained"), "{notes}");
    api.ready("web").await;
    load.stop().await.assert_none_failed();
    for workload in ["web", "alone"] {
        let status = api.ready(workload).await;
        assert!(holders(&status).iter().all(|node| node.as_str() != "n1"), "{status:?}");
    }
    assert_eq!(status.replicas, 2);
    assert!(lattice.cli_ok(&["nodes"]).await.contains("drained"));
    eventually("the node tells that it is empty", PATIENCE, async || {
        let events = lattice.cli_ok(&["events", "--last", "200"]).await;
        if events.contains("node-drained") { Ok(()) } else { Err(events) }
    })
    .await;

    // Nothing comes back with the node, nor when it may: only what is new is placed there.
    lattice.node("n1").kill9().await;
    lattice.node_mut("n1").launch();
    lattice.all_ready().await;
    assert_eq!(node(&api, "n1").await.drain.map(|drain| drain.left), Some(Vec::new()));
    api.scale("web", 7).await.unwrap();
    let status = api.ready("web").await;
    assert!(holders(&status).iter().all(|node| node.as_str() != "n1"), "{status:?}");
    let told = lattice.cli_ok(&["uncordon", "n1"]).await;
    assert!(told.contains("no longer drained"), "{told}");
    eventually("the order is gone", PATIENCE, async || match node(&api, "n1").await.drain {
        None => Ok(()),
        some => Err(format!("{some:?}")),
    })
    .await;
    api.scale("web", 8).await.unwrap();
    let status = api.ready("web").await;
    let here = holders(&status).iter().filter(|node| node.as_str() == "n1").count();
    assert_eq!(here, 1, "{status:?}");
    lattice.serving("web.test", "/").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_other_place_stays_until_the_deadline() {
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    lattice.launch_node("default", "n1", &["--label", "disk=fast"]);
    lattice.launch_node("default", "n2", &[]);
    lattice.all_ready().await;
    let api = lattice.api().await;
    let mut picky = spec("picky", api.upload("hello-http02").await, 1);
    picky["placement"] = json!({ "require": ["disk == fast"] });
    api.put(&picky).await.unwrap();
    api.ready("picky").await;
    lattice.cli_ok(&["drain", "n1"]).await;
    drain(&api, "n1", "it waits for a place", |drain| drain.left.len() == 1 && drain.left[0].to.is_none()).await;
    let out = lattice.cli(&["drain", "n1", "--wait", "--timeout", "1s"]).await;
    let notes = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(6), "{notes}");
    assert!(notes.contains("the drain goes on: n1: 1 left: picky.0 waiting for a place"), "{notes}");
    assert_eq!(api.status("picky").await.unwrap().slots[0].phase, Some(Phase::Ready), "it serves meanwhile");
    lattice.node("n2").answers("picky.test", "/", (200, "")).await;

    lattice.cli_ok(&["drain", "n1", "--deadline", "500ms", "--wait", "--timeout", "60s"]).await;
    let status = api.status("picky").await.unwrap();
    assert!(status.slots[0].node.is_none(), "{status:?}");
    assert!(status.slots[0].refused.iter().any(|refusal| refusal.rule == "drain"), "{status:?}");
    lattice.cli_ok(&["undrain", "n1"]).await;
    api.ready("picky").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_drain_moved_away_comes_back_when_somebody_asks_for_it() {
    let lattice = Lattice::start(3).await;
    let api = lattice.api().await;
    api.deploy("web", "hello-http02", 6).await;
    lattice.serving("web.test", "/").await;
    lattice.cli_ok(&["drain", "n1", "--wait", "--timeout", "60s"]).await;
    lattice.cli_ok(&["undrain", "n1"]).await;
    let on_n1 = async || holders(&api.ready("web").await).iter().filter(|node| node.as_str() == "n1").count();
    assert_eq!(on_n1().await, 0, "nothing comes back by itself");
    let shown = eventually("the node is there again", PATIENCE, async || {
        let shown = lattice.cli_ok(&["rebalance", "--dry-run"]).await;
        if shown.contains("2 replicas would move") { Ok(shown) } else { Err(shown) }
    })
    .await;
    assert!(shown.contains("web.") && shown.contains("n1  replicas"), "{shown}");
    assert_eq!(on_n1().await, 0, "it was only asked");
    assert_eq!(lattice.cli_ok(&["rebalance", "--status"]).await, "nothing is being moved\n");

    let load = Load::start(lattice.nodes.iter().map(|node| node.http()), "web.test", "/");
    lattice.cli_ok(&["rebalance", "--wait", "--timeout", "60s"]).await;
    assert_eq!(on_n1().await, 2);
    load.stop().await.assert_none_failed();
    assert!(lattice.cli_ok(&["rebalance"]).await.contains("every replica is in the best place"));
    eventually("it tells that it is over", PATIENCE, async || {
        let events = lattice.cli_ok(&["events", "--last", "200"]).await;
        if events.contains("rebalance-ended") && events.contains("over: 2 moved") { Ok(()) } else { Err(events) }
    })
    .await;
    assert_eq!(lattice.cli_ok(&["rebalance", "--cancel"]).await, "nothing is being moved\n");
}
