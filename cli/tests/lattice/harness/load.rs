//! Requests without a break, to see what callers notice while something is killed.

use super::http;
use std::{
    fmt::Display,
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Between two requests of one worker: many enough to hit every moment, few enough to leave the machine to the nodes.
const PACE: Duration = Duration::from_millis(5);

/// One request and what came of it.
#[derive(Debug, Clone)]
pub struct Sample {
    pub sent: Instant,
    pub answered: Instant,
    /// The node that answered, or why nobody did.
    pub outcome: Result<String, String>,
}

/// Workers that send GETs until they are stopped.
pub struct Load {
    stop: CancellationToken,
    workers: Vec<JoinHandle<Vec<Sample>>>,
}

impl Load {
    /// One worker for each address.
    pub fn start(addresses: impl IntoIterator<Item = String>, host: &str, path: &str) -> Self {
        let stop = CancellationToken::new();
        let worker = |address: String| {
            let (stop, host, path) = (stop.clone(), host.to_owned(), path.to_owned());
            tokio::spawn(async move {
                let mut samples = Vec::new();
                while !stop.is_cancelled() {
                    let sent = Instant::now();
                    let outcome = match http::try_get(&address, &host, &path).await {
                        Ok(answer) if answer.status == 200 => Ok(answer.node().to_owned()),
                        Ok(answer) => Err(format!("{} {}", answer.status, answer.error())),
                        Err(error) => Err(format!("no answer: {error}")),
                    };
                    samples.push(Sample { sent, answered: Instant::now(), outcome });
                    tokio::time::sleep(PACE).await;
                }
                samples
            })
        };
        let workers = addresses.into_iter().map(worker).collect();
        Self { stop, workers }
    }

    /// Stop, and answer with all samples in the order in which they were sent.
    pub async fn stop(self) -> Samples {
        self.stop.cancel();
        let mut samples = Vec::new();
        for worker in self.workers {
            samples.extend(worker.await.unwrap());
        }
        samples.sort_by_key(|sample| sample.sent);
        Samples(samples)
    }
}

#[derive(Debug)]
pub struct Samples(pub Vec<Sample>);

impl Samples {
    pub fn failures(&self) -> impl Iterator<Item = &Sample> {
        self.0.iter().filter(|sample| sample.outcome.is_err())
    }

    /// From the first request that failed to the answer of the last that did.
    pub fn trouble(&self) -> Duration {
        let first = self.failures().map(|sample| sample.sent).min();
        let last = self.failures().map(|sample| sample.answered).max();
        first.zip(last).map_or(Duration::ZERO, |(first, last)| last - first)
    }

    /// The slowest answer, failures included.
    pub fn slowest(&self) -> Duration {
        self.0.iter().map(|sample| sample.answered - sample.sent).max().unwrap_or_default()
    }

    /// One line for people, and reasons with how often each came.
    pub fn report(&self) -> impl Display {
        let mut reasons = std::collections::BTreeMap::<&str, u32>::new();
        for sample in self.failures() {
            *reasons.entry(sample.outcome.as_ref().unwrap_err()).or_default() += 1;
        }
        format!(
            "{} requests, {} failed over {} ms, slowest {} ms, reasons {reasons:?}",
            self.0.len(),
            self.failures().count(),
            self.trouble().as_millis(),
            self.slowest().as_millis()
        )
    }

    #[track_caller]
    pub fn assert_none_failed(&self) {
        assert!(!self.0.is_empty(), "nothing was sent");
        assert_eq!(self.failures().count(), 0, "{}", self.report());
    }
}
