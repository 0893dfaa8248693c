//! Functions that a node calls by itself, by the names that people write.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{borrow::Cow, fmt, str::FromStr};

const BYTES_MAX: usize = 256;

/// An exported function: `acme:shop/health#ready`, `acme:shop/health@1.2.0#ready`, or `ready` where it is in no interface.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionName(String);

impl FunctionName {
    /// The interface as it was written, and the function.
    fn parts(&self) -> (Option<&str>, &str) {
        match self.0.split_once('#') {
            Some((interface, name)) => (Some(interface), name),
            None => (None, &self.0),
        }
    }

    pub fn name(&self) -> &str {
        self.parts().1
    }

    /// The name of the interface among those that a component exports; nothing for a function that is in none. Where no
    /// version was written the last one by name counts. `Err`: it is not exported.
    pub fn interface<'e>(&self, exports: impl IntoIterator<Item = &'e str>) -> Result<Option<&'e str>, NotExported> {
        let Some(wanted) = self.parts().0 else { return Ok(None) };
        let fits = |export: &&str| {
            *export == wanted || export.split_once('@').is_some_and(|(interface, _)| interface == wanted)
        };
        exports.into_iter().filter(fits).max().map(Some).ok_or(NotExported)
    }
}

/// A component does not export the interface of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotExported;

impl FromStr for FunctionName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let is_name = |name: &str| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        let is_interface = |name: &str| {
            let allowed =
                |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b':' | b'/' | b'@' | b'.' | b'+');
            !name.is_empty() && name.bytes().all(allowed)
        };
        let fits = match text.split_once('#') {
            Some((interface, name)) => is_interface(interface) && is_name(name),
            None => is_name(text),
        };
        if fits && text.len() <= BYTES_MAX {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("{text:?} is no exported function: write one such as acme:shop/health#ready"))
        }
    }
}

impl fmt::Display for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for FunctionName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for FunctionName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for FunctionName {
    fn schema_name() -> Cow<'static, str> {
        "FunctionName".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^([a-zA-Z0-9_:/@.+-]+#)?[a-zA-Z0-9_-]+$",
            "maxLength": BYTES_MAX,
            "examples": ["acme:shop/health#ready"]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_of_functions_in_interfaces_or_in_none() {
        let exports = ["wasi:http/handler@0.3.0", "a:b/c@1.0.0", "a:b/c@1.2.0", "plain"];
        for (text, expect) in [
            ("ready", Ok(None)),
            ("a:b/c#ready", Ok(Some("a:b/c@1.2.0"))),
            ("a:b/c@1.0.0#ready", Ok(Some("a:b/c@1.0.0"))),
            ("a:b/c@1.1.0#ready", Err(NotExported)),
            ("plain#ready", Ok(Some("plain"))),
            ("a:b/d#ready", Err(NotExported)),
        ] {
            let name: FunctionName = text.parse().unwrap();
            assert_eq!((name.interface(exports), name.to_string().as_str()), (expect, text));
            assert_eq!(name.name(), "ready");
        }
        for bad in ["", "#", "a#", "#b", "a b#c", "a#b#c", "a:b/c", &"x".repeat(257), "ü"] {
            assert!(bad.parse::<FunctionName>().is_err(), "{bad}");
        }
    }
}
