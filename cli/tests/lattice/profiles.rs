//! Profiles of `lattice:nats`: what a bucket of a real server lacks for them is refused when a spec is put, with what mends it, and
//! so is a component that would be denied; the host holds calls to them.

use crate::{
    harness::{Api, Lattice, PATIENCE, api::spec, eventually},
    nats::{ask, courier, done, make_bucket, refused, stream_api},
};
use lattice::{
    ctl::{ConditionKind, CtlError, ErrorCode, HEADER_DRY_RUN, Reason},
    store::Headers,
};
use serde_json::{Value, json};

/// The bucket of `make_bucket` with other settings, as `nats stream edit` leaves it.
async fn edit_bucket(api: &Api, name: &str, settings: Value) {
    let found = api.request(&format!("$JS.API.STREAM.INFO.KV_{name}"), Headers::new(), b"").await.unwrap();
    let mut config: Value = serde_json::from_slice::<Value>(&found.payload).unwrap()["config"].clone();
    for (field, value) in settings.as_object().unwrap() {
        config[field] = value.clone();
    }
    stream_api(api, &format!("UPDATE.KV_{name}"), &config.to_string()).await;
}

pub(crate) fn asked(guest: &str, digest: lattice::id::Digest, nats: Value) -> Value {
    let mut asked = spec(guest, digest, 1);
    asked["grants"] = json!({ "nats": nats });
    asked
}

/// Refused as invalid, whether it is a dry run or not, and nothing is there afterwards.
pub(crate) async fn refuse(api: &Api, asked: &Value) -> CtlError {
    let error = api.put_with(asked, &[(HEADER_DRY_RUN, "true")]).await.unwrap_err();
    assert_eq!(api.put(asked).await.unwrap_err(), error);
    assert_eq!(error.code, ErrorCode::Invalid, "{error:?}");
    error
}

/// The condition `Bound` of a workload.
async fn bound(api: &Api, name: &str) -> (bool, Reason) {
    let mut found = None;
    eventually("the workload is known", PATIENCE, async || {
        let status = api.status(name).await.map_err(|error| error.to_string())?;
        found = status.conditions.into_iter().find(|condition| condition.kind == ConditionKind::Bound);
        Ok::<(), String>(())
    })
    .await;
    let found = found.unwrap();
    let mends = "grants.nats.buckets.b.profiles: the KV bucket shop is not as required";
    assert!(
        found.status || found.message.starts_with(mends) && found.message.contains("nats stream edit KV_shop"),
        "{found:?}"
    );
    (found.status, found.reason)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_falls_short_is_refused_until_it_is_mended() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    let digest = api.upload("courier").await;
    let with = |settings: Value| {
        let mut bucket = json!({ "bucket": "shop" });
        for (field, value) in settings.as_object().unwrap() {
            bucket[field] = value.clone();
        }
        // A second one without profiles: the component imports what no profile has.
        asked("courier", digest, json!({ "buckets": { "b": bucket, "free": { "bucket": "free" } } }))
    };
    make_bucket(&api, "free", json!({})).await;

    let cache = json!({ "profiles": ["kv-cache"], "require": { "storage": "file", "max-bytes": "1MiB" } });
    let error = refuse(&api, &with(cache.clone())).await;
    assert_eq!(error.field.as_deref(), Some("grants.nats.buckets.b.bucket"));
    let hint = "make it first: nats kv add shop --storage=file --marker-ttl=1h --max-bucket-size=1048576";
    assert_eq!(error.hint.as_deref(), Some(hint));

    make_bucket(&api, "shop", json!({ "max_bytes": 1024, "max_age": 60_000_000_000_u64, "max_msg_size": 100 })).await;
    let needs = json!({ "require": {
        "replicas": 3, "storage": "memory", "history": 7, "max-age": "2m", "key-ttl": true, "marker-ttl": "1m", "max-value": "1KiB",
        "max-bytes": "1MiB", "tags": ["ssd"], "cluster": "east",
    } });
    let error = refuse(&api, &with(needs)).await;
    for field in [
        "replicas",
        "storage",
        "history",
        "max-age",
        "key-ttl",
        "marker-ttl",
        "max-value",
        "max-bytes",
        "tags",
        "cluster",
    ] {
        assert!(error.message.contains(&format!("require.{field}: ")), "{field} in {error:?}");
    }
    assert!(error.hint.unwrap().contains("make another one"));

    // Mended by what was told, it is as required.
    let error = refuse(&api, &with(cache.clone())).await;
    assert_eq!(error.field.as_deref(), Some("grants.nats.buckets.b.profiles"));
    let hint = "nats stream edit KV_shop --allow-msg-ttl --subject-del-markers-ttl=1h --max-msgs-per-subject=1 --max-bytes=1048576";
    assert_eq!(error.hint.as_deref(), Some(hint));
    let mended = json!({
        "allow_msg_ttl": true, "subject_delete_marker_ttl": 3_600_000_000_000_u64, "max_msgs_per_subject": 1, "max_bytes": 1 << 20,
    });
    edit_bucket(&api, "shop", mended).await;
    api.put(&with(cache)).await.unwrap();
    // Changed behind its back it goes on, and says so.
    assert_eq!(bound(&api, "courier").await, (true, Reason::AsAsked));
    edit_bucket(&api, "shop", json!({ "max_msgs_per_subject": 3 })).await;
    assert_eq!(bound(&api, "courier").await, (false, Reason::BucketUnfit));
    edit_bucket(&api, "shop", json!({ "max_msgs_per_subject": 1 })).await;
    assert_eq!(bound(&api, "courier").await, (true, Reason::AsAsked));

    // What expires without a marker is no bucket for who watches.
    make_bucket(&api, "fleeting", json!({ "max_age": 60_000_000_000_u64 })).await;
    let watcher = json!({ "bucket": "fleeting", "profiles": ["kv-watcher"] });
    let tail = asked("tail", api.upload("tail").await, json!({ "buckets": { "carts": watcher } }));
    let error = refuse(&api, &tail).await;
    assert_eq!(error.field.as_deref(), Some("grants.nats.buckets.carts.profiles"));
    assert!(error.message.contains("leaves no marker"), "{error:?}");
    edit_bucket(&api, "fleeting", json!({ "allow_msg_ttl": true, "subject_delete_marker_ttl": 3_600_000_000_000_u64 }))
        .await;
    api.put(&tail).await.unwrap();
    api.ready("tail").await;

    // The server itself.
    let large = asked("courier", digest, json!({ "publish": ["a"], "require": { "max-payload": "8MiB" } }));
    let error = refuse(&api, &large).await;
    assert_eq!(error.field.as_deref(), Some("grants.nats.require.max-payload"));
    assert!(error.message.contains("8MiB") && error.message.contains("carries 1MiB"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_that_would_be_denied_is_refused() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    make_bucket(&api, "carts", json!({})).await;
    let [courier, tail] = [api.upload("courier").await, api.upload("tail").await];
    let carts = |profile: &str| json!({ "buckets": { "carts": { "bucket": "carts", "profiles": [profile] } } });
    for (guest, digest, nats, field, missing) in [
        (
            "tail",
            tail,
            carts("kv-reader"),
            "buckets.carts.profiles",
            "`watch` of lattice:nats/kv@0.1.0, which kv-reader",
        ),
        ("courier", courier, carts("kv-watcher"), "buckets.carts.profiles", "which kv-watcher has not"),
        (
            "courier",
            courier,
            json!({ "publish": ["a"], "profiles": ["publisher"] }),
            "profiles",
            "which publisher has not",
        ),
        ("courier", courier, json!({ "profiles": ["subscriber"] }), "subscribe", "needs a subject"),
    ] {
        let error = refuse(&api, &asked(guest, digest, nats)).await;
        assert_eq!(error.field, Some(format!("grants.nats.{field}")), "{error:?}");
        assert!(error.message.contains(missing), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_held_to_the_profiles_of_their_bucket() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    let ttl = json!({ "allow_msg_ttl": true, "max_msgs_per_subject": 1 });
    for (name, settings) in [("cas", json!({})), ("cache", ttl), ("read", json!({})), ("free", json!({}))] {
        make_bucket(&api, name, settings).await;
    }
    let bucket = |name: &str, profiles: &[&str]| json!({ "bucket": name, "profiles": profiles });
    let buckets = json!({
        "cas": bucket("cas", &["kv-cas"]),
        "cache": bucket("cache", &["kv-cache"]),
        "read": bucket("read", &["kv-reader"]),
        "both": bucket("cache", &["kv-cache", "kv-watcher", "kv-cas"]),
        "free": bucket("free", &[]),
    });
    // What expires in it leaves no marker, so nobody could be told.
    let mut refused_first = asked("courier", api.upload("courier").await, json!({ "buckets": buckets }));
    let error = refuse(&api, &refused_first).await;
    assert_eq!(error.field.as_deref(), Some("grants.nats.buckets.both.profiles"));
    refused_first["grants"]["nats"]["buckets"]["both"] = bucket("cas", &["kv-watcher", "kv-cas"]);
    courier(&api, 1, refused_first["grants"]["nats"].clone()).await;
    let node = lattice.node("n1").http();
    let [cas, cache, read, both] = ["cas", "cache", "read", "both"].map(|name| ("bucket", name));
    let key = ("key", "k");

    for path in ["/put", "/increment", "/watch"] {
        let text = refused(&node, path, &[cas, key], "denied definitely-not").await;
        assert!(text.contains("kv-cas has no such operation"), "{text}");
    }
    for path in ["/delete", "/purge"] {
        refused(&node, path, &[cas, key], "invalid(\"revision\") definitely-not").await;
    }
    assert_eq!(done(&node, "/create", &[cas, key], "one").await, "1");
    assert_eq!(done(&node, "/update", &[cas, key, ("revision", "1")], "two").await, "2");
    assert_eq!(done(&node, "/get", &[cas, key], "").await, "2 two");
    assert_eq!(done(&node, "/delete", &[cas, key, ("revision", "2")], "").await, "3");

    for path in ["/put", "/create"] {
        refused(&node, path, &[cache, key], "invalid(\"ttl\") definitely-not").await;
    }
    refused(&node, "/increment", &[cache, key], "denied definitely-not").await;
    assert_eq!(done(&node, "/put", &[cache, key, ("ttl", "1000")], "short").await, "1");
    assert_eq!(done(&node, "/put", &[cache, key, ("ttl", "1000")], "again").await, "2");
    eventually("it expires, and no older one takes its place", PATIENCE, async || {
        match ask(&node, "/get", &[cache, key], "").await {
            (404, _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(done(&node, "/put", &[cache, key, ("ttl", "60000")], "long").await, "3");
    assert_eq!(done(&node, "/delete", &[cache, key], "").await, "4");

    for path in ["/put", "/create", "/update", "/delete", "/purge", "/increment", "/watch"] {
        refused(&node, path, &[read, key, ("revision", "1"), ("ttl", "60000")], "denied definitely-not").await;
    }
    assert_eq!(done(&node, "/keys", &[read], "").await, "");
    // Two of them together are what each one has.
    assert_eq!(done(&node, "/create", &[both, key], "three").await, "4");
    assert!(done(&node, "/watch", &[both, ("count", "1")], "").await.contains("put k three"));
    refused(&node, "/put", &[both, key], "denied definitely-not").await;
}
