//! From bytes to a component: inspected, compiled or taken from the cache. `parts/assemble.rs` links it.

use crate::{
    cache::CodeCache,
    computing::{self, Processors},
    engine::{RuntimeError, RuntimeOptions},
    evict::{HasIdle, Units},
    failure::NoRoom,
    gpu::{self, Gpus},
    host::Host,
    inspect::{self, Inspection, Kind},
    lane::{Lane, Lanes},
    ledger::{Ledger, NodeShare, One},
    limits::NodeMemory,
    linker, lock,
    network::{Network, NodeNetwork},
    parts::EdgeError,
    standing::{Standing, Standings},
    unit::{Blueprint, UnitConfig},
    volumes::VolumeKeeper,
};
use bytes::Bytes;
use lattice::{
    account::Login,
    host::Role,
    id::{ComponentName, Digest, WorkloadName},
    mesh::Mesh,
    record::Compiled,
    spec::Optimize,
    trace::Tracer,
};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::{sync::Semaphore, task};
use wasmtime::{
    Engine,
    component::{InstancePre, Linker},
};
use wasmtime_wasi_http::{p2, p3};

/// Engines, compiled code and the epoch: one a process. Cheap to clone; it ends with its last clone and last unit.
#[derive(Clone)]
pub struct Runtime(Arc<RuntimeInner>);

struct RuntimeInner {
    lanes: Lanes,
    cache: CodeCache,
    loaded: Mutex<BTreeMap<(Digest, Optimize), Weak<Loaded>>>,
    /// Compiling takes all cores for seconds, so it is done for one component at a time.
    compiling: Arc<Semaphore>,
    component_bytes_max: u64,
    max_memory_bytes: u64,
    /// One for each instance. A pool counts its places as well, but each engine has one of its own, or none.
    places: Arc<Ledger>,
    memory: Arc<Ledger>,
    processors: Arc<Processors>,
    /// What each workload that has units here has of them.
    shares: Mutex<BTreeMap<WorkloadName, Weak<computing::Share>>>,
    network: Arc<NodeNetwork>,
    units: Arc<Units>,
    standings: Standings,
    volumes: Arc<VolumeKeeper>,
    gpus: Arc<Gpus>,
    tracer: Tracer,
    compiled: AtomicU64,
    from_disk: AtomicU64,
}

/// Where components came from, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadStats {
    /// Compiled here.
    pub compiled: u64,
    /// Taken from the cache on disk.
    pub from_disk: u64,
}

/// Why bytes do not become a component that runs here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("this is not WebAssembly")]
    NotWasm,
    #[error(
        "this is a core module, not a component: build for wasm32-wasip2, or make a component of it with \
         `wasm-tools component new`"
    )]
    CoreModule,
    #[error("the component is malformed: {0}")]
    Malformed(String),
    #[error("the component has {bytes} bytes; at most {limit} are allowed")]
    TooLarge { bytes: u64, limit: u64 },
    #[error("the bytes are not those of {expected}: their digest is {found}")]
    DigestMismatch { expected: Digest, found: Digest },
    /// `near` may be empty.
    #[error("the component imports {name}, which is not offered here{}", did_you_mean(near))]
    MissingImport { name: String, near: Vec<String> },
    #[error(
        "the component exports neither wasi:http/incoming-handler@0.2 nor wasi:http/handler@0.3, so it cannot answer \
         HTTP; it exports {}",
        list(exports)
    )]
    NoHttpHandler { exports: Vec<String> },
    #[error(
        "the component does not export wasmcloud:messaging/handler@0.2, so it cannot be given the `messages` of the spec; it \
         exports {}",
        list(exports)
    )]
    NoMessageHandler { exports: Vec<String> },
    /// It was asked to.
    #[error("the component does not export wasi:http/handler@0.3, so its instances run one request at a time")]
    OneAtATime,
    /// An import has the right name and the wrong type.
    #[error("the component cannot be linked: {0}")]
    Link(String),
    #[error("the component cannot be compiled: {0}")]
    Compile(String),
    /// Something about one of the parts beside the main component.
    #[error("{part}: {error}")]
    Part { part: ComponentName, error: Box<LoadError> },
    #[error(transparent)]
    Edge(#[from] EdgeError),
    /// The thread that compiled it ended early.
    #[error("the component was not loaded: {0}")]
    Interrupted(String),
}

fn did_you_mean(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!("; near it: {}", near.join(", ")) }
}

fn list(exports: &[String]) -> String {
    if exports.is_empty() { "nothing".into() } else { exports.join(", ") }
}

/// A component, compiled. Cheap to clone; the code goes with its last clone.
#[derive(Clone)]
pub struct Component(Arc<Loaded>);

struct Loaded {
    digest: Digest,
    inspection: Inspection,
    code: wasmtime::component::Component,
    lane: Arc<Lane>,
    /// Linked to what the node offers and to nothing else: what most units run, linked once for all of them.
    alone: OnceLock<Pre>,
}

enum Checked {
    Loaded(Component),
    ToCompile(Inspection),
}

/// A main component, linked.
#[derive(Clone)]
pub(crate) enum Pre {
    Http02(p2::bindings::ProxyPre<Host>),
    Http03(p3::bindings::ServicePre<Host>),
    /// It answers no HTTP.
    Messages(InstancePre<Host>),
}

impl Runtime {
    /// Make the engines and open the cache. Blocks for some milliseconds.
    pub fn new(options: RuntimeOptions) -> Result<Self, RuntimeError> {
        let processors = Processors::new();
        let lanes = Lanes::new(options.clone(), processors.clone())?;
        let cache = CodeCache::open(&options.cache_dir, options.cache_bytes_max)?;
        cache.recall(lanes.engines());
        Ok(Self(Arc::new(RuntimeInner {
            lanes,
            processors,
            shares: Mutex::default(),
            cache,
            loaded: Mutex::default(),
            compiling: Arc::new(Semaphore::new(1)),
            component_bytes_max: options.component_bytes_max,
            max_memory_bytes: options.max_memory_bytes,
            places: Ledger::new(u64::from(options.max_instances.max(1))),
            memory: Ledger::new(options.memory_bytes_total),
            network: NodeNetwork::new(&options.network, options.tracer.clone()).map_err(RuntimeError::Authorities)?,
            units: Arc::default(),
            standings: Standings::default(),
            volumes: VolumeKeeper::open(options.volumes).map_err(RuntimeError::Volumes)?,
            gpus: options.gpus,
            tracer: options.tracer,
            compiled: AtomicU64::new(0),
            from_disk: AtomicU64::new(0),
        })))
    }

    /// The component with this digest, if it is in memory: something here still runs or holds it.
    pub fn loaded(&self, digest: &Digest) -> Option<Component> {
        self.loaded_as(digest, Optimize::Default)
    }

    /// [`Runtime::loaded`], compiled like this.
    pub fn loaded_as(&self, digest: &Digest, optimize: Optimize) -> Option<Component> {
        self.0.in_memory(digest, optimize)
    }

    /// The component with this digest from memory or from the cache on disk, without its bytes. `None` where it must be
    /// loaded from them; what is wrong with it, if anything, is said then.
    pub async fn load_cached(&self, digest: Digest) -> Option<Component> {
        self.load_cached_as(digest, Optimize::Default).await
    }

    /// [`Runtime::load_cached`], compiled like this.
    pub async fn load_cached_as(&self, digest: Digest, optimize: Optimize) -> Option<Component> {
        if let Some(component) = self.loaded_as(&digest, optimize) {
            return Some(component);
        }
        let runtime = self.0.clone();
        task::spawn_blocking(move || runtime.read_cached(digest, optimize)).await.ok()?
    }

    /// The component of these bytes, which must have this digest. Whether it can be linked is found out by
    /// [`Runtime::assemble`]. From memory, else from the cache on disk, else
    /// compiled, which takes up to some seconds on threads of their own.
    pub async fn load(&self, digest: Digest, bytes: Bytes) -> Result<Component, LoadError> {
        self.load_as(digest, bytes, Optimize::Default).await
    }

    /// [`Runtime::load`], compiled like this.
    pub async fn load_as(&self, digest: Digest, bytes: Bytes, optimize: Optimize) -> Result<Component, LoadError> {
        if let Some(component) = self.0.in_memory(&digest, optimize) {
            return Ok(component);
        }
        let runtime = self.0.clone();
        let read = {
            let bytes = bytes.clone();
            move || runtime.check_and_read(digest, &bytes, optimize)
        };
        let inspection = match blocking(read).await? {
            Checked::Loaded(component) => return Ok(component),
            Checked::ToCompile(inspection) => inspection,
        };
        let runtime = self.0.clone();
        // The permit goes with the work, so that a caller who goes away does not let a second compilation in.
        let permit = self.0.compiling.clone().acquire_owned().await;
        blocking(move || {
            let _permit = permit;
            if let Some(component) = runtime.in_memory(&digest, optimize) {
                return Ok(component); // somebody else compiled it meanwhile
            }
            let lane = runtime.lane(&inspection, optimize)?;
            let code = runtime.compile(digest, &lane.engine, &bytes)?;
            Ok(runtime.keep(digest, inspection, code, lane, optimize))
        })
        .await
    }

    /// Components whose compiled code is here: those that were used last.
    pub fn compiled(&self) -> Compiled {
        Compiled::new(self.0.cache.recent())
    }

    /// Where guests' requests to other workloads go; until then there are no others. Only the first one counts.
    pub fn join(&self, mesh: Arc<dyn Mesh>) {
        self.0.network.join(mesh);
    }

    pub(crate) fn max_memory_bytes(&self) -> u64 {
        self.0.max_memory_bytes
    }

    pub(crate) fn tracer(&self) -> &Tracer {
        &self.0.tracer
    }

    /// Whether guests can be given a GPU here.
    pub(crate) fn has_gpu(&self) -> bool {
        !self.0.gpus.is_empty()
    }

    /// What one more unit has of this node.
    pub(crate) fn node_share(&self, config: &UnitConfig, uses_gpu: bool) -> Arc<NodeShare> {
        let instances = u64::from(config.reuse.max_instances);
        let bytes_each = config.limits.memory_bytes.min(self.0.max_memory_bytes);
        let account = self.0.memory.open(bytes_each.saturating_mul(instances));
        let units = self.0.units.clone();
        let memory = NodeMemory::new(account, move |asking| {
            units.evict(|giving| giving.node.memory.account.may_give_to(asking))
        });
        let gpu = uses_gpu.then(|| gpu::workspace(&self.0.gpus, &config.limits.gpu)).flatten();
        let (processors, places) = (self.share(&config.workload), self.0.places.open(instances));
        Arc::new(NodeShare { processors, places, memory, gpu })
    }

    /// What the guests of a workload have of the processors, all its units together.
    fn share(&self, workload: &WorkloadName) -> Arc<computing::Share> {
        let mut shares = lock(&self.0.shares);
        if let Some(share) = shares.get(workload).and_then(Weak::upgrade) {
            return share;
        }
        let share = self.0.processors.share();
        shares.retain(|_, share| share.strong_count() > 0);
        shares.insert(workload.clone(), Arc::downgrade(&share));
        share
    }

    pub(crate) fn volumes(&self) -> &Arc<VolumeKeeper> {
        &self.0.volumes
    }

    /// What is known here of keeping instances of this component.
    pub(crate) fn standing(&self, workload: &WorkloadName, digest: Digest) -> Arc<Standing> {
        self.0.standings.of(workload, digest)
    }

    /// What the guests of one unit reach outside.
    pub(crate) fn network(&self, config: &UnitConfig) -> Arc<Network> {
        let UnitConfig { workload, replica, grants, account, logs, .. } = config;
        let login = Login { workload: workload.clone(), account: account.clone() };
        Network::new(self.0.network.clone(), grants.clone(), (login, *replica), logs.clone())
    }

    /// What the node offers to this component.
    pub(crate) fn linker<'a>(&self, component: &'a Component) -> &'a Linker<Host> {
        &component.0.lane.linker
    }

    /// A place for one more instance of that unit, if there is one.
    pub(crate) fn place(&self, of: &Blueprint) -> Result<One, NoRoom> {
        of.node.places.take_one().ok_or_else(|| NoRoom::Places(of.node.places.total()))
    }

    /// These instances, too, make room for others when they are idle.
    pub(crate) fn register(&self, idle: Weak<dyn HasIdle>) {
        self.0.units.add(idle);
    }

    /// Drops an idle instance of some unit or part, so that there is more of what one more instance of that one lacks. False if
    /// there is none.
    pub(crate) fn evict(&self, lacks: &NoRoom, of: &Blueprint) -> bool {
        let units = &self.0.units;
        match lacks {
            NoRoom::Places(_) => units.evict(|giving| giving.node.places.may_give_to(&of.node.places)),
            NoRoom::Memory => units.evict(|giving| giving.node.memory.account.may_give_to(&of.node.memory.account)),
            // Each engine has a pool of its own.
            NoRoom::Pool(_) => units.evict(|giving| Engine::same(giving.component.engine(), of.component.engine())),
            NoRoom::Unit => false,
        }
    }

    /// Bytes of linear memory that all instances have now.
    pub fn memory_bytes_used(&self) -> u64 {
        self.0.memory.used()
    }

    /// Bytes of linear memory that all instances may have together.
    pub fn memory_bytes_total(&self) -> u64 {
        self.0.memory.total()
    }

    /// Instances alive now, of all units, and how many there may be.
    pub fn instances(&self) -> (u64, u64) {
        (self.0.places.used(), self.0.places.total())
    }

    pub fn load_stats(&self) -> LoadStats {
        LoadStats { compiled: self.0.compiled.load(Relaxed), from_disk: self.0.from_disk.load(Relaxed) }
    }
}

impl RuntimeInner {
    fn in_memory(&self, digest: &Digest, optimize: Optimize) -> Option<Component> {
        lock(&self.loaded).get(&(*digest, optimize)).and_then(Weak::upgrade).map(Component)
    }

    fn lane(&self, inspection: &Inspection, optimize: Optimize) -> Result<Arc<Lane>, LoadError> {
        self.lanes.get(inspection.needs_concurrency, optimize).map_err(LoadError::Compile)
    }

    fn check_and_read(&self, digest: Digest, bytes: &[u8], optimize: Optimize) -> Result<Checked, LoadError> {
        if bytes.len() as u64 > self.component_bytes_max {
            return Err(LoadError::TooLarge { bytes: bytes.len() as u64, limit: self.component_bytes_max });
        }
        let found = Digest::of(bytes);
        if found != digest {
            return Err(LoadError::DigestMismatch { expected: digest, found });
        }
        let inspection = inspect::inspect(bytes)?;
        let lane = self.lane(&inspection, optimize)?;
        let Some(code) = self.cache.read(&lane.engine, digest) else {
            return Ok(Checked::ToCompile(inspection));
        };
        self.from_disk.fetch_add(1, Relaxed);
        Ok(Checked::Loaded(self.keep(digest, inspection, code, lane, optimize)))
    }

    /// Each engine's code has a name of its own, so where it is found tells which engine it needs.
    fn read_cached(&self, digest: Digest, optimize: Optimize) -> Option<Component> {
        let read = |concurrency| {
            let lane = self.lanes.get(concurrency, optimize).ok()?;
            Some((self.cache.read(&lane.engine, digest)?, lane, concurrency))
        };
        let (code, lane, needs_concurrency) = read(false).or_else(|| read(true))?;
        let inspection = Inspection::of_code(&code, needs_concurrency);
        self.from_disk.fetch_add(1, Relaxed);
        Some(self.keep(digest, inspection, code, lane, optimize))
    }

    fn compile(
        &self,
        digest: Digest,
        engine: &Engine,
        bytes: &[u8],
    ) -> Result<wasmtime::component::Component, LoadError> {
        let compiled = wasmtime::component::Component::new(engine, bytes);
        let code = compiled.map_err(|error| LoadError::Compile(format!("{error:#}")))?;
        self.compiled.fetch_add(1, Relaxed);
        match code.serialize() {
            Ok(bytes) => self.cache.write(engine, digest, &bytes),
            Err(error) => tracing::warn!(%digest, error = %format_args!("{error:#}"), "compiled code is not cached"),
        }
        // What is mapped from its file the system can drop and read again, and an idle workload is mostly code.
        Ok(self.cache.read(engine, digest).unwrap_or(code))
    }

    fn keep(
        &self,
        digest: Digest,
        inspection: Inspection,
        code: wasmtime::component::Component,
        lane: Arc<Lane>,
        optimize: Optimize,
    ) -> Component {
        let loaded = Arc::new(Loaded { digest, inspection, code, lane, alone: OnceLock::new() });
        let mut map = lock(&self.loaded);
        map.retain(|_, kept| kept.strong_count() > 0);
        map.insert((digest, optimize), Arc::downgrade(&loaded));
        Component(loaded)
    }
}

/// Whether a component with this structure can be the whole of a workload, in one of the roles of a whole.
pub fn admissible(inspection: &Inspection, role: Role) -> Result<(), LoadError> {
    let exports = || inspection.exports.clone();
    if matches!(role, Role::Whole | Role::WholeAndHandler) && !inspection.answers_http() {
        return Err(LoadError::NoHttpHandler { exports: exports() });
    }
    if matches!(role, Role::Handler | Role::WholeAndHandler) && !inspection.handles_messages() {
        return Err(LoadError::NoMessageHandler { exports: exports() });
    }
    runnable(inspection)
}

/// The same where its role is not known.
pub(crate) fn runnable(inspection: &Inspection) -> Result<(), LoadError> {
    if !inspection.answers_http() && !inspection.handles_messages() {
        return Err(LoadError::NoHttpHandler { exports: inspection.exports.clone() });
    }
    match inspection.missing.first() {
        Some(name) => Err(LoadError::MissingImport { near: linker::near_misses(name), name: name.clone() }),
        None => Ok(()),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LoadError> + Send + 'static,
) -> Result<T, LoadError> {
    match task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(LoadError::Interrupted(error.to_string())),
    }
}

impl Component {
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    pub fn inspection(&self) -> &Inspection {
        &self.0.inspection
    }

    pub(crate) fn code(&self) -> &wasmtime::component::Component {
        &self.0.code
    }

    /// Linked to what the node offers alone, made at the first call.
    pub(crate) fn alone(&self, linker: &Linker<Host>) -> Result<Pre, LoadError> {
        if let Some(pre) = self.0.alone.get() {
            return Ok(pre.clone());
        }
        let pre = self.link(linker)?;
        Ok(self.0.alone.get_or_init(|| pre).clone())
    }

    /// Linked as a main component.
    pub(crate) fn link(&self, linker: &Linker<Host>) -> Result<Pre, LoadError> {
        let link = |error: wasmtime::Error| LoadError::Link(format!("{error:#}"));
        let pre = linker.instantiate_pre(self.code()).map_err(link)?;
        Ok(match self.0.inspection.kind {
            Kind::Http03 => Pre::Http03(p3::bindings::ServicePre::new(pre).map_err(link)?),
            Kind::Messages => Pre::Messages(pre),
            _ => Pre::Http02(p2::bindings::ProxyPre::new(pre).map_err(link)?),
        })
    }

    pub(crate) fn is_http03(&self) -> bool {
        self.0.inspection.kind == Kind::Http03
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.0.code.engine()
    }
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Component({})", self.0.digest)
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Runtime")
    }
}
