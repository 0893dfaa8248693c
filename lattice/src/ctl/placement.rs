//! Messages about where replicas are and may be.

use crate::{
    id::{NodeId, SlotId, WorkloadName},
    report::Counts,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Body of `workload.explain`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ExplainRequest {
    /// Default: the first one that nobody holds, or the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<u32>,
}

/// Reply of `workload.explain`: how each node stands to one replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ExplainReply {
    pub workload: WorkloadName,
    pub replica: u32,
    /// The living node that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<NodeId>,
    /// Whether it may be claimed now. Otherwise the ranks are those that nodes would have if nobody held it.
    pub vacant: bool,
    /// Why nobody may touch it, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<String>,
    /// Replicas of a lower priority that make room for it. At most 256 are named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub displaces: Vec<SlotId>,
    /// Those that can take it, best first, then those that can't, by id. As many as fit the message, its holder among them.
    pub nodes: Vec<NodeStanding>,
    /// How many of each there are that are not named, by what stands in their way; `none` where nothing does.
    #[serde(default, skip_serializing_if = "Counts::is_empty")]
    pub omitted: Counts,
}

/// How one node stands to a replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct NodeStanding {
    pub node: NodeId,
    /// 0 is first. None where the node can't take it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
    /// What the rank follows from. None where the node held the replica before, and so comes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<NodeScore>,
    /// The rule that refuses the node, such as `require` or `memory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Nodes are compared by these, in this order; less is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct NodeScore {
    /// By how many replicas a spread would be missed.
    pub spread: u64,
    /// Sum of the weights of preferences and soft relations that the node misses.
    pub missed: u64,
    /// Whether a replica of the workload failed there.
    pub failed: bool,
    /// Replicas of the workload that the node has.
    pub replicas: u32,
    /// Of a workload with a claim on a GPU. `choice` is compared before `replicas`, the rest after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<NodeGpu>,
    /// How full it is, in eighths.
    pub fullness: u8,
    /// Whether the components would have to be fetched and compiled there. A node of an older version does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cold: Option<bool>,
}

/// What a node's GPU is worth to a replica; less is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct NodeGpu {
    /// How many better claims of the workload's it does not fulfil.
    pub choice: u8,
    /// How slow it is, in powers of two.
    pub slowness: u32,
    /// Bytes of its memory that would be left.
    pub left: u64,
}
