//! What becomes known of one request on its way, and who is told once its answer is over: metrics, its span, the access
//! log. Whoever handles a request writes it down here as it is found out; nothing is decided by it.

use crate::{
    body::Pieces,
    cors::Granted,
    error::RouteError,
    headers::Client,
    limits::Place,
    metrics::{
        Metrics, Path, UnderWay, Up,
        conventions::{Conventional, Conventions},
    },
    trace,
};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Version};
use http_body::{Body as _, Frame, SizeHint};
use lattice::{
    access::{Access, AccessLog},
    http::{BodyError, Request},
    id::NodeId,
    served::Served,
    store::{Clock, Rng},
    trace::{OpenSpan, SpanKind, TraceContext, Tracer},
};
use lattice_route_table::RouteEntry;
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

/// Of one request. When it is dropped, everything is told.
pub(crate) struct Account {
    /// Where it was answered.
    pub(crate) path: Path,
    /// What the response has to say to a script of another origin.
    pub(crate) cors: Option<Granted>,
    /// Of the route, once there is one.
    counts: Option<UnderWay>,
    /// While it waits for an instance to be ready. Boxed, as few do.
    waiting: Option<Box<Waiting>>,
    /// Bytes of the request's body, counted by who reads it.
    received: Option<Arc<AtomicU64>>,
    sent: u64,
    told: Option<Box<Told>>,
}

struct Waiting {
    since: Duration,
    clock: Arc<dyn Clock>,
    _span: Option<OpenSpan>,
}

/// Who wants to know more than metrics do. Boxed: as a rule nobody does.
struct Told {
    span: Option<OpenSpan>,
    line: Option<(Arc<dyn AccessLog>, Access)>,
    conventional: Option<Conventional>,
    clock: Arc<dyn Clock>,
    started: Duration,
    status: Option<u16>,
    error: Option<&'static str>,
}

/// What of a router's surroundings an account is opened with.
pub(crate) struct Books<'a> {
    pub(crate) tracer: &'a Tracer,
    pub(crate) access_log: Option<&'a Arc<dyn AccessLog>>,
    pub(crate) conventions: Option<&'a Conventions>,
    pub(crate) rng: &'a dyn Rng,
    pub(crate) clock: &'a Arc<dyn Clock>,
}

impl Account {
    fn new(told: Option<Told>) -> Self {
        Self {
            path: Path::None,
            cors: None,
            counts: None,
            waiting: None,
            received: None,
            sent: 0,
            told: told.map(Box::new),
        }
    }

    /// Of a client's request, which is made a part of a trace.
    pub(crate) fn open(books: &Books<'_>, request: &mut Request, client: &Client, started: Duration) -> Self {
        let span = trace::begin(request.headers_mut(), books.rng, books.tracer, SpanKind::Server, "HTTP");
        if span.is_none() && books.access_log.is_none() && books.conventions.is_none() {
            return Self::new(None);
        }
        let scheme = if client.is_https(request.headers()) { "https" } else { "http" };
        let begin = |conventions: &Conventions| conventions.begin(request.method(), scheme, request.version());
        let conventional = books.conventions.map(begin);
        let address = client.address_of(request.headers());
        let line = books.access_log.map(|log| {
            let access = Access {
                unix_ms: books.clock.unix_ms(),
                client: Some(address),
                method: request.method().clone(),
                host: trace::host_of(request.uri(), request.headers()),
                path: request.uri().path().to_owned(),
                protocol: request.version(),
                status: None,
                request_bytes: 0,
                response_bytes: 0,
                duration: Duration::ZERO,
                head: None,
                workload: None,
                route: None,
                node: None,
                generation: None,
                reused: None,
                via: Path::None.label(),
                error: None,
                trace: TraceContext::of(request.headers()).map(|context| context.trace),
            };
            (log.clone(), access)
        });
        let clock = books.clock.clone();
        let mut told = Told { span, line, conventional, clock, started, status: None, error: None };
        if let Some(span) = &mut told.span {
            trace::describe(span, request, address, scheme);
        }
        Self::new(Some(told))
    }

    /// The same for what the lattice itself asks for.
    pub(crate) fn of_span(span: Option<OpenSpan>, clock: &Arc<dyn Clock>, started: Duration) -> Self {
        Self::new(span.map(|span| Told {
            span: Some(span),
            line: None,
            conventional: None,
            clock: clock.clone(),
            started,
            status: None,
            error: None,
        }))
    }

    /// It has this route; where workloads share one, this share of it for now.
    pub(crate) fn routed(&mut self, metrics: &Metrics, route: &RouteEntry) {
        self.counts = Some(metrics.under_way(&route.workload, &route.label));
        let Some(told) = &mut self.told else { return };
        if let Some(span) = &mut told.span {
            span.set("lattice.workload", route.workload.to_string());
            span.set("http.route", route.path().to_owned());
            let method = span.name().split(' ').next().unwrap_or_default();
            span.rename(format!("{method} {}", route.path()));
        }
        if let Some(conventional) = &mut told.conventional {
            conventional.routed(route.path());
        }
        if let Some((_, line)) = &mut told.line {
            line.workload = Some(route.workload.clone());
            line.route = Some(route.label.clone());
        }
    }

    /// It holds no place, and is no longer among those under way: what is left of it is to say why.
    pub(crate) fn is_refused(&mut self) {
        if let Some(counts) = &mut self.counts {
            counts.end();
        }
    }

    /// Requests of its workload that are under way here, itself included.
    pub(crate) fn under_way(&self) -> usize {
        let under_way = self.counts.as_ref().map_or(0, |counts| counts.of_workload.get());
        usize::try_from(under_way).unwrap_or(0)
    }

    /// Where the bytes of its body are counted.
    pub(crate) fn receives(&mut self) -> Arc<AtomicU64> {
        self.received.get_or_insert_default().clone()
    }

    /// It is sent once more.
    pub(crate) fn retried(&self) {
        if let Some(counts) = &self.counts {
            counts.retries.inc();
        }
    }

    /// It begins to wait for an instance to be ready.
    pub(crate) fn waits(&mut self, since: Duration, clock: &Arc<dyn Clock>, tracer: &Tracer, headers: &HeaderMap) {
        self.waiting.get_or_insert_with(|| {
            let span = tracer.within(headers, SpanKind::Internal, "wait");
            Box::new(Waiting { since, clock: clock.clone(), _span: span })
        });
    }

    /// It is sent to an instance here, or on another node.
    pub(crate) fn goes(&mut self, path: Path) {
        self.path = path;
        self.waits_no_longer();
    }

    /// In vain as well: those that wait longest are as a rule never answered.
    fn waits_no_longer(&mut self) {
        if let Some(waiting) = self.waiting.take()
            && let Waiting { since, clock, .. } = &*waiting
            && let Some(counts) = &self.counts
        {
            counts.waits.observe(clock.now().saturating_sub(*since).as_secs_f64());
        }
    }

    pub(crate) fn answered_by(&mut self, node: &NodeId, served: Option<Served>) {
        let Some(told) = &mut self.told else { return };
        if let Some(span) = &mut told.span {
            span.set("lattice.node", node.to_string());
            if let Some(served) = served {
                span.set("lattice.generation", served.generation.0);
            }
        }
        if let Some((_, line)) = &mut told.line {
            line.node = Some(node.clone());
            line.generation = served.map(|served| served.generation);
            line.reused = served.map(|served| served.reused);
        }
    }

    /// It came to nothing, for this reason. The first one stays.
    pub(crate) fn failed(&mut self, error: &'static str) {
        if let Some(told) = &mut self.told {
            told.error.get_or_insert(error);
        }
    }

    /// The head of its response is known.
    pub(crate) fn answered(&mut self, metrics: &Metrics, status: StatusCode, duration: Duration) {
        self.waits_no_longer();
        metrics.count_request(self.counts.as_deref(), status, self.path, duration);
        let Some(told) = &mut self.told else { return };
        told.status = Some(status.as_u16());
        if let Some((_, line)) = &mut told.line {
            line.head = Some(duration);
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.waits_no_longer();
        let received = self.received.as_ref().map_or(0, |received| received.load(Relaxed));
        if let Some(counts) = &self.counts {
            counts.request_bytes.inc_by(received);
            counts.response_bytes.inc_by(self.sent);
        }
        let Some(mut told) = self.told.take() else { return };
        if told.status.is_none() {
            told.error.get_or_insert(CANCELLED);
        }
        let Told { span, line, conventional, clock, started, status, error } = *told;
        let duration = clock.now().saturating_sub(started);
        if let Some(mut span) = span {
            span.set("lattice.path", self.path.label());
            span.set("http.request.body.size", received);
            span.set("http.response.body.size", self.sent);
            if let Some(status) = status {
                span.set("http.response.status_code", status);
            }
            match (error, status) {
                // What a client did wrong is no error of who serves it.
                (Some(error), Some(400..=499)) => span.set("error.type", error),
                (Some(error), _) => span.fail(error),
                (None, Some(status @ 500..)) => span.fail(status.to_string()),
                (None, _) => {}
            }
        }
        if let Some(conventional) = conventional {
            conventional.end(self.counts.as_deref(), status, error, duration);
        }
        if let Some((log, line)) = line {
            let (via, sent) = (self.path.label(), self.sent);
            log.log(Access { status, error, duration, via, request_bytes: received, response_bytes: sent, ..line });
        }
    }
}

/// A request was refused of which nothing is known but who sent it: its head could not be read.
/// `status`: where it was answered; it is counted like one that was.
pub(crate) fn note_unheard(
    books: &Books<'_>,
    metrics: &Metrics,
    client: &Client,
    version: Version,
    error: &RouteError,
    status: Option<StatusCode>,
) {
    metrics.count_request(None, error.status(), Path::None, Duration::ZERO);
    let Some(log) = books.access_log else { return };
    log.log(Access {
        unix_ms: books.clock.unix_ms(),
        client: Some(client.address_of(&HeaderMap::new())),
        method: Method::from_bytes(b"-").unwrap_or_default(),
        host: String::new(),
        path: String::new(),
        protocol: version,
        status: status.map(|status| status.as_u16()),
        request_bytes: 0,
        response_bytes: 0,
        duration: Duration::ZERO,
        head: status.map(|_| Duration::ZERO),
        workload: None,
        route: None,
        node: None,
        generation: None,
        reused: None,
        via: Path::None.label(),
        error: Some(error.code()),
        trace: None,
    });
}

/// The client went away.
const CANCELLED: &str = "cancelled";
/// The body of the response could not be read to its end.
const BROKEN: &str = "broken";

/// The body of an answer. As long as it is under way, it holds the request's place and its account.
pub(crate) struct Answer {
    body: Pieces,
    open: Option<Open>,
}

struct Open {
    account: Account,
    _place: Option<Place>,
    _up: Up,
}

impl Answer {
    pub(crate) fn new(body: Pieces, account: Account, place: Option<Place>, up: Up) -> Self {
        let open = (!body.is_end_stream()).then_some(Open { account, _place: place, _up: up });
        Self { body, open }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let is_over = !matches!(polled, Some(Ok(_))) || self.body.is_end_stream();
        if let Some(open) = &mut self.open {
            match &polled {
                Some(Ok(frame)) => open.account.sent += frame.data_ref().map_or(0, |data| data.len() as u64),
                Some(Err(_)) => open.account.failed(BROKEN),
                None => {}
            }
        }
        if is_over {
            self.open = None;
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(open) = &mut self.open {
            open.account.failed(CANCELLED);
        }
    }
}
