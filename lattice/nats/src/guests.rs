//! [`lattice::bucket`] over JetStream KV and object stores. Guests have connections apart from the lattice's own, one for each workload on a
//! node: their traffic waits for itself alone, shows under the workload's name in the server's list of connections, and gets
//! replies under a prefix that no other connection listens on.

mod api;
mod away;
mod changes;
mod consumers;
mod direct;
mod list;
mod native;
mod objects;
mod passing;
mod pull;
mod readers;
mod streams;

use crate::{
    connect::{ConnectOptions, Nats, connect},
    store::is_deletion,
};
use async_nats::{
    HeaderMap,
    jetstream::{
        context::{GetStreamErrorKind, PublishErrorKind},
        stream::{LastRawMessageErrorKind, Stream},
    },
};
use away::Away;
use bytes::Bytes;
use lattice::{
    Fut,
    bucket::{BucketError, Buckets, KeyValue, Keys, Value, encode_key},
    id::{Revision, WorkloadName},
    limits::NATS_PAYLOAD_BYTES_DEFAULT,
    nats::{BucketInfo, Failure},
    objects::Objects,
    spec::BucketName,
    store::Connection,
};
use objects::NatsObjects;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};
use tokio::sync::{OnceCell, Semaphore};

const EXPECTED_SEQUENCE: &str = "Nats-Expected-Last-Subject-Sequence";
const OPERATION: &str = "KV-Operation";
const TTL: &str = "Nats-TTL";
/// Of one operation, but for a list of keys.
const TIMEOUT: Duration = Duration::from_secs(5);
const LIST_TIMEOUT: Duration = Duration::from_secs(10);
/// Lists that the guests of one workload read at a time on this node, those included that the server has yet to forget. One
/// more waits.
const LISTS_MAX: usize = 16;

/// Opens buckets for the guests of one node. Clones share their connections.
#[derive(Clone)]
pub struct GuestBuckets(Arc<Guests>);

struct Guests {
    options: ConnectOptions,
    workloads: Mutex<BTreeMap<WorkloadName, Weak<Line>>>,
    /// Of all workloads: they are connected in the same way.
    away: Away,
}

/// What the guests of one workload have on this node.
pub(crate) struct Line {
    nats: OnceCell<Nats>,
    lists: Arc<Semaphore>,
}

impl Line {
    fn new() -> Self {
        Self { nats: OnceCell::new(), lists: Arc::new(Semaphore::new(LISTS_MAX)) }
    }
}

impl GuestBuckets {
    /// Connect in this way when a guest first opens something. The name is the front of the connections' names.
    pub fn new(options: ConnectOptions) -> Self {
        Self(Arc::new(Guests { options, workloads: Mutex::default(), away: Away::default() }))
    }

    /// The connection of a workload's guests, kept as long as one of them has something open.
    pub(crate) fn line(&self, workload: &WorkloadName) -> Arc<Line> {
        let mut workloads = self.0.workloads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = workloads.get(workload).and_then(Weak::upgrade) {
            return line;
        }
        workloads.retain(|_, line| line.strong_count() > 0);
        let line = Arc::new(Line::new());
        workloads.insert(workload.clone(), Arc::downgrade(&line));
        line
    }

    async fn connect(&self, workload: &WorkloadName) -> Result<Nats, BucketError> {
        // The error names servers, and what is in their URLs: nothing for a guest.
        let unreachable = || BucketError::Unreachable("not connected to NATS".into());
        // Those who waited for the try that failed find it here.
        if self.0.away.is_known(Instant::now()) {
            return Err(unreachable());
        }
        let name = format!("{} guests of {workload}", self.0.options.name);
        let options = ConnectOptions { name, retry_first: false, own_inbox: true, ..self.0.options.clone() };
        connect(options).await.map_err(|error| {
            if let Some(suppressed) = self.0.away.note(Instant::now()) {
                tracing::warn!(%workload, %error, suppressed, "no connection for the guests of a workload");
            }
            unreachable()
        })
    }

    pub(crate) async fn connected(&self, line: &Line, workload: &WorkloadName) -> Result<Nats, BucketError> {
        line.nats.get_or_try_init(|| self.connect(workload)).await.cloned()
    }
}

impl fmt::Debug for GuestBuckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestBuckets").finish_non_exhaustive()
    }
}

impl Buckets for GuestBuckets {
    fn open(&self, workload: &WorkloadName, bucket: &BucketName) -> Fut<'_, Result<Arc<dyn KeyValue>, BucketError>> {
        let (line, workload, bucket) = (self.line(workload), workload.clone(), bucket.clone());
        Box::pin(async move {
            let nats = self.connected(&line, &workload).await?;
            let opened: Arc<dyn KeyValue> = Arc::new(NatsBucket::open(nats, &bucket, line).await?);
            Ok(opened)
        })
    }

    fn info(&self, workload: &WorkloadName, bucket: &BucketName) -> Fut<'_, Result<BucketInfo, BucketError>> {
        let (line, workload, bucket) = (self.line(workload), workload.clone(), bucket.clone());
        Box::pin(async move {
            let nats = self.connected(&line, &workload).await?;
            Ok(NatsBucket::open(nats, &bucket, line).await?.opened_as())
        })
    }

    fn open_objects(&self, workload: &WorkloadName, bucket: &BucketName) -> Fut<'_, Result<Arc<dyn Objects>, Failure>> {
        let (line, workload, bucket) = (self.line(workload), workload.clone(), bucket.clone());
        Box::pin(async move {
            let nats = self.connected(&line, &workload).await.map_err(|_| Failure::away())?;
            let opened: Arc<dyn Objects> = Arc::new(NatsObjects::open(nats, &bucket, line).await?);
            Ok(opened)
        })
    }
}

/// Opens buckets and streams over the connection of a node, for nobody's guests: to see whether they are there.
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
            let opened: Arc<dyn KeyValue> =
                Arc::new(NatsBucket::open(self.0.clone(), &bucket, Arc::new(Line::new())).await?);
            Ok(opened)
        })
    }

    fn info(&self, _: &WorkloadName, bucket: &BucketName) -> Fut<'_, Result<BucketInfo, BucketError>> {
        let bucket = bucket.clone();
        Box::pin(async move { Ok(NatsBucket::open(self.0.clone(), &bucket, Arc::new(Line::new())).await?.opened_as()) })
    }

    fn open_objects(&self, _: &WorkloadName, bucket: &BucketName) -> Fut<'_, Result<Arc<dyn Objects>, Failure>> {
        let bucket = bucket.clone();
        Box::pin(async move {
            let opened: Arc<dyn Objects> =
                Arc::new(NatsObjects::open(self.0.clone(), &bucket, Arc::new(Line::new())).await?);
            Ok(opened)
        })
    }
}

#[derive(Clone)]
struct NatsBucket {
    nats: Nats,
    stream: Stream,
    /// `$KV.BUCKET.`
    prefix: String,
    /// Keeps the connection that is its workload's.
    line: Arc<Line>,
}

/// The last message of a key.
struct Last {
    /// `None` where it says that the key was deleted.
    value: Option<Bytes>,
    revision: Revision,
}

impl NatsBucket {
    async fn open(nats: Nats, bucket: &BucketName, line: Arc<Line>) -> Result<NatsBucket, BucketError> {
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
        Ok(NatsBucket { nats, stream, prefix: format!("$KV.{bucket}."), line })
    }

    /// How it was configured when it was opened.
    fn opened_as(&self) -> BucketInfo {
        native::bucket_info(&self.stream.cached_info().config)
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
}

/// As NATS reads it: whole seconds, no less than was asked for.
fn seconds(ttl: Duration) -> String {
    format!("{}s", ttl.as_nanos().div_ceil(1_000_000_000))
}

fn reachable(nats: &Nats) -> Result<(), BucketError> {
    match nats.connection() {
        Connection::Up => Ok(()),
        Connection::Down => Err(BucketError::Unreachable("not connected to NATS".into())),
    }
}

impl KeyValue for NatsBucket {
    fn value_bytes_max(&self) -> usize {
        match self.nats.server().payload_bytes_max {
            0 => NATS_PAYLOAD_BYTES_DEFAULT, // not connected yet
            most => most,
        }
    }

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
            reachable(&self.nats)?;
            let page = async {
                let place = self.line.lists.clone().acquire_owned().await;
                let place = place.map_err(|_| BucketError::Unreachable("the replica ends".into()))?;
                list::page(self, place, after, most).await
            };
            let page = tokio::time::timeout(LIST_TIMEOUT, page).await;
            page.unwrap_or_else(|_| Err(BucketError::Unreachable("no list of the keys in time".into())))
        })
    }
}
