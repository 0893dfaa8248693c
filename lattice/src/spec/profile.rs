//! Profiles of NATS: named behaviours that a workload binds to core NATS and to its buckets. Which operations belong to one, and
//! what a bucket must be like for what the profile promises, are decided here and in [`crate::binding`]; `wit/nats/worlds.wit` has
//! a world of the same name for each, with the promise in words.

use super::{Access, BucketName, SpecError, is_default};
use crate::units::{Bytes, Millis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt};

/// Copies of a stream that NATS can have.
const REPLICAS_MAX: u8 = 5;
/// Changes of a key that a bucket can keep.
const HISTORY_MAX: u8 = 64;
const TAGS_MAX: usize = 16;

/// A bucket behind one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BucketGrant {
    /// The JetStream KV bucket, which must be there when the spec is put: `nats kv add shop-carts` makes one. Not one of the
    /// lattice's own.
    pub bucket: BucketName,
    /// `read-only`: what changes something is denied. Default `read-write`. Not beside `profiles`, which say more.
    #[serde(default, skip_serializing_if = "is_default")]
    pub access: Access,
    /// How the guest behaves with it: the worlds of `wit/nats` by these names say what each one promises. Operations that none of
    /// them has are refused when the spec is put, where the component imports them, and denied when they are called. A bucket that
    /// cannot keep the promise of one of them is refused as well. Default: every operation that `access` allows.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub profiles: BTreeSet<Profile>,
    /// What the bucket must be like when the spec is put.
    #[serde(default, skip_serializing_if = "is_default")]
    pub require: BucketNeeds,
}

/// A behaviour with a bucket. Each of them reads: `get`, `get-revision`, `keys`, `history`, `info`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Changes nothing.
    KvReader,
    /// Changes keys under optimistic concurrency, so that no update is lost: `create` and `update`; `delete` and `purge` with a
    /// revision.
    KvCas,
    /// Keeps values that expire: `put`, `create` and `update` with a `ttl`; `delete` and `purge`. The bucket has `key-ttl`, and a
    /// history of one: behind a value that expires an older one would appear.
    KvCache,
    /// Is told of every change: `watch`. Where something expires in the bucket, it keeps markers that say so.
    KvWatcher,
    /// Changes several keys together, or none of them, each with the revision that it expects: `transact`. The bucket takes atomic batches.
    KvTransact,
}

impl Profile {
    pub fn as_str(self) -> &'static str {
        match self {
            Profile::KvReader => "kv-reader",
            Profile::KvCas => "kv-cas",
            Profile::KvCache => "kv-cache",
            Profile::KvWatcher => "kv-watcher",
            Profile::KvTransact => "kv-transact",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A behaviour with core NATS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CoreProfile {
    /// Sends messages and needs no answer: `publish`, `flush`.
    Publisher,
    /// Asks others and waits for an answer: `request`.
    Requester,
    /// Sees messages as they come: `subscribe`.
    Subscriber,
}

impl CoreProfile {
    pub fn as_str(self) -> &'static str {
        match self {
            CoreProfile::Publisher => "publisher",
            CoreProfile::Requester => "requester",
            CoreProfile::Subscriber => "subscriber",
        }
    }

    fn of(operation: CoreOperation) -> Self {
        match operation {
            CoreOperation::Publish | CoreOperation::Flush => CoreProfile::Publisher,
            CoreOperation::Request => CoreProfile::Requester,
            CoreOperation::Subscribe => CoreProfile::Subscriber,
        }
    }
}

/// What a bucket must be like. Each is the least that is good enough; what is left out may be as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BucketNeeds {
    /// Copies of it, 1 to 5. With three it outlives the loss of one server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 5))]
    pub replicas: Option<u8>,
    /// Where it is: `file` outlives a restart of its servers, `memory` does not. Exactly this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// Changes that are kept of each key, 1 to 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub history: Option<u8>,
    /// For how long a change is kept; longer where nothing expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Millis>,
    /// Keys can have a time of their own. `false` asks nothing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub key_ttl: bool,
    /// For how long a marker says that a key expired, 1 s or more: who watches and was away for less learns of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marker_ttl: Option<Millis>,
    /// Any replica answers reads. `false` asks nothing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub direct: bool,
    /// Bytes of a value with its headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_value: Option<Bytes>,
    /// Bytes of all that it keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<Bytes>,
    /// Tags of the servers that it is placed on, all of these: `[region:eu]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tags: Vec<String>,
    /// The cluster that it is placed in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}

/// What core NATS must be like.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CoreNeeds {
    /// Bytes of a message with its headers that the server carries: at least so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_payload: Option<Bytes>,
}

/// Where a stream is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Storage {
    File,
    Memory,
}

impl Storage {
    pub fn as_str(self) -> &'static str {
        match self {
            Storage::File => "file",
            Storage::Memory => "memory",
        }
    }
}

/// Operations of `lattice:nats/core`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CoreOperation {
    Publish,
    Flush,
    Request,
    Subscribe,
}

impl CoreOperation {
    pub const ALL: [Self; 4] = [Self::Publish, Self::Flush, Self::Request, Self::Subscribe];

    /// As the WIT has it, and so the import.
    pub fn as_str(self) -> &'static str {
        match self {
            CoreOperation::Publish => "publish",
            CoreOperation::Flush => "flush",
            CoreOperation::Request => "request",
            CoreOperation::Subscribe => "subscribe",
        }
    }
}

/// Operations of a bucket, by the interface of `lattice:nats` that has them, that some profile lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KvOperation {
    Put,
    Create,
    Update,
    Delete,
    Purge,
    Increment,
    Watch,
    Transact,
}

impl KvOperation {
    pub const ALL: [Self; 8] = [
        Self::Put,
        Self::Create,
        Self::Update,
        Self::Delete,
        Self::Purge,
        Self::Increment,
        Self::Watch,
        Self::Transact,
    ];

    /// As the WIT has it.
    pub fn as_str(self) -> &'static str {
        match self {
            KvOperation::Put => "put",
            KvOperation::Create => "create",
            KvOperation::Update => "update",
            KvOperation::Delete => "delete",
            KvOperation::Purge => "purge",
            KvOperation::Increment => "increment",
            KvOperation::Watch => "watch",
            KvOperation::Transact => "transact",
        }
    }

    /// The one that a component imports: a function of an interface without its version.
    pub fn imported(interface: &str, function: &str) -> Option<Self> {
        let name = match interface {
            "lattice:nats/kv" => function.strip_prefix("[method]bucket.").filter(|name| *name != "transact")?,
            "lattice:nats/transactions" => Some(function).filter(|name| *name == "transact")?,
            _ => return None,
        };
        Self::ALL.into_iter().find(|operation| operation.as_str() == name)
    }

    fn changes(self) -> bool {
        self != KvOperation::Watch
    }
}

/// What a call says beside its operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Given {
    /// The change that it expects, in whatever way: `create` expects none.
    pub revision: bool,
    pub ttl: bool,
}

impl Given {
    const ALL: Self = Self { revision: true, ttl: true };
}

/// Why an operation on a bucket is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breach {
    ReadOnly,
    /// None of the profiles has it.
    NotInProfile,
    /// It must say which revision it expects.
    NoRevision,
    /// What is written must expire.
    NoTtl,
}

impl BucketGrant {
    /// Whether the operation may be made like this.
    pub fn judge(&self, operation: KvOperation, given: Given) -> Result<(), Breach> {
        if self.profiles.is_empty() {
            let is_denied = self.access == Access::ReadOnly && operation.changes();
            return if is_denied { Err(Breach::ReadOnly) } else { Ok(()) };
        }
        let mut breach = Breach::NotInProfile;
        for profile in &self.profiles {
            match judge(*profile, operation, given) {
                Ok(()) => return Ok(()),
                Err(Breach::NotInProfile) => {}
                Err(nearer) => breach = nearer,
            }
        }
        Err(breach)
    }

    /// Whether there is something that the bucket must be like.
    pub fn is_bound(&self) -> bool {
        !self.profiles.is_empty() || !is_default(&self.require)
    }

    /// Whether there is a way to make it.
    pub fn has(&self, operation: KvOperation) -> bool {
        self.profiles.is_empty() || self.judge(operation, Given::ALL).is_ok()
    }
}

fn judge(profile: Profile, operation: KvOperation, given: Given) -> Result<(), Breach> {
    use KvOperation as Do;
    match (profile, operation) {
        (Profile::KvWatcher, Do::Watch) | (Profile::KvCache, Do::Delete | Do::Purge) => Ok(()),
        (Profile::KvCas, Do::Create | Do::Update) | (Profile::KvTransact, Do::Transact) => Ok(()),
        (Profile::KvCas, Do::Delete | Do::Purge) => given.revision.then_some(()).ok_or(Breach::NoRevision),
        (Profile::KvCache, Do::Put | Do::Create | Do::Update) => given.ttl.then_some(()).ok_or(Breach::NoTtl),
        _ => Err(Breach::NotInProfile),
    }
}

/// Whether core NATS may be used like this. Without profiles everything that is granted may.
pub fn allows(profiles: &BTreeSet<CoreProfile>, operation: CoreOperation) -> bool {
    profiles.is_empty() || profiles.contains(&CoreProfile::of(operation))
}

/// Names with commas between them.
pub fn listed(names: impl IntoIterator<Item = &'static str>) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}

pub(super) fn check(field: &str, grant: &BucketGrant) -> Result<(), SpecError> {
    let BucketNeeds { replicas, history, marker_ttl, tags, cluster, .. } = &grant.require;
    let error = |name: &str, text: String| Err(SpecError::new(format!("{field}.{name}"), text));
    if grant.access != Access::default() && !grant.profiles.is_empty() {
        return error("access", "profiles say what is allowed".into())
            .map_err(|error| error.hint("leave `access` out; the profile kv-reader changes nothing"));
    }
    check_replicas(field, *replicas)?;
    if history.is_some_and(|history| !(1..=HISTORY_MAX).contains(&history)) {
        return error("require.history", format!("not from 1 to {HISTORY_MAX}"));
    }
    if grant.profiles.contains(&Profile::KvCache) && history.is_some_and(|history| history > 1) {
        return error("require.history", "the profile kv-cache has a history of one".into()).map_err(|error| {
            error.hint("behind a value that expires an older one would appear: leave one of the two out")
        });
    }
    if marker_ttl.is_some_and(|ttl| ttl < Millis::from_secs(1)) {
        return error("require.marker-ttl", "at least 1s".into());
    }
    check_placement(field, tags, cluster.as_ref())
}

/// `require.replicas` of the grant at this field.
pub(super) fn check_replicas(field: &str, replicas: Option<u8>) -> Result<(), SpecError> {
    if replicas.is_some_and(|replicas| !(1..=REPLICAS_MAX).contains(&replicas)) {
        return Err(SpecError::new(format!("{field}.require.replicas"), format!("not from 1 to {REPLICAS_MAX}")));
    }
    Ok(())
}

/// `require.tags` and `require.cluster`.
pub(super) fn check_placement(field: &str, tags: &[String], cluster: Option<&String>) -> Result<(), SpecError> {
    let error = |name: &str, text: String| Err(SpecError::new(format!("{field}.{name}"), text));
    if tags.len() > TAGS_MAX {
        return error("require.tags", format!("at most {TAGS_MAX} tags are allowed"));
    }
    // They are told to people as arguments of a command.
    let is_name = |text: &String| {
        (1..=128).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'/'))
    };
    let names = tags.iter().map(|tag| ("require.tags", tag));
    for (name, text) in names.chain(cluster.into_iter().map(|cluster| ("require.cluster", cluster))) {
        if !is_name(text) {
            return error(name, "1 to 128 of a-z, A-Z, 0-9 and '-_.:/' are a name".into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use KvOperation as Do;

    fn grant(profiles: &[Profile]) -> BucketGrant {
        BucketGrant {
            bucket: "b".parse().unwrap(),
            access: Access::default(),
            profiles: profiles.iter().copied().collect(),
            require: BucketNeeds::default(),
        }
    }

    #[test]
    fn each_profile_has_its_operations_and_no_others() {
        let all: Vec<Do> = Do::ALL.to_vec();
        for (profiles, bare, with_revision, with_ttl) in [
            (&[][..], all.clone(), all.clone(), all.clone()),
            (&[Profile::KvReader], vec![], vec![], vec![]),
            (&[Profile::KvWatcher], vec![Do::Watch], vec![Do::Watch], vec![Do::Watch]),
            (&[Profile::KvTransact], vec![Do::Transact], vec![Do::Transact], vec![Do::Transact]),
            (
                &[Profile::KvCas],
                vec![Do::Create, Do::Update],
                vec![Do::Create, Do::Update, Do::Delete, Do::Purge],
                vec![Do::Create, Do::Update],
            ),
            (
                &[Profile::KvCache],
                vec![Do::Delete, Do::Purge],
                vec![Do::Delete, Do::Purge],
                vec![Do::Put, Do::Create, Do::Update, Do::Delete, Do::Purge],
            ),
            (
                &[Profile::KvCas, Profile::KvWatcher],
                vec![Do::Create, Do::Update, Do::Watch],
                vec![Do::Create, Do::Update, Do::Delete, Do::Purge, Do::Watch],
                vec![Do::Create, Do::Update, Do::Watch],
            ),
        ] {
            let grant = grant(profiles);
            let of = |revision, ttl| {
                let allowed = |operation: &&Do| grant.judge(**operation, Given { revision, ttl }).is_ok();
                Do::ALL.iter().filter(allowed).copied().collect::<Vec<_>>()
            };
            assert_eq!(of(false, false), bare, "{profiles:?}");
            assert_eq!(of(true, false), with_revision, "{profiles:?}");
            assert_eq!(of(false, true), with_ttl, "{profiles:?}");
            let any = |operation: &&Do| grant.has(**operation);
            assert_eq!(Do::ALL.iter().filter(any).copied().collect::<Vec<_>>(), of(true, true), "{profiles:?}");
        }
        let cas = grant(&[Profile::KvCas]);
        assert_eq!(cas.judge(Do::Delete, Given::default()), Err(Breach::NoRevision));
        assert_eq!(grant(&[Profile::KvCache]).judge(Do::Put, Given::default()), Err(Breach::NoTtl));
        assert_eq!(cas.judge(Do::Increment, Given::ALL), Err(Breach::NotInProfile));
        let read_only = BucketGrant { access: Access::ReadOnly, ..grant(&[]) };
        assert_eq!(read_only.judge(Do::Put, Given::ALL), Err(Breach::ReadOnly));
        assert_eq!(read_only.judge(Do::Watch, Given::default()), Ok(()));
    }

    #[test]
    fn core_profiles_part_its_operations() {
        let of = |profile| CoreOperation::ALL.into_iter().filter(move |it| allows(&BTreeSet::from([profile]), *it));
        assert!(of(CoreProfile::Publisher).eq([CoreOperation::Publish, CoreOperation::Flush]));
        assert!(of(CoreProfile::Requester).eq([CoreOperation::Request]));
        assert!(of(CoreProfile::Subscriber).eq([CoreOperation::Subscribe]));
        assert!(CoreOperation::ALL.into_iter().all(|operation| allows(&BTreeSet::new(), operation)));
    }
}
