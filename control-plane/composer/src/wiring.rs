//! Who gets what from whom, decided by names alone. Types are compared later, by the encoder.

use crate::{
    ComposeError, Edge, Exporter, OpenImport,
    surface::Surface,
    version::{self, Fit},
};
use lattice::{id::ComponentName, spec::Link};
use std::collections::{BTreeMap, BTreeSet};

/// Near misses that an error names.
const NEAR_MAX: usize = 8;

pub(crate) struct Plan {
    pub(crate) entry: ComponentName,
    /// What the entry needs, itself included.
    pub(crate) used: BTreeSet<ComponentName>,
    /// Between used parts, sorted.
    pub(crate) edges: Vec<Edge>,
    pub(crate) open: Vec<OpenImport>,
}

type Surfaces<'a> = BTreeMap<&'a ComponentName, Surface>;

pub(crate) fn plan(surfaces: &Surfaces<'_>, links: &[Link]) -> Result<Plan, ComposeError> {
    let wiring = Wiring { surfaces, links };
    wiring.check_links()?;
    let entry = wiring.entry()?;
    let mut walk =
        Walk { wiring: &wiring, path: Vec::new(), done: BTreeSet::new(), edges: Vec::new(), open: Vec::new() };
    walk.visit(entry)?;
    let Walk { done, mut edges, mut open, .. } = walk;
    edges.sort();
    open.sort_by(|a, b| (&a.part, &a.import).cmp(&(&b.part, &b.import)));
    Ok(Plan { entry: entry.clone(), used: done.into_iter().cloned().collect(), edges, open })
}

struct Wiring<'a> {
    surfaces: &'a Surfaces<'a>,
    links: &'a [Link],
}

impl<'a> Wiring<'a> {
    fn surface(&self, part: &ComponentName) -> Option<(&'a ComponentName, &'a Surface)> {
        self.surfaces.get_key_value(part).map(|(name, surface)| (*name, surface))
    }

    fn check_links(&self) -> Result<(), ComposeError> {
        for Link { from, import, to } in self.links {
            let surface = |name: &ComponentName| {
                self.surface(name).ok_or_else(|| ComposeError::UnknownPart { name: name.clone() })
            };
            let ((_, importer), (to, exporter)) = (surface(from)?, surface(to)?);
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
        let siblings = self.surfaces.iter().filter(|(name, _)| match link {
            Some(link) => ***name == link.to,
            None => **name != part,
        });
        let fitting: Vec<(Fit, &ComponentName, &str)> = siblings
            .filter_map(|(name, surface)| best(import, surface).map(|(fit, export)| (fit, *name, export)))
            .collect();
        let is_exact = |(fit, ..): &&(Fit, &ComponentName, &str)| *fit == Fit::Exact;
        let any_exact = fitting.iter().any(|candidate| is_exact(&candidate));
        let candidates: Vec<_> = fitting.iter().filter(|candidate| !any_exact || is_exact(candidate)).collect();
        match candidates.as_slice() {
            [] => Ok(None),
            [(_, name, export)] => Ok(Some((name, export))),
            many => {
                let exporter = |(_, name, export): &&(Fit, &ComponentName, &str)| Exporter {
                    part: (*name).clone(),
                    export: (*export).to_owned(),
                };
                let candidates = many.iter().map(exporter).collect();
                Err(ComposeError::AmbiguousImport { part: part.clone(), import: import.to_owned(), candidates })
            }
        }
    }

    /// The part that exports an HTTP handler and whose exports nobody else uses.
    fn entry(&self) -> Result<&'a ComponentName, ComposeError> {
        let handlers: Vec<&ComponentName> = self
            .surfaces
            .iter()
            .filter(|(_, surface)| surface.exports.iter().any(|export| is_http_handler(export)))
            .map(|(name, _)| *name)
            .collect();
        match handlers.as_slice() {
            [] => return Err(ComposeError::NoEntry),
            [only] => return Ok(only),
            _ => {}
        }
        let mut consumed = BTreeSet::new();
        let mut ambiguous = None;
        for (part, surface) in self.surfaces {
            for import in &surface.imports {
                match self.exporter(part, import) {
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
        let Some((_, surface)) = self.wiring.surface(part) else { return Ok(()) };
        if self.done.contains(part) {
            return Ok(());
        }
        self.path.push(part);
        for import in &surface.imports {
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
                    let near = near(self.wiring.surfaces, part, import);
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

fn near(surfaces: &Surfaces<'_>, part: &ComponentName, import: &str) -> Vec<Exporter> {
    let siblings = surfaces.iter().filter(|(name, _)| **name != part);
    let exports = siblings.flat_map(|(name, surface)| surface.exports.iter().map(move |export| (*name, export)));
    let near = exports.filter(|(_, export)| version::is_near(import, export));
    near.take(NEAR_MAX).map(|(part, export)| Exporter { part: part.clone(), export: export.clone() }).collect()
}

fn few(names: &[String]) -> Vec<String> {
    names.iter().take(NEAR_MAX).cloned().collect()
}

fn is_http_handler(export: &str) -> bool {
    let (interface, version) = version::split(export);
    let is = |minor| version.as_ref().is_some_and(|v| v.major == 0 && v.minor == minor && v.pre.is_empty());
    (interface == "wasi:http/incoming-handler" && is(2)) || (interface == "wasi:http/handler" && is(3))
}
