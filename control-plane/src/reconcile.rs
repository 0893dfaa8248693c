//! Makes this node's part of the lattice match the specs. Each pass reads the whole view, so why it began is of no
//! interest to it; a compare-and-set that lost is not a failure, the next pass starts from its result.

use crate::{NodeOptions, events::Events, session::Member};
use futures_util::{StreamExt as _, stream};
use lattice::{
    event::EventKind,
    host::{Host, Observed},
    id::{Revision, SlotId},
    record::{Holder, Key, Phase, Record as _, Slot},
    store::{Bucket, Connection, Platform, Precondition, StoreError},
    view::{LatticeView, Versioned},
};
use lattice_planner::{Action, Observer, Plan, Situation, explain, plan};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Writes that one pass has under way at a time.
const WRITES_AT_ONCE: usize = 32;
/// How long a pass waits for its own writes to come back through the feed before it asks for a snapshot.
const ECHO: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(500);

pub(crate) struct Reconciler {
    options: Arc<NodeOptions>,
    platform: Platform,
    events: Events,
    host: Arc<dyn Host>,
    member: Member,
    view: watch::Receiver<Arc<LatticeView>>,
    resync: Arc<Notify>,
    observer: Observer,
    /// Since when this node has been connected without a break; dead holders are left alone for the kill time after it.
    connected_since: Option<Duration>,
    /// When a claim or a collection was first planned, at the expectation that it was planned with.
    planned: BTreeMap<(SlotId, Precondition0), Duration>,
}

/// A precondition as a key of a map.
type Precondition0 = Option<Revision>;

fn expectation(action: &Action) -> Precondition0 {
    match action {
        Action::Claim { expect: Precondition::At(revision), .. } => Some(*revision),
        Action::Claim { expect: Precondition::Absent, .. } => None,
        Action::Release { expect, .. } | Action::Collect { expect, .. } => Some(*expect),
    }
}

fn rank(action: &Action) -> u32 {
    match action {
        Action::Claim { rank, .. } | Action::Collect { rank, .. } => *rank,
        Action::Release { .. } => 0,
    }
}

/// A write to one slot, decided.
enum Write {
    Put { slot: SlotId, record: Slot, expect: Precondition, event: Option<(EventKind, String)> },
    Delete { slot: SlotId, expect: Revision, event: Option<(EventKind, String)> },
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
            connected_since: None,
            planned: BTreeMap::new(),
        }
    }

    /// Reconcile until `stop`, then hand over and drain. Returns when nothing runs here any more.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let wait = self.pass().await;
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
        view.slots.iter().any(|(slot, record)| {
            let handing_over =
                record.record.handover_from.as_ref() == Some(&me) && record.record.phase == Phase::Starting;
            let waiting = record.record.holder == me && explain(&view, slot).first().is_some();
            handing_over || waiting
        })
    }

    /// One pass. Answers when the next one is due at the latest.
    async fn pass(&mut self) -> Duration {
        let now = self.platform.clock.now();
        let view = self.view.borrow_and_update().clone();
        let is_loaded = Bucket::ALL.iter().all(|bucket| view.seen.contains_key(bucket));
        if !is_loaded {
            return TICK;
        }
        match self.platform.bus.connection() {
            Connection::Down => {
                self.connected_since = None;
                self.observer.reset(now);
            }
            Connection::Up => drop(self.connected_since.get_or_insert(now)),
        }
        let settling = self.connected_since.is_none_or(|since| now.saturating_sub(since) < self.options.timing.kill);
        let me = self.member.me();
        let Plan { actions, assignments } = plan(&view, &me, Situation { settling });
        self.apply(&view, assignments, now);
        if self.connected_since.is_none() || !self.member.is_current(now) {
            return TICK; // nothing can be written now
        }

        // The feed may not show yet that this node is leaving; it knows.
        let leaving = self.member.is_draining();
        let actions = actions.into_iter().filter(|action| !(leaving && matches!(action, Action::Claim { .. })));
        let (due, wait) = self.due(actions.collect(), now);
        let observed = self.host.observed();
        let mut writes: Vec<Write> = self.phases(&view, &me.holder(), &observed);
        writes.extend(due.into_iter().filter_map(|action| self.decide(&view, action, &observed)));
        writes.extend(self.repairs(&view, &me.holder()));
        let wrote = self.write(writes).await;
        self.kill_the_silent(&view, now).await;
        if let Some(revision) = wrote
            && !self.seen(revision).await
        {
            self.resync.notify_one();
        }
        wait
    }

    fn apply(&self, view: &LatticeView, mut wanted: BTreeMap<SlotId, lattice::host::Assignment>, now: Duration) {
        let me = self.member.me().holder();
        if !self.member.is_current(now) {
            // Others may be about to take these.
            wanted.retain(|_, assignment| assignment.spec.class != lattice::spec::Class::Strict);
        }
        // A node that was declared dead goes on serving what no other node has claimed: stopping and starting again
        // would only drop requests.
        for (slot, record) in &view.slots {
            let mine_before = record.record.holder.node == me.node && record.record.holder != me;
            let Some(spec) = view.specs.get(&slot.workload).filter(|_| mine_before) else { continue };
            let still_wanted = spec.record.uid == record.record.uid
                && slot.index < spec.record.spec.replicas
                && spec.record.spec.class == lattice::spec::Class::Available;
            if still_wanted && self.host.observed().contains_key(slot) {
                wanted.entry(slot.clone()).or_insert_with(|| lattice::host::Assignment {
                    spec: Arc::new(spec.record.spec.clone()),
                    uid: spec.record.uid,
                    generation: spec.record.generation,
                });
            }
        }
        self.host.apply(wanted);
    }

    /// Which actions are to be tried now, and when the next one is.
    fn due(&mut self, actions: Vec<Action>, now: Duration) -> (Vec<Action>, Duration) {
        let delay = self.options.timing.claim_delay;
        let key = |action: &Action| (action.slot().clone(), expectation(action));
        let keys: std::collections::BTreeSet<_> = actions.iter().map(key).collect();
        self.planned.retain(|planned, _| keys.contains(planned));
        let mut wait = TICK;
        let mut due = Vec::new();
        for action in actions {
            let since = *self.planned.entry(key(&action)).or_insert(now);
            let rank = rank(&action);
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
            Action::Claim { slot, expect, handover_from, .. } => {
                let spec = &view.specs.get(&slot.workload)?.record;
                let text = match (&handover_from, view.slots.get(&slot)) {
                    (Some(from), _) => format!("taking over from {}", from.node),
                    (None, Some(before)) => format!("taking the place of {}", before.record.holder.node),
                    (None, None) => "free".into(),
                };
                // An instance that this node kept running under an earlier life is ready already.
                let running = observed.get(&slot).filter(|running| running.uid == spec.uid);
                let record = Slot {
                    holder: self.member.me().holder(),
                    uid: spec.uid,
                    generation: running.map_or(spec.generation, |running| running.generation),
                    phase: running.map_or(Phase::Starting, |running| running.phase),
                    message: None,
                    handover_from: handover_from
                        .filter(|_| running.is_none_or(|running| running.phase != Phase::Ready)),
                    nonce: self.platform.rng.uuid(),
                };
                Some(Write::Put { slot, record, expect, event: Some((EventKind::SlotClaimed, text)) })
            }
            Action::Release { slot, expect, stop_first } => {
                let still_runs = observed.contains_key(&slot);
                let event = Some((EventKind::SlotReleased, "no longer wanted here".into()));
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
        let mine = view.slots.iter().filter(|(_, slot)| slot.record.holder == *me);
        let news = mine.filter_map(|(slot, Versioned { record, revision })| {
            let now = observed.get(slot).filter(|observed| observed.uid == record.uid)?;
            let next = record.observed(now.generation, now.phase, now.message.as_deref());
            if next == *record {
                return None;
            }
            let event = match (record.phase, next.phase) {
                _ if record.phase == next.phase && record.generation == next.generation => None,
                (_, Phase::Ready) => Some((EventKind::SlotReady, format!("generation {} answers", next.generation))),
                (_, Phase::Failed) => Some((EventKind::SlotFailed, next.message.clone().unwrap_or_default())),
                (_, Phase::Starting) => None,
            };
            Some(Write::Put { slot: slot.clone(), record: next, expect: Precondition::At(*revision), event })
        });
        news.collect()
    }

    /// Slots whose record does not parse: the holder writes it again; one that nobody living holds is removed.
    fn repairs(&self, view: &LatticeView, me: &Holder) -> Vec<Write> {
        let corrupt = view.corrupt.iter().filter(|(_, corrupt)| corrupt.bucket == Bucket::State);
        corrupt
            .filter_map(|(key, corrupt)| {
                let Key::Slot(slot) = Key::parse(Bucket::State, key)? else { return None };
                match view.slots.get(&slot).map(|slot| &slot.record) {
                    Some(good) if good.holder == *me => Some(Write::Put {
                        slot,
                        record: good.clone(),
                        expect: Precondition::At(corrupt.revision),
                        event: None,
                    }),
                    Some(good) if view.live(&good.holder).is_some() => None,
                    _ => Some(Write::Delete { slot, expect: corrupt.revision, event: None }),
                }
            })
            .collect()
    }

    /// Carry writes out. Answers with the highest revision that they made.
    async fn write(&self, writes: Vec<Write>) -> Option<Revision> {
        let results = stream::iter(writes).map(|write| self.write_one(write)).buffer_unordered(WRITES_AT_ONCE);
        results.fold(None, |highest: Option<Revision>, made| async move { highest.max(made) }).await
    }

    async fn write_one(&self, write: Write) -> Option<Revision> {
        let (slot, event, result) = match write {
            Write::Put { slot, record, expect, event } => {
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
        match result {
            Ok(revision) => {
                if let Some((kind, text)) = event {
                    self.events.send(kind, &slot, text).await;
                }
                Some(revision)
            }
            Err(StoreError::Conflict { .. }) => {
                tracing::debug!(%slot, "another node was first");
                None
            }
            Err(error) => {
                tracing::warn!(%slot, %error, "a decision was not written; trying again");
                // It may have landed: the next pass must see the store as it is.
                self.resync.notify_one();
                None
            }
        }
    }

    /// Sessions without a sign of life for the kill time are removed at the revision that was last seen: if their node
    /// renewed meanwhile, the removal loses.
    async fn kill_the_silent(&mut self, view: &LatticeView, now: Duration) {
        for (node, revision) in self.observer.observe(now, view, &self.options.node) {
            let key = Key::Session(node.clone()).to_string();
            match self.platform.store.delete(Bucket::State, &key, revision).await {
                Ok(_) => {
                    let text = format!("no sign of life for {} s", self.options.timing.kill.as_secs());
                    self.events.send(EventKind::NodeLost, &node, text).await;
                }
                Err(error) => tracing::debug!(%node, %error, "not removed: it lives, or another observer was first"),
            }
        }
    }

    /// Wait until the view contains a write of ours: a plan without it could claim more than fits.
    async fn seen(&mut self, revision: Revision) -> bool {
        let timeout = self.platform.clock.sleep(ECHO);
        let reached =
            self.view.wait_for(|view| view.seen.get(&Bucket::State).is_some_and(|seen| seen.head >= revision.0));
        tokio::select! { // cancel-safe: both only wait
            biased;
            seen = reached => seen.is_ok(),
            () = timeout => false,
        }
    }
}
