//! `wasmcloud:messaging` over core NATS: components that know the published WIT and nothing of the lattice.

use crate::harness::{Api, Lattice, PATIENCE, api::spec, eventually, http};
use futures_util::StreamExt as _;
use hyper::Method;
use lattice::{
    ctl::ErrorCode,
    store::{Headers, Message},
};
use serde_json::{Value, json};
use std::time::Instant;

/// A workload of the guest `sender` that may publish on these subjects.
async fn sender(api: &Api, replicas: u32, publish: Value) -> Value {
    let digest = api.upload("sender").await;
    let mut asked = spec("sender", digest, replicas);
    asked["grants"] = json!({ "messaging": { "publish": publish } });
    asked
}

async fn post(address: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> (u16, String) {
    let body = http::full(body.into());
    let response = http::send(address, Method::POST, "sender.test", path, headers, body).await.unwrap();
    let answer = http::whole(response).await.unwrap();
    (answer.status, answer.text())
}

/// Answers each request on the subject with its own body.
async fn responder(api: &Api, subject: &str) -> tokio::task::JoinHandle<()> {
    let bus = api.bus().clone();
    let mut requests = bus.subscribe(subject.into(), None).await.unwrap();
    let answers = tokio::spawn(async move {
        while let Some(Message { reply: Some(subject), payload, .. }) = requests.next().await {
            bus.publish(Message { subject, payload, ..Default::default() }).await.unwrap();
        }
    });
    // That it was written to the server is not yet that the server knows of it.
    let one = subject.replace('*', "x");
    eventually("it answers", PATIENCE, async || {
        let answer = api.request(&one, Headers::new(), b"").await;
        answer.map(drop).map_err(|error| error.to_string())
    })
    .await;
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_guests_send_arrives_and_what_they_ask_is_answered() {
    let lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    api.put(&sender(&api, 2, json!(["orders.>", "ask.*", "replies.one"])).await).await.unwrap();
    api.ready("sender").await;
    let bus = api.bus();
    let mut orders = bus.subscribe("orders.>".into(), None).await.unwrap();
    bus.flush().await.unwrap();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    let nodes = ["n1", "n2"].map(|id| lattice.node(id).http());
    for node in &nodes {
        let headers = [("reply-to", "replies.one"), ("traceparent", trace)];
        let (status, text) = post(node, "/publish/orders.new.eu", &headers, "7 apples").await;
        assert_eq!((status, text.as_str()), (202, ""));
        let message = orders.next().await.unwrap();
        assert_eq!((message.subject.as_str(), &message.payload[..]), ("orders.new.eu", &b"7 apples"[..]));
        assert_eq!(message.reply.as_deref(), Some("replies.one"));
        let passed_on = message.headers.get("traceparent").expect("the trace goes on");
        assert_eq!(passed_on.get(..35), trace.get(..35), "{passed_on}");
    }
    let answers = responder(&api, "ask.*").await;
    let asked = (0..100).map(|n| post(&nodes[n % 2], "/request/ask.me", &[], format!("question {n}")));
    for (n, (status, text)) in futures_util::future::join_all(asked).await.into_iter().enumerate() {
        assert_eq!((status, text), (200, format!("question {n}")));
    }
    answers.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_carried_says_what_is_known() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    let mut asked = sender(&api, 1, json!(["tasks.*", ">"])).await;
    asked["limits"] = json!({ "wall": "2s" });
    api.put(&asked).await.unwrap();
    api.ready("sender").await;
    let node = lattice.node("n1").http();
    let (status, text) = post(&node, "/request/tasks.none", &[], "x").await;
    assert_eq!((status, text.as_str()), (502, "nobody listens on tasks.none\n"));
    // Somebody listens, and says nothing.
    let _silent = api.bus().subscribe("tasks.silent".into(), None).await.unwrap();
    api.bus().flush().await.unwrap();
    let (status, text) = post(&node, "/request/tasks.silent?ms=100", &[], "x").await;
    assert_eq!(status, 502);
    assert!(text.contains("no reply on tasks.silent within 100 ms") && text.contains("may have been"), "{text}");
    // The guest is told before its own time is up: that of the request that it answers counts.
    let began = Instant::now();
    let (status, text) = post(&node, "/request/tasks.silent?ms=60000", &[], "x").await;
    assert!(matches!(status, 502 | 504) && began.elapsed().as_secs() < 30, "{status} {text}");
    let (status, text) = post(&node, "/publish/tasks.big", &[], vec![b'x'; (1 << 20) + 1]).await;
    assert!(status == 502 && text.contains("the server carries 1048576"), "{status} {text}");
    assert_eq!(post(&node, "/publish/tasks.fits", &[], vec![b'x'; (1 << 20) - 1024]).await.0, 202);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_granted_is_not_sent() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    // Refused before anything runs.
    for (publish, field) in [
        (json!(["a", "lattice.default.ctl.>"]), "grants.messaging.publish[1]"),
        (json!(["$JS.API.>"]), "grants.messaging.publish[0]"),
        (json!(["a b"]), "grants.messaging.publish[0]"),
    ] {
        let refused = api.put(&sender(&api, 1, publish).await).await.unwrap_err();
        assert_eq!((refused.code, refused.field.as_deref()), (ErrorCode::Invalid, Some(field)), "{refused:?}");
    }
    let mut shared = sender(&api, 1, json!(["a"])).await;
    shared["reuse"] = json!({ "concurrency": 2 });
    let refused = api.put(&shared).await.unwrap_err();
    assert_eq!(refused.field.as_deref(), Some("grants.messaging"), "{refused:?}");

    // Everything that can be granted, and of what is granted to nobody nothing.
    let mut all = api.bus().subscribe(">".into(), None).await.unwrap();
    api.put(&sender(&api, 1, json!([">"])).await).await.unwrap();
    api.ready("sender").await;
    let node = lattice.node("n1").http();
    let ctl = format!("lattice.{}.ctl.workload.list", api.lattice);
    for subject in
        ["$SYS.REQ.SERVER.PING", "$JS.API.INFO", "$KV.b.k", "_INBOX.x", "_R_.x", "lattice.x", &ctl, "a..b", "a.*"]
    {
        for way in ["publish", "request"] {
            let (status, text) = post(&node, &format!("/{way}/{subject}"), &[], "denied").await;
            assert!(
                status == 502 && (text.contains("reserved") || text.contains("subject")),
                "{subject}: {status} {text}"
            );
        }
        // Nor are others made to publish there.
        let (status, _) = post(&node, "/publish/a.b", &[("reply-to", subject)], "denied").await;
        assert_eq!(status, 502, "{subject}");
    }
    api.put(&sender(&api, 1, json!(["tasks.*"])).await).await.unwrap();
    eventually("the narrower grant is in force", PATIENCE, async || match post(&node, "/publish/a.b", &[], "").await {
        (502, text) if text.contains("denied: no grant of this workload covers a.b") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    for subject in ["tasks", "tasks.a.b", "Tasks.a"] {
        assert_eq!(post(&node, &format!("/publish/{subject}"), &[], "denied").await.0, 502, "{subject}");
    }
    assert_eq!(post(&node, "/publish/tasks.a", &[], "last").await.0, 202);
    loop {
        let message = all.next().await.unwrap();
        assert_ne!(message.payload, "denied", "{message:?}");
        if message.payload == "last" {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_out_of_reach_is_said_and_comes_back() {
    let mut lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    api.put(&sender(&api, 1, json!(["tasks.*"])).await).await.unwrap();
    api.ready("sender").await;
    let node = lattice.node("n1").http();
    assert_eq!(post(&node, "/publish/tasks.a", &[], "x").await.0, 202);
    lattice.server.kill9().await;
    for way in ["publish", "request"] {
        let (status, text) = post(&node, &format!("/{way}/tasks.a"), &[], "x").await;
        assert_eq!(status, 502, "{text}");
        assert!(text.contains("NATS"), "{text}");
        assert!(!text.contains("nats://") && !text.contains("127.0.0.1"), "{text}");
    }
    lattice.server.start_again().await;
    let api = lattice.api().await;
    let answers = responder(&api, "tasks.a").await;
    eventually("requests are answered again", PATIENCE, async || {
        match post(&node, "/request/tasks.a", &[], "again").await {
            (200, text) if text == "again" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    answers.abort();
}
