//! What was denied, counted and told: to the operator in the node's log, to the author in the workload's. Guests can be
//! denied as often as they like, so lines are few.

use crate::{
    lock,
    logs::{LogSink, LogStream},
};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Between two lines of one replica.
const INTERVAL: Duration = Duration::from_secs(10);

pub(crate) struct Denials {
    name: String,
    logs: Arc<dyn LogSink>,
    count: AtomicU64,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    last: Option<Instant>,
    /// Denials since then that were not told.
    more: u64,
}

impl Denials {
    pub(crate) fn new(name: String, logs: Arc<dyn LogSink>) -> Self {
        Self { name, logs, count: AtomicU64::new(0), told: Mutex::default() }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// Count a denial. `what` says what was denied, why, and how it would be allowed.
    pub(crate) fn note(&self, what: impl FnOnce() -> String) {
        self.count.fetch_add(1, Relaxed);
        let now = Instant::now();
        let more = {
            let mut told = lock(&self.told);
            if told.last.is_some_and(|last| now.duration_since(last) < INTERVAL) {
                told.more = told.more.saturating_add(1);
                return;
            }
            told.last = Some(now);
            std::mem::take(&mut told.more)
        };
        let mut line = what();
        if more > 0 {
            line.push_str(&format!(" ({more} more were denied since the last line about it)"));
        }
        tracing::warn!(replica = self.name, "{line}");
        self.logs.line(None, LogStream::Stderr, None, &format!("lattice: {line}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Lines(Mutex<Vec<String>>);
    impl LogSink for Lines {
        fn line(&self, _: Option<u64>, _: LogStream, _: Option<lattice::trace::TraceContext>, line: &str) {
            self.0.lock().unwrap().push(line.to_owned());
        }
    }

    #[test]
    fn many_denials_are_one_line() {
        let lines = Arc::new(Lines::default());
        let denials = Denials::new("shop.0".into(), lines.clone());
        for i in 0..100 {
            denials.note(|| format!("denied {i}"));
        }
        assert_eq!(denials.count(), 100);
        assert_eq!(*lines.0.lock().unwrap(), ["lattice: denied 0"]);
        denials.told.lock().unwrap().last = Instant::now().checked_sub(INTERVAL);
        denials.note(|| "denied again".into());
        assert_eq!(
            lines.0.lock().unwrap().last().unwrap(),
            "lattice: denied again (99 more were denied since the last line about it)"
        );
    }
}
