//! The access log: what is written down of each request that a router answered. What becomes of a line is its writer's.

use crate::id::{Generation, NodeId, WorkloadName};
use core::net::IpAddr;
use http::{Method, Version};
use std::{fmt, time::Duration};

/// One request, once its answer is over.
#[derive(Debug, Clone, PartialEq)]
pub struct Access {
    /// When its head had been read, in milliseconds since 1970.
    pub unix_ms: u64,
    /// Where the connection came from. None for what the lattice itself asks for, such as the tick of a schedule.
    pub client: Option<IpAddr>,
    pub method: Method,
    /// As the client wrote it. Empty where it wrote none.
    pub host: String,
    /// Without the query, which may hold secrets.
    pub path: String,
    pub protocol: Version,
    /// None where the client went away before there was one, or where an HTTP/2 stream was reset in its place.
    pub status: Option<u16>,
    /// Of the bodies, as far as they came.
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// To the end of the response's body.
    pub duration: Duration,
    /// To the response's head.
    pub head: Option<Duration>,
    pub workload: Option<WorkloadName>,
    /// What names the route in metrics: host and path as its spec has them, and in braces what else it asks for.
    pub route: Option<std::sync::Arc<str>>,
    /// The node whose instance answered.
    pub node: Option<NodeId>,
    /// Of the spec that the instance ran, and whether it had answered others before. None where the answering node does not
    /// say.
    pub generation: Option<Generation>,
    pub reused: Option<bool>,
    /// `local`, `remote`, or `none` where the router answered by itself.
    pub via: &'static str,
    /// A code of the header `lattice-error`; or `cancelled` and `broken`, where the client or the response ended early.
    pub error: Option<&'static str>,
    /// Of the trace that the request belongs to.
    pub trace: Option<u128>,
}

/// Takes lines. Called on the way of requests, so it must not wait: what it can't take it drops and counts.
pub trait AccessLog: fmt::Debug + Send + Sync + 'static {
    fn log(&self, access: Access);
}
