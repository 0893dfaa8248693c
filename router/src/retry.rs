//! When a request may be sent again. Pure.

use crate::error::RouteError;
use http::Method;

/// Most nodes that one request is sent to.
pub(crate) const ATTEMPTS_MAX: usize = 3;

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

/// RFC 9110 §9.2.2. `TRACE` is not served.
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

#[cfg(test)]
mod tests {
    use super::*;

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
