//! What a unit tells of a request in a trace: how long it waited for its turn, what the guest did, and what the guest asked
//! for outside. Only of requests whose trace is recorded; the others cost a look.

use crate::{
    inherited::Inherited,
    parts::Running,
    unit::{Inner, UnitConfig},
};
use http::{HeaderMap, Request, Response, Uri, header};
use lattice::trace::{OpenSpan, SpanKind, Tracer};
use wasmtime_wasi_http::Error;

/// From the door to the guest.
pub(crate) fn queue(unit: &Inner, headers: &HeaderMap) -> Option<OpenSpan> {
    unit.tracer().within(headers, SpanKind::Internal, "queue")
}

/// The guest at work on a request: what it asks for outside is a part of it. Ends with the guest.
pub(crate) fn guest<B>(unit: &Inner, request: &mut Request<B>) -> Option<OpenSpan> {
    let mut span = unit.tracer().within(request.headers(), SpanKind::Internal, "guest")?;
    let UnitConfig { workload, replica, .. } = &unit.blueprint.config;
    span.set("lattice.workload", workload.to_string());
    span.set("lattice.replica", u64::from(*replica));
    span.set("lattice.component.digest", unit.blueprint.component.digest().to_string());
    span.inject(request.headers_mut());
    Some(span)
}

/// A call of a part, its wait for a turn included: what that one asks for and calls is a part of it. Ends with the call.
pub(crate) fn call(part: &Running, inherited: &mut Inherited) -> Option<OpenSpan> {
    let tracer = part.maker.tracer();
    if !tracer.is_on() {
        return None;
    }
    let mut span = tracer.under(inherited.traceparent()?, SpanKind::Internal, format!("part {}", part.name))?;
    let UnitConfig { workload, replica, .. } = &part.maker.blueprint.config;
    span.set("lattice.workload", workload.to_string());
    span.set("lattice.replica", u64::from(*replica));
    span.set("lattice.part", part.name.to_string());
    span.set("lattice.part.role", part.role.as_str());
    inherited.within(&span);
    Some(span)
}

/// A request of a guest. Ends with the head of the response.
pub(crate) fn outgoing<B>(tracer: &Tracer, request: &mut Request<B>) -> Option<OpenSpan> {
    let mut span = tracer.within(request.headers(), SpanKind::Client, "HTTP")?;
    let method = request.method().to_string();
    span.rename(method.clone());
    span.set("http.request.method", method);
    let uri = request.uri();
    if let Some(host) = uri.host() {
        span.set("server.address", host.to_owned());
    }
    let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    span.set("server.port", uri.port_u16().unwrap_or(default));
    span.set("url.full", without_query(uri));
    span.inject(request.headers_mut());
    Some(span)
}

/// What came of it.
pub(crate) fn answered<B>(span: Option<OpenSpan>, outcome: &Result<Response<B>, Error>) {
    let Some(mut span) = span else { return };
    match outcome {
        Ok(response) => {
            let status = response.status();
            span.set("http.response.status_code", status.as_u16());
            if let Some(length) = response.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok())
                && let Ok(length) = length.parse::<u64>()
            {
                span.set("http.response.body.size", length);
            }
            // For who asks, what it did wrong is an error too.
            if status.is_client_error() || status.is_server_error() {
                span.fail(status.as_str().to_owned());
            }
        }
        Err(error) => span.fail(code(error)),
    }
}

/// Queries may hold secrets.
fn without_query(uri: &Uri) -> String {
    let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
    format!("{}://{authority}{}", uri.scheme_str().unwrap_or("http"), uri.path())
}

/// The name of the error, without what it holds.
fn code(error: &Error) -> String {
    let text = format!("{error:?}");
    text.split(['(', '{', ' ']).next().unwrap_or_default().to_owned()
}
