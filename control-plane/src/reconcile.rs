//! Makes this node's part of the lattice match the specs. Each pass reads the whole view, so why it began is of no
//! interest to it; a compare-and-set that lost is not a failure, the next pass starts from its result.

use crate::{NodeOptions, cut_off, events::Events, given::Given, gpus::Gate, session::Member};
use futures_util::{StreamExt as _, stream};
use lattice::{
    event::EventKind,
    host::{Assignment, Host, NOT_READY, Observed},
    id::{NodeId, Revision, SlotId},
    record::{DecodeError, DrainOrder, Holder, Key, Phase, Record as _, Slot},
    spec::Class,
    store::{Bucket, Connection, Platform, Precondition, StoreError},
    view::{LatticeView, Versioned},
};
use lattice_planner::{Action, Me, Observer, Plan, Planner, Situation, claimable};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Writes that one pass has under way at a time.
const WRITES_AT_ONCE: usize = 32;
/// How long a pass waits for its own writes to come back through the feed before it asks for a snapshot.
const ECHO: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(500);
/// Delays before a replica makes room for another one: long enough for this node to see what others see.
const DISPLACED_AFTER: u32 = 2;
/// After this time a write whose outcome is unknown does not land any more: the connection that it waited in is gone.
const LANDS_WITHIN: Duration = Duration::from_secs(30);

pub(crate) struct Reconciler {
    options: Arc<NodeOptions>,
    platform: Platform,
    events: Events,
    host: Arc<dyn Host>,
    member: Member,
    view: watch::Receiver<Arc<LatticeView>>,
    resync: Arc<Notify>,
    observer: Observer,
    planner: Planner,
    /// For views with what is not settled yet.
    cautious: Planner,
    /// Configuration that replicas here were given.
    given: Given,
    /// What runs here on GPUs.
    gpus: Gate,
    /// What the host was told last.
    applied: BTreeMap<SlotId, Assignment>,
    /// Since when this node has been connected without a break; dead holders are left alone for the kill time after it.
    connected_since: Option<Duration>,
    /// When an action was first planned.
    planned: BTreeMap<Planned, Duration>,
    /// Claims that the view does not show, though they landed or may yet. They use up capacity like those that it shows.
    unsettled: BTreeMap<SlotId, Unsettled>,
    /// Records that this node deleted, though the view may still show them.
    given_up: BTreeMap<SlotId, GivenUp>,
    /// Set while an operator wants this node empty.
    emptying: Option<Emptying>,
}

/// This node is to be emptied.
struct Emptying {
    order: DrainOrder,
    /// When this node learned of it, in this life.
    since: Duration,
    /// It was told that nothing is left.
    is_told: bool,
}

/// What a delay is counted for. A replica that is displaced has one however often its record changes, which it does while
/// it stops: it must not start again meanwhile.
type Planned = (SlotId, Option<Precondition>);

struct Unsettled {
    expect: Precondition,
    record: Slot,
    /// When it was sent last.
    sent: Duration,
    /// The revision that the store answered with, if it did.
    made: Option<Revision>,
}

/// A deletion that was sent and did not lose.
struct GivenUp {
    at: Revision,
    sent: Duration,
    landed: bool,
}

impl GivenUp {
    /// Whether the record may be gone, though the view shows it.
    fn is_open(&self, slot: &SlotId, view: &LatticeView, now: Duration) -> bool {
        view.slots.get(slot).is_some_and(|shown| shown.revision == self.at)
            && (self.landed || now.saturating_sub(self.sent) < LANDS_WITHIN)
    }
}

fn planned(action: &Action) -> Planned {
    let expectation = match action {
        Action::Claim { expect, .. } => Some(*expect),
        Action::Release { displaced_by: Some(_), .. } => None,
        Action::Regrant { expect, .. } | Action::Release { expect, .. } | Action::Collect { expect, .. } => {
            Some(Precondition::At(*expect))
        }
    };
    (action.slot().clone(), expectation)
}

fn rank(action: &Action) -> u32 {
    match action {
        Action::Claim { rank, .. } | Action::Collect { rank, .. } => *rank,
        Action::Regrant { .. } => 0,
        // Room that is needed now may be there a moment later without that.
        Action::Release { displaced_by, .. } => {
            if displaced_by.is_some() {
                DISPLACED_AFTER
            } else {
                0
            }
        }
    }
}

/// Whether an action claims what another node has left behind. Where the sessions of many vanish together, the next change
/// may say that this node's own has: one more delay lets each take back what it had.
fn is_inherited(view: &LatticeView, action: &Action, me: &NodeId) -> bool {
    let Action::Claim { slot, .. } = action else { return false };
    let left = view.slots.get(slot).map(|left| &left.record.holder);
    left.is_some_and(|holder| holder.node != *me && view.live(holder).is_none())
}

/// Whether somebody asked for a better place for a replica.
fn is_moved(view: &LatticeView, slot: &SlotId) -> bool {
    view.rebalance.iter().flat_map(|rebalance| &rebalance.record.moving).any(|moving| moving.slot == *slot)
}

/// A write to one slot, decided.
enum Write {
    Put { slot: SlotId, record: Box<Slot>, expect: Precondition, is_claim: bool, event: Option<(EventKind, String)> },
    Delete { slot: SlotId, expect: Revision, event: Option<(EventKind, String)> },
}

impl Unsettled {
    /// Whether the view does not tell yet what became of it. One that lost is settled by the change that it lost to.
    fn is_open(&self, slot: &SlotId, view: &LatticeView, now: Duration) -> bool {
        match self.made {
            Some(made) => view.seen.get(&Bucket::State).is_none_or(|seen| seen.head < made.0),
            None => {
                let shown = view.slots.get(slot).map_or(Precondition::Absent, |slot| Precondition::At(slot.revision));
                shown == self.expect && now.saturating_sub(self.sent) < LANDS_WITHIN
            }
        }
    }
}

/// Stops what is strict at the moment at which this node must not run it any more. Never returns.
async fn fence(platform: Platform, host: Arc<dyn Host>, member: Member, wanted: BTreeMap<SlotId, Assignment>) {
    loop {
        match member.current_for(platform.clock.now()) {
            Duration::ZERO => break,
            until_fenced => platform.clock.sleep(until_fenced).await,
        }
    }
    host.apply(without_strict(wanted));
    std::future::pending().await
}

fn without_strict(mut wanted: BTreeMap<SlotId, Assignment>) -> BTreeMap<SlotId, Assignment> {
    wanted.retain(|_, assignment| assignment.spec.class != Class::Strict);
    wanted
}

impl Reconciler {
    pub(crate) fn new(
        options: Arc<NodeOptions>,
        platform: Platform,
        events: Events,
        host: Arc<dyn Host>,
        member: Member,
        view: watch::Receiver<Arc<LatticeView>>,
        resync: Arc<Notify>,
    ) -> Self {
        let observer = Observer::new(options.timing.kill);
        Self {
            options,
            platform,
            events,
            host,
            member,
            view,
            resync,
            observer,
            planner: Planner::default(),
            cautious: Planner::default(),
            given: Given::default(),
            gpus: Gate::default(),
            applied: BTreeMap::new(),
            connected_since: None,
            planned: BTreeMap::new(),
            unsettled: BTreeMap::new(),
            given_up: BTreeMap::new(),
            emptying: None,
        }
    }

    /// Reconcile until `stop`, then hand over and drain. Returns when nothing runs here any more.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let wait = self.pass().await;
            let wait = match self.member.current_for(self.platform.clock.now()) {
                Duration::ZERO => wait,
                until_fenced => wait.min(until_fenced),
            };
            let wait = self.platform.clock.sleep(wait);
            tokio::select! { // cancel-safe: each arm only waits
                biased;
                () = stop.cancelled() => {}
                changed = self.view.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = self.host.changed() => {}
                () = wait => {}
            }
        }
        self.leave().await;
    }

    /// Hand over, then stop what is left.
    async fn leave(&mut self) {
        let node = self.options.node.clone();
        self.events.send(EventKind::NodeDraining, &node, "leaving: handing over what runs here").await;
        self.member.drain();
        let deadline = self.platform.clock.now() + self.options.drain;
        while self.platform.clock.now() < deadline && self.somebody_will_take_over() {
            let wait = self.pass().await.min(Duration::from_millis(100));
            let wait = self.platform.clock.sleep(wait);
            tokio::select! { // cancel-safe: each arm only waits
                biased;
                changed = self.view.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
                () = self.host.changed() => {}
                () = wait => {}
            }
        }
        // What nobody took stays recorded as ours: this node takes it up again when it comes back.
        self.host.apply(BTreeMap::new());
        while self.platform.clock.now() < deadline && !self.host.observed().is_empty() {
            let wait = self.platform.clock.sleep(TICK);
            tokio::select! { // cancel-safe: each arm only waits
                biased;
                () = self.host.changed() => {}
                () = wait => {}
            }
        }
    }

    /// While true, waiting lets another node get ready before this one stops.
    fn somebody_will_take_over(&self) -> bool {
        if self.platform.bus.connection() == Connection::Down {
            return false;
        }
        let view = self.view.borrow();
        let me = self.member.me().holder();
        // Until the feed shows our own draining session, nobody has been asked yet.
        if view.live(&me).is_some_and(|session| !session.draining) {
            return true;
        }
        let claimable = claimable(&view);
        view.slots.iter().any(|(slot, record)| {
            let handing_over = record.record.handover_from.as_ref() == Some(&me)
                && record.record.phase == Phase::Starting
                && view.live(&record.record.holder).is_some();
            let waiting = record.record.holder == me && claimable.contains(slot);
            handing_over || waiting
        })
    }

    /// One pass. Answers when the next one is due at the latest.
    async fn pass(&mut self) -> Duration {
        let now = self.platform.clock.now();
        let view = self.view.borrow_and_update().clone();
        if !view.is_loaded() {
            return TICK;
        }
        match self.platform.bus.connection() {
            Connection::Down => {
                self.connected_since = None;
                self.observer.reset(now);
            }
            Connection::Up => drop(self.connected_since.get_or_insert(now)),
        }
        let settling = self.member.is_recovering(now)
            || self.connected_since.is_none_or(|since| now.saturating_sub(since) < self.options.timing.kill);
        let me = self.member.me();
        let situation = Situation { settling, drain_is_over: self.drain_is_over(&view, now) };
        let mut plan = self.planner.plan(&view, &me, situation);
        self.given_up.retain(|slot, given_up| given_up.is_open(slot, &view, now));
        let mut wanted = self.wanted(&view, &plan, now);
        self.given.fill(&view, &mut wanted, &self.host.observed(), plan.spare_memory);
        self.given.hold_back(&view, &mut plan.actions, plan.spare_memory);
        let observed = self.host.observed();
        let (holder, is_current) = (me.holder(), self.member.is_current(now));
        for (slot, assignment) in cut_off::kept(&view, &holder, is_current, &self.applied, &observed) {
            wanted.entry(slot.clone()).or_insert_with(|| assignment.clone());
        }
        self.gpus.admit(&mut wanted, &observed, || self.host.gpus());
        if self.connected_since.is_none() || !self.member.is_current(now) {
            self.apply(wanted);
            return TICK; // nothing can be written now
        }

        self.unsettled.retain(|slot, claim| claim.is_open(slot, &view, now));
        let mut actions = self.affordable(&view, &me, situation, plan.actions);
        if self.member.is_draining() {
            // The view may not show yet that this node is leaving.
            actions.retain(|action| !matches!(action, Action::Claim { .. }));
        }
        let (due, wait) = self.due(&view, actions, now);
        for action in &due {
            if let Action::Release { slot, stop_first: true, .. } = action {
                wanted.remove(slot);
            }
        }
        self.apply(wanted.clone());
        let observed = self.host.observed();
        for event in self.given.news(&observed) {
            self.events.tell(event).await;
        }
        let told = self.given.told(&observed);
        let mut writes: Vec<Write> = self.phases(&view, &me.holder(), &told);
        writes.extend(due.into_iter().filter_map(|action| self.decide(&view, action, &observed)));
        writes.extend(self.repairs(&view, &me.holder(), settling));
        // Writes can take longer than the fence allows.
        let fence = fence(self.platform.clone(), self.host.clone(), self.member.clone(), wanted);
        tokio::select! { // cancel-safe: the first arm never ends
            biased;
            () = fence => {}
            () = self.carry_out(writes, &view, now) => {}
        }
        self.tell_when_empty(&view).await;
        wait
    }

    fn apply(&mut self, wanted: BTreeMap<SlotId, Assignment>) {
        self.applied.clone_from(&wanted);
        self.host.apply(wanted);
    }

    async fn carry_out(&mut self, writes: Vec<Write>, view: &LatticeView, now: Duration) {
        let wrote = self.write(writes, now).await;
        self.kill_the_silent(view, now).await;
        if let Some(revision) = wrote
            && !self.seen(revision).await
        {
            self.resync.notify_one();
        }
    }

    /// Whether the time is up in which what is here may wait for another place.
    fn drain_is_over(&mut self, view: &LatticeView, now: Duration) -> bool {
        let order = view.drain(&self.options.node).map(|(order, _)| order);
        if self.emptying.as_ref().map(|emptying| emptying.order) != order {
            self.emptying = order.map(|order| Emptying { order, since: now, is_told: false });
        }
        let Some(Emptying { order, since, .. }) = &self.emptying else { return false };
        order.deadline.is_some_and(|deadline| now.saturating_sub(*since) >= deadline.into())
    }

    /// Tell once that nothing is left of what an operator wanted moved away.
    async fn tell_when_empty(&mut self, view: &LatticeView) {
        let node = &self.options.node;
        let is_daemon =
            |slot: &SlotId| view.specs.get(&slot.workload).is_some_and(|spec| spec.record.spec.placement.daemon);
        let Some(emptying) = self.emptying.as_mut().filter(|emptying| !emptying.is_told) else { return };
        let runs = self.host.observed().keys().any(|slot| !is_daemon(slot));
        let holds = || view.slots.iter().any(|(slot, held)| held.record.holder.node == *node && !is_daemon(slot));
        if !runs && !holds() {
            emptying.is_told = true;
            self.events.send(EventKind::NodeDrained, node, "nothing is left here of what was to move").await;
        }
    }

    /// The actions without the claims that would not fit beside those that are not settled yet.
    fn affordable(
        &mut self,
        view: &LatticeView,
        me: &Me,
        situation: Situation,
        mut actions: Vec<Action>,
    ) -> Vec<Action> {
        if self.unsettled.is_empty() {
            return actions;
        }
        let mut with_unsettled = view.clone();
        for (slot, claim) in &self.unsettled {
            let held = Versioned { record: claim.record.clone(), revision: Revision(0) };
            with_unsettled.slots.insert(slot.clone(), held);
        }
        let fits = self.cautious.plan(&Arc::new(with_unsettled), me, situation).actions;
        let claims =
            |action: &Action, claimed: &SlotId| matches!(action, Action::Claim { slot, .. } if slot == claimed);
        actions.retain(|action| match action {
            Action::Claim { slot, .. } => {
                self.unsettled.contains_key(slot) || fits.iter().any(|action| claims(action, slot))
            }
            Action::Regrant { slot, .. } => self.unsettled.contains_key(slot) || fits.contains(action),
            Action::Release { .. } | Action::Collect { .. } => true,
        });
        actions
    }

    /// What the host should run.
    fn wanted(&self, view: &LatticeView, plan: &Plan, now: Duration) -> BTreeMap<SlotId, Assignment> {
        let me = self.member.me().holder();
        let mut wanted = plan.assignments.clone();
        if !self.member.is_current(now) {
            // Others may be about to take these.
            wanted = without_strict(wanted);
        }
        // Another node may hold one that was given up, though this view does not say so.
        wanted.retain(|slot, wanted| wanted.spec.class != Class::Strict || !self.given_up.contains_key(slot));
        // A node that was declared dead goes on serving what no other node has claimed, until it can take it back:
        // stopping and starting again would only drop requests.
        let is_member = view.live(&me).is_some();
        let takes_back = |slot: &SlotId| {
            plan.actions.iter().any(|action| matches!(action, Action::Claim { slot: claimed, .. } if claimed == slot))
        };
        for slot in self.host.observed().keys() {
            let Some(record) = view.slots.get(slot) else { continue };
            let mine_before = record.record.holder.node == me.node && record.record.holder != me;
            let Some(spec) = view.specs.get(&slot.workload).filter(|_| mine_before) else { continue };
            let Some(template) = view.wanted(slot) else { continue };
            let still_wanted = spec.record.uid == record.record.uid
                && (slot.index < view.replicas(&spec.record) || spec.record.spec.placement.daemon)
                && template.spec.class == Class::Available
                && (!is_member || takes_back(slot));
            if still_wanted {
                let gpu = record.record.gpu.clone();
                wanted.entry(slot.clone()).or_insert_with(|| Assignment { gpu, ..Assignment::new(template) });
            }
        }
        wanted
    }

    /// Which actions are to be tried now, and when the next one is.
    fn due(&mut self, view: &LatticeView, actions: Vec<Action>, now: Duration) -> (Vec<Action>, Duration) {
        let delay = self.options.timing.claim_delay;
        let keys: std::collections::BTreeSet<_> = actions.iter().map(planned).collect();
        self.planned.retain(|planned, _| keys.contains(planned));
        let mut wait = TICK;
        let mut due = Vec::new();
        for action in actions {
            let since = *self.planned.entry(planned(&action)).or_insert(now);
            let rank = rank(&action) + u32::from(is_inherited(view, &action, &self.options.node));
            // Jitter in whole steps of the rank: the first of the ranking never waits.
            let jitter = if rank == 0 { Duration::ZERO } else { self.platform.rng.up_to(delay / 4) };
            let at = since + delay * rank;
            if now >= at {
                due.push(action);
            } else {
                wait = wait.min(at.saturating_sub(now) + jitter);
            }
        }
        (due, wait)
    }

    fn decide(&self, view: &LatticeView, action: Action, observed: &BTreeMap<SlotId, Observed>) -> Option<Write> {
        match action {
            Action::Claim { slot, expect, handover_from, gpu, .. } => {
                let spec = view.wanted(&slot)?;
                let text = match (&handover_from, view.slots.get(&slot)) {
                    (Some(from), _) => format!("taking over from {}", from.node),
                    (None, Some(before)) => format!("taking the place of {}", before.record.holder.node),
                    (None, None) => "free".into(),
                };
                let now = self.platform.clock.unix_ms();
                // An instance that this node kept running under an earlier life is ready already.
                let running = observed.get(&slot).filter(|running| running.uid == spec.uid);
                let handover_from =
                    handover_from.filter(|_| running.is_none_or(|running| running.phase != Phase::Ready));
                let record = Slot {
                    holder: self.member.me().holder(),
                    uid: spec.uid,
                    generation: running.map_or(spec.template(), |running| running.generation),
                    phase: running.map_or(Phase::Starting, |running| running.phase),
                    message: None,
                    failures: None,
                    gpu,
                    handover_gpu: view.slots.get(&slot).and_then(|before| {
                        let Slot { holder, gpu, handover_gpu, .. } = &before.record;
                        let goes_on = handover_from.as_ref()?;
                        if goes_on == holder { gpu.clone() } else { handover_gpu.clone() }
                    }),
                    handover_from,
                    nonce: self.platform.rng.uuid(),
                    claimed_at: now,
                    since: now,
                };
                let event = Some((EventKind::SlotClaimed, text));
                Some(Write::Put { slot, record: Box::new(record), expect, is_claim: true, event })
            }
            Action::Regrant { slot, expect, gpu } => {
                let held = view.slots.get(&slot).filter(|held| held.revision == expect)?;
                let record = Box::new(Slot { gpu, nonce: self.platform.rng.uuid(), ..held.record.clone() });
                // Like a claim, it uses up what it asks for until it is known not to have landed.
                Some(Write::Put { slot, record, expect: Precondition::At(expect), is_claim: true, event: None })
            }
            Action::Release { slot, expect, stop_first, displaced_by } => {
                let still_runs = observed.contains_key(&slot);
                let text = match displaced_by {
                    Some(by) => format!("makes room for {by}, which has a higher priority"),
                    None if view.drain(&self.options.node).is_some() => "this node is drained".into(),
                    None if is_moved(view, &slot) => "moves to a better place".into(),
                    None => "no longer wanted here".into(),
                };
                let event = Some((EventKind::SlotReleased, text));
                (!stop_first || !still_runs).then_some(Write::Delete { slot, expect, event })
            }
            Action::Collect { slot, expect, .. } => {
                let event = Some((EventKind::SlotReleased, "left behind by a node that is gone".into()));
                Some(Write::Delete { slot, expect, event })
            }
        }
    }

    /// What the host observed and the records don't say yet.
    fn phases(&self, view: &LatticeView, me: &Holder, observed: &BTreeMap<SlotId, Observed>) -> Vec<Write> {
        let unix_ms = self.platform.clock.unix_ms();
        let news = observed.iter().filter_map(|(slot, now)| {
            let Versioned { record, revision } = view.slots.get(slot).filter(|held| held.record.holder == *me)?;
            if now.uid != record.uid {
                return None;
            }
            let next = record.observed(now.generation, now.phase, now.message.as_deref(), now.failures, unix_ms);
            if next == *record {
                return None;
            }
            let event = match (record.phase, next.phase) {
                _ if record.phase == next.phase && record.generation == next.generation => None,
                (_, Phase::Ready) => Some((EventKind::SlotReady, format!("generation {} answers", next.generation))),
                (_, Phase::Failed) => Some((EventKind::SlotFailed, next.message.clone().unwrap_or_default())),
                (Phase::Ready, Phase::Starting)
                    if now.message.as_deref().is_some_and(|text| text.starts_with(NOT_READY)) =>
                {
                    Some((EventKind::SlotUnready, next.message.clone().unwrap_or_default()))
                }
                (_, Phase::Starting) => None,
            };
            let expect = Precondition::At(*revision);
            Some(Write::Put { slot: slot.clone(), record: Box::new(next), expect, is_claim: false, event })
        });
        news.collect()
    }

    /// Slots whose record does not parse: the holder writes it again; one that nobody living holds is removed.
    /// Another version's record is left to that version.
    fn repairs(&self, view: &LatticeView, me: &Holder, settling: bool) -> Vec<Write> {
        let corrupt = view.corrupt.iter().filter(|(_, corrupt)| {
            corrupt.bucket == Bucket::State && matches!(corrupt.error, DecodeError::Malformed(_))
        });
        corrupt
            .filter_map(|(key, corrupt)| {
                let Key::Slot(slot) = Key::parse(Bucket::State, key)? else { return None };
                match view.slots.get(&slot).map(|slot| &slot.record) {
                    Some(good) if good.holder == *me => Some(Write::Put {
                        slot,
                        record: Box::new(good.clone()),
                        expect: Precondition::At(corrupt.revision),
                        is_claim: false,
                        event: None,
                    }),
                    Some(good) if view.live(&good.holder).is_some() => None,
                    // A node that has just come does not know who holds it.
                    _ if settling => None,
                    _ => Some(Write::Delete { slot, expect: corrupt.revision, event: None }),
                }
            })
            .collect()
    }

    /// Carry writes out. Answers with the highest revision that they made.
    async fn write(&mut self, writes: Vec<Write>, now: Duration) -> Option<Revision> {
        for write in &writes {
            match write {
                Write::Put { slot, record, expect, is_claim: true, .. } => {
                    let claim = Unsettled { expect: *expect, record: Slot::clone(record), sent: now, made: None };
                    self.unsettled.insert(slot.clone(), claim);
                }
                Write::Delete { slot, expect, .. } => {
                    self.given_up.insert(slot.clone(), GivenUp { at: *expect, sent: now, landed: false });
                }
                Write::Put { .. } => {}
            }
        }
        let this = &*self;
        let results = stream::iter(writes).map(|write| this.write_one(write)).buffer_unordered(WRITES_AT_ONCE);
        let results: Vec<(SlotId, Result<Revision, StoreError>)> = results.collect().await;
        let mut highest = None;
        for (slot, result) in results {
            if matches!(result, Err(StoreError::Conflict { .. })) {
                self.given_up.remove(&slot);
            }
            let Ok(revision) = result else { continue };
            if let Some(given_up) = self.given_up.get_mut(&slot) {
                given_up.landed = true;
            }
            highest = highest.max(Some(revision));
            if let Some(claim) = self.unsettled.get_mut(&slot) {
                claim.made = Some(revision);
            }
        }
        highest
    }

    async fn write_one(&self, write: Write) -> (SlotId, Result<Revision, StoreError>) {
        let (slot, event, result) = match write {
            Write::Put { slot, record, expect, event, .. } => {
                let key = Key::Slot(slot.clone()).to_string();
                let result = self.platform.store.write(Bucket::State, &key, record.encode(), expect).await;
                (slot, event, result)
            }
            Write::Delete { slot, expect, event } => {
                let key = Key::Slot(slot.clone()).to_string();
                let result = self.platform.store.delete(Bucket::State, &key, expect).await;
                (slot, event, result)
            }
        };
        match &result {
            Ok(_) => {
                if let Some((kind, text)) = event {
                    self.events.send(kind, &slot, text).await;
                }
            }
            Err(StoreError::Conflict { .. }) => tracing::debug!(%slot, "another node was first"),
            Err(error) => {
                tracing::warn!(%slot, %error, "a decision was not written; trying again");
                // It may have landed: the next pass must see the store as it is.
                self.resync.notify_one();
            }
        }
        (slot, result)
    }

    /// Sessions without a sign of life for the kill time are removed at the revision that was last seen: if their node
    /// renewed meanwhile, the removal loses.
    async fn kill_the_silent(&mut self, view: &LatticeView, now: Duration) {
        let silent = self.observer.observe(now, view, &self.options.node);
        let this = &*self;
        let removals = stream::iter(silent).map(|(node, revision)| this.remove(node, revision));
        removals.buffer_unordered(WRITES_AT_ONCE).collect::<()>().await;
    }

    async fn remove(&self, node: NodeId, revision: Revision) {
        let key = Key::Session(node.clone()).to_string();
        match self.platform.store.delete(Bucket::State, &key, revision).await {
            Ok(_) => {
                let text = format!("no sign of life for {} s", self.options.timing.kill.as_secs());
                self.events.send(EventKind::NodeLost, &node, text).await;
            }
            Err(error) => tracing::debug!(%node, %error, "not removed: it lives, or another observer was first"),
        }
    }

    /// Wait until the view contains a write of ours: a plan without it could claim more than fits.
    async fn seen(&mut self, revision: Revision) -> bool {
        let timeout = self.platform.clock.sleep(ECHO);
        let reached =
            self.view.wait_for(|view| view.seen.get(&Bucket::State).is_some_and(|seen| seen.head >= revision.0));
        let seen = tokio::select! { // cancel-safe: both only wait
            biased;
            seen = reached => seen.is_ok(),
            () = timeout => false,
        };
        // The wait marked the view as seen; what it brought is for the next pass.
        self.view.mark_changed();
        seen
    }
}
