//! Shares of what is new and of what was there before, whatever the numbers of replicas and wherever they are.

use super::*;
use crate::{Here, hash};
use lattice::record::{Among, Rollout, RolloutState};

const REQUESTS: u32 = 4_000;
const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// A workload on its way from generation 1 to 2, by weight.
fn rolling(percent: Option<u32>, holders: &[(&str, Generation)]) -> LatticeView {
    let mut view = LatticeView::default();
    let spec = |version: &str| {
        let text = format!(
            "name: w\ncomponents: [{{name: main, source: '{}', env: {{V: '{version}'}}}}]\nreplicas: 9\n\
             rollout: {{steps: [{{weight: 5, pause: 1m}}]}}\nhttp: {{routes: [{{host: h.test}}]}}\n",
            Digest::of(b"")
        );
        lattice::spec::parse(text.as_bytes()).unwrap()
    };
    let one = SpecRecord::new(spec("1"), life(7), Generation::FIRST);
    let record = one.next(None, spec("2"), Default::default(), BTreeMap::new(), 0);
    let rollout = Rollout { weight: percent, below: 1, ..Rollout::new(&record) };
    view.specs.insert(name("w"), Arc::new(Versioned { record, revision: Revision(2) }));
    view.rollouts.insert(name("w"), Versioned { record: rollout, revision: Revision(3) });
    for node in NODES {
        session(&mut view, node, 1);
    }
    for (index, (node, generation)) in holders.iter().enumerate() {
        hold(&mut view, &format!("w.{index}"), node, 1, Phase::Ready).generation = *generation;
    }
    view
}

const OLD: Generation = Generation(1);
const NEW: Generation = Generation(2);

fn entry_of(view: &LatticeView, node: &str) -> Arc<RouteEntry> {
    find(&RouteTable::build(view, &id(node)), "h.test", "/").unwrap().clone()
}

/// Uniform numbers, the same each time.
fn numbers(seed: u64) -> impl Iterator<Item = u64> {
    (0..).map(move |number: u64| hash(&(seed, number).0.wrapping_add(number << 20).to_le_bytes()))
}

/// How many of the requests at a node go to what is new. Each is given to a node that has a replica of its part.
fn to_new(view: &LatticeView, node: &str, seed: u64) -> u32 {
    let entry = entry_of(view, node);
    let me = id(node);
    let mut balancer = Balancer::default();
    let is_new = |random: u64| {
        let route = entry.weigh(random, &[]);
        let here = (route.local_slots > 0).then_some(Here { node: &me, has_room: true });
        let ask = Ask { now: Duration::ZERO, random: random.rotate_left(17), tried: &[], suspects: &[] };
        let chosen = balancer.choose(route, ask, here).unwrap();
        let among = route.among.unwrap();
        let runs_there = |(slot, held): (&SlotId, &Versioned<Slot>)| {
            slot.workload == name("w") && held.record.holder.node == *chosen && among.has(held.record.generation)
        };
        assert!(view.slots.iter().any(runs_there), "{chosen} has none of {among}");
        among.has(NEW)
    };
    numbers(seed).take(REQUESTS as usize).map(is_new).filter(|is_new| *is_new).count() as u32
}

/// Whether so many of all are what chance makes of a share: within five standard deviations.
fn is_share(found: u32, percent: u32) -> bool {
    let (requests, share) = (f64::from(REQUESTS), f64::from(percent) / 100.0);
    (f64::from(found) - requests * share).abs() <= 5.0 * (requests * share * (1.0 - share)).sqrt()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// The share is what the record says at every node, though requests go to the node's own replicas first.
    #[test]
    fn shares_are_exact_whatever_the_replicas(
        percent in 0_u32..=100,
        holders in proptest::collection::vec((0_usize..3, any::<bool>()), 2..10),
        seed in any::<u64>(),
    ) {
        let generation = |index: usize, is_new: bool| match (index, is_new) {
            (0, _) => NEW,
            (1, _) => OLD,
            (_, true) => NEW,
            (_, false) => OLD,
        };
        let held: Vec<_> = holders.iter().enumerate().map(|(i, (node, is_new))| (NODES[*node], generation(i, *is_new))).collect();
        let view = rolling(Some(percent), &held);
        for node in NODES {
            let found = to_new(&view, node, seed);
            prop_assert!(is_share(found, percent), "{found} of {REQUESTS} at {node} where {percent} % are to be");
        }
    }

    /// A client that is bound stays with what it has: nodes agree, and a larger share takes clients over, never back.
    #[test]
    fn bound_clients_go_over_once(key in any::<u64>(), steps in proptest::collection::btree_set(0_u32..=100, 1..6)) {
        let held = [("n1", OLD), ("n2", NEW), ("n3", OLD)];
        let mut was_new = false;
        for percent in steps {
            let view = rolling(Some(percent), &held);
            let parts = NODES.map(|node| entry_of(&view, node).weigh(hash(&key.to_le_bytes()), &[]).among.unwrap().has(NEW));
            prop_assert!(parts == [parts[0]; 3]);
            prop_assert!(parts[0] || !was_new, "it came back at {percent} %");
            was_new = parts[0];
        }
    }
}

#[test]
fn a_part_where_nobody_is_leaves_its_requests_to_the_other() {
    let among = |view: &LatticeView, in_vain: &[Among]| -> BTreeSet<String> {
        let entry = entry_of(view, "n1");
        numbers(1).take(200).map(|lot| entry.weigh(lot, in_vain).among.unwrap().to_string()).collect()
    };
    let set = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<BTreeSet<_>>();
    let mut view = rolling(Some(50), &[("n1", OLD), ("n2", NEW)]);
    let (with, without) = (Among::With(NEW), Among::Without(NEW));
    assert_eq!(among(&view, &[]), set(&["2", "!2"]));
    assert_eq!(among(&view, &[with]), set(&["!2"]));
    assert_eq!(among(&view, &[without]), set(&["2"]));
    assert_eq!(among(&view, &[with, without]), set(&["2", "!2"]));
    // Its node is gone, and then its record.
    view.sessions.remove(&id("n2"));
    assert_eq!(among(&view, &[]), set(&["!2"]));
    assert_eq!(among(&view, &[without]), set(&["2"]), "rather somebody who may be gone than nobody");
    view.slots.remove(&"w.1".parse().unwrap());
    assert_eq!(among(&view, &[]), set(&["!2"]));
}

#[test]
fn replicas_count_again_where_there_is_no_weight_and_what_was_given_up_gets_nothing() {
    let held = [("n1", OLD), ("n2", NEW), ("n3", Generation(9))];
    assert_eq!(entry_of(&rolling(None, &held), "n1").weights, None);
    let mut view = rolling(Some(50), &held);
    // What a change before left behind is like anything that is not new.
    let lot = numbers(1).find(|lot| !entry_of(&view, "n1").weigh(*lot, &[]).among.unwrap().has(NEW)).unwrap();
    let nodes: Vec<String> =
        entry_of(&view, "n1").weigh(lot, &[]).endpoints.iter().map(|one| one.node.to_string()).collect();
    assert_eq!(nodes, ["n3"]);
    let given_up = {
        let spec = &view.specs.get(&name("w")).unwrap().record;
        spec.abort("no", 0).unwrap()
    };
    view.specs.insert(name("w"), Arc::new(Versioned { record: given_up, revision: Revision(4) }));
    assert_eq!(to_new(&view, "n2", 3), 0, "it runs there, and is asked nowhere");
    view.slots.remove(&"w.1".parse().unwrap());
    assert_eq!(entry_of(&view, "n1").weights, None, "nothing to keep away from");
    let done = |rollout: &mut Rollout| rollout.state = RolloutState::Done;
    let mut view = rolling(Some(50), &held);
    done(&mut view.rollouts.get_mut(&name("w")).unwrap().record);
    assert_eq!(entry_of(&view, "n1").weights, None);
}

#[test]
fn who_asks_for_what_is_new_gets_that_or_nothing() {
    let held = [("n1", OLD), ("n2", NEW)];
    let mut view = rolling(Some(0), &held);
    let headers = |value: &'static str| {
        HeaderMap::from_iter([(HeaderName::from_static("x-preview"), HeaderValue::from_static(value))])
    };
    let among =
        |view: &LatticeView, value| entry_of(view, "n1").previewed(&headers(value)).map(|part| part.among.unwrap());
    assert_eq!(among(&view, "orange"), None, "the spec names no header");
    let spec = Arc::make_mut(view.specs.get_mut(&name("w")).unwrap());
    let preview = lattice::spec::PreviewSpec { header: "x-preview".parse().unwrap(), value: "orange".into() };
    spec.record.spec.rollout.preview = Some(preview);
    assert_eq!(among(&view, "orange"), Some(Among::With(NEW)));
    assert_eq!(among(&view, "Orange"), None);
    assert_eq!(entry_of(&view, "n1").previewed(&HeaderMap::new()), None);
    // Not over to what was there before.
    view.slots.remove(&"w.1".parse().unwrap());
    assert_eq!(among(&view, "orange"), Some(Among::With(NEW)));
    view.rollouts.get_mut(&name("w")).unwrap().record.weight = None;
    assert_eq!(among(&view, "orange"), None);
}

#[test]
fn nodes_of_all_versions_agree_on_who_gets_what_is_new() {
    let entry = entry_of(&rolling(Some(50), &[("n1", OLD), ("n2", NEW)]), "n1");
    let picked: Vec<bool> =
        (0..12_u64).map(|key| entry.weigh(hash(&key.to_le_bytes()), &[]).among.unwrap().has(NEW)).collect();
    assert_eq!(picked, PINNED);
}

const PINNED: [bool; 12] = [true, false, true, true, true, false, true, true, true, false, false, true];
