//! What becomes of one slot on its node: one unit for each generation that was wanted, from fetching to gone. No clock,
//! no tokio, no wasmtime: the host node carries out the [`Effect`]s and says with an [`Event`] when one is done.
//!
//! Start at [`Slot`]. A new unit comes up beside the one that serves, which goes on until the new one is ready. The table
//! of transitions is `unit::next`; its test prints all of it. [`Probe`] says what the answers to probes amount to.

mod probe;
#[cfg(test)]
mod tests;
mod unit;

pub use probe::{Answer, Probe, Verdict};
pub use unit::{BACKOFF_MAX, BACKOFF_MIN, Phase, STABLE_AFTER};

use lattice::{
    host::{NOT_READY, Observed},
    id::{Digest, Generation},
    record,
};
use std::time::Duration;
use unit::{Action, Input, Traits};

/// What a slot should run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    pub uid: uuid::Uuid,
    pub generation: Generation,
    /// Nothing of this unit runs before all others of the slot are gone: class `strict`, or no room for both. It is fetched
    /// and compiled beside the one that serves, so a component that can't be compiled stops nothing. It matters on the way
    /// up only.
    pub exclusive: bool,
    /// It is not to take the place of what serves, as long as that does.
    pub waits: bool,
    /// It has a readiness probe, which must pass before it serves.
    pub gated: bool,
    /// What tells configuration of one generation apart that is to reach running replicas; the same for all that is not.
    pub configs: Option<Digest>,
}

impl Target {
    fn is_for_the_same(&self, other: &Target) -> bool {
        (self.uid, self.generation, self.configs) == (other.uid, other.generation, other.configs)
    }
}

/// One attempt of a slot to run one target. Unique within its [`Slot`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitId(pub u64);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The slot should run this. Repeating it changes nothing.
    Wanted(Target),
    /// The slot should run nothing.
    Unwanted,
    Fetched(UnitId),
    Compiled(UnitId),
    Warmed(UnitId),
    /// The readiness probe of a unit passes.
    Passed(UnitId),
    /// The readiness probe of a unit fails.
    NotReady {
        unit: UnitId,
        why: String,
    },
    /// Fetching, compiling or warming failed, or what was warmed can't go on.
    Failed {
        unit: UnitId,
        why: String,
        /// What else is known, such as what the guest printed last. It may differ each time, and is kept from the first of
        /// several failures for the same reason: what is observed does not change with every retry.
        details: String,
        /// How long it was ready before, in one piece or several.
        lasted: Duration,
        /// Spreads the retry.
        random: u64,
    },
    /// The delay of an [`Effect::Retry`] has passed.
    RetryDue(UnitId),
    /// Nothing of a draining unit runs any more.
    Drained(UnitId),
}

/// What the host node must do, in this order. All but `Watch`, `Serve` and `Withdraw` are the unit's only work in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Bring the component's bytes; ends with [`Event::Fetched`].
    Fetch(UnitId, Target),
    /// Ends with [`Event::Compiled`].
    Compile(UnitId),
    /// Link, start the first instances; ends with [`Event::Warmed`].
    Warm(UnitId),
    /// Begin to probe it; new requests don't go to it.
    Watch(UnitId),
    /// New requests go to this unit from now on. Probes, if it has any, begin or go on.
    Serve(UnitId),
    /// New requests don't go to this unit for the time being; probes go on.
    Withdraw(UnitId),
    /// New requests don't go to this unit; let those that run end, within a limit. Ends with [`Event::Drained`].
    Drain(UnitId),
    /// Stop whatever is under way for this unit, timers too, and drop what it has.
    Discard(UnitId),
    /// Drop what the unit has, and send [`Event::RetryDue`] after the delay.
    Retry(UnitId, Duration),
    /// A new unit for the same target as one that is to be drained: send [`Event::RetryDue`] for it after the delay.
    Replace { unit: UnitId, by: UnitId, after: Duration },
    /// The event came too late for its unit, which is normal for one that was discarded: count it.
    Ignored(UnitId),
}

/// One slot of this node.
#[derive(Debug, Default)]
pub struct Slot {
    next_unit: u64,
    /// Oldest first. At most one is on its way up and at most one is ready, once an event has been dealt with. Those that
    /// drain were ready before, and each ends within the host node's drain limit.
    units: Vec<Unit>,
}

#[derive(Debug)]
struct Unit {
    id: UnitId,
    target: Target,
    phase: Phase,
    failures: u32,
    /// Why it failed last; forgotten when it is ready.
    failed: Option<Failed>,
    /// Why its readiness probe fails.
    not_ready: Option<String>,
}

#[derive(Debug, Clone)]
struct Failed {
    why: String,
    details: String,
}

impl Unit {
    fn new(id: UnitId, target: Target) -> Self {
        Self { id, target, phase: Phase::Fetching, failures: 0, failed: None, not_ready: None }
    }

    /// Not forgotten by a retry under way.
    fn failure(&self) -> Option<String> {
        self.failed.as_ref().map(|Failed { why, details }| format!("{why}{details}"))
    }

    fn not_ready(&self) -> Option<String> {
        self.not_ready.as_ref().map(|why| format!("{NOT_READY}{why}"))
    }
}

impl Slot {
    /// Take an event; what to do about it.
    pub fn on(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Wanted(target) => self.want(target, &mut effects),
            Event::Unwanted => self.retire(|unit| unit.phase != Phase::Draining, &mut effects),
            Event::Fetched(unit) => self.step(unit, &Input::Fetched, &mut effects),
            Event::Compiled(unit) => self.step(unit, &Input::Compiled, &mut effects),
            Event::Warmed(unit) => self.step(unit, &Input::Warmed, &mut effects),
            Event::Passed(unit) => self.step(unit, &Input::Passed, &mut effects),
            Event::NotReady { unit, why } => {
                self.step(unit, &Input::NotReady, &mut effects);
                self.unit_mut(unit).into_iter().for_each(|unit| unit.not_ready = Some(why.clone()));
            }
            Event::Failed { unit, why, details, lasted, random } => {
                if let Some(unit) = self.unit_mut(unit) {
                    if lasted >= STABLE_AFTER {
                        unit.failures = 0;
                    }
                    if unit.failed.as_ref().is_none_or(|failed| failed.why != why) {
                        unit.failed = Some(Failed { why, details });
                    }
                }
                self.step(unit, &Input::Failed { random }, &mut effects);
            }
            Event::RetryDue(unit) => self.step(unit, &Input::RetryDue, &mut effects),
            Event::Drained(unit) => self.step(unit, &Input::Drained, &mut effects),
        }
        self.make_room(&mut effects);
        effects
    }

    /// What to report; which configuration it is, is left to the host node. `None`: nothing of the slot is left, and this
    /// value can be dropped.
    pub fn observed(&self) -> Option<Observed> {
        let observed = |unit: &Unit, phase, message| {
            let Target { uid, generation, .. } = unit.target;
            let coming = self.in_phase(Phase::is_coming).filter(|coming| coming.failed.is_some());
            let failures = coming.map_or(0, |coming| coming.failures);
            Some(Observed { uid, generation, phase, message, failures, configs: Default::default() })
        };
        if let Some(serving) = self.in_phase(|phase| phase == Phase::Ready) {
            let coming = self.in_phase(Phase::is_coming);
            let message = coming.and_then(|unit| {
                let template = unit.target.generation;
                if template == serving.target.generation {
                    let failed = unit.failure().map(|why| format!("its new configuration failed: {why}"));
                    return failed.or_else(|| Some(format!("its new configuration is {}", unit.not_ready()?)));
                }
                let failed = unit.failure().map(|why| record::failure(template, &why));
                failed.or_else(|| Some(format!("generation {template} is {}", unit.not_ready()?)))
            });
            observed(serving, record::Phase::Ready, message)
        } else if let Some(coming) = self.in_phase(Phase::is_coming) {
            // A retry under way still counts as failed, so that a unit that fails for hours is not written at each retry.
            match coming.failure() {
                Some(why) => observed(coming, record::Phase::Failed, Some(why)),
                None => observed(coming, record::Phase::Starting, coming.not_ready()),
            }
        } else if let Some(unready) = self.in_phase(|phase| phase == Phase::Unready) {
            observed(unready, record::Phase::Starting, unready.not_ready())
        } else {
            // Neither ready nor failed: nothing new may be sent here.
            let draining = self.units.last()?;
            observed(draining, record::Phase::Starting, Some("draining".into()))
        }
    }

    /// The unit that takes new requests.
    pub fn serving(&self) -> Option<UnitId> {
        self.in_phase(|phase| phase == Phase::Ready).map(|unit| unit.id)
    }

    /// The unit that [`Slot::observed`] speaks of.
    pub fn shown(&self) -> Option<UnitId> {
        let coming = || self.in_phase(Phase::is_coming).or(self.units.last());
        self.in_phase(|phase| phase == Phase::Ready).or_else(coming).map(|unit| unit.id)
    }

    /// Phases of all units, oldest first, for logs and tests.
    pub fn phases(&self) -> impl Iterator<Item = (UnitId, Phase)> + '_ {
        self.units.iter().map(|unit| (unit.id, unit.phase))
    }

    /// The newest unit in such a phase.
    fn in_phase(&self, is: impl Fn(Phase) -> bool) -> Option<&Unit> {
        self.units.iter().rfind(|unit| is(unit.phase))
    }

    fn want(&mut self, target: Target, effects: &mut Vec<Effect>) {
        // Whether it must be alone is for the moment: what once had no room beside another one may have it the next time.
        for unit in self.units.iter_mut().filter(|unit| unit.target.is_for_the_same(&target)) {
            unit.target.exclusive = target.exclusive;
        }
        let has = |unit: Option<&Unit>| unit.is_some_and(|unit| unit.target.is_for_the_same(&target));
        if has(self.in_phase(Phase::is_coming)) {
            return;
        }
        self.retire(|unit| unit.phase.is_coming(), effects);
        if has(self.in_phase(|phase| matches!(phase, Phase::Ready | Phase::Unready))) {
            return;
        }
        let serves = self.in_phase(|phase| phase == Phase::Ready);
        if target.waits && serves.is_some_and(|serving| serving.target.uid == target.uid) {
            return;
        }
        let id = self.new_id();
        self.units.push(Unit::new(id, target));
        effects.push(Effect::Fetch(id, target));
    }

    fn new_id(&mut self) -> UnitId {
        let id = UnitId(self.next_unit);
        self.next_unit += 1;
        id
    }

    fn unit_mut(&mut self, id: UnitId) -> Option<&mut Unit> {
        self.units.iter_mut().find(|unit| unit.id == id)
    }

    fn step(&mut self, id: UnitId, input: &Input, effects: &mut Vec<Effect>) {
        let Some(unit) = self.unit_mut(id) else {
            return effects.push(Effect::Ignored(id));
        };
        let Target { exclusive, gated, .. } = unit.target;
        let Some((phase, action)) = unit::next(unit.phase, input, Traits { failures: unit.failures, exclusive, gated })
        else {
            return effects.push(Effect::Ignored(id));
        };
        unit.phase = phase;
        if matches!(input, Input::Failed { .. }) {
            unit.failures = unit.failures.saturating_add(1);
        }
        if phase == Phase::Ready {
            (unit.failed, unit.not_ready) = (None, None);
        }
        effects.extend(match action {
            Action::None => None,
            Action::Fetch => Some(Effect::Fetch(id, unit.target)),
            Action::Compile => Some(Effect::Compile(id)),
            Action::Warm => Some(Effect::Warm(id)),
            Action::Watch => Some(Effect::Watch(id)),
            Action::Serve => Some(Effect::Serve(id)),
            Action::Withdraw => Some(Effect::Withdraw(id)),
            Action::Drain | Action::Replace(_) => Some(Effect::Drain(id)),
            Action::Retry(delay) => Some(Effect::Retry(id, delay)),
            Action::Discard => Some(Effect::Discard(id)),
        });
        if let Action::Replace(after) = action {
            self.replace(id, after, effects);
        }
        self.units.retain(|unit| unit.phase != Phase::Gone);
    }

    /// Another unit for the target of one that failed after it was ready, unless one is coming already.
    fn replace(&mut self, failed: UnitId, after: Duration, effects: &mut Vec<Effect>) {
        if self.in_phase(Phase::is_coming).is_some() {
            return;
        }
        let by = self.new_id();
        let Some(unit) = self.unit_mut(failed) else { return };
        let phase = Phase::Backoff { attempt: unit.failures };
        let next = Unit { phase, failures: unit.failures, failed: unit.failed.take(), ..Unit::new(by, unit.target) };
        self.units.push(next);
        effects.push(Effect::Replace { unit: failed, by, after });
    }

    fn retire(&mut self, which: impl Fn(&Unit) -> bool, effects: &mut Vec<Effect>) {
        let retired: Vec<UnitId> = self.units.iter().filter(|unit| which(unit)).map(|unit| unit.id).collect();
        for id in retired {
            self.step(id, &Input::Retired, effects);
        }
    }

    /// Only the newest unit may be on its way up, and only the newest ready one serves; a unit that must be alone sends
    /// away the others when its turn comes to run.
    fn make_room(&mut self, effects: &mut Vec<Effect>) {
        if let Some(coming) = self.in_phase(Phase::is_coming).map(|unit| unit.id) {
            let failed_while_replaced = |unit: &Unit| unit.phase.is_coming() && unit.id != coming;
            self.retire(failed_while_replaced, effects);
        }
        if let Some(serving) = self.serving() {
            let replaced = |unit: &Unit| matches!(unit.phase, Phase::Ready | Phase::Unready) && unit.id != serving;
            self.retire(replaced, effects);
        }
        if let Some(waiting) = self.in_phase(|phase| phase == Phase::Waiting).map(|unit| unit.id) {
            self.retire(|unit| matches!(unit.phase, Phase::Ready | Phase::Unready), effects);
            if self.units.iter().all(|unit| unit.id == waiting) {
                self.step(waiting, &Input::Alone, effects);
            }
        }
    }
}
