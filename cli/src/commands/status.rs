//! `lattice status`: where each replica of a workload is, and why not where it is not.

use crate::{
    Context,
    error::Exit,
    output::{Cell, Paint, Table, Tone},
};
use lattice::{
    ctl::{Refusal, ScheduleStatus, SlotStatus, StatusReply, WorkloadState},
    id::WorkloadName,
    record::Phase,
    subject::{Topic, WorkloadVerb},
};
use std::time::Duration;

const WATCH_EVERY: Duration = Duration::from_millis(500);
/// Refusals shown for a replica that finds no node; `-o json` has them all.
const REFUSALS_SHOWN: usize = 5;

/// Show where the replicas of a workload are
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice status hello
  lattice status hello --watch            again after each change, until Ctrl-C
  lattice status hello -o json | jq .ready")]
pub struct Args {
    /// Name of the workload
    workload: WorkloadName,
    /// Show it again whenever it changes
    #[arg(short, long)]
    watch: bool,
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let client = context.client().await?;
    let topic = Topic::Workload(WorkloadVerb::Status, args.workload);
    let status: StatusReply = client.ask(topic.clone()).await?;
    if !args.watch {
        context.out.show(&status, |paint| render(&status, paint), || vec![status.workload.to_string()])?;
        return Ok(Exit::Ok);
    }
    let mut shown = None;
    let mut status = status;
    loop {
        if shown.as_ref() != Some(&status) {
            context.out.show_item(&status, |paint| render(&status, paint), || status.workload.to_string())?;
            shown = Some(status);
        }
        tokio::time::sleep(WATCH_EVERY).await;
        status = client.ask(topic.clone()).await?;
    }
}

pub fn state_cell(state: WorkloadState) -> Cell {
    let (text, tone) = match state {
        WorkloadState::Ready => ("ready", Tone::Good),
        WorkloadState::Progressing => ("progressing", Tone::Warn),
        WorkloadState::Degraded => ("degraded", Tone::Bad),
        WorkloadState::Idle => ("idle", Tone::Dim),
    };
    Cell::new(text, tone)
}

fn phase_cell(slot: &SlotStatus) -> Cell {
    match slot.phase {
        Some(Phase::Ready) => Cell::new("ready", Tone::Good),
        Some(Phase::Starting) => Cell::new("starting", Tone::Warn),
        Some(Phase::Failed) => Cell::new("failed", Tone::Bad),
        None => Cell::new("no node", Tone::Bad),
    }
}

/// What nodes lack, in one line.
pub fn refusals(refused: &[Refusal]) -> String {
    let mut shown: Vec<String> =
        refused.iter().take(REFUSALS_SHOWN).map(|refusal| format!("{}: {}", refusal.node, refusal.reason)).collect();
    if let Some(more) = refused.len().checked_sub(REFUSALS_SHOWN).filter(|more| *more > 0) {
        shown.push(format!("and {more} more nodes"));
    }
    shown.join("; ")
}

fn render(status: &StatusReply, paint: Paint) -> String {
    let StatusReply { workload, state, generation, revision, replicas, ready, slots, schedules } = status;
    let word = state_cell(*state);
    let mut head = Table::new(&["WORKLOAD", "STATE", "READY", "GENERATION", "REVISION"]);
    head.row([
        workload.as_str().into(),
        word,
        format!("{ready}/{replicas}").into(),
        generation.into(),
        revision.into(),
    ]);
    let mut text = head.render(paint);
    if !slots.is_empty() {
        text.push('\n');
        text += &replicas_table(slots).render(paint);
    }
    if !schedules.is_empty() {
        text.push('\n');
        text += &schedules_table(schedules).render(paint);
    }
    text
}

fn replicas_table(slots: &[SlotStatus]) -> Table {
    let mut table = Table::new(&["REPLICA", "NODE", "PHASE", "GENERATION", "NOTE"]);
    for slot in slots {
        let note = slot.message.clone().unwrap_or_else(|| refusals(&slot.refused));
        table.row([
            slot.replica.into(),
            slot.node.as_ref().map_or("-", |node| node.as_str()).into(),
            phase_cell(slot),
            slot.generation.map_or("-".to_owned(), |generation| generation.to_string()).into(),
            note.into(),
        ]);
    }
    table
}

fn schedules_table(schedules: &[ScheduleStatus]) -> Table {
    let mut table = Table::new(&["SCHEDULE", "ZONE", "PATH", "NEXT", "LAST", "NODE", "OUTCOME"]);
    for ScheduleStatus { schedule, next, last } in schedules {
        let outcome = match last.as_ref().map(|last| &last.outcome) {
            None => Cell::new("-", Tone::Dim),
            Some(None) => Cell::new("under way", Tone::Warn),
            Some(Some(outcome)) => {
                Cell::new(outcome.to_string(), if outcome.is_good() { Tone::Good } else { Tone::Bad })
            }
        };
        table.row([
            schedule.cron.to_string().into(),
            schedule.zone.to_string().into(),
            schedule.path.to_string().into(),
            next.as_deref().unwrap_or("-").into(),
            last.as_ref().map_or("-", |last| last.tick.as_str()).into(),
            last.as_ref().map_or("-", |last| last.node.as_str()).into(),
            outcome,
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::id::{Generation, NodeId, Revision};

    #[test]
    fn a_replica_without_a_node_says_why() {
        let refusal = |node: &str| Refusal { node: NodeId::new(node).unwrap(), reason: "zone is us-1".into() };
        let status = StatusReply {
            workload: WorkloadName::new("hello").unwrap(),
            state: WorkloadState::Degraded,
            generation: Generation(3),
            revision: Revision(12),
            replicas: 2,
            ready: 1,
            slots: vec![
                SlotStatus {
                    replica: 0,
                    node: NodeId::new("n1").ok(),
                    phase: Some(Phase::Ready),
                    generation: Some(Generation(3)),
                    message: None,
                    refused: vec![],
                },
                SlotStatus {
                    replica: 1,
                    node: None,
                    phase: None,
                    generation: None,
                    message: None,
                    refused: vec![refusal("n1"), refusal("n2")],
                },
            ],
            schedules: vec![],
        };
        assert_eq!(
            render(&status, Paint::off()),
            "WORKLOAD  STATE     READY  GENERATION  REVISION\n\
             hello     degraded  1/2    3           12\n\
             \n\
             REPLICA  NODE  PHASE    GENERATION  NOTE\n\
             0        n1    ready    3\n\
             1        -     no node  -           n1: zone is us-1; n2: zone is us-1\n"
        );
        assert!(refusals(&vec![refusal("n1"); 7]).ends_with("and 2 more nodes"));
    }
}
