//! The bus of one process: it stands still while the process is suspended, and what is done with messages that it keeps is
//! written down.

use super::letters::{End, Letters, answered, number};
use crate::node::Gate;
use bytes::Bytes;
use lattice::{
    Fut,
    held::{Held, TAKEN},
    store::{Bus, BusError, Connection, Handler, Headers, Items, Message, MicroService},
};
use std::{sync::Arc, time::Duration};

pub(crate) struct SpiedBus {
    pub(crate) inner: Arc<dyn Bus>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) letters: Letters,
}

impl Bus for SpiedBus {
    fn publish(&self, message: Message) -> Fut<'_, Result<(), BusError>> {
        Box::pin(async move {
            self.gate.opened().await;
            if message.headers.contains_key("Nats-Service-Error")
                && let Some(number) = answered(&message.subject)
            {
                self.letters.end(number, End::Refused);
            }
            self.inner.publish(message).await
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
            self.gate.opened().await;
            let request = Message { headers: headers.clone(), payload: payload.clone(), ..Message::default() };
            let held = Held::decode(request).and_then(|held| number(&held.payload));
            let answer = self.inner.request(subject, headers, payload, timeout).await;
            self.gate.opened().await;
            if let Some(number) = held {
                match &answer {
                    Ok(answer) if answer.payload == TAKEN.as_bytes() => self.letters.end(number, End::HandedOver),
                    Err(BusError::Timeout { .. } | BusError::Disconnected(_)) => {
                        self.letters.end(number, End::Unconfirmed);
                    }
                    _ => {}
                }
            }
            answer
        })
    }

    fn subscribe(&self, subject: String, queue: Option<String>) -> Fut<'_, Result<Items<Message>, BusError>> {
        self.inner.subscribe(subject, queue)
    }

    fn serve(&self, service: MicroService, handler: Handler) -> Fut<'_, Result<(), BusError>> {
        self.inner.serve(service, handler)
    }

    fn inbox(&self) -> String {
        self.inner.inbox()
    }

    fn payload_bytes_max(&self) -> usize {
        self.inner.payload_bytes_max()
    }

    fn connection(&self) -> Connection {
        self.inner.connection()
    }

    fn flush(&self) -> Fut<'_, Result<(), BusError>> {
        self.inner.flush()
    }
}
