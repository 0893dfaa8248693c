//! Why a slot is where it is, and where a spec's replicas would go. For people: status, dry runs, `lattice explain`.

use crate::{
    board::{Board, Occupancy, Wanted},
    contest::{Ranking, Score},
    hash::SlotWeights,
    nodes::Place,
    placement::Walk,
    rules::Reason,
};
use lattice::{
    ctl::{PlannedSlot, Refusal},
    id::{Generation, NodeId, Revision, SlotId, WorkloadName},
    recipe::Recipe,
    record::SpecRecord,
    spec::WorkloadSpec,
    view::{LatticeView, Versioned},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Nodes that are named as those that can't take a slot, where many slots are told of at once.
const REFUSED_MAX: usize = 32;
/// Names of nodes, and why, in all that is told at once. Beyond it each slot has one.
const REFUSED_IN_ALL_MAX: usize = 16 * 1024;

/// How the nodes stand to one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub slot: SlotId,
    /// The living node that holds it, if any.
    pub holder: Option<NodeId>,
    /// Whether it may be claimed now.
    pub is_vacant: bool,
    /// Why nobody may touch the slot, if so.
    pub blocked: Option<String>,
    /// Replicas that make room for it.
    pub displaces: Vec<SlotId>,
    pub nodes: BTreeMap<NodeId, Standing>,
}

/// What becomes of one vacant slot, in short.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outlook {
    /// The node that takes it next.
    pub first: Option<NodeId>,
    /// Where nobody does: nodes that can't, some of them, with the reason in words.
    pub refused: Vec<Refusal>,
    /// How many more there are.
    pub refused_omitted: u32,
}

/// How one node stands to a slot. Of one that is held, as if it were not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// 0 is first. Without a score it comes first because it held the slot before.
    Rank(u32, Option<Score>),
    Refused(Reason),
}

impl Explanation {
    /// The node that takes the slot next, where it is vacant.
    pub fn first(&self) -> Option<&NodeId> {
        let is_first = |standing: &Standing| self.is_vacant && matches!(standing, Standing::Rank(0, _));
        self.nodes.iter().find(|(_, standing)| is_first(standing)).map(|(node, _)| node)
    }
}

/// The replicas that a workload should have, by index. As many as its spec says or as were decided for
/// its load, or one for each node of a daemon.
pub fn wanted(view: &LatticeView, workload: &WorkloadName) -> Vec<u32> {
    match view.specs.get(workload).map(|spec| &spec.record) {
        None => Vec::new(),
        Some(spec) if spec.spec.placement.daemon => {
            Board::of(view).entry(workload).map(|entry| entry.wanted.indexes()).unwrap_or_default()
        }
        Some(spec) => (0..view.replicas(spec)).collect(),
    }
}

/// The vacant slots that some node can take.
pub fn claimable(view: &LatticeView) -> BTreeSet<SlotId> {
    let mut slots = BTreeSet::new();
    Walk::new(view, &Board::of(view)).run(|turn| slots.extend(turn.first.map(|_| turn.slot())));
    slots
}

/// How every node stands to each vacant slot of a workload. As long as there are slots times nodes: [`outlook`] is bounded.
pub fn explain_vacant(view: &LatticeView, workload: &WorkloadName) -> BTreeMap<SlotId, Explanation> {
    explain_vacant_where(view, |slot| slot.workload == *workload)
}

fn explain_vacant_where(view: &LatticeView, is_asked: impl Fn(&SlotId) -> bool) -> BTreeMap<SlotId, Explanation> {
    let board = Board::of(view);
    let mut explanations = BTreeMap::new();
    let mut walk = Walk::new(view, &board);
    walk.run(|turn| {
        let slot = turn.slot();
        if is_asked(&slot) {
            let explanation = Explanation { is_vacant: true, ..about(view, &board, slot.clone(), &turn.ranking) };
            explanations.insert(slot, explanation);
        }
    });
    for (victim, slot) in &walk.displacer.victims {
        explanations.get_mut(slot).into_iter().for_each(|explanation| explanation.displaces.push(victim.clone()));
    }
    explanations
}

/// What becomes of each vacant slot of some workloads: one walk for all of them.
pub fn outlook(view: &LatticeView, workloads: &BTreeSet<&WorkloadName>) -> BTreeMap<SlotId, Outlook> {
    let board = Board::of(view);
    let (mut outlooks, mut told) = (BTreeMap::new(), 0);
    Walk::new(view, &board).run(|turn| {
        if workloads.contains(&turn.spec.spec.name) {
            let most = if told < REFUSED_IN_ALL_MAX { REFUSED_MAX } else { 1 };
            let outlook = in_short(&board, turn.first, &turn.ranking, most);
            told += outlook.refused.len();
            outlooks.insert(turn.slot(), outlook);
        }
    });
    outlooks
}

/// With so many of those that refuse at most.
fn in_short(board: &Board, first: Option<Place>, ranking: &Ranking<'_, '_, '_>, most: usize) -> Outlook {
    if let Some(first) = first {
        return Outlook { first: board.nodes.id(first).cloned(), ..Outlook::default() };
    }
    let mut outlook = Outlook::default();
    for (place, account, _) in board.nodes.live() {
        if outlook.refused.len() >= most {
            outlook.refused_omitted = outlook.refused_omitted.saturating_add(1);
        } else if let Some(reason) = ranking.refusal(place) {
            let (node, rule) = (account.node.clone(), reason.rule().into());
            outlook.refused.push(Refusal { node, reason: reason.to_string(), rule });
        }
    }
    outlook
}

/// How every node stands to a slot: as it is now for a vacant one, and as if nobody held it for one that is held. Nothing
/// for a slot that no spec wants.
pub fn explain(view: &LatticeView, slot: &SlotId) -> Option<Explanation> {
    if let Some(vacant) = explain_vacant_where(view, |vacant| vacant == slot).remove(slot) {
        return Some(vacant);
    }
    let board = Board::of(view);
    let entry = board.entry(&slot.workload).filter(|_| board.wants(slot))?;
    let spec = view.wanted(slot)?;
    let mut walk = Walk::new(view, &board);
    for booking in entry.bookings.iter().filter(|booking| booking.index == slot.index) {
        walk.ledger.unbook(booking.place, booking.needed);
    }
    for booking in entry.gpus.iter().filter(|booking| booking.index == slot.index) {
        walk.ledger.gpus.unbook(booking.place, &booking.grant);
    }
    let contest = walk.contest(spec, Some(slot.index));
    let weight = SlotWeights::of(&slot.workload).weight(slot.index);
    let holder = view.slots.get(slot).and_then(|held| board.node(&held.record.holder.node));
    let pinned = holder.filter(|_| matches!(entry.wanted, Wanted::Each(_)));
    let ranking = Ranking::new(&walk.ledger, &contest, weight, None, pinned);
    Some(about(view, &board, slot.clone(), &ranking))
}

/// Where each replica would run if the spec were put now, with what nodes are to run for it. What runs stays; what other workloads wait for is counted.
pub fn preview(view: &LatticeView, spec: &WorkloadSpec, recipe: &Recipe) -> Vec<PlannedSlot> {
    let mut after = view.clone();
    let before = view.specs.get(&spec.name);
    let uid = before.map_or(uuid::Uuid::nil(), |before| before.record.uid);
    let generation = before.map_or(Generation::FIRST, |before| before.record.generation.next());
    let record = SpecRecord { recipe: recipe.clone(), ..SpecRecord::new(spec.clone(), uid, generation) };
    after.specs.insert(spec.name.clone(), Arc::new(Versioned { record, revision: Revision(0) }));
    let mut vacant = outlook(&after, &BTreeSet::from([&spec.name]));
    let planned = wanted(&after, &spec.name).into_iter().map(|replica| {
        let slot = SlotId::new(spec.name.clone(), replica);
        let holder = holder_of(&after, &slot);
        let Outlook { first, refused, refused_omitted } = vacant.remove(&slot).unwrap_or_default();
        // A holder that is leaving counts as one that stays where nobody else can take the slot.
        let node = first.or_else(|| holder.clone());
        let (refused, refused_omitted) = if node.is_none() { (refused, refused_omitted) } else { Default::default() };
        PlannedSlot { replica, stays: node.is_some() && node == holder, refused, refused_omitted, node }
    });
    planned.collect()
}

fn holder_of(view: &LatticeView, slot: &SlotId) -> Option<NodeId> {
    let holder = &view.slots.get(slot)?.record.holder;
    view.live(holder).map(|session| session.node.clone())
}

fn about(view: &LatticeView, board: &Board, slot: SlotId, ranking: &Ranking<'_, '_, '_>) -> Explanation {
    let unknown = view.slots.get(&slot).map(|held| &held.record.holder);
    let unknown = unknown.filter(|holder| board.occupancy(holder) == Occupancy::Unknown);
    let blocked = if board.is_corrupt(&slot) {
        Some(format!("the record slot.{slot} does not parse"))
    } else {
        unknown.map(|holder| format!("the record session.{} does not parse", holder.node))
    };
    let ranked = ranking.all();
    let ranks = ranked
        .iter()
        .zip(0..)
        .filter_map(|((place, score), rank)| Some((board.nodes.id(*place)?.clone(), Standing::Rank(rank, *score))));
    let mut nodes: BTreeMap<NodeId, Standing> = ranks.collect();
    for (place, account, _) in board.nodes.live() {
        if !nodes.contains_key(&account.node)
            && let Some(reason) = ranking.refusal(place)
        {
            nodes.insert(account.node.clone(), Standing::Refused(reason));
        }
    }
    let holder = holder_of(view, &slot);
    Explanation { slot, holder, is_vacant: false, blocked, displaces: Vec::new(), nodes }
}
