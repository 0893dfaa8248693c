//! A device, and the work that it does for callbacks.
//!
//! wgpu has callbacks where the interface has async functions: of mappings, and of submits that are done. Each is a [`Job`].
//! Jobs go on while the guest awaits something, in tasks of their own, and while it calls [`Shared::poll`], which waits.

use crate::{
    bindings::{GpuDevice, GpuQueue},
    convert::Inexpressible,
    errors::Errors,
};
use std::{
    cell::{Cell, RefCell},
    fmt,
    future::poll_fn,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll},
    time::Duration,
};
use wasip3::{clocks::monotonic_clock::wait_for, spawn_local, wit_bindgen::block_on};

/// How long `PollType::Poll` looks whether the GPU is done. A host tells nothing to who does not wait at all.
pub(crate) const GLANCE: Duration = Duration::from_millis(1);
/// How often a task looks whether somebody else ended its job.
const TICK: Duration = Duration::from_millis(20);

thread_local! {
    /// All jobs that are not done, of all devices.
    static JOBS: RefCell<Vec<Rc<Job>>> = const { RefCell::new(Vec::new()) };
    static DEVICES: RefCell<Vec<Weak<Shared>>> = const { RefCell::new(Vec::new()) };
    /// Whether somebody is in [`Shared::poll`]. What is spawned meanwhile runs there, and must not hold it up.
    static IS_POLLING: Cell<bool> = const { Cell::new(false) };
}

pub(crate) struct Shared {
    pub(crate) gpu: GpuDevice,
    pub(crate) queue: GpuQueue,
    pub(crate) errors: Errors,
    pub(crate) features: wgpu::Features,
    pub(crate) limits: wgpu::Limits,
    pub(crate) info: wgpu::AdapterInfo,
    submits: Cell<u64>,
    /// Up to which submit all are known to be done.
    done: Cell<u64>,
    /// See [`crate::buffer::not_mapped`].
    pub(crate) makes_unmapped: Cell<bool>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({:?})", self.gpu)
    }
}

struct Job {
    of: Rc<Shared>,
    /// None while it is polled, and when it is done.
    work: RefCell<Option<Pin<Box<dyn Future<Output = ()>>>>>,
    is_done: Cell<bool>,
    is_watched: Cell<bool>,
}

impl Job {
    fn poll(&self, context: &mut Context<'_>) {
        let Some(mut work) = self.work.take() else { return };
        match work.as_mut().poll(context) {
            Poll::Ready(()) => self.is_done.set(true),
            Poll::Pending => {
                self.work.replace(Some(work));
            }
        }
    }

    fn waits(&self) -> bool {
        self.work.borrow().is_some()
    }

    /// Has a task go on with it. One that is in [`Shared::poll`] ends; another one follows.
    fn watch(self: Rc<Self>) {
        self.is_watched.set(true);
        let mut tick = None;
        spawn_local(poll_fn(move |context| {
            if IS_POLLING.get() {
                self.is_watched.set(false);
                return Poll::Ready(());
            }
            self.poll(context);
            if self.is_done.get() {
                forget_done();
                self.of.errors.look(context);
                return Poll::Ready(());
            }
            // Another task may end the job, and must not wake this one: tasks of a component can't do that.
            loop {
                let wait = tick.get_or_insert_with(|| Box::pin(wait_for(nanoseconds(TICK))));
                if wait.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                tick = None;
            }
        }));
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn forget_done() {
    JOBS.with_borrow_mut(|jobs| jobs.retain(|job| !job.is_done.get()));
}

fn jobs() -> Vec<Rc<Job>> {
    JOBS.with_borrow(Vec::clone)
}

/// Polls each device. Whether all of them have nothing to do.
pub(crate) fn poll_all(waits: bool) -> bool {
    let devices = DEVICES.with_borrow_mut(|devices| {
        devices.retain(|device| device.strong_count() > 0);
        devices.clone()
    });
    let limit = if waits { None } else { Some(GLANCE) };
    devices.iter().filter_map(Weak::upgrade).fold(true, |all, device| device.poll(limit) && all)
}

impl Shared {
    pub(crate) fn new(
        gpu: GpuDevice,
        features: wgpu::Features,
        limits: wgpu::Limits,
        info: wgpu::AdapterInfo,
    ) -> Rc<Self> {
        let queue = gpu.queue();
        let errors = Errors::of(&gpu);
        let (submits, done, makes_unmapped) = Default::default();
        let shared = Rc::new(Self { gpu, queue, errors, features, limits, info, submits, done, makes_unmapped });
        DEVICES.with_borrow_mut(|devices| {
            devices.retain(|device| device.strong_count() > 0);
            devices.push(Rc::downgrade(&shared));
        });
        shared
    }

    /// What can't be said to the host is a validation error.
    pub(crate) fn checked<T>(&self, make: impl FnOnce() -> Result<T, Inexpressible>) -> Option<T> {
        make().map_err(|message| self.errors.report(message)).ok()
    }

    pub(crate) fn submitted(&self) -> u64 {
        self.submits.set(self.submits.get() + 1);
        self.submits.get()
    }

    pub(crate) fn submits(&self) -> u64 {
        self.submits.get()
    }

    /// Goes on with that until it is done, in the order in which jobs began.
    pub(crate) fn begin(self: &Rc<Self>, work: impl Future<Output = ()> + 'static) {
        let work: Pin<Box<dyn Future<Output = ()>>> = Box::pin(work);
        let job = Job {
            of: self.clone(),
            work: RefCell::new(Some(work)),
            is_done: Cell::new(false),
            is_watched: Cell::new(false),
        };
        let job = Rc::new(job);
        JOBS.with_borrow_mut(|jobs| jobs.push(job.clone()));
        if !IS_POLLING.get() {
            job.watch();
        }
    }

    /// Waits until everything that was submitted is done, for so long at most, and calls whoever waits for it. Whether it
    /// is done.
    pub(crate) fn poll(self: &Rc<Self>, limit: Option<Duration>) -> bool {
        let was_polling = IS_POLLING.replace(true);
        let is_idle = block_on(async {
            let is_idle = self.until_idle(limit).await;
            if is_idle {
                // Soon over: nothing is at the GPU that they could wait for.
                poll_fn(|context| self.run(context)).await;
            }
            poll_fn(|context| Poll::Ready(self.errors.look(context))).await;
            is_idle
        });
        IS_POLLING.set(was_polling);
        forget_done();
        if !was_polling {
            let unwatched = jobs().into_iter().filter(|job| !job.is_watched.get());
            unwatched.for_each(Job::watch);
        }
        is_idle
    }

    fn run(self: &Rc<Self>, context: &mut Context<'_>) -> Poll<()> {
        let mine = || jobs().into_iter().filter(|job| Rc::ptr_eq(&job.of, self));
        mine().for_each(|job| job.poll(context));
        // One that is being polled further out is who called this.
        if mine().any(|job| job.waits()) { Poll::Pending } else { Poll::Ready(()) }
    }

    async fn until_idle(&self, limit: Option<Duration>) -> bool {
        let submits = self.submits.get();
        if submits == self.done.get() {
            return true;
        }
        let mut done = Box::pin(self.queue.on_submitted_work_done());
        let mut over = limit.map(|limit| Box::pin(wait_for(nanoseconds(limit))));
        poll_fn(|context| {
            if done.as_mut().poll(context).is_ready() {
                self.done.set(submits);
                return Poll::Ready(true);
            }
            match over.as_mut().map(|over| over.as_mut().poll(context)) {
                Some(Poll::Ready(())) => Poll::Ready(false),
                _ => Poll::Pending,
            }
        })
        .await
    }
}
