//! Counters in streams: an addition is a message without a payload that says by how much, and its acknowledgement has the total.

use super::{
    api::{to_headers, too_large},
    streams::{Answer, MESSAGE_ID, NatsStream, send, strange},
};
use async_nats::jetstream::stream::Config;
use bytes::Bytes;
use lattice::{
    nats::{Addition, Code, Failure, Integer, Message, Stream as _, is_total},
    spec::{Subject, SubjectPattern},
};

const INCREMENT: &str = "Nats-Incr";

/// Servers before 2.12 know of no such setting, and so have none that is set.
pub(super) async fn check(stream: &NatsStream) -> Result<(), Failure> {
    stream.up()?;
    let text = "the stream holds no counters (allow_msg_counter, nats-server 2.12): one that does is made as such";
    stream.has(|config| config.allow_message_counter, text).await
}

pub(super) async fn add(
    stream: &NatsStream,
    message: Message,
    by: Integer,
    message_id: Option<String>,
) -> Result<Addition, Failure> {
    check(stream).await?;
    // With an addition NATS takes no word of the stream that is meant. No two streams hold one subject, so the one that holds it is the one.
    if !stream.is(|config| holds(config, &message.subject)).await? {
        let text = format!("the stream does not hold the subject {}", message.subject);
        return Err(Failure::not(Code::Invalid("subject".into()), text));
    }
    let limit = stream.message_bytes_max();
    if message.bytes() > limit {
        return Err(too_large(limit));
    }
    let mut headers = to_headers(&message.headers)?.unwrap_or_default();
    headers.insert(INCREMENT, by.as_str());
    if let Some(id) = &message_id {
        headers.insert(MESSAGE_ID, id.as_str());
    }
    added(stream.name(), send(&stream.nats, message.subject, headers, Bytes::new()).await?)
}

/// Whether messages on this subject come to the stream.
fn holds(config: &Config, subject: &str) -> bool {
    let Ok(subject) = subject.parse::<Subject>() else { return false };
    config.subjects.iter().any(|pattern| pattern.parse::<SubjectPattern>().is_ok_and(|it| it.matches(&subject)))
}

fn added(name: &str, answer: Answer) -> Result<Addition, Failure> {
    let Answer { stream, seq, duplicate, val, .. } = answer;
    if stream != name {
        let text = "another stream holds the subject by now, and may have counted it";
        return Err(Failure::maybe(Code::Invalid("subject".into()), text));
    }
    let sequence = seq.ok_or_else(strange)?;
    match val {
        Some(total) if is_total(&total) => Ok(Addition { total: Some(total), sequence, duplicate }),
        None if duplicate => Ok(Addition { total: None, sequence, duplicate }),
        _ => Err(Failure::maybe(Code::Other, "what answered holds no counters")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::nats::Outcome;

    #[test]
    fn a_stream_holds_what_its_subjects_match() {
        let config = |subjects: &[&str]| Config {
            subjects: subjects.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        for (subjects, subject, expect) in [
            (&["hits.*"][..], "hits.a", true),
            (&["hits.*"], "hits.a.b", false),
            (&["other", "hits.>"], "hits.a.b", true),
            (&[], "hits.a", false),
            (&["hits.*"], "hits.*", false),
        ] {
            assert_eq!(holds(&config(subjects), subject), expect, "{subjects:?} {subject}");
        }
    }

    #[test]
    fn what_answered_is_the_stream_and_says_the_total() {
        let answer = |text: &str| added("HITS", serde_json::from_str(text).unwrap());
        let addition =
            |total: Option<&str>, duplicate| Addition { total: total.map(Into::into), sequence: 7, duplicate };
        assert_eq!(answer(r#"{"stream":"HITS","seq":7,"val":"-12"}"#), Ok(addition(Some("-12"), false)));
        assert_eq!(answer(r#"{"stream":"HITS","seq":7,"duplicate":true}"#), Ok(addition(None, true)));
        // It may have been counted somewhere.
        for (text, code) in [
            (r#"{"stream":"OTHER","seq":7,"val":"1"}"#, Code::Invalid("subject".into())),
            (r#"{"stream":"HITS","seq":7}"#, Code::Other),
            (r#"{"stream":"HITS","seq":7,"val":"one"}"#, Code::Other),
            (r#"{"stream":"HITS","val":"1"}"#, Code::Other),
        ] {
            let failure = answer(text).unwrap_err();
            assert_eq!((failure.code, failure.outcome), (code, Outcome::Maybe), "{text}");
        }
    }
}
