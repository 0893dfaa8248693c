//! The door of a unit: how many requests run, how many wait, and for how long. Refuses before any work is done.

use crate::waits::{WaitStats, Waits};
use lattice::http::CallError;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::AcqRel, Ordering::Acquire, Ordering::Release},
    },
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// What a refused caller is told to wait.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Longest wait for a turn. Past it the caller is better served elsewhere.
pub(crate) const QUEUE_WAIT_MAX: Duration = Duration::from_secs(5);

pub(crate) struct Admission {
    turns: Arc<Semaphore>,
    turns_max: u32,
    waiting: AtomicU32,
    waiting_max: u32,
    closed: AtomicBool,
    waits: Waits,
}

impl Admission {
    pub(crate) fn new(turns_max: u32, waiting_max: u32) -> Self {
        let turns_max = turns_max.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize) as u32);
        Self {
            turns: Arc::new(Semaphore::new(turns_max as usize)),
            turns_max,
            waiting: AtomicU32::new(0),
            waiting_max,
            closed: AtomicBool::new(false),
            waits: Waits::default(),
        }
    }

    /// A turn, kept until the guest is done with the request. Waits for one until `deadline` at most.
    pub(crate) async fn enter(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, CallError> {
        if self.is_closed() {
            return Err(CallError::NotHere);
        }
        if let Ok(turn) = self.turns.clone().try_acquire_owned() {
            return Ok(turn);
        }
        let _waiting = self.wait_in_line()?;
        let since = Instant::now();
        let until = deadline.min(since + QUEUE_WAIT_MAX);
        let waited = tokio::time::timeout_at(until, self.turns.clone().acquire_owned()).await;
        self.waits.observe(since.elapsed());
        match waited {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) => Err(CallError::NotHere), // stopped while the request waited
            Err(_) => Err(CallError::Overloaded { retry_after: RETRY_AFTER }),
        }
    }

    fn wait_in_line(&self) -> Result<Waiting<'_>, CallError> {
        let waiting = Waiting(&self.waiting);
        match self.waiting.fetch_add(1, AcqRel) < self.waiting_max {
            true => Ok(waiting),
            false => Err(CallError::Overloaded { retry_after: RETRY_AFTER }),
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Acquire)
    }

    /// Whoever comes now has a turn at once.
    pub(crate) fn has_room(&self) -> bool {
        !self.is_closed() && self.waiting() == 0 && self.turns.available_permits() > 0
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Release);
    }

    /// Turns away those who wait as well.
    pub(crate) fn stop(&self) {
        self.close();
        self.turns.close();
    }

    /// Waits until nobody is inside or in line. Turns are handed out in order, so those who wait come first.
    pub(crate) async fn until_empty(&self) {
        let _ = self.turns.acquire_many(self.turns_max).await;
    }

    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Acquire)
    }

    pub(crate) fn waits(&self) -> WaitStats {
        self.waits.read()
    }

    pub(crate) fn inside(&self) -> u32 {
        self.turns_max.saturating_sub(self.turns.available_permits() as u32)
    }
}

struct Waiting<'a>(&'a AtomicU32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn refuses_when_the_line_is_full_and_serves_it_in_order() {
        let admission = Admission::new(1, 1);
        let deadline = Instant::now() + Duration::from_secs(60);
        assert!(admission.has_room());
        let inside = admission.enter(deadline).await.unwrap();
        assert!(!admission.has_room());
        let mut second = Box::pin(admission.enter(deadline));
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        let refused = admission.enter(deadline).await.unwrap_err();
        assert_eq!(refused, CallError::Overloaded { retry_after: RETRY_AFTER });
        assert_eq!((admission.inside(), admission.waiting()), (1, 1));

        admission.close();
        let mut empty = Box::pin(admission.until_empty());
        assert!(futures_util::poll!(empty.as_mut()).is_pending());
        drop(inside);
        let inside = second.await.expect("it was in line before the door closed");
        assert!(futures_util::poll!(empty.as_mut()).is_pending());
        drop(inside);
        empty.await;
        assert_eq!(admission.enter(deadline).await.unwrap_err(), CallError::NotHere);
    }
}
