//! Lists that may be longer than one message: asked for part by part.

use crate::client::Client;
use lattice::{
    ctl::{
        HistoryItem, HistoryRequest, NodeListRequest, NodeReply, StatusReply, StatusRequest, WorkloadListRequest,
        WorkloadSummary,
    },
    id::{NodeId, Revision, WorkloadName},
    store::Headers,
    subject::{Topic, WorkloadVerb},
};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;

/// All workloads, by name.
pub async fn workloads(client: &Client) -> anyhow::Result<Vec<WorkloadSummary>> {
    let next = |come: &BTreeMap<WorkloadName, WorkloadSummary>| WorkloadListRequest {
        after: come.last_key_value().map(|(name, _)| name.clone()),
    };
    all(client, Topic::WorkloadList, next, |summary| summary.workload.clone()).await
}

/// All nodes, by id.
pub async fn nodes(client: &Client) -> anyhow::Result<Vec<NodeReply>> {
    let next = |come: &BTreeMap<NodeId, NodeReply>| NodeListRequest {
        after: come.last_key_value().map(|(node, _)| node.clone()),
    };
    all(client, Topic::NodeList, next, |reply| reply.session.node.clone()).await
}

/// All that the store has of a workload's specs, oldest first.
pub async fn history(client: &Client, workload: WorkloadName) -> anyhow::Result<Vec<HistoryItem>> {
    let next = |come: &BTreeMap<Revision, HistoryItem>| HistoryRequest {
        before: come.first_key_value().map(|(revision, _)| *revision),
    };
    let revision = |item: &HistoryItem| match item {
        HistoryItem::Put(spec) => spec.revision,
        HistoryItem::Deleted { revision } => *revision,
    };
    all(client, Topic::Workload(WorkloadVerb::History, workload), next, revision).await
}

/// The status of a workload with each of its replicas.
pub async fn status(client: &Client, workload: WorkloadName) -> anyhow::Result<StatusReply> {
    let topic = Topic::Workload(WorkloadVerb::Status, workload);
    let mut slots = BTreeMap::new();
    loop {
        let from = slots.last_key_value().map_or(0, |(replica, _): (&u32, _)| replica.saturating_add(1));
        let request = StatusRequest { from: Some(from) };
        let mut status: StatusReply = client.send(topic.clone(), Headers::new(), &request).await?;
        let came = status.slots.len();
        slots.extend(status.slots.drain(..).map(|slot| (slot.replica, slot)));
        if status.slots_omitted == 0 || came == 0 {
            return Ok(StatusReply { slots: slots.into_values().collect(), ..status });
        }
    }
}

/// One request after the other, each for what has not come yet. Nodes of several versions may answer: one that does not know
/// of parts answers all at once.
async fn all<K: Ord, T: DeserializeOwned, B: Serialize>(
    client: &Client,
    topic: Topic,
    next: impl Fn(&BTreeMap<K, T>) -> B,
    key: impl Fn(&T) -> K,
) -> anyhow::Result<Vec<T>> {
    let mut come = BTreeMap::new();
    loop {
        let (items, omitted): (Vec<T>, u64) = client.ask_for_part(topic.clone(), &next(&come)).await?;
        let before = come.len();
        come.extend(items.into_iter().map(|item| (key(&item), item)));
        if omitted == 0 || come.len() == before {
            return Ok(come.into_values().collect());
        }
    }
}
