//! Messages on their way to the client library. Its connection writes as soon as it is handed something, so many tasks that
//! publish at about the same time would cost a system call each, here and at the server. They are gathered first: where more
//! than one came last time, whatever is ready to run gets its turn before the next batch is handed over.

use crate::bus::disconnected;
use async_nats::{client::traits::Publisher as _, message::OutboundMessage};
use lattice::store::BusError;
use std::{future::poll_fn, task::Poll};
use tokio::sync::{mpsc, oneshot};

/// Messages that wait here. Whoever publishes more waits until the connection has taken some.
const WAITING_MAX: usize = 256;
/// Messages that are handed over at a time.
const BATCH_MAX: usize = 64;

pub(crate) struct Outbox(mpsc::Sender<Item>);

enum Item {
    Message(OutboundMessage),
    /// Told when all that was published before is with the client.
    Barrier(oneshot::Sender<()>),
}

impl Outbox {
    /// Messages leave until the outbox is dropped. Must be called within a tokio runtime.
    pub(crate) fn new(client: async_nats::Client) -> Self {
        let (outbox, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(hand_over(client, waiting));
        Self(outbox)
    }

    /// Take a message if there is room for it.
    pub(crate) fn try_publish(&self, message: OutboundMessage) -> Result<(), Refused> {
        self.0.try_send(Item::Message(message)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(Item::Message(message)) => Refused::Full(Box::new(message)),
            _ => Refused::Closed,
        })
    }

    pub(crate) async fn publish(&self, message: OutboundMessage) -> Result<(), BusError> {
        self.0.send(Item::Message(message)).await.map_err(|_| closed())
    }

    /// Waits until what was published so far is with the client.
    pub(crate) async fn handed_over(&self) -> Result<(), BusError> {
        let (barrier, reached) = oneshot::channel();
        self.0.send(Item::Barrier(barrier)).await.map_err(|_| closed())?;
        reached.await.map_err(|_| closed())
    }
}

pub(crate) enum Refused {
    Full(Box<OutboundMessage>),
    Closed,
}

pub(crate) fn closed() -> BusError {
    disconnected("the connection was closed")
}

async fn hand_over(client: async_nats::Client, mut waiting: mpsc::Receiver<Item>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    let mut gathers = false;
    while waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
        if gathers && batch.len() < BATCH_MAX {
            others_first().await;
            while batch.len() < BATCH_MAX
                && let Ok(item) = waiting.try_recv()
            {
                batch.push(item);
            }
        }
        gathers = batch.len() > 1;
        for item in batch.drain(..) {
            let message = match item {
                Item::Message(message) => message,
                Item::Barrier(reached) => {
                    let _ = reached.send(());
                    continue;
                }
            };
            if let Err(error) = client.publish_message(message).await {
                // It was looked at before; what is lost with the connection is found missing by its receiver.
                tracing::debug!(%error, "a message was not published");
            }
        }
    }
}

/// Runs on behind what this thread has to run now. Other threads may take it over, so that a task which computes for long
/// holds up no messages.
async fn others_first() {
    let mut is_last = false;
    poll_fn(|context| {
        if std::mem::replace(&mut is_last, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
