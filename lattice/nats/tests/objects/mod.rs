//! Object stores of guests on real servers: what other clients read and write there, parts, writers that meet, and what a
//! server's end means for who reads or writes.

use crate::support::{Server, all_supported, newest, options, soon};
use async_nats::jetstream::{self, object_store};
use bytes::Bytes;
use futures_util::future::join_all;
use lattice::{
    Fut,
    bucket::Buckets as _,
    id::WorkloadName,
    nats::{Code, Failure, Feed, Outcome},
    objects::{About, CHUNK_BYTES, Expect, Object, ObjectEvent, Objects, Piece, Put},
};
use lattice_nats::GuestBuckets;
use std::{collections::VecDeque, sync::Arc};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// Byte i is `i % 251`: a prime, so that no loss or repetition of a chunk fits.
fn pattern(length: usize) -> Bytes {
    (0..length).map(|i| (i % 251) as u8).collect()
}

struct Given(VecDeque<Piece>);

impl Feed<Piece> for Given {
    fn next(&mut self) -> Fut<'_, Option<Piece>> {
        Box::pin(std::future::ready(self.0.pop_front()))
    }
}

/// These bytes in pieces of that size, and the end.
fn pieces(bytes: &Bytes, size: usize) -> Box<Given> {
    let parts = bytes.chunks(size).map(|part| Piece::Bytes(bytes.slice_ref(part)));
    Box::new(Given(parts.chain([Piece::End]).collect()))
}

struct Store {
    jetstream: jetstream::Context,
    theirs: object_store::ObjectStore,
    ours: Arc<dyn Objects>,
}

impl Store {
    async fn make(server: &Server) -> Store {
        let jetstream = jetstream::new(async_nats::connect(server.url()).await.unwrap());
        let config = object_store::Config { bucket: "b".into(), ..Default::default() };
        let theirs = jetstream.create_object_store(config).await.unwrap();
        let workload = WorkloadName::new("w").unwrap().into();
        let ours = GuestBuckets::new(options(server.url())).open_objects(&workload, &"b".parse().unwrap()).await;
        Store { jetstream, theirs, ours: ours.unwrap() }
    }

    async fn put(&self, name: &str, bytes: &Bytes) -> Object {
        self.ours.write(name, Put::default(), pieces(bytes, 10_000)).await.unwrap()
    }

    async fn read(&self, name: &str, from: u64, to: u64) -> Result<Bytes, Failure> {
        let object = self.ours.object(name).await?.expect("there is one");
        let mut chunks = self.ours.read(&object, from, to).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.next().await {
            bytes.extend_from_slice(&chunk?);
        }
        Ok(bytes.into())
    }

    async fn names(&self) -> Vec<String> {
        let mut list = self.ours.list().await.unwrap();
        let mut names = Vec::new();
        while let Some(object) = list.next().await {
            names.push(object.unwrap().name);
        }
        names
    }

    /// Messages in the stream: one for each object, or what is left of it, and its chunks.
    async fn messages(&self) -> u64 {
        self.jetstream.get_stream("OBJ_b").await.unwrap().cached_info().state.messages
    }

    async fn consumers(&self) -> usize {
        self.jetstream.get_stream("OBJ_b").await.unwrap().cached_info().state.consumer_count
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_those_of_other_clients() {
    for binary in all_supported() {
        let server = Server::start(&binary).await;
        let store = Store::make(&server).await;
        for (name, length) in [("none", 0), ("a b/ü.txt", 1), ("exact", 2 * CHUNK_BYTES), ("long", 3_000_001)] {
            let bytes = pattern(length);
            let written = store.put(name, &bytes).await;
            assert_eq!(written.size, length as u64);
            let found = store.ours.object(name).await.unwrap().unwrap();
            assert_eq!(
                (&found.content, &found.digest, found.revision),
                (&written.content, &written.digest, written.revision)
            );
            assert_eq!(store.read(name, 0, u64::MAX).await.unwrap(), bytes, "{name}");
            let mut theirs = Vec::new();
            store.theirs.get(name).await.unwrap().read_to_end(&mut theirs).await.unwrap();
            assert!(theirs == bytes, "{name}");
            // And the other way round, with chunks of any size.
            let meta =
                object_store::ObjectMetadata { name: name.into(), chunk_size: Some(1_000), ..Default::default() };
            store.theirs.put(meta, &mut &*bytes).await.unwrap();
            assert!(store.read(name, 0, u64::MAX).await.unwrap() == bytes, "{name}");
        }
        assert_eq!(store.names().await, ["none", "a b/ü.txt", "exact", "long"]);
        assert!(
            store.ours.delete("exact", Expect::Anything).await.unwrap()
                && !store.ours.delete("exact", Expect::Anything).await.unwrap()
        );
        assert!(!store.ours.delete("never", Expect::Anything).await.unwrap());
        assert!(store.ours.object("exact").await.unwrap().is_none() && store.theirs.get("exact").await.is_err());
        assert_eq!(store.names().await, ["none", "a b/ü.txt", "long"]);
        store.put("exact", &pattern(3)).await;
        store.theirs.delete("exact").await.unwrap();
        assert!(store.ours.object("exact").await.unwrap().is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_begin_and_end_anywhere() {
    let server = Server::start(&newest()).await;
    let store = Store::make(&server).await;
    let bytes = pattern(400_000);
    store.put("ours", &bytes).await;
    let meta = object_store::ObjectMetadata { name: "theirs".into(), chunk_size: Some(777), ..Default::default() };
    store.theirs.put(meta, &mut &*bytes).await.unwrap();
    let chunk = CHUNK_BYTES as u64;
    for name in ["ours", "theirs"] {
        for (from, to) in [
            (0, 1),
            (0, chunk),
            (1, chunk + 1),
            (chunk - 1, chunk),
            (chunk, 2 * chunk),
            (chunk + 1, 3 * chunk),
            (776, 778),
            (399_999, 400_000),
            (399_999, u64::MAX),
            (5, 5),
            (400_000, u64::MAX),
            (u64::MAX, u64::MAX),
        ] {
            let part = store.read(name, from, to).await.unwrap();
            let (from, to) = (from.min(400_000) as usize, to.min(400_000) as usize);
            assert!(part == bytes.slice(from..to), "{name} {from} {to}: {} bytes", part.len());
        }
    }
    crate::support::soon("consumers that are removed", async {
        while store.consumers().await > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_what_was_replaced_or_given_up() {
    let server = Server::start(&newest()).await;
    let store = Store::make(&server).await;
    let bytes = pattern(300_000);
    // However many write at a time, one is there at the end, and the bytes of no other.
    let writes = (0..8).map(|_| store.put("same", &bytes));
    join_all(writes).await;
    assert_eq!(store.messages().await, 4, "a description and three chunks");
    assert_eq!(store.read("same", 0, u64::MAX).await.unwrap(), bytes);
    let mut given = pieces(&bytes, 10_000);
    given.0.pop_back();
    let failure = store.ours.write("same", Put::default(), given).await.unwrap_err();
    assert_eq!(failure.outcome, Outcome::DefinitelyNot, "{failure:?}");
    assert_eq!(store.messages().await, 4, "what was given up is gone");
    assert_eq!(store.read("same", 0, u64::MAX).await.unwrap(), bytes, "and what was there is there");
    let writes = (0..4).map(|_| store.put("same", &bytes));
    let deletes = (0..4).map(|_| store.ours.delete("same", Expect::Anything));
    let (_, deleted) = tokio::join!(join_all(writes), join_all(deletes));
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    store.ours.delete("same", Expect::Anything).await.unwrap();
    assert_eq!(store.messages().await, 1, "what says that it was deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_what_is_gone_or_spoilt_is_told() {
    let server = Server::start(&newest()).await;
    let store = Store::make(&server).await;
    let bytes = pattern(5_000_000);
    store.put("o", &bytes).await;
    let object = store.ours.object("o").await.unwrap().unwrap();
    let mut chunks = store.ours.read(&object, 0, u64::MAX).await.unwrap();
    assert!(chunks.next().await.unwrap().is_ok());
    store.put("o", &pattern(10)).await;
    let mut last = Ok(Bytes::new());
    while let Some(chunk) = soon("a chunk, or the error", chunks.next()).await {
        last = chunk;
    }
    assert_eq!(last.unwrap_err().code, Code::NotFound);
    let gone = store.ours.read(&object, 1, u64::MAX).await.err().unwrap();
    assert_eq!(gone.code, Code::NotFound);
    // Somebody changed what is under it.
    let object = store.put("o", &pattern(10)).await;
    store
        .jetstream
        .get_stream("OBJ_b")
        .await
        .unwrap()
        .purge()
        .filter(format!("$O.b.C.{}", object.content))
        .await
        .unwrap();
    store.jetstream.publish(format!("$O.b.C.{}", object.content), "0123456789".into()).await.unwrap().await.unwrap();
    let failure = store.read("o", 0, u64::MAX).await.unwrap_err();
    assert!(failure.detail.contains("digest"), "{failure:?}");
    assert_eq!(store.read("o", 2, 5).await.unwrap(), "234", "of a part nobody can tell");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_are_followed_within_their_store_alone() {
    let server = Server::start(&newest()).await;
    let store = Store::make(&server).await;
    let config = object_store::Config { bucket: "other".into(), ..Default::default() };
    let other = store.jetstream.create_object_store(config).await.unwrap();
    other.put("secret", &mut &b"secret"[..]).await.unwrap();
    store.put("o", &pattern(10)).await;
    let object = store.theirs.get("o").await.unwrap();
    store.theirs.add_link("inside", &object).await.unwrap();
    let secret = other.get("secret").await.unwrap();
    store.theirs.add_link("outside", &secret).await.unwrap();
    store.theirs.add_bucket_link("bucket", "other").await.unwrap();
    assert_eq!(store.read("inside", 0, u64::MAX).await.unwrap(), pattern(10));
    for name in ["outside", "bucket"] {
        assert_eq!(store.ours.object(name).await.unwrap_err().code, Code::Unsupported, "{name}");
    }
    // A description that names more than one place is not one to remove bytes by.
    let info = serde_json::json!({ "name": "evil", "bucket": "b", "nuid": ">", "size": 10, "chunks": 1 });
    let subject = "$O.b.M.ZXZpbA==";
    store.jetstream.publish(subject, info.to_string().into()).await.unwrap().await.unwrap();
    assert!(store.read("evil", 0, u64::MAX).await.is_err());
    assert!(store.ours.delete("evil", Expect::Anything).await.unwrap());
    assert_eq!(store.read("o", 0, u64::MAX).await.unwrap(), pattern(10));
}

/// Pieces that wait until they are let go.
struct Slow(tokio::sync::mpsc::Receiver<Piece>);

impl Feed<Piece> for Slow {
    fn next(&mut self) -> Fut<'_, Option<Piece>> {
        Box::pin(async { self.0.recv().await })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_restarts_is_read_on_from_and_an_upload_fails_as_a_whole() {
    let mut server = Server::start(&newest()).await;
    let store = Store::make(&server).await;
    let bytes = pattern(20_000_000);
    store.put("o", &bytes).await;
    let object = store.ours.object("o").await.unwrap().unwrap();
    let mut chunks = store.ours.read(&object, 0, u64::MAX).await.unwrap();
    let mut came = chunks.next().await.unwrap().unwrap().to_vec();
    let (give, given) = tokio::sync::mpsc::channel(1);
    let ours = store.ours.clone();
    let upload = tokio::spawn(async move { ours.write("p", Put::default(), Box::new(Slow(given))).await });
    give.send(Piece::Bytes(pattern(1_000_000))).await.unwrap();

    server.kill().await;
    // Fills what may be on its way, so that the end of the server is noticed.
    while give.send(Piece::Bytes(pattern(1_000_000))).await.is_ok() {}
    let failure = soon("the end of the upload", upload).await.unwrap().unwrap_err();
    assert_eq!(failure.outcome, Outcome::DefinitelyNot, "{failure:?}");
    server.restart().await;
    while let Some(chunk) = soon("the next chunk", chunks.next()).await {
        came.extend_from_slice(&chunk.unwrap());
    }
    assert!(came == bytes, "{} bytes came", came.len());
    assert!(store.ours.object("p").await.unwrap().is_none());
}

async fn next(watch: &mut Box<dyn Feed<ObjectEvent>>) -> String {
    match soon("an event", watch.next()).await.expect("the watch goes on") {
        ObjectEvent::Changed(object) => format!("{} {}", object.name, object.size),
        ObjectEvent::Deleted(name) => format!("deleted {name}"),
        other => format!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_expected_of_an_object_decides_who_wins() {
    for binary in all_supported() {
        let server = Server::start(&binary).await;
        let store = Store::make(&server).await;
        let write = |expect: Expect| {
            let put = Put { expect, ..Put::default() };
            let ours = store.ours.clone();
            async move { ours.write("o", put, pieces(&pattern(300_000), 10_000)).await }
        };
        let refused = |outcome: Result<Object, Failure>, code: Code| {
            let failure = outcome.unwrap_err();
            assert_eq!((failure.code, failure.outcome), (code, Outcome::DefinitelyNot), "{}", failure.detail);
        };
        let first = write(Expect::Absent).await.unwrap();
        refused(write(Expect::Absent).await, Code::AlreadyExists(first.revision));
        let second = write(Expect::At(first.revision)).await.unwrap();
        refused(write(Expect::At(first.revision)).await, Code::WrongRevision);
        // Of many that expect the same one wins, and nothing is left of the others.
        let all = join_all((0..8).map(|_| write(Expect::At(second.revision)))).await;
        assert_eq!(all.iter().filter(|written| written.is_ok()).count(), 1, "{all:?}");
        assert_eq!(store.messages().await, 4, "a description and three chunks");
        let last = store.ours.object("o").await.unwrap().unwrap();
        let wrong = store.ours.delete("o", Expect::At(second.revision)).await.unwrap_err();
        assert_eq!(wrong.code, Code::WrongRevision);
        assert!(store.ours.delete("o", Expect::At(last.revision)).await.unwrap());
        assert!(store.ours.check("o", Expect::Absent).await.is_ok());
        write(Expect::Absent).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_of_an_object_is_told_by_other_clients_too() {
    let server = Server::start(&newest()).await;
    let store = Store::make(&server).await;
    let metadata = vec![("kind".to_owned(), "text".to_owned()), ("lang".to_owned(), "de".to_owned())];
    let about = About { description: Some("a note".into()), metadata };
    let put = Put { about: about.clone(), ..Put::default() };
    store.ours.write("o", put, pieces(&pattern(10), 10)).await.unwrap();
    let theirs = store.theirs.info("o").await.unwrap();
    assert_eq!(theirs.description.as_deref(), Some("a note"));
    assert_eq!(theirs.metadata.get("lang").map(String::as_str), Some("de"));
    assert_eq!(store.ours.object("o").await.unwrap().unwrap().about, about);
    let put = Put { about: About { description: Some("d".repeat(2_000)), ..About::default() }, ..Put::default() };
    let failure = store.ours.write("o", put, pieces(&pattern(10), 10)).await.unwrap_err();
    assert_eq!(failure.code, Code::Invalid("options".into()));

    // A name that stands for another one, as other clients make it.
    store.ours.link("same", "o").await.unwrap();
    assert_eq!(store.read("same", 0, u64::MAX).await.unwrap(), pattern(10));
    let mut theirs = Vec::new();
    store.theirs.get("same").await.unwrap().read_to_end(&mut theirs).await.unwrap();
    assert_eq!(theirs, pattern(10));
    for (to, code) in [("absent", Code::NotFound), ("same", Code::Invalid("to".into())), ("again", Code::NotFound)] {
        assert_eq!(store.ours.link("again", to).await.unwrap_err().code, code, "{to}");
    }
    assert_eq!(store.ours.link("o", "o").await.unwrap_err().code, Code::Invalid("to".into()));
    // One that takes the place of an object leaves nothing of it.
    store.put("long", &pattern(300_000)).await;
    store.ours.link("long", "o").await.unwrap();
    assert_eq!(store.messages().await, 4, "two links, an object and its chunk");
    let info = store.ours.info().await.unwrap();
    assert!(info.replicas == 1 && !info.in_memory && info.bytes > 0, "{info:?}");
    assert!(store.ours.delete("same", Expect::Anything).await.unwrap());
    assert_eq!(store.read("o", 0, u64::MAX).await.unwrap(), pattern(10), "what it led to stays");
}

/// Passes on what comes for a server, and what it answers until the client says this.
async fn mute_after(server: &Server, words: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = format!("nats://{}", listener.local_addr().unwrap());
    let there = server.url().trim_start_matches("nats://").to_owned();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&there).await.unwrap();
            let ((mut asks, mut hears), (mut answers, mut takes)) = (client.into_split(), server.into_split());
            let (mute, muted) = tokio::sync::oneshot::channel::<()>();
            tokio::spawn(async move {
                let (mut seen, mut mute) = (Vec::new(), Some(mute));
                let mut bytes = vec![0; 64 << 10];
                while let Ok(count @ 1..) = asks.read(&mut bytes).await {
                    seen.extend_from_slice(&bytes[..count]);
                    // Before the server has it.
                    if seen.windows(words.len()).any(|window| window == words)
                        && let Some(mute) = mute.take()
                    {
                        let _ = mute.send(()); // the connection may be over
                    }
                    takes.write_all(&bytes[..count]).await.unwrap();
                }
            });
            tokio::spawn(async move {
                tokio::select! {
                    biased;
                    _ = muted => std::future::pending().await,
                    _ = tokio::io::copy(&mut answers, &mut hears) => {}
                }
            });
        }
    });
    here
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_of_an_upload_without_an_answer_depends_on_its_end() {
    let server = Server::start(&newest()).await;
    let store = Store::make(&server).await;
    let workload = WorkloadName::new("w").unwrap().into();
    for (words, outcome) in [(&b"PUB $O.b.C."[..], Outcome::DefinitelyNot), (b"PUB $O.b.M.", Outcome::Maybe)] {
        let buckets = GuestBuckets::new(options(mute_after(&server, words).await));
        let ours = buckets.open_objects(&workload, &"b".parse().unwrap()).await.unwrap();
        store.put("o", &pattern(5)).await;
        let written = soon("an outcome", ours.write("o", Put::default(), pieces(&pattern(7), 10))).await;
        let failure = written.unwrap_err();
        assert_eq!(failure.outcome, outcome, "{failure:?}");
        // The server had it, and nobody knew.
        let there = if outcome == Outcome::Maybe { 7 } else { 5 };
        assert_eq!(store.ours.object("o").await.unwrap().unwrap().size, there);
        assert_eq!(store.read("o", 0, u64::MAX).await.unwrap(), pattern(there as usize), "whole, either way");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_tells_each_change_and_begins_again_after_a_break() {
    let mut server = Server::start(&newest()).await;
    let store = Store::make(&server).await;
    store.put("a", &pattern(3)).await;
    store.put("b", &pattern(4)).await;
    let mut watch = store.ours.watch(true).await.unwrap();
    let mut later = store.ours.watch(false).await.unwrap();
    for expect in ["a 3", "b 4", "CaughtUp"] {
        assert_eq!(next(&mut watch).await, expect);
    }
    assert_eq!(next(&mut later).await, "CaughtUp");
    store.put("a", &pattern(5)).await;
    store.theirs.delete("b").await.unwrap();
    for watch in [&mut watch, &mut later] {
        assert_eq!(next(watch).await, "a 5");
        assert_eq!(next(watch).await, "deleted b");
    }
    server.kill().await;
    server.restart().await;
    for watch in [&mut watch, &mut later] {
        for expect in ["Resynchronised", "a 5", "deleted b", "CaughtUp"] {
            assert_eq!(next(watch).await, expect);
        }
    }
    store.jetstream.delete_stream("OBJ_b").await.unwrap();
    let last = soon("the end", watch.next()).await;
    assert!(matches!(&last, Some(ObjectEvent::Failed(failure)) if failure.code == Code::NotFound), "{last:?}");
    assert!(soon("nothing", watch.next()).await.is_none());
}
