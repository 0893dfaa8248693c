//! The slots of a view: a map in the order of slots whose copies share what did not change, workload by workload. A view is
//! copied at each change, and most of a large lattice is not what changed.

use super::Versioned;
use crate::{
    id::{SlotId, WorkloadName},
    record::Slot,
};
use std::{collections::BTreeMap, sync::Arc};

type OfWorkload = BTreeMap<SlotId, Versioned<Slot>>;

/// Slots by id.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Slots {
    /// None of them is empty.
    workloads: BTreeMap<WorkloadName, Arc<OfWorkload>>,
    len: usize,
}

impl Slots {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn get(&self, slot: &SlotId) -> Option<&Versioned<Slot>> {
        self.workloads.get(&slot.workload)?.get(slot)
    }

    pub fn get_mut(&mut self, slot: &SlotId) -> Option<&mut Versioned<Slot>> {
        Arc::make_mut(self.workloads.get_mut(&slot.workload)?).get_mut(slot)
    }

    pub fn contains_key(&self, slot: &SlotId) -> bool {
        self.get(slot).is_some()
    }

    pub fn insert(&mut self, slot: SlotId, record: Versioned<Slot>) -> Option<Versioned<Slot>> {
        let before = match self.workloads.get_mut(&slot.workload) {
            Some(slots) => Arc::make_mut(slots).insert(slot, record),
            None => {
                let slots = Arc::new(BTreeMap::from([(slot.clone(), record)]));
                self.workloads.insert(slot.workload, slots);
                None
            }
        };
        self.len += usize::from(before.is_none());
        before
    }

    pub fn remove(&mut self, slot: &SlotId) -> Option<Versioned<Slot>> {
        let slots = self.workloads.get_mut(&slot.workload).filter(|slots| slots.contains_key(slot))?;
        let removed = Arc::make_mut(slots).remove(slot);
        if slots.is_empty() {
            self.workloads.remove(&slot.workload);
        }
        self.len -= usize::from(removed.is_some());
        removed
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Keep those for which `keep` is true.
    pub fn retain(&mut self, mut keep: impl FnMut(&SlotId, &Versioned<Slot>) -> bool) {
        let gone: Vec<SlotId> =
            self.iter().filter(|(slot, record)| !keep(slot, record)).map(|(s, _)| s.clone()).collect();
        for slot in gone {
            self.remove(&slot);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&SlotId, &Versioned<Slot>)> {
        self.workloads.values().flat_map(|slots| slots.iter())
    }

    pub fn keys(&self) -> impl Iterator<Item = &SlotId> {
        self.iter().map(|(slot, _)| slot)
    }

    pub fn values(&self) -> impl Iterator<Item = &Versioned<Slot>> {
        self.iter().map(|(_, record)| record)
    }

    /// The workloads that have slots.
    pub fn workloads(&self) -> impl Iterator<Item = &WorkloadName> {
        self.workloads.keys()
    }

    /// Those of one workload, by index.
    pub fn of<'a>(
        &'a self,
        workload: &WorkloadName,
    ) -> impl Iterator<Item = (&'a SlotId, &'a Versioned<Slot>)> + use<'a> {
        self.workloads.get(workload).into_iter().flat_map(|slots| slots.iter())
    }

    /// Workloads whose slots differ from those of another copy, or may: what was written and written back counts.
    pub fn changed<'a>(&'a self, other: &'a Self) -> Vec<&'a WorkloadName> {
        super::changed(&self.workloads, &other.workloads, Arc::ptr_eq)
    }
}

impl<'a> IntoIterator for &'a Slots {
    type Item = (&'a SlotId, &'a Versioned<Slot>);
    type IntoIter = Box<dyn Iterator<Item = Self::Item> + 'a>;
    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::{Generation, NodeId, Revision},
        record::{Holder, Phase},
    };
    use proptest::prelude::*;

    fn record(revision: u64) -> Versioned<Slot> {
        let record = Slot {
            holder: Holder { node: NodeId::new("n1").unwrap(), incarnation: uuid::Uuid::nil() },
            uid: uuid::Uuid::nil(),
            generation: Generation(1),
            phase: Phase::Ready,
            message: None,
            failures: None,
            handover_from: None,
            gpu: None,
            handover_gpu: None,
            nonce: uuid::Uuid::nil(),
            claimed_at: 0,
            since: 0,
        };
        Versioned { record, revision: Revision(revision) }
    }

    proptest! {
        #[test]
        fn it_is_a_map_and_copies_tell_what_changed(steps in proptest::collection::vec((0u32..4, 0u32..3, any::<bool>()), 0..40)) {
            let mut map = BTreeMap::new();
            let mut slots = Slots::default();
            for (revision, (workload, index, is_there)) in (1..).zip(steps) {
                let before = (slots.clone(), map.clone());
                let slot = SlotId::new(WorkloadName::new(format!("w{workload}")).unwrap(), index);
                if is_there {
                    prop_assert_eq!(slots.insert(slot.clone(), record(revision)), map.insert(slot.clone(), record(revision)));
                } else {
                    prop_assert_eq!(slots.remove(&slot), map.remove(&slot));
                }
                prop_assert!(slots.iter().eq(map.iter()));
                prop_assert_eq!(slots.get(&slot), map.get(&slot));
                prop_assert!(slots.of(&slot.workload).eq(map.iter().filter(|(id, _)| id.workload == slot.workload)));
                prop_assert_eq!((slots.len(), slots.is_empty()), (map.len(), map.is_empty()));
                prop_assert!(before.0.iter().eq(before.1.iter()), "a copy stays as it was");
                let expected: Vec<_> = [&slot.workload].into_iter().filter(|_| map != before.1).collect();
                prop_assert_eq!(slots.changed(&before.0), expected);
            }
            let mut without = slots.clone();
            without.retain(|slot, _| slot.index != 1);
            map.retain(|slot, _| slot.index != 1);
            prop_assert!(without.iter().eq(map.iter()));
        }
    }
}
