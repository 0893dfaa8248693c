//! What a person at a terminal reads, and what a script gets as exit code, when things are not as they were asked.

use crate::harness::{Lattice, PATIENCE, api::spec, eventually, guest, shared};
use lattice::{
    ctl::{ConditionKind, Reason},
    record::RolloutState,
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Exit code, standard output, standard error.
async fn run(lattice: &Lattice, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = lattice.cli(arguments).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn file(dir: &Path, name: &str, text: &str) -> String {
    let path: PathBuf = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn written(dir: &Path, name: &str, specs: &[&Value]) -> String {
    let documents: Vec<String> = specs.iter().map(|spec| spec.to_string()).collect();
    file(dir, name, &documents.join("\n---\n"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_documents_are_deployed_together_or_not_at_all() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let dir = tempfile::tempdir().unwrap();
    // As `lattice import` prints it.
    std::fs::copy(guest("hello-http02"), dir.path().join("web.wasm")).unwrap();
    std::fs::copy(guest("hello-http02"), dir.path().join("more.wasm")).unwrap();
    let part = |name: &str| json!({"name": name, "type": "component", "properties": {"image": format!("file://./{name}.wasm")}});
    let manifest = json!({
        "apiVersion": "core.oam.dev/v1beta1", "kind": "Application", "metadata": {"name": "both"},
        "spec": {"components": [part("web"), part("more")]},
    });
    let manifest = file(dir.path(), "wadm.yaml", &manifest.to_string());
    let specs = file(dir.path(), "specs.yaml", &lattice.cli_ok(&["import", &manifest]).await);
    let (code, out, err) = run(&lattice, &["deploy", &specs]).await;
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(out, "both-web is ready: 1 of 1\nboth-more is ready: 1 of 1\n");
    assert!(err.contains("both-web: generation 1 accepted\nboth-more: generation 1 accepted\n"), "{err}");
    let (code, out, _) = run(&lattice, &["deploy", &specs, "--dry-run"]).await;
    assert!(code == Some(0) && out.matches("stays").count() == 2, "{out}");

    // The second can't run: nothing is put of the first either.
    let digest = api.upload("hello-http02").await;
    let (first, mut second) = (spec("pair-one", digest, 1), spec("pair-two", digest, 1));
    second["components"][0]["source"] = json!(format!("sha256:{}", "0".repeat(64)));
    let (code, _, err) = run(&lattice, &["deploy", &written(dir.path(), "a.yaml", &[&first, &second])]).await;
    assert_eq!(code, Some(1), "{err}");
    assert!(err.starts_with("error: pair-two is refused, and nothing was changed: components[0].source: "), "{err}");
    assert!(api.get("pair-one").await.is_err());
    // So where it is no spec.
    second["replicas"] = json!("many");
    let (code, _, err) = run(&lattice, &["deploy", &written(dir.path(), "a.yaml", &[&first, &second])]).await;
    assert!(code == Some(1) && err.contains("a.yaml, document 2 of 2: replicas: "), "{err}");
    // One whose route another one has: that may change on the way, so it is found out when it is put.
    let mut second = spec("pair-two", digest, 1);
    second["http"] = first["http"].clone();
    let (code, _, err) = run(&lattice, &["deploy", &written(dir.path(), "a.yaml", &[&first, &second])]).await;
    assert_eq!(code, Some(4), "{err}");
    assert!(err.contains("pair-two is refused (accepted: pair-one; not tried: none): http.routes[0]: "), "{err}");
    let (code, _, err) = run(&lattice, &["deploy", &specs, "--replicas", "2"]).await;
    assert!(code == Some(2) && err.contains("--replicas is for one workload"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_in_vain_is_told_why() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let dir = tempfile::tempdir().unwrap();
    let mut asked = spec("vain", api.upload("hello-http02").await, 1);
    asked["components"][0]["config-from"] = json!(["vain-base"]);
    let path = written(dir.path(), "vain.yaml", &[&asked]);
    let (code, _, err) = run(&lattice, &["deploy", &path]).await;
    assert_eq!(code, Some(6), "{err}");
    assert!(err.contains("vain waits for its configuration: there is no config vain-base"), "{err}");
    assert!(err.contains("hint: `lattice config put"), "{err}");
    lattice.cli_ok(&["config", "put", "vain-base", "a=b"]).await;
    lattice.cli_ok(&["wait", "vain"]).await;
    eventually("the status has the version", PATIENCE, async || {
        let status = lattice.cli_ok(&["status", "vain"]).await;
        if status.contains("config vain-base 1") { Ok(()) } else { Err(status) }
    })
    .await;
    // Where a change of it is a new generation, the history says for what.
    asked["config-update"] = json!("roll");
    api.put(&asked).await.unwrap();
    api.ready("vain").await;
    lattice.cli_ok(&["config", "put", "vain-base", "a=c"]).await;
    eventually("a generation for the new version is there", PATIENCE, async || {
        let history = lattice.cli_ok(&["history", "vain"]).await;
        if history.contains("config vain-base is at version 2") { Ok(()) } else { Err(history) }
    })
    .await;
    let diff = lattice.cli_ok(&["diff", "vain"]).await;
    assert_eq!(diff, "- config vain-base: version 1\n+ config vain-base: version 2\n");

    asked["limits"] = json!({ "memory": "64KiB" });
    asked["name"] = json!("tiny");
    asked["http"] = json!({});
    let (code, _, err) = run(&lattice, &["deploy", &written(dir.path(), "tiny.yaml", &[&asked])]).await;
    assert!(code == Some(1) && err.contains("limits.memory"), "{err}");

    asked["name"] = json!("nowhere");
    asked["limits"] = json!({});
    asked["placement"] = json!({ "require": ["gpu"] });
    let path = written(dir.path(), "nowhere.yaml", &[&asked]);
    let (code, _, err) = run(&lattice, &["deploy", &path, "--timeout", "1s"]).await;
    assert_eq!(code, Some(6), "{err}");
    assert!(err.contains("nowhere is not ready after 1s\n") && err.contains("has no label gpu"), "{err}");

    let (code, _, err) = run(&lattice, &["rollback", "nowhere"]).await;
    assert!(code == Some(3) && err.contains("nowhere has one generation only"), "{err}");
    let (code, _, err) = run(&lattice, &["events", "--kind", "slot-fialed"]).await;
    assert!(code == Some(2) && err.contains("slot-failed"), "{err}");
    let mut rests = spec("rests", api.upload("hello-http02").await, 1);
    rests.as_object_mut().unwrap().remove("replicas");
    rests["autoscale"] = json!({ "min": 0, "max": 2, "idle": "1s" });
    api.put(&rests).await.unwrap();
    let explained = eventually("it rests", PATIENCE, async || {
        let (code, out, err) = run(&lattice, &["explain", "rests"]).await;
        if code == Some(3) { Ok(err) } else { Err(out) }
    })
    .await;
    assert!(explained.contains("it rests") && !explained.contains("lattice scale"), "{explained}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_that_never_passes_is_the_reason_of_the_rollback() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let dir = tempfile::tempdir().unwrap();
    let mut asked = spec("probed", api.upload("hello-http02").await, 1);
    asked["rollout"] = json!({ "deadline": "4s" });
    api.put(&asked).await.unwrap();
    api.ready("probed").await;
    asked["probes"] = json!({ "ready": { "http": "/env/NONE", "every": "200ms" } });
    let path = written(dir.path(), "probed.yaml", &[&asked]);
    // Whoever has less patience than the rollout hears what will become of it.
    let (code, _, err) = run(&lattice, &["deploy", &path, "--timeout", "1s"]).await;
    assert_eq!(code, Some(6), "{err}");
    assert!(err.contains("the rollout is not over after 1s: 0 of 1 replicas run generation 2"), "{err}");
    assert!(err.contains("for 4s (rollout.deadline) it goes back to generation 1 by itself"), "{err}");
    // Who waits as long as it goes on hears what became of it.
    asked["probes"]["ready"]["http"] = json!("/env/NEVER");
    let path = written(dir.path(), "probed.yaml", &[&asked]);
    let (code, _, err) = run(&lattice, &["deploy", &path]).await;
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("was rolled back\n") && err.contains("GET /env/NEVER answered 404"), "{err}");
    let history = lattice.cli_ok(&["history", "probed"]).await;
    assert!(history.contains("put back for 3: ") && history.contains("GET /env/NEVER answered 404"), "{history}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_holds_for_a_time_is_seen_and_can_be_ended() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let mut asked = spec("stepped", api.upload("hello-http02").await, 2);
    asked["rollout"] = json!({ "steps": [{ "replicas": 1, "pause": "1h" }, { "replicas": 2 }] });
    api.put(&asked).await.unwrap();
    api.ready("stepped").await;
    asked["components"][0]["env"] = json!({ "VERSION": "2" });
    api.put(&asked).await.unwrap();
    eventually("the first step holds", PATIENCE, async || {
        let status = lattice.cli_ok(&["status", "stepped"]).await;
        if status.contains("step 1 of 2 (1) holds until 20") { Ok(()) } else { Err(status) }
    })
    .await;
    let told = lattice.cli_ok(&["rollout", "resume", "stepped"]).await;
    assert_eq!(told, "stepped: the rollout of generation 2 goes on\n");
    let paused = eventually("the second step lets people decide", PATIENCE, async || {
        let status = api.status("stepped").await.map_err(|error| error.to_string())?;
        let is_paused = status.rollout.as_ref().is_some_and(|rollout| rollout.state == RolloutState::Paused);
        if is_paused { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await;
    let progressing = paused.conditions.iter().find(|condition| condition.kind == ConditionKind::Progressing).unwrap();
    assert_eq!((progressing.status, progressing.reason), (false, Reason::RolloutPaused), "{progressing:?}");
    assert!(progressing.message.contains("2 of 2 replicas run generation 2: step 2 of 2"), "{progressing:?}");
    assert!(lattice.cli_ok(&["rollout", "pause", "stepped"]).await.contains("was paused before"));
    lattice.cli_ok(&["rollout", "resume", "stepped"]).await;
    api.ready("stepped").await;
}

/// A program that ends as soon as it is started.
const ONCE: &str = r#"(component
    (core module $m (func (export "run") (result i32) (i32.const 0)))
    (core instance $i (instantiate $m))
    (func $f (result (result)) (canon lift (core func $i "run")))
    (instance $run (export "run" (func $f)))
    (export "wasi:cli/run@0.2.0" (instance $run)))"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_does_not_stay_up_fails_the_deploy_and_is_seen() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("once.wasm"), wat::parse_str(ONCE).unwrap()).unwrap();
    let mut asked = spec("fickle", api.upload("hello-http02").await, 1);
    asked["services"] = json!([{ "name": "once", "source": "file:./once.wasm" }]);
    let (code, out, err) = run(&lattice, &["deploy", &written(dir.path(), "fickle.yaml", &[&asked])]).await;
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(err.contains("fickle is up, and does not stay up\n  replica 0: once ended "), "{err}");
    let status = lattice.cli_ok(&["status", "fickle"]).await;
    assert!(status.contains("once"), "{status}");
    lattice.cli_ok(&["delete", "fickle"]).await;
}
