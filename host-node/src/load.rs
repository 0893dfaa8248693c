//! What replicas have to do, watched closely: ten times a second, since requests are shorter than the time between two
//! reports. Only those whose number follows from it.

use crate::instances::ReadyUnits;
use lattice::{
    host::Assignment,
    id::{SlotId, WorkloadName},
    report::LoadReport,
};
use lattice_runtime::Unit;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

const EVERY: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(crate) struct LoadMeter {
    watched: Mutex<BTreeMap<SlotId, Watched>>,
}

/// Since a unit began to take requests.
struct Watched {
    unit: Weak<Unit>,
    began: Instant,
    seen: Instant,
    /// Requests times microseconds.
    busy: u64,
    queued: u64,
    /// Microseconds of processors.
    cpu: u64,
    computing: Sampled,
}

/// How often guests were found computing, of how many looks, up to a moment.
#[derive(Clone, Copy)]
struct Sampled {
    at: Instant,
    met: u64,
    looks: u64,
}

impl LoadMeter {
    fn watched(&self) -> MutexGuard<'_, BTreeMap<SlotId, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watch what `wanted` says scales itself. Returns when nobody assigns anything any more.
    pub(crate) async fn run(&self, units: &ReadyUnits, mut wanted: watch::Receiver<BTreeMap<SlotId, Assignment>>) {
        let scales = |wanted: &BTreeMap<SlotId, Assignment>| wanted.values().any(|one| one.spec.autoscale.is_some());
        loop {
            if wanted.wait_for(scales).await.is_err() {
                return;
            }
            let mut ticks = interval(EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while scales(&wanted.borrow_and_update()) {
                ticks.tick().await;
                let scales = |slot: &SlotId| {
                    wanted.borrow().get(slot).is_some_and(|assignment| assignment.spec.autoscale.is_some())
                };
                let units = units.all().into_iter().filter(|(slot, _)| scales(slot)).collect();
                self.look(units, Instant::now());
            }
            self.watched().clear();
        }
    }

    fn look(&self, units: BTreeMap<SlotId, Arc<Unit>>, now: Instant) {
        let mut watched = self.watched();
        watched.retain(|slot, watched| {
            units.get(slot).is_some_and(|unit| std::ptr::eq(Arc::as_ptr(unit), watched.unit.as_ptr()))
        });
        // Guests of one workload are one to those who share out the processors: each replica here has its part of that.
        let mut replicas = BTreeMap::<WorkloadName, u64>::new();
        units.keys().for_each(|slot| *replicas.entry(slot.workload.clone()).or_default() += 1);
        for (slot, unit) in units {
            let replicas = replicas.get(&slot.workload).copied().unwrap_or(1);
            let (met, looks) = unit.computing();
            let computing = Sampled { at: now, met, looks };
            let watched = watched.entry(slot).or_insert_with(|| Watched {
                unit: Arc::downgrade(&unit),
                began: now,
                seen: now,
                busy: 0,
                queued: 0,
                cpu: 0,
                computing,
            });
            watched.add_computing(computing, replicas);
            let (present, queued) = (unit.load(), unit.waiting());
            watched.add(now, present.saturating_sub(queued).into(), queued.into());
        }
    }

    /// Nothing of what is not watched.
    pub(crate) fn of(&self, slot: &SlotId) -> Option<LoadReport> {
        self.watched().get(slot).map(Watched::report)
    }
}

impl Watched {
    /// What is there now was there since the last look.
    fn add(&mut self, now: Instant, at_work: u64, queued: u64) {
        let since = micros(now.saturating_duration_since(self.seen));
        self.busy = self.busy.saturating_add(at_work.saturating_mul(since));
        self.queued = self.queued.saturating_add(queued.saturating_mul(since));
        self.seen = now;
    }

    /// What was found between two samples was so all the time.
    fn add_computing(&mut self, sampled: Sampled, replicas: u64) {
        let before = self.computing;
        let (met, looks) = (sampled.met.saturating_sub(before.met), sampled.looks.saturating_sub(before.looks));
        if looks == 0 {
            return; // it is too early to say
        }
        let since = micros(sampled.at.saturating_duration_since(before.at));
        self.cpu = self.cpu.saturating_add(since.saturating_mul(met) / looks / replicas.max(1));
        self.computing = sampled;
    }

    fn report(&self) -> LoadReport {
        LoadReport {
            watched: micros(self.seen.saturating_duration_since(self.began)) / 1000,
            busy: self.busy / 1000,
            queued: self.queued / 1000,
            cpu: self.cpu / 1000,
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_counts_for_as_long_as_it_was() {
        let began = Instant::now();
        let computing = Sampled { at: began, met: 7, looks: 100 };
        let mut watched = Watched { unit: Weak::new(), began, seen: began, busy: 0, queued: 0, cpu: 0, computing };
        watched.add(began + Duration::from_millis(100), 3, 0);
        watched.add(began + Duration::from_millis(400), 2, 5);
        assert_eq!(watched.report(), LoadReport { watched: 400, busy: 900, queued: 1500, cpu: 0 });
        let before = watched.report();
        watched.add(began + Duration::from_secs(2), 0, 0);
        assert_eq!(watched.report().since(&before), Some(LoadReport { watched: 1600, ..LoadReport::default() }));
        let after = |millis, met, looks| Sampled { at: began + Duration::from_millis(millis), met, looks };
        // A core and a half for a second, of two replicas; then no look yet; then nothing.
        watched.add_computing(after(1000, 157, 200), 2);
        watched.add_computing(after(1005, 157, 200), 2);
        assert_eq!(watched.report().cpu, 750);
        watched.add_computing(after(2000, 157, 290), 2);
        assert_eq!(watched.report().cpu, 750);
    }
}
