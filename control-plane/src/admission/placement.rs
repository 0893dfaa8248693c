//! Requests about where replicas are and may be: why, and what an operator wants of a node.

use super::{Admission, body, put::not_found, unavailable};
use lattice::{
    ctl::{CordonReply, CtlError, ErrorCode, ExplainReply, ExplainRequest, NodeScore, NodeStanding},
    event::EventKind,
    id::{NodeId, SlotId, WorkloadName},
    record::{Key, NodeOrder, Record as _},
    store::{Bucket, Message, Precondition, StoreError},
};
use lattice_planner::{Explanation, Score, Standing};

/// Tries of one request against other writers.
const ATTEMPTS: usize = 8;

impl Admission {
    pub(super) fn explain(&self, name: &WorkloadName, message: &Message) -> Result<ExplainReply, CtlError> {
        let ExplainRequest { replica } = body(&message.payload, r#"{"replica": 0}, or nothing"#)?;
        let view = self.view()?;
        view.specs.get(name).ok_or_else(|| not_found(name))?;
        let replica = match replica {
            Some(replica) => replica,
            None => {
                let vacant = lattice_planner::explain_vacant(&view, name).into_keys().next();
                let first = || lattice_planner::wanted(&view, name).first().copied();
                vacant.map(|slot| slot.index).or_else(first).ok_or_else(|| {
                    CtlError::new(ErrorCode::NotFound, format!("{name} has no replicas")).hint("scale it first")
                })?
            }
        };
        let explained = lattice_planner::explain(&view, &SlotId::new(name.clone(), replica));
        explained.map(reply).ok_or_else(|| {
            CtlError::new(ErrorCode::NotFound, format!("{name} has no replica {replica}"))
                .field("replica")
                .hint(format!("see `lattice status {name}`"))
        })
    }

    /// Let nothing new come to a node, or let it come again.
    pub(super) async fn cordon(&self, node: &NodeId, cordoned: bool) -> Result<CordonReply, CtlError> {
        let key = Key::Node(node.clone()).to_string();
        let reply = |changed| CordonReply { node: node.clone(), cordoned, changed };
        let mut sent = false;
        for _ in 0..ATTEMPTS {
            let entry = self.platform.store.get(Bucket::Specs, &key).await.map_err(|error| unavailable(&error))?;
            let order = entry.as_ref().map(|entry| NodeOrder::decode(&entry.value));
            if let Some(Err(error @ lattice::record::DecodeError::Newer(_))) = &order {
                return Err(CtlError::new(ErrorCode::Conflict, format!("the order for {node}: {error}")));
            }
            if order.is_none() && !self.view()?.sessions.contains_key(node) {
                let error = CtlError::new(ErrorCode::NotFound, format!("there is no node {node}"));
                return Err(error.hint("see `lattice nodes`"));
            }
            // One that does not parse is written over.
            let is_so = match &order {
                Some(Ok(order)) => order.cordoned == cordoned,
                Some(Err(_)) => false,
                None => !cordoned,
            };
            if is_so {
                return Ok(reply(sent));
            }
            let record = NodeOrder { node: node.clone(), cordoned };
            let written = match entry.map(|entry| entry.revision) {
                Some(revision) if !cordoned => self.platform.store.delete(Bucket::Specs, &key, revision).await,
                revision => {
                    let expect = revision.map_or(Precondition::Absent, Precondition::At);
                    self.platform.store.write(Bucket::Specs, &key, record.encode(), expect).await
                }
            };
            match written {
                Ok(_) => {
                    let (kind, text) = match cordoned {
                        true => (EventKind::NodeCordoned, "nothing new is placed here"),
                        false => (EventKind::NodeUncordoned, "replicas are placed here again"),
                    };
                    self.events.send(kind, node, text).await;
                    return Ok(reply(true));
                }
                Err(StoreError::Conflict { .. }) => {}
                // If it landed, the next look finds it so.
                Err(StoreError::OutcomeUnknown { .. }) => sent = true,
                Err(error) => return Err(unavailable(&error)),
            }
        }
        Err(CtlError::new(ErrorCode::Conflict, format!("the order for {node} is being changed by others all the time"))
            .hint("try again"))
    }
}

fn reply(explanation: Explanation) -> ExplainReply {
    let Explanation { slot, holder, is_vacant, blocked, displaces, nodes } = explanation;
    let mut nodes: Vec<NodeStanding> = nodes
        .into_iter()
        .map(|(node, standing)| match standing {
            Standing::Rank(rank, score) => {
                NodeStanding { node, rank: Some(rank), score: score.map(in_words), rule: None, reason: None }
            }
            Standing::Refused(reason) => {
                let (rule, reason) = (Some(reason.rule().to_owned()), Some(reason.to_string()));
                NodeStanding { node, rank: None, score: None, rule, reason }
            }
        })
        .collect();
    nodes.sort_by_key(|standing| standing.rank.unwrap_or(u32::MAX));
    let SlotId { workload, index } = slot;
    ExplainReply { workload, replica: index, holder, vacant: is_vacant, blocked, displaces, nodes }
}

fn in_words(score: Score) -> NodeScore {
    let Score { spread, missed, failed, replicas, fullness, chance: _ } = score;
    NodeScore { spread, missed, failed, replicas, fullness }
}
