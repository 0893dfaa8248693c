//! A subscription of a node is full, so that its client library drops what comes: what becomes of the exchanges whose messages
//! are among it.

use super::*;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use http_body_util::StreamBody;
use lattice::{
    http::Body,
    store::{Bus, Message},
};

/// More than wait in one subscription.
const MANY: usize = 8 * 1024 + 16;

/// Messages of nobody, all at once: until the test waits for something no node reads any of them, and what comes behind
/// them is dropped.
fn flood(bus: &dyn Bus, subject: &str) {
    for _ in 0..MANY {
        let message = Message { subject: subject.to_owned(), ..Message::default() };
        bus.publish(message).now_or_never().unwrap().unwrap();
    }
}

/// A name in the inbox of `a` that no exchange has, learnt from one that `a` has with `b`.
async fn inbox(world: &World, a: &Node) -> String {
    let mut tap = world.bus().subscribe("lattice.default.http.b".into(), None).await.unwrap();
    text(a.get("http://quick.test/").await).await;
    let reply = timeout(SOON, tap.next()).await.unwrap().unwrap().reply.unwrap();
    let (prefix, _) = reply.rsplit_once('.').unwrap();
    format!("{prefix}.{}", u64::MAX)
}

/// `a` asks `b`, which answers `quick` at once.
async fn two(world: &World) -> (Node, Node) {
    // What is missed by a ping is asked for again after the time that a request usually waits for an instance.
    let patient = |options: &mut lattice_router::RouterOptions| options.start_wait = Duration::from_secs(60);
    let (a, b) = (world.node_with("a", patient).await, world.node("b").await);
    b.guests.run("quick", |_| std::future::ready(ok("quick")));
    world.ready("quick", &["b"]);
    table_knows(&a, "quick").await;
    (a, b)
}

/// A body of three pieces. Before the second one, which is there once `go` is told, a subscription is flooded; the third one
/// comes a moment later, and no end.
fn flooding(bus: Arc<dyn Bus>, subject: String, go: Arc<Notify>) -> Body {
    let pieces = stream::unfold(0, move |piece| {
        let (bus, subject, go) = (bus.clone(), subject.clone(), go.clone());
        async move {
            match piece {
                0 => {}
                1 => {
                    go.notified().await;
                    flood(&*bus, &subject);
                }
                2 => tokio::time::sleep(Duration::from_millis(50)).await,
                _ => std::future::pending().await,
            }
            Some((Ok(Frame::data(Bytes::from_static(b"piece"))), piece + 1))
        }
    });
    StreamBody::new(pieces).boxed_unsync()
}

#[tokio::test]
async fn what_is_dropped_of_a_response_cuts_it_with_the_next_frame() {
    let world = World::new();
    let (a, b) = two(&world).await;
    let (bus, inbox, go) = (world.bus(), inbox(&world, &a).await, Arc::new(Notify::new()));
    let tell = go.clone();
    b.guests.run("w", move |_| std::future::ready(Ok(Response::new(flooding(bus.clone(), inbox.clone(), go.clone())))));
    world.ready("w", &["b"]);
    table_knows(&a, "w").await;
    let mut body = a.get("http://w.test/").await.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "piece");
    tell.notify_one();
    let cut = timeout(NOTICED, body.frame()).await.expect("the client is told").unwrap();
    assert!(matches!(&cut, Err(BodyError::Aborted(why)) if why.contains("sequence-gap")), "{cut:?}");
    assert_eq!(text(a.get("http://quick.test/").await).await, "quick");
}

#[tokio::test]
async fn what_is_dropped_of_a_request_ends_it_with_the_next_frame() {
    let world = World::new();
    let (a, b) = two(&world).await;
    let go = Arc::new(Notify::new());
    let tell = go.clone();
    b.guests.run("w", move |request| {
        let tell = tell.clone();
        async move {
            let mut body = request.into_body();
            assert_eq!(body.frame().await.unwrap()?.into_data().unwrap(), "piece");
            tell.notify_one();
            ok(body.collect().await?.to_bytes())
        }
    });
    world.ready("w", &["b"]);
    table_knows(&a, "w").await;
    let body = flooding(world.bus(), "lattice.default.http.b".into(), go);
    let lost = timeout(NOTICED, a.send(request("POST", "http://w.test/", body))).await.expect("the client is told");
    assert_eq!((lost.status().as_u16(), header(&lost, "lattice-error")), (502, Some("peer-lost")));
    assert_eq!(text(a.get("http://quick.test/").await).await, "quick");
}

#[tokio::test]
async fn a_message_that_is_all_of_a_request_or_of_a_response_is_missed_by_a_ping() {
    let world = World::hurried(10);
    let (a, b) = two(&world).await;
    let (bus, inbox) = (world.bus(), inbox(&world, &a).await);
    let drops = Arc::new(AtomicBool::new(false));
    let (told, to_a) = (drops.clone(), bus.clone());
    b.guests.run("w", move |_| {
        if told.swap(false, Ordering::SeqCst) {
            flood(&*to_a, &inbox);
        }
        std::future::ready(ok("w"))
    });
    world.workload("w", &["b"], ", timeout: 60s", "wall: 60s");
    table_knows(&a, "w").await;
    let calls = || b.guests.calls.load(Ordering::SeqCst);
    // The response, and then the request.
    for ran in [1, 0] {
        let (before, asked) = (calls(), world.now());
        match ran {
            1 => drops.store(true, Ordering::SeqCst),
            _ => flood(&*bus, "lattice.default.http.b"),
        }
        let lost = a.send(request("POST", "http://w.test/", full("x"))).await;
        assert_eq!((lost.status().as_u16(), header(&lost, "lattice-error")), (502, Some("peer-lost")));
        assert_eq!(calls() - before, ran);
        let took = world.now() - asked;
        assert!(took >= PING_AFTER && took < IDLE_LIMIT, "{took:?}");
    }
    // What may run twice is sent again.
    drops.store(true, Ordering::SeqCst);
    assert_eq!(text(a.get("http://w.test/").await).await, "w");
    assert!(!drops.load(Ordering::SeqCst));
}
