//! Why a replica was started again.

use super::REPORT_TEXT_BYTES_MAX;
use crate::limits::one_line;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Lines of guest output that go with a failure, and bytes of each.
pub const CRASH_LINES_MAX: usize = 5;
pub const CRASH_LINE_BYTES_MAX: usize = 200;

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

impl CrashReport {
    pub(super) fn bound(&mut self) {
        self.error = one_line(&self.error, REPORT_TEXT_BYTES_MAX);
        self.lines.truncate(CRASH_LINES_MAX);
        for line in &mut self.lines {
            *line = one_line(line, CRASH_LINE_BYTES_MAX);
        }
    }
}
