//! Requests that hyper refuses by itself: a head that is malformed or too large is answered before anybody here hears of it.
//! On its way out the answer is told apart from those of requests, gets its `lattice-error`, and is counted and logged.
//!
//! What bytes say proves nothing, since a component may answer the same. So only what is written while nothing of any
//! response can be left in hyper's buffers counts as hyper's own.

use super::activity::Activity;
use crate::{
    Router,
    error::{HEADER_ERROR, RouteError},
    headers::Client,
};
use http::Version;
use std::sync::Arc;

pub(super) struct Unheard {
    serves: Arc<(Router, Client)>,
    activity: Activity,
    /// Requests so far, when hyper had sent all that it had and no response was under way.
    quiet_at: Option<u64>,
}

impl Unheard {
    pub(super) fn new(serves: Arc<(Router, Client)>, activity: Activity) -> Self {
        Self { serves, activity, quiet_at: Some(0) }
    }

    /// hyper has nothing more to send for now.
    pub(super) fn flushed(&mut self) {
        let (begun, ended) = self.activity.counts();
        self.quiet_at = (begun == ended).then_some(begun);
    }

    /// If these bytes are an answer of hyper's own: what is sent in their place. Counts and logs it.
    pub(super) fn rename(&mut self, answer: &[u8]) -> Option<Vec<u8>> {
        let error = refusal(answer)?;
        if self.quiet_at != Some(self.activity.counts().0) {
            return None;
        }
        let (router, client) = &*self.serves;
        router.refused_unheard(client, Version::HTTP_11, &error, Some(error.status()));
        Some(with_error(answer, error.code()))
    }
}

/// What hyper says no to, by its status; nothing where the bytes begin otherwise.
fn refusal(answer: &[u8]) -> Option<RouteError> {
    let status = answer.strip_prefix(b"HTTP/1.")?.get(1..5)?;
    match status {
        b" 431" => Some(RouteError::HeadTooLarge),
        b" 414" => Some(RouteError::UriTooLong),
        b" 400" => Some(RouteError::BadTarget("malformed")),
        _ => None,
    }
}

/// The code as the first header.
fn with_error(answer: &[u8], code: &str) -> Vec<u8> {
    let line = memchr::memchr(b'\n', answer).map_or(answer.len(), |end| end + 1);
    let (status, headers) = answer.split_at(line);
    [status, HEADER_ERROR.as_bytes(), b": ", code.as_bytes(), b"\r\n", headers].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_given_its_reason() {
        let check = |answer: &str, expect: Option<&str>| {
            let named = refusal(answer.as_bytes()).map(|error| with_error(answer.as_bytes(), error.code()));
            assert_eq!(named.map(|named| String::from_utf8(named).unwrap()).as_deref(), expect, "{answer}");
        };
        check(
            "HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\r\n",
            Some(
                "HTTP/1.1 431 Request Header Fields Too Large\r\nlattice-error: head-too-large\r\ncontent-length: 0\r\n\r\n",
            ),
        );
        check(
            "HTTP/1.0 400 Bad Request\r\n\r\n",
            Some("HTTP/1.0 400 Bad Request\r\nlattice-error: bad-request\r\n\r\n"),
        );
        check(
            "HTTP/1.1 414 URI Too Long\r\n\r\n",
            Some("HTTP/1.1 414 URI Too Long\r\nlattice-error: uri-too-long\r\n\r\n"),
        );
        for other in ["HTTP/1.1 404 Not Found\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 43", "", "x"] {
            check(other, None);
        }
    }
}
