//! How far a workload is on its way from one template to the next. A *template* is what replicas run: all of a spec but how
//! many replicas there are, where, and how requests reach them. It is named by the generation that brought it.

use super::{ConfigStamp, Phase, Record, Slot, SpecRecord};
use crate::{
    id::{ConfigName, Generation},
    limits::{MESSAGE_BYTES_MAX, one_line},
    recipe::Recipe,
    spec::WorkloadSpec,
    store::Bucket,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

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
    /// Replicas with a smaller index run it, all others what is stable. It grows only.
    pub below: u32,
    /// Of those, the ones that stop before the new one starts.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub stop_first: BTreeSet<u32>,
    /// Steps of the spec that are over.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub step: u32,
    /// Why it does not go on, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Milliseconds since 1970, by the clock of the node that wrote it. For people only.
    pub changed_at: u64,
}
impl Record for Rollout {
    const BUCKET: Bucket = Bucket::State;
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
    /// Every replica runs the template: from now on it is the stable one.
    Done,
}

/// A template that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Aborted {
    /// The generation of the spec that was in force.
    pub generation: Generation,
    /// Why, in one sentence.
    pub reason: String,
}

impl Rollout {
    /// The beginning: nothing changes by it.
    pub fn new(spec: &SpecRecord) -> Self {
        Self {
            uid: spec.uid,
            template: spec.template(),
            state: RolloutState::Progressing,
            below: 0,
            stop_first: BTreeSet::new(),
            step: 0,
            message: None,
            changed_at: 0,
        }
    }

    /// Whether it speaks of what this record rolls out.
    pub fn is_of(&self, spec: &SpecRecord) -> bool {
        (self.uid, self.template) == (spec.uid, spec.template())
    }

    /// Whether it knows of more progress than another one of the same workload.
    pub fn is_ahead_of(&self, other: &Self) -> bool {
        let progress = |of: &Self| (of.template, of.state == RolloutState::Done, of.below);
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
            Some(rollout) => rollout.state == RolloutState::Done || index < rollout.below,
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

    /// Whether replicas of both run the same.
    pub fn runs_like(&self, other: &SpecRecord) -> bool {
        self.recipe == other.recipe && self.configs == other.configs && self.spec.runs_like(&other.spec)
    }

    /// The record after this one, with another spec, or for other configuration. `rollout` says how far this one has come: only what was rolled out
    /// whole becomes the stable one. One that runs what is stable ends the rollout at once.
    pub fn next(
        &self,
        rollout: Option<&Rollout>,
        spec: WorkloadSpec,
        recipe: Recipe,
        configs: BTreeMap<ConfigName, ConfigStamp>,
        admitted_at: u64,
    ) -> Self {
        let hash = spec.content_hash();
        let (uid, generation) = (self.uid, self.generation.next());
        let next = Self { recipe, hash, configs, admitted_at, ..Self::new(spec, uid, generation) };
        if next.runs_like(self) {
            return Self { template: Some(self.template()), stable: self.stable.clone(), ..next };
        }
        let stable = match &self.stable {
            Some(stable) if !self.is_settled(rollout) => stable.clone(),
            _ => Box::new(Self { template: Some(self.template()), stable: None, aborted: None, ..self.clone() }),
        };
        if next.runs_like(&stable) {
            return Self { template: Some(stable.template()), ..next };
        }
        Self { stable: Some(stable), ..next }
    }

    /// The record that gives a rollout up: the stable spec again, as the next generation, with as many replicas as there are
    /// to be now. Nothing where nothing is stable.
    pub fn abort(&self, reason: &str, admitted_at: u64) -> Option<Self> {
        let stable = self.stable.as_deref()?;
        let numbers = if stable.spec.placement.daemon { &stable.spec } else { &self.spec };
        let (replicas, autoscale) = (numbers.replicas, numbers.autoscale.clone());
        let spec = WorkloadSpec { replicas, autoscale, ..stable.spec.clone() };
        Some(Self {
            hash: spec.content_hash(),
            spec,
            generation: self.generation.next(),
            template: Some(stable.template()),
            aborted: Some(Aborted { generation: self.generation, reason: one_line(reason, MESSAGE_BYTES_MAX) }),
            stable: None,
            // Else it would be rolled out again and again: what brought it is in force still.
            configs: self.configs.clone(),
            admitted_at,
            ..stable.clone()
        })
    }
}

impl WorkloadSpec {
    /// Whether replicas of both run the same: they differ in nothing, or in what the lattice does around them.
    fn runs_like(&self, other: &WorkloadSpec) -> bool {
        let WorkloadSpec { replicas, http, schedule, placement, rollout, autoscale, config_update, disruption, .. } =
            other.clone();
        let around = WorkloadSpec { replicas, http, schedule, placement, rollout, autoscale, ..self.clone() };
        WorkloadSpec { config_update, disruption, ..around } == *other
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
}

/// What the holder of a slot says while one template serves and the next one fails. [`Slot::failure_of`] reads it.
pub fn failure(template: Generation, why: &str) -> String {
    format!("generation {template} failed: {why}")
}
