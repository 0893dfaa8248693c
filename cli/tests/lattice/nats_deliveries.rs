//! Consumers and readers of `lattice:nats/jetstream` as a guest has them, and each way around their grants.

use crate::{
    harness::{Api, Lattice, PATIENCE, api::spec, eventually, http},
    nats::{Lines, ask, courier, done, refused, stream_api},
    nats_streams::make_stream,
};
use futures_util::future::join_all;
use hyper::Method;
use lattice::{ctl::ErrorCode, store::Headers};
use serde_json::{Value, json};
use std::time::Duration;

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
        match ask(&node, "/store", &[("stream", "t"), ("subject", "tasks.b"), ("when", "subject 0")], "again").await {
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

async fn deployed(api: &Api, guest: &str, streams: Value) {
    let mut asked = spec(guest, api.upload(guest).await, 2);
    asked["grants"] = json!({ "nats": { "streams": streams } });
    asked["reuse"] = json!({ "concurrency": 16 });
    api.put(&asked).await.unwrap();
    api.ready(guest).await;
}

async fn call(node: &str, host: &str, method: Method, path: &str, key: Option<&str>, body: &str) -> (u16, String) {
    let arguments: Vec<_> = key.into_iter().map(|key| ("idempotency-key", key)).collect();
    let body = http::full(body.as_bytes().to_vec());
    let response = http::send(node, method, host, path, &arguments, body).await.unwrap();
    let answer = http::whole(response).await.unwrap();
    (answer.status, answer.text().trim().to_owned())
}

/// The example `account`: many add to one account on several nodes, and nothing is lost, doubled or overdrawn; not where a server
/// is killed either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_are_the_sum_of_what_happened_once() {
    let mut lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    make_stream(&api, "ACCOUNTS", &["accounts.*"], json!({})).await;
    let subjects = ["accounts.*"];
    let grant = json!({ "stream": "ACCOUNTS", "publish": subjects, "read": subjects, "profiles": ["event-store"] });
    deployed(&api, "account", json!({ "accounts": grant })).await;
    let nodes = ["n1", "n2"].map(|id| lattice.node(id).http());
    let ask = async |n: usize, method, path: &str, key: Option<&str>, body: &str| {
        call(&nodes[n % 2], "account.test", method, path, key, body).await
    };
    assert_eq!(ask(0, Method::GET, "/anna", None, "").await, (200, "0 0".into()));
    assert_eq!(ask(0, Method::POST, "/anna", None, "+30").await, (200, "30 1".into()));
    assert_eq!(ask(1, Method::POST, "/anna", None, "-31").await, (409, "30 1".into()));
    assert_eq!(ask(1, Method::POST, "/anna", None, "thirty").await.0, 400);
    assert_eq!(ask(1, Method::POST, "/bob", None, "+1").await, (200, "1 2".into()));
    assert_eq!(ask(1, Method::POST, "/a.b", None, "+1").await.0, 502, "no grant covers it");
    // The same event, asked for again and at the same time.
    let same = join_all((0..6).map(|n| ask(n, Method::POST, "/anna", Some("gift-1"), "+5"))).await;
    assert!(same.iter().all(|(status, text)| *status == 200 && text.starts_with("35 ")), "{same:?}");
    // Several at a time: each sees what the others did.
    let racing = join_all((0..10).map(|n| ask(n, Method::POST, "/anna", None, "-10"))).await;
    assert_eq!(racing.iter().filter(|(status, _)| *status == 200).count(), 3, "{racing:?}");
    assert!(racing.iter().all(|(status, _)| [200, 409].contains(status)), "{racing:?}");

    // Asked for until it is known to have happened, while the server is killed.
    let adding = (0..60).map(|n: usize| {
        let node = nodes[n % 2].clone();
        async move {
            let key = format!("e{n}");
            eventually("the event is there", PATIENCE, async || {
                match call(&node, "account.test", Method::POST, &format!("/k{}", n % 4), Some(&key), "+1").await {
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
    tokio::join!(join_all(adding), killing);
    for n in 0..4 {
        let (_, text) = ask(n, Method::GET, &format!("/k{n}"), None, "").await;
        assert!(text.starts_with("15 "), "k{n}: {text}");
    }
}

/// The example `packer`: what fails is tried three times, and then it is a dead letter, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_are_done_or_are_dead_letters() {
    let lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    make_stream(&api, "WORK", &["work.*"], json!({ "retention": "workqueue" })).await;
    make_consumer(&api, "WORK", "packers", json!({ "filter_subject": "work.tasks", "ack_wait": 10_000_000_000_u64 }))
        .await;
    let profile = json!({ "profiles": ["work-queue"], "require": { "retention": "work" } });
    let mut grant = json!({ "stream": "WORK", "publish": ["work.*"], "consumers": ["packers"] });
    grant.as_object_mut().unwrap().extend(profile.as_object().unwrap().clone());
    deployed(&api, "packer", json!({ "work": grant })).await;
    let nodes = ["n1", "n2"].map(|id| lattice.node(id).http());
    for n in 0..10 {
        let task = if n == 3 { "to fail" } else { "to be done" };
        let path = format!("/task-{n}");
        let put = async || call(&nodes[n % 2], "packer.test", Method::POST, &path, None, task).await;
        assert_eq!(put().await, (200, "stored".into()));
        assert_eq!(put().await, (200, "there already".into()));
    }
    let (mut done, mut failed, mut dead) = (0, 0, 0);
    eventually("all is worked on", PATIENCE, async || {
        for node in &nodes {
            let (status, text) = call(node, "packer.test", Method::GET, "/work", None, "").await;
            assert_eq!(status, 200, "{text}");
            let counts: Vec<u32> = text.split(' ').filter_map(|word| word.parse().ok()).collect();
            (done, failed, dead) = (done + counts[0], failed + counts[1], dead + counts[2]);
        }
        if done + dead == 10 { Ok(()) } else { Err(format!("{done} {failed} {dead}")) }
    })
    .await;
    assert_eq!((done, failed, dead), (9, 2, 1));
    let get = json!({ "last_by_subj": "work.dead" }).to_string();
    let letter = api.request("$JS.API.STREAM.MSG.GET.WORK", Headers::new(), get.as_bytes()).await.unwrap();
    let letter: Value = serde_json::from_slice(&letter.payload).unwrap();
    assert_eq!(letter["message"]["seq"], 11, "one dead letter: {letter}");
}
