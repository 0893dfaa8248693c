//! Waiting until a change has arrived: one line for each thing that changed, and the reason where it does not arrive.
//! [`judge`] decides; the rest asks and prints.

use super::status::refusals;
use crate::{
    Context,
    client::Client,
    error::{Exit, Failure, exit_of},
    output::{Paint, plain},
};
use lattice::{
    ctl::{PutReply, SlotStatus, StatusReply},
    id::Generation,
    record::{Phase, RolloutState},
    subject::{Topic, WorkloadVerb},
    units::Millis,
};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

const ASK_EVERY: Duration = Duration::from_millis(100);

/// How long a command waits for what it changed.
#[derive(Debug, Clone, clap::Args)]
pub struct WaitArgs {
    /// Return as soon as the change is accepted
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait until every replica is ready
    #[arg(long, default_value = "60s", value_name = "DURATION")]
    pub timeout: Millis,
}

/// How far a change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ready,
    /// Nothing is on its way any more, and a replica failed.
    Failed,
    /// The rollout waits for somebody to decide: nothing is wrong, or something is.
    Paused,
    Stalled,
    /// It was given up, and the spec before it put back.
    Aborted,
    Underway,
    /// Another change came after ours.
    Superseded(Generation),
}

/// `put` is the generation that is waited for.
fn judge(status: &StatusReply, put: Generation) -> Verdict {
    if status.generation > put {
        if status.aborted.as_ref().is_some_and(|aborted| aborted.generation == put) {
            return Verdict::Aborted;
        }
        return Verdict::Superseded(status.generation);
    }
    // The node that answered has not heard of our change yet.
    if status.generation < put {
        return Verdict::Underway;
    }
    // Of a rollout the lattice says itself when it is over, and how.
    match status.rollout.as_ref().map(|rollout| rollout.state) {
        None => {}
        Some(RolloutState::Stalled) => return Verdict::Stalled,
        Some(RolloutState::Paused) => return Verdict::Paused,
        // It stays open until a replica is wanted, and has shown that it runs.
        Some(RolloutState::Progressing) if status.replicas == 0 && status.slots.is_empty() => return Verdict::Ready,
        Some(RolloutState::Progressing | RolloutState::GivingUp | RolloutState::Done) => return Verdict::Underway,
    }
    let is_ready = |slot: &&SlotStatus| slot.phase == Some(Phase::Ready) && status.is_newest(slot);
    let ready = status.slots.iter().filter(is_ready).count();
    let failed = status.slots.iter().filter(|slot| slot.phase == Some(Phase::Failed)).count();
    let wanted = status.replicas as usize;
    if ready == wanted && status.slots.len() == wanted {
        Verdict::Ready
    } else if failed > 0 && ready + failed == wanted {
        Verdict::Failed
    } else {
        Verdict::Underway
    }
}

/// One line a replica; what did not change since the last look is not shown again.
fn describe(status: &StatusReply, slot: &SlotStatus, paint: Paint) -> String {
    let node = slot.node.as_ref().map_or_else(String::new, |node| format!(" on {node}"));
    let older = !status.is_newest(slot);
    let message =
        |separator: &str| slot.message.as_ref().map_or_else(String::new, |text| format!("{separator}{}", plain(text)));
    match slot.phase {
        Some(Phase::Ready) if older => format!("serving the previous generation{node}{}", message(": ")),
        Some(Phase::Ready) => format!("{}{node}", paint.good("ready")),
        Some(Phase::Starting) => format!("starting{node}{}", message(": ")),
        Some(Phase::Failed) => format!("{}{node}{}", paint.bad("failed"), message(": ")),
        None if slot.refused.is_empty() => "waiting for a node".to_owned(),
        None => format!("{}: {}", paint.warn("no node can take it"), refusals(&slot.refused)),
    }
}

/// Why it is not ready, for the final error.
fn reasons(status: &StatusReply) -> String {
    let lacking = |slot: &&SlotStatus| slot.phase != Some(Phase::Ready) || !status.is_newest(slot);
    let plain = Paint::off();
    let lines: Vec<String> = status
        .slots
        .iter()
        .filter(lacking)
        .take(5)
        .map(|slot| format!("replica {}: {}", slot.replica, describe(status, slot, plain)))
        .collect();
    lines.join("\n  ")
}

/// Report an accepted change, and wait for it unless told not to.
pub async fn finish(client: &Client, context: &Context, put: &PutReply, args: &WaitArgs) -> anyhow::Result<Exit> {
    let name = &put.workload;
    let generation = put.generation;
    let what = if put.changed { "accepted" } else { "unchanged" };
    context.out.note(format!("{name}: generation {generation} {what}"));
    if args.no_wait {
        let line = |_| format!("{name} generation {generation}\n");
        context.out.show(put, line, || vec![name.to_string()])?;
        return Ok(Exit::Ok);
    }
    let status = tokio::select! {
        status = wait(client, context, put, args.timeout.into()) => status?,
        _ = tokio::signal::ctrl_c() => {
            return Err(Failure::new(Exit::Interrupted, format!("{name} is still on its way"))
                .hint(format!("`lattice status {name} --watch` follows it; `lattice rollback {name}` goes back"))
                .into());
        }
    };
    let line = |paint: Paint| format!("{name} is {}: {} of {}\n", paint.good("ready"), status.ready, status.replicas);
    context.out.show(&status, line, || vec![name.to_string()])?;
    Ok(Exit::Ok)
}

/// Wait until every replica is ready.
pub async fn wait(
    client: &Client,
    context: &Context,
    put: &PutReply,
    timeout: Duration,
) -> anyhow::Result<StatusReply> {
    let start = Instant::now();
    let deadline = start + timeout;
    let name = &put.workload;
    let topic = Topic::Workload(WorkloadVerb::Status, name.clone());
    let mut shown: BTreeMap<u32, String> = BTreeMap::new();
    let mut last = None;
    loop {
        let status = match client.ask::<StatusReply>(topic.clone()).await {
            Ok(status) => Some(status),
            // The node that answered may not have heard of it yet.
            Err(error) if exit_of(&error) == Exit::NotFound && last.is_none() => None,
            Err(error) if Instant::now() >= deadline => return Err(error),
            // NATS or the answering node may be on its way back.
            Err(_) => None,
        };
        if let Some(status) = status {
            let verdict = judge(&status, put.generation);
            show_changes(&status, put, &mut shown, start, context);
            match verdict {
                Verdict::Ready => return Ok(status),
                Verdict::Failed => {
                    let why = reasons(&status);
                    return Err(Failure::failed(format!("{name} failed to start\n  {why}"))
                        .hint(format!("nodes go on trying; `lattice logs {name}` shows what it wrote"))
                        .into());
                }
                Verdict::Paused => {
                    let why = status.rollout.as_ref().and_then(|rollout| rollout.message.as_deref());
                    let why = why.map_or_else(String::new, |why| format!(": {}", plain(why)));
                    return Err(Failure::new(Exit::InProgress, format!("the rollout of {name} is paused{why}"))
                        .hint(format!(
                            "`lattice rollout resume {name}` goes on, `lattice rollout abort {name}` goes back"
                        ))
                        .into());
                }
                Verdict::Stalled => {
                    let rollout = status.rollout.as_ref();
                    let why = rollout.and_then(|rollout| rollout.message.as_deref()).unwrap_or_default();
                    let stable = rollout.map_or_else(String::new, |rollout| rollout.stable.to_string());
                    return Err(Failure::failed(format!("{name} does not go on: {}", plain(why)))
                        .hint(format!("`lattice rollout abort {name}` goes back to generation {stable}; `lattice rollout resume {name}` goes on"))
                        .into());
                }
                Verdict::Aborted => {
                    let why = status.aborted.as_ref().map(|aborted| plain(&aborted.reason)).unwrap_or_default();
                    let message = format!("{name}: generation {} was rolled back\n  {why}", put.generation);
                    return Err(Failure::failed(message)
                        .hint(format!("what ran before runs again; `lattice logs {name}` shows what it wrote"))
                        .into());
                }
                Verdict::Superseded(generation) => {
                    let message = format!("{name}: generation {generation} replaced generation {}", put.generation);
                    return Err(Failure::new(Exit::Conflict, message).into());
                }
                Verdict::Underway => last = Some(status),
            }
        }
        if Instant::now() >= deadline {
            let why = last.as_ref().map_or_else(|| "no node has reported on it".into(), reasons);
            let after = Millis(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
            let message = format!("{name} is not ready after {after}, and still on its way\n  {why}");
            return Err(Failure::new(Exit::InProgress, message)
                .hint(format!("`lattice status {name} --watch` follows it"))
                .into());
        }
        tokio::time::sleep_until((Instant::now() + ASK_EVERY).min(deadline)).await;
    }
}

fn show_changes(
    status: &StatusReply,
    put: &PutReply,
    shown: &mut BTreeMap<u32, String>,
    start: Instant,
    context: &Context,
) {
    if status.generation != put.generation {
        return;
    }
    let paint = context.out.note_paint;
    for slot in &status.slots {
        let text = describe(status, slot, paint);
        if shown.get(&slot.replica) != Some(&text) {
            let seconds = start.elapsed().as_secs_f32();
            context.out.note(format!("  {:>5.1}s  {}.{} {text}", seconds, status.workload, slot.replica));
            shown.insert(slot.replica, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::{
        ctl::{Refusal, RolloutStatus, WorkloadState},
        id::{NodeId, Revision, WorkloadName},
        record::Aborted,
    };

    fn slot(replica: u32, phase: Option<Phase>, generation: u64) -> SlotStatus {
        SlotStatus {
            node: phase.map(|_| NodeId::new("n1").unwrap()),
            phase,
            generation: phase.map(|_| Generation(generation)),
            message: (phase == Some(Phase::Failed)).then(|| "no export".into()),
            ..SlotStatus::vacant(replica)
        }
    }

    fn status(generation: u64, replicas: u32, slots: Vec<SlotStatus>) -> StatusReply {
        StatusReply {
            workload: WorkloadName::new("hello").unwrap(),
            state: WorkloadState::Progressing,
            generation: Generation(generation),
            revision: Revision(1),
            replicas,
            ready: 0,
            conditions: vec![],
            slots,
            schedules: vec![],
            template: None,
            rollout: None,
            aborted: None,
            autoscale: None,
        }
    }

    #[test]
    fn it_has_arrived_when_every_replica_serves_the_new_generation() {
        use Phase::{Failed, Ready, Starting};
        let ready = |generation| slot(0, Some(Ready), generation);
        for (status, verdict) in [
            (status(2, 1, vec![ready(2)]), Verdict::Ready),
            (status(2, 0, vec![]), Verdict::Ready),
            (status(2, 1, vec![ready(1)]), Verdict::Underway),
            (status(1, 1, vec![ready(1)]), Verdict::Underway),
            (status(3, 1, vec![ready(3)]), Verdict::Superseded(Generation(3))),
            (status(2, 2, vec![ready(2)]), Verdict::Underway),
            (status(2, 1, vec![ready(2), slot(1, Some(Ready), 2)]), Verdict::Underway),
            (status(2, 2, vec![ready(2), slot(1, Some(Starting), 2)]), Verdict::Underway),
            (status(2, 2, vec![ready(2), slot(1, Some(Failed), 2)]), Verdict::Failed),
            (status(2, 3, vec![ready(2), slot(1, Some(Failed), 2), slot(2, None, 0)]), Verdict::Underway),
        ] {
            assert_eq!(judge(&status, Generation(2)), verdict, "{status:?}");
        }
    }

    #[test]
    fn a_rollout_says_itself_when_it_is_over() {
        let ready = || vec![slot(0, Some(Phase::Ready), 2)];
        let of = |state| RolloutStatus {
            state,
            stable: Generation(1),
            below: 1,
            updated: 1,
            step: 0,
            weight: None,
            message: None,
        };
        for (state, verdict) in [
            (RolloutState::Progressing, Verdict::Underway),
            (RolloutState::Paused, Verdict::Paused),
            (RolloutState::Stalled, Verdict::Stalled),
        ] {
            let status = StatusReply { rollout: Some(of(state)), ..status(2, 1, ready()) };
            assert_eq!(judge(&status, Generation(2)), verdict);
        }
        let none = StatusReply { rollout: Some(of(RolloutState::Progressing)), ..status(2, 0, vec![]) };
        assert_eq!(judge(&none, Generation(2)), Verdict::Ready);
        let aborted = |generation| Some(Aborted { generation: Generation(generation), reason: "no".into() });
        let back = StatusReply { aborted: aborted(2), template: Some(Generation(1)), ..status(3, 1, vec![]) };
        assert_eq!(judge(&back, Generation(2)), Verdict::Aborted);
        assert_eq!(
            judge(&StatusReply { aborted: aborted(1), ..back }, Generation(2)),
            Verdict::Superseded(Generation(3))
        );
        // Replicas that run what they ran before are the newest ones where nothing of them was changed.
        let around = StatusReply { template: Some(Generation(2)), ..status(5, 1, ready()) };
        assert_eq!(judge(&around, Generation(5)), Verdict::Ready);
    }

    #[test]
    fn what_is_missing_is_told() {
        let mut homeless = slot(1, None, 0);
        homeless.refused =
            vec![Refusal { node: NodeId::new("n1").unwrap(), reason: "zone is us-1".into(), rule: String::new() }];
        let status = status(2, 3, vec![slot(0, Some(Phase::Ready), 2), homeless, slot(2, Some(Phase::Failed), 2)]);
        assert_eq!(
            reasons(&status),
            "replica 1: no node can take it: n1: zone is us-1\n  replica 2: failed on n1: no export"
        );
    }
}
