//! What JetStream answers, in the words that guests are told.

use async_nats::{
    HeaderMap, HeaderName, HeaderValue, Request,
    client::{RequestError, RequestErrorKind},
};
use bytes::Bytes;
use lattice::{
    bucket::BucketError,
    id::Revision,
    nats::{Code, Failure},
};
use serde::Deserialize;
use std::{str::FromStr as _, time::Duration};

/// Of one operation.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// An error of JetStream. None of them took effect: it answers when it has decided.
pub(super) fn of_jetstream(err_code: u64, description: &str) -> Failure {
    let code = match err_code {
        10014 | 10059 => Code::NotFound,
        10071 | 10164 => Code::WrongRevision,
        10054 => Code::TooLarge(0),
        // Resources of the account and of the server, and limits of the stream where it discards what is new.
        10002 | 10023 | 10028 | 10047 => Code::StorageFull,
        10077 if description.contains("maximum") => Code::StorageFull,
        10166 => Code::Unsupported,
        10165 => Code::Invalid("ttl".into()),
        10138 | 10136 => Code::Invalid("filters".into()),
        other => Code::Jetstream(u16::try_from(other).unwrap_or(0)),
    };
    Failure::not(code, format!("JetStream: {description} ({err_code})"))
}

/// The same of a stream, whose messages have sequences.
pub(super) fn of_stream(err_code: u64, description: &str) -> Failure {
    let failure = of_jetstream(err_code, description);
    let code = match err_code {
        10071 | 10164 => Code::WrongSequence,
        // Another stream holds the subject: it is told which one was meant.
        10060 => Code::Invalid("message.subject".into()),
        // No batches here, no counters, no schedules or no removing; or nothing but counters.
        10174 | 10168..=10170 | 10188 | 10110 => Code::Unsupported,
        10189 | 10223 => Code::Invalid("timing".into()),
        10190 => Code::Invalid("message.subject".into()),
        10176 | 10211 | 10212 => Code::BatchAbandoned,
        10199 => Code::TooMany(1_000),
        // Another message with this id is on its way into the stream.
        10158 => return Failure::maybe(failure.code, failure.detail),
        _ => failure.code,
    };
    Failure { code, ..failure }
}

/// What is known where a request got no answer of its own.
pub(super) fn of_request(error: &RequestError, limit: usize) -> Failure {
    match error.kind() {
        RequestErrorKind::NoResponders => Failure::not(Code::NoResponders, "nobody listens on the subject"),
        RequestErrorKind::TimedOut => Failure::maybe(Code::Timeout, "no answer in time"),
        RequestErrorKind::InvalidSubject => Failure::not(Code::Invalid("subject".into()), "not a subject"),
        RequestErrorKind::MaxPayloadExceeded => too_large(limit),
        RequestErrorKind::Other => Failure::maybe(Code::Disconnected, "the connection to NATS was lost"),
    }
}

pub(super) fn too_large(limit: usize) -> Failure {
    let text = format!("a message is at most {limit} bytes, with its headers");
    Failure::not(Code::TooLarge(limit as u64), text)
}

/// Of opening: nothing is changed by it.
pub(super) fn of_open(error: BucketError) -> Failure {
    let code = match &error {
        BucketError::Absent(_) => Code::NotFound,
        BucketError::Unfit { .. } => Code::Unsupported,
        BucketError::Unreachable(_) => Code::Disconnected,
        BucketError::OutcomeUnknown => Code::Timeout,
        _ => Code::Other,
    };
    Failure::not(code, error.to_string())
}

pub(super) fn to_headers(lines: &[(String, String)]) -> Result<Option<HeaderMap>, Failure> {
    if lines.is_empty() {
        return Ok(None);
    }
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        let bad = |what: &str| Failure::not(Code::Invalid("headers".into()), format!("{what} is not one of a header"));
        let header = HeaderName::from_str(name).map_err(|_| bad(&format!("the name {name:?}")))?;
        map.append(header, HeaderValue::from_str(value).map_err(|_| bad(&format!("the value of {name:?}")))?);
    }
    Ok(Some(map))
}

#[derive(Deserialize)]
struct Answer {
    seq: Option<u64>,
    error: Option<ApiError>,
}

#[derive(Deserialize)]
pub(super) struct ApiError {
    #[serde(default)]
    pub(super) err_code: u64,
    #[serde(default)]
    pub(super) description: String,
}

/// Have a stream store a message.
pub(super) async fn store(
    client: &async_nats::Client,
    subject: String,
    headers: HeaderMap,
    payload: Bytes,
) -> Result<Revision, Failure> {
    let limit = client.max_payload();
    let mut request = Request::new().payload(payload).timeout(Some(TIMEOUT));
    if !headers.is_empty() {
        request = request.headers(headers);
    }
    // The client waits for its connection to take a request without a limit.
    let answer = tokio::time::timeout(TIMEOUT, client.send_request(subject, request)).await;
    let answer = answer.unwrap_or_else(|_| Err(RequestErrorKind::TimedOut.into()));
    stored(&answer.map_err(|error| of_request(&error, limit))?.payload)
}

/// What a stream answers to a message that it is to store.
pub(super) fn stored(answer: &[u8]) -> Result<Revision, Failure> {
    let strange = || Failure::maybe(Code::Other, "what answered was no stream");
    match serde_json::from_slice(answer).map_err(|_| strange())? {
        Answer { error: Some(error), .. } => Err(of_jetstream(error.err_code, &error.description)),
        Answer { seq: Some(sequence), .. } => Ok(Revision(sequence)),
        Answer { .. } => Err(strange()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::nats::Outcome;

    #[test]
    fn what_jetstream_refuses_did_not_happen() {
        for (err_code, text, code) in [
            (10071, "wrong last sequence: 7", Code::WrongRevision),
            (10164, "wrong last sequence", Code::WrongRevision),
            (10077, "maximum bytes exceeded", Code::StorageFull),
            (10077, "something else", Code::Jetstream(10077)),
            (10166, "per-message TTL is disabled", Code::Unsupported),
            (10059, "stream not found", Code::NotFound),
            (99_999, "from the future", Code::Jetstream(0)),
        ] {
            let failure = of_jetstream(err_code, text);
            assert_eq!((failure.code, failure.outcome), (code, Outcome::DefinitelyNot), "{text}");
        }
    }

    #[test]
    fn headers_keep_what_repeats_and_refuse_what_is_none() {
        let line = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let map = to_headers(&[line("a", "1"), line("A", "2"), line("a", "3")]).unwrap().unwrap();
        assert_eq!(map.get_all("a").map(|value| value.as_str()).collect::<Vec<_>>(), ["1", "3"]);
        assert!(to_headers(&[]).unwrap().is_none());
        for (name, value) in [("a b", "x"), ("a:", "x"), ("a", "x\r\ny: z")] {
            assert!(to_headers(&[line(name, value)]).is_err(), "{name:?} {value:?}");
        }
    }
}
