//! Why a replica was started again.

use super::{PartState, REPORT_TEXT_BYTES_MAX, SlotReport};
use crate::limits::one_line;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Lines of guest output that go with a failure, and bytes of each.
pub const CRASH_LINES_MAX: usize = 5;
pub const CRASH_LINE_BYTES_MAX: usize = 200;

/// How long ago a failure may be at most, in milliseconds, for its replica to be one that fails again and again: half a minute
/// until it is started again, and a minute in which it stays ready.
const CRASHING_FOR: u64 = 90_000;

/// A replica failed on this node: it did not start, a service of it was given up, or its liveness probe failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct CrashReport {
    /// How often it failed, and so was started again or will be.
    pub restarts: u64,
    /// Why, the last time. One line; a guest may have chosen part of it.
    pub error: String,
    /// Milliseconds since 1970, by the node's clock. For people only.
    pub at: u64,
    /// What its guests printed last before that, oldest first: at most 5 lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<String>,
}

impl SlotReport {
    /// Why the replica fails again and again, if it does: a service of it that ends whenever it is started, or it as a whole.
    /// One failure, or one that is long over, is none. `unix_ms` is the time now.
    pub fn crashing(&self, unix_ms: u64) -> Option<String> {
        let part = self.parts.iter().find(|part| {
            part.restarts > 1 && matches!(part.state, PartState::Restarting | PartState::Starting | PartState::GivenUp)
        });
        let part = part.map(|part| {
            let error = part.last_error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
            format!("{} ended {} times{error}", part.name, part.restarts)
        });
        let whole = || {
            let crash = self.crash.as_ref()?;
            let is_recent = unix_ms.saturating_sub(crash.at) < CRASHING_FOR;
            (is_recent && crash.restarts > 1).then(|| format!("it failed {} times: {}", crash.restarts, crash.error))
        };
        part.or_else(whole)
    }
}

impl CrashReport {
    pub(super) fn bound(&mut self) {
        self.error = one_line(&self.error, REPORT_TEXT_BYTES_MAX);
        self.lines.truncate(CRASH_LINES_MAX);
        for line in &mut self.lines {
            *line = one_line(line, CRASH_LINE_BYTES_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::Generation,
        report::{PartReport, ReportedRole},
    };

    #[test]
    fn once_is_not_again_and_again_and_what_is_over_is_over() {
        let report = || SlotReport::new(uuid::Uuid::nil(), Generation(1));
        let failed = |restarts| {
            let error = "pool gave up".into();
            SlotReport { crash: Some(CrashReport { restarts, error, at: 1_000, lines: vec![] }), ..report() }
        };
        assert_eq!(report().crashing(0), None);
        assert_eq!(failed(1).crashing(1_500), None);
        assert_eq!(failed(2).crashing(1_500).as_deref(), Some("it failed 2 times: pool gave up"));
        assert_eq!(failed(2).crashing(1_000 + CRASHING_FOR), None);
        let part = |state, restarts| PartReport {
            name: "pool".parse().unwrap(),
            role: ReportedRole::Service,
            state,
            instances: 0,
            calls: 0,
            failures: 0,
            restarts,
            last_error: Some("it returned".into()),
        };
        let with = |part| SlotReport { parts: vec![part], ..report() }.crashing(0);
        assert_eq!(with(part(PartState::Restarting, 3)).as_deref(), Some("pool ended 3 times: it returned"));
        assert_eq!(with(part(PartState::Restarting, 1)), None);
        assert_eq!(with(part(PartState::Ready, 3)), None, "it is up again, and may stay so");
    }
}
