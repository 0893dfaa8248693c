//! Messages about moving replicas to better places.

use crate::{
    id::{NodeId, SlotId, WorkloadName},
    record::Move,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Body of `rebalance.start`. Empty: all workloads, one replica at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RebalanceRequest {
    /// Replicas that are moved at a time, at most: 1 to 64. Default 1.
    pub at_once: u32,
    /// Of this workload only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadName>,
    /// Say what would move, and move nothing.
    pub dry_run: bool,
}

impl Default for RebalanceRequest {
    fn default() -> Self {
        Self { at_once: 1, workload: None, dry_run: false }
    }
}

/// A replica that would be in a better place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PlannedMove {
    /// Such as `hello.0`.
    pub slot: SlotId,
    pub from: NodeId,
    /// The best node as things are. Where it goes is decided when it does.
    pub to: NodeId,
    /// The score by which that node is better, or the rule that its present one breaks.
    pub by: String,
}

/// Reply of `rebalance.start`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct RebalanceReply {
    /// What is to be moved, in this order; 256 at most, then it can be asked for again.
    pub moves: Vec<PlannedMove>,
    /// False for a dry run, and where there is nothing to move.
    pub started: bool,
}

/// Reply of `rebalance.get` and `rebalance.cancel`: how far it is, or was; nothing where none is under way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct RebalanceState {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under_way: Option<RebalanceStatus>,
}

/// How far a request to rebalance is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct RebalanceStatus {
    pub at_once: u32,
    pub moving: Vec<Move>,
    /// Those whose turn is still to come.
    pub left: u32,
    pub moved: u32,
    /// Those that were not to be moved any more when their turn came.
    pub skipped: u32,
}
