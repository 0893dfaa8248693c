//! Rules one by one in [`check`], and properties of many nodes that plan and act on one store.

mod cpu;
mod drain;
mod gpus;
mod imports;
mod rebalance;
mod rollouts;
mod rules;
mod warm;

use crate::{Action, Explanation, Me, Plan, Situation, board::Board, conflict, plan, preview};
use lattice::{
    id::{Generation, Incarnation, NodeId, Revision, SlotId, WorkloadName},
    recipe::Recipe,
    record::{Capacity, Holder, Key, Phase, Record as _, Session, Slot, SpecRecord},
    spec::{Class, ComponentSpec, EmptyVolume, Limits, ReserveSpec, Source, VolumeSpec, WorkloadSpec, empty_bytes},
    store::{Bucket, Entry, Precondition, Snapshot},
    units::{Bytes, Millicores},
    view::{LatticeView, Seen, Versioned},
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

const SETTLED: Situation = Situation { settling: false, drain_is_over: false };
const SETTLING: Situation = Situation { settling: true, drain_is_over: false };

fn name(text: &str) -> WorkloadName {
    text.parse().unwrap()
}
fn id(text: &str) -> NodeId {
    text.parse().unwrap()
}
fn slot(text: &str) -> SlotId {
    text.parse().unwrap()
}
fn life(number: u128) -> Incarnation {
    Incarnation::from_u128(number)
}

fn spec(workload: &str, replicas: u32) -> WorkloadSpec {
    let source = Source::Stored(lattice::id::Digest::of(b""));
    let main = ComponentSpec::new("main".parse().unwrap(), source);
    let limits = Limits { memory: Bytes::mib(100), ..Limits::default() };
    WorkloadSpec { replicas, limits, ..WorkloadSpec::new(name(workload), main) }
}

/// The store, and a view of it that is always up to date.
#[derive(Clone)]
struct World {
    view: LatticeView,
    revision: u64,
    /// Replicas of which nothing runs any more: what is to stop before it is released does so first.
    stopped: BTreeSet<SlotId>,
}

impl World {
    fn new() -> Self {
        let mut view = LatticeView::default();
        for bucket in Bucket::ALL {
            view.seen.insert(bucket, Seen::default());
        }
        World { view, revision: 0, stopped: BTreeSet::new() }
    }
    fn next(&mut self) -> Revision {
        self.revision += 1;
        Revision(self.revision)
    }
    /// A node with 4 slots, 1000 MiB, in zone a.
    fn node(&mut self, node: &str, incarnation: u128) -> &mut Session {
        let revision = self.next();
        let record = Session {
            labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
            capacity: Capacity { memory: 1000 << 20, slots: 4, millicores: 0 },
            ..lattice::testing::session(id(node), life(incarnation))
        };
        self.view.sessions.insert(id(node), Versioned { record, revision });
        self.session(node)
    }
    fn session(&mut self, node: &str) -> &mut Session {
        &mut self.view.sessions.get_mut(&id(node)).unwrap().record
    }
    fn put(&mut self, spec: WorkloadSpec) {
        let before = self.view.specs.get(&spec.name);
        let uid = before.map_or(life(7), |before| before.record.uid);
        let generation = before.map_or(Generation::FIRST, |before| before.record.generation.next());
        self.put_record(SpecRecord::new(spec, uid, generation));
    }
    /// Deleted and put again: another life of the workload.
    fn put_anew(&mut self, spec: WorkloadSpec) {
        let uid = uuid::Uuid::from_u128(1000 + u128::from(self.revision));
        self.put_record(SpecRecord::new(spec, uid, Generation::FIRST));
    }
    fn put_record(&mut self, record: SpecRecord) {
        let revision = self.next();
        self.view.specs.insert(record.spec.name.clone(), Arc::new(Versioned { record, revision }));
    }
    fn hold(&mut self, slot_id: &str, node: &str, incarnation: u128, phase: Phase) -> &mut Slot {
        let revision = self.next();
        let record = Slot {
            holder: Holder { node: id(node), incarnation: life(incarnation) },
            uid: self.view.specs.get(&slot(slot_id).workload).map_or(life(7), |spec| spec.record.uid),
            generation: Generation::FIRST,
            phase,
            message: None,
            failures: None,
            handover_from: None,
            gpu: None,
            handover_gpu: None,
            nonce: life(0),
            claimed_at: 0,
            since: 0,
        };
        self.view.slots.insert(slot(slot_id), Versioned { record, revision });
        &mut self.view.slots.get_mut(&slot(slot_id)).unwrap().record
    }
    fn corrupt(&mut self, key: &str) {
        let bucket = if key.starts_with("spec.") { Bucket::Specs } else { Bucket::State };
        let error = lattice::record::DecodeError::Malformed(String::new());
        let revision = self.next();
        self.view.corrupt.insert(key.to_owned(), lattice::view::Corrupt { bucket, revision, error });
    }

    fn members(&self) -> Vec<Me> {
        let me = |session: &Versioned<Session>| Me {
            node: session.record.node.clone(),
            incarnation: session.record.incarnation,
        };
        self.view.sessions.values().map(me).collect()
    }
    fn holders(&self) -> BTreeMap<SlotId, NodeId> {
        let holder = |(slot, record): (&SlotId, &Versioned<Slot>)| (slot.clone(), record.record.holder.node.clone());
        self.view.slots.iter().map(holder).collect()
    }

    /// Carry out an action as the store would: only if the record is still as expected.
    fn act(&mut self, me: &Me, action: &Action) {
        let at = self.view.slots.get(action.slot()).map(|slot| slot.revision);
        match action {
            Action::Claim { slot, expect, handover_from, gpu, .. } => {
                let wanted = match expect {
                    Precondition::Absent => None,
                    Precondition::At(revision) => Some(*revision),
                };
                if at == wanted {
                    let from = handover_from.clone();
                    let before = self.view.slots.get(slot).map(|slot| slot.record.clone());
                    let handover_gpu = from.as_ref().zip(before).and_then(|(from, before)| {
                        if before.holder == *from { before.gpu } else { before.handover_gpu }
                    });
                    let node = me.node.to_string();
                    let record = self.hold(&slot.to_string(), &node, me.incarnation.as_u128(), Phase::Starting);
                    (record.handover_from, record.handover_gpu, record.gpu) = (from, handover_gpu, gpu.clone());
                }
            }
            Action::Regrant { slot, expect, gpu } => {
                let revision = self.next();
                if let Some(held) = self.view.slots.get_mut(slot).filter(|_| at == Some(*expect)) {
                    (held.record.gpu, held.revision) = (gpu.clone(), revision);
                }
            }
            // Once it is due nothing of it may go on running, whatever the plan assigns.
            Action::Release { slot, stop_first: true, .. } if self.stopped.insert(slot.clone()) => {}
            Action::Release { slot, expect, .. } | Action::Collect { slot, expect, .. } => {
                self.stopped.remove(slot);
                if at == Some(*expect) {
                    self.next();
                    self.view.slots.remove(slot);
                }
            }
        }
    }

    /// All nodes plan on the same view, then act, until nobody has anything to do. Without a seed in the order of ranks,
    /// with one in any order. Panics if they don't come to rest.
    fn settle(&mut self, mut seed: Option<u64>) {
        for _ in 0..40 {
            let mut all: Vec<(u64, Me, Action)> = Vec::new();
            for me in self.members() {
                for action in plan(&self.view, &me, SETTLED).actions {
                    let rank = match &action {
                        Action::Claim { rank, .. } | Action::Collect { rank, .. } => *rank,
                        Action::Regrant { .. } | Action::Release { .. } => 0,
                    };
                    let key = seed.as_mut().map_or(u64::from(rank), |seed| {
                        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        *seed >> 32
                    });
                    all.push((key, me.clone(), action));
                }
            }
            let is_lost = |slot: &Slot| self.view.live(&slot.holder).is_none();
            if all.is_empty()
                && self.view.slots.values().all(|slot| slot.record.phase == Phase::Ready || is_lost(&slot.record))
            {
                self.check_nothing_displaces();
                return;
            }
            all.sort_by_key(|(key, ..)| *key);
            for (_, me, action) in &all {
                self.act(me, action);
            }
            self.check_capacity();
            // What was claimed becomes ready.
            for (slot, generation) in
                self.view.slots.iter().map(|(id, slot)| (id.clone(), slot.record.generation)).collect::<Vec<_>>()
            {
                let revision = self.next();
                let slot = self.view.slots.get_mut(&slot).unwrap();
                if slot.record.phase == Phase::Starting && self.view.sessions.contains_key(&slot.record.holder.node) {
                    slot.record = slot.record.observed(generation, Phase::Ready, None, 0, 0);
                    slot.revision = revision;
                }
            }
        }
        panic!(
            "not at rest: {:?}\n{:#?}",
            self.holders(),
            self.members().iter().map(|me| plan(&self.view, me, SETTLED)).collect::<Vec<_>>()
        );
    }

    /// At rest who was to make room has made it.
    fn check_nothing_displaces(&self) {
        for workload in self.view.specs.keys() {
            let mut outlooks = crate::outlook(&self.view, &BTreeSet::from([workload]));
            for explained in crate::explain_vacant(&self.view, workload).values() {
                // In short is the same in short.
                let outlook = outlooks.remove(&explained.slot).unwrap();
                assert_eq!(outlook.first.as_ref(), explained.first());
                let refused = |node: &NodeId| matches!(explained.nodes.get(node), Some(crate::Standing::Refused(_)));
                assert!(outlook.refused.iter().all(|refusal| refused(&refusal.node)));
                assert!(
                    explained.displaces.is_empty(),
                    "{} displaces at rest: {:?}",
                    explained.slot,
                    explained.displaces
                );
            }
        }
    }

    fn check_capacity(&self) {
        for (node, session) in &self.view.sessions {
            let held = self
                .view
                .slots
                .iter()
                .filter(|(_, slot)| self.view.live(&slot.record.holder).is_some_and(|s| s.node == *node));
            let (mut slots, mut memory, mut disk, mut cpu) = (0, 0, 0, 0);
            for (slot, _) in held {
                slots += 1;
                let spec = self.view.specs.get(&slot.workload).map(|spec| &spec.record.spec);
                memory += spec.map_or(0, |spec| spec.memory_reserved());
                disk += spec.map_or(0, |spec| empty_bytes(&spec.volumes));
                cpu += spec.map_or(0, |spec| spec.reserve.cpu.0);
            }
            let Capacity { slots: slots_max, memory: memory_max, millicores: cpu_max } = session.record.capacity;
            let disk_max = session.record.volumes.bytes;
            assert!(slots <= slots_max && memory <= memory_max, "{node}: {slots}/{slots_max}, {memory}/{memory_max}");
            assert!(disk <= disk_max, "{node}: {disk}/{disk_max} of volumes");
            assert!(cpu <= cpu_max, "{node}: {cpu}/{cpu_max} millicores");
        }
        self.check_gpus();
    }

    /// What must hold at rest: each wanted slot is held by a living node, or no node can take it; nothing else is held.
    /// Knows nothing of rules about where other replicas are.
    fn check_at_rest(&self) {
        let fits = |session: &Session, spec: &WorkloadSpec| {
            let held = self.view.slots.iter().filter(|(_, slot)| slot.record.holder.node == session.node);
            let held = held.filter(|(_, slot)| self.view.live(&slot.record.holder).is_some());
            let own = |spec: &WorkloadSpec| (spec.memory_reserved(), empty_bytes(&spec.volumes), spec.reserve.cpu.0);
            let reserved = |slot: &SlotId| own(&self.view.specs.get(&slot.workload).unwrap().record.spec);
            let ((memory, disk, cpu), slots) = held.fold((own(spec), 1), |((m, d, c), n), (slot, _)| {
                let (memory, disk, cpu) = reserved(slot);
                ((m + memory, d + disk, c + cpu), n + 1)
            });
            !session.draining
                && spec.placement.require.iter().all(|requirement| requirement.holds(&session.labels))
                && slots <= session.capacity.slots
                && memory <= session.capacity.memory
                && (spec.volumes.is_empty() || disk <= session.volumes.bytes)
                && (spec.reserve == ReserveSpec::default() || cpu <= session.capacity.millicores)
        };
        for spec in self.view.specs.values() {
            let spec = &spec.record;
            for index in 0..self.view.replicas(spec) {
                let slot = SlotId::new(spec.spec.name.clone(), index);
                let held = self.view.slots.get(&slot).is_some_and(|record| {
                    record.record.uid == spec.uid && self.view.live(&record.record.holder).is_some()
                });
                let taker = self.view.sessions.values().find(|session| fits(&session.record, &spec.spec));
                assert!(held || taker.is_none(), "{slot} is vacant and fits on {taker:?}");
            }
        }
        let board = Board::of(&self.view);
        for slot in self.view.slots.keys() {
            assert!(board.wants(slot), "{slot} is held and not wanted");
        }
    }
}

fn explain(view: &LatticeView, slot: &SlotId) -> Explanation {
    crate::explain(view, slot).expect("it is wanted")
}

/// Nodes that can't take a slot, and the reasons.
fn refused(explanation: &Explanation) -> Vec<(&NodeId, &crate::Reason)> {
    let refused = explanation.nodes.iter().filter_map(|(node, standing)| match standing {
        crate::Standing::Refused(reason) => Some((node, reason)),
        crate::Standing::Rank(..) => None,
    });
    refused.collect()
}

/// Plan for node n1 in its life 1 and compare with one line an action, then the slots that are assigned.
#[track_caller]
fn check(what: &str, situation: Situation, world: &World, expected: &[&str]) {
    let Plan { actions, assignments, .. } = plan(&world.view, &Me { node: id("n1"), incarnation: life(1) }, situation);
    let mut lines: Vec<String> = actions
        .iter()
        .map(|action| match action {
            Action::Claim { slot, expect, rank, handover_from, gpu: _ } => {
                let over = match expect {
                    Precondition::Absent => String::new(),
                    Precondition::At(_) => " over a record".into(),
                };
                let from = handover_from.as_ref().map(|from| format!(" from {}", from.node)).unwrap_or_default();
                format!("claim {slot} rank {rank}{over}{from}")
            }
            Action::Regrant { slot, gpu, .. } => format!("regrant {slot} {gpu:?}"),
            Action::Release { slot, stop_first, displaced_by, .. } => {
                let by = displaced_by.as_ref().map(|by| format!(" for {by}")).unwrap_or_default();
                format!("{} {slot}{by}", if *stop_first { "stop, release" } else { "release, stop" })
            }
            Action::Collect { slot, rank, .. } => format!("collect {slot} rank {rank}"),
        })
        .collect();
    lines.extend(assignments.iter().map(|(slot, assignment)| format!("run {slot} g{}", assignment.generation)));
    assert_eq!(lines, expected, "{what}");
}

/// n1 alone, and a workload `w` with one replica.
fn one() -> World {
    let mut world = World::new();
    world.node("n1", 1);
    world.put(spec("w", 1));
    world
}

#[test]
fn claims() {
    let mut world = one();
    check("a vacant slot is claimed", SETTLED, &world, &["claim w.0 rank 0"]);
    check("… while settling too", SETTLING, &world, &["claim w.0 rank 0"]);

    world.hold("w.0", "n1", 1, Phase::Ready);
    check("at rest nothing is written", SETTLED, &world, &["run w.0 g1"]);
    world.put(spec("w", 1));
    check("a new generation is run in place", SETTLED, &world, &["run w.0 g2"]);

    world.hold("w.0", "n1", 9, Phase::Ready);
    check("a restarted node takes its slot back", SETTLED, &world, &["claim w.0 rank 0 over a record"]);
    check("… while settling too", SETTLING, &world, &["claim w.0 rank 0 over a record"]);

    world.hold("w.0", "n2", 2, Phase::Ready);
    check("a dead node's slot is taken over", SETTLED, &world, &["claim w.0 rank 0 over a record"]);
    check("… but not while settling", SETTLING, &world, &[]);
    world.node("n2", 3);
    check("the incumbent goes first", SETTLED, &world, &["claim w.0 rank 1 over a record"]);
    world.node("n2", 2);
    check("a living node's slot is left alone", SETTLED, &world, &[]);

    let mut full = one();
    full.session("n1").capacity.slots = 0;
    check("no slots, no claim", SETTLED, &full, &[]);
    let mut small = one();
    small.session("n1").capacity.memory = (100 << 20) - 1;
    check("too little memory, no claim", SETTLED, &small, &[]);
    let mut many = one();
    many.put(spec("w", 9));
    many.node("n2", 2);
    many.session("n2").capacity.slots = 0;
    let four = ["claim w.0 rank 0", "claim w.1 rank 0", "claim w.2 rank 0", "claim w.3 rank 0"];
    check("no more claims than slots", SETTLED, &many, &four);
    many.session("n1").draining = true;
    check("a draining node claims nothing", SETTLED, &many, &[]);

    let mut deleted = one();
    deleted.hold("gone.0", "n1", 1, Phase::Ready);
    check("what a deleted workload reserved is not free yet", SETTLED, &deleted, &["stop, release gone.0"]);
    deleted.view.slots.clear();
    check("… until it is given up", SETTLED, &deleted, &["claim w.0 rank 0"]);

    let mut labelled = one();
    let mut picky = spec("w", 1);
    picky.placement.require = vec!["zone == b".parse().unwrap()];
    labelled.put(picky);
    check("labels must match", SETTLED, &labelled, &[]);

    let mut stranger = one();
    stranger.node("n1", 5);
    check("without a session of its own a node writes nothing", SETTLED, &stranger, &[]);
    let mut unseen = one();
    unseen.hold("w.0", "n1", 1, Phase::Ready);
    unseen.view.seen.remove(&Bucket::Specs);
    check("a bucket that was never seen is not an empty one", SETTLED, &unseen, &[]);
}

#[test]
fn releases_and_collections() {
    let mut world = one();
    world.hold("w.0", "n1", 1, Phase::Ready);
    world.hold("w.1", "n1", 1, Phase::Ready);
    check("scaled down", SETTLED, &world, &["release, stop w.1", "run w.0 g1"]);
    let mut strict = spec("w", 1);
    strict.class = Class::Strict;
    world.put(strict);
    check("a strict one stops before others may start it", SETTLED, &world, &["stop, release w.1", "run w.0 g2"]);
    world.view.slots.remove(&slot("w.1"));
    world.put_anew(spec("w", 1));
    check("deleted and put again", SETTLED, &world, &["stop, release w.0"]);
    world.view.specs.clear();
    check("deleted", SETTLED, &world, &["stop, release w.0"]);
    world.corrupt("spec.w");
    check("a spec that does not parse is not deleted", SETTLED, &world, &[]);

    let mut world = one();
    world.hold("w.1", "n2", 2, Phase::Ready);
    world.hold("w.0", "n1", 1, Phase::Ready);
    check("a dead holder's record", SETTLED, &world, &["collect w.1 rank 0", "run w.0 g1"]);
    check("… not while settling", SETTLING, &world, &["run w.0 g1"]);
    world.node("n2", 3);
    check("… the node itself goes first", SETTLED, &world, &["collect w.1 rank 1", "run w.0 g1"]);
    world.node("n2", 2);
    check("… a living holder does it itself", SETTLED, &world, &["run w.0 g1"]);
}

#[test]
fn corrupt_records_block_their_key_only() {
    let mut world = one();
    world.put(spec("w", 2));
    world.corrupt("slot.w.0");
    check("a corrupt slot is not absent", SETTLED, &world, &["claim w.1 rank 0"]);
    world.hold("w.0", "n1", 1, Phase::Ready);
    check("what was last good runs on", SETTLED, &world, &["claim w.1 rank 0", "run w.0 g2"]);
    let mut world = one();
    world.hold("w.0", "n2", 2, Phase::Ready);
    world.corrupt("session.n2");
    check("a corrupt session is not a dead one", SETTLED, &world, &[]);
    assert!(explain(&world.view, &slot("w.0")).blocked.unwrap().contains("session.n2"));
}

#[test]
fn draining_hands_over() {
    let mut world = one();
    world.node("n2", 2).draining = true;
    world.hold("w.0", "n2", 2, Phase::Ready);
    check("the one that serves goes on", SETTLED, &world, &["claim w.0 rank 0 over a record from n2"]);
    world.hold("w.0", "n2", 2, Phase::Ready).generation = Generation(9);
    check("by a spec that is not known here it may not be leaving", SETTLED, &world, &[]);
    world.hold("w.0", "n2", 2, Phase::Starting);
    check("one that does not serve is not waited for", SETTLED, &world, &["claim w.0 rank 0 over a record"]);
    world.hold("w.0", "n2", 2, Phase::Failed).handover_from = Some(Holder { node: id("n3"), incarnation: life(3) });
    world.node("n3", 3).draining = true;
    check("two drain in turn", SETTLED, &world, &["claim w.0 rank 0 over a record from n3"]);

    let mut strict = spec("w", 1);
    strict.class = Class::Strict;
    world.put(strict);
    check("a strict slot is free only when it is withdrawn", SETTLED, &world, &[]);

    let mut leaving = one();
    leaving.hold("w.0", "n1", 1, Phase::Ready);
    leaving.session("n1").draining = true;
    check("nobody else can take it: it stays", SETTLED, &leaving, &["run w.0 g1"]);
    leaving.node("n2", 2);
    let from = leaving.view.slots.get(&slot("w.0")).unwrap().record.holder.clone();
    leaving.hold("w.0", "n2", 2, Phase::Starting).handover_from = Some(from.clone());
    check("it serves until the other is ready", SETTLED, &leaving, &["run w.0 g1"]);
    leaving.view.sessions.remove(&id("n2"));
    check("… and if the other dies", SETTLED, &leaving, &["run w.0 g1"]);
    leaving.hold("w.0", "n2", 2, Phase::Ready);
    check("then it stops", SETTLED, &leaving, &[]);
    leaving.hold("w.0", "n1", 1, Phase::Ready);
    let mut strict = spec("w", 1);
    strict.class = Class::Strict;
    leaving.put(strict);
    check("a strict one stops, then is withdrawn", SETTLED, &leaving, &["stop, release w.0"]);

    let mut moved = one();
    moved.node("n2", 2).labels.clear();
    moved.hold("w.0", "n2", 2, Phase::Ready);
    let mut picky = spec("w", 1);
    picky.placement.require = vec!["zone".parse().unwrap()];
    moved.put(picky);
    check("new labels move a replica", SETTLED, &moved, &["claim w.0 rank 0 over a record from n2"]);
}

#[test]
fn a_node_without_its_session_keeps_available_and_gives_up_strict() {
    let mut world = one();
    let mut strict = spec("s", 1);
    strict.class = Class::Strict;
    world.put(strict);
    world.hold("s.0", "n1", 1, Phase::Ready);
    world.hold("w.0", "n1", 1, Phase::Ready);
    check("with it", SETTLED, &world, &["run s.0 g1", "run w.0 g1"]);
    world.view.sessions.clear();
    check("without it", SETTLED, &world, &["run w.0 g1"]);
}

/// The room for volumes that a node offers is given away once.
#[test]
fn room_for_volumes_is_counted() {
    let mut world = World::new();
    world.node("n1", 1).volumes.bytes = 100 << 20;
    world.put(drawn(2, 3));
    check("as many as fit", SETTLED, &world, &["claim c.0 rank 0", "claim c.1 rank 0"]);
    world.hold("c.0", "n1", 1, Phase::Ready);
    world.hold("c.1", "n1", 1, Phase::Ready);
    check("and no more", SETTLED, &world, &["run c.0 g1", "run c.1 g1"]);
    let explained = explain(&world.view, &slot("c.2"));
    let refused = refused(&explained);
    let why = "has too little room for volumes left: 80MiB of 100MiB are reserved, 40MiB are needed";
    assert_eq!(refused.iter().map(|(_, reason)| reason.to_string()).collect::<Vec<_>>(), [why]);
    assert_eq!(refused[0].1.rule(), "volume");
    // Who has no volumes does not mind, even where more is given away than there is.
    world.session("n1").volumes.bytes = 50 << 20;
    world.put(spec("w", 1));
    check("others", SETTLED, &world, &["claim w.0 rank 0", "run c.0 g1", "run c.1 g1"]);
    world.session("n1").volumes.bytes = 120 << 20;
    check("room", SETTLED, &world, &["claim c.2 rank 0", "claim w.0 rank 0", "run c.0 g1", "run c.1 g1"]);
    // What is more important takes the room of what has it, and of nobody else.
    world.session("n1").volumes.bytes = 100 << 20;
    world.hold("w.0", "n1", 1, Phase::Ready);
    let mut urgent = WorkloadSpec { name: name("d"), ..drawn(2, 1) };
    urgent.placement.priority = 5;
    world.put(urgent);
    let displaced = explain(&world.view, &slot("d.0")).displaces;
    assert_eq!(displaced, [slot("c.1")]);
}

#[test]
fn reasons_are_in_words_with_numbers() {
    let mut world = one();
    let mut picky = spec("w", 1);
    picky.limits.memory = Bytes::mib(300);
    picky.placement.require = vec!["zone == a".parse().unwrap()];
    world.put(picky.clone());
    world.node("n2", 2).labels.clear();
    world.node("n3", 3).labels.insert("zone".into(), "b".into());
    world.node("n4", 4).capacity.memory = 200 << 20;
    world.node("n5", 5).capacity.slots = 0;
    world.node("n6", 6).draining = true;
    let explanation = explain(&world.view, &slot("w.0"));
    assert_eq!(explanation.first(), Some(&id("n1")));
    let reasons: Vec<String> = refused(&explanation).iter().map(|(node, reason)| format!("{node}: {reason}")).collect();
    let expected = [
        "n2: has no label zone; required: zone == a",
        "n3: its label zone is \"b\"; required: zone == a",
        "n4: has too little memory left: 0B of 200MiB are reserved, 300MiB are needed",
        "n5: has no slot left of its 0",
        "n6: is draining",
    ];
    assert_eq!(reasons, expected);

    picky.replicas = 5;
    let planned = preview(&world.view, &picky, &Recipe::default());
    let nodes: Vec<Option<&str>> = planned.iter().map(|slot| slot.node.as_ref().map(NodeId::as_str)).collect();
    assert_eq!(nodes, [Some("n1"), Some("n1"), Some("n1"), None, None]);
    let why = planned.last().unwrap().refused.first().unwrap().reason.clone();
    assert_eq!(why, "has too little memory left: 900MiB of 1000MiB are reserved, 300MiB are needed");
}

#[test]
fn a_preview_keeps_what_runs() {
    let mut world = one();
    world.node("n2", 2);
    world.hold("w.0", "n2", 2, Phase::Ready);
    let planned = preview(&world.view, &spec("w", 2), &Recipe::default());
    let rows: Vec<_> = planned.iter().map(|row| (row.node.clone().unwrap().to_string(), row.stays)).collect();
    assert_eq!(rows, [("n2".to_owned(), true), ("n1".to_owned(), false)]);
    assert_eq!(preview(&world.view, &spec("new", 1), &Recipe::default()).len(), 1);
}

#[test]
fn a_taken_route_is_named() {
    let routed = |workload: &str, routes: &str| {
        let text =
            format!("name: {workload}\ncomponents: [{{name: a, source: 'file:a'}}]\nhttp: {{routes: [{routes}]}}\n");
        lattice::spec::parse(text.as_bytes()).unwrap()
    };
    let mut world = World::new();
    world.put(routed("a", "{host: h.test}, {host: '*.h.test', path: /x}, {host: h.test, path: /m, methods: [GET]}"));
    let clash = |routes: &str| conflict(&world.view, &routed("b", routes));
    assert_eq!(clash("{host: h.test, path: /y}, {host: '*.h.test', path: /x/}"), Some((1, name("a"))));
    assert_eq!(clash("{host: h.test, path: /y}, {host: '*'}"), None);
    assert_eq!(clash("{host: h.test, path: {exact: /}}"), None, "which is another path");
    assert_eq!(clash("{host: h.test, path: /m, methods: [PUT]}, {host: h.test, path: /m}"), None);
    assert_eq!(clash("{host: h.test, path: /m, methods: [PUT, GET]}"), Some((0, name("a"))));
    assert_eq!(clash("{host: h.test, timeout: 1s, cors: {origins: ['*']}}"), Some((0, name("a"))));
    assert_eq!(conflict(&world.view, &routed("a", "{host: H.test.}")), None, "its own route");
}

#[test]
fn rendezvous_never_changes() {
    assert_eq!(crate::hash::rendezvous(&slot("hello.0"), &id("n1")), 6_830_772_745_242_174_566);
    let mut wins = BTreeMap::<u64, u32>::new();
    for index in 0..3000 {
        let slot = SlotId::new(name("w"), index);
        *wins
            .entry((1..=3).min_by_key(|n| crate::hash::rendezvous(&slot, &id(&format!("n{n}")))).unwrap())
            .or_default() += 1;
    }
    assert!(wins.values().all(|wins| (900..1100).contains(wins)), "uneven: {wins:?}");
}

#[derive(Debug, Clone)]
enum Step {
    Join { node: usize, slots: u32, memory: u64, zone: bool },
    Kill(usize),
    Restart(usize),
    Drain(usize),
    Put { workload: usize, replicas: u32, strict: bool, zone: bool },
    PutAnew { workload: usize, replicas: u32 },
    Delete(usize),
}

const NODES: [&str; 5] = ["n1", "n2", "n3", "n4", "n5"];
const WORKLOADS: [&str; 3] = ["a", "b", "c"];

const VOLUME: u64 = 30 << 20;

/// The last workload has a volume. A replica's need does not change under its holder.
fn volumes(workload: usize) -> Vec<VolumeSpec> {
    let empty = Some(EmptyVolume { size: Bytes::mib(40) });
    let (name, mount) = ("scratch".parse().unwrap(), "/data".parse().unwrap());
    let volume = VolumeSpec { name, mount, empty, host: None, files: None };
    (workload == 2).then_some(volume).into_iter().collect()
}

/// The second one reserves processors.
fn reserve(workload: usize) -> ReserveSpec {
    ReserveSpec { cpu: Millicores(if workload == 1 { 700 } else { 0 }) }
}

fn drawn(workload: usize, replicas: u32) -> WorkloadSpec {
    WorkloadSpec { volumes: volumes(workload), reserve: reserve(workload), ..spec(WORKLOADS[workload], replicas) }
}

fn step() -> impl Strategy<Value = Step> {
    let (node, workload) = (0..NODES.len(), 0..WORKLOADS.len());
    prop_oneof![
        4 => (node.clone(), 0u32..6, 0u64..1200, any::<bool>())
            .prop_map(|(node, slots, memory, zone)| Step::Join { node, slots, memory, zone }),
        1 => node.clone().prop_map(Step::Kill),
        2 => node.clone().prop_map(Step::Restart),
        1 => node.prop_map(Step::Drain),
        4 => (workload.clone(), 0u32..6, any::<bool>(), any::<bool>())
            .prop_map(|(workload, replicas, strict, zone)| Step::Put { workload, replicas, strict, zone }),
        1 => (workload.clone(), 0u32..4).prop_map(|(workload, replicas)| Step::PutAnew { workload, replicas }),
        1 => workload.prop_map(Step::Delete),
    ]
}

impl World {
    fn step(&mut self, step: &Step) {
        let incarnation = u128::from(self.revision) + 100;
        match step {
            Step::Join { node, slots, memory, zone } => {
                // A node that is there already keeps what it declared: it can't shrink below what it holds.
                if !self.view.sessions.contains_key(&id(NODES[*node])) {
                    let session = self.node(NODES[*node], incarnation);
                    // With none it is of an older version.
                    let millicores = (memory % 4) * 800;
                    session.capacity = Capacity { slots: *slots, memory: memory << 20, millicores };
                    session.volumes.bytes = (memory % 5) * VOLUME;
                    session.labels.insert("zone".into(), if *zone { "b" } else { "a" }.into());
                }
            }
            Step::Kill(node) => {
                self.view.sessions.remove(&id(NODES[*node]));
            }
            Step::Restart(node) => {
                let revision = self.next();
                if let Some(session) = self.view.sessions.get_mut(&id(NODES[*node])) {
                    session.record.incarnation = life(incarnation);
                    session.record.draining = false;
                    session.revision = revision;
                }
            }
            Step::Drain(node) => {
                let revision = self.next();
                if let Some(session) = self.view.sessions.get_mut(&id(NODES[*node])) {
                    session.record.draining = true;
                    session.revision = revision;
                }
            }
            Step::Put { workload, replicas, strict, zone } => {
                let mut spec = drawn(*workload, *replicas);
                spec.class = if *strict { Class::Strict } else { Class::Available };
                if *zone {
                    spec.placement.require = vec!["zone == a".parse().unwrap()];
                }
                self.put(spec);
            }
            Step::PutAnew { workload, replicas } => self.put_anew(drawn(*workload, *replicas)),
            Step::Delete(workload) => {
                self.next();
                self.view.specs.remove(&name(WORKLOADS[*workload]));
            }
        }
    }

    /// `nodes` equal nodes and one workload.
    fn uniform(nodes: usize, replicas: u32) -> World {
        let mut world = World::new();
        for (node, incarnation) in NODES[..nodes].iter().zip(1..) {
            let capacity = Capacity { slots: 50, memory: 10_000 << 20, millicores: 0 };
            world.node(node, incarnation).capacity = capacity;
        }
        world.put(spec("a", replicas));
        world.settle(None);
        world
    }
    fn spread(&self) -> BTreeMap<NodeId, u32> {
        let mut spread: BTreeMap<NodeId, u32> = self.view.sessions.keys().map(|node| (node.clone(), 0)).collect();
        for holder in self.holders().into_values() {
            *spread.entry(holder).or_default() += 1;
        }
        spread
    }
    fn check_even(&self) {
        let spread = self.spread();
        let (min, max) = (spread.values().min().unwrap(), spread.values().max().unwrap());
        assert!(max - min <= 1, "uneven: {spread:?}");
    }
}

proptest! {
    #[test]
    fn nodes_come_to_rest_within_capacity(steps in proptest::collection::vec(step(), 1..25), seed in any::<Option<u64>>()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            // Without members nobody can act.
            if !world.view.sessions.is_empty() {
                world.settle(seed);
                world.check_at_rest();
            }
        }
    }

    #[test]
    fn claims_of_one_plan_fit_together(steps in proptest::collection::vec(step(), 1..25)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            for me in world.members() {
                let mut alone = world.clone();
                for action in plan(&world.view, &me, SETTLED).actions {
                    alone.act(&me, &action);
                }
                alone.check_capacity();
            }
        }
    }

    #[test]
    fn the_plan_does_not_depend_on_the_order_of_arrival(steps in proptest::collection::vec(step(), 1..20), flip in any::<bool>()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        let mut state = Vec::new();
        let entry = |key: Key, value, revision| Entry { key: key.to_string(), value, revision };
        for (node, session) in &world.view.sessions {
            state.push(entry(Key::Session(node.clone()), session.record.encode(), session.revision));
        }
        for (slot, record) in &world.view.slots {
            state.push(entry(Key::Slot(slot.clone()), record.record.encode(), record.revision));
        }
        let mut specs: Vec<Entry> = world.view.specs.iter()
            .map(|(name, spec)| entry(Key::Spec(name.clone()), spec.record.encode(), spec.revision)).collect();
        state.reverse();
        specs.reverse();
        let mut view = LatticeView::default();
        let mut both = [(Bucket::State, state), (Bucket::Specs, specs)];
        if flip {
            both.reverse();
        }
        for (bucket, entries) in both {
            let snapshot = Snapshot { identity: String::new(), head: Revision(world.revision), entries };
            view.apply_snapshot(bucket, snapshot);
        }
        for me in world.members() {
            prop_assert_eq!(plan(&view, &me, SETTLED), plan(&world.view, &me, SETTLED));
        }
    }

    #[test]
    fn every_vacant_slot_has_one_first_node(steps in proptest::collection::vec(step(), 1..20)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        let mut first = BTreeMap::<SlotId, u32>::new();
        for me in world.members() {
            for action in plan(&world.view, &me, SETTLED).actions {
                if let Action::Claim { slot, rank, .. } = action {
                    *first.entry(slot).or_default() += u32::from(rank == 0);
                }
            }
        }
        prop_assert!(first.values().all(|count| *count == 1), "{:?}", first);
    }

    #[test]
    fn replicas_are_spread_evenly(nodes in 1usize..=5, replicas in 0u32..30) {
        World::uniform(nodes, replicas).check_even();
    }

    #[test]
    fn scaling_moves_nothing(nodes in 1usize..=5, from in 0u32..20, to in 0u32..20) {
        let mut world = World::uniform(nodes, from);
        let before = world.holders();
        world.put(spec("a", to));
        world.settle(None);
        let after = world.holders();
        prop_assert_eq!(after.len() as u32, to);
        for (slot, node) in after {
            prop_assert!(before.get(&slot).is_none_or(|held| *held == node), "{} moved", slot);
        }
        if to >= from {
            world.check_even();
        }
    }

    #[test]
    fn losing_a_node_moves_its_slots_only(nodes in 2usize..=5, replicas in 0u32..20, lost in 0usize..5) {
        let mut world = World::uniform(nodes, replicas);
        let before = world.holders();
        let lost = id(NODES[lost % nodes]);
        world.view.sessions.remove(&lost);
        world.settle(None);
        world.check_even();
        for (slot, node) in world.holders() {
            prop_assert!(before[&slot] == node || before[&slot] == lost, "{} moved", slot);
        }
    }

    #[test]
    fn restarted_nodes_take_their_slots_back(nodes in 1usize..=5, replicas in 0u32..20, mask in 1u8..32) {
        let mut world = World::uniform(nodes, replicas);
        let before = world.holders();
        for index in (0..nodes).filter(|index| mask & (1 << index) != 0) {
            world.step(&Step::Restart(index));
        }
        world.settle(None);
        prop_assert_eq!(world.holders(), before);
    }
}
