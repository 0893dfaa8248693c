//! `lattice rebalance`: move replicas to better places.

use super::until::{self, Look};
use crate::{
    Context,
    client::Client,
    error::{Exit, Failure},
    output::{Paint, Table},
};
use lattice::{
    ctl::{PlannedMove, RebalanceReply, RebalanceRequest, RebalanceState, RebalanceStatus},
    id::WorkloadName,
    store::Headers,
    subject::Topic,
    units::Millis,
};

/// Replicas named in one line.
const NAMED: usize = 4;

/// Move replicas to better places
///
/// Nothing that runs moves by itself when a node comes, or comes back from a drain. This moves what the rules and scores of
/// placement would put elsewhere today, a few replicas at a time: each is ready at its new node before it stops at the old
/// one. One of class `strict` stops first, as far as `disruption.max-unavailable` allows. It ends by itself, also
/// where a replica does not come up.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice rebalance --dry-run             what would move, and why
  lattice rebalance --wait                until it is over
  lattice rebalance --workload shop --at-once 2
  lattice rebalance --status
  lattice rebalance --cancel              what is on its way goes on, all else stays")]
pub struct Args {
    /// Move replicas of this workload only
    #[arg(long, value_name = "NAME")]
    workload: Option<WorkloadName>,
    /// How many are moved at a time, at most
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    at_once: u32,
    /// Show what would move, and move nothing
    #[arg(long, conflicts_with_all = ["wait", "status", "cancel"])]
    dry_run: bool,
    /// Wait until it is over, and say how far it is
    #[arg(long, conflicts_with_all = ["status", "cancel"])]
    wait: bool,
    /// How long to wait; then the exit code is 6, and the moves go on
    #[arg(long, requires = "wait", default_value = "30m", value_name = "DURATION")]
    timeout: Millis,
    /// Show how far it is
    #[arg(long, conflicts_with_all = ["cancel", "workload"])]
    status: bool,
    /// End it
    #[arg(long, conflicts_with = "workload")]
    cancel: bool,
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let Args { workload, at_once, dry_run, wait, timeout, status, cancel } = args;
    let client = context.client().await?;
    if status || cancel {
        let topic = if cancel { Topic::RebalanceCancel } else { Topic::RebalanceGet };
        let state: RebalanceState = client.ask(topic).await?;
        let text = |_| match &state.under_way {
            None => "nothing is being moved\n".to_owned(),
            Some(status) if cancel => format!("cancelled: {}\n", progress(status)),
            Some(status) => format!("{}\n", progress(status)),
        };
        context.out.show(&state, text, Vec::new)?;
        return Ok(Exit::Ok);
    }
    let request = RebalanceRequest { at_once, workload, dry_run };
    let reply: RebalanceReply = client.send(Topic::RebalanceStart, Headers::new(), &request).await?;
    let names = || reply.moves.iter().map(|planned| planned.slot.to_string()).collect();
    context.out.show(&reply, |paint| told(&reply, dry_run, paint), names)?;
    if wait && reply.started {
        tokio::select! {
            waited = until_over(&client, context, timeout) => waited?,
            _ = tokio::signal::ctrl_c() => {
                return Err(Failure::new(Exit::Interrupted, "replicas are still being moved".to_owned())
                    .hint("`lattice rebalance --status` shows how far it is, `--cancel` ends it")
                    .into());
            }
        }
    }
    Ok(Exit::Ok)
}

fn told(reply: &RebalanceReply, dry_run: bool, paint: Paint) -> String {
    let RebalanceReply { moves, .. } = reply;
    if moves.is_empty() {
        return "every replica is in the best place that there is for it\n".into();
    }
    let mut table = Table::new(&["REPLICA", "FROM", "TO", "BY"]);
    for PlannedMove { slot, from, to, by } in moves {
        table.row([slot.to_string().into(), from.as_str().into(), to.as_str().into(), by.as_str().into()]);
    }
    let would = if dry_run { "would move" } else { "move" };
    let replicas = if moves.len() == 1 { "replica" } else { "replicas" };
    format!("{}{} {replicas} {would}\n", table.render(paint), moves.len())
}

/// `2 moved, 1 under way (web.0 from n1), 3 left`.
fn progress(status: &RebalanceStatus) -> String {
    let RebalanceStatus { moving, left, moved, skipped, .. } = status;
    let mut parts = vec![format!("{moved} moved")];
    if !moving.is_empty() {
        let named: Vec<String> =
            moving.iter().take(NAMED).map(|one| format!("{} from {}", one.slot, one.from)).collect();
        let more = if moving.len() > NAMED { ", …" } else { "" };
        parts.push(format!("{} under way ({}{more})", moving.len(), named.join(", ")));
    }
    parts.push(format!("{left} left"));
    if *skipped > 0 {
        parts.push(format!("{skipped} not to be moved any more"));
    }
    parts.join(", ")
}

async fn until_over(client: &Client, context: &Context, timeout: Millis) -> anyhow::Result<()> {
    let look = async || {
        let RebalanceState { under_way } = client.ask(Topic::RebalanceGet).await?;
        Ok(under_way.map_or(Look::Over, |status| Look::Goes(progress(&status))))
    };
    let too_late = |told: Option<String>| {
        let message = format!("it is not over after {timeout}, and goes on: {}", told.unwrap_or_default());
        (message, "it goes on; `lattice rebalance --cancel` ends it")
    };
    until::until_over(context, timeout, look, too_late).await?;
    context.out.note("it is over; `lattice events` says how it ended");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::record::Move;

    #[test]
    fn what_moves_and_how_far_it_is_is_said() {
        let planned = |slot: &str, to: &str| PlannedMove {
            slot: slot.parse().unwrap(),
            from: "n1".parse().unwrap(),
            to: to.parse().unwrap(),
            by: "replicas".into(),
        };
        let reply = RebalanceReply { moves: vec![planned("web.0", "n2"), planned("web.1", "n3")], started: false };
        let told = told(&reply, true, Paint::off());
        assert!(told.contains("web.1    n1    n3  replicas") && told.ends_with("2 replicas would move\n"), "{told}");
        let moving = vec![Move { slot: "web.0".parse().unwrap(), from: "n1".parse().unwrap() }];
        let status = RebalanceStatus { at_once: 1, moving, left: 3, moved: 2, skipped: 0 };
        assert_eq!(progress(&status), "2 moved, 1 under way (web.0 from n1), 3 left");
        let status = RebalanceStatus { moving: vec![], left: 0, skipped: 1, ..status };
        assert_eq!(progress(&status), "2 moved, 0 left, 1 not to be moved any more");
    }
}
