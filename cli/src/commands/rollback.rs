//! `lattice rollback`: put an earlier spec again, as a new generation.

use super::{deploy::expected_revision, rollout};
use crate::{Context, error::Exit};
use lattice::{
    ctl::{PutReply, RollbackRequest},
    id::{Generation, WorkloadName},
    subject::{Topic, WorkloadVerb},
};

/// Go back to an earlier spec of a workload
///
/// The earlier spec becomes a new generation: a rollback can be rolled back.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice rollback hello                  to what ran before, or is stable while a change goes on
  lattice history hello                   which generations there are
  lattice rollback hello 3")]
pub struct Args {
    /// Name of the workload
    workload: WorkloadName,
    /// The generation to go back to [default: the last one that ran something else and was not given up]
    generation: Option<u64>,
    /// The same as the argument
    #[arg(long, value_name = "GENERATION", conflicts_with = "generation")]
    to: Option<u64>,
    /// Go on only if the spec is still at this revision
    #[arg(long, value_name = "N")]
    expected_revision: Option<u64>,
    #[command(flatten)]
    wait: rollout::WaitArgs,
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let client = context.client().await?;
    let topic = Topic::Workload(WorkloadVerb::Rollback, args.workload);
    let body = RollbackRequest { to_generation: args.generation.or(args.to).map(Generation) };
    let reply: PutReply = client.send(topic, expected_revision(args.expected_revision), &body).await?;
    rollout::finish(&client, context, &reply, &args.wait).await
}
