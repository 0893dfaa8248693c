//! Requests of components to other workloads by their names. They go the way of any other but for the listener: to an
//! instance of this node without leaving its memory, else to another node.

use crate::{
    Inner, Outbound, Router,
    account::{Account, Answer},
    body::{Limited, Pieces, Source},
    error::RouteError,
    headers,
    metrics::Up,
    target::Target,
    trace,
};
use http::{HeaderMap, uri::Scheme};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use lattice::{
    Fut,
    http::Response,
    id::WorkloadName,
    mesh::{Call, HEADER_CALLER, HOPS_MAX, Mesh, MeshError},
    trace::SpanKind,
};
use lattice_route_table::RouteTable;
use std::sync::{Arc, Weak};

impl Router {
    /// The workloads of the lattice, for the components of this node. Does not keep the router alive.
    pub fn mesh(&self) -> Arc<dyn Mesh> {
        Arc::new(Workloads(Arc::downgrade(&self.0)))
    }
}

struct Workloads(Weak<Inner>);

impl Mesh for Workloads {
    fn call(&self, call: Call) -> Fut<'static, Result<Response, MeshError>> {
        let router = self.0.upgrade();
        Box::pin(async move { router.ok_or(MeshError::Unreachable)?.call(call).await })
    }
}

impl Inner {
    async fn call(&self, mut call: Call) -> Result<Response, MeshError> {
        let started = self.clock.now();
        let tracer = &self.options.tracer;
        let span = trace::begin(call.request.headers_mut(), &*self.rng, tracer, SpanKind::Server, "call");
        let mut account = Account::of_span(span, &self.clock, started);
        let up = Up::new(&self.metrics.in_flight);
        let place = self.places.take().map_err(|_| MeshError::Overloaded)?;
        let answered = self.call_admitted(call, started, &mut account).await;
        let duration = self.clock.now().saturating_sub(started);
        match answered {
            Ok(response) => {
                account.answered(&self.metrics, response.status(), duration);
                Ok(response.map(|body| Answer::new(Pieces::new(body), account, Some(place), up).boxed_unsync()))
            }
            Err(failure) => {
                if let Failure::Unanswered(error) = &failure {
                    let status = error.clone().into_response(true).status();
                    account.failed(error.code());
                    account.answered(&self.metrics, status, duration);
                }
                Err(failure.into())
            }
        }
    }

    async fn call_admitted(
        &self,
        call: Call,
        started: std::time::Duration,
        account: &mut Account,
    ) -> Result<Response, Failure> {
        let Call { caller, callee, hops, limit, request } = call;
        if hops > HOPS_MAX {
            return Err(Failure::Never(MeshError::Loop));
        }
        let table = self.table.load();
        let entry = table.workload(&callee).ok_or(Failure::Never(MeshError::NoWorkload))?;
        // Asked here to tell the caller why, and once more where the callee runs: its node knows best.
        if !entry.lets_call(&caller) {
            return Err(Failure::Never(MeshError::Refused));
        }
        account.routed(&self.metrics, entry);
        self.places.allow(account.under_way())?;
        let (head, body) = request.into_parts();
        if body.size_hint().lower() > entry.body_limit {
            return Err(Failure::Never(MeshError::BodyTooLarge));
        }
        let body = if body.is_end_stream() {
            body
        } else {
            Limited::new(body, entry.body_limit, account.receives()).boxed_unsync()
        };
        let timeout = limit.min(entry.wall);
        let target = Target::of_call(&callee, &head.uri)?;
        let mut headers = head.headers;
        headers::to_callee(&mut headers, &caller, hops, target.authority.as_str());
        let outbound = Outbound {
            method: head.method,
            scheme: Scheme::HTTP,
            target,
            rewritten: None,
            roll: 0,
            lot: None,
            bound: None,
            headers,
            body: Source::new(body),
            timeout: Some(timeout),
        };
        let mut response = self.send(outbound, entry.clone(), started, account).await?;
        headers::to_caller(response.headers_mut());
        Ok(response)
    }
}

/// Why there is no response: nobody was asked, or nobody answered.
enum Failure {
    Never(MeshError),
    Unanswered(RouteError),
}

impl From<RouteError> for Failure {
    fn from(error: RouteError) -> Self {
        Failure::Unanswered(error)
    }
}

impl From<Failure> for MeshError {
    fn from(failure: Failure) -> Self {
        let error = match failure {
            Failure::Never(error) => return error,
            Failure::Unanswered(error) => error,
        };
        match error {
            RouteError::NoRoute => MeshError::NoWorkload,
            RouteError::NotReady => MeshError::NotReady,
            RouteError::Unreachable => MeshError::Unreachable,
            RouteError::Overloaded { .. } => MeshError::Overloaded,
            RouteError::Timeout => MeshError::Timeout,
            RouteError::Failed => MeshError::Failed,
            RouteError::PeerLost => MeshError::PeerLost,
            RouteError::HeadTooLarge => MeshError::HeadTooLarge,
            RouteError::BodyTooLarge => MeshError::BodyTooLarge,
            RouteError::BodyBroken | RouteError::BodyTooSlow => MeshError::BodyBroken,
            // Of clients only, but for the first.
            RouteError::BadTarget(_)
            | RouteError::NotImplemented(_)
            | RouteError::UriTooLong
            | RouteError::CorsDenied
            | RouteError::Misdirected => MeshError::BadRequest,
        }
    }
}

/// Whether a workload of this node lets a request in that came from another node: one of a component must name a caller
/// that it lets call, and the spec must be known here.
pub(crate) fn lets_in(table: &RouteTable, callee: &WorkloadName, headers: &HeaderMap) -> bool {
    let mut callers = headers.get_all(HEADER_CALLER).iter();
    let Some(caller) = callers.next() else { return true };
    let caller = caller.to_str().ok().and_then(|caller| WorkloadName::new(caller).ok());
    match (caller, callers.next(), table.workload(callee)) {
        (Some(caller), None, Some(entry)) => entry.lets_call(&caller),
        _ => false,
    }
}
