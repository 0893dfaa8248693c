//! From components to an [`Assembly`]: who is linked to whom, and why not.
//!
//! Without parts it is the main component with what the node offers, linked once for all units that run it. With parts
//! each caller gets a linker of its own: the node's, and over it the functions of `bridge/` that lead to other stores.

use super::{Edge, Part, PartRole};
use crate::{
    bridge::{
        self,
        crossing::{CannotCross, Uncrossable, check},
    },
    host::Host,
    inspect::Inspection,
    linker,
    load::{Component, LoadError, Pre, Runtime, runnable},
    probe,
};
use lattice::{id::ComponentName, spec::FunctionName};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};
use wasmtime::component::{
    ComponentExportIndex, InstancePre, Linker,
    types::{ComponentFunc, ComponentItem},
};

/// Components, linked: what a [`Unit`](crate::Unit) runs. Cheap to clone; units may share it.
#[derive(Clone)]
pub struct Assembly(Arc<Assembled>);

struct Assembled {
    main: Component,
    pre: Pre,
    parts: Vec<AssembledPart>,
    /// Those that are called before those that call them.
    start_order: Vec<usize>,
}

pub(crate) struct AssembledPart {
    pub(crate) part: Part,
    pub(crate) pre: InstancePre<Host>,
    /// What others call. [`Target::function`] counts them.
    pub(crate) functions: Vec<ComponentExportIndex>,
    /// Those of them that probes call, by [`Target::function`].
    pub(crate) probes: BTreeMap<FunctionName, usize>,
    /// The function of `wasi:cli/run`, of a service that has one.
    pub(crate) run: Option<ComponentExportIndex>,
}

impl AssembledPart {
    /// True of a service that does more than to answer calls, one after the other.
    pub(crate) fn is_its_own_program(&self) -> bool {
        self.run.is_some() || self.part.component.inspection().needs_concurrency
    }
}

/// A function of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) part: usize,
    pub(crate) function: usize,
}

/// Why parts cannot be linked. `from` is a part's name, or says that it is the main component.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EdgeError {
    #[error("there is no part {0}")]
    UnknownPart(ComponentName),
    #[error("two parts have the name {0}")]
    SameName(ComponentName),
    #[error("{from} does not import {import}")]
    NotImported { from: String, import: String },
    #[error("{to} does not export {export}")]
    NotExported { to: ComponentName, export: String },
    #[error("{from} cannot call {to} in another store: {import}: {source}")]
    CannotCross { from: String, import: String, to: ComponentName, source: CannotCross },
    #[error("{from} imports {import} with a function {function} that {to} does not export with the same type")]
    Mismatch { from: String, import: String, to: ComponentName, function: String },
    #[error(
        "{to} does not export {function} as a `func() -> bool` or `func() -> result<_, string>`, which a probe calls"
    )]
    NotAProbe { to: ComponentName, function: FunctionName },
    #[error("parts call each other in a circle, so a call may wait for itself: {}", circle(.0))]
    Circle(Vec<ComponentName>),
    #[error("the service {0} has nothing to do: it does not export wasi:cli/run, and nobody calls it")]
    Idle(ComponentName),
    #[error(
        "the service {0} exports wasi:cli/run@0.2 and is called as well, but a component of WASI 0.2 does one thing at a \
         time: export one of both, or wasi:cli/run@0.3"
    )]
    Busy(ComponentName),
}

fn circle(names: &[ComponentName]) -> String {
    names.iter().map(ComponentName::as_str).collect::<Vec<_>>().join(" → ")
}

impl Inspection {
    /// True if a service of this component can be called by others. One that runs as a program of WASI 0.2 cannot: its
    /// instance has entered `run`, and does not leave it.
    pub fn service_can_be_called(&self) -> bool {
        !self.exports.iter().any(|export| linker::split(export) == RUN02)
    }
}

const RUN02: (&str, &str) = ("wasi:cli/run", "0.2");
const RUN03: (&str, &str) = ("wasi:cli/run", "0.3");

impl Runtime {
    /// Link a main component, which answers HTTP, and the parts that it calls, directly or through each other. What an
    /// edge does not name must be on offer here. Blocks for some tens of microseconds a part.
    pub fn assemble(&self, main: Component, parts: Vec<Part>, edges: Vec<Edge>) -> Result<Assembly, LoadError> {
        if parts.is_empty() && edges.is_empty() {
            runnable(main.inspection())?;
            let pre = main.alone(self.linker(&main))?;
            return Ok(Assembly(Arc::new(Assembled { main, pre, parts: Vec::new(), start_order: Vec::new() })));
        }
        let mut plan = Plan::new(&parts, &edges)?;
        let start_order = plan.start_order()?;
        let main_linker = plan.linker(self, None, &main)?;
        let mut given = main.inspection().clone();
        given.missing.retain(|missing| !edges.iter().any(|edge| edge.from.is_none() && edge.import == *missing));
        runnable(&given)?;
        let pre = main.link(&main_linker)?;

        let mut linked = Vec::new();
        for part in &parts {
            let in_part = |error| LoadError::Part { part: part.name.clone(), error: Box::new(error) };
            let linker = plan.linker(self, Some(part), &part.component)?;
            let pre = linker.instantiate_pre(part.component.code());
            linked.push(pre.map_err(|error| in_part(LoadError::Link(format!("{error:#}"))))?);
        }
        let probes = parts.iter().enumerate().map(|(at, part)| plan.probes(at, part));
        let probes = probes.collect::<Result<Vec<_>, EdgeError>>()?;
        let mut called = plan.functions.into_iter().zip(probes);
        let parts = parts.into_iter().zip(linked).map(|(part, pre)| {
            let (functions, probes) = called.next().unwrap_or_default();
            let run = run_of(&part, !functions.is_empty())?;
            Ok(AssembledPart { part, pre, functions, probes, run })
        });
        let parts = parts.collect::<Result<Vec<_>, EdgeError>>()?;
        Ok(Assembly(Arc::new(Assembled { main, pre, parts, start_order })))
    }
}

/// The `run` of a service.
fn run_of(part: &Part, is_called: bool) -> Result<Option<ComponentExportIndex>, EdgeError> {
    if !matches!(part.role, PartRole::Service { .. }) {
        return Ok(None);
    }
    let inspection = part.component.inspection();
    if is_called && !inspection.service_can_be_called() {
        return Err(EdgeError::Busy(part.name.clone()));
    }
    let code = part.component.code();
    let named = |wanted| inspection.exports.iter().find(|export| linker::split(export) == wanted);
    let run = named(RUN03).or_else(|| named(RUN02)).and_then(|export| {
        let interface = code.get_export_index(None, export.as_str())?;
        code.get_export_index(Some(&interface), "run")
    });
    match run.is_some() || is_called {
        true => Ok(run),
        false => Err(EdgeError::Idle(part.name.clone())),
    }
}

/// What is being linked.
struct Plan<'a> {
    parts: &'a [Part],
    edges: &'a [Edge],
    index: BTreeMap<&'a ComponentName, usize>,
    /// By part, what is called in it.
    functions: Vec<Vec<ComponentExportIndex>>,
}

impl<'a> Plan<'a> {
    fn new(parts: &'a [Part], edges: &'a [Edge]) -> Result<Self, EdgeError> {
        let mut index = BTreeMap::new();
        for (at, part) in parts.iter().enumerate() {
            if index.insert(&part.name, at).is_some() {
                return Err(EdgeError::SameName(part.name.clone()));
            }
        }
        let named = edges.iter().flat_map(|edge| edge.from.iter().chain([&edge.to]));
        match named.into_iter().find(|name| !index.contains_key(name)) {
            Some(name) => Err(EdgeError::UnknownPart(name.clone())),
            None => Ok(Self { parts, edges, index, functions: vec![Vec::new(); parts.len()] }),
        }
    }

    /// What the caller is linked with: the node's offer, and what leads to other parts.
    fn linker(
        &mut self,
        runtime: &Runtime,
        caller: Option<&Part>,
        component: &Component,
    ) -> Result<Linker<Host>, LoadError> {
        let edges = self.edges;
        let name = caller.map(|part| &part.name);
        let mut linker = runtime.linker(component).clone();
        // An edge counts before what the node offers: a part may stand in front of it.
        linker.allow_shadowing(true);
        for edge in edges.iter().filter(|edge| edge.from.as_ref() == name) {
            self.bridge(&mut linker, edge, component)?;
        }
        if let Some(part) = caller {
            let is_given =
                |import: &&String| edges.iter().any(|edge| edge.from.as_ref() == name && edge.import == **import);
            if let Some(missing) = component.inspection().missing.iter().find(|import| !is_given(import)) {
                let error = LoadError::MissingImport { near: linker::near_misses(missing), name: missing.clone() };
                return Err(LoadError::Part { part: part.name.clone(), error: Box::new(error) });
            }
        }
        Ok(linker)
    }

    /// The functions of a part that probes call, in addition to those that others do.
    fn probes(&mut self, at: usize, part: &Part) -> Result<BTreeMap<FunctionName, usize>, EdgeError> {
        let mut probes = BTreeMap::new();
        for function in &part.probes {
            let not_a_probe = || EdgeError::NotAProbe { to: part.name.clone(), function: function.clone() };
            let index = probe::find(part.component.code(), function).ok_or_else(not_a_probe)?;
            let functions = self.functions.get_mut(at).ok_or_else(not_a_probe)?;
            functions.push(index);
            probes.insert(function.clone(), functions.len() - 1);
        }
        Ok(probes)
    }

    /// Define what the edge's import asks for.
    fn bridge(&mut self, linker: &mut Linker<Host>, edge: &Edge, caller: &Component) -> Result<(), LoadError> {
        let from = edge.from.as_ref().map_or_else(|| "the main component".to_owned(), ToString::to_string);
        let (types, engine) = (caller.code().component_type(), caller.engine());
        let not_imported = || EdgeError::NotImported { from: from.clone(), import: edge.import.clone() };
        let import = types.get_import(engine, &edge.import).ok_or_else(not_imported)?;
        let not_exported = || EdgeError::NotExported { to: edge.to.clone(), export: edge.export.clone() };
        let Some((at, part)) = self.index.get(&edge.to).and_then(|at| Some((*at, self.parts.get(*at)?))) else {
            return Err(EdgeError::UnknownPart(edge.to.clone()).into());
        };
        let code = part.component.code();
        let (export, export_index) = code.get_export(None, edge.export.as_str()).ok_or_else(not_exported)?;

        let cannot_cross = |source| EdgeError::CannotCross {
            from: from.clone(),
            import: edge.import.clone(),
            to: edge.to.clone(),
            source,
        };
        let mut define = |name: &str, wanted: &ComponentFunc, found: Option<(ComponentItem, ComponentExportIndex)>| {
            check(name, wanted, matches!(part.role, PartRole::Service { .. })).map_err(cannot_cross)?;
            let index = match found {
                Some((ComponentItem::ComponentFunc(found), index)) if is_same(wanted, &found) => Ok(index),
                _ => Err(EdgeError::Mismatch {
                    from: from.clone(),
                    import: edge.import.clone(),
                    to: edge.to.clone(),
                    function: name.to_owned(),
                }),
            }?;
            let functions = self.functions.get_mut(at).ok_or_else(|| EdgeError::UnknownPart(edge.to.clone()))?;
            functions.push(index);
            let target = Target { part: at, function: functions.len() - 1 };
            let mut instance = match name == edge.import {
                true => linker.root(),
                false => linker.instance(&edge.import).map_err(link_error)?,
            };
            bridge::define(&mut instance, name, wanted, &types, target).map_err(link_error)
        };
        match &import.ty {
            ComponentItem::ComponentFunc(wanted) => define(&edge.import, wanted, Some((export, export_index))),
            ComponentItem::ComponentInstance(wanted) => {
                for (name, item) in wanted.exports(engine) {
                    match item.ty {
                        ComponentItem::ComponentFunc(wanted) => {
                            define(name, &wanted, code.get_export(Some(&export_index), name))?;
                        }
                        ComponentItem::Resource(_) => {
                            let source = CannotCross { item: name.to_owned(), what: Uncrossable::Resource };
                            return Err(cannot_cross(source).into());
                        }
                        _ => {}
                    }
                }
                Ok(())
            }
            _ => Err(not_imported().into()),
        }
    }

    /// Parts in an order in which each comes after those that it calls.
    fn start_order(&self) -> Result<Vec<usize>, EdgeError> {
        let mut order = Vec::new();
        let mut done = BTreeSet::new();
        for part in self.parts {
            self.visit(&part.name, &mut Vec::new(), &mut done, &mut order)?;
        }
        Ok(order)
    }

    /// As deep as there are parts, of which a workload has a few dozen at most.
    fn visit(
        &self,
        name: &'a ComponentName,
        path: &mut Vec<&'a ComponentName>,
        done: &mut BTreeSet<&'a ComponentName>,
        order: &mut Vec<usize>,
    ) -> Result<(), EdgeError> {
        if let Some(at) = path.iter().position(|before| *before == name) {
            let circle = path.iter().skip(at).chain([&name]).map(|name| (*name).clone());
            return Err(EdgeError::Circle(circle.collect()));
        }
        if done.contains(name) {
            return Ok(());
        }
        path.push(name);
        for edge in self.edges.iter().filter(|edge| edge.from.as_ref() == Some(name)) {
            self.visit(&edge.to, path, done, order)?;
        }
        path.pop();
        done.insert(name);
        order.extend(self.index.get(name));
        Ok(())
    }
}

fn link_error(error: wasmtime::Error) -> LoadError {
    LoadError::Link(format!("{error:#}"))
}

fn is_same(wanted: &ComponentFunc, found: &ComponentFunc) -> bool {
    wanted.async_() == found.async_() && wanted.params().eq(found.params()) && wanted.results().eq(found.results())
}

impl Assembly {
    pub fn main(&self) -> &Component {
        &self.0.main
    }

    /// The first import that is one of these, after the name of the component that has it.
    pub(crate) fn uses(&self, is_one: fn(&str) -> bool) -> Option<(String, String)> {
        let of = |name: &str, component: &Component| {
            let import = component.inspection().imports.iter().find(|import| is_one(import))?;
            Some((name.to_owned(), import.clone()))
        };
        let parts = self.parts().iter().map(|part| (part.part.name.as_str(), &part.part.component));
        of("the component", self.main()).or_else(|| parts.into_iter().find_map(|(name, part)| of(name, part)))
    }

    pub(crate) fn pre(&self) -> &Pre {
        &self.0.pre
    }

    pub(crate) fn parts(&self) -> &[AssembledPart] {
        &self.0.parts
    }

    pub(crate) fn start_order(&self) -> &[usize] {
        &self.0.start_order
    }
}

impl fmt::Debug for Assembly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.parts().iter().map(|part| &part.part.name);
        f.debug_struct("Assembly").field("main", self.main()).field("parts", &parts.collect::<Vec<_>>()).finish()
    }
}
