//! Replicas that move to better places because somebody asked for it.

use super::Record;
use crate::{
    id::{NodeId, SlotId},
    store::Bucket,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Moves of one request: it can be asked for again.
pub const MOVES_MAX: usize = 256;

/// Decided: what is left of a request to rebalance, one in the lattice at a time. Written by any node, compare-and-set, and
/// deleted when it is over or cancelled. What was claimed by then goes on; what was not stays where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Rebalance {
    /// Tells one request from the next.
    pub id: uuid::Uuid,
    /// Moves under way at a time, at most.
    pub at_once: u32,
    /// Under way: the node is to give the replica up, as soon as another one has taken it or may do so.
    pub moving: Vec<Move>,
    /// Whose turn is still to come.
    pub left: Vec<Move>,
    /// Replicas that are ready at another node.
    pub moved: u32,
    /// Those that were not to be moved any more when their turn came, or that no other node can take now.
    pub skipped: u32,
    /// Milliseconds since 1970, by the clock of the node that wrote it. For people only.
    pub changed_at: u64,
}
impl Record for Rebalance {
    const BUCKET: Bucket = Bucket::State;
}

/// One replica, away from a node. Where it goes is decided when it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Move {
    pub slot: SlotId,
    pub from: NodeId,
}
