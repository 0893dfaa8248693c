//! Messages for workloads: subscriptions of a replica that is ready, and what becomes of what they bring. A message goes
//! through the same door as a request, to the same instances, under the same limits.
//!
//! Core NATS knows no backpressure: what a server sends must be taken. So what comes beyond a replica's concurrency waits
//! here, within bounds, and what is beyond these is dropped, counted and told; who waits for an answer hears of it.

use crate::{
    handed::Handed,
    micro::{EndpointCounts, Micro},
};
use lattice::{
    account::{Account, Login},
    http::CallError,
    id::{LatticeId, SlotId},
    limits::one_line,
    messaging::{Messaging, Subscription, refusal},
    spec::{Class, MessageSpec, WorkloadSpec, is_answerable},
    store::{Bus, BusError, Clock, Message},
};
use lattice_runtime::{LogSink, LogStream, Unit};
use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

/// Payloads that wait in one subscription of a replica.
const WAITING_BYTES_MAX: usize = 16 << 20;
/// Until the next try to subscribe.
const AGAIN: Duration = Duration::from_secs(1);
/// Between two lines about what failed in one subscription.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// For how long a replica that stops goes on taking messages, where nobody may be there in its place: until others listen for what
/// rests.
const LINGER: Duration = Duration::from_secs(1);

/// What subscriptions are made with.
pub(crate) struct Receivers {
    pub(crate) lattice: LatticeId,
    pub(crate) messaging: Arc<dyn Messaging>,
    pub(crate) clock: Arc<dyn Clock>,
    /// What other nodes kept until there was a replica.
    pub(crate) handed: Handed,
}

impl Receivers {
    /// From now on the unit gets its workload's messages, if its spec names some.
    pub(crate) fn start(
        &self,
        slot: &SlotId,
        (spec, account): (&WorkloadSpec, Option<Arc<Account>>),
        unit: &Arc<Unit>,
        lines: Arc<dyn LogSink>,
    ) -> Option<Receiving> {
        let stop = CancellationToken::new();
        let login = Login { workload: spec.name.clone(), account };
        let micro = Micro::of((&self.lattice, slot), spec, &self.clock);
        let endpoints: Vec<_> = micro.iter().flat_map(Micro::endpoints).collect();
        let mut endpoints = endpoints.into_iter();
        let mut receiver = |of: &MessageSpec| Receiver {
            counts: of.endpoint.as_ref().and_then(|_| endpoints.next()),
            of: of.clone(),
            group: of.group_of(&self.lattice, &spec.name),
            concurrency: of.concurrency.unwrap_or(spec.limits.concurrency).max(1) as usize,
            waiting_max: spec.limits.queue as usize,
            slot: slot.clone(),
            login: login.clone(),
            unit: unit.clone(),
            messaging: self.messaging.clone(),
            clock: self.clock.clone(),
            stop: stop.clone(),
            lines: lines.clone(),
            told: Mutex::default(),
        };
        let start = |of| {
            let receiver = receiver(of);
            let handed = self.handed.open(&spec.name, of.subject.as_str(), &receiver.group);
            tokio::spawn(receive(Arc::new(receiver), handed))
        };
        let mut work: Vec<JoinHandle<()>> = spec.messages.iter().map(start).collect();
        if let Some(micro) = micro {
            let served = micro.serve(self.messaging.clone(), login, self.clock.clone(), stop.clone());
            work.push(tokio::spawn(served));
        }
        let rests = spec.autoscale.as_ref().is_some_and(|autoscale| autoscale.min == 0);
        let linger = if rests && spec.class == Class::Available { LINGER } else { Duration::ZERO };
        (!work.is_empty()).then_some(Receiving { stop, work, linger })
    }
}

/// The subscriptions of one unit. Dropping it ends them, and what they are at.
pub(crate) struct Receiving {
    stop: CancellationToken,
    work: Vec<JoinHandle<()>>,
    linger: Duration,
}

impl Receiving {
    /// The same at once, though nobody may be there in its place: it could not handle what comes.
    pub(crate) async fn drain_at_once(mut self, clock: Arc<dyn Clock>, limit: Duration) {
        self.linger = Duration::ZERO;
        self.drain(clock, limit).await;
    }

    /// Unsubscribe, and wait until what has come by then is done; after so long the rest is dropped.
    pub(crate) async fn drain(mut self, clock: Arc<dyn Clock>, limit: Duration) {
        let done = async {
            // Not all of the time: what has come by then takes some, too.
            clock.sleep(self.linger.min(limit / 4)).await;
            self.stop.cancel();
            for work in &mut self.work {
                // One that panicked is done, too.
                let _ = work.await;
            }
        };
        tokio::select! { // either ends it
            biased;
            () = done => {}
            () = clock.sleep(limit) => tracing::warn!("messages still waited at the drain limit"),
        }
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.work.iter().for_each(JoinHandle::abort);
    }
}

/// One subscription of one unit.
struct Receiver {
    of: MessageSpec,
    /// Of the endpoint that it is.
    counts: Option<Arc<EndpointCounts>>,
    group: String,
    concurrency: usize,
    waiting_max: usize,
    slot: SlotId,
    login: Login,
    unit: Arc<Unit>,
    messaging: Arc<dyn Messaging>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    lines: Arc<dyn LogSink>,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    last: Option<Duration>,
    /// What was not told since then.
    more: u64,
}

type Opened = (Arc<dyn Bus>, Box<dyn Subscription>);

async fn receive(receiver: Arc<Receiver>, mut handed: mpsc::Receiver<Message>) {
    // Once more only where the connection was closed for good.
    while let Some((bus, mut subscription)) = receiver.subscribe().await {
        let (mut waiting, mut bytes) = (VecDeque::<Message>::new(), 0_usize);
        let mut handled = JoinSet::new();
        let (mut is_draining, mut is_over, mut is_handed) = (false, false, false);
        loop {
            while handled.len() < receiver.concurrency
                && let Some(message) = waiting.pop_front()
            {
                bytes = bytes.saturating_sub(message.payload.len());
                handled.spawn(receiver.clone().handle(bus.clone(), message));
            }
            if is_over && (is_handed || !is_draining) && handled.is_empty() {
                break; // and then nothing waits either
            }
            let message = tokio::select! { // cancel-safe: each arm takes one thing whole, or nothing
                biased;
                () = receiver.stop.cancelled(), if !is_draining => {
                    is_draining = true;
                    handed.close();
                    subscription.drain().await;
                    None
                }
                Some(_) = handled.join_next(), if !handled.is_empty() => None,
                message = handed.recv(), if !is_handed => {
                    is_handed = message.is_none();
                    message
                }
                message = subscription.next(), if !is_over => {
                    is_over = message.is_none();
                    message
                }
            };
            let Some(message) = message else { continue };
            let size = message.payload.len();
            let is_full =
                waiting.len() >= receiver.waiting_max.max(1) || bytes.saturating_add(size) > WAITING_BYTES_MAX;
            // One that is larger than all the room there is has it for itself.
            if is_full && !waiting.is_empty() {
                receiver.drop_one(&bus, message).await;
            } else {
                bytes = bytes.saturating_add(size);
                waiting.push_back(message);
            }
        }
        if is_draining {
            return;
        }
        receiver.clock.sleep(AGAIN).await;
    }
}

impl Receiver {
    /// Until it is subscribed. `None`: it is not to be any more.
    async fn subscribe(&self) -> Option<Opened> {
        loop {
            let error = match self.stop.run_until_cancelled(self.try_subscribe()).await? {
                Ok(opened) => return Some(opened),
                Err(error) => error,
            };
            self.tell(format_args!("is not subscribed to {}: {error}", self.of.subject));
            self.stop.run_until_cancelled(self.clock.sleep(AGAIN)).await?;
        }
    }

    async fn try_subscribe(&self) -> Result<Opened, BusError> {
        let bus = self.messaging.open(&self.login).await?;
        let subscription = self.messaging.subscribe(&self.login, self.of.subject.as_str(), &self.group).await?;
        Ok((bus, subscription))
    }

    async fn handle(self: Arc<Self>, bus: Arc<dyn Bus>, message: Message) {
        let (subject, reply) = (message.subject.clone(), message.reply.clone());
        let began = self.clock.now();
        let handled = self.unit.handle(message).await;
        let took = self.clock.now().saturating_sub(began);
        let Err(error) = handled else { return self.count(took, None) };
        self.tell(format_args!("failed on a message on {}: {error}", one_line(&subject, 128)));
        let (code, text) = match error.nothing_ran() {
            true => ("503", "overloaded"),
            // What it is about is for the operator's eyes.
            false if matches!(error, CallError::Timeout { .. }) => ("500", "no answer in time"),
            false => ("500", "the message was not handled"),
        };
        self.count(took, Some((code, text)));
        answer(&bus, reply, code, text).await;
    }

    async fn drop_one(&self, bus: &Arc<dyn Bus>, message: Message) {
        self.unit.note_dropped_message();
        let subject = one_line(&message.subject, 128);
        self.tell(format_args!("dropped a message on {subject}: too many wait for it"));
        self.count(Duration::ZERO, Some(("503", "overloaded")));
        answer(bus, message.reply, "503", "overloaded").await;
    }

    /// Where it is an endpoint.
    fn count(&self, took: Duration, error: Option<(&str, &str)>) {
        if let Some(counts) = &self.counts {
            counts.observe(took, error.map(|(code, text)| format!("{code}: {text}")).as_deref());
        }
    }

    /// In the node's log and in the workload's, seldom however often it happens.
    fn tell(&self, what: fmt::Arguments<'_>) {
        let now = self.clock.now();
        let more = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.last.is_some_and(|last| now.saturating_sub(last) < TOLD_EVERY) {
                told.more += 1;
                return;
            }
            told.last = Some(now);
            std::mem::take(&mut told.more)
        };
        let rest = if more > 0 { format!(" ({more} more such things since the last line)") } else { String::new() };
        let slot = &self.slot;
        tracing::warn!(%slot, "a replica {what}{rest}");
        self.lines.line(None, LogStream::Stderr, None, &format!("lattice: {slot} {what}{rest}"));
    }
}

/// Says to who waits for an answer that there is none.
async fn answer(bus: &Arc<dyn Bus>, reply: Option<String>, code: &str, text: &str) {
    let Some(subject) = reply.filter(|reply| is_answerable(reply)) else { return };
    // Who waits gives up in time.
    let _ = bus.publish(Message { subject, headers: refusal(code, text), ..Message::default() }).await;
}
