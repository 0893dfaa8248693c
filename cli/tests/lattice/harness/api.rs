//! The control interface as any NATS client sees it: requests, replies, and the raw buckets below.

use super::{PATIENCE, eventually, guest};
use lattice::{
    ctl::{
        Condition, ConditionKind, CtlError, DeleteReply, ErrorCode, NodeReply, PutReply, Reply, SpecReply, StatusReply,
        WorkloadState, WorkloadSummary,
    },
    id::{Digest, LatticeId, NodeId, WorkloadName},
    store::{Bucket, Bus, BusError, Headers, Message, Platform, Snapshot},
    subject::{Topic, WorkloadVerb},
};
use lattice_nats::{ConnectOptions, Nats};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection of its own to one lattice.
pub struct Api {
    pub lattice: LatticeId,
    pub nats: Nats,
    pub platform: Platform,
}

/// A spec in JSON: one component, `replicas` times, under the host `NAME.test`.
pub fn spec(name: &str, component: Digest, replicas: u32) -> Value {
    json!({
        "name": name,
        "replicas": replicas,
        "components": [{ "name": "main", "source": component.to_string() }],
        "http": { "routes": [{ "host": format!("{name}.test") }] },
    })
}

pub fn workload(name: &str) -> WorkloadName {
    WorkloadName::new(name).unwrap()
}

pub fn reply<T: DeserializeOwned>(message: &Message) -> Result<T, CtlError> {
    let text = String::from_utf8_lossy(&message.payload);
    let reply: Reply<T> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"));
    reply.into()
}

impl Api {
    /// Connect to a lattice that has a node.
    pub async fn connect(url: &str, lattice: &str) -> Self {
        let nats = connect(url).await;
        let lattice = LatticeId::new(lattice).unwrap();
        let platform = nats.open(&lattice, false).await.unwrap();
        Self { lattice, nats, platform }
    }

    pub fn bus(&self) -> &Arc<dyn Bus> {
        &self.platform.bus
    }

    /// A raw request.
    pub async fn request(&self, subject: &str, headers: Headers, payload: &[u8]) -> Result<Message, BusError> {
        let payload = payload.to_vec().into();
        self.bus().request(subject.to_owned(), headers, payload, REQUEST_TIMEOUT).await
    }

    pub async fn ask<T: DeserializeOwned>(
        &self,
        topic: Topic,
        headers: Headers,
        payload: &[u8],
    ) -> Result<T, CtlError> {
        let subject = topic.subject(&self.lattice);
        // Right after a server came back nobody may listen yet: who waits for something asks again, all others fail on it.
        let unanswered = |error| CtlError::new(ErrorCode::Unavailable, format!("{subject}: {error}"));
        reply(&self.request(&subject, headers, payload).await.map_err(unanswered)?)
    }

    async fn verb<T: DeserializeOwned>(&self, verb: WorkloadVerb, name: &str, payload: &Value) -> Result<T, CtlError> {
        let payload = if payload.is_null() { String::new() } else { payload.to_string() };
        self.ask(Topic::Workload(verb, workload(name)), Headers::new(), payload.as_bytes()).await
    }

    /// Put a component into the object store.
    pub async fn upload(&self, name: &str) -> Digest {
        let bytes = std::fs::read(guest(name)).unwrap();
        self.platform.artifacts.put(bytes.into()).await.unwrap()
    }

    pub async fn put(&self, spec: &Value) -> Result<PutReply, CtlError> {
        self.put_with(spec, &[]).await
    }

    pub async fn put_with(&self, spec: &Value, headers: &[(&str, &str)]) -> Result<PutReply, CtlError> {
        self.ask(Topic::WorkloadPut, to_headers(headers), spec.to_string().as_bytes()).await
    }

    /// Upload a guest and put a workload of it, without waiting for more than the answer.
    pub async fn submit(&self, name: &str, guest: &str, replicas: u32) -> PutReply {
        let digest = self.upload(guest).await;
        self.put(&spec(name, digest, replicas)).await.unwrap()
    }

    /// [`Api::submit`], and wait until every replica is ready.
    pub async fn deploy(&self, name: &str, guest: &str, replicas: u32) -> StatusReply {
        self.submit(name, guest, replicas).await;
        self.ready(name).await
    }

    pub async fn delete(&self, name: &str) -> Result<DeleteReply, CtlError> {
        self.verb(WorkloadVerb::Delete, name, &Value::Null).await
    }

    pub async fn scale(&self, name: &str, replicas: u32) -> Result<PutReply, CtlError> {
        self.verb(WorkloadVerb::Scale, name, &json!({ "replicas": replicas })).await
    }

    pub async fn rollback(&self, name: &str) -> Result<PutReply, CtlError> {
        self.verb(WorkloadVerb::Rollback, name, &Value::Null).await
    }

    pub async fn get(&self, name: &str) -> Result<SpecReply, CtlError> {
        self.verb(WorkloadVerb::Get, name, &Value::Null).await
    }

    pub async fn status(&self, name: &str) -> Result<StatusReply, CtlError> {
        self.verb(WorkloadVerb::Status, name, &Value::Null).await
    }

    pub async fn list(&self) -> Vec<WorkloadSummary> {
        self.ask(Topic::WorkloadList, Headers::new(), b"").await.unwrap()
    }

    /// As one of the nodes sees it, which may be late.
    pub async fn nodes(&self) -> Vec<NodeReply> {
        self.try_nodes().await.unwrap()
    }

    pub async fn try_nodes(&self) -> Result<Vec<NodeReply>, CtlError> {
        self.ask(Topic::NodeList, Headers::new(), b"").await
    }

    /// Wait until every replica is ready at the newest generation. Which one that is comes from the store: a node that has
    /// not heard of it yet calls the one before ready.
    pub async fn ready(&self, name: &str) -> StatusReply {
        let newest = eventually(&format!("{name} is read from the store"), PATIENCE, async || {
            self.get(name).await.map(|reply| reply.generation).map_err(|error| error.to_string())
        })
        .await;
        eventually(&format!("{name} is ready"), PATIENCE, async || {
            let status = self.status(name).await.map_err(|error| error.to_string())?;
            let is_so = |condition: &Condition| condition.kind == ConditionKind::Ready && condition.status;
            let is_ready = status.conditions.iter().any(is_so) && status.state != WorkloadState::Idle;
            if is_ready && status.generation == newest { Ok(status) } else { Err(format!("{status:?}")) }
        })
        .await
    }

    /// Every key of a bucket that has a value.
    pub async fn snapshot(&self, bucket: Bucket) -> Snapshot {
        self.platform.store.snapshot(bucket).await.unwrap()
    }

    /// Keys and revisions of the slots of a workload.
    pub async fn slots(&self, name: &str) -> BTreeMap<String, u64> {
        let prefix = format!("slot.{name}.");
        let entries = self.snapshot(Bucket::State).await.entries.into_iter();
        let slots = entries.filter(|entry| entry.key.starts_with(&prefix));
        slots.map(|entry| (entry.key, entry.revision.0)).collect()
    }
}

/// To servers with commas between them, or as the user whose name and password stand before the `@` of one.
pub async fn connect(url: &str) -> Nats {
    let (login, url) = match url.strip_prefix("nats://").and_then(|rest| rest.split_once('@')) {
        Some((login, address)) => (login.split_once(':'), format!("nats://{address}")),
        None => (None, url.to_owned()),
    };
    let servers = url.split(',').map(str::to_owned).collect();
    let (user, password) = login.map(|(user, password)| (user.to_owned(), password.to_owned())).unzip();
    let options = ConnectOptions { servers, user, password, name: "lattice tests".into(), ..Default::default() };
    lattice_nats::connect(options).await.unwrap()
}

pub fn to_headers(headers: &[(&str, &str)]) -> Headers {
    headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Which node holds each replica, in order.
pub fn holders(status: &StatusReply) -> Vec<NodeId> {
    status.slots.iter().map(|slot| slot.node.clone().unwrap_or_else(|| panic!("{status:?}"))).collect()
}
