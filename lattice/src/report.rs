//! What a node observes of its own replicas: published as it changes, kept for a while by whoever listens, written
//! nowhere. It is for people, for metrics, and for how many replicas a workload has that scales itself: one that is lost or
//! late is not known, which is never taken for no load.
//!
//! A peer's report is read by [`NodeReport::decode`] only: fields that this version does not know are ignored, texts and
//! numbers of entries are cut to their bounds, control characters are gone.

mod answers;
mod crash;
mod load;

pub use answers::{AnswersReport, Slow};
pub use crash::{CRASH_LINE_BYTES_MAX, CRASH_LINES_MAX, CrashReport};
pub use load::LoadReport;

use crate::{
    id::{ComponentName, ConfigName, Digest, Generation, Incarnation, NodeId, SlotId, WorkloadName},
    limits::{COMPONENTS_MAX, REPORT_BYTES_MAX, one_line},
    record::DecodeError,
};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Longest text in a report, in bytes.
pub const REPORT_TEXT_BYTES_MAX: usize = 512;
/// Workloads that a report says are waited for.
pub const AWAITED_MAX: usize = 256;
/// Different names that one set of counts may have.
const COUNTS_MAX: usize = 32;
/// Names of configuration that one replica may have.
const CONFIGS_REPORTED_MAX: usize = 64;
/// Longest of these names.
const COUNT_NAME_BYTES_MAX: usize = 32;

/// How often something happened, by its name in kebab-case. Absent means never.
pub type Counts = BTreeMap<String, u64>;

/// The payload on `lattice.{L}.report.{N}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct NodeReport {
    pub node: NodeId,
    pub incarnation: Incarnation,
    #[serde(flatten)]
    pub host: HostReport,
    /// Workloads that scale themselves and that requests at this node wait for: no replica takes them. At most 256.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub awaited: BTreeSet<WorkloadName>,
    /// Replicas for which there was no room in this report.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
}

/// The last reports of all nodes, as one of them heard them.
pub trait Reports: Send + Sync + 'static {
    /// One that has not changed is the same allocation as before.
    fn latest(&self) -> Vec<Arc<NodeReport>>;
}

/// What the host of a node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct HostReport {
    #[serde(default)]
    pub usage: NodeUsage,
    /// Replicas that take requests there, and those that failed, by names such as `hello.0`.
    #[serde(default)]
    pub slots: BTreeMap<SlotId, SlotReport>,
}

/// What the replicas of a node use together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
pub struct NodeUsage {
    /// Linear memory of all instances now, in bytes.
    pub memory: u64,
    /// The most that it may be.
    pub memory_limit: u64,
    /// Instances alive now.
    pub instances: u64,
    /// The most that there may be.
    pub instances_limit: u64,
    /// Requests whose guest is at work now.
    pub in_flight: u64,
    /// Requests that wait for their turn now.
    pub waiting: u64,
    /// Components compiled since the node started.
    pub compiled: u64,
    /// Components whose code was found on disk.
    pub from_disk: u64,
}

/// What a node observed of one replica since it began to serve. Sums start again with each new generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct SlotReport {
    /// The life of the workload, as in the slot.
    pub uid: uuid::Uuid,
    pub generation: Generation,
    /// Calls, refused ones too.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub requests: u64,
    /// Calls refused before any guest code ran.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refused: u64,
    /// Calls that were repeated on a fresh instance.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: u64,
    /// Requests whose guest is at work now.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub in_flight: u64,
    /// Requests that wait for their turn now.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub waiting: u64,
    /// Only where the number of replicas follows from it. None from a node of an older version: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<LoadReport>,
    /// Only where the spec sets bounds that what is new must keep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<AnswersReport>,
    #[serde(default)]
    pub instances: InstancesReport,
    /// Linear memory of one instance, in bytes.
    #[serde(default)]
    pub memory: Peak,
    /// Processor time of one request, in milliseconds. Requests shorter than about 10 ms are not measured.
    #[serde(default)]
    pub cpu: Peak,
    /// Failed exchanges by kind: `trap`, `exit`, `memory`, `cpu`, `wall`, `no-response`, `refused`, `unfinished`,
    /// `request`, `part`, `warm-up`, `panic`, `neighbour`, `no-room`.
    #[serde(default, skip_serializing_if = "Counts::is_empty")]
    pub failures: Counts,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
    /// Limits that were reached: `memory`, `node-memory`, `instances`, `tables`, `handles`, `streams`, `cpu`, `wall`, `queue`,
    /// `body`, `log-lines`.
    #[serde(default, skip_serializing_if = "Counts::is_empty")]
    pub limits: Counts,
    /// Dropped instances by reason: `spent`, `idle`, `room`, `trap`, `memory`, `timeout`, `no-response`, `leak`,
    /// `cancelled`, `part`, `stopped`.
    #[serde(default, skip_serializing_if = "Counts::is_empty")]
    pub retired: Counts,
    /// Failures that were held against keeping instances.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub strikes: u64,
    /// Why instances are no longer kept, though the spec says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reuse_off: Option<ReuseOff>,
    /// Services, lazy and isolated components.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PartReport>,
    /// Set where it failed on this node since its generation began there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash: Option<CrashReport>,
    /// Versions of the configuration by name that it runs with.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub configs: BTreeMap<ConfigName, Generation>,
}

/// Instances of one replica.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
pub struct InstancesReport {
    pub live: u64,
    /// Of those alive, those that wait for a request.
    pub idle: u64,
    /// Made so far.
    pub created: u64,
}

/// The most that was seen, beside the most that may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
pub struct Peak {
    pub peak: u64,
    pub limit: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct LastFailure {
    /// As in `failures`.
    pub kind: String,
    /// One line. A guest may have chosen part of it.
    pub message: String,
    /// Milliseconds since 1970, by the node's clock. For people only.
    pub at: u64,
}

/// Reuse of instances was switched off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ReuseOff {
    /// What shows the failures: nothing else with this digest can do better.
    pub digest: Digest,
    pub reason: String,
    /// What to do.
    pub remedy: String,
    /// Milliseconds since 1970, by the node's clock. For people only.
    pub since: u64,
}

/// One part of a workload that has a life of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PartReport {
    pub name: ComponentName,
    pub role: ReportedRole,
    pub state: PartState,
    /// Instances alive now.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub instances: u64,
    /// Calls that reached it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub calls: u64,
    /// Calls that failed, or found its queue full.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u64,
    /// How often it was started again after it ended or failed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restarts: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReportedRole {
    /// Lives as long as the replica.
    Service,
    /// Made at its first call, dropped when idle.
    Lazy,
    /// Linked by the host, with a store of its own.
    Isolated,
    /// One that this version does not know.
    #[serde(other)]
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PartState {
    /// It is made now.
    Starting,
    /// It can be called, though a lazy one may have no instance.
    Ready,
    /// A service that ended and will be started again.
    Restarting,
    /// A service that ended so often that it is not started again.
    GivenUp,
    /// A service that ended as it should.
    Done,
    Stopped,
    /// One that this version does not know.
    #[serde(other)]
    Other,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl SlotReport {
    /// Nothing observed yet.
    pub fn new(uid: uuid::Uuid, generation: Generation) -> Self {
        Self {
            uid,
            generation,
            requests: 0,
            refused: 0,
            retries: 0,
            in_flight: 0,
            waiting: 0,
            load: None,
            answers: None,
            instances: InstancesReport::default(),
            memory: Peak::default(),
            cpu: Peak::default(),
            failures: Counts::new(),
            last_failure: None,
            limits: Counts::new(),
            retired: Counts::new(),
            strikes: 0,
            reuse_off: None,
            parts: Vec::new(),
            crash: None,
            configs: BTreeMap::new(),
        }
    }

    /// All failed exchanges.
    pub fn failed(&self) -> u64 {
        self.failures.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// What a person should look at, most urgent first, or what is decided by: zero is all well. Goes first where there is no
    /// room for all.
    fn urgency(&self) -> u8 {
        let gave_up = self.parts.iter().any(|part| part.state == PartState::GivenUp);
        let is_plain = self.failures.is_empty() && self.limits.is_empty() && self.load.is_none();
        match (gave_up || self.reuse_off.is_some() || self.crash.is_some(), is_plain) {
            (true, _) => 2,
            (false, false) => 1,
            (false, true) => 0,
        }
    }

    /// Within the bounds, whatever a peer sent.
    fn bound(&mut self) {
        for counts in [&mut self.failures, &mut self.limits, &mut self.retired] {
            counts.retain(|name, _| is_count_name(name));
            while counts.len() > COUNTS_MAX {
                counts.pop_last();
            }
        }
        if let Some(last) = &mut self.last_failure {
            last.kind = one_line(&last.kind, COUNT_NAME_BYTES_MAX);
            last.message = one_line(&last.message, REPORT_TEXT_BYTES_MAX);
        }
        if let Some(off) = &mut self.reuse_off {
            off.reason = one_line(&off.reason, REPORT_TEXT_BYTES_MAX);
            off.remedy = one_line(&off.remedy, REPORT_TEXT_BYTES_MAX);
        }
        self.crash.iter_mut().for_each(CrashReport::bound);
        while self.configs.len() > CONFIGS_REPORTED_MAX {
            self.configs.pop_last();
        }
        self.parts.truncate(COMPONENTS_MAX);
        for part in &mut self.parts {
            part.last_error = part.last_error.take().map(|error| one_line(&error, REPORT_TEXT_BYTES_MAX));
        }
    }
}

fn is_count_name(name: &str) -> bool {
    let is_allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (1..=COUNT_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_allowed)
}

impl NodeReport {
    pub fn new(node: NodeId, incarnation: Incarnation, host: HostReport) -> Self {
        Self { node, incarnation, host, awaited: BTreeSet::new(), left_out: 0 }
    }

    /// As JSON of at most `bytes_max` bytes, and never more than peers read. Replicas beyond that are left out: those with
    /// something to tell stay longest.
    pub fn encode(mut self, bytes_max: usize) -> Bytes {
        let bytes_max = bytes_max.min(REPORT_BYTES_MAX);
        let mut slots: Vec<(SlotId, SlotReport)> = std::mem::take(&mut self.host.slots).into_iter().collect();
        for (_, slot) in &mut slots {
            slot.bound();
        }
        slots.sort_by_key(|(_, slot)| std::cmp::Reverse(slot.urgency())); // stable: by name among equals
        let length = |value: &SlotReport| serde_json::to_vec(value).map_or(usize::MAX, |json| json.len());
        self.left_out = u64::MAX; // the longest that it can be
        let mut room = bytes_max.saturating_sub(serde_json::to_vec(&self).map_or(usize::MAX, |json| json.len()));
        let all = slots.len();
        for (id, slot) in slots {
            // A quoted key, a colon and a comma.
            let needs = length(&slot).saturating_add(id.to_string().len() + 4);
            if needs <= room {
                room -= needs;
                self.host.slots.insert(id, slot);
            }
        }
        self.left_out = (all - self.host.slots.len()) as u64;
        serde_json::to_vec(&self).unwrap_or_default().into()
    }

    /// What a peer sent, within our bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > REPORT_BYTES_MAX {
            let text = format!("{} bytes are more than the {REPORT_BYTES_MAX} of a report", bytes.len());
            return Err(DecodeError::Malformed(text));
        }
        let mut report: NodeReport =
            serde_json::from_slice(bytes).map_err(|error| DecodeError::Malformed(error.to_string()))?;
        for slot in report.host.slots.values_mut() {
            slot.bound();
        }
        while report.awaited.len() > AWAITED_MAX {
            report.awaited.pop_last();
        }
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn report(slots: u32) -> NodeReport {
        let slot = |index| {
            let mut slot = SlotReport::new(uuid::Uuid::nil(), Generation::FIRST);
            slot.requests = u64::from(index);
            (SlotId::new("hello".parse().unwrap(), index), slot)
        };
        let host = HostReport { usage: NodeUsage::default(), slots: (0..slots).map(slot).collect() };
        NodeReport::new(NodeId::new("n1").unwrap(), uuid::Uuid::nil(), host)
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let mut report = report(2);
        let slot = report.host.slots.values_mut().next().unwrap();
        slot.failures.insert("trap".into(), 3);
        slot.reuse_off = Some(ReuseOff {
            digest: Digest::of(b"x"),
            reason: "no answer".into(),
            remedy: "reuse: off".into(),
            since: 7,
        });
        slot.parts.push(PartReport {
            name: "pool".parse().unwrap(),
            role: ReportedRole::Service,
            state: PartState::GivenUp,
            instances: 1,
            calls: 2,
            failures: 0,
            restarts: 4,
            last_error: Some("refused".into()),
        });
        let lines = vec!["going down".to_owned()];
        slot.crash = Some(CrashReport { restarts: 2, error: "exited".into(), at: 8, lines });
        assert_eq!(NodeReport::decode(&report.clone().encode(REPORT_BYTES_MAX)).unwrap(), report);
    }

    #[test]
    fn there_is_a_bound_and_what_is_wrong_stays_longest() {
        let mut report = report(5000);
        let last = SlotId::new("hello".parse().unwrap(), 4999);
        report.host.slots.get_mut(&last).unwrap().limits.insert("memory".into(), 1);
        for bytes_max in [0, 700, 10_000, usize::MAX] {
            let json = report.clone().encode(bytes_max);
            assert!(json.len() <= bytes_max.clamp(400, REPORT_BYTES_MAX), "{} of {bytes_max}", json.len());
            let read = NodeReport::decode(&json).unwrap();
            assert_eq!(read.left_out + read.host.slots.len() as u64, 5000);
            assert_eq!(read.host.slots.contains_key(&last), bytes_max > 0);
        }
        assert!(NodeReport::decode(&vec![b' '; REPORT_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn a_newer_report_is_read_without_what_is_new() {
        let json = r#"{"node": "n1", "incarnation": "00000000-0000-0000-0000-000000000000", "shiny": {"a": 1},
            "usage": {"memory": 5, "glow": 2},
            "slots": {"hello.0": {"uid": "00000000-0000-0000-0000-000000000000", "generation": 1, "warp": 9,
              "limits": {"warp-cores": 2},
              "parts": [{"name": "a", "role": "oracle", "state": "dreaming", "restarts": 1, "mood": "good"}]}}}"#;
        let read = NodeReport::decode(json.as_bytes()).unwrap();
        assert_eq!(read.host.usage.memory, 5);
        let slot = read.host.slots.values().next().unwrap();
        assert_eq!(slot.limits.get("warp-cores"), Some(&2));
        assert_eq!(
            slot.parts.first().map(|part| (part.role, part.state)),
            Some((ReportedRole::Other, PartState::Other))
        );
    }

    #[test]
    fn a_hostile_report_is_cut_to_size() {
        let long = "\u{1b}[2J\n".repeat(1_000);
        let counts: Counts = (0..100).map(|n| (format!("k{n}"), 1)).chain([("\u{1b}[2J".into(), 1)]).collect();
        let mut report = report(1);
        let slot = report.host.slots.values_mut().next().unwrap();
        slot.failures = counts;
        slot.last_failure = Some(LastFailure { kind: long.clone(), message: long.clone(), at: u64::MAX });
        slot.reuse_off =
            Some(ReuseOff { digest: Digest::of(b"x"), reason: long.clone(), remedy: long.clone(), since: 0 });
        let part = PartReport {
            name: "pool".parse().unwrap(),
            role: ReportedRole::Lazy,
            state: PartState::Ready,
            instances: 1,
            calls: 2,
            failures: 0,
            restarts: 0,
            last_error: Some("\u{9b}x".into()),
        };
        slot.parts = vec![part; 1000];
        let lines = vec![long.get(..2_000).unwrap().to_owned(); 10];
        slot.crash = Some(CrashReport { restarts: 1, error: long.clone(), at: 0, lines });
        report.awaited = (0..1000).map(|n| format!("w{n}").parse().unwrap()).collect();
        // As a peer could send it, without our own bounds.
        let read = NodeReport::decode(&serde_json::to_vec(&report).unwrap()).unwrap();
        let slot = read.host.slots.values().next().unwrap();
        assert_eq!((slot.failures.len(), slot.parts.len()), (COUNTS_MAX, COMPONENTS_MAX));
        assert_eq!(read.awaited.len(), AWAITED_MAX);
        let (last, off) = (slot.last_failure.as_ref().unwrap(), slot.reuse_off.as_ref().unwrap());
        for text in [&last.message, &off.reason, &off.remedy, slot.parts[0].last_error.as_ref().unwrap()] {
            assert!(text.len() <= REPORT_TEXT_BYTES_MAX && !text.contains(char::is_control), "{text:?}");
        }
        let crash = slot.crash.as_ref().unwrap();
        assert!(crash.error.len() <= REPORT_TEXT_BYTES_MAX && crash.lines.len() == CRASH_LINES_MAX);
        assert!(crash.lines.iter().all(|line| line.len() <= CRASH_LINE_BYTES_MAX && !line.contains(char::is_control)));
        assert!(last.kind.len() <= COUNT_NAME_BYTES_MAX && !last.kind.contains(char::is_control));
        assert!(slot.failures.keys().all(|name| is_count_name(name)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = NodeReport::decode(&bytes);
        }
    }
}
