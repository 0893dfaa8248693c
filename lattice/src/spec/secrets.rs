//! Secrets by reference: which ones a spec names, and nothing of what they are.

use super::{ComponentSpec, Grants, SpecError, StoreName, WorkloadSpec};
use crate::{
    id::{ConfigName, Generation},
    limits::{SECRETS_NAMED_MAX, clip},
    record::ConfigStamp,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// A secret of the lattice (`lattice secret put shop-db`): `shop-db`, which follows its changes, or `shop-db@3`, which is that
/// version for good.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretRef {
    pub name: ConfigName,
    /// `None`: the version of the moment.
    pub version: Option<Generation>,
}

/// Secrets, by the keys that guests get them by.
pub type SecretRefs = BTreeMap<StoreName, SecretRef>;

impl FromStr for SecretRef {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            let shown = clip(text, 128);
            format!("{shown:?} is not a secret: write its name, or NAME@VERSION for one version of it")
        };
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        let version = version.map(|version| match version.parse() {
            // As it is written when it is shown again: no sign, no zeros before it.
            Ok(number) if number > 0 && format!("{number}") == version => Ok(Generation(number)),
            _ => Err(bad()),
        });
        Ok(Self { name: ConfigName::new(name).map_err(|_| bad())?, version: version.transpose()? })
    }
}

impl TryFrom<String> for SecretRef {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<SecretRef> for String {
    fn from(secret: SecretRef) -> String {
        secret.to_string()
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Some(version) => write!(f, "{}@{version}", self.name),
            None => f.pad(self.name.as_str()),
        }
    }
}

impl JsonSchema for SecretRef {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SecretRef".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A secret of the lattice by its name, which follows its changes, or `NAME@VERSION`, which is that version.",
            "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(@[1-9][0-9]*)?$",
            "examples": ["shop-db", "shop-db@3"],
        })
    }
}

impl WorkloadSpec {
    /// All secrets that it names: those of its parts, and those of its grants and its parts' grants.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretRef> {
        let components = self.components.iter().map(|part| (&part.secrets, part.grants.as_ref()));
        let services = self.services.iter().map(|part| (&part.secrets, part.grants.as_ref()));
        let parts = components.chain(services);
        let of_parts = parts.flat_map(|(secrets, grants)| secrets.values().chain(grants.and_then(Grants::secret)));
        of_parts.chain(self.grants.secret())
    }

    /// Secrets of the whole, by the keys that its guests get them by, merged like [`WorkloadSpec::env`].
    pub fn secrets_of_whole(&self) -> SecretRefs {
        self.composed().flat_map(|component| component.secrets.clone()).collect()
    }

    /// Whether replicas may be given this version whenever they start: it is named by its number.
    pub fn pins(&self, name: &ConfigName, stamp: &ConfigStamp) -> bool {
        self.secrets().any(|secret| secret.name == *name && secret.version == Some(stamp.version))
    }
}

pub(super) fn check(spec: &WorkloadSpec) -> Result<(), SpecError> {
    let components = spec.components.iter().enumerate().map(|(i, part)| (format!("components[{i}]"), &part.secrets));
    let services = spec.services.iter().enumerate().map(|(i, part)| (format!("services[{i}]"), &part.secrets));
    for (field, secrets) in components.chain(services) {
        if secrets.len() > SECRETS_NAMED_MAX {
            return Err(SpecError::new(
                format!("{field}.secrets"),
                format!("at most {SECRETS_NAMED_MAX} secrets are allowed"),
            ));
        }
    }
    let composed = || spec.components.iter().enumerate().filter(|(_, component)| component.role().is_none());
    for (i, ComponentSpec { secrets, .. }) in composed() {
        for (j, other) in composed().take_while(|(j, _)| *j < i) {
            let differs = |(key, secret): &(&StoreName, &SecretRef)| {
                other.secrets.get(*key).is_some_and(|other| other != *secret)
            };
            if let Some((key, _)) = secrets.iter().find(differs) {
                let message =
                    format!("is not the secret of components[{j}].secrets.{key}, and components share one instance");
                return Err(SpecError::new(format!("components[{i}].secrets.{key}"), message)
                    .hint("give it another key, or name the same secret in both"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_named_with_or_without_a_version() {
        let (plain, pinned): (SecretRef, SecretRef) = ("shop-db".parse().unwrap(), "shop-db@12".parse().unwrap());
        assert_eq!((plain.version, pinned.version), (None, Some(Generation(12))));
        assert_eq!((plain.to_string(), pinned.to_string()), ("shop-db".into(), "shop-db@12".into()));
        for bad in ["", "Shop", "shop db", "shop@", "shop@0", "shop@01", "shop@+1", "shop@x", "@1", "a@1@2"] {
            assert!(bad.parse::<SecretRef>().unwrap_err().contains("is not a secret"), "{bad}");
        }
    }

    #[test]
    fn all_that_a_spec_names_is_found_and_its_keys_agree() {
        let parse = |text: &str| super::super::parse(text.as_bytes());
        let spec = parse(
            "name: a\ncomponents:\n  - {name: a, source: 'file:a', secrets: {db: one, DB.2: 'two@3'}}\n  - {name: b, source: 'file:b', \
             lazy: true, secrets: {db: three}, grants: {nats: {account: {credentials: four}}}}\nservices:\n  - {name: s, source: \
             'file:s', secrets: {x: five}}\ngrants: {nats: {account: {credentials: 'six@1'}}}",
        )
        .unwrap();
        let named: Vec<String> = spec.secrets().map(ToString::to_string).collect();
        assert_eq!(named, ["two@3", "one", "three", "four", "five", "six@1"]);
        assert_eq!(spec.secrets_of_whole().len(), 2);
        assert!(spec.has_configs() && spec.configs().len() == 6);
        let stamp = |version| ConfigStamp { uid: uuid::Uuid::nil(), version: Generation(version) };
        assert!(spec.pins(&"two".parse().unwrap(), &stamp(3)) && !spec.pins(&"two".parse().unwrap(), &stamp(2)));
        assert!(!spec.pins(&"one".parse().unwrap(), &stamp(3)));
        let two = |other: &str| {
            parse(&format!(
                "name: a\ncomponents:\n  - {{name: a, source: 'file:a', secrets: {{db: one}}}}\n  - {{name: b, source: 'file:b', \
                 secrets: {{db: {other}}}}}"
            ))
        };
        assert!(two("one").is_ok());
        assert_eq!(two("two").unwrap_err().field, "components[1].secrets.db");
        let many: Vec<String> = (0..=SECRETS_NAMED_MAX).map(|i| format!("k{i}: one")).collect();
        let many =
            parse(&format!("name: a\ncomponents: [{{name: a, source: 'file:a', secrets: {{{}}}}}]", many.join(", ")));
        assert_eq!(many.unwrap_err().field, "components[0].secrets");
    }
}
