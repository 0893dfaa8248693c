//! A node whose messages do not arrive, and who hears all that is sent to it: when it finds out, and what its clients see.

use crate::{table_knows, world::*};
use http_body_util::BodyExt as _;
use lattice::http::{empty, full};
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// Nothing is heard for a second, and that is looked for four times a second. The rest is for a busy machine.
const NOTICED: Duration = Duration::from_secs(4);

async fn closed(node: &Node, is_closed: bool) {
    let reach = node.router.reach();
    eventually("the node found out", || reach.is_open() != is_closed).await;
}

fn mend(node: &Node) {
    *node.faults.lose_after.lock().unwrap() = None;
}

#[tokio::test]
async fn a_node_whose_messages_get_nowhere_finds_out_says_so_and_recovers() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.ready("here", &["a", "b"]);
    world.ready("there", &["b"]);
    a.guests.run("here", |_| std::future::ready(ok("here")));
    b.guests.run("there", |_| std::future::ready(ok("there")));
    table_knows(&a, "there").await;
    let first = a.get("http://there.test/").await;
    assert_eq!((first.status().as_u16(), header(&first, "lattice-disconnected")), (200, None));

    a.faults.lose_all();
    // On its way when nobody knows yet.
    let began = Instant::now();
    let lost = a.get("http://there.test/").await;
    let took = began.elapsed();
    assert_eq!((lost.status().as_u16(), header(&lost, "lattice-error")), (503, Some("unreachable")));
    assert_eq!((header(&lost, "retry-after"), header(&lost, "lattice-disconnected")), (Some("1"), Some("0")));
    assert!((Duration::from_millis(900)..NOTICED).contains(&took), "{took:?}");
    // And later ones, of which nothing is sent.
    for method in ["GET", "POST"] {
        let (began, sent) = (Instant::now(), a.faults.messages.load(Ordering::SeqCst));
        let refused = a.send(request(method, "http://there.test/", full("x"))).await;
        assert_eq!((refused.status().as_u16(), header(&refused, "lattice-error")), (503, Some("unreachable")));
        assert_eq!(a.faults.messages.load(Ordering::SeqCst), sent, "{method}");
        assert!(began.elapsed() < NOTICED, "{method}");
    }
    assert_eq!(b.guests.calls.load(Ordering::SeqCst), 1);
    let here = a.get("http://here.test/").await;
    assert!(header(&here, "lattice-disconnected").is_some());
    assert_eq!(text(here).await, "here");

    mend(&a);
    closed(&a, false).await;
    for method in ["GET", "POST"] {
        assert_eq!(text(a.send(request(method, "http://there.test/", full("x"))).await).await, "there");
    }
    eventually("it says so no more", || {
        let mut said = Box::pin(a.get("http://here.test/"));
        futures_util::FutureExt::now_or_never(&mut said)
            .is_some_and(|here| !here.headers().contains_key("lattice-disconnected"))
    })
    .await;
}

#[tokio::test]
async fn what_can_not_be_asked_twice_is_waited_for_until_its_deadline() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.workload("there", &["b"], ", timeout: 2500ms", "");
    b.guests.run("there", |_| std::future::ready(ok("there")));
    table_knows(&a, "there").await;
    a.faults.lose_all();
    let began = Instant::now();
    let ask = |method: &'static str| {
        let request = request(method, "http://there.test/", full("x"));
        let asked = a.send(request);
        async move {
            let response = asked.await;
            let error = header(&response, "lattice-error").map(str::to_owned);
            (response.status().as_u16(), error, began.elapsed())
        }
    };
    let (put, post) = tokio::join!(ask("PUT"), ask("POST"));
    assert_eq!((put.0, put.1.as_deref()), (503, Some("unreachable")));
    assert!(put.2 < Duration::from_millis(2400), "{put:?}");
    assert_eq!((post.0, post.1.as_deref()), (504, Some("timeout")));
    assert!(post.2 >= Duration::from_millis(2400), "{post:?}");
}

/// The other direction works, so the answer to what was sent before comes.
#[tokio::test]
async fn an_answer_to_what_had_left_before_is_waited_for() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.ready("there", &["b"]);
    let (begun, goes_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (begun.clone(), goes_on.clone());
    b.guests.run("there", move |_| {
        tell.notify_one();
        let wait = wait.clone();
        async move {
            wait.notified().await;
            ok("late")
        }
    });
    table_knows(&a, "there").await;
    let router = a.router.clone();
    let asked = tokio::spawn(async move { router.handle(request("GET", "http://there.test/", empty()), PEER).await });
    begun.notified().await;
    // An echo that was sent after it comes back: one is sent at every look, four times a second.
    tokio::time::sleep(Duration::from_secs(1)).await;
    a.faults.lose_all();
    closed(&a, true).await;
    tokio::time::sleep(Duration::from_millis(600)).await; // two more looks
    goes_on.notify_one();
    assert_eq!(text(asked.await.unwrap()).await, "late");
}

#[tokio::test]
async fn a_node_whose_answers_get_nowhere_runs_nothing_for_others() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.workload("there", &["b"], ", timeout: 300ms", "");
    b.guests.run("there", |_| std::future::ready(ok("there")));
    table_knows(&a, "there").await;
    b.faults.lose_all();
    closed(&b, true).await;
    let refused = a.send(request("POST", "http://there.test/", full("x"))).await;
    assert_eq!((refused.status().as_u16(), header(&refused, "lattice-error")), (504, Some("timeout")));
    assert_eq!(b.guests.calls.load(Ordering::SeqCst), 0);
    mend(&b);
    closed(&b, false).await;
    assert_eq!(text(a.send(request("POST", "http://there.test/", full("x"))).await).await, "there");
    assert_eq!(b.guests.calls.load(Ordering::SeqCst), 1);
}

/// One whose answer has begun is not cut off by silence of this kind: it goes on by its own rules.
#[tokio::test]
async fn an_answer_that_has_begun_goes_on() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.ready("there", &["b"]);
    let goes_on = Arc::new(Notify::new());
    let wait = goes_on.clone();
    b.guests.run("there", move |_| {
        let wait = wait.clone();
        let (frames, body) = written();
        tokio::spawn(async move {
            frames.send(Ok(http_body::Frame::data("one ".into()))).await.unwrap();
            wait.notified().await;
            frames.send(Ok(http_body::Frame::data("two".into()))).await.unwrap();
        });
        std::future::ready(Ok(lattice::http::Response::new(body)))
    });
    table_knows(&a, "there").await;
    let mut body = a.get("http://there.test/").await.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one ");
    a.faults.lose_all();
    closed(&a, true).await;
    goes_on.notify_one();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "two");
}
