//! Instances that are made before a request needs one, and what they do until they count as ready: a request of the host's
//! own, where the unit has such a thing. It is an exchange like any other, but that nobody waits for its answer.

use crate::{
    body::{RequestBody, ResponseBody},
    exchange::{self, Outcome, Shared},
    failure::Failure,
    limits::CpuMeter,
    pool::Instance,
    unit::Inner,
};
use http::{StatusCode, header, uri::PathAndQuery};
use http_body_util::BodyExt as _;
use lattice::http::Body;
use std::{future::poll_fn, sync::Arc, task::Poll};

impl Inner {
    /// One more instance that waits for a request. Its own start has the limits of a request, and so has its warm-up.
    pub(crate) async fn warm(self: &Arc<Self>) -> Result<(), Failure> {
        let meter = Arc::<CpuMeter>::default();
        let made = self.timely(meter.clone().measure(&self.blueprint.node.processors, self.instantiate(meter))).await;
        self.keep_warm(made?).await
    }

    /// The same, if there is room. It takes nobody's place: units that keep instances warm would do so in turns.
    pub(crate) async fn warm_if_room(self: &Arc<Self>) -> Result<(), Failure> {
        self.keep_warm(self.instance_if_room().await?).await
    }

    /// An instance that has served nobody, if there is room.
    pub(crate) async fn instance_if_room(&self) -> Result<Instance, Failure> {
        let meter = Arc::<CpuMeter>::default();
        self.timely(meter.clone().measure(&self.blueprint.node.processors, self.try_instantiate(meter))).await
    }

    async fn timely<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let wall = self.blueprint.limits.wall;
        tokio::time::timeout(wall, work).await.unwrap_or(Err(Failure::Wall { limit: wall }))
    }

    async fn keep_warm(self: &Arc<Self>, instance: Instance) -> Result<(), Failure> {
        // Without reuse it may serve one request, and that is to be a client's.
        let Some(path) = self.blueprint.config.reuse.warm_up.as_ref().filter(|_| self.pool.is_on()) else {
            self.pool.add(instance);
            return Ok(());
        };
        let failed = |why: &str| Failure::WarmUp(format!("GET {path} {why}"));
        // Boxed: an exchange is large, and who waits for an instance need not be.
        let warm_up = Box::pin(self.warm_up(instance, path));
        let mut warmed = match self.timely(warm_up).await {
            Ok((instance, status)) if status.as_u16() < 400 => instance,
            Ok((_, status)) => return Err(failed(&format!("was answered with the status {}", status.as_u16()))),
            Err(failure) => return Err(failed(&failure.message())),
        };
        warmed.uses += 1;
        self.pool.keep(warmed);
        Ok(())
    }

    async fn warm_up(
        self: &Arc<Self>,
        instance: Instance,
        path: &PathAndQuery,
    ) -> Result<(Instance, StatusCode), Failure> {
        let shared = Arc::<Shared>::default();
        let body = RequestBody::new(Body::new(lattice::http::empty()), 0, shared.clone());
        let mut request = http::Request::new(body);
        *request.uri_mut() = path.clone().into();
        let host = header::HeaderValue::from_str(self.blueprint.config.workload.as_str());
        request.headers_mut().extend(host.ok().map(|host| (header::HOST, host)));

        let meter = instance.store.data().meter.clone();
        let guest = async {
            let call = exchange::serve(self.clone(), Some(instance), meter.clone(), request, shared.clone());
            let Outcome { mut instance, result } = meter.measure(&self.blueprint.node.processors, call).await;
            let holds_body = instance.as_mut().is_some_and(Instance::holds_body);
            let result = result.and_then(|()| shared.verdict());
            let result = if holds_body { result.and(Err(Failure::Unfinished)) } else { result };
            let result = shared.conclude(result);
            result.and(instance.ok_or(Failure::NoResponse))
        };
        // Polled after the guest whenever that was polled, so nobody has to wake it for the answer.
        let reader = async {
            let answer = poll_fn(|_| match (shared.take_answer(), shared.end()) {
                (None, None) => Poll::Pending,
                (answer, _) => Poll::Ready(answer),
            });
            let Some(answer) = answer.await else { return Err(Failure::NoResponse) };
            let mut body = ResponseBody::new(answer.body, shared.clone());
            while let Some(frame) = body.frame().await {
                // Where the guest's end is well, it is the reader who finds that something is missing.
                frame.map_err(|_| Failure::Unfinished)?;
            }
            Ok(answer.head.status)
        };
        let (guest, status) = futures_util::join!(guest, reader);
        Ok((guest?, status?))
    }
}
