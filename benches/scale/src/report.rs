//! What the server saw from one moment to the next, on average and in the busiest fifth of a second; and what processes used.

use crate::server::{Server, Traffic, traffic};
use anyhow::{Context as _, Result};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Between two samples of the server's counters.
const SAMPLE: Duration = Duration::from_millis(200);
/// Of the system's clock of processor time, in a second.
const TICKS: f64 = 100.0;

pub(crate) struct Report {
    monitoring: SocketAddr,
    since: Instant,
    before: Traffic,
    peak: Arc<Mutex<Peak>>,
}

/// Messages a second, in the busiest sample since the row began.
#[derive(Debug, Clone, Copy, Default)]
struct Peak {
    to: f64,
    from: f64,
}

impl Report {
    pub(crate) fn new(server: &Server) -> Self {
        println!(
            "| until | s | to the server, messages/s | at most | from it | at most | KiB/s to it | from it | its memory, MiB |"
        );
        println!("|---|---|---|---|---|---|---|---|---|");
        let (monitoring, peak) = (server.monitoring(), Arc::<Mutex<Peak>>::default());
        std::thread::spawn({
            let peak = peak.clone();
            move || sample(monitoring, &peak)
        });
        let before = traffic(monitoring).unwrap_or_default();
        Self { monitoring, since: Instant::now(), before, peak }
    }

    pub(crate) fn begin(&mut self) -> Result<()> {
        (self.since, self.before) = (Instant::now(), traffic(self.monitoring)?);
        *self.peak.lock().unwrap_or_else(PoisonError::into_inner) = Peak::default();
        Ok(())
    }

    pub(crate) fn since(&self) -> Duration {
        self.since.elapsed()
    }

    /// What was since the last row, or since [`Report::begin`].
    pub(crate) fn row(&mut self, what: &str) -> Result<Traffic> {
        let (seconds, now) = (self.since.elapsed().as_secs_f64(), traffic(self.monitoring)?);
        let grown = |of: fn(&Traffic) -> u64| of(&now).saturating_sub(of(&self.before));
        let rate = |of: fn(&Traffic) -> u64| grown(of) as f64 / seconds;
        let Peak { to, from } = *self.peak.lock().unwrap_or_else(PoisonError::into_inner);
        println!(
            "| {what} | {seconds:.1} | {:.0} | {to:.0} | {:.0} | {from:.0} | {:.0} | {:.0} | {} |",
            rate(|traffic| traffic.in_msgs),
            rate(|traffic| traffic.out_msgs),
            rate(|traffic| traffic.in_bytes) / 1024.0,
            rate(|traffic| traffic.out_bytes) / 1024.0,
            now.mem >> 20,
        );
        let grown = Traffic {
            in_msgs: grown(|traffic| traffic.in_msgs),
            out_msgs: grown(|traffic| traffic.out_msgs),
            in_bytes: grown(|traffic| traffic.in_bytes),
            out_bytes: grown(|traffic| traffic.out_bytes),
            mem: now.mem,
        };
        self.begin()?;
        Ok(grown)
    }
}

/// Until the process ends. A server that does not answer is asked again.
fn sample(monitoring: SocketAddr, peak: &Mutex<Peak>) {
    let mut last: Option<(Instant, Traffic)> = None;
    loop {
        std::thread::sleep(SAMPLE);
        let now = traffic(monitoring).ok().map(|now| (Instant::now(), now));
        if let (Some((then, before)), Some((at, now))) = (last, now) {
            let seconds = at.duration_since(then).as_secs_f64();
            // One that was started again begins at zero.
            let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
            let mut peak = peak.lock().unwrap_or_else(PoisonError::into_inner);
            peak.to = peak.to.max(rate(before.in_msgs, now.in_msgs));
            peak.from = peak.from.max(rate(before.out_msgs, now.out_msgs));
        }
        last = now;
    }
}

/// Bytes of a process's memory that are in RAM and not in files.
pub(crate) fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib: Option<u64> = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    kib.unwrap_or(0) << 10
}

/// Time for which a process computed so far.
pub(crate) fn processor_time(process: u32) -> Duration {
    let ticks = || -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
        // After the name, which may have spaces in it, and eleven other fields: in user mode, and in the system.
        let (_, rest) = stat.rsplit_once(')').context("a process has a name")?;
        let mut fields = rest.split_whitespace().skip(11).take(2);
        let mut next = || Ok::<f64, anyhow::Error>(fields.next().context("it has so many fields")?.parse()?);
        Ok(next()? + next()?)
    };
    Duration::from_secs_f64(ticks().unwrap_or(0.0) / TICKS)
}
