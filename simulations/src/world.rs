//! What happens in one run: nodes, people who change their minds, and bad luck.

use crate::{
    Facts, Options, Outcome,
    chance::{SimClock, SimRng},
    checkers::{History, Verdict, is_converged, plans_agree, strict_runs_once, views_agree},
    lattice_id,
    network::{Link, Sky},
    node::SimNode,
    ticks::Fired,
    trace::Trace,
};
use bytes::Bytes;
use lattice::{
    id::{Digest, NodeId, WorkloadName},
    record::Capacity,
    spec::{
        Class, ComponentSpec, Limits, Placement, RequestPath, RolloutSpec, ScheduleSpec, Source, WorkloadSpec, Zone,
    },
    store::{Headers, Platform},
    subject::{Topic, WorkloadVerb},
    testing::MemoryLattice,
    units,
};
use lattice_planner::Planner;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

/// Between two looks of the checkers.
const STEP: Duration = Duration::from_millis(50);
const WORKLOADS: u64 = 4;

struct World {
    rng: SimRng,
    lattice: MemoryLattice,
    /// The connection of a person, without faults.
    person: Platform,
    component: Digest,
    sky: Sky,
    nodes: Vec<SimNode>,
    workloads: Vec<Workload>,
    requests: JoinSet<String>,
    /// What ends by itself: when, and what then.
    cures: Vec<(Instant, Cure)>,
    sessions_expire: bool,
    /// Nothing goes wrong any more.
    peace: bool,
    fired: Fired,
    /// Follows the store's view.
    planner: Planner,
    trace: Trace,
    faults: u64,
}

/// What does not change over the lives of a workload.
struct Workload {
    name: WorkloadName,
    class: Class,
    memory: units::Bytes,
}

#[derive(Debug, Clone, Copy)]
enum Cure {
    LinkUp(usize),
    /// A silent link is found to be dead.
    LinkDown(usize),
    Restart(usize),
    Resume(usize),
}

pub(crate) async fn play(seed: u64, options: Options) -> Outcome {
    let mut world = World::new(seed).await;
    let memory = world.workloads.iter().map(|workload| (workload.name.clone(), workload.memory.0)).collect();
    let mut history = History::new(&world.lattice, memory).await.expect("a store in memory always answers");
    let mut facts = Facts::default();
    let played = world.both_phases(&mut history, options, &mut facts).await;
    if let Err(violation) = &played {
        world.trace.note(format!("VIOLATION {violation}"));
    }
    facts = Facts {
        faults: world.faults,
        claims: history.claims,
        slot_writes: history.slot_writes,
        fired: world.fired.count(),
        ..facts
    };
    Outcome { seed, violation: played.err(), trace: world.trace, facts }
}

impl World {
    async fn new(seed: u64) -> World {
        let rng = SimRng::new(seed, 1);
        let lattice = MemoryLattice::new();
        let (sky, fired) = (Sky::default(), Fired::default());
        let person = lattice.platform(Arc::new(SimClock::new(&rng)), Arc::new(SimRng::new(seed, 2)));
        let component = person.artifacts.put(Bytes::from_static(b"component")).await;
        let sessions_expire = rng.happens(250);
        let number = rng.between(3, 5);
        let nodes = (1..=number).map(|number| {
            let slots = u32::try_from(rng.between(2, 5)).unwrap_or(2);
            let capacity = Capacity { slots, memory: (rng.between(2, 8) * 64) << 20 };
            let id = NodeId::new(format!("n{number}")).expect("it is a name");
            SimNode::new(seed, number, id, capacity, sky.clone(), &lattice, fired.clone())
        });
        let nodes = nodes.collect();
        let workloads = (0..WORKLOADS).map(|i| Workload {
            name: WorkloadName::new(format!("w{i}")).expect("it is a name"),
            // Sessions that all expire at once are more than a strict replica's holder can fence itself from.
            class: if i == 0 && !sessions_expire { Class::Strict } else { Class::Available },
            memory: units::Bytes::mib(rng.between(1, 3) * 32),
        });
        let workloads = workloads.collect();
        World {
            rng,
            lattice,
            person,
            component: component.expect("an object store in memory takes it"),
            sky,
            nodes,
            workloads,
            requests: JoinSet::new(),
            cures: Vec::new(),
            sessions_expire,
            peace: false,
            fired,
            planner: Planner::default(),
            trace: Trace::new(),
            faults: 0,
        }
    }

    async fn both_phases(&mut self, history: &mut History, options: Options, facts: &mut Facts) -> Verdict {
        for node in &mut self.nodes {
            let Capacity { slots, memory } = node.capacity();
            self.trace.note(format!("{} joins with {slots} slots and {} MiB", node.id, memory >> 20));
            node.start(false);
        }
        for i in 0..self.workloads.len() {
            self.put(i);
        }
        let end = Instant::now() + options.faults;
        let mut next = Instant::now() + self.rng.millis(0, 5_000);
        while Instant::now() < end {
            self.step(history).await?;
            if Instant::now() >= next {
                self.something_happens();
                next = Instant::now() + self.rng.millis(50, 3_000);
            }
        }

        self.make_peace();
        let peace = Instant::now();
        // What went wrong before may still have its consequences: rest counts when it lasts.
        let mut rested: Option<(Instant, u64)> = None;
        while rested.is_none_or(|(since, _)| since.elapsed() < options.rest) {
            self.step(history).await?;
            rested = match (self.at_rest(history), rested) {
                (Ok(()), Some((since, writes))) if writes == history.slot_writes => Some((since, writes)),
                (Ok(()), _) => Some((Instant::now(), history.slot_writes)),
                (Err(not_yet), _) => {
                    if peace.elapsed() > options.bound {
                        return Err(format!("no rest after {} s: {not_yet}", options.bound.as_secs()));
                    }
                    None
                }
            };
            if peace.elapsed() > options.bound + options.rest {
                return Err("slots are being written, though all is as it was asked for".into());
            }
        }
        facts.converged_after = rested.map(|(since, _)| since - peace);
        self.trace.note("at rest");
        Ok(())
    }

    /// Let a little time pass, then look.
    async fn step(&mut self, history: &mut History) -> Verdict {
        sleep(STEP).await;
        while let Some(Ok(answer)) = self.requests.try_join_next() {
            self.trace.note(answer);
        }
        let now = Instant::now();
        let (due, later) = self.cures.iter().partition(|(at, _)| *at <= now);
        self.cures = later;
        let due: Vec<(Instant, Cure)> = due;
        for (_, cure) in due {
            self.cure(cure);
        }
        history.follow(&mut self.trace)?;
        strict_runs_once(&self.nodes)?;
        plans_agree(&history.view, &mut self.planner)?;
        self.fired.check()?;
        for node in &mut self.nodes {
            match node.ended().await {
                None => {}
                // It was asked to leave, and comes back.
                Some(Ok(())) => {
                    self.trace.note(format!("{} has left and joins again", node.id));
                    node.start(self.peace);
                }
                Some(Err(error)) => return Err(format!("{} ended by itself: {error}", node.id)),
            }
        }
        Ok(())
    }

    fn at_rest(&mut self, history: &History) -> Verdict {
        if !self.requests.is_empty() {
            return Err("requests are under way".into());
        }
        if let Some(node) = self.nodes.iter().find(|node| !node.is_well()) {
            return Err(format!("{} is on its way out", node.id));
        }
        is_converged(&history.view, &self.nodes)?;
        views_agree(&history.view, &self.nodes)
    }

    fn something_happens(&mut self) {
        let last = self.nodes.len() as u64 - 1;
        let i = usize::try_from(self.rng.between(0, last)).unwrap_or_default();
        let now = Instant::now();
        let w = usize::try_from(self.rng.between(0, WORKLOADS - 1)).unwrap_or_default();
        let Some(node) = self.nodes.get_mut(i) else { return };
        let id = &node.id;
        match self.rng.between(0, 99) {
            0..25 => return self.put(w),
            25..32 => return self.scale(w),
            32..38 => return self.delete(w),
            38..50 if node.wire.link() == Link::Up => {
                let until = now + self.rng.millis(200, 15_000);
                if self.rng.happens(500) {
                    self.trace.note(format!("{id} loses its connection"));
                    node.wire.set(Link::Down);
                } else {
                    self.trace.note(format!("{id} hears nothing any more"));
                    node.wire.set(Link::Silent);
                    self.cures.push((now + self.rng.millis(100, 20_000), Cure::LinkDown(i)));
                }
                self.cures.push((until, Cure::LinkUp(i)));
            }
            50..60 if node.is_alive() && !node.is_paused() => {
                self.trace.note(format!("{id} is killed"));
                node.crash();
                self.cures.push((now + self.rng.millis(50, 12_000), Cure::Restart(i)));
            }
            60..68 if node.is_alive() && !node.is_paused() => {
                self.trace.note(format!("{id} is suspended"));
                node.pause();
                self.cures.push((now + self.rng.millis(50, 15_000), Cure::Resume(i)));
            }
            68..75 if node.is_well() => {
                self.trace.note(format!("{id} is asked to leave"));
                node.drain();
            }
            75..83 => {
                let stall = self.rng.millis(500, 9_000);
                self.trace.note(format!("the store has no leader for {} ms", stall.as_millis()));
                self.sky.set(|weather| weather.stalled_until = Some(now + stall));
            }
            88..91 => {
                let id = id.clone();
                return self.cordon(id);
            }
            83..88 if self.sessions_expire => {
                let gone = self.lattice.store().expire(|key| key.starts_with("session."));
                self.trace.note(format!("{gone} sessions expire"));
            }
            _ => {
                let rng = &self.rng;
                let bad = |most: u64| if rng.happens(500) { rng.between(0, most) } else { 0 };
                let (lost_requests, lost_replies) = (bad(50), bad(50));
                let (late_writes, lost_changes) = (bad(100), bad(200));
                self.trace.note(format!(
                    "‰ lost: requests {lost_requests}, replies {lost_replies}, changes {lost_changes}; late writes {late_writes}"
                ));
                self.sky.set(|weather| {
                    weather.lost_requests = lost_requests;
                    weather.lost_replies = lost_replies;
                    weather.late_writes = late_writes;
                    weather.lost_changes = lost_changes;
                });
            }
        }
        self.faults += 1;
    }

    fn cure(&mut self, cure: Cure) {
        let (Cure::LinkUp(i) | Cure::LinkDown(i) | Cure::Restart(i) | Cure::Resume(i)) = cure;
        let Some(node) = self.nodes.get_mut(i) else { return };
        match cure {
            Cure::LinkUp(_) if node.wire.link() != Link::Up => {
                self.trace.note(format!("{} is connected again", node.id));
                node.wire.set(Link::Up);
            }
            Cure::LinkDown(_) if node.wire.link() == Link::Silent => {
                self.trace.note(format!("{} notices that it is cut off", node.id));
                node.wire.set(Link::Down);
            }
            Cure::Restart(_) if !node.is_alive() => {
                self.trace.note(format!("{} is started again", node.id));
                node.start(self.peace);
            }
            Cure::Resume(_) if node.is_paused() => {
                self.trace.note(format!("{} goes on", node.id));
                node.resume();
            }
            _ => {}
        }
    }

    /// Nothing goes wrong any more.
    fn make_peace(&mut self) {
        self.peace = true;
        self.trace.note("peace");
        self.sky.set(|weather| *weather = Default::default());
        for (_, cure) in std::mem::take(&mut self.cures) {
            if !matches!(cure, Cure::LinkDown(_)) {
                self.cure(cure);
            }
        }
        for node in &mut self.nodes {
            node.wire.set(Link::Up);
            if let Some(host) = node.host() {
                host.be_fair();
            }
        }
    }

    fn put(&mut self, i: usize) {
        let Some(Workload { name, class, memory }) = self.workloads.get(i) else { return };
        let source = Source::Stored(self.component);
        let env = BTreeMap::from([("VERSION".to_owned(), self.rng.between(0, 9).to_string())]);
        let main = ComponentSpec { env, ..ComponentSpec::new("main".parse().expect("it is a name"), source) };
        let mut placement = self.placement(i);
        if self.rng.happens(200) {
            let requirement = if self.rng.happens(500) { "zone == a" } else { "zone == b" };
            placement.require = vec![requirement.parse().expect("it is a requirement")];
        }
        let most = if *class == Class::Strict { 2 } else { 6 };
        let spec = WorkloadSpec {
            replicas: if placement.daemon { 1 } else { u32::try_from(self.rng.between(0, most)).unwrap_or(1) },
            class: *class,
            limits: Limits { memory: *memory, ..Limits::default() },
            placement,
            rollout: self.rollout(),
            schedule: self.schedule(),
            ..WorkloadSpec::new(name.clone(), main)
        };
        let payload = serde_json::to_vec(&spec).expect("a spec has a JSON form");
        self.ask(Topic::WorkloadPut, payload.into());
    }

    /// Schedules come and go, so that what was settled before must count when they are back.
    fn schedule(&self) -> Vec<ScheduleSpec> {
        let of = |cron: &str| ScheduleSpec {
            cron: cron.parse().expect("it is a cron expression"),
            zone: Zone::default(),
            path: RequestPath::default(),
            timeout: None,
        };
        ["* * * * * *", "*/7 * * * * *", "* * * * *"].into_iter().filter(|_| self.rng.happens(400)).map(of).collect()
    }

    /// Budgets of all kinds, and little patience: what finds no room is given up before the lattice must have come to rest.
    fn rollout(&self) -> RolloutSpec {
        let (surge, unavailable) = *self.one_of(&[("25%", "0"), ("2", "1"), ("0", "2"), ("100%", "50%")]);
        let portion = |text: &str| text.parse().expect("it is a portion");
        RolloutSpec {
            max_surge: portion(surge),
            max_unavailable: portion(unavailable),
            min_ready: units::Millis(self.rng.between(0, 2) * 500),
            deadline: units::Millis(20_000),
            ..RolloutSpec::default()
        }
    }

    fn one_of<'a, T>(&self, all: &'a [T]) -> &'a T {
        let last = all.len() as u64 - 1;
        usize::try_from(self.rng.between(0, last)).ok().and_then(|i| all.get(i)).expect("there is one")
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
        let rule = self.one_of(rules);
        serde_json::from_str(rule).expect("it is a placement")
    }

    fn cordon(&mut self, node: NodeId) {
        let topic = if self.rng.happens(500) { Topic::NodeCordon(node) } else { Topic::NodeUncordon(node) };
        self.ask(topic, Bytes::new());
    }

    fn scale(&mut self, i: usize) {
        let Some(Workload { name, .. }) = self.workloads.get(i) else { return };
        let topic = Topic::Workload(WorkloadVerb::Scale, name.clone());
        let replicas = self.rng.between(0, 6);
        self.ask(topic, format!("{{\"replicas\": {replicas}}}").into());
    }

    fn delete(&mut self, i: usize) {
        let Some(Workload { name, .. }) = self.workloads.get(i) else { return };
        let topic = Topic::Workload(WorkloadVerb::Delete, name.clone());
        self.ask(topic, Bytes::new());
    }

    /// Ask whichever node answers; ask again when none does.
    fn ask(&mut self, topic: Topic, payload: Bytes) {
        let bus = self.person.bus.clone();
        let subject = topic.subject(&lattice_id());
        self.requests.spawn(async move {
            let mut last = String::new();
            for _ in 0..5 {
                let asked = bus.request(subject.clone(), Headers::new(), payload.clone(), Duration::from_secs(4)).await;
                match asked {
                    Ok(message) => {
                        let text: String = String::from_utf8_lossy(&message.payload).chars().take(60).collect();
                        return format!("{subject}: {text}");
                    }
                    Err(error) => last = error.to_string(),
                }
                sleep(Duration::from_millis(500)).await;
            }
            format!("{subject}: {last}")
        });
    }
}
