//! Nodes that an operator wants empty: what moves, what stays, and how many strict replicas stop at a time.

use super::*;
use lattice::{
    record::{DrainOrder, NodeOrder},
    spec::{DisruptionSpec, Portion},
};

const OVER: Situation = Situation { settling: false, drain_is_over: true };

impl World {
    pub(super) fn drain(&mut self, node: &str, drained: bool) {
        let revision = self.next();
        let order = NodeOrder { node: id(node), cordoned: false, drain: drained.then(DrainOrder::default) };
        self.view.orders.insert(id(node), Versioned { record: order, revision });
    }
}

fn strict(workload: &str, replicas: u32, max_unavailable: Portion) -> WorkloadSpec {
    let disruption = DisruptionSpec { max_unavailable };
    WorkloadSpec { class: Class::Strict, disruption, ..spec(workload, replicas) }
}

fn daemon(workload: &str) -> WorkloadSpec {
    let mut spec = spec(workload, 1);
    spec.placement.daemon = true;
    spec
}

#[test]
fn what_can_be_handed_over_is_and_what_has_no_place_stays_until_the_end() {
    let mut world = one();
    world.hold("w.0", "n1", 1, Phase::Ready);
    world.drain("n1", true);
    check("there is no other place", SETTLED, &world, &["run w.0 g1"]);
    check("… and the time is up", OVER, &world, &["release, stop w.0", "run w.0 g1"]);

    world.node("n2", 2);
    world.hold("w.0", "n2", 2, Phase::Starting).handover_from = Some(Holder { node: id("n1"), incarnation: life(1) });
    check("it serves until the other one is ready", SETTLED, &world, &["run w.0 g1"]);
    check("… but not for ever", OVER, &world, &[]);

    let mut world = one();
    world.hold("w.0", "n2", 2, Phase::Ready);
    world.node("n2", 2);
    check("nobody asked for it", SETTLED, &world, &[]);
    world.drain("n2", true);
    check("another node's is taken over", SETTLED, &world, &["claim w.0 rank 0 over a record from n2"]);
    world.drain("n1", true);
    check("… not by one that is to be empty as well", SETTLED, &world, &[]);
    world.drain("n1", false);
    world.hold("w.0", "n1", 9, Phase::Ready);
    world.drain("n1", true);
    check("what it held before a restart does not come back", SETTLED, &world, &[]);
}

#[test]
fn strict_replicas_stop_where_there_is_another_place() {
    let mut world = World::new();
    world.node("n1", 1);
    world.put(strict("w", 1, Portion::Count(1)));
    world.hold("w.0", "n1", 1, Phase::Ready);
    world.drain("n1", true);
    check("there is none", SETTLED, &world, &["run w.0 g1"]);
    check("… and the time is up", OVER, &world, &["stop, release w.0", "run w.0 g1"]);
    world.node("n2", 2).capacity.slots = 1;
    check("there is one", SETTLED, &world, &["stop, release w.0", "run w.0 g1"]);
    world.put(strict("w", 1, Portion::Count(0)));
    check("none may be out of service", SETTLED, &world, &["run w.0 g2"]);
    world.session("n1").draining = true;
    check("the node itself leaves", SETTLED, &world, &["stop, release w.0"]);
}

#[test]
fn as_many_stop_at_a_time_as_may_be_out_of_service() {
    let mut world = World::new();
    for (node, life) in [("n1", 1), ("n2", 2), ("n3", 3)] {
        world.node(node, life);
    }
    world.put(strict("w", 4, Portion::Percent(50)));
    for (slot, node, life) in [("w.0", "n1", 1), ("w.1", "n2", 2), ("w.2", "n1", 1), ("w.3", "n1", 1)] {
        world.hold(slot, node, life, Phase::Ready);
    }
    world.drain("n1", true);
    let run = ["run w.0 g1", "run w.2 g1", "run w.3 g1"];
    let two = ["stop, release w.0", "stop, release w.2"];
    check("half of them", SETTLED, &world, &[&two[..], &run].concat());
    world.hold("w.1", "n2", 2, Phase::Failed);
    check("one is out of service already", SETTLED, &world, &[&two[..1], &run].concat());
    world.hold("w.2", "n1", 1, Phase::Failed);
    world.hold("w.1", "n2", 2, Phase::Ready);
    check("one that does not serve costs nothing", SETTLED, &world, &[&two[..], &run].concat());

    // The order that came first goes first, whatever the numbers of the replicas are.
    world.hold("w.2", "n1", 1, Phase::Ready);
    world.put(strict("w", 4, Portion::Count(1)));
    world.view.orders.clear();
    world.drain("n2", true);
    world.drain("n1", true);
    check("another node was asked before", SETTLED, &world, &["run w.0 g2", "run w.2 g2", "run w.3 g2"]);
}

#[test]
fn replicas_of_daemons_stay() {
    let mut world = World::new();
    for (node, life) in [("n1", 1), ("n2", 2)] {
        world.node(node, life);
    }
    world.put(daemon("w"));
    world.settle(None);
    let before = world.holders();
    assert_eq!(before.len(), 2);
    world.drain("n1", true);
    world.settle(None);
    assert_eq!(world.holders(), before);
    for me in world.members() {
        assert_eq!(plan(&world.view, &me, OVER).actions, []);
    }
}

#[test]
fn a_node_is_emptied_and_nothing_comes_back_by_itself() {
    let mut world = World::new();
    for (node, life) in [("n1", 1), ("n2", 2), ("n3", 3)] {
        world.node(node, life);
    }
    world.put(spec("w", 5));
    world.put(strict("s", 3, Portion::Count(1)));
    world.settle(None);
    world.drain("n1", true);
    world.settle(None);
    let drained = world.holders();
    assert_eq!(drained.len(), 8);
    assert!(drained.values().all(|node| *node != id("n1")), "{drained:?}");
    world.drain("n1", false);
    world.settle(None);
    assert_eq!(world.holders(), drained);
}

/// One node's view, which may be late: each bucket as it was at some moment, never before one that was seen already.
#[derive(Clone, Copy, Default)]
struct Late {
    specs: usize,
    state: usize,
}

proptest! {
    /// Nodes that know of each other's steps at any later time together keep the limit.
    #[test]
    fn no_more_strict_replicas_are_out_of_service_than_may_be(
        replicas in 1u32..5,
        most in 0u32..4,
        steps in proptest::collection::vec((0usize..4, 0u8..12, 0usize..8, 0usize..8), 1..120),
    ) {
        const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];
        let mut world = World::new();
        for (node, life) in NODES.into_iter().zip(1..) {
            world.node(node, life);
        }
        world.put(strict("w", replicas, Portion::Count(most)));
        world.settle(None);
        let mut history = vec![world.view.clone()];
        let mut late = [Late::default(); NODES.len()];
        for (number, what, specs, state) in steps {
            let node = NODES[number];
            let seen = &mut late[number];
            seen.specs = (seen.specs + specs).min(history.len() - 1);
            seen.state = (seen.state + state).min(history.len() - 1);
            let before = world.revision;
            match what {
                // What is taken back is another matter: who has not heard of it acts on it.
                0 if world.view.drain(&id(node)).is_none() => world.drain(node, true),
                0..4 => {
                    let starting = world.view.slots.iter().find(|(_, slot)| {
                        slot.record.holder.node == id(node) && slot.record.phase == Phase::Starting
                    });
                    if let Some(slot) = starting.map(|(slot, _)| slot.to_string()) {
                        world.hold(&slot, node, 1 + number as u128, Phase::Ready);
                    }
                }
                _ => {
                    let (specs, state) = (&history[seen.specs], &history[seen.state]);
                    let view = LatticeView {
                        specs: specs.specs.clone(),
                        orders: specs.orders.clone(),
                        ..state.clone()
                    };
                    let me = Me { node: id(node), incarnation: life(1 + number as u128) };
                    for action in plan(&view, &me, SETTLED).actions {
                        world.act(&me, &action);
                    }
                }
            }
            if world.revision != before {
                history.push(world.view.clone());
                // A node waits until it sees its own writes.
                late[number].state = history.len() - 1;
            }
            let serves = |index: u32| {
                let slot = SlotId::new(name("w"), index);
                let is_ready = world.view.slots.get(&slot).is_some_and(|held| held.record.phase == Phase::Ready);
                is_ready && !world.stopped.contains(&slot)
            };
            let out = (0..replicas).filter(|index| !serves(*index)).count();
            prop_assert!(out <= most as usize, "{} are out of service, {} may be", out, most);
        }
    }
}
