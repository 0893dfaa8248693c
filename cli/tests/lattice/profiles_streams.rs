//! Profiles of streams: what a stream of a real server lacks for them is refused when a spec is put, with what mends it, and so is a
//! component that would be denied; the host holds calls to them.

use crate::{
    harness::{Api, Lattice, PATIENCE, eventually},
    nats::{courier, done, refused, stream_api},
    nats_streams::make_stream,
    profiles::{asked, refuse},
};
use lattice::{
    ctl::{ConditionKind, Reason},
    store::Headers,
};
use serde_json::{Value, json};

/// As `nats stream edit` leaves it.
async fn edit_stream(api: &Api, name: &str, settings: Value) {
    let found = api.request(&format!("$JS.API.STREAM.INFO.{name}"), Headers::new(), b"").await.unwrap();
    let mut config: Value = serde_json::from_slice::<Value>(&found.payload).unwrap()["config"].clone();
    for (field, value) in settings.as_object().unwrap() {
        config[field] = value.clone();
    }
    stream_api(api, &format!("UPDATE.{name}"), &config.to_string()).await;
}

/// The condition `Bound` of a workload.
async fn bound(api: &Api, name: &str) -> (bool, Reason, String) {
    let mut found = None;
    eventually("the workload is known", PATIENCE, async || {
        let status = api.status(name).await.map_err(|error| error.to_string())?;
        found = status.conditions.into_iter().find(|condition| condition.kind == ConditionKind::Bound);
        Ok::<(), String>(())
    })
    .await;
    let found = found.unwrap();
    (found.status, found.reason, found.message)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_falls_short_is_refused_until_it_is_mended() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    let digest = api.upload("account").await;
    let with = |settings: Value| {
        let mut stream = json!({ "stream": "ACCOUNTS", "publish": ["accounts.*"], "read": ["accounts.*"] });
        stream.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        asked("account", digest, json!({ "streams": { "accounts": stream } }))
    };
    let store = json!({ "profiles": ["event-store"], "require": { "duplicate-window": "10m", "append-only": true } });
    let error = refuse(&api, &with(store.clone())).await;
    assert_eq!(error.field.as_deref(), Some("grants.nats.streams.accounts.stream"));
    let make = "make it first: nats stream add ACCOUNTS --subjects='accounts.*' --dupe-window=10m --deny-delete --deny-purge --defaults";
    assert_eq!(error.hint.as_deref(), Some(make));

    // Everything is wrong with it, and all of it is told.
    let wrong = json!({ "max_age": 3_600_000_000_000_u64, "max_msgs": 100, "max_bytes": 4096, "max_msg_size": 100, "max_msgs_per_subject": 9 });
    make_stream(&api, "ACCOUNTS", &["accounts.*"], wrong).await;
    let needs = json!({ "require": {
        "replicas": 3, "storage": "memory", "retention": "work", "duplicate-window": "10m", "max-age": "2h", "max-messages": 101,
        "max-bytes": "8KiB", "max-message": "1KiB", "atomic": true, "message-ttl": true, "marker-ttl": "1m", "append-only": true,
        "tags": ["ssd"], "cluster": "east",
    } });
    let error = refuse(&api, &with(needs.clone())).await;
    for field in needs["require"].as_object().unwrap().keys() {
        assert!(error.message.contains(&format!("require.{field}: ")), "{field} in {error:?}");
    }
    assert!(error.hint.unwrap().contains("make another one"));

    // Mended by what was told, it is as required.
    let error = refuse(&api, &with(store.clone())).await;
    assert_eq!(error.field.as_deref(), Some("grants.nats.streams.accounts.profiles"));
    let hint = "nats stream edit ACCOUNTS --max-age=0s --discard=new --max-msgs-per-subject=-1 --dupe-window=10m --deny-delete --deny-purge";
    assert_eq!(error.hint.as_deref(), Some(hint));
    let mended = json!({
        "max_age": 0, "discard": "new", "max_msgs_per_subject": -1, "duplicate_window": 600_000_000_000_u64,
        "deny_delete": true, "deny_purge": true,
    });
    edit_stream(&api, "ACCOUNTS", mended).await;
    api.put(&with(store)).await.unwrap();
    api.ready("account").await;
    // Changed behind its back it goes on, and says so.
    assert_eq!(bound(&api, "account").await.1, Reason::AsAsked);
    edit_stream(&api, "ACCOUNTS", json!({ "duplicate_window": 1_000_000_000_u64 })).await;
    let (status, reason, message) = bound(&api, "account").await;
    assert_eq!((status, reason), (false, Reason::StreamUnfit), "{message}");
    assert!(message.contains("nats stream edit ACCOUNTS --dupe-window=10m"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn components_and_streams_that_do_not_fit_a_profile_are_refused() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    make_stream(&api, "WORK", &["work.*"], json!({ "retention": "workqueue" })).await;
    make_stream(&api, "LOG", &["log.*"], json!({})).await;
    let [packer, account] = [api.upload("packer").await, api.upload("account").await];
    let stream = |name: &str, profile: &str| json!({ "streams": { "work": { "stream": name, "publish": ["work.*"], "profiles": [profile] } } });
    let work = "keeps what was read, and its retention is work";
    for (guest, digest, name, profile, missing) in [
        ("packer", packer, "LOG", "event-log", "`consumer` of lattice:nats/jetstream@0.1.0, which event-log has not"),
        ("account", account, "WORK", "work-queue", "`read` of lattice:nats/jetstream@0.1.0, which work-queue has not"),
        ("account", account, "WORK", "event-log", work),
        ("account", account, "WORK", "event-store", work),
    ] {
        let error = refuse(&api, &asked(guest, digest, stream(name, profile))).await;
        assert_eq!(error.field.as_deref(), Some("grants.nats.streams.work.profiles"), "{error:?}");
        assert!(error.message.contains(missing), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_held_to_the_profiles_of_their_stream() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    let settings = json!({ "allow_atomic": true, "allow_msg_ttl": true });
    for (name, subjects) in [("EVENTS", ["e.>"]), ("LOG", ["l.>"]), ("WORK", ["w.>"])] {
        make_stream(&api, name, &subjects, settings.clone()).await;
    }
    // The last one has no profile, since the component imports all there is.
    let stream = |name: &str, subject: &str, profiles: Value| json!({ "stream": name, "publish": [subject], "profiles": profiles });
    courier(
        &api,
        1,
        json!({ "streams": {
            "events": stream("EVENTS", "e.>", json!(["event-store"])),
            "log": stream("LOG", "l.>", json!(["event-log"])),
            "work": stream("WORK", "w.>", json!(["work-queue"])),
            "free": stream("LOG", "l.>", json!([])),
        } }),
    )
    .await;
    let node = lattice.node("n1").http();
    let at =
        |subject: &'static str, expect: &'static str| [("stream", "events"), ("subject", subject), ("when", expect)];
    let ttl = ("ttl", "60000");

    let text = refused(&node, "/store", &at("e.a", "none"), "invalid(\"options.precondition\") definitely-not").await;
    assert!(text.contains("event-store asks for a precondition"), "{text}");
    assert_eq!(done(&node, "/store", &at("e.a", "subject 0"), "one").await, "1");
    let [stream_of, subject, when] = at("e.b", "last 1");
    refused(&node, "/store", &[stream_of, subject, when, ttl], "invalid(\"options.ttl\") definitely-not").await;
    // Of a batch each message, by a condition of its own or by one before it that takes it in.
    for expect in ["none", "subject 0"] {
        let [stream, subject, when] = at("e.b", expect);
        let wording = "invalid(\"options.precondition\") definitely-not";
        refused(&node, "/store-all", &[stream, subject, when, ("count", "2")], wording).await;
    }
    let batch = |expect: &'static str| {
        let [stream, subject, when] = at("e.b", expect);
        [stream, subject, when, ("count", "2")]
    };
    assert_eq!(done(&node, "/store-all", &batch("last 1"), "").await, "3");
    assert_eq!(
        done(&node, "/store-all", &[batch("subject 2")[0], batch("subject 2")[1], batch("subject 2")[2]], "").await,
        "4"
    );

    let [log, work] = ["log", "work"].map(|name| ("stream", name));
    assert_eq!(done(&node, "/store", &[log, ("subject", "l.a")], "one").await, "1");
    assert_eq!(done(&node, "/store", &[work, ("subject", "w.a"), ttl], "one").await, "1");
    for path in ["/find", "/find-any", "/snapshot", "/read"] {
        let text = refused(&node, path, &[work, ("filter", "w.a")], "denied definitely-not").await;
        assert!(text.contains("work-queue has no such operation"), "{path}: {text}");
    }
    refused(&node, "/find", &[work, ("sequence", "1")], "denied definitely-not").await;
    for stream in [log, ("stream", "events")] {
        for path in ["/fetch", "/backlog"] {
            let text = refused(&node, path, &[stream, ("consumer", "c")], "denied definitely-not").await;
            assert!(text.contains("has no such operation"), "{path}: {text}");
        }
    }
}
