//! `lattice:nats`: core NATS and KV buckets as a guest has them, against a real server, and each way around its grants.

use crate::harness::{Api, Lattice, PATIENCE, api::spec, eventually, http};
use futures_util::{StreamExt as _, future::join_all};
use http_body_util::BodyExt as _;
use hyper::{Method, body::Incoming};
use lattice::{
    ctl::ErrorCode,
    store::{Headers, Message},
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};

/// As `nats kv add` does it, with these settings besides.
pub(super) async fn make_bucket(api: &Api, name: &str, settings: Value) {
    let mut config = json!({
        "name": format!("KV_{name}"),
        "subjects": [format!("$KV.{name}.>")],
        "max_msgs_per_subject": 5,
        "discard": "new",
        "allow_rollup_hdrs": true,
        "deny_delete": true,
        "allow_direct": true,
        "storage": "file",
        "num_replicas": 1,
    });
    for (field, value) in settings.as_object().unwrap() {
        config[field] = value.clone();
    }
    stream_api(api, &format!("CREATE.KV_{name}"), &config.to_string()).await;
}

pub(crate) async fn stream_api(api: &Api, what: &str, body: &str) {
    let made = api.request(&format!("$JS.API.STREAM.{what}"), Headers::new(), body.as_bytes()).await.unwrap();
    let made: Value = serde_json::from_slice(&made.payload).unwrap();
    assert!(made.get("error").is_none(), "{made}");
}

/// A workload of the guest `courier` with these grants, ready.
pub(crate) async fn courier(api: &Api, replicas: u32, grants: Value) {
    let mut asked = spec("courier", api.upload("courier").await, replicas);
    asked["grants"] = json!({ "nats": grants });
    api.put(&asked).await.unwrap();
    api.ready("courier").await;
}

pub(crate) type Arguments<'a> = &'a [(&'a str, &'a str)];

async fn start(node: &str, path: &str, arguments: Arguments<'_>, body: &str) -> hyper::Response<Incoming> {
    let body = http::full(body.as_bytes().to_vec());
    http::send(node, Method::POST, "courier.test", path, arguments, body).await.unwrap()
}

/// Have the guest do something, and what it answers.
pub(crate) async fn ask(node: &str, path: &str, arguments: Arguments<'_>, body: &str) -> (u16, String) {
    let answer = http::whole(start(node, path, arguments, body).await).await.unwrap();
    (answer.status, answer.text())
}

/// The same of something that must be done.
pub(crate) async fn done(node: &str, path: &str, arguments: Arguments<'_>, body: &str) -> String {
    let (status, text) = ask(node, path, arguments, body).await;
    assert_eq!(status, 200, "{path} {arguments:?}: {text}");
    text
}

/// The same of something that must fail: with this code, and what is known of it.
pub(crate) async fn refused(node: &str, path: &str, arguments: Arguments<'_>, expect: &str) -> String {
    let (status, text) = ask(node, path, arguments, "refused").await;
    assert!(status == 502 && text.starts_with(expect), "{path} {arguments:?}: {status} {text}, not {expect}");
    text
}

/// An answer that comes line by line.
pub(crate) struct Lines {
    body: Incoming,
    read: String,
}

impl Lines {
    pub(crate) async fn of(node: &str, path: &str, arguments: Arguments<'_>) -> Self {
        let response = start(node, path, arguments, "").await;
        assert_eq!(response.status(), 200, "{path} {arguments:?}");
        Self { body: response.into_body(), read: String::new() }
    }

    pub(crate) async fn try_next(&mut self) -> Option<String> {
        loop {
            if let Some((line, rest)) = self.read.split_once('\n') {
                let line = line.to_owned();
                self.read = rest.to_owned();
                return Some(line);
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("a line in time")?;
            self.read.push_str(std::str::from_utf8(frame.unwrap().data_ref().unwrap()).unwrap());
        }
    }

    pub(crate) async fn next(&mut self) -> String {
        self.try_next().await.expect("one more line")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_guests_publish_arrives_and_what_they_subscribe_to_comes() {
    let lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    courier(&api, 2, json!({ "publish": ["orders.>", "ask.*", "replies.*"], "subscribe": ["orders.>", "replies.*"] }))
        .await;
    let [one, other] = ["n1", "n2"].map(|id| lattice.node(id).http());
    let bus = api.bus();
    let mut orders = bus.subscribe("orders.>".into(), None).await.unwrap();
    bus.flush().await.unwrap();

    // A message with headers, in the trace of the request that it was sent for.
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    let arguments =
        [("subject", "orders.new"), ("reply-to", "replies.one"), ("line", "Shape: round"), ("traceparent", trace)];
    done(&one, "/publish", &arguments, "7 apples").await;
    done(&one, "/flush", &[], "").await;
    let message = orders.next().await.unwrap();
    assert_eq!((message.subject.as_str(), &message.payload[..]), ("orders.new", &b"7 apples"[..]));
    assert_eq!(message.reply.as_deref(), Some("replies.one"));
    assert_eq!(message.headers.get("Shape").map(String::as_str), Some("round"));
    let passed_on = message.headers.get("traceparent").expect("the trace goes on");
    assert_eq!(passed_on.get(..35), trace.get(..35), "{passed_on}");

    // What it says itself of its trace is left as it is.
    let own = "00-11111111111111111111111111111111-2222222222222222-01";
    let line = format!("traceparent: {own}");
    done(&one, "/publish", &[("subject", "orders.new"), ("line", &line), ("traceparent", trace)], "").await;
    assert_eq!(orders.next().await.unwrap().headers.get("traceparent").map(String::as_str), Some(own));

    // A subscription stands once it is answered: what others publish then comes, in order.
    let mut lines = Lines::of(&other, "/subscribe", &[("filter", "orders.*")]).await;
    assert_eq!(lines.next().await, "subscribed");
    for n in 0..100 {
        done(&one, "/publish", &[("subject", "orders.n")], &n.to_string()).await;
    }
    for n in 0..100 {
        let line = lines.next().await;
        assert!(line.starts_with(&format!("orders.n {n}")), "{line}");
    }
    drop(lines);

    // Of a queue group one gets each message.
    let group = [("filter", "orders.>"), ("group", "packers")];
    let mut members = [Lines::of(&one, "/subscribe", &group).await, Lines::of(&other, "/subscribe", &group).await];
    for member in &mut members {
        assert_eq!(member.next().await, "subscribed");
    }
    for n in 0..40 {
        done(&one, "/publish", &[("subject", "orders.q")], &n.to_string()).await;
    }
    let [first, second] = &mut members;
    let mut came = BTreeSet::new();
    while came.len() < 40 {
        let line = tokio::select! { line = first.next() => line, line = second.next() => line };
        let n: u32 = line.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(came.insert(n), "{n} came twice");
    }

    // A request has one answer.
    let mut asked = bus.subscribe("ask.me".into(), None).await.unwrap();
    bus.flush().await.unwrap();
    let answering = bus.clone();
    tokio::spawn(async move {
        while let Some(Message { reply: Some(subject), payload, .. }) = asked.next().await {
            answering.publish(Message { subject, payload, ..Default::default() }).await.unwrap();
        }
    });
    for (n, text) in
        join_all((0..100).map(|_| done(&one, "/request", &[("subject", "ask.me")], "what?"))).await.iter().enumerate()
    {
        assert_eq!(text, "what?", "{n}");
    }
    let text = done(&one, "/limits", &[], "").await;
    assert!(text.contains("max-payload: 1048576") && text.contains("streams: 64"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_granted_is_neither_sent_nor_heard() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    make_bucket(&api, "carts", json!({})).await;
    // Refused before anything runs.
    let digest = api.upload("courier").await;
    for (grants, field) in [
        (json!({ "publish": ["a", "lattice.default.ctl.>"] }), "grants.nats.publish[1]"),
        (json!({ "subscribe": ["$JS.>"] }), "grants.nats.subscribe[0]"),
        (json!({ "subscribe": ["_INBOX.>"] }), "grants.nats.subscribe[0]"),
        (json!({ "buckets": { "s": { "bucket": "lattice-default-state" } } }), "grants.nats.buckets.s.bucket"),
        (json!({ "buckets": { "s": { "bucket": "absent" } } }), "grants.nats.buckets.s.bucket"),
    ] {
        let mut asked = spec("courier", digest, 1);
        asked["grants"] = json!({ "nats": grants });
        let refused = api.put(&asked).await.unwrap_err();
        assert_eq!((refused.code, refused.field.as_deref()), (ErrorCode::Invalid, Some(field)), "{refused:?}");
    }

    // Everything that can be granted, and of what is granted to nobody nothing.
    let mut all = api.bus().subscribe(">".into(), None).await.unwrap();
    courier(&api, 1, json!({ "publish": [">"], "subscribe": [">"] })).await;
    let node = lattice.node("n1").http();
    let ctl = format!("lattice.{}.ctl.workload.list", api.lattice);
    for subject in ["$SYS.REQ.SERVER.PING", "$JS.API.INFO", "$KV.carts.k", "_INBOX.x", "_R_.x", "lattice.x", &ctl] {
        for way in ["/publish", "/request"] {
            refused(&node, way, &[("subject", subject)], "denied definitely-not").await;
        }
        // Nor are others made to publish there.
        refused(&node, "/publish", &[("subject", "a.b"), ("reply-to", subject)], "denied definitely-not").await;
        refused(&node, "/subscribe", &[("filter", subject)], "denied definitely-not").await;
    }
    for filter in [">", "*", "*.carts.>", "*.>"] {
        refused(&node, "/subscribe", &[("filter", filter)], "denied definitely-not").await;
    }
    for subject in ["", "a..b", "a.*", "a b", "a."] {
        refused(&node, "/publish", &[("subject", subject)], "invalid(\"message.subject\") definitely-not").await;
    }
    refused(&node, "/request", &[("subject", "a"), ("reply-to", "b")], "invalid(\"message.reply-to\")").await;
    // What tells a stream to remove everything, or to store twice.
    for line in ["Nats-Rollup: all", "nats-msg-id: 1", "Nats-Expected-Stream: S", ": x"] {
        let expect = "invalid(\"message.headers\") definitely-not";
        refused(&node, "/publish", &[("subject", "a.b"), ("line", line)], expect).await;
    }
    // The queue groups by which workloads share their messages.
    refused(&node, "/subscribe", &[("filter", "a.b"), ("group", "lattice-default-shop")], "denied definitely-not")
        .await;
    refused(&node, "/subscribe", &[("filter", "a.b"), ("group", "a b")], "invalid(\"queue-group\")").await;
    // A bucket by the name that it has, but is not granted under.
    for name in ["carts", "KV_carts", "", "a b"] {
        refused(&node, "/get", &[("bucket", name), ("key", "k")], "denied definitely-not").await;
    }
    done(&node, "/publish", &[("subject", "a.b")], "last").await;
    loop {
        let message = all.next().await.unwrap();
        assert_ne!(message.payload, "refused", "{message:?}");
        if message.payload == "last" {
            break;
        }
    }

    // A narrower grant covers what it names, whole.
    let carts = json!({ "c": { "bucket": "carts", "access": "read-only" } });
    courier(&api, 1, json!({ "publish": ["tasks.*"], "subscribe": ["tasks.*"], "buckets": carts })).await;
    eventually("the narrower grant is in force", PATIENCE, async || {
        match ask(&node, "/publish", &[("subject", "a.b")], "").await {
            (502, text) if text.contains("no grant of this workload covers a.b") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    for subject in ["tasks", "tasks.a.b", "Tasks.a"] {
        refused(&node, "/publish", &[("subject", subject)], "denied definitely-not").await;
        refused(&node, "/subscribe", &[("filter", subject)], "denied definitely-not").await;
    }
    refused(&node, "/subscribe", &[("filter", "tasks.>")], "denied definitely-not").await;
    let bucket = ("bucket", "c");
    for (path, more) in
        [("/put", "1"), ("/create", "1"), ("/update", "1"), ("/delete", ""), ("/purge", ""), ("/increment", "")]
    {
        let arguments = [bucket, ("key", "k"), ("revision", more)];
        let text = refused(&node, path, &arguments, "denied definitely-not").await;
        assert!(text.contains("read only"), "{text}");
    }
    assert_eq!(ask(&node, "/get", &[bucket, ("key", "k")], "").await.0, 404);
    // No key leads out of the bucket.
    for key in ["", ">", "*", "a.*", "a..b", ".a", "$KV", "a b"] {
        refused(&node, "/get", &[bucket, ("key", key)], "invalid(\"key\") definitely-not").await;
        refused(&node, "/history", &[bucket, ("key", key)], "invalid(\"key\") definitely-not").await;
    }
    for filter in ["a b", ">.a", "$KV.>"] {
        refused(&node, "/watch", &[bucket, ("filter", filter)], "invalid(\"filters\") definitely-not").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_have_one_winner_a_history_and_a_time() {
    let lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    make_bucket(&api, "carts", json!({ "allow_msg_ttl": true, "subject_delete_marker_ttl": 1_000_000_000_u64 })).await;
    make_bucket(&api, "small", json!({ "max_msg_size": 100, "max_bytes": 2_000, "allow_direct": false })).await;
    courier(&api, 2, json!({ "buckets": { "c": { "bucket": "carts" }, "small": { "bucket": "small" } } })).await;
    let nodes = ["n1", "n2"].map(|id| lattice.node(id).http());
    let [node, _] = &nodes;
    let key = [("bucket", "c"), ("key", "anna")];
    let with = |revision: &'static str| [("bucket", "c"), ("key", "anna"), ("revision", revision)];

    assert_eq!(ask(node, "/get", &key, "").await.0, 404);
    assert_eq!(done(node, "/create", &key, "one").await, "1");
    refused(node, "/create", &key, "already-exists(1) definitely-not").await;
    assert_eq!(done(node, "/update", &with("1"), "two").await, "2");
    refused(node, "/update", &with("1"), "wrong-revision definitely-not").await;
    refused(node, "/delete", &with("1"), "wrong-revision definitely-not").await;
    for way in ["/get", "/get-any"] {
        assert_eq!(done(node, way, &key, "").await, "2 two");
    }
    assert_eq!(done(node, "/get-revision", &with("1"), "").await, "1 one");
    assert_eq!(ask(node, "/get-revision", &[("bucket", "c"), ("key", "bob"), ("revision", "1")], "").await.0, 404);
    assert_eq!(ask(node, "/get-revision", &with("99"), "").await.0, 404);
    assert_eq!(done(node, "/delete", &with("2"), "").await, "3");
    assert_eq!(ask(node, "/get", &key, "").await.0, 404);
    // Over a deletion it can be created again.
    assert_eq!(done(node, "/create", &key, "three").await, "4");
    assert_eq!(
        done(node, "/history", &key, "").await,
        "1 put anna one\n2 put anna two\n3 delete anna \n4 put anna three\n"
    );
    assert_eq!(done(node, "/purge", &key, "").await, "5");
    assert_eq!(done(node, "/history", &key, "").await, "5 purge anna \n");
    assert_eq!(done(node, "/history", &[("bucket", "c"), ("key", "nobody")], "").await, "");

    // Of many that update from one revision one wins.
    done(node, "/put", &[("bucket", "c"), ("key", "race")], "0").await;
    let (_, now) = ask(node, "/get", &[("bucket", "c"), ("key", "race")], "").await;
    let revision = now.split(' ').next().unwrap().to_owned();
    let racing = (0..20).map(|n| {
        let (node, revision) = (nodes[n % 2].clone(), revision.clone());
        async move { ask(&node, "/update", &[("bucket", "c"), ("key", "race"), ("revision", &revision)], "x").await }
    });
    let outcomes = join_all(racing).await;
    assert_eq!(outcomes.iter().filter(|(status, _)| *status == 200).count(), 1, "{outcomes:?}");
    assert!(outcomes.iter().all(|(status, text)| *status == 200 || text.starts_with("wrong-revision definitely-not")));

    // Increments are exact.
    let adding = (0..60).map(|n| ask(&nodes[n % 2], "/increment", &[("bucket", "c"), ("key", "n"), ("by", "2")], ""));
    let sums: BTreeSet<u64> = join_all(adding).await.iter().map(|(_, sum)| sum.parse().unwrap()).collect();
    assert_eq!(sums, (1..=60).map(|n| n * 2).collect());
    done(node, "/put", &[("bucket", "c"), ("key", "word")], "seven").await;
    refused(node, "/increment", &[("bucket", "c"), ("key", "word")], "invalid(\"value\") definitely-not").await;

    // A key that has a time, and what watchers are told when it is up.
    let mut lines = Lines::of(node, "/watch", &[("bucket", "c"), ("filter", "flash.*"), ("new", "1")]).await;
    assert_eq!(lines.next().await, "caught-up");
    done(node, "/put", &[("bucket", "c"), ("key", "flash.a"), ("ttl", "1000")], "gone soon").await;
    assert!(lines.next().await.ends_with("put flash.a gone soon"));
    assert!(lines.next().await.ends_with("expire flash.a "), "the marker");
    assert_eq!(ask(node, "/get", &[("bucket", "c"), ("key", "flash.a")], "").await.0, 404);
    refused(node, "/put", &[("bucket", "c"), ("key", "k"), ("ttl", "999")], "invalid(\"ttl\") definitely-not").await;
    refused(node, "/put", &[("bucket", "small"), ("key", "k"), ("ttl", "5000")], "unsupported definitely-not").await;
    refused(node, "/get-any", &[("bucket", "small"), ("key", "k")], "unsupported definitely-not").await;

    // Limits of the bucket and of the server.
    let small = [("bucket", "small"), ("key", "k")];
    let (status, text) = ask(node, "/put", &small, &"x".repeat(200)).await;
    assert!(status == 502 && text.starts_with("too-large"), "{text}");
    let (status, text) = ask(node, "/put", &[("bucket", "c"), ("key", "k")], &"x".repeat((1 << 20) + 1)).await;
    assert!(status == 502 && text.starts_with("too-large(1048576) definitely-not"), "{text}");
    let mut full = String::new();
    for n in 0..50 {
        let (status, text) =
            ask(node, "/put", &[("bucket", "small"), ("key", &format!("k{n}"))], &"x".repeat(50)).await;
        if status != 200 {
            full = text;
            break;
        }
    }
    assert!(full.starts_with("storage-full definitely-not"), "{full}");
    let info = done(node, "/info", &[("bucket", "small")], "").await;
    assert!(
        info.contains("history: 5") && info.contains("key-ttl: false") && info.contains("max-bytes: 2000"),
        "{info}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_whole_and_watches_go_on() {
    let mut lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    make_bucket(&api, "carts", json!({})).await;
    courier(&api, 1, json!({ "buckets": { "c": { "bucket": "carts" } }, "publish": ["a.*"], "subscribe": ["a.*"] }))
        .await;
    let node = lattice.node("n1").http();
    let bucket = ("bucket", "c");
    assert_eq!(done(&node, "/keys", &[bucket], "").await, "");
    let keys: BTreeSet<String> = (0..300).map(|n| format!("k.{n}")).collect();
    for key in &keys {
        done(&node, "/put", &[bucket, ("key", key)], key).await;
    }
    done(&node, "/put", &[bucket, ("key", "other")], "x").await;
    done(&node, "/put", &[bucket, ("key", "gone")], "x").await;
    done(&node, "/delete", &[bucket, ("key", "gone")], "").await;
    let listed = done(&node, "/keys", &[bucket, ("filter", "k.*")], "").await;
    assert_eq!(listed.lines().map(str::to_owned).collect::<BTreeSet<_>>(), keys);
    assert_eq!(listed.lines().count(), keys.len(), "none twice");
    let listed = done(&node, "/keys", &[bucket, ("filter", "k.7"), ("filter", "other")], "").await;
    assert_eq!(listed, "k.7\nother\n");

    let mut lines = Lines::of(&node, "/watch", &[bucket, ("filter", "other"), ("filter", "k.7")]).await;
    let mut arrivals = Lines::of(&node, "/subscribe", &[("filter", "a.*")]).await;
    assert_eq!(arrivals.next().await, "subscribed");
    assert!(lines.next().await.ends_with("put k.7 k.7"));
    assert!(lines.next().await.ends_with("put other x"));
    assert_eq!(lines.next().await, "caught-up");
    done(&node, "/put", &[bucket, ("key", "other")], "y").await;
    assert!(lines.next().await.ends_with("put other y"));

    // The server goes away and comes back: the watch says so, and tells the state anew.
    lattice.server.kill9().await;
    for (path, arguments) in [("/get", [bucket, ("key", "k.7")]), ("/put", [bucket, ("key", "k.7")])] {
        eventually("it is out of reach", PATIENCE, async || match ask(&node, path, &arguments, "").await {
            (502, text) if text.starts_with("disconnected definitely-not") => {
                assert!(!text.contains("127.0.0.1"), "{text}");
                Ok(())
            }
            other => Err(format!("{other:?}")),
        })
        .await;
    }
    refused(&node, "/publish", &[("subject", "a.b")], "disconnected definitely-not").await;
    lattice.server.start_again().await;
    let api = lattice.api().await;
    assert_eq!(lines.next().await, "resynchronised");
    assert!(lines.next().await.ends_with("put k.7 k.7"));
    assert!(lines.next().await.ends_with("put other y"));
    assert_eq!(lines.next().await, "caught-up");
    eventually("it is written again", PATIENCE, async || {
        match ask(&node, "/delete", &[bucket, ("key", "other")], "").await {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(lines.next().await.ends_with("delete other "));
    assert_eq!(arrivals.next().await, "interrupted");
    eventually("it comes again", PATIENCE, async || {
        match ask(&node, "/publish", &[("subject", "a.b")], "again").await {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(arrivals.next().await.starts_with("a.b again"));

    // The bucket is gone, and so is the watch.
    stream_api(&api, "DELETE.KV_carts", "").await;
    let last = loop {
        let line = lines.next().await;
        if line.starts_with("failed") {
            break line;
        }
    };
    assert!(last.starts_with("failed not-found"), "{last}");
    assert_eq!(lines.try_next().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_of_a_failure_holds() {
    let mut lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    make_bucket(&api, "carts", json!({})).await;
    courier(
        &api,
        1,
        json!({ "buckets": { "c": { "bucket": "carts" } }, "publish": ["ask.*"], "subscribe": ["ask.*"] }),
    )
    .await;
    let node = lattice.node("n1").http();
    refused(&node, "/request", &[("subject", "ask.nobody")], "no-responders definitely-not").await;
    let _silent = api.bus().subscribe("ask.silent".into(), None).await.unwrap();
    api.bus().flush().await.unwrap();
    refused(&node, "/request", &[("subject", "ask.silent"), ("ms", "100")], "timeout maybe").await;
    refused(&node, "/request", &[("subject", "ask.silent"), ("ms", "0")], "timeout definitely-not").await;

    // Several operations of one instance at a time.
    let mut asked = spec("courier", api.upload("courier").await, 1);
    asked["grants"] = json!({ "nats": { "buckets": { "c": { "bucket": "carts" } } } });
    asked["reuse"] = json!({ "concurrency": 16 });
    api.put(&asked).await.unwrap();
    api.ready("courier").await;

    // Killed in the middle of writes: what was not done is not there; of what may have been done nobody knows; and what
    // was done is there.
    for round in 0..3 {
        let to = node.clone();
        let writes = (0..400).map(move |n| {
            let node = to.clone();
            async move {
                let key = format!("r{round}.{n}");
                let outcome = ask(&node, "/create", &[("bucket", "c"), ("key", &key)], "x").await;
                (key, outcome)
            }
        });
        let writing = tokio::spawn(futures_util::stream::iter(writes).buffer_unordered(8).collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(100)).await;
        lattice.server.kill9().await;
        lattice.server.start_again().await;
        let outcomes = writing.await.unwrap();
        eventually("it is read again", PATIENCE, async || {
            match ask(&node, "/get", &[("bucket", "c"), ("key", "nobody")], "").await {
                (404, _) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        for (key, (status, text)) in outcomes {
            let there = ask(&node, "/get", &[("bucket", "c"), ("key", &key)], "").await.0 == 200;
            match status {
                200 => assert!(there, "{key} was acknowledged"),
                _ if text.contains(" definitely-not:") => assert!(!there, "{key} is there though: {text}"),
                _ => assert!(text.contains(" maybe:"), "{key}: {status} {text}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_slowly_is_told_what_was_lost_and_streams_are_bounded() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    courier(&api, 1, json!({ "subscribe": ["flood.>"] })).await;
    let node = lattice.node("n1").http();
    let mut lines = Lines::of(&node, "/subscribe", &[("filter", "flood.>"), ("wait", "3000")]).await;
    assert_eq!(lines.next().await, "subscribed");
    let bus = api.bus();
    const SENT: u64 = 6_000;
    for n in 0..SENT {
        let message = Message { subject: "flood.x".into(), payload: n.to_string().into(), ..Default::default() };
        bus.publish(message).await.unwrap();
    }
    bus.flush().await.unwrap();
    let (mut came, mut lost) = (0, 0);
    let mut next = 0;
    while came + lost < SENT {
        let line = lines.next().await;
        match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["lost", count] => {
                let count: u64 = count.parse().unwrap();
                lost += count;
                next += count;
            }
            ["flood.x", n] => {
                assert_eq!(n.parse::<u64>().unwrap(), next, "in order, and what is lost is told where it is missing");
                (came, next) = (came + 1, next + 1);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(lost > 0 && came >= 4_096, "{came} came, {lost} were lost");
    drop(lines);
    // One more than there may be, and room again once they are gone.
    eventually("the subscription is gone", PATIENCE, async || {
        let text = done(&node, "/hoard", &[("filter", "flood.a"), ("count", "64")], "").await;
        if text == "64 " { Ok(()) } else { Err(text) }
    })
    .await;
    eventually("the subscriptions are gone", PATIENCE, async || {
        let text = done(&node, "/hoard", &[("filter", "flood.a"), ("count", "100")], "").await;
        if text.starts_with("64 quota-exceeded(64) definitely-not") { Ok(()) } else { Err(text) }
    })
    .await;
}
