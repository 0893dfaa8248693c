//! Which node gets a request that this node can't answer itself.

use crate::{Endpoint, RouteEntry};
use lattice::id::NodeId;

impl RouteEntry {
    /// Power of two choices: of two different nodes, drawn in proportion to their replicas, the one with less load for each
    /// replica. Suspect nodes are drawn only when all others are excluded. `random` is one uniform number.
    pub fn pick(&self, load: impl Fn(&NodeId) -> u32, random: u64, exclude: &[NodeId]) -> Option<&NodeId> {
        let trusted =
            draw_two(&self.endpoints, random, |endpoint| !endpoint.suspect && !exclude.contains(&endpoint.node));
        let (first, second) = match trusted {
            Some(pair) => pair,
            None => draw_two(&self.endpoints, random, |endpoint| !exclude.contains(&endpoint.node))?,
        };
        let Some(second) = second else { return Some(&first.node) };
        // load / slots, compared without dividing.
        let weighed = |one: &Endpoint, other: &Endpoint| u64::from(load(&one.node)) * u64::from(other.slots);
        let better = if weighed(second, first) < weighed(first, second) { second } else { first };
        Some(&better.node)
    }
}

/// One endpoint, and another one if there is another.
fn draw_two(
    endpoints: &[Endpoint],
    random: u64,
    allowed: impl Fn(&Endpoint) -> bool,
) -> Option<(&Endpoint, Option<&Endpoint>)> {
    // Two halves of one number: enough, since a workload has far fewer than 2^32 replicas.
    let first = draw(endpoints, random >> 32, &allowed)?;
    let second =
        draw(endpoints, random & u64::from(u32::MAX), |endpoint| allowed(endpoint) && endpoint.node != first.node);
    Some((first, second))
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
