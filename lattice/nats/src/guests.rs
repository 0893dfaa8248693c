//! [`lattice::bucket`] over JetStream KV. Guests have connections apart from the lattice's own, one for each workload on a
//! node: their traffic waits for itself alone, shows under the workload's name in the server's list of connections, and gets
//! replies under a prefix that no other connection listens on.

use crate::{
    connect::{ConnectOptions, Nats, connect},
    store::is_deletion,
};
use async_nats::{
    HeaderMap,
    jetstream::{
        consumer::{AckPolicy, DeliverPolicy, pull},
        context::{GetStreamErrorKind, PublishErrorKind},
        stream::{LastRawMessageErrorKind, Stream},
    },
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use lattice::{
    Fut,
    bucket::{BucketError, Buckets, KeyValue, Keys, Value, decode_key, encode_key},
    id::{Revision, WorkloadName},
    spec::BucketName,
    store::Connection,
};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};
use tokio::sync::OnceCell;

const EXPECTED_SEQUENCE: &str = "Nats-Expected-Last-Subject-Sequence";
const OPERATION: &str = "KV-Operation";
/// Of one operation, but for a list of keys.
const TIMEOUT: Duration = Duration::from_secs(5);
const LIST_TIMEOUT: Duration = Duration::from_secs(10);
/// Keys that the server sends at a time for a list.
const FETCH: usize = 512;
/// A list whose reader is gone leaves its consumer to the server for so long.
const CONSUMER_IDLE: Duration = Duration::from_secs(15);

/// Opens buckets for the guests of one node. Clones share their connections.
#[derive(Clone)]
pub struct GuestBuckets(Arc<Guests>);

struct Guests {
    options: ConnectOptions,
    workloads: Mutex<BTreeMap<WorkloadName, Weak<OnceCell<Nats>>>>,
}

impl GuestBuckets {
    /// Connect in this way when a guest first opens something. The name is the front of the connections' names.
    pub fn new(options: ConnectOptions) -> Self {
        Self(Arc::new(Guests { options, workloads: Mutex::default() }))
    }

    /// The connection of a workload's guests, kept as long as one of them has something open.
    pub(crate) fn cell(&self, workload: &WorkloadName) -> Arc<OnceCell<Nats>> {
        let mut workloads = self.0.workloads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = workloads.get(workload).and_then(Weak::upgrade) {
            return cell;
        }
        workloads.retain(|_, cell| cell.strong_count() > 0);
        let cell = Arc::default();
        workloads.insert(workload.clone(), Arc::downgrade(&cell));
        cell
    }

    pub(crate) async fn connected(&self, cell: &OnceCell<Nats>, workload: &WorkloadName) -> Result<Nats, BucketError> {
        let name = format!("{} guests of {workload}", self.0.options.name);
        let options = ConnectOptions { name, retry_first: false, own_inbox: true, ..self.0.options.clone() };
        match cell.get_or_try_init(|| connect(options)).await {
            Ok(nats) => Ok(nats.clone()),
            // The error names servers, and what is in their URLs: nothing for a guest.
            Err(error) => {
                tracing::warn!(%workload, %error, "no connection for the guests of a workload");
                Err(BucketError::Unreachable("not connected to NATS".into()))
            }
        }
    }
}

impl fmt::Debug for GuestBuckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestBuckets").finish_non_exhaustive()
    }
}

impl Buckets for GuestBuckets {
    fn open(&self, workload: &WorkloadName, bucket: &BucketName) -> Fut<'_, Result<Arc<dyn KeyValue>, BucketError>> {
        let (cell, workload, bucket) = (self.cell(workload), workload.clone(), bucket.clone());
        Box::pin(async move {
            let nats = self.connected(&cell, &workload).await?;
            let opened: Arc<dyn KeyValue> = Arc::new(NatsBucket::open(nats, &bucket, Some(cell)).await?);
            Ok(opened)
        })
    }
}

/// Opens buckets over the connection of a node, for nobody's guests: to see whether they are there.
#[derive(Clone)]
pub(crate) struct NodeBuckets(pub(crate) Nats);

impl fmt::Debug for NodeBuckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeBuckets").finish_non_exhaustive()
    }
}

impl Buckets for NodeBuckets {
    fn open(&self, _: &WorkloadName, bucket: &BucketName) -> Fut<'_, Result<Arc<dyn KeyValue>, BucketError>> {
        let bucket = bucket.clone();
        Box::pin(async move {
            let opened: Arc<dyn KeyValue> = Arc::new(NatsBucket::open(self.0.clone(), &bucket, None).await?);
            Ok(opened)
        })
    }
}

struct NatsBucket {
    nats: Nats,
    stream: Stream,
    /// `$KV.BUCKET.`
    prefix: String,
    /// Each message is the last one of its key.
    keeps_one: bool,
    /// Keeps the connection.
    _cell: Option<Arc<OnceCell<Nats>>>,
}

/// The last message of a key.
struct Last {
    /// `None` where it says that the key was deleted.
    value: Option<Bytes>,
    revision: Revision,
}

impl NatsBucket {
    async fn open(
        nats: Nats,
        bucket: &BucketName,
        cell: Option<Arc<OnceCell<Nats>>>,
    ) -> Result<NatsBucket, BucketError> {
        reachable(&nats)?;
        let stream = match nats.jetstream.get_stream(format!("KV_{bucket}")).await {
            Ok(stream) => stream,
            Err(error) => {
                return Err(match error.kind() {
                    GetStreamErrorKind::JetStream(answer) if answer.code() == 404 => {
                        BucketError::Absent(bucket.to_string())
                    }
                    GetStreamErrorKind::JetStream(answer) => BucketError::Refused(answer.to_string()),
                    _ => BucketError::Unreachable(error.to_string()),
                });
            }
        };
        let config = &stream.cached_info().config;
        let unfit = |why: &str| BucketError::Unfit { bucket: bucket.to_string(), why: why.to_owned() };
        if config.max_messages_per_subject < 1 {
            return Err(unfit("is a stream without a limit of messages a subject, not a bucket"));
        }
        // Its messages have the subjects of the bucket that it copies.
        if config.mirror.is_some() {
            return Err(unfit("is a mirror; name the bucket that it copies"));
        }
        let keeps_one = config.max_messages_per_subject == 1;
        Ok(NatsBucket { nats, stream, prefix: format!("$KV.{bucket}."), keeps_one, _cell: cell })
    }

    /// From the stream's leader.
    async fn last(&self, key: &str) -> Result<Option<Last>, BucketError> {
        reachable(&self.nats)?;
        let subject = format!("{}{}", self.prefix, encode_key(key)?);
        match self.stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => {
                let value = (!is_deletion(&message.headers)).then_some(message.payload);
                Ok(Some(Last { value, revision: Revision(message.sequence) }))
            }
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::NoMessageFound => Ok(None),
                LastRawMessageErrorKind::JetStream(answer) => Err(BucketError::Refused(answer.to_string())),
                _ => Err(BucketError::Unreachable(error.to_string())),
            },
        }
    }

    async fn publish(&self, key: &str, headers: HeaderMap, value: Bytes) -> Result<Revision, BucketError> {
        // Sent without a connection it would wait in the client, and be made at some later time.
        reachable(&self.nats)?;
        let subject = format!("{}{}", self.prefix, encode_key(key)?);
        let limit = self.nats.server().payload_bytes_max;
        let size = value.len();
        let publish = async { self.nats.jetstream.publish_with_headers(subject, headers, value).await?.await };
        let Ok(outcome) = tokio::time::timeout(TIMEOUT, publish).await else { return Err(BucketError::OutcomeUnknown) };
        match outcome {
            Ok(ack) => Ok(Revision(ack.sequence)),
            Err(error) => Err(match error.kind() {
                PublishErrorKind::WrongLastSequence => BucketError::Conflict,
                PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => BucketError::OutcomeUnknown,
                PublishErrorKind::MaxPayloadExceeded => BucketError::TooLarge { size, limit },
                PublishErrorKind::StreamNotFound => BucketError::Unreachable(error.to_string()),
                // Which kind a lost race gets varies; the server's error is in the text (10071, 10164).
                _ if error.to_string().contains("wrong last sequence") => BucketError::Conflict,
                _ => BucketError::Refused(error.to_string()),
            }),
        }
    }

    async fn write(&self, key: &str, value: Bytes, at: Revision) -> Result<Revision, BucketError> {
        let mut headers = HeaderMap::new();
        headers.insert(EXPECTED_SEQUENCE, at.0.to_string().as_str());
        self.publish(key, headers, value).await
    }

    async fn page(&self, after: Option<Revision>, most: usize) -> Result<Keys, BucketError> {
        reachable(&self.nats)?;
        let lost = |error: &dyn fmt::Display| BucketError::Unreachable(error.to_string());
        // Where a key has one message, those that follow are all that must be looked at. Else the server goes through the
        // last message of each key from the beginning, for each page.
        let deliver_policy = match after {
            Some(after) if self.keeps_one => DeliverPolicy::ByStartSequence { start_sequence: after.0 + 1 },
            _ => DeliverPolicy::LastPerSubject,
        };
        let config = pull::Config {
            deliver_policy,
            ack_policy: AckPolicy::None,
            filter_subject: format!("{}>", self.prefix),
            headers_only: true,
            num_replicas: 1,
            memory_storage: true,
            inactive_threshold: CONSUMER_IDLE,
            ..Default::default()
        };
        let consumer = self.stream.create_consumer(config).await.map_err(|error| lost(&error))?;
        let mut left = consumer.cached_info().num_pending;
        let mut page = Keys::default();
        let mut last = Revision(0);
        'pages: while left > 0 {
            let mut messages = consumer.fetch().max_messages(FETCH).messages().await.map_err(|error| lost(&error))?;
            let mut got = 0;
            while let Some(message) = messages.next().await {
                let message = message.map_err(|error| lost(&error))?;
                let info = message.info().map_err(|error| lost(&error))?;
                (left, got) = (info.pending, got + 1);
                let revision = Revision(info.stream_sequence);
                if after.is_some_and(|after| revision <= after) || message.headers.as_ref().is_some_and(is_deletion) {
                    continue;
                }
                let Some(key) = message.subject.strip_prefix(&self.prefix).and_then(decode_key) else { continue };
                if page.keys.len() == most {
                    page.next = Some(last);
                    break 'pages;
                }
                page.keys.push(key);
                last = revision;
            }
            if got == 0 {
                break; // what was pending is gone
            }
        }
        // It would go by itself.
        let name = consumer.cached_info().name.clone();
        let _ = self.stream.delete_consumer(&name).await;
        Ok(page)
    }
}

fn reachable(nats: &Nats) -> Result<(), BucketError> {
    match nats.connection() {
        Connection::Up => Ok(()),
        Connection::Down => Err(BucketError::Unreachable("not connected to NATS".into())),
    }
}

impl KeyValue for NatsBucket {
    fn get(&self, key: &str) -> Fut<'_, Result<Option<Value>, BucketError>> {
        let key = key.to_owned();
        Box::pin(async move {
            let last = self.last(&key).await?;
            Ok(last.and_then(|Last { value, revision }| value.map(|bytes| Value { bytes, revision })))
        })
    }

    fn put(&self, key: &str, value: Bytes) -> Fut<'_, Result<Revision, BucketError>> {
        let key = key.to_owned();
        Box::pin(async move { self.publish(&key, HeaderMap::new(), value).await })
    }

    fn update(&self, key: &str, value: Bytes, at: Option<Revision>) -> Fut<'_, Result<Revision, BucketError>> {
        let key = key.to_owned();
        Box::pin(async move {
            if let Some(at) = at {
                return self.write(&key, value, at).await;
            }
            // Most keys that have no value never had one. A deletion leaves a message, whose revision counts then.
            match self.write(&key, value.clone(), Revision(0)).await {
                Err(BucketError::Conflict) => match self.last(&key).await? {
                    Some(Last { value: None, revision }) => self.write(&key, value, revision).await,
                    _ => Err(BucketError::Conflict),
                },
                outcome => outcome,
            }
        })
    }

    fn delete(&self, key: &str) -> Fut<'_, Result<(), BucketError>> {
        let key = key.to_owned();
        Box::pin(async move {
            // A deletion stays in the bucket as a message: none of what is not there.
            if self.last(&key).await?.is_none_or(|last| last.value.is_none()) {
                return Ok(());
            }
            let mut headers = HeaderMap::new();
            headers.insert(OPERATION, "DEL");
            self.publish(&key, headers, Bytes::new()).await.map(drop)
        })
    }

    fn keys(&self, after: Option<Revision>, most: usize) -> Fut<'_, Result<Keys, BucketError>> {
        Box::pin(async move {
            let page = tokio::time::timeout(LIST_TIMEOUT, self.page(after, most)).await;
            page.unwrap_or_else(|_| Err(BucketError::Unreachable("no list of the keys in time".into())))
        })
    }
}
