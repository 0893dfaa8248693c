//! Streams of guests on real servers, of each supported version, alone and three of them: what is stored under which
//! condition, what is read back from whom, and what is known where a server was killed in the middle.

use crate::support::{SOON, Server, all_supported, cluster::Cluster, newest, options};
use async_nats::jetstream::{self, stream};
use futures_util::{StreamExt as _, stream::iter};
use lattice::{
    id::WorkloadName,
    nats::{
        Code, Consistency, Failure, Links as _, Message, Outcome, Precondition, PublishOptions, SNAPSHOT_MAX, Stream,
    },
};
use lattice_nats::{ConnectOptions, GuestBuckets};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

pub(super) fn config(subjects: &[&str]) -> stream::Config {
    stream::Config {
        name: "ORDERS".into(),
        subjects: subjects.iter().map(ToString::to_string).collect(),
        allow_direct: true,
        duplicate_window: Duration::from_secs(2),
        ..Default::default()
    }
}

async fn jetstream_of(urls: Vec<String>) -> jetstream::Context {
    jetstream::new(async_nats::connect(urls).await.unwrap())
}

pub(super) async fn open(guests: &GuestBuckets) -> Result<Arc<dyn Stream>, Failure> {
    let link = guests.link(&WorkloadName::new("w").unwrap().into()).await?;
    link.stream(&"ORDERS".to_owned().try_into().unwrap()).await
}

/// The stream, made with this configuration, as a guest has it.
pub(super) async fn stream(server: &Server, config: stream::Config) -> (jetstream::Context, Arc<dyn Stream>) {
    let jetstream = jetstream_of(vec![server.url()]).await;
    jetstream.create_stream(config).await.unwrap();
    (jetstream, open(&GuestBuckets::new(options(server.url()))).await.unwrap())
}

pub(super) fn message(subject: &str, payload: impl ToString) -> Message {
    Message { subject: subject.into(), payload: payload.to_string().into(), ..Default::default() }
}

pub(super) fn plain(precondition: Precondition) -> PublishOptions {
    PublishOptions { precondition, message_id: None, ttl: None }
}

fn named(id: &str, precondition: Precondition) -> PublishOptions {
    PublishOptions { message_id: Some(id.into()), ..plain(precondition) }
}

#[track_caller]
pub(super) fn not<T: std::fmt::Debug>(outcome: Result<T, Failure>, code: Code) {
    let failure = outcome.unwrap_err();
    assert_eq!((&failure.code, failure.outcome), (&code, Outcome::DefinitelyNot), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_stored_under_conditions_and_read_back() {
    for binary in all_supported() {
        eprintln!("{}", binary.display());
        let server = Server::start(&binary).await;
        let (jetstream, stream) = stream(&server, config(&["orders.>"])).await;
        let none = || plain(Precondition::None);

        // Expectations of the stream, of the subject, of several subjects, and of the message before.
        let first = stream.publish(message("orders.a", 1), plain(Precondition::LastSequence(0))).await.unwrap();
        assert_eq!((first.sequence, first.duplicate), (1, false));
        not(stream.publish(message("orders.a", 2), plain(Precondition::LastSequence(0))).await, Code::WrongSequence);
        let second = stream.publish(message("orders.b", 2), plain(Precondition::LastOnSubject(0))).await.unwrap();
        assert_eq!(second.sequence, 2);
        for wrong in [Precondition::LastOnSubject(0), Precondition::LastOnSubject(1), Precondition::LastOnSubject(7)] {
            not(stream.publish(message("orders.b", 3), plain(wrong)).await, Code::WrongSequence);
        }
        let all = |sequence| plain(Precondition::LastOnFilter("orders.*".into(), sequence));
        not(stream.publish(message("orders.c", 3), all(1)).await, Code::WrongSequence);
        assert_eq!(stream.publish(message("orders.c", 3), all(2)).await.unwrap().sequence, 3);
        for (n, subject) in [(4, "orders.d"), (5, "orders.d")] {
            assert_eq!(stream.publish(message(subject, n), plain(Precondition::None)).await.unwrap().sequence, n);
        }

        // A name within its window; with a condition besides one of the two tells; and when its time is up.
        let sixth = named("six", Precondition::LastOnSubject(0));
        assert_eq!(stream.publish(message("orders.e", 6), sixth.clone()).await.unwrap().sequence, 6);
        let by_name = named("six", Precondition::None);
        let again = stream.publish(message("orders.e", 6), by_name).await.unwrap();
        assert_eq!((again.sequence, again.duplicate), (6, true));
        match stream.publish(message("orders.e", 6), sixth).await {
            Ok(again) => assert_eq!((again.sequence, again.duplicate), (6, true)),
            failed => not(failed, Code::WrongSequence),
        }
        let begin = Instant::now();
        let short = || named("short", Precondition::None);
        let first = stream.publish(message("orders.a", 7), short()).await.unwrap().sequence;
        let second = loop {
            let again = stream.publish(message("orders.a", 7), short()).await.unwrap();
            if !again.duplicate {
                break again.sequence;
            }
            assert!(again.sequence == first && begin.elapsed() < SOON);
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert!(begin.elapsed() > Duration::from_secs(1), "the window is 2 s: {:?}", begin.elapsed());
        assert_eq!((first, second), (7, 8));

        // Where nobody stores it, and where another stream does.
        not(stream.publish(message("nowhere", 1), none()).await, Code::NoResponders);
        let other = stream::Config { name: "OTHER".into(), ..config(&["other.>"]) };
        jetstream.create_stream(other).await.unwrap();
        not(stream.publish(message("other.a", 1), none()).await, Code::Invalid("message.subject".into()));
        not(stream.publish(message("orders.a", "x".repeat(2 << 20)), none()).await, Code::TooLarge(1 << 20));
        let ttl = PublishOptions { ttl: Some(Duration::from_secs(5)), ..none() };
        not(stream.publish(message("orders.a", 1), ttl).await, Code::Unsupported);

        // Headers as they were sent, and what it was stored with.
        let lines = vec![("Shape".to_owned(), "round".to_owned()), ("Shape".to_owned(), "red".to_owned())];
        let shaped = Message { headers: lines.clone(), ..message("orders.a.b", "ball") };
        let at = stream.publish(shaped, named("ball", Precondition::None)).await.unwrap().sequence;
        for consistency in [Consistency::Leader, Consistency::AnyReplica] {
            let stored = stream.get(at, consistency).await.unwrap().unwrap();
            assert_eq!((stored.message.subject.as_str(), stored.sequence), ("orders.a.b", at));
            assert_eq!(stored.message.payload, "ball");
            assert!(stored.message.reply.is_none() && stored.time > 1_600_000_000_000_000_000);
            let has = |name: &str| stored.message.headers.iter().any(|(line, _)| line == name);
            assert!(lines.iter().all(|line| stored.message.headers.contains(line)), "{stored:?}");
            assert!(has("Nats-Msg-Id"), "{stored:?}");
            assert!(!has("Nats-Sequence") && !has("Nats-Subject"), "{stored:?}");
            for nothing in [0, at + 1, u64::MAX] {
                assert_eq!(stream.get(nothing, consistency).await.unwrap(), None, "{nothing}");
            }
            let last = async |filter: &str| stream.get_last(filter, consistency).await.unwrap();
            assert_eq!(last("orders.a").await.unwrap().sequence, 8);
            assert_eq!(last("orders.*").await.unwrap().sequence, 8);
            assert_eq!(last("orders.>").await.unwrap().sequence, at);
            assert_eq!(last("*.a.b").await.unwrap().sequence, at);
            assert_eq!(last("orders.z").await, None);
            let snapshot =
                stream.get_many_last(vec!["orders.a.>".into(), "orders.*".into()], consistency).await.unwrap();
            let sequences: Vec<u64> = snapshot.messages.iter().map(|stored| stored.sequence).collect();
            assert_eq!((sequences, snapshot.as_of), (vec![2, 3, 5, 6, 8, at], at));
            let nothing = stream.get_many_last(vec!["orders.z".into()], consistency).await.unwrap();
            assert_eq!((nothing.messages.len(), nothing.as_of), (0, 0));
        }
        let info = stream.info().await.unwrap();
        assert_eq!((info.messages, info.first_sequence, info.last_sequence), (9, 1, at));
        assert_eq!((info.duplicate_window, info.direct, info.atomic), (Duration::from_secs(2), true, false));

        // A stream that allows no reads by anyone but the leader, and one that is gone.
        jetstream.update_stream(stream::Config { allow_direct: false, ..config(&["orders.>"]) }).await.unwrap();
        let closed = open(&GuestBuckets::new(options(server.url()))).await.unwrap();
        not(closed.get(1, Consistency::AnyReplica).await, Code::Unsupported);
        not(closed.get_many_last(vec![">".into()], Consistency::Leader).await, Code::Unsupported);
        assert!(closed.get(1, Consistency::Leader).await.unwrap().is_some());
        jetstream.delete_stream("ORDERS").await.unwrap();
        not(stream.get(1, Consistency::Leader).await, Code::NotFound);
        not(stream.info().await, Code::NotFound);
        assert_eq!(open(&GuestBuckets::new(options(server.url()))).await.err().unwrap().code, Code::NotFound);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_are_stored_whole_or_not_at_all() {
    let [newest, recommended, least] = all_supported();
    let server = Server::start(&least).await;
    let (_, old) = stream(&server, config(&["orders.>"])).await;
    not(old.publish_atomic(vec![(message("orders.a", 1), plain(Precondition::None))]).await, Code::Unsupported);
    assert_eq!(old.info().await.unwrap().messages, 0);

    for binary in [newest, recommended] {
        let server = Server::start(&binary).await;
        let (jetstream, stream) = stream(&server, config(&["orders.>"])).await;
        let batch = |count: usize, first: Precondition| -> Vec<_> {
            let condition = |n| if n == 0 { first.clone() } else { Precondition::None };
            (0..count).map(|n| (message(&format!("orders.{n}"), n), plain(condition(n)))).collect()
        };
        not(stream.publish_atomic(batch(2, Precondition::None)).await, Code::Unsupported);
        // What was allowed after it was opened.
        let atomic = stream::Config { allow_atomic_publish: true, ..config(&["orders.>"]) };
        jetstream.update_stream(atomic).await.unwrap();
        assert_eq!(stream.publish_atomic(batch(1, Precondition::LastSequence(0))).await.unwrap().sequence, 1);
        assert_eq!(stream.publish_atomic(batch(1_000, Precondition::LastSequence(1))).await.unwrap().sequence, 1_001);
        not(stream.publish_atomic(batch(1_001, Precondition::None)).await, Code::TooMany(1_000));
        // Repeated, and with one condition of many that does not hold.
        not(stream.publish_atomic(batch(1_000, Precondition::LastSequence(1))).await, Code::WrongSequence);
        let mut one_wrong = batch(10, Precondition::None);
        one_wrong[7].1.precondition = Precondition::LastOnSubject(3);
        not(stream.publish_atomic(one_wrong.clone()).await, Code::WrongSequence);
        // Conditions are about what there was before the batch.
        one_wrong[7].1.precondition = Precondition::LastOnSubject(9);
        assert_eq!(stream.publish_atomic(one_wrong).await.unwrap().sequence, 1_011);
        let twice = ["a", "a"].map(|name| {
            let subject = format!("orders.twice.{name}");
            (message(&subject, 1), plain(Precondition::LastOnSubject(0)))
        });
        not(stream.publish_atomic(twice.into()).await, Code::WrongSequence);
        assert_eq!(stream.info().await.unwrap().messages, 1_011);

        // More subjects than a snapshot has.
        let many = stream.get_many_last(vec!["orders.*".into()], Consistency::Leader).await.unwrap();
        assert_eq!((many.messages.len(), many.as_of), (1_000, 1_011));
        let more = (0..50).map(|n| (message(&format!("orders.more{n}"), n), plain(Precondition::None)));
        stream.publish_atomic(more.collect()).await.unwrap();
        not(stream.get_many_last(vec!["orders.*".into()], Consistency::Leader).await, Code::TooMany(SNAPSHOT_MAX));
        for n in 0..6 {
            let large = message(&format!("orders.large.{n}"), "x".repeat(1_000_000));
            stream.publish(large, plain(Precondition::None)).await.unwrap();
        }
        not(stream.get_many_last(vec!["orders.large.*".into()], Consistency::Leader).await, Code::TooLarge(4 << 20));
        let few: Vec<String> = (0..3).map(|n| format!("orders.large.{n}")).collect();
        assert_eq!(stream.get_many_last(few, Consistency::AnyReplica).await.unwrap().messages.len(), 3);
    }
}

/// What became of each of many messages that were published under a name of their own.
async fn publish_all(stream: &Arc<dyn Stream>, round: u32, count: u32) -> Vec<(String, Result<u64, Failure>)> {
    let publish = |n: u32| {
        let stream = stream.clone();
        async move {
            let id = format!("r{round}n{n}");
            let options = named(&id, Precondition::LastOnSubject(0));
            let stored = stream.publish(message(&format!("orders.{id}"), &id), options).await;
            (id, stored.map(|stored| stored.sequence))
        }
    };
    iter((0..count).map(publish)).buffer_unordered(16).collect().await
}

/// Reads until a leader answers: there may be none for a while after one was killed.
async fn until_answered<T>(read: impl AsyncFn() -> Result<T, Failure>) -> T {
    let begun = tokio::time::Instant::now();
    loop {
        match read().await {
            Ok(read) => return read,
            Err(failure) if begun.elapsed() > SOON => panic!("{failure:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Success is there, `definitely-not` is not, and what may have happened is told by repeating it.
async fn verify(
    stream: &Arc<dyn Stream>,
    outcomes: Vec<(String, Result<u64, Failure>)>,
) -> BTreeMap<&'static str, u32> {
    let mut counts = BTreeMap::new();
    for (id, outcome) in outcomes {
        let subject = format!("orders.{id}");
        let there = until_answered(async || stream.get_last(&subject, Consistency::Leader).await).await;
        let class = match outcome {
            Ok(sequence) => {
                assert_eq!(there.unwrap().sequence, sequence, "{id} was acknowledged");
                "stored"
            }
            Err(Failure { outcome: Outcome::DefinitelyNot, .. }) => {
                assert_eq!(there, None, "{id}");
                "not"
            }
            Err(_) => {
                let again = named(&id, Precondition::None);
                let repeated = stream.publish(message(&subject, &id), again).await.unwrap();
                assert_eq!(repeated.duplicate, there.is_some(), "{id}");
                if there.is_some() { "maybe, and there" } else { "maybe, and not there" }
            }
        };
        *counts.entry(class).or_default() += 1;
    }
    counts
}

pub(super) async fn reachable_again(stream: &Arc<dyn Stream>) {
    let begin = Instant::now();
    while let Err(failure) = stream.info().await {
        assert!(begin.elapsed() < SOON, "{failure:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_of_a_publish_holds_where_its_server_is_killed() {
    let mut server = Server::start(&newest()).await;
    let config = stream::Config {
        duplicate_window: Duration::from_secs(120),
        allow_atomic_publish: true,
        ..config(&["orders.>", "batch.*"])
    };
    let (_, stream) = stream(&server, config).await;
    for round in 0..4 {
        let publishing = tokio::spawn({
            let stream = stream.clone();
            async move { publish_all(&stream, round, 3_000).await }
        });
        let batches = tokio::spawn({
            let stream = stream.clone();
            async move {
                let mut outcomes = Vec::new();
                for n in 0..40 {
                    let subject = format!("batch.r{round}n{n}");
                    let batch = (0..20).map(|i| (message(&subject, i), plain(Precondition::None))).collect();
                    outcomes.push((subject, stream.publish_atomic(batch).await));
                }
                outcomes
            }
        });
        tokio::time::sleep(Duration::from_millis(60 + u64::from(round) * 40)).await;
        server.kill().await;
        server.restart().await;
        let (outcomes, batches) = (publishing.await.unwrap(), batches.await.unwrap());
        reachable_again(&stream).await;
        eprintln!("{:?}", verify(&stream, outcomes).await);
        for (subject, outcome) in batches {
            // All of it or nothing: the last one is there only with those before it.
            let there = until_answered(async || stream.get_last(&subject, Consistency::Leader).await).await;
            let whole = match &there {
                None => false,
                Some(last) => {
                    assert_eq!(last.message.payload, "19", "{subject}: the batch ends in the middle");
                    let first = stream.get(last.sequence - 19, Consistency::Leader).await.unwrap().unwrap();
                    assert_eq!((first.message.subject.as_str(), &first.message.payload[..]), (&*subject, &b"0"[..]));
                    true
                }
            };
            match outcome {
                Ok(stored) => assert_eq!(there.unwrap().sequence, stored.sequence),
                Err(Failure { outcome: Outcome::DefinitelyNot, .. }) => assert!(!whole, "{subject}"),
                Err(_) => {}
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_of_a_publish_holds_where_the_leader_of_three_is_killed() {
    let mut cluster = Cluster::start(&newest()).await;
    let jetstream = jetstream_of(cluster.urls()).await;
    let config =
        stream::Config { num_replicas: 3, duplicate_window: Duration::from_secs(120), ..config(&["orders.>"]) };
    let mut made = jetstream.create_stream(config).await.unwrap();
    let guests = GuestBuckets::new(ConnectOptions { servers: cluster.urls(), ..options(String::new()) });
    let stream = open(&guests).await.unwrap();
    for round in 0..2 {
        let publishing = tokio::spawn({
            let stream = stream.clone();
            async move { publish_all(&stream, round, 1_500).await }
        });
        tokio::time::sleep(Duration::from_millis(150)).await;
        let leader = made.info().await.unwrap().cluster.clone().unwrap().leader.unwrap();
        cluster.member(&leader).kill().await;
        let outcomes = publishing.await.unwrap();
        reachable_again(&stream).await;
        cluster.member(&leader).restart().await;
        eprintln!("{:?}", verify(&stream, outcomes).await);
        // Read by any replica, as of what the leader has: the one that just came back may be behind.
        let last = stream.publish(message("orders.last", round), plain(Precondition::None)).await.unwrap();
        for _ in 0..20 {
            let snapshot = stream.get_many_last(vec!["orders.last".into()], Consistency::Leader).await.unwrap();
            assert!(snapshot.as_of >= last.sequence, "{snapshot:?}");
            assert_eq!(snapshot.messages[0].sequence, last.sequence);
        }
    }
}
