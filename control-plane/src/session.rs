//! Being alive: one record that this node renews, and everything that depends on it.
//!
//! A node that cannot renew fences itself *before* others may take its strict replicas: it counts from the moment at
//! which the last acknowledged renewal was *sent*, on its own monotonic clock, so no clocks are compared.

use crate::{ControlPlaneError, NodeOptions, events::Events, pace::Pace};
use lattice::{
    event::EventKind,
    gpu,
    host::Host,
    id::{Incarnation, Revision},
    record::{Holder, Key, Record as _, Session},
    spec::Class,
    store::{Bucket, Entry, Platform, Precondition, StoreError},
    view::LatticeView,
};
use lattice_planner::Me;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Ended lives that a process remembers: more than can have a write under way at a time.
const PAST_LIVES_MAX: usize = 16;

#[derive(Debug, Clone)]
struct State {
    incarnation: Incarnation,
    /// Lives of this process that observers ended. A write of theirs can land late.
    past: VecDeque<Incarnation>,
    /// When the last acknowledged write of the session was sent.
    renewed: Option<Duration>,
    revision: Option<Revision>,
    renewals: u64,
    draining: bool,
    /// When the store was last found not to show who lives: it had lost writes, or this node's own session was gone.
    unsettled: Option<Duration>,
}

/// This node's membership, as its other services see it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Member {
    options: Arc<NodeOptions>,
    state: Arc<Mutex<State>>,
    /// Wakes the keeper: the record must be written now.
    changed: Arc<Notify>,
}

impl Member {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn me(&self) -> Me {
        Me { node: self.options.node.clone(), incarnation: self.state().incarnation }
    }

    /// True within the fence time of the last acknowledged renewal.
    pub(crate) fn is_current(&self, now: Duration) -> bool {
        self.state().renewed.is_some_and(|renewed| now.saturating_sub(renewed) < self.options.timing.fence)
    }

    /// How long [`Member::is_current`] stays true without a renewal.
    pub(crate) fn current_for(&self, now: Duration) -> Duration {
        let renewed = self.state().renewed;
        renewed.map_or(Duration::ZERO, |renewed| (renewed + self.options.timing.fence).saturating_sub(now))
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.state().draining
    }

    /// Say in the session that this node takes nothing new and hands over what it has.
    pub(crate) fn drain(&self) {
        self.state().draining = true;
        self.changed.notify_one();
    }

    /// The store lost writes: the session is to be written again now.
    pub(crate) fn reassert(&self, now: Duration) {
        self.state().unsettled = Some(now);
        self.changed.notify_one();
    }

    /// True for the kill time after the store lost writes, or this node's session: what happened to it may have happened to
    /// others, which have not put back yet what is theirs.
    pub(crate) fn is_recovering(&self, now: Duration) -> bool {
        self.state().unsettled.is_some_and(|at| now.saturating_sub(at) < self.options.timing.kill)
    }
}

/// Writes the session. The only one who does.
pub(crate) struct Keeper {
    member: Member,
    platform: Platform,
    events: Events,
    /// Who knows this node's GPUs.
    host: Arc<dyn Host>,
    started_at: u64,
    /// A session of an earlier life of this node that may still run something strict.
    earlier: Option<Earlier>,
}

struct Earlier {
    revision: Revision,
    /// Since when it has been at that revision.
    since: Duration,
    /// How often it changed while it was watched.
    changes: u32,
}

/// Changes of an earlier life's session after which it counts as alive. One or two can be its last writes, landing late.
const SIGNS_OF_LIFE: u32 = 3;

pub(crate) fn new(
    options: Arc<NodeOptions>,
    platform: Platform,
    events: Events,
    host: Arc<dyn Host>,
) -> (Member, Keeper) {
    let state = State {
        incarnation: platform.rng.uuid(),
        past: VecDeque::new(),
        renewed: None,
        revision: None,
        renewals: 0,
        draining: false,
        unsettled: None,
    };
    let member = Member { options, state: Arc::new(Mutex::new(state)), changed: Arc::default() };
    let started_at = platform.clock.unix_ms();
    (member.clone(), Keeper { member, platform, events, host, started_at, earlier: None })
}

impl Keeper {
    /// Register, then renew until `stop`. An error means that this node must stop at once.
    pub(crate) async fn run(
        &mut self,
        mut view: watch::Receiver<Arc<LatticeView>>,
        stop: CancellationToken,
    ) -> Result<(), ControlPlaneError> {
        let mut pace = Pace::new(self.member.options.timing.renew);
        // A node that is seen before it can plan would lose its slots to others that can.
        tokio::select! { // cancel-safe: both only wait
            biased;
            () = stop.cancelled() => return Ok(()),
            loaded = view.wait_for(|view| view.is_loaded()) => if loaded.is_err() { return Ok(()) },
        }
        loop {
            let current = view.borrow_and_update().clone();
            let is_written = match self.write(&current).await {
                Ok(()) => true,
                Err(WriteError::Displaced) => {
                    let NodeOptions { lattice, node, .. } = &*self.member.options;
                    return Err(ControlPlaneError::Displaced { lattice: lattice.clone(), node: node.clone() });
                }
                Err(WriteError::Store(error)) => {
                    tracing::debug!(%error, "the session was not renewed");
                    false
                }
            };
            let timer = self.platform.clock.sleep(pace.after(is_written, &*self.platform.rng));
            let removed = self.removed(&mut view);
            tokio::select! { // cancel-safe: each arm only waits
                biased;
                () = stop.cancelled() => return Ok(()),
                () = self.member.changed.notified() => {}
                // After a write that failed the view may go on saying so, and without a connection the next one fails at
                // once: only the timer keeps this from spinning.
                () = removed, if is_written => {}
                () = timer => {}
            }
        }
    }

    /// Resolves when the view shows that the session which we wrote is gone.
    async fn removed(&self, view: &mut watch::Receiver<Arc<LatticeView>>) {
        let node = &self.member.options.node;
        let written = self.member.state().revision;
        let is_gone = |view: &Arc<LatticeView>| {
            let head = view.seen.get(&Bucket::State).map_or(0, |seen| seen.head);
            written.is_some_and(|revision| head > revision.0 && !view.sessions.contains_key(node))
        };
        if view.wait_for(is_gone).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn write(&mut self, view: &LatticeView) -> Result<(), WriteError> {
        let key = Key::Session(self.member.options.node.clone()).to_string();
        let known = self.member.state().revision;
        let (expect, found) = match known {
            Some(revision) => (Precondition::At(revision), None),
            None => match self.platform.store.get(Bucket::State, &key).await.map_err(WriteError::Store)? {
                None => (Precondition::Absent, None),
                Some(entry) => (Precondition::At(entry.revision), Some(entry)),
            },
        };
        if let Some(entry) = found {
            self.check_found(&entry)?;
            self.outlast(&entry, view)?;
        }
        let session = self.session();
        let sent = self.platform.clock.now();
        // A write that is dropped may still land, as one without an answer may.
        let write = self.platform.store.write(Bucket::State, &key, session.encode(), expect);
        let result = self.soon(write, StoreError::OutcomeUnknown { doing: "renewing the session".into() }).await;
        match result {
            Ok(revision) => {
                let first = self.acknowledged(revision, sent);
                if known.is_none() {
                    let text = if first { "joined" } else { "joined again" };
                    self.events.send(EventKind::NodeJoined, &session.node, text).await;
                }
                Ok(())
            }
            Err(error) => {
                // Another writer, or a write of ours whose answer was lost: look before the next try.
                if !matches!(error, StoreError::Unreachable(_)) {
                    self.look(&key).await?;
                }
                Err(WriteError::Store(error))
            }
        }
    }

    /// What the store answers. Later than the next renewal is as good as never: the fence must not wait for the store's patience.
    async fn soon<T>(
        &self,
        answer: impl Future<Output = Result<T, StoreError>>,
        late: StoreError,
    ) -> Result<T, StoreError> {
        let patience = self.platform.clock.sleep(self.member.options.timing.renew);
        tokio::select! { // either is dropped
            biased;
            answer = answer => answer,
            () = patience => Err(late),
        }
    }

    /// Note a renewal that the store acknowledged. Answers whether it was the first of this process.
    fn acknowledged(&self, revision: Revision, sent: Duration) -> bool {
        let mut state = self.member.state();
        state.revision = Some(revision);
        state.renewals += 1;
        state.renewed.replace(sent).is_none()
    }

    /// After a write that did not succeed for sure: adopt what is there if it is ours, begin a new life if it is gone.
    async fn look(&self, key: &str) -> Result<(), WriteError> {
        let late = StoreError::Unreachable("no answer before the next renewal".into());
        let entry = self.soon(self.platform.store.get(Bucket::State, key), late).await.map_err(WriteError::Store)?;
        let Some(entry) = entry else {
            // An observer removed it: that life is over, whatever this node still runs.
            let mut state = self.member.state();
            state.revision = None;
            state.unsettled = Some(self.platform.clock.now());
            let past = std::mem::replace(&mut state.incarnation, self.platform.rng.uuid());
            state.past.push_back(past);
            if state.past.len() > PAST_LIVES_MAX {
                state.past.pop_front();
            }
            return Ok(());
        };
        self.check_found(&entry)?;
        self.member.state().revision = Some(entry.revision);
        Ok(())
    }

    /// Where an earlier life of this node holds something strict, it may still run it, on another machine perhaps: it must
    /// have been silent for the kill time, as for any other node.
    fn outlast(&mut self, entry: &Entry, view: &LatticeView) -> Result<(), WriteError> {
        let Ok(found) = Session::decode(&entry.value) else { return Ok(()) };
        let earlier = Holder { node: found.node, incarnation: found.incarnation };
        let is_strict = |name| view.specs.get(name).is_some_and(|spec| spec.record.spec.class == Class::Strict);
        let mut held = view.slots.iter().filter(|(_, slot)| slot.record.holder == earlier);
        let is_of_this_process = {
            let state = self.member.state();
            earlier.incarnation == state.incarnation || state.past.contains(&earlier.incarnation)
        };
        if is_of_this_process || !held.any(|(slot, _)| is_strict(&slot.workload)) {
            return Ok(());
        }
        let now = self.platform.clock.now();
        let watched = self.earlier.get_or_insert(Earlier { revision: entry.revision, since: now, changes: 0 });
        if watched.revision != entry.revision {
            *watched = Earlier { revision: entry.revision, since: now, changes: watched.changes + 1 };
        }
        if watched.changes >= SIGNS_OF_LIFE {
            return Err(WriteError::Displaced);
        }
        if now.saturating_sub(watched.since) < self.member.options.timing.kill {
            let text = "an earlier life of this node holds strict replicas and may still run them";
            return Err(WriteError::Store(StoreError::Unreachable(text.into())));
        }
        Ok(())
    }

    /// A session under our id that another life wrote: ours from before a restart, or another process's.
    fn check_found(&self, entry: &Entry) -> Result<(), WriteError> {
        let state = self.member.state();
        let Ok(found) = Session::decode(&entry.value) else { return Ok(()) };
        // Before we ever wrote, it is what our last life left. After that, only another process can have written it.
        let is_ours = found.incarnation == state.incarnation || state.past.contains(&found.incarnation);
        let foreign = state.renewed.is_some() && !is_ours;
        if foreign && found.started_at >= self.started_at { Err(WriteError::Displaced) } else { Ok(()) }
    }

    fn session(&self) -> Session {
        let state = self.member.state();
        let options = &self.member.options;
        Session {
            node: options.node.clone(),
            incarnation: state.incarnation,
            labels: options.labels.clone(),
            version: options.version.clone(),
            capacity: options.capacity,
            volumes: options.volumes.clone(),
            http: options.http.clone(),
            draining: state.draining,
            taints: options.taints.clone(),
            gpus: gpu::bounded(self.host.gpus()),
            offers: options.offers.clone(),
            compiled: self.host.compiled(),
            started_at: self.started_at,
            renewals: state.renewals,
        }
    }

    /// Remove the session: others need not wait for the kill time.
    pub(crate) async fn leave(&self) {
        let Some(revision) = self.member.state().revision else { return };
        let key = Key::Session(self.member.options.node.clone()).to_string();
        if let Err(error) = self.platform.store.delete(Bucket::State, &key, revision).await {
            tracing::debug!(%error, "the session was not removed; observers will");
        }
    }
}

enum WriteError {
    Displaced,
    Store(StoreError),
}
