//! Workloads as micro services of NATS: what a client that knows ADR-32 and nothing of the lattice is told of them.

use crate::{
    harness::{Api, Lattice, PATIENCE, api::spec, eventually},
    nats::{ask as ask_guest, courier, done, refused},
};
use futures_util::StreamExt as _;
use lattice::store::{Headers, Message};
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};

/// What all who answer say, until nobody else does.
async fn ask(api: &Api, subject: &str) -> Vec<Value> {
    let (bus, inbox) = (api.bus(), api.bus().inbox());
    let mut replies = bus.subscribe(inbox.clone(), None).await.unwrap();
    bus.publish(Message { subject: subject.to_owned(), reply: Some(inbox), ..Message::default() }).await.unwrap();
    let mut found = Vec::new();
    // The last one is followed by nothing: only time tells.
    while let Ok(Some(reply)) = tokio::time::timeout(Duration::from_secs(1), replies.next()).await {
        if reply.payload.is_empty() {
            break; // nobody listens, says the server
        }
        found.push(serde_json::from_slice(&reply.payload).unwrap());
    }
    found
}

/// The same, once there are so many.
async fn instances(api: &Api, subject: &str, count: usize) -> Vec<Value> {
    let mut found = Vec::new();
    eventually("as many instances answer", PATIENCE, async || {
        found = ask(api, subject).await;
        if found.len() == count { Ok(()) } else { Err(format!("{subject}: {found:?}")) }
    })
    .await;
    found
}

async fn deployed(api: &Api, replicas: u32, micro: Value) -> Value {
    let mut asked = spec("tasks", api.upload("tasks").await, replicas);
    asked.as_object_mut().unwrap().remove("http");
    asked["messages"] = json!([
        { "subject": "tasks.*", "endpoint": "shout" },
        { "subject": "audit.>", "group": "auditors" },
        { "subject": "jobs", "group": "q", "endpoint": "jobs" },
    ]);
    asked["micro"] = micro;
    api.put(&asked).await.unwrap();
    api.ready("tasks").await;
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_instances_of_a_service_that_any_client_finds() {
    let lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    let micro =
        json!({ "version": "1.2.0", "name": "Shouter", "description": "Shouts", "metadata": { "team": "shop" } });
    let mut asked = deployed(&api, 2, micro).await;

    let pings = instances(&api, "$SRV.PING.Shouter", 2).await;
    let mut ids = BTreeSet::new();
    for ping in &pings {
        assert_eq!(ping["type"], "io.nats.micro.v1.ping_response", "{ping}");
        assert_eq!((&ping["name"], &ping["version"]), (&json!("Shouter"), &json!("1.2.0")), "{ping}");
        let metadata = &ping["metadata"];
        assert_eq!((&metadata["team"], &metadata["workload"]), (&json!("shop"), &json!("tasks")), "{ping}");
        ids.insert(ping["id"].as_str().unwrap().to_owned());
    }
    let replicas: BTreeSet<&str> = pings.iter().map(|ping| ping["metadata"]["replica"].as_str().unwrap()).collect();
    assert_eq!((ids.len(), replicas), (2, BTreeSet::from(["0", "1"])));
    // With all services, nodes among them; and one alone.
    let all = ask(&api, "$SRV.PING").await;
    let names: Vec<&str> = all.iter().map(|ping| ping["name"].as_str().unwrap()).collect();
    assert_eq!(names.iter().filter(|name| **name == "Shouter").count(), 2, "{names:?}");
    assert!(names.contains(&"lattice-ctl"), "{names:?}");
    for id in &ids {
        let one = instances(&api, &format!("$SRV.INFO.Shouter.{id}"), 1).await;
        assert_eq!(one[0]["id"], id.as_str());
        let endpoint = |name: &str, subject: &str, group: &str| json!({ "name": name, "subject": subject, "queue_group": group, "metadata": {} });
        let expect = json!([endpoint("shout", "tasks.*", "lattice-default-tasks"), endpoint("jobs", "jobs", "q")]);
        assert_eq!((&one[0]["endpoints"], &one[0]["description"]), (&expect, &json!("Shouts")));
    }
    for nobody in ["$SRV.PING.tasks", "$SRV.INFO.shouter", "$SRV.PING.Shouter.x", "$SRV.SCHEMA.Shouter"] {
        assert_eq!(ask(&api, nobody).await, [] as [Value; 0], "{nobody}");
    }

    let request = async |subject: &str, text: String| {
        let asked = api.bus().request(subject.into(), Headers::new(), text.into_bytes().into(), Duration::from_secs(5));
        asked.await.unwrap()
    };
    // Each request is counted where it was handled, and what failed among them.
    for n in 0..10 {
        let reply = request("tasks.a", format!("hello {n}")).await;
        assert!(reply.payload.starts_with(b"HELLO"), "{reply:?}");
    }
    let failed = request("jobs", "fail".to_owned()).await;
    assert_eq!(failed.headers.get("Nats-Service-Error-Code").map(String::as_str), Some("500"));
    // The reply is on its way before the handler is done.
    eventually("all is counted", PATIENCE, async || {
        let stats = instances(&api, "$SRV.STATS.Shouter", 2).await;
        let endpoints = |of: usize| stats.iter().map(move |stats| &stats["endpoints"][of]);
        let sum = |of: usize, what: &str| endpoints(of).map(|endpoint| endpoint[what].as_u64().unwrap()).sum::<u64>();
        let counted = [sum(0, "num_requests"), sum(0, "num_errors"), sum(1, "num_requests"), sum(1, "num_errors")];
        if counted != [10, 0, 1, 1] {
            return Err(format!("{stats:?}"));
        }
        assert!(sum(0, "processing_time") > 0);
        for endpoint in endpoints(0).chain(endpoints(1)) {
            let (requests, total) =
                (endpoint["num_requests"].as_u64().unwrap(), endpoint["processing_time"].as_u64().unwrap());
            assert_eq!(endpoint["average_processing_time"], total.checked_div(requests).unwrap_or(0));
        }
        assert!(endpoints(1).any(|endpoint| endpoint["last_error"] == "500: the message was not handled"));
        assert!(stats.iter().all(|stats| humantime::parse_rfc3339(stats["started"].as_str().unwrap()).is_ok()));
        Ok(())
    })
    .await;

    // One less, and none.
    asked["replicas"] = json!(1);
    api.put(&asked).await.unwrap();
    instances(&api, "$SRV.PING.Shouter", 1).await;
    api.delete("tasks").await.unwrap();
    instances(&api, "$SRV.PING.Shouter", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_find_the_services_that_they_may_ask() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    deployed(&api, 1, json!({ "version": "1.2.0", "description": "Shouts" })).await;
    instances(&api, "$SRV.PING.tasks", 1).await;
    courier(&api, 1, json!({ "services": ["tasks", "nobody"], "publish": ["tasks.*", "jobs"] })).await;
    let node = lattice.node("n1").http();
    let tasks = [("name", "tasks")];

    let ping = done(&node, "/service-ping", &tasks, "").await;
    let id = ping.trim().strip_prefix("tasks 1.2.0 ").unwrap();
    let one = [("name", "tasks"), ("id", id)];
    assert_eq!(done(&node, "/service-ping", &one, "").await, ping);
    let info = format!("{} \"Shouts\" shout=tasks.*/lattice-default-tasks jobs=jobs/q\n", ping.trim());
    assert_eq!(done(&node, "/service-info", &tasks, "").await, info);
    assert_eq!(done(&node, "/service-info", &one, "").await, info);

    let shouted = done(&node, "/service-request", &[("subject", "tasks.a")], "hello").await;
    assert!(shouted.starts_with("HELLO"), "{shouted}");
    let failed = done(&node, "/service-request", &[("subject", "jobs")], "fail").await;
    assert_eq!(failed, "error 500: the message was not handled");
    let stats = format!("{} shout=1/0 jobs=1/1\n", ping.trim());
    eventually("all is counted", PATIENCE, async || {
        let told = done(&node, "/service-stats", &tasks, "").await;
        if told == stats { Ok(()) } else { Err(told) }
    })
    .await;

    // Whom it may not ask, and who is not there.
    for path in ["/service-ping", "/service-info", "/service-stats"] {
        for name in ["lattice-ctl", "Tasks", "other"] {
            refused(&node, path, &[("name", name)], "denied definitely-not").await;
        }
        for name in ["", "*", ">", "a.b", "tasks.*"] {
            refused(&node, path, &[("name", name)], "invalid(\"name\") definitely-not").await;
        }
        for bad in ["*", ">", "a.b", ""] {
            refused(&node, path, &[("name", "tasks"), ("id", bad)], "invalid(\"id\") definitely-not").await;
        }
        refused(&node, path, &[("name", "nobody")], "no-responders definitely-not").await;
        refused(&node, path, &[("name", "tasks"), ("id", "nobody")], "no-responders definitely-not").await;
    }
    refused(&node, "/service-request", &[("subject", "$SRV.PING")], "denied definitely-not").await;
    refused(&node, "/service-request", &[("subject", "audit.a")], "denied definitely-not").await;
    let (status, _) = ask_guest(&node, "/service-request", &[("subject", "tasks.a"), ("ms", "0")], "hello").await;
    assert_eq!(status, 502, "no time was left");
}
