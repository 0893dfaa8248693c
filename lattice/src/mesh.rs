//! Requests of one workload's components to another workload by its name, `http://{workload}.lattice/…`: what the host
//! hands to the router, and why there is no response. The host knows who asks and whether it may; the router knows who
//! answers, and asks whether it would answer this one.

use crate::{
    Fut,
    http::{Request, Response},
    id::WorkloadName,
};
use std::time::Duration;

/// Names below it are workloads. They are in no DNS, and are asked of none.
pub const DOMAIN: &str = "lattice";

/// The workload whose component sent a request. Only the lattice sets it: a client's own is taken away.
pub const HEADER_CALLER: &str = "lattice-caller";

/// How many calls from workload to workload led to a request: absent for a client's, 1 for a call that answers one. Only
/// the lattice sets it.
pub const HEADER_HOPS: &str = "lattice-hops";

/// Most calls in one chain. Longer ones are loops, or might as well be.
pub const HOPS_MAX: u8 = 16;

/// A request of a component to a workload.
#[derive(Debug)]
pub struct Call {
    /// Whose component asks.
    pub caller: WorkloadName,
    pub callee: WorkloadName,
    /// Calls in the chain, with this one: 1 or more.
    pub hops: u8,
    /// Time that is left until the head of the response.
    pub limit: Duration,
    /// Its URI names scheme, authority and path.
    pub request: Request,
}

/// Why a call has no response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MeshError {
    #[error("there is no such workload")]
    NoWorkload,
    /// `http.callers` of the callee does not name the caller.
    #[error("the workload does not let this one call it")]
    Refused,
    #[error("more than {HOPS_MAX} calls in one chain")]
    Loop,
    /// No instance was ready in time.
    #[error("the workload is not ready")]
    NotReady,
    /// Other nodes have instances, but NATS is out of reach.
    #[error("the nodes that run the workload are out of reach")]
    Unreachable,
    #[error("too many requests are under way")]
    Overloaded,
    #[error("no response in time")]
    Timeout,
    /// The callee trapped, or ended without a response.
    #[error("the component failed")]
    Failed,
    /// The node that ran the callee went away.
    #[error("the connection to the node that ran the component was lost")]
    PeerLost,
    #[error("the request's head is too large")]
    HeadTooLarge,
    #[error("the request's body is too large")]
    BodyTooLarge,
    #[error("the request's body did not come in full")]
    BodyBroken,
    /// The path or the method is none.
    #[error("the request can't be sent")]
    BadRequest,
}

/// The workloads of the lattice, as the host of one node sees them.
pub trait Mesh: Send + Sync + 'static {
    /// Hand a request to a ready instance of the callee, here or on another node. The response's body may still be
    /// streaming when this returns. Dropping the future or the response's body cancels the exchange.
    fn call(&self, call: Call) -> Fut<'static, Result<Response, MeshError>>;
}

/// The workload that a host in normal form names: `shop.lattice`. `Some(None)` for a name below [`DOMAIN`] that can be no
/// workload's.
pub fn workload_of(host: &str) -> Option<Option<WorkloadName>> {
    let name = host.strip_suffix(DOMAIN)?.strip_suffix('.')?;
    Some(WorkloadName::new(name).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_have_one_label_before_the_domain() {
        for (host, expect) in [
            ("shop.lattice", Some(Some("shop"))),
            ("a.b.lattice", Some(None)),
            ("_x.lattice", Some(None)),
            ("lattice", None),
            ("xlattice", None),
            ("shop.lattice.test", None),
            ("shop.test", None),
        ] {
            let found = workload_of(host);
            let found = found.as_ref().map(|name| name.as_ref().map(WorkloadName::as_str));
            assert_eq!(found, expect, "{host}");
        }
    }
}
