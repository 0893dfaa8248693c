//! The same request once more, for another instance.

use crate::{limits::Limits, terms::Terms};
use http_body_util::BodyExt as _;
use lattice::http::{Body, CallError, Request};
use tokio::time::Instant;

/// The same request once more, where that can do no harm: it has nothing to read, and may be repeated.
pub(crate) fn replay(terms: Terms, request: &Request) -> Option<Request> {
    use http_body::Body as _;
    if !terms.repeats || !request.body().is_end_stream() {
        return None;
    }
    Some(with_head_of(request, lattice::http::empty()))
}

fn with_head_of(request: &http::Request<impl Sized>, body: Body) -> Request {
    let mut again = http::Request::new(body);
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.headers_mut() = request.headers().clone();
    *again.version_mut() = request.version();
    again
}

/// The request, and the same once more. Its body is read to its end first, so this is for short ones.
pub(crate) async fn twice(
    request: Request,
    deadline: Instant,
    limits: &Limits,
) -> Result<(Request, Option<Request>), CallError> {
    let (head, body) = request.into_parts();
    let body = match tokio::time::timeout_at(deadline, body.collect()).await {
        Ok(Ok(body)) => body,
        Ok(Err(error)) => return Err(CallError::Body(error)),
        Err(_) => return Err(CallError::Timeout { limit: limits.wall }),
    };
    if body.trailers().is_some() {
        let body = Body::new(body.map_err(|never| match never {}));
        return Ok((http::Request::from_parts(head, body), None));
    }
    let bytes = body.to_bytes();
    let request = http::Request::from_parts(head, lattice::http::full(bytes.clone()));
    let again = with_head_of(&request, lattice::http::full(bytes));
    Ok((request, Some(again)))
}
