//! `WorkloadSpec`: what a person asks for. YAML or JSON, one document a workload, read strictly: an unknown field, a
//! wrong type, a bad name is an error that names the field and says what to do.
//!
//! The field docs below are the reference that people read: `docs/workload-spec.schema.json` is generated from them.

mod account;
mod analysis;
mod autoscale;
mod blobstore;
mod callers;
mod canary;
mod config;
mod cron;
mod disruption;
mod function;
pub mod gpu;
pub mod grants;
mod http;
mod keyvalue;
mod messaging;
mod micro;
mod nats;
mod optimize;
mod parse;
mod parts;
mod placement;
mod preview;
mod probes;
pub mod profile;
mod reserve;
mod rollout;
mod schedule;
mod schema;
mod script;
mod secrets;
mod sticky;
mod strategy;
pub mod stream_profile;
mod streams;
mod taint;
mod volumes;
mod wording;

pub use account::{NatsAccount, NatsServer};
pub use analysis::{AnalysisSpec, ErrorRate};
pub use autoscale::{AutoscaleSpec, JetStreamName, PendingTarget, ScaleTarget};
pub use blobstore::ObjectsGrant;
pub use config::{ConfigError, ConfigUpdate, Found, Resolved};
pub use cron::{Cron, Zone};
pub use disruption::DisruptionSpec;
pub use function::{FunctionName, NotExported};
pub use gpu::{CpuUse, GpuClaim, GpuMiss, GpuSpec, MinSpeed};
pub use grants::Grants;
pub use http::{
    ALLOWED_STATUSES, CorsHeader, CorsOrigin, CorsSpec, ExactPath, HeaderKey, HostPattern, HttpSpec, MethodName,
    PathMatch, PathPrefix, RedirectScheme, RedirectSpec, RetrySpec, RewriteSpec, Route, Share, SplitBy, ValueMatch,
    is_idempotent,
};
pub use keyvalue::{Access, BucketName, KeyvalueGrant, StoreName};
pub use messaging::{
    MessageSpec, MessagingGrants, QueueGroup, SUBJECT_BYTES_MAX, Subject, SubjectError, SubjectPattern, is_answerable,
};
pub use micro::{MicroName, MicroSpec, MicroVersion};
pub use nats::{NatsGrants, is_joinable};
pub use optimize::Optimize;
pub use parse::{SpecError, parse, parse_value, unresolved};
pub use parts::{PartRole, PartSpec, RestartSpec, ServiceLimits, ServiceSpec};
pub use placement::{
    Comparison, LABEL_NODE, Placement, Preference, Relation, Requirement, RequirementError, Spread, is_label_key,
    is_label_value,
};
pub use preview::PreviewSpec;
pub use probes::{Asks, ProbeSpec, ProbesSpec};
pub use profile::{BucketGrant, BucketNeeds, CoreProfile, Profile};
pub use reserve::ReserveSpec;
pub use rollout::{Portion, Rollback, RolloutSpec, RolloutStep};
pub use schedule::{RequestPath, ScheduleSpec};
pub use script::Script;
pub use secrets::{SecretRef, SecretRefs};
pub use sticky::Sticky;
pub use strategy::Strategy;
pub use stream_profile::{StreamNeeds, StreamProfile};
pub use streams::{ConsumerName, StreamGrant, StreamGrants, StreamName};
pub use taint::{Effect, Taint, Toleration};
pub use volumes::{EmptyVolume, HostVolume, MountPath, VolumeSpec, empty_bytes};

use crate::{
    id::{ComponentName, ConfigName, Digest, WorkloadName},
    units::{Bytes, Millis},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, collections::BTreeMap, fmt, str::FromStr};

/// A workload: components that answer HTTP, how many replicas of them run, and where they may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct WorkloadSpec {
    /// Name of the workload, unique within its lattice: 1 to 63 of a-z, 0-9 and '-'.
    pub name: WorkloadName,
    /// How many replicas run, each in a slot of its own, spread over the nodes. 0 to 10000, default 1. Not together with
    /// `autoscale`.
    #[serde(default = "one")]
    #[schemars(range(max = 10_000))]
    pub replicas: u32,
    /// What happens while a replica's node is out of reach. Default `available`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub class: Class,
    /// The WebAssembly components: one that answers HTTP, and those that it uses. Several are composed into one when the
    /// workload is put, which is what nodes run: they share one instance, its limits and its fate. Those that are `lazy`
    /// or `isolate`d stay apart. The order is of no account.
    #[schemars(length(min = 1, max = 32))]
    pub components: Vec<ComponentSpec>,
    /// Long-lived components beside those that answer HTTP, one instance of each for each replica: what outlives a
    /// request and belongs to all instances. At most 32 together with the components.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 31))]
    pub services: Vec<ServiceSpec>,
    /// How several components are joined, where that is not clear from what they import and export.
    #[serde(default, skip_serializing_if = "is_default")]
    pub compose: ComposeSpec,
    /// How HTTP reaches the workload.
    #[serde(default, skip_serializing_if = "is_default")]
    pub http: HttpSpec,
    /// Requests that the lattice itself sends to the workload, by the clock.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub schedule: Vec<ScheduleSpec>,
    /// Messages of NATS that its component handles, which exports `wasmcloud:messaging/handler@0.2` for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub messages: Vec<MessageSpec>,
    /// What tools such as `nats micro` are told of it, as a micro service of NATS whose endpoints are among `messages`. Default: it is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro: Option<MicroSpec>,
    /// Reuse of instances over requests. `off` gives each request a fresh instance.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reuse: Reuse,
    /// Bounds on what one replica may use.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// What each replica reserves of its node, beside the memory that its limits name.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reserve: ReserveSpec,
    /// What it may reach outside: nothing, unless it is listed. Services, and components that are lazy or isolated, may have
    /// grants of their own instead.
    #[serde(default, skip_serializing_if = "is_default")]
    pub grants: Grants,
    /// Directories that the guest sees. It sees no others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub volumes: Vec<VolumeSpec>,
    /// What each replica asks of a GPU. Default nothing, unless a component imports `wasi:webgpu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuSpec>,
    /// Which nodes may run it, and which are better.
    #[serde(default, skip_serializing_if = "is_default")]
    pub placement: Placement,
    /// How replicas come to run what a changed spec asks for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rollout: RolloutSpec,
    /// What nodes ask a replica to find out whether it can take requests, and whether it is alive. Default nothing: it can
    /// once its first instances are made.
    #[serde(default, skip_serializing_if = "ProbesSpec::is_empty")]
    pub probes: ProbesSpec,
    /// As many replicas as the load asks for, in place of `replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscale: Option<AutoscaleSpec>,
    /// How a change of what `config-from` and `env-from` name reaches its replicas. Default `watch`; of a workload of class
    /// `strict`, of one with `empty` volumes, and of one with `gpu`, `roll`, and `watch` is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_update: Option<ConfigUpdate>,
    /// How many replicas may be out of service because of what an operator does.
    #[serde(default, skip_serializing_if = "is_default")]
    pub disruption: DisruptionSpec,
}

fn one() -> u32 {
    1
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl WorkloadSpec {
    /// One replica of one component, with the default of everything else.
    pub fn new(name: WorkloadName, component: ComponentSpec) -> Self {
        Self {
            name,
            replicas: one(),
            class: Class::default(),
            components: vec![component],
            services: Vec::new(),
            compose: ComposeSpec::default(),
            http: HttpSpec::default(),
            schedule: Vec::new(),
            messages: Vec::new(),
            micro: None,
            reuse: Reuse::default(),
            limits: Limits::default(),
            reserve: ReserveSpec::default(),
            grants: Grants::default(),
            volumes: Vec::new(),
            gpu: None,
            placement: Placement::default(),
            rollout: RolloutSpec::default(),
            probes: ProbesSpec::default(),
            autoscale: None,
            config_update: None,
            disruption: DisruptionSpec::default(),
        }
    }

    /// SHA-256 of the canonical JSON form: equal specs have equal hashes, however they were written.
    pub fn content_hash(&self) -> Digest {
        // The form has no maps with unordered keys and no floats, so serialising it cannot fail or vary.
        Digest::of(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// Whether it ever has a replica. One that scales itself may have none now.
    pub fn may_run(&self) -> bool {
        self.replicas > 0 || self.autoscale.is_some()
    }

    /// Requests at a time in one replica. More wait there.
    pub fn seats(&self) -> u32 {
        let of_instances = |reuse: ReuseSpec| reuse.max_instances.saturating_mul(reuse.concurrency);
        let instances = self.reuse.settings().map_or(u32::MAX, of_instances);
        self.limits.concurrency.min(instances).max(1)
    }

    /// The only component, where it is all that there is.
    pub fn only(&self) -> Option<&ComponentSpec> {
        match (self.components.as_slice(), self.services.as_slice()) {
            ([only], []) => Some(only),
            _ => None,
        }
    }

    /// The components that are composed into the whole.
    pub fn composed(&self) -> impl Iterator<Item = &ComponentSpec> {
        self.components.iter().filter(|component| component.role().is_none())
    }

    /// Environment variables of the whole: those of all components in it, which agree where they set the same one.
    pub fn env(&self) -> BTreeMap<String, String> {
        self.composed().flat_map(|component| component.env.clone()).collect()
    }

    /// Configuration of the whole, merged like [`WorkloadSpec::env`].
    pub fn config(&self) -> BTreeMap<String, String> {
        self.composed().flat_map(|component| component.config.clone()).collect()
    }
}

/// What a replica does when its node has lost the lattice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Keeps serving. Another node may start the same replica meanwhile, so two may run for a while.
    #[default]
    Available,
    /// Stops itself before another node may start it: at most one runs at any time.
    Strict,
}

/// One WebAssembly component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ComponentSpec {
    /// Name of the component, unique within the workload.
    pub name: ComponentName,
    /// Where its bytes are: `sha256:…` in the lattice's object store, or `file:PATH` (the CLI uploads it).
    pub source: Source,
    /// Environment variables of the guest. Components that are composed share theirs: each sees those of all, and two
    /// that set the same one to different values are refused. One that is lazy or isolated has its own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// What the guest reads through `wasi:config/store`. Shared like `env`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, String>,
    /// Names of configuration in the lattice (`lattice config put`) whose entries are put under those of `config`: of two
    /// names that have the same key the later one counts, and `config` before all. Until each of them is there, the
    /// workload's conditions say so, and no replica is started. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub config_from: Vec<ConfigName>,
    /// The same for `env`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub env_from: Vec<ConfigName>,
    /// Secrets of the lattice (`lattice secret put`) that the guest gets through `wasmcloud:secrets/store`, by these keys and no
    /// others: `{db-password: shop-db}`. Components that are composed share theirs. Until each of them is there, the workload's
    /// conditions say so, and no replica is started. At most 64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub secrets: SecretRefs,
    /// Keep it out of the composition, and make an instance of it only when it is called: for what few requests need. A
    /// call costs about a microsecond more than one within the composition, and only plain values can be passed. Not for
    /// the component that answers HTTP. Default `false`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lazy: bool,
    /// How long a lazy component's unused instance is kept; with `0s` each call has a fresh one. Up to `1h`, default `30s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Millis>,
    /// Keep it out of the composition: instances, memory, environment and traps of its own. Calls cost and pass what they
    /// do for a lazy one. Not for the component that answers HTTP. Default `false`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub isolate: bool,
    /// What it may reach outside, in place of the workload's `grants`; `{}` is nothing. Only for a component that is lazy or
    /// isolated: those that are composed are one instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grants: Option<Grants>,
    /// Names of the workload's `volumes` that it sees, where the workload sees them. Only for a component that is lazy or
    /// isolated, which sees none otherwise: those that are composed see all. Default none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub volumes: Vec<ComponentName>,
}

impl ComponentSpec {
    /// With the default of everything else.
    pub fn new(name: ComponentName, source: Source) -> Self {
        let (env, config) = (BTreeMap::new(), BTreeMap::new());
        let (config_from, env_from, secrets) = (Vec::new(), Vec::new(), BTreeMap::new());
        let (lazy, idle, isolate) = (false, None, false);
        let (grants, volumes) = (None, Vec::new());
        Self { name, source, env, config, config_from, env_from, secrets, lazy, idle, isolate, grants, volumes }
    }
}

/// How several components are joined into one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ComposeSpec {
    /// Which component satisfies an import that several others could.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub links: Vec<Link>,
    /// A script in the language of the tool `wac` that says how the components are joined, in place of the rules: its
    /// text, or `file:PATH` (the CLI puts the text here). The components are its packages, as `component:NAME`; what it
    /// does not instantiate does not run. At most 64 KiB and 256 brackets. Not together with `links`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wac: Option<Script>,
    /// `max`: small functions are inlined over the border from component to component, also of what was composed
    /// beforehand; for components that call each other very often. Compiling takes longer, and the code is larger.
    /// Components that are not composed are compiled as ever. Default `default`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub optimize: Optimize,
}

impl ComposeSpec {
    /// The script, once its text is here.
    pub fn script(&self) -> Option<&str> {
        match self.wac.as_ref()? {
            Script::Text(text) => Some(text),
            Script::File(_) => None,
        }
    }
}

/// An import of one component that another one satisfies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Link {
    /// The component or service that imports.
    pub from: ComponentName,
    /// What it imports, as it names it: `acme:auth/check@1.0.0`.
    #[schemars(length(min = 1, max = 512))]
    pub import: String,
    /// The component or service that exports it: the same version, or a compatible one that is not older.
    pub to: ComponentName,
}

/// Where a component's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A file beside the spec. Only the CLI understands it: it uploads the file and replaces the source.
    File(String),
    /// An object in the lattice's object store, named by the SHA-256 of its bytes.
    Stored(Digest),
}

impl FromStr for Source {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("file:") {
            if path.is_empty() {
                return Err("`file:` needs a path behind it, such as file:./hello.wasm".into());
            }
            Ok(Source::File(path.into()))
        } else if text.starts_with("sha256:") {
            text.parse().map(Source::Stored).map_err(|error: crate::id::DigestError| error.to_string())
        } else {
            Err(format!("{text:?} is not a source; write file:./hello.wasm or sha256:…"))
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(path) => write!(f, "file:{path}"),
            Source::Stored(digest) => write!(f, "{digest}"),
        }
    }
}

impl Serialize for Source {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Source {
    fn schema_name() -> Cow<'static, str> {
        "Source".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^(file:.+|sha256:[0-9a-f]{64})$",
            "examples": ["file:./hello.wasm"],
        })
    }
}

macro_rules! text_form {
    ($name:ident, $example:literal) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
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
                schemars::json_schema!({ "type": "string", "examples": [$example] })
            }
        }
    };
}
text_form!(HostPattern, "hello.test");
text_form!(PathPrefix, "/api");
text_form!(ExactPath, "/api/status");
text_form!(MethodName, "GET");
text_form!(HeaderKey, "x-version");
text_form!(CorsOrigin, "https://app.example.org");
text_form!(CorsHeader, "content-type");
text_form!(Requirement, "zone in (eu-1, eu-2)");
text_form!(Taint, "gpu=a100:no-place");
text_form!(Toleration, "gpu");
text_form!(Cron, "*/5 * * * *");
text_form!(Zone, "Europe/Berlin");
text_form!(RequestPath, "/tick");
text_form!(MountPath, "/data");

/// Reuse of instances: several times the throughput of one instance a request. A guest then sees many requests in one
/// life; what it keeps in memory stays until the instance is retired.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Reuse {
    #[default]
    Default,
    Off,
    On(ReuseSpec),
}

impl Reuse {
    /// The values in force, or nothing where each request gets a fresh instance.
    pub fn settings(&self) -> Option<ReuseSpec> {
        match self {
            Reuse::Default => Some(ReuseSpec::default()),
            Reuse::Off => None,
            Reuse::On(settings) => Some(settings.clone()),
        }
    }
}

/// How instances are reused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ReuseSpec {
    /// Requests after which an instance is retired. At least 1, default 10000.
    #[schemars(range(min = 1))]
    pub requests: u32,
    /// How long an idle instance is kept. Default `30s`.
    pub idle: Millis,
    /// Instances that are started before the replica is announced ready, and kept when idle. Default 1.
    pub min_warm: u32,
    /// Most instances of one replica at a time. 1 to 1024, default 64.
    #[schemars(range(min = 1, max = 1024))]
    pub max_instances: u32,
    /// Requests that run at a time in one instance; only for components that export `wasi:http/handler@0.3`. 1 to 256,
    /// default 1. More is for guests that wait a lot: many requests then wait in the memory of one instance. They see
    /// each other's global state, share `limits.memory`, and one that traps or spends its `limits.cpu` ends the instance
    /// for all: those that can be are repeated, the others fail. Not together with `grants.keyvalue`, whose operations
    /// would hold all of them up.
    #[schemars(range(min = 1, max = 256))]
    pub concurrency: u32,
    /// A path, perhaps with a query, that each instance which is made ahead (`min-warm`) is asked for by a `GET` before it
    /// counts as ready: for guests that load or compute much at their first request. It must answer with a status below
    /// 400 within `limits.wall`, and leave a quarter of `limits.memory`; else a replica that starts has failed and says so,
    /// and an instance that replaces another is dropped, and made again after a pause that grows up to a minute. The first
    /// instance on a node is asked twice, which shows whether instances can be reused before a client's request does. One
    /// that is made because a request waits for it has that request instead. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm_up: Option<RequestPath>,
}

impl Default for ReuseSpec {
    fn default() -> Self {
        let idle = Millis::from_secs(30);
        Self { requests: 10_000, idle, min_warm: 1, max_instances: 64, concurrency: 1, warm_up: None }
    }
}

impl Serialize for Reuse {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Reuse::Default => serializer.serialize_str("on"),
            Reuse::Off => serializer.serialize_str("off"),
            Reuse::On(settings) => settings.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Reuse {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Reuse;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`on`, `off`, or a mapping such as {requests: 10000, max-instances: 64}")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Reuse, E> {
                match text {
                    "on" => Ok(Reuse::Default),
                    "off" => Ok(Reuse::Off),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }
            // YAML 1.1 readers turn the words on and off into booleans before we see them.
            fn visit_bool<E: serde::de::Error>(self, on: bool) -> Result<Reuse, E> {
                Ok(if on { Reuse::Default } else { Reuse::Off })
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Reuse, A::Error> {
                ReuseSpec::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(Reuse::On)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Reuse {
    fn schema_name() -> Cow<'static, str> {
        "Reuse".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let settings = generator.subschema_for::<ReuseSpec>();
        schemars::json_schema!({
            "description": "`on` (default), `off`, or the settings. With `off` each request gets a fresh instance.",
            "anyOf": [{ "enum": ["on", "off"] }, settings],
        })
    }
}

/// Bounds on what one replica may use. Each is enforced by the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Limits {
    /// Linear memory of one instance; what a replica reserves of its node's capacity. Lazy and isolated components
    /// reserve as much again each, services what their own limits say. Default `128MiB`.
    pub memory: Bytes,
    /// CPU time of one request. Default `10s`. Of a node's processors it reserves nothing: that is `reserve.cpu`.
    pub cpu: Millis,
    /// Time of one request from its start to the head of the response; after it, the longest silence in the bodies.
    /// Default `30s`.
    pub wall: Millis,
    /// Requests that run at a time in one replica; `reuse.max-instances` times `reuse.concurrency` bounds it too.
    /// Default 256.
    #[schemars(range(min = 1))]
    pub concurrency: u32,
    /// Requests that wait when all are busy; more are answered 503. Up to 65536, default 1024.
    #[schemars(range(max = 65_536))]
    pub queue: u32,
    /// Largest request body. Default `1GiB`.
    pub body: Bytes,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: Bytes::mib(128),
            cpu: Millis::from_secs(10),
            wall: Millis::from_secs(30),
            concurrency: 256,
            queue: 1024,
            body: Bytes(1 << 30),
        }
    }
}

/// The JSON Schema of a spec, as it is checked in and served.
pub fn json_schema() -> serde_json::Value {
    let schema = schemars::schema_for!(WorkloadSpec);
    let mut value = schema.to_value();
    if let Some(object) = value.as_object_mut() {
        object.insert("$id".into(), "urn:lattice:workload-spec:1".into());
    }
    value
}
