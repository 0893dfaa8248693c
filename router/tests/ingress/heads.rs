//! Heads that end in the HTTP library: they are refused however often the connection was used, and known of.

use super::{h2::*, *};

#[derive(Debug, Default)]
struct Lines(Mutex<Vec<Access>>);
impl AccessLog for Lines {
    fn log(&self, access: Access) {
        self.0.lock().unwrap().push(access);
    }
}

impl Lines {
    /// What came since the last look: status and error.
    fn take(&self) -> Vec<(Option<u16>, Option<&'static str>)> {
        self.0.lock().unwrap().drain(..).map(|line| (line.status, line.error)).collect()
    }
}

async fn logging() -> (World, Node, Node, Arc<Lines>) {
    let lines = Arc::new(Lines::default());
    let log = lines.clone();
    let (world, a, b) = counting(|options| options.access_log = Some(log)).await;
    lines.take();
    (world, a, b, lines)
}

/// Answers of the router alone, by class.
fn counted(node: &Node, class: &str) -> u64 {
    let series = format!("lattice_router_requests_total{{workload=\"\",route=\"\",status=\"{class}\",path=\"none\"}} ");
    node.metrics().lines().find_map(|line| line.strip_prefix(&series)).map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn a_head_has_the_same_limit_on_a_connection_that_was_used() {
    let (_world, a, _b, lines) = logging().await;
    let port = Port::open(&a, Duration::ZERO).await;
    let counted_before = counted(&a, "4xx");
    let mut expected = Vec::new();
    for before in 0..4 {
        // 32 KiB are allowed; what is just above may still find room in a buffer.
        for (bytes, is_taken) in [(31 << 10, true), (33 << 10, false), (45 << 10, false), (60 << 10, false)] {
            let mut stream = port.connect().await;
            // In one piece with those before it, which leave room in the buffer.
            let sent = "GET / HTTP/1.1\r\nhost: here.test\r\n\r\n".repeat(before);
            let sent = format!("{sent}GET / HTTP/1.1\r\nhost: here.test\r\nx: {}\r\n\r\n", "y".repeat(bytes));
            let _ = stream.write_all(sent.as_bytes()).await;
            for _ in 0..before {
                assert_eq!(status(&response(&mut stream).await), 200);
                expected.push((Some(200), None));
            }
            if is_taken {
                assert_eq!(status(&response(&mut stream).await), 200);
                expected.push((Some(200), None));
                continue;
            }
            let answer = rest(&mut stream).await;
            assert_eq!(status(&answer), 431, "{before} {bytes}: {answer}");
            assert!(answer.contains("\r\nlattice-error: head-too-large\r\n"), "{answer}");
            expected.push((Some(431), Some("head-too-large")));
        }
    }
    assert_eq!(lines.take(), expected);
    assert_eq!(counted(&a, "4xx") - counted_before, 12);
}

#[tokio::test]
async fn streams_that_are_refused_are_logged_and_counted() {
    let (_world, a, _b, lines) = logging().await;
    let port = Port::open(&a, Duration::ZERO).await;
    let mut stream = open(&port).await;
    let head = |more: &[(&str, &str)]| {
        fields(
            &[&[(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "here.test")], more].concat(),
        )
    };
    let whole = END_STREAM | END_HEADERS;
    let before = counted(&a, "4xx");
    let ok = (Some(200), None);
    let bad = (None, Some("bad-request"));
    let mut large = head(&vec![("x", &*"y".repeat(100)); 400]);
    let more = large.split_off(16 << 10);
    let mut pieces: Vec<_> = more.chunks(16 << 10).map(|piece| frame(CONTINUATION, 0, 7, piece)).collect();
    pieces.last_mut().unwrap()[4] = END_HEADERS;
    let mut asked = [
        ("a good one", frame(HEADERS, whole, 1, &head(&[])), vec![ok]),
        ("a pseudo-header behind others", frame(HEADERS, whole, 3, &head(&[("x", "y"), (":path", "/")])), vec![bad]),
        ("a header of HTTP/1", frame(HEADERS, END_HEADERS, 5, &head(&[("connection", "close")])), vec![bad]),
        (
            "too large",
            [frame(HEADERS, END_STREAM, 7, &large), pieces.concat()].concat(),
            vec![(Some(431), Some("head-too-large"))],
        ),
        (
            "two, one of them good",
            [frame(HEADERS, whole, 9, &head(&[("upgrade", "y")])), frame(HEADERS, whole, 11, &head(&[]))].concat(),
            vec![bad, ok],
        ),
        // Heard of, so that the line is that of the request.
        (
            "more than was announced",
            [frame(HEADERS, END_HEADERS, 13, &head(&[("content-length", "1")])), frame(0, END_STREAM, 13, b"abc")]
                .concat(),
            vec![(Some(400), Some("body-broken"))],
        ),
    ];
    for (what, frames, expected) in &mut asked {
        stream.write_all(frames).await.unwrap();
        let (mut told, mut answered) = (Vec::new(), 0);
        // Each stream ends with an answer or a reset. Then a ping, since what was refused is known at the next look.
        while answered < expected.len() {
            let (kind, id, _) = next(&mut stream).await.expect(what);
            answered += usize::from(id != 0 && matches!(kind, HEADERS | RST_STREAM));
        }
        stream.write_all(&frame(6, 0, 0, &[0; 8])).await.unwrap();
        eventually(what, || {
            told.extend(lines.take());
            told.len() >= expected.len()
        })
        .await;
        told.sort();
        expected.sort();
        assert_eq!(told, *expected, "{what}");
    }
    assert_eq!(counted(&a, "4xx") - before, 4, "the last one has a route");
    drop(stream);
    // What ends a connection: a frame that may not be there, and names that can't be read.
    for frames in [frame(CONTINUATION, END_HEADERS, 1, &head(&[])), frame(HEADERS, whole, 1, &head(&[("X", "y")]))] {
        let mut stream = open(&port).await;
        stream.write_all(&frames).await.unwrap();
        while next(&mut stream).await.is_some() {}
        eventually("the connection is known of", || lines.take() == [bad]).await;
    }
}

#[tokio::test]
async fn streams_beyond_the_limit_are_known_of() {
    let lines = Arc::new(Lines::default());
    let log = lines.clone();
    let world = World::new();
    let a = world.node_with("a", |options| options.access_log = Some(log)).await;
    let go = Arc::new(Notify::new());
    let waits = go.clone();
    a.guests.run("w", move |_| {
        let waits = waits.clone();
        async move {
            waits.notified().await;
            ok("done")
        }
    });
    world.ready("w", &["a"]);
    table_knows(&a, "w").await;
    lines.take();
    let port = Port::open(&a, Duration::ZERO).await;
    let mut stream = open(&port).await;
    // It is told of the limit before it heeds it.
    let head = fields(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "w.test")]);
    let heads: Vec<u8> = (0..110).flat_map(|id| frame(HEADERS, END_STREAM | END_HEADERS, 2 * id + 1, &head)).collect();
    stream.write_all(&frame(SETTINGS, 1, 0, &[])).await.unwrap();
    stream.write_all(&heads).await.unwrap();
    let mut refused = 0;
    while refused < 10 {
        let (kind, _, payload) = next(&mut stream).await.unwrap();
        refused += usize::from(kind == RST_STREAM && payload == 7_u32.to_be_bytes());
    }
    stream.write_all(&frame(6, 0, 0, &[0; 8])).await.unwrap();
    let mut told = Vec::new();
    eventually("all of them are known of", || {
        told.extend(lines.take());
        told.len() >= 10
    })
    .await;
    assert_eq!(told, vec![(None, Some("overloaded")); 10]);
    go.notify_waiters();
}

#[tokio::test]
async fn who_answered_is_for_the_log_alone() {
    let (_world, a, b, lines) = logging().await;
    for node in [&a, &b] {
        for workload in ["here", "there"] {
            // As a host says it.
            node.guests.run(workload, |request| async move {
                let said = request.headers().get("x-said").cloned();
                let mut response = ok("")?;
                if let Some(said) = said {
                    response.headers_mut().insert("lattice-served", said);
                }
                Ok(response)
            });
        }
    }
    for host in ["here", "there"] {
        for (said, expect) in [("7;reused", Some((7, true))), ("8;fresh", Some((8, false))), ("x", None)] {
            let mut asked = request("GET", &format!("http://{host}.test/"), empty());
            asked.headers_mut().insert("x-said", said.parse().unwrap());
            let answer = a.send(asked).await;
            assert_eq!((answer.status().as_u16(), header(&answer, "lattice-served")), (200, None), "{host} {said}");
            drop(answer);
            let mut lines = lines.0.lock().unwrap();
            let line = lines.pop().unwrap();
            let told = line.generation.map(|generation| generation.0).zip(line.reused);
            assert_eq!(told, expect, "{host} {said}");
        }
    }
}
