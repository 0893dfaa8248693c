//! Changes of a bucket, read by a consumer that is there for one reader alone: lists, which end, and watches, which don't.
//!
//! What a watch missed while its connection was away nobody can tell: a deletion leaves a message, and that may be gone by
//! then. So after each break it begins again with the last change of each key, and says so.

use super::{
    NatsBucket, api,
    passing::Passing,
    pull::{Asking, Pull, Pulled},
};
use async_nats::{
    HeaderMap,
    jetstream::{
        self,
        consumer::{AckPolicy, DeliverPolicy, pull},
        stream::ConsumerErrorKind,
    },
};
use bytes::Bytes;
use lattice::{
    Fut,
    id::Revision,
    nats::{Change, ChangeEvent, Code, Entry, Failure, Feed, Reading},
};
use std::time::Duration;
use tokio::sync::watch;

/// What is left of a reader whose node is gone is removed by the server after so long.
const CONSUMER_IDLE: Duration = Duration::from_secs(60);
/// A request for messages is made anew after so long. Of a list: nothing that came by then will.
const WATCH_EXPIRES: Duration = Duration::from_secs(15);
const LIST_EXPIRES: Duration = Duration::from_secs(3);
/// Between two tries to go on.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(5);

pub(super) struct NatsChanges {
    bucket: NatsBucket,
    /// Subjects of the keys.
    filters: Vec<String>,
    reading: Reading,
    epochs: watch::Receiver<u64>,
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
    /// Messages that are yet to come until all is told that there was; none once that was said.
    left: Option<u64>,
    /// Of the message that came last.
    sequence: u64,
    /// A request came to nothing though something was left.
    came_to_nothing: bool,
}

impl NatsChanges {
    pub(super) async fn open(bucket: NatsBucket, filters: Vec<String>, reading: Reading) -> Result<Self, Failure> {
        let mut epochs = bucket.nats.epochs.clone();
        epochs.mark_unchanged();
        let filters = match filters.as_slice() {
            [] => vec![format!("{}>", bucket.prefix)],
            filters => filters.iter().map(|filter| format!("{}{filter}", bucket.prefix)).collect(),
        };
        let mut changes = Self { bucket, filters, reading, epochs, state: State::Over };
        changes.state = State::Flowing(Box::new(changes.begin(false).await?));
        Ok(changes)
    }

    fn is_watch(&self) -> bool {
        matches!(self.reading, Reading::Watch { .. })
    }

    /// `again`: after a break.
    async fn begin(&self, again: bool) -> Result<Flow, Failure> {
        super::reachable(&self.bucket.nats).map_err(|_| Failure::away())?;
        let (deliver_policy, headers_only) = match self.reading {
            Reading::Keys => (DeliverPolicy::LastPerSubject, true),
            Reading::History => (DeliverPolicy::All, false),
            Reading::Watch { state_first, metadata_only } if state_first || again => {
                (DeliverPolicy::LastPerSubject, metadata_only)
            }
            Reading::Watch { metadata_only, .. } => (DeliverPolicy::New, metadata_only),
        };
        let place = match self.is_watch() {
            true => None,
            false => self.bucket.line.lists.clone().acquire_owned().await.ok(),
        };
        let name = format!("lattice-read-{}", uuid::Uuid::new_v4().simple());
        let mut config = pull::Config {
            name: Some(name.clone()),
            deliver_policy,
            ack_policy: AckPolicy::None,
            headers_only,
            num_replicas: 1,
            memory_storage: true,
            inactive_threshold: CONSUMER_IDLE,
            ..Default::default()
        };
        match self.filters.as_slice() {
            [one] => config.filter_subject = one.clone(),
            several => config.filter_subjects = several.to_vec(),
        }
        let passing = Passing::new(self.bucket.stream.clone(), name.clone(), place);
        let left = left(&passing, &config).await?;
        let expires = if self.is_watch() { WATCH_EXPIRES } else { LIST_EXPIRES };
        let stream = &self.bucket.stream.cached_info().config.name;
        let pull = Pull::new(self.bucket.nats.client.clone(), (stream, &name), Asking::steady(expires)).await;
        let pull = pull.map_err(|error| Failure::not(Code::Disconnected, error.to_string()))?;
        Ok(Flow { passing, pull, config, left: Some(left), sequence: 0, came_to_nothing: false })
    }

    /// The next event; none where there is one more thing to do first.
    async fn step(&mut self) -> Option<ChangeEvent> {
        let is_watch = self.is_watch();
        let flow = match &mut self.state {
            State::Over => return None,
            State::Flowing(flow) => flow,
            State::Broken { pause } => {
                let pause = *pause;
                tokio::time::sleep(pause).await;
                self.epochs.mark_unchanged();
                return match self.begin(true).await {
                    Ok(flow) => {
                        self.state = State::Flowing(Box::new(flow));
                        Some(ChangeEvent::Resynchronised)
                    }
                    Err(failure) if will_pass(&failure) => {
                        self.state = State::Broken { pause: (2 * pause).min(AGAIN_AFTER_MAX) };
                        None
                    }
                    Err(failure) => self.fail(failure),
                };
            }
        };
        if flow.left == Some(0) {
            flow.left = None;
            if !is_watch {
                self.state = State::Over;
            }
            return Some(ChangeEvent::CaughtUp);
        }
        let pulled = tokio::select! {
            biased;
            Ok(()) = self.epochs.changed() => Pulled::Gone,
            pulled = flow.pull.next() => pulled,
        };
        match pulled {
            Pulled::Message(message) => {
                let message = jetstream::Message { message, context: self.bucket.nats.jetstream.clone() };
                let Ok(info) = message.info() else { return self.break_off() };
                if info.consumer_sequence != flow.sequence + 1 {
                    return self.break_off();
                }
                flow.sequence = info.consumer_sequence;
                flow.came_to_nothing = false;
                flow.left = flow.left.map(|_| info.pending);
                let created = u64::try_from(info.published.unix_timestamp_nanos()).unwrap_or(0);
                let revision = info.stream_sequence;
                let (headers, payload) = (message.headers.as_ref(), message.payload.clone());
                let read = entry(&self.bucket.prefix, &message.subject, revision, created, headers, payload);
                read.filter(|entry| self.reading != Reading::Keys || entry.change == Change::Put)
                    .map(ChangeEvent::Changed)
            }
            // What was pending may be gone, which the server knows; or it did not come.
            Pulled::Paused if flow.left.is_some() => {
                if std::mem::replace(&mut flow.came_to_nothing, true) {
                    return self.break_off();
                }
                match left(&flow.passing, &flow.config).await {
                    Ok(left) => flow.left = Some(left),
                    Err(_) => return self.break_off(),
                }
                None
            }
            Pulled::Paused => None,
            Pulled::Gone => self.break_off(),
        }
    }

    fn break_off(&mut self) -> Option<ChangeEvent> {
        if self.is_watch() {
            self.state = State::Broken { pause: AGAIN_AFTER };
            return None;
        }
        self.fail(Failure::not(Code::Disconnected, "the list broke off"))
    }

    fn fail(&mut self, failure: Failure) -> Option<ChangeEvent> {
        self.state = State::Over;
        Some(ChangeEvent::Failed(failure))
    }
}

impl Feed<ChangeEvent> for NatsChanges {
    fn next(&mut self) -> Fut<'_, Option<ChangeEvent>> {
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

/// Make the consumer; of one that is there, the same request is answered with how it is now.
pub(super) async fn left(passing: &Passing, config: &pull::Config) -> Result<u64, Failure> {
    let made = tokio::time::timeout(api::TIMEOUT, passing.stream().create_consumer(config.clone())).await;
    let made = made.map_err(|_| Failure::not(Code::Timeout, "no answer in time"))?;
    let made = made.map_err(|error| match error.kind() {
        ConsumerErrorKind::JetStream(error) => api::of_jetstream(error.error_code().0, &error.to_string()),
        ConsumerErrorKind::TimedOut => Failure::not(Code::Timeout, "no answer in time"),
        _ => Failure::not(Code::NoResponders, "no server answers for it now"),
    })?;
    Ok(made.cached_info().num_pending)
}

/// Whether a watch, a reader or a reading of an object waits until it is over.
pub(super) fn will_pass(failure: &Failure) -> bool {
    match failure.code {
        Code::Disconnected | Code::Timeout | Code::NoResponders => true,
        // A server that has just begun leads nothing yet, and says so in many words.
        Code::Jetstream(code) => matches!(code, 10008 | 10009 | 10039 | 10040 | 10076),
        _ => false,
    }
}

/// A message of a bucket's stream. None where it is no key's.
pub(super) fn entry(
    prefix: &str,
    subject: &str,
    revision: u64,
    created: u64,
    headers: Option<&HeaderMap>,
    payload: Bytes,
) -> Option<Entry> {
    let key = subject.strip_prefix(prefix)?.to_owned();
    let of = |name: &str| headers.and_then(|headers| headers.get(name)).map(|value| value.as_str());
    let change = match (of("Nats-Marker-Reason"), of(super::OPERATION)) {
        (Some("Purge"), _) | (None, Some("PURGE")) => Change::Purge,
        (Some("Remove"), _) | (None, Some("DEL")) => Change::Delete,
        (Some(_), _) => Change::Expire,
        _ => Change::Put,
    };
    let value = if change == Change::Put { payload } else { Bytes::new() };
    Some(Entry { key, value, revision: Revision(revision), created, change })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_changes_of_keys() {
        let read = |subject: &str, headers: &[(&str, &str)]| {
            let map = headers.iter().fold(HeaderMap::new(), |mut map, (name, value)| {
                map.insert(*name, *value);
                map
            });
            entry("$KV.b.", subject, 7, 1, Some(&map), "v".into())
        };
        for (headers, change) in [
            (&[][..], Change::Put),
            (&[("KV-Operation", "PUT")], Change::Put),
            (&[("KV-Operation", "DEL")], Change::Delete),
            (&[("KV-Operation", "PURGE")], Change::Purge),
            (&[("Nats-Marker-Reason", "MaxAge")], Change::Expire),
            (&[("Nats-Marker-Reason", "Purge")], Change::Purge),
            (&[("Nats-Marker-Reason", "Remove")], Change::Delete),
            (&[("Nats-Marker-Reason", "Whatever")], Change::Expire),
        ] {
            let entry = read("$KV.b.a.b", headers).unwrap();
            assert_eq!((entry.key.as_str(), entry.change), ("a.b", change), "{headers:?}");
            assert_eq!(entry.value.is_empty(), change != Change::Put);
        }
        assert_eq!(read("$KV.c.a", &[]), None);
    }
}
