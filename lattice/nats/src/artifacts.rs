//! [`lattice::store::Artifacts`] over the JetStream object store: one object a component, named by its SHA-256.

use async_nats::jetstream::object_store;
use bytes::Bytes;
use lattice::{
    Fut,
    id::Digest,
    limits::COMPONENT_BYTES_MAX,
    store::{Artifacts, StoreError},
};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;

const READ_TIMEOUT: Duration = Duration::from_secs(120);
const REPLICA_LAG: Duration = Duration::from_millis(200);

pub(crate) struct ObjectStore {
    objects: object_store::ObjectStore,
}

impl ObjectStore {
    pub(crate) fn new(objects: object_store::ObjectStore) -> Self {
        Self { objects }
    }
}

fn unreachable(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unreachable(error.to_string())
}

impl ObjectStore {
    async fn read(&self, digest: Digest) -> Result<Option<Bytes>, StoreError> {
        let object = match self.objects.get(digest.to_hex()).await {
            Ok(object) => object,
            Err(error) if error.kind() == object_store::GetErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreachable(error)),
        };
        let size = object.info().size as u64;
        if size > COMPONENT_BYTES_MAX {
            return Err(StoreError::Refused(format!("{digest} is {size} bytes, more than {COMPONENT_BYTES_MAX}")));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        // The size in the object's description is a claim of whoever wrote it: don't read past it.
        object.take(size.saturating_add(1)).read_to_end(&mut bytes).await.map_err(unreachable)?;
        if Digest::of(&bytes) != digest {
            return Err(StoreError::Refused(format!("the object {digest} holds other bytes than its name says")));
        }
        Ok(Some(bytes.into()))
    }
}

impl Artifacts for ObjectStore {
    fn get(&self, digest: Digest) -> Fut<'_, Result<Option<Bytes>, StoreError>> {
        Box::pin(async move {
            if self.size(digest).await?.is_none() {
                return Ok(None);
            }
            // An object whose chunks were purged while it was read would be waited for without end.
            let read = tokio::time::timeout(READ_TIMEOUT, self.read(digest)).await;
            read.unwrap_or_else(|_| Err(unreachable(format!("{digest} was not read in time"))))
        })
    }

    fn put(&self, bytes: Bytes) -> Fut<'_, Result<Digest, StoreError>> {
        Box::pin(async move {
            if bytes.len() as u64 > COMPONENT_BYTES_MAX {
                let size = bytes.len();
                return Err(StoreError::Refused(format!("{size} bytes are more than {COMPONENT_BYTES_MAX}")));
            }
            let digest = Digest::of(&bytes);
            if self.size(digest).await?.is_none() {
                let name = digest.to_hex();
                self.objects.put(name.as_str(), &mut bytes.as_ref()).await.map_err(unreachable)?;
            }
            Ok(digest)
        })
    }

    fn size(&self, digest: Digest) -> Fut<'_, Result<Option<u64>, StoreError>> {
        Box::pin(async move {
            // Any replica may answer, also one that has not heard of an upload of a moment ago: ask twice.
            for pause in [Some(REPLICA_LAG), None] {
                match self.objects.info(digest.to_hex()).await {
                    Ok(info) if info.deleted => return Ok(None),
                    Ok(info) => return Ok(Some(info.size as u64)),
                    Err(error) if error.kind() == object_store::InfoErrorKind::NotFound => {}
                    Err(error) => return Err(unreachable(error)),
                }
                if let Some(pause) = pause {
                    tokio::time::sleep(pause).await;
                }
            }
            Ok(None)
        })
    }
}
