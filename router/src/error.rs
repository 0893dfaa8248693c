//! Why the router answers by itself, and how. The only place with status codes.
//!
//! Such an answer has the header `lattice-error` with one of these codes; a component's answer never has it.
//!
//! | status | code | meaning |
//! |---|---|---|
//! | 400 | `bad-request` | no host, two hosts, a path that is not plain, two ends of the body; hyper's own, for a head that is malformed |
//! | 400 | `body-broken` | the request's body did not come in full |
//! | 403 | `cors-denied` | a preflight of an origin that the route's `cors` does not name |
//! | 404 | `no-route` | no workload has a route for the host and path, or none for such a request |
//! | 408 | `body-too-slow` | the request's body came more slowly than the ingress, or the workload, has patience |
//! | 413 | `body-too-large` | more body than the workload or the node allows |
//! | 414 | `uri-too-long` | more path and query than the node takes |
//! | 421 | `misdirected` | the TLS connection was opened for another host |
//! | 431 | `head-too-large` | more head than the node takes, or a frame carries |
//! | 501 | `not-implemented` | `CONNECT`, `TRACE`, upgrades but for `h2c`, which is ignored |
//! | 502 | `component-failed` | the component trapped or ended without a response |
//! | 502 | `peer-lost` | the node that ran the component went away, or frames were lost |
//! | 503 | `not-ready` | no instance was ready in time; `retry-after` says when to come again |
//! | 503 | `unreachable` | other nodes have instances, but NATS is out of reach, and the request was not sent or may be sent again; `retry-after` as above |
//! | 503 | `overloaded` | too many requests, here or in the workload's queue; `retry-after` as above |
//! | 504 | `timeout` | no response head within the route's or the workload's limit |

use http::{
    HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
};
use lattice::http::{BodyError, CallError, Response, empty, full};
use std::time::Duration;

/// Names the reason of an answer that is the router's own.
pub const HEADER_ERROR: &str = "lattice-error";

/// Why a request got no response of a component. The text is for the client: it names no node and no cause inside a
/// component.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RouteError {
    #[error("bad request: {0}")]
    BadTarget(&'static str),
    #[error("not implemented: {0}")]
    NotImplemented(&'static str),
    #[error("no workload has a route for this request")]
    NoRoute,
    #[error("the route is not open to scripts of this origin")]
    CorsDenied,
    #[error("the workload is not ready")]
    NotReady,
    #[error("the nodes that run the workload are out of reach")]
    Unreachable,
    #[error("too many requests are under way")]
    Overloaded { retry_after: Duration },
    #[error("the request's body is too large")]
    BodyTooLarge,
    #[error("the request's body did not come in full")]
    BodyBroken,
    #[error("the request's body came too slowly")]
    BodyTooSlow,
    #[error("the path and query are too long")]
    UriTooLong,
    #[error("this connection was opened for another host")]
    Misdirected,
    #[error("the request's head is too large")]
    HeadTooLarge,
    #[error("no response in time")]
    Timeout,
    #[error("the component failed")]
    Failed,
    #[error("the connection to the node that ran the component was lost")]
    PeerLost,
}

impl RouteError {
    /// Stable: the value of `lattice-error`, and a label of metrics.
    pub(crate) fn code(&self) -> &'static str {
        self.describe().1
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.describe().0
    }

    fn describe(&self) -> (StatusCode, &'static str) {
        match self {
            RouteError::BadTarget(_) => (StatusCode::BAD_REQUEST, "bad-request"),
            RouteError::BodyBroken => (StatusCode::BAD_REQUEST, "body-broken"),
            RouteError::BodyTooSlow => (StatusCode::REQUEST_TIMEOUT, "body-too-slow"),
            RouteError::UriTooLong => (StatusCode::URI_TOO_LONG, "uri-too-long"),
            RouteError::Misdirected => (StatusCode::MISDIRECTED_REQUEST, "misdirected"),
            RouteError::CorsDenied => (StatusCode::FORBIDDEN, "cors-denied"),
            RouteError::NoRoute => (StatusCode::NOT_FOUND, "no-route"),
            RouteError::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large"),
            RouteError::HeadTooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-large"),
            RouteError::NotImplemented(_) => (StatusCode::NOT_IMPLEMENTED, "not-implemented"),
            RouteError::Failed => (StatusCode::BAD_GATEWAY, "component-failed"),
            RouteError::PeerLost => (StatusCode::BAD_GATEWAY, "peer-lost"),
            RouteError::NotReady => (StatusCode::SERVICE_UNAVAILABLE, "not-ready"),
            RouteError::Unreachable => (StatusCode::SERVICE_UNAVAILABLE, "unreachable"),
            RouteError::Overloaded { .. } => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            RouteError::Timeout => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            RouteError::NotReady | RouteError::Unreachable => Some(Duration::from_secs(1)),
            RouteError::Overloaded { retry_after } => Some(*retry_after),
            _ => None,
        }
    }

    /// `bodiless`: the request was HEAD.
    pub(crate) fn into_response(self, bodiless: bool) -> Response {
        let (status, code) = self.describe();
        let body = if bodiless { empty() } else { full(format!("{self}\n")) };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(HEADER_ERROR, HeaderValue::from_static(code));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(after) = self.retry_after() {
            // Whole seconds (RFC 9110 §10.2.3), at least one: 0 would ask for a hot loop.
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_millis().div_ceil(1000).max(1) as u64));
        }
        response
    }
}

impl From<&CallError> for RouteError {
    fn from(error: &CallError) -> Self {
        match error {
            CallError::NotHere => RouteError::NotReady,
            CallError::Overloaded { retry_after } => RouteError::Overloaded { retry_after: *retry_after },
            CallError::Timeout { .. } => RouteError::Timeout,
            CallError::Failed { .. } => RouteError::Failed,
            CallError::Body(error) => error.into(),
        }
    }
}

/// Of the request's body.
impl From<&BodyError> for RouteError {
    fn from(error: &BodyError) -> Self {
        match error {
            BodyError::TooLarge { .. } => RouteError::BodyTooLarge,
            BodyError::Aborted(_) => RouteError::BodyBroken,
            BodyError::Timeout => RouteError::BodyTooSlow,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_router_say_so() {
        let second = Duration::from_secs(1);
        for (error, status, code, retry_after) in [
            (RouteError::BadTarget("x"), 400, "bad-request", None),
            (RouteError::BodyBroken, 400, "body-broken", None),
            (RouteError::BodyTooSlow, 408, "body-too-slow", None),
            (RouteError::UriTooLong, 414, "uri-too-long", None),
            (RouteError::Misdirected, 421, "misdirected", None),
            (RouteError::CorsDenied, 403, "cors-denied", None),
            (RouteError::NoRoute, 404, "no-route", None),
            (RouteError::BodyTooLarge, 413, "body-too-large", None),
            (RouteError::HeadTooLarge, 431, "head-too-large", None),
            (RouteError::NotImplemented("x"), 501, "not-implemented", None),
            (RouteError::Failed, 502, "component-failed", None),
            (RouteError::PeerLost, 502, "peer-lost", None),
            (RouteError::NotReady, 503, "not-ready", Some("1")),
            (RouteError::Unreachable, 503, "unreachable", Some("1")),
            (RouteError::Overloaded { retry_after: Duration::ZERO }, 503, "overloaded", Some("1")),
            (RouteError::Overloaded { retry_after: second * 3 / 2 }, 503, "overloaded", Some("2")),
            (RouteError::Timeout, 504, "timeout", None),
        ] {
            let response = error.into_response(false);
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(response.headers()[HEADER_ERROR], code);
            assert_eq!(response.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap()), retry_after);
        }
    }
}
