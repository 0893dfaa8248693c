//! Messages about workloads that scale themselves.

use crate::spec::AutoscaleSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What holds for a workload that scales itself. How many replicas it is to have now is [`super::StatusReply::replicas`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct AutoscaleStatus {
    pub spec: AutoscaleSpec,
    /// None before the first decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastScaling>,
}

/// The last decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct LastScaling {
    /// RFC 3339, by the clock of the node that decided.
    pub at: String,
    pub before: u32,
    pub replicas: u32,
    /// One sentence.
    pub why: String,
}
