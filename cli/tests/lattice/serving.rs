//! A workload that was deployed answers through every node, in every language.

use crate::harness::{
    Lattice,
    api::{holders, spec},
    http, shared,
};
use hyper::Method;
use std::collections::BTreeSet;

/// Through each node; answers with the nodes that ran it.
async fn through_each(lattice: &Lattice, host: &str) -> Vec<String> {
    let mut ran = Vec::new();
    for node in &lattice.nodes {
        let answer = node.get(host, "/").await.ok();
        assert!(answer.text().starts_with("Hello from lattice, request "), "{answer:?}");
        ran.push(answer.node().to_owned());
    }
    ran
}

#[tokio::test]
async fn one_replica_answers_through_every_node() {
    let lattice = shared().await;
    let api = lattice.api().await;
    for guest in ["hello-http02", "hello-http03"] {
        let name = format!("one-{guest}");
        let status = api.deploy(&name, guest, 1).await;
        let host = format!("{name}.test");
        lattice.serving(&host, "/").await;
        let holder = holders(&status)[0].to_string();
        assert_eq!(through_each(&lattice, &host).await, vec![holder; lattice.nodes.len()], "{guest}");
    }
}

#[tokio::test]
async fn replicas_are_spread_evenly_and_each_node_prefers_its_own() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let status = api.deploy("spread", "hello-http02", 6).await;
    let ids: Vec<String> = lattice.nodes.iter().map(|node| node.id.clone()).collect();
    let mut held: Vec<String> = holders(&status).iter().map(ToString::to_string).collect();
    held.sort();
    assert_eq!(held, ["n1", "n1", "n2", "n2", "n3", "n3"]);
    lattice.serving("spread.test", "/").await;
    assert_eq!(through_each(&lattice, "spread.test").await, ids);
}

#[tokio::test]
async fn javascript_python_and_c_answer() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let guests = ["hello-js", "hello-python", "hello-c"];
    // Each takes seconds to compile: let them do so side by side.
    for guest in guests {
        api.submit(guest, guest, 1).await;
    }
    for guest in guests {
        let holder = holders(&api.ready(guest).await)[0].to_string();
        let host = format!("{guest}.test");
        lattice.serving(&host, "/").await;
        let ran: BTreeSet<String> = through_each(&lattice, &host).await.into_iter().collect();
        assert_eq!(ran, BTreeSet::from([holder]), "{guest}");
        api.delete(guest).await.unwrap();
    }
}

#[tokio::test]
async fn environment_routes_and_unknown_hosts() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let digest = api.upload("hello-http02").await;
    let spec = serde_json::json!({
        "name": "routed",
        "components": [{ "name": "main", "source": digest.to_string(), "env": { "COLOUR": "blue" } }],
        "http": { "routes": [{ "host": "routed.test", "path": "/env" }, { "host": "*.wild.test" }] },
    });
    api.put(&spec).await.unwrap();
    api.ready("routed").await;
    lattice.serving("routed.test", "/env/COLOUR").await;
    for node in &lattice.nodes {
        assert_eq!(node.get("routed.test", "/env/COLOUR").await.ok().text(), "blue\n");
        assert_eq!(node.get("ROUTED.test:80", "/env/COLOUR").await.ok().text(), "blue\n");
        node.get("any.thing.wild.test", "/").await.ok();
        for (host, path) in
            [("routed.test", "/"), ("routed.test", "/environment"), ("wild.test", "/"), ("no.test", "/")]
        {
            let answer = node.get(host, path).await;
            assert_eq!((answer.status, answer.error()), (404, "no-route"), "{host}{path}");
        }
        // The component's own 404 is not the router's.
        let answer = node.get("routed.test", "/env/NOTHING").await;
        assert_eq!((answer.status, answer.error()), (404, ""));
    }
}

#[tokio::test]
async fn the_component_sees_the_request_as_the_client_sent_it() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let status = api.deploy("mirror", "echo", 1).await;
    lattice.serving("mirror.test", "/headers").await;
    let holder = lattice.node(holders(&status)[0].as_str());
    for node in [holder, lattice.other_than(&holder.id)] {
        let sent = [
            ("x-mine", "kept"),
            ("connection", "x-hop"),
            ("x-hop", "dropped"),
            ("lattice-error", "forged"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ];
        let path = "/headers?a=1&b=%20";
        let response = http::send(&node.http(), Method::GET, "mirror.test", path, &sent, http::empty()).await.unwrap();
        let answer = http::whole(response).await.unwrap().ok();
        assert_eq!((answer.header("x-method"), answer.header("x-path")), ("GET", path));
        let seen = answer.text();
        let value = |name: &str| seen.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        assert_eq!(value("x-mine"), Some("kept"), "{seen}");
        assert_eq!((value("x-hop"), value("connection")), (None, None), "{seen}");
        assert_eq!(value("x-forwarded-for"), Some("127.0.0.1"), "{seen}");
        assert!(value("x-forwarded-host").is_some_and(|host| host.starts_with("mirror.test")), "{seen}");
        assert_eq!(value("x-forwarded-proto"), Some("http"), "{seen}");
        assert!(value("traceparent").is_some_and(|trace| trace.contains("0af7651916cd43dd8448eb211c80319c")), "{seen}");
    }
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_wherever_it_comes_in() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let mut asked = spec("small", api.upload("echo").await, 1);
    asked["limits"] = serde_json::json!({ "body": "10KiB" });
    api.put(&asked).await.unwrap();
    let status = api.ready("small").await;
    lattice.serving("small.test", "/bytes/1").await;
    let holder = lattice.node(holders(&status)[0].as_str());
    for node in [holder, lattice.other_than(&holder.id)] {
        // So little too much that all of it is sent before the refusal can close the connection on the rest.
        for (length, announced) in
            [(10 * 1024, true), (10 * 1024 + 1, true), (10 * 1024, false), (10 * 1024 + 1, false)]
        {
            let body = if announced { http::full(vec![1; length]) } else { http::chunked(vec![1; length]) };
            let response = http::send(&node.http(), Method::POST, "small.test", "/count", &[], body).await.unwrap();
            let answer = http::whole(response).await.unwrap();
            let expected = if length > 10 * 1024 { (413, "body-too-large") } else { (200, "") };
            assert_eq!((answer.status, answer.error()), expected, "{length} {announced} through {}", node.id);
        }
    }
}
