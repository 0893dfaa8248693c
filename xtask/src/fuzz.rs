//! `cargo xtask fuzz`: the targets of `fuzz/` under libFuzzer, one after the other.
//!
//! The pinned compiler does: coverage for libFuzzer is made by LLVM, which is asked by flags that every rustc takes. A C++
//! compiler is needed for libFuzzer itself. What was found stays in `fuzz/corpus`, what failed in `fuzz/artifacts`.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::workspace;

/// Counters of edges, and what is compared with what, so that the engine finds words that a parser asks for.
const COVERAGE: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// An input that takes longer is a finding.
const INPUT_SECONDS_MAX: u32 = 10;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// All, if there are none.
    targets: Vec<String>,
    /// For each.
    seconds: u32,
}

impl Options {
    pub(crate) fn parse(arguments: &[&str]) -> Option<Self> {
        let mut options = Self { targets: Vec::new(), seconds: 60 };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match *argument {
                "--seconds" => options.seconds = arguments.next()?.parse().ok().filter(|seconds| *seconds > 0)?,
                flag if flag.starts_with('-') => return None,
                target => options.targets.push(target.to_owned()),
            }
        }
        Some(options)
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let known = targets()?;
    if let Some(unknown) = options.targets.iter().find(|target| !known.contains(target)) {
        bail!("there is no fuzz target {unknown:?}; there are: {}", known.join(", "));
    }
    let chosen = if options.targets.is_empty() { &known } else { &options.targets };
    let mut failed = Vec::new();
    for target in chosen {
        let said = run_one(target, options.seconds)?;
        println!("{target}: {}", said.as_deref().unwrap_or("FAILED"));
        if said.is_none() {
            failed.push(target.as_str());
        }
    }
    ensure!(failed.is_empty(), "{} failed; the inputs are in fuzz/artifacts", failed.join(", "));
    Ok(())
}

/// One for each file in `fuzz/fuzz_targets`.
fn targets() -> Result<Vec<String>> {
    let folder = workspace::root().join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    let mut names: Vec<String> = paths.iter().filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    Ok(names)
}

/// What libFuzzer says at the end, or `None` where an input failed.
fn run_one(target: &str, seconds: u32) -> Result<Option<String>> {
    let root = workspace::root();
    // Flags for a target named on the command line are not those of build scripts and macros, which have no libFuzzer.
    let host = workspace::output(Command::new("rustc").arg("-vV"))?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc does not say its host")?;
    let target_directory = workspace::Metadata::read()?.target_directory.join("fuzz");
    let mut build = workspace::cargo();
    build.env("CARGO_TARGET_DIR", &target_directory).env("RUSTFLAGS", COVERAGE.join(" "));
    build.args(["build", "--release", "--manifest-path", "fuzz/Cargo.toml", "--target", host]);
    build.args(["--no-default-features", "--features", target, "--bin", target]);
    workspace::timed(&format!("building {target}"), || workspace::run(&mut build))?;

    let corpus = root.join("fuzz/corpus").join(target);
    let artifacts = root.join("fuzz/artifacts").join(target);
    for folder in [&corpus, &artifacts] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut fuzzer = Command::new(target_directory.join(host).join("release").join(target));
    fuzzer.arg(format!("-max_total_time={seconds}")).arg(format!("-timeout={INPUT_SECONDS_MAX}"));
    fuzzer.arg(format!("-artifact_prefix={}/", artifacts.display())).arg(&corpus);
    let run = || fuzzer.output().with_context(|| format!("cannot run {target}"));
    let output = workspace::timed(&format!("fuzzing {target}"), run)?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        eprintln!("{said}");
        return Ok(None);
    }
    Ok(Some(summary(&said).context("libFuzzer did not say what it did")?))
}

/// Of the last line that tells of coverage, as in `#524288 DONE cov: 812 ft: 3021 corp: 210/14Kb …`: runs and coverage.
fn summary(said: &str) -> Option<String> {
    let last = said.lines().rev().find(|line| line.starts_with('#') && line.contains(" cov: "))?;
    let runs = last.trim_start_matches('#').split_whitespace().next()?;
    let edges = last.split_once(" cov: ")?.1.split_whitespace().next()?;
    Some(format!("{runs} inputs, {edges} edges, none failed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let options = Options { targets: vec!["frame".to_owned()], seconds: 5 };
        assert_eq!(Options::parse(&["frame", "--seconds", "5"]), Some(options));
        for bad in [&["--seconds"][..], &["--seconds", "0"], &["--fast"]] {
            assert_eq!(Options::parse(bad), None, "{bad:?}");
        }
    }

    /// Each has an entry in the manifest, with a feature of the same name.
    #[test]
    fn every_target_is_in_the_manifest() {
        let manifest = fs::read_to_string(workspace::root().join("fuzz/Cargo.toml")).unwrap();
        let targets = targets().unwrap();
        assert!(targets.len() > 5, "{targets:?}");
        for target in targets {
            let entry =
                format!("name = \"{target}\"\npath = \"fuzz_targets/{target}.rs\"\nrequired-features = [\"{target}\"]");
            assert!(manifest.contains(&entry), "{target}");
        }
    }

    #[test]
    fn the_last_line_of_coverage_is_told() {
        let said = "#2\tINITED cov: 3 ft: 3\n#8192\tDONE   cov: 812 ft: 3021 corp: 210/14Kb exec/s: 0 rss: 50Mb\nDone 8192 runs\n";
        assert_eq!(summary(said).as_deref(), Some("8192 inputs, 812 edges, none failed"));
        assert_eq!(summary("nothing"), None);
    }
}
