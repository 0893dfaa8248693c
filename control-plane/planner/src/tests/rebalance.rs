//! Replicas that move to better places, when somebody asks for it.

use super::*;
use crate::{Better, RebalanceStep, Standing, better_places, rebalance_step, rules::Reason};
use lattice::{
    record::{Move, Rebalance},
    spec::{DisruptionSpec, Portion, Spread},
};
use std::time::Duration;

fn moves(world: &World) -> Vec<String> {
    let shown = |Better { slot, from, to, by, .. }: Better| format!("{slot} {from} {to} {by}");
    better_places(&world.view, None).into_iter().map(shown).collect()
}

/// Replicas of `w`, so many on each node of the same number.
fn placed(world: &mut World, spec: WorkloadSpec, on: &[u32]) {
    let name = spec.name.clone();
    world.put(spec);
    let mut index = 0;
    for (number, count) in (1..).zip(on) {
        for _ in 0..*count {
            world.hold(&format!("{name}.{index}"), &format!("n{number}"), number, Phase::Ready);
            index += 1;
        }
    }
}

fn nodes(count: u128, slots: u32) -> World {
    let mut world = World::new();
    for number in 1..=count {
        world.node(&format!("n{number}"), number).capacity = Capacity { slots, memory: 10_000 << 20, millicores: 0 };
    }
    world
}

fn ask(world: &mut World, at_once: u32) {
    let left =
        better_places(&world.view, None).into_iter().map(|Better { slot, from, .. }| Move { slot, from }).collect();
    let record = Rebalance { id: life(1), at_once, moving: Vec::new(), left, moved: 0, skipped: 0, changed_at: 0 };
    let revision = world.next();
    world.view.rebalance = Some(Versioned { record, revision });
}

/// What a node would do, done. Answers how it ended.
fn step(world: &mut World, lasted: u64) -> Option<String> {
    match rebalance_step(&world.view, Duration::from_secs(lasted))? {
        RebalanceStep::Put { record, expect } => {
            assert_eq!(Some(expect), world.view.rebalance.as_ref().map(|there| there.revision));
            let revision = world.next();
            world.view.rebalance = Some(Versioned { record, revision });
            None
        }
        RebalanceStep::End { why, .. } => {
            world.view.rebalance = None;
            Some(why)
        }
    }
}

/// All nodes act once, and hosts bring up what they were given.
fn act(world: &mut World) {
    let mut all: Vec<(u32, Me, Action)> = Vec::new();
    for me in world.members() {
        for action in plan(&world.view, &me, SETTLED).actions {
            let rank = if let Action::Claim { rank, .. } = &action { *rank } else { 0 };
            all.push((rank, me.clone(), action));
        }
    }
    all.sort_by_key(|(rank, ..)| *rank);
    for (_, me, action) in all {
        if let Action::Release { slot, stop_first: true, .. } = &action {
            world.stopped.insert(slot.clone());
        }
        world.act(&me, &action);
    }
}

fn come_up(world: &mut World) {
    let all: Vec<SlotId> = world.view.slots.keys().cloned().collect();
    for slot in all {
        let revision = world.next();
        let held = world.view.slots.get_mut(&slot).unwrap();
        if held.record.phase != Phase::Ready {
            (held.record, held.revision) =
                (held.record.observed(held.record.generation, Phase::Ready, None, 0, 0), revision);
        }
    }
}

fn run(world: &mut World, mut check: impl FnMut(&World)) -> String {
    for _ in 0..1000 {
        if let Some(why) = step(world, 0) {
            return why;
        }
        check(world);
        act(world);
        check(world);
        come_up(world);
    }
    panic!("it does not end: {:?}", world.view.rebalance);
}

fn counts(world: &World, name_of: &str) -> Vec<usize> {
    let on = |me: &Me| {
        let held = world.view.slots_of(&name(name_of));
        held.filter(|(_, slot)| slot.record.holder.node == me.node).count()
    };
    world.members().iter().map(on).collect()
}

#[test]
fn what_came_back_gets_its_share_and_nothing_else_moves() {
    let mut world = nodes(3, 20);
    placed(&mut world, spec("w", 6), &[3, 3, 0]);
    assert_eq!(moves(&world), ["w.0 n1 n3 replicas", "w.3 n2 n3 replicas"]);
    ask(&mut world, 1);
    let serving = |world: &World| {
        let serves = |slot: &Versioned<Slot>| slot.record.serving().is_some();
        assert_eq!(world.view.slots.values().filter(|slot| serves(slot)).count(), 6);
        let starting = world.view.slots.values().filter(|slot| slot.record.phase != Phase::Ready).count();
        assert!(starting <= 1, "{starting} at a time");
    };
    assert_eq!(run(&mut world, serving), "over: 2 moved");
    assert_eq!(counts(&world, "w"), [2, 2, 2]);
    assert_eq!(moves(&world), Vec::<String>::new());
}

#[test]
fn only_what_is_better_for_a_reason_moves() {
    // One more or less is chance.
    let mut world = nodes(2, 20);
    placed(&mut world, spec("w", 3), &[2, 1]);
    assert_eq!(moves(&world), Vec::<String>::new());
    // A node that is much fuller with other things.
    let mut world = nodes(2, 8);
    for number in 0..4 {
        placed(&mut world, spec(&format!("w{number}"), 1), &[1, 0]);
    }
    assert_eq!(moves(&world), ["w0.0 n1 n2 full"]);
    // Preferences and spreads come before.
    let mut world = nodes(2, 20);
    world.session("n2").labels.insert("zone".into(), "b".into());
    let mut preferring = spec("w", 1);
    preferring.placement.prefer = vec![lattice::spec::Preference { label: "zone == b".parse().unwrap(), weight: 1 }];
    placed(&mut world, preferring, &[1, 0]);
    assert_eq!(moves(&world), ["w.0 n1 n2 missed"]);
    let mut world = nodes(3, 20);
    world.session("n3").labels.insert("zone".into(), "b".into());
    let mut spread = spec("w", 2);
    spread.placement.spread = vec![Spread { over: "zone".into(), max_skew: 1, hard: true, shares: BTreeMap::new() }];
    placed(&mut world, spread, &[1, 1, 0]);
    assert_eq!(moves(&world), ["w.0 n1 n3 spread"]);
    // What is cordoned keeps what it has, and daemons are where they are.
    let mut world = nodes(2, 20);
    placed(&mut world, spec("w", 2), &[2, 0]);
    world.view.orders.insert(
        id("n1"),
        Versioned {
            record: lattice::record::NodeOrder { node: id("n1"), cordoned: true, drain: None },
            revision: Revision(1),
        },
    );
    assert_eq!(moves(&world), Vec::<String>::new());
}

#[test]
fn strict_replicas_move_as_their_workload_can_spare_them() {
    for (limit, at_once, out) in [(1, 3, 1), (2, 3, 2), (2, 1, 1), (0, 3, 0)] {
        let mut world = nodes(3, 20);
        let disruption = DisruptionSpec { max_unavailable: Portion::Count(limit) };
        placed(&mut world, WorkloadSpec { class: Class::Strict, disruption, ..spec("w", 6) }, &[6, 0, 0]);
        ask(&mut world, at_once);
        let mut most = 0;
        let check = |world: &World| {
            let ready = world.view.slots.values().filter(|slot| slot.record.phase == Phase::Ready).count();
            most = most.max(6 - ready);
        };
        if out == 0 {
            for _ in 0..20 {
                assert_eq!(step(&mut world, 0), None);
                act(&mut world);
            }
            assert_eq!(counts(&world, "w"), [6, 0, 0]);
            assert_eq!(step(&mut world, 120).as_deref(), Some("ended: w.0 can't be spared by its workload"));
            continue;
        }
        assert_eq!(run(&mut world, check), "over: 4 moved");
        assert_eq!((counts(&world, "w"), most), (vec![2, 2, 2], out), "{limit} {at_once}");
    }
}

#[test]
fn it_ends_where_something_does_not_come_up_and_what_is_gone_is_left_out() {
    let mut world = nodes(3, 20);
    placed(&mut world, spec("w", 6), &[3, 3, 0]);
    ask(&mut world, 1);
    assert_eq!(step(&mut world, 0), None);
    let explained = explain(&world.view, &slot("w.0"));
    assert_eq!(explained.nodes[&id("n1")], Standing::Refused(Reason::Moves));
    act(&mut world);
    let held = &mut world.view.slots.get_mut(&slot("w.0")).unwrap().record;
    assert_eq!((held.holder.node.clone(), held.handover_from.is_some()), (id("n3"), true));
    *held = held.observed(Generation(1), Phase::Failed, Some("no luck"), 2, 0);
    let mut failing = world.clone();
    assert_eq!(step(&mut failing, 0), None);
    let held = &mut failing.view.slots.get_mut(&slot("w.0")).unwrap().record;
    *held = held.observed(Generation(1), Phase::Failed, Some("no luck"), 3, 0);
    assert_eq!(step(&mut failing, 0).as_deref(), Some("ended: w.0 does not come up elsewhere: no luck"));
    assert_eq!(step(&mut world, 119), None);
    assert_eq!(step(&mut world.clone(), 120).as_deref(), Some("ended: w.0 did not come up elsewhere within 120 s"));
    // The rest is where it should be by the time its turn comes.
    come_up(&mut world);
    world.view.slots.get_mut(&slot("w.3")).unwrap().record.holder = Holder { node: id("n3"), incarnation: life(3) };
    assert_eq!(run(&mut world, |_| {}), "over: 1 moved, 1 were not to be moved any more");
    // A node without room does not keep it from ending.
    let mut world = nodes(2, 20);
    placed(&mut world, spec("w", 4), &[4, 0]);
    ask(&mut world, 1);
    world.session("n2").capacity.slots = 0;
    assert_eq!(run(&mut world, |_| {}), "over: 0 moved, 2 were not to be moved any more");
    assert_eq!(counts(&world, "w"), [4, 0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// However replicas lie: it ends, keeps to its rate, and there is nothing left to move or to move back.
    #[test]
    fn it_comes_to_rest(
        on in proptest::collection::vec(proptest::collection::vec(0u32..4, 4), 1..4), at_once in 1u32..4, slots in 10u32..16,
    ) {
        let mut world = nodes(4, slots);
        let mut total = 0;
        for (number, on) in on.iter().enumerate() {
            let replicas: u32 = on.iter().sum();
            total += replicas as usize;
            placed(&mut world, spec(&format!("w{number}"), replicas), on);
        }
        let mut rounds = 0;
        while !better_places(&world.view, None).is_empty() {
            ask(&mut world, at_once);
            run(&mut world, |world| {
                let moving = world.view.rebalance.as_ref().map_or(0, |rebalance| rebalance.record.moving.len());
                assert!(moving <= at_once as usize);
                let serves = world.view.slots.values().filter(|slot| slot.record.serving().is_some()).count();
                assert_eq!(serves, total);
                for me in world.members() {
                    let held = world.view.slots.values().filter(|slot| slot.record.holder.node == me.node).count();
                    assert!(held <= slots as usize);
                }
            });
            rounds += 1;
            prop_assert!(rounds < 5, "{:?}", better_places(&world.view, None));
        }
    }
}
