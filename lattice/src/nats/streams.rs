//! Streams of JetStream as guests use them: the traits behind which they stand. What is promised is in
//! `wit/nats/jetstream.wit`.

use super::{Addition, Consistency, Failure, Feed, Integer, Message, Scheduling};
use crate::{
    Fut,
    spec::{ConsumerName, SubjectPattern, stream_profile::Retention},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

/// What must be so for a message to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    None,
    LastSequence(u64),
    LastOnSubject(u64),
    /// On any subject that the filter matches.
    LastOnFilter(String, u64),
}

/// How a message is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishOptions {
    pub precondition: Precondition,
    pub message_id: Option<String>,
    pub ttl: Option<Duration>,
}

/// Whether a precondition stands before each message: its own, or that of one before it which takes in its subject as well.
pub fn is_conditional(batch: &[(Message, PublishOptions)]) -> bool {
    let (mut any, mut subjects, mut patterns) = (false, BTreeSet::new(), BTreeMap::<&str, SubjectPattern>::new());
    batch.iter().all(|(message, options)| {
        let subject = message.subject.as_str();
        match &options.precondition {
            Precondition::None => {
                let parsed = subject.parse();
                let is_taken_in = || parsed.is_ok_and(|subject| patterns.values().any(|it| it.matches(&subject)));
                return any || subjects.contains(subject) || is_taken_in();
            }
            Precondition::LastSequence(_) => any = true,
            Precondition::LastOnSubject(_) => drop(subjects.insert(subject)),
            Precondition::LastOnFilter(filter, _) => {
                if let Ok(pattern) = filter.parse() {
                    patterns.insert(filter, pattern);
                }
            }
        }
        true
    })
}

/// What the stream has stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledgement {
    pub sequence: u64,
    pub duplicate: bool,
}

/// A message of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub message: Message,
    pub sequence: u64,
    /// Nanoseconds since 1970, by the server's clock.
    pub time: u64,
}

/// The last messages on several subjects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub messages: Vec<Stored>,
    /// 0 where nothing was found.
    pub as_of: u64,
}

/// How a stream is configured, and what is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamInfo {
    pub replicas: u32,
    pub in_memory: bool,
    pub duplicate_window: Duration,
    /// 0 where there is no limit but the server's.
    pub message_bytes_max: u64,
    /// Zero where nothing expires.
    pub max_age: Duration,
    pub message_ttl: bool,
    pub atomic: bool,
    pub direct: bool,
    /// It holds counters, and nothing else.
    pub counters: bool,
    /// It takes schedules, and stores what they say.
    pub schedules: bool,
    pub messages: u64,
    pub first_sequence: u64,
    pub last_sequence: u64,
    pub retention: Retention,
    /// Where it is full it takes no more, in place of removing what is older; on each subject too where that is `PerSubject`.
    pub discard: Discard,
    /// 0 where there is no limit.
    pub messages_max: u64,
    pub bytes_max: u64,
    pub messages_per_subject_max: u64,
    /// For how long a marker says that the last message on a subject expired. Zero where there are none.
    pub marker_ttl: Duration,
    /// By the interface of the server.
    pub denies_delete: bool,
    pub denies_purge: bool,
    /// It acknowledges what it stores.
    pub acknowledges: bool,
    /// Tags of the servers that it is placed on.
    pub tags: Vec<String>,
    /// The cluster that it is placed in, if that was asked for.
    pub cluster: Option<String>,
}

/// What goes where a stream is full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Discard {
    #[default]
    Old,
    New,
    /// What is new, also on a subject that has as many as it may.
    NewPerSubject,
}

/// Bytes of the messages of one snapshot, and how many there may be.
pub const SNAPSHOT_BYTES_MAX: usize = 4 << 20;
pub const SNAPSHOT_MAX: u32 = 1_024;

/// An open stream. Filters are subjects that guests can have, or patterns of such.
pub trait Stream: Send + Sync + 'static {
    /// Bytes of the longest message that there can be.
    fn message_bytes_max(&self) -> usize;
    fn info(&self) -> Fut<'_, Result<StreamInfo, Failure>>;
    fn publish(&self, message: Message, options: PublishOptions) -> Fut<'_, Result<Acknowledgement, Failure>>;
    /// All or none, and not none at all. The acknowledgement of the last one.
    fn publish_atomic(&self, batch: Vec<(Message, PublishOptions)>) -> Fut<'_, Result<Acknowledgement, Failure>>;
    fn get(&self, sequence: u64, consistency: Consistency) -> Fut<'_, Result<Option<Stored>, Failure>>;
    fn get_last(&self, filter: &str, consistency: Consistency) -> Fut<'_, Result<Option<Stored>, Failure>>;
    /// Of each subject that one of the filters matches.
    fn get_many_last(&self, filters: Vec<String>, consistency: Consistency) -> Fut<'_, Result<Snapshot, Failure>>;
    /// In order, without an end. Where there is no filter, everything.
    fn read(&self, filters: Vec<String>, start: Start) -> Fut<'_, Result<Box<dyn Feed<ReadEvent>>, Failure>>;
    fn consumer(&self, name: &ConsumerName) -> Fut<'_, Result<Arc<dyn Consumer>, Failure>>;
    /// Whether it holds counters: `unsupported` where it does not.
    fn counts(&self) -> Fut<'_, Result<(), Failure>>;
    /// Add to the counter on the subject of the message, of which besides the headers alone are sent.
    fn add(&self, message: Message, by: Integer, message_id: Option<String>) -> Fut<'_, Result<Addition, Failure>>;
    /// Whether it takes schedules: `unsupported` where it does not.
    fn schedules(&self) -> Fut<'_, Result<(), Failure>>;
    fn schedule(&self, scheduling: Scheduling) -> Fut<'_, Result<Acknowledgement, Failure>>;
    /// Remove what is on the subject: whether there was something.
    fn cancel(&self, subject: &str) -> Fut<'_, Result<bool, Failure>>;
}

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    First,
    LastPerSubject,
    New,
    At(u64),
    /// Nanoseconds since 1970.
    Since(u64),
}

/// What a reader of a stream is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadEvent {
    Message(Stored),
    CaughtUp,
    /// The first sequence that the stream has now.
    Resynchronised(u64),
    /// The last event.
    Failed(Failure),
}

impl ReadEvent {
    /// What it takes while it waits for its reader.
    pub fn bytes(&self) -> usize {
        if let ReadEvent::Message(stored) = self { stored.bytes() } else { 0 }
    }
}

/// A durable consumer.
pub trait Consumer: Send + Sync + 'static {
    /// Up to `max` messages, within the time, and no more bytes than one message can have.
    fn fetch(&self, max: u32, wait: Duration) -> Fut<'_, Result<Vec<Delivered>, Failure>>;
    fn backlog(&self) -> Fut<'_, Result<Backlog, Failure>>;
}

/// What a consumer has yet to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    pub undelivered: u64,
    pub unsettled: u64,
}

/// A message that was delivered, to be settled.
pub struct Delivered {
    pub stored: Stored,
    /// How often, this time included.
    pub attempts: u64,
    /// Behind it, by then.
    pub pending: u64,
    pub settle: Arc<dyn Settle>,
}

impl fmt::Debug for Delivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivered")
            .field("stored", &self.stored)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

/// What becomes of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    Ack,
    /// Answered once the server knows.
    AckSync,
    Nak(Option<Duration>),
    /// One line.
    Terminate(String),
    /// None yet.
    InProgress,
}

/// Where it is said what becomes of a delivery.
pub trait Settle: Send + Sync + 'static {
    fn settle(&self, settlement: Settlement) -> Fut<'_, Result<(), Failure>>;
}

impl Stored {
    /// What it takes in memory, about.
    pub fn bytes(&self) -> usize {
        self.message.bytes() + self.message.subject.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_holds_for_what_it_takes_in() {
        use Precondition as When;
        let on = |filter: &str| When::LastOnFilter(filter.to_owned(), 0);
        for (batch, expect) in [
            (vec![], true),
            (vec![("a", When::None)], false),
            (vec![("a", When::LastOnSubject(0)), ("a", When::None)], true),
            (vec![("a", When::LastOnSubject(0)), ("b", When::None)], false),
            (vec![("b", When::None), ("a", When::LastSequence(0))], false),
            (vec![("a", When::LastSequence(0)), ("b", When::None), ("c", When::None)], true),
            (vec![("a.b", on("a.*")), ("a.c", When::None)], true),
            (vec![("a.b", on("a.*")), ("b.c", When::None)], false),
        ] {
            let options = |precondition| PublishOptions { precondition, message_id: None, ttl: None };
            let message = |subject: &str| Message { subject: subject.to_owned(), ..Message::default() };
            let batch: Vec<_> = batch.into_iter().map(|(subject, when)| (message(subject), options(when))).collect();
            assert_eq!(is_conditional(&batch), expect, "{batch:?}");
        }
    }
}
