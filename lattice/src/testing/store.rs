//! A key-value store in memory that behaves like JetStream KV behind `lattice-nats`: one sequence a bucket that counts
//! every write and deletion, compare-and-set against a key's last message (a tombstone is one), a bounded history, and
//! deletions that leave nothing but their tombstone.

use crate::{
    Fut,
    id::Revision,
    limits::{NATS_PAYLOAD_BYTES_DEFAULT, SPEC_HISTORY},
    store::{Bucket, Change, Entry, FeedItem, Items, Precondition, Snapshot, Store, StoreError},
};
use bytes::Bytes;
use futures_channel::mpsc;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Changes that wait in one feed. More are dropped, as a NATS client does: the reader sees the gap in the revisions.
const FEED_ITEMS_MAX: usize = 8 * 1024;

/// Clones are the same store.
#[derive(Clone, Default)]
pub struct MemoryStore {
    server: Arc<Mutex<Server>>,
}

/// What a store held at some moment.
#[derive(Clone)]
pub struct Checkpoint {
    streams: BTreeMap<Bucket, Stream>,
    recreated: BTreeMap<Bucket, u64>,
}

#[derive(Default)]
struct Server {
    streams: BTreeMap<Bucket, Stream>,
    /// How often each bucket was made anew. Part of its identity.
    recreated: BTreeMap<Bucket, u64>,
    feeds: Vec<mpsc::Sender<FeedItem>>,
}

#[derive(Clone, Default)]
struct Stream {
    head: u64,
    /// Each key's messages, oldest first; never an empty list.
    messages: BTreeMap<String, VecDeque<Change>>,
}

impl Stream {
    fn last(&self, key: &str) -> Option<&Change> {
        self.messages.get(key)?.back()
    }
}

impl Server {
    fn stream(&mut self, bucket: Bucket) -> &mut Stream {
        self.streams.entry(bucket).or_default()
    }

    /// Append a message and tell the feeds.
    fn append(&mut self, bucket: Bucket, key: &str, value: Option<Bytes>) -> Revision {
        let history = match bucket {
            Bucket::State => 1,
            Bucket::Specs => usize::from(SPEC_HISTORY),
        };
        let stream = self.stream(bucket);
        stream.head += 1;
        let revision = Revision(stream.head);
        let messages = stream.messages.entry(key.to_owned()).or_default();
        if value.is_none() {
            messages.clear();
        }
        let change = Change { key: key.to_owned(), value, revision };
        messages.push_back(change.clone());
        while messages.len() > history {
            messages.pop_front();
        }
        self.tell(&FeedItem::Change(bucket, change));
        revision
    }

    fn tell(&mut self, item: &FeedItem) {
        self.feeds.retain_mut(|feed| {
            let _dropped_when_full = feed.try_send(item.clone());
            !feed.is_closed()
        });
    }

    /// Append if the key's last message is at the expected revision; zero stands for a key without messages.
    fn compare_and_append(
        &mut self,
        bucket: Bucket,
        key: &str,
        value: Option<Bytes>,
        expect: Revision,
    ) -> Result<Revision, StoreError> {
        let last = self.stream(bucket).last(key).map_or(Revision(0), |last| last.revision);
        if last != expect {
            return Err(StoreError::Conflict { bucket, key: key.to_owned() });
        }
        Ok(self.append(bucket, key, value))
    }
}

impl MemoryStore {
    fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Let keys of the state bucket expire together, as a server does after an outage: a deletion without a client.
    pub fn expire(&self, keys: impl Fn(&str) -> bool) -> usize {
        let mut server = self.server();
        let stream = server.stream(Bucket::State);
        let is_alive = |key: &&String| stream.last(key).is_some_and(|last| last.value.is_some());
        let expired: Vec<String> = stream.messages.keys().filter(|key| keys(key)).filter(is_alive).cloned().collect();
        for key in &expired {
            server.append(Bucket::State, key, None);
        }
        expired.len()
    }

    /// Delete a bucket and make it again under the same name. Feeds are not told: nothing of it is republished.
    pub fn recreate(&self, bucket: Bucket) {
        let mut server = self.server();
        *server.recreated.entry(bucket).or_default() += 1;
        server.streams.remove(&bucket);
    }

    pub fn checkpoint(&self) -> Checkpoint {
        let server = self.server();
        Checkpoint { streams: server.streams.clone(), recreated: server.recreated.clone() }
    }

    /// A store that holds what another one held at some moment: what a server answers that was left behind.
    pub fn at(checkpoint: &Checkpoint) -> Self {
        let Checkpoint { streams, recreated } = checkpoint.clone();
        Self { server: Arc::new(Mutex::new(Server { streams, recreated, feeds: Vec::new() })) }
    }

    /// Go back in time: what was acknowledged since the checkpoint is lost, as by a server whose disk lied to it. Its
    /// clients lose their connections, so feeds show a gap.
    pub fn restore(&self, checkpoint: &Checkpoint) {
        let mut server = self.server();
        Checkpoint { streams: server.streams, recreated: server.recreated } = checkpoint.clone();
        server.tell(&FeedItem::Gap);
    }
}

impl Store for MemoryStore {
    fn get(&self, bucket: Bucket, key: &str) -> Fut<'_, Result<Option<Entry>, StoreError>> {
        let key = key.to_owned();
        Box::pin(async move {
            let mut server = self.server();
            let last = server.stream(bucket).last(&key).cloned();
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
            if value.len() > NATS_PAYLOAD_BYTES_DEFAULT {
                return Err(StoreError::Refused(format!("{} bytes are more than a message may have", value.len())));
            }
            let mut server = self.server();
            let expected = match (expect, server.stream(bucket).last(&key)) {
                (Precondition::At(revision), _) => revision,
                (Precondition::Absent, None) => Revision(0),
                (Precondition::Absent, Some(Change { value: None, revision, .. })) => *revision,
                (Precondition::Absent, Some(_)) => return Err(StoreError::Conflict { bucket, key }),
            };
            server.compare_and_append(bucket, &key, Some(value), expected)
        })
    }

    fn delete(&self, bucket: Bucket, key: &str, expect: Revision) -> Fut<'_, Result<Revision, StoreError>> {
        let key = key.to_owned();
        Box::pin(async move { self.server().compare_and_append(bucket, &key, None, expect) })
    }

    fn snapshot(&self, bucket: Bucket) -> Fut<'_, Result<Snapshot, StoreError>> {
        Box::pin(async move {
            let mut server = self.server();
            let recreated = server.recreated.get(&bucket).copied().unwrap_or_default();
            let stream = server.stream(bucket);
            let last = stream.messages.values().filter_map(VecDeque::back).cloned();
            let entry = |Change { key, value, revision }| Some(Entry { key, value: value?, revision });
            let mut entries: Vec<Entry> = last.filter_map(entry).collect();
            entries.sort_by_key(|entry| entry.revision);
            Ok(Snapshot { identity: format!("{bucket}-{recreated}"), head: Revision(stream.head), entries })
        })
    }

    fn history(&self, bucket: Bucket, key: &str) -> Fut<'_, Result<Vec<Change>, StoreError>> {
        let key = key.to_owned();
        Box::pin(async move {
            let mut server = self.server();
            Ok(server.stream(bucket).messages.get(&key).into_iter().flatten().cloned().collect())
        })
    }

    fn feed(&self) -> Fut<'_, Result<Items<FeedItem>, StoreError>> {
        Box::pin(async move {
            let (to, from) = mpsc::channel(FEED_ITEMS_MAX);
            self.server().feeds.push(to);
            let items: Items<FeedItem> = Box::pin(from);
            Ok(items)
        })
    }
}
