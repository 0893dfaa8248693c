//! A lattice without NATS: a store, an object store and a bus in memory, with the semantics of a real server, and the
//! suite that holds both to them. Without faults of its own: a simulator wraps the traits and adds them. And input that no
//! honest sender writes, with what must hold for it.
//!
//! Start at [`MemoryLattice`]; [`conformance`] says what "the semantics of a real server" means; [`parsers`]
//! what holds whatever comes in.

mod artifacts;
mod buckets;
mod bus;
pub mod conformance;
mod mutate;
pub mod parsers;
mod poll;
mod sessions;
mod store;
mod vault;

pub use artifacts::MemoryArtifacts;
pub use buckets::{MemoryBucket, MemoryBuckets};
pub use bus::MemoryBus;
pub use mutate::Mutations;
pub use sessions::session;
pub use store::{Checkpoint, MemoryStore};
pub use vault::MemoryVault;

use crate::store::{Clock, Platform, Rng};
use std::sync::Arc;

/// One world that any number of nodes share. Clones are the same world.
#[derive(Clone, Default)]
pub struct MemoryLattice {
    store: MemoryStore,
    artifacts: MemoryArtifacts,
    vault: MemoryVault,
    exchange: bus::Exchange,
    buckets: MemoryBuckets,
}

impl MemoryLattice {
    pub fn new() -> Self {
        Self::default()
    }

    /// A connection of one node: the shared world, with the node's own time and chance.
    pub fn platform(&self, clock: Arc<dyn Clock>, rng: Arc<dyn Rng>) -> Platform {
        Platform {
            store: Arc::new(self.store.clone()),
            artifacts: Arc::new(self.artifacts.clone()),
            vault: Arc::new(self.vault.clone()),
            bus: Arc::new(MemoryBus::new(self.exchange.clone(), clock.clone())),
            buckets: Arc::new(self.buckets.clone()),
            nats: Arc::new(crate::nats::NoLinks),
            clock,
            rng,
        }
    }

    /// What guests may be given.
    pub fn buckets(&self) -> &MemoryBuckets {
        &self.buckets
    }

    /// The store, for what only its operator can do.
    pub fn store(&self) -> &MemoryStore {
        &self.store
    }
}
