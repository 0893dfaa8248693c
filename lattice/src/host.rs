//! What the control plane says to the host of its own node, and what it hears back. Level-triggered both ways: each side
//! reads the other's whole state, so a missed change costs latency only.

use crate::{
    Fut,
    ctl::LogLine,
    gpu::{GpuGrant, Offer},
    id::{ConfigName, Digest, Generation, SlotId},
    recipe::Recipe,
    record::{Compiled, ConfigStamp, Phase, SpecRecord},
    report::HostReport,
    spec::{PartRole, WorkloadSpec},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

/// What should run in a slot.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    pub spec: Arc<WorkloadSpec>,
    /// What to run: [`SpecRecord::runs`].
    pub recipe: Arc<Recipe>,
    pub uid: uuid::Uuid,
    /// Of the template: [`SpecRecord::template`].
    pub generation: Generation,
    /// What serves in the slot stops before this starts. What is of class `strict` does so in any case.
    pub stop_first: bool,
    /// What serves in the slot goes on, whatever it runs: it is not this replica's turn to change. This starts where nothing
    /// serves.
    pub waits: bool,
    /// What it may use of a GPU of this node; none where the spec asks for none. It is a claim that was booked: the host gives
    /// the replica this offer and no more of it.
    pub gpu: Option<GpuGrant>,
    /// Versions of the configuration that is written out in `spec`, by the names that a person used; before it is written
    /// out, those that the record was made for.
    pub configs: Configs,
}

impl Assignment {
    pub fn new(record: &SpecRecord) -> Self {
        Self {
            spec: Arc::new(record.spec.clone()),
            recipe: Arc::new(record.runs()),
            uid: record.uid,
            generation: record.template(),
            stop_first: false,
            waits: false,
            gpu: None,
            configs: Arc::new(record.configs.clone()),
        }
    }
}

/// Versions of configuration by name.
pub type Configs = Arc<BTreeMap<ConfigName, ConfigStamp>>;

/// What a component is to be used as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// It runs: it must answer HTTP and import only what nodes offer.
    Whole,
    /// It runs and takes messages: it must export `wasmcloud:messaging/handler@0.2` and import only what nodes offer.
    Handler,
    /// Both of these.
    WholeAndHandler,
    /// It answers the requests of a workload with `reuse.concurrency` above 1, so it must export
    /// `wasi:http/handler@0.3`. What else it must is asked by the other roles.
    Concurrent,
    /// It is to be joined with others in some way, so that it is not asked for either.
    Part,
    /// It is linked to others by the host: it must import only what nodes offer, and have something to do.
    Hosted {
        role: PartRole,
        /// Another part calls it.
        is_called: bool,
    },
}

impl Role {
    /// What the whole of a workload is to be used as. One that is asked nothing over HTTP need not answer any.
    pub fn of_whole(spec: &WorkloadSpec) -> Self {
        let warms_up = spec.reuse.settings().is_some_and(|reuse| reuse.warm_up.is_some());
        let is_asked = !spec.http.routes.is_empty() || !spec.schedule.is_empty() || spec.probes.ask_http() || warms_up;
        match (spec.messages.is_empty(), is_asked) {
            (true, _) => Role::Whole,
            (false, true) => Role::WholeAndHandler,
            (false, false) => Role::Handler,
        }
    }
}

/// An import that the host links to another part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linked {
    /// As it is written in the importer.
    pub import: String,
    /// What the part is that it is linked to. More can cross to a service than to others.
    pub to: PartRole,
}

/// What satisfies imports of a component, beside the node that is asked.
#[derive(Clone, Copy)]
pub struct Providers<'a> {
    pub linked: &'a [Linked],
    /// Whether another node of the lattice says that it offers what an import asks for: only such nodes will run it.
    pub elsewhere: &'a dyn Fn(&str) -> bool,
}

impl Providers<'static> {
    /// Nothing and nobody.
    pub const NONE: Self = Self { linked: &[], elsewhere: &|_| false };
}

/// A function that is called through the host and passes lists of bytes one by one, since what they are in has a shape that
/// is not passed as a whole: it can be used, and is a thousand times slower than it need be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowCall {
    /// As [`Linked::import`].
    pub import: String,
    pub function: String,
}

/// Why no node can use a component. For the person who sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Unfit {
    pub message: String,
    /// The import that no node offers, where that is why.
    pub missing: Option<String>,
    /// The import that is linked and that can't be, since what its functions pass can't leave its store.
    pub uncrossable: Option<String>,
}

/// How the message of a replica begins whose readiness probe fails.
pub const NOT_READY: &str = "not ready: ";

/// What runs in a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    pub uid: uuid::Uuid,
    /// The generation that `phase` speaks of. While a new one is starting and the old one serves, this is the old one.
    pub generation: Generation,
    pub phase: Phase,
    pub message: Option<String>,
    /// Where `message` tells of a failure to come to what is wanted: how many there were in a row.
    pub failures: u32,
    /// The configuration that it runs with: [`Assignment::configs`].
    pub configs: Configs,
}

/// The host of one node.
pub trait Host: Send + Sync + 'static {
    /// Make exactly these slots run. What is no longer wanted is drained, then stopped.
    fn apply(&self, wanted: BTreeMap<SlotId, Assignment>);
    /// What runs now, drained slots included until they are gone.
    fn observed(&self) -> BTreeMap<SlotId, Observed>;
    /// The object store should have these objects: put back those that it lost and this host has copies of. Said again and
    /// again; nothing new while it works on the same ones.
    fn restore(&self, _artifacts: BTreeSet<Digest>) {}
    /// The GPUs of this node that replicas may use, as they are now. Asked for at every renewal of the session, so it must not
    /// take long: what is found out about devices is found out elsewhere.
    fn gpus(&self) -> Vec<Offer> {
        Vec::new()
    }
    /// The components that can start here without being compiled, as far as they are told. Asked for as [`Host::gpus`] is.
    fn compiled(&self) -> Compiled {
        Compiled::default()
    }
    /// What the replicas that take requests here did so far. Asked for every second or so.
    fn report(&self) -> HostReport {
        HostReport::default()
    }
    /// Resolves when [`Host::observed`] may have changed since the last call.
    fn changed(&self) -> Fut<'_, ()>;
}

/// Takes what guests print, beside the lattice's own log. Called from within a guest's call, so it must not wait: what it
/// can't take it drops and counts.
pub trait GuestLines: fmt::Debug + Send + Sync + 'static {
    fn line(&self, line: &LogLine);
}
