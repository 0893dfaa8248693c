//! Which ticks of a workload's schedules are settled. Written by whichever node takes a tick, compare-and-set: only the
//! writer fires it.

use super::{Holder, Record};
use crate::{
    id::Generation,
    limits::{MESSAGE_BYTES_MAX, one_line},
    store::Bucket,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Decided: the ticks of one workload that fire no more. Times are milliseconds since 1970. A tick is known by the time
/// that its schedule names, never by a node's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Ticks {
    /// The life of the workload.
    pub uid: uuid::Uuid,
    /// The generation whose schedules are below. A node that knows an older spec only leaves the record alone.
    pub generation: Generation,
    /// What a schedule that is new starts from at the earliest: nothing of one that was removed and is back fires twice.
    pub floor: u64,
    /// By [`crate::spec::ScheduleSpec::key`].
    pub schedules: BTreeMap<String, Settled>,
}
impl Record for Ticks {
    const BUCKET: Bucket = Bucket::State;
}

/// How far one schedule is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settled {
    /// No tick up to this moment fires any more.
    pub until: u64,
    /// The last tick that a node took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Firing>,
}

/// A tick that a node took for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Firing {
    pub tick: u64,
    pub holder: Holder,
    /// None: taken, perhaps under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// What became of a tick that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// A replica answered with this status.
    Answered(u16),
    /// No replica answered, and why.
    Failed(String),
    /// The node was lost before it said what became of it: it may have run, or not.
    Lost,
}

impl Outcome {
    pub fn failed(why: &str) -> Self {
        Outcome::Failed(one_line(why, MESSAGE_BYTES_MAX))
    }

    /// An answer that is not an error.
    pub fn is_good(&self) -> bool {
        matches!(self, Outcome::Answered(status) if *status < 400)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Outcome::Answered(status) => write!(f, "answered {status}"),
            Outcome::Failed(why) => write!(f, "not answered: {why}"),
            Outcome::Lost => f.write_str("its node was lost"),
        }
    }
}

impl Ticks {
    /// Nothing has fired yet.
    pub fn new(uid: uuid::Uuid) -> Self {
        Self { uid, generation: Generation(0), floor: 0, schedules: BTreeMap::new() }
    }

    /// The latest moment up to which anything is settled.
    pub fn latest(&self) -> u64 {
        self.schedules.values().map(|settled| settled.until).max().unwrap_or_default().max(self.floor)
    }
    /// What is settled by this record or by the one that is there, where that is more than what is there. None as well
    /// where they are of two lives of the workload.
    pub fn ahead_of(&self, there: &Self) -> Option<Self> {
        if self.uid != there.uid {
            return None;
        }
        let (newer, older) = if self.generation > there.generation { (self, there) } else { (there, self) };
        let mut merged = newer.clone();
        merged.floor = merged.floor.max(older.floor);
        for (key, settled) in &older.schedules {
            match merged.schedules.get_mut(key) {
                Some(known) if known.until < settled.until => *known = settled.clone(),
                Some(_) => {}
                // The schedule was removed: should it come back, it begins after what it fired.
                None => merged.floor = merged.floor.max(settled.until),
            }
        }
        (merged != *there).then_some(merged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(generation: u64, floor: u64, schedules: &[(&str, u64)]) -> Ticks {
        let settled = |(key, until): &(&str, u64)| ((*key).to_owned(), Settled { until: *until, last: None });
        let schedules = schedules.iter().map(settled).collect();
        Ticks { floor, schedules, generation: Generation(generation), ..Ticks::new(uuid::Uuid::from_u128(1)) }
    }

    #[test]
    fn of_two_records_each_schedule_keeps_what_is_settled_later() {
        let (here, there) = (ticks(1, 5, &[("a", 10), ("b", 40)]), ticks(1, 7, &[("a", 30), ("b", 20)]));
        let merged = ticks(1, 7, &[("a", 30), ("b", 40)]);
        assert_eq!(here.ahead_of(&there), Some(merged.clone()), "though what is there has a later one");
        assert_eq!(there.ahead_of(&here), Some(merged.clone()));
        for known in [&here, &there, &merged] {
            assert_eq!(known.ahead_of(&merged), None);
        }
    }

    #[test]
    fn the_later_generation_says_which_schedules_there_are() {
        let (old, new) = (ticks(1, 0, &[("a", 50), ("gone", 60)]), ticks(2, 30, &[("a", 30), ("new", 30)]));
        let merged = ticks(2, 60, &[("a", 50), ("new", 30)]);
        assert_eq!(old.ahead_of(&new), Some(merged.clone()), "what the removed one fired is settled if it comes back");
        assert_eq!(new.ahead_of(&old), Some(merged));
        let other = Ticks { uid: uuid::Uuid::from_u128(2), ..new };
        assert_eq!(old.ahead_of(&other), None, "another life of the workload");
    }
}
