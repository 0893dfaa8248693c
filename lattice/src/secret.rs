//! Values that nobody is shown: neither a log nor a status, an event or an error. Held in memory that is overwritten when
//! the last holder lets go. What a library copies meanwhile (buffers of a connection, a guest's memory) is not.
//!
//! A secret has a name and versions like configuration, and a record like it ([`crate::record::ConfigRecord`]), which every
//! node has and which says where the value is kept: in a [`Vault`], apart from all that nodes watch and copy. Who needs a
//! value reads it then ([`reveal`]).

use crate::{
    Fut,
    id::ConfigName,
    record::{ConfigRecord, ConfigStamp, Key, Record as _},
    spec::SecretRef,
    store::{Bucket, Platform, StoreError},
};
use std::{collections::BTreeMap, fmt, sync::Arc};
use zeroize::Zeroizing;

/// Values, by the keys that a guest gets them by.
pub type Secrets = BTreeMap<String, Secret>;

/// One value. Clones share it. There is no way to print or serialise it; whoever needs the bytes says so by
/// [`Secret::reveal`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<Zeroizing<Vec<u8>>>);

impl Secret {
    /// Takes the bytes over: no copy is left behind.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(bytes)))
    }

    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where values of secrets are kept. A value never changes; a new one has an id of its own.
pub trait Vault: Send + Sync + 'static {
    /// Keep a value. Answers when it is there to stay.
    fn put(&self, name: &ConfigName, id: uuid::Uuid, value: Secret) -> Fut<'_, Result<(), StoreError>>;
    fn get(&self, name: &ConfigName, id: uuid::Uuid) -> Fut<'_, Result<Option<Secret>, StoreError>>;
    /// Remove all values of a name but these: their bytes, too.
    fn keep_only(&self, name: &ConfigName, ids: &[uuid::Uuid]) -> Fut<'_, Result<(), StoreError>>;
}

/// Why a value can't be had. Says nothing of what it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevealError {
    #[error("there is no secret {0}")]
    Missing(SecretRef),
    /// Its record is there, its value is not: the store lost it.
    #[error("the value of secret {0} is lost: put it again")]
    Lost(SecretRef),
    #[error("the value of secret {of} can't be read: {source}")]
    Unreadable {
        of: SecretRef,
        #[source]
        source: StoreError,
    },
}

/// The value behind a name, from the store: the version that the name says, the one in `made_for` as long as it is kept, or
/// the one in force.
pub async fn reveal(
    platform: &Platform,
    asked: &SecretRef,
    made_for: Option<&ConfigStamp>,
) -> Result<(Secret, ConfigStamp), RevealError> {
    let unreadable = |source| RevealError::Unreadable { of: asked.clone(), source };
    let key = Key::Config(asked.name.clone()).to_string();
    let entry = platform.store.get(Bucket::Specs, &key).await.map_err(unreadable)?;
    let record = entry.and_then(|entry| ConfigRecord::decode(&entry.value).ok());
    let found = record.and_then(|record| {
        let stamp = record.stamp_of(asked, made_for)?;
        Some((record.value_at(&stamp)?, stamp))
    });
    let (id, stamp) = found.ok_or_else(|| RevealError::Missing(asked.clone()))?;
    let value = platform.vault.get(&asked.name, id).await.map_err(unreadable)?;
    Ok((value.ok_or_else(|| RevealError::Lost(asked.clone()))?, stamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_not_shown() {
        let secret = Secret::new(b"hunter2".to_vec());
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "Secret(…) Some(Secret(…))");
        assert_eq!(secret.reveal(), b"hunter2");
    }
}
