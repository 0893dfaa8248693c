//! [`lattice::objects`] over JetStream object stores (ADR-20): an object is a message that describes it, and messages with its
//! bytes under a subject of their own. By hand, since the client library's waits for each chunk's acknowledgement before it
//! sends the next, takes no part of an object, follows links into any other store, and leaves bytes behind where two
//! writers meet.
//!
//! What makes an object be seen is its description alone, written where the one before is still what it was. So each
//! writer knows whose bytes it has to remove: those of the one that it took the place of.

mod read;
mod write;

use super::{
    EXPECTED_SEQUENCE, Line, NatsBucket,
    api::{of_jetstream, store},
    changes::NatsChanges,
    reachable,
};
use crate::connect::Nats;
use async_nats::{
    HeaderMap,
    jetstream::{
        context::GetStreamErrorKind,
        object_store::ObjectInfo,
        stream::{LastRawMessageErrorKind, Stream},
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use bytes::Bytes;
use lattice::{
    Fut,
    bucket::no_objects,
    id::Revision,
    limits::NATS_PAYLOAD_BYTES_DEFAULT,
    nats::{ChangeEvent, Code, Entry, Failure, Feed, Reading},
    objects::{CHUNK_BYTES, Object, Objects, Piece, TryFeed, check_name},
    spec::BucketName,
};
use read::NatsChunks;
use std::sync::Arc;

/// Tries to write a description that others write at the same time.
const TRIES_MAX: u32 = 16;
/// What a message has beside a chunk: its subject, and what a protocol line takes.
const CHUNK_OVERHEAD_BYTES: usize = 1 << 10;

#[derive(Clone)]
pub(super) struct NatsObjects {
    nats: Nats,
    stream: Stream,
    bucket: String,
    /// Keeps the connection that is its workload's.
    line: Arc<Line>,
}

/// What describes an object, and which message said so.
struct Described {
    info: ObjectInfo,
    revision: Revision,
    modified: u64,
}

impl NatsObjects {
    pub(super) async fn open(nats: Nats, bucket: &BucketName, line: Arc<Line>) -> Result<Self, Failure> {
        reachable(&nats).map_err(|_| Failure::away())?;
        let stream = match nats.jetstream.get_stream(format!("OBJ_{bucket}")).await {
            Ok(stream) => stream,
            Err(error) => {
                return Err(match error.kind() {
                    GetStreamErrorKind::JetStream(answer) if answer.code() == 404 => no_objects(bucket),
                    GetStreamErrorKind::JetStream(answer) => of_jetstream(answer.error_code().0, &answer.to_string()),
                    _ => Failure::not(Code::Disconnected, "no server answers for the object store now"),
                });
            }
        };
        let config = &stream.cached_info().config;
        let subjects = ["M", "C"].map(|kind| format!("$O.{bucket}.{kind}.>"));
        // Nor is a mirror one: its messages have the subjects of the store that it copies.
        if !subjects.iter().all(|subject| config.subjects.contains(subject)) {
            let text = format!("the stream of the object store {:?} has not the subjects of one", bucket.as_str());
            return Err(Failure::not(Code::Unsupported, text));
        }
        Ok(Self { nats, stream, bucket: bucket.to_string(), line })
    }

    fn subject(&self, name: &str) -> Result<String, Failure> {
        check_name(name)?;
        reachable(&self.nats).map_err(|_| Failure::away())?;
        Ok(format!("$O.{}.M.{}", self.bucket, URL_SAFE.encode(name)))
    }

    /// Where the bytes are. What calls them that may have been written by any other client.
    fn chunks(&self, content: &str) -> Result<String, Failure> {
        if content.is_empty() || !content.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
            return Err(Failure::not(Code::Other, "the object's description says not where its bytes are"));
        }
        Ok(format!("$O.{}.C.{content}", self.bucket))
    }

    /// What there is under a name, which may be that it was deleted. From the stream's leader.
    async fn last(&self, name: &str) -> Result<Option<Described>, Failure> {
        let subject = self.subject(name)?;
        let message = match self.stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => message,
            Err(error) => {
                return match error.kind() {
                    LastRawMessageErrorKind::NoMessageFound => Ok(None),
                    LastRawMessageErrorKind::JetStream(error) => {
                        Err(of_jetstream(error.error_code().0, &error.to_string()))
                    }
                    _ => Err(Failure::not(Code::NoResponders, "no server answers for the object store now")),
                };
            }
        };
        let strange = |_| Failure::not(Code::Other, "what is under the object's name describes none");
        let info = serde_json::from_slice(&message.payload).map_err(strange)?;
        let modified = u64::try_from(message.time.unix_timestamp_nanos()).unwrap_or(0);
        Ok(Some(Described { info, revision: Revision(message.sequence), modified }))
    }

    async fn find(&self, name: &str) -> Result<Option<Object>, Failure> {
        let Some(found) = self.last(name).await?.filter(|found| !found.info.deleted) else { return Ok(None) };
        let Some(link) = found.info.options.as_ref().and_then(|options| options.link.as_ref()) else {
            return Ok(Some(found.into()));
        };
        let unsupported = |text: &str| Err(Failure::not(Code::Unsupported, text));
        match &link.name {
            Some(name) if link.bucket == self.bucket => match self.last(name).await? {
                Some(found) if found.info.options.as_ref().is_some_and(|options| options.link.is_some()) => {
                    unsupported("the object is a link to a link")
                }
                found => Ok(found.filter(|found| !found.info.deleted).map(Into::into)),
            },
            // That store is another one than was granted.
            _ => unsupported("the object is a link out of its store"),
        }
    }

    /// Have this describe an object, in the place of what is there at that time; answers with that.
    async fn describe(&self, info: &ObjectInfo) -> Result<(Revision, Option<ObjectInfo>), Failure> {
        let subject = self.subject(&info.name)?;
        let text = serde_json::to_vec(info).map_err(|error| Failure::not(Code::Other, error.to_string()))?;
        let payload = Bytes::from(text);
        for _ in 0..TRIES_MAX {
            let before = self.last(&info.name).await.map_err(Failure::of_read)?;
            if info.deleted && before.as_ref().is_none_or(|before| before.info.deleted) {
                return Ok((before.map_or(Revision(0), |before| before.revision), None));
            }
            let expect = before.as_ref().map_or(0, |before| before.revision.0);
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Rollup", "sub");
            headers.insert(EXPECTED_SEQUENCE, expect.to_string().as_str());
            match store(&self.nats.client, subject.clone(), headers, payload.clone()).await {
                Ok(revision) => return Ok((revision, before.map(|before| before.info))),
                Err(failure) if failure.code == Code::WrongRevision => {}
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::not(Code::WrongRevision, "others write the object all the time"))
    }

    /// Remove bytes that no object has any more. Those that can't be removed stay, and are in nobody's way.
    async fn discard(&self, content: &str) {
        let Ok(subject) = self.chunks(content) else { return };
        if let Err(error) = self.stream.purge().filter(subject).await {
            tracing::warn!(bucket = self.bucket, content, %error, "bytes that no object has were left in an object store");
        }
    }

    fn payload_bytes_max(&self) -> usize {
        match self.nats.client.max_payload() {
            0 => NATS_PAYLOAD_BYTES_DEFAULT,
            limit => limit,
        }
    }

    /// Bytes of the messages that it writes.
    fn chunk_bytes(&self) -> usize {
        let of_stream =
            usize::try_from(self.stream.cached_info().config.max_message_size).ok().filter(|most| *most > 0);
        let most = of_stream.unwrap_or(usize::MAX).min(self.payload_bytes_max());
        CHUNK_BYTES.min(most.saturating_sub(CHUNK_OVERHEAD_BYTES)).max(1)
    }
}

impl From<Described> for Object {
    fn from(Described { info, revision, modified }: Described) -> Self {
        Self { name: info.name, size: info.size as u64, digest: info.digest, modified, revision, content: info.nuid }
    }
}

impl Objects for NatsObjects {
    fn created(&self) -> u64 {
        u64::try_from(self.stream.cached_info().created.unix_timestamp_nanos()).unwrap_or(0)
    }

    fn reading_bytes_max(&self) -> usize {
        self.payload_bytes_max() + (8 << 10)
    }

    fn object(&self, name: &str) -> Fut<'_, Result<Option<Object>, Failure>> {
        let name = name.to_owned();
        Box::pin(async move { self.find(&name).await.map_err(Failure::of_read) })
    }

    fn read(&self, object: &Object, from: u64, to: u64) -> Fut<'_, Result<TryFeed<Bytes>, Failure>> {
        let object = object.clone();
        Box::pin(async move {
            let chunks = NatsChunks::open(self.clone(), &object, from, to.min(object.size)).await;
            let chunks: Box<dyn Feed<_>> = Box::new(chunks.map_err(Failure::of_read)?);
            Ok(chunks)
        })
    }

    fn write(&self, name: &str, pieces: Box<dyn Feed<Piece>>) -> Fut<'_, Result<Object, Failure>> {
        let name = name.to_owned();
        Box::pin(async move { write::write(self, &name, pieces).await })
    }

    fn delete(&self, name: &str) -> Fut<'_, Result<bool, Failure>> {
        let name = name.to_owned();
        Box::pin(async move {
            let Some(found) = self.last(&name).await.map_err(Failure::of_read)? else { return Ok(false) };
            let gone = ObjectInfo { deleted: true, size: 0, chunks: 0, digest: None, ..found.info };
            let (_, before) = self.describe(&ObjectInfo { name, ..gone }).await?;
            if let Some(before) = &before {
                self.discard(&before.nuid).await;
            }
            Ok(before.is_some())
        })
    }

    fn list(&self) -> Fut<'_, Result<TryFeed<Object>, Failure>> {
        Box::pin(async move {
            let bucket = NatsBucket {
                nats: self.nats.clone(),
                stream: self.stream.clone(),
                prefix: format!("$O.{}.M.", self.bucket),
                line: self.line.clone(),
            };
            // Of each there is one message only.
            let changes = NatsChanges::open(bucket, Vec::new(), Reading::History).await.map_err(Failure::of_read)?;
            let list: Box<dyn Feed<_>> = Box::new(NatsList(changes));
            Ok(list)
        })
    }
}

struct NatsList(NatsChanges);

impl Feed<Result<Object, Failure>> for NatsList {
    fn next(&mut self) -> Fut<'_, Option<Result<Object, Failure>>> {
        Box::pin(async {
            loop {
                match self.0.next().await? {
                    ChangeEvent::Changed(entry) => {
                        if let Some(object) = described(entry) {
                            return Some(Ok(object));
                        }
                    }
                    ChangeEvent::CaughtUp => return None,
                    ChangeEvent::Resynchronised => {}
                    ChangeEvent::Failed(failure) => return Some(Err(failure)),
                }
            }
        })
    }
}

/// None where it was deleted, or is no object's.
fn described(entry: Entry) -> Option<Object> {
    let info: ObjectInfo = serde_json::from_slice(&entry.value).ok()?;
    let is_its_own = entry.key == URL_SAFE.encode(&info.name);
    let described = Described { info, revision: entry.revision, modified: entry.created };
    (is_its_own && !described.info.deleted).then(|| described.into())
}
