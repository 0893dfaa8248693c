//! `lattice explain`: why a replica is where it is, or nowhere, node by node.

use crate::{
    Context,
    error::Exit,
    output::{Cell, Paint, Table, Tone, plain, size},
};
use lattice::{
    ctl::{ExplainReply, ExplainRequest, NodeGpu, NodeScore, NodeStanding},
    id::WorkloadName,
    store::Headers,
    subject::{Topic, WorkloadVerb},
};

/// Show why a replica is on its node, or on none
///
/// Every node is shown: those that can take the replica in the order in which they would, the others with the rule that
/// keeps the replica away. Of a replica that runs, nodes are ranked as if nobody held it. Nodes are compared by the columns
/// from left to right, and less is better; then by chance.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice explain hello                   the first replica without a node, or the first one
  lattice explain hello 3
  lattice explain hello -o json | jq '.nodes[] | select(.rank == null)'")]
pub struct Args {
    /// Name of the workload
    workload: WorkloadName,
    /// Number of the replica
    replica: Option<u32>,
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let client = context.client().await?;
    let topic = Topic::Workload(WorkloadVerb::Explain, args.workload);
    let request = ExplainRequest { replica: args.replica };
    let reply: ExplainReply = client.send(topic, Headers::new(), &request).await?;
    let nodes = || reply.nodes.iter().filter(|node| node.rank.is_some()).map(|node| node.node.to_string()).collect();
    context.out.show(&reply, |paint| render(&reply, paint), nodes)?;
    Ok(Exit::Ok)
}

fn render(reply: &ExplainReply, paint: Paint) -> String {
    let mut table = Table::new(&[
        "NODE", "RANK", "SPREAD", "MISSED", "FAILED", "CHOICE", "REPLICAS", "GPU", "FULL", "COLD", "RULE", "REASON",
    ]);
    for NodeStanding { node, rank, score, rule, reason } in &reply.nodes {
        let holds = reply.holder.as_ref() == Some(node);
        let rank = match rank {
            Some(rank) => Cell::new(rank.to_string(), if *rank == 0 { Tone::Good } else { Tone::Dim }),
            None => Cell::new("-", Tone::Bad),
        };
        let figure = |figure: &dyn Fn(&NodeScore) -> String| score.as_ref().map_or_else(|| "-".to_owned(), figure);
        let reason = match reason {
            Some(reason) if holds => format!("holds it; {}", plain(reason)),
            Some(reason) => plain(reason),
            None if holds => "holds it".into(),
            None if score.is_none() => "held it before".into(),
            None => String::new(),
        };
        let of_gpu = |score: &NodeScore, told: fn(&NodeGpu) -> String| score.gpu.as_ref().map_or("-".into(), told);
        table.row([
            node.as_str().into(),
            rank,
            figure(&|score| score.spread.to_string()).into(),
            figure(&|score| score.missed.to_string()).into(),
            figure(&|score| if score.failed { "yes" } else { "no" }.into()).into(),
            figure(&|score| of_gpu(score, |gpu| gpu.choice.to_string())).into(),
            figure(&|score| score.replicas.to_string()).into(),
            figure(&|score| of_gpu(score, |gpu| format!("{}, {} left", gpu.slowness, size(gpu.left)))).into(),
            figure(&|score| format!("{}/8", score.fullness)).into(),
            figure(&|score| score.cold.map_or("-", |cold| if cold { "yes" } else { "no" }).into()).into(),
            rule.as_deref().map(plain).unwrap_or_default().into(),
            reason.into(),
        ]);
    }
    let asks_for_gpu = reply.nodes.iter().any(|node| node.score.is_some_and(|score| score.gpu.is_some()));
    let table = if asks_for_gpu { table } else { table.without(&["CHOICE", "GPU"]) };
    let omitted = match reply.omitted.values().sum::<u64>() {
        0 => String::new(),
        more => {
            let by: Vec<String> = reply.omitted.iter().map(|(rule, count)| format!("{rule} {count}")).collect();
            format!("and {more} more nodes, by what keeps them from it: {}\n", plain(&by.join(", ")))
        }
    };
    format!("{}\n\n{}{omitted}", headline(reply), table.render(paint))
}

fn headline(reply: &ExplainReply) -> String {
    let ExplainReply { workload, replica, holder, vacant, blocked, displaces, nodes, omitted: _ } = reply;
    let slot = format!("{workload}.{replica}");
    if let Some(blocked) = blocked {
        return format!("{slot} can't be touched: {}", plain(blocked));
    }
    if !displaces.is_empty() {
        let victims: Vec<String> = displaces.iter().map(ToString::to_string).collect();
        return format!("{slot} finds no room; it takes that of {}", victims.join(", "));
    }
    let first = nodes.iter().find(|node| node.rank == Some(0)).map(|node| &node.node);
    match (holder, vacant, first) {
        (Some(holder), false, _) => format!("{slot} is on {holder}"),
        (Some(holder), true, Some(first)) => format!("{slot} leaves {holder} for {first}"),
        (Some(holder), true, None) => format!("{slot} should leave {holder}, and no node can take it"),
        (None, _, Some(first)) => format!("{slot} is vacant; {first} takes it"),
        (None, _, None) => format!("{slot} is vacant, and no node can take it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::id::NodeId;

    #[test]
    fn each_node_has_a_line() {
        let node = |node: &str| NodeStanding {
            node: NodeId::new(node).unwrap(),
            rank: None,
            score: None,
            rule: None,
            reason: None,
        };
        let score =
            NodeScore { spread: 0, missed: 10, failed: false, replicas: 2, gpu: None, fullness: 3, cold: Some(true) };
        let mut reply = ExplainReply {
            workload: WorkloadName::new("hello").unwrap(),
            replica: 1,
            holder: None,
            vacant: true,
            blocked: None,
            displaces: vec![],
            nodes: vec![
                NodeStanding { rank: Some(0), ..node("n2") },
                NodeStanding { rank: Some(1), score: Some(score), ..node("n1") },
                NodeStanding { rule: Some("cordon".into()), reason: Some("is cordoned".into()), ..node("n3") },
            ],
            omitted: [("memory".to_owned(), 7), ("require".to_owned(), 2)].into(),
        };
        assert_eq!(
            render(&reply, Paint::off()),
            "hello.1 is vacant; n2 takes it\n\n\
             NODE  RANK  SPREAD  MISSED  FAILED  REPLICAS  FULL  COLD  RULE    REASON\n\
             n2    0     -       -       -       -         -     -             held it before\n\
             n1    1     0       10      no      2         3/8   yes\n\
             n3    -     -       -       -       -         -     -     cordon  is cordoned\n\
             and 9 more nodes, by what keeps them from it: memory 7, require 2\n"
        );
        reply.holder = Some(NodeId::new("n1").unwrap());
        reply.vacant = false;
        assert_eq!(headline(&reply), "hello.1 is on n1");
        (reply.holder, reply.vacant) = (None, true);
        reply.displaces = vec!["low.0".parse().unwrap()];
        assert_eq!(headline(&reply), "hello.1 finds no room; it takes that of low.0");
    }
}
