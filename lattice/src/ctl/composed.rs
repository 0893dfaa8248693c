//! What a workload's components were composed into, in brief: what a person wants to know after a put. Bounded, whatever
//! the components are called and however much they import.

use crate::{
    id::ComponentName,
    limits::{INTERFACE_BYTES_MAX, one_line},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Edges that are told.
const EDGES_MAX: usize = 64;

/// What several components were composed into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Composed {
    /// The component that answers requests.
    pub entry: ComponentName,
    /// Which import of which component another one satisfies, sorted; at most 64.
    pub edges: Vec<ComposedEdge>,
    /// How many more edges there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub edges_omitted: usize,
    /// Components that the entry does not need, directly or through others. They are checked, and do not run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<ComponentName>,
}

/// An import that a sibling satisfies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ComposedEdge {
    /// The component that imports.
    pub from: ComponentName,
    /// What it imports, as it names it: `acme:auth/check@1.0.0`. The first 512 bytes of it.
    pub import: String,
    /// The component that exports it.
    pub to: ComponentName,
    /// What that exports, where it is called otherwise: `acme:auth/check@1.1.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Composed {
    pub fn new(
        entry: ComponentName,
        edges: impl ExactSizeIterator<Item = ComposedEdge>,
        dropped: Vec<ComponentName>,
    ) -> Self {
        let edges_omitted = edges.len().saturating_sub(EDGES_MAX);
        Self { entry, edges: edges.take(EDGES_MAX).collect(), edges_omitted, dropped }
    }
}

impl ComposedEdge {
    pub fn new(from: ComponentName, import: &str, to: ComponentName, export: &str) -> Self {
        let name = |text| one_line(text, INTERFACE_BYTES_MAX);
        Self { from, import: name(import), to, export: (import != export).then(|| name(export)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_much_is_joined_the_answer_stays_small() {
        let name = |text: &str| ComponentName::new(text).unwrap();
        let long = "x".repeat(100_000);
        let edge = |i: usize| ComposedEdge::new(name("a"), &format!("{i}{long}"), name("b"), &long);
        let composed = Composed::new(name("a"), (0..1000).map(edge), vec![name("c")]);
        assert_eq!((composed.edges.len(), composed.edges_omitted), (EDGES_MAX, 1000 - EDGES_MAX));
        let size = serde_json::to_vec(&composed).unwrap().len();
        assert!(size < 100_000, "{size}");
        let same = ComposedEdge::new(name("a"), "x:y/z", name("b"), "x:y/z");
        assert_eq!(serde_json::to_string(&same).unwrap(), r#"{"from":"a","import":"x:y/z","to":"b"}"#);
    }
}
