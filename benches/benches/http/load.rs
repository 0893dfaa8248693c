//! One run of wrk, and what the server's process spent on it.

use crate::{cases::Case, servers::Server};
use std::{process::Command, time::Duration};

pub(crate) struct Load {
    pub(crate) connections: u32,
    pub(crate) duration: Duration,
}

/// What one run came to.
pub(crate) struct Run {
    requests: u64,
    took: Duration,
    /// Answers other than 2xx and 3xx, and broken connections.
    pub(crate) errors: u64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// Processor time of the server.
    cpu: Duration,
}

impl Run {
    pub(crate) fn rate(&self) -> f64 {
        self.requests as f64 / self.took.as_secs_f64()
    }

    pub(crate) fn cpu_micros(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.requests.max(1) as f64
    }
}

/// Prints what wrk's own report rounds.
const DONE: &str = r#"done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d\n", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
"#;

impl Load {
    /// What is compiled, mapped or allocated with the first requests is not measured.
    pub(crate) fn warm_up(&self, case: &Case, server: &Server) {
        let _ = Self { duration: Duration::from_secs(1), ..*self }.run(case, server);
    }

    pub(crate) fn run(&self, case: &Case, server: &Server) -> Run {
        let script = tempfile::NamedTempFile::new().expect("a temporary file");
        let mut text = format!("{DONE}wrk.headers[\"Host\"] = \"{}\"\n", server.host);
        if case.body_bytes > 0 {
            text += &format!("wrk.method = \"POST\"\nwrk.body = string.rep(\"x\", {})\n", case.body_bytes);
        }
        std::fs::write(script.path(), text).expect("the script is written");
        let before = server.cpu();
        let output = Command::new("wrk")
            .args(["--threads", "1", "--connections", &self.connections.to_string()])
            .args(["--duration", &format!("{}s", self.duration.as_secs()), "--timeout", "10s"])
            .arg("--script")
            .arg(script.path())
            .arg(format!("http://{}{}", server.address, case.path))
            .output();
        let output = output.unwrap_or_else(|error| panic!("cannot run wrk ({error}): `apt-get install wrk`"));
        let cpu = server.cpu() - before;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find_map(|line| line.strip_prefix("RESULT "));
        let line = line.unwrap_or_else(|| panic!("wrk failed: {text}{}", String::from_utf8_lossy(&output.stderr)));
        let figures: Vec<u64> = line.split(' ').filter_map(|figure| figure.parse().ok()).collect();
        let [requests, took, errors, p50, p99] = figures[..] else { panic!("wrk says {line}") };
        let micros = Duration::from_micros;
        assert!(requests > errors, "{:?} answers no request of {}: {text}", server.kind, case.name);
        Run { requests, took: micros(took), errors, p50: micros(p50), p99: micros(p99), cpu }
    }
}
