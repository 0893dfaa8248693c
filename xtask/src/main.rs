//! `cargo xtask`: the project's own chores. Start here: `cargo xtask help`.
//!
//! Progress goes to stderr, results to stdout. Nothing is installed outside `target/` except, with rustup, a Rust target.

mod clients;
mod conformance;
mod count;
mod demo;
mod fuzz;
mod guests;
mod heal;
mod interfaces;
mod models;
mod nats;
mod schema;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

const USAGE: &str = "Usage: cargo xtask <task>

Tasks:
  demo [--nodes N] [--release]   start a lattice of N (3) nodes on this machine, with a workload to send requests to
  test                           everything that CI runs: format, structure, lints, guests, tests, dependencies
  count [--runtime] [--write]    count the instructions of hot paths and hold them against the record
  fuzz [TARGET]... [--seconds N] run fuzz targets under libFuzzer, all of them or those named, for N (60) seconds each
  tidy                           check the structure alone: crates, sources, documents
  schema                         write the JSON Schemas and the page of interfaces in docs/ from their sources
  guests [--rust-only]           build the components of guests/ into target/guests
  heal [--tries N] [--timing T]  kill nodes, and measure how long until what they ran answers elsewhere (--release,
                                 --program LATTICE)
  conformance                    send HTTP to a lattice with curl, h2load and, if it is installed, h2spec
  clients                        install the NATS and HTTP clients in Python that tests use
  models                         bring the ONNX models that tests run into target/models
  nats [--version V]             find or install nats-server and print its path
  help                           print this";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        [] | ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        ["demo", options @ ..] => match demo::Options::parse(options) {
            Some(options) => demo::run(&options),
            None => return misused(&arguments),
        },
        ["count", options @ ..] => match count::Options::parse(options) {
            Some(options) => count::run(&options),
            None => return misused(&arguments),
        },
        ["fuzz", options @ ..] => match fuzz::Options::parse(options) {
            Some(options) => fuzz::run(&options),
            None => return misused(&arguments),
        },
        ["heal", options @ ..] => match heal::Options::parse(options) {
            Some(options) => heal::run(&options),
            None => return misused(&arguments),
        },
        ["conformance"] => conformance::run(),
        ["clients"] => clients::run().map(|pythons| {
            for (variable, python) in pythons {
                println!("{variable}={}", python.display());
            }
        }),
        ["guests"] => guests::run(&guests::Options { rust_only: false }),
        ["guests", "--rust-only"] => guests::run(&guests::Options { rust_only: true }),
        ["models"] => models::run().map(|folder| println!("{}", folder.display())),
        ["nats"] => nats::find().map(|path| println!("{}", path.display())),
        ["nats", "--version", version] => nats::find_pinned(version).map(|path| println!("{}", path.display())),
        ["schema"] => schema::write(),
        ["test"] => return test::run(),
        ["tidy"] => tidy::run(),
        _ => return misused(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn misused(arguments: &[&str]) -> ExitCode {
    eprintln!("not understood: {}\n\n{USAGE}", arguments.join(" "));
    ExitCode::from(2)
}
