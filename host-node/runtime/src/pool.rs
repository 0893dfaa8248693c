//! Instances between two requests: which are kept, for whom, and for how long.
//!
//! Some guests survive one request only: a second one on the same instance fails without a trap. So until a second use has
//! succeeded a kept instance is given to what may find that out alone ([`Terms::tries`](crate::terms::Terms)); and failures of kept instances count as strikes, which end keeping: see
//! `standing.rs`.

use crate::{host::Host, ledger::One, lock, messaging::MessageGuest, standing::Standing};
use http::uri::PathAndQuery;
use std::{
    any::Any,
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::time::{Interval, MissedTickBehavior, interval};
use wasmtime::Store;
use wasmtime_wasi_http::{p2, p3};

/// How instances are kept for further requests. The state that a guest keeps in its memory lives as long as its instance.
#[derive(Debug, Clone)]
pub struct Reuse {
    /// Off: each request has an instance of its own. Default on.
    pub enabled: bool,
    /// Requests that one instance serves before it is dropped. Default 10000.
    pub requests: u32,
    /// Time after which an unused instance is dropped. Default 30 s.
    pub idle: Duration,
    /// Instances that are kept however long they are unused. Default 1.
    pub min_warm: u32,
    /// Instances of the unit that may live at the same time. Default 64.
    pub max_instances: u32,
    /// Requests that run at the same time in one instance of a component that exports `wasi:http/handler@0.3`; others run
    /// one at a time. They share its memory, its processor time (budgets of [`Limits::cpu`](crate::Limits::cpu) are
    /// charged by samples) and the fate of a trap. Default 1.
    pub concurrency: u32,
    /// What a new instance is asked for, by a GET, before it is kept for requests; twice, as long as it is not known whether
    /// instances can be reused. One that is made for a request that waits has that request instead. Default nothing.
    pub warm_up: Option<PathAndQuery>,
}

impl Default for Reuse {
    fn default() -> Self {
        Self {
            enabled: true,
            requests: 10_000,
            idle: Duration::from_secs(30),
            min_warm: 1,
            max_instances: 64,
            concurrency: 1,
            warm_up: None,
        }
    }
}

/// Why an instance was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Retirement {
    /// It served all requests that it may serve; with reuse off, its only one.
    Spent,
    /// Nobody needed it for the time that [`Reuse::idle`] gives.
    Idle,
    /// It made room for another, while the unit or the node was full.
    Room,
    /// It trapped, exited, or could not be started.
    Trap,
    /// Its memory reached the limit, or three quarters of it, or the node had no more.
    Memory,
    /// A part that it called failed, and it did not survive that.
    Part,
    /// Wall or processor time ran out.
    Timeout,
    /// It ended without a response, or without all of it.
    NoResponse,
    /// It held the place for an answer, or very many handles, after the request was done.
    Leak,
    /// The caller went away, or its request could not be read.
    Cancelled,
    /// The unit was stopped.
    Stopped,
}

impl Retirement {
    /// The name in reports and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Retirement::Spent => "spent",
            Retirement::Idle => "idle",
            Retirement::Room => "room",
            Retirement::Trap => "trap",
            Retirement::Memory => "memory",
            Retirement::Timeout => "timeout",
            Retirement::NoResponse => "no-response",
            Retirement::Leak => "leak",
            Retirement::Cancelled => "cancelled",
            Retirement::Part => "part",
            Retirement::Stopped => "stopped",
        }
    }
}

/// A component in a store of its own, ready to be called.
pub(crate) struct Instance {
    pub(crate) store: Store<Host>,
    pub(crate) guest: Guest,
    /// Where it takes messages.
    pub(crate) handler: Option<MessageGuest>,
    /// Where functions of it are called by their names.
    pub(crate) whole: Option<wasmtime::component::Instance>,
    /// Requests that it has served, its warm-up not among them.
    pub(crate) uses: u32,
    /// It has answered its warm-up, so the next request is not its first.
    pub(crate) warmed: bool,
    pub(crate) idle_since: Instant,
    pub(crate) _alive: Alive,
    /// Its place on the node. Below the store, which must be gone before another instance takes the place.
    pub(crate) _place: One,
}

pub(crate) enum Guest {
    Http02(p2::bindings::Proxy),
    Http03(p3::bindings::Service),
    /// It answers none.
    NoHttp,
}

impl Instance {
    /// It has been asked for nothing.
    fn is_fresh(&self) -> bool {
        self.uses == 0 && !self.warmed
    }

    /// True if the guest still holds the body of a response, so that body has no end.
    pub(crate) fn holds_body(&mut self) -> bool {
        self.handles().any(|handle| handle.is::<p2::body::HostOutgoingBody>())
    }

    /// True if a handle is left over from a request. Language runtimes open some handles once (stdout), and those with
    /// a garbage collector drop others late; both are no leak until they become many. A place for an answer is: the
    /// guest may fill it whenever it likes.
    fn leaks(&mut self) -> bool {
        let mut handles = 0;
        self.handles().any(|handle| {
            handles += 1;
            handles > HANDLES_KEPT_MAX || handle.is::<p2::types::HostResponseOutparam>()
        })
    }

    fn handles(&mut self) -> impl Iterator<Item = &mut (dyn Any + Send)> {
        self.store.data_mut().table.iter_mut()
    }
}

/// Counts an instance for as long as it lives, wherever it is dropped.
pub(crate) struct Alive(Arc<AtomicU32>);

impl Alive {
    pub(crate) fn count(live: &Arc<AtomicU32>) -> Self {
        live.fetch_add(1, Relaxed);
        Self(live.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Handles that an instance may hold between two requests.
const HANDLES_KEPT_MAX: usize = 500;

pub(crate) struct Pool {
    reuse: Reuse,
    idle: Mutex<Vec<Instance>>,
    live: Arc<AtomicU32>,
    created: AtomicU64,
    retired: Mutex<BTreeMap<Retirement, u64>>,
    standing: Arc<Standing>,
}

impl Pool {
    pub(crate) fn new(reuse: Reuse, standing: Arc<Standing>) -> Self {
        Self {
            reuse,
            idle: Mutex::default(),
            live: Arc::default(),
            created: AtomicU64::new(0),
            retired: Mutex::default(),
            standing,
        }
    }

    /// An instance for a call, or `None` for a fresh one; `tries` if the call may be the second use of one before another
    /// has succeeded. The last one used comes first: its memory is in the caches, and those at the bottom get old.
    pub(crate) fn take(&self, tries: bool) -> Option<Instance> {
        let takes_used = !self.standing.is_off() && (self.standing.is_proved() || tries);
        let mut idle = lock(&self.idle);
        let found = match takes_used {
            true => idle.pop(),
            false => idle.iter().position(Instance::is_fresh).map(|at| idle.swap_remove(at)),
        };
        if found.is_none() && !idle.is_empty() && self.live() >= self.reuse.max_instances {
            let old = idle.pop();
            drop(idle);
            self.retire(Retirement::Room);
            drop(old);
        }
        found
    }

    /// Takes an instance back after a request that went well.
    pub(crate) fn give_back(&self, mut instance: Instance) {
        instance.uses += 1;
        if instance.uses > 1 {
            self.standing.reused();
        }
        let _ = self.keep(instance);
    }

    /// What is known of keeping instances of this component.
    pub(crate) fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Takes an instance back that has no work left. Answers why, if it is dropped instead.
    pub(crate) fn keep(&self, mut instance: Instance) -> Option<Retirement> {
        let leaks = instance.leaks();
        let host = instance.store.data_mut();
        host.books.settle(&mut host.table);
        let end = if !self.is_on() || instance.uses >= self.reuse.requests {
            Some(Retirement::Spent)
        } else if leaks {
            Some(Retirement::Leak)
        } else if host.memory.is_nearly_used() || host.memory.refused().is_some() {
            Some(Retirement::Memory)
        } else {
            None
        };
        match end {
            Some(reason) => self.retire(reason),
            None => {
                instance.idle_since = Instant::now();
                lock(&self.idle).push(instance);
            }
        }
        end
    }

    /// A new instance that has served nobody yet.
    pub(crate) fn add(&self, instance: Instance) {
        lock(&self.idle).push(instance);
    }

    pub(crate) fn created(&self) -> Alive {
        self.created.fetch_add(1, Relaxed);
        Alive::count(&self.live)
    }

    pub(crate) fn retire(&self, reason: Retirement) {
        *lock(&self.retired).entry(reason).or_default() += 1;
    }

    /// Drops what nobody has used for long, beyond those that are kept warm, and what was kept before keeping ended.
    pub(crate) fn expire(&self, now: Instant) {
        self.standing.forgive(now);
        if self.standing.is_off() {
            self.drop_used();
        }
        let mut old = Vec::new();
        {
            let mut idle = lock(&self.idle);
            let spare = self.live().saturating_sub(self.reuse.min_warm) as usize;
            for at in (0..idle.len()).rev() {
                let is_old = |kept: &Instance| now.saturating_duration_since(kept.idle_since) >= self.reuse.idle;
                if old.len() < spare && idle.get(at).is_some_and(is_old) {
                    old.push(idle.remove(at));
                }
            }
        }
        for instance in old {
            self.retire(Retirement::Idle);
            drop(instance);
        }
    }

    /// When to look whether there are too many instances, or too few.
    pub(crate) fn ticks(&self) -> Interval {
        let mut ticks = interval((self.reuse.idle / 4).clamp(Duration::from_millis(20), Duration::from_secs(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }

    /// When the instance was last used that has been idle for longest, and whether it is one to keep warm.
    pub(crate) fn oldest(&self) -> Option<(bool, Instant)> {
        let oldest = lock(&self.idle).iter().map(|kept| kept.idle_since).min()?;
        Some((self.live() <= self.reuse.min_warm, oldest))
    }

    /// Drops the instance that has been idle for longest. False if there is none.
    pub(crate) fn evict(&self) -> bool {
        let oldest = {
            let mut idle = lock(&self.idle);
            let oldest = idle.iter().enumerate().min_by_key(|(_, kept)| kept.idle_since).map(|(at, _)| at);
            oldest.map(|at| idle.remove(at))
        };
        if oldest.is_some() {
            self.retire(Retirement::Room);
        }
        oldest.is_some()
    }

    /// How many instances are to be made so that enough are warm. With reuse off they wait for their only request.
    pub(crate) fn cold(&self) -> u32 {
        let warm = self.reuse.min_warm.min(self.reuse.max_instances);
        match self.is_on() {
            true => warm.saturating_sub(self.live()),
            false => warm.saturating_sub(lock(&self.idle).len() as u32),
        }
    }

    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *lock(&self.idle));
        for instance in all {
            self.retire(Retirement::Stopped);
            drop(instance);
        }
    }

    /// Drops those that have been asked for something.
    pub(crate) fn drop_used(&self) {
        let used = lock(&self.idle).extract_if(.., |kept| !kept.is_fresh()).collect::<Vec<_>>();
        for instance in used {
            self.retire(Retirement::Spent);
            drop(instance);
        }
    }

    /// Instances that wait for a request.
    pub(crate) fn idle(&self) -> u32 {
        lock(&self.idle).len() as u32
    }

    pub(crate) fn requests_max(&self) -> u32 {
        self.reuse.requests
    }

    pub(crate) fn is_on(&self) -> bool {
        self.reuse.enabled && !self.standing.is_off()
    }

    pub(crate) fn live(&self) -> u32 {
        self.live.load(Relaxed)
    }

    pub(crate) fn created_so_far(&self) -> u64 {
        self.created.load(Relaxed)
    }

    pub(crate) fn retired(&self) -> BTreeMap<Retirement, u64> {
        lock(&self.retired).clone()
    }
}
