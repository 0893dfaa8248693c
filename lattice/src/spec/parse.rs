//! Text to `WorkloadSpec`: strict, with errors that name the field path and the remedy. A stranger's input arrives
//! here, so size and depth are bounded before anything is built.

use super::{
    Reuse, Script, Source, WorkloadSpec, autoscale, blobstore, callers, canary, config, gpu, grants, http, messaging,
    micro, parts, placement, preview, probes, reserve, rollout, schedule, secrets, strategy, volumes, wording,
};
use crate::limits::{
    CONCURRENCY_MAX, INSTANCE_MEMORY_BYTES_MAX, INSTANCES_MAX, INTERFACE_BYTES_MAX, LINKS_MAX, MESSAGE_BYTES_MAX,
    QUEUE_MAX, REPLICAS_MAX, SCRIPT_BYTES_MAX, SPEC_BYTES_MAX, SPEC_DEPTH_MAX, WALL_MAX,
};
use serde_json::Value;

/// Values in one document, aliases written out.
const NODES_MAX: usize = 50_000;

/// What is wrong with a spec, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", if field.is_empty() { String::new() } else { format!("{field}: ") })]
pub struct SpecError {
    /// Path of the field, such as `components[0].source`; empty where the document as a whole is meant.
    pub field: String,
    pub message: String,
    pub hint: Option<String>,
}

impl SpecError {
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into(), hint: None }
    }
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Read a spec from YAML or JSON text (JSON is YAML) and check it. Every error has a hint.
pub fn parse(text: &[u8]) -> Result<WorkloadSpec, SpecError> {
    read(text).map_err(or_reference)
}

/// Where nothing better is known, say where the fields are described. A text of the document that is told again can't move
/// a terminal's cursor, and is as short as a message may be.
fn or_reference(error: SpecError) -> SpecError {
    const REFERENCE: &str = "every field with its form: `lattice schema`, or the request ctl.workload.schema";
    let SpecError { field, message, hint } = error;
    let hint = hint.unwrap_or_else(|| match wording::about(&super::json_schema(), &field) {
        Some(about) => format!("{about} ({REFERENCE})"),
        None => REFERENCE.to_owned(),
    });
    let [field, message, hint] = [field, message, hint].map(|text| crate::limits::one_line(&text, MESSAGE_BYTES_MAX));
    SpecError { field, message, hint: Some(hint) }
}

fn read(text: &[u8]) -> Result<WorkloadSpec, SpecError> {
    if text.len() > SPEC_BYTES_MAX {
        let message = format!("the document is {} bytes long; at most {SPEC_BYTES_MAX} are allowed", text.len());
        return Err(SpecError::new("", message));
    }
    let text = std::str::from_utf8(text).map_err(|error| SpecError::new("", format!("not UTF-8: {error}")))?;
    if text.trim().is_empty() {
        return Err(SpecError::new("", "the document is empty")
            .hint("send a workload spec, for example: nats req lattice.default.ctl.workload.put < hello.yaml"));
    }
    let value: Value = document(text)?;
    read_value(&value)
}

fn document(text: &str) -> Result<Value, SpecError> {
    // `nats req SUBJECT @file` sends the first line of the file only.
    if text.trim() == "{" || text.trim_start().starts_with('@') {
        return Err(SpecError::new("", "only a fragment of a document arrived")
            .hint("the nats CLI splits @file into lines: pass it on standard input, `nats req SUBJECT < hello.yaml`"));
    }
    if text.trim_start().starts_with('{') {
        // Recursion is bounded by serde_json itself (128); the depth check below is tighter.
        match serde_json::from_str(text) {
            Ok(value) => return Ok(value),
            Err(error) if !error.is_syntax() => return Err(SpecError::new("", format!("not JSON: {error}"))),
            Err(_) => {} // a YAML flow mapping looks the same from outside
        }
    }
    // Aliases may repeat a part many times: what is built is bounded, not only what is read.
    let budget = serde_saphyr::budget! {
        max_nodes: NODES_MAX,
        max_aliases: 256,
        max_total_scalar_bytes: 2 * SPEC_BYTES_MAX,
    };
    let options = serde_saphyr::options! { strict_booleans: true, budget: budget };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| match error.to_string() {
        text if text.contains("multiple YAML documents") => {
            SpecError::new("", "several documents arrived, and one is a workload")
                .hint("put them one by one; `lattice deploy` takes a file with all of them")
        }
        text => SpecError::new("", format!("not YAML or JSON: {}", first_line(&text)))
            .hint("the smallest spec is in `lattice deploy --help`, and every field in `lattice schema`"),
    })
}

/// Without the picture of the place that follows: this goes into one line.
fn first_line(text: &str) -> &str {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line)
}

pub(super) fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Read a spec from a parsed document and check it. Every error has a hint.
pub fn parse_value(value: &Value) -> Result<WorkloadSpec, SpecError> {
    read_value(value).map_err(or_reference)
}

fn read_value(value: &Value) -> Result<WorkloadSpec, SpecError> {
    if depth(value) > SPEC_DEPTH_MAX {
        return Err(SpecError::new("", format!("the document is nested deeper than {SPEC_DEPTH_MAX}")));
    }
    if !value.is_object() {
        return Err(SpecError::new("", "the document is not a mapping").hint("a spec starts with `name: …`"));
    }
    let spec: WorkloadSpec = serde_path_to_error::deserialize(value)
        .map_err(|error| wording::error(value, &super::json_schema(), error.path(), &error.inner().to_string()))?;
    check(&spec)?;
    let size = serde_json::to_vec(&spec).map_or(usize::MAX, |json| json.len());
    if size > SPEC_BYTES_MAX {
        let message =
            format!("the spec is {size} bytes long with its aliases written out; at most {SPEC_BYTES_MAX} are allowed");
        return Err(SpecError::new("", message));
    }
    Ok(spec)
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// What types cannot say.
fn check(spec: &WorkloadSpec) -> Result<(), SpecError> {
    if spec.replicas > REPLICAS_MAX {
        return Err(SpecError::new("replicas", format!("{} is more than {REPLICAS_MAX}", spec.replicas)));
    }
    if spec.components.is_empty() {
        return Err(SpecError::new("components", "a workload needs a component")
            .hint("components: [{name: hello, source: file:./hello.wasm}]"));
    }
    parts::check(spec)?;
    check_composition(spec)?;
    http::check(spec)?;
    callers::check(spec.http.callers.as_deref())?;
    schedule::check(&spec.schedule)?;
    volumes::check(&spec.volumes)?;
    gpu::check(spec)?;
    probes::check(spec)?;
    if let Reuse::On(reuse) = &spec.reuse {
        if reuse.requests == 0 {
            return Err(
                SpecError::new("reuse.requests", "must be at least 1").hint("write `reuse: off` to have no reuse")
            );
        }
        if reuse.max_instances == 0 {
            return Err(SpecError::new("reuse.max-instances", "must be at least 1"));
        }
        if reuse.min_warm > reuse.max_instances {
            let message = format!("{} is more than reuse.max-instances ({})", reuse.min_warm, reuse.max_instances);
            return Err(SpecError::new("reuse.min-warm", message));
        }
    }
    let reuse = spec.reuse.settings().unwrap_or_default();
    if !(1..=CONCURRENCY_MAX).contains(&reuse.concurrency) {
        let message = format!("{} is not between 1 and {CONCURRENCY_MAX}", reuse.concurrency);
        return Err(SpecError::new("reuse.concurrency", message));
    }
    if reuse.concurrency > 1 && !spec.grants.keyvalue.is_empty() {
        let message = format!(
            "cannot be given to instances that have several requests at a time (reuse.concurrency: {}): an operation on a \
             store holds up everything else in its instance",
            reuse.concurrency
        );
        return Err(SpecError::new("grants.keyvalue", message).hint(
            "leave reuse.concurrency out, or move what uses the store into a component of its own: {isolate: true, grants: \
             {keyvalue: …}}",
        ));
    }
    if reuse.max_instances > INSTANCES_MAX {
        let message = format!("{} is more than {INSTANCES_MAX}", reuse.max_instances);
        return Err(SpecError::new("reuse.max-instances", message));
    }
    let limits = &spec.limits;
    if limits.queue > QUEUE_MAX {
        return Err(SpecError::new("limits.queue", format!("{} is more than {QUEUE_MAX}", limits.queue)));
    }
    for (field, time) in [("limits.wall", limits.wall), ("limits.cpu", limits.cpu)] {
        if std::time::Duration::from(time) > WALL_MAX {
            return Err(SpecError::new(field, format!("{time} is more than {} s", WALL_MAX.as_secs())));
        }
    }
    for (field, is_zero) in [
        ("limits.memory", limits.memory.0 == 0),
        ("limits.cpu", limits.cpu.0 == 0),
        ("limits.wall", limits.wall.0 == 0),
        ("limits.concurrency", limits.concurrency == 0),
    ] {
        if is_zero {
            return Err(SpecError::new(field, "must be more than zero"));
        }
    }
    if limits.memory.0 > INSTANCE_MEMORY_BYTES_MAX {
        let most = crate::units::Bytes(INSTANCE_MEMORY_BYTES_MAX);
        return Err(SpecError::new("limits.memory", format!("{} is more than {most}", limits.memory)));
    }
    reserve::check(&spec.reserve)?;
    grants::check("grants", &spec.grants)?;
    blobstore::check_concurrency(spec)?;
    messaging::check_concurrency(spec)?;
    messaging::check_messages(spec)?;
    micro::check(spec)?;
    autoscale::check(spec)?;
    placement::check(&spec.placement, spec.replicas)?;
    rollout::check(&spec.rollout)?;
    canary::check(spec)?;
    preview::check(spec)?;
    strategy::check(spec)?;
    config::check(spec)?;
    secrets::check(spec)?;
    Ok(())
}

/// What components that are composed must agree on, and what links may say.
fn check_composition(spec: &WorkloadSpec) -> Result<(), SpecError> {
    let composed = || spec.components.iter().enumerate().filter(|(_, component)| component.role().is_none());
    for (i, component) in composed() {
        for (j, other) in composed().take_while(|(j, _)| *j < i) {
            let both = [("env", &component.env, &other.env), ("config", &component.config, &other.config)];
            for (what, entries, others) in both {
                let differs = |(key, value): &(&String, &String)| others.get(*key).is_some_and(|other| other != *value);
                if let Some((key, _)) = entries.iter().find(differs) {
                    let message =
                        format!("differs from components[{j}].{what}.{key}, and components share one instance");
                    return Err(SpecError::new(format!("components[{i}].{what}.{key}"), message)
                        .hint("set it in one of them, or to the same value in both"));
                }
            }
        }
    }
    check_script(spec)?;
    let links = &spec.compose.links;
    if links.len() > LINKS_MAX {
        return Err(SpecError::new("compose.links", format!("at most {LINKS_MAX} links are allowed")));
    }
    for (i, link) in links.iter().enumerate() {
        let field = |name: &str| format!("compose.links[{i}].{name}");
        for (name, component) in [("from", &link.from), ("to", &link.to)] {
            if !spec.parts().any(|part| part.name == component) {
                return Err(SpecError::new(field(name), format!("there is no component or service {component}"))
                    .hint("name one of `components` or `services`"));
            }
        }
        if link.from == link.to {
            return Err(SpecError::new(field("to"), format!("{} can't satisfy its own import", link.to))
                .hint("name the component that exports what `from` imports"));
        }
        if link.import.is_empty() || link.import.len() > INTERFACE_BYTES_MAX {
            return Err(SpecError::new(field("import"), "is not the name of an interface")
                .hint("write it as the component does: acme:auth/check@1.0.0"));
        }
        if links.iter().take(i).any(|other| other.from == link.from && other.import == link.import) {
            let message = format!("the import {} of {} is linked twice", link.import, link.from);
            return Err(
                SpecError::new(format!("compose.links[{i}]"), message).hint("an import comes from one component")
            );
        }
    }
    Ok(())
}

/// What can be said of a script without reading it.
fn check_script(spec: &WorkloadSpec) -> Result<(), SpecError> {
    let Some(script) = &spec.compose.wac else { return Ok(()) };
    let refuse = |message: String, hint: &str| Err(SpecError::new("compose.wac", message).hint(hint));
    if !spec.compose.links.is_empty() {
        return refuse(
            "a script says all that `links` could say".into(),
            "leave out one of compose.wac and compose.links",
        );
    }
    // It says how components become one; what the host links to that would have no place in it.
    if let Some(part) = spec.parts().find(|part| part.role.is_some()) {
        let message = format!("a script can't be had together with {}, which is not composed", part.field);
        return refuse(message, "leave out compose.wac, or what keeps it out: `lazy`, `isolate`, `services`");
    }
    if spec.components.len() < 2 {
        return refuse("there is one component, and so nothing to compose".into(), "leave out compose.wac");
    }
    match script {
        Script::Text(text) if text.len() > SCRIPT_BYTES_MAX => refuse(
            format!("the script has {} bytes; at most {SCRIPT_BYTES_MAX} are allowed", text.len()),
            "compose some of the components beforehand",
        ),
        _ => Ok(()),
    }
}

/// The first component or service, or the script, whose bytes only the CLI can see.
pub fn unresolved(spec: &WorkloadSpec) -> Option<SpecError> {
    if let Some(Script::File(path)) = &spec.compose.wac {
        let error = SpecError::new("compose.wac", format!("file:{path} is a file that no node can see"));
        return Some(error.hint("deploy with `lattice deploy`, which reads it, or write the script itself here"));
    }
    spec.parts().find_map(|part| match part.source {
        Source::File(path) => Some(
            SpecError::new(format!("{}.source", part.field), format!("file:{path} is a file that no node can see"))
                .hint("deploy with `lattice deploy`, which uploads it, or upload it under the name of its SHA-256 and write source: sha256:…"),
        ),
        Source::Stored(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Access;

    const SMALLEST: &str = "name: hello\ncomponents:\n  - {name: hello, source: file:./hello.wasm}\nhttp:\n  routes: [{host: hello.test}]\n";

    fn refuse(text: &str, field: &str, message: &str) {
        let error = parse(text.as_bytes()).expect_err(text);
        assert_eq!(error.field, field, "{error:?} for {text}");
        assert!(error.message.contains(message), "{error:?} does not say {message:?} for {text}");
        assert!(error.hint.is_some(), "{error:?} for {text}");
    }

    #[test]
    fn the_smallest_spec_is_read_from_yaml_and_json() {
        let spec = parse(SMALLEST.as_bytes()).unwrap();
        assert_eq!((spec.name.as_str(), spec.replicas, spec.components.len()), ("hello", 1, 1));
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(parse(json.as_bytes()).unwrap(), spec);
        let pretty = serde_json::to_string_pretty(&spec).unwrap();
        assert_eq!(parse(pretty.as_bytes()).unwrap().content_hash(), spec.content_hash());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_path() {
        let c = "components: [{name: a, source: 'file:a'}]";
        refuse("", "", "empty");
        refuse("{", "", "fragment");
        refuse("- a", "", "not a mapping");
        refuse("a: [", "", "not YAML");
        refuse("name: hello", "", "missing field `components`");
        refuse(&format!("name: Hello\n{c}"), "name", "only a-z");
        refuse(&format!("name: a\n{c}\nreplica: 2"), "replica", "unknown field");
        refuse(&format!("name: a\n{c}\nreplicas: two"), "replicas", "is text");
        refuse(&format!("name: a\n{c}\nreplicas: -1"), "replicas", "negative");
        refuse(&format!("name: a\n{c}\nreplicas: 10001"), "replicas", "more than 10000");
        refuse("name: a\ncomponents: []", "components", "needs a component");
        refuse("name: a\ncomponents: [{name: b}]", "components[0]", "missing field `source`");
        refuse("name: a\ncomponents: [{name: b, source: x}]", "components[0].source", "not a source");
        refuse("name: a\ncomponents: [{name: b, source: 'file:x', sauce: 1}]", "components[0].sauce", "unknown field");
        refuse(&format!("name: a\n{c}\nlimits: {{memory: 12MB}}"), "limits.memory", "not a size");
        refuse(&format!("name: a\n{c}\nlimits: {{wall: 0s}}"), "limits.wall", "more than zero");
        refuse(&format!("name: a\n{c}\nhttp: {{routes: [{{host: 'a b'}}]}}"), "http.routes[0].host", "not a host");
        refuse(&format!("name: a\n{c}\nhttp: {{routes: [{{host: a, path: b}}]}}"), "http.routes[0].path", "not a path");
        refuse(&format!("name: a\n{c}\nhttp: {{routes: [{{host: a}}, {{host: A}}]}}"), "http.routes[1]", "twice");
        refuse(
            &format!("name: a\n{c}\nplacement: {{require: [zone = x]}}"),
            "placement.require[0]",
            "not a requirement",
        );
        refuse(&format!("name: a\n{c}\nreuse: {{requests: 0}}"), "reuse.requests", "at least 1");
        refuse(&format!("name: a\n{c}\nreuse: maybe"), "reuse", "write `on`");
        refuse(&format!("name: a\n{c}\nreuse: {{max-instances: 1025}}"), "reuse.max-instances", "more than 1024");
        refuse(&format!("name: a\n{c}\nreuse: {{concurrency: 0}}"), "reuse.concurrency", "between 1 and 256");
        refuse(&format!("name: a\n{c}\nreuse: {{concurrency: 257}}"), "reuse.concurrency", "between 1 and 256");
        let store = "keyvalue: {default: {bucket: shop}}";
        let shared = format!("name: a\n{c}\nreuse: {{concurrency: 2}}\ngrants: {{{store}}}");
        refuse(&shared, "grants.keyvalue", "several requests at a time (reuse.concurrency: 2)");
        parse(shared.replace("concurrency: 2", "concurrency: 1").as_bytes()).unwrap();
        let apart = format!("{c}\nreuse: {{concurrency: 2}}").replace(
            "'file:a'}]",
            &format!("'file:a'}}, {{name: b, source: 'file:b', isolate: true, grants: {{{store}}}}}]"),
        );
        parse(format!("name: a\n{apart}").as_bytes()).unwrap();
        refuse(&format!("name: a\n{c}\nlimits: {{queue: 65537}}"), "limits.queue", "more than");
        refuse(&format!("name: a\n{c}\nlimits: {{wall: 2h}}"), "limits.wall", "more than");
        let deep = format!("name: a\nx: {}{}", "[".repeat(40), "]".repeat(40));
        refuse(&deep, "", "nested deeper");
        let long = format!("name: {}", "a".repeat(SPEC_BYTES_MAX));
        refuse(&long, "", "bytes long");
    }

    #[test]
    fn components_are_composed_as_links_say_and_share_their_environment() {
        let two = "name: a\ncomponents:\n  - {name: a, source: 'file:a', env: {A: '1', C: x}, config: {k: v}}\n  \
                   - {name: b, source: 'file:b', env: {B: '2', C: x}}\n";
        let spec = parse(two.as_bytes()).unwrap();
        assert_eq!(spec.only(), None);
        let env: Vec<(String, String)> = spec.env().into_iter().collect();
        assert_eq!(env, [("A", "1"), ("B", "2"), ("C", "x")].map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert_eq!(spec.config().len(), 1);

        let linked = format!("{two}compose: {{links: [{{from: a, import: 'x:y/z@1.0.0', to: b}}]}}\n");
        let spec = parse(linked.as_bytes()).unwrap();
        assert_eq!(spec.compose.links.len(), 1);
        assert_eq!(parse(&serde_json::to_vec(&spec).unwrap()).unwrap(), spec);

        let conflict = two.replace("B: '2', C: x", "B: '2', C: z");
        refuse(&conflict, "components[1].env.C", "components[0].env.C");
        let link = |from: &str, import: &str, to: &str| format!("{{from: {from}, import: '{import}', to: {to}}}");
        let with = |links: &str| format!("{two}compose: {{links: [{links}]}}");
        refuse(&with(&link("c", "x:y/z", "b")), "compose.links[0].from", "no component or service c");
        refuse(&with(&link("a", "x:y/z", "c")), "compose.links[0].to", "no component or service c");
        refuse(&with(&link("a", "x:y/z", "a")), "compose.links[0].to", "its own import");
        refuse(&with(&link("a", "", "b")), "compose.links[0].import", "not the name");
        let twice = format!("{}, {}", link("a", "x:y/z", "b"), link("a", "x:y/z", "b"));
        refuse(&with(&twice), "compose.links[1]", "linked twice");
        refuse(&with("{from: a, to: b}"), "compose.links[0]", "missing field `import`");
        let script = |wac: &str| format!("{two}compose: {{wac: '{wac}'}}");
        let spec = parse(script("package a:b;").as_bytes()).unwrap();
        assert_eq!(
            (spec.compose.script(), unresolved(&spec).unwrap().field),
            (Some("package a:b;"), "components[0].source".into())
        );
        let spec = parse(script("file:x.wac").as_bytes()).unwrap();
        assert_eq!((spec.compose.script(), unresolved(&spec).unwrap().field), (None, "compose.wac".into()));
        assert_eq!(parse(&serde_json::to_vec(&spec).unwrap()).unwrap(), spec);
        refuse(&script(" "), "compose.wac", "empty");
        refuse(&script("file:"), "compose.wac", "needs a path");
        refuse(&script(&"x".repeat(SCRIPT_BYTES_MAX + 1)), "compose.wac", "bytes");
        let both = linked.replace("compose: {", "compose: {wac: x, ");
        refuse(&both, "compose.wac", "links");
        refuse("name: a\ncomponents: [{name: a, source: 'file:a'}]\ncompose: {wac: x}", "compose.wac", "one component");
        refuse(&script("x").replace("name: b,", "name: b, lazy: true,"), "compose.wac", "components[1]");
        refuse(&format!("{two}compose: {{link: []}}"), "compose.link", "unknown field");
    }

    #[test]
    fn a_bad_grant_is_named() {
        let with = |grants: &str| format!("{SMALLEST}grants: {grants}\n");
        let spec = parse(with("{http-out: ['https://A.test'], connect: ['tcp://db.test:5432']}").as_bytes()).unwrap();
        assert_eq!(spec.grants.http_out.first().unwrap().to_string(), "https://a.test");
        assert_eq!(parse(&serde_json::to_vec(&spec).unwrap()).unwrap(), spec);
        refuse(&with("{http-out: ['https://a.test', 'a.test']}"), "grants.http-out[1]", "not a grant of HTTP");
        refuse(&with("{http-out: ['https://bücher.test']}"), "grants.http-out[0]", "punycode");
        refuse(&with("{connect: ['tcp://db.test']}"), "grants.connect[0]", "needs a port");
        refuse(&with("{http: []}"), "grants.http", "unknown field");
        let spec = parse(with("{keyvalue: {default: {bucket: shop-kv, access: read-only}}}").as_bytes()).unwrap();
        assert_eq!(spec.grants.keyvalue.values().next().unwrap().access, Access::ReadOnly);
        let bucket = "grants.keyvalue.default.bucket";
        refuse(&with("{keyvalue: {default: {bucket: a.b}}}"), bucket, "not a bucket");
        refuse(&with("{keyvalue: {default: {bucket: lattice-default-specs}}}"), bucket, "lattice's own");
        refuse(
            &with("{keyvalue: {default: {bucket: a, access: write}}}"),
            "grants.keyvalue.default.access",
            "read-only",
        );
        refuse(&with("{keyvalue: {'a b': {bucket: a}}}"), "grants.keyvalue.a b", "not a name");
        refuse(&with("{keyvalue: {default: {}}}"), "grants.keyvalue.default", "bucket");
        let spec = parse(with("{messaging: {publish: [a.b, 'c.*', 'd.>']}}").as_bytes()).unwrap();
        assert_eq!(parse(&serde_json::to_vec(&spec).unwrap()).unwrap(), spec);
        let publish = "grants.messaging.publish";
        refuse(&with("{messaging: {publish: [a, 'b..c']}}"), &format!("{publish}[1]"), "not a subject");
        refuse(&with("{messaging: {publish: ['>.a']}}"), &format!("{publish}[0]"), "stands at the end");
        refuse(&with("{messaging: {publish: ['$SYS.>']}}"), &format!("{publish}[0]"), "reserved");
        refuse(&with("{messaging: {publish: [lattice.x]}}"), &format!("{publish}[0]"), "reserved");
        refuse(&with("{messaging: {subscribe: [a]}}"), "grants.messaging.subscribe", "unknown field");
        let many = vec!["a"; crate::limits::GRANTS_MAX + 1].join(", ");
        refuse(&with(&format!("{{messaging: {{publish: [{many}]}}}}")), publish, "at most");
        let nats =
            "{nats: {publish: [a.b], subscribe: ['c.>', '>'], buckets: {carts: {bucket: b, access: read-only}}}}";
        let spec = parse(with(nats).as_bytes()).unwrap();
        assert_eq!(parse(&serde_json::to_vec(&spec).unwrap()).unwrap(), spec);
        assert_eq!((spec.schema(), spec.grants.nats.bucket("carts").is_some()), (6, true));
        refuse(&with("{nats: {subscribe: ['$JS.>']}}"), "grants.nats.subscribe[0]", "reserved");
        refuse(&with(&format!("{{nats: {{subscribe: [{many}]}}}}")), "grants.nats.subscribe", "at most");
        refuse(&with("{nats: {buckets: {a: {bucket: lattice-x}}}}"), "grants.nats.buckets.a.bucket", "lattice's own");
        refuse(&with("{nats: {topics: {}}}"), "grants.nats.topics", "unknown field");
        assert_eq!(parse(with("{nats: {services: [shop]}}").as_bytes()).unwrap().schema(), 9);
        refuse(&with("{nats: {services: [shop, lattice-ctl]}}"), "grants.nats.services[1]", "are nodes");
        refuse(&with("{nats: {services: ['a.b']}}"), "grants.nats.services[0]", "no name of a service");
        let streams =
            "{nats: {streams: {orders: {stream: ORDERS, publish: ['o.*'], read: ['>'], consumers: [packers]}}}}";
        let spec = parse(with(streams).as_bytes()).unwrap();
        assert_eq!(parse(&serde_json::to_vec(&spec).unwrap()).unwrap(), spec);
        assert_eq!((spec.schema(), spec.grants.nats.stream("orders").is_some()), (6, true));
        // A node that does not know the profile would take the record for corrupt.
        let counter = "{nats: {streams: {hits: {stream: HITS, publish: ['hits.*'], profiles: [counter]}}}}";
        assert_eq!(parse(with(counter).as_bytes()).unwrap().schema(), 9);
        let later = "{nats: {streams: {s: {stream: S, publish: [a], schedule: ['later.*']}}}}";
        let spec = parse(with(later).as_bytes()).unwrap();
        assert_eq!((spec.schema(), parse(&serde_json::to_vec(&spec).unwrap()).unwrap()), (9, spec));
        for (stream, field, wording) in [
            ("{stream: KV_carts}", "stream", "grant of its own"),
            ("{stream: lattice-default-events}", "stream", "reserved"),
            ("{stream: S, publish: ['$JS.API.>']}", "publish[0]", "reserved"),
            ("{stream: S, read: [a, '_INBOX.>']}", "read[1]", "reserved"),
            ("{stream: S, consumers: [a, b.c]}", "consumers[1]", "not a consumer"),
            ("{stream: S, write: [a]}", "write", "unknown field"),
            ("{stream: S, publish: [a], schedule: [a, '$JS.>']}", "schedule[1]", "reserved"),
            (&format!("{{stream: S, read: [{many}]}}"), "read", "at most"),
        ] {
            let field = format!("grants.nats.streams.s.{field}");
            refuse(&with(&format!("{{nats: {{streams: {{s: {stream}}}}}}}")), &field, wording);
        }
        let objects = "{nats: {objects: {files: {bucket: shop-files, access: read-only}}}}";
        let spec = parse(with(objects).as_bytes()).unwrap();
        assert_eq!((spec.schema(), spec.grants.nats.objects("files").is_some()), (6, true));
        let bucket = "grants.nats.objects.files.bucket";
        refuse(&with("{nats: {objects: {files: {bucket: lattice-default-components}}}}"), bucket, "lattice's own");
        let blobstore = "{blobstore: {files: {bucket: shop-files, access: read-only}}}";
        let spec = parse(with(blobstore).as_bytes()).unwrap();
        assert_eq!(parse(&serde_json::to_vec(&spec).unwrap()).unwrap(), spec);
        assert_eq!((spec.schema(), spec.grants.blobstore.len()), (6, 1));
        let bucket = "grants.blobstore.files.bucket";
        refuse(&with("{blobstore: {files: {bucket: lattice-default-components}}}"), bucket, "lattice's own");
        refuse(&with("{blobstore: {'a/b': {bucket: a}}}"), "grants.blobstore.a/b", "not a name");
        let shared = format!("{}reuse: {{concurrency: 2}}\n", with(blobstore));
        refuse(&shared, "grants.blobstore", "several requests at a time (reuse.concurrency: 2)");
        let shared = format!("{}reuse: {{concurrency: 2}}\n", with("{messaging: {publish: [a]}}"));
        refuse(&shared, "grants.messaging", "several requests at a time (reuse.concurrency: 2)");
        let many = vec!["https://a.test"; crate::limits::GRANTS_MAX + 1].join(", ");
        refuse(&with(&format!("{{http-out: [{many}]}}")), "grants.http-out", "at most");

        let parts = |grants: &str, isolate: bool| {
            format!(
                "name: a\ncomponents:\n  - {{name: a, source: 'file:a'}}\n  \
                 - {{name: b, source: 'file:b', isolate: {isolate}, grants: {grants}}}\n"
            )
        };
        let spec = parse(parts("{connect: ['tcp://db.test:5432']}", true).as_bytes()).unwrap();
        assert_eq!(spec.parts().filter_map(|part| part.grants).count(), 1);
        assert_eq!(parse(&serde_json::to_vec(&spec).unwrap()).unwrap(), spec);
        refuse(&parts("{}", false), "components[1].grants", "isolated");
        refuse(&parts("{connect: [x]}", true), "components[1].grants.connect[0]", "not a grant to connect");
        refuse(&parts(&format!("{{http-out: [{many}]}}"), true), "components[1].grants.http-out", "at most");
    }

    #[test]
    fn a_bad_subscription_is_named() {
        let with = |messages: &str| format!("{SMALLEST}messages: [{messages}]\n");
        let spec = parse(with("{subject: 'a.*'}, {subject: 'b.>', group: g-1, concurrency: 1}").as_bytes()).unwrap();
        assert_eq!(parse(&serde_json::to_vec(&spec).unwrap()).unwrap(), spec);
        let groups: Vec<String> =
            spec.messages.iter().map(|message| message.group_of(&"default".parse().unwrap(), &spec.name)).collect();
        assert_eq!(groups, ["lattice-default-hello", "g-1"]);
        refuse(&with("{subject: '*.a'}"), "messages[0].subject", "begins with a wildcard");
        refuse(&with("{subject: '$JS.>'}"), "messages[0].subject", "reserved");
        refuse(&with("{subject: 'a.*'}, {subject: 'a.b'}"), "messages[1].subject", "in common");
        parse(with("{subject: 'a.*'}, {subject: 'a.b', group: other}").as_bytes()).unwrap();
        refuse(&with("{subject: a, group: 'a b'}"), "messages[0].group", "not a queue group");
        for concurrency in [0, 257] {
            let text = with(&format!("{{subject: a, concurrency: {concurrency}}}"));
            refuse(&text, "messages[0].concurrency", "limits.concurrency (256)");
        }
        refuse(&with("{subjects: a}"), "messages[0].subjects", "unknown field");
        let many: Vec<String> = (0..17).map(|i| format!("{{subject: a{i}}}")).collect();
        refuse(&with(&many.join(", ")), "messages", "at most 16");
        let shared = format!("{}reuse: {{concurrency: 2}}\n", with("{subject: a}"));
        refuse(&shared, "messages", "several requests at a time (reuse.concurrency: 2)");
    }

    #[test]
    fn aliases_cannot_make_a_small_document_large() {
        let text = "x".repeat(10_000);
        let many = "*a, ".repeat(200);
        let env: String = (0..200).map(|i| format!("k{i}: *a, ")).collect();
        refuse(&format!("name: a\nx: &a {text}\ny: [{many}]"), "", "not YAML");
        let component =
            format!("components: [{{name: b, source: 'file:x', config: {{k: &a {text}}}, env: {{{env}}}}}]");
        refuse(&format!("name: a\n{component}"), "", "");
    }

    #[test]
    fn reuse_is_a_word_or_settings() {
        let with = |reuse: &str| parse(format!("{SMALLEST}reuse: {reuse}\n").as_bytes()).unwrap().reuse;
        assert_eq!(with("off"), Reuse::Off);
        assert_eq!(with("on"), Reuse::Default);
        assert_eq!(with("{requests: 5}").settings().unwrap().requests, 5);
    }
}
