//! What manifests say of messages and of object stores: both kinds have them, and providers and interfaces of hosts alike become
//! what nodes do themselves.

use super::{
    Notes,
    draft::{Draft, put},
};
use serde_json::{Map, Value, json};

/// `orders.*, audit.>|auditors`: subjects, with queue groups of their own or that of all.
pub fn subscribe(subjects: &str, group: Option<&str>, line: u64, draft: &mut Draft, notes: &mut Notes) {
    for one in listed(subjects) {
        let (subject, group) = match one.split_once('|') {
            Some((subject, group)) => (subject.trim(), Some(group.trim())),
            None => (one, group),
        };
        let mut message = json!({"subject": subject});
        if let Some(group) = group {
            put(&mut message, "group", group);
        }
        let of = group.map_or_else(String::new, |group| format!(" in group {group}"));
        match draft.attempt(|draft| draft.push("messages", message)) {
            Ok(()) => notes.mapped(line, format!("messages: {subject}{of}, each to one replica")),
            Err(error) => notes.lost(line, format!("{subject}: {error}")),
        }
    }
}

/// A component sends messages. Where to, no manifest says.
pub fn publish(line: u64, draft: &mut Draft, notes: &mut Notes) {
    match draft.attempt(|draft| draft.set_in("grants", "messaging", json!({"publish": [">"]}))) {
        Ok(()) => notes.changed(
            line,
            "grants.messaging.publish: '>': any subject that is not reserved; better name those that it needs",
        ),
        Err(error) => notes.lost(line, format!("wasmcloud:messaging/consumer: {error}")),
    }
}

/// A component keeps objects in these buckets, which it opens by their names.
pub fn containers(buckets: Option<(u64, String)>, line: u64, draft: &mut Draft, notes: &mut Notes) {
    let Some((line, buckets)) = buckets else {
        return notes.lost(
            line,
            "wasi:blobstore: only the component knows which containers it opens: for each NAME write `NAME: {bucket: BUCKET}` under \
             grants.blobstore, and make it before: `nats object add BUCKET`",
        );
    };
    for bucket in listed(&buckets) {
        let mut stores: Map<String, Value> =
            draft.get_in("grants", "blobstore").and_then(Value::as_object).cloned().unwrap_or_default();
        stores.insert(bucket.to_owned(), json!({"bucket": bucket}));
        match draft.attempt(|draft| draft.set_in("grants", "blobstore", stores.into())) {
            Ok(()) => notes.changed(
                line,
                format!("grants.blobstore: {bucket}: {{bucket: {bucket}}}; make it before: `nats object add {bucket}`"),
            ),
            Err(error) => notes.lost(line, format!("{bucket}: {error}")),
        }
    }
}

fn listed(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|one| !one.is_empty())
}
