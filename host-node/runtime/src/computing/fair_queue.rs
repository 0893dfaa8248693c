//! Whose guest computes next: start-time fair queueing over shares, of which each workload has one. A bounded number of
//! slices is out at a time; whoever asks while none is left waits in the line of its share, and the share that has had the
//! least processor time goes first. No clock, no locks, no wakers: the same calls, the same answers.
//!
//! A slice goes through three states: *granted* to a ticket that waited, *computing* once the ticket's owner has asked
//! again, given back with the time that it took. Hazard: an owner may never ask again, since nobody polls it. So a grant
//! that is not taken up within [`GRANT_TICKS`] goes to the next one, and its owner, should it come back, asks anew.

use std::collections::{BTreeMap, BTreeSet};

/// A grant lapses at so many ticks after the one at which it was made.
const GRANT_TICKS: u64 = 2;

/// Who shares: the guests of one workload.
pub(super) type ShareId = u64;
/// One wait of one guest. Tickets are served in order within a share, and no number comes twice.
pub(super) type Ticket = u64;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It has a slice, and gives it back with [`FairQueue::give_back`].
    Compute,
    /// It is in line, and asks again with this ticket once that is granted.
    Wait(Ticket),
}

pub(super) struct FairQueue {
    slices: usize,
    /// What a slice is charged until it is known what it took.
    slice_nanos: u64,
    /// Those that wait or have slices out, and those that have had more than `floor`.
    shares: BTreeMap<ShareId, Share>,
    granted: BTreeMap<Ticket, Grant>,
    computing: usize,
    /// The most that a share had had when it was served. Who comes anew begins there, or at what it has had if that is more:
    /// time in which it did not ask is no credit, and what it had beyond others is not forgiven while they wait.
    floor: u64,
    ticks: u64,
    next: Ticket,
}

struct Share {
    /// Nanoseconds had, on the scale of `floor`.
    had: u64,
    line: BTreeSet<Ticket>,
    /// Slices out, granted ones too.
    out: usize,
}

struct Grant {
    share: ShareId,
    at: u64,
}

impl FairQueue {
    pub(super) fn new(slices: usize, slice_nanos: u64) -> Self {
        Self {
            slices: slices.max(1),
            slice_nanos,
            shares: BTreeMap::new(),
            granted: BTreeMap::new(),
            computing: 0,
            floor: 0,
            ticks: 0,
            next: 0,
        }
    }

    /// A slice for a guest of this share. `ticket` is the one that it waits with, if it does.
    pub(super) fn ask(&mut self, share: ShareId, ticket: Option<Ticket>) -> Answer {
        if let Some(ticket) = ticket {
            if self.granted.remove(&ticket).is_some() {
                self.computing += 1;
                return Answer::Compute;
            }
            if self.shares.get(&share).is_some_and(|share| share.line.contains(&ticket)) {
                return Answer::Wait(ticket);
            }
        }
        let is_free = self.out() < self.slices; // and nobody waits
        let floor = self.floor;
        let asking = self.shares.entry(share).or_insert_with(|| Share { had: floor, line: BTreeSet::new(), out: 0 });
        if asking.is_idle() {
            asking.had = asking.had.max(floor);
        }
        if is_free {
            let had = asking.had;
            asking.had = asking.had.saturating_add(self.slice_nanos);
            asking.out += 1;
            self.computing += 1;
            self.raise_floor(had);
            return Answer::Compute;
        }
        let ticket = self.next_ticket();
        if let Some(asking) = self.shares.get_mut(&share) {
            asking.line.insert(ticket);
        }
        Answer::Wait(ticket)
    }

    /// A slice is over. Answers whose turn it is now, if anybody's: wake it.
    pub(super) fn give_back(&mut self, share: ShareId, took_nanos: u64) -> Option<Ticket> {
        self.computing = self.computing.saturating_sub(1);
        self.settle(share, took_nanos);
        self.grant()
    }

    /// A slice is over, and the same guest waits for another one, with the ticket that this answers first.
    pub(super) fn give_way(&mut self, share: ShareId, took_nanos: u64) -> (Ticket, Option<Ticket>) {
        let ticket = self.next_ticket();
        if let Some(share) = self.shares.get_mut(&share) {
            share.line.insert(ticket);
        }
        (ticket, self.give_back(share, took_nanos))
    }

    /// Nobody asks with this ticket any more. Answers as [`FairQueue::give_back`] does.
    pub(super) fn leave(&mut self, share: ShareId, ticket: Ticket) -> Option<Ticket> {
        if self.granted.remove(&ticket).is_some() {
            self.settle(share, 0);
            return self.grant();
        }
        if let Some(left) = self.shares.get_mut(&share) {
            left.line.remove(&ticket);
        }
        self.forget();
        None
    }

    /// Time passes. Answers whose turn it is because others did not take theirs: wake them.
    pub(super) fn tick(&mut self) -> Vec<Ticket> {
        self.ticks += 1;
        let ticks = self.ticks;
        let lapsed: Vec<_> = self.granted.extract_if(.., |_, grant| ticks - grant.at >= GRANT_TICKS).collect();
        for (_, grant) in &lapsed {
            // It held the slice that long, and pays for it: or it would be first in line again.
            self.settle(grant.share, self.slice_nanos);
        }
        (0..lapsed.len()).map_while(|_| self.grant()).collect()
    }

    /// True where a tick may change something.
    pub(super) fn has_grants(&self) -> bool {
        !self.granted.is_empty()
    }

    fn out(&self) -> usize {
        self.computing + self.granted.len()
    }

    fn grant(&mut self) -> Option<Ticket> {
        if self.out() >= self.slices {
            return None;
        }
        let waiting = self.shares.iter_mut().filter(|(_, share)| !share.line.is_empty());
        let (id, next) = waiting.min_by_key(|(_, share)| share.had)?;
        let ticket = next.line.pop_first()?;
        let had = next.had;
        next.had = next.had.saturating_add(self.slice_nanos);
        next.out += 1;
        self.granted.insert(ticket, Grant { share: *id, at: self.ticks });
        self.raise_floor(had);
        Some(ticket)
    }

    fn next_ticket(&mut self) -> Ticket {
        let ticket = self.next;
        self.next += 1;
        ticket
    }

    /// A share is served that had had so much.
    fn raise_floor(&mut self, had: u64) {
        if had > self.floor {
            self.floor = had;
            self.forget();
        }
    }

    /// One slice of the share is no longer out, and took so long.
    fn settle(&mut self, share: ShareId, took_nanos: u64) {
        if let Some(had) = self.shares.get_mut(&share) {
            had.had = had.had.saturating_sub(self.slice_nanos).saturating_add(took_nanos);
            had.out = had.out.saturating_sub(1);
        }
        self.forget();
    }

    /// Those whose time makes no difference any more.
    fn forget(&mut self) {
        if self.shares.values().all(Share::is_idle) {
            self.shares.clear(); // nobody wants what they had
        }
        let floor = self.floor;
        self.shares.retain(|_, share| !share.is_idle() || share.had > floor);
    }
}

impl Share {
    fn is_idle(&self) -> bool {
        self.line.is_empty() && self.out == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SLICE: u64 = 10;

    /// What a guest of a share is doing.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Guest {
        Away,
        Waits(Ticket),
        Computes,
    }

    struct World {
        queue: FairQueue,
        guests: Vec<(ShareId, Guest)>,
        /// Time that each share computed.
        had: BTreeMap<ShareId, u64>,
    }

    impl World {
        fn new(slices: usize, guests: &[ShareId]) -> Self {
            let guests = guests.iter().map(|share| (*share, Guest::Away)).collect();
            Self { queue: FairQueue::new(slices, SLICE), guests, had: BTreeMap::new() }
        }

        fn ask(&mut self, at: usize) -> bool {
            let (share, guest) = self.guests[at];
            let ticket = match guest {
                Guest::Computes => return true,
                Guest::Waits(ticket) => Some(ticket),
                Guest::Away => None,
            };
            let answer = self.queue.ask(share, ticket);
            self.guests[at].1 = match answer {
                Answer::Compute => Guest::Computes,
                Answer::Wait(ticket) => Guest::Waits(ticket),
            };
            answer == Answer::Compute
        }

        fn give_back(&mut self, at: usize, took: u64) -> Option<Ticket> {
            let (share, guest) = self.guests[at];
            assert_eq!(guest, Guest::Computes);
            self.guests[at].1 = Guest::Away;
            *self.had.entry(share).or_default() += took;
            self.queue.give_back(share, took)
        }

        /// Answers who is next, maybe the same.
        fn give_way(&mut self, at: usize, took: u64) -> usize {
            let (share, guest) = self.guests[at];
            assert_eq!(guest, Guest::Computes);
            *self.had.entry(share).or_default() += took;
            let (ticket, next) = self.queue.give_way(share, took);
            self.guests[at].1 = Guest::Waits(ticket);
            self.who(next.unwrap())
        }

        fn leave(&mut self, at: usize) {
            let (share, guest) = self.guests[at];
            match guest {
                Guest::Computes => drop(self.give_back(at, 1)),
                Guest::Waits(ticket) => drop(self.queue.leave(share, ticket)),
                Guest::Away => {}
            }
            self.guests[at].1 = Guest::Away;
        }

        fn who(&self, ticket: Ticket) -> usize {
            self.guests.iter().position(|(_, guest)| *guest == Guest::Waits(ticket)).unwrap()
        }

        fn holds(&self) {
            let queue = &self.queue;
            let computing = self.guests.iter().filter(|(_, guest)| *guest == Guest::Computes).count();
            assert_eq!(queue.computing, computing);
            assert!(queue.out() <= queue.slices, "too many slices are out");
            let waiting: usize = queue.shares.values().map(|share| share.line.len()).sum();
            assert!(waiting == 0 || queue.out() == queue.slices, "somebody waits though a slice is free");
            assert_eq!(queue.shares.values().map(|share| share.out).sum::<usize>(), queue.out());
        }
    }

    /// One slice after the other on one processor, each with its own length. All guests ask all the time.
    fn in_turns(shares: &[ShareId], rounds: usize, took: impl Fn(ShareId) -> u64) -> World {
        let mut world = World::new(1, shares);
        assert!(world.ask(0));
        (1..shares.len()).for_each(|at| assert!(!world.ask(at)));
        let mut at = 0;
        for _ in 0..rounds {
            let next = world.give_back(at, took(world.guests[at].0)).expect("others wait");
            assert!(!world.ask(at), "it goes to the end of its line");
            at = world.who(next);
            assert!(world.ask(at));
            world.holds();
        }
        world
    }

    #[test]
    fn many_guests_of_one_workload_get_no_more_than_one_of_another() {
        let mut shares = vec![1; 99];
        shares.push(2);
        let world = in_turns(&shares, 1000, |_| SLICE);
        assert!(world.had[&1].abs_diff(world.had[&2]) <= 2 * SLICE, "{:?}", world.had);
    }

    #[test]
    fn who_takes_little_comes_more_often() {
        let world = in_turns(&[1, 1, 1, 2, 2], 1000, |share| if share == 1 { SLICE } else { 1 });
        assert!(world.had[&1].abs_diff(world.had[&2]) <= 2 * SLICE, "{:?}", world.had);
    }

    /// Each is alone in its workload, and goes on computing.
    #[test]
    fn who_takes_long_comes_less_often() {
        let mut world = World::new(1, &[1, 2]);
        assert!(world.ask(0) && !world.ask(1));
        let mut at = 0;
        for _ in 0..1000 {
            at = world.give_way(at, if at == 0 { 3 * SLICE } else { SLICE });
            assert!(world.ask(at));
            world.holds();
        }
        assert!(world.had[&1].abs_diff(world.had[&2]) <= 4 * SLICE, "{:?}", world.had);
    }

    /// One comes back with a request after the other, and always finds somebody waiting.
    #[test]
    fn who_comes_back_has_had_what_it_had() {
        let world = in_turns(&[1, 2, 2], 1000, |share| if share == 1 { 3 * SLICE } else { SLICE });
        assert!(world.had[&1].abs_diff(world.had[&2]) <= 4 * SLICE, "{:?}", world.had);
        let mut world = world;
        (0..3).for_each(|at| world.leave(at));
        assert!(world.queue.shares.is_empty(), "once nobody waits, that is forgiven");
    }

    #[test]
    fn who_is_gone_is_forgotten_once_others_had_as_much() {
        let mut world = in_turns(&[1, 1], 0, |_| SLICE);
        let mut at = 0;
        for share in 2..1000 {
            world.guests.push((share, Guest::Away));
            let newcomer = world.guests.len() - 1;
            world.ask(newcomer);
            let mut turns = 0;
            while at != newcomer {
                at = world.give_way(at, SLICE);
                assert!(world.ask(at));
                turns += 1;
                assert!(turns < 4);
            }
            let next = world.give_back(at, SLICE).unwrap();
            at = world.who(next);
            assert!(world.ask(at));
            assert!(world.queue.shares.len() < 5, "{}", world.queue.shares.len());
        }
    }

    #[test]
    fn a_newcomer_waits_for_no_more_than_one_slice_and_has_no_credit() {
        let mut world = in_turns(&[1, 1, 1, 1, 2], 0, |_| SLICE);
        world.leave(4);
        let mut at = 0;
        for _ in 0..100 {
            let next = world.give_back(at, SLICE).unwrap();
            world.ask(at);
            at = world.who(next);
            world.ask(at);
        }
        world.ask(4);
        let next = world.give_back(at, SLICE).unwrap();
        assert_eq!(world.who(next), 4, "the other had more");
        assert!(world.ask(4));
        world.ask(at);
        let next = world.give_back(4, SLICE).unwrap();
        world.ask(4);
        assert_ne!(world.who(next), 4, "from then on it has its half");
    }

    #[test]
    fn a_grant_that_nobody_takes_up_lapses() {
        let mut world = World::new(1, &[1, 2, 3]);
        assert!(world.ask(0));
        assert!(!world.ask(1));
        assert!(!world.ask(2));
        let dead = world.give_back(0, SLICE).unwrap();
        assert_eq!(world.who(dead), 1);
        assert!(world.queue.tick().is_empty());
        let next = world.queue.tick();
        assert_eq!(next.iter().map(|ticket| world.who(*ticket)).collect::<Vec<_>>(), [2]);
        assert!(world.ask(2));
        assert!(!world.ask(1), "it comes back, and waits as if it had not asked");
        world.holds();
        assert!(world.give_back(2, SLICE).is_some());
        assert!(world.ask(1));
    }

    #[test]
    fn who_leaves_passes_its_turn_on() {
        let mut world = World::new(1, &[1, 2, 3]);
        (0..3).for_each(|at| _ = world.ask(at));
        world.give_back(0, SLICE);
        world.leave(1);
        assert!(world.ask(2));
        world.leave(2);
        assert!(world.queue.shares.is_empty(), "nobody is remembered");
    }

    proptest! {
        /// Whoever comes, goes, sleeps or dawdles: slices are neither lost nor made, and none is idle while somebody waits.
        #[test]
        fn no_slice_is_lost(
            slices in 1usize..4,
            steps in prop::collection::vec((0usize..12, 0u8..4, 0u64..3 * SLICE), 0..400),
        ) {
            let shares: Vec<_> = (0..12).map(|at| at % 5).collect();
            let mut world = World::new(slices, &shares);
            for (at, what, took) in steps {
                match (what, world.guests[at].1) {
                    (0, Guest::Computes) => drop(world.give_back(at, took)),
                    (1, Guest::Computes) => drop(world.give_way(at, took)),
                    (0 | 1, _) => drop(world.ask(at)),
                    (2, _) => world.leave(at),
                    _ => drop(world.queue.tick()),
                }
                world.holds();
            }
            // Everybody who still waits is served, without any help but that of those who are awake.
            let awake: Vec<_> = (0..12).filter(|at| world.guests[*at].1 != Guest::Away).collect();
            for at in awake {
                let mut polls = 0;
                while !world.ask(at) {
                    polls += 1;
                    prop_assert!(polls < 100, "it is never served");
                    world.queue.tick();
                    if let Some(other) = world.guests.iter().position(|(_, guest)| *guest == Guest::Computes) {
                        world.give_back(other, SLICE);
                    }
                }
                world.give_back(at, SLICE);
            }
        }
    }
}
