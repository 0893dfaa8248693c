//! Messages of a pull consumer, asked for as they are read: as many as one request brings are on their way, and no more.
//! By hand, since what ends a request, and whether the server is still there, must be known.

use async_nats::{Client, Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Serialize;
use std::time::Duration;
use tokio::time::Instant;

/// What a server may be late by before it counts as gone.
const DELAY_MAX: Duration = Duration::from_secs(1);
/// What a message has beside its payload and headers, at most: its subject, and where to acknowledge it.
const OVERHEAD_BYTES_MAX: usize = 8 << 10;

/// How messages are asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asking {
    /// Messages that one request brings at most.
    pub(super) batch: u32,
    /// How long the server keeps a request that it has nothing for.
    pub(super) expires: Duration,
}

impl Asking {
    /// Of who reads on and on.
    pub(super) fn steady(expires: Duration) -> Self {
        Self { batch: 64, expires }
    }
}

/// What comes of a consumer.
pub(super) enum Pulled {
    Message(Message),
    /// What was asked for has come, or its time is up: there may be no more now.
    Paused,
    /// The consumer is gone, or the server says nothing.
    Gone,
}

pub(super) struct Pull {
    client: Client,
    /// Where messages are asked for.
    next: String,
    /// Requests have inboxes of their own below it, by which it is known whose end a server tells: it tells that of one whose
    /// messages have all come as well, later.
    inbox: String,
    requests: u64,
    subscriber: Subscriber,
    request: Bytes,
    asking: Asking,
    /// What is asked for and did not come yet.
    left: u32,
    heard: Instant,
}

#[derive(Serialize)]
struct NextRequest {
    batch: u32,
    expires: u64,
    max_bytes: usize,
    idle_heartbeat: u64,
}

impl Pull {
    pub(super) async fn new(
        client: Client,
        (stream, consumer): (&str, &str),
        asking: Asking,
    ) -> Result<Self, async_nats::Error> {
        let inbox = client.new_inbox();
        let subscriber = client.subscribe(format!("{inbox}.*")).await?;
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let request = NextRequest {
            batch: asking.batch,
            expires: nanos(asking.expires),
            max_bytes: client.max_payload() + OVERHEAD_BYTES_MAX,
            idle_heartbeat: nanos(heartbeat(asking.expires)),
        };
        let request = serde_json::to_vec(&request)?.into();
        let next = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
        Ok(Self { client, next, inbox, requests: 0, subscriber, request, asking, left: 0, heard: Instant::now() })
    }

    /// May be dropped and called again without a loss.
    pub(super) async fn next(&mut self) -> Pulled {
        if self.left == 0 {
            self.requests += 1;
            let (next, inbox) = (self.next.clone(), format!("{}.{}", self.inbox, self.requests));
            if self.client.publish_with_reply(next, inbox, self.request.clone()).await.is_err() {
                return Pulled::Gone;
            }
            (self.left, self.heard) = (self.asking.batch, Instant::now());
        }
        loop {
            let silence = 3 * heartbeat(self.asking.expires) + DELAY_MAX;
            let Ok(message) = tokio::time::timeout_at(self.heard + silence, self.subscriber.next()).await else {
                return Pulled::Gone;
            };
            let Some(message) = message else { return Pulled::Gone };
            self.heard = Instant::now();
            let is_of_request =
                message.subject.strip_prefix(self.inbox.as_str()).and_then(|rest| rest.strip_prefix('.'))
                    == Some(self.requests.to_string().as_str());
            match message.status {
                None | Some(StatusCode::OK) => {
                    self.left = self.left.saturating_sub(1);
                    return Pulled::Message(message);
                }
                Some(_) if !is_of_request => {}
                Some(StatusCode::IDLE_HEARTBEAT) => {}
                Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => {
                    self.left = 0;
                    return Pulled::Paused;
                }
                // It is told in words alone what has ended: the request, or the consumer.
                Some(StatusCode::REQUEST_TERMINATED)
                    if message.description.as_deref().is_some_and(|why| {
                        let why = why.to_ascii_lowercase();
                        why.contains("maxbytes") || why.contains("batch completed")
                    }) =>
                {
                    self.left = 0;
                    return Pulled::Paused;
                }
                Some(_) => return Pulled::Gone,
            }
        }
    }
}

fn heartbeat(expires: Duration) -> Duration {
    expires / 3
}
