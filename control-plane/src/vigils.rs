//! Messages for workloads that rest. Core NATS gives a message to those who listen and keeps nothing, and no replica of such a
//! workload listens. So two nodes do in its place, in its queue group: a message wakes it, waits here within bounds, and goes to the
//! node of the first replica that is ready.
//!
//! Start at [`Vigils::run`]. What a workload is to have is decided elsewhere: see `autoscaler.rs`.

use crate::{demand::Awaited, this_node::ThisNode};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use lattice::{
    Fut,
    account::Login,
    demand::Demand as _,
    held::{Held, TAKEN},
    id::{NodeId, WorkloadName},
    limits::one_line,
    messaging::{Messaging, Subscription, refusal},
    record::{Phase, SpecRecord},
    spec::{Grants, MessageSpec, NatsAccount, is_answerable},
    store::{Bus, BusError, Message},
    subject::Topic,
    view::LatticeView,
};
use lattice_planner::scale_rank;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// Nodes that listen for one workload.
const LISTENERS: u32 = 2;
/// Messages of one workload that wait here, and their bytes.
const HELD_MAX: usize = 256;
const HELD_BYTES_MAX: usize = 4 << 20;
/// For how long one waits at most.
const HELD_FOR: Duration = Duration::from_secs(30);
/// Between two looks at what waits.
const LOOK: Duration = Duration::from_millis(100);
/// Between two looks at which workloads rest.
const FIND: Duration = Duration::from_millis(500);
/// Messages that came and were not looked at. More wait in their subscriptions.
const COMING: usize = 64;
/// For how long it goes on listening beside the first replica that is ready.
const LINGER: Duration = Duration::from_secs(1);
/// Until the next try to subscribe.
const AGAIN: Duration = Duration::from_secs(1);
/// For the answer of a node that a message was sent to.
const HAND_OVER: Duration = Duration::from_secs(2);
/// Why what waits where nobody listens any more is refused.
const LEFT: &str = "the node leaves, or the workload was changed or deleted";
/// For what is on its way when a subscription ends.
const LAST_ONES: Duration = Duration::from_secs(1);

pub(crate) struct Vigils {
    node: ThisNode,
    awaited: Awaited,
    messaging: Arc<dyn Messaging>,
    kept: BTreeMap<WorkloadName, Kept>,
    /// Those that nobody needs any more, until nothing waits there.
    ending: FuturesUnordered<Fut<'static, ()>>,
}

/// One under way. Dropping it ends it, and loses what waits there.
struct Kept {
    of: (uuid::Uuid, Vec<MessageSpec>, Option<NatsAccount>),
    end: watch::Sender<Option<Duration>>,
    work: JoinHandle<()>,
}

impl Kept {
    /// It listens no more. What waits there is handed over within this time, or refused.
    async fn end(mut self, within: Duration) {
        self.end.send_replace(Some(within));
        // One that panicked has ended, too.
        let _ = (&mut self.work).await;
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.work.abort();
    }
}

impl Vigils {
    pub(crate) fn new(node: ThisNode, awaited: Awaited, messaging: Arc<dyn Messaging>) -> Self {
        Self { node, awaited, messaging, kept: BTreeMap::new(), ending: FuturesUnordered::new() }
    }

    /// Returns when nothing waits here any more, which `stop` asks for.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            self.look();
            let clock = self.node.platform.clock.clone();
            tokio::select! { // each is a reason to look again
                biased;
                () = stop.cancelled() => break,
                changed = self.node.view.changed() => if changed.is_err() { return },
                Some(()) = self.ending.next(), if !self.ending.is_empty() => {}
                () = clock.sleep(FIND) => {}
            }
        }
        let within = self.node.options.drain.min(HELD_FOR);
        for kept in std::mem::take(&mut self.kept).into_values() {
            self.ending.push(Box::pin(kept.end(within)));
        }
        while self.ending.next().await.is_some() {}
    }

    fn look(&mut self) {
        let view = self.node.view.borrow_and_update().clone();
        self.kept.retain(|_, kept| !kept.work.is_finished());
        let is_other = |name: &WorkloadName, kept: &mut Kept| {
            let is_same = |spec: &SpecRecord| {
                (spec.uid, &spec.spec.messages, &spec.spec.grants.nats.account) == (kept.of.0, &kept.of.1, &kept.of.2)
            };
            !view.specs.get(name).is_some_and(|spec| is_same(&spec.record))
        };
        let others: Vec<(WorkloadName, Kept)> = self.kept.extract_if(.., is_other).collect();
        for (name, kept) in others {
            // A workload that was deleted gets no replica.
            let lives = view.specs.get(&name).is_some_and(|spec| spec.record.uid == kept.of.0);
            self.ending.push(Box::pin(kept.end(if lives { HELD_FOR } else { Duration::ZERO })));
        }
        if self.node.member.is_draining() {
            return;
        }
        for (name, spec) in view.specs.iter().map(|(name, spec)| (name, &spec.record)) {
            let rests = !spec.spec.messages.is_empty() && spec.spec.autoscale.is_some() && view.replicas(spec) == 0;
            if !rests || self.kept.contains_key(name) || !self.listens_to(&view, name) {
                continue;
            }
            let vigil = Vigil {
                node: self.node.clone(),
                awaited: self.awaited.clone(),
                messaging: self.messaging.clone(),
                workload: name.clone(),
                messages: spec.spec.messages.clone(),
                grants: spec.spec.grants.clone(),
                held: VecDeque::new(),
                bytes: 0,
            };
            let (end, ends) = watch::channel(None);
            let of = (spec.uid, spec.spec.messages.clone(), spec.spec.grants.nats.account.clone());
            self.kept.insert(name.clone(), Kept { of, end, work: tokio::spawn(vigil.keep(ends)) });
        }
    }

    fn listens_to(&self, view: &LatticeView, name: &WorkloadName) -> bool {
        scale_rank(view, name, &self.node.member.me()).is_some_and(|rank| rank < LISTENERS)
    }
}

/// What one node does for one workload while that rests.
struct Vigil {
    node: ThisNode,
    awaited: Awaited,
    messaging: Arc<dyn Messaging>,
    workload: WorkloadName,
    messages: Vec<MessageSpec>,
    /// What says as whom it listens.
    grants: Grants,
    /// In the order of their arrival, and when that was.
    held: VecDeque<(Duration, Held)>,
    bytes: usize,
}

/// A message, and the subscription that it came through.
type Came = ((String, String), Message);

impl Vigil {
    /// Until a replica is there and listens for itself, or until it is to end: within the time that `ends` says then.
    async fn keep(mut self, mut ends: watch::Receiver<Option<Duration>>) {
        let clock = self.node.platform.clock.clone();
        let (came, mut coming) = mpsc::channel(COMING);
        let leave = CancellationToken::new();
        let (bus, mut listening) = loop {
            match self.listen(&came, &leave).await {
                Ok(opened) => break opened,
                Err(error) => tracing::debug!(workload = %self.workload, %error, "nobody listens for it yet"),
            }
            tokio::select! { // cancel-safe: both only wait
                biased;
                _ = ended(&mut ends) => return,
                () = clock.sleep(AGAIN) => {}
            }
        };
        drop(came);
        let (mut is_over, mut ready_since, mut end) = (false, None, None);
        let mut due = clock.now() + LOOK;
        while !is_over || !self.held.is_empty() {
            let sleep = clock.sleep(due.saturating_sub(clock.now()));
            tokio::select! { // cancel-safe: a set of futures and channels lose nothing
                biased;
                () = sleep => {
                    due = clock.now() + LOOK;
                    let ready = self.ready();
                    for node in &ready {
                        self.hand_over(&bus, node).await;
                    }
                    self.drop_old(&bus).await;
                    if !self.held.is_empty() {
                        self.awaited.awaited(&self.workload);
                    }
                    // A replica is ready before its own subscriptions are with the server.
                    if ready.is_empty() {
                        ready_since = None;
                    } else if clock.now().saturating_sub(*ready_since.get_or_insert(clock.now())) >= LINGER {
                        leave.cancel();
                    }
                    if end.is_some_and(|end| clock.now() >= end) {
                        break;
                    }
                }
                within = ended(&mut ends), if end.is_none() => {
                    end = Some(clock.now() + within);
                    leave.cancel();
                }
                message = coming.recv(), if !is_over => match message {
                    Some((key, message)) => self.take(&bus, key, message).await,
                    // It is left, or the connection was closed for good.
                    None => is_over = true,
                },
                Some(()) = listening.next(), if !listening.is_empty() => {}
            }
        }
        let last_ones = async {
            while !is_over {
                tokio::select! { // cancel-safe, as above
                    biased;
                    message = coming.recv() => match message {
                        Some((key, message)) => self.refuse(&bus, self.hold(key, message), LEFT).await,
                        None => is_over = true,
                    },
                    Some(()) = listening.next(), if !listening.is_empty() => {}
                }
            }
        };
        tokio::select! { // a connection that does not answer is left to itself
            biased;
            () = last_ones => {}
            () = clock.sleep(LAST_ONES) => {}
        }
        while let Some(held) = self.pop() {
            self.refuse(&bus, held, LEFT).await;
        }
    }

    async fn listen(
        &self,
        came: &mpsc::Sender<Came>,
        leave: &CancellationToken,
    ) -> Result<(Arc<dyn Bus>, FuturesUnordered<Fut<'static, ()>>), BusError> {
        let login = Login::of(&self.node.platform, &self.workload, &self.grants, &BTreeMap::new()).await;
        let login = login.map_err(|error| BusError::Disconnected(error.to_string()))?;
        let bus = self.messaging.open(&login).await?;
        let listening = FuturesUnordered::new();
        for of in &self.messages {
            let key = (of.subject.as_str().to_owned(), of.group_of(&self.node.options.lattice, &self.workload));
            let subscription = self.messaging.subscribe(&login, &key.0, &key.1).await?;
            let pass: Fut<'static, ()> = Box::pin(pass_on(subscription, key, came.clone(), leave.clone()));
            listening.push(pass);
        }
        Ok((bus, listening))
    }

    fn hold(&self, key: (String, String), message: Message) -> Held {
        Held::new(self.node.platform.rng.uuid(), self.workload.clone(), key, message)
    }

    async fn take(&mut self, bus: &Arc<dyn Bus>, key: (String, String), message: Message) {
        let held = self.hold(key, message);
        if self.held.len() >= HELD_MAX || self.bytes.saturating_add(held.bytes()) > HELD_BYTES_MAX {
            self.refuse(bus, held, "too many wait for its first replica").await;
            return;
        }
        self.bytes = self.bytes.saturating_add(held.bytes());
        self.held.push_back((self.node.platform.clock.now(), held));
        self.awaited.awaited(&self.workload);
    }

    /// Nodes with a replica that is ready, and is to stay: one that goes is recorded for a while.
    fn ready(&self) -> Vec<NodeId> {
        let view = self.node.view.borrow();
        let wanted = view.specs.get(&self.workload).map_or(0, |spec| view.replicas(&spec.record));
        let stays = view.slots_of(&self.workload).filter(|(slot, _)| slot.index < wanted);
        let ready = stays.filter(|(_, slot)| slot.record.phase == Phase::Ready);
        let holders = ready.map(|(_, slot)| &slot.record.holder).filter(|holder| view.live(holder).is_some());
        holders.map(|holder| holder.node.clone()).collect()
    }

    /// As many as that node takes.
    async fn hand_over(&mut self, bus: &Arc<dyn Bus>, node: &NodeId) {
        let subject = Topic::Held(node.clone()).subject(&self.node.options.lattice);
        while let Some((_, held)) = self.held.front() {
            let (headers, payload) = held.encode();
            let asked = self.node.platform.bus.request(subject.clone(), headers, payload, HAND_OVER).await;
            match asked {
                Ok(answer) if answer.payload == TAKEN.as_bytes() => drop(self.pop()),
                // It has no replica yet, or none with room. Nothing ran.
                Ok(_) | Err(BusError::NoResponders { .. }) => return,
                Err(error @ (BusError::TooLarge { .. } | BusError::Malformed { .. })) => {
                    if let Some(held) = self.pop() {
                        self.refuse(bus, held, &error.to_string()).await;
                    }
                }
                // It may have run, or may yet: it is not sent again.
                Err(error @ (BusError::Timeout { .. } | BusError::Disconnected(_))) => {
                    let subject = self.pop().map(|held| held.of.subject).unwrap_or_default();
                    let subject = one_line(&subject, 128);
                    tracing::warn!(workload = %self.workload, subject, %error, "a message may be lost on its way to a replica");
                    return;
                }
            }
        }
    }

    fn pop(&mut self) -> Option<Held> {
        let (_, held) = self.held.pop_front()?;
        self.bytes = self.bytes.saturating_sub(held.bytes());
        Some(held)
    }

    async fn drop_old(&mut self, bus: &Arc<dyn Bus>) {
        let now = self.node.platform.clock.now();
        while self.held.front().is_some_and(|(since, _)| now.saturating_sub(*since) >= HELD_FOR) {
            if let Some(held) = self.pop() {
                self.refuse(bus, held, "no replica was ready in time").await;
            }
        }
    }

    /// It is dropped; who waits for an answer hears of it.
    async fn refuse(&self, bus: &Arc<dyn Bus>, held: Held, why: &str) {
        let subject = one_line(&held.of.subject, 128);
        tracing::warn!(workload = %self.workload, subject, why, "a message for a workload that rests was dropped");
        let Some(subject) = held.of.reply.filter(|reply| is_answerable(reply)) else { return };
        // Who waits gives up in time.
        let _ = bus.publish(Message { subject, headers: refusal("503", "overloaded"), ..Message::default() }).await;
    }
}

/// Within which time it is to end, once it is.
async fn ended(ends: &mut watch::Receiver<Option<Duration>>) -> Duration {
    // Without a sender this is dropped with all the rest.
    ends.wait_for(Option::is_some).await.map_or(Duration::ZERO, |within| within.unwrap_or_default())
}

/// What comes, until it is to be left: then what the server has sent by then still comes.
async fn pass_on(
    mut subscription: Box<dyn Subscription>,
    key: (String, String),
    came: mpsc::Sender<Came>,
    leave: CancellationToken,
) {
    let mut is_leaving = false;
    loop {
        let message = tokio::select! { // cancel-safe: `next` may be dropped without a loss
            biased;
            () = leave.cancelled(), if !is_leaving => {
                is_leaving = true;
                subscription.drain().await;
                continue;
            }
            message = subscription.next() => message,
        };
        let Some(message) = message else { return };
        if came.send((key.clone(), message)).await.is_err() {
            return;
        }
    }
}
