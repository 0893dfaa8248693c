//! A node or NATS goes away in the middle of exchanges between two nodes: what the client sees, and how soon. What becomes of
//! requests that come later is in `outages.rs`.

use crate::harness::{
    Lattice, Node, PATIENCE, Server,
    api::{holders, spec},
    clog::Way,
    eventually,
    http::{self, Error},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    Method,
    body::{Frame, Incoming},
};
use rustix::process::Signal;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// For a machine that does other things too.
const BUSY: Duration = Duration::from_secs(3);
/// A node that is gone is looked for twice, after half a second to a second.
const GONE: Duration = Duration::from_secs(2);
/// Without a sign of life for so long an exchange ends.
const IDLE: Duration = Duration::from_secs(15);
/// A side that has nothing to send says so after this, and finds that it can't.
const PING: Duration = Duration::from_secs(5);

/// What a client saw, and when it was over.
type Seen = JoinHandle<(String, Instant)>;

/// A request that is answered late, and may not be sent twice.
fn post_slow(near: &Node, ms: u64) -> Seen {
    let address = near.http();
    tokio::spawn(async move {
        let path = format!("/sleep/{ms}");
        let asked = async {
            let response = http::send(&address, Method::POST, "slow.test", &path, &[], http::empty()).await?;
            http::whole(response).await
        };
        let seen = match asked.await {
            Ok(answer) => format!("{} {}", answer.status, answer.error()),
            Err(error) => error.to_string(),
        };
        (seen, Instant::now())
    })
}

/// Reads a response that never ends.
async fn read_endless(near: &Node) -> Seen {
    let path = format!("/bytes/{}", 1_u64 << 50);
    let response = http::send(&near.http(), Method::GET, "endless.test", &path, &[], http::empty()).await.unwrap();
    assert_eq!(response.status(), 200);
    read_on(response.into_body()).await
}

/// Sends a request that never ends, and reads the response, which says the same.
async fn send_endless(near: &Node) -> Seen {
    let piece = || Ok::<_, Error>(Frame::data(Bytes::from_static(&[0; 16 * 1024])));
    let body = StreamBody::new(futures_util::stream::repeat_with(piece)).boxed_unsync();
    let response = http::send(&near.http(), Method::POST, "endless.test", "/", &[], body).await.unwrap();
    assert_eq!(response.status(), 200);
    read_on(response.into_body()).await
}

async fn read_on(mut body: Incoming) -> Seen {
    body.frame().await.unwrap().unwrap();
    tokio::spawn(async move {
        loop {
            match body.frame().await {
                Some(Ok(_)) => {}
                Some(Err(_)) => return ("cut".to_owned(), Instant::now()),
                None => return ("ended".to_owned(), Instant::now()),
            }
        }
    })
}

async fn over(what: &str, seen: Seen, from: Instant, within: Duration) -> (String, Duration) {
    let limit = within + BUSY;
    let (seen, at) = tokio::time::timeout(limit, seen).await.unwrap_or_else(|_| panic!("{what}: nothing")).unwrap();
    let after = at.saturating_duration_since(from);
    println!("{what}: {seen} after {} ms", after.as_millis());
    assert!(after < limit, "{what}: {seen} after {} ms", after.as_millis());
    (seen, after)
}

/// Two nodes; both workloads run on the first only.
async fn lattice() -> Lattice {
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    for (id, pin) in [("n1", "pin=a"), ("n2", "pin=b")] {
        lattice.launch_node("default", id, &["--label", pin]);
    }
    with_workloads(lattice).await
}

async fn with_workloads(lattice: Lattice) -> Lattice {
    lattice.all_ready().await;
    let api = lattice.api().await;
    for (name, guest) in [("slow", "faults"), ("endless", "echo")] {
        let mut asked = spec(name, api.upload(guest).await, 1);
        asked["placement"] = json!({ "require": ["pin == a"] });
        asked["limits"] = json!({ "wall": "60s" });
        asked["http"]["routes"][0]["timeout"] = "60s".into();
        api.put(&asked).await.unwrap();
        assert_eq!(holders(&api.ready(name).await)[0].as_str(), "n1");
    }
    lattice
}

async fn both_answer(lattice: &Lattice) {
    lattice.serving("slow.test", "/").await;
    lattice.serving("endless.test", "/bytes/1").await;
}

/// Both kinds of exchanges, from the second node to the first.
async fn begin(near: &Node, ms: u64) -> (Seen, Seen) {
    let slow = post_slow(near, ms);
    // The response's head of the other one comes after the request of this one was sent.
    (slow, read_endless(near).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_goes_away_in_the_middle_of_an_exchange() {
    let mut lattice = lattice().await;
    both_answer(&lattice).await;
    let (slow, endless) = begin(lattice.node("n2"), 50_000).await;
    tokio::time::sleep(Duration::from_millis(300)).await; // the guest sleeps
    let killed = Instant::now();
    lattice.node("n1").kill9().await;
    let (seen, _) = over("a node was killed, the response had not begun", slow, killed, GONE).await;
    assert_eq!(seen, "502 peer-lost");
    let (seen, _) = over("a node was killed, the response was under way", endless, killed, GONE).await;
    assert_eq!(seen, "cut");

    lattice.node_mut("n1").launch();
    lattice.all_ready().await;
    both_answer(&lattice).await;
    let (slow, endless) = begin(lattice.node("n2"), 50_000).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let frozen = Instant::now();
    lattice.node("n1").process().signal(Signal::STOP);
    let (seen, after) = over("a node hangs, the response had not begun", slow, frozen, IDLE).await;
    assert!(seen == "502 peer-lost" && after > IDLE / 2, "{seen}");
    let (seen, _) = over("a node hangs, the response was under way", endless, frozen, IDLE).await;
    assert_eq!(seen, "cut");
    lattice.node("n1").process().signal(Signal::CONT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_goes_away_in_the_middle_of_an_exchange() {
    let mut lattice = lattice().await;
    both_answer(&lattice).await;
    let (slow, endless) = begin(lattice.node("n2"), 3_000).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let restarted = Instant::now();
    lattice.server.kill9().await;
    lattice.server.start_again().await;
    // What had nothing under way meanwhile may go on; what lost a frame may not.
    let (seen, _) = over("NATS was restarted, the response had not begun", slow, restarted, IDLE).await;
    assert!(["200 ", "502 peer-lost"].contains(&&*seen), "{seen}");
    let (seen, _) = over("NATS was restarted, the response was under way", endless, restarted, IDLE).await;
    assert_eq!(seen, "cut");

    lattice.all_ready().await;
    both_answer(&lattice).await;
    let (slow, endless) = begin(lattice.node("n2"), 50_000).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let away = Instant::now();
    lattice.server.kill9().await;
    let (seen, _) = over("NATS is away, the response had not begun", slow, away, PING).await;
    assert_eq!(seen, "502 peer-lost");
    let (seen, _) = over("NATS is away, the response was under way", endless, away, PING).await;
    assert_eq!(seen, "cut");
    lattice.server.start_again().await;
    both_answer(&lattice).await;
    // The instances that nobody waits for any more are given up, and answer others.
    eventually("new exchanges", PATIENCE, async || {
        let answer = http::try_get(&lattice.node("n2").http(), "slow.test", "/sleep/1").await;
        match answer {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// The server waits so long for a client that reads nothing, and then cuts it off as a slow consumer. Its default is 10 s.
const WRITE_DEADLINE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_reads_too_slowly_is_cut_off_and_comes_back() {
    let server = Server::start_configured("write_deadline: \"2s\"").await;
    let mut lattice = Lattice::start_on(server, "default", 0).await;
    let way = Way::to(lattice.server.port()).await;
    lattice.launch_node("default", "n1", &["--label", "pin=a"]);
    lattice.launch_node_by(way.url(), "n2", &["--label", "pin=b"]);
    let lattice = with_workloads(lattice).await;
    both_answer(&lattice).await;
    let (near, far) = (lattice.node("n2"), lattice.node("n1"));
    let slow = post_slow(near, 10_000);
    // More than the kernel holds for a client that does not read: each may have a window under way.
    let mut streams = Vec::new();
    for _ in 0..16 {
        streams.push(read_endless(near).await);
    }
    let clogged = Instant::now();
    way.clog();
    // Whoever asks the other node notices nothing.
    far.get("endless.test", "/bytes/100000").await.ok();
    // It goes on if the node was back before anything was sent to it.
    let (seen, _) = over("a slow consumer, the response had not begun", slow, clogged, IDLE).await;
    assert!(["200 ", "502 peer-lost"].contains(&&*seen), "{seen}");
    for stream in streams {
        let (seen, _) = over("a slow consumer, the response was under way", stream, clogged, IDLE).await;
        assert_eq!(seen, "cut");
    }
    eventually("the server cut it off", PATIENCE, async || {
        let log = lattice.server.process().log();
        if log.contains("Slow Consumer") { Ok(()) } else { Err(log) }
    })
    .await;
    assert!(clogged.elapsed() > WRITE_DEADLINE);
    far.get("endless.test", "/bytes/100000").await.ok();
    // It connects anew by itself, and all is as before.
    both_answer(&lattice).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_answers_and_reads_too_slowly_is_cut_off_and_comes_back() {
    let server = Server::start_configured("write_deadline: \"2s\"").await;
    let mut lattice = Lattice::start_on(server, "default", 0).await;
    let way = Way::to(lattice.server.port()).await;
    lattice.launch_node_by(way.url(), "n1", &["--label", "pin=a"]);
    lattice.launch_node("default", "n2", &["--label", "pin=b"]);
    let lattice = with_workloads(lattice).await;
    both_answer(&lattice).await;
    let (near, far) = (lattice.node("n2"), lattice.node("n1"));
    let slow = post_slow(near, 10_000);
    let mut streams = Vec::new();
    for _ in 0..16 {
        streams.push(send_endless(near).await);
    }
    let clogged = Instant::now();
    way.clog();
    // Its own clients notice nothing.
    far.get("slow.test", "/sleep/1").await.ok();
    let (seen, _) = over("a slow consumer answers, the response had not begun", slow, clogged, IDLE).await;
    assert!(["200 ", "502 peer-lost"].contains(&&*seen), "{seen}");
    for stream in streams {
        let (seen, _) = over("a slow consumer answers, the response was under way", stream, clogged, IDLE).await;
        assert_eq!(seen, "cut");
    }
    eventually("the server cut it off", PATIENCE, async || {
        let log = lattice.server.process().log();
        if log.contains("Slow Consumer") { Ok(()) } else { Err(log) }
    })
    .await;
    both_answer(&lattice).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_noticed_by_silence() {
    let lattice = lattice().await;
    both_answer(&lattice).await;
    let (slow, endless) = begin(lattice.node("n2"), 50_000).await;
    tokio::time::sleep(Duration::from_millis(300)).await; // the guest sleeps
    let cut = Instant::now();
    // As with a network that swallows everything: no connection is closed.
    lattice.server.process().signal(Signal::STOP);
    let (seen, _) = over("NATS hangs, the response had not begun", slow, cut, IDLE).await;
    assert_eq!(seen, "502 peer-lost");
    let (seen, _) = over("NATS hangs, the response was under way", endless, cut, IDLE).await;
    assert_eq!(seen, "cut");
    // What runs on the node itself goes on.
    lattice.node("n1").get("endless.test", "/bytes/10").await.ok();
    lattice.server.process().signal(Signal::CONT);
    both_answer(&lattice).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_carries_less_is_heeded() {
    let mut lattice = lattice().await;
    both_answer(&lattice).await;
    let sent: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
    let echoed = async |lattice: &Lattice| {
        let (address, body) = (lattice.node("n2").http(), http::full(sent.clone()));
        let response = http::send(&address, Method::POST, "endless.test", "/", &[], body).await?;
        let answer = http::whole(response).await?;
        let what = format!("{} {}, {} bytes", answer.status, answer.error(), answer.body.len());
        if answer.body == sent { Ok(()) } else { Err(Error::from(what)) }
    };
    echoed(&lattice).await.unwrap();
    lattice.server.kill9().await;
    lattice.server.configure("max_payload: 16KB");
    lattice.server.start_again().await;
    lattice.all_ready().await;
    eventually("frames fit what is carried now", PATIENCE, async || echoed(&lattice).await).await;
}
