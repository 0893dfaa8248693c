//! Changes of what replicas run, step by step: nodes that start what they are assigned, and some that can't.

use super::*;
use crate::{AnalysisObserver, Elapsed, RolloutObserver, Step, advance, is_at_rest, open_rollouts, rollout_rank};
use lattice::{
    record::{DecodeError, Rollout, RolloutState, failure},
    report::{AnswersReport, HostReport, NodeReport, SlotReport},
    spec::{Portion, Rollback, RolloutSpec, RolloutStep},
    units::Millis,
};
use std::time::Duration;

mod analysis;
mod beside;
mod weights;

/// A workload `w` on three nodes, each of whose replicas serves generation 1.
struct Rolling {
    world: World,
    observer: RolloutObserver,
    now: Duration,
    /// A template that does not start.
    bad: Option<Generation>,
    /// Replicas that do not run what was there before.
    broken: BTreeSet<u32>,
    analysis: AnalysisObserver,
    /// What replicas of each template answered.
    answers: BTreeMap<(u32, Generation), AnswersReport>,
    /// Nodes report as if they had been started again since.
    is_other_life: bool,
}

fn asked(replicas: u32, version: &str, rollout: RolloutSpec) -> WorkloadSpec {
    let mut spec = WorkloadSpec { rollout, ..spec("w", replicas) };
    spec.components[0].env.insert("VERSION".into(), version.into());
    spec
}

fn budgets(max_surge: u32, max_unavailable: u32) -> RolloutSpec {
    let portion = Portion::Count;
    RolloutSpec { max_surge: portion(max_surge), max_unavailable: portion(max_unavailable), ..RolloutSpec::default() }
}

impl Rolling {
    /// Each node has room for so many replicas' memory.
    fn new(replicas: u32, room: u64, rollout: &RolloutSpec) -> Self {
        let mut world = World::new();
        for number in 1..=3 {
            world.node(&format!("n{number}"), number).capacity =
                Capacity { slots: 100, memory: (room * 100) << 20, millicores: 0 };
        }
        world.put(asked(replicas, "1", rollout.clone()));
        for index in 0..replicas {
            let number = u128::from(index % 3 + 1);
            world.hold(&format!("w.{index}"), &format!("n{number}"), number, Phase::Ready);
        }
        Self {
            world,
            observer: RolloutObserver::default(),
            now: Duration::from_secs(1),
            bad: None,
            broken: BTreeSet::new(),
            analysis: AnalysisObserver::default(),
            answers: BTreeMap::new(),
            is_other_life: false,
        }
    }

    fn without(mut self, broken: impl IntoIterator<Item = u32>) -> Self {
        for index in broken {
            let id = slot(&format!("w.{index}"));
            self.world.view.slots.get_mut(&id).unwrap().record.phase = Phase::Failed;
            self.broken.insert(index);
        }
        self
    }

    fn spec(&self) -> &SpecRecord {
        &self.world.view.specs.get(&name("w")).unwrap().record
    }
    fn rollout(&self) -> Option<&Rollout> {
        self.world.view.rollout(&name("w"))
    }
    fn put(&mut self, spec: WorkloadSpec) -> Generation {
        let next = self.spec().next(self.rollout(), spec, Default::default(), Default::default(), 0);
        let template = next.template();
        self.world.put_record(next);
        template
    }
    /// Templates by index.
    fn runs(&self) -> Vec<u64> {
        self.world.view.slots_of(&name("w")).map(|(_, slot)| slot.record.generation.0).collect()
    }
    fn serving(&self) -> usize {
        self.world.view.slots_of(&name("w")).filter(|(_, slot)| slot.record.phase == Phase::Ready).count()
    }

    /// Hosts do one thing each, those that chance says.
    fn hosts(&mut self, chance: &mut impl FnMut() -> bool) {
        for me in self.world.members() {
            let plan = plan(&self.world.view, &me, SETTLED);
            for (id, assignment) in plan.assignments {
                let record = self.world.view.slots.get(&id).unwrap().record.clone();
                let (at, is_bad) = (assignment.generation, Some(assignment.generation) == self.bad);
                let is_new = record.generation != at;
                let is_broken = at == Generation::FIRST && self.broken.contains(&id.index);
                let failures = record.failures.unwrap_or_default() + 1;
                let next = match record.phase {
                    Phase::Ready if !is_new && record.message.is_none() => continue,
                    Phase::Ready if is_new && assignment.waits => continue,
                    _ if !chance() => continue,
                    Phase::Ready if is_new && assignment.stop_first => record.observed(at, Phase::Starting, None, 0, 0),
                    Phase::Ready if is_new && is_bad => {
                        let why = failure(at, "no luck");
                        record.observed(record.generation, Phase::Ready, Some(&why), failures, 0)
                    }
                    _ if is_broken => record.observed(at, Phase::Failed, Some("it never ran"), failures, 0),
                    _ if is_bad => record.observed(at, Phase::Failed, Some("no luck"), failures, 0),
                    _ => record.observed(at, Phase::Ready, None, 0, 0),
                };
                let revision = self.world.next();
                let slot = self.world.view.slots.get_mut(&id).unwrap();
                (slot.record, slot.revision) = (next, revision);
            }
        }
    }

    fn elapsed(&mut self) -> Elapsed {
        let open = open_rollouts(&self.world.view);
        let mut beyond = self.analysis.observe(self.now, &self.world.view, &open, &self.reports());
        let elapsed = self.observer.observe(self.now, &self.world.view, &open).remove(&name("w")).unwrap_or_default();
        Elapsed { beyond: beyond.remove(&name("w")), ..elapsed }
    }

    fn reports(&self) -> Vec<Arc<NodeReport>> {
        let mut reports = BTreeMap::<NodeId, NodeReport>::new();
        for (slot, held) in self.world.view.slots_of(&name("w")) {
            let Slot { holder, uid, generation, .. } = &held.record;
            let mut said = SlotReport::new(*uid, *generation);
            said.answers = self.answers.get(&(slot.index, *generation)).copied();
            let life = if self.is_other_life { uuid::Uuid::nil() } else { holder.incarnation };
            let new = || NodeReport::new(holder.node.clone(), life, HostReport::default());
            reports.entry(holder.node.clone()).or_insert_with(new).host.slots.insert(slot.clone(), said);
        }
        reports.into_values().map(Arc::new).collect()
    }

    /// What a node would do, done. Answers why the change was given up.
    fn advance(&mut self) -> Option<String> {
        self.now += Duration::from_millis(500);
        let elapsed = self.elapsed();
        match advance(&self.world.view, &name("w"), &elapsed)? {
            Step::Put { record, expect } => {
                let there = self.world.view.rollouts.get(&name("w")).map(|there| there.revision);
                assert_eq!(expect, there.map_or(Precondition::Absent, Precondition::At));
                let revision = self.world.next();
                self.world.view.rollouts.insert(name("w"), Versioned { record, revision });
                None
            }
            Step::Abort { expect, reason } => {
                assert_eq!(Some(expect), self.world.view.specs.get(&name("w")).map(|spec| spec.revision));
                let back = self.spec().abort(&reason, 0).unwrap();
                self.world.put_record(back);
                Some(reason)
            }
            Step::Forget { .. } => panic!("the workload is there"),
        }
    }

    /// As `lattice rollout resume` writes it.
    fn resume(&mut self) {
        let revision = self.world.next();
        let record = Rollout { state: RolloutState::Progressing, message: None, ..self.rollout().unwrap().clone() };
        self.world.view.rollouts.insert(name("w"), Versioned { record, revision });
    }

    /// Replicas that serve something else than they are to run, and may change now.
    fn returning(&self) -> usize {
        let plans = self.world.members().into_iter().map(|me| plan(&self.world.view, &me, SETTLED).assignments);
        let returns = |(id, assignment): &(SlotId, lattice::host::Assignment)| {
            let held = &self.world.view.slots.get(id).unwrap().record;
            held.phase == Phase::Ready && held.generation != assignment.generation && !assignment.waits
        };
        plans.flatten().filter(returns).count()
    }

    /// Nothing of two templates is started where there is no room for both.
    fn check_room(&self) {
        for me in self.world.members() {
            let doubled = |(id, assignment): (&SlotId, &lattice::host::Assignment)| {
                let record = &self.world.view.slots.get(id).unwrap().record;
                let is_doubled = record.phase == Phase::Ready && record.generation != assignment.generation;
                1 + u64::from(is_doubled && !assignment.stop_first)
            };
            let reserved: u64 = plan(&self.world.view, &me, SETTLED).assignments.iter().map(doubled).sum();
            let room = self.world.view.sessions.get(&me.node).unwrap().record.capacity;
            assert!((reserved * 100) << 20 <= room.memory, "{} reserves {reserved}", me.node);
            assert!(reserved * self.spec().spec.reserve.cpu.0 <= room.millicores, "{} reserves {reserved}", me.node);
        }
    }

    /// Until nothing happens any more.
    fn run(&mut self, mut chance: impl FnMut() -> bool, mut check: impl FnMut(&Self)) -> Option<String> {
        for _ in 0..2000 {
            let reason = self.advance();
            check(self);
            if reason.is_some() {
                return reason;
            }
            if self.spec().is_settled(self.rollout()) {
                return None;
            }
            self.hosts(&mut chance);
            check(self);
        }
        panic!("it does not end: {:?} {:?}", self.rollout(), self.runs());
    }
}

#[test]
fn one_after_the_other_and_then_the_new_one_is_stable() {
    let mut rolling = Rolling::new(3, 10, &RolloutSpec::default());
    let template = rolling.put(asked(3, "2", RolloutSpec::default()));
    assert_eq!((template, rolling.runs()), (Generation(2), vec![1, 1, 1]));
    rolling.hosts(&mut || true);
    assert_eq!(rolling.runs(), [1, 1, 1], "nothing changes before a node has said so");
    for runs in [[2, 1, 1], [2, 2, 1], [2, 2, 2]] {
        rolling.advance();
        rolling.hosts(&mut || true);
        assert_eq!((rolling.runs(), rolling.serving()), (runs.to_vec(), 3));
    }
    rolling.advance();
    assert_eq!(rolling.rollout().unwrap().state, RolloutState::Done);
    assert_eq!(rolling.advance(), None);
    // The next one comes from there.
    rolling.put(asked(3, "3", RolloutSpec::default()));
    assert_eq!(rolling.spec().stable.as_ref().unwrap().template(), Generation(2));
    rolling.run(|| true, |_| {});
    assert_eq!(rolling.runs(), [3, 3, 3]);
}

#[test]
fn what_is_around_replicas_changes_without_them() {
    let mut rolling = Rolling::new(2, 10, &RolloutSpec::default());
    let mut spec = asked(2, "1", budgets(2, 0));
    spec.placement.priority = 3;
    assert_eq!(rolling.put(spec.clone()), Generation(1));
    assert!(rolling.spec().stable.is_none() && open_rollouts(&rolling.world.view).is_empty());
    // While a change is under way, it goes on.
    let mut changed = asked(2, "2", RolloutSpec::default());
    rolling.put(changed.clone());
    rolling.advance();
    changed.replicas = 3;
    assert_eq!(rolling.put(changed), Generation(3));
    assert_eq!(rolling.rollout().unwrap().below, 1);
    assert_eq!(rolling.world.view.wanted(&slot("w.0")).unwrap().template(), Generation(3));
    assert_eq!(rolling.world.view.wanted(&slot("w.2")).unwrap().template(), Generation(1));
    // Back to what is stable: at once.
    spec.replicas = 2;
    assert_eq!(rolling.put(spec), Generation(1));
    assert!(rolling.spec().stable.is_none());
}

#[test]
fn a_template_that_fails_is_given_up_and_another_one_begins_anew() {
    let mut rolling = Rolling::new(4, 10, &RolloutSpec::default());
    rolling.bad = Some(rolling.put(asked(4, "2", RolloutSpec::default())));
    let reason = rolling.run(|| true, |rolling| assert_eq!(rolling.serving(), 4));
    assert_eq!(reason.as_deref(), Some("replica 0 on n1: no luck"));
    assert!((30..35).contains(&rolling.now.as_secs()), "not the whole deadline: {:?}", rolling.now);
    let spec = rolling.spec();
    assert_eq!((spec.generation, spec.template()), (Generation(3), Generation(1)));
    assert_eq!(spec.aborted.as_ref().map(|aborted| aborted.generation), Some(Generation(2)));
    rolling.hosts(&mut || true);
    assert!(
        rolling.runs() == [1, 1, 1, 1] && rolling.world.view.slots.get(&slot("w.0")).unwrap().record.message.is_none()
    );
    rolling.put(asked(4, "3", RolloutSpec::default()));
    assert_eq!(rolling.run(|| true, |_| {}), None);
    assert_eq!(rolling.runs(), [4, 4, 4, 4]);
}

/// Until the replica is back, nothing else takes the room of what it runs.
#[test]
fn what_was_given_up_has_its_room_as_long_as_it_runs() {
    let large = |version: &str| {
        let limits = Limits { memory: Bytes::mib(500), ..Limits::default() };
        WorkloadSpec { limits, ..asked(1, version, RolloutSpec::default()) }
    };
    let mut rolling = Rolling::new(1, 10, &RolloutSpec::default());
    rolling.put(large("2"));
    rolling.advance();
    rolling.hosts(&mut || true);
    assert_eq!(rolling.runs(), [2]);
    let reserved = |rolling: &Rolling| {
        let held = &rolling.world.view.slots.get(&slot("w.0")).unwrap().record;
        crate::templates::reserved(rolling.spec(), rolling.rollout(), 0, held, None).memory
    };
    let mib = |number: u64| number << 20;
    assert_eq!(reserved(&rolling), mib(500));
    let mut replaced = rolling.world.clone();
    rolling.world.put_record(rolling.spec().abort("no", 0).unwrap());
    assert_eq!(reserved(&rolling), mib(600), "it comes up beside");
    rolling.hosts(&mut || true);
    assert_eq!((rolling.runs(), reserved(&rolling)), (vec![1], mib(100)));
    // The same where another put replaces it.
    std::mem::swap(&mut rolling.world, &mut replaced);
    rolling.put(asked(1, "3", RolloutSpec::default()));
    assert_eq!((rolling.runs(), reserved(&rolling)), (vec![2], mib(600)));
    assert_eq!(rolling.run(|| true, |_| {}), None);
    assert_eq!((rolling.runs(), reserved(&rolling)), (vec![3], mib(100)));
}

#[test]
fn one_that_never_gets_ready_is_given_up_at_the_deadline_or_left_to_people() {
    let slow = RolloutSpec { deadline: Millis::from_secs(60), ..RolloutSpec::default() };
    let mut rolling = Rolling::new(2, 10, &slow);
    rolling.put(asked(2, "2", slow.clone()));
    let reason = rolling.run(|| false, |_| {});
    assert_eq!(reason.as_deref(), Some("replica 0 on n1 did not get ready within 1m"));
    assert!((60..63).contains(&rolling.now.as_secs()), "{:?}", rolling.now);

    let manual = RolloutSpec { rollback: Rollback::Manual, ..slow };
    let mut rolling = Rolling::new(2, 10, &manual);
    rolling.put(asked(2, "2", manual));
    for _ in 0..200 {
        assert_eq!(rolling.advance(), None);
    }
    let rollout = rolling.rollout().unwrap();
    assert_eq!((rollout.state, rollout.below), (RolloutState::Stalled, 1));
    assert!(rollout.message.is_some());
    // It was only late.
    assert_eq!(rolling.run(|| true, |_| {}), None);
    assert_eq!(rolling.runs(), [2, 2]);
}

/// Starting takes half a minute, and fails once or twice on the way.
#[test]
fn bad_luck_is_not_what_does_not_work() {
    for failures in [1, 2] {
        let mut rolling = Rolling::new(2, 10, &RolloutSpec::default());
        let template = rolling.put(asked(2, "2", RolloutSpec::default()));
        rolling.advance();
        let serving = rolling.world.view.slots.get(&slot("w.0")).unwrap().record.clone();
        let failed = serving.observed(Generation(1), Phase::Ready, Some(&failure(template, "no luck")), failures, 0);
        rolling.world.view.slots.get_mut(&slot("w.0")).unwrap().record = failed.clone();
        assert_eq!(failed.said().as_deref(), Some("generation 2 failed: no luck; it is tried again"));
        for _ in 0..140 {
            assert_eq!(rolling.advance(), None, "{:?}", rolling.now);
        }
        assert!(rolling.now > Duration::from_secs(60));
        assert_eq!(rolling.run(|| true, |_| {}), None);
        assert_eq!(rolling.runs(), [2, 2]);
    }
    // However it goes on, there is a deadline; and a node of an older version does not count.
    for (failures, at) in [(2, 300), (3, 30), (0, 30)] {
        let mut rolling = Rolling::new(2, 10, &RolloutSpec::default());
        let template = rolling.put(asked(2, "2", RolloutSpec::default()));
        rolling.advance();
        let held = &mut rolling.world.view.slots.get_mut(&slot("w.0")).unwrap().record;
        *held = held.observed(Generation(1), Phase::Ready, Some(&failure(template, "no luck")), failures, 0);
        let reason = rolling.run(|| false, |_| {});
        assert_eq!(reason.as_deref(), Some("replica 0 on n1: no luck"));
        assert!((at..at + 3).contains(&rolling.now.as_secs()), "{failures} failures: {:?}", rolling.now);
    }
}

#[test]
fn of_those_who_decide_at_once_one_has_its_way() {
    let mut rolling = Rolling::new(1, 10, &RolloutSpec::default());
    rolling.bad = Some(rolling.put(asked(1, "2", RolloutSpec::default())));
    while rolling.rollout().is_none_or(|rollout| rollout.state != RolloutState::GivingUp) {
        let there = rolling.world.view.rollouts.get(&name("w")).map(|there| there.revision);
        let elapsed = rolling.elapsed();
        if let Some(step) = advance(&rolling.world.view, &name("w"), &elapsed) {
            // Whoever sees that it is done, is paused, or is promoted, writes at the same revision.
            let Step::Put { expect, .. } = step else { panic!("it is given up before anybody could know: {step:?}") };
            assert_eq!(expect, there.map_or(Precondition::Absent, Precondition::At));
        }
        assert_eq!(rolling.advance(), None);
        rolling.hosts(&mut || true);
    }
    // From then on it is, though the replica gets ready after all.
    rolling.bad = None;
    rolling.hosts(&mut || true);
    assert_eq!(rolling.runs(), [2]);
    let spec = rolling.world.view.specs.get(&name("w")).unwrap().revision;
    let step = advance(&rolling.world.view, &name("w"), &Elapsed::default());
    let reason = "replica 0 on n1: no luck".to_owned();
    assert_eq!(step, Some(Step::Abort { expect: spec, reason }));
    assert!(!is_at_rest(&rolling.world.view, &name("w")));
    // Whoever put another spec meanwhile has it.
    rolling.put(asked(1, "3", RolloutSpec::default()));
    assert_eq!(rolling.run(|| true, |_| {}), None);
    assert_eq!(rolling.runs(), [3]);
}

#[test]
fn a_replica_counts_when_it_was_ready_for_long_enough() {
    let careful = RolloutSpec { min_ready: Millis::from_secs(5), ..RolloutSpec::default() };
    let mut rolling = Rolling::new(2, 10, &careful);
    rolling.put(asked(2, "2", careful));
    rolling.advance();
    rolling.hosts(&mut || true);
    for _ in 0..10 {
        rolling.advance();
        assert_eq!(rolling.rollout().unwrap().below, 1, "{:?}", rolling.now);
    }
    rolling.advance();
    assert_eq!(rolling.rollout().unwrap().below, 2);
    rolling.hosts(&mut || true);
    // Whoever has not watched begins anew.
    rolling.now += Duration::from_secs(60);
    rolling.advance();
    assert_eq!(rolling.rollout().unwrap().state, RolloutState::Progressing);
    assert_eq!(rolling.run(|| true, |_| {}), None);
}

#[test]
fn steps_stop_on_the_way_for_a_while_or_until_somebody_goes_on() {
    let step = |replicas, pause: Option<u64>| RolloutStep {
        replicas: Some(replicas),
        weight: None,
        pause: pause.map(Millis::from_secs),
    };
    let steps = vec![step(Portion::Count(1), Some(60)), step(Portion::Percent(50), None)];
    // The stop is longer than the deadline.
    let stepwise =
        RolloutSpec { steps, deadline: Millis::from_secs(30), max_surge: Portion::Count(2), ..RolloutSpec::default() };
    let mut rolling = Rolling::new(6, 10, &stepwise);
    rolling.put(asked(6, "2", stepwise.clone()));
    let begin = rolling.now;
    let turn = |rolling: &mut Rolling| {
        assert_eq!(rolling.advance(), None);
        rolling.hosts(&mut || true);
    };
    while rolling.rollout().is_none_or(|rollout| rollout.step == 0) {
        turn(&mut rolling);
        let rollout = rolling.rollout().unwrap();
        assert!(rollout.step == 1 || rollout.below == 1, "{rollout:?}");
    }
    assert!((60..62).contains(&(rolling.now - begin).as_secs()), "{:?}", rolling.now - begin);
    for _ in 0..300 {
        turn(&mut rolling);
    }
    let rollout = rolling.rollout().unwrap();
    assert_eq!((rollout.state, rollout.below, rollout.step), (RolloutState::Paused, 3, 2));
    assert_eq!(rollout.message.as_deref(), Some("step 2 of 2 (50%) is over"));
    assert_eq!(rolling.runs(), [2, 2, 2, 1, 1, 1]);
    rolling.resume();
    assert_eq!(rolling.run(|| true, |_| {}), None);
    assert_eq!(rolling.runs(), [2; 6]);
}

#[test]
fn a_replica_that_starts_again_while_a_step_holds_has_the_whole_deadline() {
    let steps =
        vec![RolloutStep { replicas: Some(Portion::Count(2)), weight: None, pause: Some(Millis::from_secs(600)) }];
    let stepwise = RolloutSpec { steps, max_surge: Portion::Count(2), ..RolloutSpec::default() };
    let mut rolling = Rolling::new(4, 10, &stepwise);
    rolling.put(asked(4, "2", stepwise));
    for _ in 0..800 {
        assert_eq!(rolling.advance(), None);
        rolling.hosts(&mut || true);
    }
    assert!(rolling.now > Duration::from_secs(400), "longer than the deadline");
    let set = |rolling: &mut Rolling, phase| {
        let held = &mut rolling.world.view.slots.get_mut(&slot("w.1")).unwrap().record;
        *held = held.observed(Generation(2), phase, None, 0, 0);
    };
    set(&mut rolling, Phase::Starting);
    let since = rolling.now;
    while rolling.now < since + Duration::from_secs(100) {
        assert_eq!(rolling.advance(), None, "{:?}", rolling.now - since);
    }
    // The step lasts as long as it was to, counted from when its last replica was ready first.
    set(&mut rolling, Phase::Ready);
    while rolling.rollout().unwrap().step == 0 {
        assert_eq!(rolling.advance(), None);
    }
    assert!((600..605).contains(&rolling.now.as_secs()), "{:?}", rolling.now);
    // One that does not come back is late in its time.
    set(&mut rolling, Phase::Starting);
    let since = rolling.now;
    assert!(rolling.run(|| false, |_| {}).is_some());
    assert!((300..305).contains(&(rolling.now - since).as_secs()), "{:?}", rolling.now - since);
}

#[test]
fn without_room_for_both_it_waits_or_stops_first() {
    // One node has room for two, and two replicas.
    let mut rolling = Rolling::new(6, 2, &RolloutSpec::default());
    rolling.put(asked(6, "2", RolloutSpec::default()));
    let reason = rolling.run(
        || true,
        |rolling| {
            assert_eq!(rolling.serving(), 6);
            rolling.check_room();
        },
    );
    assert!(reason.is_some_and(|reason| reason.contains("no memory left")));
    assert_eq!(rolling.runs(), [1; 6]);

    let mut rolling = Rolling::new(6, 2, &RolloutSpec::default());
    rolling.put(asked(6, "2", budgets(1, 1)));
    let reason = rolling.run(
        || true,
        |rolling| {
            assert!(rolling.serving() >= 5);
            rolling.check_room();
        },
    );
    assert_eq!((reason, rolling.runs()), (None, vec![2; 6]));
}

#[test]
fn without_processors_for_both_it_waits_or_stops_first() {
    for (rollout, runs) in [(RolloutSpec::default(), 1), (budgets(1, 1), 2)] {
        let reserving = |version: &str| {
            let reserve = ReserveSpec { cpu: Millicores(1000) };
            WorkloadSpec { reserve, ..asked(6, version, rollout.clone()) }
        };
        // One node has memory for ten replicas and processors for two, and two replicas.
        let mut rolling = Rolling::new(6, 10, &rollout);
        (1..=3).for_each(|number| rolling.world.session(&format!("n{number}")).capacity.millicores = 2000);
        rolling.world.put_record(SpecRecord::new(reserving("1"), life(7), Generation::FIRST));
        rolling.put(reserving("2"));
        let reason = rolling.run(|| true, Rolling::check_room);
        assert_eq!(reason.is_some_and(|reason| reason.contains("no processors left")), runs == 1);
        assert_eq!(rolling.runs(), [runs; 6]);
    }
}

#[test]
fn strict_replicas_stop_first_one_at_a_time() {
    let strict = |version: &str| WorkloadSpec { class: Class::Strict, ..asked(3, version, RolloutSpec::default()) };
    let mut rolling = Rolling::new(3, 10, &RolloutSpec::default());
    rolling.world.put_record(SpecRecord::new(strict("1"), life(7), Generation(1)));
    rolling.put(strict("2"));
    assert_eq!(rolling.run(|| true, |rolling| assert!(rolling.serving() >= 2)), None);
    assert_eq!(rolling.runs(), [2, 2, 2]);
}

/// All of what is new is there when it is given up.
#[test]
fn the_way_back_keeps_to_the_budgets_too() {
    let step = vec![RolloutStep { replicas: Some(Portion::Percent(100)), weight: None, pause: None }];
    let (strict, available) = (Class::Strict, Class::Available);
    for (class, budget, at_once, least) in [
        (strict, budgets(1, 0), 1, 5),
        (strict, budgets(1, 2), 2, 4),
        (available, budgets(0, 2), 2, 4),
        (available, budgets(2, 0), 2, 6),
    ] {
        let rollout = RolloutSpec { steps: step.clone(), ..budget };
        let asked = |version: &str| WorkloadSpec { class, ..asked(6, version, rollout.clone()) };
        let mut rolling = Rolling::new(6, 10, &rollout);
        rolling.world.put_record(SpecRecord::new(asked("1"), life(7), Generation::FIRST));
        rolling.put(asked("2"));
        for _ in 0..20 {
            rolling.advance();
            rolling.hosts(&mut || true);
        }
        assert_eq!((rolling.runs(), rolling.rollout().unwrap().state), (vec![2; 6], RolloutState::Paused));
        // One is down anyway: it has nothing to lose.
        let down = &mut rolling.world.view.slots.get_mut(&slot("w.5")).unwrap().record;
        *down = down.observed(Generation(2), Phase::Starting, None, 0, 0);
        rolling.world.put_record(rolling.spec().abort("no", 0).unwrap());
        rolling.hosts(&mut || true);
        assert_eq!(rolling.runs()[5], 1, "{class:?}");
        let mut turns = 0;
        while rolling.runs() != [1; 6] {
            let turn = rolling.returning();
            assert!((0..=at_once).contains(&turn), "{turn} at a time: {:?}", rolling.runs());
            rolling.hosts(&mut || true);
            assert!(rolling.serving() >= least, "{class:?}: {} of {least}", rolling.serving());
            turns += 1;
            assert!(turns < 20, "it does not end: {:?}", rolling.runs());
        }
    }
}

/// What was stable does not start any more in one of the replicas: the others go back all the same, and what comes next comes.
#[test]
fn one_that_does_not_come_back_keeps_nobody_else_from_it() {
    let strict = |version: &str| WorkloadSpec { class: Class::Strict, ..asked(3, version, RolloutSpec::default()) };
    let mut rolling = Rolling::new(3, 10, &RolloutSpec::default());
    rolling.world.put_record(SpecRecord::new(strict("1"), life(7), Generation::FIRST));
    rolling.put(strict("2"));
    while rolling.runs() != [2; 3] || rolling.serving() < 3 {
        rolling.advance();
        rolling.hosts(&mut || true);
    }
    rolling.broken.insert(0);
    rolling.world.put_record(rolling.spec().abort("no", 0).unwrap());
    for turn in 0..20 {
        rolling.hosts(&mut || true);
        let failures = rolling.world.view.slots.get(&slot("w.0")).unwrap().record.failures;
        assert!(failures == Some(3) || rolling.serving() == 2, "{turn}: {:?}", rolling.runs());
    }
    assert_eq!((rolling.runs(), rolling.serving()), (vec![1; 3], 2));
    rolling.put(strict("3"));
    assert_eq!(rolling.run(|| true, |_| {}), None);
    assert_eq!((rolling.runs(), rolling.serving()), (vec![4; 3], 3));
}

#[test]
fn a_record_that_was_lost_sends_nobody_back() {
    let mut rolling = Rolling::new(4, 10, &RolloutSpec::default());
    rolling.put(asked(4, "2", RolloutSpec::default()));
    for _ in 0..2 {
        rolling.advance();
        rolling.hosts(&mut || true);
    }
    rolling.world.view.rollouts.clear();
    rolling.hosts(&mut || true);
    assert_eq!(rolling.runs(), [2, 2, 1, 1]);
    rolling.advance();
    assert_eq!(rolling.rollout().unwrap().below, 3);
    assert_eq!(rolling.run(|| true, |_| {}), None);
    // A record of a newer template than this view has a spec of is another's business.
    let newer = Rollout { template: Generation(9), ..rolling.rollout().unwrap().clone() };
    rolling.put(asked(4, "3", RolloutSpec::default()));
    rolling.world.view.rollouts.get_mut(&name("w")).unwrap().record = newer;
    assert_eq!(advance(&rolling.world.view, &name("w"), &Elapsed::default()), None);
}

/// While nodes are upgraded, some may not be able to read what was put.
#[test]
fn who_can_not_read_the_newest_spec_changes_nothing_of_the_workload() {
    let mut rolling = Rolling::new(3, 10, &RolloutSpec::default());
    rolling.put(asked(3, "2", RolloutSpec::default()));
    rolling.advance();
    rolling.world.view.slots.remove(&slot("w.2"));
    let claims = |world: &World| {
        let plans = world.members().into_iter().flat_map(|me| plan(&world.view, &me, SETTLED).actions);
        plans.filter(|action| matches!(action, Action::Claim { .. })).count()
    };
    assert!(claims(&rolling.world) > 0);
    let held = |world: &World| -> Vec<usize> {
        world.members().iter().map(|me| plan(&world.view, me, SETTLED).assignments.len()).collect()
    };
    let before = held(&rolling.world);
    for (error, is_left_alone) in [(DecodeError::Newer(9), true), (DecodeError::Malformed(String::new()), false)] {
        rolling.world.corrupt("spec.w");
        rolling.world.view.corrupt.get_mut("spec.w").unwrap().error = error;
        assert_eq!(claims(&rolling.world) == 0, is_left_alone);
        assert_eq!(held(&rolling.world), before, "what runs goes on");
        let late = Elapsed { without_progress: Duration::from_secs(1000), ..Elapsed::default() };
        assert_eq!(advance(&rolling.world.view, &name("w"), &late).is_none(), is_left_alone);
    }
}

#[test]
fn nodes_act_one_after_the_other_and_those_that_leave_do_not() {
    let mut rolling = Rolling::new(1, 10, &RolloutSpec::default());
    let ranks = |world: &World| -> Vec<Option<u32>> {
        world.members().iter().map(|me| rollout_rank(&world.view, &name("w"), me)).collect()
    };
    let mut all: Vec<u32> = ranks(&rolling.world).into_iter().flatten().collect();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2]);
    rolling.world.session("n2").draining = true;
    let mut left = ranks(&rolling.world);
    assert_eq!(left.remove(1), None);
    left.sort_unstable();
    assert_eq!(left, [Some(0), Some(1)]);
}

#[test]
fn replicas_that_are_down_before_do_not_keep_their_cure_from_them() {
    for (class, rollout) in [(Class::Strict, RolloutSpec::default()), (Class::default(), budgets(0, 1))] {
        let asked = |version| WorkloadSpec { class, ..asked(2, version, rollout.clone()) };
        let mut rolling = Rolling::new(2, 10, &rollout).without([1]);
        rolling.world.put_record(SpecRecord::new(asked("1"), life(7), Generation::FIRST));
        rolling.put(asked("2"));
        assert_eq!(rolling.run(|| true, |_| {}), None);
        assert_eq!((rolling.runs(), rolling.serving()), (vec![2, 2], 2));
        assert!(rolling.now < Duration::from_secs(10), "{:?}", rolling.now);
    }
}

#[test]
fn percentages_that_come_to_nothing_let_one_stop() {
    let portion = Portion::Percent;
    let rollout = RolloutSpec { max_surge: portion(0), max_unavailable: portion(25), ..RolloutSpec::default() };
    let mut rolling = Rolling::new(3, 10, &rollout);
    rolling.put(asked(3, "2", rollout));
    assert_eq!(rolling.run(|| true, |rolling| assert!(rolling.serving() >= 2)), None);
    assert_eq!(rolling.runs(), [2, 2, 2]);
}

#[test]
fn a_replica_that_fits_nowhere_does_not_undo_what_runs() {
    for homeless in ["w.0", "w.1", "w.3"] {
        let mut rolling = Rolling::new(4, 10, &RolloutSpec::default());
        rolling.world.view.slots.remove(&slot(homeless));
        rolling.put(asked(4, "2", RolloutSpec::default()));
        assert_eq!(rolling.run(|| true, |rolling| assert_eq!(rolling.serving(), 3)), None);
        assert_eq!(rolling.runs(), [2, 2, 2]);
        assert!((30..45).contains(&rolling.now.as_secs()), "its node may be on its way back: {:?}", rolling.now);
    }
    // Nobody knows whether what fits nowhere at all would run.
    let mut rolling = Rolling::new(2, 10, &RolloutSpec::default());
    rolling.world.view.slots.clear();
    rolling.put(asked(2, "2", RolloutSpec::default()));
    assert_eq!(rolling.run(|| true, |_| {}).as_deref(), Some("replica 0: no node has taken it"));
    assert!((300..305).contains(&rolling.now.as_secs()), "{:?}", rolling.now);
}

#[test]
fn without_replicas_it_stays_open_until_one_has_shown_that_it_runs() {
    let mut rolling = Rolling::new(2, 10, &RolloutSpec::default());
    rolling.world.view.slots.clear();
    rolling.put(asked(0, "2", RolloutSpec::default()));
    for _ in 0..1000 {
        assert_eq!(rolling.advance(), None);
    }
    let rollout = rolling.rollout().unwrap().clone();
    assert_eq!((rollout.state, rollout.below), (RolloutState::Progressing, 1));
    assert!(is_at_rest(&rolling.world.view, &name("w")));
    // The first one that comes runs it at once, and what does not run is given up.
    rolling.put(asked(2, "2", RolloutSpec::default()));
    assert_eq!(rolling.world.view.wanted(&slot("w.0")).unwrap().template(), Generation(2));
    for index in 0..2 {
        rolling.world.hold(&format!("w.{index}"), "n1", 1, Phase::Starting);
    }
    rolling.bad = Some(Generation(2));
    let since = rolling.now;
    assert_eq!(rolling.run(|| true, |_| {}).as_deref(), Some("replica 0 on n1: no luck"));
    assert!(rolling.now - since >= Duration::from_secs(30));
}

#[test]
fn a_step_holds_where_it_is_as_large_as_all_there_is() {
    for replicas in [Portion::Count(1), Portion::Count(5), Portion::Percent(100)] {
        let step = |pause| RolloutStep { replicas: Some(replicas), weight: None, pause };
        let steps = vec![step(Some(Millis::from_secs(60))), step(None)];
        let stepwise = RolloutSpec { steps, ..RolloutSpec::default() };
        let mut rolling = Rolling::new(1, 10, &stepwise);
        rolling.put(asked(1, "2", stepwise));
        for _ in 0..200 {
            assert_eq!(rolling.advance(), None);
            rolling.hosts(&mut || true);
            let rollout = rolling.rollout().unwrap();
            assert_eq!(rollout.step > 0, rolling.now > Duration::from_millis(61_500), "{:?} {rollout:?}", rolling.now);
        }
        let paused = rolling.rollout().unwrap().clone();
        assert_eq!((paused.state, paused.step), (RolloutState::Paused, 2));
        assert!(is_at_rest(&rolling.world.view, &name("w")));
        rolling.resume();
        assert_eq!(rolling.run(|| true, |_| {}), None);
    }
}

#[test]
fn resumed_it_has_as_long_again_to_succeed() {
    let manual = RolloutSpec { rollback: Rollback::Manual, ..RolloutSpec::default() };
    let mut rolling = Rolling::new(2, 10, &manual);
    rolling.bad = Some(rolling.put(asked(2, "2", manual)));
    for _ in 0..2 {
        let since = rolling.now;
        while rolling.rollout().is_none_or(|rollout| rollout.state != RolloutState::Stalled) {
            assert_eq!(rolling.advance(), None);
            rolling.hosts(&mut || true);
        }
        assert!((30..35).contains(&(rolling.now - since).as_secs()), "{:?}", rolling.now - since);
        rolling.resume();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn budgets_are_kept_and_it_ends(
        replicas in 1u32..10, surge in 0u32..4, unavailable in 0u32..3, room in 5u64..8, is_bad in any::<bool>(),
        is_strict in any::<bool>(), broken in proptest::collection::btree_set(0u32..10, 0..5), seed in any::<u64>(),
    ) {
        prop_assume!(surge + unavailable > 0);
        let rollout = budgets(surge, unavailable);
        let broken: BTreeSet<u32> = broken.into_iter().filter(|index| *index < replicas).collect();
        let mut rolling = Rolling::new(replicas, room, &rollout).without(broken.clone());
        let class = if is_strict { Class::Strict } else { Class::default() };
        let asked = |version: &str| WorkloadSpec { class, ..asked(replicas, version, rollout.clone()) };
        rolling.world.put_record(SpecRecord::new(asked("1"), life(7), Generation::FIRST));
        let template = rolling.put(asked("2"));
        rolling.bad = is_bad.then_some(template);
        let mut seed = seed;
        let mut chance = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed >> 63 == 1
        };
        // Those that served before the change less those that it may stop.
        let (served, stopped) = (replicas as usize - broken.len(), unavailable.max(u32::from(is_strict)) as usize);
        let least = served.saturating_sub(stopped);
        let reason = rolling.run(&mut chance, |rolling| {
            assert!(rolling.serving() >= least, "{} of {least} serve: {:?}", rolling.serving(), rolling.rollout());
            let below = rolling.rollout().map_or(0, |rollout| rollout.below) as usize;
            let is_new = |runs: &u64| *runs == template.0;
            assert!(rolling.runs().iter().skip(below).all(|runs| !is_new(runs)), "{:?}", rolling.runs());
            rolling.check_room();
        });
        prop_assert_eq!(reason.is_some(), is_bad, "{:?}", reason);
        for _ in 0..600 {
            rolling.hosts(&mut chance);
            assert!(rolling.serving() >= least, "{} of {least} serve on the way back", rolling.serving());
        }
        let expected = if is_bad { 1 } else { template.0 };
        prop_assert_eq!(rolling.runs(), vec![expected; replicas as usize]);
        prop_assert_eq!(rolling.serving(), if is_bad { served } else { replicas as usize });
    }
}
