//! What the thread of a device and everybody else know of it.

use crate::{
    account::Account,
    device::errors::{Errors, Fault},
    lock,
    turns::Turn,
};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, watch};

/// Room in the queue of jobs, in units: each job takes one, and one more for each [`UNIT_BYTES`] that it carries.
const QUEUE_UNITS: usize = 4_096;
const UNIT_BYTES: usize = 16 << 10;

/// Why a device is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lost {
    /// The guest did it.
    pub(crate) destroyed: bool,
    pub(crate) message: String,
}

pub(crate) struct Shared {
    pub(crate) account: Arc<Account>,
    pub(crate) errors: Mutex<Errors>,
    /// Of jobs in the queue.
    pub(crate) room: Arc<Semaphore>,
    /// Of submits under way.
    pub(crate) submits: Arc<Semaphore>,
    lost: watch::Sender<Option<Lost>>,
    times: Mutex<Times>,
}

#[derive(Default)]
struct Times {
    /// Since when the thread is at its present job.
    busy: Option<Instant>,
    /// When the submits under way began, and their turns at the GPU: the oldest first.
    submits: VecDeque<(Instant, Option<Turn>)>,
    /// When the last one was done.
    done: Option<Instant>,
    /// Mappings that are not there yet.
    maps: usize,
}

impl Times {
    /// Since when the GPU is at the oldest submit, as far as can be seen from here.
    fn head(&self) -> Option<Instant> {
        let first = self.submits.front()?.0;
        Some(self.done.map_or(first, |done| done.max(first)))
    }
}

impl Shared {
    pub(crate) fn new(account: Arc<Account>) -> Arc<Self> {
        let submits = usize::try_from(account.quota.submits.max(1)).unwrap_or(1);
        Arc::new(Self {
            account,
            errors: Mutex::default(),
            room: Arc::new(Semaphore::new(QUEUE_UNITS)),
            submits: Arc::new(Semaphore::new(submits)),
            lost: watch::Sender::new(None),
            times: Mutex::default(),
        })
    }

    /// For a job that carries so many bytes. At most all there is.
    pub(crate) fn units(bytes: usize) -> u32 {
        u32::try_from((1 + bytes / UNIT_BYTES).min(QUEUE_UNITS)).unwrap_or(1)
    }

    pub(crate) fn report(&self, fault: Fault) {
        lock(&self.errors).report(fault);
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.borrow().is_some()
    }

    /// Only the first reason counts.
    pub(crate) fn lose(&self, lost: Lost) {
        self.lost.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                if !lost.destroyed {
                    self.account.lost();
                    tracing::warn!(reason = lost.message, "a GPU device is lost");
                }
                *known = Some(lost);
            }
            first
        });
        self.give_up();
        lock(&self.errors).end();
    }

    /// Until it is.
    pub(crate) async fn until_lost(&self) -> Lost {
        let mut lost = self.lost.subscribe();
        // It can't end before `self` does.
        let lost = lost.wait_for(Option::is_some).await.ok().and_then(|lost| lost.clone());
        lost.unwrap_or(Lost { destroyed: false, message: "the device is gone".into() })
    }

    pub(crate) fn begin_job(&self) {
        lock(&self.times).busy = Some(Instant::now());
    }

    pub(crate) fn end_job(&self) {
        lock(&self.times).busy = None;
    }

    pub(crate) fn begin_submit(&self, turn: Option<Turn>) {
        {
            let mut times = lock(&self.times);
            if times.submits.is_empty() {
                self.account.seat.busy();
            }
            times.submits.push_back((Instant::now(), turn));
        }
        self.account.submitted();
        // Lost meanwhile: nobody would end it.
        if self.is_lost() {
            self.give_up();
        }
    }

    /// The oldest one.
    pub(crate) fn end_submit(&self) {
        let mut times = lock(&self.times);
        times.done = Some(Instant::now());
        let ended = times.submits.pop_front();
        if ended.is_some() && times.submits.is_empty() {
            self.account.seat.idle();
        }
    }

    /// What is under way will not be waited for: others have their turn.
    fn give_up(&self) {
        let mut times = lock(&self.times);
        if !times.submits.is_empty() {
            self.account.seat.idle();
            times.submits.clear();
        }
    }

    pub(crate) fn begin_map(&self) {
        lock(&self.times).maps += 1;
    }

    pub(crate) fn end_map(&self) {
        let mut times = lock(&self.times);
        times.maps = times.maps.saturating_sub(1);
    }

    /// Whether the device must be asked again and again whether something is done.
    pub(crate) fn is_under_way(&self) -> bool {
        let times = lock(&self.times);
        times.maps > 0 || !times.submits.is_empty()
    }

    /// What takes too long now.
    pub(crate) fn overdue(&self, now: Instant) -> Option<String> {
        let quota = &self.account.quota;
        let times = lock(&self.times);
        let late = |since: Option<Instant>, limit: Duration| {
            since.is_some_and(|since| now.saturating_duration_since(since) > limit)
        };
        if late(times.busy, quota.call_deadline) {
            return Some(format!("a call of the GPU's driver took longer than {:?}", quota.call_deadline));
        }
        late(times.head(), quota.submit_deadline)
            .then(|| format!("the GPU worked on one submit for longer than {:?}", quota.submit_deadline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Quota;

    #[test]
    fn a_submit_is_late_counted_from_when_it_is_the_oldest() {
        let quota = Quota { submit_deadline: Duration::from_secs(1), ..Quota::default() };
        let shared = Shared::new(Account::new(quota, &Arc::default(), Arc::default()));
        let now = Instant::now();
        assert_eq!(shared.overdue(now + Duration::from_secs(100)), None, "nothing is under way");
        shared.begin_submit(None);
        shared.begin_submit(None);
        assert_eq!(shared.overdue(now), None);
        assert!(shared.overdue(now + Duration::from_secs(2)).unwrap().contains("submit"));
        shared.end_submit();
        shared.end_submit();
        assert_eq!(shared.overdue(now + Duration::from_secs(2)), None);
        shared.begin_job();
        assert!(shared.overdue(now + Duration::from_secs(60)).unwrap().contains("driver"));
    }

    #[tokio::test]
    async fn a_device_is_lost_once() {
        let shared = Shared::new(Account::new(Quota::default(), &Arc::default(), Arc::default()));
        shared.lose(Lost { destroyed: false, message: "a".into() });
        shared.lose(Lost { destroyed: true, message: "b".into() });
        assert_eq!(shared.until_lost().await.message, "a");
        assert_eq!(shared.account.stats().losses, 1);
    }
}
