//! Events: something happened. CloudEvents 1.0 in structured JSON mode, on `lattice.{L}.evt.{kind}` and in the bounded
//! stream `lattice-{L}-events`.

use crate::{
    id::{LatticeId, NodeId},
    limits::{MESSAGE_BYTES_MAX, one_line},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;

/// What happened. The name is the subject's last token and the end of the CloudEvents `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    NodeJoined,
    NodeDraining,
    NodeLeft,
    /// An observer saw no sign of life and removed the session.
    NodeLost,
    /// An operator wants nothing new on a node, or wants it again.
    NodeCordoned,
    NodeUncordoned,
    /// What an operator wanted moved away from a node is gone from there.
    NodeDrained,
    /// An operator does not want it empty any more.
    NodeUndrained,
    /// Somebody asked for replicas to be moved to better places; and that is over, or was cancelled.
    RebalanceBegun,
    RebalanceEnded,
    WorkloadAdmitted,
    WorkloadDeleted,
    /// It is decided that a workload which scales itself has more or fewer replicas.
    WorkloadScaled,
    SlotClaimed,
    SlotReady,
    SlotFailed,
    /// A replica that was ready does not pass its readiness probe any more.
    SlotUnready,
    SlotReleased,
    /// A tick of a schedule was answered.
    ScheduleFired,
    /// A tick was answered with an error, or not at all.
    ScheduleFailed,
    /// Ticks that no node took in time, or whose node was lost.
    ScheduleMissed,
    /// More replicas may run what a changed spec asks for.
    RolloutProgressed,
    /// All of them do.
    RolloutDone,
    /// A new replica failed or is late, and people are to decide what follows.
    RolloutStalled,
    /// A change was given up, and the stable spec put back.
    RolloutAborted,
    /// Configuration by name was written.
    ConfigChanged,
    ConfigDeleted,
    /// A replica runs with other configuration than before, of the same generation.
    SlotReconfigured,
    /// There is another version of a secret.
    SecretChanged,
    SecretDeleted,
    /// A record that does not parse was found.
    RecordCorrupt,
    /// The store went back in time or was made anew.
    StoreRegressed,
    /// A guest that does not survive being used again gets a fresh instance for each request from now on.
    ReuseOff,
    /// A replica reached one of its limits.
    LimitHit,
    /// Instances of a replica ended in a trap.
    InstanceTrapped,
    /// A service failed so often that it was given up: its replica fails, and is started again as a whole.
    PartGaveUp,
}

impl EventKind {
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::NodeJoined => "node-joined",
            EventKind::NodeDraining => "node-draining",
            EventKind::NodeLeft => "node-left",
            EventKind::NodeLost => "node-lost",
            EventKind::NodeCordoned => "node-cordoned",
            EventKind::NodeUncordoned => "node-uncordoned",
            EventKind::NodeDrained => "node-drained",
            EventKind::NodeUndrained => "node-undrained",
            EventKind::RebalanceBegun => "rebalance-begun",
            EventKind::RebalanceEnded => "rebalance-ended",
            EventKind::WorkloadAdmitted => "workload-admitted",
            EventKind::WorkloadDeleted => "workload-deleted",
            EventKind::WorkloadScaled => "workload-scaled",
            EventKind::SlotClaimed => "slot-claimed",
            EventKind::SlotReady => "slot-ready",
            EventKind::SlotFailed => "slot-failed",
            EventKind::SlotUnready => "slot-unready",
            EventKind::SlotReleased => "slot-released",
            EventKind::ScheduleFired => "schedule-fired",
            EventKind::ScheduleFailed => "schedule-failed",
            EventKind::ScheduleMissed => "schedule-missed",
            EventKind::RolloutProgressed => "rollout-progressed",
            EventKind::RolloutDone => "rollout-done",
            EventKind::RolloutStalled => "rollout-stalled",
            EventKind::RolloutAborted => "rollout-aborted",
            EventKind::ConfigChanged => "config-changed",
            EventKind::ConfigDeleted => "config-deleted",
            EventKind::SecretChanged => "secret-changed",
            EventKind::SecretDeleted => "secret-deleted",
            EventKind::SlotReconfigured => "slot-reconfigured",
            EventKind::RecordCorrupt => "record-corrupt",
            EventKind::StoreRegressed => "store-regressed",
            EventKind::ReuseOff => "reuse-off",
            EventKind::LimitHit => "limit-hit",
            EventKind::InstanceTrapped => "instance-trapped",
            EventKind::PartGaveUp => "part-gave-up",
        }
    }
}

impl EventKind {
    /// The names of all kinds that this version knows, in alphabetical order.
    pub fn names() -> BTreeSet<String> {
        let schema = schemars::schema_for!(EventKind).to_value();
        let forms =
            || std::iter::once(&schema).chain(schema.get("oneOf").and_then(Value::as_array).into_iter().flatten());
        let listed = forms().filter_map(|form| form.get("enum")?.as_array()).flatten();
        let names = listed.chain(forms().filter_map(|form| form.get("const")));
        names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
    }
}

/// One event, before it gets its envelope.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub kind: EventKind,
    /// What it is about: a workload, a slot (`hello.0`), a node.
    pub about: String,
    /// One sentence for people.
    pub message: String,
    /// What to do, where something can be done.
    pub hint: Option<String>,
}

/// The envelope (CloudEvents 1.0 §3.1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CloudEvent {
    pub specversion: String,
    pub id: String,
    /// `/lattice/{L}/node/{N}`: who says so.
    pub source: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub subject: String,
    /// RFC 3339, by the clock of the source.
    pub time: String,
    pub datacontenttype: String,
    pub data: Value,
}

impl Event {
    pub fn new(kind: EventKind, about: impl ToString, message: impl Into<String>) -> Self {
        Self { kind, about: about.to_string(), message: message.into(), hint: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn into_cloud_event(self, lattice: &LatticeId, node: &NodeId, id: uuid::Uuid, unix_ms: u64) -> CloudEvent {
        CloudEvent {
            specversion: "1.0".into(),
            id: id.to_string(),
            source: format!("/lattice/{lattice}/node/{node}"),
            kind: format!("dev.lattice.{}", self.kind.as_str()),
            subject: self.about,
            time: rfc3339(unix_ms),
            datacontenttype: "application/json".into(),
            data: [("message", Some(&self.message)), ("hint", self.hint.as_ref())]
                .into_iter()
                .filter_map(|(name, text)| Some((name.to_owned(), one_line(text?, MESSAGE_BYTES_MAX).into())))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }
}

/// Milliseconds since 1970 as RFC 3339 in UTC, for people.
pub fn rfc3339(unix_ms: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(unix_ms);
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_known_by_its_name() {
        let names = EventKind::names();
        assert!(names.len() > 30, "{names:?}");
        for name in names {
            let kind: EventKind = serde_json::from_value(Value::from(name.as_str())).unwrap();
            assert_eq!(kind.as_str(), name);
        }
    }
}
