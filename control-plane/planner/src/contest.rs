//! Which node is better for the replicas of one workload. What does not change between two of its vacancies is found out
//! once: that is most of the work where both nodes and vacancies are many.

mod ranking;

pub(crate) use ranking::Ranking;
pub use ranking::Score;

use crate::{
    gpus::{Attempts, Fit},
    ledger::{Ledger, Need},
    nodes::{Nodes, Place},
    rules::{self, Reason},
};
use lattice::{
    id::{NodeId, WorkloadName},
    record::SpecRecord,
    spec::{GpuClaim, GpuSpec, Placement, Relation, Requirement, Toleration, WorkloadSpec},
};
use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

/// The nodes that no rule about nodes alone keeps a workload from.
pub(crate) struct Entrants {
    list: Vec<Place>,
    is_in: Vec<bool>,
}

/// What a workload asks of a node alone.
type Asked<'a> = (&'a [Requirement], &'a [Toleration], Option<&'a NodeId>, &'a BTreeSet<String>);
/// What makes groups of them: preferences, and the labels of rules about its own replicas, with whether they must be there.
type Divided<'a> = (Vec<(&'a Requirement, u32)>, Vec<(&'a str, bool)>);

/// What contests of one walk have in common: workloads that ask the same of nodes have the same entrants, in the same
/// groups.
#[derive(Default)]
pub(crate) struct Shared<'a> {
    entrants: BTreeMap<Asked<'a>, Rc<Entrants>>,
    groupings: BTreeMap<(Asked<'a>, Divided<'a>), Rc<Grouping>>,
}

fn asked(record: &SpecRecord) -> Option<Asked<'_>> {
    let SpecRecord { spec, recipe, .. } = record;
    let Placement { require, tolerate, node, .. } = &spec.placement;
    // Volumes and claims on GPUs are too seldom the same to be compared.
    (spec.volumes.is_empty() && spec.gpu.is_none()).then_some((require, tolerate, node.as_ref(), &recipe.needs))
}

impl<'a> Shared<'a> {
    fn entrants(&mut self, nodes: &Nodes, record: &'a SpecRecord) -> Rc<Entrants> {
        if let Some(known) = asked(record).and_then(|asked| self.entrants.get(&asked)) {
            return known.clone();
        }
        let mut entrants = Entrants { list: Vec::new(), is_in: vec![false; nodes.len()] };
        for (place, account, session) in nodes.live() {
            if rules::refuses(account, session, record).is_none() {
                entrants.list.push(place);
                entrants.is_in.get_mut(place).into_iter().for_each(|is_in| *is_in = true);
            }
        }
        let entrants = Rc::new(entrants);
        if let Some(asked) = asked(record) {
            self.entrants.insert(asked, entrants.clone());
        }
        entrants
    }
}

/// How entrants differ in what does not change while a contest lasts.
#[derive(Default)]
struct Grouping {
    groups: Vec<Group>,
    /// Group of each entrant, by place. Empty where there is one group.
    group_of: Vec<usize>,
    /// Of each rule about the workload's own replicas.
    domains: Vec<Domains>,
}

/// The values of a label that entrants have, and by place which one each node has.
struct Domains {
    values: BTreeMap<String, usize>,
    of: Vec<Option<usize>>,
}

impl Domains {
    fn new(nodes: &Nodes, entrants: &Entrants, over: &str) -> Self {
        let label = |place: Place| nodes.session(place)?.label(over);
        let mut values: BTreeMap<String, usize> = BTreeMap::new();
        for value in entrants.list.iter().filter_map(|place| label(*place)) {
            if !values.contains_key(value) {
                values.insert(value.to_owned(), 0);
            }
        }
        values.values_mut().zip(0..).for_each(|(index, next)| *index = next);
        let of = (0..nodes.len()).map(|place| values.get(label(place)?).copied()).collect();
        Self { values, of }
    }

    fn of(&self, place: Place) -> Option<usize> {
        self.of.get(place).copied().flatten()
    }
}

/// Where other replicas are, as far as a workload's rules ask.
#[derive(Default)]
pub(crate) struct Neighbours<'a> {
    /// How many replicas the workload is to have.
    pub(crate) wanted: u32,
    /// Places of the workload's own replicas, once for each.
    pub(crate) own: Vec<Place>,
    /// Nodes on which a replica of the newest generation failed.
    pub(crate) failed: BTreeSet<Place>,
    /// Places of the replicas of workloads that it names.
    pub(crate) named: BTreeMap<&'a WorkloadName, Vec<Place>>,
    /// Workloads that keep this one away, with the label that says what is close.
    pub(crate) repelled: Vec<(&'a WorkloadName, &'a str)>,
}

/// One workload's vacancies and the nodes that compete for them.
pub(crate) struct Contest<'n, 'a> {
    nodes: &'n Nodes,
    record: &'a SpecRecord,
    needed: Need,
    /// What it asks of a GPU; nothing where it asks for none.
    attempts: Vec<(GpuClaim, bool)>,
    entrants: Rc<Entrants>,
    failed: BTreeSet<Place>,
    /// By place, whether what it runs is compiled there. Empty where that is so nowhere.
    warm: Vec<bool>,
    /// Replicas of this workload, by place.
    replicas: Vec<u32>,
    /// Most of them on one node; and the fewest on one that may have room. What has none gets none again: bookings only
    /// add up while the contest lasts.
    most: u32,
    least: Cell<u32>,
    /// No node can take another one.
    over: Cell<bool>,
    relations: Vec<Other<'n>>,
    moving: Vec<Moving>,
    grouping: Rc<Grouping>,
}

/// A relation to another workload, which does not move while the contest lasts.
struct Other<'n> {
    workload: WorkloadName,
    over: String,
    near: bool,
    hard: bool,
    weight: u64,
    /// Values of the label that its replicas have.
    values: BTreeSet<&'n str>,
}

/// A rule about the workload's own replicas: each that is placed counts for the next.
struct Moving {
    rule: OwnRule,
    over: String,
    hard: bool,
    /// By value of the label.
    counts: Vec<u32>,
    /// Most replicas that each value should have, where that is known from the beginning.
    quotas: Option<Vec<u32>>,
}

enum OwnRule {
    Spread { max_skew: u32 },
    Near { weight: u64 },
    Apart { weight: u64 },
}

/// Nodes between which no rule but fullness and chance decides.
struct Group {
    /// Weights of the preferences and relations that they miss.
    missed: u64,
    /// Index of the value of each [`Moving`], if they have the label.
    domains: Vec<Option<usize>>,
    members: Vec<Place>,
}

/// What a spec says about its own replicas, near (true) or apart.
fn own_relations(spec: &WorkloadSpec) -> impl Iterator<Item = (bool, &Relation)> {
    let near = spec.placement.near.iter().map(|near| (true, near));
    let all = near.chain(spec.placement.apart.iter().map(|apart| (false, apart)));
    all.filter(|(_, relation)| relation.workload == spec.name)
}

/// The rules about its own replicas: spreads, then relations.
fn moving(spec: &WorkloadSpec) -> Vec<Moving> {
    let new = |rule, over: &str, hard| Moving { rule, over: over.into(), hard, counts: Vec::new(), quotas: None };
    let spreads = spec.placement.spread.iter();
    let spreads = spreads.map(|spread| new(OwnRule::Spread { max_skew: spread.max_skew }, &spread.over, spread.hard));
    let own = own_relations(spec).map(|(near, relation)| {
        let weight = u64::from(relation.weight);
        let rule = if near { OwnRule::Near { weight } } else { OwnRule::Apart { weight } };
        new(rule, &relation.over, relation.hard)
    });
    spreads.chain(own).collect()
}

/// What it says about other workloads, and what they say about it.
fn relations<'n>(nodes: &'n Nodes, spec: &WorkloadSpec, neighbours: &Neighbours<'_>) -> Vec<Other<'n>> {
    let other = |workload: &WorkloadName, over: &str, near: bool, hard: bool, weight: u32| {
        let places = neighbours.named.get(workload).into_iter().flatten();
        let values = places.filter_map(|place| nodes.session(*place)?.label(over)).collect();
        Other { workload: workload.clone(), over: over.to_owned(), near, hard, weight: weight.into(), values }
    };
    let near = spec.placement.near.iter().map(|near| (true, near));
    let asked = near.chain(spec.placement.apart.iter().map(|apart| (false, apart)));
    let asked = asked.filter(|(_, relation)| relation.workload != spec.name);
    let asked =
        asked.map(|(near, relation)| other(&relation.workload, &relation.over, near, relation.hard, relation.weight));
    let repelled = neighbours.repelled.iter().map(|(workload, over)| other(workload, over, false, true, 0));
    asked.chain(repelled).collect()
}

/// What a group costs now: by how many replicas its values would be too full, and the weights of what it misses.
type Cost = (u64, u64);

/// A soft spread over a label that the node does not have.
const UNSPREAD: u64 = 1 << 20;

/// Of the counts of all values of a label.
#[derive(Clone, Copy)]
struct Extremes {
    fewest: u32,
    most: u32,
}

/// Why a group may not take a replica now.
struct Barred {
    moving: usize,
    count: u32,
    most: u32,
}

impl Moving {
    fn extremes(&self) -> Extremes {
        let extreme = |count: Option<&u32>| count.copied().unwrap_or(0);
        Extremes { fewest: extreme(self.counts.iter().min()), most: extreme(self.counts.iter().max()) }
    }

    /// How much the rule minds one more replica of the value: none, or by how much and for what.
    fn minds(&self, domain: Option<usize>, Extremes { fewest, most }: Extremes) -> Result<Cost, (u32, u32)> {
        let count = domain.and_then(|domain| self.counts.get(domain)).copied().unwrap_or(0);
        match self.rule {
            OwnRule::Spread { max_skew } => {
                let Some(domain) = domain else { return Ok((UNSPREAD, 0)) };
                let base = self.quotas.as_ref().map(|quotas| quotas.get(domain).copied().unwrap_or(0));
                let most = match base {
                    Some(0) => 0,
                    Some(quota) => quota.saturating_add(max_skew - 1),
                    None => fewest.saturating_add(max_skew),
                };
                let excess = (count + 1).saturating_sub(most);
                if self.hard && excess > 0 { Err((count, most)) } else { Ok((excess.into(), 0)) }
            }
            OwnRule::Near { weight } => {
                let is_lonely = count == 0 && most > 0;
                if self.hard && is_lonely { Err((count, 0)) } else { Ok((0, if is_lonely { weight } else { 0 })) }
            }
            OwnRule::Apart { weight } => {
                if self.hard && count > 0 {
                    Err((count, 0))
                } else {
                    Ok((0, if count > 0 { weight } else { 0 }))
                }
            }
        }
    }
}

/// How many replicas each value gets: the whole part of its share, and what is left goes to the largest remainders.
fn quotas(values: &BTreeMap<String, usize>, shares: &BTreeMap<String, u32>, replicas: u32) -> Vec<u32> {
    let share = |value: &str| u64::from(shares.get(value).copied().unwrap_or(0));
    // A value that no node has gets nothing, and the others what is left of it.
    let total: u64 = values.keys().map(|value| share(value)).sum();
    let mut quotas = vec![0; values.len()];
    if total == 0 {
        return quotas;
    }
    let mut remainders = Vec::new();
    let mut left = replicas;
    for (value, index) in values {
        let exact = u64::from(replicas) * share(value);
        let whole = u32::try_from(exact / total).unwrap_or(u32::MAX);
        quotas.get_mut(*index).into_iter().for_each(|quota| *quota = whole);
        left = left.saturating_sub(whole);
        remainders.push((std::cmp::Reverse(exact % total), value, *index));
    }
    remainders.sort_unstable();
    for (.., index) in remainders.into_iter().take(left as usize) {
        quotas.get_mut(index).into_iter().for_each(|quota| *quota += 1);
    }
    quotas
}

impl<'n, 'a> Contest<'n, 'a> {
    pub(crate) fn new(
        nodes: &'n Nodes,
        record: &'a SpecRecord,
        neighbours: &Neighbours<'_>,
        shared: &mut Shared<'a>,
    ) -> Self {
        let spec = &record.spec;
        let entrants = shared.entrants(nodes, record);
        let mut replicas = vec![0; nodes.len()];
        for place in &neighbours.own {
            replicas.get_mut(*place).into_iter().for_each(|count| *count += 1);
        }
        let most = neighbours.own.iter().filter_map(|place| replicas.get(*place)).max().copied().unwrap_or(0);
        let mut contest = Self {
            nodes,
            record,
            needed: Need::of(spec),
            attempts: spec.gpu.as_ref().map(GpuSpec::attempts).unwrap_or_default(),
            entrants,
            failed: neighbours.failed.clone(),
            warm: nodes.warm(record.runs().digests()),
            replicas,
            most,
            least: Cell::new(0),
            over: Cell::new(false),
            relations: relations(nodes, spec, neighbours),
            moving: moving(spec),
            grouping: Rc::default(),
        };
        contest.grouping = contest.divide(shared);
        let grouping = contest.grouping.clone();
        let spreads = spec.placement.spread.iter().map(Some).chain(std::iter::repeat(None));
        for ((moving, domains), spread) in contest.moving.iter_mut().zip(&grouping.domains).zip(spreads) {
            moving.counts = vec![0; domains.values.len()];
            for place in &neighbours.own {
                let index = domains.of(*place);
                index.and_then(|index| moving.counts.get_mut(index)).into_iter().for_each(|count| *count += 1);
            }
            let shares = spread.map(|spread| &spread.shares).filter(|shares| !shares.is_empty());
            moving.quotas = shares.map(|shares| quotas(&domains.values, shares, neighbours.wanted));
        }
        contest
    }

    /// Put entrants that differ in nothing but fullness into one group; those that a relation keeps out, into none.
    fn divide(&self, shared: &mut Shared<'a>) -> Rc<Grouping> {
        let prefer = &self.spec().placement.prefer;
        // What is left of GPUs differs from node to node, so nodes that are equally full are not equal.
        let is_plain = self.attempts.is_empty();
        if is_plain && self.relations.is_empty() && self.moving.is_empty() && prefer.is_empty() {
            return Rc::default();
        }
        // Where other workloads are, is another thing for each.
        let key = asked(self.record).filter(|_| self.relations.is_empty()).map(|asked| {
            let spreads = self.spec().placement.spread.iter().map(|spread| (spread.over.as_str(), spread.hard));
            let own = own_relations(self.spec()).map(|(_, relation)| (relation.over.as_str(), false));
            let prefer = prefer.iter().map(|preference| (&preference.label, preference.weight));
            (asked, (prefer.collect(), spreads.chain(own).collect()))
        });
        if let Some(known) = key.as_ref().and_then(|key| shared.groupings.get(key)) {
            return known.clone();
        }
        let new_domains = |moving: &Moving| Domains::new(self.nodes, &self.entrants, &moving.over);
        let domains: Vec<Domains> = self.moving.iter().map(new_domains).collect();
        let mut members: BTreeMap<(u64, Vec<Option<usize>>), Vec<Place>> = BTreeMap::new();
        for place in &self.entrants.list {
            if self.estranged(*place).is_none() {
                let values = domains.iter().map(|domains| domains.of(*place)).collect();
                members.entry((self.missed(*place), values)).or_default().push(*place);
            }
        }
        let mut grouping = Grouping { groups: Vec::new(), group_of: vec![usize::MAX; self.nodes.len()], domains };
        for ((missed, domains), members) in members {
            for place in &members {
                let group = grouping.groups.len();
                grouping.group_of.get_mut(*place).into_iter().for_each(|at| *at = group);
            }
            grouping.groups.push(Group { missed, domains, members });
        }
        let grouping = Rc::new(grouping);
        if let Some(key) = key {
            shared.groupings.insert(key, grouping.clone());
        }
        grouping
    }

    fn spec(&self) -> &'a WorkloadSpec {
        &self.record.spec
    }

    fn label(&self, place: Place, over: &str) -> Option<&'n str> {
        self.nodes.session(place)?.label(over)
    }

    /// The hard relation to another workload that a node breaks, or the label that it lacks for a hard spread.
    fn estranged(&self, place: Place) -> Option<Reason> {
        for other in self.relations.iter().filter(|other| other.hard) {
            let value = self.label(place, &other.over);
            let (workload, over) = (other.workload.clone(), other.over.clone());
            match (value, other.is_kept(value)) {
                (_, true) => {}
                (Some(value), false) if !other.near => {
                    return Some(Reason::Apart { workload, over, value: value.into() });
                }
                (value, false) => return Some(Reason::Near { workload, over, value: value.map(Into::into) }),
            }
        }
        let lacks = |moving: &&Moving| {
            moving.hard && matches!(moving.rule, OwnRule::Spread { .. }) && self.label(place, &moving.over).is_none()
        };
        self.moving.iter().find(lacks).map(|moving| Reason::Unspread { over: moving.over.clone() })
    }

    /// The weights of the preferences and soft relations to others that a node misses.
    fn missed(&self, place: Place) -> u64 {
        let Some(session) = self.nodes.session(place) else { return u64::MAX };
        let preferences = self.spec().placement.prefer.iter();
        let preferences = preferences.filter(|preference| !preference.label.holds(&session.labels));
        let soft = self.relations.iter().filter(|other| !other.hard);
        let relations = soft.filter(|other| !other.is_kept(session.label(&other.over)));
        preferences.map(|preference| u64::from(preference.weight)).chain(relations.map(|other| other.weight)).sum()
    }

    /// Of each rule about the workload's own replicas. They are scanned once for all groups, of which there may be as many
    /// as values.
    fn extremes(&self) -> Vec<Extremes> {
        self.moving.iter().map(Moving::extremes).collect()
    }

    fn cost(&self, group: &Group, extremes: &[Extremes]) -> Result<Cost, Barred> {
        let mut cost = (0, group.missed);
        for (moving, ((rule, domain), extremes)) in self.moving.iter().zip(&group.domains).zip(extremes).enumerate() {
            let (spread, missed) =
                rule.minds(*domain, *extremes).map_err(|(count, most)| Barred { moving, count, most })?;
            cost = (cost.0 + spread, cost.1 + missed);
        }
        Ok(cost)
    }

    /// Count a replica that was booked on a node.
    pub(crate) fn take(&mut self, place: Place) {
        if let Some(replicas) = self.replicas.get_mut(place) {
            *replicas += 1;
            self.most = self.most.max(*replicas);
        }
        for (moving, domains) in self.moving.iter_mut().zip(&self.grouping.domains) {
            let index = domains.of(place);
            index.and_then(|index| moving.counts.get_mut(index)).into_iter().for_each(|count| *count += 1);
            // What an even spread refused it may allow now.
            self.over.set(false);
        }
    }

    fn is_before(&self, place: Place, other: Place) -> bool {
        self.nodes.id(place) < self.nodes.id(other)
    }

    /// Whether what it runs has to be fetched and compiled there.
    fn is_cold(&self, place: Place) -> bool {
        self.warm.get(place) != Some(&true)
    }

    pub(crate) fn needed(&self) -> Need {
        self.needed
    }

    pub(crate) fn attempts(&self) -> &Attempts {
        &self.attempts
    }

    /// What a replica would have of a node's GPU, where it asks for one.
    pub(crate) fn fit(&self, ledger: &Ledger, place: Place) -> Option<Fit> {
        if self.attempts.is_empty() { None } else { ledger.gpus.fit(place, &self.attempts) }
    }
}

impl Other<'_> {
    fn is_kept(&self, value: Option<&str>) -> bool {
        value.is_some_and(|value| self.values.contains(value)) == self.near
    }
}
