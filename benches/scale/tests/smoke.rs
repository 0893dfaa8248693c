//! A few nodes as real processes over a real server: they join, deploy, and come back from both storms, none of which is a herd.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::process::Command;

#[test]
fn a_small_lattice_survives_both_storms_without_a_herd() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lattice-scale"));
    command.args(["--nodes", "5", "--workloads", "20", "--rest", "2", "--dev", "--check"]);
    let output = command.output().unwrap();
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{errors}");
    let rows = out.lines().filter(|line| line.starts_with("| a")).count();
    assert_eq!(rows, 7, "{out}");
}
