//! Changes that are given up since what is new answers badly.

use super::*;
use lattice::{report::Slow, spec::AnalysisSpec};

fn bounded(bounds: &str, rollback: Rollback) -> RolloutSpec {
    let text = format!(
        "name: w\ncomponents: [{{name: main, source: 'file:a'}}]\nreplicas: 4\n\
         rollout: {{steps: [{{weight: 50}}], analysis: {{window: 10s, min-requests: 100, {bounds}}}}}\n"
    );
    RolloutSpec { rollback, ..lattice::spec::parse(text.as_bytes()).unwrap().rollout }
}

/// A change of four replicas by weight, whose new ones answer so many requests in each half second.
struct Answering {
    rolling: Rolling,
    bounds: AnalysisSpec,
}

#[derive(Clone, Copy, Default)]
struct Each {
    requests: u64,
    errors: u64,
    slow: u64,
}

impl Answering {
    fn new(bounds: &str, rollback: Rollback) -> Self {
        let rollout = bounded(bounds, rollback);
        let bounds = rollout.analysis.clone().unwrap();
        let mut rolling = Rolling::new(4, 10, &rollout);
        rolling.put(asked(4, "2", rollout));
        Self { rolling, bounds }
    }

    /// Each replica answers so much in so many half seconds. Answers why the change was given up, and how far it was.
    fn turns(&mut self, turns: u32, of_new: Each, of_old: Each) -> Option<String> {
        for _ in 0..turns {
            let template = self.rolling.spec().template();
            let slots: Vec<_> = self
                .rolling
                .world
                .view
                .slots_of(&name("w"))
                .map(|(slot, held)| (slot.index, held.record.generation))
                .collect();
            for (index, generation) in slots {
                let each = if generation == template { of_new } else { of_old };
                let answers = self.rolling.answers.entry((index, generation)).or_default();
                answers.requests += each.requests;
                answers.errors += each.errors;
                let slow = |bound: Option<Millis>, before: Option<Slow>| {
                    let before = before.map_or(0, |slow| slow.requests);
                    bound.map(|bound| Slow { bound, requests: before + each.slow })
                };
                (answers.p95, answers.p99) =
                    (slow(self.bounds.max_p95, answers.p95), slow(self.bounds.max_p99, answers.p99));
            }
            let reason = self.rolling.advance();
            if reason.is_some() {
                return reason;
            }
            self.rolling.hosts(&mut || true);
        }
        None
    }

    fn state(&self) -> RolloutState {
        self.rolling.rollout().unwrap().state
    }
}

const NOTHING: Each = Each { requests: 0, errors: 0, slow: 0 };
const GOOD: Each = Each { requests: 10, errors: 0, slow: 0 };
const BAD: Each = Each { requests: 10, errors: 5, slow: 0 };

#[test]
fn what_fails_too_often_is_given_up_as_soon_as_there_are_enough_requests() {
    let mut answering = Answering::new("max-error-rate: 10%", Rollback::Automatic);
    let reason = answering.turns(100, BAD, GOOD).unwrap();
    let told = "requests failed, most of them on n1, and rollout.analysis.max-error-rate is 10%";
    assert!(reason.starts_with("50 % of 1") && reason.ends_with(told), "{reason}");
    assert!(answering.rolling.now < Duration::from_secs(10), "{:?}", answering.rolling.now);
    let spec = answering.rolling.spec();
    assert_eq!((spec.template(), spec.aborted.as_ref().map(|aborted| &aborted.reason)), (Generation(1), Some(&reason)));
    let weighed = spec.weighed(answering.rolling.rollout()).unwrap();
    assert_eq!((weighed.template, weighed.percent), (Generation(2), 0));
}

#[test]
fn what_keeps_its_bounds_goes_on_and_what_is_there_already_does_not_matter() {
    let mut answering = Answering::new("max-error-rate: 10%, max-p95: 100ms, max-p99: 1s", Rollback::Automatic);
    assert_eq!(answering.turns(200, Each { requests: 100, errors: 10, slow: 1 }, BAD), None);
    assert_eq!(answering.state(), RolloutState::Paused);
    answering.rolling.resume();
    assert_eq!(answering.turns(20, GOOD, BAD), None);
    assert_eq!((answering.state(), answering.rolling.runs()), (RolloutState::Done, vec![2; 4]));
    // From then on it is what is there.
    assert_eq!(answering.turns(20, BAD, BAD), None);
}

#[test]
fn it_is_looked_at_too_while_people_are_to_decide_whether_it_goes_on() {
    let mut answering = Answering::new("max-error-rate: 10%", Rollback::Automatic);
    assert_eq!(answering.turns(20, GOOD, GOOD), None);
    assert_eq!(answering.state(), RolloutState::Paused);
    // Not at the first error.
    assert_eq!(answering.turns(1, BAD, GOOD), None);
    assert!(answering.turns(20, BAD, GOOD).is_some());

    let mut manual = Answering::new("max-error-rate: 10%", Rollback::Manual);
    assert_eq!(manual.turns(40, BAD, GOOD), None);
    assert_eq!(manual.state(), RolloutState::Stalled);
    let message = manual.rolling.rollout().unwrap().message.clone().unwrap();
    assert!(message.contains("max-error-rate is 10%"), "{message}");
    // Who resumes it gives it another chance: what was before does not count.
    manual.rolling.resume();
    assert_eq!(manual.turns(40, GOOD, GOOD), None);
    assert_eq!(manual.state(), RolloutState::Done);
}

#[test]
fn of_too_few_requests_nothing_is_concluded() {
    let mut answering = Answering::new("max-error-rate: 10%", Rollback::Automatic);
    // One in half a second, at each of two: forty within ten seconds.
    let rare = Each { requests: 1, errors: 1, slow: 0 };
    assert_eq!(answering.turns(200, rare, GOOD), None);
    // Nor does it matter later what was before the window.
    assert_eq!(answering.turns(30, NOTHING, GOOD), None);
    assert_eq!(answering.turns(40, GOOD, GOOD), None);
    answering.rolling.resume();
    assert_eq!(answering.turns(20, rare, GOOD), None);
    assert_eq!(answering.state(), RolloutState::Done);
}

#[test]
fn what_is_slow_too_often_is_given_up() {
    for (bounds, slow, expected) in [
        ("max-p95: 100ms", 5, None),
        (
            "max-p95: 100ms",
            6,
            Some(
                "6 % of 200 requests took longer than 100ms, most of them on n1, and rollout.analysis.max-p95 lets 5 %",
            ),
        ),
        ("max-p99: 1s", 1, None),
        (
            "max-p99: 1s",
            2,
            Some("2 % of 200 requests took longer than 1s, most of them on n1, and rollout.analysis.max-p99 lets 1 %"),
        ),
    ] {
        let mut answering = Answering::new(bounds, Rollback::Automatic);
        answering.turns(20, NOTHING, GOOD);
        let each = Each { requests: 100, errors: 0, slow };
        let found = answering.turns(20, each, GOOD);
        assert_eq!(found.as_deref(), expected, "{bounds} {slow}");
    }
}

#[test]
fn a_replica_that_starts_again_counts_from_nothing() {
    let mut answering = Answering::new("max-error-rate: 10%", Rollback::Automatic);
    assert_eq!(answering.turns(20, GOOD, GOOD), None);
    for answers in answering.rolling.answers.values_mut() {
        *answers = Default::default();
    }
    assert_eq!(answering.turns(1, Each { requests: 9, errors: 9, slow: 0 }, GOOD), None);
    assert!(answering.turns(40, BAD, GOOD).is_some());
    // Nodes that say nothing, or of other lives, are not believed.
    let mut answering = Answering::new("max-error-rate: 10%", Rollback::Automatic);
    answering.rolling.is_other_life = true;
    assert_eq!(answering.turns(100, BAD, GOOD), None);
}
