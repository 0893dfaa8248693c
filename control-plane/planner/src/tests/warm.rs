//! Nodes that have compiled what is to run.

use super::*;
use crate::Standing;
use lattice::{id::Digest, record::Compiled};

/// Ten nodes with room for ten replicas each.
fn world() -> World {
    let mut world = World::new();
    for number in 0..10 {
        world.node(&format!("n{number}"), number).capacity =
            Capacity { slots: 10, memory: 10_000 << 20, millicores: 0 };
    }
    world
}

/// Workloads of tests run this.
fn warm(world: &mut World, nodes: &[&str]) {
    for node in nodes {
        world.session(node).compiled = Compiled::new([Digest::of(b"").mark()]);
    }
}

fn nodes_of(world: &World, workload: &str) -> Vec<NodeId> {
    let slots = world.view.slots_of(&name(workload));
    let mut nodes: Vec<NodeId> = slots.map(|(_, slot)| slot.record.holder.node.clone()).collect();
    nodes.sort();
    nodes
}

#[test]
fn of_nodes_that_are_equal_those_come_first_that_have_the_code() {
    let mut world = world();
    warm(&mut world, &["n3", "n7"]);
    world.put(spec("w", 3));
    world.settle(None);
    let nodes = nodes_of(&world, "w");
    assert!(nodes.contains(&id("n3")) && nodes.contains(&id("n7")), "{nodes:?}");
    assert_eq!(nodes.iter().collect::<BTreeSet<_>>().len(), 3, "they are spread all the same");
    let explanation = crate::explain(&world.view, &slot("w.0")).unwrap();
    let cold = |node: &str| match explanation.nodes.get(&id(node)) {
        Some(Standing::Rank(_, Some(score))) => score.cold,
        other => panic!("{other:?}"),
    };
    assert_eq!((cold("n3"), cold("n0")), (false, true));
    // By the way of groups it is the same.
    let prefer = lattice::spec::parse(
        format!(
            "name: v\ncomponents: [{{name: main, source: '{}'}}]\nreplicas: 2\nplacement: {{prefer: [{{label: zone == a}}]}}",
            Digest::of(b"")
        )
        .as_bytes(),
    );
    world.put(prefer.unwrap());
    world.settle(None);
    assert_eq!(nodes_of(&world, "v"), [id("n3"), id("n7")]);
}

#[test]
fn code_does_not_outweigh_spread_or_room() {
    let mut world = world();
    warm(&mut world, &["n3"]);
    world.put(spec("w", 10));
    world.settle(None);
    assert_eq!(nodes_of(&world, "w").iter().collect::<BTreeSet<_>>().len(), 10, "one on each");
    // A node that is fuller by an eighth is no better for what it has compiled.
    for workload in ["a", "b"] {
        let pinned = lattice::spec::Placement { node: Some(id("n3")), ..Default::default() };
        world.put(WorkloadSpec { placement: pinned, ..spec(workload, 2) });
    }
    world.settle(None);
    world.put(spec("x", 1));
    world.settle(None);
    assert_ne!(nodes_of(&world, "x"), [id("n3")]);
    // It is no reason to move.
    assert_eq!(crate::better_places(&world.view, None).iter().filter(|better| better.by != "full").count(), 0);
}

#[test]
fn all_parts_of_what_runs_have_to_be_there() {
    let mut world = world();
    let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
    let service = lattice::recipe::HostedPart {
        name: "pool".parse().unwrap(),
        digest: two,
        role: lattice::spec::PartRole::Service,
    };
    let recipe = Recipe { artifact: Some(one), parts: vec![service], ..Recipe::default() };
    world.session("n1").compiled = Compiled::new([one.mark()]);
    world.session("n2").compiled = Compiled::new([two.mark()]);
    world.session("n6").compiled = Compiled::new([one.mark(), two.mark()]);
    world.put_record(SpecRecord { recipe, ..SpecRecord::new(spec("w", 1), life(7), Generation::FIRST) });
    world.settle(None);
    assert_eq!(nodes_of(&world, "w"), [id("n6")]);
}
