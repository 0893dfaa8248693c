//! Keeping the view: one feed of changes, and a snapshot on each gap, reconnect and timer. A missed change costs latency,
//! never correctness.

use crate::{NodeOptions, events::Events, memory::Memory, pace::Backoff, session::Member};
use futures_util::StreamExt as _;
use lattice::{
    Fut,
    event::EventKind,
    host::Host,
    id::{Digest, SlotId},
    record::{ConfigRecord, DecodeError, Holder, Key, Record as _, Rollout, Slot, SpecRecord, Ticks},
    spec::Source,
    store::{Bucket, FeedItem, Items, Platform, Precondition, Snapshot, StoreError},
    view::{Applied, Corrupt, LatticeView},
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::sync::{Notify, watch};

/// Changes that are folded into the view before it is shown.
const CHANGES_AT_ONCE: usize = 512;
/// How long a slot may speak of a newer spec than the view has. The two buckets' changes come by ways of their own; one that
/// was missed in a bucket in which seldom something changes would else be missed until the next resync.
const BEHIND: Duration = Duration::from_secs(1);

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

    async fn follow(&mut self, mut feed: Items<FeedItem>, backoff: &mut Backoff) -> StoreError {
        let mut view = LatticeView::clone(&self.view.borrow());
        loop {
            if let Err(error) = self.load(&mut view).await {
                return error;
            }
            backoff.succeeded();
            let next_resync = self.platform.clock.sleep(self.resync / 2 + self.platform.rng.up_to(self.resync));
            tokio::pin!(next_resync);
            let mut behind: Option<Fut<'static, ()>> = None;
            loop {
                let still_behind = async {
                    match &mut behind {
                        Some(patience) => patience.await,
                        None => std::future::pending().await,
                    }
                };
                let first = tokio::select! { // cancel-safe: a stream's `next` loses nothing
                    biased;
                    () = &mut next_resync => break,
                    () = still_behind => {
                        behind = None;
                        if view.slots.iter().any(|(slot, held)| is_ahead(&view, slot, &held.record)) {
                            break;
                        }
                        continue;
                    }
                    () = self.wanted.notified() => break,
                    item = feed.next() => item,
                };
                let Some(first) = first else { return StoreError::Unreachable("the feed ended".into()) };
                let ready = std::iter::once(first)
                    .chain(std::iter::from_fn(|| futures_util::FutureExt::now_or_never(feed.next()).flatten()));
                let mut speaks_of_more = false;
                let gap = ready.take(CHANGES_AT_ONCE).any(|item| match item {
                    FeedItem::Gap => true,
                    FeedItem::Change(bucket, change) => {
                        let applied = view.apply_change(bucket, &change);
                        speaks_of_more |= speaks_of_newer_spec(&view, bucket, &change.key);
                        applied == Applied::Gap
                    }
                });
                if gap {
                    break;
                }
                if speaks_of_more && behind.is_none() {
                    behind = Some(self.platform.clock.sleep(BEHIND));
                }
                self.show(&view).await;
            }
        }
    }

    /// Take a snapshot of every bucket and make the view equal to it.
    async fn load(&mut self, view: &mut LatticeView) -> Result<(), StoreError> {
        for bucket in Bucket::ALL {
            let mut snapshot = self.platform.store.snapshot(bucket).await?;
            if self.contradicts(view, bucket, &snapshot) {
                if self.is_another_lattice(view, bucket, &snapshot).await? {
                    tracing::warn!(%bucket, "what is kept in the data directory is of another lattice; it is forgotten");
                    self.memory.forget();
                } else {
                    self.repair(view, bucket, &snapshot).await?;
                    snapshot = self.platform.store.snapshot(bucket).await?;
                }
            }
            view.apply_snapshot(bucket, snapshot);
        }
        // The object store may have lost something at any time, and alone: nothing here would tell.
        self.host.restore(artifacts(view));
        self.memory.remember(view).await;
        self.show(view).await;
        Ok(())
    }

    fn contradicts(&self, view: &LatticeView, bucket: Bucket, snapshot: &Snapshot) -> bool {
        view.contradicts(bucket, snapshot) || self.memory.contradicts(bucket, &snapshot.identity, snapshot.head)
    }

    /// At the start of a process nothing tells a store that was made anew from another one. One in which others live
    /// needs nothing from this node's copies; but where the specs are those of before, the lattice is, whatever became of
    /// its state.
    async fn is_another_lattice(
        &self,
        view: &LatticeView,
        bucket: Bucket,
        snapshot: &Snapshot,
    ) -> Result<bool, StoreError> {
        let is_other = !view.seen.contains_key(&bucket)
            && self.memory.is_of_bucket(bucket, &snapshot.identity) == Some(false)
            && !snapshot.entries.is_empty();
        if !is_other || bucket == Bucket::Specs {
            return Ok(is_other);
        }
        let specs = self.platform.store.snapshot(Bucket::Specs).await?;
        Ok(self.memory.is_of_bucket(Bucket::Specs, &specs.identity) != Some(true))
    }

    /// The store lost acknowledged writes, or was made anew. Before anything is stopped, put back what this node knows
    /// better: specs by generation, its own slots. Every write has an expectation, so nodes that do this at once agree.
    async fn repair(&mut self, view: &LatticeView, bucket: Bucket, found: &Snapshot) -> Result<(), StoreError> {
        let text =
            format!("bucket {bucket} went back in time or was made anew; repairing it from what this node knows");
        self.events.send(EventKind::StoreRegressed, bucket.name(), text).await;
        let entry = |key: &str| found.entries.iter().find(|entry| entry.key == key);
        let mut writes = Vec::new();
        match bucket {
            Bucket::Specs => {
                for (node, order) in &view.orders {
                    let key = Key::Node(node.clone()).to_string();
                    if entry(&key).is_none() {
                        writes.push((key, order.record.encode(), Precondition::Absent));
                    }
                }
                let live = view.configs.values().map(|config| &config.record);
                let known = self.memory.configs().filter(|copy| !view.configs.contains_key(&copy.name)).chain(live);
                for record in known {
                    let key = Key::Config(record.name.clone()).to_string();
                    let there = entry(&key).map(|entry| (entry.revision, ConfigRecord::decode(&entry.value)));
                    let ours = &record.stamp;
                    match there {
                        None => writes.push((key, record.encode(), Precondition::Absent)),
                        Some((revision, Ok(there)))
                            if there.stamp.uid == ours.uid && there.stamp.version < ours.version =>
                        {
                            writes.push((key, record.encode(), Precondition::At(revision)));
                        }
                        Some((revision, Err(DecodeError::Malformed(_)))) => {
                            writes.push((key, record.encode(), Precondition::At(revision)));
                        }
                        Some(_) => {}
                    }
                }
                let live = view.specs.values().map(|spec| &spec.record);
                let known = self.memory.specs().filter(|copy| !view.specs.contains_key(&copy.spec.name)).chain(live);
                for record in known {
                    let key = Key::Spec(record.spec.name.clone()).to_string();
                    let there = entry(&key).map(|entry| (entry.revision, SpecRecord::decode(&entry.value)));
                    match there {
                        None => writes.push((key, record.encode(), Precondition::Absent)),
                        Some((revision, Ok(there)))
                            if there.uid == record.uid && there.generation < record.generation =>
                        {
                            writes.push((key, record.encode(), Precondition::At(revision)));
                        }
                        Some((revision, Err(DecodeError::Malformed(_)))) => {
                            writes.push((key, record.encode(), Precondition::At(revision)));
                        }
                        Some(_) => {}
                    }
                }
            }
            Bucket::State => {
                let me = self.member.me().holder();
                self.release_again(view, found, &me).await?;
                // Everybody's: what a node that is not back yet held would else look free.
                for (slot, known) in &view.slots {
                    let key = Key::Slot(slot.clone()).to_string();
                    match entry(&key) {
                        None => writes.push((key, known.record.encode(), Precondition::Absent)),
                        Some(older) if known.record.holder == me && older.revision < known.revision => {
                            writes.push((key, known.record.encode(), Precondition::At(older.revision)));
                        }
                        Some(_) => {}
                    }
                }
                // Whoever knows the most: what is settled must not fire again.
                for (workload, known) in &view.ticks {
                    let key = Key::Cron(workload.clone()).to_string();
                    match entry(&key).map(|entry| (entry.revision, Ticks::decode(&entry.value))) {
                        None => writes.push((key, known.record.encode(), Precondition::Absent)),
                        Some((revision, Ok(there))) => {
                            if let Some(merged) = known.record.ahead_of(&there) {
                                writes.push((key, merged.encode(), Precondition::At(revision)));
                            }
                        }
                        Some((_, Err(_))) => {}
                    }
                }
                // After a restart, those that were over: else replicas would start with what was stable before. One of a
                // spec that was changed since stops nobody, and one of what is gone is deleted.
                let remembered = self.memory.rollouts().filter(|(workload, _)| !view.rollouts.contains_key(*workload));
                let live = view.rollouts.iter().map(|(workload, rollout)| (workload, &rollout.record));
                for (workload, known) in live.chain(remembered) {
                    let key = Key::Rollout(workload.clone()).to_string();
                    match entry(&key).map(|entry| (entry.revision, Rollout::decode(&entry.value))) {
                        None => writes.push((key, known.encode(), Precondition::Absent)),
                        Some((revision, Ok(there))) if known.is_ahead_of(&there) => {
                            writes.push((key, known.encode(), Precondition::At(revision)));
                        }
                        Some(_) => {}
                    }
                }
                for (workload, known) in &view.scales {
                    let key = Key::Scale(workload.clone()).to_string();
                    if entry(&key).is_none() {
                        writes.push((key, known.record.encode(), Precondition::Absent));
                    }
                }
                self.member.reassert(self.platform.clock.now());
            }
        }
        for (key, value, expect) in writes {
            match self.platform.store.write(bucket, &key, value, expect).await {
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What this node had given up and the store says it holds again, it gives up again: with what it put back it could
    /// else hold more than it has room for.
    async fn release_again(&self, view: &LatticeView, found: &Snapshot, me: &Holder) -> Result<(), StoreError> {
        let seen = view.seen.get(&Bucket::State).map_or(0, |seen| seen.head);
        for entry in found.entries.iter().filter(|entry| entry.revision.0 <= seen) {
            let Some(Key::Slot(slot)) = Key::parse(Bucket::State, &entry.key) else { continue };
            let is_mine = |holder: &Holder| holder == me;
            let is_back = Slot::decode(&entry.value).is_ok_and(|there| is_mine(&there.holder))
                && !view.slots.get(&slot).is_some_and(|known| is_mine(&known.record.holder))
                && !view.corrupt.contains_key(&entry.key);
            if is_back {
                match self.platform.store.delete(Bucket::State, &entry.key, entry.revision).await {
                    Ok(_) | Err(StoreError::Conflict { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
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

    /// A spec, or configuration, that does not parse is replaced by this node's copy of the last good one.
    async fn repair_corrupt_specs(&self, view: &LatticeView) {
        let is_ours_to_mend =
            |corrupt: &Corrupt| corrupt.bucket == Bucket::Specs && matches!(corrupt.error, DecodeError::Malformed(_));
        for (key, corrupt) in view.corrupt.iter().filter(|(_, corrupt)| is_ours_to_mend(corrupt)) {
            let good = match Key::parse(Bucket::Specs, key) {
                Some(Key::Spec(name)) => {
                    let live = view.specs.get(&name).map(|spec| &spec.record);
                    live.or_else(|| self.memory.spec(&name)).map(SpecRecord::encode)
                }
                Some(Key::Config(name)) => {
                    let live = view.configs.get(&name).map(|config| &config.record);
                    live.or_else(|| self.memory.config(&name)).map(ConfigRecord::encode)
                }
                _ => None,
            };
            let Some(good) = good else { continue };
            let expect = Precondition::At(corrupt.revision);
            if let Err(error) = self.platform.store.write(Bucket::Specs, key, good, expect).await {
                tracing::debug!(%error, key, "another node repairs it");
            }
        }
    }
}

/// Whether a changed key is a slot that was claimed for a generation which the view does not have.
fn speaks_of_newer_spec(view: &LatticeView, bucket: Bucket, key: &str) -> bool {
    let Some(Key::Slot(slot)) = Key::parse(bucket, key) else { return false };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{admission::testing, session};
    use lattice::{
        host::{Assignment, Observed},
        id::Generation,
        record::RolloutState,
        spec::WorkloadSpec,
        testing::MemoryLattice,
    };
    use std::{collections::BTreeMap, path::Path};

    struct Idle;

    impl Host for Idle {
        fn apply(&self, _: BTreeMap<SlotId, Assignment>) {}
        fn observed(&self) -> BTreeMap<SlotId, Observed> {
            BTreeMap::new()
        }
        fn changed(&self) -> Fut<'_, ()> {
            Box::pin(std::future::pending())
        }
    }

    /// A node begins, and looks once.
    async fn begin(lattice: &MemoryLattice, data_dir: &Path) -> LatticeView {
        let platform = testing::platform(lattice);
        let options = Arc::new(NodeOptions { data_dir: Some(data_dir.to_owned()), ..testing::options() });
        let events = Events::new(&options, &platform);
        let memory = Memory::open(options.data_dir.as_deref()).await.unwrap();
        let (member, _keeper) = session::new(options.clone(), platform.clone(), events.clone(), Arc::new(Idle));
        let view = watch::Sender::new(Arc::default());
        let mut feed = Feed::new(&options, &platform, &events, memory, Arc::new(Idle), member, view);
        let mut view = LatticeView::default();
        feed.load(&mut view).await.unwrap();
        view
    }

    #[tokio::test]
    async fn a_rollout_that_is_over_stays_so_where_all_nodes_begin_anew_without_the_state() {
        let spec = |version: u32| -> WorkloadSpec {
            let source = Digest::of(b"one");
            let text = format!("name: a\ncomponents: [{{name: api, source: '{source}', env: {{V: '{version}'}}}}]");
            lattice::spec::parse(text.as_bytes()).unwrap()
        };
        let one = SpecRecord::new(spec(1), uuid::Uuid::from_u128(7), Generation::FIRST);
        let two = one.next(None, spec(2), Default::default(), Default::default(), 0);
        let done = Rollout { state: RolloutState::Done, ..Rollout::new(&two) };
        let lattice = MemoryLattice::new();
        let store = testing::platform(&lattice).store;
        let write = async |bucket: Bucket, key: &str, value| {
            store.write(bucket, key, value, Precondition::Absent).await.unwrap();
        };
        write(Bucket::Specs, "spec.a", two.encode()).await;
        write(Bucket::State, "rollout.a", done.encode()).await;
        let dir = tempfile::tempdir().unwrap();
        begin(&lattice, dir.path()).await;
        // Alone, and where another node was first and knew nothing of it.
        for is_alone in [true, false] {
            lattice.store().recreate(Bucket::State);
            if !is_alone {
                write(Bucket::State, "cron.other", bytes::Bytes::from_static(b"{}")).await;
            }
            let view = begin(&lattice, dir.path()).await;
            assert_eq!(view.rollout(&spec(1).name), Some(&done), "alone: {is_alone}");
        }
        // What is not rolled out any more is forgotten.
        store
            .delete(Bucket::Specs, "spec.a", store.get(Bucket::Specs, "spec.a").await.unwrap().unwrap().revision)
            .await
            .unwrap();
        begin(&lattice, dir.path()).await;
        lattice.store().recreate(Bucket::State);
        assert_eq!(begin(&lattice, dir.path()).await.rollout(&spec(1).name), None);
    }
}
