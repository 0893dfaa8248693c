//! `lattice drain` and `lattice undrain`: move what runs on a node to others, and let it stay again.

use super::until::{self, Look};
use crate::{
    Context,
    client::Client,
    error::{Exit, Failure},
};
use lattice::{
    ctl::{DrainReply, DrainRequest, DrainStatus, LeavingSlot, NodeReply},
    id::NodeId,
    store::Headers,
    subject::Topic,
    units::Millis,
};
use std::collections::BTreeMap;

/// Replicas named in one line.
const NAMED: usize = 4;

/// Move what runs on a node to other nodes
///
/// Each replica is ready elsewhere before it stops here; one of class `strict` stops first, and no more of them at a time
/// than `disruption.max-unavailable` allows. What has no other place stays, and is stopped at the deadline where there is
/// one. Replicas of daemons stay. Nothing new is placed on the node, also over its restarts, until `lattice undrain`.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice drain n1 --wait                 until nothing is left there
  lattice drain n1 --deadline 5m --wait   what is left after five minutes is stopped
  lattice nodes                           shows how far it is
  lattice undrain n1")]
pub struct DrainArgs {
    /// Id of the node
    node: NodeId,
    /// How long what has no other place may stay before it is stopped
    #[arg(long, value_name = "DURATION")]
    deadline: Option<Millis>,
    /// Wait until nothing is left, and say how far it is
    #[arg(long)]
    wait: bool,
    /// How long to wait; then the exit code is 6, and the drain goes on
    #[arg(long, requires = "wait", default_value = "10m", value_name = "DURATION")]
    timeout: Millis,
}

/// Let replicas stay on a node again
///
/// Nothing moves back by itself: the node is taken into account again when a replica needs one, or when somebody asks for
/// `lattice rebalance`. A cordon stays.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice undrain n1
  lattice uncordon n1                     ends a drain and a cordon")]
pub struct UndrainArgs {
    /// Id of the node
    node: NodeId,
}

pub async fn run(args: DrainArgs, context: &Context) -> anyhow::Result<Exit> {
    let DrainArgs { node, deadline, wait, timeout } = args;
    let client = context.client().await?;
    let request = DrainRequest { deadline };
    let reply: DrainReply = client.send(Topic::NodeDrain(node.clone()), Headers::new(), &request).await?;
    if !wait {
        let text = |_| format!("{}\n", sentence(&reply));
        context.out.show(&reply, text, || vec![reply.node.to_string()])?;
        return Ok(Exit::Ok);
    }
    context.out.note(sentence(&reply));
    tokio::select! {
        waited = until_empty(&client, context, &node, timeout) => waited?,
        _ = tokio::signal::ctrl_c() => {
            return Err(Failure::new(Exit::Interrupted, format!("{node} is still being drained"))
                .hint(format!("`lattice nodes {node}` shows how far it is; `lattice undrain {node}` ends it"))
                .into());
        }
    }
    context.out.show(&reply, |_| format!("{node} is drained\n"), || vec![node.to_string()])?;
    Ok(Exit::Ok)
}

pub async fn undrain(args: UndrainArgs, context: &Context) -> anyhow::Result<Exit> {
    let client = context.client().await?;
    let reply: DrainReply = client.ask(Topic::NodeUndrain(args.node)).await?;
    context.out.show(&reply, |_| format!("{}\n", sentence(&reply)), || vec![reply.node.to_string()])?;
    Ok(Exit::Ok)
}

fn sentence(DrainReply { node, draining, changed }: &DrainReply) -> String {
    match (changed, draining) {
        (true, true) => format!("{node} is being drained"),
        (true, false) => format!("{node} may keep what it has"),
        (false, true) => format!("{node} was being drained before, with the same deadline"),
        (false, false) => format!("{node} was not being drained"),
    }
}

async fn until_empty(client: &Client, context: &Context, node: &NodeId, timeout: Millis) -> anyhow::Result<()> {
    let look = async || {
        let reply: NodeReply = client.ask(Topic::NodeGet(node.clone())).await?;
        Ok(match reply.drain {
            // The node that answered may not have heard of the order yet.
            None => Look::Unheard,
            Some(drain) if drain.left.is_empty() => Look::Over,
            Some(drain) => Look::Goes(format!("{node}: {}", progress(&drain))),
        })
    };
    let too_late = |told: Option<String>| {
        let left = told.unwrap_or_else(|| format!("{node}: nobody has heard of the order yet"));
        let message = format!("not empty after {timeout}, and the drain goes on: {left}");
        (message, "`lattice explain WORKLOAD` says why a replica has no other place; --deadline stops what is left")
    };
    until::until_over(context, timeout, look, too_late).await
}

/// `3 left: web.0 starts on n2, db.1 waits for a place`.
fn progress(status: &DrainStatus) -> String {
    let mut to: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for LeavingSlot { slot, to: node } in &status.left {
        let where_ = node.as_ref().map_or("waiting for a place".to_owned(), |node| format!("starting on {node}"));
        to.entry(where_).or_default().push(slot);
    }
    let groups = to.into_iter().map(|(where_, slots)| {
        let more = slots.len().saturating_sub(NAMED);
        let mut named = slots.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
        if more > 0 {
            named += &format!(" and {more} more");
        }
        format!("{named} {where_}")
    });
    let named = groups.collect::<Vec<_>>().join("; ");
    match status.left_omitted {
        0 => format!("{} left: {named}", status.count()),
        more => format!("{} left: {named}; and {more} more", status.count()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_said_in_one_line() {
        let slot = |slot: &str, to: Option<&str>| LeavingSlot {
            slot: slot.into(),
            to: to.map(|node| NodeId::new(node).unwrap()),
        };
        let left = vec![slot("db.0", None), slot("web.0", Some("n2")), slot("web.1", Some("n2"))];
        let status = DrainStatus { deadline: None, left, left_omitted: 0 };
        assert_eq!(progress(&status), "3 left: web.0, web.1 starting on n2; db.0 waiting for a place");
        let left = (0..6).map(|index| slot(&format!("web.{index}"), None)).collect();
        let many = DrainStatus { deadline: None, left, left_omitted: 0 };
        assert_eq!(progress(&many), "6 left: web.0, web.1, web.2, web.3 and 2 more waiting for a place");
        let more = DrainStatus { left: vec![slot("db.0", None)], left_omitted: 7, ..many };
        assert_eq!(progress(&more), "8 left: db.0 waiting for a place; and 7 more");
    }

    #[test]
    fn what_was_so_already_is_said() {
        let reply = |draining, changed| DrainReply { node: NodeId::new("n1").unwrap(), draining, changed };
        assert_eq!(sentence(&reply(true, true)), "n1 is being drained");
        assert_eq!(sentence(&reply(false, false)), "n1 was not being drained");
    }
}
