//! `wasi:keyvalue` on KV buckets: a component that knows the published WIT and nothing of the lattice.

use crate::harness::{Api, Lattice, PATIENCE, api::spec, eventually, http};
use hyper::Method;
use lattice::{ctl::ErrorCode, store::Headers};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// As `nats kv add` does it.
async fn make_bucket(api: &Api, name: &str, history: u32) {
    let config = json!({
        "name": format!("KV_{name}"),
        "subjects": [format!("$KV.{name}.>")],
        "max_msgs_per_subject": history,
        "discard": "new",
        "allow_rollup_hdrs": true,
        "deny_delete": true,
        "allow_direct": true,
        "storage": "file",
        "num_replicas": 1,
    });
    let subject = format!("$JS.API.STREAM.CREATE.KV_{name}");
    let made = api.request(&subject, Headers::new(), config.to_string().as_bytes()).await.unwrap();
    let made: Value = serde_json::from_slice(&made.payload).unwrap();
    assert!(made.get("error").is_none(), "{made}");
}

/// A workload of the guest `counter` with these grants of stores.
async fn counter(api: &Api, replicas: u32, keyvalue: Value) -> Value {
    let digest = api.upload("counter").await;
    let mut asked = spec("counter", digest, replicas);
    asked["grants"] = json!({ "keyvalue": keyvalue });
    asked
}

async fn ask_of(address: &str, store: &str, method: Method, path: &str, body: &str) -> (u16, String) {
    let body = http::full(body.as_bytes().to_vec());
    let response = http::send(address, method, "counter.test", path, &[("store", store)], body).await.unwrap();
    let answer = http::whole(response).await.unwrap();
    (answer.status, answer.text())
}

async fn ask(address: &str, method: Method, path: &str, body: &str) -> (u16, String) {
    ask_of(address, "default", method, path, body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_are_exact_however_many_nodes_count() {
    let lattice = Lattice::start(3).await;
    let api = lattice.api().await;
    make_bucket(&api, "counters", 1).await;
    api.put(&counter(&api, 3, json!({ "default": { "bucket": "counters" } })).await).await.unwrap();
    api.ready("counter").await;
    let nodes: Vec<String> = ["n1", "n2", "n3"].map(|id| lattice.node(id).http()).into();
    let adding = (0..150).map(|n| ask(&nodes[n % 3], Method::POST, "/visits:all?by=2", ""));
    let mut sums = BTreeSet::new();
    for (status, body) in futures_util::future::join_all(adding).await {
        assert_eq!(status, 200, "{body}");
        assert!(sums.insert(body.trim().parse::<u64>().unwrap()), "{body} twice");
    }
    assert_eq!(sums, (1..=150).map(|n| n * 2).collect());
    for node in &nodes {
        assert_eq!(ask(node, Method::GET, "/visits:all", "").await, (200, "300".into()));
    }
    // Any other client sees it, under the key as NATS can have it.
    let subject = "$JS.API.DIRECT.GET.KV_counters.$KV.counters.visits=3Aall";
    let message = api.request(subject, Headers::new(), b"").await.unwrap();
    assert_eq!(message.payload, "300");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_batches_and_lists() {
    let lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    make_bucket(&api, "plain", 1).await;
    make_bucket(&api, "deep", 10).await;
    let stores = json!({ "default": { "bucket": "plain" }, "deep": { "bucket": "deep" } });
    api.put(&counter(&api, 1, stores).await).await.unwrap();
    api.ready("counter").await;
    let node = lattice.node("n1").http();
    for store in ["default", "deep"] {
        let ask = |method, path: String, body: &'static str| {
            let node = node.clone();
            async move { ask_of(&node, store, method, &path, body).await }
        };
        assert_eq!(ask(Method::GET, "/".into(), "").await, (200, String::new()));
        assert_eq!(ask(Method::GET, "/a".into(), "").await.0, 404);
        assert_eq!(ask(Method::DELETE, "/a".into(), "").await.0, 204);
        for value in ["one", "two", "three"] {
            assert_eq!(ask(Method::PUT, "/a".into(), value).await.0, 204);
        }
        assert_eq!(ask(Method::GET, "/a".into(), "").await, (200, "three".into()));
        // Over a deletion, too, a count begins anew.
        assert_eq!(ask(Method::DELETE, "/a".into(), "").await.0, 204);
        assert_eq!(ask(Method::POST, "/a".into(), "").await, (200, "1\n".into()));
        assert_eq!(ask(Method::PUT, "/word".into(), "seven").await.0, 204);
        let (status, text) = ask(Method::POST, "/word".into(), "").await;
        assert!(status == 502 && text.contains("not a number"), "{status} {text}");
        assert_eq!(ask(Method::POST, "/-/batch/100".into(), "").await, (200, "100 set, 0 left\n".into()));
        let (status, text) = ask(Method::POST, "/-/batch/1001".into(), "").await;
        assert!(status == 502 && text.contains("at most 1000"), "{status} {text}");
        // More than a page, and none of what is gone.
        let keys: BTreeSet<String> = (0..1_203).map(|n| format!("key:{n}")).collect();
        for chunk in keys.iter().collect::<Vec<_>>().chunks(50) {
            let sets = chunk.iter().map(|key| ask(Method::PUT, format!("/{key}"), "x"));
            assert!(futures_util::future::join_all(sets).await.iter().all(|(status, _)| *status == 204));
        }
        let (_, list) = ask(Method::GET, "/".into(), "").await;
        let listed: Vec<String> = list.lines().map(str::to_owned).collect();
        let wanted: BTreeSet<String> = keys.into_iter().chain(["a".into(), "word".into()]).collect();
        assert_eq!(listed.len(), wanted.len());
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), wanted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_granted_is_not_there() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    make_bucket(&api, "mine", 1).await;
    make_bucket(&api, "others", 1).await;
    // What is not there, and what is nobody's to have, is refused before anything runs.
    let absent = api.put(&counter(&api, 1, json!({ "default": { "bucket": "absent" } })).await).await.unwrap_err();
    assert_eq!(absent.code, ErrorCode::Invalid, "{absent:?}");
    assert_eq!(absent.field.as_deref(), Some("grants.keyvalue.default.bucket"));
    assert!(absent.hint.unwrap().contains("nats kv add absent"));
    let own = format!("lattice-{}-specs", api.lattice);
    let own = api.put(&counter(&api, 1, json!({ "default": { "bucket": own } })).await).await.unwrap_err();
    assert!(own.code == ErrorCode::Invalid && own.message.contains("the lattice's own"), "{own:?}");

    api.put(&counter(&api, 1, json!({ "default": { "bucket": "mine", "access": "read-only" } })).await).await.unwrap();
    api.ready("counter").await;
    let node = lattice.node("n1").http();
    assert_eq!(ask(&node, Method::GET, "/a", "").await.0, 404);
    for (method, path) in
        [(Method::PUT, "/a"), (Method::DELETE, "/a"), (Method::POST, "/a"), (Method::POST, "/-/batch/2")]
    {
        assert_eq!(ask(&node, method.clone(), path, "x").await, (403, "denied\n".into()), "{method} {path}");
    }
    for other in ["others", "mine", "KV_others", "*", ">", "../others", "$KV.others"] {
        let answer = ask_of(&node, other, Method::GET, "/a", "").await;
        assert_eq!(answer, (404, "no such store\n".into()), "{other}");
    }
    // Keys are keys, whatever they look like to NATS.
    for key in ["/*", "/%3E", "/a.*", "/..others.a", "/$KV.others.a"] {
        assert_eq!(ask(&node, Method::GET, key, "").await.0, 404, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_out_of_reach_is_said_and_comes_back() {
    let mut lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    make_bucket(&api, "counters", 1).await;
    api.put(&counter(&api, 1, json!({ "default": { "bucket": "counters" } })).await).await.unwrap();
    api.ready("counter").await;
    let node = lattice.node("n1").http();
    assert_eq!(ask(&node, Method::POST, "/n", "").await, (200, "1\n".into()));
    lattice.server.kill9().await;
    let (status, text) = ask(&node, Method::POST, "/n", "").await;
    assert_eq!(status, 502, "{text}");
    assert!(text.contains("the store"), "{text}");
    assert!(!text.contains("nats://") && !text.contains("127.0.0.1"), "{text}");
    lattice.server.start_again().await;
    eventually("the store answers again", PATIENCE, async || match ask(&node, Method::GET, "/n", "").await {
        // What was asked while it was away was refused, not kept for later.
        (200, value) if value == "1" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}
