//! Whom a request reaches.

use super::Verdict;
use lattice::{id::WorkloadName, view::LatticeView};
use lattice_route_table::{Asked, RouteTable, normalize_host};
use std::collections::BTreeMap;

/// Of workloads that ask for the same host, the one that was admitted first has it, and the table says of all others that
/// they were refused. The same view gives every node the same answer.
pub(crate) fn routes_have_one_holder(view: &LatticeView) -> Verdict {
    let mut asked: BTreeMap<String, Vec<&WorkloadName>> = BTreeMap::new();
    let mut specs: Vec<_> = view.specs.iter().collect();
    specs.sort_by_key(|(_, spec)| spec.revision);
    for (name, spec) in specs {
        for route in &spec.record.spec.http.routes {
            asked.entry(route.host.to_string()).or_default().push(name);
        }
    }
    let (method, headers) = (http::Method::GET, http::HeaderMap::new());
    for node in view.sessions.keys() {
        let table = RouteTable::build(view, node);
        for (host, workloads) in &asked {
            let host = normalize_host(host).unwrap_or_default();
            let asked = Asked { host: &host, path: "/", query: None, method: &method, headers: &headers };
            let found = table.find(&asked).map(|entry| &entry.workload);
            if found != workloads.first().copied() {
                return Err(format!(
                    "routes: {node} sends {host} to {found:?}, which {workloads:?} ask for in this order"
                ));
            }
            let refused = table.conflicts().iter().filter(|conflict| conflict.host.to_string() == *host).count();
            if refused + 1 != workloads.len() {
                return Err(format!("routes: {node} refuses {refused} of {workloads:?} {host}"));
            }
        }
    }
    Ok(())
}
