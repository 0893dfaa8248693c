//! Zones: nodes near each other, by their label `zone`. A request stays in the zone of the node that took it as far as that
//! zone can carry its share; what it can't goes to the others (as Envoy's zone-aware routing has it).

use crate::Endpoint;
use lattice::{id::NodeId, record::Session, view::LatticeView};

/// The label of a node that names its zone.
const LABEL: &str = "zone";

pub(crate) fn of<'a>(view: &'a LatticeView, node: &NodeId) -> Option<&'a str> {
    of_session(&view.sessions.get(node)?.record)
}

pub(crate) fn of_session(session: &Session) -> Option<&str> {
    session.labels.get(LABEL).map(String::as_str)
}

/// Of a thousand requests that leave this node, how many stay in its zone: all where the zone has as large a share of the
/// replicas as of the nodes, which take requests all alike; else as many as make every replica's share the same.
pub(crate) fn near_permille(view: &LatticeView, me: &NodeId, local_slots: u32, endpoints: &[Endpoint]) -> u16 {
    let Some(zone) = of(view, me) else { return 0 };
    let nodes = view.sessions.len() as u64;
    let near_nodes = view.sessions.keys().filter(|node| of(view, node) == Some(zone)).count() as u64;
    let slots = |near: bool| -> u64 {
        endpoints.iter().filter(|endpoint| endpoint.near == near).map(|endpoint| u64::from(endpoint.slots)).sum()
    };
    let near_slots = slots(true) + u64::from(local_slots);
    let all_slots = near_slots + slots(false);
    // near_slots / all_slots over near_nodes / nodes
    let share = (1000 * near_slots * nodes).checked_div(all_slots * near_nodes).unwrap_or(0);
    share.min(1000) as u16
}
