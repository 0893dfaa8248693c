//! Whether what is new keeps the bounds that its spec sets, by what the nodes say that its replicas answered. Each node adds
//! it up for itself from when it began to watch: one that begins anew knows less and concludes later, never something else.
//!
//! Start at [`AnalysisObserver::observe`]. What follows from a finding is decided in `rollout.rs`.

use lattice::{
    id::{Generation, Incarnation, NodeId, WorkloadName},
    record::{RolloutState, SpecRecord},
    report::{AnswersReport, NodeReport, Slow},
    spec::AnalysisSpec,
    view::LatticeView,
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

/// Sums that are kept of one window.
const SAMPLES_MAX: u32 = 16;
/// After a gap of so long nothing that was counted says what happened within a window.
const GAP: Duration = Duration::from_secs(5);

/// Adds up what replicas of changes under way answered.
#[derive(Debug, Default)]
pub struct AnalysisObserver {
    observed_at: Option<Duration>,
    seen: BTreeMap<WorkloadName, Seen>,
}

#[derive(Debug)]
struct Seen {
    template: (uuid::Uuid, Generation),
    stage: Stage,
    /// What each replica had answered when it was last heard of.
    replicas: BTreeMap<u32, (NodeId, Incarnation, AnswersReport)>,
    total: Sums,
    /// What `total` was, the oldest first.
    samples: VecDeque<(Duration, Sums)>,
}

/// Requests count from when a change came to it.
type Stage = (Option<RolloutState>, u32, Option<u32>);

/// By node. All are of replicas that run what is new.
type Sums = BTreeMap<NodeId, Sum>;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    requests: u64,
    errors: u64,
    over_p95: u64,
    over_p99: u64,
}

impl AnalysisObserver {
    /// Note what nodes say at `now` (monotonic). Answers what was found of workloads whose newest template is beyond a
    /// bound: the figure, the bound, and the node that has most of it.
    pub fn observe(
        &mut self,
        now: Duration,
        view: &LatticeView,
        workloads: &BTreeSet<WorkloadName>,
        reports: &[Arc<NodeReport>],
    ) -> BTreeMap<WorkloadName, String> {
        if self.observed_at.is_some_and(|before| now.saturating_sub(before) > GAP) {
            self.seen.clear();
        }
        self.observed_at = Some(now);
        self.seen.retain(|name, _| workloads.contains(name));
        let find = |name: &WorkloadName| {
            let spec = &view.specs.get(name)?.record;
            let analysis = spec.spec.rollout.analysis.as_ref()?;
            Some((name.clone(), self.observe_one(now, view, spec, analysis, reports)?))
        };
        workloads.iter().filter_map(find).collect()
    }

    fn observe_one(
        &mut self,
        now: Duration,
        view: &LatticeView,
        spec: &SpecRecord,
        analysis: &AnalysisSpec,
        reports: &[Arc<NodeReport>],
    ) -> Option<String> {
        let name = &spec.spec.name;
        let template = (spec.uid, spec.template());
        let rollout = view.rollout(name).filter(|rollout| rollout.is_of(spec));
        let stage: Stage = rollout.map_or((None, 0, None), |of| (Some(of.state), of.step, of.weight));
        let answers = answers(view, spec, analysis, reports);
        let seen = match self.seen.get_mut(name).filter(|seen| seen.template == template) {
            Some(seen) => {
                seen.add(answers);
                seen
            }
            // What they answered before this node began to watch was in no window of its.
            None => {
                let (total, samples) = (Sums::new(), VecDeque::new());
                let new = Seen { template, stage, replicas: answers, total, samples };
                self.seen.entry(name.clone()).insert_entry(new).into_mut()
            }
        };
        if seen.stage != stage {
            seen.stage = stage;
            seen.samples.clear();
        }
        let window: Duration = analysis.window.into();
        finding(analysis, &seen.within(now, window))
    }

    /// Count anew: something may have been missed.
    pub fn reset(&mut self) {
        self.seen.clear();
    }
}

impl Seen {
    fn add(&mut self, answers: BTreeMap<u32, (NodeId, Incarnation, AnswersReport)>) {
        for (index, (node, incarnation, now)) in answers {
            let same = |known: &&(NodeId, Incarnation, AnswersReport)| {
                known.0 == node && known.1 == incarnation && known.2.requests <= now.requests
            };
            // It was started again, or another node has it: then it counts from nothing.
            let before = self.replicas.get(&index).filter(same).map(|known| known.2).unwrap_or_default();
            let sum = self.total.entry(node.clone()).or_default();
            let grown = |now: u64, before: u64| now.saturating_sub(before);
            let slow = |of: Option<Slow>| of.map_or(0, |slow| slow.requests);
            sum.requests = sum.requests.saturating_add(grown(now.requests, before.requests));
            sum.errors = sum.errors.saturating_add(grown(now.errors, before.errors));
            sum.over_p95 = sum.over_p95.saturating_add(grown(slow(now.p95), slow(before.p95)));
            sum.over_p99 = sum.over_p99.saturating_add(grown(slow(now.p99), slow(before.p99)));
            self.replicas.insert(index, (node, incarnation, now));
        }
    }

    /// What was added within a window that ends now.
    fn within(&mut self, now: Duration, window: Duration) -> Sums {
        let is_due = |last: &(Duration, Sums)| now.saturating_sub(last.0) >= window / SAMPLES_MAX;
        if self.samples.back().is_none_or(is_due) {
            self.samples.push_back((now, self.total.clone()));
        }
        // One that is a whole window old is needed, none that is older.
        let is_old = |at: &(Duration, Sums)| now.saturating_sub(at.0) >= window;
        while self.samples.get(1).is_some_and(is_old) {
            self.samples.pop_front();
        }
        let before = self.samples.front().map(|(_, sums)| sums);
        let since = |(node, sum): (&NodeId, &Sum)| {
            let before = before.and_then(|sums| sums.get(node)).copied().unwrap_or_default();
            let sum = Sum {
                requests: sum.requests.saturating_sub(before.requests),
                errors: sum.errors.saturating_sub(before.errors),
                over_p95: sum.over_p95.saturating_sub(before.over_p95),
                over_p99: sum.over_p99.saturating_sub(before.over_p99),
            };
            (node.clone(), sum)
        };
        self.total.iter().map(since).collect()
    }
}

/// What replicas that run the newest template answered so far, by the last word of the nodes that hold them. One that counts
/// by other bounds, since it started under an earlier spec, says nothing.
fn answers(
    view: &LatticeView,
    spec: &SpecRecord,
    analysis: &AnalysisSpec,
    reports: &[Arc<NodeReport>],
) -> BTreeMap<u32, (NodeId, Incarnation, AnswersReport)> {
    let mut found = BTreeMap::new();
    for report in reports {
        for (slot, said) in report.host.slots.iter().filter(|(slot, _)| slot.workload == spec.spec.name) {
            let holder = view.slots.get(slot).map(|held| &held.record.holder);
            let is_holder = holder.is_some_and(|of| of.node == report.node && of.incarnation == report.incarnation);
            let is_new = said.uid == spec.uid && said.generation == spec.template();
            let Some(answers) = said.answers.filter(|_| is_holder && is_new) else { continue };
            let bound = |slow: Option<Slow>| slow.map(|slow| slow.bound);
            if (bound(answers.p95), bound(answers.p99)) == (analysis.max_p95, analysis.max_p99) {
                found.insert(slot.index, (report.node.clone(), report.incarnation, answers));
            }
        }
    }
    found
}

fn finding(analysis: &AnalysisSpec, sums: &Sums) -> Option<String> {
    let all = |of: fn(&Sum) -> u64| sums.values().map(of).fold(0, u64::saturating_add);
    let requests = all(|sum| sum.requests);
    if requests < u64::from(analysis.min_requests) {
        return None;
    }
    let told = |of: fn(&Sum) -> u64| {
        let most = sums.iter().rev().max_by_key(|(_, sum)| of(sum)).map(|(node, _)| node.as_str()).unwrap_or("?");
        (share(all(of), requests), most)
    };
    if let Some(bound) = analysis.max_error_rate.filter(|rate| rate.is_exceeded(all(|sum| sum.errors), requests)) {
        let (share, most) = told(|sum| sum.errors);
        return Some(format!(
            "{share} of {requests} requests failed, most of them on {most}, and rollout.analysis.max-error-rate is {bound}"
        ));
    }
    let slow = |of: fn(&Sum) -> u64, bound, name, allowed: u32| {
        let bound = bound?;
        let is_beyond = u128::from(all(of)) * 100 > u128::from(allowed) * u128::from(requests);
        let (share, most) = is_beyond.then(|| told(of))?;
        Some(format!(
            "{share} of {requests} requests took longer than {bound}, most of them on {most}, and \
             rollout.analysis.{name} lets {allowed} %"
        ))
    };
    slow(|sum| sum.over_p95, analysis.max_p95, "max-p95", 5)
        .or_else(|| slow(|sum| sum.over_p99, analysis.max_p99, "max-p99", 1))
}

/// `12.5 %`.
fn share(part: u64, of: u64) -> String {
    let permille = (u128::from(part) * 1000).checked_div(u128::from(of)).unwrap_or(0);
    match permille % 10 {
        0 => format!("{} %", permille / 10),
        tenth => format!("{}.{tenth} %", permille / 10),
    }
}
