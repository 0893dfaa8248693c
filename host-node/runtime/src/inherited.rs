//! What a guest's own requests take over from the request that it answers: the trace that they belong to, how many calls
//! led to it, and how much time is left. A part's requests take it over from the request for which the part is called.
//!
//! A guest that answers one request at a time answers that one. Where an instance has several at a time, the root of the
//! call stack says whose work it is at; what a guest does for nobody's request takes over nothing.

use crate::exchange::Shared;
use http::{HeaderMap, HeaderValue};
use lattice::{
    mesh::HEADER_HOPS,
    spec::is_answerable,
    store::Headers,
    trace::{OpenSpan, TRACEPARENT, TRACESTATE},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::time::Instant;
use wasmtime::component::GuestTaskId;

/// Of one request that is being answered.
#[derive(Clone, Default)]
pub(crate) struct Inherited {
    trace: Option<HeaderValue>,
    trace_state: Option<HeaderValue>,
    /// Calls from workload to workload that led to it.
    pub(crate) hops: u8,
    time: Option<Time>,
    /// Where a reply to the message that is handled may go, until it is.
    reply: Option<(Arc<str>, Weak<Shared>)>,
}

/// Until when there must be an answer. From its head on the limit is one on silence, so a call may take as long again.
#[derive(Clone)]
struct Time {
    limit: Duration,
    deadline: Option<Instant>,
    exchange: Weak<Shared>,
}

impl Inherited {
    pub(crate) fn of(headers: &HeaderMap, exchange: &Arc<Shared>, limit: Duration) -> Self {
        let hops = headers.get(HEADER_HOPS).and_then(|hops| hops.to_str().ok()?.parse().ok());
        Self {
            trace: headers.get(TRACEPARENT).cloned(),
            trace_state: headers.get(TRACESTATE).cloned(),
            hops: hops.unwrap_or(0),
            time: Some(Time { limit, deadline: Instant::now().checked_add(limit), exchange: Arc::downgrade(exchange) }),
            reply: None,
        }
    }

    /// Of a message that says where a reply goes.
    pub(crate) fn replying_to(self, reply: Option<&str>, exchange: &Arc<Shared>) -> Self {
        let reply = reply.filter(|reply| is_answerable(reply)).map(|reply| (reply.into(), Arc::downgrade(exchange)));
        Self { reply, ..self }
    }

    pub(crate) fn may_reply_to(&self, subject: &str) -> bool {
        let Some((reply, exchange)) = &self.reply else { return false };
        **reply == *subject && exchange.upgrade().is_some_and(|exchange| exchange.end().is_none())
    }

    /// Which trace it belongs to, and below which span.
    pub(crate) fn traceparent(&self) -> Option<&HeaderValue> {
        self.trace.as_ref()
    }

    /// What is asked for on account of it is a part of this span.
    pub(crate) fn within(&mut self, span: &OpenSpan) {
        self.trace = span.context().to_value();
    }

    /// Put a request into the same trace, unless the guest says which one it belongs to.
    pub(crate) fn trace(&self, headers: &mut HeaderMap) {
        let Some(trace) = &self.trace else { return };
        if headers.contains_key(TRACEPARENT) {
            return;
        }
        headers.insert(TRACEPARENT, trace.clone());
        if let Some(state) = &self.trace_state {
            headers.insert(TRACESTATE, state.clone());
        }
    }

    /// The same of a message, whose headers a guest does not write.
    pub(crate) fn trace_of_message(&self) -> Headers {
        let both = [(TRACEPARENT, &self.trace), (TRACESTATE, &self.trace_state)];
        let both = both.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?.to_str().ok()?)));
        both.map(|(name, value)| (name.to_string(), value.to_owned())).collect()
    }

    /// Time that is left, at most `most`.
    pub(crate) fn left(&self, most: Duration) -> Duration {
        let Some(Time { limit, deadline, exchange }) = &self.time else { return most };
        if exchange.upgrade().is_some_and(|exchange| exchange.has_head()) {
            return most.min(*limit);
        }
        deadline.map_or(most, |deadline| most.min(deadline.saturating_duration_since(Instant::now())))
    }
}

/// Of all requests that one instance is at.
#[derive(Default)]
pub(crate) struct Answering {
    /// Whose request is sent now, or the only one there is.
    current: Inherited,
    /// Where there may be several. A number is used again once its task is done, so there are never more than tasks at
    /// one time.
    tasks: BTreeMap<GuestTaskId, Inherited>,
}

impl Answering {
    /// From now on the instance is at this request alone.
    pub(crate) fn one(&mut self, inherited: Inherited) {
        self.current = inherited;
        self.tasks.clear();
    }

    /// A request has begun, beside others.
    pub(crate) fn begin(&mut self, task: GuestTaskId, inherited: Inherited) {
        self.tasks.insert(task, inherited);
    }

    /// Whether what is sent next may be another request's work than what was sent last.
    pub(crate) fn is_at_several(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// What is sent next is the work of the call that has this root.
    pub(crate) fn turn_to(&mut self, root: Option<GuestTaskId>) {
        if self.is_at_several() {
            self.current = root.and_then(|root| self.tasks.get(&root)).cloned().unwrap_or_default();
        }
    }

    pub(crate) fn current(&self) -> &Inherited {
        &self.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    #[test]
    fn a_request_without_a_trace_takes_over_the_one_that_is_answered() {
        let (old, new) = (HeaderValue::from_static("00-old"), HeaderValue::from_static("00-new"));
        let answered =
            HeaderMap::from_iter([(TRACEPARENT, old.clone()), (TRACESTATE, HeaderValue::from_static("a=b"))]);
        let inherited = Inherited::of(&answered, &Arc::default(), Duration::from_secs(1));
        let mut none = HeaderMap::new();
        inherited.trace(&mut none);
        assert_eq!(none, answered);
        let mut own = HeaderMap::from_iter([(TRACEPARENT, new.clone())]);
        inherited.trace(&mut own);
        assert_eq!((own.len(), own.get(TRACEPARENT)), (1, Some(&new)), "whose state it is not");
        assert!(inherited.left(Duration::MAX) <= Duration::from_secs(1));
        assert_eq!(inherited.left(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn who_streams_its_answer_still_has_time_to_call() {
        let (exchange, limit) = (Arc::<Shared>::default(), Duration::from_secs(30));
        let mut inherited = Inherited::of(&HeaderMap::new(), &exchange, limit);
        if let Some(time) = &mut inherited.time {
            time.deadline = Some(Instant::now());
        }
        assert_eq!(inherited.left(Duration::MAX), Duration::ZERO, "nobody waits for an answer any more");
        let (head, ()) = http::Response::new(()).into_parts();
        exchange.answer_bodiless(head);
        assert_eq!((inherited.left(Duration::MAX), inherited.left(Duration::ZERO)), (limit, Duration::ZERO));
    }

    #[test]
    fn a_reply_goes_to_who_asked_and_only_until_the_message_is_handled() {
        let exchange = Arc::<Shared>::default();
        let of = |reply| Inherited::of(&HeaderMap::new(), &exchange, Duration::ZERO).replying_to(reply, &exchange);
        let inherited = of(Some("_INBOX.a.b"));
        assert!(inherited.may_reply_to("_INBOX.a.b") && !inherited.may_reply_to("_INBOX.a.c"));
        assert!(!of(None).may_reply_to("_INBOX.a.b"));
        assert!(!of(Some("$JS.API.INFO")).may_reply_to("$JS.API.INFO"), "whoever sent the message");
        let _ = exchange.conclude(Ok(()));
        assert!(!inherited.may_reply_to("_INBOX.a.b"));
    }

    #[test]
    fn calls_are_counted_on() {
        for (value, hops) in [("3", 3), ("", 0), ("256", 0), ("-1", 0)] {
            let headers = HeaderMap::from_iter([(HeaderName::from_static(HEADER_HOPS), value.parse().unwrap())]);
            assert_eq!(Inherited::of(&headers, &Arc::default(), Duration::ZERO).hops, hops, "{value}");
        }
        assert_eq!(Inherited::of(&HeaderMap::new(), &Arc::default(), Duration::ZERO).hops, 0);
    }
}
