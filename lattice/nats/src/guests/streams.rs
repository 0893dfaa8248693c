//! Streams of JetStream: what is stored in them, and reads of single messages. What any replica answers is in `direct.rs`.

use super::{
    Line, TTL,
    api::{ApiError, TIMEOUT, of_request, of_stream, to_headers, too_large},
    batches,
    consumers::NatsConsumer,
    counters, direct, reachable,
    readers::NatsReader,
    schedules, seconds,
};
use crate::connect::Nats;
use async_nats::{
    HeaderMap, Request,
    client::RequestErrorKind,
    jetstream::{
        ErrorCode,
        context::GetStreamErrorKind,
        message::StreamMessage,
        response::Response,
        stream::{Config, DiscardPolicy, RawMessage, RetentionPolicy, State, StorageType, Stream},
    },
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use lattice::{
    Fut,
    limits::NATS_PAYLOAD_BYTES_DEFAULT,
    nats::{
        Acknowledgement, Addition, Code, Consistency, Consumer, Discard, Failure, Feed, Integer, Message, Precondition,
        PublishOptions, ReadEvent, Scheduling, Snapshot, Start, Stored, StreamInfo,
    },
    spec::{ConsumerName, StreamName, SubjectError, SubjectPattern, stream_profile::Retention},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::time::{Duration, sleep, timeout};

const EXPECTED_STREAM: &str = "Nats-Expected-Stream";
const EXPECTED_LAST: &str = "Nats-Expected-Last-Sequence";
const EXPECTED_LAST_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence";
const EXPECTED_LAST_SUBJECT_FILTER: &str = "Nats-Expected-Last-Subject-Sequence-Subject";
pub(super) const MESSAGE_ID: &str = "Nats-Msg-Id";
/// With which a server wraps what it answers to direct reads: they are not the message's.
const OF_ANSWER: [&str; 6] =
    ["Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp", "Nats-Num-Pending", "Nats-Last-Sequence"];
/// Between two tries to find a replica that is not behind.
const AGAIN_AFTER: Duration = Duration::from_millis(20);

/// Clones share the connection.
#[derive(Clone)]
pub(super) struct NatsStream {
    pub(super) nats: Nats,
    pub(super) stream: Stream,
    /// Keeps the connection that is its workload's.
    _line: Arc<Line>,
}

impl NatsStream {
    pub(super) async fn open(nats: Nats, name: &StreamName, line: Arc<Line>) -> Result<Self, Failure> {
        reachable(&nats).map_err(|_| Failure::away())?;
        let stream = stream(&nats, name.as_str()).await?;
        check(&stream.cached_info().config)?;
        Ok(Self { nats, stream, _line: line })
    }

    pub(super) fn name(&self) -> &str {
        &self.stream.cached_info().config.name
    }

    pub(super) fn up(&self) -> Result<(), Failure> {
        reachable(&self.nats).map_err(|_| Failure::away())
    }

    /// It is configured so: when it was opened, or now.
    pub(super) async fn is(&self, what: impl Fn(&Config) -> bool) -> Result<bool, Failure> {
        Ok(what(&self.stream.cached_info().config)
            || what(&stream(&self.nats, self.name()).await?.cached_info().config))
    }

    /// Its configuration allows it.
    pub(super) async fn has(&self, what: impl Fn(&Config) -> bool, else_say: &str) -> Result<(), Failure> {
        if self.is(what).await? { Ok(()) } else { Err(Failure::not(Code::Unsupported, else_say)) }
    }

    async fn direct(&self) -> Result<(), Failure> {
        self.has(|config| config.allow_direct, "the stream allows no direct reads (allow_direct)").await
    }

    /// What the leader has. By hand, since the client library keeps one header of each name.
    async fn of_leader(&self, wanted: Value) -> Result<Option<Stored>, Failure> {
        #[derive(Deserialize)]
        struct Got {
            message: RawMessage,
        }
        let asked = self.nats.jetstream.request(format!("STREAM.MSG.GET.{}", self.name()), &wanted);
        match timeout(TIMEOUT, asked).await {
            Ok(Ok(Response::Ok(Got { message }))) => raw(message).map(Some),
            Ok(Ok(Response::Err { error })) if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => Ok(None),
            Ok(Ok(Response::Err { error })) => Err(of_stream(error.error_code().0, &error.to_string())),
            Ok(Err(_)) => Err(Failure::not(Code::NoResponders, "no server answers for the stream now")),
            Err(_) => Err(Failure::not(Code::Timeout, "no answer in time")),
        }
    }

    /// The server says that a message is too large, but not for what.
    pub(super) fn limit(&self, failure: Failure) -> Failure {
        let limit = u64::try_from(self.stream.cached_info().config.max_message_size).unwrap_or(0);
        if failure.code == Code::TooLarge(0) { Failure { code: Code::TooLarge(limit), ..failure } } else { failure }
    }

    /// Asked of the leader.
    async fn last_sequence(&self) -> Result<u64, Failure> {
        Ok(stream(&self.nats, self.name()).await?.cached_info().state.last_sequence)
    }
}

/// Have a stream store a message, and hear what it says.
pub(super) async fn send(nats: &Nats, subject: String, headers: HeaderMap, payload: Bytes) -> Result<Answer, Failure> {
    let request = Request::new().payload(payload).headers(headers).timeout(Some(TIMEOUT));
    // The client waits for its connection to take a request without a limit.
    let answer = timeout(TIMEOUT, nats.client.send_request(subject, request)).await;
    let answer = answer.unwrap_or_else(|_| Err(RequestErrorKind::TimedOut.into()));
    let answer = answer.map_err(|error| of_request(&error, nats.client.max_payload()))?;
    // The first message of a batch is answered with nothing.
    if answer.payload.is_empty() {
        return Ok(Answer::default());
    }
    let answer: Answer = serde_json::from_slice(&answer.payload).map_err(|_| strange())?;
    match answer.error {
        Some(error) => Err(of_stream(error.err_code, &error.description)),
        None => Ok(answer),
    }
}

/// As its leader says.
pub(super) async fn stream(nats: &Nats, name: &str) -> Result<Stream, Failure> {
    let asked = timeout(TIMEOUT, nats.jetstream.get_stream(name)).await;
    let asked = asked.map_err(|_| Failure::not(Code::Timeout, "no answer in time"))?;
    asked.map_err(|error| match error.kind() {
        GetStreamErrorKind::JetStream(error) => of_stream(error.error_code().0, &error.to_string()),
        _ => Failure::not(Code::NoResponders, "no server answers for the stream now"),
    })
}

/// What is in it may be any guest's: nothing that is reserved.
fn check(config: &Config) -> Result<(), Failure> {
    let unfit = |why: String| Err(Failure::not(Code::Unsupported, why));
    let name = &config.name;
    for subject in &config.subjects {
        match subject.parse::<SubjectPattern>() {
            Ok(pattern) if pattern.begins_with_wildcard() => {
                return unfit(format!("the stream {name} holds {subject}, which takes in subjects that are reserved"));
            }
            Ok(_) | Err(SubjectError::Malformed(_) | SubjectError::Wildcard(_) | SubjectError::TailWildcard(_)) => {}
            Err(error @ SubjectError::Reserved(_)) => return unfit(format!("the stream {name} holds {error}")),
        }
    }
    for source in config.mirror.iter().chain(config.sources.iter().flatten()) {
        if let Err(error) = StreamName::try_from(source.name.clone()) {
            return unfit(format!("the stream {name} copies another one: {error}"));
        }
    }
    Ok(())
}

/// Of a message that is to be stored in this stream and no other.
pub(super) fn headers(stream: &str, message: &Message, options: &PublishOptions) -> Result<HeaderMap, Failure> {
    let mut map = to_headers(&message.headers)?.unwrap_or_default();
    map.insert(EXPECTED_STREAM, stream);
    match &options.precondition {
        Precondition::None => {}
        Precondition::LastSequence(sequence) => map.insert(EXPECTED_LAST, sequence.to_string().as_str()),
        Precondition::LastOnSubject(sequence) => map.insert(EXPECTED_LAST_SUBJECT, sequence.to_string().as_str()),
        Precondition::LastOnFilter(filter, sequence) => {
            map.insert(EXPECTED_LAST_SUBJECT, sequence.to_string().as_str());
            map.insert(EXPECTED_LAST_SUBJECT_FILTER, filter.as_str());
        }
    }
    if let Some(id) = &options.message_id {
        map.insert(MESSAGE_ID, id.as_str());
    }
    if let Some(ttl) = options.ttl {
        map.insert(TTL, seconds(ttl).as_str());
    }
    Ok(map)
}

/// What a stream says of a message that it was to store.
#[derive(Deserialize, Default)]
pub(super) struct Answer {
    /// Its own name.
    #[serde(default)]
    pub(super) stream: String,
    pub(super) seq: Option<u64>,
    #[serde(default)]
    pub(super) duplicate: bool,
    /// Of a counter, after the addition.
    pub(super) val: Option<String>,
    error: Option<ApiError>,
}

pub(super) fn strange() -> Failure {
    Failure::maybe(Code::Other, "what answered was no stream")
}

pub(super) fn acknowledged(answer: &Answer) -> Result<Acknowledgement, Failure> {
    Ok(Acknowledgement { sequence: answer.seq.ok_or_else(strange)?, duplicate: answer.duplicate })
}

/// Without what is about the answer alone.
pub(super) fn from_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let is_of_message = |name: &str| !OF_ANSWER.iter().any(|other| name.eq_ignore_ascii_case(other));
    let lines = headers.iter().filter(|(name, _)| is_of_message(name.as_ref()));
    lines.flat_map(|(name, values)| values.iter().map(move |value| (name.to_string(), value.to_string()))).collect()
}

pub(super) fn stored(message: StreamMessage) -> Stored {
    let StreamMessage { subject, sequence, headers, payload, time } = message;
    let time = u64::try_from(time.unix_timestamp_nanos()).unwrap_or(0);
    let message = Message { subject: subject.into_string(), reply: None, headers: from_headers(&headers), payload };
    Stored { message, sequence, time }
}

fn raw(message: RawMessage) -> Result<Stored, Failure> {
    let RawMessage { subject, sequence, payload, headers, time } = message;
    let decode = |text: &str| STANDARD.decode(text).map_err(|_| Failure::not(Code::Other, "the answer is not base64"));
    let lines = decode(headers.as_deref().unwrap_or_default())?;
    let lines = String::from_utf8_lossy(&lines);
    // The first line is the version.
    let lines = lines.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    let headers = lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
    let message = Message { subject, reply: None, headers, payload: decode(&payload)?.into() };
    let time = u64::try_from(time.unix_timestamp_nanos()).unwrap_or(0);
    Ok(Stored { message, sequence, time })
}

fn stream_info(config: &Config, state: &State) -> StreamInfo {
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    let placement = config.placement.clone().unwrap_or_default();
    StreamInfo {
        replicas: u32::try_from(config.num_replicas).unwrap_or(1),
        in_memory: config.storage == StorageType::Memory,
        duplicate_window: config.duplicate_window,
        message_bytes_max: unsigned(config.max_message_size.into()),
        max_age: config.max_age,
        message_ttl: config.allow_message_ttl,
        atomic: config.allow_atomic_publish,
        direct: config.allow_direct,
        counters: config.allow_message_counter,
        schedules: config.allow_message_schedules,
        messages: state.messages,
        first_sequence: state.first_sequence,
        last_sequence: state.last_sequence,
        retention: match config.retention {
            RetentionPolicy::Limits => Retention::Limits,
            RetentionPolicy::Interest => Retention::Interest,
            RetentionPolicy::WorkQueue => Retention::Work,
        },
        discard: match config.discard {
            DiscardPolicy::Old => Discard::Old,
            DiscardPolicy::New if config.discard_new_per_subject => Discard::NewPerSubject,
            DiscardPolicy::New => Discard::New,
        },
        messages_max: unsigned(config.max_messages),
        bytes_max: unsigned(config.max_bytes),
        messages_per_subject_max: unsigned(config.max_messages_per_subject),
        marker_ttl: config.subject_delete_marker_ttl.unwrap_or_default(),
        denies_delete: config.deny_delete,
        denies_purge: config.deny_purge,
        acknowledges: !config.no_ack,
        tags: placement.tags,
        cluster: placement.cluster.filter(|cluster| !cluster.is_empty()),
    }
}

impl lattice::nats::Stream for NatsStream {
    fn message_bytes_max(&self) -> usize {
        match self.nats.client.max_payload() {
            0 => NATS_PAYLOAD_BYTES_DEFAULT,
            most => most,
        }
    }

    fn info(&self) -> Fut<'_, Result<StreamInfo, Failure>> {
        Box::pin(async move {
            self.up()?;
            let stream = stream(&self.nats, self.name()).await?;
            let info = stream.cached_info();
            Ok(stream_info(&info.config, &info.state))
        })
    }

    fn publish(&self, message: Message, options: PublishOptions) -> Fut<'_, Result<Acknowledgement, Failure>> {
        Box::pin(async move {
            self.up()?;
            if self.stream.cached_info().config.no_ack {
                return Err(Failure::not(Code::Unsupported, "the stream acknowledges nothing (no_ack)"));
            }
            let headers = headers(self.name(), &message, &options)?;
            let limit = lattice::nats::Stream::message_bytes_max(self);
            if message.bytes() > limit {
                return Err(too_large(limit));
            }
            let stored = send(&self.nats, message.subject, headers, message.payload).await;
            acknowledged(&stored.map_err(|failure| self.limit(failure))?)
        })
    }

    fn publish_atomic(&self, batch: Vec<(Message, PublishOptions)>) -> Fut<'_, Result<Acknowledgement, Failure>> {
        Box::pin(async move {
            self.up()?;
            let allowed = "the stream takes no atomic batches (allow_atomic, nats-server 2.12)";
            self.has(|config| config.allow_atomic_publish, allowed).await?;
            let part = |(message, options): (Message, PublishOptions)| {
                let headers = headers(self.name(), &message, &options)?;
                Ok((message.subject, headers, message.payload))
            };
            let batch: Result<Vec<_>, Failure> = batch.into_iter().map(part).collect();
            acknowledged(&batches::publish(&self.nats, batch?).await?)
        })
    }

    fn get(&self, sequence: u64, consistency: Consistency) -> Fut<'_, Result<Option<Stored>, Failure>> {
        Box::pin(async move {
            self.up()?;
            // The server takes 0 for no number at all.
            if sequence == 0 {
                return Ok(None);
            }
            if consistency == Consistency::Leader {
                return self.of_leader(json!({ "seq": sequence })).await;
            }
            self.direct().await?;
            direct::one(&self.nats, self.name(), &direct::Wanted::Sequence(sequence)).await
        })
    }

    fn get_last(&self, filter: &str, consistency: Consistency) -> Fut<'_, Result<Option<Stored>, Failure>> {
        let filter = filter.to_owned();
        Box::pin(async move {
            self.up()?;
            if consistency == Consistency::Leader {
                return self.of_leader(json!({ "last_by_subj": filter })).await;
            }
            self.direct().await?;
            direct::one(&self.nats, self.name(), &direct::Wanted::Last(filter)).await
        })
    }

    fn get_many_last(&self, filters: Vec<String>, consistency: Consistency) -> Fut<'_, Result<Snapshot, Failure>> {
        Box::pin(async move {
            self.up()?;
            self.direct().await?;
            let at_least = match consistency {
                Consistency::Leader => self.last_sequence().await?,
                Consistency::AnyReplica => 0,
            };
            loop {
                let snapshot = direct::many(&self.nats, self.name(), &filters).await?;
                // One that found nothing does not say how far it has come.
                let is_behind = match (&snapshot, consistency) {
                    (_, Consistency::AnyReplica) => false,
                    (Snapshot { as_of: 0, .. }, _) => at_least > 0 && self.has_one_of(&filters).await?,
                    (Snapshot { as_of, .. }, _) => *as_of < at_least,
                };
                if !is_behind {
                    return Ok(snapshot);
                }
                sleep(AGAIN_AFTER).await;
            }
        })
    }

    fn read(&self, filters: Vec<String>, start: Start) -> Fut<'_, Result<Box<dyn Feed<ReadEvent>>, Failure>> {
        Box::pin(async move {
            let reader: Box<dyn Feed<ReadEvent>> = Box::new(NatsReader::open(self.clone(), filters, start).await?);
            Ok(reader)
        })
    }

    fn consumer(&self, name: &ConsumerName) -> Fut<'_, Result<Arc<dyn Consumer>, Failure>> {
        let name = name.clone();
        Box::pin(async move {
            let consumer: Arc<dyn Consumer> = Arc::new(NatsConsumer::open(self.clone(), name).await?);
            Ok(consumer)
        })
    }

    fn counts(&self) -> Fut<'_, Result<(), Failure>> {
        Box::pin(counters::check(self))
    }

    fn add(&self, message: Message, by: Integer, message_id: Option<String>) -> Fut<'_, Result<Addition, Failure>> {
        Box::pin(counters::add(self, message, by, message_id))
    }

    fn schedules(&self) -> Fut<'_, Result<(), Failure>> {
        Box::pin(schedules::check(self))
    }

    fn schedule(&self, scheduling: Scheduling) -> Fut<'_, Result<Acknowledgement, Failure>> {
        Box::pin(schedules::put(self, scheduling))
    }

    fn cancel(&self, subject: &str) -> Fut<'_, Result<bool, Failure>> {
        let subject = subject.to_owned();
        Box::pin(async move { schedules::cancel(self, &subject).await })
    }
}

impl NatsStream {
    /// As the leader says.
    async fn has_one_of(&self, filters: &[String]) -> Result<bool, Failure> {
        for filter in filters {
            let last = lattice::nats::Stream::get_last(self, filter, Consistency::Leader).await?;
            if last.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_be_so_is_in_the_headers() {
        let message = Message { headers: vec![("a".into(), "1".into())], ..Default::default() };
        let options = |precondition| PublishOptions { precondition, message_id: None, ttl: None };
        for (precondition, expect) in [
            (Precondition::None, &[][..]),
            (Precondition::LastSequence(7), &[(EXPECTED_LAST, "7")]),
            (Precondition::LastOnSubject(0), &[(EXPECTED_LAST_SUBJECT, "0")]),
            (
                Precondition::LastOnFilter("a.>".into(), 3),
                &[(EXPECTED_LAST_SUBJECT, "3"), (EXPECTED_LAST_SUBJECT_FILTER, "a.>")],
            ),
        ] {
            let map = headers("S", &message, &options(precondition)).unwrap();
            let get = |name: &str| map.get(name).map(|value| value.as_str().to_owned());
            assert_eq!((get(EXPECTED_STREAM).unwrap().as_str(), get("a").unwrap().as_str()), ("S", "1"));
            assert_eq!(map.len(), 2 + expect.len());
            for (name, value) in expect {
                assert_eq!(get(name).as_deref(), Some(*value));
            }
        }
    }

    #[test]
    fn streams_that_take_in_what_is_reserved_are_not_opened() {
        let config = |subjects: &[&str]| Config {
            name: "S".into(),
            subjects: subjects.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        assert!(check(&config(&["a.b", "orders.>", "a.*"])).is_ok());
        for bad in ["$KV.carts.>", "lattice.default.>", "_INBOX.>", ">", "*.b", "$JS.EVENT.>"] {
            let failure = check(&config(&["a", bad])).unwrap_err();
            assert_eq!(failure.code, Code::Unsupported, "{bad}");
        }
        let of = |name: &str| async_nats::jetstream::stream::Source { name: name.into(), ..Default::default() };
        for (source, expect) in [("ORDERS", true), ("KV_carts", false), ("lattice-default-events", false)] {
            assert_eq!(check(&Config { mirror: Some(of(source)), ..config(&[]) }).is_ok(), expect);
            assert_eq!(check(&Config { sources: Some(vec![of("A"), of(source)]), ..config(&[]) }).is_ok(), expect);
        }
    }

    #[test]
    fn what_a_server_wraps_an_answer_in_is_not_the_messages() {
        let mut map = HeaderMap::new();
        for (name, value) in [("Nats-Sequence", "7"), ("Nats-Msg-Id", "x"), ("a", "1")] {
            map.append(name, value);
        }
        map.append("a", "2");
        let mut lines = from_headers(&map);
        lines.sort();
        let line = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(lines, [line("Nats-Msg-Id", "x"), line("a", "1"), line("a", "2")]);
    }
}
