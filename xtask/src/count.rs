//! `cargo xtask count`: instructions of hot paths, counted by callgrind and held against what is on record. Unlike time,
//! a count does not depend on what else the machine does, so a few percent more are a finding, not noise.
//!
//! The paths are those of `benches/src/bin/counts.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::workspace;

/// One line a path: its name and its instructions.
const RECORD: &str = "benches/counts.txt";
/// Percent. Below it are what other processors' copies of memory functions make of the same code.
const TOLERANCE: f64 = 3.0;
const ITERATIONS: u64 = 1_000;
/// Telemetry that nobody samples may cost so much: the path with it, the one without, and percent.
const TELEMETRY: [(&str, &str, f64); 2] = [
    ("router/local-sampling-off", "router/local-request", 2.0),
    ("runtime/0.2-sampling-off", "runtime/0.2-reused", 2.0),
];

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Put on record what was counted.
    write: bool,
    /// Also the paths that run guests: they need the guests, and wasmtime to be built.
    runtime: bool,
}

impl Options {
    pub(crate) fn parse(arguments: &[&str]) -> Option<Self> {
        let mut options = Self::default();
        for argument in arguments {
            match *argument {
                "--write" => options.write = true,
                "--runtime" => options.runtime = true,
                _ => return None,
            }
        }
        Some(options)
    }
}

/// Whether there is a valgrind to count with.
pub(crate) fn is_possible() -> bool {
    Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success())
}

pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(is_possible(), "valgrind is not installed: apt-get install valgrind");
    let mut build = workspace::cargo();
    build.args(["build", "--profile", "bench", "--package", "lattice-benches", "--bin", "counts", "--locked"]);
    match options.runtime {
        // With the features that the node itself has, wasmtime need not be built once more for this.
        true => build.args(["--package", "lattice-cli", "--features", "lattice-benches/runtime"]),
        false => build.arg("--no-default-features"),
    };
    workspace::timed("building counts", || workspace::run(&mut build))?;
    let program = workspace::Metadata::read()?.target_directory.join("release/counts");
    let names = workspace::output(&mut Command::new(&program))?;
    let mut counted = BTreeMap::new();
    for name in names.lines() {
        counted.insert(name.to_owned(), count(&program, name)?);
    }
    let record = workspace::root().join(RECORD);
    let known = parse(&fs::read_to_string(&record).unwrap_or_default())?;
    let (costs, is_cheap) = telemetry(&counted);
    print!("{costs}");
    ensure!(is_cheap, "telemetry that nobody samples costs too much");
    if options.write {
        // What was not counted this time stays.
        let lines = known.into_iter().chain(counted).collect::<BTreeMap<_, _>>();
        let text: String = lines.iter().map(|(name, count)| format!("{name} {count}\n")).collect();
        fs::write(&record, text).with_context(|| format!("cannot write {RECORD}"))?;
        return Ok(());
    }
    let (table, is_good) = compare(&known, &counted);
    print!("{table}");
    ensure!(
        is_good,
        "more than {TOLERANCE} % over the record in {RECORD}; if that is worth it: cargo xtask count --write"
    );
    Ok(())
}

/// Instructions of one iteration.
fn count(program: &Path, name: &str) -> Result<u64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=counts::measured*"]);
    let output = valgrind.arg(program).args([name, &ITERATIONS.to_string()]).output().context("cannot run valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} failed under valgrind:\n{said}");
    let total = collected(&said).filter(|total| *total > 0);
    Ok(total.with_context(|| format!("no count in what valgrind said:\n{said}"))? / ITERATIONS)
}

/// The number in `==17== Collected : 123456`.
fn collected(said: &str) -> Option<u64> {
    said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
}

fn parse(record: &str) -> Result<BTreeMap<String, u64>> {
    let mut known = BTreeMap::new();
    for line in record.lines() {
        let Some((name, count)) = line.split_once(' ') else { bail!("{RECORD}: {line:?} is not a name and a count") };
        let count = count.trim().parse().with_context(|| format!("{RECORD}: {line:?} is not a name and a count"))?;
        known.insert(name.to_owned(), count);
    }
    Ok(known)
}

/// A table, and whether nothing is over the record by more than is tolerated. What is not on record is no fault.
fn compare(known: &BTreeMap<String, u64>, counted: &BTreeMap<String, u64>) -> (String, bool) {
    let mut is_good = true;
    let mut table = format!("{:<26} {:>12} {:>12} {:>8}\n", "instructions of", "on record", "now", "change");
    for (name, now) in counted {
        let Some(record) = known.get(name) else {
            table += &format!("{name:<26} {:>12} {now:>12}\n", "-");
            continue;
        };
        let change = (*now as f64 / *record as f64 - 1.0) * 100.0;
        let is_over = change > TOLERANCE;
        is_good &= !is_over;
        let mark = if is_over { "  OVER" } else { "" };
        table += &format!("{name:<26} {record:>12} {now:>12} {change:>+7.1}%{mark}\n");
    }
    (table, is_good)
}

/// What telemetry costs of what was counted, a line each, and whether it is little enough. On counts of the same run, so
/// that no record can hide it.
fn telemetry(counted: &BTreeMap<String, u64>) -> (String, bool) {
    let (mut lines, mut is_good) = (String::new(), true);
    for (with, without, percent) in TELEMETRY {
        let (Some(more), Some(less)) = (counted.get(with), counted.get(without)) else { continue };
        let cost = (*more as f64 / *less as f64 - 1.0) * 100.0;
        let is_over = cost > percent;
        is_good &= !is_over;
        lines += &format!(
            "{with} costs {cost:+.1} % beside {without}, of {percent} %{}\n",
            if is_over { "  OVER" } else { "" }
        );
    }
    (lines, is_good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(list: &[(&str, u64)]) -> BTreeMap<String, u64> {
        list.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn a_regression_is_told_from_noise() {
        let known = counts(&[("a", 1000), ("b", 1000)]);
        for (now, expect) in [
            (&[("a", 1000), ("b", 1029)][..], true),
            (&[("a", 400)], true),
            (&[("c", 9)], true),
            (&[("b", 1031)], false),
        ] {
            let (table, is_good) = compare(&known, &counts(now));
            assert_eq!(is_good, expect, "{table}");
            assert_eq!(table.contains("OVER"), !expect, "{table}");
        }
    }

    #[test]
    fn telemetry_is_held_against_the_same_path_without_it() {
        for (with, expect) in [(10_000, true), (10_199, true), (10_201, false)] {
            let counted = counts(&[("router/local-sampling-off", with), ("router/local-request", 10_000)]);
            let (lines, is_good) = telemetry(&counted);
            assert_eq!((is_good, lines.contains("OVER"), lines.lines().count()), (expect, !expect, 1), "{lines}");
        }
        assert_eq!(telemetry(&counts(&[("router/local-request", 1)])), (String::new(), true));
    }

    #[test]
    fn records_are_read_as_they_are_written() {
        assert_eq!(parse("a/b 17\nc 4\n").unwrap(), counts(&[("a/b", 17), ("c", 4)]));
        assert!(parse("a\n").is_err());
        assert!(parse("a b\n").is_err());
    }

    #[test]
    fn the_count_is_found() {
        let said = "==1== Events    : Ir\n==1== Collected : 2500\n==1== \n==1== I   refs:      2,500\n";
        assert_eq!(collected(said), Some(2500));
        assert_eq!(collected("==1== error\n"), None);
    }

    #[test]
    fn options() {
        assert_eq!(Options::parse(&["--write", "--runtime"]), Some(Options { write: true, runtime: true }));
        assert_eq!(Options::parse(&["--wriet"]), None);
    }
}
