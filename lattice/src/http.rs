//! What the router and the host node say to each other about HTTP. The router never learns what a component is; the
//! host node never learns what a route is. Both see a request, a response, and why there is none.

use crate::{Fut, id::WorkloadName, record::Among};
use bytes::Bytes;
use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};
use std::time::Duration;

/// On the way to another node: which replicas may answer ([`Among`]), where not all of the workload's may. Only the lattice
/// sets it: a client's own is taken away, and no component sees it.
pub const HEADER_AMONG: &str = "lattice-among";

/// A streamed body with trailers.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;
pub type Request = http::Request<Body>;
pub type Response = http::Response<Body>;

/// Why a body ended early. The reader never sees a cut body as a whole one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The side that sends the body gave it up: a client that went away, a guest that trapped, a node that died.
    #[error("the sender of the body gave up: {0}")]
    Aborted(String),
    /// More bytes than the limit that the workload or the node sets.
    #[error("the body is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    /// The exchange's deadline passed while the body was under way.
    #[error("the deadline passed while the body was under way")]
    Timeout,
}

/// A body of no bytes.
pub fn empty() -> Body {
    http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body known as a whole.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Why an instance gave no response. The first two prove that no guest code saw the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No ready instance of the workload is on this node.
    #[error("no ready instance here")]
    NotHere,
    /// All instances are busy and the queue is full or its deadline passed.
    #[error("overloaded; try again in {} s", retry_after.as_secs())]
    Overloaded { retry_after: Duration },
    /// The workload's time limit passed before the response head.
    #[error("no response within {} ms", limit.as_millis())]
    Timeout { limit: Duration },
    /// The guest trapped, exited, or ended without a response. `message` is for the operator's log, not for the client.
    #[error("the component failed: {message}")]
    Failed { message: String },
    /// The request's body could not be read to its end.
    #[error(transparent)]
    Body(#[from] BodyError),
}

impl CallError {
    /// True where no guest code has seen the request, so that it may be sent elsewhere whatever its method is.
    pub fn nothing_ran(&self) -> bool {
        matches!(self, CallError::NotHere | CallError::Overloaded { .. })
    }
}

/// The instances of this node, as its router sees them.
pub trait Instances: Send + Sync + 'static {
    /// True if a request for the workload would find a ready instance here now.
    fn is_ready(&self, workload: &WorkloadName) -> bool;

    /// True if it would begin at once, without waiting in line.
    fn has_room(&self, workload: &WorkloadName) -> bool {
        self.is_ready(workload)
    }

    /// Hand a request to a ready instance. The response's body may still be streaming when this returns. Dropping the
    /// future or the response's body cancels the exchange.
    fn call(&self, workload: &WorkloadName, request: Request) -> Fut<'static, Result<Response, CallError>>;

    /// As [`Instances::is_ready`], of instances that run what is asked for. By default instances are not told apart.
    fn is_ready_among(&self, workload: &WorkloadName, among: Among) -> bool {
        let _ = among;
        self.is_ready(workload)
    }

    /// As [`Instances::has_room`].
    fn has_room_among(&self, workload: &WorkloadName, among: Among) -> bool {
        let _ = among;
        self.has_room(workload)
    }

    /// As [`Instances::call`]; [`CallError::NotHere`] where instances of the workload run something else only.
    fn call_among(
        &self,
        workload: &WorkloadName,
        among: Among,
        request: Request,
    ) -> Fut<'static, Result<Response, CallError>> {
        let _ = among;
        self.call(workload, request)
    }
}
