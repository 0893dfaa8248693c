//! Configuration by name, over real nodes: it may come after the workload, a change reaches what runs without a failed
//! request, and it survives everybody. Conditions say at each moment what is so.

use crate::harness::{
    Api, Lattice, PATIENCE,
    api::{spec, to_headers},
    eventually,
    load::Load,
    shared,
};
use lattice::{
    ctl::{ConditionKind, ConfigItem, CtlError, ErrorCode, Reason, StatusReply},
    id::{ConfigName, Generation},
    record::RolloutState,
    subject::{ConfigVerb, Topic},
};
use serde_json::{Value, json};

async fn put(api: &Api, name: &str, entries: Value) -> ConfigItem {
    let topic = Topic::Config(ConfigVerb::Put, ConfigName::new(name).unwrap());
    let body = json!({ "entries": entries }).to_string();
    api.ask(topic, to_headers(&[]), body.as_bytes()).await.unwrap()
}

/// A workload of the guest that answers its configuration.
async fn asked(api: &Api, name: &str, replicas: u32, update: &str) -> Value {
    let mut asked = spec(name, api.upload("config").await, replicas);
    asked["components"][0]["config-from"] = json!([format!("{name}-base"), format!("{name}-more")]);
    asked["components"][0]["config"] = json!({"written": "here"});
    asked["config-update"] = json!(update);
    asked
}

async fn until(api: &Api, name: &str, kind: ConditionKind, reason: Reason) -> StatusReply {
    eventually(&format!("{name} is {kind:?} for {reason:?}"), PATIENCE, async || {
        let status = api.status(name).await.map_err(|error| error.to_string())?;
        let found = status.conditions.iter().any(|condition| condition.kind == kind && condition.reason == reason);
        if found { Ok(status) } else { Err(format!("{:?}", status.conditions)) }
    })
    .await
}

/// Every node answers this.
async fn all_answer(lattice: &Lattice, host: &str, path: &str, body: &str) {
    for node in &lattice.nodes {
        eventually(&format!("{host}{path} is {body}"), PATIENCE, async || {
            let answer = node.get(host, path).await;
            if (answer.status, answer.text().as_str()) == (200, body) { Ok(()) } else { Err(answer.text()) }
        })
        .await;
    }
}

#[tokio::test]
async fn configuration_may_come_later_and_changes_reach_what_runs() {
    let lattice = shared().await;
    let api = lattice.api().await;
    put(&api, "late-base", json!({"a": "1", "b": "1", "written": "there"})).await;
    api.put(&asked(&api, "late", 3, "watch").await).await.unwrap();
    let status = until(&api, "late", ConditionKind::Ready, Reason::ConfigMissing).await;
    let ready = status.conditions.iter().find(|condition| condition.kind == ConditionKind::Ready).unwrap();
    assert_eq!((ready.status, ready.message.as_str()), (false, "there is no config late-more"));

    put(&api, "late-more", json!({"b": "2"})).await;
    let status = api.ready("late").await;
    assert!(status.conditions.iter().all(|condition| condition.since.is_some()), "{:?}", status.conditions);
    lattice.serving("late.test", "/").await;
    all_answer(&lattice, "late.test", "/", "a=1\nb=2\nwritten=here\n").await;

    let load = Load::start(lattice.nodes.iter().map(|node| node.http()), "late.test", "/a");
    let changed = put(&api, "late-base", json!({"a": "5"})).await;
    assert_eq!((changed.version, changed.changed), (Generation(2), Some(true)));
    assert_eq!(changed.used_by.len(), 1);
    all_answer(&lattice, "late.test", "/", "a=5\nb=2\nwritten=here\n").await;
    load.stop().await.assert_none_failed();
    // No new generation; each replica says what it runs with.
    eventually("replicas report the version", PATIENCE, async || {
        let status = api.status("late").await.map_err(|error| error.to_string())?;
        let name = ConfigName::new("late-base").unwrap();
        let version = |slot: &lattice::ctl::SlotStatus| slot.report.as_ref()?.configs.get(&name).copied();
        let versions: Vec<_> = status.slots.iter().map(version).collect();
        match versions == vec![Some(Generation(2)); 3] && status.generation == Generation(1) {
            true => Ok(()),
            false => Err(format!("{versions:?} at {}", status.generation)),
        }
    })
    .await;
    assert_eq!(put(&api, "late-base", json!({"a": "5"})).await.changed, Some(false));

    // What is in use is not deleted by mistake; by force what runs goes on.
    let delete = Topic::Config(ConfigVerb::Delete, ConfigName::new("late-more").unwrap());
    let refused: Result<Value, CtlError> = api.ask(delete.clone(), to_headers(&[]), b"").await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::Conflict);
    let _: Value = api.ask(delete, to_headers(&[]), br#"{"force": true}"#).await.unwrap();
    let status = until(&api, "late", ConditionKind::Degraded, Reason::ConfigMissing).await;
    assert_eq!(status.ready, 3);
    all_answer(&lattice, "late.test", "/b", "2\n").await;
    api.delete("late").await.unwrap();
}

#[tokio::test]
async fn rolled_configuration_is_a_new_generation() {
    let lattice = shared().await;
    let api = lattice.api().await;
    for name in ["rolled-base", "rolled-more"] {
        put(&api, name, json!({"a": "1"})).await;
    }
    api.put(&asked(&api, "rolled", 2, "roll").await).await.unwrap();
    assert_eq!(api.ready("rolled").await.generation, Generation(1));
    lattice.serving("rolled.test", "/a").await;
    let load = Load::start(lattice.nodes.iter().map(|node| node.http()), "rolled.test", "/a");
    lattice.cli_ok(&["config", "put", "rolled-more", "--merge", "a=2"]).await;
    eventually("there is a second generation", PATIENCE, async || {
        let generation = api.get("rolled").await.map_err(|error| error.to_string())?.generation;
        if generation == Generation(2) { Ok(()) } else { Err(generation.to_string()) }
    })
    .await;
    api.ready("rolled").await;
    all_answer(&lattice, "rolled.test", "/a", "2\n").await;
    load.stop().await.assert_none_failed();
    assert_eq!(api.get("rolled").await.unwrap().generation, Generation(2), "one change, one generation");
    let shown = lattice.cli_ok(&["config", "list"]).await;
    assert!(shown.contains("rolled-more"), "{shown}");
    lattice.cli_ok(&["wait", "rolled", "--for", "settled"]).await;

    // What is given up is given up with its values.
    let mut stepwise = asked(&api, "rolled", 2, "roll").await;
    stepwise["rollout"] = json!({ "steps": [{ "replicas": 1 }] });
    api.put(&stepwise).await.unwrap();
    lattice.cli_ok(&["config", "put", "rolled-more", "--merge", "a=3"]).await;
    eventually("a step of it is over", PATIENCE, async || {
        let rollout = api.status("rolled").await.map_err(|error| error.to_string())?.rollout;
        match rollout.as_ref().is_some_and(|rollout| rollout.state == RolloutState::Paused) {
            true => Ok(()),
            false => Err(format!("{rollout:?}")),
        }
    })
    .await;
    lattice.cli_ok(&["rollout", "abort", "rolled"]).await;
    api.ready("rolled").await;
    all_answer(&lattice, "rolled.test", "/a", "2\n").await;
    api.scale("rolled", 3).await.unwrap();
    api.ready("rolled").await;
    all_answer(&lattice, "rolled.test", "/a", "2\n").await;
    lattice.cli_ok(&["config", "put", "rolled-more", "--merge", "a=4"]).await;
    eventually("what comes next is rolled out", PATIENCE, async || {
        let rollout = api.status("rolled").await.map_err(|error| error.to_string())?.rollout;
        if rollout.is_some() { Ok(()) } else { Err("it is not".to_owned()) }
    })
    .await;
    lattice.cli_ok(&["rollout", "promote", "rolled"]).await;
    api.ready("rolled").await;
    all_answer(&lattice, "rolled.test", "/a", "4\n").await;
    api.delete("rolled").await.unwrap();
}

#[tokio::test]
async fn configuration_outlives_all_nodes() {
    let mut lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    for name in ["kept-base", "kept-more"] {
        put(&api, name, json!({"a": "1"})).await;
    }
    api.put(&asked(&api, "kept", 1, "watch").await).await.unwrap();
    api.ready("kept").await;
    let node = &mut lattice.nodes[0];
    node.kill9().await;
    node.launch();
    node.ready().await;
    lattice.serving("kept.test", "/a").await;
    let put = lattice.cli_ok(&["config", "put", "kept-base", "a=1"]).await;
    assert_eq!(put.trim(), "kept-base is so already, at version 1");
}
