//! What telemetry counts of itself, so that what is missing elsewhere is seen here.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    signal: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    exports: Family<Labels, Counter>,
    items: Family<Labels, Counter>,
}

impl Counts {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("lattice_telemetry");
        registry.register("exports", "Messages sent to where telemetry goes, retries too", self.exports.clone());
        registry.register("items", "Spans and log records, by what became of them", self.items.clone());
    }

    pub(crate) fn exports(&self, signal: &'static str, is_taken: bool) {
        let outcome = if is_taken { "taken" } else { "failed" };
        self.exports.get_or_create(&Labels { signal, outcome }).inc();
    }
}

/// How many items of a signal wait for their export, those that are being exported included. What there is no room for is
/// dropped before it costs anything.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    waiting: Arc<AtomicUsize>,
    most: usize,
    taken: Counter,
    failed: Counter,
    dropped: Counter,
}

impl Room {
    pub(crate) fn new(most: usize, signal: &'static str, counts: &Counts) -> Self {
        let counter = |outcome| counts.items.get_or_create(&Labels { signal, outcome }).clone();
        let (taken, failed, dropped) = (counter("taken"), counter("failed"), counter("dropped"));
        Self { waiting: Arc::default(), most, taken, failed, dropped }
    }

    /// Whether there is room for one more.
    pub(crate) fn enter(&self) -> bool {
        let entered =
            self.waiting.fetch_update(Relaxed, Relaxed, |waiting| (waiting < self.most).then_some(waiting + 1));
        if entered.is_err() {
            self.dropped.inc();
        }
        entered.is_ok()
    }

    pub(crate) fn left(&self, items: usize, is_taken: bool) {
        let _ = self.waiting.fetch_update(Relaxed, Relaxed, |waiting| Some(waiting.saturating_sub(items)));
        let counter = if is_taken { &self.taken } else { &self.failed };
        counter.inc_by(items as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        let room = Room::new(2, "traces", &Counts::default());
        assert!(room.enter() && room.enter() && !room.enter());
        room.left(2, false);
        assert!(room.enter());
        room.left(1, true);
        assert_eq!((room.taken.get(), room.failed.get(), room.dropped.get()), (1, 2, 1));
    }
}
