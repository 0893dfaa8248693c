//! HTTP/2 frame by frame: what no client library sends.

use super::*;

pub(super) const END_STREAM: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// RFC 7541 §6.2.2: literals without indexing, and without Huffman.
pub(super) fn fields(lines: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    lines.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

pub(super) async fn open(port: &Port) -> TcpStream {
    let mut stream = port.connect().await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    stream
}

/// A client that gives leave for all there is.
pub(super) async fn open_wide(port: &Port) -> TcpStream {
    const WINDOW_MAX: u32 = (1 << 31) - 1;
    let mut stream = open(port).await;
    // INITIAL_WINDOW_SIZE, and the rest of the connection's window.
    let settings = [&4_u16.to_be_bytes()[..], &WINDOW_MAX.to_be_bytes()].concat();
    stream.write_all(&frame(SETTINGS, 0, 0, &settings)).await.unwrap();
    stream.write_all(&frame(WINDOW_UPDATE, 0, 0, &(WINDOW_MAX - 65_535).to_be_bytes())).await.unwrap();
    stream
}

/// The whole of a request.
pub(super) fn get(id: u32, host: &str) -> Vec<u8> {
    let head = fields(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", host)]);
    frame(HEADERS, END_STREAM | END_HEADERS, id, &head)
}

/// The next frame: kind, stream, payload. Nothing where the connection is closed.
pub(super) async fn next(stream: &mut TcpStream) -> Option<(u8, u32, Vec<u8>)> {
    let read = async {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.ok()?;
        Some((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
    };
    timeout(SOON, read).await.expect("the connection was left open")
}

/// The status of the answer on stream 1, or the error code that the stream or the connection ended with.
async fn ask(port: &Port, lines: &[(&str, &str)]) -> Result<u16, u32> {
    let mut stream = open(port).await;
    let block = fields(lines);
    let mut parts = block.chunks(16 * 1024).peekable();
    let mut kind = HEADERS;
    while let Some(part) = parts.next() {
        let end = if parts.peek().is_none() { END_HEADERS } else { 0 };
        stream.write_all(&frame(kind, if kind == HEADERS { END_STREAM | end } else { end }, 1, part)).await.unwrap();
        kind = CONTINUATION;
    }
    while let Some((kind, _, payload)) = next(&mut stream).await {
        match kind {
            HEADERS => return Ok(status_of(&payload)),
            RST_STREAM => return Err(u32::from_be_bytes(payload[..4].try_into().unwrap())),
            GOAWAY => return Err(u32::from_be_bytes(payload[4..8].try_into().unwrap())),
            _ => {}
        }
    }
    Err(u32::MAX)
}

/// `:status` comes first: by its index in the static table, or its digits behind the index of its name.
fn status_of(mut block: &[u8]) -> u16 {
    while block[0] & 0xe0 == 0x20 {
        block = &block[1..]; // the size of the dynamic table
    }
    match block[0] {
        0x88 => 200,
        0x8c => 400,
        0x8d => 404,
        0x8e => 500,
        // The digits behind the index of the name, with or without an entry in the dynamic table.
        0x48 | 0x08 => match &block[1..] {
            [3, digits @ ..] => std::str::from_utf8(&digits[..3]).unwrap().parse().unwrap(),
            [coded, digits @ ..] if coded & 0x80 != 0 => huffman(digits),
            other => panic!("a status in {other:?}"),
        },
        other => panic!("a status that begins with {other:#x}"),
    }
}

/// Three digits (RFC 7541, appendix B): 0 to 2 have five bits, the others six.
fn huffman(coded: &[u8]) -> u16 {
    let mut bits = coded.iter().take(3).fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
    bits <<= 32 - 8 * coded.len().min(3);
    (0..3).fold(0, |number, _| {
        let (digit, length) = if bits >> 27 <= 2 { (bits >> 27, 5) } else { ((bits >> 26) - 0x19 + 3, 6) };
        bits <<= length;
        number * 10 + digit as u16
    })
}

#[tokio::test]
async fn odd_heads_are_refused_here_too() {
    let (world, a, _b) = counting(|_| ()).await;
    a.guests.run("host", |request| async move { ok(request.headers()["host"].as_bytes().to_vec()) });
    world.ready("host", &["a"]);
    table_knows(&a, "host").await;
    let port = Port::open(&a, Duration::ZERO).await;
    const GET: (&str, &str) = (":method", "GET");
    const HTTP: (&str, &str) = (":scheme", "http");
    const ROOT: (&str, &str) = (":path", "/");
    const HERE: (&str, &str) = (":authority", "here.test");
    let long = "y".repeat(100);
    let large: Vec<_> = std::iter::repeat_n(("x", long.as_str()), 400).collect();
    let lines = |count| [&[GET, HTTP, ROOT, HERE][..], &vec![("x", "y"); count]].concat();
    for (lines, expect) in [
        (&[GET, HTTP, ROOT, HERE][..], Ok(200)),
        (&lines(100), Ok(200)),
        (&lines(101), Ok(431)),
        (&[GET, HTTP, ROOT, (":authority", "here.lattice")], Ok(400)),
        (&[GET, HTTP, ROOT, ("host", "Here.Lattice.:80")], Ok(400)),
        (&[GET, HTTP, ROOT, (":authority", "lattice")], Ok(400)),
        (&[GET, HTTP, ROOT, (":authority", "here.lattice.test")], Ok(404)),
        (&[GET, HTTP, ROOT, ("host", "here.test")], Ok(200)),
        (&[GET, HTTP, ROOT], Ok(400)),
        (&[GET, HTTP, ROOT, HERE, ("host", "a.test"), ("host", "b.test")], Ok(400)),
        (&[GET, HTTP, ROOT, ("host", "here.test"), ("host", "here.test")], Ok(400)),
        (&[GET, HTTP, ROOT, HERE, ("host", "other.test")], Ok(200)),
        (&[GET, HTTP, ROOT, (":authority", "other.test"), ("host", "here.test")], Ok(404)),
        (&[GET, HTTP, ROOT, (":authority", "u@here.test")], Ok(400)),
        (&[GET, HTTP, (":path", "/a/%2e%2e/b"), HERE], Ok(400)),
        (&[GET, HTTP, (":path", "/a%5cb"), HERE], Ok(400)),
        (&[GET, HTTP, (":path", "*"), HERE], Ok(400)),
        (&[(":method", "TRACE"), HTTP, ROOT, HERE], Ok(501)),
        (&[(":method", "CONNECT"), (":authority", "here.test:443")], Ok(501)),
        // PROTOCOL_ERROR: these are for HTTP/1, or come once, or in lower case.
        (&[GET, HTTP, ROOT, HERE, ("transfer-encoding", "chunked")], Err(1)),
        (&[GET, HTTP, ROOT, HERE, ("connection", "close")], Err(1)),
        (&[GET, HTTP, ROOT, HERE, ("upgrade", "websocket")], Err(1)),
        (&[GET, GET, HTTP, ROOT, HERE], Err(1)),
        (&[GET, HTTP, ROOT, ROOT, HERE], Err(1)),
        (&[GET, HTTP, ROOT, HERE, ("X", "y")], Err(1)),
        (&[&[GET, HTTP, ROOT, HERE][..], &large].concat(), Ok(431)),
    ] {
        assert_eq!(ask(&port, lines).await, expect, "{:?}", &lines[..lines.len().min(8)]);
    }
    // The guest sees the one that counts.
    let (mut client, _connection) = http2(&port, WINDOW as u32).await;
    let mut asked = request("GET", "http://host.test/", empty());
    asked.headers_mut().insert("host", "other.test".parse().unwrap());
    let answer = timeout(SOON, client.send_request(asked)).await.unwrap().unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "host.test");
}

#[tokio::test]
async fn streams_that_are_opened_to_be_reset_end_the_connection() {
    let (_world, a, _b) = counting(|_| ()).await;
    let port = Port::open(&a, Duration::ZERO).await;
    let before = calls(&[&a]);
    let stream = open(&port).await;
    let (mut reads, mut writes) = stream.into_split();
    let head = fields(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "here.test")]);
    let flood = tokio::spawn(async move {
        for number in 0..20_000_u32 {
            let id = 2 * number + 1;
            let opened = frame(HEADERS, END_STREAM | END_HEADERS, id, &head);
            let reset = frame(RST_STREAM, 0, id, &8_u32.to_be_bytes());
            if writes.write_all(&[opened, reset].concat()).await.is_err() {
                return;
            }
        }
    });
    let mut received = Vec::new();
    let _ = timeout(SOON, reads.read_to_end(&mut received)).await.expect("the connection was left open");
    flood.abort();
    let mut frames = received.as_slice();
    let mut code = None;
    while let Some((head, rest)) = frames.split_at_checked(9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some((payload, rest)) = rest.split_at_checked(length) else { break };
        if head[3] == GOAWAY {
            code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
        frames = rest;
    }
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
    assert!(calls(&[&a]) - before < 1100, "{} of them ran", calls(&[&a]) - before);
    eventually("no request", || a.router.in_flight() == 0).await;
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut() {
    let world = World::new();
    let a = world.node_with("a", |options| options.head_timeout = Duration::from_millis(300)).await;
    let port = Port::open(&a, Duration::ZERO).await;
    // Slowly: by time.
    let mut stream = open(&port).await;
    stream.write_all(&frame(HEADERS, END_STREAM, 1, &fields(&[(":method", "GET")]))).await.unwrap();
    while next(&mut stream).await.is_some() {}
    // Fast: by size. One frame after another, each of them whole.
    let stream = open(&port).await;
    let (mut reads, mut writes) = stream.into_split();
    let flood = tokio::spawn(async move {
        let line = fields(&[("x", &"y".repeat(100))]);
        let _ = writes.write_all(&frame(HEADERS, END_STREAM, 1, &fields(&[(":method", "GET")]))).await;
        for _ in 0..100_000 {
            if writes.write_all(&frame(CONTINUATION, 0, 1, &line)).await.is_err() {
                return;
            }
        }
        panic!("all of it was taken");
    });
    let _ = timeout(SOON, reads.read_to_end(&mut Vec::new())).await.expect("the connection was left open");
    drop(reads);
    timeout(SOON, flood).await.expect("the flood is still taken").unwrap();
}
