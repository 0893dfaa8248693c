//! Three servers with three copies: the same semantics, and what is left of them when a server dies or is suspended.

use crate::support::{all_supported, cluster::Cluster, id, newest, soon};
use lattice::{
    id::Revision,
    store::{Bucket, Platform, Precondition, StoreError},
    testing::conformance,
};
use std::time::{Duration, Instant};

/// Info of the stream under a bucket.
async fn stream(cluster: &Cluster, lattice: &str, bucket: Bucket) -> async_nats::jetstream::stream::Info {
    let client = async_nats::connect(cluster.urls()).await.unwrap();
    let name = format!("KV_lattice-{lattice}-{}", bucket.name());
    let found = async_nats::jetstream::new(client).get_stream(name).await.unwrap();
    found.cached_info().clone()
}

async fn leader(cluster: &Cluster, lattice: &str) -> String {
    stream(cluster, lattice, Bucket::State).await.cluster.unwrap().leader.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_have_the_semantics_that_the_services_rely_on() {
    let [newest, _, least] = all_supported();
    for binary in [newest, least] {
        let cluster = Cluster::start(&binary).await;
        let lattice = cluster.open("cluster").await;
        for bucket in Bucket::ALL {
            assert_eq!(stream(&cluster, "cluster", bucket).await.config.num_replicas, 3, "copies of {bucket}");
        }
        conformance::all(&lattice).await;
        // Through another server, which may hold another copy.
        for member in &cluster.members {
            let options = crate::support::options(member.url());
            let other = lattice_nats::connect(options).await.unwrap().open(&id("cluster"), true).await.unwrap();
            conformance::two_connections(&lattice, &other).await;
        }
    }
}

/// Write until it is acknowledged: at the revision that is known, or whatever one's own write without an answer made.
async fn write(lattice: &Platform, key: &str, text: &str) -> Revision {
    let begin = Instant::now();
    loop {
        let found = lattice.store.get(Bucket::State, key).await;
        let expect = match found {
            Ok(Some(entry)) if entry.value == text.as_bytes() => return entry.revision,
            Ok(Some(entry)) => Precondition::At(entry.revision),
            Ok(None) => Precondition::Absent,
            Err(error) => {
                assert!(begin.elapsed() < Duration::from_secs(60), "{key}: {error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        match lattice.store.write(Bucket::State, key, text.to_owned().into(), expect).await {
            Ok(revision) => return revision,
            Err(error) => {
                assert!(begin.elapsed() < Duration::from_secs(60), "{key}: {error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_what_it_acknowledged_though_its_leaders_are_killed() {
    let mut cluster = Cluster::start(&newest()).await;
    let lattice = cluster.open("kill").await;
    let mut written = Vec::new();
    let mut slowest = Duration::ZERO;
    for round in 0..3 {
        for i in 0..20 {
            let key = format!("slot.round-{round}.{i}");
            let begin = Instant::now();
            written.push((key.clone(), write(&lattice, &key, &key).await));
            slowest = slowest.max(begin.elapsed());
            if i == 10 {
                let name = leader(&cluster, "kill").await;
                cluster.member(&name).kill().await;
            }
        }
        for member in &mut cluster.members {
            if !member.is_running() {
                member.restart().await;
            }
        }
    }
    println!("{} writes over three deaths of the leader; the slowest took {} ms", written.len(), slowest.as_millis());
    let snapshot = lattice.store.snapshot(Bucket::State).await.unwrap();
    for (key, revision) in written {
        let found = snapshot.entries.iter().find(|entry| entry.key == key).unwrap_or_else(|| panic!("{key} is lost"));
        assert_eq!((found.value.as_ref(), found.revision), (key.as_bytes(), revision), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_leader_acknowledges_nothing_and_loses_no_race_twice() {
    let mut cluster = Cluster::start(&newest()).await;
    let lattice = cluster.open("stop").await;
    let first = write(&lattice, "slot.a.0", "first").await;
    let name = leader(&cluster, "stop").await;
    let others = cluster.members.iter().filter(|member| member.name != name).map(|member| member.url());
    let options = crate::support::options(others.collect::<Vec<_>>().swap_remove(0));
    let other = lattice_nats::connect(options).await.unwrap().open(&id("stop"), true).await.unwrap();

    cluster.member(&name).suspend(true);
    let begin = Instant::now();
    let unanswered = other.store.write(Bucket::State, "slot.a.0", "unknown".into(), Precondition::At(first)).await;
    println!("to a suspended leader: {unanswered:?} after {} ms", begin.elapsed().as_millis());
    // Another one is elected; whether the first write landed there or not, the next ones are one after the other.
    let second = soon("writes go on without it", write(&other, "slot.a.0", "second")).await;
    println!("writes go on after {} ms", begin.elapsed().as_millis());
    cluster.member(&name).suspend(false);
    let stale = other.store.write(Bucket::State, "slot.a.0", "x".into(), Precondition::At(first)).await;
    assert!(matches!(stale, Err(StoreError::Conflict { .. } | StoreError::OutcomeUnknown { .. })), "{stale:?}");
    soon("it is back", async {
        loop {
            // Through whichever server the first connection is at, the suspended one perhaps.
            match lattice.store.get(Bucket::State, "slot.a.0").await {
                Ok(Some(entry)) if entry.revision >= second => return assert_eq!(entry.value, "second"),
                other => println!("{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}
