//! `rollout`: how replicas come from what they run to what a changed spec asks for.

use super::{AnalysisSpec, PreviewSpec, SpecError, Strategy, analysis, canary, strategy};
use crate::units::Millis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, fmt, str::FromStr};

/// How replicas come to run what a changed spec asks for. A change of what they run is rolled out a few replicas at a time,
/// and the old ones serve until the new ones are ready; what else a spec says (replicas, routes, schedules, placement)
/// holds at once. If a new replica fails, or is not ready in time, all go back. `docs/rollouts.md` tells the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RolloutSpec {
    /// Whether what is new takes the place of what is there a few replicas at a time, or comes up beside all of it. Default
    /// `rolling`.
    #[serde(skip_serializing_if = "is_rolling")]
    pub strategy: Strategy,
    /// Replicas that may be doubled at a time: the new one comes up on the same node beside the old one, which serves until
    /// then. A number, or a percentage of the replicas, rounded up. Where a node has no memory to reserve for both, the
    /// replica waits, or is stopped first as far as `max-unavailable` allows. Default `25%`.
    pub max_surge: Portion,
    /// Replicas that may be without a ready instance at a time because of the change: those that stop before the new one
    /// starts, since their node has no room for both or `max-surge` is 0. A number, or a percentage of the replicas, rounded
    /// down; 1 where both come to 0. Replicas of class `strict` are always stopped first, one at a time at least. Default 0.
    pub max_unavailable: Portion,
    /// How long a new replica must have been ready before it counts. Default `0s`.
    pub min_ready: Millis,
    /// Longest time without progress: without one more new replica that counts. Up to `24h`, default `5m`.
    pub deadline: Millis,
    /// What follows when the deadline passes or a new replica keeps failing. Default `automatic`.
    pub rollback: Rollback,
    /// Stops on the way: a part of the replicas changes, and the rest when the step is over. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub steps: Vec<RolloutStep>,
    /// Requests that go to what is new before others do, as long as its weight says how many of all go there. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preview: Option<PreviewSpec>,
    /// Bounds that what is new must keep, or it is given up: how many of its requests may fail, and what they may take.
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub analysis: Option<AnalysisSpec>,
}

/// A stop on the way from one template to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RolloutStep {
    /// Replicas that run what is new, those of the steps before among them. A number, or a percentage of the replicas,
    /// rounded up. Default: as many percent of them as `weight`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<Portion>,
    /// Of a hundred requests, those that go to what is new once these replicas are ready, however many they are and
    /// wherever. 0 to 100. Below 100 at least one replica stays what it was, to answer the others. Without it requests go
    /// to replicas, whatever they run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub weight: Option<u32>,
    /// How long it goes on like this, from when the last of them is ready and the weight holds. Up to `24h`. Without it the
    /// rollout pauses there until somebody resumes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Millis>,
}

impl Default for RolloutSpec {
    fn default() -> Self {
        Self {
            strategy: Strategy::Rolling,
            max_surge: Portion::Percent(25),
            max_unavailable: Portion::Count(0),
            min_ready: Millis(0),
            deadline: Millis::from_secs(300),
            rollback: Rollback::Automatic,
            steps: Vec::new(),
            preview: None,
            analysis: None,
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_rolling(strategy: &Strategy) -> bool {
    *strategy == Strategy::Rolling
}

/// What follows when a change does not succeed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Rollback {
    /// The spec goes back to the last one that was rolled out whole.
    #[default]
    Automatic,
    /// Nothing more is changed, and somebody decides: `lattice rollout abort`, `lattice rollout resume`, or another put.
    Manual,
}

/// Some of a workload's replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Portion {
    Count(u32),
    Percent(u32),
}

impl Portion {
    /// Of so many replicas, rounded up.
    pub fn of_up(self, replicas: u32) -> u32 {
        match self {
            Portion::Count(count) => count,
            Portion::Percent(percent) => percent_of(percent, replicas, 99),
        }
    }

    /// Of so many replicas, rounded down.
    pub fn of_down(self, replicas: u32) -> u32 {
        match self {
            Portion::Count(count) => count,
            Portion::Percent(percent) => percent_of(percent, replicas, 0),
        }
    }

    fn is_zero(self) -> bool {
        matches!(self, Portion::Count(0) | Portion::Percent(0))
    }
}

fn percent_of(percent: u32, replicas: u32, round: u64) -> u32 {
    u32::try_from((u64::from(percent) * u64::from(replicas) + round) / 100).unwrap_or(u32::MAX)
}

impl FromStr for Portion {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is neither a number of replicas nor a percentage; write 1 or 25%");
        match text.strip_suffix('%') {
            Some(percent) => {
                percent.parse().ok().filter(|percent| *percent <= 100).map(Portion::Percent).ok_or_else(bad)
            }
            None => text.parse().map(Portion::Count).map_err(|_| bad()),
        }
    }
}

impl fmt::Display for Portion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Portion::Count(count) => write!(f, "{count}"),
            Portion::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Serialize for Portion {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Portion::Count(count) => serializer.serialize_u32(*count),
            Portion::Percent(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Portion {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Portion;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of replicas such as 1, or a percentage such as 25%")
            }
            fn visit_u64<E: serde::de::Error>(self, count: u64) -> Result<Portion, E> {
                u32::try_from(count).map(Portion::Count).map_err(|_| E::custom(format!("{count} is too many")))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Portion, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Portion {
    fn schema_name() -> Cow<'static, str> {
        "Portion".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string", "pattern": "^([0-9]+|[0-9]{1,2}%|100%)$", "examples": ["25%"] },
            ],
        })
    }
}

/// Steps of one rollout.
const STEPS_MAX: usize = 16;

/// What types cannot say.
pub(super) fn check(rollout: &RolloutSpec) -> Result<(), SpecError> {
    let RolloutSpec {
        strategy: _,
        max_surge,
        max_unavailable,
        min_ready,
        deadline,
        rollback: _,
        steps,
        preview: _,
        analysis,
    } = rollout;
    if max_surge.is_zero() && max_unavailable.is_zero() {
        return Err(SpecError::new("rollout.max-surge", "with max-unavailable 0 as well, nothing could ever change")
            .hint("set one of them to at least 1"));
    }
    const LONGEST: Millis = Millis::from_secs(24 * 3600);
    if deadline.0 == 0 || *deadline > LONGEST {
        return Err(SpecError::new("rollout.deadline", format!("{deadline} is not between 1ms and {LONGEST}")));
    }
    if steps.len() > STEPS_MAX {
        return Err(SpecError::new("rollout.steps", format!("at most {STEPS_MAX} steps are allowed")));
    }
    for (i, step @ RolloutStep { replicas, weight: _, pause }) in steps.iter().enumerate() {
        if replicas.is_some_and(Portion::is_zero) {
            return Err(SpecError::new(format!("rollout.steps[{i}].replicas"), "must be at least 1 or 1%"));
        }
        canary::check_step(i, step, strategy::has_all_at_each_step(rollout))?;
        if let Some(pause) = pause.filter(|pause| *pause > LONGEST) {
            return Err(SpecError::new(format!("rollout.steps[{i}].pause"), format!("{pause} is more than {LONGEST}"))
                .hint("leave it out to wait until somebody resumes the rollout"));
        }
    }
    analysis.as_ref().map_or(Ok(()), analysis::check)?;
    if min_ready >= deadline {
        let message = format!("{min_ready} is not shorter than rollout.deadline ({deadline})");
        return Err(SpecError::new("rollout.min-ready", message)
            .hint("a new replica that is ready must have the time to count before the change is given up"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;

    fn parse(rollout: &str) -> Result<RolloutSpec, String> {
        let digest = "0".repeat(64);
        let yaml = format!("name: w\ncomponents: [{{name: c, source: 'sha256:{digest}'}}]\nrollout: {{{rollout}}}\n");
        let spec = spec::parse(yaml.as_bytes()).map_err(|error| error.field)?;
        let read = serde_json::from_value::<spec::WorkloadSpec>(serde_json::to_value(&spec).unwrap()).unwrap();
        assert_eq!(read, spec);
        Ok(spec.rollout)
    }

    #[test]
    fn numbers_percentages_and_what_can_never_change() {
        let default = RolloutSpec::default();
        assert_eq!(parse(""), Ok(default.clone()));
        let two = RolloutSpec { max_surge: Portion::Count(2), ..default.clone() };
        assert_eq!(parse("max-surge: 2"), Ok(two.clone()));
        assert_eq!(parse("max-surge: '2'"), Ok(two));
        let half = RolloutSpec { max_unavailable: Portion::Percent(50), rollback: Rollback::Manual, ..default };
        assert_eq!(parse("max-unavailable: 50%, rollback: manual"), Ok(half));
        let steps = parse("steps: [{replicas: 1, pause: 1m}, {replicas: 50%}]").unwrap().steps;
        let step = |replicas, pause| RolloutStep { replicas: Some(replicas), weight: None, pause };
        let expected = [step(Portion::Count(1), Some(Millis::from_secs(60))), step(Portion::Percent(50), None)];
        assert_eq!(steps, expected);
        for (bad, field) in [
            ("steps: [{replicas: 0}]", "rollout.steps[0].replicas"),
            ("steps: [{replicas: 1}, {replicas: 2, pause: 25h}]", "rollout.steps[1].pause"),
            ("max-surge: 0", "rollout.max-surge"),
            ("max-surge: 0%, max-unavailable: 0%", "rollout.max-surge"),
            ("max-surge: 101%", "rollout.max-surge"),
            ("max-surge: -1", "rollout.max-surge"),
            ("max-unavailable: some", "rollout.max-unavailable"),
            ("deadline: 0s", "rollout.deadline"),
            ("deadline: 25h", "rollout.deadline"),
            ("min-ready: 5m", "rollout.min-ready"),
            ("rollback: never", "rollout.rollback"),
            ("surge: 1", "rollout.surge"),
        ] {
            assert_eq!(parse(bad), Err(field.into()), "{bad}");
        }
    }

    #[test]
    fn a_portion_is_rounded_to_the_safe_side() {
        let quarter = Portion::Percent(25);
        for (replicas, up, down) in [(0, 0, 0), (1, 1, 0), (3, 1, 0), (4, 1, 1), (5, 2, 1), (10_000, 2500, 2500)] {
            assert_eq!((quarter.of_up(replicas), quarter.of_down(replicas)), (up, down), "{replicas}");
        }
        assert_eq!((Portion::Count(3).of_up(1), Portion::Percent(0).of_up(9)), (3, 0));
    }
}
