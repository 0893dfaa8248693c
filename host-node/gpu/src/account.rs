//! What one replica may have of a GPU, and what it has had. Memory is charged where it is asked for and given back where
//! it is freed, so that nothing a guest does makes the driver say no first.

use crate::turns::{Seat, Turns};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Bounds of one replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// Of which adapter, by its id. Default the one of which fewest other replicas have something.
    pub adapter: Option<String>,
    /// Its part of the GPU's time where several replicas want it: of twice the weight is twice the time. Default 1.
    pub weight: u32,
    /// Bytes of buffers and textures, all devices together. Beyond it there is WebGPU's out-of-memory error.
    /// Default 256 MiB.
    pub memory_bytes: u64,
    /// Devices open at a time. One more is refused with an operation error. Default 4.
    pub devices: u32,
    /// Submits of one device that the GPU has not finished. One more waits. Default 16.
    pub submits: u32,
    /// How long the GPU may take for one submit before the device is lost. Default 30 s.
    pub submit_deadline: Duration,
    /// How long one call of the driver may take, such as the compilation of a pipeline, before the device is lost.
    /// Default 30 s.
    pub call_deadline: Duration,
    /// Commands that are recorded and not yet submitted, all devices together. Beyond it the encoder is invalid.
    /// Default 262,144.
    pub commands: u64,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            adapter: None,
            weight: 1,
            memory_bytes: 256 << 20,
            devices: 4,
            submits: 16,
            submit_deadline: Duration::from_secs(30),
            call_deadline: Duration::from_secs(30),
            commands: 1 << 18,
        }
    }
}

/// What one replica did with the GPU since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GpuStats {
    /// Bytes of buffers and textures now.
    pub memory_bytes: u64,
    /// The most it was.
    pub memory_peak_bytes: u64,
    /// Devices open now.
    pub devices: u64,
    /// Time in which the GPU worked on its submits: from when one is submitted until it is done. What several devices have at
    /// the GPU at the same time they share in equal parts, so no time is counted twice.
    pub gpu_time: Duration,
    /// Command buffers' submissions.
    pub submits: u64,
    /// Bytes written to the GPU.
    pub bytes_up: u64,
    /// Bytes read back.
    pub bytes_down: u64,
    /// Time in shader modules and pipelines.
    pub compile_time: Duration,
    /// Devices lost by a fault or a deadline.
    pub losses: u64,
    /// Allocations beyond the quota.
    pub refused: u64,
}

#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) quota: Quota,
    memory: Pot,
    devices: Pot,
    commands: Pot,
    pub(crate) seat: Seat,
    submits: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    compile_ns: AtomicU64,
    losses: AtomicU64,
    /// Of all replicas on the adapter.
    losses_of_adapter: Arc<AtomicU64>,
    refused: AtomicU64,
}

/// Something of which there is so much.
#[derive(Debug, Default)]
struct Pot {
    used: AtomicU64,
    peak: AtomicU64,
}

impl Pot {
    fn take(&self, amount: u64, limit: u64) -> bool {
        let more = |used: u64| used.checked_add(amount).filter(|sum| *sum <= limit);
        let taken = self.used.fetch_update(Relaxed, Relaxed, more).is_ok();
        if taken {
            self.peak.fetch_max(self.used.load(Relaxed), Relaxed);
        }
        taken
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Memory,
    Device,
    Commands,
}

/// Taken until it is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    account: Arc<Account>,
    kind: Kind,
    amount: u64,
}

impl Charge {
    /// So much more of the same. False where there is not so much left.
    pub(crate) fn grow(&mut self, amount: u64) -> bool {
        let grown = self.account.pot(self.kind).take(amount, self.account.limit(self.kind));
        if grown {
            self.amount += amount;
        }
        grown
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.pot(self.kind).used.fetch_sub(self.amount, Relaxed);
    }
}

impl Account {
    pub(crate) fn new(quota: Quota, turns: &Arc<Turns>, losses_of_adapter: Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self {
            seat: turns.join(quota.weight),
            quota,
            memory: Pot::default(),
            devices: Pot::default(),
            commands: Pot::default(),
            submits: AtomicU64::new(0),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            compile_ns: AtomicU64::new(0),
            losses: AtomicU64::new(0),
            losses_of_adapter,
            refused: AtomicU64::new(0),
        })
    }

    fn pot(&self, kind: Kind) -> &Pot {
        match kind {
            Kind::Memory => &self.memory,
            Kind::Device => &self.devices,
            Kind::Commands => &self.commands,
        }
    }

    fn limit(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Memory => self.quota.memory_bytes,
            Kind::Device => u64::from(self.quota.devices),
            Kind::Commands => self.quota.commands,
        }
    }

    fn take(self: &Arc<Self>, kind: Kind, amount: u64) -> Option<Charge> {
        self.pot(kind).take(amount, self.limit(kind)).then(|| Charge { account: self.clone(), kind, amount })
    }

    /// Memory of the GPU, or why not.
    pub(crate) fn memory(self: &Arc<Self>, bytes: u64) -> Result<Charge, String> {
        self.take(Kind::Memory, bytes).ok_or_else(|| {
            self.refused.fetch_add(1, Relaxed);
            let (used, limit) = (self.memory.used.load(Relaxed), self.quota.memory_bytes);
            format!("{bytes} bytes are more than is left of the quota: {used} of {limit} bytes are in use")
        })
    }

    pub(crate) fn device(self: &Arc<Self>) -> Result<Charge, String> {
        self.take(Kind::Device, 1)
            .ok_or_else(|| format!("{} devices are open, more are not allowed", self.quota.devices))
    }

    /// For commands that will be recorded: grow it.
    pub(crate) fn commands(self: &Arc<Self>) -> Charge {
        Charge { account: self.clone(), kind: Kind::Commands, amount: 0 }
    }

    pub(crate) fn compiled(&self, time: Duration) {
        self.compile_ns.fetch_add(nanos(time), Relaxed);
    }

    pub(crate) fn submitted(&self) {
        self.submits.fetch_add(1, Relaxed);
    }

    pub(crate) fn uploaded(&self, bytes: usize) {
        self.up.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn downloaded(&self, bytes: usize) {
        self.down.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn lost(&self) {
        self.losses.fetch_add(1, Relaxed);
        self.losses_of_adapter.fetch_add(1, Relaxed);
    }

    /// Recorded and not submitted.
    #[cfg(test)]
    pub(crate) fn commands_taken(&self) -> u64 {
        self.commands.used.load(Relaxed)
    }

    pub(crate) fn stats(&self) -> GpuStats {
        GpuStats {
            memory_bytes: self.memory.used.load(Relaxed),
            memory_peak_bytes: self.memory.peak.load(Relaxed),
            devices: self.devices.used.load(Relaxed),
            gpu_time: self.seat.used(),
            submits: self.submits.load(Relaxed),
            bytes_up: self.up.load(Relaxed),
            bytes_down: self.down.load(Relaxed),
            compile_time: Duration::from_nanos(self.compile_ns.load(Relaxed)),
            losses: self.losses.load(Relaxed),
            refused: self.refused.load(Relaxed),
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_charged_is_given_back_and_never_more_than_the_quota() {
        let account = Account::new(Quota { memory_bytes: 100, ..Quota::default() }, &Arc::default(), Arc::default());
        let first = account.memory(60).unwrap();
        let refusal = account.memory(41).unwrap_err();
        assert!(refusal.contains("60 of 100"), "{refusal}");
        assert!(account.memory(u64::MAX).is_err(), "no overflow");
        let second = account.memory(40).unwrap();
        drop(first);
        let stats = account.stats();
        assert_eq!((stats.memory_bytes, stats.memory_peak_bytes, stats.refused), (40, 100, 2));
        drop(second);
        assert_eq!(account.stats().memory_bytes, 0);
    }

    #[test]
    fn a_charge_grows_until_the_quota() {
        let account = Account::new(Quota { commands: 3, ..Quota::default() }, &Arc::default(), Arc::default());
        let mut charge = account.commands();
        assert!(charge.grow(2) && charge.grow(1) && !charge.grow(1));
        drop(charge);
        assert!(account.commands().grow(3));
    }
}
