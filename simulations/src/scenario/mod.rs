//! Plays what a file says, and writes down what came of it: `simulations/scenarios/NAME.txt`, with `NAME.out` beside it.
//! The words that a file may use are in [`parse`], which refuses all others.
//!
//! Start at [`play`].

mod parse;

use crate::{
    Options,
    checkers::Verdict,
    in_virtual_time,
    node::{NodeSetup, SimNode},
    world::{Cure, Fault, World},
};
use bytes::Bytes;
use lattice::{
    id::{NodeId, SlotId, WorkloadName},
    subject::{Topic, WorkloadVerb},
};
use parse::{Befalls, Command, Line, Members, Promise};
use std::{collections::BTreeMap, fmt::Write as _};
use tokio::time::Instant;

/// How a scenario went.
#[derive(Debug)]
pub struct Played {
    /// Its commands, and what came of each.
    pub transcript: String,
    /// What did not hold, if anything.
    pub violation: Option<String>,
    /// What happened, by virtual time.
    pub trace: crate::Trace,
}

/// Play a scenario, in virtual time, on this thread. An error is one of the file itself, and names the line.
pub fn play(name: &str, text: &str) -> Result<Played, String> {
    let scenario = parse::parse(text)?;
    Ok(in_virtual_time(name, async {
        let mut stage = Stage::new(scenario.seed).await;
        let violation = stage.play(&scenario.lines).await.err();
        Played { transcript: stage.transcript, violation, trace: stage.world.trace }
    }))
}

struct Stage {
    world: World,
    seed: u64,
    transcript: String,
    /// Who held what when all was at rest last.
    settled: Holders,
}

type Holders = BTreeMap<SlotId, NodeId>;

impl Stage {
    async fn new(seed: u64) -> Self {
        Self { world: World::new(seed).await, seed, transcript: String::new(), settled: Holders::new() }
    }

    async fn play(&mut self, lines: &[Line]) -> Verdict {
        for Line { number, text, command } in lines {
            if !text.is_empty() {
                let _ = writeln!(self.transcript, "> {text}");
                self.world.trace.note(format!("> {text}"));
            }
            self.command(command).await.map_err(|why| format!("line {number}, {text:?}: {why}"))?;
        }
        Ok(())
    }

    fn say(&mut self, text: impl std::fmt::Display) {
        let _ = writeln!(self.transcript, "  {text}");
    }

    fn node(&self, id: &NodeId) -> Result<usize, String> {
        let found = self.world.nodes.iter().position(|node| node.id == *id);
        found.ok_or_else(|| format!("there is no node {id}"))
    }

    async fn command(&mut self, command: &Command) -> Verdict {
        match command {
            Command::Node { id, capacity, zone, taints, gpus } => {
                let (id, zone, taints, gpus) = (id.clone(), zone.clone(), taints.clone(), gpus.clone());
                self.world.join(
                    self.seed,
                    NodeSetup { id, capacity: *capacity, zone, taints, gpus, comes_back: false },
                    true,
                );
            }
            Command::After(time) => {
                let end = Instant::now() + *time;
                while Instant::now() < end {
                    self.world.step().await?;
                }
            }
            Command::Settle { is_told } => self.settle(*is_told).await?,
            Command::Put { workload, fields, is_refused } => {
                let answered = self.world.answer(Topic::WorkloadPut, spec(&self.world, workload, fields)).await;
                match (answered, is_refused) {
                    (Ok(_), false) => {}
                    (Ok(_), true) => return Err("it was not refused".into()),
                    (Err(why), true) => self.say(why),
                    (Err(why), false) => return Err(why),
                }
            }
            Command::Scale { workload, replicas } => {
                let topic = Topic::Workload(WorkloadVerb::Scale, workload.clone());
                self.world.answer(topic, format!("{{\"replicas\": {replicas}}}").into()).await?;
            }
            Command::Delete(workload) => {
                self.world.answer(Topic::Workload(WorkloadVerb::Delete, workload.clone()), Bytes::new()).await?;
            }
            Command::Steer { workload, action } => {
                let topic = Topic::Workload(WorkloadVerb::Rollout, workload.clone());
                self.world.answer(topic, format!("{{\"action\": \"{action}\"}}").into()).await?;
            }
            Command::Rebalance { at_once } => {
                let payload = format!("{{\"at-once\": {at_once}}}").into();
                let reply = self.world.answer(Topic::RebalanceStart, payload).await?;
                let moves = reply.get("moves").and_then(serde_json::Value::as_array).map_or(0, Vec::len);
                self.say(format!("to move: {moves}"));
            }
            Command::Send { workload, number } => self.world.send(workload, *number).await,
            Command::Sour(workload) => {
                if !self.world.sour(workload) {
                    return Err("there is no such workload".into());
                }
            }
            Command::Cordon { node, is_cordoned: true } => {
                self.world.answer(Topic::NodeCordon(node.clone()), Bytes::new()).await?;
            }
            Command::Cordon { node, is_cordoned: false } => {
                self.world.answer(Topic::NodeUncordon(node.clone()), Bytes::new()).await?;
            }
            Command::OfNodes(members, what) => self.of_nodes(members, *what)?,
            Command::OfStore(fault) => drop(self.world.inflict(*fault)),
            Command::Clock { node, millis } => {
                let node = self.node(node)?;
                self.world.inflict(Fault::Clock(node, *millis));
            }
            Command::Weather(settings) => {
                let settings = settings.clone();
                self.world.turn(format!("{settings:?}"), |weather| {
                    *weather = Default::default();
                    for (name, value) in &settings {
                        weather.setting(name).into_iter().for_each(|setting| *setting = *value);
                    }
                });
            }
            Command::Peace => self.world.make_peace(),
            Command::Keep { workload, at_least } => self.world.floors.set(workload.clone(), *at_least),
            Command::Expect(promise) => self.expect(promise)?,
        }
        Ok(())
    }

    fn of_nodes(&mut self, members: &Members, what: Befalls) -> Verdict {
        let nodes = match members {
            Members::All => (0..self.world.nodes.len()).collect(),
            Members::These(ids) => ids.iter().map(|id| self.node(id)).collect::<Result<Vec<_>, _>>()?,
        };
        for node in nodes {
            match what {
                Befalls::Kill => drop(self.world.inflict(Fault::Kill(node))),
                Befalls::Suspend => drop(self.world.inflict(Fault::Suspend(node))),
                Befalls::Leave => drop(self.world.inflict(Fault::Leave(node))),
                Befalls::Link(link) => drop(self.world.inflict(Fault::Link(node, link))),
                Befalls::FailGpus(fail) => {
                    let why = fail.then_some("it adds vectors wrongly");
                    self.world.nodes.get_mut(node).into_iter().for_each(|node| node.fail_gpus(why));
                }
                Befalls::Start => self.world.cure(Cure::Restart(node)),
                Befalls::Resume => self.world.cure(Cure::Resume(node)),
            }
        }
        Ok(())
    }

    async fn settle(&mut self, is_told: bool) -> Verdict {
        self.world.settle(Options::default()).await?;
        let holders = self.holders();
        if !is_told {
            self.settled = holders;
            return Ok(());
        }
        let mut lines: BTreeMap<WorkloadName, Vec<String>> = BTreeMap::new();
        for name in self.world.history.view.specs.keys() {
            for index in lattice_planner::wanted(&self.world.history.view, name) {
                let holder = holders.get(&SlotId::new(name.clone(), index));
                let text = holder.map_or_else(|| "-".to_owned(), ToString::to_string);
                lines.entry(name.clone()).or_default().push(text);
            }
        }
        for (name, holders) in lines {
            self.say(format!("{name}: {}", holders.join(" ")));
        }
        let is_other = |(slot, before): &(&SlotId, &NodeId)| holders.get(*slot).is_some_and(|now| now != *before);
        let moved = self.settled.iter().filter(is_other).count();
        if !self.settled.is_empty() {
            self.say(format!("moved: {moved}"));
        }
        self.settled = holders;
        Ok(())
    }

    fn holders(&self) -> Holders {
        let slots = &self.world.history.view.slots;
        slots.iter().map(|(slot, held)| (slot.clone(), held.record.holder.node.clone())).collect()
    }

    fn expect(&mut self, promise: &Promise) -> Verdict {
        match promise {
            Promise::Kept(workload) => {
                let least = self.world.floors.lift(workload).ok_or("nothing was to be kept")?;
                self.say(format!("at least {least} answered"));
                Ok(())
            }
            Promise::Answering { workload, replicas } => {
                let answering = crate::checkers::answering(&self.world.nodes, workload);
                if answering == *replicas { Ok(()) } else { Err(format!("{answering} answer")) }
            }
            Promise::Runs { node, slots } => {
                let i = self.node(node)?;
                let host = self.world.nodes.get(i).and_then(SimNode::host);
                let runs: Vec<String> =
                    host.map(|host| host.running()).unwrap_or_default().keys().map(ToString::to_string).collect();
                if runs == *slots { Ok(()) } else { Err(format!("it runs {runs:?}")) }
            }
            Promise::Generation { workload, generation } => {
                let spec = self.world.history.view.specs.get(workload).ok_or("there is no such workload")?;
                let found = spec.record.generation.0;
                if found == *generation { Ok(()) } else { Err(format!("it is {found}")) }
            }
            Promise::Share { workload, percent } => {
                let view = &self.world.history.view;
                for node in view.sessions.keys() {
                    let found = crate::checkers::share_of_newest(view, node, workload)?;
                    if (found - f64::from(*percent)).abs() > 1.5 {
                        return Err(format!("{node} sends it {found} %"));
                    }
                }
                Ok(())
            }
            Promise::Messages { workload, end, number } => {
                let found = self.world.letters.count(workload, *end);
                if found == *number { Ok(()) } else { Err(format!("there are {found}")) }
            }
            Promise::Fired { at_least } => {
                let fired = self.world.facts().fired;
                if fired >= *at_least { Ok(()) } else { Err(format!("{fired} ticks fired")) }
            }
        }
    }
}

/// A spec of one component with these fields, which are YAML between braces.
fn spec(world: &World, workload: &WorkloadName, fields: &str) -> Bytes {
    let memory = if fields.contains("limits:") { "" } else { ", limits: {memory: 32MiB}" };
    let fields = if fields.trim().is_empty() { String::new() } else { format!(", {fields}") };
    let component = format!("{{name: main, source: '{}'}}", world.component);
    format!("{{name: {workload}, components: [{component}]{memory}{fields}}}").into()
}
