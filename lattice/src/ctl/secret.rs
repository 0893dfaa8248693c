//! Messages about secrets. None has a value but the body of `secret.put`, which is that value and nothing else.

use crate::id::{ConfigName, Generation, Revision, WorkloadName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Reply of `secret.put`, and an item of [`SecretList`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct SecretItem {
    pub name: ConfigName,
    pub version: Generation,
    pub revision: Revision,
    /// Versions before it whose values are kept, the newest first.
    pub earlier: Vec<Generation>,
    /// RFC 3339.
    pub changed_at: String,
    /// Workloads that name it. At most 256.
    pub used_by: Vec<WorkloadName>,
    /// How many more of them there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub used_by_omitted: usize,
    /// Of a put: false where it was so already, and nothing was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<bool>,
}

/// Reply of `secret.list`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct SecretList {
    /// By name.
    pub secrets: Vec<SecretItem>,
    /// How many more there are than fit a message.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub omitted: usize,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Body of `secret.delete`. Empty is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SecretDeleteRequest {
    /// Also where workloads name it: replicas that run keep what they have, and others don't start.
    #[serde(default)]
    pub force: bool,
}

/// Reply of `secret.delete`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct SecretDeleteReply {
    pub name: ConfigName,
    /// False where there was none.
    pub deleted: bool,
}
