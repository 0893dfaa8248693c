//! How long a change is waited for where nobody says it: as long as it makes sense.

use crate::client::Client;
use lattice::{
    ctl::{RolloutStatus, SpecReply},
    id::WorkloadName,
    spec::{Rollback, RolloutSpec},
    subject::{Topic, WorkloadVerb},
};
use std::time::Duration;
use tokio::time::Instant;

/// What a first spec, or a change around the replicas, is given where nobody says how long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Beyond a rollout's own deadline: nodes measure it themselves, each with its own clock.
const MARGIN: Duration = Duration::from_secs(15);

/// What the spec says of the time that a change may take.
pub(super) struct Prospects {
    pub(super) deadline: Duration,
    pub(super) rollback: Rollback,
    /// Of the steps.
    pauses: Vec<Duration>,
    pub(super) has_services: bool,
}

impl Default for Prospects {
    fn default() -> Self {
        Self::by(&RolloutSpec::default(), false)
    }
}

impl Prospects {
    /// Without an answer, what holds of a spec that says nothing.
    pub(super) async fn of(client: &Client, name: &WorkloadName) -> Self {
        let reply: Option<SpecReply> = client.ask(Topic::Workload(WorkloadVerb::Get, name.clone())).await.ok();
        reply.map(|SpecReply { spec, .. }| Self::by(&spec.rollout, !spec.services.is_empty())).unwrap_or_default()
    }

    fn by(rollout: &RolloutSpec, has_services: bool) -> Self {
        Self {
            deadline: rollout.deadline.into(),
            rollback: rollout.rollback,
            pauses: rollout.stops().iter().map(|step| step.pause.map_or(Duration::ZERO, Duration::from)).collect(),
            has_services,
        }
    }

    /// How long nothing may seem to happen before waiting is given up.
    fn patience(&self, rollout: Option<&RolloutStatus>) -> Duration {
        let Some(rollout) = rollout else { return PATIENCE };
        let held = self.pauses.get(rollout.step as usize).copied().unwrap_or_default();
        (self.deadline + held + MARGIN).max(PATIENCE)
    }
}

/// How long it is waited, and since when.
pub(super) struct Clock {
    pub(super) start: Instant,
    pub(super) limit: Option<Duration>,
    pub(super) prospects: Prospects,
    /// What was seen of a rollout when it moved last.
    seen: Option<RolloutStatus>,
    moved: Instant,
}

impl Clock {
    pub(super) fn new(limit: Option<Duration>, prospects: Prospects) -> Self {
        let now = Instant::now();
        Self { start: now, limit, prospects, seen: None, moved: now }
    }

    pub(super) fn look(&mut self, rollout: Option<&RolloutStatus>, now: Instant) {
        if rollout.is_some() && self.seen.as_ref() != rollout {
            (self.seen, self.moved) = (rollout.cloned(), now);
        }
    }

    pub(super) fn end(&self) -> Instant {
        match self.limit {
            Some(limit) => self.start + limit,
            None => self.moved + self.prospects.patience(self.seen.as_ref()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::{id::Generation, record::RolloutState};

    #[test]
    fn a_rollout_is_waited_for_as_long_as_it_goes_on() {
        let secs = Duration::from_secs;
        let prospects = Prospects {
            deadline: secs(300),
            rollback: Rollback::Automatic,
            pauses: vec![secs(0), secs(600)],
            has_services: false,
        };
        let of = |updated, step| RolloutStatus {
            state: RolloutState::Progressing,
            stable: Generation(1),
            below: 2,
            updated,
            step,
            weight: None,
            message: None,
        };
        let mut clock = Clock::new(None, prospects);
        let start = clock.start;
        assert_eq!(clock.end(), start + PATIENCE, "nothing is known of a rollout yet");
        clock.look(Some(&of(0, 0)), start + secs(10));
        assert_eq!(clock.end(), start + secs(310) + MARGIN);
        clock.look(Some(&of(0, 0)), start + secs(200));
        assert_eq!(clock.end(), start + secs(310) + MARGIN, "it has not moved");
        clock.look(Some(&of(1, 1)), start + secs(200));
        assert_eq!(clock.end(), start + secs(1100) + MARGIN, "a step holds");
        clock.limit = Some(secs(60));
        assert_eq!(clock.end(), start + secs(60));
    }
}
