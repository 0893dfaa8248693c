//! `schedule`: when the lattice itself sends a request to a workload.

use super::{
    cron::{Cron, Zone},
    parse::SpecError,
};
use crate::{limits::SCHEDULES_MAX, units::Millis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, time::Duration};

/// A request that the lattice sends to the workload at certain times: `POST`, without a body, to one ready replica on
/// whichever node, exactly once for each tick in the whole lattice. Headers tell the guest which schedule and which tick
/// it is; no client can set them. What a tick means while nodes are lost is in `docs/schedules.md`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ScheduleSpec {
    /// Minute, hour, day of month, month and day of week, such as `*/5 * * * *`; with six fields the first is the second.
    /// Numbers, names (`mon`, `jan`), ranges, lists and steps; or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
    /// Where day of month and day of week are both restricted, either suffices.
    pub cron: Cron,
    /// Time zone of the IANA database, such as `Europe/Berlin`. Default `UTC`. Times of day that a change of the clock
    /// skips fire once at the change, those that it repeats fire the first time; an expression that names every hour goes
    /// by elapsed time.
    #[serde(default, skip_serializing_if = "Zone::is_utc")]
    pub zone: Zone,
    /// Path, perhaps with a query, that the request asks for: `/tick`, `/jobs?name=clean`. Default `/`.
    #[serde(default)]
    pub path: RequestPath,
    /// Longest time until the head of the response. Default: `limits.wall`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Millis>,
}

impl ScheduleSpec {
    /// What tells it from the others of its workload, whatever their order: `*/5 * * * * UTC /tick`.
    pub fn key(&self) -> String {
        format!("{} {} {}", self.cron, self.zone, self.path)
    }

    /// The first tick after a moment; both in milliseconds since 1970.
    pub fn next_after(&self, after_ms: u64) -> Option<u64> {
        self.cron.next_after(&self.zone, after_ms)
    }

    /// Longest time until the head of the response, where the schedule sets one.
    pub fn time_limit(&self) -> Option<Duration> {
        self.timeout.map(Duration::from)
    }
}

/// Path and query of a request.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestPath(http::uri::PathAndQuery);

impl RequestPath {
    pub fn path_and_query(&self) -> &http::uri::PathAndQuery {
        &self.0
    }
}

impl Default for RequestPath {
    fn default() -> Self {
        Self(http::uri::PathAndQuery::from_static("/"))
    }
}

impl FromStr for RequestPath {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a path: one begins with `/`, such as /jobs?name=clean");
        let allowed = |b: u8| b.is_ascii_graphic() && b != b'#';
        if !text.starts_with('/') || text.len() > 1024 || !text.bytes().all(allowed) {
            return Err(bad());
        }
        text.parse().map(Self).map_err(|_| bad())
    }
}

impl fmt::Display for RequestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl fmt::Debug for RequestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

pub(super) fn check(schedules: &[ScheduleSpec]) -> Result<(), SpecError> {
    if schedules.len() > SCHEDULES_MAX {
        return Err(SpecError::new("schedule", format!("at most {SCHEDULES_MAX} schedules are allowed")));
    }
    for (i, schedule) in schedules.iter().enumerate() {
        if schedules.iter().take(i).any(|other| other.key() == schedule.key()) {
            return Err(SpecError::new(format!("schedule[{i}]"), format!("{} is there twice", schedule.key()))
                .hint("give one of them another path: it is how the guest tells them apart"));
        }
        if schedule.timeout.is_some_and(|timeout| timeout.0 == 0) {
            return Err(SpecError::new(format!("schedule[{i}].timeout"), "must be longer than zero"));
        }
    }
    Ok(())
}
