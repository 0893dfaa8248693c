//! Requests that steer a change of what replicas run.

use super::{
    Admission, body,
    put::{ATTEMPTS, not_found},
    unavailable,
};
use lattice::{
    ctl::{CtlError, ErrorCode, RolloutAction, RolloutReply, RolloutRequest},
    event::EventKind,
    id::{Revision, WorkloadName},
    record::{Key, Record as _, Rollout, RolloutState, SpecRecord},
    store::{Bucket, Message, Precondition, StoreError},
};
use std::time::Duration;

/// Until a rollout that was just put has its record.
const BEGINS_WITHIN: Duration = Duration::from_millis(500);

impl Admission {
    pub(super) async fn steer(&self, name: &WorkloadName, message: &Message) -> Result<RolloutReply, CtlError> {
        let RolloutRequest { action } =
            body(&message.payload, r#"{"action": "pause"}, "resume", "promote" or "abort""#)?;
        for _ in 0..ATTEMPTS {
            let current = self.current(name).await?;
            let (Some(spec), Some(revision)) = (current.record, current.revision) else { return Err(not_found(name)) };
            let rollout = self.versioned_rollout(name).await?;
            if spec.is_settled(rollout.as_ref().map(|(rollout, _)| rollout)) {
                return Err(CtlError::new(ErrorCode::Conflict, format!("nothing of {name} is being rolled out")).hint(
                    format!("see `lattice status {name}`; `lattice rollback {name}` goes back to what ran before"),
                ));
            }
            let written = match (action, rollout.filter(|(rollout, _)| rollout.is_of(&spec))) {
                (RolloutAction::Abort, _) => self.give_up(&spec, Precondition::At(revision)).await,
                (RolloutAction::Pause, Some((rollout, _))) if rollout.state == RolloutState::Paused => {
                    return Ok(reply(&spec, Some(RolloutState::Paused)));
                }
                (RolloutAction::Resume, Some((rollout, _))) if rollout.state == RolloutState::Progressing => {
                    return Ok(reply(&spec, Some(RolloutState::Progressing)));
                }
                (RolloutAction::Pause, Some(rollout)) => self.set(&spec, rollout, RolloutState::Paused).await,
                (RolloutAction::Resume, Some(rollout)) => self.set(&spec, rollout, RolloutState::Progressing).await,
                (RolloutAction::Promote, Some((rollout, revision))) => {
                    let step = u32::try_from(spec.spec.rollout.steps.len()).unwrap_or(u32::MAX);
                    self.set(&spec, (Rollout { step, ..rollout }, revision), RolloutState::Progressing).await
                }
                (RolloutAction::Pause | RolloutAction::Resume | RolloutAction::Promote, None) => {
                    self.platform.clock.sleep(BEGINS_WITHIN).await;
                    continue;
                }
            };
            match written {
                Ok(reply) => return Ok(reply),
                // The next look finds out what became of it.
                Err(StoreError::Conflict { .. } | StoreError::OutcomeUnknown { .. }) => {}
                Err(error) => return Err(unavailable(&error)),
            }
        }
        Err(CtlError::new(
            ErrorCode::Unavailable,
            format!("the rollout of {name} is changed by nodes all the time, or has not begun"),
        )
        .hint("try again in a moment"))
    }

    /// As the store's leader has it; one that does not parse is as if it were not there.
    pub(super) async fn versioned_rollout(&self, name: &WorkloadName) -> Result<Option<(Rollout, Revision)>, CtlError> {
        let key = Key::Rollout(name.clone()).to_string();
        let entry = self.platform.store.get(Bucket::State, &key).await.map_err(|error| unavailable(&error))?;
        Ok(entry.and_then(|entry| Some((Rollout::decode(&entry.value).ok()?, entry.revision))))
    }

    async fn set(
        &self,
        spec: &SpecRecord,
        (rollout, revision): (Rollout, Revision),
        state: RolloutState,
    ) -> Result<RolloutReply, StoreError> {
        let name = &spec.spec.name;
        let record = Rollout { state, message: None, changed_at: self.platform.clock.unix_ms(), ..rollout };
        let key = Key::Rollout(name.clone()).to_string();
        self.platform.store.write(Bucket::State, &key, record.encode(), Precondition::At(revision)).await?;
        let word = if state == RolloutState::Paused { "paused" } else { "resumed" };
        self.events.send(EventKind::RolloutProgressed, name, format!("{word}, as somebody asked")).await;
        Ok(reply(spec, Some(state)))
    }

    async fn give_up(&self, spec: &SpecRecord, expect: Precondition) -> Result<RolloutReply, StoreError> {
        let name = &spec.spec.name;
        let reason = "somebody asked for it";
        let Some(record) = spec.abort(reason, self.platform.clock.unix_ms()) else { return Ok(reply(spec, None)) };
        let key = Key::Spec(name.clone()).to_string();
        self.platform.store.write(Bucket::Specs, &key, record.encode(), expect).await?;
        let text = format!("generation {} is given up: {reason}", spec.generation);
        self.events.send(EventKind::RolloutAborted, name, text).await;
        Ok(reply(&record, None))
    }
}

fn reply(spec: &SpecRecord, state: Option<RolloutState>) -> RolloutReply {
    RolloutReply { workload: spec.spec.name.clone(), generation: spec.generation, state }
}
