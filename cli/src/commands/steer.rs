//! `lattice rollout`: steer a change of what replicas run that is under way.

use crate::{Context, error::Exit};
use lattice::{
    ctl::{RolloutAction, RolloutReply, RolloutRequest},
    id::WorkloadName,
    record::RolloutState,
    store::Headers,
    subject::{Topic, WorkloadVerb},
};

/// Pause, resume, hurry or give up a change that is under way
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice rollout pause shop              no further replica changes
  lattice rollout resume shop
  lattice rollout promote shop            to the end, whatever steps there are
  lattice rollout abort shop              back to what ran before
  lattice status shop                     how far it is")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Action {
    /// Let no further replica change
    Pause(Target),
    /// Go on with one that is paused, or does not go on by itself, or is held by a step
    Resume(Target),
    /// Go on to the end, whatever steps the spec has
    Promote(Target),
    /// Give it up: replicas go back to what ran before
    Abort(Target),
}

#[derive(Debug, Clone, clap::Args)]
struct Target {
    /// Name of the workload
    workload: WorkloadName,
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let (action, Target { workload }) = match args.action {
        Action::Pause(target) => (RolloutAction::Pause, target),
        Action::Resume(target) => (RolloutAction::Resume, target),
        Action::Promote(target) => (RolloutAction::Promote, target),
        Action::Abort(target) => (RolloutAction::Abort, target),
    };
    let client = context.client().await?;
    let topic = Topic::Workload(WorkloadVerb::Rollout, workload);
    let reply: RolloutReply = client.send(topic, Headers::new(), &RolloutRequest { action }).await?;
    let RolloutReply { workload, generation, state, changed } = &reply;
    let line = match (state, changed) {
        (None, _) => format!("{workload}: given up; generation {generation} is what ran before\n"),
        (Some(RolloutState::Paused), true) => {
            format!("{workload}: the rollout of generation {generation} is paused\n")
        }
        (Some(RolloutState::Paused), false) => {
            format!("{workload}: the rollout of generation {generation} was paused before\n")
        }
        (Some(_), true) => format!("{workload}: the rollout of generation {generation} goes on\n"),
        (Some(_), false) => {
            format!("{workload}: nothing holds the rollout of generation {generation}; it goes on by itself\n")
        }
    };
    context.out.show(&reply, |_| line, || vec![workload.to_string()])?;
    Ok(Exit::Ok)
}
