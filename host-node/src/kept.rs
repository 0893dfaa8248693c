//! The object store, with copies on this node's disk of what was fetched from it. A store that was lost is filled again
//! from these copies: without them only nodes that have the compiled code could run a workload, and no new one.
//!
//! A copy is named by its digest and checked against it whenever it is read, so nothing that happens to the files can
//! change what runs. Failing to keep one costs the copy, never the replica that it was fetched for.

use bytes::Bytes;
use lattice::{
    Fut,
    id::Digest,
    limits::COMPONENT_BYTES_MAX,
    store::{Artifacts, Platform, StoreError},
};
use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{sync::watch, task::spawn_blocking};

/// Ends the names of files that are whole.
const SUFFIX: &str = "wasm";
/// Nodes that hold the same copies take turns by chance: the first one's work spares the others theirs.
const SPREAD: Duration = Duration::from_secs(3);
/// A store that comes back needs a while until it takes everything.
const ATTEMPTS: u32 = 60;

/// Where the copies are. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Copies {
    dir: Arc<Path>,
    bytes_max: u64,
}

impl Copies {
    pub(crate) fn new(dir: PathBuf, bytes_max: u64) -> Self {
        Self { dir: dir.into(), bytes_max }
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(format!("{}.{SUFFIX}", digest.to_hex()))
    }

    /// Whether there is a copy, whole or not.
    async fn has(&self, digest: Digest) -> bool {
        let path = self.path(digest);
        spawn_blocking(move || path.exists()).await.unwrap_or(false)
    }

    /// The copy, if it is there and whole.
    async fn read(&self, digest: Digest) -> Option<Bytes> {
        let path = self.path(digest);
        let read = move || match read_checked(&path, digest) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a copy of a component is thrown away");
                let _ = fs::remove_file(&path);
                None
            }
        };
        spawn_blocking(read).await.ok().flatten()
    }

    async fn keep(&self, digest: Digest, bytes: Bytes) {
        let copies = self.clone();
        let kept = spawn_blocking(move || {
            let path = copies.path(digest);
            write_whole(&copies.dir, &path, &bytes)?;
            lattice_runtime::prune(&copies.dir, SUFFIX, copies.bytes_max, &path)
        });
        if let Ok(Err(error)) = kept.await {
            tracing::warn!(dir = %self.dir.display(), %digest, %error, "a component is not kept on disk");
        }
    }
}

fn read_checked(path: &Path, digest: Digest) -> io::Result<Bytes> {
    let file = File::open(path)?;
    let mut bytes = Vec::new();
    file.take(COMPONENT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if Digest::of(&bytes) != digest {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it holds other bytes than its name says"));
    }
    // What is used is kept: the oldest files go first.
    let _ = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
    Ok(bytes.into())
}

/// Whole or not at all, under its name. Components are nobody's business but this node's.
fn write_whole(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part);
    let written = written.and_then(|mut file| file.write_all(bytes)).and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}

/// The object store as the driver sees it.
pub(crate) struct KeptArtifacts {
    pub(crate) copies: Copies,
    pub(crate) store: Arc<dyn Artifacts>,
}

impl Artifacts for KeptArtifacts {
    fn get(&self, digest: Digest) -> Fut<'_, Result<Option<Bytes>, StoreError>> {
        Box::pin(async move {
            if let Some(bytes) = self.copies.read(digest).await {
                return Ok(Some(bytes));
            }
            let found = self.store.get(digest).await?;
            if let Some(bytes) = &found {
                self.copies.keep(digest, bytes.clone()).await;
            }
            Ok(found)
        })
    }
    fn put(&self, bytes: Bytes) -> Fut<'_, Result<Digest, StoreError>> {
        self.store.put(bytes)
    }
    fn size(&self, digest: Digest) -> Fut<'_, Result<Option<u64>, StoreError>> {
        self.store.size(digest)
    }
}

/// Say what the object store should have. Nothing new while [`put_back`] works on the same.
pub(crate) fn need(needed: &watch::Sender<BTreeSet<Digest>>, digests: BTreeSet<Digest>) {
    needed.send_if_modified(|before| {
        let is_new = *before != digests;
        *before = digests;
        is_new
    });
}

/// Put back what the object store lacks of what is needed, and then empty the set, so that the same may be needed again.
/// Never returns.
pub(crate) async fn put_back(copies: Copies, platform: Platform, needed: watch::Sender<BTreeSet<Digest>>) {
    let Platform { artifacts, clock, rng, .. } = platform;
    let mut changes = needed.subscribe();
    changes.mark_changed(); // it may have been said before this began
    loop {
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
        let all = changes.borrow_and_update().clone();
        let mut open = all.clone();
        for _ in 0..ATTEMPTS {
            clock.sleep(rng.up_to(SPREAD)).await;
            for digest in open.clone() {
                if is_settled(&copies, &*artifacts, digest).await {
                    open.remove(&digest);
                }
            }
            if open.is_empty() || changes.has_changed().unwrap_or(true) {
                break;
            }
        }
        needed.send_if_modified(|needed| {
            if *needed == all {
                needed.clear();
            }
            false
        });
    }
}

/// False where the store could not be asked, or did not take it: try again.
async fn is_settled(copies: &Copies, store: &dyn Artifacts, digest: Digest) -> bool {
    if !copies.has(digest).await {
        return true;
    }
    match store.size(digest).await {
        Ok(Some(_)) => return true,
        Ok(None) => {}
        Err(_) => return false,
    }
    let Some(bytes) = copies.read(digest).await else { return true };
    match store.put(bytes).await {
        Ok(_) => {
            tracing::info!(%digest, "put a component back that the object store had lost");
            true
        }
        Err(error) => {
            tracing::debug!(%digest, %error, "a component was not put back; trying again");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::{
        store::{Clock, Rng},
        testing::MemoryLattice,
    };
    use std::{
        collections::BTreeMap,
        sync::{Mutex, PoisonError},
    };
    use tokio::{sync::Notify, time::timeout};

    struct Still;
    impl Clock for Still {
        fn now(&self) -> Duration {
            Duration::ZERO
        }
        fn unix_ms(&self) -> u64 {
            0
        }
        fn sleep(&self, _: Duration) -> Fut<'static, ()> {
            Box::pin(tokio::task::yield_now())
        }
    }
    impl Rng for Still {
        fn u64(&self) -> u64 {
            0
        }
    }

    /// An object store that can be emptied.
    #[derive(Default)]
    struct Losing {
        objects: Mutex<BTreeMap<Digest, Bytes>>,
        put: Notify,
    }

    impl Losing {
        fn objects(&self) -> std::sync::MutexGuard<'_, BTreeMap<Digest, Bytes>> {
            self.objects.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl Artifacts for Losing {
        fn get(&self, digest: Digest) -> Fut<'_, Result<Option<Bytes>, StoreError>> {
            Box::pin(async move { Ok(self.objects().get(&digest).cloned()) })
        }
        fn put(&self, bytes: Bytes) -> Fut<'_, Result<Digest, StoreError>> {
            Box::pin(async move {
                let digest = Digest::of(&bytes);
                self.objects().insert(digest, bytes);
                self.put.notify_one();
                Ok(digest)
            })
        }
        fn size(&self, digest: Digest) -> Fut<'_, Result<Option<u64>, StoreError>> {
            Box::pin(async move { Ok(self.objects().get(&digest).map(|bytes| bytes.len() as u64)) })
        }
    }

    #[tokio::test]
    async fn what_the_store_loses_again_is_put_back_again() {
        let dir = tempfile::tempdir().unwrap();
        let copies = Copies::new(dir.path().to_owned(), 10_000);
        let (digest, component) = bytes(1);
        copies.keep(digest, component).await;
        let store = Arc::new(Losing::default());
        let platform = MemoryLattice::new().platform(Arc::new(Still), Arc::new(Still));
        let platform = Platform { artifacts: store.clone(), ..platform };
        let needed = watch::Sender::default();
        let working = put_back(copies, platform, needed.clone());
        let test = async {
            for _ in 0..3 {
                store.objects().clear();
                need(&needed, BTreeSet::from([digest, bytes(2).0]));
                store.put.notified().await;
                while !needed.borrow().is_empty() {
                    tokio::task::yield_now().await;
                }
                assert_eq!(store.objects().len(), 1, "there is no copy of the other one");
            }
        };
        tokio::select! {
            () = working => {}
            done = timeout(Duration::from_secs(20), test) => done.unwrap(),
        }
    }

    fn bytes(fill: u8) -> (Digest, Bytes) {
        let bytes = Bytes::from(vec![fill; 1000]);
        (Digest::of(&bytes), bytes)
    }

    #[tokio::test]
    async fn a_copy_that_was_changed_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let copies = Copies::new(dir.path().join("components"), 10_000);
        let (digest, component) = bytes(1);
        assert_eq!(copies.read(digest).await, None);
        copies.keep(digest, component.clone()).await;
        assert_eq!(copies.read(digest).await, Some(component));
        fs::write(copies.path(digest), b"something else").unwrap();
        assert_eq!(copies.read(digest).await, None);
        assert!(!copies.path(digest).exists(), "and it is gone");
    }

    #[tokio::test]
    async fn the_copies_unused_for_longest_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let copies = Copies::new(dir.path().to_owned(), 2500);
        let kept: Vec<(Digest, Bytes)> = (1..=3).map(bytes).collect();
        for (age, (digest, component)) in kept.iter().enumerate().take(2) {
            copies.keep(*digest, component.clone()).await;
            let then = SystemTime::now() - Duration::from_secs(100 - age as u64);
            File::open(copies.path(*digest)).unwrap().set_modified(then).unwrap();
        }
        copies.read(kept[0].0).await.unwrap();
        copies.keep(kept[2].0, kept[2].1.clone()).await;
        let is_there: Vec<bool> = kept.iter().map(|(digest, _)| copies.path(*digest).exists()).collect();
        assert_eq!(is_there, [true, false, true]);
    }
}
