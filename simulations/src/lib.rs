//! The real services of a lattice over a simulated store, bus, clock and chance, from a seed: the same seed gives the same
//! run. First a phase in which everything goes wrong, with checkers after each step; then nothing goes wrong any more,
//! and the lattice must come to rest with all that was asked for.
//!
//! It must hold no logic of the services: what it runs is [`lattice_control_plane::ControlPlane`] itself.
//!
//! Start at [`run`]; then `chaos.rs` (what a seed makes happen), `world.rs` (what can happen), `checkers/` (what must
//! hold), `network/` (what fails by itself). [`scenario`] plays what a file says instead, [`scaling`] workloads that
//! scale themselves, [`waking`] those that rest until a message comes.

// This crate is one large test: a broken assumption of its own must end it.
#![allow(clippy::expect_used)]

pub mod chance;
mod chaos;
mod checkers;
mod fleet;
mod host;
mod messages;
mod network;
mod node;
pub mod scaling;
pub mod scenario;
mod ticks;
mod trace;
mod traffic;
pub mod waking;
mod world;

pub use trace::Trace;

use std::{collections::BTreeMap, sync::mpsc, thread, time::Duration};

/// Real time that one seed may take: a hundred times what it takes.
const HANG: Duration = Duration::from_secs(120);

/// How a seed is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Virtual time for which things go wrong.
    pub faults: Duration,
    /// Virtual time within which the lattice must come to rest then: a resync (up to 45 s) that finds a change which was
    /// missed, a kill, and a few rounds of claims and starts.
    pub bound: Duration,
    /// Virtual time for which it must stay at rest.
    pub rest: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { faults: Duration::from_secs(60), bound: Duration::from_secs(90), rest: Duration::from_secs(10) }
    }
}

/// How one seed went.
#[derive(Debug)]
pub struct Outcome {
    pub seed: u64,
    /// What did not hold, if anything.
    pub violation: Option<String>,
    pub trace: Trace,
    pub facts: Facts,
}

/// What happened, so that a test can see that something did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// How often each kind of fault befell the lattice.
    pub faults: BTreeMap<&'static str, u64>,
    pub claims: u64,
    pub slot_writes: u64,
    /// Ticks of schedules.
    pub fired: u64,
    /// Numbers of replicas that workloads decided on by themselves.
    pub decisions: u64,
    /// What became of messages.
    pub messages: BTreeMap<&'static str, u64>,
    /// The longest that one waited for a replica once nothing failed any more.
    pub longest_wait: Duration,
    /// From the end of the faults until everything asked for ran.
    pub converged_after: Option<Duration>,
}

impl Facts {
    /// All kinds of faults that there are.
    pub const FAULTS: [&'static str; 14] = world::Fault::KINDS;

    pub fn faults(&self) -> u64 {
        self.faults.values().sum()
    }
}

/// Play one seed, in virtual time, on this thread.
pub fn run(seed: u64, options: Options) -> Outcome {
    in_virtual_time(&format!("seed {seed}"), chaos::play(seed, options))
}

/// Run on this thread until it is done. Time passes as fast as there is nothing left to do.
fn in_virtual_time<T>(name: &str, play: impl Future<Output = T>) -> T {
    let (played, waiting) = mpsc::channel::<()>();
    let name = name.to_owned();
    thread::spawn(move || {
        if waiting.recv_timeout(HANG) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("{name} hangs: a service does not wait for anything, so virtual time stands still");
            std::process::abort();
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without sockets needs nothing of the system");
    let outcome = runtime.block_on(play);
    drop(played);
    outcome
}

fn lattice_id() -> lattice::id::LatticeId {
    lattice::id::LatticeId::new("sim").expect("it is a name")
}
