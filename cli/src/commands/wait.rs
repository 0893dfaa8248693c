//! `lattice wait`: return once something is so of a workload.

use crate::{
    Context,
    client::Client,
    error::{Exit, Failure, exit_of},
    output::Paint,
};
use lattice::{
    ctl::{Condition, ConditionKind, StatusReply},
    id::WorkloadName,
    subject::{Topic, WorkloadVerb},
    units::Millis,
};
use std::time::Duration;
use tokio::time::Instant;

const ASK_EVERY: Duration = Duration::from_millis(200);

/// Wait until a condition of a workload holds
///
/// The conditions are those of `lattice status`. A workload that is not there yet is waited for as well.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice wait hello                      until every replica answers at the newest generation
  lattice wait hello --for placed --timeout 10s
  lattice wait hello --for settled        until nothing is on its way any more, good or bad
  lattice wait hello --for deleted && echo gone")]
pub struct Args {
    /// Name of the workload
    workload: WorkloadName,
    /// What to wait for
    #[arg(long = "for", value_enum, default_value_t, value_name = "WHAT")]
    what: What,
    /// How long to wait; then the exit code is 6
    #[arg(long, default_value = "60s", value_name = "DURATION")]
    timeout: Millis,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// The spec in the store is one that nodes carry out
    Admitted,
    /// Every replica has a node
    Placed,
    /// Every replica answers, at the newest generation
    #[default]
    Ready,
    /// Nothing is on its way any more
    Settled,
    /// Something stands in the way of what was asked
    Degraded,
    /// There is no such workload
    Deleted,
}

impl What {
    /// The condition that tells, and what it must be. None for what has no status.
    fn wanted(self) -> Option<(ConditionKind, bool)> {
        match self {
            What::Admitted => Some((ConditionKind::Admitted, true)),
            What::Placed => Some((ConditionKind::Placed, true)),
            What::Ready => Some((ConditionKind::Ready, true)),
            What::Settled => Some((ConditionKind::Progressing, false)),
            What::Degraded => Some((ConditionKind::Degraded, true)),
            What::Deleted => None,
        }
    }

    /// What the status says of it: the condition, and whether it is as wanted.
    fn look(self, status: Option<&StatusReply>) -> (Option<&Condition>, bool) {
        match (self.wanted(), status) {
            (None, status) => (None, status.is_none()),
            (Some(_), None) => (None, false),
            (Some((kind, wanted)), Some(status)) => {
                let condition = status.conditions.iter().find(|condition| condition.kind == kind);
                (condition, condition.is_some_and(|condition| condition.status == wanted))
            }
        }
    }
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let client = context.client().await?;
    let name = &args.workload;
    let deadline = Instant::now() + Duration::from(args.timeout);
    let mut told = None;
    loop {
        let status = ask(&client, name).await?;
        let (condition, is_so) = args.what.look(status.as_ref());
        let line = |paint: Paint| match condition {
            Some(condition) => sentence(name, condition, paint),
            None if status.is_some() => format!("{name} is there"),
            None => format!("there is no workload {name}"),
        };
        if is_so {
            match &status {
                Some(status) => context.out.show(status, |paint| line(paint) + "\n", || vec![name.to_string()])?,
                None => context.out.note(line(context.out.note_paint)),
            }
            return Ok(Exit::Ok);
        }
        if Instant::now() >= deadline {
            let message = format!("not so after {}: {}", args.timeout, line(Paint::off()));
            let hint = format!("`lattice status {name}` says more");
            return Err(Failure::new(Exit::InProgress, message).hint(hint).into());
        }
        let now = line(context.out.note_paint);
        if told.as_ref() != Some(&now) {
            context.out.note(&now);
            told = Some(now);
        }
        tokio::time::sleep_until((Instant::now() + ASK_EVERY).min(deadline)).await;
    }
}

/// None where there is no such workload.
async fn ask(client: &Client, name: &WorkloadName) -> anyhow::Result<Option<StatusReply>> {
    match client.ask(Topic::Workload(WorkloadVerb::Status, name.clone())).await {
        Ok(status) => Ok(Some(status)),
        Err(error) if exit_of(&error) == Exit::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn sentence(name: &WorkloadName, condition: &Condition, paint: Paint) -> String {
    let Condition { kind, status, reason, message, .. } = condition;
    let not = if *status { "" } else { "not " };
    let reason = reason.as_str();
    format!("{name} is {not}{} ({}): {message}", kind.as_str().to_lowercase(), paint.dim(reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::{
        ctl::{Reason, WorkloadState},
        id::{Generation, Revision},
    };

    #[test]
    fn each_has_its_condition() {
        let condition = |kind, status| Condition {
            kind,
            status,
            reason: Reason::Starting,
            message: "replica 0: starts on n1".into(),
            since: None,
        };
        let status = StatusReply {
            workload: WorkloadName::new("hello").unwrap(),
            state: WorkloadState::Progressing,
            generation: Generation(1),
            revision: Revision(1),
            replicas: 1,
            ready: 0,
            conditions: vec![
                condition(ConditionKind::Admitted, true),
                condition(ConditionKind::Placed, true),
                condition(ConditionKind::Ready, false),
                condition(ConditionKind::Progressing, true),
                condition(ConditionKind::Degraded, false),
            ],
            slots: vec![],
            slots_omitted: 0,
            schedules: vec![],
            template: None,
            rollout: None,
            aborted: None,
            autoscale: None,
        };
        for (what, is_so) in [
            (What::Admitted, true),
            (What::Placed, true),
            (What::Ready, false),
            (What::Settled, false),
            (What::Degraded, false),
            (What::Deleted, false),
        ] {
            assert_eq!(what.look(Some(&status)).1, is_so, "{what:?}");
            assert_eq!(what.look(None).1, what == What::Deleted, "{what:?}");
        }
        let (ready, _) = What::Ready.look(Some(&status));
        assert_eq!(
            sentence(&status.workload, ready.unwrap(), Paint::off()),
            "hello is not ready (Starting): replica 0: starts on n1"
        );
        // A node of an older version tells nothing: that is not "it is so".
        let older = StatusReply { conditions: vec![], ..status };
        assert!(!What::Ready.look(Some(&older)).1);
    }
}
