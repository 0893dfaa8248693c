//! A bus in memory that costs next to nothing, so that what routers do can be told from what NATS does. It checks nothing
//! and bounds nothing: no test may rely on it.

use bytes::Bytes;
use lattice::{
    Fut,
    limits::NATS_PAYLOAD_BYTES_DEFAULT,
    store::{Bus, BusError, Connection, Handler, Headers, Items, Message, MicroService},
};
use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::mpsc;

/// Carries what is published to who has subscribed, and nothing else.
#[derive(Default)]
pub struct Wires {
    subscriptions: Mutex<Vec<(String, mpsc::UnboundedSender<Message>)>>,
    inboxes: AtomicUsize,
}

impl Wires {
    fn subscriptions(&self) -> MutexGuard<'_, Vec<(String, mpsc::UnboundedSender<Message>)>> {
        self.subscriptions.lock().expect("nobody panics under it")
    }

    /// Waits for so many subscriptions to be made.
    pub async fn has_subscriptions(&self, count: usize) {
        while self.subscriptions().len() < count {
            tokio::task::yield_now().await;
        }
    }
}

impl Bus for Wires {
    fn publish(&self, message: Message) -> Fut<'_, Result<(), BusError>> {
        let is_for = |pattern: &str| match pattern.strip_suffix('*') {
            Some(prefix) => message.subject.starts_with(prefix),
            None => message.subject == pattern,
        };
        let wires = self.subscriptions();
        let wire = wires.iter().find(|(pattern, _)| is_for(pattern)).map(|(_, wire)| wire.clone());
        drop(wires);
        wire.expect("somebody has subscribed").send(message).expect("and listens");
        Box::pin(std::future::ready(Ok(())))
    }
    fn request(&self, _: String, _: Headers, _: Bytes, _: Duration) -> Fut<'_, Result<Message, BusError>> {
        Box::pin(std::future::pending())
    }
    fn subscribe(&self, subject: String, _: Option<String>) -> Fut<'_, Result<Items<Message>, BusError>> {
        let (wire, mut messages) = mpsc::unbounded_channel();
        self.subscriptions().push((subject, wire));
        let messages: Items<Message> = Box::pin(futures_util::stream::poll_fn(move |cx| messages.poll_recv(cx)));
        Box::pin(std::future::ready(Ok(messages)))
    }
    fn serve(&self, _: MicroService, _: Handler) -> Fut<'_, Result<(), BusError>> {
        Box::pin(std::future::pending())
    }
    fn inbox(&self) -> String {
        format!("_INBOX.bench{}", self.inboxes.fetch_add(1, Relaxed))
    }
    fn payload_bytes_max(&self) -> usize {
        NATS_PAYLOAD_BYTES_DEFAULT
    }
    fn connection(&self) -> Connection {
        Connection::Up
    }
    fn flush(&self) -> Fut<'_, Result<(), BusError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}
