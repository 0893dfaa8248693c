//! Reads that any replica of a stream answers (ADR-31): of one message, and of the last ones on many subjects at a time.

use super::{
    api::{TIMEOUT, of_request},
    streams::stored,
};
use crate::connect::Nats;
use async_nats::{
    HeaderMap, Message, Request, StatusCode, client::RequestErrorKind, jetstream::message::StreamMessage,
};
use futures_util::StreamExt as _;
use lattice::nats::{Code, Failure, SNAPSHOT_BYTES_MAX, SNAPSHOT_MAX, Snapshot, Stored};
use serde::Serialize;
use tokio::time::{Instant, timeout, timeout_at};

/// The end of an answer that has several messages.
const END: u16 = 204;
const TOO_MANY: u16 = 413;

/// What one message is asked for by.
#[derive(Serialize)]
pub(super) enum Wanted {
    #[serde(rename = "seq")]
    Sequence(u64),
    #[serde(rename = "last_by_subj")]
    Last(String),
}

#[derive(Serialize)]
struct ManyRequest<'a> {
    multi_last: &'a [String],
    batch: u32,
    max_bytes: usize,
}

fn subject(stream: &str) -> String {
    format!("$JS.API.DIRECT.GET.{stream}")
}

fn to_json(request: &impl Serialize) -> Result<bytes::Bytes, Failure> {
    let bad = |_| Failure::not(Code::Invalid("filter".into()), "not a filter");
    Ok(serde_json::to_vec(request).map_err(bad)?.into())
}

fn late() -> Failure {
    Failure::not(Code::Timeout, "no answer in time")
}

pub(super) async fn one(nats: &Nats, stream: &str, wanted: &Wanted) -> Result<Option<Stored>, Failure> {
    let request = Request::new().payload(to_json(wanted)?).timeout(Some(TIMEOUT));
    let answer = timeout(TIMEOUT, nats.client.send_request(subject(stream), request)).await;
    let answer = answer.unwrap_or_else(|_| Err(RequestErrorKind::TimedOut.into()));
    let answer = answer.map_err(|error| of_request(&error, 0).of_read())?;
    read(answer)
}

fn read(answer: Message) -> Result<Option<Stored>, Failure> {
    match answer.status {
        None | Some(StatusCode::OK) => {}
        Some(StatusCode::NOT_FOUND) => return Ok(None),
        Some(StatusCode::NO_RESPONDERS) => {
            return Err(Failure::not(Code::NoResponders, "no server answers for the stream now"));
        }
        Some(status) => return Err(Failure::not(Code::Other, format!("the read was answered with {status}"))),
    }
    let strange = |_| Failure::not(Code::Other, "what answered was no stream");
    Ok(Some(stored(StreamMessage::try_from(answer).map_err(strange)?)))
}

fn number(headers: Option<&HeaderMap>, name: &str) -> Option<u64> {
    headers?.get_last(name)?.as_str().parse().ok()
}

/// The last message on each subject, as one replica has them at one moment.
pub(super) async fn many(nats: &Nats, stream: &str, filters: &[String]) -> Result<Snapshot, Failure> {
    let lost = |_| Failure::not(Code::Disconnected, "the connection to NATS was lost");
    let until = Instant::now() + TIMEOUT;
    let request = ManyRequest { multi_last: filters, batch: SNAPSHOT_MAX, max_bytes: SNAPSHOT_BYTES_MAX };
    let request = to_json(&request)?;
    let inbox = nats.client.new_inbox();
    let asked = async {
        let answers = nats.client.subscribe(inbox.clone()).await.map_err(lost)?;
        nats.client
            .publish_with_reply(subject(stream), inbox, request)
            .await
            .map_err(|_| Failure::not(Code::Disconnected, "the connection to NATS was lost"))?;
        Ok(answers)
    };
    let mut answers = timeout_at(until, asked).await.unwrap_or_else(|_| Err(late()))?;
    let mut snapshot = Snapshot::default();
    let mut bytes = 0;
    loop {
        let answer = timeout_at(until, answers.next()).await.map_err(|_| late())?;
        let answer = answer.ok_or_else(|| Failure::not(Code::Disconnected, "the connection to NATS was lost"))?;
        let headers = answer.headers.as_ref();
        match answer.status.map(|status| status.as_u16()) {
            Some(END) => {
                if number(headers, "Nats-Num-Pending").is_some_and(|left| left > 0) {
                    let limit = SNAPSHOT_BYTES_MAX as u64;
                    let text = format!("the messages have more than {limit} bytes: name fewer subjects");
                    return Err(Failure::not(Code::TooLarge(limit), text));
                }
                let last = snapshot.messages.last().map_or(0, |stored| stored.sequence);
                // One was dropped on its way, where the connection brought more than was read.
                if number(headers, "Nats-Last-Sequence") != Some(last) {
                    return Err(Failure::not(Code::Disconnected, "a part of the answer was lost"));
                }
                snapshot.as_of = number(headers, "Nats-UpTo-Sequence").unwrap_or(last);
                return Ok(snapshot);
            }
            Some(TOO_MANY) => {
                let text = format!("more than {SNAPSHOT_MAX} subjects: name fewer");
                return Err(Failure::not(Code::TooMany(SNAPSHOT_MAX), text));
            }
            _ => {}
        }
        let before = number(headers, "Nats-Last-Sequence");
        let Some(stored) = read(answer)? else { return Ok(snapshot) };
        if before.is_some_and(|before| before != snapshot.messages.last().map_or(0, |stored| stored.sequence)) {
            return Err(Failure::not(Code::Disconnected, "a part of the answer was lost"));
        }
        bytes += stored.bytes();
        // The server counts as well; this one counts what it must hold.
        if bytes > SNAPSHOT_BYTES_MAX + nats.client.max_payload() {
            let limit = SNAPSHOT_BYTES_MAX as u64;
            return Err(Failure::not(Code::TooLarge(limit), format!("the messages have more than {limit} bytes")));
        }
        snapshot.messages.push(stored);
    }
}
