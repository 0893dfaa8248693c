//! The paths of all host patterns, the most telling pattern first. What a look-up costs grows with the labels of the host
//! that is asked for, not with the patterns.

use crate::{
    index::Index,
    paths::{Draft as PathsDraft, Paths},
};
use lattice::spec::HostPattern;
use std::collections::BTreeMap;

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Hosts {
    exact: Index<Paths>,
    /// By the labels behind `*.`.
    under: Index<Paths>,
    under_lengths: Lengths,
    any: Paths,
}

impl Hosts {
    /// Those of an exact host, then of the wildcard with the most labels, and at last those of any host.
    pub(crate) fn of<'a>(&'a self, host: &str) -> impl Iterator<Item = &'a Paths> {
        let suffixes = std::iter::successors(parent(host), |suffix| parent(suffix));
        let under = suffixes.filter(move |suffix| self.under_lengths.has(suffix.len()));
        let under = under.filter_map(move |suffix| self.under.get(suffix));
        std::iter::once_with(move || self.exact.get(host)).flatten().chain(under).chain([&self.any])
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Paths> {
        self.exact.values().chain(self.under.values()).chain([&self.any])
    }
}

/// The host behind its first label.
fn parent(host: &str) -> Option<&str> {
    host.split_once('.').map(|(_, parent)| parent)
}

/// How long the keys of an index are, in bytes: most of what is asked for has another length than any of them.
#[derive(Debug, Clone, Default, PartialEq)]
struct Lengths {
    /// A bit for each; hosts have at most 253 bytes.
    bits: [u64; 4],
}

impl Lengths {
    fn add(&mut self, length: usize) {
        if let Some(word) = self.bits.get_mut(length / 64) {
            *word |= 1 << (length % 64);
        }
    }

    fn has(&self, length: usize) -> bool {
        self.bits.get(length / 64).is_some_and(|word| word >> (length % 64) & 1 == 1)
    }
}

/// While routes come in.
#[derive(Default)]
pub(crate) struct Draft<'a> {
    exact: BTreeMap<&'a str, PathsDraft<'a>>,
    under: BTreeMap<&'a str, PathsDraft<'a>>,
    any: PathsDraft<'a>,
}

impl<'a> Draft<'a> {
    pub(crate) fn of(&mut self, host: &'a HostPattern) -> &mut PathsDraft<'a> {
        match host {
            HostPattern::Exact(name) => self.exact.entry(name).or_default(),
            HostPattern::Under(name) => self.under.entry(name).or_default(),
            HostPattern::Any => &mut self.any,
        }
    }

    pub(crate) fn finish(self) -> Hosts {
        let mut under_lengths = Lengths::default();
        self.under.keys().for_each(|suffix| under_lengths.add(suffix.len()));
        let index = |drafts: BTreeMap<&str, PathsDraft<'_>>| -> Index<Paths> {
            drafts.into_iter().map(|(host, paths)| (host.into(), paths.finish())).collect()
        };
        Hosts { exact: index(self.exact), under: index(self.under), under_lengths, any: self.any.finish() }
    }
}
