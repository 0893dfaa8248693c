//! `lattice:nats/transactions`: several keys changed together, against a real server, with others that change them at the same time.

use crate::{
    harness::Lattice,
    nats::{ask, courier, done, make_bucket, refused},
    profiles::{asked, refuse},
};
use futures_util::future::join_all;
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_changed_together_or_not_at_all() {
    let lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    make_bucket(&api, "shop", json!({ "allow_atomic": true, "allow_msg_ttl": true })).await;
    make_bucket(&api, "plain", json!({})).await;
    courier(
        &api,
        2,
        json!({ "buckets": {
            "b": { "bucket": "shop" },
            "reads": { "bucket": "shop", "access": "read-only" },
            "cas": { "bucket": "shop", "profiles": ["kv-cas"] },
            "plain": { "bucket": "plain" },
        } }),
    )
    .await;
    let nodes = ["n1", "n2"].map(|id| lattice.node(id).http());
    let [node, other] = &nodes;
    let value = async |key: &str| ask(node, "/get", &[("bucket", "b"), ("key", key)], "").await.1;

    // All of them are new, or none is written.
    let first = [("bucket", "b"), ("write", "anna 0 100"), ("write", "bob 0 50")];
    assert_eq!(done(node, "/transact", &first, "").await, "2");
    assert_eq!((value("anna").await, value("bob").await), ("1 100".to_owned(), "2 50".to_owned()));
    refused(other, "/transact", &first, "wrong-revision definitely-not").await;
    let one_wrong = [("bucket", "b"), ("write", "anna 1 90"), ("write", "bob 1 60")];
    refused(other, "/transact", &one_wrong, "wrong-revision definitely-not").await;
    assert_eq!(value("anna").await, "1 100");
    let moved = [("bucket", "b"), ("write", "anna 1 90"), ("write", "bob 2 60"), ("write", "log.1 0 10")];
    assert_eq!(done(other, "/transact", &moved, "").await, "5");
    // Deleted with others.
    let deleted = [("bucket", "b"), ("write", "anna 3"), ("write", "bob 4 150")];
    assert_eq!(done(node, "/transact", &deleted, "").await, "7");
    assert_eq!(ask(node, "/get", &[("bucket", "b"), ("key", "anna")], "").await.0, 404);

    // Many move from one to the other at a time: nothing is lost, and nothing comes of nothing.
    let start = [("bucket", "b"), ("write", "left 0 1000"), ("write", "right 0 0")];
    done(node, "/transact", &start, "").await;
    let moving = (0..12).map(|n: usize| {
        let node = nodes[n % 2].clone();
        async move {
            loop {
                let read = async |key| {
                    let found = done(&node, "/get", &[("bucket", "b"), ("key", key)], "").await;
                    let (revision, value) = found.split_once(' ').unwrap();
                    (revision.to_owned(), value.parse::<i64>().unwrap())
                };
                let (left, right) = (read("left").await, read("right").await);
                let writes =
                    [format!("left {} {}", left.0, left.1 - 10), format!("right {} {}", right.0, right.1 + 10)];
                let arguments = [("bucket", "b"), ("write", writes[0].as_str()), ("write", writes[1].as_str())];
                match ask(&node, "/transact", &arguments, "").await {
                    (200, _) => return,
                    (_, text) => assert!(text.starts_with("wrong-revision definitely-not"), "{text}"),
                }
            }
        }
    });
    join_all(moving).await;
    assert!(value("left").await.ends_with(" 880") && value("right").await.ends_with(" 120"));

    // Limits, and what is no transaction.
    assert!(done(node, "/transact", &[("bucket", "b"), ("count", "1000")], "x").await.parse::<u64>().is_ok());
    refused(node, "/transact", &[("bucket", "b"), ("count", "1001")], "too-many(1000) definitely-not").await;
    refused(node, "/transact", &[("bucket", "b")], "invalid(\"writes\") definitely-not").await;
    let twice = [("bucket", "b"), ("write", "a 0 1"), ("write", "a 0 2")];
    refused(node, "/transact", &twice, "invalid(\"writes\") definitely-not").await;
    refused(node, "/transact", &[("bucket", "b"), ("write", "a..b 0 1")], "invalid(\"key\") definitely-not").await;
    let brief = [("bucket", "b"), ("write", "brief 0 1"), ("ttl", "999")];
    refused(node, "/transact", &brief, "invalid(\"ttl\") definitely-not").await;
    // Each way around what is granted.
    for bucket in ["reads", "cas", "shop"] {
        refused(node, "/transact", &[("bucket", bucket), ("write", "a 0 1")], "denied definitely-not").await;
    }
    let text = refused(node, "/transact", &[("bucket", "plain"), ("write", "a 0 1")], "unsupported").await;
    assert!(text.contains("allow_atomic"), "{text}");
    assert_eq!(ask(node, "/get", &[("bucket", "plain"), ("key", "a")], "").await.0, 404);
    assert_eq!(ask(node, "/get", &[("bucket", "b"), ("key", "a")], "").await.0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_for_transactions_must_take_them() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    let digest = api.upload("courier").await;
    let spec = |profiles: &[&str]| {
        let carts = json!({ "bucket": "shop", "profiles": profiles });
        asked("courier", digest, json!({ "buckets": { "carts": carts, "others": { "bucket": "shop" } } }))
    };
    let error = refuse(&api, &spec(&["kv-transact"])).await;
    let make = "make it first: nats kv add shop && nats stream edit KV_shop --allow-batch";
    assert_eq!(error.hint.as_deref(), Some(make));
    make_bucket(&api, "shop", json!({})).await;
    let error = refuse(&api, &spec(&["kv-cas", "kv-transact"])).await;
    assert_eq!(error.field.as_deref(), Some("grants.nats.buckets.carts.profiles"));
    assert_eq!(error.hint.as_deref(), Some("nats stream edit KV_shop --allow-batch"));
    // None of the profiles has it.
    let only = json!({ "buckets": { "carts": { "bucket": "shop", "profiles": ["kv-cas"] } } });
    let error = refuse(&api, &asked("courier", digest, only)).await;
    assert_eq!(error.field.as_deref(), Some("grants.nats.buckets.carts.profiles"), "{error:?}");
}
