//! A client of the control interface: one request, one typed reply, errors that say what to do. Everything here can be
//! done as well with any other NATS client.

use crate::{
    connection::{self, NatsArgs, Surroundings},
    error::{Exit, Failure},
};
use anyhow::Context as _;
use bytes::Bytes;
use futures_util::StreamExt as _;
use lattice::{
    ctl::{CtlError, HEADER_OMITTED, Reply},
    id::LatticeId,
    limits::CTL_TIMEOUT,
    store::{Artifacts, Bus, BusError, Headers, Message},
    subject::{ConfigVerb, Topic, WorkloadVerb},
};
use lattice_nats::{ConnectError, Nats};
use serde::{Serialize, de::DeserializeOwned};
use std::{sync::Arc, time::Duration};

/// How long to wait for nodes that all answer.
const SCATTER: Duration = Duration::from_millis(400);
/// Most replies to one scattered request.
const SCATTER_REPLIES_MAX: usize = 10_000;

/// A connection to one lattice.
pub struct Client {
    pub lattice: LatticeId,
    pub nats: Nats,
    bus: Arc<dyn Bus>,
}

impl Client {
    pub async fn connect(args: &NatsArgs, lattice: &LatticeId) -> anyhow::Result<Self> {
        let settings = connection::resolve(args, &Surroundings::of_process())?;
        Ok(Self::over(connect(settings).await?, lattice.clone()))
    }

    pub fn over(nats: Nats, lattice: LatticeId) -> Self {
        Self { lattice, bus: nats.bus(), nats }
    }

    pub fn bus(&self) -> &dyn Bus {
        self.bus.as_ref()
    }

    /// Ask without a body.
    pub async fn ask<T: DeserializeOwned>(&self, topic: Topic) -> anyhow::Result<T> {
        self.request(topic, Headers::new(), Bytes::new()).await
    }

    /// Send a body as JSON.
    pub async fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        topic: Topic,
        headers: Headers,
        body: &B,
    ) -> anyhow::Result<T> {
        let body = serde_json::to_vec(body).context("can't write the request")?;
        self.request(topic, headers, body.into()).await
    }

    /// One request of the control interface.
    pub async fn request<T: DeserializeOwned>(&self, topic: Topic, headers: Headers, body: Bytes) -> anyhow::Result<T> {
        decode(&self.exchange(topic, headers, body).await?)
    }

    /// A part of a list, and how many items more there are.
    pub async fn ask_for_part<B: Serialize, T: DeserializeOwned>(
        &self,
        topic: Topic,
        body: &B,
    ) -> anyhow::Result<(T, u64)> {
        let body = serde_json::to_vec(body).context("can't write the request")?;
        let reply = self.exchange(topic, Headers::new(), body.into()).await?;
        let omitted = reply.headers.get(HEADER_OMITTED).and_then(|count| count.parse().ok()).unwrap_or(0);
        Ok((decode(&reply)?, omitted))
    }

    async fn exchange(&self, topic: Topic, headers: Headers, body: Bytes) -> anyhow::Result<Message> {
        let changes = changes_something(&topic);
        let subject = topic.subject(&self.lattice);
        let reply = self.bus.request(subject, headers, body, CTL_TIMEOUT).await;
        reply.map_err(|error| explain(error, &self.lattice, changes))
    }

    /// Ask every node and collect the answers that come within a short time.
    pub async fn scatter<T: DeserializeOwned>(&self, topic: Topic) -> anyhow::Result<Vec<T>> {
        let inbox = self.bus.inbox();
        let mut replies = self.bus.subscribe(inbox.clone(), None).await?;
        let subject = topic.subject(&self.lattice);
        self.bus.publish(Message { subject: subject.clone(), reply: Some(inbox), ..Message::default() }).await?;
        let mut answers = Vec::new();
        let deadline = tokio::time::Instant::now() + SCATTER;
        while answers.len() < SCATTER_REPLIES_MAX {
            let Ok(Some(reply)) = tokio::time::timeout_at(deadline, replies.next()).await else { break };
            if reply.status == Some(lattice::store::STATUS_NO_RESPONDERS) {
                return Err(explain(BusError::NoResponders { subject }, &self.lattice, false));
            }
            answers.push(decode(&reply)?);
        }
        Ok(answers)
    }

    /// Where components are kept. The lattice's first node makes it.
    pub async fn artifacts(&self) -> anyhow::Result<Arc<dyn Artifacts>> {
        let platform = self.nats.open(&self.lattice, false).await.with_context(|| {
            Failure::failed(format!("can't open the object store of lattice {:?}", self.lattice.as_str()))
                .hint("it is made by the lattice's first node: is one running? `lattice doctor` checks step by step")
        })?;
        Ok(platform.artifacts)
    }
}

/// Connect, or say what to do.
pub async fn connect(settings: connection::Settings) -> anyhow::Result<Nats> {
    let summary = settings.summary();
    let options = settings.into_options(concat!("lattice cli ", env!("CARGO_PKG_VERSION")))?;
    lattice_nats::connect(options).await.map_err(|error| explain_connect(error, &summary))
}

/// Give an error of the connection its exit code and remedy. `summary` says which settings were used.
pub fn explain_connect(error: ConnectError, summary: &str) -> anyhow::Error {
    let message = format!("can't use NATS at {summary}");
    let failure = match &error {
        ConnectError::Unauthorised { .. } => Failure::new(Exit::NotAuthorised, message)
            .hint("check --creds, --nkey, --user or --token, and which of them is in force (named above)"),
        ConnectError::Unreachable { .. } => Failure::failed(message).hint(
            "is it running there? `lattice up` starts everything on this machine, `lattice doctor` checks step by step",
        ),
        ConnectError::Option(_) => Failure::usage(message),
        // Their texts say what to do.
        ConnectError::NoJetStream { .. } | ConnectError::TooOld { .. } | ConnectError::Layout { .. } => {
            Failure::failed(message)
        }
    };
    anyhow::Error::new(error).context(failure)
}

fn changes_something(topic: &Topic) -> bool {
    use WorkloadVerb::{Delete, Rollback, Scale};
    matches!(
        topic,
        Topic::WorkloadPut
            | Topic::Workload(Delete | Rollback | Scale, _)
            | Topic::NodeCordon(_)
            | Topic::NodeUncordon(_)
            | Topic::Config(ConfigVerb::Put | ConfigVerb::Delete, _)
            | Topic::NodeDrain(_)
            | Topic::NodeUndrain(_)
    )
}

fn explain(error: BusError, lattice: &LatticeId, changes: bool) -> anyhow::Error {
    let lattice = lattice.as_str();
    let failure = match &error {
        BusError::NoResponders { .. } => Failure::failed(format!("no node of lattice {lattice:?} is there"))
            .hint(format!("start one with `lattice node --lattice {lattice}`, or name another lattice with --lattice")),
        BusError::Timeout { .. } if changes => {
            Failure::new(Exit::InProgress, "no answer in time; the change may have been made")
                .hint("look with `lattice list`; it is safe to repeat the command")
        }
        BusError::Timeout { .. } => Failure::failed("no answer in time")
            .hint("the nodes may be busy, or this user may not use the subject: `lattice doctor` tells which"),
        BusError::TooLarge { .. } => Failure::failed("the request is too large for the server"),
        BusError::Malformed { .. } => Failure::failed("the request can't be sent"),
        BusError::Disconnected(_) => Failure::failed("the connection to NATS was lost"),
    };
    anyhow::Error::new(error).context(failure)
}

fn decode<T: DeserializeOwned>(reply: &Message) -> anyhow::Result<T> {
    let reply: Reply<T> = serde_json::from_slice(&reply.payload).with_context(|| {
        let text = String::from_utf8_lossy(&reply.payload);
        Failure::failed(format!("an answer that this version can't read: {}", lattice::limits::clip(&text, 200)))
            .hint("node and CLI may differ in version: compare `lattice --version` with `lattice nodes`")
    })?;
    Result::<T, CtlError>::from(reply).map_err(anyhow::Error::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::{exit_of, render},
        output::Paint,
    };
    use lattice::{
        ctl::{DeleteReply, ErrorCode},
        id::WorkloadName,
    };

    fn message(payload: &str) -> Message {
        Message { payload: Bytes::copy_from_slice(payload.as_bytes()), ..Message::default() }
    }

    #[test]
    fn replies_are_values_or_errors() {
        let ok = decode::<DeleteReply>(&message(r#"{"ok": {"workload": "hello", "deleted": true}}"#)).unwrap();
        assert!(ok.deleted);
        let refused = message(r#"{"error": {"code": "conflict", "message": "changed", "hint": "get it again"}}"#);
        let error = decode::<DeleteReply>(&refused).unwrap_err();
        assert_eq!(error.downcast_ref::<CtlError>().unwrap().code, ErrorCode::Conflict);
        assert_eq!(exit_of(&error), Exit::Conflict);
        for garbage in ["", "{}", "null", r#"{"ok": {}}"#, r#"{"maybe": 1}"#] {
            let error = decode::<DeleteReply>(&message(garbage)).unwrap_err();
            assert!(render(&error, Paint::off()).contains("can't read"), "{garbage}");
        }
    }

    #[test]
    fn a_change_without_an_answer_may_have_been_made() {
        let lattice = LatticeId::new("default").unwrap();
        let timeout = || BusError::Timeout { subject: "s".into(), after: Duration::from_secs(5) };
        assert_eq!(exit_of(&explain(timeout(), &lattice, true)), Exit::InProgress);
        assert_eq!(exit_of(&explain(timeout(), &lattice, false)), Exit::Failed);
        let nobody = explain(BusError::NoResponders { subject: "s".into() }, &lattice, true);
        assert!(render(&nobody, Paint::off()).contains("lattice node --lattice default"));
        let hello = WorkloadName::new("hello").unwrap();
        for verb in WorkloadVerb::ALL {
            let expected = ["delete", "rollback", "scale"].contains(&verb.as_str());
            assert_eq!(changes_something(&Topic::Workload(verb, hello.clone())), expected, "{verb:?}");
        }
    }
}
