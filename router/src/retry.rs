//! When a request may be sent again. Pure.

use crate::error::RouteError;
use http::{Method, StatusCode};
use lattice::spec::{Route, is_idempotent};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Most nodes that one request is sent to.
pub(crate) const ATTEMPTS_MAX: usize = 3;
/// Responses that may be set aside at a time, however few requests are under way.
const REPEATS_MIN: usize = 10;
/// One in so many of the requests that are under way, where that is more: a workload that fails most requests is not to get
/// three times as many of them.
const REPEATS_SHARE: usize = 5;
/// Longest pause before the second attempt after a response that was set aside; twice that before the third.
const PAUSE: Duration = Duration::from_millis(25);

/// What a route says of requests that a component may have seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy<'a> {
    /// Times that components may see one request.
    pub(crate) attempts: usize,
    /// Statuses that are no answers.
    on: &'a [u16],
}

impl<'a> Policy<'a> {
    pub(crate) fn of(rule: Option<&'a Route>) -> Self {
        match rule.and_then(|rule| rule.retry.as_ref()) {
            Some(retry) => Self { attempts: (retry.attempts as usize).clamp(1, ATTEMPTS_MAX), on: &retry.on },
            None => Self { attempts: ATTEMPTS_MAX, on: &[] },
        }
    }

    /// Whether a request's body is worth keeping for another attempt, though a component here could read it as it comes.
    pub(crate) fn keeps_body(&self, method: &Method) -> bool {
        !self.on.is_empty() && is_idempotent(method)
    }

    /// Whether a component's response may be set aside. `seen`: how often components have seen the request, this time included.
    pub(crate) fn may_repeat(&self, status: StatusCode, method: &Method, body_is_intact: bool, seen: usize) -> bool {
        self.on.contains(&status.as_u16()) && seen < self.attempts && body_is_intact && is_idempotent(method)
    }
}

/// How many responses are set aside at the moment, over all requests of the node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Budget(Arc<AtomicUsize>);

/// A part of the budget, until it is dropped.
#[derive(Debug)]
pub(crate) struct Repeat(Arc<AtomicUsize>);

impl Budget {
    pub(crate) fn take(&self, under_way: usize) -> Option<Repeat> {
        let most = REPEATS_MIN.max(under_way / REPEATS_SHARE);
        let one_more = |taken: usize| (taken < most).then_some(taken + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Repeat(self.0.clone()))
    }
}

impl Drop for Repeat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Pause before the next attempt; `random` is a uniform number, so that many requests do not come again at the same moment.
pub(crate) fn pause(seen: usize, random: u64) -> Duration {
    let longest = u64::try_from((PAUSE * u32::try_from(seen).unwrap_or(1)).as_micros()).unwrap_or(0);
    Duration::from_micros(random.checked_rem(longest).unwrap_or(0))
}

/// An attempt that brought no response head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unanswered {
    pub(crate) error: RouteError,
    /// No guest code has seen the request.
    pub(crate) nothing_ran: bool,
}

impl Unanswered {
    /// An attempt of which a guest may have seen something.
    pub(crate) fn maybe_ran(error: RouteError) -> Self {
        Self { error, nothing_ran: false }
    }

    pub(crate) fn nothing_ran(error: RouteError) -> Self {
        Self { error, nothing_ran: true }
    }

    /// Whether another node may be asked. `body_is_intact`: the whole body of the request can be sent once more.
    pub(crate) fn may_retry(&self, method: &Method, body_is_intact: bool) -> bool {
        let elsewhere_may_help = matches!(
            self.error,
            RouteError::NotReady
                | RouteError::Unreachable
                | RouteError::Overloaded { .. }
                | RouteError::Failed
                | RouteError::PeerLost
        );
        elsewhere_may_help && body_is_intact && (self.nothing_ran || is_idempotent(method))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listed_status_of_what_can_be_repeated_is_set_aside() {
        let route = |retry: &str| {
            let yaml = format!(
                "name: a\ncomponents: [{{name: a, source: 'file:a'}}]\nhttp: {{routes: [{{host: '*', retry: {retry}}}]}}\n"
            );
            lattice::spec::parse(yaml.as_bytes()).unwrap().http.routes.remove(0)
        };
        let (twice, once, quiet) = (route("{attempts: 2, on: [503]}"), route("{attempts: 1}"), route("{}"));
        for (route, status, method, intact, seen, expect) in [
            (Some(&twice), 503, Method::GET, true, 1, true),
            (Some(&twice), 503, Method::PUT, true, 1, true),
            (Some(&twice), 503, Method::POST, true, 1, false),
            (Some(&twice), 503, Method::GET, false, 1, false),
            (Some(&twice), 503, Method::GET, true, 2, false),
            (Some(&twice), 502, Method::GET, true, 1, false),
            (Some(&quiet), 503, Method::GET, true, 1, false),
            (None, 503, Method::GET, true, 1, false),
        ] {
            let policy = Policy::of(route);
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(
                policy.may_repeat(status, &method, intact, seen),
                expect,
                "{policy:?} {status} {method} {intact} {seen}"
            );
        }
        assert_eq!((Policy::of(Some(&once)).attempts, Policy::of(None).attempts), (1, 3));
    }

    #[test]
    fn few_responses_are_set_aside_at_a_time() {
        let budget = Budget::default();
        let held: Vec<Repeat> = std::iter::from_fn(|| budget.take(0)).collect();
        assert_eq!(held.len(), REPEATS_MIN);
        assert!(budget.take(5 * REPEATS_MIN).is_none());
        let more = budget.take(5 * (REPEATS_MIN + 1)).unwrap();
        drop((held, more));
        assert!(budget.take(0).is_some());
        for (seen, random) in [(1, 24_999), (2, 49_999), (1, 25_000), (0, 7)] {
            assert!(pause(seen, random) < PAUSE * 2, "{seen} {random}");
        }
    }

    #[test]
    fn retry_needs_a_body_and_a_proof_or_an_idempotent_method() {
        let patch = Method::PATCH;
        for (method, error, nothing_ran, intact, expect) in [
            (&Method::POST, RouteError::NotReady, true, true, true),
            (&Method::POST, RouteError::Unreachable, true, true, true),
            (&Method::POST, RouteError::PeerLost, true, true, true),
            (&Method::POST, RouteError::NotReady, true, false, false),
            (&Method::POST, RouteError::PeerLost, false, true, false),
            (&patch, RouteError::Failed, false, true, false),
            (&Method::GET, RouteError::PeerLost, false, true, true),
            (&Method::GET, RouteError::Failed, false, true, true),
            (&Method::HEAD, RouteError::Failed, false, true, true),
            (&Method::OPTIONS, RouteError::Failed, false, true, true),
            (&Method::DELETE, RouteError::Failed, false, true, true),
            (&Method::PUT, RouteError::PeerLost, false, true, true),
            (&Method::PUT, RouteError::PeerLost, false, false, false),
            (&Method::GET, RouteError::Timeout, false, true, false),
            (&Method::GET, RouteError::HeadTooLarge, true, true, false),
            (&Method::GET, RouteError::BodyBroken, true, true, false),
        ] {
            let attempt = Unanswered { error: error.clone(), nothing_ran };
            assert_eq!(attempt.may_retry(method, intact), expect, "{method} {error:?} {nothing_ran} {intact}");
        }
    }
}
