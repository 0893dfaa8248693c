//! Requests for a part of what does not fit one message. Each may be empty.

use crate::id::{NodeId, Revision, WorkloadName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Body of `workload.list`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct WorkloadListRequest {
    /// Only those whose names come after this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<WorkloadName>,
}

/// Body of `node.list`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct NodeListRequest {
    /// Only those whose ids come after this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<NodeId>,
}

/// Body of `workload.history`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct HistoryRequest {
    /// Only what came before this revision. The newest of it is what is answered first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Revision>,
}

/// Body of `workload.status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct StatusRequest {
    /// Only the replicas from this number on, in their order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<u32>,
}
