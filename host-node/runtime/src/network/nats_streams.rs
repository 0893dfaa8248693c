//! Streams of JetStream as the guests of one replica have them: what is granted of each, and how many deliveries they hold.

use super::{
    Network,
    nats::{DELIVERIES_MAX, MESSAGE_BYTES, TIMEOUT, Waiting, check_headers, in_trace, not_a_subject},
};
use crate::inherited::Inherited;
use lattice::{
    limits::one_line,
    nats::{
        Code, Consumer, Delivered, Failure, Feed, Message, Precondition, PublishOptions, ReadEvent, Settlement, Stored,
        Stream,
    },
    spec::{
        ConsumerName, StoreName, StreamGrant, Subject, SubjectError, SubjectPattern,
        profile::listed,
        stream_profile::{Storing, StreamBreach, StreamOperation},
    },
};
use std::{
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{AcqRel, Acquire, Release},
        },
    },
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

const MESSAGE_ID_MAX: usize = 256;
/// Messages of one fetch.
const FETCH_MAX: u32 = 256;
/// For messages to come, in one fetch.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// A stream as a guest has it.
#[derive(Clone)]
#[expect(unreachable_pub, reason = "the generated bindings pass it on as theirs")]
pub struct OpenStream {
    pub(crate) name: StoreName,
    pub(crate) stream: Arc<dyn Stream>,
}

/// A consumer as a guest has it. Clones are the same.
#[derive(Clone)]
#[expect(unreachable_pub, reason = "the generated bindings pass it on as theirs")]
pub struct OpenConsumer {
    /// The stream's, as it is granted, and its own.
    pub(crate) name: Arc<(StoreName, ConsumerName)>,
    pub(crate) consumer: Arc<dyn Consumer>,
    /// Bytes of the longest message that there can be.
    most: usize,
}

/// A delivery that a guest holds, and what it takes until it is dropped. Clones are the same.
#[derive(Clone)]
#[expect(unreachable_pub, reason = "the generated bindings pass it on as theirs")]
pub struct OpenDelivery {
    pub(crate) delivered: Arc<Delivered>,
    is_settled: Arc<AtomicBool>,
    _room: Arc<(OwnedSemaphorePermit, Option<[OwnedSemaphorePermit; 2]>)>,
}

impl Network {
    /// A consumer by its own name.
    pub(crate) async fn nats_consumer(
        &self,
        open: &OpenStream,
        name: &str,
        inherited: &Inherited,
    ) -> Result<OpenConsumer, Failure> {
        self.judge_operation(&open.name, StreamOperation::Consumer, Storing::default())?;
        let name = self.judge_consumer(&open.name, name)?;
        let turn = self.nats_turn(None, (0, false), inherited).await?;
        let consumer = turn.run(open.stream.consumer(name)).await.map_err(Failure::of_read)?;
        let name = Arc::new((open.name.clone(), name.clone()));
        Ok(OpenConsumer { name, consumer, most: open.stream.message_bytes_max() })
    }

    fn judge_consumer(&self, name: &StoreName, consumer: &str) -> Result<&ConsumerName, Failure> {
        self.stream_grant(name)?.consumer(consumer).ok_or_else(|| {
            let consumer = one_line(consumer, 64);
            self.denials.note(|| {
                format!(
                    "the consumer {consumer:?} was denied; to allow it add it to the spec: grants.nats.streams.{name}.consumers"
                )
            });
            Failure::not(Code::Denied, format!("no grant of the stream {name} names a consumer {consumer:?}"))
        })
    }

    /// Some messages of a consumer.
    pub(crate) async fn nats_fetch(
        &self,
        open: &OpenConsumer,
        (max, wait): (u32, Duration),
        inherited: &Inherited,
    ) -> Result<Vec<OpenDelivery>, Failure> {
        if !(1..=FETCH_MAX).contains(&max) {
            return Err(invalid("max", &format!("{max} is not between 1 and {FETCH_MAX}")));
        }
        let wait = wait.min(WAIT_MAX);
        let deliveries = &self.nats.deliveries;
        let free = u32::try_from(deliveries.available_permits()).unwrap_or(u32::MAX).min(max);
        let places = if free == 0 { None } else { deliveries.clone().try_acquire_many_owned(free).ok() };
        let mut places = places.ok_or_else(|| {
            let text = format!("there are {DELIVERIES_MAX} deliveries in this replica: drop some");
            Failure::not(Code::TooMany(DELIVERIES_MAX), text)
        })?;
        // It is the server that waits, and then its answer takes its time.
        let turn = self.nats_turn(Some(wait + TIMEOUT), (open.most, false), inherited).await?;
        let fetch = async {
            let fetched = open.consumer.fetch(free, wait.min(turn.left())).await?;
            let mut held = Vec::with_capacity(fetched.len());
            for delivered in fetched {
                let Some(place) = places.split(1) else { break };
                let room = self.nats.room.take(delivered.stored.bytes() + MESSAGE_BYTES).await;
                held.push(OpenDelivery {
                    delivered: Arc::new(delivered),
                    is_settled: Arc::default(),
                    _room: Arc::new((place, room)),
                });
            }
            Ok(held)
        };
        turn.run(fetch).await.map_err(Failure::of_read)
    }

    /// Say what becomes of a delivery: once, but for what settles nothing and for what failed.
    pub(crate) async fn nats_settle(
        &self,
        open: &OpenDelivery,
        settlement: Settlement,
        inherited: &Inherited,
    ) -> Result<(), Failure> {
        let settles = settlement != Settlement::InProgress;
        let before = if settles { open.is_settled.swap(true, AcqRel) } else { open.is_settled.load(Acquire) };
        if before {
            return Err(Failure::not(Code::AlreadySettled, "it was said before what becomes of the delivery"));
        }
        // Also where the guest waits no longer.
        let mut unsettled = Unsettled { is_settled: &open.is_settled, is_over: !settles };
        let turn = self.nats_turn(None, (0, false), inherited).await?;
        let outcome = turn.run(open.delivered.settle.settle(settlement)).await;
        unsettled.is_over |= outcome.is_ok();
        outcome
    }

    /// A stream as it is read, in order.
    pub(crate) async fn nats_read(
        &self,
        opening: impl Future<Output = Result<Box<dyn Feed<ReadEvent>>, Failure>>,
        inherited: &Inherited,
    ) -> Result<mpsc::Receiver<Waiting<ReadEvent>>, Failure> {
        self.nats_feed(opening, (ReadEvent::bytes, |_: &ReadEvent| true), inherited).await
    }

    /// A stream by the name that it is granted under.
    pub(crate) async fn nats_stream(&self, name: &str, inherited: &Inherited) -> Result<OpenStream, Failure> {
        let granted = self.grants.nats.stream(name);
        let Some((name, grant, cell)) =
            granted.and_then(|(name, grant)| Some((name.clone(), grant, self.nats.opened.get(&name)?)))
        else {
            let name = one_line(name, 64);
            self.denials.note(|| {
                format!(
                    "the stream {name:?} was denied; to allow it add to the spec: grants: {{nats: {{streams: {{{name}: \
                     {{stream: STREAM}}}}}}}}"
                )
            });
            return Err(Failure::not(Code::Denied, format!("no grant of this workload names a stream {name:?}")));
        };
        let turn = self.nats_turn(None, (0, false), inherited).await?;
        let open = cell.get_or_try_init(|| turn.link.stream(&grant.stream));
        let stream = turn.run(async { open.await.cloned() }).await.map_err(Failure::of_read)?;
        Ok(OpenStream { name, stream })
    }

    pub(super) fn stream_grant(&self, name: &StoreName) -> Result<&StreamGrant, Failure> {
        let grant = self.grants.nats.streams.get(name);
        grant.ok_or_else(|| Failure::not(Code::Denied, format!("no grant of this workload names a stream {name}")))
    }

    /// Whether an operation belongs to how the guest behaves with the stream.
    pub(crate) fn judge_operation(
        &self,
        name: &StoreName,
        operation: StreamOperation,
        storing: Storing,
    ) -> Result<(), Failure> {
        let grant = self.stream_grant(name)?;
        let Err(breach) = grant.judge(operation, storing) else { return Ok(()) };
        let operation = operation.as_str();
        let profiles = listed(grant.profiles.iter().map(|profile| profile.as_str()));
        let (code, text) = match breach {
            StreamBreach::NotInProfile => (Code::Denied, format!("{profiles} has no such operation")),
            StreamBreach::NoPrecondition => {
                (Code::Invalid("options.precondition".into()), format!("{profiles} asks for a precondition"))
            }
            StreamBreach::HasTtl => (Code::Invalid("options.ttl".into()), format!("{profiles} keeps every event")),
        };
        self.denials.note(|| {
            format!(
                "{operation} in the stream {name} was denied: {text} (grants.nats.streams.{name}.profiles of the spec)"
            )
        });
        Err(Failure::not(code, format!("{operation} in the stream {name}: {text}")))
    }

    /// Whether the guest may read all that a filter matches.
    pub(crate) fn judge_reading(&self, name: &StoreName, filter: &str) -> Result<(), Failure> {
        let pattern: SubjectPattern = filter.parse().map_err(|error| not_a_subject("filter", &error))?;
        if self.stream_grant(name)?.allow_read(&pattern) {
            return Ok(());
        }
        Err(self.deny_reading(name, filter))
    }

    /// Whether it may read anything of the stream. Which messages, [`Network::judge_read`] says.
    pub(crate) fn judge_any_reading(&self, name: &StoreName) -> Result<(), Failure> {
        if self.stream_grant(name)?.read.is_empty() { Err(self.deny_reading(name, ">")) } else { Ok(()) }
    }

    /// A message that was found by its sequence.
    pub(crate) fn judge_read(&self, name: &StoreName, stored: &Stored) -> Result<(), Failure> {
        let subject = &stored.message.subject;
        if self.stream_grant(name)?.allow_read_of(subject) { Ok(()) } else { Err(self.deny_reading(name, subject)) }
    }

    fn deny_reading(&self, name: &StoreName, filter: &str) -> Failure {
        let shown = one_line(filter, 128);
        self.denials.note(|| {
            format!(
                "reading {shown} in the stream {name} was denied; to allow it add the subject to the spec: \
                 grants.nats.streams.{name}.read"
            )
        });
        Failure::not(Code::Denied, format!("no grant to read the stream {name} covers it"))
    }

    /// Whether the guest may have something stored on a subject, which this argument names.
    pub(super) fn judge_storing(&self, name: &StoreName, (argument, text): (&str, &str)) -> Result<Subject, Failure> {
        let subject: Subject = text.parse().map_err(|error| not_a_subject(argument, &error))?;
        if self.stream_grant(name)?.allow_publish(&subject) {
            return Ok(subject);
        }
        let subject = one_line(subject.as_str(), 128);
        self.denials.note(|| {
            format!(
                "a message on {subject} for the stream {name} was denied; to allow it add the subject to the spec: \
                 grants.nats.streams.{name}.publish"
            )
        });
        Err(Failure::not(Code::Denied, format!("no grant of the stream {name} covers {subject}")))
    }

    /// A message as it may be stored, in the trace that it belongs to.
    pub(crate) fn judge_stored(
        &self,
        name: &StoreName,
        (message, options): (Message, &PublishOptions),
        inherited: &Inherited,
    ) -> Result<Message, Failure> {
        let grant = self.stream_grant(name)?;
        let subject = self.judge_storing(name, ("message.subject", &message.subject))?;
        if message.reply.is_some() {
            return Err(invalid("message.reply-to", "a message that is stored has no reply-to"));
        }
        check_headers(&message.headers)?;
        if let Some(id) = &options.message_id {
            check_id("options.message-id", id)?;
        }
        match &options.precondition {
            Precondition::LastOnFilter(filter, _) => {
                let filter: SubjectPattern =
                    filter.parse().map_err(|error: SubjectError| not_a_subject("options.precondition", &error))?;
                if !filter.matches(&subject) {
                    let text = "the filter does not match the subject of the message";
                    return Err(invalid("options.precondition", text));
                }
                if !grant.allow_expectation(&filter) {
                    return Err(self.deny_reading(name, filter.as_str()));
                }
            }
            Precondition::None | Precondition::LastSequence(_) | Precondition::LastOnSubject(_) => {}
        }
        Ok(in_trace(message, inherited))
    }
}

/// Gives a delivery back that was not settled after all.
struct Unsettled<'a> {
    is_settled: &'a AtomicBool,
    is_over: bool,
}

impl Drop for Unsettled<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.is_settled.store(false, Release);
        }
    }
}

fn invalid(argument: &str, text: &str) -> Failure {
    Failure::not(Code::Invalid(argument.to_owned()), text)
}

pub(super) fn check_id(argument: &str, id: &str) -> Result<(), Failure> {
    let is_good = (1..=MESSAGE_ID_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    if is_good { Ok(()) } else { Err(invalid(argument, "a message id is 1 to 256 printable characters of ASCII")) }
}
