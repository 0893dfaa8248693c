//! Which workload holds a route. Admission refuses a spec that asks for one that is taken.

use lattice::{id::WorkloadName, spec::WorkloadSpec, view::LatticeView};

/// The first route of a spec that clashes with one of another workload: its index, and the workload.
///
/// Two specs that are admitted at the same moment on two nodes can still clash; the route table then decides by revision.
pub fn conflict(view: &LatticeView, spec: &WorkloadSpec) -> Option<(usize, WorkloadName)> {
    spec.http.routes.iter().enumerate().find_map(|(index, wanted)| {
        let clashes =
            |other: &WorkloadSpec| other.name != spec.name && other.http.routes.iter().any(|held| held.clashes(wanted));
        let other = view.specs.values().find(|other| clashes(&other.record.spec))?;
        Some((index, other.record.spec.name.clone()))
    })
}
