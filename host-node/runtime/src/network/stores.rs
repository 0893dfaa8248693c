//! Which buckets the guests of one replica open, by their grants: a name that guests open them by, and what they may do.

use super::Network;
use lattice::{
    bucket::{BucketError, KeyValue},
    spec::{Access, KeyvalueGrant, StoreName},
};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::{OnceCell, Semaphore};

/// Operations of one replica's guests under way at a time. One more waits.
const OPERATIONS_MAX: usize = 256;

/// What was opened, kept for the next instance that asks.
pub(crate) struct Stores {
    opened: BTreeMap<StoreName, OnceCell<Arc<dyn KeyValue>>>,
    pub(crate) operations: Arc<Semaphore>,
}

impl Stores {
    pub(super) fn new(grants: &BTreeMap<StoreName, KeyvalueGrant>) -> Self {
        let opened = grants.keys().map(|name| (name.clone(), OnceCell::new())).collect();
        Self { opened, operations: Arc::new(Semaphore::new(OPERATIONS_MAX)) }
    }
}

/// A bucket as a guest has it.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) bucket: Arc<dyn KeyValue>,
    pub(crate) access: Access,
    pub(crate) operations: Arc<Semaphore>,
}

impl Network {
    /// `None`: nothing is granted under this name.
    pub(crate) async fn open_store(&self, name: &str) -> Option<Result<Store, BucketError>> {
        let granted = name.parse::<StoreName>().ok().and_then(|name| {
            let grant = self.grants.keyvalue.get(&name)?;
            Some((grant, self.stores.opened.get(&name)?))
        });
        let Some((grant, cell)) = granted else {
            self.denials.note(|| {
                let name = lattice::limits::one_line(name, 64);
                format!(
                    "the store {name:?} was denied; to allow it add to the spec: grants: {{keyvalue: {{{name}: {{bucket: \
                     BUCKET}}}}}}"
                )
            });
            return None;
        };
        let opened = cell.get_or_try_init(|| self.node.buckets.open(&self.workload, &grant.bucket)).await;
        Some(opened.map(|bucket| Store {
            bucket: bucket.clone(),
            access: grant.access,
            operations: self.stores.operations.clone(),
        }))
    }

    /// A change of what is granted to be read only.
    pub(crate) fn note_read_only(&self, name: &str) {
        self.denials.note(|| {
            format!("a change of the store {name:?} was denied: grants.keyvalue.{name}.access of the spec is read-only")
        });
    }
}
