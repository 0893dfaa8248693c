//! The same of streams.

use super::{Mend, Shortfall, advice, count, or_none, shown, with_markers};
use crate::{
    nats::{Discard, StreamInfo},
    spec::{StreamGrant, StreamName, StreamNeeds, StreamProfile, profile::Storage, stream_profile::Retention},
    units::Bytes,
};
use std::{collections::BTreeSet, time::Duration};

/// What of a stream falls short. `payload_bytes_max`: of a message to the server.
pub fn stream_shortfalls(grant: &StreamGrant, found: &StreamInfo, payload_bytes_max: u64) -> Vec<Shortfall> {
    let mut all = Vec::new();
    let mut add = |field: &'static str, text: String, mend: Mend| all.push(Shortfall { field, text, mend });
    let edit = |argument: String| Mend::Edit(vec![argument]);
    of_profiles(grant, found, &mut add);
    let StreamNeeds {
        replicas,
        storage,
        retention,
        duplicate_window,
        max_age,
        max_messages,
        max_bytes,
        max_message,
        atomic,
        message_ttl,
        marker_ttl,
        direct,
        append_only,
        tags,
        cluster,
    } = &grant.require;

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
    if let Some(retention) = retention
        && *retention != found.retention
    {
        let text = format!("retention {} is required, and it is {}", retention.as_str(), found.retention.as_str());
        add("require.retention", text, Mend::Remake);
    }
    if let Some(least) = duplicate_window
        && found.duplicate_window < Duration::from(*least)
    {
        let has = shown(found.duplicate_window);
        let text = format!("message ids must be remembered for {least}, and are for {has}");
        add("require.duplicate-window", text, edit(format!("--dupe-window={least}")));
    }
    if let Some(least) = max_age
        && !found.max_age.is_zero()
        && found.max_age < Duration::from(*least)
    {
        let text = format!("messages must be kept for {least}, and expire after {}", shown(found.max_age));
        add("require.max-age", text, edit(format!("--max-age={least}")));
    }
    if let Some(least) = max_messages
        && found.messages_max > 0
        && found.messages_max < *least
    {
        let text = format!("room for {least} messages is required, and it has {}", found.messages_max);
        add("require.max-messages", text, edit(format!("--max-msgs={least}")));
    }
    if let Some(least) = max_bytes
        && found.bytes_max > 0
        && found.bytes_max < least.0
    {
        let text = format!("room for {least} is required, and it has {}", Bytes(found.bytes_max));
        add("require.max-bytes", text, edit(format!("--max-bytes={}", least.0)));
    }
    if let Some(least) = max_message {
        let limit = found.message_bytes_max;
        if limit > 0 && limit < least.0 {
            let text = format!("messages of {least} are required, and it takes {}", Bytes(limit));
            add("require.max-message", text, edit(format!("--max-msg-size={}", least.0)));
        }
        if payload_bytes_max < least.0 {
            let text = format!("messages of {least} are required, and the server carries {}", Bytes(payload_bytes_max));
            add("require.max-message", text, Mend::Server("max_payload"));
        }
    }
    if *atomic && !found.atomic {
        let text = "it must take atomic batches, and takes none".to_owned();
        add("require.atomic", text, edit("--allow-batch".to_owned()));
    }
    if *message_ttl && !found.message_ttl {
        let text = "messages must be able to have a time to live, and can have none".to_owned();
        add("require.message-ttl", text, edit("--allow-msg-ttl".to_owned()));
    }
    if let Some(least) = marker_ttl
        && found.marker_ttl < Duration::from(*least)
    {
        let has = match found.marker_ttl.is_zero() {
            true => "has none".to_owned(),
            false => format!("keeps them for {}", shown(found.marker_ttl)),
        };
        let text = format!("markers of what expired must be kept for {least}, and it {has}");
        add("require.marker-ttl", text, Mend::Edit(with_markers(*least)));
    }
    if *direct && !found.direct {
        let text = "any replica must answer reads, and only the leader does".to_owned();
        add("require.direct", text, edit("--allow-direct".to_owned()));
    }
    if *append_only && !(found.denies_delete && found.denies_purge) {
        // Nothing takes them back: the server refuses to.
        let text = "nobody may delete or purge messages, and the server lets them".to_owned();
        let settings = [("--deny-delete", found.denies_delete), ("--deny-purge", found.denies_purge)];
        let missing = settings.into_iter().filter(|(_, is_set)| !is_set).map(|(setting, _)| setting.to_owned());
        add("require.append-only", text, Mend::Edit(missing.collect()));
    }
    if tags.iter().any(|tag| !found.tags.contains(tag)) {
        let (asked, has) = (tags.join(", "), or_none(&found.tags));
        let text = format!("servers with the tags {asked} are required, and its tags are {has}");
        let all: BTreeSet<&String> = found.tags.iter().chain(tags).collect();
        add("require.tags", text, Mend::Edit(all.into_iter().map(|tag| format!("--tag={tag}")).collect()));
    }
    if let Some(cluster) = cluster
        && found.cluster.as_ref() != Some(cluster)
    {
        let there = match &found.cluster {
            Some(name) => format!("in {name}"),
            None => "in none that was asked for".to_owned(),
        };
        let text = format!("the cluster {cluster} is required, and it is placed {there}");
        add("require.cluster", text, edit(format!("--cluster={cluster}")));
    }
    all
}

/// What the promises of profiles need.
fn of_profiles(grant: &StreamGrant, found: &StreamInfo, add: &mut impl FnMut(&'static str, String, Mend)) {
    let has = |profile: StreamProfile| grant.profiles.contains(&profile);
    let Some(profile) = grant.profiles.iter().next() else { return };
    if !found.acknowledges {
        let text = format!("the profile {profile} knows what is stored, and it acknowledges nothing");
        add("profiles", text, Mend::Edit(vec!["--ack".to_owned()]));
    }
    if has(StreamProfile::Counter) && !found.counters {
        let text = "the profile counter adds to counters, and it holds none (allow_msg_counter, nats-server 2.12)";
        add("profiles", text.to_owned(), Mend::Anew(make_stream(grant)));
    }
    let logs = [StreamProfile::EventLog, StreamProfile::EventStore].into_iter().find(|profile| has(*profile));
    if let Some(profile) = logs
        && found.retention != Retention::Limits
    {
        let retention = found.retention.as_str();
        let text = format!("the profile {profile} keeps what was read, and its retention is {retention}");
        add("profiles", text, Mend::Remake);
    }
    if has(StreamProfile::Scheduler) {
        if !found.schedules {
            let text =
                "the profile scheduler keeps schedules, and it takes none (allow_msg_schedules, nats-server 2.12)";
            add("profiles", text.to_owned(), Mend::Edit(vec!["--allow-schedules".to_owned()]));
        }
        if found.retention == Retention::Interest {
            let text =
                "the profile scheduler keeps schedules, and its retention is interest: they interest nobody else";
            add("profiles", text.to_owned(), Mend::Remake);
        }
        if found.discard != Discard::Old {
            let text = "the profile scheduler keeps schedules, which a stream that refuses what is new does not take";
            add("profiles", text.to_owned(), Mend::Edit(vec!["--discard=old".to_owned()]));
        }
    }
    // What is full cannot refuse what is new, and of a counter its last message is enough.
    let unlimited = [StreamProfile::Counter, StreamProfile::Scheduler].into_iter().find(|profile| has(*profile));
    let keeps = [StreamProfile::EventStore, StreamProfile::WorkQueue].into_iter().find(|profile| has(*profile));
    if let Some(profile) = unlimited.or(keeps)
        && !found.max_age.is_zero()
    {
        let age = shown(found.max_age);
        let text = format!("the profile {profile} asks that nothing expires, and its messages do after {age}");
        add("profiles", text, Mend::Edit(vec!["--max-age=0s".to_owned()]));
    }
    if let Some(profile) = unlimited {
        let limits = [("--max-msgs=-1", found.messages_max), ("--max-bytes=-1", found.bytes_max)];
        let limits: Vec<String> =
            limits.iter().filter(|(_, most)| *most > 0).map(|(none, _)| (*none).to_owned()).collect();
        if !limits.is_empty() {
            let text = format!("the profile {profile} forgets none, and when it is full it discards what is old");
            add("profiles", text, Mend::Edit(limits));
        }
    }
    let Some(profile) = keeps else { return };
    if unlimited.is_none() && found.discard == Discard::Old && (found.messages_max > 0 || found.bytes_max > 0) {
        let text = format!(
            "the profile {profile} loses nothing to what is newer, and when it is full it discards what is old"
        );
        add("profiles", text, Mend::Edit(vec!["--discard=new".to_owned()]));
    }
    if found.messages_per_subject_max > 0 && found.discard != Discard::NewPerSubject {
        let most = found.messages_per_subject_max;
        let text =
            format!("the profile {profile} loses nothing to what is newer, and it keeps {most} messages on a subject");
        add("profiles", text, Mend::Edit(vec!["--max-msgs-per-subject=-1".to_owned()]));
    }
}

/// What a person does about all of these.
pub fn mend_stream(stream: &StreamName, shortfalls: &[Shortfall]) -> String {
    advice("stream", stream.as_str(), shortfalls)
}

/// The command that makes a stream as it is required, for what is stored in it.
pub fn make_stream(grant: &StreamGrant) -> String {
    let StreamNeeds {
        replicas,
        storage,
        retention,
        duplicate_window,
        max_age,
        max_messages,
        max_bytes,
        max_message,
        atomic,
        message_ttl,
        marker_ttl,
        direct: _, // unless it is asked not to be
        append_only,
        tags,
        cluster,
    } = &grant.require;
    let subjects: Vec<&str> = match grant.publish.as_slice() {
        [] => vec!["a.>"],
        subjects => subjects.iter().chain(&grant.schedule).map(|subject| subject.as_str()).collect(),
    };
    let keeps = [StreamProfile::EventStore, StreamProfile::WorkQueue].iter().any(|it| grant.profiles.contains(it));
    let is_limited = max_messages.is_some() || max_bytes.is_some();
    let markers = marker_ttl.map(|ttl| with_markers(ttl).join(" "));
    let has_ttl = *message_ttl && marker_ttl.is_none();
    let arguments = [
        Some(format!("--subjects='{}'", subjects.join(","))),
        replicas.map(|number| format!("--replicas={number}")),
        storage.map(|storage| format!("--storage={}", storage.as_str())),
        retention.map(|retention| format!("--retention={}", retention.as_str())),
        (keeps && is_limited).then(|| "--discard=new".to_owned()),
        duplicate_window.map(|window| format!("--dupe-window={window}")),
        max_age.map(|age| format!("--max-age={age}")),
        max_messages.map(|number| format!("--max-msgs={number}")),
        max_bytes.map(|bytes| format!("--max-bytes={}", bytes.0)),
        max_message.map(|bytes| format!("--max-msg-size={}", bytes.0)),
        atomic.then(|| "--allow-batch".to_owned()),
        grant.profiles.contains(&StreamProfile::Counter).then(|| "--allow-counter".to_owned()),
        (!grant.schedule.is_empty()).then(|| "--allow-schedules".to_owned()),
        has_ttl.then(|| "--allow-msg-ttl".to_owned()),
        markers,
        append_only.then(|| "--deny-delete --deny-purge".to_owned()),
        cluster.as_ref().map(|cluster| format!("--cluster={cluster}")),
    ];
    let tags = tags.iter().map(|tag| format!("--tag={tag}"));
    let words = ["nats stream add".to_owned(), grant.stream.to_string()].into_iter();
    let words = words.chain(arguments.into_iter().flatten()).chain(tags).chain(["--defaults".to_owned()]);
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(text: &str) -> StreamGrant {
        serde_json::from_value(serde_saphyr::from_str(&format!("{{stream: S, {text}}}")).unwrap()).unwrap()
    }

    fn found() -> StreamInfo {
        let window = Duration::from_secs(120);
        StreamInfo { replicas: 1, direct: true, acknowledges: true, duplicate_window: window, ..StreamInfo::default() }
    }

    /// What falls short, and what mends it; and that the opposite does not.
    fn check(text: &str, bad: StreamInfo, good: StreamInfo, field: &str, arguments: &str) {
        let grant = grant(text);
        let short = stream_shortfalls(&grant, &bad, 1 << 20);
        assert_eq!(short.iter().map(|short| short.field).collect::<Vec<_>>(), [field], "{text}: {short:?}");
        let mend = mend_stream(&grant.stream, &short);
        match arguments {
            "" => assert!(mend.contains("make another one"), "{text}: {mend}"),
            arguments => assert_eq!(mend, format!("nats stream edit S {arguments}"), "{text}"),
        }
        assert_eq!(stream_shortfalls(&grant, &good, 1 << 20), [], "{text}");
    }

    #[test]
    fn each_requirement_is_checked_and_says_what_mends_it() {
        let hour = Duration::from_secs(3600);
        let (bad, good) = (found, found);
        let needs = |name: &str, value: &str| format!("require: {{{name}: {value}}}");
        let one = |name: &str, value: &str, bad: StreamInfo, good: StreamInfo, arguments: &str| {
            check(&needs(name, value), bad, good, &format!("require.{name}"), arguments);
        };
        one("replicas", "3", bad(), StreamInfo { replicas: 3, ..good() }, "--replicas=3");
        one("storage", "file", StreamInfo { in_memory: true, ..bad() }, good(), "");
        one("retention", "work", bad(), StreamInfo { retention: Retention::Work, ..good() }, "");
        let long = StreamInfo { duplicate_window: 2 * hour, ..good() };
        one("duplicate-window", "2h", bad(), long, "--dupe-window=2h");
        one("max-age", "2h", StreamInfo { max_age: hour, ..bad() }, good(), "--max-age=2h");
        one("max-messages", "9", StreamInfo { messages_max: 8, ..bad() }, good(), "--max-msgs=9");
        one("max-bytes", "2KiB", StreamInfo { bytes_max: 9, ..bad() }, good(), "--max-bytes=2048");
        one("max-message", "2KiB", StreamInfo { message_bytes_max: 9, ..bad() }, good(), "--max-msg-size=2048");
        one("atomic", "true", bad(), StreamInfo { atomic: true, ..good() }, "--allow-batch");
        one("message-ttl", "true", bad(), StreamInfo { message_ttl: true, ..good() }, "--allow-msg-ttl");
        let markers = StreamInfo { marker_ttl: hour, message_ttl: true, ..good() };
        one("marker-ttl", "1h", bad(), markers, "--allow-msg-ttl --subject-del-markers-ttl=1h");
        one("direct", "true", StreamInfo { direct: false, ..bad() }, good(), "--allow-direct");
        let fixed = StreamInfo { denies_delete: true, denies_purge: true, ..good() };
        one("append-only", "true", StreamInfo { denies_purge: true, ..bad() }, fixed, "--deny-delete");
        let tagged = |tags: &[&str]| StreamInfo { tags: tags.iter().map(|tag| (*tag).to_owned()).collect(), ..good() };
        one("tags", "[eu]", tagged(&["ssd"]), tagged(&["ssd", "eu"]), "--tag=eu --tag=ssd");
        one("cluster", "east", bad(), StreamInfo { cluster: Some("east".into()), ..good() }, "--cluster=east");
        let large = stream_shortfalls(&grant("require: {max-message: 8MiB}"), &found(), 1 << 20);
        assert!(mend_stream(&grant("").stream, &large).contains("raise max_payload"), "{large:?}");
    }

    #[test]
    fn promises_need_streams_that_can_keep_them() {
        let queue = "profiles: [work-queue], consumers: [c]";
        let aged = StreamInfo { max_age: Duration::from_secs(60), ..found() };
        let full = StreamInfo { messages_max: 10, ..found() };
        let refusing = StreamInfo { discard: Discard::New, ..full.clone() };
        let per_subject = StreamInfo { messages_per_subject_max: 5, discard: Discard::New, ..found() };
        let fixed = StreamInfo { discard: Discard::NewPerSubject, ..per_subject.clone() };
        for keeps in [queue, "profiles: [event-store]"] {
            check(keeps, aged.clone(), found(), "profiles", "--max-age=0s");
            check(keeps, full.clone(), refusing.clone(), "profiles", "--discard=new");
            check(keeps, per_subject.clone(), fixed.clone(), "profiles", "--max-msgs-per-subject=-1");
            check(keeps, StreamInfo { acknowledges: false, ..found() }, found(), "profiles", "--ack");
        }
        let work = StreamInfo { retention: Retention::Work, ..found() };
        assert_eq!(stream_shortfalls(&grant(queue), &work, 0), []);
        for log in ["profiles: [event-log]", "profiles: [event-store]"] {
            check(log, work.clone(), found(), "profiles", "");
        }
        let counter = "profiles: [counter], publish: ['hits.*']";
        let counters = StreamInfo { counters: true, ..found() };
        let anew = stream_shortfalls(&grant(counter), &found(), 0);
        let mend = mend_stream(&grant(counter).stream, &anew);
        assert!(mend.ends_with(": nats stream add S --subjects='hits.*' --allow-counter --defaults"), "{mend}");
        check(counter, StreamInfo { counters: true, ..aged.clone() }, counters.clone(), "profiles", "--max-age=0s");
        let both = StreamInfo { messages_max: 9, bytes_max: 9, ..counters.clone() };
        check(counter, both, counters.clone(), "profiles", "--max-msgs=-1 --max-bytes=-1");
        // One message of each counter is enough.
        let last = StreamInfo { messages_per_subject_max: 1, ..counters };
        assert_eq!(stream_shortfalls(&grant(counter), &last, 0), []);
        let scheduler = "profiles: [scheduler], publish: [a], schedule: [b]";
        let scheduling = StreamInfo { schedules: true, ..found() };
        check(scheduler, found(), scheduling.clone(), "profiles", "--allow-schedules");
        check(
            scheduler,
            StreamInfo { schedules: true, ..aged.clone() },
            scheduling.clone(),
            "profiles",
            "--max-age=0s",
        );
        let fixed = StreamInfo { discard: Discard::New, ..scheduling.clone() };
        check(scheduler, fixed, scheduling.clone(), "profiles", "--discard=old");
        let interest = StreamInfo { retention: Retention::Interest, ..scheduling.clone() };
        check(scheduler, interest, scheduling.clone(), "profiles", "");
        let both = "profiles: [scheduler, work-queue], publish: [a], schedule: [b]";
        let limited = StreamInfo { messages_max: 9, ..scheduling.clone() };
        check(both, limited, scheduling, "profiles", "--max-msgs=-1");
        // A log may forget what is old.
        assert_eq!(stream_shortfalls(&grant("profiles: [event-log]"), &aged, 0), []);
        assert_eq!(stream_shortfalls(&grant(""), &StreamInfo::default(), 0), []);
    }

    #[test]
    fn a_stream_that_is_absent_is_made_with_all_of_it() {
        let text = "publish: ['o.*', 'x'], profiles: [event-store], require: {replicas: 3, max-bytes: 1KiB, atomic: true, \
                    append-only: true, tags: [eu], marker-ttl: 1h}";
        let expect = "nats stream add S --subjects='o.*,x' --replicas=3 --discard=new --max-bytes=1024 --allow-batch --allow-msg-ttl \
                      --subject-del-markers-ttl=1h --deny-delete --deny-purge --tag=eu --defaults";
        assert_eq!(make_stream(&grant(text)), expect);
        assert_eq!(make_stream(&grant("")), "nats stream add S --subjects='a.>' --defaults");
        let counters = "nats stream add S --subjects='hits.*' --allow-counter --defaults";
        assert_eq!(make_stream(&grant("publish: ['hits.*'], profiles: [counter]")), counters);
        let later = "nats stream add S --subjects='tasks.*,later.*' --allow-schedules --defaults";
        assert_eq!(make_stream(&grant("publish: ['tasks.*'], schedule: ['later.*']")), later);
    }
}
