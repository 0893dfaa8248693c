//! Requests about where replicas are and may be, and why.

use super::{
    Admission,
    answers::{NAMES_MAX, cut, cut_to_fit},
    body,
    put::not_found,
};
use lattice::{
    ctl::{CtlError, ErrorCode, ExplainReply, ExplainRequest, NodeGpu, NodeScore, NodeStanding},
    id::{NodeId, SlotId, WorkloadName},
    report::Counts,
    spec::{PendingTarget, WorkloadSpec},
    store::Message,
    view::LatticeView,
};
use lattice_planner::{Explanation, GpuFit, Score, Standing};
use std::collections::BTreeSet;

impl Admission {
    pub(super) fn explain(&self, name: &WorkloadName, message: &Message) -> Result<ExplainReply, CtlError> {
        let ExplainRequest { replica } = body(&message.payload, r#"{"replica": 0}, or nothing"#)?;
        let view = self.view()?;
        view.specs.get(name).ok_or_else(|| not_found(name))?;
        let replica = match replica {
            Some(replica) => replica,
            None => {
                let vacant = lattice_planner::outlook(&view, &BTreeSet::from([name])).into_keys().next();
                let first = || lattice_planner::wanted(&view, name).first().copied();
                vacant.map(|slot| slot.index).or_else(first).ok_or_else(|| no_replicas(&view, name))?
            }
        };
        let explained = lattice_planner::explain(&view, &SlotId::new(name.clone(), replica));
        explained.map(|explained| reply(explained, self.room())).ok_or_else(|| {
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
        Some(WorkloadSpec { autoscale: Some(autoscale), messages, .. }) => {
            let pending = autoscale.target.pending();
            let pending =
                pending.map(|PendingTarget { stream, consumer, .. }| format!(" that waits at {stream}/{consumer}"));
            let subjects = messages.iter().map(|message| format!(" on {}", message.subject));
            let starts: String =
                pending.into_iter().chain(subjects).map(|from| format!(", or a message{from}")).collect();
            let starts = format!("a request starts one{starts}");
            (
                "it rests, since nobody asks for it",
                format!("{starts}; with autoscale.min of 1 or more one is always there"),
            )
        }
        _ => ("it is scaled to none", format!("`lattice scale {name} 1` starts one")),
    };
    CtlError::new(ErrorCode::NotFound, format!("{name} has no replicas now: {why}")).hint(hint)
}

/// `room`: bytes of the nodes.
fn reply(explanation: Explanation, room: usize) -> ExplainReply {
    let Explanation { slot, holder, is_vacant, blocked, mut displaces, nodes } = explanation;
    let standing = |(node, standing): (NodeId, Standing)| match standing {
        Standing::Rank(rank, score) => {
            NodeStanding { node, rank: Some(rank), score: score.map(in_words), rule: None, reason: None }
        }
        Standing::Refused(reason) => {
            let (rule, reason) = (Some(reason.rule().to_owned()), Some(reason.to_string()));
            NodeStanding { node, rank: None, score: None, rule, reason }
        }
    };
    let mut nodes: Vec<NodeStanding> = nodes.into_iter().map(standing).collect();
    nodes.sort_by_key(|standing| standing.rank.unwrap_or(u32::MAX));
    let left_out = leave_out(&mut nodes, holder.as_ref(), room);
    cut(&mut displaces, NAMES_MAX);
    let mut omitted = Counts::new();
    for standing in left_out {
        let rule = standing.rule.unwrap_or_else(|| "none".to_owned());
        *omitted.entry(rule).or_default() += 1;
    }
    let SlotId { workload, index } = slot;
    ExplainReply { workload, replica: index, holder, vacant: is_vacant, blocked, displaces, nodes, omitted }
}

/// Those for whom there is no room: the last ones, but not the holder.
pub(super) fn leave_out(nodes: &mut Vec<NodeStanding>, holder: Option<&NodeId>, room: usize) -> Vec<NodeStanding> {
    let mut all = nodes.clone();
    if cut_to_fit(nodes, room) == 0 {
        return Vec::new();
    }
    let mut left_out = all.split_off(nodes.len());
    if let Some(at) = left_out.iter().position(|standing| Some(&standing.node) == holder) {
        nodes.push(left_out.remove(at));
    }
    left_out
}

fn in_words(score: Score) -> NodeScore {
    let Score { spread, missed, failed, choice, replicas, gpu, fullness, cold, chance: _ } = score;
    // A device of which nothing is known has the greatest slowness, so nothing but no claim comes to the least of both.
    let gpu = (gpu != GpuFit::default()).then_some(NodeGpu { choice, slowness: gpu.slowness, left: gpu.left });
    NodeScore { spread, missed, failed, replicas, gpu, fullness, cold: Some(cold) }
}
