//! Workloads that scale themselves, on real control planes under faults: the number stays within what the spec allows; once
//! nothing fails any more it is what the load asks for and stays so; none is left at zero while requests wait.
//!
//! Start at [`run`]. A world of its own beside `world.rs`, on a fleet of nodes (`fleet.rs`): nobody changes a spec here.

use crate::{
    Facts, Options, Outcome,
    checkers::is_converged,
    fleet::{Fleet, Misfortune},
    in_virtual_time,
};
use lattice::{
    id::WorkloadName,
    record::Scale,
    spec::{AutoscaleSpec, JetStreamName, PendingTarget, ScaleTarget, WorkloadSpec},
    subject::Topic,
    units::Millis,
};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// The bound: a resync, a kill, reports from everybody, the windows of the spec, and rounds of claims.
pub const OPTIONS: Options =
    Options { faults: Duration::from_secs(120), bound: Duration::from_secs(150), rest: Duration::from_secs(30) };
const TARGET: u32 = 4;
/// What follows from messages at a consumer, and is asked for by nobody.
const DRAINS: &str = "drains";

struct World {
    fleet: Fleet,
    /// Requests at a time, or messages at the consumer of the workload that has one.
    load: BTreeMap<WorkloadName, u64>,
    asked: Instant,
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

impl World {
    async fn new(seed: u64) -> World {
        let fleet = Fleet::new(seed, 3).await;
        for (name, autoscale) in specs() {
            let spec = fleet.spec(&name, |spec| WorkloadSpec { autoscale: Some(autoscale), ..spec });
            fleet.ask(Topic::WorkloadPut, spec).await;
        }
        let load = specs().into_keys().map(|name| (name, 0)).collect();
        World { fleet, load, asked: Instant::now(), scales: BTreeMap::new() }
    }

    /// Answers how long after the faults all was as the load asks.
    async fn both_phases(&mut self, options: Options) -> Result<Duration, String> {
        let (end, mut next) = (Instant::now() + options.faults, Instant::now());
        while Instant::now() < end {
            self.step().await?;
            if Instant::now() >= next {
                self.something_happens();
                next = Instant::now() + self.fleet.rng.millis(200, 5_000);
            }
        }
        self.fleet.make_peace();
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
        self.fleet.step().await?;
        let Fleet { traffic, history, .. } = &self.fleet;
        let view = &history.view;
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
            let replicas = self.fleet.ready(name);
            if name.as_str() == DRAINS {
                traffic.set_pending(name, *load);
                traffic.set(name, 0, replicas);
                continue;
            }
            traffic.set(name, *load, replicas);
            if *load > 0 && replicas == 0 && is_due {
                self.fleet.pick().into_iter().for_each(|node| node.awaits(name));
            }
        }
        if is_due {
            self.asked = Instant::now();
        }
        Ok(())
    }

    fn something_happens(&mut self) {
        if !self.fleet.rng.happens(450) {
            return self.fleet.befall(Misfortune { kill: 18, leave: 0, of_bus: false });
        }
        let Fleet { rng, trace, .. } = &mut self.fleet;
        let names: Vec<WorkloadName> = self.load.keys().cloned().collect();
        let load = if rng.happens(400) { 0 } else { rng.between(1, 24) };
        if let Some(name) = rng.pick(&names) {
            let what = if name.as_str() == DRAINS { "messages" } else { "requests at a time" };
            trace.note(format!("{load} {what} for {name}"));
            self.load.insert(name.clone(), load);
        }
    }

    /// What the load asks for holds, and runs.
    fn at_rest(&self) -> Result<(), String> {
        let view = &self.fleet.history.view;
        is_converged(view, &self.fleet.nodes)?;
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
            if load > 0 && self.fleet.ready(&name) == 0 {
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
        world.fleet.trace.note(format!("VIOLATION {violation}"));
    }
    let facts = Facts {
        decisions: world.decisions(),
        claims: world.fleet.history.claims,
        slot_writes: world.fleet.history.slot_writes,
        converged_after: played.as_ref().ok().copied(),
        ..Facts::default()
    };
    Outcome { seed, violation: played.err(), trace: world.fleet.trace, facts }
}
