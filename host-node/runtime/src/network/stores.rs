//! Which buckets the guests of one replica open, by their grants: a name that guests open them by, and what they may do.
//! How much they may have under way there.

use super::Network;
use crate::lock;
use lattice::{
    bucket::{BucketError, KeyValue},
    spec::{Access, KeyvalueGrant, StoreName},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

/// Operations of one replica's guests under way at a time. One more waits.
const OPERATIONS_MAX: usize = 256;
/// Values of one replica's operations on their way, and those of a node's, by the most that they can come to. More wait.
pub(crate) const VALUES_BYTES_MAX: usize = 64 << 20;
const NODE_VALUES_BYTES_MAX: usize = 512 << 20;
/// What room is counted in.
const UNIT_BYTES: usize = 1 << 10;
/// A store that could not be opened is so for everybody who asks within this time.
const FAILED_FOR: Duration = Duration::from_secs(1);

/// What was opened, kept for the next instance that asks.
pub(crate) struct Stores {
    opened: BTreeMap<StoreName, Opening>,
    operations: Arc<Semaphore>,
    room: Room,
}

#[derive(Default)]
struct Opening {
    opened: OnceCell<Arc<dyn KeyValue>>,
    failed: Mutex<Option<(Instant, BucketError)>>,
}

impl Opening {
    /// By one caller at a time. Those who waited for a try that failed do not try themselves: they would one after the other.
    async fn open<F>(&self, open: impl FnOnce() -> F) -> Result<Arc<dyn KeyValue>, BucketError>
    where
        F: Future<Output = Result<Arc<dyn KeyValue>, BucketError>>,
    {
        let once = async || {
            if let Some((at, error)) = &*lock(&self.failed)
                && at.elapsed() < FAILED_FOR
            {
                return Err(error.clone());
            }
            let opened = open().await;
            *lock(&self.failed) = opened.as_ref().err().map(|error| (Instant::now(), error.clone()));
            opened
        };
        self.opened.get_or_try_init(once).await.cloned()
    }
}

impl Stores {
    pub(super) fn new(grants: &BTreeMap<StoreName, KeyvalueGrant>, node: &NodeRoom) -> Self {
        let opened = grants.keys().map(|name| (name.clone(), Opening::default())).collect();
        Self { opened, operations: Arc::new(Semaphore::new(OPERATIONS_MAX)), room: node.room() }
    }
}

fn units(bytes: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(bytes / UNIT_BYTES))
}

/// Of all replicas of a node.
pub(super) struct NodeRoom(Arc<Semaphore>);

impl NodeRoom {
    pub(super) fn new() -> Self {
        Self(units(NODE_VALUES_BYTES_MAX))
    }

    /// For one replica.
    pub(super) fn room(&self) -> Room {
        Room { own: units(VALUES_BYTES_MAX), node: self.0.clone() }
    }
}

/// Where there is room for values on their way.
#[derive(Clone)]
pub(crate) struct Room {
    own: Arc<Semaphore>,
    node: Arc<Semaphore>,
}

impl Room {
    /// Room for so many bytes until it is dropped, or for all that there can be where that is less. To be asked for once by
    /// each call of a guest, before its turn to operate: who has some never waits for more. `None`: the replica ends.
    pub(crate) async fn take(&self, bytes: usize) -> Option<[OwnedSemaphorePermit; 2]> {
        let units = u32::try_from(bytes.min(VALUES_BYTES_MAX).div_ceil(UNIT_BYTES)).ok()?;
        let own = self.own.clone().acquire_many_owned(units).await.ok()?;
        let node = self.node.clone().acquire_many_owned(units).await.ok()?;
        Some([own, node])
    }
}

/// A bucket as a guest has it.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) bucket: Arc<dyn KeyValue>,
    pub(crate) access: Access,
    pub(crate) operations: Arc<Semaphore>,
    pub(crate) room: Room,
}

impl Network {
    /// `None`: nothing is granted under this name.
    pub(crate) async fn open_store(&self, name: &str) -> Option<Result<Store, BucketError>> {
        let granted = name.parse::<StoreName>().ok().and_then(|name| {
            let grant = self.grants.keyvalue.get(&name)?;
            Some((grant, self.stores.opened.get(&name)?))
        });
        let Some((grant, opening)) = granted else {
            self.denials.note(|| {
                let name = lattice::limits::one_line(name, 64);
                format!(
                    "the store {name:?} was denied; to allow it add to the spec: grants: {{keyvalue: {{{name}: {{bucket: \
                     BUCKET}}}}}}"
                )
            });
            return None;
        };
        let opened = opening.open(|| self.node.buckets.open(&self.login, &grant.bucket)).await;
        Some(opened.map(|bucket| Store {
            bucket,
            access: grant.access,
            operations: self.stores.operations.clone(),
            room: self.stores.room.clone(),
        }))
    }

    /// A change of what is granted to be read only.
    pub(crate) fn note_read_only(&self, name: &str) {
        self.denials.note(|| {
            format!("a change of the store {name:?} was denied: grants.keyvalue.{name}.access of the spec is read-only")
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt as _, future::join_all};
    use lattice::testing::MemoryBucket;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    #[tokio::test]
    async fn a_store_that_cannot_be_opened_is_tried_by_one_of_many_and_again_soon() {
        let (opening, tries) = (Opening::default(), AtomicU32::new(0));
        let away = || async {
            tries.fetch_add(1, Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
            Err(BucketError::Unreachable("away".into()))
        };
        let all = join_all((0..50).map(|_| opening.open(away))).await;
        assert!(all.iter().all(|opened| opened.as_ref().is_err_and(|error| error.to_string().contains("away"))));
        assert_eq!(tries.load(Relaxed), 1, "the others did not try after it");
        let began = Instant::now();
        while tries.load(Relaxed) == 1 {
            assert!(opening.open(away).await.is_err() && began.elapsed() < 10 * FAILED_FOR);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let there = || async { Ok(Arc::new(MemoryBucket::default()) as Arc<dyn KeyValue>) };
        while opening.open(there).await.is_err() {
            assert!(began.elapsed() < 10 * FAILED_FOR);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(opening.open(away).await.is_ok(), "once opened it stays so");
    }

    #[tokio::test]
    async fn values_under_way_are_bounded_for_a_replica_and_for_a_node() {
        let node = NodeRoom::new();
        let replica = || Stores::new(&BTreeMap::new(), &node).room;
        let mut held = Vec::new();
        let rooms: Vec<Room> = (0..9).map(|_| replica()).collect();
        let take = |room: &Room, bytes| room.take(bytes).now_or_never().flatten();
        for room in rooms.iter().take(8) {
            let half = take(room, VALUES_BYTES_MAX / 2).unwrap();
            let rest = take(room, VALUES_BYTES_MAX / 2).unwrap();
            assert!(take(room, 1).is_none(), "that is all of the replica's");
            held.push([half, rest]);
        }
        let last = rooms.last().unwrap();
        assert!(take(last, 1).is_none(), "that is all of the node's");
        held.pop();
        assert!(take(last, usize::MAX).is_some(), "more than there is comes when there is all");
        drop(held);
        assert!(take(last, VALUES_BYTES_MAX).is_some(), "everything was given back");
    }
}
