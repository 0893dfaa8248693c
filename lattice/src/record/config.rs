//! Configuration by name: what workloads refer to with `config-from` and `env-from`.

use super::Record;
use crate::{
    id::{ConfigName, Generation},
    limits::{CONFIG_BYTES_MAX, CONFIG_KEY_BYTES_MAX, CONFIG_VALUE_BYTES_MAX, ENTRIES_MAX, NATS_PAYLOAD_BYTES_DEFAULT},
    spec::SecretRef,
    store::Bucket,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which version of a piece of configuration, and in which of its lives: one that was deleted and put again is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ConfigStamp {
    pub uid: uuid::Uuid,
    pub version: Generation,
}

/// Asked: entries under a name. Written by admission on any node, compare-and-set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ConfigRecord {
    pub name: ConfigName,
    #[serde(flatten)]
    pub stamp: ConfigStamp,
    pub entries: BTreeMap<String, String>,
    /// It is a secret: it has no entries, and this is where its value is kept. See [`crate::secret::Vault`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<uuid::Uuid>,
    /// What it said before, as far as some generation of a workload was made for it. The newest first, three at
    /// most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<EarlierConfig>,
    /// Milliseconds since 1970, by the clock of the node that admitted it. For people only.
    pub changed_at: u64,
}
impl Record for ConfigRecord {
    const BUCKET: Bucket = Bucket::Specs;

    /// Whoever knows nothing of secrets would write one again as configuration without entries.
    fn schema(&self) -> u32 {
        if self.secret.is_some() { 6 } else { 1 }
    }
}

/// A version before the one that is in force, in the same life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EarlierConfig {
    pub version: Generation,
    pub entries: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<uuid::Uuid>,
}

/// Versions that a record keeps beside the one in force.
const EARLIER_MAX: usize = 3;
/// A record with earlier versions is not longer than this: it has to fit a message.
const RECORD_BYTES_MAX: usize = NATS_PAYLOAD_BYTES_DEFAULT / 2;

impl ConfigRecord {
    /// What a version of it says, if that is kept.
    pub fn entries_at(&self, stamp: &ConfigStamp) -> Option<&BTreeMap<String, String>> {
        if self.stamp == *stamp {
            return Some(&self.entries);
        }
        let mut earlier = self.earlier.iter().filter(|_| self.stamp.uid == stamp.uid);
        earlier.find(|earlier| earlier.version == stamp.version).map(|earlier| &earlier.entries)
    }

    /// Which of its lives and versions a spec means by the name of a secret. Of what is named without a number the version in
    /// `made_for`, as long as that is kept, or the one in force.
    pub fn stamp_of(&self, asked: &SecretRef, made_for: Option<&ConfigStamp>) -> Option<ConfigStamp> {
        self.secret?;
        let version = asked.version.map(|version| ConfigStamp { version, ..self.stamp });
        match version {
            Some(stamp) => self.value_at(&stamp).map(|_| stamp),
            None => made_for.filter(|stamp| self.value_at(stamp).is_some()).copied().or(Some(self.stamp)),
        }
    }

    /// Where the value of a version is kept, if it is.
    pub fn value_at(&self, stamp: &ConfigStamp) -> Option<uuid::Uuid> {
        if self.stamp == *stamp {
            return self.secret;
        }
        let mut earlier = self.earlier.iter().filter(|_| self.stamp.uid == stamp.uid);
        earlier.find(|earlier| earlier.version == stamp.version)?.secret
    }

    /// Where all values are kept that it speaks of.
    pub fn values(&self) -> Vec<uuid::Uuid> {
        self.secret.into_iter().chain(self.earlier.iter().filter_map(|earlier| earlier.secret)).collect()
    }

    /// The version after this one. `is_asked_for` says which of those before somebody may still run with.
    pub fn next(
        &self,
        entries: BTreeMap<String, String>,
        changed_at: u64,
        is_asked_for: impl Fn(&ConfigStamp) -> bool,
    ) -> Self {
        let this = EarlierConfig { version: self.stamp.version, entries: self.entries.clone(), secret: self.secret };
        let is_kept = |earlier: &EarlierConfig| is_asked_for(&ConfigStamp { version: earlier.version, ..self.stamp });
        let all = std::iter::once(this).chain(self.earlier.iter().cloned());
        let earlier = all.filter(is_kept).take(EARLIER_MAX).collect();
        let stamp = ConfigStamp { version: self.stamp.version.next(), ..self.stamp };
        let mut next = Self { name: self.name.clone(), stamp, entries, secret: None, earlier, changed_at };
        while !next.earlier.is_empty() && next.encode().len() > RECORD_BYTES_MAX {
            next.earlier.pop();
        }
        next
    }
}

/// Why entries can't be kept, naming the key.
pub fn check_entries(entries: &BTreeMap<String, String>) -> Result<(), (String, String)> {
    let whole = |message| Err(("entries".to_owned(), message));
    if entries.len() > ENTRIES_MAX {
        return whole(format!("{} entries are more than {ENTRIES_MAX}", entries.len()));
    }
    for (key, value) in entries {
        let of_key =
            |message: String| Err((format!("entries.{}", crate::limits::one_line(key, CONFIG_KEY_BYTES_MAX)), message));
        if key.is_empty() || key.len() > CONFIG_KEY_BYTES_MAX {
            return of_key(format!("a key has 1 to {CONFIG_KEY_BYTES_MAX} bytes"));
        }
        // It may become the name of an environment variable.
        if key.contains(|c: char| c.is_control() || c == '=') {
            return of_key("a key has no '=' and no control characters".into());
        }
        if value.contains('\0') {
            return of_key("a value has no zero bytes".into());
        }
        if value.len() > CONFIG_VALUE_BYTES_MAX {
            return of_key(format!("{} bytes are more than {CONFIG_VALUE_BYTES_MAX}", value.len()));
        }
    }
    let bytes: usize = entries.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > CONFIG_BYTES_MAX {
        return whole(format!("{bytes} bytes of keys and values are more than {CONFIG_BYTES_MAX}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_kept_as_long_as_somebody_may_run_with_them() {
        let entries = |value: &str| BTreeMap::from([("a".to_owned(), value.to_owned())]);
        let stamp = |version| ConfigStamp { uid: uuid::Uuid::nil(), version: Generation(version) };
        let first = ConfigRecord {
            name: "c".parse().unwrap(),
            stamp: stamp(1),
            entries: entries("1"),
            secret: None,
            earlier: Vec::new(),
            changed_at: 0,
        };
        let second = first.next(entries("2"), 0, |_| true);
        let third = second.next(entries("3"), 0, |asked| *asked == stamp(1));
        assert_eq!(third.stamp, stamp(3));
        let found = |version| third.entries_at(&stamp(version)).map(|entries| entries["a"].as_str());
        assert_eq!([found(1), found(2), found(3)], [Some("1"), None, Some("3")]);
        let other_life = ConfigStamp { uid: uuid::Uuid::from_u128(1), ..stamp(1) };
        assert_eq!(third.entries_at(&other_life), None);
        assert_eq!(ConfigRecord::decode(&third.encode()).unwrap(), third);
        let many = (0..10).fold(first.clone(), |record, _| record.next(entries("x"), 0, |_| true));
        assert_eq!(many.earlier.iter().map(|earlier| earlier.version.0).collect::<Vec<_>>(), [10, 9, 8]);
        // What has to be written with many bytes does not keep a new version from being put.
        let long = "\u{1}".repeat(CONFIG_BYTES_MAX - 1);
        let many = (0..5).fold(first, |record, _| record.next(entries(&long), 0, |_| true));
        assert!(many.encode().len() <= RECORD_BYTES_MAX && many.earlier.len() < 2, "{}", many.encode().len());
    }

    #[test]
    fn what_can_be_kept_is_bounded() {
        let of = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        assert_eq!(check_entries(&of("currency", "eur")), Ok(()));
        assert_eq!(check_entries(&of("empty", "")), Ok(()));
        let long = "x".repeat(CONFIG_VALUE_BYTES_MAX + 1);
        for (entries, field) in [
            (of("", "x"), "entries."),
            (of("a=b", "x"), "entries.a=b"),
            (of("a\nb", "x"), "entries.a b"),
            (of("a", "\0"), "entries.a"),
            (of("a", &long), "entries.a"),
            ((0..=ENTRIES_MAX).map(|i| (i.to_string(), String::new())).collect(), "entries"),
            ((0..5).map(|i| (i.to_string(), "x".repeat(CONFIG_VALUE_BYTES_MAX))).collect(), "entries"),
        ] {
            assert_eq!(check_entries(&entries).unwrap_err().0, field);
        }
        let most: BTreeMap<_, _> = (0..CONFIG_BYTES_MAX / CONFIG_VALUE_BYTES_MAX - 1)
            .map(|i| (i.to_string(), "x".repeat(CONFIG_VALUE_BYTES_MAX)))
            .collect();
        assert_eq!(check_entries(&most), Ok(()));
    }
}
