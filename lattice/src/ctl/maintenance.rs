//! Messages about what an operator wants of a node.

use crate::{id::NodeId, units::Millis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Reply of `node.cordon` and `node.uncordon`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct CordonReply {
    pub node: NodeId,
    pub cordoned: bool,
    /// False where it was so already.
    pub changed: bool,
    /// `node.uncordon` ended a drain as well.
    #[serde(default)]
    pub drain_ended: bool,
}

/// Body of `node.drain`. Empty: what has no other place stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct DrainRequest {
    /// How long what has no other place may stay, from when the node learns of it; then it is stopped. `0ms` to `168h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Millis>,
}

/// Reply of `node.drain` and `node.undrain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DrainReply {
    pub node: NodeId,
    pub draining: bool,
    /// False where it was so already, with the same deadline.
    pub changed: bool,
}

/// How far a drain is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DrainStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Millis>,
    /// Replicas that are to leave and still run there. At most 1000.
    pub left: Vec<LeavingSlot>,
    /// How many more of them there are.
    #[serde(default, skip_serializing_if = "super::is_zero")]
    pub left_omitted: u32,
}

impl DrainStatus {
    /// Replicas that are to leave and still run there.
    pub fn count(&self) -> usize {
        self.left.len().saturating_add(self.left_omitted as usize)
    }
}

/// A replica on a node that is drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct LeavingSlot {
    /// Such as `hello.0`.
    pub slot: String,
    /// The node on which it starts; none while it waits for one, or for its turn.
    pub to: Option<NodeId>,
}
