//! What happened, by virtual time: the last lines for people, and a hash over all of them for comparing two runs.

use std::{collections::VecDeque, fmt, time::Duration};
use tokio::time::Instant;

const LINES_MAX: usize = 400;

#[derive(Clone, Debug)]
pub struct Trace {
    start: Instant,
    lines: VecDeque<String>,
    hash: u64,
}

impl Trace {
    pub(crate) fn new() -> Self {
        // The offset basis of FNV-1a with 64 bits.
        Trace { start: Instant::now(), lines: VecDeque::new(), hash: 0xcbf2_9ce4_8422_2325 }
    }

    pub(crate) fn note(&mut self, text: impl fmt::Display) {
        let line = format!("{:>9.3} s  {text}", self.elapsed().as_secs_f64());
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// The same for two runs in which the same happened.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The last lines.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}
