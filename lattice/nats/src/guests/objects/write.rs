//! Writing an object: several chunks on their way at a time, in their order, and its description behind them.

use super::NatsObjects;
use crate::guests::api::{TIMEOUT, stored};
use async_nats::{
    Client, StatusCode, Subscriber,
    jetstream::object_store::{ObjectInfo, ObjectOptions},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use lattice::{
    id::Revision,
    nats::{Code, Failure, Feed, Outcome},
    objects::{CHUNKS_ON_THEIR_WAY_MAX, Object, Piece, Put},
};
use sha2::{Digest as _, Sha256};

pub(super) async fn write(
    objects: &NatsObjects,
    name: &str,
    Put { about, expect }: Put,
    pieces: Box<dyn Feed<Piece>>,
) -> Result<Object, Failure> {
    objects.subject(name)?;
    about.check()?;
    let content = uuid::Uuid::new_v4().simple().to_string();
    let mut upload = match Upload::new(objects, &content).await {
        Ok(upload) => upload,
        Err(failure) => return Err(failure.of_read()),
    };
    // Until its description is there nobody sees it, so nothing has happened.
    if let Err(failure) = upload.take(pieces).await {
        upload.settle().await;
        objects.discard(&content).await;
        return Err(failure.of_read());
    }
    let digest = format!("SHA-256={}", URL_SAFE.encode(upload.digest.finalize()));
    let info = ObjectInfo {
        name: name.to_owned(),
        description: about.description.clone(),
        metadata: about.metadata.iter().cloned().collect(),
        headers: None,
        options: Some(ObjectOptions { link: None, max_chunk_size: Some(upload.chunk_bytes) }),
        bucket: objects.bucket.clone(),
        nuid: content.clone(),
        size: upload.size,
        chunks: upload.chunks,
        modified: Some(async_nats::datetime::now()),
        digest: Some(digest.clone()),
        deleted: false,
    };
    match objects.describe(&info, expect).await {
        Ok((revision, before)) => {
            if let Some(before) = before.filter(|before| before.chunks > 0) {
                objects.discard(&before.nuid).await;
            }
            let (size, modified) = (info.size as u64, now());
            Ok(Object { name: info.name, size, digest: Some(digest), modified, revision, content, about, link: None })
        }
        Err(failure) => {
            // It may be there, and then these are its bytes.
            if failure.outcome == Outcome::DefinitelyNot {
                objects.discard(&content).await;
            }
            Err(failure)
        }
    }
}

fn now() -> u64 {
    u64::try_from(async_nats::datetime::now().unix_timestamp_nanos()).unwrap_or(0)
}

struct Upload {
    client: Client,
    subject: String,
    chunk_bytes: usize,
    /// Acknowledgements come to subjects below it, which count the chunks.
    inbox: String,
    answers: Subscriber,
    acknowledged: usize,
    /// Of the chunk that was acknowledged last.
    sequence: Revision,
    chunks: usize,
    size: usize,
    digest: Sha256,
    /// Less than a chunk.
    rest: BytesMut,
}

impl Upload {
    async fn new(objects: &NatsObjects, content: &str) -> Result<Self, Failure> {
        let client = objects.nats.client.clone();
        let inbox = client.new_inbox();
        let answers = client.subscribe(format!("{inbox}.*")).await;
        let answers = answers.map_err(|error| Failure::not(Code::Disconnected, error.to_string()))?;
        Ok(Self {
            subject: objects.chunks(content)?,
            chunk_bytes: objects.chunk_bytes(),
            client,
            inbox,
            answers,
            acknowledged: 0,
            sequence: Revision(0),
            chunks: 0,
            size: 0,
            digest: Sha256::new(),
            rest: BytesMut::new(),
        })
    }

    /// All pieces up to the end, each of them acknowledged.
    async fn take(&mut self, mut pieces: Box<dyn Feed<Piece>>) -> Result<(), Failure> {
        loop {
            match pieces.next().await {
                None => return Err(Failure::not(Code::Other, "the object was given up before it was whole")),
                Some(Piece::Bytes(bytes)) => self.add(bytes).await?,
                Some(Piece::End) => break,
            }
        }
        let rest = std::mem::take(&mut self.rest).freeze();
        if !rest.is_empty() {
            self.send(rest).await?;
        }
        while self.acknowledged < self.chunks {
            self.acknowledge().await?;
        }
        Ok(())
    }

    /// Wait for what is still on its way: it would be stored behind the removal of what was stored.
    async fn settle(&mut self) {
        while self.acknowledged < self.chunks {
            match tokio::time::timeout(TIMEOUT, self.answers.next()).await {
                Ok(Some(_)) => self.acknowledged += 1,
                _ => return,
            }
        }
    }

    async fn add(&mut self, mut bytes: Bytes) -> Result<(), Failure> {
        while self.rest.len() + bytes.len() >= self.chunk_bytes {
            let part = bytes.split_to(self.chunk_bytes - self.rest.len());
            let chunk = if self.rest.is_empty() {
                part
            } else {
                self.rest.extend_from_slice(&part);
                std::mem::take(&mut self.rest).freeze()
            };
            self.send(chunk).await?;
        }
        if bytes.has_remaining() {
            self.rest.reserve(self.chunk_bytes);
            self.rest.extend_from_slice(&bytes);
        }
        Ok(())
    }

    async fn send(&mut self, chunk: Bytes) -> Result<(), Failure> {
        while self.chunks - self.acknowledged >= CHUNKS_ON_THEIR_WAY_MAX {
            self.acknowledge().await?;
        }
        self.chunks += 1;
        self.size += chunk.len();
        self.digest.update(&chunk);
        let reply = format!("{}.{}", self.inbox, self.chunks);
        let sent = self.client.publish_with_reply(self.subject.clone(), reply, chunk);
        match tokio::time::timeout(TIMEOUT, sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Failure::away()),
            Err(_) => Err(Failure::not(Code::Timeout, "the connection takes no more messages now")),
        }
    }

    /// The next chunk's, which are in the chunks' order: they were sent on one connection, and one stream takes them.
    async fn acknowledge(&mut self) -> Result<(), Failure> {
        let answer = tokio::time::timeout(TIMEOUT, self.answers.next()).await;
        let Ok(Some(answer)) = answer else {
            return Err(Failure::not(Code::Timeout, "a part of the object was not acknowledged in time"));
        };
        if answer.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(Failure::not(Code::NoResponders, "no server answers for the object store now"));
        }
        self.acknowledged += 1;
        let sequence = stored(&answer.payload)?;
        if answer.subject.as_str() != format!("{}.{}", self.inbox, self.acknowledged) || sequence <= self.sequence {
            return Err(Failure::not(Code::Disconnected, "the connection to NATS was lost"));
        }
        self.sequence = sequence;
        Ok(())
    }
}
