//! Processor time in an instance that several requests share. At each epoch the time since the last look goes to the
//! request whose task is running then: a sample every 10 ms at most, right in the mean, and nothing for what is short.

use crate::{
    computing::Share,
    exchange::Shared,
    host::Host,
    limits::{CpuSpent, thread_nanos},
    lock,
    tally::Tally,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use wasmtime::{Store, UpdateDeadline, component::GuestTaskId};

/// Epochs that a guest may compute before the first sample, counted from each return to its loop.
pub(super) const TICKS_BEFORE_SAMPLE: u64 = 1;

/// Who spent how much. One thread at a time uses it (whoever polls the guest), so relaxed atomics do.
pub(super) struct Accounts {
    tally: Arc<Tally>,
    mark: AtomicU64,
    /// The guest was interrupted, and goes on computing when it is polled.
    interrupted: AtomicBool,
    tasks: Mutex<Tasks>,
}

#[derive(Default)]
struct Tasks {
    /// A number may be used again once its task is done, so there are never more than tasks at one time.
    spent: BTreeMap<GuestTaskId, (Arc<Shared>, Duration)>,
    guilty: Option<Arc<Shared>>,
}

impl Accounts {
    /// From now on the store asks here.
    pub(super) fn open(store: &mut Store<Host>, tally: Arc<Tally>, share: Arc<Share>) -> Arc<Self> {
        let accounts = Arc::new(Self { tally, mark: 0.into(), interrupted: false.into(), tasks: Mutex::default() });
        let at_epoch = accounts.clone();
        store.data_mut().lends_meter = false; // nobody measures with it here
        store.epoch_deadline_callback(move |mut store| {
            let gives_way = share.interrupts();
            at_epoch.interrupted.fetch_or(gives_way, Relaxed);
            let step = at_epoch.step();
            let limit = store.data().limits.cpu;
            let root = store.async_call_stack()?.last();
            if root.is_some_and(|task| at_epoch.charge(task, step, limit)) {
                return Err(CpuSpent.into());
            }
            Ok(match gives_way {
                true => UpdateDeadline::Yield(1),
                false => UpdateDeadline::Continue(1),
            })
        });
        store.set_epoch_deadline(TICKS_BEFORE_SAMPLE);
        accounts
    }

    /// A request has begun, as this task.
    pub(super) fn begin(&self, task: GuestTaskId, exchange: &Arc<Shared>) {
        lock(&self.tasks).spent.insert(task, (exchange.clone(), Duration::ZERO));
    }

    /// Before the guest is polled.
    pub(super) fn enter(&self) {
        self.mark.store(thread_nanos(), Relaxed);
    }

    /// The guest is in nobody's task.
    pub(super) fn at_loop(&self) {
        self.interrupted.store(false, Relaxed);
    }

    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Relaxed)
    }

    /// Whose time ran out.
    pub(super) fn guilty(&self) -> Option<Arc<Shared>> {
        lock(&self.tasks).guilty.clone()
    }

    fn step(&self) -> Duration {
        let now = thread_nanos();
        Duration::from_nanos(now.saturating_sub(self.mark.swap(now, Relaxed)))
    }

    /// True if that was too much.
    fn charge(&self, task: GuestTaskId, step: Duration, limit: Duration) -> bool {
        let mut tasks = lock(&self.tasks);
        let Some((exchange, spent)) = tasks.spent.get_mut(&task) else { return false };
        *spent += step;
        self.tally.cpu(*spent);
        if *spent <= limit {
            return false;
        }
        tasks.guilty = Some(exchange.clone());
        true
    }
}
