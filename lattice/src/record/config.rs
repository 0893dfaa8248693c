//! Configuration by name: what workloads refer to with `config-from` and `env-from`.

use super::Record;
use crate::{
    id::{ConfigName, Generation},
    limits::{CONFIG_BYTES_MAX, CONFIG_KEY_BYTES_MAX, CONFIG_VALUE_BYTES_MAX, ENTRIES_MAX},
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
    /// Milliseconds since 1970, by the clock of the node that admitted it. For people only.
    pub changed_at: u64,
}
impl Record for ConfigRecord {
    const BUCKET: Bucket = Bucket::Specs;
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
