//! [`lattice::store::Bus`] over core NATS.

use crate::{
    connect::Nats,
    guests::Line,
    outbox::{Outbox, Refused, closed},
};
use async_nats::{HeaderMap, HeaderName, HeaderValue, message::OutboundMessage};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use lattice::{
    Fut,
    store::{Answer, Bus, BusError, Connection, Handler, Headers, Items, Message, MicroService},
};
use std::{future::ready, str::FromStr as _, sync::Arc, time::Duration};

/// Requests to the control interface that one node handles at a time. More wait in the subscription.
const REQUESTS_AT_A_TIME: usize = 64;
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) struct NatsBus {
    outbox: Outbox,
    nats: Nats,
    /// Keeps the connection for others as well, where it is that of a workload's guests.
    _line: Option<Arc<Line>>,
}

/// Why a message did not go at once.
enum Unpublished {
    Failed(BusError),
    Waits(Box<OutboundMessage>),
}

impl NatsBus {
    /// Must be called within a tokio runtime.
    pub(crate) fn new(nats: Nats) -> Self {
        Self { outbox: Outbox::new(nats.client.clone()), nats, _line: None }
    }

    /// The same.
    pub(crate) fn of_guests(nats: Nats, line: Arc<Line>) -> Self {
        Self { _line: Some(line), ..Self::new(nats) }
    }

    fn try_publish(&self, message: Message) -> Result<(), Unpublished> {
        // Sent now, it would wait in the client's buffer for a connection, and its sender with it once that is full.
        self.connected().map_err(Unpublished::Failed)?;
        let message = outbound(message, self.payload_bytes_max()).map_err(Unpublished::Failed)?;
        self.outbox.try_publish(message).map_err(|refused| match refused {
            Refused::Full(message) => Unpublished::Waits(message),
            Refused::Closed => Unpublished::Failed(closed()),
        })
    }

    fn connected(&self) -> Result<(), BusError> {
        match self.nats.connection() {
            Connection::Up => Ok(()),
            Connection::Down => Err(disconnected("the connection is down")),
        }
    }
}

/// A message as the client library takes it. What can't be sent is an error here, where its sender learns of it: behind, the
/// library would panic, or drop it.
fn outbound(message: Message, limit: usize) -> Result<OutboundMessage, BusError> {
    message.check()?;
    let Message { subject, reply, headers, payload, .. } = message;
    let with_headers = payload.len().saturating_add(header_bytes(&headers));
    if with_headers > limit {
        return Err(BusError::TooLarge { size: with_headers, limit });
    }
    let headers = if headers.is_empty() { None } else { Some(to_nats(headers)?) };
    Ok(OutboundMessage { subject: subject.into(), reply: reply.map(Into::into), payload, headers })
}

/// What headers take in a message, whose size they count for.
fn header_bytes(headers: &Headers) -> usize {
    if headers.is_empty() {
        return 0;
    }
    let lines = headers.iter().map(|(name, value)| name.len() + value.len() + ": \r\n".len());
    lines.fold("NATS/1.0\r\n\r\n".len(), usize::saturating_add)
}

fn to_nats(headers: Headers) -> Result<HeaderMap, BusError> {
    headers.into_iter().try_fold(HeaderMap::new(), |mut map, (name, value)| {
        let malformed = || BusError::Malformed { what: format!("the header {name:?}: {value:?}") };
        let name = HeaderName::from_str(&name).map_err(|_| malformed())?;
        let value = HeaderValue::from_str(&value).map_err(|_| malformed())?;
        map.insert(name, value);
        Ok(map)
    })
}

pub(crate) fn from_nats(message: async_nats::Message) -> Message {
    let headers = message.headers.iter().flat_map(|headers| headers.iter());
    let first = |(name, values): (&async_nats::HeaderName, &Vec<async_nats::HeaderValue>)| {
        Some((name.to_string(), values.first()?.to_string()))
    };
    Message {
        headers: headers.filter_map(first).collect(),
        subject: message.subject.into_string(),
        reply: message.reply.map(|reply| reply.into_string()),
        payload: message.payload,
        status: message.status.map(|status| status.as_u16()),
    }
}

pub(crate) fn disconnected(error: impl std::fmt::Display) -> BusError {
    BusError::Disconnected(error.to_string())
}

impl Bus for NatsBus {
    fn publish(&self, message: Message) -> Fut<'_, Result<(), BusError>> {
        match self.try_publish(message) {
            Ok(()) => Box::pin(ready(Ok(()))),
            Err(Unpublished::Failed(error)) => Box::pin(ready(Err(error))),
            Err(Unpublished::Waits(message)) => Box::pin(self.outbox.publish(*message)),
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
            let limit = self.payload_bytes_max();
            let message =
                outbound(Message { subject: subject.clone(), headers, payload, ..Default::default() }, limit)?;
            let mut request = async_nats::Request::new().payload(message.payload).timeout(Some(timeout));
            if let Some(headers) = message.headers {
                request = request.headers(headers);
            }
            match self.nats.client.send_request(subject.clone(), request).await {
                Ok(message) => Ok(from_nats(message)),
                Err(error) => Err(match error.kind() {
                    async_nats::RequestErrorKind::NoResponders => BusError::NoResponders { subject },
                    async_nats::RequestErrorKind::TimedOut => BusError::Timeout { subject, after: timeout },
                    _ => disconnected(error),
                }),
            }
        })
    }

    fn subscribe(&self, subject: String, queue: Option<String>) -> Fut<'_, Result<Items<Message>, BusError>> {
        Box::pin(async move {
            let client = &self.nats.client;
            let messages = match queue {
                Some(queue) => client.queue_subscribe(subject, queue).await,
                None => client.subscribe(subject).await,
            };
            Ok(messages.map_err(disconnected)?.map(from_nats).boxed())
        })
    }

    fn serve(&self, service: MicroService, handler: Handler) -> Fut<'_, Result<(), BusError>> {
        use async_nats::service::ServiceExt as _;
        Box::pin(async move {
            let MicroService { name, version, description, metadata, endpoints } = service;
            let service = self
                .nats
                .client
                .service_builder()
                .description(description)
                .metadata(metadata.into_iter().collect())
                .start(name, version)
                .await
                .map_err(disconnected)?;
            let mut requests = Vec::new();
            for (index, endpoint) in endpoints.into_iter().enumerate() {
                let subscription = service
                    .endpoint_builder()
                    .name(endpoint.name)
                    .queue_group(endpoint.queue)
                    .add(endpoint.subject)
                    .await
                    .map_err(disconnected)?;
                requests.push(subscription.map(move |request| (index, request)).boxed());
            }
            stream::select_all(requests)
                .for_each_concurrent(REQUESTS_AT_A_TIME, |(index, request)| {
                    let answer = handler(index, from_nats(request.message.clone()));
                    async move {
                        let Some(Answer { headers, payload }) = answer.await else { return };
                        let sent = match to_nats(headers) {
                            Ok(headers) => {
                                request.respond_with_headers(Ok(payload), headers).await.map_err(disconnected)
                            }
                            Err(error) => Err(error),
                        };
                        if let Err(error) = sent {
                            tracing::debug!(%error, "an answer was not sent");
                        }
                    }
                })
                .await;
            Ok(())
        })
    }

    fn inbox(&self) -> String {
        self.nats.client.new_inbox()
    }

    fn payload_bytes_max(&self) -> usize {
        match self.nats.client.max_payload() {
            0 => lattice::limits::NATS_PAYLOAD_BYTES_DEFAULT,
            limit => limit,
        }
    }

    fn connection(&self) -> Connection {
        self.nats.connection()
    }

    fn flush(&self) -> Fut<'_, Result<(), BusError>> {
        Box::pin(async move {
            self.connected()?;
            let flushed = tokio::time::timeout(FLUSH_TIMEOUT, async {
                self.outbox.handed_over().await?;
                self.nats.client.flush().await.map_err(disconnected)
            });
            flushed.await.map_err(disconnected)?
        })
    }
}
