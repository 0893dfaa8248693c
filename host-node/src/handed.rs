//! Messages that came while no replica ran: other nodes kept them, and hand them over to the first that is ready. Each is a
//! request; what is answered says whether a replica here will handle it.

use futures_util::StreamExt as _;
use lattice::{
    held::{Held, TAKEN, Taken},
    id::{LatticeId, NodeId, WorkloadName},
    store::{Bus, Clock, Message},
    subject::{Topic, is_reply_subject},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::mpsc;

/// That wait for one subscription of one replica, beside what it has before it already.
const WAITING_MAX: usize = 64;
/// Until the next try to listen.
const AGAIN: Duration = Duration::from_secs(1);

/// The subscriptions of replicas here. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Handed(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    doors: BTreeMap<WorkloadName, Vec<Door>>,
    taken: Taken,
}

struct Door {
    subscription: String,
    group: String,
    messages: mpsc::Sender<Message>,
}

impl Handed {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is handed over for this subscription, until the receiver is dropped or closed.
    pub(crate) fn open(&self, workload: &WorkloadName, subscription: &str, group: &str) -> mpsc::Receiver<Message> {
        let (messages, received) = mpsc::channel(WAITING_MAX);
        let doors = &mut self.state().doors;
        doors.values_mut().for_each(|doors| doors.retain(|door| !door.messages.is_closed()));
        doors.retain(|_, doors| !doors.is_empty());
        let door = Door { subscription: subscription.to_owned(), group: group.to_owned(), messages };
        doors.entry(workload.clone()).or_default().push(door);
        received
    }

    /// Whether a replica here took it, at this time or before.
    fn take(&self, held: Held) -> bool {
        let of = held.of.clone();
        let mut message = held.into_message();
        let State { doors, taken } = &mut *self.state();
        if taken.contains(&of.id) {
            return true;
        }
        for door in doors.get(&of.workload).into_iter().flatten() {
            if (&door.subscription, &door.group) != (&of.subscription, &of.group) {
                continue;
            }
            match door.messages.try_send(message) {
                Ok(()) => {
                    taken.insert(of.id);
                    return true;
                }
                Err(refused) => message = refused.into_inner(),
            }
        }
        false
    }

    /// Never returns.
    pub(crate) async fn serve(&self, bus: &Arc<dyn Bus>, clock: &Arc<dyn Clock>, lattice: &LatticeId, node: &NodeId) {
        let subject = Topic::Held(node.clone()).subject(lattice);
        loop {
            match bus.subscribe(subject.clone(), None).await {
                Ok(mut requests) => {
                    while let Some(request) = requests.next().await {
                        self.answer(bus, request).await;
                    }
                }
                Err(error) => tracing::debug!(%error, "messages of other nodes are not heard; trying again"),
            }
            clock.sleep(AGAIN).await;
        }
    }

    async fn answer(&self, bus: &Arc<dyn Bus>, mut request: Message) {
        // Only one that can be answered: else it would be handled here, and handed over elsewhere as well.
        let Some(subject) = request.reply.take().filter(|reply| is_reply_subject(reply)) else { return };
        let is_taken = Held::decode(request).is_some_and(|held| self.take(held));
        let payload = if is_taken { TAKEN } else { "" };
        let answer = Message { subject, payload: payload.into(), ..Message::default() };
        if let Err(error) = bus.publish(answer).await {
            tracing::debug!(%error, "who handed a message over was not answered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(subscription: &str, text: &'static str) -> Held {
        let message = Message { subject: "tasks.new".into(), payload: text.into(), ..Message::default() };
        Held::new(uuid::Uuid::new_v4(), "w".parse().unwrap(), (subscription.to_owned(), "g".to_owned()), message)
    }

    #[test]
    fn a_hand_over_that_comes_twice_is_one() {
        let handed = Handed::default();
        let mut messages = handed.open(&"w".parse().unwrap(), "tasks.*", "g");
        let held = held("tasks.*", "once");
        assert!(handed.take(held.clone()) && handed.take(held), "both are told so");
        assert_eq!(messages.try_recv().unwrap().payload, "once");
        assert!(messages.try_recv().is_err());
    }

    #[test]
    fn a_message_goes_to_its_own_subscription_while_that_takes_some() {
        let handed = Handed::default();
        let workload = "w".parse().unwrap();
        assert!(!handed.take(held("tasks.*", "nobody")));
        let mut other = handed.open(&workload, "audit.>", "g");
        let mut one = handed.open(&workload, "tasks.*", "g");
        assert!(handed.take(held("tasks.*", "one")));
        assert_eq!(one.try_recv().unwrap().payload, "one");
        assert!(other.try_recv().is_err());
        let taken = (0..WAITING_MAX + 5).filter(|_| handed.take(held("tasks.*", "more"))).count();
        assert_eq!(taken, WAITING_MAX, "and no more than it has room for");
        // A second replica here has room of its own.
        let two = handed.open(&workload, "tasks.*", "g");
        assert!(handed.take(held("tasks.*", "two")));
        drop((one, two));
        assert!(!handed.take(held("tasks.*", "gone")));
        let _again = handed.open(&workload, "tasks.*", "g");
        assert_eq!(handed.state().doors[&workload].len(), 2, "what is closed is forgotten");
    }
}
