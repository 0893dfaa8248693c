//! Which object stores the guests of one replica use, by their grants, and how much of objects they may have in the node's
//! memory. What is written and what is read have room apart: who reads one object to write another waits for nobody who
//! does the same the other way round.

use super::{
    Network,
    stores::{NodeRoom, Room},
};
use bytes::Bytes;
use lattice::{
    limits::one_line,
    nats::{Code, Failure},
    objects::{CHUNK_BYTES, CHUNKS_ON_THEIR_WAY_MAX, Objects, TryFeed},
    spec::{Access, ObjectsGrant, StoreName},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, SemaphorePermit, mpsc};

/// Operations of one replica's guests under way at a time; those that move an object's bytes not counted. One more waits.
const OPERATIONS_MAX: usize = 256;
/// Chunks of an object that wait until the server takes them.
pub(crate) const CHUNKS_WAITING_MAX: usize = 4;
/// What one object that is written has in memory: what waits, what is on its way, and what is being put together on
/// either side.
const WRITING_BYTES: usize = (CHUNKS_WAITING_MAX + CHUNKS_ON_THEIR_WAY_MAX + 2) * CHUNK_BYTES;
/// What is read of an object before the guest asks for it, beside what comes of the server at a time.
pub(crate) const READ_AHEAD_BYTES: usize = 2 * CHUNK_BYTES;
/// How long one more object waits for the end of another.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Of all replicas of a node.
pub(super) struct NodeObjects {
    written: NodeRoom,
    read: NodeRoom,
}

impl NodeObjects {
    pub(super) fn new() -> Self {
        Self { written: NodeRoom::new(), read: NodeRoom::new() }
    }
}

/// Of one replica, or of one of its parts with other grants.
pub(crate) struct Containers {
    opened: BTreeMap<StoreName, OnceCell<Arc<dyn Objects>>>,
    turns: Semaphore,
    written: Room,
    read: Room,
}

/// An object store as a guest has it.
#[derive(Clone)]
pub(crate) struct Container {
    pub(crate) name: StoreName,
    pub(crate) objects: Arc<dyn Objects>,
    access: Access,
}

impl Containers {
    pub(super) fn new(grants: &BTreeMap<StoreName, ObjectsGrant>, node: &NodeObjects) -> Self {
        Self {
            opened: grants.keys().map(|name| (name.clone(), OnceCell::new())).collect(),
            turns: Semaphore::new(OPERATIONS_MAX),
            written: node.written.room(),
            read: node.read.room(),
        }
    }
}

/// Room in memory for one object that is written or read, until it is dropped.
pub(crate) type Transfer = [OwnedSemaphorePermit; 2];

/// An object that is read, a little ahead of its reader.
pub(crate) struct ReadAhead {
    /// Its end is the end of all, and a failure the last that comes.
    pub(crate) coming: mpsc::Receiver<Result<Bytes, Failure>>,
    _room: Arc<Transfer>,
}

impl ReadAhead {
    pub(crate) fn new(mut chunks: TryFeed<Bytes>, room: Transfer) -> Self {
        let (tell, coming) = mpsc::channel(1);
        // As long as either has something.
        let room = Arc::new(room);
        let held = room.clone();
        tokio::spawn(async move {
            let _held = held;
            let pass_on = async {
                while let Some(chunk) = chunks.next().await {
                    if tell.send(chunk).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = pass_on => {}
                () = tell.closed() => {}
            }
        });
        Self { coming, _room: room }
    }
}

fn ends() -> Failure {
    Failure::not(Code::Other, "the replica ends")
}

async fn take(room: &Room, bytes: usize) -> Result<Transfer, Failure> {
    let full =
        |_| Failure::not(Code::Timeout, "too many objects are read or written at a time on this node: try again");
    tokio::time::timeout(WAIT_MAX, room.take(bytes)).await.map_err(full)?.ok_or_else(ends)
}

impl Network {
    /// Whether a container of that name is granted.
    pub(crate) fn has_container(&self, name: &str) -> bool {
        name.parse::<StoreName>().is_ok_and(|name| self.grants.blobstore.contains_key(&name))
    }

    /// Fails as denied where there is no grant of it.
    pub(crate) async fn open_container(&self, name: &str) -> Result<Container, Failure> {
        let granted = name.parse::<StoreName>().ok().and_then(|name| {
            let grant = self.grants.blobstore.get(&name)?;
            let cell = self.containers.opened.get(&name)?;
            Some((name, grant, cell))
        });
        let Some((name, grant, cell)) = granted else {
            let name = one_line(name, 64);
            self.denials.note(|| {
                format!(
                    "the container {name:?} was denied; to allow it add to the spec: grants: {{blobstore: {{{name}: {{bucket: \
                     BUCKET}}}}}}"
                )
            });
            return Err(Failure::not(Code::Denied, format!("no grant of this workload names a container {name:?}")));
        };
        let open = || self.node.buckets.open_objects(&self.login, &grant.bucket);
        let objects = cell.get_or_try_init(open).await?.clone();
        Ok(Container { name, objects, access: grant.access })
    }

    /// Whether it may be changed.
    pub(crate) fn judge_change(&self, container: &Container) -> Result<(), Failure> {
        let Container { name, access, .. } = container;
        if *access != Access::ReadOnly {
            return Ok(());
        }
        self.denials.note(|| {
            format!(
                "a change of the container {name} was denied: grants.blobstore.{name}.access of the spec is read-only"
            )
        });
        Err(Failure::not(Code::Denied, format!("the container {name} is granted to be read only")))
    }

    /// For one operation.
    pub(crate) async fn container_turn(&self) -> Result<SemaphorePermit<'_>, Failure> {
        self.containers.turns.acquire().await.map_err(|_| ends())
    }

    /// For one object that is written, as long as it is.
    pub(crate) async fn room_to_write(&self) -> Result<Transfer, Failure> {
        take(&self.containers.written, WRITING_BYTES).await
    }

    /// For one object that is read, as long as it is; `kept`: of what is brought.
    pub(crate) async fn room_to_read(&self, objects: &dyn Objects, kept: usize) -> Result<Transfer, Failure> {
        take(&self.containers.read, objects.reading_bytes_max() + kept).await
    }
}
