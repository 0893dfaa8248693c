//! Real servers, the newest and the oldest that is supported, against what the services rely on; and what only a real
//! server can do: vanish, come back, be too old.

// Helpers of tests are tests, whatever clippy takes them for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod cluster;
mod guests;
mod objects;
mod support;

use futures_util::StreamExt as _;
use lattice::{
    id::Revision,
    store::{Bucket, BusError, Change, Connection, FeedItem, Items, Platform, Precondition, StoreError},
    testing::conformance,
    view::LatticeView,
};
use lattice_nats::{ConnectError, ConnectOptions, connect};
use std::{path::Path, time::Duration};
use support::{Server, all_supported, id, newest, options, soon};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_have_the_semantics_that_the_services_rely_on() {
    for binary in all_supported() {
        let server = Server::start(&binary).await;
        let nats = server.connect().await;
        eprintln!("{}", nats.server().version);
        let lattice = nats.open(&id("conformance"), true).await.unwrap();
        conformance::all(&lattice).await;
        conformance::two_connections(&lattice, &server.open("conformance").await).await;
    }
}

/// The next change of a feed; a gap is an error.
async fn change(feed: &mut Items<FeedItem>) -> (Bucket, Change) {
    match soon("the next change", feed.next()).await {
        Some(FeedItem::Change(bucket, change)) => (bucket, change),
        other => panic!("{other:?}"),
    }
}

async fn put(lattice: &Platform, key: &str, text: &'static str) -> Revision {
    lattice.store.write(Bucket::State, key, text.into(), Precondition::Absent).await.unwrap()
}

#[tokio::test]
async fn a_server_that_was_killed_comes_back_with_all_that_it_acknowledged_and_feeds_show_a_gap() {
    for binary in all_supported() {
        let mut server = Server::start(&binary).await;
        let lattice = server.open("restart").await;
        let mut feed = lattice.store.feed().await.unwrap();
        let before = put(&lattice, "slot.a.0", "before").await;
        assert_eq!(change(&mut feed).await.1.revision, before);
        let identity = lattice.store.snapshot(Bucket::State).await.unwrap().identity;

        server.kill().await;
        let down = async {
            while lattice.bus.connection() == Connection::Up {
                tokio::task::yield_now().await;
            }
        };
        soon("the lost connection is noticed", down).await;
        let late = lattice.store.write(Bucket::State, "slot.late.0", "x".into(), Precondition::Absent).await;
        assert!(matches!(late, Err(StoreError::Unreachable(_))), "nothing is sent later: {late:?}");
        let read = lattice.store.get(Bucket::State, "slot.a.0").await;
        assert!(matches!(read, Err(StoreError::Unreachable(_))), "{read:?}");

        server.restart().await;
        assert_eq!(soon("a gap after the reconnect", feed.next()).await, Some(FeedItem::Gap));
        let snapshot = lattice.store.snapshot(Bucket::State).await.unwrap();
        assert_eq!((snapshot.identity, snapshot.head), (identity, before), "the same bucket, as it was");
        assert_eq!(lattice.store.get(Bucket::State, "slot.a.0").await.unwrap().unwrap().value, "before");
        assert_eq!(lattice.store.get(Bucket::State, "slot.late.0").await, Ok(None));
        let after = put(&lattice, "slot.b.0", "after").await;
        assert_eq!(after.0, before.0 + 1);
        let next = change(&mut feed).await;
        assert_eq!(next.1.revision, after, "the feed goes on: {next:?}");
    }
}

/// As by a disk that lied, or a backup that was put in its place.
#[tokio::test]
async fn a_server_whose_disk_was_set_back_shows_it_however_much_is_written_then() {
    for binary in all_supported() {
        let mut server = Server::start(&binary).await;
        let lattice = server.open("back").await;
        put(&lattice, "slot.a.0", "kept").await;
        let backup = tempfile::tempdir().unwrap();
        server.kill().await;
        copy(server.dir(), backup.path());
        server.restart().await;

        let lattice = server.open("back").await;
        let lost = put(&lattice, "slot.b.0", "lost").await;
        put(&lattice, "slot.c.0", "lost as well").await;
        let mut view = LatticeView::default();
        view.apply_snapshot(Bucket::State, lattice.store.snapshot(Bucket::State).await.unwrap());
        server.kill().await;
        std::fs::remove_dir_all(server.dir()).unwrap();
        copy(backup.path(), server.dir());
        server.restart().await;

        let lattice = server.open("back").await;
        let back = lattice.store.snapshot(Bucket::State).await.unwrap();
        let seen = &view.seen[&Bucket::State];
        assert!(back.identity == seen.identity && back.head.0 < seen.head, "{back:?} after {seen:?}");
        assert!(view.contradicts(Bucket::State, &back));
        let late = lattice.store.write(Bucket::State, "slot.b.0", "late".into(), Precondition::At(lost)).await;
        assert!(matches!(late, Err(StoreError::Conflict { .. })), "what was decided on what is lost: {late:?}");
        for i in 0..5 {
            put(&lattice, &format!("slot.new.{i}"), "new").await;
        }
        let grown = lattice.store.snapshot(Bucket::State).await.unwrap();
        assert!(grown.head.0 > seen.head && view.contradicts(Bucket::State, &grown), "{grown:?}");
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (entry, to) = (entry.unwrap().path(), to.to_owned());
        let to = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy(&entry, &to);
        } else {
            std::fs::copy(&entry, &to).unwrap();
        }
    }
}

#[tokio::test]
async fn keys_that_expire_are_seen_as_deletions() {
    for binary in all_supported() {
        let server = Server::start(&binary).await;
        let lattice = server.open("expiry").await;
        let mut feed = lattice.store.feed().await.unwrap();
        let client = async_nats::connect(server.url()).await.unwrap();
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-TTL", "1s");
        let subject = "$KV.lattice-expiry-state.session.n1";
        async_nats::jetstream::new(client)
            .publish_with_headers(subject, headers, "alive".into())
            .await
            .unwrap()
            .await
            .unwrap();
        let (bucket, alive) = change(&mut feed).await;
        assert_eq!((bucket, alive.key.as_str()), (Bucket::State, "session.n1"));
        assert_eq!(alive.value.as_deref(), Some(b"alive".as_slice()));
        let (_, gone) = change(&mut feed).await;
        let expected = Change { key: "session.n1".into(), value: None, revision: Revision(alive.revision.0 + 1) };
        assert_eq!(gone, expected, "the marker of the server");
        assert_eq!(lattice.store.get(Bucket::State, "session.n1").await, Ok(None));
        let snapshot = lattice.store.snapshot(Bucket::State).await.unwrap();
        assert_eq!((snapshot.entries, snapshot.head), (vec![], gone.revision));
        assert_eq!(put(&lattice, "session.n1", "again").await.0, gone.revision.0 + 1);
    }
}

#[tokio::test]
async fn a_bucket_that_was_made_anew_is_another_one() {
    for binary in all_supported() {
        let server = Server::start(&binary).await;
        let lattice = server.open("anew").await;
        put(&lattice, "slot.a.0", "old").await;
        let old = lattice.store.snapshot(Bucket::State).await.unwrap();
        let nats = server.connect().await;
        let operator = nats.open(&id("anew"), false).await.unwrap();

        let client = async_nats::connect(server.url()).await.unwrap();
        async_nats::jetstream::new(client).delete_key_value("lattice-anew-state").await.unwrap();
        let write = lattice.store.write(Bucket::State, "slot.a.0", "x".into(), Precondition::At(old.head)).await;
        assert!(matches!(write, Err(StoreError::Unreachable(_))), "{write:?}");
        let looked = operator.store.snapshot(Bucket::State).await;
        assert!(matches!(looked, Err(StoreError::Refused(_))), "who must not make buckets is told: {looked:?}");

        let new = lattice.store.snapshot(Bucket::State).await.unwrap();
        assert_ne!(new.identity, old.identity);
        assert_eq!((new.head, new.entries), (Revision(0), vec![]));
        put(&lattice, "slot.a.0", "new").await;
    }
}

#[tokio::test]
async fn two_lattices_on_one_server_do_not_see_each_other() {
    let server = Server::start(&newest()).await;
    let (one, two) = (server.open("one").await, server.open("two").await);
    let mut feed = two.store.feed().await.unwrap();
    put(&one, "slot.a.0", "one").await;
    let artifact = one.artifacts.put("component".into()).await.unwrap();
    assert_eq!(two.store.get(Bucket::State, "slot.a.0").await, Ok(None));
    assert_eq!(two.artifacts.get(artifact).await, Ok(None));
    let revision = put(&two, "slot.b.0", "two").await;
    let seen = change(&mut feed).await;
    assert_eq!((seen.1.key.as_str(), seen.1.revision), ("slot.b.0", revision), "the first change that it sees");
}

#[tokio::test]
async fn what_cannot_carry_a_lattice_is_refused_with_the_reason() {
    let binary = newest();
    let plain = Server::start_with(&binary, &[]).await;
    let error = plain.connect().await.open(&id("default"), true).await.err().unwrap();
    assert!(matches!(error, ConnectError::NoJetStream { .. }), "{error}");
    assert!(error.to_string().contains("nats-server -js"), "{error}");

    let guarded = Server::start_with(&binary, &["-js", "--user", "lattice", "--pass", "right"]).await;
    let wrong =
        ConnectOptions { user: Some("lattice".into()), password: Some("wrong".into()), ..options(guarded.url()) };
    let error = connect(wrong).await.err().unwrap();
    assert!(matches!(error, ConnectError::Unauthorised { .. }), "{error}");

    let server = Server::start(&binary).await;
    let error = server.connect().await.open(&id("nobody"), false).await.err().unwrap();
    assert!(error.to_string().contains("is a node of lattice nobody running?"), "{error}");
    let by_hand = async_nats::jetstream::kv::Config { bucket: "lattice-by-hand-state".into(), ..Default::default() };
    let client = async_nats::connect(server.url()).await.unwrap();
    async_nats::jetstream::new(client).create_key_value(by_hand).await.unwrap();
    let error = server.connect().await.open(&id("by-hand"), true).await.err().unwrap();
    assert!(error.to_string().contains("does not republish"), "{error}");
}

#[tokio::test]
async fn a_server_without_an_api_level_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(serve_as_an_old_server(listener));
    let error = connect(options(url)).await.unwrap().open(&id("default"), true).await.err().unwrap();
    assert!(matches!(error, ConnectError::TooOld { level: None, .. }), "{error}");
    for word in ["2.10.29", "2.11", "2.12.8"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    server.abort();
}

/// One connection to a server before 2.11: it answers questions about the account without naming an API level.
async fn serve_as_an_old_server(listener: TcpListener) {
    let (connection, _) = listener.accept().await.unwrap();
    let (read, mut write) = connection.into_split();
    let info = r#"INFO {"server_id":"OLD","server_name":"old","version":"2.10.29","proto":1,"go":"go1.22","host":"127.0.0.1","port":0,"headers":true,"max_payload":1048576,"jetstream":true,"client_id":1}"#;
    write.write_all(format!("{info}\r\n").as_bytes()).await.unwrap();
    let mut lines = BufReader::new(read);
    let mut subscription = String::new();
    let mut line = String::new();
    while lines.read_line(&mut line).await.unwrap_or(0) > 0 {
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words[..] {
            ["PING"] => Some("PONG\r\n".to_owned()),
            ["SUB", _, sid] => {
                subscription = sid.to_owned();
                None
            }
            ["PUB", _, reply, size] => {
                let mut payload = vec![0; size.parse::<usize>().unwrap() + 2];
                lines.read_exact(&mut payload).await.unwrap();
                let body = r#"{"type":"io.nats.jetstream.api.v1.account_info_response","memory":0,"storage":0,"streams":0,"consumers":0,"api":{"total":1,"errors":0}}"#;
                Some(format!("MSG {reply} {subscription} {}\r\n{body}\r\n", body.len()))
            }
            _ => None,
        };
        if let Some(answer) = answer {
            write.write_all(answer.as_bytes()).await.unwrap();
        }
        line.clear();
    }
}

#[tokio::test]
async fn requests_fail_at_once_where_nobody_listens_and_when_the_connection_is_down() {
    let mut server = Server::start(&newest()).await;
    let lattice = server.open("down").await;
    server.kill().await;
    let asked = soon("an answer without a server", async {
        lattice.bus.request("nobody".into(), Default::default(), Default::default(), Duration::from_secs(1)).await
    })
    .await;
    assert!(matches!(asked, Err(BusError::Timeout { .. } | BusError::Disconnected(_))), "{asked:?}");
}
