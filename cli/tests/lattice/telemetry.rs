//! What nodes tell of themselves and of requests: traces, metrics and logs to a receiver of OTLP, and the access log.

mod counts;
mod nats;
mod spans;

use crate::harness::{
    Lattice, Node, PATIENCE, Server,
    api::{holders, spec},
    eventually, http,
    otlp::{Receiver, Span},
    process::Process,
};
use hyper::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Whether anybody is there depends on the machine; nobody has what is asked for, and that it is asked for counts.
const OUTSIDE: &str = "http://10.255.255.1:81";

/// A GET with a context of its own; answers with the trace's id.
async fn traced(
    node: &Node,
    host: &str,
    number: u64,
    sampled: bool,
    headers: &[(&str, &str)],
) -> (String, http::Answer) {
    let trace = format!("{:032x}", 0xabcd_0000_0000_0000_0000_0000_0000_0000 | u128::from(number));
    let context = format!("00-{trace}-00f067aa0ba902b7-0{}", u8::from(sampled));
    let headers: Vec<_> = headers.iter().copied().chain([("traceparent", context.as_str())]).collect();
    let answer = http::send(&node.http(), Method::GET, host, "/?secret=1", &headers, http::empty()).await.unwrap();
    (trace, http::whole(answer).await.unwrap())
}

/// Where everything goes, and often.
fn environment(url: &str) -> Vec<(&'static str, String)> {
    vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.to_owned()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue%20one".to_owned()),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test".to_owned()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned()),
        ("OTEL_BLRP_SCHEDULE_DELAY", "100".to_owned()),
        ("OTEL_METRIC_EXPORT_INTERVAL", "500".to_owned()),
    ]
}

fn borrowed<'a>(environment: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    environment.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

/// The only one of these that has the name.
fn one<'a>(spans: &'a [Span], name: &str) -> Result<&'a Span, String> {
    let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    match found.as_slice() {
        [span] => Ok(span),
        _ => Err(format!("{} spans {name:?} in {spans:#?}", found.len())),
    }
}

fn attribute<'a>(span: &'a Span, key: &str) -> &'a str {
    span.attributes.get(key).map_or("", String::as_str)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_request_is_one_trace_over_nodes_and_what_the_guest_asks_for() {
    let receiver = Receiver::start().await;
    let environment = environment(&receiver.url());
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    let access = tempfile::tempdir().unwrap();
    let access = access.path().join("access.log");
    let log = ["--access-log", "json", "--access-log-file", access.to_str().unwrap()];
    lattice.launch_node_with("n1", &[&["--label", "pin=a"][..], &log].concat(), &borrowed(&environment));
    let outside = ["--label", "pin=b", "--allow-egress", "10.255.255.1/32"];
    lattice.launch_node_with("n2", &outside, &borrowed(&environment));
    lattice.all_ready().await;
    let api = lattice.api().await;
    let mut asked = spec("fetcher", api.upload("fetcher").await, 1);
    asked["grants"] = json!({ "http-out": [OUTSIDE] });
    asked["placement"] = json!({ "require": ["pin == b"] });
    api.put(&asked).await.unwrap();
    assert_eq!(holders(&api.ready("fetcher").await)[0].as_str(), "n2");
    let n1 = lattice.node("n1");
    let outgoing = [("x-target", OUTSIDE), ("x-connect-ms", "50"), ("x-first-byte-ms", "50")];
    eventually("n1 has the route", PATIENCE, async || {
        let (_, answer) = traced(n1, "fetcher.test", 1, false, &outgoing).await;
        if answer.node() == "n2" { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;

    let (trace, answer) = traced(n1, "fetcher.test", 2, true, &outgoing).await;
    assert!(answer.status >= 400 && answer.node() == "n2", "{answer:?}");
    let status = answer.status.to_string();
    let spans = eventually("all spans of the trace are there", PATIENCE, async || {
        let spans = receiver.spans(&trace);
        if spans.len() >= 6 { Ok(spans) } else { Err(format!("{spans:#?}")) }
    })
    .await;
    let find = |name: &str| one(&spans, name).unwrap();
    let (server, hop, arrival) = (find("GET /"), find("hop"), find("arrival"));
    let (queue, guest, call) = (find("queue"), find("guest"), find("GET"));
    assert_eq!(spans.len(), 6, "{spans:#?}");
    let parents: Vec<_> = [server, hop, arrival, queue, guest, call].map(|span| span.parent.as_str()).into();
    let client = "00f067aa0ba902b7";
    assert_eq!(parents, [client, &server.id, &hop.id, &arrival.id, &arrival.id, &guest.id], "{spans:#?}");
    assert_eq!([server, hop, arrival, queue, guest, call].map(|span| span.kind), [2, 3, 2, 1, 1, 3]);
    for (span, node) in [(server, "n1"), (hop, "n1"), (arrival, "n2"), (queue, "n2"), (guest, "n2"), (call, "n2")] {
        assert_eq!(span.resource["service.instance.id"], node, "{span:?}");
        assert_eq!((&*span.resource["service.name"], &*span.resource["service.namespace"]), ("lattice", "default"));
        assert_eq!(span.resource["deployment.environment.name"], "test");
        assert!(span.start <= span.end && span.start >= server.start, "{span:?}");
    }
    for (span, key, value) in [
        (server, "http.request.method", "GET"),
        (server, "http.response.status_code", &status),
        (server, "http.route", "/"),
        (server, "url.scheme", "http"),
        (server, "url.path", "/"),
        (server, "server.address", "fetcher.test"),
        (server, "client.address", "127.0.0.1"),
        (server, "network.protocol.version", "1.1"),
        (server, "lattice.workload", "fetcher"),
        (server, "lattice.node", "n2"),
        (server, "lattice.path", "remote"),
        (hop, "messaging.system", "nats"),
        (hop, "messaging.destination.name", "lattice.default.http.n2"),
        (hop, "lattice.peer", "n2"),
        (arrival, "messaging.operation.type", "process"),
        (guest, "lattice.replica", "0"),
        (call, "http.request.method", "GET"),
        (call, "server.address", "10.255.255.1"),
        (call, "server.port", "81"),
        (call, "url.full", "http://10.255.255.1:81/"),
    ] {
        assert_eq!(attribute(span, key), value, "{key} of {span:#?}");
    }
    assert!(!attribute(call, "error.type").is_empty() && (call.status, guest.status) == (2, 0), "{call:?} {guest:?}");
    assert!(spans.iter().all(|span| !format!("{span:?}").contains("secret")), "{spans:#?}");

    // What is not sampled leaves nothing, and what has no route is a trace of its own.
    assert!(receiver.spans(&format!("{:032x}", 0xabcd_0000_0000_0000_0000_0000_0000_0000_u128 | 1)).is_empty());
    let (lost, refused) = traced(n1, "nobody.test", 3, true, &[]).await;
    assert_eq!(refused.status, 404);
    let span = eventually("a request without a route is a span", PATIENCE, async || {
        one(&receiver.spans(&lost), "GET").cloned()
    });
    let span = span.await;
    assert_eq!((attribute(&span, "error.type"), span.status), ("no-route", 0), "{span:?}");
    assert!(receiver.headers().iter().all(|headers| headers["x-tenant"] == "blue one"));

    // The access log has the same requests.
    let lines = eventually("the access log has them", PATIENCE, async || {
        let text = std::fs::read_to_string(&access).unwrap_or_default();
        if text.contains(&lost) { Ok(text) } else { Err(text) }
    });
    let lines = lines.await;
    let line = |trace: &str| -> Value {
        serde_json::from_str(lines.lines().find(|line| line.contains(trace)).unwrap_or_else(|| panic!("{lines}")))
            .unwrap()
    };
    let (fetched, lost) = (line(&trace), line(&lost));
    for (key, value) in [
        ("status", json!(answer.status)),
        ("method", json!("GET")),
        ("host", json!("fetcher.test")),
        ("path", json!("/")),
        ("client", json!("127.0.0.1")),
        ("workload", json!("fetcher")),
        ("route", json!("fetcher.test/")),
        ("node", json!("n2")),
        ("via", json!("remote")),
        ("error", Value::Null),
        ("response_bytes", json!(answer.body.len())),
    ] {
        assert_eq!(fetched[key], value, "{key} of {fetched}");
    }
    assert_eq!((&lost["status"], &lost["error"], &lost["workload"]), (&json!(404), &json!("no-route"), &Value::Null));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_and_logs_arrive_as_they_are_elsewhere() {
    let receiver = Receiver::start().await;
    let environment = environment(&receiver.url());
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    let debug = ["--log", "info,lattice_router=debug"];
    lattice.launch_node_with("n1", &debug, &borrowed(&environment));
    lattice.all_ready().await;
    let api = lattice.api().await;
    api.deploy("told", "hello-http02", 1).await;
    let n1 = lattice.node("n1");
    n1.answers("told.test", "/a-line-to-find", (200, "")).await;
    let requests = eventually("requests are counted", PATIENCE, async || {
        let points = receiver.points("lattice_router_requests");
        let mut ours = points.into_iter().filter(|point| {
            let is = |key: &str, value: &str| point.attributes.get(key).is_some_and(|found| found == value);
            is("workload", "told") && is("route", "told.test/") && is("status", "2xx") && is("path", "local")
        });
        ours.next_back().ok_or("none")
    });
    let requests = requests.await;
    assert!(requests.value >= 1.0 && requests.resource["service.instance.id"] == "n1", "{requests:?}");
    let of_route = |name: &str| {
        let points = receiver.points(name).into_iter();
        points.rev().find(|point| point.attributes.get("workload").is_some_and(|found| found == "told"))
    };
    let durations = of_route("lattice_router_duration_seconds").unwrap();
    assert!(durations.unit == "s" && durations.value >= 1.0 && durations.buckets.len() == 14, "{durations:?}");
    for name in ["lattice_router_response_bytes", "lattice_router_request_bytes", "lattice_router_route_in_flight"] {
        assert!(of_route(name).is_some(), "{name}");
    }
    assert!(of_route("lattice_unit_instances_created").unwrap().value >= 1.0);
    assert!(!receiver.points("lattice_ready").is_empty() && !receiver.points("lattice_telemetry_exports").is_empty());

    eventually("the guest's line is a record", PATIENCE, async || {
        let records = receiver.records();
        let line = records.iter().find(|record| record.body.contains("/a-line-to-find"));
        let line = line.ok_or_else(|| format!("{records:?}"))?;
        let is = |key: &str, value: &str| line.attributes.get(key).is_some_and(|found| found == value);
        assert!(is("lattice.workload", "told") && is("lattice.replica", "0") && line.severity == 9, "{line:?}");
        assert!(line.attributes["log.iostream"].starts_with("std"), "{line:?}");
        Ok::<_, String>(())
    })
    .await;
    eventually("the node's own events are records", PATIENCE, async || {
        let records = receiver.records();
        let starting = records.iter().find(|record| record.body == "starting" && record.severity == 9);
        let starting = starting.ok_or_else(|| format!("{records:?}"))?;
        assert_eq!(starting.attributes["node"], "n1", "{starting:?}");
        Ok::<_, String>(())
    })
    .await;

    // What waits when a node ends is sent before it does.
    n1.sigterm();
    assert!(n1.wait_exit().await.success());
    assert!(receiver.records().iter().any(|record| record.body == "left"), "{:?}", receiver.records());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_access_log_says_which_instance_answered() {
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    let access = tempfile::tempdir().unwrap();
    let access = access.path().join("access.log");
    let log = ["--label", "pin=a", "--access-log", "json", "--access-log-file", access.to_str().unwrap()];
    lattice.launch_node_with("n1", &log, &[]);
    lattice.launch_node_with("n2", &["--label", "pin=b"], &[]);
    lattice.all_ready().await;
    let api = lattice.api().await;
    let n1 = lattice.node("n1");
    let digest = api.upload("hello-http02").await;
    // What the log says of one request, once the client has its answer.
    let number = std::sync::atomic::AtomicU64::new(100);
    let ask = async |host: &str| -> Value {
        let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (trace, answer) = traced(n1, host, number, false, &[]).await;
        assert!(!answer.headers.contains_key("lattice-served"), "{answer:?}");
        eventually("the line is there", PATIENCE, async || {
            let text = std::fs::read_to_string(&access).unwrap_or_default();
            let line = text.lines().find(|line| line.contains(&trace)).ok_or(text.clone())?;
            serde_json::from_str(line).map_err(|error| error.to_string())
        })
        .await
    };
    for (pin, name, via) in [("a", "here", "local"), ("b", "there", "remote")] {
        let host = format!("{name}.test");
        let mut asked = spec(name, digest, 1);
        asked["placement"] = json!({ "require": [format!("pin == {pin}")] });
        api.put(&asked).await.unwrap();
        n1.answers(&host, "/", (200, "")).await;
        let line = ask(&host).await;
        let told = (&line["via"], &line["generation"], &line["reused"]);
        assert_eq!(told, (&json!(via), &json!(1), &json!(true)), "{line}");
        asked["reuse"] = "off".into();
        api.put(&asked).await.unwrap();
        eventually("the next generation answers", PATIENCE, async || {
            let line = ask(&host).await;
            let is_new = line["generation"] == json!(2) && line["reused"] == json!(false);
            if is_new { Ok(()) } else { Err(line.to_string()) }
        })
        .await;
    }
    let line = ask("nobody.test").await;
    assert_eq!((&line["generation"], &line["reused"]), (&Value::Null, &Value::Null), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_guest_prints_and_the_parts_that_it_calls_are_in_the_trace() {
    let receiver = Receiver::start().await;
    let environment = environment(&receiver.url());
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    lattice.launch_node_with("n1", &["--label", "pin=a"], &borrowed(&environment));
    lattice.launch_node_with("n2", &["--label", "pin=b"], &borrowed(&environment));
    lattice.all_ready().await;
    let api = lattice.api().await;
    let n1 = lattice.node("n1");
    for (name, guest) in [("prints02", "hello-http02"), ("prints03", "hello-http03")] {
        let mut asked = spec(name, api.upload(guest).await, 1);
        asked["placement"] = json!({ "require": ["pin == b"] });
        api.put(&asked).await.unwrap();
        let host = format!("{name}.test");
        n1.answers(&host, "/", (200, "")).await;
        let (trace, answer) = traced(n1, &host, 11, true, &[]).await;
        assert_eq!((answer.status, answer.node()), (200, "n2"), "{answer:?}");
        let guest = eventually("the guest's span is there", PATIENCE, async || {
            let of_this: Vec<_> = receiver.spans(&trace).into_iter().filter(|span| span.name == "guest").collect();
            of_this.into_iter().find(|span| attribute(span, "lattice.workload") == name).ok_or("none")
        });
        let guest = guest.await;
        eventually("the line is a record of that span", PATIENCE, async || {
            let records = receiver.records();
            let mut lines =
                records.iter().filter(|record| record.attributes.get("lattice.workload").is_some_and(|w| w == name));
            let line = lines.find(|record| record.trace == trace).ok_or_else(|| format!("{records:?}"))?;
            assert_eq!((&line.span, line.body.starts_with("request ")), (&guest.id, true), "{line:?}");
            Ok::<_, String>(())
        })
        .await;
        // The same to who asks the nodes; and a request that is not recorded has its trace, but no span.
        let (unrecorded, _) = traced(n1, &host, 12, false, &[]).await;
        let lines = eventually("the lines are in the log", PATIENCE, async || {
            let lines = lattice.cli_ok(&["logs", name, "-o", "json"]).await;
            if lines.contains(&unrecorded) { Ok(lines) } else { Err(lines) }
        });
        let lines = lines.await;
        let of = |trace: &str| -> Value {
            let line = lines.lines().find(|line| line.contains(trace)).unwrap_or_else(|| panic!("{trace} in {lines}"));
            serde_json::from_str(line).unwrap()
        };
        assert_eq!((&of(&trace)["span-id"], &of(&trace)["node"]), (&json!(guest.id), &json!("n2")));
        assert_eq!(of(&unrecorded).get("span-id"), None, "{lines}");
    }

    let (caller, part) = (api.upload("part-caller").await.to_string(), api.upload("part").await.to_string());
    let (visits, tally) = (api.upload("visits").await.to_string(), api.upload("tally").await.to_string());
    let with_part = |name: &str, settings: Value| {
        let mut part = json!({ "name": "part", "source": part });
        part.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        json!({
            "name": name, "components": [{ "name": "caller", "source": caller }, part],
            "http": { "routes": [{ "host": format!("{name}.test") }] },
        })
    };
    let with_service = json!({
        "name": "serves", "components": [{ "name": "visits", "source": visits }],
        "services": [{ "name": "tally", "source": tally }],
        "http": { "routes": [{ "host": "serves.test" }] },
    });
    for (number, (role, part, path, spec)) in [
        ("lazy", "part", "/upper/word", with_part("lazily", json!({ "lazy": true }))),
        ("isolated", "part", "/upper/word", with_part("apart", json!({ "isolate": true }))),
        ("service", "tally", "/ann", with_service),
    ]
    .into_iter()
    .enumerate()
    {
        api.put(&spec).await.unwrap();
        let host = format!("{}.test", spec["name"].as_str().unwrap());
        n1.answers(&host, path, (200, "")).await;
        let trace = format!("{:032x}", 0xabce_0000_0000_0000_0000_0000_0000_0000 | number as u128);
        let context = format!("00-{trace}-00f067aa0ba902b7-01");
        let headers = [("traceparent", context.as_str())];
        http::send(&n1.http(), Method::GET, &host, path, &headers, http::empty()).await.unwrap();
        eventually("the call is a part of the guest's work", PATIENCE, async || {
            let spans = receiver.spans(&trace);
            let (guest, call) = (one(&spans, "guest")?, one(&spans, &format!("part {part}"))?);
            assert_eq!((&call.parent, call.kind, call.status), (&guest.id, 1, 0), "{spans:#?}");
            assert_eq!((attribute(call, "lattice.part"), attribute(call, "lattice.part.role")), (part, role));
            assert!(guest.start <= call.start && call.end <= guest.end, "{spans:#?}");
            Ok::<_, String>(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn telemetry_that_nobody_takes_costs_a_warning_and_no_request() {
    // It listens, and takes nothing: the worst that a receiver can do.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut environment = environment(&url);
    environment.extend([
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000".to_owned()),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "16".to_owned()),
        ("OTEL_TRACES_SAMPLER", "always_on".to_owned()),
    ]);
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    lattice.launch_node_with("n1", &[], &borrowed(&environment));
    lattice.all_ready().await;
    let api = lattice.api().await;
    api.deploy("untold", "hello-http02", 1).await;
    let n1 = lattice.node("n1");
    n1.answers("untold.test", "/quiet", (200, "")).await;
    for _ in 0..200 {
        n1.get("untold.test", "/quiet").await.ok();
    }
    n1.process().wait_line("telemetry is not taken", PATIENCE).await;
    let metrics = http::get(&n1.admin(), "x", "/metrics").await.ok().text();
    let dropped = metrics
        .lines()
        .find_map(|line| line.strip_prefix("lattice_telemetry_items_total{signal=\"traces\",outcome=\"dropped\"} "));
    // Three spans a request, and room for sixteen.
    assert!(dropped.and_then(|count| count.parse::<u64>().ok()).is_some_and(|count| count > 400), "{metrics}");
    let leaving = Instant::now();
    n1.sigterm();
    assert!(n1.wait_exit().await.success());
    assert!(leaving.elapsed() < Duration::from_secs(20), "the end of a node waits for nobody's answer");
}

#[tokio::test]
async fn a_variable_that_can_not_be_followed_is_named() {
    for (variable, value) in [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_TRACES_SAMPLER", "xray")] {
        let dir = tempfile::tempdir().unwrap();
        let arguments = ["node", "--data", dir.path().to_str().unwrap()];
        let program = crate::harness::cluster::lattice_program();
        let node = Process::start_with("refused", program, arguments, |command| {
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318").env(variable, value);
        });
        assert_eq!(node.wait_exit(PATIENCE).await.code(), Some(2), "{}", node.log());
        assert!(node.log().contains(variable) && node.log().contains(value), "{}", node.log());
    }
}
