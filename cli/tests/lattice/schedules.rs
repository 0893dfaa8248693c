//! Ticks of schedules: each fires once in the whole lattice, whichever nodes come and go.

use crate::harness::{
    Api, Lattice, PATIENCE,
    api::{reply, spec},
    eventually, http, shared,
};
use futures_util::StreamExt as _;
use hyper::Method;
use lattice::{
    ctl::{ErrorCode, LogLine, PutReply, StatusReply},
    event::CloudEvent,
    record::Outcome,
    store::{Bucket, Items, Message},
    subject::logs_of,
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

/// Ticks in the order in which guests printed them, with the node that each ran on.
struct Ticks {
    lines: Items<Message>,
    seen: BTreeMap<SystemTime, String>,
}

impl Ticks {
    async fn of(api: &Api, workload: &str) -> Self {
        let subject = logs_of(&api.lattice, &workload.parse().unwrap());
        let lines = api.bus().subscribe(subject, None).await.unwrap();
        api.bus().flush().await.unwrap();
        Self { lines, seen: BTreeMap::new() }
    }

    /// Wait for so many more. None may come twice.
    async fn more(&mut self, count: usize) -> String {
        let wanted = self.seen.len() + count;
        let mut node = String::new();
        while self.seen.len() < wanted {
            let line = tokio::time::timeout(PATIENCE, self.lines.next()).await;
            let message = line.unwrap_or_else(|_| panic!("no more ticks after {:?}", self.seen)).unwrap();
            let line: LogLine = serde_json::from_slice(&message.payload).unwrap();
            let Some(tick) = line.line.strip_prefix("tick ") else { continue };
            let (tick, _) = tick.split_once(" of * * * * * * UTC: /often").unwrap_or_else(|| panic!("{line:?}"));
            let tick: SystemTime = humantime::parse_rfc3339(tick).unwrap();
            node = line.node.to_string();
            let before = self.seen.insert(tick, node.clone());
            assert_eq!(before, None, "{} fired twice, the second time on {node}", line.line);
        }
        node
    }

    /// Seconds between the first and the last tick at which nothing fired.
    fn gaps(&self) -> u64 {
        let (first, last) = (self.seen.keys().next().unwrap(), self.seen.keys().next_back().unwrap());
        last.duration_since(*first).unwrap().as_secs() + 1 - self.seen.len() as u64
    }
}

fn each_second(name: &str, digest: lattice::id::Digest, replicas: u32) -> serde_json::Value {
    let mut asked = spec(name, digest, replicas);
    asked["schedule"] = json!([{ "cron": "* * * * * *", "path": "/often" }]);
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tick_fires_once_though_nodes_die() {
    let mut lattice = Lattice::start(3).await;
    let api = lattice.api().await;
    let digest = api.upload("ticker").await;
    let mut ticks = Ticks::of(&api, "ticker").await;
    api.put(&each_second("ticker", digest, 3)).await.unwrap();
    api.ready("ticker").await;
    let node = ticks.more(6).await;
    lattice.node(&node).kill9().await;
    let next = ticks.more(12).await;
    assert_ne!(next, node);
    lattice.node_mut(&node).launch();
    lattice.all_ready().await;
    // One that leaves says so, and finishes what it has.
    lattice.node(&next).sigterm();
    assert!(lattice.node(&next).wait_exit().await.success());
    ticks.more(6).await;

    // What did not fire was told.
    let gaps = ticks.gaps();
    let events = api.nats.events(&api.lattice, 10_000, false).await.unwrap();
    let events: Vec<CloudEvent> = events.map(|event| serde_json::from_slice(&event).unwrap()).collect().await;
    let of = |kind: &str| {
        let kind = format!("dev.lattice.{kind}");
        let texts = events.iter().filter(move |event| event.kind == kind);
        texts.map(|event| event.data["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let missed = of("schedule-missed");
    let told: u64 = missed
        .iter()
        .map(|text| {
            let count = text.strip_prefix("* * * * * * UTC /often: ").and_then(|text| text.split(' ').next());
            count.map_or(1, |count| count.parse().unwrap())
        })
        .sum();
    println!("{} ticks fired, {gaps} did not: {missed:?}", ticks.seen.len());
    assert!(gaps <= told, "{gaps} ticks are missing, and only {told} were told: {missed:?}");
    assert!(!of("schedule-fired").is_empty());
    lattice.show();
}

#[tokio::test]
async fn status_shows_schedules_and_deletion_ends_them() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let digest = api.upload("ticker").await;
    let mut asked = spec("clock", digest, 1);
    asked["schedule"] = json!([
        { "cron": "* * * * * *", "path": "/fail" },
        { "cron": "30 2 * * sun", "zone": "europe/berlin", "path": "/jobs?name=report", "timeout": "5s" },
    ]);
    api.put(&asked).await.unwrap();
    api.ready("clock").await;
    let status: StatusReply = eventually("a tick was answered", PATIENCE, async || {
        let status = api.status("clock").await.map_err(|error| error.to_string())?;
        let outcome = status.schedules[0].last.as_ref().and_then(|last| last.outcome.clone());
        if outcome == Some(Outcome::Answered(500)) { Ok(status) } else { Err(format!("{:?}", status.schedules)) }
    })
    .await;
    let [often, seldom] = &status.schedules[..] else { panic!("{status:?}") };
    assert!(often.next > often.last.as_ref().map(|last| last.tick.clone()), "{often:?}");
    assert_eq!((seldom.schedule.zone.to_string().as_str(), &seldom.last), ("Europe/Berlin", &None));
    let next = humantime::parse_rfc3339(seldom.next.as_deref().unwrap()).unwrap();
    assert!(next < SystemTime::now() + Duration::from_secs(8 * 24 * 3600));
    let shown = lattice.cli_ok(&["status", "clock"]).await;
    assert!(shown.contains("SCHEDULE") && shown.contains("answered 500") && shown.contains("Europe/Berlin"), "{shown}");

    // Nobody else can play the clock.
    let answer = http::get(&lattice.nodes[0].http(), "clock.test", "/often").await;
    assert_eq!((answer.status, answer.text().as_str()), (403, "only the clock may\n"));
    let forged = [("lattice-tick", "2026-11-22T14:00:00Z"), ("lattice-schedule", "* * * * * UTC")];
    let address = lattice.nodes[0].http();
    let answer = http::send(&address, Method::POST, "clock.test", "/often", &forged, http::empty()).await.unwrap();
    let answer = http::whole(answer).await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (403, "only the clock may\n"));

    let key = "cron.clock";
    let has_record = async || api.snapshot(Bucket::State).await.entries.iter().any(|entry| entry.key == key);
    assert!(has_record().await);
    api.delete("clock").await.unwrap();
    eventually(
        "the record is gone",
        PATIENCE,
        async || if has_record().await { Err("it is there".to_owned()) } else { Ok(()) },
    )
    .await;
}

#[tokio::test]
async fn a_schedule_that_is_none_is_refused_by_its_field() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let digest = api.upload("ticker").await;
    for (schedule, field) in [
        (json!([{ "cron": "61 * * * *" }]), "schedule[0].cron"),
        (json!([{ "cron": "@daily" }, { "cron": "0 0 * * *", "zone": "Europe/Atlantis" }]), "schedule[1].zone"),
        (json!([{ "cron": "@daily", "path": "tick" }]), "schedule[0].path"),
        (json!([{ "cron": "@daily", "timeout": "0s" }]), "schedule[0].timeout"),
        (json!([{ "cron": "@daily" }, { "cron": "@daily", "timeout": "1s" }]), "schedule[1]"),
        (json!([{ "cron": "@daily", "at": "noon" }]), "schedule[0].at"),
        (json!([{ "zone": "UTC" }]), "schedule[0]"),
    ] {
        let mut asked = spec("refused", digest, 1);
        asked["schedule"] = schedule;
        let subject = format!("lattice.{}.ctl.workload.put", api.lattice);
        let message = api.request(&subject, Default::default(), asked.to_string().as_bytes()).await.unwrap();
        let error = reply::<PutReply>(&message).unwrap_err();
        assert_eq!((error.code, error.field.as_deref()), (ErrorCode::Invalid, Some(field)), "{error:?}");
        assert!(error.hint.is_some(), "{error:?}");
    }
}
