//! The last word about this node's GPUs: by what really runs here, not by what records say. A plan books what records name; a
//! replica that is told to stop goes on for a while, and a change of a claim is written before the old one is let go. What
//! would use more of an offer than it has beside those waits here until they are gone.

use lattice::{
    gpu::{GpuGrant, GpuUse, Offer},
    host::{Assignment, Observed},
    id::{Generation, GpuId, SlotId},
    record::Phase,
};
use std::collections::BTreeMap;

/// What replicas here may be using.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    held: BTreeMap<SlotId, Held>,
}

/// Of one replica: what each of its templates may use, the one that was assigned last and the one that still runs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    uid: uuid::Uuid,
    assigned: Generation,
    grants: BTreeMap<Generation, GpuGrant>,
}

impl Held {
    /// What it may use of each offer. What two templates of one replica use of the same one they use one after the other.
    fn uses(&self) -> BTreeMap<GpuId, GpuUse> {
        let mut uses: BTreeMap<GpuId, GpuUse> = BTreeMap::new();
        for grant in self.grants.values() {
            let most = uses.entry(grant.offer.clone()).or_default();
            *most = GpuUse { memory: most.memory.max(grant.memory), slots: most.slots.max(grant.slots) };
        }
        uses
    }
}

impl Gate {
    /// Let in what has room beside what runs, and hold back the rest: of what serves, that it changes; of all else, that it
    /// starts. `observed` is what ran before `wanted` is applied.
    pub(crate) fn admit(
        &mut self,
        wanted: &mut BTreeMap<SlotId, Assignment>,
        observed: &BTreeMap<SlotId, Observed>,
        offers: impl FnOnce() -> Vec<Offer>,
    ) {
        if self.held.is_empty() && wanted.values().all(|wanted| wanted.gpu.is_none()) {
            return; // most nodes, always
        }
        self.held.retain(|slot, held| match observed.get(slot).filter(|runs| runs.uid == held.uid) {
            Some(runs) => {
                held.grants.retain(|generation, _| [runs.generation, held.assigned].contains(generation));
                true
            }
            // What was assigned and is not seen yet is about to be.
            None => wanted.get(slot).is_some_and(|wanted| wanted.uid == held.uid),
        });
        let offers = offers();
        let mut refused = Vec::new();
        for (slot, assignment) in wanted.iter_mut() {
            let runs = observed.get(slot).filter(|runs| runs.uid == assignment.uid);
            let before = self.held.get(slot).filter(|held| held.uid == assignment.uid);
            let had = before.and_then(|held| held.grants.get(&assignment.generation));
            // What runs can't be given something else: it stops, and starts again.
            let is_other = had.is_some() && had != assignment.gpu.as_ref();
            if is_other && runs.is_some_and(|runs| runs.generation == assignment.generation) {
                refused.push(slot.clone());
                continue;
            }
            let mut grants = before.filter(|_| runs.is_some()).map(|held| held.grants.clone()).unwrap_or_default();
            grants.remove(&assignment.generation);
            grants.extend(assignment.gpu.clone().map(|grant| (assignment.generation, grant)));
            let after = Held { uid: assignment.uid, assigned: assignment.generation, grants };
            if self.fits(slot, &after, &offers) {
                if after.grants.is_empty() {
                    self.held.remove(slot);
                } else {
                    self.held.insert(slot.clone(), after);
                }
            } else if let Some(runs) = runs.filter(|runs| runs.phase == Phase::Ready) {
                assignment.waits = true;
                assignment.gpu = before.and_then(|held| held.grants.get(&runs.generation).cloned());
            } else {
                tracing::debug!(%slot, "waits until there is room for it on the GPU that was claimed");
                refused.push(slot.clone());
            }
        }
        for slot in refused {
            wanted.remove(&slot);
        }
    }

    fn fits(&self, slot: &SlotId, asks: &Held, offers: &[Offer]) -> bool {
        asks.uses().into_iter().all(|(id, asked)| {
            let others = self.held.iter().filter(|(other, _)| *other != slot);
            let taken = others.filter_map(|(_, held)| held.uses().get(&id).copied()).fold(asked, |sum, more| GpuUse {
                memory: sum.memory.saturating_add(more.memory),
                slots: sum.slots.saturating_add(more.slots),
            });
            // What uses nothing that it did not use before is not held back for what others do.
            let had = self.held.get(slot).and_then(|held| held.uses().get(&id).copied());
            let is_no_more = had.is_some_and(|had| asked.memory <= had.memory && asked.slots <= had.slots);
            is_no_more || offers.iter().any(|offer| offer.id == id && taken.fits(offer))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::spec::{ComponentSpec, Source, WorkloadSpec};
    use std::sync::Arc;

    fn offer(id: &str) -> Offer {
        serde_json::from_value(serde_json::json!({
            "id": id, "name": "", "class": "discrete", "backend": "", "memory": {"total": 100}, "slots": 2
        }))
        .unwrap()
    }

    fn grant(offer: &str, memory: u64, slots: u32) -> GpuGrant {
        GpuGrant { offer: offer.parse().unwrap(), memory, slots }
    }

    fn wants(generation: u64, gpu: Option<GpuGrant>) -> Assignment {
        let main = ComponentSpec::new("main".parse().unwrap(), Source::File("x".into()));
        Assignment {
            spec: Arc::new(WorkloadSpec::new("w".parse().unwrap(), main)),
            recipe: Arc::default(),
            uid: uuid::Uuid::nil(),
            generation: Generation(generation),
            stop_first: true,
            waits: false,
            gpu,
            configs: Arc::default(),
        }
    }

    fn runs(generation: u64) -> Observed {
        Observed {
            uid: uuid::Uuid::nil(),
            generation: Generation(generation),
            phase: Phase::Ready,
            message: None,
            failures: 0,
            configs: Arc::default(),
        }
    }

    /// What is let in of what is wanted: the slots, and whether each waits.
    fn admit(gate: &mut Gate, wanted: &[(&str, Assignment)], observed: &[(&str, Observed)]) -> Vec<(String, bool)> {
        let mut wanted = wanted.iter().map(|(slot, wanted)| (slot.parse().unwrap(), wanted.clone())).collect();
        let observed = observed.iter().map(|(slot, runs)| (slot.parse().unwrap(), runs.clone())).collect();
        gate.admit(&mut wanted, &observed, || vec![offer("a"), offer("b")]);
        wanted.into_iter().map(|(slot, wanted): (SlotId, _)| (slot.to_string(), wanted.waits)).collect()
    }

    fn named(slots: &[(&str, bool)]) -> Vec<(String, bool)> {
        slots.iter().map(|(slot, waits)| ((*slot).to_owned(), *waits)).collect()
    }

    #[test]
    fn what_still_runs_keeps_what_it_has() {
        let mut gate = Gate::default();
        let (one, two) = (wants(1, Some(grant("a", 60, 1))), wants(1, Some(grant("a", 60, 1))));
        assert_eq!(admit(&mut gate, &[("w.0", one.clone())], &[]), named(&[("w.0", false)]));
        // The records say that the first one is gone, and it drains.
        assert_eq!(admit(&mut gate, &[("w.1", two.clone())], &[("w.0", runs(1))]), []);
        assert_eq!(admit(&mut gate, &[("w.1", two.clone())], &[]), named(&[("w.1", false)]));
        // Said again, and not seen yet: it is let in once.
        assert_eq!(admit(&mut gate, &[("w.0", one), ("w.1", two)], &[]), named(&[("w.1", false)]));
        let unknown = wants(1, Some(grant("gone", 1, 1)));
        assert_eq!(admit(&mut gate, &[("w.5", unknown)], &[]), [], "its offer is not there");
        assert_eq!(admit(&mut gate, &[("w.6", wants(1, None))], &[]), named(&[("w.6", false)]));
        assert!(gate.held.is_empty());
    }

    #[test]
    fn the_next_template_comes_when_there_is_room_for_it() {
        let mut gate = Gate::default();
        let (old, new) = (wants(1, Some(grant("a", 80, 2))), wants(2, Some(grant("a", 100, 2))));
        admit(&mut gate, &[("w.0", old)], &[]);
        assert_eq!(admit(&mut gate, &[("w.0", new.clone())], &[("w.0", runs(1))]), named(&[("w.0", false)]));
        // Until it runs, the old one does.
        let other = wants(1, Some(grant("a", 10, 1)));
        let both = [("v.0", other.clone()), ("w.0", new.clone())];
        assert_eq!(admit(&mut gate, &both, &[("w.0", runs(1))]), named(&[("w.0", false)]));
        let next = wants(3, Some(grant("b", 100, 2)));
        admit(&mut gate, &[("w.0", new)], &[("w.0", runs(2))]);
        let both = [("v.0", other), ("w.0", next)];
        assert_eq!(admit(&mut gate, &both, &[("w.0", runs(2))]), named(&[("w.0", false)]), "a is not free yet");
        assert_eq!(admit(&mut gate, &both, &[("w.0", runs(3))]), named(&[("v.0", false), ("w.0", false)]));
    }

    #[test]
    fn what_serves_goes_on_while_its_next_template_waits() {
        let mut gate = Gate::default();
        let small = wants(1, Some(grant("a", 10, 1)));
        admit(&mut gate, &[("v.0", wants(1, Some(grant("b", 50, 1)))), ("w.0", small)], &[]);
        let moved = wants(2, Some(grant("b", 60, 1)));
        let seen = [("v.0", runs(1)), ("w.0", runs(1))];
        assert_eq!(admit(&mut gate, &[("w.0", moved.clone())], &seen), named(&[("w.0", true)]));
        assert_eq!(admit(&mut gate, &[("w.0", moved)], &[("w.0", runs(1))]), named(&[("w.0", false)]));
    }
}
