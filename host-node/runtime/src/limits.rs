//! What one instance may take, and all instances of a node together: memory by a limiter that wasmtime asks, processor
//! time by the epoch.

use crate::{
    computing::{self, Claim},
    gpu::GpuQuota,
    ledger::Account,
    tally::{Limit, Tally},
};
use std::{
    fmt,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use wasmtime::{ResourceLimiter, Store, UpdateDeadline};

/// Limits of one unit. Reaching one costs the request that did, and its instance; nobody else.
#[derive(Debug, Clone)]
pub struct Limits {
    /// All linear memories of one instance together. Growing beyond it fails inside the guest. At most
    /// [`RuntimeOptions::max_memory_bytes`](crate::RuntimeOptions::max_memory_bytes). Default 128 MiB.
    pub memory_bytes: u64,
    /// From the arrival of a request to the head of its response; beyond it the call ends in
    /// [`CallError::Timeout`](lattice::http::CallError::Timeout). After the head, the longest silence in which no part of
    /// either body passes (noticed after at most twice this time); beyond it the body ends with
    /// [`BodyError::Timeout`](lattice::http::BodyError::Timeout). Default 30 s.
    pub wall: Duration,
    /// Processor time of one request, counted once it has lasted about 10 ms, in steps of 10 ms. Default 200 ms.
    pub cpu: Duration,
    /// Requests that run at the same time. Default 256.
    pub concurrency: u32,
    /// Requests that wait for their turn; one more is refused at once. Default 1024.
    pub queue: u32,
    /// Largest request body. Default 16 MiB.
    pub body_bytes: u64,
    /// What all instances of the unit may have of a GPU together.
    pub gpu: GpuQuota,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 128 << 20,
            wall: Duration::from_secs(30),
            cpu: Duration::from_millis(200),
            concurrency: 256,
            queue: 1024,
            body_bytes: 16 << 20,
            gpu: GpuQuota::default(),
        }
    }
}

/// Streams and futures between the stores of one unit that are open at a time. What is on its way in each is some chunks of
/// 64 KiB on the host's side, or a value of 256 KiB, in no guest's memory, so all of them take some 16 MiB.
pub(crate) const PIPES_MAX: usize = 64;
/// Elements of all tables of one instance together.
const TABLE_ELEMENTS_MAX: usize = 400_000;

/// Linear memory of all instances of one unit, out of that of the node. Units may promise more than there is: each replica
/// reserves its limit once and may have many instances of it.
#[derive(Clone)]
pub(crate) struct NodeMemory {
    pub(crate) account: Arc<Account>,
    reclaim: Arc<Reclaim>,
}

/// Makes some instance that is idle give back what it has, for this unit. False if there is none.
type Reclaim = dyn Fn(&Account) -> bool + Send + Sync;

impl NodeMemory {
    pub(crate) fn new(account: Arc<Account>, reclaim: impl Fn(&Account) -> bool + Send + Sync + 'static) -> Self {
        Self { account, reclaim: Arc::new(reclaim) }
    }

    fn take(&self, bytes: u64) -> bool {
        while !self.account.take(bytes) {
            // What could not be given with all instances gone is not worth one of them.
            if bytes > self.account.total() || !(self.reclaim)(&self.account) {
                return false;
            }
        }
        true
    }

    fn give_back(&self, bytes: u64) {
        self.account.give_back(bytes);
    }
}

/// Who did not give an instance more memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemoryRefusal {
    /// Its own limit.
    Limit,
    /// The node had no more.
    Node,
}

/// Counts the linear memories of one store, which gives its share of the node's memory back with its end.
pub(crate) struct MemoryLimiter {
    limit: u64,
    node: NodeMemory,
    used: u64,
    used_at_start: u64,
    last_growth: u64,
    table_elements: usize,
    refused: Option<MemoryRefusal>,
    tally: Arc<Tally>,
}

impl MemoryLimiter {
    pub(crate) fn new(limit: u64, node: NodeMemory, tally: Arc<Tally>) -> Self {
        Self { limit, node, used: 0, used_at_start: 0, last_growth: 0, table_elements: 0, refused: None, tally }
    }

    /// The latest refusal, if there was one.
    pub(crate) fn refused(&self) -> Option<MemoryRefusal> {
        self.refused
    }

    /// The instance is ready: what it has now it needs, and what it was refused so far it can do without.
    pub(crate) fn started(&mut self) {
        self.used_at_start = self.used;
        self.refused = None;
    }

    /// Bytes that it has.
    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// True if it has grown above three quarters of the limit: the next request may be the one that finds no memory.
    pub(crate) fn is_nearly_used(&self) -> bool {
        self.used > self.used_at_start && self.used >= self.limit - self.limit / 4
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let growth = desired.saturating_sub(current) as u64;
        let used = self.used.saturating_add(growth);
        let refusal = if used > self.limit {
            Some(MemoryRefusal::Limit)
        } else if !self.node.take(growth) {
            Some(MemoryRefusal::Node)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.refused = Some(refusal);
            self.tally.hit(match refusal {
                MemoryRefusal::Limit => Limit::Memory,
                MemoryRefusal::Node => Limit::NodeMemory,
            });
            return Ok(false);
        }
        self.used = used;
        self.tally.memory(used);
        self.last_growth = growth;
        Ok(true)
    }

    /// What was granted did not happen: the memory has a maximum of its own, or the system had no more.
    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        tracing::debug!(error = %format_args!("{error:#}"), "a memory did not grow");
        let growth = std::mem::take(&mut self.last_growth);
        self.used = self.used.saturating_sub(growth);
        self.node.give_back(growth);
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let elements = self.table_elements.saturating_add(desired.saturating_sub(current));
        let granted = elements <= TABLE_ELEMENTS_MAX;
        match granted {
            true => self.table_elements = elements,
            false => self.tally.hit(Limit::Tables),
        }
        Ok(granted)
    }
}

impl Drop for MemoryLimiter {
    fn drop(&mut self) {
        self.node.give_back(self.used);
    }
}

/// Epochs before the first question about processor time. A short request seldom meets one.
const TICKS_BEFORE_METERING: u64 = 1;

/// The guest used up its processor time. Travels through wasmtime as the error of the epoch's callback.
#[derive(Debug)]
pub(crate) struct CpuSpent;

impl fmt::Display for CpuSpent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the processor time is used up")
    }
}

impl std::error::Error for CpuSpent {}

/// Processor time of one request at a time. The clock of the thread is a system call, so short requests are not metered
/// at all: the first epoch callback switches metering on, from then on each poll of the guest is measured.
/// One thread at a time uses it (whoever polls the guest), so relaxed atomics do.
#[derive(Default)]
pub(crate) struct CpuMeter {
    on: AtomicBool,
    mark: AtomicU64,
    spent: AtomicU64,
}

impl CpuMeter {
    pub(crate) fn reset(&self) {
        self.on.store(false, Relaxed);
        self.spent.store(0, Relaxed);
    }

    /// What the request took so far; zero while it is too short to be measured.
    pub(crate) fn spent(&self) -> Duration {
        Duration::from_nanos(self.spent.load(Relaxed))
    }

    /// A future that is measured whenever it is polled, and computes in slices of that share.
    pub(crate) async fn measure<F: Future>(self: Arc<Self>, share: &Arc<computing::Share>, future: F) -> F::Output {
        let mut future = pin!(future);
        let mut claim = Claim::default();
        poll_fn(|cx| {
            claim.poll(share, cx, |cx| {
                self.enter();
                let polled = future.as_mut().poll(cx);
                self.leave();
                polled
            })
        })
        .await
    }

    /// For work of the same request on another task. Several at a time each see what was spent when they began.
    pub(crate) fn branch(self: Arc<Self>) -> Branch {
        let from = self.spent.load(Relaxed);
        // On from the start: many short ones are one long one.
        let meter = Self { on: true.into(), mark: AtomicU64::new(thread_nanos()), spent: from.into() };
        Branch { meter: Arc::new(meter), trunk: self, from }
    }

    /// Before the guest is polled.
    pub(crate) fn enter(&self) {
        if self.on.load(Relaxed) {
            self.mark.store(thread_nanos(), Relaxed);
        }
    }

    /// After the guest was polled.
    pub(crate) fn leave(&self) {
        if self.on.load(Relaxed) {
            self.count();
        }
    }

    /// From inside a poll: what `work` takes is not the request's.
    pub(crate) fn pause<T>(&self, work: impl FnOnce() -> T) -> T {
        self.leave();
        let result = work();
        self.enter();
        result
    }

    /// From inside a poll: so much was spent by another store for this one's request, and measured there. Where this is on
    /// it counts that as well, as part of the poll.
    pub(crate) fn pay(&self, spent: Duration) {
        if !self.on.load(Relaxed) {
            self.spent.fetch_add(u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        }
    }

    /// From inside a poll, at an epoch: the time spent so far.
    fn at_epoch(&self) -> Duration {
        if !self.on.swap(true, Relaxed) {
            self.mark.store(thread_nanos(), Relaxed);
        }
        self.count()
    }

    fn count(&self) -> Duration {
        let now = thread_nanos();
        let step = now.saturating_sub(self.mark.swap(now, Relaxed));
        Duration::from_nanos(self.spent.fetch_add(step, Relaxed).saturating_add(step))
    }
}

/// A meter that counts on from another one, which is charged at the end of this.
pub(crate) struct Branch {
    pub(crate) meter: Arc<CpuMeter>,
    trunk: Arc<CpuMeter>,
    from: u64,
}

impl Drop for Branch {
    fn drop(&mut self) {
        let spent = self.meter.spent.load(Relaxed).saturating_sub(self.from);
        self.trunk.spent.fetch_add(spent, Relaxed);
    }
}

pub(crate) fn thread_nanos() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64)
}

/// Installs both limits in a new store, whose guest computes in slices of that share.
pub(crate) fn apply(store: &mut Store<crate::host::Host>, share: Arc<computing::Share>) {
    store.limiter(|host| &mut host.memory);
    store.epoch_deadline_callback(move |store| {
        let host = store.data();
        if host.meter.at_epoch() > host.limits.cpu {
            return Err(CpuSpent.into());
        }
        // Others have their turn after each tick, so a loop without end blocks nobody.
        Ok(match share.interrupts() {
            true => UpdateDeadline::Yield(1),
            false => UpdateDeadline::Continue(1),
        })
    });
    store.set_epoch_deadline(TICKS_BEFORE_METERING);
}

/// Before a call of a part: its time counts as that of the request that calls, whose meter goes on.
pub(crate) fn begin_part_call(store: &mut Store<crate::host::Host>) {
    store.set_epoch_deadline(TICKS_BEFORE_METERING);
}

/// Before each request: its time starts to count, and a kept instance's old deadline is forgotten.
pub(crate) fn begin_request(store: &mut Store<crate::host::Host>) {
    let host = store.data_mut();
    host.lends_meter = true;
    host.meter.reset();
    store.set_epoch_deadline(TICKS_BEFORE_METERING);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Ledger;

    fn node_memory(ledger: &Arc<Ledger>) -> NodeMemory {
        NodeMemory::new(ledger.open(u64::MAX), |_| false)
    }

    #[test]
    fn memories_are_counted_together() {
        let mut limiter = MemoryLimiter::new(100, node_memory(&Ledger::new(u64::MAX)), Arc::default());
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(!limiter.is_nearly_used());
        assert!(!limiter.memory_growing(0, 60, None).unwrap(), "a second memory counts too");
        assert_eq!(limiter.refused(), Some(MemoryRefusal::Limit));
        limiter.started();
        assert_eq!(limiter.refused(), None, "it did without");
        assert!(!limiter.is_nearly_used());
        assert!(limiter.memory_growing(60, 80, None).unwrap());
        assert!(limiter.is_nearly_used());
    }

    #[test]
    fn instances_share_the_memory_of_the_node() {
        let node = Ledger::new(100);
        let memory = node_memory(&node);
        let tally = Arc::<Tally>::default();
        let limiter = || MemoryLimiter::new(80, memory.clone(), tally.clone());
        let (mut one, mut other) = (limiter(), limiter());
        assert!(one.memory_growing(0, 60, None).unwrap());
        assert!(!other.memory_growing(0, 60, None).unwrap());
        assert_eq!((one.refused(), other.refused()), (None, Some(MemoryRefusal::Node)));
        assert!(other.memory_growing(0, 40, None).unwrap());
        other.memory_grow_failed(wasmtime::Error::msg("the system has no more")).unwrap();
        other.memory_grow_failed(wasmtime::Error::msg("given back once only")).unwrap();
        assert_eq!(node.used(), 60);
        assert!(other.memory_growing(0, 40, None).unwrap());
        assert!(!other.memory_growing(40, usize::MAX, None).unwrap(), "no overflow");
        drop(one);
        assert_eq!(node.used(), 40);
        assert!(other.memory_growing(40, 80, None).unwrap());
        drop(other);
        assert_eq!(node.used(), 0);
        let tallied = tally.read();
        assert_eq!((tallied.memory_peak, tallied.limits), (80, [(Limit::Memory, 1), (Limit::NodeMemory, 1)].into()));
    }

    fn burn(millis: u64) {
        let end = thread_nanos() + millis * 1_000_000;
        while thread_nanos() < end {}
    }

    #[test]
    fn a_branch_counts_on_and_is_charged() {
        let trunk = Arc::<CpuMeter>::default();
        for turn in 1..=3 {
            let branch = trunk.clone().branch();
            assert_eq!(branch.meter.spent(), trunk.spent());
            branch.meter.enter();
            burn(5);
            branch.meter.leave();
            assert!(trunk.spent() < Duration::from_millis(5 * turn), "not yet");
            drop(branch);
            assert!(trunk.spent() >= Duration::from_millis(5 * turn), "short ones count");
        }
        assert!(trunk.spent() < Duration::from_millis(60), "once: {:?}", trunk.spent());
    }

    #[test]
    fn time_between_polls_does_not_count() {
        let meter = CpuMeter::default();
        meter.enter();
        burn(20);
        assert!(meter.at_epoch() < Duration::from_millis(10), "short requests are not metered");
        burn(20);
        meter.leave();
        burn(100);
        meter.enter();
        let spent = meter.at_epoch();
        assert!(spent >= Duration::from_millis(20), "{spent:?}");
        assert!(spent < Duration::from_millis(100), "{spent:?}: work outside of a poll was counted");
    }
}
