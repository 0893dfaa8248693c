//! [`lattice::bucket`] over JetStream KV and object stores. Guests have connections apart from the lattice's own, one for each workload on a
//! node and account: their traffic waits for itself alone, shows under the workload's name in the server's list of connections, and
//! gets replies under a prefix that no other connection listens on. Accounts of their own are in `account.rs`.

mod account;
mod api;
mod away;
mod batches;
mod changes;
mod consumers;
mod counters;
mod direct;
mod list;
mod many;
mod native;
mod node;
mod objects;
mod passing;
mod pull;
mod readers;
mod schedules;
mod streams;

use crate::{
    connect::{ConnectOptions, Nats, connect},
    store::is_deletion,
};
pub(crate) use account::Shown;
use account::{Place, Tries};
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
    account::{Account, Login},
    address::AddressPolicy,
    bucket::{BucketError, Buckets, KeyValue, Keys, Value, encode_key},
    id::{Revision, WorkloadName},
    limits::NATS_PAYLOAD_BYTES_DEFAULT,
    nats::{BucketInfo, Failure, LoginError},
    objects::Objects,
    spec::BucketName,
    store::Connection,
};
pub(crate) use node::NodeBuckets;
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
    lines: Mutex<BTreeMap<Login, Weak<Line>>>,
    /// What was given last for each account, whichever connection it was given for.
    shown: Mutex<BTreeMap<Place, Weak<Shown>>>,
    /// Of all workloads without an account: they are connected in the same way.
    away: Away,
    /// Of each account by itself, for as long as there is something to remember.
    tries: Mutex<BTreeMap<Login, Arc<Tries>>>,
    /// Where servers of other clusters may be.
    addresses: AddressPolicy,
}

/// What the guests of one workload have on this node, in one account.
pub(crate) struct Line {
    nats: OnceCell<Nats>,
    lists: Arc<Semaphore>,
    /// Of an account of its own.
    own: Option<OwnAccount>,
}

/// An account that is the workload's own.
struct OwnAccount {
    account: Arc<Account>,
    shown: Arc<Shown>,
    tries: Arc<Tries>,
}

impl Line {
    fn new(own: Option<OwnAccount>) -> Self {
        Self { nats: OnceCell::new(), lists: Arc::new(Semaphore::new(LISTS_MAX)), own }
    }
}

impl GuestBuckets {
    /// Connect in this way when a guest first opens something. The name is the front of the connections' names.
    pub fn new(options: ConnectOptions) -> Self {
        Self::reaching(options, AddressPolicy::default())
    }

    /// The same, and servers that workloads name may be at these addresses.
    pub fn reaching(options: ConnectOptions, addresses: AddressPolicy) -> Self {
        let (lines, shown, tries) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self(Arc::new(Guests { options, lines, shown, away: Away::default(), tries, addresses }))
    }

    /// The connection of a workload's guests, kept as long as one of them has something open.
    pub(crate) fn line(&self, login: &Login) -> Arc<Line> {
        let mut lines = self.0.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get(login).and_then(Weak::upgrade) {
            return line;
        }
        lines.retain(|_, line| line.strong_count() > 0);
        let line = Arc::new(Line::new(login.account.as_ref().map(|account| OwnAccount {
            account: account.clone(),
            shown: self.shown(&login.workload, account),
            tries: self.tries(login),
        })));
        lines.insert(login.clone(), Arc::downgrade(&line));
        line
    }

    async fn connect(&self, line: &Line, workload: &WorkloadName) -> Result<Nats, LoginError> {
        let away = line.own.as_ref().map_or(&self.0.away, |own| &own.tries.away);
        // Those who waited for the try that failed find it here.
        if away.is_known(Instant::now()) {
            let told = line.own.as_ref().and_then(|own| own.tries.error());
            return Err(told.unwrap_or_else(|| LoginError::Unreachable("a try a moment ago was in vain".into())));
        }
        let name = format!("{} guests of {workload}", self.0.options.name);
        let options = ConnectOptions { name, retry_first: false, own_inbox: true, ..self.0.options.clone() };
        let connected = match &line.own {
            None => connect(options).await.map_err(|error| LoginError::Unreachable(error.to_string())),
            Some(own) => account::connect(options, own, &self.0.addresses).await,
        };
        connected.inspect_err(|error| {
            if let Some(own) = &line.own {
                own.tries.note(error);
            }
            if let Some(suppressed) = away.note(Instant::now()) {
                tracing::warn!(%workload, %error, suppressed, "no connection for the guests of a workload");
            }
        })
    }

    /// The error of a login names servers, and what is in their URLs: nothing for a guest.
    pub(crate) async fn connected(&self, line: &Line, login: &Login) -> Result<Nats, BucketError> {
        let connected = self.entered(line, login).await;
        connected.map_err(|_| BucketError::Unreachable("not connected to NATS".into()))
    }

    pub(crate) async fn entered(&self, line: &Line, login: &Login) -> Result<Nats, LoginError> {
        line.nats.get_or_try_init(|| self.connect(line, &login.workload)).await.cloned()
    }
}

impl fmt::Debug for GuestBuckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestBuckets").finish_non_exhaustive()
    }
}

impl Buckets for GuestBuckets {
    fn open(&self, login: &Login, bucket: &BucketName) -> Fut<'_, Result<Arc<dyn KeyValue>, BucketError>> {
        let (line, login, bucket) = (self.line(login), login.clone(), bucket.clone());
        Box::pin(async move {
            let nats = self.connected(&line, &login).await?;
            let opened: Arc<dyn KeyValue> = Arc::new(NatsBucket::open(nats, &bucket, line).await?);
            Ok(opened)
        })
    }

    fn info(&self, login: &Login, bucket: &BucketName) -> Fut<'_, Result<BucketInfo, BucketError>> {
        let (line, login, bucket) = (self.line(login), login.clone(), bucket.clone());
        Box::pin(async move {
            let nats = self.connected(&line, &login).await?;
            Ok(NatsBucket::open(nats, &bucket, line).await?.opened_as())
        })
    }

    fn open_objects(&self, login: &Login, bucket: &BucketName) -> Fut<'_, Result<Arc<dyn Objects>, Failure>> {
        let (line, login, bucket) = (self.line(login), login.clone(), bucket.clone());
        Box::pin(async move {
            let nats = self.connected(&line, &login).await.map_err(|_| Failure::away())?;
            let opened: Arc<dyn Objects> = Arc::new(NatsObjects::open(nats, &bucket, line).await?);
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
