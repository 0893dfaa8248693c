//! Waiting until a change has arrived: one line for each thing that changed, and the reason where it does not arrive.
//! [`judge`] decides; the rest asks and prints.

mod patience;

use super::status::refusals;
use crate::{
    Context,
    client::Client,
    error::{Exit, Failure, exit_of},
    output::{Paint, plain},
};
use lattice::{
    ctl::{Condition, ConditionKind, PutReply, Reason, SlotStatus, StatusReply},
    id::{Generation, WorkloadName},
    record::{Phase, RolloutState},
    spec::Rollback,
    subject::{Topic, WorkloadVerb},
    units::Millis,
};
use patience::{Clock, Prospects};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

const ASK_EVERY: Duration = Duration::from_millis(100);
/// What may be on its way to the node that answers is waited for before it is said that something is missing.
const LATE: Duration = Duration::from_secs(2);
/// A workload with services must have been ready for so long: one that ends at once has ended by then, and reports of it
/// have come.
const STEADY: Duration = Duration::from_secs(3);

/// How long a command waits for what it changed.
#[derive(Debug, Clone, clap::Args)]
pub struct WaitArgs {
    /// Return as soon as the change is accepted
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait until every replica is ready; then the exit code is 6, and the change goes on [default: 60s; a
    /// rollout for as long as it goes on within its rollout.deadline]
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<Millis>,
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
    /// It waits for configuration that nobody has put yet.
    Blocked,
    /// Every replica is ready, and some fail soon after they got there, again and again.
    Crashing,
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
        Some(RolloutState::Progressing) if config_reason(status).is_some() => return Verdict::Blocked,
        Some(RolloutState::Progressing | RolloutState::GivingUp | RolloutState::Done) => return Verdict::Underway,
    }
    if config_reason(status).is_some() {
        return Verdict::Blocked;
    }
    let is_ready = |slot: &&SlotStatus| slot.phase == Some(Phase::Ready) && status.is_newest(slot);
    let shown = status.slots.iter().filter(is_ready).count();
    // What is left out is ready where something that is shown is: all else comes first.
    let omitted = status.slots_omitted as usize;
    let ready = if shown > 0 { shown + omitted } else { shown };
    let failed = status.slots.iter().filter(|slot| slot.phase == Some(Phase::Failed)).count();
    let wanted = status.replicas as usize;
    if ready == wanted && status.slots.len() + omitted == wanted {
        if status.slots.iter().any(|slot| slot.crashing.is_some()) { Verdict::Crashing } else { Verdict::Ready }
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
        None => format!("{}: {}", paint.warn("no node can take it"), refusals(&slot.refused, slot.refused_omitted)),
    }
}

/// Why it is not ready, for the final error.
fn reasons(status: &StatusReply) -> String {
    if let Some(condition) = config_reason(status) {
        return plain(&condition.message);
    }
    let plain = Paint::off();
    let line = |slot: &SlotStatus, text: &str| format!("replica {}: {text}", slot.replica);
    let lacking = |slot: &SlotStatus| match &slot.crashing {
        _ if slot.phase != Some(Phase::Ready) || !status.is_newest(slot) => {
            Some(line(slot, &describe(status, slot, plain)))
        }
        Some(why) => Some(line(slot, &self::plain(why))),
        None => None,
    };
    status.slots.iter().filter_map(lacking).take(5).collect::<Vec<_>>().join("\n  ")
}

/// The condition that says so, where replicas wait for configuration.
fn config_reason(status: &StatusReply) -> Option<&Condition> {
    let is_why = |condition: &&Condition| {
        condition.kind == ConditionKind::Ready
            && !condition.status
            && matches!(condition.reason, Reason::ConfigMissing | Reason::ConfigConflict)
    };
    status.conditions.iter().find(is_why)
}

/// Whether something stands in the way that does not pass by waiting.
fn is_degraded(status: &StatusReply) -> bool {
    status.conditions.iter().any(|condition| condition.kind == ConditionKind::Degraded && condition.status)
}

/// Report an accepted change, and wait for it unless told not to.
pub async fn finish(client: &Client, context: &Context, put: &PutReply, args: &WaitArgs) -> anyhow::Result<Exit> {
    accepted(context, put);
    if args.no_wait {
        let line = |_| format!("{} generation {}\n", put.workload, put.generation);
        context.out.show(put, line, || vec![put.workload.to_string()])?;
        return Ok(Exit::Ok);
    }
    let status = wait(client, context, put, args.timeout.map(Duration::from)).await?;
    context.out.show(&status, |paint| arrived(&status, paint) + "\n", || vec![status.workload.to_string()])?;
    Ok(Exit::Ok)
}

/// Say what became of a put.
pub fn accepted(context: &Context, put: &PutReply) {
    let what = if put.changed { "accepted" } else { "unchanged" };
    context.out.note(format!("{}: generation {} {what}", put.workload, put.generation));
}

/// The last line of a change that has arrived.
pub fn arrived(status: &StatusReply, paint: Paint) -> String {
    let StatusReply { workload, ready, replicas, .. } = status;
    match replicas {
        0 => format!("{workload} is {}: no replica is wanted now", paint.good("as asked")),
        _ => format!("{workload} is {}: {ready} of {replicas}", paint.good("ready")),
    }
}

/// Wait until every replica is ready: for so long, or for as long as it makes sense.
pub async fn wait(
    client: &Client,
    context: &Context,
    put: &PutReply,
    limit: Option<Duration>,
) -> anyhow::Result<StatusReply> {
    let name = &put.workload;
    tokio::select! {
        status = arrive(client, context, put, limit) => status,
        _ = tokio::signal::ctrl_c() => {
            Err(Failure::new(Exit::Interrupted, format!("{name} is still on its way"))
                .hint(format!("`lattice status {name} --watch` follows it; `lattice rollback {name}` goes back"))
                .into())
        }
    }
}

/// [`wait`] for who looks after Ctrl-C.
pub async fn arrive(
    client: &Client,
    context: &Context,
    put: &PutReply,
    limit: Option<Duration>,
) -> anyhow::Result<StatusReply> {
    let name = &put.workload;
    let mut clock = Clock::new(limit, Prospects::of(client, name).await);
    let topic = Topic::Workload(WorkloadVerb::Status, name.clone());
    let mut shown = Shown::default();
    let mut last = None;
    // Since when the verdict is one that the next look may correct.
    let mut doubtful: Option<(Verdict, Instant)> = None;
    loop {
        let status = match client.ask::<StatusReply>(topic.clone()).await {
            Ok(status) => Some(status),
            // The node that answered may not have heard of it yet.
            Err(error) if exit_of(&error) == Exit::NotFound && last.is_none() => None,
            Err(error) if Instant::now() >= clock.end() => return Err(error),
            // NATS or the answering node may be on its way back.
            Err(_) => None,
        };
        if let Some(status) = status {
            let verdict = judge(&status, put.generation);
            clock.look(status.rollout.as_ref().filter(|_| status.generation == put.generation), Instant::now());
            shown.changes(&status, put, clock.start, context);
            let waited = match doubtful {
                Some((before, since)) if before == verdict => since.elapsed(),
                _ => {
                    doubtful = Some((verdict, Instant::now()));
                    Duration::ZERO
                }
            };
            match verdict {
                Verdict::Ready if put.changed && clock.prospects.has_services && waited < STEADY => last = Some(status),
                Verdict::Blocked if waited < LATE => last = Some(status),
                Verdict::Ready => return Ok(status),
                Verdict::Underway => last = Some(status),
                other => return Err(given_up(&status, put, other).into()),
            }
        }
        let end = clock.end();
        if Instant::now() >= end {
            return Err(too_late(name, last.as_ref(), &clock).into());
        }
        tokio::time::sleep_until((Instant::now() + ASK_EVERY).min(end)).await;
    }
}

/// Why waiting for more is of no use.
fn given_up(status: &StatusReply, put: &PutReply, verdict: Verdict) -> Failure {
    let name = &put.workload;
    let rollout = status.rollout.as_ref();
    let why = rollout.and_then(|rollout| rollout.message.as_deref()).map(plain);
    match verdict {
        Verdict::Paused => {
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            Failure::new(Exit::InProgress, format!("the rollout of {name} is paused{why}"))
                .hint(format!("`lattice rollout resume {name}` goes on, `lattice rollout abort {name}` goes back"))
        }
        Verdict::Stalled => {
            let stable = rollout.map_or_else(String::new, |rollout| rollout.stable.to_string());
            Failure::failed(format!("{name} does not go on: {}", why.unwrap_or_default())).hint(format!(
                "`lattice rollout abort {name}` goes back to generation {stable}; `lattice rollout resume {name}` goes on"
            ))
        }
        Verdict::Aborted => {
            let why = status.aborted.as_ref().map(|aborted| plain(&aborted.reason)).unwrap_or_default();
            Failure::failed(format!("{name}: generation {} was rolled back\n  {why}", put.generation))
                .hint(format!("what ran before runs again; `lattice logs {name}` shows what it wrote"))
        }
        Verdict::Superseded(generation) => {
            let message = format!("{name}: generation {generation} replaced generation {}", put.generation);
            Failure::new(Exit::Conflict, message)
        }
        Verdict::Blocked => match config_reason(status) {
            Some(Condition { reason: Reason::ConfigMissing, message, .. }) => {
                Failure::new(Exit::InProgress, format!("{name} waits for its configuration: {}", plain(message)))
                    .hint("`lattice config put NAME KEY=VALUE` makes it, and the replicas go on by themselves")
            }
            other => {
                let why = other.map(|condition| plain(&condition.message)).unwrap_or_default();
                Failure::failed(format!("{name} can't be given its configuration: {why}"))
                    .hint(format!("change one of them, by `lattice config put`, or the spec of {name}"))
            }
        },
        Verdict::Crashing => Failure::failed(format!("{name} is up, and does not stay up\n  {}", reasons(status)))
            .hint(format!("`lattice logs {name}` shows what it wrote; `lattice rollback {name}` goes back")),
        Verdict::Failed | Verdict::Ready | Verdict::Underway => {
            Failure::failed(format!("{name} failed to start\n  {}", reasons(status)))
                .hint(format!("nodes go on trying; `lattice logs {name}` shows what it wrote"))
        }
    }
}

/// What is known when nobody waits any longer.
fn too_late(name: &WorkloadName, status: Option<&StatusReply>, clock: &Clock) -> Failure {
    let after = clock.limit.unwrap_or_else(|| clock.start.elapsed());
    let after = Millis(after.as_secs().max(1).saturating_mul(1000));
    let follow = format!("`lattice status {name} --watch` follows it");
    let Some(status) = status else {
        let message = format!("{name} is not ready after {after}: no node has reported on it");
        return Failure::new(Exit::InProgress, message).hint(follow);
    };
    let why = reasons(status);
    let Some(rollout) = &status.rollout else {
        let (way, hint) = match is_degraded(status) {
            true => ("", format!("`lattice explain {name}` says which node could take it; {follow}")),
            false => (", and still on its way", follow),
        };
        return Failure::new(Exit::InProgress, format!("{name} is not ready after {after}{way}\n  {why}")).hint(hint);
    };
    let template = status.template.unwrap_or(status.generation);
    let held = rollout.message.as_ref().map_or_else(String::new, |why| format!("\n  {}", plain(why)));
    let message = format!(
        "{name}: the rollout is not over after {after}: {} of {} replicas run generation {template}{held}\n  {why}",
        rollout.updated, status.replicas
    );
    let deadline = Millis(u64::try_from(clock.prospects.deadline.as_millis()).unwrap_or(u64::MAX));
    let end = match clock.prospects.rollback {
        Rollback::Automatic => format!("goes back to generation {} by itself", rollout.stable),
        Rollback::Manual => "stops there".to_owned(),
    };
    Failure::new(Exit::InProgress, message)
        .hint(format!("it goes on; without progress for {deadline} (rollout.deadline) it {end}. {follow}"))
}

/// What was told, so that nothing is told twice.
#[derive(Default)]
struct Shown {
    slots: BTreeMap<u32, String>,
    rollout: Option<String>,
}

impl Shown {
    fn changes(&mut self, status: &StatusReply, put: &PutReply, start: Instant, context: &Context) {
        if status.generation != put.generation {
            return;
        }
        let paint = context.out.note_paint;
        let seconds = start.elapsed().as_secs_f32();
        for slot in &status.slots {
            let text = describe(status, slot, paint);
            if self.slots.get(&slot.replica) != Some(&text) {
                context.out.note(format!("  {seconds:>5.1}s  {}.{} {text}", status.workload, slot.replica));
                self.slots.insert(slot.replica, text);
            }
        }
        let rollout = status.rollout.as_ref().filter(|rollout| rollout.state == RolloutState::Progressing);
        let held = rollout.and_then(|rollout| rollout.message.as_deref()).map(plain);
        if let Some(held) = held.filter(|held| self.rollout.as_ref() != Some(held)) {
            context.out.note(format!("  {seconds:>5.1}s  {} {held}", status.workload));
            self.rollout = Some(held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::{
        ctl::{Refusal, RolloutStatus, WorkloadState},
        id::{NodeId, Revision},
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
            slots_omitted: 0,
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
        let aborted =
            |generation| Some(Aborted { generation: Generation(generation), reason: "no".into(), lost: Vec::new() });
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

    #[test]
    fn what_no_waiting_mends_ends_it() {
        use Phase::{Ready, Starting};
        let missing = |reason| Condition {
            kind: ConditionKind::Ready,
            status: false,
            reason,
            message: "there is no config shop".into(),
            since: None,
        };
        let put = |status: &StatusReply| PutReply {
            workload: status.workload.clone(),
            generation: status.generation,
            revision: Revision(1),
            hash: lattice::id::Digest::of(b""),
            changed: true,
            plan: None,
            plan_omitted: 0,
            composition: None,
            warnings: vec![],
        };
        let mut waits = status(2, 1, vec![slot(0, Some(Starting), 2)]);
        waits.conditions = vec![missing(Reason::ConfigMissing)];
        assert_eq!(judge(&waits, Generation(2)), Verdict::Blocked);
        let failure = given_up(&waits, &put(&waits), Verdict::Blocked);
        assert_eq!(failure.message, "hello waits for its configuration: there is no config shop");
        assert_eq!(failure.exit, Exit::InProgress);
        waits.conditions = vec![missing(Reason::ConfigConflict)];
        assert_eq!(given_up(&waits, &put(&waits), Verdict::Blocked).exit, Exit::Failed);

        let why = Some("pool was started 3 times: it returned".into());
        let crashing = status(2, 1, vec![SlotStatus { crashing: why, ..slot(0, Some(Ready), 2) }]);
        assert_eq!(judge(&crashing, Generation(2)), Verdict::Crashing);
        assert_eq!(
            given_up(&crashing, &put(&crashing), Verdict::Crashing).message,
            "hello is up, and does not stay up\n  replica 0: pool was started 3 times: it returned"
        );
    }

    #[test]
    fn who_has_less_patience_is_told_what_will_become_of_it() {
        let clock = Clock::new(Some(Duration::from_secs(60)), Prospects::default());
        let rollout = RolloutStatus {
            state: RolloutState::Progressing,
            stable: Generation(1),
            below: 2,
            updated: 1,
            step: 0,
            weight: None,
            message: None,
        };
        let mut late = status(2, 2, vec![slot(0, Some(Phase::Ready), 2), slot(1, Some(Phase::Ready), 1)]);
        late.rollout = Some(rollout);
        let failure = too_late(&late.workload, Some(&late), &clock);
        assert_eq!(
            failure.message,
            "hello: the rollout is not over after 1m: 1 of 2 replicas run generation 2\n  \
             replica 1: serving the previous generation on n1"
        );
        let hint = failure.hint.unwrap();
        assert!(hint.contains("for 5m (rollout.deadline) it goes back to generation 1 by itself"), "{hint}");
    }
}
