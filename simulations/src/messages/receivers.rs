//! What the replicas of a node do with messages: each subscribes once it is ready, and goes on until it is stopped. Messages that
//! other nodes kept for them come as requests.

use super::{Letters, Life, StubMessaging, letters::number};
use crate::{host::StubHost, lattice_id, traffic::Traffic};
use futures_util::StreamExt as _;
use lattice::{
    account::Login,
    held::{Held, TAKEN, Taken},
    id::{Generation, SlotId},
    messaging::{Messaging as _, Subscription},
    spec::{MessageSpec, WorkloadSpec},
    store::Message,
    subject::Topic,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

/// Between two looks at which replicas take messages.
const LOOK: Duration = Duration::from_millis(50);
/// Until the next try to subscribe.
const AGAIN: Duration = Duration::from_secs(1);

/// Of one process.
pub(crate) struct Receivers {
    pub(crate) host: Arc<StubHost>,
    pub(crate) messaging: StubMessaging,
    pub(crate) letters: Letters,
    pub(crate) life: Life,
    pub(crate) traffic: Traffic,
}

/// One replica, as long as it runs the same.
type Taker = (SlotId, uuid::Uuid, Generation);

impl Receivers {
    /// Never returns.
    pub(crate) async fn run(self) {
        tokio::join!(self.subscribe(), self.take_over());
    }

    async fn subscribe(&self) {
        let (mut open, mut work) = (BTreeMap::<Taker, CancellationToken>::new(), JoinSet::new());
        loop {
            let takers: BTreeMap<Taker, Arc<WorkloadSpec>> = self.host.takers();
            open.retain(|taker, stop| {
                let stays = takers.contains_key(taker);
                if !stays {
                    stop.cancel();
                }
                stays
            });
            for (taker, spec) in takers {
                if open.contains_key(&taker) {
                    continue;
                }
                let stop = CancellationToken::new();
                for of in &spec.messages {
                    work.spawn(self.handle(taker.0.clone(), of, stop.clone()));
                }
                open.insert(taker, stop);
            }
            while work.try_join_next().is_some() {}
            sleep(LOOK).await;
            self.messaging.gate.opened().await;
        }
    }

    fn handle(&self, slot: SlotId, of: &MessageSpec, stop: CancellationToken) -> impl Future<Output = ()> + use<> {
        let (messaging, letters) = (self.messaging.clone(), self.letters.clone());
        let (life, traffic) = (self.life.clone(), self.traffic.clone());
        let (subject, group) = (of.subject.to_string(), of.group_of(&lattice_id(), &slot.workload));
        let login = Login::from(slot.workload.clone());
        async move {
            let mut subscription: Box<dyn Subscription> = loop {
                match messaging.subscribe(&login, &subject, &group).await {
                    Ok(subscription) => break subscription,
                    Err(_) if stop.is_cancelled() => return,
                    Err(_) => sleep(AGAIN).await,
                }
            };
            let mut is_over = false;
            loop {
                let message = tokio::select! { // cancel-safe: `next` loses nothing
                    biased;
                    () = stop.cancelled(), if !is_over => {
                        is_over = true;
                        subscription.drain().await;
                        continue;
                    }
                    message = subscription.next() => message,
                };
                let Some(message) = message else { return };
                if let Some(number) = number(&message.payload) {
                    letters.handled(number, &life);
                    traffic.done(&slot);
                }
            }
        }
    }

    /// What other nodes kept.
    async fn take_over(&self) {
        let subject = Topic::Held(self.life.node.clone()).subject(&lattice_id());
        let bus = &self.messaging.bus;
        let mut requests = bus.subscribe(subject, None).await.expect("a bus in memory takes it");
        let mut taken = Taken::default();
        while let Some(request) = requests.next().await {
            let Some(reply) = request.reply.clone() else { continue };
            let Some(held) = Held::decode(request) else { continue };
            let is_taken = taken.contains(&held.of.id) || self.take(&held);
            if is_taken {
                taken.insert(held.of.id);
            }
            let payload = if is_taken { TAKEN } else { "" };
            let answer = Message { subject: reply, payload: payload.into(), ..Message::default() };
            // Who asked is not told then, as with any bus.
            let _ = bus.publish(answer).await;
        }
    }

    fn take(&self, held: &Held) -> bool {
        let is_for = |spec: &WorkloadSpec| {
            let group = |of: &MessageSpec| of.group_of(&lattice_id(), &spec.name);
            let mut messages = spec.messages.iter();
            messages
                .any(|of| (of.subject.as_str(), group(of)) == (held.of.subscription.as_str(), held.of.group.clone()))
        };
        let mut takers = self.host.takers().into_iter();
        let found = takers.find(|((slot, ..), spec)| slot.workload == held.of.workload && is_for(spec));
        let (Some(((slot, ..), _)), Some(number)) = (found, number(&held.payload)) else { return false };
        self.letters.handled(number, &self.life);
        self.traffic.done(&slot);
        true
    }
}
