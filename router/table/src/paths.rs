//! The paths of one host pattern.

use crate::{
    RouteEntry,
    conditions::{Asked, Query, hold},
    index::Index,
};
use lattice::{
    id::WorkloadName,
    spec::{PathMatch, Route},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Paths {
    /// Of all prefixes but `/`.
    prefixes: Index<Rules>,
    /// How long these are, in bytes; each length once, the longest first. A prefix of another length is not looked for, and
    /// what lies behind the longest one in a request's path can't matter, however long it is.
    lengths: Box<[u16]>,
    /// The prefix `/`.
    root: Rules,
    exact: Index<Rules>,
}

/// The routes of one path.
#[derive(Debug, Clone, Default, PartialEq)]
struct Rules {
    /// The most telling one first; of those that are equally telling in the order in which they came.
    conditional: Vec<Arc<RouteEntry>>,
    /// Takes what is left.
    plain: Option<Arc<RouteEntry>>,
}

impl Paths {
    /// The exact path first, then one look-up for each prefix of the path that ends with a segment and could be there,
    /// longest first.
    pub(crate) fn find(&self, asked: &Asked<'_>, query: &Query<'_>) -> Option<&Arc<RouteEntry>> {
        let path = asked.path;
        if !self.exact.is_empty()
            && let Some(entry) = self.exact.get(path).and_then(|rules| rules.find(asked, query))
        {
            return Some(entry);
        }
        for length in &self.lengths {
            let Some((prefix, rest)) = path.split_at_checked(usize::from(*length)) else { continue };
            if (rest.is_empty() || rest.starts_with('/'))
                && let Some(entry) = self.prefixes.get(prefix).and_then(|rules| rules.find(asked, query))
            {
                return Some(entry);
            }
        }
        if path.starts_with('/') { self.root.find(asked, query) } else { None }
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Arc<RouteEntry>> {
        let rules = self.prefixes.values().chain(self.exact.values()).chain([&self.root]);
        rules.flat_map(|rules| rules.conditional.iter().chain(&rules.plain))
    }
}

/// While routes come in.
#[derive(Default)]
pub(crate) struct Draft<'a> {
    prefixes: BTreeMap<&'a str, Rules>,
    exact: BTreeMap<&'a str, Rules>,
}

impl<'a> Draft<'a> {
    /// Fails with the workload that has a route which the same request could take with equal right.
    pub(crate) fn insert(&mut self, route: &'a Route, entry: Arc<RouteEntry>) -> Result<(), WorkloadName> {
        let (paths, path) = match &route.path {
            PathMatch::Prefix(prefix) => (&mut self.prefixes, prefix.as_str()),
            PathMatch::Exact(path) => (&mut self.exact, path.as_str()),
        };
        paths.entry(path).or_default().insert(route, entry)
    }

    pub(crate) fn finish(mut self) -> Paths {
        let root = self.prefixes.remove("/").unwrap_or_default();
        // Paths of specs have at most 1024 bytes.
        let lengths = self.prefixes.keys().filter_map(|prefix| u16::try_from(prefix.len()).ok());
        let lengths: BTreeSet<u16> = lengths.collect();
        let index = |rules: BTreeMap<&str, Rules>| -> Index<Rules> {
            rules.into_iter().map(|(path, rules)| (path.into(), rules)).collect()
        };
        Paths {
            prefixes: index(self.prefixes),
            lengths: lengths.into_iter().rev().collect(),
            root,
            exact: index(self.exact),
        }
    }
}

impl Rules {
    fn insert(&mut self, route: &Route, entry: Arc<RouteEntry>) -> Result<(), WorkloadName> {
        if !route.has_conditions() {
            return match &self.plain {
                Some(taken) => Err(taken.workload.clone()),
                None => {
                    self.plain = Some(entry);
                    Ok(())
                }
            };
        }
        let clashes = |other: &&Arc<RouteEntry>| {
            other.workload != entry.workload && other.rule.as_ref().is_some_and(|rule| rule.clashes(route))
        };
        if let Some(other) = self.conditional.iter().find(clashes) {
            return Err(other.workload.clone());
        }
        let rank = |entry: &RouteEntry| entry.rule.as_ref().map(|rule| rule.rank());
        let at = self.conditional.partition_point(|other| rank(other) >= Some(route.rank()));
        self.conditional.insert(at, entry);
        Ok(())
    }

    fn find(&self, asked: &Asked<'_>, query: &Query<'_>) -> Option<&Arc<RouteEntry>> {
        if self.conditional.is_empty() {
            return self.plain.as_ref();
        }
        let takes = |entry: &&Arc<RouteEntry>| entry.rule.as_ref().is_some_and(|rule| hold(rule, asked, query));
        self.conditional.iter().find(takes).or(self.plain.as_ref())
    }
}
