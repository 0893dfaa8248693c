//! Nodes that offer different interfaces, some of which do not say which.

use super::*;
use crate::Standing;
use lattice::interface::{Offers, need};

const WEBGPU: &str = "wasi:webgpu/webgpu@0.3.0-rc.2";

/// `n1` offers WASI 0.2, `n2` an earlier `wasi:webgpu` as well, `n3` the one that is needed; `old` does not say.
fn world() -> World {
    let mut world = World::new();
    let http = "wasi:http/types@0.2.4";
    for (number, (node, offers)) in (1..).zip([
        ("n1", Some(vec![http])),
        ("n2", Some(vec![http, "wasi:webgpu/webgpu@0.3.0-rc.1"])),
        ("n3", Some(vec![http, WEBGPU])),
        ("old", None),
    ]) {
        world.node(node, number).offers = offers.map(Offers::new);
    }
    world
}

fn importing(workload: &str, replicas: u32, imports: &[&str]) -> SpecRecord {
    let record = SpecRecord::new(spec(workload, replicas), life(7), Generation::FIRST);
    let recipe = Recipe { needs: imports.iter().map(|import| need(import)).collect(), ..Recipe::default() };
    SpecRecord { recipe, ..record }
}

fn refusal(world: &World, slot_id: &str, node: &str) -> Option<(&'static str, String)> {
    match crate::explain(&world.view, &slot(slot_id)).unwrap().nodes.get(&id(node)) {
        Some(Standing::Refused(reason)) => Some((reason.rule(), reason.to_string())),
        _ => None,
    }
}

fn nodes_of(world: &World, workload: &str) -> Vec<NodeId> {
    let slots = world.view.slots_of(&name(workload));
    let mut nodes: Vec<NodeId> = slots.map(|(_, slot)| slot.record.holder.node.clone()).collect();
    nodes.sort();
    nodes
}

#[test]
fn what_is_imported_is_placed_where_it_is_offered_and_everybody_can_say_why() {
    let mut world = world();
    world.session("old").draining = true;
    world.put_record(importing("w", 2, &["wasi:http/outgoing-handler@0.2.9", WEBGPU]));
    world.settle(None);
    assert_eq!(nodes_of(&world, "w"), [id("n3"), id("n3")]);
    let lacks = "does not offer wasi:webgpu/webgpu@0.3.0-rc.2, which is imported; it offers ";
    assert_eq!(refusal(&world, "w.0", "n1"), Some(("imports", format!("{lacks}nothing of that package"))));
    assert_eq!(refusal(&world, "w.0", "n2"), Some(("imports", format!("{lacks}wasi:webgpu/webgpu@0.3.0-rc.1"))));
    // What is not offered anywhere waits, and what needs nothing special goes anywhere.
    world.put_record(importing("x", 1, &["a:b/c@1.0.0"]));
    world.put_record(importing("y", 3, &["wasi:http/types@0.2.0"]));
    world.settle(None);
    assert_eq!(nodes_of(&world, "x"), [] as [NodeId; 0]);
    assert_eq!(nodes_of(&world, "y"), [id("n1"), id("n2"), id("n3")]);
    // A preview goes by the same.
    let needs = importing("z", 1, &["a:b/c@1.0.0"]).recipe;
    let planned = preview(&world.view, &spec("z", 1), &needs);
    assert_eq!((planned[0].node.clone(), planned[0].refused.len()), (None, 4));
}

#[test]
fn a_node_that_does_not_say_what_it_offers_is_taken_at_its_word() {
    let mut world = world();
    world.put_record(importing("w", 4, &["a:b/c@1.0.0"]));
    world.settle(None);
    assert_eq!(nodes_of(&world, "w"), [id("old"), id("old"), id("old"), id("old")]);
    // Nor is a record doubted that an older version wrote.
    world.put_record(importing("v", 3, &[]));
    world.settle(None);
    assert_eq!(nodes_of(&world, "v"), [id("n1"), id("n2"), id("n3")]);
}

#[test]
fn what_comes_to_import_something_else_moves_to_where_that_is() {
    let mut world = world();
    world.session("old").draining = true;
    world.put_record(importing("w", 3, &["wasi:http/types@0.2.0"]));
    world.settle(None);
    assert_eq!(nodes_of(&world, "w"), [id("n1"), id("n2"), id("n3")]);
    let next = importing("w", 3, &[WEBGPU]);
    world.put_record(SpecRecord { generation: Generation(2), ..next });
    world.settle(None);
    assert_eq!(nodes_of(&world, "w"), [id("n3"), id("n3"), id("n3")]);
    // One that is upgraded takes what it can, and nothing moves for it.
    world.session("n1").offers = Some(Offers::new([WEBGPU]));
    world.put_record(importing("v", 1, &[WEBGPU]));
    world.settle(None);
    assert_eq!(nodes_of(&world, "w"), [id("n3"), id("n3"), id("n3")]);
    assert_eq!(nodes_of(&world, "v"), [id("n1")]);
}
