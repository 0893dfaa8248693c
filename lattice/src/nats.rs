//! NATS as guests use it through `lattice:nats`: the traits behind which their connection stands, and what is known of an
//! operation that failed. What is promised is in `wit/nats`, word for word the contract of these traits; what is granted is
//! in [`crate::spec`]. Not the lattice's own bus and store, which are in [`crate::store`].

mod counters;
mod schedules;
mod streams;

pub use counters::{Addition, Count, INTEGER_DIGITS_MAX, Integer, is_total};
pub use schedules::{SCHEDULE, SCHEDULE_TARGET, SCHEDULE_TTL, SCHEDULE_ZONE, Scheduled, Scheduling, Timing};
pub use streams::{
    Acknowledgement, Backlog, Consumer, Delivered, Discard, Precondition, PublishOptions, ReadEvent,
    SNAPSHOT_BYTES_MAX, SNAPSHOT_MAX, Settle, Settlement, Snapshot, Start, Stored, Stream, StreamInfo, is_conditional,
};

use crate::{
    Fut,
    account::Login,
    bucket::KEY_BYTES_MAX,
    id::Revision,
    limits::one_line,
    objects::Objects,
    spec::{BucketName, StreamName},
};
use bytes::Bytes;
use std::{fmt, sync::Arc, time::Duration};

/// What is known of the effect of an operation that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing happened, and nothing will.
    DefinitelyNot,
    /// It may have happened, or may yet happen.
    Maybe,
}

/// Why an operation failed, as a guest is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Code {
    Denied,
    /// The name of the argument.
    Invalid(String),
    /// The limit, in bytes.
    TooLarge(u64),
    /// How many there may be.
    TooMany(u32),
    /// How many there may be.
    QuotaExceeded(u32),
    NoResponders,
    Timeout,
    Disconnected,
    NotFound,
    AlreadyExists(Revision),
    WrongRevision,
    WrongSequence,
    AlreadySettled,
    BatchAbandoned,
    StorageFull,
    Unsupported,
    /// JetStream's `err_code`.
    Jetstream(u16),
    Other,
}

impl Code {
    /// The case's name in `wit/nats/types.wit`, without what it holds.
    pub fn as_str(&self) -> &'static str {
        match self {
            Code::Denied => "denied",
            Code::Invalid(_) => "invalid",
            Code::TooLarge(_) => "too-large",
            Code::TooMany(_) => "too-many",
            Code::QuotaExceeded(_) => "quota-exceeded",
            Code::NoResponders => "no-responders",
            Code::Timeout => "timeout",
            Code::Disconnected => "disconnected",
            Code::NotFound => "not-found",
            Code::AlreadyExists(_) => "already-exists",
            Code::WrongRevision => "wrong-revision",
            Code::WrongSequence => "wrong-sequence",
            Code::AlreadySettled => "already-settled",
            Code::BatchAbandoned => "batch-abandoned",
            Code::StorageFull => "storage-full",
            Code::Unsupported => "unsupported",
            Code::Jetstream(_) => "jetstream",
            Code::Other => "other",
        }
    }
}

/// An operation that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Failure {
    pub code: Code,
    pub outcome: Outcome,
    /// For people; it names no server.
    pub detail: String,
}

impl Failure {
    /// Nothing happened.
    pub fn not(code: Code, detail: impl Into<String>) -> Self {
        Self { code, outcome: Outcome::DefinitelyNot, detail: detail.into() }
    }

    /// It may have happened.
    pub fn maybe(code: Code, detail: impl Into<String>) -> Self {
        Self { code, outcome: Outcome::Maybe, detail: detail.into() }
    }

    /// There is no connection, so nothing was sent.
    pub fn away() -> Self {
        Self::not(Code::Disconnected, "there is no connection to NATS")
    }

    /// Of an operation that changes nothing.
    #[must_use]
    pub fn of_read(self) -> Self {
        Self { outcome: Outcome::DefinitelyNot, ..self }
    }
}

/// A message. Unlike those of the lattice, its headers may repeat.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    pub subject: String,
    pub reply: Option<String>,
    pub headers: Vec<(String, String)>,
    pub payload: Bytes,
}

impl Message {
    /// What it takes of a server's limit for messages.
    pub fn bytes(&self) -> usize {
        let lines = self.headers.iter().map(|(name, value)| name.len() + value.len() + ": \r\n".len());
        let headers = if self.headers.is_empty() { 0 } else { "NATS/1.0\r\n\r\n".len() };
        self.payload.len() + lines.fold(headers, usize::saturating_add)
    }
}

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub version: String,
    pub payload_bytes_max: usize,
}

/// Connections for guests.
pub trait Links: fmt::Debug + Send + Sync + 'static {
    /// The connection of a workload's guests on this node. Who holds it keeps it.
    fn link(&self, login: &Login) -> Fut<'_, Result<Arc<dyn Link>, Failure>>;
    /// The same, for whoever may know why there is none. What is found wrong with a login is told by nothing else.
    fn enter(&self, login: &Login) -> Fut<'_, Result<Arc<dyn Link>, LoginError>>;
}

/// Why there is no connection. Names servers: nothing for guests.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// Servers that this node lets nobody reach, or none.
    #[error("{0}")]
    Servers(String),
    #[error("{0}")]
    Authority(String),
    #[error("{0}")]
    Credentials(String),
    #[error("{0}")]
    Unreachable(String),
}

/// The connection of a workload's guests. All fail at once where it is down, and then nothing was sent.
pub trait Link: Send + Sync + 'static {
    fn server(&self) -> Server;
    /// Bytes of the longest message that there can be.
    fn payload_bytes_max(&self) -> usize;
    /// Hand over to the connection.
    fn publish(&self, message: Message) -> Fut<'_, Result<(), Failure>>;
    /// A round trip to the server, behind all that was published before.
    fn flush(&self, within: Duration) -> Fut<'_, Result<(), Failure>>;
    /// The first answer.
    fn request(&self, message: Message, within: Duration) -> Fut<'_, Result<Message, Failure>>;
    /// Payloads of what those say who are asked with an empty message, in the order in which they come: of the first one alone, or of all by
    /// then; the first 256, and the first MiB.
    fn ask_all(&self, subject: String, first_alone: bool, within: Duration) -> Fut<'_, Result<Vec<Bytes>, Failure>>;
    /// Messages from the moment on when this answers.
    fn subscribe(&self, filter: String, group: Option<String>) -> Fut<'_, Result<Box<dyn Feed<Arrival>>, Failure>>;
    fn bucket(&self, bucket: &BucketName) -> Fut<'_, Result<Arc<dyn Bucket>, Failure>>;
    fn stream(&self, stream: &StreamName) -> Fut<'_, Result<Arc<dyn Stream>, Failure>>;
    fn objects(&self, bucket: &BucketName) -> Fut<'_, Result<Arc<dyn Objects>, Failure>>;
}

/// What comes in, one after the other: a subscription, a watch, a list. Dropping it ends it on the server.
pub trait Feed<T>: Send {
    /// What comes next; none where nothing will. Of a subscription it may be dropped and called again without a loss, of others
    /// at the end of all only.
    fn next(&mut self) -> Fut<'_, Option<T>>;
}

/// What comes to a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    Message(Message),
    /// Some may be missing here; nobody knows how many.
    Interrupted,
}

/// What a change of a key was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Put,
    Delete,
    Purge,
    Expire,
}

/// A key as one change left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    /// Empty where the change was no put.
    pub value: Bytes,
    pub revision: Revision,
    /// Nanoseconds since 1970, by the server's clock.
    pub created: u64,
    pub change: Change,
}

/// Who answers a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    Leader,
    AnyReplica,
}

/// A change to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub what: Writing,
    /// The revision that the key's last change must have; 0 for none at all.
    pub expect: Option<Revision>,
    /// Of the change: when its time is up the key expires, or what says that it was deleted.
    pub ttl: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Writing {
    Put(Bytes),
    Delete,
    Purge,
}

/// What is read of many changes, in the order of their revisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// The last change of each key, without values.
    Keys,
    /// Every change that is kept.
    History,
    /// Every change from now on, without end; before it the state, where that is asked for.
    Watch { state_first: bool, metadata_only: bool },
}

/// How a bucket is configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BucketInfo {
    pub replicas: u32,
    pub in_memory: bool,
    pub history: u32,
    /// Zero where nothing expires.
    pub max_age: Duration,
    pub key_ttl: bool,
    pub direct: bool,
    /// It takes several changes together.
    pub atomic: bool,
    /// 0 where there is no limit but the server's.
    pub value_bytes_max: u64,
    /// 0 where there is no limit.
    pub bytes_max: u64,
    /// For how long a marker says that a key expired. Zero where there are none.
    pub marker_ttl: Duration,
    /// Tags of the servers that it is placed on.
    pub tags: Vec<String>,
    /// The cluster that it is placed in, if that was asked for.
    pub cluster: Option<String>,
}

/// An open bucket. Keys are as NATS has them ([`check_key`]).
pub trait Bucket: Send + Sync + 'static {
    /// Bytes of the longest value that there can be.
    fn value_bytes_max(&self) -> usize;
    fn info(&self) -> Fut<'_, Result<BucketInfo, Failure>>;
    /// The key's last change, deletions too.
    fn get(&self, key: &str, consistency: Consistency) -> Fut<'_, Result<Option<Entry>, Failure>>;
    /// The change with this revision, if it is this key's.
    fn get_revision(&self, key: &str, revision: Revision) -> Fut<'_, Result<Option<Entry>, Failure>>;
    fn write(&self, key: &str, write: Write) -> Fut<'_, Result<Revision, Failure>>;
    /// All or none, and not none at all; each key once. The revision of the last one.
    fn transact(&self, writes: Vec<(String, Write)>) -> Fut<'_, Result<Revision, Failure>>;
    fn read(&self, filters: Vec<String>, reading: Reading) -> Fut<'_, Result<Box<dyn Feed<ChangeEvent>>, Failure>>;
}

/// What is told of the changes of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeEvent {
    Changed(Entry),
    /// All that there was has been told. The last event but of a watch.
    CaughtUp,
    /// Changes may have been missed; the state follows. Of a watch only.
    Resynchronised,
    /// The last event.
    Failed(Failure),
}

impl ChangeEvent {
    /// What it takes while it waits for its reader.
    pub fn bytes(&self) -> usize {
        match self {
            ChangeEvent::Changed(entry) => entry.value.len() + entry.key.len(),
            _ => 0,
        }
    }
}

const NOWHERE: &str = "this node has no NATS for guests";

/// Where there is no NATS for guests.
#[derive(Debug, Clone, Copy)]
pub struct NoLinks;

impl Links for NoLinks {
    fn link(&self, _: &Login) -> Fut<'_, Result<Arc<dyn Link>, Failure>> {
        let failure = Failure::not(Code::Disconnected, NOWHERE);
        Box::pin(std::future::ready(Err(failure)))
    }

    fn enter(&self, _: &Login) -> Fut<'_, Result<Arc<dyn Link>, LoginError>> {
        Box::pin(std::future::ready(Err(LoginError::Unreachable(NOWHERE.into()))))
    }
}

fn is_token(token: &str) -> bool {
    !token.is_empty()
        && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'/' | b'_' | b'='))
}

/// Whether NATS has such keys (ADR-8).
pub fn check_key(key: &str) -> Result<(), Failure> {
    if key.len() <= KEY_BYTES_MAX && key.split('.').all(is_token) {
        return Ok(());
    }
    let shown = one_line(key, 64);
    let text = format!("{shown:?} is no key: 1 to {KEY_BYTES_MAX} of a-z, A-Z, 0-9, -/_= and dots between them");
    Err(Failure::not(Code::Invalid("key".into()), text))
}

/// The same with `*` for a token, and `>` for those at the end.
pub fn check_key_filter(filter: &str) -> Result<(), Failure> {
    let (front, last) = filter.rsplit_once('.').map_or((None, filter), |(front, last)| (Some(front), last));
    let is_good = |token: &str| token == "*" || is_token(token);
    let fits = filter.len() <= KEY_BYTES_MAX;
    if fits && (last == ">" || is_good(last)) && front.is_none_or(|front| front.split('.').all(is_good)) {
        return Ok(());
    }
    let shown = one_line(filter, 64);
    Err(Failure::not(Code::Invalid("filters".into()), format!("{shown:?} is no filter of keys")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_and_filters_are_those_of_nats() {
        for key in ["a", "a.b", "user/7=x-y_Z.0", &"k".repeat(KEY_BYTES_MAX)] {
            assert_eq!((check_key(key), check_key_filter(key)), (Ok(()), Ok(())), "{key}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "a:b", "é", "a\n", "$KV", &"k".repeat(KEY_BYTES_MAX + 1)] {
            assert!(check_key(bad).is_err() && check_key_filter(bad).is_err(), "{bad}");
        }
        for filter in ["*", ">", "a.*", "*.a", "a.>", "*.>"] {
            assert!(check_key(filter).is_err() && check_key_filter(filter).is_ok(), "{filter}");
        }
        for bad in [">.a", "a.>.b", "a*", ">>", "*.", "a>"] {
            assert!(check_key_filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn codes_are_called_as_guests_know_them() {
        let cases = include_str!("../../wit/nats/types.wit").split("variant error-code {").nth(1).unwrap();
        let cases: Vec<&str> = cases
            .lines()
            .map(str::trim)
            .filter(|line| line.ends_with(',') && !line.starts_with('/'))
            .map(|line| line.split(['(', ',']).next().unwrap())
            .collect();
        let none = Revision(0);
        let codes = [
            Code::Denied,
            Code::Invalid(String::new()),
            Code::TooLarge(0),
            Code::TooMany(0),
            Code::QuotaExceeded(0),
            Code::NoResponders,
            Code::Timeout,
            Code::Disconnected,
            Code::NotFound,
            Code::AlreadyExists(none),
            Code::WrongRevision,
            Code::WrongSequence,
            Code::AlreadySettled,
            Code::BatchAbandoned,
            Code::StorageFull,
            Code::Unsupported,
            Code::Jetstream(0),
            Code::Other,
        ];
        assert_eq!(codes.iter().map(Code::as_str).collect::<Vec<_>>(), cases);
    }

    proptest! {
        #[test]
        fn no_key_leaves_its_bucket(key in ".{0,40}|[a.*>$ ]{0,8}") {
            if check_key(&key).is_ok() {
                prop_assert!(!key.contains(['*', '>', ' ', '$', '\r', '\n']) && !key.contains("..") && !key.is_empty());
                prop_assert!(check_key_filter(&key).is_ok());
            }
        }
    }
}
