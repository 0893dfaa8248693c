//! Where a workload's replicas may be, and where they are better: the words of `placement`, and what nodes say of
//! themselves. How the rules are applied is decided in the planner.

use super::{SpecError, Toleration, is_default};
use crate::{
    id::{NodeId, WorkloadName},
    limits::{REQUIREMENTS_MAX, RULES_MAX},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// The label that every node has and nobody sets: its own id.
pub const LABEL_NODE: &str = "node";
/// Largest weight of a preference, and largest share of a spread.
const WEIGHT_MAX: u32 = 100;
/// Priorities are between minus this and this.
const PRIORITY_MAX: i32 = 1000;

/// Which nodes may run a workload, and which are better. `lattice explain` shows what came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Placement {
    /// Conditions on a node's labels that must all hold: `key == value`, `key != value`, `key in (a, b)`,
    /// `key not in (a, b)`, `key` (is set), `!key` (is not set), and on labels that are whole numbers `key > 8`, `<`, `>=`
    /// and `<=`. `arch` and `os` are always set. A replica whose node does not fulfil them any more moves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub require: Vec<Requirement>,
    /// Conditions that better nodes fulfil. Nodes are compared by the weights of those that they miss, before it matters
    /// how many replicas they have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub prefer: Vec<Preference>,
    /// Labels over whose values the replicas are spread, such as zones. Over nodes they are spread anyway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub spread: Vec<Spread>,
    /// Workloads whose replicas should be close.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub near: Vec<Relation>,
    /// Workloads whose replicas should not be close. Naming the workload itself keeps its own replicas apart. Those that
    /// are named keep away too where it is `hard`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub apart: Vec<Relation>,
    /// One replica on each node that fulfils the rest, however many there are; leave out `replicas`. Default `false`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub daemon: bool,
    /// The one node that may run it, by its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Workloads of a higher priority are placed first. One that finds no room displaces replicas of a lower priority, as
    /// few as it needs. -1000 to 1000, default 0.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(range(min = -1000, max = 1000))]
    pub priority: i32,
    /// Taints of nodes that do not keep it away: `key`, `key=value`, or `*` for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tolerate: Vec<Toleration>,
}

impl Placement {
    /// Whether it says nothing but what nodes of the first two schemas of a spec can read.
    pub(crate) fn is_plain(&self) -> bool {
        let Self { require, prefer, spread, near, apart, daemon, node, priority, tolerate } = self;
        require.iter().all(|requirement| !requirement.is_comparison())
            && prefer.is_empty()
            && spread.is_empty()
            && near.is_empty()
            && apart.is_empty()
            && !daemon
            && node.is_none()
            && *priority == 0
            && tolerate.is_empty()
    }
}

/// A condition that makes a node better.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Preference {
    /// A condition as in `require`.
    pub label: Requirement,
    /// How much it counts against the others. 1 to 100, default 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 100))]
    pub weight: u32,
}

/// How replicas are spread over the values of a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Spread {
    /// The label, such as `zone`; `node` is the node itself.
    pub over: String,
    /// How many replicas more than the value with the fewest a value may have; with `shares`, how many more than its share
    /// plus one less. At least 1, default 1.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    #[schemars(range(min = 1))]
    pub max_skew: u32,
    /// Rather no replica than one that is too many in its place. Default `false`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hard: bool,
    /// How the replicas are divided over the values, such as `{eu-1: 80, eu-2: 20}`: each 0 to 100, and others get none.
    /// Default: evenly.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(length(max = 64))]
    pub shares: BTreeMap<String, u32>,
}

/// Another workload, and what is meant by close.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Relation {
    pub workload: WorkloadName,
    /// Nodes with the same value of this label are close, such as `zone`. Default `node`: the same node.
    #[serde(default = "node", skip_serializing_if = "is_node")]
    pub over: String,
    /// Rather no replica than one that breaks this. Default `false`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hard: bool,
    /// Where it is not `hard`: how much it counts against preferences. 1 to 100, default 1.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    #[schemars(range(min = 1, max = 100))]
    pub weight: u32,
}

fn one() -> u32 {
    1
}
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_one(number: &u32) -> bool {
    *number == 1
}
fn node() -> String {
    LABEL_NODE.into()
}
fn is_node(label: &str) -> bool {
    label == LABEL_NODE
}

/// What the types cannot say.
pub(super) fn check(placement: &Placement, replicas: u32) -> Result<(), SpecError> {
    let bounded = [
        ("require", placement.require.len(), REQUIREMENTS_MAX),
        ("prefer", placement.prefer.len(), RULES_MAX),
        ("spread", placement.spread.len(), RULES_MAX),
        ("near", placement.near.len(), RULES_MAX),
        ("apart", placement.apart.len(), RULES_MAX),
        ("tolerate", placement.tolerate.len(), RULES_MAX),
    ];
    for (field, length, most) in bounded {
        if length > most {
            return Err(SpecError::new(format!("placement.{field}"), format!("at most {most} are allowed")));
        }
    }
    let weight = |field: String, weight: u32| match weight {
        1..=WEIGHT_MAX => Ok(()),
        _ => Err(SpecError::new(field, format!("{weight} is not between 1 and {WEIGHT_MAX}"))),
    };
    let key = |field: String, key: &str| match is_label_key(key) {
        true => Ok(()),
        false => Err(SpecError::new(field, format!("{key:?} is not a label's key")).hint("write it as in zone")),
    };
    for (i, preference) in placement.prefer.iter().enumerate() {
        weight(format!("placement.prefer[{i}].weight"), preference.weight)?;
    }
    for (i, spread) in placement.spread.iter().enumerate() {
        let field = |name: &str| format!("placement.spread[{i}].{name}");
        key(field("over"), &spread.over)?;
        if placement.spread.iter().take(i).any(|other| other.over == spread.over) {
            return Err(SpecError::new(field("over"), format!("{} is there twice", spread.over)));
        }
        if spread.max_skew == 0 {
            return Err(SpecError::new(field("max-skew"), "must be at least 1"));
        }
        if spread.shares.len() > 64 {
            return Err(SpecError::new(field("shares"), "at most 64 are allowed"));
        }
        if let Some((value, share)) = spread.shares.iter().find(|(_, share)| **share > WEIGHT_MAX) {
            return Err(SpecError::new(field("shares"), format!("{share} of {value} is more than {WEIGHT_MAX}")));
        }
        if !spread.shares.is_empty() && spread.shares.values().all(|share| *share == 0) {
            return Err(SpecError::new(field("shares"), "nobody has a share")
                .hint("give the values their shares, such as {eu-1: 80, eu-2: 20}"));
        }
    }
    for (name, relations) in [("near", &placement.near), ("apart", &placement.apart)] {
        for (i, relation) in relations.iter().enumerate() {
            key(format!("placement.{name}[{i}].over"), &relation.over)?;
            weight(format!("placement.{name}[{i}].weight"), relation.weight)?;
        }
    }
    if !(-PRIORITY_MAX..=PRIORITY_MAX).contains(&placement.priority) {
        let message = format!("{} is not between -{PRIORITY_MAX} and {PRIORITY_MAX}", placement.priority);
        return Err(SpecError::new("placement.priority", message));
    }
    if placement.daemon {
        let senseless = [
            ("spread", !placement.spread.is_empty()),
            ("near", !placement.near.is_empty()),
            ("apart", !placement.apart.is_empty()),
            ("prefer", !placement.prefer.is_empty()),
            ("node", placement.node.is_some()),
        ];
        if let Some((field, _)) = senseless.iter().find(|(_, is_there)| *is_there) {
            let message = "has no meaning where there is one replica on each node";
            return Err(SpecError::new(format!("placement.{field}"), message)
                .hint("say by placement.require which nodes are meant, or leave out placement.daemon"));
        }
        if replicas != 1 {
            return Err(SpecError::new("replicas", "follows from the nodes where placement.daemon is set")
                .hint("leave out replicas, or placement.daemon"));
        }
    }
    Ok(())
}

/// One condition on a node's labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Requirement {
    Equal(String, String),
    NotEqual(String, String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
    /// A label that is no whole number fulfils no comparison.
    Compare(String, Comparison, i64),
}

/// How a label that is a whole number compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Comparison {
    AtLeast,
    AtMost,
    Above,
    Below,
}

impl Comparison {
    /// The longer signs first: `>` is in `>=`.
    const ALL: [Comparison; 4] = [Comparison::AtLeast, Comparison::AtMost, Comparison::Above, Comparison::Below];

    fn sign(self) -> &'static str {
        match self {
            Comparison::AtLeast => ">=",
            Comparison::AtMost => "<=",
            Comparison::Above => ">",
            Comparison::Below => "<",
        }
    }

    fn holds(self, value: i64, bound: i64) -> bool {
        match self {
            Comparison::AtLeast => value >= bound,
            Comparison::AtMost => value <= bound,
            Comparison::Above => value > bound,
            Comparison::Below => value < bound,
        }
    }
}

/// Why a text is not a requirement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a requirement; write `key == value`, `key != value`, `key in (a, b)`, `key not in (a, b)`, `key`, `!key`, or \
     `key >= 8`"
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
            Requirement::Compare(key, comparison, bound) => {
                value(key).and_then(|value| value.parse().ok()).is_some_and(|value| comparison.holds(value, *bound))
            }
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
            | Requirement::Absent(key)
            | Requirement::Compare(key, ..) => key,
        }
    }

    fn is_comparison(&self) -> bool {
        matches!(self, Requirement::Compare(..))
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
        for comparison in Comparison::ALL {
            if let Some((k, v)) = text.split_once(comparison.sign()) {
                return Ok(Requirement::Compare(key(k)?, comparison, v.trim().parse().map_err(|_| error())?));
            }
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
            Requirement::Compare(key, comparison, bound) => write!(f, "{key} {} {bound}", comparison.sign()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_read_written_and_decided() {
        let labels = [("zone", "eu-1"), ("cores", "8"), ("rack", "-3")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
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
            ("cores > 7", true),
            ("cores > 8", false),
            ("cores >= 8", true),
            ("cores < 8", false),
            ("cores <= 8", true),
            ("rack < -2", true),
            ("zone > 1", false),
            ("disk < 1", false),
        ] {
            let requirement: Requirement = text.parse().unwrap();
            assert_eq!(requirement.to_string(), text);
            assert_eq!(requirement.holds(&labels), holds, "{text}");
        }
        for bad in
            ["", "!", "a b", "zone in eu-1", "zone = eu-1", "zone == a b", "zone in (a", "== x", "cores > many", "> 3"]
        {
            assert!(bad.parse::<Requirement>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_placement_is_named_by_its_field() {
        let parse = |placement: &str| {
            let text = format!("name: a\ncomponents: [{{name: a, source: 'file:a'}}]\nplacement: {placement}");
            crate::spec::parse(text.as_bytes())
        };
        let whole = "{require: [cores >= 8], prefer: [{label: disk == nvme, weight: 10}], \
                     spread: [{over: zone, hard: true, max-skew: 2}, {over: rack, shares: {a: 80, b: 20}}], \
                     near: [{workload: cache}], apart: [{workload: a, over: zone, hard: true}], \
                     priority: -5, tolerate: [gpu, 'a=b', '*']}";
        let spec = parse(whole).unwrap();
        assert_eq!(crate::spec::parse(&serde_json::to_vec(&spec).unwrap()).unwrap(), spec);
        assert_eq!(spec.placement.near[0].over, LABEL_NODE);
        for (placement, field, says) in [
            ("{require: [cores > x]}", "placement.require[0]", "not a requirement"),
            ("{prefer: [{label: a, weight: 0}]}", "placement.prefer[0].weight", "between 1 and 100"),
            ("{spread: [{over: 'a b'}]}", "placement.spread[0].over", "not a label's key"),
            ("{spread: [{over: zone}, {over: zone}]}", "placement.spread[1].over", "twice"),
            ("{spread: [{over: zone, max-skew: 0}]}", "placement.spread[0].max-skew", "at least 1"),
            ("{spread: [{over: zone, shares: {a: 101}}]}", "placement.spread[0].shares", "more than 100"),
            ("{spread: [{over: zone, shares: {a: 0}}]}", "placement.spread[0].shares", "nobody"),
            ("{near: [{workload: B}]}", "placement.near[0].workload", "only a-z"),
            ("{apart: [{workload: b, weight: 101}]}", "placement.apart[0].weight", "between"),
            ("{priority: 1001}", "placement.priority", "between"),
            ("{tolerate: ['=']}", "placement.tolerate[0]", "tolerates nothing"),
            ("{daemon: true, node: n1}", "placement.node", "no meaning"),
            ("{daemon: true}\nreplicas: 3", "replicas", "follows from the nodes"),
            ("{spreads: []}", "placement.spreads", "unknown field"),
        ] {
            let error = parse(placement).expect_err(placement);
            assert_eq!(error.field, field, "{error:?}");
            assert!(error.message.contains(says) && error.hint.is_some(), "{error:?} does not say {says:?}");
        }
        let many = vec!["a"; RULES_MAX + 1].join(", ");
        assert_eq!(parse(&format!("{{tolerate: [{many}]}}")).unwrap_err().field, "placement.tolerate");
    }
}
