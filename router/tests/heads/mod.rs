//! Large heads on the way to another node and back: what a frame carries passes, what it can't is refused by name.

use crate::{table_knows, world::*};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::BodyExt as _;
use lattice::http::{Request, Response, empty, full};
use lattice_router::RouterOptions;
use std::sync::atomic::Ordering;

/// So many lines of so many bytes each, as they count in a head.
fn lines(count: usize, bytes: usize) -> HeaderMap {
    let line = |number: usize| {
        let name = HeaderName::try_from(format!("x-{number:04}")).unwrap();
        (name, HeaderValue::try_from("y".repeat(bytes)).unwrap())
    };
    (0..count).map(line).collect()
}

/// How many lines of ours a head has, and bytes in their values.
fn size(headers: &HeaderMap) -> (usize, usize) {
    let ours = headers.iter().filter(|(name, _)| name.as_str().starts_with("x-0"));
    ours.fold((0, 0), |(lines, bytes), (_, value)| (lines + 1, bytes + value.len()))
}

fn with_head(host: &str, headers: HeaderMap, body: lattice::http::Body) -> Request {
    let mut request = request("POST", &format!("http://{host}.test/"), body);
    request.headers_mut().extend(headers);
    request
}

/// Nodes that take any head from a client, with `here` on the first one and `there` on the second. Both answer how large the
/// request's head was, and its body.
async fn counting() -> (World, Node, Node) {
    let world = World::new();
    let anything = |options: &mut RouterOptions| options.headers_max = 10_000;
    let (a, b) = (world.node_with("a", anything).await, world.node("b").await);
    for (workload, node, id) in [("here", &a, "a"), ("there", &b, "b")] {
        node.guests.run(workload, |request| async move {
            let head = size(request.headers());
            let body = request.into_body().collect().await?.to_bytes().len();
            ok(format!("{head:?} {body}"))
        });
        world.ready(workload, &[id]);
        table_knows(&a, workload).await;
    }
    (world, a, b)
}

#[tokio::test]
async fn a_large_request_head_reaches_another_node_or_is_refused() {
    let (_world, a, b) = counting().await;
    // A frame's limits are 64 KiB and 256 lines, some of which the router adds.
    for (count, bytes, is_carried) in
        [(90, 340, true), (1, 60_000, true), (240, 10, true), (1, 66_000, false), (300, 10, false)]
    {
        let before = b.guests.calls.load(Ordering::SeqCst);
        let expected = format!("({count}, {}) 100000", count * bytes);
        let ask = |host| a.send(with_head(host, lines(count, bytes), full(pattern(100_000))));
        assert_eq!(text(ask("here").await).await, expected, "no frame here");
        let response = ask("there").await;
        if is_carried {
            assert_eq!(text(response).await, expected);
        } else {
            assert_eq!((response.status().as_u16(), header(&response, "lattice-error")), (431, Some("head-too-large")));
            assert_eq!(b.guests.calls.load(Ordering::SeqCst), before);
        }
    }
}

#[tokio::test]
async fn a_large_response_head_comes_from_another_node_or_is_a_failure() {
    let (world, a, b) = counting().await;
    for (number, (count, bytes, is_carried)) in
        [(1, 60_000, true), (250, 200, true), (1, 66_000, false), (300, 10, false)].into_iter().enumerate()
    {
        let workload = format!("w{number}");
        b.guests.run(&workload, move |_| async move {
            let mut response = Response::new(full(pattern(100_000)));
            *response.headers_mut() = lines(count, bytes);
            Ok(response)
        });
        world.ready(&workload, &["b"]);
        table_knows(&a, &workload).await;
        let response = a.send(with_head(&workload, HeaderMap::new(), empty())).await;
        if is_carried {
            assert_eq!((response.status().as_u16(), size(response.headers())), (200, (count, count * bytes)));
            assert!(response.into_body().collect().await.unwrap().to_bytes() == pattern(100_000));
        } else {
            let code = header(&response, "lattice-error");
            assert_eq!((response.status().as_u16(), code), (502, Some("component-failed")));
            assert_eq!(size(response.headers()), (0, 0));
        }
    }
}

#[tokio::test]
async fn a_server_that_carries_less_leaves_less_for_heads() {
    let (world, a, b) = counting().await;
    for node in [&a, &b] {
        node.faults.payload_bytes_max.store(16 * 1024, Ordering::SeqCst);
    }
    let before = a.faults.messages.load(Ordering::SeqCst);
    let refused = a.send(with_head("there", lines(1, 17_000), empty())).await;
    assert_eq!((refused.status().as_u16(), header(&refused, "lattice-error")), (431, Some("head-too-large")));
    assert_eq!(a.faults.messages.load(Ordering::SeqCst), before, "nothing is sent that the server would not take");
    // The body takes what the head leaves of the first message, and then messages of its own.
    let carried = a.send(with_head("there", lines(1, 12_000), full(pattern(100_000)))).await;
    assert_eq!(text(carried).await, "(1, 12000) 100000");

    for (workload, bytes) in [("small", 12_000), ("large", 17_000)] {
        b.guests.run(workload, move |_| async move {
            let mut response = Response::new(full(pattern(100_000)));
            *response.headers_mut() = lines(1, bytes);
            Ok(response)
        });
        world.ready(workload, &["b"]);
        table_knows(&a, workload).await;
    }
    let carried = a.send(with_head("small", HeaderMap::new(), empty())).await;
    assert_eq!(size(carried.headers()), (1, 12_000));
    assert!(carried.into_body().collect().await.unwrap().to_bytes() == pattern(100_000));
    let failed = a.send(with_head("large", HeaderMap::new(), empty())).await;
    assert_eq!((failed.status().as_u16(), header(&failed, "lattice-error")), (502, Some("component-failed")));
}
