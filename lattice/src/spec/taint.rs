//! What a node says to keep workloads away, and what a workload says to come all the same.

use super::{is_label_key, is_label_value};
use std::{fmt, str::FromStr};

/// A node's word against workloads that do not tolerate it: `key=value:no-place`, `key:no-run`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Taint {
    pub key: String,
    pub value: Option<String>,
    pub effect: Effect,
}

/// What a taint does to a workload that does not tolerate it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Nothing new comes; what is there stays.
    NoPlace,
    /// What is there leaves, too.
    NoRun,
}

impl Effect {
    fn as_str(self) -> &'static str {
        match self {
            Effect::NoPlace => "no-place",
            Effect::NoRun => "no-run",
        }
    }
}

/// Taints that do not keep a workload away.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Toleration {
    /// `*`
    All,
    /// `key`: whatever its value.
    Key(String),
    /// `key=value`
    Value(String, String),
}

impl Toleration {
    pub fn covers(&self, taint: &Taint) -> bool {
        match self {
            Toleration::All => true,
            Toleration::Key(key) => *key == taint.key,
            Toleration::Value(key, value) => *key == taint.key && Some(value) == taint.value.as_ref(),
        }
    }
}

/// `key` or `key=value`.
fn split(text: &str) -> Option<(&str, Option<&str>)> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key.trim(), Some(value.trim())),
        None => (text.trim(), None),
    };
    (is_label_key(key) && value.is_none_or(is_label_value)).then_some((key, value))
}

impl FromStr for Taint {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("{text:?} is not a taint; write key=value:no-place, or key:no-run");
        // A value may have colons itself.
        let (pair, effect) = text.rsplit_once(':').ok_or_else(error)?;
        let effect = [Effect::NoPlace, Effect::NoRun].into_iter().find(|known| known.as_str() == effect.trim());
        let (key, value) = split(pair).ok_or_else(error)?;
        Ok(Taint { key: key.to_owned(), value: value.map(str::to_owned), effect: effect.ok_or_else(error)? })
    }
}

impl fmt::Display for Taint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.as_ref().map(|value| format!("={value}")).unwrap_or_default();
        write!(f, "{}{value}:{}", self.key, self.effect.as_str())
    }
}

impl FromStr for Toleration {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "*" {
            return Ok(Toleration::All);
        }
        match split(text) {
            Some((key, None)) => Ok(Toleration::Key(key.to_owned())),
            Some((key, Some(value))) => Ok(Toleration::Value(key.to_owned(), value.to_owned())),
            None => Err(format!("{text:?} tolerates nothing; write the key of a taint, key=value, or *")),
        }
    }
}

impl fmt::Display for Toleration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Toleration::All => f.write_str("*"),
            Toleration::Key(key) => f.write_str(key),
            Toleration::Value(key, value) => write!(f, "{key}={value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_and_tolerations_are_read_written_and_compared() {
        for (taint, tolerated_by, not_by) in [
            ("gpu=a100:no-place", vec!["gpu", "gpu=a100", "*"], vec!["gpu=t4", "a100", "disk"]),
            ("old:no-run", vec!["old", "*"], vec!["old=yes"]),
            ("image=a:b:no-run", vec!["image=a:b"], vec!["image=a"]),
        ] {
            let parsed: Taint = taint.parse().unwrap();
            assert_eq!(parsed.to_string(), taint);
            for (texts, covers) in [(tolerated_by, true), (not_by, false)] {
                for text in texts {
                    let toleration: Toleration = text.parse().unwrap();
                    assert_eq!(
                        (toleration.to_string().as_str(), toleration.covers(&parsed)),
                        (text, covers),
                        "{taint}"
                    );
                }
            }
        }
        for bad in ["", "gpu", "gpu:maybe", "=x:no-run", "a b:no-run"] {
            assert!(bad.parse::<Taint>().is_err(), "{bad}");
        }
        for bad in ["", "=x", "a b"] {
            assert!(bad.parse::<Toleration>().is_err(), "{bad}");
        }
    }
}
