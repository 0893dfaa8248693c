//! How one generation of a spec follows another: what is put next, what is put back for what was given up, and what each
//! remembers of those before it.

use super::{ConfigStamp, Rollout, SpecRecord, is_zero};
use crate::{
    id::{ConfigName, Generation, WorkloadName},
    limits::{MESSAGE_BYTES_MAX, one_line},
    recipe::Recipe,
    spec::{ConfigUpdate, Route, WorkloadSpec, empty_bytes},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A template that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Aborted {
    /// The generation of the spec that was in force.
    pub generation: Generation,
    /// Why, in one sentence.
    pub reason: String,
    /// Routes that were not put back with the rest, since another workload has taken them meanwhile. The first ones of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<LostRoute>,
}

/// A route that is another workload's now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct LostRoute {
    /// As a spec's error names it: `shop.test/api`.
    pub route: String,
    pub holder: WorkloadName,
}

/// Routes that a record names as lost.
const LOST_MAX: usize = 16;

impl Aborted {
    /// What was lost, if anything: `without shop.test/, which other has taken`.
    pub fn loss(&self) -> Option<String> {
        let lost = self.lost.iter().map(|LostRoute { route, holder }| format!("{route}, which {holder} has taken"));
        let lost: Vec<String> = lost.collect();
        (!lost.is_empty()).then(|| format!("without {}", lost.join(", ")))
    }
}

/// Templates that a record remembers of those that were left. With more, two are remembered as one that reserves what the
/// larger does.
const LEFT_MAX: usize = 8;

/// A template that was left before every replica had it: some may run it still.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Left {
    pub template: Generation,
    /// Bytes that each of its replicas reserves ([`WorkloadSpec::memory_reserved`]).
    pub memory: u64,
    /// Bytes that each one's empty volumes may have.
    pub volumes: u64,
    /// Thousandths of processors that each reserves.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub millicores: u64,
}

impl SpecRecord {
    /// Whether replicas of both run the same.
    pub fn runs_like(&self, other: &SpecRecord) -> bool {
        self.asks_like(other) && self.configs == other.configs
    }

    /// Whether both ask replicas to run the same, whatever configuration each was made for.
    pub fn asks_like(&self, other: &SpecRecord) -> bool {
        self.recipe.runs_like(&other.recipe) && self.spec.runs_like(&other.spec)
    }

    /// What a template reserves that is neither this one nor the stable one.
    pub fn left(&self, template: Generation) -> Option<&Left> {
        self.left.iter().find(|left| template <= left.template)
    }

    /// The record after this one, with another spec, or for other configuration. `rollout` says how far this one has come:
    /// only what was rolled out whole becomes the stable one. One that runs what is stable ends the rollout at once.
    pub fn next(
        &self,
        rollout: Option<&Rollout>,
        spec: WorkloadSpec,
        recipe: Recipe,
        configs: BTreeMap<ConfigName, ConfigStamp>,
        admitted_at: u64,
    ) -> Self {
        let hash = spec.content_hash();
        let (uid, generation) = (self.uid, self.generation.next());
        let mut next = Self { recipe, hash, configs, admitted_at, ..Self::new(spec, uid, generation) };
        if next.asks_like(self) {
            next.decline(self);
        }
        if next.runs_like(self) {
            return Self {
                template: Some(self.template()),
                stable: self.stable.clone(),
                left: self.left.clone(),
                ..next
            };
        }
        let stable = match &self.stable {
            Some(stable) if !self.is_settled(rollout) => stable.clone(),
            _ => Box::new(self.as_stable()),
        };
        let is_whole = self.stable.is_some() && self.is_settled(rollout);
        let left = match (&self.stable, self.beside(rollout)) {
            // The second set is whole, and of the first one some may run still what they ran before.
            (Some(before), Some(_)) if is_whole => within([before.as_left()].into_iter().chain(self.left.clone())),
            _ if is_whole => Vec::new(),
            _ => self.leave(&stable),
        };
        if next.runs_like(&stable) {
            return Self { template: Some(stable.template()), left, ..next };
        }
        Self { stable: Some(stable), left, ..next }
    }

    /// The record that gives a rollout up: the stable spec again, as the next generation, with as many replicas as there are
    /// to be now. Nothing where nothing is stable.
    pub fn abort(&self, reason: &str, admitted_at: u64) -> Option<Self> {
        let stable = self.stable.as_deref()?;
        // A daemon's number says nothing.
        let is_daemon = stable.spec.placement.daemon || self.spec.placement.daemon;
        let numbers = if is_daemon { &stable.spec } else { &self.spec };
        let (replicas, autoscale) = (numbers.replicas, numbers.autoscale.clone());
        let spec = WorkloadSpec { replicas, autoscale, ..stable.spec.clone() };
        Some(Self {
            hash: spec.content_hash(),
            spec,
            generation: self.generation.next(),
            template: Some(stable.template()),
            aborted: Some(Aborted {
                generation: self.generation,
                reason: one_line(reason, MESSAGE_BYTES_MAX),
                lost: Vec::new(),
            }),
            stable: None,
            left: self.leave(stable),
            declined: self.declined_for(stable),
            admitted_at,
            ..stable.clone()
        })
    }

    /// Keep to what another record declined, as long as nobody asks for something else.
    fn decline(&mut self, before: &Self) {
        for (name, stamp) in &mut self.configs {
            if before.declined.get(name) == Some(stamp)
                && let Some(own) = before.configs.get(name)
            {
                *stamp = *own;
                self.declined.extend(before.declined.get_key_value(name).map(|(name, stamp)| (name.clone(), *stamp)));
            }
        }
    }

    /// Whether another generation is to be made for configuration that is there now, by `versions`.
    pub fn is_outdated_by(&self, versions: &BTreeMap<ConfigName, ConfigStamp>) -> bool {
        let is_known = |name: &ConfigName, stamp: &ConfigStamp| {
            [&self.configs, &self.declined].iter().any(|known| known.get(name) == Some(stamp))
        };
        versions.iter().any(|(name, stamp)| !is_known(name, stamp))
    }

    /// Leave out the routes of a record that gave a rollout up which are another workload's now, by `taken`. Whether there were
    /// some.
    pub fn lose_routes(&mut self, mut taken: impl FnMut(&Route) -> Option<WorkloadName>) -> bool {
        let mut lost = Vec::new();
        self.spec.http.routes.retain(|route| {
            let holder = taken(route);
            lost.extend(holder.iter().map(|holder| LostRoute { route: route.to_string(), holder: holder.clone() }));
            holder.is_none()
        });
        let is_any = !lost.is_empty();
        self.hash = self.spec.content_hash();
        if let Some(aborted) = &mut self.aborted {
            aborted.lost.extend(lost);
            aborted.lost.truncate(LOST_MAX);
        }
        is_any
    }

    /// The record that takes `taken` back, which came after this one and was never to be: this one again, as the generation
    /// after it. `was_settled` says whether this one was when it was replaced: `taken` may have begun to be rolled out, and
    /// then the record of this one's rollout is lost.
    pub fn again(&self, was_settled: bool, taken: &SpecRecord) -> Self {
        let generation = taken.generation.next();
        let (template, stable) = match &self.stable {
            stable if taken.template() == self.template() => (Some(self.template()), stable.clone()),
            Some(stable) if !was_settled => (None, Some(stable.clone())), // it begins anew
            _ => (Some(self.template()), None),
        };
        let again = Self { generation, template, stable, ..self.clone() };
        Self { left: taken.leave(&again), ..again }
    }

    fn as_stable(&self) -> Self {
        Self { template: Some(self.template()), stable: None, aborted: None, left: Vec::new(), ..self.clone() }
    }

    /// What is left where the template of this record is given up for the one of another.
    fn leave(&self, other: &SpecRecord) -> Vec<Left> {
        let own = (self.template() != other.template()).then(|| self.as_left());
        within(self.left.iter().cloned().chain(own))
    }

    fn as_left(&self) -> Left {
        let (memory, volumes) = (self.spec.memory_reserved(), empty_bytes(&self.spec.volumes));
        Left { template: self.template(), memory, volumes, millicores: self.spec.reserve.cpu.0 }
    }

    /// What a spec that is put back for this one is not made for again: else it would be rolled out again and again.
    fn declined_for(&self, stable: &SpecRecord) -> BTreeMap<ConfigName, ConfigStamp> {
        if stable.spec.config_update() == ConfigUpdate::Watch {
            return BTreeMap::new();
        }
        let is_other =
            |name: &ConfigName, stamp: &ConfigStamp| stable.configs.get(name).is_some_and(|own| own != stamp);
        let given_up = self.configs.iter().filter(|(name, stamp)| is_other(name, stamp));
        stable.declined.iter().chain(given_up).map(|(name, stamp)| (name.clone(), *stamp)).collect()
    }
}

/// As many as a record remembers, oldest first.
fn within(left: impl Iterator<Item = Left>) -> Vec<Left> {
    let mut left: Vec<Left> = left.collect();
    while left.len() > LEFT_MAX {
        let first = left.remove(0);
        if let Some(second) = left.first_mut() {
            second.memory = second.memory.max(first.memory);
            second.volumes = second.volumes.max(first.volumes);
            second.millicores = second.millicores.max(first.millicores);
        }
    }
    left
}

impl WorkloadSpec {
    /// Whether replicas of both run the same: they differ in nothing, or in what the lattice does around them.
    fn runs_like(&self, other: &WorkloadSpec) -> bool {
        let WorkloadSpec { replicas, http, schedule, placement, rollout, autoscale, config_update, disruption, .. } =
            other.clone();
        let around = WorkloadSpec { replicas, http, schedule, placement, rollout, autoscale, ..self.clone() };
        WorkloadSpec { config_update, disruption, ..around } == *other
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::Digest,
        record::{Record as _, RolloutState},
    };

    fn spec(more: &str) -> WorkloadSpec {
        let source = Digest::of(b"one");
        crate::spec::parse(format!("name: a\ncomponents: [{{name: api, source: '{source}'{more}").as_bytes()).unwrap()
    }
    fn first(spec: WorkloadSpec) -> SpecRecord {
        SpecRecord::new(spec, uuid::Uuid::from_u128(7), Generation::FIRST)
    }
    fn next(record: &SpecRecord, spec: WorkloadSpec) -> SpecRecord {
        record.next(None, spec, Recipe::default(), BTreeMap::new(), 0)
    }
    fn done(record: &SpecRecord) -> Rollout {
        Rollout { state: RolloutState::Done, ..Rollout::new(record) }
    }

    #[test]
    fn a_node_that_knows_nothing_of_templates_leaves_a_record_with_one_as_it_is() {
        let one = first(spec("}]"));
        let more = next(&one, spec("}]\nreplicas: 2"));
        let other = next(&one, spec(", env: {A: b}}]"));
        assert!(more.template.is_some() && other.stable.is_some());
        let back = other.abort("no", 0).unwrap();
        assert_eq!([&one, &more, &other, &back].map(|record| record.schema()), [1, 4, 4, 4]);
        assert_eq!(SpecRecord::decode(&back.encode()).unwrap(), back);
    }

    #[test]
    fn a_daemon_says_nothing_of_how_many_there_are_to_be() {
        let (three, daemon) = (spec("}]\nreplicas: 3"), spec("}]\nplacement: {daemon: true}"));
        assert_eq!((three.replicas, daemon.replicas), (3, 1));
        let changed = |spec: &WorkloadSpec| {
            let mut spec = spec.clone();
            spec.components[0].env.insert("A".into(), "b".into());
            spec
        };
        for (before, after, replicas) in [
            (&three, changed(&daemon), 3),
            (&daemon, changed(&three), 1),
            (&three, WorkloadSpec { replicas: 5, ..changed(&three) }, 5),
        ] {
            assert_eq!(next(&first(before.clone()), after).abort("no", 0).unwrap().spec.replicas, replicas);
        }
    }

    #[test]
    fn what_is_put_back_was_made_for_what_it_names_itself() {
        let name = |text: &str| ConfigName::new(text).unwrap();
        let stamp = |version| ConfigStamp { uid: uuid::Uuid::nil(), version: Generation(version) };
        let stamps = |all: &[(&str, u64)]| -> BTreeMap<ConfigName, ConfigStamp> {
            all.iter().map(|(text, version)| (name(text), stamp(*version))).collect()
        };
        let old = spec(", config-from: [a, b]}]\nconfig-update: roll");
        let new = spec(", config-from: [b, c]}]\nconfig-update: roll");
        let before = SpecRecord { configs: stamps(&[("a", 1), ("b", 1)]), ..first(old) };
        let after = before.next(None, new, Recipe::default(), stamps(&[("b", 2), ("c", 1)]), 0);
        let back = after.abort("no", 0).unwrap();
        assert_eq!((&back.configs, &back.declined), (&before.configs, &stamps(&[("b", 2)])));
        assert_eq!((back.schema(), before.schema()), (5, 4));
        // It is not rolled out again by itself, nor because of something else; what comes after it is.
        assert!(!back.is_outdated_by(&stamps(&[("a", 1), ("b", 2)])));
        assert!(
            back.is_outdated_by(&stamps(&[("a", 1), ("b", 3)])) && back.is_outdated_by(&stamps(&[("a", 2), ("b", 2)]))
        );
        let of_now = |record: &SpecRecord, spec: WorkloadSpec, b: u64| {
            record.next(None, spec, Recipe::default(), stamps(&[("a", 1), ("b", b)]), 0)
        };
        let scaled = of_now(&back, WorkloadSpec { replicas: 3, ..back.spec.clone() }, 2);
        assert_eq!(
            (scaled.template(), &scaled.configs, &scaled.declined),
            (back.template(), &back.configs, &back.declined)
        );
        let later = of_now(&back, back.spec.clone(), 3);
        assert_eq!(
            (later.template(), &later.configs, later.declined.len()),
            (later.generation, &stamps(&[("a", 1), ("b", 3)]), 0)
        );
        // Who asks for something else asks for what is there.
        let mut asked = back.spec.clone();
        asked.components[0].env.insert("A".into(), "b".into());
        assert_eq!(of_now(&back, asked, 2).configs, stamps(&[("a", 1), ("b", 2)]));
        let watches = first(spec(", config-from: [b]}]"));
        let after = watches.next(None, after.spec, Recipe::default(), stamps(&[("b", 2), ("c", 1)]), 0);
        assert_eq!(after.abort("no", 0).unwrap().configs, BTreeMap::new());
    }

    #[test]
    fn what_is_taken_back_leaves_what_was_stable() {
        let versioned = |version: &str| spec(&format!(", env: {{V: '{version}'}}}}]"));
        let one = first(versioned("1"));
        let two = next(&one, versioned("2"));
        // It was there everywhere: it is stable, whatever became of the record of its rollout.
        let three = two.next(Some(&done(&two)), versioned("3"), Recipe::default(), BTreeMap::new(), 0);
        let back = two.again(true, &three);
        assert_eq!((back.generation, back.template(), &back.stable), (Generation(4), Generation(2), &None));
        assert!(back.is_settled(Some(&Rollout::new(&three))));
        // It was not: it begins anew, and the record of the other one's rollout does not stop it.
        let three = next(&two, versioned("3"));
        let back = two.again(false, &three);
        assert_eq!((back.generation, back.template()), (Generation(4), Generation(4)));
        assert_eq!(back.stable, two.stable);
        assert_eq!(back.left.iter().map(|left| left.template.0).collect::<Vec<_>>(), [2, 3]);
        // No other template was put: it goes on.
        let three = next(&two, WorkloadSpec { replicas: 2, ..versioned("2") });
        let back = two.again(false, &three);
        assert_eq!((back.template(), &back.stable), (Generation(2), &two.stable));
        assert_eq!(back.spec, two.spec);
    }

    #[test]
    fn what_was_left_on_the_way_is_remembered_until_one_is_rolled_out_whole() {
        let of = |version: u64| spec(&format!(", env: {{V: '{version}'}}}}]\nlimits: {{memory: {version}MiB}}"));
        let mut record = first(of(1));
        for version in 2..5 {
            record = next(&record, of(version));
        }
        let memory = |record: &SpecRecord, template| record.left(Generation(template)).map(|left| left.memory);
        assert_eq!((memory(&record, 3), memory(&record, 4)), (Some(of(3).memory_reserved()), None));
        let back = record.abort("no", 0).unwrap();
        assert_eq!(memory(&back, 4), Some(of(4).memory_reserved()));
        let again = next(&back, of(6));
        assert_eq!((memory(&again, 4), again.left.len()), (memory(&back, 4), 3));
        let after = again.next(Some(&done(&again)), of(7), Recipe::default(), BTreeMap::new(), 0);
        assert_eq!(after.left, []);
        // However often it changes, it is never less than what runs.
        let mut record = first(of(100));
        for version in (10..60).rev() {
            record = next(&record, of(version));
        }
        assert_eq!(record.left.len(), LEFT_MAX);
        for template in 2..=50 {
            assert!(memory(&record, template).unwrap() >= of(61 - template).memory_reserved(), "{template}");
        }
    }
}
