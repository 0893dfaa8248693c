//! The way to the thread of a device.

use crate::device::{
    errors::Fault,
    object::Object,
    shared::{Lost, Shared},
    thread::Gpu,
};
use std::sync::{Arc, mpsc};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

pub(crate) type Job = Box<dyn FnOnce(&Gpu) + Send>;

/// What the thread is sent.
pub(crate) enum Sent {
    Job {
        run: Job,
        /// Its place in the queue, until it is done.
        room: Option<OwnedSemaphorePermit>,
    },
    /// To be dropped there, because that may block.
    Dropped(Box<dyn Send>),
}

/// The thread ends when all of these are gone.
#[derive(Clone)]
pub(crate) struct Lane {
    sender: mpsc::Sender<Sent>,
    pub(crate) shared: Arc<Shared>,
}

impl Lane {
    pub(crate) fn new(shared: Arc<Shared>) -> (Self, mpsc::Receiver<Sent>) {
        let (sender, receiver) = mpsc::channel();
        (Self { sender, shared }, receiver)
    }

    /// An object of this device that its thread has not made yet.
    pub(crate) fn object<T: Send + 'static>(&self) -> Object<T> {
        Object::new(self.sender.clone())
    }

    /// Something to be done in its turn, which carries so many bytes. Waits for a place in the queue. Nothing is done once
    /// the device is lost.
    pub(crate) async fn send(&self, bytes: usize, job: impl FnOnce(&Gpu) + Send + 'static) {
        if self.shared.is_lost() {
            return;
        }
        let room = self.shared.room.clone().acquire_many_owned(Shared::units(bytes));
        let room = tokio::select! {
            room = room => room.ok(),
            _ = self.shared.until_lost() => return,
        };
        let _ = self.sender.send(Sent::Job { run: Box::new(job), room });
    }

    /// An error in its turn, unless the queue is full.
    pub(crate) fn report(&self, fault: Fault) {
        if let Ok(room) = self.shared.room.clone().try_acquire_owned() {
            let run: Job = Box::new(move |gpu| gpu.shared.report(fault));
            let _ = self.sender.send(Sent::Job { run, room: Some(room) });
        }
    }

    /// The same with an answer. `None`: the device is lost.
    pub(crate) async fn ask<R: Send + 'static>(
        &self,
        bytes: usize,
        job: impl FnOnce(&Gpu) -> R + Send + 'static,
    ) -> Option<R> {
        self.ask_later(bytes, |gpu, answer| {
            let _ = answer.send(job(gpu));
        })
        .await
    }

    /// The same where the answer comes some time after the job.
    pub(crate) async fn ask_later<R: Send + 'static>(
        &self,
        bytes: usize,
        job: impl FnOnce(&Gpu, oneshot::Sender<R>) + Send + 'static,
    ) -> Option<R> {
        let (sender, answer) = oneshot::channel();
        self.send(bytes, move |gpu| job(gpu, sender)).await;
        tokio::select! {
            biased;
            answer = answer => answer.ok(),
            _ = self.shared.until_lost() => None,
        }
    }

    /// The device is no more from here on, for those who ask; what was sent before is done.
    pub(crate) async fn destroy(&self) {
        self.send(0, |gpu| {
            gpu.device.destroy();
            gpu.shared.lose(Lost { destroyed: true, message: "the device was destroyed".into() });
        })
        .await;
    }
}
