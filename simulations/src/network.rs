//! What stands between a node and the lattice in memory: each node's connection, and everything that goes wrong on it.
//! The faults are those that were seen with real servers; none breaks the contract of [`lattice::store`].

use crate::chance::SimRng;
use bytes::Bytes;
use futures_util::StreamExt as _;
use lattice::{
    Fut,
    id::{Digest, Revision},
    store::{
        Artifacts, Bucket, Bus, BusError, Change, Clock, Connection, Entry, FeedItem, Handler, Headers, Items, Message,
        MicroService, Platform, Precondition, Rng, Snapshot, Store, StoreError,
    },
    testing::MemoryLattice,
};
use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep, sleep_until},
};

/// How long a node waits for an answer of the store.
const TIMEOUT: Duration = Duration::from_secs(5);
const FEED_ITEMS_MAX: usize = 8 * 1024;

/// One node's way to NATS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Up,
    /// Nothing arrives, and neither side knows: what was sent waits and may arrive when the link is up again.
    Silent,
    /// The client knows that it is disconnected.
    Down,
}

/// What goes wrong by itself, for all nodes, in thousandths of operations.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    pub(crate) lost_requests: u64,
    pub(crate) lost_replies: u64,
    pub(crate) late_writes: u64,
    pub(crate) lost_changes: u64,
    /// No leader until then: nothing is read or written.
    pub(crate) stalled_until: Option<Instant>,
}

/// The weather of one lattice. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Sky(Arc<Mutex<Weather>>);

impl Sky {
    pub(crate) fn now(&self) -> Weather {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub(crate) fn set(&self, change: impl FnOnce(&mut Weather)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
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

#[derive(Clone, Copy)]
struct WireState {
    link: Link,
    /// How often it came up after it was known to be down.
    reconnects: u64,
}

impl Wire {
    pub(crate) fn new(sky: Sky, rng: SimRng) -> Self {
        let state = WireState { link: Link::Up, reconnects: 0 };
        Self { state: Arc::new(Mutex::new(state)), changed: Arc::default(), sky, rng: Arc::new(rng) }
    }

    pub(crate) fn set(&self, link: Link) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.link == Link::Down && link == Link::Up {
            state.reconnects += 1;
        }
        state.link = link;
        drop(state);
        self.changed.notify_waiters();
    }

    pub(crate) fn link(&self) -> Link {
        self.state().link
    }

    fn state(&self) -> WireState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn until(&self, is_so: impl Fn(WireState) -> bool) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if is_so(self.state()) {
                return;
            }
            changed.await;
        }
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

    /// A question that changes nothing: asked again it gives no harm, so all that can happen is that no answer comes.
    async fn ask<T>(&self, answer: Fut<'_, Result<T, StoreError>>) -> Result<T, StoreError> {
        let unreachable = || StoreError::Unreachable("no answer".into());
        let deadline = Instant::now() + TIMEOUT;
        self.send().await?;
        if self.rng.happens(self.sky.now().lost_requests) || !self.leader_by(deadline).await {
            sleep_until(deadline).await;
            return Err(unreachable());
        }
        let answer = answer.await;
        self.travel().await;
        if self.link() == Link::Up {
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
        Instant::now() < deadline && self.link() == Link::Up
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
        if self.link() == Link::Silent || stalled.is_some() || self.rng.happens(weather.late_writes) {
            let lands = stalled.unwrap_or(started) + self.rng.millis(0, 8_000);
            let wire = self.clone();
            let landing = tokio::spawn(async move {
                sleep_until(lands).await;
                wire.until(|state| state.link != Link::Silent).await;
                // What waits in a connection is lost with it.
                if wire.link() == Link::Up { Some(write.await) } else { None }
            });
            return match tokio::time::timeout_at(deadline, landing).await {
                Ok(Ok(Some(answer))) => answer,
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
        if self.link() == Link::Up && !self.rng.happens(weather.lost_replies) {
            return answer;
        }
        sleep_until(deadline).await;
        Err(unknown())
    }
}

struct FarStore {
    wire: Wire,
    near: Arc<dyn Store>,
}

impl FarStore {
    /// The revision that an absent key's write is made against, as `lattice-nats` does: from the leader, before the
    /// write is sent. A write that lands late lands only where nothing was written since.
    async fn resolve(&self, bucket: Bucket, key: &str, expect: Precondition) -> Result<Precondition, StoreError> {
        if expect != Precondition::Absent {
            return Ok(expect);
        }
        let history = self.wire.ask(self.near.history(bucket, key)).await?;
        match history.last() {
            None => Ok(Precondition::At(Revision(0))),
            Some(Change { value: None, revision, .. }) => Ok(Precondition::At(*revision)),
            Some(_) => Err(StoreError::Conflict { bucket, key: key.to_owned() }),
        }
    }
}

impl Store for FarStore {
    fn get(&self, bucket: Bucket, key: &str) -> Fut<'_, Result<Option<Entry>, StoreError>> {
        let answer = self.near.get(bucket, key);
        Box::pin(self.wire.ask(answer))
    }

    fn write(
        &self,
        bucket: Bucket,
        key: &str,
        value: Bytes,
        expect: Precondition,
    ) -> Fut<'_, Result<Revision, StoreError>> {
        let key = key.to_owned();
        Box::pin(async move {
            let expect = self.resolve(bucket, &key, expect).await?;
            let near = self.near.clone();
            let doing = format!("writing {bucket}/{key}");
            let write = Box::pin(async move { near.write(bucket, &key, value, expect).await });
            self.wire.change(doing, write).await
        })
    }

    fn delete(&self, bucket: Bucket, key: &str, expect: Revision) -> Fut<'_, Result<Revision, StoreError>> {
        let (key, near) = (key.to_owned(), self.near.clone());
        let doing = format!("deleting {bucket}/{key}");
        Box::pin(self.wire.change(doing, Box::pin(async move { near.delete(bucket, &key, expect).await })))
    }

    fn snapshot(&self, bucket: Bucket) -> Fut<'_, Result<Snapshot, StoreError>> {
        Box::pin(self.wire.ask(self.near.snapshot(bucket)))
    }

    fn history(&self, bucket: Bucket, key: &str) -> Fut<'_, Result<Vec<Change>, StoreError>> {
        Box::pin(self.wire.ask(self.near.history(bucket, key)))
    }

    fn feed(&self) -> Fut<'_, Result<Items<FeedItem>, StoreError>> {
        Box::pin(async move {
            let near = self.wire.ask(self.near.feed()).await?;
            let (to, mut from) = mpsc::channel(FEED_ITEMS_MAX);
            tokio::spawn(forward(self.wire.clone(), near, to));
            let items: Items<FeedItem> =
                Box::pin(futures_util::stream::poll_fn(move |context| from.poll_recv(context)));
            Ok(items)
        })
    }
}

/// Carry changes to one node until it drops its feed.
async fn forward(wire: Wire, mut near: Items<FeedItem>, to: mpsc::Sender<FeedItem>) {
    let mut reconnects = wire.state().reconnects;
    loop {
        let item = tokio::select! { // cancel-safe: a stream's `next` loses nothing
            biased;
            () = to.closed() => return,
            () = wire.until(|state| state.reconnects != reconnects) => {
                reconnects = wire.state().reconnects;
                FeedItem::Gap
            }
            item = near.next() => match item {
                Some(item) => item,
                None => return,
            },
        };
        wire.travel().await;
        wire.until(|state| state.link != Link::Silent).await;
        let is_lost =
            item != FeedItem::Gap && (wire.link() == Link::Down || wire.rng.happens(wire.sky.now().lost_changes));
        if !is_lost && to.send(item).await.is_err() {
            return;
        }
    }
}

struct FarArtifacts {
    wire: Wire,
    near: Arc<dyn Artifacts>,
}

impl Artifacts for FarArtifacts {
    fn get(&self, digest: Digest) -> Fut<'_, Result<Option<Bytes>, StoreError>> {
        Box::pin(self.wire.ask(self.near.get(digest)))
    }
    fn put(&self, bytes: Bytes) -> Fut<'_, Result<Digest, StoreError>> {
        Box::pin(self.wire.ask(self.near.put(bytes)))
    }
    fn size(&self, digest: Digest) -> Fut<'_, Result<Option<u64>, StoreError>> {
        Box::pin(self.wire.ask(self.near.size(digest)))
    }
}

struct FarBus {
    wire: Wire,
    near: Arc<dyn Bus>,
}

impl Bus for FarBus {
    fn publish(&self, message: Message) -> Fut<'_, Result<(), BusError>> {
        match self.wire.link() {
            Link::Up => self.near.publish(message),
            Link::Silent => Box::pin(async { Ok(()) }),
            Link::Down => Box::pin(async { Err(BusError::Disconnected("not connected".into())) }),
        }
    }

    fn request(
        &self,
        subject: String,
        headers: Headers,
        payload: Bytes,
        timeout: Duration,
    ) -> Fut<'_, Result<Message, BusError>> {
        Box::pin(async move {
            if self.wire.link() != Link::Up {
                sleep(timeout).await;
                return Err(BusError::Timeout { subject, after: timeout });
            }
            self.near.request(subject, headers, payload, timeout).await
        })
    }

    fn subscribe(&self, subject: String, queue: Option<String>) -> Fut<'_, Result<Items<Message>, BusError>> {
        Box::pin(async move {
            let wire = self.wire.clone();
            let messages = self.near.subscribe(subject, queue).await?;
            let messages: Items<Message> =
                Box::pin(messages.filter(move |_| std::future::ready(wire.link() == Link::Up)));
            Ok(messages)
        })
    }

    fn serve(&self, service: MicroService, handler: Handler) -> Fut<'_, Result<(), BusError>> {
        let wire = self.wire.clone();
        let handler: Handler = Arc::new(move |index, request| {
            let wire = wire.clone();
            let arrived = wire.link() == Link::Up;
            let answer = arrived.then(|| handler(index, request));
            Box::pin(async move {
                let answer = answer?.await;
                answer.filter(|_| wire.link() == Link::Up)
            })
        });
        self.near.serve(service, handler)
    }

    fn inbox(&self) -> String {
        self.near.inbox()
    }

    fn payload_bytes_max(&self) -> usize {
        self.near.payload_bytes_max()
    }

    fn connection(&self) -> Connection {
        if self.wire.link() == Link::Down { Connection::Down } else { Connection::Up }
    }

    fn flush(&self) -> Fut<'_, Result<(), BusError>> {
        self.near.flush()
    }
}
