//! What belongs to one instance on our side: its WASI contexts, its handles, its limits. Everything a guest is not
//! given here it does not have: no files but its volumes, no requests and sockets but those that are granted, an empty
//! stdin.

use crate::{
    identity::Identity,
    limits::{CpuMeter, Limits, MemoryLimiter},
    logs::GuestLog,
    network::{Network, Sockets},
    parts::Parts,
    unit::Blueprint,
    volumes::Descriptors,
};
use std::sync::{Arc, LazyLock, Weak, atomic::Ordering::Relaxed};
use wasmtime::{Store, component::ResourceTable};
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
    pub(crate) identity: Identity,
    /// The other parts of its unit.
    pub(crate) parts: Weak<Parts>,
    wasi: WasiCtx,
    descriptors: Descriptors,
    http: WasiHttpCtx,
    hooks: Hooks,
}

/// A store for one more instance of the unit.
pub(crate) fn store(blueprint: &Blueprint, meter: Arc<CpuMeter>) -> wasmtime::Result<Store<Host>> {
    let ordinal = blueprint.ordinals.fetch_add(1, Relaxed) + 1;
    let books = Sockets::new(blueprint.network.clone());
    let mut wasi = WasiCtx::builder();
    wasi.allow_blocking_current_thread(false)
        .max_random_size(RANDOM_BYTES_MAX)
        .allow_tcp(true)
        .allow_udp(true)
        .allow_ip_name_lookup(false) // names are looked up by our own
        .socket_addr_check(books.check())
        .stdout(GuestLog::new(&blueprint.logs, ordinal, crate::LogStream::Stdout))
        .stderr(GuestLog::new(&blueprint.logs, ordinal, crate::LogStream::Stderr))
        .arg(blueprint.config.workload.as_str());
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
        identity: Identity { workload: blueprint.config.workload.clone(), replica: blueprint.config.replica },
        parts: blueprint.parts.clone(),
        wasi: wasi.build(),
        descriptors: blueprint.volumes.descriptors(),
        http,
        hooks: Hooks { network: blueprint.network.clone(), trace: None },
    };
    let mut store = Store::new(blueprint.component.engine(), host);
    store.set_hostcall_fuel(CALL_BYTES_MAX);
    store.set_max_component_handles(HANDLES_MAX);
    crate::limits::apply(&mut store);
    Ok(store)
}

impl Host {
    /// What file systems are made of.
    pub(crate) fn files(&mut self) -> (WasiCtxView<'_>, &mut Descriptors) {
        (WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }, &mut self.descriptors)
    }
}

/// W3C Trace Context: which trace a request belongs to.
const TRACE: http::HeaderName = http::HeaderName::from_static("traceparent");

impl Host {
    /// What the guest sends from now on belongs to this request, where the guest says nothing else.
    pub(crate) fn answering(&mut self, headers: &http::HeaderMap) {
        self.hooks.trace = if self.hooks.network.sends() { headers.get(TRACE).cloned() } else { None };
    }
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
    /// The trace of the request that is being answered, where it answers one at a time.
    trace: Option<http::HeaderValue>,
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
        mut request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Sending,
    ) -> Box<dyn Future<Output = Result<(http::Response<WasiBody>, Sending), Error>> + Send> {
        if let Some(trace) = &self.trace {
            request.headers_mut().entry(TRACE).or_insert_with(|| trace.clone());
        }
        let sending = self.network.clone().send(request, options);
        Box::new(async move {
            let response = sending.await?;
            Ok((response, Box::new(std::future::ready(Ok(()))) as Sending))
        })
    }
}
