//! Routers that pick, nodes that serve and queue, in simulated time from a seed. What is asserted holds for every seed
//! that is tried, beside a router that picks by chance alone.

use super::*;
use crate::Spread;
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
};

const SEEDS: u64 = 4;
const SEATS: u32 = 4;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn node(number: usize) -> NodeId {
    format!("n{number}").parse().unwrap()
}

/// Each with one replica; the first `near` are in this zone.
fn route(nodes: usize, near: usize, near_permille: u16) -> RouteEntry {
    let endpoint = |number| Endpoint { node: node(number), slots: 1, suspect: false, near: number < near };
    let mut endpoints: Vec<Endpoint> = (0..nodes).map(endpoint).collect();
    endpoints.sort_by(|one, other| one.node.cmp(&other.node));
    RouteEntry {
        endpoints: Arc::from(endpoints),
        spread: Spread { near_permille, seats: SEATS },
        ..crate::tests::bare_entry()
    }
}

struct Chance(u64);
impl Chance {
    fn u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
    /// Exponential.
    fn around(&mut self, mean: Duration) -> Duration {
        let uniform = ((self.u64() >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
        mean.mul_f64(-uniform.ln())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    Ours,
    Chance,
}

/// A node: requests at a time, and the others in line.
struct Server {
    mean: Duration,
    /// Fails at once meanwhile.
    broken: (Duration, Duration),
    at_work: u32,
    line: VecDeque<Sent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Sent {
    at: Duration,
    router: usize,
    server: usize,
    fails: bool,
    is_trial: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives { router: usize },
    Done(Sent),
}

struct World {
    policy: Policy,
    chance: Chance,
    /// To the servers but the one at home.
    route: RouteEntry,
    /// The server on the node of the routers.
    home: Option<usize>,
    routers: Vec<Balancer>,
    servers: Vec<Server>,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    number: u64,
    /// To the end of each request, and when it was sent where.
    took: Vec<Duration>,
    sent: Vec<(Duration, usize, bool)>,
}

impl World {
    fn new(policy: Policy, seed: u64, route: RouteEntry, means: &[Duration], routers: usize) -> Self {
        let server = |mean: &Duration| Server {
            mean: *mean,
            broken: (Duration::MAX, Duration::MAX),
            at_work: 0,
            line: VecDeque::new(),
        };
        Self {
            policy,
            chance: Chance(seed),
            route,
            home: None,
            routers: vec![Balancer::default(); routers],
            servers: means.iter().map(server).collect(),
            events: BinaryHeap::new(),
            number: 0,
            took: Vec::new(),
            sent: Vec::new(),
        }
    }

    fn push(&mut self, at: Duration, event: Event) {
        self.number += 1;
        self.events.push(Reverse((at, self.number, event)));
    }

    /// So many requests, `every` so often at each router.
    fn run(mut self, requests: usize, every: Duration) -> Self {
        for router in 0..self.routers.len() {
            self.push(Duration::ZERO, Event::Arrives { router });
        }
        while let Some(Reverse((now, _, event))) = self.events.pop() {
            match event {
                Event::Arrives { router } => {
                    if self.sent.len() < requests {
                        self.arrive(router, now);
                        let next = now + self.chance.around(every);
                        self.push(next, Event::Arrives { router });
                    }
                }
                Event::Done(sent) => self.done(sent, now),
            }
        }
        self
    }

    fn arrive(&mut self, router: usize, now: Duration) {
        let random = self.chance.u64();
        let picked = match self.policy {
            Policy::Chance => node((random % self.servers.len() as u64) as usize),
            Policy::Ours => {
                let ask = Ask { now, random, tried: &[], suspects: &[] };
                let home = self.home.map(node);
                let has_room = |home: usize| self.servers[home].at_work < SEATS && self.servers[home].line.is_empty();
                let here = home.as_ref().zip(self.home);
                let here = here.map(|(node, home)| Here { node, has_room: has_room(home) });
                self.routers[router].choose(&self.route, ask, here).unwrap().clone()
            }
        };
        let server: usize = picked.as_str()[1..].parse().unwrap();
        let is_trial = match self.home == Some(server) {
            true => self.routers[router].begin_here(now),
            false => self.routers[router].begin(&picked, now),
        };
        let (from, until) = self.servers[server].broken;
        let fails = from <= now && now < until;
        self.sent.push((now, server, fails));
        let sent = Sent { at: now, router, server, fails, is_trial };
        if fails {
            self.push(now + ms(1), Event::Done(sent));
        } else {
            self.servers[server].line.push_back(sent);
            self.work(server, now);
        }
    }

    fn work(&mut self, server: usize, now: Duration) {
        while self.servers[server].at_work < SEATS
            && let Some(sent) = self.servers[server].line.pop_front()
        {
            self.servers[server].at_work += 1;
            let done = now + self.chance.around(self.servers[server].mean);
            self.push(done, Event::Done(sent));
        }
    }

    fn done(&mut self, sent: Sent, now: Duration) {
        let took = now - sent.at;
        let outcome = if sent.fails { Outcome::Failed(took) } else { Outcome::Answered(took) };
        let router = &mut self.routers[sent.router];
        if self.home == Some(sent.server) {
            router.learn_here(now, !sent.fails);
            if sent.is_trial {
                router.end_here();
            }
        } else {
            router.learn(&node(sent.server), now, outcome);
            router.end(&node(sent.server), sent.is_trial);
        }
        if !sent.fails {
            self.took.push(took);
            self.servers[sent.server].at_work -= 1;
            self.work(sent.server, now);
        }
    }

    fn p99(&self) -> Duration {
        let mut took = self.took.clone();
        took.sort();
        took[took.len() * 99 / 100]
    }

    /// Of the requests that were sent in a time, the part that went to a server.
    fn share(&self, server: usize, (from, until): (Duration, Duration)) -> f64 {
        let within: Vec<_> = self.sent.iter().filter(|(at, ..)| (from..until).contains(at)).collect();
        within.iter().filter(|(_, to, _)| *to == server).count() as f64 / within.len() as f64
    }
}

const ALWAYS: (Duration, Duration) = (Duration::ZERO, Duration::MAX);

#[test]
fn a_slow_node_gets_less_and_the_tail_is_shorter_than_by_chance() {
    let mut means = [ms(10); 8];
    means[0] = ms(100);
    for seed in 0..SEEDS {
        let run = |policy| World::new(policy, seed, route(8, 0, 0), &means, 3).run(10_000, ms(3));
        let (ours, chance) = (run(Policy::Ours), run(Policy::Chance));
        let share = ours.share(0, ALWAYS);
        assert!(share < 0.5 / 8.0, "seed {seed}: the slow one of eight got {share:.3}");
        assert!(share > 0.0, "seed {seed}: it is asked now and then");
        assert!(ours.p99() * 3 < chance.p99(), "seed {seed}: p99 {:?}, by chance {:?}", ours.p99(), chance.p99());
    }
}

#[test]
fn equal_nodes_get_equal_shares() {
    for seed in 0..SEEDS {
        let world = World::new(Policy::Ours, seed, route(5, 0, 0), &[ms(10); 5], 2).run(10_000, ms(4));
        for server in 0..5 {
            let share = world.share(server, ALWAYS);
            // A single slow answer counts for a while: that is the price of noticing a slow node at once.
            assert!((0.13..0.27).contains(&share), "seed {seed}: {server} got {share:.3}");
        }
    }
}

#[test]
fn a_node_that_fails_is_left_out_and_comes_back() {
    let (from, until) = (Duration::from_secs(10), Duration::from_secs(30));
    for seed in 0..SEEDS {
        let mut world = World::new(Policy::Ours, seed, route(4, 0, 0), &[ms(10); 4], 1);
        world.servers[0].broken = (from, until);
        let world = world.run(12_000, ms(6));
        let failed = world.sent.iter().filter(|(_, _, fails)| *fails).count();
        // Five to find out, some that were on their way, and the trials after 5 and after 15 s.
        assert!((7..=10).contains(&failed), "seed {seed}: {failed} requests failed");
        let last = world.sent.last().unwrap().0;
        assert!(last > Duration::from_secs(60), "seed {seed}: {last:?}");
        let share = world.share(0, (Duration::from_secs(55), last));
        assert!(share > 0.15, "seed {seed}: it is back, with {share:.3}");
    }
}

#[test]
fn instances_at_home_that_fail_leave_their_requests_to_others_and_get_them_back() {
    let (from, until) = (Duration::from_secs(10), Duration::from_secs(30));
    for seed in 0..SEEDS {
        let mut world = World::new(Policy::Ours, seed, route(3, 0, 0), &[ms(10); 4], 1);
        world.home = Some(3);
        world.servers[3].broken = (from, until);
        let world = world.run(12_000, ms(6));
        let failed = world.sent.iter().filter(|(_, _, fails)| *fails).count();
        assert!((7..=10).contains(&failed), "seed {seed}: {failed} requests failed");
        let share = |from, until| world.share(3, (Duration::from_secs(from), Duration::from_secs(until)));
        assert!(share(0, 10) > 0.9, "seed {seed}: home first, with {:.3}", share(0, 10));
        assert!(share(11, 30) < 0.01, "seed {seed}: others first, with {:.3}", share(11, 30));
        assert!(share(55, 70) > 0.9, "seed {seed}: home again, with {:.3}", share(55, 70));
    }
}

#[test]
fn where_all_failed_each_one_that_is_well_again_is_found() {
    for (seed, well) in (0..SEEDS).flat_map(|seed| (0..4).map(move |well| (seed, well))) {
        let mut world = World::new(Policy::Ours, seed, route(3, 0, 0), &[ms(10); 4], 1);
        world.home = Some(3);
        world.servers.iter_mut().for_each(|server| server.broken = ALWAYS);
        world.servers[well].broken = (Duration::ZERO, Duration::from_secs(10));
        let world = world.run(12_000, ms(6));
        // The longest that any of them is left out by then is 20 s.
        let late = world.share(well, (Duration::from_secs(40), Duration::MAX));
        assert!(late > 0.9, "seed {seed}: {well} is well, and got {late:.3}");
    }
}

/// Only differences of one clock are looked at: whoever starts at another time does the same.
#[test]
fn what_the_clock_says_at_the_start_is_of_no_account() {
    let run = |start: Duration| {
        let mut balancer = Balancer::default();
        let mut chance = Chance(1);
        let route = route(4, 0, 0);
        let mut picked = Vec::new();
        for step in 0..2_000_u32 {
            let now = start + ms(20) * step;
            let random = chance.u64();
            let node = balancer.choose(&route, Ask { now, random, tried: &[], suspects: &[] }, None).unwrap().clone();
            let is_trial = balancer.begin(&node, now);
            let fails = node.as_str() == "n0" && (200..900).contains(&step);
            let outcome = if fails { Outcome::Failed(ms(1)) } else { Outcome::Answered(ms(10)) };
            balancer.learn(&node, now + ms(10), outcome);
            balancer.end(&node, is_trial);
            picked.push(node);
        }
        picked
    };
    let first = run(Duration::from_secs(3600));
    assert!(first.iter().any(|node| node.as_str() == "n0"));
    assert_eq!(run(Duration::from_secs(40 * 365 * 86_400)), first);
}

#[test]
fn never_more_than_half_are_left_out() {
    for seed in 0..SEEDS {
        let mut world = World::new(Policy::Ours, seed, route(5, 0, 0), &[ms(10); 5], 1);
        world.servers.iter_mut().for_each(|server| server.broken = ALWAYS);
        let world = world.run(5_000, ms(2));
        let ejected = world.routers[0].nodes.values().filter(|known| known.outlier.is_ejected()).count();
        assert_eq!(ejected, 2, "seed {seed}");
    }
}

#[test]
fn requests_stay_in_the_zone_as_far_as_it_carries_them() {
    for seed in 0..SEEDS {
        let shares = |near_permille, means: &[Duration], every| {
            let world = World::new(Policy::Ours, seed, route(4, 2, near_permille), means, 1).run(10_000, every);
            world.share(0, ALWAYS) + world.share(1, ALWAYS)
        };
        assert!(shares(1000, &[ms(10); 4], ms(10)) > 0.99, "seed {seed}");
        let half = shares(500, &[ms(10); 4], ms(10));
        assert!((0.47..0.53).contains(&half), "seed {seed}: {half:.3}");
        // Two nodes of four places carry 800 requests a second here; what comes is 1200.
        let spilled = shares(1000, &[ms(10); 4], Duration::from_micros(833));
        assert!((0.5..0.8).contains(&spilled), "seed {seed}: what is too much goes to the others: {spilled:.3}");
    }
}

#[test]
fn what_others_do_there_counts_for_a_while() {
    let route = route(2, 0, 0);
    let mut balancer = Balancer::default();
    let at = |secs| Duration::from_secs(secs);
    let picks = |balancer: &mut Balancer, now| {
        let ask = |random| Ask { now, random, tried: &[], suspects: &[] };
        (0..100_u64).filter(|n| balancer.pick(&route, ask(n << 24)).unwrap().node.as_str() == "n0").count()
    };
    assert_eq!(picks(&mut balancer, at(0)), 50);
    balancer.begin(&node(0), at(0));
    balancer.report(&node(0), 4, at(0));
    balancer.report(&node(1), 1, at(0));
    assert_eq!(picks(&mut balancer, at(1)), 0, "three of others and one of its own are more than one");
    let picked = balancer.pick(&route, Ask { now: at(1), random: 0, tried: &[node(1)], suspects: &[] }).unwrap();
    assert_eq!((picked.node.as_str(), picked.has_room), ("n0", false), "all of its places are taken");
    balancer.end(&node(0), false);
    assert_eq!(picks(&mut balancer, at(20)), 50, "what was said is too old");
    balancer.learn(&node(0), at(20), Outcome::Full);
    let picked = balancer.pick(&route, Ask { now: at(20), random: 0, tried: &[node(1)], suspects: &[] }).unwrap();
    assert!(!picked.has_room);
    balancer.retain(&[], false);
    assert!(balancer.nodes.is_empty(), "what is forgotten takes no room");
}

/// Two nodes, of which this one is full or left out and the other one only fails.
#[test]
fn a_node_that_only_fails_is_not_asked_before_this_one() {
    let route = route(1, 0, 0);
    let here = node(9);
    let at = |secs| Duration::from_secs(secs);
    let ask = |now| Ask { now, random: 7, tried: &[], suspects: &[] };
    let chosen = |balancer: &mut Balancer, now, has_room| {
        balancer.choose(&route, ask(now), Some(Here { node: &here, has_room })).unwrap().clone()
    };
    let mut balancer = Balancer::default();
    assert_eq!(chosen(&mut balancer, at(0), false), node(0), "there is room there");
    for _ in 0..5 {
        balancer.begin(&node(0), at(0));
        balancer.learn(&node(0), at(0), Outcome::Failed(ms(1)));
        balancer.end(&node(0), false);
    }
    assert_eq!(balancer.ejected(), 0, "it is the only other one");
    assert_eq!(chosen(&mut balancer, at(1), false), here, "in line");
    for _ in 0..5 {
        balancer.learn_here(at(1), false);
    }
    assert!(balancer.is_ejected_here());
    assert_eq!(chosen(&mut balancer, at(2), true), here, "nobody is better");
    assert_eq!(chosen(&mut balancer, at(5), true), node(0), "after a while it is thought of as well again");
}

/// Those of this zone only fail, and are too many to be left out.
#[test]
fn another_zone_is_better_than_one_that_only_fails() {
    let route = route(2, 1, 1000);
    let now = Duration::from_secs(1);
    let mut balancer = Balancer::default();
    let known = balancer.nodes.entry(node(0)).or_default();
    (0..5).for_each(|_| known.outlier.fail(now, false));
    let picked = balancer.pick(&route, Ask { now, random: 0, tried: &[], suspects: &[] }).unwrap();
    assert_eq!(picked.node, &node(1));
}
