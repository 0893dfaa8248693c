//! One simulated lattice: its nodes, the people who ask them, and what befalls it. Who decides what happens is not here:
//! `chaos.rs` draws it from a seed, `scenario/` reads it from a file.
//!
//! Start at [`World::step`], which lets time pass and then calls the checkers.

use crate::{
    Facts, Options,
    chance::{SimClock, SimRng},
    checkers::{
        Floors, History, Verdict, gpus_are_shared, is_converged, plans_agree, routes_have_one_holder, strict_runs_once,
        views_agree,
    },
    lattice_id,
    messages::{Letters, REPLIES},
    network::{Link, Sky},
    node::{NodeSetup, SimNode},
    ticks::Fired,
    trace::Trace,
};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use lattice::{
    ctl::{CtlError, Reply},
    id::{Digest, WorkloadName},
    store::{Bucket, Headers, Items, Message, Platform},
    subject::Topic,
    testing::MemoryLattice,
};
use lattice_planner::Planner;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

/// Between two looks of the checkers.
const STEP: Duration = Duration::from_millis(50);
/// Between two records of what the store holds, which stale reads are answered from.
const RECORD_EVERY: Duration = Duration::from_millis(200);

pub(crate) struct World {
    pub(crate) rng: SimRng,
    pub(crate) sky: Sky,
    pub(crate) nodes: Vec<SimNode>,
    pub(crate) history: History,
    pub(crate) floors: Floors,
    pub(crate) trace: Trace,
    /// The object that all workloads run.
    pub(crate) component: Digest,
    lattice: MemoryLattice,
    /// The connection of a person, without faults.
    person: Platform,
    requests: JoinSet<String>,
    /// What ends by itself: when, and what then.
    cures: Vec<(Instant, Cure)>,
    /// Nothing goes wrong any more.
    peace: bool,
    fired: Fired,
    /// Messages for workloads, and what their senders hear.
    pub(crate) letters: Letters,
    replies: Items<Message>,
    /// Follows the store's view.
    planner: Planner,
    recorded: Instant,
    /// Revisions on which the plans of all nodes were compared.
    compared: u64,
    faults: BTreeMap<&'static str, u64>,
}

/// What befalls a lattice. Nodes are named by their place among all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// The way of a node to NATS.
    Link(usize, Link),
    /// kill -9.
    Kill(usize),
    /// SIGSTOP.
    Suspend(usize),
    /// SIGTERM.
    Leave(usize),
    /// The wall clock of a node is set wrong by so many milliseconds.
    Clock(usize, i64),
    /// An election of the store's leader.
    Stall(Duration),
    /// A server that was suspended answers reads as the leader that it was.
    Depose(Duration),
    /// All sessions expire.
    Expire,
    /// The store loses what it acknowledged within so long.
    LoseWrites(Duration),
    /// A bucket is deleted and made again.
    Recreate(Bucket),
}

impl Fault {
    pub(crate) const KINDS: [&'static str; 14] = [
        "mute",
        "deaf",
        "silent",
        "down",
        "kill",
        "suspend",
        "leave",
        "clock",
        "stall",
        "depose",
        "expire",
        "lose-writes",
        "recreate",
        "weather",
    ];

    fn kind(self) -> &'static str {
        match self {
            Fault::Link(_, Link::Up) => "up",
            Fault::Link(_, Link::Mute) => "mute",
            Fault::Link(_, Link::Deaf) => "deaf",
            Fault::Link(_, Link::Silent) => "silent",
            Fault::Link(_, Link::Down) => "down",
            Fault::Kill(_) => "kill",
            Fault::Suspend(_) => "suspend",
            Fault::Leave(_) => "leave",
            Fault::Clock(..) => "clock",
            Fault::Stall(_) => "stall",
            Fault::Depose(_) => "depose",
            Fault::Expire => "expire",
            Fault::LoseWrites(_) => "lose-writes",
            Fault::Recreate(_) => "recreate",
        }
    }
}

/// The end of something.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cure {
    LinkUp(usize),
    /// A link on which nothing passes is found to be dead.
    LinkDown(usize),
    Restart(usize),
    Resume(usize),
    Clock(usize),
}

impl World {
    pub(crate) async fn new(seed: u64) -> World {
        let rng = SimRng::new(seed, 1);
        let lattice = MemoryLattice::new();
        let sky = Sky::default();
        let person = lattice.platform(Arc::new(SimClock::new(&rng)), Arc::new(SimRng::new(seed, 2)));
        let replies = person.bus.subscribe(format!("{REPLIES}.*"), None).await.expect("a bus in memory takes it");
        let component = person.artifacts.put(Bytes::from_static(b"component")).await;
        World {
            rng,
            history: History::new(&lattice, sky.clone()).await,
            sky,
            nodes: Vec::new(),
            floors: Floors::default(),
            trace: Trace::new(),
            component: component.expect("an object store in memory takes it"),
            lattice,
            person,
            requests: JoinSet::new(),
            cures: Vec::new(),
            peace: false,
            fired: Fired::default(),
            letters: Letters::default(),
            replies,
            planner: Planner::default(),
            recorded: Instant::now(),
            compared: 0,
            faults: BTreeMap::new(),
        }
    }

    /// What the newest spec of a workload runs answers half of its requests with errors from now on, on all nodes that live.
    /// Answers whether there is such a workload.
    pub(crate) fn sour(&mut self, workload: &WorkloadName) -> bool {
        let Some(spec) = self.history.view.specs.get(workload) else { return false };
        let template = spec.record.template();
        self.nodes.iter().filter_map(SimNode::host).for_each(|host| host.sour(workload, template));
        self.trace.note(format!("generation {template} of {workload} answers badly"));
        true
    }

    /// Add a node and start it. It is fair if nothing that it starts fails.
    pub(crate) fn join(&mut self, seed: u64, setup: NodeSetup, is_fair: bool) {
        let number = self.nodes.len() as u64 + 1;
        let mut node = SimNode::new(seed, number, setup, self.sky.clone(), &self.lattice, self.fired.clone());
        node.read(self.letters.clone());
        let capacity = node.capacity();
        self.trace.note(format!("{} joins with {} slots and {} MiB", node.id, capacity.slots, capacity.memory >> 20));
        node.start(is_fair);
        self.nodes.push(node);
    }

    pub(crate) fn facts(&self) -> Facts {
        Facts {
            faults: self.faults.clone(),
            claims: self.history.claims,
            slot_writes: self.history.slot_writes,
            fired: self.fired.count(),
            converged_after: None,
            ..Facts::default()
        }
    }

    /// Let a little time pass, then look.
    pub(crate) async fn step(&mut self) -> Verdict {
        sleep(STEP).await;
        while let Some(Ok(answer)) = self.requests.try_join_next() {
            self.trace.note(answer);
        }
        while let Some(Some(reply)) = self.replies.next().now_or_never() {
            self.letters.reply(&reply);
        }
        let now = Instant::now();
        let (due, later) = self.cures.iter().partition(|(at, _)| *at <= now);
        self.cures = later;
        let due: Vec<(Instant, Cure)> = due;
        for (_, cure) in due {
            self.cure(cure);
        }
        if self.recorded.elapsed() >= RECORD_EVERY {
            self.recorded = now;
            self.sky.record(self.lattice.store());
        }
        self.check()?;
        for node in &mut self.nodes {
            match node.ended().await {
                None => {}
                // It was asked to leave, and comes back.
                Some(Ok(())) if node.comes_back => {
                    self.trace.note(format!("{} has left and joins again", node.id));
                    node.start(self.peace);
                }
                Some(Ok(())) => self.trace.note(format!("{} has left", node.id)),
                Some(Err(error)) => return Err(format!("{} ended by itself: {error}", node.id)),
            }
        }
        Ok(())
    }

    /// What must hold at every moment.
    fn check(&mut self) -> Verdict {
        self.history.follow(&mut self.trace)?;
        strict_runs_once(&self.nodes)?;
        gpus_are_shared(&self.nodes)?;
        self.floors.are_kept(&self.nodes)?;
        self.letters.check()?;
        // A store that forgets can bring back a workload that was deleted, and what had fired with it.
        if !self.history.went_back_once() {
            self.fired.check()?;
        }
        let view = &self.history.view;
        let seen = view.seen.values().map(|seen| seen.head).sum();
        if self.compared != seen {
            self.compared = seen;
            plans_agree(view, &mut self.planner)?;
            routes_have_one_holder(view)?;
        }
        Ok(())
    }

    /// Whether all that was asked for is there.
    pub(crate) fn at_rest(&self) -> Verdict {
        if !self.requests.is_empty() {
            return Err("requests are under way".into());
        }
        if let Some(node) = self.nodes.iter().find(|node| node.is_leaving() || node.comes_back && !node.is_well()) {
            return Err(format!("{} is on its way out", node.id));
        }
        is_converged(&self.history.view, &self.nodes)?;
        views_agree(&self.history.view, &self.nodes)
    }

    /// Let time pass until the lattice is at rest and has stayed so. Answers when it came to rest.
    pub(crate) async fn settle(&mut self, options: Options) -> Result<Instant, String> {
        let begin = Instant::now();
        // What went wrong before may still have its consequences: rest counts when it lasts.
        let mut rested: Option<(Instant, u64)> = None;
        loop {
            if let Some((since, _)) = rested.filter(|(since, _)| since.elapsed() >= options.rest) {
                return Ok(since);
            }
            self.step().await?;
            let writes = self.history.slot_writes;
            rested = match (self.at_rest(), rested) {
                (Ok(()), Some((since, before))) if writes == before => Some((since, before)),
                (Ok(()), _) => Some((Instant::now(), writes)),
                (Err(not_yet), _) => {
                    if begin.elapsed() > options.bound {
                        return Err(format!("no rest after {} s: {not_yet}", options.bound.as_secs()));
                    }
                    None
                }
            };
            if begin.elapsed() > options.bound + options.rest {
                return Err("slots are being written, though all is as it was asked for".into());
            }
        }
    }

    /// False where it would change nothing.
    pub(crate) fn inflict(&mut self, fault: Fault) -> bool {
        let now = Instant::now();
        let store = self.lattice.store();
        let what = match fault {
            Fault::Link(i, link) => {
                let Some(node) = self.nodes.get(i).filter(|node| node.wire.link() != link) else { return false };
                node.wire.set(link);
                let what = match link {
                    Link::Up => "is connected again",
                    Link::Mute => "is not heard any more",
                    Link::Deaf => "hears nothing any more",
                    Link::Silent => "is cut off and does not know it",
                    Link::Down => "loses its connection",
                };
                format!("{} {what}", node.id)
            }
            Fault::Kill(i) => {
                let Some(node) = self.nodes.get_mut(i).filter(|node| node.is_alive()) else { return false };
                node.crash();
                format!("{} is killed", node.id)
            }
            Fault::Suspend(i) => {
                let running = |node: &&mut SimNode| node.is_alive() && !node.is_paused();
                let Some(node) = self.nodes.get_mut(i).filter(running) else { return false };
                node.pause();
                format!("{} is suspended", node.id)
            }
            Fault::Leave(i) => {
                let Some(node) = self.nodes.get(i).filter(|node| node.is_well()) else { return false };
                node.drain();
                format!("{} is asked to leave", node.id)
            }
            Fault::Clock(i, millis) => {
                let Some(node) = self.nodes.get(i) else { return false };
                node.clock.set_wrong(millis);
                format!("the clock of {} is wrong by {millis} ms", node.id)
            }
            Fault::Stall(stall) => {
                self.sky.set(|weather| weather.stalled_until = Some(now + stall));
                format!("the store has no leader for {} ms", stall.as_millis())
            }
            Fault::Depose(time) => {
                self.sky.set(|weather| weather.deposed_until = Some(now + time));
                format!("the leader of before answers for {} ms", time.as_millis())
            }
            Fault::Expire => format!("{} sessions expire", store.expire(|key| key.starts_with("session."))),
            Fault::LoseWrites(ago) => {
                let Some(checkpoint) = self.sky.before(ago) else { return false };
                store.restore(&checkpoint);
                "the store loses what it acknowledged last".to_owned()
            }
            Fault::Recreate(bucket) => {
                store.recreate(bucket);
                format!("bucket {bucket} is made anew")
            }
        };
        self.trace.note(what);
        if matches!(fault, Fault::LoseWrites(_) | Fault::Recreate(_)) {
            self.sky.forget();
            self.history.went_back();
        }
        *self.faults.entry(fault.kind()).or_default() += 1;
        true
    }

    /// Change what goes wrong by itself.
    pub(crate) fn turn(&mut self, what: String, change: impl FnOnce(&mut crate::network::Weather)) {
        self.trace.note(what);
        self.sky.set(change);
        *self.faults.entry("weather").or_default() += 1;
    }

    pub(crate) fn cure_after(&mut self, time: Duration, cure: Cure) {
        self.cures.push((Instant::now() + time, cure));
    }

    pub(crate) fn cure(&mut self, cure: Cure) {
        let (Cure::LinkUp(i) | Cure::LinkDown(i) | Cure::Restart(i) | Cure::Resume(i) | Cure::Clock(i)) = cure;
        let Some(node) = self.nodes.get_mut(i) else { return };
        match cure {
            Cure::LinkUp(_) if node.wire.link() != Link::Up => {
                self.trace.note(format!("{} is connected again", node.id));
                node.wire.set(Link::Up);
            }
            Cure::LinkDown(_) if !matches!(node.wire.link(), Link::Up | Link::Down) => {
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
            Cure::Clock(_) => {
                self.trace.note(format!("the clock of {} is right again", node.id));
                node.clock.set_wrong(0);
            }
            _ => {}
        }
    }

    /// Nothing goes wrong any more.
    pub(crate) fn make_peace(&mut self) {
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

    /// Send messages to a workload.
    pub(crate) async fn send(&self, workload: &WorkloadName, number: u64) {
        for _ in 0..number {
            self.letters.send(&self.person.bus, workload).await;
        }
    }

    /// Ask whichever node answers; ask again when none does.
    pub(crate) fn ask(&mut self, topic: Topic, payload: Bytes) {
        let (bus, subject) = (self.person.bus.clone(), topic.subject(&lattice_id()));
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

    /// The same, and wait for the answer while time passes.
    pub(crate) async fn answer(&mut self, topic: Topic, payload: Bytes) -> Result<serde_json::Value, String> {
        let (bus, subject) = (self.person.bus.clone(), topic.subject(&lattice_id()));
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut requests = JoinSet::new();
        loop {
            let (bus, subject, payload) = (bus.clone(), subject.clone(), payload.clone());
            requests.spawn(async move { bus.request(subject, Headers::new(), payload, Duration::from_secs(4)).await });
            let asked = loop {
                self.step().await?;
                if let Some(asked) = requests.try_join_next() {
                    break asked.map_err(|error| error.to_string())?;
                }
            };
            match asked.map(|message| serde_json::from_slice::<Reply<serde_json::Value>>(&message.payload)) {
                Ok(Ok(Reply::Ok(value))) => return Ok(value),
                Ok(Ok(Reply::Error(CtlError { message, .. }))) if Instant::now() > deadline => return Err(message),
                // The answer of a node that can't say now.
                Ok(Ok(Reply::Error(error))) if error.code.status() >= 500 => {}
                Ok(Ok(Reply::Error(error))) => return Err(error.to_string()),
                Ok(Err(error)) => return Err(error.to_string()),
                Err(error) if Instant::now() > deadline => return Err(error.to_string()),
                Err(_) => {}
            }
        }
    }
}
