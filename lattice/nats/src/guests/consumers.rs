//! Durable consumers: deliveries by asking, and what becomes of them.

use super::{
    api::{TIMEOUT, of_request, of_stream},
    pull::{Asking, Pull, Pulled},
    reachable,
    readers::stored,
    streams::NatsStream,
};
use crate::connect::Nats;
use async_nats::{
    Message, Request, Subject,
    client::RequestErrorKind,
    jetstream::{
        self,
        consumer::{AckPolicy, Info},
        response::Response,
    },
};
use bytes::Bytes;
use lattice::{
    Fut,
    nats::{Backlog, Code, Consumer, Delivered, Failure, Settle, Settlement},
    spec::ConsumerName,
};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// For what is there now to come.
const WAIT_MIN: Duration = Duration::from_millis(20);

pub(super) struct NatsConsumer {
    stream: NatsStream,
    name: ConsumerName,
}

impl NatsConsumer {
    pub(super) async fn open(stream: NatsStream, name: ConsumerName) -> Result<Self, Failure> {
        let consumer = Self { stream, name };
        let info = consumer.info().await?;
        let unfit = |why: &str| Err(Failure::not(Code::Unsupported, format!("the consumer {}: {why}", consumer.name)));
        if info.config.deliver_subject.is_some() {
            return unfit("is push-based, so that its messages cannot be asked for");
        }
        if info.config.ack_policy != AckPolicy::Explicit {
            return unfit("does not have the ack policy `explicit`");
        }
        Ok(consumer)
    }

    /// As its leader says.
    async fn info(&self) -> Result<Info, Failure> {
        self.stream.up()?;
        let subject = format!("CONSUMER.INFO.{}.{}", self.stream.name(), self.name);
        // The server takes no other payload than nothing, or this.
        let nothing = serde_json::json!({});
        match timeout(TIMEOUT, self.stream.nats.jetstream.request(subject, &nothing)).await {
            Ok(Ok(Response::Ok(info))) => Ok(info),
            Ok(Ok(Response::Err { error })) => Err(of_stream(error.error_code().0, &error.to_string())),
            Ok(Err(_)) => Err(Failure::not(Code::NoResponders, "no server answers for the consumer now")),
            Err(_) => Err(Failure::not(Code::Timeout, "no answer in time")),
        }
    }

    fn delivered(&self, message: Message) -> Option<Delivered> {
        let reply = message.reply.clone()?;
        let message = jetstream::Message { message, context: self.stream.nats.jetstream.clone() };
        let (stored, place) = stored(&message)?;
        let settle = Arc::new(NatsSettle { nats: self.stream.nats.clone(), reply });
        Some(Delivered { stored, attempts: place.delivered, pending: place.pending, settle })
    }
}

impl Consumer for NatsConsumer {
    fn fetch(&self, max: u32, wait: Duration) -> Fut<'_, Result<Vec<Delivered>, Failure>> {
        Box::pin(async move {
            self.stream.up()?;
            let lost = |_| Failure::not(Code::Disconnected, "the connection to NATS was lost");
            let asking = Asking { batch: max, expires: wait.max(WAIT_MIN) };
            let consumer = (self.stream.name(), self.name.as_str());
            let mut pull = Pull::new(self.stream.nats.client.clone(), consumer, asking).await.map_err(lost)?;
            let mut fetched = Vec::new();
            while fetched.len() < max as usize {
                match pull.next().await {
                    Pulled::Message(message) => fetched.extend(self.delivered(message)),
                    Pulled::Paused => break,
                    // What came is the caller's, whatever ended it.
                    Pulled::Gone if !fetched.is_empty() => break,
                    Pulled::Gone => {
                        // It is gone, which the server knows; or the server is; or it takes no more requests.
                        self.info().await?;
                        return Err(Failure::not(
                            Code::Other,
                            "the consumer did not take the request, or broke it off",
                        ));
                    }
                }
            }
            Ok(fetched)
        })
    }

    fn backlog(&self) -> Fut<'_, Result<Backlog, Failure>> {
        Box::pin(async move {
            let info = self.info().await?;
            Ok(Backlog { undelivered: info.num_pending, unsettled: info.num_ack_pending as u64 })
        })
    }
}

struct NatsSettle {
    nats: Nats,
    /// Where the server listens for it.
    reply: Subject,
}

impl Settle for NatsSettle {
    fn settle(&self, settlement: Settlement) -> Fut<'_, Result<(), Failure>> {
        Box::pin(async move {
            reachable(&self.nats).map_err(|_| Failure::away())?;
            let word: Bytes = match &settlement {
                Settlement::Ack | Settlement::AckSync => "+ACK".into(),
                Settlement::Nak(None) => "-NAK".into(),
                Settlement::Nak(Some(delay)) => format!("-NAK {{\"delay\": {}}}", delay.as_nanos()).into(),
                Settlement::Terminate(reason) => format!("+TERM {reason}").into(),
                Settlement::InProgress => "+WPI".into(),
            };
            if settlement == Settlement::AckSync {
                let request = Request::new().payload(word).timeout(Some(TIMEOUT));
                let answer = timeout(TIMEOUT, self.nats.client.send_request(self.reply.clone(), request)).await;
                let answer = answer.unwrap_or_else(|_| Err(RequestErrorKind::TimedOut.into()));
                return answer.map(drop).map_err(|error| of_request(&error, 0));
            }
            let full = |_| Failure::not(Code::Timeout, "the connection takes no more messages now");
            let handed_over = timeout(TIMEOUT, self.nats.client.publish(self.reply.clone(), word)).await;
            handed_over.map_err(full)?.map_err(|_| Failure::away())
        })
    }
}
