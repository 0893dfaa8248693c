//! `cargo xtask demo`: prepares all that `lattice up` needs, then becomes it, so that Ctrl-C reaches it alone.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::workspace::{self, Metadata};
use crate::{guests, nats};

/// The workload that is there to send requests to.
const EXAMPLE: &str = "guests/hello-http02/lattice.yaml";

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    nodes: u32,
    release: bool,
}

impl Options {
    /// `None`: not understood.
    pub(crate) fn parse(arguments: &[&str]) -> Option<Self> {
        let mut options = Options { nodes: 3, release: false };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match *argument {
                "--nodes" => options.nodes = rest.next()?.parse().ok().filter(|nodes| *nodes > 0)?,
                "--release" => options.release = true,
                _ => return None,
            }
        }
        Some(options)
    }
}

/// Returns only if something failed.
pub(crate) fn run(options: &Options) -> Result<()> {
    guests::run(&guests::Options { rust_only: true })?;
    let server = nats::find()?;
    workspace::timed("building lattice", || {
        let mut build = workspace::cargo();
        build.args(["build", "--locked", "--package", "lattice-cli"]).args(options.release.then_some("--release"));
        workspace::run(&mut build)
    })?;
    let profile = if options.release { "release" } else { "debug" };
    let lattice = Metadata::read()?.target_directory.join(profile).join("lattice");
    let mut up = Command::new(&lattice);
    up.current_dir(workspace::root()).args(["up", "--nodes", &options.nodes.to_string(), "--nats-server"]);
    let error = up.arg(server).args(["--deploy", EXAMPLE]).exec();
    Err(error).with_context(|| format!("cannot run {}", lattice.display()))
}

#[cfg(test)]
mod tests {
    use super::Options;

    #[test]
    fn options() {
        let check = |line: &str, expect| {
            let arguments: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(Options::parse(&arguments), expect, "{line}");
        };
        check("", Some(Options { nodes: 3, release: false }));
        check("--release --nodes 5", Some(Options { nodes: 5, release: true }));
        check("--nodes", None);
        check("--nodes 0", None);
        check("--nodes many", None);
        check("--verbose", None);
    }
}
