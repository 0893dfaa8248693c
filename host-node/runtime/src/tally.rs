//! What a unit counts beside its requests: how exchanges failed, which limits were reached, and the most that one instance
//! or one request ever took. Written where it happens, mostly away from the path of a request that goes well.

use crate::{failure::Failure, lock, parts::PartFault};
use lattice::http::{BodyError, CallError};
use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

/// A bound that a guest, or who calls it, ran into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// Linear memory of one instance. It may have gone on with what it had.
    Memory,
    /// Linear memory of all instances of the node.
    NodeMemory,
    /// Instances of all units of the node, or what the node has for one more.
    Instances,
    /// Elements of the tables of one instance.
    Tables,
    /// Handles of one instance.
    Handles,
    /// Streams between the component and its services.
    Streams,
    /// Processor time of one request.
    Cpu,
    /// Time of one request.
    Wall,
    /// Requests in line, or the time in it.
    Queue,
    /// Bytes of one request's body.
    Body,
    /// Lines of output in a second.
    LogLines,
}

impl Limit {
    pub const ALL: [Limit; 11] = [
        Limit::Memory,
        Limit::NodeMemory,
        Limit::Instances,
        Limit::Tables,
        Limit::Handles,
        Limit::Streams,
        Limit::Cpu,
        Limit::Wall,
        Limit::Queue,
        Limit::Body,
        Limit::LogLines,
    ];

    /// The name in reports and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Limit::Memory => "memory",
            Limit::NodeMemory => "node-memory",
            Limit::Instances => "instances",
            Limit::Tables => "tables",
            Limit::Handles => "handles",
            Limit::Streams => "streams",
            Limit::Cpu => "cpu",
            Limit::Wall => "wall",
            Limit::Queue => "queue",
            Limit::Body => "body",
            Limit::LogLines => "log-lines",
        }
    }
}

/// How an exchange failed, as one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureKind {
    Trap,
    Exit,
    Memory,
    Cpu,
    Wall,
    NoResponse,
    /// It answered with an error code.
    Refused,
    Unfinished,
    /// The request could not be read: the caller's fault.
    Request,
    /// A part of the workload that it called failed.
    Part,
    /// It did not answer its warm-up as it should.
    WarmUp,
    /// A host function panicked.
    Panic,
    /// It was in an instance that ended because of another one.
    Neighbour,
    NoRoom,
}

impl FailureKind {
    pub const ALL: [FailureKind; 14] = [
        FailureKind::Trap,
        FailureKind::Exit,
        FailureKind::Memory,
        FailureKind::Cpu,
        FailureKind::Wall,
        FailureKind::NoResponse,
        FailureKind::Refused,
        FailureKind::Unfinished,
        FailureKind::Request,
        FailureKind::Part,
        FailureKind::WarmUp,
        FailureKind::Panic,
        FailureKind::Neighbour,
        FailureKind::NoRoom,
    ];

    /// The name in reports and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureKind::Trap => "trap",
            FailureKind::Exit => "exit",
            FailureKind::Memory => "memory",
            FailureKind::Cpu => "cpu",
            FailureKind::Wall => "wall",
            FailureKind::NoResponse => "no-response",
            FailureKind::Refused => "refused",
            FailureKind::Unfinished => "unfinished",
            FailureKind::Request => "request",
            FailureKind::Part => "part",
            FailureKind::WarmUp => "warm-up",
            FailureKind::Panic => "panic",
            FailureKind::Neighbour => "neighbour",
            FailureKind::NoRoom => "no-room",
        }
    }

    pub(crate) fn of(failure: &Failure) -> Option<Self> {
        Some(match failure {
            Failure::Trap(_) | Failure::Handles => Self::Trap,
            Failure::Exit(_) => Self::Exit,
            Failure::Memory { .. } | Failure::NodeMemory => Self::Memory,
            Failure::Cpu { .. } => Self::Cpu,
            Failure::Wall { .. } => Self::Wall,
            Failure::NoResponse => Self::NoResponse,
            Failure::Refused(_) => Self::Refused,
            Failure::Unfinished => Self::Unfinished,
            Failure::RequestBody(_) => Self::Request,
            Failure::Part(_) => Self::Part,
            Failure::WarmUp(_) => Self::WarmUp,
            Failure::Panic => Self::Panic,
            Failure::Neighbour(_) => Self::Neighbour,
            Failure::NoRoom(_) => Self::NoRoom,
            Failure::Cancelled | Failure::Stopped => return None,
        })
    }
}

/// The latest failure of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastFailure {
    pub kind: FailureKind,
    /// One line; a guest may have chosen part of it.
    pub message: String,
    pub at: SystemTime,
}

/// What a unit's [`Tally`] says. Sums count from the unit's start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tallied {
    /// Failed exchanges by kind, those that nobody but the caller noticed included.
    pub failures: BTreeMap<FailureKind, u64>,
    pub last_failure: Option<LastFailure>,
    /// How often each limit was reached, whether or not that failed a request.
    pub limits: BTreeMap<Limit, u64>,
    /// The most linear memory that one instance ever had, in bytes.
    pub memory_peak: u64,
    /// The most processor time that one request ever took. Requests shorter than about 10 ms are not measured and leave it
    /// at zero.
    pub cpu_peak: Duration,
}

#[derive(Default)]
pub(crate) struct Tally {
    failures: [AtomicU64; FailureKind::ALL.len()],
    last_failure: Mutex<Option<LastFailure>>,
    limits: [AtomicU64; Limit::ALL.len()],
    memory_peak: AtomicU64,
    cpu_peak_nanos: AtomicU64,
}

impl Tally {
    pub(crate) fn hit(&self, limit: Limit) {
        if let Some(count) = self.limits.get(limit as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// An exchange failed. Answers false for an end that is no failure of the guest or its host.
    pub(crate) fn failed(&self, failure: &Failure) -> bool {
        let Some(kind) = FailureKind::of(failure) else { return false };
        if let Some(count) = self.failures.get(kind as usize) {
            count.fetch_add(1, Relaxed);
        }
        // Memory and tables are counted where they are refused: a guest may survive that.
        match failure {
            Failure::Cpu { .. } => self.hit(Limit::Cpu),
            Failure::Wall { .. } => self.hit(Limit::Wall),
            Failure::Handles => self.hit(Limit::Handles),
            Failure::Part(error) if matches!(error.fault, PartFault::Streams) => self.hit(Limit::Streams),
            Failure::NoRoom(_) => self.hit(Limit::Instances),
            Failure::RequestBody(BodyError::TooLarge { .. }) => self.hit(Limit::Body),
            _ => {}
        }
        *lock(&self.last_failure) = Some(LastFailure { kind, message: failure.message(), at: SystemTime::now() });
        true
    }

    /// A caller was turned away at the door.
    pub(crate) fn refused(&self, refusal: &CallError) {
        match refusal {
            CallError::Overloaded { .. } => self.hit(Limit::Queue),
            CallError::Body(BodyError::TooLarge { .. }) => self.hit(Limit::Body),
            _ => {}
        }
    }

    pub(crate) fn memory(&self, bytes: u64) {
        self.memory_peak.fetch_max(bytes, Relaxed);
    }

    /// Processor time of one request, where it was measured.
    pub(crate) fn cpu(&self, spent: Duration) {
        if !spent.is_zero() {
            self.cpu_peak_nanos.fetch_max(u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        }
    }

    pub(crate) fn read(&self) -> Tallied {
        fn counts<K: Ord + Copy>(all: &[K], counts: &[AtomicU64]) -> BTreeMap<K, u64> {
            let counts = all.iter().zip(counts).map(|(kind, count)| (*kind, count.load(Relaxed)));
            counts.filter(|(_, count)| *count > 0).collect()
        }
        Tallied {
            failures: counts(&FailureKind::ALL, &self.failures),
            last_failure: lock(&self.last_failure).clone(),
            limits: counts(&Limit::ALL, &self.limits),
            memory_peak: self.memory_peak.load(Relaxed),
            cpu_peak: Duration::from_nanos(self.cpu_peak_nanos.load(Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_place_of_its_own() {
        let tally = Tally::default();
        for (times, limit) in Limit::ALL.into_iter().enumerate() {
            for _ in 0..=times {
                tally.hit(limit);
            }
        }
        let limits = tally.read().limits;
        let expect: BTreeMap<Limit, u64> = Limit::ALL.into_iter().zip(1..).collect();
        assert_eq!(limits, expect);
        for (place, kind) in FailureKind::ALL.into_iter().enumerate() {
            assert_eq!(place, kind as usize, "{kind:?}");
        }
    }

    #[test]
    fn a_caller_that_goes_away_is_no_failure() {
        let tally = Tally::default();
        assert!(!tally.failed(&Failure::Cancelled) && !tally.failed(&Failure::Stopped));
        assert_eq!(tally.read(), Tallied::default());
        assert!(tally.failed(&Failure::Wall { limit: Duration::from_secs(1) }));
        let tallied = tally.read();
        assert_eq!(tallied.failures, [(FailureKind::Wall, 1)].into());
        assert_eq!(tallied.limits, [(Limit::Wall, 1)].into());
        assert_eq!(tallied.last_failure.map(|last| last.message).as_deref(), Some("took longer than 1000 ms"));
    }
}
