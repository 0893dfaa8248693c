//! A vacancy of a higher priority gets the room of a strict replica, on one real control plane.

use crate::{
    chance::{SimClock, SimRng},
    checkers::{is_converged, strict_runs_once},
    lattice_id,
    network::Sky,
    node::SimNode,
    ticks::Fired,
};
use bytes::Bytes;
use lattice::{
    id::{NodeId, WorkloadName},
    record::Capacity,
    spec::{Class, ComponentSpec, Limits, Source, WorkloadSpec},
    store::{Headers, Platform},
    subject::Topic,
    testing::MemoryLattice,
    units,
};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

async fn put(person: &Platform, name: &str, class: Class, priority: i32) {
    let source = Source::Stored(person.artifacts.put(Bytes::from_static(b"component")).await.expect("it is stored"));
    let name = WorkloadName::new(name).expect("it is a name");
    let limits = Limits { memory: units::Bytes::mib(32), ..Limits::default() };
    let main = ComponentSpec::new("main".parse().expect("it is a name"), source);
    let mut spec = WorkloadSpec { class, limits, ..WorkloadSpec::new(name, main) };
    spec.placement.priority = priority;
    let payload: Bytes = serde_json::to_vec(&spec).expect("a spec has a JSON form").into();
    let subject = Topic::WorkloadPut.subject(&lattice_id());
    let timeout = Duration::from_secs(4);
    while person.bus.request(subject.clone(), Headers::new(), payload.clone(), timeout).await.is_err() {
        sleep(Duration::from_millis(500)).await;
    }
}

/// Wait until a replica of the workload is the only one, and all is at rest.
async fn holds(nodes: &[SimNode], workload: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut last = String::new();
    while Instant::now() < deadline {
        sleep(Duration::from_millis(50)).await;
        strict_runs_once(nodes).expect("it runs once");
        let Some(view) = nodes.first().and_then(SimNode::view) else { continue };
        let held: Vec<String> = view.slots.keys().map(ToString::to_string).collect();
        match is_converged(&view, nodes) {
            Ok(()) if held == [format!("{workload}.0")] => return,
            not_yet => last = format!("{held:?}: {not_yet:?}"),
        }
    }
    panic!("{workload} does not run: {last}");
}

#[tokio::test(start_paused = true)]
async fn a_strict_replica_makes_room() {
    let (lattice, rng) = (MemoryLattice::new(), SimRng::new(1, 1));
    let person = lattice.platform(Arc::new(SimClock::new(&rng)), Arc::new(SimRng::new(1, 2)));
    let capacity = Capacity { slots: 1, memory: 64 << 20 };
    let id = NodeId::new("n1").expect("it is a name");
    let mut nodes = [SimNode::new(1, 1, id, capacity, Sky::default(), &lattice, Fired::default())];
    for node in &mut nodes {
        node.start(true);
    }
    put(&person, "low", Class::Strict, 0).await;
    holds(&nodes, "low").await;
    put(&person, "high", Class::Available, 1).await;
    holds(&nodes, "high").await;
}
