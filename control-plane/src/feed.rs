//! Keeping the view: one feed of changes, and a snapshot on each gap, reconnect and timer. A missed change costs latency,
//! never correctness.
//!
//! Changes are followed while a snapshot is under way, and where none comes: a node that can send nothing still hears.
//! `repair.rs` mends a store that went back in time, before its snapshot becomes the view.

mod repair;
#[cfg(test)]
mod tests;

use crate::{NodeOptions, events::Events, memory::Memory, pace::Backoff, session::Member};
use futures_util::StreamExt as _;
use lattice::{
    Fut,
    event::EventKind,
    host::Host,
    id::{Digest, SlotId},
    record::{Key, Slot},
    spec::Source,
    store::{Bucket, FeedItem, Items, Platform, Snapshot, Store, StoreError},
    view::{Applied, LatticeView},
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::sync::{Notify, watch};

/// Changes that are folded into the view before it is shown.
const CHANGES_AT_ONCE: usize = 512;
/// How long a slot may speak of a newer spec than the view has. The two buckets' changes come by ways of their own; one that
/// was missed in a bucket in which seldom something changes would else be missed until the next resync.
const BEHIND: Duration = Duration::from_secs(1);
/// Changes that are followed while a snapshot is under way. What comes beyond waits in the feed.
const CHANGES_SINCE_MAX: usize = 8 * 1024;

pub(crate) struct Feed {
    platform: Platform,
    events: Events,
    memory: Memory,
    host: Arc<dyn Host>,
    member: Member,
    resync: Duration,
    view: watch::Sender<Arc<LatticeView>>,
    wanted: Arc<Notify>,
    /// Keys whose record is corrupt and was reported so.
    reported: BTreeSet<String>,
}

/// The view, and where its changes come from.
struct Following {
    feed: Items<FeedItem>,
    view: LatticeView,
    /// Nothing is missing between the view and what the feed brings next.
    is_whole: bool,
    /// What the feed has brought since the snapshots were asked for that are under way.
    since: Vec<FeedItem>,
    /// When to look whether a slot still speaks of a newer spec than the view has.
    behind: Option<Fut<'static, ()>>,
}

impl Following {
    fn new(feed: Items<FeedItem>, view: LatticeView) -> Self {
        Self { feed, view, is_whole: false, since: Vec::new(), behind: None }
    }
}

impl Feed {
    pub(crate) fn new(
        options: &NodeOptions,
        platform: &Platform,
        events: &Events,
        memory: Memory,
        host: Arc<dyn Host>,
        member: Member,
        view: watch::Sender<Arc<LatticeView>>,
    ) -> Self {
        Self {
            platform: platform.clone(),
            events: events.clone(),
            memory,
            host,
            member,
            resync: options.timing.resync,
            view,
            wanted: Arc::default(),
            reported: BTreeSet::new(),
        }
    }

    /// Notify it to have a snapshot taken soon.
    pub(crate) fn resync_requests(&self) -> Arc<Notify> {
        self.wanted.clone()
    }

    /// Never returns.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            let error = match self.platform.store.feed().await {
                Ok(feed) => self.follow(feed, &mut backoff).await,
                Err(error) => error,
            };
            tracing::debug!(%error, "the view is not being kept; trying again");
            self.platform.clock.sleep(backoff.after_failure(&*self.platform.rng)).await;
        }
    }

    async fn follow(&mut self, feed: Items<FeedItem>, backoff: &mut Backoff) -> StoreError {
        let view = LatticeView::clone(&self.view.borrow());
        let mut following = Following::new(feed, view);
        loop {
            let (wait, is_loaded) = match self.load(&mut following).await {
                Ok(()) if !following.is_whole => continue,
                Ok(()) => {
                    backoff.succeeded();
                    (self.resync / 2 + self.platform.rng.up_to(self.resync), true)
                }
                // Where the network swallows what this node sends, news come all the same; another subscription would not.
                Err(error) if following.is_whole => {
                    tracing::debug!(%error, "no snapshot; following changes without one");
                    (backoff.after_failure(&*self.platform.rng), false)
                }
                Err(error) => return error,
            };
            let due = self.platform.clock.sleep(wait);
            if let Err(ended) = self.keep(&mut following, due, is_loaded).await {
                return ended;
            }
        }
    }

    /// Follow changes until a snapshot is due, or until there is need of one earlier. Without `is_loaded` that only is a change
    /// that was missed: a store that could not answer is not asked at once again. An error: the feed has ended.
    async fn keep(
        &mut self,
        following: &mut Following,
        mut due: Fut<'static, ()>,
        is_loaded: bool,
    ) -> Result<(), StoreError> {
        while following.is_whole {
            let Following { feed, view, behind, .. } = following;
            let still_behind = async {
                match behind {
                    Some(patience) => patience.await,
                    None => std::future::pending().await,
                }
            };
            let first = tokio::select! { // cancel-safe: a stream's `next` loses nothing
                biased;
                () = &mut due => return Ok(()),
                () = still_behind, if is_loaded => {
                    following.behind = None;
                    if view.slots.iter().any(|(slot, held)| is_ahead(view, slot, &held.record)) {
                        return Ok(());
                    }
                    continue;
                }
                () = self.wanted.notified(), if is_loaded => return Ok(()),
                item = feed.next() => item.ok_or_else(feed_ended)?,
            };
            self.fold(following, first, false).await;
        }
        Ok(())
    }

    /// Bring the view up to date with what has come, and show it. A missed change ends that: what comes after one can't be
    /// applied.
    async fn fold(&mut self, following: &mut Following, first: FeedItem, is_loading: bool) {
        let Following { feed, view, since, .. } = following;
        let ready = std::iter::once(first)
            .chain(std::iter::from_fn(|| futures_util::FutureExt::now_or_never(feed.next()).flatten()));
        let mut speaks_of_more = false;
        for item in ready.take(CHANGES_AT_ONCE) {
            following.is_whole = is_applied(view, &item);
            speaks_of_more |= speaks_of_newer_spec(view, &item);
            if is_loading {
                since.push(item);
            }
            if !following.is_whole {
                return;
            }
        }
        if speaks_of_more && following.behind.is_none() {
            following.behind = Some(self.platform.clock.sleep(BEHIND));
        }
        self.show(&following.view).await;
    }

    /// Take a snapshot of every bucket and make the view equal to it. Changes are followed meanwhile, since it may take long
    /// and never come.
    async fn load(&mut self, following: &mut Following) -> Result<(), StoreError> {
        following.behind = None;
        following.since.clear();
        // What the snapshots are held against: they may be older than what is shown when they come.
        let mut view = following.view.clone();
        let mut under_way = snapshots(self.platform.store.clone());
        let snapshots = loop {
            let first = tokio::select! { // cancel-safe: a stream's `next` loses nothing
                biased;
                snapshots = &mut under_way => break snapshots?,
                item = following.feed.next(), if following.is_whole && following.since.len() < CHANGES_SINCE_MAX => item,
            };
            let Some(first) = first else {
                following.is_whole = false;
                return Err(feed_ended());
            };
            self.fold(following, first, true).await;
        };
        for (bucket, mut snapshot) in Bucket::ALL.into_iter().zip(snapshots) {
            if self.contradicts(&view, bucket, &snapshot) {
                // Nothing is applied to what is known before this is settled.
                following.is_whole = false;
                if self.is_another_lattice(&view, bucket, &snapshot).await? {
                    tracing::warn!(%bucket, "what is kept in the data directory is of another lattice; it is forgotten");
                    self.memory.forget();
                } else {
                    self.repair(&view, bucket, &snapshot).await?;
                    snapshot = self.platform.store.snapshot(bucket).await?;
                }
            }
            view.apply_snapshot(bucket, snapshot);
        }
        following.is_whole = following.since.drain(..).all(|item| is_applied(&mut view, &item));
        following.view = view;
        // The object store may have lost something at any time, and alone: nothing here would tell.
        self.host.restore(artifacts(&following.view));
        self.memory.remember(&following.view).await;
        self.show(&following.view).await;
        Ok(())
    }

    async fn show(&mut self, view: &LatticeView) {
        for (key, corrupt) in &view.corrupt {
            if !self.reported.insert(key.clone()) {
                continue;
            }
            let text = format!("revision {} does not parse: {}", corrupt.revision, corrupt.error);
            self.events.send(EventKind::RecordCorrupt, key, text).await;
        }
        self.reported.retain(|key| view.corrupt.contains_key(key));
        self.repair_corrupt_specs(view).await;
        self.view.send_replace(Arc::new(view.clone()));
    }
}

fn feed_ended() -> StoreError {
    StoreError::Unreachable("the feed ended".into())
}

/// One after the other, in the order of [`Bucket::ALL`].
fn snapshots(store: Arc<dyn Store>) -> Fut<'static, Result<Vec<Snapshot>, StoreError>> {
    Box::pin(async move {
        let mut snapshots = Vec::new();
        for bucket in Bucket::ALL {
            snapshots.push(store.snapshot(bucket).await?);
        }
        Ok(snapshots)
    })
}

/// False if something before it was missed.
fn is_applied(view: &mut LatticeView, item: &FeedItem) -> bool {
    match item {
        FeedItem::Gap => false,
        FeedItem::Change(bucket, change) => view.apply_change(*bucket, change) != Applied::Gap,
    }
}

/// Whether it is a slot that was claimed for a generation which the view does not have.
fn speaks_of_newer_spec(view: &LatticeView, item: &FeedItem) -> bool {
    let FeedItem::Change(bucket, change) = item else { return false };
    let Some(Key::Slot(slot)) = Key::parse(*bucket, &change.key) else { return false };
    view.slots.get(&slot).is_some_and(|held| is_ahead(view, &slot, &held.record))
}

fn is_ahead(view: &LatticeView, slot: &SlotId, record: &Slot) -> bool {
    let spec = view.specs.get(&slot.workload).map(|spec| &spec.record);
    spec.is_some_and(|spec| spec.uid == record.uid && spec.generation < record.generation)
}

/// Every object that some spec needs: to be run, and to be put again.
fn artifacts(view: &LatticeView) -> BTreeSet<Digest> {
    let records = view.specs.values().flat_map(|spec| [Some(&spec.record), spec.record.stable.as_deref()]);
    let needed = records.flatten().flat_map(|record| {
        let sources = record.spec.components.iter().filter_map(|component| match component.source {
            Source::Stored(digest) => Some(digest),
            Source::File(_) => None,
        });
        sources.chain(record.runs().digests().collect::<Vec<_>>())
    });
    needed.collect()
}
