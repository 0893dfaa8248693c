//! Carries out what the supervisor says, one task a piece of work. All state is in one task; work answers with events.

use crate::{
    answers::Answers,
    gpus,
    health::{self, Crashes, Kind, News},
    instances::ReadyUnits,
    kit::{self, Fetched},
    logs::Logs,
    messages::{Receivers, Receiving},
    revealed::{Given, Revealed},
};
use lattice::{
    host::{Assignment, Configs, Observed},
    id::{Digest, Generation, SlotId},
    recipe::Recipe,
    spec::{Class, ConfigUpdate, VolumeSpec, WorkloadSpec},
    store::Platform,
};
use lattice_runtime::{Assembly, Limits, LogSink, Reuse, Runtime, Unit, UnitConfig, Volume, VolumeContent};
use lattice_supervisor::{Effect, Event, Slot, Target, UnitId};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// Events that wait for the driver. Each unit has at most one piece of work under way, so this is seldom reached; work
/// waits then.
const QUEUE: usize = 1024;
/// Units whose bytes are in memory at a time: one compiles, the next is on its way.
const FETCHES: usize = 2;

pub(crate) struct Driver {
    drain: Duration,
    strict_drain: Duration,
    platform: Platform,
    runtime: Runtime,
    logs: Arc<Logs>,
    ready: Arc<ReadyUnits>,
    observed: Arc<Mutex<BTreeMap<SlotId, Observed>>>,
    crashes: Crashes,
    changed: Arc<Notify>,
    slots: BTreeMap<SlotId, SlotState>,
    reports: mpsc::Sender<Report>,
    reported: mpsc::Receiver<Report>,
    fetches: Arc<Semaphore>,
    receivers: Receivers,
}

#[derive(Default)]
struct SlotState {
    machine: Slot,
    units: BTreeMap<UnitId, UnitState>,
    wanted: Option<Assignment>,
}

struct UnitState {
    /// The life of the workload and the generation.
    of: (uuid::Uuid, Generation),
    /// With the configuration that it names written out.
    spec: Arc<WorkloadSpec>,
    configs: Configs,
    recipe: Arc<Recipe>,
    fetched: Option<Fetched>,
    revealed: Arc<Revealed>,
    assembly: Option<Assembly>,
    unit: Option<Arc<Unit>>,
    answers: Option<Arc<Answers>>,
    work: Option<Work>,
    probes: Vec<Work>,
    /// While it is ready.
    receiving: Option<Receiving>,
    /// Lines that the slot's guests had printed when this one's first instance was to be made.
    lines_before: Option<u64>,
    /// When it was ready for the first time.
    ready_since: Option<Duration>,
}

impl UnitState {
    fn new(
        of: (uuid::Uuid, Generation),
        (spec, configs): (Arc<WorkloadSpec>, Configs),
        recipe: Arc<Recipe>,
        work: Work,
    ) -> Self {
        Self {
            of,
            answers: Answers::of(&spec),
            spec,
            configs,
            recipe,
            fetched: None,
            revealed: Arc::default(),
            assembly: None,
            unit: None,
            work: Some(work),
            probes: Vec::new(),
            receiving: None,
            lines_before: None,
            ready_since: None,
        }
    }
}

impl SlotState {
    fn observed(&self) -> Option<Observed> {
        let shown = self.machine.shown().and_then(|id| self.units.get(&id));
        let configs = shown.map(|unit| unit.configs.clone()).unwrap_or_default();
        Some(Observed { configs, ..self.machine.observed()? })
    }
}

/// Work under way; dropping it stops it.
struct Work(JoinHandle<()>);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a piece of work brought.
enum Done {
    Fetched(Fetched),
    Compiled(Assembly),
    Warmed(Arc<Unit>),
    Probed(News),
    Failed(String),
    RetryDue,
    Drained,
}

struct Report {
    slot: SlotId,
    unit: UnitId,
    done: Done,
}

impl Driver {
    pub(crate) fn new(
        (drain, strict_drain): (Duration, Duration),
        platform: Platform,
        runtime: Runtime,
        logs: Arc<Logs>,
        (ready, receivers): (Arc<ReadyUnits>, Receivers),
        (observed, crashes): (Arc<Mutex<BTreeMap<SlotId, Observed>>>, Crashes),
        changed: Arc<Notify>,
    ) -> Self {
        let (reports, reported) = mpsc::channel(QUEUE);
        let slots = BTreeMap::new();
        Self {
            drain,
            strict_drain,
            platform,
            runtime,
            logs,
            ready,
            observed,
            crashes,
            changed,
            slots,
            reports,
            reported,
            fetches: Arc::new(Semaphore::new(FETCHES)),
            receivers,
        }
    }

    pub(crate) async fn run(
        mut self,
        mut wanted: watch::Receiver<BTreeMap<SlotId, Assignment>>,
        stop: CancellationToken,
    ) {
        wanted.mark_changed();
        loop {
            tokio::select! { // cancel-safe: each arm only receives
                biased;
                () = stop.cancelled() => return,
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let wanted = wanted.borrow_and_update().clone();
                    self.want(wanted);
                }
                report = self.reported.recv() => {
                    let Some(report) = report else { return };
                    self.take(report);
                }
            }
            self.publish();
        }
    }

    fn want(&mut self, mut wanted: BTreeMap<SlotId, Assignment>) {
        for (slot, state) in &mut self.slots {
            state.wanted = wanted.remove(slot);
        }
        for (slot, assignment) in wanted {
            self.slots.insert(slot, SlotState { wanted: Some(assignment), ..SlotState::default() });
        }
        let slots: Vec<SlotId> = self.slots.keys().cloned().collect();
        for slot in slots {
            let Some(state) = self.slots.get(&slot) else { continue };
            let serves = state.machine.serving().and_then(|unit| state.units.get(&unit)).map(|unit| unit.spec.class);
            let event = state.wanted.as_ref().map_or(Event::Unwanted, |assignment| {
                Event::Wanted(Target {
                    uid: assignment.uid,
                    generation: assignment.generation,
                    exclusive: assignment.stop_first || assignment.spec.class == Class::Strict,
                    // Whether it may run without a session follows from the class of what is wanted.
                    waits: assignment.waits && serves == Some(assignment.spec.class),
                    gated: assignment.spec.probes.ready.is_some(),
                    configs: reaches_running(assignment),
                })
            });
            self.on(&slot, event);
        }
    }

    fn take(&mut self, Report { slot, unit, done }: Report) {
        let Some(state) = self.slots.get_mut(&slot).and_then(|state| state.units.get_mut(&unit)) else { return };
        let event = match done {
            Done::Fetched(fetched) => {
                state.revealed = fetched.revealed.clone();
                state.fetched = Some(fetched);
                Event::Fetched(unit)
            }
            Done::Compiled(assembly) => {
                state.assembly = Some(assembly);
                Event::Compiled(unit)
            }
            Done::Warmed(running) => {
                (state.unit, state.work) = (Some(running), None);
                Event::Warmed(unit)
            }
            Done::Probed(News::Ready) => Event::Passed(unit),
            Done::Probed(News::NotReady(why)) => {
                tracing::info!(%slot, why, "a replica is not ready");
                Event::NotReady { unit, why }
            }
            Done::Failed(why) | Done::Probed(News::NotAlive(why)) => {
                let (lines, details) = match state.lines_before {
                    Some(before) => health::last_words(&self.logs, &slot, before),
                    None => Default::default(),
                };
                tracing::warn!(%slot, why, details, "a replica failed");
                self.crashes.note(&slot, state.of, &why, &lines, self.platform.clock.unix_ms());
                let now = self.platform.clock.now();
                let lasted = state.ready_since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
                Event::Failed { unit, why, details, lasted, random: self.platform.rng.u64() }
            }
            Done::RetryDue => Event::RetryDue(unit),
            Done::Drained => Event::Drained(unit),
        };
        self.on(&slot, event);
    }

    fn on(&mut self, slot: &SlotId, event: Event) {
        let Some(state) = self.slots.get_mut(slot) else { return };
        for effect in state.machine.on(event) {
            self.carry_out(slot, effect);
        }
    }

    fn carry_out(&mut self, slot: &SlotId, effect: Effect) {
        let Some(state) = self.slots.get_mut(slot) else { return };
        match effect {
            Effect::Fetch(id, target) => {
                let Some(assignment) = &state.wanted else { return };
                let (spec, recipe, configs) = state.units.get(&id).map_or_else(
                    || (assignment.spec.clone(), assignment.recipe.clone(), assignment.configs.clone()),
                    |unit| (unit.spec.clone(), unit.recipe.clone(), unit.configs.clone()),
                );
                let work = self.fetch(slot, id, (spec.clone(), configs.clone()), recipe.clone());
                let of = (target.uid, target.generation);
                self.unit(slot, id, |state| *state = Some(UnitState::new(of, (spec, configs), recipe, work)));
            }
            Effect::Compile(id) => {
                let Some(unit) = state.units.get_mut(&id) else { return };
                let Some(fetched) = unit.fetched.take() else { return };
                let (spec, recipe, runtime) = (unit.spec.clone(), unit.recipe.clone(), self.runtime.clone());
                let work = self.spawn(slot, id, async move {
                    match kit::assemble(fetched, &spec, &recipe, &runtime).await {
                        Ok(assembly) => Done::Compiled(assembly),
                        Err(why) => Done::Failed(why),
                    }
                });
                self.work(slot, id, work);
            }
            Effect::Warm(id) => {
                let Some(unit) = state.units.get(&id) else { return };
                let Some(assembly) = unit.assembly.clone() else { return };
                let given = unit.revealed.whole.clone();
                let mut config = unit_config(slot, unit.of.1, (&unit.spec, given), self.logs.sink(slot.clone()));
                let gpu = state.wanted.as_ref().and_then(|assignment| assignment.gpu.as_ref());
                config.limits.gpu = gpus::quota(gpu);
                let runtime = self.runtime.clone();
                let work = self.spawn(slot, id, async move {
                    match Unit::start(&runtime, assembly, config).await {
                        Ok(unit) => Done::Warmed(Arc::new(unit)),
                        Err(error) => Done::Failed(error.to_string()),
                    }
                });
                let lines = self.logs.count(slot);
                self.work(slot, id, work);
                self.change(slot, id, |state| state.lines_before = Some(lines));
            }
            Effect::Watch(id) => self.watch(slot, id),
            Effect::Serve(id) => {
                let Some(state) = state.units.get_mut(&id) else { return };
                let UnitState { of: (_, template), unit: Some(unit), answers, spec, revealed, receiving, .. } = state
                else {
                    return;
                };
                self.ready.set(slot, Some((*template, (unit.clone(), answers.clone()))));
                if receiving.is_none() {
                    *receiving = self.receivers.start(
                        slot,
                        (spec, revealed.whole.account.clone()),
                        unit,
                        self.logs.sink(slot.clone()),
                    );
                }
                let now = self.platform.clock.now();
                self.change(slot, id, |state| state.ready_since = state.ready_since.or(Some(now)));
                self.watch(slot, id);
            }
            Effect::Withdraw(id) => {
                self.ready.set(slot, None);
                // What has come is done by a unit that is alive.
                if let Some(receiving) = state.units.get_mut(&id).and_then(|unit| unit.receiving.take()) {
                    tokio::spawn(receiving.drain_at_once(self.platform.clock.clone(), self.drain));
                }
            }
            Effect::Drain(id) => {
                let Some(unit) = state.units.get(&id).and_then(|state| state.unit.clone()) else { return };
                if state.machine.serving().is_none() {
                    self.ready.set(slot, None);
                }
                let is_strict = state.units.get(&id).is_some_and(|unit| unit.spec.class == Class::Strict);
                let limit = if is_strict { self.drain.min(self.strict_drain) } else { self.drain };
                let mut receiving = None;
                self.change(slot, id, |state| {
                    state.probes.clear();
                    receiving = state.receiving.take();
                });
                let clock = self.platform.clock.clone();
                let work = self.spawn(slot, id, async move {
                    let until = clock.now() + limit;
                    // Before the door closes: they are still to come in.
                    if let Some(receiving) = receiving {
                        receiving.drain(clock.clone(), limit).await;
                    }
                    if !unit.drain(until.saturating_sub(clock.now())).await {
                        tracing::warn!("requests were still running at the drain limit");
                    }
                    Done::Drained
                });
                self.work(slot, id, work);
            }
            Effect::Discard(id) => drop(state.units.remove(&id)),
            Effect::Retry(id, delay) => {
                if state.machine.serving().is_none() {
                    self.ready.set(slot, None);
                }
                self.retry(slot, id, id, delay);
            }
            Effect::Replace { unit, by, after } => self.retry(slot, unit, by, after),
            Effect::Ignored(id) => tracing::debug!(%slot, unit = id.0, "an event came too late"),
        }
    }

    /// Begin anew after a delay, as this unit or as the one that comes after it.
    fn retry(&mut self, slot: &SlotId, failed: UnitId, by: UnitId, delay: Duration) {
        let Some(unit) = self.slots.get(slot).and_then(|state| state.units.get(&failed)) else { return };
        let (of, recipe) = (unit.of, unit.recipe.clone());
        let with = (unit.spec.clone(), unit.configs.clone());
        let sleep = self.platform.clock.sleep(delay);
        let work = self.spawn(slot, by, async move {
            sleep.await;
            Done::RetryDue
        });
        self.unit(slot, by, |state| *state = Some(UnitState::new(of, with, recipe, work)));
    }

    /// Wait for a unit to break, and probe it, unless that is done already.
    fn watch(&mut self, slot: &SlotId, id: UnitId) {
        let Some(state) = self.slots.get(slot).and_then(|state| state.units.get(&id)) else { return };
        let (Some(unit), None) = (&state.unit, &state.work) else { return };
        let broken = unit.broken();
        let (ready, live) = (&state.spec.probes.ready, &state.spec.probes.live);
        let probes = [(Kind::Ready, ready), (Kind::Live, live)].into_iter().filter_map(|(kind, probe)| {
            let (probe, host) = (probe.clone()?, state.spec.probe_host().to_owned());
            let (slot, reports) = (slot.clone(), self.reports.clone());
            let tell = move |news| {
                let report = Report { slot: slot.clone(), unit: id, done: Done::Probed(news) };
                let reports = reports.clone();
                async move { drop(reports.send(report).await) }
            };
            let watch = health::watch(kind, probe, host, unit.prober(), self.platform.clone(), tell);
            Some(Work(tokio::spawn(watch)))
        });
        let probes = probes.collect();
        let work = self.spawn(slot, id, async move { Done::Failed(broken.await) });
        self.change(slot, id, |state| (state.work, state.probes) = (Some(work), probes));
    }

    /// Change what is kept of a unit; what was there is dropped, its work with it.
    fn unit(&mut self, slot: &SlotId, id: UnitId, change: impl FnOnce(&mut Option<UnitState>)) {
        let Some(state) = self.slots.get_mut(slot) else { return };
        let mut unit = state.units.remove(&id);
        change(&mut unit);
        if let Some(unit) = unit {
            state.units.insert(id, unit);
        }
    }

    fn change(&mut self, slot: &SlotId, id: UnitId, change: impl FnOnce(&mut UnitState)) {
        if let Some(unit) = self.slots.get_mut(slot).and_then(|state| state.units.get_mut(&id)) {
            change(unit);
        }
    }

    fn work(&mut self, slot: &SlotId, id: UnitId, work: Work) {
        self.change(slot, id, |state| state.work = Some(work));
    }

    fn spawn(&self, slot: &SlotId, unit: UnitId, work: impl Future<Output = Done> + Send + 'static) -> Work {
        let (slot, reports) = (slot.clone(), self.reports.clone());
        Work(tokio::spawn(async move {
            let done = work.await;
            // The driver has ended: so has everything that this was for.
            let _ = reports.send(Report { slot, unit, done }).await;
        }))
    }

    fn fetch(
        &self,
        slot: &SlotId,
        id: UnitId,
        (spec, configs): (Arc<WorkloadSpec>, Configs),
        recipe: Arc<Recipe>,
    ) -> Work {
        let platform = self.platform.clone();
        let (runtime, fetches) = (self.runtime.clone(), self.fetches.clone());
        self.spawn(slot, id, async move {
            match kit::fetch(&spec, &recipe, &runtime, (&platform, &configs), fetches).await {
                Ok(fetched) => Done::Fetched(fetched),
                Err(why) => Done::Failed(why),
            }
        })
    }

    /// Show what runs now, and forget slots of which nothing is left.
    fn publish(&mut self) {
        self.slots.retain(|_, state| state.wanted.is_some() || state.machine.observed().is_some());
        self.crashes.keep_only(|slot| self.slots.contains_key(slot));
        let now: BTreeMap<SlotId, Observed> =
            self.slots.iter().filter_map(|(slot, state)| Some((slot.clone(), state.observed()?))).collect();
        let mut observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        if *observed != now {
            *observed = now;
            drop(observed);
            self.changed.notify_one();
        }
    }
}

/// What tells the configuration of an assignment from that of another one of the same generation, where the spec wants a
/// change to reach what runs.
fn reaches_running(assignment: &Assignment) -> Option<Digest> {
    let reaches = assignment.spec.config_update() == ConfigUpdate::Watch && !assignment.configs.is_empty();
    reaches.then(|| Digest::of(&serde_json::to_vec(&*assignment.configs).unwrap_or_default()))
}

/// The unit that a spec asks for.
fn unit_config(
    slot: &SlotId,
    generation: Generation,
    (spec, given): (&WorkloadSpec, Given),
    logs: Arc<dyn LogSink>,
) -> UnitConfig {
    let reuse = spec.reuse.settings();
    let settings = reuse.clone().unwrap_or_default();
    UnitConfig {
        workload: slot.workload.clone(),
        replica: slot.index,
        generation,
        env: spec.env(),
        config: spec.config(),
        secrets: given.secrets,
        reuse: Reuse {
            enabled: reuse.is_some(),
            requests: settings.requests,
            idle: settings.idle.into(),
            min_warm: settings.min_warm,
            max_instances: settings.max_instances,
            concurrency: settings.concurrency,
            warm_up: settings.warm_up.map(|path| path.path_and_query().clone()),
        },
        limits: Limits {
            memory_bytes: spec.limits.memory.0,
            wall: spec.limits.wall.into(),
            cpu: spec.limits.cpu.into(),
            concurrency: spec.limits.concurrency,
            queue: spec.limits.queue,
            body_bytes: spec.limits.body.0,
            ..Limits::default()
        },
        grants: spec.grants.clone(),
        account: given.account,
        volumes: spec.volumes.iter().filter_map(volume).collect(),
        by_function: spec.probes.functions(None).next().is_some(),
        logs,
    }
}

/// What is in a volume is one of three; admission has seen to it.
fn volume(spec: &VolumeSpec) -> Option<Volume> {
    let content = match spec {
        VolumeSpec { empty: Some(empty), .. } => VolumeContent::Empty { bytes_max: empty.size.0 },
        VolumeSpec { host: Some(host), .. } => {
            VolumeContent::Host { path: host.path.as_str().into(), read_only: host.read_only }
        }
        VolumeSpec { files: Some(files), .. } => VolumeContent::Files(files.clone()),
        _ => return None,
    };
    Some(Volume { name: spec.name.to_string(), mount: spec.mount.to_string(), content })
}
