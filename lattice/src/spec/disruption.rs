//! `disruption`: how many replicas may be out of service because of what an operator does.

use super::Portion;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What holds while replicas are moved though nothing is wrong with them, as when a node is drained. Those of class
/// `available` are never out of service for that: the new one is ready before the old one stops. Those of class `strict`
/// stop first. It is kept as far as that can be done where replicas make room for ones of a higher priority. A change of the
/// spec has bounds of its own, `rollout.max-unavailable`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct DisruptionSpec {
    /// Replicas that may be out of service when one more is stopped to be moved, that one included. A number, or a percentage
    /// of the replicas, rounded down; with 0 none is, until the deadline of a drain. Default 1.
    pub max_unavailable: Portion,
}

impl Default for DisruptionSpec {
    fn default() -> Self {
        Self { max_unavailable: Portion::Count(1) }
    }
}

impl DisruptionSpec {
    /// Of so many replicas.
    pub fn most(&self, replicas: u32) -> u32 {
        self.max_unavailable.of_down(replicas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_or_a_percentage_of_the_replicas() {
        let most = |disruption: &str| {
            let text = format!("name: a\ncomponents: [{{name: a, source: 'file:a'}}]\ndisruption: {disruption}\n");
            crate::spec::parse(text.as_bytes()).map(|spec| spec.disruption.most(7)).map_err(|error| error.field)
        };
        assert_eq!(most("{}"), Ok(1));
        assert_eq!(most("{max-unavailable: 3}"), Ok(3));
        assert_eq!(most("{max-unavailable: 30%}"), Ok(2));
        assert_eq!(most("{max-unavailable: 0}"), Ok(0));
        assert_eq!(most("{max-unavailable: many}"), Err("disruption.max-unavailable".into()));
        assert_eq!(most("{min-available: 1}"), Err("disruption.min-available".into()));
        assert_eq!(DisruptionSpec::default().most(0), 1);
    }
}
