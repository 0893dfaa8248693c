//! Composition as a `.wac` script says, in place of the rules of `wiring.rs`: the language of the tool `wac`, in which the
//! components of the workload are the packages `component:NAME`. The only file that knows wac-parser.
//!
//! The parser descends into what is nested, so nesting is bounded before it sees a script. The resolver works out a type
//! that is made of others anew at each mention, and descends from alias to alias: a short script of its own types would
//! keep it busy for ever or overflow its stack, so it sees none that declares any. Both have assertions for what they
//! take to be impossible; a panic of theirs is an error of the script here.

use crate::{
    ComposeError, Composition, Edge, OpenImport, Part,
    encode::write,
    surface::{self, Surface},
    wiring::is_http_handler,
};
use indexmap::IndexMap;
use lattice::{
    id::{ComponentName, Digest},
    limits::{COMPONENTS_MAX, SCRIPT_BYTES_MAX, one_line},
};
use miette::Diagnostic;
use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
};
use wac_graph::{CompositionGraph, NodeId, NodeKind, types::BorrowedPackageKey};
use wac_parser::{Document, Ident, ImportType, Statement, TypeStatement};

/// Brackets that a script may open. A script that composes 32 components has some dozens; each may be another level for
/// the parser to descend.
const BRACKETS_MAX: usize = 256;
/// Longest text that is passed on of an error of the parser.
const WHY_MAX: usize = 512;
/// Longest name that is passed on.
const NAME_MAX: usize = 64;
/// The namespace of the components of the workload.
const NAMESPACE: &str = "component";

/// Compose parts as a script says. Its packages are the parts, by `component:NAME`; what it does not name is left out.
/// None of them may be hosted: a script has no words for that, and a spec that has both is refused before.
pub fn compose_script(parts: &[Part], script: &str) -> Result<Composition, ComposeError> {
    if parts.len() > COMPONENTS_MAX {
        return Err(ComposeError::TooManyParts { count: parts.len() });
    }
    let mut surfaces = BTreeMap::new();
    for part in parts {
        let malformed = |why| ComposeError::Malformed { part: part.name.clone(), why };
        let surface = surface::read(&part.bytes).map_err(malformed)?;
        if surfaces.insert(part.name.clone(), surface).is_some() {
            return Err(ComposeError::DuplicateName { name: part.name.clone() });
        }
    }
    check_bounds(script)?;
    let impossible = |_| ComposeError::Script {
        line: 1,
        column: 1,
        why: "it is nothing that the composer was made for: its structure made it fail".into(),
    };
    let graph = catch_unwind(AssertUnwindSafe(|| resolve(parts, script))).map_err(impossible)??;
    let described = describe(&graph, &surfaces)?;
    let bytes = catch_unwind(AssertUnwindSafe(|| write(&graph, &described.nodes))).map_err(impossible)??;
    let dropped = surfaces.into_keys().filter(|name| !described.used.contains(name)).collect();
    Ok(Composition {
        digest: Digest::of(&bytes),
        bytes: bytes.into(),
        entry: described.entry,
        graph: described.edges.into_iter().collect(),
        used: described.used.into_iter().collect(),
        hosted: Vec::new(),
        host_edges: Vec::new(),
        dropped,
        open: described.open,
    })
}

fn check_bounds(script: &str) -> Result<(), ComposeError> {
    let refuse = |why: String| Err(ComposeError::Script { line: 1, column: 1, why });
    if script.len() > SCRIPT_BYTES_MAX {
        return refuse(format!("it has {} bytes; at most {SCRIPT_BYTES_MAX} are allowed", script.len()));
    }
    let brackets = script.bytes().filter(|byte| b"([{<".contains(byte)).count();
    if brackets > BRACKETS_MAX {
        return refuse(format!("it opens {brackets} brackets; at most {BRACKETS_MAX} are allowed"));
    }
    Ok(())
}

fn resolve(parts: &[Part], script: &str) -> Result<CompositionGraph, ComposeError> {
    let document = Document::parse(script).map_err(|error| at(script, &error))?;
    if let Some(declares) = document.statements.iter().find_map(own_type) {
        let (line, column) = place(script, declares.span.offset());
        let name = one_line(declares.string, NAME_MAX);
        let why = format!("{name} declares types; import them from a component instead");
        return Err(ComposeError::Script { line, column, why });
    }
    let names: Vec<(String, Vec<u8>)> =
        parts.iter().map(|part| (format!("{NAMESPACE}:{}", part.name), part.bytes.to_vec())).collect();
    let mut packages = IndexMap::new();
    for (name, bytes) in &names {
        packages.insert(BorrowedPackageKey::from_name_and_version(name, None), bytes.clone());
    }
    let resolution = document.resolve(packages).map_err(|error| at(script, &error))?;
    let mut graph = resolution.into_graph();
    let nodes: Vec<(NodeId, ComponentName)> =
        graph.node_ids().filter_map(|node| Some((node, part_of(&graph, node)?))).collect();
    for (node, name) in nodes {
        graph.set_node_name(node, name.as_str()); // shown in backtraces of traps
    }
    Ok(graph)
}

/// What a statement declares, where its type is the script's own.
fn own_type<'a>(statement: &'a Statement<'a>) -> Option<&'a Ident<'a>> {
    match statement {
        Statement::Type(TypeStatement::Interface(interface)) => Some(&interface.id),
        Statement::Type(TypeStatement::World(world)) => Some(&world.id),
        Statement::Type(TypeStatement::Type(declared)) => Some(declared.id()),
        Statement::Import(import) => match &import.ty {
            ImportType::Func(_) | ImportType::Interface(_) => Some(&import.id),
            ImportType::Package(_) | ImportType::Ident(_) => None,
        },
        Statement::Let(_) | Statement::Export(_) => None,
    }
}

/// Line and column, from 1.
fn place(script: &str, offset: usize) -> (usize, usize) {
    let before = script.get(..script.floor_char_boundary(offset)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    (line, before.rsplit('\n').next().unwrap_or_default().chars().count() + 1)
}

/// An error with its place in the script.
fn at(script: &str, error: &impl Diagnostic) -> ComposeError {
    let label = error.labels().and_then(|mut labels| labels.next());
    let (line, column) = place(script, label.as_ref().map_or(0, miette::LabeledSpan::offset));
    let mut why = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        why = format!("{why}: {error}");
        cause = error.source();
    }
    ComposeError::Script { line, column, why: one_line(&why, WHY_MAX) }
}

/// The part that a node is an instance of.
fn part_of(graph: &CompositionGraph, node: NodeId) -> Option<ComponentName> {
    let node = graph.node_ids().find(|id| *id == node).map(|id| &graph[id])?;
    if !matches!(node.kind(), NodeKind::Instantiation(_)) {
        return None;
    }
    let package = &graph[node.package()?];
    ComponentName::new(package.name().strip_prefix(NAMESPACE)?.strip_prefix(':')?).ok()
}

/// The instance that an item comes from, and which of its exports it is or is in.
fn origin(graph: &CompositionGraph, mut node: NodeId) -> Option<(ComponentName, String)> {
    let mut outermost = None;
    while let Some((source, export)) = graph.get_alias_source(node) {
        outermost = Some(export.to_owned());
        node = source;
    }
    Some((part_of(graph, node)?, outermost?))
}

struct Described {
    entry: ComponentName,
    nodes: BTreeMap<ComponentName, Vec<NodeId>>,
    used: BTreeSet<ComponentName>,
    edges: BTreeSet<Edge>,
    open: Vec<OpenImport>,
}

/// What the script made, as auto-wiring tells what it made.
fn describe(graph: &CompositionGraph, surfaces: &BTreeMap<ComponentName, Surface>) -> Result<Described, ComposeError> {
    let mut nodes: BTreeMap<ComponentName, Vec<NodeId>> = BTreeMap::new();
    let mut edges = BTreeSet::new();
    let mut open = BTreeSet::new();
    let mut entry = None;
    for id in graph.node_ids() {
        if let Some(name) = graph[id].export_name()
            && is_http_handler(name)
        {
            entry = entry.or_else(|| origin(graph, id).map(|(part, _)| part));
        }
        let Some(part) = part_of(graph, id) else { continue };
        nodes.entry(part.clone()).or_default().push(id);
        let mut given = BTreeSet::new();
        for (import, argument) in graph.get_instantiation_arguments(id) {
            if let Some((to, export)) = origin(graph, argument) {
                given.insert(import);
                edges.insert(Edge { from: part.clone(), import: import.to_owned(), to, export });
            }
        }
        let imports = surfaces.get(&part).map(|surface| surface.imports.as_slice()).unwrap_or_default();
        open.extend(
            imports
                .iter()
                .filter(|import| !given.contains(import.as_str()))
                .map(|import| (part.clone(), import.clone())),
        );
    }
    let entry = entry.ok_or(ComposeError::ScriptWithoutHandler)?;
    let open = open.into_iter().map(|(part, import)| OpenImport { part, import, near: Vec::new() }).collect();
    Ok(Described { entry, used: nodes.keys().cloned().collect(), nodes, edges, open })
}
