//! [`lattice::store::Store`] over JetStream KV. Every write is our own publish with an expectation: async-nats's
//! `create_with_ttl` loses the expiry over a tombstone, and its `put` has no expectation at all.

use crate::{
    connect::{ConnectError, Nats},
    layout::{Layout, TOMBSTONE_TTL, ensure_bucket, ensure_streams},
};
use async_nats::{
    HeaderMap,
    jetstream::{context::PublishErrorKind, kv, stream::LastRawMessageErrorKind},
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use lattice::{
    Fut,
    id::{LatticeId, Revision},
    store::{Bucket, Change, Connection, Entry, FeedItem, Items, Precondition, Snapshot, Store, StoreError},
    subject,
};
use std::{collections::BTreeMap, time::Duration};
use tokio_util::sync::CancellationToken;

const EXPECTED_SEQUENCE: &str = "Nats-Expected-Last-Subject-Sequence";
const OPERATION: &str = "KV-Operation";
const ROLLUP: &str = "Nats-Rollup";
const TTL: &str = "Nats-TTL";
const MARKER_REASON: &str = "Nats-Marker-Reason";
const SEQUENCE: &str = "Nats-Sequence";
const ORIGINAL_SUBJECT: &str = "Nats-Subject";

/// For one step of a snapshot: an answer, or the next record.
const SNAPSHOT_STEP: Duration = Duration::from_secs(10);
/// For all of it. As long as it goes on it is not given up: many nodes that ask at once, as after a restart of all, have to wait for
/// each other, and who asks anew makes it longer for all.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Clone)]
pub(crate) struct NatsStore {
    nats: Nats,
    lattice: LatticeId,
    /// Make a bucket that has vanished. Operators' tools must not.
    create: bool,
}

impl NatsStore {
    pub(crate) fn new(nats: Nats, lattice: LatticeId, create: bool) -> Self {
        Self { nats, lattice, create }
    }

    fn stream_name(&self, bucket: Bucket) -> String {
        format!("KV_{}", subject::bucket_name(&self.lattice, bucket))
    }

    fn prefix(&self, bucket: Bucket) -> String {
        format!("$KV.{}.", subject::bucket_name(&self.lattice, bucket))
    }

    fn reachable(&self) -> Result<(), StoreError> {
        match self.nats.connection() {
            Connection::Up => Ok(()),
            // Sent now, a write would wait in the client's buffer and land at some later time.
            Connection::Down => Err(StoreError::Unreachable("not connected to NATS".into())),
        }
    }

    /// The key's last message, deletions included.
    async fn last(&self, bucket: Bucket, key: &str) -> Result<Option<Change>, StoreError> {
        self.reachable()?;
        let stream = self
            .nats
            .jetstream
            .get_stream_no_info(self.stream_name(bucket))
            .await
            .map_err(|error| StoreError::Refused(error.to_string()))?;
        let subject = format!("{}{key}", self.prefix(bucket));
        match stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => Ok(Some(Change {
                key: key.to_owned(),
                value: (!is_deletion(&message.headers)).then_some(message.payload),
                revision: Revision(message.sequence),
            })),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(StoreError::Unreachable(error.to_string())),
        }
    }

    async fn publish(
        &self,
        bucket: Bucket,
        key: &str,
        expect: Revision,
        mut headers: HeaderMap,
        value: Bytes,
    ) -> Result<Revision, StoreError> {
        self.reachable()?;
        headers.insert(EXPECTED_SEQUENCE, expect.0.to_string().as_str());
        let doing = || format!("writing {bucket}/{key}");
        let subject = format!("{}{key}", self.prefix(bucket));
        let publish = async { self.nats.jetstream.publish_with_headers(subject, headers, value).await?.await };
        match publish.await {
            Ok(ack) => Ok(Revision(ack.sequence)),
            Err(error) => Err(match error.kind() {
                PublishErrorKind::WrongLastSequence => StoreError::Conflict { bucket, key: key.to_owned() },
                PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => {
                    StoreError::OutcomeUnknown { doing: doing() }
                }
                PublishErrorKind::StreamNotFound => StoreError::Unreachable(error.to_string()),
                // Which kind a lost race gets varies; the server's error code is in the text (10071, 10164).
                _ if error.to_string().contains("wrong last sequence") => {
                    StoreError::Conflict { bucket, key: key.to_owned() }
                }
                _ => StoreError::Refused(error.to_string()),
            }),
        }
    }

    async fn bucket(&self, bucket: Bucket) -> Result<kv::Store, StoreError> {
        self.reachable()?;
        let refused = |error: ConnectError| StoreError::Refused(error.to_string());
        match ensure_bucket(&self.nats, &self.lattice, bucket, false).await {
            Err(_) if self.create => {
                // What took one away may have taken all: also those that this store does not read.
                Layout::open(&self.nats, &self.lattice, true).await.map_err(refused)?;
                ensure_bucket(&self.nats, &self.lattice, bucket, true).await.map_err(refused)
            }
            result => result.map_err(refused),
        }
    }

    async fn snapshot_now(&self, bucket: Bucket) -> Result<Snapshot, StoreError> {
        let store = in_time(bucket, Box::pin(self.bucket(bucket))).await??;
        let refused = |error: &dyn std::fmt::Display| StoreError::Refused(error.to_string());
        let info = store.stream.cached_info();
        let identity = info.created.unix_timestamp_nanos().to_string();
        let mut head = Revision(info.state.last_sequence);
        if info.state.messages == 0 {
            return Ok(Snapshot { identity, head, entries: Vec::new() });
        }
        // The values below may come from a replica that is behind the leader. Once the leader's last message has passed,
        // everything up to it has. (If it expired meanwhile, there is nothing to wait for.)
        let tail = in_time(bucket, store.stream.get_raw_message(head.0)).await?;
        let tail = tail.map(|message| Revision(message.sequence)).ok();
        let mut last = BTreeMap::new();
        let mut values = in_time(bucket, store.watch_with_history(">")).await?.map_err(|error| refused(&error))?;
        while let Some(item) = in_time(bucket, values.next()).await? {
            let entry = item.map_err(|error| refused(&error))?;
            let revision = Revision(entry.revision);
            head = head.max(revision);
            match entry.operation {
                kv::Operation::Put => {
                    last.insert(entry.key.clone(), Entry { key: entry.key, value: entry.value, revision });
                }
                // A key that was delivered may be deleted before the last one is.
                kv::Operation::Delete | kv::Operation::Purge => drop(last.remove(&entry.key)),
            }
            if entry.delta == 0 && tail.is_none_or(|tail| revision >= tail) {
                let mut entries: Vec<Entry> = last.into_values().collect();
                entries.sort_by_key(|entry| entry.revision);
                return Ok(Snapshot { identity, head, entries });
            }
        }
        Err(StoreError::Unreachable("the snapshot ended early".into()))
    }
}

/// One step of a snapshot.
async fn in_time<T>(bucket: Bucket, step: impl Future<Output = T>) -> Result<T, StoreError> {
    let late = |_| StoreError::Unreachable(format!("no snapshot of {bucket} in time"));
    tokio::time::timeout(SNAPSHOT_STEP, step).await.map_err(late)
}

/// A deletion by a client, or the server's marker for a key that expired.
pub(crate) fn is_deletion(headers: &HeaderMap) -> bool {
    headers.get(MARKER_REASON).is_some()
        || headers.get(OPERATION).is_some_and(|operation| matches!(operation.as_str(), "DEL" | "PURGE"))
}

impl Store for NatsStore {
    fn get(&self, bucket: Bucket, key: &str) -> Fut<'_, Result<Option<Entry>, StoreError>> {
        let key = key.to_owned();
        Box::pin(async move {
            let last = self.last(bucket, &key).await?;
            Ok(last.and_then(|Change { key, value, revision }| value.map(|value| Entry { key, value, revision })))
        })
    }

    fn write(
        &self,
        bucket: Bucket,
        key: &str,
        value: Bytes,
        expect: Precondition,
    ) -> Fut<'_, Result<Revision, StoreError>> {
        let key = key.to_owned();
        Box::pin(async move {
            let expected = match expect {
                Precondition::At(revision) => revision,
                // A deleted key still has a last message: its tombstone's revision is what "absent" means then.
                Precondition::Absent => match self.last(bucket, &key).await? {
                    None => Revision(0),
                    Some(Change { value: None, revision, .. }) => revision,
                    Some(_) => return Err(StoreError::Conflict { bucket, key }),
                },
            };
            self.publish(bucket, &key, expected, HeaderMap::new(), value).await
        })
    }

    fn delete(&self, bucket: Bucket, key: &str, expect: Revision) -> Fut<'_, Result<Revision, StoreError>> {
        let key = key.to_owned();
        Box::pin(async move {
            let mut headers = HeaderMap::new();
            headers.insert(OPERATION, "PURGE");
            headers.insert(ROLLUP, "sub");
            headers.insert(TTL, format!("{}s", TOMBSTONE_TTL.as_secs()).as_str());
            self.publish(bucket, &key, expect, headers, Bytes::new()).await
        })
    }

    fn snapshot(&self, bucket: Bucket) -> Fut<'_, Result<Snapshot, StoreError>> {
        Box::pin(async move {
            // With each resync: nobody reads the stream of events, so nobody would notice that it is gone.
            if self.create && bucket == Bucket::State {
                let ensured = tokio::time::timeout(SNAPSHOT_STEP, ensure_streams(&self.nats, &self.lattice));
                if let Ok(Err(error)) = ensured.await {
                    tracing::warn!(%error, "what the lattice needs beside its buckets is not there");
                }
            }
            tokio::time::timeout(SNAPSHOT_TIMEOUT, Box::pin(self.snapshot_now(bucket)))
                .await
                .unwrap_or_else(|_| Err(StoreError::Unreachable(format!("no snapshot of {bucket} in time"))))
        })
    }

    fn history(&self, bucket: Bucket, key: &str) -> Fut<'_, Result<Vec<Change>, StoreError>> {
        let key = key.to_owned();
        Box::pin(async move {
            // A key without any message would make the consumer wait for one.
            if self.last(bucket, &key).await?.is_none() {
                return Ok(Vec::new());
            }
            let store = self.bucket(bucket).await?;
            let refused = |error: &dyn std::fmt::Display| StoreError::Refused(error.to_string());
            let mut items = store.history(&key).await.map_err(|error| refused(&error))?;
            let mut changes = Vec::new();
            while let Some(item) = items.next().await {
                let entry = item.map_err(|error| refused(&error))?;
                let value = (entry.operation == kv::Operation::Put).then_some(entry.value);
                changes.push(Change { key: entry.key, value, revision: Revision(entry.revision) });
            }
            Ok(changes)
        })
    }

    fn feed(&self) -> Fut<'_, Result<Items<FeedItem>, StoreError>> {
        Box::pin(async move {
            let stop = CancellationToken::new().drop_guard();
            let mut subscriptions = Vec::new();
            for bucket in Bucket::ALL {
                let subject = format!("{}.>", subject::republish_prefix(&self.lattice, bucket));
                let messages = self
                    .nats
                    .client
                    .subscribe(subject)
                    .await
                    .map_err(|error| StoreError::Unreachable(error.to_string()))?;
                let prefix = self.prefix(bucket);
                subscriptions.push(
                    messages.filter_map(move |message| std::future::ready(change(bucket, &prefix, message))).boxed(),
                );
            }
            // The subscriptions must stand on the server before the caller takes its snapshot.
            self.nats.client.flush().await.map_err(|error| StoreError::Unreachable(error.to_string()))?;
            let mut epochs = self.nats.epochs.clone();
            epochs.mark_unchanged();
            let reconnects = stream::unfold((epochs, stop), |(mut epochs, stop)| async move {
                epochs.changed().await.ok()?;
                Some((FeedItem::Gap, (epochs, stop)))
            });
            let changes = stream::select_all(subscriptions);
            Ok(stream::select(reconnects, changes).boxed())
        })
    }
}

/// A republished message as a change. What does not look like one was not sent by the server's republish.
fn change(bucket: Bucket, prefix: &str, message: async_nats::Message) -> Option<FeedItem> {
    let headers = message.headers.as_ref()?;
    let key = headers.get(ORIGINAL_SUBJECT)?.as_str().strip_prefix(prefix)?.to_owned();
    let revision = Revision(headers.get(SEQUENCE)?.as_str().parse().ok()?);
    let value = (!is_deletion(headers)).then_some(message.payload);
    Some(FeedItem::Change(bucket, Change { key, value, revision }))
}
