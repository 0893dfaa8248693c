//! The host of a node with real guests, over an object store that counts. Build the guests first: `cargo xtask guests`.
//! They are taken from `target/guests`, or from the directory that the environment variable `LATTICE_GUESTS` names.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests as well")]

use bytes::Bytes;
use lattice::{
    Fut,
    host::{Assignment, Host as _},
    http::{Instances as _, empty},
    id::{Digest, Generation, LatticeId, NodeId, SlotId, WorkloadName},
    recipe::Recipe,
    record::Phase,
    spec::{ComponentSpec, Source, WorkloadSpec},
    store::{Artifacts, Clock, Platform, Rng, StoreError},
    testing::MemoryLattice,
};
use lattice_host_node::{HostNode, HostOptions};
use prometheus_client::registry::Registry;
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio_util::sync::{CancellationToken, DropGuard};

const REPLICAS: u32 = 6;

struct RealClock(Instant);
impl Clock for RealClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
    fn unix_ms(&self) -> u64 {
        0
    }
    fn sleep(&self, duration: Duration) -> Fut<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

struct Zero;
impl Rng for Zero {
    fn u64(&self) -> u64 {
        0
    }
}

/// Has one object, or none.
#[derive(Default)]
struct OneObject {
    bytes: Option<Bytes>,
    gets: AtomicUsize,
}

impl Artifacts for OneObject {
    fn get(&self, _: Digest) -> Fut<'_, Result<Option<Bytes>, StoreError>> {
        self.gets.fetch_add(1, SeqCst);
        Box::pin(async { Ok(self.bytes.clone()) })
    }
    fn put(&self, _: Bytes) -> Fut<'_, Result<Digest, StoreError>> {
        Box::pin(async { Err(StoreError::Refused("nothing is put here".into())) })
    }
    fn size(&self, _: Digest) -> Fut<'_, Result<Option<u64>, StoreError>> {
        Box::pin(async { Ok(self.bytes.as_ref().map(|bytes| bytes.len() as u64)) })
    }
}

fn guest(name: &str) -> Bytes {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests");
    let dir = std::env::var_os("LATTICE_GUESTS").map_or_else(default, PathBuf::from);
    let path = dir.join(format!("{name}.wasm"));
    match std::fs::read(&path) {
        Ok(bytes) => bytes.into(),
        Err(error) => panic!("{}: {error}; run `cargo xtask guests`", path.display()),
    }
}

fn workload() -> WorkloadName {
    WorkloadName::new("web").unwrap()
}

/// A host that runs until it is dropped.
struct Running {
    host: Arc<HostNode>,
    objects: Arc<OneObject>,
    metrics: Registry,
    _stop: DropGuard,
}

impl Running {
    fn new(cache: &Path, bytes: Option<Bytes>, change: impl FnOnce(&mut HostOptions)) -> Self {
        let objects = Arc::new(OneObject { bytes, ..OneObject::default() });
        let platform = MemoryLattice::new().platform(Arc::new(RealClock(Instant::now())), Arc::new(Zero));
        let platform = Platform { artifacts: objects.clone(), ..platform };
        let (lattice, node) = (LatticeId::new("test").unwrap(), NodeId::new("one").unwrap());
        let mut options = HostOptions::new(lattice, node, cache.join("code"));
        change(&mut options);
        let mut metrics = Registry::default();
        let host = HostNode::new(options, platform, &mut metrics).unwrap();
        let stop = CancellationToken::new();
        let run = (host.clone(), stop.clone());
        tokio::spawn(async move { run.0.run(run.1).await });
        Self { host, objects, metrics, _stop: stop.drop_guard() }
    }

    /// Assign replicas of the component with this digest.
    fn assign(&self, digest: Digest, replicas: u32) {
        let main = ComponentSpec::new("main".parse().unwrap(), Source::Stored(digest));
        let spec = WorkloadSpec { replicas, ..WorkloadSpec::new(workload(), main) };
        let assignment = Assignment {
            spec: Arc::new(spec),
            recipe: Arc::new(Recipe { artifact: Some(digest), ..Recipe::default() }),
            uid: uuid::Uuid::from_u128(1),
            generation: Generation::FIRST,
            stop_first: false,
            waits: false,
            gpu: None,
            configs: Arc::default(),
        };
        self.host.apply((0..replicas).map(|index| (SlotId::new(workload(), index), assignment.clone())).collect());
    }

    /// Waits until so many replicas are ready and all others have failed; answers why those have.
    async fn settled(&self, ready: usize, replicas: u32) -> Vec<String> {
        let settle = async {
            loop {
                let observed = self.host.observed();
                let failed = observed.values().filter(|slot| slot.phase == Phase::Failed);
                let failed: Vec<String> = failed.filter_map(|slot| slot.message.clone()).collect();
                let now = observed.values().filter(|slot| slot.phase == Phase::Ready).count();
                if now == ready && ready + failed.len() == replicas as usize {
                    return failed;
                }
                self.host.changed().await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(60), settle).await {
            Ok(failed) => failed,
            Err(_) => panic!("not settled after a minute: {:?}", self.host.observed()),
        }
    }

    fn memory_bytes_used(&self) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metrics).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("lattice_instances_memory_bytes "));
        line.unwrap().parse().unwrap()
    }
}

#[tokio::test]
async fn a_component_is_fetched_once_for_its_replicas_and_not_at_all_where_its_code_is_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = guest("hello-http02");
    let digest = Digest::of(&bytes);

    let first = Running::new(dir.path(), Some(bytes), |_| ());
    first.assign(digest, REPLICAS);
    first.settled(REPLICAS as usize, REPLICAS).await;
    let gets = first.objects.gets.load(SeqCst);
    assert!((1..=2).contains(&gets), "{gets} fetches: as many as may be under way before the first is compiled");
    assert!(first.memory_bytes_used() > 0);
    drop(first);

    let restarted = Running::new(dir.path(), None, |_| ());
    restarted.assign(digest, REPLICAS);
    restarted.settled(REPLICAS as usize, REPLICAS).await;
    assert_eq!(restarted.objects.gets.load(SeqCst), 0);
    let request = http::Request::builder().uri("/").header("host", "web.test").body(empty()).unwrap();
    assert_eq!(restarted.host.call(&workload(), request).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_component_that_is_nowhere_keeps_no_permit_to_fetch() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::new(dir.path(), None, |_| ());
    running.assign(Digest::of(b"lost"), REPLICAS);
    let failed = running.settled(0, REPLICAS).await;
    assert!(failed.iter().all(|why| why.contains("is not in the object store")), "{failed:?}");
}

#[tokio::test]
async fn replicas_share_the_memory_of_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = guest("hello-http02");
    let digest = Digest::of(&bytes);
    let alone = Running::new(dir.path(), Some(bytes.clone()), |_| ());
    alone.assign(digest, 1);
    alone.settled(1, 1).await;
    let each = alone.memory_bytes_used();

    // Idle instances go for those that are to start: all are ready, and no more memory is used than there is.
    let crowded =
        Running::new(dir.path(), Some(bytes.clone()), |options| options.memory_bytes_total = 2 * each + each / 2);
    crowded.assign(digest, 3);
    crowded.settled(3, 3).await;
    assert_eq!(crowded.memory_bytes_used(), 2 * each);

    let tiny = Running::new(dir.path(), Some(bytes), |options| options.memory_bytes_total = each / 2);
    tiny.assign(digest, 1);
    let failed = tiny.settled(0, 1).await;
    assert!(failed.iter().all(|why| why.contains("no room for one more instance")), "{failed:?}");
    assert_eq!(tiny.memory_bytes_used(), 0);
}
