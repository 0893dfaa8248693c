//! Bodies far larger than a NATS message, through a node that does not run the component: whole, and in bounded memory.
#![cfg(target_os = "linux")] // reads /proc

use crate::harness::{
    Lattice, Node, PATIENCE,
    api::{holders, spec},
    http::{self, Body, Error},
    process::{memory_kib, reset_high_water},
};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    Method,
    body::{Frame, Incoming},
};
use serde_json::json;
use std::time::{Duration, Instant};

const LENGTH: u64 = 100 * 1024 * 1024;
const CHUNK: u64 = 64 * 1024;
/// Byte i of every body is `i % 251`, as the guest makes them: a prime, so that no loss or repetition of a chunk fits.
const PATTERN: u64 = 251;
const GROWTH_KIB_MAX: u64 = 64 * 1024;
const LIMIT: Duration = Duration::from_secs(120);

fn pattern(from: u64, length: u64) -> Bytes {
    (from..from + length).map(|i| (i % PATTERN) as u8).collect()
}

/// A body that is made as it is sent. Its length is not announced.
fn upload() -> Body {
    // Whole periods, so that each chunk is the same bytes and making it costs nothing.
    let length = CHUNK / PATTERN * PATTERN;
    let chunk = pattern(0, length);
    let frames = stream::unfold(0, move |sent| {
        let chunk = chunk.clone();
        async move {
            let next = length.min(LENGTH - sent);
            (next > 0).then(|| (Ok::<_, Error>(Frame::data(chunk.slice(..next as usize))), sent + next))
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

/// Reads a body and checks each byte as it comes; answers with the length.
async fn check(mut body: Incoming) -> Result<u64, Error> {
    let period = pattern(0, PATTERN * 2);
    let mut length = 0_u64;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        for part in data.chunks(PATTERN as usize) {
            let start = (length % PATTERN) as usize;
            if part != &period[start..start + part.len()] {
                return Err(format!("wrong bytes at {length}").into());
            }
            length += part.len() as u64;
        }
    }
    Ok(length)
}

async fn exchange(node: &Node, method: Method, host: &str, path: &str, body: Body) -> Incoming {
    let response = http::send(&node.http(), method, host, path, &[], body).await.unwrap();
    assert_eq!(response.status(), 200, "{host}{path}: {:?}", response.headers());
    response.into_body()
}

async fn stream_through(near: &Node, host: &str) {
    let timed = async |what: &str, expected: &str, act: std::pin::Pin<Box<dyn Future<Output = String> + '_>>| {
        let begin = Instant::now();
        let result = tokio::time::timeout(LIMIT, act).await.unwrap_or_else(|_| panic!("{host}: {what} took too long"));
        assert_eq!(result, expected, "{host}: {what}");
        println!("{host}: {what}: {:.0} MiB/s", LENGTH as f64 / begin.elapsed().as_secs_f64() / f64::from(1 << 20));
    };
    let sum: u64 = (0..PATTERN).sum::<u64>() * (LENGTH / PATTERN) + (0..LENGTH % PATTERN).sum::<u64>();
    let counted = format!("{LENGTH} {}\n", sum % (1 << 32));
    timed(
        "100 MB of request",
        &counted,
        Box::pin(async {
            let body = exchange(near, Method::POST, host, "/count", upload()).await;
            String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
        }),
    )
    .await;
    let length = LENGTH.to_string();
    timed(
        "100 MB of response",
        &length,
        Box::pin(async {
            let path = format!("/bytes/{LENGTH}");
            check(exchange(near, Method::GET, host, &path, http::empty()).await).await.unwrap().to_string()
        }),
    )
    .await;
    timed(
        "100 MB both ways at once",
        &length,
        Box::pin(async { check(exchange(near, Method::POST, host, "/", upload()).await).await.unwrap().to_string() }),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_a_node_without_the_instance_in_bounded_memory() {
    let lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    for guest in ["echo", "echo02"] {
        let status = api.deploy(guest, guest, 1).await;
        let host = format!("{guest}.test");
        lattice.serving(&host, "/bytes/10").await;
        let far = lattice.node(holders(&status)[0].as_str());
        let near = lattice.other_than(&far.id);

        let before: Vec<u64> = [near, far]
            .map(|node| {
                reset_high_water(node.pid());
                memory_kib(node.pid(), "VmHWM")
            })
            .into();
        stream_through(near, &host).await;
        for (node, before) in [near, far].into_iter().zip(before) {
            let growth = memory_kib(node.pid(), "VmHWM").saturating_sub(before);
            println!("{host}: {} grew by {growth} KiB from {before} KiB", node.id);
            assert!(growth < GROWTH_KIB_MAX, "{host}: {} grew by {growth} KiB", node.id);
        }
    }
}

/// What a node may grow by while it passes on a gibibyte, however much that is more than a window.
const GIBIBYTE_GROWTH_KIB_MAX: u64 = 32 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_passes_in_the_memory_of_a_window() {
    let lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    let status = api.deploy("echo", "echo", 1).await;
    lattice.serving("echo.test", "/bytes/10").await;
    let far = lattice.node(holders(&status)[0].as_str());
    let near = lattice.other_than(&far.id);
    let before = [near, far].map(|node| {
        reset_high_water(node.pid());
        memory_kib(node.pid(), "VmHWM")
    });
    let begin = Instant::now();
    let path = format!("/bytes/{}", 1_u64 << 30);
    let read = check(exchange(near, Method::GET, "echo.test", &path, http::empty()).await);
    assert_eq!(tokio::time::timeout(2 * LIMIT, read).await.expect("not within its time").unwrap(), 1 << 30);
    println!("1 GiB of response: {:.0} MiB/s", 1024.0 / begin.elapsed().as_secs_f64());
    for (node, before) in [near, far].into_iter().zip(before) {
        let growth = memory_kib(node.pid(), "VmHWM").saturating_sub(before);
        println!("{} grew by {growth} KiB from {before} KiB", node.id);
        assert!(growth < GIBIBYTE_GROWTH_KIB_MAX, "{} grew by {growth} KiB", node.id);
    }
}

#[tokio::test]
async fn a_client_that_goes_away_frees_what_it_held() {
    let lattice = crate::harness::shared().await;
    let api = lattice.api().await;
    let mut asked = spec("leaver", api.upload("echo").await, 1);
    asked["reuse"] = json!({ "max-instances": 1 });
    api.put(&asked).await.unwrap();
    let status = api.ready("leaver").await;
    lattice.serving("leaver.test", "/bytes/1").await;
    let near = lattice.other_than(holders(&status)[0].as_str());
    for _ in 0..20 {
        // Read a little of a terabyte, then drop the connection.
        let mut body =
            exchange(near, Method::GET, "leaver.test", &format!("/bytes/{}", 1_u64 << 40), http::empty()).await;
        body.frame().await.unwrap().unwrap();
    }
    // There is one instance: each was answered since the one before was given up, and so is this one.
    near.get("leaver.test", "/bytes/10").await.ok();
}

/// The next event of a stream that has some, in text.
async fn event(body: &mut Incoming) -> String {
    let mut text = String::new();
    while !text.ends_with("\n\n") {
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("an event").unwrap().unwrap();
        text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    text
}

#[tokio::test]
async fn server_sent_events_come_as_they_are_written_until_the_client_goes_away() {
    let lattice = crate::harness::shared().await;
    let api = lattice.api().await;
    let mut asked = spec("feed", api.upload("events").await, 1);
    asked["reuse"] = json!({ "max-instances": 1 });
    api.put(&asked).await.unwrap();
    let status = api.ready("feed").await;
    let holder = holders(&status)[0].to_string();
    let nodes = [lattice.node(&holder), lattice.other_than(&holder)];
    // Through the node that has the instance, and through one that has not. There is one instance: each client gets it, so
    // the one before has given it back.
    for node in nodes.into_iter().cycle().take(6) {
        let address = node.http();
        let response = http::send(&address, Method::GET, "feed.test", "/every/20", &[], http::empty());
        let response = tokio::time::timeout(PATIENCE, response).await.expect("the instance is free").unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut body = response.into_body();
        for number in 1..=3 {
            assert_eq!(event(&mut body).await, format!("id: {number}\ndata: /every/20\n\n"));
        }
        // While it listens, nobody else is answered.
        let other = http::send(&address, Method::GET, "feed.test", "/every/20", &[], http::empty());
        assert!(tokio::time::timeout(Duration::from_millis(200), other).await.is_err(), "it is this client's");
        event(&mut body).await;
    }
}
