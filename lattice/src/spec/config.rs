//! Configuration by reference: what a spec names, and what becomes of it with the values of the moment.

use super::{Class, SecretRef, SpecError, WorkloadSpec};
use crate::{id::ConfigName, limits::CONFIGS_NAMED_MAX, record::ConfigStamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How a change of configuration that the workload names reaches its replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ConfigUpdate {
    /// Without a new generation, on each node one replica after the other, where there is memory for its old and its new
    /// instances: each makes new instances with the new values, sends new requests to them when they are ready, and
    /// lets the old ones finish what they have. A replica whose new instances don't start keeps the old ones.
    Watch,
    /// As a new generation of the workload, which is rolled out like any other and shows in its history.
    Roll,
}

/// Values and versions of what a spec names, at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// The spec with everything that it names written out.
    pub spec: WorkloadSpec,
    pub versions: BTreeMap<ConfigName, ConfigStamp>,
}

/// Why a spec can't be carried out now. It can as soon as somebody puts what is missing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("there is no config {}", .0.iter().map(ConfigName::as_str).collect::<Vec<_>>().join(", "))]
    Missing(BTreeSet<ConfigName>),
    #[error("there is no secret {}", in_words(.0))]
    MissingSecret(BTreeSet<SecretRef>),
    /// Components that are composed share one instance, and so one configuration.
    #[error("components {one} and {other} are composed, and what they name gives {key} two values")]
    Conflict { one: String, other: String, key: String },
}

/// A version of configuration, and what it says.
pub type Found<'a> = (ConfigStamp, &'a BTreeMap<String, String>);

impl WorkloadSpec {
    /// All configuration and all secrets that it names.
    pub fn configs(&self) -> BTreeSet<&ConfigName> {
        self.config_names().chain(self.secrets().map(|secret| &secret.name)).collect()
    }

    fn config_names(&self) -> impl Iterator<Item = &ConfigName> {
        let components = self.components.iter().flat_map(|part| part.config_from.iter().chain(&part.env_from));
        let services = self.services.iter().flat_map(|part| part.config_from.iter().chain(&part.env_from));
        components.chain(services)
    }

    /// How a change of it reaches replicas.
    pub fn config_update(&self) -> ConfigUpdate {
        let default = if self.must_roll().is_some() { ConfigUpdate::Roll } else { ConfigUpdate::Watch };
        self.config_update.unwrap_or(default)
    }

    /// Why new instances can't come up beside the old ones unless a rollout makes room for them.
    fn must_roll(&self) -> Option<&'static str> {
        if self.class == Class::Strict {
            Some("a replica of class strict stops before it starts again, and all of them would at once")
        } else if self.volumes.iter().any(|volume| volume.empty.is_some()) {
            Some("with empty volumes a node needs room on its disk for the old and the new ones")
        } else if self.gpu.is_some() {
            Some("with a claim on a GPU there would have to be room on it for the old and the new ones")
        } else {
            None
        }
    }

    /// Whether it names any, without collecting them.
    pub fn has_configs(&self) -> bool {
        let none = |config: &[ConfigName], env: &[ConfigName]| config.is_empty() && env.is_empty();
        !self.components.iter().all(|part| none(&part.config_from, &part.env_from))
            || !self.services.iter().all(|part| none(&part.config_from, &part.env_from))
            || self.secrets().next().is_some()
    }

    /// The spec with the values that `find` has for what it names: later names win over earlier ones, and what is written
    /// in the spec itself over all. Of secrets there are the versions that `secret` says, and no values.
    pub fn resolve<'a>(
        &self,
        find: impl Fn(&ConfigName) -> Option<Found<'a>>,
        secret: impl Fn(&SecretRef) -> Option<ConfigStamp>,
    ) -> Result<Resolved, ConfigError> {
        let (mut missing, mut secrets) = (BTreeSet::new(), BTreeSet::new());
        let versions = self.versions(
            |name| {
                let found = find(name).map(|(stamp, _)| stamp);
                found.or_else(|| (missing.insert(name.clone()), None).1)
            },
            |asked| secret(asked).or_else(|| (secrets.insert(asked.clone()), None).1),
        );
        if !missing.is_empty() {
            return Err(ConfigError::Missing(missing));
        }
        if !secrets.is_empty() {
            return Err(ConfigError::MissingSecret(secrets));
        }
        let fill = |names: &mut Vec<ConfigName>, entries: &mut BTreeMap<String, String>| {
            let named = names.drain(..).filter_map(|name| find(&name)).flat_map(|(_, entries)| entries.clone());
            let written = std::mem::take(entries);
            *entries = named.chain(written).collect();
        };
        let mut spec = self.clone();
        for part in &mut spec.components {
            fill(&mut part.config_from, &mut part.config);
            fill(&mut part.env_from, &mut part.env);
        }
        for part in &mut spec.services {
            fill(&mut part.config_from, &mut part.config);
            fill(&mut part.env_from, &mut part.env);
        }
        agree(&spec)?;
        Ok(Resolved { spec, versions })
    }

    /// The versions of what it names, as far as they are found. Of a secret that it names with and without a number, the one that
    /// is followed.
    pub fn versions(
        &self,
        mut find: impl FnMut(&ConfigName) -> Option<ConfigStamp>,
        mut secret: impl FnMut(&SecretRef) -> Option<ConfigStamp>,
    ) -> BTreeMap<ConfigName, ConfigStamp> {
        let mut versions = BTreeMap::new();
        for name in self.config_names() {
            versions.extend(find(name).map(|stamp| (name.clone(), stamp)));
        }
        let (followed, pinned): (Vec<_>, Vec<_>) = self.secrets().partition(|secret| secret.version.is_none());
        for asked in pinned.into_iter().chain(followed) {
            versions.extend(secret(asked).map(|stamp| (asked.name.clone(), stamp)));
        }
        versions
    }
}

fn in_words(secrets: &BTreeSet<SecretRef>) -> String {
    secrets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Admission sees to it that what is written agrees; this is about what is named.
fn agree(spec: &WorkloadSpec) -> Result<(), ConfigError> {
    type Entries = BTreeMap<String, String>;
    let of: [fn(&super::ComponentSpec) -> &Entries; 2] = [|part| &part.env, |part| &part.config];
    for entries in of {
        let mut seen: BTreeMap<&String, (&String, &super::ComponentSpec)> = BTreeMap::new();
        for part in spec.composed() {
            for (key, value) in entries(part) {
                match seen.insert(key, (value, part)) {
                    Some((before, other)) if before != value => {
                        let (one, other, key) = (other.name.to_string(), part.name.to_string(), key.clone());
                        return Err(ConfigError::Conflict { one, other, key });
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

pub(super) fn check(spec: &WorkloadSpec) -> Result<(), SpecError> {
    if let (Some(ConfigUpdate::Watch), Some(why)) = (spec.config_update, spec.must_roll()) {
        return Err(SpecError::new("config-update", format!("must not be `watch`: {why}"))
            .hint("leave it out, or write `config-update: roll`: changes go out as a rollout, within its bounds"));
    }
    let components = spec
        .components
        .iter()
        .enumerate()
        .map(|(i, part)| (format!("components[{i}]"), &part.config_from, &part.env_from));
    let services =
        spec.services.iter().enumerate().map(|(i, part)| (format!("services[{i}]"), &part.config_from, &part.env_from));
    for (part, config_from, env_from) in components.chain(services) {
        for (what, names) in [("config-from", config_from), ("env-from", env_from)] {
            let field = format!("{part}.{what}");
            if names.len() > CONFIGS_NAMED_MAX {
                return Err(SpecError::new(field, format!("at most {CONFIGS_NAMED_MAX} names are allowed"))
                    .hint("put what belongs together under one name"));
            }
            if let Some((i, name)) =
                names.iter().enumerate().find(|(i, name)| names.iter().take(*i).any(|other| other == *name))
            {
                return Err(SpecError::new(format!("{field}[{i}]"), format!("{name} is named twice"))
                    .hint("later names win over earlier ones: name it once, where it counts"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{id::Generation, record::ConfigRecord};

    fn config(name: &str, version: u64, entries: &[(&str, &str)]) -> ConfigRecord {
        ConfigRecord {
            name: name.parse().unwrap(),
            stamp: ConfigStamp { uid: uuid::Uuid::nil(), version: Generation(version) },
            entries: entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            secret: None,
            earlier: Vec::new(),
            changed_at: 0,
        }
    }

    fn spec(text: &str) -> WorkloadSpec {
        super::super::parse(text.as_bytes()).unwrap()
    }

    fn resolve(spec: &WorkloadSpec, configs: &[ConfigRecord]) -> Result<Resolved, ConfigError> {
        let found = |name: &ConfigName| configs.iter().find(|config| config.name == *name);
        spec.resolve(|name| found(name).map(|config| (config.stamp, &config.entries)), |_| None)
    }

    #[test]
    fn later_names_win_over_earlier_ones_and_the_spec_over_all() {
        let asked = spec(
            "name: a\ncomponents:\n  - {name: a, source: 'file:a', config: {c: spec}, config-from: [one, two], env-from: [one]}\n\
             services:\n  - {name: s, source: 'file:s', config-from: [two, one]}",
        );
        assert!(asked.has_configs());
        let configs = [config("one", 3, &[("a", "1"), ("b", "1"), ("c", "1")]), config("two", 7, &[("b", "2")])];
        let resolved = resolve(&asked, &configs).unwrap();
        let entries = |map: &BTreeMap<String, String>| map.values().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(entries(&resolved.spec.config()), "1 2 spec");
        assert_eq!(entries(&resolved.spec.env()), "1 1 1");
        assert_eq!(entries(&resolved.spec.services[0].config), "1 1 1");
        assert!(!resolved.spec.has_configs());
        let versions: Vec<_> = resolved.versions.iter().map(|(name, stamp)| (name.as_str(), stamp.version.0)).collect();
        assert_eq!(versions, [("one", 3), ("two", 7)]);
    }

    #[test]
    fn what_is_missing_or_does_not_agree_is_said() {
        let asked =
            spec("name: a\ncomponents: [{name: a, source: 'file:a', config-from: [one, two], env-from: [three]}]");
        let error = resolve(&asked, &[config("two", 1, &[])]).unwrap_err();
        assert_eq!(error.to_string(), "there is no config one, three");
        let asked = spec(
            "name: a\ncomponents:\n  - {name: a, source: 'file:a', config-from: [one]}\n  - {name: b, source: 'file:b', config: {k: x}}",
        );
        assert!(resolve(&asked, &[config("one", 1, &[("k", "x")])]).is_ok());
        let error = resolve(&asked, &[config("one", 1, &[("k", "y")])]).unwrap_err();
        assert_eq!(error.to_string(), "components a and b are composed, and what they name gives k two values");
        // One that is not composed has its own.
        let lazy = spec(
            "name: a\ncomponents:\n  - {name: a, source: 'file:a', config-from: [one]}\n  - {name: b, source: 'file:b', lazy: true, config: {k: x}}",
        );
        assert!(resolve(&lazy, &[config("one", 1, &[("k", "y")])]).is_ok());
    }

    #[test]
    fn what_can_not_have_two_of_itself_is_rolled() {
        let with = |more: &str| {
            let text = format!("name: a\ncomponents: [{{name: a, source: 'file:a', config-from: [one]}}]\n{more}");
            super::super::parse(text.as_bytes())
        };
        assert_eq!(with("").unwrap().config_update(), ConfigUpdate::Watch);
        assert_eq!(with("config-update: roll").unwrap().config_update(), ConfigUpdate::Roll);
        let host = "volumes: [{name: v, mount: /v, host: {path: /srv/v}}]";
        assert_eq!(with(host).unwrap().config_update(), ConfigUpdate::Watch);
        for more in ["class: strict", "volumes: [{name: v, mount: /v, empty: {size: 1MiB}}]", "gpu: {}"] {
            assert_eq!(with(more).unwrap().config_update(), ConfigUpdate::Roll, "{more}");
            let refused = with(&format!("{more}\nconfig-update: watch")).unwrap_err();
            assert_eq!(refused.field, "config-update");
            assert!(refused.hint.is_some_and(|hint| hint.contains("roll")));
        }
    }

    #[test]
    fn names_are_bounded_and_distinct() {
        let with = |names: &str| {
            let text = format!("name: a\ncomponents: [{{name: a, source: 'file:a', config-from: [{names}]}}]");
            super::super::parse(text.as_bytes())
        };
        assert!(with("one, two").is_ok());
        assert_eq!(with("one, two, one").unwrap_err().field, "components[0].config-from[2]");
        let many: Vec<String> = (0..=CONFIGS_NAMED_MAX).map(|i| format!("c{i}")).collect();
        assert_eq!(with(&many.join(", ")).unwrap_err().field, "components[0].config-from");
        assert_eq!(with("One").unwrap_err().field, "components[0].config-from[0]");
    }
}
