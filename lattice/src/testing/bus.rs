//! Core NATS in memory: subjects with wildcards, queue groups, requests, and the server's word when nobody listens.

use super::poll::{before, next};
use crate::{
    Fut,
    limits::NATS_PAYLOAD_BYTES_DEFAULT,
    store::{
        Answer, Bus, BusError, Clock, Connection, Handler, Headers, Items, Message, MicroService, STATUS_NO_RESPONDERS,
    },
};
use bytes::Bytes;
use futures_channel::mpsc;
use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

/// Messages that wait in one subscription. More are lost.
const SUBSCRIPTION_MESSAGES_MAX: usize = 8 * 1024;
/// Requests that one [`Bus::serve`] handles at a time.
const REQUESTS_AT_A_TIME: usize = 64;

/// The server's part: who listens where. Clones are the same server.
#[derive(Clone, Default)]
pub(super) struct Exchange {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    subscriptions: Vec<Subscription>,
    inboxes: u64,
    /// Turns among the members of queue groups. A server picks at random; turns replay.
    turns: usize,
}

struct Subscription {
    pattern: String,
    queue: Option<String>,
    to: mpsc::Sender<Message>,
}

impl Exchange {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn subscribe(&self, pattern: String, queue: Option<String>) -> Items<Message> {
        let (to, from) = mpsc::channel(SUBSCRIPTION_MESSAGES_MAX);
        self.state().subscriptions.push(Subscription { pattern, queue, to });
        Box::pin(from)
    }

    /// Hand a message to who listens. False if nobody does.
    fn deliver(&self, message: &Message) -> bool {
        let mut state = self.state();
        state.subscriptions.retain(|subscription| !subscription.to.is_closed());
        state.turns = state.turns.wrapping_add(1);
        let turn = state.turns;
        let mut groups: BTreeMap<String, Vec<&mut Subscription>> = BTreeMap::new();
        let mut receivers = Vec::new();
        for subscription in state.subscriptions.iter_mut().filter(|s| matches(&s.pattern, &message.subject)) {
            match subscription.queue.clone() {
                Some(queue) => groups.entry(queue).or_default().push(subscription),
                None => receivers.push(subscription),
            }
        }
        for members in groups.into_values() {
            let chosen = turn % members.len();
            receivers.extend(members.into_iter().nth(chosen));
        }
        let is_heard = !receivers.is_empty();
        for receiver in receivers {
            let _lost_when_full = receiver.to.try_send(message.clone());
        }
        is_heard
    }

    /// A message that was published: who asked for a reply on a subject where nobody listens is told so.
    fn publish(&self, message: Message) {
        if self.deliver(&message) {
            return;
        }
        if let Some(reply) = message.reply {
            self.deliver(&Message { subject: reply, status: Some(STATUS_NO_RESPONDERS), ..Default::default() });
        }
    }
}

/// Whether a subject falls under a pattern with `*` (one token) and `>` (one or more, at the end).
fn matches(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) => return true,
            (Some(wanted), Some(token)) if wanted == "*" || wanted == token => {}
            _ => return false,
        }
    }
}

/// One node's connection to the shared bus.
pub struct MemoryBus {
    exchange: Exchange,
    clock: Arc<dyn Clock>,
}

impl MemoryBus {
    pub(super) fn new(exchange: Exchange, clock: Arc<dyn Clock>) -> Self {
        Self { exchange, clock }
    }

    fn check_size(&self, payload: &Bytes) -> Result<(), BusError> {
        let (size, limit) = (payload.len(), self.payload_bytes_max());
        if size > limit { Err(BusError::TooLarge { size, limit }) } else { Ok(()) }
    }
}

impl Bus for MemoryBus {
    fn publish(&self, message: Message) -> Fut<'_, Result<(), BusError>> {
        Box::pin(async move {
            self.check_size(&message.payload)?;
            message.check()?;
            self.exchange.publish(message);
            Ok(())
        })
    }

    fn request(
        &self,
        subject: String,
        headers: Headers,
        payload: Bytes,
        timeout: Duration,
    ) -> Fut<'_, Result<Message, BusError>> {
        Box::pin(async move {
            self.check_size(&payload)?;
            let reply = self.inbox();
            let mut replies = self.exchange.subscribe(reply.clone(), None);
            let message = Message { subject: subject.clone(), reply: Some(reply), headers, payload, status: None };
            message.check()?;
            self.exchange.publish(message);
            match before(next(&mut replies), self.clock.sleep(timeout)).await.flatten() {
                Some(Message { status: Some(STATUS_NO_RESPONDERS), .. }) => Err(BusError::NoResponders { subject }),
                Some(message) => Ok(message),
                None => Err(BusError::Timeout { subject, after: timeout }),
            }
        })
    }

    fn subscribe(&self, subject: String, queue: Option<String>) -> Fut<'_, Result<Items<Message>, BusError>> {
        Box::pin(async move { Ok(self.exchange.subscribe(subject, queue)) })
    }

    fn serve(&self, service: MicroService, handler: Handler) -> Fut<'_, Result<(), BusError>> {
        Box::pin(async move {
            let endpoints = service.endpoints.into_iter().enumerate();
            let mut requests: Vec<(usize, Items<Message>)> = endpoints
                .map(|(index, endpoint)| (index, self.exchange.subscribe(endpoint.subject, Some(endpoint.queue))))
                .collect();
            let mut answers: Vec<Fut<'static, ()>> = Vec::new();
            poll_fn(|context| {
                loop {
                    answers.retain_mut(|answer| answer.as_mut().poll(context).is_pending());
                    if answers.len() >= REQUESTS_AT_A_TIME {
                        return Poll::Pending;
                    }
                    let arrived =
                        requests.iter_mut().find_map(|(index, requests)| match requests.as_mut().poll_next(context) {
                            Poll::Ready(Some(request)) => Some((*index, request)),
                            Poll::Ready(None) | Poll::Pending => None,
                        });
                    let Some((index, request)) = arrived else { return Poll::Pending };
                    answers.push(answer(self.exchange.clone(), handler.clone(), index, request));
                }
            })
            .await
        })
    }

    fn inbox(&self) -> String {
        let mut state = self.exchange.state();
        state.inboxes += 1;
        format!("_INBOX.memory.{}", state.inboxes)
    }

    fn payload_bytes_max(&self) -> usize {
        NATS_PAYLOAD_BYTES_DEFAULT
    }

    fn connection(&self) -> Connection {
        Connection::Up
    }

    fn flush(&self) -> Fut<'_, Result<(), BusError>> {
        Box::pin(async { Ok(()) })
    }
}

fn answer(exchange: Exchange, handler: Handler, index: usize, request: Message) -> Fut<'static, ()> {
    Box::pin(async move {
        let reply = request.reply.clone();
        let Some(Answer { headers, payload }) = handler(index, request).await else { return };
        if let Some(subject) = reply {
            exchange.publish(Message { subject, headers, payload, ..Default::default() });
        }
    })
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn wildcards() {
        for (pattern, subject, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
            ("a.b.c", "a.b", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a", true),
            ("*.b", "a.b", true),
            ("*.b", "a.c", false),
        ] {
            assert_eq!(matches(pattern, subject), expected, "{pattern} {subject}");
        }
    }
}
