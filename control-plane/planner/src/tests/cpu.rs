//! Processors that replicas reserve.

use super::{rules::placed, *};
use crate::{Reason, Standing, better_places};
use lattice::spec::parse;

/// Nodes with room for much, and so many millicores each.
fn nodes(millicores: &[u64]) -> World {
    let mut world = World::new();
    for (number, millicores) in (1..).zip(millicores) {
        world.node(&format!("n{number}"), number).capacity =
            Capacity { slots: 50, memory: 50_000 << 20, millicores: *millicores };
    }
    world
}

fn reserving(workload: &str, replicas: u32, millicores: u64) -> WorkloadSpec {
    WorkloadSpec { reserve: ReserveSpec { cpu: Millicores(millicores) }, ..spec(workload, replicas) }
}

fn on(world: &World, workload: &str) -> Vec<NodeId> {
    world.view.slots_of(&name(workload)).map(|(_, slot)| slot.record.holder.node.clone()).collect()
}

#[test]
fn a_node_gives_away_what_it_offers_and_no_more() {
    let mut world = nodes(&[2000, 1000, 0]);
    world.put(reserving("w", 9, 700));
    world.settle(None);
    world.check_at_rest();
    assert_eq!(on(&world, "w").iter().filter(|node| **node == id("n1")).count(), 2);
    assert_eq!(on(&world, "w").len(), 3);
    let explanation = explain(&world.view, &slot("w.3"));
    let reasons: Vec<_> =
        refused(&explanation).iter().map(|(node, reason)| format!("{node} {}: {reason}", reason.rule())).collect();
    assert_eq!(
        reasons,
        [
            "n1 cpu: has too few processors left: 1.4 of 2 are reserved, 0.7 are needed",
            "n2 cpu: has too few processors left: 0.7 of 1 are reserved, 0.7 are needed",
            "n3 cpu: offers no processors to reserve: 0.7 are needed; it is of an older version, or has --cpus 0",
        ]
    );
    // Who reserves none goes anywhere, also where more is given away than there is.
    world.session("n1").capacity.millicores = 100;
    world.put(spec("plain", 1));
    assert!(refused(&explain(&world.view, &slot("plain.0"))).is_empty());
}

#[test]
fn a_session_of_an_older_node_offers_none() {
    let mut session: serde_json::Value = serde_json::from_slice(
        &Session {
            capacity: Capacity { slots: 4, memory: 1 << 30, millicores: 0 },
            ..lattice::testing::session(id("n1"), life(1))
        }
        .encode(),
    )
    .unwrap();
    let capacity = session["capacity"].as_object_mut().unwrap();
    assert_eq!(capacity.keys().collect::<Vec<_>>(), ["memory", "slots"]);
    let record = Session::decode(session.to_string().as_bytes()).unwrap();
    let mut world = World::new();
    let revision = world.next();
    world.view.sessions.insert(id("n1"), Versioned { record, revision });
    world.put(reserving("w", 1, 1));
    let explanation = explain(&world.view, &slot("w.0"));
    let none = Millicores(0);
    let reason = Reason::Cpu { needed: Millicores(1), reserved: none, capacity: none };
    assert_eq!(refused(&explanation), [(&id("n1"), &reason)]);
}

#[test]
fn a_preview_says_which_replicas_find_no_processors() {
    let world = nodes(&[1000]);
    let planned = preview(&world.view, &reserving("w", 3, 500), &Recipe::default());
    let taken: Vec<bool> = planned.iter().map(|slot| slot.node.is_some()).collect();
    assert_eq!(taken, [true, true, false]);
    assert_eq!(planned[2].refused[0].rule, "cpu");
}

#[test]
fn what_is_more_important_takes_the_processors_of_what_is_less() {
    let mut world = nodes(&[2000]);
    let less = |workload: &str, millicores: u64| WorkloadSpec {
        reserve: ReserveSpec { cpu: Millicores(millicores) },
        ..placed(workload, 1, "{priority: -1}")
    };
    world.put(less("idle", 0));
    world.put(less("small", 500));
    world.put(less("large", 1500));
    world.settle(None);
    let mut high = placed("high", 1, "{priority: 5}");
    high.reserve.cpu = Millicores(1200);
    world.put(high);
    let explained = explain(&world.view, &slot("high.0"));
    assert_eq!(explained.displaces, [slot("large.0")], "neither what frees nothing nor what is not enough");
    world.settle(None);
    assert_eq!(on(&world, "high"), [id("n1")]);
    assert!(on(&world, "large").is_empty() && on(&world, "idle").len() + on(&world, "small").len() == 2);
}

#[test]
fn the_fuller_one_of_two_nodes_comes_second() {
    let mut world = nodes(&[4000, 4000]);
    world.put(WorkloadSpec { placement: placed("big", 1, "{node: n1}").placement, ..reserving("big", 1, 3000) });
    world.settle(None);
    world.put(spec("w", 1));
    let explanation = explain(&world.view, &slot("w.0"));
    let fullness = |node: &str| match explanation.nodes.get(&id(node)) {
        Some(Standing::Rank(_, Some(score))) => score.fullness,
        other => panic!("{other:?}"),
    };
    assert_eq!((fullness("n1"), fullness("n2")), (6, 0));
    assert_eq!(explanation.first(), Some(&id("n2")));
}

#[test]
fn nothing_is_moved_to_where_no_processors_are_left() {
    let mut world = nodes(&[4000, 500]);
    world.put(reserving("w", 4, 1000));
    for index in 0..4 {
        world.hold(&format!("w.{index}"), "n1", 1, Phase::Ready);
    }
    assert_eq!(better_places(&world.view, None), []);
    world.session("n2").capacity.millicores = 4000;
    assert_eq!(better_places(&world.view, None).len(), 2);
}

#[test]
fn what_is_left_of_a_template_keeps_its_processors() {
    let read = |cpu: &str, version: u32| {
        let source = lattice::id::Digest::of(b"");
        let text = format!(
            "name: w\ncomponents: [{{name: a, source: '{source}', env: {{V: '{version}'}}}}]\nreserve: {{cpu: {cpu}}}"
        );
        parse(text.as_bytes()).unwrap()
    };
    let next = |record: &SpecRecord, spec| record.next(None, spec, Recipe::default(), BTreeMap::new(), 0);
    let first = SpecRecord::new(read("0", 1), life(7), Generation::FIRST);
    let second = next(&first, read("3", 2));
    assert!(second.stable.is_some(), "what is reserved is rolled out like what runs");
    let third = next(&second, read("1", 3));
    let left = third.left(second.template()).unwrap();
    assert_eq!(left.millicores, 3000);
    let mut world = nodes(&[5000]);
    world.put_record(third);
    let held = world.hold("w.0", "n1", 1, Phase::Ready);
    held.generation = second.template();
    let held = held.clone();
    let record = &world.view.specs.get(&name("w")).unwrap().record;
    let reserved = crate::templates::reserved(record, None, 0, &held, None);
    assert!(reserved.cpu >= 3000, "{reserved:?}");
}
