//! A spec that is being put together from somebody else's manifest, and the small things that both kinds need.

use super::{Notes, tree::Tree};
use lattice::{
    id::{ComponentName, ConfigName, ID_BYTES_MAX},
    spec::{BucketName, SpecError, StoreName, WorkloadSpec},
};
use serde_json::{Map, Value, json};

/// Fields of a spec, as they are written in JSON.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Of the manifest that it comes from, for what is wrong with the whole.
    line: u64,
    fields: Map<String, Value>,
}

impl Draft {
    pub fn new(name: &str, line: u64) -> Self {
        Self { line, fields: Map::from_iter([("name".to_owned(), name.into()), ("components".to_owned(), json!([]))]) }
    }

    pub fn set(&mut self, field: &str, value: Value) {
        self.fields.insert(field.to_owned(), value);
    }

    /// Set a field below another one.
    pub fn set_in(&mut self, outer: &str, field: &str, value: Value) {
        if let Some(fields) = self.fields.entry(outer).or_insert_with(|| json!({})).as_object_mut() {
            fields.insert(field.to_owned(), value);
        }
    }

    /// Add to a list.
    pub fn push(&mut self, field: &str, value: Value) {
        if let Some(list) = self.fields.entry(field).or_insert_with(|| json!([])).as_array_mut() {
            list.push(value);
        }
    }

    /// Add to a list below another field, if it is not there already.
    pub fn push_in(&mut self, outer: &str, field: &str, value: Value) {
        let Some(fields) = self.fields.entry(outer).or_insert_with(|| json!({})).as_object_mut() else { return };
        let Some(list) = fields.entry(field).or_insert_with(|| json!([])).as_array_mut() else { return };
        if !list.contains(&value) {
            list.push(value);
        }
    }

    pub fn get_in(&self, outer: &str, field: &str) -> Option<&Value> {
        self.fields.get(outer)?.get(field)
    }

    /// The secret that components which are composed get by this key.
    pub fn secret(&self, key: &str) -> Option<&str> {
        let components = self.fields.get("components")?.as_array()?;
        components.iter().find_map(|component| component.get("secrets")?.get(key)?.as_str())
    }

    /// Let the components have more secrets, which they share. False if there is none.
    pub fn give_secrets(&mut self, secrets: Map<String, Value>) -> bool {
        let components = self.fields.get_mut("components").and_then(Value::as_array_mut);
        let Some(first) = components.and_then(|components| components.first_mut()).and_then(Value::as_object_mut)
        else {
            return secrets.is_empty();
        };
        if !secrets.is_empty()
            && let Some(had) = first.entry("secrets").or_insert_with(|| json!({})).as_object_mut()
        {
            had.extend(secrets);
        }
        true
    }

    /// Change it, unless a spec becomes none by that: then it stays as it is, and the error says what is wrong.
    pub fn attempt(&mut self, change: impl FnOnce(&mut Self)) -> Result<(), SpecError> {
        let read = |draft: &Self| lattice::spec::parse_value(&Value::Object(draft.fields.clone()));
        let mut changed = self.clone();
        change(&mut changed);
        match (read(self), read(&changed)) {
            (Ok(_), Err(error)) => Err(error),
            _ => {
                *self = changed;
                Ok(())
            }
        }
    }

    /// The spec, if it is one.
    pub fn finish(self, notes: &mut Notes) -> Option<WorkloadSpec> {
        match lattice::spec::parse_value(&Value::Object(self.fields)) {
            Ok(spec) => Some(spec),
            Err(error) => {
                notes.lost(self.line, format!("no spec: {error}"));
                None
            }
        }
    }
}

/// The nearest name that is allowed here.
pub fn near(text: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let made: String = text.chars().map(allowed).skip_while(|c| *c == '-').take(ID_BYTES_MAX).collect();
    let made = made.trim_end_matches('-');
    let made = if made.is_empty() { "unnamed" } else { made };
    debug_assert!(ComponentName::new(made).is_ok() && ConfigName::new(made).is_ok());
    made.to_owned()
}

/// The same. A note where it is another one.
pub fn id(text: &str, line: u64, notes: &mut Notes) -> String {
    let made = near(text);
    if made != text {
        notes.changed(line, format!("{text} is called {made}: names have a-z, 0-9 and '-'"));
    }
    made
}

/// Where a component's bytes are to be: nothing is fetched from registries.
pub fn source(image: &str, name: &str, line: u64, notes: &mut Notes) -> Value {
    if let Some(path) = image.strip_prefix("file://").or_else(|| image.strip_prefix("file:")) {
        notes.mapped(line, format!("source: file:{path}"));
        return format!("file:{path}").into();
    }
    let image = image.strip_prefix("oci://").unwrap_or(image);
    notes.changed(
        line,
        format!("source: file:./{name}.wasm: pull {image} to there before you deploy, with `wash` or `oras`"),
    );
    format!("file:./{name}.wasm").into()
}

/// A mapping of texts, each with its note.
pub fn texts(tree: &Tree, what: &str, notes: &mut Notes) -> Map<String, Value> {
    let mut map = Map::new();
    for entry in tree.entries() {
        match entry.value.text() {
            Some(text) => {
                notes.mapped(entry.line, format!("{what}.{}", entry.key));
                map.insert(entry.key.clone(), text.into());
            }
            None => notes.lost(entry.line, format!("{}: not a text", entry.key)),
        }
    }
    map
}

/// A store that guests open by a name, and the bucket behind it: where the manifest names none, one to be chosen.
pub fn grant_bucket(
    opened: &str,
    bucket: Option<(u64, String)>,
    (line, workload): (u64, &str),
    draft: &mut Draft,
    notes: &mut Notes,
) {
    let (line, bucket, choose) = match bucket {
        Some((line, bucket)) => (line, bucket, ""),
        None => (line, format!("{workload}-kv"), "the manifest names no bucket: choose one, and "),
    };
    if let Err(error) = bucket.parse::<BucketName>() {
        return notes.lost(line, format!("no grant: {error}; write one into grants.keyvalue"));
    }
    if let Err(error) = opened.parse::<StoreName>() {
        return notes.lost(line, format!("no grant: {error}; write one into grants.keyvalue"));
    }
    let mut stores = draft.get_in("grants", "keyvalue").and_then(Value::as_object).cloned().unwrap_or_default();
    let grant = json!({"bucket": bucket});
    match stores.get(opened) {
        Some(other) if *other != grant => {
            notes.lost(
                line,
                format!("{bucket}: components that are composed share their stores, and {opened} is another"),
            );
        }
        _ => {
            notes.changed(
                line,
                format!(
                    "grants.keyvalue: {opened}: {{bucket: {bucket}}}; {choose}make it before: `nats kv add {bucket}`"
                ),
            );
            stores.insert(opened.to_owned(), grant);
            draft.set_in("grants", "keyvalue", stores.into());
        }
    }
}

/// Conditions on labels that hold all together: `zone == eu-1`.
pub fn requirements(tree: &Tree) -> Vec<String> {
    tree.entries().iter().filter_map(|entry| Some(format!("{} == {}", entry.key, entry.value.text()?))).collect()
}

/// A field of something that is being put together.
pub fn put(made: &mut Value, field: &str, value: impl Into<Value>) {
    if let Some(fields) = made.as_object_mut() {
        fields.insert(field.to_owned(), value.into());
    }
}
