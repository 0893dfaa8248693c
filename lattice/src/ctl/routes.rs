//! What the routes of a lattice are: the reply of `route.list`.

use crate::{id::WorkloadName, spec::Route};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Reply of `route.list`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct RouteList {
    /// By host and path, and for each in the order in which they are tried.
    pub routes: Vec<RouteItem>,
    /// How many more there are than fit a message.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub omitted: usize,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct RouteItem {
    /// As it stands in the spec of the workload that holds it.
    pub route: Route,
    /// Who answers: the workload that holds the route first, then those of its `split`.
    pub answered_by: Vec<RouteShare>,
}

/// A workload that answers requests of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct RouteShare {
    pub workload: WorkloadName,
    /// Its part while all that have one are ready.
    pub percent: u32,
    /// Replicas that are ready to answer.
    pub ready: u32,
    /// Replicas that are asked for; none where there is no such workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Its `http.callers` do not name the workload that holds the route, so that it gets nothing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub refused: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(is: &bool) -> bool {
    !*is
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}
