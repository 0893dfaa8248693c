//! The store as one node reaches it.

use super::{Link, Wire};
use bytes::Bytes;
use futures_util::StreamExt as _;
use lattice::{
    Fut,
    id::{Digest, Revision},
    record::{Key, Record as _, Slot},
    store::{Artifacts, Bucket, Change, Entry, FeedItem, Items, Precondition, Snapshot, Store, StoreError},
};
use std::sync::Arc;
use tokio::sync::mpsc;

const FEED_ITEMS_MAX: usize = 8 * 1024;

pub(super) struct FarStore {
    pub(super) wire: Wire,
    pub(super) near: Arc<dyn Store>,
}

impl FarStore {
    /// The revision that an absent key's write is made against, as `lattice-nats` does: from the leader, before the
    /// write is sent. A write that lands late lands only where nothing was written since.
    async fn resolve(&self, bucket: Bucket, key: &str, expect: Precondition) -> Result<Precondition, StoreError> {
        if expect != Precondition::Absent {
            return Ok(expect);
        }
        let history = self.history(bucket, key).await?;
        match history.last() {
            None => Ok(Precondition::At(Revision(0))),
            Some(Change { value: None, revision, .. }) => Ok(Precondition::At(*revision)),
            Some(_) => Err(StoreError::Conflict { bucket, key: key.to_owned() }),
        }
    }

    /// Keep the view on which a claim was decided, for checkers.
    fn note(&self, bucket: Bucket, key: &str, value: &Bytes) {
        let is_slot = matches!(Key::parse(bucket, key), Some(Key::Slot(_)));
        if let Some(slot) = is_slot.then(|| Slot::decode(value).ok()).flatten()
            && let Some(view) = self.wire.view()
        {
            self.wire.sky.decide(slot.nonce, view);
        }
    }
}

impl Store for FarStore {
    fn get(&self, bucket: Bucket, key: &str) -> Fut<'_, Result<Option<Entry>, StoreError>> {
        let (near, key) = (self.wire.reads(&self.near), key.to_owned());
        let misses = self.wire.misses();
        Box::pin(self.wire.ask(Box::pin(async move { if misses { Ok(None) } else { near.get(bucket, &key).await } })))
    }

    fn write(
        &self,
        bucket: Bucket,
        key: &str,
        value: Bytes,
        expect: Precondition,
    ) -> Fut<'_, Result<Revision, StoreError>> {
        let key = key.to_owned();
        self.note(bucket, &key, &value);
        Box::pin(async move {
            let expect = self.resolve(bucket, &key, expect).await?;
            let near = self.near.clone();
            let doing = format!("writing {bucket}/{key}");
            let write = Box::pin(async move { near.write(bucket, &key, value, expect).await });
            self.wire.change(doing, write).await
        })
    }

    fn delete(&self, bucket: Bucket, key: &str, expect: Revision) -> Fut<'_, Result<Revision, StoreError>> {
        let (key, near) = (key.to_owned(), self.near.clone());
        let doing = format!("deleting {bucket}/{key}");
        Box::pin(self.wire.change(doing, Box::pin(async move { near.delete(bucket, &key, expect).await })))
    }

    fn snapshot(&self, bucket: Bucket) -> Fut<'_, Result<Snapshot, StoreError>> {
        let near = self.wire.reads(&self.near);
        Box::pin(self.wire.ask(Box::pin(async move { near.snapshot(bucket).await })))
    }

    fn history(&self, bucket: Bucket, key: &str) -> Fut<'_, Result<Vec<Change>, StoreError>> {
        let (near, key) = (self.wire.reads(&self.near), key.to_owned());
        let misses = self.wire.misses();
        let history = async move { if misses { Ok(Vec::new()) } else { near.history(bucket, &key).await } };
        Box::pin(self.wire.ask(Box::pin(history)))
    }

    fn feed(&self) -> Fut<'_, Result<Items<FeedItem>, StoreError>> {
        Box::pin(async move {
            let near = self.near.clone();
            let near = self.wire.ask(Box::pin(async move { near.feed().await })).await?;
            let (to, mut from) = mpsc::channel(FEED_ITEMS_MAX);
            tokio::spawn(forward(self.wire.clone(), near, to));
            let items: Items<FeedItem> =
                Box::pin(futures_util::stream::poll_fn(move |context| from.poll_recv(context)));
            Ok(items)
        })
    }
}

/// Carry changes to one node until it drops its feed.
async fn forward(wire: Wire, mut near: Items<FeedItem>, to: mpsc::Sender<FeedItem>) {
    let mut reconnects = wire.reconnects();
    loop {
        let item = tokio::select! { // cancel-safe: a stream's `next` loses nothing
            biased;
            () = to.closed() => return,
            () = wire.until(|state| state.reconnects != reconnects) => {
                reconnects = wire.reconnects();
                FeedItem::Gap
            }
            item = near.next() => match item {
                Some(item) => item,
                None => return,
            },
        };
        wire.travel().await;
        wire.until(|state| state.link.hears() || state.link == Link::Down).await;
        let weather = wire.sky.now();
        let is_change = item != FeedItem::Gap;
        if is_change && (wire.link() == Link::Down || wire.rng.happens(weather.lost_changes)) {
            continue;
        }
        let again = (is_change && wire.rng.happens(weather.repeated_changes)).then(|| item.clone());
        for item in std::iter::once(item).chain(again) {
            if to.send(item).await.is_err() {
                return;
            }
        }
    }
}

pub(super) struct FarArtifacts {
    pub(super) wire: Wire,
    pub(super) near: Arc<dyn Artifacts>,
}

impl Artifacts for FarArtifacts {
    fn get(&self, digest: Digest) -> Fut<'_, Result<Option<Bytes>, StoreError>> {
        let near = self.near.clone();
        Box::pin(self.wire.ask(Box::pin(async move { near.get(digest).await })))
    }
    fn put(&self, bytes: Bytes) -> Fut<'_, Result<Digest, StoreError>> {
        let near = self.near.clone();
        Box::pin(self.wire.ask(Box::pin(async move { near.put(bytes).await })))
    }
    fn size(&self, digest: Digest) -> Fut<'_, Result<Option<u64>, StoreError>> {
        let near = self.near.clone();
        Box::pin(self.wire.ask(Box::pin(async move { near.size(digest).await })))
    }
}
