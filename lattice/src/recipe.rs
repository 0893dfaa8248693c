//! What nodes run for a spec, decided once when it is admitted: which object, which parts beside it, and which of their
//! imports and exports the host joins. Nodes carry it out and decide nothing of it.

use crate::{
    id::{ComponentName, Digest},
    spec::PartRole,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The objects of a workload and how they are joined.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Recipe {
    /// What answers requests: the components that are composed, as one. Absent where the spec has one component and
    /// nothing else, which runs as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<Digest>,
    /// What is linked to it by the host, in the order of the names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<HostedPart>,
    /// Which import is satisfied by which of `parts`, in order. Imports that are not here are the node's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edges: Vec<HostEdge>,
    /// What it imports that none of its own parts satisfies, as [`crate::interface::need`] names it: only nodes that offer all
    /// of it can run it. Empty of what was admitted by an older version, which did not say.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub needs: BTreeSet<String>,
}

impl Recipe {
    /// Whether nodes run the same for both, whatever is known of what that needs.
    pub fn runs_like(&self, other: &Recipe) -> bool {
        let Recipe { artifact, parts, edges, needs: _ } = self;
        (artifact, parts, edges) == (&other.artifact, &other.parts, &other.edges)
    }

    /// Every object that a node needs.
    pub fn digests(&self) -> impl Iterator<Item = Digest> {
        self.artifact.into_iter().chain(self.parts.iter().map(|part| part.digest))
    }
}

/// A component or service that is not composed. Its settings are in the spec, under its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostedPart {
    pub name: ComponentName,
    pub digest: Digest,
    pub role: PartRole,
}

/// An import that a hosted part satisfies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostEdge {
    /// The hosted part that imports; `None` for what is composed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<ComponentName>,
    /// As `from` names it: `acme:auth/check@1.0.0`.
    pub import: String,
    /// The hosted part that exports.
    pub to: ComponentName,
    /// As `to` names it: `acme:auth/check@1.1.0`.
    pub export: String,
}
