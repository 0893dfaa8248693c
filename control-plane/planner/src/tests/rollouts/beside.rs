//! Changes that come as a second set beside the first.

use super::*;
use lattice::spec::Strategy;
use proptest::prelude::*;

/// All at once, and the way back for so many seconds.
fn beside(steps: &[(u32, Option<u64>)]) -> RolloutSpec {
    let step = |(weight, pause): &(u32, Option<u64>)| RolloutStep {
        replicas: None,
        weight: Some(*weight),
        pause: pause.map(Millis::from_secs),
    };
    RolloutSpec { strategy: Strategy::BlueGreen, steps: steps.iter().map(step).collect(), ..RolloutSpec::default() }
}

impl Rolling {
    /// Everybody does what there is to do, as far as chance says.
    fn round(&mut self, chance: &mut impl FnMut() -> bool) -> Option<String> {
        let given_up = self.advance();
        for me in self.world.members() {
            for action in plan(&self.world.view, &me, SETTLED).actions {
                if chance() {
                    self.world.act(&me, &action);
                }
            }
        }
        self.hosts(chance);
        given_up
    }
    fn percent(&self) -> Option<u32> {
        self.spec().weighed(self.rollout()).map(|weighed| weighed.percent)
    }
    /// Replicas that answer, by whether they run what is newest.
    fn answering(&self) -> (usize, usize) {
        let template = self.spec().template();
        let ready = self.world.view.slots_of(&name("w")).filter(|(_, slot)| slot.record.phase == Phase::Ready);
        let (new, old): (Vec<_>, Vec<_>) = ready.partition(|(_, slot)| slot.record.generation == template);
        (new.len(), old.len())
    }
    /// As many replicas as are asked for answer those requests that there are.
    fn check_enough(&self, replicas: usize) {
        let (new, old) = self.answering();
        let is_enough = match self.percent() {
            Some(100) => new >= replicas,
            Some(0) => old >= replicas,
            Some(_) => new >= replicas && old >= replicas,
            None => new + old >= replicas,
        };
        assert!(is_enough, "{new} new and {old} old ones answer, {:?}: {:?}", self.percent(), self.rollout());
    }
    fn is_over(&self) -> bool {
        self.rollout().is_some_and(|rollout| rollout.state == RolloutState::Done && rollout.beside.is_none())
    }
}

#[test]
fn a_second_set_comes_up_whole_answers_all_and_the_first_one_follows() {
    let rollout = beside(&[(100, Some(60))]);
    let mut rolling = Rolling::new(3, 10, &rollout);
    rolling.put(asked(3, "2", rollout));
    assert_eq!(rolling.percent(), Some(0));
    while rolling.percent() == Some(0) {
        assert_eq!(rolling.runs()[..3], [1, 1, 1]);
        rolling.round(&mut || true);
        rolling.check_enough(3);
    }
    assert_eq!((rolling.percent(), rolling.runs()), (Some(100), vec![1, 1, 1, 2, 2, 2]));
    let since = rolling.now;
    while rolling.rollout().unwrap().state == RolloutState::Progressing {
        assert_eq!(rolling.runs(), [1, 1, 1, 2, 2, 2], "the way back is open");
        rolling.round(&mut || true);
    }
    assert!(rolling.now - since >= Duration::from_secs(60));
    assert_eq!(rolling.rollout().unwrap().stop_first.len(), 3, "they have nothing to lose, and need no room for both");
    while !rolling.is_over() {
        rolling.check_enough(3);
        rolling.round(&mut || true);
    }
    assert_eq!(rolling.percent(), None);
    rolling.round(&mut || true);
    assert_eq!(rolling.runs(), [2, 2, 2]);
    assert_eq!(rolling.world.view.replicas(rolling.spec()), 3);
    assert_eq!(open_rollouts(&rolling.world.view), BTreeSet::new());
}

#[test]
fn as_long_as_the_first_set_is_there_the_way_back_is_one_write() {
    let rollout = beside(&[(0, None), (100, None)]);
    let mut rolling = Rolling::new(3, 10, &rollout);
    rolling.put(asked(3, "2", rollout.clone()));
    for percent in [0, 100] {
        while rolling.rollout().is_none_or(|rollout| rollout.state != RolloutState::Paused) {
            rolling.round(&mut || true);
        }
        assert_eq!((rolling.percent(), rolling.answering()), (Some(percent), (3, 3)));
        if percent == 0 {
            rolling.resume();
        }
    }
    let back = rolling.spec().abort("somebody asked for it", 0).unwrap();
    rolling.world.put_record(back);
    let weighed = rolling.spec().weighed(rolling.rollout()).unwrap();
    assert_eq!((weighed.template, weighed.percent), (Generation(2), 0));
    assert_eq!(rolling.world.view.replicas(rolling.spec()), 3);
    for _ in 0..3 {
        rolling.round(&mut || true);
        assert_eq!(rolling.runs()[..3], [1, 1, 1]);
    }
    assert_eq!(rolling.runs(), [1, 1, 1]);
    // Another one begins anew.
    rolling.put(asked(3, "3", rollout));
    rolling.round(&mut || true);
    assert_eq!((rolling.percent(), rolling.rollout().unwrap().beside), (Some(0), Some(3)));
}

#[test]
fn where_there_is_no_room_for_both_sets_it_is_given_up_and_nothing_was_touched() {
    let rollout = beside(&[]);
    // Room for five on three nodes that have four.
    let mut rolling = Rolling::new(4, 2, &rollout);
    rolling.put(asked(4, "2", rollout));
    let reason = loop {
        rolling.check_enough(4);
        if let Some(reason) = rolling.round(&mut || true) {
            break reason;
        }
        assert_eq!(rolling.percent(), Some(0));
        assert!(rolling.now < Duration::from_secs(600), "{:?}", rolling.rollout());
    };
    assert!(reason.ends_with("no node has taken it"), "{reason}");
    for _ in 0..3 {
        rolling.round(&mut || true);
    }
    assert_eq!(rolling.runs(), [1, 1, 1, 1]);
}

#[test]
fn what_is_new_and_bad_is_given_up_before_anybody_reaches_it() {
    let rollout = beside(&[(100, Some(60))]);
    let mut rolling = Rolling::new(2, 10, &rollout);
    rolling.bad = Some(rolling.put(asked(2, "2", rollout)));
    let reason = loop {
        assert_eq!(rolling.percent(), Some(0));
        rolling.check_enough(2);
        if let Some(reason) = rolling.round(&mut || true) {
            break reason;
        }
    };
    assert!(reason.contains("no luck"), "{reason}");
}

#[test]
fn a_store_that_lost_how_far_it_was_sends_nobody_back() {
    let rollout = beside(&[(100, Some(60))]);
    let mut rolling = Rolling::new(2, 10, &rollout);
    rolling.put(asked(2, "2", rollout));
    while !rolling.is_over() {
        rolling.round(&mut || true);
    }
    rolling.world.view.rollouts.clear();
    while !rolling.spec().is_settled(rolling.rollout()) {
        rolling.round(&mut || true);
        assert_eq!(rolling.runs()[..2], [2, 2]);
    }
    // And one whose second set is there finds it again.
    let rollout = beside(&[(100, Some(60))]);
    rolling.put(asked(2, "3", rollout));
    while rolling.percent() != Some(100) {
        rolling.round(&mut || true);
    }
    rolling.world.view.rollouts.clear();
    rolling.advance();
    assert_eq!((rolling.rollout().unwrap().beside, rolling.percent()), (Some(2), Some(0)));
}

#[test]
fn one_that_is_to_have_no_replicas_has_no_second_set() {
    let rollout = beside(&[(100, Some(60))]);
    let mut rolling = Rolling::new(2, 10, &rollout);
    rolling.put(asked(2, "2", rollout.clone()));
    for _ in 0..4 {
        rolling.round(&mut || true);
    }
    rolling.put(asked(0, "2", rollout.clone()));
    for _ in 0..4 {
        rolling.round(&mut || true);
    }
    assert_eq!((rolling.runs(), rolling.rollout().unwrap().beside), (vec![], None));
    rolling.put(asked(3, "2", rollout));
    for _ in 0..400 {
        rolling.round(&mut || true);
    }
    assert_eq!(rolling.runs(), [2, 2, 2]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However long hosts take, and whenever somebody puts another one: as many replicas as are asked for answer, of the kind
    /// that gets the requests, and in the end there are so many and no more.
    #[test]
    fn there_are_always_enough(
        replicas in 1_u32..6,
        weights in proptest::collection::btree_set(0_u32..100, 0..3),
        pause in 0_u64..5,
        odds in 1_u32..4,
        again in proptest::option::of(0_usize..60),
        seed in any::<u32>(),
    ) {
        let mut steps: Vec<_> = weights.iter().map(|weight| (*weight, Some(pause))).collect();
        steps.push((100, Some(pause)));
        let rollout = beside(&steps);
        let mut rolling = Rolling::new(replicas, 20, &rollout);
        rolling.put(asked(replicas, "2", rollout.clone()));
        let mut state = seed;
        let mut chance = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % odds == 0
        };
        for round in 0..1000 {
            if Some(round) == again {
                rolling.put(asked(replicas, "3", rollout.clone()));
            }
            prop_assert_eq!(rolling.round(&mut chance), None);
            match again.is_some_and(|again| round >= again) {
                false => rolling.check_enough(replicas as usize),
                // Those of three kinds answer for a moment.
                true => {
                    let (new, old) = rolling.answering();
                    assert!(new + old >= replicas as usize, "{new} new, {old} old: {:?}", rolling.rollout());
                }
            }
        }
        let newest = rolling.spec().template().0;
        prop_assert_eq!(rolling.runs(), vec![newest; replicas as usize]);
    }
}
