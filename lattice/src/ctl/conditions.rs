//! Conditions: what is so of a workload as a whole, for programs that decide on it and for people. A pure function of
//! what the status says of each replica, so every node answers the same from the same view.

use super::{RolloutStatus, SlotStatus};
use crate::{
    event::rfc3339,
    id::Generation,
    limits::{MESSAGE_BYTES_MAX, one_line},
    record::{Aborted, Phase, RolloutState},
    spec::ConfigError,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Replicas that a message names.
const NAMED: usize = 3;

/// What is asked of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ConditionKind {
    /// The spec in the store is one that nodes carry out.
    Admitted,
    /// Every replica has a node.
    Placed,
    /// Every replica answers, at the newest generation.
    Ready,
    /// Something is on its way to what was asked.
    Progressing,
    /// Something stands in the way of what was asked.
    Degraded,
    /// The buckets that the spec binds are as it requires, as the server says at this moment. Absent where it requires nothing, or
    /// where the server does not say.
    Bound,
    /// One that this version does not know.
    #[serde(other)]
    Other,
}

impl ConditionKind {
    pub fn as_str(self) -> &'static str {
        match self {
            ConditionKind::Admitted => "Admitted",
            ConditionKind::Placed => "Placed",
            ConditionKind::Ready => "Ready",
            ConditionKind::Progressing => "Progressing",
            ConditionKind::Degraded => "Degraded",
            ConditionKind::Bound => "Bound",
            ConditionKind::Other => "Other",
        }
    }
}

/// Why a condition is as it is. The list is closed within one version; what a newer one says is `Other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Reason {
    /// The spec was taken.
    Accepted,
    /// The newest record of the spec does not parse; the last good one stays in force.
    RecordCorrupt,
    /// No replica is wanted: scaled to none, or no node is there that a daemon is for.
    NothingWanted,
    /// Every replica has a node.
    AllPlaced,
    /// A replica is about to be claimed.
    Claiming,
    /// No node can take a replica: what each one lacks is with the replica.
    NoNodeFits,
    /// A replica is fetched, compiled or warmed up.
    Starting,
    /// A replica serves an older generation while the newest one gets ready.
    Updating,
    /// A replica serves an older generation, and the newest one does not start.
    UpdateFailed,
    /// The newest generation does not come up, and the spec leaves it to people what follows.
    RolloutStalled,
    /// Replicas serve an older generation until somebody says that the rollout goes on.
    RolloutPaused,
    /// A replica does not start. Its node goes on trying.
    ReplicaFailed,
    /// A replica fails again and again, though it may be ready at this moment.
    ReplicaCrashing,
    /// Configuration that the spec names is not there, or can't be put together. Replicas that run keep what they have,
    /// and others don't start.
    ConfigMissing,
    ConfigConflict,
    /// A change was given up, and routes from before it are another workload's now.
    RoutesTaken,
    /// A bucket is no longer as the spec requires. Replicas go on with it as it is.
    BucketUnfit,
    /// A stream is no longer as the spec requires. Replicas go on with it as it is.
    StreamUnfit,
    /// Every replica answers, at the newest generation.
    AllReady,
    /// Nothing stands in the way.
    AsAsked,
    /// One that this version does not know.
    #[serde(other)]
    Other,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Accepted => "Accepted",
            Reason::RecordCorrupt => "RecordCorrupt",
            Reason::NothingWanted => "NothingWanted",
            Reason::AllPlaced => "AllPlaced",
            Reason::Claiming => "Claiming",
            Reason::NoNodeFits => "NoNodeFits",
            Reason::Starting => "Starting",
            Reason::Updating => "Updating",
            Reason::UpdateFailed => "UpdateFailed",
            Reason::RolloutStalled => "RolloutStalled",
            Reason::RolloutPaused => "RolloutPaused",
            Reason::ReplicaFailed => "ReplicaFailed",
            Reason::ReplicaCrashing => "ReplicaCrashing",
            Reason::ConfigMissing => "ConfigMissing",
            Reason::ConfigConflict => "ConfigConflict",
            Reason::RoutesTaken => "RoutesTaken",
            Reason::BucketUnfit => "BucketUnfit",
            Reason::StreamUnfit => "StreamUnfit",
            Reason::AllReady => "AllReady",
            Reason::AsAsked => "AsAsked",
            Reason::Other => "Other",
        }
    }
}

/// One condition of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: ConditionKind,
    pub status: bool,
    pub reason: Reason,
    /// One sentence for people.
    pub message: String,
    /// Since when it is so for this reason: RFC 3339, by the clock of the node that wrote it down. Absent where no record
    /// tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// What conditions are made of.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    pub generation: Generation,
    /// What replicas are to run: [`crate::record::SpecRecord::template`].
    pub template: Generation,
    /// While that is rolled out.
    pub rollout: Option<&'a RolloutStatus>,
    /// Milliseconds since 1970.
    pub admitted_at: u64,
    /// What was given up for this generation.
    pub aborted: Option<&'a Aborted>,
    /// Why the newest record of the spec does not parse, if it does not.
    pub corrupt: Option<&'a str>,
    /// Why the configuration that the spec names can't be used, if it can't.
    pub config: Option<&'a ConfigError>,
    /// Of each replica that is wanted.
    pub slots: &'a [SlotStatus],
}

/// What is the matter with one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Matter {
    /// Nothing: it answers, at the newest generation.
    Ready,
    Of(Reason),
}

/// The conditions of a workload: one of each kind, in the order of [`ConditionKind`].
pub fn conditions(standing: Standing<'_>) -> Vec<Condition> {
    let Standing { template, corrupt, slots, .. } = standing;
    let blocked = standing.config.map(|error| match error {
        ConfigError::Missing(_) | ConfigError::MissingSecret(_) => Reason::ConfigMissing,
        ConfigError::Conflict { .. } => Reason::ConfigConflict,
    });
    let state = standing.rollout.map(|rollout| rollout.state);
    // Replicas from here on are not to change before somebody says so.
    let held_from = standing.rollout.filter(|_| state == Some(RolloutState::Paused)).map(|rollout| rollout.below);
    // A replica that waits for configuration is claimed like any other, and then not started.
    let of_slot = |slot: &SlotStatus| match (matter(slot, template), blocked) {
        (Matter::Of(Reason::Starting | Reason::Updating), Some(blocked)) => Matter::Of(blocked),
        (Matter::Of(Reason::Updating), None) if held_from.is_some_and(|from| slot.replica >= from) => {
            Matter::Of(Reason::RolloutPaused)
        }
        (matter, _) => matter,
    };
    let matters: Vec<(&SlotStatus, Matter)> = slots.iter().map(|slot| (slot, of_slot(slot))).collect();
    // The most telling of some reasons that any replica has.
    let first = |reasons: &[Reason]| {
        let has = |reason: &&Reason| matters.iter().any(|(_, matter)| *matter == Matter::Of(**reason));
        reasons.iter().find(has).copied()
    };
    use Reason::{
        Accepted, AllPlaced, AllReady, AsAsked, Claiming, ConfigConflict, ConfigMissing, NoNodeFits, NothingWanted,
        RecordCorrupt, ReplicaCrashing, ReplicaFailed, RolloutPaused, RolloutStalled, RoutesTaken, Starting,
        UpdateFailed, Updating,
    };
    let settled = |all: Reason| if slots.is_empty() { NothingWanted } else { all };
    let is_open = !slots.is_empty();
    let bad = first(&[ReplicaFailed, NoNodeFits, UpdateFailed, ConfigMissing, ConfigConflict])
        .or((state == Some(RolloutState::Stalled)).then_some(RolloutStalled));
    let paused = (state == Some(RolloutState::Paused) && is_open).then_some(RolloutPaused);
    let is_moving = matches!(state, Some(RolloutState::Progressing | RolloutState::GivingUp));
    let goes_on = (is_moving && is_open).then_some(Updating);
    let moving = first(&[Claiming, Starting, Updating]).or(goes_on);
    let homeless = first(&[NoNodeFits, Claiming]);
    let lacking = bad.or(moving).or(paused);
    // What is ready at the moment, and will not stay so, or not come back as it is.
    let crashing = slots.iter().any(|slot| slot.crashing.is_some()).then_some(ReplicaCrashing);
    let has_lost = standing.aborted.is_some_and(|aborted| !aborted.lost.is_empty());
    let wrong = bad.or(crashing).or(blocked).or(has_lost.then_some(RoutesTaken));
    let found = [
        (ConditionKind::Admitted, corrupt.is_none(), if corrupt.is_none() { Accepted } else { RecordCorrupt }),
        (ConditionKind::Placed, homeless.is_none(), homeless.unwrap_or(settled(AllPlaced))),
        (ConditionKind::Ready, lacking.is_none(), lacking.unwrap_or(settled(AllReady))),
        (ConditionKind::Progressing, moving.is_some(), moving.or(bad).or(paused).unwrap_or(settled(AllReady))),
        (ConditionKind::Degraded, wrong.is_some(), wrong.unwrap_or(AsAsked)),
    ];
    let condition = |(kind, status, reason)| {
        let message = one_line(&message(standing, &matters, reason), MESSAGE_BYTES_MAX);
        Condition { kind, status, reason, message, since: since(standing, &matters, reason) }
    };
    found.into_iter().map(condition).collect()
}

fn matter(slot: &SlotStatus, template: Generation) -> Matter {
    let is_newest = slot.generation == Some(template);
    Matter::Of(match slot.phase {
        None if slot.refused.is_empty() => Reason::Claiming,
        None => Reason::NoNodeFits,
        Some(Phase::Failed) => Reason::ReplicaFailed,
        Some(Phase::Ready) if is_newest => return Matter::Ready,
        // A holder whose new generation fails goes on serving the old one, and says so in the message.
        _ if slot.message.is_some() && !is_newest => Reason::UpdateFailed,
        Some(Phase::Ready) => Reason::Updating,
        Some(Phase::Starting) => Reason::Starting,
    })
}

fn message(standing: Standing<'_>, matters: &[(&SlotStatus, Matter)], reason: Reason) -> String {
    let count = matters.len();
    let generation = standing.generation;
    let of_reason: Vec<&SlotStatus> =
        matters.iter().filter(|(_, matter)| *matter == Matter::Of(reason)).map(|(slot, _)| *slot).collect();
    let named = |what: &dyn Fn(&SlotStatus) -> String| {
        let mut named: Vec<String> =
            of_reason.iter().take(NAMED).map(|slot| format!("replica {}: {}", slot.replica, what(slot))).collect();
        if let Some(more) = of_reason.len().checked_sub(NAMED).filter(|more| *more > 0) {
            named.push(format!("and {more} more"));
        }
        named.join("; ")
    };
    let said = |slot: &SlotStatus| slot.message.clone().unwrap_or_else(|| "no reason was given".into());
    match reason {
        Reason::Accepted => format!("generation {generation}"),
        Reason::RecordCorrupt => {
            let why = standing.corrupt.unwrap_or_default();
            format!("generation {generation} stays in force: the newest record does not parse: {why}")
        }
        Reason::NothingWanted => "no replica is wanted".into(),
        Reason::AllPlaced => format!("{count} of {count} replicas have a node"),
        Reason::AllReady => format!("{count} of {count} replicas answer at generation {generation}"),
        Reason::AsAsked => "nothing stands in the way".into(),
        Reason::ConfigMissing | Reason::ConfigConflict => standing.config.map(ToString::to_string).unwrap_or_default(),
        Reason::Claiming => named(&|_| "a node is about to take it".into()),
        Reason::NoNodeFits => named(&|slot| {
            let refused: Vec<String> = slot
                .refused
                .iter()
                .take(NAMED)
                .map(|refusal| format!("{}: {}", refusal.node, refusal.reason))
                .collect();
            let more = if slot.refused.len() > NAMED { ", …" } else { "" };
            refused.join(", ") + more
        }),
        Reason::Starting => named(&|slot| match (&slot.node, &slot.message) {
            (Some(node), Some(message)) => format!("starts on {node}: {message}"),
            (Some(node), None) => format!("starts on {node}"),
            (None, _) => "starts".into(),
        }),
        Reason::Updating | Reason::RolloutPaused
            if standing.rollout.is_some_and(|rollout| rollout.message.is_some()) =>
        {
            let why = standing.rollout.and_then(|rollout| rollout.message.as_deref()).unwrap_or_default();
            match standing.rollout.map(|rollout| rollout.state) {
                Some(RolloutState::GivingUp) => format!("generation {} is given up: {why}", standing.template),
                _ => format!("{} of {count} replicas run generation {}: {why}", updated(standing), standing.template),
            }
        }
        Reason::RolloutPaused => {
            let updated = updated(standing);
            format!(
                "{updated} of {count} replicas run generation {}; the others wait until somebody resumes it",
                standing.template
            )
        }
        Reason::Updating if of_reason.is_empty() => format!("generation {generation} is rolled out"),
        Reason::RolloutStalled => {
            let why = standing.rollout.and_then(|rollout| rollout.message.as_deref());
            format!("generation {generation} does not go on: {}", why.unwrap_or("no reason is known"))
        }
        Reason::Updating => named(&|slot| {
            let before = slot.generation.map_or_else(String::new, |before| format!(" {before}"));
            format!("serves generation{before} until {generation} is ready")
        }),
        Reason::UpdateFailed | Reason::ReplicaFailed => named(&said),
        Reason::ReplicaCrashing => {
            let of = standing.slots.iter().filter_map(|slot| Some((slot.replica, slot.crashing.as_deref()?)));
            of.take(NAMED).map(|(replica, why)| format!("replica {replica}: {why}")).collect::<Vec<_>>().join("; ")
        }
        Reason::RoutesTaken => {
            let loss = standing.aborted.and_then(Aborted::loss).unwrap_or_default();
            format!(
                "generation {generation} is what ran before, {loss}; put it with other routes, or again once they are free"
            )
        }
        // Said by whoever asked the server.
        Reason::BucketUnfit | Reason::StreamUnfit | Reason::Other => String::new(),
    }
}

fn updated(standing: Standing<'_>) -> u32 {
    standing.rollout.map_or(0, |rollout| rollout.updated)
}

/// When what a reason says began, as far as the records tell.
fn since(standing: Standing<'_>, matters: &[(&SlotStatus, Matter)], reason: Reason) -> Option<String> {
    // All are written by `rfc3339`, whose texts have the order of the times.
    let latest =
        |time: fn(&SlotStatus) -> &Option<String>| matters.iter().filter_map(|(slot, _)| time(slot).clone()).max();
    let earliest_of_reason = || {
        let of_reason = matters.iter().filter(|(_, matter)| *matter == Matter::Of(reason));
        of_reason.filter_map(|(slot, _)| slot.since.clone()).min()
    };
    match reason {
        Reason::Accepted | Reason::NothingWanted | Reason::Updating => Some(rfc3339(standing.admitted_at)),
        Reason::AllPlaced => latest(|slot| &slot.claimed_at),
        Reason::AllReady => latest(|slot| &slot.since),
        Reason::AsAsked if matters.iter().all(|(_, matter)| *matter == Matter::Ready) => latest(|slot| &slot.since),
        Reason::Starting | Reason::ReplicaFailed => earliest_of_reason(),
        Reason::RecordCorrupt
        | Reason::Claiming
        | Reason::NoNodeFits
        | Reason::UpdateFailed
        | Reason::RolloutStalled
        | Reason::RolloutPaused
        | Reason::ReplicaCrashing
        | Reason::ConfigMissing
        | Reason::ConfigConflict
        | Reason::RoutesTaken
        | Reason::BucketUnfit
        | Reason::StreamUnfit
        | Reason::AsAsked
        | Reason::Other => None,
    }
}

#[cfg(test)]
mod tests;
