//! `WorkloadDeployment` and `Workload` of wasmCloud 2: one workload each.

mod interfaces;

use super::{
    Notes,
    draft::{Draft, id, put, requirements, source, texts},
    secrets::{self, Secrets},
    tree::{Entry, Tree},
};
use serde_json::{Value, json};

/// Room of a volume whose size the manifest leaves open.
const EMPTY_SIZE: &str = "1GiB";

pub fn map(document: &Tree, secrets: &mut Secrets, notes: &mut Notes) -> Option<Draft> {
    notes.unknown(document, &["apiVersion", "kind", "metadata", "spec", "status"]);
    let Some(name) = document.at(&["metadata", "name"]) else {
        notes.lost(document.line, "a workload without metadata.name");
        return None;
    };
    let called = id(&name.text().unwrap_or_default(), name.line, notes);
    notes.mapped(name.line, format!("name: {called}"));
    let mut draft = Draft::new(&called, document.line);
    if let Some(metadata) = document.get("metadata") {
        for entry in metadata.entries().iter().filter(|entry| entry.key != "name") {
            notes.lost(
                entry.line,
                format!("metadata.{}: a spec has no metadata; a namespace is a lattice of its own", entry.key),
            );
        }
    }
    let spec = document.get("spec")?;
    // A `Workload` has it without the template.
    let inner = match spec.at(&["template", "spec"]) {
        Some(inner) => {
            outer(spec, &mut draft, notes);
            inner
        }
        None => spec,
    };
    let volumes = inner.get("volumes");
    for entry in inner.entries() {
        let line = entry.line;
        match entry.key.as_str() {
            "components" => {
                entry.value.items().iter().for_each(|item| component(item, volumes, secrets, &mut draft, notes));
            }
            "service" => service(&entry.value, line, secrets, &mut draft, notes),
            "hostInterfaces" => {} // below: components come first
            "hostSelector" => {
                for label in &entry.value.entries().iter().collect::<Vec<_>>() {
                    if let Some(value) = label.value.text() {
                        notes.changed(
                            label.line,
                            format!("placement.require: {} == {value}; start nodes with --label", label.key),
                        );
                    }
                }
                draft.set_in("placement", "require", requirements(&entry.value).into());
            }
            "hostId" => {
                let node = id(&entry.value.text().unwrap_or_default(), line, notes);
                notes.changed(line, format!("placement.node: {node}; start that node with --id"));
                draft.set_in("placement", "node", node.into());
            }
            "volumes" => {} // with the components that mount them
            "environment" => notes
                .lost(line, "environment: each environment is a lattice of its own, named when you deploy: --lattice"),
            "kubernetes" => notes.lost(line, "kubernetes: there is none; any node takes the requests"),
            other => notes.lost(line, format!("{other}: not known here")),
        }
    }
    for item in inner.get("hostInterfaces").map(Tree::items).unwrap_or_default() {
        interfaces::map(item, &called, secrets, &mut draft, notes);
    }
    Some(draft)
}

fn outer(spec: &Tree, draft: &mut Draft, notes: &mut Notes) {
    for entry in spec.entries() {
        match entry.key.as_str() {
            "replicas" => {
                if let Some(replicas) = entry.value.number() {
                    notes.mapped(entry.line, format!("replicas: {replicas}"));
                    draft.set("replicas", replicas.into());
                }
            }
            "deployPolicy" => match entry.value.text().as_deref() {
                Some("RollingUpdate") => {
                    notes.mapped(entry.line, "deployPolicy: a new generation comes up beside the old one")
                }
                _ => notes.changed(entry.line, "deployPolicy: only with `class: strict` does the old one stop first"),
            },
            "template" => {}
            "artifacts" => notes.lost(entry.line, "artifacts: components are uploaded by `lattice deploy`"),
            other => notes.lost(entry.line, format!("{other}: not known here")),
        }
    }
}

fn component(tree: &Tree, volumes: Option<&Tree>, secrets: &mut Secrets, draft: &mut Draft, notes: &mut Notes) {
    let name = tree.text_of("name").unwrap_or_else(|| "main".into());
    let name = id(&name, tree.line, notes);
    let mut made = json!({"name": name});
    for entry in tree.entries() {
        let line = entry.line;
        let number = entry.value.number().filter(|number| *number > 0);
        match (entry.key.as_str(), number) {
            ("name", _) => notes.mapped(line, format!("components: {name}")),
            ("image", _) => {
                put(&mut made, "source", source(&entry.value.text().unwrap_or_default(), &name, line, notes))
            }
            ("localResources", _) => resources(&entry.value, volumes, secrets, (&mut made, draft), notes),
            ("poolSize", Some(number)) => {
                notes.changed(
                    line,
                    format!("reuse.min-warm: {number}; the pool grows to reuse.max-instances (64) by itself"),
                );
                draft.set_in("reuse", "min-warm", number.into());
            }
            ("maxInvocations", Some(number)) => {
                notes.mapped(line, format!("reuse.requests: {number}"));
                draft.set_in("reuse", "requests", number.into());
            }
            ("maxConcurrency", Some(number)) => {
                notes.changed(line, format!("reuse.concurrency: {number}; only for components of wasi:http 0.3"));
                draft.set_in("reuse", "concurrency", number.into());
            }
            ("poolSize" | "maxInvocations" | "maxConcurrency", None) => {
                notes.mapped(line, format!("{}: as by default", entry.key))
            }
            ("imagePullSecret" | "imagePullPolicy", _) => notes.lost(line, format!("{}: nothing is pulled", entry.key)),
            (other, _) => notes.lost(line, format!("{other}: not known here")),
        }
    }
    draft.push("components", made);
}

/// What one component may use. Components that are composed share their limits and grants.
fn resources(
    tree: &Tree,
    volumes: Option<&Tree>,
    secrets: &mut Secrets,
    (made, draft): (&mut Value, &mut Draft),
    notes: &mut Notes,
) {
    for entry in tree.entries() {
        let line = entry.line;
        match entry.key.as_str() {
            "memoryLimitMb" => {
                let megabytes = entry.value.number().filter(|number| (1..=1024).contains(number));
                match megabytes {
                    Some(megabytes) => {
                        notes.mapped(
                            line,
                            format!("limits.memory: {megabytes}MiB, for all components that are composed together"),
                        );
                        draft.set_in("limits", "memory", format!("{megabytes}MiB").into());
                    }
                    None => notes.lost(line, "memoryLimitMb: limits.memory takes up to 1GiB"),
                }
            }
            "cpuLimit" => notes.lost(line, "cpuLimit: processor time is limited by the request: limits.cpu; what a node is to have left for a replica is reserve.cpu"),
            "config" => put(made, "config", texts(&entry.value, "config", notes)),
            "environment" => environment(&entry.value, secrets, (made, Some(draft)), notes),
            "allowedHosts" => entry.value.items().iter().for_each(|item| allowed_host(item, draft, notes)),
            "volumeMounts" => entry.value.items().iter().for_each(|item| mount(item, volumes, draft, notes)),
            "allowedIpNameLookups" | "allowedHostLoopbackPorts" => {
                notes.lost(line, format!("{}: grants.connect names hosts and ports together", entry.key));
            }
            other => notes.lost(line, format!("{other}: not known here")),
        }
    }
}

/// Either the variables themselves, or `config`, `configFrom` and `secretFrom`.
/// Components of `draft` share their secrets.
fn environment(tree: &Tree, secrets: &mut Secrets, (made, draft): (&mut Value, Option<&Draft>), notes: &mut Notes) {
    let is_outer = |entry: &Entry| matches!(entry.key.as_str(), "config" | "configFrom" | "secretFrom");
    if !tree.entries().iter().any(is_outer) {
        put(made, "env", texts(tree, "env", notes));
        return;
    }
    for entry in tree.entries() {
        match entry.key.as_str() {
            "config" => put(made, "env", texts(&entry.value, "env", notes)),
            "configFrom" => {
                let mut names = Vec::new();
                for item in entry.value.items() {
                    let Some(name) = item.text_of("name").or_else(|| item.text()) else { continue };
                    let name = id(&name, item.line, notes);
                    notes.changed(
                        item.line,
                        format!("env-from: {name}; `lattice config put {name}` what the ConfigMap has"),
                    );
                    names.push(Value::from(name));
                }
                put(made, "env-from", names);
            }
            "secretFrom" => secrets::of_environment(entry, secrets, (made, draft), notes),
            _ => notes.lost(entry.line, format!("{}: not known here", entry.key)),
        }
    }
}

fn allowed_host(item: &Tree, draft: &mut Draft, notes: &mut Notes) {
    let Some(host) = item.text() else { return };
    let targets: Vec<String> = match host.contains("://") || host == "*" {
        true => vec![host.clone()],
        false => vec![format!("https://{host}"), format!("http://{host}")],
    };
    let spelled = targets.join(", ");
    for target in targets {
        draft.push_in("grants", "http-out", target.into());
    }
    notes.mapped(item.line, format!("grants.http-out: {spelled}"));
}

fn mount(item: &Tree, volumes: Option<&Tree>, draft: &mut Draft, notes: &mut Notes) {
    let (Some(name), Some(path)) = (item.text_of("name"), item.text_of("mountPath")) else {
        return notes.lost(item.line, "a mount without name and mountPath");
    };
    let all = volumes.map(Tree::items).unwrap_or_default();
    let Some(volume) = all.iter().find(|volume| volume.text_of("name").as_deref() == Some(name.as_str())) else {
        return notes.lost(item.line, format!("there is no volume {name}"));
    };
    let called = id(&name, item.line, notes);
    let empty = volume.get("emptyDir").or_else(|| volume.get("ephemeral"));
    let content = match (volume.get("hostPath"), empty) {
        (Some(host), _) => {
            let at = host.text_of("path").or_else(|| host.text_of("localPath")).unwrap_or_default();
            let read_only = item.get("readOnly").and_then(Tree::text).as_deref() == Some("true");
            notes.changed(volume.line, format!("volumes: {called} from {at}; start nodes with --allow-host-path {at}"));
            ("host", json!({"path": at, "read-only": read_only}))
        }
        (None, Some(_)) => {
            notes.changed(
                volume.line,
                format!("volumes: {called}, empty, with room for {EMPTY_SIZE}: say how much it needs"),
            );
            ("empty", json!({"size": EMPTY_SIZE}))
        }
        (None, None) => {
            return notes.lost(volume.line, format!("volume {name}: neither hostPath nor ephemeral nor emptyDir"));
        }
    };
    notes.mapped(item.line, format!("volumes: {called} at {path}"));
    draft.push("volumes", json!({"name": called, "mount": path, content.0: content.1}));
}

fn service(tree: &Tree, line: u64, secrets: &mut Secrets, draft: &mut Draft, notes: &mut Notes) {
    let mut made = json!({"name": "service"});
    notes.mapped(line, "services: service");
    for entry in tree.entries() {
        let line = entry.line;
        match entry.key.as_str() {
            "name" => put(&mut made, "name", id(&entry.value.text().unwrap_or_default(), line, notes)),
            "image" => {
                put(&mut made, "source", source(&entry.value.text().unwrap_or_default(), "service", line, notes))
            }
            "maxRestarts" => match entry.value.number().filter(|number| (1..=1000).contains(number)) {
                Some(number) => {
                    notes.changed(line, format!("restart.give-up-after: {number}, counted over ten minutes"));
                    put(&mut made, "restart", json!({"give-up-after": number}));
                }
                None => notes.lost(line, "maxRestarts: restart.give-up-after is 1 to 1000"),
            },
            "localResources" => {
                for entry in entry.value.entries() {
                    match entry.key.as_str() {
                        "environment" => environment(&entry.value, secrets, (&mut made, None), notes),
                        "config" => put(&mut made, "config", texts(&entry.value, "config", notes)),
                        "memoryLimitMb" if entry.value.number().is_some_and(|number| (1..=1024).contains(&number)) => {
                            let megabytes = entry.value.number().unwrap_or_default();
                            notes.mapped(entry.line, format!("services: limits.memory: {megabytes}MiB"));
                            put(&mut made, "limits", json!({"memory": format!("{megabytes}MiB")}));
                        }
                        "allowedHosts" => {
                            let hosts: Vec<Value> = entry
                                .value
                                .items()
                                .iter()
                                .filter_map(Tree::text)
                                .flat_map(|host| [format!("https://{host}"), format!("http://{host}")].map(Value::from))
                                .collect();
                            notes.mapped(entry.line, "services: grants.http-out");
                            put(&mut made, "grants", json!({"http-out": hosts}));
                        }
                        other => notes.lost(entry.line, format!("{other}: a service has none")),
                    }
                }
            }
            other => notes.lost(line, format!("{other}: not known here")),
        }
    }
    draft.push("services", made);
}
