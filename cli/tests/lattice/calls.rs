//! Components that call other workloads by their names, on real nodes.

use crate::harness::{
    Lattice, Node, PATIENCE, Server,
    api::{holders, spec},
    eventually, http,
};
use http_body_util::BodyExt as _;
use hyper::Method;
use serde_json::{Value, json};
use std::time::Duration;

/// A workload of the fetcher, which asks whom it is told to.
fn caller(name: &str, component: lattice::id::Digest, replicas: u32, grants: Value) -> Value {
    let mut caller = spec(name, component, replicas);
    caller["grants"] = json!({ "http-out": grants });
    caller
}

/// What the caller's guest got when it asked for `target`.
async fn told(node: &Node, host: &str, target: &str, more: &[(&str, &str)]) -> http::Answer {
    let headers: Vec<_> = [("x-target", target)].into_iter().chain(more.iter().copied()).collect();
    let answer = http::send(&node.http(), Method::GET, host, "/", &headers, http::empty()).await.unwrap();
    http::whole(answer).await.unwrap()
}

/// Requests for a workload that a node's router answered over this path.
async fn counted(node: &Node, workload: &str, path: &str) -> u64 {
    let metrics = http::get(&node.admin(), "localhost", "/metrics").await.text();
    let labels = [format!("workload=\"{workload}\""), format!("path=\"{path}\"")];
    let of_these = |line: &&str| {
        line.starts_with("lattice_router_requests_total{") && labels.iter().all(|label| line.contains(label.as_str()))
    };
    metrics.lines().filter(of_these).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_calls_a_workload_here_and_elsewhere() {
    let lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    for version in ["fetcher", "fetcher03"] {
        let pay = format!("pay-{version}");
        // No route: it is there for other workloads only.
        let mut callee = spec(&pay, api.upload("hello-http02").await, 1);
        callee["http"] = json!({});
        api.put(&callee).await.unwrap();
        let here = holders(&api.ready(&pay).await).remove(0);
        let url = format!("http://{pay}.lattice/");
        let grants = json!([url, format!("http://{version}.lattice"), "*"]);
        api.put(&caller(version, api.upload(version).await, 2, grants)).await.unwrap();
        api.ready(version).await;
        let host = format!("{version}.test");
        for node in &lattice.nodes {
            let (path, other) = if node.id == here.as_str() { ("local", "remote") } else { ("remote", "local") };
            eventually("the workload is called", PATIENCE, async || {
                let answer = told(node, &host, &url, &[]).await;
                // As soon as this node knows of its own replica.
                let is_own = answer.node() == node.id;
                if answer.status == 200 && is_own { Ok(()) } else { Err(format!("{answer:?}")) }
            })
            .await;
            let before = (counted(node, &pay, path).await, counted(node, &pay, other).await);
            for _ in 0..5 {
                assert!(told(node, &host, &url, &[]).await.ok().text().starts_with("Hello from lattice"));
            }
            let after = (counted(node, &pay, path).await, counted(node, &pay, other).await);
            assert_eq!(after, (before.0 + 5, before.1), "{version} on {}: {path}", node.id);
        }
        let node = &lattice.nodes[0];
        for (target, code) in [
            ("http://somebody.lattice/", "HttpRequestDenied"),
            (&format!("https://{pay}.lattice/"), "HttpRequestUriInvalid"),
        ] {
            let answer = told(node, &host, target, &[]).await;
            assert!(answer.status == 502 && answer.text().contains(code), "{target}: {answer:?}");
        }

        // A chain that never ends, since each request asks for the same again.
        let itself = format!("http://{version}.lattice/");
        let answer = told(node, &host, &itself, &[("x-pass", "x-pass x-target")]).await;
        assert!(answer.text().contains("LoopDetected"), "{answer:?}");

        callee["http"] = json!({ "callers": ["somebody"] });
        api.put(&callee).await.unwrap();
        eventually("the callee refuses", PATIENCE, async || {
            let answer = told(node, &host, &url, &[]).await;
            if answer.text().contains("HttpRequestDenied") { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
    }
    let error =
        api.put(&caller("x", api.upload("fetcher").await, 1, json!(["https://pay.lattice"]))).await.unwrap_err();
    assert_eq!(error.field.as_deref(), Some("grants.http-out[0]"), "{error:?}");
}

/// All turns of the workload wait for a turn of the workload.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_that_waits_for_itself_goes_on() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    let mut own = caller("fetcher", api.upload("fetcher").await, 1, json!(["http://fetcher.lattice"]));
    own["limits"] = json!({ "concurrency": 1 });
    api.put(&own).await.unwrap();
    api.ready("fetcher").await;
    let node = &lattice.nodes[0];
    let asks = || told(node, "fetcher.test", "http://fetcher.lattice/", &[]);
    eventually("it is refused a second turn", PATIENCE, async || {
        let answer = asks().await;
        if answer.text().contains("ConnectionLimitReached") { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    let answer = told(node, "fetcher.test", "http://nobody.lattice/", &[]).await;
    assert!(answer.text().contains("HttpRequestDenied"), "its turn is free again: {answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callee_that_is_killed_in_its_answer_cuts_the_callers() {
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    lattice.launch_node("default", "n1", &["--label", "role=caller"]);
    lattice.launch_node("default", "n2", &["--label", "role=callee"]);
    lattice.all_ready().await;
    let api = lattice.api().await;
    let mut callee = spec("echo", api.upload("echo").await, 1);
    callee["placement"] = json!({ "require": ["role == callee"] });
    api.put(&callee).await.unwrap();
    let mut asks = caller("fetcher", api.upload("fetcher03").await, 1, json!(["http://*.lattice"]));
    asks["placement"] = json!({ "require": ["role == caller"] });
    api.put(&asks).await.unwrap();
    api.ready("echo").await;
    api.ready("fetcher").await;
    let node = lattice.node("n1");
    eventually("the call is answered", PATIENCE, async || {
        let answer = told(node, "fetcher.test", "http://echo.lattice/bytes/1000", &[]).await;
        if answer.body.len() == 1000 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;

    let target = [("x-target", "http://echo.lattice/bytes/4000000000")];
    let response = http::send(&node.http(), Method::GET, "fetcher.test", "/", &target, http::empty()).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(!first.is_empty());
    lattice.node("n2").kill9().await;
    let rest = async {
        while let Some(frame) = body.frame().await {
            frame?;
        }
        Ok::<_, hyper::Error>(())
    };
    let end = tokio::time::timeout(Duration::from_secs(45), rest).await.expect("it ends in time");
    assert!(end.is_err(), "a cut body never reads like a whole one");
}
