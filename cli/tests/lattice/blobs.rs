//! `wasi:blobstore` on object stores: a component that knows the published WIT and nothing of the lattice.
#![cfg(target_os = "linux")] // reads /proc

use crate::harness::{
    Api, Lattice, PATIENCE,
    api::spec,
    eventually,
    http::{self, Body, Error},
    process::{memory_kib, reset_high_water},
};
use bytes::Bytes;
use futures_util::{future::join_all, stream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    Method,
    body::{Frame, Incoming},
};
use lattice::{ctl::ErrorCode, store::Headers};
use serde_json::{Value, json};

pub const MIB: u64 = 1 << 20;
/// Byte i of every body is `i % 251`: a prime, so that no loss or repetition of a chunk fits.
const PATTERN: u64 = 251;
/// Several times what the nodes may grow by.
pub const LENGTH: u64 = 96 * MIB;
const GROWTH_KIB_MAX: u64 = 40 * 1024;

/// As `nats object add` does it.
pub async fn make_store(api: &Api, name: &str, most: i64) {
    let config = json!({
        "name": format!("OBJ_{name}"),
        "subjects": [format!("$O.{name}.C.>"), format!("$O.{name}.M.>")],
        "discard": "new",
        "allow_rollup_hdrs": true,
        "allow_direct": true,
        "max_bytes": most,
        "storage": "file",
        "num_replicas": 1,
    });
    let subject = format!("$JS.API.STREAM.CREATE.OBJ_{name}");
    let made = api.request(&subject, Headers::new(), config.to_string().as_bytes()).await.unwrap();
    let made: Value = serde_json::from_slice(&made.payload).unwrap();
    assert!(made.get("error").is_none(), "{made}");
}

/// Messages in the stream of a store.
pub async fn messages(api: &Api, name: &str) -> u64 {
    let info = api.request(&format!("$JS.API.STREAM.INFO.OBJ_{name}"), Headers::new(), b"").await.unwrap();
    let info: Value = serde_json::from_slice(&info.payload).unwrap();
    info["state"]["messages"].as_u64().unwrap()
}

async fn shelf(api: &Api, replicas: u32, blobstore: Value) -> Value {
    let digest = api.upload("shelf").await;
    let mut asked = spec("shelf", digest, replicas);
    asked["grants"] = json!({ "blobstore": blobstore });
    asked["limits"] = json!({ "wall": "2m" });
    asked
}

fn pattern(from: u64, length: u64) -> Bytes {
    (from..from + length).map(|i| (i % PATTERN) as u8).collect()
}

/// A body that is made as it is sent; at its end it is cut off where `cut` says so.
pub fn body(length: u64, cut: bool) -> Body {
    let period = 64 * 1024 / PATTERN * PATTERN;
    let chunk = pattern(0, period);
    let frames = stream::unfold(0, move |sent| {
        let chunk = chunk.clone();
        async move {
            let next = period.min(length - sent);
            match next {
                0 if cut => Some((Err(Error::from("cut off")), sent)),
                0 => None,
                next => Some((Ok(Frame::data(chunk.slice(..next as usize))), sent + next)),
            }
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

/// Reads a body that begins at an offset of the pattern, each byte as it comes; answers with the length.
pub async fn check(mut body: Incoming, from: u64) -> Result<u64, Error> {
    let period = pattern(0, PATTERN * 2);
    let mut length = 0_u64;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        for part in data.chunks(PATTERN as usize) {
            let start = ((from + length) % PATTERN) as usize;
            if part != &period[start..start + part.len()] {
                return Err(format!("wrong bytes at {length}").into());
            }
            length += part.len() as u64;
        }
    }
    Ok(length)
}

async fn ask(address: &str, method: Method, path: &str, body: Body) -> (u16, String) {
    let response = http::send(address, method, "shelf.test", path, &[], body).await.unwrap();
    let answer = http::whole(response).await.unwrap();
    (answer.status, answer.text())
}

async fn get(address: &str, path: &str, range: &str) -> (u16, Result<u64, Error>) {
    let headers = if range.is_empty() { vec![] } else { vec![("range", range)] };
    let response = http::send(address, Method::GET, "shelf.test", path, &headers, http::empty()).await.unwrap();
    let from = range.strip_prefix("bytes=").map_or(0, |range| range.split('-').next().unwrap().parse().unwrap());
    (response.status().as_u16(), check(response.into_body(), from).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_pass_through_nodes_in_bounded_memory() {
    let lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    make_store(&api, "big", -1).await;
    api.put(&shelf(&api, 2, json!({ "files": { "bucket": "big" } })).await).await.unwrap();
    api.ready("shelf").await;
    let nodes = ["n1", "n2"].map(|id| lattice.node(id));
    let [one, two] = nodes.map(|node| node.http());
    // What an instance, a connection and the first streams take, once.
    assert_eq!(ask(&one, Method::PUT, "/files/small", body(MIB, false)).await, (201, String::new()));
    for address in [&one, &two] {
        let (status, length) = get(address, "/files/small", "").await;
        assert_eq!((status, length.unwrap()), (200, MIB));
    }
    let before = nodes.map(|node| {
        reset_high_water(node.pid());
        memory_kib(node.pid(), "VmHWM")
    });
    // Four at a time, then read by both nodes, whole and in part.
    let paths: Vec<String> = (0..4).map(|n| format!("/files/big/{n}")).collect();
    let writes = paths.iter().map(|path| ask(&one, Method::PUT, path, body(LENGTH / 4, false)));
    assert!(join_all(writes).await.iter().all(|(status, _)| *status == 201));
    assert_eq!(ask(&two, Method::PUT, "/files/huge", body(LENGTH, false)).await, (201, String::new()));
    let reads = paths.iter().map(|path| get(&two, path, ""));
    for (status, length) in join_all(reads).await {
        assert_eq!((status, length.unwrap()), (200, LENGTH / 4));
    }
    let (status, length) = get(&one, "/files/huge", "").await;
    assert_eq!((status, length.unwrap()), (200, LENGTH));
    let (status, length) = get(&one, "/files/huge", &format!("bytes={}-{}", 50 * MIB + 7, 60 * MIB)).await;
    assert_eq!((status, length.unwrap()), (206, 10 * MIB - 6));
    assert_eq!(ask(&one, Method::POST, "/files/huge?copy=files/twin", http::empty()).await.0, 204);
    let (status, length) = get(&two, "/files/twin", "").await;
    assert_eq!((status, length.unwrap()), (200, LENGTH));
    for (node, before) in nodes.iter().zip(before) {
        let grown = memory_kib(node.pid(), "VmHWM").saturating_sub(before);
        println!("{} grew by {grown} KiB", node.id);
        assert!(grown < GROWTH_KIB_MAX, "{} grew by {grown} KiB", node.id);
    }
    // As any other client sees it.
    let (objects, chunks) = (7, (MIB + 3 * LENGTH) / (128 << 10));
    assert_eq!(messages(&api, "big").await, objects + chunks, "a description each, and chunks of 128 KiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_with_objects_and_what_is_refused() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    for (name, most) in [("files", -1), ("other", -1), ("small", 2 << 20)] {
        make_store(&api, name, most).await;
    }
    let digest = api.upload("shelf").await;
    for (grant, field) in [
        (json!({ "a": { "bucket": "absent" } }), "grants.blobstore.a.bucket"),
        (json!({ "a": { "bucket": "lattice-default-components" } }), "grants.blobstore.a.bucket"),
    ] {
        let mut asked = spec("shelf", digest, 1);
        asked["grants"] = json!({ "blobstore": grant });
        let refused = api.put(&asked).await.unwrap_err();
        assert_eq!((refused.code, refused.field.as_deref()), (ErrorCode::Invalid, Some(field)), "{refused:?}");
    }
    let grants = json!({
        "files": { "bucket": "files" },
        "look": { "bucket": "files", "access": "read-only" },
        "other": { "bucket": "other" },
        "small": { "bucket": "small" },
    });
    api.put(&shelf(&api, 1, grants).await).await.unwrap();
    api.ready("shelf").await;
    let node = lattice.node("n1").http();
    let ask = |method, path: &'static str, text: &'static str| {
        let node = node.clone();
        async move { ask(&node, method, path, http::full(text.into())).await }
    };
    let done = (204, String::new());
    assert_eq!(ask(Method::GET, "/files/", "").await, (200, String::new()));
    assert_eq!(ask(Method::GET, "/files/a", "").await.0, 404);
    assert_eq!(ask(Method::DELETE, "/files/a", "").await, done);
    assert_eq!(ask(Method::PUT, "/files/a", "one").await.0, 201);
    assert_eq!(ask(Method::PUT, "/files/a", "two").await.0, 201);
    assert_eq!(ask(Method::PUT, "/files/b/c.d", "").await.0, 201);
    assert_eq!(ask(Method::POST, "/files/late?late", "late").await.0, 201);
    assert_eq!(ask(Method::GET, "/files/late", "").await, (200, "late".into()));
    assert_eq!(ask(Method::GET, "/files/", "").await, (200, "a\nb/c.d\nlate\n".into()));
    assert_eq!(ask(Method::GET, "/look/a", "").await, (200, "two".into()));
    assert_eq!(ask(Method::POST, "/look/a?list", "").await, (200, "two".into()));
    assert_eq!(ask(Method::GET, "/files/b/c.d", "").await, (200, String::new()));
    assert_eq!(ask(Method::POST, "/files/a?copy=other/a", "").await, done);
    assert_eq!(ask(Method::POST, "/files/late?move=files/later", "").await, done);
    assert_eq!(ask(Method::GET, "/files/", "").await, (200, "a\nb/c.d\nlater\n".into()));
    assert_eq!(ask(Method::GET, "/other/a", "").await, (200, "two".into()));
    let (_, part) = get(&node, "/files/a", "bytes=9-").await;
    assert_eq!(part.unwrap(), 0, "behind the end there is nothing");

    // More than there is room for before it is said where to.
    let (status, text) = self::ask(&node, Method::POST, "/files/late?late", body(MIB, false)).await;
    assert!(status == 502 && text.contains("write-data"), "{status} {text}");
    // More than the store takes: said to who writes, and nothing is left.
    let (status, text) = self::ask(&node, Method::PUT, "/small/x", body(4 * MIB, false)).await;
    assert!(status == 502 && text.contains("maximum bytes"), "{status} {text}");
    assert_eq!(messages(&api, "small").await, 0);
    // Cut off: what was there stays.
    let cut = http::send(&node, Method::PUT, "shelf.test", "/files/a", &[], body(3 * MIB, true)).await;
    assert!(cut.is_err() || cut.unwrap().status().as_u16() >= 500);
    assert_eq!(ask(Method::GET, "/files/a", "").await, (200, "two".into()));
    eventually("what was cut off is removed", PATIENCE, || async {
        let left = messages(&api, "files").await;
        // Three objects, two of them with a chunk; and one that was deleted.
        (left == 6).then_some(()).ok_or(format!("{left} messages"))
    })
    .await;

    for (method, path) in [
        (Method::PUT, "/look/a"),
        (Method::DELETE, "/look/a"),
        (Method::DELETE, "/look/"),
        (Method::POST, "/files/a?copy=look/z"),
        (Method::POST, "/look/a?move=files/z"),
        (Method::GET, "/nobody/a"),
        (Method::PUT, "/nobody/a"),
        (Method::POST, "/files/a?copy=nobody/a"),
        (Method::POST, "/nobody/a?copy=files/a"),
        (Method::GET, "/OBJ_files/a"),
    ] {
        let (status, text) = ask(method.clone(), path, "x").await;
        let denied = text.contains("read only") || text.contains("no grant");
        assert!(status == 502 && denied, "{method} {path}: {status} {text}");
    }
    assert_eq!(ask(Method::DELETE, "/files/", "").await, done);
    assert_eq!(ask(Method::GET, "/files/", "").await, (200, String::new()));
    assert_eq!(ask(Method::GET, "/other/a", "").await, (200, "two".into()));
}
