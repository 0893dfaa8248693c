//! What a replica answered, as far as somebody decides by it whether what it runs is to be given up.

use crate::units::Millis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a replica whose spec has a `rollout.analysis` answered since it began to serve.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
pub struct AnswersReport {
    /// Requests that were answered, or failed. Those that nothing ran for are not among them, nor those whose client went
    /// away.
    pub requests: u64,
    /// Of those, the ones answered with a status of 500 or more, or not at all.
    pub errors: u64,
    /// Of all, those that took longer than the bound for 95 of 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p95: Option<Slow>,
    /// Of all, those that took longer than the bound for 99 of 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<Slow>,
}

/// Requests that took longer than a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Slow {
    /// Until the head of the response.
    pub bound: Millis,
    pub requests: u64,
}
