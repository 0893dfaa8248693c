//! The way back: replicas that serve a template which was given up, or taken over by another put, come to the one before.
//! Nobody writes down whose turn it is. Who goes first follows from the slots alone, in the order of their indexes, so a node
//! whose view is late lets its own replicas wait for longer and never makes the workload lose more than it may.

use lattice::{
    record::{Holder, Phase, Rollout, Slot, SpecRecord},
    spec::Class,
    view::LatticeView,
};
use std::collections::{BTreeMap, BTreeSet};

/// How a replica that serves what nobody wants any more comes to run what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// What is wanted comes up beside it.
    Beside,
    /// It stops first.
    StopFirst,
    /// It is not its turn: it goes on as it is.
    Waits,
}

/// What has become of the way back of one workload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Retreat {
    /// Of the replicas that serve what is given up. Those that do not serve have nothing to lose, and go at once.
    pub(crate) ways: BTreeMap<u32, Way>,
    /// Those of them whose turn it is.
    pub(crate) turn: BTreeSet<u32>,
    /// Replicas that are out of service, and on their way up at what was stable.
    pub(crate) coming: u32,
}

impl Retreat {
    pub(crate) fn of(view: &LatticeView, spec: &SpecRecord, rollout: Option<&Rollout>) -> Self {
        let base = spec.stable.as_deref().unwrap_or(spec);
        let is_live = |holder: &Holder| view.live(holder).is_some();
        // It is not waited for one that fails again and again: it may have done so before.
        let is_hopeless = |slot: &Slot| slot.failure_of(base.template()).is_some() && !slot.is_tried_again();
        let (mut behind, mut coming, mut changing) = (Vec::new(), 0_u32, (0_u32, 0_u32));
        let mut held = 0_u32;
        for (id, slot) in view.slots_of(&spec.spec.name) {
            let slot = &slot.record;
            if slot.uid != spec.uid || !is_live(&slot.holder) {
                continue;
            }
            held = held.saturating_add(1);
            let is_ready = slot.phase == Phase::Ready;
            if spec.stable.is_some() && spec.wanted(rollout, id.index, Some(slot)).template() == spec.template() {
                // On its way to what is newest: it has its share of what may change at a time.
                match is_ready && slot.generation == spec.template() {
                    true => {}
                    false if is_ready && !crate::templates::stops_first(spec, rollout, id.index) => changing.0 += 1,
                    false => changing.1 += 1,
                }
            } else if is_ready && slot.generation != base.template() {
                behind.push((id.index, is_hopeless(slot)));
            } else if !is_ready && !is_hopeless(slot) {
                coming = coming.saturating_add(1);
            }
        }
        if behind.is_empty() {
            return Self { coming, ..Self::default() };
        }
        let replicas = if spec.spec.placement.daemon { held } else { view.replicas(spec) };
        let settings = &spec.spec.rollout;
        let surge_max = settings.max_surge.of_up(replicas);
        let claims_gpu = base.spec.gpu.is_some() || spec.spec.gpu.is_some();
        let stops =
            surge_max == 0 || claims_gpu || base.spec.class == Class::Strict || spec.spec.class == Class::Strict;
        let (way, mut free) = match stops {
            true => {
                let most = settings.max_unavailable.of_down(replicas).max(1);
                (Way::StopFirst, most.saturating_sub(coming.saturating_add(changing.1)))
            }
            false => (Way::Beside, surge_max.saturating_sub(changing.0)),
        };
        let (mut ways, mut turn) = (BTreeMap::new(), BTreeSet::new());
        for (index, is_hopeless) in behind {
            let is_next = !is_hopeless && free > 0;
            if is_next {
                free -= 1;
                turn.insert(index);
            }
            ways.insert(index, if is_next || is_hopeless { way } else { Way::Waits });
        }
        Self { ways, turn, coming }
    }

    /// Replicas that are doubled for it, and those that stop for it or are out of service.
    pub(crate) fn under_way(&self) -> (u32, u32) {
        let count = |which: Way| self.turn.iter().filter(|index| self.ways.get(index) == Some(&which)).count();
        let count = |which| u32::try_from(count(which)).unwrap_or(u32::MAX);
        (count(Way::Beside), count(Way::StopFirst).saturating_add(self.coming))
    }
}
