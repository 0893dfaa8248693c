//! Changes that come by weight: what is new gets more requests only once the replicas are there that answer them.

use super::*;
use crate::weights::replicas_of;
use proptest::prelude::*;

fn by_weight(steps: &[(u32, Option<u64>)]) -> RolloutSpec {
    let step = |(weight, pause): &(u32, Option<u64>)| RolloutStep {
        replicas: (*weight == 0).then_some(Portion::Count(1)),
        weight: Some(*weight),
        pause: pause.map(Millis::from_secs),
    };
    RolloutSpec { steps: steps.iter().map(step).collect(), max_surge: Portion::Count(2), ..RolloutSpec::default() }
}

impl Rolling {
    fn weight(&self) -> Option<u32> {
        self.spec().weighed(self.rollout()).map(|weighed| weighed.percent)
    }
    fn new_ones(&self) -> u32 {
        let template = self.spec().template();
        let slots = self.world.view.slots_of(&name("w"));
        let is_new = |record: &Slot| record.generation == template && record.phase == Phase::Ready;
        slots.filter(|(_, slot)| is_new(&slot.record)).count() as u32
    }
    fn turn(&mut self) {
        assert_eq!(self.advance(), None);
        self.hosts(&mut || true);
    }
}

#[test]
fn each_weight_holds_from_when_its_replicas_are_there() {
    let steps = by_weight(&[(5, Some(60)), (50, None)]);
    let mut rolling = Rolling::new(6, 10, &steps);
    rolling.put(asked(6, "2", steps.clone()));
    assert_eq!(rolling.weight(), Some(0));
    while rolling.weight() == Some(0) {
        rolling.turn();
    }
    let since = rolling.now;
    assert_eq!((rolling.weight(), rolling.new_ones()), (Some(5), 1));
    while rolling.weight() == Some(5) {
        assert_eq!(rolling.new_ones() > 1, rolling.rollout().unwrap().step > 0, "the next ones come after the pause");
        rolling.turn();
    }
    assert!(rolling.now - since >= Duration::from_secs(60));
    assert_eq!((rolling.weight(), rolling.new_ones()), (Some(50), 3));
    for _ in 0..100 {
        rolling.turn();
    }
    let paused = rolling.rollout().unwrap();
    assert_eq!(paused.state, RolloutState::Paused);
    assert_eq!(paused.message.as_deref(), Some("step 2 of 2 (50 % of the requests) is over"));
    assert_eq!((rolling.weight(), rolling.new_ones()), (Some(50), 3));
    rolling.resume();
    // The rest gets what replicas there are.
    rolling.turn();
    assert_eq!(rolling.weight(), None);
    assert_eq!(rolling.run(|| true, |_| {}), None);
    assert_eq!((rolling.runs(), rolling.weight()), (vec![2; 6], None));
}

#[test]
fn one_that_runs_may_get_nothing() {
    let steps = by_weight(&[(0, None), (100, None)]);
    let mut rolling = Rolling::new(3, 10, &steps);
    rolling.put(asked(3, "2", steps));
    while rolling.rollout().is_none_or(|rollout| rollout.state != RolloutState::Paused) {
        rolling.turn();
    }
    assert_eq!((rolling.weight(), rolling.new_ones()), (Some(0), 1));
    rolling.resume();
    while rolling.rollout().is_none_or(|rollout| rollout.state != RolloutState::Paused) {
        assert!(rolling.weight() == Some(0) || rolling.new_ones() == 3);
        rolling.turn();
    }
    assert_eq!((rolling.weight(), rolling.new_ones()), (Some(100), 3));
}

#[test]
fn what_is_given_up_gets_nothing_from_then_on_and_the_next_one_begins_anew() {
    let steps = by_weight(&[(50, None)]);
    let mut rolling = Rolling::new(4, 10, &steps);
    rolling.put(asked(4, "2", steps.clone()));
    while rolling.weight() != Some(50) {
        rolling.turn();
    }
    let back = rolling.spec().abort("somebody asked for it", 0).unwrap();
    rolling.world.put_record(back);
    let weighed = rolling.spec().weighed(rolling.rollout()).unwrap();
    assert_eq!((weighed.template, weighed.percent), (Generation(2), 0));
    rolling.put(asked(4, "3", steps));
    let weighed = rolling.spec().weighed(rolling.rollout()).unwrap();
    assert_eq!((weighed.template, weighed.percent), (Generation(4), 0));
    rolling.turn();
    assert_eq!(rolling.rollout().unwrap().template, Generation(4));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However long hosts take: a weight holds only as long as so many replicas run what is new as its step asks for, and
    /// while others have requests to answer there is one that does; and it only grows.
    #[test]
    fn weights_follow_replicas(
        replicas in 2_u32..12,
        weights in proptest::collection::btree_set(1_u32..=100, 1..5),
        pause in 0_u64..5,
        odds in 1_u32..4,
        seed in any::<u32>(),
    ) {
        let asked_weights: Vec<_> = weights.iter().map(|weight| (*weight, Some(pause))).collect();
        let steps = by_weight(&asked_weights);
        let mut rolling = Rolling::new(replicas, 20, &steps);
        rolling.put(asked(replicas, "2", steps.clone()));
        let mut state = seed;
        let chance = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % odds == 0
        };
        let (mut before, mut seen) = (Some(0), BTreeSet::new());
        let given_up = rolling.run(chance, |rolling| {
            let weight = rolling.weight();
            let Some(percent) = weight.filter(|percent| *percent > 0) else {
                assert!(weight.is_none() || before == Some(0), "from {before:?} to {weight:?}");
                before = weight;
                return;
            };
            assert!(before.is_some_and(|before| before <= percent), "from {before:?} to {percent}");
            before = weight;
            seen.insert(percent);
            let step = steps.steps.iter().find(|step| step.weight == Some(percent)).unwrap();
            assert!(rolling.new_ones() >= replicas_of(step, replicas), "{percent} % go to {} of {replicas}", rolling.new_ones());
        });
        prop_assert_eq!(given_up, None);
        prop_assert_eq!(seen, weights);
        prop_assert_eq!(rolling.runs(), vec![2; replicas as usize]);
    }
}
