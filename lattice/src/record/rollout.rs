//! How far a workload is on its way from one template to the next. A *template* is what replicas run: all of a spec but how
//! many replicas there are, where, and how requests reach them. It is named by the generation that brought it. Which
//! generation follows which is in `generations.rs`.

use super::{FAILURES_TOLD, Phase, Record, Slot, SpecRecord};
use crate::{id::Generation, store::Bucket};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Decided: which replicas may run the newest template. Written by any node, compare-and-set. Without such a record for the
/// newest template each replica stays at what it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Rollout {
    /// The life of the workload.
    pub uid: uuid::Uuid,
    /// What is rolled out.
    pub template: Generation,
    pub state: RolloutState,
    /// Replicas with a smaller index run it, all others what is stable. It grows only. Use [`Rollout::lets`].
    pub below: u32,
    /// There are so many replicas, and as many again beside them: those with this index or a larger one run the template, and
    /// all others what is stable. Once it is done the others come to run it as well, and then the second set goes. Use
    /// [`SpecRecord::beside`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<u32>,
    /// Of those, the ones that stop before the new one starts.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub stop_first: BTreeSet<u32>,
    /// Steps of the spec that are over.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub step: u32,
    /// Of a hundred requests, those that go to replicas that run it. Without it they go to replicas whatever they run. Use
    /// [`SpecRecord::weighed`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// It is stalled since what is new is beyond a bound: it goes on when somebody says so, and not by itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub beyond: bool,
    /// Why it does not go on, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Milliseconds since 1970, by the clock of the node that wrote it. For people only.
    pub changed_at: u64,
}
impl Record for Rollout {
    const BUCKET: Bucket = Bucket::State;

    /// Whoever does not know that it can be given up would begin it anew, and whoever knows of no second set would stop it.
    fn schema(&self) -> u32 {
        match self.state {
            _ if self.beside.is_some() => 6,
            RolloutState::GivingUp => 5,
            _ => 1,
        }
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What a rollout is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RolloutState {
    Progressing,
    /// Somebody asked that no further replica is changed, or a step of the spec lets people decide.
    Paused,
    /// A new replica failed or is late, and the spec leaves it to people what follows.
    Stalled,
    /// It is given up: nothing else becomes of it, and whoever sees it writes the stable spec again. `message` says why.
    GivingUp,
    /// Every replica runs the template: from now on it is the stable one.
    Done,
}

impl Rollout {
    /// The beginning: nothing changes by it.
    pub fn new(spec: &SpecRecord) -> Self {
        Self {
            uid: spec.uid,
            template: spec.template(),
            state: RolloutState::Progressing,
            below: 0,
            beside: None,
            stop_first: BTreeSet::new(),
            step: 0,
            // Nothing goes to what is new before as many replicas run it as the first step asks for.
            weight: spec.spec.rollout.stops().first().and_then(|step| step.weight).map(|_| 0),
            beyond: false,
            message: None,
            changed_at: 0,
        }
    }

    /// Whether it speaks of what this record rolls out.
    pub fn is_of(&self, spec: &SpecRecord) -> bool {
        (self.uid, self.template) == (spec.uid, spec.template())
    }

    /// Whether a replica may run what is rolled out.
    pub fn lets(&self, index: u32) -> bool {
        match self.beside {
            _ if self.state == RolloutState::Done => true,
            Some(first) => index >= first,
            None => index < self.below,
        }
    }

    /// Whether it knows of more progress than another one of the same workload.
    pub fn is_ahead_of(&self, other: &Self) -> bool {
        let progress = |of: &Self| {
            let is_done = of.state == RolloutState::Done;
            (of.template, is_done, is_done && of.beside.is_none(), of.below)
        };
        self.uid == other.uid && progress(self) > progress(other)
    }
}

impl SpecRecord {
    /// The generation that brought what replicas run. Slots are labelled with it.
    pub fn template(&self) -> Generation {
        self.template.unwrap_or(self.generation)
    }

    /// The record that says what one replica is to run: this one, or the stable one before it. `holds` is what is recorded
    /// of its slot.
    pub fn wanted(&self, rollout: Option<&Rollout>, index: u32, holds: Option<&Slot>) -> &SpecRecord {
        let Some(stable) = self.stable.as_deref() else { return self };
        let is_new = match rollout.filter(|rollout| rollout.is_of(self)) {
            Some(rollout) => rollout.lets(index),
            None => holds.is_some_and(|slot| slot.uid == self.uid && slot.generation == self.template()),
        };
        if is_new { self } else { stable }
    }

    /// Of the templates that this record knows, the one of that name.
    pub fn of_template(&self, template: Generation) -> Option<&SpecRecord> {
        [Some(self), self.stable.as_deref()].into_iter().flatten().find(|record| record.template() == template)
    }

    /// Whether every replica may run the template.
    pub fn is_settled(&self, rollout: Option<&Rollout>) -> bool {
        let is_done = |rollout: &Rollout| rollout.is_of(self) && rollout.state == RolloutState::Done;
        self.stable.is_none() || rollout.is_some_and(is_done)
    }

    /// The index from which on there is a second set of replicas, as long as there is one. That of the change before counts
    /// as well, until the first set has come to what is stable.
    pub fn beside(&self, rollout: Option<&Rollout>) -> Option<u32> {
        let stable = self.stable.as_deref()?;
        let rollout = rollout.filter(|rollout| rollout.uid == self.uid)?;
        let is_of_stable = rollout.state == RolloutState::Done && rollout.template == stable.template();
        rollout.beside.filter(|_| is_of_stable || rollout.template == self.template())
    }
}

impl Slot {
    /// Why the replica does not come to run a template, where it fails to.
    pub fn failure_of(&self, template: Generation) -> Option<&str> {
        let message = self.message.as_deref()?;
        match self.phase {
            Phase::Failed if self.generation == template => Some(message),
            Phase::Ready if self.generation != template => message.strip_prefix(&failure(template, "")),
            Phase::Ready | Phase::Starting | Phase::Failed => None,
        }
    }

    /// Whether it failed so seldom in a row that it may have been bad luck.
    pub fn is_tried_again(&self) -> bool {
        self.failures.is_some_and(|failures| failures < FAILURES_TOLD)
    }

    /// What its holder says of it, for people.
    pub fn said(&self) -> Option<String> {
        let message = self.message.as_ref()?;
        Some(if self.is_tried_again() { format!("{message}; it is tried again") } else { message.clone() })
    }
}

/// What the holder of a slot says while one template serves and the next one fails. [`Slot::failure_of`] reads it.
pub fn failure(template: Generation, why: &str) -> String {
    format!("generation {template} failed: {why}")
}
