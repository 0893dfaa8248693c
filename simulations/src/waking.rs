//! Workloads that rest until a message comes, on real control planes under faults. At most once: no message is handled twice,
//! whatever the bus repeats. None that a node keeps is lost without a word, but with the node. Once nothing fails any more each
//! message wakes what rests, and is handled, in time.
//!
//! Start at [`run`]. What becomes of each message is in `messages/letters.rs`.

use crate::{
    Facts, Options, Outcome,
    checkers::Verdict,
    fleet::{Fleet, Misfortune},
    in_virtual_time,
    messages::{REPLIES, subject},
};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use lattice::{
    id::WorkloadName,
    spec::{AutoscaleSpec, MessageSpec, WorkloadSpec},
    store::{Items, Message},
    subject::{Topic, WorkloadVerb},
    units::Millis,
};
use std::time::Duration;
use tokio::time::Instant;

/// The bound is when each message must be handled again: a resync, which finds who rests, and what was kept until then. For the
/// time of rest messages go on, and nothing fails.
pub const OPTIONS: Options =
    Options { faults: Duration::from_secs(120), bound: Duration::from_secs(60), rest: Duration::from_secs(120) };
/// Within which a message is handled where nothing fails: a replica is claimed and started, and listens.
const WAKE: Duration = Duration::from_secs(10);
/// Within which all rest once no message comes: what is idle is known by reports, the last of which say so some seconds later.
const TO_REST: Duration = Duration::from_secs(45);
/// Until which writes land of which nobody heard.
const LATE: Duration = Duration::from_secs(10);
/// More than two nodes keep for a workload.
const FLOOD: u64 = 600;
/// One that people change and delete.
const CHANGES: &str = "changes";

struct World {
    fleet: Fleet,
    replies: Items<Message>,
}

fn workloads() -> [WorkloadName; 3] {
    [CHANGES, "rests", "sleeps"].map(|name| WorkloadName::new(name).expect("it is a name"))
}

impl World {
    async fn new(seed: u64) -> World {
        let fleet = Fleet::new(seed, 4).await;
        let replies = fleet.person.bus.subscribe(format!("{REPLIES}.*"), None).await;
        let world = World { fleet, replies: replies.expect("a bus in memory takes it") };
        for name in workloads() {
            world.fleet.ask(Topic::WorkloadPut, world.spec(&name, None)).await;
        }
        world
    }

    fn spec(&self, name: &WorkloadName, concurrency: Option<u32>) -> Bytes {
        let idle = Some(Millis::from_secs(if name.as_str() == "sleeps" { 1 } else { 4 }));
        let autoscale = AutoscaleSpec { down_after: Millis::from_secs(2), idle, ..AutoscaleSpec::new(0, 3) };
        let subject = subject(name).parse().expect("it is a subject");
        let messages = vec![MessageSpec { subject, group: None, concurrency, endpoint: None }];
        self.fleet.spec(name, |spec| WorkloadSpec { autoscale: Some(autoscale), messages, ..spec })
    }

    /// Answers when each message was to be handled again, after the faults.
    async fn both_phases(&mut self, options: Options) -> Result<Instant, String> {
        let (end, mut next) = (Instant::now() + options.faults, Instant::now());
        while Instant::now() < end {
            self.step().await?;
            if Instant::now() >= next {
                self.something_happens().await;
                next = Instant::now() + self.fleet.rng.millis(100, 4_000);
            }
        }
        self.fleet.make_peace();
        // What was asked before may still be done.
        let settled = Instant::now() + LATE;
        while Instant::now() < settled || !self.fleet.is_answered() {
            self.step().await?;
        }
        for name in workloads() {
            self.fleet.ask(Topic::WorkloadPut, self.spec(&name, None)).await;
        }
        let calm = Instant::now() + options.bound;
        while Instant::now() < calm {
            self.step().await?;
        }
        self.fleet.trace.note("calm");
        let end = calm + options.rest;
        while Instant::now() < end {
            self.step().await?;
            self.fleet.letters.all_handled(calm, WAKE)?;
            if Instant::now() >= next {
                self.some_messages().await;
                next = Instant::now() + self.fleet.rng.millis(100, 15_000);
            }
        }
        self.all_rest().await?;
        for name in workloads() {
            self.fleet.letters.send(&self.fleet.person.bus, &name).await;
        }
        let sent = Instant::now();
        while sent.elapsed() < WAKE + Duration::from_secs(1) {
            self.step().await?;
        }
        self.fleet.letters.all_handled(calm, WAKE)?;
        Ok(calm)
    }

    async fn all_rest(&mut self) -> Verdict {
        let since = Instant::now();
        loop {
            self.step().await?;
            let awake = workloads().into_iter().find(|name| self.fleet.ready(name) > 0);
            match awake {
                None => return Ok(()),
                Some(name) if since.elapsed() > TO_REST => return Err(format!("{name} does not come to rest")),
                Some(_) => {}
            }
        }
    }

    async fn step(&mut self) -> Verdict {
        while let Some(Some(reply)) = self.replies.next().now_or_never() {
            self.fleet.letters.reply(&reply);
        }
        self.fleet.step().await
    }

    async fn something_happens(&mut self) {
        match self.fleet.rng.between(0, 99) {
            0..45 => self.some_messages().await,
            45..48 => self.send(FLOOD).await,
            48..54 => self.change(),
            _ => self.fleet.befall(Misfortune { kill: 10, leave: 15, of_bus: true }),
        }
    }

    async fn some_messages(&mut self) {
        let number = if self.fleet.rng.happens(500) { 1 } else { self.fleet.rng.between(2, 20) };
        self.send(number).await;
    }

    async fn send(&mut self, number: u64) {
        let workloads = workloads();
        let Some(name) = self.fleet.rng.pick(&workloads) else { return };
        self.fleet.trace.note(format!("{number} messages for {name}"));
        for _ in 0..number {
            self.fleet.letters.send(&self.fleet.person.bus, name).await;
        }
    }

    /// Somebody changes what a workload listens to, or deletes it.
    fn change(&mut self) {
        let [name, ..] = workloads();
        if self.fleet.rng.happens(300) {
            self.fleet.trace.note(format!("{name} is deleted"));
            self.fleet.try_to_ask(Topic::Workload(WorkloadVerb::Delete, name), Bytes::new());
        } else {
            let concurrency = u32::try_from(self.fleet.rng.between(1, 4)).unwrap_or(1);
            self.fleet.trace.note(format!("{name} takes {concurrency} messages at a time"));
            self.fleet.try_to_ask(Topic::WorkloadPut, self.spec(&name, Some(concurrency)));
        }
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
    let Fleet { letters, history, trace, .. } = world.fleet;
    let facts = Facts {
        claims: history.claims,
        slot_writes: history.slot_writes,
        messages: letters.totals(),
        longest_wait: played.as_ref().map_or(Duration::ZERO, |calm| letters.longest_wait(*calm)),
        ..Facts::default()
    };
    Outcome { seed, violation: played.err(), trace, facts }
}
