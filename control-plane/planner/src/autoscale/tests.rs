//! Loads over time, and what follows from them.

use super::*;
use lattice::{
    id::{Digest, Revision},
    record::Scale,
    spec::{ComponentSpec, Source, WorkloadSpec},
    units::Millis,
    view::Versioned,
};
use proptest::prelude::*;

const TARGET: u32 = 10;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn seen(replicas: &BTreeMap<u32, Replica>, awaited: bool) -> Seen<'_> {
    Seen { replicas, awaited, pending: None }
}

fn spec(autoscale: AutoscaleSpec) -> SpecRecord {
    let main = ComponentSpec::new("main".parse().unwrap(), Source::Stored(Digest::of(b"x")));
    let autoscale = AutoscaleSpec { target: ScaleTarget::Concurrency(TARGET), ..autoscale };
    let spec = WorkloadSpec { autoscale: Some(autoscale), ..WorkloadSpec::new("w".parse().unwrap(), main) };
    SpecRecord::new(spec, uuid::Uuid::from_u128(1), Generation::FIRST)
}

/// Replicas that share a load, and a node that hears of them.
struct Model {
    spec: SpecRecord,
    scaler: Scaler,
    current: u32,
    now: Duration,
    /// Of each replica that there is: since when, and its sums.
    running: BTreeMap<u32, (Duration, LoadReport, u64)>,
    /// What was reported last, of each.
    heard: BTreeMap<u32, Heard>,
    reported: u64,
    /// How long a replica takes to start.
    start: Duration,
    /// Every change: when, and to how many.
    changes: Vec<(u64, u32, String)>,
    /// Seconds of replicas.
    spent: u64,
}

impl Model {
    fn new(autoscale: AutoscaleSpec, current: u32) -> Self {
        let spec = spec(autoscale);
        let now = s(1000);
        Self {
            scaler: Scaler::new(&spec, now),
            spec,
            current,
            now,
            running: (0..current).map(|index| (index, (now, LoadReport::default(), 0))).collect(),
            heard: BTreeMap::new(),
            reported: 0,
            start: s(2),
            changes: Vec::new(),
            spent: 0,
        }
    }

    /// A second in which so many requests are there at any time, `news` of them new.
    fn second(&mut self, load: u64, news: u64, is_silent: bool) -> Option<Decision> {
        self.now += s(1);
        self.spent += u64::from(self.current);
        let now = self.now;
        self.running.retain(|index, _| *index < self.current);
        self.heard.retain(|index, _| *index < self.current);
        for index in 0..self.current {
            self.running.entry(index).or_insert((now + self.start, LoadReport::default(), 0));
        }
        let mut ready: Vec<_> = self.running.values_mut().filter(|(since, ..)| *since <= now).collect();
        let count = ready.len() as u64;
        for (i, (_, sums, requests)) in ready.iter_mut().enumerate() {
            let share = load / count + u64::from((i as u64) < load % count);
            sums.watched += 1000;
            sums.busy += share * 1000;
            *requests += news;
        }
        // Where the load moved it is told at once, else every five seconds.
        let is_due = load != self.reported || now.as_secs().is_multiple_of(5);
        for (index, (since, sums, requests)) in self.running.iter().filter(|_| is_due && !is_silent) {
            if *since <= now && sums.watched > 0 {
                let life = (uuid::Uuid::nil(), Generation::FIRST);
                let present = load / count.max(1);
                self.heard.insert(*index, Heard { life, at: now, requests: *requests, present, load: *sums });
            }
        }
        self.reported = load;
        let silent = |heard: &Heard| now.saturating_sub(heard.at) >= SILENT;
        let replicas = (0..self.current).map(|index| {
            let heard = self.heard.get(&index).filter(|heard| !silent(heard));
            (index, heard.map_or(Replica::Unknown, |heard| Replica::Heard(*heard)))
        });
        let decision = self.scaler.look(now, &self.spec, self.current, seen(&replicas.collect(), false));
        if let Some(decision) = &decision {
            self.current = decision.replicas;
            self.changes.push((now.as_secs() - 1000, decision.replicas, decision.why.clone()));
        }
        decision
    }

    fn run(&mut self, seconds: u64, load: u64) {
        for _ in 0..seconds {
            self.second(load, load, false);
        }
    }

    /// How often more came after fewer had gone, or the other way round.
    fn turns(&self) -> usize {
        let numbers: Vec<u32> = self.changes.iter().map(|(_, replicas, _)| *replicas).collect();
        let up: Vec<bool> = numbers.windows(2).map(|pair| pair[0] < pair[1]).collect();
        up.windows(2).filter(|pair| pair[0] != pair[1]).count()
    }

    fn numbers(&self) -> Vec<(u64, u32)> {
        self.changes.iter().map(|(at, replicas, _)| (*at, *replicas)).collect()
    }
}

#[test]
fn load_brings_replicas_at_once_and_its_end_takes_them_after_a_while() {
    let mut model = Model::new(AutoscaleSpec::new(1, 20), 1);
    model.run(30, 5);
    assert_eq!(model.numbers(), [], "one is enough");
    model.run(30, 75);
    assert_eq!(model.current, 8);
    let first = model.changes.first().unwrap();
    assert!(first.0 <= 33, "{:?}", model.changes);
    assert!(first.2.contains("10 each are the target"), "{first:?}");
    assert!(model.changes.iter().is_sorted_by_key(|(_, replicas, _)| *replicas), "{:?}", model.changes);
    assert!(model.changes.iter().all(|(at, ..)| *at <= 40), "it settles: {:?}", model.changes);
    model.run(50, 0);
    assert_eq!(model.current, 8, "not within the window");
    model.run(40, 0);
    assert_eq!(model.current, 1, "{:?}", model.changes);
    assert_eq!(model.turns(), 1, "up, then down: {:?}", model.changes);
    assert_eq!(model.changes.last().unwrap().2, "no more were needed for 1m");
}

#[test]
fn noise_changes_nothing() {
    let mut model = Model::new(AutoscaleSpec::new(1, 20), 5);
    for second in 0..600 {
        model.second(50 + [0, 4, 2, 5, 3, 1][second % 6], 9, false);
    }
    assert_eq!(model.numbers(), []);
}

/// The number turns as often as the load does, and never while the window outlasts the pause.
#[test]
fn a_square_wave_does_not_make_replicas_flap() {
    println!("period  window  turns in a period  replicas on average (least possible: 4.5)");
    for (half, window, turns) in [(20, 60, 0), (50, 60, 0), (120, 60, 2), (120, 300, 0), (10, 5, 2), (300, 60, 2)] {
        let autoscale = AutoscaleSpec { down_after: Millis::from_secs(window), ..AutoscaleSpec::new(1, 20) };
        let mut model = Model::new(autoscale, 1);
        model.run(100, 80);
        let (before, spent) = (model.turns(), model.spent);
        let periods = 20;
        for _ in 0..periods {
            model.run(half, 8);
            model.run(half, 80);
        }
        let turned = model.turns() - before;
        assert!(turned <= turns * periods, "{half} {window}: {:?}", model.changes);
        let mean = (model.spent - spent) as f64 / (2 * half * periods as u64) as f64;
        println!("{:>4} s  {window:>4} s  {:>17.1}  {mean:>19.1}", 2 * half, turned as f64 / periods as f64);
    }
}

#[test]
fn what_is_not_known_is_not_idle() {
    let to_zero = AutoscaleSpec { idle: Some(Millis::from_secs(30)), ..AutoscaleSpec::new(0, 20) };
    let mut model = Model::new(to_zero, 4);
    model.run(10, 40);
    for _ in 0..1000 {
        assert_eq!(model.second(0, 0, true), None, "nobody reports");
    }
    model.run(40, 0);
    assert_eq!(model.numbers(), [(1045, 0)], "thirty seconds after they do again: {:?}", model.changes);
    assert_eq!(model.changes[0].2, "no request for 30s");
}

#[test]
fn one_silent_replica_counts_as_a_full_one_when_there_are_to_be_fewer() {
    let mut model = Model::new(AutoscaleSpec::new(1, 20), 6);
    let life = (uuid::Uuid::nil(), Generation::FIRST);
    for second in 1..200 {
        let now = s(1000 + second);
        let heard = |index: u32| {
            let load = LoadReport { watched: second * 1000, ..LoadReport::default() };
            let heard = Replica::Heard(Heard { life, at: now, requests: 0, present: 0, load });
            (index, if index < 2 { Replica::Unknown } else { heard })
        };
        let replicas: BTreeMap<u32, Replica> = (0..model.current).map(heard).collect();
        if let Some(decision) = model.scaler.look(now, &model.spec, model.current, seen(&replicas, false)) {
            model.current = decision.replicas;
        }
    }
    assert_eq!(model.current, 2, "the two that do not say");
}

#[test]
fn zero_takes_a_pause_without_a_single_request() {
    let to_zero = AutoscaleSpec { idle: Some(Millis::from_secs(60)), ..AutoscaleSpec::new(0, 20) };
    let mut model = Model::new(to_zero, 1);
    for _ in 0..20 {
        model.run(50, 0);
        model.second(0, 1, false);
    }
    assert_eq!(model.numbers(), [], "a request came in each minute");
    model.run(70, 0);
    assert_eq!(model.current, 0);
    model.run(100, 0);
    assert_eq!(model.current, 0, "only a request brings it back");
    let replicas = [(0, Replica::Absent)].into();
    let mut scaler = Scaler::new(&model.spec, s(0));
    for second in 0..1000 {
        assert_eq!(scaler.look(s(second), &model.spec, 1, seen(&replicas, true)), None, "requests wait for it");
    }
    let zero = (1000..1100).find_map(|second| scaler.look(s(second), &model.spec, 1, seen(&replicas, false)));
    assert_eq!(zero.unwrap().replicas, 0, "nobody can run it, and nobody waits any more");
}

#[test]
fn more_must_be_wanted_for_as_long_as_the_spec_says() {
    let slow = AutoscaleSpec { up_after: Millis::from_secs(20), ..AutoscaleSpec::new(1, 20) };
    let mut model = Model::new(slow, 1);
    model.run(30, 5);
    model.run(15, 60);
    model.run(30, 5);
    assert_eq!(model.numbers(), [], "it did not last");
    model.run(40, 60);
    assert_eq!(model.current, 6);
    assert!(model.changes[0].0 >= 75 + 20, "{:?}", model.changes);
}

#[test]
fn a_new_driver_takes_nothing_away_before_it_has_seen_the_window() {
    let mut model = Model::new(AutoscaleSpec::new(1, 20), 9);
    model.run(55, 10);
    model.scaler = Scaler::new(&model.spec, model.now);
    model.run(55, 10);
    assert_eq!(model.numbers(), []);
    model.run(10, 10);
    assert_eq!(model.current, 1);
}

/// The record holds within what the spec allows; without one, what is recorded of the workload does.
#[test]
fn the_wanted_number_follows_from_the_view() {
    let spec = spec(AutoscaleSpec::new(2, 5));
    let mut view = LatticeView::default();
    assert_eq!(view.replicas(&spec), 2);
    let decide = |view: &mut LatticeView, uid: u128, replicas: u32| {
        let record = Scale::new(uuid::Uuid::from_u128(uid), (0, replicas), 0, "test");
        view.scales.insert("w".parse().unwrap(), Versioned { record, revision: Revision(1) });
    };
    for (replicas, wanted) in [(0, 2), (3, 3), (9, 5)] {
        decide(&mut view, 1, replicas);
        assert_eq!(view.replicas(&spec), wanted);
    }
    decide(&mut view, 2, 4);
    assert_eq!(view.replicas(&spec), 2, "of another life of the workload");
}

fn replica() -> impl Strategy<Value = Replica> {
    let heard =
        (any::<u64>(), 0..5_u64, any::<[u64; 4]>(), 0..3_u128, 0..20_u64).prop_map(|(at, news, sums, life, of)| {
            let [watched, busy, queued, cpu] = sums.map(|sum| if of < 15 { sum % 100_000 } else { sum });
            Replica::Heard(Heard {
                life: (uuid::Uuid::from_u128(life), Generation::FIRST),
                at: Duration::from_millis(at % 1_000_000),
                requests: news,
                present: news,
                load: LoadReport { watched, busy, queued, cpu },
            })
        });
    prop_oneof![Just(Replica::Absent), Just(Replica::Unknown), heard]
}

proptest! {
    /// Whatever is reported: the number stays within its bounds, and zero comes only where it may.
    #[test]
    fn any_reports_are_survived(
        looks in proptest::collection::vec((proptest::collection::vec(replica(), 0..6), any::<bool>()), 1..80),
        min in 0..3_u32,
        step in 1..30_u64,
    ) {
        let spec = spec(AutoscaleSpec { idle: (min == 0).then_some(Millis::from_secs(20)), ..AutoscaleSpec::new(min, 6) });
        let mut scaler = Scaler::new(&spec, s(0));
        let mut current = 3;
        for (i, (replicas, awaited)) in looks.into_iter().enumerate() {
            let replicas: BTreeMap<u32, Replica> = (0..).zip(replicas).collect();
            let is_unknown = replicas.values().any(|replica| matches!(replica, Replica::Unknown));
            let now = s(i as u64 * step);
            if let Some(Decision { replicas, why }) = scaler.look(now, &spec, current, seen(&replicas, awaited)) {
                prop_assert!(replicas != current && (min..=6).contains(&replicas) && !why.is_empty());
                prop_assert!(replicas > 0 || min == 0 && !awaited && !is_unknown);
                current = replicas;
            }
            for track in scaler.tracks.values() {
                prop_assert!(track.points.len() <= POINTS_MAX);
            }
        }
    }

    /// With more load there are never fewer replicas.
    #[test]
    fn more_load_never_asks_for_fewer(known in 0..20_u32, unknown in 0..5_u32, one in 0..50_000_u64, more in 0..50_000_u64) {
        let load = |permille| Load { permille, known, unknown, pending: 0 };
        for current in 1..25 {
            prop_assert!(load(one).enough(current) <= load(one + more).enough(current));
        }
    }
}

#[test]
fn each_target_counts_something_else() {
    let load = LoadReport { watched: 10_000, busy: 64 * 10_000, queued: 16 * 10_000, cpu: 15_000 };
    let average = Average { load, requests: 3_000 };
    for (target, permille) in [
        (ScaleTarget::Concurrency(32), 2_500),
        (ScaleTarget::Requests(100), 3_000),
        (ScaleTarget::Queue(8), 3_000),
        (ScaleTarget::Cpu(50), 3_000),
    ] {
        assert_eq!(average.needed(&target, 64), permille, "{target}");
    }
    let calm = Average { load: LoadReport { queued: 0, ..load }, ..average };
    assert_eq!(calm.needed(&ScaleTarget::Queue(8), 64), 1_000, "what keeps the queue empty is needed");
    let absurd = Average {
        load: LoadReport { watched: 1, busy: u64::MAX, queued: u64::MAX, cpu: u64::MAX },
        requests: u64::MAX,
    };
    for target in [ScaleTarget::Concurrency(1), ScaleTarget::Requests(1), ScaleTarget::Queue(1), ScaleTarget::Cpu(1)] {
        assert!(absurd.needed(&target, 1) <= 20_000_000);
    }
}

fn of_messages(autoscale: AutoscaleSpec, each: u32) -> SpecRecord {
    let name = |text: &str| lattice::spec::JetStreamName::try_from(text.to_owned()).unwrap();
    let mut record = spec(autoscale);
    let target = PendingTarget { stream: name("orders"), consumer: name("shop"), each };
    record.spec.autoscale.as_mut().unwrap().target = ScaleTarget::Pending(target);
    record
}

/// Replicas that report each second that nothing is asked of them.
fn at_rest(replicas: u32, second: u64) -> BTreeMap<u32, Replica> {
    let load = LoadReport { watched: second * 1000, ..LoadReport::default() };
    let life = (uuid::Uuid::nil(), Generation::FIRST);
    (0..replicas)
        .map(|index| (index, Replica::Heard(Heard { life, at: s(second), requests: 0, present: 0, load })))
        .collect()
}

#[test]
fn messages_that_wait_bring_replicas_and_their_end_takes_them() {
    let down = AutoscaleSpec {
        down_after: Millis::from_secs(20),
        idle: Some(Millis::from_secs(40)),
        ..AutoscaleSpec::new(0, 8)
    };
    let spec = of_messages(down, 100);
    let mut scaler = Scaler::new(&spec, s(0));
    let (mut current, mut decided) = (0, Vec::new());
    for second in 1..300 {
        // Nobody can say it for a minute: that is neither more nor fewer, and never nothing.
        let pending = match second {
            0..10 => Some(0),
            10..50 => Some(351),
            50..110 => None,
            110..150 => Some(99),
            150..200 => Some(0),
            200..210 => None,
            _ => Some(0),
        };
        let replicas = at_rest(current, second);
        let seen = Seen { replicas: &replicas, awaited: false, pending };
        if let Some(decision) = scaler.look(s(second), &spec, current, seen) {
            current = decision.replicas;
            decided.push((second, current, decision.why));
        }
    }
    let numbers: Vec<(u64, u32)> = decided.iter().map(|(at, number, _)| (*at, *number)).collect();
    assert_eq!(numbers, [(10, 4), (130, 1), (189, 0)], "{decided:?}");
    assert_eq!(decided[0].2, "351 messages of orders/shop on no replica, and 100 each are the target");
    assert_eq!(decided[2].2, "no request and nothing pending for 40s");
}

#[test]
fn a_single_message_brings_one_and_a_flood_no_more_than_max() {
    let spec = of_messages(AutoscaleSpec::new(0, 8), u32::MAX);
    let look = |spec: &SpecRecord, pending| {
        let none = BTreeMap::new();
        Scaler::new(spec, s(0)).look(s(1), spec, 0, Seen { replicas: &none, awaited: false, pending: Some(pending) })
    };
    assert_eq!(look(&spec, 1).unwrap().replicas, 1);
    assert_eq!(look(&spec, 0), None);
    assert_eq!(look(&of_messages(AutoscaleSpec::new(0, 8), 1), u64::MAX).unwrap().replicas, 8);
}

#[test]
fn processor_time_counts_as_shares_of_one_core() {
    let autoscale = AutoscaleSpec::new(1, 20);
    let mut record = spec(autoscale);
    record.spec.autoscale.as_mut().unwrap().target = ScaleTarget::Cpu(50);
    let mut scaler = Scaler::new(&record, s(0));
    let decisions = (1..20).filter_map(|second| {
        // One and a half cores.
        let replicas = at_rest(1, second).into_iter().map(|(index, replica)| match replica {
            Replica::Heard(heard) => {
                (index, Replica::Heard(Heard { load: LoadReport { cpu: second * 1500, ..heard.load }, ..heard }))
            }
            other => (index, other),
        });
        let replicas = replicas.collect();
        scaler.look(s(second), &record, 1, seen(&replicas, false))
    });
    let decision = decisions.last().unwrap();
    assert_eq!(
        (decision.replicas, decision.why.as_str()),
        (3, "150 % of a core on 1 replica, and 50 % each are the target")
    );
}
