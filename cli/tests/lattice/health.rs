//! Probes and crashes: who gets requests, what is started again, and what people are told of it.

use crate::harness::{Api, Lattice, PATIENCE, Server, api::spec, eventually, load::Load};
use lattice::{
    ctl::{SlotStatus, StatusReply},
    record::Phase,
};
use serde_json::{Value, json};
use std::{path::PathBuf, time::Duration};

/// Nodes whose guests see one directory: what is in it, the component `files` answers with 200, and all else with 404.
struct Site {
    lattice: Lattice,
    api: Api,
    dir: PathBuf,
    _root: tempfile::TempDir,
}

impl Site {
    async fn start(nodes: &[&str]) -> Self {
        let root = tempfile::Builder::new().prefix("lattice-test-health-").tempdir().unwrap();
        let dir = root.path().canonicalize().unwrap();
        let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
        for id in nodes {
            lattice.launch_node("default", id, &["--allow-host-path", dir.to_str().unwrap()]);
        }
        lattice.all_ready().await;
        let api = lattice.api().await;
        Self { lattice, api, dir, _root: root }
    }

    async fn spec(&self, name: &str, probes: Value) -> Value {
        let mut asked = spec(name, self.api.upload("files").await, 1);
        asked["volumes"] = json!([{ "name": "site", "mount": "/site", "host": { "path": self.dir } }]);
        asked["probes"] = probes;
        asked
    }

    fn make(&self, file: &str) {
        std::fs::write(self.dir.join(file), "moin").unwrap();
    }

    fn remove(&self, file: &str) {
        std::fs::remove_file(self.dir.join(file)).unwrap();
    }

    /// Wait until a workload is so.
    async fn until(&self, name: &str, what: &str, is_so: impl Fn(&StatusReply) -> bool) -> StatusReply {
        eventually(what, PATIENCE, async || {
            let status = self.api.status(name).await.map_err(|error| error.to_string())?;
            if is_so(&status) { Ok(status) } else { Err(format!("{status:?}")) }
        })
        .await
    }
}

fn phase(status: &StatusReply) -> (Option<Phase>, &str) {
    (status.slots[0].phase, status.slots[0].message.as_deref().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_not_ready_gets_no_requests_and_comes_back() {
    let site = Site::start(&["n1", "n2"]).await;
    let ready = json!({ "ready": { "http": "/site/ready", "every": "100ms", "failures": 2 } });
    site.api.put(&site.spec("web", ready).await).await.unwrap();
    let not_ready = |status: &StatusReply| {
        let (phase, message) = phase(status);
        phase == Some(Phase::Starting) && message.starts_with("not ready: GET /site/ready answered 404")
    };
    site.until("web", "it waits for its probe", not_ready).await;
    site.make("ready");
    site.api.ready("web").await;
    site.lattice.serving("web.test", "/site/ready").await;

    // At rest nothing is written, though it is probed ten times a second.
    let before = site.api.slots("web").await;
    let load = Load::start([site.lattice.node("n1").http(), site.lattice.node("n2").http()], "web.test", "/site/ready");
    tokio::time::sleep(Duration::from_secs(2)).await; // that nothing happens can't be waited for
    load.stop().await.assert_none_failed();
    assert_eq!(site.api.slots("web").await, before);

    site.remove("ready");
    site.until("web", "it is taken out", not_ready).await;
    let events = site.lattice.cli_ok(&["events", "--last", "200"]).await;
    assert!(events.contains("slot-unready"), "{events}");
    site.make("ready");
    site.api.ready("web").await;
    site.lattice.serving("web.test", "/site/ready").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generation_that_is_never_ready_leaves_the_one_before_serving() {
    let site = Site::start(&["n1", "n2"]).await;
    site.make("ready");
    let probes = |file: &str| json!({ "ready": { "http": format!("/site/{file}"), "every": "100ms" } });
    let mut first = site.spec("web", probes("ready")).await;
    first["replicas"] = json!(2);
    site.api.put(&first).await.unwrap();
    site.api.ready("web").await;
    site.lattice.serving("web.test", "/site/ready").await;
    let load = Load::start([site.lattice.node("n1").http(), site.lattice.node("n2").http()], "web.test", "/site/ready");
    let mut second = first.clone();
    second["probes"] = probes("later");
    let generation = site.api.put(&second).await.unwrap().generation;
    let says_why = |status: &StatusReply| {
        let text = format!("generation {generation} is not ready: GET /site/later answered 404");
        let of_old = |slot: &SlotStatus| slot.phase == Some(Phase::Ready) && slot.generation != Some(generation);
        let says_so = |slot: &SlotStatus| slot.message.as_ref().is_some_and(|said| said.starts_with(&text));
        // One replica after the other is tried.
        status.slots.iter().all(of_old) && status.slots.iter().any(says_so)
    };
    site.until("web", "the new generation waits beside the old one", says_why).await;
    site.make("later");
    let status = site.api.ready("web").await;
    assert_eq!(status.generation, generation);
    load.stop().await.assert_none_failed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_not_alive_is_started_again_and_everybody_is_told() {
    let site = Site::start(&["n1"]).await;
    site.make("alive");
    let live = json!({ "live": { "http": "/site/alive", "every": "100ms", "failures": 2 } });
    site.api.put(&site.spec("web", live).await).await.unwrap();
    site.api.ready("web").await;
    site.remove("alive");
    let failed = |status: &StatusReply| {
        let (phase, message) = phase(status);
        phase == Some(Phase::Failed) && message.contains("not alive: GET /site/alive answered 404")
    };
    let status = site.until("web", "it failed", failed).await;
    assert!(phase(&status).1.contains("2 times in a row"), "{status:?}");
    let restarts = |status: &StatusReply| {
        let report = status.slots[0].report.as_ref();
        report.and_then(|report| report.crash.as_ref()).map_or(0, |crash| crash.restarts)
    };
    site.until("web", "it failed again, and says how often", |status| restarts(status) >= 2).await;
    let text = site.lattice.cli_ok(&["status", "web"]).await;
    assert!(text.contains("replica 0: failed and started again"), "{text}");
    let events = site.lattice.cli_ok(&["events", "--last", "200"]).await;
    assert!(events.contains("slot-failed") && events.contains("GET /site/alive answered 404"), "{events}");
    site.make("alive");
    site.api.ready("web").await;
    site.lattice.serving("web.test", "/site/alive").await;
    // It is up, and nobody knows yet whether it stays so.
    let text = site.lattice.cli_ok(&["status", "web"]).await;
    assert!(text.contains("crashing") && text.contains("ReplicaCrashing"), "{text}");
    assert!(site.lattice.cli_ok(&["list"]).await.contains("degraded"));
}

/// A component that is asked by a function, and a service beside another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_say_how_a_replica_and_its_services_do() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    let mut asked = spec("asked", api.upload("checkup").await, 1);
    asked["components"][0]["env"] = json!({ "READY": "no" });
    asked["probes"] = json!({ "ready": { "function": "example:checkup/health#unheard-of", "every": "100ms" } });
    let refused = api.put(&asked).await.unwrap_err();
    assert_eq!(refused.field.as_deref(), Some("probes.ready.function"), "{refused:?}");
    asked["probes"]["ready"]["function"] = json!("example:checkup/health#ready");
    api.put(&asked).await.unwrap();
    let says_so = "not ready: example:checkup/health#ready returned the error the pool is cold";
    eventually("it waits for its function", PATIENCE, async || {
        let status = api.status("asked").await.map_err(|error| error.to_string())?;
        if phase(&status).1.starts_with(says_so) { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    asked["components"][0]["env"] = json!({});
    api.put(&asked).await.unwrap();
    api.ready("asked").await;

    // The service is asked itself. What is wrong with it is wrong with the replica, which is started again.
    let mut visits = spec("visits", api.upload("visits").await, 1);
    visits["services"] = json!([{ "name": "tally", "source": api.upload("tally").await.to_string() }]);
    visits["probes"] = json!({
        "ready": { "function": "example:tally/health#ready", "of": "tally" },
        "live": { "function": "example:tally/health#alive", "of": "tally", "every": "100ms", "failures": 2 },
    });
    api.put(&visits).await.unwrap();
    api.ready("visits").await;
    lattice.serving("visits.test", "/poison").await;
    let shown = eventually("it was started again", PATIENCE, async || {
        let text = lattice.cli_ok(&["status", "visits"]).await;
        if text.contains("not alive: example:tally/health#alive of tally returned false") {
            Ok(text)
        } else {
            Err(text)
        }
    })
    .await;
    assert!(shown.contains("printed last: poison was counted"), "{shown}");
    api.ready("visits").await;
}
