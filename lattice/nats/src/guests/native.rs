//! [`lattice::nats`] on the connection that a workload's guests have for all they do.

use super::{
    EXPECTED_SEQUENCE, GuestBuckets, Line, NatsBucket, OPERATION, TTL,
    api::{TIMEOUT, of_jetstream, of_open, of_request, store, to_headers, too_large},
    batches,
    changes::{NatsChanges, entry},
    many,
    objects::NatsObjects,
    reachable, seconds,
    streams::{NatsStream, strange},
};
use crate::{connect::Nats, outbox::Outbox};
use async_nats::{
    HeaderMap, Request, Subscriber,
    client::RequestErrorKind,
    jetstream::{
        context::GetStreamErrorKind,
        message::StreamMessage,
        stream::{Config, DirectGetErrorKind, LastRawMessageErrorKind, StorageType},
    },
    message::OutboundMessage,
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use lattice::{
    Fut,
    account::Login,
    id::Revision,
    limits::NATS_PAYLOAD_BYTES_DEFAULT,
    nats::{
        Arrival, Bucket, BucketInfo, ChangeEvent, Code, Consistency, Entry, Failure, Feed, Link, Links, LoginError,
        Message, Reading, Server, Stream, Write, Writing, check_key, check_key_filter,
    },
    objects::Objects,
    spec::{BucketName, StreamName},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// Filters of one list or watch.
const FILTERS_MAX: usize = 16;
const ROLLUP: &str = "Nats-Rollup";

impl Links for GuestBuckets {
    fn link(&self, login: &Login) -> Fut<'_, Result<Arc<dyn Link>, Failure>> {
        let (line, login) = (self.line(login), login.clone());
        Box::pin(async move {
            let nats = self.connected(&line, &login).await.map_err(|_| Failure::away())?;
            Ok(link(nats, line))
        })
    }

    fn enter(&self, login: &Login) -> Fut<'_, Result<Arc<dyn Link>, LoginError>> {
        let (line, login) = (self.line(login), login.clone());
        Box::pin(async move {
            let nats = self.entered(&line, &login).await?;
            Ok(link(nats, line))
        })
    }
}

pub(super) fn link(nats: Nats, line: Arc<Line>) -> Arc<dyn Link> {
    Arc::new(NatsLink { outbox: Outbox::new(nats.client.clone()), nats, line })
}

struct NatsLink {
    outbox: Outbox,
    nats: Nats,
    line: Arc<Line>,
}

impl NatsLink {
    fn up(&self) -> Result<(), Failure> {
        reachable(&self.nats).map_err(|_| Failure::away())
    }

    fn fits(&self, message: &Message) -> Result<(), Failure> {
        let limit = self.payload_bytes_max();
        if message.bytes() > limit { Err(too_large(limit)) } else { Ok(()) }
    }

    /// The server answers it behind all that was sent before: nobody listens there.
    async fn round_trip(&self, within: Duration) -> Result<(), Failure> {
        let request = Request::new().payload(Bytes::new()).timeout(Some(within));
        let asked = self.nats.client.send_request(self.nats.client.new_inbox(), request);
        match tokio::time::timeout(within, asked).await {
            Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => Ok(()),
            Ok(Err(error)) => Err(of_request(&error, 0)),
            Ok(Ok(_)) => Ok(()),
            Err(_) => Err(Failure::maybe(Code::Timeout, "no answer in time")),
        }
    }
}

impl Link for NatsLink {
    fn server(&self) -> Server {
        Server { version: self.nats.server().version, payload_bytes_max: self.payload_bytes_max() }
    }

    fn payload_bytes_max(&self) -> usize {
        match self.nats.client.max_payload() {
            0 => NATS_PAYLOAD_BYTES_DEFAULT,
            limit => limit,
        }
    }

    fn publish(&self, message: Message) -> Fut<'_, Result<(), Failure>> {
        Box::pin(async move {
            self.up()?;
            self.fits(&message)?;
            let Message { subject, reply, headers, payload } = message;
            let headers = to_headers(&headers)?;
            let message = OutboundMessage { subject: subject.into(), reply: reply.map(Into::into), payload, headers };
            let full = Failure::not(Code::Timeout, "the connection takes no more messages now");
            let handed_over = tokio::time::timeout(TIMEOUT, self.outbox.publish(message)).await.map_err(|_| full)?;
            handed_over.map_err(|_| Failure::away())
        })
    }

    fn flush(&self, within: Duration) -> Fut<'_, Result<(), Failure>> {
        Box::pin(async move {
            let lost = |_| Failure::maybe(Code::Disconnected, "the connection to NATS was lost");
            self.up().map_err(|failure| Failure::maybe(failure.code, failure.detail))?;
            let late = Failure::maybe(Code::Timeout, "no answer in time");
            tokio::time::timeout(within, self.outbox.handed_over()).await.map_err(|_| late)?.map_err(lost)?;
            self.round_trip(within).await
        })
    }

    fn request(&self, message: Message, within: Duration) -> Fut<'_, Result<Message, Failure>> {
        Box::pin(async move {
            self.up()?;
            self.fits(&message)?;
            let limit = self.payload_bytes_max();
            let mut request = Request::new().payload(message.payload).timeout(Some(within));
            if let Some(headers) = to_headers(&message.headers)? {
                request = request.headers(headers);
            }
            // The client waits for its connection to take a request without a limit.
            let asked = tokio::time::timeout(within, self.nats.client.send_request(message.subject, request)).await;
            let answer = asked.unwrap_or_else(|_| Err(RequestErrorKind::TimedOut.into()));
            answer.map(from_nats).map_err(|error| of_request(&error, limit))
        })
    }

    fn ask_all(&self, subject: String, first_alone: bool, within: Duration) -> Fut<'_, Result<Vec<Bytes>, Failure>> {
        Box::pin(async move {
            self.up()?;
            match first_alone {
                true => many::one(&self.nats, subject, within).await,
                false => many::all(&self.nats, subject, within).await,
            }
        })
    }

    fn subscribe(&self, filter: String, group: Option<String>) -> Fut<'_, Result<Box<dyn Feed<Arrival>>, Failure>> {
        Box::pin(async move {
            self.up()?;
            let (mut epochs, mut drops) = (self.nats.epochs.clone(), self.nats.drops.clone());
            let client = &self.nats.client;
            let subscribe = async {
                // The connection that there is has been counted: what is counted after it is another one.
                let _ = epochs.wait_for(|epoch| *epoch > 0).await;
                epochs.mark_unchanged();
                drops.mark_unchanged();
                let subscriber = match group {
                    Some(group) => client.queue_subscribe(filter, group).await,
                    None => client.subscribe(filter).await,
                };
                let subscriber = subscriber.map_err(|error| Failure::not(Code::Disconnected, error.to_string()))?;
                self.round_trip(TIMEOUT).await.map_err(Failure::of_read)?;
                Ok(subscriber)
            };
            let late = Failure::not(Code::Timeout, "no answer in time");
            let subscriber = tokio::time::timeout(TIMEOUT, subscribe).await.map_err(|_| late)??;
            let arrivals: Box<dyn Feed<Arrival>> =
                Box::new(NatsArrivals { subscriber, epochs, drops, _line: self.line.clone() });
            Ok(arrivals)
        })
    }

    fn bucket(&self, bucket: &BucketName) -> Fut<'_, Result<Arc<dyn Bucket>, Failure>> {
        let bucket = bucket.clone();
        Box::pin(async move {
            let opened = NatsBucket::open(self.nats.clone(), &bucket, self.line.clone()).await.map_err(of_open)?;
            let bucket: Arc<dyn Bucket> = Arc::new(opened);
            Ok(bucket)
        })
    }

    fn stream(&self, stream: &StreamName) -> Fut<'_, Result<Arc<dyn Stream>, Failure>> {
        let stream = stream.clone();
        Box::pin(async move {
            let stream: Arc<dyn Stream> =
                Arc::new(NatsStream::open(self.nats.clone(), &stream, self.line.clone()).await?);
            Ok(stream)
        })
    }

    fn objects(&self, bucket: &BucketName) -> Fut<'_, Result<Arc<dyn Objects>, Failure>> {
        let bucket = bucket.clone();
        Box::pin(async move {
            let objects: Arc<dyn Objects> =
                Arc::new(NatsObjects::open(self.nats.clone(), &bucket, self.line.clone()).await?);
            Ok(objects)
        })
    }
}

fn from_nats(message: async_nats::Message) -> Message {
    let lines = message.headers.iter().flat_map(HeaderMap::iter);
    let headers =
        lines.flat_map(|(name, values)| values.iter().map(move |value| (name.to_string(), value.to_string())));
    Message {
        headers: headers.collect(),
        subject: message.subject.into_string(),
        reply: message.reply.map(|reply| reply.into_string()),
        payload: message.payload,
    }
}

/// How a bucket is configured by this stream of it.
pub(super) fn bucket_info(config: &Config) -> BucketInfo {
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    let placement = config.placement.clone().unwrap_or_default();
    BucketInfo {
        replicas: u32::try_from(config.num_replicas).unwrap_or(1),
        in_memory: config.storage == StorageType::Memory,
        history: u32::try_from(config.max_messages_per_subject).unwrap_or(0),
        max_age: config.max_age,
        key_ttl: config.allow_message_ttl,
        direct: config.allow_direct,
        atomic: config.allow_atomic_publish,
        value_bytes_max: unsigned(config.max_message_size.into()),
        bytes_max: unsigned(config.max_bytes),
        marker_ttl: config.subject_delete_marker_ttl.unwrap_or_default(),
        tags: placement.tags,
        cluster: placement.cluster.filter(|cluster| !cluster.is_empty()),
    }
}

struct NatsArrivals {
    subscriber: Subscriber,
    epochs: watch::Receiver<u64>,
    drops: watch::Receiver<u64>,
    /// Keeps the connection.
    _line: Arc<Line>,
}

impl Feed<Arrival> for NatsArrivals {
    fn next(&mut self) -> Fut<'_, Option<Arrival>> {
        Box::pin(async {
            tokio::select! {
                biased;
                Ok(()) = self.epochs.changed() => Some(Arrival::Interrupted),
                Ok(()) = self.drops.changed() => Some(Arrival::Interrupted),
                message = self.subscriber.next() => message.map(|message| Arrival::Message(from_nats(message))),
            }
        })
    }
}

/// A change of a key as a message.
fn written(write: Write) -> (HeaderMap, Bytes) {
    let Write { what, expect, ttl } = write;
    let mut headers = HeaderMap::new();
    let payload = match what {
        Writing::Put(value) => value,
        Writing::Delete => {
            headers.insert(OPERATION, "DEL");
            Bytes::new()
        }
        Writing::Purge => {
            headers.insert(OPERATION, "PURGE");
            headers.insert(ROLLUP, "sub");
            Bytes::new()
        }
    };
    if let Some(revision) = expect {
        headers.insert(EXPECTED_SEQUENCE, revision.0.to_string().as_str());
    }
    if let Some(ttl) = ttl {
        headers.insert(TTL, seconds(ttl).as_str());
    }
    (headers, payload)
}

impl NatsBucket {
    /// Its stream's configuration now.
    async fn config(&self) -> Result<Config, Failure> {
        let name = &self.stream.cached_info().config.name;
        match self.nats.jetstream.get_stream(name).await {
            Ok(stream) => Ok(stream.cached_info().config.clone()),
            Err(error) => Err(match error.kind() {
                GetStreamErrorKind::JetStream(error) => of_jetstream(error.error_code().0, &error.to_string()),
                _ => Failure::not(Code::NoResponders, "no server answers for the bucket now"),
            }),
        }
    }

    fn entry(&self, message: StreamMessage) -> Option<Entry> {
        let StreamMessage { subject, sequence, headers, payload, time } = message;
        let created = u64::try_from(time.unix_timestamp_nanos()).unwrap_or(0);
        entry(&self.prefix, &subject, sequence, created, Some(&headers), payload)
    }

    /// Also that the key is one.
    fn subject(&self, key: &str) -> Result<String, Failure> {
        check_key(key)?;
        reachable(&self.nats).map_err(|_| Failure::away())?;
        Ok(format!("{}{key}", self.prefix))
    }
}

fn of_read_error(kind: LastRawMessageErrorKind) -> Result<Option<Entry>, Failure> {
    match kind {
        LastRawMessageErrorKind::NoMessageFound => Ok(None),
        LastRawMessageErrorKind::JetStream(error) => Err(of_jetstream(error.error_code().0, &error.to_string())),
        _ => Err(Failure::not(Code::NoResponders, "no server answers for the bucket now")),
    }
}

impl Bucket for NatsBucket {
    fn value_bytes_max(&self) -> usize {
        lattice::bucket::KeyValue::value_bytes_max(self)
    }

    fn info(&self) -> Fut<'_, Result<BucketInfo, Failure>> {
        Box::pin(async move {
            reachable(&self.nats).map_err(|_| Failure::away())?;
            Ok(bucket_info(&self.config().await?))
        })
    }

    fn get(&self, key: &str, consistency: Consistency) -> Fut<'_, Result<Option<Entry>, Failure>> {
        let subject = self.subject(key);
        Box::pin(async move {
            let subject = subject?;
            if consistency == Consistency::Leader {
                return match self.stream.get_last_raw_message_by_subject(&subject).await {
                    Ok(message) => Ok(self.entry(message)),
                    Err(error) => of_read_error(error.kind()),
                };
            }
            if !self.stream.cached_info().config.allow_direct {
                return Err(Failure::not(Code::Unsupported, "the bucket allows no direct reads"));
            }
            match self.stream.direct_get_last_for_subject(subject).await {
                Ok(message) => Ok(self.entry(message)),
                Err(error) => match error.kind() {
                    DirectGetErrorKind::NotFound => Ok(None),
                    DirectGetErrorKind::TimedOut => Err(Failure::not(Code::Timeout, "no answer in time")),
                    _ => Err(Failure::not(Code::NoResponders, "no server answers for the bucket now")),
                },
            }
        })
    }

    fn get_revision(&self, key: &str, revision: Revision) -> Fut<'_, Result<Option<Entry>, Failure>> {
        let subject = self.subject(key);
        Box::pin(async move {
            let subject = subject?;
            // The server takes 0 for no number at all.
            if revision == Revision(0) {
                return Ok(None);
            }
            match self.stream.get_raw_message(revision.0).await {
                Ok(message) if *message.subject == *subject => Ok(self.entry(message)),
                Ok(_) => Ok(None),
                Err(error) => of_read_error(error.kind()),
            }
        })
    }

    fn write(&self, key: &str, write: Write) -> Fut<'_, Result<Revision, Failure>> {
        let subject = self.subject(key);
        Box::pin(async move {
            let subject = subject?;
            let (headers, payload) = written(write);
            store(&self.nats.client, subject, headers, payload).await
        })
    }

    fn transact(&self, writes: Vec<(String, Write)>) -> Fut<'_, Result<Revision, Failure>> {
        Box::pin(async move {
            reachable(&self.nats).map_err(|_| Failure::away())?;
            let is_allowed = |config: &Config| config.allow_atomic_publish;
            if !is_allowed(&self.stream.cached_info().config) && !is_allowed(&self.config().await?) {
                let text = "the bucket takes no transactions (allow_atomic of its stream, nats-server 2.12)";
                return Err(Failure::not(Code::Unsupported, text));
            }
            let part = |(key, write): (String, Write)| {
                let (headers, payload) = written(write);
                Ok((self.subject(&key)?, headers, payload))
            };
            let batch: Result<Vec<_>, Failure> = writes.into_iter().map(part).collect();
            let answer = batches::publish(&self.nats, batch?).await.map_err(|failure| match failure.code {
                Code::WrongSequence => Failure { code: Code::WrongRevision, ..failure },
                _ => failure,
            })?;
            answer.seq.map(Revision).ok_or_else(strange)
        })
    }

    fn read(&self, filters: Vec<String>, reading: Reading) -> Fut<'_, Result<Box<dyn Feed<ChangeEvent>>, Failure>> {
        Box::pin(async move {
            if filters.len() > FILTERS_MAX {
                let text = format!("{} filters; at most {FILTERS_MAX} are allowed", filters.len());
                return Err(Failure::not(Code::Invalid("filters".into()), text));
            }
            filters.iter().try_for_each(|filter| check_key_filter(filter))?;
            let changes: Box<dyn Feed<ChangeEvent>> =
                Box::new(NatsChanges::open(self.clone(), filters, reading).await?);
            Ok(changes)
        })
    }
}
