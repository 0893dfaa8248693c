//! `rollout.strategy`: whether what is new takes the place of what is there, replica by replica, or comes up beside it.

use super::{Class, RolloutSpec, RolloutStep, SpecError, WorkloadSpec};
use crate::{limits::REPLICAS_MAX, units::Millis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How replicas of the new kind come into the place of those before them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// A few at a time, each on the node of the one before it.
    #[default]
    Rolling,
    /// All beside all that are there, as many again, wherever there is room. They get no requests before all are ready, and
    /// then as many as `steps` say; without `steps` all at once, and those before them stay for five minutes, for the way
    /// back.
    BlueGreen,
}

/// What [`Strategy::BlueGreen`] goes by where a spec does not say it.
const OVER_AT_ONCE: &[RolloutStep] =
    &[RolloutStep { replicas: None, weight: Some(100), pause: Some(Millis::from_secs(300)) }];

impl RolloutSpec {
    /// Stops on the way, those of the strategy where the spec has none of its own.
    pub fn stops(&self) -> &[RolloutStep] {
        match self.strategy {
            Strategy::BlueGreen if self.steps.is_empty() => OVER_AT_ONCE,
            _ => &self.steps,
        }
    }
}

/// What types cannot say.
pub(super) fn check(spec: &WorkloadSpec) -> Result<(), SpecError> {
    let rollout = &spec.rollout;
    if rollout.strategy == Strategy::Rolling {
        return Ok(());
    }
    let refused = |message: &str, hint: &str| Err(SpecError::new("rollout.strategy", message).hint(hint));
    if spec.class == Class::Strict {
        return refused(
            "replicas of class strict can't be there twice",
            "leave it out, and each stops before the new one",
        );
    }
    if spec.placement.daemon {
        return refused("a daemon has one replica on each node", "leave it out, and each node changes its own");
    }
    if spec.autoscale.is_some() {
        let message = "while there are two sets, their size stands still, and this workload scales itself";
        return refused(message, "leave it out, or write replicas instead of autoscale");
    }
    if spec.replicas > REPLICAS_MAX / 2 {
        let message = format!("there would be twice {} replicas, and {REPLICAS_MAX} may be", spec.replicas);
        return Err(SpecError::new("rollout.strategy", message));
    }
    for (i, RolloutStep { replicas, weight, .. }) in rollout.steps.iter().enumerate() {
        if let Some(replicas) = replicas {
            let message = format!("{replicas} can't be: with blue-green all of the new ones are there at each step");
            return Err(SpecError::new(format!("rollout.steps[{i}].replicas"), message).hint("write the weight alone"));
        }
        if weight.is_none() {
            return Err(SpecError::new(format!("rollout.steps[{i}].weight"), "is missing"));
        }
    }
    match rollout.steps.last() {
        Some(RolloutStep { weight: Some(weight), .. }) if *weight < 100 => {
            let field = format!("rollout.steps[{}].weight", rollout.steps.len().saturating_sub(1));
            Err(SpecError::new(
                field,
                format!("{weight} is less than 100, and after the last step nothing else answers"),
            )
            .hint("add a step: {weight: 100, pause: 5m} keeps what was there before for five minutes"))
        }
        _ => Ok(()),
    }
}

/// Whether a step may have a weight of 0 without naming replicas: with the new set beside the old one it has all of them.
pub(super) fn has_all_at_each_step(rollout: &RolloutSpec) -> bool {
    rollout.strategy == Strategy::BlueGreen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;

    fn parse(more: &str, rollout: &str) -> Result<WorkloadSpec, String> {
        let digest = "0".repeat(64);
        let yaml = format!(
            "name: w\ncomponents: [{{name: c, source: 'sha256:{digest}'}}]\n{more}\n\
             rollout: {{strategy: blue-green, {rollout}}}\n"
        );
        let spec = spec::parse(yaml.as_bytes()).map_err(|error| error.field)?;
        let read = serde_json::from_value::<WorkloadSpec>(serde_json::to_value(&spec).unwrap()).unwrap();
        assert_eq!(read, spec);
        Ok(spec)
    }

    #[test]
    fn a_second_set_goes_by_weights_alone() {
        let spec = parse("replicas: 1", "").unwrap();
        assert_eq!((spec.rollout.steps.len(), spec.rollout.stops()), (0, OVER_AT_ONCE));
        let spec = parse("", "steps: [{weight: 0}, {weight: 10, pause: 1m}, {weight: 100, pause: 0s}]").unwrap();
        assert_eq!(spec.rollout.stops().len(), 3);
        assert_eq!(RolloutSpec::default().stops(), []);
        let preview = "preview: {header: x-preview, value: orange}";
        assert!(parse("", &format!("{preview}, steps: [{{weight: 0}}, {{weight: 100}}]")).is_ok());
        for (more, rollout, field) in [
            ("class: strict", "", "rollout.strategy"),
            ("placement: {daemon: true}", "", "rollout.strategy"),
            ("autoscale: {max: 3}", "", "rollout.strategy"),
            ("replicas: 5001", "", "rollout.strategy"),
            ("", "steps: [{replicas: 1, weight: 0}, {weight: 100}]", "rollout.steps[0].replicas"),
            ("", "steps: [{weight: 50}]", "rollout.steps[0].weight"),
            ("", "steps: [{weight: 50}, {weight: 10}, {weight: 100}]", "rollout.steps[1].weight"),
            ("", "steps: [{pause: 1m}]", "rollout.steps[0]"),
        ] {
            assert_eq!(parse(more, rollout).map(drop), Err(field.into()), "{more} {rollout}");
        }
        let other = parse("", "").unwrap();
        assert_eq!(other.schema(), 6);
    }
}
