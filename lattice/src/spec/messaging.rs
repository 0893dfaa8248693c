//! Subjects of core NATS in a spec: what they may look like, which of them are nobody's to have, and whether one covers
//! another. Pure, and the only place where subjects of guests are compared.
use super::{MicroName, SpecError, WorkloadSpec, is_default};
use crate::{
    id::{LatticeId, WorkloadName},
    limits::{GRANTS_MAX, MESSAGES_MAX, clip},
    subject::is_reply_subject,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, fmt, str::FromStr};

/// Longest subject of a guest, in bytes. With the rest of a protocol line it is well within the 4 KiB that servers read.
pub const SUBJECT_BYTES_MAX: usize = 1024;
/// First tokens of subjects that are the lattice's own, of this one and of others, or NATS's: replies to whom they are not for.
/// All that begin with `$` are among these.
const RESERVED: [&str; 3] = ["lattice", "_INBOX", "_R_"];

/// What a guest may send through `wasmcloud:messaging`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct MessagingGrants {
    /// Subjects on which it may publish and send requests: `orders.new`, `orders.*` (one token), `orders.>` (one or more).
    /// Subjects that begin with `$`, `_INBOX`, `_R_` or `lattice` are refused whatever is granted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub publish: Vec<SubjectPattern>,
}

impl MessagingGrants {
    pub fn is_empty(&self) -> bool {
        is_default(self)
    }

    /// Whether a message may be published there. Reserved subjects are none that a [`Subject`] can be.
    pub fn allow_publish(&self, subject: &Subject) -> bool {
        self.publish.iter().any(|granted| granted.matches(subject))
    }
}

pub(super) fn check(field: &str, grants: &MessagingGrants) -> Result<(), SpecError> {
    if grants.publish.len() > GRANTS_MAX {
        return Err(SpecError::new(format!("{field}.publish"), format!("at most {GRANTS_MAX} grants are allowed")));
    }
    Ok(())
}

/// Messages that a workload gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct MessageSpec {
    /// What it subscribes to: `tasks.new`, `tasks.*` (one token), `tasks.>` (one or more). No grant is needed. It begins
    /// with a word, and not with a reserved one: `$…`, `_INBOX`, `_R_`, `lattice`.
    pub subject: SubjectPattern,
    /// The queue group: of all who subscribe with the same one, one gets each message. Default `lattice-LATTICE-WORKLOAD`, so
    /// that each message goes to one replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<QueueGroup>,
    /// Messages that one replica is at, at a time; with 1 it takes one after the other. At most, and by default,
    /// `limits.concurrency`. As many as `limits.queue` wait, 16 MiB of them; more are dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub concurrency: Option<u32>,
    /// What it is called as an endpoint of the micro service that the workload is: 1 to 64 of a-z, A-Z, 0-9, `-` and `_`. Default: it is no
    /// endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<MicroName>,
}

impl MessageSpec {
    /// The name of the queue group.
    pub fn group_of(&self, lattice: &LatticeId, workload: &WorkloadName) -> String {
        match &self.group {
            Some(group) => group.0.clone(),
            None => format!("lattice-{lattice}-{workload}"),
        }
    }
}

/// A queue group of NATS.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = "^[a-zA-Z0-9_.-]{1,64}$"))]
pub struct QueueGroup(String);

impl TryFrom<String> for QueueGroup {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        match (1..=64).contains(&text.len()) && text.bytes().all(is_good) {
            true => Ok(Self(text)),
            false => {
                Err(format!("{:?} is not a queue group: 1 to 64 of a-z, A-Z, 0-9, '-', '_' and '.'", shown(&text)))
            }
        }
    }
}

pub(super) fn check_messages(spec: &WorkloadSpec) -> Result<(), SpecError> {
    let WorkloadSpec { messages, limits, .. } = spec;
    if messages.len() > MESSAGES_MAX {
        return Err(SpecError::new("messages", format!("at most {MESSAGES_MAX} subscriptions are allowed")));
    }
    for (i, message) in messages.iter().enumerate() {
        let field = |name: &str| format!("messages[{i}].{name}");
        let subject = &message.subject;
        if subject.begins_with_wildcard() {
            let text = format!("{subject} begins with a wildcard, and so takes in subjects that are reserved");
            return Err(SpecError::new(field("subject"), text).hint("begin with a word: tasks.> instead of >"));
        }
        let same = |other: &&MessageSpec| other.group == message.group && other.subject.overlaps(subject);
        if let Some(other) = messages.iter().take(i).find(same) {
            let text =
                format!("{subject} and {} have subjects in common, whose messages would come twice", other.subject);
            return Err(SpecError::new(field("subject"), text).hint("keep one of them, or give one another group"));
        }
        if message.concurrency.is_some_and(|concurrency| !(1..=limits.concurrency).contains(&concurrency)) {
            let text = format!("is not between 1 and limits.concurrency ({})", limits.concurrency);
            return Err(SpecError::new(field("concurrency"), text));
        }
    }
    let concurrency = spec.reuse.settings().map_or(1, |reuse| reuse.concurrency);
    if concurrency > 1 && !messages.is_empty() {
        let text = format!(
            "cannot be given to instances that have several requests at a time (reuse.concurrency: {concurrency}): a handler \
             of this interface holds up everything else in its instance"
        );
        return Err(SpecError::new("messages", text).hint("leave reuse.concurrency out"));
    }
    Ok(())
}

/// Whether an answer may go there, on behalf of a guest or of its node: an inbox, or a subject that guests can have. A client
/// that names another one would have a node publish where the client itself may not.
pub fn is_answerable(reply: &str) -> bool {
    is_reply_subject(reply) || reply.parse::<Subject>().is_ok()
}

/// A request over the published interface is a plain function, and an instance that waits in one does nothing else.
pub(super) fn check_concurrency(spec: &WorkloadSpec) -> Result<(), SpecError> {
    let concurrency = spec.reuse.settings().map_or(1, |reuse| reuse.concurrency);
    if concurrency <= 1 || spec.grants.messaging.is_empty() {
        return Ok(());
    }
    let message = format!(
        "cannot be given to instances that have several requests at a time (reuse.concurrency: {concurrency}): who waits for a \
         reply holds up everything else in its instance"
    );
    Err(SpecError::new("grants.messaging", message).hint(
        "leave reuse.concurrency out, or move what sends messages into a component of its own: {isolate: true, grants: \
         {messaging: …}}",
    ))
}

/// Why a text is no subject that guests can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    #[error(
        "{0:?} is not a subject: tokens without white space, with dots between them, 1 to {SUBJECT_BYTES_MAX} bytes"
    )]
    Malformed(String),
    #[error("{0:?} has a wildcard: a message is sent on one subject")]
    Wildcard(String),
    #[error("{0:?} is not a subject: `>` stands at the end alone")]
    TailWildcard(String),
    #[error("{0:?} is reserved: subjects that begin with `$`, _INBOX, _R_ or lattice are no guest's to have")]
    Reserved(String),
}

fn shown(text: &str) -> String {
    clip(text, 128).to_owned()
}

fn check_tokens(text: &str) -> Result<(), SubjectError> {
    let is_bad = |c: char| c.is_whitespace() || c.is_control();
    let fits = (1..=SUBJECT_BYTES_MAX).contains(&text.len());
    if !fits || text.contains(is_bad) || text.split('.').any(str::is_empty) {
        return Err(SubjectError::Malformed(shown(text)));
    }
    let first = text.split('.').next().unwrap_or_default();
    if first.starts_with('$') || RESERVED.contains(&first) {
        return Err(SubjectError::Reserved(shown(text)));
    }
    Ok(())
}

/// A subject that a message can have, and that is not reserved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject(String);

impl Subject {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Subject {
    type Err = SubjectError;
    fn from_str(text: &str) -> Result<Self, SubjectError> {
        check_tokens(text)?;
        if text.split('.').any(|token| matches!(token, "*" | ">")) {
            return Err(SubjectError::Wildcard(shown(text)));
        }
        Ok(Self(text.to_owned()))
    }
}

/// A subject, or a set of them: `*` stands for one token, `>` at the end for one or more. Such signs within a token are
/// themselves, as NATS has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubjectPattern(String);

impl SubjectPattern {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the subject is one of its set.
    pub fn matches(&self, subject: &Subject) -> bool {
        includes(&self.0, &subject.0)
    }

    /// Whether some subject is in both sets.
    pub fn overlaps(&self, other: &SubjectPattern) -> bool {
        let (mut one, mut other) = (self.0.split('.'), other.0.split('.'));
        loop {
            match (one.next(), other.next()) {
                (None, None) | (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
                (Some(one), Some(other)) if one == "*" || other == "*" || one == other => {}
                _ => return false,
            }
        }
    }

    /// Whether its first token is a wildcard, and so stands for reserved ones too.
    pub fn begins_with_wildcard(&self) -> bool {
        matches!(self.0.split('.').next(), Some("*" | ">"))
    }

    /// Whether all subjects of the other's set are in its own.
    pub fn covers(&self, other: &SubjectPattern) -> bool {
        includes(&self.0, &other.0)
    }
}

/// Token by token: exact, since there are always more tokens than those that two patterns name.
fn includes(pattern: &str, other: &str) -> bool {
    let (mut wanted, mut tokens) = (pattern.split('.'), other.split('.'));
    loop {
        match (wanted.next(), tokens.next()) {
            (None, None) | (Some(">"), Some(_)) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(wanted), Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
}

impl FromStr for SubjectPattern {
    type Err = SubjectError;
    fn from_str(text: &str) -> Result<Self, SubjectError> {
        check_tokens(text)?;
        let tokens = text.split('.').count();
        if text.split('.').take(tokens - 1).any(|token| token == ">") {
            return Err(SubjectError::TailWildcard(shown(text)));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for SubjectPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for SubjectPattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SubjectPattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for SubjectPattern {
    fn schema_name() -> Cow<'static, str> {
        "SubjectPattern".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[^\\s.]+(\\.[^\\s.]+)*$", "maxLength": 1024 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// By the definition: try out every way of letting each wildcard stand for something.
    fn naive(pattern: &[&str], subject: &[&str]) -> bool {
        match (pattern, subject) {
            ([], []) => true,
            ([">"], [_, ..]) => true,
            (["*", pattern @ ..], [_, subject @ ..]) => naive(pattern, subject),
            ([one, pattern @ ..], [other, subject @ ..]) => one == other && naive(pattern, subject),
            _ => false,
        }
    }

    fn split(text: &str) -> Vec<&str> {
        text.split('.').collect()
    }

    /// Every subject of up to four tokens over three words, one of which (`z`) no pattern here names.
    fn universe() -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        let mut last = vec![String::new()];
        for _ in 0..4 {
            last = last
                .iter()
                .flat_map(|front| {
                    ["a", "b", "z"].map(|word| if front.is_empty() { word.into() } else { format!("{front}.{word}") })
                })
                .collect();
            all.extend(last.iter().cloned());
        }
        all
    }

    fn pattern() -> impl Strategy<Value = SubjectPattern> {
        let token = proptest::sample::select(vec!["a", "b", "*"]);
        // One token fewer than the universe's longest subject, so that what `>` adds shows in it.
        (proptest::collection::vec(token, 1..=3), any::<bool>()).prop_map(|(mut tokens, tail)| {
            if tail {
                tokens.pop();
                tokens.push(">");
            }
            tokens.join(".").parse().unwrap()
        })
    }

    proptest! {
        #[test]
        fn matching_is_what_the_definition_says(pattern in pattern(), subject in "[abz](\\.[abz]){0,3}") {
            let parsed: Subject = subject.parse().unwrap();
            prop_assert_eq!(pattern.matches(&parsed), naive(&split(pattern.as_str()), &split(&subject)));
        }

        #[test]
        fn covering_is_that_all_subjects_of_one_are_in_the_other(one in pattern(), other in pattern()) {
            let is_in = |pattern: &SubjectPattern, subject: &str| naive(&split(pattern.as_str()), &split(subject));
            let universe = universe();
            let all = universe.iter().filter(|subject| is_in(&other, subject)).all(|subject| is_in(&one, subject));
            prop_assert_eq!(one.covers(&other), all, "{} {}", one, other);
            let any = universe.iter().any(|subject| is_in(&one, subject) && is_in(&other, subject));
            prop_assert_eq!(one.overlaps(&other), any, "{} {}", one, other);
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            if let Ok(subject) = text.parse::<Subject>() {
                // What is a subject is a pattern of itself alone.
                prop_assert!(text.parse::<SubjectPattern>().unwrap().matches(&subject));
                prop_assert!(!text.starts_with('$') && !text.contains(char::is_whitespace));
            }
        }
    }

    #[test]
    fn answers_go_to_inboxes_and_to_what_guests_can_have() {
        for good in ["_INBOX.a.b", "_R_.x.y", "replies.one"] {
            assert!(is_answerable(good), "{good}");
        }
        for bad in
            ["", "_INBOX.*", "$KV.lattice-default-state.slot.a.0", "$JS.ACK.x", "lattice.default.ctl.a", "a.*", "a b"]
        {
            assert!(!is_answerable(bad), "{bad}");
        }
    }

    #[test]
    fn subjects_and_patterns() {
        for good in ["a", "orders.new", "a*.b>", "Ä.b", "lattices.x", "x._INBOX.$SYS", &"x".repeat(SUBJECT_BYTES_MAX)]
        {
            assert_eq!(good.parse::<Subject>().unwrap().as_str(), good);
            assert!(good.parse::<SubjectPattern>().is_ok(), "{good}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "a\tb", "a\0", "a\r\nPUB x", &"x".repeat(SUBJECT_BYTES_MAX + 1)]
        {
            assert!(matches!(bad.parse::<Subject>(), Err(SubjectError::Malformed(_))), "{bad:?}");
            assert!(matches!(bad.parse::<SubjectPattern>(), Err(SubjectError::Malformed(_))), "{bad:?}");
        }
        for own in ["$SYS.a", "$JS.API.>", "$KV", "_INBOX.a", "_R_.b", "lattice.default.ctl.>", "lattice"] {
            assert!(matches!(own.parse::<Subject>(), Err(SubjectError::Reserved(_))), "{own}");
            assert!(matches!(own.parse::<SubjectPattern>(), Err(SubjectError::Reserved(_))), "{own}");
        }
        for wild in ["*", ">", "a.*", "a.>", "*.a"] {
            assert!(matches!(wild.parse::<Subject>(), Err(SubjectError::Wildcard(_))), "{wild}");
            assert!(wild.parse::<SubjectPattern>().is_ok(), "{wild}");
        }
        assert!(matches!(">.a".parse::<SubjectPattern>(), Err(SubjectError::TailWildcard(_))));
        let all: SubjectPattern = ">".parse().unwrap();
        assert!(all.matches(&"a.b".parse().unwrap()));
    }
}
