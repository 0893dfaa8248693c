//! A host that runs nothing, slowly: replicas need their time to start, fail now and then, and need time to stop.

use crate::{chance::SimRng, traffic::Traffic};
use lattice::{
    Fut,
    gpu::{GpuGrant, Offer},
    host::{Assignment, Host, Observed},
    id::{Generation, SlotId, WorkloadName},
    record::{Phase, failure},
    report::{AnswersReport, HostReport, SlotReport, Slow},
    spec::{AnalysisSpec, Class, WorkloadSpec},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// Requests that a replica answers in a second.
const RATE: u64 = 20;

pub(crate) struct StubHost {
    state: Mutex<State>,
    rng: SimRng,
    /// What its replicas have to do.
    traffic: Traffic,
    gpus: Mutex<Vec<Offer>>,
    /// For the control plane.
    changed: Notify,
    /// For [`StubHost::run`].
    assigned: Notify,
}

#[derive(Default)]
struct State {
    wanted: BTreeMap<SlotId, Assignment>,
    units: BTreeMap<SlotId, Unit>,
    /// Nothing fails to start any more.
    fair: bool,
    /// What answers half of its requests with errors, by workload, and since when.
    sour: BTreeMap<WorkloadName, (Generation, Instant)>,
}

struct Unit {
    uid: uuid::Uuid,
    generation: Generation,
    spec: Arc<WorkloadSpec>,
    /// What its code may use.
    gpu: Option<GpuGrant>,
    phase: UnitPhase,
    /// When it is done with what it is at.
    due: Option<Instant>,
    /// The template that failed to come up beside this one.
    failed: Option<Generation>,
    serves_since: Option<Instant>,
    /// Failures in a row.
    failures: u32,
}

impl State {
    /// Where a spec has bounds for what is new, each of its replicas answers [`RATE`] requests in a second.
    fn answers(&self, slot: &SlotId, unit: &Unit, since: Instant, analysis: &AnalysisSpec) -> AnswersReport {
        let now = Instant::now();
        let since_then = |then: Instant| now.saturating_duration_since(then.max(since)).as_secs() * RATE;
        let sour = self.sour.get(&slot.workload).filter(|(template, _)| *template == unit.generation);
        let none = |bound| Slow { bound, requests: 0 };
        AnswersReport {
            requests: since_then(since),
            errors: sour.map_or(0, |(_, then)| since_then(*then) / 2),
            p95: analysis.max_p95.map(none),
            p99: analysis.max_p99.map(none),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum UnitPhase {
    Starting,
    Failed,
    Ready,
    Draining,
}

/// What runs in a slot, for checkers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) uid: uuid::Uuid,
    pub(crate) generation: Generation,
    pub(crate) class: Class,
    pub(crate) is_ready: bool,
    pub(crate) gpu: Option<GpuGrant>,
}

impl StubHost {
    pub(crate) fn new(rng: SimRng, traffic: Traffic, gpus: Vec<Offer>) -> Self {
        Self {
            state: Mutex::default(),
            rng,
            traffic,
            gpus: Mutex::new(gpus),
            changed: Notify::new(),
            assigned: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it offers of GPUs from now on.
    pub(crate) fn offer(&self, gpus: Vec<Offer>) {
        *self.gpus.lock().unwrap_or_else(PoisonError::into_inner) = gpus;
    }

    /// From now on this template of a workload answers half of its requests with errors.
    pub(crate) fn sour(&self, workload: &WorkloadName, template: Generation) {
        self.state().sour.insert(workload.clone(), (template, Instant::now()));
    }

    /// From now on everything starts at its first try.
    pub(crate) fn be_fair(&self) {
        self.state().fair = true;
    }

    /// Everything of which some code may run now.
    pub(crate) fn running(&self) -> BTreeMap<SlotId, Running> {
        let state = self.state();
        let live = state.units.iter().filter(|(_, unit)| unit.phase != UnitPhase::Failed);
        let running = |unit: &Unit| Running {
            uid: unit.uid,
            generation: unit.generation,
            class: unit.spec.class,
            is_ready: unit.phase == UnitPhase::Ready,
            gpu: unit.gpu.clone(),
        };
        live.map(|(slot, unit)| (slot.clone(), running(unit))).collect()
    }

    /// Replicas that take messages, and what they run.
    pub(crate) fn takers(&self) -> BTreeMap<(SlotId, uuid::Uuid, Generation), Arc<WorkloadSpec>> {
        let state = self.state();
        let takes = |unit: &Unit| match unit.phase {
            UnitPhase::Ready | UnitPhase::Draining => !unit.spec.messages.is_empty(),
            UnitPhase::Starting | UnitPhase::Failed => false,
        };
        let taking = state.units.iter().filter(|(_, unit)| takes(unit));
        taking.map(|(slot, unit)| ((slot.clone(), unit.uid, unit.generation), unit.spec.clone())).collect()
    }

    /// Let time pass for what runs. Never returns.
    pub(crate) async fn run(&self) {
        loop {
            let due = self.advance();
            let timer = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! { // cancel-safe: both only wait
                biased;
                () = self.assigned.notified() => {}
                () = timer => {}
            }
        }
    }

    /// Take the steps that are due; answers when the next one is.
    fn advance(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut state = self.state();
        let State { wanted, units, fair, .. } = &mut *state;
        let mut is_changed = false;
        units.retain(|slot, unit| {
            let target = wanted.get(slot).filter(|target| target.uid == unit.uid);
            match (target, unit.phase) {
                (None, UnitPhase::Starting | UnitPhase::Failed) => {
                    is_changed = true;
                    return false;
                }
                (None, UnitPhase::Ready) => {
                    is_changed = true;
                    unit.phase = UnitPhase::Draining;
                    // A strict replica is cut off: another node may be waiting to start it.
                    let (shortest, longest) = match unit.spec.class {
                        Class::Strict => (0, 100),
                        // It goes on taking messages until others listen.
                        Class::Available if !unit.spec.messages.is_empty() => (1_000, 2_500),
                        Class::Available => (0, 2_000),
                    };
                    unit.due = Some(now + self.rng.millis(shortest, longest));
                }
                (Some(target), UnitPhase::Ready)
                    if target.generation != unit.generation && unit.due.is_none() && !target.waits =>
                {
                    unit.due = Some(now + self.rng.millis(20, 800));
                    if target.stop_first {
                        is_changed = true;
                        (unit.phase, unit.generation) = (UnitPhase::Starting, target.generation);
                        (unit.gpu, unit.spec) = (target.gpu.clone(), target.spec.clone());
                    }
                }
                (Some(target), UnitPhase::Ready) if target.generation == unit.generation && unit.due.is_some() => {
                    // It stays what it is.
                    is_changed |= unit.failed.is_some();
                    (unit.due, unit.failed, unit.failures) = (None, None, 0);
                }
                _ => {}
            }
            if unit.due.is_none_or(|due| due > now) {
                return true;
            }
            is_changed = true;
            unit.due = None;
            match unit.phase {
                UnitPhase::Draining => return false,
                UnitPhase::Starting if !*fair && self.rng.happens(200) => {
                    unit.phase = UnitPhase::Failed;
                    unit.failures += 1;
                    unit.due = Some(now + self.rng.millis(200, 3_000));
                }
                UnitPhase::Ready if !*fair && self.rng.happens(200) => {
                    unit.failed = target.map(|target| target.generation);
                    unit.failures += 1;
                    unit.due = Some(now + self.rng.millis(200, 3_000));
                    return true;
                }
                UnitPhase::Failed => {
                    unit.phase = UnitPhase::Starting;
                    unit.due = Some(now + self.rng.millis(20, 800));
                }
                UnitPhase::Starting | UnitPhase::Ready => {
                    (unit.phase, unit.failures) = (UnitPhase::Ready, 0);
                    unit.serves_since = Some(now);
                }
            }
            if let Some(target) = target {
                unit.generation = target.generation;
                (unit.gpu, unit.spec) = (target.gpu.clone(), target.spec.clone());
            }
            unit.failed = None;
            true
        });
        for (slot, target) in wanted {
            units.entry(slot.clone()).or_insert_with(|| {
                is_changed = true;
                Unit {
                    uid: target.uid,
                    generation: target.generation,
                    spec: target.spec.clone(),
                    gpu: target.gpu.clone(),
                    phase: UnitPhase::Starting,
                    due: Some(now + self.rng.millis(20, 800)),
                    failed: None,
                    serves_since: None,
                    failures: 0,
                }
            });
        }
        if is_changed {
            self.changed.notify_one();
        }
        units.values().filter_map(|unit| unit.due).min()
    }
}

impl Host for StubHost {
    fn apply(&self, wanted: BTreeMap<SlotId, Assignment>) {
        let mut state = self.state();
        if state.wanted != wanted {
            state.wanted = wanted;
            self.assigned.notify_one();
        }
    }

    fn observed(&self) -> BTreeMap<SlotId, Observed> {
        let observed = |unit: &Unit| {
            let (phase, message) = match unit.phase {
                UnitPhase::Starting => (Phase::Starting, None),
                UnitPhase::Failed => (Phase::Failed, Some("out of luck".to_owned())),
                UnitPhase::Ready => (Phase::Ready, unit.failed.map(|failed| failure(failed, "out of luck"))),
                UnitPhase::Draining => (Phase::Starting, Some("draining".to_owned())),
            };
            let failures = if message.is_some() { unit.failures } else { 0 };
            let (uid, generation) = (unit.uid, unit.generation);
            Observed { uid, generation, phase, message, failures, configs: Default::default() }
        };
        self.state().units.iter().map(|(slot, unit)| (slot.clone(), observed(unit))).collect()
    }

    fn gpus(&self) -> Vec<Offer> {
        self.gpus.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn report(&self) -> HostReport {
        let state = self.state();
        let ready = state.units.iter().filter(|(_, unit)| unit.phase == UnitPhase::Ready);
        let report = |(slot, unit): (&SlotId, &Unit)| {
            let (spec, since) = (&state.wanted.get(slot)?.spec, unit.serves_since?);
            let answers = spec.rollout.analysis.as_ref().map(|analysis| state.answers(slot, unit, since, analysis));
            let report = match (&spec.autoscale, answers) {
                (Some(_), _) => self.traffic.report(slot, (unit.uid, unit.generation), since),
                (None, Some(_)) => SlotReport::new(unit.uid, unit.generation),
                (None, None) => return None,
            };
            Some((slot.clone(), SlotReport { answers, ..report }))
        };
        HostReport { slots: ready.filter_map(report).collect(), ..HostReport::default() }
    }

    fn changed(&self) -> Fut<'_, ()> {
        Box::pin(self.changed.notified())
    }
}
