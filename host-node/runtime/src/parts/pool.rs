//! Instances of one part: how they are made, and which are kept between two calls.

use super::assemble::Assembly;
use crate::{
    bridge::streams::EndsWith,
    failure::{Failure, NoRoom},
    host::{self, Host},
    inherited::Inherited,
    ledger::{NodeShare, One},
    limits::{self, CpuMeter, Limits},
    load::Runtime,
    lock,
    logs::LogGate,
    network::Network,
    parts::{PartRole, Parts, StopNotice},
    pool::Alive,
    tally::Tally,
    unit::{Blueprint, UnitConfig},
    volumes::Volumes,
};
use lattice::trace::Tracer;
use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use wasmtime::{Store, component::Func};

/// Handles that an instance may hold between two calls.
const HANDLES_KEPT_MAX: usize = 500;
/// What an isolated part has beyond its first instance is dropped when unused for this long.
const ISOLATED_IDLE: Duration = Duration::from_secs(30);

/// A part in a store of its own.
pub(crate) struct PartInstance {
    /// Above the store: what ends with it is to be told from what its guest ends.
    _ends: EndsWith,
    pub(crate) store: Store<Host>,
    functions: Arc<[Func]>,
    /// The function of `wasi:cli/run`, of a service that has one.
    pub(crate) run: Option<Func>,
    idle_since: Instant,
    _alive: Alive,
    /// Below the store, which must be gone before another instance takes the place.
    _place: One,
}

impl PartInstance {
    /// What others call in it, in the order of [`Target::function`](super::Target::function).
    pub(crate) fn functions(&self) -> &Arc<[Func]> {
        &self.functions
    }

    /// Its processor time is counted by `meter` from here on, and what it sends belongs to the request that its caller
    /// answers.
    pub(crate) fn begin_call(&mut self, meter: Arc<CpuMeter>, inherited: Inherited) {
        let host = self.store.data_mut();
        (host.meter, host.lends_meter) = (meter, true);
        host.called_for(inherited);
        limits::begin_part_call(&mut self.store);
    }

    /// False if the next call could find no memory, or finds very many handles of earlier ones.
    fn may_be_kept(&mut self) -> bool {
        let host = self.store.data_mut();
        host.table.iter_mut().take(HANDLES_KEPT_MAX + 1).count() <= HANDLES_KEPT_MAX
            && !host.memory.is_nearly_used()
            && host.memory.refused().is_none()
    }
}

/// Makes the instances of one part.
pub(crate) struct Maker {
    pub(crate) blueprint: Blueprint,
    assembly: Assembly,
    at: usize,
    runtime: Runtime,
    live: Arc<AtomicU32>,
    created: AtomicU64,
}

impl Maker {
    pub(crate) fn new(
        assembly: &Assembly,
        at: usize,
        (unit, node, network, volumes): (&UnitConfig, &Arc<NodeShare>, &Arc<Network>, &Volumes),
        runtime: &Runtime,
        parts: Weak<Parts>,
    ) -> Option<Self> {
        let part = &assembly.parts().get(at)?.part;
        let mut config = UnitConfig {
            env: part.env.clone(),
            config: part.config.clone(),
            secrets: part.secrets.clone(),
            ..unit.clone()
        };
        let network = match &part.grants {
            None => network.clone(),
            Some(grants) => {
                (config.grants, config.account) = (grants.clone(), part.account.clone());
                network.with_grants(grants.clone(), part.account.clone())
            }
        };
        let mut limits = Limits {
            memory_bytes: part.memory_bytes.unwrap_or(unit.limits.memory_bytes).min(runtime.max_memory_bytes()),
            ..unit.limits.clone()
        };
        let runs = assembly.parts().get(at)?.run.is_some();
        // What runs between calls belongs to no request that could pay for it. It yields like everything else.
        if matches!(part.role, PartRole::Service { .. }) && assembly.parts().get(at)?.is_its_own_program() {
            limits.cpu = Duration::MAX;
        }
        // Its own: what a part takes is not what an instance of the unit takes.
        let tally = Arc::<Tally>::default();
        let blueprint = Blueprint {
            node: node.clone(),
            component: part.component.clone(),
            limits: Arc::new(limits),
            logs: LogGate::new(config.logs.clone(), tally.clone()),
            network,
            volumes: volumes.only(&part.volumes),
            config,
            parts,
            tally,
            ordinals: AtomicU64::new(0),
            stdin: runs.then(StopNotice::default),
        };
        let (live, created) = (Arc::default(), AtomicU64::new(0));
        Some(Self { blueprint, assembly: assembly.clone(), at, runtime: runtime.clone(), live, created })
    }

    pub(crate) fn tracer(&self) -> &Tracer {
        self.runtime.tracer()
    }

    /// Where the node has no room, idle instances of any unit or part go.
    pub(crate) async fn make(&self, meter: Arc<CpuMeter>, inherited: &Inherited) -> Result<PartInstance, Failure> {
        loop {
            match self.try_make(meter.clone(), inherited.clone()).await {
                Err(Failure::NoRoom(lacks)) if self.runtime.evict(&lacks, &self.blueprint) => {}
                result => return result,
            }
        }
    }

    async fn try_make(&self, meter: Arc<CpuMeter>, inherited: Inherited) -> Result<PartInstance, Failure> {
        let Some(part) = self.assembly.parts().get(self.at) else { return Err(Failure::Stopped) };
        let place = self.runtime.place(&self.blueprint).map_err(Failure::NoRoom)?;
        let store = host::store(&self.blueprint, meter);
        let mut store = store.map_err(|error| Failure::Trap(format!("{error:#}")))?;
        store.data_mut().called_for(inherited); // a start may send requests, too
        let instance = match part.pre.instantiate_async(&mut store).await {
            Ok(instance) => instance,
            Err(error) => {
                return Err(match Failure::of(&error, store.data()) {
                    Failure::NodeMemory => Failure::NoRoom(NoRoom::Memory), // no call had begun
                    failure => failure,
                });
            }
        };
        store.data_mut().memory.started();
        let functions = part.functions.iter().filter_map(|index| instance.get_func(&mut store, index)).collect();
        let run = part.run.as_ref().and_then(|index| instance.get_func(&mut store, index));
        self.created.fetch_add(1, Relaxed);
        let alive = Alive::count(&self.live);
        let ends = EndsWith::of(&store);
        Ok(PartInstance {
            _ends: ends,
            store,
            functions,
            run,
            idle_since: Instant::now(),
            _alive: alive,
            _place: place,
        })
    }

    /// The same, for nobody's call: within the limits of a request.
    pub(crate) async fn warm(&self) -> Result<PartInstance, Failure> {
        let meter = Arc::<CpuMeter>::default();
        let nobody = Inherited::default();
        let start = meter.clone().measure(&self.blueprint.node.processors, self.make(meter, &nobody));
        let wall = self.blueprint.limits.wall;
        tokio::time::timeout(wall, start).await.unwrap_or(Err(Failure::Wall { limit: wall }))
    }

    pub(crate) fn live(&self) -> u32 {
        self.live.load(Relaxed)
    }

    pub(crate) fn created_so_far(&self) -> u64 {
        self.created.load(Relaxed)
    }
}

/// Instances that wait for a call. The last one used comes first; those at the bottom get old.
pub(crate) struct Idle {
    instances: Mutex<Vec<PartInstance>>,
    /// How many are kept however long they are unused.
    keep: usize,
    idle: Duration,
}

impl Idle {
    pub(crate) fn new(role: &PartRole) -> Self {
        let (keep, idle) = match role {
            PartRole::Lazy { idle } => (0, *idle),
            PartRole::Isolated | PartRole::Service { .. } => (1, ISOLATED_IDLE),
        };
        Self { instances: Mutex::default(), keep, idle }
    }

    /// How often to look for what is old.
    pub(crate) fn period(&self) -> Duration {
        (self.idle / 4).clamp(Duration::from_millis(20), Duration::from_secs(1))
    }

    pub(crate) fn take(&self) -> Option<PartInstance> {
        lock(&self.instances).pop()
    }

    /// Takes an instance (back) that may be called.
    pub(crate) fn give(&self, mut instance: PartInstance) {
        let is_used_once = self.keep == 0 && self.idle.is_zero();
        if !is_used_once && instance.may_be_kept() {
            instance.idle_since = Instant::now();
            lock(&self.instances).push(instance);
        }
    }

    pub(crate) fn expire(&self, now: Instant) {
        let old: Vec<_> = {
            let mut instances = lock(&self.instances);
            let spare = instances.len().saturating_sub(self.keep);
            let is_old = |kept: &PartInstance| now.saturating_duration_since(kept.idle_since) >= self.idle;
            // The oldest lie at the bottom, so those that are old are the first ones.
            let old = instances.iter().take(spare).take_while(|kept| is_old(kept)).count();
            instances.drain(..old).collect()
        };
        drop(old); // without the lock
    }

    /// As [`HasIdle`](crate::evict::HasIdle) has it.
    pub(crate) fn oldest(&self) -> Option<(bool, Instant)> {
        let instances = lock(&self.instances);
        instances.first().map(|oldest| (instances.len() <= self.keep, oldest.idle_since))
    }

    pub(crate) fn evict(&self) -> bool {
        let oldest = {
            let mut instances = lock(&self.instances);
            (!instances.is_empty()).then(|| instances.remove(0))
        };
        oldest.is_some() // dropped without the lock
    }

    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *lock(&self.instances));
        drop(all);
    }
}
