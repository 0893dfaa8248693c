//! Messages about configuration by name.

use crate::{
    id::{ConfigName, Generation, Revision, WorkloadName},
    report::Counts,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Body of `config.put`: all that is to be under the name. What was there before and is not here is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ConfigPutRequest {
    pub entries: BTreeMap<String, String>,
}

/// Body of `config.delete`. Empty is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ConfigDeleteRequest {
    /// Also where workloads name it: replicas that run keep what they have, and others don't start.
    #[serde(default)]
    pub force: bool,
}

/// Reply of `config.put`, and an item of [`ConfigList`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ConfigItem {
    pub name: ConfigName,
    pub version: Generation,
    pub revision: Revision,
    /// Bytes of each value, by key.
    pub sizes: Counts,
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

/// Reply of `config.list`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ConfigList {
    /// By name.
    pub configs: Vec<ConfigItem>,
    /// How many more there are than fit a message.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub omitted: usize,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Reply of `config.get`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ConfigReply {
    #[serde(flatten)]
    pub item: ConfigItem,
    pub entries: BTreeMap<String, String>,
}

/// Reply of `config.delete`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ConfigDeleteReply {
    pub name: ConfigName,
    /// False where there was none.
    pub deleted: bool,
}
