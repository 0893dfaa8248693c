//! Which workload answers a host and path, and which nodes run it. Pure: built anew from each view, and then only read,
//! so that a request takes no lock. It must not know what a request is beyond host and path.
//!
//! Start at [`RouteTable::build`] and [`RouteTable::find`]; [`RouteEntry::pick`] chooses a node.

mod host;
mod pick;
#[cfg(test)]
mod tests;

pub use host::normalize_host;

use lattice::{
    id::{NodeId, SlotId, WorkloadName},
    record::SpecRecord,
    spec::{HostPattern, PathPrefix},
    view::{LatticeView, Versioned},
};
use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
    time::Duration,
};

/// All routes of a lattice, as one node sees them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RouteTable {
    exact: BTreeMap<String, Paths>,
    /// By the labels behind `*.`.
    under: BTreeMap<String, Paths>,
    any: Paths,
    /// Those that have schedules.
    scheduled: BTreeMap<WorkloadName, RouteEntry>,
    conflicts: Vec<Conflict>,
}

/// One route, and where it leads.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteEntry {
    pub workload: WorkloadName,
    /// Longest time until the head of the response, where the route sets one; else `wall` holds.
    pub timeout: Option<Duration>,
    /// Longest time of one request in a replica until the head of the response, and of each silence in a body.
    pub wall: Duration,
    /// Largest request body, in bytes.
    pub body_limit: u64,
    /// Slots that this node serves, by the records. Whether a request would find an instance here, only the host knows.
    pub local_slots: u32,
    /// The other nodes that serve the workload. All routes of a workload share one list.
    pub endpoints: Arc<[Endpoint]>,
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
}

/// Whether somebody is there to answer. A route without a ready replica is not a missing route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteState {
    Ready,
    /// Starting, failed, or scaled to none.
    Waiting,
}

/// Two workloads with the same host and path, admitted at the same moment on two nodes. The spec with the lower revision
/// has the route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    pub host: HostPattern,
    pub path: PathPrefix,
    pub holder: WorkloadName,
    pub refused: WorkloadName,
}

impl RouteTable {
    pub fn build(view: &LatticeView, me: &NodeId) -> Self {
        let mut specs: Vec<&Versioned<SpecRecord>> = view.specs.values().map(|spec| &**spec).collect();
        specs.sort_by_key(|spec| (spec.revision, &spec.record.spec.name));
        let mut table = RouteTable::default();
        for Versioned { record, .. } in specs {
            let spec = &record.spec;
            let (local_slots, endpoints) = endpoints(view, record, me);
            let entry = RouteEntry {
                workload: spec.name.clone(),
                timeout: None,
                wall: spec.limits.wall.into(),
                body_limit: spec.limits.body.0,
                local_slots,
                endpoints,
            };
            if !spec.schedule.is_empty() {
                table.scheduled.insert(spec.name.clone(), entry.clone());
            }
            for route in &spec.http.routes {
                let entry = RouteEntry { timeout: route.timeout.map(Duration::from), ..entry.clone() };
                if let Err(holder) = table.paths_of(&route.host).insert(&route.path, entry)
                    && holder != spec.name
                {
                    let (host, path, refused) = (route.host.clone(), route.path.clone(), spec.name.clone());
                    table.conflicts.push(Conflict { host, path, holder, refused });
                }
            }
        }
        table
    }

    /// The route of a request. `host` is in the form of [`normalize_host`], `path` has no query.
    ///
    /// Of the routes whose host and path both match, the one with the most telling host wins: exact, then the wildcard with
    /// the most labels, then any; among those, the longest path prefix, compared by whole segments. So a workload that takes
    /// `a.example.org/api` leaves the rest of that host to whoever has `*.example.org`.
    pub fn find(&self, host: &str, path: &str) -> Option<&RouteEntry> {
        let exact = self.exact.get(host);
        let suffixes = std::iter::successors(parent(host), |suffix| parent(suffix));
        let under = suffixes.filter_map(|suffix| self.under.get(suffix));
        exact.into_iter().chain(under).chain([&self.any]).find_map(|paths| paths.find(path))
    }

    /// Where the ticks of a workload's schedules go. It need not have a route.
    pub fn workload(&self, name: &WorkloadName) -> Option<&RouteEntry> {
        self.scheduled.get(name)
    }

    /// Workloads that have a route or a schedule.
    pub fn workloads(&self) -> BTreeSet<&WorkloadName> {
        let paths = self.exact.values().chain(self.under.values()).chain([&self.any]);
        let entries = paths.flat_map(|paths| paths.entries.values()).chain(self.scheduled.values());
        entries.map(|entry| &entry.workload).collect()
    }

    /// Routes that were refused because another workload has them.
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }

    fn paths_of(&mut self, host: &HostPattern) -> &mut Paths {
        match host {
            HostPattern::Exact(name) => self.exact.entry(name.clone()).or_default(),
            HostPattern::Under(name) => self.under.entry(name.clone()).or_default(),
            HostPattern::Any => &mut self.any,
        }
    }
}

impl RouteEntry {
    pub fn state(&self) -> RouteState {
        if self.local_slots > 0 || !self.endpoints.is_empty() { RouteState::Ready } else { RouteState::Waiting }
    }

    /// Longest time until the head of the response.
    pub fn time_limit(&self) -> Duration {
        self.timeout.unwrap_or(self.wall)
    }
}

/// The path prefixes of one host pattern.
#[derive(Debug, Clone, Default, PartialEq)]
struct Paths {
    entries: BTreeMap<String, RouteEntry>,
    /// Bytes of the longest prefix: what lies behind in a request's path can't matter, however long it is.
    longest: usize,
}

impl Paths {
    /// Fails with the workload that has the path already.
    fn insert(&mut self, path: &PathPrefix, entry: RouteEntry) -> Result<(), WorkloadName> {
        match self.entries.entry(path.as_str().to_owned()) {
            Entry::Occupied(taken) => Err(taken.get().workload.clone()),
            Entry::Vacant(free) => {
                free.insert(entry);
                self.longest = self.longest.max(path.as_str().len());
                Ok(())
            }
        }
    }

    /// One look-up for each segment of the path, longest prefix first.
    fn find(&self, path: &str) -> Option<&RouteEntry> {
        let bytes = path.as_bytes();
        let mut end = bytes.len();
        if end > self.longest {
            // The longest prefix may end where the path goes on with a slash; else only a shorter one can match.
            let head = bytes.get(..=self.longest)?;
            end = head.iter().rposition(|byte| *byte == b'/')?;
        }
        while end > 0 {
            if let Some(entry) = self.entries.get(path.get(..end)?) {
                return Some(entry);
            }
            end = path.get(..end)?.rfind('/')?;
        }
        self.entries.get("/").filter(|_| path.starts_with('/'))
    }
}

/// The host behind its first label.
fn parent(host: &str) -> Option<&str> {
    host.split_once('.').map(|(_, parent)| parent)
}

/// Who serves a workload: how many slots here, and the other nodes.
fn endpoints(view: &LatticeView, spec: &SpecRecord, me: &NodeId) -> (u32, Arc<[Endpoint]>) {
    let first = SlotId::new(spec.spec.name.clone(), 0);
    let last = SlotId::new(spec.spec.name.clone(), u32::MAX);
    let mut local_slots = 0;
    let mut nodes = BTreeMap::<&NodeId, (u32, bool)>::new();
    for (_, Versioned { record, .. }) in view.slots.range(first..=last) {
        let Some(serving) = record.serving().filter(|_| record.uid == spec.uid) else { continue };
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
    let endpoint =
        |(node, (slots, is_live)): (&NodeId, (u32, bool))| Endpoint { node: node.clone(), slots, suspect: !is_live };
    (local_slots, nodes.into_iter().map(endpoint).collect())
}
