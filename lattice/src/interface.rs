//! Names of the interfaces that components import and nodes offer, as far as one must agree with the other: what a workload
//! needs of a node, what a node offers, and what of the one is missing in the other.

use crate::limits::clip;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, sync::Arc};

/// Interfaces that a node is believed to offer, and bytes of each name: a peer's word is bounded.
const OFFERS_MAX: usize = 256;
const NAME_BYTES_MAX: usize = 128;

/// `wasi:http/types@0.2.3` as (`wasi:http/types`, `0.2`): the version as far as another must agree with it.
pub fn split(name: &str) -> (&str, &str) {
    let Some((interface, version)) = name.split_once('@') else { return (name, "") };
    if version.contains('-') {
        return (interface, version); // a version before the first release agrees with itself only
    }
    let agreed = match version.split('.').collect::<Vec<_>>().as_slice() {
        ["0", minor, ..] => 2 + minor.len(),
        [major, ..] => major.len(),
        [] => 0,
    };
    (interface, version.get(..agreed).unwrap_or(version))
}

/// The package of an interface: `wasi:http` of `wasi:http/types`.
fn package(interface: &str) -> &str {
    interface.split('/').next().unwrap_or(interface)
}

/// What an import asks of a node: `wasi:http@0.2`, `lattice:nats/core@0.1`, `wasi:webgpu/webgpu@0.3.0-rc.2`. Packages of WASI
/// that are released are the same on every node that has them, so one name stands for all interfaces of one; of others a
/// later node may have more than an earlier one.
pub fn need(import: &str) -> String {
    let (interface, version) = split(import);
    let is_whole = interface.starts_with("wasi:") && !version.is_empty() && !version.contains('-');
    let name = if is_whole { package(interface) } else { interface };
    if version.is_empty() { name.to_owned() } else { format!("{name}@{version}") }
}

/// What a node offers to components: names as [`need`] gives them. Cheap to clone, since views are cloned often.
#[derive(Clone, PartialEq, Eq)]
pub struct Offers(Arc<[Box<str>]>);

impl Offers {
    /// Of the interfaces that a node links, by name and version. Beyond [`OFFERS_MAX`] names they are left out.
    pub fn new<S: AsRef<str>>(interfaces: impl IntoIterator<Item = S>) -> Self {
        Self::of_needs(interfaces.into_iter().map(|name| need(name.as_ref())))
    }

    fn of_needs(needs: impl Iterator<Item = String>) -> Self {
        let mut names: Vec<Box<str>> =
            needs.take(OFFERS_MAX).map(|name| clip(&name, NAME_BYTES_MAX).to_owned().into()).collect();
        names.sort_unstable();
        names.dedup();
        Self(names.into())
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|name| &**name)
    }

    /// Whether it has what an import asks for, by the name of [`need`].
    pub fn has(&self, need: &str) -> bool {
        self.0.binary_search_by(|name| (**name).cmp(need)).is_ok()
    }

    /// The first of `needs` that it has not.
    pub fn lack<'n>(&self, needs: impl IntoIterator<Item = &'n String>) -> Option<&'n str> {
        needs.into_iter().map(String::as_str).find(|need| !self.has(need))
    }

    /// What it has of the package that a need is of, in whatever version.
    pub fn near(&self, need: &str) -> Vec<&str> {
        let of = |name| package(split(name).0);
        self.iter().filter(|name| of(*name) == of(need)).collect()
    }
}

impl fmt::Debug for Offers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Serialize for Offers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Offers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::of_needs(Vec::<String>::deserialize(deserializer)?.into_iter()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_agree_as_semver_has_it() {
        for (name, expect) in [
            ("wasi:http/types@0.2.3", ("wasi:http/types", "0.2")),
            ("wasi:http/types@0.3.0", ("wasi:http/types", "0.3")),
            ("wasi:http/types@0.3.0-rc-2026-01-01", ("wasi:http/types", "0.3.0-rc-2026-01-01")),
            ("a:b/c@1.2.3", ("a:b/c", "1")),
            ("a:b/c@0.12.1", ("a:b/c", "0.12")),
            ("a:b/c", ("a:b/c", "")),
        ] {
            assert_eq!(split(name), expect, "{name}");
        }
    }

    #[test]
    fn a_need_is_a_package_where_that_says_all() {
        for (import, expect) in [
            ("wasi:http/outgoing-handler@0.2.3", "wasi:http@0.2"),
            ("wasi:http/client@0.3.0", "wasi:http@0.3"),
            ("wasi:keyvalue/atomics@0.2.0-draft", "wasi:keyvalue/atomics@0.2.0-draft"),
            ("lattice:nats/core@0.1.4", "lattice:nats/core@0.1"),
            ("run", "run"),
            ("wasi:http/types", "wasi:http/types"),
            ("", ""),
        ] {
            assert_eq!(need(import), expect, "{import}");
            assert_eq!(need(expect), expect, "once it is one it stays as it is");
        }
    }

    #[test]
    fn what_is_lacking_is_named_and_what_is_near_it() {
        let offers = Offers::new(["wasi:http/types@0.2.1", "wasi:http/client@0.3.0", "lattice:nats/core@0.1.0"]);
        let lack = |imports: &[&str]| {
            let needs: Vec<String> = imports.iter().map(|import| need(import)).collect();
            offers.lack(&needs).map(str::to_owned)
        };
        assert_eq!(
            lack(&["wasi:http/incoming-handler@0.2.9", "wasi:http/client@0.3.1", "lattice:nats/core@0.1.9"]),
            None
        );
        assert_eq!(lack(&["wasi:http/types@0.4.0"]).as_deref(), Some("wasi:http@0.4"));
        assert_eq!(lack(&["lattice:nats/kv@0.1.0"]).as_deref(), Some("lattice:nats/kv@0.1"));
        assert_eq!(offers.near("wasi:http@0.4"), ["wasi:http@0.2", "wasi:http@0.3"]);
        assert_eq!(offers.near("wasi:webgpu/webgpu@0.3.0-rc.2"), [""; 0]);
    }

    #[test]
    fn a_peers_word_is_bounded_and_in_order() {
        let long = "x".repeat(10 * NAME_BYTES_MAX);
        let many: Vec<String> = (0..10 * OFFERS_MAX).rev().map(|number| format!("{number}{long}")).collect();
        let text = serde_json::to_string(&many).unwrap();
        let read: Offers = serde_json::from_str(&text).unwrap();
        assert_eq!(read.iter().count(), OFFERS_MAX);
        assert!(read.iter().all(|name| name.len() <= NAME_BYTES_MAX) && read.iter().is_sorted());
        let again: Offers = serde_json::from_str(&serde_json::to_string(&read).unwrap()).unwrap();
        assert_eq!(again, read);
    }
}
