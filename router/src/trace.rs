//! Which trace a request belongs to, so that the router's log, the guest's and the client's speak of it by the same name;
//! and the spans that a router tells of. What is recorded, and whether anything is, others decide.

use crate::metrics::conventions::{known_method, version};
use http::{HeaderMap, Uri, uri::Authority};
use lattice::{
    frame::RequestHead,
    http::Request,
    id::{LatticeId, NodeId},
    store::Rng,
    subject::Topic,
    trace::{OpenSpan, SpanKind, TRACEPARENT, TRACESTATE, TraceContext, Tracer},
};
use std::{net::IpAddr, sync::Arc};

/// Keep the context that the client sent if it is valid; else begin a new one. What the request comes to is a part of the
/// span that is begun, if one is.
pub(crate) fn begin(
    headers: &mut HeaderMap,
    rng: &dyn Rng,
    tracer: &Tracer,
    kind: SpanKind,
    name: &'static str,
) -> Option<OpenSpan> {
    let (span, fresh) = match TraceContext::of(headers) {
        Some(sent) => (tracer.enter(sent, kind, name), None),
        None => {
            headers.remove(TRACESTATE);
            // Ids must not be zero.
            let (high, low, parent) = (rng.u64(), rng.u64().max(1), rng.u64().max(1));
            let fresh = TraceContext { trace: u128::from(high) << 64 | u128::from(low), span: parent, sampled: false };
            (tracer.begin(fresh.trace, kind, name), Some(fresh))
        }
    };
    // Not sampled where nobody here records.
    if let Some(context) = span.as_ref().map(OpenSpan::context).or(fresh) {
        context.inject(headers);
    }
    span
}

/// The context's trace id and the rest, for logs.
pub(crate) fn of(headers: &HeaderMap) -> &str {
    headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// What a client asks for, as far as it is known before there is a route.
pub(crate) fn describe(span: &mut OpenSpan, request: &Request, client: IpAddr, scheme: &'static str) {
    let method = request.method();
    match known_method(method) {
        Some(known) => {
            span.set("http.request.method", known);
            span.rename(known);
        }
        None => {
            span.set("http.request.method", "_OTHER");
            span.set("http.request.method_original", method.to_string());
            span.rename("HTTP");
        }
    }
    span.set("url.scheme", scheme);
    span.set("url.path", request.uri().path().to_owned());
    let host = request.headers().get(http::header::HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    if let Some(authority) = request.uri().authority().or(host.as_ref()) {
        span.set("server.address", authority.host().to_owned());
        if let Some(port) = authority.port_u16() {
            span.set("server.port", port);
        }
    }
    span.set("client.address", client.to_string());
    span.set("network.protocol.version", version(request.version()));
    if let Some(agent) = request.headers().get(http::header::USER_AGENT).and_then(|agent| agent.to_str().ok()) {
        span.set("user_agent.original", agent.to_owned());
    }
}

/// The way to another node: what the request comes to there is a part of it. It ends with the head of the response.
pub(crate) fn hop(tracer: &Tracer, head: &mut RequestHead, lattice: &LatticeId, node: &NodeId) -> Option<OpenSpan> {
    let mut span = tracer.within(&head.headers, SpanKind::Client, "hop")?;
    describe_hop(&mut span, "send", head, lattice, node);
    span.set("lattice.peer", node.to_string());
    span.inject(Arc::make_mut(&mut head.headers));
    Some(span)
}

/// The other end of it.
pub(crate) fn arrival(tracer: &Tracer, head: &mut RequestHead, lattice: &LatticeId, me: &NodeId) -> Option<OpenSpan> {
    let from = TraceContext::of(&head.headers).filter(|from| from.sampled)?;
    let mut span = tracer.enter(from, SpanKind::Server, "arrival")?;
    describe_hop(&mut span, "process", head, lattice, me);
    span.inject(Arc::make_mut(&mut head.headers));
    Some(span)
}

fn describe_hop(span: &mut OpenSpan, operation: &'static str, head: &RequestHead, lattice: &LatticeId, node: &NodeId) {
    span.set("messaging.system", "nats");
    span.set("messaging.operation.type", operation);
    span.set("messaging.destination.name", Topic::Http(node.clone()).subject(lattice));
    span.set("lattice.workload", head.workload.to_string());
}

/// What a log says of a request's target: without the query, which may hold secrets.
pub(crate) fn host_of(uri: &Uri, headers: &HeaderMap) -> String {
    let host = || headers.get(http::header::HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
    uri.authority().map(Authority::to_string).or_else(host).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    struct Zero;
    impl Rng for Zero {
        fn u64(&self) -> u64 {
            0
        }
    }

    #[test]
    fn valid_contexts_are_kept_and_others_replaced() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let off = Tracer::default();
        for (value, kept) in
            [(good, true), ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false), ("", false)]
        {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, HeaderValue::from_str(value).unwrap());
            headers.insert(TRACESTATE, HeaderValue::from_static("a=b"));
            assert!(begin(&mut headers, &Zero, &off, SpanKind::Server, "x").is_none());
            assert_eq!(of(&headers) == value, kept, "{value}");
            assert_eq!(headers.contains_key(TRACESTATE), kept, "{value}");
            assert!(TraceContext::of(&headers).is_some_and(|context| context.sampled == kept), "{value}");
        }
        let mut twice = HeaderMap::new();
        twice.append(TRACEPARENT, HeaderValue::from_static(good));
        twice.append(TRACEPARENT, HeaderValue::from_static(good));
        begin(&mut twice, &Zero, &off, SpanKind::Server, "x");
        assert_eq!(twice.get_all(TRACEPARENT).iter().count(), 1);
    }
}
