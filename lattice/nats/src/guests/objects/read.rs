//! Reading an object, or a part of it: as much as is read comes, and after a break it goes on where it was. The bytes of an
//! object never change; they are removed when another takes its place.

use super::NatsObjects;
use crate::guests::{
    changes::{left, will_pass},
    passing::Passing,
    pull::{Asking, Pull, Pulled},
    reachable,
};
use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, pull},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use bytes::{Buf as _, Bytes};
use lattice::{
    Fut,
    nats::{Code, Failure, Feed},
    objects::Object,
};
use sha2::{Digest as _, Sha256};
use std::time::Duration;

/// What is left of a reader whose node is gone is removed by the server after so long. One that is read so slowly begins
/// again.
const CONSUMER_IDLE: Duration = Duration::from_secs(60);
/// What has not come by then does not.
const EXPIRES: Duration = Duration::from_secs(3);
/// Breaks in a row, with a pause after each that doubles.
const BREAKS_MAX: u32 = 5;
const AGAIN_AFTER: Duration = Duration::from_millis(200);

pub(super) struct NatsChunks {
    objects: NatsObjects,
    subject: String,
    /// The message that it goes on from. None: the first.
    from: Option<u64>,
    /// Of the bytes that come next.
    skip: u64,
    left: u64,
    /// Of all that came, and what it should be.
    digest: Option<(Sha256, String)>,
    flow: Option<Flow>,
    breaks: u32,
}

/// Messages of one consumer, in order.
struct Flow {
    _passing: Passing,
    pull: Pull,
    sequence: u64,
    /// Something came since it was last asked.
    came: bool,
}

/// One message, of which there may be the head alone.
struct Came {
    sequence: u64,
    payload: Bytes,
    size: u64,
}

enum Next {
    Came(Came),
    /// There is no more now, or it is not known.
    Stopped,
}

impl Flow {
    /// From that message on; only what the sizes are, or all. Fails where there is nothing.
    async fn begin(objects: &NatsObjects, subject: &str, from: Option<u64>, sizes: bool) -> Result<Self, Failure> {
        reachable(&objects.nats).map_err(|_| Failure::away())?;
        let name = format!("lattice-object-{}", uuid::Uuid::new_v4().simple());
        let config = pull::Config {
            name: Some(name.clone()),
            deliver_policy: match from {
                Some(start_sequence) => DeliverPolicy::ByStartSequence { start_sequence },
                None => DeliverPolicy::All,
            },
            filter_subject: subject.to_owned(),
            ack_policy: AckPolicy::None,
            headers_only: sizes,
            num_replicas: 1,
            memory_storage: true,
            inactive_threshold: CONSUMER_IDLE,
            ..Default::default()
        };
        let passing = Passing::new(objects.stream.clone(), name.clone(), None);
        if left(&passing, &config).await? == 0 {
            return Err(gone());
        }
        let stream = &objects.stream.cached_info().config.name;
        let pull = Pull::new(objects.nats.client.clone(), (stream, &name), Asking::steady(EXPIRES)).await;
        let pull = pull.map_err(|error| Failure::not(Code::Disconnected, error.to_string()))?;
        Ok(Self { _passing: passing, pull, sequence: 0, came: true })
    }

    async fn next(&mut self, objects: &NatsObjects) -> Next {
        loop {
            match self.pull.next().await {
                Pulled::Message(message) => {
                    let of_head = message.headers.as_ref().and_then(|headers| headers.get("Nats-Msg-Size"));
                    let size =
                        of_head.and_then(|size| size.as_str().parse().ok()).unwrap_or(message.payload.len() as u64);
                    let payload = message.payload.clone();
                    let message = jetstream::Message { message, context: objects.nats.jetstream.clone() };
                    let Ok(info) = message.info() else { return Next::Stopped };
                    // Some are missing.
                    if info.consumer_sequence != self.sequence + 1 {
                        return Next::Stopped;
                    }
                    (self.sequence, self.came) = (info.consumer_sequence, true);
                    return Next::Came(Came { sequence: info.stream_sequence, payload, size });
                }
                // What was asked for may have been more than one answer may bring.
                Pulled::Paused if std::mem::take(&mut self.came) => {}
                Pulled::Paused | Pulled::Gone => return Next::Stopped,
            }
        }
    }
}

fn gone() -> Failure {
    Failure::not(Code::NotFound, "the object was replaced or deleted while it was read, or is not whole")
}

impl NatsChunks {
    pub(super) async fn open(objects: NatsObjects, object: &Object, from: u64, to: u64) -> Result<Self, Failure> {
        let left = to.saturating_sub(from);
        let subject = objects.chunks(&object.content)?;
        let is_whole = from == 0 && to == object.size;
        let digest = object.digest.clone().filter(|_| is_whole).map(|digest| (Sha256::new(), digest));
        let mut chunks = Self { objects, subject, from: None, skip: 0, left, digest, flow: None, breaks: 0 };
        if left > 0 && from > 0 {
            chunks.find(from).await?;
        }
        Ok(chunks)
    }

    /// The message that the byte is in: chunks may have any size.
    async fn find(&mut self, byte: u64) -> Result<(), Failure> {
        let mut flow = Flow::begin(&self.objects, &self.subject, None, true).await?;
        let mut before = 0;
        while let Next::Came(came) = flow.next(&self.objects).await {
            if before + came.size > byte {
                (self.from, self.skip) = (Some(came.sequence), byte - before);
                return Ok(());
            }
            before += came.size;
        }
        Err(gone())
    }

    async fn step(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if self.left == 0 {
                self.flow = None;
                let Some((digest, expect)) = self.digest.take() else { return Ok(None) };
                if is_same(&expect, &digest.finalize()) {
                    return Ok(None);
                }
                let text = "the object's bytes are not those that were written: its digest is another one";
                return Err(Failure::not(Code::Other, text));
            }
            let flow = match &mut self.flow {
                Some(flow) => flow,
                None => match Flow::begin(&self.objects, &self.subject, self.from, false).await {
                    Ok(flow) => self.flow.insert(flow),
                    Err(failure) if will_pass(&failure) => {
                        self.pause(failure).await?;
                        continue;
                    }
                    Err(failure) => return Err(failure),
                },
            };
            let Next::Came(came) = flow.next(&self.objects).await else {
                self.flow = None;
                self.pause(Failure::not(Code::Disconnected, "the connection to NATS was lost")).await?;
                continue;
            };
            self.breaks = 0;
            self.from = Some(came.sequence + 1);
            if let Some((digest, _)) = &mut self.digest {
                digest.update(&came.payload);
            }
            let mut bytes = came.payload;
            let skip = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
            bytes.advance(skip);
            self.skip -= skip as u64;
            bytes.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= bytes.len() as u64;
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
    }

    /// Before another try, if there is to be one.
    async fn pause(&mut self, failure: Failure) -> Result<(), Failure> {
        if self.breaks == BREAKS_MAX {
            return Err(failure);
        }
        tokio::time::sleep(AGAIN_AFTER * 2_u32.pow(self.breaks)).await;
        self.breaks += 1;
        Ok(())
    }
}

/// Some write the letters that make up the digest's bytes without those that fill them up.
fn is_same(said: &str, digest: &[u8]) -> bool {
    let Some((algorithm, said)) = said.split_once('=') else { return false };
    !algorithm.eq_ignore_ascii_case("SHA-256")
        || said.trim_end_matches('=') == URL_SAFE.encode(digest).trim_end_matches('=')
}

impl Feed<Result<Bytes, Failure>> for NatsChunks {
    fn next(&mut self) -> Fut<'_, Option<Result<Bytes, Failure>>> {
        Box::pin(async {
            let step = self.step().await;
            if step.is_err() {
                // That was the last of it.
                (self.left, self.digest, self.flow) = (0, None, None);
            }
            step.transpose()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_compared_as_clients_write_them() {
        let digest = Sha256::digest(b"x");
        let said = URL_SAFE.encode(digest);
        assert!(is_same(&format!("SHA-256={said}"), &digest));
        assert!(is_same(&format!("sha-256={}", said.trim_end_matches('=')), &digest));
        assert!(!is_same(&format!("SHA-256={}", URL_SAFE.encode(b"y")), &digest));
        assert!(!is_same("nonsense", &digest));
        assert!(is_same("BLAKE3=xyz", &digest), "what is not known is not judged");
    }
}
