//! What the control interface says of a change of what replicas run.

use crate::{id::Generation, record::RolloutState};
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
    /// Why it does not go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
