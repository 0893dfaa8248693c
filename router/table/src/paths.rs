//! The paths of one host pattern.

use crate::{
    RouteEntry,
    conditions::{Asked, Query, hold},
};
use lattice::{
    id::WorkloadName,
    spec::{PathMatch, Route},
};
use std::{collections::BTreeMap, sync::Arc};

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Paths {
    prefixes: BTreeMap<String, Rules>,
    exact: BTreeMap<String, Rules>,
    /// Bytes of the longest prefix: what lies behind in a request's path can't matter, however long it is.
    longest: usize,
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
    /// Fails with the workload that has a route which the same request could take with equal right.
    pub(crate) fn insert(&mut self, route: &Route, entry: Arc<RouteEntry>) -> Result<(), WorkloadName> {
        let (paths, path) = match &route.path {
            PathMatch::Prefix(prefix) => (&mut self.prefixes, prefix.as_str()),
            PathMatch::Exact(path) => (&mut self.exact, path.as_str()),
        };
        paths.entry(path.to_owned()).or_default().insert(route, entry)?;
        if matches!(route.path, PathMatch::Prefix(_)) {
            self.longest = self.longest.max(path.len());
        }
        Ok(())
    }

    /// The exact path first, then one look-up for each segment of the path, longest prefix first.
    pub(crate) fn find(&self, asked: &Asked<'_>, query: &Query<'_>) -> Option<&Arc<RouteEntry>> {
        let path = asked.path;
        if !self.exact.is_empty()
            && let Some(entry) = self.exact.get(path).and_then(|rules| rules.find(asked, query))
        {
            return Some(entry);
        }
        let bytes = path.as_bytes();
        let mut end = bytes.len();
        if end > self.longest {
            // The longest prefix may end where the path goes on with a slash; else only a shorter one can match.
            let head = bytes.get(..=self.longest)?;
            end = head.iter().rposition(|byte| *byte == b'/')?;
        }
        while end > 0 {
            if let Some(entry) = self.prefixes.get(path.get(..end)?).and_then(|rules| rules.find(asked, query)) {
                return Some(entry);
            }
            end = path.get(..end)?.rfind('/')?;
        }
        self.prefixes.get("/").filter(|_| path.starts_with('/'))?.find(asked, query)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Arc<RouteEntry>> {
        let rules = self.prefixes.values().chain(self.exact.values());
        rules.flat_map(|rules| rules.conditional.iter().chain(&rules.plain))
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
