//! Instances that are made before a request needs one, and what they do until they count as ready: a request of the host's
//! own, where the unit has such a thing. It is an exchange like any other, but that nobody waits for its answer.

use crate::{
    body::{RequestBody, ResponseBody},
    exchange::{self, Outcome, Shared},
    failure::Failure,
    limits::CpuMeter,
    pool::{Instance, Retirement},
    tally::Tally,
    unit::Inner,
};
use http::{StatusCode, header, uri::PathAndQuery};
use http_body_util::BodyExt as _;
use lattice::http::Body;
use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

/// Pause after an instance that could not be kept warm, before the next one is made: at first, and at most, after many
/// in a row. A guest that cannot be warmed up now must not compute for that all the time.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Makes the instances that are to be warm in the place of others. Apart from the housekeeping, which must not wait for
/// guests.
pub(crate) async fn keep_enough(unit: Arc<Inner>) {
    let mut ticks = unit.pool.ticks();
    let mut pause = PAUSE;
    while unit.stop.run_until_cancelled(ticks.tick()).await.is_some() {
        for _ in 0..unit.pool.cold() {
            match unit.stop.run_until_cancelled(unit.warm_if_room()).await {
                Some(Ok(())) => pause = PAUSE,
                Some(Err(Failure::NoRoom(_))) | None => break, // another time, or never
                Some(Err(failure)) => {
                    unit.note_failure(&failure);
                    unit.stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                    break;
                }
            }
        }
    }
    unit.pool.clear(); // the last one may have come after the others were dropped
}

impl Inner {
    /// One more instance that waits for a request. Its own start has the limits of a request, and so has its warm-up.
    pub(crate) async fn warm(self: &Arc<Self>) -> Result<(), Failure> {
        if !self.warm_up_and_keep(self.instance().await?).await? {
            self.pool.add(self.instance().await?);
        }
        Ok(())
    }

    /// The same, if there is room. It takes nobody's place: units that keep instances warm would do so in turns.
    async fn warm_if_room(self: &Arc<Self>) -> Result<(), Failure> {
        if !self.warm_up_and_keep(self.instance_if_room().await?).await? {
            self.pool.add(self.instance_if_room().await?);
        }
        Ok(())
    }

    async fn instance(&self) -> Result<Instance, Failure> {
        let meter = Arc::<CpuMeter>::default();
        self.timely(meter.clone().measure(&self.blueprint.node.processors, self.instantiate(meter))).await
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

    /// False if that showed that an instance survives one request only: it is gone, and one that was asked for nothing can
    /// be kept in its place.
    async fn warm_up_and_keep(self: &Arc<Self>, instance: Instance) -> Result<bool, Failure> {
        // Without reuse it may serve one request, and that is to be a client's.
        let Some(path) = self.blueprint.config.reuse.warm_up.as_ref().filter(|_| self.pool.is_on()) else {
            self.pool.add(instance);
            return Ok(true);
        };
        let failed = |why: &str| {
            let failure = Failure::WarmUp(format!("GET {path} {why}"));
            self.pool.retire(failure.retirement());
            failure
        };
        let mut instance = match self.warm_up(instance, path).await {
            Ok((instance, status)) if status.as_u16() < 400 => instance,
            Ok((_, status)) => return Err(failed(&format!("was answered with the status {}", status.as_u16()))),
            Err(failure) => return Err(failed(&failure.message())),
        };
        instance.warmed = true;
        // Else a client's request would be the first to be a second one, and there are those that cannot be repeated.
        if !self.pool.standing().is_proved() {
            instance = match self.warm_up(instance, path).await {
                Ok((instance, _)) => instance,
                Err(failure) if failure.may_be_reuse(true) => {
                    self.pool.retire(failure.retirement());
                    self.strike(&failure);
                    return Ok(false);
                }
                Err(failure) => return Err(failed(&format!("a second time {}", failure.message()))),
            };
            self.pool.standing().reused();
        }
        let used = instance.store.data().memory.used();
        match self.pool.keep(instance) {
            None => Ok(true),
            Some(Retirement::Spent) => Ok(false), // another replica has found out meanwhile
            Some(Retirement::Memory) => {
                let limit = self.blueprint.limits.memory_bytes;
                let why = format!("took {used} of {limit} bytes of memory, which leaves too few: raise limits.memory");
                Err(Failure::WarmUp(format!("GET {path} {why}")))
            }
            Some(_) => Err(Failure::WarmUp(format!("GET {path} left too many handles behind"))),
        }
    }

    async fn warm_up(
        self: &Arc<Self>,
        instance: Instance,
        path: &PathAndQuery,
    ) -> Result<(Instance, StatusCode), Failure> {
        let meter = instance.store.data().meter.clone();
        let _spent = Spent { meter: meter.clone(), tally: &self.blueprint.tally };
        // Boxed: an exchange is large, and who waits for an instance need not be.
        self.timely(Box::pin(self.exchange(instance, meter, path))).await
    }

    async fn exchange(
        self: &Arc<Self>,
        instance: Instance,
        meter: Arc<CpuMeter>,
        path: &PathAndQuery,
    ) -> Result<(Instance, StatusCode), Failure> {
        let shared = Arc::<Shared>::default();
        let body = RequestBody::new(Body::new(lattice::http::empty()), 0, shared.clone());
        let mut request = http::Request::new(body);
        *request.uri_mut() = path.clone().into();
        let host = header::HeaderValue::from_str(self.blueprint.config.workload.as_str());
        request.headers_mut().extend(host.ok().map(|host| (header::HOST, host)));

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

/// Tells what a warm-up spent, however it ends.
struct Spent<'a> {
    meter: Arc<CpuMeter>,
    tally: &'a Tally,
}

impl Drop for Spent<'_> {
    fn drop(&mut self) {
        self.tally.cpu(self.meter.spent());
    }
}
