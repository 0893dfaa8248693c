//! What people and tools see of a lattice: micro services, events, and the commands of the CLI.

use crate::harness::{PATIENCE, api::holders, cluster::lattice_program, eventually, process::Process, shared};
use futures_util::StreamExt as _;
use lattice::{event::CloudEvent, store::Message};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeMap;

#[tokio::test]
async fn every_node_is_an_instance_of_a_micro_service() {
    let lattice = shared().await;
    let api = lattice.api().await;
    // Which node each instance is: the answers to STATS don't say it.
    let mut node_of = BTreeMap::new();
    for (verb, kind) in [("PING", "ping"), ("INFO", "info"), ("STATS", "stats")] {
        let inbox = api.bus().inbox();
        let mut replies = api.bus().subscribe(inbox.clone(), None).await.unwrap();
        let subject = format!("$SRV.{verb}.lattice-ctl");
        api.bus().publish(Message { subject, reply: Some(inbox), ..Message::default() }).await.unwrap();
        let mut found = BTreeMap::new();
        while found.len() < lattice.nodes.len() {
            let reply = tokio::time::timeout(PATIENCE, replies.next())
                .await
                .unwrap_or_else(|_| panic!("{verb}: only {found:?}"));
            let reply: Value = serde_json::from_slice(&reply.unwrap().payload).unwrap();
            assert_eq!(reply["name"], "lattice-ctl", "{reply}");
            assert_eq!(reply["type"], format!("io.nats.micro.v1.{kind}_response"), "{reply}");
            let id = reply["id"].as_str().unwrap().to_owned();
            if verb == "PING" {
                assert_eq!(reply["metadata"]["lattice"], "default", "{reply}");
                node_of.insert(id.clone(), reply["metadata"]["node"].as_str().unwrap().to_owned());
            }
            found.insert(node_of[&id].clone(), reply);
        }
        assert_eq!(found.keys().collect::<Vec<_>>(), ["n1", "n2", "n3"], "{verb}");
        if verb == "PING" {
            continue;
        }
        for reply in found.values() {
            let endpoints = reply["endpoints"].as_array().unwrap();
            let is_ours = |endpoint: &Value| endpoint["subject"].as_str().unwrap().starts_with("lattice.default.ctl.");
            assert!(!endpoints.is_empty() && endpoints.iter().all(is_ours), "{verb}: {reply}");
        }
    }
}

#[tokio::test]
async fn events_are_cloud_events_and_tell_the_story() {
    let lattice = shared().await;
    let api = lattice.api().await;
    api.deploy("storied", "hello-http02", 1).await;
    api.delete("storied").await.unwrap();
    let story = ["workload-admitted", "slot-claimed", "slot-ready", "workload-deleted", "slot-released"];
    let events = eventually("the whole story is told", PATIENCE, async || {
        let events = api.nats.events(&api.lattice, 1000, false).await.map_err(|error| error.to_string())?;
        let events: Vec<CloudEvent> = events.map(|event| serde_json::from_slice(&event).unwrap()).collect().await;
        let mine: Vec<CloudEvent> = events.into_iter().filter(|event| event.subject.starts_with("storied")).collect();
        let kinds: Vec<&str> = mine.iter().map(|event| event.kind.trim_start_matches("dev.lattice.")).collect();
        if story.iter().all(|kind| kinds.contains(kind)) { Ok(mine) } else { Err(format!("{kinds:?}")) }
    })
    .await;
    for event in events {
        assert_eq!((event.specversion.as_str(), event.datacontenttype.as_str()), ("1.0", "application/json"));
        assert!(event.kind.starts_with("dev.lattice.") && !event.id.is_empty(), "{event:?}");
        assert!(event.source.starts_with("/lattice/default/node/n"), "{event:?}");
        assert!(event.time.ends_with('Z') && event.time.starts_with("20"), "{event:?}");
        assert!(event.data["message"].is_string(), "{event:?}");
    }
}

#[tokio::test]
async fn the_commands_deploy_and_show() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let wasm = crate::harness::guest("hello-http02");
    let wasm = wasm.to_str().unwrap();

    // From a component alone, waiting until it answers.
    let out = lattice.cli_ok(&["deploy", wasm, "--name", "shown", "--host", "shown.test", "--replicas", "2"]).await;
    assert!(out.contains("shown"), "{out}");
    lattice.serving("shown.test", "/").await;
    let status = api.ready("shown").await;

    let out = lattice.cli_ok(&["status", "shown"]).await;
    for part in ["shown", "ready", holders(&status)[0].as_str(), holders(&status)[1].as_str()] {
        assert!(out.contains(part), "{part:?} is not in {out}");
    }
    let json: Value = serde_json::from_str(&lattice.cli_ok(&["status", "shown", "-o", "json"]).await).unwrap();
    assert_eq!((&json["state"], &json["ready"]), (&"ready".into(), &2.into()), "{json}");
    let out = lattice.cli_ok(&["list"]).await;
    assert!(out.lines().any(|line| line.contains("shown") && line.contains("2/2")), "{out}");
    let out = lattice.cli_ok(&["get", "shown"]).await;
    assert!(out.contains("name: shown") && out.contains("replicas: 2"), "{out}");
    let out = lattice.cli_ok(&["nodes"]).await;
    for node in &lattice.nodes {
        let line = out.lines().find(|line| line.starts_with(&node.id)).unwrap_or_else(|| panic!("{out}"));
        assert!(line.contains("alive") && line.contains(&node.http()), "{line}");
    }

    // A dry run shows where the third would go and leaves two.
    let out = lattice
        .cli_ok(&["deploy", wasm, "--name", "shown", "--host", "shown.test", "--replicas", "3", "--dry-run"])
        .await;
    assert!(out.contains("stays") && out.contains("new"), "{out}");
    assert_eq!(api.get("shown").await.unwrap().spec.replicas, 2);
    lattice.cli_ok(&["scale", "shown", "3"]).await;
    assert_eq!(api.status("shown").await.unwrap().ready, 3);
    lattice.cli_ok(&["rollback", "shown"]).await;
    assert_eq!(api.get("shown").await.unwrap().spec.replicas, 2);
    let out = lattice.cli_ok(&["history", "shown"]).await;
    assert!(out.lines().count() >= 4, "{out}");

    // What the guest printed.
    lattice.nodes[0].get("shown.test", "/a-line-to-find").await.ok();
    eventually("the line is in the logs", PATIENCE, async || {
        let out = lattice.cli_ok(&["logs", "shown"]).await;
        if out.contains("/a-line-to-find") { Ok(()) } else { Err(out) }
    })
    .await;
    let out = lattice.cli_ok(&["events", "--last", "1000"]).await;
    assert!(out.lines().any(|line| line.contains("slot-ready") && line.contains("shown.0")), "{out}");

    let out = lattice.cli_ok(&["delete", "shown"]).await;
    assert!(out.contains("deleted shown"), "{out}");
    let missing = lattice.cli(&["delete", "shown"]).await;
    assert_eq!(missing.status.code(), Some(3), "{missing:?}");
}

/// What one node observes of its replica, every node can tell.
#[tokio::test]
async fn figures_of_a_replica_reach_every_node() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let mut asked = crate::harness::api::spec("figured", api.upload("faults").await, 1);
    asked["limits"] = serde_json::json!({ "memory": "16MiB" });
    api.put(&asked).await.unwrap();
    let holder = holders(&api.ready("figured").await)[0].clone();
    lattice.serving("figured.test", "/").await;
    let node = lattice.node(holder.as_str());
    node.get("figured.test", "/memory").await;
    node.get("figured.test", "/trap").await;
    // The queue group gives each request to one node or another.
    let mut answered = 0;
    eventually("every node tells", PATIENCE, async || {
        let status = api.status("figured").await.map_err(|error| error.to_string())?;
        let slot = &status.slots[0];
        let report = slot.report.as_ref().ok_or("no report")?;
        let is_whole = report.limits.contains_key("memory") && report.retired.get("trap") == Some(&1);
        answered = if is_whole { answered + 1 } else { 0 };
        if answered < 20 {
            return Err(format!("{answered} answers: {report:?}"));
        }
        assert!(slot.report_age.unwrap() < 60_000 && report.requests >= 3, "{slot:?}");
        assert!((1 << 20..=16 << 20).contains(&report.memory.peak) && report.memory.limit == 16 << 20, "{report:?}");
        Ok(())
    })
    .await;
    let out = lattice.cli_ok(&["status", "figured"]).await;
    for part in ["PEAK MEMORY", "of 16 MiB", "2 failed: memory 1, trap 1", "limits reached: memory", "last failure at"]
    {
        assert!(out.contains(part), "{part:?} is not in {out}");
    }
    // The trap took the instance along; this makes another, which a later report tells of.
    node.get("figured.test", "/").await.ok();
    let usage = eventually("all nodes tell what they use", PATIENCE, async || {
        let nodes = api.nodes().await;
        let all_tell = nodes.iter().all(|node| node.usage.is_some());
        let of_holder = nodes.iter().find(|node| node.session.node == holder).and_then(|node| node.usage);
        of_holder.filter(|usage| all_tell && usage.instances > 0).ok_or_else(|| format!("{nodes:?}"))
    });
    let usage = usage.await;
    assert!(usage.instances <= usage.instances_limit, "{usage:?}");
    assert!(usage.memory > 0 && usage.memory_limit == 4 << 30, "{usage:?}");
    let events = eventually("the limit and the trap are told", PATIENCE, async || {
        let out = lattice.cli_ok(&["events", "--last", "1000"]).await;
        let mine: Vec<&str> = out.lines().filter(|line| line.contains("figured.0")).collect();
        let told = ["limit-hit", "instance-trapped"].iter().all(|kind| mine.iter().any(|line| line.contains(kind)));
        if told { Ok(mine.join("\n")) } else { Err(mine.join("\n")) }
    });
    assert!(events.await.contains("raise limits.memory"));
    let metrics = crate::harness::http::get(&node.admin(), "x", "/metrics").await.ok().text();
    let labels = "workload=\"figured\",replica=\"0\"";
    for line in [
        format!("lattice_unit_limit_hits_total{{{labels},limit=\"memory\"}}"),
        format!("lattice_unit_failures_total{{{labels},kind=\"trap\"}} 1"),
        format!("lattice_unit_instances_retired_total{{{labels},reason=\"trap\"}} 1"),
        format!("lattice_unit_memory_peak_bytes{{{labels}}} "),
        format!("lattice_unit_cpu_peak_seconds{{{labels}}} "),
        format!("lattice_unit_reuse_off{{{labels}}} 0"),
        "lattice_instances_limit 1000".to_owned(),
    ] {
        assert!(metrics.lines().any(|found| found.starts_with(&line)), "{line:?} is not in {metrics}");
    }
    api.delete("figured").await.unwrap();
}

#[tokio::test]
async fn a_guest_that_can_not_be_reused_is_told_with_the_remedy() {
    let lattice = shared().await;
    let api = lattice.api().await;
    api.deploy("once-only", "hello-js-fetch", 1).await;
    for _ in 0..3 {
        lattice.nodes[0].get("once-only.test", "/").await.ok();
    }
    let status = eventually("the status says so", PATIENCE, async || {
        let out = lattice.cli_ok(&["status", "once-only"]).await;
        if out.contains("reuse off since") { Ok(out) } else { Err(out) }
    });
    let status = status.await;
    assert!(status.contains("without a response") && status.contains("incomingHandler"), "{status}");
    let digest = lattice::id::Digest::of(&std::fs::read(crate::harness::guest("hello-js-fetch")).unwrap());
    let event = eventually("an event says so", PATIENCE, async || {
        let out = lattice.cli_ok(&["events", "--last", "1000", "-o", "json"]).await;
        let events = out.lines().map(|line| serde_json::from_str::<CloudEvent>(line).unwrap());
        let mut mine = events.filter(|event| event.subject == "once-only.0");
        mine.find(|event| event.kind == "dev.lattice.reuse-off").ok_or(out)
    })
    .await;
    assert!(event.data["message"].as_str().unwrap().contains(&digest.to_string()), "{event:?}");
    assert!(event.data["hint"].as_str().unwrap().contains("reuse: off"), "{event:?}");
    api.delete("once-only").await.unwrap();
}

#[tokio::test]
async fn logs_and_events_can_be_followed() {
    let lattice = shared().await;
    let api = lattice.api().await;
    api.deploy("followed", "hello-http03", 1).await;
    lattice.serving("followed.test", "/").await;
    let follow = |name: &str, arguments: &[&str]| {
        let url = lattice.server.url();
        let arguments = arguments.iter().copied().chain(["--follow", "--nats", &url]);
        Process::start(name, lattice_program(), arguments)
    };
    let logs = follow("logs", &["logs", "followed"]);
    // What was written before, then what is written now.
    logs.wait_line("followed.0", PATIENCE).await;
    lattice.nodes[0].get("followed.test", "/while-following").await.ok();
    logs.wait_line("/while-following", PATIENCE).await;

    let events = follow("events", &["events", "--last", "1000"]);
    events.wait_line("followed.0", PATIENCE).await;
    api.delete("followed").await.unwrap();
    let told = eventually("the deletion is told", PATIENCE, async || {
        let output = events.output();
        let line = output.lines().find(|line| line.contains("workload-deleted") && line.contains("followed"));
        line.map(str::to_owned).ok_or("not yet")
    });
    told.await;
    for follower in [logs, events] {
        assert!(follower.is_running());
        // Not the interrupt: who runs tests in the background may have that ignored, and children inherit it.
        follower.signal(Signal::TERM);
        follower.wait_exit(PATIENCE).await;
    }
}

#[tokio::test]
async fn a_status_is_told_again_when_it_changes() {
    let lattice = shared().await;
    let api = lattice.api().await;
    api.deploy("watched", "hello-http03", 1).await;
    lattice.serving("watched.test", "/").await;
    let watch = |arguments: &[&str]| {
        let url = lattice.server.url();
        let arguments = arguments.iter().copied().chain(["--watch", "--nats", &url]);
        Process::start("status", lattice_program(), arguments)
    };
    let (one, all) = (watch(&["status", "watched"]), watch(&["status"]));
    let both_say = async |told: &str| {
        one.wait_line(told, PATIENCE).await;
        all.wait_line(told, PATIENCE).await;
    };
    both_say("watched  ready  1/1 ready").await;
    api.scale("watched", 2).await.unwrap();
    both_say("watched  ready  2/2 ready").await;
    api.delete("watched").await.unwrap();
    all.wait_line("watched is deleted", PATIENCE).await;
    assert!(all.is_running());
    all.signal(Signal::TERM);
    all.wait_exit(PATIENCE).await;
    // Of one that is gone there is nothing more to tell.
    assert_eq!(one.wait_exit(PATIENCE).await.code(), Some(3));
}

#[tokio::test]
async fn the_doctor_finds_a_healthy_lattice_healthy() {
    let lattice = shared().await;
    let out = lattice.cli_ok(&["doctor"]).await;
    assert!(!out.contains('✗'), "{out}");
    for part in ["connection", "jetstream    API level", "3 alive"] {
        assert!(out.contains(part), "{part:?} is not in {out}");
    }
}

#[tokio::test]
async fn the_admin_address_tells_how_a_node_is() {
    let lattice = shared().await;
    let node = &lattice.nodes[0];
    assert_eq!(crate::harness::http::get(&node.admin(), "x", "/livez").await.status, 200);
    assert_eq!(node.is_ready().await.unwrap(), (true, "ready\n".to_owned()));
    let metrics = crate::harness::http::get(&node.admin(), "x", "/metrics").await.ok().text();
    for line in ["lattice_ready 1", "lattice_nats_connected 1", "lattice_nodes 3"] {
        assert!(metrics.lines().any(|found| found == line), "{line:?} is not in {metrics}");
    }
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
}
