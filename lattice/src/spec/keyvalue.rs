//! Which KV buckets a workload's guests open through `wasi:keyvalue`, and under which names.

use super::is_default;
use crate::limits::clip;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, fmt, str::FromStr};

/// A bucket behind one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct KeyvalueGrant {
    /// The JetStream KV bucket, which must be there when the spec is put: `nats kv add shop-kv` makes one. Not one of the
    /// lattice's own.
    pub bucket: BucketName,
    /// `read-only`: what changes something is denied. Default `read-write`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub access: Access,
}

/// What a guest may do with a bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    #[default]
    ReadWrite,
    ReadOnly,
}

/// Buckets with names like this are the lattice's own, of this one and of others.
const RESERVED: &str = "lattice-";
const NAME_BYTES_MAX: usize = 64;

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("{0:?} is not a bucket: 1 to {NAME_BYTES_MAX} of a-z, A-Z, 0-9, '-' and '_'")]
    Bucket(String),
    #[error("{0:?} is the lattice's own: no guest can be given a bucket whose name begins with {RESERVED:?}")]
    Reserved(String),
    #[error("{0:?} is not a name that guests open: 1 to {NAME_BYTES_MAX} of a-z, A-Z, 0-9, '-', '_' and '.'")]
    Store(String),
}

fn is_name(text: &str, more: &[u8]) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || more.contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_good)
}

/// A JetStream KV bucket that guests may be given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketName(String);

impl FromStr for BucketName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        if !is_name(text, b"-_") {
            return Err(NameError::Bucket(clip(text, 128).to_owned()));
        }
        if text.get(..RESERVED.len()).is_some_and(|front| front.eq_ignore_ascii_case(RESERVED)) {
            return Err(NameError::Reserved(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

/// The name by which a guest opens a store: `default`, where an interface leaves it open.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreName(String);

impl FromStr for StoreName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        if is_name(text, b"-_.") {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Store(clip(text, 128).to_owned()))
        }
    }
}

macro_rules! text {
    ($name:ident, $pattern:literal) => {
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
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
                schemars::json_schema!({ "type": "string", "pattern": $pattern })
            }
        }
    };
}
text!(BucketName, "^[a-zA-Z0-9_-]{1,64}$");
text!(StoreName, "^[a-zA-Z0-9_.-]{1,64}$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "shop-kv", "Shop_1", &"x".repeat(64)] {
            assert_eq!(good.parse::<BucketName>().unwrap().as_str(), good);
        }
        for bad in ["", "a.b", "a b", "a>", "ü", "*", &"x".repeat(65)] {
            assert!(matches!(bad.parse::<BucketName>(), Err(NameError::Bucket(_))), "{bad}");
        }
        for own in ["lattice-default-state", "lattice-", "LATTICE-x"] {
            assert!(matches!(own.parse::<BucketName>(), Err(NameError::Reserved(_))), "{own}");
        }
        assert!("lattices".parse::<BucketName>().is_ok());
        assert!("default".parse::<StoreName>().is_ok());
        assert!("".parse::<StoreName>().is_err());
    }
}
