//! A future that is polled when it was woken itself, not each time its task is. A connection's task is polled for each of
//! its requests; what it waits for beside them (its limits of time, the end of the listener) takes locks that all
//! connections share, and has nothing new to say.

use futures_util::task::AtomicWaker;
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::AcqRel, Ordering::Release},
    },
    task::{Context, Poll, Wake, Waker},
};

pub(crate) struct Rarely<F> {
    future: Pin<Box<F>>,
    bell: Arc<Bell>,
    /// Of the bell: made once, for all polls.
    waker: Waker,
}

/// Rung by what the future waits for.
struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Release);
        self.task.wake();
    }
}

impl<F: Future> Rarely<F> {
    pub(crate) fn new(future: F) -> Self {
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: AtomicWaker::new() });
        Self { future: Box::pin(future), waker: bell.clone().into(), bell }
    }
}

impl<F: Future> Future for Rarely<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        // Before the look, so that a ring after it finds this task.
        this.bell.task.register(cx.waker());
        if !this.bell.rung.swap(false, AcqRel) {
            return Poll::Pending;
        }
        this.future.as_mut().poll(&mut Context::from_waker(&this.waker))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::poll_fn, sync::atomic::AtomicU32, sync::atomic::Ordering::Relaxed};
    use tokio::sync::Notify;

    #[tokio::test]
    async fn it_is_polled_when_it_was_woken() {
        let (polls, due) = (AtomicU32::new(0), Notify::new());
        let mut notified = Box::pin(due.notified());
        let counted = poll_fn(|cx| {
            polls.fetch_add(1, Relaxed);
            notified.as_mut().poll(cx)
        });
        let mut rarely = Rarely::new(counted);
        for _ in 0..3 {
            assert!(futures_util::poll!(&mut rarely).is_pending());
        }
        assert_eq!(polls.load(Relaxed), 1);
        due.notify_one();
        rarely.await;
        assert_eq!(polls.load(Relaxed), 2);
    }
}
