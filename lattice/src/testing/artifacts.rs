//! An object store in memory.

use crate::{
    Fut,
    id::Digest,
    limits::COMPONENT_BYTES_MAX,
    store::{Artifacts, StoreError},
};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Bytes by their SHA-256. Clones are the same object store.
#[derive(Clone, Default)]
pub struct MemoryArtifacts {
    objects: Arc<Mutex<BTreeMap<Digest, Bytes>>>,
}

impl MemoryArtifacts {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<Digest, Bytes>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Artifacts for MemoryArtifacts {
    fn get(&self, digest: Digest) -> Fut<'_, Result<Option<Bytes>, StoreError>> {
        Box::pin(async move { Ok(self.objects().get(&digest).cloned()) })
    }

    fn put(&self, bytes: Bytes) -> Fut<'_, Result<Digest, StoreError>> {
        Box::pin(async move {
            if bytes.len() as u64 > COMPONENT_BYTES_MAX {
                let size = bytes.len();
                return Err(StoreError::Refused(format!("{size} bytes are more than {COMPONENT_BYTES_MAX}")));
            }
            let digest = Digest::of(&bytes);
            self.objects().insert(digest, bytes);
            Ok(digest)
        })
    }

    fn size(&self, digest: Digest) -> Fut<'_, Result<Option<u64>, StoreError>> {
        Box::pin(async move { Ok(self.objects().get(&digest).map(|bytes| bytes.len() as u64)) })
    }
}
