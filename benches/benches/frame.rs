//! What does it cost to carry HTTP in frames, without the network? For a small exchange the codec, with HTTP/1.1 as text
//! (the parser that hyper uses) as the peer; for 1 MiB of body both state machines in memory, with one copy of the same
//! bytes as the peer.

#![allow(clippy::expect_used, clippy::panic, reason = "a bench that fails has nothing to measure")]

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, uri::PathAndQuery};
use lattice::{
    exchange::{Config, Event, Exchange, HTTP_CHUNK_BYTES_MAX, Opened},
    frame::{Frame, RequestHead, ResponseHead},
    limits::NATS_PAYLOAD_BYTES_DEFAULT,
};
use lattice_benches::{Pairs, repeat, small};
use std::{hint::black_box, io::Write as _, time::Duration};

const BODY_BYTES: usize = 1 << 20;
/// Nothing here takes so long that a clock would matter.
const NOW: Duration = Duration::ZERO;

fn codec(criterion: &mut Criterion) {
    let mut pairs = Pairs::default();
    let (request_head, response_head) = (small::request_head(), small::response_head());
    let request = small::request_frame(request_head.clone());
    let response = small::response_frame(response_head.clone(), small::BODY);
    let mut group = criterion.benchmark_group("frame");
    group.throughput(Throughput::Elements(1));
    group.bench_function("request-and-reply", |bencher| {
        pairs.measure(
            bencher,
            |iterations| repeat(iterations, || (through_codec(&request), through_codec(&response))),
            |iterations| {
                repeat(iterations, || (request_through_text(&request_head), response_through_text(&response_head)))
            },
        );
    });
    group.finish();
    pairs.print("request and reply as frames", "as HTTP/1.1 text", 1.0, "exchanges");
}

fn bodies(criterion: &mut Criterion) {
    let body = Bytes::from(vec![7; BODY_BYTES]);
    let config = Config::new(NATS_PAYLOAD_BYTES_DEFAULT).expect("the default is large enough");
    for (direction, request_body, response_body) in
        [("request", body.clone(), Bytes::new()), ("response", Bytes::new(), body.clone())]
    {
        let mut pairs = Pairs::default();
        let copy = |chunk: &[u8]| drop(black_box(chunk.to_vec()));
        let mut group = criterion.benchmark_group("frame");
        group.throughput(Throughput::Bytes(BODY_BYTES as u64));
        group.bench_function(BenchmarkId::new("1-MiB-body", direction), |bencher| {
            pairs.measure(
                bencher,
                |iterations| repeat(iterations, || exchange(&config, request_body.clone(), response_body.clone())),
                |iterations| repeat(iterations, || body.chunks(HTTP_CHUNK_BYTES_MAX).for_each(copy)),
            );
        });
        group.finish();
        let mib = (BODY_BYTES >> 20) as f64;
        pairs.print(&format!("1 MiB of {direction} body"), "one copy of it", mib, "MiB");
    }
}

fn through_codec(frame: &Frame) -> Frame {
    let message = frame.encode(0, NATS_PAYLOAD_BYTES_DEFAULT).expect("it fits");
    Frame::decode(message).expect("what was encoded decodes").1
}

/// One exchange from the first frame to the last, both sides driven as their owners do, each frame delivered at once.
fn exchange(config: &Config, mut request_body: Bytes, mut response_body: Bytes) {
    let expected = (request_body.len(), response_body.len());
    let mut received = (0, 0);
    let mut router = Exchange::request(NOW, config.clone(), small::request_head(), None).expect("the head fits");
    router.send(&mut request_body);
    if request_body.is_empty() {
        router.end(None).expect("no trailers");
    }
    let opening = router.poll_transmit(NOW).expect("a request to send");
    let Opened::Exchange(mut node, _) = Exchange::accept(NOW, config.clone(), opening) else {
        panic!("the request is refused")
    };
    node.accept_body();
    loop {
        while let Some(message) = node.poll_transmit(NOW) {
            router.on_frame(NOW, message);
        }
        while let Some(event) = router.poll_event() {
            match event {
                Event::Response(_) => {}
                Event::Data(bytes) => {
                    received.1 += bytes.len();
                    router.consumed(bytes.len());
                }
                Event::End(_) => {
                    assert_eq!(received, expected, "both bodies arrive whole");
                    return;
                }
                Event::Reset(reset) => panic!("the router sees a reset: {reset}"),
            }
        }
        router.send(&mut request_body);
        if request_body.is_empty() {
            router.end(None).expect("no trailers");
        }
        while let Some(message) = router.poll_transmit(NOW) {
            node.on_frame(NOW, message);
        }
        while let Some(event) = node.poll_event() {
            match event {
                Event::Data(bytes) => {
                    received.0 += bytes.len();
                    node.consumed(bytes.len());
                }
                Event::End(_) => node.respond(small::response_head()).expect("the head fits"),
                Event::Response(_) => panic!("a node gets no response"),
                Event::Reset(reset) => panic!("the node sees a reset: {reset}"),
            }
        }
        node.send(&mut response_body);
        if response_body.is_empty() {
            node.end(None).expect("no trailers");
        }
    }
}

fn request_through_text(head: &RequestHead) -> (Method, PathAndQuery, HeaderMap) {
    let mut text = Vec::with_capacity(1024);
    let RequestHead { method, authority, path_and_query, headers, .. } = head;
    write!(text, "{method} {path_and_query} HTTP/1.1\r\nhost: {authority}\r\n").expect("memory takes all");
    let text = with_headers(text, headers, &[]);
    let mut lines = [httparse::EMPTY_HEADER; 100];
    let mut parsed = httparse::Request::new(&mut lines);
    parsed.parse(&text).expect("what was written parses");
    let method = parsed.method.expect("a method").parse().expect("a good method");
    let path = parsed.path.expect("a path").parse().expect("a good path");
    (method, path, to_map(&text, parsed.headers))
}

fn response_through_text(head: &ResponseHead) -> (StatusCode, HeaderMap, Bytes) {
    let mut text = Vec::with_capacity(1024);
    write!(text, "HTTP/1.1 {}\r\n", head.status).expect("memory takes all");
    let text = with_headers(text, &head.headers, &small::BODY);
    let mut lines = [httparse::EMPTY_HEADER; 100];
    let mut parsed = httparse::Response::new(&mut lines);
    let end = parsed.parse(&text).expect("what was written parses").unwrap();
    let status = StatusCode::from_u16(parsed.code.expect("a status")).expect("a good status");
    (status, to_map(&text, parsed.headers), text.slice(end..))
}

fn with_headers(mut text: Vec<u8>, headers: &HeaderMap, body: &[u8]) -> Bytes {
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            text.extend_from_slice(part);
        }
    }
    text.extend_from_slice(b"\r\n");
    text.extend_from_slice(body);
    text.into()
}

/// Values are slices of the text, as those of frames and of hyper are.
fn to_map(text: &Bytes, lines: &[httparse::Header<'_>]) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(lines.len());
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes()).expect("a good name");
        headers.append(name, HeaderValue::from_maybe_shared(text.slice_ref(line.value)).expect("a good value"));
    }
    headers
}

criterion_group!(benches, codec, bodies);
criterion_main!(benches);
