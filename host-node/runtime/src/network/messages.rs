//! Messages of one replica's guests: whether they are granted, how many are under way, and what is known of one that was not
//! carried. A text that a guest gets names no server.

use super::Network;
use crate::inherited::Inherited;
use bytes::Bytes;
use lattice::{
    limits::one_line,
    spec::{Subject, SubjectError},
    store::{Bus, BusError, Connection, Message},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

/// Messages of one replica's guests that are on their way out, and requests that wait for their replies. One more waits.
const UNDER_WAY_MAX: usize = 256;
/// Bodies of these, in KiB; of a request as well the longest that its reply can be. More wait.
const UNDER_WAY_KIB_MAX: u32 = 64 << 10;
/// For a message to be written to the connection.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Of one replica, or of one of its parts with other grants.
pub(crate) struct Messages {
    bus: OnceCell<Arc<dyn Bus>>,
    turns: Arc<Semaphore>,
    kib: Arc<Semaphore>,
}

impl Messages {
    pub(super) fn new() -> Self {
        let (turns, kib) = (Semaphore::new(UNDER_WAY_MAX), Semaphore::new(UNDER_WAY_KIB_MAX as usize));
        Self { bus: OnceCell::new(), turns: Arc::new(turns), kib: Arc::new(kib) }
    }

    /// For one message. Room first, and once: who has some waits for nothing but a turn.
    async fn place(&self, bytes: usize) -> Result<[OwnedSemaphorePermit; 2], MessageError> {
        let kib = u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX).min(UNDER_WAY_KIB_MAX);
        let stopped = |_| MessageError::Unreachable("the replica ends".into());
        let room = self.kib.clone().acquire_many_owned(kib).await.map_err(stopped)?;
        let turn = self.turns.clone().acquire_owned().await.map_err(stopped)?;
        Ok([room, turn])
    }
}

/// What a guest sends.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) subject: String,
    pub(crate) reply_to: Option<String>,
    pub(crate) body: Bytes,
}

/// Why a message was not carried, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MessageError {
    /// Nothing was sent.
    #[error("denied: no grant of this workload covers {0}")]
    Denied(String),
    /// Nothing was sent.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// Nothing was sent.
    #[error("the message is {size} bytes long with its headers, the server carries {limit}")]
    TooLarge { size: usize, limit: usize },
    /// Nothing was sent.
    #[error("no time is left: nothing was sent")]
    NoTime,
    /// Nothing was sent.
    #[error("NATS is out of reach: {0}")]
    Unreachable(String),
    /// It reached nobody.
    #[error("nobody listens on {0}")]
    NoResponders(String),
    #[error("no reply on {subject} within {} ms: the request may have been handled, or may yet be", after.as_millis())]
    NoReply { subject: String, after: Duration },
    #[error("the connection to NATS was lost: the message may have been sent")]
    Lost,
}

impl Network {
    /// Answers once the message was written to the connection: a server may still lose it.
    pub(crate) async fn publish(&self, message: Outgoing, inherited: &Inherited) -> Result<(), MessageError> {
        let (subject, reply) = self.judge_message(&message, inherited)?;
        let _place = self.messages.place(message.body.len()).await?;
        let bus = self.bus().await?;
        let headers = inherited.trace_of_message();
        bus.publish(Message { subject, reply, headers, payload: message.body, status: None })
            .await
            .map_err(|error| of_bus(error, MessageError::Unreachable("not connected".into())))?;
        match tokio::time::timeout(WRITE_TIMEOUT, bus.flush()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(MessageError::Lost),
        }
    }

    pub(crate) async fn request(
        &self,
        message: Outgoing,
        timeout: Duration,
        inherited: &Inherited,
    ) -> Result<Message, MessageError> {
        let (subject, _) = self.judge_message(&message, inherited)?;
        if timeout.is_zero() {
            return Err(MessageError::NoTime);
        }
        let until = tokio::time::Instant::now() + timeout;
        let prepare = async {
            let bus = self.bus().await?;
            let place = self.messages.place(message.body.len().saturating_add(bus.payload_bytes_max())).await?;
            Ok::<_, MessageError>((bus, place))
        };
        let Ok(prepared) = tokio::time::timeout_at(until, prepare).await else { return Err(MessageError::NoTime) };
        let (bus, _place) = prepared?;
        if bus.connection() == Connection::Down {
            return Err(MessageError::Unreachable("not connected".into()));
        }
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        let asked = bus.request(subject.clone(), inherited.trace_of_message(), message.body, left).await;
        asked.map_err(|error| match error {
            BusError::Timeout { .. } => MessageError::NoReply { subject, after: timeout },
            error => of_bus(error, MessageError::Lost),
        })
    }

    /// Who may answer is told where to: that, too, must be a subject on which the guest could publish itself, or it would
    /// have others publish there.
    fn judge_message(
        &self,
        message: &Outgoing,
        inherited: &Inherited,
    ) -> Result<(String, Option<String>), MessageError> {
        let judge = |subject: &str| {
            let parsed: Result<Subject, SubjectError> = subject.parse();
            match parsed {
                Ok(subject) if self.grants.messaging.allow_publish(&subject) => Ok(subject.as_str().to_owned()),
                parsed => {
                    let subject = one_line(subject, 128);
                    self.denials.note(|| match &parsed {
                        Ok(_) => format!(
                            "a message on {subject} was denied; to allow it add to the spec: grants: {{messaging: {{publish: \
                             [{subject:?}]}}}}"
                        ),
                        Err(error) => format!("a message was denied: {}", one_line(&error.to_string(), 512)),
                    });
                    parsed?;
                    Err(MessageError::Denied(subject))
                }
            }
        };
        let reply = message.reply_to.as_deref().map(judge).transpose()?;
        // Who asked is answered without a grant.
        let subject = match inherited.may_reply_to(&message.subject) {
            true => message.subject.clone(),
            false => judge(&message.subject)?,
        };
        Ok((subject, reply))
    }

    async fn bus(&self) -> Result<&Arc<dyn Bus>, MessageError> {
        let opened = self.messages.bus.get_or_try_init(|| self.node.messaging.open(&self.login)).await;
        opened.map_err(|_| MessageError::Unreachable("not connected".into()))
    }
}

/// `lost`: what is known where the connection was.
fn of_bus(error: BusError, lost: MessageError) -> MessageError {
    match error {
        BusError::NoResponders { subject } => MessageError::NoResponders(subject),
        BusError::Timeout { subject, after } => MessageError::NoReply { subject, after },
        BusError::TooLarge { size, limit } => MessageError::TooLarge { size, limit },
        BusError::Malformed { what } => MessageError::Subject(SubjectError::Malformed(what)),
        BusError::Disconnected(_) => lost,
    }
}
