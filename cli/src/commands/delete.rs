//! `lattice delete`: end workloads.

use super::deploy::expected_revision;
use crate::{
    Context,
    error::{Exit, Failure},
};
use lattice::{
    ctl::DeleteReply,
    id::WorkloadName,
    subject::{Topic, WorkloadVerb},
};

/// Delete workloads
///
/// Their replicas drain and stop; nothing of them is kept
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice delete hello
  lattice delete hello --expected-revision 12      only if nobody changed it since")]
pub struct Args {
    /// Names of the workloads
    #[arg(required = true)]
    workloads: Vec<WorkloadName>,
    /// Go on only if the spec is still at this revision (see `lattice get -o json`)
    #[arg(long, value_name = "N")]
    expected_revision: Option<u64>,
    /// It is no error if there is no such workload
    #[arg(long)]
    ignore_missing: bool,
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    if args.expected_revision.is_some() && args.workloads.len() > 1 {
        return Err(Failure::usage("--expected-revision is meant for one workload").into());
    }
    let client = context.client().await?;
    for name in args.workloads {
        let topic = Topic::Workload(WorkloadVerb::Delete, name.clone());
        let reply: DeleteReply = client.request(topic, expected_revision(args.expected_revision), "".into()).await?;
        if !reply.deleted && !args.ignore_missing {
            return Err(Failure::new(Exit::NotFound, format!("there is no workload {name}"))
                .hint("`lattice list` shows those that there are")
                .into());
        }
        let line = if reply.deleted { format!("deleted {name}") } else { format!("{name} was not there") };
        context.out.show_item(&reply, |_| line, || name.to_string())?;
    }
    Ok(Exit::Ok)
}
