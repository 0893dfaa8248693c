//! A node whose answers fail one after the other is left out for a while, longer each time; then one request tries it.

use std::time::Duration;

/// Failures in a row.
const FAILURES_MAX: u32 = 5;
/// How long a node is left out at first; doubled each time that it fails its trial.
const OUT: Duration = Duration::from_secs(5);
const DOUBLINGS_MAX: u32 = 5;
/// Well for so long, a node starts again at the first time.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// Whether a node may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Good,
    /// By one request, to see how it is.
    OnTrial,
    Out,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Outlier {
    /// In a row.
    failures: u32,
    /// When it last failed.
    failed_at: Duration,
    /// Times that it was left out, less those that are forgotten.
    ejections: u32,
    /// Left out until then; past it, until a trial succeeds.
    out_until: Option<Duration>,
    /// A request is trying it.
    trial: bool,
    back_since: Duration,
}

impl Outlier {
    pub(crate) fn standing(&self, now: Duration) -> Standing {
        match self.out_until {
            None => Standing::Good,
            Some(until) if now >= until && !self.trial => Standing::OnTrial,
            Some(_) => Standing::Out,
        }
    }

    pub(crate) fn is_ejected(&self) -> bool {
        self.out_until.is_some()
    }

    /// It is left out, or would be if enough others were left. Where it is not, it is thought of like the others again
    /// after as long.
    pub(crate) fn is_failing(&self, now: Duration) -> bool {
        match self.standing(now) {
            Standing::Out => true,
            Standing::OnTrial => false,
            Standing::Good => self.failures >= FAILURES_MAX && now.saturating_sub(self.failed_at) < OUT,
        }
    }

    /// Nothing speaks against it: an answer would change nothing.
    pub(crate) fn is_well(&self) -> bool {
        self.out_until.is_none() && self.failures == 0
    }

    /// A request is sent there. True if it is the trial.
    pub(crate) fn begin(&mut self, now: Duration) -> bool {
        let is_trial = self.standing(now) == Standing::OnTrial;
        self.trial |= is_trial;
        is_trial
    }

    pub(crate) fn succeed(&mut self, now: Duration) {
        self.failures = 0;
        // What was sent before it was left out says nothing about how it is now.
        if self.out_until.is_some_and(|until| now >= until) {
            (self.out_until, self.trial, self.back_since) = (None, false, now);
        }
    }

    /// `may_eject`: enough others are left.
    pub(crate) fn fail(&mut self, now: Duration, may_eject: bool) {
        self.failures = self.failures.saturating_add(1);
        self.failed_at = now;
        let failed_trial = std::mem::take(&mut self.trial);
        let is_due = self.out_until.is_none() && self.failures >= FAILURES_MAX && may_eject;
        if !is_due && !failed_trial {
            return;
        }
        if !failed_trial && now.saturating_sub(self.back_since) >= FORGET_AFTER {
            self.ejections = 0;
        }
        self.out_until = Some(now.saturating_add(OUT * 2_u32.pow(self.ejections.min(DOUBLINGS_MAX))));
        self.ejections = self.ejections.saturating_add(1);
    }

    /// The trial ended. Where that says nothing of the node, since its client went away, say, another one may try.
    pub(crate) fn end_trial(&mut self) {
        self.trial = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn failing(outlier: &mut Outlier, at: u64, times: u32) {
        for _ in 0..times {
            outlier.fail(seconds(at), true);
        }
    }

    #[test]
    fn five_in_a_row_and_no_fewer() {
        let mut outlier = Outlier::default();
        failing(&mut outlier, 0, FAILURES_MAX - 1);
        outlier.succeed(seconds(0));
        failing(&mut outlier, 0, FAILURES_MAX - 1);
        assert_eq!(outlier.standing(seconds(0)), Standing::Good);
        outlier.fail(seconds(0), false);
        assert_eq!(outlier.standing(seconds(0)), Standing::Good, "too few others are left");
        assert!(outlier.is_failing(seconds(4)) && !outlier.is_failing(seconds(5)));
        outlier.fail(seconds(0), true);
        assert_eq!(outlier.standing(seconds(4)), Standing::Out);
        outlier.succeed(seconds(1));
        assert_eq!(outlier.standing(seconds(4)), Standing::Out, "an answer from before");
    }

    #[test]
    fn one_request_tries_it_and_each_failed_trial_doubles_the_time() {
        let mut outlier = Outlier::default();
        failing(&mut outlier, 0, FAILURES_MAX);
        let mut now = 0;
        for out in [5, 10, 20, 40, 80, 160, 160] {
            assert_eq!(outlier.standing(seconds(now + out - 1)), Standing::Out, "{out}");
            now += out;
            assert_eq!(outlier.standing(seconds(now)), Standing::OnTrial, "{out}");
            assert!(outlier.begin(seconds(now)));
            assert_eq!(outlier.standing(seconds(now)), Standing::Out, "one is enough");
            assert!(!outlier.begin(seconds(now)));
            outlier.end_trial();
            assert_eq!(outlier.standing(seconds(now)), Standing::OnTrial, "{out}");
            outlier.begin(seconds(now));
            outlier.fail(seconds(now), true);
        }
        outlier.begin(seconds(now + 160));
        outlier.succeed(seconds(now + 160));
        assert_eq!(outlier.standing(seconds(now + 160)), Standing::Good);

        // Soon again: longer at once. After a good while: as at first.
        failing(&mut outlier, now + 161, FAILURES_MAX);
        assert_eq!(outlier.standing(seconds(now + 161 + 159)), Standing::Out);
        outlier.succeed(seconds(now + 400));
        failing(&mut outlier, now + 500, FAILURES_MAX);
        assert_eq!(outlier.standing(seconds(now + 505)), Standing::OnTrial);
    }
}
