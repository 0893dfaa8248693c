//! Which node is better for the replicas of one workload. What does not change between two of its vacancies is found out
//! once: that is most of the work where both nodes and vacancies are many.

use crate::{
    hash::meet,
    ledger::{Ledger, Load},
    nodes::{Nodes, Place},
    rules::{self, Reason},
};
use lattice::{
    id::{NodeId, WorkloadName},
    spec::{Relation, Requirement, Spread, Toleration, WorkloadSpec},
};
use std::{
    cell::Cell,
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

/// Ranks up to this one are exact. All that matters further behind is that each node has one of its own.
pub(crate) const EXACT_RANKS: u32 = 32;

/// The nodes that no rule about nodes alone keeps a workload from.
pub(crate) struct Entrants {
    list: Vec<Place>,
    is_in: Vec<bool>,
}

/// What a workload asks of a node alone.
type Asked<'a> = (&'a [Requirement], &'a [Toleration], Option<&'a NodeId>);

/// Workloads that ask the same of a node have the same entrants.
#[derive(Default)]
pub(crate) struct EntrantsCache<'a>(BTreeMap<Asked<'a>, Rc<Entrants>>);

impl<'a> EntrantsCache<'a> {
    pub(crate) fn of(&mut self, nodes: &Nodes, spec: &'a WorkloadSpec) -> Rc<Entrants> {
        let key = (spec.placement.require.as_slice(), spec.placement.tolerate.as_slice(), spec.placement.node.as_ref());
        let is_shared = spec.volumes.is_empty();
        if let Some(known) = self.0.get(&key).filter(|_| is_shared) {
            return known.clone();
        }
        let mut entrants = Entrants { list: Vec::new(), is_in: vec![false; nodes.len()] };
        for (place, account, session) in nodes.live() {
            if rules::refuses(account, session, spec).is_none() {
                entrants.list.push(place);
                entrants.is_in.get_mut(place).into_iter().for_each(|is_in| *is_in = true);
            }
        }
        let entrants = Rc::new(entrants);
        if is_shared {
            self.0.insert(key, entrants.clone());
        }
        entrants
    }
}

/// Where other replicas are, as far as a workload's rules ask.
#[derive(Default)]
pub(crate) struct Neighbours<'a> {
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
    spec: &'a WorkloadSpec,
    needed: u64,
    entrants: Rc<Entrants>,
    failed: BTreeSet<Place>,
    /// Replicas of this workload, by place.
    replicas: Vec<u32>,
    /// Most of them on one node; and the fewest on one that may have room. What has none gets none again: bookings only
    /// add up while the contest lasts.
    most: u32,
    least: Cell<u32>,
    over: Cell<bool>,
    relations: Vec<Other<'n>>,
    moving: Vec<Moving<'n>>,
    groups: Vec<Group>,
    /// Group of each entrant, by place. Empty where there is one group.
    group_of: Vec<usize>,
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
struct Moving<'n> {
    rule: OwnRule,
    over: String,
    hard: bool,
    /// Of the values that entrants have.
    values: BTreeMap<&'n str, usize>,
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

/// What a group costs now: by how many replicas its values would be too full, and the weights of what it misses.
type Cost = (u64, u64);

/// A soft spread over a label that the node does not have.
const UNSPREAD: u64 = 1 << 20;

/// Why a group may not take a replica now.
struct Barred {
    moving: usize,
    count: u32,
    most: u32,
}

impl<'n> Moving<'n> {
    /// How much the rule minds one more replica of the value: none, or by how much and for what.
    fn minds(&self, domain: Option<usize>) -> Result<Cost, (u32, u32)> {
        let count = domain.and_then(|domain| self.counts.get(domain)).copied().unwrap_or(0);
        match self.rule {
            OwnRule::Spread { max_skew } => {
                let Some(domain) = domain else { return Ok((UNSPREAD, 0)) };
                let fewest = || self.counts.iter().min().copied().unwrap_or(0);
                let base = self.quotas.as_ref().map(|quotas| quotas.get(domain).copied().unwrap_or(0));
                let most = match base {
                    Some(0) => 0,
                    Some(quota) => quota.saturating_add(max_skew - 1),
                    None => fewest().saturating_add(max_skew),
                };
                let excess = (count + 1).saturating_sub(most);
                if self.hard && excess > 0 { Err((count, most)) } else { Ok((excess.into(), 0)) }
            }
            OwnRule::Near { weight } => {
                let is_lonely = count == 0 && self.counts.iter().any(|count| *count > 0);
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
fn quotas(values: &BTreeMap<&str, usize>, shares: &BTreeMap<String, u32>, replicas: u32) -> Vec<u32> {
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
        remainders.push((std::cmp::Reverse(exact % total), *value, *index));
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
        spec: &'a WorkloadSpec,
        entrants: Rc<Entrants>,
        neighbours: &Neighbours<'_>,
    ) -> Self {
        let mut replicas = vec![0; nodes.len()];
        for place in &neighbours.own {
            replicas.get_mut(*place).into_iter().for_each(|count| *count += 1);
        }
        let label = |place: Place, over: &str| -> Option<&'n str> { nodes.session(place)?.label(over) };
        let placement = &spec.placement;
        let mut relations = Vec::new();
        let mut add = |workload: &WorkloadName, over: &str, near: bool, hard: bool, weight: u32| {
            let places = neighbours.named.get(workload).into_iter().flatten();
            let values = places.filter_map(|place| label(*place, over)).collect();
            let (workload, over) = (workload.clone(), over.to_owned());
            relations.push(Other { workload, over, near, hard, weight: weight.into(), values });
        };
        let mut own_rules: Vec<(OwnRule, &str, bool, Option<&Spread>)> = Vec::new();
        for spread in &placement.spread {
            own_rules.push((OwnRule::Spread { max_skew: spread.max_skew }, &spread.over, spread.hard, Some(spread)));
        }
        for (near, Relation { workload, over, hard, weight }) in
            placement.near.iter().map(|near| (true, near)).chain(placement.apart.iter().map(|apart| (false, apart)))
        {
            if *workload != spec.name {
                add(workload, over, near, *hard, *weight);
                continue;
            }
            let weight = u64::from(*weight);
            let rule = if near { OwnRule::Near { weight } } else { OwnRule::Apart { weight } };
            own_rules.push((rule, over, *hard, None));
        }
        for (workload, over) in &neighbours.repelled {
            add(workload, over, false, true, 0);
        }
        let moving = own_rules.into_iter().map(|(rule, over, hard, spread)| {
            let mut values: BTreeMap<&'n str, usize> =
                entrants.list.iter().filter_map(|place| Some((label(*place, over)?, 0))).collect();
            values.values_mut().zip(0..).for_each(|(index, next)| *index = next);
            let mut counts = vec![0; values.len()];
            for place in &neighbours.own {
                let index = label(*place, over).and_then(|value| values.get(value));
                index.and_then(|index| counts.get_mut(*index)).into_iter().for_each(|count| *count += 1);
            }
            let shares = spread.map(|spread| &spread.shares).filter(|shares| !shares.is_empty());
            let quotas = shares.map(|shares| quotas(&values, shares, spec.replicas));
            Moving { rule, over: over.to_owned(), hard, values, counts, quotas }
        });
        let mut contest = Self {
            nodes,
            spec,
            needed: spec.memory_reserved(),
            failed: neighbours.failed.clone(),
            most: replicas.iter().max().copied().unwrap_or(0),
            least: Cell::new(0),
            over: Cell::new(false),
            replicas,
            moving: moving.collect(),
            relations,
            groups: Vec::new(),
            group_of: Vec::new(),
            entrants,
        };
        contest.form_groups();
        contest
    }

    /// Put entrants that differ in nothing but fullness into one group; those that a relation keeps out, into none.
    fn form_groups(&mut self) {
        if self.relations.is_empty() && self.moving.is_empty() && self.spec.placement.prefer.is_empty() {
            return;
        }
        let mut groups: BTreeMap<(u64, Vec<Option<usize>>), Vec<Place>> = BTreeMap::new();
        for place in &self.entrants.list {
            if self.estranged(*place).is_none() {
                groups.entry((self.missed(*place), self.domains(*place))).or_default().push(*place);
            }
        }
        self.group_of = vec![usize::MAX; self.nodes.len()];
        for ((missed, domains), members) in groups {
            for place in &members {
                self.group_of.get_mut(*place).into_iter().for_each(|group| *group = self.groups.len());
            }
            self.groups.push(Group { missed, domains, members });
        }
    }

    fn label(&self, place: Place, over: &str) -> Option<&'n str> {
        self.nodes.session(place)?.label(over)
    }

    fn domains(&self, place: Place) -> Vec<Option<usize>> {
        let domain = |moving: &Moving<'n>| moving.values.get(self.label(place, &moving.over)?).copied();
        self.moving.iter().map(domain).collect()
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
        let lacks = |moving: &&Moving<'n>| {
            moving.hard && matches!(moving.rule, OwnRule::Spread { .. }) && self.label(place, &moving.over).is_none()
        };
        self.moving.iter().find(lacks).map(|moving| Reason::Unspread { over: moving.over.clone() })
    }

    /// The weights of the preferences and soft relations to others that a node misses.
    fn missed(&self, place: Place) -> u64 {
        let Some(session) = self.nodes.session(place) else { return u64::MAX };
        let preferences = self.spec.placement.prefer.iter();
        let preferences = preferences.filter(|preference| !preference.label.holds(&session.labels));
        let soft = self.relations.iter().filter(|other| !other.hard);
        let relations = soft.filter(|other| !other.is_kept(session.label(&other.over)));
        preferences.map(|preference| u64::from(preference.weight)).chain(relations.map(|other| other.weight)).sum()
    }

    fn cost(&self, group: &Group) -> Result<Cost, Barred> {
        let mut cost = (0, group.missed);
        for (moving, (rule, domain)) in self.moving.iter().zip(&group.domains).enumerate() {
            let (spread, missed) = rule.minds(*domain).map_err(|(count, most)| Barred { moving, count, most })?;
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
        for moving in &mut self.moving {
            let value = self.nodes.session(place).and_then(|session| session.label(&moving.over));
            let index = value.and_then(|value| moving.values.get(value));
            index.and_then(|index| moving.counts.get_mut(*index)).into_iter().for_each(|count| *count += 1);
        }
    }

    pub(crate) fn needed(&self) -> u64 {
        self.needed
    }
}

impl Other<'_> {
    fn is_kept(&self, value: Option<&str>) -> bool {
        value.is_some_and(|value| self.values.contains(value)) == self.near
    }
}

/// What decides between two nodes: smaller is better, and what comes first decides first. Ties are broken by the ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score {
    /// By how many replicas the values of labels that the workload is spread over would be too full.
    pub spread: u64,
    /// The weights of the preferences and relations that it misses.
    pub missed: u64,
    /// A replica of the workload failed there.
    pub failed: bool,
    /// Replicas of the workload that it has.
    pub replicas: u32,
    /// In eighths of what it has least of.
    pub fullness: u8,
    /// The rendezvous hash.
    pub chance: u64,
}

/// The order of the nodes for one slot. Nothing is computed before it is asked for: who comes first is found without
/// looking at most of the nodes, the whole order is only for people.
pub(crate) struct Ranking<'l, 'n, 'a> {
    ledger: &'l Ledger,
    contest: &'l Contest<'n, 'a>,
    slot: u64,
    /// First, before all others.
    incumbent: Option<Place>,
    /// The only one that may take it.
    pinned: Option<Place>,
    costs: Vec<Option<Cost>>,
}

impl<'l, 'n, 'a> Ranking<'l, 'n, 'a> {
    pub(crate) fn new(
        ledger: &'l Ledger,
        contest: &'l Contest<'n, 'a>,
        slot: u64,
        incumbent: Option<Place>,
        pinned: Option<Place>,
    ) -> Self {
        let costs = contest.groups.iter().map(|group| contest.cost(group).ok()).collect();
        Ranking { ledger, contest, slot, incumbent, pinned, costs }
    }

    /// The best node.
    pub(crate) fn first(&self) -> Option<Place> {
        if self.incumbent.is_some() {
            return self.incumbent;
        }
        if let Some(pinned) = self.pinned {
            return self.score(pinned).map(|_| pinned);
        }
        if self.contest.over.get() {
            return None;
        }
        if self.is_plain() { self.first_of_all() } else { self.first_of_groups() }
    }

    fn is_plain(&self) -> bool {
        self.contest.group_of.is_empty()
    }

    /// Where nothing but fullness and chance decides, nodes that are equally full are looked at together, and most of
    /// them not further than to their hash.
    fn first_of_all(&self) -> Option<Place> {
        let contest = self.contest;
        for failed in [false, true] {
            if failed && contest.failed.is_empty() {
                break;
            }
            let least = if failed { 0 } else { contest.least.get() };
            for replicas in least..=contest.most {
                for level in self.ledger.levels() {
                    let mut best: Option<(u64, Place)> = None;
                    for seat in level {
                        let hash = meet(self.slot, seat.weight);
                        if best.is_none_or(|best| self.is_before((hash, seat.place), best))
                            && contest.entrants.is_in.get(seat.place) == Some(&true)
                            && contest.replicas.get(seat.place) == Some(&replicas)
                            && contest.failed.contains(&seat.place) == failed
                            && self.ledger.has_room(seat.place, contest.needed)
                        {
                            best = Some((hash, seat.place));
                        }
                    }
                    if let Some((_, place)) = best {
                        return Some(place);
                    }
                }
                if !failed {
                    contest.least.set(replicas + 1);
                }
            }
            contest.least.set(contest.least.get().min(contest.most));
        }
        contest.over.set(true);
        None
    }

    fn is_before(&self, (hash, place): (u64, Place), (best, other): (u64, Place)) -> bool {
        match hash.cmp(&best) {
            Ordering::Less => true,
            Ordering::Equal => self.contest.nodes.id(place) < self.contest.nodes.id(other),
            Ordering::Greater => false,
        }
    }

    fn first_of_groups(&self) -> Option<Place> {
        let mut groups: Vec<(Cost, &Group)> =
            self.costs.iter().zip(&self.contest.groups).filter_map(|(cost, group)| Some(((*cost)?, group))).collect();
        groups.sort_by_key(|(cost, _)| *cost);
        for equal in groups.chunk_by(|one, two| one.0 == two.0) {
            let members = equal.iter().flat_map(|(_, group)| &group.members);
            let scored = members.filter_map(|place| Some((self.score(*place)?, *place)));
            if let Some((_, place)) = scored.min_by(|one, two| self.compare(*one, *two)) {
                return Some(place);
            }
        }
        None
    }

    fn compare(&self, (one, place): (Score, Place), (two, other): (Score, Place)) -> Ordering {
        one.cmp(&two).then_with(|| self.contest.nodes.id(place).cmp(&self.contest.nodes.id(other)))
    }

    /// What a node that can take the slot is worth.
    pub(crate) fn score(&self, place: Place) -> Option<Score> {
        let load = self.ledger.load(place);
        load.has_room(self.contest.needed).then_some(())?;
        self.score_if_there_were_room(place, load)
    }

    fn score_if_there_were_room(&self, place: Place, load: Load) -> Option<Score> {
        let contest = self.contest;
        if contest.entrants.is_in.get(place) != Some(&true) || self.pinned.is_some_and(|pinned| pinned != place) {
            return None;
        }
        let (spread, missed) = match contest.group_of.get(place) {
            None if self.is_plain() => (0, 0),
            group => self.costs.get(*group?).copied().flatten()?,
        };
        Some(Score {
            spread,
            missed,
            failed: contest.failed.contains(&place),
            replicas: contest.replicas.get(place).copied().unwrap_or(0),
            fullness: load.fullness(),
            chance: meet(self.slot, contest.nodes.get(place)?.weight),
        })
    }

    /// How many nodes come before this one, if it can take the slot: exact up to [`EXACT_RANKS`], and one of its own
    /// further behind. `position` says which of `nodes` it is, in any order that all agree on.
    pub(crate) fn of(&self, place: Place, (position, nodes): (usize, usize)) -> Option<u32> {
        if self.incumbent == Some(place) {
            return Some(0);
        }
        let mine = (self.score(place)?, place);
        if self.pinned.is_some() {
            return Some(0);
        }
        let mut better = u32::from(self.incumbent.is_some());
        for other in self.contest.entrants.list.iter().filter(|other| Some(**other) != self.incumbent) {
            if self.score(*other).is_some_and(|score| self.compare((score, *other), mine).is_lt()) {
                better += 1;
                if better >= EXACT_RANKS {
                    let turned = (position as u64).wrapping_add(self.slot) % (nodes.max(1) as u64);
                    return Some(EXACT_RANKS.saturating_add(u32::try_from(turned).unwrap_or(u32::MAX)));
                }
            }
        }
        Some(better)
    }

    /// The nodes that can take the slot, best first. An incumbent has no score: it just comes first.
    pub(crate) fn all(&self) -> Vec<(Place, Option<Score>)> {
        let others = self.contest.entrants.list.iter().filter(|place| Some(**place) != self.incumbent);
        let mut scored: Vec<(Score, Place)> = others.filter_map(|place| Some((self.score(*place)?, *place))).collect();
        scored.sort_by(|one, two| self.compare(*one, *two));
        let others = scored.into_iter().map(|(score, place)| (place, Some(score)));
        self.incumbent.into_iter().map(|place| (place, None)).chain(others).collect()
    }

    /// The nodes that would do but for their room.
    pub(crate) fn without_room(&self) -> impl Iterator<Item = (Place, Score)> + '_ {
        let full = |place: &Place| {
            let load = self.ledger.load(*place);
            let score = self.score_if_there_were_room(*place, load)?;
            (!load.has_room(self.contest.needed)).then_some((*place, score))
        };
        self.contest.entrants.list.iter().filter_map(full)
    }

    pub(crate) fn load(&self, place: Place) -> Load {
        self.ledger.load(place)
    }

    /// Why a node can't take the slot, if it can't.
    pub(crate) fn refusal(&self, place: Place) -> Option<Reason> {
        let contest = self.contest;
        let account = contest.nodes.get(place)?;
        let session = account.session.as_ref()?;
        if self.incumbent == Some(place) {
            return None;
        }
        if let Some(reason) = rules::refuses(account, session, contest.spec).or_else(|| contest.estranged(place)) {
            return Some(reason);
        }
        if let Some(pinned) = self.pinned.filter(|pinned| *pinned != place) {
            return Some(Reason::Pinned { node: contest.nodes.id(pinned)?.clone() });
        }
        let group = contest.group_of.get(place).and_then(|group| contest.groups.get(*group));
        if let Some(Err(barred)) = group.map(|group| contest.cost(group)) {
            let moving = contest.moving.get(barred.moving)?;
            let (over, workload) = (moving.over.clone(), contest.spec.name.clone());
            let value = session.label(&over).map(str::to_owned);
            return Some(match moving.rule {
                OwnRule::Spread { .. } => {
                    let (count, most) = (barred.count, barred.most);
                    Reason::Spread { over, value: value.unwrap_or_default(), count, most }
                }
                OwnRule::Near { .. } => Reason::Near { workload, over, value },
                OwnRule::Apart { .. } => Reason::Apart { workload, over, value: value.unwrap_or_default() },
            });
        }
        full(&self.ledger.load(place), contest.needed)
    }
}

/// What there is too little of, if anything.
pub(crate) fn full(load: &Load, needed: u64) -> Option<Reason> {
    let room = load.capacity?;
    if load.has_room(needed) {
        None
    } else if load.slots >= room.slots {
        Some(Reason::Slots { capacity: room.slots })
    } else {
        Some(Reason::Memory { needed, reserved: load.memory, capacity: room.memory })
    }
}
