//! Plays seeds and scenarios: `lattice-simulations --seed 42`, `--seeds 0..200`, `--minutes 5`, `--scenario FILE`. A
//! violation prints how to see it again and the last things that happened, and ends with status 1.

use lattice_simulations::{Options, Outcome, run, scaling, scenario, waking};
use std::{
    ops::Range,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const USAGE: &str = "\
Plays seeded simulations of a lattice and checks its invariants.

usage: lattice-simulations [--seed N | --seeds FROM..TO | --minutes M | --scenario FILE] [--scaling | --waking] [--faults S] [--trace]

  --seed N         one seed
  --seeds A..B     seeds A to B-1
  --minutes M      new seeds, from the time of day, for that long
  --scenario FILE  what a file says, such as those in simulations/scenarios/
  --scaling        of workloads that scale themselves, under loads that change
  --waking         of workloads that rest until a message comes
  --faults S       seconds of virtual time for which things go wrong [default: 60; 120 with --scaling and --waking]
  --trace          print what happened even if all is well";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut flag = |name: &str| {
        let before = words.len();
        words.retain(|word| *word != name);
        words.len() != before
    };
    let show = flag("--trace");
    let mut game = match (flag("--scaling"), flag("--waking")) {
        (false, false) => Game { run, flag: "", options: Options::default() },
        (true, false) => Game { run: scaling::run, flag: " --scaling", options: scaling::OPTIONS },
        (false, true) => Game { run: waking::run, flag: " --waking", options: waking::OPTIONS },
        (true, true) => return usage(),
    };
    if let Some(at) = words.iter().position(|word| *word == "--faults") {
        let Some(Ok(seconds)) = words.get(at + 1).map(|seconds| seconds.parse()) else { return usage() };
        game.options.faults = Duration::from_secs(seconds);
        words.drain(at..at + 2);
    }
    let (seeds, until) = match words[..] {
        [] => (0..100, None),
        ["--seed", seed] => match seed.parse() {
            Ok(seed) => (seed..seed + 1, None),
            Err(_) => return usage(),
        },
        ["--seeds", seeds] => match range(seeds) {
            Some(seeds) => (seeds, None),
            None => return usage(),
        },
        ["--minutes", minutes] => match minutes.parse::<u64>() {
            Ok(minutes) => {
                let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                (since.as_secs() * 1000..u64::MAX, Some(Instant::now() + Duration::from_secs(60 * minutes)))
            }
            Err(_) => return usage(),
        },
        ["--scenario", file] => return play_file(file, show),
        _ => return usage(),
    };
    play_seeds(seeds, until, game, show)
}

/// What is played with a seed.
#[derive(Clone, Copy)]
struct Game {
    run: fn(u64, Options) -> Outcome,
    /// What asks for it.
    flag: &'static str,
    options: Options,
}

fn play_seeds(seeds: Range<u64>, until: Option<Instant>, game: Game, show: bool) -> ExitCode {
    let next = AtomicU64::new(seeds.start);
    let played = Mutex::new((0_u64, 0_u64));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || until.is_some_and(|until| Instant::now() > until) {
                        return;
                    }
                    let outcome = (game.run)(seed, game.options);
                    let mut played = played.lock().unwrap_or_else(PoisonError::into_inner);
                    report(&outcome, game, show);
                    played.0 += u64::from(outcome.violation.is_none());
                    played.1 += u64::from(outcome.violation.is_some());
                }
            });
        }
    });
    let (passed, failed) = *played.lock().unwrap_or_else(PoisonError::into_inner);
    println!("{passed} seeds passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn play_file(file: &str, show: bool) -> ExitCode {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{file}: {error}");
            return ExitCode::from(2);
        }
    };
    let played = match scenario::play(file, &text) {
        Ok(played) => played,
        Err(error) => {
            eprintln!("{file}: {error}");
            return ExitCode::from(2);
        }
    };
    if show || played.violation.is_some() {
        for line in played.trace.lines() {
            eprintln!("{line}");
        }
    }
    print!("{}", played.transcript);
    match played.violation {
        Some(violation) => {
            eprintln!("{file}: {violation}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

fn range(text: &str) -> Option<Range<u64>> {
    let (from, to) = text.split_once("..")?;
    Some(from.parse().ok()?..to.parse().ok()?)
}

fn report(outcome: &Outcome, game: Game, show: bool) {
    let Outcome { seed, violation, trace, facts } = outcome;
    if show || violation.is_some() {
        for line in trace.lines() {
            println!("{line}");
        }
    }
    match violation {
        Some(violation) => {
            let (faults, flag) = (game.options.faults.as_secs(), game.flag);
            println!("seed {seed}: {violation}");
            println!("again: cargo run -p lattice-simulations -- --seed {seed} --faults {faults}{flag}");
        }
        None if game.flag == " --waking" => println!(
            "seed {seed}: {:?}, at most {:.1} s for a replica, trace {:016x}",
            facts.messages,
            facts.longest_wait.as_secs_f64(),
            trace.hash()
        ),
        None => println!(
            "seed {seed}: {} faults, {} claims, {} ticks, {} decisions, at rest after {:.1} s, trace {:016x}",
            facts.faults(),
            facts.claims,
            facts.fired,
            facts.decisions,
            facts.converged_after.unwrap_or_default().as_secs_f64(),
            trace.hash()
        ),
    }
}
