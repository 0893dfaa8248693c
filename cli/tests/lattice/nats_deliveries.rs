//! Consumers and readers of `lattice:nats/jetstream` as a guest has them, and each way around their grants.

use crate::{
    harness::{Api, Lattice, PATIENCE, api::spec, eventually},
    nats::{Lines, ask, courier, done, refused, stream_api},
    nats_streams::make_stream,
};
use lattice::{ctl::ErrorCode, store::Headers};
use serde_json::{Value, json};

/// As `nats consumer add --pull` does it, with these settings besides.
async fn make_consumer(api: &Api, stream: &str, name: &str, settings: Value) {
    let mut config = json!({ "durable_name": name, "ack_policy": "explicit", "ack_wait": 1_000_000_000_u64 });
    for (field, value) in settings.as_object().unwrap() {
        config[field] = value.clone();
    }
    let subject = format!("$JS.API.CONSUMER.CREATE.{stream}.{name}");
    let body = json!({ "stream_name": stream, "config": config }).to_string();
    let made = api.request(&subject, Headers::new(), body.as_bytes()).await.unwrap();
    let made: Value = serde_json::from_slice(&made.payload).unwrap();
    assert!(made.get("error").is_none(), "{made}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_take_deliveries_and_read_in_order() {
    let mut lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    make_stream(&api, "TASKS", &["tasks.>"], json!({})).await;
    make_consumer(&api, "TASKS", "packers", json!({ "max_deliver": 3 })).await;
    courier(
        &api,
        2,
        json!({ "streams": {
            "t": { "stream": "TASKS", "publish": ["tasks.*"], "read": [">"], "consumers": ["packers"] },
        } }),
    )
    .await;
    let [node, other] = ["n1", "n2"].map(|id| lattice.node(id).http());
    let fetch = |max: &'static str, wait: &'static str, then: &'static str| {
        [("stream", "t"), ("consumer", "packers"), ("max", max), ("wait", wait), ("then", then)]
    };
    assert_eq!(done(&node, "/fetch", &fetch("10", "0", "ack"), "").await, "");
    for n in 0..6 {
        done(&node, "/store", &[("stream", "t"), ("subject", "tasks.a")], &format!("task{n}")).await;
    }
    let lines = done(&node, "/fetch", &fetch("2", "5000", "sync"), "").await;
    assert_eq!(lines, "1 tasks.a task0 attempt 1, 5 behind: sync\n2 tasks.a task1 attempt 1, 4 behind: sync\n");
    let lines = done(&other, "/fetch", &fetch("1", "5000", "twice"), "").await;
    assert!(lines.contains("task2") && lines.contains("already-settled definitely-not"), "{lines}");
    let lines = done(&other, "/fetch", &fetch("1", "5000", "terminate"), "").await;
    assert!(lines.starts_with("4 tasks.a task3 attempt 1"), "{lines}");
    let lines = done(&node, "/fetch", &fetch("1", "5000", "progress"), "").await;
    assert!(lines.starts_with("5 tasks.a task4 attempt 1") && lines.ends_with("progress\n"), "{lines}");
    // Put back, forgotten, put back; and as often as it is delivered it was delivered then.
    for (attempt, then) in [("1", "nak"), ("2", "nothing"), ("3", "nak")] {
        let line = eventually("it comes again", PATIENCE, async || {
            match done(&node, "/fetch", &fetch("1", "1000", then), "").await {
                line if line.is_empty() => Err("nothing came"),
                line => Ok(line),
            }
        })
        .await;
        assert!(line.starts_with(&format!("6 tasks.a task5 attempt {attempt}")), "{line}");
    }
    assert_eq!(done(&other, "/fetch", &fetch("1", "2000", "ack"), "").await, "", "max-deliver is 3");
    let backlog = done(&node, "/backlog", &[("stream", "t"), ("consumer", "packers")], "").await;
    assert!(backlog.contains("undelivered: 0"), "{backlog}");
    for bad in ["0", "257"] {
        refused(&node, "/fetch", &fetch(bad, "0", "ack"), "invalid(\"max\") definitely-not").await;
    }

    // In order, over a server that is killed.
    let mut lines = Lines::of(&node, "/read", &[("stream", "t"), ("start", "2")]).await;
    for n in 1..6 {
        assert_eq!(lines.next().await, format!("{} tasks.a task{n}", n + 1));
    }
    assert_eq!(lines.next().await, "caught-up");
    let mut last = Lines::of(&other, "/read", &[("stream", "t"), ("filter", "tasks.*"), ("start", "last")]).await;
    assert_eq!((last.next().await.as_str(), last.next().await.as_str()), ("6 tasks.a task5", "caught-up"));
    lattice.server.kill9().await;
    lattice.server.start_again().await;
    for reader in [&mut lines, &mut last] {
        assert_eq!(reader.next().await, "resynchronised 1");
    }
    eventually("it is stored again", PATIENCE, async || {
        match ask(&node, "/store", &[("stream", "t"), ("subject", "tasks.b"), ("expect", "subject 0")], "again").await {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    for reader in [&mut lines, &mut last] {
        assert_eq!(reader.next().await, "7 tasks.b again");
    }
    let api = lattice.api().await;
    stream_api(&api, "DELETE.TASKS", "").await;
    assert!(lines.next().await.starts_with("failed not-found"));
    assert_eq!(lines.try_next().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_and_readers_that_are_not_granted_are_denied() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    make_stream(&api, "TASKS", &["tasks.>"], json!({})).await;
    make_consumer(&api, "TASKS", "packers", json!({})).await;
    make_consumer(&api, "TASKS", "others", json!({})).await;
    make_consumer(&api, "TASKS", "lax", json!({ "ack_policy": "none" })).await;
    make_consumer(&api, "TASKS", "pushed", json!({ "deliver_subject": "pushed.here" })).await;
    let digest = api.upload("courier").await;
    for (consumers, index, wording) in [
        (json!(["packers", "absent"]), 1, "no consumer absent"),
        (json!(["lax"]), 0, "ack policy"),
        (json!(["pushed"]), 0, "push-based"),
        (json!(["a.b"]), 0, "not a consumer"),
        (json!([">"]), 0, "not a consumer"),
    ] {
        let mut asked = spec("courier", digest, 1);
        asked["grants"] = json!({ "nats": { "streams": { "s": { "stream": "TASKS", "consumers": consumers } } } });
        let refused = api.put(&asked).await.unwrap_err();
        let field = format!("grants.nats.streams.s.consumers[{index}]");
        assert_eq!((refused.code, refused.field.as_deref()), (ErrorCode::Invalid, Some(&*field)), "{refused:?}");
        assert!(format!("{refused:?}").contains(wording), "{refused:?}");
    }
    courier(
        &api,
        1,
        json!({ "streams": {
            "work": { "stream": "TASKS", "publish": ["tasks.*"], "consumers": ["packers"] },
            "read": { "stream": "TASKS", "read": ["tasks.a.>"] },
        } }),
    )
    .await;
    let node = lattice.node("n1").http();
    done(&node, "/store", &[("stream", "work"), ("subject", "tasks.a")], "x").await;
    for (stream, consumer) in [
        ("work", "others"),
        ("work", "packers.x"),
        ("work", ">"),
        ("work", ""),
        ("read", "packers"),
        ("TASKS", "packers"),
    ] {
        for way in ["/fetch", "/backlog"] {
            refused(&node, way, &[("stream", stream), ("consumer", consumer)], "denied definitely-not").await;
        }
    }
    for filter in ["tasks.>", ">", "tasks.a", "*.a.b", "$JS.>"] {
        refused(&node, "/read", &[("stream", "read"), ("filter", filter)], "denied definitely-not").await;
    }
    // Without a filter it is all.
    refused(&node, "/read", &[("stream", "read")], "denied definitely-not").await;
    refused(&node, "/read", &[("stream", "work"), ("filter", "tasks.a")], "denied definitely-not").await;
    refused(&node, "/read", &[("stream", "read"), ("filter", "tasks..a")], "invalid(\"filter\") definitely-not").await;
    let many: Vec<_> = [("stream", "read")].into_iter().chain(vec![("filter", "tasks.a.b"); 17]).collect();
    refused(&node, "/read", &many, "invalid(\"filters\") definitely-not").await;
    let taken = done(&node, "/fetch", &[("stream", "work"), ("consumer", "packers"), ("then", "ack")], "").await;
    assert!(taken.starts_with("1 tasks.a x attempt 1"), "{taken}");
}
