//! The host of one node: turns the slots that the control plane assigned into running units, and passes requests to them.
//! What to do next is decided in `lattice-supervisor`, how to run a component in `lattice-runtime`; here the two are
//! joined to the lattice's object store and to its logs.
//!
//! Start at [`HostNode`]; `driver.rs` carries out what the supervisor says.

mod answers;
mod driver;
mod gpus;
mod handed;
mod health;
mod inspect;
mod instances;
mod kept;
mod kit;
mod load;
mod logs;
mod messages;
mod metrics;
mod micro;
mod report;
mod revealed;

use driver::Driver;
use handed::Handed;
use health::Crashes;
pub use inspect::inspect;
use instances::{Picked, ReadyUnits};
use kept::{Copies, KeptArtifacts};
use lattice::{
    Fut,
    gpu::Offer,
    host::{Assignment, GuestLines, Host, Observed},
    http::{CallError, Instances, Request, Response},
    id::{Digest, LatticeId, NodeId, SlotId, WorkloadName},
    mesh::Mesh,
    record::{Among, Compiled},
    report::HostReport,
    store::Platform,
    trace::Tracer,
};
pub use lattice_runtime::{GpuSelector, Gpus, GpusError, NetworkOptions, VolumeOptions};
use lattice_runtime::{Runtime, RuntimeError, RuntimeOptions};
use load::LoadMeter;
use logs::Logs;
use messages::Receivers;
use prometheus_client::registry::Registry;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// What the host of a node needs to know.
#[derive(Debug, Clone)]
pub struct HostOptions {
    pub lattice: LatticeId,
    pub node: NodeId,
    /// Where compiled code is kept. It is native code: nobody but this node's user may write there.
    pub cache_dir: PathBuf,
    /// Where copies of components are kept, so that an object store that lost them gets them back.
    /// Default: `components` beside `cache_dir`.
    pub components_dir: PathBuf,
    /// Bytes of these copies together. Default 4 GiB.
    pub components_bytes_max: u64,
    /// Most instances of all units together. Default 1000.
    pub max_instances: u32,
    /// Linear memory of all instances together, in bytes; what the node declares as its capacity. Beyond it memory does
    /// not grow, and no instance is made. Default no limit.
    pub memory_bytes_total: u64,
    /// How long a unit that was withdrawn may finish the requests that it has. Default 20 s.
    pub drain: Duration,
    /// The same for class `strict`. It must end before another node may start the replica: less than the time between
    /// fence and kill. Default 500 ms.
    pub strict_drain: Duration,
    /// What guests may reach outside, as far as it is this node's to decide.
    pub network: NetworkOptions,
    /// Directories that guests may be given. Default none.
    pub volumes: VolumeOptions,
    /// GPUs that guests may use. Default none.
    pub gpus: Arc<Gpus>,
    /// How often each of them is tested while the node runs. Default 60 s.
    pub gpu_check: Duration,
    /// Who records what becomes of requests. Default nobody.
    pub tracer: Tracer,
    /// Who is given what guests print, beside the lattice. Default nobody.
    pub guest_lines: Option<Arc<dyn GuestLines>>,
}

impl HostOptions {
    pub fn new(lattice: LatticeId, node: NodeId, cache_dir: PathBuf) -> Self {
        Self {
            lattice,
            node,
            components_dir: cache_dir.with_file_name("components"),
            components_bytes_max: 4 << 30,
            cache_dir,
            max_instances: 1000,
            memory_bytes_total: u64::MAX,
            drain: Duration::from_secs(20),
            strict_drain: Duration::from_millis(500),
            network: NetworkOptions::default(),
            volumes: VolumeOptions::default(),
            gpus: Gpus::none(),
            gpu_check: Duration::from_secs(60),
            tracer: Tracer::default(),
            guest_lines: None,
        }
    }
}

/// Why a node has no host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// The host of one node. Its handle: what runs is driven by [`HostNode::run`].
pub struct HostNode {
    options: HostOptions,
    platform: Platform,
    runtime: Runtime,
    logs: Arc<Logs>,
    units: Arc<ReadyUnits>,
    wanted: watch::Sender<BTreeMap<SlotId, Assignment>>,
    observed: Arc<Mutex<BTreeMap<SlotId, Observed>>>,
    crashes: Crashes,
    changed: Arc<Notify>,
    needed: watch::Sender<BTreeSet<Digest>>,
    meter: LoadMeter,
}

impl HostNode {
    /// Open the cache of compiled code and start the engines. Nothing runs yet.
    pub fn new(options: HostOptions, platform: Platform, metrics: &mut Registry) -> Result<Arc<Self>, HostError> {
        let mut runtime = RuntimeOptions::new(&options.cache_dir);
        runtime.max_instances = options.max_instances;
        runtime.memory_bytes_total = options.memory_bytes_total;
        runtime.volumes = options.volumes.clone();
        runtime.network = options.network.clone();
        runtime.gpus = options.gpus.clone();
        runtime.tracer = options.tracer.clone();
        let runtime = Runtime::new(runtime)?;
        let units = Arc::<ReadyUnits>::default();
        metrics::register(metrics, units.clone(), runtime.clone());
        Ok(Arc::new(Self {
            logs: Logs::new(&options, &platform),
            options,
            platform,
            runtime,
            units,
            wanted: watch::Sender::default(),
            observed: Arc::default(),
            crashes: Crashes::default(),
            changed: Arc::default(),
            needed: watch::Sender::default(),
            meter: LoadMeter::default(),
        }))
    }

    /// Where requests of components to other workloads go. Until it is said there are no others.
    pub fn join(&self, mesh: Arc<dyn Mesh>) {
        self.runtime.join(mesh);
    }

    /// Run what is assigned until `stop`, then stop everything that is left.
    pub async fn run(&self, stop: CancellationToken) {
        let HostOptions { components_dir, components_bytes_max, .. } = &self.options;
        let copies = Copies::new(components_dir.clone(), *components_bytes_max);
        let artifacts = KeptArtifacts { copies: copies.clone(), store: self.platform.artifacts.clone() };
        let platform = Platform { artifacts: Arc::new(artifacts), ..self.platform.clone() };
        let handed = Handed::default();
        let receivers = Receivers {
            lattice: self.options.lattice.clone(),
            messaging: self.options.network.messaging.clone(),
            clock: self.platform.clock.clone(),
            handed: handed.clone(),
        };
        let driver = Driver::new(
            (self.options.drain, self.options.strict_drain),
            platform,
            self.runtime.clone(),
            self.logs.clone(),
            (self.units.clone(), receivers),
            (self.observed.clone(), self.crashes.clone()),
            self.changed.clone(),
        );
        tokio::select! { // each ends only with `stop`
            biased;
            () = driver.run(self.wanted.subscribe(), stop.clone()) => {}
            () = self.logs.serve() => {}
            () = handed.serve(&self.platform.bus, &self.platform.clock, &self.options.lattice, &self.options.node) => {}
            () = self.meter.run(&self.units, self.wanted.subscribe()) => {}
            () = self.options.gpus.watch(self.options.gpu_check) => {}
            () = kept::put_back(copies, self.platform.clone(), self.needed.clone()) => {}
        }
    }
}

impl Host for HostNode {
    fn apply(&self, wanted: BTreeMap<SlotId, Assignment>) {
        self.wanted.send_if_modified(|before| {
            let is_new = *before != wanted;
            if is_new {
                *before = wanted;
            }
            is_new
        });
    }

    fn observed(&self) -> BTreeMap<SlotId, Observed> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn restore(&self, artifacts: BTreeSet<Digest>) {
        kept::need(&self.needed, artifacts);
    }

    fn gpus(&self) -> Vec<Offer> {
        gpus::offers(&self.options.gpus)
    }

    fn compiled(&self) -> Compiled {
        self.runtime.compiled()
    }

    fn report(&self) -> HostReport {
        report::report(&self.units, &self.runtime, &self.observed(), &self.crashes, &self.meter)
    }

    fn changed(&self) -> Fut<'_, ()> {
        Box::pin(self.changed.notified())
    }
}

impl Instances for HostNode {
    fn is_ready(&self, workload: &WorkloadName) -> bool {
        self.units.pick(workload, None).is_some()
    }

    fn has_room(&self, workload: &WorkloadName) -> bool {
        self.units.pick(workload, None).is_some_and(|(unit, _)| unit.has_room())
    }

    fn call(&self, workload: &WorkloadName, request: Request) -> Fut<'static, Result<Response, CallError>> {
        self.call_one(self.units.pick(workload, None), request)
    }

    fn is_ready_among(&self, workload: &WorkloadName, among: Among) -> bool {
        self.units.pick(workload, Some(among)).is_some()
    }

    fn has_room_among(&self, workload: &WorkloadName, among: Among) -> bool {
        self.units.pick(workload, Some(among)).is_some_and(|(unit, _)| unit.has_room())
    }

    fn call_among(
        &self,
        workload: &WorkloadName,
        among: Among,
        request: Request,
    ) -> Fut<'static, Result<Response, CallError>> {
        self.call_one(self.units.pick(workload, Some(among)), request)
    }
}

impl HostNode {
    fn call_one(&self, picked: Option<Picked>, request: Request) -> Fut<'static, Result<Response, CallError>> {
        match picked {
            Some((unit, None)) => Box::pin(unit.call(request)),
            Some((unit, Some(answers))) => {
                let clock = self.platform.clock.clone();
                let began = clock.now();
                let call = unit.call(request);
                Box::pin(async move {
                    let answer = call.await;
                    answers.note(clock.now().saturating_sub(began), &answer);
                    answer
                })
            }
            None => Box::pin(std::future::ready(Err(CallError::NotHere))),
        }
    }
}
