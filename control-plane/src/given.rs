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
use lattice_planner::Action;
use std::{collections::BTreeMap, sync::Arc};

/// What one workload names, resolved once for all of its replicas.
type Found = Option<(Arc<WorkloadSpec>, Configs)>;

/// What the replicas of this node were given last.
#[derive(Default)]
pub(crate) struct Given {
    last: BTreeMap<SlotId, Assignment>,
    /// What each replica was last seen to run with.
    seen: BTreeMap<SlotId, (uuid::Uuid, Generation, Configs)>,
    /// Replicas whose new values wait until there is memory for their old and their new instances, and for how much.
    without_room: BTreeMap<SlotId, u64>,
    /// Memory of new instances that are coming up beside those that records speak of.
    beside: u64,
}

/// A replica that has instances with other values than those of the moment.
struct Behind {
    slot: SlotId,
    /// With the values of the moment.
    next: Assignment,
    /// It was given others before, which did not come up: the memory for it is set aside already.
    has_room: bool,
}

impl Given {
    /// Write out what the specs of assignments name. Where something that is named is not there, a replica that runs goes
    /// on with what it was given last, and one that does not run is not started.
    ///
    /// A replica that runs brings up new instances beside the old ones, which nothing reserves: so values change in one
    /// replica at a time, and only while `spare` bytes of this node's memory have room for what is beside. The next one
    /// goes when the one before is ready, or says what keeps it.
    pub(crate) fn fill(
        &mut self,
        view: &LatticeView,
        wanted: &mut BTreeMap<SlotId, Assignment>,
        observed: &BTreeMap<SlotId, Observed>,
        spare: u64,
    ) {
        self.resolve(view, wanted);
        let mut behind = Vec::new();
        let (mut is_taken, mut beside) = (false, 0_u64);
        self.without_room.clear();
        for (slot, next) in wanted.iter_mut().filter(|(_, next)| is_watched(next)) {
            let Some(last) = self.last.get(slot).filter(|last| is_same(last, next)) else { continue };
            let Some(runs_with) = self.runs_with(slot, next, observed.get(slot)) else { continue };
            let is_under_way = last.configs != runs_with;
            let goes_on = observed.get(slot).is_some_and(|now| now.message.is_none());
            if next.configs == runs_with {
                continue; // there is nothing to bring up
            }
            if is_under_way {
                beside = beside.saturating_add(last.spec.memory_reserved());
                is_taken |= goes_on;
            }
            if next.configs != last.configs && !(is_under_way && goes_on) {
                let values = (last.spec.clone(), last.configs.clone());
                behind.push(Behind { slot: slot.clone(), next: next.clone(), has_room: is_under_way });
                (next.spec, next.configs) = values;
            }
        }
        for Behind { slot, next, has_room } in behind {
            if is_taken {
                break;
            }
            let needed = if has_room { 0 } else { next.spec.memory_reserved() };
            if needed > spare.saturating_sub(beside) {
                self.without_room.insert(slot, needed);
                continue;
            }
            beside = beside.saturating_add(needed);
            is_taken = true;
            wanted.insert(slot, next);
        }
        self.beside = beside;
        self.last = wanted
            .iter()
            .filter(|(_, given)| !given.configs.is_empty())
            .map(|(slot, given)| (slot.clone(), given.clone()))
            .collect();
    }

    fn resolve(&self, view: &LatticeView, wanted: &mut BTreeMap<SlotId, Assignment>) {
        let mut found: BTreeMap<(WorkloadName, Generation), Found> = BTreeMap::new();
        wanted.retain(|slot, assignment| {
            if !assignment.spec.has_configs() {
                return true;
            }
            let key = (slot.workload.clone(), assignment.generation);
            let found = found.entry(key).or_insert_with(|| {
                let Resolved { spec, versions } = view.resolve_at(&assignment.spec, &assignment.configs).ok()?;
                Some((Arc::new(spec), Arc::new(versions)))
            });
            match found {
                Some((spec, configs)) => (assignment.spec, assignment.configs) = (spec.clone(), configs.clone()),
                None => match self.last.get(slot).filter(|last| last.uid == assignment.uid) {
                    Some(last) => *assignment = last.clone(),
                    None => return false,
                },
            }
            true
        });
    }

    /// The values of the instances that a replica has, if it has some that were ready: those of one that was never ready, or
    /// that failed, go before others come.
    fn runs_with(&self, slot: &SlotId, wanted: &Assignment, now: Option<&Observed>) -> Option<Configs> {
        let life = (wanted.uid, wanted.generation);
        let now = now.filter(|now| (now.uid, now.generation) == life)?;
        match now.phase {
            Phase::Ready => Some(now.configs.clone()),
            Phase::Starting => {
                let (uid, generation, configs) = self.seen.get(slot)?;
                ((*uid, *generation) == life).then(|| configs.clone())
            }
            Phase::Failed => None,
        }
    }

    /// Leave out claims that would take the memory of what comes up beside what is held here. Others may take them.
    pub(crate) fn hold_back(&self, view: &LatticeView, actions: &mut Vec<Action>, spare: u64) {
        let mut missing = self.beside.saturating_sub(spare);
        while missing > 0 {
            let Some(last) = actions.iter().rposition(|action| matches!(action, Action::Claim { .. })) else { return };
            let claim = actions.remove(last);
            let spec = view.specs.get(&claim.slot().workload);
            missing = missing.saturating_sub(spec.map_or(0, |spec| spec.record.spec.memory_reserved()));
        }
    }

    /// What is observed, with a word about replicas whose new values wait for room.
    pub(crate) fn told(&self, observed: &BTreeMap<SlotId, Observed>) -> BTreeMap<SlotId, Observed> {
        let mut told = observed.clone();
        for (slot, bytes) in &self.without_room {
            if let Some(now) = told.get_mut(slot).filter(|now| now.message.is_none()) {
                let text = format!(
                    "its new configuration waits until {} MiB of this node are free, for the old and the new instances",
                    bytes.div_ceil(1024 * 1024)
                );
                now.message = Some(text);
            }
        }
        told
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

/// Whether a change of values reaches it as it runs.
fn is_watched(assignment: &Assignment) -> bool {
    assignment.spec.config_update() == ConfigUpdate::Watch && !assignment.configs.is_empty()
}

fn is_same(one: &Assignment, other: &Assignment) -> bool {
    (one.uid, one.generation) == (other.uid, other.generation)
}

/// `shop-config 4, flags 2`.
pub(crate) fn versions(configs: &BTreeMap<ConfigName, ConfigStamp>) -> String {
    let named: Vec<String> = configs.iter().map(|(name, stamp)| format!("{name} {}", stamp.version)).collect();
    named.join(", ")
}

/// Configuration that a new generation of a spec would be made for; nothing where changes reach its replicas without one.
/// Names that are not there yet are left out.
pub(crate) fn stamps(view: &LatticeView, spec: &WorkloadSpec) -> BTreeMap<ConfigName, ConfigStamp> {
    if spec.config_update() == ConfigUpdate::Watch {
        return BTreeMap::new();
    }
    view.versions(spec)
}

/// Specs that want a new generation for the configuration that is there now, as far as this node is the one to write it:
/// for each workload it is one of those that live, so that they do not all do the same.
pub(crate) fn outdated<'a>(view: &'a LatticeView, me: &NodeId) -> Vec<&'a Versioned<SpecRecord>> {
    let rolls = |spec: &&Arc<Versioned<SpecRecord>>| {
        let spec = &spec.record.spec;
        spec.config_update() == ConfigUpdate::Roll && spec.has_configs()
    };
    let is_mine = |name: &WorkloadName| lattice_planner::deputy(view, name) == Some(me);
    let is_outdated = |record: &SpecRecord| {
        // What is missing changes nothing: what runs goes on with what it has.
        view.resolve(&record.spec).is_ok_and(|resolved| record.is_outdated_by(&resolved.versions))
    };
    let all = view.specs.values().filter(rolls);
    all.filter(|spec| is_outdated(&spec.record) && is_mine(&spec.record.spec.name)).map(|spec| &**spec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::{id::Revision, record::ConfigRecord, store::Precondition, units::Bytes};

    const MIB: u64 = 1024 * 1024;

    /// A node whose host does what a test says.
    #[derive(Default)]
    struct Node {
        view: LatticeView,
        given: Given,
        /// What it was told to run last.
        told: BTreeMap<SlotId, Assignment>,
        observed: BTreeMap<SlotId, Observed>,
    }

    impl Node {
        fn workload(&mut self, name: &str, replicas: u32, memory: u64) {
            let text = format!(
                "name: {name}\nreplicas: {replicas}\ncomponents: [{{name: a, source: 'file:a', config-from: [c]}}]"
            );
            let mut spec = lattice::spec::parse(text.as_bytes()).unwrap();
            spec.limits.memory = Bytes(memory * MIB);
            let record = SpecRecord::new(spec, uuid::Uuid::nil(), Generation::FIRST);
            self.view.specs.insert(name.parse().unwrap(), Arc::new(Versioned { record, revision: Revision(1) }));
        }

        fn put(&mut self, version: u64) {
            let name: ConfigName = "c".parse().unwrap();
            let stamp = ConfigStamp { uid: uuid::Uuid::nil(), version: Generation(version) };
            let entries = [("version".to_owned(), version.to_string())].into();
            let record =
                ConfigRecord { name: name.clone(), stamp, entries, secret: None, earlier: Vec::new(), changed_at: 0 };
            self.view.configs.insert(name, Arc::new(Versioned { record, revision: Revision(version) }));
        }

        /// One pass, with so many MiB to spare. What each replica was given: `a.0 1, a.1 2`.
        fn pass(&mut self, spare: u64) -> String {
            let assignments = self.view.specs.values().flat_map(|spec| {
                let slot = |index| SlotId::new(spec.record.spec.name.clone(), index);
                (0..spec.record.spec.replicas).map(move |index| (slot(index), Assignment::new(&spec.record)))
            });
            let mut wanted = assignments.collect();
            self.given.fill(&self.view, &mut wanted, &self.observed, spare * MIB);
            self.given.news(&self.observed);
            self.told = wanted;
            let given = self.told.iter().map(|(slot, given)| {
                let version = given.spec.components[0].config["version"].clone();
                assert_eq!(versions(&given.configs), format!("c {version}"), "values and versions go together");
                format!("{slot} {version}")
            });
            given.collect::<Vec<_>>().join(", ")
        }

        /// A replica has come to run what it was told.
        fn ready(&mut self, slot: &str) {
            let slot: SlotId = slot.parse().unwrap();
            let told = &self.told[&slot];
            let (uid, generation, configs) = (told.uid, told.generation, told.configs.clone());
            let now = Observed { uid, generation, phase: Phase::Ready, message: None, failures: 0, configs };
            self.observed.insert(slot, now);
        }

        fn says(&mut self, slot: &str, phase: Phase, message: Option<&str>) {
            let now = self.observed.get_mut(&slot.parse().unwrap()).unwrap();
            (now.phase, now.message) = (phase, message.map(str::to_owned));
        }

        fn message(&self, slot: &str) -> Option<String> {
            self.given.told(&self.observed)[&slot.parse().unwrap()].message.clone()
        }
    }

    /// Replicas `a.0`, `a.1` and `b.0`, which run with version 1 and reserve 64 MiB each.
    fn node() -> Node {
        let mut node = Node::default();
        node.workload("a", 2, 64);
        node.workload("b", 1, 64);
        node.put(1);
        assert_eq!(node.pass(0), "a.0 1, a.1 1, b.0 1", "what starts takes what its record reserves");
        ["a.0", "a.1", "b.0"].into_iter().for_each(|slot| node.ready(slot));
        assert_eq!(node.pass(0), "a.0 1, a.1 1, b.0 1");
        node
    }

    #[test]
    fn values_change_in_one_replica_at_a_time() {
        let mut node = node();
        node.put(2);
        for expected in ["a.0 2, a.1 1, b.0 1", "a.0 2, a.1 2, b.0 1", "a.0 2, a.1 2, b.0 2"] {
            assert_eq!(node.pass(1000), expected);
            assert_eq!(node.pass(1000), expected, "until it is ready");
            ["a.0", "a.1", "b.0"].into_iter().for_each(|slot| node.ready(slot));
        }
        node.pass(1000);
        assert_eq!(node.given.beside, 0);
    }

    #[test]
    fn one_that_fails_stops_nobody_else_but_keeps_its_room() {
        let mut node = node();
        node.put(2);
        assert_eq!(node.pass(100), "a.0 2, a.1 1, b.0 1");
        node.says("a.0", Phase::Ready, Some("its new configuration failed: no such currency"));
        assert_eq!(node.pass(100), "a.0 2, a.1 1, b.0 1", "there is no room for two beside");
        assert_eq!(node.message("a.1").unwrap().split(" until").next(), Some("its new configuration waits"));
        assert_eq!(node.pass(128), "a.0 2, a.1 2, b.0 1");
        node.ready("a.1");
        node.put(3);
        assert_eq!(node.pass(128), "a.0 3, a.1 2, b.0 1", "what failed has room already, and a turn like any other");
        node.put(1);
        assert_eq!(node.pass(128), "a.0 1, a.1 1, b.0 1", "back to what runs brings up nothing, and frees the turn");
    }

    #[test]
    fn without_room_values_wait_and_that_is_said() {
        let mut node = node();
        node.put(2);
        assert_eq!(node.pass(63), "a.0 1, a.1 1, b.0 1");
        let said = "its new configuration waits until 64 MiB of this node are free, for the old and the new instances";
        assert_eq!(node.message("a.0").as_deref(), Some(said));
        assert_eq!(node.pass(64), "a.0 2, a.1 1, b.0 1");
        assert_eq!(node.message("a.0"), None);
        // The room of what comes up beside is not claimed for something else.
        let claim = |slot: &str| Action::Claim {
            slot: slot.parse().unwrap(),
            expect: Precondition::Absent,
            rank: 0,
            handover_from: None,
            gpu: None,
        };
        for (spare, left) in [(0, 1), (63, 1), (64, 2)] {
            let mut actions = vec![claim("b.1"), claim("b.2")];
            node.given.hold_back(&node.view, &mut actions, spare * MIB);
            assert_eq!(actions.len(), left, "{spare}");
        }
    }

    #[test]
    fn what_does_not_serve_is_not_waited_for() {
        let mut node = node();
        node.says("a.0", Phase::Failed, Some("no such currency"));
        node.put(2);
        assert_eq!(node.pass(0), "a.0 2, a.1 1, b.0 1", "nothing of it is left beside which it would come up");
        node.says("a.1", Phase::Starting, Some("not ready: no such currency"));
        assert_eq!(node.pass(0), "a.0 2, a.1 1, b.0 1", "it has its old instances");
        assert_eq!(node.pass(64), "a.0 2, a.1 2, b.0 1");
    }
}
