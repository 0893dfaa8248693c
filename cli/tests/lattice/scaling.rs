//! Workloads that scale themselves: replicas come with the load and go with it, and no request notices.

use crate::harness::{Api, Lattice, PATIENCE, api::spec, eventually, http, load::Load};
use futures_util::{FutureExt as _, StreamExt as _};
use hyper::Method;
use lattice::{
    ctl::{ErrorCode, StatusReply, WorkloadState},
    event::CloudEvent,
    id::Digest,
    record::Outcome,
    store::{Headers, Items, Message},
};
use serde_json::{Value, json};
use std::time::Instant;

/// A workload whose requests can be told how long to take, with `autoscale` in place of `replicas`.
fn scaling(name: &str, digest: Digest, autoscale: Value) -> Value {
    let mut asked = spec(name, digest, 1);
    asked.as_object_mut().unwrap().remove("replicas");
    asked["autoscale"] = autoscale;
    asked
}

/// Wait until so many replicas are wanted and ready.
async fn has(api: &Api, name: &str, replicas: u32) -> StatusReply {
    eventually(&format!("{name} has {replicas} replicas"), PATIENCE, async || {
        let status = api.status(name).await.map_err(|error| error.to_string())?;
        let is_there =
            (status.replicas, status.ready) == (replicas, replicas) && status.slots.len() == replicas as usize;
        if is_there { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await
}

/// Every number of replicas that is decided on from now on, with the reason.
async fn decisions(api: &Api) -> Items<Message> {
    let subject = format!("lattice.{}.evt.workload-scaled", api.lattice);
    let events = api.bus().subscribe(subject, None).await.unwrap();
    api.bus().flush().await.unwrap();
    events
}

fn texts(events: &mut Items<Message>) -> Vec<String> {
    let next = || events.next().now_or_never().flatten();
    let text = |message: Message| {
        let event: CloudEvent = serde_json::from_slice(&message.payload).unwrap();
        event.data["message"].as_str().unwrap().to_owned()
    };
    std::iter::from_fn(next).map(text).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_follow_the_load_and_no_request_is_lost() {
    let lattice = Lattice::start(3).await;
    let api = lattice.api().await;
    let digest = api.upload("faults03").await;
    let mut events = decisions(&api).await;
    let autoscale = json!({ "max": 5, "target": { "concurrency": 2 }, "down-after": "8s" });
    api.put(&scaling("busy", digest, autoscale)).await.unwrap();
    has(&api, "busy", 1).await;

    // Seven at a time, which four replicas carry.
    let addresses = || lattice.nodes.iter().map(|node| node.http()).cycle();
    let load = Load::start(addresses().take(7), "busy.test", "/sleep/400");
    let up = has(&api, "busy", 4).await;
    let why = up.autoscale.unwrap().last.unwrap();
    assert!(why.why.contains("requests at a time"), "{why:?}");
    let busy = load.stop().await;
    busy.assert_none_failed();

    let load = Load::start(addresses().take(1), "busy.test", "/sleep/20");
    has(&api, "busy", 1).await;
    load.stop().await.assert_none_failed();
    let texts = texts(&mut events);
    // Up without a turn, then down without one.
    let last = texts.last().unwrap();
    assert!(last.ends_with("→ 1 replicas: no more were needed for 8s"), "{texts:?}");
    let numbers: Vec<u32> = texts.iter().map(|text| text.split(' ').nth(2).unwrap().parse().unwrap()).collect();
    let top = numbers.iter().position(|number| *number == 4).unwrap();
    assert!(numbers[..=top].is_sorted() && numbers[top..].is_sorted_by(|one, next| one > next), "{texts:?}");

    let refused = api.scale("busy", 3).await.unwrap_err();
    assert_eq!((refused.code, refused.field.as_deref()), (ErrorCode::Invalid, Some("replicas")));
    assert!(refused.message.contains("between 1 and 5") && refused.hint.is_some(), "{refused:?}");
    let shown = lattice.cli_ok(&["status", "busy"]).await;
    assert!(shown.contains("concurrency 2") && shown.contains("→ 1"), "{shown}");

    // Nothing decides about it any more, and what was decided is gone.
    api.put(&spec("busy", digest, 2)).await.unwrap();
    has(&api, "busy", 2).await;
    eventually("the record is gone", PATIENCE, async || {
        let state = api.snapshot(lattice::store::Bucket::State).await;
        let left = state.entries.iter().any(|entry| entry.key == "scale.busy");
        if left { Err("scale.busy is there") } else { Ok(()) }
    })
    .await;
}

/// An answer of JetStream.
async fn jetstream(api: &Api, what: &str, body: Value) -> Value {
    let answer = api.request(&format!("$JS.API.{what}"), Headers::new(), body.to_string().as_bytes()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer.get("error").is_none(), "{what}: {answer}");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_wait_at_a_consumer_bring_replicas_and_their_end_takes_the_last() {
    let lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    let digest = api.upload("hello-http02").await;
    jetstream(&api, "STREAM.CREATE.orders", json!({ "name": "orders", "subjects": ["orders.*"] })).await;
    let target = json!({ "pending": { "stream": "orders", "consumer": "shop", "each": 10 } });
    let autoscale = json!({ "min": 0, "max": 4, "idle": "2s", "down-after": "2s", "target": target });
    let asked = scaling("drains", digest, autoscale);
    let warned = api.put(&asked).await.unwrap().warnings;
    assert_eq!(warned[0].field, "autoscale.target.pending");
    assert!(warned[0].message.contains("no consumer shop of a stream orders"), "{warned:?}");
    has(&api, "drains", 1).await;

    // What is not known is not nothing: it stays. With the consumer it is known to be nothing.
    let consumer = json!({ "stream_name": "orders", "config": { "durable_name": "shop", "ack_policy": "explicit" } });
    jetstream(&api, "CONSUMER.DURABLE.CREATE.orders.shop", consumer).await;
    assert_eq!(api.put(&asked).await.unwrap().warnings, []);
    let resting = has(&api, "drains", 0).await;
    assert_eq!(resting.autoscale.unwrap().last.unwrap().why, "no request and nothing pending for 2s");
    let refused = lattice.cli(&["explain", "drains"]).await.stderr;
    let refused = String::from_utf8_lossy(&refused);
    assert!(refused.contains("or a message that waits at orders/shop"), "{refused}");

    let publish = async |number: usize| {
        for _ in 0..number {
            api.request("orders.new", Headers::new(), b"one").await.unwrap();
        }
    };
    publish(35).await;
    let up = has(&api, "drains", 4).await;
    let why = up.autoscale.unwrap().last.unwrap().why;
    assert!(why.contains("messages of orders/shop") && why.contains("10 each are the target"), "{why}");
    let shown = lattice.cli_ok(&["status", "drains"]).await;
    assert!(shown.contains("pending 10 of orders/shop"), "{shown}");
    jetstream(&api, "STREAM.PURGE.orders", json!({})).await;
    has(&api, "drains", 0).await;
    publish(1).await;
    let woken = has(&api, "drains", 1).await;
    let why = woken.autoscale.unwrap().last.unwrap().why;
    assert_eq!(why, "1 messages of orders/shop on no replica, and 10 each are the target");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_follow_the_processor_time_of_their_guests() {
    let lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    let digest = api.upload("faults03").await;
    // So little that it is reached however busy the machine is.
    let autoscale = json!({ "max": 3, "target": { "cpu": 8 }, "down-after": "4s" });
    api.put(&scaling("computes", digest, autoscale)).await.unwrap();
    has(&api, "computes", 1).await;
    let load = Load::start(lattice.nodes.iter().map(|node| node.http()), "computes.test", "/compute/40");
    let up = has(&api, "computes", 3).await;
    let why = up.autoscale.unwrap().last.unwrap().why;
    assert!(why.contains("% of a core on") && why.contains("8 % each are the target"), "{why}");
    load.stop().await.assert_none_failed();
    has(&api, "computes", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rests_answers_the_first_request_at_any_node() {
    let lattice = Lattice::start(3).await;
    let api = lattice.api().await;
    let digest = api.upload("hello-http02").await;
    let autoscale = json!({ "min": 0, "max": 3, "idle": "2s" });
    api.put(&scaling("rests", digest, autoscale.clone())).await.unwrap();
    has(&api, "rests", 1).await;
    let resting = has(&api, "rests", 0).await;
    assert_eq!(resting.state, WorkloadState::Idle);
    assert_eq!(resting.autoscale.unwrap().last.unwrap().why, "no request for 2s");

    // One request, then many at all nodes in the same moment: all are answered, and there is one decision each time.
    for times in [1, 6] {
        has(&api, "rests", 0).await;
        let mut events = decisions(&api).await;
        let began = Instant::now();
        let nodes = lattice.nodes.iter().map(|node| node.http()).cycle().take(times);
        let asked = nodes.map(|address| async move { http::get(&address, "rests.test", "/").await.status });
        let answers = futures_util::future::join_all(asked).await;
        println!("{times} requests: answered {} ms after zero", began.elapsed().as_millis());
        assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
        assert_eq!(texts(&mut events), ["0 → 1 replicas: a request waits for it"]);
    }

    // A workload that has none is brought back by another one's call, and by its own schedule.
    let caller = api.upload("fetcher").await;
    let mut asks = spec("asks", caller, 1);
    asks["grants"] = json!({ "http-out": ["http://rests.lattice"] });
    api.put(&asks).await.unwrap();
    api.ready("asks").await;
    has(&api, "rests", 0).await;
    let target = [("x-target", "http://rests.lattice/")];
    let asked = http::send(&lattice.nodes[0].http(), Method::GET, "asks.test", "/", &target, http::empty()).await;
    assert_eq!(http::whole(asked.unwrap()).await.unwrap().status, 200);
    let ticker = api.upload("ticker").await;
    let mut ticks = scaling("ticks", ticker, autoscale);
    ticks["schedule"] = json!([{ "cron": "*/15 * * * * *", "path": "/" }]);
    api.put(&ticks).await.unwrap();
    has(&api, "ticks", 0).await;
    let fired = async || api.status("ticks").await.unwrap().schedules[0].last.clone().and_then(|last| last.outcome);
    let before = api.status("ticks").await.unwrap().schedules[0].last.clone();
    eventually("a tick wakes it", PATIENCE, async || {
        let last = api.status("ticks").await.unwrap().schedules[0].last.clone();
        if last != before && fired().await == Some(Outcome::Answered(200)) { Ok(()) } else { Err(format!("{last:?}")) }
    })
    .await;
}
