//! `compose.wac`: a script in the language of the tool `wac`, or the file that it is in. What is in it, the composer reads.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, fmt, str::FromStr};

/// A `.wac` script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Script {
    /// A file beside the spec. Only the CLI understands it: it reads the file and puts its text here.
    File(String),
    /// The script itself. None begins with `file:`.
    Text(String),
}

impl FromStr for Script {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("file:") {
            Some("") => Err("`file:` needs a path behind it, such as file:./shop.wac".into()),
            Some(path) => Ok(Script::File(path.into())),
            None if text.trim().is_empty() => Err("the script is empty".into()),
            None => Ok(Script::Text(text.into())),
        }
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Script::File(path) => write!(f, "file:{path}"),
            Script::Text(text) => f.write_str(text),
        }
    }
}

impl Serialize for Script {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Script {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Script {
    fn schema_name() -> Cow<'static, str> {
        "Script".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "minLength": 1, "examples": ["file:./shop.wac"] })
    }
}
