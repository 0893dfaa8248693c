//! What replicas run changes while requests come: replica by replica, back by itself where it fails, and though a node dies.

use crate::harness::{
    Lattice, Node, PATIENCE,
    api::{Api, spec},
    eventually,
    load::Load,
    shared,
};
use lattice::{
    ctl::{ErrorCode, StatusReply, WorkloadState},
    id::Generation,
    record::{Key, Record as _, Rollout, RolloutState},
    store::Bucket,
};
use serde_json::{Value, json};

/// `replicas` of a guest that tells its version.
async fn versioned(api: &Api, name: &str, replicas: u32, version: &str) -> Value {
    let mut asked = spec(name, api.upload("hello-http02").await, replicas);
    asked["components"][0]["env"] = json!({ "VERSION": version });
    asked
}

/// The same with a template that no node can start: its memory is smaller than the guest's own.
fn broken(asked: &Value) -> Value {
    let mut broken = asked.clone();
    broken["limits"] = json!({ "memory": "64KiB" });
    broken
}

fn load(lattice: &Lattice, name: &str) -> Load {
    Load::start(lattice.nodes.iter().map(Node::http), &format!("{name}.test"), "/quiet")
}

async fn everywhere(lattice: &Lattice, name: &str, version: &str) {
    for node in &lattice.nodes {
        eventually(&format!("{version} answers through {}", node.id), PATIENCE, async || {
            let found = node.get(&format!("{name}.test"), "/env/VERSION").await.ok().text();
            if found.trim() == version { Ok(()) } else { Err(found) }
        })
        .await;
    }
}

async fn when(api: &Api, name: &str, what: &str, is_it: impl Fn(&StatusReply) -> bool) -> StatusReply {
    eventually(&format!("{name}: {what}"), PATIENCE, async || {
        let status = api.status(name).await.map_err(|error| error.to_string())?;
        if is_it(&status) { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_update_under_load_fails_no_request() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let mut asked = versioned(&api, "rolled", 6, "0").await;
    api.put(&asked).await.unwrap();
    api.ready("rolled").await;
    lattice.serving("rolled.test", "/quiet").await;
    let load = load(&lattice, "rolled");
    for (version, rollout) in [
        ("1", json!({})),
        ("2", json!({ "max-surge": 1, "min-ready": "200ms" })),
        // Stopped first: other replicas answer meanwhile.
        ("3", json!({ "max-surge": 0, "max-unavailable": 2 })),
    ] {
        asked["components"][0]["env"] = json!({ "VERSION": version });
        asked["rollout"] = rollout;
        api.put(&asked).await.unwrap();
        api.ready("rolled").await;
        everywhere(&lattice, "rolled", version).await;
    }
    load.stop().await.assert_none_failed();
    let key = Key::Rollout("rolled".parse().unwrap()).to_string();
    let entries = api.snapshot(Bucket::State).await.entries;
    let record = entries.iter().find(|entry| entry.key == key).map(|entry| Rollout::decode(&entry.value).unwrap());
    let record = record.unwrap();
    assert_eq!((record.state, record.template), (RolloutState::Done, Generation(4)));

    // What is around the replicas changes without them.
    let before = api.status("rolled").await.unwrap();
    asked["http"]["routes"] = json!([{ "host": "rolled.test" }, { "host": "again.rolled.test" }]);
    let put = api.put(&asked).await.unwrap();
    let after = api.ready("rolled").await;
    assert_eq!((put.generation, after.template), (Generation(5), Some(Generation(4))));
    let slots = |status: &StatusReply| status.slots.iter().map(|slot| slot.generation).collect::<Vec<_>>();
    assert_eq!(slots(&before), slots(&after));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_template_rolls_back_by_itself() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let mut asked = versioned(&api, "spoiled", 3, "good").await;
    // It is given up when it fails for half of that.
    asked["rollout"] = json!({ "deadline": "20s" });
    api.put(&asked).await.unwrap();
    api.ready("spoiled").await;
    lattice.serving("spoiled.test", "/quiet").await;
    let load = load(&lattice, "spoiled");
    let put = api.put(&broken(&asked)).await.unwrap();
    let back = when(&api, "spoiled", "rolled back", |status| status.aborted.is_some()).await;
    let aborted = back.aborted.unwrap();
    assert_eq!(aborted.generation, put.generation);
    assert!(aborted.reason.contains("replica 0 on n") && aborted.reason.contains("memory"), "{aborted:?}");
    assert_eq!((back.generation, back.template), (put.generation.next(), Some(Generation(1))));
    let status = api.ready("spoiled").await;
    assert!(status.slots.iter().all(|slot| slot.generation == Some(Generation(1))), "{status:?}");
    everywhere(&lattice, "spoiled", "good").await;
    load.stop().await.assert_none_failed();

    // A person at a terminal hears why, and the next one begins anew.
    let file = std::env::temp_dir().join(format!("lattice-spoiled-{}.json", std::process::id()));
    std::fs::write(&file, broken(&asked).to_string()).unwrap();
    let output = lattice.cli(&["deploy", file.to_str().unwrap()]).await;
    std::fs::remove_file(&file).unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("generation 4 was rolled back"), "{told}");
    assert!(lattice.cli_ok(&["status", "spoiled"]).await.contains("generation 4 was rolled back: replica 0 on n"));
    let mut better = asked.clone();
    better["components"][0]["env"] = json!({ "VERSION": "better" });
    api.put(&better).await.unwrap();
    assert_eq!(api.ready("spoiled").await.aborted, None);
    everywhere(&lattice, "spoiled", "better").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_decide_where_the_spec_says_so() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let mut asked = versioned(&api, "manual", 2, "good").await;
    asked["rollout"] = json!({ "rollback": "manual", "deadline": "3s" });
    api.put(&asked).await.unwrap();
    api.ready("manual").await;
    api.put(&broken(&asked)).await.unwrap();
    let stalled = when(&api, "manual", "stalled", |status| {
        status.rollout.as_ref().is_some_and(|rollout| rollout.state == RolloutState::Stalled)
    })
    .await;
    assert_eq!(stalled.state, WorkloadState::Degraded);
    let rollout = stalled.rollout.unwrap();
    assert_eq!((rollout.stable, rollout.below, rollout.updated), (Generation(1), 1, 0));
    assert!(rollout.message.is_some_and(|message| message.contains("memory")));
    // Back to what is stable, at once.
    let back = api.rollback("manual").await.unwrap();
    let status = api.ready("manual").await;
    assert_eq!((status.generation, status.template), (back.generation, Some(Generation(1))));
    lattice.serving("manual.test", "/quiet").await;
    everywhere(&lattice, "manual", "good").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_pause_resume_give_up_and_compare() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let mut asked = versioned(&api, "steered", 3, "1").await;
    asked["rollout"] = json!({ "max-surge": 1, "min-ready": "1s" });
    api.put(&asked).await.unwrap();
    api.ready("steered").await;
    let none = lattice.cli(&["rollout", "pause", "steered"]).await;
    assert!(!none.status.success() && String::from_utf8_lossy(&none.stderr).contains("nothing of steered"), "{none:?}");

    asked["components"][0]["env"] = json!({ "VERSION": "2" });
    api.put(&asked).await.unwrap();
    lattice.cli_ok(&["rollout", "pause", "steered"]).await;
    let in_state =
        |state| move |status: &StatusReply| status.rollout.as_ref().is_some_and(|rollout| rollout.state == state);
    // Those that may go over, do.
    let paused = when(&api, "steered", "paused", |status| {
        let rollout = status.rollout.as_ref();
        rollout.is_some_and(|rollout| rollout.state == RolloutState::Paused && rollout.updated == rollout.below)
    })
    .await;
    let below = paused.rollout.as_ref().unwrap().below;
    assert!(below < 3, "it was paused too late to see anything");
    let runs =
        |status: &StatusReply| -> Vec<u64> { status.slots.iter().map(|slot| slot.generation.unwrap().0).collect() };
    assert!(
        runs(&paused).iter().zip(0..).all(|(runs, index)| *runs == if index < below { 2 } else { 1 }),
        "{paused:?}"
    );
    let history = lattice.cli_ok(&["history", "steered"]).await;
    assert!(history.contains("current") && history.contains("stable"), "{history}");
    let diff = lattice.cli_ok(&["diff", "steered"]).await;
    assert_eq!(diff, "- components[0].env.VERSION: 1\n+ components[0].env.VERSION: 2\n");

    lattice.cli_ok(&["rollout", "resume", "steered"]).await;
    when(&api, "steered", "resumed", in_state(RolloutState::Progressing)).await;
    let told = lattice.cli_ok(&["rollout", "abort", "steered"]).await;
    assert_eq!(told, "steered: given up; generation 3 is what ran before\n");
    let back = api.ready("steered").await;
    assert_eq!((back.generation, runs(&back)), (Generation(3), vec![1, 1, 1]));
    assert!(lattice.cli_ok(&["history", "steered"]).await.contains("aborted"));
    // What was given up is not what a rollback goes to.
    assert_eq!(api.rollback("steered").await.unwrap_err().code, ErrorCode::NotFound);
    lattice.serving("steered.test", "/env/VERSION").await;
    everywhere(&lattice, "steered", "1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_holds_until_somebody_goes_on() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let mut asked = versioned(&api, "stepwise", 3, "1").await;
    asked["rollout"] = json!({ "steps": [{ "replicas": 1, "pause": "200ms" }, { "replicas": "50%" }] });
    api.put(&asked).await.unwrap();
    api.ready("stepwise").await;
    lattice.serving("stepwise.test", "/quiet").await;
    let load = load(&lattice, "stepwise");
    asked["components"][0]["env"] = json!({ "VERSION": "2" });
    let file = std::env::temp_dir().join(format!("lattice-stepwise-{}.json", std::process::id()));
    std::fs::write(&file, asked.to_string()).unwrap();
    let output = lattice.cli(&["deploy", file.to_str().unwrap()]).await;
    std::fs::remove_file(&file).unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("the rollout of stepwise is paused: step 2 of 2 (50%) is over"), "{told}");
    let paused = api.status("stepwise").await.unwrap();
    let rollout = paused.rollout.unwrap();
    assert_eq!((rollout.below, rollout.updated, rollout.step), (2, 2, 2));
    lattice.cli_ok(&["rollout", "promote", "stepwise"]).await;
    api.ready("stepwise").await;
    everywhere(&lattice, "stepwise", "2").await;
    load.stop().await.assert_none_failed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_goes_on_though_a_node_is_killed() {
    let mut lattice = Lattice::start(3).await;
    let api = lattice.api().await;
    let mut asked = versioned(&api, "steady", 6, "0").await;
    api.put(&asked).await.unwrap();
    api.ready("steady").await;
    lattice.serving("steady.test", "/quiet").await;
    asked["components"][0]["env"] = json!({ "VERSION": "1" });
    asked["rollout"] = json!({ "max-surge": 1, "min-ready": "500ms" });
    api.put(&asked).await.unwrap();
    when(&api, "steady", "under way", |status| status.rollout.as_ref().is_some_and(|rollout| rollout.updated >= 2))
        .await;
    lattice.node("n2").kill9().await;
    let status = api.ready("steady").await;
    assert!(status.slots.iter().all(|slot| slot.node.as_ref().is_some_and(|node| node.as_str() != "n2")), "{status:?}");
    assert_eq!(status.aborted, None);
    lattice.node_mut("n2").launch();
    lattice.all_ready().await;
    everywhere(&lattice, "steady", "1").await;
}
