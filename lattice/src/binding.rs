//! Whether a bucket is, on the server, as the spec that binds it requires, what falls short and which command of the `nats`
//! CLI mends it. Streams are in `binding/streams.rs`. Pure: who asks the server, and when, is no matter here.

mod streams;

pub use streams::{make_stream, mend_stream, stream_shortfalls};

use crate::{
    interface::split,
    nats::BucketInfo,
    spec::{
        BucketGrant, BucketName, NatsGrants, Profile,
        profile::{BucketNeeds, CoreOperation, KvOperation, Storage, listed},
        stream_profile::StreamOperation,
    },
    units::{Bytes, Millis},
};
use std::{collections::BTreeSet, time::Duration};

/// Interfaces of `lattice:nats` whose operations profiles are about, without their version.
const CORE: &str = "lattice:nats/core@";
/// Those that are about buckets.
const BUCKETS: [&str; 2] = ["lattice:nats/kv@", "lattice:nats/transactions@"];
/// Those that are about streams.
const STREAMS: [&str; 3] = ["lattice:nats/jetstream@", "lattice:nats/counters@", "lattice:nats/schedules@"];
/// For how long a marker stays where nobody asks for more.
const MARKER_TTL: Millis = Millis::from_secs(3600);

/// Something that is not as it is required.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortfall {
    /// Of the bucket's grant: `require.replicas`, or `profiles` where a profile asks for it.
    pub field: &'static str,
    /// What is there, and what is asked for: `1 replica; 3 are required`.
    pub text: String,
    mend: Mend,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Mend {
    /// Arguments of `nats stream edit`.
    Edit(Vec<String>),
    /// No command changes it in a bucket that is there.
    Remake,
    /// The same where what is in it is of no use to another one: the command that makes that.
    Anew(String),
    /// The limit is the server's.
    Server(&'static str),
}

/// What of a bucket falls short. `payload_bytes_max`: of a message to the server.
pub fn shortfalls(grant: &BucketGrant, found: &BucketInfo, payload_bytes_max: u64) -> Vec<Shortfall> {
    let BucketNeeds {
        replicas,
        storage,
        history,
        max_age,
        key_ttl,
        marker_ttl,
        direct,
        max_value,
        max_bytes,
        tags,
        cluster,
    } = &grant.require;
    let mut all = Vec::new();
    let mut add = |field: &'static str, text: String, mend: Mend| all.push(Shortfall { field, text, mend });
    let edit = |argument: String| Mend::Edit(vec![argument]);

    if let Some(least) = replicas
        && found.replicas < u32::from(*least)
    {
        let text = format!("{} are required, and it has {}", count(*least, "replica"), found.replicas);
        add("require.replicas", text, edit(format!("--replicas={least}")));
    }
    let kept = if found.in_memory { Storage::Memory } else { Storage::File };
    if let Some(storage) = storage
        && *storage != kept
    {
        let text = format!("storage {} is required, and it is in {}", storage.as_str(), kept.as_str());
        add("require.storage", text, Mend::Remake);
    }
    if let Some(least) = history
        && found.history < u32::from(*least)
    {
        let text = format!("{} of a key are required, and it keeps {}", count(*least, "change"), found.history);
        add("require.history", text, edit(format!("--max-msgs-per-subject={least}")));
    }
    if let Some(least) = max_age
        && !found.max_age.is_zero()
        && found.max_age < Duration::from(*least)
    {
        let text = format!("changes must be kept for {least}, and expire after {}", shown(found.max_age));
        add("require.max-age", text, edit(format!("--max-age={least}")));
    }
    let asks_ttl = if *key_ttl {
        Some("require.key-ttl")
    } else {
        grant.profiles.contains(&Profile::KvCache).then_some("profiles")
    };
    let marker = marker_ttl.unwrap_or(MARKER_TTL);
    if let Some(field) = asks_ttl
        && !found.key_ttl
    {
        let text = match field {
            "profiles" => "the profile kv-cache gives each value a time to live, and its keys can have none".to_owned(),
            _ => "keys must be able to have a time to live, and can have none".to_owned(),
        };
        add(field, text, Mend::Edit(with_markers(marker)));
    }
    if let Some(least) = marker_ttl
        && found.marker_ttl < Duration::from(*least)
    {
        let has = if found.marker_ttl.is_zero() {
            "has none".to_owned()
        } else {
            format!("keeps them for {}", shown(found.marker_ttl))
        };
        let text = format!("markers of what expired must be kept for {least}, and it {has}");
        add("require.marker-ttl", text, Mend::Edit(with_markers(*least)));
    }
    if grant.profiles.contains(&Profile::KvCache) && found.history > 1 {
        let text = format!(
            "the profile kv-cache has a history of one, and it keeps {} changes of a key: behind a value that expires an \
             older one would appear",
            found.history
        );
        add("profiles", text, edit("--max-msgs-per-subject=1".to_owned()));
    }
    let expires = found.key_ttl || !found.max_age.is_zero();
    if grant.profiles.contains(&Profile::KvWatcher) && expires && found.marker_ttl.is_zero() && marker_ttl.is_none() {
        let text = "the profile kv-watcher is told of every change, and what expires here leaves no marker".to_owned();
        add("profiles", text, Mend::Edit(with_markers(marker)));
    }
    if grant.profiles.contains(&Profile::KvTransact) && !found.atomic {
        let text =
            "the profile kv-transact changes several keys together, and it takes no atomic batches (nats-server 2.12)";
        add("profiles", text.to_owned(), edit("--allow-batch".to_owned()));
    }
    if *direct && !found.direct {
        let text = "any replica must answer reads, and only the leader does".to_owned();
        add("require.direct", text, edit("--allow-direct".to_owned()));
    }
    if let Some(least) = max_value {
        let limit = found.value_bytes_max;
        if limit > 0 && limit < least.0 {
            let text = format!("values of {least} are required, and it takes {}", Bytes(limit));
            add("require.max-value", text, edit(format!("--max-msg-size={}", least.0)));
        }
        if payload_bytes_max < least.0 {
            let text = format!("values of {least} are required, and the server carries {}", Bytes(payload_bytes_max));
            add("require.max-value", text, Mend::Server("max_payload"));
        }
    }
    if let Some(least) = max_bytes
        && found.bytes_max > 0
        && found.bytes_max < least.0
    {
        let text = format!("room for {least} is required, and it has {}", Bytes(found.bytes_max));
        add("require.max-bytes", text, edit(format!("--max-bytes={}", least.0)));
    }
    if tags.iter().any(|tag| !found.tags.contains(tag)) {
        let text = format!(
            "servers with the tags {} are required, and its tags are {}",
            tags.join(", "),
            or_none(&found.tags)
        );
        let all: BTreeSet<&String> = found.tags.iter().chain(tags).collect();
        add("require.tags", text, Mend::Edit(all.into_iter().map(|tag| format!("--tag={tag}")).collect()));
    }
    if let Some(cluster) = cluster
        && found.cluster.as_ref() != Some(cluster)
    {
        let there = found
            .cluster
            .as_deref()
            .map_or_else(|| "in none that was asked for".to_owned(), |name| format!("in {name}"));
        let text = format!("the cluster {cluster} is required, and it is placed {there}");
        add("require.cluster", text, edit(format!("--cluster={cluster}")));
    }
    all
}

/// The server allows both or none: markers have a time to live themselves.
fn with_markers(ttl: Millis) -> Vec<String> {
    vec!["--allow-msg-ttl".to_owned(), format!("--subject-del-markers-ttl={ttl}")]
}

fn count(number: u8, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn or_none(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn shown(duration: Duration) -> Millis {
    Millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// What a person does about all of these.
pub fn mend(bucket: &BucketName, shortfalls: &[Shortfall]) -> String {
    advice("bucket", &format!("KV_{bucket}"), shortfalls)
}

/// `what`: a bucket, or another thing behind which this stream is.
fn advice(what: &str, stream: &str, shortfalls: &[Shortfall]) -> String {
    let mut arguments: Vec<&str> = Vec::new();
    let mut settings: BTreeSet<&str> = BTreeSet::new();
    for shortfall in shortfalls {
        match &shortfall.mend {
            Mend::Remake => {
                return format!(
                    "no command changes that in a {what} that is there: make another one, copy what is in it, and name that one"
                );
            }
            Mend::Anew(make) => {
                return format!(
                    "no command changes that in a {what} that is there: name another one, which is made like this: {make}"
                );
            }
            Mend::Edit(more) => {
                let new = |argument: &&&String| !arguments.contains(&argument.as_str());
                let more: Vec<&str> = more.iter().filter(|argument| new(&argument)).map(String::as_str).collect();
                arguments.extend(more);
            }
            Mend::Server(setting) => drop(settings.insert(setting)),
        }
    }
    // `nats kv edit` would set back all that it is not told.
    let edit = (!arguments.is_empty()).then(|| format!("nats stream edit {stream} {}", arguments.join(" ")));
    let raise = settings.into_iter().map(|setting| format!("raise {setting} in the configuration of the NATS server"));
    edit.into_iter().chain(raise).collect::<Vec<_>>().join("; ")
}

/// The command that makes a bucket as it is required.
pub fn make(grant: &BucketGrant) -> String {
    let BucketNeeds {
        replicas,
        storage,
        history,
        max_age,
        key_ttl,
        marker_ttl,
        direct: _,
        max_value,
        max_bytes,
        tags,
        cluster,
    } = &grant.require;
    let has_ttl = *key_ttl || marker_ttl.is_some() || grant.profiles.contains(&Profile::KvCache);
    let marker = has_ttl.then(|| marker_ttl.unwrap_or(MARKER_TTL));
    let arguments = [
        replicas.map(|number| format!("--replicas={number}")),
        storage.map(|storage| format!("--storage={}", storage.as_str())),
        history.map(|number| format!("--history={number}")),
        max_age.map(|age| format!("--ttl={age}")),
        marker.map(|ttl| format!("--marker-ttl={ttl}")),
        max_value.map(|bytes| format!("--max-value-size={}", bytes.0)),
        max_bytes.map(|bytes| format!("--max-bucket-size={}", bytes.0)),
        cluster.as_ref().map(|cluster| format!("--cluster={cluster}")),
    ];
    let tags = tags.iter().map(|tag| format!("--tags={tag}"));
    let words = ["nats kv add".to_owned(), grant.bucket.to_string()].into_iter();
    let made = words.chain(arguments.into_iter().flatten()).chain(tags).collect::<Vec<_>>().join(" ");
    // There is no argument for it.
    match grant.profiles.contains(&Profile::KvTransact) {
        true => format!("{made} && nats stream edit KV_{} --allow-batch", grant.bucket),
        false => made,
    }
}

/// A function of an interface that a component imports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Called {
    /// `lattice:nats/kv@0.1.0`
    pub interface: String,
    /// `[method]bucket.put`
    pub function: String,
}

/// Whether profiles are about this interface.
pub fn is_bound(interface: &str) -> bool {
    [CORE].iter().chain(&BUCKETS).chain(&STREAMS).any(|bound| interface.starts_with(bound))
}

/// What a component would be denied whatever it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// Of `grants.nats`.
    pub field: String,
    pub text: String,
    pub hint: String,
}

/// The first of the functions that none of the profiles has. What a component does not call its tools leave out of what it imports.
pub fn misfit<'a>(grants: &NatsGrants, called: impl IntoIterator<Item = &'a Called>) -> Option<Misfit> {
    called.into_iter().find_map(|Called { interface, function }| {
        if interface.starts_with(CORE) {
            let operation = CoreOperation::ALL.into_iter().find(|operation| operation.as_str() == function)?;
            return (!grants.has(operation)).then(|| {
                let profiles = listed(grants.profiles.iter().map(|profile| profile.as_str()));
                misfit_of("profiles".to_owned(), interface, operation.as_str(), &profiles)
            });
        }
        if STREAMS.iter().any(|streams| interface.starts_with(streams)) {
            return misfit_of_streams(grants, interface, function);
        }
        let operation = KvOperation::imported(split(interface).0, function)?;
        if grants.buckets.is_empty() || grants.buckets.values().any(|grant| grant.has(operation)) {
            return None;
        }
        // Which of them it is meant for nobody knows; where there is one, it is that one.
        let field = match grants.buckets.iter().collect::<Vec<_>>().as_slice() {
            [(name, _)] => format!("buckets.{name}.profiles"),
            _ => "buckets".to_owned(),
        };
        let profiles: BTreeSet<Profile> = grants.buckets.values().flat_map(|grant| &grant.profiles).copied().collect();
        let profiles = listed(profiles.iter().map(|profile| profile.as_str()));
        Some(misfit_of(field, interface, operation.as_str(), &profiles))
    })
}

/// The same of streams: where no grant has profiles, everything is allowed.
fn misfit_of_streams(grants: &NatsGrants, interface: &str, function: &str) -> Option<Misfit> {
    let operation = StreamOperation::imported(split(interface).0, function)?;
    if grants.streams.is_empty() || grants.streams.values().any(|grant| grant.has(operation)) {
        return None;
    }
    let field = match grants.streams.iter().collect::<Vec<_>>().as_slice() {
        [(name, _)] => format!("streams.{name}.profiles"),
        _ => "streams".to_owned(),
    };
    let profiles: BTreeSet<_> = grants.streams.values().flat_map(|grant| &grant.profiles).copied().collect();
    let profiles = listed(profiles.iter().map(|profile| profile.as_str()));
    Some(misfit_of(field, interface, operation.as_str(), &profiles))
}

fn misfit_of(field: String, interface: &str, operation: &str, profiles: &str) -> Misfit {
    Misfit {
        field,
        text: format!("the component imports `{operation}` of {interface}, which {profiles} has not: it would be denied"),
        hint: "name a profile that has it, or take the call out of the component; docs/nats.md says which has what. Tools that \
               import all there is need `access` of a bucket, or nothing, in place of `profiles`"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(text: &str) -> BucketGrant {
        serde_json::from_value(serde_saphyr::from_str(text).unwrap()).unwrap()
    }

    fn found() -> BucketInfo {
        BucketInfo { replicas: 1, history: 1, direct: true, ..BucketInfo::default() }
    }

    /// What falls short of a requirement of this one setting, and that the opposite does not.
    fn check(require: &str, bad: BucketInfo, good: BucketInfo, field: &str, command: &str) {
        let grant = grant(&format!("{{bucket: b, {require}}}"));
        let short = shortfalls(&grant, &bad, 1 << 20);
        let fields: Vec<&str> = short.iter().map(|short| short.field).collect();
        assert_eq!(fields, [field], "{require}: {short:?}");
        assert_eq!(mend(&grant.bucket, &short), command, "{require}");
        assert_eq!(shortfalls(&grant, &good, 1 << 20), [], "{require}");
    }

    #[test]
    fn each_requirement_is_checked_and_says_what_mends_it() {
        let hour = Duration::from_secs(3600);
        let edit = |arguments: &str| format!("nats stream edit KV_b {arguments}");
        let remake = mend(&"b".parse().unwrap(), &[Shortfall { field: "", text: String::new(), mend: Mend::Remake }]);
        check(
            "require: {replicas: 3}",
            found(),
            BucketInfo { replicas: 5, ..found() },
            "require.replicas",
            &edit("--replicas=3"),
        );
        check(
            "require: {storage: file}",
            BucketInfo { in_memory: true, ..found() },
            found(),
            "require.storage",
            &remake,
        );
        check(
            "require: {history: 5}",
            found(),
            BucketInfo { history: 5, ..found() },
            "require.history",
            &edit("--max-msgs-per-subject=5"),
        );
        check(
            "require: {max-age: 2h}",
            BucketInfo { max_age: hour, ..found() },
            found(),
            "require.max-age",
            &edit("--max-age=2h"),
        );
        let markers = edit("--allow-msg-ttl --subject-del-markers-ttl=1h");
        let with_markers = BucketInfo { key_ttl: true, marker_ttl: hour, ..found() };
        check("require: {key-ttl: true}", found(), with_markers.clone(), "require.key-ttl", &markers);
        check("require: {marker-ttl: 1h}", found(), with_markers.clone(), "require.marker-ttl", &markers);
        check("profiles: [kv-cache]", found(), with_markers.clone(), "profiles", &markers);
        check(
            "profiles: [kv-cache]",
            BucketInfo { history: 2, ..with_markers.clone() },
            BucketInfo { key_ttl: true, ..found() },
            "profiles",
            &edit("--max-msgs-per-subject=1"),
        );
        for expiring in [BucketInfo { key_ttl: true, ..found() }, BucketInfo { max_age: hour, ..found() }] {
            check("profiles: [kv-watcher]", expiring, with_markers.clone(), "profiles", &markers);
        }
        let atomic = BucketInfo { atomic: true, ..found() };
        check("profiles: [kv-transact]", found(), atomic, "profiles", &edit("--allow-batch"));
        let made = make(&grant("{bucket: b, profiles: [kv-transact], require: {replicas: 3}}"));
        assert_eq!(made, "nats kv add b --replicas=3 && nats stream edit KV_b --allow-batch");
        check(
            "require: {direct: true}",
            BucketInfo { direct: false, ..found() },
            found(),
            "require.direct",
            &edit("--allow-direct"),
        );
        check(
            "require: {max-value: 64KiB}",
            BucketInfo { value_bytes_max: 1024, ..found() },
            found(),
            "require.max-value",
            &edit("--max-msg-size=65536"),
        );
        check(
            "require: {max-bytes: 1MiB}",
            BucketInfo { bytes_max: 1024, ..found() },
            found(),
            "require.max-bytes",
            &edit("--max-bytes=1048576"),
        );
        check(
            "require: {tags: ['region:eu']}",
            BucketInfo { tags: vec!["ssd".into()], ..found() },
            BucketInfo { tags: vec!["ssd".into(), "region:eu".into()], ..found() },
            "require.tags",
            &edit("--tag=region:eu --tag=ssd"),
        );
        check(
            "require: {cluster: east}",
            found(),
            BucketInfo { cluster: Some("east".into()), ..found() },
            "require.cluster",
            &edit("--cluster=east"),
        );
    }

    #[test]
    fn all_that_falls_short_is_told_with_one_command() {
        let grant = grant(
            "{bucket: b, profiles: [kv-cache, kv-watcher], require: {replicas: 3, key-ttl: true, max-value: 2MiB}}",
        );
        let short = shortfalls(&grant, &BucketInfo { max_age: Duration::from_secs(60), ..found() }, 1 << 20);
        let fields: Vec<&str> = short.iter().map(|short| short.field).collect();
        assert_eq!(fields, ["require.replicas", "require.key-ttl", "profiles", "require.max-value"]);
        assert_eq!(
            mend(&grant.bucket, &short),
            "nats stream edit KV_b --replicas=3 --allow-msg-ttl --subject-del-markers-ttl=1h; raise max_payload in the \
             configuration of the NATS server"
        );
        assert_eq!(make(&grant), "nats kv add b --replicas=3 --marker-ttl=1h --max-value-size=2097152");
        assert_eq!(shortfalls(&super::tests::grant("{bucket: b, profiles: [kv-cas, kv-reader]}"), &found(), 0), []);
    }

    #[test]
    fn what_a_component_imports_fits_its_profiles() {
        let called = |interface: &str, function: &str| {
            vec![Called { interface: interface.to_owned(), function: function.to_owned() }]
        };
        let put = called("lattice:nats/kv@0.1.0", "[method]bucket.put");
        let request = called("lattice:nats/core@0.1.0", "request");
        let transact = called("lattice:nats/transactions@0.1.0", "transact");
        let read = called("lattice:nats/jetstream@0.1.0", "[method]stream.read");
        let add = called("lattice:nats/counters@0.1.0", "[method]counters.add");
        for (grants, called, field) in [
            ("{}", &put, None),
            ("{buckets: {a: {bucket: a}}}", &put, None),
            ("{buckets: {a: {bucket: a, profiles: [kv-cas]}}}", &put, Some("buckets.a.profiles")),
            ("{buckets: {a: {bucket: a, profiles: [kv-cas]}, c: {bucket: c, profiles: [kv-cache]}}}", &put, None),
            (
                "{buckets: {a: {bucket: a, profiles: [kv-cas]}, c: {bucket: c, profiles: [kv-reader]}}}",
                &put,
                Some("buckets"),
            ),
            (
                "{buckets: {a: {bucket: a, profiles: [kv-reader]}}}",
                &called("lattice:nats/kv@0.1.0", "[method]bucket.get"),
                None,
            ),
            (
                "{buckets: {a: {bucket: a, profiles: [kv-reader]}}}",
                &called("other:nats/kv@0.1.0", "[method]bucket.put"),
                None,
            ),
            ("{buckets: {a: {bucket: a, profiles: [kv-cas]}}}", &transact, Some("buckets.a.profiles")),
            ("{buckets: {a: {bucket: a, profiles: [kv-cas, kv-transact]}}}", &transact, None),
            ("{}", &request, None),
            ("{streams: {s: {stream: S, profiles: [work-queue], consumers: [c]}}}", &read, Some("streams.s.profiles")),
            ("{streams: {s: {stream: S, profiles: [event-store]}}}", &read, None),
            ("{streams: {s: {stream: S, profiles: [event-store]}}}", &add, Some("streams.s.profiles")),
            ("{streams: {s: {stream: S, profiles: [counter], publish: [a]}}}", &add, None),
            ("{streams: {s: {stream: S, profiles: [counter], publish: [a]}}}", &read, Some("streams.s.profiles")),
            ("{streams: {s: {stream: S}}}", &read, None),
            ("{}", &read, None),
            ("{publish: [a], profiles: [publisher]}", &request, Some("profiles")),
            ("{publish: [a], profiles: [publisher, requester]}", &request, None),
        ] {
            let grants: NatsGrants = serde_json::from_value(serde_saphyr::from_str(grants).unwrap()).unwrap();
            assert_eq!(misfit(&grants, called).map(|misfit| misfit.field).as_deref(), field, "{grants:?}");
        }
    }
}
