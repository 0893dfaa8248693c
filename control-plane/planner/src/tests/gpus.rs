//! Claims on GPUs: which node has one, what it is worth, and that none is given away twice.

use super::*;
use crate::Standing;
use lattice::{
    gpu::{GpuClass, GpuGrant, GpuUse, Offer},
    id::GpuId,
    spec::GpuSpec,
};
use serde_json::json;

/// A discrete GPU with 4 GiB and 4 slots, but for what is said.
pub(super) fn offer(offer_id: &str, more: serde_json::Value) -> Offer {
    let mut offer = json!({
        "id": offer_id, "name": "", "class": "discrete", "backend": "vulkan", "memory": {"total": 4_u64 << 30}, "slots": 4,
        "speed": {"gemm-gflops": 1000}
    });
    offer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(offer).unwrap()
}

fn claiming(workload: &str, replicas: u32, gpu: serde_json::Value) -> WorkloadSpec {
    let gpu: GpuSpec = serde_json::from_value(gpu).unwrap();
    WorkloadSpec { gpu: Some(gpu), ..spec(workload, replicas) }
}

/// Nodes `n1` to `n3`, of which the last has no GPU.
fn three() -> World {
    let mut world = World::new();
    world.node("n1", 1).gpus = vec![offer("a", json!({}))];
    world.node("n2", 2).gpus = vec![offer("b", json!({"class": "integrated", "speed": {"gemm-gflops": 20}}))];
    world.node("n3", 3);
    world
}

fn grant(offer: &str, mib: u64, slots: u32) -> Option<GpuGrant> {
    Some(GpuGrant { offer: GpuId::new(offer).unwrap(), memory: mib << 20, slots })
}

impl World {
    fn gpu_of(&self, slot_id: &str) -> Option<GpuGrant> {
        self.view.slots.get(&slot(slot_id))?.record.gpu.clone()
    }
    fn refused(&self, slot_id: &str, node: &str) -> (&'static str, String) {
        let explanation = explain(&self.view, &slot(slot_id));
        match explanation.nodes.get(&id(node)) {
            Some(Standing::Refused(reason)) => (reason.rule(), reason.to_string()),
            standing => panic!("{node} is not refused: {standing:?}"),
        }
    }
    /// What living holders hold of each offer, with those that hand over.
    pub(super) fn check_gpus(&self) {
        let mut held: BTreeMap<(&NodeId, &GpuId), GpuUse> = BTreeMap::new();
        for record in self.view.slots.values().map(|slot| &slot.record) {
            let old =
                record.handover_from.as_ref().filter(|old| **old != record.holder && record.phase != Phase::Ready);
            for (holder, grant) in [(Some(&record.holder), &record.gpu), (old, &record.handover_gpu)] {
                let Some((holder, grant)) = holder.zip(grant.as_ref()) else { continue };
                if self.view.live(holder).is_some() {
                    let all = held.entry((&holder.node, &grant.offer)).or_default();
                    *all = all.plus(grant);
                }
            }
        }
        for ((node, offer), all) in held {
            let offers = &self.view.sessions[node].record.gpus;
            // Of what is gone nothing can be given twice.
            let is_kept = offers.iter().filter(|of| of.id == *offer).all(|of| all.fits(of));
            assert!(is_kept, "{all:?} of {offer} on {node}: {offers:?}");
        }
    }
}

#[test]
fn what_asks_for_a_gpu_goes_where_one_is_and_says_why_nowhere_else() {
    let mut world = three();
    world.put(claiming("w", 1, json!({"memory": "3GiB"})));
    world.settle(None);
    assert_eq!(world.holders()[&slot("w.0")], id("n1"), "it is faster");
    assert_eq!(world.gpu_of("w.0"), grant("a", 3072, 1));
    assert_eq!(world.refused("w.0", "n3"), ("gpu", "offers no GPU".into()));

    world.put(claiming("x", 1, json!({"memory": "3GiB", "class": ["discrete"]})));
    world.settle(None);
    assert!(!world.view.slots.contains_key(&slot("x.0")));
    assert_eq!(world.refused("x.0", "n1"), ("gpu-memory", "gpu-memory: free 1 GiB < 3 GiB (of 4 GiB) on a".into()));
    assert_eq!(world.refused("x.0", "n2"), ("gpu-class", "gpu-class: integrated is none of discrete on b".into()));
    world.put(claiming("y", 1, json!({"features": ["subgroups"]})));
    assert_eq!(world.refused("y.0", "n1"), ("gpu-features", "gpu-features: it lacks subgroups on a".into()));
    world.session("n1").gpus.push(offer("c", json!({"features": ["subgroups"], "failing": "2 devices were lost"})));
    let both = "gpu-health: 2 devices were lost on c; gpu-features: it lacks subgroups on a";
    assert_eq!(world.refused("y.0", "n1"), ("gpu-health", both.into()));
    // What asks for none goes anywhere.
    world.put(spec("z", 3));
    world.settle(None);
    assert_eq!(world.view.slots_of(&name("z")).count(), 3);
}

#[test]
fn slots_are_shared_and_never_given_twice() {
    let mut world = three();
    world.session("n1").capacity.slots = 20;
    world.session("n2").capacity.slots = 20;
    world.put(claiming("w", 12, json!({"memory": "64MiB"})));
    world.settle(None);
    assert_eq!(world.view.slots.len(), 8, "four on each");
    let waits = (0..12).map(|i| format!("w.{i}")).find(|id| !world.view.slots.contains_key(&slot(id))).unwrap();
    assert_eq!(world.refused(&waits, "n2"), ("gpu-slots", "gpu-slots: free 0 < 1 (of 4) on b".into()));
    world.put(claiming("alone", 1, json!({"memory": "64MiB", "exclusive": true})));
    world.settle(None);
    assert_eq!(world.refused("alone.0", "n1"), ("gpu-slots", "gpu-slots: free 0 < 4 (of 4) on a".into()));
    world.put(claiming("w", 4, json!({"memory": "64MiB"})));
    world.settle(None);
    world.put(claiming("w", 1, json!({"memory": "64MiB"})));
    world.settle(None);
    assert_eq!(world.gpu_of("alone.0").map(|grant| grant.slots), Some(4));
}

#[test]
fn the_first_claim_that_can_be_had_counts_and_a_processor_comes_last() {
    let mut world = World::new();
    world.node("n1", 1).gpus = vec![offer("cpu", json!({"class": "cpu", "speed": {"gemm-gflops": 5000}}))];
    world.node("n2", 2).gpus = vec![offer("small", json!({"memory": {"total": 1_u64 << 30}, "slots": 1}))];
    world.node("n3", 3).gpus = vec![offer("large", json!({"slots": 1}))];
    let claim = json!({"any": [{"memory": "2GiB"}, {"memory": "512MiB"}], "cpu": "fallback"});
    world.put(claiming("w", 3, claim.clone()));
    world.settle(None);
    let held: Vec<_> = (0..3).map(|i| world.gpu_of(&format!("w.{i}"))).collect();
    assert_eq!(held, [grant("large", 2048, 1), grant("small", 512, 1), grant("cpu", 2048, 1)]);
    let never = json!({"any": [{"memory": "2GiB"}, {"memory": "512MiB"}]});
    world.put(claiming("x", 1, never));
    let says = "gpu-class: it is a cpu, and the claim has no `cpu: fallback` on cpu";
    assert_eq!(world.refused("x.0", "n1"), ("gpu-class", says.into()));
    // When there is a GPU again, it is better: for the one that waits, and for one of those that are elsewhere.
    world.node("n4", 4).gpus = vec![offer("new", json!({}))];
    let better = crate::better_places(&world.view, None);
    let told: Vec<String> =
        better.iter().map(|better| format!("{} {} {}", better.slot, better.to, better.by)).collect();
    assert_eq!(told, ["w.1 n4 gpu", "w.2 n2 gpu"]);
}

#[test]
fn the_fastest_is_taken_and_of_equal_ones_the_fullest() {
    let mut world = World::new();
    let node = |world: &mut World, number: u128, gpus| {
        let session = world.node(&format!("n{number}"), number);
        (session.gpus, session.capacity.slots) = (gpus, 8);
    };
    node(&mut world, 1, vec![offer("slow", json!({"speed": {"gemm-gflops": 100}}))]);
    let equal = |id: &str, gib: u64| offer(id, json!({"memory": {"total": gib << 30}, "speed": {"gemm-gflops": 1020}}));
    node(&mut world, 2, vec![equal("large", 16), equal("middle", 4), equal("small", 2)]);
    for (workload, memory, expected) in
        [("a", "1GiB", "small"), ("b", "3GiB", "middle"), ("c", "1GiB", "middle"), ("d", "8GiB", "large")]
    {
        world.put(claiming(workload, 1, json!({ "memory": memory })));
        world.settle(None);
        let held = world.gpu_of(&format!("{workload}.0")).unwrap();
        assert_eq!(held.offer.as_str(), expected, "{workload}");
    }
    let scores = explain(&world.view, &slot("d.0"));
    let Some(Standing::Rank(_, Some(score))) = scores.nodes.get(&id("n2")) else { panic!("{scores:?}") };
    assert_eq!((score.choice, score.gpu.left), (0, 8 << 30));
}

#[test]
fn what_is_more_important_takes_the_gpu_of_what_is_less_so_and_nothing_else() {
    let mut world = World::new();
    let session = world.node("n1", 1);
    (session.gpus, session.capacity.slots) = (vec![offer("a", json!({"slots": 1}))], 8);
    world.put(WorkloadSpec { ..spec("bystander", 2) });
    world.put(claiming("low", 1, json!({})));
    world.settle(None);
    let mut high = claiming("high", 1, json!({}));
    high.placement.priority = 5;
    world.put(high);
    assert_eq!(explain(&world.view, &slot("high.0")).displaces, [slot("low.0")]);
    world.settle(None);
    assert_eq!(world.gpu_of("high.0"), grant("a", 256, 1));
    assert_eq!(world.view.slots_of(&name("bystander")).count(), 2);
    assert_eq!(world.refused("low.0", "n1").0, "gpu-slots");
    // One that can't be had by displacing displaces nobody.
    let mut much = claiming("much", 1, json!({"memory": "5GiB"}));
    much.placement.priority = 9;
    world.put(much);
    assert_eq!(explain(&world.view, &slot("much.0")).displaces, []);
}

#[test]
fn what_is_on_a_failing_gpu_moves_where_there_is_room_and_stays_where_there_is_none() {
    let mut world = three();
    world.put(claiming("w", 1, json!({})));
    world.settle(None);
    let fails = |world: &mut World, node: &str, why: Option<&str>| {
        world.session(node).gpus.iter_mut().for_each(|offer| offer.failing = why.map(str::to_owned));
        world.settle(None);
    };
    fails(&mut world, "n1", Some("it adds vectors wrongly"));
    assert_eq!(world.holders()[&slot("w.0")], id("n2"));
    world.put(claiming("w", 2, json!({})));
    world.settle(None);
    assert_eq!(world.holders()[&slot("w.1")], id("n2"), "nothing new comes to it");
    assert_eq!(world.refused("w.1", "n1"), ("gpu-health", "gpu-health: it adds vectors wrongly on a".into()));
    fails(&mut world, "n2", Some("the driver is gone"));
    assert_eq!(world.holders()[&slot("w.0")], id("n2"), "better there than nowhere");
    fails(&mut world, "n1", None);
    assert_eq!(world.holders()[&slot("w.0")], id("n1"));
    assert_eq!(world.holders()[&slot("w.1")], id("n1"));
    fails(&mut world, "n2", None);
    world.session("n1").gpus.clear();
    world.settle(None);
    assert_eq!(world.holders()[&slot("w.0")], id("n2"), "and from one that is gone");
}

#[test]
fn a_node_with_two_gpus_moves_what_is_on_the_failing_one_to_the_other() {
    let mut world = World::new();
    world.node("n1", 1).gpus =
        vec![offer("a", json!({})), offer("b", json!({"speed": {"gemm-gflops": 20}, "slots": 1}))];
    world.put(claiming("w", 2, json!({})));
    world.settle(None);
    assert_eq!((world.gpu_of("w.0"), world.gpu_of("w.1")), (grant("a", 256, 1), grant("a", 256, 1)));
    world.session("n1").gpus[0].failing = Some("the driver is gone".into());
    world.settle(None);
    let mut held = [world.gpu_of("w.0"), world.gpu_of("w.1")];
    held.sort();
    assert_eq!(held, [grant("a", 256, 1), grant("b", 256, 1)], "one has room, the other goes on");
}

#[test]
fn while_a_replica_is_handed_over_both_hold_what_they_use() {
    let mut world = three();
    world.put(claiming("w", 1, json!({"exclusive": true})));
    world.settle(None);
    world.session("n1").draining = true;
    let me = Me { node: id("n2"), incarnation: life(2) };
    let claim = plan(&world.view, &me, SETTLED).actions.remove(0);
    world.act(&me, &claim);
    let record = world.view.slots.get(&slot("w.0")).unwrap().record.clone();
    assert_eq!((record.gpu, record.handover_gpu), (grant("b", 256, 4), grant("a", 256, 4)));
    let old = plan(&world.view, &Me { node: id("n1"), incarnation: life(1) }, SETTLED).assignments;
    assert_eq!(old[&slot("w.0")].gpu, grant("a", 256, 4), "it goes on with what it has");
    // Nobody else gets it meanwhile.
    world.session("n1").draining = false;
    world.put(claiming("x", 1, json!({})));
    assert_eq!(world.refused("x.0", "n1").0, "gpu-slots");
}

#[test]
fn a_changed_claim_is_written_before_it_is_acted_on() {
    let mut world = three();
    world.put(claiming("w", 1, json!({})));
    world.settle(None);
    let me = Me { node: id("n1"), incarnation: life(1) };
    world.put(claiming("w", 1, json!({"memory": "1GiB"})));
    let Plan { actions, assignments, .. } = plan(&world.view, &me, SETTLED);
    let [Action::Regrant { gpu, .. }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(*gpu, grant("a", 1024, 1));
    let assigned = &assignments[&slot("w.0")];
    assert_eq!((assigned.waits, &assigned.gpu), (true, &grant("a", 256, 1)));
    world.act(&me, &actions[0]);
    let Plan { actions, assignments, .. } = plan(&world.view, &me, SETTLED);
    let assigned = &assignments[&slot("w.0")];
    assert_eq!((assigned.waits, assigned.stop_first, &assigned.gpu), (false, true, &grant("a", 1024, 1)));
    assert_eq!(actions, []);
    // What asks for nothing any more lets go.
    world.put(spec("w", 1));
    world.settle(None);
    assert_eq!(world.gpu_of("w.0"), None);
}

#[test]
fn what_finds_no_room_for_its_new_claim_goes_elsewhere() {
    let mut world = three();
    world.put(claiming("w", 1, json!({"memory": "2GiB"})));
    world.put(claiming("x", 1, json!({"memory": "2GiB", "class": ["discrete"]})));
    world.settle(None);
    assert_eq!((world.holders()[&slot("w.0")].as_str(), world.holders()[&slot("x.0")].as_str()), ("n1", "n1"));
    world.put(claiming("w", 1, json!({"memory": "3GiB"})));
    world.settle(None);
    assert_eq!((world.holders()[&slot("w.0")].clone(), world.gpu_of("w.0")), (id("n2"), grant("b", 3072, 1)));
}

#[test]
fn who_comes_back_has_its_gpu_again() {
    let mut world = three();
    world.put(claiming("w", 2, json!({"exclusive": true})));
    world.settle(None);
    let before = world.holders();
    world.session("n1").incarnation = life(11);
    world.session("n2").incarnation = life(12);
    world.settle(None);
    assert_eq!(world.holders(), before);
    assert!(world.gpu_of("w.0").is_some() && world.gpu_of("w.1").is_some());
}

/// Claims and offers of all kinds, for properties.
pub(super) const CLAIMS: [&str; 7] = [
    "",
    "{}",
    r#"{"memory": "2GiB", "cpu": "fallback"}"#,
    r#"{"slots": 2}"#,
    r#"{"exclusive": true}"#,
    r#"{"any": [{"memory": "3GiB", "class": ["discrete"]}, {"memory": "512MiB"}], "cpu": "fallback"}"#,
    r#"{"class": ["integrated"]}"#,
];

pub(super) fn claim(index: usize) -> Option<GpuSpec> {
    let text = CLAIMS[index];
    (!text.is_empty()).then(|| serde_json::from_str(text).unwrap())
}

pub(super) fn offers(kind: usize) -> Vec<Offer> {
    let class = |class: GpuClass, of: Offer| Offer { class, ..of };
    match kind {
        0 => vec![offer("a", json!({}))],
        1 => vec![offer("a", json!({"slots": 1})), class(GpuClass::Integrated, offer("b", json!({"slots": 2})))],
        _ => vec![class(GpuClass::Cpu, offer("c", json!({"memory": {"total": 2_u64 << 30}})))],
    }
}
