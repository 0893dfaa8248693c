//! When a session counts as dead. Each observer measures with its own monotonic clock how long a session has not
//! changed, and deletes it at the last seen revision: that delete is the one moment at which a node dies for everybody, and
//! no clocks of two machines are compared.

use lattice::{
    id::{NodeId, Revision},
    record::Key,
    view::LatticeView,
};
use std::{collections::BTreeMap, time::Duration};

/// Watches the sessions of other nodes.
#[derive(Debug)]
pub struct Observer {
    kill_after: Duration,
    observed_at: Option<Duration>,
    /// Since when each session has been at its revision, as far as we saw.
    unchanged: BTreeMap<NodeId, (Revision, Duration)>,
}

impl Observer {
    /// `kill_after` must be longer than the time after which a node without an acknowledged renewal fences itself.
    pub fn new(kill_after: Duration) -> Self {
        Self { kill_after, observed_at: None, unchanged: BTreeMap::new() }
    }

    /// Note what the view shows at `now` (monotonic), and name the sessions to delete, each at its revision. Call it at
    /// least four times in the kill time: after a gap of more than half of it (this process was suspended, say) what was
    /// not watched is not known, and all timers restart.
    ///
    /// A session that does not parse is deleted like any other when it stays unchanged: its node renews it, or is dead.
    pub fn observe(&mut self, now: Duration, view: &LatticeView, me: &NodeId) -> Vec<(NodeId, Revision)> {
        if self.observed_at.is_some_and(|before| now.saturating_sub(before) > self.kill_after / 2) {
            self.reset(now);
        }
        self.observed_at = Some(now);

        let mut revisions: BTreeMap<NodeId, Revision> =
            view.sessions.iter().map(|(node, session)| (node.clone(), session.revision)).collect();
        for (key, corrupt) in &view.corrupt {
            if let Some(Key::Session(node)) = Key::parse(corrupt.bucket, key) {
                revisions.insert(node, corrupt.revision);
            }
        }
        revisions.remove(me);

        self.unchanged.retain(|node, (revision, _)| revisions.get(node) == Some(revision));
        let mut dead = Vec::new();
        for (node, revision) in revisions {
            let (_, since) = self.unchanged.entry(node.clone()).or_insert((revision, now));
            if now.saturating_sub(*since) >= self.kill_after {
                dead.push((node, revision));
            }
        }
        dead
    }

    /// Restart all timers: after a reconnect, or when changes may have been missed.
    pub fn reset(&mut self, now: Duration) {
        for (_, since) in self.unchanged.values_mut() {
            *since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::view::Versioned;

    const KILL_AFTER: Duration = Duration::from_secs(5);

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }
    fn id(text: &str) -> NodeId {
        text.parse().unwrap()
    }
    fn see(view: &mut LatticeView, node: &str, revision: u64) {
        let record = lattice::testing::session(id(node), uuid::Uuid::nil());
        view.sessions.insert(id(node), Versioned { record, revision: Revision(revision) });
    }
    /// Watch every second from `from` to `to` (seconds, inclusive): when which node was found dead first.
    fn watch(
        observer: &mut Observer,
        view: &LatticeView,
        from: u64,
        to: u64,
    ) -> Option<(u64, Vec<(NodeId, Revision)>)> {
        let dead = |second| {
            Some((second, observer.observe(at(second * 1000), view, &id("me")))).filter(|(_, d)| !d.is_empty())
        };
        (from..=to).find_map(dead)
    }

    #[test]
    fn an_unchanged_session_dies_at_the_kill_time_and_one_that_changes_lives() {
        let mut observer = Observer::new(KILL_AFTER);
        let mut view = LatticeView::default();
        see(&mut view, "me", 1);
        see(&mut view, "n1", 2);
        see(&mut view, "n2", 3);
        assert_eq!(watch(&mut observer, &view, 10, 14), None);
        see(&mut view, "n2", 4);
        let (when, dead) = watch(&mut observer, &view, 15, 30).unwrap();
        assert_eq!((when, dead), (15, vec![(id("n1"), Revision(2))]));
        assert_eq!(observer.observe(at(16_000), &view, &id("me")).len(), 1, "named until it is gone");
        view.sessions.remove(&id("n1"));
        assert_eq!(watch(&mut observer, &view, 17, 30), Some((20, vec![(id("n2"), Revision(4))])));
    }

    #[test]
    fn what_was_not_watched_is_not_known() {
        let mut observer = Observer::new(KILL_AFTER);
        let mut view = LatticeView::default();
        see(&mut view, "n1", 1);
        assert_eq!(watch(&mut observer, &view, 0, 4), None);
        observer.reset(at(4_000));
        assert_eq!(watch(&mut observer, &view, 5, 8), None, "a reset restarts the timers");
        assert_eq!(watch(&mut observer, &view, 60, 64), None, "so does a gap");
        assert_eq!(watch(&mut observer, &view, 65, 70).unwrap().0, 65);
    }

    #[test]
    fn a_session_that_does_not_parse_dies_unless_it_is_renewed() {
        let mut observer = Observer::new(KILL_AFTER);
        let mut view = LatticeView::default();
        see(&mut view, "n1", 1);
        let error = lattice::record::DecodeError::Newer(9);
        let corrupt = |revision| lattice::view::Corrupt {
            bucket: lattice::store::Bucket::State,
            revision: Revision(revision),
            error: error.clone(),
        };
        view.corrupt.insert("session.n1".into(), corrupt(2));
        assert_eq!(watch(&mut observer, &view, 0, 4), None);
        view.corrupt.insert("session.n1".into(), corrupt(3));
        assert_eq!(watch(&mut observer, &view, 5, 30), Some((10, vec![(id("n1"), Revision(3))])));
    }
}
