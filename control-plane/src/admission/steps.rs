//! Steps of a rollout that hold for a time. When one is over each node measures with its own clock; what is told here is by
//! the clocks of those who wrote the records, for people.

use lattice::{
    event::rfc3339,
    record::{Phase, Rollout, RolloutState, SpecRecord},
    units::Millis,
    view::LatticeView,
};
use lattice_planner::{step_replicas, step_told};

/// A step that holds, and goes on by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hold {
    /// Steps that are over.
    pub(super) step: u32,
    of: usize,
    asks: String,
    pause: Millis,
    /// Milliseconds since 1970. Unknown where a replica's holder wrote no times down.
    until: Option<u64>,
}

impl Hold {
    /// In words, as the reason why nothing changes for the time being.
    pub(super) fn text(&self) -> String {
        let Hold { step, of, asks, pause, until } = self;
        let until = match until {
            Some(until) => format!("until {}", rfc3339(*until)),
            None => format!("for {pause}"),
        };
        format!("step {} of {of} ({asks}) holds {until}", step.saturating_add(1))
    }
}

/// The step that holds now, if one does that ends by itself.
pub(super) fn hold(view: &LatticeView, spec: &SpecRecord, rollout: &Rollout) -> Option<Hold> {
    if rollout.state != RolloutState::Progressing {
        return None;
    }
    let settings = &spec.spec.rollout;
    let step = settings.stops().get(rollout.step as usize)?;
    let pause = step.pause?;
    let wanted = lattice_planner::wanted(view, &spec.spec.name);
    let changed: Vec<u32> = wanted.iter().copied().filter(|index| rollout.lets(*index)).collect();
    let until = match rollout.beside {
        Some(first) => first as usize,
        None => step_replicas(step, u32::try_from(wanted.len()).unwrap_or(u32::MAX)) as usize,
    };
    if changed.is_empty() || changed.len() < until.min(wanted.len()) || rollout.weight != step.weight {
        return None;
    }
    let mut since = rollout.changed_at;
    for index in changed {
        let slot = lattice::id::SlotId::new(spec.spec.name.clone(), index);
        let held = &view.slots.get(&slot)?.record;
        let is_new = held.phase == Phase::Ready && (held.uid, held.generation) == (spec.uid, spec.template());
        if !is_new || view.live(&held.holder).is_none() {
            return None;
        }
        since = since.max(held.since);
    }
    let end = since.saturating_add(settings.min_ready.0).saturating_add(pause.0);
    let (of, asks) = (settings.stops().len(), step_told(step));
    Some(Hold { step: rollout.step, of, asks, pause, until: (since > 0).then_some(end) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_says_how_long_it_holds() {
        let hold = Hold { step: 0, of: 2, asks: "1".into(), pause: Millis::from_secs(600), until: Some(61_000) };
        assert_eq!(hold.text(), "step 1 of 2 (1) holds until 1970-01-01T00:01:01.000Z");
        let other = Hold { step: 1, asks: "50%".into(), until: None, ..hold };
        assert_eq!(other.text(), "step 2 of 2 (50%) holds for 10m");
    }
}
