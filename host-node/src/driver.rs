//! Carries out what the supervisor says, one task a piece of work. All state is in one task; work answers with events.

use crate::{instances::ReadyUnits, logs::Logs};
use bytes::Bytes;
use lattice::{
    host::{Assignment, Observed},
    id::{Digest, SlotId},
    spec::{Class, WorkloadSpec},
    store::Platform,
};
use lattice_runtime::{Assembly, Component, Limits, LogSink, Reuse, Runtime, Unit, UnitConfig};
use lattice_supervisor::{Effect, Event, Slot, Target, UnitId};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// Events that wait for the driver. Each unit has at most one piece of work under way, so this is seldom reached; work
/// waits then.
const QUEUE: usize = 1024;
/// Components whose bytes are in memory at a time: one compiles, the next is on its way.
const FETCHES: usize = 2;

pub(crate) struct Driver {
    drain: Duration,
    strict_drain: Duration,
    platform: Platform,
    runtime: Runtime,
    logs: Arc<Logs>,
    ready: Arc<ReadyUnits>,
    observed: Arc<Mutex<BTreeMap<SlotId, Observed>>>,
    changed: Arc<Notify>,
    slots: BTreeMap<SlotId, SlotState>,
    reports: mpsc::Sender<Report>,
    reported: mpsc::Receiver<Report>,
    fetches: Arc<Semaphore>,
}

#[derive(Default)]
struct SlotState {
    machine: Slot,
    units: BTreeMap<UnitId, UnitState>,
    wanted: Option<Assignment>,
}

struct UnitState {
    spec: Arc<WorkloadSpec>,
    artifact: Option<Digest>,
    fetched: Option<Fetched>,
    assembly: Option<Assembly>,
    unit: Option<Arc<Unit>>,
    work: Option<Work>,
}

/// Work under way; dropping it stops it.
struct Work(JoinHandle<()>);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a fetch brought.
enum Fetched {
    /// To be compiled. The permit goes with the bytes.
    Bytes(Bytes, OwnedSemaphorePermit),
    /// Nothing was to be fetched: another replica runs it, or its code is on disk.
    Component(Component),
}

/// What a piece of work brought.
enum Done {
    Fetched(Fetched),
    Compiled(Assembly),
    Warmed(Arc<Unit>),
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
        ready: Arc<ReadyUnits>,
        observed: Arc<Mutex<BTreeMap<SlotId, Observed>>>,
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
            changed,
            slots,
            reports,
            reported,
            fetches: Arc::new(Semaphore::new(FETCHES)),
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
            let wanted = self.slots.get(&slot).and_then(|state| state.wanted.as_ref());
            let event = wanted.map_or(Event::Unwanted, |assignment| {
                Event::Wanted(Target {
                    uid: assignment.uid,
                    generation: assignment.generation,
                    exclusive: assignment.spec.class == Class::Strict,
                })
            });
            self.on(&slot, event);
        }
    }

    fn take(&mut self, Report { slot, unit, done }: Report) {
        let Some(state) = self.slots.get_mut(&slot).and_then(|state| state.units.get_mut(&unit)) else { return };
        let event = match done {
            Done::Fetched(fetched) => {
                state.fetched = Some(fetched);
                Event::Fetched(unit)
            }
            Done::Compiled(assembly) => {
                state.assembly = Some(assembly);
                Event::Compiled(unit)
            }
            Done::Warmed(running) => {
                state.unit = Some(running);
                Event::Warmed(unit)
            }
            Done::Failed(why) => {
                tracing::warn!(%slot, why, "a replica could not be started");
                Event::Failed { unit, why, random: self.platform.rng.u64() }
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
            Effect::Fetch(id, _) => {
                let Some(assignment) = &state.wanted else { return };
                let (spec, artifact) = state.units.get(&id).map_or_else(
                    || (assignment.spec.clone(), assignment.recipe.artifact),
                    |unit| (unit.spec.clone(), unit.artifact),
                );
                let work = self.fetch(slot, id, artifact);
                let unit = UnitState { spec, artifact, fetched: None, assembly: None, unit: None, work: Some(work) };
                self.unit(slot, id, |state| *state = Some(unit));
            }
            Effect::Compile(id) => {
                let Some(unit) = state.units.get_mut(&id) else { return };
                let (Some(digest), Some(fetched)) = (unit.artifact, unit.fetched.take()) else { return };
                let runtime = self.runtime.clone();
                let work = self.spawn(slot, id, async move {
                    let component = match fetched {
                        Fetched::Component(component) => Ok(component),
                        Fetched::Bytes(bytes, _permit) => runtime.load(digest, bytes).await,
                    };
                    match component.and_then(|component| runtime.assemble(component, Vec::new(), Vec::new())) {
                        Ok(assembly) => Done::Compiled(assembly),
                        Err(error) => Done::Failed(error.to_string()),
                    }
                });
                self.work(slot, id, work);
            }
            Effect::Warm(id) => {
                let Some(unit) = state.units.get(&id) else { return };
                let Some(assembly) = unit.assembly.clone() else { return };
                let config = unit_config(slot, &unit.spec, self.logs.sink(slot.clone()));
                let runtime = self.runtime.clone();
                let work = self.spawn(slot, id, async move {
                    match Unit::start(&runtime, assembly, config).await {
                        Ok(unit) => Done::Warmed(Arc::new(unit)),
                        Err(error) => Done::Failed(error.to_string()),
                    }
                });
                self.work(slot, id, work);
            }
            Effect::Serve(id) => {
                let unit = state.units.get(&id).and_then(|state| state.unit.as_ref());
                self.ready.set(slot, unit);
            }
            Effect::Drain(id) => {
                let Some(unit) = state.units.get(&id).and_then(|state| state.unit.clone()) else { return };
                if state.machine.serving().is_none() {
                    self.ready.set(slot, None);
                }
                let is_strict = state.units.get(&id).is_some_and(|unit| unit.spec.class == Class::Strict);
                let limit = if is_strict { self.drain.min(self.strict_drain) } else { self.drain };
                let work = self.spawn(slot, id, async move {
                    if !unit.drain(limit).await {
                        tracing::warn!("requests were still running at the drain limit");
                    }
                    Done::Drained
                });
                self.work(slot, id, work);
            }
            Effect::Discard(id) => drop(state.units.remove(&id)),
            Effect::Retry(id, delay) => {
                let sleep = self.platform.clock.sleep(delay);
                let work = self.spawn(slot, id, async move {
                    sleep.await;
                    Done::RetryDue
                });
                self.unit(slot, id, |state| {
                    if let Some(unit) = state {
                        *unit = UnitState {
                            spec: unit.spec.clone(),
                            artifact: unit.artifact,
                            fetched: None,
                            assembly: None,
                            unit: None,
                            work: Some(work),
                        };
                    }
                });
            }
            Effect::Ignored(id) => tracing::debug!(%slot, unit = id.0, "an event came too late"),
        }
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

    fn work(&mut self, slot: &SlotId, id: UnitId, work: Work) {
        self.unit(slot, id, |state| {
            if let Some(unit) = state {
                unit.work = Some(work);
            }
        });
    }

    fn spawn(&self, slot: &SlotId, unit: UnitId, work: impl Future<Output = Done> + Send + 'static) -> Work {
        let (slot, reports) = (slot.clone(), self.reports.clone());
        Work(tokio::spawn(async move {
            let done = work.await;
            // The driver has ended: so has everything that this was for.
            let _ = reports.send(Report { slot, unit, done }).await;
        }))
    }

    fn fetch(&self, slot: &SlotId, id: UnitId, artifact: Option<Digest>) -> Work {
        let artifacts = self.platform.artifacts.clone();
        let (runtime, fetches) = (self.runtime.clone(), self.fetches.clone());
        self.spawn(slot, id, async move {
            let Some(digest) = artifact else { return Done::Failed("the spec names no stored component".into()) };
            if let Some(component) = runtime.loaded(&digest) {
                return Done::Fetched(Fetched::Component(component));
            }
            let Ok(permit) = fetches.acquire_owned().await else { return Done::Failed("the host has ended".into()) };
            // Asked again: another replica may have brought it meanwhile.
            if let Some(component) = runtime.load_cached(digest).await {
                return Done::Fetched(Fetched::Component(component));
            }
            match artifacts.get(digest).await {
                Ok(Some(bytes)) => Done::Fetched(Fetched::Bytes(bytes, permit)),
                Ok(None) => Done::Failed(format!("{digest} is not in the object store: deploy the workload again")),
                Err(error) => Done::Failed(error.to_string()),
            }
        })
    }

    /// Show what runs now, and forget slots of which nothing is left.
    fn publish(&mut self) {
        self.slots.retain(|_, state| state.wanted.is_some() || state.machine.observed().is_some());
        let now: BTreeMap<SlotId, Observed> =
            self.slots.iter().filter_map(|(slot, state)| Some((slot.clone(), state.machine.observed()?))).collect();
        let mut observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        if *observed != now {
            *observed = now;
            drop(observed);
            self.changed.notify_one();
        }
    }
}

/// The unit that a spec asks for.
fn unit_config(slot: &SlotId, spec: &WorkloadSpec, logs: Arc<dyn LogSink>) -> UnitConfig {
    let reuse = spec.reuse.settings();
    let settings = reuse.clone().unwrap_or_default();
    UnitConfig {
        workload: slot.workload.clone(),
        replica: slot.index,
        env: spec.env(),
        config: spec.config(),
        reuse: Reuse {
            enabled: reuse.is_some(),
            requests: settings.requests,
            idle: settings.idle.into(),
            min_warm: settings.min_warm,
            max_instances: settings.max_instances,
        },
        limits: Limits {
            memory_bytes: spec.limits.memory.0,
            wall: spec.limits.wall.into(),
            cpu: spec.limits.cpu.into(),
            concurrency: spec.limits.concurrency,
            queue: spec.limits.queue,
            body_bytes: spec.limits.body.0,
        },
        grants: spec.grants.clone(),
        logs,
    }
}
