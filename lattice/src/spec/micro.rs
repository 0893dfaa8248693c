//! A workload as a micro service of NATS (ADR-32): what it is called, and which of its subscriptions are endpoints. What it answers is in
//! [`crate::micro`].

use super::{SpecError, WorkloadSpec};
use crate::limits::clip;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

const NAME_BYTES_MAX: usize = 64;
const DESCRIPTION_BYTES_MAX: usize = 1024;
const METADATA_MAX: usize = 16;
const METADATA_KEY_BYTES_MAX: usize = 64;
const METADATA_VALUE_BYTES_MAX: usize = 256;
/// Services whose names begin like this are the lattice's own: its nodes.
const RESERVED: &str = "lattice";

/// What tools such as `nats micro` are told of a workload. Each of its ready replicas is an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct MicroSpec {
    /// Name of the service: 1 to 64 of a-z, A-Z, 0-9, `-` and `_`. Other workloads may have the same one, and other programs. Default the
    /// workload's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<MicroName>,
    /// Its version, as semver has it: `1.2.0`.
    pub version: MicroVersion,
    /// A sentence for people, of at most 1,024 bytes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub description: String,
    /// What else is told of each instance, beside `lattice`, `workload` and `replica`. At most 16, of 64 and 256 bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub metadata: BTreeMap<String, String>,
}

/// What a micro service, or one of its endpoints, is called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("pattern" = "^[a-zA-Z0-9_-]{1,64}$"))]
pub struct MicroName(String);

impl TryFrom<String> for MicroName {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_good) {
            return Ok(Self(text));
        }
        let shown = clip(&text, NAME_BYTES_MAX);
        Err(format!(
            "{shown:?} is no name of a service or an endpoint: 1 to {NAME_BYTES_MAX} of a-z, A-Z, 0-9, '-' and '_'"
        ))
    }
}

/// A version as semver has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct MicroVersion(String);

impl TryFrom<String> for MicroVersion {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if text.len() <= NAME_BYTES_MAX && is_version(&text) {
            return Ok(Self(text));
        }
        let shown = clip(&text, NAME_BYTES_MAX);
        Err(format!("{shown:?} is no version, as 1.2.0 and 1.2.0-rc.1+build are"))
    }
}

/// `1.2.0`, `1.2.0-rc.1`, `1.2.0+build.7`
fn is_version(text: &str) -> bool {
    let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
    let (core, before) = text.split_once('-').map_or((text, None), |(core, before)| (core, Some(before)));
    let is_number = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) && (part == "0" || !part.starts_with('0'))
    };
    let is_word =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let is_before = |part: &str| is_word(part) && (is_number(part) || !part.bytes().all(|byte| byte.is_ascii_digit()));
    core.split('.').count() == 3
        && core.split('.').all(is_number)
        && before.is_none_or(|before| before.split('.').all(is_before))
        && build.is_none_or(|build| build.split('.').all(is_word))
}

macro_rules! text {
    ($name:ident) => {
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}
text!(MicroName);
text!(MicroVersion);

impl MicroName {
    /// Whether it is one of the lattice's own.
    pub(super) fn is_reserved(&self) -> bool {
        is_reserved(&self.0)
    }
}

fn is_reserved(name: &str) -> bool {
    name.get(..RESERVED.len()).is_some_and(|front| front.eq_ignore_ascii_case(RESERVED))
}

pub(super) fn check(spec: &WorkloadSpec) -> Result<(), SpecError> {
    let endpoint = spec.messages.iter().position(|message| message.endpoint.is_some());
    let Some(MicroSpec { name, version: _, description, metadata }) = &spec.micro else {
        let Some(index) = endpoint else { return Ok(()) };
        let text = "is an endpoint of a micro service, and the workload is none";
        return Err(
            SpecError::new(format!("messages[{index}].endpoint"), text.to_owned()).hint("add micro: {version: 1.0.0}")
        );
    };
    if endpoint.is_none() {
        return Err(SpecError::new("micro", "has no endpoint".to_owned())
            .hint("name one of the messages: messages: [{subject: \"tasks.*\", endpoint: tasks}]"));
    }
    let called = name.as_ref().map_or(spec.name.as_str(), MicroName::as_str);
    if is_reserved(called) {
        let text = format!("{called} is reserved: services whose names begin with {RESERVED} are nodes");
        return Err(SpecError::new("micro.name", text).hint("choose another name"));
    }
    if description.len() > DESCRIPTION_BYTES_MAX {
        let text = format!("{} bytes; at most {DESCRIPTION_BYTES_MAX} are allowed", description.len());
        return Err(SpecError::new("micro.description", text));
    }
    if metadata.len() > METADATA_MAX {
        let text = format!("{} entries; at most {METADATA_MAX} are allowed", metadata.len());
        return Err(SpecError::new("micro.metadata", text));
    }
    let is_long = |(key, value): &(&String, &String)| {
        !(1..=METADATA_KEY_BYTES_MAX).contains(&key.len()) || value.len() > METADATA_VALUE_BYTES_MAX
    };
    if let Some((key, _)) = metadata.iter().find(is_long) {
        let text = format!(
            "{:?} has not 1 to {METADATA_KEY_BYTES_MAX} bytes, or more than {METADATA_VALUE_BYTES_MAX} in its value",
            clip(key, METADATA_KEY_BYTES_MAX)
        );
        return Err(SpecError::new("micro.metadata", text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(more: &str) -> Result<WorkloadSpec, SpecError> {
        super::super::parse(format!("name: a\ncomponents: [{{name: c, source: 'file:c'}}]\n{more}").as_bytes())
    }

    const ENDPOINT: &str = "messages: [{subject: 'a.*', endpoint: all}]\n";

    #[test]
    fn versions_are_those_of_semver() {
        for good in ["0.0.0", "1.2.0", "10.20.30", "1.2.0-rc.1", "1.0.0-alpha", "1.0.0+b.01", "1.0.0-0a.x-y+z"] {
            assert!(MicroVersion::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in
            ["", "1", "1.2", "1.2.3.4", "01.2.0", "1.2.0-", "1.2.0-01", "1.2.0-a..b", "1.2.0+", "v1.2.0", "1.2.x"]
        {
            assert!(MicroVersion::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_service_has_endpoints_and_a_name_that_is_nobody_elses() {
        let spec = read(&format!("{ENDPOINT}micro: {{version: 1.2.0, metadata: {{team: shop}}}}\n")).unwrap();
        assert_eq!(spec.schema(), 9, "a node that does not know the field would take the record for corrupt");
        assert_eq!(super::super::parse(&serde_json::to_vec(&spec).unwrap()).unwrap(), spec);
        assert_eq!(read("messages: [{subject: 'a.*'}]\n").unwrap().schema(), 4);
        let long = "x".repeat(1025);
        for (more, field) in [
            (ENDPOINT.to_owned(), "messages[0].endpoint"),
            ("micro: {version: 1.0.0}\n".to_owned(), "micro"),
            ("messages: [{subject: 'a.*', endpoint: 'a b'}]\n".to_owned(), "messages[0].endpoint"),
            (format!("{ENDPOINT}micro: {{}}\n"), "micro"),
            (format!("{ENDPOINT}micro: {{version: '1'}}\n"), "micro.version"),
            (format!("{ENDPOINT}micro: {{version: 1.0.0, name: a.b}}\n"), "micro.name"),
            (format!("{ENDPOINT}micro: {{version: 1.0.0, name: lattice-ctl}}\n"), "micro.name"),
            (format!("{ENDPOINT}micro: {{version: 1.0.0, name: Lattice}}\n"), "micro.name"),
            (format!("{ENDPOINT}micro: {{version: 1.0.0, description: {long}}}\n"), "micro.description"),
            (format!("{ENDPOINT}micro: {{version: 1.0.0, metadata: {{'': x}}}}\n"), "micro.metadata"),
            (format!("{ENDPOINT}micro: {{version: 1.0.0, metadata: {{a: {long}}}}}\n"), "micro.metadata"),
        ] {
            assert_eq!(read(&more).unwrap_err().field, field, "{more}");
        }
    }
}
