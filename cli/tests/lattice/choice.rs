//! Which node gets a request, where several could answer it.

use crate::harness::{Lattice, Node, PATIENCE, Server, api::spec, eventually, http};
use hyper::Method;
use rustix::process::Signal;
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};
use tokio::task::JoinSet;

/// Who answers requests through a node.
async fn answered(node: &Node, host: &str, requests: usize) -> BTreeMap<String, usize> {
    let mut by = BTreeMap::<String, usize>::new();
    for _ in 0..requests {
        *by.entry(node.get(host, "/").await.ok().node().to_owned()).or_default() += 1;
    }
    by
}

/// Nodes by id and labels, and the workload `hello` with a replica on each that has `role=run`.
async fn start(nodes: &[(&str, &[&str])]) -> Lattice {
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    for (id, labels) in nodes {
        let labels: Vec<&str> = labels.iter().flat_map(|label| ["--label", label]).collect();
        lattice.launch_node("default", id, &labels);
    }
    lattice.all_ready().await;
    let run: BTreeSet<_> = nodes.iter().filter(|(_, labels)| labels.contains(&"role=run")).map(|(id, _)| *id).collect();
    let api = lattice.api().await;
    let mut hello = spec("hello", api.upload("hello-http02").await, run.len() as u32);
    hello["placement"] = json!({ "require": ["role == run"] });
    api.put(&hello).await.unwrap();
    api.ready("hello").await;
    lattice
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_keeps_its_requests_as_long_as_it_answers_them() {
    let (a, b) = ("zone=a", "zone=b");
    let mut lattice = start(&[("a1", &[a]), ("a2", &[a, "role=run"]), ("b1", &[b]), ("b2", &[b, "role=run"])]).await;
    for (node, near) in [("a1", "a2"), ("b1", "b2")] {
        let node = lattice.node(node);
        // From the moment on at which it knows of both.
        eventually(&format!("{near} answers all"), PATIENCE, async || {
            let by = answered(node, "hello.test", 20).await;
            if by.keys().map(String::as_str).eq([near]) { Ok(()) } else { Err(format!("{by:?}")) }
        })
        .await;
    }
    lattice.node_mut("a2").kill9().await;
    let by = answered(lattice.node("a1"), "hello.test", 20).await;
    assert!(by.keys().map(String::as_str).eq(["b2"]), "the other zone answers: {by:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_node_gets_less() {
    let lattice = start(&[("n1", &[]), ("n2", &["role=run"]), ("n3", &["role=run"])]).await;
    let node = lattice.node("n1");
    eventually("both answer", PATIENCE, async || {
        let by = answered(node, "hello.test", 20).await;
        if by.len() == 2 { Ok(()) } else { Err(format!("{by:?}")) }
    })
    .await;
    // It is halted most of the time: what it answers, it answers late.
    let slow = lattice.node("n2").process();
    let is_over = AtomicBool::new(false);
    let halting = async {
        while !is_over.load(Relaxed) {
            slow.signal(Signal::STOP);
            tokio::time::sleep(Duration::from_millis(200)).await;
            slow.signal(Signal::CONT);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let asking = async {
        let by = answered(node, "hello.test", 300).await;
        is_over.store(true, Relaxed);
        by
    };
    let (by, ()) = tokio::join!(asking, halting);
    let slow = by.get("n2").copied().unwrap_or(0);
    assert!(slow < 60, "of 300 requests the slow node of two got {slow}");
    let answer = http::get(&node.http(), "hello.test", "/").await;
    assert_eq!(answer.header("lattice-disconnected"), "", "NATS is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_reports_much_to_do_is_kept_away_from() {
    let lattice = start(&[("n1", &[]), ("n2", &["role=run"]), ("n3", &["role=run"])]).await;
    let api = lattice.api().await;
    let mut sleeper = spec("sleeper", api.upload("faults").await, 2);
    sleeper["placement"] = json!({ "require": ["role == run"] });
    sleeper["limits"] = json!({ "wall": "60s" });
    sleeper["http"]["routes"][0]["timeout"] = "60s".into();
    api.put(&sleeper).await.unwrap();
    api.ready("sleeper").await;
    lattice.serving("sleeper.test", "/sleep/1").await;
    // Requests that the first node knows of by what the second one says only.
    let mut others = JoinSet::new();
    for _ in 0..30 {
        let address = lattice.node("n2").http();
        others.spawn(async move {
            http::send(&address, Method::GET, "sleeper.test", "/sleep/60000", &[], http::empty()).await
        });
    }
    let asking = lattice.node("n1").http();
    eventually("the idle node answers all", PATIENCE, async || {
        // At the same time: by what this node has under way there itself, each would get its share.
        let asked = (0..10).map(|_| http::get(&asking, "sleeper.test", "/sleep/200"));
        let answers = futures_util::future::join_all(asked).await;
        let by: BTreeSet<_> = answers.into_iter().map(|answer| answer.ok().node().to_owned()).collect();
        if by.iter().map(String::as_str).eq(["n3"]) { Ok(()) } else { Err(format!("{by:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_stays_at_one_node_as_long_as_it_is_there() {
    let mut lattice = start(&[("n1", &[]), ("n2", &["role=run"]), ("n3", &["role=run"])]).await;
    let api = lattice.api().await;
    let mut hello = serde_json::to_value(api.get("hello").await.unwrap().spec).unwrap();
    hello["http"]["routes"][0]["sticky"] = json!({ "cookie": "at" });
    api.put(&hello).await.unwrap();
    api.ready("hello").await;
    let asks = async |node: &Node, cookie: &str| {
        let headers = [("cookie", cookie)];
        let answer = http::send(&node.http(), Method::GET, "hello.test", "/", &headers, http::empty()).await.unwrap();
        http::whole(answer).await.unwrap().ok()
    };
    let given = eventually("a cookie is given", PATIENCE, async || {
        let cookie = asks(lattice.node("n1"), "a=b").await.header("set-cookie").to_owned();
        cookie.split(';').next().filter(|pair| pair.starts_with("at=")).map(str::to_owned).ok_or(cookie)
    })
    .await;
    // From the moment on at which all nodes know the route and both replicas.
    let at = eventually("all nodes agree", PATIENCE, async || {
        let mut by = BTreeSet::new();
        for node in &lattice.nodes {
            for _ in 0..5 {
                let answer = asks(node, &given).await;
                by.insert(answer.node().to_owned());
                if !answer.header("set-cookie").is_empty() {
                    return Err(format!("{answer:?}"));
                }
            }
        }
        if by.len() == 1 { Ok(by.into_iter().next().unwrap()) } else { Err(format!("{by:?}")) }
    })
    .await;
    assert!(!given.contains(&at), "{given} names no node");
    lattice.node_mut(&at).kill9().await;
    let other = asks(lattice.node("n1"), &given).await;
    assert_ne!(other.node(), at);
}
