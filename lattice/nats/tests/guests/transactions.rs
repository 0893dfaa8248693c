//! Several keys of a bucket changed together, on real servers of each supported version, and where one is killed in the middle.

use super::streams::not;
use crate::support::{SOON, Server, all_supported, newest, options};
use async_nats::jetstream::{self, stream};
use lattice::{
    id::{Revision, WorkloadName},
    nats::{Bucket, Code, Consistency, Failure, Links as _, Outcome, Write, Writing},
};
use lattice_nats::GuestBuckets;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// A bucket whose stream takes batches or not, as a guest has it.
async fn bucket(server: &Server, atomic: bool) -> (jetstream::Context, Arc<dyn Bucket>) {
    let jetstream = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    jetstream.create_stream(config(atomic)).await.unwrap();
    let guests = GuestBuckets::new(options(server.url()));
    let link = guests.link(&WorkloadName::new("w").unwrap().into()).await.unwrap();
    (jetstream, link.bucket(&"b".parse().unwrap()).await.unwrap())
}

fn config(atomic: bool) -> stream::Config {
    stream::Config {
        name: "KV_b".into(),
        subjects: vec!["$KV.b.>".into()],
        max_messages_per_subject: 5,
        allow_rollup: true,
        allow_atomic_publish: atomic,
        ..Default::default()
    }
}

fn put(key: &str, value: impl ToString, expect: u64) -> (String, Write) {
    let what = Writing::Put(value.to_string().into());
    (key.to_owned(), Write { what, expect: Some(Revision(expect)), ttl: None })
}

async fn value(bucket: &Arc<dyn Bucket>, key: &str) -> Option<String> {
    let entry = bucket.get(key, Consistency::Leader).await.unwrap()?;
    Some(String::from_utf8(entry.value.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_keys_are_changed_or_none() {
    let [newest, recommended, least] = all_supported();
    // A server that knows no batches would change one key after the other.
    let server = Server::start(&least).await;
    let (_, old) = bucket(&server, true).await;
    not(old.transact(vec![put("a", 1, 0), put("b", 1, 0)]).await, Code::Unsupported);
    assert_eq!(old.get("a", Consistency::Leader).await.unwrap(), None);

    for binary in [newest, recommended] {
        eprintln!("{}", binary.display());
        let server = Server::start(&binary).await;
        let (jetstream, bucket) = bucket(&server, false).await;
        not(bucket.transact(vec![put("a", 1, 0)]).await, Code::Unsupported);
        assert!(!bucket.info().await.unwrap().atomic);
        // What was allowed after it was opened.
        jetstream.update_stream(config(true)).await.unwrap();
        assert!(bucket.info().await.unwrap().atomic);
        assert_eq!(bucket.transact(vec![put("a", 1, 0), put("b", 1, 0)]).await, Ok(Revision(2)));
        for bad in [vec![put("a", 2, 0), put("b", 2, 2)], vec![put("a", 2, 1), put("b", 2, 1)], vec![put("c", 1, 7)]] {
            not(bucket.transact(bad).await, Code::WrongRevision);
        }
        assert_eq!((value(&bucket, "a").await.unwrap(), value(&bucket, "c").await), ("1".to_owned(), None));
        let delete = ("a".to_owned(), Write { what: Writing::Delete, expect: Some(Revision(1)), ttl: None });
        assert_eq!(bucket.transact(vec![delete, put("b", 2, 2), put("c", 1, 0)]).await, Ok(Revision(5)));
        assert_eq!(value(&bucket, "b").await.as_deref(), Some("2"));
        let many = |count: usize| (0..count).map(|n| put(&format!("many.{n}"), n, 0)).collect::<Vec<_>>();
        assert_eq!(bucket.transact(many(1_000)).await, Ok(Revision(1_005)));
        // A key is what NATS has as one, whoever asks.
        not(bucket.transact(vec![put("a.>", 1, 0)]).await, Code::Invalid("key".into()));
        jetstream.delete_stream("KV_b").await.unwrap();
        let gone = bucket.transact(vec![put("x", 1, 0)]).await.unwrap_err();
        assert_eq!(gone.outcome, Outcome::DefinitelyNot, "{gone:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_of_a_transaction_holds_where_its_server_is_killed() {
    let mut server = Server::start(&newest()).await;
    let (_, bucket) = bucket(&server, true).await;
    let changing = tokio::spawn({
        let bucket = bucket.clone();
        async move {
            let mut outcomes = Vec::new();
            for n in 0..200 {
                let writes = (0..20).map(|key| put(&format!("t{n}.{key}"), n, 0)).collect();
                outcomes.push(bucket.transact(writes).await);
            }
            outcomes
        }
    });
    tokio::time::sleep(Duration::from_millis(80)).await;
    server.kill().await;
    server.restart().await;
    let outcomes = changing.await.unwrap();
    let begin = Instant::now();
    while bucket.info().await.is_err() {
        assert!(begin.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (n, outcome) in outcomes.into_iter().enumerate() {
        let mut there = 0;
        for key in 0..20 {
            there += u32::from(value(&bucket, &format!("t{n}.{key}")).await.is_some());
        }
        match outcome {
            Ok(_) => assert_eq!(there, 20, "{n}"),
            Err(Failure { outcome: Outcome::DefinitelyNot, .. }) => assert_eq!(there, 0, "{n}"),
            Err(_) => assert!(there == 0 || there == 20, "{n}: {there}"),
        }
    }
}
