//! The traits behind which NATS, time and chance stand. Services use only these, so that the simulation runs the same
//! code. One conformance suite ([`crate::testing::conformance`]) holds the simulated store and real servers to the same
//! semantics.

use crate::{Fut, id::Revision};
use bytes::Bytes;
use std::{collections::BTreeMap, fmt, pin::Pin, time::Duration};

/// A stream behind a trait object. Spelled out so that this crate needs no stream library.
pub type Items<T> = Pin<Box<dyn futures_core::Stream<Item = T> + Send>>;

/// A key-value bucket of the lattice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bucket {
    /// Sessions, slots: one value a key, every change republished.
    State,
    /// Specs, with history.
    Specs,
}

impl Bucket {
    pub const ALL: [Bucket; 2] = [Bucket::State, Bucket::Specs];
    pub fn name(self) -> &'static str {
        match self {
            Bucket::State => "state",
            Bucket::Specs => "specs",
        }
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What must hold for a write to be accepted. There is no write without one: a put that timed out can land after a
/// reconnect, over a newer value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precondition {
    /// The key has no value (it never had one, or it was deleted).
    Absent,
    /// The key's last value was written at this revision.
    At(Revision),
}

/// A key's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: Bytes,
    pub revision: Revision,
}

/// A change of one key. `value` is `None` for a deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    pub value: Option<Bytes>,
    pub revision: Revision,
}

/// All values of a bucket at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Which bucket this is: it differs for a bucket that was deleted and made again under the same name.
    pub identity: String,
    /// The revision of the bucket's last write.
    pub head: Revision,
    pub entries: Vec<Entry>,
}

/// What a feed delivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedItem {
    /// Changes of one bucket arrive in the order of their revisions, without gaps.
    Change(Bucket, Change),
    /// Changes may have been missed: take a new snapshot.
    Gap,
}

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another writer was first. Nothing was written.
    #[error("{bucket}/{key} is no longer as expected")]
    Conflict { bucket: Bucket, key: String },
    /// No answer came. The write may have landed, or may yet: only a write that carries an expectation can be repeated.
    #[error("no answer from the store while {doing}")]
    OutcomeUnknown { doing: String },
    /// The store is out of reach. Nothing was sent.
    #[error("the store is out of reach: {0}")]
    Unreachable(String),
    /// The store refused: permissions, limits, a missing bucket.
    #[error("the store refused: {0}")]
    Refused(String),
}

/// The key-value store: linearisable compare-and-set for each key, and one total order of writes for each bucket.
pub trait Store: Send + Sync + 'static {
    /// The key's value, from the bucket's leader: not older than any write acknowledged before the call.
    fn get(&self, bucket: Bucket, key: &str) -> Fut<'_, Result<Option<Entry>, StoreError>>;
    /// Write a value if the precondition holds.
    fn write(
        &self,
        bucket: Bucket,
        key: &str,
        value: Bytes,
        expect: Precondition,
    ) -> Fut<'_, Result<Revision, StoreError>>;
    /// Delete a key if it is still at the revision.
    fn delete(&self, bucket: Bucket, key: &str, expect: Revision) -> Fut<'_, Result<Revision, StoreError>>;
    /// All values of a bucket.
    fn snapshot(&self, bucket: Bucket) -> Fut<'_, Result<Snapshot, StoreError>>;
    /// The key's values that the store still has, oldest first; a deletion has no value.
    fn history(&self, bucket: Bucket, key: &str) -> Fut<'_, Result<Vec<Change>, StoreError>>;
    /// Changes of all buckets from now on. Begins with a [`FeedItem::Gap`] whenever changes may have been missed.
    fn feed(&self) -> Fut<'_, Result<Items<FeedItem>, StoreError>>;
}

/// Bytes of components by their SHA-256.
pub trait Artifacts: Send + Sync + 'static {
    /// Fetch and check: what is returned has the digest. `None` if there is no such object.
    fn get(&self, digest: crate::id::Digest) -> Fut<'_, Result<Option<Bytes>, StoreError>>;
    /// Store bytes under their digest. Idempotent.
    fn put(&self, bytes: Bytes) -> Fut<'_, Result<crate::id::Digest, StoreError>>;
    /// Size of an object in bytes, without fetching it.
    fn size(&self, digest: crate::id::Digest) -> Fut<'_, Result<Option<u64>, StoreError>>;
}

/// Headers of a message. NATS headers may repeat; ours do not.
pub type Headers = BTreeMap<String, String>;

/// A message on the bus.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    pub subject: String,
    pub reply: Option<String>,
    pub headers: Headers,
    pub payload: Bytes,
    /// The server's own word instead of a peer's, such as 503: nobody listens on that subject.
    pub status: Option<u16>,
}

impl Message {
    /// Whether subjects and headers are such that a message can have them: subjects without white space, and headers of one
    /// line with a name. Buses refuse others.
    pub fn check(&self) -> Result<(), BusError> {
        for subject in [Some(&self.subject), self.reply.as_ref()].into_iter().flatten() {
            if subject.is_empty() || subject.bytes().any(|byte| byte.is_ascii_whitespace() || byte == 0) {
                return Err(BusError::Malformed { what: format!("the subject {subject:?}") });
            }
        }
        for (name, value) in &self.headers {
            let name_is_good = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
            if !name_is_good || value.contains(['\r', '\n']) {
                return Err(BusError::Malformed { what: format!("the header {name:?}: {value:?}") });
            }
        }
        Ok(())
    }
}

/// Status of a message that answers a request on a subject where nobody listens.
pub const STATUS_NO_RESPONDERS: u16 = 503;

/// Why the bus did not carry a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// Nobody listens on the subject. The message reached nobody.
    #[error("nobody listens on {subject}")]
    NoResponders { subject: String },
    /// No answer in time. Somebody may have acted on the message.
    #[error("no answer on {subject} within {} ms", after.as_millis())]
    Timeout { subject: String, after: Duration },
    /// Larger than what the server carries. Nothing was sent.
    #[error("the message is {size} bytes long, the server carries {limit}")]
    TooLarge { size: usize, limit: usize },
    /// A subject or a header that no message can have. Nothing was sent.
    #[error("{what} can't be in a message")]
    Malformed { what: String },
    /// The connection is down or was closed.
    #[error("not connected to NATS: {0}")]
    Disconnected(String),
}

/// Whether the bus is connected now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    Up,
    Down,
}

/// An endpoint of a NATS micro service (ADR-32): a subject on which this node answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Name in `$SRV.INFO` and `$SRV.STATS`: `[a-zA-Z0-9_-]+`.
    pub name: String,
    pub subject: String,
    /// One member of the queue group gets each request.
    pub queue: String,
}

/// A NATS micro service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MicroService {
    pub name: String,
    pub version: String,
    pub description: String,
    pub metadata: BTreeMap<String, String>,
    pub endpoints: Vec<Endpoint>,
}

/// What a micro service answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    pub headers: Headers,
    pub payload: Bytes,
}

/// Called for each request to a micro service with the index of its endpoint. `None` leaves it unanswered.
pub type Handler = std::sync::Arc<dyn Fn(usize, Message) -> Fut<'static, Option<Answer>> + Send + Sync>;

/// Core NATS: at most once, ordered from one publisher to one subscriber.
pub trait Bus: Send + Sync + 'static {
    fn publish(&self, message: Message) -> Fut<'_, Result<(), BusError>>;
    /// Send and wait for the first reply.
    fn request(
        &self,
        subject: String,
        headers: Headers,
        payload: Bytes,
        timeout: Duration,
    ) -> Fut<'_, Result<Message, BusError>>;
    /// Messages on a subject (wildcards allowed). They are buffered up to a bound; what exceeds it is lost and logged.
    fn subscribe(&self, subject: String, queue: Option<String>) -> Fut<'_, Result<Items<Message>, BusError>>;
    /// Answer as a micro service until the future is dropped. A bounded number of requests is handled at a time.
    fn serve(&self, service: MicroService, handler: Handler) -> Fut<'_, Result<(), BusError>>;
    /// A subject under `_INBOX.` that nobody else uses.
    fn inbox(&self) -> String;
    /// Largest payload of one message, as the connected server says.
    fn payload_bytes_max(&self) -> usize;
    fn connection(&self) -> Connection;
    /// Waits until all that was published so far is with the server.
    fn flush(&self) -> Fut<'_, Result<(), BusError>>;
}

/// Time. Monotonic for decisions, wall-clock for people only.
pub trait Clock: Send + Sync + 'static {
    /// Since some moment before the process's first call. Never goes back.
    fn now(&self) -> Duration;
    /// Milliseconds since 1970. May jump.
    fn unix_ms(&self) -> u64;
    fn sleep(&self, duration: Duration) -> Fut<'static, ()>;
}

/// Chance.
pub trait Rng: Send + Sync + 'static {
    fn u64(&self) -> u64;

    /// Uniform in `0..=max`; the modulo's bias is far below what jitter needs.
    fn up_to(&self, max: Duration) -> Duration {
        let nanos = u64::try_from(max.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.u64() % nanos.saturating_add(1).max(1))
    }

    fn uuid(&self) -> uuid::Uuid {
        uuid::Uuid::from_u64_pair(self.u64(), self.u64())
    }
}

/// Everything that a service needs of its surroundings.
#[derive(Clone)]
pub struct Platform {
    pub store: std::sync::Arc<dyn Store>,
    pub artifacts: std::sync::Arc<dyn Artifacts>,
    pub vault: std::sync::Arc<dyn crate::secret::Vault>,
    pub bus: std::sync::Arc<dyn Bus>,
    /// What guests may be given, looked at before they are.
    pub buckets: std::sync::Arc<dyn crate::bucket::Buckets>,
    /// The same of what there is beside buckets.
    pub nats: std::sync::Arc<dyn crate::nats::Links>,
    pub clock: std::sync::Arc<dyn Clock>,
    pub rng: std::sync::Arc<dyn Rng>,
}
