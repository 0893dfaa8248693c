//! `lattice cordon` and `lattice uncordon`: let nothing new come to a node, and let it come again.

use crate::{Context, error::Exit};
use lattice::{ctl::CordonReply, id::NodeId, subject::Topic};

/// Place nothing new on a node
///
/// What runs there stays, and comes back after a restart of the node. It holds until `lattice uncordon`, also over the
/// node's absence.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice cordon n1
  lattice nodes                           shows who is cordoned
  lattice uncordon n1")]
pub struct CordonArgs {
    /// Id of the node
    node: NodeId,
}

/// Place replicas on a node again
///
/// Ends a drain as well. Nothing moves there by itself: the node is taken into account again when a replica needs one.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice uncordon n1
  lattice explain hello                   says what keeps replicas away from which node")]
pub struct UncordonArgs {
    /// Id of the node
    node: NodeId,
}

pub async fn run(node: NodeId, cordon: bool, context: &Context) -> anyhow::Result<Exit> {
    let client = context.client().await?;
    let topic = if cordon { Topic::NodeCordon(node) } else { Topic::NodeUncordon(node) };
    let reply: CordonReply = client.ask(topic).await?;
    let text = |_| format!("{}\n", sentence(&reply));
    context.out.show(&reply, text, || vec![reply.node.to_string()])?;
    Ok(Exit::Ok)
}

impl CordonArgs {
    pub fn node(self) -> NodeId {
        self.node
    }
}

impl UncordonArgs {
    pub fn node(self) -> NodeId {
        self.node
    }
}

fn sentence(CordonReply { node, cordoned, changed, drain_ended }: &CordonReply) -> String {
    if *drain_ended {
        return format!("{node} is not cordoned now, and no longer drained: it may keep what it has");
    }
    match (cordoned, changed) {
        (true, true) => format!("{node} is cordoned now"),
        (true, false) => format!("{node} was cordoned before"),
        (false, true) => format!("{node} is not cordoned now"),
        (false, false) => format!("{node} was not cordoned"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_so_already_is_said() {
        let node = NodeId::new("n1").unwrap();
        let reply = |cordoned, changed| CordonReply { node: node.clone(), cordoned, changed, drain_ended: false };
        assert_eq!(sentence(&reply(true, true)), "n1 is cordoned now");
        assert_eq!(sentence(&reply(false, false)), "n1 was not cordoned");
        let ended = CordonReply { drain_ended: true, ..reply(false, true) };
        assert!(sentence(&ended).contains("no longer drained"));
    }
}
