//! How many requests go to what is new.

use lattice::{
    id::{NodeId, WorkloadName},
    view::LatticeView,
};
use lattice_route_table::{RouteTable, hash};

const REQUESTS: u64 = 10_000;

/// Of a hundred requests for a workload at a node, those that go to replicas that run what the newest spec asks for.
pub(crate) fn share_of_newest(view: &LatticeView, node: &NodeId, workload: &WorkloadName) -> Result<f64, String> {
    let spec = view.specs.get(workload).ok_or_else(|| format!("there is no workload {workload}"))?;
    let template = spec.record.template();
    let table = RouteTable::build(view, node);
    let entry = table.workload(workload).ok_or_else(|| format!("{node} does not know {workload}"))?;
    let is_new = |request: &u64| {
        let route = entry.weigh(hash(&request.to_le_bytes()), &[]);
        route.among.map(|among| among.has(template))
    };
    let by_weight: Option<Vec<bool>> = (0..REQUESTS).map(|request| is_new(&request)).collect();
    let shares = by_weight.unwrap_or_else(|| {
        let serving = view.slots_of(workload).filter(|(_, slot)| slot.record.serving().is_some());
        serving.map(|(_, slot)| slot.record.generation == template).collect()
    });
    let new = shares.iter().filter(|is_new| **is_new).count();
    Ok(100.0 * new as f64 / shares.len().max(1) as f64)
}
