//! The engines and the thread that ticks them. What is switched on or off here is part of the compatibility hash,
//! so a change makes all cached code be compiled again.

use crate::{computing::Processors, gpu::Gpus, network::NetworkOptions, volumes::VolumeOptions};
use lattice::spec::Optimize;
use lattice::trace::Tracer;
use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};
use wasmtime::{
    Config, Enabled, Engine, Inlining, InstanceAllocationStrategy, PoolingAllocationConfig, wasmparser::WasmFeatures,
};

/// Time between two epochs: how long a guest may compute at most before it has to take turns with others.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// What a [`Runtime`](crate::Runtime) needs to know. All sizes are in bytes.
#[derive(Debug, Clone)]
pub struct RuntimeOptions {
    /// Directory of compiled code. It is made with mode 0700 where it is missing; nobody else may own it, since what is
    /// in it is run as native code. The key that seals its files is `<cache_dir>.key`, beside it.
    pub cache_dir: PathBuf,
    /// Compiled code kept on disk. The files unused for longest are removed first. Default 4 GiB.
    pub cache_bytes_max: u64,
    /// Instances that may live at the same time, in all units together. Default 1000.
    pub max_instances: u32,
    /// Linear memory of all instances together. Beyond it memory does not grow, and no instance is made. Default no limit.
    pub memory_bytes_total: u64,
    /// Largest linear memory that any unit can be given; a unit's own limit is in [`Limits`](crate::Limits).
    /// Default 1 GiB.
    pub max_memory_bytes: u64,
    /// Largest component that is compiled. Default 128 MiB.
    pub component_bytes_max: u64,
    /// What guests may reach outside, as far as it is this node's to decide.
    pub network: NetworkOptions,
    /// Directories that guests may be given. Default none.
    pub volumes: VolumeOptions,
    /// GPUs that guests may use. Default none.
    pub gpus: Arc<Gpus>,
    /// Who records what becomes of requests. Default nobody.
    pub tracer: Tracer,
}

impl RuntimeOptions {
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            cache_dir: cache_dir.into(),
            cache_bytes_max: 4 << 30,
            max_instances: 1000,
            memory_bytes_total: u64::MAX,
            max_memory_bytes: lattice::limits::INSTANCE_MEMORY_BYTES_MAX,
            component_bytes_max: 128 << 20,
            network: NetworkOptions::default(),
            volumes: VolumeOptions::default(),
            gpus: Gpus::none(),
            tracer: Tracer::default(),
        }
    }
}

/// Why there is no runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("the WebAssembly engine does not start: {0}")]
    Engine(String),
    #[error("the cache of compiled code {path}: {source}")]
    Cache {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the directory of volumes: {0}")]
    Volumes(std::io::Error),
    #[error("the certificate authorities for outgoing requests: {0}")]
    Authorities(String),
}

/// Makes engines, and ticks those that it made, and the processors that their guests share.
pub(crate) struct Engines {
    ticker: Ticker,
}

impl Engines {
    pub(crate) fn new(processors: Arc<Processors>) -> Result<Self, RuntimeError> {
        Ok(Self { ticker: Ticker::start(processors)? })
    }

    /// One with support for concurrency, or without, since that costs each call of a 0.2 component about 3 µs of 15.
    pub(crate) fn make(
        &self,
        concurrency: bool,
        optimize: Optimize,
        options: &RuntimeOptions,
    ) -> Result<Engine, RuntimeError> {
        let engine = engine(concurrency, optimize, options)?;
        crate::lock(&self.ticker.engines).push(engine.clone());
        Ok(engine)
    }
}

/// Proposals that the engine has on by default, and that components of no language's toolchain use: each is more of the
/// compiler for hostile code to try. Where one is needed some day, it goes from here. Threads, exceptions and what needs a
/// garbage collector are not even built in (features of the crate `wasmtime`); what is off by default stays off. Several
/// memories stay on: the code that wasmtime makes for calls between composed components has one memory of each.
const NOT_OFFERED: [WasmFeatures; 5] = [
    WasmFeatures::FUNCTION_REFERENCES,
    WasmFeatures::GC,
    WasmFeatures::MEMORY64,
    WasmFeatures::RELAXED_SIMD,
    WasmFeatures::TAIL_CALL,
];

/// What guests may be made of. Inspection asks the same configuration, so that it agrees with the compiler.
pub(crate) fn config(concurrency: bool) -> Config {
    let mut config = Config::new();
    config
        .concurrency_support(concurrency)
        .wasm_component_model_async(concurrency)
        .epoch_interruption(true)
        .memory_init_cow(true);
    for proposal in NOT_OFFERED {
        config.wasm_features(proposal, false);
    }
    config
}

/// What is compiled with inlining differs from what is compiled without in its compatibility hash, so neither is taken
/// for the other.
fn optimized(concurrency: bool, optimize: Optimize) -> Config {
    let mut config = config(concurrency);
    if optimize == Optimize::Max {
        // Between the modules of a component, so over the borders of what it is composed of, and within each.
        config.compiler_inlining(Inlining::Yes);
    }
    config
}

fn engine(concurrency: bool, optimize: Optimize, options: &RuntimeOptions) -> Result<Engine, RuntimeError> {
    let mut pooled = optimized(concurrency, optimize);
    pooled.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(options)));
    match Engine::new(&pooled) {
        Ok(engine) => {
            tracing::debug!(concurrency, ?optimize, places = options.max_instances, "instances come from a pool");
            Ok(engine)
        }
        // Address space is what a pool takes, and containers may limit it (RLIMIT_AS). Slower, not wrong.
        Err(error) => {
            tracing::warn!(concurrency, error = %format_args!("{error:#}"), "no pool: instances are allocated on demand");
            Engine::new(&optimized(concurrency, optimize)).map_err(|error| RuntimeError::Engine(format!("{error:#}")))
        }
    }
}

fn pool(options: &RuntimeOptions) -> PoolingAllocationConfig {
    /// Totals are a budget of the node: a component of one part takes one memory, one of 32 parts takes 32, and when
    /// something runs out, idle instances go. A component is several core modules.
    const CORE_INSTANCES_EACH: u32 = 32;
    const TABLES_EACH: u32 = 8;
    const STACKS_EACH: u32 = 2;
    /// Memories are dear in address space alone: each reserves 4 GiB, so that its accesses need no bounds checks, and a
    /// guard. Two engines take half of the 128 TiB of a process at most.
    const MEMORIES_EACH: u32 = 4;
    const MEMORY_ADDRESSES: u64 = (4 << 30) + (64 << 20);
    const ADDRESSES_MAX: u64 = 32 << 40;
    const MEMORIES_MAX: u32 = (ADDRESSES_MAX / MEMORY_ADDRESSES) as u32;
    /// Interpreters of languages bring tables of ten thousands of functions.
    const TABLE_ELEMENTS: usize = 100_000;
    /// Kept mapped between two uses of a place, and zeroed there. Only worth it where the kernel tells which pages are
    /// dirty (Linux 6.7): 28 µs for a fresh 0.2 instance instead of 59; without that it costs more than it saves.
    const RESIDENT_MEMORY_BYTES: usize = 1 << 20;
    const RESIDENT_STACK_BYTES: usize = 64 << 10;

    let instances = options.max_instances.max(1);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES_EACH))
        .total_memories(instances.saturating_mul(MEMORIES_EACH).min(MEMORIES_MAX.max(instances)))
        .total_tables(instances.saturating_mul(TABLES_EACH))
        .total_stacks(instances.saturating_mul(STACKS_EACH))
        .table_elements(TABLE_ELEMENTS)
        .max_memory_size(usize::try_from(options.max_memory_bytes).unwrap_or(usize::MAX))
        .pagemap_scan(Enabled::Auto);
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        pool.linear_memory_keep_resident(RESIDENT_MEMORY_BYTES)
            .table_keep_resident(RESIDENT_STACK_BYTES)
            .async_stack_keep_resident(RESIDENT_STACK_BYTES);
    }
    pool
}

/// Ends with its owner: the thread waits on a channel whose only sender lives here.
struct Ticker {
    engines: Arc<Mutex<Vec<Engine>>>,
    _stop: mpsc::Sender<()>,
}

impl Ticker {
    fn start(processors: Arc<Processors>) -> Result<Self, RuntimeError> {
        let (stop, stopped) = mpsc::channel();
        let engines: Arc<Mutex<Vec<Engine>>> = Arc::default();
        let ticked = engines.clone();
        let tick = move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(TICK) {
                // First: whom an epoch meets asks whether there was a tick.
                processors.tick();
                crate::lock(&ticked).iter().for_each(Engine::increment_epoch);
            }
        };
        let spawned = thread::Builder::new().name("lattice-epoch".into()).spawn(tick);
        spawned.map_err(|error| RuntimeError::Engine(format!("no thread for the epoch: {error}")))?;
        Ok(Self { engines, _stop: stop })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_ticking(engine: &Engine) -> bool {
        let mut store = wasmtime::Store::new(engine, ());
        // (module (func (export "f") (loop (br 0)))): ends at an epoch, or never.
        let forever = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x07\x05\x01\x01f\0\0\x0a\x09\x01\x07\0\x03\x40\x0c\0\x0b\x0b";
        let module = wasmtime::Module::new(engine, forever).unwrap();
        store.set_epoch_deadline(1);
        let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
        instance.get_typed_func::<(), ()>(&mut store, "f").unwrap().call(&mut store, ()).is_err()
    }

    #[test]
    fn the_epoch_goes_on_for_as_long_as_its_owner_lives() {
        let engine = Engine::new(&config(false)).unwrap();
        let ticker = Ticker::start(Processors::new()).unwrap();
        crate::lock(&ticker.engines).push(engine.clone());
        assert!(is_ticking(&engine));
        // The thread has the other half of it.
        let held = Arc::downgrade(&ticker.engines);
        drop(ticker);
        while held.upgrade().is_some() {
            thread::yield_now(); // the thread sees at once that its owner is gone
        }
    }
}
