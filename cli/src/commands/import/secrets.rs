//! Secrets that manifests refer to, as secrets of the lattice: what each is called here, and what is to be put under that name. Values
//! are in other systems, or in a `Secret` of Kubernetes beside the manifest, of which the keys alone are read.

use super::{
    Notes,
    draft::{Draft, near, put},
    tree::{Entry, Tree},
};
use lattice::{id::ID_BYTES_MAX, limits::SECRETS_NAMED_MAX, spec::StoreName};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// What wadm calls a policy that leads to a backend of secrets.
const POLICY: &str = "policy.secret.wasmcloud.dev/";

/// What the secrets of one file are called here.
#[derive(Debug, Default)]
pub struct Secrets {
    names: BTreeMap<Origin, String>,
    /// Names that mean something already: those of other secrets, and of configuration, which are of the same kind.
    taken: BTreeSet<String>,
    /// Keys of the `Secret`s of Kubernetes that are in the file.
    kept: BTreeMap<String, Vec<String>>,
}

/// Where a value is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Origin {
    /// Of wadm the backend with all that its policy says, of Kubernetes nothing.
    backend: String,
    path: String,
    field: Option<String>,
    version: Option<String>,
}

/// Policies of an application that lead to secrets, by their names: what is said of each, for telling them apart.
pub type Policies = BTreeMap<String, String>;

impl Secrets {
    /// Read what the documents of a file say about names.
    pub fn of(documents: &[Tree]) -> Self {
        let mut secrets = Self::default();
        for document in documents {
            secrets.reserve(document);
            if is_secret(document) {
                let name = document.at(&["metadata", "name"]).and_then(Tree::text).unwrap_or_default();
                let maps = ["data", "stringData"].into_iter().filter_map(|map| document.get(map));
                let keys: BTreeSet<String> = maps.flat_map(Tree::entries).map(|entry| entry.key.clone()).collect();
                secrets.kept.insert(name, keys.into_iter().collect());
            }
        }
        secrets
    }

    /// Configuration by name has its name already.
    fn reserve(&mut self, tree: &Tree) {
        for entry in tree.entries() {
            if matches!(entry.key.as_str(), "config" | "configFrom") {
                let named = entry.value.items().iter().filter(|item| item.get("properties").is_none());
                self.taken.extend(named.filter_map(|item| Some(near(&item.text_of("name").or_else(|| item.text())?))));
            }
            self.reserve(&entry.value);
        }
        tree.items().iter().for_each(|item| self.reserve(item));
    }

    /// What is at one place has one name, however often it is referred to; what is elsewhere has another.
    fn name(&mut self, origin: Origin) -> String {
        if let Some(name) = self.names.get(&origin) {
            return name.clone();
        }
        let Origin { path, field, version, .. } = &origin;
        let field = field.as_ref().map(|field| format!("-{field}")).unwrap_or_default();
        let version = version.as_ref().map(|version| format!("-v{version}")).unwrap_or_default();
        let first = near(&format!("{path}{field}{version}"));
        let numbered = (2_u32..).map(|number| {
            let number = format!("-{number}");
            let most = ID_BYTES_MAX.saturating_sub(number.len()).min(first.len());
            first.get(..most).unwrap_or_default().trim_end_matches('-').to_owned() + &number
        });
        let name = std::iter::once(first.clone()).chain(numbered).find(|name| !self.taken.contains(name));
        let name = name.unwrap_or(first);
        self.taken.insert(name.clone());
        self.names.insert(origin, name.clone());
        name
    }
}

/// A `Secret` of Kubernetes.
pub fn is_secret(document: &Tree) -> bool {
    document.text_of("kind").as_deref() == Some("Secret") && document.text_of("apiVersion").as_deref() == Some("v1")
}

/// What becomes of one.
pub fn note_kept(document: &Tree, notes: &mut Notes) {
    let name = document.at(&["metadata", "name"]).and_then(Tree::text).unwrap_or_default();
    notes.changed(
        document.line,
        format!("kind: Secret: {name}: its keys name secrets where something refers to it; values are not taken over"),
    );
}

/// `spec.policies` of an application of wadm.
pub fn policies(tree: &Tree, notes: &mut Notes) -> Policies {
    let mut policies = Policies::new();
    for item in tree.items() {
        notes.unknown(item, &["name", "type", "properties"]);
        let (name, kind) = (item.text_of("name").unwrap_or_default(), item.text_of("type").unwrap_or_default());
        if !kind.starts_with(POLICY) {
            notes.lost(item.line, format!("policy {name}, {kind}: not known here"));
            continue;
        }
        notes
            .changed(item.line, format!("policy {name}: the lattice keeps secrets itself; put those that refer to it"));
        let properties = item.get("properties").map(Tree::entries).unwrap_or_default();
        for entry in properties.iter().filter(|entry| entry.key != "backend") {
            notes.lost(entry.line, format!("properties.{}: of a backend that nodes do not ask", entry.key));
        }
        let said = |entry: &Entry| format!("{}={}\n", entry.key, entry.value.text().unwrap_or_default());
        policies.insert(name, properties.iter().map(said).collect());
    }
    policies
}

/// `secrets` of a component of wadm.
pub fn of_component(
    tree: &Tree,
    policies: &Policies,
    secrets: &mut Secrets,
    (made, draft): (&mut Value, &Draft),
    notes: &mut Notes,
) {
    let mut named = Named::default();
    for item in tree.items() {
        notes.unknown(item, &["name", "properties", "source"]);
        let Some(key) = item.text_of("name") else {
            notes.lost(item.line, "secrets: one without a name");
            continue;
        };
        // `source` is what older manifests say, with the backend in it.
        let source = item.get("properties").or_else(|| item.get("source"));
        let Some((source, path)) = source.and_then(|source| Some((source, source.text_of("key")?))) else {
            notes.lost(item.line, format!("secrets.{key}: it does not say where its value is"));
            continue;
        };
        notes.unknown(source, &["policy", "backend", "key", "field", "version"]);
        let policy = source.text_of("policy").or_else(|| source.text_of("backend")).unwrap_or_default();
        let (field, version) = (source.text_of("field"), source.text_of("version"));
        let of_field = field.as_ref().map(|field| format!(", field {field}")).unwrap_or_default();
        let of_version = version.as_ref().map(|version| format!(", version {version}")).unwrap_or_default();
        let backend = policies.get(&policy).unwrap_or(&policy).clone();
        let name = secrets.name(Origin { backend, path: path.clone(), field, version });
        let unknown = if policies.contains_key(&policy) { "" } else { " (no policy of this file)" };
        // Versions are counted by whoever keeps the value, so that a number there says nothing here.
        let text = format!("`lattice secret put {name}` what {policy}{unknown} has as {path}{of_field}{of_version}");
        named.add(&key, &name, item.line, text, draft, notes);
    }
    named.put_into(made);
}

/// `secretFrom` of an environment: of all keys of some `Secret`s, which are environment variables there.
pub fn of_environment(
    from: &Entry,
    secrets: &mut Secrets,
    (made, draft): (&mut Value, Option<&Draft>),
    notes: &mut Notes,
) {
    let owner = made.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut named = Named::default();
    let empty = Draft::new("", 0);
    for Kept { line, key, secret } in kept(from, &owner, secrets, notes) {
        let (name, text) = to_put(secrets, &key, &secret);
        let text =
            format!("no environment variable here: the component asks wasmcloud:secrets/store for {key}; {text}");
        named.add(&key, &name, line, text, draft.unwrap_or(&empty), notes);
    }
    named.put_into(made);
}

/// `secretFrom` of the interface `wasmcloud:secrets`: all components get them.
pub fn of_interface(from: &Entry, secrets: &mut Secrets, draft: &mut Draft, notes: &mut Notes) {
    let mut named = Named::default();
    for Kept { line, key, secret } in kept(from, "a component", secrets, notes) {
        let (name, text) = to_put(secrets, &key, &secret);
        named.add(&key, &name, line, text, draft, notes);
    }
    if !draft.give_secrets(named.0) {
        notes.lost(from.line, "secretFrom: there is no component that gets them");
    }
}

/// A key of a `Secret` that something refers to.
struct Kept {
    line: u64,
    key: String,
    secret: String,
}

/// The keys that references lead to: where two have the same one the later reference counts, as there.
fn kept(from: &Entry, owner: &str, secrets: &Secrets, notes: &mut Notes) -> Vec<Kept> {
    let mut found: Vec<Kept> = Vec::new();
    for item in from.value.items() {
        let Some(secret) = item.text_of("name").or_else(|| item.text()) else { continue };
        let line = item.line;
        // It becomes a part of a command that a person is to type.
        if !secret.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-' | '.')) {
            notes.lost(line, format!("secretFrom: {secret}: not the name of a Secret"));
            continue;
        }
        let Some(keys) = secrets.kept.get(&secret) else {
            let name = near(&secret);
            notes.lost(
                line,
                format!(
                    "secretFrom: {secret}: which keys it has is not in this file. For each KEY `lattice secret put \
                     {name}-KEY`, and write `KEY: {name}-KEY` under secrets of {owner}, which asks wasmcloud:secrets/store \
                     for it; or add that Secret to the file"
                ),
            );
            continue;
        };
        for key in keys {
            if let Some(at) = found.iter().position(|other| other.key == *key) {
                let other = found.remove(at);
                notes
                    .lost(other.line, format!("secretFrom: {}: its {key} gives way to that of {secret}", other.secret));
            }
            found.push(Kept { line, key: key.clone(), secret: secret.clone() });
        }
    }
    found
}

/// What a key of a `Secret` is called here, and how its value gets there.
fn to_put(secrets: &mut Secrets, key: &str, secret: &str) -> (String, String) {
    let (path, field) = (secret.to_owned(), Some(key.to_owned()));
    let name = secrets.name(Origin { backend: String::new(), path, field, version: None });
    let text = format!(
        "`kubectl get secret {secret} -o go-template='{{{{index .data \"{key}\" | base64decode}}}}' | lattice secret put {name}`"
    );
    (name, text)
}

/// `secrets` of a component: names by the keys that it asks for.
#[derive(Debug, Default)]
struct Named(Map<String, Value>);

impl Named {
    /// `text`: what is to be done before it is deployed.
    fn add(&mut self, key: &str, name: &str, line: u64, text: String, draft: &Draft, notes: &mut Notes) {
        if let Err(error) = key.parse::<StoreName>() {
            return notes.lost(line, format!("no secret: {error}; let the component ask for another key"));
        }
        let other = self.0.get(key).and_then(Value::as_str).or_else(|| draft.secret(key));
        if let Some(other) = other.filter(|other| *other != name) {
            let why = "components that are composed share their secrets";
            return notes
                .lost(line, format!("secrets.{key}: {why}, and {key} is {other}: let one ask for another key"));
        }
        if self.0.len() >= SECRETS_NAMED_MAX {
            return notes.lost(line, format!("secrets.{key}: a component has at most {SECRETS_NAMED_MAX} secrets"));
        }
        notes.changed(line, format!("secrets.{key}: {name}; {text}"));
        self.0.insert(key.to_owned(), name.into());
    }

    fn put_into(self, made: &mut Value) {
        if !self.0.is_empty() {
            put(made, "secrets", self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(backend: &str, path: &str, field: Option<&str>, version: Option<&str>) -> Origin {
        let text = |text: Option<&str>| text.map(str::to_owned);
        Origin { backend: backend.into(), path: path.into(), field: text(field), version: text(version) }
    }

    #[test]
    fn what_is_at_one_place_has_one_name_and_no_other_has_it() {
        let documents: Vec<Tree> = serde_saphyr::from_multiple(
            "a: {config: [{name: Flags}, {name: own, properties: {a: b}}], configFrom: [Env]}",
        )
        .unwrap();
        let mut secrets = Secrets::of(&documents);
        for (asked, expect) in [
            (origin("vault", "db/Shop", None, None), "db-shop"),
            (origin("vault", "db/Shop", None, None), "db-shop"),
            (origin("kube", "db/Shop", None, None), "db-shop-2"),
            (origin("vault", "db-shop", None, None), "db-shop-3"),
            (origin("vault", "db/Shop", Some("tls.crt"), None), "db-shop-tls-crt"),
            (origin("vault", "db/Shop", None, Some("4")), "db-shop-v4"),
            (origin("vault", "flags", None, None), "flags-2"),
            (origin("vault", "own", None, None), "own"),
            (origin("vault", "env", None, None), "env-2"),
            (origin("vault", "//", None, None), "unnamed"),
        ] {
            assert_eq!(secrets.name(asked.clone()), expect, "{asked:?}");
        }
        let long = "a".repeat(3 * ID_BYTES_MAX);
        let (first, second) =
            (secrets.name(origin("one", &long, None, None)), secrets.name(origin("two", &long, None, None)));
        assert!(first.len() == ID_BYTES_MAX && second.len() == ID_BYTES_MAX && second.ends_with("a-2"));
    }
}
