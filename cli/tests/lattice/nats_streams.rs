//! `lattice:nats/jetstream`: streams as a guest has them, against a real server, and each way around their grants.

use crate::{
    harness::{Api, Lattice, PATIENCE, api::spec, eventually},
    nats::{ask, courier, done, refused, stream_api},
};
use futures_util::{StreamExt as _, future::join_all};
use lattice::ctl::ErrorCode;
use serde_json::{Value, json};
use std::time::Duration;

/// As `nats stream add` does it, with these settings besides.
pub(crate) async fn make_stream(api: &Api, name: &str, subjects: &[&str], settings: Value) {
    let mut config = json!({
        "name": name,
        "subjects": subjects,
        "allow_direct": true,
        "storage": "file",
        "num_replicas": 1,
        "retention": "limits",
        "discard": "old",
    });
    for (field, value) in settings.as_object().unwrap() {
        config[field] = value.clone();
    }
    stream_api(api, &format!("CREATE.{name}"), &config.to_string()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_guests_have_stored_is_stored_once_and_under_its_condition() {
    let lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    make_stream(&api, "ORDERS", &["orders.>"], json!({ "allow_atomic": true, "allow_msg_ttl": true })).await;
    make_stream(&api, "SMALL", &["small.>"], json!({ "max_msgs": 3, "discard": "new", "max_msg_size": 400 })).await;
    courier(
        &api,
        2,
        json!({ "streams": {
            "o": { "stream": "ORDERS", "publish": ["orders.>"], "read": [">"] },
            "small": { "stream": "SMALL", "publish": ["small.*"] },
        } }),
    )
    .await;
    let nodes = ["n1", "n2"].map(|id| lattice.node(id).http());
    let [node, other] = &nodes;
    let at = |subject: &'static str, expect: &'static str| [("stream", "o"), ("subject", subject), ("when", expect)];

    assert_eq!(done(node, "/store", &at("orders.a", "last 0"), "one").await, "1");
    refused(node, "/store", &at("orders.a", "last 0"), "wrong-sequence definitely-not").await;
    refused(node, "/store", &at("orders.a", "subject 0"), "wrong-sequence definitely-not").await;
    assert_eq!(done(other, "/store", &at("orders.a", "subject 1"), "two").await, "2");
    refused(node, "/store", &at("orders.b", "filter 1 orders.*"), "wrong-sequence definitely-not").await;
    assert_eq!(done(node, "/store", &at("orders.b", "filter 2 orders.*"), "three").await, "3");
    let named = [("stream", "o"), ("subject", "orders.c"), ("id", "order-7")];
    assert_eq!(done(node, "/store", &named, "four").await, "4");
    assert_eq!(done(other, "/store", &named, "four").await, "4 duplicate");
    assert_eq!(done(node, "/store", &at("orders.c", "last 4"), "five").await, "5");

    // Of many that expect the same one is stored.
    let racing = (0..20).map(|n| {
        let node = nodes[n % 2].clone();
        async move { ask(&node, "/store", &at("orders.race", "subject 0"), "x").await }
    });
    let outcomes = join_all(racing).await;
    assert_eq!(outcomes.iter().filter(|(status, _)| *status == 200).count(), 1, "{outcomes:?}");
    assert!(outcomes.iter().all(|(status, text)| *status == 200 || text.starts_with("wrong-sequence definitely-not")));

    // What is read, and by whom it is answered.
    for way in ["/find", "/find-any"] {
        assert_eq!(done(node, way, &[("stream", "o"), ("sequence", "2")], "").await, "2 orders.a two");
        assert_eq!(done(node, way, &[("stream", "o"), ("filter", "orders.b")], "").await, "3 orders.b three");
        assert_eq!(ask(node, way, &[("stream", "o"), ("sequence", "99")], "").await.0, 404);
        assert_eq!(ask(node, way, &[("stream", "o"), ("filter", "orders.z")], "").await.0, 404);
    }
    for way in ["/snapshot", "/snapshot-any"] {
        let filters = [("stream", "o"), ("filter", "orders.a"), ("filter", "orders.c")];
        assert_eq!(done(node, way, &filters, "").await, "2 orders.a two\n5 orders.c five\nas of 6");
    }

    // All or none.
    let batch = |count: &'static str, expect: &'static str| {
        [("stream", "o"), ("subject", "orders.batch"), ("count", count), ("when", expect)]
    };
    assert_eq!(done(node, "/store-all", &batch("1000", "last 6"), "").await, "1006");
    refused(node, "/store-all", &batch("1000", "last 6"), "wrong-sequence definitely-not").await;
    refused(node, "/store-all", &batch("1001", "none"), "too-many(1000) definitely-not").await;
    refused(node, "/store-all", &batch("0", "none"), "invalid(\"batch\") definitely-not").await;
    let mut with_id = batch("2", "none").to_vec();
    with_id.push(("id", "x"));
    refused(node, "/store-all", &with_id, "invalid(\"batch\") definitely-not").await;
    let mut large = batch("100", "none").to_vec();
    large.push(("large", "200000"));
    refused(node, "/store-all", &large, "too-large(16777216) definitely-not").await;
    let info = done(node, "/stream", &[("stream", "o")], "").await;
    assert!(info.contains("last-sequence: 1006") && info.contains("atomic: true"), "{info}");
    let many = [("stream", "o"), ("filter", "orders.>"), ("filter", "orders.batch.*")];
    done(node, "/snapshot", &many, "").await;

    // A message that has a time.
    let brief = [("stream", "o"), ("subject", "orders.brief"), ("ttl", "1000")];
    assert_eq!(done(node, "/store", &brief, "gone soon").await, "1007");
    eventually("it expires", PATIENCE, async || {
        match ask(node, "/find", &[("stream", "o"), ("sequence", "1007")], "").await {
            (404, _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let mut shorter = brief;
    shorter[2].1 = "999";
    refused(node, "/store", &shorter, "invalid(\"ttl\") definitely-not").await;

    // Limits of the stream.
    let small = [("stream", "small"), ("subject", "small.a")];
    refused(node, "/store-all", &[("stream", "small"), ("subject", "small"), ("count", "2")], "unsupported").await;
    let (status, text) = ask(node, "/store", &small, &"x".repeat(500)).await;
    assert!(status == 502 && text.starts_with("too-large(400) definitely-not"), "{text}");
    for _ in 0..3 {
        done(node, "/store", &small, "").await;
    }
    let full = refused(node, "/store", &small, "").await;
    assert!(full.starts_with("storage-full definitely-not"), "{full}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_granted_of_a_stream_is_neither_stored_nor_read() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    make_stream(&api, "ORDERS", &["orders.>", "bills.>"], json!({ "allow_atomic": true })).await;
    make_stream(&api, "OTHER", &["other.>"], json!({})).await;
    make_stream(&api, "MIXED", &["*"], json!({})).await;
    make_stream(&api, "COPY", &[], json!({ "mirror": { "name": "lattice-default-events" } })).await;
    let digest = api.upload("courier").await;
    for (grant, field, wording) in [
        (json!({ "stream": "lattice-default-events" }), "stream", "reserved"),
        (json!({ "stream": "KV_carts" }), "stream", "grant of its own"),
        (json!({ "stream": "absent" }), "stream", "no stream absent"),
        (json!({ "stream": "MIXED" }), "stream", "takes in subjects that are reserved"),
        (json!({ "stream": "COPY" }), "stream", "reserved"),
        (json!({ "stream": "ORDERS", "publish": ["$JS.>"] }), "publish[0]", "reserved"),
        (json!({ "stream": "ORDERS", "read": ["lattice.>"] }), "read[0]", "reserved"),
    ] {
        let mut asked = spec("courier", digest, 1);
        asked["grants"] = json!({ "nats": { "streams": { "s": grant } } });
        let refused = api.put(&asked).await.unwrap_err();
        let field = format!("grants.nats.streams.s.{field}");
        assert_eq!((refused.code, refused.field.as_deref()), (ErrorCode::Invalid, Some(&*field)), "{refused:?}");
        assert!(format!("{refused:?}").contains(wording), "{refused:?}");
    }

    // One may write some of it, one may read some of it, and neither may do what the other may.
    courier(
        &api,
        1,
        json!({ "streams": {
            "in": { "stream": "ORDERS", "publish": ["orders.*", "other.>"] },
            "out": { "stream": "ORDERS", "read": ["orders.a.>", "bills.*"] },
            "all": { "stream": "OTHER", "publish": [">"], "read": [">"] },
        } }),
    )
    .await;
    let node = lattice.node("n1").http();
    let mut all = api.bus().subscribe(">".into(), None).await.unwrap();
    api.bus().flush().await.unwrap();
    for name in ["ORDERS", "o", "", "a b", "KV_carts"] {
        refused(&node, "/store", &[("stream", name), ("subject", "orders.a")], "denied definitely-not").await;
    }
    let put = |stream: &'static str, subject: &'static str| [("stream", stream), ("subject", subject)];
    for subject in
        ["orders.a.b", "bills.a", "orders", "$JS.API.STREAM.DELETE.ORDERS", "_INBOX.x", "lattice.x", "$KV.b.k"]
    {
        refused(&node, "/store", &put("in", subject), "denied definitely-not").await;
    }
    // On `orders.a.0`.
    refused(&node, "/store-all", &put("in", "orders.a"), "denied definitely-not").await;
    refused(&node, "/store", &put("out", "bills.a"), "denied definitely-not").await;
    for subject in ["$SYS.REQ.SERVER.PING", "$JS.API.STREAM.DELETE.OTHER", "lattice.x"] {
        refused(&node, "/store", &put("all", subject), "denied definitely-not").await;
    }
    for subject in ["", "orders.*", "orders.>", "a b"] {
        refused(&node, "/store", &put("in", subject), "invalid(\"message.subject\") definitely-not").await;
    }
    // What tells the server what to do is not a guest's to say, nor where the answer goes.
    for line in ["Nats-Rollup: all", "Nats-Msg-Id: x", "Nats-Expected-Stream: OTHER", "nats-batch-id: x"] {
        let arguments = [("stream", "in"), ("subject", "orders.a"), ("line", line)];
        refused(&node, "/store", &arguments, "invalid(\"message.headers\") definitely-not").await;
    }
    let reply = [("stream", "in"), ("subject", "orders.a"), ("reply-to", "lattice.x")];
    refused(&node, "/store", &reply, "invalid(\"message.reply-to\") definitely-not").await;
    for id in ["a b", "", &"x".repeat(257)] {
        let arguments = [("stream", "in"), ("subject", "orders.a"), ("id", id)];
        refused(&node, "/store", &arguments, "invalid(\"options.message-id\") definitely-not").await;
    }
    // A condition tells of others' messages: what it is about must be granted, and include the message.
    for (expect, wording) in [
        ("filter 0 orders.>", "denied definitely-not"),
        ("filter 0 >", "denied definitely-not"),
        ("filter 0 other.x", "invalid(\"options.precondition\") definitely-not"),
        ("filter 0 $KV.>", "denied definitely-not"),
        ("filter 0 a..b", "invalid(\"options.precondition\") definitely-not"),
        ("last 99", "wrong-sequence definitely-not"),
    ] {
        let arguments = [("stream", "in"), ("subject", "orders.a"), ("when", expect)];
        refused(&node, "/store", &arguments, wording).await;
    }
    assert_eq!(done(&node, "/store", &put("in", "orders.a"), "refused").await, "1");
    // A subject that is granted with one stream, and held by another.
    let elsewhere = [("stream", "in"), ("subject", "other.x")];
    let (status, text) = ask(&node, "/store", &elsewhere, "elsewhere").await;
    assert!(status == 502 && text.starts_with("invalid(\"message.subject\") definitely-not"), "{text}");

    // Reading: by what covers the whole filter, and the message that is found.
    for filter in [">", "orders.>", "orders.*", "*.a.b", "bills.>", "$KV.>"] {
        for way in ["/find", "/find-any", "/snapshot"] {
            refused(&node, way, &[("stream", "out"), ("filter", filter)], "denied definitely-not").await;
        }
    }
    let mixed = [("stream", "out"), ("filter", "bills.*"), ("filter", "orders.b")];
    refused(&node, "/snapshot", &mixed, "denied definitely-not").await;
    refused(&node, "/find", &[("stream", "out"), ("sequence", "1")], "denied definitely-not").await;
    refused(&node, "/find-any", &[("stream", "out"), ("sequence", "1")], "denied definitely-not").await;
    refused(&node, "/find", &[("stream", "in"), ("sequence", "1")], "denied definitely-not").await;
    refused(&node, "/find", &[("stream", "in"), ("filter", "orders.a")], "denied definitely-not").await;
    assert_eq!(ask(&node, "/find", &[("stream", "out"), ("filter", "orders.a.b")], "").await.0, 404);
    refused(&node, "/snapshot", &[("stream", "out")], "invalid(\"filters\") definitely-not").await;
    let many = vec![("filter", "bills.a"); 17];
    let many: Vec<_> = [("stream", "out")].into_iter().chain(many).collect();
    refused(&node, "/snapshot", &many, "invalid(\"filters\") definitely-not").await;

    // Nothing of what was refused left the node, but for what the stream refused.
    let mut sent = Vec::new();
    while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(500), all.next()).await {
        let is_answer = message.subject.starts_with("_INBOX.");
        if !is_answer && (message.payload == "refused" || message.payload == "elsewhere") {
            sent.push(message.subject);
        }
    }
    // The stream refused the first one, and the last one was another stream's.
    assert_eq!(sent, ["orders.a", "orders.a", "other.x"], "subscribers get what a stream refuses as well");
}
