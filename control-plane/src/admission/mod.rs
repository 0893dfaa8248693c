//! The control interface: NATS requests, answered by any node.
//!
//! A request that changes something must come from a client that waits for the answer, and the answer goes to inboxes
//! only: with a reply subject of its own choice a client could make a node publish where the client itself may not.

mod answers;
mod compose;
mod concurrency;
mod config;
mod explain;
mod maintenance;
mod placement;
mod probes;
mod profiles;
mod put;
mod read;
mod rebalance;
mod rollout;
mod routes;
mod schedules;
mod secrets;
mod steps;
mod stores;
#[cfg(test)]
pub(crate) mod testing;
mod warnings;

use crate::{Inspector, NodeOptions, events::Events, reports::Reports};
use answers::ok;
use bytes::Bytes;
use lattice::{
    ctl::{CtlError, ErrorCode, HEADER_ERROR, HEADER_ERROR_CODE, Reply},
    host::Role,
    id::{Digest, Revision},
    limits::SPEC_BYTES_MAX,
    messaging::Messaging,
    store::{Answer, Endpoint, Headers, Message, MicroService, Platform, StoreError},
    subject::{CTL_QUEUE, CTL_SERVICE, ConfigVerb, SecretVerb, Topic, WorkloadVerb},
    view::LatticeView,
};
use serde::de::DeserializeOwned;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{runtime::RuntimeFlavor, sync::watch};

const RETRY: Duration = Duration::from_secs(1);

/// Headers that JetStream puts on what it delivers. A request that has them was not sent by a client.
const JETSTREAM_HEADERS: [&str; 3] = ["Nats-Stream", "Nats-Sequence", "Nats-Time-Stamp"];

#[derive(Clone)]
pub(crate) struct Admission {
    options: Arc<NodeOptions>,
    platform: Platform,
    events: Events,
    inspect: Inspector,
    view: watch::Receiver<Arc<LatticeView>>,
    reports: Reports,
    messaging: Arc<dyn Messaging>,
    /// Digests that were inspected and found good; what they name can't change.
    inspected: Arc<Mutex<BTreeMap<(Digest, Role), put::Traits>>>,
    /// What was composed, by a digest of all that went into it.
    composed: Arc<Mutex<BTreeMap<Digest, compose::Made>>>,
    /// One component, or one composition, at a time is fetched and inspected: each may be as large as a component can be.
    inspecting: Arc<tokio::sync::Mutex<()>>,
}

impl Admission {
    pub(crate) fn new(
        options: Arc<NodeOptions>,
        platform: Platform,
        events: Events,
        inspect: Inspector,
        view: watch::Receiver<Arc<LatticeView>>,
        (reports, messaging): (Reports, Arc<dyn Messaging>),
    ) -> Self {
        let (inspected, composed, inspecting) = (Arc::default(), Arc::default(), Arc::default());
        Self { options, platform, events, inspect, view, reports, messaging, inspected, composed, inspecting }
    }

    /// Answer requests. Never returns.
    pub(crate) async fn run(self) {
        let lattice = &self.options.lattice;
        // One endpoint for all operations, so that one which does not exist is answered as well.
        let endpoint = Endpoint {
            name: "ctl".to_owned(),
            subject: lattice::subject::ctl_all(lattice),
            queue: CTL_QUEUE.to_owned(),
        };
        let service = MicroService {
            name: CTL_SERVICE.to_owned(),
            version: self.options.version.clone(),
            description: format!("Control interface of lattice {lattice}"),
            metadata: [("lattice".to_owned(), lattice.to_string()), ("node".to_owned(), self.options.node.to_string())]
                .into(),
            endpoints: vec![endpoint],
        };
        let admission = self.clone();
        let handler: lattice::store::Handler = Arc::new(move |_, message| {
            let admission = admission.clone();
            Box::pin(async move { admission.answer(message).await })
        });
        loop {
            if let Err(error) = self.platform.bus.serve(service.clone(), handler.clone()).await {
                tracing::warn!(%error, "the control interface is not served; trying again");
            }
            self.platform.clock.sleep(RETRY).await;
        }
    }

    async fn answer(&self, message: Message) -> Option<Answer> {
        // Every node answers this one by itself: see the host node.
        if let Some((_, Topic::Workload(WorkloadVerb::Logs, _))) = Topic::parse(&message.subject) {
            return None;
        }
        let reply = message.reply.as_deref();
        if !reply.is_some_and(lattice::subject::is_reply_subject) {
            tracing::warn!(subject = message.subject, reply, "refused a request whose reply subject is not an inbox");
            return None;
        }
        if let Some(header) = JETSTREAM_HEADERS.iter().find(|header| message.headers.contains_key(**header)) {
            let text = format!("the request carries the JetStream header {header}: it was not sent by a client");
            return Some(error_answer(&CtlError::new(ErrorCode::Refused, text)));
        }
        Some(match self.dispatch(&message).await {
            Ok(answer) => self.sendable(answer),
            Err(error) => error_answer(&error),
        })
    }

    async fn dispatch(&self, message: &Message) -> Result<Answer, CtlError> {
        let unknown = || {
            CtlError::new(ErrorCode::UnknownOperation, format!("there is no operation {}", message.subject))
                .hint("see docs/protocol.md; names are 1 to 63 of a-z, 0-9 and '-'")
        };
        let (_, topic) = Topic::parse(&message.subject).ok_or_else(unknown)?;
        match topic {
            Topic::WorkloadPut => ok(Box::pin(self.put(message)).await?),
            Topic::WorkloadList => self.list(message)?.answer(),
            Topic::WorkloadSchema => ok(lattice::spec::json_schema()),
            Topic::Workload(verb, name) => match verb {
                WorkloadVerb::Get => ok(self.get(&name).await?),
                WorkloadVerb::Status => ok(self.status(&name, message).await?),
                WorkloadVerb::History => self.history(&name, message).await?.answer(),
                WorkloadVerb::Delete => ok(self.delete(&name, message).await?),
                WorkloadVerb::Rollback => ok(self.rollback(&name, message).await?),
                WorkloadVerb::Rollout => ok(self.steer(&name, message).await?),
                WorkloadVerb::Scale => ok(self.scale(&name, message).await?),
                WorkloadVerb::Explain => ok(self.explain(&name, message)?),
                WorkloadVerb::Logs => Err(unknown()),
            },
            Topic::NodeList => self.nodes(message)?.answer(),
            Topic::NodeGet(node) => ok(self.node(&node)?),
            Topic::NodeCordon(node) => ok(self.cordon(&node, true).await?),
            Topic::NodeUncordon(node) => ok(self.cordon(&node, false).await?),
            Topic::NodeDrain(node) => ok(self.drain(&node, message).await?),
            Topic::NodeUndrain(node) => ok(self.undrain(&node).await?),
            Topic::RebalanceStart => ok(self.rebalance(message).await?),
            Topic::RebalanceGet => ok(self.rebalance_state().await?),
            Topic::RebalanceCancel => ok(self.cancel_rebalance().await?),
            Topic::RouteList => ok(routes::list(&*self.view()?, self.room())),
            Topic::ConfigList => ok(self.list_configs()?),
            Topic::Config(verb, name) => match verb {
                ConfigVerb::Put => ok(self.put_config(&name, message).await?),
                ConfigVerb::Get => ok(self.get_config(&name).await?),
                ConfigVerb::Delete => ok(self.delete_config(&name, message).await?),
            },
            Topic::SecretList => ok(self.list_secrets()?),
            Topic::Secret(verb, name) => match verb {
                SecretVerb::Put => ok(self.put_secret(&name, message).await?),
                SecretVerb::Delete => ok(self.delete_secret(&name, message).await?),
            },
            Topic::Http(_) | Topic::Held(_) | Topic::Event(_) | Topic::Report(_) | Topic::Log(_) => Err(unknown()),
        }
    }

    /// The view, once it was loaded: an empty one would answer "not found" to everything.
    fn view(&self) -> Result<Arc<LatticeView>, CtlError> {
        let view = self.view.borrow().clone();
        if !view.is_loaded() {
            return Err(CtlError::new(ErrorCode::Unavailable, "this node has not loaded the lattice yet")
                .hint("try again in a moment"));
        }
        Ok(view)
    }
}

/// Work that takes long, away from this thread. `None` if it panicked.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match tokio::runtime::Handle::current().runtime_flavor() {
        // The simulation's: it checks nothing long, and a second thread would make a seed not replay.
        RuntimeFlavor::CurrentThread => Some(work()),
        _ => tokio::task::spawn_blocking(work).await.ok(),
    }
}

fn error_answer(error: &CtlError) -> Answer {
    let headers = Headers::from([
        // A header is one line.
        (HEADER_ERROR.to_owned(), error.to_string().replace(['\r', '\n'], " ")),
        (HEADER_ERROR_CODE.to_owned(), error.code.status().to_string()),
    ]);
    let payload = serde_json::to_vec(&Reply::<()>::Error(error.clone())).unwrap_or_default();
    Answer { headers, payload: payload.into() }
}

fn unavailable(error: &StoreError) -> CtlError {
    match error {
        StoreError::Conflict { .. } => CtlError::new(ErrorCode::Conflict, error.to_string()),
        _ => CtlError::new(ErrorCode::Unavailable, error.to_string())
            .hint("look at the state, then try again; putting a spec once more is harmless"),
    }
}

/// A request's body as JSON; an empty one is the default.
fn body<T: DeserializeOwned>(payload: &Bytes, example: &str) -> Result<T, CtlError> {
    let text = if payload.is_empty() { b"{}".as_slice() } else { payload };
    if text.len() > SPEC_BYTES_MAX {
        return Err(CtlError::new(ErrorCode::Invalid, format!("the body is longer than {SPEC_BYTES_MAX} bytes")));
    }
    serde_json::from_slice(text)
        .map_err(|error| CtlError::new(ErrorCode::Invalid, error.to_string()).hint(format!("send {example}")))
}

/// The revision that the client expects, from the request's header.
fn expected_revision(message: &Message) -> Result<Option<Revision>, CtlError> {
    let name = lattice::ctl::HEADER_EXPECTED_REVISION;
    let Some(text) = message.headers.get(name) else { return Ok(None) };
    let revision = text
        .parse()
        .map_err(|_| CtlError::new(ErrorCode::Invalid, format!("{text:?} is not a revision")).field(name))?;
    Ok(Some(Revision(revision)))
}
