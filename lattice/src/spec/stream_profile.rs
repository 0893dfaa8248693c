//! Profiles of streams: named behaviours that a workload binds to the streams it is granted. Which operations belong to one is
//! decided here, what a stream must be like for what the profile promises in [`crate::binding`]; `wit/nats/worlds.wit` has a world of the
//! same name for each, with the promise in words.

use super::{
    SpecError, StreamGrant, is_default,
    profile::{Storage, check_placement, check_replicas, listed},
};
use crate::units::{Bytes, Millis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A behaviour with a stream. Each of them asks how it is: `info`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StreamProfile {
    /// Puts tasks in a queue and takes them: `publish`, `publish-atomic`, `consumer`. The stream removes no task by its age, and none for a newer
    /// one.
    WorkQueue,
    /// Adds events and reads them in order: `publish`, `publish-atomic`, `get`, `get-last`, `get-many-last`, `read`. What is acknowledged to
    /// a consumer stays.
    EventLog,
    /// Adds events to what it has seen, and to nothing else: the operations of `event-log`, each message with a precondition and without a
    /// `ttl`. The stream keeps every event.
    EventStore,
    /// Counts, with others, and exactly: `add`, `get` and `get-many` of counters. The stream holds counters, and forgets none.
    Counter,
    /// Has messages stored later: `put`, `cancel` and `get` of schedules. The stream takes schedules, and forgets none.
    Scheduler,
}

impl StreamProfile {
    pub fn as_str(self) -> &'static str {
        match self {
            StreamProfile::WorkQueue => "work-queue",
            StreamProfile::EventLog => "event-log",
            StreamProfile::EventStore => "event-store",
            StreamProfile::Counter => "counter",
            StreamProfile::Scheduler => "scheduler",
        }
    }
}

impl fmt::Display for StreamProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a stream must be like. Each is the least that is good enough, but for those that say something else; what is left out may be
/// as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct StreamNeeds {
    /// Copies of it, 1 to 5. With three it outlives the loss of one server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 5))]
    pub replicas: Option<u8>,
    /// Where it is: `file` outlives a restart of its servers, `memory` does not. Exactly this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// When a message is removed that no limit removes: never (`limits`), when each consumer that wants it has settled it (`interest`), or
    /// when one has (`work`). Exactly this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// For how long a message id is remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate_window: Option<Millis>,
    /// For how long a message is kept; longer where nothing expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Millis>,
    /// Messages that it keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_messages: Option<u64>,
    /// Bytes of all that it keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<Bytes>,
    /// Bytes of a message with its headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_message: Option<Bytes>,
    /// It takes atomic batches, for which it needs nats-server 2.12. `false` asks nothing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub atomic: bool,
    /// Messages can have a time of their own. `false` asks nothing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub message_ttl: bool,
    /// For how long a marker says that the last message on a subject expired, 1 s or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marker_ttl: Option<Millis>,
    /// Any replica answers reads. `false` asks nothing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub direct: bool,
    /// Nobody deletes or purges messages by the interface of the server. `false` asks nothing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub append_only: bool,
    /// Tags of the servers that it is placed on, all of these: `[region:eu]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tags: Vec<String>,
    /// The cluster that it is placed in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}

/// When a stream removes what no limit removes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Retention {
    #[default]
    Limits,
    Interest,
    Work,
}

impl Retention {
    /// As the `nats` CLI has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Retention::Limits => "limits",
            Retention::Interest => "interest",
            Retention::Work => "work",
        }
    }
}

/// Operations of a stream, by the interface of `lattice:nats` that has them, that some profile lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StreamOperation {
    Publish,
    PublishAtomic,
    Get,
    GetLast,
    GetManyLast,
    Read,
    Consumer,
    /// Of counters, as are those that follow.
    Add,
    Count,
    Counts,
    /// Of schedules, as are those that follow.
    Schedule,
    Cancel,
    Scheduled,
}

impl StreamOperation {
    pub const ALL: [Self; 13] = [
        Self::Publish,
        Self::PublishAtomic,
        Self::Get,
        Self::GetLast,
        Self::GetManyLast,
        Self::Read,
        Self::Consumer,
        Self::Add,
        Self::Count,
        Self::Counts,
        Self::Schedule,
        Self::Cancel,
        Self::Scheduled,
    ];

    /// As the WIT has it.
    pub fn as_str(self) -> &'static str {
        match self {
            StreamOperation::Publish => "publish",
            StreamOperation::PublishAtomic => "publish-atomic",
            StreamOperation::Get | StreamOperation::Count | StreamOperation::Scheduled => "get",
            StreamOperation::GetLast => "get-last",
            StreamOperation::GetManyLast => "get-many-last",
            StreamOperation::Read => "read",
            StreamOperation::Consumer => "consumer",
            StreamOperation::Add => "add",
            StreamOperation::Counts => "get-many",
            StreamOperation::Schedule => "put",
            StreamOperation::Cancel => "cancel",
        }
    }

    /// The one that a component imports: a function of an interface without its version.
    pub fn imported(interface: &str, function: &str) -> Option<Self> {
        let is_it = |operation: &Self| {
            let (of, resource) = operation.place();
            let method = function.strip_prefix("[method]").and_then(|method| method.strip_prefix(resource));
            of == interface && method.and_then(|method| method.strip_prefix('.')) == Some(operation.as_str())
        };
        Self::ALL.into_iter().find(is_it)
    }

    /// The interface, and the resource in it.
    fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::Add | Self::Count | Self::Counts => ("lattice:nats/counters", "counters"),
            Self::Schedule | Self::Cancel | Self::Scheduled => ("lattice:nats/schedules", "schedules"),
            _ => ("lattice:nats/jetstream", "stream"),
        }
    }

    fn of(profile: StreamProfile) -> &'static [Self] {
        match profile {
            StreamProfile::WorkQueue => &[Self::Publish, Self::PublishAtomic, Self::Consumer],
            StreamProfile::EventLog | StreamProfile::EventStore => {
                &[Self::Publish, Self::PublishAtomic, Self::Get, Self::GetLast, Self::GetManyLast, Self::Read]
            }
            StreamProfile::Counter => &[Self::Add, Self::Count, Self::Counts],
            StreamProfile::Scheduler => &[Self::Schedule, Self::Cancel, Self::Scheduled],
        }
    }
}

/// What a call that stores says of all its messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Storing {
    /// A precondition stands before each of them.
    pub is_conditional: bool,
    /// One of them expires by itself.
    pub has_ttl: bool,
}

/// Why an operation on a stream is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamBreach {
    /// None of the profiles has it.
    NotInProfile,
    /// It must say what it expects.
    NoPrecondition,
    /// What is written must stay.
    HasTtl,
}

impl StreamGrant {
    /// Whether the operation may be made like this; of what does not store, `storing` says nothing.
    pub fn judge(&self, operation: StreamOperation, storing: Storing) -> Result<(), StreamBreach> {
        if !self.has(operation) {
            return Err(StreamBreach::NotInProfile);
        }
        // It stands alone on its stream: another one would let through what it refuses.
        let stores = matches!(operation, StreamOperation::Publish | StreamOperation::PublishAtomic);
        match self.profiles.contains(&StreamProfile::EventStore) && stores {
            true if !storing.is_conditional => Err(StreamBreach::NoPrecondition),
            true if storing.has_ttl => Err(StreamBreach::HasTtl),
            _ => Ok(()),
        }
    }

    /// Whether there is a way to make it.
    pub fn has(&self, operation: StreamOperation) -> bool {
        let mut profiles = self.profiles.iter();
        self.profiles.is_empty() || profiles.any(|profile| StreamOperation::of(*profile).contains(&operation))
    }

    /// Whether nodes that know the eighth schema would not read it.
    pub(super) fn is_of_schema_9(&self) -> bool {
        let later = [StreamProfile::Counter, StreamProfile::Scheduler];
        !self.schedule.is_empty() || later.iter().any(|profile| self.profiles.contains(profile))
    }

    /// Whether there is something that the stream must be like.
    pub fn is_bound(&self) -> bool {
        !self.profiles.is_empty() || !is_default(&self.require)
    }
}

pub(super) fn check(field: &str, grant: &StreamGrant) -> Result<(), SpecError> {
    let StreamNeeds { replicas, marker_ttl, max_age, message_ttl, max_messages, max_bytes, tags, cluster, .. } =
        &grant.require;
    let error = |name: &str, text: String| SpecError::new(format!("{field}.{name}"), text);
    check_replicas(field, *replicas)?;
    check_placement(field, tags, cluster.as_ref())?;
    if marker_ttl.is_some_and(|ttl| ttl < Millis::from_secs(1)) {
        return Err(error("require.marker-ttl", "at least 1s".into()));
    }
    let has = |profile: StreamProfile| grant.profiles.contains(&profile);
    for (profile, why) in [
        (StreamProfile::EventStore, "beside it another one would store without a precondition"),
        (StreamProfile::Counter, "its stream takes nothing but counters"),
    ] {
        if has(profile) && grant.profiles.len() > 1 {
            let text = format!("the profile {profile} stands alone: {why}");
            return Err(error("profiles", text)
                .hint("grant the same stream a second time, under another name, with the other profile"));
        }
    }
    for profile in [StreamProfile::EventLog, StreamProfile::EventStore, StreamProfile::Counter] {
        if has(profile) && grant.require.retention.is_some_and(|retention| retention != Retention::Limits) {
            let text = format!("the profile {profile} has the retention limits");
            return Err(error("require.retention", text).hint("leave one of the two out"));
        }
    }
    let times = [("require.message-ttl", *message_ttl), ("require.marker-ttl", marker_ttl.is_some())];
    if let Some((name, _)) = times.into_iter().find(|(_, is_asked)| *is_asked && has(StreamProfile::Counter)) {
        let text = "a stream of counters has no times to live".to_owned();
        return Err(error(name, text).hint("leave it out"));
    }
    let unlimited = [StreamProfile::Counter, StreamProfile::Scheduler].into_iter().find(|it| has(*it));
    let limits = [("require.max-messages", max_messages.is_some()), ("require.max-bytes", max_bytes.is_some())];
    if let (Some(profile), Some((name, _))) = (unlimited, limits.into_iter().find(|(_, is_asked)| *is_asked)) {
        let text = format!("the profile {profile} asks for a stream without such a limit");
        return Err(error(name, text).hint("leave it out"));
    }
    if has(StreamProfile::Scheduler) && grant.require.retention == Some(Retention::Interest) {
        let text = "the profile scheduler has the retention limits or work: schedules interest nobody else";
        return Err(error("require.retention", text.into()).hint("leave one of the two out"));
    }
    let keeps = [StreamProfile::WorkQueue, StreamProfile::EventStore, StreamProfile::Counter, StreamProfile::Scheduler];
    if let Some(profile) = keeps.into_iter().find(|it| has(*it))
        && max_age.is_some()
    {
        let text = format!("the profile {profile} asks that nothing expires");
        return Err(error("require.max-age", text).hint("leave it out"));
    }
    // What a grant has and none of its profiles uses is a mistake, and a queue from which nothing is taken.
    let uses = |operation: StreamOperation| grant.has(operation);
    let names = listed(grant.profiles.iter().map(|profile| profile.as_str()));
    if !grant.consumers.is_empty() && !uses(StreamOperation::Consumer) {
        let text = format!("{names} takes no deliveries of consumers");
        return Err(error("consumers", text).hint("add to profiles: work-queue"));
    }
    if !grant.read.is_empty() && !uses(StreamOperation::Read) && !uses(StreamOperation::Count) {
        let text = format!("{names} reads nothing but what a consumer delivers");
        return Err(error("read", text).hint("add to profiles: event-log"));
    }
    if has(StreamProfile::WorkQueue) && grant.consumers.is_empty() && grant.publish.is_empty() {
        let text = "the profile work-queue puts tasks in, or takes the deliveries of a consumer";
        return Err(error("consumers", text.into()).hint("write consumers: [packers], or publish: [\"tasks.*\"]"));
    }
    if !grant.schedule.is_empty() && !uses(StreamOperation::Schedule) {
        let text = format!("{names} has no schedules");
        return Err(error("schedule", text).hint("add to profiles: scheduler"));
    }
    if has(StreamProfile::Scheduler) && grant.schedule.is_empty() {
        let text = "the profile scheduler keeps schedules on some subjects";
        return Err(error("schedule", text.into()).hint("write schedule: [\"later.*\"]"));
    }
    if !grant.schedule.is_empty() && grant.publish.is_empty() {
        let text = "a schedule stores on a subject that it may publish on";
        return Err(error("publish", text.into()).hint("write publish: [\"tasks.*\"]"));
    }
    if has(StreamProfile::Counter) && grant.publish.is_empty() && grant.read.is_empty() {
        let text = "the profile counter adds to counters, or reads them";
        return Err(error("publish", text.into()).hint("write publish: [\"hits.*\"], or read: [\"hits.*\"]"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use StreamOperation as Do;

    fn grant(text: &str) -> StreamGrant {
        serde_json::from_value(serde_saphyr::from_str(&format!("{{stream: S, {text}}}")).unwrap()).unwrap()
    }

    #[test]
    fn each_profile_has_its_operations_and_no_others() {
        let events = [Do::Publish, Do::PublishAtomic, Do::Get, Do::GetLast, Do::GetManyLast, Do::Read];
        for (profiles, expect) in [
            ("", Do::ALL.to_vec()),
            ("profiles: [work-queue]", vec![Do::Publish, Do::PublishAtomic, Do::Consumer]),
            ("profiles: [event-log]", events.to_vec()),
            ("profiles: [event-store]", events.to_vec()),
            ("profiles: [event-log, work-queue]", [&events[..], &[Do::Consumer]].concat()),
            ("profiles: [counter]", vec![Do::Add, Do::Count, Do::Counts]),
            ("profiles: [scheduler]", vec![Do::Schedule, Do::Cancel, Do::Scheduled]),
        ] {
            let grant = grant(profiles);
            let all: Vec<Do> = Do::ALL.into_iter().filter(|operation| grant.has(*operation)).collect();
            assert_eq!(all, expect, "{profiles}");
            let bare = grant.judge(Do::Publish, Storing::default());
            let lacks = ["event-store", "counter", "scheduler"].iter().any(|name| profiles.contains(name));
            assert_eq!(bare.is_err(), lacks, "{profiles}");
        }
        let store = grant("profiles: [event-store]");
        let storing = |is_conditional, has_ttl| Storing { is_conditional, has_ttl };
        for operation in [Do::Publish, Do::PublishAtomic] {
            assert_eq!(store.judge(operation, storing(false, false)), Err(StreamBreach::NoPrecondition));
            assert_eq!(store.judge(operation, storing(true, true)), Err(StreamBreach::HasTtl));
            assert_eq!(store.judge(operation, storing(true, false)), Ok(()));
        }
        assert_eq!(store.judge(Do::Read, Storing::default()), Ok(()));
        assert_eq!(store.judge(Do::Consumer, Storing::default()), Err(StreamBreach::NotInProfile));
    }

    #[test]
    fn what_a_component_imports_is_the_operation_of_its_interface() {
        for operation in Do::ALL {
            let (interface, resource) = operation.place();
            let function = format!("[method]{resource}.{}", operation.as_str());
            assert_eq!(Do::imported(interface, &function), Some(operation));
            assert_eq!(Do::imported("lattice:nats/kv", &function), None);
        }
        assert_eq!(Do::imported("lattice:nats/jetstream", "[method]stream.info"), None);
        assert_eq!(Do::imported("lattice:nats/counters", "[method]stream.get"), None);
        assert_eq!(Do::imported("lattice:nats/jetstream", "open"), None);
    }

    #[test]
    fn what_contradicts_itself_is_refused_where_it_stands() {
        for (text, field) in [
            ("profiles: [event-store, event-log]", "profiles"),
            ("profiles: [event-log], require: {retention: work}", "require.retention"),
            ("profiles: [event-store], require: {max-age: 1h}", "require.max-age"),
            ("profiles: [work-queue], publish: [a], require: {max-age: 1h}", "require.max-age"),
            ("profiles: [event-log], consumers: [c]", "consumers"),
            ("profiles: [work-queue], publish: [a], read: [a]", "read"),
            ("profiles: [work-queue]", "consumers"),
            ("profiles: [counter, event-log], publish: [a]", "profiles"),
            ("profiles: [counter], publish: [a], require: {retention: work}", "require.retention"),
            ("profiles: [counter], publish: [a], require: {message-ttl: true}", "require.message-ttl"),
            ("profiles: [counter], publish: [a], require: {marker-ttl: 1h}", "require.marker-ttl"),
            ("profiles: [counter], publish: [a], require: {max-age: 1h}", "require.max-age"),
            ("profiles: [counter], publish: [a], consumers: [c]", "consumers"),
            ("profiles: [counter]", "publish"),
            ("profiles: [counter], publish: [a], require: {max-messages: 9}", "require.max-messages"),
            ("profiles: [counter], publish: [a], schedule: [b]", "schedule"),
            ("profiles: [event-log], publish: [a], schedule: [b]", "schedule"),
            ("profiles: [scheduler], publish: [a]", "schedule"),
            ("profiles: [scheduler], schedule: [b]", "publish"),
            ("schedule: [b]", "publish"),
            ("profiles: [scheduler, event-store], publish: [a], schedule: [b]", "profiles"),
            ("profiles: [scheduler], publish: [a], schedule: [b], read: [a]", "read"),
            ("profiles: [scheduler], publish: [a], schedule: [b], require: {max-age: 1h}", "require.max-age"),
            ("profiles: [scheduler], publish: [a], schedule: [b], require: {max-bytes: 1KiB}", "require.max-bytes"),
            ("profiles: [scheduler], publish: [a], schedule: [b], require: {retention: interest}", "require.retention"),
            ("require: {replicas: 6}", "require.replicas"),
            ("require: {marker-ttl: 10ms}", "require.marker-ttl"),
            ("require: {tags: ['a b']}", "require.tags"),
        ] {
            let error = check("s", &grant(text)).unwrap_err();
            assert_eq!(error.field.as_str(), format!("s.{field}"), "{text}");
        }
        for text in [
            "consumers: [c], read: [a], require: {max-age: 1h}",
            "profiles: [event-log, work-queue], consumers: [c], read: [a], require: {retention: limits}",
            "profiles: [work-queue], consumers: [c], require: {retention: work}",
            "profiles: [counter], publish: [a], read: [a], require: {retention: limits, direct: true}",
            "profiles: [counter], read: [a]",
            "schedule: [b], publish: [a]",
            "profiles: [scheduler, work-queue], publish: [a], schedule: [b], consumers: [c], require: {retention: work}",
            "profiles: [scheduler, event-log], publish: [a], schedule: [b], read: [a], require: {message-ttl: true}",
            "profiles: [event-store], publish: [a], read: [a], require: {append-only: true, duplicate-window: 2m}",
        ] {
            assert!(check("s", &grant(text)).is_ok(), "{text}");
        }
    }
}
