//! What the node has found out about keeping instances of a component: whether a second use has succeeded, and whether
//! keeping has failed so often that it ends. One for all replicas of a workload that run the same component here, those to
//! come included: a component that cannot be reused is so in each of them.
//!
//! Not one for all workloads that run it. What counts against a component depends on the requests it gets, and who calls
//! one workload has no say about another.

use crate::lock;
use lattice::id::{Digest, WorkloadName};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::{Notify, futures::Notified};

/// Strikes within the last [`STRIKE_WINDOW`] reused requests that end reuse.
const STRIKES_MAX: usize = 3;
const STRIKE_WINDOW: u64 = 1000;
/// Among the first requests one strike is enough: a guest that cannot be reused shows it at once.
const FIRST_USES: u64 = 16;
/// After this time it is tried again. What failed may have been the requests, or something the guest depended on.
const OFF_FOR: Duration = Duration::from_secs(3600);
/// Components that are remembered without a unit that runs them.
const REMEMBERED_MAX: usize = 4096;

#[derive(Default)]
pub(crate) struct Standing {
    /// Reused requests, successful or not.
    reused: AtomicU64,
    /// A second use has succeeded.
    proved: AtomicBool,
    /// That it is proved, for those who wait for it.
    proof: Notify,
    strikes: Mutex<VecDeque<u64>>,
    /// True where `off` is there: read for each request.
    is_off: AtomicBool,
    off: Mutex<Option<Off>>,
}

/// Instances are no longer kept.
#[derive(Clone)]
pub(crate) struct Off {
    pub(crate) reason: String,
    pub(crate) at: SystemTime,
    since: Instant,
}

impl Standing {
    /// A request of a kept instance went well.
    pub(crate) fn reused(&self) {
        self.reused.fetch_add(1, Relaxed);
        if !self.is_proved() && !self.proved.swap(true, Relaxed) {
            self.proof.notify_waiters();
        }
    }

    /// Resolves when a second use succeeds for the first time. Look at [`Self::is_proved`] once it is enabled.
    pub(crate) fn until_proved(&self) -> Notified<'_> {
        self.proof.notified()
    }

    pub(crate) fn is_proved(&self) -> bool {
        self.proved.load(Relaxed)
    }

    pub(crate) fn is_off(&self) -> bool {
        self.is_off.load(Relaxed)
    }

    pub(crate) fn off(&self) -> Option<Off> {
        if self.is_off() { lock(&self.off).clone() } else { None }
    }

    /// A kept instance failed without a trap. Answers why reuse ends, if it ends now.
    pub(crate) fn strike(&self, what: &str) -> Option<String> {
        let now = self.reused.fetch_add(1, Relaxed) + 1;
        let strikes = {
            let mut strikes = lock(&self.strikes);
            strikes.push_back(now);
            strikes.retain(|at| now.saturating_sub(*at) < STRIKE_WINDOW);
            strikes.len()
        };
        let reason = if now <= FIRST_USES {
            format!("a kept instance {what} (use {now} of kept instances)")
        } else if strikes >= STRIKES_MAX {
            format!("{strikes} kept instances failed within {STRIKE_WINDOW} requests; the last one {what}")
        } else {
            return None;
        };
        let mut off = lock(&self.off);
        if off.is_some() {
            return None;
        }
        *off = Some(Off { reason: reason.clone(), at: SystemTime::now(), since: Instant::now() });
        self.is_off.store(true, Relaxed);
        Some(reason)
    }

    /// To be called now and then: after [`OFF_FOR`] nothing is known any more.
    pub(crate) fn forgive(&self, now: Instant) {
        if !self.is_off() {
            return;
        }
        let mut off = lock(&self.off);
        if off.take_if(|off| now.saturating_duration_since(off.since) >= OFF_FOR).is_some() {
            lock(&self.strikes).clear();
            self.reused.store(0, Relaxed);
            self.proved.store(false, Relaxed);
            self.is_off.store(false, Relaxed);
        }
    }
}

/// Those of one node, while it runs.
#[derive(Default)]
pub(crate) struct Standings(Mutex<BTreeMap<(WorkloadName, Digest), Arc<Standing>>>);

impl Standings {
    pub(crate) fn of(&self, workload: &WorkloadName, digest: Digest) -> Arc<Standing> {
        let mut known = lock(&self.0);
        if known.len() >= REMEMBERED_MAX {
            known.retain(|_, standing| Arc::strong_count(standing) > 1);
        }
        known.entry((workload.clone(), digest)).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(reused: u64) -> Standing {
        Standing { reused: reused.into(), ..Standing::default() }
    }

    #[test]
    fn one_early_strike_ends_reuse() {
        let standing = after(0);
        assert!(standing.strike("returned without a response").unwrap().contains("returned without a response"));
        assert!(standing.is_off());
        assert!(standing.strike("again").is_none(), "said once");
        assert!(standing.off().unwrap().reason.contains("use 1 of"), "the first reason stands");
    }

    #[test]
    fn later_it_takes_three_in_a_thousand() {
        let standing = after(5000);
        assert!(standing.strike("failed").is_none());
        standing.reused.fetch_add(STRIKE_WINDOW, Relaxed);
        assert!(standing.strike("failed").is_none(), "the first one is forgotten");
        assert!(standing.strike("failed").is_none());
        assert!(standing.strike("failed").is_some());
    }

    #[test]
    fn after_a_time_it_is_tried_again_with_as_much_care_as_at_first() {
        let standing = after(100);
        (0..3).for_each(|_| drop(standing.strike("failed")));
        let off = standing.off().unwrap();
        standing.forgive(off.since + OFF_FOR - Duration::from_millis(1));
        assert!(standing.is_off());
        standing.forgive(off.since + OFF_FOR);
        assert!(!standing.is_off() && !standing.is_proved() && standing.off().is_none());
        assert!(standing.strike("failed").is_some(), "among the first uses");
    }

    #[test]
    fn what_is_known_outlives_a_unit_and_is_bounded() {
        let standings = Standings::default();
        let workload = |i: usize| WorkloadName::new(format!("w{i}")).unwrap();
        let digest = Digest::of(b"a component");
        standings.of(&workload(0), digest).strike("failed");
        assert!(standings.of(&workload(0), digest).is_off(), "nobody held it");
        assert!(!standings.of(&workload(1), digest).is_off(), "another workload is another matter");
        assert!(!standings.of(&workload(0), Digest::of(b"its successor")).is_off());
        let held = standings.of(&workload(0), digest);
        (0..3 * REMEMBERED_MAX).for_each(|i| drop(standings.of(&workload(i), digest)));
        assert!(lock(&standings.0).len() <= REMEMBERED_MAX + 1);
        assert!(Arc::ptr_eq(&held, &standings.of(&workload(0), digest)), "what is in use is kept");
    }
}
