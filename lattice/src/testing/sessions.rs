//! Sessions of nodes that are nothing special.

use crate::{
    id::{Incarnation, NodeId},
    record::{Capacity, Session},
};

/// A living node that offers nothing: no room, no labels, no GPUs. A test says only what matters to it, in the fields of
/// this one or as `Session { capacity, ..session(node, incarnation) }`.
pub fn session(node: NodeId, incarnation: Incarnation) -> Session {
    Session {
        node,
        incarnation,
        labels: Default::default(),
        version: "0.1.0".to_owned(),
        capacity: Capacity { memory: 0, slots: 0, millicores: 0 },
        volumes: Default::default(),
        http: None,
        draining: false,
        taints: Vec::new(),
        gpus: Vec::new(),
        offers: None,
        compiled: Default::default(),
        started_at: 0,
        renewals: 0,
    }
}
