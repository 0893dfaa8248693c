//! Configuration by reference, as replicas of this node are given it, and new generations for those that want changes
//! rolled out. Decided from the view alone; what is missing stops nothing that runs.

use lattice::{
    event::{Event, EventKind},
    host::{Assignment, Configs, Observed},
    id::{ConfigName, Generation, NodeId, SlotId, WorkloadName},
    record::{ConfigStamp, Phase, SpecRecord},
    spec::{ConfigUpdate, Resolved, WorkloadSpec},
    view::{LatticeView, Versioned},
};
use std::{collections::BTreeMap, sync::Arc};

/// What one workload names, resolved once for all of its replicas.
type Found = Option<(Arc<WorkloadSpec>, Configs)>;

/// What the replicas of this node were given last.
#[derive(Default)]
pub(crate) struct Given {
    last: BTreeMap<SlotId, Assignment>,
    /// What each replica was last seen to run with.
    seen: BTreeMap<SlotId, (uuid::Uuid, Generation, Configs)>,
}

impl Given {
    /// Write out what the specs of assignments name. Where something that is named is not there, a replica that runs goes
    /// on with what it was given last, and one that does not run is not started.
    pub(crate) fn fill(&mut self, view: &LatticeView, wanted: &mut BTreeMap<SlotId, Assignment>) {
        let mut found: BTreeMap<(WorkloadName, Generation), Found> = BTreeMap::new();
        let mut given = BTreeMap::new();
        wanted.retain(|slot, assignment| {
            if !assignment.spec.has_configs() {
                return true;
            }
            let key = (slot.workload.clone(), assignment.generation);
            let found = found.entry(key).or_insert_with(|| {
                let Resolved { spec, versions } = view.resolve(&assignment.spec).ok()?;
                Some((Arc::new(spec), Arc::new(versions)))
            });
            match found {
                Some((spec, configs)) => (assignment.spec, assignment.configs) = (spec.clone(), configs.clone()),
                None => match self.last.get(slot).filter(|last| last.uid == assignment.uid) {
                    Some(last) => *assignment = last.clone(),
                    None => return false,
                },
            }
            given.insert(slot.clone(), assignment.clone());
            true
        });
        self.last = given;
    }

    /// Replicas that run with other configuration than they were seen to.
    pub(crate) fn news(&mut self, observed: &BTreeMap<SlotId, Observed>) -> Vec<Event> {
        self.seen.retain(|slot, _| observed.contains_key(slot));
        let mut events = Vec::new();
        for (slot, now) in observed.iter().filter(|(_, now)| now.phase == Phase::Ready && !now.configs.is_empty()) {
            let before = self.seen.insert(slot.clone(), (now.uid, now.generation, now.configs.clone()));
            // Another generation is told of by itself.
            let Some((_, _, before)) =
                before.filter(|(uid, generation, _)| (*uid, *generation) == (now.uid, now.generation))
            else {
                continue;
            };
            if before != now.configs {
                events.push(Event::new(
                    EventKind::SlotReconfigured,
                    slot,
                    format!("answers with {}", versions(&now.configs)),
                ));
            }
        }
        events
    }
}

/// `shop-config 4, flags 2`.
pub(crate) fn versions(configs: &BTreeMap<ConfigName, ConfigStamp>) -> String {
    let named: Vec<String> = configs.iter().map(|(name, stamp)| format!("{name} {}", stamp.version)).collect();
    named.join(", ")
}

/// Configuration that a new generation of a spec would be made for; nothing where changes reach its replicas without one.
/// Names that are not there yet are left out.
pub(crate) fn stamps(view: &LatticeView, spec: &WorkloadSpec) -> BTreeMap<ConfigName, ConfigStamp> {
    if spec.config_update == ConfigUpdate::Watch {
        return BTreeMap::new();
    }
    let stamp = |name: &ConfigName| Some((name.clone(), view.configs.get(name)?.record.stamp));
    spec.configs().into_iter().filter_map(stamp).collect()
}

/// Specs that want a new generation for the configuration that is there now, as far as this node is the one to write it:
/// for each workload it is one of those that live, so that they do not all do the same.
pub(crate) fn outdated<'a>(view: &'a LatticeView, me: &NodeId) -> Vec<&'a Versioned<SpecRecord>> {
    let rolls = |spec: &&Arc<Versioned<SpecRecord>>| {
        let spec = &spec.record.spec;
        spec.config_update == ConfigUpdate::Roll && spec.has_configs()
    };
    let is_mine = |name: &WorkloadName| lattice_planner::deputy(view, name) == Some(me);
    let is_outdated = |record: &SpecRecord| {
        // What is missing changes nothing: what runs goes on with what it has.
        view.resolve(&record.spec).is_ok_and(|resolved| resolved.versions != record.configs)
    };
    let all = view.specs.values().filter(rolls);
    all.filter(|spec| is_outdated(&spec.record) && is_mine(&spec.record.spec.name)).map(|spec| &**spec).collect()
}
