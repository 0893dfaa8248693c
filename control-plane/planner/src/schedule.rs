//! Who takes which tick of a schedule. A tick is taken by writing the workload's [`Ticks`], compare-and-set, and only the
//! writer fires it: so no tick fires twice, whatever the nodes' clocks and views say. They only decide when, and who
//! tries first.
//!
//! Start at [`turn`].

use crate::{Me, hash::rendezvous};
use lattice::{
    id::{NodeId, SlotId, WorkloadName},
    record::{DecodeError, Firing, Key, Outcome, Settled, SpecRecord, Ticks},
    spec::ScheduleSpec,
    store::Precondition,
    view::{LatticeView, Versioned},
};

/// How long after its time a tick may still be taken. What nobody took until then is missed.
pub const LATE_MS: u64 = 60_000;
/// Missed ticks are counted up to here.
pub const MISSED_COUNTED_MAX: u32 = 1000;
/// Nodes behind this rank wait no longer than it.
const RANK_MAX: u64 = 10;
/// Where there is nothing to wait for, look again after this time all the same: a clock may be set.
const IDLE_MS: u64 = 1000;

/// What a node does about one workload's schedules now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Turn {
    pub write: Option<TicksWrite>,
    /// What is to be told once the write has landed.
    pub missed: Vec<Missed>,
    /// A tick is due, and no replica is there that could take it.
    pub is_awaited: bool,
    /// When to look again at the latest, in milliseconds since 1970.
    pub wake: u64,
}

/// A write to the record, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TicksWrite {
    Put {
        record: Ticks,
        expect: Precondition,
    },
    /// The workload is gone.
    Delete {
        expect: lattice::id::Revision,
    },
}

/// Ticks that did not fire, or may not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missed {
    /// Nobody took them in time.
    Skipped { schedule: String, count: u32, first: u64 },
    /// The node that took it was lost before it said what became of it.
    Lost { schedule: String, tick: u64, node: NodeId },
}

/// Decide about one workload. `record` is the newest that this node knows, `now_ms` its wall clock, `delay_ms` what each
/// next node of the ranking waits longer, `room` how many more firings this node can have under way.
pub fn turn(
    view: &LatticeView,
    workload: &WorkloadName,
    record: Option<&Versioned<Ticks>>,
    me: &Me,
    (now_ms, delay_ms): (u64, u64),
    room: usize,
) -> Turn {
    let mut turn = Turn { wake: now_ms + IDLE_MS, ..Turn::default() };
    let Some(rank) = rank(view, workload, me) else { return turn };
    let Some(spec) = view.specs.get(workload).map(|spec| &spec.record) else {
        let is_corrupt = view.corrupt.contains_key(&Key::Spec(workload.clone()).to_string());
        if let Some(record) = record.filter(|_| rank == 0 && !is_corrupt) {
            turn.write = Some(TicksWrite::Delete { expect: record.revision });
        }
        return turn;
    };
    let known = record.map(|record| &record.record).filter(|record| record.uid == spec.uid);
    if let Some(corrupt) = view.corrupt.get(&Key::Cron(workload.clone()).to_string()) {
        if rank == 0 && matches!(corrupt.error, DecodeError::Malformed(_)) {
            // The last good one again; else what was settled is unknown, and nothing before now fires.
            let record = known.cloned().unwrap_or_else(|| brought_up(None, spec, now_ms));
            turn.write = Some(TicksWrite::Put { record, expect: Precondition::At(corrupt.revision) });
        }
        return turn;
    }
    let expect = record.map_or(Precondition::Absent, |record| Precondition::At(record.revision));
    match known {
        Some(known) if known.generation > spec.generation => {}
        Some(known) if known.generation == spec.generation => {
            let next = turn.take_ticks(known, view, spec, me, rank, (now_ms, delay_ms), room);
            turn.write = (next != *known).then_some(TicksWrite::Put { record: next, expect });
        }
        _ if rank > 0 => {}
        None if spec.spec.schedule.is_empty() => {
            turn.write = record.map(|record| TicksWrite::Delete { expect: record.revision });
        }
        known => turn.write = Some(TicksWrite::Put { record: brought_up(known, spec, now_ms), expect }),
    }
    turn
}

impl Turn {
    /// The record with what this node takes, and what is given up.
    #[expect(clippy::too_many_arguments, reason = "what `turn` knows by then")]
    fn take_ticks(
        &mut self,
        known: &Ticks,
        view: &LatticeView,
        spec: &SpecRecord,
        me: &Me,
        rank: u64,
        (now_ms, delay_ms): (u64, u64),
        mut room: usize,
    ) -> Ticks {
        let mut next = known.clone();
        let is_served = serving(view, &spec.spec.name).next().is_some();
        // What an earlier rank takes, it takes before this one's clock comes there.
        let now = now_ms.saturating_sub(rank.min(RANK_MAX) * delay_ms);
        for schedule in &spec.spec.schedule {
            let key = schedule.key();
            let Some(settled) = next.schedules.get_mut(&key) else { continue };
            if rank == 0 {
                self.missed.extend(give_up(view, &key, settled));
            }
            match last_due(schedule, settled, now) {
                Some(tick) if is_served && room > 0 => {
                    room -= 1;
                    self.missed.extend(skipped(schedule, &key, settled.until, tick));
                    self.missed.extend(give_up(view, &key, settled));
                    *settled = Settled { until: tick, last: Some(Firing { tick, holder: me.holder(), outcome: None }) };
                }
                Some(_) => self.is_awaited |= !is_served,
                None if rank > 0 => {}
                None => {
                    let until = now.saturating_sub(LATE_MS);
                    if let Some(missed) = skipped(schedule, &key, settled.until, until + 1) {
                        self.missed.push(missed);
                        settled.until = until;
                    }
                }
            }
            if let Some(tick) = schedule.next_after(now.max(settled.until)) {
                self.wake = self.wake.min(tick.saturating_add(now_ms - now));
            }
        }
        next
    }
}

/// The record for a generation's schedules: what is new begins now. A workload that is scaled to none has none.
fn brought_up(known: Option<&Ticks>, spec: &SpecRecord, now_ms: u64) -> Ticks {
    let known = known.cloned().unwrap_or_else(|| Ticks::new(spec.uid));
    let begin = known.latest().max(now_ms);
    let keys = spec.spec.schedule.iter().filter(|_| spec.spec.may_run()).map(ScheduleSpec::key);
    let settled = |key: String| {
        let settled = known.schedules.get(&key).cloned().unwrap_or(Settled { until: begin, last: None });
        (key, settled)
    };
    Ticks { floor: known.latest(), schedules: keys.map(settled).collect(), generation: spec.generation, uid: spec.uid }
}

/// The last tick that may still be taken: of several, the others are missed.
fn last_due(schedule: &ScheduleSpec, settled: &Settled, now: u64) -> Option<u64> {
    let from = settled.until.max(now.saturating_sub(LATE_MS));
    let next = |after: &u64| schedule.next_after(*after).filter(|tick| *tick <= now);
    std::iter::successors(next(&from), next).last()
}

/// The ticks after one moment and before another.
fn skipped(schedule: &ScheduleSpec, key: &str, after: u64, before: u64) -> Option<Missed> {
    let next = |after: &u64| schedule.next_after(*after).filter(|tick| *tick < before);
    let first = next(&after)?;
    let counted = std::iter::successors(Some(first), next).take(MISSED_COUNTED_MAX as usize).count();
    let count = u32::try_from(counted).unwrap_or(MISSED_COUNTED_MAX);
    Some(Missed::Skipped { schedule: key.to_owned(), count, first })
}

/// Say of a tick whose node is gone that nobody knows what became of it.
fn give_up(view: &LatticeView, key: &str, settled: &mut Settled) -> Option<Missed> {
    let firing = settled.last.as_mut().filter(|firing| firing.outcome.is_none())?;
    if view.live(&firing.holder).is_some() {
        return None;
    }
    firing.outcome = Some(Outcome::Lost);
    Some(Missed::Lost { schedule: key.to_owned(), tick: firing.tick, node: firing.holder.node.clone() })
}

/// Replicas that answer now, with their nodes.
fn serving<'a>(view: &'a LatticeView, workload: &WorkloadName) -> impl Iterator<Item = (u32, &'a NodeId)> {
    view.slots_of(workload).filter_map(|(slot, record)| {
        let holder = record.record.serving().filter(|holder| view.live(holder).is_some())?;
        Some((slot.index, &holder.node))
    })
}

/// The node's place among those that may take a tick: whoever serves the first replica comes first, since the request
/// need not travel.
fn rank(view: &LatticeView, workload: &WorkloadName, me: &Me) -> Option<u64> {
    view.live(&me.holder()).filter(|session| !session.draining)?;
    let slot = SlotId::new(workload.clone(), 0);
    let weight = |node: &NodeId| {
        let first = serving(view, workload).find(|(_, serves)| *serves == node);
        (first.map_or(u32::MAX, |(index, _)| index), rendezvous(&slot, node))
    };
    let mine = (weight(&me.node), &me.node);
    let members = view.sessions.iter().filter(|(_, session)| !session.record.draining);
    let before = members.filter(|(node, _)| (weight(node), *node) < mine).count();
    u64::try_from(before).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::{
        id::{Digest, Generation, Revision},
        record::{Holder, Phase, Slot},
        spec::{ComponentSpec, Source, WorkloadSpec},
    };
    use std::sync::Arc;

    /// 2026-11-22T11:00:00Z, a whole minute.
    const NOON: u64 = 1_795_345_200_000;
    const KEY: &str = "* * * * * UTC /";
    const DELAY: u64 = 150;

    fn uuid(number: u128) -> uuid::Uuid {
        uuid::Uuid::from_u128(number)
    }

    fn holder(node: &str) -> Holder {
        Holder { node: node.parse().unwrap(), incarnation: uuid(1) }
    }

    fn me(node: &str) -> Me {
        Me { node: node.parse().unwrap(), incarnation: uuid(1) }
    }

    fn workload() -> WorkloadName {
        "w".parse().unwrap()
    }

    /// Nodes n1 to n3, `w` with one replica on n2 and the record's `until`.
    struct World {
        view: LatticeView,
        record: Option<Versioned<Ticks>>,
    }

    impl World {
        fn new(cron: &[&str], until: u64) -> Self {
            let mut world = World { view: LatticeView::default(), record: None };
            for node in ["n1", "n2", "n3"] {
                let record = lattice::testing::session(node.parse().unwrap(), uuid(1));
                world.view.sessions.insert(node.parse().unwrap(), Versioned { record, revision: Revision(1) });
            }
            world.put(cron, 1);
            world.hold(Some("n2"));
            let first = turn(&world.view, &workload(), None, &me("n2"), (until, DELAY), 1);
            assert!(world.land(first).is_empty());
            world
        }

        fn put(&mut self, cron: &[&str], generation: u64) {
            let main = ComponentSpec::new("main".parse().unwrap(), Source::Stored(Digest::of(b"")));
            let mut spec = WorkloadSpec::new(workload(), main);
            let yaml = |cron: &&str| serde_json::json!({ "cron": cron });
            spec.schedule = cron.iter().map(|cron| serde_json::from_value(yaml(cron)).unwrap()).collect();
            let record = SpecRecord::new(spec, uuid(7), Generation(generation));
            self.view.specs.insert(workload(), Arc::new(Versioned { record, revision: Revision(generation) }));
        }

        fn hold(&mut self, node: Option<&str>) {
            self.view.slots.clear();
            let Some(node) = node else { return };
            let record = Slot {
                holder: holder(node),
                uid: uuid(7),
                generation: Generation::FIRST,
                phase: Phase::Ready,
                message: None,
                failures: None,
                handover_from: None,
                gpu: None,
                handover_gpu: None,
                nonce: uuid(0),
                claimed_at: 0,
                since: 0,
            };
            self.view.slots.insert(SlotId::new(workload(), 0), Versioned { record, revision: Revision(1) });
        }

        fn turn(&self, node: &str, now: u64) -> Turn {
            turn(&self.view, &workload(), self.record.as_ref(), &me(node), (now, DELAY), 1)
        }

        /// Carry a turn out; answers with what was missed.
        fn land(&mut self, turn: Turn) -> Vec<Missed> {
            match turn.write {
                Some(TicksWrite::Put { record, expect }) => {
                    let revision = self.record.as_ref().map(|record| record.revision);
                    assert_eq!(expect, revision.map_or(Precondition::Absent, Precondition::At));
                    let revision = Revision(revision.map_or(1, |revision| revision.0 + 1));
                    self.record = Some(Versioned { record, revision });
                }
                Some(TicksWrite::Delete { expect }) => {
                    assert_eq!(self.record.take().map(|record| record.revision), Some(expect));
                }
                None => {}
            }
            turn.missed
        }

        fn settled(&self, key: &str) -> &Settled {
            self.record.as_ref().unwrap().record.schedules.get(key).unwrap()
        }
    }

    #[test]
    fn the_node_with_the_replica_takes_the_tick_and_others_come_later() {
        let mut world = World::new(&["* * * * *"], NOON - 30_000);
        let early = world.turn("n2", NOON - 1);
        assert_eq!((early.write, early.wake), (None, NOON));
        let nodes = ["n1", "n2", "n3"];
        let mut since: Vec<u64> = nodes
            .iter()
            .map(|node| (0..1000).find(|ms| world.turn(node, NOON + ms).write.is_some()).unwrap())
            .collect();
        assert_eq!(since.get(1), Some(&0));
        since.sort_unstable();
        assert_eq!(since, [0, DELAY, 2 * DELAY]);
        let taken = world.turn("n2", NOON + 5);
        assert!(world.land(taken).is_empty());
        let expect = Firing { tick: NOON, holder: holder("n2"), outcome: None };
        assert_eq!(world.settled(KEY), &Settled { until: NOON, last: Some(expect) });
        // Whoever's clock is behind, or whose view is late by no more than this record, has nothing left to take.
        for node in nodes {
            assert_eq!(world.turn(node, NOON + 30_000).write, None, "{node}");
            assert_eq!(world.turn(node, NOON - 30_000).write, None, "{node}");
        }
    }

    #[test]
    fn a_tick_waits_for_a_replica_within_its_time_and_then_is_missed() {
        let mut world = World::new(&["0 * * * *"], NOON - 30_000);
        world.hold(None);
        assert_eq!(world.turn("n2", NOON + LATE_MS - 1).write, None);
        let mut late = World::new(&["0 * * * *"], NOON - 30_000);
        let taken = late.turn("n2", NOON + LATE_MS - 1);
        assert!(late.land(taken).is_empty() && late.settled("0 * * * * UTC /").last.is_some());
        let first = ["n1", "n2", "n3"].map(|node| (world.turn(node, NOON + LATE_MS), node));
        let [told] = first.iter().filter(|(turn, _)| turn.write.is_some()).collect::<Vec<_>>()[..] else {
            panic!("{first:?}");
        };
        let missed = world.land(told.0.clone());
        assert_eq!(missed, [Missed::Skipped { schedule: "0 * * * * UTC /".into(), count: 1, first: NOON }]);
        assert_eq!(world.settled("0 * * * * UTC /"), &Settled { until: NOON, last: None });
        assert_eq!(told.0.wake, NOON + LATE_MS + IDLE_MS);
    }

    #[test]
    fn of_several_only_the_last_fires() {
        let mut world = World::new(&["* * * * * *"], NOON);
        let key = "* * * * * * UTC /";
        let turn = world.turn("n2", NOON + 3_500_300);
        let missed = world.land(turn);
        assert_eq!(missed, [Missed::Skipped { schedule: key.into(), count: MISSED_COUNTED_MAX, first: NOON + 1000 }]);
        assert_eq!(world.settled(key).until, NOON + 3_500_000);
        let turn = world.turn("n2", NOON + 3_503_000);
        let missed = world.land(turn);
        assert_eq!(missed, [Missed::Skipped { schedule: key.into(), count: 2, first: NOON + 3_501_000 }]);
    }

    #[test]
    fn a_lost_node_is_told_once_and_its_tick_is_not_repeated() {
        let mut world = World::new(&["0 * * * *"], NOON - 30_000);
        let taken = world.turn("n2", NOON);
        world.land(taken);
        world.view.sessions.remove(&"n2".parse::<NodeId>().unwrap());
        let turns = ["n1", "n3"].map(|node| world.turn(node, NOON + 5_000));
        let [told] = turns.iter().filter(|turn| turn.write.is_some()).collect::<Vec<_>>()[..] else {
            panic!("{turns:?}");
        };
        let missed = world.land(told.clone());
        let node = "n2".parse().unwrap();
        assert_eq!(missed, [Missed::Lost { schedule: "0 * * * * UTC /".into(), tick: NOON, node }]);
        world.hold(Some("n3"));
        for node in ["n1", "n3"] {
            assert_eq!(world.turn(node, NOON + 20_000).write, None);
        }
    }

    #[test]
    fn schedules_that_come_back_do_not_repeat_and_old_specs_change_nothing() {
        let mut world = World::new(&["* * * * *"], NOON - 30_000);
        let taken = world.turn("n2", NOON);
        world.land(taken);
        let old = world.view.specs.clone();
        world.put(&["@daily"], 2);
        let turn = world.turn("n2", NOON + 1000);
        world.land(turn);
        assert_eq!(world.record.as_ref().unwrap().record.schedules.keys().collect::<Vec<_>>(), ["@daily UTC /"]);
        let new = std::mem::replace(&mut world.view.specs, old);
        assert_eq!(world.turn("n2", NOON + 60_000).write, None);
        world.view.specs = new;
        // Put back by a node whose clock is behind.
        world.put(&["* * * * *"], 3);
        let turn = world.turn("n2", NOON - 10_000);
        world.land(turn);
        assert_eq!(world.settled(KEY), &Settled { until: NOON + 1000, last: None });
    }

    #[test]
    fn the_record_ends_with_the_workload() {
        let mut world = World::new(&["* * * * *"], NOON - 30_000);
        world.put(&[], 2);
        let turn = world.turn("n2", NOON);
        world.land(turn);
        assert!(world.record.as_ref().unwrap().record.schedules.is_empty());
        world.view.specs.clear();
        world.hold(None);
        let turns = ["n1", "n2", "n3"].map(|node| world.turn(node, NOON));
        assert_eq!(turns.iter().filter(|turn| turn.write.is_some()).count(), 1);
        // Another life of the name begins anew.
        world.put(&["* * * * *"], 1);
        let mut spec = world.view.specs.get(&workload()).unwrap().record.clone();
        spec.uid = uuid(8);
        world.view.specs.insert(workload(), Arc::new(Versioned { record: spec, revision: Revision(9) }));
        world.hold(Some("n2"));
        let turn = world.turn("n2", NOON);
        world.land(turn);
        let record = &world.record.as_ref().unwrap().record;
        assert_eq!((record.uid, record.floor, world.settled(KEY).until), (uuid(8), 0, NOON));
    }
}
