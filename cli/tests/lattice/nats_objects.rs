//! `lattice:nats/objects`: object stores as a guest has them, against a real server, and each way around their grants.
#![cfg(target_os = "linux")] // reads /proc

use crate::{
    blobs::{LENGTH, MIB, body, check, make_store, messages},
    harness::{
        Api, Lattice, PATIENCE,
        api::spec,
        eventually,
        http::{self, Body},
        process::{memory_kib, reset_high_water},
    },
    nats::stream_api,
};
use futures_util::future::join_all;
use http_body_util::BodyExt as _;
use hyper::{Method, body::Incoming};
use lattice::ctl::ErrorCode;
use serde_json::{Value, json};

const GROWTH_KIB_MAX: u64 = 40 * 1024;

async fn asked(api: &Api, replicas: u32, objects: Value) -> Value {
    let mut asked = spec("depot", api.upload("depot").await, replicas);
    asked["grants"] = json!({ "nats": { "objects": objects } });
    asked["limits"] = json!({ "wall": "2m" });
    asked
}

async fn depot(api: &Api, replicas: u32, objects: Value) {
    api.put(&asked(api, replicas, objects).await).await.unwrap();
    api.ready("depot").await;
}

type Headers<'a> = &'a [(&'a str, &'a str)];

async fn send(node: &str, method: Method, path: &str, headers: Headers<'_>, body: Body) -> (u16, String) {
    let response = http::send(node, method, "depot.test", path, headers, body).await.unwrap();
    let answer = http::whole(response).await.unwrap();
    (answer.status, answer.text())
}

async fn ask(node: &str, method: Method, path: &str, headers: Headers<'_>, text: &str) -> (u16, String) {
    send(node, method, path, headers, http::full(text.as_bytes().to_vec())).await
}

/// The status, and how many right bytes came before the end.
async fn get(node: &str, path: &str, range: &str) -> (u16, u64) {
    let headers = if range.is_empty() { vec![] } else { vec![("range", range)] };
    let response = http::send(node, Method::GET, "depot.test", path, &headers, http::empty()).await.unwrap();
    let from = range.strip_prefix("bytes=").map_or(0, |range| range.split('-').next().unwrap().parse().unwrap());
    (response.status().as_u16(), check(response.into_body(), from).await.unwrap())
}

/// The next line of an answer that goes on.
async fn line(body: &mut Incoming, read: &mut String) -> String {
    let next = async {
        loop {
            if let Some((line, rest)) = read.split_once('\n') {
                let line = line.to_owned();
                *read = rest.to_owned();
                return line;
            }
            let frame = body.frame().await.expect("it goes on").unwrap();
            read.push_str(&String::from_utf8_lossy(&frame.into_data().unwrap_or_default()));
        }
    };
    tokio::time::timeout(PATIENCE, next).await.expect("a line in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_stream_through_nodes_in_bounded_memory() {
    let lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    make_store(&api, "big", -1).await;
    depot(&api, 2, json!({ "files": { "bucket": "big" } })).await;
    let nodes = ["n1", "n2"].map(|id| lattice.node(id));
    let [one, two] = nodes.map(|node| node.http());
    for node in [&one, &two] {
        assert_eq!(send(node, Method::PUT, "/files/small", &[], body(MIB, false)).await.0, 201);
        assert_eq!(get(node, "/files/small", "").await, (200, MIB));
    }
    let before = nodes.map(|node| {
        reset_high_water(node.pid());
        memory_kib(node.pid(), "VmHWM")
    });
    let paths: Vec<String> = (0..4).map(|n| format!("/files/big/{n}")).collect();
    let writes = paths.iter().map(|path| send(&one, Method::PUT, path, &[], body(LENGTH / 4, false)));
    for (status, text) in join_all(writes).await {
        assert_eq!(status, 201, "{text}");
    }
    let reads = paths.iter().map(|path| get(&two, path, ""));
    assert!(join_all(reads).await.iter().all(|read| *read == (200, LENGTH / 4)));
    assert_eq!(send(&two, Method::PUT, "/files/huge", &[], body(LENGTH, false)).await.0, 201);
    assert_eq!(get(&one, "/files/huge", "").await, (200, LENGTH));
    let range = format!("bytes={}-{}", LENGTH / 2 + 7, LENGTH / 2 + 10 * MIB);
    assert_eq!(get(&one, "/files/huge", &range).await, (206, 10 * MIB - 6));
    for (node, before) in nodes.iter().zip(before) {
        let grown = memory_kib(node.pid(), "VmHWM").saturating_sub(before);
        println!("{} grew by {grown} KiB", node.id);
        assert!(grown < GROWTH_KIB_MAX, "{} grew by {grown} KiB", node.id);
    }
    // A description each, and chunks as other clients write them.
    assert_eq!(messages(&api, "big").await, 6 + (MIB + 2 * LENGTH) / (128 << 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_with_objects_is_as_the_interface_says() {
    let lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    for (name, most) in [("files", -1), ("tiny", 2 << 20)] {
        make_store(&api, name, most).await;
    }
    depot(&api, 2, json!({ "files": { "bucket": "files" }, "small": { "bucket": "tiny" } })).await;
    let [node, other] = ["n1", "n2"].map(|id| lattice.node(id).http());
    let revision = |text: &str| text.split(' ').next().unwrap().to_owned();

    let response = http::send(&other, Method::GET, "depot.test", "/files/?watch", &[], http::empty()).await.unwrap();
    let (mut watch, mut read) = (response.into_body(), String::new());
    assert_eq!(line(&mut watch, &mut read).await, "= that is all there is");

    let none = [("if-none-match", "*"), ("description", "the first"), ("content-type", "text/plain")];
    let (status, text) = ask(&node, Method::PUT, "/files/a%20b/c", &none, "one").await;
    assert_eq!(status, 201, "{text}");
    let first = revision(&text);
    assert!(text.contains("SHA-256="), "{text}");
    assert_eq!(ask(&other, Method::GET, "/files/a%20b/c", &[], "").await, (200, "one".into()));
    let (status, text) = ask(&other, Method::PUT, "/files/a%20b/c", &none, "two").await;
    assert!(status == 412 && text.contains("AlreadyExists"), "{status} {text}");
    let at = [("if-match", &*first)];
    let (status, text) = ask(&other, Method::PUT, "/files/a%20b/c", &at, "two").await;
    assert_eq!(status, 201, "{text}");
    let second = revision(&text);
    for method in [Method::PUT, Method::DELETE] {
        let (status, text) = ask(&node, method, "/files/a%20b/c", &at, "three").await;
        assert!(status == 412 && text.contains("WrongRevision Outcome::DefinitelyNot"), "{status} {text}");
    }
    let head = http::send(&node, Method::HEAD, "depot.test", "/files/a%20b/c", &[], http::empty()).await.unwrap();
    assert_eq!((head.status().as_u16(), head.headers()["revision"].to_str().unwrap()), (200, &*second));
    assert_eq!(head.headers()["size"], "3");
    assert_eq!(ask(&node, Method::PUT, "/files/empty", &[], "").await.0, 201);
    assert_eq!(ask(&node, Method::GET, "/files/empty", &[], "").await, (200, String::new()));
    assert_eq!(ask(&node, Method::GET, "/files/a%20b/c", &[("range", "bytes=1-1")], "").await, (206, "w".into()));
    assert_eq!(ask(&node, Method::GET, "/files/a%20b/c", &[("range", "bytes=9-")], "").await, (206, String::new()));

    assert_eq!(ask(&node, Method::POST, "/files/same?link=a%20b/c", &[], "").await.0, 204);
    assert_eq!(ask(&other, Method::GET, "/files/same", &[], "").await, (200, "two".into()));
    let (status, text) = ask(&node, Method::POST, "/files/again?link=same", &[], "").await;
    assert!(status == 502 && text.contains("Invalid(\"to\")"), "{status} {text}");
    let (_, all) = ask(&other, Method::GET, "/files/", &[], "").await;
    let lines: Vec<&str> = all.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(lines, ["3 a%20b/c", "0 empty", "0 same -> a%20b/c"]);
    let (_, stat) = ask(&node, Method::GET, "/files/?stat", &[], "").await;
    assert!(stat.contains("replicas: 1") && stat.contains("max-bytes: 0"), "{stat}");

    assert_eq!(ask(&node, Method::DELETE, "/files/a%20b/c", &[("if-match", &second)], "").await.0, 204);
    assert_eq!(ask(&node, Method::DELETE, "/files/a%20b/c", &[], "").await.0, 404);
    for path in ["/files/a%20b/c", "/files/same", "/files/never"] {
        assert_eq!(ask(&node, Method::GET, path, &[], "").await.0, 404, "{path}");
    }
    for expect in ["3 a%20b/c", "3 a%20b/c", "0 empty", "0 same -> a%20b/c", "deleted a%20b/c"] {
        let told = line(&mut watch, &mut read).await;
        assert!(told.ends_with(expect), "{told}, not {expect}");
    }
    let long = format!("/files/{}", "n".repeat(1025));
    let (status, text) = ask(&node, Method::PUT, &long, &[], "x").await;
    assert!(status == 502 && text.contains("Invalid(\"name\")"), "{status} {text}");
    let description = "d".repeat(1025);
    let (status, text) = ask(&node, Method::PUT, "/files/x", &[("description", &description)], "x").await;
    assert!(status == 502 && text.contains("Invalid(\"options\")"), "{status} {text}");

    // More than the store takes, and a body that breaks off: nothing of it is seen, and nothing is left.
    let (status, text) = send(&node, Method::PUT, "/small/x", &[], body(4 * MIB, false)).await;
    assert!(status == 502 && text.contains("StorageFull Outcome::DefinitelyNot"), "{status} {text}");
    assert_eq!(ask(&node, Method::PUT, "/small/y", &[], "whole").await.0, 201);
    let cut = http::send(&node, Method::PUT, "depot.test", "/small/y", &[], body(MIB, true)).await;
    assert!(cut.is_err() || cut.unwrap().status().as_u16() >= 400);
    assert_eq!(ask(&node, Method::GET, "/small/y", &[], "").await, (200, "whole".into()));
    eventually("what was cut off is removed", PATIENCE, || async {
        match messages(&api, "tiny").await {
            2 => Ok(()),
            left => Err(format!("{left} messages are left")),
        }
    })
    .await;
    assert_eq!(ask(&node, Method::GET, "/small/x", &[], "").await.0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn object_stores_that_are_not_granted_are_denied() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    make_store(&api, "files", -1).await;
    stream_api(
        &api,
        "CREATE.OBJ_odd",
        &json!({ "name": "OBJ_odd", "subjects": ["odd.>"], "num_replicas": 1 }).to_string(),
    )
    .await;
    for (bucket, wording) in [
        ("absent", "nats object add absent"),
        ("lattice-default-components", "lattice's own"),
        ("odd", "has not the subjects of one"),
        ("a.b", "bucket"),
    ] {
        let refused = api.put(&asked(&api, 1, json!({ "s": { "bucket": bucket } })).await).await.unwrap_err();
        let field = Some("grants.nats.objects.s.bucket");
        assert_eq!((refused.code, refused.field.as_deref()), (ErrorCode::Invalid, field), "{refused:?}");
        assert!(format!("{refused:?}").contains(wording), "{refused:?}");
    }
    depot(&api, 1, json!({ "files": { "bucket": "files" }, "look": { "bucket": "files", "access": "read-only" } }))
        .await;
    let node = lattice.node("n1").http();
    assert_eq!(ask(&node, Method::PUT, "/files/a", &[], "one").await.0, 201);
    // By any name but the one that is granted, also the bucket's own.
    for name in ["other", "", "OBJ_files", "lattice-default-components", "Files", "files%20"] {
        for (method, path) in [(Method::GET, "a"), (Method::PUT, "a"), (Method::GET, "")] {
            let (status, text) = ask(&node, method, &format!("/{name}/{path}"), &[], "x").await;
            let is_denied = status == 502 && text.starts_with("ErrorCode::Denied Outcome::DefinitelyNot");
            assert!(is_denied, "{name:?}: {status} {text}");
        }
    }
    // What is granted to be read is read, in every way, and changed in none.
    assert_eq!(ask(&node, Method::GET, "/look/a", &[], "").await, (200, "one".into()));
    assert_eq!(ask(&node, Method::GET, "/look/", &[], "").await.0, 200);
    for (method, path) in [(Method::PUT, "/look/b"), (Method::DELETE, "/look/a"), (Method::POST, "/look/b?link=a")] {
        let (status, text) = ask(&node, method, path, &[], "x").await;
        assert!(status == 502 && text.starts_with("ErrorCode::Denied"), "{path}: {status} {text}");
    }
    // Names are no subjects: what looks like one finds nothing else.
    for name in ["*", "..a", "$O.files.M.*"] {
        assert_eq!(ask(&node, Method::GET, &format!("/files/{name}"), &[], "").await.0, 404, "{name}");
    }
    assert_eq!(messages(&api, "files").await, 2, "one object, as it was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_whose_server_is_killed_did_not_happen() {
    let mut lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    make_store(&api, "files", -1).await;
    depot(&api, 1, json!({ "files": { "bucket": "files" } })).await;
    let node = lattice.node("n1").http();
    assert_eq!(ask(&node, Method::PUT, "/files/a", &[], "before").await.0, 201);
    let (give, given) = tokio::sync::mpsc::channel(1);
    let mut upload = tokio::spawn({
        let node = node.clone();
        async move { send(&node, Method::PUT, "/files/a", &[], http::fed(given)).await }
    });
    let chunk = bytes::Bytes::from(vec![b'x'; 256 << 10]);
    for _ in 0..4 {
        give.send(chunk.clone()).await.unwrap();
    }
    lattice.server.kill9().await;
    // As much as may be on its way, so that the end of the server is noticed; then the store takes no more.
    let (status, text) = loop {
        tokio::select! {
            biased;
            answer = &mut upload => break answer.unwrap(),
            sent = give.send(chunk.clone()) => {
                if sent.is_err() {
                    break upload.await.unwrap();
                }
            }
        }
    };
    assert!(status == 502 && text.contains("Outcome::DefinitelyNot"), "{status} {text}");
    lattice.server.start_again().await;
    eventually("what was there before is there", PATIENCE, async || {
        match ask(&node, Method::GET, "/files/a", &[], "").await {
            (200, text) if text == "before" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}
