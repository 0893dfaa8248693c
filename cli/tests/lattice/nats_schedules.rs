//! `lattice:nats/schedules`: what is stored later, against a real server: once and again and again, replaced and cancelled, and while the
//! server is killed; what a stream must be like for it; and each way around the grants.

use crate::{
    harness::{Lattice, PATIENCE, Server, api::spec, eventually, http, server::named_or_installed},
    nats::{Lines, ask, courier, done, refused},
    nats_streams::make_stream,
    profiles::{asked, refuse},
};
use hyper::Method;
use lattice::store::Headers;
use serde_json::json;
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970, so many from now.
fn from_now(ms: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    (i64::try_from(now).unwrap() + ms).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_guests_schedule_is_stored_when_it_is_due() {
    let mut lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    make_stream(&api, "TASKS", &["tasks.*", "later.*"], json!({ "allow_msg_schedules": true, "allow_msg_ttl": true }))
        .await;
    make_stream(&api, "PLAIN", &["plain.*"], json!({})).await;
    courier(
        &api,
        1,
        json!({ "streams": {
            "t": { "stream": "TASKS", "publish": ["tasks.*", "plain.*", "later.x"], "schedule": ["later.*"], "read": [">"] },
            "plain": { "stream": "PLAIN", "publish": ["plain.*"], "schedule": ["plain.*"] },
        } }),
    )
    .await;
    let node = lattice.node("n1").http();
    let of = |subject: &'static str| [("stream", "t"), ("subject", subject)];
    let mut due = Lines::of(&node, "/read", &[("stream", "t"), ("filter", "tasks.*")]).await;
    assert_eq!(due.next().await, "caught-up");

    // Once, and what was there before is replaced; what is past is due at once.
    let (soon, late, past) = (from_now(1_500), from_now(3_600_000), from_now(-60_000));
    let at = |subject: &'static str, at: &'static str| {
        let at = match at {
            "soon" => soon.as_str(),
            "late" => late.as_str(),
            _ => past.as_str(),
        };
        [("stream", "t"), ("subject", subject), ("target", "tasks.a"), ("at", at)]
    };
    assert_eq!(done(&node, "/schedule", &at("later.a", "late"), "much later").await, "1");
    let told = done(&node, "/scheduled", &of("later.a"), "").await;
    assert!(told.starts_with("1 @at ") && told.ends_with("Z tasks.a much later"), "{told}");
    assert_eq!(done(&node, "/schedule", &at("later.a", "soon"), "soon").await, "2");
    assert_eq!(due.next().await, "3 tasks.a soon");
    eventually("it is gone", PATIENCE, async || match ask(&node, "/scheduled", &of("later.a"), "").await {
        (404, _) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let past: Vec<_> = at("later.a", "past").into_iter().chain([("line", "Shape: round"), ("ttl", "60000")]).collect();
    done(&node, "/schedule", &past, "past").await;
    assert!(due.next().await.ends_with(" tasks.a past"));

    // Only where it is what is expected, and once under one name.
    let mut expecting = at("later.b", "late").to_vec();
    expecting.push(("last", "1"));
    refused(&node, "/schedule", &expecting, "wrong-sequence definitely-not").await;
    expecting.pop();
    expecting.push(("last", "0"));
    done(&node, "/schedule", &expecting, "first").await;
    refused(&node, "/schedule", &expecting, "wrong-sequence definitely-not").await;
    let named: Vec<_> = at("later.c", "soon").into_iter().chain([("id", "c-1")]).collect();
    let first = done(&node, "/schedule", &named, "named").await;
    assert_eq!(done(&node, "/schedule", &named, "named").await, format!("{first} duplicate"));
    assert!(due.next().await.ends_with(" tasks.a named"));

    // Cancelled it is not stored.
    assert_eq!(done(&node, "/cancel", &of("later.b"), "").await, "cancelled");
    assert_eq!(done(&node, "/cancel", &of("later.b"), "").await, "nothing");
    assert_eq!(ask(&node, "/scheduled", &of("later.b"), "").await.0, 404);

    // Again and again, while the server that waits is killed.
    let every = [("stream", "t"), ("subject", "later.d"), ("target", "tasks.d"), ("every", "1000")];
    done(&node, "/schedule", &every, "tick").await;
    for _ in 0..2 {
        assert!(due.next().await.ends_with(" tasks.d tick"));
    }
    lattice.server.kill9().await;
    lattice.server.start_again().await;
    loop {
        let line = due.next().await;
        if line.ends_with(" tasks.d tick") {
            break;
        }
        assert!(line.starts_with("resynchronised"), "{line}");
    }
    done(&node, "/cancel", &of("later.d"), "").await;
    let cron = |cron: &'static str| {
        [("stream", "t"), ("subject", "later.e"), ("target", "tasks.e"), ("cron", cron), ("zone", "UTC")]
    };
    done(&node, "/schedule", &cron("* * * * * *"), "by the clock").await;
    while !due.next().await.ends_with(" tasks.e by the clock") {}
    done(&node, "/cancel", &of("later.e"), "").await;

    // What is no time, and what is no place for it.
    for bad in ["30 9 * * *", "@every 1s", "@soon", "99 * * * * *"] {
        refused(&node, "/schedule", &cron(bad), "invalid(\"timing\") definitely-not").await;
    }
    let brief = [("stream", "t"), ("subject", "later.d"), ("target", "tasks.d"), ("every", "999")];
    refused(&node, "/schedule", &brief, "invalid(\"timing\") definitely-not").await;
    for (target, subject) in [("plain.a", "later.a"), ("later.x", "later.x")] {
        let arguments = [("stream", "t"), ("subject", subject), ("target", target), ("at", late.as_str())];
        refused(&node, "/schedule", &arguments, "invalid(\"message.subject\") definitely-not").await;
    }
    for path in ["/schedule", "/cancel", "/scheduled"] {
        let arguments = [("stream", "plain"), ("subject", "plain.a"), ("target", "plain.b"), ("at", late.as_str())];
        let text = refused(&node, path, &arguments, "unsupported definitely-not").await;
        assert!(text.contains("allow_msg_schedules"), "{text}");
    }
    // What is no schedule is none.
    done(&node, "/store", &[("stream", "t"), ("subject", "later.x")], "a message").await;
    refused(&node, "/scheduled", &of("later.x"), "other definitely-not").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedules_that_are_not_granted_are_neither_put_nor_removed() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    make_stream(&api, "TASKS", &["tasks.>", "later.>"], json!({ "allow_msg_schedules": true })).await;
    courier(
        &api,
        1,
        json!({ "streams": {
            "t": { "stream": "TASKS", "publish": ["tasks.*"], "schedule": ["later.*"], "read": ["tasks.*"] },
            "none": { "stream": "TASKS", "publish": [">"], "read": [">"] },
        } }),
    )
    .await;
    let node = lattice.node("n1").http();
    assert_eq!(done(&node, "/store", &[("stream", "t"), ("subject", "tasks.a")], "a task").await, "1");
    let late = from_now(3_600_000);
    let put = |stream: &'static str, subject: &'static str, target: &'static str| {
        [("stream", stream), ("subject", subject), ("target", target), ("at", late.as_str())]
    };
    // What it may store it may not replace by a schedule, nor remove.
    for (stream, subject) in [
        ("t", "tasks.a"),
        ("t", "later.a.b"),
        ("t", "later"),
        ("t", "$KV.a.b"),
        ("none", "tasks.a"),
        ("TASKS", "later.a"),
    ] {
        for path in ["/schedule", "/cancel", "/scheduled"] {
            refused(&node, path, &put(stream, subject, "tasks.b"), "denied definitely-not").await;
        }
    }
    for subject in ["later.*", "later.>", ">", "", "a b"] {
        for path in ["/schedule", "/cancel", "/scheduled"] {
            let (status, text) = ask(&node, path, &put("t", subject, "tasks.b"), "").await;
            assert!(
                status == 502 && text.starts_with("invalid(\"subject\") definitely-not"),
                "{path} {subject}: {text}"
            );
        }
    }
    // Nor store what it may not publish.
    for target in ["tasks.a.b", "later.b", "$JS.API.STREAM.DELETE.TASKS", "lattice.x", "_INBOX.x"] {
        refused(&node, "/schedule", &put("t", "later.a", target), "denied definitely-not").await;
    }
    for target in ["tasks.*", "", "tasks.>"] {
        refused(&node, "/schedule", &put("t", "later.a", target), "invalid(\"message.subject\") definitely-not").await;
    }
    for line in ["Nats-Schedule: @every 1s", "Nats-Schedule-Target: later.b", "nats-rollup: all", "Nats-Scheduler: x"] {
        let mut arguments = put("t", "later.a", "tasks.b").to_vec();
        arguments.push(("line", line));
        refused(&node, "/schedule", &arguments, "invalid(\"message.headers\") definitely-not").await;
        // No way around by a message that is stored at once, either.
        let arguments = [("stream", "t"), ("subject", "tasks.a"), ("line", line)];
        refused(&node, "/store", &arguments, "invalid(\"message.headers\") definitely-not").await;
    }
    let mut arguments = put("t", "later.a", "tasks.b").to_vec();
    arguments.push(("reply-to", "tasks.c"));
    refused(&node, "/schedule", &arguments, "invalid(\"message.reply-to\") definitely-not").await;
    let info = done(&node, "/stream", &[("stream", "t")], "").await;
    assert!(info.contains("messages: 1,") && info.contains("last-sequence: 1"), "{info}");
}

/// A server of 2.12 knows one moment, and no times that repeat.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_servers_know_one_moment() {
    let server = named_or_installed("LATTICE_NATS_SERVER_RECOMMENDED", "2.12.8");
    let lattice = Lattice::start_on(Server::start_program(server).await, "default", 1).await;
    let api = lattice.api().await;
    make_stream(&api, "TASKS", &["tasks.*", "later.*"], json!({ "allow_msg_schedules": true })).await;
    let grant = json!({ "stream": "TASKS", "publish": ["tasks.*"], "schedule": ["later.*"], "read": [">"] });
    courier(&api, 1, json!({ "streams": { "t": grant } })).await;
    let node = lattice.node("n1").http();
    let mut due = Lines::of(&node, "/read", &[("stream", "t"), ("filter", "tasks.*")]).await;
    assert_eq!(due.next().await, "caught-up");
    let schedule = |timing: (&'static str, &'static str)| {
        [("stream", "t"), ("subject", "later.a"), ("target", "tasks.a"), timing, ("id", "one")]
    };
    for timing in [("every", "1000"), ("cron", "* * * * * *")] {
        let text = refused(&node, "/schedule", &schedule(timing), "unsupported definitely-not").await;
        assert!(text.contains("2.14"), "{text}");
    }
    done(&node, "/schedule", &schedule(("at", "1")), "at once").await;
    assert!(due.next().await.ends_with(" tasks.a at once"));
}

/// The example `reminder`: what a stream must be like for it, and it reminds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reminders_need_a_stream_that_keeps_them() {
    let lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    let digest = api.upload("reminder").await;
    let grant = |profiles: &[&str]| {
        json!({ "streams": { "reminders": {
            "stream": "REMINDERS", "publish": ["due.*"], "schedule": ["later.*"], "read": ["due.*"], "profiles": profiles,
        } } })
    };
    let grants = grant(&["scheduler", "event-log"]);
    let error = refuse(&api, &asked("reminder", digest, grants.clone())).await;
    let make = "make it first: nats stream add REMINDERS --subjects='due.*,later.*' --allow-schedules --defaults";
    assert_eq!(error.hint.as_deref(), Some(make));
    let settings = json!({ "max_age": 3_600_000_000_000_u64, "max_bytes": 1_000_000, "discard": "new" });
    make_stream(&api, "REMINDERS", &["due.*", "later.*"], settings).await;
    let error = refuse(&api, &asked("reminder", digest, grants.clone())).await;
    assert_eq!(error.field.as_deref(), Some("grants.nats.streams.reminders.profiles"));
    let mend = "nats stream edit REMINDERS --allow-schedules --discard=old --max-age=0s --max-bytes=-1";
    assert_eq!(error.hint.as_deref(), Some(mend));
    api.request("$JS.API.STREAM.DELETE.REMINDERS", Headers::new(), b"").await.unwrap();
    make_stream(&api, "REMINDERS", &["due.*", "later.*"], json!({ "allow_msg_schedules": true })).await;
    let mut workload = spec("reminder", digest, 2);
    workload["grants"] = json!({ "nats": grants });
    api.put(&workload).await.unwrap();
    api.ready("reminder").await;

    let nodes = ["n1", "n2"].map(|id| lattice.node(id).http());
    let call = async |n: usize, method: Method, path: &str, headers: &[(&str, &str)], body: &str| {
        let body = http::full(body.as_bytes().to_vec());
        let response = http::send(&nodes[n], method, "reminder.test", path, headers, body).await.unwrap();
        let answer = http::whole(response).await.unwrap();
        (answer.status, answer.text().trim().to_owned())
    };
    assert_eq!(call(0, Method::POST, "/tea", &[], "the kettle").await.0, 400);
    let never = [("at", "4000000000")];
    assert_eq!(call(0, Method::POST, "/tea", &never, "the kettle").await, (200, "noted".into()));
    let (status, text) = call(1, Method::GET, "/tea", &[], "").await;
    assert_eq!((status, text.as_str()), (200, "@at 2096-10-02T07:06:40.000Z: the kettle"));
    assert_eq!(call(1, Method::DELETE, "/tea", &[], "").await, (200, "forgotten".into()));
    assert_eq!(call(0, Method::DELETE, "/tea", &[], "").await.0, 404);
    assert_eq!(call(0, Method::GET, "/tea", &[], "").await.0, 404);
    assert_eq!(call(1, Method::POST, "/bus", &[("at", "1")], "it leaves").await.0, 200);
    eventually("it reminds", PATIENCE, async || match call(0, Method::GET, "/", &[], "").await {
        (200, text) if text == "bus: it leaves" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}
