//! Messages for workloads, as one process of a node has to do with them: [`StubMessaging`] is its connection for guests,
//! `receivers.rs` what its replicas do with what comes, `spy.rs` its bus. What becomes of all messages is in [`Letters`].

mod letters;
mod receivers;
mod spy;

pub(crate) use letters::{End, Letters, Life, REPLIES, subject};
pub(crate) use receivers::Receivers;
pub(crate) use spy::SpiedBus;

use crate::{
    network::{Link, Wire},
    node::Gate,
    traffic::Traffic,
};
use futures_util::{FutureExt as _, StreamExt as _};
use lattice::{
    Fut,
    account::Login,
    messaging::{BacklogError, Messaging, Subscription},
    spec::PendingTarget,
    store::{Bus, BusError, Items, Message},
};
use std::{fmt, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, sleep_until};

const ROUND_TRIP: Duration = Duration::from_millis(2);
/// For an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Clones are the same connection.
#[derive(Clone)]
pub(crate) struct StubMessaging {
    pub(crate) wire: Wire,
    /// Of the process.
    pub(crate) bus: Arc<dyn Bus>,
    /// Without faults: subscriptions have theirs from here.
    pub(crate) near: Arc<dyn Bus>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) traffic: Traffic,
    /// Where what comes to a node in the place of a replica is written down.
    pub(crate) keeper: Option<(Letters, Life)>,
}

impl fmt::Debug for StubMessaging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StubMessaging").finish_non_exhaustive()
    }
}

impl Messaging for StubMessaging {
    fn open(&self, _: &Login) -> Fut<'_, Result<Arc<dyn Bus>, BusError>> {
        Box::pin(std::future::ready(Ok(self.bus.clone())))
    }

    fn subscribe(&self, _: &Login, subject: &str, group: &str) -> Fut<'_, Result<Box<dyn Subscription>, BusError>> {
        let of = self.clone();
        let (subject, group) = (subject.to_owned(), group.to_owned());
        Box::pin(async move {
            sleep(ROUND_TRIP).await;
            of.gate.opened().await;
            if of.wire.link() != Link::Up {
                return Err(BusError::Disconnected("not connected".into()));
            }
            let near = of.near.subscribe(subject.clone(), Some(group.clone())).await?;
            let subscription = StubSubscription { of, subject, group, near: Some(near), late: None, is_over: false };
            Ok(Box::new(subscription) as Box<dyn Subscription>)
        })
    }

    fn pending(&self, login: &Login, consumer: &PendingTarget) -> Fut<'_, Result<u64, BacklogError>> {
        let (workload, PendingTarget { stream, consumer, .. }) = (login.workload.clone(), consumer.clone());
        Box::pin(async move {
            sleep(ROUND_TRIP).await;
            if self.wire.link() != Link::Up {
                sleep(TIMEOUT).await;
                return Err(BacklogError::Unknown { stream, consumer, why: "no answer in time".into() });
            }
            Ok(self.traffic.pending(&workload))
        })
    }
}

/// What a queue group gets, each message once, in the order in which it was sent. It is lost with the connection, or by the
/// server, and may be late.
struct StubSubscription {
    of: StubMessaging,
    subject: String,
    group: String,
    /// None while the server knows that the connection is gone: it gives messages to others.
    near: Option<Items<Message>>,
    /// The next one, and when it is here.
    late: Option<(Instant, Message)>,
    is_over: bool,
}

impl StubSubscription {
    async fn next_one(&mut self) -> Option<Message> {
        loop {
            self.of.gate.opened().await;
            if self.of.wire.link() == Link::Down {
                (self.near, self.late) = (None, None);
            }
            if let Some((due, _)) = &self.late {
                sleep_until(*due).await;
                self.of.wire.hears_again().await;
                self.of.gate.opened().await;
                if self.of.wire.link() == Link::Down {
                    continue;
                }
                let (_, message) = self.late.take()?;
                if let (Some((letters, life)), Some(number)) = (&self.of.keeper, letters::number(&message.payload)) {
                    letters.came(number, life);
                }
                return Some(message);
            }
            let Some(near) = &mut self.near else {
                if self.is_over {
                    return None;
                }
                self.of.wire.is_up().await;
                self.near = Some(self.of.near.subscribe(self.subject.clone(), Some(self.group.clone())).await.ok()?);
                continue;
            };
            let message = tokio::select! { // cancel-safe: what came is kept before anything else is waited for
                biased;
                () = self.of.wire.is_down() => continue,
                message = near.next() => message?,
            };
            // None of them is lost on a way that does not lose any, and none comes twice.
            self.late = self.of.wire.arrival().map(|after| (Instant::now() + after, message));
        }
    }
}

impl Subscription for StubSubscription {
    fn next(&mut self) -> Fut<'_, Option<Message>> {
        Box::pin(self.next_one())
    }

    fn drain(&mut self) -> Fut<'_, ()> {
        Box::pin(async {
            self.is_over = true;
            let Some(near) = &mut self.near else { return };
            let mut rest = Vec::new();
            while let Some(Some(message)) = near.next().now_or_never() {
                rest.push(message);
            }
            self.near = Some(Box::pin(futures_util::stream::iter(rest)));
        })
    }
}
