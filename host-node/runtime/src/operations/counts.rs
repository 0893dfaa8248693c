//! How many operations there were, and how long they took: histograms of fixed buckets, which are made once there is
//! something to count.

use super::{Interface, Kind, Outcome};
use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Upper bounds in seconds; one more bucket has no bound. Those that the conventions have for databases, and shorter ones:
/// much ends in a buffer of the connection.
pub const OPERATION_BUCKETS: [f64; 11] = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

/// The operations of one interface, kind and outcome so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationStats {
    /// A name in WIT, as `lattice:nats/kv`.
    pub interface: &'static str,
    /// Such as `read`: operations that are counted together.
    pub operation: &'static str,
    pub outcome: &'static str,
    /// Operations, each in the first bucket that has room for its duration.
    pub buckets: [u64; OPERATION_BUCKETS.len() + 1],
    /// Of all together.
    pub sum: Duration,
}

impl OperationStats {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// Of one interface and kind, by outcome.
type Group = [Durations; Outcome::ALL.len()];

/// Of one replica.
pub(crate) struct Counts([[OnceLock<Box<Group>>; Kind::ALL.len()]; Interface::ALL.len()]);

#[derive(Default)]
struct Durations {
    buckets: [AtomicU64; OPERATION_BUCKETS.len() + 1],
    nanos: AtomicU64,
}

impl Default for Counts {
    fn default() -> Self {
        Self(std::array::from_fn(|_| std::array::from_fn(|_| OnceLock::new())))
    }
}

impl Counts {
    pub(crate) fn observe(&self, (interface, kind, outcome): (Interface, Kind, Outcome), took: Duration) {
        let group = self.0.get(interface as usize).and_then(|kinds| kinds.get(kind as usize));
        let group = group.map(|group| group.get_or_init(Box::default));
        if let Some(durations) = group.and_then(|group| group.get(outcome as usize)) {
            durations.observe(took);
        }
    }

    /// Of what there was, in a fixed order.
    pub(crate) fn read(&self) -> Vec<OperationStats> {
        let mut all = Vec::new();
        for (interface, kinds) in Interface::ALL.into_iter().zip(&self.0) {
            for (kind, group) in Kind::ALL.into_iter().zip(kinds) {
                for (outcome, durations) in Outcome::ALL.into_iter().zip(group.get().into_iter().flat_map(|it| &**it)) {
                    let stats = OperationStats {
                        interface: interface.as_str(),
                        operation: kind.as_str(),
                        outcome: outcome.as_str(),
                        buckets: std::array::from_fn(|at| {
                            durations.buckets.get(at).map_or(0, |bucket| bucket.load(Relaxed))
                        }),
                        sum: Duration::from_nanos(durations.nanos.load(Relaxed)),
                    };
                    if stats.count() > 0 {
                        all.push(stats);
                    }
                }
            }
        }
        all
    }
}

impl Durations {
    fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = OPERATION_BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(OPERATION_BUCKETS.len());
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Relaxed);
        }
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_stands_where_it_is_read() {
        for (interface, at) in Interface::ALL.into_iter().zip(0..) {
            assert_eq!(interface as usize, at);
        }
        for (kind, at) in Kind::ALL.into_iter().zip(0..) {
            assert_eq!(kind as usize, at);
        }
        for (outcome, at) in Outcome::ALL.into_iter().zip(0..) {
            assert_eq!(outcome as usize, at);
        }
    }

    #[test]
    fn operations_are_counted_apart_by_interface_kind_and_outcome() {
        let counts = Counts::default();
        assert_eq!(counts.read(), [], "nothing has no series");
        let put = (Interface::Kv, Kind::Write, Outcome::Done);
        for micros in [100, 101, 10_000_000, 10_000_001] {
            counts.observe(put, Duration::from_micros(micros));
        }
        counts.observe((Interface::Kv, Kind::Write, Outcome::Conflict), Duration::from_millis(1));
        counts.observe((Interface::Keyvalue, Kind::Write, Outcome::Done), Duration::from_millis(1));
        let read = counts.read();
        let labels: Vec<_> = read.iter().map(|it| (it.interface, it.operation, it.outcome, it.count())).collect();
        let expect = [
            ("lattice:nats/kv", "write", "done", 4),
            ("lattice:nats/kv", "write", "conflict", 1),
            ("wasi:keyvalue", "write", "done", 1),
        ];
        assert_eq!(labels, expect);
        assert_eq!(read[0].buckets, [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(read[0].sum, Duration::from_micros(20_000_202));
    }
}
