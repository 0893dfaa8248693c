//! Applications of wadm (`core.oam.dev/v1beta1`): components that links join become one workload, the others one each.
//! Providers become what nodes do themselves, where they do.

mod incoming;
mod scalers;

use super::{
    Notes,
    draft::{Draft, grant_bucket, id, put, source, texts},
    messaging,
    secrets::{self, Policies, Secrets},
    tree::Tree,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// An entry of `spec.components`.
struct Part<'a> {
    tree: &'a Tree,
    /// As the manifest calls it.
    name: String,
    is_component: bool,
    image: String,
    links: Vec<Link<'a>>,
}

/// A trait that joins two of them.
struct Link<'a> {
    line: u64,
    properties: &'a Tree,
    target: String,
    /// `wasi:http`.
    package: String,
    interfaces: Vec<String>,
}

/// What a provider is, by its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Provider {
    HttpServer,
    HttpClient,
    Keyvalue,
    Blobstore,
    Messaging,
    Other,
}

impl Part<'_> {
    fn provider(&self) -> Provider {
        let image = self.image.rsplit('/').next().unwrap_or_default();
        match image.split([':', '@']).next().unwrap_or_default().replace('_', "-").as_str() {
            "http-server" | "httpserver" => Provider::HttpServer,
            "http-client" | "httpclient" => Provider::HttpClient,
            name if name.contains("keyvalue") || name.starts_with("kv") => Provider::Keyvalue,
            name if name.contains("blobstore") => Provider::Blobstore,
            name if name.contains("messaging") => Provider::Messaging,
            _ => Provider::Other,
        }
    }
}

pub fn map(document: &Tree, secrets: &mut Secrets, notes: &mut Notes) -> Vec<Draft> {
    notes.unknown(document, &["apiVersion", "kind", "metadata", "spec"]);
    let app = document.at(&["metadata", "name"]);
    let called = app.map_or_else(|| "app".to_owned(), |name| id(&name.text().unwrap_or_default(), name.line, notes));
    if let Some(metadata) = document.get("metadata") {
        for entry in metadata.entries().iter().filter(|entry| entry.key != "name") {
            notes.lost(entry.line, format!("metadata.{}: a spec has none; its generations are counted", entry.key));
        }
    }
    let Some(spec) = document.get("spec") else { return Vec::new() };
    notes.unknown(spec, &["components", "policies"]);
    let policies = spec.get("policies").map(|list| secrets::policies(list, notes)).unwrap_or_default();
    let trees = spec.get("components").map(Tree::items).unwrap_or_default();
    let parts: Vec<Part<'_>> = trees.iter().map(|tree| part(tree, notes)).collect();
    let groups = groups(&parts);
    let is_one = groups.len() == 1;
    let mut drafts = Vec::new();
    for group in &groups {
        let Some(first) = group.first().and_then(|first| parts.get(*first)) else { continue };
        let name =
            if is_one { called.clone() } else { id(&format!("{called}-{}", first.name), first.tree.line, notes) };
        let line = app.map_or(document.line, |name| name.line);
        notes.mapped(line, format!("name: {name}"));
        let mut draft = Draft::new(&name, first.tree.line);
        let members: Vec<&Part<'_>> = group.iter().filter_map(|at| parts.get(*at)).collect();
        for part in &members {
            component(part, &policies, secrets, &mut draft, notes);
        }
        scalers::scale(&members, &mut draft, notes);
        for part in &members {
            links(part, &name, (&members, &parts), &mut draft, notes);
        }
        for provider in parts.iter().filter(|part| !part.is_component) {
            match provider.provider() {
                Provider::HttpServer => incoming::routes(provider, &members, &name, is_one, &mut draft, notes),
                Provider::Messaging => incoming::subscriptions(provider, &members, &mut draft, notes),
                _ => {}
            }
        }
        drafts.push(draft);
    }
    for provider in parts.iter().filter(|part| !part.is_component) {
        leave(provider, &parts, notes);
    }
    drafts
}

fn part<'a>(tree: &'a Tree, notes: &mut Notes) -> Part<'a> {
    notes.unknown(tree, &["name", "type", "properties", "traits"]);
    let kind = tree.text_of("type").unwrap_or_default();
    // `actor` is what older manifests say.
    let is_component = matches!(kind.as_str(), "component" | "actor");
    let traits = tree.get("traits").map(Tree::items).unwrap_or_default();
    let links = traits.iter().filter(|one| one.text_of("type").as_deref() == Some("link")).filter_map(link).collect();
    let image = tree.at(&["properties", "image"]).and_then(Tree::text).unwrap_or_default();
    Part { tree, name: tree.text_of("name").unwrap_or_default(), is_component, image, links }
}

fn link(tree: &Tree) -> Option<Link<'_>> {
    let properties = tree.get("properties")?;
    let target = properties.get("target")?;
    let text = |key: &str| properties.text_of(key).unwrap_or_default();
    let interfaces = properties.get("interfaces").map(Tree::items).unwrap_or_default();
    Some(Link {
        line: tree.line,
        properties,
        target: target.text().or_else(|| target.text_of("name"))?,
        package: format!("{}:{}", text("namespace"), text("package")),
        interfaces: interfaces.iter().filter_map(Tree::text).collect(),
    })
}

/// Components by their places, those that links join together.
fn groups(parts: &[Part<'_>]) -> Vec<Vec<usize>> {
    let mut groups: Vec<BTreeSet<usize>> =
        parts.iter().enumerate().filter(|(_, part)| part.is_component).map(|(at, _)| BTreeSet::from([at])).collect();
    for (from, part) in parts.iter().enumerate().filter(|(_, part)| part.is_component) {
        for link in &part.links {
            let Some(to) = parts.iter().position(|other| other.is_component && other.name == link.target) else {
                continue;
            };
            let joined: BTreeSet<usize> =
                groups.iter().filter(|group| group.contains(&from) || group.contains(&to)).flatten().copied().collect();
            groups.retain(|group| group.is_disjoint(&joined));
            groups.push(joined);
        }
    }
    groups.sort();
    groups.into_iter().map(|group| group.into_iter().collect()).collect()
}

fn component(part: &Part<'_>, policies: &Policies, secrets: &mut Secrets, draft: &mut Draft, notes: &mut Notes) {
    let name = id(&part.name, part.tree.line, notes);
    notes.mapped(part.tree.line, format!("components: {name}"));
    let mut made = json!({"name": name});
    for entry in part.tree.get("properties").map(Tree::entries).unwrap_or_default() {
        let line = entry.line;
        match entry.key.as_str() {
            "image" => put(&mut made, "source", source(&part.image, &name, line, notes)),
            "config" => configure(&entry.value, &mut made, notes),
            "secrets" => secrets::of_component(&entry.value, policies, secrets, (&mut made, draft), notes),
            "id" => notes.lost(line, "id: a component is known by its name and the digest of its bytes"),
            other => notes.lost(line, format!("properties.{other}: not known here")),
        }
    }
    draft.push("components", made);
}

/// Named configuration: with its values written here, or by reference.
fn configure(tree: &Tree, made: &mut Value, notes: &mut Notes) {
    let mut written = serde_json::Map::new();
    let mut names = Vec::new();
    for item in tree.items() {
        let name = item.text_of("name").unwrap_or_default();
        match item.get("properties") {
            Some(properties) => written.extend(texts(properties, "config", notes)),
            None => {
                let name = id(&name, item.line, notes);
                notes.changed(
                    item.line,
                    format!("config-from: {name}; `lattice config put {name}` what `wash config get` shows"),
                );
                names.push(Value::from(name));
            }
        }
    }
    put(made, "config", written);
    put(made, "config-from", names);
}

const LINK_PROPERTIES: [&str; 8] =
    ["target", "namespace", "package", "interfaces", "name", "source", "source_config", "target_config"];

fn links(
    part: &Part<'_>,
    workload: &str,
    (members, parts): (&[&Part<'_>], &[Part<'_>]),
    draft: &mut Draft,
    notes: &mut Notes,
) {
    for link in &part.links {
        notes.unknown(link.properties, &LINK_PROPERTIES);
        let what = format!("{}/{}", link.package, link.interfaces.join(", "));
        if members.iter().any(|member| member.name == link.target) {
            notes.changed(
                link.line,
                format!("{what} of {}: joined by what both import and export, when it is deployed", link.target),
            );
            continue;
        }
        let target = parts.iter().find(|other| other.name == link.target);
        match target.map(Part::provider) {
            _ if link.package == "wasi:keyvalue" => {
                keyvalue(link, workload, draft, notes);
                continue;
            }
            _ if link.package == "wasmcloud:messaging" => messaging::publish(link.line, draft, notes),
            _ if link.package == "wasi:blobstore" => {
                objects(link, draft, notes);
                continue;
            }
            Some(Provider::HttpClient) => {
                notes.changed(link.line, "grants.http-out: '*': any public host; better name those that it needs");
                draft.push_in("grants", "http-out", "*".into());
            }
            Some(_) if link.package == "wasi:http" => {
                notes.changed(link.line, "grants.http-out: '*': any public host; better name those that it needs");
                draft.push_in("grants", "http-out", "*".into());
            }
            _ => notes.lost(
                link.line,
                format!(
                    "{what} of {}: nodes don't offer it; a component that exports it can be composed in",
                    link.target
                ),
            ),
        }
        configured(link, notes);
    }
}

/// A store, and the bucket that it is to be.
fn keyvalue(link: &Link<'_>, workload: &str, draft: &mut Draft, notes: &mut Notes) {
    for interface in link.interfaces.iter().filter(|name| !["store", "atomics", "batch"].contains(&name.as_str())) {
        notes.lost(link.line, format!("wasi:keyvalue/{interface}: nodes don't offer it"));
    }
    let opened = link.properties.text_of("name").unwrap_or_else(|| "default".into());
    let configs = [link.properties.get("target_config"), link.properties.at(&["target", "config"])];
    let items = || configs.iter().flatten().flat_map(|config| config.items());
    let mut bucket = None;
    for entry in items().filter_map(|item| item.get("properties")).flat_map(Tree::entries) {
        match entry.key.as_str() {
            "bucket" => bucket = Some((entry.line, entry.value.text().unwrap_or_default())),
            other => notes.lost(entry.line, format!("{other}: of a provider, which is not there")),
        }
    }
    for item in items().filter(|item| item.get("properties").is_none()) {
        let name = item.text_of("name").unwrap_or_default();
        notes.changed(item.line, format!("config {name}: if it names a bucket, write that into grants.keyvalue"));
    }
    for source in ["source_config", "source"] {
        if let Some(entry) = link.properties.entry(source) {
            notes.lost(entry.line, format!("{source}: of a provider, which is not there"));
        }
    }
    if let Some(secrets) = link.properties.get("target").and_then(|target| target.entry("secrets")) {
        notes.lost(secrets.line, "target.secrets: nodes open buckets by their own connection");
    }
    grant_bucket(&opened, bucket, (link.line, workload), draft, notes);
}

/// Object stores, where the manifest lists them.
fn objects(link: &Link<'_>, draft: &mut Draft, notes: &mut Notes) {
    let settings = settings(link.properties, "target");
    let mut buckets = None;
    for entry in settings.iter().flat_map(|properties| properties.entries()) {
        match entry.key.as_str() {
            "buckets" => buckets = Some((entry.line, entry.value.text().unwrap_or_default())),
            other => notes.lost(entry.line, format!("{other}: of a provider, which is not there")),
        }
    }
    messaging::containers(buckets, link.line, draft, notes);
}

/// What is configured for one end of a link, `source` or `target`, as far as it is written there.
fn settings<'a>(properties: &'a Tree, end: &str) -> Vec<&'a Tree> {
    let configs = [properties.get(&format!("{end}_config")), properties.at(&[end, "config"])];
    configs.into_iter().flatten().flat_map(Tree::items).filter_map(|item| item.get("properties")).collect()
}

/// Configuration of a link belongs to a provider.
fn configured(link: &Link<'_>, notes: &mut Notes) {
    for key in ["source_config", "target_config"] {
        if let Some(entry) = link.properties.entry(key) {
            notes.lost(entry.line, format!("{key}: of a provider, which is not there"));
        }
    }
    for end in ["source", "target"] {
        for key in ["config", "secrets"] {
            if let Some(entry) = link.properties.get(end).and_then(|end| end.entry(key)) {
                notes.lost(entry.line, format!("{end}.{key}: {}", of_provider(key)));
            }
        }
    }
}

/// What nobody reads any more.
fn of_provider(key: &str) -> &'static str {
    match key {
        "secrets" => {
            "of a provider, which is not there. A component in its place gets them: `lattice secret put NAME`, and `KEY: NAME` under \
             its secrets"
        }
        _ => "of a provider, which is not there",
    }
}

/// What is left of a provider.
fn leave(provider: &Part<'_>, parts: &[Part<'_>], notes: &mut Notes) {
    let line = provider.tree.line;
    let name = &provider.name;
    for entry in provider.tree.get("properties").map(Tree::entries).unwrap_or_default() {
        if entry.key != "image" {
            notes.lost(entry.line, format!("properties.{}: {}", entry.key, of_provider(&entry.key)));
        }
    }
    for one in provider.tree.get("traits").map(Tree::items).unwrap_or_default() {
        let kind = one.text_of("type").unwrap_or_default();
        if kind != "link" {
            notes.mapped(one.line, format!("trait {kind}: what {name} does, every node does"));
        }
    }
    match provider.provider() {
        Provider::HttpServer => notes.mapped(line, format!("{name}: every node takes HTTP")),
        Provider::HttpClient => notes.mapped(line, format!("{name}: every node sends HTTP, to where grants say")),
        Provider::Keyvalue => notes.changed(
            line,
            format!(
                "{name}: nodes keep stores in KV buckets of NATS; what {} kept does not come along",
                provider.image
            ),
        ),
        Provider::Blobstore => notes.changed(
            line,
            format!(
                "{name}: nodes keep objects in object stores of NATS; what {} kept does not come along",
                provider.image
            ),
        ),
        Provider::Messaging if provider.image.contains("nats") => {
            notes.mapped(line, format!("{name}: every node speaks core NATS for its guests"));
        }
        Provider::Messaging => notes.changed(
            line,
            format!("{name}: nodes speak core NATS; what comes by {} does not come here", provider.image),
        ),
        Provider::Other => {
            notes.lost(line, format!("{name}: nodes have no provider such as {}", provider.image));
            for link in &provider.links {
                let to =
                    if parts.iter().any(|part| part.name == link.target) { "" } else { ", which is not in this file" };
                notes.lost(
                    link.line,
                    format!("{}/{} to {}{to}: nobody calls it", link.package, link.interfaces.join(", "), link.target),
                );
            }
        }
    }
}
