//! The commands, one file each. A command prints data through [`crate::output::Output`] and returns an error that
//! [`crate::error`] knows how to show.

mod completions;
mod config;
mod cordon;
mod delete;
mod deploy;
mod diff;
mod doctor;
mod drain;
mod events;
mod explain;
mod get;
mod gpus;
mod history;
mod import;
mod inspect;
mod list;
mod logs;
mod node;
mod nodes;
mod rebalance;
mod rollback;
mod rollout;
mod routes;
mod scale;
mod schema;
mod secret;
mod source;
mod status;
mod steer;
mod try_gpus;
mod until;
mod up;
mod wait;
mod with_parent;

use crate::{Context, error::Exit};
use anyhow::Context as _;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Up(up::Args),
    Node(Box<node::Args>),
    #[command(visible_alias = "apply")]
    Deploy(deploy::Args),
    #[command(visible_aliases = ["ls", "ps"])]
    List(list::Args),
    Status(status::Args),
    Wait(wait::Args),
    Get(get::Args),
    Inspect(inspect::Args),
    Scale(scale::Args),
    #[command(visible_alias = "rm")]
    Delete(delete::Args),
    History(history::Args),
    Diff(diff::Args),
    Rollback(rollback::Args),
    Rollout(steer::Args),
    Logs(logs::Args),
    Explain(explain::Args),
    Config(config::Args),
    Secret(secret::Args),
    Import(import::Args),
    Nodes(nodes::Args),
    Gpus(gpus::Args),
    Cordon(cordon::CordonArgs),
    Uncordon(cordon::UncordonArgs),
    Drain(drain::DrainArgs),
    Undrain(drain::UndrainArgs),
    Rebalance(rebalance::Args),
    Routes(routes::Args),
    Events(events::Args),
    Doctor(doctor::Args),
    Schema(schema::Args),
    Completions(completions::Args),
    #[command(name = with_parent::NAME, hide = true)]
    WithParent(with_parent::Args),
    #[command(name = try_gpus::NAME, hide = true)]
    TryGpus(try_gpus::Args),
}

pub fn run(command: Command, context: Context) -> anyhow::Result<Exit> {
    match command {
        // Neither needs a runtime, and the second must not have threads.
        Command::Completions(args) => completions::run(&args, &context),
        Command::WithParent(args) => with_parent::run(&args),
        Command::TryGpus(args) => try_gpus::run(args),
        Command::Schema(args) => schema::run(&args, &context),
        Command::Import(args) => import::run(&args, &context),
        Command::Node(args) => node::run(*args, &context),
        other => {
            // One thread: children of `up` die with the thread that started them, which must be the main one.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.context("can't start the async runtime")?;
            let exit = runtime.block_on(Box::pin(run_client(other, &context)));
            // A DNS lookup that hangs must not keep the process.
            runtime.shutdown_background();
            exit
        }
    }
}

async fn run_client(command: Command, context: &Context) -> anyhow::Result<Exit> {
    match command {
        Command::Up(args) => Box::pin(up::run(args, context)).await,
        Command::Deploy(args) => deploy::run(args, context).await,
        Command::List(_) => list::run(context).await,
        Command::Status(args) => status::run(args, context).await,
        Command::Wait(args) => wait::run(args, context).await,
        Command::Get(args) => get::run(args, context).await,
        Command::Inspect(args) => inspect::run(args, context).await,
        Command::Scale(args) => scale::run(args, context).await,
        Command::Delete(args) => delete::run(args, context).await,
        Command::History(args) => history::run(args, context).await,
        Command::Diff(args) => diff::run(args, context).await,
        Command::Rollout(args) => steer::run(args, context).await,
        Command::Rollback(args) => rollback::run(args, context).await,
        Command::Logs(args) => logs::run(args, context).await,
        Command::Explain(args) => explain::run(args, context).await,
        Command::Config(args) => config::run(args, context).await,
        Command::Secret(args) => secret::run(args, context).await,
        Command::Nodes(args) => nodes::run(args, context).await,
        Command::Gpus(args) => gpus::run(args, context).await,
        Command::Cordon(args) => cordon::run(args.node(), true, context).await,
        Command::Uncordon(args) => cordon::run(args.node(), false, context).await,
        Command::Drain(args) => drain::run(args, context).await,
        Command::Undrain(args) => drain::undrain(args, context).await,
        Command::Rebalance(args) => rebalance::run(args, context).await,
        Command::Routes(args) => routes::run(args, context).await,
        Command::Events(args) => events::run(args, context).await,
        Command::Doctor(args) => doctor::run(args, context).await,
        Command::Node(_)
        | Command::Schema(_)
        | Command::Import(_)
        | Command::Completions(_)
        | Command::WithParent(_)
        | Command::TryGpus(_) => Ok(Exit::Ok),
    }
}
