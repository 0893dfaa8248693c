//! Streams of JetStream in a spec: which ones a workload's guests open through `lattice:nats`, and what they do with them.

use super::{
    SpecError, StoreName, Subject, SubjectPattern, is_default,
    stream_profile::{self, StreamNeeds, StreamProfile},
};
use crate::limits::{GRANTS_MAX, clip};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// A stream behind one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct StreamGrant {
    /// The JetStream stream, which must be there when the spec is put: `nats stream add ORDERS --subjects "orders.>"` makes one. None
    /// of the lattice's own, none behind a bucket or an object store, and none that takes in subjects that are reserved.
    pub stream: StreamName,
    /// Subjects of messages that it may have stored there: `orders.new`, `orders.*`, `orders.>`. Default none. Subscribers on these
    /// subjects get the messages as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub publish: Vec<SubjectPattern>,
    /// Subjects whose messages it may read there; `>` for all. One of these covers all that a filter can match. Default none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub read: Vec<SubjectPattern>,
    /// Durable consumers of it whose deliveries it may take, whatever their subjects: `nats consumer add ORDERS packers --pull` makes one.
    /// They must be there when the spec is put, pull-based and with explicit acknowledgement. Default none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub consumers: Vec<ConsumerName>,
    /// Subjects on which it may keep schedules, one on each, which store on subjects of `publish` later: `later.*`. What else is on such a
    /// subject is lost. The stream must allow them, for which it needs nats-server 2.12. Default none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub schedule: Vec<SubjectPattern>,
    /// How it behaves with it: the worlds of `wit/nats` by these names say what each one promises. Operations that none of them has are
    /// refused when the spec is put, where the component imports them, and denied when they are called; so is a message without a
    /// precondition, of `event-store`. A stream that cannot keep the promise of one of them is refused as well. Default: every operation.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub profiles: BTreeSet<StreamProfile>,
    /// What the stream must be like when the spec is put.
    #[serde(default, skip_serializing_if = "is_default")]
    pub require: StreamNeeds,
}

impl StreamGrant {
    pub fn allow_publish(&self, subject: &Subject) -> bool {
        self.publish.iter().any(|granted| granted.matches(subject))
    }

    /// Whether there may be a schedule on this subject.
    pub fn allow_schedule(&self, subject: &Subject) -> bool {
        self.schedule.iter().any(|granted| granted.matches(subject))
    }

    /// Whether everything may be read that the filter matches.
    pub fn allow_read(&self, filter: &SubjectPattern) -> bool {
        self.read.iter().any(|granted| granted.covers(filter))
    }

    /// Whether a message on this subject may be read. On what is no subject of a guest's, never.
    pub fn allow_read_of(&self, subject: &str) -> bool {
        subject.parse().is_ok_and(|subject| self.read.iter().any(|granted| granted.matches(&subject)))
    }

    /// The name of a consumer whose deliveries it may take.
    pub fn consumer(&self, name: &str) -> Option<&ConsumerName> {
        self.consumers.iter().find(|granted| granted.0 == name)
    }

    /// Whether it may learn what the last sequence is on what the filter matches: a precondition tells.
    pub fn allow_expectation(&self, filter: &SubjectPattern) -> bool {
        self.allow_read(filter) || self.publish.iter().any(|granted| granted.covers(filter))
    }
}

/// Streams, by the names that guests open them by.
pub type StreamGrants = BTreeMap<StoreName, StreamGrant>;

pub(super) fn check(field: &str, grants: &StreamGrants) -> Result<(), SpecError> {
    let too_many = |field: String| Err(SpecError::new(field, format!("at most {GRANTS_MAX} grants are allowed")));
    if grants.len() > GRANTS_MAX {
        return too_many(field.to_owned());
    }
    for (name, grant) in grants {
        let counts = [
            ("publish", grant.publish.len()),
            ("read", grant.read.len()),
            ("consumers", grant.consumers.len()),
            ("schedule", grant.schedule.len()),
        ];
        for (of, count) in counts {
            if count > GRANTS_MAX {
                return too_many(format!("{field}.{name}.{of}"));
            }
        }
        stream_profile::check(&format!("{field}.{name}"), grant)?;
    }
    Ok(())
}

const NAME_BYTES_MAX: usize = 128;
/// Streams with names like this are the lattice's own.
const RESERVED: &str = "lattice";
/// Streams behind buckets and object stores, which have grants of their own.
const OF_OTHERS: [&str; 2] = ["KV_", "OBJ_"];

fn check_name(what: &str, text: &str) -> Result<(), String> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_good) {
        return Ok(());
    }
    let shown = clip(text, NAME_BYTES_MAX);
    Err(format!("{shown:?} is not a {what}: 1 to {NAME_BYTES_MAX} of a-z, A-Z, 0-9, '-' and '_'"))
}

/// A durable consumer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("pattern" = "^[a-zA-Z0-9_-]{1,128}$"))]
pub struct ConsumerName(String);

impl TryFrom<String> for ConsumerName {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        check_name("consumer", &text)?;
        Ok(Self(text))
    }
}

/// A stream that guests may be given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("pattern" = "^[a-zA-Z0-9_-]{1,128}$"))]
pub struct StreamName(String);

impl TryFrom<String> for StreamName {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        check_name("stream", &text)?;
        if text.get(..RESERVED.len()).is_some_and(|front| front.eq_ignore_ascii_case(RESERVED)) {
            return Err(format!(
                "{text:?} is no guest's to have: streams whose names begin with {RESERVED} are reserved"
            ));
        }
        if let Some(front) = OF_OTHERS.into_iter().find(|front| text.starts_with(front)) {
            return Err(format!("{text:?} is no guest's to have: {front} begins what has a grant of its own"));
        }
        Ok(Self(text))
    }
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
text!(StreamName);
text!(ConsumerName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_others_are_nobodys_to_have() {
        for good in ["ORDERS", "a", "x-1_Y", "kv_notes", &"s".repeat(NAME_BYTES_MAX)] {
            assert_eq!(StreamName::try_from(good.to_owned()).unwrap().as_str(), good);
        }
        for bad in ["", "a.b", "a b", "*", ">", "ü", "a/b", "$MQTT_sess", &"s".repeat(NAME_BYTES_MAX + 1)] {
            assert!(StreamName::try_from(bad.to_owned()).unwrap_err().contains("not a stream"), "{bad}");
            assert!(ConsumerName::try_from(bad.to_owned()).unwrap_err().contains("not a consumer"), "{bad}");
        }
        for own in ["KV_carts", "OBJ_x", "lattice-default-events", "LATTICE"] {
            assert!(StreamName::try_from(own.to_owned()).unwrap_err().contains("no guest's"), "{own}");
        }
    }

    #[test]
    fn what_is_read_must_be_covered_whole() {
        let grant = |publish: &[&str], read: &[&str]| {
            let patterns = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
            StreamGrant {
                stream: "S".to_owned().try_into().unwrap(),
                publish: patterns(publish),
                read: patterns(read),
                consumers: vec![],
                schedule: vec![],
                profiles: BTreeSet::new(),
                require: StreamNeeds::default(),
            }
        };
        for (read, filter, expect) in [
            (&["a.*"][..], "a.*", true),
            (&["a.*"], "a.>", false),
            (&["a.b", "a.c"], "a.*", false),
            (&[">"], ">", true),
            (&["a.>"], ">", false),
            (&["a.>"], "*.b", false),
            (&[], "a", false),
        ] {
            assert_eq!(grant(&[], read).allow_read(&filter.parse().unwrap()), expect, "{read:?} {filter}");
        }
        let all = grant(&["a.*"], &[">"]);
        for (subject, expect) in [("a.b", true), ("$KV.b.k", false), ("lattice.x", false), ("_INBOX.x", false)] {
            assert_eq!(all.allow_read_of(subject), expect, "{subject}");
        }
        let writes = grant(&["a.*"], &["b.>"]);
        for (filter, expect) in [("a.*", true), ("b.c", true), ("a.>", false), ("c", false)] {
            assert_eq!(writes.allow_expectation(&filter.parse().unwrap()), expect, "{filter}");
        }
    }
}
