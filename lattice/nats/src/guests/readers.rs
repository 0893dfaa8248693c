//! A stream as one reader has it: in order, without gaps and without duplicates. The server keeps no state of a reader: after a
//! break it begins behind the message that was told last.

use super::{
    changes,
    passing::Passing,
    pull::{Asking, Pull, Pulled},
    streams::{self, NatsStream},
};
use async_nats::{
    datetime::DateTime,
    jetstream::{
        self,
        consumer::{AckPolicy, DeliverPolicy, pull},
    },
};
use lattice::{
    Fut,
    nats::{Code, Failure, Feed, Message, ReadEvent, Start, Stored},
};
use std::time::Duration;
use tokio::sync::watch;

/// What is left of a reader whose node is gone is removed by the server after so long.
const CONSUMER_IDLE: Duration = Duration::from_secs(60);
/// A request for messages is made anew after so long.
const EXPIRES: Duration = Duration::from_secs(15);
/// Between two tries to go on.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(5);

pub(super) struct NatsReader {
    stream: NatsStream,
    filters: Vec<String>,
    start: Start,
    /// When the stream was made: one that is made anew counts from 1 again.
    made: DateTime,
    epochs: watch::Receiver<u64>,
    /// Of the last message that was told.
    last: u64,
    /// Not all was told that there was when reading began.
    is_behind: bool,
    state: State,
}

enum State {
    Flowing(Box<Flow>),
    Broken { pause: Duration },
    Over,
}

struct Flow {
    passing: Passing,
    pull: Pull,
    config: pull::Config,
    /// Of the consumer: what it delivered last.
    sequence: u64,
    /// Messages that are yet to come until all is told that there was.
    left: u64,
    /// A request came to nothing though something was left.
    came_to_nothing: bool,
}

impl NatsReader {
    pub(super) async fn open(stream: NatsStream, filters: Vec<String>, start: Start) -> Result<Self, Failure> {
        let mut epochs = stream.nats.epochs.clone();
        epochs.mark_unchanged();
        let made = streams::stream(&stream.nats, stream.name()).await?.cached_info().created;
        let mut reader = Self { stream, filters, start, made, epochs, last: 0, is_behind: true, state: State::Over };
        reader.state = State::Flowing(Box::new(reader.begin(start).await?));
        Ok(reader)
    }

    async fn begin(&self, start: Start) -> Result<Flow, Failure> {
        self.stream.up()?;
        let deliver_policy = match start {
            Start::First => DeliverPolicy::All,
            Start::LastPerSubject => DeliverPolicy::LastPerSubject,
            Start::New => DeliverPolicy::New,
            Start::At(sequence) => DeliverPolicy::ByStartSequence { start_sequence: sequence.max(1) },
            Start::Since(nanos) => {
                let start_time = DateTime::from_unix_timestamp_nanos(nanos.into());
                let bad = |_| Failure::not(Code::Invalid("start".into()), "no time that there is");
                DeliverPolicy::ByStartTime { start_time: start_time.map_err(bad)? }
            }
        };
        let name = format!("lattice-read-{}", uuid::Uuid::new_v4().simple());
        let mut config = pull::Config {
            name: Some(name.clone()),
            deliver_policy,
            ack_policy: AckPolicy::None,
            num_replicas: 1,
            memory_storage: true,
            inactive_threshold: CONSUMER_IDLE,
            ..Default::default()
        };
        match self.filters.as_slice() {
            // The last message of each subject is one of the subjects of a filter.
            [] => config.filter_subject = ">".into(),
            [one] => config.filter_subject.clone_from(one),
            several => config.filter_subjects = several.to_vec(),
        }
        let passing = Passing::new(self.stream.stream.clone(), name.clone(), None);
        let left = changes::left(&passing, &config).await?;
        let client = self.stream.nats.client.clone();
        let pull = Pull::new(client, (self.stream.name(), &name), Asking::steady(EXPIRES)).await;
        let pull = pull.map_err(|_| Failure::not(Code::Disconnected, "the connection to NATS was lost"))?;
        Ok(Flow { passing, pull, config, sequence: 0, left, came_to_nothing: false })
    }

    /// Go on behind what was told, in the same stream. Answers with the first sequence that it has.
    async fn again(&mut self) -> Result<u64, Failure> {
        self.stream.up()?;
        let now = streams::stream(&self.stream.nats, self.stream.name()).await?;
        let info = now.cached_info();
        if info.created != self.made {
            return Err(Failure::not(Code::NotFound, "the stream was made anew"));
        }
        let start = match self.start {
            start if self.last == 0 => start,
            // Those that were told are passed over.
            Start::LastPerSubject if self.is_behind => Start::LastPerSubject,
            _ => Start::At(self.last + 1),
        };
        self.state = State::Flowing(Box::new(self.begin(start).await?));
        Ok(info.state.first_sequence)
    }

    /// The next event; none where there is one more thing to do first.
    async fn step(&mut self) -> Option<ReadEvent> {
        let flow = match &mut self.state {
            State::Over => return None,
            State::Flowing(flow) => flow,
            State::Broken { pause } => {
                let pause = *pause;
                tokio::time::sleep(pause).await;
                self.epochs.mark_unchanged();
                return match self.again().await {
                    Ok(first) => Some(ReadEvent::Resynchronised(first)),
                    Err(failure) if changes::will_pass(&failure) => {
                        self.state = State::Broken { pause: (2 * pause).min(AGAIN_AFTER_MAX) };
                        None
                    }
                    Err(failure) => {
                        self.state = State::Over;
                        Some(ReadEvent::Failed(failure))
                    }
                };
            }
        };
        if self.is_behind && flow.left == 0 {
            self.is_behind = false;
            return Some(ReadEvent::CaughtUp);
        }
        let pulled = tokio::select! {
            biased;
            Ok(()) = self.epochs.changed() => Pulled::Gone,
            pulled = flow.pull.next() => pulled,
        };
        match pulled {
            Pulled::Message(message) => {
                let message = jetstream::Message { message, context: self.stream.nats.jetstream.clone() };
                let follows = |place: &Place| place.consumer_sequence == flow.sequence + 1;
                let Some((stored, place)) = stored(&message).filter(|(_, place)| follows(place)) else {
                    return self.break_off();
                };
                (flow.sequence, flow.left, flow.came_to_nothing) = (place.consumer_sequence, place.pending, false);
                if stored.sequence <= self.last {
                    return None;
                }
                self.last = stored.sequence;
                Some(ReadEvent::Message(stored))
            }
            // What was left may be gone, which the server knows; or it did not come.
            Pulled::Paused if self.is_behind => {
                if std::mem::replace(&mut flow.came_to_nothing, true) {
                    return self.break_off();
                }
                match changes::left(&flow.passing, &flow.config).await {
                    Ok(left) => flow.left = left,
                    Err(_) => return self.break_off(),
                }
                None
            }
            Pulled::Paused => None,
            Pulled::Gone => self.break_off(),
        }
    }

    fn break_off(&mut self) -> Option<ReadEvent> {
        self.state = State::Broken { pause: AGAIN_AFTER };
        None
    }
}

/// Where a delivered message stands.
pub(super) struct Place {
    pub(super) consumer_sequence: u64,
    pub(super) delivered: u64,
    pub(super) pending: u64,
}

/// A message that a consumer delivered.
pub(super) fn stored(message: &jetstream::Message) -> Option<(Stored, Place)> {
    let info = message.info().ok()?;
    let time = u64::try_from(info.published.unix_timestamp_nanos()).unwrap_or(0);
    let headers = message.headers.as_ref().map(streams::from_headers).unwrap_or_default();
    let place = Place {
        consumer_sequence: info.consumer_sequence,
        delivered: u64::try_from(info.delivered).unwrap_or(1),
        pending: info.pending,
    };
    let sequence = info.stream_sequence;
    let (subject, payload) = (message.subject.to_string(), message.payload.clone());
    Some((Stored { message: Message { subject, reply: None, headers, payload }, sequence, time }, place))
}

impl Feed<ReadEvent> for NatsReader {
    fn next(&mut self) -> Fut<'_, Option<ReadEvent>> {
        Box::pin(async {
            loop {
                match self.step().await {
                    None if matches!(self.state, State::Over) => return None,
                    None => {}
                    event => return event,
                }
            }
        })
    }
}
