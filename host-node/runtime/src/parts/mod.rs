//! Parts of a unit: components beside the main one, each with a store, a memory and a life of its own. The host links
//! them: what one imports and another exports becomes a call from store to store (`bridge/`).
//!
//! Start at [`Runtime::assemble`](crate::Runtime::assemble) in `assemble.rs`, which links and refuses. What is alive is
//! in `running.rs`: instances by the call ([`PartRole::Lazy`], [`PartRole::Isolated`]) in `pool.rs`, services in
//! `service.rs`, of which `supervision.rs` decides when one is started again.

mod assemble;
mod driven;
mod notice;
mod pool;
mod running;
mod service;
mod supervision;

pub(crate) use assemble::Target;
pub use assemble::{Assembly, EdgeError};
pub(crate) use notice::StopNotice;
pub(crate) use running::{Counterpart, PartCall, PartError, PartFault, Parts, Running};
pub use supervision::Restart;

use crate::load::Component;
use lattice::{
    account::Account,
    id::ComponentName,
    secret::Secrets,
    spec::{FunctionName, Grants},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// A component beside the main one of a unit.
#[derive(Debug, Clone)]
pub struct Part {
    /// Unique within the unit.
    pub name: ComponentName,
    pub component: Component,
    pub role: PartRole,
    /// Its environment variables. It sees neither those of the main component nor those of other parts.
    pub env: BTreeMap<String, String>,
    /// What it reads through `wasi:config/store`.
    pub config: BTreeMap<String, String>,
    /// What it reads through `wasmcloud:secrets/store`.
    pub secrets: Arc<Secrets>,
    /// What it may reach outside. By default what the unit may, with what it counts and caches in common.
    pub grants: Option<Grants>,
    /// With grants of its own: the account that these name. Without, it is in the unit's.
    pub account: Option<Arc<Account>>,
    /// Names of the unit's volumes that it sees as well: the same directories, at the same places. Default none.
    pub volumes: Vec<String>,
    /// Linear memory of one instance. By default what the unit's instances have.
    pub memory_bytes: Option<u64>,
    /// Instances at a time, so calls at a time, of a part that is no service. Default 16.
    pub instances_max: u32,
    /// Functions that the host itself calls, by [`Prober::call_service`](crate::Prober::call_service). Default none.
    pub probes: Vec<FunctionName>,
    /// Calls that wait for their turn; one more fails at once. Default 256.
    pub queue_max: u32,
}

impl Part {
    pub fn new(name: ComponentName, component: Component, role: PartRole) -> Self {
        Self {
            name,
            component,
            role,
            env: BTreeMap::new(),
            config: BTreeMap::new(),
            secrets: Arc::default(),
            grants: None,
            account: None,
            volumes: Vec::new(),
            memory_bytes: None,
            instances_max: 16,
            probes: Vec::new(),
            queue_max: 256,
        }
    }
}

/// How a part lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartRole {
    /// One instance for as long as the unit lives, which is started again when it ends. It holds state. It exports
    /// `wasi:cli/run`, or interfaces that others call, or both (which takes a component of WASI 0.3).
    Service { restart: Restart },
    /// Instances are made when they are called, used again, and dropped when nobody called them for that time;
    /// after each call, if it is zero. What they hold in memory may be gone at the next call.
    Lazy { idle: Duration },
    /// The same, with one instance that is made at the start and kept.
    Isolated,
}

impl PartRole {
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            PartRole::Service { .. } => "service",
            PartRole::Lazy { .. } => "lazy",
            PartRole::Isolated => "isolated",
        }
    }
}

/// A call that the host links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// Who calls; the main component if `None`.
    pub from: Option<ComponentName>,
    /// The import's name as it is written in the caller: `acme:auth/check@1.0.0`, or that of a plain function.
    pub import: String,
    /// The part that is called.
    pub to: ComponentName,
    /// The export's name as it is written in the part.
    pub export: String,
}

/// What one part does now, and what it did since its unit started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartStats {
    pub name: ComponentName,
    pub role: PartRole,
    pub state: PartState,
    pub instances_live: u32,
    pub instances_created: u64,
    /// Calls that reached the part.
    pub calls: u64,
    /// Calls that failed: the part trapped, ran into a limit, or was not there.
    pub failures: u64,
    /// Calls that found its queue full, or waited in it for too long.
    pub refused: u64,
    pub in_flight: u32,
    pub queued: u32,
    /// How often a service was started again.
    pub restarts: u64,
    /// Why it failed last.
    pub last_error: Option<String>,
}

/// How far a part has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PartState {
    /// It is made now.
    Starting,
    /// It can be called, though a lazy part may have no instance.
    Ready,
    /// A service that ended and will be started again.
    Restarting,
    /// A service that ended too often, and is not started again. Calls of it fail.
    GivenUp,
    /// A service that ended as it should, and need not run again.
    Done,
    /// The unit has ended.
    Stopped,
}
