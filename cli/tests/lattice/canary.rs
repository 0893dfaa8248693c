//! What is new comes by weight: so many of a hundred requests, at every node, whatever the replicas.

use crate::harness::{
    Lattice, Node, PATIENCE,
    api::{Api, spec},
    eventually, http,
    load::Load,
    shared,
};
use hyper::Method;
use lattice::{ctl::StatusReply, id::Generation, record::RolloutState};
use serde_json::{Value, json};

/// `replicas` of a guest that tells its version.
async fn versioned(api: &Api, name: &str, replicas: u32, steps: &Value) -> Value {
    let mut asked = spec(name, api.upload("hello-http02").await, replicas);
    asked["components"][0]["env"] = json!({ "VERSION": "1" });
    asked["rollout"] = json!({ "steps": steps });
    asked
}

fn load(lattice: &Lattice, name: &str) -> Load {
    Load::start(lattice.nodes.iter().map(Node::http), &format!("{name}.test"), "/quiet")
}

async fn when(api: &Api, name: &str, what: &str, is_it: impl Fn(&StatusReply) -> bool) -> StatusReply {
    eventually(&format!("{name}: {what}"), PATIENCE, async || {
        let status = api.status(name).await.map_err(|error| error.to_string())?;
        if is_it(&status) { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await
}

fn stopped_at(weight: u32) -> impl Fn(&StatusReply) -> bool {
    move |status| {
        let rollout = status.rollout.as_ref();
        rollout.is_some_and(|rollout| rollout.state == RolloutState::Paused && rollout.weight == Some(weight))
    }
}

/// Of so many requests at one node, those that version 2 answers.
async fn to_new(node: &Node, name: &str, requests: u32) -> u32 {
    let mut found = 0;
    for _ in 0..requests {
        let version = http::get(&node.http(), &format!("{name}.test"), "/env/VERSION").await.ok().text();
        found += u32::from(version.trim() == "2");
    }
    found
}

/// At every node the share is what chance makes of the weight: within five standard deviations.
async fn shares(lattice: &Lattice, name: &str, percent: u32) {
    const REQUESTS: u32 = 400;
    for node in &lattice.nodes {
        // Its table follows the record.
        let (requests, share) = (f64::from(REQUESTS), f64::from(percent) / 100.0);
        let most = 5.0 * (requests * share * (1.0 - share)).sqrt();
        eventually(&format!("{percent} % at {}", node.id), PATIENCE, async || {
            let found = to_new(node, name, REQUESTS).await;
            let is_it = (f64::from(found) - requests * share).abs() <= most;
            if is_it { Ok(()) } else { Err(format!("{found} of {REQUESTS}")) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_gets_its_share_at_every_node_and_no_request_fails() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let steps = json!([{ "replicas": 1, "weight": 0 }, { "weight": 20 }, { "weight": 60 }]);
    let mut asked = versioned(&api, "weighed", 4, &steps).await;
    api.put(&asked).await.unwrap();
    api.ready("weighed").await;
    lattice.serving("weighed.test", "/quiet").await;
    let load = load(&lattice, "weighed");
    asked["components"][0]["env"] = json!({ "VERSION": "2" });
    api.put(&asked).await.unwrap();
    let dark = when(&api, "weighed", "dark", stopped_at(0)).await;
    assert_eq!(dark.rollout.unwrap().updated, 1);
    for node in &lattice.nodes {
        assert_eq!(to_new(node, "weighed", 50).await, 0, "through {}", node.id);
    }
    for (weight, replicas) in [(20, 1), (60, 3)] {
        lattice.cli_ok(&["rollout", "resume", "weighed"]).await;
        let status = when(&api, "weighed", "at the next step", stopped_at(weight)).await;
        assert_eq!(status.rollout.unwrap().updated, replicas);
        let told = lattice.cli_ok(&["status", "weighed"]).await;
        assert!(told.contains(&format!("it gets {weight} % of the requests")), "{told}");
        shares(&lattice, "weighed", weight).await;
    }
    // All at once it gets nothing, and its replicas go back.
    lattice.cli_ok(&["rollout", "abort", "weighed"]).await;
    let back = api.ready("weighed").await;
    assert_eq!(back.template, Some(Generation(1)));
    shares(&lattice, "weighed", 0).await;
    // Another try goes to the end.
    asked["rollout"]["steps"] = json!([{ "weight": 50, "pause": "100ms" }]);
    api.put(&asked).await.unwrap();
    let status = api.ready("weighed").await;
    assert_eq!((status.rollout, status.aborted), (None, None));
    shares(&lattice, "weighed", 100).await;
    load.stop().await.assert_none_failed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_bound_stays_with_what_it_has() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let mut asked = versioned(&api, "bound", 4, &json!([{ "weight": 40 }, { "weight": 70 }])).await;
    asked["http"]["routes"] = json!([{ "host": "bound.test", "sticky": { "header": "x-user" } }]);
    api.put(&asked).await.unwrap();
    api.ready("bound").await;
    lattice.serving("bound.test", "/quiet").await;
    asked["components"][0]["env"] = json!({ "VERSION": "2" });
    api.put(&asked).await.unwrap();
    when(&api, "bound", "at the first step", stopped_at(40)).await;
    let first = settled(&lattice).await;
    assert!(first.contains(&true) && first.contains(&false), "{first:?}");
    lattice.cli_ok(&["rollout", "resume", "bound"]).await;
    when(&api, "bound", "at the second step", stopped_at(70)).await;
    let second = eventually("more clients are bound to what is new", PATIENCE, async || {
        let second = settled(&lattice).await;
        if second == first { Err("not yet".to_owned()) } else { Ok(second) }
    })
    .await;
    assert!(first.iter().zip(&second).all(|(before, after)| *after || !*before), "{first:?} {second:?}");
    api.delete("bound").await.unwrap();
}

/// For each of some users whether version 2 answers, when all nodes say the same.
async fn settled(lattice: &Lattice) -> Vec<bool> {
    eventually("all nodes agree", PATIENCE, async || {
        let mut at_nodes = Vec::new();
        for node in &lattice.nodes {
            let mut users = Vec::new();
            for user in 0..40 {
                let user = user.to_string();
                let headers = [("x-user", user.as_str())];
                let (address, path) = (node.http(), "/env/VERSION");
                let sent = http::send(&address, Method::GET, "bound.test", path, &headers, http::empty()).await;
                let answer = http::whole(sent.unwrap()).await.unwrap().ok();
                users.push(answer.text().trim() == "2");
            }
            at_nodes.push(users);
        }
        let first = at_nodes[0].clone();
        if at_nodes.iter().all(|users| *users == first) { Ok(first) } else { Err(format!("{at_nodes:?}")) }
    })
    .await
}

/// What is new answers badly on a path on which what is there answers well: it is given up by itself, with the figure, the
/// bound and a node, and from then on requests go well.
async fn given_up(name: &str, path: &str, analysis: Value, expected: &[&str]) {
    let lattice = shared().await;
    let api = lattice.api().await;
    let mut asked = versioned(&api, name, 4, &json!([{ "weight": 30 }])).await;
    asked["rollout"]["analysis"] = analysis;
    api.put(&asked).await.unwrap();
    api.ready(name).await;
    lattice.serving(&format!("{name}.test"), "/quiet").await;
    let host = format!("{name}.test");
    let load = Load::start(lattice.nodes.iter().map(Node::http), &host, path);
    asked["components"] = json!([{ "name": "main", "source": api.upload("faults").await.to_string() }]);
    let put = api.put(&asked).await.unwrap();
    let back = when(&api, name, "given up", |status| status.aborted.is_some()).await;
    let aborted = back.aborted.unwrap();
    assert_eq!(aborted.generation, put.generation);
    for text in expected {
        assert!(aborted.reason.contains(text), "{}", aborted.reason);
    }
    println!("{name}: {}; {}", aborted.reason, load.stop().await.report());
    assert_eq!(api.ready(name).await.template, Some(Generation(1)));
    assert!(lattice.cli_ok(&["status", name]).await.contains("most of them on n"));
    let after = Load::start(lattice.nodes.iter().map(Node::http), &host, path);
    for node in &lattice.nodes {
        for _ in 0..50 {
            assert_eq!(http::get(&node.http(), &host, path).await.status, 200);
        }
    }
    after.stop().await.assert_none_failed();
    // The next one that answers well goes to the end.
    let mut better = versioned(&api, name, 4, &json!([{ "weight": 30, "pause": "1s" }])).await;
    better["rollout"]["analysis"] = asked["rollout"]["analysis"].clone();
    better["components"][0]["env"] = json!({ "VERSION": "2" });
    let load = Load::start(lattice.nodes.iter().map(Node::http), &host, path);
    api.put(&better).await.unwrap();
    assert_eq!(api.ready(name).await.aborted, None);
    load.stop().await.assert_none_failed();
    api.delete(name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_that_traps_is_given_up_by_itself() {
    let analysis = json!({ "max-error-rate": "5%", "min-requests": 20, "window": "10s" });
    given_up("trapped", "/trap", analysis, &["requests failed", "on n", "max-error-rate is 5%"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_that_is_slow_is_given_up_by_itself() {
    let analysis = json!({ "max-p95": "200ms", "min-requests": 20, "window": "10s" });
    given_up("slowed", "/sleep/400", analysis, &["took longer than 200ms", "max-p95 lets 5 %"]).await;
}

/// All of what is new comes up beside what is there, and those who ask for it reach it; then all requests go over at once, and
/// back, and none fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_requests_go_over_at_once_and_back_and_none_fails() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let mut asked = versioned(&api, "switched", 2, &json!([{ "weight": 0 }, { "weight": 100 }])).await;
    asked["rollout"]["strategy"] = json!("blue-green");
    asked["rollout"]["preview"] = json!({ "header": "x-preview", "value": "orange" });
    api.put(&asked).await.unwrap();
    api.ready("switched").await;
    lattice.serving("switched.test", "/quiet").await;
    let load = load(&lattice, "switched");
    asked["components"][0]["env"] = json!({ "VERSION": "2" });
    for is_kept in [false, true] {
        api.put(&asked).await.unwrap();
        let dark = when(&api, "switched", "to be looked at", stopped_at(0)).await;
        assert_eq!((dark.replicas, dark.ready, dark.rollout.unwrap().updated), (4, 4, 2), "two sets are ready");
        for node in &lattice.nodes {
            assert_eq!(to_new(node, "switched", 30).await, 0, "through {}", node.id);
            for _ in 0..30 {
                let (address, headers) = (node.http(), [("x-preview", "orange")]);
                let sent = http::send(&address, Method::GET, "switched.test", "/env/VERSION", &headers, http::empty());
                let answer = http::whole(sent.await.unwrap()).await.unwrap().ok();
                assert_eq!(answer.text().trim(), "2", "through {}", node.id);
            }
        }
        lattice.cli_ok(&["rollout", "resume", "switched"]).await;
        let status = when(&api, "switched", "switched", stopped_at(100)).await;
        assert_eq!(status.rollout.unwrap().updated, 2, "the others still run what was there before");
        shares(&lattice, "switched", 100).await;
        let end = if is_kept { "resume" } else { "abort" };
        lattice.cli_ok(&["rollout", end, "switched"]).await;
        shares(&lattice, "switched", if is_kept { 100 } else { 0 }).await;
        let after = when(&api, "switched", "with one set", |status| {
            status.rollout.is_none() && status.replicas == 2 && status.ready == 2
        })
        .await;
        assert_eq!(after.aborted.is_some(), !is_kept);
    }
    api.ready("switched").await;
    shares(&lattice, "switched", 100).await;
    load.stop().await.assert_none_failed();
    api.delete("switched").await.unwrap();
}

/// Without steps of its own it goes over by itself, and what answers badly is sent back by itself while the first set is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_set_that_answers_badly_is_sent_back_by_itself() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let mut asked = versioned(&api, "reverted", 2, &json!([])).await;
    asked["rollout"] = json!({
        "strategy": "blue-green",
        "analysis": { "max-error-rate": "5%", "min-requests": 20, "window": "10s" },
    });
    api.put(&asked).await.unwrap();
    api.ready("reverted").await;
    lattice.serving("reverted.test", "/trap").await;
    let load = Load::start(lattice.nodes.iter().map(Node::http), "reverted.test", "/trap");
    asked["components"] = json!([{ "name": "main", "source": api.upload("faults").await.to_string() }]);
    api.put(&asked).await.unwrap();
    let back = when(&api, "reverted", "sent back", |status| status.aborted.is_some()).await;
    println!("reverted: {}; {}", back.aborted.unwrap().reason, load.stop().await.report());
    let after = Load::start(lattice.nodes.iter().map(Node::http), "reverted.test", "/trap");
    let back = api.ready("reverted").await;
    assert_eq!((back.replicas, back.template), (2, Some(Generation(1))), "the first set never stopped");
    assert!(back.slots.iter().all(|slot| slot.generation == Some(Generation(1))));
    after.stop().await.assert_none_failed();
    api.delete("reverted").await.unwrap();
}
