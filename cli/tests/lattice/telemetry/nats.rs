//! What guests do with NATS: spans below the request for which they do it, and counts, over OTLP and in `/metrics`.

use super::{
    attribute, borrowed,
    counts::Metrics,
    environment, one,
    spans::{chain, complete},
};
use crate::{
    harness::{
        Api, Lattice, PATIENCE, Server,
        api::spec,
        eventually, http,
        otlp::{Point, Receiver, Span},
    },
    nats::{Arguments, ask, courier, done, make_bucket},
};
use futures_util::StreamExt as _;
use hyper::Method;
use serde_json::json;

async fn observed(receiver: &Receiver) -> (Lattice, Api) {
    let environment = environment(&receiver.url());
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    lattice.launch_node_with("n1", &[], &borrowed(&environment));
    lattice.all_ready().await;
    let api = lattice.api().await;
    (lattice, api)
}

/// A trace of a client that records it: its id, and its context.
fn trace(number: u32) -> (String, String) {
    let trace = format!("{:032x}", 0xbcde_0000_0000_0000_0000_0000_0000_0000 | u128::from(number));
    let context = format!("00-{trace}-00f067aa0ba902b7-01");
    (trace, context)
}

#[track_caller]
fn check(span: &Span, kind: i32, expect: &[(&str, &str)]) {
    assert_eq!(span.kind, kind, "{span:#?}");
    for (key, value) in expect {
        assert_eq!(attribute(span, key), *value, "{key} of {span:#?}");
    }
}

/// The last one of its series that came.
fn last(receiver: &Receiver, name: &str, labels: &[(&str, &str)]) -> Option<Point> {
    let is = |point: &Point| labels.iter().all(|(key, value)| point.attributes.get(*key).is_some_and(|it| it == value));
    receiver.points(name).into_iter().rfind(is)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_guest_does_with_nats_is_a_part_of_its_trace_and_counted() {
    let receiver = Receiver::start().await;
    let (lattice, api) = observed(&receiver).await;
    make_bucket(&api, "observed", json!({})).await;
    let grants = json!({ "publish": ["orders.>", "nobody.*"], "buckets": { "carts": { "bucket": "observed" } } });
    courier(&api, 1, grants).await;
    let n1 = lattice.node("n1");
    let node = n1.http();
    let bus = api.bus();
    let mut orders = bus.subscribe("orders.>".into(), None).await.unwrap();
    bus.flush().await.unwrap();

    // A message is sent in the context of the span that tells of it.
    let (id, context) = trace(1);
    let arguments = [("subject", "orders.number-7"), ("traceparent", context.as_str())];
    done(&node, "/publish", &arguments, "7 apples").await;
    let spans = complete(&receiver, &id, 4).await;
    let publish = chain(&spans, one(&spans, "POST /").unwrap(), &["guest", "publish"])[1];
    let expect = [
        ("lattice.interface", "lattice:nats/core"),
        ("messaging.system", "nats"),
        ("messaging.operation.name", "publish"),
        ("messaging.operation.type", "send"),
        ("messaging.destination.name", "orders.number-7"),
        ("messaging.message.body.size", "8"),
        ("error.type", ""),
    ];
    check(publish, 4, &expect);
    let told = orders.next().await.unwrap().headers.get("traceparent").cloned();
    assert_eq!(told, Some(format!("00-{id}-{}-01", publish.id)), "{spans:#?}");

    // A bucket is a database. Which keys there are is nobody's to see.
    let (id, context) = trace(2);
    let arguments = [("bucket", "carts"), ("key", "of-anna"), ("traceparent", context.as_str())];
    done(&node, "/put", &arguments, "3 pears").await;
    let spans = complete(&receiver, &id, 5).await;
    let server = one(&spans, "POST /").unwrap();
    chain(&spans, server, &["guest", "open"]);
    let put = chain(&spans, server, &["guest", "put carts"])[1];
    let expect = [
        ("lattice.interface", "lattice:nats/kv"),
        ("db.system.name", "nats"),
        ("db.operation.name", "put"),
        ("db.collection.name", "carts"),
    ];
    check(put, 3, &expect);
    assert!(!format!("{spans:?}").contains("of-anna"), "{spans:#?}");

    // How it failed, as the guest is told.
    let of_kv: Arguments<'_> = &[("bucket", "carts"), ("key", "of-anna")];
    let cases: [(&str, Arguments<'_>, &str, &str); 3] = [
        ("/create", of_kv, "create carts", "already-exists"),
        ("/publish", &[("subject", "other.number-8")], "publish", "denied"),
        ("/request", &[("subject", "nobody.one"), ("ms", "1000")], "request", "no-responders"),
    ];
    for ((path, arguments, name, error), number) in cases.into_iter().zip(3..) {
        let (id, context) = trace(number);
        let arguments = [arguments, &[("traceparent", context.as_str())]].concat();
        let (status, text) = ask(&node, path, &arguments, "x").await;
        assert!(status == 502 && text.starts_with(error), "{path}: {status} {text}");
        let spans = eventually("the spans of the trace are there", PATIENCE, async || {
            let spans = receiver.spans(&id);
            one(&spans, "POST /").and_then(|_| one(&spans, name)).map(|_| ())?;
            Ok::<_, String>(spans)
        })
        .await;
        let span = chain(&spans, one(&spans, "POST /").unwrap(), &["guest", name])[1];
        check(span, span.kind, &[("error.type", error), ("lattice.nats.outcome", "definitely-not")]);
        assert_eq!(span.status, 2, "{span:#?}");
    }

    let metrics = Metrics::of(n1).await;
    let counts = [
        ("lattice:nats/core", "publish", "done", 1.0),
        ("lattice:nats/core", "publish", "denied", 1.0),
        ("lattice:nats/core", "request", "failed", 1.0),
        ("lattice:nats/kv", "open", "done", 2.0),
        ("lattice:nats/kv", "write", "done", 1.0),
        ("lattice:nats/kv", "write", "conflict", 1.0),
    ];
    for (interface, operation, outcome, count) in counts {
        let labels = [
            ("workload", "courier"),
            ("replica", "0"),
            ("interface", interface),
            ("operation", operation),
            ("outcome", outcome),
        ];
        assert_eq!(metrics.get("lattice_unit_nats_operations_total", &labels), count, "{labels:?}");
        assert_eq!(metrics.get("lattice_unit_nats_operation_seconds_count", &labels), count, "{labels:?}");
        let point = eventually("the collector has it", PATIENCE, async || {
            let point = last(&receiver, "lattice_unit_nats_operations", &labels);
            point.filter(|point| point.value == count).ok_or_else(|| format!("{labels:?}"))
        })
        .await;
        assert_eq!(point.attributes.len(), labels.len(), "{point:?}");
        let durations = last(&receiver, "lattice_unit_nats_operation_seconds", &labels).expect("durations");
        assert!(durations.unit == "s" && durations.buckets.len() == 12, "{durations:?}");
    }
    for word in ["number-", "of-anna", "nobody"] {
        assert!(!metrics.0.contains(word), "{word} in {}", metrics.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_portable_interfaces_are_seen_alike() {
    let receiver = Receiver::start().await;
    let (lattice, api) = observed(&receiver).await;
    make_bucket(&api, "counters", json!({})).await;
    let mut counter = spec("counter", api.upload("counter").await, 1);
    counter["grants"] = json!({ "keyvalue": { "default": { "bucket": "counters" } } });
    let mut sender = spec("sender", api.upload("sender").await, 1);
    sender["grants"] = json!({ "messaging": { "publish": ["orders.>"] } });
    for asked in [counter, sender] {
        api.put(&asked).await.unwrap();
    }
    let n1 = lattice.node("n1");
    let bus = api.bus();
    let mut orders = bus.subscribe("orders.>".into(), None).await.unwrap();
    bus.flush().await.unwrap();
    let post = async |workload: &str, path: &str, number: u32| {
        api.ready(workload).await;
        let (id, context) = trace(number);
        let (host, headers) = (format!("{workload}.test"), [("traceparent", context.as_str())]);
        let body = http::full(b"7 apples".to_vec());
        let answer = http::send(&n1.http(), Method::POST, &host, path, &headers, body).await.unwrap();
        let answer = http::whole(answer).await.unwrap();
        assert!(answer.status < 300, "{answer:?}");
        id
    };

    let id = post("counter", "/visits?by=2", 11).await;
    let spans = complete(&receiver, &id, 5).await;
    let increment = chain(&spans, one(&spans, "POST /").unwrap(), &["guest", "increment default"])[1];
    let expect =
        [("lattice.interface", "wasi:keyvalue"), ("db.system.name", "nats"), ("db.collection.name", "default")];
    check(increment, 3, &expect);

    let id = post("sender", "/publish/orders.one", 12).await;
    let spans = complete(&receiver, &id, 4).await;
    let publish = chain(&spans, one(&spans, "POST /").unwrap(), &["guest", "publish"])[1];
    check(publish, 4, &[("lattice.interface", "wasmcloud:messaging"), ("messaging.destination.name", "orders.one")]);
    let told = orders.next().await.unwrap().headers.get("traceparent").cloned();
    assert_eq!(told, Some(format!("00-{id}-{}-01", publish.id)), "{spans:#?}");

    let metrics = Metrics::of(n1).await;
    for (workload, interface, operation) in
        [("counter", "wasi:keyvalue", "write"), ("sender", "wasmcloud:messaging", "publish")]
    {
        let labels = [("workload", workload), ("interface", interface), ("operation", operation), ("outcome", "done")];
        assert_eq!(metrics.get("lattice_unit_nats_operations_total", &labels), 1.0, "{labels:?}");
    }
}
