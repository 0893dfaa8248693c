//! The whole table of one unit as text, and what a slot makes of its units.

use crate::{
    BACKOFF_MAX, BACKOFF_MIN, Effect, Event, Phase, STABLE_AFTER, Slot, Target, UnitId,
    unit::{Input, Traits, next},
};
use lattice::{id::Generation, record};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

const TABLE: &str = "\
Phase       Fetched               Compiled              Alone                 Warmed                Passed                NotReady              Failed                RetryDue              Retired               Drained
Fetching    Compiling: Compile    -                     -                     -                     -                     -                     Backoff: Retry        -                     Gone: Discard         -
Compiling   -                     Warming: Warm         -                     -                     -                     -                     Backoff: Retry        -                     Gone: Discard         -
Compiling!  -                     Waiting: None         -                     -                     -                     -                     Backoff: Retry        -                     Gone: Discard         -
Waiting     -                     -                     Warming: Warm         -                     -                     -                     -                     -                     Gone: Discard         -
Warming     -                     -                     -                     Ready: Serve          -                     -                     Backoff: Retry        -                     Gone: Discard         -
Warming?    -                     -                     -                     Probing: Watch        -                     -                     Backoff: Retry        -                     Gone: Discard         -
Probing     -                     -                     -                     -                     Ready: Serve          Probing: None         Backoff: Retry        -                     Gone: Discard         -
Ready       -                     -                     -                     -                     -                     Unready: Withdraw     Draining: Replace     -                     Draining: Drain       -
Unready     -                     -                     -                     -                     Ready: Serve          -                     Draining: Replace     -                     Draining: Drain       -
Draining    -                     -                     -                     -                     -                     -                     -                     -                     -                     Gone: Discard
Backoff     -                     -                     -                     -                     -                     -                     -                     Fetching: Fetch       Gone: Discard         -
Gone        -                     -                     -                     -                     -                     -                     -                     -                     -                     -
";

/// `!` marks a unit that must be alone, `?` one that has a readiness probe.
#[test]
fn the_table() {
    let inputs = [
        Input::Fetched,
        Input::Compiled,
        Input::Alone,
        Input::Warmed,
        Input::Passed,
        Input::NotReady,
        Input::Failed { random: 0 },
        Input::RetryDue,
        Input::Retired,
        Input::Drained,
    ];
    let (plain, exclusive, gated) = (
        Traits::default(),
        Traits { exclusive: true, ..Traits::default() },
        Traits { gated: true, ..Traits::default() },
    );
    let phases = [
        (Phase::Fetching, "", plain),
        (Phase::Compiling, "", plain),
        (Phase::Compiling, "!", exclusive),
        (Phase::Waiting, "", exclusive),
        (Phase::Warming, "", plain),
        (Phase::Warming, "?", gated),
        (Phase::Probing, "", gated),
        (Phase::Ready, "", plain),
        (Phase::Unready, "", gated),
        (Phase::Draining, "", plain),
        (Phase::Backoff { attempt: 1 }, "", plain),
        (Phase::Gone, "", plain),
    ];
    let word = |text: String| text.split([' ', '(']).next().unwrap_or_default().to_owned();
    let line = |head: String, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("{cell:22}")).collect();
        format!("{}\n", format!("{head:12}{cells}").trim_end())
    };
    let mut table = line("Phase".into(), inputs.iter().map(|input| word(format!("{input:?}"))).collect());
    for (phase, mark, traits) in phases {
        let cell = |input: &Input| match next(phase, input, traits) {
            Some((phase, action)) => format!("{}: {}", word(format!("{phase:?}")), word(format!("{action:?}"))),
            None => "-".into(),
        };
        table += &line(word(format!("{phase:?}")) + mark, inputs.iter().map(cell).collect());
    }
    assert_eq!(table, TABLE, "\n{table}");
}

fn target(generation: u64) -> Target {
    let (uid, generation) = (uuid::Uuid::nil(), Generation(generation));
    Target { uid, generation, exclusive: false, waits: false, gated: false, configs: None }
}

fn failed(unit: UnitId) -> Event {
    failed_after(unit, Duration::ZERO)
}

fn failed_after(unit: UnitId, lasted: Duration) -> Event {
    Event::Failed { unit, why: "it broke".into(), details: String::new(), lasted, random: 0 }
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
fn what_waits_for_its_turn_leaves_what_serves_alone() {
    let mut slot = Slot::default();
    let (old, _) = bring_up(&mut slot, target(2));
    let waiting = Target { waits: true, ..target(1) };
    assert_eq!(slot.on(Event::Wanted(waiting)), []);
    assert_eq!((report(&slot), slot.serving()), ((2, record::Phase::Ready, None), Some(old)));
    // Its turn has come.
    let (new, _) = bring_up(&mut slot, target(1));
    assert_eq!((report(&slot).0, slot.serving()), (1, Some(new)));
    // Where nothing serves there is nothing to wait for.
    let mut slot = Slot::default();
    assert!(!slot.on(Event::Wanted(waiting)).is_empty());
    // What came up beside is not what is wanted any more.
    let mut slot = Slot::default();
    bring_up(&mut slot, target(2));
    slot.on(Event::Wanted(target(3)));
    let coming = slot.phases().last().unwrap().0;
    assert_eq!(slot.on(Event::Wanted(waiting)), [Effect::Discard(coming)]);
}

#[test]
fn failures_in_a_row_are_counted_while_they_are_told() {
    let mut slot = Slot::default();
    let failures = |slot: &Slot| slot.observed().unwrap().failures;
    bring_up(&mut slot, target(1));
    assert_eq!(failures(&slot), 0);
    slot.on(Event::Wanted(target(2)));
    let unit = slot.phases().last().unwrap().0;
    for count in 1..5 {
        slot.on(failed(unit));
        assert_eq!(failures(&slot), count);
        slot.on(Event::RetryDue(unit));
        assert_eq!((failures(&slot), report(&slot).1), (count, record::Phase::Ready));
    }
    for event in [Event::Fetched(unit), Event::Compiled(unit), Event::Warmed(unit)] {
        slot.on(event);
    }
    assert_eq!((report(&slot), failures(&slot)), ((2, record::Phase::Ready, None), 0));
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
fn new_configuration_comes_up_beside_the_old_one_in_the_same_generation() {
    let mut slot = Slot::default();
    let with = |text: &[u8]| Target { configs: Some(lattice::id::Digest::of(text)), ..target(1) };
    let (old, _) = bring_up(&mut slot, with(b"one"));
    assert_eq!(slot.on(Event::Wanted(with(b"one"))), []);
    slot.on(Event::Wanted(with(b"two")));
    let new = UnitId(old.0 + 1);
    slot.on(Event::Fetched(new));
    slot.on(failed(new));
    assert_eq!((slot.serving(), slot.shown()), (Some(old), Some(old)));
    let message = Some("its new configuration failed: it broke".to_owned());
    assert_eq!(report(&slot), (1, record::Phase::Ready, message));
    // What is back as it was needs no new unit.
    assert_eq!(slot.on(Event::Wanted(with(b"one"))), [Effect::Discard(new)]);
    assert_eq!(report(&slot), (1, record::Phase::Ready, None));
    let (newer, effects) = bring_up(&mut slot, with(b"three"));
    assert_eq!(effects.last(), Some(&Effect::Drain(old)));
    assert_eq!((slot.serving(), slot.shown()), (Some(newer), Some(newer)));
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
    let by = UnitId(unit.0 + 1);
    assert_eq!(slot.on(failed(unit)), [Effect::Drain(unit), Effect::Replace { unit, by, after: BACKOFF_MIN }]);
    assert_eq!(report(&slot), (1, record::Phase::Failed, Some("it broke".into())), "what it has is finished");
    assert_eq!(slot.on(failed(unit)), [Effect::Ignored(unit)]);
    assert_eq!(slot.on(Event::RetryDue(by)), [Effect::Fetch(by, target(1))]);
    assert_eq!(report(&slot).1, record::Phase::Failed, "until it is ready");
    assert_eq!(slot.on(Event::Drained(unit)), [Effect::Discard(unit)]);
    for event in [Event::Fetched(by), Event::Compiled(by), Event::Warmed(by)] {
        slot.on(event);
    }
    assert_eq!(report(&slot), (1, record::Phase::Ready, None));
    slot.on(Event::Wanted(target(2)));
    assert_eq!(slot.on(failed(by)), [Effect::Drain(by)], "a newer one is coming already");
    assert_eq!(report(&slot), (2, record::Phase::Starting, None));
}

#[test]
fn what_fails_again_and_again_waits_longer_and_what_lasted_does_not() {
    let mut slot = Slot::default();
    let (mut unit, _) = bring_up(&mut slot, target(1));
    let mut fail = |lasted: Duration| {
        let effects = slot.on(failed_after(unit, lasted));
        let [_, Effect::Replace { by, after, .. }] = effects[..] else { panic!("{effects:?}") };
        slot.on(Event::Drained(unit));
        unit = by;
        for event in [Event::RetryDue(by), Event::Fetched(by), Event::Compiled(by), Event::Warmed(by)] {
            slot.on(event);
        }
        after
    };
    let short = Duration::from_secs(1);
    let delays: Vec<Duration> = [short, short, short, STABLE_AFTER, short].into_iter().map(&mut fail).collect();
    assert_eq!(delays, [1, 2, 4, 1, 2].map(|times| BACKOFF_MIN * times));
}

#[test]
fn a_strict_unit_that_fails_is_gone_before_the_next_one_runs() {
    let strict = Target { exclusive: true, ..target(1) };
    let mut slot = Slot::default();
    let (unit, _) = bring_up(&mut slot, strict);
    let by = UnitId(unit.0 + 1);
    slot.on(failed(unit));
    for event in [Event::RetryDue(by), Event::Fetched(by)] {
        slot.on(event);
    }
    assert_eq!(slot.on(Event::Compiled(by)), []);
    assert_eq!(slot.on(Event::Drained(unit)), [Effect::Discard(unit), Effect::Warm(by)]);
}

#[test]
fn what_once_had_to_be_alone_need_not_be_when_it_is_replaced() {
    let mut slot = Slot::default();
    let (unit, _) = bring_up(&mut slot, Target { exclusive: true, ..target(1) });
    assert_eq!(slot.on(Event::Wanted(target(1))), [], "there is room for both by now");
    let by = UnitId(unit.0 + 1);
    slot.on(failed(unit));
    for event in [Event::RetryDue(by), Event::Fetched(by)] {
        slot.on(event);
    }
    assert_eq!(slot.on(Event::Compiled(by)), [Effect::Warm(by)], "the drain of the other one is not waited for");
}

#[test]
fn a_probe_says_when_a_unit_is_ready() {
    let gated = Target { gated: true, ..target(1) };
    let not_ready = |unit| Event::NotReady { unit, why: "it said 503".into() };
    let mut slot = Slot::default();
    let (unit, effects) = bring_up(&mut slot, gated);
    assert_eq!(effects.last(), Some(&Effect::Watch(unit)));
    assert_eq!((slot.serving(), report(&slot)), (None, (1, record::Phase::Starting, None)));
    assert_eq!(slot.on(not_ready(unit)), []);
    assert_eq!(report(&slot), (1, record::Phase::Starting, Some("not ready: it said 503".into())));
    assert_eq!(slot.on(Event::Passed(unit)), [Effect::Serve(unit)]);
    assert_eq!(report(&slot), (1, record::Phase::Ready, None));
    assert_eq!(slot.on(not_ready(unit)), [Effect::Withdraw(unit)]);
    assert_eq!(slot.serving(), None);
    assert_eq!(report(&slot), (1, record::Phase::Starting, Some("not ready: it said 503".into())));
    assert_eq!(slot.on(Event::Wanted(gated)), [], "it may come back");
    assert_eq!(slot.on(Event::Passed(unit)), [Effect::Serve(unit)]);
    assert_eq!(report(&slot), (1, record::Phase::Ready, None));
    slot.on(not_ready(unit));
    assert_eq!(slot.on(Event::Unwanted), [Effect::Drain(unit)], "it may have requests yet");
}

#[test]
fn a_new_generation_replaces_one_that_is_not_ready_any_more() {
    let gated = |generation| Target { gated: true, ..target(generation) };
    let mut slot = Slot::default();
    let (old, _) = bring_up(&mut slot, gated(1));
    slot.on(Event::Passed(old));
    slot.on(Event::NotReady { unit: old, why: String::new() });
    let (new, _) = bring_up(&mut slot, gated(2));
    assert_eq!(slot.on(Event::Passed(old)), [Effect::Serve(old)], "it serves until the new one is ready");
    slot.on(Event::NotReady { unit: old, why: String::new() });
    assert_eq!(slot.on(Event::Passed(new)), [Effect::Serve(new), Effect::Drain(old)]);
}

#[test]
fn details_do_not_change_with_every_retry() {
    let mut slot = Slot::default();
    slot.on(Event::Wanted(target(1)));
    let unit = UnitId(0);
    let mut fail = |why: &str, details: &str| {
        let (why, details) = (why.to_owned(), details.to_owned());
        slot.on(Event::Failed { unit, why, details, lasted: Duration::ZERO, random: 0 });
        slot.on(Event::RetryDue(unit));
        report(&slot).2.unwrap()
    };
    assert_eq!(fail("it broke", " at 9:00"), "it broke at 9:00");
    assert_eq!(fail("it broke", " at 9:01"), "it broke at 9:00");
    assert_eq!(fail("it vanished", " at 9:02"), "it vanished at 9:02");
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
            let effects = slot.on(Event::Failed {
                unit,
                why: String::new(),
                details: String::new(),
                lasted: Duration::ZERO,
                random,
            });
            let [Effect::Retry(_, delay)] = effects[..] else { panic!("{effects:?}") };
            assert!((least..=most).contains(&delay), "{delay:?}");
            last = delay;
            slot.on(Event::RetryDue(unit));
        }
        assert!(last >= BACKOFF_MAX / 2);
    }
}

/// The host node's part: for each unit, the one thing that is under way, and those that are probed.
#[derive(Default)]
struct Shell {
    slot: Slot,
    under_way: BTreeMap<UnitId, Effect>,
    probed: BTreeSet<UnitId>,
    serving: Option<UnitId>,
}

impl Shell {
    fn on(&mut self, event: Event) {
        for effect in self.slot.on(event) {
            if let Effect::Drain(unit) | Effect::Discard(unit) | Effect::Retry(unit, _) | Effect::Withdraw(unit) =
                effect
            {
                self.serving = self.serving.filter(|serving| *serving != unit);
            }
            if let Effect::Drain(unit) | Effect::Discard(unit) | Effect::Retry(unit, _) = effect {
                self.probed.remove(&unit);
            }
            match effect {
                Effect::Watch(unit) => {
                    self.under_way.remove(&unit);
                    self.probed.insert(unit);
                }
                Effect::Serve(unit) => {
                    self.under_way.remove(&unit);
                    self.probed.insert(unit);
                    self.serving = Some(unit);
                }
                Effect::Withdraw(_) => {}
                Effect::Ignored(unit) => panic!("{unit:?} got an event of work that was under way"),
                Effect::Discard(unit) => drop(self.under_way.remove(&unit)),
                Effect::Replace { by, after, .. } => drop(self.under_way.insert(by, Effect::Retry(by, after))),
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

    /// Let a probe have news, or something that was warmed fail.
    fn probe(&mut self, which: usize, news: u8) {
        let Some(&unit) = self.probed.iter().nth(which % self.probed.len().max(1)) else { return };
        let phase = self.slot.phases().find(|(id, _)| *id == unit).map(|(_, phase)| phase);
        match (news, phase) {
            (0, Some(Phase::Probing | Phase::Unready)) => self.on(Event::Passed(unit)),
            (1, Some(Phase::Ready)) => self.on(Event::NotReady { unit, why: String::new() }),
            (2, _) => self.on(failed(unit)),
            _ => {}
        }
    }

    fn running(&self) -> usize {
        use Phase::{Draining, Probing, Ready, Unready, Warming};
        let runs = |phase| matches!(phase, Warming | Probing | Ready | Unready | Draining);
        self.slot.phases().filter(|(_, phase)| runs(*phase)).count()
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_last_wish_comes_true(
        steps in proptest::collection::vec((0u8..8, 0u64..4, 0usize..8), 0..60),
        (exclusive, gated) in any::<(bool, bool)>(),
        last in proptest::option::of(0u64..4),
    ) {
        let target = |generation| Target { exclusive, gated, ..target(generation) };
        let mut shell = Shell::default();
        for (step, generation, which) in steps {
            match step {
                0 => shell.on(Event::Wanted(target(generation))),
                1 if which == 0 => shell.on(Event::Unwanted),
                2 => shell.finish(which, false),
                3 => shell.probe(which, 0),
                4 => shell.probe(which, 1),
                5 => shell.probe(which, 2),
                _ => shell.finish(which, true),
            }
            prop_assert!(!exclusive || shell.running() <= 1, "{:?}", shell.slot);
        }
        shell.on(last.map_or(Event::Unwanted, |generation| Event::Wanted(target(generation))));
        for _ in 0..100 {
            shell.finish(0, true);
            for which in 0..3 {
                shell.probe(which, 0);
            }
        }
        let observed = shell.slot.observed().map(|observed| (observed.generation.0, observed.phase));
        prop_assert_eq!(observed, last.map(|generation| (generation, record::Phase::Ready)));
        prop_assert_eq!(shell.slot.phases().count(), usize::from(last.is_some()));
    }
}
