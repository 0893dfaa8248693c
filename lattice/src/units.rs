//! Durations, sizes and processors as people write them: `150ms`, `30s`, `5m`, `1h`; `64KiB`, `128MiB`, `1GiB`; `2`, `0.5`,
//! `500m`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

/// Why a text is not a duration, a size or a number of processors.
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

/// Processors in thousandths, written `2`, `0.5` or `500m`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millicores(pub u64);

impl Millicores {
    pub const fn cores(cores: u64) -> Self {
        Self(cores.saturating_mul(1_000))
    }
}

impl FromStr for Millicores {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
        let read = |text: &str| match (text.strip_suffix('m'), text.split_once('.')) {
            (Some(thousandths), _) => digits(thousandths),
            (None, None) => digits(text)?.checked_mul(1_000),
            (None, Some((whole, part))) if (1..=3).contains(&part.len()) => {
                let part = digits(&format!("{part:0<3}"))?;
                digits(whole)?.checked_mul(1_000)?.checked_add(part)
            }
            (None, Some(_)) => None,
        };
        let error = || UnitError {
            text: text.into(),
            what: "number of processors",
            example: "2, 0.5 or 500m, in thousandths at the finest",
        };
        read(text.trim()).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for Millicores {
    /// In processors, as short as it is exact.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 1_000, self.0 % 1_000);
        let text = if part == 0 { whole.to_string() } else { format!("{whole}.{part:03}") };
        f.pad(if part == 0 { &text } else { text.trim_end_matches('0') })
    }
}

impl fmt::Debug for Millicores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Millicores {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Millicores {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Millicores;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of processors such as 2, 0.5 or 500m")
            }
            fn visit_u64<E: serde::de::Error>(self, cores: u64) -> Result<Millicores, E> {
                self.visit_str(&cores.to_string())
            }
            fn visit_f64<E: serde::de::Error>(self, cores: f64) -> Result<Millicores, E> {
                // The shortest text that is read as this number is what was written.
                self.visit_str(&cores.to_string())
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Millicores, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Millicores {
    fn schema_name() -> Cow<'static, str> {
        "Millicores".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [
                { "type": "number", "minimum": 0 },
                { "type": "string", "pattern": "^([0-9]+(\\.[0-9]{1,3})?|[0-9]+m)$", "examples": ["500m"] },
            ],
        })
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

    #[test]
    fn processors_are_read_as_text_and_as_numbers() {
        for (text, millicores, told) in [
            ("2", 2_000, "2"),
            ("0.5", 500, "0.5"),
            ("500m", 500, "0.5"),
            ("1500m", 1_500, "1.5"),
            ("1.05", 1_050, "1.05"),
            ("0.001", 1, "0.001"),
            ("10", 10_000, "10"),
            ("0", 0, "0"),
        ] {
            assert_eq!(text.parse::<Millicores>().unwrap(), Millicores(millicores), "{text}");
            assert_eq!(Millicores(millicores).to_string(), told);
            assert_eq!(told.parse::<Millicores>().unwrap(), Millicores(millicores));
            for json in [format!("{text:?}"), text.trim_end_matches('m').to_owned()] {
                let thousandths = text.ends_with('m') && !json.starts_with('"');
                let read: Millicores = serde_json::from_str(&json).unwrap();
                assert_eq!(read, Millicores(if thousandths { millicores * 1_000 } else { millicores }), "{json}");
            }
        }
        assert_eq!(serde_json::to_string(&Millicores(500)).unwrap(), r#""0.5""#);
        for bad in ["", "m", ".", ".5", "1.", "0.0005", "-1", "+1", "1e3", "1.5m", "half", "99999999999999999999"] {
            assert!(bad.parse::<Millicores>().is_err(), "{bad}");
        }
        for bad in ["-1", "0.0005", "1e300", "true", "null", "18446744073709551615"] {
            assert!(serde_json::from_str::<Millicores>(bad).is_err(), "{bad}");
        }
    }
}
