//! What belongs to one instance on our side: its WASI contexts, its handles, its limits. Everything a guest is not
//! given here it does not have: no files but its volumes, no requests and sockets but those that are granted, a stdin that
//! says nothing.

use crate::{
    bridge::streams::Over,
    exchange::Shared,
    identity::Identity,
    inherited::{Answering, Inherited},
    limits::{CpuMeter, Limits, MemoryLimiter},
    logs::{At, Beside, GuestLog, GuestLogger},
    network::{Network, Polled, Sockets},
    parts::Parts,
    unit::Blueprint,
    volumes::Descriptors,
};
use lattice::{secret::Secrets, store::Message, trace::TRACEPARENT};
use std::sync::{Arc, LazyLock, Weak, atomic::Ordering::Relaxed};
use wasmtime::{
    Store, StoreContextMut,
    component::{GuestTaskId, ResourceTable},
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_config::WasiConfigVariables;
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView,
    WasiHttpHooks, WasiHttpView,
};

/// Handles that one instance may hold: ours, and wasmtime's own for streams, futures and tasks. A guest that drops what it
/// uses needs a few dozen for each request; one that collects garbage some hundreds.
pub(crate) const HANDLES_MAX: usize = 2_000;
/// Size of one set of headers that a guest makes, in memory. With [`HANDLES_MAX`] it bounds what headers a guest can make
/// the host keep: they are not part of its own memory.
const FIELDS_BYTES_MAX: usize = 64 << 10;
/// Data that one call of the host may take out of a guest.
const CALL_BYTES_MAX: usize = 32 << 20;
/// Random bytes that one call may ask for.
const RANDOM_BYTES_MAX: u64 = 1 << 20;

pub(crate) struct Host {
    /// Of its sockets. Before the table, which holds them: fields are dropped in their order.
    pub(crate) books: Sockets,
    pub(crate) table: ResourceTable,
    pub(crate) memory: MemoryLimiter,
    pub(crate) limits: Arc<Limits>,
    pub(crate) meter: Arc<CpuMeter>,
    /// What it calls in other stores costs its own time: true while whoever polls it measures one request with `meter`, or
    /// its start. False where it does several things at a time, or works for nobody's request.
    pub(crate) lends_meter: bool,
    pub(crate) config: WasiConfigVariables,
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) identity: Identity,
    /// The other parts of its unit.
    pub(crate) parts: Weak<Parts>,
    /// Its store ends now.
    pub(crate) over: Over,
    /// For its log.
    at: Arc<At>,
    pub(crate) logger: GuestLogger,
    #[cfg(feature = "webgpu")]
    gpu: crate::gpu::GpuCtx,
    wasi: WasiCtx,
    descriptors: Descriptors,
    http: WasiHttpCtx,
    hooks: Hooks,
}

/// A store for one more instance of the unit.
pub(crate) fn store(blueprint: &Blueprint, meter: Arc<CpuMeter>) -> wasmtime::Result<Store<Host>> {
    let ordinal = blueprint.ordinals.fetch_add(1, Relaxed) + 1;
    let books = Sockets::new(blueprint.network.clone());
    let at = Arc::<At>::default();
    let mut wasi = WasiCtx::builder();
    wasi.allow_blocking_current_thread(false)
        .max_random_size(RANDOM_BYTES_MAX)
        .allow_tcp(true)
        .allow_udp(true)
        .allow_ip_name_lookup(false) // names are looked up by our own
        .socket_addr_check(books.check())
        .stdout(GuestLog::new(&blueprint.logs, &at, ordinal, crate::LogStream::Stdout))
        .stderr(GuestLog::new(&blueprint.logs, &at, ordinal, crate::LogStream::Stderr))
        .arg(blueprint.config.workload.as_str());
    if let Some(stdin) = &blueprint.stdin {
        wasi.stdin(stdin.clone());
    }
    for (name, value) in &blueprint.config.env {
        wasi.env(name, value);
    }
    blueprint.volumes.open(&mut wasi)?;
    let mut table = ResourceTable::new();
    table.set_max_capacity(HANDLES_MAX);
    let mut http = WasiHttpCtx::new();
    http.set_field_size_limit(FIELDS_BYTES_MAX);
    let host = Host {
        books,
        table,
        memory: MemoryLimiter::new(
            blueprint.limits.memory_bytes,
            blueprint.node.memory.clone(),
            blueprint.tally.clone(),
        ),
        limits: blueprint.limits.clone(),
        meter,
        lends_meter: true, // its start is measured
        config: blueprint.config.config.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        secrets: blueprint.config.secrets.clone(),
        identity: Identity { workload: blueprint.config.workload.clone(), replica: blueprint.config.replica },
        parts: blueprint.parts.clone(),
        over: Over::default(),
        logger: GuestLogger::new(&blueprint.logs, &at, ordinal),
        at,
        #[cfg(feature = "webgpu")]
        gpu: crate::gpu::GpuCtx::new(blueprint.node.gpu.clone()),
        wasi: wasi.build(),
        descriptors: blueprint.volumes.descriptors(),
        http,
        hooks: Hooks {
            network: blueprint.network.clone(),
            inherits: blueprint.network.sends() || blueprint.parts.upgrade().is_some_and(|parts| !parts.is_empty()),
            answering: Answering::default(),
            polled: Polled::default(),
        },
    };
    let mut store = Store::new(blueprint.component.engine(), host);
    store.set_hostcall_fuel(CALL_BYTES_MAX);
    store.set_max_component_handles(HANDLES_MAX);
    crate::limits::apply(&mut store, blueprint.node.processors.clone());
    Ok(store)
}

impl Host {
    /// What stores are opened with, and whose work it is: nobody's, where the instance may be at several.
    pub(crate) fn table_and_network(&mut self) -> (&mut ResourceTable, &Arc<Network>, Option<&Inherited>) {
        let Hooks { network, answering, .. } = &self.hooks;
        (&mut self.table, network, (!answering.is_at_several()).then(|| answering.current()))
    }

    /// What GPUs are used with.
    #[cfg(feature = "webgpu")]
    pub(crate) fn table_and_gpu(&mut self) -> (&mut ResourceTable, &mut crate::gpu::GpuCtx) {
        (&mut self.table, &mut self.gpu)
    }

    pub(crate) fn network(&self) -> &Arc<Network> {
        &self.hooks.network
    }

    /// What file systems are made of.
    pub(crate) fn files(&mut self) -> (WasiCtxView<'_>, &mut Descriptors) {
        (WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }, &mut self.descriptors)
    }
}

impl Host {
    /// What the requests of the guest, and of the parts that it calls, will inherit from this one; nothing where they send
    /// none.
    pub(crate) fn inherited(&self, headers: &http::HeaderMap, exchange: &Arc<Shared>) -> Option<Inherited> {
        self.hooks.inherits.then(|| Inherited::of(headers, exchange, self.limits.wall))
    }

    /// What the guest sends and prints from now on belongs to this request.
    pub(crate) fn answering(&mut self, headers: &http::HeaderMap, exchange: &Arc<Shared>) {
        self.at.one(headers.get(TRACEPARENT).cloned());
        if let Some(inherited) = self.inherited(headers, exchange) {
            self.hooks.answering.one(inherited);
        }
    }

    /// The same of a message, to whose sender it may reply.
    pub(crate) fn handling(&mut self, message: &Message, headers: &http::HeaderMap, exchange: &Arc<Shared>) {
        let inherited = Inherited::of(headers, exchange, self.limits.wall);
        self.hooks.answering.one(inherited.replying_to(message.reply.as_deref(), exchange));
    }

    /// The same for what this task sends.
    pub(crate) fn answering_beside(&mut self, task: GuestTaskId, inherited: Option<Inherited>) {
        if let Some(inherited) = inherited {
            self.hooks.answering.begin(task, inherited);
        }
    }

    /// It is at this request beside others, for its log.
    pub(crate) fn at_beside(&self, headers: &http::HeaderMap) -> Beside {
        self.at.beside(headers.get(TRACEPARENT).cloned())
    }

    /// The same of a part, which is called for that request from here on.
    pub(crate) fn called_for(&mut self, inherited: Inherited) {
        self.at.one(inherited.traceparent().cloned());
        self.hooks.answering.one(inherited);
    }

    /// The same of a service that is called for several at a time.
    pub(crate) fn called_for_beside(&mut self, task: GuestTaskId, inherited: Inherited) {
        self.hooks.answering.begin(task, inherited);
    }

    /// The guest's next request is the work of the call that has this root, and is sent from within the store's loop.
    pub(crate) fn sends_for(&mut self, root: Option<GuestTaskId>) {
        self.hooks.answering.turn_to(root);
        self.hooks.polled = Polled::InStore;
    }
}

/// What a part takes over that the guest of this store calls now: within a function that the guest has just called.
pub(crate) fn handed_on(mut store: StoreContextMut<'_, Host>) -> wasmtime::Result<Inherited> {
    // A walk that most calls need not make.
    if store.data().hooks.answering.is_at_several() {
        let root = store.async_call_stack()?.last();
        store.data_mut().hooks.answering.turn_to(root);
    }
    Ok(store.data().hooks.answering.current().clone())
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

struct Hooks {
    network: Arc<Network>,
    /// It sends requests or calls parts, which are a part of the request's trace.
    inherits: bool,
    answering: Answering,
    polled: Polled,
}

/// A place of its own for the constant, which would be made anew for each header of each request.
static FORBIDDEN_HEADERS: [http::HeaderName; 9] = DEFAULT_FORBIDDEN_HEADERS;

/// One for all: it is asked for by each request.
static FORBIDDEN: LazyLock<ForbiddenHeaderFilter> = LazyLock::new(|| Arc::new(|name| FORBIDDEN_HEADERS.contains(name)));

type Sending = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl WasiHttpHooks for Hooks {
    fn is_forbidden_header(&mut self, name: &http::HeaderName) -> bool {
        FORBIDDEN_HEADERS.contains(name)
    }

    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        FORBIDDEN.clone()
    }

    /// The client writes it, from what was judged.
    fn set_host_header(&mut self) -> bool {
        false
    }

    /// The response ends with its body, and what the guest says of how it read it interests nobody.
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Sending,
    ) -> Box<dyn Future<Output = Result<(http::Response<WasiBody>, Sending), Error>> + Send> {
        let polled = std::mem::take(&mut self.polled);
        let sending = self.network.clone().send(request, options, self.answering.current().clone(), polled);
        Box::new(async move {
            let response = sending.await?;
            Ok((response, Box::new(std::future::ready(Ok(()))) as Sending))
        })
    }
}
