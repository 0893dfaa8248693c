//! Schedules in streams: a message whose headers say when and where the server is to store it again.

use super::{
    api::{ApiError, TIMEOUT, of_request, of_stream, too_large},
    seconds,
    streams::{NatsStream, acknowledged, headers, send, strange},
};
use async_nats::{Request, client::RequestErrorKind};
use bytes::Bytes;
use lattice::nats::{Acknowledgement, Code, Failure, SCHEDULE_TARGET, SCHEDULE_TTL, Scheduling, Stream as _};
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

/// From here on servers know of times that repeat.
const REPEATS_SINCE: (u32, u32) = (2, 14);

/// Servers before 2.12 know of no such setting, and so have none that is set.
pub(super) async fn check(stream: &NatsStream) -> Result<(), Failure> {
    stream.up()?;
    let text = "the stream takes no schedules (allow_msg_schedules, nats-server 2.12)";
    stream.has(|config| config.allow_message_schedules, text).await
}

pub(super) async fn put(stream: &NatsStream, scheduling: Scheduling) -> Result<Acknowledgement, Failure> {
    check(stream).await?;
    let Scheduling { subject, timing, message, ttl, options } = scheduling;
    let limit = stream.message_bytes_max();
    if message.bytes() > limit {
        return Err(too_large(limit));
    }
    let mut headers = headers(stream.name(), &message, &options)?;
    timing.headers().for_each(|(name, value)| headers.insert(name, value));
    headers.insert(SCHEDULE_TARGET, message.subject.as_str());
    if let Some(ttl) = ttl {
        headers.insert(SCHEDULE_TTL, seconds(ttl).as_str());
    }
    let stored = send(&stream.nats, subject, headers, message.payload).await.map_err(|failure| stream.limit(failure));
    let of_timing = |failure: Failure| {
        // A server that knows no such times calls them malformed.
        let is_unknown = failure.code == Code::Invalid("timing".into()) && !timing.is_once();
        if is_unknown && !is_since(&stream.nats.server().version, REPEATS_SINCE) {
            let (major, minor) = REPEATS_SINCE;
            return Failure::not(Code::Unsupported, format!("times that repeat need nats-server {major}.{minor}"));
        }
        failure
    };
    acknowledged(&stored.map_err(of_timing)?)
}

/// Whether a server's version is this one, or a later one.
fn is_since(version: &str, least: (u32, u32)) -> bool {
    let mut numbers = version.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= least
}

/// Whether there was something.
pub(super) async fn cancel(stream: &NatsStream, subject: &str) -> Result<bool, Failure> {
    stream.up()?;
    let payload = Bytes::from(json!({ "filter": subject }).to_string());
    let request = Request::new().payload(payload).timeout(Some(TIMEOUT));
    let asked = stream.nats.client.send_request(format!("$JS.API.STREAM.PURGE.{}", stream.name()), request);
    // The client waits for its connection to take a request without a limit.
    let answer = timeout(TIMEOUT, asked).await.unwrap_or_else(|_| Err(RequestErrorKind::TimedOut.into()));
    let answer = answer.map_err(|error| of_request(&error, 0))?;
    purged(&answer.payload)
}

fn purged(answer: &[u8]) -> Result<bool, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        purged: Option<u64>,
        error: Option<ApiError>,
    }
    match serde_json::from_slice(answer).map_err(|_| strange())? {
        Answer { error: Some(error), .. } => Err(of_stream(error.err_code, &error.description)),
        Answer { purged: Some(purged), .. } => Ok(purged > 0),
        Answer { .. } => Err(strange()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::nats::Outcome;

    #[test]
    fn versions_are_compared_by_number() {
        for (version, expect) in [
            ("2.14.0", true),
            ("2.14.0-RC.1", true),
            ("2.15.1", true),
            ("3.0", true),
            ("2.12.8", false),
            ("2.9.14", false),
            ("2", false),
            ("", false),
        ] {
            assert_eq!(is_since(version, REPEATS_SINCE), expect, "{version}");
        }
    }

    #[test]
    fn what_was_removed_is_what_the_stream_says() {
        assert_eq!(purged(br#"{"type":"x","success":true,"purged":1}"#), Ok(true));
        assert_eq!(purged(br#"{"success":true,"purged":0}"#), Ok(false));
        let failure =
            purged(br#"{"error":{"code":404,"err_code":10059,"description":"stream not found"}}"#).unwrap_err();
        assert_eq!((failure.code, failure.outcome), (Code::NotFound, Outcome::DefinitelyNot));
        assert_eq!(purged(b"no").unwrap_err().outcome, Outcome::Maybe);
    }
}
