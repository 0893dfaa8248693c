//! `lattice history`: the specs that a workload had.

use crate::{
    Context,
    error::Exit,
    output::{Cell, Table, Tone},
};
use lattice::{
    ctl::{GenerationState, HistoryItem},
    id::WorkloadName,
    spec::WorkloadSpec,
    subject::{Topic, WorkloadVerb},
};

/// List the specs that a workload had, oldest first
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice history hello
  lattice history hello -o yaml           with the specs themselves")]
pub struct Args {
    /// Name of the workload
    workload: WorkloadName,
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let client = context.client().await?;
    let items: Vec<HistoryItem> = client.ask(Topic::Workload(WorkloadVerb::History, args.workload)).await?;
    let generations = || {
        let generation = |item: &HistoryItem| match item {
            HistoryItem::Put(reply) => Some(reply.generation.to_string()),
            HistoryItem::Deleted { .. } => None,
        };
        items.iter().filter_map(generation).collect()
    };
    context.out.show(&items, |paint| table(&items).render(paint), generations)?;
    Ok(Exit::Ok)
}

/// The only component's source, or how many components and services there are.
fn source(spec: &WorkloadSpec) -> String {
    spec.only().map_or_else(
        || format!("{} parts", spec.parts().count()),
        |only| lattice::limits::clip(&only.source.to_string(), 19).to_owned(),
    )
}

fn state(state: Option<GenerationState>) -> Cell {
    match state {
        Some(GenerationState::Current) => Cell::new("current", Tone::Good),
        Some(GenerationState::Stable) => Cell::new("stable", Tone::Warn),
        Some(GenerationState::Aborted) => Cell::new("aborted", Tone::Bad),
        Some(GenerationState::Past) | None => "".into(),
    }
}

fn table(items: &[HistoryItem]) -> Table {
    let mut table = Table::new(&["GENERATION", "STATE", "REVISION", "ADMITTED", "REPLICAS", "COMPONENT", "HASH"]);
    for item in items {
        match item {
            HistoryItem::Put(reply) => table.row([
                reply.generation.into(),
                state(reply.state),
                reply.revision.into(),
                reply.admitted_at.as_str().into(),
                reply.spec.replicas.into(),
                source(&reply.spec).into(),
                reply.hash.short().into(),
            ]),
            HistoryItem::Deleted { revision } => table.row([
                Cell::new("deleted", Tone::Dim),
                "".into(),
                revision.into(),
                "".into(),
                "".into(),
                "".into(),
                "".into(),
            ]),
        }
    }
    table
}
