//! What the metrics of routes and replicas say after requests of which everything is known.

use super::{borrowed, environment};
use crate::harness::{
    Lattice, Node, PATIENCE, Server,
    api::spec,
    eventually,
    http::{self, Body, Error},
    otlp::{Point, Receiver},
};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{Method, body::Frame};
use serde_json::json;
use std::time::Instant;
use tokio::sync::mpsc;

/// Metrics of a node at one moment.
pub(super) struct Metrics(pub(super) String);

impl Metrics {
    pub(super) async fn of(node: &Node) -> Self {
        Self(http::get(&node.admin(), "localhost", "/metrics").await.ok().text())
    }

    /// The sum of all series of this name that have these labels; 0 where there is none.
    pub(super) fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let of_these = self.0.lines().filter(|line| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']));
            rest.is_some_and(|rest| labels.iter().all(|label| rest.contains(label)))
        });
        of_these.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }
}

/// Wait until a metric has a value.
async fn becomes(node: &Node, name: &str, labels: &[(&str, &str)], value: f64) {
    eventually(&format!("{name} is {value}"), PATIENCE, async || {
        let found = Metrics::of(node).await.get(name, labels);
        if found == value { Ok(()) } else { Err(found) }
    })
    .await;
}

/// A body that goes on until the sender is dropped.
fn open_body() -> (mpsc::UnboundedSender<Bytes>, Body) {
    let (sender, pieces) = mpsc::unbounded_channel();
    let pieces = stream::unfold(pieces, |mut pieces| async move {
        let piece: Bytes = pieces.recv().await?;
        Some((Ok::<_, Error>(Frame::data(piece)), pieces))
    });
    (sender, StreamBody::new(pieces).boxed_unsync())
}

async fn post(node: &Node, host: &str, path: &str, body: Body) -> http::Answer {
    let answer = http::send(&node.http(), Method::POST, host, path, &[], body).await.unwrap();
    http::whole(answer).await.unwrap().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_count_what_happened() {
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    let access = tempfile::tempdir().unwrap();
    let access = access.path().join("access.log");
    let log = ["--label", "pin=a", "--access-log-file", access.to_str().unwrap()];
    lattice.launch_node_with("n1", &log, &[]);
    lattice.launch_node_with("n2", &["--label", "pin=b"], &[]);
    lattice.all_ready().await;
    let api = lattice.api().await;
    let n1 = lattice.node("n1");

    // One turn, and one instance that takes all of them.
    let mut asked = spec("counted", api.upload("echo").await, 1);
    asked["placement"] = json!({ "require": ["pin == a"] });
    asked["limits"] = json!({ "concurrency": 1 });
    asked["reuse"] = json!({ "max-instances": 1 });
    api.put(&asked).await.unwrap();
    // Twice, so that it is known to take more than one: no POST is tried with an instance before.
    for _ in 0..4 {
        n1.answers("counted.test", "/bytes/1", (200, "")).await;
    }
    let route = [("workload", "counted"), ("route", "counted.test/")];
    let replica = [("workload", "counted"), ("replica", "0")];
    let answered = [&route[..], &[("status", "2xx"), ("path", "local")]].concat();
    becomes(n1, "lattice_router_route_in_flight", &route, 0.0).await;
    let before = Metrics::of(n1).await;

    let sent = post(n1, "counted.test", "/count", http::chunked(vec![1; 1000])).await;
    assert_eq!(sent.text(), "1000 1000\n");
    assert_eq!(n1.get("counted.test", "/bytes/5000").await.ok().body.len(), 5000);
    // One is at work until its body ends, and the next one waits for its turn.
    let (body, rest) = open_body();
    body.send("0123456789".into()).unwrap();
    let waited = Instant::now();
    let (first, second) = tokio::join!(
        async {
            let both = post(n1, "counted.test", "/count", rest);
            let ends = async {
                becomes(n1, "lattice_unit_in_flight", &replica, 1.0).await;
                becomes(n1, "lattice_unit_queued", &replica, 1.0).await;
                becomes(n1, "lattice_router_route_in_flight", &route, 2.0).await;
                drop(body);
            };
            tokio::join!(both, ends).0
        },
        async {
            becomes(n1, "lattice_unit_in_flight", &replica, 1.0).await;
            n1.get("counted.test", "/bytes/7").await.ok()
        }
    );
    let waited = waited.elapsed().as_secs_f64();
    assert_eq!((&*first.text(), second.body.len()), ("10 525\n", 7));
    for gauge in ["lattice_unit_in_flight", "lattice_unit_queued"] {
        becomes(n1, gauge, &replica, 0.0).await;
    }
    becomes(n1, "lattice_router_route_in_flight", &route, 0.0).await;

    let after = Metrics::of(n1).await;
    let grown = |name: &str, labels: &[(&str, &str)]| after.get(name, labels) - before.get(name, labels);
    let answers = (sent.body.len() + 5000 + first.body.len() + 7) as f64;
    for (name, labels, value) in [
        ("lattice_router_requests_total", &answered[..], 4.0),
        ("lattice_router_requests_total", &route, 4.0),
        ("lattice_router_duration_seconds_count", &route, 4.0),
        ("lattice_router_request_bytes_total", &route, 1010.0),
        ("lattice_router_response_bytes_total", &route, answers),
        ("lattice_router_retries_total", &route, 0.0),
        ("lattice_router_wait_seconds_count", &route, 0.0),
        ("lattice_unit_requests_total", &replica, 4.0),
        ("lattice_unit_reuse_hits_total", &replica, 4.0),
        ("lattice_unit_instances_created_total", &replica, 0.0),
        ("lattice_unit_queue_seconds_count", &replica, 1.0),
    ] {
        assert_eq!(grown(name, labels), value, "{name} {labels:?}");
    }
    let queued = grown("lattice_unit_queue_seconds_sum", &replica);
    assert!(queued > 0.0 && queued < waited, "{queued} of {waited}");

    // It answers 503 the first time, and is asked once more.
    let mut flaky = spec("flaky", api.upload("faults").await, 1);
    flaky["placement"] = json!({ "require": ["pin == b"] });
    flaky["reuse"] = json!({ "max-instances": 1 });
    flaky["http"]["routes"][0]["retry"] = json!({ "attempts": 2, "on": [503] });
    api.put(&flaky).await.unwrap();
    n1.answers("flaky.test", "/", (200, "")).await;
    let route = [("workload", "flaky"), ("route", "flaky.test/")];
    let answered = [&route[..], &[("status", "2xx"), ("path", "remote")]].concat();
    let before = Metrics::of(n1).await;
    n1.get("flaky.test", "/flaky/503").await.ok();
    let after = Metrics::of(n1).await;
    for (name, labels) in [("lattice_router_retries_total", &route[..]), ("lattice_router_requests_total", &answered)] {
        assert_eq!(after.get(name, labels) - before.get(name, labels), 1.0, "{name} {labels:?}");
    }

    // Who waits in vain waits longest.
    let mut never = spec("never", api.upload("hello-http02").await, 1);
    never["placement"] = json!({ "require": ["pin == nowhere"] });
    never["http"]["routes"][0]["timeout"] = "1s".into();
    api.put(&never).await.unwrap();
    n1.answers("never.test", "/", (503, "not-ready")).await;
    let route = [("workload", "never"), ("route", "never.test/")];
    let before = Metrics::of(n1).await;
    assert_eq!(n1.get("never.test", "/").await.status, 503);
    let after = Metrics::of(n1).await;
    let grown = |name: &str| after.get(name, &route) - before.get(name, &route);
    assert_eq!(grown("lattice_router_wait_seconds_count"), 1.0);
    let waited = grown("lattice_router_wait_seconds_sum");
    assert!(waited > 0.9 && waited < 30.0, "{waited}");

    // A line for each of them.
    let total: f64 = after.get("lattice_router_requests_total", &[]);
    becomes(n1, "lattice_access_log_lines_total", &[], total).await;
    assert_eq!(std::fs::read_to_string(&access).unwrap().lines().count() as f64, total);
    assert_eq!(Metrics::of(n1).await.get("lattice_access_log_dropped_total", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_counted_as_the_semantic_conventions_have_it() {
    let receiver = Receiver::start().await;
    let environment = environment(&receiver.url());
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    lattice.launch_node_with("n1", &[], &borrowed(&environment));
    lattice.all_ready().await;
    let api = lattice.api().await;
    let n1 = lattice.node("n1");
    let mut asked = spec("told", api.upload("faults").await, 1);
    asked["http"]["routes"][0]["path"] = "/p".into();
    asked["http"]["routes"][0]["rewrite"] = json!({ "prefix": "/" });
    asked["http"]["routes"][0]["timeout"] = "1s".into();
    api.put(&asked).await.unwrap();
    n1.answers("told.test", "/p/x", (200, "")).await;
    let latest = |name: &str, attributes: &[(&str, &str)]| -> Option<Point> {
        let points = receiver.points(name).into_iter().rev();
        let mut of_these = points.filter(|point| {
            attributes.iter().all(|(key, value)| point.attributes.get(*key).is_some_and(|found| found == value))
        });
        of_these.next()
    };
    let name = "http.server.request.duration";
    let before = eventually("the first one is told", PATIENCE, async || {
        latest(name, &[("http.route", "/p"), ("http.response.status_code", "200")]).ok_or("none")
    })
    .await;

    for (method, path) in [("GET", "/p/x"), ("GET", "/p/sleep/100"), ("MADE-UP", "/p/x"), ("GET", "/p/sleep/5000")] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let answer = http::send(&n1.http(), method, "told.test", path, &[], http::empty()).await.unwrap();
        http::whole(answer).await.unwrap();
    }
    // By a method that nobody used until now, so that it is the only one.
    let trace = format!("{:032x}", 0xabcf_0000_0000_0000_0000_0000_0000_0000_u128);
    let context = format!("00-{trace}-00f067aa0ba902b7-01");
    let context = [("traceparent", &*context)];
    let refused = http::send(&n1.http(), Method::HEAD, "nobody.test", "/", &context, http::empty()).await.unwrap();
    assert_eq!(refused.status(), 404);
    let common = [("url.scheme", "http"), ("network.protocol.version", "1.1")];
    let routed = [("http.route", "/p"), ("lattice.workload", "told"), ("lattice.route", "told.test/p")];
    let routed = [&common[..], &routed].concat();
    for (attributes, count) in [
        (
            [&routed[..], &[("http.request.method", "GET"), ("http.response.status_code", "200")]].concat(),
            before.value + 2.0,
        ),
        ([&routed[..], &[("http.request.method", "_OTHER"), ("http.response.status_code", "200")]].concat(), 1.0),
        (
            [
                &routed[..],
                &[("http.request.method", "GET"), ("http.response.status_code", "504"), ("error.type", "timeout")],
            ]
            .concat(),
            1.0,
        ),
        (
            [
                &common[..],
                &[("http.request.method", "HEAD"), ("http.response.status_code", "404"), ("error.type", "no-route")],
            ]
            .concat(),
            1.0,
        ),
    ] {
        let point = eventually("they are counted", PATIENCE, async || {
            let point = latest(name, &attributes).ok_or("none".to_owned())?;
            if point.value >= count { Ok(point) } else { Err(format!("{point:?}")) }
        })
        .await;
        assert_eq!((point.value, point.unit.as_str()), (count, "s"), "{point:?}");
        assert_eq!(point.attributes.len(), attributes.len(), "no others: {point:?}");
        let bounds = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
        assert_eq!(point.bounds, bounds);
        match point.attributes["http.response.status_code"].as_str() {
            "504" => assert!(point.sum >= 1.0 && point.buckets[..9].iter().sum::<u64>() == 0, "{point:?}"),
            "404" => {
                let span =
                    eventually("its span is there", PATIENCE, async || receiver.spans(&trace).pop().ok_or("none"))
                        .await;
                let span = (span.end - span.start) as f64 / 1e9;
                assert!((point.sum - span).abs() < 0.05, "{point:?} and {span} s");
            }
            _ => {}
        }
        if count > 1.0 {
            assert!(point.sum - before.sum >= 0.1, "one took 100 ms: {point:?}");
        }
    }

    // The one that is under way is counted while it is.
    let active = |value: f64| {
        eventually("it is under way", PATIENCE, async move || {
            let attributes = [("http.request.method", "POST"), ("url.scheme", "http")];
            match latest("http.server.active_requests", &attributes) {
                Some(point) if point.value == value && point.unit == "{request}" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
    };
    let mut asked = spec("open", api.upload("echo").await, 1);
    asked["http"]["routes"][0]["timeout"] = "60s".into();
    api.put(&asked).await.unwrap();
    n1.answers("open.test", "/bytes/1", (200, "")).await;
    let (body, rest) = open_body();
    body.send("0123456789".into()).unwrap();
    let ends = async {
        active(1.0).await;
        drop(body);
    };
    tokio::join!(post(n1, "open.test", "/count", rest), ends);
    active(0.0).await;

    // Series go with their workload.
    let series = "lattice_workload=\"told\"";
    assert!(Metrics::of(n1).await.0.contains(series));
    api.delete("told").await.unwrap();
    eventually("its series are gone", PATIENCE, async || {
        let text = Metrics::of(n1).await.0;
        if text.contains(series) { Err(text) } else { Ok(()) }
    })
    .await;
}
