//! Buckets of guests on a real server: what is left of lists, and what a change of the bucket means for them.

mod accounts;
mod counters;
mod deliveries;
mod schedules;
mod streams;
mod transactions;

use crate::support::{SOON, Server, newest, options};
use async_nats::jetstream::{self, kv};
use futures_util::future::join_all;
use lattice::{
    account::Login,
    bucket::{BucketError, Buckets as _, KeyValue},
    id::WorkloadName,
};
use lattice_nats::GuestBuckets;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::net::TcpListener;

async fn bucket(server: &Server, keys: usize) -> (jetstream::Context, Arc<dyn KeyValue>) {
    let jetstream = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let config = kv::Config { bucket: "b".into(), history: 1, ..kv::Config::default() };
    let made = jetstream.create_key_value(config).await.unwrap();
    for n in 0..keys {
        made.put(format!("k{n}"), "x".into()).await.unwrap();
    }
    let workload = Login::from(WorkloadName::new("w").unwrap());
    let opened = GuestBuckets::new(options(server.url())).open(&workload, &"b".parse().unwrap()).await.unwrap();
    (jetstream, opened)
}

async fn consumers(jetstream: &jetstream::Context) -> usize {
    jetstream.get_stream("KV_b").await.unwrap().cached_info().state.consumer_count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_nobody_waits_for_leave_nothing_and_hold_up_none() {
    let server = Server::start(&newest()).await;
    let (jetstream, bucket) = bucket(&server, 1_500).await;
    // Wherever they are by then.
    for micros in (0..4_000).step_by(50) {
        let _ = tokio::time::timeout(Duration::from_micros(micros), bucket.keys(None, 1_000)).await;
    }
    let began = Instant::now();
    // Far sooner than the server forgets by itself.
    while consumers(&jetstream).await > 0 {
        assert!(began.elapsed() < Duration::from_secs(8), "{} are left", consumers(&jetstream).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let all = join_all((0..100).map(|_| bucket.keys(None, 1_000))).await;
    assert!(all.iter().all(|page| page.as_ref().is_ok_and(|page| page.keys.len() == 1_000)));
}

#[tokio::test]
async fn few_lists_are_read_at_a_time() {
    let server = Server::start(&newest()).await;
    let (jetstream, bucket) = bucket(&server, 1_000).await;
    let all = join_all((0..200).map(|_| bucket.keys(None, 1_000)));
    let seen = async {
        let mut most = 0;
        loop {
            most = consumers(&jetstream).await.max(most);
            assert!(most <= 16, "{most} consumers at a time");
        }
    };
    tokio::select! {
        all = all => assert!(all.iter().all(Result::is_ok)),
        () = seen => {}
    }
}

#[tokio::test]
async fn a_bucket_that_gets_a_history_while_it_is_open_is_listed_as_it_is() {
    let server = Server::start(&newest()).await;
    let (jetstream, bucket) = bucket(&server, 0).await;
    for key in ["a", "b", "c", "d"] {
        bucket.put(key, "x".into()).await.unwrap();
    }
    let first = bucket.keys(None, 2).await.unwrap();
    let mut config = jetstream.get_stream("KV_b").await.unwrap().cached_info().config.clone();
    config.max_messages_per_subject = 10;
    jetstream.update_stream(config).await.unwrap();
    for _ in 0..2 {
        bucket.put("c", "y".into()).await.unwrap();
    }
    bucket.delete("d").await.unwrap();
    let (mut keys, mut next) = (first.keys, first.next);
    while let Some(after) = next {
        let page = bucket.keys(Some(after), 2).await.unwrap();
        keys.extend(page.keys);
        next = page.next;
    }
    assert_eq!(keys, ["a", "b", "c"], "each once, and none that was deleted");
}

/// It takes connections and says nothing, so that each try takes its whole time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_server_answers_one_try_is_waited_for_and_not_each() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let buckets = GuestBuckets::new(options(format!("nats://{}", silent.local_addr().unwrap())));
    let names: Vec<Login> = (0..5).map(|n| WorkloadName::new(format!("w{n}")).unwrap().into()).collect();
    let bucket = "b".parse().unwrap();
    let all = join_all((0..100).map(|n| buckets.open(&names[n % names.len()], &bucket)));
    let all = tokio::time::timeout(SOON, all).await.expect("one try for all");
    for opened in all {
        let error = opened.err().unwrap();
        assert!(matches!(error, BucketError::Unreachable(_)) && !error.to_string().contains("127.0.0.1"), "{error}");
    }
}
