//! Values of secrets in memory.

use crate::{
    Fut,
    id::ConfigName,
    secret::{Secret, Vault},
    store::StoreError,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};
use uuid::Uuid;

/// Clones are the same vault.
#[derive(Clone, Default)]
pub struct MemoryVault(Arc<Mutex<BTreeMap<(ConfigName, Uuid), Secret>>>);

impl MemoryVault {
    fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut BTreeMap<(ConfigName, Uuid), Secret>) -> T,
    ) -> Fut<'static, Result<T, StoreError>> {
        let done = work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
        Box::pin(std::future::ready(Ok(done)))
    }
}

impl Vault for MemoryVault {
    fn put(&self, name: &ConfigName, id: Uuid, value: Secret) -> Fut<'_, Result<(), StoreError>> {
        self.with(|values| drop(values.insert((name.clone(), id), value)))
    }

    fn get(&self, name: &ConfigName, id: Uuid) -> Fut<'_, Result<Option<Secret>, StoreError>> {
        self.with(|values| values.get(&(name.clone(), id)).cloned())
    }

    fn keep_only(&self, name: &ConfigName, ids: &[Uuid]) -> Fut<'_, Result<(), StoreError>> {
        self.with(|values| values.retain(|(other, id), _| other != name || ids.contains(id)))
    }
}
