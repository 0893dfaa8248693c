//! `cargo xtask test`: everything that CI runs. A failed step does not hide those that don't depend on it.
//!
//! The last line is always `N passed, M failed`: tests, and for each step without tests of its own that failed, one.

use std::io::{BufRead as _, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context as _, Result};

use crate::{clients, conformance, count, guests, models, nats, tidy, workspace};

/// The oldest recommended server, for tests that must hold on both.
const RECOMMENDED_SERVER_VARIABLE: &str = "LATTICE_NATS_SERVER_RECOMMENDED";
const LEAST_SERVER_VARIABLE: &str = "LATTICE_NATS_SERVER_LEAST";
/// A server that nodes must refuse.
const TOO_OLD_SERVER_VARIABLE: &str = "LATTICE_NATS_SERVER_TOO_OLD";
/// Tests of GPUs are skipped where it is set.
const WITHOUT_GPU_VARIABLE: &str = "LATTICE_WITHOUT_GPU";
/// The folder of the built guests.
const GUESTS_VARIABLE: &str = "LATTICE_GUESTS";

pub(crate) fn run() -> ExitCode {
    let mut report = Report::default();

    report.check("format", || workspace::run(workspace::cargo().args(["fmt", "--all", "--check"])));
    report.check("format of guests", || {
        workspace::run(workspace::cargo().args(["fmt", "--manifest-path", "guests/Cargo.toml", "--all", "--check"]))
    });
    report.check("structure", tidy::run);
    report.check("lints", || {
        let mut clippy = workspace::cargo();
        // Else the counts of paths that run guests would be seen by nobody before they are wanted.
        clippy.args(["clippy", "--workspace", "--all-targets", "--features", "lattice-benches/runtime", "--locked"]);
        clippy.args(["--", "-D", "warnings"]);
        workspace::run(&mut clippy)
    });
    let guests = report.check("guests", || guests::run(&guests::Options { rust_only: false }));
    let servers = report.check("servers", || {
        Ok([
            (nats::SERVER_VARIABLE, named_or_pinned(nats::SERVER_VARIABLE, nats::NEWEST)?),
            (RECOMMENDED_SERVER_VARIABLE, named_or_pinned(RECOMMENDED_SERVER_VARIABLE, nats::RECOMMENDED)?),
            (LEAST_SERVER_VARIABLE, named_or_pinned(LEAST_SERVER_VARIABLE, nats::LEAST)?),
            (TOO_OLD_SERVER_VARIABLE, named_or_pinned(TOO_OLD_SERVER_VARIABLE, nats::TOO_OLD)?),
        ])
    });
    let clients = report.check("clients", clients::run);
    let models = report.check("models", models::run);
    let has_gpu = has_vulkan_driver();
    if !has_gpu {
        report.skip("GPUs", "no Vulkan driver: apt-get install mesa-vulkan-drivers libvulkan1");
    }
    if !has_faketime() {
        report.skip("clocks that leap", "no libfaketime: apt-get install faketime");
    }
    report.tests("tests of guests", || {
        let mut cargo = workspace::cargo();
        cargo.args([
            "test",
            "--manifest-path",
            "guests/Cargo.toml",
            "--package",
            "onnx-engine",
            "--package",
            "onnx-service",
            "--package",
            "picture",
            "--package",
            "watermark*",
            "--locked",
            "--no-fail-fast",
        ]);
        cargo.arg("--target-dir").arg(workspace::root().join("target/guests-tests"));
        cargo.envs(models.as_ref().map(|folder| (models::MODELS_VARIABLE, folder)));
        count_tests(&mut cargo, &mut std::io::stdout())
    });
    match (guests, servers, clients) {
        (Some(()), Some(servers), Some(pythons)) => report.tests("tests", || {
            let mut cargo = workspace::cargo();
            cargo.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
            cargo.envs(servers).envs(pythons);
            cargo.env(GUESTS_VARIABLE, workspace::root().join("target/guests"));
            cargo.envs(models.map(|folder| (models::MODELS_VARIABLE, folder)));
            if !has_gpu {
                cargo.env(WITHOUT_GPU_VARIABLE, "1");
            }
            count_tests(&mut cargo, &mut std::io::stdout())
        }),
        _ => report.skip("tests", "they need the guests, the servers and the clients"),
    }
    if conformance::is_possible() {
        report.check("curl and h2load", conformance::run);
    } else {
        report.skip("curl and h2load", "one is not installed: apt-get install curl nghttp2-client");
    }
    if count::is_possible() {
        report.check("instructions", || count::run(&count::Options::default()));
    } else {
        report.skip("instructions", "valgrind is not installed: apt-get install valgrind");
    }
    if Command::new("cargo-deny").arg("--version").output().is_ok_and(|output| output.status.success()) {
        report.check("dependencies", || {
            // Advisories are left out: they need a network, and a new one must not fail an old commit.
            workspace::run(workspace::cargo().args(["deny", "check", "bans", "licenses", "sources"]))
        });
    } else {
        report.skip("dependencies", "cargo-deny is not installed: cargo install --locked cargo-deny");
    }
    report.print()
}

/// Whether the loader of Vulkan finds a driver: in its folders, or in a variable.
fn has_vulkan_driver() -> bool {
    let named = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].iter().any(|name| env::var_os(name).is_some());
    let is_driver = |entry: fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "json");
    let folders = ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"];
    named || folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten().any(is_driver)
}

/// Whether tests find what shows a node another time.
fn has_faketime() -> bool {
    let multiarch = format!("/usr/lib/{}-linux-gnu/faketime", env::consts::ARCH);
    let folders = [&*multiarch, "/usr/lib64/faketime", "/usr/lib/faketime", "/usr/local/lib/faketime"];
    folders.iter().any(|folder| PathBuf::from(folder).join("libfaketimeMT.so.1").is_file())
}

/// What was run so far, in order.
#[derive(Default)]
struct Report {
    steps: Vec<Step>,
    passed: u64,
    failed: u64,
}

struct Step {
    name: &'static str,
    took: Duration,
    end: End,
}

enum End {
    Passed,
    Failed,
    Skipped(&'static str),
}

impl Report {
    /// Runs one step; `None` if it failed.
    fn check<T>(&mut self, name: &'static str, act: impl FnOnce() -> Result<T>) -> Option<T> {
        eprintln!("\n== {name}");
        let start = Instant::now();
        let outcome = act();
        if let Err(error) = &outcome {
            self.failed += 1;
            eprintln!("error: {error:#}");
        }
        let end = if outcome.is_ok() { End::Passed } else { End::Failed };
        self.steps.push(Step { name, took: start.elapsed(), end });
        outcome.ok()
    }

    fn tests(&mut self, name: &'static str, act: impl FnOnce() -> Result<(Counts, bool)>) {
        let Some((counts, success)) = self.check(name, act) else { return };
        self.passed += counts.passed;
        self.failed += counts.failed;
        if success {
            return;
        }
        // A test program that did not build, or died, has no result line.
        self.failed += u64::from(counts.failed == 0);
        if let Some(step) = self.steps.last_mut() {
            step.end = End::Failed;
        }
    }

    fn skip(&mut self, name: &'static str, why: &'static str) {
        eprintln!("\n== {name}: skipped, {why}");
        self.steps.push(Step { name, took: Duration::ZERO, end: End::Skipped(why) });
    }

    fn print(&self) -> ExitCode {
        println!("\n== summary");
        for Step { name, took, end } in &self.steps {
            let seconds = took.as_secs_f32();
            match end {
                End::Passed => println!("{name:<18} ok       {seconds:>7.1} s"),
                End::Failed => println!("{name:<18} FAILED   {seconds:>7.1} s"),
                End::Skipped(why) => println!("{name:<18} skipped  {why}"),
            }
        }
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Another server may be named, but none is taken from PATH: results must not depend on what is installed.
fn named_or_pinned(variable: &str, version: &str) -> Result<PathBuf> {
    let path = match env::var_os(variable) {
        Some(named) => fs::canonicalize(&named).with_context(|| format!("{variable} can't be used"))?,
        None => nats::find_pinned(version)?,
    };
    eprintln!("{variable}={}", path.display());
    Ok(path)
}

/// Runs a test command, lets its output through to `out`, and counts. The flag is whether the command succeeded.
fn count_tests(command: &mut Command, out: &mut impl Write) -> Result<(Counts, bool)> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let output = child.stdout.take().context("no pipe from cargo")?;
    let mut counts = Counts::default();
    // Lines need not be UTF-8: a test may print anything.
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        out.write_all(&line)?;
        out.write_all(b"\n")?;
        counts.add(&String::from_utf8_lossy(&line));
    }
    Ok((counts, child.wait()?.success()))
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
}

impl Counts {
    /// Adds what a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …` says; any other line says nothing.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        for part in counts.split("; ") {
            match part.split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &str) -> Counts {
        let mut counts = Counts::default();
        text.lines().for_each(|line| counts.add(line));
        counts
    }

    #[test]
    fn counts_every_result_line() {
        let text = "running 3 tests\ntest a ... ok\n\
            test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            test result: FAILED. 20 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s\n";
        assert_eq!(count(text), Counts { passed: 23, failed: 2 });
    }

    #[test]
    fn other_lines_say_nothing() {
        assert_eq!(count("5 passed; 1 failed\ntest result of mine: 3 passed\n"), Counts::default());
    }

    #[test]
    fn output_goes_through_and_a_failing_command_is_reported() {
        let line = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        let mut command = Command::new("sh");
        let mut out = Vec::new();
        let (counts, success) = count_tests(command.args(["-c", &format!("echo '{line}'; exit 3")]), &mut out).unwrap();
        assert_eq!(out, format!("{line}\n").into_bytes());
        assert_eq!((counts, success), (Counts { passed: 2, failed: 0 }, false));
    }

    #[test]
    fn a_run_that_dies_without_a_failed_test_counts_as_one() {
        let mut report = Report::default();
        report.tests("tests", || Ok((Counts { passed: 2, failed: 0 }, false)));
        assert_eq!((report.passed, report.failed), (2, 1));
        report.check("another", || Err::<(), _>(anyhow::anyhow!("no")));
        assert_eq!((report.passed, report.failed), (2, 2));
    }
}
