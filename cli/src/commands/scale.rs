//! `lattice scale`: more or fewer replicas.

use super::{deploy::expected_revision, rollout};
use crate::{Context, error::Exit};
use lattice::{
    ctl::{PutReply, ScaleRequest},
    id::WorkloadName,
    subject::{Topic, WorkloadVerb},
};

/// Change how many replicas of a workload run
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice scale hello 5
  lattice scale hello 0                   keeps the spec, runs nothing")]
pub struct Args {
    /// Name of the workload
    workload: WorkloadName,
    /// Replicas, 0 to 10000
    #[arg(value_parser = clap::value_parser!(u32).range(..=i64::from(lattice::limits::REPLICAS_MAX)))]
    replicas: u32,
    /// Go on only if the spec is still at this revision
    #[arg(long, value_name = "N")]
    expected_revision: Option<u64>,
    #[command(flatten)]
    wait: rollout::WaitArgs,
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let client = context.client().await?;
    let topic = Topic::Workload(WorkloadVerb::Scale, args.workload);
    let body = ScaleRequest { replicas: args.replicas };
    let reply: PutReply = client.send(topic, expected_revision(args.expected_revision), &body).await?;
    rollout::finish(&client, context, &reply, &args.wait).await
}
