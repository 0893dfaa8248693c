//! Whether a bucket went back in time: what it says now can't follow from what was seen of it.

use super::LatticeView;
use crate::{
    id::Revision,
    record::Key,
    store::{Bucket, Entry, Snapshot},
};

impl LatticeView {
    /// Whether a snapshot can't be of a later state of the bucket that this view shows: another bucket, a lower head, or
    /// another history. A bucket that lost writes soon has as high a head as before, by the renewals of sessions alone; but
    /// then its entries up to the head that was seen are not those that were seen.
    pub fn contradicts(&self, bucket: Bucket, snapshot: &Snapshot) -> bool {
        let Some(seen) = self.seen.get(&bucket) else { return false };
        let is_other = |entry: &Entry| {
            let known = Key::parse(bucket, &entry.key).map(|key| self.revision(bucket, &key));
            entry.revision.0 <= seen.head && known.is_some_and(|known| known != Some(entry.revision))
        };
        seen.identity != snapshot.identity || snapshot.head.0 < seen.head || snapshot.entries.iter().any(is_other)
    }

    /// The revision of the last value of a key, whether it parses or not.
    fn revision(&self, bucket: Bucket, key: &Key) -> Option<Revision> {
        let corrupt = self.corrupt.get(&key.to_string()).filter(|corrupt| corrupt.bucket == bucket);
        corrupt.map(|corrupt| corrupt.revision).or_else(|| match key {
            Key::Spec(name) => self.specs.get(name).map(|spec| spec.revision),
            Key::Node(node) => self.orders.get(node).map(|order| order.revision),
            Key::Session(node) => self.sessions.get(node).map(|session| session.revision),
            Key::Slot(slot) => self.slots.get(slot).map(|slot| slot.revision),
            Key::Cron(name) => self.ticks.get(name).map(|ticks| ticks.revision),
            Key::Rollout(name) => self.rollouts.get(name).map(|rollout| rollout.revision),
            Key::Rebalance => self.rebalance.as_ref().map(|rebalance| rebalance.revision),
            Key::Scale(name) => self.scales.get(name).map(|scale| scale.revision),
            Key::Config(name) => self.configs.get(name).map(|config| config.revision),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{NodeOrder, Record as _};

    fn entry(node: &str, revision: u64) -> Entry {
        let order = NodeOrder { node: node.parse().unwrap(), cordoned: true, drain: None };
        Entry { key: format!("node.{node}"), value: order.encode(), revision: Revision(revision) }
    }

    fn snapshot(identity: &str, head: u64, entries: &[(&str, u64)]) -> Snapshot {
        let entries = entries.iter().map(|(node, revision)| entry(node, *revision)).collect();
        Snapshot { identity: identity.into(), head: Revision(head), entries }
    }

    #[test]
    fn a_bucket_that_went_back_is_noticed_however_far_it_has_come_since() {
        let mut view = LatticeView::default();
        let first = snapshot("one", 9, &[("a", 3), ("b", 7)]);
        assert!(!view.contradicts(Bucket::Specs, &first), "nothing was seen yet");
        view.apply_snapshot(Bucket::Specs, first);
        for (what, later, expected) in [
            ("the same", snapshot("one", 9, &[("a", 3), ("b", 7)]), false),
            ("a change, a deletion, something new", snapshot("one", 13, &[("a", 11), ("c", 10)]), false),
            ("another bucket", snapshot("two", 13, &[("a", 3), ("b", 7)]), true),
            ("a lower head", snapshot("one", 8, &[("a", 3), ("b", 7)]), true),
            ("an older value", snapshot("one", 12, &[("a", 2), ("b", 7)]), true),
            ("another value in its place", snapshot("one", 12, &[("a", 3), ("c", 7)]), true),
            ("what was deleted is back", snapshot("one", 12, &[("a", 3), ("b", 7), ("c", 5)]), true),
        ] {
            assert_eq!(view.contradicts(Bucket::Specs, &later), expected, "{what}");
        }
        let mut foreign = entry("x", 1);
        foreign.key = "of-tomorrow.x".into();
        let with_foreign = Snapshot { entries: vec![foreign], ..snapshot("one", 12, &[]) };
        assert!(!view.contradicts(Bucket::Specs, &with_foreign), "keys of a kind that is not known are not looked at");
    }
}
