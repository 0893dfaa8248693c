//! The thread of a device: takes jobs in their order, asks the GPU what is done, and drops what may block. A job that
//! panics is the end of the device, not of the thread: what others dropped must still go.

use crate::{
    account::Charge,
    device::{
        lane::{Lane, Sent},
        shared::{Lost, Shared},
    },
    lock,
};
use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    },
    thread,
    time::Duration,
};
use wgpu::PollType;

/// naga and the compilers behind it recurse along a shader, and an overflow of the stack is the end of the process. What
/// the guard lets through needs a quarter of it.
const STACK_BYTES: usize = 64 << 20;
/// How long the thread waits for the GPU before it looks for jobs.
const POLL: Duration = Duration::from_micros(500);
/// Bytes of copies for writes that wgpu may keep.
const STAGED_BYTES_MAX: usize = 32 << 20;
/// Jobs between two looks at what is done.
const JOBS_MAX: u32 = 32;

/// A device, on its thread.
pub(crate) struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) shared: Arc<Shared>,
    /// Bytes that were written since the last submit: wgpu keeps copies of them until then.
    pub(crate) staged: Cell<usize>,
}

/// Opens a device on a thread of its own. The charge goes with the thread.
pub(crate) async fn open(
    shared: Arc<Shared>,
    charge: Charge,
    open: impl FnOnce() -> Result<(wgpu::Device, wgpu::Queue), String> + Send + 'static,
) -> Result<Lane, String> {
    let (lane, jobs) = Lane::new(shared.clone());
    let (sender, opened) = tokio::sync::oneshot::channel();
    let on_thread = move || {
        let _charge = charge;
        shared.begin_job();
        let made = catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|panic| Err(text(&*panic)));
        shared.end_job();
        match made {
            Err(message) => {
                let _ = sender.send(Err(message));
            }
            Ok((device, queue)) => {
                let gpu = Gpu { device, queue, shared, staged: Cell::new(0) };
                gpu.listen();
                let _ = sender.send(Ok(()));
                gpu.run(&jobs);
                // Nobody has a handle any more. Said before wgpu says it, which would be a fault.
                gpu.shared.lose(Lost { destroyed: true, message: "the device was dropped".into() });
                // Waits until the GPU is idle.
                let _ = catch_unwind(AssertUnwindSafe(move || drop(gpu)));
            }
        }
    };
    let thread = thread::Builder::new().name("gpu-device".into()).stack_size(STACK_BYTES);
    thread.spawn(on_thread).map_err(|error| format!("no thread for the device: {error}"))?;
    tokio::select! {
        opened = opened => opened.map_err(|_| "the driver failed to open the device".to_owned())??,
        lost = lane.shared.until_lost() => return Err(lost.message),
    }
    Ok(lane)
}

impl Gpu {
    fn listen(&self) {
        let shared = self.shared.clone();
        self.device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| shared.report(error.into())));
        let shared = self.shared.clone();
        self.device.set_device_lost_callback(move |reason, message| {
            let destroyed = reason == wgpu::DeviceLostReason::Destroyed;
            shared.lose(Lost { destroyed, message });
        });
    }

    fn run(&self, jobs: &Receiver<Sent>) {
        let mut since_poll = 0;
        loop {
            let sent = if self.shared.is_under_way() && !self.shared.is_lost() {
                match jobs.try_recv() {
                    Ok(sent) if since_poll < JOBS_MAX => {
                        since_poll += 1;
                        sent
                    }
                    Ok(sent) => {
                        since_poll = 0;
                        self.guarded(|| self.poll(PollType::Poll));
                        sent
                    }
                    Err(TryRecvError::Disconnected) => return,
                    Err(TryRecvError::Empty) => {
                        since_poll = 0;
                        let wait = PollType::Wait { submission_index: None, timeout: Some(POLL) };
                        if !self.guarded(|| self.poll(wait)) || !self.shared.is_under_way() {
                            continue;
                        }
                        // The GPU is idle, and still something is not done: don't spin.
                        match jobs.recv_timeout(POLL) {
                            Ok(sent) => sent,
                            Err(RecvTimeoutError::Timeout) => continue,
                            Err(RecvTimeoutError::Disconnected) => return,
                        }
                    }
                }
            } else {
                match jobs.recv() {
                    Ok(sent) => sent,
                    Err(_) => return,
                }
            };
            match sent {
                Sent::Job { run, room } => {
                    // Whoever waits for an answer sees that nobody will give one.
                    if !self.shared.is_lost() {
                        self.shared.begin_job();
                        self.guarded(|| {
                            run(self);
                            true
                        });
                        self.shared.end_job();
                    }
                    drop(room);
                }
                Sent::Dropped(value) => {
                    self.guarded(|| {
                        drop(value);
                        true
                    });
                }
            }
        }
    }

    /// So many bytes are on their way. Where a guest writes and writes and submits nothing, this does, and waits.
    pub(crate) fn stage(&self, bytes: usize) {
        self.shared.account.uploaded(bytes);
        self.staged.set(self.staged.get().saturating_add(bytes));
        if self.staged.get() > STAGED_BYTES_MAX {
            self.staged.set(0);
            self.queue.submit([]);
            self.poll(PollType::Wait {
                submission_index: None,
                timeout: Some(self.shared.account.quota.call_deadline),
            });
        }
    }

    /// Whether everything that was submitted is done.
    fn poll(&self, how: PollType) -> bool {
        self.device.poll(how).is_ok_and(|status| status.wait_finished())
    }

    /// A panic is a fault of wgpu or a driver, and leaves the device in a state that nobody knows.
    fn guarded(&self, call: impl FnOnce() -> bool) -> bool {
        catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
            let message = format!("the GPU's driver or wgpu failed: {}", text(&*panic));
            self.shared.lose(Lost { destroyed: false, message });
            false
        })
    }

    /// Run something that makes errors, which are its answer and reach nobody else.
    pub(crate) fn capturing<R>(&self, call: impl FnOnce() -> R) -> Result<R, crate::device::Fault> {
        lock(&self.shared.errors).capture();
        let result = call();
        match lock(&self.shared.errors).captured() {
            Some(fault) => Err(fault),
            None => Ok(result),
        }
    }
}

pub(crate) fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic").to_owned()
}
