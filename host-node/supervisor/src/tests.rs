//! The whole table of one unit as text, and what a slot makes of its units.

use crate::{
    BACKOFF_MAX, BACKOFF_MIN, Effect, Event, Phase, Slot, Target, UnitId,
    unit::{Input, next},
};
use lattice::{id::Generation, record};
use proptest::prelude::*;
use std::{collections::BTreeMap, time::Duration};

const TABLE: &str = "\
Phase       Fetched               Compiled              Alone                 Warmed                Failed                RetryDue              Retired               Drained
Fetching    Compiling: Compile    -                     -                     -                     Backoff: Retry        -                     Gone: Discard         -
Compiling   -                     Warming: Warm         -                     -                     Backoff: Retry        -                     Gone: Discard         -
Compiling!  -                     Waiting: None         -                     -                     Backoff: Retry        -                     Gone: Discard         -
Waiting     -                     -                     Warming: Warm         -                     -                     -                     Gone: Discard         -
Warming     -                     -                     -                     Ready: Serve          Backoff: Retry        -                     Gone: Discard         -
Ready       -                     -                     -                     -                     Backoff: Retry        -                     Draining: Drain       -
Draining    -                     -                     -                     -                     Gone: Discard         -                     -                     Gone: Discard
Backoff     -                     -                     -                     -                     -                     Fetching: Fetch       Gone: Discard         -
Gone        -                     -                     -                     -                     -                     -                     -                     -
";

/// `!` marks a unit that must be alone.
#[test]
fn the_table() {
    let inputs = [
        Input::Fetched,
        Input::Compiled,
        Input::Alone,
        Input::Warmed,
        Input::Failed { why: String::new(), random: 0 },
        Input::RetryDue,
        Input::Retired,
        Input::Drained,
    ];
    let phases = [
        (Phase::Fetching, false),
        (Phase::Compiling, false),
        (Phase::Compiling, true),
        (Phase::Waiting, true),
        (Phase::Warming, false),
        (Phase::Ready, false),
        (Phase::Draining, false),
        (Phase::Backoff { attempt: 1 }, false),
        (Phase::Gone, false),
    ];
    let word = |text: String| text.split([' ', '(']).next().unwrap_or_default().to_owned();
    let line = |head: String, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("{cell:22}")).collect();
        format!("{}\n", format!("{head:12}{cells}").trim_end())
    };
    let mut table = line("Phase".into(), inputs.iter().map(|input| word(format!("{input:?}"))).collect());
    for (phase, exclusive) in phases {
        let cell = |input: &Input| match next(phase, input, 0, exclusive) {
            Some((phase, action)) => format!("{}: {}", word(format!("{phase:?}")), word(format!("{action:?}"))),
            None => "-".into(),
        };
        let mark = if exclusive && phase == Phase::Compiling { "!" } else { "" };
        table += &line(word(format!("{phase:?}")) + mark, inputs.iter().map(cell).collect());
    }
    assert_eq!(table, TABLE, "\n{table}");
}

fn target(generation: u64) -> Target {
    Target { uid: uuid::Uuid::nil(), generation: Generation(generation), exclusive: false }
}

fn failed(unit: UnitId) -> Event {
    Event::Failed { unit, why: "it broke".into(), random: 0 }
}

/// Bring the newest unit up; all that was asked for on the way.
fn bring_up(slot: &mut Slot, target: Target) -> (UnitId, Vec<Effect>) {
    let mut effects = slot.on(Event::Wanted(target));
    let unit = slot.phases().last().unwrap().0;
    for event in [Event::Fetched(unit), Event::Compiled(unit), Event::Warmed(unit)] {
        effects.extend(slot.on(event));
    }
    (unit, effects)
}

fn report(slot: &Slot) -> (u64, record::Phase, Option<String>) {
    let observed = slot.observed().unwrap();
    (observed.generation.0, observed.phase, observed.message)
}

#[test]
fn one_life() {
    let mut slot = Slot::default();
    assert_eq!(slot.observed(), None);
    let (unit, effects) = bring_up(&mut slot, target(1));
    let expected = [Effect::Fetch(unit, target(1)), Effect::Compile(unit), Effect::Warm(unit), Effect::Serve(unit)];
    assert_eq!(effects, expected);
    assert_eq!(report(&slot), (1, record::Phase::Ready, None));
    assert_eq!(slot.on(Event::Wanted(target(1))), []);
    assert_eq!(slot.on(Event::Unwanted), [Effect::Drain(unit)]);
    assert_eq!(report(&slot), (1, record::Phase::Starting, Some("draining".into())));
    assert_eq!(slot.serving(), None);
    assert_eq!(slot.on(Event::Unwanted), []);
    assert_eq!(slot.on(Event::Drained(unit)), [Effect::Discard(unit)]);
    assert_eq!(slot.observed(), None);
    assert_eq!(slot.on(Event::Drained(unit)), [Effect::Ignored(unit)]);
}

#[test]
fn a_new_generation_comes_up_beside_the_one_that_serves() {
    let mut slot = Slot::default();
    let (old, _) = bring_up(&mut slot, target(1));
    slot.on(Event::Wanted(target(2)));
    assert_eq!(report(&slot), (1, record::Phase::Ready, None));
    assert_eq!(slot.serving(), Some(old));
    let (new, effects) = bring_up(&mut slot, target(2));
    assert_eq!(effects, [Effect::Compile(new), Effect::Warm(new), Effect::Serve(new), Effect::Drain(old)]);
    assert_eq!((slot.serving(), report(&slot)), (Some(new), (2, record::Phase::Ready, None)));
    assert_eq!(slot.on(Event::Drained(old)), [Effect::Discard(old)]);
}

#[test]
fn a_generation_that_fails_leaves_the_old_one_serving_and_is_retried() {
    let mut slot = Slot::default();
    let (old, _) = bring_up(&mut slot, target(1));
    slot.on(Event::Wanted(target(2)));
    let new = UnitId(old.0 + 1);
    slot.on(Event::Fetched(new));
    assert_eq!(slot.on(failed(new)), [Effect::Retry(new, BACKOFF_MIN)]);
    assert_eq!(slot.serving(), Some(old));
    assert_eq!(report(&slot), (1, record::Phase::Ready, Some("generation 2 failed: it broke".into())));
    assert_eq!(slot.on(Event::Compiled(new)), [Effect::Ignored(new)]);
    assert_eq!(slot.on(Event::RetryDue(new)), [Effect::Fetch(new, target(2))]);
    assert_eq!(slot.on(Event::Wanted(target(1))), [Effect::Discard(new)], "back to what serves");
    assert_eq!(report(&slot), (1, record::Phase::Ready, None));
}

#[test]
fn a_newer_generation_replaces_one_that_is_coming() {
    let mut slot = Slot::default();
    slot.on(Event::Wanted(target(1)));
    assert_eq!(slot.on(Event::Wanted(target(2))), [Effect::Discard(UnitId(0)), Effect::Fetch(UnitId(1), target(2))]);
    assert_eq!(slot.on(Event::Fetched(UnitId(0))), [Effect::Ignored(UnitId(0))]);
    assert_eq!(slot.on(Event::Unwanted), [Effect::Discard(UnitId(1))]);
    assert_eq!(slot.observed(), None);
}

#[test]
fn what_serves_may_fail() {
    let mut slot = Slot::default();
    let (unit, _) = bring_up(&mut slot, target(1));
    assert_eq!(slot.on(failed(unit)), [Effect::Retry(unit, BACKOFF_MIN)]);
    assert_eq!(report(&slot), (1, record::Phase::Failed, Some("it broke".into())));
    slot.on(Event::RetryDue(unit));
    assert_eq!(report(&slot).1, record::Phase::Failed, "until it is ready");
    for event in [Event::Fetched(unit), Event::Compiled(unit), Event::Warmed(unit)] {
        slot.on(event);
    }
    assert_eq!(report(&slot), (1, record::Phase::Ready, None));
    slot.on(Event::Wanted(target(2)));
    let gone = [Effect::Retry(unit, BACKOFF_MIN * 2), Effect::Discard(unit)];
    assert_eq!(slot.on(failed(unit)), gone, "a newer one is coming already");
    assert_eq!(report(&slot), (2, record::Phase::Starting, None));
}

#[test]
fn a_strict_unit_runs_alone() {
    let strict = |generation| Target { exclusive: true, ..target(generation) };
    let mut slot = Slot::default();
    let (old, effects) = bring_up(&mut slot, strict(1));
    assert_eq!(effects.last(), Some(&Effect::Serve(old)));
    slot.on(Event::Wanted(strict(2)));
    let new = UnitId(old.0 + 1);
    slot.on(Event::Fetched(new));
    assert_eq!(slot.serving(), Some(old), "serves while the new one is compiled");
    assert_eq!(slot.on(Event::Compiled(new)), [Effect::Drain(old)]);
    assert_eq!(report(&slot), (2, record::Phase::Starting, None));
    assert_eq!(slot.on(Event::Drained(old)), [Effect::Discard(old), Effect::Warm(new)]);
    assert_eq!(slot.on(Event::Warmed(new)), [Effect::Serve(new)]);
    slot.on(Event::Unwanted);
    slot.on(Event::Wanted(strict(3)));
    let next = UnitId(new.0 + 1);
    slot.on(Event::Fetched(next));
    assert_eq!(slot.on(Event::Compiled(next)), [], "what drains still runs");
    assert_eq!(slot.on(Event::Drained(new)), [Effect::Discard(new), Effect::Warm(next)]);
}

#[test]
fn retries_back_off() {
    for (random, least, most) in [(0, BACKOFF_MIN, BACKOFF_MAX / 2), (u64::MAX, BACKOFF_MIN, BACKOFF_MAX)] {
        let mut slot = Slot::default();
        let unit = UnitId(0);
        slot.on(Event::Wanted(target(1)));
        let mut last = Duration::ZERO;
        for _ in 0..50 {
            let effects = slot.on(Event::Failed { unit, why: String::new(), random });
            let [Effect::Retry(_, delay)] = effects[..] else { panic!("{effects:?}") };
            assert!((least..=most).contains(&delay), "{delay:?}");
            last = delay;
            slot.on(Event::RetryDue(unit));
        }
        assert!(last >= BACKOFF_MAX / 2);
    }
}

/// The host node's part: for each unit, the one thing that is under way.
#[derive(Default)]
struct Shell {
    slot: Slot,
    under_way: BTreeMap<UnitId, Effect>,
    serving: Option<UnitId>,
}

impl Shell {
    fn on(&mut self, event: Event) {
        for effect in self.slot.on(event) {
            if let Effect::Drain(unit) | Effect::Discard(unit) | Effect::Retry(unit, _) = effect {
                self.serving = self.serving.filter(|serving| *serving != unit);
            }
            match effect {
                Effect::Serve(unit) => {
                    self.under_way.remove(&unit);
                    self.serving = Some(unit);
                }
                Effect::Ignored(unit) => panic!("{unit:?} got an event of work that was under way"),
                Effect::Discard(unit) => drop(self.under_way.remove(&unit)),
                Effect::Fetch(unit, _)
                | Effect::Compile(unit)
                | Effect::Warm(unit)
                | Effect::Drain(unit)
                | Effect::Retry(unit, _) => drop(self.under_way.insert(unit, effect)),
            }
        }
        assert_eq!(self.slot.serving(), self.serving);
        let coming = self.slot.phases().filter(|(_, phase)| phase.is_coming()).count();
        assert!(coming <= 1, "{:?}", self.slot);
    }

    /// Let some work that is under way end.
    fn finish(&mut self, which: usize, well: bool) {
        let Some((&unit, &work)) = self.under_way.iter().nth(which % self.under_way.len().max(1)) else { return };
        self.under_way.remove(&unit);
        self.on(match work {
            Effect::Retry(..) => Event::RetryDue(unit),
            Effect::Drain(_) => Event::Drained(unit),
            _ if !well => failed(unit),
            Effect::Fetch(..) => Event::Fetched(unit),
            Effect::Compile(_) => Event::Compiled(unit),
            _ => Event::Warmed(unit),
        });
    }

    fn running(&self) -> usize {
        let runs = |phase| matches!(phase, Phase::Warming | Phase::Ready | Phase::Draining);
        self.slot.phases().filter(|(_, phase)| runs(*phase)).count()
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_last_wish_comes_true(
        steps in proptest::collection::vec((0u8..5, 0u64..4, 0usize..8), 0..60),
        exclusive in any::<bool>(),
        last in proptest::option::of(0u64..4),
    ) {
        let target = |generation| Target { exclusive, ..target(generation) };
        let mut shell = Shell::default();
        for (step, generation, which) in steps {
            match step {
                0 => shell.on(Event::Wanted(target(generation))),
                1 if which == 0 => shell.on(Event::Unwanted),
                2 => shell.finish(which, false),
                _ => shell.finish(which, true),
            }
            prop_assert!(!exclusive || shell.running() <= 1, "{:?}", shell.slot);
        }
        shell.on(last.map_or(Event::Unwanted, |generation| Event::Wanted(target(generation))));
        for _ in 0..100 {
            shell.finish(0, true);
        }
        let observed = shell.slot.observed().map(|observed| (observed.generation.0, observed.phase));
        prop_assert_eq!(observed, last.map(|generation| (generation, record::Phase::Ready)));
        prop_assert_eq!(shell.slot.phases().count(), usize::from(last.is_some()));
    }
}
