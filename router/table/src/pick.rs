//! Which node gets a request: this one, or one of the others. Pure: what is known of the nodes is told to it, time and
//! chance are arguments. Start at [`Balancer::choose`].
//!
//! Of two other nodes, drawn by chance in proportion to their replicas, the one that costs less gets the request: the recent
//! latency of its answers, times what it has to do for each replica ("power of two choices" over "peak EWMA", as Finagle
//! and Linkerd balance). Two are enough to keep away from a bad node, and few enough that not all routers run to the same
//! good one.

use crate::{
    Endpoint, RouteEntry,
    ewma::PeakEwma,
    outlier::{Outlier, Standing},
    sticky,
};
use lattice::id::NodeId;
use std::{collections::BTreeMap, time::Duration};

#[cfg(test)]
mod simulation;

/// A node's own word about its load counts for so long.
const REPORTED_FOR: Duration = Duration::from_secs(15);
/// A node that refused a request has no room for so long.
const FULL_FOR: Duration = Duration::from_secs(1);

/// What one router knows of the nodes that serve one workload.
#[derive(Debug, Clone, Default)]
pub struct Balancer {
    nodes: BTreeMap<NodeId, Known>,
    /// Of the instances of this node.
    here: Outlier,
    /// Nodes that served the workload when one was last picked.
    endpoints: usize,
}

#[derive(Debug, Clone, Default)]
struct Known {
    /// Requests of this router under way there.
    in_flight: u32,
    latency: PeakEwma,
    outlier: Outlier,
    /// Requests of others there, by its own report, and when that came.
    others: Option<(u32, Duration)>,
    full_until: Duration,
}

/// One request's question.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    pub now: Duration,
    /// Uniform.
    pub random: u64,
    /// Not to be picked: they were tried.
    pub tried: &'a [NodeId],
    /// Only to be picked where there is nobody else: they were not there a moment ago.
    pub suspects: &'a [NodeId],
}

/// This node, where it has instances of the workload.
#[derive(Debug, Clone, Copy)]
pub struct Here<'a> {
    pub node: &'a NodeId,
    /// One of them can begin with the request at once.
    pub has_room: bool,
}

/// Another node to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Picked<'a> {
    pub(crate) node: &'a NodeId,
    /// It is there, and its last answers were not only failures.
    is_well: bool,
    /// It is not left out, and can begin with the request at once, as far as is known.
    pub(crate) has_room: bool,
}

/// A node is left out of those that serve the workload from now on, or is among them again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Ejected,
    Returned,
}

/// What became of a request, as far as it says something of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The head of a response came, whatever its status, after so long.
    Answered(Duration),
    /// None came: the node was lost, the time ran out, the component failed.
    Failed(Duration),
    /// Its queue is full.
    Full,
}

impl Balancer {
    /// Here while there is room, else another node that has some, else here in line, else anybody. Where the instances here
    /// only fail, others come first for a while. A node that only fails itself never comes before this one.
    pub fn choose<'a>(&mut self, route: &'a RouteEntry, ask: Ask<'_>, here: Option<Here<'a>>) -> Option<&'a NodeId> {
        let is_out = self.here.standing(ask.now) == Standing::Out;
        if let Some(here) = here.filter(|here| here.has_room && !is_out) {
            return Some(here.node);
        }
        let Some(picked) = self.pick(route, ask) else { return here.map(|here| here.node) };
        let Some(here) = here else { return Some(picked.node) };
        let goes = picked.is_well && (picked.has_room || is_out);
        Some(if goes { picked.node } else { here.node })
    }

    pub(crate) fn pick<'a>(&mut self, route: &'a RouteEntry, ask: Ask<'_>) -> Option<Picked<'a>> {
        self.endpoints = route.endpoints.len();
        let is_new = |endpoint: &Endpoint| !ask.tried.contains(&endpoint.node);
        let is_there = |endpoint: &Endpoint| !endpoint.suspect && !ask.suspects.contains(&endpoint.node);
        // More may have been ejected than half of those that are left now.
        let heed_ejections = 2 * self.ejected() <= self.endpoints;
        let is_well = |endpoint: &Endpoint| {
            let known = self.nodes.get(&endpoint.node);
            !heed_ejections || known.is_none_or(|known| known.outlier.standing(ask.now) != Standing::Out)
        };
        let good = |endpoint: &Endpoint| is_new(endpoint) && is_there(endpoint) && is_well(endpoint);
        if let Some(endpoint) = self.pick_good(route, &ask, good) {
            let is_well = !self.is_failing(endpoint, ask.now);
            let has_room = self.has_room(route, endpoint, ask.now);
            return Some(Picked { node: &endpoint.node, is_well, has_room });
        }
        // Anybody is better than nobody.
        let endpoint = self
            .better_of_two(route, &ask, |endpoint| is_new(endpoint) && !endpoint.suspect)
            .or_else(|| self.better_of_two(route, &ask, is_new))?;
        Some(Picked { node: &endpoint.node, is_well: false, has_room: false })
    }

    /// The node that a client is bound to, of those that are well; `me` is this one with its replicas, if it is among them.
    pub fn pick_bound<'a>(
        &mut self,
        route: &'a RouteEntry,
        ask: Ask<'_>,
        key: u64,
        me: Option<(&'a NodeId, u32)>,
    ) -> Option<&'a NodeId> {
        self.endpoints = route.endpoints.len();
        let is_good = |endpoint: &&Endpoint| {
            let known = self.nodes.get(&endpoint.node);
            let is_there = !endpoint.suspect && !ask.suspects.contains(&endpoint.node);
            let is_out = known.is_some_and(|known| known.outlier.standing(ask.now) == Standing::Out);
            is_there && !is_out && !ask.tried.contains(&endpoint.node)
        };
        let others = route.endpoints.iter().filter(is_good).map(|endpoint| (&endpoint.node, endpoint.slots));
        let me = me.filter(|_| self.here.standing(ask.now) != Standing::Out);
        sticky::highest(key, others.chain(me))
    }

    /// In this zone or in the others, by the share that this zone can carry; in the other part where that has no room, or
    /// only fails.
    fn pick_good<'a>(
        &self,
        route: &'a RouteEntry,
        ask: &Ask<'_>,
        good: impl Fn(&Endpoint) -> bool,
    ) -> Option<&'a Endpoint> {
        let stays = (ask.random >> 48) % 1000 < u64::from(route.spread.near_permille);
        let in_zone = |near: bool| self.better_of_two(route, ask, |endpoint| endpoint.near == near && good(endpoint));
        let is_able =
            |endpoint: &Endpoint| self.has_room(route, endpoint, ask.now) && !self.is_failing(endpoint, ask.now);
        let first = in_zone(stays);
        if first.is_some_and(is_able) {
            return first;
        }
        let second = in_zone(!stays);
        match (first, second) {
            (Some(_), Some(second)) if is_able(second) => Some(second),
            (first, second) => first.or(second),
        }
    }

    fn better_of_two<'a>(
        &self,
        route: &'a RouteEntry,
        ask: &Ask<'_>,
        allowed: impl Fn(&Endpoint) -> bool,
    ) -> Option<&'a Endpoint> {
        // Two parts of one number: enough, since a workload has far fewer than 2^24 replicas.
        const PART: u64 = (1 << 24) - 1;
        let first = draw(&route.endpoints, (ask.random >> 24) & PART, &allowed)?;
        let other = |endpoint: &Endpoint| allowed(endpoint) && endpoint.node != first.node;
        let Some(second) = draw(&route.endpoints, ask.random & PART, other) else { return Some(first) };
        Some(if self.is_cheaper(second, first, ask.now) { second } else { first })
    }

    fn is_failing(&self, endpoint: &Endpoint, now: Duration) -> bool {
        self.nodes.get(&endpoint.node).is_some_and(|known| known.outlier.is_failing(now))
    }

    fn is_cheaper(&self, one: &Endpoint, other: &Endpoint, now: Duration) -> bool {
        // One that only fails may be fast at it.
        match (self.is_failing(one, now), self.is_failing(other, now)) {
            (true, false) => return false,
            (false, true) => return true,
            _ => {}
        }
        let latency = |endpoint: &Endpoint| self.nodes.get(&endpoint.node).and_then(|known| known.latency.read(now));
        // One that is not known yet is thought of like the other: neither shunned nor run to.
        let (mine, yours) = match (latency(one), latency(other)) {
            (Some(mine), Some(yours)) => (mine, yours),
            (mine, yours) => {
                let either = mine.or(yours).unwrap_or(1.0);
                (either, either)
            }
        };
        // One more than is there: the one that it is about.
        let work = |endpoint: &Endpoint| f64::from(self.load(&endpoint.node, now).saturating_add(1));
        // Cost is latency times work for each replica; compared without dividing.
        mine * work(one) * f64::from(other.slots) < yours * work(other) * f64::from(one.slots)
    }

    /// Requests there, of this router and of others.
    fn load(&self, node: &NodeId, now: Duration) -> u32 {
        let Some(known) = self.nodes.get(node) else { return 0 };
        let others = known.others.filter(|(_, at)| now.saturating_sub(*at) < REPORTED_FOR);
        known.in_flight.saturating_add(others.map_or(0, |(others, _)| others))
    }

    fn has_room(&self, route: &RouteEntry, endpoint: &Endpoint, now: Duration) -> bool {
        let is_full = self.nodes.get(&endpoint.node).is_some_and(|known| now < known.full_until);
        !is_full && self.load(&endpoint.node, now) < endpoint.slots.saturating_mul(route.spread.seats)
    }

    /// A request is sent to a node. To be followed by one [`Balancer::end`], and before that by [`Balancer::learn`] where
    /// it says something of the node. True if it tries a node that was left out.
    pub fn begin(&mut self, node: &NodeId, now: Duration) -> bool {
        let known = self.nodes.entry(node.clone()).or_default();
        known.in_flight = known.in_flight.saturating_add(1);
        known.outlier.begin(now)
    }

    pub fn learn(&mut self, node: &NodeId, now: Duration, outcome: Outcome) -> Option<Change> {
        let may_eject = 2 * (self.ejected() + 1) <= self.endpoints;
        let known = self.nodes.get_mut(node)?;
        let was_out = known.outlier.is_ejected();
        match outcome {
            Outcome::Answered(took) => {
                known.latency.observe(now, took);
                known.outlier.succeed(now);
            }
            Outcome::Failed(took) => {
                // To fail fast is not to be fast.
                let usual = known.latency.read(now).map_or(Duration::ZERO, Duration::from_secs_f64);
                known.latency.observe(now, took.max(usual));
                known.outlier.fail(now, may_eject);
            }
            Outcome::Full => known.full_until = now.saturating_add(FULL_FOR),
        }
        change(was_out, known.outlier.is_ejected())
    }

    /// A request is sent to an instance here. True if it tries them after they were left out; then [`Balancer::end_here`]
    /// is to follow.
    pub fn begin_here(&mut self, now: Duration) -> bool {
        self.here.begin(now)
    }

    /// What became of a request that an instance here got. Others are asked in their place only where there are others, so
    /// that nothing depends on how many are left.
    pub fn learn_here(&mut self, now: Duration, is_answered: bool) -> Option<Change> {
        let was_out = self.here.is_ejected();
        match is_answered {
            true => self.here.succeed(now),
            false => self.here.fail(now, true),
        }
        change(was_out, self.here.is_ejected())
    }

    /// The request that tried the instances here is over.
    pub fn end_here(&mut self) {
        self.here.end_trial();
    }

    /// Whether the last request to an instance here was answered, as far as is known.
    pub fn is_well_here(&self) -> bool {
        self.here.is_well()
    }

    /// Other nodes that are left out.
    pub fn ejected(&self) -> usize {
        self.nodes.values().filter(|known| known.outlier.is_ejected()).count()
    }

    /// Whether the instances of this node are.
    pub fn is_ejected_here(&self) -> bool {
        self.here.is_ejected()
    }

    /// Nothing of the request is under way there any more.
    pub fn end(&mut self, node: &NodeId, is_trial: bool) {
        let Some(known) = self.nodes.get_mut(node) else { return };
        known.in_flight = known.in_flight.saturating_sub(1);
        if is_trial {
            known.outlier.end_trial();
        }
    }

    /// A node says how many requests of this workload it has, those of this router among them.
    pub fn report(&mut self, node: &NodeId, busy: u32, now: Duration) {
        let known = self.nodes.entry(node.clone()).or_default();
        known.others = Some((busy.saturating_sub(known.in_flight), now));
    }

    /// Nothing is known of any node.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.here == Outlier::default()
    }

    /// Forget the nodes that serve the workload no more.
    pub fn retain(&mut self, endpoints: &[Endpoint], is_here: bool) {
        // Sorted by node.
        let serves = |node: &NodeId| endpoints.binary_search_by(|endpoint| endpoint.node.cmp(node)).is_ok();
        self.nodes.retain(|node, known| known.in_flight > 0 || serves(node));
        if !is_here {
            self.here = Outlier::default();
        }
    }
}

fn change(was_out: bool, is_out: bool) -> Option<Change> {
    match (was_out, is_out) {
        (false, true) => Some(Change::Ejected),
        (true, false) => Some(Change::Returned),
        _ => None,
    }
}

fn draw(endpoints: &[Endpoint], random: u64, allowed: impl Fn(&Endpoint) -> bool) -> Option<&Endpoint> {
    let candidates = || endpoints.iter().filter(|endpoint| allowed(endpoint));
    let total: u64 = candidates().map(|endpoint| u64::from(endpoint.slots)).sum();
    let mut left = random.checked_rem(total)?;
    candidates().find(|endpoint| match left.checked_sub(u64::from(endpoint.slots)) {
        Some(rest) => {
            left = rest;
            false
        }
        None => true,
    })
}
