//! [`lattice::objects`] over JetStream object stores (ADR-20): an object is a message that describes it, and messages with its
//! bytes under a subject of their own. By hand, since the client library's waits for each chunk's acknowledgement before it
//! sends the next, takes no part of an object, follows links into any other store, and leaves bytes behind where two
//! writers meet.
//!
//! What makes an object be seen is its description alone, written where the one before is still what it was. So each
//! writer knows whose bytes it has to remove: those of the one that it took the place of.

mod feeds;
mod read;
mod write;

use super::{
    EXPECTED_SEQUENCE, Line, NatsBucket,
    api::{of_jetstream, store},
    changes::NatsChanges,
    reachable, streams,
};
use crate::connect::Nats;
use async_nats::{
    HeaderMap,
    jetstream::{
        context::GetStreamErrorKind,
        object_store::{ObjectInfo, ObjectLink, ObjectOptions},
        stream::{LastRawMessageErrorKind, StorageType, Stream},
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use bytes::Bytes;
use feeds::{NatsList, NatsWatch};
use lattice::{
    Fut,
    bucket::no_objects,
    id::Revision,
    limits::NATS_PAYLOAD_BYTES_DEFAULT,
    nats::{Code, Failure, Feed, Reading},
    objects::{About, CHUNK_BYTES, Expect, Object, ObjectEvent, Objects, Piece, Put, StoreInfo, TryFeed, check_name},
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

    /// Whether what is expected of an object is so now; answers with its last change.
    async fn expected(&self, name: &str, expect: Expect) -> Result<Option<Described>, Failure> {
        let last = self.last(name).await.map_err(Failure::of_read)?;
        expect.check(last.as_ref().map(|last| (last.revision, !last.info.deleted)))?;
        Ok(last)
    }

    /// Have this describe an object, in the place of what is there at that time; answers with that.
    async fn describe(&self, info: &ObjectInfo, expect: Expect) -> Result<(Revision, Option<ObjectInfo>), Failure> {
        let subject = self.subject(&info.name)?;
        let text = serde_json::to_vec(info).map_err(|error| Failure::not(Code::Other, error.to_string()))?;
        let payload = Bytes::from(text);
        for _ in 0..TRIES_MAX {
            // Where another writer was quicker, what is expected decides whether to try again.
            let before = self.expected(&info.name, expect).await?;
            if info.deleted && before.as_ref().is_none_or(|before| before.info.deleted) {
                return Ok((before.map_or(Revision(0), |before| before.revision), None));
            }
            let at = before.as_ref().map_or(0, |before| before.revision.0);
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Rollup", "sub");
            headers.insert(EXPECTED_SEQUENCE, at.to_string().as_str());
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

    /// Changes of descriptions, as of the keys of a bucket.
    async fn changes(&self, reading: Reading) -> Result<NatsChanges, Failure> {
        let bucket = NatsBucket {
            nats: self.nats.clone(),
            stream: self.stream.clone(),
            prefix: format!("$O.{}.M.", self.bucket),
            line: self.line.clone(),
        };
        NatsChanges::open(bucket, Vec::new(), reading).await.map_err(Failure::of_read)
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
        let mut metadata: Vec<(String, String)> = info.metadata.into_iter().collect();
        metadata.sort();
        let about = About { description: info.description.filter(|text| !text.is_empty()), metadata };
        let link = info.options.and_then(|options| options.link).map(|link| link.name.unwrap_or_default());
        let (size, digest, content) = (info.size as u64, info.digest, info.nuid);
        Self { name: info.name, size, digest, modified, revision, content, about, link }
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

    fn write(&self, name: &str, put: Put, pieces: Box<dyn Feed<Piece>>) -> Fut<'_, Result<Object, Failure>> {
        let name = name.to_owned();
        Box::pin(async move { write::write(self, &name, put, pieces).await })
    }

    fn delete(&self, name: &str, expect: Expect) -> Fut<'_, Result<bool, Failure>> {
        let name = name.to_owned();
        Box::pin(async move {
            let Some(found) = self.expected(&name, expect).await? else { return Ok(false) };
            let gone = ObjectInfo { deleted: true, size: 0, chunks: 0, digest: None, ..found.info };
            let (_, before) = self.describe(&ObjectInfo { name, ..gone }, expect).await?;
            if let Some(before) = &before {
                self.discard(&before.nuid).await;
            }
            Ok(before.is_some())
        })
    }

    fn link(&self, name: &str, to: &str) -> Fut<'_, Result<(), Failure>> {
        let (name, to) = (name.to_owned(), to.to_owned());
        Box::pin(async move {
            let target = self.last(&to).await.map_err(Failure::of_read)?.filter(|target| !target.info.deleted);
            let Some(target) = target else {
                return Err(Failure::not(Code::NotFound, "there is no object that the name could stand for"));
            };
            // It would stand for itself, or for what stands for another.
            if name == to || target.info.options.is_some_and(|options| options.link.is_some()) {
                return Err(Failure::not(Code::Invalid("to".into()), "a link leads to an object, not to a link"));
            }
            let link = Some(ObjectLink { name: Some(to), bucket: self.bucket.clone() });
            let info = ObjectInfo {
                name,
                description: None,
                metadata: Default::default(),
                headers: None,
                options: Some(ObjectOptions { link, max_chunk_size: None }),
                bucket: self.bucket.clone(),
                nuid: uuid::Uuid::new_v4().simple().to_string(),
                size: 0,
                chunks: 0,
                modified: Some(async_nats::datetime::now()),
                digest: None,
                deleted: false,
            };
            if let (_, Some(before)) = self.describe(&info, Expect::Anything).await?
                && before.chunks > 0
            {
                self.discard(&before.nuid).await;
            }
            Ok(())
        })
    }

    fn list(&self) -> Fut<'_, Result<TryFeed<Object>, Failure>> {
        Box::pin(async move {
            // Of each there is one message only.
            let list: TryFeed<Object> = Box::new(NatsList(self.changes(Reading::History).await?));
            Ok(list)
        })
    }

    fn watch(&self, state_first: bool) -> Fut<'_, Result<Box<dyn Feed<ObjectEvent>>, Failure>> {
        Box::pin(async move {
            let reading = Reading::Watch { state_first, metadata_only: false };
            let watch: Box<dyn Feed<ObjectEvent>> = Box::new(NatsWatch(self.changes(reading).await?));
            Ok(watch)
        })
    }

    fn info(&self) -> Fut<'_, Result<StoreInfo, Failure>> {
        Box::pin(async move {
            reachable(&self.nats).map_err(|_| Failure::away())?;
            let stream = streams::stream(&self.nats, &self.stream.cached_info().config.name).await?;
            let (config, state) = (&stream.cached_info().config, &stream.cached_info().state);
            Ok(StoreInfo {
                replicas: u32::try_from(config.num_replicas).unwrap_or(1),
                in_memory: config.storage == StorageType::Memory,
                max_age: config.max_age,
                bytes_max: u64::try_from(config.max_bytes).unwrap_or(0),
                bytes: state.bytes,
            })
        })
    }

    fn check(&self, name: &str, expect: Expect) -> Fut<'_, Result<(), Failure>> {
        let name = name.to_owned();
        Box::pin(async move {
            self.subject(&name)?;
            match expect {
                Expect::Anything => Ok(()),
                expect => self.expected(&name, expect).await.map(drop),
            }
        })
    }
}
