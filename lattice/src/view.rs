//! `LatticeView`: all records as one node last saw them. Late, partial, never certain; what is derived from it may only
//! cost a write that fails. A pure fold over snapshots and changes.

mod regression;
mod slots;

pub use slots::Slots;

use crate::{
    id::{ConfigName, NodeId, Revision, SlotId, WorkloadName},
    record::{
        ConfigRecord, ConfigStamp, DecodeError, DrainOrder, Holder, Key, NodeOrder, Rebalance, Record, Rollout, Scale,
        Session, Slot, SpecRecord, Ticks,
    },
    spec::{ConfigError, Resolved, WorkloadSpec},
    store::{Bucket, Change, Snapshot},
};
use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A record and the revision at which it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Versioned<R> {
    pub record: R,
    pub revision: Revision,
}

/// A record that does not parse. It blocks its key until it is repaired; it never counts as absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corrupt {
    pub bucket: Bucket,
    pub revision: Revision,
    pub error: DecodeError,
}

/// How far one bucket has been seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    pub identity: String,
    pub head: Revision0,
}

/// A revision, or zero where nothing was seen.
pub type Revision0 = u64;

#[derive(Debug, Clone, PartialEq, Default)]
pub struct LatticeView {
    pub specs: BTreeMap<WorkloadName, Arc<Versioned<SpecRecord>>>,
    pub sessions: BTreeMap<NodeId, Versioned<Session>>,
    pub slots: Slots,
    /// What is wanted of nodes, alive or not.
    pub orders: BTreeMap<NodeId, Versioned<NodeOrder>>,
    /// What specs name with `config-from` and `env-from`, and secrets, without their values.
    pub configs: BTreeMap<ConfigName, Arc<Versioned<ConfigRecord>>>,
    /// Of workloads that have schedules.
    pub ticks: BTreeMap<WorkloadName, Versioned<Ticks>>,
    /// Of workloads whose template was changed.
    pub rollouts: BTreeMap<WorkloadName, Versioned<Rollout>>,
    /// Of workloads that scale themselves. Use [`LatticeView::replicas`].
    pub scales: BTreeMap<WorkloadName, Versioned<Scale>>,
    /// Replicas that move to better places, while somebody asked for it.
    pub rebalance: Option<Versioned<Rebalance>>,
    /// Keys (as text) whose record does not parse.
    pub corrupt: BTreeMap<String, Corrupt>,
    pub seen: BTreeMap<Bucket, Seen>,
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The view moved on.
    Yes,
    /// It was in the snapshot already.
    Known,
    /// Changes before it are missing, or the bucket is not the one that was seen: take a snapshot.
    Gap,
}

impl LatticeView {
    /// Replace what is known of a bucket. Keys that are not in the snapshot are gone; of those whose record does not
    /// parse, the last good one stays.
    pub fn apply_snapshot(&mut self, bucket: Bucket, snapshot: Snapshot) {
        let keys: BTreeSet<&str> = snapshot.entries.iter().map(|entry| entry.key.as_str()).collect();
        let is_there = |key: Key| keys.contains(key.to_string().as_str());
        match bucket {
            Bucket::Specs => {
                self.specs.retain(|name, _| is_there(Key::Spec(name.clone())));
                self.orders.retain(|node, _| is_there(Key::Node(node.clone())));
                self.configs.retain(|name, _| is_there(Key::Config(name.clone())));
            }
            Bucket::State => {
                self.sessions.retain(|node, _| is_there(Key::Session(node.clone())));
                self.slots.retain(|slot, _| is_there(Key::Slot(slot.clone())));
                self.ticks.retain(|name, _| is_there(Key::Cron(name.clone())));
                self.rollouts.retain(|name, _| is_there(Key::Rollout(name.clone())));
                self.scales.retain(|name, _| is_there(Key::Scale(name.clone())));
                self.rebalance = self.rebalance.take().filter(|_| is_there(Key::Rebalance));
            }
        }
        self.corrupt.retain(|_, corrupt| corrupt.bucket != bucket);
        for entry in snapshot.entries {
            self.set(bucket, &entry.key, Some(&entry.value), entry.revision);
        }
        self.seen.insert(bucket, Seen { identity: snapshot.identity, head: snapshot.head.0 });
    }

    /// Apply one change of the feed.
    pub fn apply_change(&mut self, bucket: Bucket, change: &Change) -> Applied {
        let Some(seen) = self.seen.get_mut(&bucket) else { return Applied::Gap };
        if change.revision.0 <= seen.head {
            return Applied::Known;
        }
        if change.revision.0 != seen.head + 1 {
            return Applied::Gap;
        }
        seen.head = change.revision.0;
        self.set(bucket, &change.key, change.value.as_deref(), change.revision);
        Applied::Yes
    }

    fn set(&mut self, bucket: Bucket, key: &str, value: Option<&[u8]>, revision: Revision) {
        self.corrupt.remove(key);
        // Keys of a kind that we do not know belong to another version: not ours to touch.
        let Some(parsed) = Key::parse(bucket, key) else { return };
        let outcome = match (parsed, value) {
            (Key::Spec(name), None) => {
                self.specs.remove(&name);
                Ok(())
            }
            (Key::Spec(name), Some(bytes)) => SpecRecord::decode(bytes).and_then(|record| {
                if record.spec.name != name {
                    return Err(DecodeError::Malformed(format!("holds the spec of {}", record.spec.name)));
                }
                self.specs.insert(name, Arc::new(Versioned { record, revision }));
                Ok(())
            }),
            (Key::Node(node), None) => {
                self.orders.remove(&node);
                Ok(())
            }
            (Key::Node(node), Some(bytes)) => NodeOrder::decode(bytes).and_then(|record| {
                if record.node != node {
                    return Err(DecodeError::Malformed(format!("holds the order for {}", record.node)));
                }
                self.orders.insert(node, Versioned { record, revision });
                Ok(())
            }),
            (Key::Config(name), None) => {
                self.configs.remove(&name);
                Ok(())
            }
            (Key::Config(name), Some(bytes)) => ConfigRecord::decode(bytes).and_then(|record| {
                if record.name != name {
                    return Err(DecodeError::Malformed(format!("holds the config {}", record.name)));
                }
                self.configs.insert(name, Arc::new(Versioned { record, revision }));
                Ok(())
            }),
            (Key::Session(node), None) => {
                self.sessions.remove(&node);
                Ok(())
            }
            (Key::Session(node), Some(bytes)) => Session::decode(bytes).and_then(|record| {
                if record.node != node {
                    return Err(DecodeError::Malformed(format!("holds the session of {}", record.node)));
                }
                self.sessions.insert(node, Versioned { record, revision });
                Ok(())
            }),
            (Key::Slot(slot), None) => {
                self.slots.remove(&slot);
                Ok(())
            }
            (Key::Slot(slot), Some(bytes)) => Slot::decode(bytes).map(|record| {
                self.slots.insert(slot, Versioned { record, revision });
            }),
            (Key::Cron(name), None) => {
                self.ticks.remove(&name);
                Ok(())
            }
            (Key::Cron(name), Some(bytes)) => Ticks::decode(bytes).map(|record| {
                self.ticks.insert(name, Versioned { record, revision });
            }),
            (Key::Rollout(name), None) => {
                self.rollouts.remove(&name);
                Ok(())
            }
            (Key::Rollout(name), Some(bytes)) => Rollout::decode(bytes).map(|record| {
                self.rollouts.insert(name, Versioned { record, revision });
            }),
            (Key::Rebalance, None) => {
                self.rebalance = None;
                Ok(())
            }
            (Key::Rebalance, Some(bytes)) => Rebalance::decode(bytes).map(|record| {
                self.rebalance = Some(Versioned { record, revision });
            }),
            (Key::Scale(name), None) => {
                self.scales.remove(&name);
                Ok(())
            }
            (Key::Scale(name), Some(bytes)) => Scale::decode(bytes).map(|record| {
                self.scales.insert(name, Versioned { record, revision });
            }),
        };
        if let Err(error) = outcome {
            // The last good record stays in force until the corrupt one is repaired: nothing is stopped because of it.
            self.corrupt.insert(key.to_owned(), Corrupt { bucket, revision, error });
        }
    }

    /// The session behind a holder, if that life of the node is still alive.
    pub fn live(&self, holder: &Holder) -> Option<&Session> {
        let session = &self.sessions.get(&holder.node)?.record;
        (session.incarnation == holder.incarnation).then_some(session)
    }

    /// How far a workload is on the way to its newest template.
    pub fn rollout(&self, workload: &WorkloadName) -> Option<&Rollout> {
        self.rollouts.get(workload).map(|rollout| &rollout.record)
    }

    /// What a replica is to run: the workload's spec, or the stable one before it.
    pub fn wanted(&self, slot: &SlotId) -> Option<&SpecRecord> {
        let spec = &self.specs.get(&slot.workload)?.record;
        if spec.stable.is_none() {
            return Some(spec); // most are not being changed
        }
        let holds = self.slots.get(slot).map(|slot| &slot.record);
        Some(spec.wanted(self.rollout(&slot.workload), slot.index, holds))
    }

    /// Slots of a workload, by index.
    pub fn slots_of<'a>(
        &'a self,
        workload: &WorkloadName,
    ) -> impl Iterator<Item = (&'a SlotId, &'a Versioned<Slot>)> + use<'a> {
        self.slots.of(workload)
    }

    /// How many replicas a workload is to have; those with the lowest indexes. Of a daemon, which has one on each node, the
    /// view alone does not tell.
    ///
    /// Of one that scales itself it is what was decided last. Where nothing was, or the store lost it, it is as many as are
    /// recorded: nothing that serves is stopped because nobody knows how many there are to be.
    ///
    /// While a second set is beside the first one, there are twice as many as there were when it came: their number stands
    /// still, unless none is to be there at all.
    pub fn replicas(&self, spec: &SpecRecord) -> u32 {
        let asked = self.asked_replicas(spec);
        let beside = spec.stable.as_ref().and_then(|_| spec.beside(self.rollout(&spec.spec.name)));
        beside.filter(|_| asked > 0).map_or(asked, |first| first.saturating_mul(2))
    }

    fn asked_replicas(&self, spec: &SpecRecord) -> u32 {
        let Some(autoscale) = &spec.spec.autoscale else { return spec.spec.replicas };
        let decided = self.scales.get(&spec.spec.name).filter(|scale| scale.record.uid == spec.uid);
        match decided {
            Some(scale) => autoscale.within(scale.record.replicas),
            None => {
                let recorded = self.slots_of(&spec.spec.name).filter(|(_, slot)| slot.record.uid == spec.uid);
                let last = recorded.map(|(slot, _)| slot.index.saturating_add(1)).max();
                autoscale.within(last.unwrap_or(0).max(autoscale.first()))
            }
        }
    }

    /// Whether an operator wants nothing new on a node.
    pub fn is_cordoned(&self, node: &NodeId) -> bool {
        self.orders.get(node).is_some_and(|order| order.record.cordoned)
    }

    /// A spec with the values of what it names, as they are now.
    pub fn resolve(&self, spec: &WorkloadSpec) -> Result<Resolved, ConfigError> {
        self.resolve_at(spec, &BTreeMap::new())
    }

    /// The same, of some names with the values of another version, as long as that is kept.
    pub fn resolve_at(
        &self,
        spec: &WorkloadSpec,
        pinned: &BTreeMap<ConfigName, ConfigStamp>,
    ) -> Result<Resolved, ConfigError> {
        let find = |name: &ConfigName| {
            let config = &self.configs.get(name)?.record;
            if config.secret.is_some() {
                return None; // and nobody's configuration
            }
            let pinned = pinned.get(name).and_then(|stamp| Some((*stamp, config.entries_at(stamp)?)));
            Some(pinned.unwrap_or((config.stamp, &config.entries)))
        };
        spec.resolve(find, |asked| self.configs.get(&asked.name)?.record.stamp_of(asked, pinned.get(&asked.name)))
    }

    /// The versions that there are now of what a spec names. What is not there is left out.
    pub fn versions(&self, spec: &WorkloadSpec) -> BTreeMap<ConfigName, ConfigStamp> {
        let record = |name: &ConfigName| Some(&self.configs.get(name)?.record);
        spec.versions(|name| Some(record(name)?.stamp), |asked| record(&asked.name)?.stamp_of(asked, None))
    }

    /// How a node is to be emptied, if it is, and since which revision of what is wanted of it.
    pub fn drain(&self, node: &NodeId) -> Option<(DrainOrder, Revision)> {
        let order = self.orders.get(node)?;
        Some((order.record.drain?, order.revision))
    }

    /// Whether every bucket was seen at least once. Before, an absent record says nothing.
    pub fn is_loaded(&self) -> bool {
        Bucket::ALL.iter().all(|bucket| self.seen.contains_key(bucket))
    }
}

/// Keys under which two maps do not hold the same, in order.
pub fn changed<'a, K: Ord, V>(
    one: &'a BTreeMap<K, V>,
    two: &'a BTreeMap<K, V>,
    is_same: impl Fn(&V, &V) -> bool,
) -> Vec<&'a K> {
    let (mut ones, mut twos) = (one.iter().peekable(), two.iter().peekable());
    let mut changed = Vec::new();
    loop {
        let order = match (ones.peek(), twos.peek()) {
            (Some((one, _)), Some((two, _))) => one.cmp(two),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return changed,
        };
        let one = if order.is_le() { ones.next() } else { None };
        let two = if order.is_ge() { twos.next() } else { None };
        match (one, two) {
            (Some((_, one)), Some((_, two))) if is_same(one, two) => {}
            (one, two) => changed.extend(one.or(two).map(|(key, _)| key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Entry;

    #[test]
    fn a_snapshot_replaces_what_is_known_and_keeps_the_last_good_record_of_a_corrupt_key() {
        let node = NodeId::new("n1").unwrap();
        let session = Session {
            node: node.clone(),
            incarnation: uuid::Uuid::nil(),
            labels: BTreeMap::new(),
            version: String::new(),
            capacity: crate::record::Capacity { memory: 0, slots: 0, millicores: 0 },
            volumes: Default::default(),
            http: None,
            draining: false,
            taints: Vec::new(),
            gpus: Vec::new(),
            offers: None,
            compiled: Default::default(),
            started_at: 0,
            renewals: 3,
        };
        let snapshot = |value: Option<&[u8]>, revision| Snapshot {
            identity: String::new(),
            head: Revision(revision),
            entries: value
                .map(|value| Entry {
                    key: "session.n1".into(),
                    value: value.to_vec().into(),
                    revision: Revision(revision),
                })
                .into_iter()
                .collect(),
        };
        let mut view = LatticeView::default();
        view.apply_snapshot(Bucket::State, snapshot(Some(&session.encode()), 1));
        let good = view.sessions.get(&node).cloned();
        assert_eq!(good.as_ref().map(|session| session.record.renewals), Some(3));
        view.apply_snapshot(Bucket::State, snapshot(Some(b"{}"), 2));
        assert_eq!(view.sessions.get(&node), good.as_ref());
        assert_eq!(view.corrupt.get("session.n1").map(|corrupt| corrupt.revision), Some(Revision(2)));
        view.apply_snapshot(Bucket::State, snapshot(None, 3));
        assert_eq!((view.sessions.len(), view.corrupt.len()), (0, 0));
    }
}
