//! What guests reach outside of their instance: HTTP requests, sockets, stores, and the private loopback of their replica. Denied
//! unless granted; what is granted leads to public addresses, or to those that the node's operator allows.
//!
//! Two judgements, and both must be passed by what is really used. The *grants* of the workload are about names
//! (`lattice/src/spec/grants.rs`); the *address policy* of the node is about addresses (`lattice/src/address.rs`). A name is
//! resolved once, its addresses are judged, and a connection goes to one that was: a name that answers differently the
//! second time is never asked a second time.
//!
//! Start at [`Network`], one for each replica and set of grants. `client.rs` sends HTTP requests, `connect.rs` opens their
//! connections, `mesh.rs` hands those that are for another workload to the router; `sockets.rs` judges sockets,
//! `stores.rs` opens buckets, `objects.rs` object stores, `messages.rs` sends over NATS, `nats.rs` and `nats_streams.rs` do all
//! else there, `loopback.rs` is the private loopback.

mod body;
mod client;
mod client03;
mod connect;
mod denial;
mod failure;
mod loopback;
mod mesh;
mod messages;
pub(crate) mod nats;
pub(crate) mod nats_counters;
pub(crate) mod nats_objects;
pub(crate) mod nats_schedules;
mod nats_services;
pub(crate) mod nats_streams;
mod objects;
mod resolve;
mod sockets;
mod sockets02;
mod sockets03;
mod stores;
mod stream;
mod tls;

pub(crate) use mesh::Polled;
pub(crate) use messages::{MessageError, Outgoing};
pub(crate) use objects::{CHUNKS_WAITING_MAX, Container, READ_AHEAD_BYTES, ReadAhead, Transfer};
pub(crate) use sockets::Sockets;
pub(crate) use stores::{Store, VALUES_BYTES_MAX};

pub use resolve::{Lookup, LookupError, Resolver, SystemResolver};

use crate::{
    host::Host,
    inherited::Inherited,
    logs::LogSink,
    network::denial::Denials,
    operations::{Counts, Named, Operation, OperationStats},
};
use connect::Connector;
use hyper_util::client::legacy::Client;
use lattice::{
    account::{Account, Login},
    address::AddressPolicy,
    bucket::{Buckets, NoBuckets},
    mesh::Mesh,
    messaging::{Messaging, NoMessaging},
    nats::{Links, NoLinks},
    spec::Grants,
    trace::Tracer,
};
use loopback::Loopback;
use mesh::MeshPlace;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};
use tls::Tls;
use tokio::sync::Semaphore;
use wasmtime::component::Linker;
use wasmtime_wasi_http::WasiBody;

/// Connections of HTTP clients that a node has open at a time, idle ones too.
const NODE_CONNECTIONS_MAX: usize = 8192;
/// Connections of one replica's HTTP client, idle ones too.
const CONNECTIONS_MAX: usize = 512;
/// Requests of one replica under way at a time, until the end of the response's body. One more fails.
const REQUESTS_MAX: usize = 256;
/// Names that a node looks up at a time: each takes a thread for as long as the system's resolver likes.
const NODE_LOOKUPS_MAX: usize = 64;
/// Names that one replica looks up at a time, so that none takes all of the node's.
const LOOKUPS_MAX: usize = 8;

/// What the operator of a node decides about all guests' requests and sockets.
#[derive(Debug, Clone)]
pub struct NetworkOptions {
    /// Which addresses beyond the public internet may be reached. Default none.
    pub addresses: AddressPolicy,
    /// Certificate authorities to trust beside the system's, in PEM. Default none.
    pub authorities_pem: Vec<u8>,
    /// Who turns names into addresses. Default the system.
    pub resolver: Arc<dyn Resolver>,
    /// The KV buckets that guests with a grant open. Default none.
    pub buckets: Arc<dyn Buckets>,
    /// The NATS over which guests with a grant send messages. Default none.
    pub messaging: Arc<dyn Messaging>,
    /// The NATS that guests with a grant use as it is. Default none.
    pub nats: Arc<dyn Links>,
}

impl Default for NetworkOptions {
    fn default() -> Self {
        let (resolver, buckets) = (Arc::new(SystemResolver), Arc::new(NoBuckets));
        let (messaging, nats) = (Arc::new(NoMessaging), Arc::new(NoLinks));
        Self { addresses: AddressPolicy::default(), authorities_pem: Vec::new(), resolver, buckets, messaging, nats }
    }
}

/// What all networks of a node share.
pub(crate) struct NodeNetwork {
    addresses: AddressPolicy,
    resolver: Arc<dyn Resolver>,
    tls: Tls,
    connections: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
    /// Of all instances.
    sockets: AtomicUsize,
    mesh: MeshPlace,
    buckets: Arc<dyn Buckets>,
    messaging: Arc<dyn Messaging>,
    nats: Arc<dyn Links>,
    values: stores::NodeRoom,
    objects: objects::NodeObjects,
    tracer: Tracer,
}

impl NodeNetwork {
    /// Fails where the operator's certificates cannot be read.
    pub(crate) fn new(options: &NetworkOptions, tracer: Tracer) -> Result<Arc<Self>, String> {
        Ok(Arc::new(Self {
            addresses: options.addresses.clone(),
            resolver: options.resolver.clone(),
            tls: Tls::new(&options.authorities_pem)?,
            connections: Arc::new(Semaphore::new(NODE_CONNECTIONS_MAX)),
            lookups: Arc::new(Semaphore::new(NODE_LOOKUPS_MAX)),
            sockets: AtomicUsize::new(0),
            mesh: MeshPlace::new(),
            buckets: options.buckets.clone(),
            messaging: options.messaging.clone(),
            nats: options.nats.clone(),
            values: stores::NodeRoom::new(),
            objects: objects::NodeObjects::new(),
            tracer,
        }))
    }

    /// Only the first one counts.
    pub(crate) fn join(&self, mesh: Arc<dyn Mesh>) {
        let _ = self.mesh.set(mesh);
    }
}

/// What one replica did outside, since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetworkStats {
    /// HTTP requests that guests sent, denied ones too.
    pub requests: u64,
    /// Those without a response, denied ones not counted.
    pub failures: u64,
    /// Connections that were opened for them.
    pub connections: u64,
    /// Requests, lookups and sockets that no grant covers or whose address may not be reached.
    pub denied: u64,
}

#[derive(Default)]
struct Counters {
    requests: AtomicU64,
    failures: AtomicU64,
    connections: AtomicU64,
    operations: Arc<Counts>,
}

/// What the guests of one replica reach, by one set of grants. Parts of a replica with other grants have another one,
/// which shares the private loopback: [`Network::with_grants`].
pub(crate) struct Network {
    /// As whom its guests are connected to NATS.
    login: Login,
    grants: Grants,
    node: Arc<NodeNetwork>,
    loopback: Arc<Loopback>,
    client: Client<Connector, WasiBody>,
    requests: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
    names: sockets::Names,
    stores: stores::Stores,
    containers: objects::Containers,
    messages: messages::Messages,
    nats: nats::Nats,
    counters: Arc<Counters>,
    denials: Arc<Denials>,
}

impl Network {
    /// The replica is named in the node's log; the workload's own log gets a line about what is denied, too.
    pub(crate) fn new(
        node: Arc<NodeNetwork>,
        grants: Grants,
        (login, replica): (Login, u32),
        logs: Arc<dyn LogSink>,
    ) -> Arc<Self> {
        let denials = Denials::new(format!("{}.{replica}", login.workload), logs);
        Self::assemble(login, node, grants, Arc::default(), Arc::default(), Arc::new(denials))
    }

    /// For a part of the same replica, with the account of its grants.
    pub(crate) fn with_grants(&self, grants: Grants, account: Option<Arc<Account>>) -> Arc<Self> {
        let login = Login { workload: self.login.workload.clone(), account };
        let (loopback, counters) = (self.loopback.clone(), self.counters.clone());
        Self::assemble(login, self.node.clone(), grants, loopback, counters, self.denials.clone())
    }

    fn assemble(
        login: Login,
        node: Arc<NodeNetwork>,
        grants: Grants,
        loopback: Arc<Loopback>,
        counters: Arc<Counters>,
        denials: Arc<Denials>,
    ) -> Arc<Self> {
        let lookups = Arc::new(Semaphore::new(LOOKUPS_MAX));
        let connector =
            Connector::new(node.clone(), loopback.clone(), lookups.clone(), counters.clone(), denials.clone());
        let client = client::new(connector);
        let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
        let (names, stores) = (sockets::Names::default(), stores::Stores::new(&grants.keyvalue, &node.values));
        let containers = objects::Containers::new(&grants.blobstore, &node.objects);
        let (messages, nats) = (messages::Messages::new(), nats::Nats::new(&grants.nats, &node.values));
        Arc::new(Self {
            login,
            grants,
            node,
            loopback,
            client,
            requests,
            lookups,
            names,
            stores,
            containers,
            messages,
            nats,
            counters,
            denials,
        })
    }

    /// Whether any request, message or operation on a store may leave.
    pub(crate) fn sends(&self) -> bool {
        let Grants { http_out, messaging, nats, keyvalue, blobstore, .. } = &self.grants;
        let sends_none = http_out.is_empty() && messaging.is_empty() && nats.is_empty();
        !(sends_none && keyvalue.is_empty() && blobstore.is_empty())
    }

    /// Something that a guest does with NATS, from here on. What it sends on that account is a part of it.
    pub(crate) fn operation(&self, named: Named, inherited: &mut Inherited) -> Operation {
        Operation::begin(&self.node.tracer, self.counters.operations.clone(), named, inherited)
    }

    /// What became of those.
    pub(crate) fn operations(&self) -> Vec<OperationStats> {
        self.counters.operations.read()
    }

    pub(crate) fn stats(&self) -> NetworkStats {
        let Counters { requests, failures, connections, .. } = &*self.counters;
        NetworkStats {
            requests: requests.load(Relaxed),
            failures: failures.load(Relaxed),
            connections: connections.load(Relaxed),
            denied: self.denials.count(),
        }
    }
}

/// Put ours in the place of wasmtime's sockets, for components of 0.2.
pub(crate) fn add_to_linker02(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    sockets02::add_to_linker(linker)
}

/// The same for those of 0.3, and in the place of its HTTP client.
pub(crate) fn add_to_linker03(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    sockets03::add_to_linker(linker)?;
    client03::add_to_linker(linker)
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Network({:?})", self.grants)
    }
}
