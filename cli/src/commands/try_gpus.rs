//! `lattice __try-gpus`: load the drivers of GPUs and test them, in a process that may die of it. A node does this before it lets
//! them into its own.

use crate::error::Exit;
use anyhow::Context as _;
use lattice_host_node::{GpuSelector, Gpus};

pub const NAME: &str = "__try-gpus";

/// Load the drivers of GPUs, test them, and end
#[derive(Debug, clap::Args)]
pub struct Args {
    /// As `lattice node --gpu` has it
    selector: GpuSelector,
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("can't start the async runtime")?;
    let found = runtime.block_on(Gpus::detect(args.selector));
    // A call of a driver that never returns must not keep the process.
    runtime.shutdown_background();
    // The node meets the same error, and says it.
    Ok(found.map_or(Exit::Failed, |_| Exit::Ok))
}
