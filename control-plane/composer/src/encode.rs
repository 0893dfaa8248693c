//! From a plan to bytes. The only file that knows wac-graph.

use crate::{ComposeError, Edge, wiring::Plan};
use bytes::Bytes;
use lattice::id::ComponentName;
use std::collections::BTreeMap;
use wac_graph::{
    CompositionGraph, EncodeError, EncodeOptions, InstantiationArgumentError, NodeId,
    types::{Package, SubtypeChecker, Types},
};

/// Longest text that is passed on of an error of the encoder.
const WHY_MAX: usize = 512;

pub(crate) fn encode(parts: &BTreeMap<&ComponentName, &Bytes>, plan: &Plan) -> Result<Vec<u8>, ComposeError> {
    let mut graph = CompositionGraph::new();
    let mut nodes: BTreeMap<&ComponentName, NodeId> = BTreeMap::new();
    let mut exports: Vec<String> = Vec::new();
    // The bytes depend on the order of registration: it is that of the names.
    for (name, bytes) in parts {
        let malformed = |why| ComposeError::Malformed { part: (*name).clone(), why: chain(why) };
        let package = Package::from_bytes(name.as_str(), None, bytes.to_vec(), graph.types_mut()).map_err(malformed)?;
        if **name == plan.entry {
            exports = graph.types()[package.ty()].exports.keys().cloned().collect();
        }
        let package = graph.register_package(package).map_err(|error| encoding(&error))?;
        let node = graph.instantiate(package);
        graph.set_node_name(node, name.as_str()); // shown in backtraces of traps
        nodes.insert(name, node);
    }
    let node = |name: &ComponentName| {
        nodes.get(name).copied().ok_or_else(|| ComposeError::Encoding(format!("{name} is not among the parts")))
    };
    for edge in plan.edges.iter().filter(|edge| nodes.contains_key(&edge.to)) {
        let export = graph.alias_instance_export(node(&edge.to)?, &edge.export).map_err(|error| encoding(&error))?;
        let given = graph.set_instantiation_argument(node(&edge.from)?, &edge.import, export);
        given.map_err(|error| match error {
            InstantiationArgumentError::ArgumentTypeMismatch { source, .. } => mismatch(edge, source),
            error => encoding(&error),
        })?;
    }
    let entry = node(&plan.entry)?;
    for name in exports {
        let export = graph.alias_instance_export(entry, &name).map_err(|error| encoding(&error))?;
        graph.export(export, &name).map_err(|error| encoding(&error))?;
    }
    let nodes: BTreeMap<ComponentName, Vec<NodeId>> =
        nodes.into_iter().map(|(name, node)| (name.clone(), vec![node])).collect();
    write(&graph, &nodes)
}

/// The bytes of a graph. `nodes` are the instances of each part.
pub(crate) fn write(
    graph: &CompositionGraph,
    nodes: &BTreeMap<ComponentName, Vec<NodeId>>,
) -> Result<Vec<u8>, ComposeError> {
    // Whoever runs the result validates it: the engine does, and it knows which features it has.
    let options = EncodeOptions { define_components: true, validate: false, processor: None };
    graph.encode(options).map_err(|error| match error {
        EncodeError::ImportTypeMergeConflict { import, first, second, source } => {
            let owner = |wanted| nodes.iter().find(|(_, nodes)| nodes.contains(wanted)).map(|(name, _)| name.clone());
            match (owner(&first), owner(&second)) {
                (Some(first), Some(second)) => {
                    ComposeError::ImportConflict { import, first, second, why: chain(source) }
                }
                _ => ComposeError::Encoding(chain(source)),
            }
        }
        error => encoding(&error),
    })
}

/// Whether what is exported is what is imported, for edges that are not encoded: nothing else compares their types here.
pub(crate) fn check(parts: &BTreeMap<&ComponentName, &Bytes>, edges: &[&Edge]) -> Result<(), ComposeError> {
    let mut types = Types::default();
    let mut worlds = BTreeMap::new();
    for (name, bytes) in
        parts.iter().filter(|(name, _)| edges.iter().any(|edge| edge.from == ***name || edge.to == ***name))
    {
        let malformed = |why| ComposeError::Malformed { part: (*name).clone(), why: chain(why) };
        let package = Package::from_bytes(name.as_str(), None, bytes.to_vec(), &mut types).map_err(malformed)?;
        worlds.insert(*name, package.ty());
    }
    for edge in edges {
        let export = worlds.get(&edge.to).and_then(|world| types[*world].exports.get(&edge.export));
        let import = worlds.get(&edge.from).and_then(|world| types[*world].imports.get(&edge.import));
        let (Some(export), Some(import)) = (export, import) else {
            return Err(ComposeError::Encoding(format!("{} or {} is not there", edge.import, edge.export)));
        };
        let fits = SubtypeChecker::new(&mut Default::default()).is_subtype(*export, &types, *import, &types);
        fits.map_err(|error| mismatch(edge, error))?;
    }
    Ok(())
}

fn mismatch(edge: &Edge, error: impl std::fmt::Display) -> ComposeError {
    ComposeError::Mismatch {
        part: edge.from.clone(),
        import: edge.import.clone(),
        exporter: edge.to.clone(),
        export: edge.export.clone(),
        why: chain(error),
    }
}

fn encoding(error: &dyn std::error::Error) -> ComposeError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    ComposeError::Encoding(lattice::limits::clip(&text, WHY_MAX).to_owned())
}

/// An error of wac-graph with its causes, on one line.
fn chain(error: impl std::fmt::Display) -> String {
    lattice::limits::clip(&format!("{error:#}"), WHY_MAX).replace('\n', " ")
}
