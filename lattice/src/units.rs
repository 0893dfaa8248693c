//! Durations and sizes as people write them: `150ms`, `30s`, `5m`, `1h`; `64KiB`, `128MiB`, `1GiB`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

/// Why a text is not a duration or a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}; write {example}")]
pub struct UnitError {
    text: String,
    what: &'static str,
    example: &'static str,
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at_checked(end)?;
    Some((digits.parse().ok()?, unit))
}

macro_rules! unit {
    ($name:ident, $what:literal, $example:literal, $pattern:literal, [$(($unit:literal, $factor:expr)),+ $(,)?]) => {
        impl FromStr for $name {
            type Err = UnitError;
            fn from_str(text: &str) -> Result<Self, UnitError> {
                let error = || UnitError { text: text.into(), what: $what, example: $example };
                let (number, unit) = split_number(text.trim()).ok_or_else(error)?;
                let factor: u64 = match unit {
                    $($unit => $factor,)+
                    _ => return Err(error()),
                };
                number.checked_mul(factor).map(Self).ok_or_else(error)
            }
        }
        impl fmt::Display for $name {
            /// The largest unit that divides the value, so that what is read back is what was written.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let units: &[(&str, u64)] = &[$(($unit, $factor)),+];
                let smallest = units.first().copied().unwrap_or(("", 1));
                let divides = |(_, factor): &&(&str, u64)| self.0 != 0 && self.0 % factor == 0;
                let (unit, factor) = units.iter().rev().find(divides).copied().unwrap_or(smallest);
                f.pad(&format!("{}{unit}", self.0 / factor))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": $pattern, "examples": [$example] })
            }
        }
    };
}

/// A duration in whole milliseconds, written `150ms`, `30s`, `5m` or `1h`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

unit!(
    Millis,
    "duration",
    "150ms, 30s, 5m or 1h",
    "^[0-9]+(ms|s|m|h)$",
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)]
);

impl Millis {
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs * 1_000)
    }
}

impl From<Millis> for Duration {
    fn from(millis: Millis) -> Self {
        Duration::from_millis(millis.0)
    }
}

/// A size in bytes, written `512B`, `64KiB`, `128MiB` or `2GiB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

unit!(
    Bytes,
    "size",
    "512B, 64KiB, 128MiB or 2GiB",
    "^[0-9]+(B|KiB|MiB|GiB)$",
    [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)]
);

impl Bytes {
    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read() {
        for (text, millis) in [("150ms", 150), ("30s", 30_000), ("5m", 300_000), ("1h", 3_600_000), ("0ms", 0)] {
            assert_eq!(text.parse::<Millis>().unwrap(), Millis(millis));
            assert_eq!(Millis(millis).to_string(), text);
        }
        for (text, bytes) in [("512B", 512), ("64KiB", 65_536), ("128MiB", 134_217_728), ("0B", 0)] {
            assert_eq!(text.parse::<Bytes>().unwrap(), Bytes(bytes));
            assert_eq!(Bytes(bytes).to_string(), text);
        }
        for bad in ["", "s", "1", "-1s", "1.5s", "1 s", "1d", "99999999999999999999s", "18446744073709551615h"] {
            assert!(bad.parse::<Millis>().is_err(), "{bad}");
        }
        for bad in ["1MB", "1", "1k", "MiB"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad}");
        }
    }
}
