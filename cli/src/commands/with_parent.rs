//! `lattice __with-parent`: become another program that dies when the process that started it does, even by `kill -9`.
//! The kernel's signal is asked for after the fork and survives the exec, so it takes a program between the two: this.

use crate::error::{Exit, Failure};
use anyhow::Context as _;
use std::{ffi::OsString, os::unix::process::CommandExt as _};

pub const NAME: &str = "__with-parent";

/// Run a program that ends with the process that started it
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Process id of the one that starts this
    parent: u32,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    program: Vec<OsString>,
}

pub fn run(args: &Args) -> anyhow::Result<Exit> {
    #[cfg(target_os = "linux")]
    {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
            .context("can't ask to end with the parent process")?;
        // It may have ended before the line above took effect.
        let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
        if parent != Some(args.parent) {
            return Err(Failure::failed("the parent process is gone").into());
        }
    }
    let Some((program, rest)) = args.program.split_first() else {
        return Err(Failure::usage("no program is given").into());
    };
    let error = std::process::Command::new(program).args(rest).exec();
    Err(error).with_context(|| format!("can't run {}", program.display()))
}
