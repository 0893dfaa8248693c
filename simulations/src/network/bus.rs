//! The bus as one node reaches it.

use super::{Link, Wire};
use bytes::Bytes;
use futures_util::{StreamExt as _, future::join_all, stream};
use lattice::{
    Fut,
    store::{Bus, BusError, Connection, Handler, Headers, Items, Message, MicroService},
};
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;

/// Messages of one subscription that are under way at a time.
const UNDER_WAY_MAX: usize = 256;

pub(super) struct FarBus {
    pub(super) wire: Wire,
    pub(super) near: Arc<dyn Bus>,
}

impl Bus for FarBus {
    fn publish(&self, message: Message) -> Fut<'_, Result<(), BusError>> {
        match self.wire.link() {
            link if link.sends() => self.near.publish(message),
            Link::Down => Box::pin(async { Err(BusError::Disconnected("not connected".into())) }),
            _ => Box::pin(async { Ok(()) }),
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
            let deadline = tokio::time::Instant::now() + timeout;
            if self.wire.link().sends() {
                let answer = self.near.request(subject.clone(), headers, payload, timeout).await;
                if self.wire.link().hears() {
                    return answer;
                }
            }
            tokio::time::sleep_until(deadline).await;
            Err(BusError::Timeout { subject, after: timeout })
        })
    }

    fn subscribe(&self, subject: String, queue: Option<String>) -> Fut<'_, Result<Items<Message>, BusError>> {
        Box::pin(async move {
            let wire = self.wire.clone();
            let messages = self.near.subscribe(subject, queue).await?;
            let copies = move |message: Message| {
                let copies = if wire.link().hears() { wire.copies() } else { Vec::new() };
                stream::iter(copies.into_iter().map(move |late| (late, message.clone())))
            };
            let arrive = |(late, message): (Duration, Message)| async move {
                if !late.is_zero() {
                    sleep(late).await;
                }
                message
            };
            let messages: Items<Message> =
                Box::pin(messages.flat_map(copies).map(arrive).buffer_unordered(UNDER_WAY_MAX));
            Ok(messages)
        })
    }

    /// A request may come never, late, or twice; so may its answer.
    fn serve(&self, service: MicroService, handler: Handler) -> Fut<'_, Result<(), BusError>> {
        let wire = self.wire.clone();
        let handler: Handler = Arc::new(move |index, request| {
            let (wire, handler) = (wire.clone(), handler.clone());
            let copies = if wire.link().hears() { wire.copies() } else { Vec::new() };
            Box::pin(async move {
                let answers = copies.into_iter().map(|late| {
                    let (handler, request) = (handler.clone(), request.clone());
                    async move {
                        if !late.is_zero() {
                            sleep(late).await;
                        }
                        handler(index, request).await
                    }
                });
                // The first one counts, as for any client.
                let answer = join_all(answers).await.into_iter().next()??;
                (wire.link().sends() && !wire.copies().is_empty()).then_some(answer)
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
