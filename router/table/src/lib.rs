//! Which workload answers a request, and which nodes run it. Pure: built anew from each view, and then only read, so that
//! a request takes no lock. What is done to a request on its way is not decided here.
//!
//! Start at [`RouteTable::build`] and [`RouteTable::find`]; [`RouteEntry::share`] chooses among workloads that share a
//! route, [`RouteEntry::weigh`] among what a workload's replicas run, [`Balancer::choose`] a node.

mod conditions;
mod ewma;
mod host;
mod hosts;
mod index;
mod inputs;
mod outlier;
mod paths;
mod pick;
mod split;
mod sticky;
#[cfg(test)]
mod tests;
mod weights;
mod zone;

pub use conditions::Asked;
pub use host::normalize_host;
pub use inputs::reads_alike;
pub use pick::{Ask, Balancer, Change, Here, Outcome};
pub use split::Share;
pub use sticky::hash;
pub use weights::Weights;

use conditions::Query;
use hosts::Hosts;
use index::Index;
use lattice::{
    id::{NodeId, WorkloadName},
    record::{Among, Slot, SpecRecord},
    spec::{HostPattern, PathMatch, Route},
    view::{LatticeView, Versioned},
};
use paths::Paths;
use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
    time::Duration,
};

/// All routes of a lattice, as one node sees them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RouteTable {
    hosts: Hosts,
    /// All workloads, with routes or without: what the lattice's own requests ask for.
    named: Index<Arc<RouteEntry>>,
    conflicts: Vec<Conflict>,
}

/// The label of what leads to a workload without a route.
pub const NO_ROUTE: &str = "direct";

/// Longest label of a route with conditions, in bytes.
const LABEL_BYTES_MAX: usize = 200;

/// One route, and where it leads.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteEntry {
    pub workload: WorkloadName,
    /// What names the route in metrics and logs, and no other route of the workload: host and path as its spec has them,
    /// such as `*.example.org/api`, and in braces what else a request must be like; [`NO_ROUTE`] for what leads to the
    /// workload without one.
    pub label: Arc<str>,
    /// Longest time until the head of the response, where the route sets one; else `wall` holds.
    pub timeout: Option<Duration>,
    /// Longest time of one request in a replica until the head of the response, and of each silence in a body.
    pub wall: Duration,
    /// Largest request body, in bytes.
    pub body_limit: u64,
    /// Workloads that may call this one by its name; nothing where all may.
    pub callers: Option<Arc<BTreeSet<WorkloadName>>>,
    /// The route as it stands in the spec, where it says more than host, path prefix and timeout.
    pub rule: Option<Arc<Route>>,
    /// The workloads that share the route, its holder first; empty where there is only that one. Use [`RouteEntry::share`].
    pub shares: Arc<[Share]>,
    /// How its requests are shared out between what its replicas run, where that matters. Use [`RouteEntry::weigh`].
    pub weights: Option<Arc<Weights>>,
    /// Which of the workload's replicas may answer, where not all of them may: slots and endpoints are these only.
    pub among: Option<Among>,
    /// Slots that this node serves, by the records. Whether a request would find an instance here, only the host knows.
    pub local_slots: u32,
    /// The other nodes that serve the workload, by their ids. All routes of a workload share one list.
    pub endpoints: Arc<[Endpoint]>,
    pub spread: Spread,
}

/// How requests are spread over the nodes that serve a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    /// Of a thousand requests for other nodes, so many are for those in this node's zone, as long as there is room.
    pub near_permille: u16,
    /// Requests that one replica has at work at a time. More wait there.
    pub seats: u32,
}

/// A node that serves a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub node: NodeId,
    /// Replicas on it: its weight.
    pub slots: u32,
    /// The life of the node that announced the replicas has no session now. It may still serve (its session ran out while
    /// NATS was away, say), so it is asked when there is nobody better.
    pub suspect: bool,
    /// In the zone of this node.
    pub near: bool,
}

/// Whether somebody is there to answer. A route without a ready replica is not a missing route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteState {
    Ready,
    /// Starting, failed, or scaled to none.
    Waiting,
}

/// Two workloads with routes that the same request could take with equal right, admitted at the same moment on two nodes.
/// The spec with the lower revision has the route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    pub host: HostPattern,
    pub path: PathMatch,
    pub holder: WorkloadName,
    pub refused: WorkloadName,
}

impl RouteTable {
    pub fn build(view: &LatticeView, me: &NodeId) -> Self {
        let mut specs: Vec<&Versioned<SpecRecord>> = view.specs.values().map(|spec| &**spec).collect();
        specs.sort_by_key(|spec| (spec.revision, &spec.record.spec.name));
        let mut hosts = hosts::Draft::default();
        let (mut named, mut conflicts) = (Vec::with_capacity(specs.len()), Vec::new());
        for Versioned { record, .. } in specs {
            let spec = &record.spec;
            let entry = Arc::new(RouteEntry::of_workload(view, record, me));
            for (number, route) in spec.http.routes.iter().enumerate() {
                let entry = entry.with_route(view, me, route, number);
                if let Err(holder) = hosts.of(&route.host).insert(route, entry)
                    && holder != spec.name
                {
                    let (host, path, refused) = (route.host.clone(), route.path.clone(), spec.name.clone());
                    conflicts.push(Conflict { host, path, holder, refused });
                }
            }
            named.push((spec.name.as_str().into(), entry));
        }
        Self { hosts: hosts.finish(), named: named.into_iter().collect(), conflicts }
    }

    /// The route of a request.
    ///
    /// Of the routes that match it the most telling one is taken: by host (exact, then the wildcard with the most labels,
    /// then any), then by path (exact, then the longest prefix, compared by whole segments), then the one that names methods,
    /// then the one with more conditions on headers, then on the query. This is the order of the Gateway API (`HTTPRouteRule`),
    /// which ends with the age of a route; here two of which neither is more telling are not admitted, or stand in one spec,
    /// where the first one is taken.
    ///
    /// So a workload that takes `a.example.org/api` leaves the rest of that host to whoever has `*.example.org`.
    pub fn find(&self, asked: &Asked<'_>) -> Option<&Arc<RouteEntry>> {
        let query = Query::new(asked.query);
        self.hosts.of(asked.host).find_map(|paths| paths.find(asked, &query))
    }

    /// Where requests by a workload's name go: ticks of its schedules, calls of other workloads. It need not have a route.
    pub fn workload(&self, name: &WorkloadName) -> Option<&Arc<RouteEntry>> {
        self.named.get(name.as_str())
    }

    /// Every workload, and those that a route leaves a share to though there are none, with the label of each of its routes.
    pub fn routes(&self) -> BTreeSet<(&WorkloadName, &str)> {
        let entries = self.hosts.all().flat_map(Paths::entries).chain(self.named.values());
        let with_shares =
            entries.flat_map(|entry| entry.shares.iter().map(|share| &*share.entry).chain([entry.as_ref()]));
        with_shares.map(|entry| (&entry.workload, &*entry.label)).collect()
    }

    /// Routes that were refused because another workload has them.
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }
}

impl RouteEntry {
    /// Where requests for a workload go, whatever led to it.
    fn of_workload(view: &LatticeView, record: &SpecRecord, me: &NodeId) -> Self {
        let spec = &record.spec;
        let (local_slots, endpoints) = endpoints(view, record, me, None);
        let entry = Self {
            workload: spec.name.clone(),
            label: NO_ROUTE.into(),
            timeout: None,
            wall: spec.limits.wall.into(),
            body_limit: spec.limits.body.0,
            callers: spec.http.callers.as_ref().map(|callers| Arc::new(callers.iter().cloned().collect())),
            rule: None,
            shares: Arc::default(),
            weights: None,
            among: None,
            local_slots,
            spread: Spread {
                near_permille: zone::near_permille(view, me, local_slots, &endpoints),
                seats: spec.seats(),
            },
            endpoints,
        };
        Self { weights: weights::of(view, record, me, &entry), ..entry }
    }

    /// The same by one of its routes.
    fn with_route(&self, view: &LatticeView, me: &NodeId, route: &Route, number: usize) -> Arc<Self> {
        let is_plain = route.is_plain();
        let limit = route.body_limit.map_or(u64::MAX, |limit| limit.0);
        let entry = Self {
            label: label(route, number),
            timeout: route.timeout.map(Duration::from),
            body_limit: self.body_limit.min(limit),
            rule: (!is_plain).then(|| Arc::new(route.clone())),
            ..self.clone()
        }
        .with_own_weights();
        let shares = split::shares(view, me, route, &entry);
        Arc::new(Self { shares, ..entry })
    }

    /// The path as its spec has it.
    pub fn path(&self) -> &str {
        match &self.rule {
            Some(route) => route.path.as_str(),
            // Then the label is host and path.
            None => self.label.find('/').and_then(|from| self.label.get(from..)).unwrap_or(&self.label),
        }
    }

    pub fn state(&self) -> RouteState {
        if self.local_slots > 0 || !self.endpoints.is_empty() { RouteState::Ready } else { RouteState::Waiting }
    }

    /// Whether the components of another workload may call this one.
    pub fn lets_call(&self, caller: &WorkloadName) -> bool {
        self.callers.as_ref().is_none_or(|callers| callers.contains(caller))
    }

    /// Longest time until the head of the response.
    pub fn time_limit(&self) -> Duration {
        self.timeout.unwrap_or(self.wall)
    }
}

/// Unlike those of all other routes of the spec. `number`: its place in there, which stands for conditions that are too long
/// for a label.
fn label(route: &Route, number: usize) -> Arc<str> {
    let full = route.to_string();
    if full.len() <= LABEL_BYTES_MAX || !route.has_conditions() {
        return full.into();
    }
    format!("{}{}{{routes[{number}]}}", route.host, route.path.as_str()).into()
}

/// Who serves a workload: how many slots here, and the other nodes.
fn endpoints(view: &LatticeView, spec: &SpecRecord, me: &NodeId, among: Option<Among>) -> (u32, Arc<[Endpoint]>) {
    let mut local_slots = 0;
    let mut nodes = BTreeMap::<&NodeId, (u32, bool)>::new();
    for (_, Versioned { record, .. }) in view.slots_of(&spec.spec.name) {
        let is_asked = |record: &Slot| record.uid == spec.uid && among.is_none_or(|among| among.has(record.generation));
        let Some(serving) = record.serving().filter(|_| is_asked(record)) else { continue };
        if serving.node == *me {
            local_slots += 1;
            continue;
        }
        let is_live = view.live(serving).is_some();
        match nodes.entry(&serving.node) {
            Entry::Vacant(new) => {
                new.insert((1, is_live));
            }
            // What a former life of the node left behind doesn't count beside what its present one serves.
            Entry::Occupied(mut known) => match *known.get() {
                (slots, known_live) if known_live == is_live => drop(known.insert((slots + 1, is_live))),
                (_, false) => drop(known.insert((1, true))),
                (_, true) => {}
            },
        }
    }
    let zone = zone::of(view, me);
    let endpoint = |(node, (slots, is_live)): (&NodeId, (u32, bool))| {
        let near = zone.is_some() && zone::of(view, node) == zone;
        Endpoint { node: node.clone(), slots, suspect: !is_live, near }
    };
    (local_slots, nodes.into_iter().map(endpoint).collect())
}
