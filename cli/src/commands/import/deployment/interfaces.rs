//! `hostInterfaces`: what a workload is given of its host.

use crate::commands::import::{
    Notes,
    draft::{Draft, grant_bucket},
    messaging,
    secrets::{self, Secrets},
    tree::{Entry, Tree},
};
use serde_json::json;

/// Interfaces of the host that nodes here offer to every component.
const OFFERED: [&str; 9] = [
    "wasi:cli",
    "wasi:clocks",
    "wasi:config",
    "wasi:filesystem",
    "wasi:io",
    "wasi:logging",
    "wasi:random",
    "wasi:sockets",
    "wasi:http",
];
pub(super) fn map(tree: &Tree, workload: &str, secrets: &mut Secrets, draft: &mut Draft, notes: &mut Notes) {
    let line = tree.line;
    let package =
        format!("{}:{}", tree.text_of("namespace").unwrap_or_default(), tree.text_of("package").unwrap_or_default());
    if package == "wasmcloud:secrets" {
        return secrets_interface(tree, secrets, draft, notes);
    }
    for key in ["configFrom", "secretFrom"] {
        if let Some(entry) = tree.entry(key) {
            let why = "nodes reach what is behind it by settings of their own";
            notes.lost(
                entry.line,
                format!("{key} of {package}: {why}; what components read themselves is under config and secrets"),
            );
        }
    }
    let interfaces: Vec<String> =
        tree.get("interfaces").map(|list| list.items().iter().filter_map(Tree::text).collect()).unwrap_or_default();
    let incoming =
        interfaces.is_empty() || interfaces.iter().any(|name| name == "incoming-handler" || name == "handler");
    if package == "wasi:http" && incoming {
        let host = tree.at(&["config", "host"]).or_else(|| tree.at(&["config", "hosts"]));
        match host.and_then(|host| Some((host.line, host.text()?))) {
            Some((line, hosts)) => {
                for host in hosts.split(',').map(str::trim) {
                    // The port is that of the client's view, and no part of a route.
                    let name = host.split(':').next().unwrap_or(host);
                    notes.mapped(line, format!("http.routes: {name}"));
                    draft.push_in("http", "routes", json!({"host": name}));
                }
            }
            None => {
                notes.changed(
                    line,
                    format!("http.routes: {workload}.localhost; the manifest names no host: choose one"),
                );
                draft.push_in("http", "routes", json!({"host": format!("{workload}.localhost")}));
            }
        }
        return;
    }
    if package == "wasi:http" {
        return notes.changed(line, "wasi:http outgoing: only to what grants.http-out names");
    }
    if package == "wasi:keyvalue" {
        let bucket = tree.at(&["config", "bucket"]);
        let bucket = bucket.and_then(|bucket| Some((bucket.line, bucket.text()?)));
        let opened = tree.text_of("name").unwrap_or_else(|| "default".into());
        for entry in tree.get("config").map(Tree::entries).unwrap_or_default() {
            if entry.key != "bucket" {
                notes.lost(entry.line, format!("{}: buckets are those of the nodes' own NATS", entry.key));
            }
        }
        return grant_bucket(&opened, bucket, (line, workload), draft, notes);
    }
    if package == "wasi:blobstore" {
        let config = tree.get("config").map(Tree::entries).unwrap_or_default();
        let is_list = |entry: &&Entry| matches!(entry.key.as_str(), "bucket" | "buckets");
        for entry in config.iter().filter(|entry| !is_list(entry)) {
            notes.lost(entry.line, format!("{}: buckets are those of the nodes' own NATS", entry.key));
        }
        let buckets = config.iter().find(is_list).and_then(|entry| Some((entry.line, entry.value.text()?)));
        return messaging::containers(buckets, line, draft, notes);
    }
    if package == "wasmcloud:messaging" {
        return messages(tree, &interfaces, draft, notes);
    }
    if package == "wasi:webgpu" {
        return notes.changed(
            line,
            "wasi:webgpu: a component that imports it claims a GPU; say under gpu what it needs of one",
        );
    }
    match OFFERED.contains(&package.as_str()) {
        true => notes.mapped(line, format!("{package}: every node offers it")),
        false => {
            notes.lost(line, format!("{package}: nodes don't offer it; a component that exports it can be composed in"))
        }
    }
}

/// What components subscribe to, and that they send.
fn messages(tree: &Tree, interfaces: &[String], draft: &mut Draft, notes: &mut Notes) {
    if let Some((line, version)) = tree.get("version").and_then(|version| Some((version.line, version.text()?)))
        && !version.starts_with("0.2")
    {
        notes.lost(line, format!("wasmcloud:messaging@{version}: nodes offer 0.2: build the components against it"));
    }
    let config = tree.get("config").map(Tree::entries).unwrap_or_default();
    let text = |key: &str| {
        config.iter().find(|entry| entry.key == key).and_then(|entry| Some((entry.line, entry.value.text()?)))
    };
    let group = match text("consumer_group") {
        Some((line, group)) if group == "broadcast" => {
            notes
                .lost(line, "consumer_group: broadcast: here one replica of a group gets a message, never all of them");
            None
        }
        group => group,
    };
    let is_named = |name: &str| interfaces.is_empty() || interfaces.iter().any(|interface| interface == name);
    match text("subscriptions") {
        Some((line, subjects)) => {
            messaging::subscribe(&subjects, group.as_ref().map(|(_, group)| group.as_str()), line, draft, notes);
        }
        None if interfaces.iter().any(|interface| interface == "handler") => {
            notes.lost(tree.line, "wasmcloud:messaging/handler: no subscriptions are named; write them into messages");
        }
        None => {}
    }
    for entry in config.iter().filter(|entry| !matches!(entry.key.as_str(), "subscriptions" | "consumer_group")) {
        notes.lost(entry.line, format!("{}: not known here", entry.key));
    }
    if is_named("consumer") {
        messaging::publish(tree.line, draft, notes);
    }
}

/// Secrets of all components, by keys.
fn secrets_interface(tree: &Tree, secrets: &mut Secrets, draft: &mut Draft, notes: &mut Notes) {
    match tree.get("version").and_then(|version| Some((version.line, version.text()?))) {
        Some((line, version)) if version != "0.1.0-draft" && !version.starts_with("1.") => notes.lost(
            line,
            format!("wasmcloud:secrets@{version}: nodes offer 0.1.0-draft and 1.0.0: build the components against one of these"),
        ),
        _ => notes.mapped(tree.line, "wasmcloud:secrets: every node offers it"),
    }
    for entry in tree.entries() {
        match entry.key.as_str() {
            "secretFrom" => secrets::of_interface(entry, secrets, draft, notes),
            "config" | "configFrom" => {
                notes
                    .lost(entry.line, format!("{} of wasmcloud:secrets: what is no secret is under config", entry.key));
            }
            _ => {}
        }
    }
}
