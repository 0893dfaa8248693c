//! Atomic batches (ADR-50): messages that a stream stores one right behind the other, or none of them.

use super::{
    api::TIMEOUT,
    streams::{Answer, send},
};
use crate::connect::Nats;
use async_nats::HeaderMap;
use bytes::Bytes;
use lattice::nats::{Code, Failure};
use tokio::time::timeout;

const BATCH_ID: &str = "Nats-Batch-Id";
const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
const BATCH_COMMIT: &str = "Nats-Batch-Commit";

/// A message of a batch: its subject, its headers and its payload.
pub(super) type Part = (String, HeaderMap, Bytes);

/// What the stream says of all of them; nothing where there is none.
pub(super) async fn publish(nats: &Nats, batch: Vec<Part>) -> Result<Answer, Failure> {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let count = batch.len();
    let mut answer = Answer::default();
    for (index, (subject, mut headers, payload)) in batch.into_iter().enumerate() {
        headers.insert(BATCH_ID, id.as_str());
        headers.insert(BATCH_SEQUENCE, (index + 1).to_string().as_str());
        let is_last = index + 1 == count;
        if is_last {
            headers.insert(BATCH_COMMIT, "1");
        }
        // The first one is answered, so that a stream that takes no batches says so before it has all; the last one with what became
        // of them. Nothing is stored before that.
        if is_last {
            answer = send(nats, subject, headers, payload).await?;
        } else if index == 0 {
            send(nats, subject, headers, payload).await.map_err(Failure::of_read)?;
        } else {
            let sent = nats.client.publish_with_headers(subject, headers, payload);
            let full = |_| Failure::not(Code::Timeout, "the connection takes no more messages now");
            let lost = |_| Failure::not(Code::Disconnected, "the connection to NATS was lost");
            timeout(TIMEOUT, sent).await.map_err(full)?.map_err(lost)?;
        }
    }
    Ok(answer)
}
