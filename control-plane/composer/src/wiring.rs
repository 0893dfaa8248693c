//! Who gets what from whom, decided by names alone. Types are compared later, by the encoder.

use crate::{
    ComposeError, Edge, Exporter, OpenImport,
    surface::Surface,
    version::{self, Fit},
};
use lattice::{
    id::ComponentName,
    recipe::HostEdge,
    spec::{Link, PartRole},
};
use std::collections::{BTreeMap, BTreeSet};

/// Near misses that an error names.
const NEAR_MAX: usize = 8;

/// What is known of a part.
pub(crate) struct Known {
    pub(crate) role: Option<PartRole>,
    pub(crate) surface: Surface,
}

pub(crate) struct Plan {
    pub(crate) entry: ComponentName,
    /// What of the composed parts the entry needs, itself included.
    pub(crate) used: BTreeSet<ComponentName>,
    /// The hosted parts: services, and what they and the entry need.
    pub(crate) hosted: BTreeSet<ComponentName>,
    /// Between parts, sorted.
    pub(crate) edges: Vec<Edge>,
    /// Those of `edges` that lead to hosted parts, seen from the whole; sorted.
    pub(crate) host_edges: Vec<HostEdge>,
    pub(crate) open: Vec<OpenImport>,
}

type Parts<'a> = BTreeMap<&'a ComponentName, Known>;

pub(crate) fn plan(parts: &Parts<'_>, links: &[Link]) -> Result<Plan, ComposeError> {
    let wiring = Wiring { parts, links };
    wiring.check_links()?;
    let entry = wiring.entry()?;
    let mut walk =
        Walk { wiring: &wiring, path: Vec::new(), done: BTreeSet::new(), edges: Vec::new(), open: Vec::new() };
    walk.visit(entry)?;
    for (service, _) in parts.iter().filter(|(_, part)| part.role == Some(PartRole::Service)) {
        walk.visit(service)?;
    }
    let Walk { done, mut edges, mut open, .. } = walk;
    let (hosted, used): (BTreeSet<_>, BTreeSet<_>) = done.into_iter().cloned().partition(|name| wiring.is_hosted(name));
    let host_edges = wiring.host_edges(&used, &mut edges, &open)?;
    wiring.check_services(&edges)?;
    edges.sort();
    open.sort_by(|a, b| (&a.part, &a.import).cmp(&(&b.part, &b.import)));
    Ok(Plan { entry: entry.clone(), used, hosted, edges, host_edges, open })
}

struct Wiring<'a> {
    parts: &'a Parts<'a>,
    links: &'a [Link],
}

/// What fits an import, how well, and which of its exports it is.
type Candidate<'a> = (Fit, &'a ComponentName, &'a str);

impl<'a> Wiring<'a> {
    fn part(&self, name: &ComponentName) -> Option<(&'a ComponentName, &'a Known)> {
        self.parts.get_key_value(name).map(|(name, part)| (*name, part))
    }

    fn role(&self, name: &ComponentName) -> Option<PartRole> {
        self.parts.get(name).and_then(|part| part.role)
    }

    fn is_hosted(&self, name: &ComponentName) -> bool {
        self.role(name).is_some()
    }

    fn check_links(&self) -> Result<(), ComposeError> {
        for Link { from, import, to } in self.links {
            let surface = |name: &ComponentName| {
                let part = self.part(name).ok_or_else(|| ComposeError::UnknownPart { name: name.clone() })?;
                Ok(&part.1.surface)
            };
            let (importer, exporter) = (surface(from)?, surface(to)?);
            if !importer.imports.contains(import) {
                let (part, import) = (from.clone(), import.clone());
                return Err(ComposeError::UnusedLink { part, import, imports: few(&importer.imports) });
            }
            if best(import, exporter).is_none() {
                let (part, import, to) = (from.clone(), import.clone(), to.clone());
                return Err(ComposeError::UnmatchedLink { part, import, to, exports: few(&exporter.exports) });
            }
        }
        Ok(())
    }

    /// The sibling that satisfies an import, and by which of its exports.
    fn exporter(
        &self,
        part: &ComponentName,
        import: &str,
    ) -> Result<Option<(&'a ComponentName, &'a str)>, ComposeError> {
        let link = self.links.iter().find(|link| link.from == *part && link.import == import);
        // Never from itself: what stands in front of an interface imports what it exports.
        let siblings = self.parts.iter().filter(|(name, _)| match link {
            Some(link) => ***name == link.to,
            None => **name != part,
        });
        let fitting =
            siblings.filter_map(|(name, known)| best(import, &known.surface).map(|(fit, export)| (fit, *name, export)));
        let role = self.role(part);
        // Types alone do not cross the border: nothing is called there.
        let types_only = self.parts.get(part).is_some_and(|part| part.surface.types_only.contains(import));
        let fitting = fitting.filter(|(_, name, _)| !types_only || (role.is_none() && !self.is_hosted(name)));
        // What is hosted outlives every instance of the whole, so it has none that it could call.
        let (fitting, beyond): (Vec<Candidate<'a>>, Vec<_>) =
            fitting.partition(|(_, name, _)| role.is_none() || self.is_hosted(name));
        let exporters = |candidates: &[Candidate<'a>]| -> Vec<Exporter> {
            let exporter =
                |(_, part, export): &Candidate<'a>| Exporter { part: (*part).clone(), export: (*export).to_owned() };
            candidates.iter().map(exporter).collect()
        };
        let is_exact = |(fit, ..): &Candidate<'a>| *fit == Fit::Exact;
        let any_exact = fitting.iter().any(is_exact);
        let candidates: Vec<_> = fitting.into_iter().filter(|candidate| !any_exact || is_exact(candidate)).collect();
        let (part, import) = (part.clone(), import.to_owned());
        match (candidates.as_slice(), role) {
            ([], Some(role)) if !beyond.is_empty() => {
                Err(ComposeError::OnlyComposed { part, role, import, candidates: exporters(&beyond) })
            }
            ([], _) => Ok(None),
            ([(_, name, export)], _) => Ok(Some((name, export))),
            (many, _) => Err(ComposeError::AmbiguousImport { part, import, candidates: exporters(many) }),
        }
    }

    /// The composed part that exports an HTTP handler and whose exports no other composed part uses. Where none exports one,
    /// the same of a handler of messages.
    fn entry(&self) -> Result<&'a ComponentName, ComposeError> {
        let some = |part: &Known, is: fn(&str) -> bool| part.surface.exports.iter().any(|export| is(export));
        let answers = self.parts.values().any(|part| some(part, is_http_handler));
        let is_handler: fn(&str) -> bool = if answers { is_http_handler } else { is_message_handler };
        let (hosted, handlers): (Vec<&ComponentName>, Vec<_>) = self
            .parts
            .iter()
            .filter(|(_, part)| some(part, is_handler))
            .map(|(name, _)| *name)
            .partition(|name| self.is_hosted(name));
        match (handlers.as_slice(), hosted.as_slice()) {
            ([], [part, ..]) => {
                let role = self.role(part).unwrap_or(PartRole::Service);
                return Err(ComposeError::HostedEntry { part: (*part).clone(), role });
            }
            ([], []) => return Err(ComposeError::NoEntry),
            ([only], _) => return Ok(only),
            _ => {}
        }
        let mut consumed = BTreeSet::new();
        let mut ambiguous = None;
        for (name, part) in self.parts.iter().filter(|(_, part)| part.role.is_none()) {
            for import in &part.surface.imports {
                match self.exporter(name, import) {
                    Ok(Some((exporter, _))) => drop(consumed.insert(exporter)),
                    Ok(None) => {}
                    Err(error) => drop(ambiguous.get_or_insert(error)),
                }
            }
        }
        let left: Vec<&ComponentName> = handlers.iter().copied().filter(|name| !consumed.contains(name)).collect();
        match (left.as_slice(), handlers.first()) {
            ([only], _) => Ok(only),
            // All are used by others, so whichever is taken, the walk from it finds the circle.
            ([], Some(any)) => Ok(any),
            // Who uses whom is not known yet: that is the first thing to settle.
            _ => Err(ambiguous
                .unwrap_or_else(|| ComposeError::AmbiguousEntry { candidates: left.into_iter().cloned().collect() })),
        }
    }

    /// The edges to hosted parts as the host sees them. Imports that several composed parts share become one of the
    /// whole, under the name with the latest version: `edges` then lead to the export that fits this one.
    fn host_edges(
        &self,
        used: &BTreeSet<ComponentName>,
        edges: &mut [Edge],
        open: &[OpenImport],
    ) -> Result<Vec<HostEdge>, ComposeError> {
        let mut shared: Vec<Shared> = Vec::new();
        let mut host_edges = BTreeSet::new();
        let to_hosted = edges.iter().filter(|edge| self.is_hosted(&edge.to));
        let bound = to_hosted.map(|edge| (&edge.from, &edge.import, Some(&edge.to)));
        let unbound = open.iter().map(|open| (&open.part, &open.import, None));
        for (part, import, to) in bound.chain(unbound).filter(|(part, ..)| used.contains(*part)) {
            // A component alone is not encoded anew, so its imports keep their names.
            let same = |one: &&mut Shared| match used.len() {
                1 => one.import == *import,
                _ => version::unify(&one.import, import),
            };
            match shared.iter_mut().find(same) {
                None => shared.push(Shared { import: import.clone(), first: part.clone(), to: to.cloned() }),
                Some(one) if one.to.as_ref() != to => {
                    return Err(ComposeError::SplitImport {
                        import: later(&one.import, import).to_owned(),
                        first: one.first.clone(),
                        second: part.clone(),
                        why: format!(
                            "that of {} comes from {} and that of {part} from {}",
                            one.first,
                            place(one.to.as_ref()),
                            place(to)
                        ),
                    });
                }
                Some(one) => one.import = later(&one.import, import).to_owned(),
            }
        }
        for edge in edges.iter_mut().filter(|edge| self.is_hosted(&edge.to)) {
            if !used.contains(&edge.from) {
                let Edge { from, import, to, export } = edge.clone();
                host_edges.insert(HostEdge { from: Some(from), import, to, export });
                continue;
            }
            let unified = shared.iter().find(|one| match used.len() {
                1 => one.import == edge.import,
                _ => version::unify(&one.import, &edge.import),
            });
            let (Some(unified), Some((_, exporter))) = (unified, self.part(&edge.to)) else { continue };
            if let Some((_, export)) = best(&unified.import, &exporter.surface) {
                export.clone_into(&mut edge.export);
            }
            host_edges.insert(HostEdge {
                from: None,
                import: unified.import.clone(),
                to: edge.to.clone(),
                export: edge.export.clone(),
            });
        }
        Ok(host_edges.into_iter().collect())
    }

    /// A service that nobody calls has a program of its own.
    fn check_services(&self, edges: &[Edge]) -> Result<(), ComposeError> {
        let is_called = |name: &ComponentName| edges.iter().any(|edge| edge.to == *name);
        let idle = self.parts.iter().find(|(name, part)| {
            let runs = || part.surface.exports.iter().any(|export| is_program(export));
            part.role == Some(PartRole::Service) && !is_called(name) && !runs()
        });
        idle.map_or(Ok(()), |(name, part)| {
            Err(ComposeError::IdleService { part: (*name).clone(), exports: few(&part.surface.exports) })
        })
    }
}

fn place(from: Option<&ComponentName>) -> &str {
    from.map_or("the node", ComponentName::as_str)
}

/// An import of the whole.
struct Shared {
    /// Its name so far: the latest version of those that were met.
    import: String,
    first: ComponentName,
    /// The hosted part that it comes from; `None`: the node.
    to: Option<ComponentName>,
}

/// From the entry to what it needs, depth first; each part once. As deep as there are parts, which are few.
struct Walk<'w, 'a> {
    wiring: &'w Wiring<'a>,
    path: Vec<&'a ComponentName>,
    done: BTreeSet<&'a ComponentName>,
    edges: Vec<Edge>,
    open: Vec<OpenImport>,
}

impl<'a> Walk<'_, 'a> {
    fn visit(&mut self, part: &'a ComponentName) -> Result<(), ComposeError> {
        if let Some(start) = self.path.iter().position(|name| *name == part) {
            let path = self.path.iter().skip(start).chain([&part]).map(|name| (*name).clone()).collect();
            return Err(ComposeError::Cycle { path });
        }
        let Some((_, known)) = self.wiring.part(part) else { return Ok(()) };
        if self.done.contains(part) {
            return Ok(());
        }
        self.path.push(part);
        for import in &known.surface.imports {
            match self.wiring.exporter(part, import)? {
                Some((to, export)) => {
                    self.edges.push(Edge {
                        from: part.clone(),
                        import: import.clone(),
                        to: to.clone(),
                        export: export.to_owned(),
                    });
                    self.visit(to)?;
                }
                None => {
                    let near = near(self.wiring.parts, part, import);
                    self.open.push(OpenImport { part: part.clone(), import: import.clone(), near });
                }
            }
        }
        self.path.pop();
        self.done.insert(part);
        Ok(())
    }
}

/// The export of a part that fits an import best.
fn best<'a>(import: &str, surface: &'a Surface) -> Option<(Fit, &'a str)> {
    let fitting = surface.exports.iter().filter_map(|export| Some((version::fit(import, export)?, export.as_str())));
    fitting.max()
}

fn near(parts: &Parts<'_>, part: &ComponentName, import: &str) -> Vec<Exporter> {
    let siblings = parts.iter().filter(|(name, _)| **name != part);
    let exports = siblings.flat_map(|(name, known)| known.surface.exports.iter().map(move |export| (*name, export)));
    let near = exports.filter(|(_, export)| version::is_near(import, export));
    near.take(NEAR_MAX).map(|(part, export)| Exporter { part: part.clone(), export: export.clone() }).collect()
}

/// Of two names of one interface, the one with the later version.
fn later<'a>(a: &'a str, b: &'a str) -> &'a str {
    if version::split(a).1 < version::split(b).1 { b } else { a }
}

fn few(names: &[String]) -> Vec<String> {
    names.iter().take(NEAR_MAX).cloned().collect()
}

fn is_message_handler(export: &str) -> bool {
    is_released(export, "wasmcloud:messaging/handler", 2)
}

pub(crate) fn is_http_handler(export: &str) -> bool {
    is_released(export, "wasi:http/incoming-handler", 2) || is_released(export, "wasi:http/handler", 3)
}

fn is_program(export: &str) -> bool {
    is_released(export, "wasi:cli/run", 2) || is_released(export, "wasi:cli/run", 3)
}

/// An interface in version 0.`minor` of any patch.
fn is_released(export: &str, interface: &str, minor: u64) -> bool {
    let (name, version) = version::split(export);
    name == interface && version.is_some_and(|v| v.major == 0 && v.minor == minor && v.pre.is_empty())
}
