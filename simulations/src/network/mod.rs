//! What stands between a node and the lattice in memory: each node's connection, and everything that goes wrong on it.
//! The faults are those that were seen with real servers. All but one keep the contract of [`lattice::store`]: a server
//! that was suspended goes on answering reads as the leader that it was, until it notices that it is none any more.
//!
//! Start at [`Wire`]; `store.rs` and `bus.rs` put it in front of the traits. [`Weather`] is what goes wrong by itself.

mod bus;
mod store;

use crate::chance::SimRng;
use bus::FarBus;
use lattice::{
    Fut,
    store::{Clock, Platform, Rng, Store, StoreError},
    testing::{Checkpoint, MemoryLattice, MemoryStore},
    view::LatticeView,
};
use std::{
    collections::{BTreeMap, VecDeque},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use store::{FarArtifacts, FarStore};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};

/// How long a node waits for an answer of the store.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How old a stale read can be.
const STALE_MAX: Duration = Duration::from_secs(3);

/// One node's way to NATS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Up,
    /// What the node sends waits; what is sent to it arrives.
    Mute,
    /// What the node sends arrives; what is sent to it waits.
    Deaf,
    /// Nothing arrives, and neither side knows: what was sent waits and may arrive when the link is up again.
    Silent,
    /// The client knows that it is disconnected.
    Down,
}

impl Link {
    fn sends(self) -> bool {
        matches!(self, Link::Up | Link::Deaf)
    }

    fn hears(self) -> bool {
        matches!(self, Link::Up | Link::Mute)
    }
}

/// What goes wrong by itself, for all nodes, in thousandths of operations.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    /// Of operations of the store.
    pub(crate) lost_requests: u64,
    pub(crate) lost_replies: u64,
    /// Writes that land up to eight seconds later.
    pub(crate) late_writes: u64,
    /// Of the feed.
    pub(crate) lost_changes: u64,
    pub(crate) repeated_changes: u64,
    /// Reads that are answered from the past.
    pub(crate) stale_reads: u64,
    /// Gets that find nothing.
    pub(crate) missing_reads: u64,
    /// Of messages on the bus. Late ones come in another order.
    pub(crate) lost_messages: u64,
    pub(crate) repeated_messages: u64,
    pub(crate) late_messages: u64,
    /// No leader until then: nothing is read or written.
    pub(crate) stalled_until: Option<Instant>,
    /// A server that is no leader any more answers all reads until then.
    pub(crate) deposed_until: Option<Instant>,
}

impl Weather {
    /// The setting of a name, for files of scenarios.
    pub(crate) fn setting(&mut self, name: &str) -> Option<&mut u64> {
        Some(match name {
            "lost-requests" => &mut self.lost_requests,
            "lost-replies" => &mut self.lost_replies,
            "late-writes" => &mut self.late_writes,
            "lost-changes" => &mut self.lost_changes,
            "repeated-changes" => &mut self.repeated_changes,
            "stale-reads" => &mut self.stale_reads,
            "missing-reads" => &mut self.missing_reads,
            "lost-messages" => &mut self.lost_messages,
            "repeated-messages" => &mut self.repeated_messages,
            "late-messages" => &mut self.late_messages,
            _ => return None,
        })
    }
}

#[derive(Default)]
struct SkyState {
    weather: Weather,
    /// What the store held, oldest first, for as long as reads may be stale.
    past: VecDeque<(Instant, Checkpoint, MemoryStore)>,
    /// By the nonce of a claim: what its sender saw then.
    decided: BTreeMap<uuid::Uuid, Arc<LatticeView>>,
}

/// The weather of one lattice, and what its store held a moment ago. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Sky(Arc<Mutex<SkyState>>);

impl Sky {
    fn state(&self) -> MutexGuard<'_, SkyState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> Weather {
        self.state().weather
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut Weather)) {
        change(&mut self.state().weather);
    }

    /// Keep what the store holds now.
    pub(crate) fn record(&self, store: &MemoryStore) {
        let checkpoint = store.checkpoint();
        let then = MemoryStore::at(&checkpoint);
        let mut state = self.state();
        state.past.push_back((Instant::now(), checkpoint, then));
        while state.past.front().is_some_and(|(at, ..)| at.elapsed() > STALE_MAX) {
            state.past.pop_front();
        }
    }

    /// What the store held so long ago, as far as it is known.
    pub(crate) fn before(&self, ago: Duration) -> Option<Checkpoint> {
        let state = self.state();
        let old = state.past.iter().rev().find(|(at, ..)| at.elapsed() >= ago).or_else(|| state.past.front());
        old.map(|(_, checkpoint, _)| checkpoint.clone())
    }

    /// The store was changed by other means than writes: what it held before is not its past any more.
    pub(crate) fn forget(&self) {
        self.state().past.clear();
    }

    fn stale(&self, rng: &SimRng) -> Option<MemoryStore> {
        let state = self.state();
        let last = u64::try_from(state.past.len().checked_sub(1)?).ok()?;
        let (.., store) = state.past.get(usize::try_from(rng.between(0, last)).ok()?)?;
        Some(store.clone())
    }

    /// The view on which the claim with this nonce was decided.
    pub(crate) fn decided_on(&self, nonce: &uuid::Uuid) -> Option<Arc<LatticeView>> {
        self.state().decided.get(nonce).cloned()
    }

    fn decide(&self, nonce: uuid::Uuid, view: Arc<LatticeView>) {
        self.state().decided.entry(nonce).or_insert(view);
    }
}

/// One node's connection. Clones are the same.
#[derive(Clone)]
pub(crate) struct Wire {
    state: Arc<Mutex<WireState>>,
    /// Wakes in the order of waiting; a `watch` channel wakes in an order of its own, and a seed would not replay.
    changed: Arc<Notify>,
    sky: Sky,
    rng: Arc<SimRng>,
}

struct WireState {
    link: Link,
    /// How often it came up after it was known to be down.
    reconnects: u64,
    /// What the node behind it sees.
    view: Option<watch::Receiver<Arc<LatticeView>>>,
}

impl Wire {
    pub(crate) fn new(sky: Sky, rng: SimRng) -> Self {
        let state = WireState { link: Link::Up, reconnects: 0, view: None };
        Self { state: Arc::new(Mutex::new(state)), changed: Arc::default(), sky, rng: Arc::new(rng) }
    }

    pub(crate) fn set(&self, link: Link) {
        let mut state = self.state();
        if state.link == Link::Down && link != Link::Down {
            state.reconnects += 1;
        }
        state.link = link;
        drop(state);
        self.changed.notify_waiters();
    }

    pub(crate) fn link(&self) -> Link {
        self.state().link
    }

    fn reconnects(&self) -> u64 {
        self.state().reconnects
    }

    /// Look at what the node sees, when it sends something.
    pub(crate) fn watch(&self, view: watch::Receiver<Arc<LatticeView>>) {
        self.state().view = Some(view);
    }

    fn view(&self) -> Option<Arc<LatticeView>> {
        Some(self.state().view.as_ref()?.borrow().clone())
    }

    fn state(&self) -> MutexGuard<'_, WireState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn until(&self, is_so: impl Fn(&WireState) -> bool) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if is_so(&self.state()) {
                return;
            }
            changed.await;
        }
    }

    /// Returns once the client knows that it is disconnected.
    pub(crate) async fn is_down(&self) {
        self.until(|state| state.link == Link::Down).await;
    }

    pub(crate) async fn is_up(&self) {
        self.until(|state| state.link == Link::Up).await;
    }

    /// Returns once what is sent to the node arrives, or the client knows that nothing does.
    pub(crate) async fn hears_again(&self) {
        self.until(|state| state.link.hears() || state.link == Link::Down).await;
    }

    /// How late a message comes that comes once, if it does.
    pub(crate) fn arrival(&self) -> Option<Duration> {
        self.copies().into_iter().next()
    }

    /// The lattice as a node sees it through this wire.
    pub(crate) fn platform(&self, lattice: &MemoryLattice, clock: Arc<dyn Clock>, rng: Arc<dyn Rng>) -> Platform {
        let direct = lattice.platform(clock, rng);
        Platform {
            store: Arc::new(FarStore { wire: self.clone(), near: direct.store.clone() }),
            artifacts: Arc::new(FarArtifacts { wire: self.clone(), near: direct.artifacts.clone() }),
            bus: Arc::new(FarBus { wire: self.clone(), near: direct.bus.clone() }),
            ..direct
        }
    }

    async fn travel(&self) {
        sleep(self.rng.millis(0, 3)).await;
    }

    /// Who answers a read now: the store, or what it was.
    fn reads(&self, near: &Arc<dyn Store>) -> Arc<dyn Store> {
        let weather = self.sky.now();
        let is_deposed = weather.deposed_until.is_some_and(|end| Instant::now() < end);
        let stale = if is_deposed || self.rng.happens(weather.stale_reads) { self.sky.stale(&self.rng) } else { None };
        stale.map_or_else(|| near.clone(), |stale| Arc::new(stale))
    }

    fn misses(&self) -> bool {
        self.rng.happens(self.sky.now().missing_reads)
    }

    /// A question that changes nothing: asked again it gives no harm, so all that can happen is that no answer comes.
    async fn ask<T>(&self, answer: Fut<'static, Result<T, StoreError>>) -> Result<T, StoreError> {
        let unreachable = || StoreError::Unreachable("no answer".into());
        let deadline = Instant::now() + TIMEOUT;
        self.send().await?;
        let weather = self.sky.now();
        if self.rng.happens(weather.lost_requests) || !self.leader_by(deadline).await {
            sleep_until(deadline).await;
            return Err(unreachable());
        }
        let answer = answer.await;
        self.travel().await;
        if self.link().hears() && !self.rng.happens(weather.lost_replies) {
            return answer;
        }
        sleep_until(deadline).await;
        Err(unreachable())
    }

    /// The way to the server; an error where the client knows that there is none.
    async fn send(&self) -> Result<(), StoreError> {
        if self.link() == Link::Down {
            return Err(StoreError::Unreachable("not connected".into()));
        }
        self.travel().await;
        Ok(())
    }

    /// Whether there is a link and a leader before the deadline. Returns when there is.
    async fn leader_by(&self, deadline: Instant) -> bool {
        if let Some(end) = self.sky.now().stalled_until {
            sleep_until(end.min(deadline)).await;
        }
        Instant::now() < deadline && self.link().sends()
    }

    /// A write: it may also land without an answer, or after the node has given up.
    async fn change<T>(&self, doing: String, write: Fut<'static, Result<T, StoreError>>) -> Result<T, StoreError>
    where
        T: Send + 'static,
    {
        let started = Instant::now();
        let deadline = started + TIMEOUT;
        self.send().await?;
        let weather = self.sky.now();
        let unknown = || StoreError::OutcomeUnknown { doing };
        let stalled = weather.stalled_until.filter(|end| *end > Instant::now());
        if stalled.is_some() && self.rng.happens(500) {
            sleep(Duration::from_millis(500)).await;
            return Err(StoreError::Unreachable("no leader".into()));
        }
        if !self.link().sends() || stalled.is_some() || self.rng.happens(weather.late_writes) {
            let lands = stalled.unwrap_or(started) + self.rng.millis(0, 8_000);
            let wire = self.clone();
            let landing = tokio::spawn(async move {
                sleep_until(lands).await;
                wire.until(|state| state.link.sends() || state.link == Link::Down).await;
                // What waits in a connection is lost with it.
                if wire.link().sends() { Some(write.await) } else { None }
            });
            return match tokio::time::timeout_at(deadline, landing).await {
                Ok(Ok(Some(answer))) if self.link().hears() => answer,
                _ => {
                    sleep_until(deadline).await;
                    Err(unknown())
                }
            };
        }
        if self.rng.happens(weather.lost_requests) {
            sleep_until(deadline).await;
            return Err(unknown());
        }
        let answer = write.await;
        self.travel().await;
        if self.link().hears() && !self.rng.happens(weather.lost_replies) {
            return answer;
        }
        sleep_until(deadline).await;
        Err(unknown())
    }

    /// What becomes of a message on its way: when its copies arrive, if any does.
    fn copies(&self) -> Vec<Duration> {
        let weather = self.sky.now();
        if self.rng.happens(weather.lost_messages) {
            return Vec::new();
        }
        let number = if self.rng.happens(weather.repeated_messages) { 2 } else { 1 };
        let late = || if self.rng.happens(weather.late_messages) { self.rng.millis(1, 3_000) } else { Duration::ZERO };
        (0..number).map(|_| late()).collect()
    }
}
