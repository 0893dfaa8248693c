//! The spans of what does not come from a client, or has to wait; and what of them others read on the wire.

use super::{attribute, borrowed, environment, one, traced};
use crate::harness::{
    Lattice, PATIENCE, Server,
    api::spec,
    eventually,
    otlp::{Receiver, Span},
};
use bytes::Bytes;
use http_body_util::Empty;
use hyper::{HeaderMap, Response, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::convert::Infallible;
use tokio::{net::TcpListener, sync::mpsc};

/// Each is a child of the one before it, the first one of `parent`.
#[track_caller]
pub(super) fn chain<'a>(spans: &'a [Span], parent: &Span, names: &[&str]) -> Vec<&'a Span> {
    let mut above = parent.id.clone();
    let mut found = Vec::new();
    for name in names {
        let mut below = spans.iter().filter(|span| span.name == *name && span.parent == above);
        let span = below.next().unwrap_or_else(|| panic!("no {name} of {names:?} below {above} in {spans:#?}"));
        assert!(below.next().is_none(), "two {name}: {spans:#?}");
        above.clone_from(&span.id);
        found.push(span);
    }
    found
}

/// All spans of a trace, once there are so many. Fails on one too many only where that is there at once.
pub(super) async fn complete(receiver: &Receiver, trace: &str, count: usize) -> Vec<Span> {
    eventually("all spans of the trace are there", PATIENCE, async || {
        let spans = receiver.spans(trace);
        if spans.len() >= count { Ok(spans) } else { Err(format!("{spans:#?}")) }
    })
    .await
}

/// Answers 200 to all, and tells what headers came.
async fn target(port: u16) -> mpsc::UnboundedReceiver<HeaderMap> {
    let listener = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let (seen, sees) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = seen.clone();
            let answer = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                seen.send(request.headers().clone()).ok();
                async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    sees
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_guest_asks_of_others_is_a_part_of_its_trace_and_on_the_wire() {
    let receiver = Receiver::start().await;
    let environment = environment(&receiver.url());
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    let here = ["--label", "pin=a", "--allow-egress", "127.0.0.2/32"];
    lattice.launch_node_with("n1", &here, &borrowed(&environment));
    lattice.launch_node_with("n2", &["--label", "pin=b"], &borrowed(&environment));
    lattice.all_ready().await;
    let api = lattice.api().await;
    let port = crate::harness::free_port();
    let outside = format!("http://127.0.0.2:{port}");
    let mut sees = target(port).await;
    let digest = api.upload("hello-http02").await;
    for (name, pin) in [("near", "a"), ("far", "b")] {
        let mut callee = spec(name, digest, 1);
        callee["http"] = json!({});
        callee["placement"] = json!({ "require": [format!("pin == {pin}")] });
        api.put(&callee).await.unwrap();
        api.ready(name).await;
    }
    let n1 = lattice.node("n1");
    for (at, version) in ["fetcher", "fetcher03"].into_iter().enumerate() {
        let mut caller = spec(version, api.upload(version).await, 1);
        caller["grants"] = json!({ "http-out": ["http://*.lattice", outside] });
        caller["placement"] = json!({ "require": ["pin == a"] });
        api.put(&caller).await.unwrap();
        api.ready(version).await;
        let host = format!("{version}.test");
        let ask = async |target: &str, number: usize, sampled: bool| {
            let number = (100 * at + number) as u64;
            traced(n1, &host, number, sampled, &[("x-target", target)]).await
        };
        for (number, name) in ["near", "far"].into_iter().enumerate() {
            let url = format!("http://{name}.lattice/");
            eventually("the workload is called", PATIENCE, async || {
                let (_, answer) = ask(&url, number, false).await;
                if (answer.status, answer.node()) == (200, "n1") { Ok(()) } else { Err(format!("{answer:?}")) }
            })
            .await;
            let (trace, answer) = ask(&url, 10 + number, true).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            // The caller's, and the callee's below it.
            let below: &[_] = match name {
                "near" => &["queue", "guest"],
                _ => &["hop", "arrival", "queue", "guest"],
            };
            let spans = complete(&receiver, &trace, 5 + below.len()).await;
            assert_eq!(spans.len(), 5 + below.len(), "{spans:#?}");
            let server = one(&spans, "GET /").unwrap();
            chain(&spans, server, &["queue"]);
            let [guest, get, call] = chain(&spans, server, &["guest", "GET", "call direct"])[..] else {
                unreachable!()
            };
            for (span, key, value) in [
                (guest, "lattice.workload", version),
                (get, "server.address", &*format!("{name}.lattice")),
                (get, "http.response.status_code", "200"),
                (call, "lattice.workload", name),
                (call, "lattice.path", if name == "near" { "local" } else { "remote" }),
                (call, "http.response.status_code", "200"),
            ] {
                assert_eq!(attribute(span, key), value, "{key} of {span:#?}");
            }
            assert_eq!([guest.kind, get.kind, call.kind], [1, 3, 2], "{spans:#?}");
            let callee = match name {
                "near" => {
                    chain(&spans, call, &["queue"]);
                    chain(&spans, call, &["guest"])
                }
                _ => {
                    chain(&spans, call, &["hop", "arrival", "queue"]);
                    chain(&spans, call, &["hop", "arrival", "guest"])
                }
            };
            let guest = callee.last().unwrap();
            let node = if name == "near" { "n1" } else { "n2" };
            assert_eq!((attribute(guest, "lattice.workload"), &*guest.resource["service.instance.id"]), (name, node));
        }

        // Outside, the parent is the span of the request, and nothing else.
        for sampled in [true, false] {
            let (trace, answer) = ask(&format!("{outside}/"), 20 + usize::from(sampled), sampled).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let headers = sees.recv().await.unwrap();
            assert_eq!(headers.get_all("traceparent").iter().count(), 1, "{headers:?}");
            let told = headers["traceparent"].to_str().unwrap().to_owned();
            if sampled {
                let spans = complete(&receiver, &trace, 4).await;
                let get = chain(&spans, one(&spans, "GET /").unwrap(), &["guest", "GET"])[1];
                assert_eq!(told, format!("00-{trace}-{}-01", get.id), "{spans:#?}");
            } else {
                assert!(told.starts_with(&format!("00-{trace}-")) && told.ends_with("-00"), "{told}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_an_instance_and_ticks_are_spans() {
    let receiver = Receiver::start().await;
    let environment = environment(&receiver.url());
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    lattice.launch_node_with("n1", &[], &borrowed(&environment));
    lattice.all_ready().await;
    let api = lattice.api().await;
    let n1 = lattice.node("n1");

    // Nobody may have a replica, so that the request waits until there is somebody.
    let mut waits = spec("waits", api.upload("hello-http02").await, 1);
    waits["placement"] = json!({ "require": ["pin == b"] });
    waits["http"]["routes"][0]["timeout"] = "1s".into();
    api.put(&waits).await.unwrap();
    n1.answers("waits.test", "/", (503, "not-ready")).await;
    let (trace, answer) = traced(n1, "waits.test", 201, true, &[]).await;
    assert_eq!((answer.status, answer.error()), (503, "not-ready"), "{answer:?}");
    let spans = complete(&receiver, &trace, 2).await;
    let server = one(&spans, "GET /").unwrap();
    let wait = chain(&spans, server, &["wait"])[0];
    assert!((wait.kind, wait.status) == (1, 0) && wait.start >= server.start && wait.end <= server.end, "{spans:#?}");
    assert!(wait.end - wait.start > 900_000_000, "as long as the route lets it: {wait:#?}");
    assert_eq!((attribute(server, "lattice.path"), attribute(server, "error.type")), ("none", "not-ready"));

    let mut often = spec("ticker", api.upload("ticker").await, 1);
    often["schedule"] = json!([{ "cron": "* * * * * *", "path": "/often?secret=1" }]);
    api.put(&often).await.unwrap();
    let trace = eventually("a tick is answered", PATIENCE, async || {
        let ticks = receiver.spans_named("tick direct").into_iter();
        let mut answered = ticks.filter(|tick| attribute(tick, "http.response.status_code") == "200");
        answered.next().map(|tick| tick.trace).ok_or("none")
    })
    .await;
    let spans = complete(&receiver, &trace, 3).await;
    let tick = one(&spans, "tick direct").unwrap();
    assert_eq!((&*tick.parent, tick.kind, tick.status), ("", 1, 0), "{tick:#?}");
    chain(&spans, tick, &["queue"]);
    chain(&spans, tick, &["guest"]);
    for (key, value) in [
        ("lattice.schedule", "* * * * * * UTC"),
        ("lattice.workload", "ticker"),
        ("url.path", "/often"),
        ("lattice.path", "local"),
    ] {
        assert_eq!(attribute(tick, key), value, "{key} of {tick:#?}");
    }
    assert!(humantime::parse_rfc3339(attribute(tick, "lattice.tick")).is_ok(), "{tick:#?}");
    assert!(!format!("{spans:?}").contains("secret"), "{spans:#?}");
}
