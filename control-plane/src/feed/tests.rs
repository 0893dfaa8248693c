//! Following a store that answers late, or not at all.

use super::*;
use crate::{admission::testing, session};
use bytes::Bytes;
use lattice::{
    host::{Assignment, Observed},
    id::{NodeId, Revision},
    record::{NodeOrder, Record as _},
    store::{Change, Clock, Entry, Precondition},
    testing::MemoryLattice,
};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

/// Longer than any of this takes.
const PATIENCE: Duration = Duration::from_secs(20);

struct Idle;

impl Host for Idle {
    fn apply(&self, _: BTreeMap<SlotId, Assignment>) {}
    fn observed(&self) -> BTreeMap<SlotId, Observed> {
        BTreeMap::new()
    }
    fn changed(&self) -> Fut<'_, ()> {
        Box::pin(std::future::pending())
    }
}

async fn feed(platform: &Platform, data_dir: Option<&Path>) -> Feed {
    let options = Arc::new(NodeOptions { data_dir: data_dir.map(Path::to_owned), ..testing::options() });
    let events = Events::new(&options, platform);
    let memory = Memory::open(data_dir).await.unwrap();
    let (member, _keeper) = session::new(options.clone(), platform.clone(), events.clone(), Arc::new(Idle));
    Feed::new(&options, platform, &events, memory, Arc::new(Idle), member, watch::Sender::new(Arc::default()))
}

/// A node begins, and looks once.
pub(super) async fn begin(lattice: &MemoryLattice, data_dir: &Path) -> LatticeView {
    let platform = testing::platform(lattice);
    let mut feed = feed(&platform, Some(data_dir)).await;
    let mut following = Following::new(platform.store.feed().await.unwrap(), LatticeView::default());
    feed.load(&mut following).await.unwrap();
    following.view
}

/// Nothing is ever due.
struct Still;

impl Clock for Still {
    fn now(&self) -> Duration {
        Duration::ZERO
    }
    fn unix_ms(&self) -> u64 {
        0
    }
    fn sleep(&self, _: Duration) -> Fut<'static, ()> {
        Box::pin(std::future::pending())
    }
}

/// A store that has no feed and no snapshot of specs for who is not heard, and whose snapshots of specs are late while
/// `is_slow`.
struct HalfCut {
    near: Arc<dyn Store>,
    is_heard: AtomicBool,
    is_slow: AtomicBool,
    asked: Notify,
    comes: Notify,
}

impl HalfCut {
    fn ask(&self) -> Result<(), StoreError> {
        if self.is_heard.load(Relaxed) { Ok(()) } else { Err(StoreError::Unreachable("nothing is heard".into())) }
    }
}

impl Store for HalfCut {
    fn get(&self, bucket: Bucket, key: &str) -> Fut<'_, Result<Option<Entry>, StoreError>> {
        self.near.get(bucket, key)
    }
    fn write(
        &self,
        to: Bucket,
        key: &str,
        value: Bytes,
        expect: Precondition,
    ) -> Fut<'_, Result<Revision, StoreError>> {
        self.near.write(to, key, value, expect)
    }
    fn delete(&self, bucket: Bucket, key: &str, expect: Revision) -> Fut<'_, Result<Revision, StoreError>> {
        self.near.delete(bucket, key, expect)
    }
    fn history(&self, bucket: Bucket, key: &str) -> Fut<'_, Result<Vec<Change>, StoreError>> {
        self.near.history(bucket, key)
    }
    fn snapshot(&self, bucket: Bucket) -> Fut<'_, Result<Snapshot, StoreError>> {
        Box::pin(async move {
            let snapshot = self.near.snapshot(bucket).await;
            if bucket == Bucket::Specs {
                self.asked.notify_one();
                self.ask()?;
                if self.is_slow.load(Relaxed) {
                    self.comes.notified().await;
                }
            }
            snapshot
        })
    }
    fn feed(&self) -> Fut<'_, Result<Items<FeedItem>, StoreError>> {
        Box::pin(async move {
            self.ask()?;
            self.near.feed().await
        })
    }
}

/// A node that sees the order for `n1`, its store, and what has it take a snapshot.
async fn follower() -> (Arc<HalfCut>, watch::Receiver<Arc<LatticeView>>, Arc<Notify>, tokio::task::JoinHandle<()>) {
    let lattice = MemoryLattice::new();
    let near: Arc<dyn Store> = Arc::new(lattice.store().clone());
    let (is_heard, is_slow) = (AtomicBool::new(true), AtomicBool::new(false));
    let store = Arc::new(HalfCut { near, is_heard, is_slow, asked: Notify::new(), comes: Notify::new() });
    let platform = Platform { store: store.clone(), clock: Arc::new(Still), ..testing::platform(&lattice) };
    let feed = feed(&platform, None).await;
    let (mut view, wanted) = (feed.view.subscribe(), feed.resync_requests());
    order(&store, "n1").await;
    let task = tokio::spawn(feed.run());
    sees(&mut view, "n1", true).await;
    (store, view, wanted, task)
}

async fn order(store: &HalfCut, node: &str) {
    let order = NodeOrder { node: node.parse().unwrap(), cordoned: true, drain: None };
    store.write(Bucket::Specs, &format!("node.{node}"), order.encode(), Precondition::Absent).await.unwrap();
}

async fn withdraw(store: &HalfCut, node: &str) {
    let key = format!("node.{node}");
    let revision = store.get(Bucket::Specs, &key).await.unwrap().unwrap().revision;
    store.delete(Bucket::Specs, &key, revision).await.unwrap();
}

async fn sees(view: &mut watch::Receiver<Arc<LatticeView>>, node: &str, is_there: bool) {
    let node = NodeId::new(node).unwrap();
    let seen = view.wait_for(|view| view.is_loaded() && view.orders.contains_key(&node) == is_there);
    tokio::time::timeout(PATIENCE, seen).await.expect("the change is not seen").unwrap();
}

/// Waits until a snapshot is asked for that the caller has just wanted.
async fn wants(store: &HalfCut, wanted: &Notify) {
    let asked = async {
        store.asked.notified().await; // what was asked before
        wanted.notify_one();
        store.asked.notified().await;
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("no snapshot is asked for");
}

#[tokio::test]
async fn a_node_that_is_not_heard_goes_on_hearing() {
    let (store, mut view, wanted, task) = follower().await;
    store.is_heard.store(false, Relaxed);
    wants(&store, &wanted).await;
    withdraw(&store, "n1").await;
    sees(&mut view, "n1", false).await;
    order(&store, "n2").await;
    sees(&mut view, "n2", true).await;
    task.abort();
}

#[tokio::test]
async fn changes_are_seen_while_a_snapshot_is_under_way_and_stay_seen_when_it_is_there() {
    let (store, mut view, wanted, task) = follower().await;
    store.is_slow.store(true, Relaxed);
    wants(&store, &wanted).await;
    withdraw(&store, "n1").await;
    sees(&mut view, "n1", false).await;
    order(&store, "n2").await;
    sees(&mut view, "n2", true).await;
    // It is of before.
    store.is_slow.store(false, Relaxed);
    store.comes.notify_one();
    let shown = tokio::time::timeout(PATIENCE, view.changed());
    shown.await.expect("the snapshot is not taken in").unwrap();
    sees(&mut view, "n2", true).await;
    assert!(!view.borrow().orders.contains_key(&NodeId::new("n1").unwrap()), "what was seen is forgotten again");
    order(&store, "n3").await;
    sees(&mut view, "n3", true).await;
    task.abort();
}
