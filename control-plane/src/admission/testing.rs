//! Admission without a lattice around it, for tests.

use super::Admission;
use crate::{NodeOptions, Timing, events::Events};
use lattice::{
    Fut,
    id::{LatticeId, NodeId},
    record::Capacity,
    store::{Bucket, Clock, Message, Platform, Rng},
    testing::MemoryLattice,
    view::{LatticeView, Seen},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// The time is always the same.
struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> Duration {
        Duration::ZERO
    }
    fn unix_ms(&self) -> u64 {
        0
    }
    fn sleep(&self, _: Duration) -> Fut<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Numbers in their order: no two ids are the same.
#[derive(Default)]
struct Counted(AtomicU64);

impl Rng for Counted {
    fn u64(&self) -> u64 {
        self.0.fetch_add(1, Relaxed)
    }
}

pub(crate) fn options() -> NodeOptions {
    NodeOptions {
        lattice: LatticeId::new("default").unwrap(),
        node: NodeId::new("n1").unwrap(),
        labels: BTreeMap::new(),
        version: String::new(),
        capacity: Capacity { memory: 1 << 30, slots: 4, millicores: 0 },
        volumes: Default::default(),
        taints: Vec::new(),
        offers: None,
        http: None,
        timing: Timing::DEV,
        drain: Duration::ZERO,
        data_dir: None,
    }
}

/// A node's way to a lattice.
pub(crate) fn platform(lattice: &MemoryLattice) -> Platform {
    lattice.platform(Arc::new(Fixed), Arc::new(Counted::default()))
}

/// Admission on a node that is alone, with a view that stays empty.
pub(super) fn admission() -> (Admission, Platform) {
    admission_that_sees(LatticeView::default())
}

/// The same with a view that stays as it is.
pub(super) fn admission_that_sees(mut view: LatticeView) -> (Admission, Platform) {
    let platform = platform(&MemoryLattice::new());
    let options = Arc::new(options());
    view.seen.extend(Bucket::ALL.map(|bucket| (bucket, Seen::default())));
    let view = tokio::sync::watch::channel(Arc::new(view)).1;
    let events = Events::new(&options, &platform);
    let reports = crate::reports::Reports::new(&platform);
    let sources = (reports, Arc::new(lattice::messaging::NoMessaging) as _);
    (Admission::new(options, platform.clone(), events, Arc::new(|_, _, _| Ok(Vec::new())), view, sources), platform)
}

pub(super) fn message(payload: &str) -> Message {
    Message { payload: payload.to_owned().into(), ..Message::default() }
}
