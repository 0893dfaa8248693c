//! Workloads that handle messages of NATS, and know the published WIT and nothing of the lattice.

use crate::harness::{Api, Lattice, PATIENCE, api::spec, eventually, http};
use futures_util::{StreamExt as _, future::join_all};
use lattice::{
    ctl::{ErrorCode, LogLine},
    store::{BusError, Headers, Message},
    subject,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

/// A workload of the guest `tasks` with these subscriptions. It has no routes.
async fn tasks(api: &Api, replicas: u32, messages: Value) -> Value {
    let mut asked = spec("tasks", api.upload("tasks").await, replicas);
    asked.as_object_mut().unwrap().remove("http");
    asked["messages"] = messages;
    asked
}

async fn ready(api: &Api, spec: &Value) {
    api.put(spec).await.unwrap();
    api.ready("tasks").await;
    // Ready is said before the subscription is with the server.
    eventually("it is subscribed", PATIENCE, async || match ask(api, "tasks.hello", "hello").await {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    })
    .await;
}

async fn ask(api: &Api, subject: &str, text: &str) -> Result<Message, BusError> {
    let payload = text.as_bytes().to_vec().into();
    api.bus().request(subject.into(), Headers::new(), payload, Duration::from_secs(5)).await
}

fn code(message: &Message) -> Option<&str> {
    message.headers.get("Nats-Service-Error-Code").map(String::as_str)
}

async fn metrics(lattice: &Lattice) -> String {
    http::get(&lattice.node("n1").admin(), "x", "/metrics").await.ok().text()
}

/// What the workload's guests print.
async fn lines(api: &Api) -> futures_util::stream::BoxStream<'static, String> {
    let all = subject::logs_of(&api.lattice, &"tasks".parse().unwrap());
    let lines = api.bus().subscribe(all, None).await.unwrap();
    api.bus().flush().await.unwrap();
    let read = |message: Message| serde_json::from_slice::<LogLine>(&message.payload).unwrap().line;
    lines.map(read).boxed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_wakes_what_rests_and_none_is_lost() {
    let lattice = Lattice::start(3).await;
    let api = lattice.api().await;
    let mut asked =
        tasks(&api, 1, json!([{ "subject": "tasks.*" }, { "subject": "tasks.*", "group": "others" }])).await;
    asked.as_object_mut().unwrap().remove("replicas");
    asked["autoscale"] = json!({ "min": 0, "max": 2, "idle": "2s" });
    api.put(&asked).await.unwrap();
    let rests = async || {
        eventually("it rests", PATIENCE, async || {
            let status = api.status("tasks").await.map_err(|error| error.to_string())?;
            if (status.replicas, status.ready) == (0, 0) { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
    };
    rests().await;
    // Who asks first waits until a replica is there, and is answered by that.
    let answer = ask(&api, "tasks.hello", "hello").await.unwrap();
    assert!(answer.payload.starts_with(b"HELLO "), "{answer:?}");

    // Many at once, for both groups, each time that it rests: each is handled once in each group.
    for round in 0..2 {
        rests().await;
        let mut printed = lines(&api).await;
        for n in 0..40 {
            let payload = format!("{round}-{n}").into();
            let message = Message { subject: "tasks.count".into(), payload, ..Default::default() };
            api.bus().publish(message).await.unwrap();
        }
        let mut handled = BTreeMap::<String, u32>::new();
        while handled.values().sum::<u32>() < 80 {
            let line = tokio::time::timeout(PATIENCE, printed.next()).await.expect("all are handled").unwrap();
            if line.starts_with("tasks.count: ") {
                *handled.entry(line).or_default() += 1;
            }
        }
        assert!(handled.len() == 40 && handled.values().all(|times| *times == 2), "{handled:?}");
    }
    rests().await;
    let refused = lattice.cli(&["explain", "tasks"]).await.stderr;
    let refused = String::from_utf8_lossy(&refused);
    assert!(refused.contains("a request starts one, or a message on tasks.*"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_message_is_handled_once_over_three_nodes_whoever_is_killed() {
    let lattice = Lattice::start(3).await;
    let api = lattice.api().await;
    ready(&api, &tasks(&api, 3, json!([{ "subject": "tasks.*" }])).await).await;
    let bus = api.bus().clone();
    let mut printed = lines(&api).await;
    for n in 0..300 {
        let message = Message { subject: "tasks.count".into(), payload: format!("{n}").into(), ..Default::default() };
        bus.publish(message).await.unwrap();
    }
    let mut handled = BTreeMap::<String, u32>::new();
    while handled.len() < 300 {
        let line = tokio::time::timeout(PATIENCE, printed.next()).await.expect("all are handled").unwrap();
        if line.starts_with("tasks.count: ") {
            *handled.entry(line).or_default() += 1;
        }
    }
    assert!(handled.values().all(|times| *times == 1), "{handled:?}");

    // Those who ask are answered by whichever node; when one is killed, by the others.
    let answers = join_all((0..100).map(|n| ask(&api, "tasks.ask", if n % 2 == 0 { "even" } else { "odd" }))).await;
    for (n, answer) in answers.into_iter().enumerate() {
        let answer = answer.unwrap();
        assert!(answer.payload.starts_with(if n % 2 == 0 { b"EVEN " } else { b"ODD " }), "{answer:?}");
    }
    lattice.node("n2").kill9().await;
    // What the server had sent to it is lost: at most once. From when it knows that the node is gone nothing is.
    eventually("the others answer all", PATIENCE, async || {
        for answer in join_all((0..60).map(|_| ask(&api, "tasks.ask", "after"))).await {
            let answer = answer.map_err(|error| error.to_string())?;
            assert!(answer.payload.starts_with(b"AFTER "), "{answer:?}");
        }
        Ok::<_, String>(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_is_answered_with_an_error_and_the_next_is_handled() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    let mut asked = tasks(&api, 1, json!([{ "subject": "tasks.*" }])).await;
    asked["limits"] = json!({ "wall": "2s", "cpu": "300ms" });
    ready(&api, &asked).await;
    eventually("an instance that did well is kept", PATIENCE, async || {
        let answer = ask(&api, "tasks.good", "ok").await.map_err(|error| error.to_string())?;
        if answer.payload.starts_with(b"OK ") && answer.payload.as_ref() != b"OK 1" {
            Ok(())
        } else {
            Err(format!("{answer:?}"))
        }
    })
    .await;
    let mut printed = lines(&api).await;
    for text in ["fail please", "trap please", "spin please"] {
        let answer = ask(&api, "tasks.bad", text).await.unwrap();
        assert_eq!((code(&answer), answer.payload.len()), (Some("500"), 0), "{text}: {answer:?}");
        assert!(answer.headers.contains_key("Nats-Service-Error"), "{answer:?}");
        assert!(!format!("{answer:?}").contains("asked to fail"), "what a guest says is for the operator: {answer:?}");
        let next = ask(&api, "tasks.good", "ok").await.unwrap();
        assert!(next.payload.starts_with(b"OK "), "after {text}: {next:?}");
    }
    let told = async {
        while let Some(line) = printed.next().await {
            if line.contains("failed on a message on tasks.bad") {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("the workload's log says so");
    // Nobody waits for an answer.
    api.bus()
        .publish(Message { subject: "tasks.bad".into(), payload: "trap".into(), ..Default::default() })
        .await
        .unwrap();
    eventually("metrics count them", PATIENCE, async || {
        let metrics = metrics(&lattice).await;
        let failed = r#"lattice_unit_messages_failed_total{workload="tasks",replica="0"} 4"#;
        if metrics.contains(failed) { Ok(()) } else { Err(metrics) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_go_to_who_asked_and_nowhere_else() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    ready(&api, &tasks(&api, 1, json!([{ "subject": "tasks.*" }])).await).await;
    let mut all = api.bus().subscribe(">".into(), None).await.unwrap();
    api.bus().flush().await.unwrap();
    let inbox = api.bus().inbox();
    for subject in ["others.a", "tasks.a", &inbox, "$JS.API.INFO"] {
        let answer = ask(&api, "tasks.a", &format!("stray {subject}")).await.unwrap();
        let text = String::from_utf8_lossy(&answer.payload).into_owned();
        assert!(text.starts_with("Err("), "{subject}: {text}");
    }
    // A client can't have a node publish where only nodes may.
    for reply in ["$JS.API.INFO", "lattice.default.ctl.workload.list", "$KV.lattice-default-state.slot.tasks.0"] {
        for payload in ["fail", "fine"] {
            let message = Message {
                subject: "tasks.a".into(),
                reply: Some(reply.into()),
                payload: payload.into(),
                ..Default::default()
            };
            api.bus().publish(message).await.unwrap();
        }
    }
    ask(&api, "tasks.a", "last").await.unwrap();
    while let Some(message) = all.next().await {
        assert_ne!(message.payload, "stray", "{message:?}");
        let is_ours = message.payload.starts_with(b"FINE ") || code(&message).is_some();
        assert!(!is_ours || message.subject.starts_with("_INBOX."), "{message:?}");
        if message.payload.starts_with(b"LAST ") {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_beyond_the_queue_is_dropped_and_told_and_a_stop_finishes_what_came() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    let mut asked = tasks(&api, 1, json!([{ "subject": "tasks.*", "concurrency": 1 }])).await;
    asked["limits"] = json!({ "queue": 2 });
    asked["grants"] = json!({ "messaging": { "publish": ["silent"] } });
    ready(&api, &asked).await;
    let _silent = api.bus().subscribe("silent".into(), None).await.unwrap();
    api.bus().flush().await.unwrap();
    let answers = join_all((0..10).map(|_| ask(&api, "tasks.slow", "wait 300 silent"))).await;
    let answers: Vec<Message> = answers.into_iter().map(Result::unwrap).collect();
    let dropped = answers.iter().filter(|answer| code(answer) == Some("503")).count();
    let handled = answers.iter().filter(|answer| answer.payload.starts_with(b"WAIT ")).count();
    // One may be at its end still when the first of them comes.
    assert!(handled >= 2 && dropped >= 5 && handled + dropped == 10, "{handled} handled, {dropped} dropped");
    eventually("metrics count them", PATIENCE, async || {
        let metrics = metrics(&lattice).await;
        let counted = format!(r#"lattice_unit_messages_dropped_total{{workload="tasks",replica="0"}} {dropped}"#);
        if metrics.contains(&counted) { Ok(()) } else { Err(metrics) }
    })
    .await;
    // Deleted while three are on their way: they are done first, and then nobody listens.
    let (first, second) = (ask(&api, "tasks.slow", "wait 400 silent"), ask(&api, "tasks.slow", "wait 400 silent"));
    let deleting = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        api.delete("tasks").await.unwrap();
    };
    let (first, second, ()) = tokio::join!(first, second, deleting);
    for answer in [first, second] {
        assert!(answer.as_ref().unwrap().payload.starts_with(b"WAIT "), "{answer:?}");
    }
    eventually("nobody listens", PATIENCE, async || match ask(&api, "tasks.slow", "gone").await {
        Err(BusError::NoResponders { .. }) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_come_back_with_nats() {
    let mut lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    ready(&api, &tasks(&api, 2, json!([{ "subject": "tasks.*" }])).await).await;
    lattice.server.kill9().await;
    lattice.server.start_again().await;
    let api = lattice.api().await;
    eventually("messages are handled again", PATIENCE, async || match ask(&api, "tasks.a", "again").await {
        Ok(answer) if answer.payload.starts_with(b"AGAIN ") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spec_that_does_not_fit_its_component_is_refused() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    let messages = json!([{ "subject": "tasks.*" }]);
    let mut handler_less = tasks(&api, 1, messages.clone()).await;
    handler_less["components"] = spec("tasks", api.upload("hello-http02").await, 1)["components"].clone();
    let mut asked_over_http = tasks(&api, 1, messages.clone()).await;
    asked_over_http["http"] = json!({ "routes": [{ "host": "tasks.test" }] });
    let without = tasks(&api, 1, json!([])).await;
    for (asked, says) in [
        (handler_less, "does not export wasmcloud:messaging/handler@0.2"),
        (asked_over_http, "cannot answer HTTP"),
        (without, "cannot answer HTTP; it exports wasmcloud:messaging/handler@0.2.0"),
    ] {
        let refused = api.put(&asked).await.unwrap_err();
        assert_eq!((refused.code, refused.field.as_deref()), (ErrorCode::BadComponent, Some("components[0].source")));
        assert!(refused.message.contains(says), "{refused:?}");
    }
    for subject in ["*.a", "lattice.default.>", "$SYS.>"] {
        let refused = api.put(&tasks(&api, 1, json!([{ "subject": subject }])).await).await.unwrap_err();
        assert_eq!((refused.code, refused.field.as_deref()), (ErrorCode::Invalid, Some("messages[0].subject")));
    }
}
