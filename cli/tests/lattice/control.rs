//! What the control interface answers, and what it leaves in the store.

use crate::harness::{
    Api, PATIENCE,
    api::{holders, reply, spec, to_headers},
    eventually, shared,
};
use lattice::{
    ctl::{
        ErrorCode, HEADER_DRY_RUN, HEADER_ERROR, HEADER_ERROR_CODE, HEADER_EXPECTED_REVISION, PutReply, StatusReply,
        WorkloadState,
    },
    id::{Digest, Generation},
    limits::COMPONENT_BYTES_MAX,
    record::{Record as _, Slot},
    store::{Bucket, Headers},
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[tokio::test]
async fn what_is_wrong_with_a_spec_is_named_with_the_remedy_and_nothing_is_written() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let good = api.upload("hello-http02").await;
    let put = async |bytes: &[u8]| api.platform.artifacts.put(bytes.to_vec().into()).await.unwrap();
    let garbage = put(b"not wasm at all").await;
    let module = put(b"\0asm\x01\0\0\0").await;
    let hollow = put(b"\0asm\x0d\0\x01\0").await;
    let absent = Digest::of(b"nobody uploaded this");

    let c = format!("components: [{{name: main, source: '{good}'}}]");
    let with = |digest: Digest| format!("name: bad\ncomponents: [{{name: main, source: '{digest}'}}]");
    let invalid = ErrorCode::Invalid;
    let cases: Vec<(String, ErrorCode, &str, &str)> = vec![
        (String::new(), invalid, "", "empty"),
        ("{".into(), invalid, "", "fragment"),
        ("@hello.yaml".into(), invalid, "", "fragment"),
        ("- bad".into(), invalid, "", "not a mapping"),
        ("name: [".into(), invalid, "", "not YAML"),
        ("{\"name\": \"bad\",}".into(), invalid, "", ""),
        ("name: bad".into(), invalid, "", "missing field `components`"),
        (c.clone(), invalid, "", "missing field `name`"),
        (format!("name: Bad\n{c}"), invalid, "name", "only a-z"),
        (format!("name: {}\n{c}", "b".repeat(64)), invalid, "name", "at most 63"),
        (format!("name: 'bad.*'\n{c}"), invalid, "name", "only a-z"),
        (format!("name: bad\n{c}\nreplica: 2"), invalid, "replica", "unknown field"),
        (format!("name: bad\n{c}\nreplicas: two"), invalid, "replicas", "is text"),
        (format!("name: bad\n{c}\nreplicas: 10001"), invalid, "replicas", "more than 10000"),
        ("name: bad\ncomponents: []".into(), invalid, "components", "needs a component"),
        (
            format!("name: bad\ncomponents: [{{name: main, source: '{good}', sauce: 1}}]"),
            invalid,
            "components[0].sauce",
            "unknown field",
        ),
        (
            "name: bad\ncomponents: [{name: main, source: 'http://x'}]".into(),
            invalid,
            "components[0].source",
            "not a source",
        ),
        (
            "name: bad\ncomponents: [{name: main, source: 'file:./x.wasm'}]".into(),
            invalid,
            "components[0].source",
            "no node can see",
        ),
        (
            "name: bad\ncomponents: [{name: main, source: 'sha256:12'}]".into(),
            invalid,
            "components[0].source",
            "64 hexadecimal",
        ),
        (format!("name: bad\n{c}\nlimits: {{memory: 12MB}}"), invalid, "limits.memory", "not a size"),
        (format!("name: bad\n{c}\nlimits: {{wall: 0s}}"), invalid, "limits.wall", "more than zero"),
        (format!("name: bad\n{c}\nhttp: {{routes: [{{host: 'a b'}}]}}"), invalid, "http.routes[0].host", "not a host"),
        (
            format!("name: bad\n{c}\nhttp: {{routes: [{{host: a, path: b}}]}}"),
            invalid,
            "http.routes[0].path",
            "not a path",
        ),
        (format!("name: bad\n{c}\nhttp: {{routes: [{{host: a}}, {{host: A.}}]}}"), invalid, "http.routes[1]", "twice"),
        (
            format!("name: bad\n{c}\nplacement: {{require: [zone = x]}}"),
            invalid,
            "placement.require[0]",
            "not a requirement",
        ),
        (format!("name: bad\n{c}\nreuse: {{requests: 0}}"), invalid, "reuse.requests", "at least 1"),
        (
            format!("name: bad\n{c}\nreuse: {{concurrency: 4}}"),
            ErrorCode::BadComponent,
            "reuse.concurrency",
            "run one request at a time",
        ),
        (format!("name: bad\nx: {}{}", "[".repeat(40), "]".repeat(40)), invalid, "", "nested deeper"),
        (format!("name: {}", "b".repeat(300_000)), invalid, "", "bytes long"),
        (with(absent), ErrorCode::BadComponent, "components[0].source", "not in the object store"),
        (with(garbage), ErrorCode::BadComponent, "components[0].source", ""),
        (with(module), ErrorCode::BadComponent, "components[0].source", "component"),
        (with(hollow), ErrorCode::BadComponent, "components[0].source", ""),
    ];
    let mut lacking = Vec::new();
    for (text, code, field, says) in &cases {
        let shown: String = text.chars().take(200).collect();
        let message = api.request("lattice.default.ctl.workload.put", Headers::new(), text.as_bytes()).await.unwrap();
        let error = reply::<PutReply>(&message).expect_err(&shown);
        assert_eq!((error.code, error.field.as_deref().unwrap_or_default()), (*code, *field), "{shown}: {error:?}");
        assert!(error.message.contains(says) && !error.message.is_empty(), "{shown}: {error:?} does not say {says:?}");
        // Clients that know micro services and not us see it in the headers.
        let header = |name: &str| message.headers.get(name).map(String::as_str).unwrap_or_default();
        assert_eq!(header(HEADER_ERROR_CODE), code.status().to_string(), "{shown}");
        assert!(header(HEADER_ERROR).contains(&*error.message.replace(['\r', '\n'], " ")), "{shown}: {message:?}");
        if error.hint.as_deref().is_none_or(str::is_empty) {
            lacking.push(format!("{shown}: {error}"));
        }
    }
    assert_eq!(lacking, Vec::<String>::new(), "errors without a hint");
    // Not UTF-8.
    let message = api.request("lattice.default.ctl.workload.put", Headers::new(), b"name: \xff").await.unwrap();
    assert!(reply::<PutReply>(&message).unwrap_err().message.contains("UTF-8"));

    assert_eq!(api.get("bad").await.unwrap_err().code, ErrorCode::NotFound);
    let keys = api.snapshot(Bucket::Specs).await.entries.into_iter().map(|entry| entry.key);
    assert_eq!(keys.filter(|key| key.contains("bad")).collect::<Vec<_>>(), Vec::<String>::new());
}

/// Whoever may write to the object store may describe an object as it likes.
#[tokio::test]
async fn a_component_that_is_too_large_is_refused_before_a_byte_is_read() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let digest = Digest::of(b"larger than a component may be");
    let bucket = "lattice-default-artifacts";
    let size = COMPONENT_BYTES_MAX + 1;
    let about = json!({ "name": digest.to_hex(), "bucket": bucket, "nuid": "none", "size": size, "chunks": 1025 });
    let subject = format!("$O.{bucket}.M.{}", data_encoding::BASE64URL.encode(digest.to_hex().as_bytes()));
    let stored = api.request(&subject, Headers::new(), about.to_string().as_bytes()).await.unwrap();
    assert!(String::from_utf8_lossy(&stored.payload).contains("\"seq\""), "{stored:?}");

    let error = api.put(&spec("large", digest, 1)).await.unwrap_err();
    assert_eq!((error.code, error.field.as_deref()), (ErrorCode::BadComponent, Some("components[0].source")));
    assert!(error.message.contains(&format!("{size} bytes are more than {COMPONENT_BYTES_MAX}")), "{error:?}");
    assert!(error.hint.as_deref().is_some_and(|hint| hint.contains("strip")), "{error:?}");
    assert_eq!(api.get("large").await.unwrap_err().code, ErrorCode::NotFound);
}

#[tokio::test]
async fn a_route_belongs_to_one_workload() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let digest = api.upload("hello-http02").await;
    api.deploy("owner", "hello-http02", 1).await;
    let mut thief = spec("thief", digest, 1);
    thief["http"]["routes"][0]["host"] = "OWNER.test".into();
    // Any node answers; each knows by its view, which may lag by a moment.
    let error = eventually("the route is known to be taken", PATIENCE, async || match api.put(&thief).await {
        Err(error) => Ok(error),
        Ok(_) => Err(format!("{:?}", api.delete("thief").await)),
    })
    .await;
    assert_eq!((error.code, error.field.as_deref()), (ErrorCode::Conflict, Some("http.routes[0]")));
    assert!(error.message.contains("owner") && error.hint.is_some(), "{error:?}");
}

#[tokio::test]
async fn a_put_is_idempotent_and_can_be_conditional_or_dry() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let digest = api.upload("hello-http02").await;
    let asked = spec("kept", digest, 1);

    // Dry: a plan, and nothing written.
    let dry = api.put_with(&asked, &[(HEADER_DRY_RUN, "true")]).await.unwrap();
    let plan = dry.plan.unwrap();
    assert_eq!((plan.len(), plan[0].stays, plan[0].node.is_some()), (1, false, true), "{plan:?}");
    assert!(dry.changed);
    assert_eq!(api.get("kept").await.unwrap_err().code, ErrorCode::NotFound);

    // Only if there is none.
    let first = api.put_with(&asked, &[(HEADER_EXPECTED_REVISION, "0")]).await.unwrap();
    assert_eq!((first.changed, first.generation), (true, Generation::FIRST));
    let again = api.put_with(&asked, &[(HEADER_EXPECTED_REVISION, "0")]).await.unwrap_err();
    assert_eq!(again.code, ErrorCode::Conflict);
    assert!(again.message.contains(&first.revision.to_string()) && again.hint.is_some(), "{again:?}");

    // The same, however it is written.
    api.ready("kept").await;
    let yaml = format!(
        "# a comment\nhttp: {{routes: [{{host: KEPT.test., path: /}}]}}\nname: kept\nreplicas: 1\ncomponents:\n  - name: main\n    source: {digest}\n"
    );
    let message = api.request("lattice.default.ctl.workload.put", Headers::new(), yaml.as_bytes()).await.unwrap();
    let same: PutReply = reply(&message).unwrap();
    assert_eq!(
        (same.changed, same.revision, same.generation, same.hash),
        (false, first.revision, first.generation, first.hash)
    );

    // Another, at the revision that was seen; then not again at that one.
    let revision = first.revision.to_string();
    let expected = [(HEADER_EXPECTED_REVISION, revision.as_str())];
    let mut changed = asked.clone();
    changed["components"][0]["env"] = json!({ "COLOUR": "red" });
    let second = api.put_with(&changed, &expected).await.unwrap();
    assert_eq!((second.changed, second.generation), (true, Generation(2)));
    assert_eq!(api.put_with(&asked, &expected).await.unwrap_err().code, ErrorCode::Conflict);
    let bad = api.put_with(&asked, &[(HEADER_EXPECTED_REVISION, "two")]).await.unwrap_err();
    assert_eq!((bad.code, bad.field.as_deref()), (ErrorCode::Invalid, Some(HEADER_EXPECTED_REVISION)));

    // Back, as a new generation, and it is what runs.
    api.ready("kept").await;
    lattice.serving("kept.test", "/env/COLOUR").await;
    let back = api.rollback("kept").await.unwrap();
    assert_eq!((back.changed, back.generation, back.hash), (true, Generation(3), first.hash));
    api.ready("kept").await;
    lattice.nodes[0].answers("kept.test", "/env/COLOUR", (404, "")).await;
}

async fn state_of(api: &Api, name: &str, state: WorkloadState) -> StatusReply {
    eventually(&format!("{name} is {state:?}"), PATIENCE, async || {
        let status = api.status(name).await.map_err(|error| error.to_string())?;
        if status.state == state { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await
}

/// The nonce of each slot of a workload: another one means that it was claimed anew.
async fn claims(api: &Api, name: &str) -> BTreeMap<String, (String, uuid::Uuid)> {
    let prefix = format!("slot.{name}.");
    let entries = api.snapshot(Bucket::State).await.entries.into_iter().filter(|entry| entry.key.starts_with(&prefix));
    let claim = |value: &[u8]| Slot::decode(value).map(|slot| (slot.holder.node.to_string(), slot.nonce)).unwrap();
    entries.map(|entry| (entry.key, claim(&entry.value))).collect()
}

#[tokio::test]
async fn scaling_moves_nothing_and_deleting_leaves_nothing() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let mut asked = spec("scaled", api.upload("hello-http02").await, 1);
    // How long a request waits for a replica where there is none.
    asked["http"]["routes"][0]["timeout"] = "500ms".into();
    api.put(&asked).await.unwrap();
    let one = api.ready("scaled").await;
    let first = claims(&api, "scaled").await;
    assert_eq!(first.len(), 1);
    lattice.serving("scaled.test", "/").await;

    api.scale("scaled", 3).await.unwrap();
    let three = api.ready("scaled").await;
    let second = claims(&api, "scaled").await;
    assert_eq!(holders(&three)[0], holders(&one)[0]);
    assert_eq!(second.get("slot.scaled.0"), first.get("slot.scaled.0"), "replica 0 was claimed again");
    let nodes: std::collections::BTreeSet<_> = holders(&three).into_iter().collect();
    assert_eq!(nodes.len(), 3, "{three:?}");

    api.scale("scaled", 2).await.unwrap();
    let third = eventually("replica 2 is gone", PATIENCE, async || {
        let claims = claims(&api, "scaled").await;
        if claims.len() == 2 { Ok(claims) } else { Err(format!("{claims:?}")) }
    })
    .await;
    for key in ["slot.scaled.0", "slot.scaled.1"] {
        assert_eq!(third.get(key), second.get(key), "{key} was claimed again");
    }

    api.scale("scaled", 0).await.unwrap();
    eventually("nothing runs", PATIENCE, async || match claims(&api, "scaled").await.len() {
        0 => Ok(()),
        count => Err(count),
    })
    .await;
    state_of(&api, "scaled", WorkloadState::Idle).await;
    lattice.nodes[0].answers("scaled.test", "/", (503, "not-ready")).await;
    let error = api.scale("scaled", 10_001).await.unwrap_err();
    assert_eq!((error.code, error.field.as_deref()), (ErrorCode::Invalid, Some("replicas")));

    api.scale("scaled", 3).await.unwrap();
    api.ready("scaled").await;
    assert!(api.delete("scaled").await.unwrap().deleted);
    assert!(!api.delete("scaled").await.unwrap().deleted, "deleting again is no error, and says so");
    eventually("its slots are gone", PATIENCE, async || match api.slots("scaled").await {
        slots if slots.is_empty() => Ok(()),
        slots => Err(format!("{slots:?}")),
    })
    .await;
    let specs = api.snapshot(Bucket::Specs).await.entries;
    assert!(specs.iter().all(|entry| entry.key != "spec.scaled"));
    assert_eq!(api.get("scaled").await.unwrap_err().code, ErrorCode::NotFound);
    for node in &lattice.nodes {
        node.answers("scaled.test", "/", (404, "no-route")).await;
    }
    // Another life of the name begins at generation 1, and its history tells both.
    let reborn = api.submit("scaled", "hello-http02", 1).await;
    assert_eq!(reborn.generation, Generation::FIRST);
}

#[tokio::test]
async fn a_replica_that_no_node_may_run_says_why() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let mut asked = spec("picky", api.upload("hello-http02").await, 1);
    asked["placement"] = json!({ "require": ["zone == moon"] });
    asked["http"]["routes"][0]["timeout"] = "500ms".into();
    api.put(&asked).await.unwrap();
    let status = state_of(&api, "picky", WorkloadState::Degraded).await;
    let refused = &status.slots[0].refused;
    assert_eq!(refused.len(), 3, "{status:?}");
    assert!(refused.iter().all(|refusal| refusal.reason.contains("zone")), "{refused:?}");
    lattice.nodes[0].answers("picky.test", "/", (503, "not-ready")).await;
    // Which is no reason to wait once it may.
    asked["placement"] = json!({ "require": ["zone != moon"] });
    api.put(&asked).await.unwrap();
    api.ready("picky").await;
}

#[tokio::test]
async fn every_operation_answers_and_an_unknown_one_too() {
    let lattice = shared().await;
    let api = lattice.api().await;
    api.deploy("known", "hello-http02", 1).await;
    let ask = async |operation: &str, headers: &[(&str, &str)]| {
        let subject = format!("lattice.default.ctl.{operation}");
        let message =
            api.request(&subject, to_headers(headers), b"").await.unwrap_or_else(|error| panic!("{subject}: {error}"));
        serde_json::from_slice::<Value>(&message.payload).unwrap()
    };
    assert_eq!(ask("workload.schema", &[]).await["ok"]["title"], "WorkloadSpec");
    assert_eq!(ask("workload.get.known", &[]).await["ok"]["spec"]["name"], "known");
    eventually("every node calls it ready", PATIENCE, async || {
        let reply = ask("workload.status.known", &[]).await;
        if reply["ok"]["state"] == "ready" { Ok(()) } else { Err(reply) }
    })
    .await;
    assert_eq!(ask("workload.history.known", &[]).await["ok"][0]["put"]["generation"], 1);
    assert_eq!(ask("node.get.n2", &[]).await["ok"]["node"], "n2");
    for (operation, code) in [
        ("workload.explode", "unknown-operation"),
        ("workload.explode.known", "unknown-operation"),
        ("workload.get.Known", "unknown-operation"),
        ("node.reboot.n1", "unknown-operation"),
        ("workload.get.unknown", "not-found"),
        ("workload.status.unknown", "not-found"),
        ("workload.history.unknown", "not-found"),
        ("workload.rollback.unknown", "not-found"),
        ("workload.rollback.known", "not-found"),
        ("workload.rollout.known", "invalid"),
        ("workload.scale.known", "invalid"),
        ("node.get.n9", "not-found"),
    ] {
        let error = &ask(operation, &[]).await["error"];
        assert_eq!(error["code"], code, "{operation}: {error}");
        assert!(error["message"].is_string() && error["hint"].is_string(), "{operation}: {error}");
    }
}
