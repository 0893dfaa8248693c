//! Requests that several answer: what comes within a time.

use super::api::{TIMEOUT, of_request};
use crate::connect::Nats;
use async_nats::{Request, StatusCode, client::RequestErrorKind};
use bytes::Bytes;
use futures_util::StreamExt as _;
use lattice::nats::{Code, Failure};
use tokio::time::{Duration, Instant, timeout, timeout_at};

/// Answers of one request, and their bytes.
const ANSWERS_MAX: usize = 256;
const BYTES_MAX: usize = 1 << 20;

/// The first answer.
pub(super) async fn one(nats: &Nats, subject: String, within: Duration) -> Result<Vec<Bytes>, Failure> {
    let request = Request::new().payload(Bytes::new()).timeout(Some(within));
    // The client waits for its connection to take a request without a limit.
    let answer = timeout(within, nats.client.send_request(subject, request)).await;
    let answer = answer.unwrap_or_else(|_| Err(RequestErrorKind::TimedOut.into()));
    Ok(vec![answer.map_err(|error| of_request(&error, 0).of_read())?.payload])
}

/// Those that come by then.
pub(super) async fn all(nats: &Nats, subject: String, within: Duration) -> Result<Vec<Bytes>, Failure> {
    let until = Instant::now() + within;
    let lost = || Failure::not(Code::Disconnected, "the connection to NATS was lost");
    let inbox = nats.client.new_inbox();
    let asked = async {
        let answers = nats.client.subscribe(inbox.clone()).await.map_err(|_| lost())?;
        nats.client.publish_with_reply(subject, inbox, Bytes::new()).await.map_err(|_| lost())?;
        Ok(answers)
    };
    let late = Failure::not(Code::Timeout, "the connection takes no more messages now");
    let mut answers = timeout(TIMEOUT, asked).await.unwrap_or(Err(late))?;
    let (mut found, mut bytes) = (Vec::new(), 0_usize);
    while let Ok(answer) = timeout_at(until, answers.next()).await {
        let answer = answer.ok_or_else(lost)?;
        if answer.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(Failure::not(Code::NoResponders, "nobody listens on the subject"));
        }
        bytes = bytes.saturating_add(answer.payload.len());
        if bytes > BYTES_MAX {
            break;
        }
        found.push(answer.payload);
        if found.len() == ANSWERS_MAX {
            break;
        }
    }
    Ok(found)
}
