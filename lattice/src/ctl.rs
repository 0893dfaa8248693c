//! Messages of the control interface. Every reply is `{"ok": …}` or `{"error": {code, message, field?, hint?}}`; errors
//! also carry the micro service headers (ADR-32).

mod autoscale;
mod composed;
mod conditions;
mod config;
mod maintenance;
mod pages;
mod placement;
mod rebalance;
mod rollout;
mod routes;
mod secret;

pub use autoscale::{AutoscaleStatus, LastScaling};
pub use composed::{Composed, ComposedEdge};
pub use conditions::{Condition, ConditionKind, Reason, Standing, conditions};
pub use config::{ConfigDeleteReply, ConfigDeleteRequest, ConfigItem, ConfigList, ConfigPutRequest, ConfigReply};
pub use maintenance::{CordonReply, DrainReply, DrainRequest, DrainStatus, LeavingSlot};
pub use pages::{HistoryRequest, NodeListRequest, StatusRequest, WorkloadListRequest};
pub use placement::{ExplainReply, ExplainRequest, NodeGpu, NodeScore, NodeStanding};
pub use rebalance::{PlannedMove, RebalanceReply, RebalanceRequest, RebalanceState, RebalanceStatus};
pub use rollout::{GenerationState, RolloutAction, RolloutReply, RolloutRequest, RolloutStatus};
pub use routes::{RouteItem, RouteList, RouteShare};
pub use secret::{SecretDeleteReply, SecretDeleteRequest, SecretItem, SecretList};

use crate::{
    event::CloudEvent,
    gpu::GpuGrant,
    id::{ConfigName, Digest, Generation, NodeId, Revision, WorkloadName},
    record::{Aborted, Outcome, Phase, Session},
    report::{NodeReport, NodeUsage, SlotReport},
    spec::{ScheduleSpec, SpecError, WorkloadSpec},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Request header of `workload.put`, `.scale`, `.delete`, `.rollback`: go on only if the spec is still at this revision;
/// `0` means that there must be none.
pub const HEADER_EXPECTED_REVISION: &str = "Lattice-Expected-Revision";
/// Request header of `workload.put`: `true` answers with the plan and changes nothing.
pub const HEADER_DRY_RUN: &str = "Lattice-Dry-Run";
/// Reply header of `workload.list`, `.history` and `node.list`: how many items more there are than fit the message. Absent
/// where there are none. The next request names the last one that came.
pub const HEADER_OMITTED: &str = "Lattice-Omitted";
/// Headers of an error reply (ADR-32).
pub const HEADER_ERROR: &str = "Nats-Service-Error";
pub const HEADER_ERROR_CODE: &str = "Nats-Service-Error-Code";

/// Why a request was refused, as a program should decide on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The request itself is wrong: change it.
    Invalid,
    /// No such workload, node or revision.
    NotFound,
    /// Somebody else changed it first, or another workload holds the route.
    Conflict,
    /// The component can't run here: not a component, an import that no node offers, too large.
    BadComponent,
    /// The request lacks a reply subject that may be answered, or looks forged.
    Refused,
    /// No such operation.
    UnknownOperation,
    /// The store did not answer: try again; a put is idempotent.
    Unavailable,
}

impl ErrorCode {
    pub const ALL: [ErrorCode; 7] = [
        ErrorCode::Invalid,
        ErrorCode::NotFound,
        ErrorCode::Conflict,
        ErrorCode::BadComponent,
        ErrorCode::Refused,
        ErrorCode::UnknownOperation,
        ErrorCode::Unavailable,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::Invalid => "invalid",
            ErrorCode::NotFound => "not-found",
            ErrorCode::Conflict => "conflict",
            ErrorCode::BadComponent => "bad-component",
            ErrorCode::Refused => "refused",
            ErrorCode::UnknownOperation => "unknown-operation",
            ErrorCode::Unavailable => "unavailable",
        }
    }

    /// The number in the micro service header, after HTTP's.
    pub fn status(self) -> u16 {
        match self {
            ErrorCode::Invalid => 400,
            ErrorCode::Refused => 403,
            ErrorCode::NotFound => 404,
            ErrorCode::UnknownOperation => 405,
            ErrorCode::Conflict => 409,
            ErrorCode::BadComponent => 422,
            ErrorCode::Unavailable => 503,
        }
    }
}

/// An error as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{}{message}", field.as_deref().map(|f| format!("{f}: ")).unwrap_or_default())]
pub struct CtlError {
    pub code: ErrorCode,
    /// What is wrong, in one sentence, without the field.
    pub message: String,
    /// The path of the field that is wrong, such as `components[0].source`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl CtlError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), field: None, hint: None }
    }
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<SpecError> for CtlError {
    fn from(error: SpecError) -> Self {
        let SpecError { field, message, hint } = error;
        Self { code: ErrorCode::Invalid, message, field: Some(field).filter(|f| !f.is_empty()), hint }
    }
}

/// The envelope of every reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reply<T> {
    Ok(T),
    Error(CtlError),
}

impl<T> From<Result<T, CtlError>> for Reply<T> {
    fn from(result: Result<T, CtlError>) -> Self {
        match result {
            Ok(value) => Reply::Ok(value),
            Err(error) => Reply::Error(error),
        }
    }
}

impl<T> From<Reply<T>> for Result<T, CtlError> {
    fn from(reply: Reply<T>) -> Self {
        match reply {
            Reply::Ok(value) => Ok(value),
            Reply::Error(error) => Err(error),
        }
    }
}

/// Reply of `workload.put`, `.scale` and `.rollback`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PutReply {
    pub workload: WorkloadName,
    pub generation: Generation,
    pub revision: Revision,
    pub hash: Digest,
    /// False where the spec was the one in force already: nothing was written.
    pub changed: bool,
    /// With a dry run only: where each replica would run. Where not all fit the message, those without a node come before
    /// others, and then those that start anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Vec<PlannedSlot>>,
    /// How many more replicas there are than fit the message.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub plan_omitted: u32,
    /// Of `workload.put` only, where the workload has several components: what they were composed into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub composition: Option<Composed>,
    /// Of `workload.put` only: what is no error, and not as one may expect: it has no effect as things are and may come right
    /// later, or it is slow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<PutWarning>,
}

/// A field of a spec that has no effect as things are, or a slow one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PutWarning {
    pub field: String,
    pub message: String,
}

/// Where a replica would run, or why it would not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PlannedSlot {
    pub replica: u32,
    pub node: Option<NodeId>,
    /// True where it runs there already.
    pub stays: bool,
    /// For a replica without a node: what each node lacks. At most 32 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Refusal>,
    /// How many more nodes there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refused_omitted: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// Why a node can't take a replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Refusal {
    pub node: NodeId,
    pub reason: String,
    /// The rule that refuses, such as `require` or `memory`. Empty from a node of an older version.
    #[serde(default)]
    pub rule: String,
}

/// Reply of `workload.get`, and an item of `workload.history`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct SpecReply {
    pub spec: WorkloadSpec,
    pub generation: Generation,
    pub revision: Revision,
    pub hash: Digest,
    /// RFC 3339.
    pub admitted_at: String,
    /// In a history only: what it is to the workload now. Absent from a node of an older version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<GenerationState>,
    /// The generation that it was put back for, where that was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aborted: Option<Aborted>,
    /// Versions of the configuration by name that the generation was made for, where changes of it are rolled out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub configs: BTreeMap<ConfigName, Generation>,
}

/// An item of `workload.history`, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HistoryItem {
    Put(Box<SpecReply>),
    Deleted { revision: Revision },
}

/// One word for a workload as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadState {
    /// Every replica is ready, and runs what the newest generation asks for.
    Ready,
    /// On the way there.
    Progressing,
    /// Some replica failed, fails again and again, or finds no node.
    Degraded,
    /// Replicas: 0.
    Idle,
}

/// Reply of `workload.status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct StatusReply {
    pub workload: WorkloadName,
    pub state: WorkloadState,
    pub generation: Generation,
    /// The generation that brought what replicas run, as their own `generation` names it: smaller than the spec's where a
    /// later one changed only what is around them. Absent from a node of an older version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Generation>,
    pub revision: Revision,
    pub replicas: u32,
    pub ready: u32,
    /// What is so of the workload as a whole, and why: one of each kind. Empty from a node of an older version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Of each replica, by its number. Where not all fit the message, those that are not as they are to be come before others,
    /// unless the request says from which on.
    pub slots: Vec<SlotStatus>,
    /// How many more replicas there are than fit the message; counts and conditions are about all of them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub slots_omitted: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedules: Vec<ScheduleStatus>,
    /// While a change of what replicas run is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
    /// The change that was given up, where this spec was put back for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aborted: Option<Aborted>,
    /// Where the number of replicas follows from the load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscale: Option<AutoscaleStatus>,
}

impl StatusReply {
    /// Whether a replica runs what the spec asks for.
    pub fn is_newest(&self, slot: &SlotStatus) -> bool {
        slot.generation == Some(self.template.unwrap_or(self.generation))
    }
}

/// Where a schedule is. Times are RFC 3339 in UTC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ScheduleStatus {
    pub schedule: ScheduleSpec,
    /// The next tick; none while the workload is scaled to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastFiring>,
}

/// The last tick that a node took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct LastFiring {
    pub tick: String,
    pub node: NodeId,
    /// None while it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct SlotStatus {
    pub replica: u32,
    /// The node that holds the slot; none while nobody does.
    pub node: Option<NodeId>,
    pub phase: Option<Phase>,
    pub generation: Option<Generation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Why it fails again and again, by what its node reported: it may be ready at this moment all the same. Absent from a
    /// node of an older version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crashing: Option<String>,
    /// When its node took it: RFC 3339, by that node's clock. None from a node of an older version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_at: Option<String>,
    /// When it came to this phase and generation, as `claimed-at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// What it may use of a GPU of its node, where its spec claims something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuGrant>,
    /// Where no node takes it: what they lack. At most 32 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Refusal>,
    /// How many more nodes there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refused_omitted: u32,
    /// What the holder said last of the replica. None from a node of an older version, from one that was not heard of for
    /// long, and where a workload has so many replicas that there is no room for all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Box<SlotReport>>,
    /// How long ago the answering node heard that, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_age: Option<u64>,
}

impl SlotStatus {
    /// One that nobody holds.
    pub fn vacant(replica: u32) -> Self {
        Self {
            replica,
            node: None,
            phase: None,
            generation: None,
            message: None,
            crashing: None,
            claimed_at: None,
            since: None,
            gpu: None,
            refused: Vec::new(),
            refused_omitted: 0,
            report: None,
            report_age: None,
        }
    }
}

/// An item of `workload.list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct WorkloadSummary {
    pub workload: WorkloadName,
    pub state: WorkloadState,
    pub generation: Generation,
    pub replicas: u32,
    pub ready: u32,
    /// `host/path` of each route.
    pub routes: Vec<String>,
    /// Those that hold replicas, by id. At most 256.
    pub nodes: Vec<NodeId>,
    /// How many more of them there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub nodes_omitted: u32,
    /// Of the replicas whose nodes reported.
    #[serde(default)]
    pub totals: Totals,
}

/// What the replicas of a workload did together, as far as their nodes reported it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
pub struct Totals {
    /// Replicas that were reported.
    pub reported: u32,
    pub requests: u64,
    pub failures: u64,
    pub in_flight: u64,
    pub waiting: u64,
    pub instances: u64,
    /// Age of the oldest of the reports, in milliseconds.
    pub age: u64,
}

impl Totals {
    pub fn add(&mut self, report: &SlotReport, age: u64) {
        self.reported += 1;
        let sum = |into: &mut u64, more: u64| *into = into.saturating_add(more);
        sum(&mut self.requests, report.requests);
        sum(&mut self.failures, report.failed());
        sum(&mut self.in_flight, report.in_flight);
        sum(&mut self.waiting, report.waiting);
        sum(&mut self.instances, report.instances.live);
        self.age = self.age.max(age);
    }
}

/// Reply of `workload.delete`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DeleteReply {
    pub workload: WorkloadName,
    /// False where there was none.
    pub deleted: bool,
}

/// Body of `workload.scale`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ScaleRequest {
    pub replicas: u32,
}

/// Body of `workload.rollback`. Empty means: to the generation before the current one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RollbackRequest {
    #[serde(default)]
    pub to_generation: Option<Generation>,
}

/// Reply of `node.get`, and an item of `node.list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct NodeReply {
    #[serde(flatten)]
    pub session: Session,
    /// Nothing new is placed there.
    #[serde(default)]
    pub cordoned: bool,
    /// Set while an operator wants the node empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainStatus>,
    /// Slots that it holds, such as `hello.0`. At most 1000.
    pub slots: Vec<String>,
    /// How many more of them there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub slots_omitted: u32,
    /// Memory that they reserve, in bytes.
    pub memory_reserved: u64,
    /// Processors that they reserve, in thousandths.
    #[serde(default, skip_serializing_if = "crate::record::is_zero")]
    pub millicores_reserved: u64,
    /// What replicas hold of its GPUs, by slot; of one that it hands over as well.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub gpus_held: BTreeMap<String, GpuGrant>,
    /// What its replicas use, as the node said last. None from a node of an older version, or one that was not heard of
    /// for long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<NodeUsage>,
    /// How long ago the answering node heard that, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_age: Option<u64>,
}

/// Which of the guest's outputs a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LogStream {
    Stdout,
    Stderr,
}

/// How grave a line is, to the guest that logged it through `wasi:logging`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
    Critical,
}

impl LogLevel {
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Trace => "trace",
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
            LogLevel::Critical => "critical",
        }
    }
}

/// A line of guest output: an item of `workload.logs`, and the payload on `lattice.{L}.log.{W}.{i}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct LogLine {
    pub workload: WorkloadName,
    pub replica: u32,
    pub node: NodeId,
    /// Which of the replica's instances wrote it, counted from 1 at each start of the replica. None for a line about the
    /// replica as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<u64>,
    pub stream: LogStream,
    /// RFC 3339.
    pub time: String,
    /// The trace of the request that the instance was at: 32 hexadecimal digits. None where it was at several or at none,
    /// and for services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// Of that trace the span of the guest, where the trace is recorded: 16 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span_id: Option<String>,
    /// What the guest logged it as, through `wasi:logging`; its stream is `stderr` then. None for what it printed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<LogLevel>,
    /// What the guest said where it is from, together with the level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    pub line: String,
}

/// Schema of every message, for `docs/` and for clients in other languages.
pub fn json_schema() -> serde_json::Value {
    #[derive(JsonSchema)]
    #[allow(dead_code)]
    struct Messages {
        put: Reply<PutReply>,
        get: Reply<SpecReply>,
        history_asked: HistoryRequest,
        history: Reply<Vec<HistoryItem>>,
        status_asked: StatusRequest,
        status: Reply<StatusReply>,
        list_asked: WorkloadListRequest,
        list: Reply<Vec<WorkloadSummary>>,
        routes: Reply<RouteList>,
        delete: Reply<DeleteReply>,
        scale: ScaleRequest,
        rollback: RollbackRequest,
        rollout: RolloutRequest,
        steered: Reply<RolloutReply>,
        logs: Reply<Vec<LogLine>>,
        node: Reply<NodeReply>,
        nodes_asked: NodeListRequest,
        nodes: Reply<Vec<NodeReply>>,
        explain: ExplainRequest,
        explained: Reply<ExplainReply>,
        cordon: Reply<CordonReply>,
        config_put: ConfigPutRequest,
        config_item: Reply<ConfigItem>,
        config: Reply<ConfigReply>,
        configs: Reply<ConfigList>,
        config_delete: ConfigDeleteRequest,
        config_deleted: Reply<ConfigDeleteReply>,
        secret_item: Reply<SecretItem>,
        secrets: Reply<SecretList>,
        secret_delete: SecretDeleteRequest,
        secret_deleted: Reply<SecretDeleteReply>,
        drain: DrainRequest,
        drained: Reply<DrainReply>,
        rebalance: RebalanceRequest,
        rebalanced: Reply<RebalanceReply>,
        rebalancing: Reply<RebalanceState>,
        event: CloudEvent,
        log: LogLine,
        report: NodeReport,
    }
    schemars::schema_for!(Messages).to_value()
}
