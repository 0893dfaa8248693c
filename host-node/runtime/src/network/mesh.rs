//! Requests to other workloads by their names: handed to the router of this node, and answered without a socket.

use super::{Network, body::ResponseBody, client::Times, failure};
use crate::inherited::Inherited;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use lattice::{
    http::{Body, BodyError},
    id::WorkloadName,
    mesh::{Call, HOPS_MAX, Mesh, MeshError},
};
use tokio_util::task::AbortOnDropHandle;
use wasmtime_wasi_http::{Error, WasiBody};

/// How the future of a request is polled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Polled {
    /// By a task of its own.
    #[default]
    Alone,
    /// Within the loop of the guest's store. What answers is given a task then: else its work would count as the guest's,
    /// and chains of calls would pile up on one stack.
    InStore,
}

impl Network {
    pub(super) async fn call(
        &self,
        callee: WorkloadName,
        request: Request<WasiBody>,
        times: Times,
        inherited: &Inherited,
        polled: Polled,
    ) -> Result<Response<WasiBody>, Error> {
        let Some(mesh) = self.node.mesh.get() else { return Err(Error::DestinationUnavailable) };
        let hops = inherited.hops.saturating_add(1);
        if hops > HOPS_MAX {
            return Err(Error::LoopDetected);
        }
        let place = self.requests.clone().try_acquire_owned().map_err(|_| Error::ConnectionLimitReached)?;
        let limit = inherited.left(times.first_byte);
        let request = request.map(|body| Body::new(body.map_err(|error| BodyError::Aborted(error.to_string()))));
        let call = Call { caller: self.login.workload.clone(), callee: callee.clone(), hops, limit, request };
        let calling = mesh.call(call);
        let answered = match polled {
            Polled::Alone => calling.await,
            Polled::InStore => match AbortOnDropHandle::new(tokio::spawn(calling)).await {
                Ok(answered) => answered,
                Err(_) => Err(MeshError::Failed),
            },
        };
        let response = answered.map_err(|error| {
            if error == MeshError::Refused {
                self.denials.note(|| {
                    let caller = &self.login.workload;
                    format!(
                        "a request to http://{callee}.lattice was refused: http.callers of {callee} has no {caller}"
                    )
                });
            }
            failure::of_mesh(&error)
        })?;
        let body = |body| ResponseBody::new(body, failure::of_body, times.between_bytes, place).boxed_unsync();
        Ok(response.map(body))
    }
}

/// Where the workloads of the lattice are. Nowhere until it is set, once.
pub(crate) type MeshPlace = std::sync::OnceLock<std::sync::Arc<dyn Mesh>>;
