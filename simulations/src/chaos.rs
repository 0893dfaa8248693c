//! What a seed makes happen: people who change their minds, and bad luck of all kinds.

use crate::{
    Facts, Options, Outcome,
    chance::SimRng,
    checkers::Verdict,
    network::Link,
    node::{NodeSetup, gpu},
    world::{Cure, Fault, World},
};
use bytes::Bytes;
use lattice::{
    gpu::{GpuClass, Offer},
    id::{NodeId, WorkloadName},
    record::Capacity,
    spec::{
        AnalysisSpec, Class, ComponentSpec, GpuSpec, HttpSpec, Limits, PathPrefix, Placement, RequestPath, ReserveSpec,
        RolloutSpec, RolloutStep, Route, ScheduleSpec, Source, Strategy, WorkloadSpec, Zone,
    },
    store::Bucket,
    subject::{Topic, WorkloadVerb},
    units,
};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

const WORKLOADS: u64 = 4;

/// What may befall the store in a run. Each is more than a strict replica's holder can fence itself from, so there are no
/// strict workloads beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Calamity {
    None,
    /// Sessions expire, all at once.
    Expiry,
    /// Acknowledged writes are lost.
    Loss,
    /// Buckets are made anew.
    Anew,
}

struct Chaos {
    world: World,
    workloads: Vec<Workload>,
    calamity: Calamity,
    /// Reads may be answered from the past.
    is_stale: bool,
    /// There are GPUs, and claims on them.
    has_gpus: bool,
}

/// Of a node: none, one, or two.
fn gpus(rng: &SimRng) -> Vec<Offer> {
    let classes = [GpuClass::Discrete, GpuClass::Integrated, GpuClass::Cpu];
    let offer = |number: usize| {
        let class = *rng.pick(&classes).expect("there is one");
        gpu(number, class, rng.between(1, 4) << 30, u32::try_from(rng.between(1, 4)).unwrap_or(1))
    };
    (0..usize::try_from(rng.between(0, 2)).unwrap_or(0)).map(offer).collect()
}

/// What does not change over the lives of a workload.
struct Workload {
    name: WorkloadName,
    class: Class,
    memory: units::Bytes,
    cpu: units::Millicores,
}

pub(crate) async fn play(seed: u64, options: Options) -> Outcome {
    let mut chaos = Chaos::new(seed).await;
    let played = chaos.both_phases(options).await;
    let Chaos { mut world, .. } = chaos;
    if let Err(violation) = &played {
        world.trace.note(format!("VIOLATION {violation}"));
    }
    let facts = Facts { converged_after: played.as_ref().ok().copied(), ..world.facts() };
    Outcome { seed, violation: played.err(), trace: world.trace, facts }
}

impl Chaos {
    async fn new(seed: u64) -> Chaos {
        let mut world = World::new(seed).await;
        let calamity = match world.rng.between(0, 99) {
            0..15 => Calamity::Expiry,
            15..30 => Calamity::Loss,
            30..40 => Calamity::Anew,
            _ => Calamity::None,
        };
        let is_stale = world.rng.happens(300);
        // In every other seed some nodes have GPUs, and some workloads ask for them.
        let has_gpus = seed.is_multiple_of(2);
        // In every fourth one processors are reserved, and some nodes' are fewer than their slots.
        let has_cpus = seed % 4 == 1;
        for number in 1..=world.rng.between(3, 5) {
            let slots = u32::try_from(world.rng.between(2, 5)).unwrap_or(2);
            let memory = (world.rng.between(2, 8) * 64) << 20;
            let millicores = if has_cpus { 400 * u64::from(slots) } else { 0 };
            let capacity = Capacity { slots, memory, millicores };
            let id = NodeId::new(format!("n{number}")).expect("it is a name");
            let zone = if number.is_multiple_of(2) { "a" } else { "b" }.to_owned();
            // Of every third seed, one node takes only what tolerates it.
            let taint = || "gpu:no-place".parse().expect("it is a taint");
            let taints = (number == 1 && seed.is_multiple_of(3)).then(taint).into_iter().collect();
            let gpus = if has_gpus { gpus(&world.rng) } else { Vec::new() };
            world.join(seed, NodeSetup { id, capacity, zone, taints, gpus, comes_back: true }, false);
        }
        let workloads = (0..WORKLOADS).map(|i| Workload {
            name: WorkloadName::new(format!("w{i}")).expect("it is a name"),
            class: if i == 0 && calamity == Calamity::None { Class::Strict } else { Class::Available },
            memory: units::Bytes::mib(world.rng.between(1, 3) * 32),
            cpu: units::Millicores(if has_cpus { 300 * i } else { 0 }),
        });
        let workloads = workloads.collect();
        Chaos { world, workloads, calamity, is_stale, has_gpus }
    }

    /// Answers how long the lattice took to come to rest.
    async fn both_phases(&mut self, options: Options) -> Result<Duration, String> {
        for i in 0..self.workloads.len() {
            self.put(i);
        }
        self.goes_wrong(options.faults).await?;
        self.world.make_peace();
        let peace = Instant::now();
        let rested = self.world.settle(options).await?;
        self.world.trace.note("at rest");
        Ok(rested - peace)
    }

    async fn goes_wrong(&mut self, time: Duration) -> Verdict {
        let end = Instant::now() + time;
        let mut next = Instant::now() + self.world.rng.millis(0, 5_000);
        while Instant::now() < end {
            self.world.step().await?;
            if Instant::now() >= next {
                self.something_happens();
                next = Instant::now() + self.world.rng.millis(50, 3_000);
            }
        }
        Ok(())
    }

    fn something_happens(&mut self) {
        let world = &mut self.world;
        let last = world.nodes.len() as u64 - 1;
        let node = usize::try_from(world.rng.between(0, last)).unwrap_or_default();
        let w = usize::try_from(world.rng.between(0, WORKLOADS - 1)).unwrap_or_default();
        match world.rng.between(0, 99) {
            0..22 => self.put(w),
            22..28 => self.scale(w),
            28..33 => self.delete(w),
            33..46 => self.cut(node),
            46..56 => {
                if world.inflict(Fault::Kill(node)) {
                    world.cure_after(world.rng.millis(50, 12_000), Cure::Restart(node));
                }
            }
            56..64 => {
                if world.inflict(Fault::Suspend(node)) {
                    world.cure_after(world.rng.millis(50, 15_000), Cure::Resume(node));
                }
            }
            64..70 => drop(world.inflict(Fault::Leave(node))),
            70..77 => drop(world.inflict(Fault::Stall(world.rng.millis(500, 9_000)))),
            77..79 => self.cordon(node),
            79..81 => self.sour(w),
            81..84 => {
                let millis = i64::try_from(world.rng.between(0, 7_200_000)).unwrap_or_default() - 3_600_000;
                world.inflict(Fault::Clock(node, millis));
                world.cure_after(world.rng.millis(500, 20_000), Cure::Clock(node));
            }
            84..87 if self.is_stale => drop(world.inflict(Fault::Depose(world.rng.millis(100, 2_000)))),
            87..93 => {
                let bucket = *world.rng.pick(&Bucket::ALL).unwrap_or(&Bucket::State);
                let fault = match self.calamity {
                    Calamity::None => return self.weather(),
                    Calamity::Expiry => Fault::Expire,
                    Calamity::Loss => Fault::LoseWrites(world.rng.millis(200, 3_000)),
                    Calamity::Anew => Fault::Recreate(bucket),
                };
                world.inflict(fault);
            }
            _ => self.weather(),
        }
    }

    fn cut(&mut self, node: usize) {
        let world = &mut self.world;
        let link = *world.rng.pick(&[Link::Down, Link::Silent, Link::Mute, Link::Deaf]).unwrap_or(&Link::Down);
        if world.nodes.get(node).is_none_or(|node| node.wire.link() != Link::Up)
            || !world.inflict(Fault::Link(node, link))
        {
            return;
        }
        if link != Link::Down {
            world.cure_after(world.rng.millis(100, 20_000), Cure::LinkDown(node));
        }
        world.cure_after(world.rng.millis(200, 15_000), Cure::LinkUp(node));
    }

    fn weather(&mut self) {
        let rng = &self.world.rng;
        let bad = |most: u64| if rng.happens(500) { rng.between(0, most) } else { 0 };
        let (lost_requests, lost_replies) = (bad(50), bad(50));
        let (late_writes, lost_changes, repeated_changes) = (bad(100), bad(200), bad(200));
        let (lost_messages, repeated_messages, late_messages) = (bad(200), bad(200), bad(300));
        let (stale_reads, missing_reads) = if self.is_stale { (bad(100), bad(50)) } else { (0, 0) };
        let what = format!(
            "‰ lost: requests {lost_requests}, replies {lost_replies}, changes {lost_changes}, messages {lost_messages}; \
             late: writes {late_writes}, messages {late_messages}; twice: changes {repeated_changes}, messages \
             {repeated_messages}; reads stale {stale_reads}, missing {missing_reads}"
        );
        self.world.turn(what, |weather| {
            weather.lost_requests = lost_requests;
            weather.lost_replies = lost_replies;
            weather.late_writes = late_writes;
            weather.lost_changes = lost_changes;
            weather.repeated_changes = repeated_changes;
            weather.lost_messages = lost_messages;
            weather.repeated_messages = repeated_messages;
            weather.late_messages = late_messages;
            weather.stale_reads = stale_reads;
            weather.missing_reads = missing_reads;
        });
    }

    fn put(&mut self, i: usize) {
        let Some(Workload { name, class, memory, cpu }) = self.workloads.get(i) else { return };
        let rng = &self.world.rng;
        let source = Source::Stored(self.world.component);
        let env = BTreeMap::from([("VERSION".to_owned(), rng.between(0, 9).to_string())]);
        let main = ComponentSpec { env, ..ComponentSpec::new("main".parse().expect("it is a name"), source) };
        let mut placement = self.placement(i);
        if rng.happens(200) {
            let requirement = if rng.happens(500) { "zone == a" } else { "zone == b" };
            placement.require = vec![requirement.parse().expect("it is a requirement")];
        }
        let most = if *class == Class::Strict { 2 } else { 6 };
        let replicas = if placement.daemon { 1 } else { u32::try_from(rng.between(0, most)).unwrap_or(1) };
        let may_be_twice = *class == Class::Available && !placement.daemon;
        let rollout = self.rollout(replicas > 1, may_be_twice);
        let spec = WorkloadSpec {
            replicas,
            class: *class,
            limits: Limits { memory: *memory, ..Limits::default() },
            reserve: ReserveSpec { cpu: *cpu },
            placement,
            gpu: self.gpu(),
            http: self.http(i),
            rollout,
            schedule: self.schedule(),
            ..WorkloadSpec::new(name.clone(), main)
        };
        let payload = serde_json::to_vec(&spec).expect("a spec has a JSON form");
        self.world.ask(Topic::WorkloadPut, payload.into());
    }

    /// Claims of all kinds, or none.
    fn gpu(&self) -> Option<GpuSpec> {
        let claims = [
            "{}",
            r#"{"memory": "1GiB", "cpu": "fallback"}"#,
            r#"{"memory": "512MiB", "slots": 2}"#,
            r#"{"exclusive": true, "cpu": "fallback"}"#,
            r#"{"any": [{"memory": "3GiB", "class": ["discrete"]}, {"features": ["shader-f16"]}]}"#,
        ];
        let rng = &self.world.rng;
        let claim = if self.has_gpus && rng.happens(600) { rng.pick(&claims) } else { None };
        claim.map(|claim| serde_json::from_str(claim).expect("it is a claim"))
    }

    /// A route of its own, or one that others ask for as well.
    fn http(&self, i: usize) -> HttpSpec {
        let host = if self.world.rng.happens(300) { "shared.test".to_owned() } else { format!("w{i}.test") };
        let route = Route::new(host.parse().expect("it is a host"), PathPrefix::default());
        HttpSpec { routes: vec![route], ..HttpSpec::default() }
    }

    /// Schedules come and go, so that what was settled before must count when they are back.
    fn schedule(&self) -> Vec<ScheduleSpec> {
        let of = |cron: &str| ScheduleSpec {
            cron: cron.parse().expect("it is a cron expression"),
            zone: Zone::default(),
            path: RequestPath::default(),
            timeout: None,
        };
        let all = ["* * * * * *", "*/7 * * * * *", "* * * * *"];
        all.into_iter().filter(|_| self.world.rng.happens(400)).map(of).collect()
    }

    /// Budgets, steps and bounds of all kinds, and little patience: what finds no room is given up before the lattice must have
    /// come to rest.
    fn rollout(&self, may_split: bool, may_be_twice: bool) -> RolloutSpec {
        let rng = &self.world.rng;
        let budgets = [("25%", "0"), ("2", "1"), ("0", "2"), ("100%", "50%")];
        let (surge, unavailable) = *rng.pick(&budgets).expect("there is one");
        let portion = |text: &str| text.parse().expect("it is a portion");
        let step = |replicas: Option<&str>, weight, millis| RolloutStep {
            replicas: replicas.map(portion),
            weight,
            pause: Some(units::Millis(millis)),
        };
        let is_twice = may_be_twice && rng.happens(250);
        let steps = match rng.between(0, 99) {
            _ if is_twice => match rng.between(0, 2) {
                0 => vec![step(None, Some(100), 3_000)],
                1 => vec![step(None, Some(0), 1_000), step(None, Some(100), 0)],
                _ => vec![step(None, Some(20), 1_000), step(None, Some(60), 1_000), step(None, Some(100), 1_000)],
            },
            0..30 => vec![step(Some("50%"), None, 3_000)],
            30..45 if may_split => vec![step(None, Some(30), 2_000), step(None, Some(70), 2_000)],
            45..55 if may_split => vec![step(Some("1"), Some(0), 1_000), step(Some("50%"), Some(100), 2_000)],
            _ => Vec::new(),
        };
        RolloutSpec {
            max_surge: portion(surge),
            max_unavailable: portion(unavailable),
            min_ready: units::Millis(rng.between(0, 2) * 500),
            deadline: units::Millis(20_000),
            strategy: if is_twice { Strategy::BlueGreen } else { Strategy::Rolling },
            steps,
            analysis: rng.happens(300).then(|| AnalysisSpec {
                max_error_rate: Some("5%".parse().expect("it is a rate")),
                max_p95: None,
                max_p99: None,
                min_requests: 20,
                window: units::Millis(5_000),
            }),
            ..RolloutSpec::default()
        }
    }

    /// What is new answers badly from now on, where that is looked at.
    fn sour(&mut self, i: usize) {
        let Some(Workload { name, .. }) = self.workloads.get(i) else { return };
        self.world.sour(name);
    }

    /// Rules of all kinds. The last workload alone comes to nodes with a taint, whatever is put.
    fn placement(&self, i: usize) -> Placement {
        let rules: &[&str] = match i {
            0 => &["{}", r#"{"priority": 3}"#],
            1 => &["{}", r#"{"spread": [{"over": "zone"}]}"#, r#"{"spread": [{"over": "zone", "hard": true}]}"#],
            2 => &[
                r#"{"prefer": [{"label": "zone == b", "weight": 5}]}"#,
                r#"{"apart": [{"workload": "w1", "hard": true}]}"#,
                r#"{"near": [{"workload": "w1", "over": "zone"}], "priority": -3}"#,
                r#"{"near": [{"workload": "w1", "hard": true}], "priority": 2}"#,
            ],
            _ => &[
                r#"{"tolerate": ["gpu"]}"#,
                r#"{"daemon": true, "tolerate": ["*"], "priority": 1}"#,
                r#"{"tolerate": ["gpu"], "priority": 5}"#,
            ],
        };
        let rule = self.world.rng.pick(rules).unwrap_or(&"{}");
        serde_json::from_str(rule).expect("it is a placement")
    }

    fn cordon(&mut self, node: usize) {
        let Some(node) = self.world.nodes.get(node).map(|node| node.id.clone()) else { return };
        let is_to_be = self.world.rng.happens(500);
        self.world.ask(if is_to_be { Topic::NodeCordon(node) } else { Topic::NodeUncordon(node) }, Bytes::new());
    }

    fn scale(&mut self, i: usize) {
        let Some(Workload { name, .. }) = self.workloads.get(i) else { return };
        let topic = Topic::Workload(WorkloadVerb::Scale, name.clone());
        let replicas = self.world.rng.between(0, 6);
        self.world.ask(topic, format!("{{\"replicas\": {replicas}}}").into());
    }

    fn delete(&mut self, i: usize) {
        let Some(Workload { name, .. }) = self.workloads.get(i) else { return };
        let topic = Topic::Workload(WorkloadVerb::Delete, name.clone());
        self.world.ask(topic, Bytes::new());
    }
}
