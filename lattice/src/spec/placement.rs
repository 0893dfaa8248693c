//! Conditions on node labels.

use std::{collections::BTreeMap, fmt, str::FromStr};

/// One condition on a node's labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requirement {
    Equal(String, String),
    NotEqual(String, String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

/// Why a text is not a requirement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a requirement; write `key == value`, `key != value`, `key in (a, b)`, `key not in (a, b)`, `key` or `!key`"
)]
pub struct RequirementError(String);

impl Requirement {
    /// True if the labels fulfil it. A missing label is unequal to every value.
    pub fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = |key: &String| labels.get(key);
        match self {
            Requirement::Equal(key, wanted) => value(key) == Some(wanted),
            Requirement::NotEqual(key, unwanted) => value(key) != Some(unwanted),
            Requirement::In(key, wanted) => value(key).is_some_and(|v| wanted.contains(v)),
            Requirement::NotIn(key, unwanted) => value(key).is_none_or(|v| !unwanted.contains(v)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::Absent(key) => !labels.contains_key(key),
        }
    }

    /// The label that it looks at.
    pub fn key(&self) -> &str {
        match self {
            Requirement::Equal(key, _)
            | Requirement::NotEqual(key, _)
            | Requirement::In(key, _)
            | Requirement::NotIn(key, _)
            | Requirement::Exists(key)
            | Requirement::Absent(key) => key,
        }
    }
}

/// A label key: letters, digits, `.`, `_`, `-`, `/`.
pub fn is_label_key(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'))
}

/// A label value: as a key, and `:` or `+` too, so that versions and zones fit.
pub fn is_label_value(text: &str) -> bool {
    text.len() <= crate::limits::LABEL_VALUE_BYTES_MAX
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/' | b':' | b'+'))
}

impl FromStr for Requirement {
    type Err = RequirementError;
    fn from_str(text: &str) -> Result<Self, RequirementError> {
        let error = || RequirementError(text.into());
        let key = |part: &str| Some(part.trim()).filter(|k| is_label_key(k)).map(str::to_owned).ok_or_else(error);
        let value = |part: &str| Some(part.trim()).filter(|v| is_label_value(v)).map(str::to_owned).ok_or_else(error);
        let list = |part: &str| {
            let inner = part.trim().strip_prefix('(').and_then(|p| p.strip_suffix(')')).ok_or_else(error)?;
            inner.split(',').map(value).collect::<Result<Vec<_>, _>>()
        };
        if let Some((k, v)) = text.split_once("==") {
            return Ok(Requirement::Equal(key(k)?, value(v)?));
        }
        if let Some((k, v)) = text.split_once("!=") {
            return Ok(Requirement::NotEqual(key(k)?, value(v)?));
        }
        if let Some((k, v)) = text.split_once(" not in ") {
            return Ok(Requirement::NotIn(key(k)?, list(v)?));
        }
        if let Some((k, v)) = text.split_once(" in ") {
            return Ok(Requirement::In(key(k)?, list(v)?));
        }
        match text.trim().strip_prefix('!') {
            Some(k) => Ok(Requirement::Absent(key(k)?)),
            None => Ok(Requirement::Exists(key(text)?)),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Requirement::Equal(key, value) => write!(f, "{key} == {value}"),
            Requirement::NotEqual(key, value) => write!(f, "{key} != {value}"),
            Requirement::In(key, values) => write!(f, "{key} in ({})", values.join(", ")),
            Requirement::NotIn(key, values) => write!(f, "{key} not in ({})", values.join(", ")),
            Requirement::Exists(key) => f.write_str(key),
            Requirement::Absent(key) => write!(f, "!{key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_read_written_and_decided() {
        let labels = BTreeMap::from([("zone".to_owned(), "eu-1".to_owned())]);
        for (text, holds) in [
            ("zone == eu-1", true),
            ("zone == us-1", false),
            ("zone != us-1", true),
            ("disk != nvme", true),
            ("zone in (eu-1, eu-2)", true),
            ("disk in (nvme)", false),
            ("zone not in (us-1)", true),
            ("disk not in (nvme)", true),
            ("zone", true),
            ("disk", false),
            ("!disk", true),
            ("!zone", false),
        ] {
            let requirement: Requirement = text.parse().unwrap();
            assert_eq!(requirement.to_string(), text);
            assert_eq!(requirement.holds(&labels), holds, "{text}");
        }
        for bad in ["", "!", "a b", "zone in eu-1", "zone = eu-1", "zone == a b", "zone in (a", "== x"] {
            assert!(bad.parse::<Requirement>().is_err(), "{bad}");
        }
    }
}
