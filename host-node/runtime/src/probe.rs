//! A request of the node's own to one unit: how it does, asked beside the requests of clients. Over HTTP, or by a function
//! that the main component exports, which takes the same way, or one of a service.
//!
//! It has a turn of its own, so that it waits in no line and takes nobody's place, and an instance that is idle or, where
//! none is, one more than the unit may have. It counts as nobody's request and nobody's failure. All limits of a request
//! hold for it.

use crate::{
    bridge,
    exchange::{self, Shared},
    failure::Failure,
    host::Host,
    parts::{PartError, PartFault},
    terms::Terms,
    unit::{Inner, Unit},
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt as _, Full};
use lattice::{
    http::{Request, Response},
    id::ComponentName,
    limits::clip,
    spec::FunctionName,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use wasmtime::{
    Store,
    component::{ComponentExportIndex, Instance, Val, types::ComponentItem},
};

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
    /// The function that was called said so, or why not.
    Returned(Result<(), String>),
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

impl Prober {
    /// Call an exported function of the main component, with all that holds for [`Prober::probe`]. The unit must be one whose
    /// functions are called ([`UnitConfig::by_function`](crate::UnitConfig::by_function)).
    pub async fn call(&self, function: &FunctionName, limit: Duration) -> Probed {
        let asked = Asked(Arc::new(function.clone()));
        let request = || {
            let mut request = http::Request::new(lattice::http::empty());
            request.extensions_mut().insert(asked.clone());
            request
        };
        match self.probe(request, limit).await {
            Probed::Answered { status: StatusCode::NO_CONTENT, .. } => Probed::Returned(Ok(())),
            Probed::Answered { text, .. } => Probed::Returned(Err(text)),
            probed => probed,
        }
    }

    /// Call an exported function of a service, which must be among its [`Part::probes`](crate::Part::probes). It waits for its
    /// turn like other calls of the service: a service that answers nobody does not answer this either.
    pub async fn call_service(&self, service: &ComponentName, function: &FunctionName, limit: Duration) -> Probed {
        let unit = &self.0;
        let Some(call) = unit.parts.call(service, function) else {
            return Probed::Failed(format!("has no service {service} whose function {function} can be called"));
        };
        let answered = call.answered();
        let before = answered();
        let called = tokio::select! {
            biased;
            () = unit.stop.cancelled() => return Probed::Stopped,
            called = tokio::time::timeout(limit, call.run(bridge::question())) => called,
        };
        let Ok(result) = called else { return Probed::Late { busy: answered() != before } };
        match result.and_then(bridge::answer) {
            Ok(value) => match verdict(value) {
                Some(verdict) => Probed::Returned(verdict),
                None => Probed::Failed(wrong_type(function)),
            },
            Err(error) => match error.downcast_ref::<PartError>().map(|error| (&error.fault, error)) {
                // Others' calls are before this one.
                Some((PartFault::Busy, _)) => Probed::Late { busy: true },
                Some((PartFault::Failed(failure), _)) if matches!(failure.as_ref(), Failure::NoRoom(_)) => {
                    Probed::NoRoom
                }
                Some((_, error)) => Probed::Failed(error.message()),
                None => Probed::Failed(format!("{error:#}")),
            },
        }
    }
}

/// Makes of a request the call of a function.
#[derive(Clone)]
pub(crate) struct Asked(Arc<FunctionName>);

impl Asked {
    pub(crate) fn of<B>(request: &http::Request<B>) -> Option<Self> {
        request.extensions().get::<Self>().cloned()
    }

    /// The call, and what it answers as a response: 204 where it passes, else 503 with what is wrong.
    pub(crate) async fn answer(
        &self,
        unit: &Inner,
        store: &mut Store<Host>,
        whole: Option<Instance>,
        headers: &HeaderMap,
        shared: &Arc<Shared>,
    ) -> wasmtime::Result<()> {
        store.data_mut().answering(headers, shared);
        shared.request_was_read();
        let index = find(unit.blueprint.component.code(), &self.0);
        let function = match (whole, index) {
            (Some(whole), Some(index)) => whole.get_func(&mut *store, index),
            _ => None,
        };
        let verdict = match function {
            Some(function) => {
                let mut results = [Val::Bool(false)];
                function.call_async(&mut *store, &[], &mut results).await?;
                let [value] = results;
                verdict(Some(value)).unwrap_or_else(|| Err(wrong_type(&self.0)))
            }
            None => Err(wrong_type(&self.0)),
        };
        let mut response = http::Response::new(());
        let text = match verdict {
            Ok(()) => {
                *response.status_mut() = StatusCode::NO_CONTENT;
                String::new()
            }
            Err(text) => {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                text
            }
        };
        let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
        shared.answer(Ok(response.map(|()| body)));
        Ok(())
    }
}

/// The function by its name, if it is exported and one that can be asked.
pub(crate) fn find(code: &wasmtime::component::Component, function: &FunctionName) -> Option<ComponentExportIndex> {
    let (ty, engine) = (code.component_type(), code.engine());
    let interface = function.interface(ty.exports(engine).map(|(name, _)| name)).ok()?;
    let within = match interface {
        Some(interface) => Some(code.get_export_index(None, interface)?),
        None => None,
    };
    let (item, index) = code.get_export(within.as_ref(), function.name())?;
    let ComponentItem::ComponentFunc(found) = item else { return None };
    let mut results = found.results();
    let fits = match (results.next(), results.next()) {
        (Some(wasmtime::component::Type::Bool), None) => true,
        (Some(wasmtime::component::Type::Result(result)), None) => {
            result.ok().is_none() && matches!(result.err(), None | Some(wasmtime::component::Type::String))
        }
        _ => false,
    };
    (fits && found.params().len() == 0).then_some(index)
}

fn wrong_type(function: &FunctionName) -> String {
    format!("{function} is not exported as a `func() -> bool` or `func() -> result<_, string>`")
}

/// What a function said, if it is one that can.
fn verdict(value: Option<Val>) -> Option<Result<(), String>> {
    Some(match value? {
        Val::Bool(true) | Val::Result(Ok(None)) => Ok(()),
        Val::Bool(false) => Err("false".to_owned()),
        Val::Result(Err(None)) => Err("an error".to_owned()),
        Val::Result(Err(Some(error))) => match *error {
            Val::String(text) => Err(format!("the error {}", clip(&text, ANSWER_BYTES_KEPT))),
            _ => return None,
        },
        _ => return None,
    })
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
