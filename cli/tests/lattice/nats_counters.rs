//! `lattice:nats/counters`: counters as a guest has them, against a real server: exact with many that add on several nodes, and while the
//! server is killed; what a stream must be like for them; and each way around their grants.

use crate::{
    harness::{Lattice, PATIENCE, api::spec, eventually, http},
    nats::{ask, courier, done, refused},
    nats_streams::make_stream,
    profiles::{asked, refuse},
};
use futures_util::future::join_all;
use hyper::Method;
use serde_json::json;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_guests_add_counts_once() {
    let lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    make_stream(&api, "HITS", &["hits.>"], json!({ "allow_msg_counter": true })).await;
    make_stream(&api, "ORDERS", &["orders.>"], json!({})).await;
    courier(
        &api,
        2,
        json!({ "streams": {
            "hits": { "stream": "HITS", "publish": ["hits.>", "orders.*"], "read": ["hits.>"] },
            "orders": { "stream": "ORDERS", "publish": ["orders.*"], "read": [">"] },
        } }),
    )
    .await;
    let nodes = ["n1", "n2"].map(|id| lattice.node(id).http());
    let [node, other] = &nodes;
    let by = |subject: &'static str, by: &'static str| [("stream", "hits"), ("subject", subject), ("by", by)];
    let of = |subject: &'static str| [("stream", "hits"), ("subject", subject)];

    assert_eq!(ask(node, "/count", &of("hits.a"), "").await.0, 404);
    assert_eq!(done(node, "/add", &by("hits.a", "5"), "").await, "5 1");
    assert_eq!(done(other, "/add", &by("hits.a", "-7"), "").await, "-2 2");
    assert_eq!(done(other, "/add", &by("hits.b.c", "+0010"), "").await, "10 3");
    // Beyond what a machine's word holds.
    assert_eq!(done(node, "/add", &by("hits.b.c", "99999999999999999999"), "").await, "100000000000000000009 4");
    // A name within its window.
    let named = [("stream", "hits"), ("subject", "hits.a"), ("by", "3"), ("id", "visit-1")];
    assert_eq!(done(node, "/add", &named, "").await, "1 5");
    assert_eq!(done(other, "/add", &named, "").await, "unsaid 5 duplicate");
    for way in ["/count", "/count-any"] {
        assert_eq!(done(other, way, &of("hits.a"), "").await, "hits.a 1 5");
    }
    for way in ["/counts", "/counts-any"] {
        let all = done(node, way, &[("stream", "hits"), ("filter", "hits.>")], "").await;
        assert_eq!(all, "hits.b.c 100000000000000000009 4\nhits.a 1 5\nas of 5");
    }

    // Many at a time, on both nodes: each is told a total of its own, and the sum is exact.
    let adding = (0..200).map(|n: usize| {
        let node = nodes[n % 2].clone();
        async move { done(&node, "/add", &by("hits.race", if n.is_multiple_of(4) { "-1" } else { "3" }), "").await }
    });
    let told = join_all(adding).await;
    assert_eq!(done(node, "/count", &of("hits.race"), "").await, "hits.race 400 205");
    let mut sequences: Vec<u64> = told.iter().map(|text| text.split(' ').nth(1).unwrap().parse().unwrap()).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (6..=205).collect::<Vec<_>>());
    assert!(told.contains(&"400 205".to_owned()), "the last one is told the sum");

    // What is not a number, and what is no stream of counters.
    for bad in ["", "+", "1.5", "one", "0x1"] {
        refused(node, "/add", &by("hits.a", bad), "invalid(\"by\") definitely-not").await;
    }
    for path in ["/add", "/count", "/counts"] {
        let arguments = [("stream", "orders"), ("subject", "orders.a"), ("by", "1")];
        let text = refused(node, path, &arguments, "unsupported definitely-not").await;
        assert!(text.contains("allow_msg_counter"), "{text}");
    }
    // And nothing but additions in one that is.
    refused(node, "/store", &of("hits.a"), "unsupported definitely-not").await;
    assert_eq!(done(node, "/count", &of("hits.a"), "").await, "hits.a 1 5");
    // A subject that is granted with this stream, and held by another.
    refused(node, "/add", &by("orders.a", "1"), "invalid(\"subject\") definitely-not").await;
    assert_eq!(
        ask(node, "/find", &[("stream", "orders"), ("filter", "orders.a")], "").await.0,
        404,
        "nothing was sent"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_that_are_not_granted_are_neither_changed_nor_told() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    make_stream(&api, "HITS", &["hits.>"], json!({ "allow_msg_counter": true })).await;
    courier(
        &api,
        1,
        json!({ "streams": {
            "in": { "stream": "HITS", "publish": ["hits.in.*"] },
            "out": { "stream": "HITS", "read": ["hits.in.a"] },
        } }),
    )
    .await;
    let node = lattice.node("n1").http();
    let by_one = |stream: &'static str, subject: &'static str| [("stream", stream), ("subject", subject), ("by", "1")];
    for stream in ["HITS", "hits", ""] {
        refused(&node, "/add", &by_one(stream, "hits.in.a"), "denied definitely-not").await;
    }
    for subject in ["hits.a", "hits.in", "hits.in.a.b", "$JS.API.STREAM.DELETE.HITS", "lattice.x", "_INBOX.x"] {
        refused(&node, "/add", &by_one("in", subject), "denied definitely-not").await;
    }
    for subject in ["", "hits.in.*", "hits.>", "a b"] {
        refused(&node, "/add", &by_one("in", subject), "invalid(\"subject\") definitely-not").await;
    }
    refused(&node, "/add", &by_one("out", "hits.in.a"), "denied definitely-not").await;
    for id in ["a b", "", &"x".repeat(257)] {
        let arguments = [("stream", "in"), ("subject", "hits.in.a"), ("by", "1"), ("id", id)];
        refused(&node, "/add", &arguments, "invalid(\"message-id\") definitely-not").await;
    }
    assert_eq!(done(&node, "/add", &by_one("in", "hits.in.a"), "").await, "1 1", "nothing was added before");

    assert_eq!(done(&node, "/count", &by_one("out", "hits.in.a"), "").await, "hits.in.a 1 1");
    for (stream, subject) in [("out", "hits.in.b"), ("in", "hits.in.a"), ("out", "$KV.a.b")] {
        refused(&node, "/count", &by_one(stream, subject), "denied definitely-not").await;
    }
    // One counter, and not those of a filter.
    refused(&node, "/count", &by_one("out", "hits.*.a"), "invalid(\"subject\") definitely-not").await;
    for filter in ["hits.>", "hits.in.*", ">"] {
        refused(&node, "/counts", &[("stream", "out"), ("filter", filter)], "denied definitely-not").await;
    }
    refused(&node, "/counts", &[("stream", "out")], "invalid(\"filters\") definitely-not").await;
    let many: Vec<_> = [("stream", "out")].into_iter().chain(vec![("filter", "hits.in.a"); 17]).collect();
    refused(&node, "/counts", &many, "invalid(\"filters\") definitely-not").await;
}

/// The example `turnstile`: what a stream must be like for it; and with keys it counts once, while the server is killed too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_passes_is_counted_once_and_only_in_counters() {
    let mut lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    let digest = api.upload("turnstile").await;
    let grant = json!({ "stream": "HITS", "publish": ["hits.*"], "read": ["hits.*"], "profiles": ["counter"] });
    let grants = json!({ "streams": { "hits": grant } });
    let error = refuse(&api, &asked("turnstile", digest, grants.clone())).await;
    let make = "nats stream add HITS --subjects='hits.*' --allow-counter --defaults";
    assert_eq!(error.hint, Some(format!("make it first: {make}")));
    make_stream(&api, "HITS", &["hits.*"], json!({})).await;
    let error = refuse(&api, &asked("turnstile", digest, grants.clone())).await;
    assert_eq!(error.field.as_deref(), Some("grants.nats.streams.hits.profiles"));
    assert!(error.message.contains("allow_msg_counter"), "{error:?}");
    assert!(error.hint.as_ref().is_some_and(|hint| hint.ends_with(make)), "{error:?}");
    // A stream that forgets counters.
    let settings = json!({ "allow_msg_counter": true, "max_age": 3_600_000_000_000_u64, "max_msgs": 100 });
    make_stream(&api, "AGED", &["aged.*"], settings).await;
    let mut aged = grants.clone();
    aged["streams"]["hits"]["stream"] = "AGED".into();
    let error = refuse(&api, &asked("turnstile", digest, aged)).await;
    assert_eq!(error.hint.as_deref(), Some("nats stream edit AGED --max-age=0s --max-msgs=-1"));
    // A profile that adds to no counters.
    make_stream(&api, "LOG", &["log.*"], json!({})).await;
    let log = json!({ "stream": "LOG", "publish": ["log.*"], "profiles": ["event-log"] });
    let error = refuse(&api, &asked("turnstile", digest, json!({ "streams": { "hits": log } }))).await;
    assert!(error.message.contains("of lattice:nats/counters@0.1.0, which event-log has not"), "{error:?}");

    api.request("$JS.API.STREAM.DELETE.HITS", lattice::store::Headers::new(), b"").await.unwrap();
    let settings = json!({ "allow_msg_counter": true, "max_msgs_per_subject": 1 });
    make_stream(&api, "HITS", &["hits.*"], settings).await;
    let mut workload = spec("turnstile", digest, 2);
    workload["grants"] = json!({ "nats": grants });
    workload["reuse"] = json!({ "concurrency": 16 });
    api.put(&workload).await.unwrap();
    api.ready("turnstile").await;

    let nodes = ["n1", "n2"].map(|id| lattice.node(id).http());
    let call = async |node: &str, method: Method, path: &str, key: Option<&str>, body: &str| {
        let arguments: Vec<_> = key.into_iter().map(|key| ("idempotency-key", key)).collect();
        let body = http::full(body.as_bytes().to_vec());
        let response = http::send(node, method, "turnstile.test", path, &arguments, body).await.unwrap();
        let answer = http::whole(response).await.unwrap();
        (answer.status, answer.text().trim().to_owned())
    };
    assert_eq!(call(&nodes[0], Method::GET, "/east", None, "").await, (200, "0".into()));
    assert_eq!(call(&nodes[0], Method::POST, "/east", None, "").await, (200, "1".into()));
    assert_eq!(call(&nodes[1], Method::POST, "/east", Some("anna"), "+2").await, (200, "3".into()));
    assert_eq!(call(&nodes[0], Method::POST, "/east", Some("anna"), "+2").await, (200, "3".into()));
    assert_eq!(call(&nodes[0], Method::POST, "/east", None, "two").await.0, 400);
    assert_eq!(call(&nodes[0], Method::GET, "/", None, "").await, (200, "east 3".into()));

    // Asked for until it is known to have happened, while the server is killed.
    let passing = (0..60).map(|n: usize| {
        let (node, call) = (nodes[n % 2].clone(), &call);
        async move {
            let key = format!("p{n}");
            eventually("it is counted", PATIENCE, async || {
                match call(&node, Method::POST, "/west", Some(&key), "").await {
                    (200, _) => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
        }
    });
    let killing = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        lattice.server.kill9().await;
        lattice.server.start_again().await;
    };
    tokio::join!(join_all(passing), killing);
    assert_eq!(call(&nodes[0], Method::GET, "/west", None, "").await, (200, "60".into()));
}
