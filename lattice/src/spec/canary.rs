//! Steps of a rollout that say how many requests go to what is new: which of them can be meant.

use super::{RolloutStep, SpecError, Strategy, WorkloadSpec};

/// What one step can't be. `has_all`: the replicas that run what is new are there whatever the step says.
pub(super) fn check_step(i: usize, step: &RolloutStep, has_all: bool) -> Result<(), SpecError> {
    let field = |name: &str| format!("rollout.steps[{i}].{name}");
    match (step.replicas, step.weight) {
        (None, None) => Err(SpecError::new(format!("rollout.steps[{i}]"), "has neither replicas nor weight")
            .hint("write {weight: 5, pause: 10m} for 5 of 100 requests, or {replicas: 1, pause: 10m}")),
        (_, Some(weight)) if weight > 100 => Err(SpecError::new(field("weight"), format!("{weight} is more than 100"))
            .hint("it is the number of requests, of a hundred, that go to what is new")),
        (None, Some(0)) if !has_all => Err(SpecError::new(field("weight"), "is 0, and no replicas are named")
            .hint("write {replicas: 1, weight: 0} for a replica that runs and gets no requests")),
        _ => Ok(()),
    }
}

/// What the steps of a workload can't be.
pub(super) fn check(spec: &WorkloadSpec) -> Result<(), SpecError> {
    let steps = &spec.rollout.steps;
    let splits = |step: &RolloutStep| step.weight.is_some_and(|weight| weight < 100);
    let Some(i) = steps.iter().position(splits) else { return Ok(()) };
    // One is still a number that it may have for a while; then there is nothing to split, as docs/rollouts.md says.
    let most = spec.autoscale.as_ref().map_or(spec.replicas, |autoscale| autoscale.max);
    if most == 1 && !spec.placement.daemon && spec.rollout.strategy == Strategy::Rolling {
        let message = "there is one replica, and it runs either what is new or what was there before";
        return Err(
            SpecError::new(format!("rollout.steps[{i}].weight"), message).hint("have at least two: replicas: 2")
        );
    }
    let weights = steps.iter().enumerate().filter_map(|(i, step)| Some((i, step.weight?)));
    let mut before = 0;
    for (i, weight) in weights {
        if weight < before {
            let message = format!("{weight} is less than the {before} of a step before");
            return Err(SpecError::new(format!("rollout.steps[{i}].weight"), message)
                .hint("what is new gets more requests with each step; `lattice rollout abort` takes them all back"));
        }
        before = weight;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::spec;

    fn parse(more: &str, steps: &str) -> Result<spec::WorkloadSpec, String> {
        let digest = "0".repeat(64);
        let yaml = format!(
            "name: w\ncomponents: [{{name: c, source: 'sha256:{digest}'}}]\n{more}\nrollout: {{steps: [{steps}]}}\n"
        );
        spec::parse(yaml.as_bytes()).map_err(|error| error.field)
    }

    #[test]
    fn steps_by_weight_are_read_and_those_that_can_not_be_meant_are_refused() {
        let spec = parse("replicas: 4", "{weight: 5, pause: 1m}, {weight: 50, replicas: 3}, {weight: 100, pause: 0s}")
            .unwrap();
        let read: Vec<_> = spec.rollout.steps.iter().map(|step| (step.weight, step.replicas.is_some())).collect();
        assert_eq!(read, [(Some(5), false), (Some(50), true), (Some(100), false)]);
        assert!(parse("replicas: 1", "{weight: 100, pause: 1m}").is_ok());
        assert!(parse("autoscale: {max: 3}", "{weight: 5, pause: 1m}").is_ok());
        assert!(parse("placement: {daemon: true}", "{weight: 5, pause: 1m}").is_ok());
        assert!(parse("replicas: 2", "{replicas: 1, weight: 0, pause: 1m}").is_ok());
        for (more, steps, field) in [
            ("replicas: 4", "{pause: 1m}", "rollout.steps[0]"),
            ("replicas: 4", "{weight: 101}", "rollout.steps[0].weight"),
            ("replicas: 4", "{weight: -1}", "rollout.steps[0].weight"),
            ("replicas: 4", "{weight: 5%}", "rollout.steps[0].weight"),
            ("replicas: 4", "{weight: 0, pause: 1m}", "rollout.steps[0].weight"),
            ("replicas: 4", "{weight: 5}, {replicas: 0, weight: 6}", "rollout.steps[1].replicas"),
            ("replicas: 4", "{weight: 50}, {replicas: 1}, {weight: 20}", "rollout.steps[2].weight"),
            ("replicas: 1", "{replicas: 1}, {weight: 5}", "rollout.steps[1].weight"),
            ("replicas: 4", "{share: 5}", "rollout.steps[0].share"),
        ] {
            assert_eq!(parse(more, steps).map(drop), Err(field.into()), "{more} {steps}");
        }
    }
}
