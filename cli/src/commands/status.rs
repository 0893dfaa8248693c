//! `lattice status`: where each replica of a workload is, and why not where it is not.

use crate::{
    Context,
    client::Client,
    error::Exit,
    lists,
    output::{Cell, Format, Paint, Table, Tone, plain, size},
    screen::Screen,
};
use lattice::{
    ctl::{
        AutoscaleStatus, Condition, ConditionKind, Refusal, RolloutStatus, ScheduleStatus, SlotStatus, StatusReply,
        Totals, WorkloadState, WorkloadSummary,
    },
    event::rfc3339,
    gpu::GpuGrant,
    id::WorkloadName,
    record::{Aborted, Phase, RolloutState},
    report::{Counts, CrashReport, PartState, ReuseOff, SlotReport},
    subject::{Topic, WorkloadVerb},
};
use std::{collections::BTreeMap, time::Duration};

const WATCH_EVERY: Duration = Duration::from_millis(500);
/// Refusals shown for a replica that finds no node; `-o json` has them all.
const REFUSALS_SHOWN: usize = 5;
/// Milliseconds after which a report's age is worth a word: nodes report every five seconds or so.
const REPORT_IS_OLD: u64 = 15_000;

/// Show where the replicas of a workload are, and how they do
///
/// Figures are those that the nodes reported last, some seconds ago; they count from the start of a replica's newest
/// generation. `-o json` has all of them.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice status hello
  lattice status hello --all              each replica, where there are thousands
  lattice status hello --watch            drawn anew until Ctrl-C; in a pipe, a line for each change
  lattice status --watch                  all workloads
  lattice status hello -o json | jq .ready")]
pub struct Args {
    /// Name of the workload [default: one line for each]
    workload: Option<WorkloadName>,
    /// Go on showing it until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    /// Show every replica, also where they do not fit one message
    #[arg(long, requires = "workload", conflicts_with = "watch")]
    all: bool,
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let client = context.client().await?;
    let Some(workload) = args.workload else {
        return if args.watch { watch_all(&client, context).await } else { super::list::run(context).await };
    };
    let topic = Topic::Workload(WorkloadVerb::Status, workload.clone());
    let status: StatusReply = match args.all {
        true => lists::status(&client, workload).await?,
        false => client.ask(topic.clone()).await?,
    };
    if !args.watch {
        context.out.show(&status, |paint| render(&status, paint), || vec![status.workload.to_string()])?;
        return Ok(Exit::Ok);
    }
    watch_one(&client, context, topic, status).await
}

/// Draws where it can, else one line, or document, for each change.
async fn watch_one(client: &Client, context: &Context, topic: Topic, first: StatusReply) -> anyhow::Result<Exit> {
    let mut screen = Screen::of_stdout().filter(|_| context.out.format == Format::Table);
    let mut shown = None;
    let mut status = first;
    loop {
        match &mut screen {
            Some(screen) => screen.draw(&context.out, &render(&status, context.out.paint))?,
            None => {
                let essence = essence(&status);
                if shown.as_ref() != Some(&essence) {
                    context.out.show_item(&status, |_| sentence(&status), || status.workload.to_string())?;
                    shown = Some(essence);
                }
            }
        }
        tokio::time::sleep(WATCH_EVERY).await;
        status = client.ask(topic.clone()).await?;
    }
}

async fn watch_all(client: &Client, context: &Context) -> anyhow::Result<Exit> {
    let mut screen = Screen::of_stdout().filter(|_| context.out.format == Format::Table);
    let mut shown: BTreeMap<WorkloadName, WorkloadSummary> = BTreeMap::new();
    loop {
        let workloads = lists::workloads(client).await?;
        if let Some(screen) = &mut screen {
            screen.draw(&context.out, &super::list::table(&workloads).render(context.out.paint))?;
        } else {
            for gone in shown.keys().filter(|name| !workloads.iter().any(|workload| workload.workload == **name)) {
                context.out.note(format!("{gone} is deleted"));
            }
            let mut now = BTreeMap::new();
            for workload in workloads {
                // Figures change all the time.
                let essence = WorkloadSummary { totals: Totals::default(), ..workload.clone() };
                let name = workload.workload.clone();
                if shown.get(&name) != Some(&essence) {
                    context.out.show_item(&workload, |_| summary(&workload), || name.to_string())?;
                }
                now.insert(name, essence);
            }
            shown = now;
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// `hello  progressing  2/3 ready  generation 4  Starting: replica 2: starts on n3`.
fn sentence(status: &StatusReply) -> String {
    let StatusReply { workload, state, generation, replicas, ready, conditions, .. } = status;
    let lacks = |condition: &&Condition| condition.kind == ConditionKind::Ready && !condition.status;
    let degraded = |condition: &&Condition| condition.kind == ConditionKind::Degraded && condition.status;
    let unbound = |condition: &&Condition| condition.kind == ConditionKind::Bound && !condition.status;
    let find = |what: &dyn Fn(&&Condition) -> bool| conditions.iter().find(what);
    let told = find(&lacks).or_else(|| find(&degraded)).or_else(|| find(&unbound));
    let why = told.map_or_else(String::new, |told| format!("  {}: {}", told.reason.as_str(), told.message));
    plain(&format!("{workload}  {}  {ready}/{replicas} ready  generation {generation}{why}", word(*state).0))
}

fn summary(workload: &WorkloadSummary) -> String {
    let WorkloadSummary { workload, state, generation, replicas, ready, nodes, .. } = workload;
    let nodes: Vec<&str> = nodes.iter().map(|node| node.as_str()).collect();
    let nodes = nodes.join(",");
    plain(&format!("{workload}  {}  {ready}/{replicas} ready  generation {generation}  {nodes}", word(*state).0))
}

fn word(state: WorkloadState) -> (&'static str, Tone) {
    match state {
        WorkloadState::Ready => ("ready", Tone::Good),
        WorkloadState::Progressing => ("progressing", Tone::Warn),
        WorkloadState::Degraded => ("degraded", Tone::Bad),
        WorkloadState::Idle => ("idle", Tone::Dim),
    }
}

pub fn state_cell(state: WorkloadState) -> Cell {
    let (text, tone) = word(state);
    Cell::new(text, tone)
}

fn phase_cell(slot: &SlotStatus) -> Cell {
    match slot.phase {
        Some(Phase::Ready) if slot.crashing.is_some() => Cell::new("crashing", Tone::Bad),
        Some(Phase::Ready) => Cell::new("ready", Tone::Good),
        Some(Phase::Starting) => Cell::new("starting", Tone::Warn),
        Some(Phase::Failed) => Cell::new("failed", Tone::Bad),
        None => Cell::new("no node", Tone::Bad),
    }
}

/// What nodes lack, in one line; `omitted`: how many more of them there are.
pub fn refusals(refused: &[Refusal], omitted: u32) -> String {
    let mut shown: Vec<String> =
        refused.iter().take(REFUSALS_SHOWN).map(|refusal| format!("{}: {}", refusal.node, refusal.reason)).collect();
    let more = refused.len().saturating_sub(REFUSALS_SHOWN).saturating_add(omitted as usize);
    if more > 0 {
        shown.push(format!("and {more} more nodes"));
    }
    shown.join("; ")
}

fn render(status: &StatusReply, paint: Paint) -> String {
    let StatusReply {
        workload,
        state,
        generation,
        revision,
        replicas,
        ready,
        conditions,
        slots,
        slots_omitted,
        schedules,
        autoscale,
        ..
    } = status;
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
    if let Some(line) = rollout(status) {
        text.push('\n');
        text.push_str(&paint.warn(plain(&line)));
        text.push('\n');
    }
    if !conditions.is_empty() {
        text.push('\n');
        text += &conditions_table(conditions).render(paint);
    }
    if let Some(autoscale) = autoscale {
        text.push('\n');
        text += &autoscale_table(autoscale, *replicas).render(paint);
    }
    if !slots.is_empty() {
        text.push('\n');
        text += &replicas_table(slots).render(paint);
        if *slots_omitted > 0 {
            text += &format!("and {slots_omitted} more replicas: `lattice status {workload} --all`\n");
        }
    }
    let remarks: Vec<String> = slots.iter().flat_map(remarks).collect();
    if !remarks.is_empty() {
        text.push('\n');
    }
    for remark in remarks {
        text.push_str(&paint.warn(plain(&remark)));
        text.push('\n');
    }
    if !schedules.is_empty() {
        text.push('\n');
        text += &schedules_table(schedules).render(paint);
    }
    text
}

fn conditions_table(conditions: &[Condition]) -> Table {
    let mut table = Table::new(&["CONDITION", "STATUS", "SINCE", "REASON", "MESSAGE"]);
    for Condition { kind, status, reason, message, since } in conditions {
        // Of two it is good if they are not so.
        let is_good = match kind {
            ConditionKind::Degraded | ConditionKind::Progressing => !status,
            _ => *status,
        };
        let tone = match (is_good, kind) {
            (true, _) => Tone::Good,
            (false, ConditionKind::Degraded) => Tone::Bad,
            (false, _) => Tone::Warn,
        };
        table.row([
            kind.as_str().into(),
            Cell::new(status, tone),
            since.as_deref().unwrap_or("-").into(),
            reason.as_str().into(),
            message.as_str().into(),
        ]);
    }
    table
}

/// How far a change is, or why it was given up.
fn rollout(status: &StatusReply) -> Option<String> {
    if let Some(RolloutStatus { state, stable, updated, weight, message, .. }) = &status.rollout {
        let state = match state {
            RolloutState::Progressing => "under way",
            RolloutState::Paused => "paused",
            RolloutState::Stalled => "does not go on",
            RolloutState::GivingUp => "is given up",
            RolloutState::Done => "done",
        };
        let template = status.template.unwrap_or(status.generation);
        let why = message.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        let share = weight.map_or_else(String::new, |weight| format!(", and it gets {weight} % of the requests"));
        let StatusReply { replicas, .. } = status;
        return Some(format!(
            "rollout {state}: {updated} of {replicas} run generation {template}, not {stable}{share}{why}"
        ));
    }
    let aborted = status.aborted.as_ref()?;
    let Aborted { generation, reason, .. } = aborted;
    let loss = aborted.loss().map_or_else(String::new, |loss| format!("; what was before it is back {loss}"));
    Some(format!("generation {generation} was rolled back: {reason}{loss}"))
}

fn replicas_table(slots: &[SlotStatus]) -> Table {
    match slots.iter().any(|slot| slot.report.is_some()) {
        true => with_figures(slots),
        false => places(slots),
    }
}

/// Where replicas are: all that is known where no node reports.
fn places(slots: &[SlotStatus]) -> Table {
    let mut table = Table::new(&["REPLICA", "NODE", "GPU", "PHASE", "GENERATION", "NOTE"]);
    for slot in slots {
        let [replica, node, phase, generation] = place(slot);
        table.row([replica, node, gpu(slot), phase, generation, note(slot).into()]);
    }
    table.without(hidden(slots))
}

/// `vk-0, 256 MiB`.
fn gpu(slot: &SlotStatus) -> Cell {
    let Some(GpuGrant { offer, memory, slots: _ }) = &slot.gpu else { return Cell::new("-", Tone::Dim) };
    format!("{offer}, {}", size(*memory)).into()
}

/// Columns that say nothing of any of them.
fn hidden(slots: &[SlotStatus]) -> &'static [&'static str] {
    if slots.iter().any(|slot| slot.gpu.is_some()) { &[] } else { &["GPU"] }
}

fn with_figures(slots: &[SlotStatus]) -> Table {
    let mut table = Table::new(&[
        "REPLICA",
        "NODE",
        "GPU",
        "PHASE",
        "GENERATION",
        "REQUESTS",
        "IN FLIGHT",
        "INSTANCES",
        "PEAK MEMORY",
        "NOTE",
    ]);
    for slot in slots {
        let [replica, node, phase, generation] = place(slot);
        let figure = |text: &dyn Fn(&SlotReport) -> String| match &slot.report {
            Some(report) => text(report).into(),
            None => Cell::new("-", Tone::Dim),
        };
        table.row([
            replica,
            node,
            gpu(slot),
            phase,
            generation,
            figure(&|report| report.requests.to_string()),
            figure(&|report| match report.waiting {
                0 => report.in_flight.to_string(),
                waiting => format!("{}, {waiting} wait", report.in_flight),
            }),
            figure(&|report| report.instances.live.to_string()),
            figure(&|report| format!("{} of {}", size(report.memory.peak), size(report.memory.limit))),
            note(slot).into(),
        ]);
    }
    table.without(hidden(slots))
}

fn autoscale_table(AutoscaleStatus { spec, last }: &AutoscaleStatus, replicas: u32) -> Table {
    let mut table = Table::new(&["REPLICAS", "MIN", "MAX", "TARGET", "LAST", "SINCE", "WHY"]);
    let last = last.as_ref();
    table.row([
        replicas.into(),
        spec.min.into(),
        spec.max.into(),
        spec.target.to_string().into(),
        last.map_or("-".into(), |last| format!("{} → {}", last.before, last.replicas)).into(),
        last.map_or("-", |last| last.at.as_str()).into(),
        last.map_or("-".into(), |last| plain(&last.why)).into(),
    ]);
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

fn place(slot: &SlotStatus) -> [Cell; 4] {
    [
        slot.replica.into(),
        slot.node.as_ref().map_or("-", |node| node.as_str()).into(),
        phase_cell(slot),
        slot.generation.map_or("-".to_owned(), |generation| generation.to_string()).into(),
    ]
}

/// What stands behind a replica, in short.
fn note(slot: &SlotStatus) -> String {
    let mut notes: Vec<String> = slot.message.iter().chain(&slot.crashing).cloned().collect();
    if !slot.refused.is_empty() {
        notes.push(refusals(&slot.refused, slot.refused_omitted));
    }
    if let Some(report) = &slot.report {
        if !report.failures.is_empty() {
            notes.push(format!("{} failed: {}", report.failed(), counts(&report.failures)));
        }
        if report.refused > 0 {
            notes.push(format!("{} refused", report.refused));
        }
        if !report.limits.is_empty() {
            notes.push(format!("limits reached: {}", counts(&report.limits)));
        }
        if !report.configs.is_empty() {
            let versions = report.configs.iter().map(|(name, version)| format!("{name} {version}"));
            notes.push(format!("config {}", versions.collect::<Vec<_>>().join(", ")));
        }
    }
    if let Some(age) = slot.report_age.filter(|age| *age > REPORT_IS_OLD) {
        notes.push(format!("as of {} ago", age_of(age)));
    }
    notes.join("; ")
}

fn age_of(millis: u64) -> String {
    crate::output::age(Duration::from_millis(millis))
}

fn counts(counts: &Counts) -> String {
    let mut counts: Vec<(&String, &u64)> = counts.iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    counts.into_iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

/// What wants a sentence, below the table.
fn remarks(slot: &SlotStatus) -> Vec<String> {
    let Some(report) = &slot.report else { return Vec::new() };
    let mut remarks = Vec::new();
    if let Some(ReuseOff { digest, reason, remedy, since }) = &report.reuse_off {
        let since = rfc3339(*since);
        remarks.push(format!("reuse off since {since} for {}…: {reason}; {remedy}", digest.short()));
    }
    for part in &report.parts {
        let error = part.last_error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
        match part.state {
            PartState::GivenUp => {
                remarks.push(format!("{} gave up after {} restarts{error}", part.name, part.restarts));
            }
            PartState::Restarting => remarks.push(format!("{} is started again soon{error}", part.name)),
            _ if part.restarts > 0 => {
                remarks.push(format!("{} was restarted {} times{error}", part.name, part.restarts))
            }
            _ => {}
        }
    }
    if let Some(CrashReport { restarts, error, at, lines }) = &report.crash {
        let times = if *restarts == 1 { "once".to_owned() } else { format!("{restarts} times") };
        remarks.push(format!("failed and started again {times}, last at {}: {error}", rfc3339(*at)));
        remarks.extend(lines.iter().map(|line| format!("  it printed: {line}")));
    }
    if let Some(last) = &report.last_failure {
        remarks.push(format!("last failure at {}: {}", rfc3339(last.at), last.message));
    }
    remarks.into_iter().map(|remark| format!("replica {}: {remark}", slot.replica)).collect()
}

/// Without what changes all the time.
fn essence(status: &StatusReply) -> (StatusReply, Vec<String>) {
    let remarks = status.slots.iter().flat_map(remarks).collect();
    let mut status = status.clone();
    for slot in &mut status.slots {
        (slot.report, slot.report_age) = (None, None);
    }
    (status, remarks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::{
        ctl::{LastScaling, Reason},
        id::{Digest, Generation, NodeId, Revision},
        report::{LastFailure, Peak},
        spec::AutoscaleSpec,
    };

    #[test]
    fn a_replica_without_a_node_says_why() {
        let refusal = |node: &str| Refusal {
            node: NodeId::new(node).unwrap(),
            reason: "zone is us-1".into(),
            rule: String::new(),
        };
        let status = StatusReply {
            workload: WorkloadName::new("hello").unwrap(),
            state: WorkloadState::Degraded,
            generation: Generation(3),
            revision: Revision(12),
            replicas: 2,
            ready: 1,
            slots: vec![
                SlotStatus {
                    node: NodeId::new("n1").ok(),
                    phase: Some(Phase::Ready),
                    generation: Some(Generation(3)),
                    ..SlotStatus::vacant(0)
                },
                SlotStatus { refused: vec![refusal("n1"), refusal("n2")], ..SlotStatus::vacant(1) },
            ],
            slots_omitted: 0,
            conditions: vec![Condition {
                kind: ConditionKind::Degraded,
                status: true,
                reason: Reason::NoNodeFits,
                message: "replica 1: n1: zone is us-1".into(),
                since: None,
            }],
            schedules: vec![],
            template: None,
            rollout: None,
            aborted: None,
            autoscale: None,
        };
        assert_eq!(
            render(&status, Paint::off()),
            "WORKLOAD  STATE     READY  GENERATION  REVISION\n\
             hello     degraded  1/2    3           12\n\
             \n\
             CONDITION  STATUS  SINCE  REASON      MESSAGE\n\
             Degraded   true    -      NoNodeFits  replica 1: n1: zone is us-1\n\
             \n\
             REPLICA  NODE  PHASE    GENERATION  NOTE\n\
             0        n1    ready    3\n\
             1        -     no node  -           n1: zone is us-1; n2: zone is us-1\n"
        );
        assert!(refusals(&vec![refusal("n1"); 7], 3).ends_with("and 5 more nodes"));
    }

    #[test]
    fn of_one_that_scales_itself_the_last_decision_is_shown() {
        let last = LastScaling {
            at: "2026-11-22T12:00:00.000Z".into(),
            before: 1,
            replicas: 0,
            why: "no request for 5m\u{1b}[2J".into(),
        };
        let status = StatusReply {
            workload: WorkloadName::new("hello").unwrap(),
            state: WorkloadState::Idle,
            generation: Generation(3),
            revision: Revision(12),
            replicas: 0,
            ready: 0,
            slots: vec![],
            slots_omitted: 0,
            conditions: vec![],
            schedules: vec![],
            template: None,
            rollout: None,
            aborted: None,
            autoscale: Some(AutoscaleStatus { spec: AutoscaleSpec::new(0, 20), last: Some(last) }),
        };
        assert_eq!(
            render(&status, Paint::off()).split_once("\n\n").unwrap().1,
            "REPLICAS  MIN  MAX  TARGET          LAST   SINCE                     WHY\n\
             0         0    20   concurrency 32  1 → 0  2026-11-22T12:00:00.000Z  no request for 5m [2J\n"
        );
    }

    #[test]
    fn figures_and_remarks_are_shown_where_nodes_report() {
        let slot = |replica| SlotStatus {
            node: NodeId::new("n1").ok(),
            phase: Some(Phase::Ready),
            generation: Some(Generation(3)),
            ..SlotStatus::vacant(replica)
        };
        let mut report = SlotReport::new(uuid::Uuid::nil(), Generation(3));
        (report.requests, report.in_flight, report.waiting, report.instances.live) = (1042, 2, 5, 3);
        report.memory = Peak { peak: 12 << 20, limit: 128 << 20 };
        report.failures = [("trap".to_owned(), 1), ("wall".to_owned(), 3)].into();
        report.limits = [("wall".to_owned(), 3)].into();
        report.configs = [("shop".parse().unwrap(), Generation(2))].into();
        report.reuse_off = Some(ReuseOff {
            digest: Digest::of(b"guest"),
            reason: "a kept instance returned without a response".into(),
            remedy: "build it anew".into(),
            since: 0,
        });
        report.last_failure =
            Some(LastFailure { kind: "wall".into(), message: "took longer\u{1b}[2J".into(), at: 1_000 });
        let status = StatusReply {
            workload: WorkloadName::new("hello").unwrap(),
            state: WorkloadState::Ready,
            generation: Generation(3),
            revision: Revision(12),
            replicas: 2,
            ready: 2,
            conditions: vec![],
            slots: vec![
                SlotStatus { report: Some(Box::new(report)), report_age: Some(20_000), ..slot(0) },
                SlotStatus { crashing: Some("pool ended 3 times".into()), ..slot(1) },
            ],
            slots_omitted: 0,
            schedules: vec![],
            template: None,
            rollout: None,
            aborted: None,
            autoscale: None,
        };
        assert_eq!(
            render(&status, Paint::off()).split_once("\n\n").unwrap().1,
            "REPLICA  NODE  PHASE     GENERATION  REQUESTS  IN FLIGHT  INSTANCES  PEAK MEMORY        NOTE\n\
             0        n1    ready     3           1042      2, 5 wait  3          12 MiB of 128 MiB  \
             4 failed: wall 3, trap 1; limits reached: wall 3; config shop 2; as of 20s ago\n\
             1        n1    crashing  3           -         -          -          -                  pool ended 3 times\n\
             \n\
             replica 0: reuse off since 1970-01-01T00:00:00.000Z for 84983c60f7da…: a kept instance returned without a \
             response; build it anew\n\
             replica 0: last failure at 1970-01-01T00:00:01.000Z: took longer [2J\n"
        );
    }
}
