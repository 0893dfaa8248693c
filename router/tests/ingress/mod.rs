//! What clients that mean harm, or are merely slow or old, get at the port: byte by byte where it matters. Each row of
//! `docs/ingress.md` that says what is refused is here.

mod connections;
mod h2;
mod heads;
mod slow;
mod tls;

use crate::{WINDOW, http2, table_knows, world::*};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt as _;
use lattice::{
    access::{Access, AccessLog},
    http::{CallError, empty, full},
};
use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
    time::timeout,
};

/// Two nodes, with workloads `here` on the first and `there` on the second that answer the length of what they are sent.
async fn counting(change: impl FnOnce(&mut lattice_router::RouterOptions)) -> (World, Node, Node) {
    let world = World::new();
    let (a, b) = (world.node_with("a", change).await, world.node("b").await);
    for (workload, node, id) in [("here", &a, "a"), ("there", &b, "b")] {
        node.guests.run(workload, |request| async move {
            let length = request.into_body().collect().await?.to_bytes().len();
            ok(length.to_string())
        });
        world.ready(workload, &[id]);
        table_knows(&a, workload).await;
    }
    (world, a, b)
}

fn calls(nodes: &[&Node]) -> usize {
    nodes.iter().map(|node| node.guests.calls.load(Ordering::SeqCst)).sum()
}

/// All that comes until the other side closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("the connection was left open");
    String::from_utf8_lossy(&answer).into_owned()
}

/// One response whose length is announced.
async fn response(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = async {
        loop {
            let text = String::from_utf8_lossy(&answer);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                    return text.into_owned();
                }
            }
            let mut byte = [0];
            assert_eq!(stream.read(&mut byte).await.unwrap(), 1, "the connection was closed: {text}");
            answer.extend(byte);
        }
    };
    timeout(SOON, read).await.unwrap()
}

fn status(answer: &str) -> u16 {
    answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status in {answer:?}"))
}

#[tokio::test]
async fn two_ends_of_a_body_are_refused_and_nothing_behind_them_runs() {
    let (_world, a, b) = counting(|_| ()).await;
    let port = Port::open(&a, Duration::ZERO).await;
    let before = calls(&[&a, &b]);
    let get = "GET / HTTP/1.1\r\nhost: here.test\r\n\r\n";
    for host in ["here", "there"] {
        for ends in [
            "content-length: 4\r\ntransfer-encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nx: y\r\nContent-Length: 4\r\n",
            "content-length: 4\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n",
        ] {
            let smuggling = format!("POST / HTTP/1.1\r\nhost: {host}.test\r\n{ends}\r\n0\r\n\r\n{get}");
            let mut stream = port.connect().await;
            stream.write_all(smuggling.as_bytes()).await.unwrap();
            let answer = rest(&mut stream).await;
            assert_eq!((status(&answer), answer.matches("HTTP/1.1").count()), (400, 1), "{ends}: {answer}");
            assert!(answer.contains("lattice-error: bad-request"), "{answer}");
        }
    }
    assert_eq!(calls(&[&a, &b]), before, "a guest saw one of them");
    // Behind good requests that came in the same piece.
    let good = "POST / HTTP/1.1\r\nhost: here.test\r\ntransfer-encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\n\r\n";
    let both = "POST / HTTP/1.1\r\nhost: here.test\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n0\r\n\r\n";
    let mut stream = port.connect().await;
    stream.write_all([get, good, get, both, get].concat().as_bytes()).await.unwrap();
    let answer = rest(&mut stream).await;
    let statuses: Vec<_> = answer.match_indices("HTTP/1.1 ").map(|(at, _)| status(&answer[at..])).collect();
    assert_eq!(statuses, [200, 200, 200, 400], "{answer}");
}

#[tokio::test]
async fn heads_that_can_be_read_in_two_ways_are_refused() {
    let (_world, a, _b) = counting(|options| options.uri_bytes_max = 8 * 1024).await;
    let port = Port::open(&a, Duration::ZERO).await;
    let long = "x".repeat(8 * 1024);
    let before = calls(&[&a]);
    for (head, expect) in [
        ("GET / HTTP/1.1\r\nhost: here.test\r\nhost: here.test\r\n", 400),
        ("GET / HTTP/1.1\r\n", 400),
        ("GET / HTTP/1.0\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: \u{e4}.test\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: %61.test\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: here.test, there.test\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: xn--4ca.test\r\n", 404),
        ("GET / HTTP/1.1\r\nhost: here.test:99999\r\n", 400),
        ("GET http://u:p@here.test/ HTTP/1.1\r\nhost: here.test\r\n", 400),
        ("GET /\\..\\a HTTP/1.1\r\nhost: here.test\r\n", 400),
        ("GET /a/%2e%2e/b HTTP/1.1\r\nhost: here.test\r\n", 400),
        ("GET /a/..%5cb HTTP/1.1\r\nhost: here.test\r\n", 400),
        ("GET here HTTP/1.1\r\nhost: here.test\r\n", 400),
        ("GET * HTTP/1.1\r\nhost: here.test\r\n", 400),
        ("OPTIONS * HTTP/1.1\r\nhost: here.test\r\n", 400),
        (&format!("GET /{long} HTTP/1.1\r\nhost: here.test\r\n"), 414),
        ("POST / HTTP/1.1\r\nhost: here.test\r\ncontent-length: 1\r\ncontent-length: 2\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: here.test\r\ncontent-length: 1, 1\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: here.test\r\ncontent-length: +1\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: here.test\r\ntransfer-encoding: identity\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: here.test\r\ntransfer-encoding: chunked, identity\r\n", 400),
        ("POST / HTTP/1.0\r\nhost: here.test\r\ntransfer-encoding: chunked\r\n", 400),
        ("GET / HTTP/1.1\r\nhost : here.test\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: here.test\r\nx: a\r\n b\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: here.test\r\nx: a\0b\r\n", 400),
        ("GET / HTTP/3.0\r\nhost: here.test\r\n", 400),
        ("nonsense\r\n", 400),
    ] {
        let mut stream = port.connect().await;
        stream.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).await.unwrap();
        let answer = rest(&mut stream).await;
        assert_eq!(status(&answer), expect, "{}: {answer}", &head[..head.len().min(100)]);
        assert_eq!(answer.matches("\r\nlattice-error: ").count(), 1, "{answer}");
    }
    assert_eq!(calls(&[&a]), before, "a guest saw one of them");
    // What is odd and has one meaning only.
    for (head, expect) in [
        ("GET http://here.test/ HTTP/1.1\r\nhost: other.test\r\n", "0"),
        ("GET / HTTP/1.1\nhost: here.test\n", "0"),
        ("\r\nGET / HTTP/1.1\r\nhost: here.test\r\n", "0"),
    ] {
        let mut stream = port.connect().await;
        stream.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(status(&answer) == 200 && answer.ends_with(expect), "{head}: {answer}");
    }
    let equal = "POST / HTTP/1.1\r\nhost: here.test\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc";
    let mut stream = port.connect().await;
    stream.write_all(equal.as_bytes()).await.unwrap();
    assert!(response(&mut stream).await.ends_with("\r\n3"));
}

#[derive(Debug, Default)]
struct Lines(Mutex<Vec<(u16, &'static str)>>);
impl AccessLog for Lines {
    fn log(&self, access: Access) {
        self.0.lock().unwrap().push((access.status.unwrap_or(0), access.error.unwrap_or("")));
    }
}

#[tokio::test]
async fn what_hyper_refuses_by_itself_is_named_counted_and_logged() {
    let lines = Arc::new(Lines::default());
    let log = lines.clone();
    let (_world, a, _b) = counting(|options| options.access_log = Some(log)).await;
    let port = Port::open(&a, Duration::ZERO).await;
    let large = format!("x: {}\r\n", "y".repeat(2000)).repeat(150);
    let many: String = (0..200).map(|n| format!("x{n}: y\r\n")).collect();
    lines.0.lock().unwrap().clear();
    let before = a.metrics();
    let mut expected = Vec::new();
    // On a new connection, and on one that has carried an exchange.
    for used in [false, true] {
        for (head, code) in [
            ("nonsense\r\n".to_owned(), 400),
            ("GET / HTTP/1.1\r\nhost : here.test\r\n".to_owned(), 400),
            (format!("GET / HTTP/1.1\r\nhost: here.test\r\n{large}"), 431),
            (format!("GET / HTTP/1.1\r\nhost: here.test\r\n{many}"), 431),
        ] {
            let mut stream = port.connect().await;
            if used {
                stream.write_all(b"GET / HTTP/1.1\r\nhost: here.test\r\n\r\n").await.unwrap();
                assert_eq!(status(&response(&mut stream).await), 200);
                expected.push((200, ""));
            }
            // It may be cut off while it is sent.
            let _ = stream.write_all(format!("{head}\r\n").as_bytes()).await;
            let answer = rest(&mut stream).await;
            let named = if code == 431 { "head-too-large" } else { "bad-request" };
            assert_eq!(status(&answer), code, "{answer}");
            assert!(answer.contains(&format!("\r\nlattice-error: {named}\r\n")), "{answer}");
            assert!(answer.ends_with("\r\n\r\n"), "{answer}");
            expected.push((code, named));
        }
    }
    assert_eq!(*lines.0.lock().unwrap(), expected);
    let counted = |metrics: &str| -> u64 {
        let series = "lattice_router_requests_total{workload=\"\",route=\"\",status=\"4xx\",path=\"none\"} ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(series));
        line.map_or(0, |count| count.parse().unwrap())
    };
    assert_eq!(counted(&a.metrics()) - counted(&before), 8);
}

#[tokio::test]
async fn a_component_may_say_what_hyper_says() {
    let world = World::new();
    let a = world.node("a").await;
    // As large as pieces of it can lie anywhere in what is written at a time, for a client that reads slowly.
    let like = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".repeat(100_000);
    let sent = like.clone();
    a.guests.run("w", move |_| std::future::ready(ok(sent.clone())));
    world.ready("w", &["a"]);
    table_knows(&a, "w").await;
    let port = Port::open(&a, Duration::ZERO).await;
    let mut stream = port.connect().await;
    let get = "GET / HTTP/1.1\r\nhost: w.test\r\n\r\n";
    stream.write_all(format!("{get}{get}nonsense\r\n\r\n").as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let answer = rest(&mut stream).await;
    assert_eq!(answer.matches(&like).count(), 2, "the bodies are whole");
    assert_eq!(answer.matches("lattice-error").count(), 1);
    let last = &answer[answer.len() - 200..];
    assert!(last.contains("HTTP/1.1 400 Bad Request\r\nlattice-error: bad-request\r\n"), "{last}");
}

#[tokio::test]
async fn a_broken_chunk_breaks_the_body_and_is_not_tried_again() {
    let (_world, a, b) = counting(|_| ()).await;
    let port = Port::open(&a, Duration::ZERO).await;
    let extension = "x".repeat(20 * 1024);
    for host in ["here", "there"] {
        for chunk in [&format!("1;{extension}\r\na\r\n0\r\n\r\n"), "1\r\nab\r\n0\r\n\r\n", "zz\r\n", "1\r\na"] {
            let before = calls(&[&a, &b]);
            let mut stream = port.connect().await;
            let head = format!("PUT / HTTP/1.1\r\nhost: {host}.test\r\ntransfer-encoding: chunked\r\n\r\n");
            stream.write_all(format!("{head}{chunk}").as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            let answer = rest(&mut stream).await;
            // A client that has closed its side may not be answered.
            assert!(answer.is_empty() || status(&answer) == 400, "{host} {answer}");
            assert!(answer.is_empty() || answer.contains("lattice-error: body-broken"), "{answer}");
            assert!(calls(&[&a, &b]) - before <= 1, "it was tried again");
        }
    }
}

#[tokio::test]
async fn the_body_is_asked_for_when_it_is_wanted() {
    let (world, a, b) = counting(|_| ()).await;
    let wanted = Arc::new(Notify::new());
    for (node, id, workload) in [(&a, "a", "slow-here"), (&b, "b", "slow-there")] {
        let wanted = wanted.clone();
        node.guests.run(workload, move |request| {
            let wanted = wanted.clone();
            async move {
                if request.uri().path() == "/no" {
                    return ok("not wanted");
                }
                wanted.notified().await;
                ok(request.into_body().collect().await?.to_bytes())
            }
        });
        world.ready(workload, &[id]);
        table_knows(&a, workload).await;
    }
    let port = Port::open(&a, Duration::ZERO).await;
    let head = |host: &str, path: &str| {
        format!("POST {path} HTTP/1.1\r\nhost: {host}.test\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n")
    };
    for host in ["slow-here", "slow-there"] {
        let mut stream = port.connect().await;
        stream.write_all(head(host, "/").as_bytes()).await.unwrap();
        let mut early = [0];
        assert!(timeout(Duration::from_millis(200), stream.read(&mut early)).await.is_err(), "nobody wants it yet");
        wanted.notify_one();
        assert_eq!(response(&mut stream).await, "HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(b"hello").await.unwrap();
        assert!(response(&mut stream).await.ends_with("hello"));
        // A body that comes without being asked for.
        stream.write_all(format!("{}hello", head(host, "/")).as_bytes()).await.unwrap();
        wanted.notify_one();
        let mut answer = response(&mut stream).await;
        if answer.starts_with("HTTP/1.1 100") {
            answer = response(&mut stream).await;
        }
        assert!(answer.ends_with("hello"), "{answer}");
    }
    for (host, path, expect) in [("slow-here", "/no", 200), ("slow-there", "/no", 200), ("none", "/", 404)] {
        let mut stream = port.connect().await;
        stream.write_all(head(host, path).as_bytes()).await.unwrap();
        assert_eq!(status(&response(&mut stream).await), expect, "{host}: an answer without a body of the request");
    }
}

#[tokio::test]
async fn an_upgrade_is_refused_and_the_connection_goes_on() {
    let (_world, a, _b) = counting(|_| ()).await;
    let port = Port::open(&a, Duration::ZERO).await;
    let mut stream = port.connect().await;
    for _ in 0..2 {
        let websocket = "GET /chat HTTP/1.1\r\nhost: here.test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";
        stream.write_all(websocket.as_bytes()).await.unwrap();
        let answer = response(&mut stream).await;
        assert_eq!(status(&answer), 501);
        assert!(answer.contains("lattice-error: not-implemented\r\n"), "{answer}");
        stream.write_all(b"GET / HTTP/1.1\r\nhost: here.test\r\n\r\n").await.unwrap();
        assert_eq!(status(&response(&mut stream).await), 200);
    }
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let world = World::new();
    let a = world.node("a").await;
    world.workload("w", &["a"], "", "body: 10B");
    a.guests.run("w", |_| std::future::ready(ok("w")));
    table_knows(&a, "w").await;
    let port = Port::open(&a, Duration::ZERO).await;
    for _ in 0..10 {
        let mut stream = port.connect().await;
        let head = format!("POST / HTTP/1.1\r\nhost: w.test\r\ncontent-length: {}\r\n\r\n", 8 << 20);
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut reads, mut writes) = stream.split();
        // All of it: many clients do not look for an answer once they can't write.
        let sent = async {
            for _ in 0..128 {
                writes.write_all(&[0; 64 * 1024]).await.expect("the connection was reset");
                tokio::task::yield_now().await;
            }
        };
        let mut answer = Vec::new();
        let read = async {
            while !answer.windows(14).any(|window| window == b"body-too-large") {
                assert_ne!(reads.read_buf(&mut answer).await.unwrap(), 0, "the connection was closed");
            }
        };
        timeout(SOON, async { tokio::join!(sent, read) }).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_client_that_speaks_something_else_is_told_so() {
    let world = World::new();
    let port = Port::open(&world.node("a").await, Duration::ZERO).await;
    for _ in 0..10 {
        let mut stream = port.connect().await;
        stream.write_all(b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n").await.unwrap();
        let (mut reads, mut writes) = stream.split();
        // It has not seen the answer, which a reset would take from it.
        reads.readable().await.unwrap();
        for _ in 0..3 {
            writes.write_all(b"GET / HTTP/1.1\r\nhost: w.test\r\n\r\n").await.expect("the connection was reset");
        }
        let mut answer = String::new();
        timeout(SOON, reads.read_to_string(&mut answer)).await.unwrap().expect("the connection was reset");
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
}

#[tokio::test]
async fn trailers_pass_in_both_directions() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    for (workload, node, id) in [("here", &a, "a"), ("there", &b, "b")] {
        node.guests.run(workload, |request| async move {
            assert_eq!(request.headers()["te"], "trailers");
            let response = http::Response::builder().header("trailer", "x-sum");
            Ok(response.body(request.into_body()).unwrap())
        });
        world.ready(workload, &[id]);
        table_knows(&a, workload).await;
    }
    let port = Port::open(&a, Duration::ZERO).await;
    for host in ["here", "there"] {
        let mut stream = port.connect().await;
        let head = format!("POST / HTTP/1.1\r\nhost: {host}.test\r\nte: trailers\r\nconnection: te, close\r\n");
        let body = "transfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n";
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(answer.ends_with("3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn heads_without_bodies_parts_and_events_pass() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    let next = Arc::new(Notify::new());
    for (workload, node, id) in [("here", &a, "a"), ("there", &b, "b")] {
        let next = next.clone();
        node.guests.run(workload, move |request| {
            let next = next.clone();
            async move {
                if request.uri().path() == "/events" {
                    let (frames, body) = written();
                    tokio::spawn(async move {
                        for number in 0..3 {
                            let event = Bytes::from(format!("data: {number}\n\n"));
                            frames.send(Ok(Frame::data(event))).await.unwrap();
                            next.notified().await;
                        }
                    });
                    let response = http::Response::builder().header("content-type", "text/event-stream");
                    return Ok(response.body(body).unwrap());
                }
                let failed = || CallError::Failed { message: "the range is lost".into() };
                let range = request.headers().get("range").ok_or_else(failed)?.to_str().unwrap().to_owned();
                let body = if request.method() == "HEAD" { empty() } else { full("bcd") };
                let response = http::Response::builder().status(206).header("content-length", "3");
                Ok(response.header("content-range", range.replace('=', " ") + "/9").body(body).unwrap())
            }
        });
        world.ready(workload, &[id]);
        table_knows(&a, workload).await;
    }
    let port = Port::open(&a, Duration::ZERO).await;
    for host in ["here", "there"] {
        let mut stream = port.connect().await;
        let head = format!("/ HTTP/1.1\r\nhost: {host}.test\r\nrange: bytes=1-3\r\n\r\n");
        // Twice over one connection: nothing of the answer to HEAD is taken for the next one.
        for _ in 0..2 {
            stream.write_all(format!("HEAD {head}").as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\n") {
                answer.push(timeout(SOON, stream.read_u8()).await.unwrap().unwrap());
            }
            let answer = String::from_utf8(answer).unwrap();
            assert!(status(&answer) == 206 && answer.contains("content-length: 3\r\n"), "{answer}");
            stream.write_all(format!("GET {head}").as_bytes()).await.unwrap();
            let answer = response(&mut stream).await;
            assert!(answer.contains("content-range: bytes 1-3/9\r\n") && answer.ends_with("bcd"), "{answer}");
        }
        // Each event is there before the next one is made.
        let (mut client, _connection) = http2(&port, WINDOW as u32).await;
        let events = request("GET", &format!("http://{host}.test/events"), empty());
        let mut body = timeout(SOON, client.send_request(events)).await.unwrap().unwrap().into_body();
        for number in 0..3 {
            let event = timeout(SOON, body.frame()).await.expect("it was held back").unwrap().unwrap();
            assert_eq!(event.into_data().unwrap(), format!("data: {number}\n\n"), "{host}");
            next.notify_one();
        }
    }
}
