//! Workloads that scale themselves, on real control planes under faults: the number stays within what the spec allows; once
//! nothing fails any more it is what the load asks for and stays so; none is left at zero while requests wait.
//!
//! Start at [`run`]. A world of its own beside `world.rs`: there is no load there, and here nobody changes a spec.

use crate::{
    Facts, Options, Outcome,
    chance::{SimClock, SimRng},
    checkers::{History, is_converged},
    in_virtual_time, lattice_id,
    network::{Link, Sky},
    node::{NodeSetup, SimNode},
    ticks::Fired,
    trace::Trace,
    traffic::Traffic,
};
use bytes::Bytes;
use lattice::{
    id::{NodeId, WorkloadName},
    record::{Capacity, Phase, Scale},
    spec::{AutoscaleSpec, ComponentSpec, JetStreamName, Limits, PendingTarget, ScaleTarget, Source, WorkloadSpec},
    store::{Headers, Platform},
    subject::Topic,
    testing::MemoryLattice,
    units::{self, Millis},
    view::LatticeView,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

const STEP: Duration = Duration::from_millis(100);
/// The bound: a resync, a kill, reports from everybody, the windows of the spec, and rounds of claims.
pub const OPTIONS: Options =
    Options { faults: Duration::from_secs(120), bound: Duration::from_secs(150), rest: Duration::from_secs(30) };
const TARGET: u32 = 4;
/// What follows from messages at a consumer, and is asked for by nobody.
const DRAINS: &str = "drains";

struct World {
    rng: SimRng,
    nodes: Vec<SimNode>,
    sky: Sky,
    traffic: Traffic,
    /// Requests at a time, or messages at the consumer of the workload that has one.
    load: BTreeMap<WorkloadName, u64>,
    asked: Instant,
    history: History,
    trace: Trace,
    /// Every record, in the order of writes.
    scales: BTreeMap<WorkloadName, Vec<Scale>>,
}

fn specs() -> BTreeMap<WorkloadName, AutoscaleSpec> {
    let of = |name: &str, min: u32, max: u32| {
        let autoscale = AutoscaleSpec {
            target: ScaleTarget::Concurrency(TARGET),
            down_after: Millis::from_secs(8),
            idle: (min == 0).then_some(Millis::from_secs(5)),
            ..AutoscaleSpec::new(min, max)
        };
        (WorkloadName::new(name).expect("it is a name"), autoscale)
    };
    let (drains, autoscale) = of(DRAINS, 0, 5);
    let stream = JetStreamName::try_from("orders".to_owned()).expect("it is a name");
    let target = ScaleTarget::Pending(PendingTarget { consumer: stream.clone(), stream, each: TARGET });
    let drains = (drains, AutoscaleSpec { target, ..autoscale });
    [of("rests", 0, 5), of("sleeps", 0, 2), of("works", 2, 6), drains].into()
}

async fn put(person: &Platform, name: &WorkloadName, autoscale: AutoscaleSpec) {
    let source = Source::Stored(person.artifacts.put(Bytes::from_static(b"component")).await.expect("it is stored"));
    let limits = Limits { memory: units::Bytes::mib(32), ..Limits::default() };
    let main = ComponentSpec::new("main".parse().expect("it is a name"), source);
    let spec = WorkloadSpec { limits, autoscale: Some(autoscale), ..WorkloadSpec::new(name.clone(), main) };
    let payload: Bytes = serde_json::to_vec(&spec).expect("a spec has a JSON form").into();
    let subject = Topic::WorkloadPut.subject(&lattice_id());
    let timeout = Duration::from_secs(4);
    while person.bus.request(subject.clone(), Headers::new(), payload.clone(), timeout).await.is_err() {
        sleep(Duration::from_millis(500)).await;
    }
}

/// Replicas that answer, as the records say.
fn ready(view: &LatticeView, workload: &WorkloadName) -> u64 {
    let ready = view
        .slots_of(workload)
        .filter(|(_, slot)| slot.record.phase == Phase::Ready && view.live(&slot.record.holder).is_some());
    ready.count() as u64
}

impl World {
    async fn new(seed: u64) -> World {
        let (lattice, rng) = (MemoryLattice::new(), SimRng::new(seed, 1));
        let person = lattice.platform(Arc::new(SimClock::new(&rng)), Arc::new(SimRng::new(seed, 2)));
        let (sky, traffic) = (Sky::default(), Traffic::default());
        let nodes = (1..=3).map(|number| {
            let setup = NodeSetup {
                id: NodeId::new(format!("n{number}")).expect("it is a name"),
                capacity: Capacity { slots: 8, memory: 1 << 30 },
                zone: "a".to_owned(),
                taints: Vec::new(),
                gpus: Vec::new(),
                comes_back: true,
            };
            let mut node = SimNode::new(seed, number, setup, sky.clone(), &lattice, Fired::default());
            node.carry(traffic.clone());
            node.start(false);
            node
        });
        let nodes = nodes.collect();
        let history = History::new(&lattice, sky.clone()).await;
        let load = specs().into_keys().map(|name| (name, 0)).collect();
        let (trace, asked, scales) = (Trace::new(), Instant::now(), BTreeMap::new());
        for (name, autoscale) in specs() {
            put(&person, &name, autoscale).await;
        }
        World { rng, nodes, sky, traffic, load, asked, history, trace, scales }
    }

    /// Answers how long after the faults all was as the load asks.
    async fn both_phases(&mut self, options: Options) -> Result<Duration, String> {
        let (end, mut next) = (Instant::now() + options.faults, Instant::now());
        while Instant::now() < end {
            self.step().await?;
            if Instant::now() >= next {
                self.something_happens();
                next = Instant::now() + self.rng.millis(200, 5_000);
            }
        }
        self.make_peace();
        let peace = Instant::now();
        let mut rested: Option<(Instant, u64)> = None;
        while rested.is_none_or(|(since, _)| since.elapsed() < options.rest) {
            self.step().await?;
            let decisions = self.decisions();
            rested = match (self.at_rest(), rested) {
                (Ok(()), Some((since, before))) if before == decisions => Some((since, before)),
                (Ok(()), _) => Some((Instant::now(), decisions)),
                (Err(not_yet), _) if peace.elapsed() > options.bound => return Err(not_yet),
                (Err(_), _) => None,
            };
            if peace.elapsed() > options.bound + options.rest {
                return Err("the number of replicas goes on changing".into());
            }
        }
        Ok(rested.map_or(options.bound, |(since, _)| since.duration_since(peace)))
    }

    /// Let a little time pass. Clients find what is ready, or wait at some node.
    async fn step(&mut self) -> Result<(), String> {
        sleep(STEP).await;
        self.history.follow(&mut self.trace)?;
        let view = &self.history.view;
        for (name, scale) in &view.scales {
            let scale = &scale.record;
            let Some(spec) = view.specs.get(name) else { continue };
            let seen = self.scales.entry(name.clone()).or_default();
            if seen.last() == Some(scale) {
                continue;
            }
            let autoscale = spec.record.spec.autoscale.as_ref().ok_or("the spec scales itself")?;
            if scale.uid == spec.record.uid && autoscale.within(scale.replicas) != scale.replicas {
                return Err(format!("{name} is to have {} replicas: {autoscale:?}", scale.replicas));
            }
            seen.push(scale.clone());
        }
        let is_due = self.asked.elapsed() >= Duration::from_secs(1);
        for (name, load) in &self.load {
            let replicas = ready(view, name);
            if name.as_str() == DRAINS {
                self.traffic.set_pending(name, *load);
                self.traffic.set(name, 0, replicas);
                continue;
            }
            self.traffic.set(name, *load, replicas);
            if *load > 0 && replicas == 0 && is_due {
                let i = usize::try_from(self.rng.between(0, self.nodes.len() as u64 - 1)).unwrap_or(0);
                self.nodes.get(i).into_iter().for_each(|node| node.awaits(name));
            }
        }
        if is_due {
            self.asked = Instant::now();
        }
        for node in &mut self.nodes {
            if let Some(Err(error)) = node.ended().await {
                return Err(format!("{} ended by itself: {error}", node.id));
            }
            if !node.is_alive() && self.rng.happens(20) {
                node.start(false);
            }
        }
        Ok(())
    }

    fn something_happens(&mut self) {
        let i = usize::try_from(self.rng.between(0, self.nodes.len() as u64 - 1)).unwrap_or(0);
        let Some(node) = self.nodes.get_mut(i) else { return };
        match self.rng.between(0, 99) {
            0..45 => {
                let names: Vec<WorkloadName> = self.load.keys().cloned().collect();
                let w = usize::try_from(self.rng.between(0, names.len() as u64 - 1)).unwrap_or(0);
                let load = if self.rng.happens(400) { 0 } else { self.rng.between(1, 24) };
                if let Some(name) = names.get(w) {
                    let what = if name.as_str() == DRAINS { "messages" } else { "requests at a time" };
                    self.trace.note(format!("{load} {what} for {name}"));
                    self.load.insert(name.clone(), load);
                }
            }
            45..60 => node.wire.set(if node.wire.link() == Link::Up { Link::Silent } else { Link::Up }),
            60..70 if node.is_alive() => node.crash(),
            70..80 => {
                if node.is_paused() {
                    node.resume()
                } else {
                    node.pause()
                }
            }
            80..90 => {
                let until = Instant::now() + self.rng.millis(500, 9_000);
                self.sky.set(|weather| weather.stalled_until = Some(until));
            }
            _ => {
                let (requests, writes, changes) =
                    (self.rng.between(0, 50), self.rng.between(0, 100), self.rng.between(0, 200));
                self.sky.set(|weather| {
                    (weather.lost_requests, weather.late_writes, weather.lost_changes) = (requests, writes, changes);
                });
            }
        }
    }

    fn make_peace(&mut self) {
        self.sky.set(|weather| *weather = Default::default());
        for node in &mut self.nodes {
            node.wire.set(Link::Up);
            if node.is_paused() {
                node.resume();
            }
            if !node.is_alive() {
                node.start(true);
            }
            node.host().into_iter().for_each(|host| host.be_fair());
        }
    }

    /// What the load asks for holds, and runs.
    fn at_rest(&self) -> Result<(), String> {
        let view = &self.history.view;
        is_converged(view, &self.nodes)?;
        for (name, autoscale) in specs() {
            let load = self.load.get(&name).copied().unwrap_or(0);
            let spec = view.specs.get(&name).ok_or("the spec is there")?;
            let needed = u32::try_from(load.div_ceil(TARGET.into())).unwrap_or(u32::MAX);
            let (wanted, expected) = (view.replicas(&spec.record), autoscale.within(needed));
            // A load within a tenth of what there is changes nothing.
            let is_close = load * 10 > u64::from(wanted) * u64::from(TARGET) * 9
                && load * 10 <= u64::from(wanted) * u64::from(TARGET) * 11;
            if wanted != expected && !is_close {
                return Err(format!("{name} is to have {wanted} replicas, and {load} requests take {expected}"));
            }
            if load > 0 && ready(view, &name) == 0 {
                return Err(format!("{load} requests wait for {name}"));
            }
        }
        Ok(())
    }

    /// Numbers of replicas that were decided on.
    fn decisions(&self) -> u64 {
        self.scales.values().map(|scales| scales.len() as u64).sum()
    }
}

/// Play one seed, in virtual time, on this thread.
pub fn run(seed: u64, options: Options) -> Outcome {
    in_virtual_time(&format!("seed {seed}"), play(seed, options))
}

async fn play(seed: u64, options: Options) -> Outcome {
    let mut world = World::new(seed).await;
    let played = world.both_phases(options).await;
    if let Err(violation) = &played {
        world.trace.note(format!("VIOLATION {violation}"));
    }
    let facts = Facts {
        decisions: world.decisions(),
        claims: world.history.claims,
        slot_writes: world.history.slot_writes,
        converged_after: played.as_ref().ok().copied(),
        ..Facts::default()
    };
    Outcome { seed, violation: played.err(), trace: world.trace, facts }
}
