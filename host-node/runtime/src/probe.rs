//! A request of the node's own to one unit: how it does, asked beside the requests of clients.
//!
//! It has a turn of its own, so that it waits in no line and takes nobody's place, and an instance that is idle or, where
//! none is, one more than the unit may have. It counts as nobody's request and nobody's failure. All limits of a request
//! hold for it.

use crate::{
    exchange,
    failure::Failure,
    terms::Terms,
    unit::{Inner, Unit},
};
use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt as _;
use lattice::http::{Request, Response};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

/// Probes of one unit at a time: those of a kind come one after the other, and there are two kinds.
pub(crate) const PROBES_AT_ONCE: usize = 2;
/// As much of an answer is read, so that a guest that writes a short one can end as it means to; and kept, for people.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
const ANSWER_BYTES_KEPT: usize = 256;

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probed {
    Answered {
        status: StatusCode,
        /// How the body begins.
        text: String,
    },
    /// There was no whole answer in time.
    Late {
        /// It is busy rather than stuck: clients' requests went on meanwhile, by the head of an answer or a part of a body,
        /// or the guest was never let compute, since others had all processors.
        busy: bool,
    },
    /// The guest failed.
    Failed(String),
    /// It could not be asked: the node has no room for one more instance.
    NoRoom,
    /// The unit has ended.
    Stopped,
}

/// A way to one unit that does not keep it alive.
#[derive(Clone)]
pub struct Prober(Arc<Inner>);

impl Unit {
    pub fn prober(&self) -> Prober {
        Prober(self.0.clone())
    }
}

impl Prober {
    /// Send a `GET` without a body, and wait for the whole answer.
    pub async fn probe(&self, request: impl Fn() -> Request, limit: Duration) -> Probed {
        let unit = &self.0;
        let deadline = Instant::now() + limit;
        let before = unit.counters.progress.load(Relaxed);
        let begun = AtomicBool::new(true);
        let probed = async {
            let Ok(turn) = unit.probes.clone().acquire_owned().await else { return Probed::Stopped };
            match ask(unit, turn, request, deadline, &begun).await {
                Ok(response) => read(response).await,
                Err(failure) => failed(&failure),
            }
        };
        let probed = tokio::select! {
            biased;
            () = unit.stop.cancelled() => Probed::Stopped,
            probed = tokio::time::timeout_at(deadline, probed) => probed.unwrap_or_else(|_| failed(&Failure::Wall { limit })),
        };
        match probed {
            Probed::Late { .. } => {
                let went_on = unit.counters.progress.load(Relaxed) != before;
                Probed::Late { busy: went_on || !begun.load(Relaxed) }
            }
            probed => probed,
        }
    }
}

/// What fails on a kept instance may be the fault of keeping it, so it is tried once more, as for a client. `begun` is told
/// whether the guest was let compute.
async fn ask(
    unit: &Arc<Inner>,
    turn: OwnedSemaphorePermit,
    request: impl Fn() -> Request,
    deadline: Instant,
    begun: &AtomicBool,
) -> Result<Response, Failure> {
    let kept = unit.pool.take(Terms::PROBE.tries);
    let instance = match kept {
        Some(kept) => kept,
        None => unit.instance_if_room().await?,
    };
    let failed = match exchange::begin(unit, Terms::PROBE, turn, Some(instance), request(), deadline).await {
        Ok(response) => return Ok(response),
        Err(failed) => failed,
    };
    begun.store(failed.begun, Relaxed);
    let (Some(turn), true, true) = (failed.turn, failed.may_be_reuse, failed.failure.may_retry()) else {
        return Err(failed.failure);
    };
    let instance = unit.instance_if_room().await?;
    let again = exchange::begin(unit, Terms::PROBE, turn, Some(instance), request(), deadline).await;
    if again.is_ok() {
        unit.strike(&failed.failure);
    }
    again.map_err(|failed| failed.failure)
}

async fn read(response: Response) -> Probed {
    let (head, mut body) = response.into_parts();
    let (mut kept, mut read) = (Vec::new(), 0);
    while read < ANSWER_BYTES_MAX {
        match body.frame().await {
            Some(Ok(frame)) => {
                let bytes = frame.into_data().unwrap_or_else(|_| Bytes::new());
                read += bytes.len();
                let room = ANSWER_BYTES_KEPT.saturating_sub(kept.len());
                kept.extend_from_slice(bytes.get(..room).unwrap_or(&bytes));
            }
            Some(Err(error)) => return Probed::Failed(format!("status {}, then {error}", head.status.as_u16())),
            None => break,
        }
    }
    Probed::Answered { status: head.status, text: String::from_utf8_lossy(&kept).into_owned() }
}

fn failed(failure: &Failure) -> Probed {
    match failure {
        Failure::Wall { .. } => Probed::Late { busy: false },
        Failure::NoRoom(_) => Probed::NoRoom,
        Failure::Stopped | Failure::Cancelled => Probed::Stopped,
        failure => Probed::Failed(failure.message()),
    }
}
