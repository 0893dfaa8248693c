//! The router of one node: HTTP in at any node, out at the right instance, here or on another node. It never waits for
//! the control plane, never knows what a component is, and holds no more of a body than a window.
//!
//! Start at [`Router::handle`]: admit, read the target, find the route, pick an endpoint, dispatch. What a request comes
//! to when that fails is in `error.rs`, the only place with status codes.

mod account;
mod body;
mod callee;
mod cors;
mod dispatch;
mod error;
mod fire;
mod headers;
mod ingress;
mod limits;
mod mesh;
mod metrics;
#[cfg(any(test, feature = "testing"))]
pub mod parsers;
mod redirect;
mod retry;
mod rewrite;
mod round_trip;
mod seldom;
mod serve_peers;
mod split;
mod sticky;
mod surroundings;
mod table;
mod target;
mod tls;
mod trace;

pub use dispatch::way::Reach;
pub use error::HEADER_ERROR;
pub use headers::{HEADER_DISCONNECTED, HEADER_NODE, HEADER_ROUTER, Network, NetworkError};
pub use tls::{Tls, TlsError, TlsOptions};

use crate::{
    account::{Account, Answer, Books},
    body::{Holding, Limited, Pieces, Source},
    callee::Callee,
    cors::{Granted, Preflight},
    dispatch::{SMALL_BODY_BYTES_MAX, local, peers::Peers, remote::Remote, until},
    error::RouteError,
    headers::Client,
    ingress::Refused,
    limits::{AddressPlaces, Place, Places, Waiting},
    metrics::{Metrics, Path, Up},
    retry::{ATTEMPTS_MAX, Budget, Policy, Unanswered},
    seldom::Seldom,
    sticky::Bond,
    surroundings::Surroundings,
    table::Table,
    target::Target,
};
use http::{
    HeaderMap, HeaderValue, Method, StatusCode, Uri, Version,
    header::{EXPECT, SET_COOKIE},
    uri,
    uri::{PathAndQuery, Scheme},
};
use http_body::Body as _;
use http_body_util::BodyExt;
use lattice::{
    access::AccessLog,
    demand::Demand,
    frame::RequestHead,
    http::{Instances, Request, Response},
    id::{LatticeId, NodeId},
    report::Reports,
    served::Served,
    store::{Bus, BusError, Clock, Connection, Rng},
    trace::Tracer,
    view::LatticeView,
};
use lattice_route_table::{Here, RouteEntry, RouteTable};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

/// Least time between two rounds over a route's endpoints, where all of them said that nothing ran.
const ROUND_PAUSE: Duration = Duration::from_millis(200);
/// After so long another round begins although the table is the same: a node may be back, or NATS.
const ROUND_AFTER: Duration = Duration::from_secs(1);
/// How long a request that only other nodes could answer waits for NATS to be back: about what a connection takes that is
/// made anew. Longer, and each client would wait for an outage that may last.
const UNREACHABLE_WAIT: Duration = Duration::from_secs(1);

/// What a router is told at its start.
#[derive(Debug, Clone)]
pub struct RouterOptions {
    pub node: NodeId,
    pub lattice: LatticeId,
    /// Proxies in front of this node, whose word about the client (`x-forwarded-*`, `forwarded`) is passed on. What
    /// others say is replaced. Default: none.
    pub trusted_proxies: Vec<Network>,
    /// Requests of clients, and calls of components here, under way at a time, bodies included; more are answered 503, and so are those of a workload
    /// that has more than twice as many under way as there are places left. Default 8192.
    pub requests_max: usize,
    /// Requests that wait for a first instance to be ready; more are answered 503. Default 1024.
    pub waiting_max: usize,
    /// Those of one workload. Default 256.
    pub waiting_per_workload_max: usize,
    /// Requests of other nodes that are answered here at a time; more are sent back. Default 4096.
    pub peer_exchanges_max: usize,
    /// Client connections at a time; more wait in the kernel's backlog. Default 16384.
    pub connections_max: usize,
    /// Client connections of one source address at a time; more are closed at once. Trusted proxies have no such limit.
    /// Default 1024.
    pub connections_per_address_max: usize,
    /// Longest wait of a request for a first instance to be ready. Default 10 s.
    pub start_wait: Duration,
    /// From accepting a connection to the end of its first request head, TLS handshake included. Default 10 s.
    pub head_timeout: Duration,
    /// For each further head on an HTTP/1 connection, the idle time before it included, and longest time of an HTTP/2
    /// connection without a request. Default 60 s.
    pub idle_timeout: Duration,
    /// Longest time in which a client may take nothing of a response that is there; then its connection is cut, or with
    /// HTTP/2 the stream reset. It takes a response in pieces of 64 KiB, so that it must take about 1 KiB a second.
    /// Default 60 s.
    pub stall_timeout: Duration,
    /// As long as there is no response, how long a client may be waited for on account of a request's body, in all,
    /// beyond what its bytes take at `body_rate_min`. Then 408. Default 5 s.
    pub body_grace: Duration,
    /// Bytes in a second. Default 240.
    pub body_rate_min: u32,
    /// Bytes of a request's path and query; more are answered 414. Default 16 KiB.
    pub uri_bytes_max: usize,
    /// Header lines of a request; more are answered 431. Default 100.
    pub headers_max: usize,
    /// Bytes of a request's head; more are answered 431. 8 KiB to 1 MiB, default 32 KiB.
    pub header_bytes_max: usize,
    /// Bytes of a request's body; more are answered 413. A workload's own limit is enforced where it runs. Default: none.
    pub body_bytes_max: u64,
    /// Who records what becomes of requests. Default: nobody.
    pub tracer: Tracer,
    /// Who writes down each request of a client. Default: nobody.
    pub access_log: Option<Arc<dyn AccessLog>>,
    /// Count requests of clients under the names of OpenTelemetry's semantic conventions as well. Default: no.
    pub conventions: bool,
}

impl RouterOptions {
    pub fn new(node: NodeId, lattice: LatticeId) -> Self {
        Self {
            node,
            lattice,
            trusted_proxies: Vec::new(),
            requests_max: 8192,
            waiting_max: 1024,
            waiting_per_workload_max: 256,
            peer_exchanges_max: 4096,
            connections_max: 16_384,
            connections_per_address_max: 1024,
            start_wait: Duration::from_secs(10),
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(60),
            body_grace: Duration::from_secs(5),
            body_rate_min: 240,
            uri_bytes_max: 16 * 1024,
            headers_max: 100,
            header_bytes_max: 32 * 1024,
            body_bytes_max: u64::MAX,
            tracer: Tracer::default(),
            access_log: None,
            conventions: false,
        }
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(address))
    }
}

/// A handle to the router of this node. Cheap to clone; the router lives as long as one of its handles.
#[derive(Clone)]
pub struct Router(Arc<Inner>);

struct Inner {
    options: RouterOptions,
    bus: Arc<dyn Bus>,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    instances: Arc<dyn Instances>,
    table: Table,
    peers: Peers,
    remote: Remote,
    places: Places,
    /// Of connections: of all, and of each address.
    connections: (Places, AddressPlaces),
    waiting: Waiting,
    repeats: Budget,
    metrics: Metrics,
    /// This node's id, as responses name it.
    me: HeaderValue,
    failures: Seldom,
    not_final: Seldom,
    surroundings: Surroundings,
}

/// One request, as it is sent to whoever is picked.
struct Outbound {
    method: Method,
    scheme: Scheme,
    /// What the client asked for: routes are looked up by it.
    target: Target,
    /// What the component is asked for, where the route says so.
    rewritten: Option<PathAndQuery>,
    /// Decides who of those that share a route answers.
    roll: u64,
    /// Decides what the replica runs that answers, where that matters; drawn once that is known.
    lot: Option<u64>,
    /// Binds the client to a node.
    bound: Option<u64>,
    headers: HeaderMap,
    body: Source,
    /// Longest time until the head of the response, where it is not for the route to say.
    timeout: Option<Duration>,
}

impl Router {
    /// Starts some tasks of its own, which end with the last handle: they follow `view`, receive replies of other nodes, ask after
    /// nodes that owe one, look at the connection and at reports. Must be called within a tokio runtime.
    pub fn new(
        options: RouterOptions,
        bus: Arc<dyn Bus>,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
        instances: Arc<dyn Instances>,
        view: watch::Receiver<Arc<LatticeView>>,
        registry: &mut prometheus_client::registry::Registry,
    ) -> Self {
        let mut metrics = Metrics::register(registry);
        if options.conventions {
            metrics = metrics.with_conventions(registry);
        }
        let peers = Peers::new(metrics.clone());
        let remote = Remote::new(options.lattice.clone(), bus.clone(), clock.clone(), peers.clone(), metrics.clone());
        let router = Self(Arc::new(Inner {
            table: Table::follow(options.node.clone(), view, clock.clone(), metrics.clone()),
            places: Places::new(options.requests_max),
            connections: (
                Places::new(options.connections_max),
                AddressPlaces::new(options.connections_per_address_max),
            ),
            waiting: Waiting::new(options.waiting_max, options.waiting_per_workload_max),
            repeats: Budget::default(),
            me: headers::value(options.node.to_string()),
            options,
            bus,
            clock,
            rng,
            instances,
            peers,
            remote,
            metrics,
            failures: Seldom::default(),
            not_final: Seldom::default(),
            surroundings: Surroundings::default(),
        }));
        tokio::spawn(surroundings::watch(Arc::downgrade(&router.0)));
        router
    }

    /// Heed what other nodes say of their load. Only the first one counts.
    pub fn heed(&self, reports: Arc<dyn Reports>) {
        self.0.surroundings.heed(reports);
    }

    /// Tell of workloads that requests wait for. Only the first one counts.
    pub fn tell(&self, demand: Arc<dyn Demand>) {
        self.0.surroundings.tell(demand);
    }

    /// Whether what is sent to other nodes gets there.
    pub fn reach(&self) -> Reach {
        self.0.remote.reach().clone()
    }

    /// Take HTTP/1.1 and HTTP/2 (prior knowledge) from clients until `stop`. Then nothing more is accepted, what is
    /// under way may end within `drain`, and what is left is cut. Returns when all connections are closed.
    pub async fn serve(&self, listener: TcpListener, stop: CancellationToken, drain: Duration) {
        ingress::serve(self.clone(), listener, None, stop, drain).await;
    }

    /// The same with TLS, where the client chooses between HTTP/1.1 and HTTP/2 (ALPN). Reads the certificates again as
    /// long as it runs.
    pub async fn serve_tls(&self, listener: TcpListener, tls: Arc<Tls>, stop: CancellationToken, drain: Duration) {
        ingress::serve(self.clone(), listener, Some(tls), stop, drain).await;
    }

    /// Answer other nodes' requests with the instances of this one until `stop`. Then new ones are sent back as not run,
    /// what is under way may end within `drain`, and what is left is reset. Fails when the bus ends the subscription:
    /// call it again then.
    pub async fn serve_peers(&self, stop: CancellationToken, drain: Duration) -> Result<(), BusError> {
        serve_peers::serve(self.clone(), stop, drain).await
    }

    /// Answer one request. `peer` is where the connection came from. Every request is answered; dropping the future or
    /// the response's body cancels it.
    pub async fn handle(&self, request: Request, peer: SocketAddr) -> Response {
        self.handle_from(&self.client(peer), request).await.map(BodyExt::boxed_unsync)
    }

    /// What the requests of one connection have in common.
    pub(crate) fn client(&self, peer: SocketAddr) -> Client {
        Client::new(peer.ip(), self.options().trusts(peer.ip()))
    }

    pub(crate) async fn handle_from(&self, client: &Client, mut request: Request) -> http::Response<Answer> {
        let inner = &*self.0;
        let started = inner.clock.now();
        let up = Up::new(&inner.metrics.in_flight);
        let bodiless = request.method() == Method::HEAD;
        // hyper counts them for HTTP/1 only. Some are added from here on.
        if request.headers().len() > inner.options.headers_max {
            request.extensions_mut().insert(Refused(RouteError::HeadTooLarge));
        }
        let mut account = Account::open(&inner.books(), &mut request, client, started);
        let (mut response, place) = match inner.try_handle(request, client, started, &mut account).await {
            Ok((response, place)) => (response, Some(place)),
            Err(error) => {
                account.failed(error.code());
                account.is_refused();
                if error == RouteError::Unreachable {
                    // The next look may be half a second away, and who reads this is to be told why.
                    inner.surroundings.look(inner.remote.connection(), inner.clock.now());
                }
                let mut response = error.into_response(bodiless);
                response.headers_mut().insert(headers::ROUTER, inner.me.clone());
                inner.surroundings.say(response.headers_mut(), || inner.clock.now());
                (response, None)
            }
        };
        if let Some(cors) = account.cors.take() {
            cors.say(response.headers_mut());
        }
        let duration = inner.clock.now().saturating_sub(started);
        account.answered(&inner.metrics, response.status(), duration);
        response.map(|body| Answer::new(Pieces::new(body), account, place, up))
    }

    /// hyper refused a request of which it handed over nothing. `status`: where it answered.
    pub(crate) fn refused_unheard(
        &self,
        client: &Client,
        version: Version,
        error: &RouteError,
        status: Option<StatusCode>,
    ) {
        account::note_unheard(&self.0.books(), &self.0.metrics, client, version, error, status);
    }

    /// Requests from clients that are not answered in full.
    pub fn in_flight(&self) -> usize {
        self.0.places.taken()
    }

    /// All listeners share them.
    fn connection_places(&self) -> (Places, AddressPlaces) {
        self.0.connections.clone()
    }
    fn options(&self) -> &RouterOptions {
        &self.0.options
    }
    fn bus(&self) -> &Arc<dyn Bus> {
        &self.0.bus
    }
    fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }
    fn instances(&self) -> &Arc<dyn Instances> {
        &self.0.instances
    }
    fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }
    fn table(&self) -> Arc<RouteTable> {
        self.0.table.load()
    }
}

impl Inner {
    async fn try_handle(
        &self,
        request: Request,
        client: &Client,
        started: Duration,
        account: &mut Account,
    ) -> Result<(Response, Place), RouteError> {
        let place = self.places.take()?;
        let (mut head, body) = request.into_parts();
        if let Some(Refused(error)) = head.extensions.remove() {
            return Err(error);
        }
        let target = Target::parse(&head.method, &head.uri, head.version, &head.headers)?;
        if target.path_and_query.as_str().len() > self.options.uri_bytes_max {
            return Err(RouteError::UriTooLong);
        }
        if target.host().is_some_and(|host| !client.is_for(host)) {
            return Err(RouteError::Misdirected);
        }
        let (method, mut headers) = (head.method, head.headers);
        let expects = headers.contains_key(EXPECT);
        // Before the look-up: routes see headers as components do.
        let https = headers::to_component(&mut headers, client, target.authority.as_str());
        let table = self.table.load();
        if let Some(preflight) = Preflight::of(&method, &headers)
            && let Ok(route) = target.find(&table, &preflight.method, &headers)
            && let Some(cors) = route.rule.as_ref().and_then(|rule| rule.cors.as_ref())
        {
            account.routed(&self.metrics, route);
            return Ok((self.by_router(preflight.answer(cors)?), place));
        }
        let held = target.find(&table, &method, &headers)?;
        let (mut rewritten, mut roll, mut bond) = (None, 0, Bond::default());
        if let Some(rule) = &held.rule {
            account.routed(&self.metrics, held);
            account.cors = Granted::of(rule, &headers);
            if let Some(response) = redirect::answer(rule, &target, https)? {
                return Ok((self.by_router(response), place));
            }
            roll = split::roll(rule, &headers, &*self.rng);
            bond = Bond::of(rule, &headers, https, &*self.rng);
            rewritten = rewrite::rewrite(rule, &target.path_and_query, &mut headers)?;
        }
        let route = held.share(roll, &[]);
        account.routed(&self.metrics, route);
        self.places.allow(account.under_way())?;
        let limit = self.options.body_bytes_max.min(route.body_limit);
        if body.size_hint().lower() > limit {
            return Err(RouteError::BodyTooLarge);
        }
        let body =
            if body.is_end_stream() { body } else { Limited::new(body, limit, account.receives()).boxed_unsync() };
        let scheme = if https { Scheme::HTTPS } else { Scheme::HTTP };
        let body = if expects { Source::on_demand(body) } else { Source::new(body) };
        let bound = bond.key;
        let outbound =
            Outbound { method, scheme, target, rewritten, roll, lot: None, bound, headers, body, timeout: None };
        let mut response = self.send(outbound, held.clone(), started, account).await?;
        if let Some(cookie) = bond.set_cookie {
            response.headers_mut().append(SET_COOKIE, cookie);
        }
        Ok((response, place))
    }

    /// Send the request to one endpoint after another, as far as that is allowed. Where none is ready, wait for one,
    /// within bounds. `held` is the route that was found for it, before shares.
    async fn send(
        &self,
        mut request: Outbound,
        mut held: Arc<RouteEntry>,
        started: Duration,
        account: &mut Account,
    ) -> Result<Response, RouteError> {
        let mut changed = None;
        let mut waiting = None;
        // Attempts of which a guest may have seen something. Those of which none did cost time only.
        let mut maybe_ran = 0;
        // Since when nobody could be asked for want of NATS.
        let mut unreachable = None;
        // One of them did not merely lose its node: waiting for another would change nothing. Nor would it for one that was given
        // up for want of NATS, which was waited for already.
        let mut failed = false;
        // Workloads that share the route and whose endpoints were all asked in vain.
        let mut in_vain = Vec::new();
        // Parts of a workload's replicas of which the same is true.
        let mut parts_in_vain = Vec::new();
        let mut round = started;
        loop {
            let shared = held.share(request.roll, &in_vain);
            if shared.weights.is_some() && request.lot.is_none() {
                request.lot = Some(request.bound.unwrap_or_else(|| self.rng.u64()));
            }
            let previewed = shared.previewed(&request.headers);
            let route = previewed.unwrap_or_else(|| shared.weigh(request.lot.unwrap_or_default(), &parts_in_vain));
            if !held.shares.is_empty() {
                account.routed(&self.metrics, route);
            }
            let policy = Policy::of(route.rule.as_deref());
            let deadline = started.saturating_add(request.timeout.unwrap_or_else(|| route.time_limit()));
            let mut tried = Vec::new();
            let mut asked = false;
            let mut last = RouteError::NotReady;
            // Held while another attempt is made although there was a response.
            let mut repeat = None;
            // Elsewhere if it can be; an endpoint that answered may do better the next time.
            while let Some(endpoint) = self
                .pick(route, request.bound, &tried)
                .or_else(|| repeat.as_ref().and_then(|_| self.pick(route, None, &[])))
            {
                let is_here = *endpoint == self.options.node;
                // Before its body is read, so that nobody is asked for one in vain. Nothing is sent, and so nothing repeated.
                if !is_here && self.remote.connection() == Connection::Down {
                    last = RouteError::Unreachable;
                    tried.push(endpoint.clone());
                    match request.body.is_intact() {
                        true if tried.len() < ATTEMPTS_MAX => continue,
                        true => break,
                        false => return Err(last),
                    }
                }
                // What the place bounds is waiting, not what an instance does with a request.
                waiting = None;
                if std::mem::replace(&mut asked, true) {
                    account.retried();
                }
                let path = if is_here { Path::Local } else { Path::Remote };
                account.goes(path);
                let unanswered = match self.attempt(endpoint, Callee::of(route), policy, &mut request, deadline).await {
                    Ok(mut response) => {
                        // Always: no client is to see it.
                        let served = Served::take(response.headers_mut());
                        let (seen, intact) = (maybe_ran + 1, request.body.is_intact());
                        let is_due = policy.may_repeat(response.status(), &request.method, intact, seen);
                        repeat = if is_due { self.repeats.take(self.places.taken()) } else { None };
                        if repeat.is_none() {
                            account.answered_by(endpoint, served);
                            return self.finish(response, endpoint);
                        }
                        // First: the next attempt may need the instance that this one holds.
                        drop(response);
                        maybe_ran = seen;
                        tried.push(endpoint.clone());
                        self.clock.sleep(retry::pause(seen, self.rng.u64())).await;
                        continue;
                    }
                    Err(unanswered) => unanswered,
                };
                repeat = None;
                tracing::debug!(
                    node = %endpoint,
                    workload = %route.workload,
                    code = unanswered.error.code(),
                    nothing_ran = unanswered.nothing_ran,
                    traceparent = trace::of(&request.headers),
                    "no response"
                );
                maybe_ran += usize::from(!unanswered.nothing_ran);
                failed |= !unanswered.nothing_ran && unanswered.error != RouteError::PeerLost;
                tried.push(endpoint.clone());
                let may_retry = unanswered.may_retry(&request.method, request.body.is_intact());
                last = unanswered.error;
                if !may_retry || maybe_ran >= policy.attempts {
                    return Err(last);
                }
                if tried.len() >= ATTEMPTS_MAX {
                    break;
                }
            }
            // Full queues are not waited for here: their owners said when to come again.
            if failed || matches!(last, RouteError::Overloaded { .. }) {
                return Err(last);
            }
            if let Some(part) = route.among.filter(|part| previewed.is_none() && !parts_in_vain.contains(part)) {
                parts_in_vain.push(part);
                continue;
            }
            self.surroundings.awaited(&route.workload);
            if !held.shares.is_empty() && !in_vain.contains(&route.workload) {
                in_vain.push(route.workload.clone());
                continue;
            }
            if waiting.is_none() {
                waiting = Some(self.waiting.take(&route.workload)?);
                account.waits(round, &self.clock, &self.options.tracer, &request.headers);
            }
            let mut give_up = deadline.min(started.saturating_add(self.options.start_wait));
            let mut pause = ROUND_AFTER;
            if last == RouteError::Unreachable {
                give_up = give_up.min(unreachable.get_or_insert(self.clock.now()).saturating_add(UNREACHABLE_WAIT));
                pause = ROUND_PAUSE;
            } else {
                unreachable = None;
            }
            // A new table may lead elsewhere at once. The same endpoints are asked again, but not in a hot loop.
            let again = give_up.min(round.saturating_add(pause));
            let changed = changed.get_or_insert_with(|| self.table.watch());
            match until(&*self.clock, again, changed.changed()).await {
                Ok(Ok(())) => {}
                Err(_) if again < give_up => {}
                Ok(Err(_)) | Err(_) => return Err(last),
            }
            if !tried.is_empty() {
                let since = self.clock.now().saturating_sub(round);
                self.clock.sleep(ROUND_PAUSE.saturating_sub(since)).await;
            }
            round = self.clock.now();
            held = request.target.find(&self.table.load(), &request.method, &request.headers)?.clone();
        }
    }

    /// An instance here as long as there is room, else another node's that has some; else whoever is there.
    fn pick<'a>(&'a self, route: &'a RouteEntry, bound: Option<u64>, tried: &[NodeId]) -> Option<&'a NodeId> {
        let me = &self.options.node;
        let is_new = !tried.contains(me);
        let (callee, instances) = (Callee::of(route), &*self.instances);
        if route.endpoints.is_empty() {
            return (is_new && callee.is_ready(instances)).then_some(me);
        }
        if let Some(key) = bound {
            let here = is_new && callee.is_ready(instances);
            let here = here.then_some((me, route.local_slots.max(1)));
            if let Some(node) = self.peers.pick_bound(route, tried, self.clock.now(), key, here) {
                return Some(node);
            }
        }
        let has_room = is_new && callee.has_room(instances);
        if has_room && !self.peers.know_of_failures_here() {
            return Some(me);
        }
        let is_here = is_new && callee.is_ready(instances);
        let here = is_here.then_some(Here { node: me, has_room });
        self.peers.choose(route, tried, self.clock.now(), self.rng.u64(), here)
    }

    async fn attempt(
        &self,
        endpoint: &NodeId,
        callee: Callee<'_>,
        policy: Policy<'_>,
        request: &mut Outbound,
        deadline: Duration,
    ) -> Result<Response, Unanswered> {
        let is_here = *endpoint == self.options.node;
        let workload = callee.workload;
        if !is_here || policy.keeps_body(&request.method) {
            let collected = until(&*self.clock, deadline, request.body.collect_small(SMALL_BODY_BYTES_MAX)).await;
            match collected {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(Unanswered::nothing_ran((&error).into())),
                Err(_) => return Err(Unanswered::nothing_ran(RouteError::Timeout)),
            }
        }
        if is_here {
            let to_send = request.to_request().ok_or_else(bad_target)?;
            let trial = self.peers.begin_here(callee, || self.clock.now());
            let answer = local::send(&*self.instances, &*self.clock, callee, to_send, deadline, &self.failures).await;
            if !is_clients_doing(&answer, &request.body) {
                self.peers.learn_here(callee, || self.clock.now(), &answer);
            }
            drop(trial);
            return answer;
        }
        callee.say(&mut request.headers);
        // Lent to the exchange, which drops them with the frame that they travel in.
        let headers = Arc::new(std::mem::take(&mut request.headers));
        let mut head = RequestHead {
            workload: workload.clone(),
            method: request.method.clone(),
            scheme: request.scheme.clone(),
            authority: request.target.authority.clone(),
            path_and_query: request.path_and_query().clone(),
            headers: headers.clone(),
        };
        let under_way = self.peers.begin(callee, endpoint, self.clock.now());
        let mut hop = trace::hop(&self.options.tracer, &mut head, &self.options.lattice, endpoint);
        // Boxed: most requests are answered here, and each would carry the room for this one.
        let answer = Box::pin(self.remote.send(endpoint, head, &request.body, deadline)).await;
        request.headers = Arc::unwrap_or_clone(headers);
        if callee.among.is_some() {
            callee::unsay(&mut request.headers);
        }
        if let (Err(unanswered), Some(hop)) = (&answer, &mut hop) {
            hop.fail(unanswered.error.code());
        }
        if !is_clients_doing(&answer, &request.body) {
            under_way.learn(self.clock.now(), &answer);
        }
        answer.map(|response| response.map(|body| Holding::new(body, Some(under_way)).boxed_unsync()))
    }

    fn books(&self) -> Books<'_> {
        let RouterOptions { tracer, access_log, .. } = &self.options;
        let conventions = self.metrics.conventions.as_ref();
        Books { tracer, access_log: access_log.as_ref(), conventions, rng: &*self.rng, clock: &self.clock }
    }

    /// An answer that is the router's own, and no error.
    fn by_router(&self, mut response: Response) -> Response {
        response.headers_mut().insert(headers::ROUTER, self.me.clone());
        self.surroundings.say(response.headers_mut(), || self.clock.now());
        response
    }

    fn finish(&self, mut response: Response, node: &NodeId) -> Result<Response, RouteError> {
        if response.status().is_informational() {
            // 101 too: upgrades are refused on the way in.
            if let Some(suppressed) = self.not_final.pass(self.clock.now()) {
                let status = response.status().as_u16();
                tracing::warn!(%node, status, suppressed, "the component's response is not final");
            }
            return Err(RouteError::Failed);
        }
        let is_here = *node == self.options.node;
        let node = if is_here { self.me.clone() } else { headers::value(node.to_string()) };
        headers::to_client(response.headers_mut(), node, self.me.clone());
        self.surroundings.say(response.headers_mut(), || self.clock.now());
        Ok(response)
    }
}

impl Outbound {
    fn path_and_query(&self) -> &PathAndQuery {
        self.rewritten.as_ref().unwrap_or(&self.target.path_and_query)
    }

    fn to_request(&self) -> Option<Request> {
        let mut parts = uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.target.authority.clone());
        parts.path_and_query = Some(self.path_and_query().clone());
        let mut request = Request::new(self.body.body());
        *request.uri_mut() = Uri::from_parts(parts).ok()?;
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = self.headers.clone();
        Some(request)
    }
}

/// Whether the time ran out while a guest waited for the rest of the request: that says nothing of who was asked.
fn is_clients_doing<T>(answer: &Result<T, Unanswered>, body: &Source) -> bool {
    matches!(answer, Err(Unanswered { error: RouteError::Timeout, .. })) && body.is_owed()
}

fn bad_target() -> Unanswered {
    Unanswered::nothing_ran(RouteError::BadTarget("the target is not a URI"))
}
