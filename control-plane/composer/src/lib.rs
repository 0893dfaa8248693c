//! Composes the components of a workload into one, ahead of time: what one part imports and another exports is joined, so
//! that a call between them is a call within one instance and nodes see a single component. Parts that are *hosted*
//! (services, lazy and isolated components) stay apart: which import of whom they satisfy is worked out here, and joined
//! by the host ([`Composition::host_edges`]).
//!
//! Same parts and links, same bytes, in whatever order they come: the result is stored by its digest. It must not read,
//! write or wait, and knows nothing of what nodes offer: an import that no part satisfies stays an import of the whole
//! ([`Composition::open`]), for whoever inspects the result to judge.
//!
//! Bytes that are not a valid component are an error. For valid ones that use rare types the encoder has assertions of
//! its own, so call [`compose`] where a panic is contained, such as on a blocking task.
//!
//! Start at [`compose`]; then `surface.rs` (what a part imports and exports), `wiring.rs` (who gets what from whom: all
//! rules are there), `encode.rs` (the bytes). [`compose_script`] does what a script says instead of the rules.

mod encode;
mod script;
mod surface;
mod version;
mod wiring;

pub use script::compose_script;

use bytes::Bytes;
use lattice::{
    id::{ComponentName, Digest},
    limits::COMPONENTS_MAX,
    recipe::HostEdge,
    spec::{FunctionName, Link, PartRole},
};
use std::{collections::BTreeMap, fmt};

/// A component of a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Unique among the parts.
    pub name: ComponentName,
    pub bytes: Bytes,
    /// Why it is hosted; `None`: it is to be composed.
    pub role: Option<PartRole>,
}

/// One component made of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Composition {
    /// Where only one part is used, its own bytes.
    pub bytes: Bytes,
    /// SHA-256 of `bytes`.
    pub digest: Digest,
    /// The part whose exports are those of the whole.
    pub entry: ComponentName,
    /// Which import of which part is satisfied by which export, in order. Within the whole, and over its border.
    pub graph: Vec<Edge>,
    /// The parts in the composition, in order.
    pub used: Vec<ComponentName>,
    /// The hosted parts that run beside it, in order: all services, and what is needed of the others.
    pub hosted: Vec<ComponentName>,
    /// What the host joins, in order: imports of the whole, and of hosted parts.
    pub host_edges: Vec<HostEdge>,
    /// The parts that neither the entry nor a service needs, directly or through others. They are not in it.
    pub dropped: Vec<ComponentName>,
    /// What is still imported, and which parts ask for it: it must come from the node.
    pub open: Vec<OpenImport>,
}

impl Composition {
    /// Who imports what the host joins there; one of them, where it is the whole that does.
    pub fn caller<'a>(&'a self, edge: &'a HostEdge) -> &'a ComponentName {
        let is_of_the_whole = |from: &ComponentName| edge.from.is_none() && self.used.contains(from);
        let caller = self.graph.iter().find(|inner| inner.to == edge.to && is_of_the_whole(&inner.from));
        edge.from.as_ref().or(caller.map(|inner| &inner.from)).unwrap_or(&self.entry)
    }
}

/// An import that is satisfied by a sibling.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    pub from: ComponentName,
    /// As `from` names it: `acme:auth/check@1.0.0`.
    pub import: String,
    pub to: ComponentName,
    /// As `to` names it: `acme:auth/check@1.1.0`.
    pub export: String,
}

/// An import that no sibling satisfies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenImport {
    pub part: ComponentName,
    pub import: String,
    /// Siblings that export the same interface in a version that does not fit.
    pub near: Vec<Exporter>,
}

/// A part and one of its exports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exporter {
    pub part: ComponentName,
    pub export: String,
}

impl fmt::Display for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.part, self.export)
    }
}

/// Why parts can't be composed. [`ComposeError::part`] says whose source to look at, [`ComposeError::hint`] what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ComposeError {
    #[error("{count} parts are more than {COMPONENTS_MAX}")]
    TooManyParts { count: usize },
    #[error("two parts are named {name}")]
    DuplicateName { name: ComponentName },
    #[error("{part} is not a valid component: {why}")]
    Malformed { part: ComponentName, why: String },
    /// A link names a part that is not there.
    #[error("a link names {name}, which is not a component of the workload")]
    UnknownPart { name: ComponentName },
    /// A link gives a part what it does not import.
    #[error("a link is for the import {import} of {part}, which does not import that")]
    UnusedLink { part: ComponentName, import: String, imports: Vec<String> },
    /// A link goes to a part that does not export what is imported, or only in a version that does not fit.
    #[error("a link gives {part} the import {import} from {to}, which does not export that in a version that fits")]
    UnmatchedLink { part: ComponentName, import: String, to: ComponentName, exports: Vec<String> },
    /// No part can answer requests.
    #[error("no component exports wasi:http/incoming-handler@0.2 or wasi:http/handler@0.3")]
    NoEntry,
    /// What answers requests can't be apart from what is composed: it is what the whole is for.
    #[error("{part} is the only one that exports an HTTP handler, and it is {}", kind(*role))]
    HostedEntry { part: ComponentName, role: PartRole },
    #[error(
        "{} all export an HTTP handler, and none uses another's: which one answers requests is not clear",
        list(candidates)
    )]
    AmbiguousEntry { candidates: Vec<ComponentName> },
    #[error("the import {import} of {part} is exported by {}", list(candidates))]
    AmbiguousImport { part: ComponentName, import: String, candidates: Vec<Exporter> },
    /// A hosted part can't call into the composition: there are many instances of it, or none.
    #[error(
        "{part} is {} and imports {import}, which only what is composed exports: {}",
        kind(*role),
        list(candidates)
    )]
    OnlyComposed { part: ComponentName, role: PartRole, import: String, candidates: Vec<Exporter> },
    /// Imports of one interface by several composed parts are one import of the whole, so they come from one place.
    #[error("{first} and {second} both import {import}, which the whole imports once, but {why}")]
    SplitImport { import: String, first: ComponentName, second: ComponentName, why: String },
    #[error(
        "{part} is a service, and exports neither wasi:cli/run nor what another part imports: nothing would call it"
    )]
    IdleService { part: ComponentName, exports: Vec<String> },
    /// `path` begins and ends with the same part.
    #[error("the components need each other in a circle: {}", arrows(path))]
    Cycle { path: Vec<ComponentName> },
    /// The names agree and the types do not. `why` names the function.
    #[error("{} exports {export}, which is not what {part} imports as {import}: {why}", exporter)]
    Mismatch { part: ComponentName, import: String, exporter: ComponentName, export: String, why: String },
    /// Two parts ask the host for the same interface with different types. `why` names the function.
    #[error("{first} and {second} both import {import}, but not with the same types: {why}")]
    ImportConflict { import: String, first: ComponentName, second: ComponentName, why: String },
    /// The script that says how to compose them is wrong.
    #[error("line {line}, column {column}: {why}")]
    Script { line: usize, column: usize, why: String },
    #[error("the script exports neither wasi:http/incoming-handler@0.2 nor wasi:http/handler@0.3 of a component")]
    ScriptWithoutHandler,
    /// The encoder can't express it.
    #[error("the composition can't be written: {0}")]
    Encoding(String),
}

impl ComposeError {
    /// The part whose source is wrong, where it is one.
    pub fn part(&self) -> Option<&ComponentName> {
        match self {
            Self::DuplicateName { name: part }
            | Self::Malformed { part, .. }
            | Self::AmbiguousImport { part, .. }
            | Self::HostedEntry { part, .. }
            | Self::OnlyComposed { part, .. }
            | Self::IdleService { part, .. }
            | Self::Mismatch { part, .. } => Some(part),
            Self::ImportConflict { second, .. } | Self::SplitImport { second, .. } => Some(second),
            Self::Cycle { path } => path.first(),
            Self::TooManyParts { .. }
            | Self::UnknownPart { .. }
            | Self::UnusedLink { .. }
            | Self::UnmatchedLink { .. }
            | Self::NoEntry
            | Self::AmbiguousEntry { .. }
            | Self::Script { .. }
            | Self::ScriptWithoutHandler
            | Self::Encoding(_) => None,
        }
    }

    /// The link that is wrong, as the part and the import that it is for.
    pub fn link(&self) -> Option<(&ComponentName, &str)> {
        match self {
            Self::UnusedLink { part, import, .. } | Self::UnmatchedLink { part, import, .. } => Some((part, import)),
            _ => None,
        }
    }

    /// Whether it is the script that has to be changed.
    pub fn is_of_script(&self) -> bool {
        matches!(self, Self::Script { .. } | Self::ScriptWithoutHandler)
    }

    /// What to do, in one sentence.
    pub fn hint(&self) -> String {
        match self {
            Self::TooManyParts { .. } => "compose some of them beforehand, for example with `wac plug`".into(),
            Self::DuplicateName { .. } => "give each component a name of its own".into(),
            Self::Malformed { .. } => "build it as a component, for example for the target wasm32-wasip2".into(),
            Self::UnknownPart { .. } => "a link is {from: NAME, import: INTERFACE, to: NAME}".into(),
            Self::UnusedLink { imports, .. } => format!("it imports {}", or_nothing(imports)),
            Self::UnmatchedLink { exports, .. } => format!("it exports {}", or_nothing(exports)),
            Self::NoEntry => "one component of the workload must answer HTTP; the others are what it uses".into(),
            Self::HostedEntry { role: PartRole::Service, .. } => {
                "list it under `components`: a service is what the component that answers HTTP calls".into()
            }
            Self::HostedEntry { .. } => "leave that out: set it on the components that this one calls".into(),
            Self::OnlyComposed { candidates, .. } => {
                let exporter = candidates.first().map_or("NAME", |exporter| exporter.part.as_str());
                format!("write `isolate: true` on {exporter} as well, so that both can call it")
            }
            Self::SplitImport { import, second, .. } => {
                format!(
                    "link both to the same one under `compose.links`, or write `isolate: true` on {second} ({import})"
                )
            }
            Self::IdleService { exports, .. } => format!("it exports {}", or_nothing(exports)),
            Self::AmbiguousEntry { .. } => "keep one of them, or deploy them as workloads of their own".into(),
            Self::AmbiguousImport { part, import, candidates } => {
                let to = candidates.first().map_or("NAME", |exporter| exporter.part.as_str());
                format!("choose: `compose: {{links: [{{from: {part}, import: \"{import}\", to: {to}}}]}}`")
            }
            Self::Cycle { .. } => "move what two of them share into a component that imports neither".into(),
            Self::Mismatch { .. } => "build both from the same version of the interface".into(),
            Self::ImportConflict { .. } => "build both from the same version of the interface".into(),
            Self::Script { .. } => {
                "a script is `package a:b; let auth = new component:auth { ... }; …`: the packages are the workload's \
                 components as component:NAME"
                    .into()
            }
            Self::ScriptWithoutHandler => {
                "end it with `export NAME...;`, where NAME is the instance that answers HTTP".into()
            }
            Self::Encoding(_) => "compose the components beforehand, for example with `wac`".into(),
        }
    }
}

fn kind(role: PartRole) -> &'static str {
    match role {
        PartRole::Service => "a service",
        PartRole::Lazy => "lazy",
        PartRole::Isolated => "isolated",
    }
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

fn arrows(path: &[ComponentName]) -> String {
    path.iter().map(ComponentName::as_str).collect::<Vec<_>>().join(" → ")
}

fn or_nothing(names: &[String]) -> String {
    if names.is_empty() { "nothing".into() } else { names.join(", ") }
}

/// What a component imports, and the functions of each instance among it. `Err` says what is wrong with it.
pub fn functions(bytes: &[u8]) -> Result<BTreeMap<String, Vec<String>>, String> {
    Ok(surface::read(bytes)?.functions)
}

/// The imports of a component that somebody must satisfy: those with something in them to call.
pub fn called(bytes: &[u8]) -> Result<impl Iterator<Item = String>, String> {
    let functions = surface::read(bytes)?.functions.into_iter();
    Ok(functions.filter(|(_, functions)| !functions.is_empty()).map(|(import, _)| import))
}

/// Whether a probe can call this function of a component. `Err` says what is wrong with the component.
pub fn can_be_asked(bytes: &[u8], function: &FunctionName) -> Result<bool, String> {
    surface::can_be_asked(bytes, function)
}

/// Compose parts into one component.
///
/// The entry is the part that exports an HTTP handler and whose exports no other part uses. An import is satisfied by the
/// sibling that exports the same name, else by one that exports the interface in a later version that is compatible (the
/// same major, or the same minor below 1.0). A link decides where several siblings could. What a hosted part exports
/// satisfies imports in the same way, but is not put into the bytes: it stays an import of the whole.
pub fn compose(parts: &[Part], links: &[Link]) -> Result<Composition, ComposeError> {
    if parts.len() > COMPONENTS_MAX {
        return Err(ComposeError::TooManyParts { count: parts.len() });
    }
    // By name, so that neither errors nor bytes depend on the order in which the parts come.
    let mut sorted = BTreeMap::new();
    let mut known = BTreeMap::new();
    for part in parts {
        let malformed = |why| ComposeError::Malformed { part: part.name.clone(), why };
        let surface = surface::read(&part.bytes).map_err(malformed)?;
        if sorted.insert(&part.name, &part.bytes).is_some() {
            return Err(ComposeError::DuplicateName { name: part.name.clone() });
        }
        known.insert(&part.name, wiring::Known { role: part.role, surface });
    }
    let plan = wiring::plan(&known, links)?;
    let over_the_border: Vec<&Edge> = plan.edges.iter().filter(|edge| plan.hosted.contains(&edge.to)).collect();
    encode::check(&sorted, &over_the_border)?;
    let is_needed = |name: &ComponentName| plan.used.contains(name) || plan.hosted.contains(name);
    let dropped = sorted.keys().filter(|name| !is_needed(name)).map(|name| (*name).clone()).collect();
    sorted.retain(|name, _| plan.used.contains(*name));
    let bytes = match (sorted.len(), sorted.first_key_value()) {
        (1, Some((_, alone))) => (*alone).clone(),
        _ => encode::encode(&sorted, &plan)?.into(),
    };
    check_border(&bytes, &plan.host_edges)?;
    Ok(Composition {
        digest: Digest::of(&bytes),
        bytes,
        entry: plan.entry,
        graph: plan.edges,
        used: plan.used.into_iter().collect(),
        hosted: plan.hosted.into_iter().collect(),
        host_edges: plan.host_edges,
        dropped,
        open: plan.open,
    })
}

/// The names of imports that the encoder unified are its own: what the host is to join must be among them.
fn check_border(whole: &[u8], edges: &[HostEdge]) -> Result<(), ComposeError> {
    let mut of_the_whole = edges.iter().filter(|edge| edge.from.is_none()).peekable();
    if of_the_whole.peek().is_none() {
        return Ok(());
    }
    let surface = surface::read(whole).map_err(ComposeError::Encoding)?;
    match of_the_whole.find(|edge| !surface.imports.contains(&edge.import)) {
        Some(edge) => Err(ComposeError::Encoding(format!("{} is not an import of the whole", edge.import))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
