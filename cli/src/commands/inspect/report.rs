//! What `lattice inspect` says, as data: it is what `-o json` prints, and what the other forms are drawn from. Computed
//! from a spec and its components' bytes alone, by the code that admission and nodes use.

use crate::error::Failure;
use bytes::Bytes;
use lattice::{
    ctl::StatusReply,
    id::{ComponentName, Digest, Generation, WorkloadName},
    spec::{PartRole, Requirement, WorkloadSpec, profile::listed},
};
use lattice_composer::{ComposeError, Composition, OpenImport, Part};
use lattice_runtime::{Capability, Inspection, Interface, Kind, Source};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A workload, taken apart.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    pub workload: WorkloadName,
    /// Of what is deployed only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// By name.
    pub components: Vec<Component>,
    /// Which import another component satisfies.
    pub edges: Vec<Edge>,
    /// What is behind the imports that are left.
    pub bindings: Vec<Binding>,
    /// What nodes run. Absent where the components can't be composed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole: Option<Whole>,
    /// Why no node of this version can run it. Nothing if one can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// Conditions on the nodes that may run it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<Requirement>,
    /// Of what is deployed only: where its replicas are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<StatusReply>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Component {
    pub name: ComponentName,
    pub digest: Digest,
    pub bytes: u64,
    pub role: Role,
    pub imports: Vec<Face>,
    pub exports: Vec<Face>,
}

/// What a component is in the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Its exports are those of the whole.
    Entry,
    /// The entry needs it.
    Part,
    /// The host links it to the others: see [`PartRole`].
    Service,
    Lazy,
    Isolated,
    /// Nothing needs it: it does not run.
    Unused,
    /// Not known, since the components can't be composed.
    Unknown,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Entry => "entry",
            Role::Part => "part",
            Role::Service => "service",
            Role::Lazy => "lazy",
            Role::Isolated => "isolated",
            Role::Unused => "unused",
            Role::Unknown => "-",
        }
    }
}

impl From<PartRole> for Role {
    fn from(role: PartRole) -> Self {
        match role {
            PartRole::Service => Role::Service,
            PartRole::Lazy => Role::Lazy,
            PartRole::Isolated => Role::Isolated,
        }
    }
}

/// An import or export with its functions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Face {
    pub name: String,
    /// `greet: func(name: string) -> string`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<String>,
}

impl Face {
    /// The project's own interfaces are what a person looks for; those of WASI everybody has.
    pub fn is_wasi(&self) -> bool {
        self.name.starts_with("wasi:")
    }
}

impl From<Interface> for Face {
    fn from(interface: Interface) -> Self {
        Self { name: interface.name, functions: interface.functions }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Edge {
    pub from: ComponentName,
    pub import: String,
    pub to: ComponentName,
    pub export: String,
}

/// An import that no component satisfies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Binding {
    pub import: String,
    /// Who asks for it.
    pub of: Vec<ComponentName>,
    pub to: BoundTo,
    pub note: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BoundTo {
    /// The node has it.
    Host,
    /// It can be imported; the spec grants nothing of it.
    Denied,
    /// Types alone, which nobody has to have.
    Types,
    /// No node offers it.
    Nothing,
}

impl BoundTo {
    pub fn as_str(self) -> &'static str {
        match self {
            BoundTo::Host => "host",
            BoundTo::Denied => "denied",
            BoundTo::Types => "types only",
            BoundTo::Nothing => "nothing",
        }
    }
}

/// What a node runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Whole {
    pub digest: Digest,
    pub bytes: u64,
    pub kind: WholeKind,
    pub engine: Engine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum WholeKind {
    #[serde(rename = "wasi:http@0.2")]
    Http02,
    #[serde(rename = "wasi:http@0.3")]
    Http03,
    #[serde(rename = "wasmcloud:messaging@0.2")]
    Messages,
    #[serde(rename = "wasi:cli/run")]
    Command,
    #[serde(rename = "library")]
    Library,
}

impl WholeKind {
    pub fn describe(self) -> &'static str {
        match self {
            WholeKind::Http02 => "answers HTTP by wasi:http 0.2",
            WholeKind::Http03 => "answers HTTP by wasi:http 0.3",
            WholeKind::Messages => "handles messages by wasmcloud:messaging 0.2",
            WholeKind::Command => "a program with a beginning and an end",
            WholeKind::Library => "a part for others",
        }
    }
}

/// Which of a node's engines runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// Without support for async functions, streams and futures, which costs each call some time.
    Plain,
    Concurrent,
}

impl Engine {
    pub fn describe(self) -> &'static str {
        match self {
            Engine::Plain => "plain engine (no async functions, streams or futures)",
            Engine::Concurrent => "concurrent engine (async functions, streams or futures)",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Problem {
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Take a workload apart. `sources` are the bytes of its components and services, in the order of
/// [`WorkloadSpec::parts`].
pub fn report(spec: &WorkloadSpec, sources: &[Bytes]) -> anyhow::Result<Report> {
    let mut parts: Vec<Part> = Vec::new();
    let mut inspected: BTreeMap<ComponentName, Inspection> = BTreeMap::new();
    let mut components = Vec::new();
    for (part, bytes) in spec.parts().zip(sources) {
        let unreadable = |error: lattice_runtime::LoadError| Failure::failed(format!("{}.source: {error}", part.field));
        let signatures = lattice_runtime::signatures(bytes).map_err(unreadable)?;
        inspected.insert(part.name.clone(), lattice_runtime::inspect(bytes).map_err(unreadable)?);
        components.push(Component {
            name: part.name.clone(),
            digest: Digest::of(bytes),
            bytes: bytes.len() as u64,
            role: Role::Unknown,
            imports: signatures.imports.into_iter().map(Face::from).collect(),
            exports: signatures.exports.into_iter().map(Face::from).collect(),
        });
        parts.push(Part { name: part.name.clone(), bytes: bytes.clone(), role: part.role });
    }
    components.sort_by(|a, b| a.name.cmp(&b.name));
    let mut report = Report {
        workload: spec.name.clone(),
        generation: None,
        components,
        edges: Vec::new(),
        bindings: Vec::new(),
        whole: None,
        problem: None,
        requires: spec.placement.require.clone(),
        status: None,
    };
    match compose(&parts, spec) {
        Ok(composition) => describe(&mut report, spec, &composition, &inspected)?,
        Err(error) => report.problem = Some(Problem { message: error.to_string(), hint: Some(error.hint()) }),
    }
    Ok(report)
}

/// What the parts become. One alone runs as it is, whatever it exports.
fn compose(parts: &[Part], spec: &WorkloadSpec) -> Result<Composition, ComposeError> {
    let [only] = parts else {
        return match spec.compose.script() {
            Some(script) => lattice_composer::compose_script(parts, script),
            None => lattice_composer::compose(parts, &spec.compose.links),
        };
    };
    let open = |import| OpenImport { part: only.name.clone(), import, near: Vec::new() };
    let imports = lattice_runtime::inspect(&only.bytes).map(|inspection| inspection.imports).unwrap_or_default();
    Ok(Composition {
        bytes: only.bytes.clone(),
        digest: Digest::of(&only.bytes),
        entry: only.name.clone(),
        graph: Vec::new(),
        used: vec![only.name.clone()],
        hosted: Vec::new(),
        host_edges: Vec::new(),
        dropped: Vec::new(),
        open: imports.into_iter().map(open).collect(),
    })
}

fn describe(
    report: &mut Report,
    spec: &WorkloadSpec,
    composition: &Composition,
    inspected: &BTreeMap<ComponentName, Inspection>,
) -> anyhow::Result<()> {
    for component in &mut report.components {
        component.role = match &component.name {
            name if *name == composition.entry => Role::Entry,
            name if composition.used.contains(name) => Role::Part,
            name if composition.hosted.contains(name) => {
                spec.parts().find(|part| part.name == name).and_then(|part| part.role).map_or(Role::Unknown, Role::from)
            }
            _ => Role::Unused,
        };
    }
    report.edges = composition
        .graph
        .iter()
        .map(|edge| Edge {
            from: edge.from.clone(),
            import: edge.import.clone(),
            to: edge.to.clone(),
            export: edge.export.clone(),
        })
        .collect();
    report.bindings = bindings(spec, &composition.open, inspected);

    let mut whole = lattice_runtime::inspect(&composition.bytes)
        .map_err(|error| Failure::failed(format!("the composition can't be read: {error}")))?;
    report.whole = Some(Whole {
        digest: composition.digest,
        bytes: composition.bytes.len() as u64,
        kind: match whole.kind {
            Kind::Http02 => WholeKind::Http02,
            Kind::Http03 => WholeKind::Http03,
            Kind::Messages => WholeKind::Messages,
            Kind::Command => WholeKind::Command,
            Kind::Other => WholeKind::Library,
        },
        engine: if whole.needs_concurrency { Engine::Concurrent } else { Engine::Plain },
    });
    let is_linked =
        |import: &String| composition.host_edges.iter().any(|edge| edge.from.is_none() && edge.import == *import);
    whole.missing.retain(|import| !is_linked(import));
    report.problem = lattice_runtime::admissible(&whole, lattice::host::Role::of_whole(spec)).err().map(|error| {
        let missing = report.bindings.iter().find(|binding| binding.to == BoundTo::Nothing);
        let near = missing.and_then(|missing| composition.open.iter().find(|open| open.import == missing.import));
        let near: Vec<String> = near.into_iter().flat_map(|open| &open.near).map(ToString::to_string).collect();
        let hint =
            (!near.is_empty()).then(|| format!("a version that does not fit is exported by {}", near.join(", ")));
        Problem { message: error.to_string(), hint }
    });
    Ok(())
}

fn bindings(spec: &WorkloadSpec, open: &[OpenImport], inspected: &BTreeMap<ComponentName, Inspection>) -> Vec<Binding> {
    let mut of: BTreeMap<&str, BTreeSet<&ComponentName>> = BTreeMap::new();
    for OpenImport { part, import, .. } in open {
        of.entry(import).or_default().insert(part);
    }
    let bind = |(import, of): (&str, BTreeSet<&ComponentName>)| {
        let is_missing = |part: &&ComponentName| {
            inspected.get(*part).is_some_and(|inspection| inspection.missing.iter().any(|missing| missing == import))
        };
        let (to, note) = match lattice_runtime::capability(import) {
            Some(capability) => behind(spec, capability),
            None if of.iter().any(is_missing) => {
                (BoundTo::Nothing, "no node offers it, and no component exports it".to_owned())
            }
            None => (BoundTo::Types, String::new()),
        };
        Binding { import: import.to_owned(), of: of.into_iter().cloned().collect(), to, note }
    };
    of.into_iter().map(bind).collect()
}

/// What the spec grants of a capability, in words.
fn behind(spec: &WorkloadSpec, capability: Capability) -> (BoundTo, String) {
    fn list<T: ToString>(granted: impl IntoIterator<Item = T>) -> Vec<String> {
        granted.into_iter().map(|grant| grant.to_string()).collect()
    }
    let (field, granted) = match capability.from {
        Source::Node => return (BoundTo::Host, capability.what.to_owned()),
        Source::HttpOut => ("grants.http-out", list(&spec.grants.http_out)),
        Source::Connect => ("grants.connect", list(&spec.grants.connect)),
        Source::Keyvalue => {
            let stores = spec.grants.keyvalue.iter().map(|(name, grant)| format!("{name} (bucket {})", grant.bucket));
            ("grants.keyvalue", stores.collect())
        }
        Source::Blobstore => {
            let containers =
                spec.grants.blobstore.iter().map(|(name, grant)| format!("{name} (bucket {})", grant.bucket));
            ("grants.blobstore", containers.collect())
        }
        Source::Messaging => ("grants.messaging.publish", list(&spec.grants.messaging.publish)),
        Source::Nats => {
            let nats = &spec.grants.nats;
            let publish = nats.publish.iter().map(|subject| format!("publish {subject}"));
            let subscribe = nats.subscribe.iter().map(|subject| format!("subscribe {subject}"));
            let buckets = nats.buckets.iter().map(|(name, grant)| match grant.profiles.is_empty() {
                true => format!("{name} (bucket {})", grant.bucket),
                false => {
                    let profiles = listed(grant.profiles.iter().map(|profile| profile.as_str()));
                    format!("{name} (bucket {}, {profiles})", grant.bucket)
                }
            });
            let streams = nats.streams.iter().map(|(name, grant)| match grant.profiles.is_empty() {
                true => format!("{name} (stream {})", grant.stream),
                false => {
                    let profiles = listed(grant.profiles.iter().map(|profile| profile.as_str()));
                    format!("{name} (stream {}, {profiles})", grant.stream)
                }
            });
            let services = nats.services.iter().map(|name| format!("micro service {name}"));
            let objects = nats.objects.iter().map(|(name, grant)| format!("{name} (object store {})", grant.bucket));
            (
                "grants.nats",
                publish.chain(subscribe).chain(buckets).chain(streams).chain(objects).chain(services).collect(),
            )
        }
        Source::Volumes => ("volumes", list(spec.volumes.iter().map(|volume| &volume.mount))),
    };
    if granted.is_empty() {
        return (BoundTo::Denied, format!("only {}: the spec has no {field}", capability.what));
    }
    (BoundTo::Host, format!("{}, and {field}: {}", capability.what, granted.join(", ")))
}
