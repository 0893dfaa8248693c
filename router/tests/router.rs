//! Requests through real routers over a bus in memory: local and remote, large and small, and everything that goes
//! wrong on the way.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy.toml allows them in tests, but knows no helpers of tests"
)]

mod calls;
mod choice;
mod failing;
mod half_cut;
mod heads;
mod ingress;
mod lost;
mod routes;
mod sticky;
mod world;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt as _;
use lattice::http::{Body, BodyError, CallError, Response, empty, full};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Notify,
    time::timeout,
};
use world::*;

const WINDOW: usize = lattice::exchange::HTTP_WINDOW_BYTES as usize;
const CHUNK: usize = lattice::exchange::HTTP_CHUNK_BYTES_MAX;
/// In the metrics of a node that answers no other node.
const NO_EXCHANGES: &str = "lattice_router_peer_exchanges 0\n";

#[tokio::test]
async fn a_request_is_answered_here_if_it_can_be() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.ready("hello", &["a", "b"]);
    a.guests.run("hello", |request| async move {
        assert_eq!(request.uri(), "http://hello.test/x?y");
        assert_eq!(request.headers()["host"], "hello.test");
        assert_eq!(request.headers()["x-forwarded-for"], "192.0.2.9");
        assert!(request.headers().contains_key("traceparent"));
        let response = http::Response::builder().header("lattice-error", "forged").header("connection", "close");
        Ok(response.body(full("from a")).unwrap())
    });
    table_knows(&a, "hello").await;
    let response = a.get("http://hello.test/x?y").await;
    assert_eq!((response.status().as_u16(), header(&response, "lattice-node")), (200, Some("a")));
    assert_eq!(header(&response, "lattice-router"), Some("a"));
    assert_eq!(header(&response, "lattice-error"), None);
    assert_eq!(header(&response, "connection"), None);
    assert_eq!(a.router.in_flight(), 1, "the body is not read yet");
    assert_eq!(text(response).await, "from a");
    assert_eq!(a.router.in_flight(), 0);
    assert_eq!(a.faults.messages.load(Ordering::SeqCst) + b.faults.messages.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_small_remote_request_takes_one_message_each_way() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.ready("echo", &["b"]);
    b.guests.run("echo", |request| async move {
        assert_eq!(request.uri(), "http://echo.test/");
        assert_eq!(request.headers()["x-forwarded-for"], "192.0.2.9");
        let body = request.into_body().collect().await?.to_bytes();
        Ok(http::Response::builder().status(201).header("x-a", "1").body(full(body)).unwrap())
    });
    table_knows(&a, "echo").await;
    let response = a.send(request("POST", "http://echo.test/", full("small"))).await;
    assert_eq!((response.status().as_u16(), header(&response, "x-a")), (201, Some("1")));
    assert_eq!((header(&response, "lattice-node"), header(&response, "lattice-router")), (Some("b"), Some("a")));
    assert_eq!(text(response).await, "small");
    assert_eq!(a.faults.messages.load(Ordering::SeqCst), 1);
    assert_eq!(b.faults.messages.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn large_bodies_with_trailers_go_both_ways_at_once() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.ready("echo", &["b"]);
    b.guests.run("echo", |request| async move { Ok(Response::new(request.into_body())) });
    let sent = pattern(20 << 20);
    let (frames, body) = written();
    let source = sent.clone();
    let writer = tokio::spawn(async move {
        for at in (0..source.len()).step_by(100_000) {
            frames.send(Ok(Frame::data(source.slice(at..source.len().min(at + 100_000))))).await.unwrap();
        }
        let trailers = http::HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("x"))]);
        frames.send(Ok(Frame::trailers(trailers))).await.unwrap();
    });
    table_knows(&a, "echo").await;
    let response = a.send(request("POST", "http://echo.test/", body)).await;
    assert_eq!(response.status(), 200);
    let received = timeout(SOON, response.into_body().collect()).await.unwrap().unwrap();
    assert_eq!(received.trailers().unwrap()["etag"], "x");
    assert!(received.to_bytes() == sent, "the body came back changed");
    writer.await.unwrap();
}

#[tokio::test]
async fn a_slow_client_holds_back_a_fast_guest() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.ready("flood", &["b"]);
    let sent = pattern(20 << 20);
    let body = sent.clone();
    b.guests.run("flood", move |_| std::future::ready(ok(body.clone())));
    table_knows(&a, "flood").await;
    let mut response = a.get("http://flood.test/").await.into_body();
    eventually("a first window", || b.faults.bytes.load(Ordering::SeqCst) >= CHUNK).await;
    let mut read = Vec::new();
    while let Some(frame) = timeout(SOON, response.frame()).await.unwrap() {
        read.extend_from_slice(&frame.unwrap().into_data().unwrap());
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        // The window, one piece on its way to the client, and frames' headers.
        let under_way = b.faults.bytes.load(Ordering::SeqCst).saturating_sub(read.len());
        assert!(under_way <= WINDOW + 2 * CHUNK, "{under_way} bytes under way");
    }
    assert!(sent == read, "the body came changed");
}

#[tokio::test]
async fn a_slow_guest_holds_back_a_fast_client() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.ready("sip", &["b"]);
    let read = Arc::new(AtomicUsize::new(0));
    let (sip, count, faults) = (Arc::new(Notify::new()), read.clone(), a.faults.clone());
    let begin = sip.clone();
    b.guests.run("sip", move |request| {
        let (read, begin, faults) = (count.clone(), begin.clone(), faults.clone());
        async move {
            let mut body = request.into_body();
            let mut first = true;
            while let Some(frame) = body.frame().await {
                read.fetch_add(frame?.into_data().unwrap().len(), Ordering::SeqCst);
                if std::mem::take(&mut first) {
                    begin.notified().await;
                }
                tokio::task::yield_now().await;
                let under_way = faults.bytes.load(Ordering::SeqCst).saturating_sub(read.load(Ordering::SeqCst));
                if under_way > WINDOW + 3 * CHUNK {
                    return ok(format!("{under_way} bytes under way"));
                }
            }
            ok("bounded")
        }
    });
    table_knows(&a, "sip").await;
    let upload = a.send(request("POST", "http://sip.test/", full(pattern(20 << 20))));
    let go = async {
        eventually("a first window", || a.faults.bytes.load(Ordering::SeqCst) >= CHUNK).await;
        sip.notify_one();
    };
    let (response, ()) = tokio::join!(upload, go);
    assert_eq!(text(response).await, "bounded");
    assert_eq!(read.load(Ordering::SeqCst), 20 << 20);
}

#[tokio::test]
async fn a_client_that_goes_away_stops_the_guest() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.ready("stream", &["b"]);
    world.ready("slow", &["b"]);
    let dropped = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let started = Arc::new(Notify::new());
    let (in_body, in_call) = (dropped[0].clone(), dropped[1].clone());
    b.guests.run("stream", move |_| {
        let guard = Dropped(in_body.clone());
        async move {
            let (frames, body) = written();
            tokio::spawn(async move {
                let _guard = guard;
                while frames.send(Ok(Frame::data(Bytes::from_static(&[0; 1000])))).await.is_ok() {}
            });
            Ok(Response::new(body))
        }
    });
    let begun = started.clone();
    b.guests.run("slow", move |_| {
        let guard = Dropped(in_call.clone());
        begun.notify_one();
        async move {
            let _guard = guard;
            std::future::pending().await
        }
    });
    table_knows(&a, "slow").await;
    let mut body = a.get("http://stream.test/").await.into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    eventually("the end of the body", || dropped[0].load(Ordering::SeqCst)).await;

    let call = tokio::spawn({
        let router = a.router.clone();
        async move { router.handle(request("GET", "http://slow.test/", empty()), PEER).await }
    });
    started.notified().await;
    call.abort();
    eventually("the end of the call", || dropped[1].load(Ordering::SeqCst)).await;
    eventually("no request under way", || a.router.in_flight() == 0).await;
}

#[tokio::test]
async fn a_node_that_is_gone_costs_nothing_but_time() {
    let world = World::new();
    let (a, mut b, c) = (world.node("a").await, world.node("b").await, world.node("c").await);
    world.ready("echo", &["b", "c"]);
    b.kill().await;
    c.guests.run("echo", |request| async move { Ok(Response::new(request.into_body())) });
    table_knows(&a, "echo").await;
    for large in [false, true] {
        for _ in 0..10 {
            // A POST whose body can't be sent twice: allowed, since nobody has read of it.
            let body = if large { full(pattern(300_000)) } else { full("small") };
            let response = a.send(request("POST", "http://echo.test/", body)).await;
            assert_eq!(header(&response, "lattice-node"), Some("c"));
            let len = if large { 300_000 } else { 5 };
            assert_eq!(text_len(response).await, len);
        }
        if !large {
            // One for each, and at most one for the node that is gone: then it is suspected.
            let sent = a.faults.messages.load(Ordering::SeqCst);
            assert!((10..=11).contains(&sent), "{sent} messages");
        }
    }
}

#[tokio::test]
async fn only_what_ran_nowhere_or_may_run_twice_is_sent_again() {
    let failed = || CallError::Failed { message: "trap".into() };
    let full_queue = || CallError::Overloaded { retry_after: Duration::from_secs(7) };
    for (method, first, status, code, calls) in [
        ("GET", failed(), 200, None, 2),
        ("PUT", failed(), 200, None, 2),
        ("DELETE", failed(), 200, None, 2),
        ("POST", failed(), 502, Some("component-failed"), 1),
        ("PATCH", failed(), 502, Some("component-failed"), 1),
        ("POST", CallError::NotHere, 200, None, 2),
        ("POST", full_queue(), 200, None, 2),
        ("GET", CallError::Timeout { limit: Duration::ZERO }, 504, Some("timeout"), 1),
        ("POST", CallError::Body(BodyError::TooLarge { limit: 1 }), 413, Some("body-too-large"), 1),
    ] {
        for first_is_local in [true, false] {
            let world = World::new();
            let nodes = [world.node("a").await, world.node("b").await, world.node("c").await];
            let calls_seen = Arc::new(AtomicUsize::new(0));
            for node in if first_is_local { &nodes[..2] } else { &nodes[1..] } {
                let (count, first) = (calls_seen.clone(), first.clone());
                node.guests.run("w", move |_| {
                    let is_first = count.fetch_add(1, Ordering::SeqCst) == 0;
                    std::future::ready(if is_first { Err(first.clone()) } else { ok("second") })
                });
            }
            world.ready("w", if first_is_local { &["a", "b"] } else { &["b", "c"] });
            table_knows(&nodes[0], "w").await;
            let response = nodes[0].send(request(method, "http://w.test/", empty())).await;
            let case = format!("{method} {first:?} local={first_is_local}");
            assert_eq!(response.status().as_u16(), status, "{case}");
            assert_eq!(header(&response, "lattice-error"), code, "{case}");
            assert_eq!(calls_seen.load(Ordering::SeqCst), calls, "{case}");
        }
    }
}

#[tokio::test]
async fn attempts_end_and_overload_says_when_to_come_again() {
    let world = World::new();
    let mut nodes = Vec::new();
    for id in ["a", "b", "c", "d", "e"] {
        let node = world.node(id).await;
        node.guests.run("full", |_| {
            std::future::ready(Err(CallError::Overloaded { retry_after: Duration::from_millis(6500) }))
        });
        node.guests.run("trap", |_| std::future::ready(Err(CallError::Failed { message: "trap".into() })));
        nodes.push(node);
    }
    world.ready("full", &["a", "b", "c", "d", "e"]);
    world.ready("trap", &["a", "b", "c", "d", "e"]);
    table_knows(&nodes[0], "trap").await;
    for (host, code, status) in [("full", "overloaded", 503), ("trap", "component-failed", 502)] {
        let before: usize = nodes.iter().map(|node| node.guests.calls.load(Ordering::SeqCst)).sum();
        let response = nodes[0].get(&format!("http://{host}.test/")).await;
        assert_eq!((response.status().as_u16(), header(&response, "lattice-error")), (status, Some(code)));
        assert_eq!(header(&response, "retry-after"), (status == 503).then_some("7"));
        let after: usize = nodes.iter().map(|node| node.guests.calls.load(Ordering::SeqCst)).sum();
        assert_eq!(after - before, 3);
    }
}

#[tokio::test]
async fn the_routes_time_limit_holds_until_the_head_and_not_after() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    let dropped = Arc::new(AtomicBool::new(false));
    for (workload, node) in [("here", &a), ("there", &b)] {
        let dropped = dropped.clone();
        node.guests.run(workload, move |request| {
            let guard = Dropped(dropped.clone());
            async move {
                if request.uri().path() == "/never" {
                    let _guard = guard;
                    return std::future::pending().await;
                }
                let (frames, body) = written();
                tokio::spawn(async move {
                    let _ = frames.send(Ok(Frame::data(Bytes::from_static(b"1")))).await;
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    let _ = frames.send(Ok(Frame::data(Bytes::from_static(b"2")))).await;
                });
                std::mem::forget(guard);
                Ok(Response::new(body))
            }
        });
    }
    world.workload("here", &["a"], ", timeout: 100ms", "");
    world.workload("there", &["b"], ", timeout: 100ms", "");
    table_knows(&a, "there").await;
    for workload in ["here", "there"] {
        dropped.store(false, Ordering::SeqCst);
        let response = a.get(&format!("http://{workload}.test/never")).await;
        assert_eq!((response.status().as_u16(), header(&response, "lattice-error")), (504, Some("timeout")));
        eventually("the end of the call", || dropped.load(Ordering::SeqCst)).await;
        let response = a.get(&format!("http://{workload}.test/")).await;
        assert_eq!(text(response).await, "12", "{workload}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_is_never_taken_for_a_whole_one() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    for (workload, node) in [("here", &a), ("there", &b)] {
        node.guests.run(workload, |_| async {
            let (frames, body) = written();
            tokio::spawn(async move {
                let _ = frames.send(Ok(Frame::data(Bytes::from_static(b"half")))).await;
                let _ = frames.send(Err(BodyError::Aborted("trap".into()))).await;
            });
            Ok(Response::new(body))
        });
    }
    world.ready("here", &["a"]);
    world.ready("there", &["b"]);
    table_knows(&a, "there").await;
    let port = Port::open(&a, Duration::ZERO).await;
    for workload in ["here", "there"] {
        let response = a.get(&format!("http://{workload}.test/")).await;
        assert_eq!(response.status(), 200);
        let read = timeout(SOON, response.into_body().collect()).await.unwrap();
        assert!(matches!(read, Err(BodyError::Aborted(_))), "{workload}");

        let mut stream = port.connect().await;
        let head = format!("GET / HTTP/1.1\r\nhost: {workload}.test\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.contains("transfer-encoding: chunked") && answer.contains("half"), "{answer}");
        assert!(!answer.ends_with("0\r\n\r\n"), "the last chunk was sent: {answer}");
    }
}

#[tokio::test]
async fn a_lost_frame_breaks_the_exchange_and_no_other() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.ready("flood", &["b"]);
    b.guests.run("flood", |_| std::future::ready(ok(pattern(4 << 20))));
    table_knows(&a, "flood").await;
    b.faults.lose_one.store(true, Ordering::SeqCst);
    *b.faults.lose_after.lock().unwrap() = Some(5);
    let broken = a.get("http://flood.test/").await;
    let read = timeout(SOON, broken.into_body().collect()).await.unwrap();
    assert!(matches!(&read, Err(BodyError::Aborted(why)) if why.contains("sequence-gap")), "{:?}", read.map(|_| ()));
    assert_eq!(text_len(a.get("http://flood.test/").await).await, 4 << 20);
}

#[tokio::test]
async fn a_node_that_falls_silent_does_not_hold_a_request() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.workload("w", &["b"], ", timeout: 200ms", "");
    b.guests.run("w", |_| std::future::ready(ok("lost")));
    table_knows(&a, "w").await;
    *b.faults.lose_after.lock().unwrap() = Some(0);
    let response = a.get("http://w.test/").await;
    assert_eq!((response.status().as_u16(), header(&response, "lattice-error")), (504, Some("timeout")));
}

#[tokio::test]
async fn without_nats_what_is_here_is_still_served() {
    let world = World::new();
    let a = world.node_with("a", |options| options.start_wait = Duration::from_millis(50)).await;
    let b = world.node("b").await;
    world.ready("here", &["a", "b"]);
    world.ready("there", &["b"]);
    a.guests.run("here", |_| std::future::ready(ok("here")));
    table_knows(&a, "there").await;
    a.faults.down.store(true, Ordering::SeqCst);
    assert_eq!(text(a.get("http://here.test/").await).await, "here");
    let response = a.get("http://there.test/").await;
    assert_eq!((response.status().as_u16(), header(&response, "lattice-error")), (503, Some("unreachable")));
    // A request that waits notices by itself that the connection is back: the table has not changed.
    let patient = world.node("c").await;
    patient.faults.down.store(true, Ordering::SeqCst);
    b.guests.run("there", |_| std::future::ready(ok("there")));
    table_knows(&patient, "there").await;
    let (response, ()) = tokio::join!(patient.get("http://there.test/"), async {
        eventually("a waiting request", || patient.router.in_flight() == 1).await;
        patient.faults.down.store(false, Ordering::SeqCst);
    });
    assert_eq!(text(response).await, "there");
}

#[tokio::test]
async fn what_runs_elsewhere_is_refused_soon_without_nats_and_no_body_is_asked_for() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.ready("there", &["b"]);
    b.guests.run("there", |_| std::future::ready(ok("there")));
    table_knows(&a, "there").await;
    a.faults.down.store(true, Ordering::SeqCst);
    // One that never ends: it must not be waited for.
    let (_frames, endless) = written();
    let began = Instant::now();
    let (get, put, post) = tokio::join!(
        a.get("http://there.test/"),
        a.send(request("PUT", "http://there.test/", full("x"))),
        a.send(request("POST", "http://there.test/", endless)),
    );
    let took = began.elapsed();
    for response in [get, put, post] {
        assert_eq!((response.status().as_u16(), header(&response, "lattice-error")), (503, Some("unreachable")));
        assert_eq!(header(&response, "retry-after"), Some("1"));
    }
    assert!((Duration::from_secs(1)..Duration::from_secs(3)).contains(&took), "{took:?}");
    assert_eq!(b.guests.calls.load(Ordering::SeqCst), 0);
    a.faults.down.store(false, Ordering::SeqCst);
    assert_eq!(text(a.send(request("POST", "http://there.test/", full("x"))).await).await, "there");
}

#[tokio::test]
async fn a_component_that_fails_with_its_first_byte_is_not_a_success_of_nothing() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.ready("w", &["b"]);
    b.guests.run("w", |_| {
        let broken = futures_util::stream::once(async { Err(BodyError::Aborted("trap".into())) });
        std::future::ready(Ok(Response::new(http_body_util::StreamBody::new(broken).boxed_unsync())))
    });
    table_knows(&a, "w").await;
    let response = a.get("http://w.test/").await;
    assert_eq!(response.status(), 200, "the head came first");
    let read = timeout(SOON, response.into_body().collect()).await.unwrap();
    assert!(matches!(&read, Err(BodyError::Aborted(why)) if why.contains("failed")), "{:?}", read.map(|_| ()));
}

#[tokio::test]
async fn a_client_that_breaks_its_upload_is_not_the_components_fault() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    for (workload, node) in [("here", &a), ("there", &b)] {
        node.guests.run(workload, |request| async move { ok(request.into_body().collect().await?.to_bytes()) });
        world.ready(workload, &[if workload == "here" { "a" } else { "b" }]);
        table_knows(&a, workload).await;
        let (frames, body) = written();
        tokio::spawn(async move {
            frames.send(Ok(Frame::data(Bytes::from_static(b"half")))).await.unwrap();
            frames.send(Err(BodyError::Aborted("reset by peer".into()))).await.unwrap();
        });
        let response = a.send(request("POST", &format!("http://{workload}.test/"), body)).await;
        assert_eq!((response.status().as_u16(), header(&response, "lattice-error")), (400, Some("body-broken")));
    }
}

#[tokio::test]
async fn an_answer_in_full_ends_the_exchange_whatever_is_left_of_the_request() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.ready("w", &["b"]);
    let kept = Arc::new(std::sync::Mutex::new(None));
    let keep = kept.clone();
    b.guests.run("w", move |request| {
        let keep = keep.clone();
        async move {
            let mut body = request.into_body();
            body.frame().await.unwrap()?;
            *keep.lock().unwrap() = Some(body);
            ok("enough")
        }
    });
    table_knows(&a, "w").await;
    let (frames, body) = written();
    let upload =
        tokio::spawn(
            async move { while frames.send(Ok(Frame::data(Bytes::from_static(&[0; 10_000])))).await.is_ok() {} },
        );
    assert_eq!(text(a.send(request("POST", "http://w.test/", body)).await).await, "enough");
    timeout(SOON, upload).await.expect("the upload went on").unwrap();
    eventually("the end of the exchange", || b.metrics().contains(NO_EXCHANGES)).await;
    // The guest may read on, and sees that the rest is missing.
    let body = kept.lock().unwrap().take().unwrap();
    assert!(timeout(SOON, body.collect()).await.unwrap().is_err());
}

#[tokio::test]
async fn only_an_inbox_is_answered() {
    let world = World::new();
    let b = world.node("b").await;
    b.guests.run("w", |_| std::future::ready(ok("b")));
    let head = lattice::frame::RequestHead {
        workload: name("w"),
        method: http::Method::GET,
        scheme: http::uri::Scheme::HTTP,
        authority: "w.test".parse().unwrap(),
        path_and_query: "/".parse().unwrap(),
        headers: Arc::default(),
    };
    let chunk = lattice::frame::Chunk { tail: lattice::frame::Tail::End, ..Default::default() };
    let frame = lattice::frame::Frame::Request { head: Box::new(head), remaining_ms: None, window_bytes: 1000, chunk };
    let payload = frame.encode(0, 1 << 20).unwrap();
    let bus = world.bus();
    for (reply, answers) in
        [(Some("lattice.default.state.slot.w.0"), 0), (Some("_INBOX.*"), 0), (None, 0), (Some("_INBOX.x.1"), 1)]
    {
        let mut answered = bus.subscribe(reply.unwrap_or("none").replace('*', "x"), None).await.unwrap();
        let subject = "lattice.default.http.b".to_owned();
        let reply = reply.map(str::to_owned);
        bus.publish(lattice::store::Message { subject, reply, payload: payload.clone(), ..Default::default() })
            .await
            .unwrap();
        if answers > 0 {
            let message = timeout(SOON, futures_util::StreamExt::next(&mut answered)).await.unwrap().unwrap();
            assert!(matches!(
                lattice::frame::Frame::decode(message.payload),
                Ok((0, lattice::frame::Frame::Response { .. }))
            ));
        }
    }
    // The last of them came after the others, in order: had those been answered, it would show.
    assert_eq!(b.guests.calls.load(Ordering::SeqCst), 1);
    assert_eq!(b.faults.messages.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_requests_cross_each_other() {
    let world = World::new();
    let nodes = [world.node("a").await, world.node("b").await, world.node("c").await];
    for (node, workload) in nodes.iter().zip(["wa", "wb", "wc"]) {
        node.guests.run(workload, |request| async move { Ok(Response::new(request.into_body())) });
        world.ready(workload, &[&workload[1..]]);
    }
    for node in &nodes {
        table_knows(node, "wc").await;
    }
    let sizes = [0, 1, 1000, 16 * 1024, 16 * 1024 + 1, 70_000, 1 << 20, 3 << 20];
    let mut tasks = tokio::task::JoinSet::new();
    for round in 0..120 {
        let router = nodes[round % 3].router.clone();
        let url = format!("http://{}.test/", ["wa", "wb", "wc"][round / 3 % 3]);
        let sent = pattern(sizes[round % sizes.len()] + round);
        tasks.spawn(async move {
            let response = router.handle(request("POST", &url, full(sent.clone())), PEER).await;
            assert_eq!(response.status(), 200, "{round}");
            let received = response.into_body().collect().await.unwrap().to_bytes();
            assert!(received == sent, "{round}: {} of {} bytes", received.len(), sent.len());
        });
    }
    timeout(3 * SOON, tasks.join_all()).await.unwrap();
    for node in &nodes {
        assert_eq!(node.router.in_flight(), 0);
    }
}

#[tokio::test]
async fn a_request_waits_for_a_first_instance_within_bounds() {
    let world = World::new();
    let impatient = |options: &mut lattice_router::RouterOptions| {
        options.waiting_max = 1;
        options.start_wait = Duration::from_millis(300);
    };
    let (a, b) = (world.node_with("a", impatient).await, world.node("b").await);
    world.ready("late", &[]);
    table_knows(&a, "late").await;
    b.guests.run("late", |_| std::future::ready(ok("at last")));
    let first = tokio::spawn({
        let router = a.router.clone();
        async move { router.handle(request("POST", "http://late.test/", full("x")), PEER).await }
    });
    eventually("a waiting request", || a.router.in_flight() == 1).await;
    let second = a.get("http://late.test/").await;
    assert_eq!((second.status().as_u16(), header(&second, "lattice-error")), (503, Some("overloaded")));
    world.ready("late", &["b"]);
    assert_eq!(text(first.await.unwrap()).await, "at last");

    world.ready("never", &[]);
    table_knows(&a, "never").await;
    let response = a.get("http://never.test/").await;
    assert_eq!((response.status().as_u16(), header(&response, "lattice-error")), (503, Some("not-ready")));
    assert_eq!(header(&response, "retry-after"), Some("1"));
    let response = a.get("http://other.test/").await;
    assert_eq!((response.status().as_u16(), header(&response, "lattice-error")), (404, Some("no-route")));

    // One that found its instance waits no more, however long that takes.
    let begun = Arc::new(Notify::new());
    let begin = begun.clone();
    b.guests.run("slow", move |_| {
        begin.notify_one();
        std::future::pending()
    });
    world.ready("slow", &[]);
    table_knows(&a, "slow").await;
    let router = a.router.clone();
    let slow = tokio::spawn(async move { router.handle(request("POST", "http://slow.test/", full("x")), PEER).await });
    eventually("a waiting request", || a.router.in_flight() == 1).await;
    world.ready("slow", &["b"]);
    timeout(SOON, begun.notified()).await.unwrap();
    let response = a.get("http://never.test/").await;
    assert_eq!((response.status().as_u16(), header(&response, "lattice-error")), (503, Some("not-ready")));
    slow.abort();
}

#[tokio::test]
async fn a_replica_that_moves_loses_no_request() {
    let world = World::new();
    let (a, mut b, c) = (world.node("a").await, world.node("b").await, world.node("c").await);
    world.ready("w", &["b"]);
    let (hold, begun) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (held, began) = (hold.clone(), begun.clone());
    b.guests.run("w", move |_| {
        let (held, began) = (held.clone(), began.clone());
        async move {
            began.notify_one();
            held.notified().await;
            ok("b")
        }
    });
    c.guests.run("w", |_| std::future::ready(ok("c")));
    table_knows(&a, "w").await;
    let spawn = |router: lattice_router::Router| {
        tokio::spawn(async move { router.handle(request("POST", "http://w.test/", full("x")), PEER).await })
    };
    let first = spawn(a.router.clone());
    begun.notified().await;
    let leaving = b.leave();
    let meanwhile = async {
        // Sent back by b, which is leaving; waits until c is announced.
        let second = spawn(a.router.clone());
        eventually("a second request", || a.faults.messages.load(Ordering::SeqCst) >= 2).await;
        world.ready("w", &["c"]);
        let second = second.await.unwrap();
        hold.notify_one();
        second
    };
    let ((), second) = tokio::join!(leaving, meanwhile);
    assert_eq!(text(first.await.unwrap()).await, "b");
    assert_eq!(text(second).await, "c");
}

#[tokio::test]
async fn bounds_are_enforced() {
    let world = World::new();
    let a = world.node_with("a", |options| options.requests_max = 1).await;
    let b = world.node_with("b", |options| options.peer_exchanges_max = 0).await;
    world.workload("w", &["a"], "", "body: 10B");
    world.ready("there", &["b"]);
    a.guests.run("w", |request| async move { Ok(Response::new(request.into_body())) });
    b.guests.run("there", |_| std::future::ready(ok("b")));
    table_knows(&a, "there").await;
    // One request at a time, its response's body included.
    let held = a.get("http://w.test/").await;
    let held_body = a.send(request("POST", "http://w.test/", full("0123456789"))).await;
    assert_eq!(held_body.status(), 200, "an empty response holds no place");
    drop(held);
    let refused = a.get("http://w.test/").await;
    assert_eq!((refused.status().as_u16(), header(&refused, "lattice-error")), (503, Some("overloaded")));
    assert_eq!(text(held_body).await, "0123456789");
    // Bytes of body: told beforehand, and found while reading.
    let told = a.send(request("POST", "http://w.test/", full("0123456789a"))).await;
    assert_eq!((told.status().as_u16(), header(&told, "lattice-error")), (413, Some("body-too-large")));
    let (frames, body) = written();
    let response = a.send(request("POST", "http://w.test/", body)).await;
    tokio::spawn(async move { while frames.send(Ok(Frame::data(Bytes::from_static(b"01234")))).await.is_ok() {} });
    let read = timeout(SOON, response.into_body().collect()).await.unwrap();
    assert_eq!(read.map(|_| ()).unwrap_err(), BodyError::TooLarge { limit: 10 });
    // Requests of other nodes.
    let refused = a.get("http://there.test/").await;
    assert_eq!((refused.status().as_u16(), header(&refused, "lattice-error")), (503, Some("overloaded")));
    assert_eq!(b.guests.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_is_counted_has_no_label_of_a_clients_choice() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.ready("w", &["b"]);
    b.guests.run("w", |request| {
        let trap = CallError::Failed { message: "trap".into() };
        std::future::ready(if request.method() == "POST" { Err(trap) } else { ok("b") })
    });
    table_knows(&a, "w").await;
    text(a.get("http://w.test/").await).await;
    text(a.send(request("POST", "http://w.test/", empty())).await).await;
    text(a.get("http://evil.test/").await).await;
    let metrics = a.metrics();
    for line in [
        "lattice_router_requests_total{workload=\"w\",route=\"w.test/\",status=\"2xx\",path=\"remote\"} 1",
        "lattice_router_requests_total{workload=\"w\",route=\"w.test/\",status=\"5xx\",path=\"remote\"} 1",
        "lattice_router_duration_seconds_count{workload=\"w\",route=\"w.test/\",path=\"remote\"} 2",
        "lattice_router_peer_resets_total{code=\"failed\"} 1",
        "lattice_router_in_flight 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in:\n{metrics}");
    }
    assert!(metrics.contains("{workload=\"\",route=\"\",status=\"4xx\",path=\"none\"}"), "{metrics}");
    assert!(!metrics.contains("evil"), "{metrics}");
    world.remove("w");
    eventually("the end of a series", || !a.metrics().contains("workload=\"w\"")).await;
    assert!(a.metrics().contains("{workload=\"\",route=\"\",status=\"4xx\",path=\"none\"}"), "{metrics}");
}

#[tokio::test]
async fn http_2_by_prior_knowledge() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.ready("echo", &["b"]);
    b.guests.run("echo", |request| async move { Ok(Response::new(request.into_body())) });
    table_knows(&a, "echo").await;
    let port = Port::open(&a, Duration::ZERO).await;
    let (mut client, _connection) = http2(&port, WINDOW as u32).await;
    let sent = pattern(3 << 20);
    let (frames, body) = written();
    let source = sent.clone();
    tokio::spawn(async move {
        frames.send(Ok(Frame::data(source))).await.unwrap();
        let trailers = http::HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("x"))]);
        frames.send(Ok(Frame::trailers(trailers))).await.unwrap();
    });
    let response = timeout(SOON, client.send_request(request("POST", "http://echo.test/", body))).await.unwrap();
    let response = response.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["lattice-node"]), (200, &"b".parse().unwrap()));
    let received = timeout(SOON, response.into_body().collect()).await.unwrap().unwrap();
    assert_eq!(received.trailers().unwrap()["etag"], "x");
    assert!(received.to_bytes() == sent, "the body came back changed");
}

#[tokio::test]
async fn odd_heads_are_refused() {
    let world = World::new();
    let a = world.node("a").await;
    world.ready("w", &["a"]);
    a.guests.run("w", |request| {
        let passed_on = ["connection", "upgrade", "http2-settings"].map(|name| request.headers().contains_key(name));
        let failed = CallError::Failed { message: "a header was passed on".into() };
        std::future::ready(if passed_on == [false; 3] { ok("hello") } else { Err(failed) })
    });
    table_knows(&a, "w").await;
    let port = Port::open(&a, Duration::ZERO).await;
    let many = "x: y\r\n".repeat(200);
    let long = format!("x: {}\r\n", "y".repeat(40_000));
    for (head, status) in [
        ("GET / HTTP/1.1\r\nhost: w.test\r\n", 200),
        ("GET / HTTP/1.1\r\nhost: W.TEST.:8080\r\n", 200),
        ("GET http://w.test/ HTTP/1.1\r\nhost: other.test\r\n", 200),
        ("HEAD / HTTP/1.1\r\nhost: w.test\r\n", 200),
        ("GET / HTTP/1.0\r\nhost: w.test\r\n", 200),
        ("GET / HTTP/1.1\r\nhost: w.test\r\nhost: w.test\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: w.test\r\nhost: other.test\r\n", 400),
        ("GET / HTTP/1.1\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a@w.test\r\n", 400),
        ("GET /a/%2e%2e/b HTTP/1.1\r\nhost: w.test\r\n", 400),
        ("GET http://other.test/ HTTP/1.1\r\nhost: w.test\r\n", 404),
        ("CONNECT w.test:443 HTTP/1.1\r\nhost: w.test\r\n", 501),
        ("TRACE / HTTP/1.1\r\nhost: w.test\r\n", 501),
        ("GET / HTTP/1.1\r\nhost: w.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n", 501),
        // What curl --http2 sends.
        (
            "GET / HTTP/1.1\r\nhost: w.test\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n\
             http2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
            200,
        ),
        ("POST / HTTP/1.1\r\nhost: w.test\r\ncontent-length: 1\r\ncontent-length: 2\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: w.test\r\ncontent-length: +4\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: w.test\r\ntransfer-encoding: chunked, identity\r\n", 400),
        ("GET / HTTP/1.1\r\nhost : w.test\r\n", 400),
        (&format!("GET / HTTP/1.1\r\nhost: w.test\r\n{many}"), 431),
        (&format!("GET / HTTP/1.1\r\nhost: w.test\r\n{long}"), 431),
    ] {
        let mut stream = port.connect().await;
        // A refusal may come, and the connection be closed, before all is written.
        let _ = stream.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).await;
        let mut answer = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        let first = answer.get(9..12).unwrap_or_default();
        assert_eq!(first, status.to_string(), "{}: {answer}", &head[..head.len().min(100)]);
    }
}

#[tokio::test]
async fn a_client_that_sends_no_head_is_cut() {
    let world = World::new();
    let quick = |options: &mut lattice_router::RouterOptions| {
        options.head_timeout = Duration::from_millis(100);
        options.idle_timeout = Duration::from_millis(200);
    };
    let a = world.node_with("a", quick).await;
    world.ready("w", &["a"]);
    a.guests.run("w", |_| std::future::ready(ok("hello")));
    table_knows(&a, "w").await;
    let port = Port::open(&a, Duration::ZERO).await;
    for sent in ["", "PRI * HT", "GET / HTTP/1.1\r\nhost: w.t", "GET / HTTP/1.1\r\nhost: w.test\r\n\r\nGET / HT"] {
        let mut stream = port.connect().await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("the connection was left open");
        assert_eq!(answer.starts_with(b"HTTP/1.1 200"), sent.contains("\r\n\r\n"), "{sent}");
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut() {
    let world = World::new();
    let quick = |options: &mut lattice_router::RouterOptions| options.stall_timeout = Duration::from_millis(500);
    let (a, b) = (world.node_with("a", quick).await, world.node("b").await);
    for (workload, node, id) in [("here", &a, "a"), ("there", &b, "b")] {
        // More than the buffers of sockets take.
        node.guests.run(workload, |_| std::future::ready(ok(pattern(32 << 20))));
        node.guests.run(&format!("slow-{workload}"), |_| async {
            let (frames, body) = written();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(1500)).await;
                let _ = frames.send(Ok(Frame::data(Bytes::from_static(b"late")))).await;
            });
            Ok(Response::new(body))
        });
        world.ready(workload, &[id]);
        world.ready(&format!("slow-{workload}"), &[id]);
        table_knows(&a, &format!("slow-{workload}")).await;
    }
    let port = Port::open(&a, Duration::ZERO).await;
    for workload in ["here", "there"] {
        let get = |host: &str| request("GET", &format!("http://{host}.test/"), empty());
        // With HTTP/2 only the stream: `ingress/slow.rs` looks at what else goes on there.
        let (mut client, _connection) = http2(&port, 0).await;
        let response = timeout(SOON, client.send_request(get(workload))).await.unwrap().unwrap();
        assert_eq!((response.status().as_u16(), a.router.in_flight()), (200, 1));
        eventually("the end of the request", || a.router.in_flight() == 0).await;
        eventually("the end of the exchange", || b.metrics().contains(NO_EXCHANGES)).await;

        let mut stream = port.connect().await;
        stream.write_all(format!("GET / HTTP/1.1\r\nhost: {workload}.test\r\n\r\n").as_bytes()).await.unwrap();
        stream.read_exact(&mut [0; 100]).await.unwrap();
        eventually("the end of the request", || a.router.in_flight() == 0).await;
        eventually("the end of the exchange", || b.metrics().contains(NO_EXCHANGES)).await;
        let mut rest = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut rest)).await.expect("the connection was left open");
        assert!(rest.len() < 32 << 20, "the response came in full");

        // It is not the client that is slow.
        let (mut client, _connection) = http2(&port, WINDOW as u32).await;
        let response = timeout(SOON, client.send_request(get(&format!("slow-{workload}")))).await.unwrap().unwrap();
        assert_eq!(timeout(SOON, response.into_body().collect()).await.unwrap().unwrap().to_bytes(), "late");
    }
}

#[tokio::test]
async fn a_client_that_asks_for_nothing_is_let_go() {
    let world = World::new();
    let quick = |options: &mut lattice_router::RouterOptions| options.idle_timeout = Duration::from_millis(200);
    let a = world.node_with("a", quick).await;
    world.ready("w", &["a"]);
    a.guests.run("w", |_| async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        ok("hello")
    });
    table_knows(&a, "w").await;
    let port = Port::open(&a, Duration::ZERO).await;
    let (mut client, connection) = http2(&port, WINDOW as u32).await;
    let response = timeout(SOON, client.send_request(request("GET", "http://w.test/", empty()))).await.unwrap();
    assert_eq!(timeout(SOON, response.unwrap().into_body().collect()).await.unwrap().unwrap().to_bytes(), "hello");
    timeout(SOON, connection).await.expect("the connection was left open").unwrap().expect("it was cut");
    drop(client);
    eventually("no connection", || a.metrics().contains("lattice_router_connections 0\n")).await;
}

#[tokio::test]
async fn an_address_has_so_many_connections_unless_it_is_a_proxy_of_ours() {
    let world = World::new();
    let one = |options: &mut lattice_router::RouterOptions| options.connections_per_address_max = 1;
    let a = world.node_with("a", one).await;
    let trusting = |options: &mut lattice_router::RouterOptions| {
        options.connections_per_address_max = 0;
        options.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    };
    let b = world.node_with("b", trusting).await;
    let answers = async |stream: &mut tokio::net::TcpStream| {
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: w.test\r\n\r\n").await;
        let mut head = [0; 12];
        timeout(SOON, stream.read_exact(&mut head)).await.unwrap().is_ok_and(|_| head == *b"HTTP/1.1 404")
    };
    let port = Port::open(&a, Duration::ZERO).await;
    let mut first = port.connect().await;
    assert!(answers(&mut first).await);
    assert!(!answers(&mut port.connect().await).await, "a second connection");
    drop(first);
    eventually("no connection", || a.metrics().contains("lattice_router_connections 0\n")).await;
    let again = async {
        while !answers(&mut port.connect().await).await {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, again).await.expect("the place was not given back");
    assert!(answers(&mut Port::open(&b, Duration::ZERO).await.connect().await).await);
}

#[tokio::test]
async fn a_router_that_stops_ends_what_it_began() {
    let world = World::new();
    let a = world.node("a").await;
    world.ready("w", &["a"]);
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begin, gone) = (begun.clone(), go.clone());
    a.guests.run("w", move |_| {
        let (begun, go) = (begin.clone(), gone.clone());
        async move {
            begun.notify_one();
            go.notified().await;
            ok("in time")
        }
    });
    table_knows(&a, "w").await;
    for (drain, answered) in [(SOON, true), (Duration::from_millis(50), false)] {
        let port = Port::open(&a, drain).await;
        let mut stream = port.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: w.test\r\n\r\n").await.unwrap();
        let mut idle = port.connect().await;
        begun.notified().await;
        port.stop.cancel();
        if answered {
            go.notify_one();
        }
        let mut answer = String::new();
        let _ = timeout(SOON, stream.read_to_string(&mut answer)).await.unwrap();
        assert_eq!(answer.ends_with("in time"), answered, "{answer}");
        let _ = timeout(SOON, idle.read_to_string(&mut answer)).await.expect("an idle connection was left open");
        timeout(SOON, port.serving).await.unwrap().unwrap();
        assert!(tokio::net::TcpStream::connect(port.address).await.is_err(), "it still listens");
    }
}

/// A client that lets so many bytes of each response come before it reads them.
async fn http2(
    port: &Port,
    window: u32,
) -> (hyper::client::conn::http2::SendRequest<Body>, tokio::task::JoinHandle<hyper::Result<()>>) {
    let io = hyper_util::rt::TokioIo::new(port.connect().await);
    let mut builder = hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
    let (client, connection) = builder.initial_stream_window_size(window).handshake(io).await.unwrap();
    (client, tokio::spawn(connection))
}

async fn text_len(response: Response) -> usize {
    timeout(SOON, response.into_body().collect()).await.unwrap().unwrap().to_bytes().len()
}

/// Wait until the node's table has the route. A body that is refused after the look-up reaches nobody.
async fn table_knows(node: &Node, workload: &str) {
    for _ in 0..1000 {
        let too_large = http::Request::post(format!("http://{workload}.test/")).body(huge()).unwrap();
        if node.router.handle(too_large, PEER).await.status() == 413 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("the table does not know {workload}");
}

/// A body that says to be larger than any limit, and has nothing.
fn huge() -> Body {
    struct Huge;
    impl http_body::Body for Huge {
        type Data = Bytes;
        type Error = BodyError;
        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            std::task::Poll::Ready(None)
        }
        fn size_hint(&self) -> http_body::SizeHint {
            http_body::SizeHint::with_exact(u64::MAX)
        }
    }
    Huge.boxed_unsync()
}
