//! A store that lost what it acknowledged, or was made anew: noticed by what was seen of it, and mended by what this node
//! knows better, before anything is stopped. Every write has an expectation, so nodes that do this at once agree.

use super::Feed;
use lattice::{
    event::EventKind,
    record::{ConfigRecord, DecodeError, Holder, Key, Record as _, Rollout, Slot, SpecRecord, Ticks},
    store::{Bucket, Precondition, Snapshot, StoreError},
    view::{Corrupt, LatticeView},
};

impl Feed {
    pub(super) fn contradicts(&self, view: &LatticeView, bucket: Bucket, snapshot: &Snapshot) -> bool {
        view.contradicts(bucket, snapshot) || self.memory.contradicts(bucket, &snapshot.identity, snapshot.head)
    }

    /// At the start of a process nothing tells a store that was made anew from another one. One in which others live
    /// needs nothing from this node's copies; but where the specs are those of before, the lattice is, whatever became of
    /// its state.
    pub(super) async fn is_another_lattice(
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
    pub(super) async fn repair(
        &mut self,
        view: &LatticeView,
        bucket: Bucket,
        found: &Snapshot,
    ) -> Result<(), StoreError> {
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

    /// A spec, or configuration, that does not parse is replaced by this node's copy of the last good one.
    pub(super) async fn repair_corrupt_specs(&self, view: &LatticeView) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{admission::testing, feed::tests::begin};
    use lattice::{
        id::{Digest, Generation},
        record::RolloutState,
        spec::WorkloadSpec,
        testing::MemoryLattice,
    };

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
