//! `lattice history`: the specs that a workload had.

use crate::{
    Context,
    error::Exit,
    lists,
    output::{Cell, Table, Tone},
};
use lattice::{
    ctl::{GenerationState, HistoryItem, SpecReply},
    id::WorkloadName,
    spec::WorkloadSpec,
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
    let items = lists::history(&client, args.workload).await?;
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
    let mut table =
        Table::new(&["GENERATION", "STATE", "REVISION", "ADMITTED", "REPLICAS", "COMPONENT", "HASH", "NOTE"]);
    let mut before: Option<&SpecReply> = None;
    for item in items {
        let spec = match item {
            HistoryItem::Put(reply) => Some(&**reply),
            HistoryItem::Deleted { .. } => None,
        };
        match item {
            HistoryItem::Put(reply) => table.row([
                reply.generation.into(),
                state(reply.state),
                reply.revision.into(),
                reply.admitted_at.as_str().into(),
                reply.spec.replicas.into(),
                source(&reply.spec).into(),
                reply.hash.short().into(),
                note(before, reply).into(),
            ]),
            HistoryItem::Deleted { revision } => table.row([
                Cell::new("deleted", Tone::Dim),
                "".into(),
                revision.into(),
                "".into(),
                "".into(),
                "".into(),
                "".into(),
                "".into(),
            ]),
        }
        before = spec;
    }
    table
}

/// Why there is this generation, where the spec does not say it.
fn note(before: Option<&SpecReply>, after: &SpecReply) -> String {
    if let Some(aborted) = &after.aborted {
        return format!("put back for {}: {}", aborted.generation, aborted.reason);
    }
    let Some(before) = before.filter(|before| before.hash == after.hash) else { return String::new() };
    let changed = after.configs.iter().filter(|(name, version)| before.configs.get(*name) != Some(*version));
    let changed: Vec<String> =
        changed.map(|(name, version)| format!("config {name} is at version {version}")).collect();
    changed.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::{
        id::{Digest, Generation, Revision},
        record::Aborted,
    };

    #[test]
    fn a_generation_that_nobody_put_says_why_it_is_there() {
        let reply = |generation, version| SpecReply {
            spec: lattice::spec::parse(b"name: a\ncomponents: [{name: a, source: 'file:a', config-from: [shop]}]")
                .unwrap(),
            generation: Generation(generation),
            revision: Revision(generation),
            hash: Digest::of(b""),
            admitted_at: String::new(),
            state: None,
            aborted: None,
            configs: [("shop".parse().unwrap(), Generation(version))].into(),
        };
        let (one, two) = (reply(1, 1), reply(2, 2));
        assert_eq!(note(None, &one), "");
        assert_eq!(note(Some(&one), &two), "config shop is at version 2");
        assert_eq!(note(Some(&two), &reply(3, 2)), "");
        let back = SpecReply {
            aborted: Some(Aborted { generation: Generation(2), reason: "replica 0 failed".into(), lost: Vec::new() }),
            ..reply(3, 2)
        };
        assert_eq!(note(Some(&two), &back), "put back for 2: replica 0 failed");
    }
}
