//! Schedules of guests on real servers, of each supported version, alone and three of them: what is due is stored, also where its server, or
//! the leader, is killed before.

use super::streams::{config, message, not, open, plain, reachable_again, stream};
use crate::support::{SOON, Server, all_supported, cluster::Cluster, newest, options};
use async_nats::jetstream::{self, stream};
use lattice::nats::{
    Acknowledgement, Code, Consistency, Failure, Precondition, PublishOptions, Scheduled, Scheduling, Stored, Stream,
    Timing,
};
use lattice_nats::{ConnectOptions, GuestBuckets};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

fn scheduling() -> stream::Config {
    stream::Config { allow_message_schedules: true, allow_message_ttl: true, ..config(&["orders.>"]) }
}

fn in_ms(ms: u64) -> Timing {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timing::at(u64::try_from(now.as_nanos()).unwrap() + ms * 1_000_000)
}

async fn put(
    stream: &Arc<dyn Stream>,
    (subject, target): (&str, &str),
    timing: Timing,
    options: PublishOptions,
) -> Result<Acknowledgement, Failure> {
    let message = message(target, format!("for {target}"));
    let message = lattice::nats::Message { headers: vec![("a".into(), "1".into())], ..message };
    stream.schedule(Scheduling { subject: subject.into(), timing, message, ttl: None, options }).await
}

fn none() -> PublishOptions {
    plain(Precondition::None)
}

async fn last(stream: &Arc<dyn Stream>, subject: &str) -> Option<Stored> {
    stream.get_last(subject, Consistency::Leader).await.unwrap()
}

/// What is stored on a subject behind a sequence.
async fn stored(stream: &Arc<dyn Stream>, subject: &str, behind: u64) -> Stored {
    let begin = Instant::now();
    loop {
        // There may be no leader for a while.
        if let Ok(Some(found)) = stream.get_last(subject, Consistency::Leader).await
            && found.sequence > behind
        {
            return found;
        }
        assert!(begin.elapsed() < SOON, "nothing came on {subject}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_is_stored_once_and_what_is_cancelled_is_not() {
    let [newest, recommended, least] = all_supported();
    // A server that knows no schedules would take one for any message.
    let server = Server::start(&least).await;
    let (_, old) = stream(&server, scheduling()).await;
    not(old.schedules().await, Code::Unsupported);
    not(put(&old, ("orders.later", "orders.a"), in_ms(0), none()).await, Code::Unsupported);
    assert_eq!(old.info().await.unwrap().messages, 0);

    for (binary, repeats) in [(newest, true), (recommended, false)] {
        eprintln!("{}", binary.display());
        let server = Server::start(&binary).await;
        let (jetstream, stream) = stream(&server, scheduling()).await;
        stream.schedules().await.unwrap();
        assert!(stream.info().await.unwrap().schedules);
        let later = ("orders.later", "orders.a");
        // Replaced, asked for, and due.
        put(&stream, later, in_ms(3_600_000), none()).await.unwrap();
        let begin = Instant::now();
        assert_eq!(put(&stream, later, in_ms(1_000), none()).await.unwrap().sequence, 2);
        let scheduled = Scheduled::try_from(last(&stream, "orders.later").await.unwrap()).unwrap();
        assert_eq!((scheduled.message.subject.as_str(), scheduled.sequence), ("orders.a", 2));
        assert_eq!(scheduled.message.headers, [("a".to_owned(), "1".to_owned())]);
        let due = stored(&stream, "orders.a", 0).await;
        assert!(begin.elapsed() >= Duration::from_millis(900), "{:?}", begin.elapsed());
        assert_eq!((&due.message.payload[..], due.sequence), (&b"for orders.a"[..], 3));
        assert!(due.message.headers.contains(&("a".into(), "1".into())), "{due:?}");
        // With a name, which what is stored has not, and under a condition.
        let named = || PublishOptions { message_id: Some("x".into()), ..none() };
        let first = put(&stream, later, in_ms(0), named()).await.unwrap();
        let due = stored(&stream, "orders.a", due.sequence).await;
        let again = put(&stream, later, in_ms(0), named()).await.unwrap();
        assert_eq!((again.sequence, again.duplicate), (first.sequence, true));
        let at = |sequence| plain(Precondition::LastOnSubject(sequence));
        let absent = ("orders.other", "orders.a");
        not(put(&stream, absent, in_ms(3_600_000), at(7)).await, Code::WrongSequence);
        let there = put(&stream, absent, in_ms(3_600_000), at(0)).await.unwrap();
        not(put(&stream, absent, in_ms(3_600_000), at(0)).await, Code::WrongSequence);
        put(&stream, absent, in_ms(1_000), at(there.sequence)).await.unwrap();
        // Cancelled before it was due.
        assert!(stream.cancel("orders.other").await.unwrap());
        assert!(!stream.cancel("orders.other").await.unwrap());
        assert_eq!(last(&stream, "orders.other").await, None);
        tokio::time::sleep(Duration::from_millis(1_800)).await;
        assert_eq!(last(&stream, "orders.a").await.unwrap().sequence, due.sequence);

        // What is no place for it, and what older servers do not know.
        for bad in [("orders.later", "elsewhere.a"), ("orders.later", "orders.later")] {
            not(put(&stream, bad, in_ms(0), none()).await, Code::Invalid("message.subject".into()));
        }
        let every = || Timing::every(Duration::from_secs(1)).unwrap();
        let cron = |cron: &str, zone: Option<&str>| Timing::cron(cron, zone.map(Into::into)).unwrap();
        let repeated = put(&stream, later, every(), none()).await;
        if repeats {
            let first = stored(&stream, "orders.a", due.sequence).await;
            let second = stored(&stream, "orders.a", first.sequence).await;
            assert!(second.sequence > first.sequence);
            assert!(stream.cancel("orders.later").await.unwrap());
            put(&stream, later, cron("* * * * * *", Some("UTC")), none()).await.unwrap();
            let last = last(&stream, "orders.a").await.unwrap().sequence;
            stored(&stream, "orders.a", last).await;
            assert!(stream.cancel("orders.later").await.unwrap());
            for bad in [cron("99 * * * * *", None), cron("@daily", Some("No/Where")), cron("@daily", Some("+02:00"))] {
                not(put(&stream, later, bad, none()).await, Code::Invalid("timing".into()));
            }
        } else {
            not(repeated, Code::Unsupported);
            not(put(&stream, later, cron("@daily", None), none()).await, Code::Unsupported);
        }
        // A stream that takes none.
        jetstream.create_stream(stream::Config { name: "OTHER".into(), ..config(&["other.>"]) }).await.unwrap();
        jetstream.delete_stream("ORDERS").await.unwrap();
        not(stream.cancel("orders.later").await, Code::NotFound);
        jetstream.create_stream(config(&["orders.>"])).await.unwrap();
        not(put(&stream, later, in_ms(0), none()).await, Code::Unsupported);
        let plain = open(&GuestBuckets::new(options(server.url()))).await.unwrap();
        not(plain.schedules().await, Code::Unsupported);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_while_its_server_is_away_follows() {
    let mut server = Server::start(&newest()).await;
    let (_, stream) = stream(&server, scheduling()).await;
    put(&stream, ("orders.later", "orders.a"), in_ms(500), none()).await.unwrap();
    put(&stream, ("orders.every", "orders.b"), Timing::every(Duration::from_secs(1)).unwrap(), none()).await.unwrap();
    server.kill().await;
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    server.restart().await;
    reachable_again(&stream).await;
    let due = stored(&stream, "orders.a", 0).await;
    let first = stored(&stream, "orders.b", 0).await;
    stored(&stream, "orders.b", first.sequence).await;
    // Once alone.
    assert_eq!(last(&stream, "orders.a").await.unwrap().sequence, due.sequence);
    assert_eq!(last(&stream, "orders.later").await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_is_stored_where_the_leader_of_three_is_killed() {
    let mut cluster = Cluster::start(&newest()).await;
    let jetstream = jetstream::new(async_nats::connect(cluster.urls()).await.unwrap());
    let mut made = jetstream.create_stream(stream::Config { num_replicas: 3, ..scheduling() }).await.unwrap();
    let guests = GuestBuckets::new(ConnectOptions { servers: cluster.urls(), ..options(String::new()) });
    let stream = open(&guests).await.unwrap();
    for n in 0..50 {
        let subjects = (format!("orders.later.{n}"), format!("orders.due.{n}"));
        put(&stream, (&subjects.0, &subjects.1), in_ms(1_500), none()).await.unwrap();
    }
    let leader = made.info().await.unwrap().cluster.clone().unwrap().leader.unwrap();
    cluster.member(&leader).kill().await;
    reachable_again(&stream).await;
    for n in 0..50 {
        stored(&stream, &format!("orders.due.{n}"), 0).await;
    }
}
