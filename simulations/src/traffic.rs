//! What clients ask of workloads, and what their replicas tell of it: requests at a time, shared evenly by those that are
//! wanted.

use lattice::{
    id::{Generation, SlotId, WorkloadName},
    report::{LoadReport, SlotReport},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::time::Instant;

/// Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Traffic(Arc<Mutex<BTreeMap<WorkloadName, Stream>>>);

#[derive(Default)]
struct Stream {
    /// Requests at a time, and over how many replicas: from when on.
    shares: Vec<(Instant, u64, u64)>,
    /// Messages at its consumer.
    pending: u64,
    /// Messages that each replica handled, over all of its lives.
    handled: BTreeMap<u32, u64>,
}

impl Traffic {
    fn streams(&self) -> MutexGuard<'_, BTreeMap<WorkloadName, Stream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on so many requests at a time are shared by so many replicas.
    pub(crate) fn set(&self, workload: &WorkloadName, requests: u64, replicas: u64) {
        let mut streams = self.streams();
        let shares = &mut streams.entry(workload.clone()).or_default().shares;
        if shares.last().is_none_or(|(_, before, over)| (*before, *over) != (requests, replicas)) {
            shares.push((Instant::now(), requests, replicas));
        }
    }

    /// From now on so many messages wait at its consumer, whatever its replicas do.
    pub(crate) fn set_pending(&self, workload: &WorkloadName, messages: u64) {
        self.streams().entry(workload.clone()).or_default().pending = messages;
    }

    pub(crate) fn pending(&self, workload: &WorkloadName) -> u64 {
        self.streams().get(workload).map_or(0, |stream| stream.pending)
    }

    /// A replica handled a message.
    pub(crate) fn done(&self, slot: &SlotId) {
        *self.streams().entry(slot.workload.clone()).or_default().handled.entry(slot.index).or_default() += 1;
    }

    /// What a replica counted since it began to take requests.
    pub(crate) fn report(&self, slot: &SlotId, of: (uuid::Uuid, Generation), since: Instant) -> SlotReport {
        let (streams, now) = (self.streams(), Instant::now());
        let mut report = SlotReport::new(of.0, of.1);
        let mut load = LoadReport { watched: millis(since, now), ..LoadReport::default() };
        let stream = streams.get(&slot.workload);
        let shares = stream.map(|stream| stream.shares.as_slice()).unwrap_or_default();
        for (i, (begin, requests, replicas)) in shares.iter().enumerate() {
            let end = shares.get(i + 1).map_or(now, |(next, ..)| *next);
            let of_all = (*replicas).max(1);
            let own = requests / of_all + u64::from(u64::from(slot.index) < requests % of_all);
            load.busy += own * millis((*begin).max(since), end);
            if end == now {
                report.in_flight = own;
            }
        }
        let handled = stream.and_then(|stream| stream.handled.get(&slot.index)).copied().unwrap_or_default();
        report.requests = load.busy / 100 + handled;
        report.load = Some(load);
        report
    }
}

fn millis(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_millis()).unwrap_or(u64::MAX)
}
