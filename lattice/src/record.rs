//! Records in the store: one bucket, one key, one kind of writer each. All are JSON with a schema version `v`.
//! A record of a newer minor schema may carry fields that we do not know: they are ignored, never refused. A record that
//! does not parse is *corrupt*, which is not the same as absent: see [`crate::view`].

mod compiled;
mod config;
mod generations;
mod rebalance;
mod rollout;
mod scale;
mod ticks;
mod weights;

pub use compiled::{COMPILED_MAX, Compiled};
pub use config::{ConfigRecord, ConfigStamp, EarlierConfig, check_entries};
pub use generations::{Aborted, Left, LostRoute};
pub use rebalance::{MOVES_MAX, Move, Rebalance};
pub use rollout::{Rollout, RolloutState, failure};
pub use scale::Scale;
pub use ticks::{Firing, Outcome, Settled, Ticks};
pub use weights::{Among, Weighed};

use crate::{
    gpu::{GpuGrant, Offer},
    id::{ConfigName, Digest, Generation, Incarnation, NodeId, SlotId, WorkloadName},
    interface::Offers,
    limits::{MESSAGE_BYTES_MAX, one_line},
    recipe::Recipe,
    spec::{LABEL_NODE, Source, Taint, VolumeSpec, WorkloadSpec},
    store::Bucket,
    units::Millis,
};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;

/// The newest schema that this version reads, with all before. Nodes of several versions share a store while they are
/// upgraded, so a record says the least schema that reads it, not the newest that its writer knows.
pub const SCHEMA: u32 = 9;

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("schema {0} is newer than what this version reads ({SCHEMA}): upgrade this node")]
    Newer(u32),
    #[error("{0}")]
    Malformed(String),
}

/// A value that lives in the store under a key of its own.
pub trait Record: Serialize + DeserializeOwned {
    const BUCKET: Bucket;

    /// The least schema that reads this record. A node of an older one leaves it as it is.
    fn schema(&self) -> u32 {
        1
    }

    fn encode(&self) -> Bytes {
        // Records have string keys and no floats: serialising into memory cannot fail.
        let mut value = serde_json::to_value(self).unwrap_or_default();
        if let Some(object) = value.as_object_mut() {
            object.insert("v".into(), self.schema().into());
        }
        value.to_string().into()
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        #[derive(Deserialize)]
        struct Head {
            v: u32,
        }
        let malformed = |error: serde_json::Error| DecodeError::Malformed(error.to_string());
        let Head { v } = serde_json::from_slice(bytes).map_err(malformed)?;
        if v > SCHEMA {
            return Err(DecodeError::Newer(v));
        }
        serde_json::from_slice(bytes).map_err(malformed)
    }
}

/// Key of a record in its bucket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Spec(WorkloadName),
    Node(NodeId),
    Config(ConfigName),
    Session(NodeId),
    Slot(SlotId),
    Cron(WorkloadName),
    Rollout(WorkloadName),
    Scale(WorkloadName),
    /// One in the lattice.
    Rebalance,
}

impl Key {
    pub fn bucket(&self) -> Bucket {
        match self {
            Key::Spec(_) | Key::Node(_) | Key::Config(_) => Bucket::Specs,
            Key::Session(_) | Key::Slot(_) | Key::Cron(_) | Key::Rollout(_) | Key::Scale(_) | Key::Rebalance => {
                Bucket::State
            }
        }
    }

    pub fn parse(bucket: Bucket, text: &str) -> Option<Self> {
        match bucket {
            Bucket::Specs => match text.split_once('.')? {
                ("spec", rest) => WorkloadName::new(rest).ok().map(Key::Spec),
                ("node", rest) => NodeId::new(rest).ok().map(Key::Node),
                ("config", rest) => ConfigName::new(rest).ok().map(Key::Config),
                _ => None,
            },
            Bucket::State => match text.split_once('.')? {
                ("session", rest) => NodeId::new(rest).ok().map(Key::Session),
                ("slot", rest) => rest.parse().ok().map(Key::Slot),
                ("cron", rest) => WorkloadName::new(rest).ok().map(Key::Cron),
                ("rollout", rest) => WorkloadName::new(rest).ok().map(Key::Rollout),
                ("scale", rest) => WorkloadName::new(rest).ok().map(Key::Scale),
                ("rebalance", "moves") => Some(Key::Rebalance),
                _ => None,
            },
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Key::Spec(name) => write!(f, "spec.{name}"),
            Key::Node(node) => write!(f, "node.{node}"),
            Key::Config(name) => write!(f, "config.{name}"),
            Key::Session(node) => write!(f, "session.{node}"),
            Key::Slot(slot) => write!(f, "slot.{slot}"),
            Key::Cron(name) => write!(f, "cron.{name}"),
            Key::Rollout(name) => write!(f, "rollout.{name}"),
            Key::Scale(name) => write!(f, "scale.{name}"),
            Key::Rebalance => f.write_str("rebalance.moves"),
        }
    }
}

/// Asked: a spec as it was admitted. Written by admission on any node, compare-and-set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SpecRecord {
    pub spec: WorkloadSpec,
    /// One for each life of the name: a workload that was deleted and put again is another one.
    pub uid: uuid::Uuid,
    pub generation: Generation,
    /// [`WorkloadSpec::content_hash`].
    pub hash: Digest,
    /// What the components were made into. Use [`SpecRecord::runs`].
    #[serde(flatten)]
    pub recipe: Recipe,
    /// Milliseconds since 1970, by the clock of the node that admitted it. For people only.
    pub admitted_at: u64,
    /// The generation that brought what replicas run, where this one changed other things only. Use
    /// [`SpecRecord::template`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Generation>,
    /// The last record whose template was rolled out whole, where this one has another: replicas run it until they may run
    /// this one, and again if this one is given up. It has none itself. Whether it is still needed says [`Rollout`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<Box<SpecRecord>>,
    /// What was given up for this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aborted: Option<Aborted>,
    /// Of a spec with `config-update: roll`: the configuration that this generation was made for, and that its replicas are
    /// given whenever they start.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub configs: BTreeMap<ConfigName, ConfigStamp>,
    /// Of those names the versions that were given up with a generation before: no other generation is made for them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub declined: BTreeMap<ConfigName, ConfigStamp>,
    /// What replicas may run still that is neither this template nor the stable one, the oldest first. Use
    /// [`SpecRecord::left`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<Left>,
}
impl Record for SpecRecord {
    const BUCKET: Bucket = Bucket::Specs;

    /// A spec is read strictly: one with a field that is unknown would be taken for corrupt and replaced. Whoever knows
    /// nothing of templates would write the record again without them.
    fn schema(&self) -> u32 {
        let stable = self.stable.as_ref().map_or(1, |stable| stable.spec.schema());
        let templates = match (self.declined.is_empty(), self.template.is_some() || self.stable.is_some()) {
            // Whoever does not know what was declined would roll it out again.
            (false, _) => 5,
            (true, true) => 4,
            (true, false) => 1,
        };
        self.spec.schema().max(stable).max(templates)
    }
}

impl SpecRecord {
    /// A record of a spec that has one component, which runs as it is.
    pub fn new(spec: WorkloadSpec, uid: uuid::Uuid, generation: Generation) -> Self {
        Self {
            uid,
            generation,
            hash: spec.content_hash(),
            recipe: Recipe::default(),
            admitted_at: 0,
            template: None,
            stable: None,
            aborted: None,
            configs: BTreeMap::new(),
            declined: BTreeMap::new(),
            left: Vec::new(),
            spec,
        }
    }

    /// What a node runs: with the digest of the only component where nothing was made of it.
    pub fn runs(&self) -> Recipe {
        let only = || match self.spec.only()?.source {
            Source::Stored(digest) => Some(digest),
            Source::File(_) => None,
        };
        Recipe { artifact: self.recipe.artifact.or_else(only), ..self.recipe.clone() }
    }
}

/// What a node can hold, by its own declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Capacity {
    /// Bytes that replicas may reserve ([`WorkloadSpec::memory_reserved`] each).
    pub memory: u64,
    /// Replicas at a time.
    pub slots: u32,
    /// Processors that replicas may reserve, in thousandths ([`ReserveSpec::cpu`](crate::spec::ReserveSpec) each). None from
    /// a node of an older version, which then has none to give.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub millicores: u64,
}

pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a node offers to volumes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct VolumeOffer {
    /// Bytes of all empty volumes together.
    pub bytes: u64,
    /// Directories that guests may be given, with what is below.
    pub host_paths: Vec<String>,
}

impl VolumeOffer {
    /// The first volume of a spec that this node can't have, whatever else it runs.
    pub fn lacks<'a>(&self, spec: &'a WorkloadSpec) -> Option<&'a VolumeSpec> {
        let fits = crate::spec::empty_bytes(&spec.volumes) <= self.bytes;
        spec.volumes.iter().find(|volume| match &volume.host {
            Some(host) => !host.path.is_within(&self.host_paths),
            None => volume.empty.is_some() && !fits,
        })
    }
}

/// Observed: a node is alive. Written by that node only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Session {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub labels: BTreeMap<String, String>,
    pub version: String,
    pub capacity: Capacity,
    #[serde(default)]
    pub volumes: VolumeOffer,
    /// Where this node takes HTTP, for people; peers never connect to it.
    pub http: Option<String>,
    /// The node is leaving: it takes nothing new and hands over what it has.
    pub draining: bool,
    /// What keeps workloads away that do not tolerate it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
    /// The GPUs that replicas may use. None from a node of an older version, which then has none to give.
    #[serde(default, deserialize_with = "crate::gpu::deserialize", skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<Offer>,
    /// The interfaces that components may import here. A node of an older version does not say: it is taken to offer
    /// whatever is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<String>>")]
    pub offers: Option<Offers>,
    /// Components that start here without being fetched and compiled: those that it used last.
    #[serde(default, skip_serializing_if = "Compiled::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub compiled: Compiled,
    /// Milliseconds since 1970, by the node's clock. For people only.
    pub started_at: u64,
    /// Counts renewals, so that each is a change that observers see.
    pub renewals: u64,
}
impl Record for Session {
    const BUCKET: Bucket = Bucket::State;
}

impl Session {
    /// The value of a label, or its id for the label that is the node itself.
    pub fn label(&self, key: &str) -> Option<&str> {
        match key {
            LABEL_NODE => Some(self.node.as_str()),
            _ => self.labels.get(key).map(String::as_str),
        }
    }
}

/// Asked: what an operator wants of a node. Written by any node, compare-and-set; absent where nothing is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NodeOrder {
    pub node: NodeId,
    /// Nothing new is placed there. What runs stays, and comes back after a restart of the node.
    pub cordoned: bool,
    /// What runs there is to be somewhere else, and nothing new is placed there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainOrder>,
}
impl Record for NodeOrder {
    const BUCKET: Bucket = Bucket::Specs;
}

/// How a node is emptied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DrainOrder {
    /// How long what has no other place may stay, counted by the node from when it learns of the order; then it is stopped.
    /// For ever where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Millis>,
}

/// A node in one of its lives.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Holder {
    pub node: NodeId,
    pub incarnation: Incarnation,
}

/// So many failures of a replica in a row are told one by one: enough to tell bad luck from what does not work. More are not,
/// so that one that fails for hours writes nothing.
pub const FAILURES_TOLD: u32 = 3;

/// How far the holder of a slot has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Fetching, compiling, warming up.
    Starting,
    /// Answers requests.
    Ready,
    /// Could not start; the holder tries again with backoff. `message` says why.
    Failed,
}

/// Decided: who holds replica `i` of a workload. Written by the node that claims it, compare-and-set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Slot {
    pub holder: Holder,
    /// The life of the workload that it was claimed for.
    pub uid: uuid::Uuid,
    /// The template that the holder serves, or is starting: [`SpecRecord::template`].
    pub generation: Generation,
    pub phase: Phase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How often in a row the holder failed to come to the template that it is to run, [`FAILURES_TOLD`] at most; absent where
    /// it did not. A holder of an older version does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<u32>,
    /// The draining node that goes on serving until the holder is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover_from: Option<Holder>,
    /// What the holder may use of a GPU of its node, where the spec that it was claimed for asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuGrant>,
    /// The same of `handover-from`, which uses its own node's until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover_gpu: Option<GpuGrant>,
    /// Makes each claim distinct, so that a claimer whose write timed out can see whether it landed.
    pub nonce: uuid::Uuid,
    /// When it was claimed: milliseconds since 1970, by the holder's clock; 0 where nobody wrote it down. For people only.
    #[serde(default)]
    pub claimed_at: u64,
    /// When it came to this phase and generation, as `claimed_at`.
    #[serde(default)]
    pub since: u64,
}
impl Record for Slot {
    const BUCKET: Bucket = Bucket::State;
}

impl Slot {
    /// The same slot with what its holder observed at a time.
    pub fn observed(
        &self,
        generation: Generation,
        phase: Phase,
        message: Option<&str>,
        failures: u32,
        unix_ms: u64,
    ) -> Slot {
        let is_so_already = (self.generation, self.phase) == (generation, phase);
        Slot {
            since: if is_so_already { self.since } else { unix_ms },
            generation,
            phase,
            message: message.map(|text| one_line(text, MESSAGE_BYTES_MAX)),
            failures: Some(failures.min(FAILURES_TOLD)).filter(|failures| *failures > 0),
            // The old holder serves until we do.
            handover_from: self.handover_from.clone().filter(|_| phase != Phase::Ready),
            handover_gpu: self.handover_gpu.clone().filter(|_| phase != Phase::Ready),
            ..self.clone()
        }
    }

    /// The node that answers requests for the slot now.
    pub fn serving(&self) -> Option<&Holder> {
        match self.phase {
            Phase::Ready => Some(&self.holder),
            Phase::Starting | Phase::Failed => self.handover_from.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::ComponentName,
        recipe::{HostEdge, HostedPart},
        spec::PartRole,
    };

    fn slot() -> Slot {
        Slot {
            holder: Holder { node: NodeId::new("n1").unwrap(), incarnation: uuid::Uuid::from_u128(1) },
            uid: uuid::Uuid::from_u128(2),
            generation: Generation(3),
            phase: Phase::Ready,
            message: None,
            failures: None,
            handover_from: None,
            gpu: None,
            handover_gpu: None,
            nonce: uuid::Uuid::from_u128(4),
            claimed_at: 0,
            since: 0,
        }
    }

    #[test]
    fn a_record_of_the_next_minor_schema_is_read_and_one_of_the_next_major_is_refused() {
        let text = String::from_utf8(slot().encode().to_vec()).unwrap();
        let extended = text.replace("\"phase\"", "\"of-tomorrow\":{\"a\":1},\"phase\"");
        assert_eq!(Slot::decode(extended.as_bytes()).unwrap(), slot());
        let newer = text.replace("\"v\":1", &format!("\"v\":{}", SCHEMA + 1));
        assert_eq!(Slot::decode(newer.as_bytes()), Err(DecodeError::Newer(SCHEMA + 1)));
        for garbage in ["", "{}", "null", "{\"v\":1}", "\u{0}"] {
            assert!(matches!(Slot::decode(garbage.as_bytes()), Err(DecodeError::Malformed(_))), "{garbage}");
        }
    }

    #[test]
    fn a_spec_runs_its_only_component_or_what_several_were_composed_into() {
        let (one, whole) = (Digest::of(b"one"), Digest::of(b"whole"));
        let of = |components: &str, artifact: Option<Digest>| {
            let spec = crate::spec::parse(format!("name: a\ncomponents: [{components}]").as_bytes()).unwrap();
            let recipe = Recipe { artifact, ..Recipe::default() };
            SpecRecord { recipe, ..SpecRecord::new(spec, uuid::Uuid::nil(), Generation::FIRST) }
        };
        let a = format!("{{name: a, source: '{one}'}}");
        let b = format!("{{name: b, source: '{one}'}}");
        let alone = of(&a, None);
        assert_eq!(alone.runs().artifact, Some(one));
        // As it was written before several components could be.
        let text = String::from_utf8(alone.encode().to_vec()).unwrap();
        assert!(["artifact", "parts", "edges", "recipe"].iter().all(|field| !text.contains(field)), "{text}");
        assert_eq!(SpecRecord::decode(&alone.encode()).unwrap(), alone);
        let composed = of(&format!("{a}, {b}"), Some(whole));
        assert_eq!(composed.runs().artifact, Some(whole));
        assert_eq!(SpecRecord::decode(&composed.encode()).unwrap(), composed);
        assert_eq!(of(&format!("{a}, {b}"), None).runs().artifact, None);
    }

    #[test]
    fn what_the_host_links_is_in_the_record_beside_the_artifact() {
        let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
        let text = format!(
            "name: a\ncomponents: [{{name: api, source: '{one}'}}]\nservices: [{{name: pool, source: '{two}'}}]\n"
        );
        let spec = crate::spec::parse(text.as_bytes()).unwrap();
        let pool = ComponentName::new("pool").unwrap();
        let edge =
            HostEdge { from: None, import: "x:y/z@1.0.0".into(), to: pool.clone(), export: "x:y/z@1.1.0".into() };
        let recipe = Recipe {
            artifact: Some(one),
            parts: vec![HostedPart { name: pool, digest: two, role: PartRole::Service }],
            edges: vec![edge],
            needs: ["wasi:http@0.2".to_owned()].into(),
        };
        let record = SpecRecord { recipe, ..SpecRecord::new(spec, uuid::Uuid::nil(), Generation::FIRST) };
        assert_eq!(SpecRecord::decode(&record.encode()).unwrap(), record);
        assert_eq!(record.runs(), record.recipe);
        assert_eq!(record.runs().digests().collect::<Vec<_>>(), [one, two]);
        let value: serde_json::Value = serde_json::from_slice(&record.encode()).unwrap();
        assert_eq!(value["artifact"], one.to_string());
        assert_eq!(
            value["parts"][0],
            serde_json::json!({"name": "pool", "digest": two.to_string(), "role": "service"})
        );
        assert!(value["edges"][0].get("from").is_none());
        // Without the service, there is nothing that a node could run alone.
        let recipe = Recipe { artifact: None, ..record.recipe.clone() };
        assert_eq!(SpecRecord { recipe, ..record }.runs().artifact, None);
    }

    #[test]
    fn a_spec_says_the_least_schema_that_reads_it() {
        let source = Digest::of(b"one");
        let schema = |component: &str, more: &str| {
            let text = format!("name: a\ncomponents: [{{name: api, source: '{source}'{component}}}]\n{more}");
            let spec = crate::spec::parse(text.as_bytes()).unwrap();
            let record = SpecRecord::new(spec, uuid::Uuid::nil(), Generation::FIRST);
            assert_eq!(SpecRecord::decode(&record.encode()).unwrap(), record, "{text}");
            let value: serde_json::Value = serde_json::from_slice(&record.encode()).unwrap();
            value["v"].as_u64().unwrap()
        };
        assert_eq!(schema("", ""), 1);
        assert_eq!(schema(", env: {A: b}", "replicas: 3\nreuse: off\nlimits: {memory: 8MiB}\nclass: strict"), 1);
        let two = format!("}}, {{name: main, source: '{source}'");
        assert_eq!(schema(&two, "compose: {links: [{from: api, import: 'x:y/z', to: main}]}"), 1);
        let wac = "compose: {wac: 'package a:b; let api = new component:api { ... }; export api...;'}";
        let service = format!("services: [{{name: pool, source: '{source}'}}]");
        for (component, more) in [
            (", lazy: true", ""),
            (", lazy: true, idle: 1s", ""),
            (", isolate: true", ""),
            (", lazy: true, grants: {http-out: ['*']}", ""),
            ("", wac),
            ("", "compose: {optimize: max}"),
            ("", &service),
            ("", "schedule: [{cron: '@daily'}]"),
            ("", "reuse: {requests: 5}"),
            ("", "grants: {http-out: ['*']}"),
            ("", "volumes: [{name: scratch, mount: /data, empty: {size: 1MiB}}]"),
        ] {
            let component = format!("{component}{two}");
            assert_eq!(schema(&component, more), 2, "{component} {more}");
        }
        assert_eq!(schema("", "http: {routes: [{host: a, path: /b, timeout: 1s}]}"), 1);
        for route in [
            "path: {exact: /b}",
            "methods: [GET]",
            "headers: {x-a: b}",
            "query: {a: b}",
            "body-limit: 1KiB",
            "rewrite: {prefix: /}",
            "redirect: {scheme: https}",
            "retry: {attempts: 1}",
            "cors: {origins: ['*']}",
            "split: [{workload: next, percent: 10}]",
            "split: [{workload: next, percent: 10}], split-by: {cookie: id}",
        ] {
            assert_eq!(schema("", &format!("http: {{routes: [{{host: a, {route}}}]}}")), 3, "{route}");
        }
        let service =
            |grant: &str| format!("services: [{{name: pool, source: '{source}', grants: {{http-out: ['{grant}']}}}}]");
        for grant in ["http://pay.lattice", "http://pay.lattice/x", "http://*.lattice"] {
            assert_eq!(schema("", &format!("grants: {{http-out: ['https://a.test', '{grant}']}}")), 3, "{grant}");
            let component = format!(", lazy: true, grants: {{http-out: ['{grant}']}}{two}");
            assert_eq!(schema(&component, ""), 3, "{grant}");
            assert_eq!(schema("", &service(grant)), 3, "{grant}");
        }
        assert_eq!(schema("", &service("http://pay.lattice.test")), 2);
        assert_eq!(schema("", "placement: {require: [zone == a]}"), 1);
        assert_eq!(schema("", "rollout: {max-surge: 25%}"), 1, "the default");
        assert_eq!(schema("", "rollout: {max-surge: 1}"), 4);
        assert_eq!(schema("", "rollout: {steps: [{replicas: 1}]}"), 4);
        assert_eq!(schema("", "replicas: 2\nrollout: {steps: [{weight: 5}]}"), 5);
        assert_eq!(schema("", "rollout: {analysis: {max-p95: 1s}}"), 5);
        assert_eq!(schema("", "replicas: 2\nrollout: {steps: [{replicas: 1, weight: 5}]}"), 5);
        for placement in ["require: [cores > 8]", "daemon: true", "priority: 1", "spread: [{over: zone}]"] {
            assert_eq!(schema("", &format!("placement: {{{placement}}}")), 3, "{placement}");
        }
        assert_eq!(schema("", "reuse: {warm-up: /ready}"), 4);
        let volume = "volumes: [{name: scratch, mount: /data, empty: {size: 1MiB}}]";
        let service = format!("services: [{{name: pool, source: '{source}', volumes: [scratch]}}]\n{volume}");
        assert_eq!(schema("", &service), 4);
        let lazy = format!("}}, {{name: rare, source: '{source}', lazy: true, volumes: [scratch]");
        assert_eq!(schema(&lazy, volume), 4);
        assert_eq!(schema("", "autoscale: {max: 3}"), 4);
        for target in ["cpu: 70", "pending: {stream: orders, consumer: shop, each: 100}"] {
            assert_eq!(schema("", &format!("autoscale: {{max: 3, target: {{{target}}}}}")), 6, "{target}");
        }
        for named in ["config-from: [shop]", "env-from: [shop]"] {
            assert_eq!(schema(&format!(", {named}"), ""), 4, "{named}");
            assert_eq!(schema("", &format!("services: [{{name: pool, source: '{source}', {named}}}]")), 4, "{named}");
        }
        assert_eq!(schema("", "config-update: roll"), 4);
        assert_eq!(schema("", "gpu: {}"), 6);
    }

    /// Names below `.lattice` were once like any others. What was stored then is read, and grants nothing.
    #[test]
    fn a_spec_that_could_be_put_once_is_read() {
        use crate::spec::{
            Grants,
            grants::{HttpTarget, Scheme, Transport},
        };
        let text = format!("name: a\ncomponents: [{{name: api, source: '{}'}}]\n", Digest::of(b"one"));
        let spec = crate::spec::parse(text.as_bytes()).unwrap();
        let record = SpecRecord::new(spec, uuid::Uuid::nil(), Generation::FIRST);
        let mut value: serde_json::Value = serde_json::from_slice(&record.encode()).unwrap();
        value["v"] = 2.into();
        let http_out = ["http://x.y.lattice:8080", "https://pay.lattice", "http://*.pay.lattice"];
        let connect = ["tcp://db.lattice:5432", "udp://*.lattice:53"];
        value["spec"]["grants"] = serde_json::json!({"http-out": http_out, "connect": connect});
        let read = SpecRecord::decode(&serde_json::to_vec(&value).unwrap()).unwrap();
        let grants: &Grants = &read.spec.grants;
        assert_eq!((grants.http_out.len(), grants.connect.len()), (3, 2));
        for (scheme, authority) in
            [(Scheme::Http, "x.y.lattice:8080"), (Scheme::Https, "pay.lattice"), (Scheme::Http, "x.pay.lattice")]
        {
            assert!(!grants.allow_http(&HttpTarget::new(scheme, authority, "/").unwrap()), "{authority}");
        }
        for (transport, host, port) in [(Transport::Tcp, "db.lattice", 5432), (Transport::Udp, "x.lattice", 53)] {
            let host = host.parse().unwrap();
            assert!(!grants.allow_connect(transport, &host, port) && !grants.allow_lookup(&host), "{host}");
        }
        // Written again it is what it was, for those too who know nothing of workloads' names.
        let again: serde_json::Value = serde_json::from_slice(&read.encode()).unwrap();
        assert_eq!((&again["v"], &again["spec"]["grants"]), (&2.into(), &value["spec"]["grants"]));
    }

    #[test]
    fn keys_round_trip() {
        for key in [
            Key::Spec(WorkloadName::new("hello").unwrap()),
            Key::Node(NodeId::new("n1").unwrap()),
            Key::Config(ConfigName::new("shop-config").unwrap()),
            Key::Session(NodeId::new("n1").unwrap()),
            Key::Slot("hello.3".parse().unwrap()),
            Key::Cron(WorkloadName::new("hello").unwrap()),
            Key::Rollout(WorkloadName::new("hello").unwrap()),
            Key::Scale(WorkloadName::new("hello").unwrap()),
            Key::Rebalance,
        ] {
            assert_eq!(Key::parse(key.bucket(), &key.to_string()), Some(key));
        }
        for bad in
            ["slot.hello", "slot.Hello.1", "cron.hello.0", "session.a.b", "rebalance.x", "other.x", "", "slot.hello.01"]
        {
            assert_eq!(Key::parse(Bucket::State, bad), None, "{bad}");
        }
    }
}
