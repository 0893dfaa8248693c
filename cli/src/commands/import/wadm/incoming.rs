//! Links that lead from providers to components: requests and messages that come from outside.

use super::{Part, settings};
use crate::commands::import::{
    Notes,
    draft::{Draft, put},
    messaging,
};
use serde_json::json;

/// The links of an HTTP server lead to components: that is a route.
pub(super) fn routes(
    server: &Part<'_>,
    members: &[&Part<'_>],
    workload: &str,
    is_one: bool,
    draft: &mut Draft,
    notes: &mut Notes,
) {
    for link in server.links.iter().filter(|link| members.iter().any(|member| member.name == link.target)) {
        let settings = settings(link.properties, "source");
        let setting = |key: &str| settings.iter().find_map(|properties| properties.entry(key));
        let host = if is_one { "*".to_owned() } else { format!("{workload}.localhost") };
        let mut route = json!({"host": host});
        if let Some(entry) = setting("path") {
            let path = entry.value.text().unwrap_or_default();
            notes.mapped(entry.line, format!("http.routes: path {path}"));
            put(&mut route, "path", path);
        }
        for entry in settings.iter().flat_map(|properties| properties.entries()) {
            match entry.key.as_str() {
                "path" => {}
                "address" | "default_address" | "port" => {
                    notes.changed(entry.line, format!("{}: nodes take requests at the address of --http", entry.key));
                }
                "timeout_ms" => {
                    if let Some(milliseconds) = entry.value.number() {
                        notes.mapped(entry.line, format!("http.routes: timeout {milliseconds}ms"));
                        put(&mut route, "timeout", format!("{milliseconds}ms"));
                    }
                }
                other => notes.lost(entry.line, format!("{other}: see docs/routes.md for what a route can do")),
            }
        }
        let text = match is_one {
            true => "http.routes: every host; the manifest names none".to_owned(),
            false => format!("http.routes: {host}; the manifest names no host: choose one"),
        };
        notes.changed(link.line, text);
        draft.push_in("http", "routes", route);
    }
}

/// The links of a provider of messages say what components subscribe to.
pub(super) fn subscriptions(provider: &Part<'_>, members: &[&Part<'_>], draft: &mut Draft, notes: &mut Notes) {
    for link in provider.links.iter().filter(|link| members.iter().any(|member| member.name == link.target)) {
        let settings = settings(link.properties, "source");
        let entries = || settings.iter().flat_map(|properties| properties.entries());
        if !entries().any(|entry| entry.key == "subscriptions") {
            notes.lost(
                link.line,
                format!("messages: {} names no subjects here; write what it subscribes to", link.target),
            );
        }
        for entry in entries() {
            match entry.key.as_str() {
                "subscriptions" => {
                    messaging::subscribe(&entry.value.text().unwrap_or_default(), None, entry.line, draft, notes);
                }
                other => notes.lost(entry.line, format!("{other}: of a provider, which is not there")),
            }
        }
    }
}
