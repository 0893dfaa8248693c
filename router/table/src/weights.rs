//! How a workload's requests are shared out between what its replicas run, while what is new comes by weight. Decided before
//! a node is picked, so neither the numbers of replicas nor where they are change the shares; and from records that all
//! routers see, so that they agree without a word.

use crate::{Endpoint, RouteEntry, Spread, endpoints, sticky::mix, zone};
use http::HeaderMap;
use lattice::{
    id::{Generation, NodeId},
    record::{Among, SpecRecord, Weighed},
    spec::PreviewSpec,
    view::LatticeView,
};
use std::sync::Arc;

/// The two parts of a workload's replicas, and how many of a hundred requests the first one gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    percent: u32,
    salt: u64,
    preview: Option<PreviewSpec>,
    with: Arc<RouteEntry>,
    without: Arc<RouteEntry>,
}

impl RouteEntry {
    /// The replicas that a request goes to. `lot` is a uniform number, the same for requests of a client that is bound to a
    /// replica: as long as the shares stay as they are it stays with what it has, and where what is new gets more, clients go
    /// over to it and none comes back. A part where nobody is, or among those that were asked in vain, leaves its requests to
    /// the other one.
    pub fn weigh(self: &Arc<Self>, lot: u64, in_vain: &[Among]) -> &Arc<RouteEntry> {
        let Some(Weights { percent, salt, with, without, .. }) = self.weights.as_deref() else { return self };
        let is_with = mix(lot ^ salt) % 100 < u64::from(*percent);
        let (drawn, other) = if is_with { (with, without) } else { (without, with) };
        let is_new = |part: &RouteEntry| part.among.is_none_or(|among| !in_vain.contains(&among));
        let is_there = |part: &RouteEntry| part.local_slots > 0 || part.endpoints.iter().any(|one| !one.suspect);
        let has_some = |part: &RouteEntry| part.local_slots > 0 || !part.endpoints.is_empty();
        let parts = [drawn, other];
        let find = |allowed: &dyn Fn(&RouteEntry) -> bool| parts.into_iter().find(|part| allowed(part));
        find(&|part| is_new(part) && is_there(part))
            .or_else(|| find(&|part| is_new(part) && has_some(part)))
            .unwrap_or(drawn)
    }

    /// The replicas that are `among` these, where requests are shared out to them; all of them for `None`.
    pub fn part(&self, among: Option<Among>) -> Option<&RouteEntry> {
        if self.among == among {
            return Some(self);
        }
        let weights = self.weights.as_deref()?;
        [&weights.with, &weights.without].into_iter().find(|part| part.among == among).map(|part| &**part)
    }

    /// Where a request goes that asks for what is new: there, or nowhere.
    pub fn previewed(&self, headers: &HeaderMap) -> Option<&Arc<RouteEntry>> {
        let weights = self.weights.as_deref()?;
        let preview = weights.preview.as_ref()?;
        let value = headers.get(preview.header.name())?;
        (value.as_bytes() == preview.value.as_bytes()).then_some(&weights.with)
    }

    /// The same where the parts of its weights say of label, limits and rule what it says itself.
    pub(crate) fn with_own_weights(self) -> Self {
        let Some(weights) = self.weights.as_deref() else { return self };
        let own = |part: &RouteEntry| part_of(&self, part.among, part.local_slots, part.endpoints.clone(), part.spread);
        let (with, without) = (own(&weights.with), own(&weights.without));
        let weights = Weights { with, without, ..weights.clone() };
        Self { weights: Some(Arc::new(weights)), ..self }
    }
}

/// `entry` is the workload's own, without weights.
pub(crate) fn of(view: &LatticeView, record: &SpecRecord, me: &NodeId, entry: &RouteEntry) -> Option<Arc<Weights>> {
    let Weighed { template, percent } = record.weighed(view.rollout(&record.spec.name))?;
    let part = |among| {
        let (local_slots, endpoints) = endpoints(view, record, me, Some(among));
        let near_permille = zone::near_permille(view, me, local_slots, &endpoints);
        part_of(entry, Some(among), local_slots, endpoints, Spread { near_permille, ..entry.spread })
    };
    let (with, without) = (part(Among::With(template)), part(Among::Without(template)));
    // What was given up, and no replica runs any more, is nothing that requests must be kept from.
    let is_over = record.stable.is_none() && with.local_slots == 0 && with.endpoints.is_empty();
    // Nobody asks for what was given up.
    let preview = record.spec.rollout.preview.clone().filter(|_| template == record.template());
    (!is_over).then(|| Arc::new(Weights { percent, salt: salt(template), preview, with, without }))
}

fn part_of(
    entry: &RouteEntry,
    among: Option<Among>,
    local_slots: u32,
    endpoints: Arc<[Endpoint]>,
    spread: Spread,
) -> Arc<RouteEntry> {
    Arc::new(RouteEntry {
        among,
        local_slots,
        endpoints,
        spread,
        weights: None,
        shares: Arc::default(),
        ..entry.clone()
    })
}

/// Not the same clients come first each time. It must never change: nodes of several versions have to agree.
fn salt(template: Generation) -> u64 {
    mix(template.0.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}
