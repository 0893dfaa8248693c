//! Counters of guests on real servers: exact with many connections that add at a time, alone and on three servers, and what is known of an
//! addition where a server was killed in the middle.

use super::streams::{config, message, not, open, plain, reachable_again, stream};
use crate::support::{Server, all_supported, cluster::Cluster, newest, options};
use async_nats::jetstream::{self, stream};
use futures_util::future::join_all;
use lattice::nats::{Addition, Code, Consistency, Count, Failure, Integer, Message, Outcome, Precondition, Stream};
use lattice_nats::{ConnectOptions, GuestBuckets};
use std::{sync::Arc, time::Duration};

fn counters() -> stream::Config {
    stream::Config { allow_message_counter: true, ..config(&["orders.>"]) }
}

async fn add(stream: &Arc<dyn Stream>, subject: &str, by: &str, id: Option<&str>) -> Result<Addition, Failure> {
    let message = Message { subject: subject.into(), headers: vec![("a".into(), "1".into())], ..Default::default() };
    stream.add(message, Integer::parse(by).unwrap(), id.map(Into::into)).await
}

async fn total(stream: &Arc<dyn Stream>, subject: &str) -> String {
    let last = stream.get_last(subject, Consistency::Leader).await.unwrap().unwrap();
    Count::try_from(last).unwrap().total
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_addition_counts_once() {
    let [newest, recommended, least] = all_supported();
    // A server that knows no counters would take an addition for any message.
    let server = Server::start(&least).await;
    let (_, old) = stream(&server, counters()).await;
    not(old.counts().await, Code::Unsupported);
    not(add(&old, "orders.a", "1", None).await, Code::Unsupported);
    assert_eq!(old.info().await.unwrap().messages, 0);

    for binary in [newest, recommended] {
        eprintln!("{}", binary.display());
        let server = Server::start(&binary).await;
        let (jetstream, stream) = stream(&server, counters()).await;
        stream.counts().await.unwrap();
        assert!(stream.info().await.unwrap().counters);
        let addition = |total: Option<&str>, sequence, duplicate| {
            Ok(Addition { total: total.map(Into::into), sequence, duplicate })
        };
        assert_eq!(add(&stream, "orders.a", "5", None).await, addition(Some("5"), 1, false));
        assert_eq!(add(&stream, "orders.a", "-8", Some("x")).await, addition(Some("-3"), 2, false));
        assert_eq!(add(&stream, "orders.a", "-8", Some("x")).await, addition(None, 2, true));
        assert_eq!(add(&stream, "orders.b", "0", None).await, addition(Some("0"), 3, false));
        let large = "9".repeat(256);
        assert_eq!(add(&stream, "orders.c", &large, None).await, addition(Some(large.as_str()), 4, false));
        let larger = format!("1{}", "0".repeat(256));
        assert_eq!(add(&stream, "orders.c", "1", None).await, addition(Some(larger.as_str()), 5, false));
        let stored = stream.get(2, Consistency::Leader).await.unwrap().unwrap();
        assert!(stored.message.headers.contains(&("a".into(), "1".into())), "{stored:?}");

        // Nothing else in such a stream, and no counters in another one.
        not(stream.publish(message("orders.a", 1), plain(Precondition::None)).await, Code::Unsupported);
        jetstream.create_stream(stream::Config { name: "OTHER".into(), ..config(&["other.>"]) }).await.unwrap();
        not(add(&stream, "other.a", "1", None).await, Code::Invalid("subject".into()));
        not(add(&stream, "nowhere", "1", None).await, Code::Invalid("subject".into()));

        // Several connections at a time.
        let guests: Vec<_> = (0..4).map(|_| GuestBuckets::new(options(server.url()))).collect();
        let streams = join_all(guests.iter().map(open)).await;
        let adding = (0..400).map(|n| {
            let stream = streams[n % 4].as_ref().unwrap();
            async move { add(stream, "orders.many", if n % 4 == 0 { "-1" } else { "2" }, None).await.unwrap() }
        });
        let mut told = join_all(adding).await;
        assert_eq!(total(&stream, "orders.many").await, "500");
        // Their totals are those of one order.
        told.sort_by_key(|added| added.sequence);
        let totals: Vec<i64> = told.iter().map(|added| added.total.as_ref().unwrap().parse().unwrap()).collect();
        let steps = std::iter::once(totals[0]).chain(totals.windows(2).map(|two| two[1] - two[0]));
        assert!(steps.into_iter().all(|step| step == 2 || step == -1), "{totals:?}");
        assert_eq!(totals.last(), Some(&500));
    }
}

/// How many were added, and of how many that is not known, while something happens.
async fn add_while(
    stream: &Arc<dyn Stream>,
    subject: &str,
    count: usize,
    happens: impl Future<Output = ()>,
) -> (u64, u64) {
    let adding = (0..count).map(|n| async move {
        tokio::time::sleep(Duration::from_millis(u64::try_from(n % 300).unwrap())).await;
        add(stream, subject, "1", None).await
    });
    let (outcomes, ()) = tokio::join!(join_all(adding), happens);
    let count =
        |is: fn(&Result<Addition, Failure>) -> bool| outcomes.iter().filter(|outcome| is(outcome)).count() as u64;
    let maybe = count(|outcome| outcome.as_ref().is_err_and(|failure| failure.outcome == Outcome::Maybe));
    (count(Result::is_ok), maybe)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_of_an_addition_holds_where_its_server_is_killed() {
    let mut server = Server::start(&newest()).await;
    let (_, stream) = stream(&server, counters()).await;
    add(&stream, "orders.first", "1", None).await.unwrap();
    let (done, maybe) = add_while(&stream, "orders.a", 1_500, async {
        tokio::time::sleep(Duration::from_millis(120)).await;
        server.kill().await;
        server.restart().await;
    })
    .await;
    reachable_again(&stream).await;
    let there: u64 = total(&stream, "orders.a").await.parse().unwrap();
    eprintln!("{done} done, {maybe} maybe, {there} there");
    assert!((done..=done + maybe).contains(&there), "{done} were acknowledged, {maybe} may have been: {there}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_are_exact_where_the_leader_of_three_is_killed() {
    let mut cluster = Cluster::start(&newest()).await;
    let jetstream = jetstream::new(async_nats::connect(cluster.urls()).await.unwrap());
    let config = stream::Config { num_replicas: 3, duplicate_window: Duration::from_secs(120), ..counters() };
    let mut made = jetstream.create_stream(config).await.unwrap();
    let guests = GuestBuckets::new(ConnectOptions { servers: cluster.urls(), ..options(String::new()) });
    let stream = open(&guests).await.unwrap();
    let leader = made.info().await.unwrap().cluster.clone().unwrap().leader.unwrap();
    let (done, maybe) = add_while(&stream, "orders.a", 600, async {
        tokio::time::sleep(Duration::from_millis(120)).await;
        cluster.member(&leader).kill().await;
    })
    .await;
    reachable_again(&stream).await;
    cluster.member(&leader).restart().await;
    let there: u64 = total(&stream, "orders.a").await.parse().unwrap();
    eprintln!("{done} done, {maybe} maybe, {there} there");
    assert!((done..=done + maybe).contains(&there), "{done} were acknowledged, {maybe} may have been: {there}");
    // Under a name each is there once, whatever was known of it.
    for _ in 0..2 {
        for n in 0..50 {
            let id = format!("n{n}");
            add(&stream, "orders.named", "1", Some(&id)).await.unwrap();
        }
    }
    assert_eq!(total(&stream, "orders.named").await, "50");
}
