//! What this node observes of its replicas is told to all nodes, and what they tell is kept for a while, so that any node
//! can answer a person's question, and whoever decides about replicas knows their load. One that is lost costs some seconds of
//! freshness.

use crate::{NodeOptions, demand::Awaited, events::Events, notices::Notices, session::Member};
use futures_util::StreamExt as _;
use lattice::{
    host::Host,
    id::{NodeId, SlotId, WorkloadName},
    record::SpecRecord,
    report::{AWAITED_MAX, HostReport, NodeReport, SlotReport},
    store::{Clock, Message, Platform},
    subject::{self, Topic},
    view::LatticeView,
};
use lattice_planner::Me;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// Between two looks at what the host counts: so long may a strike or a limit go unnoticed.
const LOOK: Duration = Duration::from_secs(1);
/// Between two reports, give or take a fifth.
const EVERY: Duration = Duration::from_secs(5);
/// A node with many replicas reports less often instead of sending more: every node reads what every node says.
const BYTES_PER_SECOND: u64 = 32 * 1024;
/// After so long without a new one a report says nothing any more.
const KEPT: Duration = Duration::from_secs(60);
/// Reports that a node keeps, and bytes that they had on the way.
const REPORTS_MAX: usize = 1024;
const REPORT_BYTES_KEPT_MAX: usize = 64 * 1024 * 1024;
const RETRY: Duration = Duration::from_secs(1);

/// What all nodes said last. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reports {
    clock: Arc<dyn Clock>,
    kept: Arc<Mutex<Kept>>,
}

/// The reports of one moment, with their ages in milliseconds.
pub(crate) type Reported = BTreeMap<NodeId, (Arc<NodeReport>, u64)>;

#[derive(Default)]
struct Kept {
    reports: BTreeMap<NodeId, Heard>,
    bytes: usize,
}

struct Heard {
    report: Arc<NodeReport>,
    bytes: usize,
    at: Duration,
}

impl Reports {
    pub(crate) fn new(platform: &Platform) -> Self {
        Self { clock: platform.clock.clone(), kept: Arc::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, report: NodeReport, bytes: usize) {
        let at = self.clock.now();
        self.kept().keep(Heard { report: Arc::new(report), bytes, at });
    }

    /// All that are fresh enough.
    pub(crate) fn now(&self) -> Reported {
        let now = self.clock.now();
        let mut kept = self.kept();
        kept.forget_old(now);
        let aged = |(node, heard): (&NodeId, &Heard)| {
            let age = u64::try_from(now.saturating_sub(heard.at).as_millis()).unwrap_or(u64::MAX);
            (node.clone(), (heard.report.clone(), age))
        };
        kept.reports.iter().map(aged).collect()
    }
}

impl lattice::report::Reports for Reports {
    fn latest(&self) -> Vec<Arc<NodeReport>> {
        let now = self.clock.now();
        let mut kept = self.kept();
        kept.forget_old(now);
        kept.reports.values().map(|heard| heard.report.clone()).collect()
    }
}

impl Kept {
    fn keep(&mut self, heard: Heard) {
        self.forget_old(heard.at);
        let node = heard.report.node.clone();
        self.bytes += heard.bytes;
        if let Some(before) = self.reports.insert(node, heard) {
            self.bytes -= before.bytes;
        }
        while self.reports.len() > REPORTS_MAX || self.bytes > REPORT_BYTES_KEPT_MAX {
            let oldest = self.reports.iter().min_by_key(|(_, heard)| heard.at).map(|(node, _)| node.clone());
            let Some(gone) = oldest.and_then(|node| self.reports.remove(&node)) else { break };
            self.bytes -= gone.bytes;
        }
    }

    fn forget_old(&mut self, now: Duration) {
        let bytes = &mut self.bytes;
        self.reports.retain(|_, heard| {
            let is_fresh = now.saturating_sub(heard.at) < KEPT;
            if !is_fresh {
                *bytes -= heard.bytes;
            }
            is_fresh
        });
    }
}

/// Publishes this node's report, and listens to the others'.
pub(crate) struct Reporter {
    options: Arc<NodeOptions>,
    platform: Platform,
    events: Events,
    host: Arc<dyn Host>,
    member: Member,
    view: watch::Receiver<Arc<LatticeView>>,
    reports: Reports,
    awaited: Awaited,
}

impl Reporter {
    pub(crate) fn new(
        options: Arc<NodeOptions>,
        platform: Platform,
        events: Events,
        host: Arc<dyn Host>,
        member: Member,
        view: watch::Receiver<Arc<LatticeView>>,
        (reports, awaited): (Reports, Awaited),
    ) -> Self {
        Self { options, platform, events, host, member, view, reports, awaited }
    }

    /// Never returns.
    pub(crate) async fn run(self) {
        tokio::join!(self.publish(), self.listen());
    }

    async fn publish(&self) {
        let clock = &self.platform.clock;
        let mut notices = Notices::default();
        let mut is_news = false;
        let mut told = Loads::default();
        // Not all nodes that were started together in one moment.
        let mut due = clock.now() + self.platform.rng.up_to(LOOK);
        let mut earliest = due;
        loop {
            clock.sleep(LOOK).await;
            let host = self.host.report();
            let events = notices.due(&host, clock.now());
            let awaited: BTreeSet<WorkloadName> = self.awaited.now().into_iter().take(AWAITED_MAX).collect();
            is_news |= !events.is_empty()
                || told.moved(&host)
                || told.failed(&host)
                || self.is_analysed(&host)
                || !awaited.is_subset(&told.awaited);
            for event in events {
                self.events.tell(event).await;
            }
            let Me { node, incarnation } = self.member.me();
            let report = NodeReport { node, incarnation, host, awaited, left_out: 0 };
            let now = clock.now();
            if now >= due || is_news && now >= earliest {
                let payload = report.clone().encode(self.platform.bus.payload_bytes_max());
                let cost = Duration::from_secs(payload.len() as u64) / BYTES_PER_SECOND as u32;
                let every = EVERY.max(cost);
                earliest = now + cost;
                due = now + every * 4 / 5 + self.platform.rng.up_to(every * 2 / 5);
                is_news = false;
                told = Loads::of(&report);
                let subject = Topic::Report(self.options.node.clone()).subject(&self.options.lattice);
                let message = Message { subject, payload, ..Message::default() };
                if let Err(error) = self.platform.bus.publish(message).await {
                    tracing::debug!(%error, "a report was not sent");
                }
            }
            self.reports.keep(report, 0);
        }
    }

    /// Whether somebody decides by what replicas here answer whether it is given up. Then a second counts.
    fn is_analysed(&self, host: &HostReport) -> bool {
        let mut counting = host.slots.iter().filter(|(_, said)| said.answers.is_some()).peekable();
        if counting.peek().is_none() {
            return false;
        }
        let view = self.view.borrow();
        counting.any(|(slot, said)| {
            let is_new = |spec: &SpecRecord| (said.uid, said.generation) == (spec.uid, spec.template());
            let is_open = |spec: &SpecRecord| !spec.is_settled(view.rollout(&slot.workload));
            view.specs.get(&slot.workload).is_some_and(|spec| is_new(&spec.record) && is_open(&spec.record))
        })
    }

    async fn listen(&self) {
        let subject = subject::reports_all(&self.options.lattice);
        loop {
            match self.platform.bus.subscribe(subject.clone(), None).await {
                Ok(mut reports) => {
                    while let Some(message) = reports.next().await {
                        self.hear(&message);
                    }
                }
                Err(error) => tracing::debug!(%error, "reports of other nodes are not heard; trying again"),
            }
            self.platform.clock.sleep(RETRY).await;
        }
    }

    /// Only what a living node says under its own name, in its present life, counts.
    fn hear(&self, message: &Message) {
        let Some((_, Topic::Report(node))) = Topic::parse(&message.subject) else { return };
        let incarnation = self.view.borrow().sessions.get(&node).map(|session| session.record.incarnation);
        let Some(incarnation) = incarnation.filter(|_| node != self.options.node) else { return };
        match NodeReport::decode(&message.payload) {
            Ok(report) if report.node == node => {
                // Of one that was started again, this node may see the end of the life before, or not yet the new one.
                if report.incarnation == incarnation {
                    self.reports.keep(report, message.payload.len());
                }
            }
            Ok(report) => tracing::debug!(%node, says = %report.node, "a report under another node's name"),
            Err(error) => tracing::debug!(%node, %error, "a report that can't be read"),
        }
    }
}

/// What was told last that others wait for: the load from which numbers of replicas follow, and what failed.
#[derive(Default)]
struct Loads {
    present: BTreeMap<SlotId, u64>,
    failed: BTreeMap<SlotId, u64>,
    awaited: BTreeSet<WorkloadName>,
}

impl Loads {
    fn of(NodeReport { host, awaited, .. }: &NodeReport) -> Self {
        let slots = host.slots.iter().filter(|(_, slot)| slot.load.is_some());
        let present = slots.map(|(slot, said)| (slot.clone(), said.present())).collect();
        let failed =
            host.slots.iter().map(|(slot, said)| (slot.clone(), failures(said))).filter(|(_, count)| *count > 0);
        Self { present, failed: failed.collect(), awaited: awaited.clone() }
    }

    /// Whether a replica, or a service of one, ended since. The first times only: one that goes on so is told often enough.
    fn failed(&self, host: &HostReport) -> bool {
        const FIRST: u64 = 3;
        let is_news = |(slot, said): (&SlotId, &SlotReport)| {
            let count = failures(said);
            count > 0 && count <= FIRST && self.failed.get(slot).is_none_or(|before| *before != count)
        };
        host.slots.iter().any(is_news)
    }

    /// Whether some load differs so much that more replicas may be needed before the next report is due.
    fn moved(&self, host: &HostReport) -> bool {
        let slots = host.slots.iter().filter(|(_, slot)| slot.load.is_some());
        slots.into_iter().any(|(slot, said)| {
            let before = self.present.get(slot).copied().unwrap_or(0);
            said.present().abs_diff(before) > (before / 4).max(1)
        })
    }
}

/// How often the replica, or a service of it, was started again.
fn failures(said: &SlotReport) -> u64 {
    let parts = said.parts.iter().map(|part| part.restarts);
    said.crash.as_ref().map_or(0, |crash| crash.restarts).saturating_add(parts.sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::{
        id::Generation,
        report::{CrashReport, LoadReport},
    };

    fn heard(node: usize, bytes: usize, at: u64) -> Heard {
        let node = NodeId::new(format!("n{node}")).unwrap();
        let report = NodeReport::new(node, uuid::Uuid::nil(), HostReport::default());
        Heard { report: Arc::new(report), bytes, at: Duration::from_secs(at) }
    }

    #[test]
    fn what_is_kept_is_bounded_and_ages() {
        let mut kept = Kept::default();
        for node in 0..REPORTS_MAX + 3 {
            kept.keep(heard(node, 1, 1));
        }
        assert_eq!((kept.reports.len(), kept.bytes), (REPORTS_MAX, REPORTS_MAX));
        kept.keep(heard(5, 9, 2));
        assert_eq!(kept.bytes, REPORTS_MAX + 8, "the newest of a node only");
        kept.keep(heard(0, REPORT_BYTES_KEPT_MAX, 3));
        assert_eq!(kept.reports.len(), 1, "the oldest made room");
        kept.forget_old(Duration::from_secs(3) + KEPT);
        assert_eq!((kept.reports.len(), kept.bytes), (0, 0));
    }

    #[test]
    fn what_fails_is_told_soon_and_not_each_time() {
        let report = |restarts| {
            let crash = CrashReport { restarts, error: String::new(), at: 0, lines: vec![] };
            let slot = SlotReport { crash: Some(crash), ..SlotReport::new(uuid::Uuid::nil(), Generation::FIRST) };
            let host = HostReport { slots: [("w.0".parse().unwrap(), slot)].into(), ..HostReport::default() };
            NodeReport::new("n1".parse().unwrap(), uuid::Uuid::nil(), host)
        };
        let failed = |from, to| Loads::of(&report(from)).failed(&report(to).host);
        assert!(failed(0, 1) && failed(1, 2) && Loads::default().failed(&report(3).host));
        assert!(!failed(1, 1) && !failed(0, 0) && !failed(3, 9));
    }

    #[test]
    fn a_load_that_moves_is_told_soon() {
        let report = |in_flight, load: Option<LoadReport>| {
            let slot = SlotReport { in_flight, load, ..SlotReport::new(uuid::Uuid::nil(), Generation::FIRST) };
            let host = HostReport { slots: [("w.0".parse().unwrap(), slot)].into(), ..HostReport::default() };
            NodeReport::new("n1".parse().unwrap(), uuid::Uuid::nil(), host)
        };
        let load = Some(LoadReport::default());
        let moved = |from, to| Loads::of(&report(from, load)).moved(&report(to, load).host);
        assert!(moved(0, 2) && moved(8, 11) && moved(40, 20));
        assert!(!moved(0, 1) && !moved(8, 10) && !moved(40, 45));
        assert!(!Loads::default().moved(&report(9, None).host), "nobody decides by it");
    }
}
