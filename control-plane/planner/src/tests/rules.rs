//! The rules of `placement`, one by one, and that plans made from view to view are those made from a view alone.

use super::*;
use crate::{Planner, Standing, claimable, wanted};
use lattice::{
    record::{Compiled, NodeOrder},
    spec::{DisruptionSpec, Placement, Portion},
};

/// A spec with a placement in YAML.
pub(super) fn placed(workload: &str, replicas: u32, placement: &str) -> WorkloadSpec {
    let replicas_line =
        if placement.contains("daemon: true") { String::new() } else { format!("replicas: {replicas}") };
    let text = format!(
        "name: {workload}\ncomponents: [{{name: main, source: '{}'}}]\nlimits: {{memory: 100MiB}}\n{replicas_line}\nplacement: {placement}",
        lattice::id::Digest::of(b"")
    );
    lattice::spec::parse(text.as_bytes()).expect(placement)
}

/// Nodes `n1` to `n6`, two in each of the zones a, b and c, with room for ten replicas.
fn zones() -> World {
    let mut world = World::new();
    for (number, zone) in (1..).zip(["a", "a", "b", "b", "c", "c"]) {
        let session = world.node(&format!("n{number}"), number);
        session.labels.insert("zone".into(), zone.into());
        session.labels.insert("cores".into(), (4 * number).to_string());
        session.capacity = Capacity { slots: 10, memory: 10_000 << 20, millicores: 0 };
    }
    world
}

/// How many replicas of a workload there are by the value of a label of their nodes.
fn by(world: &World, workload: &str, label: &str) -> Vec<(String, u32)> {
    let mut counts = BTreeMap::<String, u32>::new();
    for (_, slot) in world.view.slots_of(&name(workload)) {
        let session = &world.view.sessions.get(&slot.record.holder.node).unwrap().record;
        *counts.entry(session.label(label).unwrap_or("-").to_owned()).or_default() += 1;
    }
    counts.into_iter().collect()
}

#[track_caller]
fn check_by(world: &World, workload: &str, label: &str, expected: &[(&str, u32)]) {
    let expected: Vec<(String, u32)> = expected.iter().map(|(value, count)| ((*value).to_owned(), *count)).collect();
    assert_eq!(by(world, workload, label), expected);
}

#[track_caller]
fn check_refused(world: &World, slot_id: &str, node: &str, rule: &str, says: &str) {
    let explanation = explain(&world.view, &slot(slot_id));
    let Some(Standing::Refused(reason)) = explanation.nodes.get(&id(node)) else {
        panic!("{node} is not refused: {explanation:#?}");
    };
    assert_eq!((reason.rule(), reason.to_string().as_str()), (rule, says));
}

#[test]
fn comparisons_and_pins_choose_nodes() {
    let mut world = zones();
    world.put(placed("big", 4, "{require: [cores >= 20]}"));
    world.put(placed("here", 2, "{node: n3}"));
    world.settle(None);
    check_by(&world, "big", "node", &[("n5", 2), ("n6", 2)]);
    check_by(&world, "here", "node", &[("n3", 2)]);
    check_refused(&world, "big.0", "n1", "require", "its label cores is \"4\"; required: cores >= 20");
    check_refused(&world, "here.0", "n1", "node", "is not n3, the node that is asked for");
    world.put(placed("here", 2, "{node: n4}"));
    world.settle(None);
    check_by(&world, "here", "node", &[("n4", 2)]);
}

#[test]
fn replicas_are_spread_over_zones_and_the_rest_waits_where_that_is_hard() {
    let mut world = zones();
    // One zone has less room than its share.
    world.session("n1").capacity.slots = 1;
    world.session("n2").capacity.slots = 0;
    world.put(placed("soft", 7, "{spread: [{over: zone}]}"));
    world.settle(None);
    check_by(&world, "soft", "zone", &[("a", 1), ("b", 3), ("c", 3)]);

    let mut world = zones();
    world.session("n1").capacity.slots = 1;
    world.session("n2").capacity.slots = 0;
    world.put(placed("hard", 7, "{spread: [{over: zone, hard: true}]}"));
    world.settle(None);
    check_by(&world, "hard", "zone", &[("a", 1), ("b", 2), ("c", 2)]);
    check_refused(&world, "hard.5", "n3", "spread", "2 are in zone b already; at most 2 for an even spread over zone");
    world.put(placed("hard", 7, "{spread: [{over: zone, hard: true, max-skew: 2}]}"));
    world.settle(None);
    check_by(&world, "hard", "zone", &[("a", 1), ("b", 3), ("c", 3)]);
    // A zone in which nothing may be placed holds nobody back.
    world.put(placed("other", 6, "{spread: [{over: zone, hard: true}], require: ['zone in (b, c)']}"));
    world.settle(None);
    check_by(&world, "other", "zone", &[("b", 3), ("c", 3)]);
}

#[test]
fn replicas_are_spread_over_as_many_values_as_there_are_nodes() {
    let mut world = World::new();
    for number in 0..400 {
        world.node(&format!("n{number}"), number).capacity.slots = 2;
    }
    world.put(placed("w", 700, "{spread: [{over: node, hard: true}]}"));
    // One node is full: the others may have one more than it has, and what is left waits.
    world.session("n7").capacity.slots = 0;
    let me = world.members().into_iter().next().unwrap();
    assert_eq!(claimable(&world.view).len(), 399);
    assert!(plan(&world.view, &me, SETTLED).actions.len() <= 2);
    world.session("n7").capacity.slots = 2;
    assert_eq!(claimable(&world.view).len(), 700);
}

#[test]
fn shares_divide_the_replicas() {
    let mut world = zones();
    world.put(placed("w", 10, "{spread: [{over: zone, shares: {a: 80, b: 20}}]}"));
    world.settle(None);
    check_by(&world, "w", "zone", &[("a", 8), ("b", 2)]);
    world.put(placed("w", 3, "{spread: [{over: zone, shares: {a: 80, b: 20}}]}"));
    world.settle(None);
    world.put(placed("v", 4, "{spread: [{over: zone, hard: true, shares: {b: 50, c: 50, nowhere: 100}}]}"));
    world.settle(None);
    check_by(&world, "v", "zone", &[("b", 2), ("c", 2)]);
    check_refused(
        &world,
        "v.0",
        "n1",
        "spread",
        "no replica is to be in zone a: the spread over zone gives it no share",
    );
    // Without room for a share, a soft one goes elsewhere.
    let mut world = zones();
    world.session("n1").capacity.slots = 1;
    world.session("n2").capacity.slots = 1;
    world.put(placed("w", 10, "{spread: [{over: zone, shares: {a: 80, b: 20}}]}"));
    world.settle(None);
    assert_eq!(by(&world, "w", "zone").iter().map(|(_, count)| count).sum::<u32>(), 10);
    assert_eq!(by(&world, "w", "zone")[0], ("a".to_owned(), 2));
}

#[test]
fn preferences_come_before_an_even_spread_over_nodes() {
    let mut world = zones();
    world.put(placed("w", 12, "{prefer: [{label: zone == a, weight: 10}, {label: cores > 20}]}"));
    world.settle(None);
    check_by(&world, "w", "node", &[("n1", 6), ("n2", 6)]);
    world.put(placed("v", 12, "{prefer: [{label: zone == a}], spread: [{over: zone}]}"));
    world.settle(None);
    check_by(&world, "v", "zone", &[("a", 4), ("b", 4), ("c", 4)]);
    let explanation = explain(&world.view, &slot("w.0"));
    let missed = |node: &str| match explanation.nodes.get(&id(node)) {
        Some(Standing::Rank(_, Some(score))) => score.missed,
        other => panic!("{other:?}"),
    };
    assert_eq!((missed("n1"), missed("n3"), missed("n6")), (1, 11, 10));
}

#[test]
fn workloads_stay_near_and_apart() {
    let mut world = zones();
    world.put(placed("cache", 1, "{node: n3}"));
    world.settle(None);
    world.put(placed("a-web", 3, "{near: [{workload: cache, hard: true}]}"));
    world.put(placed("b-web", 3, "{near: [{workload: cache, over: zone, hard: true}]}"));
    world.put(placed("c-web", 2, "{near: [{workload: cache, over: zone}], apart: [{workload: cache, weight: 3}]}"));
    world.put(placed("d-web", 4, "{apart: [{workload: cache, over: zone, hard: true}]}"));
    world.settle(None);
    check_by(&world, "a-web", "node", &[("n3", 3)]);
    check_by(&world, "b-web", "zone", &[("b", 3)]);
    check_by(&world, "c-web", "node", &[("n4", 2)]);
    check_by(&world, "d-web", "zone", &[("a", 2), ("c", 2)]);
    check_refused(&world, "a-web.0", "n4", "near", "no replica of cache is on this node");
    check_refused(&world, "d-web.0", "n4", "apart", "a replica of cache is in zone b");
    // The other way round: who is to be kept away from keeps away.
    world.put(placed("cache", 2, "{require: ['zone in (b, c)']}"));
    world.settle(None);
    assert_eq!(by(&world, "cache", "zone"), [("b".to_owned(), 2)]);

    let mut world = zones();
    world.put(placed("w", 5, "{apart: [{workload: w, over: zone, hard: true}]}"));
    world.put(placed("v", 5, "{near: [{workload: v, over: zone, hard: true}]}"));
    world.settle(None);
    check_by(&world, "w", "zone", &[("a", 1), ("b", 1), ("c", 1)]);
    assert_eq!(by(&world, "v", "zone").len(), 1);
    assert_eq!(claimable(&world.view).len(), 0);
}

#[test]
fn taints_and_cordons_keep_away_what_is_new() {
    let mut world = zones();
    for node in ["n1", "n2", "n3"] {
        world.session(node).taints = vec!["gpu=a100:no-place".parse().unwrap()];
    }
    world.cordon("n4", true);
    world.put(placed("w", 4, "{}"));
    world.put(placed("v", 4, "{tolerate: [gpu], require: [zone == b]}"));
    world.settle(None);
    check_by(&world, "w", "node", &[("n5", 2), ("n6", 2)]);
    check_by(&world, "v", "node", &[("n3", 4)]);
    check_refused(&world, "w.0", "n1", "taint", "has the taint gpu=a100:no-place, which is not tolerated");
    check_refused(&world, "w.0", "n4", "cordon", "is cordoned");

    // What is there stays and comes back; only no-run makes it leave.
    world.cordon("n6", true);
    world.session("n5").taints = vec!["old:no-place".parse().unwrap()];
    let before = world.holders();
    world.step(&Step::Restart(4));
    world.settle(None);
    assert_eq!(world.holders(), before);
    world.cordon("n4", false);
    world.session("n5").taints = vec!["old:no-run".parse().unwrap()];
    world.settle(None);
    check_by(&world, "w", "node", &[("n4", 2), ("n6", 2)]);
}

#[test]
fn a_daemon_is_on_each_node_once() {
    let mut world = zones();
    world.session("n1").taints = vec!["gpu:no-place".parse().unwrap()];
    world.put(placed("agent", 1, "{daemon: true, require: [zone != c]}"));
    world.settle(None);
    check_by(&world, "agent", "node", &[("n2", 1), ("n3", 1), ("n4", 1)]);
    world.put(placed("agent", 1, "{daemon: true, tolerate: ['*']}"));
    world.settle(None);
    let all: Vec<String> = (1..=6).map(|number| format!("n{number}")).collect();
    let each: Vec<(&str, u32)> = all.iter().map(|node| (node.as_str(), 1)).collect();
    check_by(&world, "agent", "node", &each);
    let before = world.holders();
    // A node that is gone takes its replica with it; nothing else moves.
    world.view.sessions.remove(&id("n2"));
    world.settle(None);
    let expected: BTreeMap<SlotId, NodeId> = before.iter().filter(|(_, node)| **node != id("n2")).map(own).collect();
    assert_eq!(world.holders(), expected);
    assert_eq!(wanted(&world.view, &name("agent")).len(), 5);
    world.node("n2", 77).capacity = Capacity { slots: 1, memory: 1000 << 20, millicores: 0 };
    world.settle(None);
    assert_eq!(world.holders(), before, "its old number is free");
    world.step(&Step::Restart(2));
    world.settle(None);
    assert_eq!(world.holders(), before);
    world.put(placed("agent", 1, "{daemon: true, require: [zone == a], tolerate: [gpu]}"));
    world.settle(None);
    check_by(&world, "agent", "node", &[("n1", 1), ("n2", 1)]);
    world.put(placed("agent", 3, "{}"));
    world.settle(None);
    assert_eq!(world.holders().len(), 3);
}

fn own((slot, node): (&SlotId, &NodeId)) -> (SlotId, NodeId) {
    (slot.clone(), node.clone())
}

#[test]
fn what_is_more_important_displaces_as_little_as_it_can() {
    let mut world = World::new();
    world.node("n1", 1).capacity = Capacity { slots: 10, memory: 500 << 20, millicores: 0 };
    world.put(placed("low", 2, "{priority: -5}"));
    world.put(placed("mid", 3, "{}"));
    world.settle(None);
    world.put(placed("high", 1, "{priority: 10}"));
    check(
        "the lowest goes, the last of them",
        SETTLED,
        &world,
        &[
            "release, stop low.1 for high.0",
            "run low.0 g1",
            "run low.1 g1",
            "run mid.0 g1",
            "run mid.1 g1",
            "run mid.2 g1",
        ],
    );
    let explained = explain(&world.view, &slot("high.0"));
    assert_eq!((explained.first(), &explained.displaces), (None, &vec![slot("low.1")]));
    world.settle(None);
    assert_eq!(world.view.slots_of(&name("high")).count(), 1);
    assert_eq!(
        (by(&world, "low", "node"), by(&world, "mid", "node")),
        (vec![("n1".into(), 1)], vec![("n1".into(), 3)])
    );

    // Larger than one of them: what made room in vain stays.
    let mut large = placed("large", 1, "{priority: 10}");
    large.limits.memory = Bytes::mib(200);
    world.put(large);
    world.settle(None);
    assert_eq!((by(&world, "low", "node"), by(&world, "mid", "node")), (vec![], vec![("n1".into(), 2)]));
    // Nothing is displaced by its equals, nor in vain.
    world.put(placed("equal", 3, "{priority: 0}"));
    let mut huge = placed("huge", 1, "{priority: 100}");
    huge.limits.memory = Bytes::mib(501);
    world.put(huge);
    let before = world.holders();
    world.settle(None);
    assert_eq!(world.holders(), before);
    // A strict replica stops before it is given up.
    let mut world = one();
    world.session("n1").capacity.slots = 1;
    world.put(WorkloadSpec { class: Class::Strict, ..placed("w", 1, "{}") });
    world.settle(None);
    world.put(placed("high", 1, "{priority: 1}"));
    check("strict", SETTLED, &world, &["stop, release w.0 for high.0", "run w.0 g2"]);
    world.settle(None);
    assert_eq!(world.holders().into_keys().collect::<Vec<_>>(), [slot("high.0")]);
}

#[test]
fn what_may_not_be_missed_is_displaced_only_where_nothing_else_can_be() {
    let guarded = |text: &str, most: u32| {
        let disruption = DisruptionSpec { max_unavailable: Portion::Count(most) };
        WorkloadSpec { disruption, ..placed("first", 1, text) }
    };
    for (most, node, victim) in [(1, "", "first.0"), (0, "", "second.0"), (0, ", node: n1", "first.0")] {
        let mut world = World::new();
        for number in 1..=2 {
            world.node(&format!("n{number}"), number).capacity.slots = 1;
        }
        world.put(guarded("{priority: -2, node: n1}", most));
        world.put(placed("second", 1, "{priority: -1, node: n2}"));
        world.settle(None);
        world.put(placed("high", 1, &format!("{{priority: 1{node}}}")));
        assert_eq!(explain(&world.view, &slot("high.0")).displaces, [slot(victim)], "{most} {node}");
    }
}

#[test]
fn while_a_node_settles_it_displaces_nothing() {
    let mut world = one();
    world.session("n1").capacity.slots = 1;
    world.settle(None);
    world.put(placed("high", 1, "{priority: 1}"));
    check("what seems missing may come back", SETTLING, &world, &["run w.0 g1"]);
    check("… and later it does not", SETTLED, &world, &["release, stop w.0 for high.0", "run w.0 g1"]);
}

#[test]
fn what_a_slot_must_be_near_does_not_make_room_for_it() {
    let mut world = one();
    world.session("n1").capacity.slots = 1;
    world.put(placed("cache", 1, "{priority: -1}"));
    world.view.specs.remove(&name("w"));
    world.settle(None);
    world.put(placed("web", 1, "{near: [{workload: cache, hard: true}], priority: 5}"));
    check("without it there would be no place at all", SETTLED, &world, &["run cache.0 g1"]);
    // What is beside it may go.
    world.view.specs.remove(&name("web"));
    world.session("n1").capacity.slots = 2;
    world.put(placed("other", 1, "{priority: -1}"));
    world.settle(None);
    world.put(placed("web", 1, "{near: [{workload: cache, hard: true}], priority: 5}"));
    world.settle(None);
    assert_eq!(world.holders().into_keys().collect::<Vec<_>>(), [slot("cache.0"), slot("web.0")]);
}

#[test]
fn hopeless_vacancies_do_not_keep_others_from_displacing() {
    let mut world = one();
    world.session("n1").capacity.slots = 1;
    world.settle(None);
    for number in 0..20 {
        let mut huge = placed(&format!("huge-{number}"), 3, "{priority: 100}");
        huge.limits.memory = Bytes::mib(5000);
        world.put(huge);
    }
    world.put(placed("high", 1, "{priority: 1}"));
    check("high", SETTLED, &world, &["release, stop w.0 for high.0", "run w.0 g1"]);

    // A daemon asks each node for itself: that one has too little does not speak for the others.
    let mut world = zones();
    for number in 1..=6 {
        world.session(&format!("n{number}")).capacity =
            Capacity { slots: 1, memory: if number == 2 { 500 << 20 } else { 50 << 20 }, millicores: 0 };
    }
    world.put(placed("low", 1, "{}"));
    world.settle(None);
    check_by(&world, "low", "node", &[("n2", 1)]);
    world.put(placed("agent", 1, "{daemon: true, priority: 1}"));
    world.settle(None);
    check_by(&world, "agent", "node", &[("n2", 1)]);
}

#[test]
fn a_node_on_which_a_replica_failed_comes_last() {
    let mut world = zones();
    world.put(placed("w", 1, "{}"));
    world.settle(None);
    let bad = world.holders()[&slot("w.0")].clone();
    world.put(placed("w", 6, "{}"));
    let life = world.view.sessions[&bad].record.incarnation.as_u128();
    world.hold("w.0", bad.as_str(), life, Phase::Failed).generation = Generation(2);
    let plan = |world: &World| claimable(&world.view).len();
    assert_eq!(plan(&world), 5);
    for index in 1..6 {
        let explained = explain(&world.view, &slot(&format!("w.{index}")));
        assert_eq!(explained.nodes.len(), 6);
        let Some(Standing::Rank(rank, Some(score))) = explained.nodes.get(&bad) else { panic!("{explained:?}") };
        assert_eq!((*rank, score.failed), (5, true));
    }
}

impl World {
    fn cordon(&mut self, node: &str, cordoned: bool) {
        let revision = self.next();
        let record = NodeOrder { node: id(node), cordoned, drain: None };
        self.view.orders.insert(id(node), Versioned { record, revision });
    }
}

#[derive(Debug, Clone)]
enum Event {
    Step(Step),
    Place {
        workload: usize,
        replicas: u32,
        strict: bool,
        placement: usize,
        claim: usize,
    },
    /// A node that has no GPU gets some, or those that it has begin to fail, or are well again.
    Gpus(usize, usize, bool),
    Cordon(usize, bool),
    Drain(usize, bool),
    Taint(usize, bool),
    Rack(usize, bool),
    /// A node has compiled what workloads run, or has it no more.
    Compile(usize, bool),
    Corrupt(usize, bool),
    /// All nodes act once.
    Act,
}

const PLACEMENTS: [&str; 16] = [
    "{}",
    "{require: [zone == a]}",
    "{prefer: [{label: zone == b, weight: 3}]}",
    "{spread: [{over: zone}]}",
    "{spread: [{over: zone, hard: true}]}",
    "{spread: [{over: zone, shares: {a: 70, b: 30}}]}",
    "{near: [{workload: a, hard: true}]}",
    "{near: [{workload: b, over: zone}]}",
    "{apart: [{workload: a, hard: true}]}",
    "{apart: [{workload: c, over: zone, hard: true}], priority: 2}",
    "{daemon: true}",
    "{daemon: true, tolerate: ['*'], priority: 1}",
    "{priority: 5}",
    "{tolerate: [gpu], priority: -5}",
    "{near: [{workload: b, hard: true}], priority: 4}",
    "{spread: [{over: node, hard: true}], priority: 3}",
];

fn event() -> impl Strategy<Value = Event> {
    let (node, workload) = (0..NODES.len(), 0..WORKLOADS.len());
    prop_oneof![
        6 => step().prop_map(Event::Step),
        6 => (workload, 0u32..6, any::<bool>(), 0..PLACEMENTS.len(), 0..2 * gpus::CLAIMS.len()).prop_map(
            |(workload, replicas, strict, placement, claim)| {
                let claim = claim % gpus::CLAIMS.len();
                Event::Place { workload, replicas, strict, placement, claim }
            }
        ),
        3 => (node.clone(), 0..3usize, any::<bool>()).prop_map(|(node, kind, fails)| Event::Gpus(node, kind, fails)),
        1 => (node.clone(), any::<bool>()).prop_map(|(node, on)| Event::Cordon(node, on)),
        1 => (node.clone(), any::<bool>()).prop_map(|(node, on)| Event::Drain(node, on)),
        1 => (node.clone(), any::<bool>()).prop_map(|(node, on)| Event::Taint(node, on)),
        1 => (node.clone(), any::<bool>()).prop_map(|(node, on)| Event::Rack(node, on)),
        1 => (node.clone(), any::<bool>()).prop_map(|(node, on)| Event::Compile(node, on)),
        1 => (node, any::<bool>()).prop_map(|(node, on)| Event::Corrupt(node, on)),
        4 => Just(Event::Act),
    ]
}

impl World {
    fn happens(&mut self, event: &Event) {
        match event {
            Event::Step(step) => self.step(step),
            Event::Place { workload, replicas, strict, placement, claim } => {
                let class = if *strict { Class::Strict } else { Class::Available };
                let (volumes, reserve) = (volumes(*workload), reserve(*workload));
                let spec = placed(WORKLOADS[*workload], *replicas, PLACEMENTS[*placement]);
                self.put(WorkloadSpec { class, volumes, reserve, gpu: gpus::claim(*claim), ..spec });
            }
            Event::Gpus(node, kind, fails) => self.rewrite(NODES[*node], |session| {
                if session.gpus.is_empty() {
                    session.gpus = gpus::offers(*kind);
                } else {
                    let why = fails.then(|| "devices were lost".to_owned());
                    session.gpus.iter_mut().for_each(|offer| offer.failing.clone_from(&why));
                }
            }),
            Event::Cordon(node, on) => self.cordon(NODES[*node], *on),
            Event::Drain(node, on) => self.drain(NODES[*node], *on),
            Event::Taint(node, on) => {
                let taints = on.then(|| "gpu:no-run".parse().unwrap()).into_iter().collect();
                self.rewrite(NODES[*node], |session| session.taints = taints);
            }
            Event::Rack(node, on) => {
                let zone = if *on { "c" } else { "a" };
                self.rewrite(NODES[*node], |session| drop(session.labels.insert("zone".into(), zone.into())));
            }
            Event::Compile(node, on) => {
                let marks = on.then(|| lattice::id::Digest::of(b"").mark());
                self.rewrite(NODES[*node], |session| session.compiled = Compiled::new(marks));
            }
            Event::Corrupt(node, on) => {
                let key = format!("session.{}", NODES[*node]);
                if *on {
                    self.corrupt(&key);
                } else {
                    self.view.corrupt.remove(&key);
                }
            }
            Event::Act => {
                for me in self.members() {
                    for action in plan(&self.view, &me, SETTLED).actions {
                        self.act(&me, &action);
                    }
                }
            }
        }
    }

    fn rewrite(&mut self, node: &str, edit: impl FnOnce(&mut Session)) {
        let revision = self.next();
        if let Some(session) = self.view.sessions.get_mut(&id(node)) {
            edit(&mut session.record);
            session.revision = revision;
        }
    }
}

proptest! {
    #[test]
    fn plans_from_view_to_view_are_those_from_the_view_alone(
        events in proptest::collection::vec((event(), any::<bool>()), 1..60)
    ) {
        let mut world = World::new();
        let mut planner = Planner::default();
        for (event, look) in &events {
            world.happens(event);
            if !look {
                continue;
            }
            let view = Arc::new(world.view.clone());
            for me in world.members() {
                for situation in [SETTLED, SETTLING] {
                    prop_assert_eq!(planner.plan(&view, &me, situation), plan(&view, &me, situation));
                }
            }
        }
    }

    #[test]
    fn with_all_rules_nodes_come_to_rest_within_capacity(
        events in proptest::collection::vec(event(), 1..30), seed in any::<Option<u64>>()
    ) {
        let mut world = World::new();
        for event in events.iter().filter(|event| !matches!(event, Event::Corrupt(..))) {
            world.happens(event);
        }
        if !world.view.sessions.is_empty() {
            world.settle(seed);
            prop_assert_eq!(claimable(&world.view).len(), 0);
            world.check_rules();
        }
    }

    #[test]
    fn with_all_rules_every_vacant_slot_has_one_first_node_at_most(events in proptest::collection::vec(event(), 1..30)) {
        let mut world = World::new();
        for event in &events {
            world.happens(event);
        }
        let mut first = BTreeMap::<SlotId, u32>::new();
        let mut ranks = BTreeMap::<(SlotId, u32), u32>::new();
        for me in world.members() {
            for action in plan(&world.view, &me, SETTLED).actions {
                if let Action::Claim { slot, rank, .. } = action {
                    *first.entry(slot.clone()).or_default() += u32::from(rank == 0);
                    *ranks.entry((slot, rank)).or_default() += 1;
                }
            }
        }
        prop_assert!(first.values().all(|count| *count == 1), "{:?}", first);
        prop_assert!(ranks.values().all(|count| *count == 1), "{:?}", ranks);
    }
}

impl World {
    /// What no rest may break: rules about a node alone.
    fn check_rules(&self) {
        for (slot, held) in &self.view.slots {
            let Some(session) = self.view.live(&held.record.holder) else { continue };
            let Placement { require, tolerate, daemon, .. } = &self.view.specs[&slot.workload].record.spec.placement;
            if session.draining || self.view.drain(&session.node).is_some() {
                continue; // nobody else could take it
            }
            let alternatives = claimable(&self.view).contains(slot);
            let is_kept = require.iter().all(|requirement| requirement.holds(&session.labels))
                && session.taints.iter().all(|taint| tolerate.iter().any(|toleration| toleration.covers(taint)));
            assert!(is_kept || !alternatives, "{slot} is on {} against its rules", session.node);
            if *daemon {
                let same = |(other, record): &(&SlotId, &Versioned<Slot>)| {
                    other.workload == slot.workload && record.record.holder == held.record.holder
                };
                assert_eq!(self.view.slots.iter().filter(same).count(), 1, "{slot}");
            }
        }
    }
}
