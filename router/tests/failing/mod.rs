//! Instances that only fail: who is asked in their place, for how long, and what is told of it.

use crate::{table_knows, world::*};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt as _;
use lattice::http::{CallError, full};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// A node whose instances of `w` fail while it is told so, beside one whose never do.
async fn with_trap(name: &str, world: &World) -> (Node, Arc<AtomicBool>) {
    let node = world.node(name).await;
    let fails = Arc::new(AtomicBool::new(false));
    let told = fails.clone();
    let text = name.to_owned();
    node.guests.run("w", move |_| {
        let answer = match told.load(Ordering::SeqCst) {
            true => Err(CallError::Failed { message: "trap".into() }),
            false => ok(text.clone()),
        };
        std::future::ready(answer)
    });
    (node, fails)
}

async fn post(node: &Node) -> (u16, String) {
    let response = node.send(request("POST", "http://w.test/", full("x"))).await;
    (response.status().as_u16(), text(response).await)
}

async fn until_answered(node: &Node, status: u16) {
    let answered = async {
        while post(node).await.0 != status {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(SOON, answered).await.expect("the table changes");
}

#[tokio::test]
async fn instances_here_that_only_fail_are_asked_after_others_until_a_trial_succeeds() {
    let world = World::new();
    let ((a, fails), (b, _)) = (with_trap("a", &world).await, with_trap("b", &world).await);
    world.ready("w", &["a", "b"]);
    table_knows(&a, "w").await;
    assert_eq!(post(&a).await, (200, "a".into()), "here first");
    fails.store(true, Ordering::SeqCst);
    for _ in 0..5 {
        assert_eq!(post(&a).await.0, 502, "a request that may have run is not sent again");
    }
    for _ in 0..20 {
        assert_eq!(post(&a).await, (200, "b".into()));
    }
    let metric = |name: &str, value: &str| {
        let line = format!("lattice_router_{name}{{workload=\"w\",place=\"here\"}} {value}\n");
        assert!(a.metrics().contains(&line), "{line}{}", a.metrics());
    };
    metric("ejections_total", "1");
    metric("ejected", "1");
    // Nobody else is there: it is asked all the same.
    world.ready("w", &["a"]);
    until_answered(&a, 502).await;
    world.ready("w", &["a", "b"]);
    until_answered(&a, 200).await;
    fails.store(false, Ordering::SeqCst);
    let calls = b.guests.calls.load(Ordering::SeqCst);
    let back = async {
        while post(&a).await != (200, "a".into()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, back).await.expect("a trial after five seconds");
    assert!(b.guests.calls.load(Ordering::SeqCst) > calls, "meanwhile the other one answered");
    metric("ejections_total", "1");
    metric("ejected", "0");
}

#[tokio::test]
async fn another_node_that_only_fails_is_counted() {
    let world = World::new();
    let a = world.node("a").await;
    let ((_b, fails), c) = (with_trap("b", &world).await, world.node("c").await);
    // So slow that it is the other one which is asked first, also where its failures take a while on a busy machine.
    c.guests.run("w", |_| async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        ok("c")
    });
    world.ready("w", &["b", "c"]);
    table_knows(&a, "w").await;
    fails.store(true, Ordering::SeqCst);
    let line = "lattice_router_ejected{workload=\"w\",place=\"elsewhere\"} 1\n";
    let mut failed = 0;
    for _ in 0..200 {
        failed += usize::from(post(&a).await.0 == 502);
        if a.metrics().contains(line) {
            break;
        }
    }
    assert_eq!(failed, 5, "{}", a.metrics());
    for _ in 0..10 {
        assert_eq!(post(&a).await, (200, "c".into()));
    }
}

/// A guest that waits for the rest of a request until its time is up has done nothing wrong.
#[tokio::test]
async fn a_slow_client_ejects_nobody() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    for (workload, node, id) in [("here", &a, "a"), ("there", &b, "b")] {
        node.guests.run(workload, |request| async move {
            let read = request.into_body().collect();
            match tokio::time::timeout(Duration::from_millis(30), read).await {
                Ok(read) => ok(read?.to_bytes()),
                Err(_) => Err(CallError::Timeout { limit: Duration::from_millis(30) }),
            }
        });
        world.ready(workload, &[id, "c"]);
        table_knows(&a, workload).await;
    }
    let c = world.node("c").await;
    for workload in ["here", "there"] {
        c.guests.run(workload, |_| std::future::ready(ok("c")));
    }
    for workload in ["here", "there"] {
        let mut timeouts = 0;
        for _ in 0..40 {
            let (frames, body) = written();
            frames.send(Ok(Frame::data(Bytes::from_static(b"half")))).await.unwrap();
            let response = a.send(request("POST", &format!("http://{workload}.test/"), body)).await;
            timeouts += usize::from(response.status() == 504);
            drop(frames);
        }
        assert!(timeouts >= 6, "{workload}: {timeouts}");
    }
    assert!(!a.metrics().contains("lattice_router_ejections_total{"), "{}", a.metrics());
    let whole = a.send(request("POST", "http://here.test/", full("whole"))).await;
    assert_eq!(text(whole).await, "whole", "here first");
}
