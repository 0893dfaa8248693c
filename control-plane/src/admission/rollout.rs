//! Requests that steer a change of what replicas run.

use super::{
    Admission, body,
    put::{ATTEMPTS, not_found},
    steps, unavailable,
};
use crate::{
    abort,
    stored::{self, Unread},
};
use lattice::{
    ctl::{CtlError, ErrorCode, RolloutAction, RolloutReply, RolloutRequest},
    event::EventKind,
    id::{Generation, Revision, WorkloadName},
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
            let Some(spec) = current.record else { return Err(not_found(name)) };
            let rollout = self.versioned_rollout(name).await?;
            if spec.is_settled(rollout.as_ref().map(|(rollout, _)| rollout)) {
                return Err(nothing_under_way(name));
            }
            let written = match (action, rollout.filter(|(rollout, _)| rollout.is_of(&spec))) {
                (RolloutAction::Abort, _) => {
                    let (record, _) = Box::pin(self.abort(name, None)).await?;
                    return Ok(reply(&record, None));
                }
                (_, Some((rollout, _))) if rollout.state == RolloutState::GivingUp => {
                    return Err(is_given_up(name, &rollout));
                }
                (RolloutAction::Pause, Some((rollout, _))) if rollout.state == RolloutState::Paused => {
                    return Ok(RolloutReply { changed: false, ..reply(&spec, Some(RolloutState::Paused)) });
                }
                (RolloutAction::Resume, Some((rollout, revision))) if rollout.state == RolloutState::Progressing => {
                    // What holds it is a step that ends by itself, if anything is.
                    match steps::hold(&*self.view()?, &spec, &rollout) {
                        Some(hold) => {
                            let rollout = Rollout { step: hold.step.saturating_add(1), ..rollout };
                            self.set(&spec, (rollout, revision), RolloutState::Progressing).await
                        }
                        None => {
                            let reply = reply(&spec, Some(RolloutState::Progressing));
                            return Ok(RolloutReply { changed: false, ..reply });
                        }
                    }
                }
                (RolloutAction::Pause, Some(rollout)) => self.set(&spec, rollout, RolloutState::Paused).await,
                (RolloutAction::Resume, Some(rollout)) => self.set(&spec, rollout, RolloutState::Progressing).await,
                (RolloutAction::Promote, Some((rollout, revision))) => {
                    let step = u32::try_from(spec.spec.rollout.stops().len()).unwrap_or(u32::MAX);
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

    /// Give up what is rolled out. Answers what is in force from now on.
    pub(super) async fn abort(
        &self,
        name: &WorkloadName,
        expected: Option<Revision>,
    ) -> Result<(SpecRecord, Revision), CtlError> {
        let mut unanswered: Option<SpecRecord> = None;
        // The template that this request gave up.
        let mut given_up: Option<Generation> = None;
        for _ in 0..ATTEMPTS {
            let current = self.current(name).await?;
            let (Some(spec), Some(revision)) = (&current.record, current.revision) else { return Err(not_found(name)) };
            if unanswered.as_ref() == Some(spec) {
                self.tell_of_abort(spec).await;
                return Ok((spec.clone(), revision)); // it landed
            }
            if given_up.is_some_and(|template| template != spec.template()) && spec.aborted.is_some() {
                return Ok((spec.clone(), revision)); // a node was faster
            }
            Self::check_expected(&current, expected.filter(|_| given_up.is_none()))?;
            let rollout = self.versioned_rollout(name).await?;
            let is_settled = spec.is_settled(rollout.as_ref().map(|(rollout, _)| rollout));
            let reason = match &rollout {
                Some((Rollout { state: RolloutState::GivingUp, message: Some(why), .. }, _)) => why.clone(),
                _ => "somebody asked for it".to_owned(),
            };
            let back = abort::back(&*self.view()?, spec, &reason, self.platform.clock.unix_ms());
            let Some(record) = back.filter(|_| !is_settled) else { return Err(nothing_under_way(name)) };
            // Nobody else ends it from now on, or goes on with it.
            match self.give_up(spec, rollout, reason).await {
                Ok(()) => given_up = Some(spec.template()),
                Err(StoreError::Conflict { .. } | StoreError::OutcomeUnknown { .. }) => continue,
                Err(error) => return Err(unavailable(&error)),
            }
            match abort::write(&self.platform, self.view.clone(), record.clone(), revision).await {
                Ok((record, revision)) => {
                    self.tell_of_abort(&record).await;
                    return Ok((record, revision));
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(StoreError::OutcomeUnknown { .. }) => unanswered = Some(record),
                Err(error) => return Err(unavailable(&error)),
            }
        }
        Err(CtlError::new(ErrorCode::Unavailable, format!("{name} is changed by others all the time"))
            .hint("try again"))
    }

    /// Write down that a rollout is given up, unless it is written down.
    async fn give_up(
        &self,
        spec: &SpecRecord,
        rollout: Option<(Rollout, Revision)>,
        reason: String,
    ) -> Result<(), StoreError> {
        let expect = rollout.as_ref().map_or(Precondition::Absent, |(_, revision)| Precondition::At(*revision));
        let known = rollout.map(|(rollout, _)| rollout).filter(|rollout| rollout.is_of(spec));
        if known.as_ref().is_some_and(|rollout| rollout.state == RolloutState::GivingUp) {
            return Ok(());
        }
        let before = known.unwrap_or_else(|| Rollout::new(spec));
        let changed_at = self.platform.clock.unix_ms();
        let record = Rollout { state: RolloutState::GivingUp, message: Some(reason), changed_at, ..before };
        let key = Key::Rollout(spec.spec.name.clone()).to_string();
        self.platform.store.write(Bucket::State, &key, record.encode(), expect).await.map(drop)
    }

    async fn tell_of_abort(&self, record: &SpecRecord) {
        let Some(text) = abort::told(record) else { return };
        self.events.send(EventKind::RolloutAborted, &record.spec.name, text).await;
    }

    /// As the store's leader has it.
    pub(super) async fn versioned_rollout(&self, name: &WorkloadName) -> Result<Option<(Rollout, Revision)>, CtlError> {
        stored::rollout(&self.platform, name).await.map_err(|error| match error {
            Unread::Store(error) => unavailable(&error),
            Unread::Newer { .. } => CtlError::new(ErrorCode::Conflict, error.to_string()),
        })
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
}

fn nothing_under_way(name: &WorkloadName) -> CtlError {
    CtlError::new(ErrorCode::Conflict, format!("nothing of {name} is being rolled out"))
        .hint(format!("see `lattice status {name}`; `lattice rollback {name}` goes back to what ran before"))
}

fn is_given_up(name: &WorkloadName, rollout: &Rollout) -> CtlError {
    let why = rollout.message.as_deref().unwrap_or("no reason is known");
    CtlError::new(ErrorCode::Conflict, format!("the rollout of {name} is being given up: {why}"))
        .hint("put the spec again to begin anew")
}

fn reply(spec: &SpecRecord, state: Option<RolloutState>) -> RolloutReply {
    RolloutReply { workload: spec.spec.name.clone(), generation: spec.generation, state, changed: true }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{admission, message},
        *,
    };
    use lattice::{
        ctl::PutReply,
        record::{ConfigStamp, SCHEMA},
        spec::{ConfigUpdate, WorkloadSpec},
    };
    use std::collections::BTreeMap;

    fn name() -> WorkloadName {
        WorkloadName::new("a").unwrap()
    }

    fn spec(version: u32) -> WorkloadSpec {
        let source = lattice::id::Digest::of(b"one");
        let text = format!("name: a\ncomponents: [{{name: api, source: '{source}', env: {{V: '{version}'}}}}]");
        lattice::spec::parse(text.as_bytes()).unwrap()
    }

    /// The next generation, with this spec, as the store would have it.
    async fn write(admission: &Admission, spec: WorkloadSpec, version: u64) -> SpecRecord {
        let store = &admission.platform.store;
        let key = Key::Spec(name()).to_string();
        let current = admission.current(&name()).await.unwrap();
        let uid = uuid::Uuid::from_u128(7);
        let stamp = ConfigStamp { uid, version: Generation(version) };
        let configs = match spec.config_update() {
            ConfigUpdate::Roll => BTreeMap::from([("shop".parse().unwrap(), stamp)]),
            ConfigUpdate::Watch => BTreeMap::new(),
        };
        let record = match current.record {
            None => SpecRecord { configs, ..SpecRecord::new(spec, uid, Generation::FIRST) },
            Some(before) => {
                let rollout = admission.rollout(&before).await.unwrap();
                before.next(rollout.as_ref(), spec, Default::default(), configs, 0)
            }
        };
        let expect = current.revision.map_or(Precondition::Absent, Precondition::At);
        store.write(Bucket::Specs, &key, record.encode(), expect).await.unwrap();
        record
    }

    /// What is in force was rolled out whole.
    async fn finish(admission: &Admission, record: &SpecRecord) {
        let done = Rollout { state: RolloutState::Done, ..Rollout::new(record) };
        let there = admission.versioned_rollout(&name()).await.unwrap();
        let expect = there.map_or(Precondition::Absent, |(_, revision)| Precondition::At(revision));
        let key = Key::Rollout(name()).to_string();
        admission.platform.store.write(Bucket::State, &key, done.encode(), expect).await.unwrap();
    }

    async fn rollback(admission: &Admission) -> Result<PutReply, CtlError> {
        admission.rollback(&name(), &message("")).await
    }

    #[tokio::test]
    async fn a_rollback_goes_to_nothing_that_was_given_up() {
        let (admission, _) = admission();
        write(&admission, spec(1), 0).await;
        let two = write(&admission, spec(2), 0).await;
        finish(&admission, &two).await;
        write(&admission, spec(3), 0).await;
        // What is given up is the template, though two generations had it.
        write(&admission, WorkloadSpec { replicas: 4, ..spec(3) }, 0).await;
        admission.steer(&name(), &message(r#"{"action": "abort"}"#)).await.unwrap();
        rollback(&admission).await.unwrap();
        let current = admission.current(&name()).await.unwrap().record.unwrap();
        assert_eq!((current.generation, current.spec), (Generation(6), spec(1)));
    }

    #[tokio::test]
    async fn a_rollback_finds_what_is_stable_though_the_history_is_not_that_long() {
        let (admission, _) = admission();
        write(&admission, spec(1), 0).await;
        for version in 2..100 {
            write(&admission, spec(version), 0).await;
        }
        let kept = admission.records(&name()).await.unwrap();
        assert!(kept.iter().all(|record| record.generation > Generation(1)), "else this shows nothing");
        rollback(&admission).await.unwrap();
        let current = admission.current(&name()).await.unwrap().record.unwrap();
        assert_eq!((current.template(), current.spec, current.stable), (Generation(1), spec(1), None));
    }

    #[tokio::test]
    async fn a_rollback_of_new_configuration_gives_it_up() {
        let (admission, _) = admission();
        let mut asked = WorkloadSpec { config_update: Some(ConfigUpdate::Roll), ..spec(1) };
        asked.components[0].config_from = vec!["shop".parse().unwrap()];
        write(&admission, asked.clone(), 1).await;
        let rolled = write(&admission, asked, 2).await;
        assert!(rolled.stable.is_some());
        let reply = rollback(&admission).await.unwrap();
        assert_eq!((reply.changed, reply.generation), (true, Generation(3)));
        let current = admission.current(&name()).await.unwrap().record.unwrap();
        let before = &rolled.stable.as_ref().unwrap().configs;
        assert_eq!((current.template(), &current.configs), (Generation(1), before), "with the values from before");
        assert_eq!(current.declined, rolled.configs);
    }

    #[tokio::test]
    async fn what_is_given_up_is_not_promoted_and_what_is_done_is_not_given_up() {
        let (admission, platform) = admission();
        write(&admission, spec(1), 0).await;
        let two = write(&admission, spec(2), 0).await;
        let key = Key::Rollout(name()).to_string();
        // A node is about to give it up.
        let reason = "replica 0 on n1: no luck".to_owned();
        let given_up = Rollout { state: RolloutState::GivingUp, message: Some(reason.clone()), ..Rollout::new(&two) };
        platform.store.write(Bucket::State, &key, given_up.encode(), Precondition::Absent).await.unwrap();
        for action in ["pause", "resume", "promote"] {
            let error = admission.steer(&name(), &message(&format!(r#"{{"action": "{action}"}}"#))).await.unwrap_err();
            assert_eq!(error.code, ErrorCode::Conflict);
            assert!(error.message.contains("is being given up: replica 0"), "{error}");
        }
        // Asked for by a person as well it has the reason that came first.
        admission.steer(&name(), &message(r#"{"action": "abort"}"#)).await.unwrap();
        let back = admission.current(&name()).await.unwrap().record.unwrap();
        assert_eq!((back.template(), back.aborted.unwrap().reason), (Generation(1), reason));

        let three = write(&admission, spec(3), 0).await;
        finish(&admission, &three).await;
        let error = admission.steer(&name(), &message(r#"{"action": "abort"}"#)).await.unwrap_err();
        assert!(error.message.contains("nothing of a is being rolled out"), "{error}");
        // The record says that somebody gives it up before the spec does.
        let four = write(&admission, spec(4), 0).await;
        admission.steer(&name(), &message(r#"{"action": "abort"}"#)).await.unwrap();
        let (rollout, _) = admission.versioned_rollout(&name()).await.unwrap().unwrap();
        assert_eq!((rollout.template, rollout.state), (four.template(), RolloutState::GivingUp));
        assert_eq!(rollout.schema(), 5, "a node that can't know it leaves it as it is");
    }

    #[tokio::test]
    async fn nothing_is_decided_by_a_record_that_is_too_new() {
        let (admission, platform) = admission();
        write(&admission, spec(1), 0).await;
        let two = write(&admission, spec(2), 0).await;
        let text = String::from_utf8(Rollout::new(&two).encode().to_vec()).unwrap();
        let newer = text.replace("\"v\":1", &format!("\"v\":{}", SCHEMA + 1));
        let key = Key::Rollout(name()).to_string();
        platform.store.write(Bucket::State, &key, newer.into(), Precondition::Absent).await.unwrap();
        let error = rollback(&admission).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Conflict);
        assert!(error.message.contains("upgrade this node"), "{error}");
    }
}
