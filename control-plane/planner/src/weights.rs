//! Steps of a rollout that say how many requests go to what is new: how many replicas one of them asks for, and from when on
//! its weight holds. Where a step ends is decided in `rollout.rs`, for steps of all kinds alike.

use lattice::{
    record::{Rollout, SpecRecord},
    spec::{Portion, RolloutStep},
};

/// Of so many replicas, those that run what is new when the step is reached. One is left to answer the other requests, if
/// there are any.
pub fn replicas_of(step: &RolloutStep, replicas: u32) -> u32 {
    let by_weight = || Portion::Percent(step.weight.unwrap_or(100));
    let asked = step.replicas.unwrap_or_else(by_weight).of_up(replicas);
    match step.weight {
        Some(weight) if weight < 100 => asked.min(replicas.saturating_sub(1)).max(1),
        _ => asked,
    }
}

/// The replicas that a step asks for are there: from now on its weight holds. Answers whether it did not before.
pub(crate) fn take_hold(step: &RolloutStep, rollout: &mut Rollout) -> bool {
    let is_new = rollout.weight != step.weight;
    rollout.weight = step.weight;
    is_new
}

/// All steps are over, and the rest follows: each replica gets its part of the requests, whatever it runs. With a fixed
/// share for those that are left to change, the last of them would have to answer more and more.
pub(crate) fn let_go(spec: &SpecRecord, rollout: &mut Rollout) {
    // A second set answers for all until the first one does.
    if rollout.step as usize >= spec.spec.rollout.stops().len() && rollout.beside.is_none() {
        rollout.weight = None;
    }
}

/// A step in a sentence.
pub fn told(step: &RolloutStep) -> String {
    match (step.replicas, step.weight) {
        (Some(replicas), Some(weight)) => format!("{replicas}, {weight} % of the requests"),
        (Some(replicas), None) => replicas.to_string(),
        (None, weight) => format!("{} % of the requests", weight.unwrap_or(100)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_as_many_replicas_as_it_has_requests_and_leaves_one_for_the_others() {
        let step = |replicas: Option<&str>, weight| RolloutStep {
            replicas: replicas.map(|text| text.parse().unwrap()),
            weight,
            pause: None,
        };
        for (step, replicas, expected) in [
            (step(None, Some(5)), 10, 1),
            (step(None, Some(50)), 10, 5),
            (step(None, Some(99)), 10, 9),
            (step(None, Some(100)), 10, 10),
            (step(Some("3"), Some(50)), 10, 3),
            (step(Some("100%"), Some(50)), 10, 9),
            (step(Some("1"), Some(0)), 10, 1),
            (step(None, Some(50)), 1, 1),
            (step(Some("50%"), None), 1, 1),
            (step(Some("100%"), None), 3, 3),
        ] {
            assert_eq!(replicas_of(&step, replicas), expected, "{step:?} of {replicas}");
        }
    }
}
