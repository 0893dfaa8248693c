//! How a change of what replicas run goes on: which of them may run the newest template next, when all of them do, and when
//! it is given up. The same view gives the same step on every node; how long something has lasted each node measures with its
//! own clock ([`RolloutObserver`]), so a node that begins to watch anew is late, never wrong.
//!
//! Start at [`advance`]. What one replica is to run follows from the records alone: [`SpecRecord::wanted`].

use crate::{
    Me, beside,
    board::{Board, is_unread},
    explain::wanted,
    hash,
    ledger::Need,
    retreat::{Retreat, Way},
    templates, weights,
};
use lattice::{
    id::{Generation, Revision, SlotId, WorkloadName},
    record::{DecodeError, Holder, Key, Phase, Rollout, RolloutState, Slot, SpecRecord},
    spec::{Class, Rollback},
    store::Precondition,
    view::{LatticeView, Versioned},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// A new replica that fails for so long, or half the deadline, and was tried several times, is not waited for any longer.
const FAILING_MAX: Duration = Duration::from_secs(30);
/// Replicas that no living node holds are not waited for longer than this, or half the deadline, once the rest is there: they
/// fit nowhere, or their node is gone for good. Within it a lattice that was restarted is back.
pub(crate) const HOMELESS_MAX: Duration = Duration::from_secs(30);
/// After a gap of so long nothing that was measured counts: this process was suspended, say, and did not see what happened.
const GAP: Duration = Duration::from_secs(5);

/// What is to be done about one workload. Each carries the revision that it was decided on.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Write down how far it is.
    Put { record: Rollout, expect: Precondition },
    /// Write [`SpecRecord::abort`]. The rollout's own record says already that it is given up, which only one of those
    /// who decide about it at the same time could write: nobody goes on with it or ends it.
    Abort { expect: Revision, reason: String },
    /// Delete the record that a workload left behind.
    Forget { expect: Revision },
}

/// How long what a view shows has lasted, as far as one node saw it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Elapsed {
    /// Since the rollout's record changed, one more replica became ready at the newest template, or none was wanted.
    pub since_progress: Duration,
    /// The same, without the time in which a step held, and what was before it.
    pub without_progress: Duration,
    /// Of the replicas that are ready at the newest template.
    pub ready: BTreeMap<u32, Duration>,
    /// Of those that fail to get there.
    pub failing: BTreeMap<u32, Duration>,
    /// What is new is beyond a bound that it must keep ([`crate::AnalysisObserver`]).
    pub beyond: Option<String>,
}

/// Watches the workloads that are being changed.
#[derive(Debug, Default)]
pub struct RolloutObserver {
    observed_at: Option<Duration>,
    seen: BTreeMap<WorkloadName, Seen>,
}

#[derive(Debug)]
struct Seen {
    template: (uuid::Uuid, Generation),
    rollout: Option<Revision>,
    /// The most replicas that were ready at the template since then.
    ready_most: usize,
    progress_at: Duration,
    /// When a step held last.
    held_at: Duration,
    ready: Since,
    failing: Since,
}

/// Since when replicas are as they are, each in the hands of one holder.
type Since = BTreeMap<u32, (Holder, Duration)>;

impl RolloutObserver {
    /// Note what a view shows of some workloads at `now` (monotonic); all others are forgotten.
    pub fn observe(
        &mut self,
        now: Duration,
        view: &LatticeView,
        workloads: &BTreeSet<WorkloadName>,
    ) -> BTreeMap<WorkloadName, Elapsed> {
        if self.observed_at.is_some_and(|before| now.saturating_sub(before) > GAP) {
            self.seen.clear();
        }
        self.observed_at = Some(now);
        self.seen.retain(|name, _| workloads.contains(name));
        let elapsed = |name: &WorkloadName| {
            let spec = &view.specs.get(name)?.record;
            Some((name.clone(), self.observe_one(now, view, spec)))
        };
        workloads.iter().filter_map(elapsed).collect()
    }

    fn observe_one(&mut self, now: Duration, view: &LatticeView, spec: &SpecRecord) -> Elapsed {
        let name = &spec.spec.name;
        let template = (spec.uid, spec.template());
        let rollout = view.rollouts.get(name).map(|rollout| rollout.revision);
        let new = || Seen {
            template,
            rollout,
            ready_most: 0,
            progress_at: now,
            held_at: Duration::ZERO,
            ready: Since::new(),
            failing: Since::new(),
        };
        let seen = self.seen.entry(name.clone()).or_insert_with(new);
        if seen.template != template {
            *seen = new();
        }
        let held = || view.slots_of(name).filter(|(_, slot)| slot.record.uid == spec.uid);
        let ready = held().filter(|(_, slot)| is_ready(view, &slot.record, Some(spec.template())));
        note(&mut seen.ready, ready, now);
        // Each step, and whoever resumes, gives those that fail another chance.
        if seen.rollout != rollout {
            seen.failing.clear();
        }
        let failing = held().filter(|(_, slot)| slot.record.failure_of(spec.template()).is_some());
        note(&mut seen.failing, failing, now);
        if seen.rollout != rollout {
            (seen.rollout, seen.progress_at, seen.ready_most) = (rollout, now, seen.ready.len());
        } else if seen.ready.len() > seen.ready_most {
            (seen.progress_at, seen.ready_most) = (now, seen.ready.len());
        } else if wanted(view, name).is_empty() {
            seen.progress_at = now;
        }
        let lasted =
            |since: &Since| since.iter().map(|(index, (_, since))| (*index, now.saturating_sub(*since))).collect();
        let since_progress = now.saturating_sub(seen.progress_at);
        let mut elapsed = Elapsed {
            since_progress,
            without_progress: since_progress,
            ready: lasted(&seen.ready),
            failing: lasted(&seen.failing),
            beyond: None,
        };
        let record = view.rollout(name).filter(|rollout| rollout.is_of(spec));
        if record.is_some_and(|record| Progress::of(view, spec, record, &elapsed).is_at_stop(spec)) {
            seen.held_at = now;
        }
        elapsed.without_progress = now.saturating_sub(seen.progress_at.max(seen.held_at));
        elapsed
    }

    /// Measure anew: changes may have been missed.
    pub fn reset(&mut self) {
        self.seen.clear();
    }
}

fn note<'v>(since: &mut Since, held: impl Iterator<Item = (&'v SlotId, &'v Versioned<Slot>)>, now: Duration) {
    let mut before = std::mem::take(since);
    for (slot, Versioned { record, .. }) in held {
        let known = before.remove(&slot.index).filter(|(holder, _)| *holder == record.holder);
        since.insert(slot.index, known.unwrap_or_else(|| (record.holder.clone(), now)));
    }
}

/// Whether a living node serves the slot, with this template if one is named.
pub(crate) fn is_ready(view: &LatticeView, slot: &Slot, template: Option<Generation>) -> bool {
    slot.phase == Phase::Ready
        && template.is_none_or(|template| slot.generation == template)
        && view.live(&slot.holder).is_some()
}

/// The workloads of which there is something to watch.
pub fn open_rollouts(view: &LatticeView) -> BTreeSet<WorkloadName> {
    let is_open = |spec: &SpecRecord| {
        let rollout = view.rollout(&spec.spec.name);
        spec.stable.is_some() && (!spec.is_settled(rollout) || spec.beside(rollout).is_some())
    };
    let open = view.specs.iter().filter(|(_, spec)| is_open(&spec.record)).map(|(name, _)| name);
    let left_behind = view.rollouts.keys().filter(|name| !view.specs.contains_key(*name));
    open.chain(left_behind).cloned().collect()
}

/// Whether a rollout goes on by nothing but a change of some record: people decide, or no replica is wanted.
pub fn is_at_rest(view: &LatticeView, workload: &WorkloadName) -> bool {
    match view.rollout(workload).map(|rollout| rollout.state) {
        Some(RolloutState::Paused | RolloutState::Stalled) => true,
        Some(RolloutState::Progressing) => {
            let is_none_wanted = |spec: &SpecRecord| !spec.spec.placement.daemon && view.replicas(spec) == 0;
            view.specs.get(workload).is_some_and(|spec| is_none_wanted(&spec.record))
        }
        Some(RolloutState::GivingUp | RolloutState::Done) | None => false,
    }
}

/// How many nodes act on a workload's rollout before this one does. Nothing for a node that is leaving.
pub fn rollout_rank(view: &LatticeView, workload: &WorkloadName, me: &Me) -> Option<u32> {
    let slot = SlotId::new(workload.clone(), 0);
    let staying = view.sessions.iter().filter(|(_, session)| !session.record.draining).map(|(node, _)| node);
    let mine = (hash::rendezvous(&slot, &me.node), &me.node);
    let mut is_here = false;
    let before_me = staying
        .inspect(|node| is_here |= **node == me.node)
        .filter(|node| (hash::rendezvous(&slot, node), *node) < mine)
        .count();
    u32::try_from(before_me).ok().filter(|_| is_here)
}

/// The next step, if one is due.
pub fn advance(view: &LatticeView, workload: &WorkloadName, elapsed: &Elapsed) -> Option<Step> {
    let there = view.rollouts.get(workload);
    let Some(spec) = view.specs.get(workload) else {
        let is_corrupt = view.corrupt.contains_key(&Key::Spec(workload.clone()).to_string());
        return there.filter(|_| !is_corrupt).map(|there| Step::Forget { expect: there.revision });
    };
    let (at, spec) = (spec.revision, &spec.record);
    if spec.stable.is_none() || is_unread(&view.corrupt, workload) {
        return None;
    }
    let expect = match view.corrupt.get(&Key::Rollout(workload.clone()).to_string()) {
        Some(corrupt) if matches!(corrupt.error, DecodeError::Malformed(_)) => Precondition::At(corrupt.revision),
        Some(_) => return None,
        None => there.map_or(Precondition::Absent, |there| Precondition::At(there.revision)),
    };
    let known = there.map(|there| &there.record).filter(|there| there.is_of(spec));
    // This view of the specs is older than that of the rollouts.
    if there.is_some_and(|there| there.record.uid == spec.uid && there.record.template > spec.template()) {
        return None;
    }
    if let (Some(stable), Some(there)) = (spec.stable.as_deref(), there)
        && beside::is_of_the_one_before(spec, &there.record)
    {
        return beside::end(view, stable, &there.record, elapsed, expect);
    }
    let before = known.cloned().unwrap_or_else(|| begin(view, spec));
    // What there is of a second set shows only once there is to be one.
    if known.is_none() && before.beside.is_some() {
        return Some(Step::Put { record: before, expect });
    }
    let progress = Progress::of(view, spec, &before, elapsed);
    let mut next = Rollout { message: None, beyond: false, ..before.clone() };
    next.stop_first.retain(|index| progress.pending.contains(index));
    // Whatever else is so, also while people are to decide whether it goes on.
    if let Some(reason) = &elapsed.beyond
        && matches!(before.state, RolloutState::Progressing | RolloutState::Paused)
    {
        (next.state, next.beyond) = match spec.spec.rollout.rollback {
            Rollback::Automatic => (RolloutState::GivingUp, false),
            Rollback::Manual => (RolloutState::Stalled, true),
        };
        next.message = Some(reason.clone());
        return Some(Step::Put { record: next, expect });
    }
    match before.state {
        RolloutState::Done if before.beside.is_some() => return beside::end(view, spec, &before, elapsed, expect),
        RolloutState::Done | RolloutState::Paused => return None,
        RolloutState::GivingUp => {
            let reason = before.message.unwrap_or_else(|| "no reason is known".into());
            return Some(Step::Abort { expect: at, reason });
        }
        RolloutState::Stalled if before.beyond => return None,
        _ if progress.is_complete(spec, elapsed) => {
            (next.state, next.weight) = (RolloutState::Done, None);
            beside::take_over(&mut next);
        }
        RolloutState::Stalled if !progress.pending.is_empty() => return None,
        RolloutState::Progressing | RolloutState::Stalled => {
            if let Some(reason) = progress.failure(view, spec, elapsed) {
                next.state = match spec.spec.rollout.rollback {
                    Rollback::Automatic => RolloutState::GivingUp,
                    Rollback::Manual => RolloutState::Stalled,
                };
                next.message = Some(reason);
            } else {
                next.state = RolloutState::Progressing;
                progress.end_steps(spec, elapsed, &mut next);
                if next.state == RolloutState::Progressing {
                    weights::let_go(spec, &mut next);
                    progress.extend(view, spec, &mut next);
                }
            }
        }
    }
    (known != Some(&next)).then_some(Step::Put { record: next, expect })
}

/// What is there already stays: a store that lost the record must not send replicas back.
fn begin(view: &LatticeView, spec: &SpecRecord) -> Rollout {
    if let Some(beside) = beside::begin(view, spec) {
        return beside;
    }
    let is_new = |slot: &Slot| slot.uid == spec.uid && slot.generation == spec.template();
    let newest = view.slots_of(&spec.spec.name).filter(|(_, slot)| is_new(&slot.record)).last();
    Rollout { below: newest.map_or(0, |(slot, _)| slot.index.saturating_add(1)), ..Rollout::new(spec) }
}

/// Where the replicas are.
struct Progress {
    wanted: Vec<u32>,
    /// May run the newest template, and do not yet, or not for long enough.
    pending: BTreeSet<u32>,
    /// May run it, but no living node holds them; also what daemons left on nodes that are gone, and may come back.
    homeless: BTreeSet<u32>,
    /// How many run it, and for long enough.
    arrived: usize,
    /// May run it later.
    left: Vec<u32>,
    /// Of those, or of all, the ones that serve.
    serving: BTreeSet<u32>,
    /// Replicas that are doubled, or were until a moment ago.
    surging: u32,
    /// Replicas that may run the newest template, and do not serve, or may stop any time. Those that do not serve before
    /// their turn comes do so not because of the change: it may be what mends them.
    unavailable: u32,
    /// Steps that are over.
    step: u32,
    /// Of a second set all are waited for, wherever they are.
    is_beside: bool,
}

impl Progress {
    fn of(view: &LatticeView, spec: &SpecRecord, rollout: &Rollout, elapsed: &Elapsed) -> Self {
        let min_ready: Duration = spec.spec.rollout.min_ready.into();
        let (mut pending, mut left, mut serving) = (BTreeSet::new(), Vec::new(), BTreeSet::new());
        let (mut homeless, mut arrived, mut surging, mut unavailable) = (BTreeSet::new(), 0, 0, 0);
        let mut wanted = wanted(view, &spec.spec.name);
        // What was there before stays as it is beside a second set.
        wanted.retain(|index| rollout.beside.is_none_or(|first| *index >= first));
        for index in &wanted {
            let slot = slot(view, spec, *index).filter(|slot| view.live(&slot.holder).is_some());
            let is_serving = slot.is_some_and(|slot| is_ready(view, slot, None));
            if is_serving {
                serving.insert(*index);
            }
            if !rollout.lets(*index) {
                left.push(*index);
                continue;
            }
            if slot.is_none() {
                homeless.insert(*index);
                continue;
            }
            let is_new = slot.is_some_and(|slot| is_ready(view, slot, Some(spec.template())));
            if is_new && elapsed.ready.get(index).copied().unwrap_or_default() >= min_ready {
                arrived += 1;
                continue;
            }
            pending.insert(*index);
            if is_serving && !rollout.stop_first.contains(index) {
                surging += 1;
            } else {
                unavailable += 1;
            }
        }
        if spec.spec.placement.daemon {
            let of_life = view.slots_of(&spec.spec.name).filter(|(_, slot)| slot.record.uid == spec.uid);
            let gone = of_life.filter(|(_, slot)| view.live(&slot.record.holder).is_none());
            homeless.extend(gone.map(|(slot, _)| slot.index));
        }
        let (step, is_beside) = (rollout.step, rollout.beside.is_some());
        Self { wanted, pending, homeless, arrived, left, serving, surging, unavailable, step, is_beside }
    }

    /// Whether it is over: never before one replica has shown that it runs, nor while a step holds.
    fn is_complete(&self, spec: &SpecRecord, elapsed: &Elapsed) -> bool {
        let deadline: Duration = spec.spec.rollout.deadline.into();
        let is_rest_there = self.pending.is_empty() && self.left.is_empty() && self.arrived > 0;
        let is_waited = elapsed.without_progress >= HOMELESS_MAX.min(deadline / 2);
        // A second set is to answer alone.
        let is_enough = self.homeless.is_empty() || is_waited && !self.is_beside;
        is_rest_there && is_enough && self.until_stop(spec, self.step).is_none()
    }

    /// Why it is not to go on.
    fn failure(&self, view: &LatticeView, spec: &SpecRecord, elapsed: &Elapsed) -> Option<String> {
        let deadline: Duration = spec.spec.rollout.deadline.into();
        let patience = FAILING_MAX.min(deadline / 2);
        let is_bad_luck = |index: u32| slot(view, spec, index).is_some_and(Slot::is_tried_again);
        let fails = |index: &&u32| {
            elapsed.failing.get(index).is_some_and(|lasted| *lasted >= patience) && !is_bad_luck(**index)
        };
        let failing = self.pending.iter().find(fails);
        let is_late = elapsed.without_progress >= deadline && !self.is_at_stop(spec);
        let homeless = || self.homeless.first().filter(|_| self.arrived == 0 || self.is_beside);
        let late = || self.pending.first().or_else(|| self.left.first()).or_else(homeless).filter(|_| is_late);
        failing.or_else(late).map(|index| why(view, spec, *index))
    }

    /// How many replicas may change before the next stop.
    fn until_stop(&self, spec: &SpecRecord, step: u32) -> Option<usize> {
        let step = spec.spec.rollout.stops().get(step as usize)?;
        let replicas = u32::try_from(self.wanted.len()).unwrap_or(u32::MAX);
        let until = if self.is_beside { replicas } else { weights::replicas_of(step, replicas) };
        Some(until as usize)
    }

    fn is_at_stop(&self, spec: &SpecRecord) -> bool {
        // A step of as many replicas as there are, or more, holds as well.
        let is_reached = |until: usize| self.changed() >= until || self.left.is_empty() && !self.is_beside;
        self.pending.is_empty() && self.arrived > 0 && self.until_stop(spec, self.step).is_some_and(is_reached)
    }

    /// Replicas that run the newest template or are coming to it.
    fn changed(&self) -> usize {
        self.arrived + self.pending.len()
    }

    /// Leave the steps behind that are over, and pause after one that lets people decide.
    fn end_steps(&self, spec: &SpecRecord, elapsed: &Elapsed, rollout: &mut Rollout) {
        if !self.is_at_stop(spec) {
            return;
        }
        let steps = spec.spec.rollout.stops();
        let Some(step) = steps.get(rollout.step as usize) else { return };
        if weights::take_hold(step, rollout) {
            return; // the pause counts from then
        }
        match step.pause.map(Duration::from) {
            Some(pause) if elapsed.since_progress < pause => {}
            Some(_) => rollout.step += 1,
            None => {
                rollout.step += 1;
                let message = format!("step {} of {} ({}) is over", rollout.step, steps.len(), weights::told(step));
                (rollout.state, rollout.message) = (RolloutState::Paused, Some(message));
            }
        }
    }

    /// Let as many more replicas change as may.
    fn extend(&self, view: &LatticeView, spec: &SpecRecord, rollout: &mut Rollout) {
        let replicas = u32::try_from(self.wanted.len()).unwrap_or(u32::MAX);
        let settings = &spec.spec.rollout;
        // Nobody is there to lose anything: the first replica that comes runs what is newest.
        if self.wanted.is_empty() {
            (rollout.below, rollout.beside) = (rollout.below.max(1), None);
        }
        let surge_max = settings.max_surge.of_up(replicas);
        // A percentage that is less than one of them must not keep everything from changing.
        let least = u32::from(surge_max == 0);
        let unavailable_max = settings.max_unavailable.of_down(replicas).max(least);
        let mut both = [Some(spec), spec.stable.as_deref()].into_iter().flatten();
        let stops = both.any(|record| record.spec.class == Class::Strict) || templates::claims_gpu(spec);
        let mut room = Room { view, board: None, taken: BTreeMap::new() };
        // Others may be on their way back from what was given up before.
        let back = match spec.left.is_empty() {
            true => Retreat::default(),
            false => Retreat::of(view, spec, Some(rollout)),
        };
        let (doubled, stopped) = back.under_way();
        let (mut surging, mut unavailable) =
            (self.surging.saturating_add(doubled), self.unavailable.saturating_add(stopped));
        let until = self.until_stop(spec, rollout.step).unwrap_or(usize::MAX).saturating_sub(self.changed());
        for index in self.left.iter().take(until) {
            // It comes to what is newest instead.
            match back.ways.get(index).filter(|_| back.turn.contains(index)) {
                Some(Way::Beside) => surging = surging.saturating_sub(1),
                Some(Way::StopFirst) => unavailable = unavailable.saturating_sub(1),
                Some(Way::Waits) | None => {}
            }
            if !self.serving.contains(index) {
                // There is nothing to lose.
            } else if stops {
                if unavailable >= unavailable_max.max(1) {
                    break;
                }
                unavailable += 1;
                rollout.stop_first.insert(*index);
            } else if surge_max > 0 && (unavailable_max == 0 || room.has_for_both(spec, *index)) {
                if surging >= surge_max {
                    break;
                }
                surging += 1;
            } else {
                if unavailable >= unavailable_max {
                    break;
                }
                unavailable += 1;
                rollout.stop_first.insert(*index);
            }
            rollout.below = index.saturating_add(1);
        }
    }
}

/// Which nodes have room for two templates of a replica. Only asked where one that has none may stop first; else a replica
/// waits for room by itself.
struct Room<'v> {
    view: &'v LatticeView,
    board: Option<Board>,
    taken: BTreeMap<&'v lattice::id::NodeId, Need>,
}

impl<'v> Room<'v> {
    fn has_for_both(&mut self, spec: &SpecRecord, index: u32) -> bool {
        let Some(held) = slot(self.view, spec, index) else { return false };
        let node = &held.holder.node;
        let board = self.board.get_or_insert_with(|| Board::of(self.view));
        let taken = self.taken.entry(node).or_default();
        let needed = Need::of(&spec.spec);
        let has_room = board.headroom(node).covers(taken.plus(needed));
        if has_room {
            *taken = taken.plus(needed);
        }
        has_room
    }
}

pub(crate) fn slot<'v>(view: &'v LatticeView, spec: &SpecRecord, index: u32) -> Option<&'v Slot> {
    let slot = &view.slots.get(&SlotId::new(spec.spec.name.clone(), index))?.record;
    (slot.uid == spec.uid).then_some(slot)
}

/// What keeps a replica from the newest template.
fn why(view: &LatticeView, spec: &SpecRecord, index: u32) -> String {
    let id = SlotId::new(spec.spec.name.clone(), index);
    let Some(held) = slot(view, spec, index).filter(|held| view.live(&held.holder).is_some()) else {
        return format!("replica {index}: no node has taken it");
    };
    let node = &held.holder.node;
    let after = spec.spec.rollout.deadline;
    if let Some(why) = held.failure_of(spec.template()) {
        return format!("replica {index} on {node}: {why}");
    }
    if templates::can_wait(view, &id, held).is_some() {
        let over = Board::of(view).overdraft(node);
        let short = match over {
            Need { memory: 1.., .. } => "memory",
            Need { cpu: 1.., .. } => "processors",
            Need { .. } => "room for volumes",
        };
        if over != Need::default() {
            return format!(
                "replica {index} on {node}: the node has no {short} left to reserve for the old and the new one at a time; \
                 rollout.max-unavailable of 1 or more lets the old one stop first"
            );
        }
    }
    // Such as what its readiness probe answers.
    let said = held.message.as_deref().map_or_else(String::new, |said| format!(": {said}"));
    format!("replica {index} on {node} did not get ready within {after}{said}")
}
