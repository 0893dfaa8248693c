//! The protocol of sessions and claims of `strict` replicas, small enough to look at everything that can happen: three
//! nodes, two slots, room for one on each, messages that are late or lost, nodes that die, and a store that forgets. The
//! services are not in it (`simulations/src/chaos.rs` plays them); it says why the protocol is as it is: take one [`Protocol`] away, and
//! the search finds how it breaks.
//!
//! Time passes in ticks for all at once. A decision on an old view is one whose message is late, so views are only as old
//! as what a node believes of itself and of others.
//!
//! Start at [`Lease`].

use stateright::{Model, Property};

/// What holds in every state. While the store has not gone back.
pub(crate) const RUNS_ONCE: &str = "what is strict runs once";
pub(crate) const ENDED_STAYS_ENDED: &str = "a life that ended does not come back";
pub(crate) const HELD_IS_NOT_TAKEN: &str = "nobody takes what a living node holds";
pub(crate) const HAS_ROOM: &str = "no node holds more than it has room for";
pub(crate) const FORGOTTEN_RUNS_ON: &str = "what runs is not stopped because the store forgot it";
/// What some state shows: a model in which nothing happens proves nothing.
pub(crate) const THIRD_TAKES_OVER: &str = "the third node takes over";
pub(crate) const SECOND_LIFE_HOLDS: &str = "a second life holds a slot";
pub(crate) const FORGETFUL_IS_WRITTEN: &str = "a store that forgot is written to";

const NODES: usize = 3;
const SLOTS: usize = 2;
/// Slots that one node may hold.
const ROOM: usize = 1;
/// Ticks without an acknowledged renewal, counted from its sending, after which a node stops what is strict.
const FENCE: u8 = 1;
/// Ticks without a change of a session after which an observer removes it.
const KILL: u8 = 2;
const MESSAGES_MAX: usize = 2;
/// The node whose renewals may be late or lost. Those of the others never are, as long as they live.
const TROUBLED: usize = 0;
/// Larger than any revision that is kept.
const FRESH: u8 = 100;
const LIVES_MAX: u8 = 2;

/// The protections, each of which can be taken away.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Protocol {
    /// A renewal is written over the revision that its writer knows.
    pub(crate) renews_what_it_knows: bool,
    /// So is a claim.
    pub(crate) claims_what_it_knows: bool,
    /// An observer removes a session at the revision that it saw.
    pub(crate) removes_what_it_saw: bool,
    /// A node without an acknowledged renewal stops what is strict.
    pub(crate) fences: bool,
    /// The fence counts from when the renewal was sent, not from when its answer came.
    pub(crate) counts_from_sending: bool,
    /// The fence falls before others may take over.
    pub(crate) fences_before_kill: bool,
    /// Who finds its session gone begins another life.
    pub(crate) begins_new_lives: bool,
    /// A claim without an answer takes up room.
    pub(crate) counts_unsettled: bool,
    /// A store whose head went back is noticed.
    pub(crate) compares_heads: bool,
    /// So is one that says something else of what was seen already.
    pub(crate) compares_history: bool,
}

impl Protocol {
    /// Ours.
    pub(crate) const WHOLE: Protocol = Protocol {
        renews_what_it_knows: true,
        claims_what_it_knows: true,
        removes_what_it_saw: true,
        fences: true,
        counts_from_sending: true,
        fences_before_kill: true,
        begins_new_lives: true,
        counts_unsettled: true,
        compares_heads: true,
        compares_history: true,
    };
}

/// A run of the protocol.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lease {
    pub(crate) protocol: Protocol,
    /// Nodes that may die.
    pub(crate) deaths: u8,
    /// The store may go back to how it began, and takes so many writes before and after. What is strict may run twice then,
    /// so that is not asked of it. Else revisions count only by which are the same, and there is no end to writes.
    pub(crate) forgets: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Store {
    head: u8,
    /// By node: the life that has a session, 0 for none, and the last revision of the key.
    sessions: [(u8, u8); NODES],
    /// By slot: who holds it, in which life, and the last revision of the key.
    slots: [(u8, u8, u8); SLOTS],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Node {
    is_up: bool,
    life: u8,
    /// The last revision of its session that it knows of; 0 for none.
    revision: u8,
    /// Ticks since the last acknowledged renewal was sent, up to the fence.
    since: u8,
    believes: [bool; SLOTS],
    /// Claims that were sent, and whose end it has not seen.
    unsettled: [bool; SLOTS],
    /// What it last saw: the head, the revisions of sessions and for how many ticks they have not changed, those of slots.
    head: u8,
    sessions: [(u8, u8); NODES],
    slots: [u8; SLOTS],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Message {
    /// `age`: ticks since it was sent.
    Renew {
        node: u8,
        life: u8,
        expect: u8,
        age: u8,
    },
    /// The answer to it.
    Renewed {
        node: u8,
        life: u8,
        revision: u8,
        age: u8,
    },
    Claim {
        node: u8,
        life: u8,
        slot: u8,
        expect: u8,
    },
    Remove {
        node: u8,
        expect: u8,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    store: Store,
    nodes: [Node; NODES],
    messages: Vec<Message>,
    deaths: u8,
    has_forgotten: bool,
    broken: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Tick,
    /// A node sends a renewal, or the first write of a life.
    Renew(usize),
    /// A node's view becomes what the store holds.
    Look(usize),
    Claim(usize, usize),
    /// The first node removes the session of the second.
    Remove(usize, usize),
    Land(usize),
    Lose(usize),
    Die(usize),
    Forget,
}

/// Only those that hold something to begin with are watched: the third node's death changes nothing for others.
fn watches(observer: usize, node: usize) -> bool {
    observer != node && node < 2
}

impl Store {
    fn begin() -> Self {
        // All have joined, the first two hold a slot each.
        Store { head: 5, sessions: [(1, 1), (1, 2), (1, 3)], slots: [(0, 1, 4), (1, 1, 5)] }
    }

    fn is_live(&self, node: u8, life: u8) -> bool {
        self.sessions.get(usize::from(node)).is_some_and(|(live, _)| life != 0 && *live == life)
    }
}

#[allow(clippy::indexing_slicing, reason = "all indexes are below the constants that are the lengths")]
impl State {
    /// Number the revisions of each key from 1, in their order. 0 is none.
    fn count_anew(&mut self) {
        let State { store, nodes, messages, .. } = self;
        for key in 0..NODES {
            let mut revisions: Vec<&mut u8> = vec![&mut store.sessions[key].1];
            for (n, node) in nodes.iter_mut().enumerate() {
                revisions.extend((n == key).then_some(&mut node.revision));
                revisions.push(&mut node.sessions[key].0);
            }
            revisions.extend(messages.iter_mut().filter_map(|message| match message {
                Message::Renew { node, expect: revision, .. }
                | Message::Renewed { node, revision, .. }
                | Message::Remove { node, expect: revision } => (usize::from(*node) == key).then_some(revision),
                Message::Claim { .. } => None,
            }));
            number(revisions);
        }
        for key in 0..SLOTS {
            let mut revisions: Vec<&mut u8> = vec![&mut store.slots[key].2];
            revisions.extend(messages.iter_mut().filter_map(|message| match message {
                Message::Claim { slot, expect, .. } => (usize::from(*slot) == key).then_some(expect),
                _ => None,
            }));
            number(revisions);
        }
    }
}

fn number(revisions: Vec<&mut u8>) {
    let mut order: Vec<u8> = revisions.iter().map(|revision| **revision).filter(|revision| *revision != 0).collect();
    order.sort_unstable();
    order.dedup();
    for revision in revisions {
        if let Some(at) = order.iter().position(|known| known == revision) {
            *revision = at as u8 + 1;
        }
    }
}

#[allow(clippy::indexing_slicing, reason = "all indexes are below the constants that are the lengths")]
impl Lease {
    fn fence(&self) -> u8 {
        if self.protocol.fences_before_kill { FENCE } else { KILL + 1 }
    }

    fn is_current(&self, node: &Node) -> bool {
        node.is_up && node.revision != 0 && (!self.protocol.fences || node.since < self.fence())
    }

    /// Whether what the store says can't follow from what the node saw.
    fn contradicts(&self, store: &Store, node: &Node) -> bool {
        let changed = |(now, seen): (u8, u8)| now <= node.head && now != seen;
        let sessions = store.sessions.iter().zip(&node.sessions).map(|((_, now), (seen, _))| (*now, *seen));
        let slots = store.slots.iter().zip(&node.slots).map(|((.., now), seen)| (*now, *seen));
        self.protocol.compares_heads && store.head < node.head
            || self.protocol.compares_history && sessions.chain(slots).any(changed)
    }

    fn look(&self, state: &mut State, n: usize) {
        let store = state.store;
        let node = &mut state.nodes[n];
        if self.contradicts(&store, node) {
            // What this node knows better is put back, each at the revision that was found; in one step, since a lost race
            // is a later look.
            for s in 0..SLOTS {
                let (holder, life, _) = store.slots[s];
                let is_mine = node.believes[s] && (holder, life) != (n as u8, node.life);
                if is_mine && store.is_live(n as u8, node.life) {
                    state.store.head += 1;
                    state.store.slots[s] = (n as u8, node.life, state.store.head);
                }
            }
        }
        let store = state.store;
        let node = &mut state.nodes[n];
        let (live, revision) = store.sessions[n];
        if node.revision != 0 && live != node.life {
            if self.protocol.begins_new_lives {
                node.life += 1;
            }
            node.revision = 0;
            node.since = self.fence();
            node.believes = [false; SLOTS];
        } else if live == node.life {
            node.revision = revision;
        }
        for s in 0..SLOTS {
            let (holder, life, revision) = store.slots[s];
            let is_mine = (holder, life) == (n as u8, node.life);
            if node.believes[s] && !is_mine && !store.is_live(holder, life) && state.has_forgotten {
                state.broken = Some(FORGOTTEN_RUNS_ON);
            }
            node.believes[s] = is_mine;
            let under_way = |message: &Message| matches!(message, Message::Claim { node, slot, .. } if (*node, *slot) == (n as u8, s as u8));
            node.unsettled[s] &= state.messages.iter().any(under_way);
            if self.forgets.is_some() {
                node.slots[s] = revision;
            }
        }
        for m in 0..NODES {
            let (_, revision) = store.sessions[m];
            if (self.forgets.is_some() || watches(n, m)) && node.sessions[m].0 != revision {
                node.sessions[m] = (revision, 0);
            }
        }
        if self.forgets.is_some() {
            node.head = store.head;
        }
    }

    fn land(&self, state: &mut State, message: Message) -> Option<()> {
        let store = &mut state.store;
        let next = if self.forgets.is_some() { store.head + 1 } else { FRESH };
        match message {
            Message::Renew { node, life, expect, age } => {
                let n = usize::from(node);
                let (live, last) = store.sessions[n];
                if last != expect && self.protocol.renews_what_it_knows {
                    return Some(());
                }
                if live == 0 && last != expect && life < state.nodes[n].life {
                    state.broken = Some(ENDED_STAYS_ENDED);
                }
                store.sessions[n] = (life, next);
                state.messages.push(Message::Renewed { node, life, revision: next, age });
            }
            Message::Renewed { node, life, revision, age } => {
                let sender = &mut state.nodes[usize::from(node)];
                if sender.is_up && sender.life == life {
                    sender.revision = revision;
                    let since = if self.protocol.counts_from_sending { age } else { 0 };
                    sender.since = sender.since.min(since);
                }
                return Some(());
            }
            Message::Claim { node, life, slot, expect } => {
                let s = usize::from(slot);
                let (holder, held_in, last) = store.slots[s];
                if last != expect && self.protocol.claims_what_it_knows {
                    return Some(());
                }
                // What was sent before the store forgot may fit again.
                if holder != node && store.is_live(holder, held_in) && !state.has_forgotten {
                    state.broken = Some(HELD_IS_NOT_TAKEN);
                }
                store.slots[s] = (node, life, next);
                let held = |(holder, in_life, _): &&(u8, u8, u8)| (*holder, *in_life) == (node, life);
                if store.slots.iter().filter(held).count() > ROOM {
                    state.broken = Some(HAS_ROOM);
                }
            }
            Message::Remove { node, expect } => {
                let n = usize::from(node);
                let (live, last) = store.sessions[n];
                if live == 0 || last != expect && self.protocol.removes_what_it_saw {
                    return Some(());
                }
                store.sessions[n] = (0, next);
            }
        }
        if let Some(writes) = self.forgets {
            state.store.head = next;
            return (next <= Store::begin().head + writes).then_some(());
        }
        Some(())
    }
}

#[allow(clippy::indexing_slicing, reason = "all indexes are below the constants that are the lengths")]
impl Model for Lease {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let store = Store::begin();
        let node = |n: usize| Node {
            is_up: true,
            life: 1,
            revision: n as u8 + 1,
            since: 0,
            believes: [n == 0, n == 1],
            unsettled: [false; SLOTS],
            head: if self.forgets.is_some() { store.head } else { 0 },
            sessions: std::array::from_fn(|m| {
                let is_seen = self.forgets.is_some() || watches(n, m);
                (if is_seen { m as u8 + 1 } else { 0 }, 0)
            }),
            slots: if self.forgets.is_some() { [4, 5] } else { [0; SLOTS] },
        };
        let nodes = [node(0), node(1), node(2)];
        vec![State { store, nodes, messages: Vec::new(), deaths: 0, has_forgotten: false, broken: None }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.push(Action::Tick);
        if self.forgets.is_some() && !state.has_forgotten && state.store.head > Store::begin().head {
            actions.push(Action::Forget);
        }
        for i in 0..state.messages.len() {
            actions.extend([Action::Land(i), Action::Lose(i)]);
        }
        let may_send = state.messages.len() < MESSAGES_MAX;
        for (n, node) in state.nodes.iter().enumerate().filter(|(_, node)| node.is_up) {
            if state.deaths < self.deaths {
                actions.push(Action::Die(n));
            }
            actions.push(Action::Look(n));
            let renews = |message: &Message| matches!(message, Message::Renew { node, .. } | Message::Renewed { node, .. } if usize::from(*node) == n);
            if may_send && n == TROUBLED && node.life <= LIVES_MAX && !state.messages.iter().any(renews) {
                actions.push(Action::Renew(n));
            }
            if !may_send || !self.is_current(node) {
                continue;
            }
            for s in 0..SLOTS {
                let (holder, life, _) = state.store.slots[s];
                let is_used = |s: usize| node.believes[s] || node.unsettled[s] && self.protocol.counts_unsettled;
                let has_room = (0..SLOTS).filter(|s| is_used(*s)).count() < ROOM;
                if has_room && !node.unsettled[s] && !state.store.is_live(holder, life) {
                    actions.push(Action::Claim(n, s));
                }
            }
            for m in (0..NODES).filter(|m| node.sessions[*m].1 >= KILL) {
                actions.push(Action::Remove(n, m));
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut state = state.clone();
        match action {
            Action::Tick => {
                let is_up: [bool; NODES] = state.nodes.map(|node| node.is_up);
                for (n, node) in state.nodes.iter_mut().enumerate().filter(|(_, node)| node.is_up) {
                    node.since = if n == TROUBLED { (node.since + 1).min(self.fence()) } else { 0 };
                    for (m, (_, age)) in node.sessions.iter_mut().enumerate().filter(|(m, _)| watches(n, *m)) {
                        let is_silent = m == TROUBLED || !is_up[m];
                        *age = if is_silent { (*age + 1).min(KILL) } else { 0 };
                    }
                }
                for message in &mut state.messages {
                    if let Message::Renew { age, .. } | Message::Renewed { age, .. } = message {
                        *age = (*age + 1).min(self.fence());
                    }
                }
            }
            Action::Renew(n) => {
                let Node { life, revision, .. } = state.nodes[n];
                // A new life is written over the tombstone that was found.
                let expect = if revision == 0 { state.store.sessions[n].1 } else { revision };
                if revision == 0 && state.store.sessions[n].0 != 0 {
                    return None; // its own former one is still there: a look comes first
                }
                state.messages.push(Message::Renew { node: n as u8, life, expect, age: 0 });
            }
            Action::Look(n) => self.look(&mut state, n),
            Action::Claim(n, s) => {
                state.nodes[n].unsettled[s] = true;
                let (life, expect) = (state.nodes[n].life, state.store.slots[s].2);
                state.messages.push(Message::Claim { node: n as u8, life, slot: s as u8, expect });
            }
            Action::Remove(n, m) => {
                let expect = state.nodes[n].sessions[m].0;
                let message = Message::Remove { node: m as u8, expect };
                if state.messages.contains(&message) {
                    return None;
                }
                state.messages.push(message);
            }
            Action::Land(i) => {
                let message = state.messages.remove(i);
                self.land(&mut state, message)?;
            }
            Action::Lose(i) => drop(state.messages.remove(i)),
            Action::Die(n) => {
                state.deaths += 1;
                let Node { life, .. } = state.nodes[n];
                // Nothing of what it knew is of interest any more.
                state.nodes[n] = Node {
                    is_up: false,
                    life,
                    revision: 0,
                    since: 0,
                    believes: [false; SLOTS],
                    unsettled: [false; SLOTS],
                    head: 0,
                    sessions: [(0, 0); NODES],
                    slots: [0; SLOTS],
                };
            }
            Action::Forget => {
                state.has_forgotten = true;
                state.store = Store::begin();
            }
        }
        if self.forgets.is_none() {
            state.count_anew();
        }
        // Which was sent first makes no difference.
        state.messages.sort_unstable();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(RUNS_ONCE, |lease, state: &State| {
                let runs = |s: usize| state.nodes.iter().filter(|node| lease.runs(node, s)).count();
                state.has_forgotten || (0..SLOTS).all(|s| runs(s) <= 1)
            }),
            Property::always(ENDED_STAYS_ENDED, |_, state: &State| state.broken != Some(ENDED_STAYS_ENDED)),
            Property::always(HELD_IS_NOT_TAKEN, |_, state: &State| state.broken != Some(HELD_IS_NOT_TAKEN)),
            Property::always(HAS_ROOM, |_, state: &State| state.broken != Some(HAS_ROOM)),
            Property::always(FORGOTTEN_RUNS_ON, |_, state: &State| state.broken != Some(FORGOTTEN_RUNS_ON)),
            Property::sometimes(THIRD_TAKES_OVER, |lease, state: &State| {
                (0..SLOTS).any(|s| lease.runs(&state.nodes[NODES - 1], s))
            }),
            Property::sometimes(SECOND_LIFE_HOLDS, |_, state: &State| {
                state.nodes.iter().any(|node| node.life == 2 && node.believes.contains(&true))
            }),
            Property::sometimes(FORGETFUL_IS_WRITTEN, |_, state: &State| {
                state.has_forgotten && state.store.head > Store::begin().head
            }),
        ]
    }
}

impl Lease {
    /// Whether a node runs what a slot is for.
    #[allow(clippy::indexing_slicing, reason = "slots are counted to the length")]
    fn runs(&self, node: &Node, slot: usize) -> bool {
        node.believes[slot] && self.is_current(node)
    }
}
