//! Consumers and readers of guests on real servers: at least once, in order, and over a server that is killed.

use super::streams::{config, message, not, open, plain, reachable_again, stream};
use crate::support::{SOON, Server, all_supported, newest, options, soon};
use async_nats::jetstream::{self, consumer::pull, stream};
use lattice::nats::{Code, Consumer, Delivered, Failure, Feed, Precondition, ReadEvent, Settlement, Start, Stream};
use lattice_nats::GuestBuckets;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

async fn publish(stream: &Arc<dyn Stream>, subject: &str, count: u32) {
    for n in 0..count {
        stream.publish(message(subject, n), plain(Precondition::None)).await.unwrap();
    }
}

async fn consumer(
    jetstream: &jetstream::Context,
    stream: &Arc<dyn Stream>,
    config: pull::Config,
) -> Result<Arc<dyn Consumer>, Failure> {
    let name = config.durable_name.clone().unwrap();
    jetstream.get_stream("ORDERS").await.unwrap().create_consumer(config).await.unwrap();
    stream.consumer(&name.try_into().unwrap()).await
}

fn durable(name: &str) -> pull::Config {
    pull::Config { durable_name: Some(name.into()), ack_wait: Duration::from_secs(1), ..Default::default() }
}

fn texts(fetched: &[Delivered]) -> Vec<String> {
    fetched.iter().map(|one| String::from_utf8(one.stored.message.payload.to_vec()).unwrap()).collect()
}

const LONG: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_delivered_comes_again_until_it_is_settled() {
    for binary in all_supported() {
        let server = Server::start(&binary).await;
        let (jetstream, stream) = stream(&server, config(&["orders.>"])).await;
        let packers = consumer(&jetstream, &stream, durable("packers")).await.unwrap();
        assert_eq!(packers.fetch(3, Duration::ZERO).await.unwrap().len(), 0);
        publish(&stream, "orders.a", 5).await;
        let first = packers.fetch(3, LONG).await.unwrap();
        assert_eq!(texts(&first), ["0", "1", "2"]);
        // The server's count may miss what was published while it began to count.
        assert_eq!((first[0].attempts, first[0].pending - first[2].pending), (1, 2));
        assert_eq!((first[2].stored.sequence, first[2].stored.message.reply.as_ref()), (3, None));
        let rest = packers.fetch(10, Duration::ZERO).await.unwrap();
        assert_eq!(texts(&rest), ["3", "4"]);
        let backlog = packers.backlog().await.unwrap();
        assert_eq!((backlog.undelivered, backlog.unsettled), (0, 5));

        // Done, refused for ever, put back for later, and forgotten.
        first[0].settle.settle(Settlement::AckSync).await.unwrap();
        first[1].settle.settle(Settlement::Terminate("never".into())).await.unwrap();
        first[2].settle.settle(Settlement::Nak(None)).await.unwrap();
        rest[0].settle.settle(Settlement::Nak(Some(Duration::from_secs(60)))).await.unwrap();
        let again = packers.fetch(1, LONG).await.unwrap();
        assert_eq!((texts(&again), again[0].attempts), (vec!["2".to_owned()], 2));
        again[0].settle.settle(Settlement::Ack).await.unwrap();
        // As long as it is said to be worked on it does not come again.
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            rest[1].settle.settle(Settlement::InProgress).await.unwrap();
        }
        assert_eq!(packers.fetch(1, Duration::ZERO).await.unwrap().len(), 0);
        let again = packers.fetch(1, LONG).await.unwrap();
        assert_eq!((texts(&again), again[0].attempts), (vec!["4".to_owned()], 2));
        again[0].settle.settle(Settlement::AckSync).await.unwrap();
        assert_eq!(packers.backlog().await.unwrap().unsettled, 1, "the one that was put back for a minute");

        // Several who ask one have each message once.
        publish(&stream, "orders.b", 60).await;
        let shares = [0, 1, 2].map(|_| packers.fetch(20, LONG));
        let shares = futures_util::future::join_all(shares).await;
        let all: Vec<u64> =
            shares.iter().flat_map(|share| share.as_ref().unwrap()).map(|one| one.stored.sequence).collect();
        assert_eq!((all.len(), all.iter().collect::<BTreeSet<_>>().len()), (60, 60));

        // Large ones: as many as one may have bytes.
        let large = message("orders.large", "x".repeat(700_000));
        for _ in 0..3 {
            stream.publish(large.clone(), plain(Precondition::None)).await.unwrap();
        }
        let filtered = pull::Config { filter_subject: "orders.large".into(), ..durable("large") };
        let filtered = consumer(&jetstream, &stream, filtered).await.unwrap();
        assert_eq!(filtered.fetch(3, LONG).await.unwrap().len(), 1);

        // Those of other kinds, and those that are gone.
        let lax = pull::Config { ack_policy: jetstream::consumer::AckPolicy::None, ..durable("lax") };
        not(consumer(&jetstream, &stream, lax).await.map(drop), Code::Unsupported);
        not(stream.consumer(&"absent".to_owned().try_into().unwrap()).await.map(drop), Code::NotFound);
        jetstream.get_stream("ORDERS").await.unwrap().delete_consumer("packers").await.unwrap();
        not(packers.fetch(1, LONG).await, Code::NotFound);
        not(packers.backlog().await, Code::NotFound);
    }
}

/// What a reader is told, as text.
async fn next(reader: &mut Box<dyn Feed<ReadEvent>>) -> String {
    match soon("an event", reader.next()).await {
        None => "end".into(),
        Some(ReadEvent::Message(stored)) => {
            format!("{} {}", stored.sequence, String::from_utf8_lossy(&stored.message.payload))
        }
        Some(ReadEvent::CaughtUp) => "caught-up".into(),
        Some(ReadEvent::Resynchronised(first)) => format!("resynchronised {first}"),
        Some(ReadEvent::Failed(failure)) => format!("failed {:?}", failure.code),
    }
}

async fn expect(reader: &mut Box<dyn Feed<ReadEvent>>, events: &[&str]) {
    for event in events {
        assert_eq!(next(reader).await, *event);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_have_everything_once_and_in_order() {
    for binary in all_supported() {
        let server = Server::start(&binary).await;
        let (jetstream, stream) = stream(&server, config(&["orders.>"])).await;
        let read = async |filters: &[&str], start| {
            stream.read(filters.iter().map(ToString::to_string).collect(), start).await.unwrap()
        };
        let mut empty = read(&[], Start::First).await;
        expect(&mut empty, &["caught-up"]).await;
        publish(&stream, "orders.a", 3).await;
        publish(&stream, "orders.b", 2).await;
        expect(&mut empty, &["1 0", "2 1", "3 2", "4 0", "5 1"]).await;
        expect(&mut read(&["orders.b"], Start::First).await, &["4 0", "5 1", "caught-up"]).await;
        expect(&mut read(&[], Start::LastPerSubject).await, &["3 2", "5 1", "caught-up"]).await;
        expect(&mut read(&["orders.b", "orders.a"], Start::At(3)).await, &["3 2", "4 0", "5 1", "caught-up"]).await;
        expect(&mut read(&[], Start::At(99)).await, &["caught-up"]).await;
        expect(&mut read(&[], Start::Since(u64::MAX / 4)).await, &["caught-up"]).await;
        let mut new = read(&["orders.>"], Start::New).await;
        expect(&mut new, &["caught-up"]).await;
        publish(&stream, "orders.c", 1).await;
        expect(&mut new, &["6 0"]).await;
        not(
            stream.read(vec!["orders.>".into(), "orders.a".into()], Start::First).await.map(drop),
            Code::Invalid("filters".into()),
        );
        // What it left when it was dropped goes by itself.
        drop((empty, new));
        let begin = std::time::Instant::now();
        while jetstream.get_stream("ORDERS").await.unwrap().cached_info().state.consumer_count > 0 {
            assert!(begin.elapsed() < SOON);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_go_on_over_a_killed_server_and_end_with_their_stream() {
    let mut server = Server::start(&newest()).await;
    let (_, stream) = stream(&server, config(&["orders.>"])).await;
    publish(&stream, "orders.a", 500).await;
    let mut reader = stream.read(Vec::new(), Start::First).await.unwrap();
    for n in 0..200 {
        assert_eq!(next(&mut reader).await, format!("{} {n}", n + 1));
    }
    server.kill().await;
    server.restart().await;
    reachable_again(&stream).await;
    publish(&stream, "orders.b", 10).await;
    let (mut last, mut notices, mut caught_up) = (200, 0, 0);
    while last < 510 || notices == 0 {
        match next(&mut reader).await.as_str() {
            "resynchronised 1" => notices += 1,
            "caught-up" => caught_up += 1,
            message => {
                let sequence: u64 = message.split(' ').next().unwrap().parse().unwrap();
                assert_eq!(sequence, last + 1, "each once, and in order");
                last = sequence;
            }
        }
    }
    assert!(notices >= 1 && caught_up <= 1, "{notices} {caught_up}");
    // Made anew under the same name it is another stream.
    let jetstream = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    jetstream.delete_stream("ORDERS").await.unwrap();
    jetstream.create_stream(stream::Config { ..config(&["orders.>"]) }).await.unwrap();
    loop {
        match next(&mut reader).await.as_str() {
            "failed NotFound" => break,
            "caught-up" => {}
            other => panic!("{other}"),
        }
    }
    assert_eq!(next(&mut reader).await, "end");
    drop(open(&GuestBuckets::new(options(server.url()))).await.unwrap());
}

/// Deliveries over killed servers: each message is worked on, and hardly one again that the server knew to be done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_delivered_though_the_server_is_killed() {
    let mut server = Server::start(&newest()).await;
    let (jetstream, stream) = stream(&server, config(&["orders.>"])).await;
    publish(&stream, "orders.a", 300).await;
    let packers = consumer(&jetstream, &stream, durable("packers")).await.unwrap();
    let working = tokio::spawn(async move {
        let (mut done, mut confirmed, mut again) = (BTreeSet::new(), BTreeSet::new(), 0);
        while done.len() < 300 {
            let Ok(fetched) = packers.fetch(10, Duration::from_secs(1)).await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            for one in fetched {
                let sequence = one.stored.sequence;
                again += u32::from(confirmed.contains(&sequence));
                done.insert(sequence);
                tokio::time::sleep(Duration::from_millis(2)).await;
                if one.settle.settle(Settlement::AckSync).await.is_ok() {
                    confirmed.insert(sequence);
                }
            }
        }
        (done, confirmed, again)
    });
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.kill().await;
        server.restart().await;
    }
    let (done, confirmed, again) = tokio::time::timeout(Duration::from_secs(60), working).await.unwrap().unwrap();
    eprintln!("{} done, {} confirmed, {again} of them again", done.len(), confirmed.len());
    assert_eq!(done, (1..=300).collect());
    // What a server does not write down at once is what it did in its last moments.
    assert!(again <= 60, "{again} came again though the server knew");
}
