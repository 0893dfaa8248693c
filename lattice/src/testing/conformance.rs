//! What the services rely on, as one suite for the lattice in memory and for real servers: what passes here may be
//! simulated. Each function takes a fresh, empty lattice and panics at the first difference.

// These are tests, though they are called from other crates' tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::poll::{before, join_all, next};
use crate::{
    Fut,
    id::{Digest, Revision},
    limits::{COMPONENT_BYTES_MAX, SPEC_HISTORY},
    store::{
        Answer, Bucket, BusError, Change, Connection, Endpoint, Entry, FeedItem, Handler, Headers, Items, Message,
        MicroService, Platform, Precondition, STATUS_NO_RESPONDERS, Snapshot, Store, StoreError,
    },
};
use bytes::Bytes;
use std::{collections::BTreeMap, future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};

/// Longest wait for something that must happen.
const SOON: Duration = Duration::from_secs(10);
/// Shortest wait for something that must not happen.
const A_WHILE: Duration = Duration::from_millis(200);
const WRITERS: usize = 16;
const RACES: usize = 20;
/// Enough to meet a copy that is behind, which some in a hundred reads did where it was possible.
const READS: usize = 100;

/// All suites, one after the other.
pub async fn all(lattice: &Platform) {
    store(lattice).await;
    artifacts(lattice).await;
    bus(lattice).await;
}

/// [`crate::store::Store`].
pub async fn store(lattice: &Platform) {
    let store = &*lattice.store;
    empty_bucket(store).await;
    compare_and_set(store).await;
    deletions(store).await;
    one_sequence_a_bucket(store).await;
    snapshots(store).await;
    histories(store).await;
    too_large(store).await;
    races_have_one_winner(&lattice.store).await;
    feed(lattice).await;
}

/// What one writes another one reads, whatever server it asks: a read is not older than what was acknowledged before it. What
/// a node saw of a bucket, another one sees too.
pub async fn two_connections(one: &Platform, other: &Platform) {
    let key = "slot.two-connections.0";
    let mut expect = match read(&*other.store, Bucket::State, key).await {
        Some((_, revision)) => Precondition::At(revision),
        None => Precondition::Absent,
    };
    let mut feed = other.store.feed().await.expect("feed");
    for i in 0..READS {
        let text = i.to_string();
        let revision = write(&*one.store, Bucket::State, key, &text, expect).await;
        assert_eq!(read(&*other.store, Bucket::State, key).await, Some((text, revision)), "read {i} is stale");
        let absent = other.store.write(Bucket::State, key, Bytes::new(), Precondition::Absent).await;
        assert!(conflict(&absent), "it is not absent for anybody: {absent:?}");
        if i % 10 == 0 {
            let head = other.store.snapshot(Bucket::State).await.expect("snapshot").head;
            assert!(head >= revision, "snapshot {i} is stale: {head} after {revision}");
        }
        expect = Precondition::At(revision);
    }
    let seen = changes(other, &mut feed, READS).await;
    let last = seen.get(&Bucket::State).and_then(|changes| changes.last()).map(|change| change.revision);
    assert_eq!(last.map(Precondition::At), Some(expect), "the other's feed shows all of them");
    let [first, second] = [one, other].map(|platform| platform.store.snapshot(Bucket::State));
    assert_eq!(first.await.expect("snapshot").identity, second.await.expect("snapshot").identity);
}

/// [`crate::store::Artifacts`].
pub async fn artifacts(lattice: &Platform) {
    let artifacts = &lattice.artifacts;
    let absent = Digest::of(b"nobody put this");
    assert_eq!(artifacts.get(absent).await, Ok(None), "an object that was never put");
    assert_eq!(artifacts.size(absent).await, Ok(None));

    // Empty, small, and of more than one chunk of a JetStream object store (128 KiB).
    let chunks: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
    for bytes in [Bytes::new(), Bytes::from_static(b"component"), Bytes::from(chunks)] {
        let digest = artifacts.put(bytes.clone()).await.expect("put");
        assert_eq!(digest, Digest::of(&bytes));
        assert_eq!(artifacts.get(digest).await, Ok(Some(bytes.clone())), "{} bytes", bytes.len());
        assert_eq!(artifacts.size(digest).await, Ok(Some(bytes.len() as u64)));
        assert_eq!(artifacts.put(bytes).await, Ok(digest), "putting it again is the same");
    }
    let bytes = Bytes::from_static(b"put by many at once");
    let puts = join_all((0..4).map(|_| artifacts.put(bytes.clone())).collect()).await;
    assert!(puts.iter().all(|put| *put == Ok(Digest::of(&bytes))), "{puts:?}");
    assert_eq!(artifacts.get(Digest::of(&bytes)).await, Ok(Some(bytes)));

    let too_large = Bytes::from(vec![0; COMPONENT_BYTES_MAX as usize + 1]);
    let refused = artifacts.put(too_large).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
}

/// [`crate::store::Bus`].
pub async fn bus(lattice: &Platform) {
    assert_eq!(lattice.bus.connection(), Connection::Up);
    subscriptions(lattice).await;
    queue_groups(lattice).await;
    nobody_listens(lattice).await;
    requests(lattice).await;
    sizes(lattice).await;
    let (one, other) = (lattice.bus.inbox(), lattice.bus.inbox());
    assert!(one != other && crate::subject::is_reply_subject(&one), "{one} {other}");
}

fn conflict<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Conflict { .. }))
}

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn write(store: &dyn Store, bucket: Bucket, key: &str, text: &str, expect: Precondition) -> Revision {
    store.write(bucket, key, value(text), expect).await.unwrap_or_else(|error| panic!("{bucket}/{key}: {error}"))
}

async fn read(store: &dyn Store, bucket: Bucket, key: &str) -> Option<(String, Revision)> {
    let Entry { key: found, value, revision } = store.get(bucket, key).await.expect("get")?;
    assert_eq!(found, key);
    Some((String::from_utf8(value.to_vec()).unwrap(), revision))
}

async fn empty_bucket(store: &dyn Store) {
    for bucket in Bucket::ALL {
        let Snapshot { identity, head, entries } = store.snapshot(bucket).await.expect("snapshot of an empty bucket");
        assert!(!identity.is_empty());
        assert_eq!((head, entries), (Revision(0), Vec::new()), "the lattice is not fresh");
        assert_eq!(store.get(bucket, "session.n1").await, Ok(None));
        assert_eq!(store.history(bucket, "session.n1").await, Ok(Vec::new()));
    }
}

async fn compare_and_set(store: &dyn Store) {
    for bucket in Bucket::ALL {
        let key = "slot.cas.0";
        let never = store.write(bucket, key, value("x"), Precondition::At(Revision(99))).await;
        assert!(conflict(&never), "a key without a value is at no revision: {never:?}");
        let first = write(store, bucket, key, "one", Precondition::Absent).await;
        assert_eq!(read(store, bucket, key).await, Some(("one".into(), first)));
        let again = store.write(bucket, key, value("x"), Precondition::Absent).await;
        assert!(conflict(&again), "a key with a value is not absent: {again:?}");

        let second = write(store, bucket, key, "two", Precondition::At(first)).await;
        assert!(second > first);
        let stale = store.write(bucket, key, value("x"), Precondition::At(first)).await;
        assert!(conflict(&stale), "an old revision: {stale:?}");
        let early = store.write(bucket, key, value("x"), Precondition::At(Revision(second.0 + 1))).await;
        assert!(conflict(&early), "a revision to come: {early:?}");
        assert_eq!(read(store, bucket, key).await, Some(("two".into(), second)), "what lost wrote nothing");

        let empty = write(store, bucket, key, "", Precondition::At(second)).await;
        assert_eq!(read(store, bucket, key).await, Some((String::new(), empty)), "an empty value is a value");
    }
}

async fn deletions(store: &dyn Store) {
    for bucket in Bucket::ALL {
        let key = "slot.deleted.0";
        let nothing = store.delete(bucket, key, Revision(1)).await;
        assert!(conflict(&nothing), "there is nothing to delete: {nothing:?}");
        let first = write(store, bucket, key, "one", Precondition::Absent).await;
        let second = write(store, bucket, key, "two", Precondition::At(first)).await;
        let stale = store.delete(bucket, key, first).await;
        assert!(conflict(&stale), "{stale:?}");
        assert_eq!(read(store, bucket, key).await, Some(("two".into(), second)));

        let deleted = store.delete(bucket, key, second).await.expect("delete");
        assert!(deleted > second, "a deletion has a revision");
        assert_eq!(store.get(bucket, key).await, Ok(None));
        let twice = store.delete(bucket, key, second).await;
        assert!(conflict(&twice), "{twice:?}");
        let zombie = store.write(bucket, key, value("x"), Precondition::At(second)).await;
        assert!(conflict(&zombie), "a write from before the deletion: {zombie:?}");
        let back = write(store, bucket, key, "three", Precondition::Absent).await;
        assert_eq!(read(store, bucket, key).await, Some(("three".into(), back)), "created over a tombstone");
        assert!(back > deleted);
    }
}

async fn one_sequence_a_bucket(store: &dyn Store) {
    let specs = store.snapshot(Bucket::Specs).await.expect("snapshot").head;
    let a = write(store, Bucket::State, "slot.sequence.0", "", Precondition::Absent).await;
    let b = write(store, Bucket::State, "slot.sequence.1", "", Precondition::Absent).await;
    let lost = store.write(Bucket::State, "slot.sequence.1", Bytes::new(), Precondition::Absent).await;
    assert!(conflict(&lost));
    let c = store.delete(Bucket::State, "slot.sequence.0", a).await.expect("delete");
    assert_eq!((b.0, c.0), (a.0 + 1, a.0 + 2), "writes and deletions of all keys count, lost ones don't");
    assert_eq!(store.snapshot(Bucket::Specs).await.expect("snapshot").head, specs, "buckets count for themselves");
}

async fn snapshots(store: &dyn Store) {
    for bucket in Bucket::ALL {
        let kept = write(store, bucket, "slot.kept.0", "kept", Precondition::Absent).await;
        let gone = write(store, bucket, "slot.gone.0", "gone", Precondition::Absent).await;
        let last = store.delete(bucket, "slot.gone.0", gone).await.expect("delete");
        let Snapshot { identity, head, entries } = store.snapshot(bucket).await.expect("snapshot");
        assert_eq!(head, last, "the head counts deletions");
        assert!(entries.is_sorted_by(|a, b| a.revision < b.revision), "in the order of revisions");
        let entry = Entry { key: "slot.kept.0".into(), value: value("kept"), revision: kept };
        assert!(entries.contains(&entry), "{entries:?}");
        assert!(!entries.iter().any(|entry| entry.key == "slot.gone.0"), "what was deleted is not in it");
        let again = store.snapshot(bucket).await.expect("snapshot");
        assert_eq!(again, Snapshot { identity, head, entries }, "nothing changed");
    }
}

async fn histories(store: &dyn Store) {
    let texts = |changes: Vec<Change>| -> Vec<Option<String>> {
        let text = |change: Change| change.value.map(|value| String::from_utf8(value.to_vec()).unwrap());
        changes.into_iter().map(text).collect()
    };
    for (bucket, kept) in [(Bucket::State, 1), (Bucket::Specs, usize::from(SPEC_HISTORY))] {
        let key = "spec.history";
        let mut expect = Precondition::Absent;
        let written = 1..=kept + 6;
        for i in written.clone() {
            expect = Precondition::At(write(store, bucket, key, &i.to_string(), expect).await);
        }
        let history = store.history(bucket, key).await.expect("history");
        assert!(history.is_sorted_by(|a, b| a.revision < b.revision));
        assert_eq!(history.last().map(|last| Precondition::At(last.revision)), Some(expect));
        let newest: Vec<_> = written.skip(6).map(|i| Some(i.to_string())).collect();
        assert_eq!(texts(history), newest, "the last {kept} values");

        let Precondition::At(last) = expect else { unreachable!() };
        store.delete(bucket, key, last).await.expect("delete");
        assert_eq!(texts(store.history(bucket, key).await.expect("history")), [None], "a deletion leaves a tombstone");
        write(store, bucket, key, "anew", Precondition::Absent).await;
        let anew = [None, Some("anew".to_owned())];
        let expected = if kept == 1 { &anew[1..] } else { &anew[..] };
        assert_eq!(texts(store.history(bucket, key).await.expect("history")), expected);
    }
}

async fn too_large(store: &dyn Store) {
    let before = store.snapshot(Bucket::Specs).await.expect("snapshot");
    let bytes = Bytes::from(vec![b'x'; 2 * 1024 * 1024]);
    let refused = store.write(Bucket::Specs, "spec.large", bytes, Precondition::Absent).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "larger than a message may be: {refused:?}");
    assert_eq!(store.snapshot(Bucket::Specs).await.expect("snapshot"), before, "nothing was written");
}

async fn races_have_one_winner(store: &Arc<dyn Store>) {
    let key = "slot.race.0";
    let mut expect = Precondition::Absent;
    for race in 0..RACES {
        let writers = (0..WRITERS).map(|i| store.write(Bucket::State, key, value(&i.to_string()), expect)).collect();
        let results = join_all(writers).await;
        let winners: Vec<_> =
            results.iter().enumerate().filter_map(|(i, r)| r.as_ref().ok().map(|r| (i, *r))).collect();
        let [(winner, revision)] = winners[..] else { panic!("race {race}: winners are {winners:?}") };
        assert_eq!(results.iter().filter(|result| conflict(result)).count(), WRITERS - 1, "the others are told");
        assert_eq!(read(&**store, Bucket::State, key).await, Some((winner.to_string(), revision)));
        // Every other race is for a key that was deleted.
        expect = if race % 2 == 0 {
            Precondition::At(revision)
        } else {
            store.delete(Bucket::State, key, revision).await.expect("delete");
            Precondition::Absent
        };
    }
    let revision = write(&**store, Bucket::State, key, "", expect).await;
    let deleters = (0..WRITERS).map(|_| store.delete(Bucket::State, key, revision)).collect();
    let deleted = join_all(deleters).await.iter().filter(|result| result.is_ok()).count();
    assert_eq!(deleted, 1, "one deletes");
}

/// The next changes of a feed by bucket. A gap counts as a failure: nothing happened that makes one.
async fn changes(lattice: &Platform, feed: &mut Items<FeedItem>, number: usize) -> BTreeMap<Bucket, Vec<Change>> {
    let mut found: BTreeMap<Bucket, Vec<Change>> = BTreeMap::new();
    for i in 0..number {
        match soon(lattice, next(feed)).await {
            Some(FeedItem::Change(bucket, change)) => found.entry(bucket).or_default().push(change),
            other => panic!("item {i} of {number}: {other:?}"),
        }
    }
    found
}

async fn feed(lattice: &Platform) {
    let store = &*lattice.store;
    let mut feed = store.feed().await.expect("feed");
    let mut other = store.feed().await.expect("a second feed");
    let before = join_all(Bucket::ALL.map(|bucket| store.snapshot(bucket)).into()).await;

    let mut expected: BTreeMap<Bucket, Vec<Change>> = BTreeMap::new();
    let mut number = 0;
    for bucket in Bucket::ALL {
        let mut expect = |key: &str, text: Option<&str>, revision| {
            let change = Change { key: key.into(), value: text.map(value), revision };
            expected.entry(bucket).or_default().push(change);
            number += 1;
        };
        let key = "slot.feed.0";
        let created = write(store, bucket, key, "one", Precondition::Absent).await;
        expect(key, Some("one"), created);
        let updated = write(store, bucket, key, "", Precondition::At(created)).await;
        expect(key, Some(""), updated);
        let lost = store.write(bucket, key, value("lost"), Precondition::At(created)).await;
        assert!(conflict(&lost));
        let deleted = store.delete(bucket, key, updated).await.expect("delete");
        expect(key, None, deleted);
        let again = write(store, bucket, key, "two", Precondition::Absent).await;
        expect(key, Some("two"), again);
        for i in 0..20 {
            let key = format!("slot.feed-{i}.0");
            let revision = write(store, bucket, &key, &key, Precondition::Absent).await;
            expect(&key, Some(&key), revision);
        }
    }
    let seen = changes(lattice, &mut feed, number).await;
    assert_eq!(seen, expected, "every change, in the order of its bucket, and nothing else");
    assert_eq!(changes(lattice, &mut other, number).await, seen, "all feeds are alike");

    for (bucket, before) in Bucket::ALL.into_iter().zip(before) {
        let Snapshot { identity, head, entries } = before.expect("snapshot");
        let revisions = seen[&bucket].iter().map(|change| change.revision.0);
        assert!(revisions.eq(head.0 + 1..=head.0 + seen[&bucket].len() as u64), "contiguous after the snapshot's head");
        let after = store.snapshot(bucket).await.expect("snapshot");
        assert_eq!(after.identity, identity);
        assert_eq!(after.head, seen[&bucket].last().unwrap().revision);
        let mut folded: BTreeMap<String, Entry> = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        for Change { key, value, revision } in seen[&bucket].clone() {
            match value {
                Some(value) => drop(folded.insert(key.clone(), Entry { key, value, revision })),
                None => drop(folded.remove(&key)),
            }
        }
        let found: BTreeMap<String, Entry> =
            after.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        assert_eq!(found, folded, "a snapshot is the one before it with the changes since");
    }

    let more = before_deadline(lattice, A_WHILE, next(&mut feed)).await;
    assert_eq!(more, None, "a feed is quiet where nothing changes");
}

async fn before_deadline<T>(lattice: &Platform, deadline: Duration, future: impl Future<Output = T>) -> Option<T> {
    before(future, lattice.clock.sleep(deadline)).await
}

async fn soon<T>(lattice: &Platform, future: impl Future<Output = T>) -> T {
    before_deadline(lattice, SOON, future).await.expect("it did not happen in time")
}

/// Run `test` while `service` answers beside it; the service is dropped with the test's end.
async fn while_serving(service: Fut<'_, Result<(), BusError>>, test: impl Future<Output = ()>) {
    let (mut service, mut test) = (service, pin!(test));
    poll_fn(|context| {
        if let Poll::Ready(ended) = service.as_mut().poll(context) {
            panic!("the service ended: {ended:?}");
        }
        test.as_mut().poll(context)
    })
    .await;
}

fn to(subject: &str, text: &str) -> Message {
    Message { subject: subject.into(), payload: value(text), ..Default::default() }
}

async fn subscriptions(lattice: &Platform) {
    let bus = &lattice.bus;
    let mut exact = bus.subscribe("conformance.a.b".into(), None).await.expect("subscribe");
    let mut one_token = bus.subscribe("conformance.*.b".into(), None).await.expect("subscribe");
    let mut all = bus.subscribe("conformance.>".into(), None).await.expect("subscribe");
    bus.flush().await.expect("flush");
    for subject in ["conformance.a.b", "conformance.c.b", "conformance.a.b.c", "conformance", "conformancex.b"] {
        bus.publish(to(subject, subject)).await.expect("publish");
    }
    let headers = Headers::from([("Lattice-Test".to_owned(), "a value: with a colon".to_owned())]);
    let last = Message {
        subject: "conformance.a.b".into(),
        reply: Some(bus.inbox()),
        headers,
        payload: value("last"),
        status: None,
    };
    bus.publish(last.clone()).await.expect("publish");
    for (name, subscription, expected) in [
        ("exact", &mut exact, &["conformance.a.b"][..]),
        ("*", &mut one_token, &["conformance.a.b", "conformance.c.b"]),
        (">", &mut all, &["conformance.a.b", "conformance.c.b", "conformance.a.b.c"]),
    ] {
        for subject in expected {
            assert_eq!(soon(lattice, next(subscription)).await, Some(to(subject, subject)), "{name}");
        }
        assert_eq!(soon(lattice, next(subscription)).await.as_ref(), Some(&last), "{name}: headers and reply travel");
    }
    for i in 0..500 {
        bus.publish(to("conformance.order", &i.to_string())).await.expect("publish");
    }
    for i in 0..500 {
        let message = soon(lattice, next(&mut all)).await.expect("message");
        assert_eq!(message.payload, value(&i.to_string()), "messages of one publisher keep their order");
    }
}

async fn queue_groups(lattice: &Platform) {
    const MESSAGES: usize = 60;
    let bus = &lattice.bus;
    let subject = "queues.a";
    let mut members = Vec::new();
    for queue in ["one", "one", "one", "two"] {
        members.push((queue, bus.subscribe(subject.into(), Some(queue.into())).await.expect("subscribe")));
    }
    let mut plain = bus.subscribe(subject.into(), None).await.expect("subscribe");
    bus.flush().await.expect("flush");
    for i in 0..MESSAGES {
        bus.publish(to(subject, &i.to_string())).await.expect("publish");
    }
    bus.flush().await.expect("flush");
    let mut delivered: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (queue, member) in &mut members {
        while let Some(message) = before_deadline(lattice, A_WHILE, next(member)).await.flatten() {
            let number = String::from_utf8(message.payload.to_vec()).unwrap().parse().unwrap();
            delivered.entry(*queue).or_default().push(number);
        }
    }
    for (queue, mut numbers) in delivered {
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..MESSAGES), "group {queue} gets each message once");
    }
    for i in 0..MESSAGES {
        let message = soon(lattice, next(&mut plain)).await.expect("message");
        assert_eq!(message.payload, value(&i.to_string()), "who is in no group gets everything");
    }
}

async fn nobody_listens(lattice: &Platform) {
    let bus = &lattice.bus;
    let subject = || "nobody.listens".to_owned();
    let answer = bus.request(subject(), Headers::new(), Bytes::new(), SOON).await;
    assert_eq!(answer, Err(BusError::NoResponders { subject: subject() }));

    let inbox = bus.inbox();
    let mut replies = bus.subscribe(inbox.clone(), None).await.expect("subscribe");
    bus.flush().await.expect("flush");
    bus.publish(Message { reply: Some(inbox), ..to(&subject(), "") }).await.expect("publish");
    let told = soon(lattice, next(&mut replies)).await.expect("the server's word");
    assert_eq!((told.status, told.payload), (Some(STATUS_NO_RESPONDERS), Bytes::new()));
    bus.publish(to(&subject(), "")).await.expect("who asks for no reply is not told");
}

async fn requests(lattice: &Platform) {
    let bus = &lattice.bus;
    let service = MicroService {
        name: "conformance".into(),
        version: "0.1.0".into(),
        description: "Conformance".into(),
        metadata: BTreeMap::new(),
        endpoints: ["echo", "mute", "slow"]
            .map(|name| Endpoint {
                name: name.into(),
                subject: format!("service.{name}.>"),
                queue: "conformance".into(),
            })
            .into(),
    };
    let clock = lattice.clock.clone();
    let handler: Handler = Arc::new(move |index, message| {
        let clock = clock.clone();
        Box::pin(async move {
            match index {
                0 => Some(Answer { headers: message.headers, payload: message.payload }),
                1 => None,
                _ => {
                    clock.sleep(A_WHILE).await;
                    Some(Answer::default())
                }
            }
        })
    });
    let ask = |subject: &str, text: &str, timeout| {
        let headers = Headers::from([("Lattice-Test".to_owned(), text.to_owned())]);
        bus.request(subject.to_owned(), headers, value(text), timeout)
    };
    let test = async {
        // The service's subscriptions reach the server at some moment after it was started.
        while matches!(ask("service.echo.x", "up?", SOON).await, Err(BusError::NoResponders { .. })) {
            lattice.clock.sleep(Duration::from_millis(5)).await;
        }
        let texts: Vec<String> = (0..100).map(|i| i.to_string()).collect();
        let answers = join_all(texts.iter().map(|text| ask("service.echo.x", text, SOON)).collect()).await;
        for (text, answer) in texts.iter().zip(answers) {
            let answer = answer.expect("an answer");
            assert_eq!(answer.payload, value(text), "each request gets its own answer");
            assert_eq!(answer.headers.get("Lattice-Test"), Some(text));
            assert_eq!(answer.status, None);
        }
        let started = lattice.clock.now();
        let slow = join_all((0..20).map(|_| ask("service.slow.x", "", SOON)).collect()).await;
        assert!(slow.iter().all(Result::is_ok), "{slow:?}");
        let took = lattice.clock.now() - started;
        assert!(took < A_WHILE * 10, "requests are handled at the same time: {took:?}");

        let mute = ask("service.mute.x", "", A_WHILE).await;
        let subject = "service.mute.x".to_owned();
        assert_eq!(mute, Err(BusError::Timeout { subject, after: A_WHILE }), "a request that is left unanswered");
    };
    while_serving(bus.serve(service, handler), test).await;
    // The service was dropped: the server learns of it soon.
    let stopped =
        async { while !matches!(ask("service.echo.x", "", A_WHILE).await, Err(BusError::NoResponders { .. })) {} };
    soon(lattice, stopped).await;
}

async fn sizes(lattice: &Platform) {
    let bus = &lattice.bus;
    let limit = bus.payload_bytes_max();
    let mut messages = bus.subscribe("sizes".into(), None).await.expect("subscribe");
    bus.flush().await.expect("flush");
    let largest = Message { payload: vec![b'x'; limit].into(), ..to("sizes", "") };
    bus.publish(largest.clone()).await.expect("publish");
    assert_eq!(soon(lattice, next(&mut messages)).await, Some(largest));

    let payload = Bytes::from(vec![b'x'; limit + 1]);
    let too_large = Err(BusError::TooLarge { size: limit + 1, limit });
    assert_eq!(bus.publish(Message { payload: payload.clone(), ..to("sizes", "") }).await, too_large);
    let asked = bus.request("sizes".into(), Headers::new(), payload, SOON).await;
    assert_eq!(asked.map(drop), too_large);
    // What no message can have is its sender's error, and nobody else's.
    let header = |name: &str, value: &str| Headers::from([(name.to_owned(), value.to_owned())]);
    for (what, message) in [
        ("no subject", to("", "x")),
        ("a subject of two words", to("sizes x", "x")),
        ("two lines", Message { headers: header("a", "b\r\nc: d"), ..to("sizes", "x") }),
        ("a name that is none", Message { headers: header("a b", "c"), ..to("sizes", "x") }),
        ("a bad reply", Message { reply: Some("a\r\nb".into()), ..to("sizes", "x") }),
    ] {
        let refused = bus.publish(message).await;
        assert!(matches!(refused, Err(BusError::Malformed { .. })), "{what}: {refused:?}");
    }
    bus.publish(to("sizes", "after")).await.expect("the connection goes on");
    assert_eq!(soon(lattice, next(&mut messages)).await, Some(to("sizes", "after")));
}
