//! What the control interface says of a change of what replicas run, and what it takes.

use crate::{
    id::{Generation, WorkloadName},
    record::RolloutState,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far a change is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct RolloutStatus {
    pub state: RolloutState,
    /// What replicas come from, and go back to if it is given up.
    pub stable: Generation,
    /// Replicas with a smaller index may run the new one.
    pub below: u32,
    /// Replicas that are ready with the new one.
    pub updated: u32,
    /// Steps of the spec that are over.
    #[serde(default)]
    pub step: u32,
    /// Of a hundred requests, those that go to the new one. Absent where they go to replicas whatever they run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Why it does not go on, or how long a step of it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Body of `workload.rollout`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RolloutRequest {
    pub action: RolloutAction,
}

/// What is to become of a change that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RolloutAction {
    /// Let no further replica change. Those that may, go on.
    Pause,
    /// Go on, if it is paused or stalled, or a step of it holds for a time.
    Resume,
    /// Go on to the end, whatever steps there are.
    Promote,
    /// Give it up: the stable spec is put back.
    Abort,
}

/// Reply of `workload.rollout`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct RolloutReply {
    pub workload: WorkloadName,
    /// Of the spec: another one than before where the change was given up.
    pub generation: Generation,
    /// Absent where the change was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<RolloutState>,
    /// False where it was so already, and nothing held it.
    #[serde(default = "is_so")]
    pub changed: bool,
}

/// Nodes of older versions do not say.
fn is_so() -> bool {
    true
}

/// What a generation is to its workload now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GenerationState {
    /// The spec in force.
    Current,
    /// What the replicas come from while the current one is rolled out, and go back to if it is given up.
    Stable,
    /// It was given up.
    Aborted,
    /// Another one followed it.
    Past,
}
