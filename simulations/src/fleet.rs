//! Some nodes that carry a load, and bad luck: what the worlds of `scaling.rs` and `waking.rs` share. `world.rs` has more of
//! both, and neither load nor messages.

use crate::{
    chance::{SimClock, SimRng},
    checkers::{History, Verdict},
    lattice_id,
    messages::Letters,
    network::{Link, Sky},
    node::{NodeSetup, SimNode},
    ticks::Fired,
    trace::Trace,
    traffic::Traffic,
};
use bytes::Bytes;
use lattice::{
    id::{Digest, NodeId, WorkloadName},
    record::{Capacity, Phase},
    spec::{ComponentSpec, Limits, Source, WorkloadSpec},
    store::{Headers, Platform},
    subject::Topic,
    testing::MemoryLattice,
    units,
};
use std::{sync::Arc, time::Duration};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

/// Between two looks of the checkers.
const STEP: Duration = Duration::from_millis(100);

pub(crate) struct Fleet {
    pub(crate) rng: SimRng,
    pub(crate) nodes: Vec<SimNode>,
    pub(crate) traffic: Traffic,
    pub(crate) letters: Letters,
    pub(crate) history: History,
    pub(crate) trace: Trace,
    /// The connection of a person, without faults.
    pub(crate) person: Platform,
    /// The object that all workloads run.
    component: Digest,
    requests: JoinSet<()>,
    sky: Sky,
    /// Nothing goes wrong any more.
    peace: bool,
}

/// What befalls a fleet, each in so many hundredths of cases.
pub(crate) struct Misfortune {
    pub(crate) kill: u64,
    /// SIGTERM.
    pub(crate) leave: u64,
    /// Messages on the bus are lost, repeated and late as well.
    pub(crate) of_bus: bool,
}

impl Fleet {
    pub(crate) async fn new(seed: u64, size: u64) -> Fleet {
        let (lattice, rng) = (MemoryLattice::new(), SimRng::new(seed, 1));
        let person = lattice.platform(Arc::new(SimClock::new(&rng)), Arc::new(SimRng::new(seed, 2)));
        let component = person.artifacts.put(Bytes::from_static(b"component")).await.expect("it is stored");
        let (sky, traffic, letters) = (Sky::default(), Traffic::default(), Letters::default());
        let nodes = (1..=size).map(|number| {
            let setup = NodeSetup {
                id: NodeId::new(format!("n{number}")).expect("it is a name"),
                capacity: Capacity { slots: 8, memory: 1 << 30, millicores: 0 },
                zone: "a".to_owned(),
                taints: Vec::new(),
                gpus: Vec::new(),
                comes_back: true,
            };
            let mut node = SimNode::new(seed, number, setup, sky.clone(), &lattice, Fired::default());
            node.carry(traffic.clone());
            node.read(letters.clone());
            node.start(false);
            node
        });
        let nodes = nodes.collect();
        let history = History::new(&lattice, sky.clone()).await;
        Fleet {
            rng,
            nodes,
            traffic,
            letters,
            history,
            trace: Trace::new(),
            person,
            component,
            requests: JoinSet::new(),
            sky,
            peace: false,
        }
    }

    /// A spec of one small component; `change` says the rest.
    pub(crate) fn spec(&self, name: &WorkloadName, change: impl FnOnce(WorkloadSpec) -> WorkloadSpec) -> Bytes {
        let limits = Limits { memory: units::Bytes::mib(32), ..Limits::default() };
        let main = ComponentSpec::new("main".parse().expect("it is a name"), Source::Stored(self.component));
        let spec = change(WorkloadSpec { limits, ..WorkloadSpec::new(name.clone(), main) });
        serde_json::to_vec(&spec).expect("a spec has a JSON form").into()
    }

    /// Ask until some node answers.
    pub(crate) async fn ask(&self, topic: Topic, payload: Bytes) {
        ask(&self.person, &topic, &payload, usize::MAX).await;
    }

    /// Ask a few times, while other things go on.
    pub(crate) fn try_to_ask(&mut self, topic: Topic, payload: Bytes) {
        let person = self.person.clone();
        self.requests.spawn(async move { ask(&person, &topic, &payload, 5).await });
    }

    /// Whether nothing that was asked is under way.
    pub(crate) fn is_answered(&mut self) -> bool {
        while self.requests.try_join_next().is_some() {}
        self.requests.is_empty()
    }

    /// Let a little time pass, then look. Nodes that are gone come back after a while.
    pub(crate) async fn step(&mut self) -> Verdict {
        sleep(STEP).await;
        self.history.follow(&mut self.trace)?;
        for node in &mut self.nodes {
            match node.ended().await {
                Some(Err(error)) => return Err(format!("{} ended by itself: {error}", node.id)),
                Some(Ok(())) => self.trace.note(format!("{} has left", node.id)),
                None => {}
            }
            if !node.is_alive() && self.rng.happens(20) {
                self.trace.note(format!("{} is started again", node.id));
                node.start(self.peace);
            }
        }
        self.letters.check()
    }

    pub(crate) fn pick(&self) -> Option<&SimNode> {
        self.rng.pick(&self.nodes)
    }

    pub(crate) fn befall(&mut self, Misfortune { kill, leave, of_bus }: Misfortune) {
        let i = usize::try_from(self.rng.between(0, self.nodes.len() as u64 - 1)).unwrap_or(0);
        let Some(node) = self.nodes.get_mut(i) else { return };
        match self.rng.between(0, 99) {
            draw if draw < kill => {
                if node.is_alive() {
                    self.trace.note(format!("{} is killed", node.id));
                    node.crash();
                }
            }
            draw if draw < kill + leave => {
                if node.is_well() {
                    self.trace.note(format!("{} is asked to leave", node.id));
                    node.drain();
                }
            }
            0..45 => {
                let cut = *self.rng.pick(&[Link::Silent, Link::Down]).unwrap_or(&Link::Down);
                let link = if node.wire.link() == Link::Up { cut } else { Link::Up };
                self.trace.note(format!("{}: {link:?}", node.id));
                node.wire.set(link);
            }
            45..65 => {
                if node.is_paused() {
                    self.trace.note(format!("{} goes on", node.id));
                    node.resume();
                } else if node.is_alive() {
                    self.trace.note(format!("{} is suspended", node.id));
                    node.pause();
                }
            }
            65..80 => {
                let until = Instant::now() + self.rng.millis(500, 9_000);
                self.trace.note("the store has no leader");
                self.sky.set(|weather| weather.stalled_until = Some(until));
            }
            _ => {
                let bad = |most: u64| self.rng.between(0, most);
                let (requests, writes, changes) = (bad(50), bad(100), bad(200));
                let (lost, repeated, late) = if of_bus { (bad(100), bad(200), bad(200)) } else { (0, 0, 0) };
                self.trace.note(format!("messages: ‰ lost {lost}, repeated {repeated}, late {late}"));
                self.sky.set(|weather| {
                    (weather.lost_requests, weather.late_writes, weather.lost_changes) = (requests, writes, changes);
                    (weather.lost_messages, weather.repeated_messages, weather.late_messages) = (lost, repeated, late);
                });
            }
        }
    }

    /// Nothing goes wrong any more.
    pub(crate) fn make_peace(&mut self) {
        self.trace.note("peace");
        self.peace = true;
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

    /// Replicas that answer, as the records say.
    pub(crate) fn ready(&self, workload: &WorkloadName) -> u64 {
        let view = &self.history.view;
        let ready = view
            .slots_of(workload)
            .filter(|(_, slot)| slot.record.phase == Phase::Ready && view.live(&slot.record.holder).is_some());
        ready.count() as u64
    }
}

async fn ask(person: &Platform, topic: &Topic, payload: &Bytes, tries: usize) {
    let (subject, timeout) = (topic.subject(&lattice_id()), Duration::from_secs(4));
    for _ in 0..tries {
        if person.bus.request(subject.clone(), Headers::new(), payload.clone(), timeout).await.is_ok() {
            return;
        }
        sleep(Duration::from_millis(500)).await;
    }
}
