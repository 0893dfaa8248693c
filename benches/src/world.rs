//! Lattices of any size, as one node sees them.

use lattice::{
    id::{Digest, Generation, Incarnation, NodeId, Revision, SlotId, WorkloadName},
    record::{Capacity, Holder, Phase, Session, Slot, SpecRecord},
    spec::{ComponentSpec, HttpSpec, PathPrefix, Route, Source, WorkloadSpec},
    store::Bucket,
    view::{LatticeView, Seen, Versioned},
};
use std::{collections::BTreeMap, sync::Arc};
use uuid::Uuid;

/// Node `number` in its only life.
pub fn holder(number: u32) -> Holder {
    Holder { node: node_id(number), incarnation: Incarnation::from_u128(u128::from(number) + 1) }
}

pub fn node_id(number: u32) -> NodeId {
    NodeId::new(format!("node-{number}")).expect("a good id")
}

pub fn workload_name(number: u32) -> WorkloadName {
    WorkloadName::new(format!("workload-{number}")).expect("a good name")
}

/// A view with so many living nodes and nothing to run. Each has room for 256 replicas.
pub fn nodes(count: u32) -> LatticeView {
    let mut view = LatticeView::default();
    for bucket in Bucket::ALL {
        view.seen.insert(bucket, Seen::default());
    }
    for number in 0..count {
        let Holder { node, incarnation } = holder(number);
        let session = Session {
            labels: BTreeMap::from([("zone".to_owned(), format!("zone-{}", number % 3))]),
            capacity: Capacity { memory: 256 << 30, slots: 256, millicores: 0 },
            ..lattice::testing::session(node.clone(), incarnation)
        };
        view.sessions.insert(node, Versioned { record: session, revision: Revision(1) });
    }
    view
}

/// Ask for a workload, and answer its name.
pub fn ask_for(view: &mut LatticeView, number: u32, replicas: u32, routes: Vec<Route>) -> WorkloadName {
    let main = ComponentSpec::new("main".parse().expect("a good name"), Source::Stored(Digest::of(b"")));
    let name = workload_name(number);
    let spec = WorkloadSpec {
        replicas,
        http: HttpSpec { routes, ..HttpSpec::default() },
        ..WorkloadSpec::new(name.clone(), main)
    };
    let record = SpecRecord::new(spec, Uuid::from_u128(u128::from(number) + 1), Generation::FIRST);
    // In the order in which they were asked for.
    let revision = Revision(u64::from(number) + 1);
    view.specs.insert(name.clone(), Arc::new(Versioned { record, revision }));
    name
}

pub fn route(host: &str, path: &str) -> Route {
    Route::new(host.parse().expect("a good host"), path.parse::<PathPrefix>().expect("a good path"))
}

/// Make all replicas that are asked for ready, one node after another from node `first` on.
pub fn place_all(view: &mut LatticeView, first: u32, nodes: u32) {
    let mut next = 0;
    for (name, spec) in &view.specs {
        for index in 0..spec.record.spec.replicas {
            let slot = Slot {
                holder: holder(first + next % nodes),
                uid: spec.record.uid,
                generation: spec.record.generation,
                phase: Phase::Ready,
                message: None,
                failures: None,
                handover_from: None,
                gpu: None,
                handover_gpu: None,
                nonce: Uuid::nil(),
                claimed_at: 0,
                since: 0,
            };
            let versioned = Versioned { record: slot, revision: Revision(1) };
            view.slots.insert(SlotId::new(name.clone(), index), versioned);
            next += 1;
        }
    }
}
