//! What a client must not be able to do, and what damage in the store must not do.

use crate::harness::{
    Api, Lattice, PATIENCE,
    api::{holders, reply, spec},
    eventually,
    load::Load,
    shared,
};
use futures_util::StreamExt as _;
use lattice::{
    ctl::{ErrorCode, PutReply},
    event::CloudEvent,
    record::{Record as _, Slot, SpecRecord},
    store::{Bucket, Headers, Message},
};
use serde_json::Value;

fn refusals(lattice: &Lattice) -> usize {
    let count = |log: String| log.lines().filter(|line| line.contains("reply subject is not an inbox")).count();
    lattice.nodes.iter().map(|node| count(node.process().log())).sum()
}

#[tokio::test]
async fn a_node_publishes_only_where_answers_go() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let digest = api.upload("hello-http02").await;
    let asked = spec("forged", digest, 1).to_string();
    let slot = "$KV.lattice-default-state.slot.forged.0";
    let targets = [
        Some(slot),
        Some("lattice.default.evt.node-lost"),
        Some("_INBOX"),
        Some("_INBOXES.a.b"),
        Some("x._INBOX.a"),
        None,
    ];
    let operations = [
        ("workload.put", asked.as_bytes()),
        ("workload.list", b""),
        ("node.list", b""),
        ("workload.explode", b""),
        ("workload.delete.forged", b""),
    ];
    let mut seen = Vec::new();
    for target in targets.into_iter().flatten() {
        seen.push(api.bus().subscribe(target.to_owned(), None).await.unwrap());
    }
    let before = refusals(&lattice);
    for reply in targets {
        for (operation, payload) in operations {
            let message = Message {
                subject: format!("lattice.default.ctl.{operation}"),
                reply: reply.map(str::to_owned),
                payload: payload.to_vec().into(),
                ..Message::default()
            };
            api.bus().publish(message).await.unwrap();
        }
    }
    let expected = targets.len() * operations.len();
    eventually("every one is refused, in the log", PATIENCE, async || match refusals(&lattice) - before {
        count if count >= expected => Ok(()),
        count => Err(format!("{count} of {expected}")),
    })
    .await;
    api.bus().flush().await.unwrap();
    for mut messages in seen {
        let first = tokio::time::timeout(std::time::Duration::from_millis(50), messages.next()).await;
        if let Ok(Some(message)) = first {
            let payload = String::from_utf8_lossy(&message.payload).into_owned();
            assert!(!payload.contains("\"ok\"") && !payload.contains("\"error\""), "{}: {payload}", message.subject);
        }
    }
    assert_eq!(api.slots("forged").await.len(), 0);
    assert_eq!(api.get("forged").await.unwrap_err().code, ErrorCode::NotFound);
}

#[tokio::test]
async fn a_request_that_a_stream_delivered_is_refused() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let asked = spec("replayed", api.upload("hello-http02").await, 1).to_string();
    for header in ["Nats-Stream", "Nats-Sequence", "Nats-Time-Stamp"] {
        let headers = Headers::from([(header.to_owned(), "1".to_owned())]);
        let message = api.request("lattice.default.ctl.workload.put", headers, asked.as_bytes()).await.unwrap();
        let error = reply::<PutReply>(&message).unwrap_err();
        assert_eq!(error.code, ErrorCode::Refused, "{header}");
        assert!(error.message.contains(header), "{error:?}");
    }
    assert_eq!(api.get("replayed").await.unwrap_err().code, ErrorCode::NotFound);
}

/// Overwrites a key past every rule of the lattice, as a person with the nats CLI could. Answers with the revision.
async fn vandalise(api: &Api, bucket: Bucket, key: &str, value: &[u8]) -> u64 {
    let subject = format!("$KV.lattice-{}-{bucket}.{key}", api.lattice);
    let ack = api.request(&subject, Headers::new(), value).await.unwrap();
    let ack: Value = serde_json::from_slice(&ack.payload).unwrap();
    ack["seq"].as_u64().unwrap_or_else(|| panic!("{ack}"))
}

async fn reported(api: &Api, key: &str, revision: u64) {
    eventually(&format!("{key} is reported"), PATIENCE, async || {
        let events = api.nats.events(&api.lattice, 1000, false).await.map_err(|error| error.to_string())?;
        let events: Vec<CloudEvent> = events.map(|event| serde_json::from_slice(&event).unwrap()).collect().await;
        let mut about =
            events.iter().filter(|event| event.kind == "dev.lattice.record-corrupt" && event.subject == key);
        let text = format!("revision {revision} ");
        if about.any(|event| event.data.to_string().contains(&text)) { Ok(()) } else { Err("no such event".to_owned()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corrupt_record_stops_nothing_is_reported_and_repaired() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let status = api.deploy("damaged", "hello-http02", 2).await;
    lattice.serving("damaged.test", "/").await;
    let load = Load::start(lattice.nodes.iter().map(|node| node.http()), "damaged.test", "/quiet");

    for garbage in [&b"\0\xff not json"[..], b"{}", b"null", br#"{"v":1,"holder":7}"#, b""] {
        let (slot, spec_key) = ("slot.damaged.1", "spec.damaged");
        let slot_revision = vandalise(&api, Bucket::State, slot, garbage).await;
        reported(&api, slot, slot_revision).await;
        let spec_revision = vandalise(&api, Bucket::Specs, spec_key, garbage).await;
        reported(&api, spec_key, spec_revision).await;
        eventually("both are repaired", PATIENCE, async || {
            let find = async |bucket, key: &str| {
                let entry = api.snapshot(bucket).await.entries.into_iter().find(|entry| entry.key == key);
                entry.ok_or_else(|| format!("{key} is gone"))
            };
            let slot = Slot::decode(&find(Bucket::State, slot).await?.value).map_err(|error| error.to_string())?;
            let spec =
                SpecRecord::decode(&find(Bucket::Specs, spec_key).await?.value).map_err(|error| error.to_string())?;
            assert_eq!(slot.holder.node, holders(&status)[1]);
            assert_eq!((spec.spec.name.as_str(), spec.generation), ("damaged", status.generation));
            Ok::<_, String>(())
        })
        .await;
    }
    assert_eq!(holders(&api.ready("damaged").await), holders(&status));
    load.stop().await.assert_none_failed();

    // A key that no slot can have, and one of a workload that is not there: noise.
    vandalise(&api, Bucket::State, "slot.damaged.x", b"x").await;
    let ghost = vandalise(&api, Bucket::State, "slot.ghost.0", b"x").await;
    reported(&api, "slot.ghost.0", ghost).await;
    eventually("the ghost is gone", PATIENCE, async || match api.slots("ghost").await {
        slots if slots.is_empty() => Ok(()),
        slots => Err(format!("{slots:?}")),
    })
    .await;
}
