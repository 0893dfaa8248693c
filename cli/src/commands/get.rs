//! `lattice get`: the spec in force, ready to be edited and deployed again.

use crate::{
    Context,
    error::Exit,
    output::{Format, yaml},
};
use lattice::{
    ctl::SpecReply,
    id::WorkloadName,
    subject::{Topic, WorkloadVerb},
};

/// Print the spec of a workload
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice get hello > hello.yaml          then edit it and `lattice deploy hello.yaml`
  lattice get hello -o json               with generation, revision and hash")]
pub struct Args {
    /// Name of the workload
    workload: WorkloadName,
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let client = context.client().await?;
    let name = args.workload;
    let reply: SpecReply = client.ask(Topic::Workload(WorkloadVerb::Get, name.clone())).await?;
    if context.out.format == Format::Table {
        let SpecReply { spec, generation, revision, hash, admitted_at, .. } = &reply;
        let head =
            format!("# generation {generation}, revision {revision}, admitted {admitted_at}, {}\n", hash.short());
        context.out.write(&(head + &yaml(spec)?))?;
    } else {
        context.out.show(&reply, |_| String::new(), || vec![name.to_string()])?;
    }
    Ok(Exit::Ok)
}
