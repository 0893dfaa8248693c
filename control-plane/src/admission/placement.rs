//! Requests about where replicas are and may be, and why.

use super::{Admission, body, put::not_found};
use lattice::{
    ctl::{CtlError, ErrorCode, ExplainReply, ExplainRequest, NodeScore, NodeStanding},
    id::{SlotId, WorkloadName},
    store::Message,
    view::LatticeView,
};
use lattice_planner::{Explanation, Score, Standing};

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
                vacant.map(|slot| slot.index).or_else(first).ok_or_else(|| no_replicas(&view, name))?
            }
        };
        let explained = lattice_planner::explain(&view, &SlotId::new(name.clone(), replica));
        explained.map(reply).ok_or_else(|| {
            let wanted = lattice_planner::wanted(&view, name);
            let there = match wanted.as_slice() {
                [] => "none".to_owned(),
                [only] => format!("replica {only} alone"),
                [first, .., last] => format!("replicas {first} to {last}"),
            };
            CtlError::new(ErrorCode::NotFound, format!("{name} has no replica {replica}; it has {there}"))
        })
    }
}

/// Why there is nothing to explain.
fn no_replicas(view: &LatticeView, name: &WorkloadName) -> CtlError {
    let spec = view.specs.get(name).map(|spec| &spec.record.spec);
    let (why, hint) = match spec {
        Some(spec) if spec.placement.daemon => {
            ("no node is one that it is for", "see placement.require and placement.tolerate of its spec".to_owned())
        }
        Some(spec) if spec.autoscale.is_some() => (
            "it rests, since nobody asks for it",
            "a request starts one; with autoscale.min of 1 or more one is always there".to_owned(),
        ),
        _ => ("it is scaled to none", format!("`lattice scale {name} 1` starts one")),
    };
    CtlError::new(ErrorCode::NotFound, format!("{name} has no replicas now: {why}")).hint(hint)
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
