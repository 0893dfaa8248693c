//! Nodes that go away while they owe an answer, and readers that do not read: who notices, and how soon.

mod drops;

use crate::{table_knows, world::*};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt as _;
use lattice::{
    exchange::{IDLE_LIMIT, PING_AFTER},
    http::{BodyError, Response, empty, full},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::Notify, time::timeout};

/// Two looks, two questions and the pause between them, on a busy machine. Far below the ping of an exchange, which would
/// hide that nobody looked.
const NOTICED: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_node_that_is_killed_is_missed_before_its_exchange_says_anything() {
    let world = World::new();
    let (a, mut b) = (world.node("a").await, world.node("b").await);
    world.ready("stuck", &["b"]);
    world.ready("half", &["b"]);
    let begun = Arc::new(Notify::new());
    let tell = begun.clone();
    b.guests.run("stuck", move |_| {
        tell.notify_one();
        std::future::pending()
    });
    let (frames, body) = written();
    let body = std::sync::Mutex::new(Some(body));
    b.guests.run("half", move |_| std::future::ready(Ok(Response::new(body.lock().unwrap().take().unwrap()))));
    frames.send(Ok(Frame::data(Bytes::from_static(b"half")))).await.unwrap();
    table_knows(&a, "half").await;

    // One that has no response yet and may not be sent again, and one that is under way.
    let router = a.router.clone();
    let stuck =
        tokio::spawn(async move { router.handle(request("POST", "http://stuck.test/", full("x")), PEER).await });
    begun.notified().await;
    let mut half = a.get("http://half.test/").await.into_body();
    assert_eq!(half.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
    let killed = Instant::now();
    b.kill().await;
    let cut = timeout(NOTICED, half.frame()).await.expect("the client is told").unwrap();
    assert!(matches!(&cut, Err(BodyError::Aborted(why)) if why.contains("gone")), "{cut:?}");
    let lost = timeout(NOTICED, stuck).await.expect("the client is told").unwrap();
    println!("missed after {} ms", killed.elapsed().as_millis());
    assert_eq!((lost.status().as_u16(), header(&lost, "lattice-error")), (502, Some("peer-lost")));
    drop(frames);
}

#[tokio::test]
async fn a_node_that_is_slow_and_there_is_waited_for() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.ready("slow", &["b"]);
    b.guests.run("slow", |_| async {
        tokio::time::sleep(Duration::from_millis(2500)).await;
        ok("at last")
    });
    table_knows(&a, "slow").await;
    let response = a.send(request("POST", "http://slow.test/", full("x"))).await;
    assert_eq!(text(response).await, "at last");
    // It was asked meanwhile whether it is there, and not once for each look of each exchange.
    let sent = a.faults.messages.load(Ordering::SeqCst);
    assert!((2..=7).contains(&sent), "{sent} messages");
}

#[tokio::test]
async fn who_does_not_read_holds_up_nobody_else() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.ready("flood", &["b"]);
    world.ready("quick", &["b"]);
    b.guests.run("flood", |_| std::future::ready(ok(pattern(8 << 20))));
    b.guests.run("quick", |request| async move {
        let body = request.into_body().collect().await?.to_bytes();
        ok(body)
    });
    table_knows(&a, "quick").await;
    let unread: Vec<_> = futures_util::future::join_all((0..20).map(|_| a.get("http://flood.test/"))).await;
    for size in [1, 1 << 20] {
        for _ in 0..20 {
            let body = full(pattern(size));
            let response =
                timeout(NOTICED, a.send(request("POST", "http://quick.test/", body))).await.expect("at once");
            let read = timeout(NOTICED, response.into_body().collect()).await.expect("at once").unwrap();
            assert!(read.to_bytes() == pattern(size));
        }
    }
    // None of them was ended for it, and each is whole.
    for response in unread {
        let read = timeout(SOON, response.into_body().collect()).await.unwrap().unwrap().to_bytes();
        assert!(read == pattern(8 << 20));
    }
    assert_eq!(text(a.send(request("GET", "http://quick.test/", empty())).await).await, "");
}

/// A client that has read fast, and then no more, holds no more of the node's memory than others may. With a window of 1 MiB
/// for each it would be 256 MiB.
#[tokio::test]
async fn what_nobody_reads_of_other_nodes_is_bounded_for_all_together() {
    const CLIENTS: usize = 256;
    const READ: usize = 1 << 20;
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.ready("flood", &["b"]);
    b.guests.run("flood", |_| std::future::ready(ok(pattern(8 << 20))));
    table_knows(&a, "flood").await;
    let mut unread = Vec::new();
    for _ in 0..CLIENTS {
        let mut body = a.get("http://flood.test/").await.into_body();
        let mut read = 0;
        while read < READ {
            read += timeout(SOON, body.frame()).await.unwrap().unwrap().unwrap().into_data().unwrap().len();
        }
        unread.push((body, read));
    }
    let read: usize = unread.iter().map(|(_, read)| read).sum();
    // What one of them may still get when all others are stopped comes at the end.
    let (mut last, _) = unread.pop().unwrap();
    while let Some(frame) = timeout(SOON, last.frame()).await.unwrap() {
        frame.unwrap();
    }
    let under_way = b.faults.bytes.load(Ordering::SeqCst).saturating_sub(read + (8 << 20));
    assert!(under_way <= (150 << 20), "{} MiB that nobody reads", under_way >> 20);
    // They are none the worse for it.
    for (body, read) in unread.into_iter().take(3) {
        let rest = timeout(SOON, body.collect()).await.unwrap().unwrap().to_bytes();
        assert!(rest == pattern(8 << 20).slice(read..));
    }
}

/// What this node's router counts of a workload's route, by the beginning of the metric's name.
fn counted(node: &Node, name: &str) -> String {
    let metrics = node.metrics();
    let line = metrics.lines().find(|line| line.starts_with(&format!("lattice_router_{name}{{workload=\"there\"")));
    line.and_then(|line| line.rsplit(' ').next()).unwrap_or_else(|| panic!("no {name} in {metrics}")).to_owned()
}

#[tokio::test]
async fn without_nats_nothing_is_sent_and_so_nothing_counted_as_repeated() {
    let world = World::new();
    let (a, b, c) = (world.node("a").await, world.node("b").await, world.node("c").await);
    world.ready("there", &["b", "c"]);
    for node in [&b, &c] {
        node.guests.run("there", |_| std::future::ready(ok("there")));
    }
    table_knows(&a, "there").await;
    a.faults.down.store(true, Ordering::SeqCst);
    let refused = a.get("http://there.test/").await;
    assert_eq!((refused.status().as_u16(), header(&refused, "lattice-error")), (503, Some("unreachable")));
    // It waited in vain, which is a wait as well.
    assert_eq!((counted(&a, "retries_total"), counted(&a, "wait_seconds_count")), ("0".into(), "1".into()));
    let (response, ()) = tokio::join!(a.get("http://there.test/"), async {
        eventually("a waiting request", || a.router.in_flight() == 1).await;
        tokio::time::sleep(Duration::from_millis(300)).await; // some rounds
        a.faults.down.store(false, Ordering::SeqCst);
    });
    assert_eq!(text(response).await, "there");
    assert_eq!((counted(&a, "retries_total"), counted(&a, "wait_seconds_count")), ("0".into(), "2".into()));
}

/// The time that a request has for NATS to come back begins when it is missed.
#[tokio::test]
async fn a_request_that_was_elsewhere_before_nats_went_away_waits_for_it_as_long_as_others() {
    let world = World::new();
    let (a, b, c) = (world.node("a").await, world.node("b").await, world.node("c").await);
    world.ready("there", &["b"]);
    let begun = Arc::new(Notify::new());
    let tell = begun.clone();
    b.guests.run("there", move |_| {
        tell.notify_one();
        async {
            tokio::time::sleep(Duration::from_millis(1_300)).await;
            Err(lattice::http::CallError::NotHere)
        }
    });
    c.guests.run("there", |_| std::future::ready(ok("there")));
    table_knows(&a, "there").await;
    let (response, ()) = tokio::join!(a.get("http://there.test/"), async {
        begun.notified().await;
        a.faults.down.store(true, Ordering::SeqCst);
        world.ready("there", &["b", "c"]);
        tokio::time::sleep(Duration::from_millis(1_800)).await;
        a.faults.down.store(false, Ordering::SeqCst);
    });
    assert_eq!((response.status().as_u16(), header(&response, "lattice-error")), (200, None));
}

/// What a guest holds for a client, and whether it was told that the client is gone.
struct Held {
    in_body: Arc<AtomicBool>,
    in_call: Arc<AtomicBool>,
    begun: Arc<Notify>,
}

impl Held {
    /// `stream` writes as long as somebody reads, `stuck` never answers.
    fn by(world: &World, node: &Node, id: &str) -> Self {
        let held = Held { in_body: Arc::default(), in_call: Arc::default(), begun: Arc::default() };
        let dropped = held.in_body.clone();
        node.guests.run("stream", move |_| {
            let guard = Dropped(dropped.clone());
            async move {
                let (frames, body) = written();
                tokio::spawn(async move {
                    let _guard = guard;
                    while frames.send(Ok(Frame::data(Bytes::from_static(&[0; 1000])))).await.is_ok() {}
                });
                Ok(Response::new(body))
            }
        });
        let (dropped, begun) = (held.in_call.clone(), held.begun.clone());
        node.guests.run("stuck", move |_| {
            let guard = Dropped(dropped.clone());
            begun.notify_one();
            async move {
                let _guard = guard;
                std::future::pending().await
            }
        });
        for workload in ["stream", "stuck"] {
            // No other limit of time ends them.
            world.workload(workload, &[id], ", timeout: 60s", "wall: 60s");
        }
        held
    }

    fn are_free(&self) -> bool {
        self.in_body.load(Ordering::SeqCst) && self.in_call.load(Ordering::SeqCst)
    }
}

/// Who hears nothing of a client that is gone stops working for it all the same. `node_dies`: all that the node says is lost
/// from some moment on; else what it says of the clients that leave, and nothing after it.
async fn frees_what_it_held_in_silence(node_dies: bool) {
    let world = World::hurried(5);
    let (mut a, b) = (world.node("a").await, world.node("b").await);
    let held = Held::by(&world, &b, "b");
    table_knows(&a, "stuck").await;
    let mut body = a.get("http://stream.test/").await.into_body();
    body.frame().await.unwrap().unwrap();
    let router = a.router.clone();
    let call = tokio::spawn(async move { router.handle(request("GET", "http://stuck.test/", empty()), PEER).await });
    held.begun.notified().await;
    assert!(!b.metrics().contains("peer_exchanges 0\n") && !held.are_free());

    let gone = world.now();
    a.faults.lose_all();
    drop(body);
    call.abort();
    eventually("no request under way", || a.router.in_flight() == 0).await;
    if node_dies {
        a.kill().await;
    } else {
        *a.faults.lose_after.lock().unwrap() = None;
    }
    eventually("the end of the guests", || held.are_free()).await;
    eventually("the end of the exchanges", || b.metrics().contains("lattice_router_peer_exchanges 0\n")).await;
    let took = world.now() - gone;
    println!("freed after {} s", took.as_secs());
    // A while of which they may have been silent before, and one for a busy machine.
    assert!(took > IDLE_LIMIT - PING_AFTER && took < 2 * IDLE_LIMIT, "{took:?}");
}

#[tokio::test]
async fn a_node_that_dies_leaves_nothing_running_on_the_nodes_that_it_asked() {
    frees_what_it_held_in_silence(true).await;
}

#[tokio::test]
async fn a_client_whose_leaving_is_not_heard_of_leaves_nothing_running() {
    frees_what_it_held_in_silence(false).await;
}
